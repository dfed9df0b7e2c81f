//! When a trouble that comes again and again is worth another log line: at its first occurrence, at
//! each change of its reason, and at most once a minute otherwise, with the number of occurrences
//! left out. Pure.

use std::time::Duration;

use clarion_proto::time::Time;

/// Between two lines that say the same.
const EVERY: Duration = Duration::from_mins(1);

/// What was logged of one trouble.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    logged: Option<(String, Time)>,
    left_out: u64,
}

impl Repeats {
    /// It occurs, for this reason. `Some`: to be logged now; so many occurrences were left out
    /// since the last line.
    pub(crate) fn occurs(&mut self, reason: &str, now: Time) -> Option<u64> {
        if self.logged.as_ref().is_some_and(|(logged, at)| logged == reason && now < *at + EVERY) {
            self.left_out += 1;
            return None;
        }
        self.logged = Some((reason.to_owned(), now));
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::fixtures::seconds;

    #[test]
    fn the_first_each_change_and_then_one_a_minute() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.occurs("a", seconds(0)), Some(0));
        assert_eq!((1..60).filter_map(|s| repeats.occurs("a", seconds(s))).count(), 0);
        assert_eq!(repeats.occurs("a", seconds(60)), Some(59));
        assert_eq!(repeats.occurs("a", seconds(61)), None);
        assert_eq!(repeats.occurs("b", seconds(62)), Some(1));
        assert_eq!(repeats.occurs("b", seconds(63)), None);
    }
}
