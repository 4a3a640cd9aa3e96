//! The data path in user space: loads the filter, feeds it, and attaches it so that it outlives the daemon.
//!
//! The daemon opens one [`DataPath`] for its interface, programs an [`Image`] whenever the core says so, and
//! prolongs the lease with every heartbeat heard. What the programs do is in `ebpf/` and covey-filter.
//! Specification: docs/design.md, "Data path".
//!
//! ```text
//!   bpffs.rs     where pins live          object.rs     load, or find loaded
//!   programs.rs  fill and read            btf.rs        where the kernel keeps what the filter reads of sockets
//!   counters.rs  what was counted         sys.rs        the unsafe part
//!   hooks.rs     attach, take over
//! ```
//!
//! **A daemon that dies leaves the filter in place.** The attachments are pinned, so cluster traffic still meets
//! the filter; nobody prolongs the lease, so the filter soon takes nothing. The next daemon takes the
//! attachments over; [`DataPath::close`] alone removes them.
//!
//! **A daemon that takes the place of another** has had its own programs and maps [prepared](DataPath::prepare), fills
//! them with the map and the lease that it goes on with, and only then puts them behind the attachments: each packet meets the one filter or the other.
//! Nothing is read as one version that another has written, but what no verdict depends on ([`Tally`]).

mod bpffs;
mod btf;
mod counters;
mod error;
mod hooks;
mod object;
mod programs;
mod sys;

pub use bpffs::{ensure_bpffs, pin_dir};
pub use counters::{Counters, Packets};
pub use error::DataPathError;
pub use object::Tally;
pub use programs::{Commits, Programs};

use covey_proto::datapath::Image;
use hooks::Hooks;
use object::Object;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

/// Below the pin directory: a filter that waits for the daemon that is to use it.
const PREPARED: &str = "next";

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
    /// [Loads](Self::load) the filter with `image` in force and no lease, and [attaches](Loaded::attach) it.
    ///
    /// # Errors
    /// If the kernel refuses, or somebody else's XDP program is there. Then nothing of Covey's stays attached.
    pub fn open(
        interface: &str,
        pin_dir: &Path,
        prefer: Attach,
        image: &Image,
    ) -> Result<Self, DataPathError> {
        Self::load(interface, pin_dir, image)?.attach(prefer)
    }

    /// Loads the filter with `image` in force and no lease, for an interface of this thread's network namespace. What
    /// an earlier daemon left in `pin_dir` (see [`pin_dir()`]) stays as it is.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn load(interface: &str, pin_dir: &Path, image: &Image) -> Result<Loaded, DataPathError> {
        if !sys::interface_exists(interface) {
            return Err(DataPathError::NoInterface(interface.to_owned()));
        }
        ensure_bpffs(pin_dir)?;
        Self::discard_prepared(pin_dir)?;
        Loaded::begin(interface, pin_dir, Object::load(pin_dir, &[])?, image)
    }

    /// Loads the filter for the daemon that is to take the place of the one which uses this directory, and has it go on
    /// with these maps as far as they have the same shape.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn prepare(pin_dir: &Path, go_on: &[Tally]) -> Result<(), DataPathError> {
        Self::discard_prepared(pin_dir)?;
        let left = Object::load(pin_dir, go_on)?.leave(&pin_dir.join(PREPARED));
        if left.is_err() {
            Self::discard_prepared(pin_dir)?;
        }
        left
    }

    /// As [`Self::load`], with the filter that has been [prepared](Self::prepare).
    ///
    /// # Errors
    /// If there is none.
    pub fn prepared(
        interface: &str,
        pin_dir: &Path,
        image: &Image,
    ) -> Result<Loaded, DataPathError> {
        let object = Object::find(&pin_dir.join(PREPARED))?;
        Self::discard_prepared(pin_dir)?;
        Loaded::begin(interface, pin_dir, object, image)
    }

    /// Removes a filter that has been prepared and is not wanted any more, if there is one.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn discard_prepared(pin_dir: &Path) -> Result<(), DataPathError> {
        object::discard(&pin_dir.join(PREPARED))
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
        self.programs.unpin_maps()?;
        Self::discard_prepared(&self.dir)?;
        match std::fs::remove_dir(&self.dir) {
            // Somebody pinned something of his own there.
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
            result => result.map_err(|error| DataPathError::pin(&self.dir, "removed", &error)),
        }
    }
}

/// The filter of one interface, not yet attached.
pub struct Loaded {
    programs: Programs,
    hooks: Hooks,
    dir: PathBuf,
}

impl Loaded {
    fn begin(
        interface: &str,
        pin_dir: &Path,
        object: Object,
        image: &Image,
    ) -> Result<Self, DataPathError> {
        Ok(Self {
            programs: Programs::begin(object, image)?,
            hooks: Hooks::new(interface, pin_dir),
            dir: pin_dir.to_owned(),
        })
    }

    /// Attaches the filter: in the driver if it can and `prefer` wants it, else in the kernel. Takes over what an
    /// earlier daemon left.
    ///
    /// # Errors
    /// If the kernel refuses, or somebody else's XDP program is there. Then nothing of Covey's stays attached.
    pub fn attach(self, prefer: Attach) -> Result<DataPath, DataPathError> {
        let Self {
            mut programs,
            hooks,
            dir,
        } = self;
        let attached = hooks
            .attach(&mut programs, prefer)
            .and_then(|attach| programs.pin_maps(&dir).map(|()| attach));
        match attached {
            Ok(attach) => Ok(DataPath {
                programs,
                hooks,
                attach,
                dir,
            }),
            Err(error) => {
                if let Err(error) = hooks.detach() {
                    tracing::warn!("cleaning up after a failure: {error}");
                }
                Err(error)
            }
        }
    }

    /// Lets the filter begin with this image in force, and with a lease: nanoseconds of CLOCK_MONOTONIC.
    pub fn fill(&mut self, image: &Image, lease_ns: u64) {
        self.programs.fill(image, lease_ns);
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
