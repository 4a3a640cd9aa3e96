//! The operator's commands: answers, states, and what becomes of connections.

use super::super::{
    Answer, Command, Connection, HostState, PortState, RuleChange, RuleScope, VipScope,
};
use super::segment::{LATENCY, Segment, TIMING, config, id, vip};
use crate::datapath::View;
use crate::event::Event;
use covey_filter::{Reason, Row, Socket, decide};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

const DRAINSTOP: Command = Command::Drainstop { within: None };
/// Two counts, a second apart, another second until the owners take note, and a little more.
pub(super) const COUNTED: Duration = Duration::from_millis(3300);

pub(super) fn rules(change: RuleChange, port: u16) -> Command {
    let (vip, port) = (VipScope::Every, Some(port));
    Command::Rules {
        change,
        scope: RuleScope { vip, port },
    }
}

fn state(segment: &Segment, host: u8) -> HostState {
    segment.host(host).cluster.state()
}

pub(super) fn connection(port: u16) -> Connection {
    let client = SocketAddr::from((Ipv4Addr::new(10, 77, 0, 200), port));
    Connection {
        client,
        service: SocketAddr::new(vip(), 80),
        socket: Socket::Connected,
        idle: Duration::ZERO,
    }
}

/// An Ethernet frame to the cluster with this connection's first (SYN) or a later segment.
fn frame(segment: &Segment, connection: &Connection, opens: bool) -> Vec<u8> {
    let mut frame = segment.hosts[0].cluster.delivery().mac().0.to_vec();
    frame.extend([2, 0, 0, 0, 0, 200, 8, 0]);
    frame.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
    for end in [connection.client, connection.service] {
        let std::net::IpAddr::V4(address) = end.ip() else {
            unreachable!()
        };
        frame.extend(address.octets());
    }
    frame.extend(connection.client.port().to_be_bytes());
    frame.extend(connection.service.port().to_be_bytes());
    frame.extend([0; 8]);
    frame.extend([0x50, if opens { 0x02 } else { 0x10 }, 0, 0, 0, 0, 0, 0]);
    frame
}

/// What a host's data path says to a segment of a connection.
pub(super) fn reason(segment: &Segment, host: u8, connection: &Connection, opens: bool) -> Reason {
    let host = segment.host(host);
    let has = host.connections.contains(connection);
    let socket = if has { Socket::Connected } else { Socket::None };
    let sockets = |_: &_, _: &_| socket;
    let view = View {
        image: host.image.as_ref().unwrap(),
        lease_holds: true,
        sockets: &sockets,
        fragments: None,
    };
    decide(&frame(segment, connection, opens)[..], &view).reason
}

/// Connections from these ports, each opened at the host that takes its SYN.
pub(super) fn open(segment: &mut Segment, ports: std::ops::Range<u16>) {
    for port in ports {
        let connection = connection(port);
        let count = segment.hosts.len() as u8;
        let takers: Vec<u8> = (1..=count)
            .filter(|host| segment.host(*host).image.is_some())
            .filter(|host| reason(segment, *host, &connection, true) == Reason::Mine)
            .collect();
        assert_eq!(takers.len(), 1);
        let index = segment.index(takers[0]);
        segment.hosts[index].connections.push(connection);
    }
}

/// Every connection is taken by the one host that has it, whatever the map.
pub(super) fn check_connections(segment: &Segment, hosts: &[u8]) {
    for owner in hosts {
        for connection in &segment.host(*owner).connections {
            for host in hosts {
                let reason = reason(segment, *host, connection, false);
                let taken = matches!(reason, Reason::Mine | Reason::Lingering);
                assert_eq!(
                    taken,
                    host == owner,
                    "host {host}: {reason:?}, {connection:?} of host {owner}"
                );
            }
        }
    }
}

/// Buckets of the web rule that a host holds as shared, and those it lingers in.
pub(super) fn overlap(segment: &Segment, host: u8) -> (usize, usize) {
    let image = segment.host(host).image.as_ref().unwrap();
    let rows = &image.rows[usize::from(image.rules[1].map)];
    let count = |wanted: fn(Row) -> bool| rows.iter().filter(|row| wanted(Row(**row))).count();
    (
        count(|row| row.is_mine() && row.is_shared()),
        count(Row::is_lingering),
    )
}

