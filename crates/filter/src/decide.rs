//! The decision: is this frame for the cluster, and if so, does this host take it?
//!
//! A ladder of checks, each rung with a [`Reason`] of its own; the reason is the counter label, the log field
//! and the row in the documentation. Called by the XDP program for every received frame, by the simulator and
//! by `covey why`. Specification: docs/design.md, "Data path".
//!
//! ```text
//!   heartbeat? own MAC? somebody else's? group?  -> Pass, the kernel sees it as it came
//!   question (ARP, ND) for a virtual IP          -> the bucket's owner and its successor answer
//!   to the cluster MAC: fenced? virtual IP?      -> rule -> bucket -> row -> lease -> Accept or Drop
//! ```
//!
//! The socket table is asked only where a bucket has just changed hands, and the lease last, because it reads the
//! clock; most packets are somebody else's.

use crate::flow::{Flow, Frame, Packet, Segment, Transport, ether_type};
use crate::table::{
    DEFAULT_RULE, NEIGHBOUR_RULE, Row, RuleEntry, Settings, Tables, VipSlot, vip_slot,
};
use crate::{Address, Bucket, bucket};

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The kernel gets it untouched.
    Pass,
    /// The kernel gets it with the destination MAC rewritten to this NIC's own.
    Accept,
    /// It ends here.
    Drop,
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
    /// An ICMP error.
    IcmpError = 11, "icmp_error",
        "The packet is an ICMP error; every host takes it, and the one with the connection heeds it.";
    /// A fragment that carries no ports.
    Fragment = 12, "fragment",
        "The packet is a later fragment without ports; every host takes it, and the one with the first completes it.";
    /// The rule's filtering mode is disabled.
    Disabled = 13, "disabled",
        "The port rule that covers the packet is disabled, so every host drops it.";
    /// This host takes nothing.
    Fenced = 14, "fenced",
        "This host is not (or not yet) serving a committed map, so it drops everything sent to the cluster.";
    /// This host would take it, but its lease is over.
    LeaseLapsed = 15, "lease_lapsed",
        "The packet would be this host's, but its lease has run out, so others may already have taken over.";
    /// To the cluster MAC, but to no virtual IP.
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
}

impl Decision {
    #[inline(always)]
    const fn new(verdict: Verdict, reason: Reason) -> Self {
        Self {
            verdict,
            reason,
            rule: None,
            bucket: None,
        }
    }

    #[inline(always)]
    const fn pass(reason: Reason) -> Self {
        Self::new(Verdict::Pass, reason)
    }

    #[inline(always)]
    const fn drop(reason: Reason) -> Self {
        Self::new(Verdict::Drop, reason)
    }
}

/// Decides about one received frame.
#[inline(always)]
pub fn decide<P: Packet + ?Sized, T: Tables>(packet: &P, tables: &T) -> Decision {
    let Some(settings) = tables.settings() else {
        return Decision::drop(Reason::BrokenTables);
    };
    let Some(kind) = packet.read(12).map(u16::from_be_bytes) else {
        return Decision::drop(Reason::Malformed);
    };
    let Some(destination) = packet.read::<6>(0) else {
        return Decision::drop(Reason::Malformed);
    };
    if kind == ether_type::HEARTBEAT || kind == ether_type::OLD_HEARTBEAT {
        Decision::pass(Reason::Heartbeat)
    } else if destination == settings.cluster_mac {
        to_cluster(packet, tables, settings)
    } else if destination == settings.host_mac {
        Decision::pass(Reason::OwnMac)
    } else if destination[0] & 1 != 0 {
        to_group(packet, tables, settings)
    } else {
        Decision::pass(Reason::OtherMac)
    }
}

/// Broadcast and multicast: the kernel's, except a question for a virtual IP.
#[inline(always)]
fn to_group<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    tables: &T,
    settings: &Settings,
) -> Decision {
    match Frame::parse(packet) {
        Ok(Frame::Question { asker, target }) if vip(tables, settings, target).is_some() => {
            question(tables, settings, asker, Verdict::Pass)
        }
        Ok(_) | Err(_) => Decision::pass(Reason::Group),
    }
}

