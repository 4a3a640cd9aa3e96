//! Harm that takes somebody who does it: starving a daemon, flooding the cluster. Until `heal` that is a process of its own,
//! `covey lab harm ...`, which lives in the namespace of the machine that it acts from. So `lab down` finds it like everything
//! that lives there, and the faults in force are read from the list of processes. docs/design.md, "The lab".

use super::flood::{Kind, Rate, flood};
use crate::lab::interrupt::TICK;
use crate::lab::netns::run_in;
use crate::lab::process::{Condition, Process, Signal};
use crate::lab::state::Lab;
use crate::lab::topology::{LabName, Place};
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use covey_proto::ids::HostId;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// For how long a starved daemon has the processor, once in a while.
const SLICE: Duration = Duration::from_millis(2);
/// How long a process that does harm may take to begin.
const BEGIN_PATIENCE: Duration = Duration::from_secs(5);

/// Harm that goes on until it is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub(in crate::lab) enum Harm {
    /// Starve a host's daemon
    Starve {
        #[arg(value_parser = crate::lab::args::parse_host)]
        host: HostId,
    },
    /// Flood the cluster
    Flood { kind: Kind, rate: Rate },
}

impl Harm {
    /// As it is typed behind `covey lab harm`.
    fn words(self) -> Vec<String> {
        match self {
            Self::Starve { host } => vec!["starve".to_owned(), host.to_string()],
            Self::Flood { kind, rate } => {
                vec!["flood".to_owned(), kind.name().to_owned(), rate.to_string()]
            }
        }
    }

    fn from_words(words: &[&str]) -> Option<Self> {
        match words {
            ["starve", host] => Some(Self::Starve {
                host: host.parse().ok().and_then(HostId::new)?,
            }),
            ["flood", kind, rate] => Some(Self::Flood {
                kind: kind.parse().ok()?,
                rate: rate.parse().ok()?,
            }),
            _ => None,
        }
    }

    /// The machine that it acts from.
    const fn place(self) -> Place {
        match self {
            Self::Starve { host } => Place::Host(host),
            Self::Flood { .. } => Place::Client,
        }
    }

    /// Does it, from the right namespace, until it is over. Says how many frames that were, if it is frames.
    ///
    /// # Errors
    /// If it cannot be done.
    pub(in crate::lab) fn act(self, lab: &Lab, over: &(dyn Fn() -> bool + Sync)) -> Result<u64> {
        match self {
            Self::Starve { host } => {
                let daemon = lab.live_daemon(host)?;
                // Longer than any lease: a daemon that ran in between would renew it.
                let hold = lab.timing.budget() + 2 * lab.timing.period;
                starve(daemon, hold, over).map(|()| 0)
            }
            Self::Flood { kind, rate } => {
                let mac = lab.cluster_mac()?;
                run_in(&lab.name.namespace(self.place()), || {
                    flood(kind, rate, mac, over)
                })
            }
        }
    }

    /// Begins it in a process of its own, which goes on when this one ends.
    ///
    /// # Errors
    /// If the process cannot be started, or does not begin.
    pub(super) fn begin(self, lab: &Lab) -> Result<()> {
        let words = self.words();
        let log = lab.name.directory().join(format!("harm-{}.log", words[0]));
        // What is in it tells of an earlier one.
        let _ = fs::remove_file(&log);
        let mut command = Command::new(&lab.program);
        command
            .args(["lab", "--name", &lab.name.to_string(), "harm"])
            .args(&words);
        let process = run_in(&lab.name.namespace(self.place()), || {
            Process::start(&mut command, &log)
        })?;
        let start = Instant::now();
        loop {
            let said = fs::read_to_string(&log).unwrap_or_default();
            if process.condition() == Condition::Gone {
                bail!(
                    "`covey lab harm {}` has ended: {}",
                    words.join(" "),
                    said.trim()
                );
            }
            if said.contains(BEGUN) {
                return Ok(());
            }
            if start.elapsed() > BEGIN_PATIENCE {
                bail!("`covey lab harm {}` does not begin", words.join(" "));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// All that is being done to a lab.
    pub(super) fn in_force(lab: &LabName) -> Vec<(Process, Self)> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| {
                let pid = entry.file_name().to_str()?.parse().ok()?;
                let line = fs::read(entry.path().join("cmdline")).ok()?;
                let harm = Self::of_command_line(lab, &line)?;
                Some((Process::of(pid)?, harm))
            })
            .collect()
    }

    /// The harm that a process does to this lab, by its command line as /proc has it.
    fn of_command_line(lab: &LabName, line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?;
        let words: Vec<&str> = line.trim_end_matches('\0').split('\0').collect();
        match words.as_slice() {
            [_, "lab", "--name", name, "harm", rest @ ..] if *name == lab.to_string() => {
                Self::from_words(rest)
            }
            _ => None,
        }
    }
}

/// What a process that does harm says once it does.
const BEGUN: &str = "begun";

/// `covey lab harm`: does harm until this process is ended.
///
/// # Errors
/// If it cannot be done.
pub(in crate::lab) fn harm(lab: &Lab, harm: Harm) -> Result<()> {
    let begun = std::sync::Once::new();
    harm.act(lab, &|| {
        begun.call_once(|| println!("{BEGUN}"));
        false
    })
    .map(drop)
}

/// Lets a daemon run for a moment only, again and again, until it is over or the daemon has ended.
///
/// A hog of higher priority would do the same honestly, but would take the processor from everything else on this machine too;
/// cgroups do not bound a daemon that runs with real-time priority, as Covey's does.
fn starve(daemon: Process, hold: Duration, over: &dyn Fn() -> bool) -> Result<()> {
    while daemon.condition() != Condition::Gone {
        daemon.signal(Signal::Stop)?;
        let held = Instant::now();
        while !over() && held.elapsed() < hold {
            thread::sleep(TICK.min(hold.saturating_sub(held.elapsed())));
        }
        daemon
            .signal(Signal::Continue)
            .context("the daemon is held and cannot be let go on")?;
        if over() {
            return Ok(());
        }
        thread::sleep(SLICE);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harm_is_known_by_its_command_line() {
        let lab: LabName = "covey-x".parse().unwrap();
        let host = HostId::new(12).unwrap();
        let harms = [
            Harm::Starve { host },
            Harm::Flood {
                kind: Kind::Udp,
                rate: "500".parse().unwrap(),
            },
        ];
        for harm in harms {
            let line = ["/usr/bin/covey", "lab", "--name", "covey-x", "harm"]
                .map(str::to_owned)
                .into_iter()
                .chain(harm.words())
                .map(|word| format!("{word}\0"))
                .collect::<String>();
            assert_eq!(Harm::of_command_line(&lab, line.as_bytes()), Some(harm));
            let other = "covey".parse().unwrap();
            assert_eq!(Harm::of_command_line(&other, line.as_bytes()), None);
        }
        let editor = b"vi\0lab\0--name\0covey-x\0harm.txt\0";
        assert_eq!(Harm::of_command_line(&lab, editor), None);
    }
}
