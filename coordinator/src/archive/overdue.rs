//! The machine of the alarm about partitions whose snapshots do not keep up with their log.
//!
//! The alarm begins when the first batch that the newest snapshot of a partition does not include
//! is older than [`INTERVALS`] intervals: by then a node should have saved it several times. That a
//! log is old is no trouble by itself: a log without changes is never trimmed further, and needs no
//! new snapshot. As an interval is at most 6 hours ([`INTERVAL_MAX`]), no batch older than a day
//! waits for a snapshot without an alarm.

use std::{collections::BTreeMap, time::Duration};

use clarion_proto::ids::{LogId, PartitionId, Position, UnixMillis, log_of};

use super::{record::is_over, trimming::Records};

/// Intervals without a snapshot after which the alarm begins.
pub const INTERVALS: u32 = 4;
/// Longest interval of the configuration.
pub const INTERVAL_MAX: Duration = Duration::from_secs(6 * 3_600);

/// The oldest change of each partition that no snapshot includes.
#[derive(Debug)]
pub struct Overdue {
    partitions: u16,
    after: Duration,
    /// Position of the newest snapshot, and append time of the first batch after it.
    unsaved: BTreeMap<PartitionId, (Position, UnixMillis)>,
}

/// A partition that has no snapshot although one is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsaved {
    /// Partition without a snapshot.
    pub partition: PartitionId,
    /// Append time of the first batch that no snapshot includes.
    pub since: UnixMillis,
}

impl Overdue {
    /// For a cluster with this number of partitions, and this time between two snapshots.
    #[must_use]
    pub fn new(partitions: u16, every: Duration) -> Self {
        Self { partitions, after: every * INTERVALS, unsaved: BTreeMap::new() }
    }

    /// Takes the newest snapshots and the heads of all logs. Returns the partitions for which the
    /// append time of the first batch after a position is needed, see [`Overdue::appended`].
    pub fn observe(
        &mut self,
        records: &Records,
        heads: &[Position],
        now: UnixMillis,
    ) -> Vec<(PartitionId, LogId, Position)> {
        let logs = u16::try_from(heads.len()).unwrap_or(u16::MAX);
        let mut unknown = Vec::new();
        for partition in (0..self.partitions).map(PartitionId) {
            let newest = match records.get(&partition) {
                Some(Some(snapshots)) => snapshots.newest(),
                Some(None) | None => None,
            };
            let (saved, position) =
                newest.map_or_else(Default::default, |newest| (newest.saved, newest.position));
            let log = log_of(partition, logs);
            let has_grown = heads[usize::from(log.0)] > position;
            // Cheap, and so first: a snapshot that is young cannot be overdue. One from the future
            // was saved under a clock that was wrong.
            let is_young = u128::from(now.0.abs_diff(saved.0)) < self.after.as_millis();
            if !has_grown || is_young {
                self.unsaved.remove(&partition);
            } else if self.unsaved.get(&partition).is_none_or(|(known, _)| *known != position) {
                unknown.push((partition, log, position));
            }
        }
        unknown
    }

    /// Takes the append time of the first batch after a position in the log of a partition.
    pub fn appended(&mut self, partition: PartitionId, after: Position, at: UnixMillis) {
        self.unsaved.insert(partition, (after, at));
    }

    /// Partitions that have no snapshot although one is due, the longest first.
    #[must_use]
    pub fn partitions(&self, now: UnixMillis) -> Vec<Unsaved> {
        let all = self
            .unsaved
            .iter()
            .map(|(partition, (_, since))| Unsaved { partition: *partition, since: *since });
        let mut late: Vec<_> = all.filter(|found| is_over(found.since, now, self.after)).collect();
        late.sort_by_key(|found| (found.since, found.partition));
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::record::{Snapshots, tests::stored};

    const EVERY: Duration = Duration::from_secs(600);

    fn minute(minute: u64) -> UnixMillis {
        UnixMillis(1_800_000_000_000 + minute * 60_000)
    }

    #[test]
    fn a_partition_is_late_when_its_first_unsaved_change_is_old() {
        let mut overdue = Overdue::new(2, EVERY);
        let mut records = Records::new();
        let heads = [Position(5), Position(0)];
        let needed = overdue.observe(&records, &heads, minute(0));
        assert_eq!(needed, [(PartitionId(0), LogId(0), Position(0))], "the other log is empty");
        overdue.appended(PartitionId(0), Position(0), minute(0));
        assert!(overdue.observe(&records, &heads, minute(1)).is_empty(), "it is known");
        assert_eq!(overdue.partitions(minute(39)), []);
        let late = Unsaved { partition: PartitionId(0), since: minute(0) };
        assert_eq!(overdue.partitions(minute(40)), [late]);
        // A snapshot ends the alarm; a week without changes begins none, and neither does the first
        // change after it.
        let mut snapshots = Snapshots::default();
        snapshots.add(stored(5, 41)).expect("the first");
        records.insert(PartitionId(0), Some(snapshots));
        let week = 7 * 24 * 60;
        for at in [42, 90, week] {
            assert!(overdue.observe(&records, &heads, minute(at)).is_empty());
            assert_eq!(overdue.partitions(minute(at)), []);
        }
        let heads = [Position(6), Position(0)];
        let needed = overdue.observe(&records, &heads, minute(week + 1));
        assert_eq!(needed, [(PartitionId(0), LogId(0), Position(5))]);
        overdue.appended(PartitionId(0), Position(5), minute(week));
        assert_eq!(overdue.partitions(minute(week + 39)), []);
        assert_eq!(overdue.partitions(minute(week + 40)).len(), 1);
    }
}