#[test]
fn every_command_is_answered_in_every_state() {
    use Answer::*;
    use HostState as S;
    // In each row: the command, the answer and the state it leads to, once it has settled.
    let script: &[(Command, Answer, S)] = &[
        (Command::Stop, Already, S::Stopped),
        (DRAINSTOP, Stopped, S::Stopped),
        (Command::Resume, Already, S::Stopped),
        (rules(RuleChange::Drain, 80), Stopped, S::Stopped),
        (Command::Suspend, Done, S::Suspended),
        (Command::Start, Suspended, S::Suspended),
        (Command::Stop, Suspended, S::Suspended),
        (DRAINSTOP, Suspended, S::Suspended),
        (rules(RuleChange::Enable, 80), Suspended, S::Suspended),
        (Command::Suspend, Already, S::Suspended),
        (Command::Resume, Done, S::Stopped),
        (Command::Start, Done, S::Default),
        (Command::Start, Already, S::Default),
        (Command::Resume, Already, S::Default),
        (rules(RuleChange::Drain, 81), NotFound, S::Default),
        (rules(RuleChange::Enable, 80), Already, S::Default),
        (Command::Suspend, Stopped, S::Suspended),
        (Command::Resume, Done, S::Stopped),
        (Command::Start, Done, S::Default),
        (DRAINSTOP, Done, S::Stopped),
    ];
    let mut segment = Segment::new([config(1)]);
    for (command, answer, state) in script {
        assert_eq!(
            segment.command_to(1, command.clone()),
            *answer,
            "{command:?}"
        );
        segment.run_until(TIMING.budget() * 12, |segment| {
            segment.host(1).cluster.state() == *state
        });
        segment.run(TIMING.period);
        assert_eq!(segment.host(1).cluster.state(), *state, "{command:?}");
    }
}

#[test]
fn a_join_moves_buckets_but_no_connection() {
    let mut segment = Segment::new((1..=4).map(config));
    for host in 1..=3 {
        segment.command_to(host, Command::Start);
    }
    segment.run_until_converged(&[1, 2, 3]);
    segment.run(LATENCY * 3);
    open(&mut segment, 40_000..40_300);
    segment.command_to(4, Command::Start);
    segment.run_until_converged(&[1, 2, 3, 4]);
    segment.run(LATENCY * 20);
    check_connections(&segment, &[1, 2, 3, 4]);
    let (shared, _) = overlap(&segment, 4);
    let lingering: usize = (1..=3).map(|host| overlap(&segment, host).1).sum();
    assert!(lingering > 0 && shared > 0 && shared <= 1024);
    // Counted: only where there are connections.
    segment.run(COUNTED);
    check_connections(&segment, &[1, 2, 3, 4]);
    let (counted, _) = overlap(&segment, 4);
    assert!(
        (50..=75).contains(&counted),
        "{counted} of 300 connections in a quarter of the buckets"
    );
    // A new connection in a shared bucket is the owner's, and both live.
    open(&mut segment, 50_000..50_300);
    check_connections(&segment, &[1, 2, 3, 4]);
    for host in &mut segment.hosts {
        host.connections.clear();
    }
    segment.run(COUNTED);
    for host in 1..=4 {
        assert_eq!(overlap(&segment, host), (0, 0), "host {host}");
    }
}

#[test]
fn a_host_that_has_not_counted_yet_lingers_in_all_that_it_gives_up() {
    let mut segment = Segment::new((1..=2).map(config));
    segment.command_to(1, Command::Start);
    segment.run_until_converged(&[1]);
    open(&mut segment, 40_000..40_200);
    segment.run(COUNTED);
    segment.hosts[0].counts = false;
    segment.command_to(2, Command::Start);
    segment.run_until_converged(&[1, 2]);
    segment.run(COUNTED);
    check_connections(&segment, &[1, 2]);
    assert_eq!(overlap(&segment, 1).1, segment.share(2));
    assert_eq!(overlap(&segment, 2).0, segment.share(2));
}

