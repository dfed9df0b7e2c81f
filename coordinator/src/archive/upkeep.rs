//! The shell that keeps the archive in order: once a minute, and when the store closes for
//! registrations.
//!
//! Each step stands alone: an object that cannot be deleted does not keep a log from being trimmed.

use std::{collections::BTreeMap, time::Duration};

use clarion_proto::{
    ids::{LogId, PartitionId, Position, log_of},
    time::Time,
};
use futures_util::{StreamExt, stream};

use super::{
    Archive, ArchiveConfig, ArchiveError,
    orphans::orphans,
    overdue::Overdue,
    record::{self, SnapshotId, Snapshots, StoredSnapshot},
    trimming::{Records, Trimming},
};
use crate::{objects::ObjectError, seal::SEAL_BYTES, store::StoreError};

/// Time between two rounds.
const EVERY: Duration = Duration::from_secs(60);
/// Time between two searches for objects that no record names: a listing of all objects.
const ORPHANS_EVERY: Duration = Duration::from_secs(3_600);
/// Objects that are deleted at a time.
const DELETIONS_AT_ONCE: usize = 4;
/// Partitions whose retired snapshots cannot be deleted, after which a round tries no others.
const FAILURES_MAX: u32 = 4;

/// What the rounds remember of each other.
pub(super) struct Upkeep {
    trimming: Trimming,
    overdue: Overdue,
    orphans_at: Time,
}

impl Upkeep {
    pub(super) fn new(config: &ArchiveConfig, logs: u16, now: Time) -> Self {
        Self {
            trimming: Trimming::new(config.partitions, logs, config.keep),
            overdue: Overdue::new(config.partitions, config.every),
            orphans_at: now + ORPHANS_EVERY,
        }
    }
}

impl Archive {
    /// Keeps the archive in order until it is dropped.
    pub async fn keep(&self) {
        let clock = self.world.clock();
        let mut room = self.store.has_room();
        loop {
            room.borrow_and_update();
            self.round().await;
            tokio::select! {
                // Both lead to the same round.
                biased;
                () = clock.sleep_until(Some(clock.now() + EVERY)) => {}
                // A store that is gone does not change any more.
                Ok(()) = room.changed() => {}
            }
        }
    }

    /// One round of all steps.
    pub async fn round(&self) {
        let mut upkeep = self.upkeep.lock().await;
        let upkeep = &mut *upkeep;
        // Retired snapshots hold the logs back: they go first.
        if let Err(error) = self.delete_retired().await {
            self.failed(&error);
        }
        let records = match self.records().await {
            Ok(records) => records,
            Err(error) => return self.failed(&error.into()),
        };
        if self.config.every > Duration::ZERO {
            if let Err(error) = self.trim(&mut upkeep.trimming, &records).await {
                self.failed(&error);
            }
            if let Err(error) = self.observe(&mut upkeep.overdue, &records).await {
                self.failed(&error.into());
            }
        }
        let now = self.world.clock().now();
        if now >= upkeep.orphans_at {
            upkeep.orphans_at = now + ORPHANS_EVERY;
            if let Err(error) = self.delete_orphans().await {
                self.failed(&error);
            }
        }
    }

    fn failed(&self, error: &ArchiveError) {
        if let Some(times) = self.noted(|trouble| &mut trouble.upkeep, &error.to_string()) {
            tracing::warn!(%error, times, "upkeep of snapshots failed; retrying in a minute");
        }
    }

    /// Deletes the retired snapshots whose time is over: the objects, then their place in the
    /// record.
    async fn delete_retired(&self) -> Result<(), ArchiveError> {
        let (now, mut failures) = (self.world.clock().wall(), 0);
        for (partition, snapshots) in self.records().await? {
            let Some(snapshots) = snapshots else { continue };
            let expired = snapshots.expired(now, self.config.keep);
            if expired.is_empty() {
                continue;
            }
            let objects = expired.iter().flat_map(|snapshot| {
                (0..snapshot.chunks).map(|chunk| record::object(partition, snapshot.id, chunk))
            });
            if let Err(error) = self.delete(objects.collect()).await {
                // One object must not hold all other logs back. Objects that are away would.
                failures += 1;
                if failures == FAILURES_MAX {
                    return Err(error.into());
                }
                self.failed(&error.into());
                continue;
            }
            let gone: Vec<SnapshotId> = expired.iter().map(|snapshot| snapshot.id).collect();
            let forget = |snapshots: &mut Snapshots| Ok::<_, StoreError>(snapshots.forget(&gone));
            self.change(partition, forget).await?;
        }
        Ok(())
    }

    /// Deletes old objects that no record names.
    pub(super) async fn delete_orphans(&self) -> Result<(), ArchiveError> {
        // The records are read after the listing: what was recorded meanwhile is seen.
        let listed = self.objects.list(record::OBJECTS).await?;
        let records = self.records().await?;
        let found = orphans(&listed, &records, self.world.clock().wall());
        if found.is_empty() {
            return Ok(());
        }
        let objects = found.len();
        self.delete(found).await?;
        tracing::info!(objects, "objects without a snapshot deleted");
        Ok(())
    }

