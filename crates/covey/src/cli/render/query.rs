//! `covey query`: the state of this host in one line.

use super::table::{Paint, Tone};
use super::{companions, connections, list};
use crate::status::{HostState, Status};
use serde::Serialize;

/// What a query answers.
#[derive(Serialize)]
pub(in crate::cli) struct QuerySummary {
    host: u8,
    name: String,
    state: HostState,
    is_default: bool,
    epoch: u64,
    /// The hosts it is converged or converging with, itself included; none when it is stopped.
    with: Vec<u8>,
    /// Open connections, while the host counts them.
    connections: Option<usize>,
    waiting_for: Option<String>,
}

impl QuerySummary {
    pub(in crate::cli) fn of(status: &Status) -> Self {
        let with = match status.host.state {
            HostState::Stopped | HostState::Suspended => Vec::new(),
            HostState::Converging | HostState::Draining | HostState::Converged => {
                companions(status)
            }
        };
        Self {
            host: status.host.id,
            name: status.host.name.clone(),
            state: status.host.state,
            is_default: status.host.is_default,
            epoch: status.cluster.epoch,
            with,
            connections: status.host.connections,
            waiting_for: status.host.waiting_for.clone(),
        }
    }
}

/// The state of a host in a word or three.
pub(super) fn state_words(state: HostState, is_default: bool) -> (&'static str, Tone) {
    match (state, is_default) {
        (HostState::Converged, true) => ("converged as default", Tone::Good),
        (HostState::Converged, false) => ("converged", Tone::Good),
        (HostState::Converging, _) => ("converging", Tone::Busy),
        (HostState::Draining, _) => ("draining", Tone::Busy),
        (HostState::Stopped, _) => ("stopped", Tone::Bad),
        (HostState::Suspended, _) => ("suspended", Tone::Bad),
    }
}

/// The line, with its newline.
pub(in crate::cli) fn query(summary: &QuerySummary, paint: Paint) -> String {
    let (words, tone) = state_words(summary.state, summary.is_default);
    let mut line = format!(
        "{} (host {}): {}",
        summary.name,
        summary.host,
        paint.tone(tone, words)
    );
    match summary.with.as_slice() {
        [] => {}
        [_] => line.push_str(", alone"),
        hosts => line.push_str(&format!(", with hosts {}", list(hosts, ","))),
    }
    if let Some(count) = summary.connections {
        line.push_str(&format!(", {} open", connections(count)));
    }
    if let Some(reason) = &summary.waiting_for {
        line.push_str(&format!(" ({reason})"));
    }
    line + "\n"
}
