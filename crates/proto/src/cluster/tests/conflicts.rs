//! What keeps hosts from being one cluster, and how it is told: rules, IDs, modes, keys, Microsoft's NLB.

use super::super::{Command, Input, Output};
use super::segment::{Segment, TIMING, config, id, set, vip, web_rules};
use crate::config::{Auth, ClusterConfig, ClusterMode, Key, cluster_mac};
use crate::event::{Distrust, Event, FenceReason};
use crate::ids::{HostId, Mac};
use crate::rules::{Affinity, Claim, FilterMode, PortRule, Protocol, RuleDifference, RuleSet};
use crate::wire::ethernet::{self, Ethernet};
use covey_filter::BUCKETS;
use std::time::Duration;

fn with_rules(host: u8, rules: RuleSet) -> ClusterConfig {
    let claims = vec![Claim::EQUAL_WEIGHT; rules.rules().len()];
    ClusterConfig {
        rules,
        claims,
        ..config(host)
    }
}

/// Port 80 with one affinity.
fn web_with(affinity: Affinity) -> RuleSet {
    let mut rule = web_rules(80).rules()[0].clone();
    rule.mode = FilterMode::Multiple { affinity };
    RuleSet::new(vec![vip()], vec![rule]).unwrap()
}

fn count(segment: &Segment, index: usize, matching: impl Fn(&Event) -> bool) -> usize {
    let events = segment.hosts[index].events.iter();
    events.filter(|(_, event)| matching(event)).count()
}

fn rules_differ(segment: &Segment, index: usize) -> Vec<Event> {
    let events = segment.hosts[index].events.iter().map(|(_, event)| event);
    let differ = events.filter(|event| matches!(event, Event::RulesDiffer { .. }));
    differ.cloned().collect()
}

fn waiting_for(segment: &Segment, index: usize) -> Option<String> {
    segment.hosts[index]
        .cluster
        .snapshot(segment.now)
        .waiting_for
}

#[test]
fn all_hosts_say_what_differs_and_in_whose_rules() {
    let odd = with_rules(3, web_with(Affinity::Single));
    let mut segment = Segment::new([config(1), config(2), odd]);
    segment.start_all();
    segment.run_until_converged(&[1, 2]);
    segment.run(Duration::from_secs(10));
    for index in [0, 1] {
        let told = rules_differ(&segment, index);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].id(), 1006);
        assert_eq!(
            told[0].to_string(),
            "host 3 (h3) is kept out, because its rules are not this host's: port rule 1 (tcp 80) has affinity \
             single there and none here; compare the configuration files, correct one and reload it"
        );
    }
    let told = rules_differ(&segment, 2);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].to_string().starts_with(
            "this host is kept out, because its rules are not those of host 1 (h1): port rule 1 (tcp 80) has \
             affinity none there and single here;"
        ),
        "{}",
        told[0]
    );
    assert_eq!(
        waiting_for(&segment, 2).unwrap(),
        "this host has other virtual IPs or port rules than host 1 (h1): port rule 1 (tcp 80) has affinity none \
         there and single here"
    );
    // Another difference is told again, and none when there is none.
    let reload = |rules: RuleSet| Command::Reload {
        claims: vec![Claim::EQUAL_WEIGHT; rules.rules().len()],
        rules: rules.into(),
    };
    segment.command_to(3, reload(RuleSet::new(vec![vip()], vec![]).unwrap()));
    segment.run(TIMING.budget());
    assert_eq!(rules_differ(&segment, 0)[1].id(), 67);
    let two_vips = vec![vip(), "10.77.0.101".parse().unwrap()];
    segment.command_to(
        3,
        reload(RuleSet::new(two_vips, web_rules(80).rules().to_vec()).unwrap()),
    );
    segment.run(TIMING.budget());
    assert_eq!(rules_differ(&segment, 0)[2].id(), 110);
    segment.command_to(3, reload(web_rules(80)));
    segment.run_until_converged(&[1, 2, 3]);
    assert_eq!(rules_differ(&segment, 0).len(), 3);
}

