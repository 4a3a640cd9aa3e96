//! Table tests of the frames that are few: fragments, ICMP, tunnels, probes. Specification: docs/design.md,
//! "Data path".

mod cluster;
mod frames;

use cluster::*;
use covey_filter::{BUCKETS, Decision, MacBytes, Reason, Row, Socket, Verdict, decide};
use frames::*;
use std::net::{Ipv4Addr, Ipv6Addr};

const GRE: u8 = 47;
const ESP: u8 = 50;
const AH: u8 = 51;
const FRAGMENT: u8 = 44;
const MORE: u16 = 0x2000;

fn four(protocol: u8, body: &[u8]) -> Vec<u8> {
    to_ipv4(CLUSTER_MAC, &ipv4(CLIENT4, VIP4, protocol, body))
}

fn six(next: u8, body: &[u8]) -> Vec<u8> {
    to_ipv6(CLUSTER_MAC, &ipv6(CLIENT6, VIP6, next, body))
}

fn part4(place: u16, body: &[u8]) -> Vec<u8> {
    to_ipv4(
        CLUSTER_MAC,
        &ipv4_with(CLIENT4, VIP4, UDP, place, &[], body),
    )
}

fn part6(offset: u16, more: bool, body: &[u8]) -> Vec<u8> {
    six(FRAGMENT, &fragment(UDP, offset, more, body))
}

fn says(decision: Decision) -> (Verdict, Reason) {
    (decision.verdict, decision.reason)
}

/// The host that takes a frame, of three.
fn taker(frame: &[u8]) -> usize {
    let hosts = hosts(3);
    let takes = |host: &&Host| decide(frame, *host).verdict == Verdict::Accept;
    assert_eq!(hosts.iter().filter(takes).count(), 1, "{frame:02x?}");
    hosts
        .iter()
        .position(|host| takes(&host))
        .expect("some host takes it")
}

/// One host, all of whose buckets are like this.
fn all(row: u8) -> Host {
    let mut host = hosts(1).remove(0);
    host.tables.rows.fill([row; BUCKETS]);
    host
}

#[test]
fn the_first_fragment_decides_for_those_that_follow() {
    let firsts = [
        part4(MORE, &ports(40000, 550)),
        part6(0, true, &ports(40000, 550)),
    ];
    let laters = [part4(MORE | 2, &[0; 8]), part6(2, false, &[0; 8])];
    for (first, later) in std::iter::zip(firsts, laters) {
        let mut taken = 0;
        for host in hosts(3) {
            assert_eq!(
                says(decide(&later[..], &host)),
                (Verdict::Accept, Reason::Fragment)
            );
            let (verdict, reason) = match decide(&first[..], &host).verdict {
                Verdict::Accept => (Verdict::Accept, Reason::FragmentMine),
                Verdict::Drop => (Verdict::Drop, Reason::FragmentNotMine),
                Verdict::Pass | Verdict::Daemon => panic!("a fragment to the cluster passes"),
            };
            taken += usize::from(verdict == Verdict::Accept);
            assert_eq!(says(decide(&later[..], &host)), (verdict, reason));
        }
        assert_eq!(taken, 1);
    }
}

#[test]
fn fragments_of_other_packets_know_nothing_of_each_other() {
    let host = all(Row::MINE);
    decide(&part4(MORE, &ports(40000, 550))[..], &host);
    let mut other_number = part4(2, &[0; 8]);
    other_number[14 + 5] = 9;
    let other_protocol = ipv4_with(CLIENT4, VIP4, TCP, 2, &[], &[0; 8]);
    let other_source = ipv4_with(OTHER4, VIP4, UDP, 2, &[], &[0; 8]);
    for frame in [
        other_number,
        to_ipv4(CLUSTER_MAC, &other_protocol),
        to_ipv4(CLUSTER_MAC, &other_source),
        part6(2, false, &[0; 8]),
    ] {
        assert_eq!(decide(&frame[..], &host).reason, Reason::Fragment);
    }
}

#[test]
fn a_fragment_that_is_the_whole_packet_is_no_fragment() {
    let atomic = six(FRAGMENT, &fragment(TCP, 0, false, &ports(40000, 80)));
    let plain = six(TCP, &ports(40000, 80));
    let host = &hosts(3)[0];
    assert_eq!(decide(&atomic[..], host), decide(&plain[..], host));
    assert!(host.firsts.borrow().is_empty());
}

