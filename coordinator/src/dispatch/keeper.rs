//! Keeps the record of a running alert true: one task follows its progress and records its end.
//!
//! Nodes report to dispatch, dispatch publishes snapshots; the record must say how it ended after both are gone. There is
//! one keeper for each active alert, so at most `alerts_active_max`, and the drain owns them.

use std::{sync::Arc, time::Duration};

use clarion_proto::{
    ids::{AlertName, UnixMillis},
    time::Time,
};
use tokio::sync::watch;

use crate::{
    alert::Event,
    api::Context,
    snapshot::Snapshot,
    store::{AlertRecord, StoreError},
};

/// Between tries when the store is away.
const PAUSE: Duration = Duration::from_millis(500);

/// Applies an event to the newest record, however often somebody else is faster. An event that is not legal any more
/// (two ends met) leaves the record as it is.
///
/// # Errors
/// The store's.
pub async fn record(
    api: &Context,
    name: &AlertName,
    event: Event,
) -> Result<Arc<AlertRecord>, StoreError> {
    record_at(api, name, event, api.clock.wall()).await
}

async fn record_at(
    api: &Context,
    name: &AlertName,
    event: Event,
    at: UnixMillis,
) -> Result<Arc<AlertRecord>, StoreError> {
    loop {
        let existing =
            api.store.alert(name).await?.ok_or_else(|| StoreError::Missing(name.name()))?;
        let next = match existing.after(event.clone(), at) {
            Ok(Some(next)) => next,
            Ok(None) => return Ok(existing),
            Err(illegal) => {
                tracing::warn!(%illegal, "an alert ended twice: the first end stays");
                return Ok(existing);
            }
        };
        match api.store.replace_alert(next).await {
            Err(StoreError::Conflict(_)) => {}
            other => return other,
        }
    }
}

/// Follows one alert until nothing changes any more, or the process stops.
pub async fn keep(api: Arc<Context>, name: AlertName, mut newest: watch::Receiver<Arc<Snapshot>>) {
    let stop = api.drain.token();
    loop {
        let snapshot = Arc::clone(&newest.borrow_and_update());
        if snapshot.state.is_final() {
            let at = ended_at(&api, &snapshot);
            if !recorded(&api, &name, Event::End(snapshot.state), at).await {
                return;
            }
        }
        if snapshot.settled {
            recorded(&api, &name, Event::Settle(Arc::clone(&snapshot)), api.clock.wall()).await;
            tracing::info!(alert = %name, state = ?snapshot.state, handed = snapshot.totals.handed, "alert has ended");
            return;
        }
        tokio::select! {
            changed = newest.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Records an event however long the store is away; false if the process stops, or the alert is gone.
async fn recorded(api: &Context, name: &AlertName, event: Event, at: UnixMillis) -> bool {
    let stop = api.drain.token();
    loop {
        match record_at(api, name, event.clone(), at).await {
            Ok(_) => return true,
            Err(StoreError::Away(problem)) => {
                tracing::warn!(alert = %name, problem, "the end is not recorded yet")
            }
            Err(error) => {
                tracing::error!(alert = %name, %error, "the end cannot be recorded");
                return false;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stop.cancelled() => return false,
        }
    }
}

/// The wall time of an end that was measured on the process's own clock.
fn ended_at(api: &Context, snapshot: &Snapshot) -> UnixMillis {
    let ago = api.clock.now().since(snapshot.ended.unwrap_or(Time::NEVER));
    UnixMillis(api.clock.wall().0.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(0)))
}