#[test]
fn one_count_without_a_connection_proves_nothing() {
    let mut segment = Segment::new((1..=2).map(config));
    segment.command_to(1, Command::Start);
    segment.run_until_converged(&[1]);
    open(&mut segment, 40_000..40_200);
    segment.command_to(2, Command::Start);
    segment.run_until_converged(&[1, 2]);
    segment.run(COUNTED);
    // The sockets were between two states when they were counted.
    let connections = std::mem::take(&mut segment.hosts[0].connections);
    let before = overlap(&segment, 1);
    segment.run(Duration::from_secs(1));
    segment.hosts[0].connections = connections;
    assert_eq!(overlap(&segment, 1), before);
    check_connections(&segment, &[1, 2]);
    segment.run(COUNTED);
    assert_eq!(overlap(&segment, 1), before);
}

#[test]
fn a_bucket_with_two_lingerers_is_shared_until_both_are_done() {
    let mut segment = Segment::new((1..=3).map(config));
    segment.command_to(1, Command::Start);
    segment.run_until_converged(&[1]);
    open(&mut segment, 40_000..40_200);
    segment.command_to(2, Command::Start);
    segment.run_until_converged(&[1, 2]);
    segment.run(LATENCY * 20);
    open(&mut segment, 41_000..41_200);
    segment.command_to(3, Command::Start);
    segment.run_until_converged(&[1, 2, 3]);
    segment.run(COUNTED);
    check_connections(&segment, &[1, 2, 3]);
    let both = overlap(&segment, 3).0;
    let second = segment.index(2);
    segment.hosts[second].connections.clear();
    segment.run(COUNTED);
    let one = overlap(&segment, 3).0;
    assert!(0 < one && one < both, "{one} of {both}");
    check_connections(&segment, &[1, 2, 3]);
}

#[test]
fn an_owner_that_has_not_heard_a_report_shares_everything() {
    let mut segment = Segment::converged(2);
    open(&mut segment, 40_000..40_100);
    let is_chunk = |payload: &[u8]| {
        payload
            .windows(4)
            .any(|bytes| bytes == [0xC9, 0, 0x19, 0x02])
    };
    segment.loss = Box::new(move |_, _, frame| is_chunk(frame.payload));
    // Half of host 1's buckets go to host 2.
    segment.command_to(
        1,
        Command::Reload {
            rules: std::sync::Arc::new(super::segment::web_rules(80)),
            claims: vec![crate::rules::Claim(10)],
        },
    );
    segment.run(TIMING.budget());
    let share = segment.share(2);
    assert_eq!(overlap(&segment, 2).0, share, "{}", segment.account());
    check_connections(&segment, &[1, 2]);
    segment.loss = Box::new(|_, _, _| false);
    segment.run(COUNTED);
    assert!(overlap(&segment, 2).0 < 100);
    check_connections(&segment, &[1, 2]);
}

#[test]
fn nobody_resets_a_connection_that_another_may_have_accepted_across_a_change() {
    let mut segment = Segment::converged(3);
    segment.run(COUNTED);
    assert_eq!(overlap(&segment, 2), (0, 0));
    // Host 2 acknowledges a map without it, and the commit does not reach it for a while.
    let silent = std::rc::Rc::new(std::cell::Cell::new(true));
    let lost = silent.clone();
    segment.loss = Box::new(move |from, to, _| lost.get() && from != id(2) && to == id(2));
    silent.set(false);
    segment.command_to(2, DRAINSTOP);
    segment.run_until(TIMING.budget(), |segment| {
        segment.host(2).cluster.is_bound()
    });
    silent.set(true);
    segment.run_until(TIMING.budget(), |segment| {
        !segment
            .host(1)
            .cluster
            .snapshot(segment.now)
            .owners
            .contains(id(2))
    });
    let taken_by_both = (40_000..41_000).map(connection).find(|connection| {
        let takes = |host| reason(&segment, host, connection, true) == Reason::Mine;
        takes(1) && takes(2)
    });
    let connection = taken_by_both.expect("a bucket of host 2 that is host 1's by now");
    for host in [1, 2] {
        assert_eq!(
            reason(&segment, host, &connection, false),
            Reason::Unclaimed,
            "host {host}"
        );
    }
    silent.set(false);
    segment.run_until(TIMING.budget(), |segment| {
        !segment.host(2).cluster.owns_buckets()
    });
}