#[test]
fn of_two_hosts_that_differ_one_serves() {
    let other_mode = |host| ClusterConfig {
        mode: ClusterMode::Igmp,
        cluster_mac: Mac::BROADCAST,
        ..config(host)
    };
    for odd in [with_rules(2, web_with(Affinity::Single)), other_mode(2)] {
        let mut segment = Segment::new([config(1), odd]);
        segment.start_all();
        segment.run_until_converged(&[1]);
        segment.run(TIMING.budget() * 6);
        assert!(segment.is_converged(&[1]), "{}", segment.account());
        assert_eq!((segment.share(1), segment.share(2)), (BUCKETS, 0));
        // Nor does the one that serves have to be the lower ID: the incumbent goes on.
        let mut segment = Segment::new([odd_of(&segment.hosts[1].config), config(2)]);
        segment.command_to(2, Command::Start);
        segment.run_until_converged(&[2]);
        segment.command_to(1, Command::Start);
        segment.run(TIMING.budget() * 6);
        assert_eq!((segment.share(1), segment.share(2)), (0, BUCKETS));
    }
}

/// Host 1 with what is odd about host 2.
fn odd_of(two: &ClusterConfig) -> ClusterConfig {
    ClusterConfig {
        mode: two.mode,
        cluster_mac: two.cluster_mac,
        rules: two.rules.clone(),
        ..config(1)
    }
}

#[test]
fn rules_that_are_not_shown_are_told_of_without_detail_and_with_it_later() {
    let odd = with_rules(3, web_with(Affinity::Single));
    let mut segment = Segment::new([config(1), config(2), odd]);
    let is_chunk = |payload: &[u8]| payload.windows(4).any(|bytes| bytes[..2] == [0xC9, 0]);
    segment.loss = Box::new(move |from, _, frame| from == id(3) && is_chunk(frame.payload));
    segment.start_all();
    segment.run_until_converged(&[1, 2]);
    segment.run(Duration::from_secs(5));
    let told = rules_differ(&segment, 0);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].to_string().contains("it has not shown its own"));
    segment.loss = Box::new(|_, _, _| false);
    segment.run(Duration::from_secs(2));
    assert!(matches!(
        rules_differ(&segment, 0)[1..],
        [Event::RulesDiffer {
            difference: Some(RuleDifference::Rule { number: 1, .. }),
            ..
        }]
    ));
}

#[test]
fn rules_are_shown_at_most_once_a_second() {
    let odd = with_rules(3, web_with(Affinity::Single));
    let mut segment = Segment::new([config(1), config(2), odd]);
    segment.start_all();
    segment.run(Duration::from_secs(3));
    segment.recorded.clear();
    segment.run(Duration::from_secs(10));
    let is_rules = |bytes: &[u8]| matches!(bytes, [0xC9, 0, _, 0, 2]);
    let is_chunk = |frame: &&Vec<u8>| frame.windows(5).any(is_rules);
    let shown = segment.recorded.iter().filter(is_chunk).count();
    assert!((3 * 9..=3 * 10).contains(&shown), "{shown}");
    segment.command_to(3, Command::Stop);
    segment.run(TIMING.budget() * 2);
    segment.recorded.clear();
    segment.run(Duration::from_secs(10));
    assert_eq!(segment.recorded.iter().filter(is_chunk).count(), 0);
}

