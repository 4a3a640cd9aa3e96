//! Joining, leaving, rules and identity: what happens when nothing fails.

use super::super::{Command, Input, Output};
use super::segment::{LATENCY, Segment, TIMING, config, set, vip, web_rules};
use crate::event::Event;
use crate::rules::{Claim, RuleSet};
use covey_filter::BUCKETS;
use std::sync::Arc;
use std::time::Duration;

/// The coordinator puts a map in force when it sends the commit, the others when it arrives; a bucket may be
/// without an owner for as long as that frame travels.
const BLINK: Duration = Duration::from_micros(2 * LATENCY.as_micros() as u64);

#[test]
fn three_hosts_share_evenly_and_cover_everything() {
    let segment = Segment::converged(3);
    assert_eq!(segment.coverage(), (0, 0));
    for host in 1..=3 {
        assert!(
            (1365..=1366).contains(&segment.share(host)),
            "{}",
            segment.share(host)
        );
    }
    assert!(
        segment.host(1).saw(|event| event.id() == 29),
        "host 1 is the default host"
    );
    assert!(segment.host(2).saw(|event| event.id() == 28));
}

#[test]
fn a_host_that_hears_nobody_serves_alone_after_listening() {
    let mut segment = Segment::new([config(4)]);
    segment.start_all();
    let took = segment.run_until_converged(&[4]);
    assert!(
        took >= TIMING.longest().budget() && took < TIMING.longest().expiry() + TIMING.period,
        "{took:?}"
    );
    assert_eq!(segment.share(4), BUCKETS);
}

#[test]
fn sixty_four_hosts_converge() {
    let hosts: Vec<u8> = (1..=64).collect();
    let segment = Segment::converged(64);
    assert!(segment.is_converged(&hosts));
    assert_eq!(segment.coverage(), (0, 0));
    let longest = segment.recorded.iter().map(Vec::len).max().unwrap();
    assert!(
        longest <= 1514,
        "a heartbeat of {longest} bytes does not fit a frame"
    );
}

#[test]
fn many_hosts_that_start_within_a_period_get_to_know_each_other() {
    let hosts: Vec<u8> = (1..=32).collect();
    let mut segment = Segment::new(hosts.iter().copied().map(config));
    for host in &hosts {
        segment.command_to(*host, Command::Start);
        segment.run(TIMING.period / 40);
    }
    let took = segment.run_until_converged(&hosts);
    assert!(took < TIMING.budget() * 3, "{took:?}");
}

#[test]
fn a_joining_host_takes_exactly_its_share_and_nothing_is_dark_meanwhile() {
    let mut segment = Segment::new([1, 2, 3].map(config));
    segment.command_to(1, Command::Start);
    segment.command_to(2, Command::Start);
    segment.run_until_converged(&[1, 2]);
    let before: Vec<u8> = (0..BUCKETS).map(|b| owner(&segment, b)).collect();
    segment.command_to(3, Command::Start);
    segment.longest_dark = Duration::ZERO;
    let took = segment.run_until_converged(&[1, 2, 3]);
    assert!(segment.longest_dark <= BLINK, "{:?}", segment.longest_dark);
    assert!(took < TIMING.period * 4, "{took:?}");
    let moved = (0..BUCKETS)
        .filter(|b| owner(&segment, *b) != before[*b])
        .count();
    assert_eq!(moved, segment.share(3));
    assert!((1365..=1366).contains(&moved));
}

fn owner(segment: &Segment, bucket: usize) -> u8 {
    let owners: Vec<u8> = (1..=3)
        .filter(|host| segment.host(*host).serves(segment.now, bucket))
        .collect();
    assert_eq!(owners.len(), 1);
    owners[0]
}

#[test]
fn a_stopping_host_hands_over_before_it_goes() {
    for leaver in 1..=3u8 {
        let mut segment = Segment::converged(3);
        segment.command_to(leaver, Command::Stop);
        let took = segment.run_until(Duration::from_secs(2), |segment| {
            segment
                .host(leaver)
                .saw(|event| matches!(event, Event::Stopped { .. }))
        });
        assert!(took < TIMING.period * 2, "{took:?}");
        let rest: Vec<u8> = (1..=3).filter(|host| *host != leaver).collect();
        segment.run_until_converged(&rest);
        assert_eq!(segment.coverage(), (0, 0));
        assert_eq!(segment.share(leaver), 0);
        assert!(segment.longest_dark <= BLINK, "{:?}", segment.longest_dark);
        assert!(
            segment
                .host(rest[0])
                .saw(|event| matches!(event, Event::HostLeft { .. }))
        );
        // And back again.
        segment.command_to(leaver, Command::Start);
        let counted = segment
            .host(leaver)
            .cluster
            .snapshot(segment.now)
            .times_converging;
        assert_eq!(counted, 1, "joining is the first time");
        segment.run_until_converged(&[1, 2, 3]);
        assert_eq!(segment.coverage(), (0, 0));
    }
}

