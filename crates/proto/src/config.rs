//! What one host is told about its cluster, already checked. The TOML file that says it is parsed in the
//! binary crate; the simulator builds these values directly.

use crate::cluster::PortState;
use crate::ids::{HostId, Incarnation, Mac};
use crate::rules::{Claim, RuleSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// How the cluster's frames reach every host (NLB facts §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClusterMode {
    /// A unicast cluster MAC that no switch learns, so switches flood it.
    Unicast,
    /// A multicast cluster MAC.
    Multicast,
    /// A multicast cluster MAC that belongs to an IP multicast group, for snooping switches.
    Igmp,
}

impl ClusterMode {
    /// Its number on the wire.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Unicast => 1,
            Self::Multicast => 2,
            Self::Igmp => 3,
        }
    }

    /// The mode with this number on the wire.
    pub(crate) const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Unicast),
            2 => Some(Self::Multicast),
            3 => Some(Self::Igmp),
            _ => None,
        }
    }
}

impl std::fmt::Display for ClusterMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unicast => "unicast",
            Self::Multicast => "multicast",
            Self::Igmp => "igmp",
        })
    }
}

/// The Ethernet source of frames that leave for a virtual IP (NLB: MaskSourceMAC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceMac {
    /// The NIC's own.
    Host,
    /// One of this host that no NIC has, as NLB's: [`masked_mac`].
    Masked,
    /// The cluster MAC. Only where no switch can learn it: all hosts on one hub.
    Cluster,
}

/// Heartbeat period and tolerance (NLB: AliveMsgPeriod, AliveMsgTolerance).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Time between two heartbeats of a host; at least 10 ms.
    pub period: Duration,
    /// Periods of silence after which a host counts as gone; at least 3.
    pub tolerance: u16,
}

impl Timing {
    /// The shortest period that works.
    pub const MIN_PERIOD: Duration = Duration::from_millis(10);
    /// The longest period, so that a wrong unit is noticed.
    pub const MAX_PERIOD: Duration = Duration::from_secs(10);
    /// The least tolerance: a lease needs two periods for the echo to come back.
    pub const MIN_TOLERANCE: u16 = 3;
    /// The greatest tolerance (as NLB's).
    pub const MAX_TOLERANCE: u16 = 100;

    /// Tolerance times period: the longest silence of a live host.
    pub fn budget(self) -> Duration {
        self.period * u32::from(self.tolerance)
    }

    /// The longest tolerance that a host with this timing ever announces: a quarter more than its own, when it runs
    /// late. Not more, because a new cluster listens for as long before it serves.
    #[must_use]
    pub fn longest(self) -> Self {
        let tolerance = self.tolerance + self.tolerance.div_ceil(4);
        let tolerance = tolerance.min(Self::MAX_TOLERANCE);
        Self { tolerance, ..self }
    }

    /// Tolerance less two periods: the age up to which the word of a host counts that has such a timing.
    pub fn patience(self) -> Duration {
        self.period * u32::from(self.tolerance - 2)
    }

    /// How long to wait before a silent host's lease has surely run out: the budget, 1/256 of it for clocks
    /// that run at different rates, and a millisecond. (How coarse its clock is it has taken off its lease itself.)
    pub fn expiry(self) -> Duration {
        self.budget() + self.budget() / 256 + Duration::from_millis(1)
    }
}

/// A key that signs and checks heartbeats.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// Tells keys apart while they are being exchanged for new ones.
    pub id: u8,
    /// The secret, 32 bytes.
    pub secret: [u8; 32],
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key {{ id: {}, secret: (hidden) }}", self.id)
    }
}

/// How heartbeats are authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Not at all; said explicitly by the operator.
    None,
    /// HMAC-SHA-256. The first key signs, all of them are accepted. Never empty.
    Keys(Vec<Key>),
}

/// What a host does that loses all its peers (docs/design.md, "Membership").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quorum {
    /// Converge with whoever is left, as NLB does: each part of a split serves.
    None,
    /// Only more than half of this many hosts may serve.
    Majority(u8),
}

