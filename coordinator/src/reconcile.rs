//! Keeps one task for every active alert of the store; each plans from its record alone.
//!
//! ```text
//! CreateAlert ──record, bands──▶ ┌ handle ┐ ──▶ try to start ◀── waits: no partitions assigned,
//!                                │  and   │           │                 no lane, store away
//! process start ──list──▶ ────▶  └ task   ┘ ──▶ epoch + 1, bands ──▶ start
//!                                                     │
//!             record: End, last snapshot ◀── follow ◀─┘
//! ```
//!
//! **The record is the start.** `CreateAlert` records and hands over; a process that starts lists
//! what is active and goes on with it. Both are the same code, but for two things: bands that
//! admission has just computed are a hint that saves computing them again; and an alert that this
//! process did not create is taken over by raising the epoch of its record, before a node hears
//! anything.
//!
//! A task waits for partitions, lanes, the store and room for its cells. It gives up only when the
//! alert's own time is over. It records the end of its alert with retries while the store is away.
//!
//! Memory: one task and one handle for each active alert, and the handles of the last
//! [`ENDED_KEPT`] that ended.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use clarion_proto::{ids::AlertName, time::Time};
use clarion_runtime::{drain::Drain, repeated::Repeated};
use parking_lot::Mutex;
use tokio::sync::watch;

use self::{handle::Handle, task::AlertTask};
use crate::{
    admission::Admission,
    alert::Event,
    bands::Bands,
    clock::Clock,
    dispatch::{CancelState, Dispatch},
    snapshot::Snapshot,
    store::{AlertRecord, AlertStore, StoreError},
};

mod events;
mod handle;
mod plan;
mod task;

/// Ended alerts whose last snapshot is kept for those who ask late; at most some 20,000 cells of 40
/// bytes each, 1,300 for a usual one: 13 MB. The record in the store goes on without it.
const ENDED_KEPT: usize = 256;
/// How long a caller waits for the end of an alert that is cancelled before its run begins.
const CANCEL_WAIT: Duration = Duration::from_secs(2);

/// Runs every active alert of the store. Clones are the same.
#[derive(Debug, Clone)]
pub struct Reconciler {
    shared: Arc<Shared>,
}

/// What all tasks share.
#[derive(Debug)]
struct Shared {
    store: Arc<dyn AlertStore>,
    dispatch: Arc<dyn Dispatch>,
    admission: Arc<Admission>,
    clock: Clock,
    drain: Drain,
    alerts: Mutex<Alerts>,
    listed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Alerts {
    by_name: BTreeMap<AlertName, Arc<Handle>>,
    /// Those that have ended, oldest first.
    ended: VecDeque<AlertName>,
}

impl Reconciler {
    /// Begins to take over what is active in the store. Tasks end with the drain; the records of
    /// alerts that have not ended by then stay active.
    #[must_use]
    pub fn spawn(
        store: Arc<dyn AlertStore>,
        dispatch: Arc<dyn Dispatch>,
        admission: Arc<Admission>,
        clock: Clock,
        drain: Drain,
    ) -> Self {
        let (alerts, listed) = (Mutex::default(), watch::Sender::new(false));
        let shared = Shared { store, dispatch, admission, clock, drain, alerts, listed };
        let reconciler = Self { shared: Arc::new(shared) };
        let listing = reconciler.clone();
        reconciler.shared.spawn(async move { listing.list().await });
        reconciler
    }

    /// Waits until every alert that was active at the start is known here.
    pub async fn listed(&self) {
        // Its sender lives as long as this.
        let _ = self.shared.listed.subscribe().wait_for(|listed| *listed).await;
    }

    async fn list(&self) {
        let mut away = Repeated::default();
        let alerts = loop {
            match self.shared.store.active_alerts().await {
                Ok(alerts) => break alerts,
                Err(error) => {
                    let (reason, now) = (error.to_string(), self.shared.clock.now().since(Time(0)));
                    if let Some(times) = away.note(&reason, now) {
                        tracing::warn!(reason, times, "active alerts not listed yet");
                    }
                    tokio::time::sleep(task::PAUSE).await;
                }
            }
        };
        tracing::info!(alerts = alerts.len(), "active alerts listed");
        for alert in alerts {
            if let Some(handle) = self.shared.enter(&alert) {
                let task = AlertTask::found(Arc::clone(&self.shared), handle, alert);
                self.shared.spawn(task.run());
            }
        }
        self.shared.listed.send_replace(true);
    }

