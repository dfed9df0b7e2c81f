//! How fast: a token bucket, refilled by time, for an alert's rate and, with more care (`slice`), for a lane's quota.
//!
//! A bucket that gives out every token the moment it exists makes one write of one request each: 9 µs of CPU instead of
//! 0.6. So an emptied bucket collects for [`QUANTUM`] before it gives again; the average stays, the writes carry many.

use std::time::Duration;

use clarion_proto::time::Time;

use crate::command::Rate;

/// How long an emptied bucket collects: as long as a flush may wait.
pub const QUANTUM: Duration = Duration::from_millis(2);

/// A rate, or none.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    bucket: Option<Bucket>,
}

impl Pace {
    /// A new rate. A change of an existing one keeps what has been collected, so that renewing a lease several times a
    /// second never adds a burst.
    pub fn set(&mut self, rate: Option<Rate>, now: Time) {
        self.bucket = rate.map(|rate| match self.bucket.take() {
            Some(mut bucket) => {
                bucket.refill(now, 0.0);
                bucket.set(rate, 0.0);
                bucket
            }
            None => Bucket::full(rate, now),
        });
    }

    /// How many may go now; `usize::MAX` without a rate.
    pub fn room(&mut self, now: Time) -> usize {
        match &mut self.bucket {
            None => usize::MAX,
            Some(bucket) => {
                bucket.refill(now, 0.0);
                bucket.room(now)
            }
        }
    }

    /// Spends so many. Only after [`Pace::room`] said so at the same time.
    pub fn take(&mut self, pushes: usize, now: Time) {
        if let Some(bucket) = &mut self.bucket {
            bucket.take(pushes, now);
        }
    }

    /// When [`Pace::room`] will be above zero; `None`: never at this rate.
    #[must_use]
    pub fn ready_at(&self, now: Time) -> Option<Time> {
        self.bucket.as_ref().map_or(Some(now), |bucket| bucket.ready_at(now))
    }
}

/// Tokens, refilled by time.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    pub(super) rate: Rate,
    tokens: f64,
    /// When `tokens` was right.
    at: Time,
    /// Nothing is given before.
    collect_until: Time,
}

impl Bucket {
    pub(super) fn full(rate: Rate, now: Time) -> Self {
        Self { rate, tokens: rate.burst.max(0.0), at: now, collect_until: Time(0) }
    }

    pub(super) fn empty(rate: Rate, now: Time) -> Self {
        Self { rate, tokens: 0.0, at: now, collect_until: Time(0) }
    }

    /// Another rate from where it stands. `held`: as with [`Self::refill`].
    pub(super) fn set(&mut self, rate: Rate, held: f64) {
        self.rate = rate;
        self.tokens = self.tokens.min(self.capacity() - held);
    }

    /// What has been collected meanwhile; `held` tokens are out and leave no room for others.
    pub(super) fn refill(&mut self, now: Time, held: f64) {
        let gained = now.since(self.at).as_secs_f64() * self.rate.per_second;
        self.tokens = (self.tokens + gained).min(self.capacity() - held);
        self.at = self.at.max(now);
    }

    /// Lets a time pass without collecting.
    pub(super) fn skip(&mut self, now: Time) {
        self.at = self.at.max(now);
    }

    /// How many may go now.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // between 0 and the burst
    pub(super) fn room(&self, now: Time) -> usize {
        if now < self.collect_until { 0 } else { self.tokens.max(0.0) as usize }
    }

    pub(super) fn take(&mut self, tokens: usize, now: Time) {
        self.take_down_to(tokens, 0, now);
    }

    /// Takes so many; empty is a bucket that holds no more than `reserve`.
    #[allow(clippy::cast_precision_loss)] // at most the burst
    pub(super) fn take_down_to(&mut self, tokens: usize, reserve: usize, now: Time) {
        self.tokens -= tokens as f64;
        if self.tokens < reserve as f64 + 1.0 {
            self.collect_until = now + QUANTUM;
        }
    }

    /// When [`Self::room`] will be above zero; `None`: never at this rate.
    pub(super) fn ready_at(&self, now: Time) -> Option<Time> {
        self.holds_at(1.0, now)
    }

    /// When it will give up to its last token with so many in it; `None`: never at this rate.
    pub(super) fn holds_at(&self, least: f64, now: Time) -> Option<Time> {
        let missing = least - self.tokens;
        if missing <= 0.0 {
            return Some(self.collect_until.max(now));
        }
        if self.rate.per_second <= 0.0 {
            return None;
        }
        // A microsecond more than computed: rounding must not wake the core just before the token is whole.
        let wait = Duration::from_secs_f64((missing / self.rate.per_second).min(3600.0)) + Duration::from_micros(1);
        Some((self.at + wait).max(self.collect_until))
    }

    /// At least one: a share below one request (a small rate over many cores) must still collect a whole one.
    pub(super) fn capacity(&self) -> f64 {
        self.rate.burst.max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend_all(pace: &mut Pace, now: Time) -> usize {
        let room = pace.room(now);
        pace.take(room, now);
        room
    }

    #[test]
    fn any_second_holds_burst_plus_rate() {
        let mut pace = Pace::default();
        pace.set(Some(Rate { per_second: 1000.0, burst: 50.0 }), Time(0));
        let mut spent = 0;
        for ms in 0..1000 {
            let now = Time(ms * 1000);
            pace.set(Some(Rate { per_second: 1000.0, burst: 50.0 }), now); // renewed all the time
            spent += spend_all(&mut pace, now);
        }
        assert!((1040..=1050).contains(&spent), "{spent}");
    }

    #[test]
    fn an_emptied_bucket_collects_before_it_gives() {
        let mut pace = Pace::default();
        pace.set(Some(Rate { per_second: 10_000.0, burst: 100.0 }), Time(0));
        assert_eq!(spend_all(&mut pace, Time(0)), 100);
        assert_eq!(pace.room(Time(1_900)), 0);
        assert_eq!(pace.ready_at(Time(1_900)), Some(Time(2_000)));
        assert_eq!(pace.room(Time(2_000)), 20);
    }

    #[test]
    fn a_share_below_one_still_sends() {
        let mut pace = Pace::default();
        pace.set(Some(Rate { per_second: 0.5, burst: 0.25 }), Time(0));
        assert_eq!(pace.room(Time(0)), 0);
        let at = pace.ready_at(Time(0)).unwrap();
        assert_eq!(at, Time(1_500_001));
        assert_eq!(spend_all(&mut pace, at), 1);
        assert_eq!(pace.room(at + Duration::from_secs(1)), 0);
    }

    #[test]
    fn no_rate_gives_always_and_zero_never() {
        let mut pace = Pace::default();
        assert_eq!(pace.room(Time(7)), usize::MAX);
        pace.set(Some(Rate { per_second: 0.0, burst: 0.0 }), Time(7));
        assert_eq!(pace.room(Time(1 << 40)), 0);
        assert_eq!(pace.ready_at(Time(8)), None);
    }
}
