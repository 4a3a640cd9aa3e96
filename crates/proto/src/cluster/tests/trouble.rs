//! Hosts in lasting trouble: lost again and again, or always late.

use super::super::Command;
use super::segment::{LATENCY, Segment, TIMING, id, set};
use covey_filter::BUCKETS;
use std::time::Duration;

fn waiting_for(segment: &Segment, host: u8) -> String {
    let cluster = &segment.host(host).cluster;
    cluster
        .snapshot(segment.now)
        .waiting_for
        .unwrap_or_default()
}

fn times(segment: &Segment, host: u8, id: u16) -> usize {
    let events = segment.host(host).events.iter();
    events.filter(|(_, event)| event.id() == id).count()
}

/// Host `host` is lost and comes back; how long it took to be a member again.
fn lose(segment: &mut Segment, host: u8, rest: &[u8], all: &[u8]) -> Duration {
    segment.crash(host);
    segment.run_until_converged(rest);
    segment.restart(host);
    segment.run_until(TIMING.budget() * 70, |segment| segment.is_converged(all))
}

#[test]
fn a_host_that_is_lost_again_and_again_is_kept_out_longer_each_time() {
    for (host, rest) in [(1, [2, 3]), (3, [1, 2])] {
        let mut segment = Segment::converged(3);
        for budgets in [0, 0, 4, 8, 16, 32, 64, 64] {
            let took = lose(&mut segment, host, &rest, &[1, 2, 3]);
            let (least, most) = (TIMING.budget() * budgets, TIMING.budget() * (budgets + 1));
            assert!(
                took <= most && took + TIMING.budget() >= least,
                "{budgets}: {took:?}"
            );
            assert_eq!(segment.coverage(), (0, 0));
        }
    }
}

#[test]
fn everybody_says_who_is_kept_out_and_stays_converged() {
    let mut segment = Segment::converged(3);
    for _ in 0..2 {
        lose(&mut segment, 3, &[1, 2], &[1, 2, 3]);
    }
    segment.crash(3);
    segment.run_until_converged(&[1, 2]);
    segment.restart(3);
    segment.run(TIMING.budget());
    assert!(segment.is_converged(&[1, 2]), "{}", segment.account());
    for host in 1..=3 {
        assert_eq!(times(&segment, host, 1020), 1, "{}", segment.account());
    }
    let waiting = waiting_for(&segment, 3);
    assert!(
        waiting.starts_with("this host was lost again and again and may not join for up to 1."),
        "{waiting}"
    );
}

#[test]
fn a_daemon_that_keeps_crashing_is_kept_out_too() {
    // It is back before its silence is noticed.
    let mut segment = Segment::converged(3);
    for _ in 0..3 {
        segment.restart(2);
        segment.run(TIMING.budget() * 2);
    }
    assert!(segment.is_converged(&[1, 3]), "{}", segment.account());
    segment.run_until(TIMING.budget() * 5, |segment| {
        segment.is_converged(&[1, 2, 3])
    });
}

#[test]
fn the_last_one_goes_on_without_a_host_that_is_kept_out() {
    let mut segment = Segment::converged(2);
    for _ in 0..3 {
        segment.restart(1);
        segment.run(TIMING.budget() * 3);
    }
    assert!(segment.is_converged(&[2]), "{}", segment.account());
    assert_eq!((segment.share(2), segment.coverage()), (BUCKETS, (0, 0)));
    segment.run_until(TIMING.budget() * 5, |segment| segment.is_converged(&[1, 2]));
}

#[test]
fn stopping_and_starting_is_no_loss() {
    let mut segment = Segment::converged(3);
    for _ in 0..6 {
        segment.command_to(2, Command::Stop);
        segment.run_until_converged(&[1, 3]);
        segment.run(TIMING.period);
        segment.command_to(2, Command::Start);
        segment.run_until_converged(&[1, 2, 3]);
    }
}

#[test]
fn long_membership_makes_up_for_losses() {
    let mut segment = Segment::converged(3);
    for _ in 0..6 {
        lose(&mut segment, 2, &[1, 3], &[1, 2, 3]);
        segment.run(TIMING.budget() * 9);
    }
    assert_eq!(times(&segment, 1, 1020), 0);
}

#[test]
fn a_host_that_is_kept_out_serves_when_nobody_else_is_left() {
    let mut segment = Segment::converged(2);
    for _ in 0..2 {
        lose(&mut segment, 2, &[1], &[1, 2]);
    }
    segment.crash(2);
    segment.run_until_converged(&[1]);
    segment.restart(2);
    segment.run(TIMING.budget());
    assert_eq!(segment.share(2), 0, "{}", segment.account());
    segment.command_to(1, Command::Stop);
    segment.run_until_converged(&[2]);
    assert_eq!(segment.share(2), BUCKETS);
}

