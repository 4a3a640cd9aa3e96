//! Sticky rules: buckets wait with their owner while they are busy.

use super::super::{Answer, Command};
use super::operate::connection;
use super::segment::{LATENCY, Segment, TIMING, config, web_rules};
use crate::buckets::BucketSet;
use crate::config::ClusterConfig;
use crate::rules::RuleSet;
use covey_filter::BUCKETS;
use std::time::Duration;

/// Longer than the coordinator waits before it looks again, and a count.
const LOOKED: Duration = Duration::from_secs(13);

fn sticky(host: u8) -> ClusterConfig {
    let mut config = config(host);
    let plain = web_rules(80);
    let mut rules = plain.rules().to_vec();
    rules[0].sticky = Some(Duration::from_secs(1200));
    config.rules = RuleSet::new(plain.vips().to_vec(), rules).unwrap();
    config
}

/// Hosts with the sticky rule, of which only the first has started.
fn alone(hosts: u8) -> Segment {
    let mut segment = Segment::new((1..=hosts).map(sticky));
    segment.command_to(1, Command::Start);
    segment.run_until_converged(&[1]);
    segment.longest_dark = Duration::ZERO;
    segment
}

fn busy(segment: &mut Segment, host: u8, buckets: std::ops::Range<usize>) {
    let index = segment.index(host);
    segment.hosts[index].seen = vec![(1, buckets.collect::<BucketSet>())];
}

#[test]
fn busy_buckets_stay_until_they_are_idle() {
    let mut segment = alone(2);
    busy(&mut segment, 1, 0..4000);
    segment.run(LOOKED);
    segment.command_to(2, Command::Start);
    segment.run_until_converged(&[1, 2]);
    assert_eq!((segment.share(2), segment.coverage()), (96, (0, 0)));
    busy(&mut segment, 1, 0..3000);
    segment.run(LOOKED);
    assert_eq!((segment.share(2), segment.coverage()), (1096, (0, 0)));
    busy(&mut segment, 1, 0..100);
    segment.run(LOOKED);
    assert_eq!((segment.share(2), segment.coverage()), (2048, (0, 0)));
    assert!((0..100).all(|bucket| segment.host(1).serves(segment.now, bucket)));
    let epoch = segment.host(1).cluster.snapshot(segment.now).epoch;
    segment.run(LOOKED * 4);
    assert_eq!(
        segment.host(1).cluster.snapshot(segment.now).epoch,
        epoch,
        "nothing is left to do"
    );
    assert!(segment.longest_dark <= LATENCY * 2);
}

#[test]
fn an_open_connection_keeps_its_bucket_busy() {
    let mut segment = alone(2);
    segment.hosts[0].connections = (40_000..44_000).map(connection).collect();
    segment.run(LOOKED);
    segment.command_to(2, Command::Start);
    segment.run_until_converged(&[1, 2]);
    let free = segment.share(2);
    // 4000 connections leave about a third of the buckets without one.
    assert!((1300..1700).contains(&free), "{free}");
    segment.hosts[0].connections.clear();
    segment.run(LOOKED);
    assert_eq!(segment.share(2), BUCKETS / 2);
}

#[test]
fn a_host_that_dies_or_drains_holds_nothing() {
    for dies in [true, false] {
        let mut segment = Segment::new((1..=3).map(sticky));
        segment.start_all();
        segment.run_until_converged(&[1, 2, 3]);
        busy(&mut segment, 2, 0..BUCKETS);
        segment.run(LOOKED);
        if dies {
            segment.crash(2);
        } else {
            assert_eq!(segment.command_to(2, Command::Stop), Answer::Done);
        }
        segment.run_until_converged(&[1, 3]);
        segment.run(LATENCY * 2);
        assert_eq!(segment.coverage(), (0, 0));
        assert!(segment.share(1).abs_diff(segment.share(3)) <= 1);
    }
}

#[test]
fn a_set_that_does_not_arrive_delays_the_map_and_no_more() {
    let mut segment = alone(2);
    busy(&mut segment, 1, 0..4000);
    segment.run(LOOKED);
    let is_chunk = |payload: &[u8]| {
        payload
            .windows(5)
            .any(|bytes| bytes == [0xC9, 0, 0x19, 0x02, 5])
    };
    segment.loss = Box::new(move |_, _, frame| is_chunk(frame.payload));
    segment.command_to(2, Command::Start);
    segment.run(TIMING.budget() * 4);
    assert!(segment.is_converged(&[1]) || segment.share(1) == BUCKETS);
    segment.loss = Box::new(|_, _, _| false);
    segment.run_until_converged(&[1, 2]);
    assert_eq!(segment.share(2), 96);
}
