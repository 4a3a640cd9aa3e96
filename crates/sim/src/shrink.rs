//! Makes a failing scenario smaller: leaves out steps, load and hosts as long as the same promise is broken.
//!
//! A schedule is data, and each purpose draws its own random numbers, so what is left mostly goes as before.

use crate::invariant::Violation;
use crate::run::run;
use crate::scenario::Scenario;
use crate::span::Span;
use covey_proto::time::Time;
use std::time::Duration;

/// Runs that are tried at most.
const TRIES: u32 = 600;

/// A smaller scenario that breaks the same promise, and how.
pub struct Shrunk {
    /// The scenario.
    pub scenario: Scenario,
    /// What it breaks.
    pub violation: Violation,
    /// Runs that it took.
    pub tries: u32,
}

/// Shrinks a scenario that breaks a promise with this seed.
pub fn shrink(scenario: &Scenario, seed: u64, violation: &Violation) -> Shrunk {
    let mut search = Search {
        seed,
        best: Shrunk {
            scenario: scenario.clone(),
            violation: violation.clone(),
            tries: 0,
        },
    };
    loop {
        let before = search.best.scenario.clone();
        search.end_early();
        search.drop_steps();
        search.drop_load();
        search.drop_hosts();
        search.plainer();
        if search.best.scenario == before || search.best.tries >= TRIES {
            return search.best;
        }
    }
}

struct Search {
    seed: u64,
    best: Shrunk,
}

impl Search {
    /// Takes over a candidate if it breaks the same promise.
    fn attempt(&mut self, change: impl FnOnce(&mut Scenario)) -> bool {
        let mut candidate = self.best.scenario.clone();
        change(&mut candidate);
        if candidate == self.best.scenario || self.best.tries >= TRIES {
            return false;
        }
        self.best.tries += 1;
        let violation = run(&candidate, self.seed).violation;
        let same = violation.filter(|violation| violation.promise == self.best.violation.promise);
        let Some(violation) = same else {
            return false;
        };
        self.best.scenario = candidate;
        self.best.violation = violation;
        true
    }

    fn end_early(&mut self) {
        let end = self.best.violation.at.since(Time::ZERO) + Duration::from_millis(1);
        self.attempt(|scenario| {
            scenario.lasts = Span(end);
            scenario.steps.retain(|step| step.at.0 <= end);
        });
    }

    /// Leaves out steps: halves, quarters and so on, at last one by one.
    fn drop_steps(&mut self) {
        let mut size = self.best.scenario.steps.len();
        while size > 0 {
            let mut from = 0;
            while from < self.best.scenario.steps.len() {
                let to = (from + size).min(self.best.scenario.steps.len());
                let dropped = self.attempt(|scenario| {
                    scenario.steps.drain(from..to);
                });
                if !dropped {
                    from = to;
                }
            }
            size /= 2;
        }
    }

    fn drop_load(&mut self) {
        self.attempt(|scenario| scenario.load.clients = 0);
        self.attempt(|scenario| scenario.load.datagrams = 0);
        self.attempt(|scenario| scenario.load.connections = 0);
        self.attempt(|scenario| scenario.load.requests = 0);
        while self.best.scenario.load.clients > 1
            && self.attempt(|scenario| scenario.load.clients -= 1)
        {}
        while self.best.scenario.load.connections > 1
            && self.attempt(|scenario| scenario.load.connections /= 2)
        {}
    }

    /// Leaves out the last host again and again; twins go first.
    fn drop_hosts(&mut self) {
        let last = |scenario: &Scenario| scenario.machines();
        while last(&self.best.scenario) > 1 {
            let gone = last(&self.best.scenario);
            let dropped = self.attempt(|scenario| {
                if scenario.twins.pop().is_none() {
                    scenario.hosts -= 1;
                }
                for hosts in [
                    &mut scenario.later,
                    &mut scenario.newer,
                    &mut scenario.legacy,
                ] {
                    hosts.retain(|host| *host != gone);
                }
                scenario.skew.truncate(usize::from(gone) - 1);
                scenario
                    .steps
                    .retain(|step| !step.action.hosts().contains(&gone));
                scenario
                    .expectations
                    .retain(|expectation| !expectation.what.hosts().contains(&gone));
            });
            if !dropped {
                return;
            }
        }
    }

    fn plainer(&mut self) {
        self.attempt(|scenario| scenario.skew.clear());
        self.attempt(|scenario| scenario.later.clear());
        self.attempt(|scenario| scenario.newer.clear());
        self.attempt(|scenario| scenario.legacy.clear());
        self.attempt(|scenario| scenario.quorum = 0);
        self.attempt(|scenario| scenario.unicast_fallback = true);
        self.attempt(|scenario| scenario.jitter = Span::default());
        self.attempt(|scenario| scenario.latency = Scenario::default().latency);
    }
}
