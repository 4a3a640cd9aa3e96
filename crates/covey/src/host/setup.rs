//! Makes the machine a host of the cluster, and puts back what it found.
//!
//! The daemon calls [`HostSetup::apply`] when it starts, [`HostSetup::adapt`] when the cluster gets another MAC, and
//! [`HostSetup::undo`] when it leaves. What was there
//! before is left alone by both. A daemon that dies leaves its changes in place: the next one adopts them by the
//! note in /run/covey and still restores the originals. Dropping a `HostSetup` undoes nothing, on purpose.
//! Specification: docs/design.md, "Data path".

use super::netlink::Netlink;
use super::record::{Change, Record};
use super::sysctl::{self, ARP_ANNOUNCE, ARP_IGNORE, DROP_FROM_GROUP};
use super::{Interface, RUN_DIR, network_namespace};
use covey_proto::ids::Mac;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// `lo` has this number in every network namespace.
const LOOPBACK: u32 = 1;

/// What the machine must look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The NIC on the cluster's segment.
    pub interface: String,
    /// The addresses that all hosts share.
    pub vips: Vec<IpAddr>,
    /// The MACs that all hosts share: that of the mode in force, and those that may come or have been.
    pub macs: Vec<Mac>,
}

/// Why the machine could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// There is no such interface.
    #[error("there is no network interface \"{0}\" any more")]
    NoInterface(String),
    /// It is something else than Ethernet.
    #[error("the network interface \"{0}\" is not Ethernet")]
    NotEthernet(String),
    /// There are IPv6 addresses to put on it, and the kernel does not speak IPv6 there.
    #[error(
        "IPv6 is switched off on {0}, and the cluster has IPv6 virtual IPs: \
         switch it on (sysctl -w net.ipv6.conf.{0}.disable_ipv6=0)"
    )]
    NoIpv6(String),
    /// The kernel refused.
    #[error("cannot {action}: {error}{}", advice(.error))]
    Refused {
        /// What was tried.
        action: String,
        /// What the kernel said.
        error: io::Error,
    },
}

fn advice(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        "; Covey needs root or CAP_NET_ADMIN"
    } else {
        ""
    }
}

/// Turns an I/O error into [`SetupError::Refused`].
trait Doing<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, SetupError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, SetupError> {
        self.map_err(|error| SetupError::Refused {
            action: action(),
            error,
        })
    }
}

/// A machine that is set up as a host of the cluster.
#[must_use = "what was changed is put back only by undo()"]
pub struct HostSetup {
    machine: Machine,
    record: Record,
    path: PathBuf,
}

