//! Reads everything that a store keeps, in the order in which it can be restored.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use clarion_proto::{
    app::Identity,
    ids::{LogId, PartitionId, Position, log_of},
    wire::store::v1::{
        BackupBatch, BackupEnd, BackupHead, BackupItem, BackupLog, BackupSnapshot, DeletedApp,
        NumberedRecord, backup_item::Item,
    },
};
use tokio::sync::mpsc;

use crate::{
    archive::{Archive, ArchiveError, record::StoredSnapshot},
    store::{AlertCursor, AlertFilter, Store, StoreError, encoded},
};

/// Number of apps that are read at once.
const APPS_AT_ONCE: usize = 256;
/// Number of alerts that are read at once: a record may have megabytes.
const ALERTS_AT_ONCE: usize = 8;
/// Bytes of batches that are read at once.
const BATCH_BYTES_AT_ONCE: usize = 1 << 20;
/// Bytes of a snapshot in one item.
const PIECE_BYTES: usize = 1 << 20;
/// Number of items that wait for their receiver: at most some MiB each.
pub(crate) const QUEUE: usize = 4;

/// Keys of records that are not restored: keys of this store, pointers to its objects, and who owns
/// what.
const LEFT_OUT: [&str; 4] = ["key/", "snapshot/", "ownership", "restore"];

/// Why a backup could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The store's error. [`StoreError::Trimmed`]: begin again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A snapshot cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The receiver has gone.
    #[error("the receiver of the backup has gone")]
    Gone,
}

/// Where the items go.
pub(crate) type Items = mpsc::Sender<BackupItem>;

/// Reads all items of a backup.
///
/// # Errors
/// See [`ReadError`].
pub(crate) async fn read(
    archive: &Arc<Archive>,
    head: BackupHead,
    to: &Items,
) -> Result<(), ReadError> {
    let partitions = u16::try_from(head.partitions).unwrap_or(u16::MAX);
    let (store, end) = (archive.store(), BackupEnd::default());
    let mut reading = Reading { store, archive, partitions, to, end };
    reading.send(Item::Head(head)).await?;
    reading.apps().await?;
    reading.alerts().await?;
    reading.numbered().await?;
    reading.logs().await?;
    reading.send(Item::End(reading.end)).await
}

struct Reading<'a> {
    store: &'a dyn Store,
    archive: &'a Arc<Archive>,
    partitions: u16,
    to: &'a Items,
    end: BackupEnd,
}

impl Reading<'_> {
    async fn send(&self, item: Item) -> Result<(), ReadError> {
        self.to.send(BackupItem { item: Some(item) }).await.map_err(|_| ReadError::Gone)
    }

    async fn apps(&mut self) -> Result<(), ReadError> {
        let (mut after, mut sent) = (None, BTreeSet::new());
        loop {
            let apps = self.store.apps(after.as_ref(), APPS_AT_ONCE).await?;
            for app in &apps {
                self.send(Item::App(encoded::app(app))).await?;
            }
            self.end.apps += apps.len() as u64;
            sent.extend(apps.iter().map(|app| app.app.name.clone()));
            match apps.last() {
                Some(app) => after = Some(app.app.name.clone()),
                None => break,
            }
        }
        let deleted = self.store.deleted_apps().await?;
        // One that was deleted since it was sent is restored as it was when the backup began.
        for (name, identity) in deleted.into_iter().filter(|(name, _)| !sent.contains(name)) {
            let by_token = identity == Identity::Token;
            self.send(Item::DeletedApp(DeletedApp { name: name.name(), by_token })).await?;
        }
        Ok(())
    }

    async fn alerts(&mut self) -> Result<(), ReadError> {
        let (mut after, all) = (None, AlertFilter::default());
        loop {
            let alerts = self.store.alerts(&all, after.as_ref(), ALERTS_AT_ONCE).await?;
            for alert in &alerts {
                self.send(Item::Alert(encoded::alert(alert))).await?;
            }
            self.end.alerts += alerts.len() as u64;
            let Some(last) = alerts.last() else { return Ok(()) };
            after = Some(AlertCursor { created: last.created, name: last.name.clone() });
        }
    }

    async fn numbered(&mut self) -> Result<(), ReadError> {
        for record in self.store.all_numbered("").await? {
            if !LEFT_OUT.iter().any(|left_out| record.key.starts_with(left_out)) {
                let (key, number, bytes) = (record.key, record.number, record.bytes.to_vec());
                self.send(Item::Numbered(NumberedRecord { key, number, bytes })).await?;
            }
        }
        Ok(())
    }

    async fn logs(&mut self) -> Result<(), ReadError> {
        let (heads, count) = (self.store.heads().await?, self.store.logs());
        for (log, head) in (0..count).map(LogId).zip(heads) {
            let of_log = (0..self.partitions).map(PartitionId);
            let of_log: Vec<_> = of_log.filter(|p| log_of(*p, count) == log).collect();
            // Listed for each log: a backup may take longer than snapshots are kept. The newest
            // sound one of each partition comes first.
            let mut snapshots = BTreeMap::new();
            for (partition, stored) in self.archive.list(&of_log).await? {
                snapshots.entry(partition).or_insert(stored);
            }
            let of_log = of_log.into_iter().map(|p| (p, snapshots.remove(&p))).collect();
            self.log(log, head, of_log).await?;
        }
        Ok(())
    }

    async fn log(
        &mut self,
        log: LogId,
        head: Position,
        partitions: Vec<(PartitionId, Option<StoredSnapshot>)>,
    ) -> Result<(), ReadError> {
        // A partition without a snapshot is rebuilt from the beginning of its log.
        let position = |stored: &Option<StoredSnapshot>| {
            stored.as_ref().map_or(Position(0), |stored| stored.position)
        };
        let positions = || partitions.iter().map(|(_, stored)| position(stored));
        let mut after = positions().min().unwrap_or_default();
        // A snapshot that was saved since the heads were read must not be ahead of its log.
        let head = head.max(positions().max().unwrap_or_default());
        let records_before = self.store.records_until(&[(log, after)]).await?[0];
        let (number, first) = (log.0.into(), after.0 + 1);
        self.send(Item::Log(BackupLog { log: number, first, records_before })).await?;
        for (partition, stored) in partitions {
            let Some(stored) = stored else { continue };
            let (number, position) = (partition.0.into(), stored.position.0);
            let snapshot = BackupSnapshot { partition: number, position, bytes: stored.bytes };
            self.send(Item::Snapshot(snapshot)).await?;
            let mut loading = self.archive.open_kept(partition, stored.id).await?;
            while let Some(mut chunk) = loading.next().await? {
                while !chunk.is_empty() {
                    let piece = chunk.split_to(chunk.len().min(PIECE_BYTES));
                    self.send(Item::SnapshotData(piece)).await?;
                }
            }
            self.end.snapshots += 1;
        }
        while after < head {
            let read = self.store.read_many(&[(log, after)], BATCH_BYTES_AT_ONCE).await?;
            let batches = read.into_iter().flat_map(|(_, batches)| batches);
            let before = after;
            for batch in batches.take_while(|batch| batch.position <= head) {
                after = batch.position;
                self.end.batches += 1;
                let (position, records) = (batch.position.0, batch.records);
                self.send(Item::Batch(BackupBatch { position, records })).await?;
            }
            if after == before {
                // The head was read before, so its batch exists.
                let problem = "the batch is missing".to_owned();
                let position = Position(after.0 + 1);
                return Err(StoreError::Damaged { log, position, problem }.into());
            }
        }
        Ok(())
    }
}
