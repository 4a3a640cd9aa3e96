//! Hosts that are lost again and again: each time they come back everybody converges, and each time they go their
//! share is dark for the tolerance. So they are kept out for a while, longer each time.
//!
//! A loss is the end of a membership without a goodbye: by silence, by a restart, or by fencing. The first two are
//! free; after the third a host may not join for 4 budgets, then 8, 16, 32 and 64. All is forgotten once it has
//! been a member for twice as long. Every host counts for itself, but only the coordinator's count decides, and it
//! tells the others, so that all look for the same view. A host is only kept from joining a cluster that serves
//! without it, never from founding one. Specification: docs/design.md, "Membership".

use super::Cluster;
use super::peer::Peer;
use crate::event::Event;
use crate::ids::{HostId, HostSet, MAX_HOSTS};
use crate::time::Time;
use crate::wire::heartbeat::{Announced, KeptOut};
use std::time::Duration;

/// Losses without consequence.
const FREE: u32 = 2;
/// Budgets to wait after the first that is not free; doubled for each further one.
const FIRST_WAIT: u32 = 4;
/// The most budgets to wait.
pub(super) const LONGEST_WAIT: u32 = 64;

/// What is held against one host.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    losses: u32,
    /// Since when it has been in this host's map.
    member_since: Option<Time>,
    /// It may not join before.
    until: Time,
}

impl Record {
    /// Budgets to wait after so many losses.
    fn wait(self) -> u32 {
        match self.losses.checked_sub(FREE + 1) {
            None => 0,
            Some(doublings) => (FIRST_WAIT << doublings.min(8)).min(LONGEST_WAIT),
        }
    }

    /// Notes the end of a membership that began at `since`.
    fn lose(&mut self, now: Time, since: Time, budget: Duration) {
        let good = budget * 2 * self.wait().max(FIRST_WAIT);
        if now >= since + good {
            self.losses = 0;
        }
        self.losses = self.losses.saturating_add(1);
        self.until = now + budget * self.wait();
    }
}

/// What is held against all.
#[derive(Clone, Debug)]
pub(super) struct Flapping {
    records: Vec<Record>,
    /// Of whom people have been told.
    told: HostSet,
}

impl Default for Flapping {
    fn default() -> Self {
        Self {
            records: vec![Record::default(); usize::from(MAX_HOSTS)],
            told: HostSet::EMPTY,
        }
    }
}

impl Flapping {
    /// Who may not join yet.
    fn held(&self, now: Time) -> HostSet {
        let hosts = (1..=MAX_HOSTS).filter_map(HostId::new);
        hosts
            .filter(|host| now < self.records[host.index()].until)
            .collect()
    }

    /// When the next of them may.
    pub(super) fn next_release(&self, now: Time) -> Option<Time> {
        let untils = self.records.iter().map(|record| record.until);
        untils.filter(|until| *until > now).min()
    }
}

/// How a membership stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Membership {
    Holds,
    Unclear,
    Ended,
    Lost,
}

impl Cluster {
    /// Counts who has been lost since it was called last.
    pub(super) fn count_losses(&mut self, now: Time) {
        let hosts: Vec<(HostId, Membership, Duration)> = self
            .peers
            .iter()
            .map(|(host, peer)| {
                let membership = self.membership_of(host, peer);
                (host, membership, peer.heartbeat.timing.budget())
            })
            .collect();
        for (host, membership, budget) in hosts {
            let record = &mut self.flapping.records[host.index()];
            match (membership, record.member_since) {
                (Membership::Holds, None) => record.member_since = Some(now),
                (Membership::Lost, Some(since)) => {
                    record.member_since = None;
                    record.lose(now, since, budget);
                }
                (Membership::Ended, Some(_)) => record.member_since = None,
                (Membership::Holds | Membership::Unclear, Some(_))
                | (Membership::Unclear | Membership::Ended | Membership::Lost, None) => {}
            }
        }
    }

