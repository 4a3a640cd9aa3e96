//! The note of what Covey changed on the machine, so that a daemon that crashed can still be cleaned up after.
//!
//! One small JSON file per network namespace and interface in /run/covey. It is written *before* a change is
//! made: after a crash it may name a change that was not made, which is harmless to undo, but never misses one.
//! Used only by [`super::setup`]. Specification: docs/design.md, "Data path".

use covey_proto::ids::Mac;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

/// One thing that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Change {
    /// This address was added, with a prefix that covers nothing else: IPv4 on `lo`, IPv6 on the NIC.
    Address(IpAddr),
    /// This MAC was added to those that the NIC takes frames for.
    Mac([u8; 6]),
    /// `net.ipv4.conf.INTERFACE.NAME` was set, or of IPv6 if the name begins so (`ipv6/`).
    Sysctl {
        interface: String,
        name: String,
        original: String,
        value: String,
    },
}

impl Change {
    /// Whether both are about the same thing on the machine, whatever its value was before.
    pub(super) fn concerns(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Sysctl {
                    interface, name, ..
                },
                Self::Sysctl {
                    interface: other_interface,
                    name: other_name,
                    ..
                },
            ) => (interface, name) == (other_interface, other_name),
            _ => self == other,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address @ IpAddr::V4(_)) => write!(f, "virtual IP {address} on lo"),
            Self::Address(address @ IpAddr::V6(_)) => write!(f, "virtual IP {address} on the NIC"),
            Self::Mac(mac) => write!(f, "cluster MAC {}", Mac(*mac)),
            Self::Sysctl {
                interface,
                name,
                value,
                ..
            } => {
                let (family, name) = name.split_once('/').unwrap_or(("ipv4", name));
                write!(f, "net.{family}.conf.{interface}.{name} = {value}")
            }
        }
    }
}

/// Everything changed for one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The NIC's number and own MAC. Numbers of namespaces come again; a note with another NIC in it was left
    /// by a namespace that is gone, and all its changes with it.
    pub(super) index: u32,
    pub(super) mac: [u8; 6],
    /// In the order in which they were made.
    pub(super) changes: Vec<Change>,
}

impl Record {
    /// What an earlier daemon noted for this very NIC, or an empty record.
    pub(super) fn load(path: &Path, index: u32, mac: Mac) -> io::Result<Self> {
        let fresh = Self {
            index,
            mac: mac.0,
            changes: Vec::new(),
        };
        match fs::read(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)
                .ok()
                .filter(|found: &Self| (found.index, found.mac) == (index, mac.0))
                .unwrap_or(fresh)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(fresh),
            Err(error) => Err(error),
        }
    }

    /// Whether Covey has this to undo already.
    pub(super) fn notes(&self, change: &Change) -> bool {
        self.changes.iter().any(|noted| noted.concerns(change))
    }

    /// Writes the note, or removes it when nothing is changed any more. The file is never half written.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        if self.changes.is_empty() {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let unfinished = path.with_extension("new");
        fs::write(&unfinished, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&unfinished, path)
    }
}
