//! What the hosts find out about their segment, and that one lost frame, or a forged one, tells them nothing.

use super::super::{Input, NetworkSnapshot};
use super::segment::{LATENCY, Segment, config, id, is_probe, set};
use crate::config::{Auth, ClusterConfig};
use crate::ids::{HostId, HostSet, Mac};
use crate::rules::RuleSet;
use crate::wire::arp::{Arp, Operation};
use crate::wire::ethernet::{self, Ethernet};
use crate::wire::heartbeat::{Arrivals, Message};
use crate::wire::probe;
use std::net::Ipv4Addr;
use std::time::Duration;

/// As often as these hosts probe.
const INTERVAL: Duration = Duration::from_secs(1);
/// Until a path that leads nowhere is known as such by all: the probes that must be missing, and the heartbeats that tell
/// of the last.
const KNOWN: Duration = Duration::from_millis(3300);

fn network(segment: &Segment, host: u8) -> NetworkSnapshot {
    segment.host(host).cluster.snapshot(segment.now).network
}

fn from(hosts: &[u8]) -> Arrivals {
    Arrivals {
        from: set(hosts),
        missing: HostSet::EMPTY,
    }
}

fn missing(hosts: &[u8]) -> Arrivals {
    Arrivals {
        from: HostSet::EMPTY,
        missing: set(hosts),
    }
}

type Rows = Vec<(HostId, Arrivals)>;

/// What reaches whom, as a host knows it: by heartbeats to all, by the cluster MAC, by their own MACs.
fn matrices(segment: &Segment, host: u8) -> [Rows; 3] {
    let reaches = network(segment, host).reaches;
    [
        reaches.iter().map(|(id, it)| (*id, it.broadcast)).collect(),
        reaches
            .iter()
            .map(|(id, it)| (*id, it.cluster_mac))
            .collect(),
        reaches.iter().map(|(id, it)| (*id, it.own_mac)).collect(),
    ]
}

fn rows(arrivals: &[Arrivals]) -> Rows {
    (1..)
        .zip(arrivals)
        .map(|(host, it)| (id(host), *it))
        .collect()
}

fn sound() -> Rows {
    rows(&[from(&[2, 3]), from(&[1, 3]), from(&[1, 2])])
}

fn is_to_cluster(frame: &Ethernet<'_>) -> bool {
    frame.destination == config(1).rules.delivery().mac()
}

#[test]
fn on_a_sound_segment_everything_reaches_everybody_and_every_host_knows() {
    let mut segment = Segment::converged(3);
    segment.run(INTERVAL * 2);
    for host in [1, 2, 3] {
        assert_eq!(matrices(&segment, host), [sound(), sound(), sound()]);
        assert_eq!(network(&segment, host).learned_at, None);
        assert_eq!(network(&segment, host).probe_interval, INTERVAL);
    }
    // And so it stays.
    segment.run(INTERVAL * 30);
    assert_eq!(matrices(&segment, 2), [sound(), sound(), sound()]);
}

#[test]
fn a_switch_that_has_learned_the_cluster_mac_is_found_out_with_its_port() {
    let mut segment = Segment::converged(3);
    segment.run(INTERVAL * 2);
    // At host 2's port: nothing goes back to where it came from.
    segment.loss =
        Box::new(|from, to, frame| is_to_cluster(frame) && (to != id(2) || from == id(2)));
    segment.run(KNOWN);
    let learned = rows(&[missing(&[2, 3]), from(&[1, 3]), missing(&[1, 2])]);
    for host in [1, 2, 3] {
        assert_eq!(
            matrices(&segment, host),
            [sound(), learned.clone(), sound()]
        );
        assert_eq!(network(&segment, host).learned_at, Some(id(2)));
    }
    segment.loss = Box::new(|_, _, _| false);
    segment.run(INTERVAL * 2);
    for host in [1, 2, 3] {
        assert_eq!(matrices(&segment, host)[1], sound());
        assert_eq!(network(&segment, host).learned_at, None);
    }
}

#[test]
fn a_nic_that_does_not_take_the_cluster_mac_is_told_from_a_switch_that_has_learned_it() {
    let mut segment = Segment::converged(3);
    segment.loss = Box::new(|_, to, frame| is_to_cluster(frame) && to == id(3));
    segment.run(KNOWN);
    let refused = rows(&[from(&[2, 3]), from(&[1, 3]), missing(&[1, 2])]);
    assert_eq!(matrices(&segment, 1)[1], refused);
    assert_eq!(network(&segment, 1).learned_at, None);
    // With two hosts it cannot be told, and nothing is claimed.
    segment.crash(2);
    segment.run_until_converged(&[1, 3]);
    segment.run(INTERVAL);
    let of_two = [(id(1), from(&[3])), (id(3), missing(&[1]))];
    assert_eq!(matrices(&segment, 1)[1], of_two);
    assert_eq!(network(&segment, 1).learned_at, None);
}

