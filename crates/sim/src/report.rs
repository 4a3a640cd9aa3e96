//! What runs add up to: connections, frames, faults by kind, simulated time.
//!
//! Every run returns its [`Counts`]; `runner.rs` adds them and prints the summary.

use crate::faults::Kind;
use std::fmt;
use std::time::Duration;

/// Sums over one run or many.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Runs.
    pub runs: u64,
    /// Virtual time.
    pub simulated: Duration,
    /// Frames that arrived somewhere.
    pub frames: u64,
    /// Connections that clients tried to open.
    pub opened: u64,
    /// Connections that were established.
    pub established: u64,
    /// Established connections that ended as their client wanted.
    pub finished: u64,
    /// Established connections that were reset or never answered again.
    pub broken: u64,
    /// Datagrams sent.
    pub datagrams: u64,
    /// Datagrams answered, once or more.
    pub answered: u64,
    /// Maps put in force, counted on each host.
    pub commits: u64,
    /// Times for which the cluster was settled, so that the strictest promises were held against it.
    pub settled: u64,
    pub(crate) faults: [u64; Kind::ALL.len()],
}

impl Counts {
    /// Counts a fault where it takes effect.
    pub const fn fault(&mut self, kind: Kind) {
        self.faults[kind as usize] += 1;
    }

    /// How often a fault took effect.
    pub const fn faults(&self, kind: Kind) -> u64 {
        self.faults[kind as usize]
    }

    /// Adds another sum.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.simulated += other.simulated;
        self.frames += other.frames;
        self.opened += other.opened;
        self.established += other.established;
        self.finished += other.finished;
        self.broken += other.broken;
        self.datagrams += other.datagrams;
        self.answered += other.answered;
        self.commits += other.commits;
        self.settled += other.settled;
        for (sum, count) in self.faults.iter_mut().zip(other.faults) {
            *sum += count;
        }
    }

    /// Kinds of faults that never took effect.
    pub fn missing(&self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(|kind| self.faults(*kind) == 0)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |label: &str, value: String| writeln!(f, "{label:<26} {value:>14}");
        row("runs", self.runs.to_string())?;
        row(
            "simulated hours",
            format!("{:.2}", self.simulated.as_secs_f64() / 3600.0),
        )?;
        row("frames", self.frames.to_string())?;
        row("connections opened", self.opened.to_string())?;
        row("connections established", self.established.to_string())?;
        row("connections finished", self.finished.to_string())?;
        row("connections broken", self.broken.to_string())?;
        row("datagrams", self.datagrams.to_string())?;
        row("datagrams answered", self.answered.to_string())?;
        row("maps put in force", self.commits.to_string())?;
        row("times settled", self.settled.to_string())?;
        for kind in Kind::ALL {
            row(kind.label(), self.faults(kind).to_string())?;
        }
        Ok(())
    }
}
