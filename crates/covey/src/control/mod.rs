//! How one talks to a running daemon: a Unix socket, one JSON object per line in each direction.
//!
//! ```text
//!   -> {"command":"status"}                     <- {"ok":{...}}                     see crate::status
//!   -> {"command":"events","after":7}           <- {"ok":[...]}                     see EventRecord
//!   -> {"command":"why","client":...}           <- {"ok":{...}}                     see crate::why
//!   -> {"command":"stop"}                       <- {"ok":{"answer":"WLBS_OK","code":1000,"text":"..."}}    see Outcome
//!   -> {"command":"start"}                      <- {"error":"...","code":"denied"}
//! ```
//!
//! A connection carries any number of requests, one after the other. The daemon runs the [`server`], the command
//! line and the lab use the [`client`]; both find the socket by [`default_socket`], so each network namespace has
//! its own. Specification: docs/design.md, "Command line".

pub mod client;
mod outcome;
pub mod server;

pub use outcome::Outcome;
pub(crate) use outcome::sentence;

use crate::host::{RUN_DIR, network_namespace};
use crate::why::Question;
use covey_proto::{RuleScope, VipScope};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
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
    /// What a packet meets here, and why: answered by an [`Explanation`](crate::why::Explanation).
    Why(Question),
    /// Join the cluster: answered by an [`Outcome`], as all that follow, once this host has.
    Start {},
    /// Leave the cluster: answered once this host has.
    Stop {},
    /// Take no new connections, and leave the cluster when the last one has ended: answered at once.
    Drainstop {
        /// Leave after this time at the latest, ms.
        #[serde(default)]
        within_ms: Option<u64>,
    },
    /// Leave the cluster, and heed nothing but resume: answered once this host has left.
    Suspend {},
    /// Heed commands again: answered at once.
    Resume {},
    /// Take a share of the traffic of port rules again: answered at once.
    Enable(Ports),
    /// Take no traffic of port rules, and reset the connections there are: answered at once.
    Disable(Ports),
    /// Take no new connections of port rules: answered at once.
    Drain(Ports),
    /// Read the configuration again: answered at once; it is in force when all hosts offer the same.
    Reload {},
    /// Put another program in the place of the daemon that runs: answered if that is refused. Otherwise the daemon hangs
    /// up, and the next one answers on the same socket.
    Upgrade {
        /// The program, an absolute path.
        program: PathBuf,
    },
}

/// Which port rules are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    /// The rules for this virtual IP. As in NLB, 255.255.255.255 stands for the rules that are for no virtual IP in
    /// particular, and 0.0.0.0, like none, for all.
    #[serde(default)]
    pub vip: Option<IpAddr>,
    /// The rule that holds this port; none for all rules.
    #[serde(default)]
    pub port: Option<u16>,
}

impl Ports {
    /// In the core's terms.
    pub fn scope(&self) -> RuleScope {
        let vip = match self.vip {
            None => VipScope::Every,
            Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => VipScope::Every,
            Some(IpAddr::V4(Ipv4Addr::BROADCAST)) => VipScope::Common,
            Some(vip) => VipScope::One(vip),
        };
        let port = self.port;
        RuleScope { vip, port }
    }
}

impl Request {
    /// Whether it changes anything. Only root, and the user that the daemon runs as, may do that.
    pub const fn is_command(&self) -> bool {
        match self {
            Self::Status {} | Self::Events { .. } | Self::Why(_) => false,
            Self::Start {}
            | Self::Stop {}
            | Self::Drainstop { .. }
            | Self::Suspend {}
            | Self::Resume {}
            | Self::Enable(_)
            | Self::Disable(_)
            | Self::Drain(_)
            | Self::Reload {}
            | Self::Upgrade { .. } => true,
        }
    }

    /// How long the answer may take.
    pub const fn time_limit(&self) -> Duration {
        match self {
            Self::Events { follow: true, .. } => FOLLOW_TIME,
            request if request.is_command() => COMMAND_TIME,
            _ => REPORT_TIME,
        }
    }
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Response {
    /// The outcome of a command, or how things are.
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
