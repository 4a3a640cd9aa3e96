//! What the daemon sees of its segment without asking anybody: how much of what has come lately, and who else is there.
//!
//! The daemon notes its counters every [`INTERVAL`] and keeps a minute of them. Used by the daemon's loop and for the read
//! model ([`crate::status::NetworkStatus`]). Specification: docs/design.md, "Network evidence".

use super::Daemon;
use super::minute::Minute;
use crate::datapath::Counters;
use crate::status::{
    Arrivals, ClaimantStatus, Count, HeartbeatCounts, MemberStatus, NeighbourStatus, NetworkStatus,
    ReachStatus,
};
use covey_filter::Reason;
use covey_proto::cluster::{NetworkSnapshot, Snapshot};
use covey_proto::ids::{HostId, HostSet, Mac};
use covey_proto::time::Time;
use covey_proto::wire::heartbeat;
use std::net::IpAddr;
use std::time::Duration;

/// Time between two readings.
const INTERVAL: Duration = Duration::from_secs(10);
/// Neighbours that are told of.
const MAX_NEIGHBOURS: usize = 8;

/// Frames for virtual IPs from whoever is no host of the cluster: what clients send, and nothing that hosts ask or probe.
/// (A host that takes nothing counts what it refuses under one reason, whatever it is.)
const CLUSTER_FRAMES: [Reason; 11] = [
    Reason::Mine,
    Reason::NotMine,
    Reason::Lingering,
    Reason::Unclaimed,
    Reason::IcmpError,
    Reason::BadQuote,
    Reason::Icmp,
    Reason::Fragment,
    Reason::FragmentMine,
    Reason::FragmentNotMine,
    Reason::Disabled,
];

/// What had been counted at a moment.
#[derive(Clone, Debug, Default)]
struct Reading {
    leaks_seen: u64,
    leaks_stopped: u64,
    frames_for_others: u64,
    cluster_frames: u64,
    /// By host: heartbeats heard and lost.
    heartbeats: Vec<(HostId, [u64; 2])>,
}

impl Reading {
    fn new(counters: &Counters, snapshot: &Snapshot) -> Self {
        let count = |wanted: &[Reason]| -> u64 {
            let counted = counters.by_reason();
            counted
                .filter(|(reason, _)| wanted.contains(reason))
                .map(|(_, count)| count)
                .sum()
        };
        let members = snapshot.members.iter();
        Self {
            leaks_seen: count(&[Reason::LeakSeen]),
            leaks_stopped: count(&[Reason::SourceMac]),
            frames_for_others: count(&[Reason::OtherMac]),
            cluster_frames: count(&CLUSTER_FRAMES),
            heartbeats: members
                .map(|member| (member.host, [member.heartbeats, member.lost]))
                .collect(),
        }
    }
}

/// The readings of the last minute, and the neighbours as of the last.
#[derive(Default)]
pub(super) struct Evidence {
    readings: Minute<Reading>,
    neighbours: Vec<(IpAddr, Mac)>,
}

impl Evidence {
    /// When the next reading is due.
    pub(super) fn due_at(&self) -> Time {
        let newest = self.readings.newest();
        newest.map_or(Time::ZERO, |(at, _)| *at + INTERVAL)
    }

    /// Who the kernel has found on the segment.
    pub(super) fn note_neighbours(&mut self, neighbours: Vec<(IpAddr, Mac)>) {
        self.neighbours = neighbours;
    }
}

impl Daemon {
    /// Takes a reading, if one is due.
    pub(super) fn gather_evidence(&mut self, now: Time) {
        if now < self.evidence.due_at() {
            return;
        }
        let reading = match self.data_path.counters() {
            Ok(counters) => Reading::new(&counters, &self.cluster.snapshot(now)),
            Err(error) => {
                tracing::warn!("the packet counters cannot be read: {error}");
                let before = self.evidence.readings.newest();
                before.map_or_else(Reading::default, |(_, before)| before.clone())
            }
        };
        self.evidence.readings.note(now, reading);
        self.census.look_for_neighbours(self.interface);
    }

