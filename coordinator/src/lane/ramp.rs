//! How much of its quota a lane uses after it was idle. Pure.
//!
//! Google asks senders to raise their traffic over a minute at least ("Best practices when sending
//! FCM messages at scale"), so that its side can make room. A lane that is at work warms up, one
//! that is idle cools down, both over the configured time; its share of the quota follows from how
//! warm it is. So an alert that comes a second after another goes on where that one was, and one
//! that comes after a quiet night begins small.
//!
//! The default is no ramp: an emergency is not a newsletter, and whoever asks for a ramp delays
//! phones.

use std::time::Duration;

use clarion_proto::time::Time;

/// The share of a cold lane, in thousandths.
const SHARE_MIN: u64 = 50;
/// The share of a warm lane.
pub(crate) const SHARE_MAX: u64 = 1_000;

/// How warm a lane is. A lane begins idle and cold.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ramp {
    /// How much of the ramp was behind it at `since`.
    warm: Duration,
    since: Time,
    busy: bool,
}

impl Ramp {
    /// The lane has work from now on, or has none. Saying the same again changes nothing.
    pub(crate) fn turn(&mut self, busy: bool, length: Duration, now: Time) {
        if self.busy != busy {
            *self = Self { warm: self.warm(length, now), since: now, busy };
        }
    }

    /// Thousandths of the quota that are used now, with a ramp of that length.
    pub(crate) fn share(&self, length: Duration, now: Time) -> u64 {
        if length.is_zero() {
            return SHARE_MAX;
        }
        let risen = u128::from(SHARE_MAX - SHARE_MIN) * self.warm(length, now).as_micros()
            / length.as_micros();
        SHARE_MIN + u64::try_from(risen).expect("at most the whole")
    }

    fn warm(&self, length: Duration, now: Time) -> Duration {
        let passed = now.since(self.since);
        if self.busy { (self.warm + passed).min(length) } else { self.warm.saturating_sub(passed) }
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
