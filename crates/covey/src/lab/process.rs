//! Processes that must not be mistaken for others: a PID together with its start time.
//!
//! The lab starts daemons that outlive the command that started them, writes down who they are, and signals
//! them later. A PID alone may by then belong to somebody else, so a signal goes through a pidfd, after
//! the start time has been compared: once the descriptor is open, the kernel does not reuse what it means.
//! docs/design.md, "Command line".
#![allow(unsafe_code)] // pidfds, prctl and limits have no safe form in std.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long the kernel may take to end a process.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// A process, by PID and start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Process {
    /// Its process ID.
    pub(super) pid: u32,
    /// When it started, in clock ticks since boot (field 22 of /proc/PID/stat).
    started: u64,
}

/// What a process is doing, as far as the lab cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It runs or sleeps.
    Alive,
    /// SIGSTOP holds it.
    Stopped,
    /// It has ended; perhaps its PID is somebody else's now.
    Gone,
}

/// The signals that the lab sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGKILL
    Kill,
    /// SIGSTOP
    Stop,
    /// SIGCONT
    Continue,
}

impl Process {
    /// The process that has this PID now, if it has not ended.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let (condition, started) = read_stat(pid)?;
        (condition != Condition::Gone).then_some(Self { pid, started })
    }

    /// Starts a program that goes on when this process ends: no standard input, output appended to `log`, and a
    /// process group of its own, so that Ctrl-C at this terminal does not reach it.
    ///
    /// # Errors
    /// If the log cannot be opened or the program not be started.
    pub(super) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open the log {}", log.display()))?;
        let errors = output
            .try_clone()
            .context("cannot duplicate the log's descriptor")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let pid = child.id();
        // Nobody else can have the PID before this process has waited for it, which it never does.
        let (_, started) =
            read_stat(pid).with_context(|| format!("cannot read /proc/{pid}/stat"))?;
        Ok(Self { pid, started })
    }

    /// What it is doing. A zombie is gone: it does nothing any more, whoever has yet to wait for it.
    pub(super) fn condition(self) -> Condition {
        match read_stat(self.pid) {
            Some((condition, started)) if started == self.started => condition,
            Some(_) | None => Condition::Gone,
        }
    }

    /// Sends a signal; does nothing if the process is gone.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn signal(self, signal: Signal) -> Result<()> {
        match self.open()? {
            Some(handle) => self.send(&handle, signal),
            None => Ok(()),
        }
    }

    /// Kills it and returns when it has ended.
    ///
    /// # Errors
    /// If the kernel refuses, or it has not ended after a minute.
    pub(super) fn kill(self) -> Result<()> {
        kill_all(&[self])
    }

    /// A descriptor of this very process; none if it is gone.
    fn open(self) -> Result<Option<OwnedFd>> {
        // SAFETY: pidfd_open takes two integers; a non-negative result is a new descriptor, ours alone.
        let handle = unsafe {
            match libc::syscall(libc::SYS_pidfd_open, self.pid, 0) {
                fd if fd >= 0 => OwnedFd::from_raw_fd(fd as i32),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.raw_os_error() == Some(libc::ESRCH) {
                        return Ok(None);
                    }
                    return Err(error).context(format!("cannot get hold of process {self}"));
                }
            }
        };
        Ok((self.condition() != Condition::Gone).then_some(handle))
    }

    fn send(self, handle: &OwnedFd, signal: Signal) -> Result<()> {
        let number = match signal {
            Signal::Kill => libc::SIGKILL,
            Signal::Stop => libc::SIGSTOP,
            Signal::Continue => libc::SIGCONT,
        };
        // SAFETY: the descriptor is open for the length of the call; a null siginfo is allowed.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                handle.as_raw_fd(),
                number,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ESRCH) {
            return Ok(());
        }
        Err(error).context(format!("cannot send {signal:?} to process {self}"))
    }
}

/// Kills processes and returns when all of them have ended. All are killed before any is waited for: a daemon that
/// ends gives its part of the kernel back, which takes the kernel a while, but no longer for many than for one.
///
/// # Errors
/// If the kernel refuses, or one has not ended after a minute.
pub(super) fn kill_all(processes: &[Process]) -> Result<()> {
    let mut ending = Vec::new();
    for process in processes {
        if let Some(handle) = process.open()? {
            process.send(&handle, Signal::Kill)?;
            ending.push((process, handle));
        }
    }
    let deadline = Instant::now() + END_PATIENCE;
    for (process, handle) in ending {
        if !wait_readable(&handle, deadline.saturating_duration_since(Instant::now()))? {
            bail!(
                "process {process} has not ended {} s after SIGKILL",
                END_PATIENCE.as_secs()
            );
        }
    }
    Ok(())
}

/// Lets a helper die with this process, so that nothing goes on building a lab whose builder was killed.
pub(super) fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes one system call, which is async-signal-safe, and touches
    // no memory.
    unsafe {
        command.pre_exec(
            || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            },
        );
    }
}

/// Lets this process have as many files open, sockets included, as it may have at all. What is set for a terminal
/// is often 1024.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn allow_open_files() -> Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is valid for both calls.
    let done = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if done {
        return Ok(());
    }
    Err(io::Error::last_os_error()).context("the limit of open files cannot be raised")
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.pid)
    }
}

/// Waits until a pidfd is readable, that is, its process has ended. False after `timeout`.
fn wait_readable(handle: &OwnedFd, timeout: Duration) -> Result<bool> {
    let mut poll = libc::pollfd {
        fd: handle.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one pollfd is passed and its address is valid for the length of the call.
    match unsafe { libc::poll(&mut poll, 1, millis) } {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(io::Error::last_os_error()).context("cannot wait for the end of a process"),
    }
}

/// Condition and start time from /proc/PID/stat. The second field is the program's name in parentheses, which
/// may itself contain any character, so fields are counted from the last parenthesis.
fn read_stat(pid: u32) -> Option<(Condition, u64)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(stat: &str) -> Option<(Condition, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let condition = match fields.next()? {
        "Z" | "X" => Condition::Gone,
        "T" => Condition::Stopped,
        _ => Condition::Alive,
    };
    let started = fields.nth(18)?.parse().ok()?;
    Some((condition, started))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> (std::process::Child, Process) {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        (child, process)
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "4711 (a) b (c) T 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(parse_stat(stat), Some((Condition::Stopped, 4242)));
        assert_eq!(parse_stat("4711 (a"), None);
    }

    #[test]
    fn killed_is_gone_even_before_its_parent_waits() {
        let (mut child, process) = sleeper();
        assert_eq!(process.condition(), Condition::Alive);
        process.kill().unwrap();
        assert_eq!(process.condition(), Condition::Gone);
        assert_eq!(Process::of(process.pid), None);
        process.kill().unwrap();
        child.wait().unwrap();
        process.signal(Signal::Continue).unwrap();
    }

    #[test]
    fn somebody_else_with_the_same_pid_is_left_alone() {
        let (mut child, process) = sleeper();
        let earlier = Process {
            started: process.started - 1,
            ..process
        };
        assert_eq!(earlier.condition(), Condition::Gone);
        earlier.kill().unwrap();
        assert_eq!(process.condition(), Condition::Alive);
        process.kill().unwrap();
        child.wait().unwrap();
    }
}