#[test]
fn equal_handling_priorities_are_told_by_name_and_the_lowest_id_serves() {
    let single = |host: u8, priority: u8| {
        let rule = PortRule {
            vip: None,
            start: 80,
            end: 80,
            protocol: Protocol::Tcp,
            mode: FilterMode::Single,
            sticky: None,
        };
        ClusterConfig {
            rules: RuleSet::new(vec![vip()], vec![rule]).unwrap(),
            claims: vec![Claim(priority)],
            ..config(host)
        }
    };
    let mut segment = Segment::new([single(1, 9), single(2, 1), single(3, 1)]);
    segment.start_all();
    segment.run_until_converged(&[1, 2, 3]);
    segment.run(TIMING.budget() * 2);
    assert_eq!((segment.share(2), segment.coverage()), (BUCKETS, (0, 0)));
    let equal = Event::EqualPriorities {
        rule: 1,
        priority: 1,
        taker: (id(2), "h2".to_owned()),
        other: (id(3), "h3".to_owned()),
    };
    for index in 0..3 {
        assert_eq!(count(&segment, index, |event| *event == equal), 1);
    }
    // Not again when the next map has it too, but again once it was gone.
    segment.command_to(1, Command::Stop);
    segment.run_until_converged(&[2, 3]);
    assert_eq!(count(&segment, 1, |event| event.id() == 20), 1);
    for priority in [2, 1] {
        let rules = single(3, 1).rules.into();
        let claims = vec![Claim(priority)];
        segment.command_to(3, Command::Reload { rules, claims });
        segment.run(TIMING.budget());
    }
    assert_eq!(count(&segment, 1, |event| event.id() == 20), 2);
}

/// Another machine with the ID of `host`.
fn twin(host: u8, last_byte_of_mac: u8) -> ClusterConfig {
    let mut twin = config(host);
    twin.name = "twin".to_owned();
    twin.mac.0[5] = last_byte_of_mac;
    twin.mac.0[0] = if last_byte_of_mac == 0 { 0 } else { 2 };
    twin.dip = "10.77.0.99".parse().unwrap();
    twin.incarnation.0 += 77;
    twin
}

fn duplicates(segment: &Segment, index: usize) -> Vec<(String, Mac)> {
    let events = segment.hosts[index].events.iter();
    let duplicate = |event: &Event| match event {
        Event::DuplicateId { name, mac, .. } => Some((name.clone(), *mac)),
        _ => None,
    };
    events.filter_map(|(_, event)| duplicate(event)).collect()
}

#[test]
fn both_hosts_with_one_id_say_so_each_time_and_so_do_the_others() {
    let other = twin(2, 99);
    let of_twin = ("twin".to_owned(), other.mac);
    let of_two = ("h2".to_owned(), config(2).mac);
    let mut segment = Segment::new([config(1), config(2), other]);
    segment.command(0, Command::Start);
    segment.command(1, Command::Start);
    segment.run_until_converged(&[1, 2]);
    for times in 1..=3 {
        segment.command(2, Command::Start);
        segment.run(TIMING.budget() * 8);
        assert!(segment.is_converged(&[1, 2]), "{}", segment.account());
        assert_eq!(
            segment.hosts[2].cluster.snapshot(segment.now).view,
            set(&[])
        );
        assert_eq!(duplicates(&segment, 1), vec![of_twin.clone(); times]);
        assert_eq!(duplicates(&segment, 2), vec![of_two.clone(); times]);
        assert_eq!(count(&segment, 0, |event| event.id() == 1014), times);
        assert_eq!(
            waiting_for(&segment, 2).unwrap(),
            "host ID 2 is also used by h2 (02:00:00:00:00:02)"
        );
        segment.command(2, Command::Stop);
        segment.run(TIMING.budget() * 4);
    }
    assert!(segment.is_converged(&[1, 2]), "{}", segment.account());
}

#[test]
fn a_twin_takes_over_when_the_incumbent_has_gone() {
    let mut segment = Segment::new([config(1), config(2), twin(2, 99)]);
    segment.start_all_but(2);
    segment.run_until_converged(&[1, 2]);
    segment.command(2, Command::Start);
    segment.run(TIMING.budget() * 4);
    segment.crash(2);
    segment.run(TIMING.budget() * 4);
    let view = segment.hosts[2].cluster.snapshot(segment.now).view;
    assert_eq!(view, set(&[1, 2]), "{}", segment.account());
}

