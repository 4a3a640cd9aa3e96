//! Checks of the segment between the hosts: who hears whom, and what the switch does with the cluster's frames.

use super::cluster::{is_alone, named, of_refused, others};
use super::host::milliseconds;
use super::{Looked, found, hosts};
use crate::doctor::evidence::Evidence;
use crate::doctor::machine::Gateway;
use crate::doctor::{Finding, Kind, Severity};
use crate::duration;
use crate::status::{ClaimantStatus, Exclusion, HeartbeatCounts, LeftOut, ReachStatus, Status};
use std::time::Duration;

/// Heartbeats of one host that are lost lately, from which on it matters: so many, and one of so many.
const LOST: u64 = 5;
const ONE_OF: u64 = 20;
/// Frames between other machines lately, from which on the segment is a hub.
const OVERHEARD: u64 = 30;
/// For so long a claim to a virtual IP counts.
const CLAIMS_FOR: Duration = Duration::from_secs(300);
/// Before so long nobody can say that no client was ever seen.
const SETTLES_IN: Duration = Duration::from_secs(60);

pub(super) fn broadcasts(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let alone = is_alone(status) && !status.cluster.unicast_fallback;
    let blocked = &status.troubles.direct_only;
    let on = evidence.machine.as_ref();
    let on = on.map_or(&[][..], |machine| &machine.lost_and_on);
    found(if alone {
        let what = match on {
            [] => {
                "This host is alone, and with unicast_fallback = false it does not try whether others hear it without broadcasts.".to_owned()
            }
            on => format!(
                "This host is alone, though the machines of {} are on: heartbeats to broadcast (EtherType 0x886F) do not arrive here, unless their daemons do not run.",
                hosts(on)
            ),
        };
        Some(
            Finding::new(Kind::AloneWithoutFallback, what)
                .seen("it hears no heartbeat of any other host"),
        )
    } else if blocked.is_empty() {
        None
    } else {
        let to = match status.cluster.mode.as_str() {
            "unicast" => "broadcast".to_owned(),
            _ => format!("the cluster MAC {}", status.cluster.mac),
        };
        let from = hosts(blocked);
        Some(
            Finding::new(
                Kind::BroadcastBlocked,
                format!("Heartbeats of {from} to {to} do not arrive here, direct ones do; the cluster goes on by these."),
            )
            .seen("EtherType 0x886F"),
        )
    })
}

/// Heartbeats do not come, and what is sent to this host alone does.
pub(super) fn unheard(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let (speaking, mac) = (&status.troubles.probing_only, &status.cluster.mac);
    found((!speaking.is_empty()).then(|| {
        let who = hosts(speaking);
        let seen = "probes to this host's own MAC, EtherType 0x88B5";
        match status.cluster.mode.as_str() {
            "unicast" => Finding::new(
                Kind::BroadcastBlocked,
                format!("Heartbeats of {who} to broadcast do not arrive here, and what they send to this host alone does."),
            ),
            mode => Finding::new(
                Kind::GroupNotReceived,
                format!(
                    "What {who} send to the cluster MAC {mac} does not arrive here, and what they send to this host alone does: in {mode} mode this \
                     host hears no heartbeat, gets no client, and does not serve."
                ),
            ),
        }
        .seen(seen)
    }))
}

pub(super) fn silent_daemons(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let answering = &status.troubles.answer_arp_only;
    if !status.troubles.probing_only.is_empty() {
        // They speak: it is another finding.
        return Some(Vec::new());
    }
    found((!answering.is_empty()).then(|| {
        let finding = Finding::new(
            Kind::DaemonSilent,
            format!("The machine(s) of {} answer ARP, and no heartbeat of any host arrives, so this host does not serve.", hosts(answering)),
        );
        let silent = status.hosts.iter().filter(|host| answering.contains(&host.id));
        silent.fold(finding, |finding, host| {
            let ago = milliseconds(host.last_heartbeat_ms);
            finding.seen(format!("{}: {}, last heard {ago} ago", named(status, host.id), host.dip))
        })
    }))
}

