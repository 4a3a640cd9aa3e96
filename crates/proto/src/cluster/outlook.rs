//! The outlook: what this host makes of all that it hears. Which hosts can form a cluster, who proposes
//! the next map, which rules it serves, and who is left out and why.
//!
//! Every host looks by itself; hosts that heard the same see the same. Nothing here changes the state; what
//! follows from an outlook happens in `convergence.rs`. Specification: docs/design.md, "Membership".

use super::Cluster;
use super::Role;
use super::peer::Peer;
use super::view::Hearing;
use crate::config::ClusterMode;
use crate::ids::{Digest, HostId, HostSet};
use crate::time::Time;
use crate::wire::heartbeat::{Announced, Base};
use std::collections::BTreeMap;
use std::time::Duration;

/// Why a live host is not in the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeftOut {
    /// Its rules are not the others'.
    Rules,
    /// Its mode is not the others', and so its rules.
    Mode,
    /// It was lost again and again.
    Flapping,
    /// It does not know yet who else is there.
    Listening,
    /// It does not hear this host of the view, or is not heard by it.
    Hearing(HostId),
}

/// What a host makes of what it hears.
#[derive(Clone, Debug, Default)]
pub(super) struct Outlook {
    /// Hosts that are heard, and this one.
    pub(super) alive: HostSet,
    /// The newest map that any has committed with whom this host shares the segment in both directions.
    pub(super) anchor: Option<Base>,
    /// Who should be members.
    pub(super) view: HostSet,
    /// Those of them that should own buckets.
    pub(super) owners: HostSet,
    /// Who proposes.
    pub(super) coordinator: Option<HostId>,
    /// The rule set that the next map is for.
    pub(super) rules: Digest,
    /// Live hosts that could join, but were lost again and again.
    pub(super) kept_out: HostSet,
    /// Live hosts that are not in the view.
    pub(super) left_out: Vec<(HostId, LeftOut)>,
}

impl Cluster {
    /// The map a live host has committed.
    pub(super) fn base_of(&self, host: HostId) -> Option<Base> {
        let map = if host == self.config.host {
            self.committed.as_ref().map(|map| map.name())
        } else {
            self.peers
                .alive_peer(host)
                .and_then(|peer| peer.heartbeat.committed)
        };
        map.map(|map| Base {
            epoch: map.ballot.epoch,
            digest: map.digest,
        })
    }

    /// The rule sets a live host can serve, its wish first.
    fn offers_of(&self, host: HostId) -> impl Iterator<Item = Digest> {
        let me = host == self.config.host;
        let wish = me.then(|| self.offered.digest());
        let in_force = self
            .committed
            .as_ref()
            .filter(|_| me)
            .map(|map| map.rules.digest());
        let peer = self.peers.alive_peer(host);
        let told = peer
            .into_iter()
            .flat_map(|peer| peer.heartbeat.offers.iter().map(|offer| offer.rules));
        wish.into_iter().chain(in_force).chain(told)
    }

    /// In which mode frames reach a live host.
    fn mode_of(&self, host: HostId) -> Option<ClusterMode> {
        if host == self.config.host {
            return Some(self.delivery().mode());
        }
        let peer = self.peers.alive_peer(host);
        peer.map(|peer| peer.heartbeat.mode)
    }

    /// Whether a live host that cannot serve these rules is in another mode than those who can.
    fn is_in_other_mode(&self, host: HostId, able: HostSet) -> bool {
        let theirs = able.lowest().and_then(|able| self.mode_of(able));
        theirs.is_some_and(|mode| self.mode_of(host) != Some(mode))
    }

    /// What a live host wishes most.
    pub(super) fn wish_of(&self, host: HostId) -> Option<Digest> {
        self.offers_of(host).next()
    }

    /// Whether a member of the map in force is not in this view that has not said goodbye.
    fn leaves_someone_out(&self, view: HostSet) -> bool {
        let members = self
            .committed
            .as_ref()
            .map_or(HostSet::EMPTY, |map| map.proposal.view);
        let missing = members.without(view);
        missing
            .iter()
            .any(|host| self.peers.get(host).is_some_and(|peer| !peer.has_left()))
    }

    /// Whether this host has listened long enough to have heard everyone who is there, and to have outwaited everyone
    /// it does not know of: one that ran late may have a lease by the longest tolerance.
    pub(super) fn has_listened(&self, now: Time) -> bool {
        let peers = self
            .peers
            .alive()
            .map(|(_, peer)| peer.heartbeat.timing.expiry());
        let longest = peers.fold(self.config.timing.longest().expiry(), Duration::max);
        now >= self.listening_since + longest
    }

    fn is_listening(&self, now: Time, host: HostId) -> bool {
        if host == self.config.host {
            return self.committed.is_none() && !self.has_listened(now);
        }
        self.peers
            .alive_peer(host)
            .is_some_and(|peer| peer.heartbeat.announced == Announced::Listening)
    }

    pub(super) fn is_leaving(&self, host: HostId) -> bool {
        if host == self.config.host {
            return matches!(self.role, Role::Leaving { .. } | Role::Draining { .. });
        }
        self.peers.alive_peer(host).is_some_and(|peer| {
            matches!(
                peer.heartbeat.announced,
                Announced::Leaving | Announced::Draining
            )
        })
    }