#[test]
fn the_incumbent_goes_first_even_when_it_loses_its_only_peer() {
    // The twin has the lower MAC, which would decide between two newcomers.
    let mut segment = Segment::new([config(1), config(2), twin(2, 0)]);
    segment.start_all_but(2);
    segment.run_until_converged(&[1, 2]);
    segment.command(2, Command::Start);
    segment.run(TIMING.budget() * 6);
    segment.crash(1);
    segment.run(TIMING.budget() * 8);
    assert_eq!(
        segment.hosts[2].cluster.snapshot(segment.now).view,
        set(&[])
    );
    assert_eq!(
        segment.hosts[1].cluster.snapshot(segment.now).view,
        set(&[2])
    );
}

#[test]
fn of_two_newcomers_with_one_id_exactly_one_serves() {
    for second in [0, 99] {
        let mut segment = Segment::new([config(2), twin(2, second)]);
        segment.start_all();
        for _ in 0..200 {
            segment.run(TIMING.period / 5);
            assert_eq!(segment.coverage().1, 0, "both serve: {}", segment.account());
        }
        assert_eq!(segment.coverage(), (0, 0), "{}", segment.account());
    }
}

#[test]
fn recorded_frames_of_an_exchanged_nic_keep_nobody_waiting() {
    let mut segment = Segment::new([twin(2, 99), config(2)]);
    segment.command(0, Command::Start);
    segment.run(TIMING.budget() * 4);
    segment.crash(2);
    let recorded = std::mem::take(&mut segment.recorded);
    let recorded: Vec<_> = recorded
        .into_iter()
        .filter(|frame| frame[11] == 99)
        .collect();
    segment.command(1, Command::Start);
    for frame in recorded.iter().cycle().take(60) {
        segment.inject(frame.clone());
        segment.run(TIMING.period / 3);
    }
    assert_eq!(duplicates(&segment, 1), []);
    assert_eq!(
        segment.hosts[1].cluster.snapshot(segment.now).view,
        set(&[2])
    );
}

#[test]
fn of_two_clusters_with_one_id_in_both_one_gives_way() {
    let mut segment = Segment::new([config(2), twin(2, 99)]);
    segment.split = true;
    segment.loss = Box::new(|_, _, _| true);
    segment.start_all();
    segment.run(TIMING.budget() * 4);
    assert_eq!(segment.coverage().1, BUCKETS, "each serves in its part");
    segment.loss = Box::new(|_, _, _| false);
    segment.run(TIMING.budget() * 4);
    assert_eq!(segment.coverage(), (0, 0), "{}", segment.account());
    let yielded = Event::Fenced {
        reason: FenceReason::DuplicateId,
    };
    let times: usize = (0..2)
        .map(|index| count(&segment, index, |event| *event == yielded))
        .sum();
    assert_eq!(times, 1);
}

#[test]
fn the_parts_of_a_split_tell_that_they_have_met_once_each_time() {
    let mut segment = Segment::converged(4);
    segment.split = true;
    for times in 1..=2 {
        let low = set(&[1, 2]);
        segment.loss = Box::new(move |from, to, _| low.contains(from) != low.contains(to));
        segment.run_until(TIMING.budget() * 4, |segment| {
            segment.is_converged(&[1, 2]) && segment.is_converged(&[3, 4])
        });
        segment.loss = Box::new(|_, _, _| false);
        segment.run_until_converged(&[1, 2, 3, 4]);
        segment.run(TIMING.budget() * 2);
        for index in 0..4 {
            let told = count(&segment, index, |event| event.id() == 18);
            assert_eq!(told, times, "{}", segment.account());
        }
    }
    // Nor does a host that comes back from a crash count as a part.
    segment.crash(3);
    segment.run_until_converged(&[1, 2, 4]);
    segment.restart(3);
    segment.run_until_converged(&[1, 2, 3, 4]);
    assert_eq!(count(&segment, 0, |event| event.id() == 18), 2);
}

