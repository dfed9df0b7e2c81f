//! The retry line of a lane: pushes that wait for another attempt, in order of time, and their
//! pauses.
//!
//! A line holds the slots of open pushes (four bytes each), never tokens or bodies, which are read
//! again when the time comes. The line itself has no bound, but its entries do: a walk hands out
//! new devices only while the lines of its lane hold fewer than the lane's share of
//! [`ORDINALS_MAX`]. So a line never holds more than that share and the requests in flight at that
//! moment. A full line makes the walk wait; no push is ever dropped for lack of room.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use clarion_proto::time::Time;
use rand::Rng;

/// Most waiting pushes of one node, over all cores and lanes.
pub const ORDINALS_MAX: usize = 65_536;

/// Pushes of one wave on one lane that wait for another attempt.
#[derive(Debug, Default)]
pub struct RetryLine {
    heap: BinaryHeap<Reverse<(Time, u32)>>,
}

impl RetryLine {
    /// Adds a push with the time of its next attempt.
    pub fn push(&mut self, due: Time, slot: u32) {
        self.heap.push(Reverse((due, slot)));
    }

    /// Removes and returns the push that has been due for the longest time.
    pub fn pop_due(&mut self, now: Time) -> Option<u32> {
        let Reverse((due, _)) = self.heap.peek()?;
        if *due > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, slot))| slot)
    }

    /// Returns the time at which the next push is due.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((due, _))| *due)
    }

    /// Removes any push, for a wave that has stopped.
    pub fn pop(&mut self) -> Option<u32> {
        self.heap.pop().map(|Reverse((_, slot))| slot)
    }

    /// Removes and returns the pushes whose slots satisfy `fits`; the others keep their times.
    pub fn take_out(&mut self, mut fits: impl FnMut(u32) -> bool) -> Vec<u32> {
        let mut out = Vec::new();
        self.heap.retain(|Reverse((_, slot))| {
            let fits = fits(*slot);
            out.extend(fits.then_some(*slot));
            !fits
        });
        out.sort_unstable();
        out
    }

    /// Returns the number of waiting pushes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Reports whether no push waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

/// Growing pauses with full jitter: uniform between 0 and `min · 2^tries`, at most `max`. Full
/// jitter spreads requests that failed together over the whole pause, so that they do not return
/// together. A pause that the provider requires is added before it.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// Longest first pause, without `floor`.
    pub min: Duration,
    /// Longest pause of all, without `floor`.
    pub max: Duration,
    /// Fixed part of every pause.
    pub floor: Duration,
}

impl Backoff {
    /// Returns the pause after this many earlier failures.
    pub fn pause(&self, tries: u32, rng: &mut impl Rng) -> Duration {
        let min = u64::try_from(self.min.as_micros()).unwrap_or(u64::MAX).max(1);
        let max = u64::try_from(self.max.as_micros()).unwrap_or(u64::MAX).max(min);
        let ceiling = min.checked_shl(tries.min(32)).map_or(max, |c| c.clamp(min, max));
        // Multiply and shift: uniform to within 2^-64 of the range, without a division or a loop.
        #[allow(clippy::cast_possible_truncation)]
        // the high half of the product is below `ceiling + 1`
        let jitter = Duration::from_micros(
            ((u128::from(rng.next_u64()) * (u128::from(ceiling) + 1)) >> 64) as u64,
        );
        self.floor + jitter
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn comes_out_by_time_then_slot() {
        let mut line = RetryLine::default();
        for (due, slot) in [(30, 1), (10, 2), (20, 3), (10, 1)] {
            line.push(Time(due), slot);
        }
        assert_eq!(line.pop_due(Time(9)), None);
        assert_eq!(line.due(), Some(Time(10)));
        let out: Vec<_> = std::iter::from_fn(|| line.pop_due(Time(20))).collect();
        assert_eq!(out, [1, 2, 3]);
        assert_eq!((line.len(), line.pop(), line.is_empty()), (1, Some(1), true));
    }

    #[test]
    fn pauses_double_up_to_the_limit_and_spread() {
        let backoff = Backoff {
            min: Duration::from_millis(100),
            max: Duration::from_secs(30),
            floor: Duration::ZERO,
        };
        let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(7);
        for (tries, ceiling_ms) in [(0, 100), (1, 200), (5, 3_200), (9, 30_000), (200, 30_000)] {
            let pauses: Vec<_> =
                (0..1000).map(|_| backoff.pause(tries, &mut rng).as_millis()).collect();
            assert!(pauses.iter().all(|p| *p <= ceiling_ms));
            assert!(pauses.iter().any(|p| *p > ceiling_ms * 9 / 10), "{tries}");
            assert!(pauses.iter().any(|p| *p < ceiling_ms / 10), "{tries}");
        }
    }

    #[test]
    fn no_pause_is_below_the_floor() {
        let (min, floor) = (Duration::from_secs(10), Duration::from_secs(10));
        let backoff = Backoff { min, max: Duration::from_secs(60), floor };
        let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(7);
        let first: Vec<_> = (0..1000).map(|_| backoff.pause(0, &mut rng)).collect();
        assert!(first.iter().all(|p| (floor..=2 * floor).contains(p)));
        assert!((0..1000).all(|_| backoff.pause(9, &mut rng) <= floor + backoff.max));
    }
}
