//! What a coordinator remembers: apps, alerts, and the logs of changes. One interface, several
//! engines.
//!
//! The traits are asynchronous because a database is behind them in production, although the engine
//! in [`memory`] never waits. They say what must be atomic, for that is what an engine has to
//! provide and what callers cannot add:
//!
//! - **An alert is recorded once for its `request_id`**, and the limit of active alerts is checked
//!   in the same step.
//! - **Records are replaced, not edited**: a writer names the revision it read, and loses with
//!   [`StoreError::Conflict`] to whoever was faster. What a transition may be is [`crate::alert`]'s
//!   to say.
//! - **Positions of a log are dense from 1** and given in the step that makes the batch readable,
//!   so that no reader can step over a batch that appears later. The append time is stamped in the
//!   same step and never goes back within a log.
//!
//! What an engine does inside when the outcome of a commit is unknown (reading again by
//! `request_id`, or by a producer's own sequence in a log) is its own business and not in the
//! interface.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use clarion_proto::ids::{AlertName, AppName, LogId, LogIdentity, Position};
use tokio::sync::watch;

mod batch;
#[cfg(test)]
pub(crate) mod fixtures;
mod known;
pub mod memory;
mod record;

pub use batch::{Batch, RecordBatch, RecordBatchBuilder};
pub use record::{AlertCursor, AlertRecord, AppRecord, Created, RequestId};

/// An engine cannot do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else changed it first. Read again and decide again.
    #[error("{0} was changed by somebody else")]
    Conflict(String),
    /// There is none of that name. The caller's mistake, or somebody removed it.
    #[error("there is no {0}")]
    Missing(String),
    /// An app that an active alert addresses cannot be removed.
    #[error("{app} is addressed by the active alert {alert}")]
    InUse {
        /// Which app.
        app: AppName,
        /// One of the alerts.
        alert: AlertName,
    },
    /// As many alerts are active as may be. Trying again helps when one has ended.
    #[error("{active} alerts are active, at most {limit} may be")]
    TooManyActive {
        /// Now.
        active: usize,
        /// Allowed.
        limit: usize,
    },
    /// No room for registrations and places. Trying again helps only when somebody made some.
    #[error(
        "the store holds {held} bytes, registrations and places may fill {limit}; removals and mutes are still taken, in \
         batches of their own"
    )]
    Full {
        /// Bytes held.
        held: u64,
        /// Bytes that registrations and places may fill.
        limit: u64,
    },
    /// No room even in what is kept for removals, mutes and feedback.
    #[error(
        "the store holds {held} bytes, at most {limit} fit: not even removals and mutes are taken any more"
    )]
    ReserveFull {
        /// Bytes held.
        held: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The store has no room but what is kept for removals, mutes and feedback, and one device has
    /// had its part of that.
    #[error("the store is full: of one device at most {limit} more removals and mutes are taken")]
    ReserveShare {
        /// Records of one device.
        limit: u8,
    },
    /// As many apps as may be.
    #[error("{limit} apps exist, no more may be")]
    TooManyApps {
        /// Allowed.
        limit: usize,
    },
    /// The engine cannot be reached. Trying again helps.
    #[error("the store is away: {0}")]
    Away(String),
}

/// Apps and alerts.
#[async_trait]
pub trait AlertStore: fmt::Debug + Send + Sync + 'static {
    /// Records a new alert, unless one with the same `request_id` is there or `active_max` are
    /// active.
    async fn create_alert(
        &self,
        alert: AlertRecord,
        active_max: usize,
    ) -> Result<Created<AlertRecord>, StoreError>;
    /// Takes back an alert that was recorded and could not be started. Only its creator may, before
    /// it answered.
    async fn discard_alert(&self, name: &AlertName) -> Result<(), StoreError>;
    /// Replaces the record whose revision is one less than this one's.
    async fn replace_alert(&self, alert: AlertRecord) -> Result<Arc<AlertRecord>, StoreError>;
    /// By name.
    async fn alert(&self, name: &AlertName) -> Result<Option<Arc<AlertRecord>>, StoreError>;
    /// By the request that made it.
    async fn alert_by_request(
        &self,
        request: RequestId,
    ) -> Result<Option<Arc<AlertRecord>>, StoreError>;
    /// At most `limit`, newest first, after `cursor`.
    async fn alerts(
        &self,
        after: Option<&AlertCursor>,
        limit: usize,
    ) -> Result<Vec<Arc<AlertRecord>>, StoreError>;
    /// How many have not ended.
    async fn active_count(&self) -> Result<usize, StoreError>;

    /// Records a new app, unless one of that name is there.
    async fn create_app(&self, app: AppRecord) -> Result<Created<AppRecord>, StoreError>;
    /// Replaces the record whose revision is one less than this one's.
    async fn replace_app(&self, app: AppRecord) -> Result<Arc<AppRecord>, StoreError>;
    /// Removes an app that no active alert addresses.
    async fn delete_app(&self, name: &AppName) -> Result<(), StoreError>;
    /// By name.
    async fn app(&self, name: &AppName) -> Result<Option<Arc<AppRecord>>, StoreError>;
    /// At most `limit`, by name, after `after`.
    async fn apps(
        &self,
        after: Option<&AppName>,
        limit: usize,
    ) -> Result<Vec<Arc<AppRecord>>, StoreError>;
}

/// The logs of changes: what nodes follow.
#[async_trait]
pub trait ChangeLog: fmt::Debug + Send + Sync + 'static {
    /// Which log this is: another one after every loss of what it held. Positions of one mean
    /// nothing in another.
    fn identity(&self) -> LogIdentity;
    /// L, fixed for the cluster's life.
    fn logs(&self) -> u16;
    /// Appends one batch; readable at once under the position returned. An empty batch takes a
    /// position too.
    ///
    /// The limit of a store degrades in order: a batch with registrations or places is refused
    /// first ([`StoreError::Full`]). Of one that has none, the records of unknown devices are
    /// dropped from then on (they would change nothing), and those of known devices are taken until
    /// nothing fits at all; if nothing is left of it, the position is that of the head.
    async fn append(&self, log: LogId, batch: RecordBatch) -> Result<Position, StoreError>;
    /// Appends batches of one request, to several logs: all of them, or none for want of room.
    async fn append_all(&self, batches: Vec<(LogId, RecordBatch)>) -> Result<(), StoreError>;
    /// False once registrations and places have been refused for want of room, until there is some.
    fn has_room(&self) -> watch::Receiver<bool>;
    /// The newest position; 0 if there is none.
    async fn head(&self, log: LogId) -> Result<Position, StoreError>;
    /// Batches after a position, in order and without a gap: at least one if there is one, else as
    /// many as fit `bytes_max`. Nothing after the head is an empty answer.
    async fn read(
        &self,
        log: LogId,
        after: Position,
        bytes_max: usize,
    ) -> Result<Vec<Batch>, StoreError>;
    /// How many records the log holds up to and with a position (clamped to the head).
    async fn records_until(&self, log: LogId, position: Position) -> Result<u64, StoreError>;
    /// Changes whenever some log may have grown. One signal for all logs: followers look at the
    /// heads they care for.
    fn grown(&self) -> watch::Receiver<u64>;
}