#[inline(always)]
fn to_cluster<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    tables: &T,
    settings: &Settings,
) -> Decision {
    if settings.serving == 0 {
        return Decision::drop(Reason::Fenced);
    }
    match Frame::parse(packet) {
        Ok(Frame::Ip(flow)) => match vip(tables, settings, flow.destination) {
            Some(vip) => shared(tables, settings, vip, &flow),
            None => Decision::drop(Reason::Foreign),
        },
        Ok(Frame::Question { asker, target }) => match vip(tables, settings, target) {
            Some(_) => question(tables, settings, asker, Verdict::Accept),
            None => Decision::drop(Reason::Foreign),
        },
        Ok(Frame::Answer { asker }) => match vip(tables, settings, asker) {
            Some(_) => everyone(tables, Reason::Answer),
            None => Decision::drop(Reason::Foreign),
        },
        Ok(Frame::Other) => Decision::drop(Reason::NotIp),
        Err(_) => Decision::drop(Reason::Malformed),
    }
}

/// An IP packet to a virtual IP.
#[inline(always)]
fn shared<T: Tables>(tables: &T, settings: &Settings, vip: &VipSlot, flow: &Flow) -> Decision {
    let (rule, port) = match flow.transport {
        Transport::Tcp(Segment { ports, .. }) => {
            (tables.rule_at(vip.tcp, ports.destination), ports.source)
        }
        Transport::Udp(ports) => (tables.rule_at(vip.udp, ports.destination), ports.source),
        Transport::Other => (Some(DEFAULT_RULE), 0),
        Transport::IcmpError => return everyone(tables, Reason::IcmpError),
        Transport::LaterFragment => return everyone(tables, Reason::Fragment),
    };
    let Some(case) = rule.and_then(|rule| Case::find(tables, settings, rule, flow.source, port))
    else {
        return Decision::drop(Reason::BrokenTables);
    };
    let (verdict, reason) = if case.entry.disabled != 0 {
        (Verdict::Drop, Reason::Disabled)
    } else if !case.row.is_mine() {
        if case.row.is_lingering() && case.entry.cut == 0 && has_connection(tables, flow) {
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
    case.decision(verdict, reason)
}

/// Whether a packet is part of a connection that has been opened before.
#[inline(always)]
const fn goes_on(flow: &Flow) -> bool {
    matches!(flow.transport, Transport::Tcp(Segment { opens: false, .. }))
}

/// Whether a packet is part of a connection that this host has.
#[inline(always)]
fn has_connection<T: Tables>(tables: &T, flow: &Flow) -> bool {
    match &flow.transport {
        Transport::Tcp(segment) if !segment.opens => tables.socket(flow, segment).takes(segment),
        Transport::Tcp(_)
        | Transport::Udp(_)
        | Transport::IcmpError
        | Transport::LaterFragment
        | Transport::Other => false,
    }
}

/// A question for a virtual IP; `verdict` is how it gets to the kernel if this host answers.
#[inline(always)]
fn question<T: Tables>(
    tables: &T,
    settings: &Settings,
    asker: Address,
    verdict: Verdict,
) -> Decision {
    if settings.serving == 0 {
        return Decision::drop(Reason::Fenced);
    }
    let Some(case) = Case::find(tables, settings, NEIGHBOUR_RULE, asker, 0) else {
        return Decision::drop(Reason::BrokenTables);
    };
    let (verdict, reason) = if case.row.answers() {
        leased(tables, verdict, Reason::QuestionMine)
    } else {
        (Verdict::Drop, Reason::QuestionNotMine)
    };
    case.decision(verdict, reason)
}

/// Something that each serving host takes, because which of them it concerns cannot be told.
#[inline(always)]
fn everyone<T: Tables>(tables: &T, reason: Reason) -> Decision {
    let (verdict, reason) = leased(tables, Verdict::Accept, reason);
    Decision::new(verdict, reason)
}

/// The last rung: what this host would take, it takes only under its lease.
#[inline(always)]
fn leased<T: Tables>(tables: &T, verdict: Verdict, reason: Reason) -> (Verdict, Reason) {
    if tables.lease_holds() {
        (verdict, reason)
    } else {
        (Verdict::Drop, Reason::LeaseLapsed)
    }
}

/// What the tables say about a client under a rule.
struct Case {
    rule: u8,
    bucket: Bucket,
    row: Row,
    entry: RuleEntry,
}

impl Case {
    #[inline(always)]
    fn find<T: Tables>(
        tables: &T,
        settings: &Settings,
        rule: u8,
        client: Address,
        port: u16,
    ) -> Option<Self> {
        let entry = tables.rule(rule)?;
        let bucket = bucket(settings.hash_key, entry.affinity()?, client, port);
        Some(Self {
            rule,
            bucket,
            row: tables.row(entry.map, bucket.get())?,
            entry: *entry,
        })
    }

    #[inline(always)]
    const fn decision(&self, verdict: Verdict, reason: Reason) -> Decision {
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
