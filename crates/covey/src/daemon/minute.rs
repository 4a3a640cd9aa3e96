//! Readings of the last minute. Counters say how often something has happened since they began; whether it happens *now*
//! takes two readings of them.
//!
//! Used by the daemon's check-ups and for what it tells of the network. Specification: docs/design.md, "Network evidence".

use covey_proto::time::Time;
use std::collections::VecDeque;
use std::time::Duration;

/// How far back readings are compared.
const MINUTE: Duration = Duration::from_secs(60);

/// The readings of a minute, and the one before them: it is what the minute is compared with.
#[derive(Clone, Debug)]
pub(super) struct Minute<T>(VecDeque<(Time, T)>);

impl<T> Default for Minute<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Minute<T> {
    /// Adds the newest reading.
    pub(super) fn note(&mut self, at: Time, reading: T) {
        self.0.push_back((at, reading));
        let is_old = |(next, _): &(Time, T)| at >= *next + MINUTE;
        while self.0.get(1).is_some_and(is_old) {
            self.0.pop_front();
        }
    }

    /// The newest reading, and when it was taken.
    pub(super) fn newest(&self) -> Option<&(Time, T)> {
        self.0.back()
    }

    /// The one to compare with, and when it was taken: a minute before the newest, or the first of all.
    pub(super) fn oldest(&self) -> Option<&(Time, T)> {
        self.0.front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_reach_back_a_minute_and_no_more() {
        let mut minute = Minute::default();
        assert_eq!(minute.oldest(), None);
        let at = |second: u64| Time::from_micros(second * 1_000_000);
        for (second, oldest) in [
            (10, 10),
            (20, 10),
            (69, 10),
            (70, 10),
            (80, 20),
            (81, 20),
            (200, 81),
        ] {
            minute.note(at(second), second);
            assert_eq!(minute.newest(), Some(&(at(second), second)));
            assert_eq!(minute.oldest(), Some(&(at(oldest), oldest)));
        }
    }
}
