//! The MACs under which a cluster's frames come: that of its mode, and those that it had or may have. What is to a
//! group may be for others. Specification: docs/design.md, "Modes".

mod cluster;
mod frames;

use cluster::*;
use covey_filter::{Decision, Egress, MacBytes, Reason, Socket, Verdict, decide, guard};
use frames::*;
use std::net::Ipv4Addr;

const GROUP4: Ipv4Addr = Ipv4Addr::new(239, 255, 0, 100);

/// Frames of all kinds for the virtual IPs, to this MAC.
fn for_the_cluster(to: MacBytes) -> Vec<Vec<u8>> {
    let question = arp(1, (CLIENT_MAC, CLIENT4), ([0; 6], VIP4));
    let answer = arp(2, (CLIENT_MAC, CLIENT4), (to, VIP4));
    vec![
        to_ipv4(to, &ipv4(CLIENT4, VIP4, TCP, &ports(40000, 80))),
        to_ipv6(to, &ipv6(CLIENT6, VIP6, TCP, &ports(40000, 80))),
        to_ipv4(to, &ipv4(CLIENT4, VIP4, UDP, &ports(40000, 550))),
        to_ipv4(to, &ipv4(CLIENT4, VIP4, TCP, &ports(40000, 25))),
        to_ipv4(to, &ipv4(CLIENT4, VIP4, ICMP, &icmp(8))),
        to_ipv4(to, &ipv4_with(CLIENT4, VIP4, UDP, 3, &[], &[0; 8])),
        ethernet(to, CLIENT_MAC, 0x0806, &question),
        ethernet(to, CLIENT_MAC, 0x0806, &answer),
        to_ipv6(to, &neighbour(135, CLIENT6, VIP6, VIP6, CLIENT_MAC)),
    ]
}

/// What is to a group, but not for the virtual IPs.
fn for_others(to: MacBytes) -> Vec<Vec<u8>> {
    let igmp_query = ipv4(CLIENT4, GROUP4, 2, &[0x11, 100, 0, 0, 239, 255, 0, 100]);
    vec![
        to_ipv4(to, &igmp_query),
        to_ipv4(to, &ipv4(CLIENT4, GROUP4, UDP, &ports(5000, 5000))),
        to_ipv4(to, &ipv4(CLIENT4, OTHER4, TCP, &ports(40000, 80))),
        ethernet(to, CLIENT_MAC, 0x88CC, &[0; 40]),
        ethernet(to, CLIENT_MAC, 0x0800, &[]),
    ]
}

/// Whether other hosts may have the connections, too.
fn decisions(to: MacBytes) -> Vec<Decision> {
    let of = |mut host: Host| {
        host.socket = Socket::Connected;
        let frames = for_the_cluster(to);
        frames
            .iter()
            .map(|frame| decide(&frame[..], &host))
            .collect::<Vec<_>>()
    };
    hosts(3).into_iter().flat_map(of).collect()
}

#[test]
fn a_frame_meets_the_same_under_every_mac_of_the_cluster() {
    let usual = decisions(CLUSTER_MAC);
    assert!(
        usual
            .iter()
            .any(|decision| decision.verdict == Verdict::Accept)
    );
    for mac in [GROUP_MAC, FORMER_MAC] {
        assert_eq!(decisions(mac), usual);
    }
}

#[test]
fn what_is_to_the_group_and_for_others_is_left_to_the_kernel() {
    for (serving, lease) in [(1, true), (1, false), (0, true)] {
        let mut host = hosts(1).remove(0);
        (host.tables.settings.serving, host.lease) = (serving, lease);
        let verdict = |frame: &Vec<u8>| decide(&frame[..], &host).verdict;
        for frame in for_others(GROUP_MAC) {
            let decision = decide(&frame[..], &host);
            let (verdict, reason) = (decision.verdict, decision.reason);
            assert_eq!(
                (verdict, reason),
                (Verdict::Pass, Reason::Group),
                "{frame:02x?}"
            );
        }
        assert!(
            for_others(FORMER_MAC)
                .iter()
                .map(verdict)
                .all(|it| it == Verdict::Drop)
        );
        if serving == 0 || !lease {
            assert!(
                for_the_cluster(GROUP_MAC)
                    .iter()
                    .map(verdict)
                    .all(|it| it == Verdict::Drop)
            );
        }
    }
}

#[test]
fn in_a_multicast_mode_the_group_is_the_cluster_mac() {
    let mut host = hosts(1).remove(0);
    host.tables.settings.cluster_mac = GROUP_MAC;
    host.tables.settings.aliases = [CLUSTER_MAC; _];
    for to in [GROUP_MAC, CLUSTER_MAC] {
        let syn = &for_the_cluster(to)[0];
        assert_eq!(decide(&syn[..], &host).verdict, Verdict::Accept);
    }
    let answer = arp(2, (host_mac(1), VIP4), (CLIENT_MAC, CLIENT4));
    let answer = ethernet(CLIENT_MAC, host_mac(1), 0x0806, &answer);
    let Egress::Change(changes) = guard(&answer[..], &host) else {
        panic!("an answer with the NIC's own MAC leaves as it is");
    };
    assert_eq!(changes.source, host_mac(1));
    assert_eq!(changes.advertised.map(|it| it.new), Some(GROUP_MAC));
}

#[test]
fn no_mac_of_the_cluster_leaves_as_a_source() {
    for mac in [CLUSTER_MAC, GROUP_MAC, FORMER_MAC] {
        let leak = ethernet(BROADCAST, mac, 0x1234, &[0; 46]);
        assert_eq!(guard(&leak[..], &hosts(1)[0]), Egress::Drop);
    }
}