/// Everything the core must know to run one host.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// This host's ID, which is also its host priority.
    pub host: HostId,
    /// Its name, told to the others; at most 63 UTF-16 units are sent.
    pub name: String,
    /// Its NIC's own MAC.
    pub mac: Mac,
    /// Its dedicated IP, for the heartbeat's header and for direct questions.
    pub dip: Ipv4Addr,
    /// Heartbeat timing.
    pub timing: Timing,
    /// Heartbeat authentication.
    pub auth: Auth,
    /// Virtual IPs and port rules, and how frames reach the hosts.
    pub rules: RuleSet,
    /// This host's weight or handling priority per rule; as many as there are rules.
    pub claims: Vec<Claim>,
    /// Port rules that are not enabled on this host, by [`crate::rules::PortRule::fingerprint`].
    pub port_states: Vec<(u32, PortState)>,
    /// What to do after a split.
    pub quorum: Quorum,
    /// Whether this host can only speak the previous EtherType, 0xBF01. It hears both.
    pub legacy: bool,
    /// The protocol version that it says it speaks: [`crate::wire::heartbeat::PROTOCOL_VERSION`], or a later one to
    /// try out how today's hosts take it.
    pub version: u16,
    /// Whether hosts that cannot broadcast to each other go on by unicast.
    pub unicast_fallback: bool,
    /// After how long without data a connection is reset whose bucket has moved on.
    pub max_linger: Option<Duration>,
    /// What the frames of virtual IPs have as their Ethernet source.
    pub source_mac: SourceMac,
    /// Whether the default host alone takes ICMP that is no error; else every host does.
    pub filter_icmp: bool,
    /// How late the clock that the data path reads may be (the tick of CLOCK_MONOTONIC_COARSE).
    pub clock_granularity: Duration,
    /// Drawn at random by the caller, once per daemon start.
    pub incarnation: Incarnation,
}

/// The cluster MAC that belongs to a primary virtual IP (NLB facts §2.1, §2.2).
pub fn cluster_mac(mode: ClusterMode, primary: IpAddr) -> Mac {
    let [w, x, y, z] = four_bytes(primary);
    match mode {
        ClusterMode::Unicast => Mac([0x02, 0xBF, w, x, y, z]),
        ClusterMode::Multicast => Mac([0x03, 0xBF, w, x, y, z]),
        ClusterMode::Igmp => Mac([0x01, 0x00, 0x5E, 0x7F, y, z]),
    }
}

/// The MAC with which NLB masks a host's frames: 02, the host ID, and the rest of the cluster MAC (NLB facts §2.1).
pub fn masked_mac(host: HostId, cluster_mac: Mac) -> Mac {
    let Mac([_, _, w, x, y, z]) = cluster_mac;
    Mac([0x02, host.get(), w, x, y, z])
}

/// The four bytes of an address that go into MACs and heartbeat headers: IPv4 as it is, IPv6 folded by XOR of
/// its four words (NLB facts §2.2).
pub fn four_bytes(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            let fold = (bits >> 96) ^ (bits >> 64) ^ (bits >> 32) ^ bits;
            (fold as u32).to_be_bytes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_as_nlb_derives_them() {
        let ip = "10.165.2.19".parse().unwrap();
        // 02-BF-0A-A5-02-13 stands in KB812870.
        assert_eq!(
            cluster_mac(ClusterMode::Unicast, ip).to_string(),
            "02:bf:0a:a5:02:13"
        );
        assert_eq!(
            cluster_mac(ClusterMode::Multicast, ip).to_string(),
            "03:bf:0a:a5:02:13"
        );
        assert_eq!(
            cluster_mac(ClusterMode::Igmp, ip).to_string(),
            "01:00:5e:7f:02:13"
        );
        // Seen in the public capture: host 2 of 192.168.100.80.
        let shown = cluster_mac(ClusterMode::Unicast, "192.168.100.80".parse().unwrap());
        let masked = masked_mac(HostId::new(2).unwrap(), shown);
        assert_eq!(masked.to_string(), "02:02:c0:a8:64:50");
        // The one public sample for IPv6, NLB facts §2.2.
        let v6 = "2001:4898:e8:3018:bd82:dde1:6615:7b0".parse().unwrap();
        assert_eq!(
            cluster_mac(ClusterMode::Unicast, v6).to_string(),
            "02:bf:fb:7e:a2:d1"
        );
    }
}
