//! The shell of the records of snapshots: reads them and replaces them by compare-and-swap.

use std::collections::BTreeMap;

use clarion_proto::ids::PartitionId;

use super::{
    Archive,
    record::{self, SnapshotId, Snapshots},
};
use crate::store::StoreError;

/// Number of tries to replace a record that other writers replace at the same time.
const TRIES: u32 = 8;

impl Archive {
    /// Records of all partitions that have one; `None`: the record cannot be read, which is logged.
    pub(super) async fn records(
        &self,
    ) -> Result<BTreeMap<PartitionId, Option<Snapshots>>, StoreError> {
        let all = self.store.all_numbered(record::KEYS).await?;
        let read = all.into_iter().filter_map(|stored| {
            let partition = record::partition_of(&stored.key)?;
            let read = stored.read(Snapshots::read).inspect_err(|error| {
                if let Some(times) = self.noted(|t| &mut t.unreadable, &error.to_string()) {
                    tracing::error!(%error, times, "record of snapshots cannot be read");
                }
            });
            Some((partition, read.ok()))
        });
        Ok(read.collect())
    }

    /// Record of a partition with its number, which is 0 before the first.
    pub(super) async fn record(
        &self,
        partition: PartitionId,
    ) -> Result<(u64, Snapshots), StoreError> {
        let stored = self.store.numbered(&record::key(partition)).await?;
        let Some(stored) = stored else { return Ok((0, Snapshots::default())) };
        Ok((stored.number, stored.read(Snapshots::read)?))
    }

    /// Changes the record of a partition; repeated after another writer was faster. The change
    /// returns whether there is one.
    pub(super) async fn change<E: From<StoreError>>(
        &self,
        partition: PartitionId,
        mut change: impl FnMut(&mut Snapshots) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut tries = 1;
        loop {
            let (number, mut snapshots) = self.record(partition).await?;
            if !change(&mut snapshots)? {
                return Ok(());
            }
            match self.store.replace_numbered(snapshots.numbered(partition, number + 1)).await {
                Ok(()) => return Ok(()),
                Err(StoreError::Conflict(_)) if tries < TRIES => tries += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Records that an object of a snapshot is missing or damaged, so that no log is trimmed behind
    /// the snapshot. Whoever loads it does not wait for a store that is away.
    pub(super) async fn mark_damaged(&self, partition: PartitionId, id: SnapshotId) {
        let mark = |snapshots: &mut Snapshots| Ok::<_, StoreError>(snapshots.mark_damaged(id));
        if let Err(error) = self.change(partition, mark).await {
            tracing::warn!(%partition, %id, %error, "damage of a snapshot was not recorded");
        }
    }
}
