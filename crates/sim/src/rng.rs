//! The one source of chance: xoshiro256++ seeded by SplitMix64, so that a seed gives the same run on every
//! machine and with every version of every library.
//!
//! Each purpose has a stream of its own (jitter, load, faults): a step that is taken out of a schedule does not
//! change what the others draw, which is what makes shrinking work (`shrink.rs`).

use std::time::Duration;

/// What numbers are drawn for.
#[derive(Clone, Copy, Debug)]
pub enum Stream {
    /// Latency and faults of the links.
    Links = 1,
    /// What clients do.
    Load = 2,
    /// Clocks and incarnations of the hosts.
    Hosts = 3,
    /// The schedule of a random scenario.
    Schedule = 4,
}

/// A stream of numbers.
#[derive(Clone, Debug)]
pub struct Rng([u64; 4]);

impl Rng {
    /// The stream of a seed for a purpose.
    pub fn new(seed: u64, stream: Stream) -> Self {
        let mut state = seed ^ (stream as u64) << 56;
        Self(std::array::from_fn(|_| {
            // SplitMix64.
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed ^ mixed >> 31
        }))
    }

    /// The next 64 bits.
    pub const fn draw(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let drawn = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        drawn
    }

    /// A number below `end`; 0 if that is 0. The bias of the multiplication is below 2^-32 for all uses here.
    pub const fn below(&mut self, end: u64) -> u64 {
        ((self.draw() as u128 * end as u128) >> 64) as u64
    }

    /// A number in `first..=last`.
    pub const fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, percent: f64) -> bool {
        percent > 0.0 && (self.below(1_000_000) as f64) < percent * 10_000.0
    }

    /// A duration below `end`.
    pub fn span(&mut self, end: Duration) -> Duration {
        Duration::from_micros(self.below(end.as_micros() as u64))
    }

    /// One of these, which must not be none.
    pub const fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first numbers of the authors' own program from this state.
    #[test]
    fn it_is_xoshiro() {
        let mut rng = Rng([1, 2, 3, 4]);
        let drawn: [u64; 4] = std::array::from_fn(|_| rng.draw());
        assert_eq!(
            drawn,
            [
                41_943_041,
                58_720_359,
                3_588_806_011_781_223,
                3_591_011_842_654_386
            ]
        );
    }

    #[test]
    fn a_seed_gives_the_same_numbers_everywhere() {
        let mut rng = Rng::new(1, Stream::Links);
        assert_eq!(rng.draw(), 13_870_643_266_552_004_572);
        assert_ne!(rng.draw(), Rng::new(1, Stream::Load).draw());
    }

    #[test]
    fn ranges_are_kept_and_used_up() {
        let mut rng = Rng::new(7, Stream::Load);
        let mut seen = [0; 6];
        for _ in 0..600 {
            seen[rng.between(2, 5) as usize] += 1;
        }
        assert_eq!(seen[..2], [0, 0]);
        assert!(seen[2..].iter().all(|count| *count > 100), "{seen:?}");
        let hits = (0..10_000).filter(|_| rng.percent(2.5)).count();
        assert!((150..350).contains(&hits), "{hits}");
        assert!(!rng.percent(0.0));
    }
}
