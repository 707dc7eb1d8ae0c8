//! A random generator that follows from a seed: SplitMix64, which gives the same numbers on every machine and in every
//! release, so that a seed in an old report can be run again.

use std::time::Duration;

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Rng {
        // Mixed once, so that neighbouring seeds have nothing in common.
        let mut rng = Rng(seed);
        Rng(rng.draw())
    }

    /// An independent stream for `what`: drawing more from one does not change the other.
    pub fn fork(&mut self, what: u64) -> Rng {
        Rng::new(self.draw() ^ what)
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `least` to `most`, both included.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        // The bias is below 2^-40 for ranges that occur here.
        least + self.draw() % (most - least + 1)
    }

    /// True in `per_mille` of 1,000 draws.
    pub fn hits(&mut self, per_mille: u64) -> bool {
        self.between(0, 999) < per_mille
    }

    /// From `least` to `most` µs.
    pub fn micros(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_micros(self.between(least, most))
    }

    /// From `least` to `most` ms.
    pub fn millis(&mut self, least: u64, most: u64) -> Duration {
        self.micros(least * 1_000, most * 1_000)
    }

    /// One of these; `None` if there are none.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() {
            return None;
        }
        let last = of.len() as u64 - 1;
        // Below the length by construction.
        Some(of[self.between(0, last) as usize])
    }
}
