//! A daemon that is replaced in place: the next one is the same host, and nobody notices.

use super::super::{
    Cluster, Command, EXPORT_FORMAT, HostState, ImportError, Input, Output, RuleChange,
};
use super::operate::{COUNTED, check_connections, open, overlap, rules};
use super::segment::{LATENCY, Segment, TIMING, config, id, web_rules};
use crate::config::Timing;
use crate::event::Event;
use crate::ids::{HostId, Mac};
use crate::rules::Claim;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

/// Forgets what the hosts have told of so far.
fn forget_events(segment: &mut Segment) {
    segment
        .hosts
        .iter_mut()
        .for_each(|host| host.events.clear());
}

fn told(segment: &Segment) -> Vec<(HostId, String)> {
    let of = |host: &super::segment::Host| {
        let id = host.config.host;
        let texts = host.events.iter().map(|(_, event)| event.to_string());
        texts.map(|text| (id, text)).collect::<Vec<_>>()
    };
    segment.hosts.iter().flat_map(of).collect()
}

fn epoch(segment: &Segment, host: u8) -> u64 {
    segment.host(host).cluster.snapshot(segment.now).epoch.0
}

#[test]
fn hosts_are_upgraded_again_and_again_and_nobody_notices() {
    for gap in [0, 1, 37, 99, 101, 250] {
        let mut segment = Segment::converged(3);
        segment.run(COUNTED);
        forget_events(&mut segment);
        segment.longest_dark = Duration::ZERO;
        let before = epoch(&segment, 1);
        for round in 0..15 {
            let host = 1 + round % 3;
            segment.run(Duration::from_millis(u64::from(round) * 17));
            assert!(segment.upgrade(host, Duration::from_millis(gap)));
            segment.run(TIMING.period * 3);
        }
        segment.run(TIMING.budget() * 4);
        assert_eq!(told(&segment), [], "after gaps of {gap} ms");
        assert!(segment.is_converged(&[1, 2, 3]));
        assert_eq!(epoch(&segment, 2), before);
        assert_eq!(segment.longest_dark, Duration::ZERO);
        assert_eq!(segment.coverage(), (0, 0));
    }
}

#[test]
fn a_host_alone_is_upgraded_too() {
    let mut segment = Segment::converged(1);
    forget_events(&mut segment);
    for _ in 0..5 {
        assert!(segment.upgrade(1, Duration::from_millis(200)));
        segment.run(TIMING.budget());
    }
    assert_eq!(
        (told(&segment), segment.longest_dark),
        (vec![], Duration::ZERO)
    );
}

#[test]
fn a_daemon_that_comes_too_late_finds_its_host_fenced() {
    let mut segment = Segment::converged(3);
    segment.run(COUNTED);
    assert!(segment.upgrade(2, TIMING.expiry() + TIMING.period));
    assert_eq!(segment.share(2), 0, "its lease has run out");
    assert!(
        segment
            .host(2)
            .saw(|event| matches!(event, Event::Fenced { .. }))
    );
    segment.run_until_converged(&[1, 2, 3]);
    assert_eq!(segment.coverage(), (0, 0));
}

#[test]
fn a_host_that_is_fenced_as_it_is_taken_over_speaks_every_period() {
    let mut segment = Segment::converged(3);
    segment.run(COUNTED);
    assert!(segment.upgrade(1, TIMING.budget() + TIMING.period));
    let before = segment.host(1).cluster.sequence;
    segment.run(TIMING.budget() * 4);
    let sent = segment.host(1).cluster.sequence - before;
    assert!(sent >= 4 * u64::from(TIMING.tolerance), "{sent} frames");
    assert!(segment.is_converged(&[1, 2, 3]));
}

#[test]
fn a_crash_while_another_host_is_upgraded_is_detected_as_ever() {
    for gap in [10, 90, 300] {
        let mut segment = Segment::converged(3);
        segment.run(COUNTED);
        let crashed = segment.now;
        segment.crash(3);
        assert!(segment.upgrade(2, Duration::from_millis(gap)));
        segment.run_until_converged(&[1, 2]);
        // Whoever was away for more than a period listens anew.
        let listens = if gap > 100 {
            Duration::from_millis(gap)
        } else {
            Duration::ZERO
        };
        let bound = TIMING.expiry() + listens + TIMING.period / 5 + LATENCY * 4;
        let took = segment.now.since(crashed);
        assert!(took <= bound, "{took:?} after a gap of {gap} ms");
        assert_eq!(segment.coverage(), (0, 0));
    }
}

