//! Leases: the node's leave to send, renewed by asking the coordinator.
//!
//! A node sends for an alert only while a coordinator answers it: every [`ASK_EVERY`] the node asks
//! for all waves and lanes, and the answer is valid for a fixed time after *the node asked*, on the
//! node's own clock. So a node that is cut off stops within one lease, whatever happened to answers
//! on their way; clocks of two machines are never compared; and a coordinator knows when a lease
//! that it granted has certainly ended. Ten requests fit into a lease of 5 s: nine may be lost.

use std::{collections::VecDeque, time::Duration};

use clarion_proto::time::Time;

use crate::lane::rate::Rate;

/// How often is asked.
pub const ASK_EVERY: Duration = Duration::from_millis(500);
/// Asks that are remembered. The longest useful lease is 5 s = 10 regular asks; the rest is for
/// asks at new waves. An answer to a forgotten one is worth nothing and is ignored.
const ASKED_MAX: usize = 64;

/// Lease requests of one session: when each was sent, and when to ask again.
#[derive(Debug, Default)]
pub struct Leases {
    asked: VecDeque<(u64, Time)>,
    due: Time,
}

impl Leases {
    /// When to ask next.
    #[must_use]
    pub fn due(&self) -> Time {
        self.due
    }

    /// Something is new that nobody has asked for yet.
    pub fn ask_now(&mut self) {
        self.due = Time::default();
    }

    /// Records a lease request that is sent now. The node uses no nonce twice, whatever the
    /// session.
    pub fn ask(&mut self, nonce: u64, now: Time) {
        if self.asked.len() == ASKED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back((nonce, now));
        self.due = now + ASK_EVERY;
    }

    /// Until when an answer holds; `None`: it was not asked for in this session, or has run out on
    /// the way.
    #[must_use]
    pub fn until(&self, nonce: u64, lease: Duration, now: Time) -> Option<Time> {
        let (_, asked) = self.asked.iter().find(|(n, _)| *n == nonce)?;
        Some(*asked + lease).filter(|until| *until > now)
    }
}

/// One core's part of an alert's rate, of so many cores. The burst is at least one request: a
/// bucket that holds less never gives one. (A quota is shared out more exactly:
/// [`crate::lane::slice::share`].)
#[must_use]
#[allow(clippy::cast_precision_loss)] // cores
pub fn share(per_second: f64, burst: f64, parts: usize) -> Rate {
    let parts = parts.max(1) as f64;
    Rate { per_second: per_second / parts, burst: (burst / parts).max(1.0) }
}

/// The burst of an alert's own rate, which the contract gives without one: a tenth of a second's
/// worth. What a pause of that length held up (a busy machine, a seam between bands) is made up
/// for, so that the rate is kept.
#[must_use]
pub fn burst(per_second: f64) -> f64 {
    per_second * 0.1
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const LEASE: Duration = Duration::from_secs(5);

    #[test]
    fn a_lease_runs_from_the_asking() {
        let mut leases = Leases::default();
        let asked = Time(7_000_000);
        leases.ask(7, asked);
        // The answer took 4.9 s: 0.1 s of it is left.
        assert_eq!(leases.until(7, LEASE, asked + LEASE - 100 * MS), Some(asked + LEASE));
        assert_eq!(leases.until(7, LEASE, asked + LEASE), None);
        assert_eq!(leases.until(8, LEASE, asked), None, "never asked");
    }

    #[test]
    fn asks_come_every_half_second_and_at_once_for_news() {
        let mut leases = Leases::default();
        leases.ask(1, Time(1_000_000));
        assert_eq!(leases.due(), Time(1_500_000));
        leases.ask_now();
        assert!(leases.due() <= Time(1_000_000));
    }

    #[test]
    fn memory_is_bounded_and_the_newest_count() {
        let mut leases = Leases::default();
        (0..1_000).for_each(|nonce| leases.ask(nonce, Time(nonce)));
        assert_eq!(leases.asked.len(), ASKED_MAX);
        assert_eq!(leases.until(999, LEASE, Time(1_000)), Some(Time(999) + LEASE));
        assert_eq!(leases.until(0, LEASE, Time(1_000)), None);
    }

    #[test]
    fn shares_sum_up_to_the_whole() {
        assert_eq!(share(100.0, 40.0, 4), Rate { per_second: 25.0, burst: 10.0 });
        assert_eq!(share(1.0, 1.0, 4), Rate { per_second: 0.25, burst: 1.0 });
    }
}
