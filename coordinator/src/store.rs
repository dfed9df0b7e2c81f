//! The coordinator's store: apps, alerts, and the logs of changes. One interface, several engines.
//!
//! The traits are asynchronous because an engine may be a database, although the engine in
//! [`memory`] never waits. The traits define which steps are atomic, because only an engine can
//! provide atomicity:
//!
//! - **An alert is recorded once for its `request_id`**, and the limit of active alerts is checked
//!   in the same step.
//! - **An alert's record holds the heads of the logs at its recording**: the engine reads the heads
//!   in the step that writes the record, so that the audience has every change acknowledged before.
//! - **Records are replaced, not edited**: a writer names the revision it read, and loses with
//!   [`StoreError::Conflict`] to a faster writer. A writer whose epoch is lower than the stored one
//!   loses with [`StoreError::Superseded`], whatever it read. Which transitions an alert may make
//!   is decided in [`crate::alert`].
//! - **Positions of a log are dense from 1** and assigned in the step that makes the batch
//!   readable, so that no reader can skip a batch that appears later. The append time is stamped in
//!   the same step and never decreases within a log.
//! - **One call appends to several logs completely or not at all.**
//!
//! What an engine does inside when the outcome of a commit is unknown (reading again by
//! `request_id`, or by a producer's own sequence in a log) is not part of the interface.
//!
//! Every engine passes the tests in `suite`.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use clarion_proto::{
    app::Identity,
    ids::{AlertName, AppName, Epoch, LogId, LogIdentity, Position},
};
use tokio::sync::watch;

use crate::{owners::Ownership, seal::Generation};

mod batch;
mod director;
pub(crate) mod encoded;
mod filter;
#[cfg(test)]
pub(crate) mod fixtures;
mod known;
pub mod memory;
mod numbered;
pub mod open;
pub mod pulse;
pub mod postgres;
mod record;
mod restore;
mod room;
pub mod sql;
pub mod sqlite;
#[cfg(test)]
pub(crate) mod suite;

pub use batch::{Batch, RecordBatch, RecordBatchBuilder};
pub use director::LaneDirector;
pub use filter::AlertFilter;
pub use numbered::Numbered;
pub use record::{AlertCursor, AlertRecord, AppRecord, Created, RequestId, SendPlan};
pub use restore::Restore;
pub use room::Usage;

/// Why an operation of the store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another writer changed the record first. Read the record again and retry.
    #[error("{0} was changed by another writer")]
    Conflict(String),
    /// A coordinator with a higher epoch has taken the alert over. A retry does not help.
    #[error("{alert} is written under epoch {stored}, not {epoch}")]
    Superseded {
        /// Alert whose record was refused.
        alert: AlertName,
        /// The epoch of the stored record.
        stored: Epoch,
        /// The epoch of the refused record.
        epoch: Epoch,
    },
    /// The log no longer holds the batches after the requested position. A retry does not help: the
    /// reader has to start from a snapshot.
    #[error("log {log} begins at position {first}: what was before is trimmed away")]
    Trimmed {
        /// Log that was trimmed.
        log: LogId,
        /// The oldest position that the log holds, or its next position if the log is empty.
        first: Position,
    },
    /// No record has that name: a mistake of the caller, or the record was deleted.
    #[error("there is no {0}")]
    Missing(String),
    /// An app that an active alert addresses cannot be removed.
    #[error("{app} is addressed by the active alert {alert}")]
    InUse {
        /// App that cannot be removed.
        app: AppName,
        /// One of the active alerts that address the app.
        alert: AlertName,
    },
    /// The maximum number of alerts is active. A retry helps when one has ended.
    #[error("active alerts: must be at most {limit}; got {active}")]
    TooManyActive {
        /// Number of active alerts.
        active: usize,
        /// Maximum number of active alerts.
        limit: usize,
    },
    /// No room for registrations and places. A retry helps only after room has become free.
    #[error(
        "the store holds {held} bytes, and registrations and places may fill {limit}; removals and \
         mutes are still taken, in batches of their own"
    )]
    Full {
        /// Bytes that all logs hold.
        held: u64,
        /// Bytes that registrations and places may fill.
        limit: u64,
    },
    /// No room even in the reserve for removals, mutes and feedback.
    #[error("the store holds {held} of {limit} bytes: it takes no more removals and mutes")]
    ReserveFull {
        /// Bytes that all logs hold.
        held: u64,
        /// Maximum number of bytes that all logs may hold.
        limit: u64,
    },
    /// Only the reserve for removals, mutes and feedback is left, and one device has used its share
    /// of the reserve.
    #[error("the store is full: it takes at most {limit} removals and mutes of one device")]
    ReserveShare {
        /// Maximum number of records of one device.
        limit: u8,
    },
    /// The maximum number of apps exists.
    #[error("apps: must be at most {limit}")]
    TooManyApps {
        /// Maximum number of apps.
        limit: usize,
    },
    /// The engine cannot be reached. A retry helps. The text tells if a write may have been stored.
    #[error("the store is away: {0}")]
    Away(String),
    /// The engine is slower than what is asked of it. A retry helps. The text tells if a write may
    /// have been stored.
    #[error("the store is slow: {0}")]
    Busy(String),
    /// Another process has become the one that writes. A retry does not help: this process has to
    /// end.
    #[error("another coordinator writes to the store under epoch {stored}; this one had {epoch}")]
    TakenOver {
        /// Epoch of the process that writes now.
        stored: Epoch,
        /// Epoch of this process.
        epoch: Epoch,
    },
    /// A batch is not what was appended. A retry does not help: whoever follows the log cannot go
    /// on. Other logs are not concerned.
    #[error(
        "log {log} is damaged at position {position}: {problem}; restore the store from a backup, \
         or register the devices again with a new store"
    )]
    Damaged {
        /// Log that is damaged.
        log: LogId,
        /// Position of the first damaged batch.
        position: Position,
        /// What is wrong with the batch.
        problem: String,
    },
    /// A record cannot be read: it is damaged, or a later version wrote it. A retry does not help;
    /// other records are not concerned.
    #[error("{record} cannot be read: {problem}")]
    Unreadable {
        /// Name of the record.
        record: String,
        /// What is wrong with the record.
        problem: String,
    },
    /// The engine cannot go on. A retry does not help: this process has to end.
    #[error("the store is broken: {0}")]
    Broken(String),
}

