//! What produces each finding, and what nearly does.

use super::evidence::{VIP, vip};
use crate::doctor::evidence::Service;
use crate::doctor::machine::{Machine, WayOut};
use crate::doctor::teaming::Team;
use crate::doctor::{Daemon, Evidence, Kind};
use crate::host::Nic;
use crate::status::*;

/// One finding.
pub(super) struct Case {
    pub(super) kind: Kind,
    /// Makes a healthy host's evidence into one that produces it and nothing else.
    pub(super) wrong: fn(&mut Evidence),
    /// Changes something that is nearly the same, or the same and harmless.
    pub(super) right: fn(&mut Evidence),
}

const fn case(kind: Kind, wrong: fn(&mut Evidence), right: fn(&mut Evidence)) -> Case {
    Case { kind, wrong, right }
}

fn status(evidence: &mut Evidence) -> &mut Status {
    match &mut evidence.daemon {
        Daemon::Answers(status) => status,
        Daemon::NotRunning(_) | Daemon::Hangs(_) => panic!("the daemon answers"),
    }
}

fn troubles(evidence: &mut Evidence) -> &mut Troubles {
    &mut status(evidence).troubles
}

fn network(evidence: &mut Evidence) -> &mut NetworkStatus {
    &mut status(evidence).network
}

fn machine(evidence: &mut Evidence) -> &mut Machine {
    evidence.machine.as_mut().unwrap()
}

fn nic(evidence: &mut Evidence) -> &mut Nic {
    machine(evidence).nic.as_mut().unwrap()
}

fn sysctls(evidence: &mut Evidence) -> &mut crate::doctor::machine::Sysctls {
    machine(evidence).sysctls.as_mut().unwrap()
}

fn rejected(evidence: &mut Evidence, reason: &str, count: u64) {
    let rejected = &mut status(evidence).recent.frames_rejected;
    rejected.insert(reason.to_owned(), count);
}

fn left_out(evidence: &mut Evidence, host: u8, reason: Exclusion) -> &mut LeftOut {
    let all = &mut troubles(evidence).left_out;
    all.push(LeftOut {
        host,
        reason,
        difference: None,
        other: None,
        wait_ms: None,
    });
    all.last_mut().unwrap()
}

/// Nobody but host 1 is there.
fn alone(evidence: &mut Evidence) {
    let status = status(evidence);
    status.hosts.truncate(1);
    status.cluster.view = vec![1];
    status.network.reach.clear();
    status.network.heartbeats.clear();
}

/// Probes to the cluster MAC do not arrive at this host any more.
fn miss(evidence: &mut Evidence, host: u8) {
    let rows = &mut network(evidence).reach;
    let row = rows.iter_mut().find(|row| row.host == host).unwrap();
    row.cluster_mac.missing = std::mem::take(&mut row.cluster_mac.from);
}

fn claims(evidence: &mut Evidence, last_ms: u64) {
    network(evidence).claimants.push(ClaimantStatus {
        vip: vip(),
        mac: "0a:00:00:00:00:99".to_owned(),
        host: None,
        times: 3,
        last_ms,
    });
}

fn in_a_group(silent_ms: u64) -> MulticastStatus {
    MulticastStatus {
        groups: vec!["239.255.0.100".parse().unwrap()],
        igmp_querier: None,
        mld_querier: None,
        silent_ms: Some(silent_ms),
        querier_timeout_ms: 260_000,
        report_interval_ms: None,
        announces_mrouter: false,
    }
}

fn no_one_else(evidence: &mut Evidence) {
    network(evidence).cluster_frames = Count::default();
}

