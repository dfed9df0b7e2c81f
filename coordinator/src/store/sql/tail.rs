//! The newest batches of all logs in memory, so that nodes that follow do not read the database.
//!
//! The batch that was appended first goes first when the bytes exceed the limit, whatever its log:
//! a follower that keeps up reads no log from the database, and one that does not reads each log
//! from about the same time on.

use std::collections::VecDeque;

use clarion_proto::ids::{LogId, Position};

use crate::store::Batch;

/// Bytes of a batch besides its records: its entries in both queues, which may be half empty.
const ENTRY_BYTES: usize = 2 * (size_of::<Tailed>() + size_of::<LogId>());

/// Newest batches of all logs, within a limit of bytes.
#[derive(Debug)]
pub(super) struct Tail {
    logs: Vec<VecDeque<Tailed>>,
    /// Logs of all batches, in the order of their append.
    order: VecDeque<LogId>,
    bytes: usize,
    bytes_max: usize,
}

/// A batch of the tail.
#[derive(Debug, Clone)]
pub(super) struct Tailed {
    pub(super) batch: Batch,
    /// Number of records in the log up to and including the batch.
    pub(super) records_until: u64,
}

impl Tail {
    pub(super) fn new(logs: u16, bytes_max: usize) -> Self {
        let logs = (0..logs).map(|_| VecDeque::new()).collect();
        Self { logs, order: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds the batch that was appended to a log; batches come in the order of their positions.
    pub(super) fn push(&mut self, log: LogId, tailed: Tailed) {
        self.bytes += cost(&tailed);
        self.logs[usize::from(log.0)].push_back(tailed);
        self.order.push_back(log);
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(gone) = self.logs[usize::from(oldest.0)].pop_front() {
                self.bytes -= cost(&gone);
            }
        }
    }

    /// The batches of a log after a position; `None`: the tail begins later.
    pub(super) fn after(
        &self,
        log: LogId,
        after: Position,
    ) -> Option<impl Iterator<Item = &Tailed>> {
        let held = &self.logs[usize::from(log.0)];
        let first = held.front()?.batch.position.0;
        let skipped = (after.0 + 1).checked_sub(first)?;
        Some(held.iter().skip(usize::try_from(skipped).unwrap_or(usize::MAX)))
    }
}

fn cost(tailed: &Tailed) -> usize {
    tailed.batch.records.len() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use clarion_proto::ids::UnixMillis;

    use super::*;

    fn tailed(position: u64) -> Tailed {
        let records = Bytes::from(vec![0; 100]);
        let batch = Batch { position: Position(position), appended: UnixMillis(1), records };
        Tailed { batch, records_until: position }
    }

    fn positions(tail: &Tail, log: u16, after: u64) -> Option<Vec<u64>> {
        let held = tail.after(LogId(log), Position(after))?;
        Some(held.map(|tailed| tailed.batch.position.0).collect())
    }

    #[test]
    fn the_oldest_batch_goes_first_whatever_its_log() {
        let mut tail = Tail::new(2, 3 * (100 + ENTRY_BYTES));
        for (log, position) in [(0, 7), (1, 1), (0, 8)] {
            tail.push(LogId(log), tailed(position));
        }
        assert_eq!(positions(&tail, 0, 6), Some(vec![7, 8]));
        assert_eq!(positions(&tail, 0, 5), None, "position 6 is only in the database");
        tail.push(LogId(1), tailed(2));
        assert_eq!(positions(&tail, 0, 6), None);
        assert_eq!(positions(&tail, 0, 7), Some(vec![8]));
        assert_eq!(positions(&tail, 0, 99), Some(vec![]));
        assert_eq!(positions(&tail, 1, 0), Some(vec![1, 2]));
        assert_eq!(tail.bytes, 3 * (100 + ENTRY_BYTES));
    }

    #[test]
    fn a_batch_above_the_limit_is_not_kept() {
        let mut tail = Tail::new(1, 50);
        tail.push(LogId(0), tailed(1));
        assert_eq!((positions(&tail, 0, 0), tail.bytes, tail.order.len()), (None, 0, 0));
    }
}
