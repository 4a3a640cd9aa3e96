//! Crashes, stalls, one-way links, partitions and loss.

use super::super::Command;
use super::super::flapping::LONGEST_WAIT;
use super::segment::{LATENCY, Segment, TIMING, config, id, is_probe, set, web_rules};
use crate::config::Quorum;
use crate::event::Event;
use crate::rules::Claim;
use crate::wire::ethernet;
use covey_filter::BUCKETS;
use proptest::prelude::*;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_crash_costs_only_the_dead_hosts_share_for_the_detection_time() {
    for dead in 1..=3u8 {
        let mut segment = Segment::converged(3);
        segment.run(Duration::from_millis(137));
        let share = segment.share(dead);
        segment.crash(dead);
        let rest: Vec<u8> = (1..=3).filter(|host| *host != dead).collect();
        let took = segment.run_until(Duration::from_secs(2), |segment| {
            assert!(
                segment.coverage().0 <= share,
                "more than the dead host's share is dark"
            );
            segment.is_converged(&rest)
        });
        // Two exchanges at the spacing of urgent heartbeats.
        let bound = TIMING.expiry() + TIMING.period / 5 + LATENCY * 4;
        assert!(took <= bound, "{took:?}, bound {bound:?}");
        assert_eq!(segment.coverage(), (0, 0));
        segment.restart(dead);
        segment.run_until_converged(&[1, 2, 3]);
        assert_eq!(segment.coverage(), (0, 0));
    }
}

#[test]
fn of_two_hosts_the_survivor_takes_over_alone() {
    let mut segment = Segment::converged(2);
    segment.crash(1);
    let took = segment.run_until_converged(&[2]);
    assert!(took <= TIMING.expiry() + TIMING.period, "{took:?}");
    assert_eq!(segment.share(2), BUCKETS);
}

#[test]
fn a_stalled_host_is_silent_before_the_others_take_over_and_after_it_wakes() {
    for percent in [50, 90, 110, 300] {
        for offset in [0, 13, 50, 87] {
            let mut segment = Segment::converged(3);
            segment.run(Duration::from_millis(offset));
            let share = segment.share(2);
            segment.stall(2, TIMING.budget() * percent / 100);
            let end = segment.now + TIMING.budget() * percent / 100 + TIMING.budget() * 4;
            while segment.step(end) {
                segment.check_fencing();
                assert!(segment.coverage().0 <= share, "{}", segment.account());
            }
            segment.run_until_converged(&[1, 2, 3]);
            assert_eq!(segment.coverage(), (0, 0));
            let fenced = segment
                .host(2)
                .saw(|event| matches!(event, Event::Fenced { .. }));
            // At 90 % it depends on when in the period the stall began.
            assert!(
                percent == 90 || fenced == (percent > 90),
                "{percent} %: {}",
                segment.account()
            );
        }
    }
}

#[test]
fn a_killed_daemon_leaves_a_data_path_that_fences_itself() {
    let mut segment = Segment::converged(3);
    segment.kill(2);
    segment.run_until_converged(&[1, 3]);
    assert_eq!(segment.share(2), 0);
    assert_eq!(segment.coverage(), (0, 0));
}

#[test]
fn a_mute_host_stops_serving_and_is_left_out() {
    let mut segment = Segment::converged(3);
    segment.loss = Box::new(|from, _, _| from == id(2));
    segment.run_until_converged(&[1, 3]);
    assert_eq!(segment.share(2), 0);
    segment.run(TIMING.budget() * 4);
    assert_eq!(
        segment.share(2),
        0,
        "it hears the others, so it does not converge alone"
    );
    segment.loss = Box::new(|_, _, _| false);
    segment.run_until_converged(&[1, 2, 3]);
}

#[test]
fn a_deaf_host_is_left_out_and_fences_itself() {
    let mut segment = Segment::converged(3);
    segment.loss = Box::new(|_, to, frame| to == id(2) && frame.ethertype == ethernet::HEARTBEAT);
    segment.run_until_converged(&[1, 3]);
    segment.run(TIMING.budget() * 4);
    assert_eq!(
        segment.share(2),
        0,
        "the others answer ARP, so it stays fenced"
    );
    assert!(
        segment
            .host(2)
            .saw(|event| matches!(event, Event::HeartbeatsBlocked { .. }))
    );
    segment.loss = Box::new(|_, _, _| false);
    segment.run_until_converged(&[1, 2, 3]);
}

