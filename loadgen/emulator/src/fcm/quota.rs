//! The quota of a project in messages per minute.
//!
//! Google describes a token bucket that is refilled within each minute, and minutes that follow no
//! clock (<https://firebase.google.com/docs/cloud-messaging/throttling-and-quotas>). A client is
//! safe under the strictest reading: any 60 seconds, wherever they begin, admit at most as many
//! messages as the quota. Requests are counted in buckets of 10 ms. A request is admitted if the
//! buckets of the last 60 s and its own hold fewer than the quota. So the limit is exact, and a
//! client that uses all of it is refused at most 10 ms early.
//!
//! All requests that reach the project count, client errors (4xx) included, except those that get
//! 429. Requests that the quota refuses are counted separately: [`Peak::asked`] is the quota that
//! the client would have needed.

use std::{collections::VecDeque, time::Duration};

use clarion_proto::time::Time;
use serde::Serialize;

/// The interval over which the quota counts messages.
pub const MINUTE: Duration = Duration::from_secs(60);
/// Resolution at which messages are counted.
pub const BUCKET: Duration = Duration::from_millis(10);
const BUCKET_US: u64 = 10_000;
/// Number of buckets that touch the last 60 s: the current one and 6,000 before it.
const BUCKETS: u64 = 6_000;

/// Highest counts of messages in any 60 s.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Peak {
    /// Highest number of counted messages, which never exceeds the quota.
    pub counted: u64,
    /// Highest number of counted and refused messages together.
    pub asked: u64,
    /// Number of messages refused over the quota, in total.
    pub refused: u64,
}

impl Peak {
    /// Combines the counts of two records: the higher of the peaks, and the sum of the refusals.
    pub fn add(&mut self, other: &Self) {
        self.counted = self.counted.max(other.counted);
        self.asked = self.asked.max(other.asked);
        self.refused += other.refused;
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    number: u64,
    counted: u32,
    refused: u32,
}

/// Counts of one project in the last 60 seconds: at most 6,001 buckets of 16 bytes.
#[derive(Debug, Clone)]
pub struct Window {
    per_minute: u32,
    buckets: VecDeque<Bucket>,
    counted: u64,
    refused: u64,
    latest: Time,
    peak: Peak,
}

/// Decision of the quota about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entrance {
    /// Time at which the request was counted. It is never before an earlier count, even if the
    /// clocks of threads differ. The record must use this time, so that it shows what the quota
    /// counted.
    pub at: Time,
    /// Shortest time until there is room; `None` if the request was admitted.
    pub refused: Option<Duration>,
}

impl Window {
    /// Creates a quota without counted messages.
    #[must_use]
    pub fn new(per_minute: u32) -> Self {
        Self {
            per_minute,
            buckets: VecDeque::new(),
            counted: 0,
            refused: 0,
            latest: Time(0),
            peak: Peak::default(),
        }
    }

    /// Returns the messages that the quota allows per minute.
    #[must_use]
    pub fn per_minute(&self) -> u32 {
        self.per_minute
    }

    /// Admits and counts a request, or refuses it.
    pub fn enter(&mut self, now: Time) -> Entrance {
        let at = now.max(self.latest);
        self.latest = at;
        let number = at.0 / BUCKET_US;
        while let Some(old) = self.buckets.front().filter(|b| b.number + BUCKETS < number) {
            self.counted -= u64::from(old.counted);
            self.refused -= u64::from(old.refused);
            self.buckets.pop_front();
        }
        if self.buckets.back().is_none_or(|b| b.number != number) {
            self.buckets.push_back(Bucket { number, ..Bucket::default() });
        }
        let full = self.counted >= u64::from(self.per_minute);
        let refused = full.then(|| self.wait(at));
        if let Some(bucket) = self.buckets.back_mut() {
            if full {
                bucket.refused += 1;
                self.refused += 1;
                self.peak.refused += 1;
            } else {
                bucket.counted += 1;
                self.counted += 1;
            }
        }
        self.peak.counted = self.peak.counted.max(self.counted);
        self.peak.asked = self.peak.asked.max(self.counted + self.refused);
        Entrance { at, refused }
    }

