//! The daemon's memory of what happened: the event log and the history of convergences, both bounded.
//!
//! Events come from the core; here they get a number and a time, go to the log, and wake whoever follows
//! them over the control socket.

use crate::control::Response;
use crate::status::{ConvergenceRecord, EventRecord};
use covey_proto::event::{Event, Severity};
use covey_proto::ids::HostSet;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::oneshot;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// Events kept.
const EVENTS: usize = 1000;
/// Convergences kept.
const CONVERGENCES: usize = 32;

/// What happened since the daemon started.
#[derive(Default)]
pub(super) struct Journal {
    events: VecDeque<EventRecord>,
    convergences: VecDeque<ConvergenceRecord>,
    view: HostSet,
    last_number: u64,
    followers: Vec<(u64, oneshot::Sender<Response>)>,
}

/// What a daemon hands to the next that takes its place.
#[derive(Serialize, Deserialize)]
pub(super) struct History {
    events: VecDeque<EventRecord>,
    convergences: VecDeque<ConvergenceRecord>,
    view: u64,
    last_number: u64,
}

impl Journal {
    /// What happened so far.
    pub(super) fn history(&self) -> History {
        History {
            events: self.events.clone(),
            convergences: self.convergences.clone(),
            view: self.view.bits(),
            last_number: self.last_number,
        }
    }

    /// Goes on with what an earlier daemon has noted.
    pub(super) fn continuing(history: History) -> Self {
        Self {
            events: history.events,
            convergences: history.convergences,
            view: HostSet::from_bits(history.view),
            last_number: history.last_number,
            followers: Vec::new(),
        }
    }

    /// Notes an event of the core, `uptime` after the daemon's start.
    pub(super) fn note(&mut self, uptime: Duration, event: &Event) {
        self.note_convergence(uptime, event);
        self.record(event.id(), event.severity(), event.to_string());
    }

    /// Notes something that happened to the daemon itself. IDs are NLB's, or Covey's own above 1100.
    pub(super) fn record(&mut self, id: u16, severity: Severity, text: String) {
        let severity = match severity {
            Severity::Info => {
                tracing::info!(id, "{text}");
                "info"
            }
            Severity::Warning => {
                tracing::warn!(id, "{text}");
                "warning"
            }
            Severity::Error => {
                tracing::error!(id, "{text}");
                "error"
            }
        };
        self.last_number += 1;
        let severity = severity.to_owned();
        let record = EventRecord {
            number: self.last_number,
            time: wall_clock(),
            id,
            severity,
            text,
        };
        push_bounded(&mut self.events, EVENTS, record);
        for (after, answer) in std::mem::take(&mut self.followers) {
            // One who does not wait any more has no use for the answer.
            let _ = answer.send(Response::ok(self.events_after(after)));
        }
    }

    fn note_convergence(&mut self, uptime: Duration, event: &Event) {
        match event {
            Event::Converged {
                view,
                epoch,
                took,
                cause,
                ..
            } => {
                let record = ConvergenceRecord {
                    at_ms: uptime.as_millis() as u64,
                    from: ids(self.view),
                    to: ids(*view),
                    epoch: epoch.0,
                    duration_ms: took.as_secs_f64() * 1000.0,
                    cause: cause.clone(),
                };
                self.view = *view;
                push_bounded(&mut self.convergences, CONVERGENCES, record);
            }
            Event::Fenced { .. } | Event::Stopped { .. } => self.view = HostSet::EMPTY,
            Event::Started { .. }
            | Event::Leaving { .. }
            | Event::Draining { .. }
            | Event::DrainingInterrupted { .. }
            | Event::Suspended { .. }
            | Event::Resumed { .. }
            | Event::RulesChanged { .. }
            | Event::RuleDrained { .. }
            | Event::LeavingInterrupted { .. }
            | Event::HostJoined { .. }
            | Event::HostLeft { .. }
            | Event::HostLost { .. }
            | Event::DuplicateId { .. }
            | Event::DuplicatePeer { .. }
            | Event::ModeDiffers { .. }
            | Event::EqualPriorities { .. }
            | Event::PartitionHealed { .. }
            | Event::NotBelieved { .. }
            | Event::ForeignNlb { .. }
            | Event::LegacyHosts { .. }
            | Event::LegacyGone
            | Event::FeatureLevel { .. }
            | Event::KeptOut { .. }
            | Event::Late { .. }
            | Event::OnTime { .. }
            | Event::RulesDiffer { .. }
            | Event::HeartbeatsBlocked { .. }
            | Event::BroadcastBlocked { .. }
            | Event::Reloaded => {}
        }
    }

    /// Answers with the events after a number; with `follow` and none yet, once there is one.
    pub(super) fn tell(&mut self, after: u64, follow: bool, answer: oneshot::Sender<Response>) {
        if follow && self.last_number <= after {
            self.followers.retain(|(_, follower)| !follower.is_closed());
            self.followers.push((after, answer));
            return;
        }
        // One who does not wait any more has no use for the answer.
        let _ = answer.send(Response::ok(self.events_after(after)));
    }

    fn events_after(&self, after: u64) -> Vec<&EventRecord> {
        self.events
            .iter()
            .filter(|event| event.number > after)
            .collect()
    }

    /// Past convergences, newest last.
    pub(super) fn convergences(&self) -> Vec<ConvergenceRecord> {
        self.convergences.iter().cloned().collect()
    }
}

/// The hosts as numbers.
pub(super) fn ids(hosts: HostSet) -> Vec<u8> {
    hosts.iter().map(|host| host.get()).collect()
}

fn push_bounded<T>(list: &mut VecDeque<T>, most: usize, item: T) {
    if list.len() == most {
        list.pop_front();
    }
    list.push_back(item);
}

/// RFC 3339, UTC.
pub(super) fn wall_clock() -> String {
    let mut text = String::new();
    SystemTime
        .format_time(&mut Writer::new(&mut text))
        .expect("writing to a string does not fail");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use covey_proto::ids::HostId;

    #[test]
    fn the_journal_is_bounded_and_numbers_go_on() {
        let mut journal = Journal::default();
        let host = HostId::new(1).unwrap();
        for _ in 0..EVENTS + 5 {
            journal.note(Duration::ZERO, &Event::Started { host });
        }
        assert_eq!(journal.events_after(0).len(), EVENTS);
        assert_eq!(journal.events_after(EVENTS as u64).len(), 5);
    }

    #[test]
    fn a_follower_is_answered_by_the_next_event() {
        let mut journal = Journal::default();
        let (answer, mut answered) = oneshot::channel();
        journal.tell(0, true, answer);
        assert!(answered.try_recv().is_err());
        journal.note(Duration::ZERO, &Event::Reloaded);
        let Ok(Response::Ok { ok }) = answered.try_recv() else {
            panic!("no answer")
        };
        assert_eq!(ok[0]["id"], 36);
    }
}
