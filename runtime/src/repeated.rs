//! What happens again and again is logged at its first time, at each change of its reason, and then once a minute with a count.

use std::time::Duration;

/// Between two lines of the same reason.
pub const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// One kind of event. Pure: the time comes from whoever asks.
#[derive(Debug, Default)]
pub struct Repeated {
    last: Option<(String, Duration)>,
    untold: u64,
}

impl Repeated {
    /// It has happened. `Some`: it is to be logged, and stands for so many times since the last line.
    pub fn note(&mut self, reason: &str, now: Duration) -> Option<u64> {
        self.untold += 1;
        let told = self
            .last
            .as_ref()
            .is_some_and(|(last, at)| last == reason && now.saturating_sub(*at) < AGAIN_AFTER);
        if told {
            return None;
        }
        self.last = Some((reason.to_owned(), now));
        Some(std::mem::take(&mut self.untold))
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
        assert_eq!(repeated.note("b", at(59)), Some(3), "another reason is told at once");
        assert_eq!(repeated.note("b", at(60)), None);
        assert_eq!(repeated.note("b", at(119)), Some(2));
    }
}
