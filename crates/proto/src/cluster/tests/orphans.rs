//! Connections whose host is gone, in buckets in which others linger: they are disowned, and no other is.

use super::super::{Command, Connection, Input};
use super::operate::{connection, open, reason};
use super::segment::{LATENCY, Segment, web_rules};
use crate::rules::Claim;
use crate::wire::heartbeat::Ends;
use covey_filter::Reason;
use std::sync::Arc;
use std::time::Duration;

/// Long enough for a question and its answer.
const ASKED: Duration = LATENCY.saturating_mul(3);
/// Longer than an answer is waited for.
const FORGOTTEN: Duration = Duration::from_secs(2);

fn ends(connection: &Connection) -> Ends {
    Ends {
        client: connection.client,
        service: connection.service,
    }
}

/// Host 3 has connections in buckets that it has given to hosts 1 and 2, and host 2 has died: nearly all is host 1's,
/// and much of it is shared with host 3. What clients of host 2 say there is met with silence; these are their
/// connections.
fn after_a_crash() -> (Segment, Vec<Connection>) {
    let mut segment = Segment::converged(3);
    open(&mut segment, 40_000..44_000);
    let rules = Arc::new(web_rules(80));
    let claims = vec![Claim(1)];
    segment.command_to(3, Command::Reload { rules, claims });
    segment.run_until(Duration::from_secs(1), |segment| segment.share(3) < 100);
    segment.run(LATENCY * 3);
    open(&mut segment, 50_000..50_600);
    let index = segment.index(2);
    let lost = std::mem::take(&mut segment.hosts[index].connections);
    segment.crash(2);
    segment.run_until_converged(&[1, 3]);
    // Counted, so that what is shared is shared for a reason.
    segment.run(Duration::from_secs(4));
    (segment, lost)
}

/// Connections to which a host's filter is silent.
fn silent(segment: &Segment, host: u8, connections: &[Connection]) -> Vec<Ends> {
    let mut silent = connections.to_vec();
    silent.retain(|connection| reason(segment, host, connection, false) == Reason::Unclaimed);
    silent.iter().map(ends).collect()
}

#[test]
fn what_nobody_has_is_disowned_as_soon_as_the_others_have_looked() {
    let (mut segment, lost) = after_a_crash();
    let unclaimed = silent(&segment, 1, &lost);
    assert!(unclaimed.len() > 50, "{} are shared", unclaimed.len());
    for some in unclaimed.chunks(20) {
        segment.input(1, Input::Unclaimed(some));
        segment.run(ASKED);
    }
    assert_eq!(segment.host(1).disowned, unclaimed);
    assert_eq!(segment.host(3).disowned, []);
}

#[test]
fn what_somebody_has_is_never_disowned() {
    let (mut segment, _) = after_a_crash();
    let others = segment.host(3).connections.clone();
    let unclaimed = silent(&segment, 1, &others);
    assert!(unclaimed.len() > 50, "{} are shared", unclaimed.len());
    for _ in 0..3 {
        for some in unclaimed.chunks(20) {
            segment.input(1, Input::Unclaimed(some));
            segment.run(ASKED);
        }
        segment.run(FORGOTTEN);
    }
    assert_eq!(segment.host(1).disowned, []);
}

#[test]
fn only_the_owner_of_the_bucket_asks() {
    let (mut segment, lost) = after_a_crash();
    let foreign: Vec<Ends> = (lost.iter().map(ends))
        .filter(|ends| segment.host(1).cluster.may_linger_with(ends).is_none())
        .collect();
    assert!(!foreign.is_empty());
    for some in foreign.chunks(20) {
        segment.input(1, Input::Unclaimed(some));
        segment.run(ASKED);
    }
    assert_eq!(segment.host(1).disowned, []);
    // A host that has stopped serves by no map and knows nothing of the others.
    let mine = silent(&segment, 1, &lost);
    segment.command_to(1, Command::Stop);
    segment.run_until_converged(&[3]);
    segment.input(1, Input::Unclaimed(&mine[..20]));
    segment.run(ASKED);
    assert_eq!(segment.host(1).disowned, []);
}

#[test]
fn a_question_that_is_lost_is_asked_again_with_the_next_segment() {
    let (mut segment, lost) = after_a_crash();
    let unclaimed = &silent(&segment, 1, &lost)[..20];
    segment.loss = Box::new(|_, to, frame| to.get() == 3 && frame.payload.len() > 500);
    segment.input(1, Input::Unclaimed(unclaimed));
    segment.run(ASKED);
    assert_eq!(segment.host(1).disowned, [], "nobody has answered");
    segment.loss = Box::new(|_, _, _| false);
    segment.input(1, Input::Unclaimed(unclaimed));
    segment.run(ASKED);
    assert_eq!(
        segment.host(1).disowned,
        [],
        "one question is enough for a while"
    );
    segment.run(FORGOTTEN);
    segment.input(1, Input::Unclaimed(unclaimed));
    segment.run(ASKED);
    assert_eq!(segment.host(1).disowned, unclaimed);
}

#[test]
fn a_flood_of_forged_segments_is_not_remembered() {
    let (mut segment, _) = after_a_crash();
    let forged: Vec<Ends> = (1..40_000).map(|port| ends(&connection(port))).collect();
    for some in forged.chunks(1024) {
        segment.input(1, Input::Unclaimed(some));
    }
    let held = segment.host(1).cluster.inquiries.len();
    assert!((32..=256).contains(&held), "{held} questions are open");
    segment.run(FORGOTTEN);
    segment.input(1, Input::Unclaimed(&[]));
    assert_eq!(segment.host(1).cluster.inquiries.len(), 0);
}