impl HostSetup {
    /// Makes the machine look as planned, and notes what that took in /run/covey. If it does not work out,
    /// everything is put back first.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub fn apply(plan: &Plan) -> Result<Self, SetupError> {
        let namespace = network_namespace().doing(|| "look into /proc".to_owned())?;
        let path = Path::new(RUN_DIR).join(format!("{namespace}-{}.json", plan.interface));
        Self::apply_noting(plan, path)
    }

    /// As [`apply`](Self::apply), with the note in the file `path`.
    ///
    /// # Errors
    /// What could not be done, and why.
    pub fn apply_noting(plan: &Plan, path: PathBuf) -> Result<Self, SetupError> {
        let interface = Interface::find(&plan.interface)
            .doing(|| format!("look at {}", plan.interface))?
            .ok_or_else(|| SetupError::NoInterface(plan.interface.clone()))?;
        let mac = interface
            .mac
            .ok_or_else(|| SetupError::NotEthernet(plan.interface.clone()))?;
        let record = Record::load(&path, interface.index, mac)
            .doing(|| format!("read {}", path.display()))?;
        let machine = Machine {
            netlink: Netlink::open().doing(|| "open a netlink socket".to_owned())?,
            interface: interface.name,
            index: interface.index,
        };
        let mut setup = Self {
            machine,
            record,
            path,
        };
        match setup.bring_about(plan) {
            Ok(()) => Ok(setup),
            Err(error) => {
                setup.undo();
                Err(error)
            }
        }
    }

    /// Makes the machine look as planned now, when something else was planned before.
    ///
    /// # Errors
    /// What could not be done, and why. What could be done stays.
    pub fn adapt(&mut self, plan: &Plan) -> Result<(), SetupError> {
        self.bring_about(plan)
    }

    /// Makes again what somebody else has taken away since. The kernel itself does so: a NIC that is switched off loses
    /// its IPv6 addresses. Cheap if nothing is missing; what cannot be made is logged.
    pub fn renew(&self) {
        for change in &self.record.changes {
            let missing = match change {
                Change::Address(_) | Change::Mac(_) => {
                    self.machine.is_made(change).map(|made| !made)
                }
                // What somebody has set since then, he meant.
                Change::Sysctl { .. } => Ok(false),
            };
            let made = missing.and_then(|missing| match missing {
                true => (self.machine.make(change)).doing(|| format!("bring back {change}")),
                false => Ok(()),
            });
            if let Err(error) = made {
                tracing::warn!("{error}");
            }
        }
    }

    /// Puts everything back that [`apply`](Self::apply), or an earlier daemon that died, changed. What cannot
    /// be put back is logged, and stays in the note for the next try.
    pub fn undo(mut self) {
        let changes = std::mem::take(&mut self.record.changes);
        self.put_back(changes);
        if let Err(error) = self.record.save(&self.path) {
            tracing::warn!("cannot update {}: {error}", self.path.display());
        }
    }

    fn bring_about(&mut self, plan: &Plan) -> Result<(), SetupError> {
        let wanted = self.machine.wanted(plan)?;
        let (still_wanted, stale) = std::mem::take(&mut self.record.changes)
            .into_iter()
            .partition(|noted: &Change| wanted.iter().any(|change| change.concerns(noted)));
        self.record.changes = still_wanted;
        self.put_back(stale);

        let mut missing = Vec::new();
        for change in wanted {
            if self.record.notes(&change) {
                missing.push(change);
            } else if !self.machine.is_made(&change)? {
                self.record.changes.push(change.clone());
                missing.push(change);
            }
        }
        self.record
            .save(&self.path)
            .doing(|| format!("write {}", self.path.display()))?;
        for change in missing {
            self.machine
                .make(&change)
                .doing(|| format!("set up {change}"))?;
        }
        Ok(())
    }

    /// Undoes changes, the last first. Those that resist go back into the record.
    fn put_back(&mut self, changes: Vec<Change>) {
        let mut stuck: Vec<Change> = changes
            .into_iter()
            .rev()
            .filter(|change| match self.machine.unmake(change) {
                Ok(()) => false,
                Err(error) => {
                    tracing::warn!("{change} could not be undone: {error}{}", advice(&error));
                    true
                }
            })
            .collect();
        stuck.reverse();
        self.record.changes.extend(stuck);
    }
}

/// The NIC and the way to change it.
struct Machine {
    netlink: Netlink,
    interface: String,
    index: u32,
}

impl Machine {
    /// What must be so, in the order in which it should come about: the MACs last, so that no frame for the
    /// cluster comes in before the host knows its addresses, and takes it from no group without the filter.
    fn wanted(&self, plan: &Plan) -> Result<Vec<Change>, SetupError> {
        let has_ipv6 = plan.vips.iter().any(IpAddr::is_ipv6);
        if has_ipv6 && !sysctl::has_ipv6(&self.interface) {
            return Err(SetupError::NoIpv6(self.interface.clone()));
        }
        let mut wanted = vec![
            self.wanted_sysctl(ARP_ANNOUNCE, "2")?,
            self.wanted_sysctl(ARP_IGNORE, "0")?,
        ];
        wanted.extend(self.wanted_elsewhere()?);
        let [of_ipv4, of_ipv6] = DROP_FROM_GROUP;
        wanted.push(self.wanted_sysctl(of_ipv4, "1")?);
        if has_ipv6 {
            wanted.push(self.wanted_sysctl(of_ipv6, "1")?);
        }
        wanted.extend(plan.vips.iter().map(|vip| Change::Address(*vip)));
        wanted.extend(plan.macs.iter().map(|mac| Change::Mac(mac.0)));
        Ok(wanted)
    }

