//! Connections that are held and new ones, while an operator does all that he may do.
//! docs/benchmarks.md, "Connections survive".
//!
//! The changes come one kind after the other, each many times. After each kind comes as long a time without changes,
//! because what is slow on a busy machine is slow without them too.

use crate::changes::Operator;
use crate::clients::{Clients, Failure, Repeated, Tally};
use crate::lab::{Lab, Timing};
use crate::sniffer::{Beginning, Look, Sniffer};
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

const TIMING: Timing = Timing {
    period_ms: 200,
    tolerance: 5,
};
/// Connections that are held.
const HELD: usize = 10_000;
/// New connections per second.
const RATE: u32 = 500;
/// Changes of each kind.
const CHANGES: usize = 20;
/// Traffic between two changes.
const BETWEEN: Duration = Duration::from_millis(500);
/// Of many failures, so many are told in full.
const TOLD: usize = 5;

pub(crate) fn measure(only: &[&str]) {
    let lab = Lab::up("survival", 3, TIMING);
    let operator = Operator::new(&lab);
    let clients = Clients::start(&lab);
    println!(
        "{:<20} {:>7} {:>6} {:>8} {:>8} {:>6} {:>7} {:>6} {:>9} {:>8} {:>5} {:>7} {:>8}",
        "",
        "changes",
        "length",
        "new",
        "requests",
        "broken",
        "refused",
        "failed",
        "SYNs sent",
        "segments",
        "twice",
        "over",
        "slowest"
    );
    println!("{:>86} {:>8} {:>5} {:>7}", "again", "again", "", "0.1 s");

    let turn = |number: usize| 1 + (number % 3) as u8;
    // Host 3 comes and goes without any held connection of its own, so that it really leaves.
    operator.leave(3);
    clients.hold(HELD);
    clients.connect(RATE);
    let mut run = Run {
        lab: &lab,
        clients: &clients,
        only,
        with: Outcome::default(),
        without: Outcome::default(),
    };
    run.kind("join, leave", |_| {
        operator.start(3);
        thread::sleep(BETWEEN);
        operator.leave(3);
    });
    operator.start(3);
    run.kind("drainstop, start", |number| {
        operator.drainstop(turn(number));
        thread::sleep(BETWEEN);
        operator.start(turn(number));
    });
    run.kind("drain, enable a rule", |number| {
        operator.drain(turn(number));
        thread::sleep(BETWEEN);
        operator.enable(turn(number));
    });
    run.kind("weights", |number| {
        operator.weigh(2, if number.is_multiple_of(2) { 90 } else { 50 });
    });
    run.kind("rules", |number| {
        operator.rules(number.is_multiple_of(2));
    });
    run.kind("replace a daemon", |number| {
        operator.upgrade(turn(number));
    });
    run.with.row("all changes");
    run.without.row("none, as long");
    clients.finish();
}

/// What clients and the switch have noticed in some time.
#[derive(Default)]
struct Outcome {
    changes: usize,
    length: Duration,
    tally: Tally,
    repeated: Repeated,
    /// Connections that two hosts have answered.
    twice: usize,
    /// Those, and the ones that began with more than one SYN, in words.
    oddities: Vec<String>,
    /// Frames that the sniffer did not see.
    missed: u32,
}

impl Outcome {
    fn add(&mut self, later: &Self) {
        self.changes += later.changes;
        self.length += later.length;
        self.tally.add(&later.tally);
        self.repeated.syns += later.repeated.syns;
        self.repeated.segments += later.repeated.segments;
        self.twice += later.twice;
        self.missed += later.missed;
    }

    fn row(&self, name: &str) {
        println!(
            "{name:<20} {:>7} {:>4} s {:>8} {:>8} {:>6} {:>7} {:>6} {:>9} {:>8} {:>5} {:>7} {:>5} ms",
            self.changes,
            self.length.as_secs(),
            self.tally.connects,
            self.tally.requests,
            self.tally.broken.len(),
            self.tally.refused.len(),
            self.tally.failed.len(),
            self.repeated.syns,
            self.repeated.segments,
            self.twice,
            self.tally.slow,
            self.tally.slowest.as_millis()
        );
        tell(self.tally.failures());
        for odd in &self.oddities {
            println!("    {odd}");
        }
        if self.missed > 0 {
            println!("    the sniffer has missed {} frames", self.missed);
        }
    }
}

struct Run<'a> {
    lab: &'a Lab,
    clients: &'a Clients,
    /// Words of which one is in the name of a kind that is wanted; none if all are.
    only: &'a [&'a str],
    with: Outcome,
    without: Outcome,
}

impl Run<'_> {
    /// Makes changes of one kind, and then none for as long.
    fn kind(&mut self, name: &str, change: impl Fn(usize)) {
        if !self.only.is_empty() && !self.only.iter().any(|word| name.contains(word)) {
            return;
        }
        let mut with = self.watch(|| {
            for number in 0..CHANGES {
                change(number);
                thread::sleep(BETWEEN);
            }
        });
        with.changes = CHANGES;
        with.row(name);
        let without = self.watch(|| thread::sleep(with.length));
        without.row("  none");
        self.with.add(&with);
        self.without.add(&without);
    }

    /// What is noticed while something happens.
    fn watch(&self, happen: impl FnOnce()) -> Outcome {
        let repeated = Repeated::by_now(self.lab);
        let sniffer = Sniffer::start(self.lab, Look::Beginnings);
        self.clients.take();
        let start = Instant::now();
        happen();
        let length = start.elapsed();
        let tally = self.clients.take();
        let seen = sniffer.finish();
        let twice = |one: &Beginning| one.hosts.len() > 1;
        Outcome {
            changes: 0,
            length,
            tally,
            repeated: Repeated::by_now(self.lab).since(repeated),
            oddities: seen.oddities(),
            twice: seen.beginnings().into_values().filter(twice).count(),
            missed: seen.missed,
        }
    }
}

fn tell<'a>(failures: impl Iterator<Item = &'a Failure>) {
    let mut kinds: BTreeMap<(Option<u8>, &str), usize> = BTreeMap::new();
    for failure in failures {
        *kinds.entry((failure.host, &failure.what)).or_default() += 1;
    }
    for ((host, what), count) in kinds.iter().take(TOLD) {
        let host = host.map_or_else(|| "new".to_owned(), |host| format!("with host {host}"));
        println!("    {count} {host}: {what}");
    }
}
