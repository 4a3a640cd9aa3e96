//! The decision: is this frame for the cluster, and if so, does this host take it?
//!
//! A ladder of checks, each rung with a [`Reason`] of its own; the reason is the counter label, the log field
//! and the row in the documentation. Called by the XDP program for every received frame, by the simulator and
//! by `covey why`. Specification: docs/design.md, "Data path".
//!
//! ```text
//!   heartbeat? own MAC? somebody else's? group?  -> Pass, the kernel sees it as it came
//!   probe?                                       -> Daemon, whether this host serves or not
//!   question (ARP, ND) for a virtual IP          -> the bucket's owner and its successor answer
//!   to the cluster MAC: fenced? virtual IP?      -> rule -> bucket -> row -> lease -> Accept or Drop
//! ```
//!
//! The socket table is asked only where a bucket has just changed hands, and the lease last, because it reads the
//! clock; most packets are somebody else's.
//!
//! Nearly all frames are TCP and UDP, or not for the cluster at all: [`quick`] knows those alone. The kernel's
//! program leaves the others to [`thorough`] (`thorough.rs`) in a function of its own, so that the many do not pay
//! for what the few need.

use crate::flow::{Flow, Frame, Packet, Ports, Segment, Transport, ether_type, protocol};
use crate::table::{DEFAULT_RULE, Row, RuleEntry, Settings, Tables, VipSlot, vip_slot};
use crate::thorough::thorough;
use crate::{Address, Affinity, Bucket, MacBytes, bucket, probe};

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The kernel gets it untouched.
    Pass,
    /// The kernel gets it with the destination MAC rewritten to this NIC's own.
    Accept,
    /// It ends here.
    Drop,
    /// The daemon gets it, and the kernel does not: its EtherType is rewritten to [`crate::TO_DAEMON`].
    Daemon,
}

/// The verdict, why, and under which rule and bucket if it came that far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of the frame.
    pub verdict: Verdict,
    /// Which check decided.
    pub reason: Reason,
    /// Index of the rule that covers it.
    pub rule: Option<u8>,
    /// The client's bucket under that rule.
    pub bucket: Option<Bucket>,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $label:literal, $explanation:literal;)*) => {
        /// Why a frame met its verdict. The number is the index of its counter.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $variant = $number,)*
        }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: [Self; [$($number),*].len()] = [$(Self::$variant),*];

            /// The name of its counter.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// What it means, as a sentence.
            pub const fn explain(self) -> &'static str {
                match self { $(Self::$variant => $explanation,)* }
            }
        }
    };
}

