//! Limit for log lines about a repeated failure.
//!
//! A failure is logged at its first occurrence, at each change of its reason, and then once a
//! minute with the number of occurrences since the last line.

use std::time::Duration;

/// Shortest time between two log lines with the same reason.
pub const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Decides which occurrences of one kind of failure are logged. The caller passes the time.
#[derive(Debug, Default)]
pub struct Repeated {
    last: Option<(String, Duration)>,
    unlogged: u64,
}

impl Repeated {
    /// Counts an occurrence. `Some`: the caller logs it, with the number of occurrences since the
    /// last line.
    pub fn note(&mut self, reason: &str, now: Duration) -> Option<u64> {
        self.unlogged += 1;
        let logged = self
            .last
            .as_ref()
            .is_some_and(|(last, at)| last == reason && now.saturating_sub(*at) < AGAIN_AFTER);
        if logged {
            return None;
        }
        self.last = Some((reason.to_owned(), now));
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_change_and_once_a_minute() {
        let mut repeated = Repeated::default();
        let at = Duration::from_secs;
        assert_eq!(repeated.note("a", at(0)), Some(1));
        assert_eq!((repeated.note("a", at(1)), repeated.note("a", at(59))), (None, None));
        assert_eq!(repeated.note("b", at(59)), Some(3), "another reason is logged at once");
        assert_eq!(repeated.note("b", at(60)), None);
        assert_eq!(repeated.note("b", at(119)), Some(2));
    }
}
