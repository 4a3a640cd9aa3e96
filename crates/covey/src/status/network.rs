//! The network part of the read model: what the hosts have found out about their segment.
//!
//! Filled by `daemon/report.rs`; `covey doctor` draws conclusions from it, `covey status` shows it. How it is found out:
//! docs/design.md, "Network evidence". Nothing here is a verdict: a host that is listed in none of two opposite lists
//! is one of which nothing is known yet.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// What a host knows of its segment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStatus {
    /// Time between two probes of this host, ms.
    pub probe_interval_ms: f64,
    /// How far back [`Count::recent`] reaches, ms: a minute, or less while the daemon is young.
    pub recent_ms: u64,
    /// What reaches whom: a row for this host and for each live one that tells, by ID. So every host has them all.
    pub reach: Vec<ReachStatus>,
    /// The host at whose port a switch has learned the cluster MAC: the probes of the others reach it alone. Told only
    /// where three hosts or more are alive; of two it cannot be told from a NIC that does not take the cluster MAC.
    pub cluster_mac_learned_at: Option<u8>,
    /// Frames from elsewhere with the cluster MAC as their source: each may have taught it to a switch.
    pub leaks_seen: Count,
    /// Such frames of this host that the guard has stopped.
    pub leaks_stopped: Count,
    /// Frames to unicast MACs that are neither this NIC's nor the cluster's. A few are flooded by every switch; all of
    /// everybody's are seen on a hub.
    pub frames_for_others: Count,
    /// Frames of clients that arrived while this host served, whoever of the hosts took them. None at all on a segment that
    /// the clients are not on.
    pub cluster_frames: Count,
    /// Who else is on the segment: neighbours that this host's kernel has talked to and that are no hosts of the
    /// cluster, routers and clients; 8 at most.
    pub neighbours: Vec<NeighbourStatus>,
    /// Whoever says that it has a virtual IP, with another MAC than the cluster's; 8 at most, the newest last.
    pub claimants: Vec<ClaimantStatus>,
    /// Heartbeats of each other host within [`Self::recent_ms`], by ID. (The totals are with the hosts.)
    pub heartbeats: Vec<HeartbeatCounts>,
}

/// How often something happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Since the filter was loaded.
    pub total: u64,
    /// Lately: within [`NetworkStatus::recent_ms`].
    pub recent: u64,
}

/// What reaches one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReachStatus {
    /// The host.
    pub host: u8,
    /// Bytes of the largest packet that its NIC sends; none if it does not tell.
    pub mtu: Option<u32>,
    /// Heartbeats that are sent to all: to broadcast, or to the cluster's multicast MAC.
    pub broadcast: Arrivals,
    /// Probes: IP packets to the primary virtual IP and the cluster MAC, as clients' are.
    pub cluster_mac: Arrivals,
    /// Probes to its own MAC.
    pub own_mac: Arrivals,
}

/// From whom something arrives. It is missing from a live host once three in a row have not arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrivals {
    /// IDs of the hosts from which it arrives.
    pub from: Vec<u8>,
    /// IDs of the hosts whose heartbeats arrive somehow, but not this.
    pub missing: Vec<u8>,
}

/// A machine on the segment that is no host of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourStatus {
    /// Its address.
    pub address: IpAddr,
    /// Its MAC.
    pub mac: String,
}

/// A machine that says that it has a virtual IP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimantStatus {
    /// The virtual IP.
    pub vip: IpAddr,
    /// The MAC that it gives for it.
    pub mac: String,
    /// The host of the cluster whose NIC that is; none of a stranger.
    pub host: Option<u8>,
    /// How often it has said so.
    pub times: u64,
    /// Time since it said so last, ms.
    pub last_ms: u64,
}

/// Heartbeats of one host within the recent time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatCounts {
    /// The host.
    pub host: u8,
    /// That arrived.
    pub received: u64,
    /// That did not, from gaps in its sequence.
    pub lost: u64,
}