reasons! {
    /// Sent to the NIC's own MAC.
    OwnMac = 0, "own_mac",
        "The frame was sent to this NIC's own MAC, not to the cluster; the kernel gets it untouched.";
    /// Sent to the MAC of some other machine.
    OtherMac = 1, "other_mac",
        "The frame was sent to another machine and flooded here; the kernel ignores it.";
    /// Broadcast or multicast that is not about the cluster.
    Group = 2, "group",
        "The frame is broadcast or multicast and not about a virtual IP; the kernel gets it untouched.";
    /// A heartbeat.
    Heartbeat = 3, "heartbeat",
        "The frame is a heartbeat of a cluster host.";
    /// This host's share.
    Mine = 4, "mine",
        "This host owns the client's bucket and takes the packet.";
    /// Another host's share.
    NotMine = 5, "not_mine",
        "Another host owns the client's bucket, so this host drops the packet.";
    /// A connection of this host in another host's share.
    Lingering = 6, "lingering",
        "Another host owns the client's bucket by now, but this host has the connection and keeps it.";
    /// This host's share, but no connection of this host.
    Unclaimed = 7, "unclaimed",
        "This host owns the client's bucket but not the connection; another host may have it, so this one is silent.";
    /// Who has a virtual IP: for this host to answer.
    QuestionMine = 8, "question_mine",
        "Somebody asks for the MAC of a virtual IP, and this host is one of the two that answer.";
    /// Who has a virtual IP: for others to answer.
    QuestionNotMine = 9, "question_not_mine",
        "Somebody asks for the MAC of a virtual IP, and other hosts answer.";
    /// The answer to a question that some host asked in the name of a virtual IP.
    Answer = 10, "answer",
        "Somebody answers a question asked in the name of a virtual IP; any host may have asked it.";
    /// An ICMP error about a flow of this host, or about one that cannot be told.
    IcmpError = 11, "icmp_error",
        "The packet is an ICMP error about a packet that this host has sent, or may have sent.";
    /// A fragment that carries no ports, and whose first has not been seen.
    Fragment = 12, "fragment",
        "The packet is a later fragment that came before the first; every host takes it, and the one with the first completes it.";
    /// The rule's filtering mode is disabled.
    Disabled = 13, "disabled",
        "The port rule that covers the packet is disabled, so every host drops it.";
    /// This host takes nothing.
    Fenced = 14, "fenced",
        "This host is not (or not yet) serving a committed map, so it drops everything sent to the cluster.";
    /// This host would take it, but its lease is over.
    LeaseLapsed = 15, "lease_lapsed",
        "The packet would be this host's, but its lease has run out, so others may already have taken over.";
    /// To the cluster MAC, which is no group, but to no virtual IP.
    Foreign = 16, "foreign",
        "The frame was sent to the cluster MAC, but its destination address is no virtual IP of the cluster.";
    /// To the cluster MAC, but neither IP nor a question or answer.
    NotIp = 17, "not_ip",
        "The frame was sent to the cluster MAC, but it is neither IP nor an ARP request or reply.";
    /// Truncated, or headers that contradict themselves.
    Malformed = 18, "malformed",
        "The frame is truncated or its headers contradict themselves.";
    /// An entry that the tables must have is not there.
    BrokenTables = 19, "broken_tables",
        "An entry that the filter's tables must have is missing; this is a fault in Covey.";
    /// Egress: a frame with the cluster MAC as its source was stopped.
    SourceMac = 20, "source_mac",
        "This host sent a frame with the cluster MAC as its source; it was dropped, or switches would learn that MAC.";
    /// Egress: a virtual IP was advertised with the NIC's own MAC; the frame now says the cluster MAC.
    Advertised = 21, "advertised",
        "This host told somebody its own MAC for a virtual IP; the filter wrote the cluster MAC over it.";
    /// A fragment of a packet that this host takes.
    FragmentMine = 22, "fragment_mine",
        "The packet is a later fragment, and this host has taken the first.";
    /// A fragment of a packet that this host does not take.
    FragmentNotMine = 23, "fragment_not_mine",
        "The packet is a later fragment, and this host has dropped the first.";
    /// An ICMP error about nobody's packet.
    BadQuote = 24, "bad_quote",
        "The packet is an ICMP error that quotes no packet of a virtual IP, so every host drops it.";
    /// ICMP that every host takes.
    Icmp = 25, "icmp",
        "The packet is ICMP and filter_icmp is false, so every host takes it.";
    /// Another member of the cluster's group says that it is one.
    OtherMember = 26, "other_member",
        "Another host reports that it is in the cluster's IGMP group; the kernel must not hear that, or it would be silent itself.";
    /// A probe of another host.
    Probe = 27, "probe",
        "The packet is a probe of another host, by which this host sees that frames to the cluster MAC reach it.";
    /// Ingress: a frame with the cluster MAC as its source came by.
    LeakSeen = 28, "leak_seen",
        "Somebody sent a frame with the cluster MAC as its source, by which switches learn that MAC; the kernel gets it.";
}

impl Decision {
    #[inline(always)]
    pub(crate) const fn new(verdict: Verdict, reason: Reason) -> Self {
        Self {
            verdict,
            reason,
            rule: None,
            bucket: None,
        }
    }

    #[inline(always)]
    pub(crate) const fn pass(reason: Reason) -> Self {
        Self::new(Verdict::Pass, reason)
    }

    #[inline(always)]
    pub(crate) const fn drop(reason: Reason) -> Self {
        Self::new(Verdict::Drop, reason)
    }
}