    pub(super) fn look(&self, now: Time) -> Outlook {
        let alive: HostSet = self
            .peers
            .alive()
            .map(|(host, _)| host)
            .collect::<HostSet>()
            .union(self.me());
        let mutual = self.mutual(now);
        // One that does not hear this host must not decide for it which map counts.
        let anchor = mutual.iter().filter_map(|host| self.base_of(host)).max();
        let members: HostSet = match anchor {
            Some(_) => mutual
                .iter()
                .filter(|host| self.base_of(*host) == anchor)
                .collect(),
            None => HostSet::EMPTY,
        };
        let rules = self.rules_to_serve(alive, members);
        let can_serve = |host: &HostId| self.offers_of(*host).any(|offer| offer == rules);
        let able: HostSet = alive.iter().filter(can_serve).collect();
        // Hosts that have just started do not know whose lease they granted before. They join a cluster, but do not
        // help to found one, or to leave out a member.
        let listening: HostSet = able
            .iter()
            .filter(|host| self.is_listening(now, *host))
            .collect();
        let hearing = self.hearing(alive, mutual);
        let view_of = |newcomers: HostSet| hearing.view(members.intersection(able), newcomers);
        let kept_out = match view_of(HostSet::EMPTY).lowest() {
            Some(coordinator) => self
                .kept_from_joining(now, coordinator, members)
                .intersection(able),
            None => HostSet::EMPTY,
        };
        let newcomers = able.without(members).without(kept_out);
        let everyone = view_of(newcomers);
        let settled = anchor.is_some() && !self.leaves_someone_out(everyone);
        let (view, fitting) = if settled {
            (everyone, able)
        } else {
            (
                view_of(newcomers.without(listening)),
                able.without(listening),
            )
        };
        let with_map = view.intersection(members);
        let eldest = if members.is_empty() { view } else { with_map };
        let left_out = alive.without(view).iter().map(|host| {
            let gap = hearing.first_gap(view.union(HostSet::only(host)));
            let reason = match gap {
                _ if !able.contains(host) && self.is_in_other_mode(host, able) => LeftOut::Mode,
                _ if !able.contains(host) => LeftOut::Rules,
                _ if kept_out.contains(host) => LeftOut::Flapping,
                _ if !fitting.contains(host) => LeftOut::Listening,
                Some((one, other)) => LeftOut::Hearing(if one == host { other } else { one }),
                None => LeftOut::Hearing(host),
            };
            (host, reason)
        });
        Outlook {
            alive,
            anchor,
            view,
            owners: view.iter().filter(|host| !self.is_leaving(*host)).collect(),
            coordinator: eldest.lowest(),
            rules,
            kept_out,
            left_out: left_out.collect(),
        }
    }

    /// The rule set of the next map: what all members wish alike, else what is in force; in a fresh cluster what most
    /// hosts wish, and among equals what the lowest of them wishes.
    fn rules_to_serve(&self, alive: HostSet, members: HostSet) -> Digest {
        let wish = |host: HostId| self.wish_of(host);
        let nothing = Digest::default();
        if let Some(lowest) = members.lowest() {
            let wishes: Vec<_> = members.iter().filter_map(wish).collect();
            let agreed = wishes
                .first()
                .filter(|first| wishes.iter().all(|wish| wish == *first));
            let in_force = || self.offers_of(lowest).last();
            return agreed.copied().or_else(in_force).unwrap_or(nothing);
        }
        let mut votes: BTreeMap<_, (u32, std::cmp::Reverse<HostId>)> = BTreeMap::new();
        for host in alive.iter() {
            if let Some(wish) = wish(host) {
                let (count, _) = votes.entry(wish).or_insert((0, std::cmp::Reverse(host)));
                *count += 1;
            }
        }
        let most = votes.into_iter().max_by_key(|(_, votes)| *votes);
        most.map_or(nothing, |(wish, _)| wish)
    }

    /// Whether a peer hears this host: it echoes its present incarnation, and what it has not echoed yet is not
    /// older than `patience`. A peer that has gone deaf is still heard, with an echo that stands still.
    pub(super) fn echoes_me(&self, now: Time, peer: &Peer, patience: Duration) -> bool {
        peer.echoed.is_some_and(|sequence| {
            let unheard_since = self.sent.sent_after(sequence);
            unheard_since.is_none_or(|since| now < since + patience)
        })
    }

    /// The live hosts that this host shares a segment with in both directions, and itself.
    fn mutual(&self, now: Time) -> HostSet {
        let peers = self.peers.alive();
        let echoing = peers.filter(|(_, peer)| self.echoes_me(now, peer, peer.patience()));
        let echoing: HostSet = echoing.map(|(host, _)| host).collect();
        echoing.union(self.me())
    }

    fn hearing(&self, alive: HostSet, mutual: HostSet) -> Hearing {
        let own = (self.config.host, alive);
        let others = self.peers.alive().map(|(host, peer)| {
            let mut hears = peer.hears.without(self.me());
            if mutual.contains(host) {
                hears.insert(self.config.host);
            }
            (host, hears)
        });
        Hearing::new([own].into_iter().chain(others))
    }
}