    /// What is known of the segment.
    pub(super) fn network(
        &self,
        now: Time,
        counters: &Counters,
        snapshot: &Snapshot,
        hosts: &[MemberStatus],
    ) -> NetworkStatus {
        let present = Reading::new(counters, snapshot);
        let (since, oldest) = match self.evidence.readings.oldest() {
            Some((at, reading)) => (*at, reading),
            None => (now, &present),
        };
        let count = |of: fn(&Reading) -> u64| Count {
            total: of(&present),
            recent: of(&present).saturating_sub(of(oldest)),
        };
        let network = &snapshot.network;
        NetworkStatus {
            probe_interval_ms: network.probe_interval.as_secs_f64() * 1e3,
            recent_ms: now.since(since).as_millis() as u64,
            reach: network
                .reaches
                .iter()
                .map(|(host, reach)| reach_of(*host, reach))
                .collect(),
            cluster_mac_learned_at: network.learned_at.map(HostId::get),
            leaks_seen: count(|reading| reading.leaks_seen),
            leaks_stopped: count(|reading| reading.leaks_stopped),
            frames_for_others: count(|reading| reading.frames_for_others),
            cluster_frames: count(|reading| reading.cluster_frames),
            neighbours: self.strangers(hosts),
            claimants: claimants(now, network, hosts),
            heartbeats: heartbeats(oldest, &present),
        }
    }

    /// Neighbours that are neither hosts of the cluster nor the cluster.
    fn strangers(&self, hosts: &[MemberStatus]) -> Vec<NeighbourStatus> {
        // Those from before a change of mode too: the kernel may remember them.
        let cluster_macs = self.cluster.macs();
        let strangers = self.evidence.neighbours.iter().filter(|(_, mac)| {
            !cluster_macs.contains(mac) && host_with(&mac.to_string(), hosts).is_none()
        });
        let strangers = strangers.map(|(address, mac)| NeighbourStatus {
            address: *address,
            mac: mac.to_string(),
        });
        strangers.take(MAX_NEIGHBOURS).collect()
    }
}

fn host_with(mac: &str, hosts: &[MemberStatus]) -> Option<u8> {
    let host = hosts.iter().find(|host| host.mac == mac);
    host.map(|host| host.id)
}

fn reach_of(host: HostId, reach: &heartbeat::Reach) -> ReachStatus {
    let ids = |hosts: HostSet| hosts.iter().map(HostId::get).collect();
    let arrivals = |arrivals: heartbeat::Arrivals| Arrivals {
        from: ids(arrivals.from),
        missing: ids(arrivals.missing),
    };
    ReachStatus {
        host: host.get(),
        mtu: (reach.mtu != 0).then_some(reach.mtu),
        broadcast: arrivals(reach.broadcast),
        cluster_mac: arrivals(reach.cluster_mac),
        own_mac: arrivals(reach.own_mac),
    }
}

fn claimants(now: Time, network: &NetworkSnapshot, hosts: &[MemberStatus]) -> Vec<ClaimantStatus> {
    let claimants = network.claimants.iter().map(|claimant| {
        let mac = claimant.mac.to_string();
        ClaimantStatus {
            vip: claimant.vip.into(),
            host: host_with(&mac, hosts),
            mac,
            times: claimant.times,
            last_ms: now.since(claimant.last).as_millis() as u64,
        }
    });
    claimants.collect()
}

/// A host that has come since is counted from its first heartbeat.
fn heartbeats(oldest: &Reading, present: &Reading) -> Vec<HeartbeatCounts> {
    let counts = present.heartbeats.iter().map(|(host, [received, lost])| {
        let before = oldest.heartbeats.iter().find(|(known, _)| known == host);
        let [received_before, lost_before] = before.map_or([0; 2], |(_, counts)| *counts);
        // A restart of the host begins anew.
        let anew = *received < received_before || *lost < lost_before;
        let (received_before, lost_before) = if anew {
            (0, 0)
        } else {
            (received_before, lost_before)
        };
        HeartbeatCounts {
            host: host.get(),
            received: received - received_before,
            lost: lost - lost_before,
        }
    });
    counts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(host: u8, counts: [u64; 2]) -> Reading {
        Reading {
            heartbeats: vec![(HostId::new(host).unwrap(), counts)],
            ..Reading::default()
        }
    }

    #[test]
    fn what_was_lost_lately_is_told_from_what_was_lost_ever() {
        let of = |before: Reading, counts| {
            let [counts] = heartbeats(&before, &reading(2, counts))[..] else {
                panic!("one host is one row");
            };
            (counts.received, counts.lost)
        };
        assert_eq!(of(reading(2, [100, 7]), [160, 9]), (60, 2));
        // One that has just come, and one that has begun anew.
        assert_eq!(of(reading(3, [100, 7]), [5, 1]), (5, 1));
        assert_eq!(of(reading(2, [100, 7]), [5, 1]), (5, 1));
    }
}