/// Decides about one received frame.
#[inline(always)]
pub fn decide<P: Packet + ?Sized, T: Tables>(packet: &P, tables: &T) -> Decision {
    match quick(packet, tables) {
        Some(decision) => decision,
        None => thorough(packet, tables),
    }
}

/// Decides about a frame of the common kinds: whole TCP and UDP packets, and what is not for the cluster. `None` of
/// all others; [`thorough`] then says what [`decide`] would.
#[inline(always)]
pub fn quick<P: Packet + ?Sized, T: Tables>(packet: &P, tables: &T) -> Option<Decision> {
    let settings = tables.settings()?;
    let kind = packet.read(12).map(u16::from_be_bytes)?;
    let destination = packet.read::<6>(0)?;
    if kind == ether_type::HEARTBEAT || kind == ether_type::OLD_HEARTBEAT {
        Some(Decision::pass(Reason::Heartbeat))
    } else if to_cluster(settings, destination) {
        if settings.serving == 0 {
            // What is to a group may be for other programs too.
            let alone = destination[0] & 1 == 0 && !probe::may_be(packet, kind);
            return alone.then_some(Decision::drop(Reason::Fenced));
        }
        match Frame::parse(packet) {
            Ok(Frame::Ip(flow)) => match flow.transport {
                Transport::Tcp(_) | Transport::Udp(_) => {
                    let vip = vip(tables, settings, flow.destination)?;
                    shared(tables, settings, vip, &flow)
                }
                Transport::IcmpError(_) | Transport::Icmp | Transport::Other(_) => None,
            },
            Ok(
                Frame::Question { .. } | Frame::Answer { .. } | Frame::Fragment(_) | Frame::Other,
            )
            | Err(_) => None,
        }
    } else if destination == settings.host_mac {
        Some(Decision::pass(Reason::OwnMac))
    } else if destination[0] & 1 == 0 {
        Some(Decision::pass(Reason::OtherMac))
    } else {
        None
    }
}

/// Whether a frame to this MAC is the cluster's, which is asked in the order in which frames are many.
#[inline(always)]
pub(crate) fn to_cluster(settings: &Settings, destination: MacBytes) -> bool {
    destination == settings.cluster_mac
        || (destination != settings.host_mac && settings.is_alias(destination))
}

/// A packet to a virtual IP, of any protocol but an ICMP error. `None` if the tables are broken.
#[inline(always)]
pub(crate) fn shared<T: Tables>(
    tables: &T,
    settings: &Settings,
    vip: &VipSlot,
    flow: &Flow,
) -> Option<Decision> {
    let (rule, port) = match flow.transport {
        Transport::Tcp(Segment { ports, .. }) => covering(tables, vip, protocol::TCP, ports),
        Transport::Udp(ports) => covering(tables, vip, protocol::UDP, ports),
        Transport::Other(protocol) => covering(tables, vip, protocol, Ports::NONE),
        Transport::Icmp | Transport::IcmpError(_) => (Some(DEFAULT_RULE), None),
    };
    let case = Case::find(tables, settings, rule?, flow.source, port)?;
    let (verdict, reason) = if case.entry.disabled != 0 {
        (Verdict::Drop, Reason::Disabled)
    } else if !case.row.is_mine() {
        if case.lingers() && has_connection(tables, flow) {
            leased(tables, Verdict::Accept, Reason::Lingering)
        } else {
            (Verdict::Drop, Reason::NotMine)
        }
    } else if case.row.is_shared() && goes_on(flow) && !has_connection(tables, flow) {
        // Said as the owner of the bucket, so the lease must hold.
        leased(tables, Verdict::Drop, Reason::Unclaimed)
    } else {
        leased(tables, Verdict::Accept, Reason::Mine)
    };
    Some(case.decision(verdict, reason))
}

