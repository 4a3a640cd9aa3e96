//! The verdict on a demo: what went through, what each event cost, and whether all went as it should.

use super::event::Outcome;
use super::ledger::Totals;
use crate::duration;
use crate::lab::state::Lab;
use covey_proto::ids::HostId;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The shares of requests that count as fair with three hosts. Buckets are shared exactly; the requests are a
/// sample of them.
const FAIR: std::ops::RangeInclusive<f64> = 0.27..=0.39;

/// What `--json` prints, and the table for people.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    period_ms: f64,
    tolerance: u16,
    seconds: f64,
    traffic: Totals,
    /// Share of the requests by host while all were up, as a fraction of 1.
    shares: BTreeMap<String, f64>,
    events: Vec<EventLine>,
    checks: Vec<Check>,
    /// Whether all checks passed.
    pub(super) passed: bool,
}

#[derive(Debug, Serialize)]
struct EventLine {
    event: &'static str,
    host: u8,
    /// None: not within `bound_s`.
    converged_after_s: Option<f64>,
    bound_s: f64,
    dark_s: f64,
    requests: usize,
    retried: usize,
    failed: usize,
    datagrams_lost: usize,
    /// Kept connections that broke, by host.
    kept_broken: BTreeMap<String, usize>,
    told: String,
}

#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    passed: bool,
    seen: String,
}

impl Summary {
    pub(super) fn new(
        lab: &Lab,
        length: Duration,
        totals: &Totals,
        fair: &BTreeMap<HostId, usize>,
        outcomes: &[Outcome],
    ) -> Self {
        let counted: usize = fair.values().sum();
        let shares: BTreeMap<HostId, f64> = lab
            .everyone()
            .iter()
            .map(|host| {
                let count = fair.get(&host).copied().unwrap_or(0);
                (host, count as f64 / counted.max(1) as f64)
            })
            .collect();
        let checks = checks(totals, &shares, outcomes);
        Self {
            period_ms: lab.timing.period.as_secs_f64() * 1e3,
            tolerance: lab.timing.tolerance,
            seconds: length.as_secs_f64(),
            traffic: totals.clone(),
            shares: shares
                .into_iter()
                .map(|(host, share)| (format!("h{host}"), share))
                .collect(),
            events: outcomes.iter().map(event_line).collect(),
            passed: checks.iter().all(|check| check.passed),
            checks,
        }
    }
}

fn event_line(outcome: &Outcome) -> EventLine {
    let effect = &outcome.effect;
    EventLine {
        event: outcome.event.name(),
        host: outcome.event.host().get(),
        converged_after_s: outcome
            .converged_after
            .as_ref()
            .ok()
            .map(Duration::as_secs_f64),
        bound_s: outcome.bound.as_secs_f64(),
        dark_s: effect.dark.as_secs_f64(),
        requests: effect.requests,
        retried: effect.retried,
        failed: effect.failed_under_way + effect.failed_after,
        datagrams_lost: effect.lost,
        kept_broken: effect
            .broken
            .iter()
            .map(|(host, count)| (format!("h{host}"), *count))
            .collect(),
        told: outcome.told(),
    }
}

fn checks(totals: &Totals, shares: &BTreeMap<HostId, f64>, outcomes: &[Outcome]) -> Vec<Check> {
    let failed_in_events: usize = outcomes
        .iter()
        .map(|outcome| outcome.effect.failed_under_way + outcome.effect.failed_after)
        .sum();
    let failed_in_quiet = totals.failed.saturating_sub(failed_in_events);
    let not_allowed: usize = outcomes.iter().map(Outcome::failures_not_allowed).sum();
    let breaks: usize = outcomes.iter().map(Outcome::breaks_not_allowed).sum();
    let late = outcomes
        .iter()
        .filter(|outcome| outcome.converged_after.is_err())
        .count();
    let shares_text: Vec<String> = shares
        .values()
        .map(|share| format!("{:.1} %", share * 100.0))
        .collect();
    let in_flight: usize = outcomes.iter().map(|outcome| outcome.effect.twice).sum();
    let most_in_flight = outcomes
        .iter()
        .map(|outcome| outcome.effect.twice)
        .max()
        .unwrap_or(0);
    let unknown = totals.connections - totals.answered - totals.failed;
    vec![
        Check {
            what: "requests were answered, and none was forgotten",
            passed: totals.answered > 0 && unknown == 0,
            seen: format!("{} of {}", totals.answered, totals.connections),
        },
        // The hosts put a new map in force within a frame's travel of each other, not in the same instant.
        Check {
            what: "nothing was answered twice or wrongly, but for one in flight at a change",
            passed: totals.datagrams > 0 && totals.twice == in_flight && most_in_flight <= 1,
            seen: format!("{} of {} datagrams", totals.twice, totals.datagrams),
        },
        Check {
            what: "no request failed while nothing happened",
            passed: failed_in_quiet == 0,
            seen: failed_in_quiet.to_string(),
        },
        Check {
            what: "what happened failed no request that began after it",
            passed: not_allowed == 0,
            seen: not_allowed.to_string(),
        },
        Check {
            what: "a crash broke no kept connection of other hosts",
            passed: breaks == 0,
            seen: breaks.to_string(),
        },
        Check {
            what: "the cluster converged after each event within its bound",
            passed: late == 0,
            seen: format!("{} of {}", outcomes.len() - late, outcomes.len()),
        },
        Check {
            what: "with all hosts up, each had a fair share (27 to 39 %)",
            passed: shares.values().all(|share| FAIR.contains(share)),
            seen: shares_text.join(", "),
        },
    ]
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let traffic = &self.traffic;
        writeln!(
            f,
            "\n{:.1} s with a heartbeat every {}, {} missed ones mean death\n\n\
             connections  {:>7} asked for, {} answered, {} after TCP tried again, {} failed\n\
             datagrams    {:>7} sent, {} lost, {} answered twice or wrongly\n\
             kept         {:>7} connections broke\n",
            self.seconds,
            duration::format(Duration::from_secs_f64(self.period_ms / 1e3)),
            self.tolerance,
            traffic.connections,
            traffic.answered,
            traffic.retried,
            traffic.failed,
            traffic.datagrams,
            traffic.lost,
            traffic.twice,
            traffic.broken,
        )?;
        writeln!(
            f,
            "{:<7} {:>4} {:>12} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "event", "host", "converged", "bound", "dark", "requests", "retried", "failed", "lost"
        )?;
        for event in &self.events {
            let converged = event
                .converged_after_s
                .map_or_else(|| "no".to_owned(), |seconds| format!("{seconds:.2} s"));
            writeln!(
                f,
                "{:<7} {:>4} {converged:>12} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
                event.event,
                event.host,
                format!("{:.2} s", event.bound_s),
                format!("{:.2} s", event.dark_s),
                event.requests,
                event.retried,
                event.failed,
                event.datagrams_lost
            )?;
        }
        writeln!(f)?;
        for check in &self.checks {
            let verdict = if check.passed { "ok" } else { "NO" };
            writeln!(f, "{verdict:<4}{:<62} {}", check.what, check.seen)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
