//! What the hosts find out about their segment: which paths lead from whom to whom, and who else says that it has a
//! virtual IP.
//!
//! Every host sends two kinds of probes now and then: one to the cluster MAC and the primary virtual IP, as a client's
//! packet is, and one to each host's own MAC. (Heartbeats to all are probes already.) A heartbeat tells under which
//! sequence its sender has probed last, so the others know what they should have heard, and from whom something arrives
//! or is missing, so that every host knows it of all. One frame that is lost says nothing: a path is missing when
//! [`PATIENCE`] probes in a row have not come while heartbeats of the same host have.
//!
//! Nothing in the cluster depends on any of it: it is for people (`covey status`, `covey doctor`). Called when a frame
//! has been heard and once per period. Specification: docs/design.md, "Network evidence".

use super::peer::Peer;
use super::{Cluster, Output};
use crate::config::{Timing, four_bytes};
use crate::ids::{HostId, HostSet, Mac};
use crate::time::Time;
use crate::wire::Reject;
use crate::wire::arp::Arp;
use crate::wire::ethernet::Ethernet;
use crate::wire::heartbeat::{Arrivals, Body, Message, Reach, Sender};
use crate::wire::probe::{self, End};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Probes in a row that must be missing before a path counts as such.
const PATIENCE: u8 = 3;
/// The least time between two probes of a host.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The greatest.
const MAX_INTERVAL: Duration = Duration::from_secs(10);
/// How often the default host asks who has the virtual IPs.
const QUESTIONS: Duration = Duration::from_secs(60);
/// Claimants that are remembered. Nothing vouches for such frames.
const MAX_CLAIMANTS: usize = 8;

/// Time between two probes of a host with this timing.
pub(super) fn interval(timing: Timing) -> Duration {
    (timing.period * 2).clamp(MIN_INTERVAL, MAX_INTERVAL)
}

/// What arrives of the probes of one host, on one path.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// The sequence of the newest that has come; 0: none.
    newest: u64,
    /// How many have not come since.
    missed: u8,
}

impl Tally {
    fn arrive(&mut self, sequence: u64) -> Result<(), Reject> {
        if sequence <= self.newest {
            return Err(Reject::Replay);
        }
        *self = Self {
            newest: sequence,
            missed: 0,
        };
        Ok(())
    }

    /// A probe was sent under this sequence. If it comes later than the word of it, it counts as if it had not.
    const fn expect(&mut self, sequence: u64) {
        if self.newest < sequence {
            self.missed = self.missed.saturating_add(1);
        }
    }

    /// Whether probes arrive, if that is known.
    const fn arrives(self) -> Option<bool> {
        match self {
            Self { missed, .. } if missed >= PATIENCE => Some(false),
            Self { newest: 0, .. } => None,
            Self { .. } => Some(true),
        }
    }
}

/// What arrives of the probes of one start of a host.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Probes {
    /// Under which sequence it says that it has probed last.
    told: u64,
    cluster_mac: Tally,
    own_mac: Tally,
    /// When one to this host's own MAC has come last.
    pub(super) spoken_to_at: Option<Time>,
}

impl Probes {
    /// The host says under which sequence it has probed last: before this heartbeat, so the probes must be here.
    pub(super) const fn note(&mut self, probed: u64) {
        if probed > self.told {
            self.told = probed;
            self.cluster_mac.expect(probed);
            self.own_mac.expect(probed);
        }
    }
}

/// A machine that says that it has a virtual IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// The virtual IP.
    pub vip: Ipv4Addr,
    /// The MAC that it gives for it: not the cluster's.
    pub mac: Mac,
    /// How often it has said so.
    pub times: u64,
    /// When it said so last.
    pub last: Time,
}

/// What this host has sent, and what it has seen besides probes.
#[derive(Clone, Debug, Default)]
pub(super) struct Probing {
    /// When this host has probed last, and under which sequence.
    probed: Option<(Time, u64)>,
    /// When it last asked who has the virtual IPs.
    asked_at: Option<Time>,
    /// Of its NIC; 0: unknown.
    pub(super) mtu: u32,
    /// The newest last.
    claimants: VecDeque<Claimant>,
}

impl Cluster {
    /// Sends what is due, right after a heartbeat, whose sequence names the probes.
    pub(super) fn probe(&mut self, now: Time) {
        let interval = interval(self.config.timing);
        if self
            .probing
            .probed
            .is_none_or(|(at, _)| now >= at + interval)
        {
            self.probing.probed = Some((now, self.sequence));
            self.send_probes();
        }
        self.ask_for_vips(now);
    }

    fn send_probes(&mut self) {
        let message = Message {
            sender: Sender {
                name: String::new(),
                ..self.sender()
            },
            body: Body::Probe,
        };
        let primary = self.config.rules.primary();
        let payload = message.payload(four_bytes(primary), &self.config.auth);
        let from = End {
            mac: self.config.mac,
            address: self.config.dip,
        };
        let to = End {
            mac: self.delivery().mac(),
            address: primary,
        };
        let frame = probe::to_cluster(&payload, from, to);
        self.outputs.push_back(Output::Transmit(frame));
        // Who hears nobody also tries those that it has lost: maybe it is only that all hear what is sent to them alone.
        let isolated = self.peers.alive().next().is_none();
        let wanted = |peer: &Peer| peer.alive || (isolated && !peer.has_left());
        for (_, Peer { sender, .. }) in self.peers.iter().filter(|(_, peer)| wanted(peer)) {
            let to = End {
                mac: sender.mac,
                address: sender.dip,
            };
            let frame = probe::to_host(&payload, from, to, primary);
            self.outputs.push_back(Output::Transmit(frame));
        }
    }

