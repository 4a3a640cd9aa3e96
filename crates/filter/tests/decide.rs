//! Table tests of the decision: one frame, one host, one verdict, one reason. Specification: docs/design.md,
//! "Data path".

mod cluster;
mod frames;

use cluster::*;
use covey_filter::{BUCKETS, Bucket, Reason, Row, Socket, Verdict, decide};
use frames::*;
use std::net::{Ipv4Addr, Ipv6Addr};

const NOBODY: Mac = [0x02, 9, 9, 9, 9, 9];
const ALL_NODES: Mac = [0x33, 0x33, 0, 0, 0, 1];

fn ask4(to: Mac, target: Ipv4Addr) -> Vec<u8> {
    let question = arp(1, (CLIENT_MAC, CLIENT4), ([0; 6], target));
    ethernet(to, CLIENT_MAC, 0x0806, &question)
}

fn ask6(to: Mac, target: Ipv6Addr) -> Vec<u8> {
    let group = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 1, 0xFF00, 0x100);
    to_ipv6(to, &neighbour(135, CLIENT6, group, target, CLIENT_MAC))
}

fn tcp4(destination: Ipv4Addr, port: u16) -> Vec<u8> {
    to_ipv4(
        CLUSTER_MAC,
        &ipv4(CLIENT4, destination, TCP, &ports(40000, port)),
    )
}

/// A cluster of one: whatever is for the cluster is for this host.
fn alone(frame: &[u8]) -> (Verdict, Reason) {
    let decision = decide(frame, &hosts(1)[0]);
    (decision.verdict, decision.reason)
}

#[track_caller]
fn expect(frame: &[u8], verdict: Verdict, reason: Reason) {
    assert_eq!(alone(frame), (verdict, reason), "{frame:02x?}");
}

#[test]
fn what_is_not_for_the_cluster_passes() {
    let syn = ipv4(CLIENT4, VIP4, TCP, &ports(40000, 80));
    expect(&to_ipv4(host_mac(1), &syn), Verdict::Pass, Reason::OwnMac);
    expect(&to_ipv4(NOBODY, &syn), Verdict::Pass, Reason::OtherMac);
    expect(&to_ipv4(BROADCAST, &syn), Verdict::Pass, Reason::Group);
    expect(&ask4(BROADCAST, OTHER4), Verdict::Pass, Reason::Group);
    expect(&ask6(ALL_NODES, OTHER6), Verdict::Pass, Reason::Group);
    expect(
        &ethernet(ALL_NODES, CLIENT_MAC, 0x86DD, &[]),
        Verdict::Pass,
        Reason::Group,
    );
    for kind in [0x886F, 0xBF01] {
        for to in [CLUSTER_MAC, BROADCAST, NOBODY, host_mac(1)] {
            let heartbeat = ethernet(to, CLIENT_MAC, kind, &[1, 2, 3]);
            expect(&heartbeat, Verdict::Pass, Reason::Heartbeat);
        }
    }
}

#[test]
fn what_is_for_the_cluster_but_makes_no_sense_drops() {
    expect(&tcp4(OTHER4, 80), Verdict::Drop, Reason::Foreign);
    expect(
        &to_ipv6(CLUSTER_MAC, &ipv6(CLIENT6, OTHER6, TCP, &ports(1, 80))),
        Verdict::Drop,
        Reason::Foreign,
    );
    let nowhere = ipv6(CLIENT6, Ipv6Addr::UNSPECIFIED, TCP, &ports(1, 80));
    expect(
        &to_ipv6(CLUSTER_MAC, &nowhere),
        Verdict::Drop,
        Reason::Foreign,
    );
    expect(
        &ethernet(CLUSTER_MAC, CLIENT_MAC, 0x88CC, &[0; 40]),
        Verdict::Drop,
        Reason::NotIp,
    );
    expect(&ask4(CLUSTER_MAC, OTHER4), Verdict::Drop, Reason::Foreign);
    expect(&[], Verdict::Drop, Reason::Malformed);
}