    async fn delete(&self, names: Vec<String>) -> Result<(), ObjectError> {
        let deletions =
            stream::iter(names).map(|name| async move { self.objects.delete(&name).await });
        let mut deletions = deletions.buffer_unordered(DELETIONS_AT_ONCE);
        while let Some(deleted) = deletions.next().await {
            deleted?;
        }
        Ok(())
    }

    async fn trim(&self, trimming: &mut Trimming, records: &Records) -> Result<(), ArchiveError> {
        let due = trimming.due(records, self.world.clock().wall(), self.store.usage());
        for log in due {
            match self.trim_log(trimming, log).await {
                // Damage of one log, or of a record of one of its partitions, is its own.
                Err(
                    error @ ArchiveError::Store(
                        StoreError::Damaged { .. } | StoreError::Unreadable { .. },
                    ),
                ) => self.failed(&error),
                done => done?,
            }
        }
        Ok(())
    }

    async fn trim_log(&self, trimming: &mut Trimming, log: LogId) -> Result<(), ArchiveError> {
        // Read again just before the trim: other logs may have taken minutes.
        let records = self.records_of(trimming, log).await?;
        let (now, usage) = (self.world.clock().wall(), self.store.usage());
        let Some(until) = trimming.released(log, &records, now, usage) else { return Ok(()) };
        if let Some((partition, id)) = self.lost(&records).await? {
            let reason = id.to_string();
            if let Some(times) = self.noted(|trouble| &mut trouble.guard, &reason) {
                tracing::error!(
                    %partition,
                    %id,
                    %log,
                    times,
                    "log is not trimmed: objects of a snapshot are missing"
                );
            }
            self.mark_damaged(partition, id).await;
            return Ok(());
        }
        self.store.trim(log, Position(until.0 + 1)).await?;
        trimming.trimmed(log, until);
        tracing::debug!(%log, position = until.0, "log trimmed behind snapshots");
        Ok(())
    }

    async fn records_of(&self, trimming: &Trimming, log: LogId) -> Result<Records, StoreError> {
        let mut records = Records::new();
        for partition in trimming.partitions_of(log) {
            records.insert(partition, Some(self.record(partition).await?.1));
        }
        Ok(records)
    }

    /// A current snapshot of which an object is missing or has another size, by a listing: the
    /// objects may be in a folder or bucket that somebody has replaced or emptied.
    async fn lost(
        &self,
        records: &Records,
    ) -> Result<Option<(PartitionId, SnapshotId)>, ObjectError> {
        for (partition, snapshots) in records {
            let mut found: BTreeMap<SnapshotId, (u32, u64)> = BTreeMap::new();
            for object in self.objects.list(&record::folder(*partition)).await? {
                if let Some((_, id, _)) = record::parse_object(&object.name) {
                    let (chunks, bytes) = found.entry(id).or_default();
                    (*chunks, *bytes) = (*chunks + 1, *bytes + object.bytes);
                }
            }
            let is_lost = |snapshot: &&StoredSnapshot| {
                let sealed = snapshot.bytes + u64::from(snapshot.chunks) * SEAL_BYTES as u64;
                found.get(&snapshot.id) != Some(&(snapshot.chunks, sealed))
            };
            if let Some(lost) = snapshots.iter().flat_map(Snapshots::sound).find(is_lost) {
                return Ok(Some((*partition, lost.id)));
            }
        }
        Ok(None)
    }

    /// Looks for partitions that have no snapshot although one is due, and raises the alarm.
    async fn observe(&self, overdue: &mut Overdue, records: &Records) -> Result<(), StoreError> {
        let (heads, now) = (self.store.heads().await?, self.world.clock().wall());
        for (partition, log, after) in overdue.observe(records, &heads, now) {
            // One byte stands for one batch.
            match self.store.read_many(&[(log, after)], 1).await {
                Ok(found) => {
                    let first = found.first().and_then(|(_, batches)| batches.first());
                    if let Some(first) = first {
                        overdue.appended(partition, after, first.appended);
                    }
                }
                Err(error @ (StoreError::Trimmed { .. } | StoreError::Damaged { .. })) => {
                    if let Some(times) = self.noted(|t| &mut t.unreadable, &error.to_string()) {
                        tracing::error!(
                            %partition,
                            %error,
                            times,
                            "partition cannot be rebuilt from its newest snapshot and its log"
                        );
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let late = overdue.partitions(now);
        self.overdue.send_if_modified(|told| std::mem::replace(told, late.len()) != late.len());
        let Some(first) = late.first() else { return Ok(()) };
        let reason = format!("{} {}", first.partition, first.since);
        if let Some(times) = self.noted(|trouble| &mut trouble.overdue, &reason) {
            let owned = self.store.ownership().await?;
            let owner = owned.as_ref().and_then(|owned| owned.owner(first.partition));
            tracing::error!(
                partition = %first.partition,
                log = %log_of(first.partition, self.store.logs()),
                owner = owner.map_or("nobody", |owner| owner.as_str()),
                unsaved_for = ?Duration::from_millis(now.0.saturating_sub(first.since.0)),
                partitions = late.len(),
                times,
                "snapshots are overdue; their logs are not trimmed"
            );
        }
        Ok(())
    }
}
