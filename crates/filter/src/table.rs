//! The tables that [`decide`](crate::decide()) reads, and their layout.
//!
//! The same `#[repr(C)]` values lie in the BPF map (a [`Generation`], written by the daemon, read by XDP) and
//! in ordinary memory (`covey_proto::datapath::Image`, for the simulator, `covey why` and tests). [`Tables`] is
//! the one way to reach them. Specification: docs/design.md, "Data path".
//!
//! ```text
//!   destination IP --vip_slot()--> VipSlot { address, port tables }        perfect hash: no probing
//!   port           --port_classes--> class of ports that all rules treat alike
//!   table, class   --port_tables--> rule index (0 = default)               256 bytes per distinct table
//!   rule index     --rules--> RuleEntry { disabled?, affinity, map, cut?, sticky? }
//!   map, bucket    --rows--> Row { mine / not mine, shared / lingering, answers ARP }          4096 bytes per map
//! ```
//!
//! Port classes keep the tables small: 64 rules cut the ports into at most 131 ranges, so one table of 64 KiB
//! serves all addresses and protocols, instead of one for each.

use crate::{Address, Datagram, Flow, MacBytes, Segment};

/// Buckets in each map. A bucket is 1/4096 of the traffic of a rule.
pub const BUCKETS: usize = 4096;
/// Port rules that a configuration may hold.
pub const USER_RULES: usize = 64;
/// The rule for traffic that no port rule matches: the default host takes it. Port rules are 1..=64.
pub const DEFAULT_RULE: u8 = 0;
/// The rule that says which hosts answer ARP and neighbour solicitations: an equal share for every host.
pub const NEIGHBOUR_RULE: u8 = 65;
/// Entries in the rule table: default rule, port rules, neighbour rule.
pub const RULE_SLOTS: usize = 66;
/// Where frames are counted that meet no rule: behind the rules.
pub const NO_RULE: u8 = RULE_SLOTS as u8;
/// Virtual IP addresses that a configuration may hold.
pub const MAX_VIPS: usize = 64;
/// Slots of the perfect-hash table of virtual IPs (a power of two, well above `MAX_VIPS`).
pub const VIP_SLOTS: usize = 1024;
/// TCP or UDP ports.
pub const PORTS: usize = 65536;
/// Classes of ports that all rules treat alike: above the 131 ranges that 64 rules can make, and a byte.
pub const PORT_CLASSES: usize = 256;
/// Distinct port tables: at most one for TCP and one for UDP per virtual IP.
pub const PORT_TABLES: usize = 2 * MAX_VIPS;
/// Distinct maps: at most one per rule.
pub const MAPS: usize = RULE_SLOTS;

/// MACs that the cluster may have besides the one in force: those of the other two modes, and a few that were chosen.
pub const ALIASES: usize = 5;

/// What part of the client's identity chooses the bucket (NLB's client affinity).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Affinity {
    /// Client address and port.
    None = 0,
    /// Client address.
    Single = 1,
    /// The client's /24 (IPv4) or /64 (IPv6) network.
    Network = 2,
}

/// What the whole host must know, the same for every packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Key of the cluster's bucket hash.
    pub hash_key: [u64; 2],
    /// Seed under which no two virtual IPs share a slot.
    pub vip_seed: u64,
    /// Which map this is, a digest that no other map has; 0 before the first. What is known of connections under one
    /// map says nothing about the next.
    pub map: u64,
    /// The MAC that all hosts of the cluster share.
    pub cluster_mac: MacBytes,
    /// Other MACs under which its frames may come, because the cluster had them, or will have them; unused ones repeat
    /// the cluster's. Neighbours remember for minutes what they have once been told, and routers what was typed.
    pub aliases: [MacBytes; ALIASES],
    /// This NIC's own MAC, written over the destination of accepted packets.
    pub host_mac: MacBytes,
    /// The MAC under which frames of a virtual IP leave: this NIC's own unless masked, or the cluster MAC.
    pub source_mac: MacBytes,
    /// 0: this host takes nothing (fenced). Otherwise the host serves as the rows say.
    pub serving: u8,
    /// 1: every host takes ICMP, not the default host alone. (Errors follow their flow.)
    pub icmp_to_all: u8,
    /// Explicit padding, zero: the kernel copies every byte.
    pub pad: [u8; 6],
}

