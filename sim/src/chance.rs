//! Chance that follows from a seed: SplitMix64, small, and the same on every machine and in every release.

use std::time::Duration;

/// A stream of chance.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Chance {
        // Mixed once, so that neighbouring seeds have nothing in common.
        let mut chance = Chance(seed);
        Chance(chance.draw())
    }

    /// A stream of its own for `what`: more draws of the one do not move the other.
    pub fn fork(&mut self, what: u64) -> Chance {
        Chance::new(self.draw() ^ what)
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `least` to `most`, both possible.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        // The bias is below 2^-40 for ranges that occur here.
        least + self.draw() % (most - least + 1)
    }

    /// True `per_mille` times of 1,000.
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

    /// One of them; `None` of none.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() {
            return None;
        }
        let last = of.len() as u64 - 1;
        // Below the length by construction.
        Some(of[self.between(0, last) as usize])
    }
}
