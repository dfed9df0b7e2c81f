//! Writes the items of a backup into a new store.
//!
//! A record tells that a restore has begun, and another one that it has ended: a coordinator does
//! not start on a store whose restore broke off ([`check_finished`]).
//!
//! | Item | What becomes of it |
//! |---|---|
//! | app, deleted app, numbered record, ended alert | as it was |
//! | active alert | at the end: cancelled, or as it was with the positions of the new logs |
//! | snapshot | a snapshot at the same position |
//! | batch up to the newest snapshot of its log | a batch at the same position |
//! | later batch | joined with its neighbours |

use std::{mem, sync::Arc};

use bytes::{Bytes, BytesMut};
use clarion_proto::{
    app::Identity,
    error::InvalidField,
    ids::{AlertName, AppName, LogId, Position, UnixMillis, log_of},
    wire::store::v1::{BackupBatch, BackupEnd, BackupLog, BackupSnapshot, backup_item::Item},
};
use xxhash_rust::xxh3::Xxh3;

use crate::{
    alert::Event,
    archive::{Archive, ArchiveError, saving::Saving},
    snapshot::{Snapshot, State},
    store::{AlertRecord, Numbered, RecordBatch, Restore, Store, StoreError, encoded},
};

/// Key of the record of a restore: number 1 when it begins, 2 when it has ended.
const RESTORE: &str = "restore";
/// Bytes of joined batches that are appended at once.
const JOINED_BYTES: usize = 1 << 20;
/// Reason in the records of alerts that a restore cancels.
const REASON: &str = "restored from a backup: what happened after the backup is unknown";

/// Why a backup cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The store is not a new one.
    #[error("the store is not empty: it has {0}; restore into a new store")]
    NotEmpty(&'static str),
    /// The store keeps nothing beyond the process.
    #[error("a store in memory cannot be restored into; name another one with --store")]
    Memory,
    /// The store was restored into, and the restore broke off.
    #[error(
        "the restore into this store has not ended: remove the store and its objects, and restore \
         again"
    )]
    Unfinished,
    /// An item is not what a backup may have. The backup is damaged, or a later version wrote it.
    #[error("{0}")]
    Item(#[from] InvalidField),
    /// The backup has other items than it says.
    #[error("the backup has {found} {what} where {expected} were written")]
    Count {
        /// Kind of the items.
        what: &'static str,
        /// Number of items found.
        found: u64,
        /// Number that was written.
        expected: u64,
    },
    /// The archive's error.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The store's error.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a restore did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Numbers of restored items.
    pub(crate) end: BackupEnd,
    /// Alerts that were active in the backup.
    pub(crate) active: Vec<AlertName>,
}

/// Checks that a store was not left by a restore that broke off.
///
/// # Errors
/// [`RestoreError::Unfinished`] or the store's error.
pub(crate) async fn check_finished(store: &dyn Store) -> Result<(), RestoreError> {
    match store.numbered(RESTORE).await? {
        Some(record) if record.number == 1 => Err(RestoreError::Unfinished),
        _ => Ok(()),
    }
}

/// A restore under way.
pub(crate) struct Restoring<'a> {
    store: &'a dyn Store,
    restore: &'a dyn Restore,
    archive: &'a Arc<Archive>,
    /// Whether active alerts go on; otherwise they are cancelled.
    continue_alerts: bool,
    now: UnixMillis,
    report: Report,
    active: Vec<AlertRecord>,
    log: Option<Log>,
    saving: Option<(Saving, u64, Xxh3)>,
}

/// The log whose batches come.
struct Log {
    id: LogId,
    /// Position of the next batch.
    next: Position,
    /// Position of the newest snapshot of the log's partitions.
    exact_until: Position,
    joined: BytesMut,
    /// Whether batches were joined and not appended yet.
    pending: bool,
}