impl StoreError {
    /// Whether the same operation may succeed later, without anybody's doing. A writer for whom no
    /// caller waits repeats it after a pause.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Away(_) | Self::Busy(_) => true,
            Self::Conflict(_)
            | Self::Superseded { .. }
            | Self::Trimmed { .. }
            | Self::Missing(_)
            | Self::InUse { .. }
            | Self::TooManyActive { .. }
            | Self::Full { .. }
            | Self::ReserveFull { .. }
            | Self::ReserveShare { .. }
            | Self::TooManyApps { .. }
            | Self::TakenOver { .. }
            | Self::Damaged { .. }
            | Self::Unreadable { .. }
            | Self::Broken(_) => false,
        }
    }

    /// Whether this process must not use the store any more, and has to end.
    #[must_use]
    pub fn ends_process(&self) -> bool {
        matches!(self, Self::TakenOver { .. } | Self::Broken(_))
    }
}

/// The store's tables of apps and alerts.
#[async_trait]
pub trait AlertStore: fmt::Debug + Send + Sync + 'static {
    /// Records a new alert, unless one with the same `request_id` exists or `active_max` alerts are
    /// active. Fills in [`AlertRecord::log`] and [`AlertRecord::positions`].
    async fn create_alert(
        &self,
        alert: AlertRecord,
        active_max: usize,
    ) -> Result<Created<AlertRecord>, StoreError>;
    /// Replaces the alert's record; its revision must be one less than the revision of the new
    /// record, and its epoch must not be higher.
    async fn replace_alert(&self, alert: AlertRecord) -> Result<Arc<AlertRecord>, StoreError>;
    /// The alert of a name.
    async fn alert(&self, name: &AlertName) -> Result<Option<Arc<AlertRecord>>, StoreError>;
    /// The alert that a request created.
    async fn alert_by_request(
        &self,
        request: RequestId,
    ) -> Result<Option<Arc<AlertRecord>>, StoreError>;
    /// At most `limit` alerts that fulfil the filter, newest first, after `cursor`.
    async fn alerts(
        &self,
        filter: &AlertFilter,
        after: Option<&AlertCursor>,
        limit: usize,
    ) -> Result<Vec<Arc<AlertRecord>>, StoreError>;
    /// Every alert that has not ended, by name: at most as many as `active_max` allowed.
    async fn active_alerts(&self) -> Result<Vec<Arc<AlertRecord>>, StoreError>;

    /// Records a new app, unless an app with that name exists.
    async fn create_app(&self, app: AppRecord) -> Result<Created<AppRecord>, StoreError>;
    /// Replaces the app's record; its revision must be one less than the new record's revision.
    async fn replace_app(&self, app: AppRecord) -> Result<Arc<AppRecord>, StoreError>;
    /// Removes an app that no active alert addresses, and keeps its identity.
    async fn delete_app(&self, name: &AppName) -> Result<(), StoreError>;
    /// The identity of the deleted app that had a name last; `None` if there was none, if it is
    /// forgotten, or if an app has the name. An engine keeps at least the newest 10,000.
    async fn deleted_identity(&self, name: &AppName) -> Result<Option<Identity>, StoreError>;
    /// Names and identities of the deleted apps that are not forgotten, the first deleted first.
    async fn deleted_apps(&self) -> Result<Vec<(AppName, Identity)>, StoreError>;
    /// The app of a name.
    async fn app(&self, name: &AppName) -> Result<Option<Arc<AppRecord>>, StoreError>;
    /// At most `limit` apps, by name, after `after`.
    async fn apps(
        &self,
        after: Option<&AppName>,
        limit: usize,
    ) -> Result<Vec<Arc<AppRecord>>, StoreError>;
}

