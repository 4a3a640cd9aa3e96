//! The configuration: one TOML file per host, read once and checked completely.
//!
//! ```text
//!   covey.toml --toml, serde--> ConfigFile --cluster, host, rules--> Config --+ MAC, incarnation--> ClusterConfig
//!                               (file.rs)    with the machine's word            (covey-proto)
//!                                            (system.rs)
//! ```
//!
//! `ConfigFile` is what was typed, [`Config`] is what it means; past this module nothing is
//! checked again. Everything that is wrong is reported at once, each with its line and what to do
//! ([`ConfigError`]). Called by `covey check`, by `covey run` and by the daemon when it reloads.
//! Specification: docs/design.md, "Command line".

mod cluster;
mod file;
mod host;
mod problem;
mod rules;
mod system;
#[cfg(test)]
mod tests;

pub use problem::ConfigError;
pub use system::{Machine, System, TextFile};

use crate::config::file::ConfigFile;
use crate::config::problem::Problems;
use covey_proto::PortState;
use covey_proto::config::{Auth, ClusterConfig, ClusterMode, Quorum, SourceMac, Timing};
use covey_proto::delivery::Delivery;
use covey_proto::ids::{HostId, Incarnation, Mac};
use covey_proto::rules::{Claim, RuleSet};
use covey_proto::wire::heartbeat::PROTOCOL_VERSION;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything the daemon is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// What all hosts share, but for the rules.
    pub cluster: Cluster,
    /// This host.
    pub host: Host,
    /// Virtual IPs and port rules, which all hosts share.
    pub rules: RuleSet,
    /// This host's load weight or handling priority per port rule; as many as there are rules.
    pub claims: Vec<Claim>,
    /// How the daemon itself runs.
    pub daemon: Daemon,
}

/// `[cluster]`: what all hosts share.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its name, for people.
    pub name: String,
    /// Virtual IPs, at least one; the first is the primary.
    pub vips: Vec<Vip>,
    /// The mode and the MAC that all hosts share.
    pub delivery: Delivery,
    /// Heartbeat timing.
    pub timing: Timing,
    /// Heartbeat authentication.
    pub auth: Auth,
    /// What a host does that has lost all others.
    pub quorum: Quorum,
    /// Whether hosts that cannot broadcast to each other go on by unicast.
    pub unicast_fallback: bool,
    /// After how long without data a connection is reset whose bucket has moved on.
    pub max_linger: Option<Duration>,
    /// What the frames of virtual IPs have as their Ethernet source.
    pub source_mac: SourceMac,
    /// Whether the default host alone answers pings, and takes other ICMP that is no error; else every host does.
    pub filter_icmp: bool,
    /// Time between IGMP reports that nobody has asked for.
    pub igmp_report_interval: Option<Duration>,
    /// After how long without an IGMP query people are told.
    pub querier_timeout: Duration,
    /// Whether hosts announce themselves as multicast routers.
    pub announce_mrouter: bool,
}

/// A virtual IP and its network, as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// Length of its network's prefix, 1 to 32 or 1 to 128 (NLB: ClusterNetworkMask).
    pub prefix: u8,
}

/// `[host]`: this host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its ID, which is also its host priority.
    pub id: HostId,
    /// Its name.
    pub name: String,
    /// The NIC on the cluster's segment; it exists and is Ethernet.
    pub interface: String,
    /// Its dedicated IP, an address of that NIC.
    pub dip: Ipv4Addr,
    /// What it does once the daemon runs.
    pub initial_state: InitialState,
    /// Whether a new daemon goes on in the state that the operator has last wished for (NLB: PersistedStates).
    pub persist_state: bool,
    /// Whether heartbeats go out under the EtherType of the previous generation.
    pub legacy_heartbeats: bool,
}

/// NLB's ClusterModeOnStart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialState {
    /// Join the cluster at once.
    Started,
    /// Wait for `covey start`.
    Stopped,
    /// Wait for `covey resume`.
    Suspended,
}

/// `[daemon]`: how the daemon runs.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// What it logs, in tracing's filter language.
    pub log: String,
    /// Its control socket.
    pub socket: PathBuf,
    /// Where it keeps what outlives a reboot.
    pub state_dir: PathBuf,
    /// Whether it asks for SCHED_FIFO and locked memory.
    pub realtime: bool,
    /// How its filter is attached to the NIC.
    pub xdp: XdpMode,
}

/// Where in the kernel the filter runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver if it can, else generic.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// After the driver; works with every NIC, at a cost per packet.
    Generic,
}