#[test]
fn a_first_fragment_without_its_ports_is_malformed_even_if_padding_has_some() {
    for (protocol, least) in [(UDP, 8), (TCP, 14), (ICMP, 8)] {
        for length in 0..=least {
            let body = &segment(40000, 80, ACK, 7)[..length];
            let mut short = to_ipv4(
                CLUSTER_MAC,
                &ipv4_with(CLIENT4, VIP4, protocol, MORE, &[], body),
            );
            short.resize(80, 0);
            let malformed = decide(&short[..], &all(Row::MINE)).reason == Reason::Malformed;
            assert_eq!(malformed, length < least, "{protocol} {length}");
        }
    }
    let mut short = part6(0, true, &ports(40000, 550)[..7]);
    short.resize(120, 0);
    assert_eq!(
        decide(&short[..], &all(Row::MINE)).reason,
        Reason::Malformed
    );
    let twice = fragment(FRAGMENT, 0, true, &fragment(UDP, 0, true, &ports(1, 550)));
    assert_eq!(
        decide(&six(FRAGMENT, &twice)[..], &all(Row::MINE)).reason,
        Reason::Malformed
    );
}

#[test]
fn a_first_fragment_of_a_connection_stays_with_it() {
    let mut host = all(Row::LINGERING);
    let body = segment(40000, 80, ACK, 7);
    let first = to_ipv4(
        CLUSTER_MAC,
        &ipv4_with(CLIENT4, VIP4, TCP, MORE, &[], &body),
    );
    let later = to_ipv4(CLUSTER_MAC, &ipv4_with(CLIENT4, VIP4, TCP, 3, &[], &[0; 8]));
    assert_eq!(decide(&first[..], &host).reason, Reason::NotMine);
    assert_eq!(decide(&later[..], &host).reason, Reason::FragmentNotMine);
    host.socket = Socket::Connected;
    assert_eq!(decide(&first[..], &host).reason, Reason::Lingering);
    assert_eq!(decide(&later[..], &host).reason, Reason::FragmentMine);
    host.lease = false;
    assert_eq!(decide(&later[..], &host).reason, Reason::LeaseLapsed);
}

#[test]
fn an_icmp_error_follows_the_flow_that_it_quotes() {
    let router = Ipv4Addr::new(198, 51, 100, 1);
    for client_port in 40000..40040 {
        let flow = four(TCP, &ports(client_port, 80));
        let sent = ipv4_with(
            VIP4,
            CLIENT4,
            TCP,
            0x4000,
            &[1; 8],
            &ports(80, client_port)[..8],
        );
        for kind in [3, 4, 5, 11, 12] {
            let error = ipv4(router, VIP4, ICMP, &quote(kind, &sent));
            assert_eq!(taker(&to_ipv4(CLUSTER_MAC, &error)), taker(&flow));
        }
        let flow = six(UDP, &ports(client_port, 550));
        let sent = extension(
            FRAGMENT,
            0,
            &fragment(UDP, 0, true, &ports(550, client_port)),
        );
        let sent = ipv6(VIP6, CLIENT6, 60, &sent);
        for kind in [1, 2, 3, 4] {
            let error = ipv6(OTHER6, VIP6, ICMPV6, &quote(kind, &sent));
            assert_eq!(taker(&to_ipv6(CLUSTER_MAC, &error)), taker(&flow));
        }
    }
}

#[test]
fn an_icmp_error_reaches_the_owner_and_who_lingers() {
    let sent = ipv4(VIP4, CLIENT4, TCP, &ports(80, 40000));
    let error = four(ICMP, &quote(3, &sent));
    for (row, expected) in [
        (Row::MINE, (Verdict::Accept, Reason::IcmpError)),
        (
            Row::MINE | Row::SHARED,
            (Verdict::Accept, Reason::IcmpError),
        ),
        (Row::LINGERING, (Verdict::Accept, Reason::IcmpError)),
        (0, (Verdict::Drop, Reason::NotMine)),
    ] {
        assert_eq!(says(decide(&error[..], &all(row))), expected);
    }
    let disabled = four(
        ICMP,
        &quote(3, &ipv4(VIP4, CLIENT4, TCP, &ports(25, 40000))),
    );
    assert_eq!(
        decide(&disabled[..], &all(Row::MINE)).reason,
        Reason::Disabled
    );
}