impl Settings {
    /// Whether frames to this MAC are the cluster's, besides those to the cluster MAC.
    #[inline(always)]
    pub fn is_alias(&self, mac: MacBytes) -> bool {
        self.aliases.contains(&mac)
    }
}

/// One slot of the virtual IP table. An unused slot has the unspecified address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipSlot {
    /// The virtual IP in this slot.
    pub address: Address,
    /// Index of the port table for TCP to this address.
    pub tcp: u16,
    /// Index of the port table for UDP to this address.
    pub udp: u16,
    /// Explicit padding, zero.
    pub pad: u32,
}

/// A port rule as the data path needs it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleEntry {
    /// 1 if the rule's filtering mode is *disabled*: its packets are dropped by everyone.
    pub disabled: u8,
    /// An [`Affinity`] as a number.
    pub affinity: u8,
    /// Which map holds this rule's rows.
    pub map: u8,
    /// 1 if this host has given up the rule and its connections too: it does not linger.
    pub cut: u8,
    /// 1 if the data path notes when each bucket last had traffic.
    pub sticky: u8,
    /// Explicit padding, zero.
    pub pad: [u8; 3],
}

impl RuleEntry {
    /// The affinity, or `None` if the number is none.
    #[inline(always)]
    pub const fn affinity(&self) -> Option<Affinity> {
        match self.affinity {
            0 => Some(Affinity::None),
            1 => Some(Affinity::Single),
            2 => Some(Affinity::Network),
            _ => None,
        }
    }
}

/// One bucket, as this host sees it. Precomputed by the core, one byte per bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row(pub u8);

impl Row {
    /// This host takes the bucket's packets.
    pub const MINE: u8 = 1;
    /// This host lets ARP questions of the bucket's clients through (owner or successor).
    pub const ANSWERS: u8 = 2;
    /// With [`Self::MINE`]: other hosts may have connections in the bucket, so this one takes what opens a connection
    /// and what belongs to a connection of its own.
    pub const SHARED: u8 = 4;
    /// Without [`Self::MINE`]: this host may have connections in the bucket, from when it owned it.
    pub const LINGERING: u8 = 8;

    /// Whether this host takes the bucket's packets.
    #[inline(always)]
    pub const fn is_mine(self) -> bool {
        self.0 & Self::MINE != 0
    }

    /// Whether the bucket is this host's, but other hosts may have connections in it.
    #[inline(always)]
    pub const fn is_shared(self) -> bool {
        self.0 & Self::SHARED != 0
    }

    /// Whether the bucket is another host's, but this one may have connections in it.
    #[inline(always)]
    pub const fn is_lingering(self) -> bool {
        self.0 & Self::LINGERING != 0
    }

    /// Whether this host answers ARP for the bucket's clients.
    #[inline(always)]
    pub const fn answers(self) -> bool {
        self.0 & Self::ANSWERS != 0
    }
}

/// All tables of one generation, as they lie in the BPF map: 385 KiB, whatever the configuration, so that
/// nothing ever has to grow.
#[repr(C)]
#[derive(Clone)]
pub struct Generation {
    /// The settings.
    pub settings: Settings,
    /// The virtual IPs, each in its [`vip_slot`].
    pub vips: [VipSlot; VIP_SLOTS],
    /// The class of each port.
    pub port_classes: [u8; PORTS],
    /// Rule index by class.
    pub port_tables: [[u8; PORT_CLASSES]; PORT_TABLES],
    /// The rules.
    pub rules: [RuleEntry; RULE_SLOTS],
    /// [`Row`]s by bucket.
    pub rows: [[u8; BUCKETS]; MAPS],
}

impl Generation {
    /// The slot with this number.
    #[inline(always)]
    pub fn vip(&self, slot: usize) -> Option<&VipSlot> {
        self.vips.get(slot)
    }

    /// The rule index of a port in a port table.
    #[inline(always)]
    pub fn rule_at(&self, table: u16, port: u16) -> Option<u8> {
        let class = self.port_classes[usize::from(port)];
        let table = self.port_tables.get(usize::from(table))?;
        Some(table[usize::from(class)])
    }

    /// The rule with this index.
    #[inline(always)]
    pub fn rule(&self, index: u8) -> Option<&RuleEntry> {
        self.rules.get(usize::from(index))
    }