#[test]
fn a_host_that_only_transmits_does_not_take_the_others_along() {
    for dead in 1..=3u8 {
        let mut segment = Segment::converged(3);
        segment.split = true;
        segment.loss = Box::new(move |from, to, frame| {
            to == id(dead) || (from == id(dead) && frame.ethertype == ethernet::ARP)
        });
        let rest: Vec<u8> = (1..=3).filter(|host| *host != dead).collect();
        segment.run_until_converged(&rest);
        segment.run(TIMING.budget() * 10);
        assert!(segment.is_converged(&rest), "{}", segment.account());
    }
}

#[test]
fn a_lost_weight_change_delays_but_does_not_block() {
    let mut segment = Segment::converged(3);
    let mut lost = false;
    segment.loss = Box::new(move |from, to, _| {
        let first = !lost && (from, to) == (id(3), id(2));
        lost |= first;
        first
    });
    let rules = Arc::new(web_rules(80));
    segment.command_to(
        3,
        Command::Reload {
            rules,
            claims: vec![Claim(10)],
        },
    );
    segment.run_until(TIMING.period * 4, |segment| {
        segment.is_converged(&[1, 2, 3]) && segment.share(3) < 400
    });
}

#[test]
fn a_newcomer_that_gets_no_map_costs_nobody_the_lease() {
    let mut segment = Segment::new((1..=4).map(config));
    for host in 1..=3 {
        segment.command_to(host, Command::Start);
    }
    segment.run_until_converged(&[1, 2, 3]);
    segment.run(LATENCY * 3);
    segment.longest_dark = Duration::ZERO;
    let is_chunk =
        |payload: &[u8]| payload.windows(2).any(|bytes| bytes == [0xC9, 0]) && payload.len() < 400;
    segment.loss = Box::new(move |_, to, frame| {
        to == id(4) && frame.ethertype == ethernet::HEARTBEAT && is_chunk(frame.payload)
    });
    segment.command_to(4, Command::Start);
    segment.run(TIMING.budget() * 6);
    assert_eq!(
        segment.longest_dark,
        Duration::ZERO,
        "{}",
        segment.account()
    );
}

#[test]
fn recorded_frames_do_not_keep_a_survivor_from_serving() {
    let mut segment = Segment::converged(2);
    let from_two = |frame: &&Vec<u8>| frame[6..12] == [2, 0, 0, 0, 0, 2];
    let first = segment.recorded.iter().find(from_two).cloned().unwrap();
    segment.restart(2);
    segment.run_until_converged(&[1, 2]);
    segment.crash(2);
    let end = segment.now + TIMING.budget() * 6;
    while segment.now < end {
        segment.inject(first.clone());
        segment.run(TIMING.period);
    }
    assert_eq!(segment.share(1), BUCKETS, "{}", segment.account());
}

#[test]
fn epochs_never_go_backwards() {
    let mut segment = Segment::converged(3);
    let before = segment.host(1).cluster.snapshot(segment.now).epoch;
    // Nobody hears anybody for a while, and the switch answers for all machines: everybody is fenced.
    segment.loss = Box::new(|_, _, frame| frame.ethertype == ethernet::HEARTBEAT);
    segment.run(TIMING.budget() * 3);
    assert_eq!(segment.coverage().0, BUCKETS);
    segment.loss = Box::new(|_, _, _| false);
    segment.run_until_converged(&[1, 2, 3]);
    assert!(segment.host(1).cluster.snapshot(segment.now).epoch > before);
}

#[test]
fn a_pair_that_cannot_hear_each_other_costs_one_host() {
    let mut segment = Segment::converged(3);
    segment.loss = Box::new(|from, to, _| [(id(2), id(3)), (id(3), id(2))].contains(&(from, to)));
    segment.run_until_converged(&[1, 2]);
    segment.run(TIMING.budget() * 2);
    assert_eq!((segment.coverage(), segment.share(3)), ((0, 0), 0));
    let waiting = segment
        .host(3)
        .cluster
        .snapshot(segment.now)
        .waiting_for
        .unwrap();
    assert_eq!(
        waiting,
        "this host does not hear host(s) 2, which others hear"
    );
    segment.loss = Box::new(|_, _, _| false);
    segment.run_until_converged(&[1, 2, 3]);
}

