//! How late this host runs itself: its timers fire late when it is starved of CPU time or was stopped.
//!
//! A late host does not accuse others, says so (NLB's events 105 and 106), and announces a longer tolerance as long
//! as it is late, so that the others wait for it. That is safe in both directions: its lease counts a longer
//! budget only for heartbeats that announced it and were echoed, and the others never bring forward what they have
//! once granted (`Peer::alive_until`). Specification: docs/design.md, "Membership".

use super::Cluster;
use super::trouble::Late;
use crate::config::Timing;
use crate::event::Event;
use crate::time::Time;
use std::time::Duration;

/// Budgets after which a host that has been on time counts as such again.
const RECOVERY: u32 = 10;

/// How late this host has been.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lateness {
    /// The worst of late, and when it was last late; none while it is on time.
    late: Option<(Duration, Time)>,
    /// The same of the last time when it was late; people may ask afterwards.
    lately: Option<Late>,
}

impl Lateness {
    /// How late the host was when it was late last.
    pub(super) const fn worst(&self) -> Option<Late> {
        self.lately
    }
}

impl Cluster {
    /// Notices by how much the earliest timer has been missed. Called before every input.
    pub(super) fn notice_lateness(&mut self, now: Time) {
        let due = self.timers.next().unwrap_or(Time::NEVER);
        let by = now.since(due);
        let timing = self.config.timing;
        if by > timing.period {
            // It has not listened either: it must not take the silence that it finds for the silence of the others.
            // Not merely shifted by the lateness: whoever spoke meanwhile may have been missed, and needs the time
            // to speak again.
            self.listening_since = now;
        }
        match self.lateness.late {
            before if by > timing.period => {
                let worst = before.map_or(by, |(worst, _)| worst.max(by));
                self.lateness.late = Some((worst, now));
                self.lateness.lately = Some(Late { worst, at: now });
                if before.is_none() {
                    let tolerance = self.timing().tolerance;
                    self.emit(Event::Late { by, tolerance });
                }
            }
            Some((_, last)) if now >= last + timing.budget() * RECOVERY => {
                self.lateness.late = None;
                let tolerance = timing.tolerance;
                self.emit(Event::OnTime { tolerance });
            }
            Some(_) | None => {}
        }
    }

    /// The timing that this host announces.
    pub(super) fn timing(&self) -> Timing {
        let configured = self.config.timing;
        let Some((worst, _)) = self.lateness.late else {
            return configured;
        };
        let periods = (worst * 2)
            .as_micros()
            .div_ceil(configured.period.as_micros());
        let more = u16::try_from(periods).unwrap_or(u16::MAX);
        let tolerance = configured.tolerance.saturating_add(more);
        Timing {
            tolerance: tolerance.min(configured.longest().tolerance),
            ..configured
        }
    }
}