    /// What keeps other NICs from telling their own MAC for a virtual IP: where one hangs on the cluster's segment too
    /// (Q197991), clients would come to this host past the filter, all of them. Who has set something there has his own rules.
    fn wanted_elsewhere(&self) -> Result<Vec<Change>, SetupError> {
        let mut wanted = Vec::new();
        for interface in sysctl::others(&self.interface).doing(|| "list interfaces".to_owned())? {
            for (name, value) in [(ARP_ANNOUNCE, "2"), (ARP_IGNORE, "3")] {
                let original = match sysctl::read(&interface, name) {
                    // The interface has gone meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    original => original.doing(|| format!("read {name} of {interface}"))?,
                };
                if original == "0" || original == value {
                    wanted.push(Change::Sysctl {
                        interface: interface.clone(),
                        name: name.to_owned(),
                        original,
                        value: value.to_owned(),
                    });
                }
            }
        }
        Ok(wanted)
    }

    fn wanted_sysctl(&self, name: &str, value: &str) -> Result<Change, SetupError> {
        Ok(Change::Sysctl {
            interface: self.interface.clone(),
            name: name.to_owned(),
            original: self.sysctl(&self.interface, name)?,
            value: value.to_owned(),
        })
    }

    fn sysctl(&self, interface: &str, name: &str) -> Result<String, SetupError> {
        sysctl::read(interface, name).doing(|| format!("read {name} of {interface}"))
    }

    /// The number of the interface that has a virtual IP. The kernel answers ARP for an address of any interface, so
    /// IPv4 lies on `lo`, where nothing is ever announced. It answers neighbour solicitations, and listens to the group
    /// that they are sent to, only for addresses of the interface itself.
    const fn holder(&self, address: &IpAddr) -> u32 {
        match address {
            IpAddr::V4(_) => LOOPBACK,
            IpAddr::V6(_) => self.index,
        }
    }

    fn is_made(&self, change: &Change) -> Result<bool, SetupError> {
        match change {
            Change::Address(address) => self
                .netlink
                .addresses(self.holder(address))
                .map(|all| all.contains(address)),
            Change::Mac(mac) => self.netlink.has_mac(self.index, Mac(*mac)),
            Change::Sysctl {
                original, value, ..
            } => Ok(original == value),
        }
        .doing(|| format!("look for {change}"))
    }

    fn make(&self, change: &Change) -> io::Result<()> {
        match change {
            Change::Address(address) => or_if(
                self.netlink.add_address(self.holder(address), *address),
                &[libc::EEXIST],
            ),
            Change::Mac(mac) => or_if(self.netlink.add_mac(self.index, Mac(*mac)), &[libc::EEXIST]),
            Change::Sysctl {
                interface,
                name,
                value,
                ..
            } => or_if(sysctl::write(interface, name, value), &[libc::ENOENT]),
        }
    }

    fn unmake(&self, change: &Change) -> io::Result<()> {
        match change {
            Change::Address(address) => or_if(
                self.netlink.delete_address(self.holder(address), *address),
                &[libc::EADDRNOTAVAIL, libc::ENODEV],
            ),
            Change::Mac(mac) => or_if(
                self.netlink.delete_mac(self.index, Mac(*mac)),
                &[libc::ENOENT, libc::ENODEV],
            ),
            Change::Sysctl {
                interface,
                name,
                original,
                value,
            } => {
                // Somebody who set another value since then meant it.
                match sysctl::read(interface, name) {
                    Ok(now) if now == *value => sysctl::write(interface, name, original),
                    Ok(_) => Ok(()),
                    // The interface is gone, and its settings with it.
                    Err(error) => or_if(Err(error), &[libc::ENOENT]),
                }
            }
        }
    }
}

/// The result, but these kernel errors mean that things are already as they should be.
fn or_if(result: io::Result<()>, fine: &[i32]) -> io::Result<()> {
    result.or_else(|error| match error.raw_os_error() {
        Some(code) if fine.contains(&code) => Ok(()),
        _ => Err(error),
    })
}
