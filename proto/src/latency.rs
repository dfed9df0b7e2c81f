//! Histogram of answer latencies, which cores, nodes and the coordinator can add up.
//!
//! The connection budget needs the median over the cluster, and medians of nodes cannot be
//! combined. So messages carry counts per bucket. Each octave from 64 µs on has four buckets, so a
//! bucket is at most a quarter wide. [`Latencies::middle`] interpolates inside a bucket, which is
//! exact enough for a budget of whole connections.

/// Binary logarithm of the lower edge of the first octave: 64 µs. Shorter latencies count in the
/// first bucket.
const OCTAVE_MIN: u32 = 6;
/// Number of octaves. The last one begins at 33.5 s, beyond any request deadline.
const OCTAVES: usize = 20;
/// Number of buckets per octave.
const PER_OCTAVE: usize = 4;
/// Number of buckets.
pub const BUCKETS: usize = OCTAVES * PER_OCTAVE;

/// Counts of latencies per bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latencies([u32; BUCKETS]);

impl Default for Latencies {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Latencies {
    /// Counts one latency, in microseconds.
    pub fn count(&mut self, us: u64) {
        let bucket = &mut self.0[bucket_of(us)];
        *bucket = bucket.saturating_add(1);
    }

    /// Adds the counts of another histogram.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_add(theirs);
        }
    }

    /// Returns the number of counted latencies.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().map(|n| u64::from(*n)).sum()
    }

    /// Returns the median in microseconds. `None`: nothing was counted.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // counts of samples
    pub fn middle(&self) -> Option<f64> {
        let half = self.total() as f64 / 2.0;
        let mut below = 0.0;
        for (bucket, n) in self.0.iter().enumerate().filter(|(_, n)| **n > 0) {
            let n = f64::from(*n);
            if below + n >= half {
                let (from, to) = (edge(bucket), edge(bucket + 1));
                return Some(from + (to - from) * (half - below) / n);
            }
            below += n;
        }
        None
    }

    /// Returns the counts for a message, without trailing zeros.
    #[must_use]
    pub fn to_wire(&self) -> Vec<u32> {
        let used = self.0.iter().rposition(|n| *n > 0).map_or(0, |last| last + 1);
        self.0[..used].to_vec()
    }

    /// Reads the counts of a message. `None`: the message has more than [`BUCKETS`] counts.
    #[must_use]
    pub fn from_wire(counts: &[u32]) -> Option<Self> {
        let mut latencies = Self::default();
        latencies.0.get_mut(..counts.len())?.copy_from_slice(counts);
        Some(latencies)
    }
}

#[allow(clippy::cast_possible_truncation)] // two bits
fn bucket_of(us: u64) -> usize {
    let us = us.max(1 << OCTAVE_MIN);
    let octave = us.ilog2();
    let quarter = (us >> (octave - 2) & 3) as usize;
    (((octave - OCTAVE_MIN) as usize) * PER_OCTAVE + quarter).min(BUCKETS - 1)
}

/// Lower edge of a bucket, microseconds.
#[allow(clippy::cast_precision_loss)] // at most 2^26 and a quarter of it
fn edge(bucket: usize) -> f64 {
    let octave = 1_u64 << (OCTAVE_MIN as usize + bucket / PER_OCTAVE);
    octave as f64 * (1.0 + (bucket % PER_OCTAVE) as f64 / PER_OCTAVE as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_latency_lies_within_its_bucket() {
        for us in (64..5_000).chain([1 << 20, (1 << 25) + 1, 33_554_431]) {
            let bucket = bucket_of(us);
            assert!(edge(bucket) <= us as f64 && (us as f64) < edge(bucket + 1), "{us}");
        }
        assert_eq!((bucket_of(0), bucket_of(63), bucket_of(u64::MAX)), (0, 0, BUCKETS - 1));
    }

    #[test]
    fn nothing_has_no_middle_and_one_is_its_own() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.middle(), None);
        latencies.count(50_000);
        let middle = latencies.middle().unwrap();
        assert!((40_960.0..57_344.0).contains(&middle), "{middle}");
    }

    proptest! {
        #[test]
        fn the_middle_is_within_a_bucket_of_the_median(
            mut us in proptest::collection::vec(64u64..30_000_000, 1..200),
        ) {
            let mut latencies = Latencies::default();
            us.iter().for_each(|us| latencies.count(*us));
            us.sort_unstable();
            let median = us[(us.len() - 1) / 2] as f64;
            let middle = latencies.middle().unwrap();
            prop_assert!((0.79 * median..=1.26 * median).contains(&middle), "{middle} {median}");
            prop_assert_eq!(latencies.total(), us.len() as u64);
        }

        #[test]
        fn the_wire_keeps_it(us in proptest::collection::vec(any::<u64>(), 0..20)) {
            let mut latencies = Latencies::default();
            us.iter().for_each(|us| latencies.count(*us));
            prop_assert_eq!(Latencies::from_wire(&latencies.to_wire()), Some(latencies));
        }
    }

    #[test]
    fn too_many_buckets_are_refused() {
        assert_eq!(Latencies::from_wire(&[1; BUCKETS + 1]), None);
    }
}
