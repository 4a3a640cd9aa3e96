//! Connections that are held and new ones, while an operator does all that he may do, and when a host dies.
//! docs/benchmarks.md, "Connections survive".
//!
//! The changes come one kind after the other, each many times; a run without changes of the same length comes last,
//! because what is slow on a busy machine is slow without them too.

use crate::changes::Operator;
use crate::clients::{Clients, Failure, Repeated, Tally};
use crate::lab::{Lab, Timing};
use crate::sniffer::{Kind, Look, Seen, Sniffer, now};
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
/// A reset that comes later after the client's segment is late.
const PROMPT: Duration = Duration::from_millis(50);
/// After a crash: until every held connection was asked something, and given up if there was no answer.
const AFTERMATH: Duration = Duration::from_secs(32);
/// Of many failures, so many are told in full.
const TOLD: usize = 5;

pub(crate) fn measure() {
    let lab = Lab::up("survival", 3, TIMING);
    let operator = Operator::new(&lab);
    let clients = Clients::start(&lab);
    println!(
        "{:<22} {:>7} {:>7} {:>9} {:>9} {:>6} {:>7} {:>6} {:>9} {:>8} {:>6} {:>8} {:>8}",
        "",
        "changes",
        "length",
        "connects",
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
    println!("{:>93} {:>8} {:>6} {:>8}", "again", "again", "", "0.1 s");

    let turn = |number: usize| 1 + (number % 3) as u8;
    // Host 3 comes and goes without any held connection of its own, so that it really leaves.
    operator.leave(3);
    clients.hold(HELD);
    clients.connect(RATE);
    let mut run = Run {
        lab: &lab,
        clients: &clients,
        all: Tally::default(),
        length: Duration::ZERO,
    };
    run.phase("join, leave", CHANGES, |_| {
        operator.start(3);
        thread::sleep(BETWEEN);
        operator.leave(3);
    });
    operator.start(3);
    run.phase("drainstop, start", CHANGES, |number| {
        operator.drainstop(turn(number));
        thread::sleep(BETWEEN);
        operator.start(turn(number));
    });
    run.phase("drain, enable a rule", CHANGES, |number| {
        operator.drain(turn(number));
        thread::sleep(BETWEEN);
        operator.enable(turn(number));
    });
    run.phase("weights", CHANGES, |number| {
        operator.weigh(2, if number.is_multiple_of(2) { 90 } else { 50 });
    });
    run.phase("rules", CHANGES, |number| {
        operator.rules(number.is_multiple_of(2));
    });
    let planned = run.length;
    run.phase("restart of a daemon", CHANGES, |number| {
        operator.restart(turn(number));
    });
    clients.hold(HELD);
    run.phase("none", 1, |_| thread::sleep(planned));
    crash(&lab, &clients, 2);
    clients.finish();
}

struct Run<'a> {
    lab: &'a Lab,
    clients: &'a Clients,
    all: Tally,
    length: Duration,
}

impl Run<'_> {
    /// Makes changes of one kind, and tells what the clients and the switch have noticed.
    fn phase(&mut self, name: &str, changes: usize, change: impl Fn(usize)) {
        let repeated = Repeated::by_now(self.lab);
        let sniffer = Sniffer::start(self.lab, Look::Beginnings);
        self.clients.take();
        let start = Instant::now();
        for number in 0..changes {
            change(number);
            thread::sleep(BETWEEN);
        }
        let length = start.elapsed();
        let tally = self.clients.take();
        let seen = sniffer.finish();
        let repeated = Repeated::by_now(self.lab).since(repeated);
        let twice = |seen: &Seen| {
            let beginnings = seen.beginnings();
            beginnings
                .values()
                .filter(|one| one.hosts.len() > 1)
                .count()
        };
        println!(
            "{name:<22} {changes:>7} {:>5} s {:>9} {:>9} {:>6} {:>7} {:>6} {:>9} {:>8} {:>6} {:>8} {:>5} ms",
            length.as_secs(),
            tally.connects,
            tally.requests,
            tally.broken.len(),
            tally.refused.len(),
            tally.failed.len(),
            repeated.syns,
            repeated.segments,
            twice(&seen),
            tally.slow,
            tally.slowest.as_millis()
        );
        tell(tally.failures());
        if seen.missed > 0 {
            println!("    the sniffer has missed {} frames", seen.missed);
        }
        self.all.add(&tally);
        self.length += length;
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

/// A host dies: whose connections break, and how soon their clients learn of it.
fn crash(lab: &Lab, clients: &Clients, victim: u8) {
    clients.hold(HELD);
    let left: Vec<u8> = lab
        .hosts()
        .into_iter()
        .filter(|host| *host != victim)
        .collect();
    clients.take();
    let sniffer = Sniffer::start(lab, Look::Everything);
    let began = now();
    lab.fault(&["crash", &victim.to_string()]);
    lab.await_agreement(&left);
    thread::sleep(AFTERMATH);
    let tally = clients.take();
    let seen = sniffer.finish();

    let commit = seen.commits.iter().find(|at| **at > began);
    let commit = *commit.expect("the survivors have committed a map");
    let mut fate = Fate::default();
    for failure in &tally.broken {
        if failure.host == Some(victim) {
            fate.note(&seen, failure, commit);
        } else {
            fate.others += 1;
        }
    }
    println!(
        "\ncrash of host {victim}: a new map after {:.0} ms; {} of its connections broken, {} of other hosts'\n\
         a reset within {} ms after the first segment under the new map: {}; after the second: {}; later: {}; \
         none: {}\nmedian time from that first segment to the reset: {:.1} ms, longest {:.1} ms; {} frames missed",
        (commit - began).as_secs_f64() * 1e3,
        fate.victims,
        fate.others,
        PROMPT.as_millis(),
        fate.after_first,
        fate.after_second,
        fate.later,
        fate.never,
        fate.median(),
        fate.times.last().copied().unwrap_or_default().as_secs_f64() * 1e3,
        seen.missed
    );
    tell(tally.failures());
}

#[derive(Default)]
struct Fate {
    victims: usize,
    others: usize,
    after_first: usize,
    after_second: usize,
    later: usize,
    never: usize,
    /// From the first segment to the reset, of those that had one, sorted.
    times: Vec<Duration>,
}

impl Fate {
    fn note(&mut self, seen: &Seen, failure: &Failure, commit: Duration) {
        self.victims += 1;
        let segments = seen.segments.iter();
        let mut segments = segments.filter(|one| one.client == failure.client && one.at > commit);
        let (mut asked, mut first) = (0, None);
        let reset = segments.find(|one| {
            if one.kind == Kind::FromClient {
                asked += 1;
                first = first.or(Some(one.at));
            }
            one.kind == Kind::Reset
        });
        match (reset, first) {
            (Some(reset), Some(first)) => {
                let time = reset.at - first;
                match asked {
                    1 if time <= PROMPT => self.after_first += 1,
                    2 => self.after_second += 1,
                    _ => self.later += 1,
                }
                let place = self.times.partition_point(|one| *one < time);
                self.times.insert(place, time);
            }
            (Some(_) | None, _) => self.never += 1,
        }
    }

    fn median(&self) -> f64 {
        let middle = self.times.get(self.times.len() / 2);
        middle.copied().unwrap_or_default().as_secs_f64() * 1e3
    }
}
