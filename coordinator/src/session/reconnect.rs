//! When to connect again, and what to log of it: pure.
//!
//! Pauses double from 50 ms to 2 s. Only a session that lived for [`USEFUL_AFTER`] brings them back: one that opens and breaks
//! at once, over and over, must not be tried twenty times a second. The same reason is logged once, then once a minute
//! with the number of times.

use std::time::Duration;

use clarion_proto::time::Time;

/// Before the first try.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A session that lived so long was of use; longer than the longest pause, so that useless ones stay rare.
const USEFUL_AFTER: Duration = Duration::from_secs(5);
/// Between two log lines of the same reason.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Tries to keep a session with one address.
#[derive(Debug)]
pub(super) struct Reconnect {
    pause: Duration,
    reason: String,
    logged: Time,
    /// Since the last line.
    failures: u64,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self { pause: PAUSE_MIN, reason: String::new(), logged: Time(0), failures: 0 }
    }
}

impl Reconnect {
    /// A session that lived so long has ended.
    pub(super) fn ended(&mut self, lived: Duration) {
        if lived >= USEFUL_AFTER {
            *self = Self::default();
        }
    }

    /// It failed, or none began. `Some`: to be logged, with how often it happened since the last line.
    pub(super) fn failed(&mut self, reason: &str, now: Time) -> Option<u64> {
        self.failures += 1;
        if reason == self.reason && now.since(self.logged) < LOG_EVERY {
            return None;
        }
        reason.clone_into(&mut self.reason);
        self.logged = now;
        Some(std::mem::take(&mut self.failures))
    }

    /// The upper bound of the next pause, for full jitter.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn sessions_that_break_at_once_are_tried_ever_less_often() {
        let mut reconnect = Reconnect::default();
        let mut waited = Duration::ZERO;
        let mut sessions = 0;
        while waited < Duration::from_secs(600) {
            reconnect.ended(20 * MS);
            waited += 20 * MS + reconnect.pause();
            sessions += 1;
        }
        assert!(sessions < 310, "{sessions} in ten minutes");
        assert_eq!(reconnect.pause(), PAUSE_MAX);
        reconnect.ended(USEFUL_AFTER);
        assert_eq!(reconnect.pause(), PAUSE_MIN);
    }

    #[test]
    fn a_reason_is_logged_when_it_is_new_and_once_a_minute() {
        let mut reconnect = Reconnect::default();
        let at = |s: u64| Time(s * 1_000_000);
        assert_eq!(reconnect.failed("refused", at(1)), Some(1));
        assert!((2..61).all(|s| reconnect.failed("refused", at(s)).is_none()));
        assert_eq!(reconnect.failed("refused", at(61)), Some(60));
        assert_eq!(reconnect.failed("broken", at(62)), Some(1));
    }
}
