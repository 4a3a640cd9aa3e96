//! A host's account of itself, for `covey status` and the simulator.

use super::outlook::LeftOut;
use super::probing::{self, Claimant};
use super::role::Role;
use super::trouble::Troubles;
use super::{Cluster, PortState};
use crate::config::Timing;
use crate::ids::{Digest, Epoch, HostId, HostSet, Mac};
use crate::placement::Placement;
use crate::rules::{Claim, RuleSet};
use crate::time::Time;
use crate::wire::heartbeat::{Announced, Reach};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// NLB's host states (KB242242).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostState {
    /// Not taking part.
    Stopped,
    /// Not taking part, and heeding no command but resume.
    Suspended,
    /// Taking part, but not (yet) in a committed map that it may serve.
    Converging,
    /// Finishing its connections before it stops.
    Draining,
    /// In the committed map, and there is no other map under way.
    Converged,
    /// Likewise, and it takes the traffic that no rule covers.
    Default,
}

/// What a host knows of itself and its cluster.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its state.
    pub state: HostState,
    /// What it tells the others about its part; `None` when it is stopped.
    pub announced: Option<Announced>,
    /// The map in force.
    pub epoch: Epoch,
    /// Its digest.
    pub digest: Digest,
    /// Its members.
    pub view: HostSet,
    /// The members that own buckets; the lowest is the default host.
    pub owners: HostSet,
    /// Who owns what; `None` without a map.
    pub placement: Option<Arc<Placement>>,
    /// The rules in force, or else the offered ones.
    pub rules: Arc<RuleSet>,
    /// This host's claims for them.
    pub claims: Vec<Claim>,
    /// How this host handles them.
    pub port_states: Vec<PortState>,
    /// Open connections to virtual IPs in the last count; `None` when none are being counted. They are while the
    /// host or a rule drains, or while the host has connections in buckets of others.
    pub connections: Option<usize>,
    /// Until when it may serve.
    pub lease: Time,
    /// How often it has entered a converging state since it joined.
    pub times_converging: u64,
    /// The highest protocol version that it speaks.
    pub version: u16,
    /// The lowest protocol version among the live hosts.
    pub feature_level: u16,
    /// Live hosts that may not join for now, because they were lost again and again.
    pub kept_out: HostSet,
    /// The timing that it announces: longer than configured while it runs late.
    pub timing: Timing,
    /// What it waits for, in words.
    pub waiting_for: Option<String>,
    /// What is wrong, as values.
    pub troubles: Troubles,
    /// What it knows of its segment.
    pub network: NetworkSnapshot,
    /// The other hosts it has heard, in order of ID.
    pub members: Vec<MemberSnapshot>,
}

/// What a host knows of its segment.
#[derive(Clone, Debug)]
pub struct NetworkSnapshot {
    /// Time between two probes of this host.
    pub probe_interval: Duration,
    /// What this host and each live one tell of the paths to them, in order of ID.
    pub reaches: Vec<(HostId, Reach)>,
    /// The host at whose port a switch has learned the cluster MAC, if that can be told.
    pub learned_at: Option<HostId>,
    /// Whoever says that it has a virtual IP with another MAC than the cluster's, the newest last.
    pub claimants: Vec<Claimant>,
}

/// What a host knows of another.
#[derive(Clone, Debug)]
pub struct MemberSnapshot {
    /// Its ID.
    pub host: HostId,
    /// Its name.
    pub name: String,
    /// Its dedicated IP.
    pub dip: Ipv4Addr,
    /// Its MAC.
    pub mac: Mac,
    /// The highest protocol version that it speaks.
    pub version: u16,
    /// Its last word on its part.
    pub announced: Announced,
    /// Whether it is alive.
    pub alive: bool,
    /// Whom it hears.
    pub hears: HostSet,
    /// Age of its last heartbeat.
    pub last_heartbeat: Duration,
    /// Its map.
    pub epoch: Epoch,
    /// Heartbeats heard.
    pub heartbeats: u64,
    /// Heartbeats that never arrived.
    pub lost: u64,
    /// What is wrong with it in its own eyes: numbers of findings.
    pub findings: Vec<u8>,
}

impl Cluster {
    /// The account, at time `now`.
    pub fn snapshot(&self, now: Time) -> Snapshot {
        let map = self.committed.as_ref();
        Snapshot {
            state: self.state(),
            announced: self.announced(now),
            epoch: map.map_or(Epoch(0), |map| map.proposal.ballot.epoch),
            digest: map.map_or(Digest(0), |map| map.proposal.result),
            view: map.map_or(HostSet::EMPTY, |map| map.proposal.view),
            owners: map.map_or(HostSet::EMPTY, |map| map.proposal.owners),
            placement: map.map(|map| map.placement.clone()),
            rules: self.rules().clone(),
            claims: map
                .map_or(&self.offered_claims, |map| &map.own_claims)
                .clone(),
            port_states: {
                let rules = self.rules().rules();
                rules.iter().map(|rule| self.port_states.of(rule)).collect()
            },
            connections: self.lingering.open,
            lease: self.lease,
            times_converging: self.times_converging,
            version: self.config.version,
            feature_level: self.feature_level(),
            kept_out: self.outlook.kept_out,
            timing: self.timing(),
            waiting_for: self.waiting_for(now),
            troubles: self.troubles(now),
            network: self.network(now),
            members: self.members(now),
        }
    }