/// The numbered records of the cluster (ownership of partitions, director of the lanes, and others)
/// and the checkpoints of alerts: the state that a coordinator needs to take over the work of
/// another coordinator.
#[async_trait]
pub trait ClusterStore: fmt::Debug + Send + Sync + 'static {
    /// Whether the newest writes succeeded and the clocks agree, as far as is known without asking.
    ///
    /// # Errors
    /// The process must not be ready, although the store may answer.
    fn fit(&self) -> Result<(), StoreError> {
        Ok(())
    }
    /// How a backup is written into the store; `None`: the engine keeps nothing beyond the process.
    fn restoring(&self) -> Option<&dyn Restore> {
        None
    }
    /// Finishes what waits and gives the store back, so that the next process need not wait for it.
    /// Nothing that was acknowledged depends on it.
    async fn close(&self) {}
    /// The record of a key; `None` before its first.
    async fn numbered(&self, key: &str) -> Result<Option<Numbered>, StoreError>;
    /// All records whose key begins with `prefix`, by key.
    async fn all_numbered(&self, prefix: &str) -> Result<Vec<Numbered>, StoreError>;
    /// Records the next record of a key: its number is one more than the stored number, or 1.
    async fn replace_numbered(&self, next: Numbered) -> Result<(), StoreError>;
    /// Deletes the record of a key if it has this number. A key that is deleted must not be used
    /// again, because a late writer could not be told from the next one.
    async fn delete_numbered(&self, key: &str, number: u64) -> Result<(), StoreError>;
    /// Makes sure that files of this process have nothing of records and batches that were deleted
    /// before.
    async fn scrub(&self) -> Result<(), StoreError> {
        Ok(())
    }
    /// The newest checkpoint of an alert that has not ended; `None` before the first.
    async fn checkpoint(&self, alert: &AlertName) -> Result<Option<Arc<Checkpoint>>, StoreError>;
    /// Replaces the checkpoint of an active alert whose record has no higher epoch. The checkpoint
    /// goes when the alert has ended.
    async fn put_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), StoreError>;

    /// The newest ownership; `None` before the first.
    async fn ownership(&self) -> Result<Option<Arc<Ownership>>, StoreError> {
        let stored = self.numbered(numbered::OWNERSHIP).await?;
        stored.map(|stored| stored.read(encoded::read_ownership).map(Arc::new)).transpose()
    }
    /// Records the next ownership: its number is one more than the stored number, or 1.
    async fn replace_ownership(&self, next: Ownership) -> Result<Arc<Ownership>, StoreError> {
        let (number, bytes) = (next.number, encoded::ownership(&next));
        self.replace_numbered(Numbered::new(numbered::OWNERSHIP, number, bytes)).await?;
        Ok(Arc::new(next))
    }
    /// The coordinator that directs the lanes of the cluster; `None` before the first.
    async fn lane_director(&self) -> Result<Option<LaneDirector>, StoreError> {
        let stored = self.numbered(numbered::LANE_DIRECTOR).await?;
        stored.map(|stored| stored.read(encoded::read_lane_director)).transpose()
    }
    /// Records the next director: its epoch is one more than the stored epoch, or 1.
    async fn replace_lane_director(&self, next: LaneDirector) -> Result<(), StoreError> {
        let (number, bytes) = (next.epoch.0, encoded::lane_director(&next));
        self.replace_numbered(Numbered::new(numbered::LANE_DIRECTOR, number, bytes)).await
    }
}

