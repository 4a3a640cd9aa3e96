//! `covey upgrade`: another program takes this one's place in the same process, and the host stays what it is.
//!
//! ```text
//!   this program                                        the next one
//!   "can you?" --- covey prepare --------------------->  loads its filter, leaves it pinned
//!   waits until nothing is under way
//!   core, journal, ... --> file in memory -- execve -->  fills its filter, puts it behind the attachments
//! ```
//!
//! The kernel replaces the program at once or not at all: if it cannot, this one goes on as if nothing had happened. The
//! state is in memory that only this process has, so there is none that could be stale, of another boot or used twice.
//! A next program that ends before it serves is a crash like any other: the lease fences what it leaves.
//! Used by the daemon's loop. Specification: docs/design.md, "Upgrade".

use super::groups::Membership;
use super::journal::History;
use super::keep::Will;
use super::operate::respond;
use super::{Daemon, VERSION, sys};
use crate::config::{Config, Machine};
use crate::control::{Code, Response};
use crate::datapath::{Counters, DataPath, Tally, pin_dir};
use crate::doctor::Finding;
use crate::duration;
use anyhow::{Context, anyhow, ensure};
use covey_filter::Reason;
use covey_proto::HostState;
use covey_proto::cluster::EXPORT_FORMAT;
use covey_proto::event::Severity;
use covey_proto::ids::Digest;
use covey_proto::time::Time;
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};

/// How long the next program may take to say whether it can, and to load its filter.
const PREPARATION: Duration = Duration::from_secs(10);
/// How long a daemon waits until nothing is under way.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a daemon hands to the next. Fields are only ever added, with defaults; what changes the meaning of the core's
/// part has a new [`EXPORT_FORMAT`].
#[derive(Serialize, Deserialize)]
pub(super) struct Inheritance {
    /// The version of the program that wrote it.
    pub(super) version: String,
    /// [`covey_proto::Cluster::export`].
    pub(super) cluster: Vec<u8>,
    pub(super) will: Will,
    /// When the first of the daemons started: microseconds of CLOCK_MONOTONIC, as the next.
    started_us: u64,
    /// When this was written.
    written_us: u64,
    /// How often a daemon of this host has been replaced, this time included.
    pub(super) upgrades: u32,
    /// What the packet counters count, in their order.
    reasons: Vec<String>,
    /// The rules under which the data path has noted traffic.
    pub(super) seen_under: u64,
    /// The rules under which the data path counts packets, and what it had counted before them.
    counted_under: u64,
    counted_before: Vec<Vec<u64>>,
    pub(super) journal: History,
    #[serde(default)]
    pub(super) membership: Option<Membership>,
    /// What people have been told to be wrong.
    #[serde(default)]
    pub(super) findings: Vec<Finding>,
}

impl Inheritance {
    /// Reads it from the descriptor that the program before has left open.
    pub(super) fn read(fd: RawFd) -> anyhow::Result<Self> {
        let read = || {
            let mut text = Vec::new();
            let mut file = sys::file_of_the_one_before(fd)?;
            file.rewind()?;
            file.read_to_end(&mut text)?;
            Ok::<_, anyhow::Error>(serde_json::from_slice(&text)?)
        };
        read().context("what the daemon before this one has left cannot be read")
    }

    pub(super) fn started_at(&self) -> Time {
        Time::from_micros(self.started_us)
    }

    pub(super) fn written_at(&self) -> Time {
        Time::from_micros(self.written_us)
    }

    /// The rules under which the data path counts packets, and what it had counted before them; `None` if this program
    /// counts other things.
    pub(super) fn counted(&self) -> Option<(Digest, Counters)> {
        let before = Counters::of_rows(&self.counted_before)?;
        (self.reasons == reasons()).then_some((Digest(self.counted_under), before))
    }
}

/// What the program says and does that a daemon asks whether it can take its place: it must know the format of the
/// daemon's state, and have its filter loaded, which counts on if it counts the same.
///
/// # Errors
/// Why it cannot.
pub fn prepare(config: &Config, state: u16, counters: &[String]) -> anyhow::Result<()> {
    ensure!(
        state == EXPORT_FORMAT,
        "the daemon's state has format {state}, and covey {VERSION} knows format {EXPORT_FORMAT}"
    );
    let go_on: &[Tally] = if counters == reasons() {
        &[Tally::Seen, Tally::Counters]
    } else {
        &[Tally::Seen]
    };
    let pins = pin_dir(&config.host.interface).context("/proc is not mounted")?;
    Ok(DataPath::prepare(&pins, go_on)?)
}

fn reasons() -> Vec<String> {
    let labels = Reason::ALL.into_iter().map(Reason::label);
    labels.map(str::to_owned).collect()
}

/// An upgrade that somebody has asked for.
struct Asked {
    program: PathBuf,
    answer: oneshot::Sender<Response>,
    /// The program has said that it can; from then on this is how long to wait at most.
    ready_until: Option<Time>,
}

/// What is under way.
pub(super) struct Upgrade {
    asked: Option<Asked>,
    prepared: mpsc::Sender<anyhow::Result<()>>,
    results: mpsc::Receiver<anyhow::Result<()>>,
}