    /// The rules in force, or else the offered ones.
    pub fn rules(&self) -> &Arc<RuleSet> {
        let map = self.committed.as_ref();
        map.map_or(&self.offered, |map| &map.rules)
    }

    /// The host's state, as NLB has them.
    pub fn state(&self) -> HostState {
        let map = self.committed.as_ref().filter(|_| self.is_converged());
        match (self.role, map) {
            (Role::Stopped, _) => HostState::Stopped,
            (Role::Suspended, _) => HostState::Suspended,
            (Role::Draining { .. }, _) => HostState::Draining,
            (Role::Active, Some(map)) => {
                if map.proposal.owners.lowest() == Some(self.config.host) {
                    HostState::Default
                } else {
                    HostState::Converged
                }
            }
            (Role::Active, None) => HostState::Converging,
            // On its way out; it still serves until the others have a map without it.
            (Role::Leaving { .. } | Role::Parting { .. }, _) => HostState::Draining,
        }
    }

    fn network(&self, now: Time) -> NetworkSnapshot {
        let reaches = self.reaches(now);
        NetworkSnapshot {
            probe_interval: probing::interval(self.config.timing),
            learned_at: probing::learned_at(&reaches),
            reaches,
            claimants: self.claimants(),
        }
    }

    fn members(&self, now: Time) -> Vec<MemberSnapshot> {
        let member = |(host, peer): (HostId, &super::peer::Peer)| MemberSnapshot {
            host,
            name: peer.sender.name.clone(),
            dip: peer.sender.dip,
            mac: peer.sender.mac,
            version: peer.sender.version,
            announced: peer.heartbeat.announced,
            alive: peer.alive,
            hears: peer.heartbeat.hears(),
            last_heartbeat: now.since(peer.heard_at),
            epoch: peer
                .heartbeat
                .committed
                .map_or(Epoch(0), |map| map.ballot.epoch),
            heartbeats: peer.heartbeats,
            lost: peer.lost,
            findings: peer.heartbeat.findings.clone(),
        };
        self.peers.iter().map(member).collect()
    }

    /// Why the host is not converged, if there is something to say.
    fn waiting_for(&self, now: Time) -> Option<String> {
        if !self.takes_part() || self.is_converged() {
            return None;
        }
        let me = self.config.host;
        if let Some((name, mac)) = self.rival()
            && self.committed.is_none()
        {
            return Some(format!("host ID {me} is also used by {name} ({mac})"));
        }
        if self.heartbeats_blocked {
            return Some(
                "the other hosts answer ARP, but their heartbeats do not arrive".to_owned(),
            );
        }
        if !self.link_up {
            return Some("the link of the network interface is down".to_owned());
        }
        if let Some(reason) = self.someone_left_out(now) {
            return Some(reason);
        }
        let of_other_mode = self.hosts_of_other_mode(now);
        if self.committed.is_none() && !of_other_mode.is_empty() {
            return Some(format!(
                "host(s) {of_other_mode} are set to another mode than this host"
            ));
        }
        if let Some((host, dip)) = self.stranger_that_speaks(now)
            && self.committed.is_none()
            && self.outlook.view == self.me()
            && !self.conflicts.has_served
        {
            return Some(format!(
                "host {host} at {dip} uses this cluster's address and cannot be believed, so this host does not begin \
                 to serve alone beside it"
            ));
        }
        let heard_by_others: HostSet = self.peers.alive().fold(HostSet::EMPTY, |all, (_, peer)| {
            all.union(peer.heartbeat.hears())
        });
        let unheard = heard_by_others.without(self.outlook.alive);
        if self.committed.is_none() && !unheard.is_empty() {
            return Some(format!(
                "this host does not hear host(s) {unheard}, which others hear"
            ));
        }
        if self.committed.is_none() && !self.has_listened(now) {
            return Some("listening for other hosts".to_owned());
        }
        let silent = self.proposed.as_ref().map(|open| {
            let proposal = open.proposal;
            let lacking = proposal.view.without(self.me()).iter().filter(|host| {
                let peer = self.peers.alive_peer(*host);
                peer.and_then(|peer| peer.heartbeat.staged)
                    .is_none_or(|ack| ack.ballot != proposal.ballot)
            });
            lacking.collect::<HostSet>()
        });
        silent
            .filter(|hosts| !hosts.is_empty())
            .map(|hosts| format!("agreement of host(s) {hosts}"))
    }

    /// The first live host that is left out of the view for a reason that does not pass by itself.
    fn someone_left_out(&self, now: Time) -> Option<String> {
        let me = self.config.host;
        let named = |host: HostId| {
            if host == me {
                "this host".to_owned()
            } else {
                format!("host {host}")
            }
        };
        self.outlook
            .left_out
            .iter()
            .find_map(|(host, reason)| match reason {
                LeftOut::Listening => None,
                LeftOut::Rules => Some(format!(
                    "{} has other virtual IPs or port rules{}",
                    named(*host),
                    self.oddity_of(*host)
                )),
                LeftOut::Mode => Some(format!("{} is set to another mode", named(*host))),
                LeftOut::Flapping => Some(format!(
                    "{} was lost again and again and may not join for up to {:.1} s",
                    named(*host),
                    self.kept_out_for(now, *host).as_secs_f64()
                )),
                LeftOut::Hearing(other) => Some(format!(
                    "{} and {} do not hear each other",
                    named(*host),
                    named(*other)
                )),
            })
    }
}
