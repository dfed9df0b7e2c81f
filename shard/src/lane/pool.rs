//! When one lane end may open a connection: how many it should have, how soon after a failure, how often at most.
//!
//! Gateways take rapid opening and closing for an attack, and a core that loses its gateway must not knock in a loop. So
//! a failure is followed by a pause that doubles, with full jitter, and no more than [`ATTEMPTS_PER_MINUTE`] attempts are
//! made in any minute for nothing. A connection that was of use does not count: nginx closes each after 1,000 requests,
//! in order and by default, and a wave through it needs a new one every few milliseconds.

use std::{collections::VecDeque, time::Duration};

use clarion_proto::time::Time;
use rand::Rng;

use super::retry::Backoff;

/// Attempts to connect in any minute, by one core for one lane, beyond one for each connection that it should have.
pub const ATTEMPTS_PER_MINUTE: usize = 30;
/// Answers after which a connection has been worth its attempt. A handshake costs both sides about a millisecond, as much
/// as some hundred pushes: opened that often, connections cost at most as much as what they carry.
pub const ANSWERS_FOR_AN_ATTEMPT: u32 = 100;
/// A connection of this age is replaced, so that addresses, certificates and balance follow the gateway's.
pub const AGE_MAX: Duration = Duration::from_hours(6);

const MINUTE: Duration = Duration::from_mins(1);

/// Decides when to open.
#[derive(Debug)]
pub struct Pool {
    backoff: Backoff,
    /// Times of attempts within the last minute; at most the highest `limit` of that time.
    attempts: VecDeque<Time>,
    limit: usize,
    /// In a row.
    failures: u32,
    not_before: Time,
}

impl Pool {
    /// For a lane end that should have so many connections.
    #[must_use]
    pub fn new(backoff: Backoff, connections: usize) -> Self {
        let limit = ATTEMPTS_PER_MINUTE + connections;
        Self { backoff, attempts: VecDeque::with_capacity(limit), limit, failures: 0, not_before: Time(0) }
    }

    /// The lane end should have so many connections from now on. What was attempted counts on.
    pub fn resize(&mut self, connections: usize) {
        self.limit = ATTEMPTS_PER_MINUTE + connections;
    }

    /// When the next attempt may be made.
    #[must_use]
    pub fn ready_at(&self) -> Time {
        if self.attempts.len() < self.limit {
            return self.not_before;
        }
        // Of as many as the limit: it may have been higher before.
        let first = self.attempts.get(self.attempts.len() - self.limit);
        first.map_or(self.not_before, |first| self.not_before.max(*first + MINUTE))
    }

    /// An attempt is made now.
    pub fn attempted(&mut self, now: Time) {
        while self.attempts.front().is_some_and(|first| *first + MINUTE <= now) {
            self.attempts.pop_front();
        }
        self.attempts.push_back(now);
    }

    /// A connection has been worth its attempt ([`ANSWERS_FOR_AN_ATTEMPT`]), which therefore does not count any more.
    pub fn earned(&mut self) {
        self.attempts.pop_front();
    }

    /// An attempt failed, or a connection broke without an order to leave.
    pub fn failed(&mut self, now: Time, rng: &mut impl Rng) {
        self.not_before = self.not_before.max(now + self.backoff.pause(self.failures, rng));
        self.failures = self.failures.saturating_add(1);
    }

    /// The gateway answered a request: it is well.
    pub fn answered(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last answer.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn never_more_attempts_than_stated() {
        // Failing at once each time, with next to no backoff.
        let backoff = Backoff { min: Duration::from_micros(1), max: Duration::from_micros(2), floor: Duration::ZERO };
        let mut pool = Pool::new(backoff, 2);
        let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(1);
        let mut times = Vec::new();
        let mut now = Time(0);
        while now < Time(300_000_000) {
            now = now.max(pool.ready_at());
            pool.attempted(now);
            times.push(now);
            pool.failed(now, &mut rng);
        }
        for window in times.windows(ATTEMPTS_PER_MINUTE + 3) {
            assert!(window[ATTEMPTS_PER_MINUTE + 2].since(window[0]) >= MINUTE);
        }
        assert!(times.len() > 120);
    }

    #[test]
    fn connections_that_are_of_use_may_follow_each_other_at_once() {
        let backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(8), floor: Duration::ZERO };
        let mut pool = Pool::new(backoff, 1);
        for _ in 0..10 * ATTEMPTS_PER_MINUTE {
            assert_eq!(pool.ready_at(), Time(0));
            pool.attempted(Time(5));
            pool.earned();
        }
        for _ in 0..=ATTEMPTS_PER_MINUTE {
            pool.attempted(Time(5));
        }
        assert_eq!(pool.ready_at(), Time(5) + MINUTE);
    }

    #[test]
    fn a_failure_waits_and_an_answer_forgives() {
        let backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(8), floor: Duration::ZERO };
        let mut pool = Pool::new(backoff, 1);
        let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(1);
        assert_eq!(pool.ready_at(), Time(0));
        for n in 1..10 {
            pool.failed(pool.ready_at(), &mut rng);
            assert_eq!(pool.failures(), n);
        }
        assert!(pool.ready_at() > Time(0));
        pool.answered();
        assert_eq!(pool.failures(), 0);
    }
}
