//! Decides when a lane end may open a connection: the target number, the pause after a failure, and
//! the maximum rate of attempts.
//!
//! Gateways treat rapid opening and closing as an attack, and a core that loses its gateway must
//! not reconnect in a tight loop. But a core whose gateway has recovered must be connected within
//! seconds. So there are three rules:
//!
//! - **A budget that refills evenly.** [`ATTEMPTS_AT_ONCE`] attempts and one for each target
//!   connection of the lane end may be made at once; one more is added every [`ATTEMPT_EVERY`]. In
//!   any minute these are at most `6 + connections + 60 s / 2.5 s` = [`ATTEMPTS_PER_MINUTE`] `+
//!   connections`, and the wait for one is never longer than [`ATTEMPT_EVERY`]. A budget per minute
//!   that a storm has used up at once would leave nothing for the rest of the minute.
//! - **A useful connection returns its attempt.** A connection that has received a hundred answers
//!   returns its own attempt and one more. nginx closes each connection gracefully after 1,000
//!   requests by default, and a wave through it needs a new one every few milliseconds; and after a
//!   storm the number of connections doubles with each useful one. So *useless* attempts are in any
//!   minute at most as many as above and as many as were useful.
//! - **A failure is followed by a pause** that grows, with jitter. Until the gateway answers on a
//!   new connection, attempts are made one by one, a pause apart: one connection tests a gateway
//!   that is down, not all that are wanted. While a device waits to be pushed to, no pause is
//!   longer than [`BUSY_PAUSE_MAX`]; otherwise it grows to the configured limit.
//!
//! So a lane end with devices to push to begins its next attempt within `1.1 · BUSY_PAUSE_MAX`
//! after its gateway has recovered ([`LATE_AFTER`] later if a handshake hangs), and has its former
//! connections as soon as the gateway has answered on that one.

use std::time::Duration;

use clarion_proto::time::Time;
use rand::Rng;

use super::retry::Backoff;

/// Number of attempts to connect that one core may make at once for one lane, in addition to one
/// for each target connection.
const ATTEMPTS_AT_ONCE: usize = 6;
/// Time in which one attempt is refilled.
pub const ATTEMPT_EVERY: Duration = Duration::from_micros(EVERY);
/// Most useless attempts to connect in any minute, by one core for one lane, in addition to one for
/// each target connection.
pub const ATTEMPTS_PER_MINUTE: usize = ATTEMPTS_AT_ONCE + 24;
/// Number of answers after which a connection returns its attempt and one more. A handshake costs
/// both sides about a millisecond, as much as some hundred pushes: opened that often, connections
/// cost at most as much again as the pushes on them.
pub const ANSWERS_FOR_AN_ATTEMPT: u32 = 100;
/// Longest first pause after a failure, even if a longer one is configured for requests.
pub(super) const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause while devices wait to be pushed to; half of the first pause is added to it.
pub const BUSY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Time after which a handshake counts as failed for the time being, so that another attempt may be
/// made. It is five times the duration of one around the world (three round trips of 130 ms).
pub const LATE_AFTER: Duration = Duration::from_secs(2);
/// Age at which a connection is replaced, so that it follows the gateway's addresses, certificates
/// and load balancing.
pub const AGE_MAX: Duration = Duration::from_hours(6);

/// Decides when a lane end may open a connection.
#[derive(Debug)]
pub struct Pool {
    busy_backoff: Backoff,
    idle_backoff: Backoff,
    /// Time at which all attempts will be refilled; each attempt moves it by [`ATTEMPT_EVERY`].
    spent_until: Time,
    at_once: u64,
    /// Number of consecutive failures.
    failures: u32,
    /// Ends of the pause after the last failure: while devices wait, and otherwise.
    pause: (Time, Time),
    /// End of the pause after the last attempt, while all attempts fail.
    spaced_until: Time,
}

impl Pool {
    /// Creates a pool for a lane end with this target number of connections. `pauses` are the
    /// shortest and the longest configured pause.
    #[must_use]
    pub fn new(pauses: (Duration, Duration), connections: usize) -> Self {
        let min = pauses.0.min(PAUSE_MIN);
        // Part of each pause is fixed, so that a client that was disconnected does not return at
        // once.
        let backoff = |max| Backoff { min, max, floor: min / 2 };
        Self {
            busy_backoff: backoff(pauses.1.min(BUSY_PAUSE_MAX)),
            idle_backoff: backoff(pauses.1),
            spent_until: Time(0),
            at_once: at_once(connections),
            failures: 0,
            pause: (Time(0), Time(0)),
            spaced_until: Time(0),
        }
    }

