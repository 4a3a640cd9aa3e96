//! What hosts tell of their health, and how what is wrong between them stands as values. docs/design.md, "Doctor".

use super::super::trouble::{Exclusion, Troubles};
use super::super::{Command, Input};
use super::segment::{Segment, TIMING, config, id, set};
use crate::event::Event;
use crate::ids::Mac;
use crate::wire::ethernet;
use crate::wire::heartbeat::MAX_FINDINGS;

fn told_by(segment: &Segment, host: u8, to: u8) -> Vec<u8> {
    let snapshot = segment.host(to).cluster.snapshot(segment.now);
    let mut members = snapshot.members.iter();
    let member = members.find(|member| member.host == id(host)).unwrap();
    member.findings.clone()
}

fn troubles(segment: &Segment, host: u8) -> Troubles {
    segment.host(host).cluster.snapshot(segment.now).troubles
}

#[test]
fn findings_are_told_to_all_hosts_until_they_are_gone() {
    let mut segment = Segment::converged(3);
    assert_eq!(told_by(&segment, 2, 1), [0; 0]);
    segment.input(2, Input::Findings(&[6, 12]));
    segment.run(TIMING.period * 2);
    assert_eq!(told_by(&segment, 2, 1), [6, 12]);
    assert_eq!(told_by(&segment, 2, 3), [6, 12]);
    assert_eq!(told_by(&segment, 1, 2), [0; 0]);
    segment.input(2, Input::Findings(&[]));
    segment.run(TIMING.period * 2);
    assert_eq!(told_by(&segment, 2, 1), [0; 0]);
}

#[test]
fn more_findings_than_fit_are_cut() {
    let mut segment = Segment::converged(2);
    let many: Vec<u8> = (1..=200).collect();
    segment.input(2, Input::Findings(&many));
    segment.run(TIMING.period * 2);
    assert_eq!(told_by(&segment, 2, 1), many[..MAX_FINDINGS]);
}

#[test]
fn nothing_is_wrong_with_a_cluster_that_has_converged() {
    let mut segment = Segment::converged(3);
    segment.run(TIMING.budget());
    for host in 1..=3 {
        assert_eq!(troubles(&segment, host), Troubles::default());
    }
}

#[test]
fn a_host_that_leaves_in_order_is_no_trouble_to_the_others() {
    let mut segment = Segment::converged(3);
    segment.command_to(2, Command::Stop);
    segment.run_until_converged(&[1, 3]);
    segment.run(TIMING.budget() * 2);
    assert_eq!(troubles(&segment, 1), Troubles::default());
    assert_eq!(troubles(&segment, 2).left_out, []);
}

#[test]
fn who_does_not_hear_whom_is_named() {
    let mut segment = Segment::converged(3);
    segment.loss = Box::new(|from, to, _| (from, to) == (id(2), id(3)));
    segment.run_until_converged(&[1, 2]);
    segment.run(TIMING.budget());
    let left_out = troubles(&segment, 1).left_out;
    assert_eq!(left_out, [(id(3), Exclusion::Hearing(id(2)))]);
}

#[test]
fn a_host_that_only_probes_reach_says_so_and_shows_itself_to_the_switch_once() {
    let mut segment = Segment::converged(3);
    segment.loss = Box::new(|_, to, frame| to == id(2) && frame.ethertype == ethernet::HEARTBEAT);
    segment.run(TIMING.budget() * 6);
    assert_eq!(troubles(&segment, 2).probing_only, set(&[1, 3]));
    assert_eq!(troubles(&segment, 1).probing_only, set(&[]));
    let unheard = |segment: &Segment| [1, 2, 3].map(|host| segment.host(host).unheard);
    assert_eq!(unheard(&segment), [0, 1, 0]);
    segment.loss = Box::new(|_, _, _| false);
    segment.run_until_converged(&[1, 2, 3]);
    assert_eq!(troubles(&segment, 2).probing_only, set(&[]));
    assert_eq!(unheard(&segment), [0, 1, 0]);
}

#[test]
fn hosts_that_have_converged_alone_because_broadcasts_are_blocked_know_of_each_other() {
    let without = |host| {
        let mut config = config(host);
        config.unicast_fallback = false;
        config
    };
    let mut segment = Segment::new([1, 2, 3].map(without));
    segment.start_all();
    segment.run_until_converged(&[1, 2, 3]);
    segment.split = true;
    segment.loss = Box::new(|_, _, frame| frame.destination == Mac::BROADCAST);
    segment.run(TIMING.budget() * 6);
    assert!(segment.is_converged(&[2]), "{}", segment.account());
    assert_eq!(troubles(&segment, 2).probing_only, set(&[1, 3]));
    // Nor does anybody say so of a host that was only stopped, or of one that has crashed.
    let mut other = Segment::converged(3);
    other.crash(3);
    other.command_to(2, Command::Stop);
    for _ in 0..40 {
        other.run(TIMING.period / 4);
        for host in [1, 2] {
            assert_eq!(troubles(&other, host).probing_only, set(&[]));
        }
    }
    // One that is off says nothing.
    segment.crash(3);
    segment.run(TIMING.budget() * 10);
    assert_eq!(troubles(&segment, 2).probing_only, set(&[1]));
}

#[test]
fn broadcasts_that_do_not_arrive_are_named_until_they_do() {
    let mut segment = Segment::converged(2);
    segment.loss = Box::new(|_, _, frame| {
        frame.destination == Mac::BROADCAST && frame.ethertype == ethernet::HEARTBEAT
    });
    segment.run(TIMING.budget() * 2);
    assert_eq!(troubles(&segment, 1).direct_only, set(&[2]));
    segment.loss = Box::new(|_, _, _| false);
    segment.run(TIMING.budget());
    assert_eq!(troubles(&segment, 1).direct_only, set(&[]));
}

#[test]
fn a_host_says_afterwards_how_late_it_was() {
    let mut segment = Segment::converged(3);
    segment.stall(2, TIMING.budget() * 3);
    segment.run(TIMING.budget() * 4);
    segment.run_until_converged(&[1, 2, 3]);
    segment.run(TIMING.budget() * 20);
    assert!(
        segment
            .host(2)
            .saw(|event| matches!(event, Event::OnTime { .. }))
    );
    let late = troubles(&segment, 2).late.unwrap();
    assert!(late.worst >= TIMING.budget() * 2, "{late:?}");
    assert_eq!(troubles(&segment, 1).late, None);
}
