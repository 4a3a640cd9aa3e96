//! How one talks to a running daemon: a Unix socket, one JSON object per line in each direction.
//!
//! ```text
//!   -> {"command":"status"}                     <- {"ok":{...}}                     see crate::status
//!   -> {"command":"events","after":7}           <- {"ok":[...]}                     see EventRecord
//!   -> {"command":"stop"}                       <- {"ok":"host 1 has left the cluster"}
//!   -> {"command":"start"}                      <- {"error":"...","code":"denied"}
//! ```
//!
//! A connection carries any number of requests, one after the other. The daemon runs the [`server`], the command
//! line and the lab use the [`client`]; both find the socket by [`default_socket`], so each network namespace has
//! its own. Specification: docs/design.md, "Command line".

pub mod client;
pub mod server;

use crate::host::{RUN_DIR, network_namespace};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest request, bytes, newline included.
pub const MAX_REQUEST: usize = 4096;

/// How long the daemon may take to say how things are.
pub const REPORT_TIME: Duration = Duration::from_secs(5);
/// How long it may take to do something: the cluster must agree first, and connections may have to end.
pub const COMMAND_TIME: Duration = Duration::from_secs(300);
/// How long a question for new events stays open. Nothing new until then is answered by an empty list.
pub const FOLLOW_TIME: Duration = Duration::from_secs(30);

/// What one can ask a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// How things are: answered by a [`Status`](crate::status::Status).
    Status {},
    /// What happened: answered by a list of [`EventRecord`](crate::status::EventRecord)s, oldest first.
    Events {
        /// Only events with a higher number.
        #[serde(default)]
        after: u64,
        /// If there is none yet, wait for one, [`FOLLOW_TIME`] at most.
        #[serde(default)]
        follow: bool,
    },
    /// Join the cluster: answered by a sentence once this host has.
    Start {},
    /// Leave the cluster: answered by a sentence once this host has.
    Stop {},
    /// Read the configuration again: answered by a sentence once it is in force.
    Reload {},
}

impl Request {
    /// Whether it changes anything. Only root, and the user that the daemon runs as, may do that.
    pub const fn is_command(&self) -> bool {
        match self {
            Self::Status {} | Self::Events { .. } => false,
            Self::Start {} | Self::Stop {} | Self::Reload {} => true,
        }
    }

    /// How long the answer may take.
    pub const fn time_limit(&self) -> Duration {
        match self {
            Self::Events { follow: true, .. } => FOLLOW_TIME,
            Self::Status {} | Self::Events { follow: false, .. } => REPORT_TIME,
            Self::Start {} | Self::Stop {} | Self::Reload {} => COMMAND_TIME,
        }
    }
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Response {
    /// It is done, or this is how things are. Starting what is started is done too: `"already started"`.
    Ok {
        /// The answer.
        ok: serde_json::Value,
    },
    /// It could not be done.
    Error {
        /// Why, in a sentence.
        error: String,
        /// The same for programs.
        code: Code,
    },
}

impl Response {
    /// An answer.
    pub fn ok(value: impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(ok) => Self::Ok { ok },
            Err(error) => Self::error(
                Code::Failed,
                format!("the answer has no JSON form: {error}"),
            ),
        }
    }

    /// A refusal.
    pub fn error(code: Code, sentence: impl Into<String>) -> Self {
        Self::Error {
            error: sentence.into(),
            code,
        }
    }
}

/// Why a request was refused, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Code {
    /// The line is no request.
    Bad,
    /// The asker may not do that.
    Denied,
    /// Too many ask at once.
    Busy,
    /// The daemon did not answer in time.
    Timeout,
    /// The daemon is about to end.
    Ending,
    /// It was tried and did not work.
    Failed,
}

/// The control socket of the network namespace that the calling thread is in.
///
/// # Errors
/// If /proc is not mounted.
pub fn default_socket() -> io::Result<PathBuf> {
    network_namespace().map(socket_of)
}

/// The control socket of the network namespace with this inode.
pub fn socket_of(namespace: u64) -> PathBuf {
    Path::new(RUN_DIR).join(format!("control-{namespace}.sock"))
}
