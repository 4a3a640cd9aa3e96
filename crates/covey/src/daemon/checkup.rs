//! The daemon's check-ups: every few seconds it looks what is wrong, as `covey doctor` does when it is asked.
//!
//! ```text
//!   loop: status ----> blocking thread: the machine, doctor::examine ----> loop: events, numbers for the heartbeat
//! ```
//!
//! Whatever may block runs beside the daemon's loop, and at the priority of ordinary processes. A finding counts once two
//! check-ups in a row have made it, and is gone once two have not: what passes by itself is not told.
//! Used by the daemon's loop. Specification: docs/design.md, "Doctor".

use super::minute::Minute;
use super::{Daemon, sys};
use crate::doctor::{self, Evidence, Finding, Kind, Patient, Severity as Weight, Sources, Told};
use crate::sockets;
use crate::status::{Fenced, Recent, Status, Tally};
use covey_proto::Input;
use covey_proto::event::Severity;
use covey_proto::time::Time;
use covey_proto::wire::heartbeat::MAX_FINDINGS;
use std::time::Duration;
use tokio::sync::mpsc;

/// Two check-ups are as far apart as two leases are long, within these limits.
const SOONEST: Duration = Duration::from_secs(2);
const LATEST: Duration = Duration::from_secs(10);
/// Check-ups in a row that make a finding, or end it.
const SURE: u32 = 2;

/// What a check-up has brought.
pub(super) struct CheckedUp {
    findings: Vec<Finding>,
    /// The counters, and when they were read.
    tally: (Time, Tally),
}

/// When to look, and what has been found.
pub(super) struct Checkup {
    interval: Duration,
    next_at: Time,
    running: bool,
    found_out: mpsc::Sender<CheckedUp>,
    results: mpsc::Receiver<CheckedUp>,
    tallies: Minute<Tally>,
    recent: Recent,
    watched: Watched,
    fences: Option<(u64, Time, String)>,
}

impl Checkup {
    /// The first check-up comes one interval after `now`. `known` is what an earlier daemon has told already.
    pub(super) fn new(now: Time, expiry: Duration, known: Vec<Finding>) -> Self {
        let (found_out, results) = mpsc::channel(1);
        let interval = (expiry * 2).clamp(SOONEST, LATEST);
        Self {
            interval,
            next_at: now + interval,
            running: false,
            found_out,
            results,
            tallies: Minute::default(),
            recent: Recent::default(),
            watched: Watched::of(known),
            fences: None,
        }
    }

    /// When the next one is due.
    pub(super) const fn next_at(&self) -> Time {
        if self.running {
            Time::NEVER
        } else {
            self.next_at
        }
    }

    /// Waits for the end of one. Safe to cancel.
    pub(super) async fn finished(&mut self) -> CheckedUp {
        let Some(result) = self.results.recv().await else {
            unreachable!("the sender beside it is still there");
        };
        self.running = false;
        result
    }

    /// What counters have grown by lately.
    pub(super) fn recent(&self) -> Recent {
        self.recent.clone()
    }

    /// What is wrong, as far as people have been told.
    pub(super) fn findings(&self) -> Vec<Finding> {
        self.watched.sure().cloned().collect()
    }

    /// The host has stopped serving by itself.
    pub(super) fn note_fence(&mut self, now: Time, why: String) {
        let times = self.fences.as_ref().map_or(0, |(times, _, _)| *times);
        self.fences = Some((times + 1, now, why));
    }

    /// How often it has, and when last.
    pub(super) fn fenced(&self, now: Time) -> Option<Fenced> {
        let (times, at, why) = self.fences.as_ref()?;
        Some(Fenced {
            times: *times,
            ago_ms: now.since(*at).as_secs_f64() * 1e3,
            why: why.clone(),
        })
    }

