//! Tells the daemon when something about a link has changed: carrier gone, carrier back.
//!
//! The kernel multicasts every change of every link; what exactly changed is looked up afterwards with
//! [`crate::host::Interface::find`], so a lost notice costs nothing.

use super::sys;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use std::io;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// rtnetlink's group of link changes, as a bit (RTMGRP_LINK).
const LINK_CHANGES: u32 = 1;

/// A subscription to link changes, in the network namespace of the thread that opened it.
pub(super) struct LinkWatch(AsyncFd<Socket>);

impl LinkWatch {
    /// Subscribes. Must be called in a tokio runtime.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        socket.bind(&SocketAddr::new(0, LINK_CHANGES))?;
        sys::watch(socket).map(Self)
    }

    /// Waits for a change, and takes all notices of changes so far. Safe to cancel: no notice is lost without
    /// an answer.
    pub(super) async fn changed(&self) -> io::Result<()> {
        self.0.readable().await?.retain_ready();
        let mut notice = Vec::with_capacity(4096);
        loop {
            notice.clear();
            match self
                .0
                .try_io(Interest::READABLE, |socket| socket.recv(&mut notice, 0))
            {
                Ok(_) => {}
                // More changes at once than the socket holds: that too means that something changed.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