#[test]
fn what_is_under_way_goes_on_after_the_coordinator_is_upgraded() {
    let mut segment = Segment::new((1..=3).map(config));
    segment.start_all_but(2);
    segment.run_until_converged(&[1, 2]);
    segment.run(COUNTED);
    segment.command_to(3, Command::Start);
    // Again and again, at every moment of the joining at which it can be.
    let mut upgrades = 0;
    for _ in 0..400 {
        upgrades += u32::from(segment.upgrade(1, Duration::ZERO));
        segment.run(Duration::from_micros(150));
    }
    assert!(upgrades > 100);
    segment.run_until_converged(&[1, 2, 3]);
    assert_eq!(segment.coverage(), (0, 0));
}

#[test]
fn another_configuration_binds_as_after_a_reload() {
    let mut segment = Segment::converged(2);
    segment.run(COUNTED);
    for host in 1..=2 {
        let index = segment.index(host);
        segment.hosts[index].config.rules = web_rules(8080);
        segment.hosts[index].config.claims = vec![Claim(10)];
        assert!(segment.upgrade(host, LATENCY));
    }
    segment.run_until(TIMING.budget() * 4, |segment| {
        let rules = &segment.host(1).cluster.snapshot(segment.now).rules;
        rules.rules()[0].start == 8080 && segment.is_converged(&[1, 2])
    });
}

#[test]
fn connections_stay_where_they_are() {
    let mut segment = Segment::new((1..=3).map(config));
    segment.start_all_but(2);
    segment.run_until_converged(&[1, 2]);
    segment.run(COUNTED);
    open(&mut segment, 40_000..40_200);
    segment.command_to(3, Command::Start);
    segment.run_until_converged(&[1, 2, 3]);
    segment.run(COUNTED);
    let before = (overlap(&segment, 1), overlap(&segment, 3));
    assert!(before.0.1 > 0 && before.1.0 > 0);
    for host in [1, 3, 2] {
        assert!(segment.upgrade(host, Duration::from_millis(50)));
        check_connections(&segment, &[1, 2, 3]);
        segment.run(COUNTED);
        check_connections(&segment, &[1, 2, 3]);
    }
    assert_eq!((overlap(&segment, 1), overlap(&segment, 3)), before);
}

#[test]
fn what_the_operator_wanted_stays() {
    let mut segment = Segment::converged(2);
    segment.command_to(1, rules(RuleChange::Drain, 80));
    segment.command_to(2, Command::Suspend);
    segment.run(TIMING.budget() * 4);
    let drained = segment.host(1).cluster.port_states();
    assert_eq!(drained.len(), 1);
    for host in [1, 2] {
        assert!(segment.upgrade(host, LATENCY));
    }
    segment.run(TIMING.period);
    assert_eq!(segment.host(1).cluster.port_states(), drained);
    assert_eq!(segment.host(2).cluster.state(), HostState::Suspended);
}

#[test]
fn nothing_is_handed_over_while_a_map_may_come_into_force() {
    let mut segment = Segment::converged(2);
    segment.run(COUNTED);
    let rules = Arc::new(web_rules(80));
    let claims = vec![Claim(10)];
    segment.command_to(1, Command::Reload { rules, claims });
    segment.run_until(TIMING.budget(), |segment| {
        segment.host(2).cluster.is_bound()
    });
    assert_eq!(segment.host(2).cluster.export(segment.now), None);
    segment.run_until_converged(&[1, 2]);
    segment.command_to(2, Command::Stop);
    assert_eq!(
        segment.host(2).cluster.export(segment.now),
        None,
        "it leaves"
    );
    segment.run(TIMING.budget() * 4);
    assert!(segment.host(2).cluster.export(segment.now).is_some());
}

/// A host with something of everything, and its state.
fn exported() -> (Segment, Vec<u8>) {
    let mut segment = Segment::converged(3);
    open(&mut segment, 40_000..40_100);
    segment.command_to(2, rules(RuleChange::Drain, 80));
    segment.run(COUNTED);
    let state = segment.host(2).cluster.export(segment.now).unwrap();
    (segment, state)
}

