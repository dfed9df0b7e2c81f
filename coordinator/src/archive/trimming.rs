//! The machine of trimming: up to which position the archive no longer needs a log.
//!
//! | A log | is trimmed |
//! |---|---|
//! | of which a partition has fewer than two sound snapshots | not at all |
//! | of which every partition has two | up to the first snapshot that any record names, once that one is older than `keep` |
//! | the same, and the logs hold more than half of their limit | up to the older current snapshot of the partition that is furthest behind |
//!
//! A partition's position is that of its log, so the slowest partition of a log decides.

use std::{collections::BTreeMap, time::Duration};

use clarion_proto::ids::{LogId, PartitionId, Position, UnixMillis};

use super::record::Snapshots;
use crate::store::Usage;

/// Records of all partitions that have one; `None`: the record cannot be read.
pub type Records = BTreeMap<PartitionId, Option<Snapshots>>;

/// What the archive has trimmed since its start.
#[derive(Debug)]
pub struct Trimming {
    partitions: u16,
    logs: u16,
    keep: Duration,
    /// Position up to which each log was trimmed.
    trimmed: BTreeMap<LogId, Position>,
}

impl Trimming {
    /// For a cluster with this number of partitions and logs.
    #[must_use]
    pub fn new(partitions: u16, logs: u16, keep: Duration) -> Self {
        Self { partitions, logs, keep, trimmed: BTreeMap::new() }
    }

    /// Logs of which more can be dropped than was dropped before.
    #[must_use]
    pub fn due(&self, records: &Records, now: UnixMillis, usage: Usage) -> Vec<LogId> {
        let logs = (0..self.logs).map(LogId);
        logs.filter(|log| self.released(*log, records, now, usage).is_some()).collect()
    }

    /// Position up to which a log can be dropped, the position included; `None`: nothing more.
    #[must_use]
    pub fn released(
        &self,
        log: LogId,
        records: &Records,
        now: UnixMillis,
        usage: Usage,
    ) -> Option<Position> {
        let is_short = usage.held > usage.limit / 2;
        let of = |partition| records.get(&partition)?.as_ref();
        let released = self
            .partitions_of(log)
            .map(|partition| of(partition)?.released(now, self.keep, is_short));
        // A partition that needs all of the log is `None`, which is the least.
        let released = released.min()??;
        let before = self.trimmed.get(&log).copied().unwrap_or_default();
        (released > before).then_some(released)
    }

    /// Records that a log was trimmed up to a position.
    pub fn trimmed(&mut self, log: LogId, until: Position) {
        self.trimmed.insert(log, until);
    }

    /// Partitions whose records are in a log.
    pub fn partitions_of(&self, log: LogId) -> impl Iterator<Item = PartitionId> + use<> {
        (log.0..self.partitions).step_by(usize::from(self.logs)).map(PartitionId)
    }
}
