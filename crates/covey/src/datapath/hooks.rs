//! Attaching the programs to an interface so that they outlive the daemon, and taking over from a daemon that
//! died. Used by [`DataPath`](super::DataPath) alone. Specification: docs/design.md, "Data path".
//!
//! XDP and TCX attachments are BPF links, pinned under these names in the pin directory:
//!
//! ```text
//!   ingress-native | ingress-generic   covey_ingress; the name tells the mode
//!   promote                            covey_promote, with native XDP
//!   guard                              covey_guard
//! ```
//!
//! A link found there gets the new program in one step, so there is no moment without a filter. Where that
//! cannot be (other mode, interface gone and back), the old link goes before the new one comes, and in between
//! the kernel by itself ignores frames to the cluster MAC. Kernels before 6.6 have no TCX; there the tc programs
//! are filters of the clsact qdisc, which need no pin to stay.

use super::programs::{Programs, unpin};
use super::{Attach, DataPathError, error, sys};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode, tc};
use std::io;
use std::path::{Path, PathBuf};

/// The attachments of one interface.
pub(super) struct Hooks {
    interface: String,
    dir: PathBuf,
}

/// A tc program and its place.
struct Traffic {
    program: &'static str,
    pin: &'static str,
    side: TcAttachType,
}

const GUARD: Traffic = Traffic {
    program: "covey_guard",
    pin: "guard",
    side: TcAttachType::Egress,
};

const PROMOTE: Traffic = Traffic {
    program: "covey_promote",
    pin: "promote",
    side: TcAttachType::Ingress,
};

impl Hooks {
    pub(super) fn new(interface: &str, dir: &Path) -> Self {
        Self {
            interface: interface.to_owned(),
            dir: dir.to_owned(),
        }
    }

    /// Attaches all programs, in place of those of an earlier daemon. The guard comes first, so that nothing
    /// leaks while the rest follows. Returns the mode of XDP.
    pub(super) fn attach(
        &self,
        programs: &mut Programs,
        prefer: Attach,
    ) -> Result<Attach, DataPathError> {
        self.traffic(programs.guard(), &GUARD)?;
        let attach = self.ingress(programs.ingress(), prefer)?;
        match attach {
            Attach::Native => self.traffic(programs.promote(), &PROMOTE)?,
            Attach::Generic => self.remove_traffic(&PROMOTE)?,
        }
        Ok(attach)
    }

    /// Detaches all that is attached; the filter first, because the guard must outlive the last answer.
    pub(super) fn detach(&self) -> Result<(), DataPathError> {
        remove(&self.ingress_pin(Attach::Native))?;
        remove(&self.ingress_pin(Attach::Generic))?;
        self.remove_traffic(&PROMOTE)?;
        self.remove_traffic(&GUARD)
    }

    fn ingress(&self, program: &mut Xdp, prefer: Attach) -> Result<Attach, DataPathError> {
        // The kernel does not run both modes on one interface.
        remove(&self.ingress_pin(match prefer {
            Attach::Native => Attach::Generic,
            Attach::Generic => Attach::Native,
        }))?;
        match self.ingress_as(program, prefer) {
            Ok(()) => Ok(prefer),
            Err(error) if prefer == Attach::Native && !error::occupied(&error) => {
                tracing::info!(
                    interface = self.interface,
                    "the driver does not run XDP itself ({error}), so the kernel does, \
                     which costs more per packet"
                );
                self.ingress_as(program, Attach::Generic)
                    .map(|()| Attach::Generic)
            }
            Err(error) => Err(error),
        }
        .map_err(|error| DataPathError::attach("covey_ingress", &self.interface, error))
    }

    fn ingress_as(&self, program: &mut Xdp, mode: Attach) -> io::Result<()> {
        let flags = match mode {
            Attach::Native => XdpMode::Driver,
            Attach::Generic => XdpMode::Skb,
        };
        place(
            program,
            &self.ingress_pin(mode),
            |program, link| {
                let link = XdpLink::try_from(link).map_err(plain)?;
                let id = program.attach_to_link(link).map_err(plain)?;
                // The pin holds the link, so this descriptor may go.
                program.take_link(id).map(drop).map_err(plain)
            },
            |program| {
                let id = program.attach(&self.interface, flags).map_err(plain)?;
                FdLink::try_from(program.take_link(id).map_err(plain)?).map_err(plain)
            },
        )
    }

