//! The decision about the frames that are few: questions and answers about addresses, fragments, ICMP, tunnels,
//! probes, and all that is wrong.
//!
//! It knows everything that [`quick`](crate::quick()) knows, because a first fragment may hold any packet. The
//! kernel's program has it in a function of its own. Specification: docs/design.md, "Data path".

use crate::decide::{
    Case, Decision, Reason, Verdict, covering, leased, shared, to_cluster as is_to_cluster, vip,
};
use crate::flow::{
    Flow, Fragment, Frame, Packet, Ports, Transport, ether_type, is_group_report, protocol,
};
use crate::quote::{Quote, Quoted};
use crate::table::{DEFAULT_RULE, NEIGHBOUR_RULE, Settings, Tables, VipSlot};
use crate::{Address, probe};

/// Decides about one received frame of any kind.
#[inline(always)]
pub fn thorough<P: Packet + ?Sized, T: Tables>(packet: &P, tables: &T) -> Decision {
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
    } else {
        let ours = is_to_cluster(settings, destination);
        let group = destination[0] & 1 != 0;
        match (ours, group) {
            (false, _) if destination == settings.host_mac => Decision::pass(Reason::OwnMac),
            (false, false) => Decision::pass(Reason::OtherMac),
            (true, _) if is_probe(packet, tables, settings, kind) => {
                Decision::new(Verdict::Daemon, Reason::Probe)
            }
            (true, false) if settings.serving == 0 => Decision::drop(Reason::Fenced),
            (true, _) => to_cluster(packet, tables, settings, group),
            (false, true) => to_group(packet, tables, settings),
        }
    }
}

#[inline(always)]
fn is_probe<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    tables: &T,
    settings: &Settings,
    kind: u16,
) -> bool {
    probe::target(packet, kind).is_some_and(|target| vip(tables, settings, target).is_some())
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
        Ok(_) | Err(_) if is_leak(packet, settings) => Decision::pass(Reason::LeakSeen),
        Ok(_) | Err(_) => Decision::pass(Reason::Group),
    }
}

/// Whether a frame teaches switches a MAC of the cluster. With all hosts on one hub it may be on purpose.
#[inline(always)]
fn is_leak<P: Packet + ?Sized>(packet: &P, settings: &Settings) -> bool {
    packet
        .read::<6>(6)
        .is_some_and(|source| is_to_cluster(settings, source) && source != settings.source_mac)
}

/// To a MAC of the cluster. If that is a group, others may use it too: the kernel for IGMP's questions about the group
/// of that MAC, programs that are members. What is about no virtual IP is theirs.
#[inline(always)]
fn to_cluster<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    tables: &T,
    settings: &Settings,
    group: bool,
) -> Decision {
    if group && is_group_report(packet) {
        // A member that hears another one report says nothing itself (RFC 2236 §3), and the switch, which asks at each
        // port, forgets this host.
        return Decision::drop(Reason::OtherMember);
    }
    let not_ours = |reason| {
        if group {
            Decision::pass(Reason::Group)
        } else {
            Decision::drop(reason)
        }
    };
    match Frame::parse(packet) {
        Ok(Frame::Ip(flow)) => match vip(tables, settings, flow.destination) {
            Some(vip) => whole(packet, tables, settings, vip, &flow),
            None => not_ours(Reason::Foreign),
        },
        Ok(Frame::Fragment(fragment)) => {
            match vip(tables, settings, fragment.datagram.destination) {
                Some(vip) => part(packet, tables, settings, vip, fragment),
                None => not_ours(Reason::Foreign),
            }
        }
        Ok(Frame::Question { asker, target }) => match vip(tables, settings, target) {
            Some(_) => question(tables, settings, asker, Verdict::Accept),
            None => not_ours(Reason::Foreign),
        },
        Ok(Frame::Answer { asker }) => match vip(tables, settings, asker) {
            Some(_) => everyone(tables, settings, Reason::Answer),
            None => not_ours(Reason::Foreign),
        },
        Ok(Frame::Other) => not_ours(Reason::NotIp),
        Err(_) => not_ours(Reason::Malformed),
    }
}