#[test]
fn two_lost_probes_in_a_row_are_no_finding_and_three_are() {
    for (in_a_row, found) in [(2u8, false), (3, true)] {
        let mut segment = Segment::converged(2);
        segment.run(INTERVAL * 2);
        let mut lost = 0;
        segment.loss = Box::new(move |_, to, frame| {
            let concerned = is_to_cluster(frame) && to == id(2);
            if concerned {
                lost = (lost + 1) % (in_a_row + 1);
            }
            concerned && lost != 0
        });
        let mut ever = false;
        for _ in 0..200 {
            segment.run(INTERVAL / 10);
            let row = matrices(&segment, 1)[1][1].1;
            ever |= row.missing.contains(id(1));
        }
        assert_eq!(ever, found, "{in_a_row} in a row");
    }
}

#[test]
fn blocked_broadcasts_and_a_path_to_one_mac_show_apart_from_each_other() {
    let mut segment = Segment::converged(3);
    segment.loss = Box::new(|from, to, frame| {
        let blocked = set(&[from.get(), to.get()]) == set(&[1, 3]);
        let direct = frame.destination == config(to.get()).mac;
        blocked && frame.destination == Mac::BROADCAST || to == id(3) && direct && is_probe(frame)
    });
    segment.run(KNOWN);
    let blocked = |host, other| Arrivals {
        from: set(&[host]),
        missing: set(&[other]),
    };
    let broadcast = rows(&[blocked(2, 3), from(&[1, 3]), blocked(2, 1)]);
    let own_mac = rows(&[from(&[2, 3]), from(&[1, 3]), missing(&[1, 2])]);
    for host in [1, 2, 3] {
        assert_eq!(
            matrices(&segment, host),
            [broadcast.clone(), sound(), own_mac.clone()]
        );
    }
}

#[test]
fn who_is_not_alive_is_in_nobodys_matrix() {
    let mut segment = Segment::converged(3);
    segment.run(INTERVAL * 2);
    segment.crash(3);
    segment.run_until_converged(&[1, 2]);
    segment.run(INTERVAL);
    let left = rows(&[from(&[2]), from(&[1])]);
    assert_eq!(matrices(&segment, 1), [left.clone(), left.clone(), left]);
    // A restart begins anew, with another start of the same host.
    segment.restart(3);
    segment.run_until_converged(&[1, 2, 3]);
    segment.run(INTERVAL * 2);
    assert_eq!(matrices(&segment, 1), [sound(), sound(), sound()]);
}

#[test]
fn a_daemon_that_is_replaced_goes_on_probing() {
    let mut segment = Segment::converged(3);
    segment.run(INTERVAL * 2);
    assert!(segment.upgrade(2, LATENCY));
    segment.run(INTERVAL * 2);
    for host in [1, 2, 3] {
        assert_eq!(matrices(&segment, host), [sound(), sound(), sound()]);
    }
    segment.run(INTERVAL * 10);
    assert_eq!(matrices(&segment, 1), [sound(), sound(), sound()]);
}

/// The newest probe of host 1 to the cluster MAC, as a daemon gets it.
fn recorded(segment: &Segment) -> Vec<u8> {
    let mut frames = segment.recorded.iter().rev();
    let frame = frames.find(|frame| {
        let parsed = Ethernet::parse(frame).unwrap();
        parsed.source == config(1).mac && is_to_cluster(&parsed) && is_probe(&parsed)
    });
    let mut frame = frame.unwrap().clone();
    frame[12..14].copy_from_slice(&ethernet::PROBE.to_be_bytes());
    frame
}

#[test]
fn recorded_and_forged_probes_hide_nothing() {
    let mut segment = Segment::converged(3);
    segment.run(INTERVAL * 2);
    let old = recorded(&segment);
    segment.loss = Box::new(|_, to, frame| is_to_cluster(frame) && to == id(3));
    let mut forged = old.clone();
    // Its sequence, behind the headers of IP and NLB, an empty name, MAC and incarnation: 20, 20, 16, 4, 14 bytes.
    forged[14 + 74] ^= 0xFF;
    let payload = probe::message(&old[14..]).unwrap();
    let Auth::Keys(_) = config(1).auth else {
        panic!("these hosts sign");
    };
    assert!(Message::parse(payload, [10, 77, 0, 100], &config(1).auth).is_ok());
    let mut elsewhere = old.clone();
    elsewhere[..6].copy_from_slice(&Mac::BROADCAST.0);
    for _ in 0..50 {
        segment.run(INTERVAL / 10);
        for frame in [&old, &forged, &elsewhere] {
            segment.input(3, Input::Frame(frame));
            for length in [14, 20, 34, 60, 100] {
                segment.input(3, Input::Frame(&frame[..length]));
            }
        }
    }
    assert_eq!(matrices(&segment, 1)[1][2], (id(3), missing(&[1, 2])));
}