/// Checkpoint of one alert's progress, written by the coordinator that runs the alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Alert that the checkpoint is of.
    pub alert: AlertName,
    /// Epoch of the coordinator that wrote the checkpoint.
    pub epoch: Epoch,
    /// Number of the checkpoint: from 1, one more with every checkpoint of the alert.
    pub number: u64,
    /// The coordinator's data; engines do not read it.
    pub bytes: Bytes,
}

/// A position of a log, with the chain over all batches up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Log that the position is of.
    pub log: LogId,
    /// Position of a batch; 0: before the first.
    pub position: Position,
    /// SHA-256 over the batches up to the position, one after another.
    pub chain: [u8; 32],
}

/// What a log has at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainAt {
    /// The chain up to the position.
    Known([u8; 32]),
    /// The batch is trimmed away, and its chain with it.
    Trimmed,
    /// The log ends before the position.
    Ahead,
}

/// The logs of changes, which nodes follow.
#[async_trait]
pub trait ChangeLog: fmt::Debug + Send + Sync + 'static {
    /// Identity of the logs; a new identity after every loss of their content. A position is
    /// meaningless under another identity.
    fn identity(&self) -> LogIdentity;
    /// The number of logs (L), fixed for the cluster's life.
    fn logs(&self) -> u16;
    /// Newest position of every log with its chain, by log, as this process knows them; they can be
    /// told even when the store is broken. Empty: the engine keeps no chains, because its logs are
    /// lost with the process.
    fn links(&self) -> Vec<Link> {
        Vec::new()
    }
    /// The chain of a log at a position.
    async fn chain_at(&self, log: LogId, position: Position) -> Result<ChainAt, StoreError> {
        let _ = (log, position);
        Ok(ChainAt::Trimmed)
    }
    /// Appends batches to their logs, all of them or none; readable at once under the positions
    /// returned, one for each batch in the order given. An empty batch counts too. One log may be
    /// named several times. An engine may join batches of one log that it appends together, those
    /// of other calls included: they share one position and keep their order.
    ///
    /// A full store degrades in steps: first it refuses calls of which any batch has registrations
    /// or places ([`StoreError::Full`]). From then on it accepts all other batches until the
    /// reserve is full. The memory engine, which knows the devices of its logs, first drops records
    /// of unknown devices (they would change nothing) and limits the records of one device; if no
    /// record of a batch remains, the head's position is returned for the batch.
    async fn append_all(
        &self,
        batches: Vec<(LogId, RecordBatch)>,
    ) -> Result<Vec<Position>, StoreError>;
    /// Channel of whether the store has room: false from the first registration or place refused
    /// for lack of room until room is free again.
    fn has_room(&self) -> watch::Receiver<bool>;
    /// Bytes that all logs hold, and their limit.
    fn usage(&self) -> Usage;
    /// The newest position of every log, by log; 0 if a log was never appended to.
    async fn heads(&self) -> Result<Vec<Position>, StoreError>;
    /// Batches of several logs after the given positions, in one query. Batches of one log come in
    /// order and without a gap. Logs are read in the given order until `bytes_max` are found: at
    /// least one batch if any log has one; logs without batches and logs not reached have no entry.
    async fn read_many(
        &self,
        after: &[(LogId, Position)],
        bytes_max: usize,
    ) -> Result<Vec<(LogId, Vec<Batch>)>, StoreError>;
    /// Number of records of each log up to and including a position (clamped to the log's head),
    /// with trimmed records; in the given order.
    async fn records_until(&self, of: &[(LogId, Position)]) -> Result<Vec<u64>, StoreError>;
    /// Drops the batches of a log before a position; a position after the head drops all of them.
    /// Positions stay as they are; a reader that asks for a dropped batch gets
    /// [`StoreError::Trimmed`].
    async fn trim(&self, log: LogId, before: Position) -> Result<(), StoreError>;
    /// The lowest generation of the keys that sealed the batches of all logs; `None`: there are no
    /// batches, or the engine seals none. Generation 0: a batch is not sealed.
    async fn oldest_generation(&self) -> Result<Option<Generation>, StoreError> {
        Ok(None)
    }
    /// Channel that changes whenever any log may have grown. One signal serves all logs: followers
    /// check the positions of the logs that they follow.
    fn grown(&self) -> watch::Receiver<u64>;
}

/// Everything that a coordinator keeps: what implements the three parts is a store.
pub trait Store: AlertStore + ClusterStore + ChangeLog {}

impl<S: AlertStore + ClusterStore + ChangeLog> Store for S {}
