//! Lateness of pushes against the pace of the alert.
//!
//! The pace begins with the first push: at `r` per second, push `k` is due `k / r` seconds after
//! it. A push to a device that entered later was not due before the device entered. The measurement
//! is the gateway's time of the request minus the due time. Negative means early: a pace that
//! collects some milliseconds' worth for one write is early by half of them.

/// First acceptance of one device, with its due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// Time of the gateway's decision, nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Earliest due time, nanoseconds of `CLOCK_MONOTONIC`.
    pub since_ns: u64,
}

/// Returns the lateness of each push, nanoseconds, ascending. `pushes` are in order of time.
#[must_use]
// The nanoseconds of a run are far below 2^53.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
pub fn lateness(pushes: &[Due], per_second: f64) -> Vec<i64> {
    let Some(first) = pushes.first() else { return Vec::new() };
    let late = |(k, push): (usize, &Due)| {
        let place_ns = first.at_ns as i64 + (k as f64 / per_second * 1e9) as i64;
        push.at_ns as i64 - place_ns.max(push.since_ns as i64)
    };
    let mut all: Vec<i64> = pushes.iter().enumerate().map(late).collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> u64 {
        1_000_000_000 + n * 1_000_000
    }

    #[test]
    fn each_has_its_place_and_none_before_it_was_there() {
        let due = |at, since| Due { at_ns: ms(at), since_ns: since };
        // A hundred per second: 0, 10, 20, 30 ms. The third is 5 ms late; the fourth entered at 45
        // ms and was pushed to 3 ms later.
        let pushes = [due(0, 0), due(8, 0), due(25, 0), due(48, ms(45))];
        assert_eq!(lateness(&pushes, 100.0), [-2_000_000, 0, 3_000_000, 5_000_000]);
        assert!(lateness(&[], 100.0).is_empty());
    }
}