#[test]
fn a_ballot_that_comes_to_nothing_leaves_nothing_shared() {
    let mut segment = Segment::converged(3);
    segment.run(COUNTED);
    segment.loss = Box::new(|from, _, _| from == id(3));
    segment.command_to(1, DRAINSTOP);
    segment.run_until(TIMING.budget(), |segment| {
        segment.host(2).cluster.is_bound()
    });
    assert_eq!(overlap(&segment, 2).0, segment.share(2));
    segment.command_to(1, Command::Start);
    segment.loss = Box::new(|_, _, _| false);
    segment.run(COUNTED);
    assert_eq!(overlap(&segment, 2), (0, 0));
}

#[test]
fn a_draining_host_stops_after_its_last_connection() {
    let mut segment = Segment::converged(3);
    open(&mut segment, 40_000..40_300);
    assert_eq!(segment.command_to(2, DRAINSTOP), Answer::Done);
    segment.run(Duration::from_secs(20));
    assert_eq!(state(&segment, 2), HostState::Draining);
    assert_eq!((segment.share(2), segment.coverage()), (0, (0, 0)));
    assert!(
        segment.is_converged(&[1, 3])
            || segment
                .host(1)
                .cluster
                .snapshot(segment.now)
                .view
                .contains(id(2))
    );
    check_connections(&segment, &[1, 2, 3]);
    let counted = |segment: &Segment| {
        let snapshot = segment.host(2).cluster.snapshot(segment.now);
        snapshot.connections
    };
    let index = segment.index(2);
    let open = segment.hosts[index].connections.len();
    assert_eq!(counted(&segment), Some(open));
    segment.hosts[index].connections.truncate(1);
    segment.run(Duration::from_secs(5));
    assert_eq!(state(&segment, 2), HostState::Draining);
    assert_eq!(counted(&segment), Some(1));
    check_connections(&segment, &[1, 2, 3]);
    segment.hosts[index].connections.clear();
    segment.run(COUNTED + Duration::from_secs(1));
    assert_eq!(state(&segment, 2), HostState::Stopped);
    assert_eq!(counted(&segment), None, "a stopped host counts no more");
    assert!(segment.host(2).saw(|event| event.id() == 44));
    assert!(segment.host(2).saw(|event| event.id() == 6));
    segment.run_until_converged(&[1, 3]);
    assert!(segment.longest_dark <= LATENCY);
}

#[test]
fn a_drainstop_can_be_interrupted_and_has_a_deadline() {
    let mut segment = Segment::converged(2);
    open(&mut segment, 40_000..40_100);
    segment.command_to(2, DRAINSTOP);
    segment.run(Duration::from_secs(3));
    assert_eq!(
        segment.command_to(2, rules(RuleChange::Drain, 80)),
        Answer::Draining
    );
    assert_eq!(
        segment.command_to(2, Command::Start),
        Answer::DrainInterrupted
    );
    segment.run_until_converged(&[1, 2]);
    check_connections(&segment, &[1, 2]);
    assert!(segment.host(2).saw(|event| event.id() == 45));
    let within = Some(Duration::from_secs(4));
    segment.command_to(2, Command::Drainstop { within });
    segment.run(Duration::from_secs(3));
    assert_eq!(state(&segment, 2), HostState::Draining);
    segment.run(Duration::from_secs(2));
    assert_eq!(state(&segment, 2), HostState::Stopped);
    assert!(
        segment.host(2).connections.is_empty(),
        "what was left has been reset"
    );
    assert!(!segment.host(1).connections.is_empty());
}

#[test]
fn a_stop_resets_what_is_left_and_darkens_nothing() {
    let mut segment = Segment::converged(3);
    open(&mut segment, 40_000..40_100);
    segment.command_to(2, Command::Stop);
    segment.run_until_converged(&[1, 3]);
    segment.run(TIMING.period);
    assert!(segment.host(2).connections.is_empty());
    check_connections(&segment, &[1, 3]);
    assert!(segment.longest_dark <= LATENCY);
}