pub(super) fn lost_heartbeats(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let network = &status.network;
    if network.recent_ms == 0 {
        return None;
    }
    let matters = |count: &&HeartbeatCounts| {
        count.lost >= LOST && count.lost * ONE_OF >= count.lost + count.received
    };
    let many: Vec<&HeartbeatCounts> = network.heartbeats.iter().filter(matters).collect();
    found((!many.is_empty()).then(|| {
        let ids: Vec<u8> = many.iter().map(|count| count.host).collect();
        let window = duration::format(Duration::from_millis(network.recent_ms));
        let finding = Finding::new(
            Kind::HeartbeatsLost,
            format!(
                "In the last {window} heartbeats of {} did not all arrive here.",
                hosts(&ids)
            ),
        );
        many.iter().fold(finding, |finding, count| {
            let all = count.lost + count.received;
            finding.seen(format!(
                "{}: {} of {all} lost",
                named(status, count.host),
                count.lost
            ))
        })
    }))
}

pub(super) fn hearing(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let pairs = status.troubles.left_out.iter();
    let pairs = pairs.filter(|out| out.reason == Exclusion::Hearing);
    let finding = |out: &LeftOut| {
        let other = out.other.filter(|other| *other != out.host)?;
        let hears = |one: u8, other: u8| {
            let member = status.hosts.iter().find(|host| host.id == one);
            member.is_some_and(|host| host.hears.contains(&other))
        };
        let (one, two) = (out.host, other);
        let what = match (hears(one, two), hears(two, one)) {
            (true, false) => format!("Host {two} does not hear host {one}, which hears it"),
            (false, true) => format!("Host {one} does not hear host {two}, which hears it"),
            (false, false) | (true, true) => {
                format!("Host {one} and host {two} do not hear each other")
            }
        };
        let finding = Finding::new(Kind::OneWay, format!("{what}; host {one} is kept out."));
        let finding = finding.about(format!("{one} and {two}"));
        let rows = status.hosts.iter().filter(|host| host.alive);
        Some(rows.fold(finding, |finding, host| {
            finding.seen(format!("host {} hears {}", host.id, hosts(&host.hears)))
        }))
    };
    Some(pairs.filter_map(finding).collect())
}

pub(super) fn strangers(evidence: &Evidence) -> Looked {
    of_refused(
        evidence.status()?,
        Kind::ForeignNlb,
        "arrived from hosts of Microsoft's NLB",
        [("foreign_nlb", "heartbeats of NLB"), ("", "")],
    )
}

/// Where the clients' frames arrive, by what arrives of the hosts' probes.
pub(super) fn flooding(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let reach = &status.network.reach;
    let own = reach.iter().find(|row| row.host == status.host.id)?;
    let finding = match (
        status.cluster.mode.as_str(),
        status.network.cluster_mac_learned_at,
    ) {
        ("unicast", Some(host)) => Some(Finding::new(
            Kind::ClusterMacLearned,
            format!(
                "The switch sends frames for the cluster MAC {} to {} only.",
                status.cluster.mac,
                named(status, host)
            ),
        )),
        ("unicast", None) => not_reached(status, own),
        (_, _) => by_multicast(status, own),
    };
    let mut findings: Vec<Finding> = finding
        .into_iter()
        .map(|finding| {
            reach
                .iter()
                .fold(finding, |finding, row| finding.seen(told(row)))
        })
        .collect();
    findings.extend(sizes(reach));
    Some(findings)
}

fn told(row: &ReachStatus) -> String {
    let arrive = format!(
        "host {}: probes to the cluster MAC arrive from {}",
        row.host,
        hosts(&row.cluster_mac.from)
    );
    match row.cluster_mac.missing.as_slice() {
        [] => arrive,
        missing => format!("{arrive}, and not from {}", hosts(missing)),
    }
}

