//! Writing a backup into a new store: what no other operation may do.

use async_trait::async_trait;
use clarion_proto::{
    app::Identity,
    ids::{AppName, LogId, Position},
};

use super::{AlertRecord, Numbered, StoreError};

/// Operations of a restore. Their caller has made sure that the store is new and that nobody else
/// uses it.
#[async_trait]
pub trait Restore: Send + Sync {
    /// Records an alert as it is, ended or not. It gets the identity of this store's logs.
    async fn restore_alert(&self, alert: AlertRecord) -> Result<(), StoreError>;
    /// Records the identity of a deleted app.
    async fn restore_deleted_app(&self, name: &AppName, id: Identity) -> Result<(), StoreError>;
    /// Records a numbered record whose key has none, with any number.
    async fn restore_numbered(&self, record: Numbered) -> Result<(), StoreError>;
    /// Lets a log that was never appended to begin at a position, after a number of records.
    async fn begin_log(
        &self,
        log: LogId,
        first: Position,
        records_before: u64,
    ) -> Result<(), StoreError>;
}
