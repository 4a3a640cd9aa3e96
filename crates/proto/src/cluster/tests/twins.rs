//! Two hosts with one ID, and the two parts of a cluster that meet again.

use super::super::Command;
use super::segment::{Segment, TIMING, config, set};
use crate::config::ClusterConfig;
use crate::event::{Event, FenceReason};
use crate::ids::Mac;
use covey_filter::BUCKETS;
use std::time::Duration;

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
        assert_eq!(segment.count(0, |event| event.id() == 1014), times);
        assert_eq!(
            segment.waiting_for(2).unwrap(),
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
        .map(|index| segment.count(index, |event| *event == yielded))
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
            let told = segment.count(index, |event| event.id() == 18);
            assert_eq!(told, times, "{}", segment.account());
        }
    }
    // Nor does a host that comes back from a crash count as a part.
    segment.crash(3);
    segment.run_until_converged(&[1, 2, 4]);
    segment.restart(3);
    segment.run_until_converged(&[1, 2, 3, 4]);
    assert_eq!(segment.count(0, |event| event.id() == 18), 2);
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
            let told = segment.count(index, |event| event.id() == 18);
            assert_eq!(told, 1, "{millis}: {}", segment.account());
        }
    }
}