/// In unicast mode: probes to this host's own MAC arrive, and those to the cluster MAC do not.
fn not_reached(status: &Status, own: &ReachStatus) -> Option<Finding> {
    let nothing =
        |row: &ReachStatus| row.cluster_mac.from.is_empty() && !row.cluster_mac.missing.is_empty();
    if !nothing(own) {
        return None;
    }
    let (mac, interface) = (&status.cluster.mac, &status.host.interface);
    let rows = &status.network.reach;
    if rows.len() > 1 && rows.iter().all(nothing) {
        let what =
            format!("Frames for the cluster MAC {mac} reach no host, and their heartbeats do.");
        return Some(Finding::new(Kind::ClusterMacNotFlooded, what));
    }
    let what = format!(
        "Frames for the cluster MAC {mac} do not arrive at {interface}, though heartbeats do and other hosts get them."
    );
    let finding = Finding::new(Kind::ClusterMacRefused, what);
    Some(match rows.iter().find(|row| row.host != own.host) {
        Some(other) if rows.len() == 2 => finding.seen(format!(
            "with two hosts it may as well be the switch, if it has learned the cluster MAC at the port of host {}",
            other.host
        )),
        Some(_) | None => finding,
    })
}

/// In multicast modes: heartbeats to the cluster MAC arrive, and packets to the virtual IP under it do not.
fn by_multicast(status: &Status, own: &ReachStatus) -> Option<Finding> {
    let heard = |host: &&u8| own.broadcast.from.contains(host);
    let lost: Vec<u8> = own
        .cluster_mac
        .missing
        .iter()
        .filter(heard)
        .copied()
        .collect();
    (!lost.is_empty() && own.cluster_mac.from.is_empty()).then(|| {
        Finding::new(
            Kind::VipUnreachableByMulticast,
            format!(
                "Heartbeats of {} to the cluster MAC {} arrive here, and packets to the virtual IP under the same MAC do not.",
                hosts(&lost),
                status.cluster.mac
            ),
        )
    })
}

fn sizes(reach: &[ReachStatus]) -> Option<Finding> {
    let told = || reach.iter().filter_map(|row| Some((row.host, row.mtu?)));
    let (_, first) = told().next()?;
    told().any(|(_, mtu)| mtu != first).then(|| {
        let finding = Finding::new(
            Kind::MtuDiffers,
            "The NICs of the hosts have different MTUs.",
        );
        told().fold(finding, |finding, (host, mtu)| {
            finding.seen(format!("host {host}: {mtu} bytes"))
        })
    })
}

pub(super) fn querier(evidence: &Evidence) -> Looked {
    let multicast = evidence.status()?.multicast.as_ref()?;
    let silent = multicast.silent_ms?;
    // Hosts that report by themselves need nobody to ask.
    let unasked = multicast.report_interval_ms.is_none();
    found((unasked && silent > multicast.querier_timeout_ms).then(|| {
        let time = |ms| duration::format(Duration::from_millis(ms));
        let finding = Finding::new(
            Kind::NoQuerier,
            format!(
                "No IGMP query has been heard for {}, so a switch that snoops forgets that this host is a member.",
                time(silent)
            ),
        );
        let last = match &multicast.igmp_querier {
            Some(querier) => format!("{} asked last, {} ago", querier.address, time(querier.heard_ms_ago)),
            None => "nobody has asked since the daemon started".to_owned(),
        };
        let groups: Vec<String> = multicast.groups.iter().map(ToString::to_string).collect();
        finding.seen(last).seen(format!("this host is in {}", groups.join(", ")))
    }))
}

