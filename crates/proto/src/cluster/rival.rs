//! Other hosts with this host's ID: who of them proves that it is there, and which of the two goes first.
//!
//! A rival counts only once it has echoed a message that this host sent after hearing it first, as any host must
//! (`peer.rs`): recorded frames of a NIC that was exchanged keep nobody waiting. Each of two rivals tells people of the
//! other. Who serves goes first, so the incumbent stays and the newcomer waits; if both serve, because they met
//! only now, the one with the older map stops. Specification: docs/design.md, "On the wire".

use super::Cluster;
use crate::event::{Event, FenceReason};
use crate::ids::{HostId, Incarnation, Mac};
use crate::time::Time;
use crate::wire::Reject;
use crate::wire::heartbeat::{Base, Body, Echo, Sender};
use std::cmp::Reverse;
use std::time::Duration;

/// Rivals kept: a live one and one that is replayed.
const MAX_RIVALS: usize = 2;

/// A host that says that it has this host's ID.
#[derive(Clone, Debug)]
struct Rival {
    name: String,
    mac: Mac,
    incarnation: Incarnation,
    sequence: u64,
    since: Time,
    heard_at: Time,
    /// It must echo this or a later sequence of this host.
    challenge: u64,
    proven: bool,
    map: Option<Base>,
    /// Whether it has served since it started.
    has_served: bool,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Rivals(Vec<Rival>);

/// Of two hosts with one ID the one with the greater right stays: who serves, by the newer map; then who has served;
/// then who has the lower MAC.
type Right = (Option<Base>, bool, Reverse<Mac>);

impl Rival {
    const fn right(&self) -> Right {
        (self.map, self.has_served, Reverse(self.mac))
    }
}

impl Rivals {
    /// Forgets those that have been silent for so long; whether one of them had been there.
    fn forget_silent(&mut self, now: Time, patience: Duration) -> bool {
        let before = self.proven().count();
        self.0.retain(|rival| now < rival.heard_at + patience);
        self.proven().count() < before
    }

    /// What lets them prove that they are there.
    pub(super) fn echoes(&self, host: HostId) -> impl Iterator<Item = Echo> {
        self.0.iter().map(move |rival| Echo {
            host,
            tag: rival.incarnation.tag(),
            sequence: rival.sequence as u32,
        })
    }

    fn proven(&self) -> impl Iterator<Item = &Rival> {
        self.0.iter().filter(|rival| rival.proven)
    }

    /// Makes room for one more; false if there is none.
    fn make_room(&mut self) -> bool {
        if self.0.len() == MAX_RIVALS {
            let unproven = self.0.iter().enumerate().filter(|(_, rival)| !rival.proven);
            let stalest = unproven.min_by_key(|(_, rival)| rival.heard_at);
            let Some((index, _)) = stalest else {
                return false;
            };
            self.0.swap_remove(index);
        }
        true
    }
}

impl Cluster {
    /// Takes a message from another NIC with this host's ID. Says how it is counted.
    pub(super) fn on_rival(&mut self, now: Time, sender: Sender, body: &Body) -> Reject {
        let Body::Heartbeat(heartbeat) = body else {
            return Reject::DuplicateId;
        };
        let (next, mut rivals) = (self.sequence + 1, std::mem::take(&mut self.rivals));
        let known = rivals
            .0
            .iter()
            .position(|rival| (rival.mac, rival.incarnation) == (sender.mac, sender.incarnation));
        let reason = match known {
            Some(index) if sender.sequence <= rivals.0[index].sequence => Reject::Replay,
            Some(index) => {
                let rival = &mut rivals.0[index];
                let echo = heartbeat.echo_of(self.config.host, self.config.incarnation);
                let echoed = echo.and_then(|echo| self.whole_sequence(echo.sequence));
                let proves = echoed.is_some_and(|sequence| sequence >= rival.challenge);
                if proves && !rival.proven {
                    rival.proven = true;
                    self.emit(Event::DuplicateId {
                        host: sender.host,
                        mac: sender.mac,
                        name: sender.name,
                    });
                }
                rival.sequence = sender.sequence;
                rival.heard_at = now;
                rival.map = heartbeat.committed.map(|map| Base {
                    epoch: map.ballot.epoch,
                    digest: map.digest,
                });
                rival.has_served |= rival.map.is_some();
                Reject::DuplicateId
            }
            None => {
                if rivals.make_room() {
                    rivals.0.push(Rival {
                        name: sender.name,
                        mac: sender.mac,
                        incarnation: sender.incarnation,
                        sequence: sender.sequence,
                        since: now,
                        heard_at: now,
                        challenge: next,
                        proven: false,
                        map: None,
                        has_served: heartbeat.committed.is_some(),
                    });
                }
                Reject::DuplicateId
            }
        };
        if rivals.0.iter().any(|rival| !rival.proven) {
            // It needs an echo at once, and so does this host.
            self.hurry(now);
        }
        self.rivals = rivals;
        reason
    }

    fn right(&self) -> Right {
        let map = self.committed.as_ref().map(|map| map.base());
        (map, self.conflicts.has_served, Reverse(self.config.mac))
    }

    /// Whether a rival keeps this host from converging alone: one that goes first, or one that has had no time yet
    /// to prove that it is there.
    pub(super) fn is_rivalled(&self, now: Time) -> bool {
        let long_enough = self.config.timing.expiry() * 2;
        let mut rivals = self.rivals.0.iter();
        rivals.any(|rival| match rival.proven {
            true => self.right() < rival.right(),
            false => now < rival.since + long_enough,
        })
    }

    /// Name and MAC of a rival that is there.
    pub(super) fn rival(&self) -> Option<(&str, Mac)> {
        let mut proven = self.rivals.proven();
        proven.next().map(|rival| (rival.name.as_str(), rival.mac))
    }

    /// When a rival has gone, this host begins anew: to the others it is a host that they do not know yet.
    pub(super) fn outlive_rivals(&mut self, now: Time) {
        let gone = self.rivals.forget_silent(now, self.config.timing.expiry());
        if gone && self.committed.is_none() {
            self.listening_since = now;
            self.peers.forget_candidates();
        }
    }

    /// Stops serving when a rival that goes first serves too.
    pub(super) fn yield_to_rival(&mut self, now: Time) {
        let serves = self.committed.is_some();
        if serves
            && self
                .rivals
                .proven()
                .any(|rival| self.right() < rival.right())
        {
            self.fence(now, FenceReason::DuplicateId);
        }
    }
}
