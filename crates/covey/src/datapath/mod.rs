//! The data path in user space: loads the filter, feeds it, and attaches it so that it outlives the daemon.
//!
//! The daemon opens one [`DataPath`] for its interface, programs an [`Image`] whenever the core says so, and
//! prolongs the lease with every heartbeat heard. What the programs do is in `ebpf/` and covey-filter.
//! Specification: docs/design.md, "Data path".
//!
//! ```text
//!   bpffs.rs     where pins live          programs.rs   load, fill and read
//!   hooks.rs     attach, take over        btf.rs        where the kernel keeps what the filter reads of sockets
//!   counters.rs  what was counted         sys.rs        the unsafe part
//! ```
//!
//! **A daemon that dies leaves the filter in place.** The attachments are pinned, so cluster traffic still meets
//! the filter; nobody prolongs the lease, so the filter soon takes nothing. The next daemon takes the
//! attachments over; [`DataPath::close`] alone removes them.

mod bpffs;
mod btf;
mod counters;
mod error;
mod hooks;
mod programs;
mod sys;

pub use bpffs::{ensure_bpffs, pin_dir};
pub use counters::{Counters, Packets};
pub use error::DataPathError;
pub use programs::{Commits, Programs};

use covey_proto::datapath::Image;
use hooks::Hooks;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

/// Where XDP runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// In the driver, before there is an skb.
    Native,
    /// In the kernel, for every driver, at a higher cost per packet.
    Generic,
}

impl std::fmt::Display for Attach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// The filter of one interface, attached; fed as its [`Programs`] are.
pub struct DataPath {
    programs: Programs,
    hooks: Hooks,
    attach: Attach,
    dir: PathBuf,
}

impl DataPath {
    /// Loads the filter with `image` in force and no lease, and attaches it to an interface of this thread's
    /// network namespace: in the driver if it can and `prefer` wants it, else in the kernel. Takes over what
    /// an earlier daemon left in `pin_dir` (see [`pin_dir()`]).
    ///
    /// # Errors
    /// If the kernel refuses, or somebody else's XDP program is there. Then nothing of Covey's stays attached.
    pub fn open(
        interface: &str,
        pin_dir: &Path,
        prefer: Attach,
        image: &Image,
    ) -> Result<Self, DataPathError> {
        if !sys::interface_exists(interface) {
            return Err(DataPathError::NoInterface(interface.to_owned()));
        }
        ensure_bpffs(pin_dir)?;
        let mut programs = Programs::load(image)?;
        let hooks = Hooks::new(interface, pin_dir);
        let attached = hooks
            .attach(&mut programs, prefer)
            .and_then(|attach| programs.pin_maps(pin_dir).map(|()| attach));
        match attached {
            Ok(attach) => Ok(Self {
                programs,
                hooks,
                attach,
                dir: pin_dir.to_owned(),
            }),
            Err(error) => {
                if let Err(error) = hooks.detach() {
                    tracing::warn!("cleaning up after a failure: {error}");
                }
                Err(error)
            }
        }
    }

    /// Where XDP runs.
    pub fn attach(&self) -> Attach {
        self.attach
    }

    /// Detaches everything and removes the pins.
    ///
    /// # Errors
    /// If the kernel refuses; what could be removed is gone.
    pub fn close(self) -> Result<(), DataPathError> {
        self.hooks.detach()?;
        self.programs.unpin_maps(&self.dir)?;
        match std::fs::remove_dir(&self.dir) {
            // Somebody pinned something of his own there.
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
            result => result.map_err(|error| DataPathError::pin(&self.dir, "removed", &error)),
        }
    }
}

impl Deref for DataPath {
    type Target = Programs;

    fn deref(&self) -> &Programs {
        &self.programs
    }
}

impl DerefMut for DataPath {
    fn deref_mut(&mut self) -> &mut Programs {
        &mut self.programs
    }
}
