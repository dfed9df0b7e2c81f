//! Pauses between reconnects; free of I/O.
//!
//! Pauses double from 50 ms to 2 s. Only a session that lived for [`USEFUL_AFTER`] resets the pause
//! to 50 ms: a session that repeatedly opens and breaks must not be retried twenty times a second.

use std::time::Duration;

/// Pause before the second attempt.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Lifetime from which a session was useful; longer than the longest pause, so that useless
/// sessions stay rare.
const USEFUL_AFTER: Duration = Duration::from_secs(5);

/// The attempts to keep a session with one address.
#[derive(Debug)]
pub(super) struct Reconnect {
    pause: Duration,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self { pause: PAUSE_MIN }
    }
}

impl Reconnect {
    /// Reports that a session of lifetime `lived` has ended. True: the session was useful, and a
    /// later failure counts as new.
    pub(super) fn ended(&mut self, lived: Duration) -> bool {
        let useful = lived >= USEFUL_AFTER;
        if useful {
            *self = Self::default();
        }
        useful
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
            assert!(!reconnect.ended(20 * MS));
            waited += 20 * MS + reconnect.pause();
            sessions += 1;
        }
        assert!(sessions < 310, "{sessions} in ten minutes");
        assert_eq!(reconnect.pause(), PAUSE_MAX);
        assert!(reconnect.ended(USEFUL_AFTER));
        assert_eq!(reconnect.pause(), PAUSE_MIN);
    }
}
