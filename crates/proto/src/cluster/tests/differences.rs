//! Rules that are not the same on all hosts, and how that is told.

use super::super::Command;
use super::segment::{Segment, TIMING, config, id, in_mode, vip, web_rules};
use crate::config::{ClusterConfig, ClusterMode};
use crate::event::Event;
use crate::rules::{Affinity, Claim, FilterMode, PortRule, Protocol, RuleDifference, RuleSet};
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

fn rules_differ(segment: &Segment, index: usize) -> Vec<Event> {
    let events = segment.hosts[index].events.iter().map(|(_, event)| event);
    let differ = events.filter(|event| matches!(event, Event::RulesDiffer { .. }));
    differ.cloned().collect()
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
        segment.waiting_for(2).unwrap(),
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
        rules: in_mode(ClusterMode::Igmp),
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
        assert_eq!(segment.count(index, |event| *event == equal), 1);
    }
    // Not again when the next map has it too, but again once it was gone.
    segment.command_to(1, Command::Stop);
    segment.run_until_converged(&[2, 3]);
    assert_eq!(segment.count(1, |event| event.id() == 20), 1);
    for priority in [2, 1] {
        let rules = single(3, 1).rules.into();
        let claims = vec![Claim(priority)];
        segment.command_to(3, Command::Reload { rules, claims });
        segment.run(TIMING.budget());
    }
    assert_eq!(segment.count(1, |event| event.id() == 20), 2);
}