#[test]
fn one_that_was_deaf_itself_accuses_nobody() {
    let mut segment = Segment::converged(3);
    for _ in 0..4 {
        segment.loss = Box::new(|_, to, _| to == id(1));
        segment.split = true;
        segment.run_until_converged(&[2, 3]);
        segment.run(TIMING.budget());
        segment.loss = Box::new(|_, _, _| false);
        segment.run_until(TIMING.budget() * 40, |segment| {
            segment.is_converged(&[1, 2, 3])
        });
    }
    // Host 1 coordinates again; it does not hold the silence that it heard against host 3.
    segment.crash(3);
    segment.run_until_converged(&[1, 2]);
    segment.restart(3);
    segment.run_until_converged(&[1, 2, 3]);
}

/// Host 2 is stalled for `stall` at the end of each second.
fn stall_now_and_then(segment: &mut Segment, stall: Duration, times: u32) {
    for _ in 0..times {
        segment.run(Duration::from_secs(1) - stall);
        segment.stall(2, stall);
        segment.run(stall);
    }
}

#[test]
fn a_late_host_says_so_and_is_waited_for() {
    let mut segment = Segment::converged(3);
    // Less than a period is nothing to speak of.
    stall_now_and_then(&mut segment, TIMING.period * 3 / 4, 3);
    assert_eq!(times(&segment, 2, 105), 0);
    stall_now_and_then(&mut segment, TIMING.period * 5 / 2, 3);
    assert_eq!((times(&segment, 2, 105), times(&segment, 1, 105)), (1, 0));
    let tolerance = |segment: &Segment, of: u8| {
        let peer = segment.host(1).cluster.peers.get(id(of)).unwrap();
        peer.heartbeat.timing.tolerance
    };
    let announced = tolerance(&segment, 2);
    assert!((6..=7).contains(&announced), "{announced}");
    assert_eq!(tolerance(&segment, 3), TIMING.tolerance);
    // It was lost for 4 periods late at first; now it may be 6 late.
    stall_now_and_then(&mut segment, TIMING.period * 4, 2);
    assert_eq!(tolerance(&segment, 2), TIMING.longest().tolerance);
    segment.longest_dark = Duration::ZERO;
    let lost = times(&segment, 1, 1003);
    stall_now_and_then(&mut segment, TIMING.period * 5, 3);
    assert_eq!(
        (times(&segment, 1, 1003), segment.longest_dark),
        (lost, Duration::ZERO),
        "{}",
        segment.account()
    );
    assert_eq!(times(&segment, 2, 105), 1);
    assert_eq!(times(&segment, 2, 106), 0);
    segment.run(TIMING.budget() * 11);
    assert_eq!(times(&segment, 2, 106), 1);
    assert_eq!(tolerance(&segment, 2), TIMING.tolerance);
    assert!(segment.is_converged(&[1, 2, 3]));
}

#[test]
fn a_late_host_that_dies_does_not_take_the_others_along() {
    let mut segment = Segment::converged(3);
    stall_now_and_then(&mut segment, TIMING.period * 4, 2);
    segment.crash(2);
    let share = segment.share(1) + segment.share(3);
    segment.run_until(TIMING.budget() * 4, |segment| {
        assert!(
            segment.share(1) + segment.share(3) >= share,
            "{}",
            segment.account()
        );
        segment.is_converged(&[1, 3])
    });
}

/// The moment in which the tolerance shrinks is the dangerous one: a lease may still hang on the longer one.
#[test]
fn nobody_takes_over_too_early_when_a_tolerance_shrinks() {
    for millis in (0..1200).step_by(23) {
        let mut segment = Segment::converged(3);
        stall_now_and_then(&mut segment, TIMING.period * 4, 1);
        segment.run(LATENCY * 2);
        let on_time_again = TIMING.budget() * 10;
        segment.run(on_time_again - Duration::from_millis(600) + Duration::from_millis(millis));
        segment.kill(2);
        // Some of its last heartbeats have been lost to one of the others, too.
        let end = segment.now + TIMING.budget() * 4;
        while segment.step(end) {
            segment.check_fencing();
            assert_eq!(segment.coverage().1, 0, "{millis}: {}", segment.account());
        }
        segment.run_until_converged(&[1, 3]);
    }
}

#[test]
fn a_shorter_tolerance_never_brings_an_expiry_forward() {
    let mut segment = Segment::converged(3);
    stall_now_and_then(&mut segment, TIMING.period * 4, 1);
    let mut before = [crate::time::Time::ZERO; 2];
    for _ in 0..200 {
        segment.run(TIMING.period / 2);
        for (index, before) in [0, 2].into_iter().zip(&mut before) {
            let peer = segment.hosts[index].cluster.peers.get(id(2)).unwrap();
            assert!(peer.alive_until >= *before);
            *before = peer.alive_until;
        }
    }
    assert!(
        times(&segment, 2, 106) == 1 && segment.host(2).cluster.outlook.view == set(&[1, 2, 3])
    );
}
