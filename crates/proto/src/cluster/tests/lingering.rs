//! Connections whose bucket has moved on: how long they may stay.

use super::super::{Command, Connection, Input};
use super::operate::{check_connections, open, overlap};
use super::segment::{LATENCY, Segment, config};
use std::time::Duration;

/// Three counts and a little more.
const COUNTED: Duration = Duration::from_millis(3300);
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn an_idle_connection_is_reset_where_its_bucket_is_another_hosts() {
    for limit in [None, Some(LIMIT)] {
        let mut segment = Segment::new((1..=2).map(|host| {
            let mut config = config(host);
            config.max_linger = limit;
            config
        }));
        segment.command_to(1, Command::Start);
        segment.run_until_converged(&[1]);
        segment.run(LATENCY * 3);
        open(&mut segment, 40_000..40_200);
        // The younger half has been idle for not quite so long.
        for (index, connection) in (0..).zip(&mut segment.hosts[0].connections) {
            connection.idle = LIMIT - Duration::from_millis(index % 2);
        }
        segment.run(COUNTED);
        assert_eq!(segment.host(1).connections.len(), 200, "nothing has moved");
        segment.command_to(2, Command::Start);
        segment.run_until_converged(&[1, 2]);
        segment.run(COUNTED);
        check_connections(&segment, &[1, 2]);
        let (_, lingering) = overlap(&segment, 1);
        let over = |connection: &&Connection| connection.idle == LIMIT;
        let left = &segment.host(1).connections;
        let (old, young) = (left.iter().filter(over).count(), left.len());
        match limit {
            None => assert_eq!((old, young), (100, 200)),
            Some(_) => {
                assert_eq!(young - old, 100, "the younger ones stay");
                assert!((35..65).contains(&old), "{old} are in buckets of host 1");
            }
        }
        assert!(lingering > 0, "the younger ones linger");
    }
}

#[test]
fn a_bucket_is_not_cleared_while_syn_cookies_are_out() {
    const LAST: Duration = Duration::from_secs(120);
    let mut segment = Segment::new((1..=2).map(config));
    segment.command_to(1, Command::Start);
    segment.run_until_converged(&[1]);
    segment.run(LATENCY * 3);
    segment.input(1, Input::CookiesSent);
    segment.command_to(2, Command::Start);
    segment.run_until_converged(&[1, 2]);
    segment.run(LAST - Duration::from_secs(2));
    assert_eq!(overlap(&segment, 1), (0, 2048), "it gave up 2048 buckets");
    assert_eq!(overlap(&segment, 2), (2048, 0));
    segment.run(Duration::from_secs(2) + COUNTED);
    assert_eq!(
        (overlap(&segment, 1), overlap(&segment, 2)),
        ((0, 0), (0, 0))
    );
}
