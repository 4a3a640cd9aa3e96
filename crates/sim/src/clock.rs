//! A host's own clock: it starts anywhere and runs a little faster or slower than the world's.
//!
//! All arithmetic is in integers, so that a run is the same on every machine. The host's core sees only this
//! clock; its data path sees the coarse version, which stands still between two ticks.

use covey_proto::time::Time;
use std::time::Duration;

/// How long the coarse clock stands still: CLOCK_MONOTONIC_COARSE at 250 ticks per second.
pub(crate) const TICK: Duration = Duration::from_millis(4);

const MILLION: i128 = 1_000_000;

/// Translates between the world's time and a host's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    world: Time,
    local: Time,
    ppm: i32,
}

impl Clock {
    /// A clock that shows `local` when the world begins, and gains `ppm` microseconds per second.
    pub(crate) const fn new(local: Time, ppm: i32) -> Self {
        Self {
            world: Time::ZERO,
            local,
            ppm,
        }
    }

    /// From now on the clock gains so much; it does not jump.
    pub(crate) fn set_rate(&mut self, now: Time, ppm: i32) {
        *self = Self {
            world: now,
            local: self.local(now),
            ppm,
        };
    }

    /// What the clock shows.
    pub(crate) fn local(&self, now: Time) -> Time {
        let passed = i128::from(now.as_micros()) - i128::from(self.world.as_micros());
        let gained = passed * i128::from(self.ppm) / MILLION;
        let local = i128::from(self.local.as_micros()) + passed + gained;
        Time::from_micros(u64::try_from(local).unwrap_or(0))
    }

    /// What the coarse clock shows: the last tick.
    pub(crate) fn coarse(&self, now: Time) -> Time {
        let local = self.local(now).as_micros();
        Time::from_micros(local - local % TICK.as_micros() as u64)
    }

    /// The first moment of the world at which the clock shows `local` or more.
    pub(crate) fn world(&self, local: Time) -> Time {
        if local == Time::NEVER {
            return Time::NEVER;
        }
        let ahead = i128::from(local.as_micros()) - i128::from(self.local.as_micros());
        let passed = ahead * MILLION / (MILLION + i128::from(self.ppm));
        let guess = (i128::from(self.world.as_micros()) + passed).max(0) as u64;
        let mut at = Time::from_micros(guess.saturating_sub(2));
        while self.local(at) < local {
            at = Time::from_micros(at.as_micros() + 1);
        }
        at
    }

    /// The first moment of the world at which the coarse clock shows `local` or more.
    pub(crate) fn world_coarse(&self, local: Time) -> Time {
        if local == Time::NEVER {
            return Time::NEVER;
        }
        let tick = TICK.as_micros() as u64;
        self.world(Time::from_micros(local.as_micros().div_ceil(tick) * tick))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_at_any_rate() {
        for ppm in [-20_000, -200, 0, 137, 20_000] {
            let mut clock = Clock::new(Time::from_micros(987_654_321), ppm);
            clock.set_rate(Time::from_micros(5_000_000), ppm / 2);
            for step in 0..1000u64 {
                let target = Time::from_micros(1_000_000_000 + step * 12_345);
                let at = clock.world(target);
                assert!(clock.local(at) >= target);
                assert!(clock.local(Time::from_micros(at.as_micros() - 1)) < target);
                assert!(clock.coarse(clock.world_coarse(target)) >= target);
            }
        }
        let fast = Clock::new(Time::ZERO, 200);
        assert_eq!(
            fast.local(Time::from_micros(10_000_000)),
            Time::from_micros(10_002_000)
        );
    }

    #[test]
    fn the_coarse_clock_stands_still_between_ticks() {
        let clock = Clock::new(Time::ZERO, 0);
        assert_eq!(
            clock.coarse(Time::from_micros(7999)),
            Time::from_micros(4000)
        );
        assert_eq!(
            clock.world_coarse(Time::from_micros(4001)),
            Time::from_micros(8000)
        );
    }
}
