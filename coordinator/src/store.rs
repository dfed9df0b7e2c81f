//! What a coordinator remembers: apps, alerts, and the logs of changes. One interface, several
//! engines.
//!
//! The traits are asynchronous because a database is behind them in production, although the engine
//! in [`memory`] never waits. They say what must be atomic, for that is what an engine has to
//! provide and what callers cannot add:
//!
//! - **An alert is recorded once for its `request_id`**, and the limit of active alerts is checked
//!   in the same step.
//! - **An alert's record names the logs as they were when it was written**: the engine reads their
//!   heads in the step that writes the record, so that every change acknowledged before is in it.
//! - **Records are replaced, not edited**: a writer names the revision it read, and loses with
//!   [`StoreError::Conflict`] to a faster writer. A writer whose epoch is lower than the stored one
//!   loses with [`StoreError::Superseded`], whatever it read. Which transitions an alert may make
//!   is decided in [`crate::alert`].
//! - **Positions of a log are dense from 1** and given in the step that makes the batch readable,
//!   so that no reader can step over a batch that appears later. The append time is stamped in the
//!   same step and never goes back within a log.
//! - **One call appends to several logs completely or not at all.**
//!
//! What an engine does inside when the outcome of a commit is unknown (reading again by
//! `request_id`, or by a producer's own sequence in a log) is not part of the interface.
//!
//! Every engine passes the tests in `suite`.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use clarion_proto::ids::{AlertName, AppName, Epoch, LogId, LogIdentity, Position};
use tokio::sync::watch;

use crate::owners::Ownership;

mod batch;
#[cfg(test)]
pub(crate) mod fixtures;
mod known;
pub mod memory;
mod record;
#[cfg(test)]
pub(crate) mod suite;

pub use batch::{Batch, RecordBatch, RecordBatchBuilder};
pub use record::{AlertCursor, AlertRecord, AppRecord, Created, RequestId, SendPlan};

/// An engine cannot do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another writer was faster. Read again and decide again.
    #[error("{0} was changed by another writer")]
    Conflict(String),
    /// A coordinator with a higher epoch has taken the alert over. Trying again does not help.
    #[error("{alert} is written under epoch {stored}, not {epoch}")]
    Superseded {
        /// Alert whose record was refused.
        alert: AlertName,
        /// The epoch of the stored record.
        stored: Epoch,
        /// The epoch of the refused record.
        epoch: Epoch,
    },
    /// The log no longer holds what follows the position asked for. Trying again does not help: the
    /// reader has to start from a snapshot.
    #[error("log {log} begins at position {first}: what was before is trimmed away")]
    Trimmed {
        /// Log that was trimmed.
        log: LogId,
        /// The oldest position that the log holds, or its next one if it holds none.
        first: Position,
    },
    /// Nothing has that name: the caller's mistake, or it was deleted.
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
    /// No room for registrations and places. A retry helps only after somebody made room.
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
    /// No room even in what is kept for removals, mutes and feedback.
    #[error("the store holds {held} of {limit} bytes: it takes no more removals and mutes")]
    ReserveFull {
        /// Bytes that all logs hold.
        held: u64,
        /// Maximum of bytes that all logs hold.
        limit: u64,
    },
    /// Only the room kept for removals, mutes and feedback is left, and one device has used its
    /// share of it.
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
    /// The engine cannot be reached. A retry helps.
    #[error("the store is away: {0}")]
    Away(String),
}

/// Apps and alerts.
#[async_trait]
pub trait AlertStore: fmt::Debug + Send + Sync + 'static {
    /// Records a new alert, unless one with the same `request_id` exists or `active_max` alerts are
    /// active. Fills in [`AlertRecord::log`] and [`AlertRecord::positions`].
    async fn create_alert(
        &self,
        alert: AlertRecord,
        active_max: usize,
    ) -> Result<Created<AlertRecord>, StoreError>;
    /// Replaces the record whose revision is one less than this one's and whose epoch is not
    /// higher.
    async fn replace_alert(&self, alert: AlertRecord) -> Result<Arc<AlertRecord>, StoreError>;
    /// The alert of a name.
    async fn alert(&self, name: &AlertName) -> Result<Option<Arc<AlertRecord>>, StoreError>;
    /// The alert that a request created.
    async fn alert_by_request(
        &self,
        request: RequestId,
    ) -> Result<Option<Arc<AlertRecord>>, StoreError>;
    /// At most `limit` alerts, newest first, after `cursor`.
    async fn alerts(
        &self,
        after: Option<&AlertCursor>,
        limit: usize,
    ) -> Result<Vec<Arc<AlertRecord>>, StoreError>;
    /// Every alert that has not ended, by name: at most as many as `active_max` allowed.
    async fn active_alerts(&self) -> Result<Vec<Arc<AlertRecord>>, StoreError>;

    /// Records a new app, unless one of that name exists.
    async fn create_app(&self, app: AppRecord) -> Result<Created<AppRecord>, StoreError>;
    /// Replaces the record whose revision is one less than this one's.
    async fn replace_app(&self, app: AppRecord) -> Result<Arc<AppRecord>, StoreError>;
    /// Removes an app that no active alert addresses.
    async fn delete_app(&self, name: &AppName) -> Result<(), StoreError>;
    /// The app of a name.
    async fn app(&self, name: &AppName) -> Result<Option<Arc<AppRecord>>, StoreError>;
    /// At most `limit` apps, by name, after `after`.
    async fn apps(
        &self,
        after: Option<&AppName>,
        limit: usize,
    ) -> Result<Vec<Arc<AppRecord>>, StoreError>;
}

