//! Time as the core sees it: microseconds on a clock that never jumps, always handed in by the caller.
//!
//! The daemon passes CLOCK_MONOTONIC, the simulator its virtual clock; the core itself reads none, so a
//! trace can be printed, compared and replayed.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time: microseconds since an arbitrary start that all calls on one [`crate::Cluster`] share.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    /// The start of the clock.
    pub const ZERO: Self = Self(0);
    /// Later than any real time: "never".
    pub const NEVER: Self = Self(u64::MAX);

    /// From microseconds.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the start of the clock.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Nanoseconds since the start of the clock.
    pub const fn as_nanos(self) -> u64 {
        self.0.saturating_mul(1000)
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, after: Duration) -> Self {
        Self(self.0.saturating_add(after.as_micros() as u64))
    }
}

impl Sub<Duration> for Time {
    type Output = Self;
    fn sub(self, before: Duration) -> Self {
        Self(self.0.saturating_sub(before.as_micros() as u64))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// The deadlines a cluster host keeps. One slot each: setting a timer again replaces it, so no stale timer
/// can fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// The next heartbeat of the period.
    Heartbeat,
    /// A heartbeat out of turn, because something changed; spaced by the burst limit.
    Urgent,
    /// Look again at who is overdue, at an unfinished ballot or at a lease.
    Review,
}

impl Timer {
    /// Every timer, in the order in which they fire when due together.
    pub const ALL: [Self; 3] = [Self::Review, Self::Urgent, Self::Heartbeat];
}

/// The deadlines in force.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimerTable([Option<Time>; Timer::ALL.len()]);

impl TimerTable {
    /// Sets a timer to fire at `at`, replacing what it was set to.
    pub const fn set(&mut self, timer: Timer, at: Time) {
        self.0[timer as usize] = Some(at);
    }

    /// Brings a timer forward to `at` if it is unset or later.
    pub fn advance(&mut self, timer: Timer, at: Time) {
        let due = self.0[timer as usize].map_or(at, |due| due.min(at));
        self.set(timer, due);
    }

    /// Stops a timer.
    pub const fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    /// Takes the timer if it is due.
    pub fn take_due(&mut self, timer: Timer, now: Time) -> bool {
        let due = self.0[timer as usize].is_some_and(|at| at <= now);
        if due {
            self.stop(timer);
        }
        due
    }

    /// Whether a timer is set.
    pub const fn is_set(&self, timer: Timer) -> bool {
        self.0[timer as usize].is_some()
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Time> {
        self.0.iter().flatten().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_has_one_deadline_and_fires_once() {
        let mut timers = TimerTable::default();
        timers.set(Timer::Heartbeat, Time::from_micros(50));
        timers.set(Timer::Heartbeat, Time::from_micros(30));
        timers.set(Timer::Urgent, Time::from_micros(40));
        assert_eq!(timers.next(), Some(Time::from_micros(30)));
        assert!(!timers.take_due(Timer::Heartbeat, Time::from_micros(29)));
        assert!(timers.take_due(Timer::Heartbeat, Time::from_micros(30)));
        assert!(!timers.take_due(Timer::Heartbeat, Time::from_micros(99)));
        assert_eq!(timers.next(), Some(Time::from_micros(40)));
    }

    #[test]
    fn advancing_never_delays() {
        let mut timers = TimerTable::default();
        timers.advance(Timer::Review, Time::from_micros(10));
        timers.advance(Timer::Review, Time::from_micros(20));
        assert_eq!(timers.next(), Some(Time::from_micros(10)));
    }
}