#[test]
fn an_icmp_error_that_quotes_nothing_of_the_cluster_drops() {
    let sent = ipv4(VIP4, CLIENT4, TCP, &ports(80, 40000));
    let sent6 = ipv6(VIP6, CLIENT6, TCP, &ports(80, 40000));
    let chain = extension(
        60,
        0,
        &extension(60, 0, &extension(TCP, 0, &ports(80, 40000))),
    );
    for frame in [
        four(ICMP, &icmp(3)),
        four(
            ICMP,
            &quote(3, &ipv4(OTHER4, CLIENT4, TCP, &ports(80, 40000))),
        ),
        four(ICMP, &quote(3, &sent[..23])),
        four(ICMP, &quote(3, &sent6)),
        six(ICMPV6, &icmp(1)),
        six(
            ICMPV6,
            &quote(1, &ipv6(OTHER6, CLIENT6, TCP, &ports(80, 40000))),
        ),
        six(ICMPV6, &quote(1, &sent6[..43])),
        six(ICMPV6, &quote(1, &sent)),
        six(ICMPV6, &quote(1, &ipv6(VIP6, CLIENT6, 60, &chain))),
    ] {
        let decision = decide(&frame[..], &all(Row::MINE));
        assert_eq!(
            says(decision),
            (Verdict::Drop, Reason::BadQuote),
            "{frame:02x?}"
        );
    }
}

#[test]
fn an_icmp_error_about_what_has_no_ports_follows_its_protocol() {
    let error = |protocol| four(ICMP, &quote(3, &ipv4(VIP4, CLIENT4, protocol, &[0; 8])));
    assert_eq!(taker(&error(GRE)), taker(&four(GRE, &[0; 20])));
    assert_eq!(taker(&error(ESP)), taker(&four(ESP, &[0; 20])));
    assert_eq!(taker(&error(ICMP)), 0);
    let part = ipv4_with(VIP4, CLIENT4, UDP, 5, &[], &[0; 8]);
    for host in hosts(3) {
        let decision = decide(&four(ICMP, &quote(3, &part))[..], &host);
        assert_eq!(says(decision), (Verdict::Accept, Reason::IcmpError));
    }
}

#[test]
fn tunnels_are_where_their_control_connection_is() {
    for number in 0..60 {
        let client = Ipv4Addr::new(10, 78, 1, number);
        let from =
            |protocol, body: &[u8]| to_ipv4(CLUSTER_MAC, &ipv4(client, VIP4, protocol, body));
        let control = taker(&from(UDP, &ports(500, 500)));
        assert_eq!(taker(&from(ESP, &[0; 20])), control);
        assert_eq!(taker(&from(AH, &[0; 20])), control);
    }
    let mut owners = std::collections::BTreeSet::new();
    for number in 0..60 {
        let client = Ipv6Addr::new(0xFD77, 0, 0, 0, 0, 1, 0, number);
        let from =
            |protocol, body: &[u8]| to_ipv6(CLUSTER_MAC, &ipv6(client, VIP6, protocol, body));
        owners.insert(taker(&from(ESP, &[0; 20])));
        // No rule covers TCP 1723, so PPTP is the default host's, and GRE with it.
        assert_eq!(
            taker(&from(GRE, &[0; 20])),
            taker(&from(TCP, &ports(40000, 1723)))
        );
    }
    assert_eq!(owners.len(), 3);
}

#[test]
fn a_tunnel_goes_by_the_address_alone_under_affinity_none() {
    let rule_of = |host: &Host| decide(&four(GRE, &[0; 20])[..], host).bucket;
    let mut hosts = hosts(1);
    let host = &mut hosts[0];
    host.tables.port_classes[1723] = 1;
    // Class 1 is TCP 80, rule 1: affinity none.
    let under_none = rule_of(host);
    host.tables.rules[1].affinity = 1;
    assert_eq!(under_none, rule_of(host));
}

#[test]
fn gre_lingers_with_its_control_connection_and_esp_does_not() {
    let verdict = |protocol, row| decide(&four(protocol, &[0; 20])[..], &all(row)).verdict;
    assert_eq!(verdict(GRE, Row::LINGERING), Verdict::Accept);
    assert_eq!(verdict(GRE, Row::MINE | Row::SHARED), Verdict::Accept);
    assert_eq!(verdict(ESP, Row::LINGERING), Verdict::Drop);
    assert_eq!(verdict(ESP, Row::MINE | Row::SHARED), Verdict::Accept);
}

