//! The lease: until when this host may serve without hearing more (docs/design.md, "Membership").
//!
//! A host may serve as long as every peer that it hears has confirmed, by echo, a heartbeat that is not
//! older than the tolerance. Peers wait longer than that before they take over. Renewing on sending alone
//! would make two owners: of a mute host, and of one whose last heartbeat was lost before it stalled.

use super::lingering::Lingering;
use super::peer::Peer;
use super::{Cluster, Output};
use crate::config::Timing;
use crate::event::{Event, FenceReason};
use crate::ids::{HostId, HostSet};
use crate::time::Time;
use std::collections::VecDeque;
use std::time::Duration;

/// Lets the slack for clock granularity cover what lies between reading the clock and acting on it.
const EXTRA_MARGIN: Duration = Duration::from_micros(500);

/// Heartbeats that may still be echoed; more than the longest tolerance needs at the highest rate.
const MAX_SENT: usize = 2048;

/// One heartbeat that this host sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) sequence: u64,
    pub(super) at: Time,
    /// Tolerance times period as announced in it.
    pub(super) budget: Duration,
}

/// This host's own recent heartbeats.
#[derive(Clone, Debug, Default)]
pub(super) struct SentLog(VecDeque<Sent>);

impl SentLog {
    pub(super) fn record(&mut self, sequence: u64, at: Time, timing: Timing) {
        self.push(Sent {
            sequence,
            at,
            budget: timing.budget(),
        });
    }

    /// Adds a heartbeat with a higher sequence than all that are there.
    pub(super) fn push(&mut self, sent: Sent) {
        if self.0.len() == MAX_SENT {
            self.0.pop_front();
        }
        self.0.push_back(sent);
    }