impl Upgrade {
    pub(super) fn new() -> Self {
        let (prepared, results) = mpsc::channel(1);
        Self {
            asked: None,
            prepared,
            results,
        }
    }

    /// Waits for what the next program says.
    pub(super) async fn prepared(&mut self) -> Option<anyhow::Result<()>> {
        self.results.recv().await
    }

    /// When waiting ends.
    pub(super) fn deadline(&self) -> Time {
        let until = self.asked.as_ref().and_then(|asked| asked.ready_until);
        until.unwrap_or(Time::NEVER)
    }

    fn refuse(&mut self, why: impl Into<String>) {
        if let Some(asked) = self.asked.take() {
            let why = why.into();
            tracing::warn!("the daemon stays as it is: {why}");
            respond(asked.answer, Response::error(Code::Failed, why));
        }
    }
}

impl Daemon {
    /// Begins an upgrade: asks the program whether it can.
    pub(super) fn upgrade_to(&mut self, program: PathBuf, answer: oneshot::Sender<Response>) {
        let refuse = |answer, why: String| respond(answer, Response::error(Code::Failed, why));
        if self.upgrade.asked.is_some() {
            return refuse(answer, "an upgrade is under way already".to_owned());
        }
        if let Err(why) = self.may_upgrade() {
            return refuse(answer, format!("{why:#}"));
        }
        let (config, prepared) = (self.config_path.clone(), self.upgrade.prepared.clone());
        let asks = program.clone();
        tokio::spawn(async move {
            let said = ask_to_prepare(&asks, &config).await;
            // If nobody listens any more, the daemon has ended.
            let _ = prepared.send(said).await;
        });
        self.upgrade.asked = Some(Asked {
            program,
            answer,
            ready_until: None,
        });
    }

    /// Whether the next daemon could go on where this one is, by the configuration as it is now.
    fn may_upgrade(&self) -> anyhow::Result<()> {
        let new = Config::load(&self.config_path, &Machine)?;
        let fixed = self.config.needs_restart_for(&new);
        ensure!(
            fixed.is_empty(),
            "{} has changed in the configuration, which takes a restart of the daemon",
            fixed.join(", ")
        );
        Ok(())
    }

    /// Takes note of what the next program has said.
    pub(super) fn note_prepared(&mut self, said: anyhow::Result<()>) {
        match (said, &mut self.upgrade.asked) {
            (Ok(()), Some(asked)) => asked.ready_until = Some(sys::now() + PATIENCE),
            (Err(error), _) => self.refuse_upgrade(format!("{error:#}")),
            (Ok(()), None) => {}
        }
    }

    /// Lets the next program take over if one is ready and nothing is under way.
    pub(super) fn review_upgrade(&mut self) {
        let Some(ready_until) = self.upgrade.asked.as_ref().and_then(|a| a.ready_until) else {
            return;
        };
        let host = self.config.host.id;
        if self.ending {
            return self.refuse_upgrade("the daemon is about to end");
        }
        if self.cluster.state() == HostState::Draining {
            let why =
                format!("host {host} is on its way out of the cluster: wait, or start it again");
            return self.refuse_upgrade(why);
        }
        let busy = self.census.is_running() || self.keeper.is_writing() || !self.waiting.is_empty();
        let now = sys::now();
        match self.cluster.export(now).filter(|_| !busy) {
            Some(cluster) => {
                let error = self.become_next(now, cluster);
                self.refuse_upgrade(format!("{error:#}"));
            }
            None if now >= ready_until => self.refuse_upgrade(format!(
                "host {host} has been converging for {}; \"covey status\" says why",
                duration::format(PATIENCE)
            )),
            None => {}
        }
    }

    fn refuse_upgrade(&mut self, why: impl Into<String>) {
        self.upgrade.refuse(why);
        let pins = pin_dir(&self.config.host.interface);
        let discarded = pins.map(|pins| DataPath::discard_prepared(&pins));
        if let Ok(Err(error)) = discarded {
            tracing::warn!("the filter of the next daemon stays: {error}");
        }
    }

