//! Threads that live in a network namespace of the lab, so that tests use plain sockets as its client would.
//!
//! Only the thread that enters is moved; threads that it starts live where it does. Called by the probes and by
//! [`crate::lab`]. docs/design.md, "Tests".
#![allow(unsafe_code)] // setns has no safe form in std.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

/// Where `ip netns` keeps a namespace.
pub(crate) fn path(namespace: &str) -> PathBuf {
    PathBuf::from(format!("/run/netns/{namespace}"))
}

/// Starts `work` on a thread of its own in a namespace.
pub(crate) fn spawn_in<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let path = path(namespace);
    thread::spawn(move || {
        let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        // SAFETY: setns takes a descriptor, which `file` keeps open, and changes nothing but this thread's
        // network namespace.
        let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "setns: {}", io::Error::last_os_error());
        work()
    })
}

/// Does `work` in a namespace and hands back what it returns; a panic in it goes on here.
pub(crate) fn inside<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    join(spawn_in(namespace, work))
}

/// The thread's result; a panic in it goes on here.
pub(crate) fn join<T>(thread: JoinHandle<T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
