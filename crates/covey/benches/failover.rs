//! What clients wait for: the blackout after a crash, and the time that a host takes to join. Real daemons in a lab
//! of three hosts; `cargo bench --bench failover` runs it; it needs root and takes about a minute.
//!
//! Blackout: 20 source ports of the host that crashes send a datagram every 2 ms each; the figure is the longest
//! time between two that were answered, over all these ports. It contains the detection (tolerance times
//! period since the last heartbeat) and the agreement of the others. Joining: from the start of the daemon, or of
//! `covey start`, until the host has converged, the start of the commands included (about 15 ms).

#![allow(clippy::unwrap_used)] // as in the tests whose instruments these are

#[path = "../tests/kernel_cluster/echo.rs"]
#[expect(dead_code, reason = "the tests look at more than the gaps")]
mod echo;
#[path = "../tests/kernel_cluster/lab.rs"]
#[expect(dead_code, reason = "the tests do more with a lab")]
mod lab;
#[path = "../tests/kernel_cluster/netns.rs"]
mod netns;

use echo::Probe;
use lab::{Lab, Timing};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

const RUNS: usize = 7;
const NLB: Timing = Timing {
    period_ms: 1000,
    tolerance: 5,
};
const FAST: Timing = Timing {
    period_ms: 100,
    tolerance: 5,
};
const FASTEST: Timing = Timing {
    period_ms: 20,
    tolerance: 8,
};

fn main() {
    // `cargo test --benches` runs this file too, and has no time for it.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("failover: measures only under `cargo bench --bench failover`");
        return;
    }
    if std::fs::metadata("/proc/self").is_ok_and(|owner| owner.uid() != 0) {
        println!("SKIPPED failover: a lab needs root");
        return;
    }
    println!(
        "{:<42} {:>12} {:>5} {:>10} {:>10} {:>10}",
        "", "timing", "runs", "least", "median", "most"
    );
    for timing in [FAST, FASTEST] {
        row("blackout after a crash", timing, &blackouts(timing));
    }
    for timing in [NLB, FAST, FASTEST] {
        let [daemon, command] = joins(timing);
        row("join, from the start of the daemon", timing, &daemon);
        row("join, from `covey start`", timing, &command);
    }
}

fn row(what: &str, timing: Timing, times: &[Duration]) {
    let mut times = times.to_vec();
    times.sort_unstable();
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    println!(
        "{what:<42} {:>12} {:>5} {:>10} {:>10} {:>10}",
        timing.to_string(),
        times.len(),
        ms(times[0]),
        ms(times[times.len() / 2]),
        ms(times[times.len() - 1])
    );
}

fn blackouts(timing: Timing) -> Vec<Duration> {
    let lab = Lab::up("blackout", 3, timing);
    let run = |_| {
        let ports = echo::ports_by_owner(&lab, 20);
        let probe = Probe::start(
            &lab,
            &ports.into_iter().filter(|(owner, _)| *owner == 2).collect(),
        );
        lab.fault(&["crash", "2"]);
        lab.await_agreement(&[1, 3]);
        // The agreement ends the blackout; the next answers show that.
        std::thread::sleep(timing.budget());
        let record = probe.finish();
        lab.fault(&["heal"]);
        record.longest_gap(|_| true)
    };
    (0..RUNS).map(run).collect()
}

/// From the start of the daemon, and from `covey start`.
fn joins(timing: Timing) -> [Vec<Duration>; 2] {
    let lab = Lab::up("join", 3, timing);
    let timed = |what: &dyn Fn()| {
        let start = Instant::now();
        what();
        lab.await_agreement(&[1, 2, 3]);
        start.elapsed()
    };
    let daemon = |_| {
        lab.signal(3, "TERM");
        lab.await_end(3);
        lab.await_agreement(&[1, 2]);
        timed(&|| lab.fault(&["heal"]))
    };
    let command = |_| {
        lab.covey(3, &["stop"]);
        lab.await_agreement(&[1, 2]);
        timed(&|| drop(lab.covey(3, &["start"])))
    };
    [
        (0..RUNS).map(daemon).collect(),
        (0..RUNS).map(command).collect(),
    ]
}
