//! Up to where a table is read for good: a pass begins there. Free of I/O and clock.
//!
//! A transaction may commit rows whose cursor is older than that of rows that were read before: the
//! cursor is drawn early in the transaction. So the end of a pass is not the beginning of the next
//! one. It becomes the beginning once
//!
//! 1. the overlap has passed since the end of the pass, and every transaction that was open at the
//!    end of the pass has ended: whatever it committed is visible now; and
//! 2. a further pass over the same rows, which began after that, has read what was committed.
//!
//! The first part alone would do if all transactions had a number from their beginning. A server
//! numbers a transaction with its first write: the overlap covers the time before.

use std::{collections::VecDeque, time::Duration};

use clarion_proto::time::Time;
use serde::{Deserialize, Serialize};

/// Maximum number of ends that are kept, while a transaction stays open.
const ENDS_MAX: usize = 1_024;

/// Place in a table: behind a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::bulk) struct Place {
    /// Cursor of the row, as text.
    pub(in crate::bulk) cursor: String,
    /// Key of the row, as text.
    pub(in crate::bulk) key: String,
}

/// Transactions of a server at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transactions {
    /// Number of the oldest transaction that is open.
    pub(super) oldest: u64,
    /// Number of the next transaction.
    pub(super) next: u64,
}

/// Ends of passes that may become beginnings.
#[derive(Debug)]
pub(super) struct History {
    overlap: Duration,
    begin: Option<Place>,
    /// Beginning of the passes behind the present one, which has to be completed first.
    candidate: Option<Place>,
    ends: VecDeque<(Time, u64, Place)>,
}

impl History {
    /// Begins behind a place; `None`: at the first row.
    pub(super) fn new(overlap: Duration, begin: Option<Place>) -> Self {
        Self { overlap, begin, candidate: None, ends: VecDeque::new() }
    }

    /// Where passes begin.
    pub(super) fn begin(&self) -> Option<&Place> {
        self.begin.as_ref()
    }

    /// Notes that a pass begins.
    pub(super) fn begins(&mut self, now: Time, transactions: Transactions) {
        while let Some((end, next, _)) = self.ends.front()
            && now.since(*end) >= self.overlap
            && transactions.oldest >= *next
        {
            self.candidate = self.ends.pop_front().map(|(_, _, place)| place);
        }
    }

    /// Notes that a pass that began at [`History::begin`] has read all rows up to `place`, and that
    /// they are written.
    pub(super) fn ended(&mut self, now: Time, transactions: Transactions, place: Place) {
        self.begin = self.candidate.take().or(self.begin.take());
        // A table without changes settles from the first time on.
        if self.ends.back().is_some_and(|(_, _, last)| *last == place)
            || self.begin.as_ref() == Some(&place)
        {
            return;
        }
        if self.ends.len() == ENDS_MAX {
            self.ends.pop_back();
        }
        self.ends.push_back((now, transactions.next, place));
    }

    /// Whether a transaction, and not the overlap, holds the beginning of passes back.
    pub(super) fn is_held(&self, now: Time) -> bool {
        let late = |(end, ..): &(Time, u64, Place)| now.since(*end) >= 2 * self.overlap;
        self.ends.front().is_some_and(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVERLAP: Duration = Duration::from_secs(30);

    fn seconds(n: u64) -> Time {
        Time(n * 1_000_000)
    }

    fn place(cursor: u64) -> Place {
        Place { cursor: cursor.to_string(), key: "k".to_owned() }
    }

    /// One pass that takes no time.
    fn pass(history: &mut History, second: u64, (oldest, next): (u64, u64), end: u64) {
        let transactions = Transactions { oldest, next };
        history.begins(seconds(second), transactions);
        history.ended(seconds(second), transactions, place(end));
    }

    #[test]
    fn a_pass_begins_behind_rows_that_are_older_than_the_overlap() {
        let mut history = History::new(OVERLAP, None);
        pass(&mut history, 0, (5, 5), 10);
        pass(&mut history, 10, (6, 6), 20);
        assert_eq!(history.begin(), None);
        pass(&mut history, 30, (7, 7), 30);
        assert_eq!(history.begin(), Some(&place(10)), "read again after the overlap");
        pass(&mut history, 41, (7, 7), 30);
        assert_eq!(history.begin(), Some(&place(20)));
        for second in 42..80 {
            pass(&mut history, second, (7, 7), 30);
        }
        assert_eq!(history.begin(), Some(&place(30)));
        assert!(history.ends.is_empty() && !history.is_held(seconds(1_000)));
    }

    #[test]
    fn an_open_transaction_holds_the_beginning_back() {
        let mut history = History::new(OVERLAP, Some(place(1)));
        pass(&mut history, 0, (5, 9), 10);
        for second in 1..1_000 {
            pass(&mut history, second, (5, 9 + second), 10 + second);
            assert_eq!(history.begin(), Some(&place(1)));
        }
        assert!(history.is_held(seconds(1_000)));
        pass(&mut history, 1_000, (2_000, 2_000), 5_000);
        assert_eq!(history.begin(), Some(&place(980)), "all that the overlap allows");
    }

    #[test]
    fn a_pass_that_is_not_completed_moves_nothing() {
        let mut history = History::new(OVERLAP, None);
        pass(&mut history, 0, (5, 5), 10);
        history.begins(seconds(60), Transactions { oldest: 9, next: 9 });
        assert_eq!(history.begin(), None, "rows up to there are not read again yet");
    }
}