    /// Asks who has the virtual IPs, as who is about to take an address does (RFC 5227): once when it joins, and now and
    /// then as the default host. The hosts of the cluster answer with the cluster MAC.
    fn ask_for_vips(&mut self, now: Time) {
        let map = self.committed.as_ref();
        let owners = map.map_or(HostSet::EMPTY, |map| map.proposal.owners);
        let due = match self.probing.asked_at {
            None => true,
            Some(at) => owners.lowest() == Some(self.config.host) && now >= at + QUESTIONS,
        };
        if !due {
            return;
        }
        self.probing.asked_at = Some(now);
        for vip in self.rules().clone().vips() {
            if let IpAddr::V4(vip) = vip {
                let question = Arp::question(self.config.mac, Ipv4Addr::UNSPECIFIED, *vip);
                self.outputs.push_back(Output::Transmit(question));
            }
        }
    }

    /// A probe to this NIC's own MAC, or one to the cluster MAC that the filter has handed over. Whoever it is from and
    /// whatever it says, it changes nothing but what is told of the segment.
    pub(super) fn on_probe(&mut self, now: Time, frame: &Ethernet<'_>) -> Result<(), Reject> {
        if !self.takes_part() {
            return Err(Reject::Stopped);
        }
        let payload = probe::message(frame.payload)?;
        let primary = four_bytes(self.config.rules.primary());
        let Message { sender, body } = Message::parse(payload, primary, &self.config.auth)?;
        if body != Body::Probe {
            return Err(Reject::BadRecord);
        }
        if sender.host == self.config.host {
            return Err(Reject::OwnFrame);
        }
        let cluster_mac = self.delivery().mac();
        let probes = self.peers.probes_of(&sender)?;
        if frame.destination == cluster_mac {
            probes.cluster_mac.arrive(sender.sequence)
        } else if frame.destination == self.config.mac {
            probes.own_mac.arrive(sender.sequence)?;
            probes.spoken_to_at = Some(now);
            Ok(())
        } else {
            Err(Reject::OtherCluster)
        }
    }

    /// What this host tells of the segment.
    pub(super) fn reach(&self, now: Time) -> Reach {
        let mut reach = Reach {
            probed: self.probing.probed.map_or(0, |(_, sequence)| sequence),
            mtu: self.probing.mtu,
            ..Reach::default()
        };
        for (host, peer) in self.peers.alive() {
            let broadcast = now < peer.broadcast_at + peer.patience();
            for (arrivals, arrives) in [
                (&mut reach.broadcast, Some(broadcast)),
                (&mut reach.cluster_mac, peer.probes.cluster_mac.arrives()),
                (&mut reach.own_mac, peer.probes.own_mac.arrives()),
            ] {
                match arrives {
                    Some(true) => arrivals.from.insert(host),
                    Some(false) => arrivals.missing.insert(host),
                    None => {}
                }
            }
        }
        reach
    }

    /// What this host and each live one tell, in order of ID.
    pub(super) fn reaches(&self, now: Time) -> Vec<(HostId, Reach)> {
        let others = self.peers.alive();
        let others = others.filter_map(|(host, peer)| Some((host, peer.heartbeat.reach?)));
        let own = self
            .takes_part()
            .then(|| (self.config.host, self.reach(now)));
        let mut reaches: Vec<_> = others.chain(own).collect();
        reaches.sort_by_key(|(host, _)| *host);
        reaches
    }

    /// Notes who says that it has a virtual IP, if it is none of the cluster's hosts. Hosts that are in another mode, or
    /// were, give that mode's MAC.
    pub(super) fn note_claim(&mut self, now: Time, arp: &Arp) {
        let vip = arp.sender_ip;
        let of_cluster = self.macs().contains(&arp.sender_mac);
        if of_cluster || !self.rules().vips().contains(&vip.into()) {
            return;
        }
        let claimants = &mut self.probing.claimants;
        let known = claimants
            .iter()
            .position(|claimant| (claimant.vip, claimant.mac) == (vip, arp.sender_mac));
        let before = known.and_then(|at| claimants.remove(at));
        if claimants.len() == MAX_CLAIMANTS {
            claimants.pop_front();
        }
        claimants.push_back(Claimant {
            vip,
            mac: arp.sender_mac,
            times: before.map_or(0, |before| before.times) + 1,
            last: now,
        });
    }

    /// Whoever says that it has a virtual IP with another MAC than the cluster's, the newest last.
    pub(super) fn claimants(&self) -> Vec<Claimant> {
        self.probing.claimants.iter().copied().collect()
    }
}

/// The host at whose port a switch has learned the cluster MAC, by what all hosts tell: the others' probes reach it and
/// nobody else. Its own reach nobody, because a switch sends nothing back to where it came from. With two hosts the one
/// that hears nothing may as well have a NIC that does not take the cluster MAC.
pub(super) fn learned_at(reaches: &[(HostId, Reach)]) -> Option<HostId> {
    let hosts: HostSet = reaches.iter().map(|(host, _)| *host).collect();
    if hosts.len() < 3 {
        return None;
    }
    let hears = |arrivals: Arrivals, host: HostId| {
        let others = hosts.without(HostSet::only(host));
        arrivals.from.intersection(others) == others
    };
    let (alone, rest): (Vec<_>, Vec<_>) = reaches
        .iter()
        .partition(|(host, reach)| hears(reach.cluster_mac, *host));
    let deaf = |reach: &Reach| {
        let Arrivals { from, missing } = reach.cluster_mac;
        from.is_empty() && !missing.is_empty()
    };
    match alone[..] {
        [(host, _)] if rest.iter().all(|(_, reach)| deaf(reach)) => Some(host),
        _ => None,
    }
}