#[test]
fn every_truncation_is_malformed() {
    let tunnel = extension(TCP, 1, &ports(40000, 80));
    let frames = [
        tcp4(VIP4, 80)[..48].to_vec(),
        to_ipv6(CLUSTER_MAC, &ipv6(CLIENT6, VIP6, 60, &tunnel))[..84].to_vec(),
        tagged(&tagged(&tcp4(VIP4, 80), 0x8100), 0x88A8)[..56].to_vec(),
    ];
    for frame in frames {
        assert_eq!(alone(&frame), (Verdict::Accept, Reason::Mine));
        for length in 14..frame.len() {
            assert_eq!(
                alone(&frame[..length]),
                (Verdict::Drop, Reason::Malformed),
                "{length} bytes of {frame:02x?}"
            );
        }
    }
}

#[test]
fn headers_that_contradict_themselves_are_malformed() {
    let mut short = tcp4(VIP4, 80);
    short[14] = 0x44;
    expect(&short, Verdict::Drop, Reason::Malformed);
    let mut wrong_version = tcp4(VIP4, 80);
    wrong_version[14] = 0x65;
    expect(&wrong_version, Verdict::Drop, Reason::Malformed);
    let mut chain = ports(40000, 80);
    let mut next = TCP;
    for _ in 0..7 {
        chain = extension(next, 0, &chain);
        next = 60;
    }
    let endless = to_ipv6(CLUSTER_MAC, &ipv6(CLIENT6, VIP6, next, &chain));
    expect(&endless, Verdict::Drop, Reason::Malformed);
}

#[test]
fn the_rule_is_found_through_options_tags_and_extensions() {
    let bare = tcp4(VIP4, 80);
    let optioned = ipv4_with(CLIENT4, VIP4, TCP, 0, &[1; 40], &ports(40000, 80));
    let of = |frame: &[u8]| decide(frame, &hosts(1)[0]);
    for frame in [
        tagged(&bare, 0x8100),
        tagged(&tagged(&bare, 0x8100), 0x88A8),
        to_ipv4(CLUSTER_MAC, &optioned),
    ] {
        assert_eq!(of(&frame), of(&bare));
    }
    let bare = to_ipv6(CLUSTER_MAC, &ipv6(CLIENT6, VIP6, TCP, &ports(40000, 80)));
    let first_fragment = fragment(TCP, 0, true, &ports(40000, 80));
    let extended = extension(43, 2, &extension(44, 31, &first_fragment));
    let extended = to_ipv6(CLUSTER_MAC, &ipv6(CLIENT6, VIP6, 0, &extended));
    assert_eq!(of(&extended), of(&bare));
    assert_eq!(of(&bare).rule, Some(1));
}

#[test]
fn a_connection_stays_where_it_was_opened() {
    use Verdict::{Accept, Drop};
    let half_open = |awaits| Socket::HalfOpen { awaits };
    // The segments below acknowledge 7.
    let has = [Socket::Connected, half_open(Some(7)), half_open(None)];
    let has_not = [Socket::None, Socket::TimeWait, half_open(Some(8))];
    let of = |row: u8, flags: u8, socket: Socket, cut: u8| {
        let mut host = hosts(1).remove(0);
        host.tables.rows[1] = [row; BUCKETS];
        host.tables.rules[1].cut = cut;
        host.socket = socket;
        let packet = ipv4(CLIENT4, VIP4, TCP, &segment(40000, 80, flags, 7));
        let decision = decide(&to_ipv4(CLUSTER_MAC, &packet)[..], &host);
        (decision.verdict, decision.reason)
    };
    for (sockets, claimed) in [(has, true), (has_not, false)] {
        for socket in sockets {
            for flags in [ACK, SYN | ACK, RST, 0] {
                let shared = if claimed {
                    (Accept, Reason::Mine)
                } else {
                    (Drop, Reason::Unclaimed)
                };
                let lingering = if claimed {
                    (Accept, Reason::Lingering)
                } else {
                    (Drop, Reason::NotMine)
                };
                let at = |row| of(row, flags, socket, 0);
                assert_eq!(at(Row::MINE), (Accept, Reason::Mine));
                assert_eq!(at(Row::MINE | Row::SHARED), shared, "{socket:?} {flags:#x}");
                assert_eq!(at(Row::LINGERING), lingering, "{socket:?} {flags:#x}");
                assert_eq!(at(0), (Drop, Reason::NotMine));
                assert_eq!(
                    of(Row::LINGERING, flags, socket, 1),
                    (Drop, Reason::NotMine)
                );
            }
            for row in [Row::MINE, Row::MINE | Row::SHARED] {
                assert_eq!(of(row, SYN, socket, 0), (Accept, Reason::Mine));
            }
            for row in [0, Row::LINGERING] {
                assert_eq!(of(row, SYN, socket, 0), (Drop, Reason::NotMine));
            }
        }
    }
}