    /// The row of a bucket in a map.
    #[inline(always)]
    pub fn row(&self, map: u8, bucket: u16) -> Option<Row> {
        let rows = self.rows.get(usize::from(map))?;
        rows.get(usize::from(bucket)).copied().map(Row)
    }
}

/// What a host's socket table holds for the connection of a segment. The kernel's table is the connection table:
/// nothing to fill up, to expire or to get out of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// Nothing of that connection; a listener is nothing.
    None,
    /// A connection: established, or closing with something still to say.
    Connected,
    /// A connection request that this host has answered and that waits for its acknowledgement.
    HalfOpen {
        /// The number that acknowledges this host's SYN; [`None`] if it cannot be read.
        awaits: Option<u32>,
    },
    /// A connection that is over and only waits for stragglers.
    TimeWait,
    /// Nothing of that connection, and no other host has it either: the kernel resets it.
    Orphan,
}

impl Socket {
    /// Whether it is a connection that must not be lost.
    #[inline(always)]
    pub const fn is_open(self) -> bool {
        match self {
            Self::Connected | Self::HalfOpen { .. } => true,
            Self::None | Self::TimeWait | Self::Orphan => false,
        }
    }

    /// The same, where nothing is found: whether some other host may still have the connection.
    #[inline(always)]
    pub fn or_orphan(self, is_orphan: impl FnOnce() -> bool) -> Self {
        match self {
            Self::None | Self::TimeWait => {
                if is_orphan() {
                    Self::Orphan
                } else {
                    self
                }
            }
            Self::Connected | Self::HalfOpen { .. } | Self::Orphan => self,
        }
    }

    /// Whether a segment, not one that opens a connection, is for this socket.
    ///
    /// A SYN that is repeated across a change of the map makes two half-open connections on two hosts: only the one
    /// whose SYN is acknowledged may go on, and the other must not answer with a reset. A connection in TIME_WAIT
    /// would answer for the new owner of a tuple that is used again.
    #[inline(always)]
    pub const fn takes(self, segment: &Segment) -> bool {
        match self {
            Self::Connected | Self::Orphan => true,
            Self::HalfOpen {
                awaits: Some(awaits),
            } => segment.acknowledgement == awaits,
            Self::HalfOpen { awaits: None } => true,
            Self::None | Self::TimeWait => false,
        }
    }
}

/// Read access to the tables of the generation in force. Every index is bounded by the caller's constants;
/// `None` means "no such entry" and leads to a drop, never to a guess.
pub trait Tables {
    /// The settings.
    fn settings(&self) -> Option<&Settings>;
    /// The slot with this number (below [`VIP_SLOTS`]).
    fn vip(&self, slot: usize) -> Option<&VipSlot>;
    /// The rule index (0 = default rule) of a destination port in a port table.
    fn rule_at(&self, table: u16, port: u16) -> Option<u8>;
    /// The rule with this index (below [`RULE_SLOTS`]).
    fn rule(&self, index: u8) -> Option<&RuleEntry>;
    /// The row of a bucket (below [`BUCKETS`]) in a map.
    fn row(&self, map: u8, bucket: u16) -> Option<Row>;
    /// What this host's socket table holds for the connection of a segment. Called only for shared and lingering
    /// buckets, because it searches the kernel's tables.
    fn socket(&self, flow: &Flow, segment: &Segment) -> Socket;
    /// Whether this host took the first fragment of a packet, if that came lately: so lately that the sender cannot have
    /// used the number again. To have forgotten it costs little, as every host takes a fragment whose first is unknown.
    fn took_first(&self, datagram: &Datagram) -> Option<bool>;
    /// Notes whether this host takes the first fragment of a packet.
    fn note_first(&self, datagram: &Datagram, taken: bool);
    /// Whether this host's lease still runs. Called only for packets this host would take, because it
    /// reads the clock.
    fn lease_holds(&self) -> bool;
}

/// The slot in which a virtual IP must lie, if it is one. The daemon picks `seed` so that the configured
/// addresses all have different slots; one load and one comparison then decide.
#[inline(always)]
pub fn vip_slot(seed: u64, address: Address) -> usize {
    let [high, low] = address.words();
    let mixed = (high ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ low;
    (mixed.wrapping_mul(seed | 1) >> (64 - VIP_SLOTS.ilog2())) as usize
}
