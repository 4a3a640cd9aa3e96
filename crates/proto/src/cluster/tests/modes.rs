//! Modes and cluster MACs: changed one host after the other, on one host only, and to one that somebody has chosen.

use super::super::Command;
use super::segment::{Segment, TIMING, config, id, in_mode, vip, web_rules};
use crate::config::{ClusterConfig, ClusterMode};
use crate::delivery::{Delivery, derived_macs};
use crate::event::Event;
use crate::ids::Mac;
use crate::rules::{Claim, RuleDifference, RuleSet};
use crate::wire::arp::Arp;
use crate::wire::ethernet::{self, Ethernet};
use std::time::Duration;

const MODES: [ClusterMode; 3] = [
    ClusterMode::Multicast,
    ClusterMode::Igmp,
    ClusterMode::Unicast,
];

fn reload(rules: RuleSet) -> Command {
    Command::Reload {
        rules: rules.into(),
        claims: vec![Claim::EQUAL_WEIGHT],
    }
}

fn with_mac(mac: [u8; 6]) -> RuleSet {
    let delivery = Delivery::explicit(ClusterMode::Unicast, Mac(mac)).unwrap();
    web_rules(80).delivered_by(delivery)
}

fn all_in(mode: ClusterMode) -> Segment {
    let config = |host| ClusterConfig {
        rules: in_mode(mode),
        ..config(host)
    };
    let mut segment = Segment::new([1, 2, 3].map(config));
    segment.start_all();
    segment.run_until_converged(&[1, 2, 3]);
    segment.run(TIMING.budget());
    segment
}