#[test]
fn a_message_of_another_kind_is_no_probe_and_a_probe_is_no_other_message() {
    let mut segment = Segment::converged(2);
    segment.run(INTERVAL * 2);
    let probe = recorded(&segment);
    let payload = probe::message(&probe[14..]).unwrap().to_vec();
    let as_heartbeat = Ethernet {
        destination: Mac::BROADCAST,
        source: config(1).mac,
        ethertype: ethernet::HEARTBEAT,
        payload: &payload,
    };
    segment.crash(1);
    for _ in 0..10 {
        segment.input(2, Input::Frame(&as_heartbeat.emit()));
        segment.run(INTERVAL / 10);
    }
    // It is no sign of life.
    assert!(segment.is_converged(&[2]));
    let mut frames = segment.recorded.iter().rev();
    let heartbeat = frames.find(|frame| frame[..6] == Mac::BROADCAST.0 && frame[11] == 1);
    let mut in_ip = probe[..34].to_vec();
    in_ip.extend_from_slice(&heartbeat.unwrap()[14..]);
    segment.input(2, Input::Frame(&in_ip));
    assert!(segment.is_converged(&[2]));
}

#[test]
fn clusters_without_an_ipv4_address_probe_too() {
    let vip = "fd77::100".parse().unwrap();
    let config = |host| ClusterConfig {
        rules: RuleSet::new(vec![vip], vec![]).unwrap(),
        claims: Vec::new(),
        ..config(host)
    };
    let mut segment = Segment::new([1, 2, 3].map(config));
    segment.start_all();
    segment.run_until_converged(&[1, 2, 3]);
    segment.run(INTERVAL * 2);
    assert_eq!(matrices(&segment, 3), [sound(), sound(), sound()]);
}

#[test]
fn the_mtu_is_told() {
    let mut segment = Segment::converged(2);
    segment.input(2, Input::Mtu(9000));
    segment.run(INTERVAL);
    let mtus: Vec<u32> = network(&segment, 1)
        .reaches
        .iter()
        .map(|(_, reach)| reach.mtu)
        .collect();
    assert_eq!(mtus, [0, 9000]);
}

/// "I have this address", as an answer.
fn claim(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = Arp::question(mac, address, Ipv4Addr::new(10, 77, 0, 1));
    frame[21] = 2;
    let arp = Arp::parse(&frame[14..]).unwrap();
    assert_eq!(arp.operation, Operation::Reply);
    frame
}

#[test]
fn whoever_else_says_that_it_has_a_virtual_ip_is_remembered_a_few_at_most() {
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);
    let mut segment = Segment::converged(2);
    let stranger = |number| Mac([2, 9, 9, 9, 9, number]);
    let harmless = [
        claim(config(1).rules.delivery().mac(), VIP),
        claim(Mac([0x03, 0xBF, 10, 77, 0, 100]), VIP),
        claim(stranger(1), Ipv4Addr::new(10, 77, 0, 99)),
    ];
    for frame in &harmless {
        segment.input(1, Input::Frame(frame));
    }
    assert_eq!(network(&segment, 1).claimants, []);
    for _ in 0..3 {
        segment.input(1, Input::Frame(&claim(stranger(1), VIP)));
    }
    // Gratuitous ARP is a question as a rule.
    segment.input(1, Input::Frame(&Arp::question(stranger(1), VIP, VIP)));
    let claimants = network(&segment, 1).claimants;
    assert_eq!(claimants.len(), 1);
    assert_eq!(
        (claimants[0].vip, claimants[0].mac, claimants[0].times),
        (VIP, stranger(1), 4)
    );
    for number in 2..=200 {
        segment.input(1, Input::Frame(&claim(stranger(number), VIP)));
    }
    let claimants = network(&segment, 1).claimants;
    let macs: Vec<Mac> = claimants.iter().map(|claimant| claimant.mac).collect();
    assert_eq!(macs, (193..=200).map(stranger).collect::<Vec<_>>());
}

#[test]
fn the_default_host_asks_every_minute_who_has_the_virtual_ips() {
    let asks = |segment: &Segment, host: u8| {
        let questions = segment.recorded.iter().filter(|frame| {
            let frame = Ethernet::parse(frame).unwrap();
            let arp = (frame.ethertype == ethernet::ARP).then(|| Arp::parse(frame.payload));
            arp.is_some_and(|arp| {
                let arp = arp.unwrap();
                (arp.sender_mac, arp.sender_ip) == (config(host).mac, Ipv4Addr::UNSPECIFIED)
                    && arp.target_ip == Ipv4Addr::new(10, 77, 0, 100)
            })
        });
        questions.count()
    };
    let mut segment = Segment::converged(2);
    segment.run(INTERVAL * 2);
    assert_eq!([1, 2].map(|host| asks(&segment, host)), [1, 1]);
    segment.run(Duration::from_secs(120));
    assert_eq!([1, 2].map(|host| asks(&segment, host)), [3, 1]);
}
