//! Many runs at once: all named scenarios, ranges of seeds, a soak until time is up. Runs know nothing of each other,
//! so they share the cores; the outcome does not depend on how.
//!
//! This is the one place that looks at a real clock, and only to say how fast it goes and when to stop.

use crate::invariant::Violation;
use crate::random;
use crate::report::Counts;
use crate::run::run;
use crate::scenario::Scenario;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A run that broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The scenario.
    pub scenario: Scenario,
    /// Its seed.
    pub seed: u64,
    /// What it broke.
    pub violation: Violation,
    /// The last things that happened.
    pub last: Vec<String>,
}

/// What many runs add up to.
#[derive(Default)]
pub struct Total {
    /// The sums.
    pub counts: Counts,
    /// Runs that broke a promise, in order of seed.
    pub failures: Vec<Failure>,
}

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so many seeds.
    Count(u64),
    /// When this time is over; runs that have begun are finished.
    Over(Duration),
}

/// What is told now and then: runs so far, violations so far, how long it took.
pub type Progress<'a> = &'a (dyn Fn(&Total, Duration) + Sync);

/// Runs the scenarios of all seeds from `from` on, on all cores. Stops after `most_failures`.
pub fn seeds(from: u64, until: Until, most_failures: usize, progress: Progress<'_>) -> Total {
    let next = AtomicU64::new(from);
    let enough = AtomicBool::new(false);
    let total = Mutex::new(Total::default());
    let stopwatch = Stopwatch::start();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        while !enough.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let over = match until {
                Until::Count(count) => seed - from >= count,
                Until::Over(time) => stopwatch.read() >= time,
            };
            if over {
                return;
            }
            let scenario = random::scenario(seed);
            let outcome = run(&scenario, seed);
            let mut total = total
                .lock()
                .expect("no run panics while it holds the total");
            total.counts.add(&outcome.counts);
            if let Some(violation) = outcome.violation {
                total.failures.push(Failure {
                    scenario,
                    seed,
                    violation,
                    last: outcome.last,
                });
                enough.fetch_or(total.failures.len() >= most_failures, Ordering::Relaxed);
            }
            progress(&total, stopwatch.read());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
    let mut total = total
        .into_inner()
        .expect("no run panics while it holds the total");
    total.failures.sort_by_key(|failure| failure.seed);
    total
}

/// Real time.
struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(
        clippy::disallowed_methods,
        reason = "runs have virtual time; how long they take in reality is told to people"
    )]
    fn start() -> Self {
        Self(Instant::now())
    }

    fn read(&self) -> Duration {
        self.0.elapsed()
    }
}
