//! Ramp: the share of its quota that a lane uses after it was idle. Pure.
//!
//! Google asks senders to raise their traffic over a minute at least ("Best practices when sending
//! FCM messages at scale"), so that Google can add capacity. A busy lane warms up and an idle lane
//! cools down, both over the configured time; the share of the quota follows from the warmth. So an
//! alert a second after another alert continues at the same share, and an alert after a quiet night
//! begins with a small share.
//!
//! The default is no ramp: an emergency is not a newsletter, and a ramp delays phones.

use std::time::Duration;

use clarion_proto::time::Time;

/// Share of a cold lane, in thousandths of its quota.
const SHARE_MIN: u64 = 50;
/// Share of a warm lane, in thousandths of its quota: all of it.
pub(crate) const SHARE_MAX: u64 = 1_000;

/// Warmth of a lane, which is initially idle and cold.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ramp {
    /// Completed part of the ramp at `since`.
    warm: Duration,
    since: Time,
    busy: bool,
}

impl Ramp {
    /// Marks the lane as busy or idle from now on; no effect if it is already.
    pub(crate) fn turn(&mut self, busy: bool, length: Duration, now: Time) {
        if self.busy != busy {
            *self = Self { warm: self.warm(length, now), since: now, busy };
        }
    }

    /// Warms the lane up to at least `warm`, which a former process has recorded.
    pub(crate) fn raise(&mut self, warm: Duration, now: Time) {
        let warm = self.warm(Duration::MAX, now).max(warm);
        *self = Self { warm, since: now, busy: self.busy };
    }

    /// Whether the lane is busy.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Share of the quota that the lane uses now, in thousandths, with a ramp of `length`.
    pub(crate) fn share(&self, length: Duration, now: Time) -> u64 {
        if length.is_zero() {
            return SHARE_MAX;
        }
        let risen = u128::from(SHARE_MAX - SHARE_MIN) * self.warm(length, now).as_micros()
            / length.as_micros();
        SHARE_MIN + u64::try_from(risen).expect("at most the whole")
    }

    /// Completed part of a ramp of `length`.
    pub(crate) fn warm(&self, length: Duration, now: Time) -> Duration {
        let (warm, passed) = (self.warm.min(length), now.since(self.since));
        match self.busy {
            true => warm.saturating_add(passed).min(length),
            false => warm.saturating_sub(passed),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn seconds(n: u64) -> Time {
        Time(n * 1_000_000)
    }

    #[test]
    fn a_cold_lane_rises_from_a_twentieth_to_all_of_it_and_cools_again() {
        let mut ramp = Ramp::default();
        assert_eq!(ramp.share(MINUTE, seconds(1_000)), 50);
        ramp.turn(true, MINUTE, seconds(1_000));
        let at = |ramp: &Ramp, second| ramp.share(MINUTE, seconds(second));
        assert_eq!([1_000, 1_030, 1_060, 9_000].map(|s| at(&ramp, s)), [50, 525, 1_000, 1_000]);
        ramp.turn(false, MINUTE, seconds(9_000));
        assert_eq!([9_000, 9_030, 9_060, 9_999].map(|s| at(&ramp, s)), [1_000, 525, 50, 50]);
    }

    #[test]
    fn without_a_ramp_a_cold_lane_is_given_all() {
        assert_eq!(Ramp::default().share(Duration::ZERO, seconds(0)), SHARE_MAX);
    }

    proptest! {
        #[test]
        fn a_share_is_never_above_the_whole_and_never_falls_while_busy(
            length_ms in 0u64..3_600_000,
            steps in proptest::collection::vec((0u64..100_000, any::<bool>()), 1..50),
        ) {
            let length = Duration::from_millis(length_ms);
            let (mut ramp, mut now) = (Ramp::default(), Time(0));
            for (ms, busy) in steps {
                let (before, was_busy) = (ramp.share(length, now), ramp.busy);
                now = now + Duration::from_millis(ms);
                let after = ramp.share(length, now);
                prop_assert!((SHARE_MIN..=SHARE_MAX).contains(&after));
                let (least, most) = if was_busy { (before, SHARE_MAX) } else { (SHARE_MIN, before) };
                prop_assert!((least..=most).contains(&after));
                ramp.turn(busy, length, now);
                prop_assert_eq!(ramp.share(length, now), after, "turning is no jump");
            }
        }
    }
}