/// The rule that covers a packet, and the client's port if it counts. Protocols without ports go with the client: a
/// tunnel must be where its control connection is, so GRE follows the rule of PPTP, and ESP and AH that of IKE.
#[inline(always)]
pub(crate) fn covering<T: Tables>(
    tables: &T,
    vip: &VipSlot,
    protocol: u8,
    ports: Ports,
) -> (Option<u8>, Option<u16>) {
    match protocol {
        protocol::TCP => (
            tables.rule_at(vip.tcp, ports.destination),
            Some(ports.source),
        ),
        protocol::UDP => (
            tables.rule_at(vip.udp, ports.destination),
            Some(ports.source),
        ),
        protocol::GRE => (tables.rule_at(vip.tcp, PPTP), None),
        protocol::ESP | protocol::AH => (tables.rule_at(vip.udp, IKE), None),
        // SCTP too: port rules are about TCP and UDP, and a client may use several addresses at a time.
        _ => (Some(DEFAULT_RULE), None),
    }
}

/// Whether a packet is part of a connection that has been opened before.
#[inline(always)]
const fn goes_on(flow: &Flow) -> bool {
    matches!(flow.transport, Transport::Tcp(Segment { opens: false, .. }))
}

/// Whether a packet is part of a connection that this host has, or may have: no port tells GRE's, but the kernel
/// ignores what belongs to no tunnel.
#[inline(always)]
fn has_connection<T: Tables>(tables: &T, flow: &Flow) -> bool {
    match &flow.transport {
        Transport::Tcp(segment) if !segment.opens => tables.socket(flow, segment).takes(segment),
        Transport::Other(protocol::GRE) => true,
        Transport::Tcp(_)
        | Transport::Udp(_)
        | Transport::IcmpError(_)
        | Transport::Icmp
        | Transport::Other(_) => false,
    }
}

/// The last rung: what this host would take, it takes only under its lease.
#[inline(always)]
pub(crate) fn leased<T: Tables>(tables: &T, verdict: Verdict, reason: Reason) -> (Verdict, Reason) {
    if tables.lease_holds() {
        (verdict, reason)
    } else {
        (Verdict::Drop, Reason::LeaseLapsed)
    }
}

/// The control connection of PPTP, whose tunnels are GRE: a TCP port.
pub const PPTP: u16 = 1723;
/// The control connection of IPsec, whose tunnels are ESP and AH: a UDP port.
pub const IKE: u16 = 500;

/// What the tables say about a client under a rule.
pub(crate) struct Case {
    rule: u8,
    bucket: Bucket,
    pub(crate) row: Row,
    pub(crate) entry: RuleEntry,
}

impl Case {
    /// `port`: the client's; without it, affinity none goes by the address too.
    #[inline(always)]
    pub(crate) fn find<T: Tables>(
        tables: &T,
        settings: &Settings,
        rule: u8,
        client: Address,
        port: Option<u16>,
    ) -> Option<Self> {
        let entry = tables.rule(rule)?;
        let (affinity, port) = match (entry.affinity()?, port) {
            (Affinity::None, None) => (Affinity::Single, 0),
            (affinity, port) => (affinity, port.unwrap_or(0)),
        };
        let bucket = bucket(settings.hash_key, affinity, client, port);
        Some(Self {
            rule,
            bucket,
            row: tables.row(entry.map, bucket.get())?,
            entry: *entry,
        })
    }

    /// Whether the bucket is another host's, but this one may have connections in it.
    #[inline(always)]
    pub(crate) const fn lingers(&self) -> bool {
        self.row.is_lingering() && self.entry.cut == 0
    }

    #[inline(always)]
    pub(crate) const fn decision(&self, verdict: Verdict, reason: Reason) -> Decision {
        Decision {
            verdict,
            reason,
            rule: Some(self.rule),
            bucket: Some(self.bucket),
        }
    }
}

/// The table entry of a virtual IP, if the address is one.
#[inline(always)]
pub(crate) fn vip<'a, T: Tables>(
    tables: &'a T,
    settings: &Settings,
    address: Address,
) -> Option<&'a VipSlot> {
    let slot = tables.vip(vip_slot(settings.vip_seed, address))?;
    (slot.address == address && address != Address::UNSPECIFIED).then_some(slot)
}