    /// Takes an alert that this process has just recorded, with the bands of its cover. From here
    /// on [`Reconciler::watch`] and [`Reconciler::cancel`] know it. It starts at once if it can.
    pub fn hand_over(&self, alert: Arc<AlertRecord>, bands: Bands) {
        // Known already: the list of active alerts was read after it was recorded.
        if let Some(handle) = self.shared.enter(&alert) {
            let mut task = AlertTask::created(Arc::clone(&self.shared), handle, alert, bands);
            // What keeps it from starting is logged by its task.
            let _ = task.try_start();
            self.shared.spawn(task.run());
        }
    }

    /// The newest state of an alert; `None` if it is not this process's or ended long ago.
    #[must_use]
    pub fn watch(&self, alert: &AlertName) -> Option<watch::Receiver<Arc<Snapshot>>> {
        Some(self.shared.handle(alert)?.snapshots.subscribe())
    }

    /// Stops an alert whose wish to be cancelled is recorded; comes back when every reachable node
    /// has confirmed, after some two seconds at most.
    pub async fn cancel(&self, alert: &AlertName) -> CancelState {
        let Some(handle) = self.shared.handle(alert) else { return CancelState::Unknown };
        let told = if handle.cancel_waiting() {
            let mut newest = handle.snapshots.subscribe();
            let ended = newest.wait_for(|snapshot| snapshot.state.is_final());
            let _ = tokio::time::timeout(CANCEL_WAIT, ended).await;
            CancelState::Unknown
        } else {
            self.shared.dispatch.cancel(alert).await
        };
        match told {
            // Dispatch never had it, or has it no more.
            CancelState::Unknown => {
                CancelState::At { state: handle.state(), unconfirmed: Vec::new() }
            }
            at @ CancelState::At { .. } => at,
        }
    }

    /// Applies an event to the newest record, however often somebody else is faster. An event that
    /// is not legal any more (two ends met) leaves the record as it is.
    ///
    /// # Errors
    /// The store's.
    pub async fn record(
        &self,
        alert: &AlertName,
        event: Event,
    ) -> Result<Arc<AlertRecord>, StoreError> {
        events::apply(&*self.shared.store, alert, event, self.shared.clock.wall(), None).await
    }

    /// Alerts that a stop waits for, with their newest state: the end is not recorded, or the last
    /// reports on what is resolved are about to come.
    #[must_use]
    pub fn under_way(&self) -> Vec<Arc<Snapshot>> {
        let handles = self.shared.under_way();
        handles.iter().map(|handle| handle.snapshots.borrow().clone()).collect()
    }

    /// Waits until no alert is under way.
    pub async fn all_ended(&self) {
        while let Some(handle) = self.shared.under_way().pop() {
            // Its sender lives with the handle.
            let _ = handle.over.subscribe().wait_for(|over| *over).await;
        }
    }
}

impl Shared {
    /// Runs a task until the drain begins.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.drain.token();
        self.drain.spawn(async move {
            let _ = stop.run_until_cancelled(task).await;
        });
    }

    /// The handle of an alert that is new here; `None`: it is known.
    fn enter(&self, alert: &AlertRecord) -> Option<Arc<Handle>> {
        let mut alerts = self.alerts.lock();
        if alerts.by_name.contains_key(&alert.name) {
            return None;
        }
        let handle = Arc::new(Handle::new(alert));
        alerts.by_name.insert(alert.name.clone(), Arc::clone(&handle));
        Some(handle)
    }

    fn handle(&self, alert: &AlertName) -> Option<Arc<Handle>> {
        self.alerts.lock().by_name.get(alert).cloned()
    }

    fn under_way(&self) -> Vec<Arc<Handle>> {
        let alerts = self.alerts.lock();
        alerts.by_name.values().filter(|handle| !*handle.over.borrow()).cloned().collect()
    }

    /// An alert is settled: its last snapshot stays for a while.
    fn ended(&self, alert: &AlertName) {
        let mut alerts = self.alerts.lock();
        alerts.ended.push_back(alert.clone());
        if alerts.ended.len() > ENDED_KEPT
            && let Some(oldest) = alerts.ended.pop_front()
        {
            alerts.by_name.remove(&oldest);
        }
    }

    /// An alert had ended before this process took it over.
    fn forget(&self, alert: &AlertName) {
        self.alerts.lock().by_name.remove(alert);
    }
}

#[cfg(test)]
mod tests;
