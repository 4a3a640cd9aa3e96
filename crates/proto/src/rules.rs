//! Port rules: which traffic is shared how (NLB's vocabulary: filtering mode, affinity, load weight,
//! handling priority). Meaning only; the TOML that says it is parsed in the binary crate.
//!
//! What all hosts must agree on ([`RuleSet`], with the mode and the cluster MAC) is kept apart from what each host may choose for itself
//! ([`Claim`], one per rule: its load weight or its handling priority), as in NLB. A rule set has one form as
//! bytes, by which its digest is made and in which hosts that disagree show it to each other.

mod difference;

use crate::config::ClusterMode;
use crate::delivery::Delivery;
use crate::ids::Digest;
pub use covey_filter::Affinity;
use covey_filter::{MAX_VIPS, USER_RULES};
pub use difference::RuleDifference;
use sha2::{Digest as _, Sha256};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Bytes of a rule: virtual IP, first port, last port, protocol, filtering mode, affinity, stickiness in seconds.
const RULE_LEN: usize = 31;
/// Stands for all virtual IPs.
const NO_VIP: [u8; 16] = [0; 16];

/// Which transport protocols a rule covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP only.
    Tcp,
    /// UDP only.
    Udp,
    /// Both.
    Both,
}

impl Protocol {
    /// Whether some packet is covered by both.
    pub const fn overlaps(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Both, _) | (_, Self::Both) | (Self::Tcp, Self::Tcp) | (Self::Udp, Self::Udp)
        )
    }
}

/// NLB's filtering mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterMode {
    /// All hosts share the traffic, by weight.
    Multiple {
        /// What of the client chooses the host.
        affinity: Affinity,
    },
    /// The live host with the lowest handling priority takes all of it.
    Single,
    /// Everybody drops it.
    Disabled,
}

/// One port rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRule {
    /// The virtual IP it is for; `None` for all of them.
    pub vip: Option<IpAddr>,
    /// First port.
    pub start: u16,
    /// Last port, inclusive.
    pub end: u16,
    /// Transport protocols.
    pub protocol: Protocol,
    /// Filtering mode.
    pub mode: FilterMode,
    /// For how long a client that has gone quiet still finds its host: a bucket that is to move waits until it has
    /// been idle for this long. Whole seconds, a day at most.
    pub sticky: Option<Duration>,
}

impl PortRule {
    /// Whether both rules would decide about some packet. A rule for one virtual IP is more specific than
    /// one for all and goes before it, so these two do not overlap.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.vip == other.vip
            && self.protocol.overlaps(other.protocol)
            && self.start <= other.end
            && other.start <= self.end
    }

    /// What traffic it is for, as people are told: `tcp 80`, `tcp and udp 1000-2000 of 192.0.2.1`.
    pub fn traffic(&self) -> String {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Both => "tcp and udp",
        };
        let ports = if self.start == self.end {
            self.start.to_string()
        } else {
            format!("{}-{}", self.start, self.end)
        };
        let vip = self.vip.map_or(String::new(), |vip| format!(" of {vip}"));
        format!("{protocol} {ports}{vip}")
    }

    /// A number by which a rule is found again in another rule set: what traffic it is for, without how that
    /// is shared. Its buckets stay where they are when only the way of sharing changes.
    pub fn fingerprint(&self) -> u32 {
        let mut hash = Sha256::new();
        hash.update(self.vip.map_or([0; 16], mapped));
        hash.update(self.start.to_be_bytes());
        hash.update(self.end.to_be_bytes());
        hash.update([self.protocol as u8]);
        (truncated(hash).0 >> 32) as u32
    }
}

/// What one host brings to one rule. On the wire one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim(pub u8);

impl Claim {
    /// NLB's weight when the load is shared equally.
    pub const EQUAL_WEIGHT: Self = Self(50);
    /// The largest load weight.
    pub const MAX_WEIGHT: u8 = 100;
    /// No share at all, whatever the filtering mode.
    pub const NOTHING: Self = Self(0);
}

/// The virtual IPs and port rules of a cluster, and how frames reach its hosts: what every host must agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet {
    vips: Vec<IpAddr>,
    rules: Vec<PortRule>,
    delivery: Delivery,
    digest: Digest,
}

