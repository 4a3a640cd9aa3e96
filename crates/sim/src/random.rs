//! A scenario from a seed: 2 to 8 hosts, any period, and a schedule of faults, commands and load.
//!
//! All lengths are in budgets (tolerance times period), so that a cluster with a fast heartbeat goes through as much as
//! one with a slow one. Between bouts of trouble there are pauses in which the cluster settles, because the strictest
//! promises hold only then; in some bouts there are planned changes only. At the end everything is mended and every
//! host started again, so every run must end settled.

use crate::faults::LinkFault;
use crate::rng::{Rng, Stream};
use crate::scenario::{Action, Load, Mode, PortChange, Scenario, Step};
use crate::site;
use crate::span::Span;
use std::time::Duration;

/// The scenario of a seed.
pub fn scenario(seed: u64) -> Scenario {
    Draft::new(seed).finish()
}

/// Heartbeat periods in milliseconds; the fast ones are as likely as the slow ones.
const PERIODS: [u64; 6] = [20, 50, 100, 200, 500, 1000];

/// Budgets in which a cluster settles, as the invariants demand it.
const TO_SETTLE: u32 = 9;

struct Draft {
    rng: Rng,
    scenario: Scenario,
    at: Duration,
}

impl Draft {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed, Stream::Schedule);
        let hosts = rng.between(2, 8) as u8;
        let skew = (0..hosts)
            .map(|_| rng.between(0, 400) as i32 - 200)
            .collect();
        let scenario = Scenario {
            about: format!("Drawn from seed {seed}."),
            hosts,
            twins: if rng.percent(15.0) {
                vec![rng.between(1, u64::from(hosts)) as u8]
            } else {
                Vec::new()
            },
            later: if rng.percent(50.0) {
                vec![rng.between(1, u64::from(hosts)) as u8]
            } else {
                Vec::new()
            },
            newer: Vec::new(),
            legacy: Vec::new(),
            period: Span::millis(*rng.pick(&PERIODS)),
            tolerance: rng.between(3, 8) as u16,
            quorum: if rng.percent(15.0) { hosts } else { 0 },
            unicast_fallback: rng.percent(90.0),
            latency: Span(Duration::from_micros(rng.between(20, 300))),
            jitter: Span(Duration::from_micros(rng.between(1, 200))),
            skew,
            ..Scenario::default()
        };
        let mut draft = Self {
            rng,
            scenario,
            at: Duration::ZERO,
        };
        if draft.rng.percent(20.0) {
            draft.scenario.newer = vec![draft.host()];
        }
        if draft.rng.percent(15.0) {
            draft.scenario.legacy = vec![draft.host()];
        }
        draft
    }

    fn budget(&self) -> Duration {
        self.scenario.period.0 * u32::from(self.scenario.tolerance) + Duration::from_millis(5)
    }

    /// A time of so many budgets at most, and more than nothing.
    fn some(&mut self, budgets: u32) -> Duration {
        let most = self.budget() * budgets;
        Duration::from_millis(1) + self.rng.span(most)
    }

    fn host(&mut self) -> u8 {
        self.rng.between(1, u64::from(self.scenario.hosts)) as u8
    }

    fn push(&mut self, action: Action) {
        self.scenario.steps.push(Step {
            at: Span(self.at),
            when: None,
            action,
        });
    }

    fn wait(&mut self, budgets: u32) {
        let pause = self.some(budgets);
        self.at += pause;
    }

    fn settle(&mut self) {
        self.at += self.budget() * TO_SETTLE;
    }

    fn finish(mut self) -> Scenario {
        self.settle();
        let begin = self.at;
        let mut mended = true;
        for _ in 0..self.rng.between(2, 4) {
            // Who comes while a twin runs may believe the wrong one: a gap that is known (scenarios/gaps). So where there
            // is a twin, only weights and rules change.
            let twin = mended && !self.scenario.twins.is_empty() && self.rng.percent(50.0);
            if twin {
                let host = self.scenario.hosts + 1;
                self.push(Action::Start { host });
            }
            let planned = self.rng.percent(40.0);
            for _ in 0..self.rng.between(1, 4) {
                if twin {
                    self.configure();
                } else if planned {
                    self.planned();
                } else {
                    self.fault();
                }
                self.wait(3);
            }
            mended = twin || self.rng.percent(70.0);
            if mended {
                self.mend();
            }
        }
        self.mend();
        self.scenario.lasts = Span(self.at);
        let seconds = self.at.as_secs_f64();
        // About as many connections whatever the time scale.
        let per_second = |wanted: u64| (wanted as f64 / seconds).ceil() as u32;
        let (connections, datagrams) = (self.rng.between(20, 120), self.rng.between(10, 60));
        self.scenario.load = Load {
            clients: self.rng.between(1, 4) as u8,
            connections: per_second(connections),
            datagrams: per_second(datagrams),
            holds: Span(self.budget() * self.rng.between(1, 20) as u32),
            requests: self.rng.between(0, 6) as u8,
            from: Span(begin / 2),
            until: None,
        };
        self.scenario
    }

    /// Everything that runs or not runs as it should, and time to settle.
    fn mend(&mut self) {
        // Faults of the links and stalls end by themselves, after six budgets at most.
        self.at += self.budget() * 6;
        for twin in self.scenario.hosts + 1..=self.scenario.machines() {
            self.push(Action::Crash { host: twin });
        }
        for host in 1..=self.scenario.hosts {
            if self.rng.percent(50.0) {
                self.push(Action::Resume { host });
                self.push(Action::Port {
                    host,
                    change: PortChange::Enable,
                });
                self.push(Action::Start { host });
            } else {
                self.push(Action::Restart { host });
                let pause = self.rng.span(self.scenario.period.0);
                self.at += pause;
            }
        }
        self.settle();
    }

    fn planned(&mut self) {
        let host = self.host();
        let action = match self.rng.below(8) {
            0 => Action::Stop { host },
            1..4 => Action::Drainstop {
                host,
                within: if self.rng.percent(20.0) {
                    Some(Span(self.some(4)))
                } else {
                    None
                },
            },
            4 => Action::Suspend { host },
            5 => Action::Resume { host },
            6 => Action::Start { host },
            _ => return self.configure(),
        };
        self.push(action);
    }

    fn configure(&mut self) {
        let host = self.host();
        let action = match self.rng.below(5) {
            0 => {
                let changes = [PortChange::Enable, PortChange::Disable, PortChange::Drain];
                Action::Port {
                    host,
                    change: *self.rng.pick(&changes),
                }
            }
            1 => Action::Rules {
                set: self.rng.below(u64::from(site::RULE_SETS)) as u8,
                hosts: Vec::new(),
            },
            2 => Action::Mode {
                mode: *self.rng.pick(&[Mode::Unicast, Mode::Multicast, Mode::Igmp]),
                hosts: Vec::new(),
            },
            _ => Action::Weight {
                host,
                weight: self.rng.between(10, 100) as u8,
            },
        };
        self.push(action);
    }

    fn fault(&mut self) {
        let host = self.host();
        let action = match self.rng.below(22) {
            0..3 => Action::Crash { host },
            3 => Action::Kill { host },
            4 | 5 => Action::Restart { host },
            6 => Action::Flap {
                host,
                times: self.rng.between(2, 4) as u8,
                every: Span(self.budget() / 2 + self.rng.span(self.scenario.period.0 * 8)),
            },
            7..10 => Action::Stall {
                host,
                lasting: Span(self.some(4)),
                timers_first: self.rng.percent(50.0),
            },
            10 => Action::Skew {
                host,
                ppm: self.rng.between(0, 400) as i32 - 200,
            },
            11 => Action::Unplug {
                host,
                lasting: Span(self.some(4)),
            },
            12 => Action::Replay {
                host,
                age: Span(self.some(8)),
                count: self.rng.between(1, 20) as u32,
            },
            13 => return self.planned(),
            _ => Action::Link {
                fault: self.link_fault(host),
                lasting: Span(self.some(5)),
            },
        };
        self.push(action);
    }

    fn link_fault(&mut self, host: u8) -> LinkFault {
        let other = self.host();
        match self.rng.below(11) {
            0 => LinkFault::Cut {
                from: vec![host],
                to: vec![other],
            },
            1 => {
                let bits = self.rng.draw();
                let hosts: Vec<u8> = (1..=self.scenario.hosts)
                    .filter(|host| bits >> host & 1 != 0)
                    .collect();
                LinkFault::Partition { hosts }
            }
            2 => LinkFault::Mute { host },
            3 => LinkFault::Deaf { host },
            4 => {
                let mut some = || {
                    let one = self.rng.percent(40.0);
                    if one { vec![self.host()] } else { Vec::new() }
                };
                LinkFault::BlockBroadcast {
                    from: some(),
                    to: some(),
                }
            }
            5 => LinkFault::Loss {
                percent: self.rng.between(1, 25) as f64,
                from: Vec::new(),
                to: Vec::new(),
            },
            6 => LinkFault::Burst {
                percent: self.rng.between(1, 10) as f64,
                length: self.rng.between(2, 6) as u32,
            },
            7 => {
                let by = self.rng.span(self.scenario.period.0);
                LinkFault::Delay {
                    by: Span(by),
                    from: Vec::new(),
                    to: Vec::new(),
                }
            }
            8 => LinkFault::Reorder {
                percent: self.rng.between(1, 30) as f64,
                by: self.scenario.period,
            },
            9 => LinkFault::Duplicate {
                percent: self.rng.between(1, 50) as f64,
            },
            _ => LinkFault::Corrupt {
                percent: self.rng.between(1, 20) as f64,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_scenario_that_reads_back() {
        for seed in 0..200 {
            let drawn = scenario(seed);
            assert_eq!(drawn, scenario(seed));
            assert_eq!(Scenario::parse(&drawn.to_toml()), Ok(drawn));
        }
    }
}
