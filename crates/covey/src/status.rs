//! The read model: everything Covey tells about a running host, in one versioned structure.
//!
//! The daemon fills it, the control socket carries it as JSON, and `covey status`, `covey query`,
//! `covey wlbs query`, the lab and scripts read it. Fields are only ever added; [`SCHEMA`] counts changes
//! that a reader could notice. Times are milliseconds, shares are counted in buckets of 4096.

mod network;
mod trouble;

use crate::doctor::Finding;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

pub use network::{
    Arrivals, ClaimantStatus, Count, HeartbeatCounts, NeighbourStatus, NetworkStatus, ReachStatus,
};
pub use trouble::{
    EqualPriorities, Exclusion, Fenced, Late, LeftOut, Recent, Tally, Troubles, Twins,
};

/// Version of the read model.
pub const SCHEMA: u32 = 4;

/// NLB's host states (KB242242), in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
}

/// NLB's states of a port rule on one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleState {
    /// The host takes its share.
    Enabled,
    /// The host takes nothing.
    Disabled,
    /// The host takes no new connections, and finishes those it has.
    Draining,
}

/// One host's account of itself and its cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When this was said: wall-clock time, RFC 3339, UTC.
    pub time: String,
    /// What all hosts share.
    pub cluster: ClusterStatus,
    /// This host.
    pub host: HostStatus,
    /// All hosts it knows of, itself included, by ID.
    pub hosts: Vec<MemberStatus>,
    /// The port rules as `share` sees them: the default rule first (no ports), then as configured.
    pub rules: Vec<RuleStatus>,
    /// The distinct maps of the committed placement: the owner's ID per bucket, 0 for none.
    pub maps: Vec<Vec<u8>>,
    /// The data path.
    pub datapath: DataPathStatus,
    /// This host's part in the cluster's IP multicast groups; none as long as it has had no reason to take part.
    #[serde(default)]
    pub multicast: Option<MulticastStatus>,
    /// Heartbeat frames that were not used, by reason; only reasons that occurred.
    pub frames_rejected: BTreeMap<String, u64>,
    /// What it has found out about its segment.
    #[serde(default)]
    pub network: NetworkStatus,
    /// Past convergences, newest last; at most 32.
    pub convergence: Vec<ConvergenceRecord>,
    /// What is wrong between hosts.
    #[serde(default)]
    pub troubles: Troubles,
    /// What counters have grown by lately.
    #[serde(default)]
    pub recent: Recent,
    /// What the daemon has found to be wrong with this host and with what it sees of the cluster, at its last check-up; what
    /// the other hosts have found stands with each.
    #[serde(default)]
    pub findings: Vec<Finding>,
}

/// What all hosts share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's name.
    pub name: String,
    /// Virtual IPs; the first is the primary.
    pub vips: Vec<IpAddr>,
    /// Length of the primary virtual IP's network prefix.
    pub prefix: u8,
    /// `unicast`, `multicast` or `igmp`.
    pub mode: String,
    /// The shared MAC.
    pub mac: String,
    /// What this host would rather have, if the others offered the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered: Option<OfferedDelivery>,
    /// Number of the committed map; 0 for none.
    pub epoch: u64,
    /// Its digest.
    pub map_digest: String,
    /// IDs of the hosts in the committed map's view.
    pub view: Vec<u8>,
    /// The default host: the lowest host that serves.
    pub default_host: Option<u8>,
    /// Heartbeat period, ms.
    pub period_ms: f64,
    /// Heartbeat tolerance, periods.
    pub tolerance: u16,
    /// The lowest protocol version among the live hosts: what all of them understand.
    pub feature_level: u16,
    /// Whether heartbeats are authenticated.
    pub authenticated: bool,
    /// Whether hosts that cannot broadcast to each other go on by unicast.
    #[serde(default)]
    pub unicast_fallback: bool,
    /// Under which MAC the frames of virtual IPs leave: `host`, `masked` or `cluster`.
    #[serde(default)]
    pub source_mac: String,
}

/// A mode and a cluster MAC that a host offers and that are not in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OfferedDelivery {
    /// `unicast`, `multicast` or `igmp`.
    pub mode: String,
    /// The shared MAC.
    pub mac: String,
}

/// The host that speaks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its ID (host priority).
    pub id: u8,
    /// Its name.
    pub name: String,
    /// Its dedicated IP.
    pub dip: IpAddr,
    /// Its NIC.
    pub interface: String,
    /// Its NIC's own MAC.
    pub mac: String,
    /// Its state.
    pub state: HostState,
    /// Whether it is the default host.
    pub is_default: bool,
    /// What it is once its daemon runs: `started`, `stopped` or `suspended`.
    pub initial_state: String,
    /// Whether what the operator last wanted goes before that.
    pub persist_state: bool,
    /// Open connections to virtual IPs in the last count, while the host counts them: when it or a rule drains, or
    /// when it has connections in buckets of others.
    pub connections: Option<usize>,
    /// How often it has entered a converging state since it joined.
    pub times_converging: u64,
    /// Why it is not converged, in words, if there is something to say.
    pub waiting_for: Option<String>,
    /// Time since it started, ms.
    pub uptime_ms: u64,
    /// What is left of its lease, ms; 0 when it has lapsed or there is none.
    pub lease_ms: f64,
    /// Process ID of the daemon.
    pub pid: u32,
    /// Version of the program.
    pub version: String,
    /// How often its daemon has been replaced in place since it started.
    #[serde(default)]
    pub upgrades: u32,
    /// The file it was configured by.
    #[serde(default)]
    pub config: String,
    /// Whether its daemon is to run before other programs.
    #[serde(default)]
    pub realtime: bool,
}

