//! Promises 1 and 2 for single connections: one host only completes a handshake, no established connection breaks
//! without a reason, and whatever is tried in a settled cluster succeeds.
//!
//! A reason is: its host has crashed, was fenced, restarted or stopped; an operator has had it reset; the segment was
//! split.

use super::fencing::Fencing;
use super::settled::{Disturbance, Settling};
use crate::client::{Happening, Key};
use crate::report::Counts;
use crate::tcp::Tuple;
use covey_proto::time::Time;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How long maps that were put in force are remembered.
const COMMITS_KEPT: usize = 256;

/// After this time without an answer a client gives up.
const HUNG_FOR: Duration = Duration::from_secs(35);

#[derive(Clone, Copy, Debug)]
struct Connection {
    opened_at: Time,
    /// How often anybody's connections could have broken before.
    breaks: u32,
    last_syn_at: Time,
    /// The host that has completed the handshake, and how often its connections could have broken before.
    host: Option<(usize, u32)>,
    /// Its host was told to reset it.
    cut: bool,
}

/// All connections that clients have.
pub(crate) struct Connections {
    open: BTreeMap<Key, Connection>,
    commits: VecDeque<Time>,
    breaks: Vec<u32>,
    /// What a change may take.
    commit: Duration,
    /// When the last fault began or ended.
    troubled_at: Time,
    /// Ports for which there may be no host.
    loose: BTreeSet<u16>,
}