#[test]
fn icmp_goes_to_all_hosts_if_it_is_not_filtered() {
    for frame in [four(ICMP, &icmp(8)), six(ICMPV6, &icmp(128))] {
        assert_eq!(taker(&frame), 0);
        for mut host in hosts(3) {
            host.tables.settings.icmp_to_all = 1;
            assert_eq!(
                says(decide(&frame[..], &host)),
                (Verdict::Accept, Reason::Icmp)
            );
        }
    }
    for mut host in hosts(3).into_iter().skip(1) {
        host.tables.settings.icmp_to_all = 1;
        assert_eq!(
            decide(&four(GRE, &[0; 20])[..], &host).reason,
            Reason::NotMine
        );
    }
}

#[test]
fn two_hosts_defend_a_virtual_ip_against_a_probe() {
    let nobody4 = arp(1, (CLIENT_MAC, Ipv4Addr::UNSPECIFIED), ([0; 6], VIP4));
    let group = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 1, 0xFF00, 0x100);
    let nobody6 = neighbour(135, Ipv6Addr::UNSPECIFIED, group, VIP6, CLIENT_MAC);
    let probe6 = ethernet(
        [0x33, 0x33, 0xFF, 0, 1, 0],
        CLIENT_MAC,
        0x86DD,
        &nobody6[..64],
    );
    for probe in [
        ethernet(BROADCAST, CLIENT_MAC, 0x0806, &nobody4),
        tagged(&probe6, 0x8100),
        probe6,
    ] {
        let hosts = hosts(5);
        let decisions = hosts.iter().map(|host| decide(&probe[..], host));
        let heard = decisions.filter(|it| it.reason == Reason::QuestionMine);
        assert_eq!(heard.count(), 2, "{probe:02x?}");
    }
}

#[test]
fn neighbour_discovery_is_found_behind_extension_headers_and_not_in_fragments() {
    let asked = neighbour(135, CLIENT6, VIP6, VIP6, CLIENT_MAC);
    let behind = |next, body: &[u8]| six(next, body);
    let plain = behind(ICMPV6, &asked[40..]);
    let extended = behind(0, &extension(60, 0, &extension(ICMPV6, 1, &asked[40..])));
    for host in hosts(3) {
        assert_eq!(decide(&plain[..], &host), decide(&extended[..], &host));
    }
    let hidden = behind(FRAGMENT, &fragment(ICMPV6, 0, true, &asked[40..]));
    assert_eq!(taker(&hidden), 0);
}

/// In IGMP mode the cluster MAC is a group's, so queries for its members come to it.
#[test]
fn the_kernel_hears_who_asks_for_the_clusters_group_and_not_who_else_is_in_it() {
    const GROUP_MAC: MacBytes = [0x01, 0x00, 0x5E, 0x7F, 0, 100];
    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 0, 100);
    let (query, report_v1, report_v2, leave) = (0x11, 0x12, 0x16, 0x17);
    let frame = |kind| {
        let message = [kind, 100, 0, 0, 239, 255, 0, 100];
        let alert = [0x94, 4, 0, 0];
        let packet = ipv4_with(CLIENT4, GROUP, IGMP, 0, &alert, &message);
        to_ipv4(GROUP_MAC, &packet)
    };
    for serving in [0, 1] {
        let mut host = all(Row::MINE);
        host.tables.settings.cluster_mac = GROUP_MAC;
        host.tables.settings.serving = serving;
        let of = |kind| says(decide(&frame(kind)[..], &host));
        assert_eq!(of(query), (Verdict::Pass, Reason::Group), "{serving}");
        assert_eq!(of(leave), (Verdict::Pass, Reason::Group), "{serving}");
        for report in [report_v1, report_v2] {
            assert_eq!(of(report), (Verdict::Drop, Reason::OtherMember));
        }
        let to_service = to_ipv4(GROUP_MAC, &ipv4(CLIENT4, VIP4, UDP, &ports(40000, 550)));
        let taken = decide(&to_service[..], &host).verdict == Verdict::Accept;
        assert_eq!(taken, serving == 1);
    }
}
