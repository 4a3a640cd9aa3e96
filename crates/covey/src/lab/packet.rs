//! Frames made by hand, through tc like those of any program, or past it, so past the guard too, as a driver below it would.
//!
//! Used by the lab's leak and flood, and by the scenarios. docs/design.md, "The lab".
#![allow(unsafe_code)] // PACKET_QDISC_BYPASS has no safe form.

use crate::daemon::sys::packet_address;
use crate::host::Interface;
use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read};
use std::os::fd::AsRawFd;

/// No EtherType: a socket that hears nothing.
pub(super) const NOTHING: u16 = 0;

/// A socket for whole frames on one interface. It does not wait.
pub(super) struct PacketSocket(Socket);

impl PacketSocket {
    /// Opens one on an interface of this thread's namespace, which hears the frames of one EtherType.
    ///
    /// # Errors
    /// If there is no such interface, or the kernel refuses.
    pub(super) fn open(interface: &str, ethertype: u16) -> Result<Self> {
        let found =
            Interface::find(interface).context("the kernel does not tell its interfaces")?;
        let index = found
            .with_context(|| format!("there is no interface {interface} here"))?
            .index;
        let open = || {
            let kind = Type::RAW.nonblocking().cloexec();
            let socket = Socket::new(Domain::PACKET, kind, None::<Protocol>)?;
            socket.bind(&packet_address(index, ethertype))?;
            Ok(Self(socket))
        };
        open().map_err(|error: io::Error| {
            anyhow::Error::new(error).context(format!("cannot send frames on {interface}"))
        })
    }

    /// The same, with frames that go past tc.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn past_tc(self) -> Result<Self> {
        go_past_tc(&self.0).context("the kernel does not let frames go past tc")?;
        Ok(self)
    }

    /// Sends a frame as it is.
    ///
    /// # Errors
    /// If the interface is down, or does not take more now.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.send(frame).map(drop)
    }

    /// The next frame that has arrived, if there is one: its length in `buffer`.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        (&self.0).read(buffer).ok()
    }
}

fn go_past_tc(socket: &Socket) -> io::Result<()> {
    let yes: libc::c_int = 1;
    // SAFETY: the value is an int, as long as is said, and the kernel keeps no reference to it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const yes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