#[test]
fn a_start_interrupts_a_stop() {
    let mut segment = Segment::converged(2);
    segment.command_to(2, Command::Stop);
    segment.command_to(2, Command::Start);
    segment.run(TIMING.budget());
    assert!(segment.is_converged(&[1, 2]), "{}", segment.account());
    assert!(segment.host(2).saw(|event| event.id() == 1010));
}

#[test]
fn everybody_can_stop_the_last_one_too() {
    let mut segment = Segment::converged(2);
    for host in [1, 2] {
        segment.command_to(host, Command::Stop);
    }
    segment.run_until(TIMING.budget() * 4, |segment| {
        [1, 2]
            .iter()
            .all(|host| segment.host(*host).saw(|event| event.id() == 6))
    });
    assert_eq!(segment.coverage().0, BUCKETS);
}

#[test]
fn weights_change_by_reload_on_one_host() {
    let mut segment = Segment::converged(2);
    let rules = Arc::new(web_rules(80));
    segment.command_to(
        2,
        Command::Reload {
            rules,
            claims: vec![Claim(25)],
        },
    );
    segment.run_until(Duration::from_secs(1), |segment| {
        segment.is_converged(&[1, 2]) && segment.share(2) < 2000
    });
    assert!(segment.longest_dark <= BLINK, "{:?}", segment.longest_dark);
    // 50 to 25: two thirds and one third.
    assert!(
        (2730..=2731).contains(&segment.share(1)),
        "{}",
        segment.share(1)
    );
}

#[test]
fn rules_change_when_all_members_offer_them() {
    let mut segment = Segment::converged(3);
    let new_rules = Arc::new(web_rules(8080));
    let reload = || Command::Reload {
        rules: new_rules.clone(),
        claims: vec![Claim::EQUAL_WEIGHT],
    };
    segment.command_to(1, reload());
    segment.command_to(2, reload());
    segment.run(TIMING.budget());
    let in_force = segment.host(1).cluster.snapshot(segment.now).rules.digest();
    assert_ne!(
        in_force,
        new_rules.digest(),
        "host 3 does not offer them yet"
    );
    assert!(segment.is_converged(&[1, 2, 3]), "{}", segment.account());
    segment.command_to(3, reload());
    segment.run_until(Duration::from_secs(1), |segment| {
        (1..=3).all(|host| {
            segment
                .host(host)
                .cluster
                .snapshot(segment.now)
                .rules
                .digest()
                == new_rules.digest()
        })
    });
    segment.run_until_converged(&[1, 2, 3]);
    assert_eq!(segment.coverage(), (0, 0));
    assert!(segment.longest_dark <= BLINK, "{:?}", segment.longest_dark);
}

#[test]
fn only_the_host_with_odd_rules_is_kept_out() {
    let mut odd = config(1);
    odd.rules = RuleSet::new(vec![vip()], vec![]).unwrap();
    odd.claims = vec![];
    let mut segment = Segment::new([odd, config(2), config(3)]);
    segment.start_all();
    segment.run_until_converged(&[2, 3]);
    segment.run(TIMING.budget() * 2);
    assert!(segment.is_converged(&[2, 3]), "{}", segment.account());
    assert!(
        segment
            .host(2)
            .saw(|event| matches!(event, Event::RulesDiffer { .. }))
    );
    let waiting = segment.host(1).cluster.snapshot(segment.now).waiting_for;
    assert_eq!(
        waiting.as_deref(),
        Some(
            "this host has other virtual IPs or port rules than host 2 (h2): it has 1 port rule, this host has 0"
        )
    );
}