#[test]
fn datagrams_follow_the_bucket_alone() {
    let verdict = |row: u8| {
        let mut host = hosts(1).remove(0);
        host.tables.rows[1] = [row; BUCKETS];
        host.socket = Socket::Connected;
        let packet = ipv4(CLIENT4, VIP4, UDP, &ports(40000, 500));
        decide(&to_ipv4(CLUSTER_MAC, &packet)[..], &host).verdict
    };
    assert_eq!(verdict(Row::MINE | Row::SHARED), Verdict::Accept);
    assert_eq!(verdict(Row::LINGERING), Verdict::Drop);
}

#[test]
fn ports_choose_the_rule() {
    let rule_of = |protocol, port| {
        let packet = ipv4(CLIENT4, VIP4, protocol, &ports(40000, port));
        decide(&to_ipv4(CLUSTER_MAC, &packet)[..], &hosts(1)[0]).rule
    };
    for (protocol, port, rule) in [
        (TCP, 79, 0),
        (TCP, 80, 1),
        (TCP, 81, 0),
        (TCP, 443, 1),
        (UDP, 80, 0),
        (UDP, 499, 0),
        (UDP, 500, 2),
        (UDP, 600, 2),
        (UDP, 601, 0),
        (TCP, 25, 3),
        (TCP, 65535, 0),
        (ICMP, 80, 0),
    ] {
        assert_eq!(rule_of(protocol, port), Some(rule), "{protocol} {port}");
    }
    expect(&tcp4(VIP4, 25), Verdict::Drop, Reason::Disabled);
}

#[test]
fn what_no_rule_covers_goes_to_the_default_host() {
    for frame in [
        to_ipv4(CLUSTER_MAC, &ipv4(CLIENT4, VIP4, ICMP, &icmp(8))),
        to_ipv6(CLUSTER_MAC, &ipv6(CLIENT6, VIP6, ICMPV6, &icmp(128))),
        to_ipv4(CLUSTER_MAC, &ipv4(CLIENT4, VIP4, 47, &[0; 20])),
        to_ipv4(CLUSTER_MAC, &ipv4(CLIENT4, VIP4, 132, &ports(40000, 80))),
        to_ipv6(CLUSTER_MAC, &ipv6(CLIENT6, VIP6, ICMP, &icmp(8))),
        tcp4(VIP4, 9999),
    ] {
        let verdicts: Vec<_> = hosts(3)
            .iter()
            .map(|host| decide(&frame[..], host).verdict)
            .collect();
        assert_eq!(verdicts, [Verdict::Accept, Verdict::Drop, Verdict::Drop]);
    }
}

