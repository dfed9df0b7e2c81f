//! Taking the role of chief, and holding it.
//!
//! The holder renews a counter each second. Another process watches the row before it takes over:
//!
//! ```text
//!             ┌─ counter or incarnation changed: refused, the holder is alive
//! first read ─┤
//!             └─ unchanged for 3 s: compare-and-swap on (incarnation, epoch, counter)
//!                   ├─ taken
//!                   └─ another process was faster: watch again
//! ```
//!
//! Time is the observer's own: no clock of another machine decides. The swap locks the row FOR
//! UPDATE, which waits for the statements of the former holder that have passed the fence; later
//! ones see the new epoch.

use std::time::Duration;

use bytes::Bytes;
use clarion_proto::{ids::Epoch, time::Time};

use super::query::Query;

/// Interval of the holder's renewals.
pub(super) const RENEW_INTERVAL: Duration = Duration::from_secs(1);
/// Time that a row must stay unchanged before the role is taken over.
const QUIET: Duration = Duration::from_secs(3);
/// Interval of the observer's reads.
pub(super) const WATCH_INTERVAL: Duration = Duration::from_millis(250);
/// Counter of a holder that has ended in order: nobody has to wait for it.
const RELEASED: i64 = -1;

/// The row of the chief.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) incarnation: Vec<u8>,
    pub(super) epoch: i64,
    pub(super) counter: i64,
}

/// What an observer does after a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Read again after [`WATCH_INTERVAL`].
    Watch,
    /// Take the role from the holder as it was read.
    Take(Holder),
    /// The holder is alive.
    Refuse(Holder),
}

/// What an observer has seen.
#[derive(Debug)]
pub(super) struct Watch {
    own: [u8; 16],
    seen: Option<(Holder, Time)>,
}

impl Watch {
    /// Begins to watch, for a process of the incarnation `own`.
    pub(super) fn new(own: [u8; 16]) -> Self {
        Self { own, seen: None }
    }

    /// Decides about a read of the row.
    pub(super) fn observe(&mut self, holder: Holder, now: Time) -> Next {
        // No process has epoch 0: the store is new. The row may have this process's incarnation
        // after an answer was lost.
        if holder.epoch == 0 || holder.counter == RELEASED || holder.incarnation == self.own {
            return Next::Take(holder);
        }
        match &self.seen {
            None => {
                self.seen = Some((holder, now));
                Next::Watch
            }
            Some((seen, _)) if *seen != holder => Next::Refuse(holder),
            Some((_, since)) if now.since(*since) < QUIET => Next::Watch,
            Some(_) => Next::Take(holder),
        }
    }
}

impl Holder {
    /// Name of the holder for errors and logs.
    pub(super) fn name(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.incarnation)
    }
}

/// Reads the row.
pub(super) fn look() -> Query {
    Query::new("SELECT incarnation, epoch, counter FROM chief WHERE id = 1")
}

/// Takes the role from the holder that was read; no row: somebody else was faster.
pub(super) fn take(incarnation: [u8; 16], from: &Holder) -> Query {
    const TAKE: &str = "
WITH held AS MATERIALIZED (
  SELECT epoch FROM chief
  WHERE id = 1 AND incarnation = $2 AND epoch = $3 AND counter = $4 FOR UPDATE
)
UPDATE chief SET epoch = held.epoch + 1, incarnation = $1, counter = 0
FROM held WHERE chief.id = 1 RETURNING chief.epoch";
    Query::new(TAKE)
        .with(incarnation)
        .with(Bytes::from(from.incarnation.clone()))
        .with(from.epoch)
        .with(from.counter)
}

/// Renews the counter; no row: another process is chief.
pub(super) fn renew(epoch: Epoch) -> Query {
    const RENEW: &str =
        "UPDATE chief SET counter = counter + 1 WHERE id = 1 AND epoch = $1 RETURNING counter";
    Query::new(RENEW).with(epoch.0)
}

/// Gives the role back, so that the next process does not wait.
pub(super) fn release(epoch: Epoch) -> Query {
    Query::new("UPDATE chief SET counter = -1 WHERE id = 1 AND epoch = $1").with(epoch.0)
}

/// The stored epoch.
pub(super) fn stored() -> Query {
    Query::new("SELECT epoch FROM chief WHERE id = 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(incarnation: u8, epoch: i64, counter: i64) -> Holder {
        Holder { incarnation: vec![incarnation; 16], epoch, counter }
    }

    fn watch() -> Watch {
        Watch::new([1; 16])
    }

    fn at(millis: u64) -> Time {
        Time(millis * 1_000)
    }

    #[test]
    fn a_new_or_released_store_is_taken_at_once() {
        for free in [holder(0, 0, 0), holder(7, 3, RELEASED), holder(1, 3, 5)] {
            assert_eq!(watch().observe(free.clone(), at(0)), Next::Take(free));
        }
    }

    #[test]
    fn a_quiet_holder_is_replaced_after_three_seconds() {
        let mut watch = watch();
        let quiet = holder(7, 3, 9);
        for millis in (0..3_000).step_by(250) {
            assert_eq!(watch.observe(quiet.clone(), at(millis)), Next::Watch, "{millis}");
        }
        assert_eq!(watch.observe(quiet.clone(), at(3_000)), Next::Take(quiet));
    }

    #[test]
    fn a_holder_that_moves_refuses() {
        for moved in [holder(7, 3, 10), holder(8, 4, 0)] {
            let mut watch = watch();
            assert_eq!(watch.observe(holder(7, 3, 9), at(0)), Next::Watch);
            assert_eq!(watch.observe(moved.clone(), at(2_900)), Next::Refuse(moved));
        }
    }
}