    /// Changes the target number of connections. Earlier attempts still count, as far as a lane end
    /// of the new size could have made them: a lane end that has lost its gateway gets fewer
    /// connections, and must not wait for attempts of its former size.
    pub fn resize(&mut self, connections: usize, now: Time) {
        self.at_once = at_once(connections);
        self.spent_until.0 = self.spent_until.0.min(now.0 + self.at_once * EVERY);
    }

    /// Returns the time at which the next attempt may be made. `busy` means that devices wait to be
    /// pushed to.
    #[must_use]
    pub fn ready_at(&self, busy: bool) -> Time {
        let pause = if busy {
            self.pause.0.max(self.spaced_until)
        } else {
            self.pause.1.max(self.spaced_until)
        };
        pause.max(Time(self.spent_until.0.saturating_sub((self.at_once - 1) * EVERY)))
    }

    /// Records an attempt to connect.
    pub fn attempted(&mut self, now: Time, rng: &mut impl Rng) {
        self.spent_until = Time(self.spent_until.0.max(now.0) + EVERY);
        if self.failures > 0 {
            self.spaced_until = now + self.busy_backoff.pause(self.failures - 1, rng);
        }
    }

    /// Returns the attempt of a useful connection, and one more ([`ANSWERS_FOR_AN_ATTEMPT`]).
    pub fn earned(&mut self) {
        self.spent_until.0 = self.spent_until.0.saturating_sub(2 * EVERY);
    }

    /// Records an attempt that failed or is late, or a connection that broke without GOAWAY.
    /// Several within one pause count as one failure.
    pub fn failed(&mut self, now: Time, rng: &mut impl Rng) {
        if self.failures > 0 && now < self.pause.0 {
            return;
        }
        let pause = |backoff: &Backoff, rng: &mut _| now + backoff.pause(self.failures, rng);
        let busy = pause(&self.busy_backoff, rng);
        self.pause = (busy, busy.max(pause(&self.idle_backoff, rng)));
        self.failures = self.failures.saturating_add(1);
    }

    /// Records the first answer of the gateway on a connection. The gateway works, so all target
    /// connections may be opened.
    pub fn answered(&mut self) {
        if self.failures > 0 {
            (self.failures, self.pause, self.spaced_until) = (0, (Time(0), Time(0)), Time(0));
        }
    }