/// Which node owns which partition, and how far alerts are: what a coordinator needs to go on with
/// the work of another.
#[async_trait]
pub trait ClusterStore: fmt::Debug + Send + Sync + 'static {
    /// The newest ownership; `None` before the first.
    async fn ownership(&self) -> Result<Option<Arc<Ownership>>, StoreError>;
    /// Records the next ownership: its number is one more than that of the stored one, or 1.
    async fn replace_ownership(&self, next: Ownership) -> Result<Arc<Ownership>, StoreError>;
    /// The newest checkpoint of an alert that has not ended; `None` before the first.
    async fn checkpoint(&self, alert: &AlertName) -> Result<Option<Arc<Checkpoint>>, StoreError>;
    /// Replaces the checkpoint of an active alert whose record has no higher epoch. The checkpoint
    /// goes when the alert has ended.
    async fn put_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), StoreError>;
}

/// How far one alert is, as the coordinator that runs it wrote it down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Alert that the checkpoint is of.
    pub alert: AlertName,
    /// Epoch of the coordinator that wrote it.
    pub epoch: Epoch,
    /// Grows by one with every checkpoint of the alert, from 1.
    pub number: u64,
    /// What the coordinator wrote; engines do not read it.
    pub bytes: Bytes,
}

/// The logs of changes: what nodes follow.
#[async_trait]
pub trait ChangeLog: fmt::Debug + Send + Sync + 'static {
    /// Which log this is: another one after every loss of what it held. Positions of one mean
    /// nothing in another.
    fn identity(&self) -> LogIdentity;
    /// The number of logs (L), fixed for the cluster's life.
    fn logs(&self) -> u16;
    /// Appends batches to their logs, all of them or none; readable at once under the positions
    /// returned, one for each batch in the order given. An empty batch takes a position too. One
    /// log may be named several times.
    ///
    /// The limit of a store degrades in order: batches of which one has registrations or places are
    /// refused first ([`StoreError::Full`]). Of batches that have none, the records of unknown
    /// devices are dropped from then on (they would change nothing), and those of known devices are
    /// taken until nothing fits at all; if nothing is left of a batch, its position is that of the
    /// head.
    async fn append_all(
        &self,
        batches: Vec<(LogId, RecordBatch)>,
    ) -> Result<Vec<Position>, StoreError>;
    /// False once registrations and places have been refused for want of room, until there is some.
    fn has_room(&self) -> watch::Receiver<bool>;
    /// The newest position of every log, by log; 0 if a log was never appended to.
    async fn heads(&self) -> Result<Vec<Position>, StoreError>;
    /// Batches of several logs after the positions given, in one query. Those of one log come in
    /// order and without a gap. Logs are read in the order given until `bytes_max` are found: at
    /// least one batch if any log has one, and no entry for a log that has none or was not reached.
    async fn read_many(
        &self,
        after: &[(LogId, Position)],
        bytes_max: usize,
    ) -> Result<Vec<(LogId, Vec<Batch>)>, StoreError>;
    /// How many records each log got up to and with a position (clamped to its head), trimmed ones
    /// included; in the order given.
    async fn records_until(&self, of: &[(LogId, Position)]) -> Result<Vec<u64>, StoreError>;
    /// Drops what a log holds before a position. Positions stay as they are; a reader that asks for
    /// what is gone gets [`StoreError::Trimmed`]. Beyond the head, nothing happens.
    async fn trim(&self, log: LogId, before: Position) -> Result<(), StoreError>;
    /// Changes whenever some log may have grown. One signal for all logs: followers look at the
    /// positions they care for.
    fn grown(&self) -> watch::Receiver<u64>;
}
