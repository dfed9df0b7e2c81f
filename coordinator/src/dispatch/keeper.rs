//! Keeps the record of a running alert true: one task follows its progress and records its end.
//!
//! Nodes report to dispatch, dispatch publishes snapshots; the record must say how it ended after
//! both are gone. There is one keeping task for each active alert, so at most `alerts_active_max`,
//! and the drain owns them.

use std::{sync::Arc, time::Duration};

use clarion_proto::{
    ids::{AlertName, UnixMillis},
    time::Time,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    alert::Event,
    clock::Clock,
    snapshot::Snapshot,
    store::{AlertRecord, AlertStore, StoreError},
};

/// Between tries when the store is away.
const PAUSE: Duration = Duration::from_millis(500);

/// Records what happens to alerts. Clones are the same.
#[derive(Debug, Clone)]
pub struct Keeper {
    store: Arc<dyn AlertStore>,
    clock: Clock,
    stop: CancellationToken,
}

impl Keeper {
    /// Over a store, until `stop`.
    #[must_use]
    pub fn new(store: Arc<dyn AlertStore>, clock: Clock, stop: CancellationToken) -> Self {
        Self { store, clock, stop }
    }

    /// Applies an event to the newest record, however often somebody else is faster. An event that
    /// is not legal any more (two ends met) leaves the record as it is.
    ///
    /// # Errors
    /// The store's.
    pub async fn record(
        &self,
        name: &AlertName,
        event: Event,
    ) -> Result<Arc<AlertRecord>, StoreError> {
        self.record_at(name, event, self.clock.wall()).await
    }

    async fn record_at(
        &self,
        name: &AlertName,
        event: Event,
        at: UnixMillis,
    ) -> Result<Arc<AlertRecord>, StoreError> {
        loop {
            let existing = self.store.alert(name).await?;
            let existing = existing.ok_or_else(|| StoreError::Missing(name.name()))?;
            let next = match existing.after(event.clone(), at) {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(existing),
                Err(illegal) => {
                    tracing::warn!(%illegal, "an alert ended twice: the first end stays");
                    return Ok(existing);
                }
            };
            match self.store.replace_alert(next).await {
                Err(StoreError::Conflict(_)) => {}
                other => return other,
            }
        }
    }

    /// Follows one alert until nothing changes any more, or the process stops.
    pub async fn keep(self, name: AlertName, mut newest: watch::Receiver<Arc<Snapshot>>) {
        loop {
            let snapshot = Arc::clone(&newest.borrow_and_update());
            if snapshot.state.is_final()
                && !self.recorded(&name, Event::End(snapshot.state), self.ended_at(&snapshot)).await
            {
                return;
            }
            if snapshot.settled {
                let settle = Event::Settle(Arc::clone(&snapshot));
                self.recorded(&name, settle, self.clock.wall()).await;
                let handed = snapshot.totals.handed;
                tracing::info!(alert = %name, state = ?snapshot.state, handed, "alert has ended");
                return;
            }
            tokio::select! {
                changed = newest.changed() => if changed.is_err() { return },
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Records an event however long the store is away; false if the process stops, or the alert is
    /// gone.
    async fn recorded(&self, name: &AlertName, event: Event, at: UnixMillis) -> bool {
        loop {
            match self.record_at(name, event.clone(), at).await {
                Ok(_) => return true,
                Err(StoreError::Away(problem)) => {
                    tracing::warn!(alert = %name, problem, "the end is not recorded yet");
                }
                Err(error) => {
                    tracing::error!(alert = %name, %error, "the end cannot be recorded");
                    return false;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = self.stop.cancelled() => return false,
            }
        }
    }

    /// The wall time of an end that was measured on the process's own clock.
    fn ended_at(&self, snapshot: &Snapshot) -> UnixMillis {
        let ago = self.clock.now().since(snapshot.ended.unwrap_or(Time::NEVER));
        let ago = u64::try_from(ago.as_millis()).unwrap_or(0);
        UnixMillis(self.clock.wall().0.saturating_sub(ago))
    }
}
