//! Table tests of the egress rule: what leaves, what does not, and what is corrected on the way.
//! Specification: docs/design.md, "Data path".

mod cluster;
mod frames;

use cluster::*;
use covey_filter::{Changes, Correction, Egress, guard};
use frames::*;
use std::net::Ipv6Addr;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 1);

fn sent(to: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    ethernet(to, host_mac(1), kind, payload)
}

fn verdict(frame: &[u8]) -> Egress {
    guard(frame, &hosts(1)[0])
}

fn corrected(at: usize, checksum: Option<usize>) -> Egress {
    Egress::Change(Changes {
        source: host_mac(1),
        advertised: Some(Correction {
            at,
            old: host_mac(1),
            new: CLUSTER_MAC,
            checksum,
        }),
    })
}

#[test]
fn the_cluster_mac_never_leaves_as_a_source() {
    for kind in [0x0800, 0x0806, 0x886F, 0x1234] {
        let leak = ethernet(BROADCAST, CLUSTER_MAC, kind, &[0; 46]);
        assert_eq!(verdict(&leak), Egress::Drop);
    }
    let ordinary = ipv4(VIP4, CLIENT4, TCP, &ports(80, 40000));
    assert_eq!(verdict(&sent(CLIENT_MAC, 0x0800, &ordinary)), Egress::Pass);
}

#[test]
fn arp_tells_the_cluster_mac_for_a_virtual_ip_only() {
    for operation in [1, 2] {
        let of = |ip| arp(operation, (host_mac(1), ip), (CLIENT_MAC, CLIENT4));
        let vip = sent(CLIENT_MAC, 0x0806, &of(VIP4));
        assert_eq!(verdict(&vip), corrected(22, None));
        assert_eq!(verdict(&tagged(&vip, 0x8100)), corrected(26, None));
        let own = sent(CLIENT_MAC, 0x0806, &of(OTHER4));
        assert_eq!(verdict(&own), Egress::Pass);
    }
    let right = arp(2, (CLUSTER_MAC, VIP4), (CLIENT_MAC, CLIENT4));
    assert_eq!(verdict(&sent(CLIENT_MAC, 0x0806, &right)), Egress::Pass);
}

#[test]
fn neighbour_discovery_tells_the_cluster_mac_for_a_virtual_ip_only() {
    let answer = |vip| neighbour(136, vip, CLIENT6, vip, host_mac(1));
    let question = |source| neighbour(135, source, ALL_NODES, CLIENT6, host_mac(1));
    let there = corrected(14 + 40 + 26, Some(14 + 40 + 2));
    assert_eq!(verdict(&sent(CLIENT_MAC, 0x86DD, &answer(VIP6))), there);
    assert_eq!(verdict(&sent(CLIENT_MAC, 0x86DD, &question(VIP6))), there);
    for harmless in [answer(OTHER6), question(OTHER6)] {
        assert_eq!(verdict(&sent(CLIENT_MAC, 0x86DD, &harmless)), Egress::Pass);
    }
    // Without the option, an advertisement tells no MAC.
    let bare = sent(CLIENT_MAC, 0x86DD, &answer(VIP6)[..64]);
    assert_eq!(verdict(&bare), Egress::Pass);
}

#[test]
fn the_guard_holds_while_the_host_is_fenced() {
    let mut host = hosts(1).remove(0);
    host.tables.settings.serving = 0;
    host.lease = false;
    let reply = arp(2, (host_mac(1), VIP4), (CLIENT_MAC, CLIENT4));
    let reply = sent(CLIENT_MAC, 0x0806, &reply);
    assert_eq!(guard(&reply[..], &host), corrected(22, None));
}

/// What the guard of a host says whose frames of virtual IPs leave under another MAC.
fn masked(source_mac: Mac, frame: &[u8]) -> Egress {
    let mut host = hosts(1).remove(0);
    host.tables.settings.source_mac = source_mac;
    guard(frame, &host)
}

const MASK: Mac = [0x02, 1, 10, 77, 0, 100];

#[test]
fn frames_of_a_virtual_ip_leave_under_the_mask_and_others_do_not() {
    let of4 = |ip| {
        sent(
            CLIENT_MAC,
            0x0800,
            &ipv4(ip, CLIENT4, TCP, &ports(80, 40000)),
        )
    };
    let of6 = |ip| {
        sent(
            CLIENT_MAC,
            0x86DD,
            &ipv6(ip, CLIENT6, TCP, &ports(80, 40000)),
        )
    };
    for source in [MASK, CLUSTER_MAC] {
        let change = Egress::Change(Changes {
            source,
            advertised: None,
        });
        for frame in [of4(VIP4), of6(VIP6), tagged(&of4(VIP4), 0x8100)] {
            assert_eq!(masked(source, &frame), change);
            let mut already = frame.clone();
            already[6..12].copy_from_slice(&source);
            assert_eq!(masked(source, &already), Egress::Pass);
        }
        let heartbeat = ethernet(BROADCAST, host_mac(1), 0x886F, &[0; 46]);
        for frame in [of4(OTHER4), of6(OTHER6), heartbeat] {
            assert_eq!(masked(source, &frame), Egress::Pass);
        }
        let reply = arp(2, (host_mac(1), VIP4), (CLIENT_MAC, CLIENT4));
        let Egress::Change(changes) = masked(source, &sent(CLIENT_MAC, 0x0806, &reply)) else {
            panic!("an answer for a virtual IP leaves as it is");
        };
        assert_eq!(changes.source, source);
        assert_eq!(changes.advertised.map(|it| it.new), Some(CLUSTER_MAC));
    }
    let leak = ethernet(CLIENT_MAC, CLUSTER_MAC, 0x0800, &of4(VIP4)[14..]);
    assert_eq!(masked(MASK, &leak), Egress::Drop);
    assert_eq!(masked(CLUSTER_MAC, &leak), Egress::Pass);
}

#[test]
fn a_packet_socket_cannot_hide_what_it_advertises() {
    let answer = neighbour(136, VIP6, CLIENT6, VIP6, host_mac(1));
    let message = &answer[40..];
    let nonce = [&message[..24], &[14, 1, 0, 0, 0, 0, 0, 0], &message[24..]].concat();
    let behind = |next, body: &[u8]| sent(CLIENT_MAC, 0x86DD, &ipv6(VIP6, CLIENT6, next, body));
    let there = corrected(14 + 40 + 34, Some(14 + 40 + 2));
    assert_eq!(verdict(&behind(ICMPV6, &nonce)), there);
    let extended = behind(60, &extension(ICMPV6, 0, message));
    assert_eq!(
        verdict(&extended),
        corrected(14 + 48 + 26, Some(14 + 48 + 2))
    );
    let tags = tagged(&tagged(&behind(ICMPV6, message), 0x8100), 0x88A8);
    assert_eq!(verdict(&tags), corrected(22 + 40 + 26, Some(22 + 40 + 2)));
    let mut router = [&message[..8], &message[24..]].concat();
    router[0] = 133;
    router[8] = 1;
    assert_eq!(
        verdict(&behind(ICMPV6, &router)),
        corrected(14 + 40 + 10, Some(14 + 40 + 2))
    );
}