    fn membership_of(&self, host: HostId, peer: &Peer) -> Membership {
        let leaves = match peer.heartbeat.announced {
            Announced::Goodbye | Announced::Leaving | Announced::Draining => true,
            Announced::Converging | Announced::Converged | Announced::Listening => false,
        };
        if leaves {
            return Membership::Ended;
        }
        let Some(mine) = &self.committed else {
            // It may have been this host that failed: the next map will tell.
            return Membership::Unclear;
        };
        let member = peer.alive && mine.proposal.view.contains(host);
        let ballot = mine.proposal.ballot;
        let holds_it_ready = peer
            .heartbeat
            .staged
            .is_some_and(|ack| ack.ballot == ballot);
        match peer.heartbeat.committed {
            _ if !member => Membership::Lost,
            Some(theirs) if theirs == mine.name() => Membership::Holds,
            _ if holds_it_ready => Membership::Holds,
            Some(_) => Membership::Unclear,
            None => Membership::Lost,
        }
    }

    /// Hosts that the coordinator keeps from joining the members of a map.
    pub(super) fn kept_from_joining(
        &self,
        now: Time,
        coordinator: HostId,
        members: HostSet,
    ) -> HostSet {
        if members.iter().all(|host| self.is_leaving(host)) || !self.is_quorate(members) {
            // Somebody must go on, and with this one they could.
            return HostSet::EMPTY;
        }
        let kept_out = if coordinator == self.config.host {
            self.flapping.held(now)
        } else {
            let peer = self.peers.alive_peer(coordinator);
            let told = peer.and_then(|peer| peer.heartbeat.kept_out);
            told.map_or(HostSet::EMPTY, |told| told.hosts)
        };
        kept_out.without(members)
    }

    /// What this host, as coordinator, tells the others.
    pub(super) fn kept_out(&self, now: Time) -> Option<KeptOut> {
        let hosts = self.outlook.kept_out;
        let coordinates = self.outlook.coordinator == Some(self.config.host);
        (coordinates && !hosts.is_empty()).then(|| KeptOut {
            hosts,
            millis: u32::try_from(self.longest_hold(now, hosts).as_millis()).unwrap_or(u32::MAX),
        })
    }

    fn longest_hold(&self, now: Time, hosts: HostSet) -> Duration {
        let holds = hosts
            .iter()
            .map(|host| self.flapping.records[host.index()].until.since(now));
        holds.max().unwrap_or_default()
    }

    /// For how long at most a host is kept out, as far as this host knows.
    pub(super) fn kept_out_for(&self, now: Time, host: HostId) -> Duration {
        let coordinator = self.outlook.coordinator;
        if coordinator == Some(self.config.host) {
            return self.longest_hold(now, HostSet::only(host));
        }
        let peer = coordinator.and_then(|host| self.peers.alive_peer(host));
        let told = peer.and_then(|peer| Some((peer.heartbeat.kept_out?, peer.heard_at)));
        told.map_or(Duration::ZERO, |(told, at)| {
            (at + Duration::from_millis(u64::from(told.millis))).since(now)
        })
    }

    /// Tells people when a live host begins to be kept out.
    pub(super) fn report_kept_out(&mut self, now: Time) {
        let kept_out = self.outlook.kept_out;
        for host in kept_out.without(self.flapping.told).iter() {
            self.emit(Event::KeptOut {
                host,
                this_host: host == self.config.host,
                wait: self.kept_out_for(now, host),
            });
        }
        self.flapping.told = kept_out;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_and_is_forgotten() {
        let budget = Duration::from_secs(1);
        let mut record = Record::default();
        let mut now = Time::from_micros(1_000_000);
        let mut waits = Vec::new();
        for _ in 0..9 {
            let since = now;
            now = now + budget;
            record.lose(now, since, budget);
            waits.push(record.until.since(now).as_secs());
        }
        assert_eq!(waits, [0, 0, 4, 8, 16, 32, 64, 64, 64]);
        record.lose(now + budget * 127, now, budget);
        assert_eq!(record.wait(), 64);
        record.lose(now + budget * 128, now, budget);
        assert_eq!((record.losses, record.wait()), (1, 0));
    }
}