    fn begin(&mut self, now: Time, status: Status) {
        self.running = true;
        self.next_at = now + self.interval;
        let found_out = self.found_out.clone();
        tokio::task::spawn_blocking(move || {
            // If nobody listens any more, nobody wants to know.
            let _ = found_out.blocking_send(look(now, status));
        });
    }

    fn note(&mut self, (at, tally): (Time, Tally)) {
        self.tallies.note(at, tally);
        let ends = (self.tallies.oldest(), self.tallies.newest());
        if let (Some((_, oldest)), Some((_, newest))) = ends {
            self.recent = newest.since(oldest);
        }
    }
}

/// Looks at this machine and at what its daemon says `now`. May block.
fn look(now: Time, status: Status) -> CheckedUp {
    // Where this cannot be read there is nothing to compare.
    let tally = Tally::of(&status, sockets::refused().unwrap_or_default());
    let machine = doctor::gather(&Patient::of_status(&status), &Sources::default());
    let machine =
        machine.inspect_err(|error| tracing::warn!("the machine cannot be looked at: {error}"));
    let evidence = Evidence {
        daemon: doctor::Daemon::Answers(Box::new(status)),
        configuration: None,
        machine: machine.ok(),
    };
    CheckedUp {
        findings: doctor::examine(&evidence).findings,
        tally: (now, tally),
    }
}

impl Daemon {
    /// Begins a check-up if one is due.
    pub(super) fn check_up(&mut self) {
        let now = sys::now();
        if now >= self.checkup.next_at() {
            let status = self.status();
            self.checkup.begin(now, status);
        }
    }

    /// Tells what is new, people by events and the other hosts by numbers.
    pub(super) fn note_checked_up(&mut self, result: CheckedUp) {
        self.checkup.note(result.tally);
        for news in self.checkup.watched.update(result.findings) {
            self.tell(&news);
        }
        let numbers = self.checkup.watched.numbers();
        self.input(Input::Findings(&numbers));
    }

    fn tell(&mut self, news: &News) {
        match news {
            News::Begins(finding) => {
                let told = finding.kind().map(|kind| kind.entry().told);
                if let Some(Told::As(event)) = told {
                    let severity = match finding.severity {
                        Weight::Info => Severity::Info,
                        Weight::Warning => Severity::Warning,
                        Weight::Error => Severity::Error,
                    };
                    let text = format!("{}: {} {}", finding.name, finding.what, finding.cure);
                    self.journal.record(event, severity, text);
                }
            }
            News::Ends(finding) => {
                let text = format!("{} is over; it was: {}", finding.name, finding.what);
                self.journal.record(doctor::ENDS, Severity::Info, text);
            }
        }
    }
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum News {
    /// A finding is there.
    Begins(Finding),
    /// It is not there any more.
    Ends(Finding),
}

/// A finding that some check-up has made.
#[derive(Clone, Debug)]
struct Case {
    finding: Finding,
    is_there: bool,
    /// How many check-ups in a row have said otherwise.
    doubts: u32,
}

/// All of them, in the order of the last check-up.
#[derive(Clone, Debug, Default)]
struct Watched(Vec<Case>);

impl Watched {
    fn of(known: Vec<Finding>) -> Self {
        let case = |finding| Case {
            finding,
            is_there: true,
            doubts: 0,
        };
        Self(known.into_iter().map(case).collect())
    }

    fn sure(&self) -> impl Iterator<Item = &Finding> {
        let there = self.0.iter().filter(|case| case.is_there);
        there.map(|case| &case.finding)
    }

    /// For the other hosts: the numbers of the kinds, the worst first. What the last check-up has not found is not among
    /// them: they may ask at any moment, and should hear how it is now.
    fn numbers(&self) -> Vec<u8> {
        let mut numbers = Vec::new();
        let found = self
            .0
            .iter()
            .filter(|case| case.is_there && case.doubts == 0);
        let kinds = found.filter_map(|case| case.finding.kind());
        for kind in kinds.map(Kind::number) {
            if !numbers.contains(&kind) && numbers.len() < MAX_FINDINGS {
                numbers.push(kind);
            }
        }
        numbers
    }