/// A whole IP packet to a virtual IP, or the first fragment of one.
#[inline(always)]
fn whole<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    tables: &T,
    settings: &Settings,
    vip: &VipSlot,
    flow: &Flow,
) -> Decision {
    if settings.serving == 0 {
        return Decision::drop(Reason::Fenced);
    }
    let decision = match flow.transport {
        Transport::IcmpError(quotation) => match Quote::parse(packet, quotation) {
            Ok(quote) => error(tables, settings, &quote),
            Err(_) => Some(Decision::drop(Reason::BadQuote)),
        },
        Transport::Icmp if settings.icmp_to_all != 0 => {
            Some(everyone(tables, settings, Reason::Icmp))
        }
        Transport::Icmp | Transport::Tcp(_) | Transport::Udp(_) | Transport::Other(_) => {
            shared(tables, settings, vip, flow)
        }
    };
    decision.unwrap_or(Decision::drop(Reason::BrokenTables))
}

/// A fragment: the first one decides for the rest. One that came before its first is taken by every host, because only
/// the host that gets the first can make use of it.
#[inline(always)]
fn part<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    tables: &T,
    settings: &Settings,
    vip: &VipSlot,
    Fragment { datagram, first }: Fragment,
) -> Decision {
    if let Some(transport) = first {
        let flow = Flow {
            source: datagram.source,
            destination: datagram.destination,
            transport,
        };
        let decision = whole(packet, tables, settings, vip, &flow);
        tables.note_first(&datagram, decision.verdict == Verdict::Accept);
        return decision;
    }
    match tables.took_first(&datagram) {
        Some(true) => everyone(tables, settings, Reason::FragmentMine),
        Some(false) => Decision::drop(Reason::FragmentNotMine),
        None => everyone(tables, settings, Reason::Fragment),
    }
}

/// An ICMP error: for the host that has the flow it is about. That is the bucket's owner, or who lingers in it; both take
/// it, and no socket is looked up, because the kernel itself looks for the socket of the quoted packet and ignores an
/// error that has none.
#[inline(always)]
fn error<T: Tables>(tables: &T, settings: &Settings, quote: &Quote) -> Option<Decision> {
    let Some(vip) = vip(tables, settings, quote.source) else {
        return Some(Decision::drop(Reason::BadQuote));
    };
    let (rule, port) = match quote.content {
        Quoted::Tcp(ports) => covering(tables, vip, protocol::TCP, ports),
        Quoted::Udp(ports) => covering(tables, vip, protocol::UDP, ports),
        Quoted::Other(protocol) => covering(tables, vip, protocol, Ports::NONE),
        Quoted::Icmp if settings.icmp_to_all == 0 => (Some(DEFAULT_RULE), None),
        Quoted::Icmp | Quoted::LaterFragment => {
            return Some(everyone(tables, settings, Reason::IcmpError));
        }
    };
    let case = Case::find(tables, settings, rule?, quote.client, port)?;
    let (verdict, reason) = if case.entry.disabled != 0 {
        (Verdict::Drop, Reason::Disabled)
    } else if case.row.is_mine() || case.lingers() {
        leased(tables, Verdict::Accept, Reason::IcmpError)
    } else {
        (Verdict::Drop, Reason::NotMine)
    };
    Some(case.decision(verdict, reason))
}

/// A question for a virtual IP; `verdict` is how it gets to the kernel if this host answers. A probe whether the
/// address is free (RFC 4862, RFC 5227) comes from nobody; the owner of nobody's bucket and its successor defend it.
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
    let Some(case) = Case::find(tables, settings, NEIGHBOUR_RULE, asker, None) else {
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
fn everyone<T: Tables>(tables: &T, settings: &Settings, reason: Reason) -> Decision {
    if settings.serving == 0 {
        return Decision::drop(Reason::Fenced);
    }
    let (verdict, reason) = leased(tables, Verdict::Accept, reason);
    Decision::new(verdict, reason)
}