#[test]
fn a_second_host_with_a_taken_id_stays_out() {
    let mut twin = config(2);
    twin.mac.0[5] = 99;
    twin.dip = "10.77.0.99".parse().unwrap();
    twin.incarnation.0 += 77;
    let mut both = Segment::new([config(1), config(2), twin]);
    both.command_to(1, Command::Start);
    both.command_to(2, Command::Start);
    both.run_until_converged(&[1, 2]);
    both.command(2, Command::Start);
    both.run(TIMING.budget() * 3);
    assert!(both.is_converged(&[1, 2]), "{}", both.account());
    assert_eq!(both.hosts[2].cluster.snapshot(both.now).view, set(&[]));
    let is_duplicate = |event: &Event| matches!(event, Event::DuplicateId { .. });
    assert!(both.hosts[1].saw(is_duplicate) && both.hosts[2].saw(is_duplicate));
}

#[test]
fn a_host_with_another_key_is_not_heard() {
    let mut stranger = config(3);
    stranger.auth = crate::config::Auth::Keys(vec![crate::config::Key {
        id: 1,
        secret: [8; 32],
    }]);
    let mut segment = Segment::new([config(1), config(2), stranger]);
    segment.start_all();
    segment.run_until_converged(&[1, 2]);
    let bad = segment
        .host(1)
        .cluster
        .rejected()
        .find(|(reason, _)| reason.label() == "bad_signature_tag");
    assert!(bad.unwrap().1 > 0);
}

#[test]
fn recorded_frames_convince_nobody() {
    // Host 3 was there, left, and somebody replays all it ever said.
    let mut segment = Segment::converged(3);
    segment.command_to(3, Command::Stop);
    segment.run_until_converged(&[1, 2]);
    let from_three = |frame: &&Vec<u8>| frame[6..12] == [2, 0, 0, 0, 0, 3];
    let recorded: Vec<Vec<u8>> = segment
        .recorded
        .iter()
        .filter(from_three)
        .cloned()
        .collect();
    assert!(recorded.len() > 10);
    for frame in recorded.iter().cloned() {
        segment.inject(frame);
        segment.run(LATENCY * 50);
        assert!(segment.is_converged(&[1, 2]), "{}", segment.account());
    }
    // Nor does it after host 1 has forgotten host 3 by a restart.
    segment.restart(1);
    segment.run_until_converged(&[1, 2]);
    for frame in recorded {
        segment.inject(frame);
        segment.run(LATENCY * 50);
        assert!(segment.is_converged(&[1, 2]), "{}", segment.account());
    }
}

#[test]
fn a_returning_host_waits_for_no_period() {
    for phase in 0..25 {
        let mut segment = Segment::converged(3);
        segment.crash(2);
        segment.run_until_converged(&[1, 3]);
        segment.run(Duration::from_millis(phase * 4));
        segment.restart(2);
        let took = segment.run_until_converged(&[1, 2, 3]);
        assert!(
            took < TIMING.period / 2,
            "phase {phase}: {took:?} {}",
            segment.account()
        );
    }
}

/// Frames with random changes, from a generator that needs no seed file (xorshift64*, Vigna 2016).
fn spoilt(good: &[u8], state: &mut u64) -> Vec<u8> {
    let mut random = || {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D) as usize
    };
    let mut frame = good.to_vec();
    for _ in 0..random() % 4 {
        let at = random() % frame.len();
        frame[at] = random() as u8;
    }
    frame.truncate(random() % (frame.len() * 2));
    frame
}

#[test]
fn a_million_spoilt_frames_neither_crash_nor_grow_a_host() {
    // Without a key every frame that parses is believed to be a host's.
    let open = |host| {
        let mut config = config(host);
        config.auth = crate::config::Auth::None;
        config
    };
    let mut segment = Segment::new([1, 2, 3].map(open));
    segment.start_all();
    segment.run_until_converged(&[1, 2, 3]);
    let good = std::mem::take(&mut segment.recorded);
    let (now, mut state) = (segment.now, 0xC0FFEE);
    let cluster = &mut segment.hosts[0].cluster;
    for round in 0..1_000_000 {
        let frame = spoilt(&good[round % good.len()], &mut state);
        cluster.handle_input(now, Input::Frame(&frame));
        while !matches!(cluster.poll_output(), Output::Wait(_)) {}
    }
    assert!(cluster.snapshot(now).members.len() <= 63);
    assert!(
        cluster.peers.echoes().len() <= 64 * 3,
        "at most two candidates for each ID"
    );
}