#[test]
fn a_state_that_is_taken_over_and_handed_on_is_the_same() {
    let (mut segment, state) = exported();
    let mut next = Cluster::import(segment.host(2).config.clone(), &state, segment.now).unwrap();
    assert_eq!(next.export(segment.now).as_ref(), Some(&state));
    next.handle_input(segment.now, Input::Link(true));
    let (here, there) = (&segment.host(2).cluster, &next);
    let account = |cluster: &Cluster| format!("{:?}", cluster.snapshot(segment.now).members);
    assert_eq!(account(here), account(there));
    segment.take_over(2, &state);
    segment.run(TIMING.budget());
    assert!(segment.is_converged(&[1, 2, 3]));
}

#[test]
fn what_the_next_daemon_does_before_it_listens_is_no_lateness() {
    let (mut segment, state) = exported();
    let config = segment.host(2).config.clone();
    let next = Cluster::import(config, &state, segment.now).unwrap();
    let ready = segment.now + TIMING.period * 3 / 2;
    let index = segment.index(2);
    segment.hosts[index].cluster = next;
    let cluster = &mut segment.hosts[index].cluster;
    cluster.handle_input(ready, Input::Link(true));
    cluster.handle_input(ready, Input::Timer);
    let outputs: Vec<Output> = std::iter::repeat_with(|| cluster.poll_output())
        .take_while(|output| !matches!(output, Output::Wait(_)))
        .collect();
    let speaks = |output: &Output| matches!(output, Output::Transmit(_));
    let tells = |output: &Output| matches!(output, Output::Event(_));
    assert!(outputs.iter().any(speaks), "{outputs:?}");
    assert!(!outputs.iter().any(tells), "{outputs:?}");
}

#[test]
fn a_state_of_another_host_or_time_is_refused() {
    let (segment, state) = exported();
    let (own, now) = (segment.host(2).config.clone(), segment.now);
    let import = |config, state: &[u8], now| Cluster::import(config, state, now).err();
    assert_eq!(import(own.clone(), &state, now), None);
    let early = now - Duration::from_micros(1);
    assert_eq!(
        import(own.clone(), &state, early),
        Some(ImportError::OtherTime)
    );
    let (mut nic, mut key, mut hurried) = (own.clone(), own.clone(), own.clone());
    nic.mac = Mac([2, 0, 0, 0, 9, 9]);
    key.auth = crate::config::Auth::None;
    hurried.timing = Timing {
        period: TIMING.period / 2,
        ..TIMING
    };
    for config in [nic, key, hurried, config(1)] {
        assert_eq!(import(config, &state, now), Some(ImportError::OtherHost));
    }
    let mut newer = state.clone();
    newer[0] += 1;
    let expected = ImportError::Format(EXPORT_FORMAT + 1);
    assert_eq!(import(own, &newer, now), Some(expected));
}

#[test]
fn a_state_that_is_not_whole_is_refused() {
    let (segment, state) = exported();
    let config = segment.host(2).config.clone();
    let mut longer = state.clone();
    longer.push(0);
    let cut = (0..state.len()).step_by(7).map(|length| &state[..length]);
    for state in cut.chain([&longer[..]]) {
        let refused = Cluster::import(config.clone(), state, segment.now).err();
        assert_eq!(refused, Some(ImportError::Damaged), "{} bytes", state.len());
    }
}

proptest! {
    #[test]
    fn damage_never_panics(at in any::<proptest::sample::Index>(), value: u8) {
        thread_local!(static WHOLE: (Segment, Vec<u8>) = exported());
        WHOLE.with(|(segment, state)| {
            let mut state = state.clone();
            *at.get_mut(&mut state) = value;
            if let Ok(mut host) = Cluster::import(segment.host(2).config.clone(), &state, segment.now) {
                host.handle_input(segment.now, Input::Link(true));
                host.handle_input(segment.now + TIMING.period, Input::Timer);
            }
        });
    }
}

#[test]
fn a_stopped_host_is_upgraded_and_joins_as_a_new_start() {
    let mut segment = Segment::converged(2);
    segment.command_to(2, Command::Stop);
    segment.run(TIMING.budget() * 2);
    forget_events(&mut segment);
    assert!(segment.upgrade(2, LATENCY));
    segment.command_to(2, Command::Start);
    segment.run_until_converged(&[1, 2]);
    let joined = |event: &Event| matches!(event, Event::HostJoined { host, .. } if *host == id(2));
    assert!(segment.host(1).saw(joined));
}