/// One host of the cluster, as the host that speaks sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its ID.
    pub id: u8,
    /// Its name.
    pub name: String,
    /// Its dedicated IP.
    pub dip: IpAddr,
    /// Its NIC's MAC.
    pub mac: String,
    /// The highest protocol version that it speaks.
    pub protocol_version: u16,
    /// The state it tells of itself; a host that is overdue is still listed with its last word.
    pub state: HostState,
    /// Time since its last heartbeat, ms; 0 for the host that speaks.
    pub last_heartbeat_ms: f64,
    /// Whether it is alive in the eyes of the host that speaks.
    pub alive: bool,
    /// Hosts that it hears.
    pub hears: Vec<u8>,
    /// The map it has committed.
    pub epoch: u64,
    /// Heartbeats heard from it.
    pub heartbeats: u64,
    /// Heartbeats of it that never arrived, from gaps in its sequence.
    pub heartbeats_lost: u64,
    /// What it has found to be wrong with itself: names of findings.
    #[serde(default)]
    pub findings: Vec<String>,
}

impl MemberStatus {
    /// Whether it is silent and has not said goodbye.
    pub fn is_lost(&self) -> bool {
        !self.alive && !matches!(self.state, HostState::Stopped | HostState::Suspended)
    }
}

/// A rule and who serves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// 0 for the default rule, then 1, 2, ... as configured.
    pub index: u8,
    /// The virtual IP it is for, or none for all.
    pub vip: Option<IpAddr>,
    /// First port; none for the default rule.
    pub start: Option<u16>,
    /// Last port; none for the default rule.
    pub end: Option<u16>,
    /// `tcp`, `udp` or `both`.
    pub protocol: String,
    /// `multiple`, `single`, `disabled`; the default rule is `default`.
    pub mode: String,
    /// `none`, `single` or `network`, for multiple-host rules.
    pub affinity: Option<String>,
    /// How long a client stays with its host after its last connection, s; none if it does not.
    pub sticky_s: Option<u64>,
    /// How this host handles it.
    pub state: RuleState,
    /// This host's load weight, for multiple-host rules.
    pub weight: Option<u8>,
    /// This host's handling priority, for single-host rules.
    pub handling_priority: Option<u8>,
    /// Index into `maps`.
    pub map: usize,
    /// Buckets owned, by host ID.
    pub share: BTreeMap<u8, usize>,
    /// Packets under the rule that this host has taken since the rules came into force.
    pub packets_accepted: u64,
    /// Packets under the rule that it has dropped since; nearly all of them are other hosts'.
    pub packets_dropped: u64,
}

/// What the kernel's side does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataPathStatus {
    /// `native` or `generic`.
    pub attach: String,
    /// Packets by verdict reason, over all CPUs; every reason is listed.
    pub packets: BTreeMap<String, u64>,
    /// How often another map came into force since the daemon started.
    #[serde(default)]
    pub commits: CommitCounts,
}

/// A host's part in the cluster's IP multicast groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MulticastStatus {
    /// The groups of the cluster MACs that it is in; none except in IGMP mode.
    pub groups: Vec<Ipv4Addr>,
    /// Who has asked last by IGMP since the daemon started.
    pub igmp_querier: Option<QuerierStatus>,
    /// Who has asked last by MLD; heard only if the cluster has IPv6 addresses.
    pub mld_querier: Option<QuerierStatus>,
    /// Time since the last IGMP query, or since the host has been in a group, ms; none if it is in none.
    pub silent_ms: Option<u64>,
    /// After how long without an IGMP query that is told (event 1106), ms.
    pub querier_timeout_ms: u64,
    /// Time between reports that nobody asks for, ms; none by default.
    pub report_interval_ms: Option<u64>,
    /// Whether it announces itself as a multicast router.
    pub announces_mrouter: bool,
}

/// Who asks for the members of groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuerierStatus {
    /// Its address; unspecified of a switch that has none.
    pub address: IpAddr,
    /// The version of IGMP or MLD.
    pub version: u8,
    /// Time since its last query, ms.
    pub heard_ms_ago: u64,
    /// Within which time members are to answer, ms.
    pub answer_within_ms: u64,
    /// How often it asks, ms, if it says so.
    pub asks_every_ms: Option<u64>,
}

/// How often another map came into force, and by whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitCounts {
    /// In the filter, as the commit frame passed.
    pub by_filter: u64,
    /// Later, by the daemon: the frame was lost, or there was none, as when a host joins or follows.
    pub by_daemon: u64,
}

/// One convergence: from one committed map to the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvergenceRecord {
    /// Time since this host started, ms.
    pub at_ms: u64,
    /// The view before.
    pub from: Vec<u8>,
    /// The view after.
    pub to: Vec<u8>,
    /// The committed epoch.
    pub epoch: u64,
    /// From noticing the change to the commit, ms.
    pub duration_ms: f64,
    /// What started it, in words.
    pub cause: String,
}

/// One entry of the event log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Counts up from 1 for each start of the daemon, and on when it is replaced in place.
    pub number: u64,
    /// Wall-clock time, RFC 3339, UTC, milliseconds.
    pub time: String,
    /// NLB's event ID where it has one (NLB facts §5.4); Covey's own are above 1000.
    pub id: u16,
    /// `info`, `warning` or `error`.
    pub severity: String,
    /// What happened, why and what to do, in sentences.
    pub text: String,
}