    /// Removes the count of a request that was admitted at this time, because it is answered 429
    /// for another reason. (Another thread may have counted one since; the sum is the same.)
    pub fn forgive(&mut self, at: Time) {
        let number = at.0 / BUCKET_US;
        if let Some(bucket) =
            self.buckets.iter_mut().rev().find(|b| b.number == number && b.counted > 0)
        {
            bucket.counted -= 1;
            self.counted -= 1;
        }
    }

    /// Returns the highest counts so far.
    #[must_use]
    pub fn peak(&self) -> Peak {
        self.peak
    }

    /// Clears the peaks. The counts of the quota stay, because a reader of statistics must not
    /// reset a quota.
    pub fn reset_peak(&mut self) {
        self.peak = Peak::default();
    }

    /// Returns the time until the oldest counted bucket leaves the window.
    fn wait(&self, at: Time) -> Duration {
        let oldest = self.buckets.iter().find(|b| b.counted > 0);
        oldest.map_or(MINUTE, |b| Time((b.number + BUCKETS + 1) * BUCKET_US).since(at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Time {
        Time(ms * 1_000)
    }

    #[test]
    fn a_minute_is_any_sixty_seconds() {
        let mut window = Window::new(2);
        let mut enter = |ms| window.enter(at(ms)).refused;
        assert_eq!((enter(30_000), enter(59_990)), (None, None));
        assert_eq!(enter(60_000), Some(Duration::from_millis(30_010)));
        assert_eq!(enter(90_009), Some(Duration::from_millis(1)));
        assert_eq!(enter(90_010), None);
        assert!(enter(90_010).is_some());
        assert_eq!(window.peak(), Peak { counted: 2, asked: 5, refused: 3 });
    }

    #[test]
    fn what_is_forgiven_does_not_count() {
        let mut window = Window::new(1);
        window.enter(at(1));
        window.forgive(at(1));
        window.forgive(at(1));
        assert_eq!(window.enter(at(2)).refused, None);
        assert!(window.enter(at(3)).refused.is_some());
    }

    #[test]
    fn times_that_go_back_are_counted_as_the_latest() {
        let mut window = Window::new(5);
        window.enter(at(100));
        assert_eq!(window.enter(at(50)), Entrance { at: at(100), refused: None });
    }

    #[test]
    fn a_quota_of_nothing_lets_nobody_in() {
        assert_eq!(Window::new(0).enter(at(1)).refused, Some(MINUTE));
    }

    proptest! {
        #[test]
        fn no_sixty_seconds_hold_more_than_the_quota_and_none_is_refused_much_too_early(
            quota in 1_u32..20,
            steps in prop::collection::vec(0_u64..9_000_000, 1..300),
        ) {
            let mut window = Window::new(quota);
            let (mut now, mut admitted) = (0, Vec::new());
            for step in steps {
                now += step;
                let entrance = window.enter(Time(now));
                let since = |from: u64| admitted.iter().filter(|&&t| t >= from).count();
                match entrance.refused {
                    None => {
                        // The 60 s that end now; every other minute ends earlier and was checked
                        // then.
                        prop_assert!(since(now.saturating_sub(60_000_000)) < quota as usize);
                        admitted.push(now);
                    }
                    Some(wait) => {
                        prop_assert!(since(now.saturating_sub(60_010_000)) >= quota as usize, "refused with room to spare");
                        prop_assert!(wait > Duration::ZERO && wait <= MINUTE + BUCKET);
                    }
                }
            }
            prop_assert!(window.peak().counted <= u64::from(quota));
            prop_assert!(window.buckets.len() <= 6_001);
        }
    }
}
