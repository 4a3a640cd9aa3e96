//! What else keeps hosts apart, or did: two other hosts with one ID, another mode, clusters that had been parted,
//! and single-host rules that two hosts claim alike. Each is told by name, once while it lasts.
//!
//! Called when a message has been heard (`hearing.rs`) and from `Cluster::review`. Nothing here changes who serves.
//! Specification: docs/design.md, "Membership"; NLB's events 18 and 20: NLB facts §5.4.

use super::Cluster;
use super::trouble::Twins;
use crate::config::ClusterMode;
use crate::event::Event;
use crate::ids::{Epoch, HostId, HostSet, Mac};
use crate::rules::FilterMode;
use crate::time::Time;
use std::collections::BTreeSet;

/// Another host that uses the ID of a peer.
#[derive(Clone, Debug)]
pub(super) struct Twin {
    mac: Mac,
    since: Time,
    heard_at: Time,
    told: bool,
}

/// What people have been told.
#[derive(Clone, Debug, Default)]
pub(super) struct Conflicts {
    /// Whether this host has served since it joined.
    pub(super) has_served: bool,
    /// When a host was met last that served another map.
    met_at: Option<Time>,
    /// Hosts whose mode is not this host's, by when they were heard last.
    other_mode: Vec<(HostId, Time)>,
    /// The map whose claims have been compared.
    compared: Epoch,
    /// Rule, counted from 1, and the two hosts.
    equal_priorities: BTreeSet<(usize, HostId, HostId)>,
}

impl Cluster {
    /// A message came from another NIC than that of the live peer with its ID. Only if both go on speaking are there
    /// two: the machine may have got another NIC.
    pub(super) fn note_twin(&mut self, now: Time, host: HostId, (name, mac): (&str, Mac)) {
        let expiry = self.config.timing.expiry();
        let Some(peer) = self.peers.get_mut(host) else {
            return;
        };
        let fresh = Twin {
            mac,
            since: now,
            heard_at: now,
            told: false,
        };
        let known = peer.twin.take();
        let mut twin = known
            .filter(|twin| twin.mac == mac && now < twin.heard_at + expiry)
            .unwrap_or(fresh);
        twin.heard_at = now;
        let both_speak = peer.heard_at > twin.since + peer.heartbeat.timing.period;
        let tell = both_speak && !twin.told;
        twin.told |= both_speak;
        peer.twin = Some(twin);
        if tell {
            let one = (peer.sender.name.clone(), peer.sender.mac);
            let other = (name.to_owned(), mac);
            self.emit(Event::DuplicatePeer { host, one, other });
        }
    }

    /// A host is heard for the first time, or again. If it serves a map, and so does this host, and neither is in the
    /// other's, the two had been parted.
    pub(super) fn note_meeting(&mut self, now: Time, host: HostId) {
        let Some((peer, mine)) = self.peers.get(host).zip(self.committed.as_ref()) else {
            return;
        };
        if !peer.came_serving || mine.proposal.view.contains(host) {
            return;
        }
        let name = peer.sender.name.clone();
        let last = self.conflicts.met_at.replace(now);
        // The parts of a split meet host by host.
        if last.is_none_or(|last| now >= last + self.config.timing.expiry()) {
            self.emit(Event::PartitionHealed { host, name });
        }
    }

    /// Notes the mode of a host that speaks with the cluster's key, whether it is believed yet or not: in different
    /// modes hosts may well hear each other in one direction only.
    pub(super) fn note_mode(&mut self, now: Time, host: HostId, name: &str, mode: ClusterMode) {
        let here = self.delivery().mode();
        // A member that has yet to follow a change, or has followed before this host.
        let member = self
            .committed
            .as_ref()
            .is_some_and(|map| map.proposal.view.contains(host));
        let differs = mode != here && !member;
        let expiry = self.config.timing.expiry();
        let list = &mut self.conflicts.other_mode;
        list.retain(|(_, heard_at)| now < *heard_at + expiry);
        let known = list.iter_mut().find(|(known, _)| *known == host);
        match known {
            Some((_, heard_at)) if differs => *heard_at = now,
            Some(_) => list.retain(|(known, _)| *known != host),
            None if differs => {
                list.push((host, now));
                self.emit(Event::ModeDiffers {
                    host,
                    name: name.to_owned(),
                    there: mode,
                    here,
                });
            }
            None => {}
        }
    }

    /// Once per map: tells people of single-host rules that two hosts claim with one handling priority.
    pub(super) fn report_conflicts(&mut self) {
        let Some(map) = &self.committed else { return };
        self.conflicts.has_served = true;
        let epoch = map.proposal.ballot.epoch;
        if std::mem::replace(&mut self.conflicts.compared, epoch) == epoch {
            return;
        }
        let single = |mode| match mode {
            FilterMode::Single => true,
            FilterMode::Multiple { .. } | FilterMode::Disabled => false,
        };
        let mut found = BTreeSet::new();
        let mut events = Vec::new();
        let rules = map.rules.rules().iter().enumerate();
        for (index, _) in rules.filter(|(_, rule)| single(rule.mode)) {
            // Owners come in the order of their IDs, so the first to claim a priority takes the traffic.
            let mut claimed: Vec<(u8, HostId)> = Vec::new();
            for (host, claims) in &map.claims {
                let Some(claim) = claims.get(index).filter(|claim| claim.0 != 0) else {
                    continue;
                };
                let before = claimed.iter().find(|(priority, _)| *priority == claim.0);
                let Some((priority, taker)) = before else {
                    claimed.push((claim.0, *host));
                    continue;
                };
                let conflict = (index + 1, *taker, *host);
                found.insert(conflict);
                if !self.conflicts.equal_priorities.contains(&conflict) {
                    events.push(Event::EqualPriorities {
                        rule: index + 1,
                        priority: *priority,
                        taker: (*taker, self.name_of(*taker)),
                        other: (*host, self.name_of(*host)),
                    });
                }
            }
        }
        self.conflicts.equal_priorities = found;
        for event in events {
            self.emit(event);
        }
    }

    /// Single-host rules of the map in force that two hosts claim with one handling priority; the one that takes the
    /// traffic comes first.
    pub(super) fn equal_priorities(&self) -> Vec<(usize, HostId, HostId)> {
        let found = &self.conflicts.equal_priorities;
        match self.committed {
            Some(_) => found.iter().copied().collect(),
            None => Vec::new(),
        }
    }

    /// Other hosts of which two use one ID and both have spoken lately.
    pub(super) fn twins(&self, now: Time) -> impl Iterator<Item = Twins> {
        let expiry = self.config.timing.expiry();
        self.peers.alive().filter_map(move |(host, peer)| {
            let twin = peer.twin.as_ref()?;
            let speaks = twin.told && now < twin.heard_at + expiry;
            speaks.then(|| Twins {
                host,
                one: (peer.sender.name.clone(), peer.sender.mac),
                other: (None, twin.mac),
            })
        })
    }

    /// A host's name, this one's included.
    pub(super) fn name_of(&self, host: HostId) -> String {
        if host == self.config.host {
            return self.config.name.clone();
        }
        let peer = self.peers.get(host);
        peer.map_or_else(String::new, |peer| peer.sender.name.clone())
    }

    /// Hosts that speak now and whose mode is not this host's.
    pub(super) fn hosts_of_other_mode(&self, now: Time) -> HostSet {
        let expiry = self.config.timing.expiry();
        let hosts = self.conflicts.other_mode.iter();
        let speaking = hosts.filter(|(_, heard_at)| now < *heard_at + expiry);
        speaking.map(|(host, _)| *host).collect()
    }
}