    /// Becomes the next daemon. Comes back only if that has failed; then nothing has changed.
    fn become_next(&self, now: Time, cluster: Vec<u8>) -> anyhow::Error {
        let inheritance = Inheritance {
            version: VERSION.to_owned(),
            cluster,
            will: self.will,
            started_us: self.started_at.as_micros(),
            written_us: now.as_micros(),
            upgrades: self.upgrades + 1,
            reasons: reasons(),
            seen_under: self.seen_under.0,
            counted_under: self.counted_under.0,
            counted_before: self.counted_before.rows(),
            journal: self.journal.history(),
            membership: self.membership(),
            findings: self.checkup.findings(),
        };
        match self.execute(&inheritance) {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    fn execute(&self, inheritance: &Inheritance) -> anyhow::Result<std::convert::Infallible> {
        let asked = self.upgrade.asked.as_ref();
        let program = &asked.ok_or_else(|| anyhow!("nobody has asked"))?.program;
        let mut file = sys::file_for_the_next().context("there is no memory for the state")?;
        write(&mut file, inheritance).context("the state cannot be written")?;
        let fd = file.as_raw_fd().to_string();
        let arguments = [
            Path::new("run"),
            Path::new("--config"),
            &self.config_path,
            Path::new("--socket"),
            &self.config.daemon.socket,
            Path::new("--take-over"),
            Path::new(&fd),
        ];
        let arguments: Result<Vec<CString>, _> = arguments.into_iter().map(c_string).collect();
        let (program, arguments) = (c_string(program)?, arguments?);
        let handed_on = self.hand_on_groups(true);
        handed_on.context("the membership in the cluster's group cannot be handed on")?;
        sys::hold_signals();
        let error = sys::become_program(&program, &arguments);
        sys::heed_signals();
        if let Err(error) = self.hand_on_groups(false) {
            tracing::debug!("children of this daemon keep its membership: {error}");
        }
        let shown = program.to_string_lossy();
        Err(error).with_context(|| format!("{shown} cannot be executed"))
    }
}

fn write(file: &mut File, inheritance: &Inheritance) -> std::io::Result<()> {
    file.write_all(&serde_json::to_vec(inheritance)?)
}

fn c_string(path: &Path) -> anyhow::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Asks a program whether it can take over from this one, by this configuration, and has it [prepare].
async fn ask_to_prepare(program: &Path, config: &Path) -> anyhow::Result<()> {
    let shown = program.display();
    ensure!(program.is_absolute(), "{shown} is not an absolute path");
    let format = EXPORT_FORMAT.to_string();
    let mut question = Command::new(program);
    question
        .args(["prepare", "--state", &format])
        .args(["--counters", &reasons().join(","), "--config"])
        .arg(config)
        .env_remove("COVEY_SOCKET")
        .kill_on_drop(true);
    let answered = tokio::time::timeout(PREPARATION, question.output()).await;
    let answer = answered
        .with_context(|| {
            format!(
                "{shown} does not say in {} whether it can",
                duration::format(PREPARATION)
            )
        })?
        .with_context(|| format!("{shown} cannot be executed"))?;
    let said = String::from_utf8_lossy(&answer.stderr);
    ensure!(
        answer.status.success(),
        "{shown} cannot take over: {}; a restart of the daemon works with any program",
        said.trim()
    );
    Ok(())
}

/// Tells that a daemon has taken over, or why it has not.
pub(super) struct Succession {
    pub(super) id: u16,
    pub(super) severity: Severity,
    pub(super) text: String,
}

impl Succession {
    pub(super) fn done(before: &str, took: Duration) -> Self {
        Self {
            id: 1103,
            severity: Severity::Info,
            text: format!(
                "the daemon was replaced in place: covey {VERSION} went on {} ms after covey {before} had stopped",
                took.as_millis()
            ),
        }
    }

    pub(super) fn failed(error: impl std::fmt::Display) -> Self {
        Self {
            id: 1104,
            severity: Severity::Error,
            text: format!(
                "the daemon was replaced, but could not go on where the one before was ({error}): the host begins anew"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::journal::Journal;
    use super::*;

    #[test]
    fn what_one_program_leaves_is_what_the_next_one_finds() {
        let mut journal = Journal::default();
        journal.record(1103, Severity::Info, "before".to_owned());
        let left = Inheritance {
            version: VERSION.to_owned(),
            cluster: vec![1, 2, 255],
            will: Will::Suspended,
            started_us: 7,
            written_us: 8,
            upgrades: 3,
            reasons: reasons(),
            seen_under: u64::MAX,
            counted_under: 1,
            counted_before: Counters::default().rows(),
            journal: journal.history(),
            membership: None,
            findings: Vec::new(),
        };
        let mut file = sys::file_for_the_next().unwrap();
        write(&mut file, &left).unwrap();
        // As `execve` leaves it: open under its number, and nobody's.
        let fd = std::os::fd::IntoRawFd::into_raw_fd(file);
        let found = Inheritance::read(fd).unwrap();
        assert_eq!(
            serde_json::to_value(&found).unwrap(),
            serde_json::to_value(&left).unwrap()
        );
        assert_eq!(found.counted(), Some((Digest(1), Counters::default())));
        assert!(
            Inheritance::read(2).is_err(),
            "what everybody has open is no state"
        );
    }

    #[tokio::test]
    async fn a_program_that_cannot_is_named_with_its_reason() {
        let config = Path::new("/nonexistent/covey.toml");
        let why = |program: &'static str| async move {
            let error = ask_to_prepare(Path::new(program), config)
                .await
                .unwrap_err();
            format!("{error:#}")
        };
        assert!(
            why("/bin/false")
                .await
                .starts_with("/bin/false cannot take over: ")
        );
        assert!(
            why("/nonexistent/covey")
                .await
                .starts_with("/nonexistent/covey cannot be executed: ")
        );
        assert_eq!(why("covey").await, "covey is not an absolute path");
        assert!(ask_to_prepare(Path::new("/bin/true"), config).await.is_ok());
    }
}