/// Why a set of rules cannot be used. Indices count from 0, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// No virtual IP.
    #[error("a cluster needs at least one virtual IP")]
    NoVip,
    /// Too many virtual IPs.
    #[error("a cluster has at most {MAX_VIPS} virtual IPs")]
    TooManyVips,
    /// A virtual IP is listed twice.
    #[error("virtual IP {0} is listed twice")]
    DuplicateVip(usize),
    /// Too many rules.
    #[error("a cluster has at most {USER_RULES} port rules")]
    TooManyRules,
    /// The range runs backwards.
    #[error("port rule {0} ends before it starts")]
    EmptyRange(usize),
    /// A rule names an address that is not a virtual IP of the cluster.
    #[error("port rule {0} is for an address that is no virtual IP of the cluster")]
    UnknownVip(usize),
    /// Two rules would decide about one packet.
    #[error("port rules {0} and {1} overlap")]
    Overlap(usize, usize),
}

impl RuleSet {
    /// Checks virtual IPs (the first is the primary) and rules against each other. Frames reach the hosts in unicast mode,
    /// by the MAC that follows from the primary virtual IP; [`Self::delivered_by`] says otherwise.
    ///
    /// # Errors
    /// The first thing that is wrong, as a [`RuleError`].
    pub fn new(vips: Vec<IpAddr>, rules: Vec<PortRule>) -> Result<Self, RuleError> {
        if vips.is_empty() {
            return Err(RuleError::NoVip);
        }
        if vips.len() > MAX_VIPS {
            return Err(RuleError::TooManyVips);
        }
        if rules.len() > USER_RULES {
            return Err(RuleError::TooManyRules);
        }
        if let Some(index) = (0..vips.len()).find(|&index| vips[..index].contains(&vips[index])) {
            return Err(RuleError::DuplicateVip(index));
        }
        for (index, rule) in rules.iter().enumerate() {
            if rule.start > rule.end {
                return Err(RuleError::EmptyRange(index));
            }
            if rule.vip.is_some_and(|vip| !vips.contains(&vip)) {
                return Err(RuleError::UnknownVip(index));
            }
            if let Some(earlier) = rules[..index].iter().position(|other| other.overlaps(rule)) {
                return Err(RuleError::Overlap(earlier, index));
            }
        }
        let delivery = Delivery::derived(ClusterMode::Unicast, vips[0]);
        let digest = Digest::default();
        let set = Self {
            vips,
            rules,
            delivery,
            digest,
        };
        Ok(set.delivered_by(delivery))
    }

    /// The same virtual IPs and rules, with frames that reach the hosts in this way.
    #[must_use]
    pub fn delivered_by(mut self, delivery: Delivery) -> Self {
        self.delivery = delivery;
        self.digest = truncated(Sha256::new().chain_update(self.encode()));
        self
    }

    /// How frames reach every host.
    pub const fn delivery(&self) -> Delivery {
        self.delivery
    }

    /// The virtual IPs; the first is the primary.
    pub fn vips(&self) -> &[IpAddr] {
        &self.vips
    }

    /// The primary virtual IP, from which the cluster's MAC is made.
    pub fn primary(&self) -> IpAddr {
        self.vips[0]
    }

    /// The rule that covers TCP to a port of a virtual IP, with its index as the data path numbers them (from 1). A
    /// rule for the address goes before one for all.
    pub fn covering_tcp(&self, vip: IpAddr, port: u16) -> Option<(u8, &PortRule)> {
        let covering = |scope: Option<IpAddr>| {
            (1u8..).zip(&self.rules).find(|(_, rule)| {
                rule.vip == scope
                    && rule.protocol.overlaps(Protocol::Tcp)
                    && (rule.start..=rule.end).contains(&port)
            })
        };
        covering(Some(vip)).or_else(|| covering(None))
    }

    /// The port rules, in order.
    pub fn rules(&self) -> &[PortRule] {
        &self.rules
    }

    /// The most bytes of an encoded rule set.
    pub const MAX_ENCODED: usize = 1 + MAX_VIPS * 16 + USER_RULES * RULE_LEN + Delivery::ENCODED;