    /// Returns the number of failures since the last first answer.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// Interval in which one further attempt is allowed, microseconds.
const EVERY: u64 = 2_500_000;

fn at_once(connections: usize) -> u64 {
    u64::try_from(ATTEMPTS_AT_ONCE + connections).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const MS: Duration = Duration::from_millis(1);

    fn pool(min_ms: u64, connections: usize) -> Pool {
        Pool::new((Duration::from_millis(min_ms), Duration::from_secs(30)), connections)
    }

    #[test]
    fn the_stated_number_is_the_sum_of_its_parts() {
        assert_eq!(ATTEMPTS_PER_MINUTE as u128, 6 + MINUTE.as_micros() / ATTEMPT_EVERY.as_micros());
    }

    #[test]
    fn connections_that_are_of_use_may_follow_each_other_at_once() {
        let (mut pool, mut rng) = (pool(1_000, 1), Pcg64Mcg::seed_from_u64(1));
        for _ in 0..10 * ATTEMPTS_PER_MINUTE {
            assert_eq!(pool.ready_at(true), Time(0));
            pool.attempted(Time(5), &mut rng);
            pool.earned();
        }
        for _ in 0..=ATTEMPTS_AT_ONCE {
            assert!(pool.ready_at(true) <= Time(5));
            pool.attempted(Time(5), &mut rng);
        }
        assert_eq!(pool.ready_at(true), Time(5) + ATTEMPT_EVERY);
    }

    #[test]
    fn each_that_is_of_use_makes_room_for_another_when_a_storm_has_spent_all() {
        let (mut pool, mut rng) = (pool(1_000, 8), Pcg64Mcg::seed_from_u64(1));
        let now = Time(0) + MINUTE;
        while pool.ready_at(true) <= now {
            pool.attempted(now, &mut rng);
        }
        // One is refilled by time; it is useful, and so are those for which it makes room.
        let now = now + ATTEMPT_EVERY;
        let (mut standing, mut rounds) = (0, 0);
        while standing < 8 {
            let mut opened = 0;
            while pool.ready_at(true) <= now && standing + opened < 8 {
                pool.attempted(now, &mut rng);
                opened += 1;
            }
            (0..opened).for_each(|_| pool.earned());
            (standing, rounds) = (standing + opened, rounds + 1);
        }
        assert!(rounds <= 4, "1, 2, 4, 1: {rounds}");
    }

    #[test]
    fn a_failure_waits_longer_each_time_and_a_first_answer_forgives() {
        let (mut pool, mut rng) = (pool(1_000, 1), Pcg64Mcg::seed_from_u64(1));
        let mut now = Time(0);
        for n in 1..10 {
            pool.failed(now, &mut rng);
            pool.failed(now, &mut rng);
            assert_eq!(pool.failures(), n, "two at once are one");
            let pause = pool.ready_at(true).since(now);
            assert!((500 * MS..=BUSY_PAUSE_MAX + 500 * MS).contains(&pause), "{pause:?}");
            now = pool.ready_at(true);
        }
        assert!(pool.ready_at(false) >= pool.ready_at(true));
        pool.answered();
        assert_eq!((pool.failures(), pool.ready_at(true)), (0, Time(0)));
    }

    #[test]
    fn while_all_fail_attempts_go_one_by_one() {
        let (mut pool, mut rng) = (pool(1_000, 20), Pcg64Mcg::seed_from_u64(3));
        pool.failed(Time(0), &mut rng);
        let now = pool.ready_at(true);
        pool.attempted(now, &mut rng);
        assert!(
            pool.ready_at(true).since(now) >= 500 * MS,
            "it has not failed yet, and is alone all the same"
        );
    }

    proptest! {
        /// Checks under random events that useless attempts never exceed the documented number in
        /// any minute.
        #[test]
        fn never_more_attempts_than_stated(
            connections in 1usize..40,
            min_ms in 0u64..2_000,
            seed in any::<u64>(),
            steps in proptest::collection::vec((0u64..4_000, any::<bool>(), 0u8..3), 1..600),
        ) {
            let (mut pool, mut rng) = (pool(min_ms, connections), Pcg64Mcg::seed_from_u64(seed));
            let mut now = Time(0);
            // Time and result of each attempt.
            let mut made: Vec<(Time, u8)> = Vec::new();
            for (ms, busy, what) in steps {
                now = (now + Duration::from_millis(ms)).max(if what == 0 { pool.ready_at(busy) } else { now });
                if pool.ready_at(busy) > now {
                    continue;
                }
                pool.attempted(now, &mut rng);
                match what {
                    0 => pool.failed(now, &mut rng),
                    1 => pool.answered(),
                    _ => (0..2).for_each(|_| { pool.answered(); pool.earned() }),
                }
                // `earned` twice: a hundred answers may have come for an attempt of long ago.
                made.push((now, what));
            }
            for (n, (from, _)) in made.iter().enumerate() {
                let minute = made[n..].iter().take_while(|(at, _)| at.since(*from) < MINUTE);
                let (all, useful) = minute.fold((0, 0), |(all, useful), (_, w)| (all + 1, useful + usize::from(*w == 2)));
                prop_assert!(all <= ATTEMPTS_PER_MINUTE + connections + 4 * useful, "{all}, {useful} of use");
            }
        }

        /// After any storm an attempt is possible soon.
        #[test]
        fn the_next_attempt_is_never_far(
            connections in 1usize..40, min_ms in 0u64..20_000, seed in any::<u64>(),
            steps in proptest::collection::vec((0u64..500, proptest::option::weighted(0.05, 1usize..40)), 1..300),
        ) {
            let (mut pool, mut rng) = (pool(min_ms, connections), Pcg64Mcg::seed_from_u64(seed));
            let mut now = Time(0);
            for (ms, resized) in steps {
                now = now + Duration::from_millis(ms);
                resized.into_iter().for_each(|connections| pool.resize(connections, now));
                if pool.ready_at(true) <= now {
                    pool.attempted(now, &mut rng);
                }
                pool.failed(now, &mut rng);
                prop_assert!(pool.ready_at(true).since(now) <= BUSY_PAUSE_MAX + PAUSE_MIN / 2);
            }
        }
    }
}
