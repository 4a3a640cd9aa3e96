//! What the demo shows while it runs: a table redrawn in place on a terminal, a line a second elsewhere, and
//! nothing on standard output when that is kept for JSON.

use super::ledger::{Ledger, RATE_SPAN};
use crate::lab::faults::Fault;
use crate::lab::report::{HostReport, Report, share, state_name};
use crate::lab::state::Lab;
use covey_proto::ids::HostId;
use std::cell::Cell;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::time::{Duration, Instant};

/// Where and how to show.
pub(super) struct Screen {
    kind: Kind,
    /// Lines of the table that stand on the terminal.
    drawn: Cell<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Terminal,
    Lines,
    /// Lines on standard error.
    Aside,
}

/// One row of the table.
struct Row {
    name: String,
    state: String,
    share: Option<f64>,
    rate: usize,
    kept: usize,
    heartbeat: Option<Duration>,
}

impl Screen {
    /// The screen that suits standard output.
    pub(super) fn new(json: bool) -> Self {
        let kind = match (json, stdout().is_terminal()) {
            (true, _) => Kind::Aside,
            (false, true) => Kind::Terminal,
            (false, false) => Kind::Lines,
        };
        Self {
            kind,
            drawn: Cell::new(0),
        }
    }

    /// Time between two drawings.
    pub(super) fn interval(&self) -> Duration {
        match self.kind {
            Kind::Terminal => Duration::from_millis(200),
            Kind::Lines | Kind::Aside => Duration::from_secs(1),
        }
    }

    /// A line that stays, above the table.
    pub(super) fn say(&self, line: &str) {
        self.write(&format!("{}{line}\n", self.erasure()));
    }

    /// Takes the table away.
    pub(super) fn clear(&self) {
        self.write(&self.erasure());
    }

    /// What takes the table away: up to its first line, then erase to the end of the screen.
    fn erasure(&self) -> String {
        match self.drawn.replace(0) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    /// Shows the cluster as it is now.
    pub(super) fn draw(&self, since_start: Duration, lab: &Lab, ledger: &Ledger) {
        let Ok(report) = Report::of(lab) else {
            // The next drawing shows it, or the demo ends on it.
            return;
        };
        let rows = rows(&report, ledger);
        match self.kind {
            Kind::Terminal => {
                let table = format!("\n{}", table(&rows, ledger.pending()));
                // In one piece, so that it does not flicker.
                self.write(&format!("{}{table}", self.erasure()));
                self.drawn.set(table.lines().count());
            }
            Kind::Lines | Kind::Aside => {
                self.write(&format!(
                    "{:>6.1} s  {}\n",
                    since_start.as_secs_f64(),
                    line(&rows)
                ));
            }
        }
    }

    /// Output is for people; if nobody reads it any more, the demo goes on.
    fn write(&self, text: &str) {
        let _ = match self.kind {
            Kind::Terminal | Kind::Lines => {
                let mut out = stdout();
                out.write_all(text.as_bytes()).and_then(|()| out.flush())
            }
            Kind::Aside => stderr().write_all(text.as_bytes()),
        };
    }
}

fn rows(report: &Report, ledger: &Ledger) -> Vec<Row> {
    let rates = ledger.answered_by(Instant::now() - RATE_SPAN);
    report
        .hosts
        .iter()
        .filter_map(|host| Some((host, HostId::new(host.id)?)))
        .map(|(host, id)| Row {
            name: host.name.clone(),
            state: state(host),
            share: host.status.as_ref().and_then(share),
            rate: rates.get(&id).copied().unwrap_or(0),
            kept: ledger.kept_by(id),
            heartbeat: heartbeat(report, id.get()),
        })
        .collect()
}

fn state(host: &HostReport) -> String {
    match (&host.status, host.faults.as_slice()) {
        (Some(status), []) => state_name(status).to_owned(),
        (Some(_) | None, [Fault::Cut, Fault::Killed, ..]) => "crashed".to_owned(),
        (Some(_) | None, [Fault::Cut, ..]) => "cut off".to_owned(),
        (Some(_) | None, [fault, ..]) => fault.to_string(),
        (None, []) => "silent".to_owned(),
    }
}

/// The age of a host's last heartbeat, in the eyes of whoever of the others heard from it last.
fn heartbeat(report: &Report, id: u8) -> Option<Duration> {
    report
        .hosts
        .iter()
        .filter(|observer| observer.id != id)
        .filter_map(|observer| observer.status.as_ref())
        .flat_map(|status| status.hosts.iter().filter(|member| member.id == id))
        .map(|member| member.last_heartbeat_ms)
        .min_by(f64::total_cmp)
        .and_then(|millis| Duration::try_from_secs_f64(millis / 1e3).ok())
}

fn table(rows: &[Row], pending: usize) -> String {
    let mut text = format!(
        "{:<5} {:<11} {:>7} {:>11} {:>5} {:>10}\n",
        "host", "state", "share", "requests/s", "kept", "heartbeat"
    );
    for row in rows {
        let share = row.share.map_or_else(|| "-".to_owned(), percent);
        let heartbeat = row.heartbeat.map_or_else(
            || "-".to_owned(),
            |age| format!("{:.2} s", age.as_secs_f64()),
        );
        let _ = writeln!(
            text,
            "{:<5} {:<11} {share:>7} {:>11} {:>5} {heartbeat:>10}",
            row.name, row.state, row.rate, row.kept
        );
    }
    let _ = writeln!(text, "waiting for an answer: {pending}");
    text
}

fn line(rows: &[Row]) -> String {
    rows.iter()
        .map(|row| {
            let share = row.share.map_or_else(|| "-".to_owned(), percent);
            format!(
                "{} {:<10} {share:>6} {:>4}/s",
                row.name, row.state, row.rate
            )
        })
        .collect::<Vec<_>>()
        .join(" | ")
}

fn percent(fraction: f64) -> String {
    format!("{:.1} %", fraction * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let row = |name: &str, state: &str, share, rate, kept, age| Row {
            name: name.to_owned(),
            state: state.to_owned(),
            share,
            rate,
            kept,
            heartbeat: Some(Duration::from_millis(age)),
        };
        vec![
            row("h1", "converged", Some(0.5), 102, 6, 140),
            row("h2", "crashed", None, 0, 0, 1230),
        ]
    }

    #[test]
    fn the_table_is_aligned() {
        insta::assert_snapshot!(table(&rows(), 3), @"
        host  state         share  requests/s  kept  heartbeat
        h1    converged    50.0 %         102     6     0.14 s
        h2    crashed           -           0     0     1.23 s
        waiting for an answer: 3
        ");
    }

    #[test]
    fn a_line_says_the_same() {
        assert_eq!(
            line(&rows()),
            "h1 converged  50.0 %  102/s | h2 crashed         -    0/s"
        );
    }
}