    /// All that are remembered, in order of their sequence.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Sent> {
        self.0.iter()
    }

    /// Until when the heartbeat with this sequence lets this host serve, once echoed.
    pub(super) fn serves_until(&self, sequence: u64) -> Option<Time> {
        let index = self
            .0
            .binary_search_by_key(&sequence, |sent| sent.sequence)
            .ok()?;
        self.0.get(index).map(|sent| sent.at + sent.budget)
    }

    /// When the first heartbeat after this one was sent. It is asked for every peer with every frame, and mostly for one
    /// of the newest: as each has a number of its own, no more can be newer than there are numbers.
    pub(super) fn sent_after(&self, sequence: u64) -> Option<Time> {
        let newest = self.0.back()?.sequence;
        let newer = usize::try_from(newest.saturating_sub(sequence)).unwrap_or(usize::MAX);
        let candidates = self.0.range(self.0.len().saturating_sub(newer)..);
        let mut newer = candidates.filter(|sent| sent.sequence > sequence);
        newer.next().map(|sent| sent.at)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Cluster {
    /// Until when this host may serve in a map with this view, from what has been heard by `now`. `None`: it
    /// learns nothing new, because all other members are silent or too few are left for a quorum.
    ///
    /// Members that are heard but have stopped to echo this host cannot hear it. If they and the silent ones, who may
    /// hear each other, are the smaller part, they are deaf, and their last echo must not end everybody's lease; if
    /// not, they may agree on a map without this host.
    pub(super) fn lease_in(&self, now: Time, view: HostSet) -> Option<Time> {
        let margin = self.config.clock_granularity + EXTRA_MARGIN;
        let heard: HostSet = view
            .iter()
            .filter(|host| {
                self.peers
                    .alive_peer(*host)
                    .is_some_and(|peer| now < peer.heard_at + self.patience_with(peer))
            })
            .collect();
        let mutual: HostSet = heard
            .iter()
            .filter(|host| {
                self.peers
                    .alive_peer(*host)
                    .is_some_and(|peer| self.echoes_me(now, peer, self.patience_with(peer)))
            })
            .collect();
        let ours = mutual.union(self.me());
        let has_left = |host: &HostId| self.peers.get(*host).is_some_and(Peer::has_left);
        let others = view.without(ours).iter();
        let apart: HostSet = others.filter(|host| !has_left(host)).collect();
        let larger = (ours.len(), apart.lowest()) > (apart.len(), ours.lowest());
        let confirming = if larger { mutual } else { heard };
        if !self.is_quorate(ours) {
            return None;
        }
        if view.without(self.me()).iter().all(|host| has_left(&host)) {
            // Nobody is left who could take over, or confirm anything. Not by what it announced: nobody has heard that it asks for a longer tolerance.
            return Some(self.last_heartbeat_at + self.config.timing.budget() - margin);
        }
        let confirmed = confirming
            .iter()
            .filter_map(|host| self.peers.alive_peer(host));
        confirmed.map(|peer| peer.renews_until - margin).min()
    }

    /// The age up to which a peer's word counts for the lease: not longer than the lease lasts without it.
    fn patience_with(&self, peer: &Peer) -> Duration {
        peer.patience().min(self.config.timing.patience())
    }

    /// Gives up the map for good if the lease has run out, and likewise a map that is only acknowledged.
    pub(super) fn check_lease(&mut self, now: Time) {
        if now >= self.staged_until {
            self.withdraw();
        }
        if self.committed.is_some() && now >= self.lease {
            let ago = now.since(self.lease);
            self.fence(now, FenceReason::LeaseLapsed { ago });
        }
    }

    pub(super) fn fence(&mut self, now: Time, reason: FenceReason) {
        self.stop_serving();
        self.emit(Event::Fenced { reason });
        self.set_converging(now);
        if self.takes_part() {
            self.hurry(now);
        }
    }

    /// Forgets every map, so that only a new commit can make this host serve again.
    pub(super) fn stop_serving(&mut self) {
        (self.committed, self.staged, self.proposed) = (None, None, None);
        (self.transfer, self.wanted) = (None, None);
        self.lingering = Lingering::default();
        self.lease = Time::ZERO;
        self.outputs.push_back(Output::Fence);
    }

    /// Holds no map ready any more. Returns whether it did.
    pub(super) fn withdraw(&mut self) -> bool {
        let held = self.staged.take().is_some();
        if held {
            self.outputs.push_back(Output::Withdraw);
            self.lingering.news = true;
        }
        held
    }

    pub(super) fn renew_lease(&mut self, now: Time) {
        if let Some(staged) = &self.staged
            && let Some(until) = self.lease_in(now, staged.proposal.view)
            && until > self.staged_until
        {
            self.staged_until = until;
            self.outputs.push_back(Output::StagedLease(until));
        }
        let Some(committed) = &self.committed else {
            return;
        };
        if let Some(until) = self.lease_in(now, committed.proposal.view)
            && until > self.lease
        {
            self.lease = until;
            self.outputs.push_back(Output::Lease(until));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_and_finds_by_sequence() {
        let timing = Timing {
            period: Duration::from_millis(10),
            tolerance: 3,
        };
        let mut log = SentLog::default();
        for sequence in 1..=3000 {
            log.record(sequence, Time::from_micros(sequence * 1000), timing);
        }
        assert_eq!(log.0.len(), MAX_SENT);
        assert_eq!(log.serves_until(900), None);
        assert_eq!(log.serves_until(2500), Some(Time::from_micros(2_530_000)));
        assert_eq!(log.serves_until(3000), Some(Time::from_micros(3_030_000)));
    }

    #[test]
    fn the_first_heartbeat_after_another_is_found_across_gaps() {
        let timing = Timing {
            period: Duration::from_millis(10),
            tolerance: 3,
        };
        let mut log = SentLog::default();
        assert_eq!(log.sent_after(0), None);
        let sequences: Vec<u64> = (1..4000).filter(|n| n % 7 != 0 && n % 50 != 1).collect();
        for sequence in &sequences {
            log.record(*sequence, Time::from_micros(*sequence), timing);
        }
        let oldest = sequences.len() - MAX_SENT;
        for wanted in 0..4010 {
            let after = sequences[oldest..].iter().find(|sent| **sent > wanted);
            assert_eq!(
                log.sent_after(wanted),
                after.map(|sent| Time::from_micros(*sent))
            );
        }
        assert_eq!(log.sent_after(u64::MAX), None);
    }
}
