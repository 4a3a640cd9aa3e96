//! Network namespaces: entering one, naming one by its inode, finding the processes that live in one.
//!
//! Only the network namespace of a thread is changed (unlike `ip netns exec`, which also mounts a private
//! /sys), so /run and /sys/fs/bpf stay the machine's. Everything in the lab that happens "in a host" goes
//! through [`run_in`]. docs/design.md, "Command line".
#![allow(unsafe_code)] // setns has no safe form in std.

use super::process::Process;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

/// Where `ip netns` keeps its namespaces.
const DIRECTORY: &str = "/run/netns";

/// What tells one network namespace from all others that exist now: device and inode of its nsfs file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NetnsId {
    device: u64,
    /// The inode, part of the names of a daemon's control socket and pin directory.
    pub(super) inode: u64,
}

impl NetnsId {
    /// The namespace with this name.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn of(name: &str) -> Result<Self> {
        let path = path(name);
        Self::at(&path).with_context(|| format!("no network namespace {name} ({})", path.display()))
    }

    fn at(path: &Path) -> io::Result<Self> {
        let file = fs::metadata(path)?;
        Ok(Self {
            device: file.dev(),
            inode: file.ino(),
        })
    }

    /// The processes whose main thread lives in this namespace, this process excepted.
    pub(super) fn processes(self) -> Vec<Process> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != std::process::id())
            .filter(|pid: &u32| {
                Self::at(Path::new(&format!("/proc/{pid}/ns/net"))).is_ok_and(|id| id == self)
            })
            .filter_map(Process::of)
            .collect()
    }
}

/// The names of all namespaces that `ip netns` knows, sorted.
///
/// # Errors
/// If the directory is there but cannot be read.
pub(super) fn names() -> Result<Vec<String>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(format!("cannot list {DIRECTORY}")),
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// Moves the calling thread into a network namespace, for good.
///
/// # Errors
/// If there is no such namespace or this process may not enter it.
pub(super) fn enter(name: &str) -> Result<()> {
    let path = path(name);
    let file = File::open(&path)
        .with_context(|| format!("no network namespace {name} ({})", path.display()))?;
    // SAFETY: setns takes a descriptor, which `file` keeps open, and changes nothing but this thread's
    // network namespace.
    let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    if result != 0 {
        return Err(io::Error::last_os_error())
            .context(format!("cannot enter network namespace {name}"));
    }
    Ok(())
}

/// Runs `work` on a thread of its own inside a network namespace and hands back what it returns. Processes
/// that it starts live in the namespace.
///
/// # Errors
/// If the namespace cannot be entered, or what `work` returns.
pub(super) fn run_in<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                enter(name)?;
                work()
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}