/// Where heartbeats went since this was asked.
fn destinations(segment: &mut Segment) -> Vec<Mac> {
    let frames = std::mem::take(&mut segment.recorded);
    let heartbeat = |frame: &Vec<u8>| {
        let frame = Ethernet::parse(frame).unwrap();
        (frame.ethertype == ethernet::HEARTBEAT).then_some(frame.destination)
    };
    let mut all: Vec<Mac> = frames.iter().filter_map(heartbeat).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn mode_of(segment: &Segment, host: u8) -> ClusterMode {
    segment.host(host).cluster.delivery().mode()
}

#[test]
fn heartbeats_go_where_the_mode_says() {
    for mode in MODES {
        let mut segment = all_in(mode);
        destinations(&mut segment);
        segment.run(TIMING.budget() * 4);
        let expected = Delivery::derived(mode, vip()).heartbeats();
        assert_eq!(destinations(&mut segment), [expected], "{mode}");
        assert!(segment.is_converged(&[1, 2, 3]), "{}", segment.account());
    }
}

#[test]
fn a_change_host_by_host_is_one_commit_and_nothing_is_dark() {
    let mut segment = Segment::converged(3);
    let epoch = |segment: &Segment| segment.host(1).cluster.snapshot(segment.now).epoch.0;
    for mode in MODES {
        let (before, was) = (epoch(&segment), mode_of(&segment, 1));
        for host in [2, 1, 3] {
            for known in 1..=3 {
                assert_eq!(mode_of(&segment, known), was);
            }
            segment.command_to(host, reload(in_mode(mode)));
            segment.run(TIMING.budget() * 3);
        }
        assert!(segment.is_converged(&[1, 2, 3]), "{}", segment.account());
        assert_eq!((epoch(&segment), mode_of(&segment, 3)), (before + 1, mode));
        assert_eq!(segment.longest_dark, Duration::ZERO);
        destinations(&mut segment);
        segment.run(TIMING.budget());
        let expected = Delivery::derived(mode, vip()).heartbeats();
        assert_eq!(destinations(&mut segment), [expected]);
    }
    for index in 0..3 {
        assert_eq!(segment.count(index, |event| event.id() == 1015), 0);
    }
}

#[test]
fn while_one_host_stays_behind_all_stay_in_the_mode_that_they_have() {
    let mut segment = Segment::converged(3);
    for host in [1, 3] {
        segment.command_to(host, reload(in_mode(ClusterMode::Igmp)));
    }
    segment.run(TIMING.budget() * 10);
    assert!(segment.is_converged(&[1, 2, 3]), "{}", segment.account());
    assert_eq!(mode_of(&segment, 1), ClusterMode::Unicast);
    // Nor is one that leaves told of as one that is set up wrongly.
    segment.command_to(3, Command::Stop);
    segment.run_until_converged(&[1, 2]);
    segment.run(TIMING.budget());
    assert_eq!(segment.count(0, |event| event.id() == 1015), 0);
    segment.command_to(3, reload(in_mode(ClusterMode::Unicast)));
    segment.command_to(3, Command::Start);
    segment.run_until_converged(&[1, 2, 3]);
    // A host that is new has only what its configuration says.
    segment.crash(1);
    segment.run_until_converged(&[2, 3]);
    segment.hosts[0].config.rules = in_mode(ClusterMode::Igmp);
    segment.restart(1);
    segment.run(TIMING.budget() * 6);
    assert!(segment.is_converged(&[2, 3]), "{}", segment.account());
    let waiting = segment.waiting_for(0);
    assert_eq!(waiting.as_deref(), Some("this host is set to another mode"));
    assert_eq!(segment.count(1, |event| event.id() == 1015), 1);
    // Until the others follow.
    for host in [2, 3] {
        segment.command_to(host, reload(in_mode(ClusterMode::Igmp)));
    }
    segment.run_until_converged(&[1, 2, 3]);
    assert_eq!(mode_of(&segment, 1), ClusterMode::Igmp);
}

#[test]
fn neighbours_are_told_of_another_mac_by_the_default_host() {
    let mut segment = Segment::converged(3);
    for host in 1..=3 {
        segment.command_to(host, reload(in_mode(ClusterMode::Multicast)));
    }
    segment.recorded.clear();
    segment.run(TIMING.budget() * 4);
    let told: Vec<(Mac, Mac)> = segment
        .recorded
        .iter()
        .map(|frame| Ethernet::parse(frame).unwrap())
        .filter(|frame| frame.ethertype == ethernet::ARP)
        .filter_map(|frame| {
            let arp = Arp::parse(frame.payload).unwrap();
            (arp.sender_ip == vip()).then_some((frame.source, arp.sender_mac))
        })
        .collect();
    let [_, multicast, _] = derived_macs(vip());
    assert_eq!(told, [(segment.host(1).config.mac, multicast); 3]);
}

#[test]
fn macs_that_somebody_has_chosen_are_taken_before_and_after() {
    let (one, other) = ([2, 0, 0, 0, 0xAA, 1], [2, 0, 0, 0, 0xAA, 2]);
    let mut segment = Segment::converged(3);
    let takes = |segment: &Segment, host: u8, mac: [u8; 6]| {
        let image = segment.host(host).image.as_ref().unwrap();
        image.settings.cluster_mac == mac || image.settings.is_alias(mac)
    };
    assert!(!takes(&segment, 2, one));
    segment.command_to(2, reload(with_mac(one)));
    assert!(takes(&segment, 2, one), "as soon as it is offered");
    for mac in [one, other] {
        for host in 1..=3 {
            segment.command_to(host, reload(with_mac(mac)));
        }
        segment.run(TIMING.budget() * 3);
        assert_eq!(segment.host(3).cluster.delivery().mac(), Mac(mac));
    }
    let Mac(derived) = derived_macs(vip())[0];
    let all = |segment: &Segment| [one, other, derived].map(|mac| takes(segment, 3, mac));
    assert_eq!(all(&segment), [true; 3]);
    // By another program too.
    assert!(segment.upgrade(3, Duration::from_millis(20)));
    segment.run(TIMING.budget());
    assert_eq!(all(&segment), [true; 3]);
    assert_eq!(segment.host(3).cluster.macs()[0], Mac(other));
}

#[test]
fn a_host_with_another_mac_is_kept_out_and_told_which() {
    let odd = ClusterConfig {
        rules: with_mac([2, 0, 0, 0, 0xAA, 1]),
        ..config(3)
    };
    let mut segment = Segment::new([config(1), config(2), odd]);
    segment.start_all();
    segment.run_until_converged(&[1, 2]);
    segment.run(TIMING.budget() * 6);
    assert!(segment.is_converged(&[1, 2]), "{}", segment.account());
    let differs = |event: &Event| {
        matches!(
            event,
            Event::RulesDiffer {
                difference: Some(RuleDifference::Delivery { .. }),
                ..
            }
        )
    };
    assert_eq!(
        (segment.count(0, differs), segment.count(2, differs)),
        (1, 1)
    );
}

#[test]
fn a_switch_that_blocks_the_group_is_survived_by_direct_heartbeats() {
    for mode in [ClusterMode::Multicast, ClusterMode::Igmp] {
        let mut segment = all_in(mode);
        segment.loss = Box::new(|_, _, frame| {
            frame.ethertype == ethernet::HEARTBEAT && frame.destination.is_group()
        });
        segment.run(TIMING.budget() * 6);
        assert!(segment.is_converged(&[1, 2, 3]), "{}", segment.account());
        assert_eq!(segment.coverage(), (0, 0));
        let blocked = |event: &Event| matches!(event, Event::BroadcastBlocked { .. });
        assert!(segment.host(1).saw(blocked));
    }
}

#[test]
fn a_host_that_alone_does_not_get_the_groups_frames_is_left_out_until_it_does() {
    for mode in [ClusterMode::Multicast, ClusterMode::Igmp] {
        let mut segment = all_in(mode);
        segment.loss = Box::new(|_, to, frame| {
            let to_group = frame.destination.is_group() && frame.destination != Mac::BROADCAST;
            to == id(2) && frame.ethertype == ethernet::HEARTBEAT && to_group
        });
        segment.run_until_converged(&[1, 3]);
        segment.run(TIMING.budget() * 20);
        assert!(segment.is_converged(&[1, 3]), "{}", segment.account());
        assert_eq!(segment.share(2), 0);
        assert_eq!(segment.coverage(), (0, 0));
        let fenced = |event: &Event| matches!(event, Event::Fenced { .. });
        assert_eq!(segment.count(1, fenced), 1, "{}", segment.account());
        segment.loss = Box::new(|_, _, _| false);
        segment.run_until_converged(&[1, 2, 3]);
    }
}

#[test]
fn hosts_that_were_parted_in_different_modes_find_each_other() {
    let other = |host| ClusterConfig {
        rules: in_mode(ClusterMode::Igmp),
        ..config(host)
    };
    let mut segment = Segment::new([config(1), config(2), other(3), other(4)]);
    segment.loss = Box::new(|from, to, _| (from <= id(2)) != (to <= id(2)));
    segment.split = true;
    segment.start_all();
    segment.run_until_converged(&[1, 2]);
    segment.run_until_converged(&[3, 4]);
    segment.loss = Box::new(|_, _, _| false);
    segment.run(TIMING.budget() * 6);
    let told = (0..4).all(|index| segment.count(index, |event| event.id() == 1015) > 0);
    assert!(told, "{}", segment.account());
    let serving = [1, 2, 3, 4].map(|host| segment.share(host) > 0);
    let one_pair = [[true, true, false, false], [false, false, true, true]];
    assert!(one_pair.contains(&serving), "{}", segment.account());
}

/// No NIC takes the group of the other side, so only what is sent to all by broadcast as well is heard.
#[test]
fn hosts_with_groups_that_the_others_do_not_take_are_named() {
    let with_group = |host, last| {
        let chosen = Mac([3, 0, 0, 0, 0xAA, last]);
        let delivery = Delivery::explicit(ClusterMode::Multicast, chosen).unwrap();
        ClusterConfig {
            rules: web_rules(80).delivered_by(delivery),
            ..config(host)
        }
    };
    let mut segment = Segment::new([with_group(1, 1), with_group(2, 1), with_group(3, 2)]);
    segment.command_to(1, Command::Start);
    segment.command_to(2, Command::Start);
    segment.run_until_converged(&[1, 2]);
    segment.command_to(3, Command::Start);
    segment.run(TIMING.budget() * 6);
    assert!(segment.is_converged(&[1, 2]), "{}", segment.account());
    assert_eq!(segment.share(3), 0);
    let named = |index| segment.count(index, |event| event.id() == 1006) > 0;
    assert!((0..3).all(named), "{}", segment.account());
}
