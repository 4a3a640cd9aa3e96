//! Draining a host, changing weights, joining: long-lived connections do not notice.

use crate::connections::{self, check, with_host};
use crate::lab::{Lab, Timing, VIP};
use crate::web::{self, FIRST_PORT};
use covey::status::HostState;
use std::collections::BTreeMap;
use std::fs;

const TIMING: Timing = Timing {
    period_ms: 100,
    tolerance: 5,
};
/// Long-lived connections.
const HELD: usize = 500;

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn a_drainstop_under_500_connections_breaks_none_and_ends_with_the_last() {
    drainstop(&Lab::up("drain", 3, TIMING));
}

/// Host 2 of three drains under connections of each, and stops with its last.
pub(crate) fn drainstop(lab: &Lab) {
    let mut held = connections::open(lab, HELD);
    let with_2 = with_host(&held, 2);
    assert!(with_2 > HELD / 5, "{with_2} of {HELD} are with host 2");

    lab.covey(2, &["drainstop", "--no-wait"]);
    lab.await_status(2, |status| status.host.state == HostState::Draining);
    for host in 1..=3 {
        lab.await_status(host, |status| !status.rules[1].share.contains_key(&2));
    }
    let new = web::in_a_row(lab, lab.vip(), FIRST_PORT..FIRST_PORT + 600);
    web::assert_none_failed(&new);
    assert!(
        new.iter().all(|request| request.outcome != Ok(2)),
        "a draining host takes nothing new"
    );
    assert_eq!(
        check(&mut held),
        Vec::<String>::new(),
        "broken by the drainstop"
    );

    // All but one of host 2's connections end; it goes on for that one.
    let mut last = None;
    let mut rest = Vec::new();
    for connection in held {
        match connection.host {
            2 if last.is_none() => last = Some(connection),
            2 => drop(connection),
            _ => rest.push(connection),
        }
    }
    let mut last = last.into_iter().collect::<Vec<_>>();
    lab.await_status(2, |status| status.host.connections == Some(1));
    assert_eq!(lab.status(2).host.state, HostState::Draining);
    assert_eq!(check(&mut last), Vec::<String>::new());
    drop(last);
    let began = std::time::Instant::now();
    lab.await_status(2, |status| status.host.state == HostState::Stopped);
    println!(
        "drainstop under {HELD} connections, {with_2} of them with the host that drains: 0 broken, 0 of {} new \
         connections refused; stopped {} ms after its last connection ended",
        new.len(),
        began.elapsed().as_millis()
    );
    assert_eq!(check(&mut rest), Vec::<String>::new());
    lab.await_agreement(&[1, 3]);
    assert_eq!(check(&mut rest), Vec::<String>::new());
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn weights_1_2_3_and_connections_that_stay_where_they_are() {
    let lab = Lab::up("weights", 3, TIMING);
    let mut held = connections::open(&lab, HELD);
    for host in 1..=3 {
        let path = lab.directory().join(format!("h{host}/covey.toml"));
        let sound = fs::read_to_string(&path).unwrap();
        let rule = format!("ports = 80\nweight = {host}");
        fs::write(&path, sound.replace("ports = 80", &rule)).unwrap();
        lab.covey(host, &["reload"]);
        assert_eq!(check(&mut held), Vec::<String>::new(), "after host {host}");
    }
    let exact: BTreeMap<u8, usize> = [(1, 683), (2, 1365), (3, 2048)].into();
    let near = |share: &BTreeMap<u8, usize>| {
        exact.iter().all(|(host, exact)| {
            share
                .get(host)
                .is_some_and(|share| share.abs_diff(*exact) <= 1)
        })
    };
    lab.await_status(1, |status| near(&status.rules[1].share));
    let settled = lab.status(1);
    lab.await_agreement(&[1, 2, 3]);
    let answered = web::in_a_row(&lab, VIP, FIRST_PORT..FIRST_PORT + 3000);
    web::assert_none_failed(&answered);
    let by = |host| {
        answered
            .iter()
            .filter(|request| request.outcome == Ok(host))
            .count()
    };
    let counts = [1, 2, 3].map(by);
    println!(
        "weights 1:2:3 are {:?} of 4096 buckets, and {counts:?} of 3000 new connections; 0 of {HELD} held connections \
         broken by 3 changes",
        settled.rules[1].share
    );
    assert_eq!(check(&mut held), Vec::<String>::new());
    for (host, count) in (1..).zip(counts) {
        assert!(
            count.abs_diff(500 * host) < 150,
            "host {host} answered {count} of 3000"
        );
    }
}

#[test]
#[ignore = "needs root: network namespaces and eBPF"]
fn hosts_drain_and_return_again_and_again_under_held_connections() {
    let lab = Lab::up("rounds", 3, TIMING);
    let mut held = connections::open(&lab, HELD);
    const ROUNDS: usize = 6;
    for round in 0..ROUNDS {
        // Interrupted by a start: the host takes its share back, its connections have never left it.
        let host = 1 + (round % 3) as u8;
        lab.covey(host, &["drainstop", "--no-wait"]);
        lab.await_status(1, |status| !status.rules[1].share.contains_key(&host));
        assert_eq!(
            check(&mut held),
            Vec::<String>::new(),
            "host {host} drains, round {round}"
        );
        lab.covey(host, &["start"]);
        lab.await_agreement(&[1, 2, 3]);
        assert_eq!(
            check(&mut held),
            Vec::<String>::new(),
            "host {host} is back, round {round}"
        );
    }
    println!("{ROUNDS} drainstops, each taken back, under {HELD} held connections: 0 broken");
}
