//! Writes the events of an alert into its record.

use std::sync::Arc;

use clarion_proto::ids::{AlertName, Epoch, UnixMillis};

use crate::{
    alert::Event,
    store::{AlertRecord, AlertStore, StoreError},
};

/// Applies an event to the newest record, with retries after every conflict with another writer. An
/// event that is no longer legal (two ends met) leaves the record as it is.
///
/// `epoch`: epoch of the coordinator that runs the alert; the store refuses the event once another
/// coordinator has taken the alert over. `None`: a caller's cancel; any coordinator may write it.
///
/// # Errors
/// The store's errors.
pub(super) async fn apply(
    store: &dyn AlertStore,
    name: &AlertName,
    event: Event,
    at: UnixMillis,
    epoch: Option<Epoch>,
) -> Result<Arc<AlertRecord>, StoreError> {
    loop {
        let existing = store.alert(name).await?;
        let existing = existing.ok_or_else(|| StoreError::Missing(name.name()))?;
        let next = match existing.after(event.clone(), at) {
            Ok(Some(next)) => next,
            Ok(None) => return Ok(existing),
            Err(illegal) => {
                tracing::warn!(%illegal, "second alert end ignored");
                return Ok(existing);
            }
        };
        let epoch = epoch.unwrap_or(next.epoch);
        match store.replace_alert(AlertRecord { epoch, ..next }).await {
            Err(StoreError::Conflict(_)) => {}
            other => return other,
        }
    }
}

/// Raises the epoch of an active alert: from then on no coordinator with a lower epoch can write
/// the alert's end. `None`: the alert has ended, or the store no longer holds it.
///
/// # Errors
/// The store's errors; [`StoreError::Conflict`] if another writer was faster.
pub(super) async fn take_over(
    store: &dyn AlertStore,
    name: &AlertName,
) -> Result<Option<Arc<AlertRecord>>, StoreError> {
    let Some(stored) = store.alert(name).await?.filter(|stored| !stored.state.is_final()) else {
        return Ok(None);
    };
    let (epoch, revision) = (Epoch(stored.epoch.0 + 1), stored.revision + 1);
    let next = AlertRecord { epoch, revision, ..AlertRecord::clone(&stored) };
    store.replace_alert(next).await.map(Some)
}