#[test]
fn two_proposers_that_do_not_hear_each_other_do_not_wait_for_each_other() {
    for skipped in 0..300 {
        let mut segment = Segment::new((1..=4).map(config));
        let mut frames = 0;
        segment.loss = Box::new(move |from, to, _| {
            // A lost frame here or there decides whom each of the others hears first.
            frames += 1;
            frames == skipped || [(id(1), id(2)), (id(2), id(1))].contains(&(from, to))
        });
        segment.start_all();
        segment.run_until(TIMING.budget() * 4, |segment| {
            segment.is_converged(&[1, 3, 4]) || segment.is_converged(&[2, 3, 4])
        });
    }
}

#[test]
fn blocked_broadcasts_are_survived_by_direct_heartbeats() {
    let mut segment = Segment::converged(3);
    segment.loss = Box::new(|_, _, frame| {
        frame.ethertype == ethernet::HEARTBEAT && frame.destination == crate::ids::Mac::BROADCAST
    });
    segment.run(TIMING.budget() * 6);
    assert!(segment.is_converged(&[1, 2, 3]), "{}", segment.account());
    assert_eq!(segment.coverage(), (0, 0));
    assert!(
        segment
            .host(1)
            .saw(|event| matches!(event, Event::BroadcastBlocked { .. }))
    );
}

#[test]
fn without_the_fallback_blocked_broadcasts_leave_every_host_alone() {
    let alone = |host| {
        let mut config = config(host);
        config.unicast_fallback = false;
        config
    };
    let mut segment = Segment::new([1, 2].map(alone));
    segment.start_all();
    segment.run_until_converged(&[1, 2]);
    segment.split = true;
    segment.loss = Box::new(|_, _, frame| frame.ethertype == ethernet::HEARTBEAT);
    segment.run(TIMING.budget() * 4);
    // As KB812870 shows it: each converged with itself only.
    assert!(
        segment.is_converged(&[1]) && segment.is_converged(&[2]),
        "{}",
        segment.account()
    );
    segment.loss = Box::new(|_, _, _| false);
    segment.run_until_converged(&[1, 2]);
    assert_eq!(segment.coverage(), (0, 0));
}

#[test]
fn both_parts_of_a_split_serve_and_merge_again() {
    let mut segment = Segment::converged(4);
    let low = set(&[1, 2]);
    segment.split = true;
    segment.loss = Box::new(move |from, to, _| low.contains(from) != low.contains(to));
    segment.run_until(TIMING.budget() * 4, |segment| {
        segment.is_converged(&[1, 2]) && segment.is_converged(&[3, 4])
    });
    segment.loss = Box::new(|_, _, _| false);
    segment.run_until_converged(&[1, 2, 3, 4]);
    assert_eq!(segment.coverage(), (0, 0));
}

#[test]
fn with_a_majority_quorum_only_the_larger_part_serves() {
    let quorate = |host| {
        let mut config = config(host);
        config.quorum = Quorum::Majority(5);
        config
    };
    let mut segment = Segment::new((1..=5).map(quorate));
    segment.start_all();
    segment.run_until_converged(&[1, 2, 3, 4, 5]);
    let small = set(&[1, 2]);
    segment.loss = Box::new(move |from, to, _| small.contains(from) != small.contains(to));
    segment.run_until_converged(&[3, 4, 5]);
    segment.run(TIMING.budget() * 3);
    assert_eq!((segment.share(1), segment.share(2)), (0, 0));
    assert_eq!(segment.coverage(), (0, 0));
}

/// What happens in one slot of a random schedule.
#[derive(Clone, Copy, Debug)]
enum Mishap {
    Nothing,
    Stall(u8, u16),
    Crash(u8),
    Kill(u8),
    Restart(u8),
    Upgrade(u8, u16),
    Stop(u8),
    Start(u8),
    Cut(u8, u8),
    Mend,
}

