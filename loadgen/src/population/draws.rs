//! Random numbers by index: device 734,211 is computed without the ones before it.
//!
//! `SplitMix64` (Steele, Lea, Flood 2014) as a counter-based generator: the n-th draw of a stream
//! is a mix of its key and n. It uses integers only, so it gives the same on every machine.

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Stream of draws for one object, in order.
#[derive(Debug, Clone)]
pub struct Draws {
    state: u64,
}

impl Draws {
    /// Creates the stream of object `index` in `domain` under `seed`.
    #[must_use]
    pub fn new(seed: u64, domain: u64, index: u64) -> Self {
        // Each step mixes before the next value is added, so neighbours in any of the three have
        // nothing in common.
        Self {
            state: mix(mix(mix(seed).wrapping_add(domain)).wrapping_add(index.wrapping_mul(GOLDEN))),
        }
    }

    /// Returns 64 uniform bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Returns a uniform number in [0, 1), in steps of 2^-53.
    #[allow(clippy::cast_precision_loss)] // 53 bits are exact in an f64
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Returns a uniform number in (0, 1], so that its logarithm is finite.
    pub fn positive_unit(&mut self) -> f64 {
        1.0 - self.unit()
    }

    /// Returns a uniform number in 0..`count` (by multiplication; the bias of 2^-32 per value does
    /// not matter here).
    ///
    /// # Panics
    /// If `count` is 0 or above 2^32.
    #[allow(clippy::cast_possible_truncation)] // below `count`
    pub fn below(&mut self, count: usize) -> usize {
        assert!(count > 0 && count <= 1 << 32, "a choice needs 1 to 2^32 values");
        (((self.bits() >> 32) * count as u64) >> 32) as usize
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let first: Vec<u64> = std::iter::repeat_with({
            let mut d = Draws::new(1, 2, 3);
            move || d.bits()
        })
        .take(4)
        .collect();
        let again: Vec<u64> = std::iter::repeat_with({
            let mut d = Draws::new(1, 2, 3);
            move || d.bits()
        })
        .take(4)
        .collect();
        assert_eq!(first, again);
        for other in [Draws::new(2, 2, 3), Draws::new(1, 3, 3), Draws::new(1, 2, 4)] {
            let mut other = other;
            assert_ne!(first[0], other.bits());
        }
    }

    #[test]
    fn mix_is_splitmix64() {
        // First outputs of the reference implementation for state 0
        // (prng.di.unimi.it/splitmix64.c).
        let mut draws = Draws { state: 0 };
        assert_eq!(draws.bits(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(draws.bits(), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn units_are_even() {
        let mut draws = Draws::new(7, 0, 0);
        let mean: f64 = (0..100_000).map(|_| draws.unit()).sum::<f64>() / 100_000.0;
        assert!((mean - 0.5).abs() < 0.005, "{mean}");
        assert!((0..1_000).all(|_| draws.below(3) < 3));
    }
}