type Verdict = Result<(), (&'static str, String)>;

impl Connections {
    pub(crate) fn new(commit: Duration) -> Self {
        Self {
            open: BTreeMap::new(),
            commits: VecDeque::new(),
            breaks: Vec::new(),
            commit,
            troubled_at: Time::ZERO,
            loose: BTreeSet::new(),
        }
    }

    pub(crate) fn disturbed(&mut self, now: Time, disturbance: Disturbance) {
        match disturbance {
            Disturbance::Planned => {}
            Disturbance::Crash { .. } | Disturbance::Fault => self.troubled_at = now,
        }
    }

    pub(crate) fn committed(&mut self, now: Time) {
        if self.commits.len() == COMMITS_KEPT {
            self.commits.pop_front();
        }
        self.commits.push_back(now);
    }

    pub(crate) fn cut(&mut self, tuple: Tuple) {
        for (_, connection) in self.open.range_mut((tuple, 0)..=(tuple, u32::MAX)) {
            connection.cut = true;
        }
    }

    pub(crate) fn loosen(&mut self, port: u16) {
        self.loose.insert(port);
    }

    pub(crate) fn note_breaks(&mut self, machine: usize, breaks: u32) {
        if self.breaks.len() <= machine {
            self.breaks.resize(machine + 1, 0);
        }
        self.breaks[machine] = breaks;
    }

    /// Promise 1: a handshake is completed by one host only.
    pub(crate) fn accepted(
        &mut self,
        machine: usize,
        tuple: Tuple,
        isn: u32,
    ) -> Result<(), String> {
        let breaks = self.breaks.get(machine).copied().unwrap_or(0);
        match self.open.get_mut(&(tuple, isn)) {
            Some(Connection {
                host: Some((other, _)),
                ..
            }) if *other != machine => Err(format!(
                "hosts {} and {} have both completed the handshake of {tuple:?}",
                *other + 1,
                machine + 1
            )),
            Some(connection) => {
                connection.host = Some((machine, breaks));
                Ok(())
            }
            // Its client has given it up.
            None => Ok(()),
        }
    }

    fn commit_near(&self, at: Time) -> bool {
        self.commits
            .iter()
            .any(|commit| *commit + self.commit >= at && *commit <= at + self.commit)
    }

    pub(crate) fn happened(
        &mut self,
        now: Time,
        happening: Happening,
        settling: &Settling,
        fencing: &Fencing,
        counts: &mut Counts,
    ) -> Verdict {
        match happening {
            Happening::Syn(key) => {
                counts.opened += 1;
                let connection = Connection {
                    opened_at: now,
                    breaks: self.breaks.iter().sum(),
                    last_syn_at: now,
                    host: None,
                    cut: false,
                };
                self.open.insert(key, connection);
                Ok(())
            }
            Happening::SynAgain { key, stale } => {
                // A host may have kept a socket of an earlier connection whose client could not end it properly: then
                // the first answer is about that one.
                let verdict = if stale {
                    Ok(())
                } else {
                    self.check_syn(&key, settling)
                };
                if let Some(connection) = self.open.get_mut(&key) {
                    connection.last_syn_at = now;
                }
                verdict
            }
            Happening::Established => {
                counts.established += 1;
                Ok(())
            }
            Happening::Refused { key, stale } => {
                let verdict = if stale {
                    Ok(())
                } else {
                    self.check_syn(&key, settling)
                };
                self.open.remove(&key);
                verdict
            }
            Happening::Finished(key) => {
                counts.finished += 1;
                self.open.remove(&key);
                Ok(())
            }
            Happening::Reset(key) => {
                counts.broken += 1;
                self.check_reset(&key, fencing)
            }
            Happening::Hung { key, stale } => {
                counts.broken += 1;
                self.open.remove(&key);
                // Even if its host has crashed the next packet gets a reset, not silence (promise 3). Where no host takes a
                // port any more, there is nobody to send one.
                let loose = self.loose.contains(&key.0.service.port());
                if !stale && !loose && settling.settled_since(now - HUNG_FOR) {
                    let tuple = key.0;
                    let what = format!(
                        "{tuple:?} gets no answer any more, not even a reset, in a settled cluster"
                    );
                    return Err(("a crash costs a reset, not silence", what));
                }
                Ok(())
            }
            Happening::OtherVoice { key, mac } => {
                let opened_at = self.open.get(&key).map(|connection| connection.opened_at);
                if opened_at.is_some_and(|opened_at| settling.settled_since(opened_at)) {
                    let what = format!(
                        "{mac} speaks in {:?}, which another host has accepted",
                        key.0
                    );
                    return Err(("one owner", what));
                }
                Ok(())
            }
            Happening::Answered {
                sent_at,
                from,
                times,
            } => {
                counts.datagrams += 1;
                counts.answered += u64::from(times > 0);
                if times != 1 && settling.settled_since(sent_at) && !self.commit_near(sent_at) {
                    let what = format!(
                        "a datagram from {from}, sent at {sent_at:?} in a settled cluster, was answered {times} times"
                    );
                    return Err(("one owner", what));
                }
                Ok(())
            }
            Happening::WrongMac(mac) => {
                let what = format!("a client was told that a virtual IP is at {mac}");
                Err(("the switch is never taught the cluster MAC", what))
            }
        }
    }

    /// Promise 1: what is tried in a settled cluster succeeds, at least with the next repeat after a change.
    fn check_syn(&self, key: &Key, settling: &Settling) -> Verdict {
        let Some(connection) = self.open.get(key) else {
            return Ok(());
        };
        let sent_at = connection.last_syn_at;
        let loose = self.loose.contains(&key.0.service.port());
        if loose || !settling.settled_since(sent_at) || self.commit_near(sent_at) {
            return Ok(());
        }
        let tuple = key.0;
        Err((
            "one owner",
            format!(
                "the SYN of {tuple:?}, sent at {sent_at:?} in a settled cluster, was not answered"
            ),
        ))
    }

    /// Promise 2: an established connection is reset only for a reason.
    fn check_reset(&mut self, key: &Key, fencing: &Fencing) -> Verdict {
        let Some(connection) = self.open.remove(key) else {
            return Ok(());
        };
        let split = fencing.was_split(connection.opened_at);
        let broke = match connection.host {
            Some((host, breaks)) => self.breaks[host] != breaks,
            // Half-open somewhere, or lost on the way.
            None => {
                let breaks = self.breaks.iter().sum::<u32>() != connection.breaks;
                breaks || self.troubled_at >= connection.opened_at
            }
        };
        if connection.cut || split || broke {
            return Ok(());
        }
        let host = connection.host.map_or_else(
            || "no host".to_owned(),
            |(host, _)| format!("host {}", host + 1),
        );
        let tuple = key.0;
        Err((
            "nothing breaks on purpose",
            format!("{tuple:?}, accepted by {host}, was reset"),
        ))
    }
}