    /// Takes what a check-up has found; says what is new.
    fn update(&mut self, found: Vec<Finding>) -> Vec<News> {
        let mut before = std::mem::take(&mut self.0);
        let mut news = Vec::new();
        for finding in found {
            let known = before
                .iter()
                .position(|case| case.finding.is_same(&finding));
            let known = known.map(|index| before.remove(index));
            let mut case = Case {
                is_there: known.as_ref().is_some_and(|case| case.is_there),
                doubts: known.map_or(0, |case| case.doubts),
                finding,
            };
            if case.is_there {
                case.doubts = 0;
            } else {
                case.doubts += 1;
                if case.doubts == SURE {
                    (case.is_there, case.doubts) = (true, 0);
                    news.push(News::Begins(case.finding.clone()));
                }
            }
            self.0.push(case);
        }
        for mut case in before.into_iter().filter(|case| case.is_there) {
            case.doubts += 1;
            if case.doubts == SURE {
                news.push(News::Ends(case.finding));
            } else {
                self.0.push(case);
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(name: &str, figure: u32) -> Finding {
        let text = format!("{{\"name\":\"{name}\",\"severity\":\"error\",\"what\":\"{figure}\"}}");
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn what_passes_by_itself_is_not_told_and_what_stays_is_told_once() {
        let mut watched = Watched::default();
        let mut there = |names: &[&str], figure| {
            let found = names.iter().map(|name| finding(name, figure)).collect();
            let news = watched.update(found);
            let news = news.iter().map(|news| match news {
                News::Begins(finding) => format!("+{}", finding.name),
                News::Ends(finding) => format!("-{} {}", finding.name, finding.what),
            });
            news.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(there(&["rp-filter"], 1), "");
        assert_eq!(there(&[], 2), "");
        assert_eq!(there(&["rp-filter"], 3), "");
        assert_eq!(there(&["rp-filter", "alone"], 4), "+rp-filter");
        assert_eq!(there(&["rp-filter", "alone"], 5), "+alone");
        // One check-up without it is none.
        assert_eq!(there(&["alone"], 6), "");
        assert_eq!(there(&["rp-filter", "alone"], 7), "");
        assert_eq!(there(&["alone"], 8), "");
        assert_eq!(there(&["alone"], 9), "-rp-filter 7");
        assert_eq!(there(&["alone"], 10), "");
        assert_eq!(watched.numbers(), [Kind::Alone.number()]);
        watched.update(Vec::new());
        assert_eq!(watched.numbers(), [0; 0]);
        assert_eq!(watched.sure().count(), 1);
    }

    #[test]
    fn a_daemon_that_takes_over_tells_nothing_again() {
        let mut watched = Watched::of(vec![finding("alone", 1)]);
        assert_eq!(watched.update(vec![finding("alone", 2)]), []);
        assert_eq!(watched.update(Vec::new()), []);
        assert_eq!(watched.update(Vec::new()).len(), 1);
    }

    #[test]
    fn counters_are_compared_over_a_minute() {
        let at = |second: u64, refused: u64| {
            let mut status =
                crate::lab::fake::status(covey_proto::ids::HostId::new(1).unwrap(), &[1]);
            status.host.uptime_ms = second * 1000;
            let at = Time::from_micros(second * 1_000_000);
            (at, Tally::of(&status, refused))
        };
        let mut checkup = Checkup::new(Time::ZERO, Duration::from_secs(5), Vec::new());
        let mut recent = |second, refused| {
            checkup.note(at(second, refused));
            (checkup.recent.window_ms / 1000, checkup.recent.refused)
        };
        assert_eq!(recent(10, 5), (0, 0));
        assert_eq!(recent(20, 7), (10, 2));
        for second in 3..10 {
            recent(second * 10, 8);
        }
        assert_eq!(recent(100, 8), (60, 0));
    }
}