#[test]
fn parts_that_have_restarted_meanwhile_tell_too() {
    for millis in (0..200).step_by(9) {
        let mut segment = Segment::converged(2);
        segment.split = true;
        segment.loss = Box::new(|_, _, _| true);
        segment.restart(1);
        segment.run(Duration::from_millis(millis));
        segment.restart(2);
        segment.run(TIMING.budget() * 4 + Duration::from_millis(millis / 2));
        assert!(segment.is_converged(&[1]) && segment.is_converged(&[2]));
        segment.loss = Box::new(|_, _, _| false);
        segment.run_until_converged(&[1, 2]);
        for index in 0..2 {
            let told = count(&segment, index, |event| event.id() == 18);
            assert_eq!(told, 1, "{millis}: {}", segment.account());
        }
    }
}

#[test]
fn a_host_in_another_mode_is_kept_out_and_named() {
    let mut odd = config(1);
    odd.mode = ClusterMode::Igmp;
    // Its frames arrive nevertheless: the switch floods them.
    odd.cluster_mac = Mac::BROADCAST;
    let mut segment = Segment::new([odd, config(2), config(3)]);
    segment.start_all();
    segment.run_until_converged(&[2, 3]);
    segment.run(TIMING.budget() * 6);
    assert!(segment.is_converged(&[2, 3]), "{}", segment.account());
    assert_eq!(segment.share(1), 0);
    let differs = |host: u8, there, here| Event::ModeDiffers {
        host: id(host),
        name: format!("h{host}"),
        there,
        here,
    };
    let of_one = differs(1, ClusterMode::Igmp, ClusterMode::Unicast);
    assert_eq!(count(&segment, 1, |event| *event == of_one), 1);
    let of_two = differs(2, ClusterMode::Unicast, ClusterMode::Igmp);
    assert_eq!(count(&segment, 0, |event| *event == of_two), 1);
    let waiting = waiting_for(&segment, 0);
    assert_eq!(waiting.as_deref(), Some("this host is set to another mode"));
}

fn key(id: u8, byte: u8) -> Auth {
    Auth::Keys(vec![Key {
        id,
        secret: [byte; 32],
    }])
}

#[test]
fn a_host_with_another_key_or_none_is_named_on_both_sides() {
    let cases = [
        (
            Auth::None,
            Distrust::Unsigned,
            Distrust::UnexpectedSignature,
        ),
        (key(2, 7), Distrust::UnknownKey, Distrust::UnknownKey),
        (key(1, 8), Distrust::BadSignature, Distrust::BadSignature),
    ];
    for (auth, here, there) in cases {
        let stranger = ClusterConfig { auth, ..config(3) };
        let mut segment = Segment::new([config(1), config(2), stranger]);
        segment.start_all();
        segment.run_until_converged(&[1, 2]);
        for _ in 0..200 {
            segment.run(TIMING.period);
            assert!(segment.is_converged(&[1, 2]), "{}", segment.account());
            assert_eq!(segment.share(3), 0, "{}", segment.account());
        }
        let waiting = waiting_for(&segment, 2).unwrap();
        assert!(
            waiting.contains("uses this cluster's address and cannot be believed"),
            "{waiting}"
        );
        let told = |host: u8, reason| Event::NotBelieved {
            host: id(host),
            dip: config(host).dip,
            reason,
        };
        for index in [0, 1] {
            assert_eq!(count(&segment, index, |event| *event == told(3, here)), 1);
        }
        assert_eq!(count(&segment, 2, |event| *event == told(1, there)), 1);
        assert_eq!(count(&segment, 2, |event| event.id() == 1016), 2);
    }
}

#[test]
fn a_stranger_serves_when_nobody_else_speaks_and_keeps_no_survivor_from_it() {
    let stranger = ClusterConfig {
        auth: key(1, 8),
        ..config(3)
    };
    let mut segment = Segment::new([config(1), config(2), stranger]);
    segment.start_all();
    segment.run_until_converged(&[1, 2]);
    segment.crash(1);
    segment.run_until_converged(&[2]);
    segment.run(TIMING.budget() * 6);
    assert!(segment.is_converged(&[2]), "{}", segment.account());
    assert_eq!(segment.share(3), 0);
    segment.crash(2);
    segment.run_until_converged(&[3]);
    // Nor does a single host that is heard by nobody else begin beside it.
    segment.restart(1);
    segment.run(TIMING.budget() * 6);
    assert!(segment.is_converged(&[3]), "{}", segment.account());
    assert_eq!(segment.share(1), 0);
}