impl Config {
    /// Reads the file at `path` and checks it against the machine that `system` stands for.
    ///
    /// # Errors
    /// Everything that is wrong, in order of lines.
    pub fn load(path: &Path, system: &dyn System) -> Result<Self, ConfigError> {
        let file = system
            .read(path)
            .map_err(|error| ConfigError::unreadable(path, error))?;
        let mut problems = Problems::new(&file.text);
        let config = ConfigFile::parse(&file.text, &mut problems)
            .and_then(|raw| Self::from_file(&raw, path, system, &mut problems));
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigError::wrong(path, problems)),
        }
    }

    fn from_file(
        file: &ConfigFile,
        path: &Path,
        system: &dyn System,
        problems: &mut Problems<'_>,
    ) -> Option<Self> {
        let directory = path.parent().unwrap_or(Path::new(""));
        let cluster = cluster::read(file, directory, system, problems);
        let vips = cluster.as_ref().map(|cluster| cluster.vips.as_slice());
        let cluster_mac = cluster.as_ref().map(|cluster| cluster.delivery.mac());
        let host = host::read(file, vips, cluster_mac, system, problems);
        let rules = rules::read(&file.rule, vips, problems);
        let daemon = host::read_daemon(file, system, problems);
        let (rules, claims) = rules?;
        let cluster = cluster?;
        let rules = rules.delivered_by(cluster.delivery);
        Some(Self {
            cluster,
            host: host?,
            rules,
            claims,
            daemon: daemon?,
        })
    }

    /// The keys of a newly read configuration that differ from this one's and cannot change while the daemon
    /// runs.
    pub fn needs_restart_for(&self, new: &Self) -> Vec<&'static str> {
        let (old_cluster, old_host) = (&self.cluster, &self.host);
        let (new_cluster, new_host) = (&new.cluster, &new.host);
        let differs = [
            ("cluster.name", old_cluster.name != new_cluster.name),
            ("cluster.vips", old_cluster.vips != new_cluster.vips),
            (
                "cluster.period",
                old_cluster.timing.period != new_cluster.timing.period,
            ),
            (
                "cluster.tolerance",
                old_cluster.timing.tolerance != new_cluster.timing.tolerance,
            ),
            ("cluster.key_file", old_cluster.auth != new_cluster.auth),
            ("cluster.quorum", old_cluster.quorum != new_cluster.quorum),
            (
                "cluster.unicast_fallback",
                old_cluster.unicast_fallback != new_cluster.unicast_fallback,
            ),
            (
                "cluster.max_linger",
                old_cluster.max_linger != new_cluster.max_linger,
            ),
            (
                "cluster.source_mac",
                old_cluster.source_mac != new_cluster.source_mac,
            ),
            (
                "cluster.filter_icmp",
                old_cluster.filter_icmp != new_cluster.filter_icmp,
            ),
            ("host.id", old_host.id != new_host.id),
            ("host.name", old_host.name != new_host.name),
            ("host.interface", old_host.interface != new_host.interface),
            ("host.dip", old_host.dip != new_host.dip),
            (
                "host.legacy_heartbeats",
                old_host.legacy_heartbeats != new_host.legacy_heartbeats,
            ),
        ];
        differs
            .into_iter()
            .filter(|(_, differs)| *differs)
            .map(|(key, _)| key)
            .collect()
    }

    /// How frames reach every host, if the others offer the same.
    pub const fn mode(&self) -> ClusterMode {
        self.cluster.delivery.mode()
    }

    /// The MAC that all hosts share, if the others offer the same.
    pub const fn cluster_mac(&self) -> Mac {
        self.cluster.delivery.mac()
    }

    /// What the core is told: this configuration and the four things that only the running daemon knows. The
    /// clock granularity is the tick of CLOCK_MONOTONIC_COARSE; the port states are those to begin with.
    pub fn cluster_config(
        &self,
        mac: Mac,
        clock_granularity: Duration,
        incarnation: Incarnation,
        port_states: Vec<(u32, PortState)>,
    ) -> ClusterConfig {
        ClusterConfig {
            host: self.host.id,
            name: self.host.name.clone(),
            mac,
            dip: self.host.dip,
            timing: self.cluster.timing,
            auth: self.cluster.auth.clone(),
            rules: self.rules.clone(),
            claims: self.claims.clone(),
            port_states,
            quorum: self.cluster.quorum,
            version: PROTOCOL_VERSION,
            unicast_fallback: self.cluster.unicast_fallback,
            max_linger: self.cluster.max_linger,
            source_mac: self.cluster.source_mac,
            filter_icmp: self.cluster.filter_icmp,
            legacy: self.host.legacy_heartbeats,
            clock_granularity,
            incarnation,
        }
    }
}

impl std::fmt::Display for Vip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}
