//! Sticky rules: a bucket that is to move waits with its owner until it has been idle for the rule's time, so that
//! clients that come back soon find the host they know (docs/design.md, "Data path").
//!
//! ```text
//!   every host: "these of my buckets are busy" --> coordinator: next map leaves them where they are (held)
//!                                                  every few seconds: has one become idle? then the next map
//! ```
//!
//! Ownership alone decides about packets; no list of clients exists, and none is exchanged.

use super::Cluster;
use crate::allotment::place;
use crate::buckets::BucketSet;
use crate::ids::{Digest, HostId};
use crate::rules::{Claim, RuleSet};
use crate::time::Time;
use crate::wire::heartbeat::{Proposal, Subject};
use covey_filter::BUCKETS;
use std::time::Duration;

/// How often the coordinator looks whether buckets that wait can move. Each time may be a new map.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What the coordinator knows of moves that wait.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sticky {
    pub(super) look_at: Time,
    /// Some buckets that were held could move now.
    pub(super) due: bool,
}

pub(super) fn is_any_sticky(rules: &RuleSet) -> bool {
    rules.rules().iter().any(|rule| rule.sticky.is_some())
}

impl Cluster {
    /// The buckets that a map for these rules leaves where they are. Those of a host that has not reported under the
    /// map in force all count as busy.
    pub(super) fn held_now(&self, rules: &RuleSet) -> BucketSet {
        let Some(map) = self.committed.as_ref().filter(|_| is_any_sticky(rules)) else {
            return BucketSet::EMPTY;
        };
        let epoch = map.proposal.ballot.epoch;
        let mut held = BucketSet::EMPTY;
        for host in map.proposal.owners.iter() {
            let told = if host == self.config.host {
                self.lingering.busy()
            } else {
                self.peers.get(host).and_then(|peer| {
                    let report = peer.heartbeat.report?;
                    peer.sticky_set(report.sticky)
                        .filter(|_| report.epoch == epoch)
                })
            };
            held = held.union(&told.unwrap_or_else(|| self.owned_under_sticky_rules(host)));
        }
        held
    }

    fn owned_under_sticky_rules(&self, host: HostId) -> BucketSet {
        let Some(map) = &self.committed else {
            return BucketSet::EMPTY;
        };
        let rules = (1u8..).zip(map.rules.rules());
        let maps = rules.filter(|(_, rule)| rule.sticky.is_some());
        maps.flat_map(|(index, _)| {
            let owners = map.placement.map(index);
            (0..BUCKETS).filter(move |bucket| owners.owner(*bucket) == Some(host))
        })
        .collect()
    }

    /// The set that a proposal names; `None` while it has not arrived.
    pub(super) fn held_in(&self, proposal: &Proposal) -> Option<BucketSet> {
        if proposal.held == Digest(0) {
            return Some(BucketSet::EMPTY);
        }
        let proposer = proposal.ballot.proposer;
        if proposer == self.config.host {
            return self.proposed.as_ref().map(|own| own.held);
        }
        let peer = self.peers.alive_peer(proposer)?;
        let (digest, set) = peer.held.as_ref()?;
        (*digest == proposal.held).then_some(**set)
    }

    /// Sends the set that the open proposal names, before each heartbeat that carries it.
    pub(super) fn tell_held(&mut self, now: Time) {
        let held = self
            .proposed
            .as_ref()
            .map(|own| (own.proposal.held, own.held))
            .filter(|(digest, _)| *digest != Digest(0));
        if let Some((digest, held)) = held {
            self.send_in_chunks(now, Subject::Held(digest), &held.to_bytes());
        }
    }

    /// As coordinator: looks from time to time whether buckets that were held could move now.
    pub(super) fn review_sticky(&mut self, now: Time) {
        if !self.looks_after_sticky_rules() || now < self.sticky.look_at {
            return;
        }
        self.sticky.look_at = now + LOOK_EVERY;
        let Some(map) = &self.committed else { return };
        let claim = |host: HostId, rule: usize| -> Claim { map.claim_of(host, rule) };
        let owners = map.proposal.owners;
        let held = self.held_now(&map.rules);
        let next = place(Some(&map.placement), &map.rules, owners, claim, &held);
        self.sticky.due = next.digest() != map.proposal.result;
    }

    /// Whether this host is the one that proposes moves, and some rule is sticky.
    pub(super) fn looks_after_sticky_rules(&self) -> bool {
        self.outlook.coordinator == Some(self.config.host)
            && self
                .committed
                .as_ref()
                .is_some_and(|map| is_any_sticky(&map.rules))
    }
}