pub(super) fn leaks(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let network = &status.network;
    if network.recent_ms == 0 {
        return None;
    }
    let window = duration::format(Duration::from_millis(network.recent_ms));
    let (seen, stopped) = (network.leaks_seen.recent, network.leaks_stopped.recent);
    let mac = &status.cluster.mac;
    let what = match (seen, stopped) {
        (0, 0) => return Some(Vec::new()),
        (0, stopped) => format!(
            "A program on this host has sent {stopped} frames with the cluster MAC {mac} as source in the last {window}; the guard has stopped them."
        ),
        (seen, 0) => format!(
            "{seen} frames with the cluster MAC {mac} as source have arrived in the last {window}: another machine sends them."
        ),
        (seen, stopped) => format!(
            "In the last {window} {seen} frames with the cluster MAC {mac} as source have arrived, and {stopped} of programs on this host were stopped by the guard."
        ),
    };
    let senders = evidence.machine.as_ref().map(|machine| &machine.senders);
    let senders = senders.into_iter().flatten();
    found(Some(senders.fold(
        Finding::new(Kind::ClusterMacLeaked, what),
        |finding, program| {
            finding.seen(format!(
                "{program} sends and receives frames by itself on this host"
            ))
        },
    )))
}

pub(super) fn claimants(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let recent =
        |claimant: &&ClaimantStatus| u128::from(claimant.last_ms) <= CLAIMS_FOR.as_millis();
    let finding = |claimant: &ClaimantStatus| {
        let who = match claimant.host {
            Some(host) => named(status, host),
            None => "a machine that is no host of this cluster".to_owned(),
        };
        Finding::new(
            Kind::DuplicateVip,
            format!(
                "The virtual IP {} is claimed with MAC {}, by {who}.",
                claimant.vip, claimant.mac
            ),
        )
        .about(format!("{} {}", claimant.vip, claimant.mac))
        .seen(format!(
            "said {} time(s), last {} ago; the cluster's MAC is {}",
            claimant.times,
            duration::format(Duration::from_millis(claimant.last_ms)),
            status.cluster.mac
        ))
    };
    let claimants = status.network.claimants.iter().filter(recent);
    Some(claimants.map(finding).collect())
}

/// Who else is on the segment.
pub(super) fn neighbourhood(evidence: &Evidence) -> Looked {
    let status = evidence.status()?;
    let network = &status.network;
    if network.recent_ms == 0 {
        return None;
    }
    let overheard = network.frames_for_others;
    if overheard.recent >= OVERHEARD && status.cluster.source_mac == "masked" {
        let window = duration::format(Duration::from_millis(network.recent_ms));
        return found(Some(Finding::new(
            Kind::HubWithMasking,
            format!(
                "{} frames between other machines have arrived here in the last {window}, so this is a hub, and source_mac is \"masked\".",
                overheard.recent
            ),
        )));
    }
    let company = others(status).next().is_some();
    let settled = u128::from(status.host.uptime_ms) >= SETTLES_IN.as_millis();
    let nobody = network.neighbours.is_empty() && network.cluster_frames.total == 0;
    let silent = silent_gateways(evidence).next();
    found((company && nobody && (settled || silent.is_some())).then(|| {
        let mut finding = Finding::new(
            Kind::SegmentNotShared,
            "Nobody but the cluster's hosts has ever been seen on this segment: no client, no router.",
        )
        .seen(format!("the daemon has run for {}", duration::format(Duration::from_millis(status.host.uptime_ms))));
        match silent {
            Some(gateway) => finding.seen(format!("the gateway {} does not answer", gateway.address)),
            // A cluster that nobody has used yet looks the same.
            None => {
                finding.severity = Severity::Info;
                finding
            }
        }
    }))
}

fn silent_gateways(evidence: &Evidence) -> impl Iterator<Item = &Gateway> {
    let gateways = evidence
        .machine
        .iter()
        .flat_map(|machine| &machine.gateways);
    gateways.filter(|gateway| !gateway.answers)
}

/// Those by which answers to distant clients leave.
pub(super) fn gateways(evidence: &Evidence) -> Looked {
    let name = &evidence.machine.as_ref()?.patient.interface;
    let finding = |gateway: &Gateway| {
        let address = gateway.address;
        let what = format!(
            "The gateway {address}, by which answers to distant clients leave, does not tell its MAC on {name}."
        );
        Finding::new(Kind::GatewaySilent, what).about(address)
    };
    Some(silent_gateways(evidence).map(finding).collect())
}
