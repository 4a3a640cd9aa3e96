//! What the operator wants the host to be, kept over restarts of the daemon and of the machine
//! (`host.persist_state`; NLB: PersistedStates).
//!
//! One small JSON file per cluster and host in `daemon.state_dir`. It changes when an operator says something and at
//! no other time: a daemon that is asked to end by a signal, or that dies, finds on its return what was wanted last.
//! Writing waits for the disk, so it is done beside the daemon's loop, one write after the other. Used only by the
//! daemon. Specification: docs/design.md, "Command line"; NLB's events 76 to 78: NLB facts §5.4.

use super::Daemon;
use crate::config::{Config, InitialState};
use covey_proto::PortState;
use covey_proto::event::Severity;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use tokio::task::JoinHandle;

/// The longest file that is read, bytes.
const MAX_FILE: u64 = 64 * 1024;

/// What the operator wants the host to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Will {
    Started,
    Stopped,
    Suspended,
}

impl From<InitialState> for Will {
    fn from(state: InitialState) -> Self {
        match state {
            InitialState::Started => Self::Started,
            InitialState::Stopped => Self::Stopped,
            InitialState::Suspended => Self::Suspended,
        }
    }
}

/// The file's contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    state: Will,
    /// The port rules that are not enabled.
    rules: Vec<KeptRule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptRule {
    /// [`covey_proto::rules::PortRule::fingerprint`].
    fingerprint: u32,
    state: KeptState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KeptState {
    Disabled,
    Draining,
}

impl Kept {
    fn new(state: Will, port_states: &[(u32, PortState)]) -> Self {
        let rule = |(fingerprint, state): &(u32, PortState)| {
            let state = match state {
                PortState::Enabled => return None,
                PortState::Disabled => KeptState::Disabled,
                PortState::Draining => KeptState::Draining,
            };
            let fingerprint = *fingerprint;
            Some(KeptRule { fingerprint, state })
        };
        let rules = port_states.iter().filter_map(rule).collect();
        Self { state, rules }
    }

    fn port_states(&self) -> Vec<(u32, PortState)> {
        let state = |rule: &KeptRule| match rule.state {
            KeptState::Disabled => (rule.fingerprint, PortState::Disabled),
            KeptState::Draining => (rule.fingerprint, PortState::Draining),
        };
        self.rules.iter().map(state).collect()
    }

    fn read(path: &Path) -> io::Result<Self> {
        let mut text = String::new();
        File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Replaces the file in one step: whoever reads it, after a crash too, finds all of the old or all of the new.
    fn write(&self, path: &Path) -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory)?;
        let unfinished = path.with_extension("new");
        let mut file = File::create(&unfinished)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        File::open(directory)?.sync_all()
    }
}

/// The file of this host of this cluster: several hosts can be on one machine, in network namespaces.
fn path(config: &Config) -> PathBuf {
    let name = format!("{}-{}.json", config.rules.primary(), config.host.id);
    config.daemon.state_dir.join(name)
}

/// How a daemon begins.
pub(super) struct Restored {
    pub(super) will: Will,
    pub(super) port_states: Vec<(u32, PortState)>,
    pub(super) note: Option<Note>,
}

/// Something for the event log.
pub(super) struct Note {
    pub(super) id: u16,
    pub(super) severity: Severity,
    pub(super) text: String,
}

/// What was wanted last, or else what the configuration says.
pub(super) fn restore(config: &Config) -> Restored {
    let path = path(config);
    let shown = path.display();
    let initially = |note| Restored {
        will: config.host.initial_state.into(),
        port_states: Vec::new(),
        note,
    };
    if !config.host.persist_state {
        // What is not kept up to date must not come into force one day.
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("the state kept in {shown} cannot be removed: {error}");
        }
        return initially(None);
    }
    let note = |id, severity, text| Some(Note { id, severity, text });
    match Kept::read(&path) {
        Ok(kept) => {
            let (id, what) = match kept.state {
                Will::Started => (77, "started: it joins its cluster"),
                Will::Stopped => (78, "stopped: it joins its cluster when it is started"),
                Will::Suspended => (1101, "suspended: it heeds no command until it is resumed"),
            };
            let text = format!("the host was last wanted {what} (kept in {shown})");
            Restored {
                will: kept.state,
                port_states: kept.port_states(),
                note: note(id, Severity::Info, text),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = format!(
                "no state is kept in {shown} yet: the host begins as host.initial_state says"
            );
            initially(note(76, Severity::Info, text))
        }
        Err(error) => {
            let text = format!(
                "the state kept in {shown} cannot be used ({error}): the host begins as host.initial_state says"
            );
            initially(note(76, Severity::Warning, text))
        }
    }
}

