//! The last things that happened, for the account of a violation; all of them with `--trace`.

use covey_proto::time::Time;
use std::collections::VecDeque;
use std::fmt;
use std::io::Write;

/// How many are kept.
const KEPT: usize = 40;

/// What happened lately.
#[derive(Default)]
pub(crate) struct Log {
    lines: VecDeque<String>,
    /// Print everything at once, frames too.
    pub(crate) trace: bool,
}

impl Log {
    /// Something that matters.
    pub(crate) fn note(&mut self, now: Time, what: fmt::Arguments<'_>) {
        let line = format!("{now:?} {what}");
        self.print(&line);
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Something that matters only in a trace.
    pub(crate) fn detail(&self, now: Time, what: impl Fn() -> String) {
        if self.trace {
            self.print(&format!("{now:?}   {}", what()));
        }
    }

    fn print(&self, line: &str) {
        if self.trace {
            // A reader that has gone away is no failure.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}