impl<'a> Restoring<'a> {
    /// Begins a restore into a store that has nothing.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub(crate) async fn begin(
        archive: &'a Arc<Archive>,
        continue_alerts: bool,
        now: UnixMillis,
    ) -> Result<Self, RestoreError> {
        let store = archive.store();
        let restore = store.restoring().ok_or(RestoreError::Memory)?;
        check_finished(store).await?;
        if !store.apps(None, 1).await?.is_empty() {
            return Err(RestoreError::NotEmpty("apps"));
        }
        if store.heads().await?.iter().any(|head| *head > Position(0)) {
            return Err(RestoreError::NotEmpty("changes of devices"));
        }
        if store.numbered(RESTORE).await?.is_some() {
            return Err(RestoreError::NotEmpty("a restored backup"));
        }
        store.replace_numbered(Numbered::new(RESTORE, 1, Bytes::new())).await?;
        Ok(Self {
            store,
            restore,
            archive,
            continue_alerts,
            now,
            report: Report::default(),
            active: Vec::new(),
            log: None,
            saving: None,
        })
    }

    /// Restores the next item.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub(crate) async fn take(&mut self, item: Item) -> Result<(), RestoreError> {
        if !matches!(item, Item::SnapshotData(_)) {
            self.finish_snapshot().await?;
        }
        match item {
            Item::Head(_) => Ok(()),
            Item::App(record) => {
                self.report.end.apps += 1;
                self.store.create_app(read(&record, "app", encoded::read_app)?).await?;
                Ok(())
            }
            Item::DeletedApp(deleted) => {
                let name = AppName::from_name(&deleted.name)?;
                let id = if deleted.by_token { Identity::Token } else { Identity::Device };
                match self.restore.restore_deleted_app(&name, id).await {
                    // It was deleted while the backup was read, and is restored as it was before.
                    Err(StoreError::Conflict(_)) => Ok(()),
                    restored => Ok(restored?),
                }
            }
            Item::Alert(record) => self.alert(read(&record, "alert", encoded::read_alert)?).await,
            Item::Numbered(record) => {
                let record = Numbered::new(record.key, record.number, record.bytes);
                Ok(self.restore.restore_numbered(record).await?)
            }
            Item::Log(log) => self.begin_log(log).await,
            Item::Snapshot(snapshot) => self.begin_snapshot(snapshot),
            Item::SnapshotData(piece) => self.snapshot_data(&piece).await,
            Item::Batch(batch) => self.batch(batch).await,
            Item::End(end) => self.check(end),
        }
    }

    /// Completes the restore, after the last item.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub(crate) async fn finish(mut self) -> Result<Report, RestoreError> {
        self.flush().await?;
        let positions = self.store.heads().await?;
        for alert in mem::take(&mut self.active) {
            let alert = match self.continue_alerts {
                true => AlertRecord { positions: positions.clone(), ..alert },
                false => cancelled(alert, self.now),
            };
            self.restore.restore_alert(alert).await?;
        }
        self.store.replace_numbered(Numbered::new(RESTORE, 2, Bytes::new())).await?;
        Ok(self.report)
    }

    async fn alert(&mut self, alert: AlertRecord) -> Result<(), RestoreError> {
        self.report.end.alerts += 1;
        if alert.state.is_final() {
            return Ok(self.restore.restore_alert(alert).await?);
        }
        self.report.active.push(alert.name.clone());
        self.active.push(alert);
        Ok(())
    }

    async fn begin_log(&mut self, log: BackupLog) -> Result<(), RestoreError> {
        self.flush().await?;
        let id = u16::try_from(log.log).ok().map(LogId).filter(|id| id.0 < self.store.logs());
        let id = id.ok_or_else(|| InvalidField::new("log.log", "the cluster has no such log"))?;
        if log.first == 0 {
            return Err(InvalidField::new("log.first", "must be at least 1; got 0").into());
        }
        let next = Position(log.first);
        if log.first > 1 {
            self.restore.begin_log(id, next, log.records_before).await?;
        }
        let (exact_until, joined) = (Position(0), BytesMut::new());
        self.log = Some(Log { id, next, exact_until, joined, pending: false });
        Ok(())
    }

    fn begin_snapshot(&mut self, snapshot: BackupSnapshot) -> Result<(), RestoreError> {
        let (logs, log) = (self.store.logs(), self.log.as_mut());
        let partition = self.archive.partition(snapshot.partition, "snapshot.partition")?;
        let log = log.filter(|log| log_of(partition, logs) == log.id);
        let log = log.ok_or_else(|| InvalidField::new("snapshot", "must follow its log"))?;
        let position = Position(snapshot.position);
        log.exact_until = log.exact_until.max(position);
        let saving = self.archive.restore(partition, position);
        self.saving = Some((saving, 0, Xxh3::new()));
        Ok(())
    }

    async fn snapshot_data(&mut self, piece: &[u8]) -> Result<(), RestoreError> {
        let Some((saving, bytes, hash)) = &mut self.saving else {
            return Err(InvalidField::new("snapshot_data", "must follow its snapshot").into());
        };
        *bytes += piece.len() as u64;
        hash.update(piece);
        Ok(saving.push(piece).await?)
    }

    async fn finish_snapshot(&mut self) -> Result<(), RestoreError> {
        if let Some((saving, bytes, hash)) = self.saving.take() {
            saving.finish(bytes, hash.digest()).await?;
            self.report.end.snapshots += 1;
        }
        Ok(())
    }

    async fn batch(&mut self, batch: BackupBatch) -> Result<(), RestoreError> {
        let log = self.log.as_mut();
        let log = log.ok_or_else(|| InvalidField::new("batch", "must follow its log"))?;
        if Position(batch.position) != log.next {
            let problem = format!("must be {}; got {}", log.next, batch.position);
            return Err(InvalidField::new("batch.position", problem).into());
        }
        log.next = Position(batch.position + 1);
        log.joined.extend_from_slice(&batch.records);
        log.pending = true;
        self.report.end.batches += 1;
        if batch.position <= log.exact_until.0 || log.joined.len() >= JOINED_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Appends what was joined, also when it has no records: it takes its position.
    async fn flush(&mut self) -> Result<(), RestoreError> {
        let Some(log) = self.log.as_mut().filter(|log| log.pending) else { return Ok(()) };
        log.pending = false;
        let batch = RecordBatch::from_encoded(log.joined.split().freeze())
            .ok_or_else(|| InvalidField::new("batch.records", "are no records"))?;
        self.store.append_all(vec![(log.id, batch)]).await?;
        Ok(())
    }

    fn check(&self, expected: BackupEnd) -> Result<(), RestoreError> {
        let found = &self.report.end;
        for (what, found, expected) in [
            ("apps", found.apps, expected.apps),
            ("alerts", found.alerts, expected.alerts),
            ("snapshots", found.snapshots, expected.snapshots),
            ("batches", found.batches, expected.batches),
        ] {
            if found != expected {
                return Err(RestoreError::Count { what, found, expected });
            }
        }
        Ok(())
    }
}

/// Reads a record of the backup.
fn read<T, E: ToString>(
    bytes: &[u8],
    field: &str,
    read: impl FnOnce(&[u8]) -> Result<T, E>,
) -> Result<T, InvalidField> {
    read(bytes).map_err(|problem| InvalidField::new(field, problem.to_string()))
}

/// The record of an active alert, cancelled.
fn cancelled(alert: AlertRecord, now: UnixMillis) -> AlertRecord {
    let after = |alert: AlertRecord, event| match alert.after(event, now) {
        Ok(Some(next)) => next,
        Ok(None) | Err(_) => alert,
    };
    let settled = Snapshot {
        version: 1,
        settled: true,
        ended: Some(now),
        ..Snapshot::empty(alert.name.clone(), State::Cancelled)
    };
    let alert = after(alert, Event::Cancel { reason: REASON.to_owned() });
    let alert = after(alert, Event::End(State::Cancelled));
    after(alert, Event::Settle(Arc::new(settled)))
}