#[test]
fn two_hosts_hear_a_question_and_all_hear_an_answer() {
    for (verdict, frame) in [
        (Verdict::Pass, ask4(BROADCAST, VIP4)),
        (Verdict::Accept, ask4(CLUSTER_MAC, VIP4)),
        (Verdict::Pass, ask6(ALL_NODES, VIP6)),
        (Verdict::Accept, ask6(CLUSTER_MAC, VIP6)),
    ] {
        let (heard, unheard): (Vec<_>, Vec<_>) = hosts(5)
            .iter()
            .map(|host| decide(&frame[..], host))
            .partition(|decision| decision.reason == Reason::QuestionMine);
        assert_eq!(heard.len(), 2, "{frame:02x?}");
        assert!(heard.iter().all(|decision| decision.verdict == verdict));
        assert!(unheard.iter().all(|decision| {
            (decision.verdict, decision.reason) == (Verdict::Drop, Reason::QuestionNotMine)
        }));
    }
    let reply = arp(2, (CLIENT_MAC, CLIENT4), (CLUSTER_MAC, VIP4));
    let reply = ethernet(CLUSTER_MAC, CLIENT_MAC, 0x0806, &reply);
    let advertisement = neighbour(136, CLIENT6, VIP6, CLIENT6, CLIENT_MAC);
    for frame in [reply, to_ipv6(CLUSTER_MAC, &advertisement)] {
        for host in hosts(3) {
            let decision = decide(&frame[..], &host);
            assert_eq!(
                (decision.verdict, decision.reason),
                (Verdict::Accept, Reason::Answer)
            );
        }
    }
}

#[test]
fn a_fenced_host_and_one_without_lease_take_nothing() {
    let for_the_cluster = [
        tcp4(VIP4, 80),
        tcp4(VIP4, 9999),
        ask4(CLUSTER_MAC, VIP4),
        ask4(BROADCAST, VIP4),
        to_ipv4(
            CLUSTER_MAC,
            &ipv4(
                CLIENT4,
                VIP4,
                ICMP,
                &quote(3, &ipv4(VIP4, CLIENT4, UDP, &ports(550, 40000))),
            ),
        ),
        to_ipv4(
            CLUSTER_MAC,
            &ipv4_with(CLIENT4, VIP4, UDP, 0x0003, &[], &[0; 8]),
        ),
    ];
    let mut host = hosts(1).remove(0);
    for frame in &for_the_cluster {
        host.lease = false;
        let decision = decide(&frame[..], &host);
        assert_eq!(
            (decision.verdict, decision.reason),
            (Verdict::Drop, Reason::LeaseLapsed)
        );
        host.lease = true;
        host.tables.settings.serving = 0;
        let decision = decide(&frame[..], &host);
        assert_eq!(
            (decision.verdict, decision.reason),
            (Verdict::Drop, Reason::Fenced)
        );
        host.tables.settings.serving = 1;
    }
    host.tables.settings.serving = 0;
    let own = to_ipv4(host_mac(1), &ipv4(CLIENT4, VIP4, TCP, &ports(1, 80)));
    assert_eq!(decide(&own[..], &host).reason, Reason::OwnMac);
}

#[test]
fn a_table_that_lacks_an_entry_drops() {
    let mut host = hosts(1).remove(0);
    host.tables.rules[1].map = 255;
    assert_eq!(
        decide(&tcp4(VIP4, 80)[..], &host).reason,
        Reason::BrokenTables
    );
    host.tables.rules[1].affinity = 3;
    assert_eq!(
        decide(&tcp4(VIP4, 80)[..], &host).reason,
        Reason::BrokenTables
    );
}

#[test]
fn reasons_are_numbered_labelled_and_explained() {
    for (number, reason) in (0u32..).zip(Reason::ALL) {
        assert_eq!(reason as u32, number);
        assert!(
            reason
                .label()
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        );
        assert!(reason.explain().ends_with('.'));
    }
}

#[test]
fn buckets_have_a_range() {
    assert_eq!(Bucket::new(4095).map(Bucket::get), Some(4095));
    assert_eq!(Bucket::new(4096), None);
}