pub(super) const CASES: [Case; Kind::ALL.len()] = [
    case(
        Kind::DaemonNotRunning,
        |e| {
            e.daemon = Daemon::NotRunning("nobody answers".to_owned());
            // What only a running daemon brings about is not missed.
            machine(e).holders[0].1.clear();
            machine(e).ways_out.clear();
            nic(e).has_xdp = false;
            sysctls(e).arp_announce = 0;
        },
        |e| e.daemon = Daemon::Hangs("it did not answer within 7s".to_owned()),
    ),
    case(
        Kind::DaemonHangs,
        |e| e.daemon = Daemon::Hangs("it did not answer within 7s".to_owned()),
        |e| e.daemon = Daemon::NotRunning("nobody answers".to_owned()),
    ),
    case(
        Kind::ConfigurationWrong,
        |e| e.configuration = Some(Err("there is no [cluster] section".to_owned())),
        |e| e.configuration = None,
    ),
    case(Kind::LinkDown, |e| nic(e).up = false, |e| nic(e).mtu = 9000),
    case(
        Kind::FilterDetached,
        |e| nic(e).has_xdp = false,
        |e| {
            e.daemon = Daemon::NotRunning("nobody answers".to_owned());
            nic(e).has_xdp = false;
        },
    ),
    case(
        Kind::VipMissing,
        |e| machine(e).holders[0].1.clear(),
        |e| {
            e.daemon = Daemon::NotRunning("nobody answers".to_owned());
            machine(e).holders[0].1.clear();
        },
    ),
    case(
        Kind::VipElsewhere,
        |e| machine(e).holders[0].1.push("eth0".to_owned()),
        |e| {
            // Of IPv6 the NIC is the right place.
            machine(e).holders = vec![("fd77::100".parse().unwrap(), vec!["eth0".to_owned()])];
        },
    ),
    case(
        Kind::ClusterMacRefused,
        |e| miss(e, 1),
        // One host's probes alone are missing: it does not send them.
        |e| {
            let row = &mut network(e).reach[0].cluster_mac;
            (row.from, row.missing) = (vec![2], vec![3]);
        },
    ),
    case(
        Kind::SysctlArp,
        |e| sysctls(e).arp_ignore = 1,
        |e| {
            e.daemon = Daemon::NotRunning("nobody answers".to_owned());
            sysctls(e).arp_announce = 0;
        },
    ),
    case(
        Kind::LoopbackDown,
        |e| machine(e).loopback_up = Some(false),
        |e| {
            machine(e).loopback_up = Some(false);
            machine(e).patient.vips = vec!["fd77::100".parse().unwrap()];
        },
    ),
    case(
        Kind::NoOwnIpv6,
        |e| {
            let addresses = ["fe80::1", "fd77::100"].map(|one| one.parse().unwrap());
            machine(e).addresses.extend(addresses);
            machine(e).patient.vips.push(addresses[1]);
        },
        |e| {
            let addresses = ["fd77::1", "fd77::100"].map(|one| one.parse().unwrap());
            machine(e).addresses.extend(addresses);
            machine(e).patient.vips.push(addresses[1]);
        },
    ),
    case(
        Kind::RpFilter,
        |e| {
            sysctls(e).rp_filter = 1;
            machine(e).ways_out[0].1 = WayOut::Nowhere;
        },
        // Strict, and the answers leave as the packets came.
        |e| sysctls(e).rp_filter = 1,
    ),
    case(
        Kind::RepliesByAnotherNic,
        |e| machine(e).ways_out[0].1 = WayOut::By("eth1".to_owned()),
        |e| machine(e).ways_out[0].1 = WayOut::Nowhere,
    ),
    case(
        Kind::Teaming,
        |e| {
            let seen = vec!["eth0 is a port of the team bond0".to_owned()];
            machine(e).team = Some(Team { seen });
        },
        |e| nic(e).controller = Some(("br0".to_owned(), Some("bridge".to_owned()))),
    ),
    case(
        Kind::LargeReceiveOffload,
        |e| machine(e).features.as_mut().unwrap().lro = true,
        |e| machine(e).features = None,
    ),
    case(
        Kind::MtuDiffers,
        |e| network(e).reach[2].mtu = Some(1400),
        // An older version does not tell.
        |e| network(e).reach[2].mtu = None,
    ),
    case(
        Kind::GenericXdp,
        |e| status(e).datapath.attach = "generic".to_owned(),
        |e| status(e).datapath.attach = "native".to_owned(),
    ),
    case(
        Kind::NoRealtime,
        |e| machine(e).scheduling.as_mut().unwrap().first = false,
        |e| {
            machine(e).scheduling.as_mut().unwrap().first = false;
            status(e).host.realtime = false;
        },
    ),
    case(
        Kind::Starved,
        |e| {
            // The lab's lease lasts a second.
            troubles(e).late = Some(Late {
                worst_ms: 500.0,
                ago_ms: 1000.0,
            });
            troubles(e).fenced = Some(Fenced {
                times: 1,
                ago_ms: 900.0,
                why: "lease".to_owned(),
            });
        },
        |e| {
            troubles(e).late = Some(Late {
                worst_ms: 499.0,
                ago_ms: 1000.0,
            })
        },
    ),
    case(
        Kind::ServiceNotListening,
        |e| {
            let service = Service {
                rule: 1,
                vips: vec![vip()],
                ports: 80..=80,
            };
            machine(e).unserved = Some(vec![service]);
        },
        |e| {
            let service = Service {
                rule: 1,
                vips: vec![vip()],
                ports: 80..=80,
            };
            machine(e).unserved = Some(vec![service]);
            status(e).host.uptime_ms = 9_999;
        },
    ),
    case(
        Kind::ClientsRefused,
        |e| status(e).recent.refused = 10,
        |e| status(e).recent.refused = 9,
    ),
    case(
        Kind::NoRuleForTraffic,
        |e| {
            let status = status(e);
            status.recent.accepted = [(0, 1001), (1, 1000)].into();
        },
        |e| status(e).recent.accepted = [(0, 1001), (1, 1001)].into(),
    ),
    case(
        Kind::NotConverged,
        |e| {
            status(e).host.state = HostState::Converging;
            status(e).host.waiting_for = Some("agreement of host(s) 3".to_owned());
            troubles(e).converging_ms = Some(4001.0);
        },
        |e| {
            status(e).host.state = HostState::Converging;
            troubles(e).converging_ms = Some(4000.0);
        },
    ),
    case(Kind::Alone, alone, |e| {
        alone(e);
        status(e).host.state = HostState::Stopped;
    }),
    case(
        Kind::BroadcastBlocked,
        |e| troubles(e).direct_only = vec![2],
        |e| troubles(e).answer_arp_only = vec![2],
    ),
    case(
        Kind::AloneWithoutFallback,
        |e| {
            alone(e);
            status(e).cluster.unicast_fallback = false;
        },
        |e| status(e).cluster.unicast_fallback = false,
    ),
    case(
        Kind::DaemonSilent,
        |e| troubles(e).answer_arp_only = vec![2],
        |e| troubles(e).direct_only = vec![2],
    ),
    case(
        Kind::HeartbeatsLost,
        |e| {
            let count = &mut network(e).heartbeats[0];
            (count.received, count.lost) = (95, 5);
        },
        |e| {
            let count = &mut network(e).heartbeats[0];
            (count.received, count.lost) = (96, 5);
            // Four of eight, as when a host has just come.
            let count = &mut network(e).heartbeats[1];
            (count.received, count.lost) = (4, 4);
        },
    ),
    case(
        Kind::OneWay,
        |e| {
            left_out(e, 3, Exclusion::Hearing).other = Some(2);
            status(e).hosts[1].hears = vec![1];
            status(e).hosts[2].hears = vec![1, 2];
        },
        |e| {
            left_out(e, 3, Exclusion::Listening);
        },
    ),
    case(Kind::SegmentNotShared, no_one_else, |e| {
        no_one_else(e);
        network(e).neighbours.push(NeighbourStatus {
            address: "10.77.0.254".parse().unwrap(),
            mac: "0a:00:00:00:00:fe".to_owned(),
        });
    }),
    case(
        Kind::HubWithMasking,
        |e| {
            network(e).frames_for_others.recent = 30;
            status(e).cluster.source_mac = "masked".to_owned();
        },
        |e| network(e).frames_for_others.recent = 3000,
    ),
    case(
        Kind::ClusterMacLearned,
        |e| {
            miss(e, 1);
            miss(e, 2);
            network(e).cluster_mac_learned_at = Some(3);
        },
        |e| miss(e, 2),
    ),
    case(
        Kind::ClusterMacLeaked,
        |e| {
            network(e).leaks_stopped.recent = 7;
            machine(e).senders = vec!["tcpdump (4711)".to_owned()];
        },
        // Long ago.
        |e| network(e).leaks_seen.total = 7,
    ),
    case(
        Kind::DuplicateVip,
        |e| claims(e, 300_000),
        |e| claims(e, 300_001),
    ),
    case(
        Kind::NoQuerier,
        |e| status(e).multicast = Some(in_a_group(260_001)),
        // It reports by itself.
        |e| {
            let mut multicast = in_a_group(260_001);
            multicast.report_interval_ms = Some(60_000);
            status(e).multicast = Some(multicast);
        },
    ),
    case(
        Kind::VipUnreachableByMulticast,
        |e| {
            status(e).cluster.mode = "igmp".to_owned();
            miss(e, 1);
        },
        // Nothing at all arrives: that is no matter of multicast.
        |e| {
            status(e).cluster.mode = "igmp".to_owned();
            miss(e, 1);
            network(e).reach[0].broadcast.from.clear();
        },
    ),
    case(
        Kind::RulesDiffer,
        |e| {
            left_out(e, 3, Exclusion::Rules).difference =
                Some(": it has 2 port rules, this host has 3".to_owned())
        },
        |e| {
            left_out(e, 3, Exclusion::Listening);
        },
    ),
    case(
        Kind::ModeDiffers,
        |e| troubles(e).other_mode = vec![3],
        |e| status(e).cluster.mode = "multicast".to_owned(),
    ),
    case(
        Kind::DuplicateHostId,
        |e| {
            troubles(e).twins.push(Twins {
                host: 2,
                name: "h2".to_owned(),
                mac: "0a:00:0a:4d:00:02".to_owned(),
                other_name: None,
                other_mac: "0a:00:0a:4d:00:09".to_owned(),
            });
        },
        |e| status(e).hosts[1].name = "h3".to_owned(),
    ),
    case(
        Kind::EqualPriorities,
        |e| {
            troubles(e).equal_priorities.push(EqualPriorities {
                rule: 2,
                taker: 1,
                other: 3,
            });
        },
        |e| status(e).rules[0].handling_priority = Some(1),
    ),
    case(
        Kind::Flapping,
        |e| left_out(e, 3, Exclusion::Flapping).wait_ms = Some(20_000.0),
        |e| {
            left_out(e, 3, Exclusion::Listening);
        },
    ),
    case(
        Kind::KeyDiffers,
        |e| rejected(e, "bad_signature_tag", 3),
        |e| rejected(e, "bad_signature_tag", 2),
    ),
    case(
        Kind::Unsigned,
        |e| rejected(e, "unsigned", 3),
        // Before counters have been compared nothing is known.
        |e| {
            rejected(e, "unsigned", 3);
            status(e).recent.window_ms = 0;
        },
    ),
    case(
        Kind::ForeignNlb,
        |e| rejected(e, "foreign_nlb", 60),
        |e| {
            let all = &mut status(e).frames_rejected;
            all.insert("foreign_nlb".to_owned(), 60);
        },
    ),
    case(
        Kind::VersionsDiffer,
        |e| status(e).hosts[0].protocol_version += 1,
        |e| {
            status(e).hosts[2].protocol_version += 1;
            status(e).hosts[2].alive = false;
            status(e).hosts[2].state = HostState::Stopped;
        },
    ),
    case(
        Kind::HostSilent,
        |e| status(e).hosts[2].alive = false,
        // It has said goodbye.
        |e| {
            status(e).hosts[2].alive = false;
            status(e).hosts[2].state = HostState::Stopped;
        },
    ),
    case(
        Kind::ClusterMacNotFlooded,
        |e| (1..=3).for_each(|host| miss(e, host)),
        |e| (1..=2).for_each(|host| miss(e, host)),
    ),
    case(
        Kind::GatewaySilent,
        |e| machine(e).gateways[0].answers = false,
        |e| machine(e).gateways.clear(),
    ),
    case(
        Kind::GroupNotReceived,
        |e| {
            status(e).cluster.mode = "igmp".to_owned();
            troubles(e).probing_only = vec![2, 3];
            troubles(e).answer_arp_only = vec![2, 3];
        },
        |e| troubles(e).probing_only = vec![2, 3],
    ),
];

#[test]
fn the_cases_are_about_the_lab() {
    assert_eq!(
        VIP,
        crate::lab::fake::status(covey_proto::ids::HostId::new(1).unwrap(), &[1])
            .cluster
            .vips[0]
            .to_string()
    );
}