#[test]
fn a_drainstop_with_hardly_any_time_darkens_nothing() {
    let mut segment = Segment::converged(3);
    open(&mut segment, 40_000..40_100);
    let within = Some(Duration::from_millis(1));
    segment.command_to(2, Command::Drainstop { within });
    segment.run_until_converged(&[1, 3]);
    segment.run(TIMING.period);
    assert_eq!(state(&segment, 2), HostState::Stopped);
    assert!(
        segment.longest_dark <= LATENCY,
        "{:?}",
        segment.longest_dark
    );
}

#[test]
fn rules_are_drained_disabled_and_enabled_on_one_host() {
    let mut segment = Segment::converged(2);
    open(&mut segment, 40_000..40_100);
    let port_state =
        |segment: &Segment| segment.host(2).cluster.snapshot(segment.now).port_states[0];
    let share = segment.share(2);
    assert_eq!(
        segment.command_to(2, rules(RuleChange::Drain, 80)),
        Answer::Done
    );
    segment.run(Duration::from_secs(5));
    assert_eq!(
        (port_state(&segment), segment.share(2)),
        (PortState::Draining, 0)
    );
    check_connections(&segment, &[1, 2]);
    let index = segment.index(2);
    segment.hosts[index].connections.clear();
    segment.run(COUNTED);
    assert_eq!(port_state(&segment), PortState::Disabled);
    assert!(
        segment
            .host(2)
            .saw(|event| matches!(event, Event::RuleDrained { port: 80 }))
    );
    assert_eq!(
        segment.command_to(2, rules(RuleChange::Drain, 80)),
        Answer::Already
    );
    assert_eq!(
        segment.command_to(2, rules(RuleChange::Enable, 80)),
        Answer::Done
    );
    segment.run(TIMING.budget());
    assert_eq!(
        (port_state(&segment), segment.share(2)),
        (PortState::Enabled, share)
    );
    // Disabling resets, here only.
    open(&mut segment, 42_000..42_100);
    let kept = segment.host(1).connections.len();
    assert_eq!(
        segment.command_to(2, rules(RuleChange::Disable, 80)),
        Answer::Done
    );
    segment.run(COUNTED);
    assert_eq!(
        (port_state(&segment), segment.share(2)),
        (PortState::Disabled, 0)
    );
    assert!(segment.host(2).connections.is_empty());
    assert_eq!(segment.host(1).connections.len(), kept);
    // It is the host's own affair: it stays so over a stop and a start.
    segment.command_to(2, Command::Stop);
    segment.run(TIMING.budget());
    segment.command_to(2, Command::Start);
    segment.run_until_converged(&[1, 2]);
    assert_eq!(
        (port_state(&segment), segment.share(2)),
        (PortState::Disabled, 0)
    );
}

#[test]
fn a_fenced_host_comes_back_with_its_idle_connections() {
    let mut segment = Segment::converged(3);
    open(&mut segment, 40_000..40_300);
    segment.stall(2, TIMING.budget() * 4);
    segment.run_until_converged(&[1, 3]);
    segment.run_until_converged(&[1, 2, 3]);
    segment.run(LATENCY * 20);
    check_connections(&segment, &[1, 2, 3]);
    segment.run(COUNTED);
    check_connections(&segment, &[1, 2, 3]);
}

#[test]
fn a_host_that_was_left_out_long_ago_does_not_keep_the_last_one_from_serving() {
    let mut segment = Segment::converged(3);
    segment.kill(1);
    segment.run_until_converged(&[2, 3]);
    segment.longest_dark = Duration::ZERO;
    segment.command_to(2, DRAINSTOP);
    segment.run_until(COUNTED * 2, |segment| {
        state(segment, 2) == HostState::Stopped
    });
    // The machine of host 1 is on, and answers ARP.
    segment.run_until_converged(&[3]);
    segment.run(TIMING.budget() * 3);
    assert!(segment.is_converged(&[3]), "{}", segment.account());
    assert!(
        segment.longest_dark <= LATENCY,
        "{:?}",
        segment.longest_dark
    );
}
