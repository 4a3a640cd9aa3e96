//! Hosts of other generations: the previous EtherType, later versions.

use super::super::Command;
use super::segment::{Segment, TIMING, config, id, set};
use crate::config::ClusterConfig;
use crate::event::Event;
use crate::wire::ethernet::{HEARTBEAT, LEGACY_HEARTBEAT, is_heartbeat};
use crate::wire::heartbeat::PROTOCOL_VERSION;
use covey_filter::BUCKETS;
use std::collections::BTreeSet;

fn legacy(host: u8) -> ClusterConfig {
    ClusterConfig {
        legacy: true,
        ..config(host)
    }
}

/// The EtherTypes that hosts 1, 2, 3 speak from now on for a while.
fn spoken(segment: &mut Segment) -> [BTreeSet<u16>; 3] {
    segment.recorded.clear();
    segment.run(TIMING.budget());
    [1, 2, 3].map(|host| {
        let from_host = segment.recorded.iter().filter(|frame| frame[11] == host);
        let ethertypes = from_host.map(|frame| u16::from_be_bytes([frame[12], frame[13]]));
        ethertypes.filter(|it| is_heartbeat(*it)).collect()
    })
}

fn told(segment: &Segment, host: u8, event: &Event) -> usize {
    let events = segment.host(host).events.iter();
    events.filter(|(_, told)| told == event).count()
}

#[test]
fn all_speak_the_previous_ethertype_while_a_legacy_host_lives() {
    for crashes in [false, true] {
        let mut segment = Segment::new([config(1), config(2), legacy(3)]);
        segment.command_to(1, Command::Start);
        segment.command_to(2, Command::Start);
        segment.run_until_converged(&[1, 2]);
        let [one, two, _] = spoken(&mut segment);
        assert_eq!((one, two), ([HEARTBEAT].into(), [HEARTBEAT].into()));
        segment.command_to(3, Command::Start);
        segment.run_until_converged(&[1, 2, 3]);
        assert_eq!(
            spoken(&mut segment),
            [
                [LEGACY_HEARTBEAT].into(),
                [LEGACY_HEARTBEAT].into(),
                [LEGACY_HEARTBEAT].into()
            ]
        );
        // Long enough to see that the reverted ones do not hold each other there.
        if crashes {
            segment.crash(3);
        } else {
            segment.command_to(3, Command::Stop);
        }
        segment.run_until_converged(&[1, 2]);
        let [one, two, _] = spoken(&mut segment);
        assert_eq!((one, two), ([HEARTBEAT].into(), [HEARTBEAT].into()));
        let came = Event::LegacyHosts { hosts: set(&[3]) };
        for host in [1, 2] {
            assert_eq!(told(&segment, host, &came), 1);
            assert_eq!(told(&segment, host, &Event::LegacyGone), 1);
        }
        assert_eq!(told(&segment, 3, &Event::LegacyGone), 0);
        assert_eq!(segment.coverage(), (0, 0));
    }
}

#[test]
fn a_cluster_of_legacy_hosts_works() {
    let mut segment = Segment::new([legacy(1), legacy(2), legacy(3)]);
    segment.start_all();
    segment.run_until_converged(&[1, 2, 3]);
    let all: BTreeSet<u16> = [LEGACY_HEARTBEAT].into();
    assert_eq!(spoken(&mut segment), [all.clone(), all.clone(), all]);
}

#[test]
fn nobody_who_is_not_believed_makes_the_cluster_revert() {
    // Recorded frames of a legacy host that is gone.
    let mut segment = Segment::new([config(1), config(2), legacy(3)]);
    segment.start_all();
    segment.run_until_converged(&[1, 2, 3]);
    let recorded: Vec<_> = segment
        .recorded
        .iter()
        .filter(|frame| frame[11] == 3)
        .cloned()
        .collect();
    segment.command_to(3, Command::Stop);
    segment.restart(1);
    segment.restart(2);
    segment.run_until_converged(&[1, 2]);
    for frame in recorded {
        segment.inject(frame);
    }
    let [one, two, _] = spoken(&mut segment);
    assert_eq!((one, two), ([HEARTBEAT].into(), [HEARTBEAT].into()));
}

#[test]
fn hosts_of_today_and_tomorrow_form_one_cluster_at_the_lower_level() {
    let tomorrow = |host| ClusterConfig {
        version: PROTOCOL_VERSION + 1,
        ..config(host)
    };
    let mut segment = Segment::new([tomorrow(1), config(2), tomorrow(3)]);
    let level = |segment: &Segment, host: u8| {
        let cluster = &segment.host(host).cluster;
        cluster.snapshot(segment.now).feature_level
    };
    segment.command_to(1, Command::Start);
    segment.command_to(3, Command::Start);
    segment.run_until_converged(&[1, 3]);
    assert_eq!(level(&segment, 1), PROTOCOL_VERSION + 1);
    segment.command_to(2, Command::Start);
    segment.run_until_converged(&[1, 2, 3]);
    assert_eq!(
        [1, 2, 3].map(|host| level(&segment, host)),
        [PROTOCOL_VERSION; 3]
    );
    let seen_by_two = segment.host(2).cluster.snapshot(segment.now);
    assert_eq!(seen_by_two.version, PROTOCOL_VERSION);
    let versions: Vec<u16> = seen_by_two.members.iter().map(|it| it.version).collect();
    assert_eq!(versions, [PROTOCOL_VERSION + 1; 2]);
    segment.crash(1);
    segment.run_until_converged(&[2, 3]);
    assert_eq!(segment.share(2) + segment.share(3), BUCKETS);
    segment.command_to(2, Command::Stop);
    segment.run_until_converged(&[3]);
    let changes = |level, held_down_by| Event::FeatureLevel {
        level,
        held_down_by,
    };
    assert_eq!(told(&segment, 3, &changes(PROTOCOL_VERSION, set(&[2]))), 1);
    assert_eq!(
        told(&segment, 3, &changes(PROTOCOL_VERSION + 1, set(&[]))),
        1
    );
    assert!(
        !segment.host(2).saw(|event| event.id() == 1019),
        "{:?}",
        id(2)
    );
}