/// Writes the file, one version after the other.
#[derive(Default)]
pub(super) struct Keeper {
    latest: Option<Kept>,
    writing: Option<JoinHandle<io::Result<()>>>,
    next: Option<(PathBuf, Kept)>,
}

impl Keeper {
    /// Has this written, unless it is what was written last.
    fn keep(&mut self, path: PathBuf, kept: Kept) {
        if self.latest.as_ref() == Some(&kept) {
            return;
        }
        self.latest = Some(kept.clone());
        self.next = Some((path, kept));
        self.begin();
    }

    fn begin(&mut self) {
        if self.writing.is_none()
            && let Some((path, kept)) = self.next.take()
        {
            self.writing = Some(tokio::task::spawn_blocking(move || kept.write(&path)));
        }
    }

    /// Waits for the end of a write; for ever if there is none. Safe to cancel.
    pub(super) async fn written(&mut self) -> io::Result<()> {
        let Some(writing) = &mut self.writing else {
            return std::future::pending().await;
        };
        let written = writing.await;
        self.writing = None;
        self.begin();
        let written = written.map_err(io::Error::other).flatten();
        if written.is_err() {
            // The next command tries again, whatever it says.
            self.latest = None;
        }
        written
    }

    /// Whether something has yet to be written.
    pub(super) const fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Waits for the end of all writes.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        while self.writing.is_some() {
            self.written().await?;
        }
        Ok(())
    }
}

impl Daemon {
    /// Keeps what the operator wants, if that is wanted. A daemon on its way out changes nothing.
    pub(super) fn keep_state(&mut self) {
        if self.config.host.persist_state && !self.ending {
            let kept = Kept::new(self.will, &self.cluster.port_states());
            self.keeper.keep(path(&self.config), kept);
        }
    }

    pub(super) fn note_kept(&mut self, written: io::Result<()>) {
        if let Err(error) = written {
            let path = path(&self.config);
            let text = format!(
                "what the host is wanted to be cannot be kept in {}: {error}; a new daemon would begin with what \
                 was kept before",
                path.display()
            );
            self.journal.record(1102, Severity::Warning, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("covey-keep-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn kept(state: Will) -> Kept {
        let states = [
            (7, PortState::Disabled),
            (8, PortState::Enabled),
            (9, PortState::Draining),
        ];
        Kept::new(state, &states)
    }

    #[test]
    fn what_is_kept_is_found_again_and_damage_is_noticed() {
        let directory = scratch("file");
        let path = directory.join("10.77.0.100-1.json");
        assert_eq!(
            Kept::read(&path).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        kept(Will::Suspended).write(&path).unwrap();
        let found = Kept::read(&path).unwrap();
        assert_eq!(found, kept(Will::Suspended));
        let states = [(7, PortState::Disabled), (9, PortState::Draining)];
        assert_eq!(found.port_states(), states);

        let text = fs::read_to_string(&path).unwrap();
        for damaged in [
            "",
            &text[..text.len() / 2],
            &text.replace("suspended", "asleep"),
            "[]",
        ] {
            fs::write(&path, damaged).unwrap();
            let error = Kept::read(&path).unwrap_err();
            assert_ne!(error.kind(), io::ErrorKind::NotFound, "{damaged}");
        }
        fs::remove_dir_all(&directory).unwrap();
    }

    #[tokio::test]
    async fn the_last_word_is_what_stays() {
        let directory = scratch("order");
        let path = directory.join("state.json");
        let mut keeper = Keeper::default();
        for state in [Will::Stopped, Will::Suspended, Will::Started, Will::Started] {
            keeper.keep(path.clone(), kept(state));
        }
        keeper.finish().await.unwrap();
        assert_eq!(Kept::read(&path).unwrap().state, Will::Started);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_tried_again() {
        let directory = scratch("again");
        fs::write(&directory, "in the way").unwrap();
        let path = directory.join("state.json");
        let mut keeper = Keeper::default();
        keeper.keep(path.clone(), kept(Will::Stopped));
        assert!(keeper.finish().await.is_err());
        fs::remove_file(&directory).unwrap();
        keeper.keep(path.clone(), kept(Will::Stopped));
        keeper.finish().await.unwrap();
        assert_eq!(Kept::read(&path).unwrap().state, Will::Stopped);
        fs::remove_dir_all(&directory).unwrap();
    }
}