    /// The rule set as bytes, for hosts that have another one: the number of virtual IPs, these, the rules, and how
    /// frames reach the hosts unless it is the usual way (so that hosts of a version that knew no other come to
    /// the same digest). The digest is made of these.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = encode(&self.vips, &self.rules);
        if self.delivery != Delivery::derived(ClusterMode::Unicast, self.primary()) {
            bytes.extend_from_slice(&self.delivery.encode());
        }
        bytes
    }

    /// Reads what [`Self::encode`] wrote; `None` if it is not a sound rule set.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&count, rest) = bytes.split_first()?;
        let (vips, rules) = rest.split_at_checked(usize::from(count) * 16)?;
        let (vips, _) = vips.as_chunks::<16>();
        let (rules, delivery) = rules.as_chunks::<RULE_LEN>();
        if rules.len() > USER_RULES {
            return None;
        }
        let rules: Option<Vec<_>> = rules.iter().map(decode_rule).collect();
        let set = Self::new(vips.iter().map(decode_vip).collect(), rules?).ok()?;
        match delivery {
            [] => Some(set),
            delivery => Delivery::decode(delivery.try_into().ok()?).map(|it| set.delivered_by(it)),
        }
    }

    /// Equal exactly if virtual IPs, rules and delivery are (but for collisions of 2^-64).
    pub const fn digest(&self) -> Digest {
        self.digest
    }
}

/// The number of virtual IPs, these, then the rules.
fn encode(vips: &[IpAddr], rules: &[PortRule]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + vips.len() * 16 + rules.len() * RULE_LEN);
    bytes.push(vips.len() as u8);
    for vip in vips {
        bytes.extend_from_slice(&mapped(*vip));
    }
    for rule in rules {
        let PortRule {
            vip,
            start,
            end,
            protocol,
            mode,
            sticky,
        } = *rule;
        bytes.extend_from_slice(&vip.map_or(NO_VIP, mapped));
        bytes.extend_from_slice(&start.to_be_bytes());
        bytes.extend_from_slice(&end.to_be_bytes());
        let (mode, affinity) = match mode {
            FilterMode::Multiple { affinity } => (2, affinity as u8),
            FilterMode::Single => (1, 0),
            FilterMode::Disabled => (3, 0),
        };
        bytes.extend_from_slice(&[protocol as u8, mode, affinity]);
        let sticky = sticky.map_or(0, |sticky| sticky.as_secs());
        bytes.extend_from_slice(&sticky.to_be_bytes());
    }
    bytes
}

fn decode_vip(bytes: &[u8; 16]) -> IpAddr {
    Ipv6Addr::from(*bytes).to_canonical()
}

fn decode_rule(bytes: &[u8; RULE_LEN]) -> Option<PortRule> {
    let (vip, rest) = bytes.split_first_chunk::<16>()?;
    let (&[s1, s0, e1, e0, protocol, mode, affinity], sticky) = rest.split_first_chunk()?;
    let sticky = u64::from_be_bytes(*sticky.first_chunk()?);
    let affinities = [Affinity::None, Affinity::Single, Affinity::Network];
    let affinity = affinities.into_iter().find(|a| *a as u8 == affinity)?;
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Both];
    Some(PortRule {
        vip: (*vip != NO_VIP).then(|| decode_vip(vip)),
        start: u16::from_be_bytes([s1, s0]),
        end: u16::from_be_bytes([e1, e0]),
        protocol: protocols.into_iter().find(|p| *p as u8 == protocol)?,
        mode: match mode {
            1 => FilterMode::Single,
            2 => FilterMode::Multiple { affinity },
            3 => FilterMode::Disabled,
            _ => return None,
        },
        sticky: (sticky != 0).then(|| Duration::from_secs(sticky)),
    })
}

/// The first eight bytes of a finished hash.
pub(crate) fn truncated(hash: Sha256) -> Digest {
    let bytes = hash.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&bytes[..8]);
    Digest(u64::from_be_bytes(first))
}

/// An address as the tables and digests hold it: IPv4 mapped into IPv6.
pub fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests;
