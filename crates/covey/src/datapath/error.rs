//! What can go wrong with the data path, as sentences: what, where, what to do. Verifier logs are for us, so
//! they go to the debug log and not into the sentence. Specification: docs/design.md, "Data path".

use aya::EbpfError;
use aya::programs::ProgramError;
use std::io;
use std::path::{Path, PathBuf};

/// Why the data path cannot be opened, changed or closed.
#[derive(Debug, thiserror::Error)]
pub enum DataPathError {
    /// No such interface in this network namespace.
    #[error(
        "there is no interface {0:?} in this network namespace; `ip link` lists those that there are"
    )]
    NoInterface(String),
    /// The object in the binary is not what it should be.
    #[error("the filter in this binary is unusable ({0}); build it again with `cargo xtask build`")]
    Object(String),
    /// The kernel took the maps but not a program, or not even the maps.
    #[error(
        "the kernel does not load {what}: {source}; it must be Linux 5.18 or later, and the daemon needs \
         CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (or root)"
    )]
    Load {
        /// The program or map.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// Somebody else's XDP program is there.
    #[error(
        "{interface} already has an XDP program that is not Covey's; `ip link show {interface}` tells its \
         number, and `ip link set {interface} xdp off` removes it"
    )]
    Occupied {
        /// The interface.
        interface: String,
    },
    /// A program cannot be attached.
    #[error("{program} cannot be attached to {interface}: {source}")]
    Attach {
        /// The program.
        program: &'static str,
        /// The interface.
        interface: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// There is no BPF file system where the pins should go.
    #[error(
        "{path} must lie on a BPF file system, and it does not: {source}; mount one with \
         `mount -t bpf bpf /sys/fs/bpf`"
    )]
    Bpffs {
        /// The pin directory.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// A pin cannot be made or removed.
    #[error("the pin {path} cannot be {action}: {source}")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// `made`, `read`, `used`, `detached` or `removed`.
        action: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// Counters cannot be read.
    #[error("the filter's counters cannot be read: {0}")]
    Counters(io::Error),
}

impl DataPathError {
    pub(super) fn object(error: &EbpfError) -> Self {
        match os_error(error) {
            Some(source) => Self::Load {
                what: "the filter's maps",
                source,
            },
            None => Self::Object(error.to_string()),
        }
    }

    pub(super) fn program(program: &'static str, error: &ProgramError) -> Self {
        if let ProgramError::LoadError { verifier_log, .. } = error {
            tracing::debug!(program, %verifier_log, "the verifier refused a program");
        }
        match os_error(error) {
            Some(source) => Self::Load {
                what: program,
                source,
            },
            None => Self::Object(error.to_string()),
        }
    }

    pub(super) fn pin(
        path: &Path,
        action: &'static str,
        error: &(dyn std::error::Error + 'static),
    ) -> Self {
        Self::Pin {
            path: path.to_owned(),
            action,
            source: os_error(error).unwrap_or_else(|| io::Error::other(error.to_string())),
        }
    }

    pub(super) fn attach(program: &'static str, interface: &str, source: io::Error) -> Self {
        let interface = interface.to_owned();
        if occupied(&source) {
            Self::Occupied { interface }
        } else {
            Self::Attach {
                program,
                interface,
                source,
            }
        }
    }
}

/// Whether the kernel says that another XDP program is in the way.
pub(super) fn occupied(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

/// What the kernel answered, somewhere down the chain of causes.
pub(super) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<io::Error> {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .find_map(|error| error.raw_os_error().map(io::Error::from_raw_os_error))
}