fn mishap() -> impl Strategy<Value = Mishap> {
    let host = 1u8..=4;
    prop_oneof![
        3 => Just(Mishap::Nothing),
        3 => (host.clone(), 1u16..2500).prop_map(|(host, ms)| Mishap::Stall(host, ms)),
        1 => host.clone().prop_map(Mishap::Crash),
        1 => host.clone().prop_map(Mishap::Kill),
        2 => host.clone().prop_map(Mishap::Restart),
        2 => (host.clone(), 0u16..900).prop_map(|(host, ms)| Mishap::Upgrade(host, ms)),
        1 => host.clone().prop_map(Mishap::Stop),
        1 => host.clone().prop_map(Mishap::Start),
        2 => (host.clone(), host).prop_map(|(from, to)| Mishap::Cut(from, to)),
        2 => Just(Mishap::Mend),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// A loss schedule that shrinks: as long as no link loses more than the tolerance allows in a row, the
    /// cluster stays as it is.
    #[test]
    fn bounded_loss_changes_nothing(schedule in proptest::collection::vec(any::<bool>(), 1..64)) {
        let mut segment = Segment::converged(3);
        let before = segment.host(1).cluster.snapshot(segment.now).epoch;
        let state = Rc::new(RefCell::new((0usize, [[0u8; 4]; 4])));
        segment.loss = Box::new(move |from, to, frame| {
            let (at, in_a_row) = &mut *state.borrow_mut();
            *at += 1;
            if is_probe(frame) {
                // It neither is one in a row of heartbeats nor ends one.
                return schedule[*at % schedule.len()];
            }
            let count = &mut in_a_row[usize::from(from.get())][usize::from(to.get())];
            let lose = schedule[*at % schedule.len()] && *count == 0;
            *count = u8::from(lose);
            lose
        });
        segment.run(TIMING.budget() * 4);
        prop_assert_eq!(segment.host(1).cluster.snapshot(segment.now).epoch, before);
        prop_assert_eq!(segment.coverage(), (0, 0));
    }

    /// Whatever happens: nobody serves who was left out (checked at every step), and when it is over the
    /// cluster is whole again.
    #[test]
    fn any_mishaps_are_survived(
        mishaps in proptest::collection::vec((mishap(), 1u16..900), 1..14),
        loss in 0u8..20,
    ) {
        let mut segment = Segment::converged(4);
        let cuts: Rc<RefCell<Vec<(u8, u8)>>> = Rc::default();
        let (cut, mut frames) = (cuts.clone(), 0u32);
        segment.loss = Box::new(move |from, to, _| {
            frames = frames.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            cut.borrow().contains(&(from.get(), to.get())) || (frames >> 16) % 100 < u32::from(loss)
        });
        for (mishap, pause) in mishaps {
            match mishap {
                Mishap::Nothing => {}
                Mishap::Stall(host, ms) => segment.stall(host, Duration::from_millis(ms.into())),
                Mishap::Crash(host) => segment.crash(host),
                Mishap::Kill(host) => segment.kill(host),
                // A host that starts while it cannot hear the others is a split: each part may serve.
                Mishap::Restart(host) => {
                    cuts.borrow_mut().clear();
                    segment.restart(host);
                }
                Mishap::Upgrade(host, ms) if segment.host(host).runs(segment.now) => {
                    segment.upgrade(host, Duration::from_millis(ms.into()));
                }
                Mishap::Stop(host) if segment.host(host).running => {
                    segment.command_to(host, Command::Stop);
                }
                Mishap::Start(host) if segment.host(host).running => {
                    cuts.borrow_mut().clear();
                    segment.command_to(host, Command::Start);
                }
                Mishap::Upgrade(..) | Mishap::Stop(_) | Mishap::Start(_) => {}
                // One at a time: more could split the segment, where each part may serve.
                Mishap::Cut(from, to) => *cuts.borrow_mut() = vec![(from, to)],
                Mishap::Mend => cuts.borrow_mut().clear(),
            }
            segment.run(Duration::from_millis(pause.into()));
        }
        segment.loss = Box::new(|_, _, _| false);
        for host in 1..=4 {
            if segment.host(host).running {
                segment.run(TIMING.budget() * 4);
                segment.command_to(host, Command::Start);
            } else {
                segment.restart(host);
            }
        }
        // Whoever was lost again and again is kept out for a while.
        let longest = TIMING.budget() * (10 + LONGEST_WAIT);
        segment.run_until(longest, |segment| segment.is_converged(&[1, 2, 3, 4]));
        prop_assert_eq!(segment.coverage(), (0, 0));
    }
}

#[test]
fn a_frame_of_an_earlier_start_that_comes_late_or_again_costs_nobody_the_lease() {
    let mut segment = Segment::converged(3);
    let source = |frame: &Vec<u8>| ethernet::Ethernet::parse(frame).unwrap().source;
    let mut late = segment.recorded.clone();
    late.retain(|frame| source(frame) == config(3).mac);
    segment.restart(3);
    segment.run_until_converged(&[1, 2, 3]);
    // Again and again, for as long as a lease lasts.
    for _ in 0..8 {
        late.iter().for_each(|frame| segment.inject(frame.clone()));
        segment.run(TIMING.budget() / 4);
        assert!(segment.is_converged(&[1, 2, 3]), "{}", segment.account());
    }
    assert_eq!(segment.count(2, |event| event.id() == 1004), 0);
}
