//! Whose connections a crash breaks, and how soon their clients learn of it. docs/benchmarks.md, "Connections after a crash".
//!
//! Each lab sees two crashes. Before the first nobody lingers. When the host has come back it owns buckets in which the others
//! have connections, so the second crash meets many buckets that several hosts may have connections in ("shared").
//!
//! What counts is the client's segments after the commit of the map without the dead host: a bucket that is not shared resets the
//! first, a shared one the second, because its owner asks the others first. Until all have reported under the new map
//! every bucket is shared.

use crate::clients::{Clients, Failure};
use crate::common;
use crate::lab::{Lab, Timing};
use crate::plot::{self, Row};
use crate::sniffer::{Kind, Look, Seen, Sniffer, now};
use std::thread;
use std::time::Duration;

const TIMING: Timing = Timing {
    period_ms: 200,
    tolerance: 5,
};
/// Connections that are held when a host dies.
const HELD: usize = 10_000;
/// New connections per second meanwhile.
const RATE: u32 = 500;
/// The hosts that crash first and second, a pair for each lab.
const VICTIMS: [[u8; 2]; 3] = [[1, 2], [2, 3], [3, 1]];
/// A reset that comes later after the client's segment is late.
const PROMPT: Duration = Duration::from_millis(50);
/// How long the clients have to ask on all connections (every 10 s) and to repeat what was not answered.
const AFTERMATH: Duration = Duration::from_secs(15);
/// What is shorter is told as this: the switch notes when it had a frame after it has passed it on, so a host on another
/// processor may have answered by then.
const LEAST: Duration = Duration::from_micros(1);
/// Dots in a row of the plot.
const PARTS: usize = 100;

pub(crate) fn measure() {
    println!(
        "{:<26} {:>8} {:>6} {:>7} {:>7} {:>7} {:>8} {:>6} {:>6} {:>9} {:>9} {:>7}",
        "",
        "new map",
        "had",
        "others'",
        "1st",
        "2nd",
        "later",
        "over",
        "none",
        "median",
        "longest",
        "missed"
    );
    println!(
        "{:<26} {:>8} {:>6} {:>7} {:>7} {:>7} {:>8} {:>6}",
        "", "after", "", "broken", "segment", "segment", "segment", "50 ms"
    );
    let mut rows = ["nobody lingers", "others linger"].map(|name| Row {
        name: format!("Covey, {name}"),
        values: Vec::new(),
    });
    for victims in VICTIMS {
        let lab = Lab::up("crash", 3, TIMING);
        let clients = Clients::start(&lab);
        for (victim, row) in victims.into_iter().zip(&mut rows) {
            clients.hold(HELD);
            clients.connect(RATE);
            let fate = crash(&lab, &clients, victim);
            fate.tell(&format!("host {victim}, {}", &row.name["Covey, ".len()..]));
            let times = fate.times.iter().map(|time| (*time).max(LEAST));
            let times = times.map(|time| time.as_secs_f64() * 1e3);
            row.values.extend(times);
            clients.pause();
            lab.fault(&["heal"]);
            lab.await_agreement(&lab.hosts());
        }
        clients.finish();
    }
    for row in &mut rows {
        row.values.sort_by(f64::total_cmp);
        let last = row.values.len() - 1;
        row.values = (0..=PARTS)
            .map(|part| row.values[last * part / PARTS])
            .collect();
    }
    let title =
        "from a client's segment to its reset after a crash, each dot 1 % of the connections";
    common::draw("bench-crash.svg", &plot::dots(title, &rows));
}

fn crash(lab: &Lab, clients: &Clients, victim: u8) -> Fate {
    let others = lab.hosts().into_iter().filter(|host| *host != victim);
    let others: Vec<u8> = others.collect();
    clients.take();
    let sniffer = Sniffer::start(lab, Look::Everything);
    let had = clients.held_by(victim);
    let began = now();
    lab.fault(&["crash", &victim.to_string()]);
    lab.await_agreement(&others);
    thread::sleep(AFTERMATH);
    let seen = sniffer.finish();
    let tally = clients.take();

    let commit = seen.commits.iter().find(|at| **at > began);
    let commit = *commit.expect("the survivors have committed a map");
    let mut fate = Fate {
        commit: commit - began,
        had,
        missed: seen.missed,
        ..Fate::default()
    };
    for failure in &tally.broken {
        if failure.host == Some(victim) {
            fate.note(&seen, failure, commit);
        } else {
            fate.others += 1;
        }
    }
    fate.times.sort_unstable();
    fate
}

/// What became of the connections that the dead host had.
#[derive(Default)]
struct Fate {
    /// When the map without it was committed, after the crash.
    commit: Duration,
    /// How many there were.
    had: usize,
    /// Connections of other hosts that broke.
    others: usize,
    /// Those that were reset after the client's first, second, or a later segment under the new map.
    after: [usize; 3],
    /// Those whose reset came late after that segment.
    late: usize,
    /// From that segment to the reset.
    times: Vec<Duration>,
    missed: u32,
}

impl Fate {
    fn note(&mut self, seen: &Seen, failure: &Failure, commit: Duration) {
        let segments = seen.segments.iter();
        let mut segments = segments.filter(|one| one.client == failure.client && one.at > commit);
        let (mut asked, mut last) = (0, None);
        let reset = segments.find(|one| {
            if one.kind == Kind::FromClient {
                asked += 1;
                last = Some(one.at);
            }
            one.kind == Kind::Reset
        });
        if let (Some(reset), Some(last)) = (reset, last) {
            let time = reset.at - last;
            self.after[asked.min(3) - 1] += 1;
            self.late += usize::from(time > PROMPT);
            self.times.push(time);
        }
    }

    fn tell(&self, name: &str) {
        let ms = |time: Option<&Duration>| {
            let time = time.copied().unwrap_or_default().max(LEAST);
            format!("{:.3} ms", time.as_secs_f64() * 1e3)
        };
        let [first, second, later] = self.after;
        println!(
            "{name:<26} {:>5} ms {:>6} {:>7} {first:>7} {second:>7} {later:>8} {:>6} {:>6} {:>9} {:>9} {:>7}",
            self.commit.as_millis(),
            self.had,
            self.others,
            self.late,
            self.had - self.times.len(),
            ms(self.times.get(self.times.len() / 2)),
            ms(self.times.last()),
            self.missed
        );
    }
}