#[test]
fn a_host_in_another_mode_that_is_not_heard_does_not_serve_beside_the_others() {
    let mut odd = config(3);
    odd.mode = ClusterMode::Multicast;
    odd.cluster_mac = cluster_mac(odd.mode, odd.rules.primary());
    let mut segment = Segment::new([config(1), config(2), odd]);
    segment.start_all();
    segment.run_until_converged(&[1, 2]);
    segment.run(TIMING.budget() * 10);
    assert!(segment.is_converged(&[1, 2]), "{}", segment.account());
    assert_eq!(segment.share(3), 0, "{}", segment.account());
    assert_eq!(count(&segment, 2, |event| event.id() == 1015), 2);
    let waiting = waiting_for(&segment, 2).unwrap();
    assert_eq!(
        waiting,
        "host(s) 1,2 are set to another mode than this host"
    );
    segment.crash(1);
    segment.crash(2);
    segment.run_until_converged(&[3]);
}

/// A membership heartbeat of Microsoft's NLB, as in the public capture (NLB facts §1.3), with other addresses.
fn nlb(host: u32, primary: [u8; 4]) -> Vec<u8> {
    let mut payload = vec![0; 1496];
    payload[..4].copy_from_slice(&0xC0DE_01BF_u32.to_le_bytes());
    payload[4] = 6;
    payload[5] = 2;
    payload[8..12].copy_from_slice(&host.to_le_bytes());
    payload[12..16].copy_from_slice(&primary);
    payload[16..20].copy_from_slice(&[10, 77, 0, 50]);
    Ethernet {
        destination: Mac::BROADCAST,
        source: Mac([2, host as u8, 10, 77, 0, 100]),
        ethertype: ethernet::HEARTBEAT,
        payload: &payload,
    }
    .emit()
}

#[test]
fn a_foreign_nlb_host_is_told_of_if_it_uses_this_clusters_address() {
    let mut segment = Segment::converged(2);
    segment.inject(nlb(7, [10, 77, 0, 99]));
    segment.inject(nlb(99, [10, 77, 0, 100]));
    segment.run(TIMING.budget());
    assert_eq!(count(&segment, 0, |event| event.id() == 1017), 0);
    for _ in 0..20 {
        segment.inject(nlb(7, [10, 77, 0, 100]));
        segment.run(TIMING.period);
    }
    let foreign = Event::ForeignNlb {
        host: id(7),
        dip: "10.77.0.50".parse().unwrap(),
    };
    assert_eq!(count(&segment, 0, |event| *event == foreign), 1);
    assert!(segment.is_converged(&[1, 2]));
}

#[test]
fn a_flood_of_unbelievable_frames_changes_nothing_and_is_told_of_a_few_times() {
    let mut segment = Segment::converged(2);
    let forged = |host: u8| {
        let mut frame = nlb(u32::from(host), [10, 77, 0, 100]);
        if host.is_multiple_of(2) {
            frame[ethernet::HEADER_LEN..ethernet::HEADER_LEN + 4]
                .copy_from_slice(&0xC0DE_01C0_u32.to_le_bytes());
        }
        frame
    };
    let now = segment.now;
    let cluster = &mut segment.hosts[0].cluster;
    let mut events = 0;
    for round in 0..100_000u32 {
        let host = HostId::new((round % 64) as u8 + 1).unwrap().get();
        cluster.handle_input(now, Input::Frame(&forged(host)));
        loop {
            match cluster.poll_output() {
                Output::Event(_) => events += 1,
                Output::Wait(_) => break,
                other => panic!("{other:?} follows from a frame that nothing vouches for"),
            }
        }
    }
    assert_eq!(events, 8);
    segment.run(TIMING.budget());
    assert!(segment.is_converged(&[1, 2]));
}