    fn ingress_pin(&self, mode: Attach) -> PathBuf {
        self.dir.join(match mode {
            Attach::Native => "ingress-native",
            Attach::Generic => "ingress-generic",
        })
    }

    fn traffic(&self, program: &mut SchedClassifier, hook: &Traffic) -> Result<(), DataPathError> {
        match self.tcx(program, hook) {
            // The answer of a kernel that does not know TCX.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.clsact(program, hook),
            result => result,
        }
        .map_err(|error| DataPathError::attach(hook.program, &self.interface, error))
    }

    fn tcx(&self, program: &mut SchedClassifier, hook: &Traffic) -> io::Result<()> {
        place(
            program,
            &self.dir.join(hook.pin),
            |program, link| {
                let link = SchedClassifierLink::try_from(link).map_err(plain)?;
                let id = program.attach_to_link(link).map_err(plain)?;
                program.take_link(id).map(drop).map_err(plain)
            },
            |program| {
                let order = TcAttachOptions::TcxOrder(LinkOrder::default());
                let id = program
                    .attach_with_options(&self.interface, hook.side, order)
                    .map_err(plain)?;
                FdLink::try_from(program.take_link(id).map_err(plain)?).map_err(plain)
            },
        )
    }

    fn clsact(&self, program: &mut SchedClassifier, hook: &Traffic) -> io::Result<()> {
        self.remove_clsact(hook)?;
        match tc::qdisc_add_clsact(&self.interface).map_err(plain) {
            Err(error) if !error::occupied(&error) => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let options = TcAttachOptions::Netlink(NlOptions::default());
        let id = program
            .attach_with_options(&self.interface, hook.side, options)
            .map_err(plain)?;
        // Dropping it would remove the filter, which is to outlive this process.
        std::mem::forget(program.take_link(id).map_err(plain)?);
        Ok(())
    }

    fn remove_traffic(&self, hook: &Traffic) -> Result<(), DataPathError> {
        remove(&self.dir.join(hook.pin))?;
        self.remove_clsact(hook)
            .map_err(|error| DataPathError::attach(hook.program, &self.interface, error))
    }

    /// Removes our filter from the clsact qdisc, if there is one. The qdisc stays: others may use it.
    fn remove_clsact(&self, hook: &Traffic) -> io::Result<()> {
        match tc::qdisc_detach_program(&self.interface, hook.side, hook.program) {
            // No such filter, or no such interface any more.
            Ok(()) | Err(TcError::IoError(_)) => Ok(()),
            Err(error) => Err(plain(error)),
        }
    }
}

/// Makes a program the one behind the link pinned at `pin`: by replacing the program of the link that is there,
/// or else by attaching anew.
fn place<P>(
    program: &mut P,
    pin: &Path,
    replace: impl FnOnce(&mut P, FdLink) -> io::Result<()>,
    attach: impl FnOnce(&mut P) -> io::Result<FdLink>,
) -> io::Result<()> {
    if let Ok(earlier) = PinnedLink::from_pin(pin) {
        match replace(program, earlier.into()) {
            Ok(()) => return Ok(()),
            Err(error) => tracing::debug!(
                pin = %pin.display(),
                %error,
                "a link of an earlier daemon cannot be taken over"
            ),
        }
        remove(pin).map_err(plain)?;
    }
    attach(program)?.pin(pin).map(drop).map_err(plain)
}

/// Detaches the link pinned at `pin`, if there is one, and removes the pin.
fn remove(pin: &Path) -> Result<(), DataPathError> {
    match sys::detach_link(pin) {
        // Its interface has gone, and taken it along.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(DataPathError::pin(pin, "detached", &error));
        }
        Ok(()) | Err(_) => {}
    }
    unpin(pin)
}

/// What the kernel said; aya wraps it in several layers.
fn plain(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    error::os_error(&error).unwrap_or_else(|| io::Error::other(error))
}

#[cfg(test)]
mod tests;
