//! What clients notice of the moment in which a map comes into force: 200,000 connections across 200 maps, and what
//! became of their SYNs. docs/benchmarks.md, "The moment of a change".
//!
//! A SYN is lost if it had to be sent again, and doubled if two hosts answered it. Both are counted on the switch; the
//! client's kernel counts what it sent again, too.

use crate::changes::Operator;
use crate::clients::{Clients, Repeated};
use crate::lab::{Lab, Timing};
use crate::sniffer::{Look, Sniffer};
use covey::status::CommitCounts;
use std::thread;
use std::time::{Duration, Instant};

const TIMING: Timing = Timing {
    period_ms: 100,
    tolerance: 5,
};
/// New connections per second.
const RATE: u32 = 2000;
/// Changes of each kind.
const CHANGES: usize = 100;
/// Connections during the changes of each kind.
const CONNECTS: usize = 100_000;

pub(crate) fn measure() {
    let lab = Lab::up("commit", 3, TIMING);
    let operator = Operator::new(&lab);
    let clients = Clients::start(&lab);
    println!(
        "{:<20} {:>5} {:>9} {:>7} {:>16} {:>9} {:>8} {:>14} {:>10} {:>8}",
        "",
        "maps",
        "connects",
        "failed",
        "SYNs sent again",
        "SYNs lost",
        "doubled",
        "doubled failed",
        "over 0.1 s",
        "slowest"
    );
    // Host 2 has 20 parts more in every second map.
    let weigh = |number: usize| operator.weigh(2, if number.is_multiple_of(2) { 70 } else { 50 });
    // Every host has its turn, the coordinator too.
    let drain = |number: usize| {
        let host = 1 + (number / 2 % 3) as u8;
        if number.is_multiple_of(2) {
            operator.drainstop(host);
        } else {
            operator.start(host);
        }
    };
    phase(&lab, &clients, "none", 0, |_| ());
    phase(&lab, &clients, "weights", CHANGES, weigh);
    phase(&lab, &clients, "drainstop and start", CHANGES, drain);
    clients.finish();
}

/// Makes the changes at an even pace while clients connect.
fn phase(lab: &Lab, clients: &Clients, name: &str, changes: usize, change: impl Fn(usize)) {
    let epoch = || lab.status(1).cluster.epoch;
    let (first, repeated, commits) = (epoch(), Repeated::by_now(lab), commits(lab));
    clients.take();
    let sniffer = Sniffer::start(lab, Look::Beginnings);
    clients.connect(RATE);
    let length = Duration::from_secs_f64(CONNECTS as f64 / f64::from(RATE));
    let start = Instant::now();
    for number in 0..changes {
        let due = start + length.mul_f64(number as f64 / changes as f64);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        change(number);
    }
    while clients.connects() < CONNECTS {
        thread::sleep(Duration::from_millis(10));
    }
    clients.pause();
    let seen = sniffer.finish();
    let tally = clients.take();
    let repeated = Repeated::by_now(lab).since(repeated);

    let beginnings = seen.beginnings();
    let lost: usize = beginnings.values().map(|one| one.syns - 1).sum();
    let doubled = beginnings.iter().filter(|(_, one)| one.hosts.len() > 1);
    let doubled: Vec<_> = doubled.collect();
    let failed = tally.failed_clients();
    let dead = doubled.iter().filter(|(client, _)| failed.contains(client));
    println!(
        "{name:<20} {:>5} {:>9} {:>7} {:>16} {lost:>9} {:>8} {:>14} {:>10} {:>5} ms",
        epoch() - first,
        tally.connects,
        failed.len(),
        repeated.syns,
        doubled.len(),
        dead.count(),
        tally.slow,
        tally.slowest.as_millis()
    );
    for odd in seen.oddities() {
        println!("    {odd}");
    }
    for failure in tally.failures() {
        println!("    {}: {}", failure.client, failure.what);
    }
    for ((host, now), before) in lab.hosts().into_iter().zip(self::commits(lab)).zip(commits) {
        println!(
            "    host {host}: {} maps put in force by the filter, {} by the daemon",
            now.by_filter - before.by_filter,
            now.by_daemon - before.by_daemon
        );
    }
    if seen.missed > 0 {
        println!("    the sniffer has missed {} frames", seen.missed);
    }
}

fn commits(lab: &Lab) -> Vec<CommitCounts> {
    let of = |host| lab.status(host).datapath.commits;
    lab.hosts().into_iter().map(of).collect()
}
