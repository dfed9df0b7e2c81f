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
//! **An alert starts from its record.** `CreateAlert` records the alert and hands it over; a
//! starting process lists the active alerts and continues them. Both paths share their code, except
//! for two points: bands that admission has just computed are reused; and an alert that another
//! process created is taken over by raising the epoch of its record, before any message to a node.
//!
//! A task waits for partitions, lanes, the store and room for its cells. The task gives up only
//! when the alert has expired. It records the alert's end with retries while the store is down.
//!
//! Memory: one task and one handle for each active alert, and the handles of the last
//! [`ENDED_KEPT`] that ended.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use clarion_proto::{
    ids::{AlertName, Epoch},
    time::Time,
};
use clarion_runtime::{drain::Drain, repeated::Repeated, world::Clock};
use parking_lot::Mutex;
use tokio::sync::watch;

use self::{handle::Handle, task::AlertTask};
use crate::{
    admission::Admission,
    alert::Event,
    bands::Bands,
    dispatch::{CancelState, Dispatch},
    snapshot::Snapshot,
    store::{AlertRecord, AlertStore, StoreError},
};

mod events;
mod handle;
mod plan;
mod task;

/// Number of ended alerts whose last snapshot is kept for late watchers; at most some 20,000 cells
/// of 40 bytes each, 1,300 for a usual alert: 13 MB. The store keeps the record for longer.
const ENDED_KEPT: usize = 256;
/// Time that a caller waits for the end of an alert that is cancelled before its run begins.
const CANCEL_WAIT: Duration = Duration::from_secs(2);

/// Runs every active alert of the store. Clones share their state.
#[derive(Debug, Clone)]
pub struct Reconciler {
    shared: Arc<Shared>,
}

/// State that all tasks share.
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
    /// Names of the ended alerts that are kept, oldest first.
    ended: VecDeque<AlertName>,
}

impl Reconciler {
    /// Begins to take over the active alerts of the store. The tasks end with the drain; the
    /// records of alerts that have not ended by then stay active.
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

    /// Waits until this process knows every alert that was active at startup.
    pub async fn listed(&self) {
        // `wait_for` cannot fail: `self` owns the sender.
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
                        tracing::warn!(reason, times, "listing active alerts failed; retrying");
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

    /// Runs an active alert of the store that this process may not know: the answer to its
    /// recording was lost, and its caller has asked again.
    pub fn adopt(&self, alert: &Arc<AlertRecord>) {
        if alert.state.is_final() {
            return;
        }
        if let Some(handle) = self.shared.enter(alert) {
            let task = AlertTask::found(Arc::clone(&self.shared), handle, Arc::clone(alert));
            self.shared.spawn(task.run());
        }
    }

    /// Searches the store for an alert whose recording has no known outcome, so that it is sent
    /// even if its caller never asks again.
    pub fn search(&self) {
        let reconciler = self.clone();
        self.shared.spawn(async move { reconciler.list().await });
    }

    /// Accepts an alert that this process has just recorded, with the bands of its cover. From here
    /// on [`Reconciler::watch`] and [`Reconciler::cancel`] find the alert. The alert starts at once
    /// if partitions and lanes allow.
    pub fn hand_over(&self, alert: Arc<AlertRecord>, bands: Bands) {
        // A known alert needs no task: the list of active alerts was read after its recording.
        if let Some(handle) = self.shared.enter(&alert) {
            let mut task = AlertTask::created(Arc::clone(&self.shared), handle, alert, bands);
            // The alert's task logs the reason that the alert cannot start.
            let _ = task.try_start();
            self.shared.spawn(task.run());
        }
    }

    /// The newest state of an alert; `None` if another process runs it or it ended long ago. The
    /// channel closes before a settled state if another process has taken the alert over.
    #[must_use]
    pub fn watch(&self, alert: &AlertName) -> Option<watch::Receiver<Arc<Snapshot>>> {
        Some(self.shared.handle(alert)?.snapshots.subscribe())
    }

    /// Stops an alert whose cancel is recorded; returns when every reachable node has confirmed,
    /// after some two seconds at most.
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
            // Dispatch never ran the alert, or has settled it.
            CancelState::Unknown => {
                CancelState::At { state: handle.state(), unconfirmed: Vec::new() }
            }
            told @ (CancelState::At { .. } | CancelState::Superseded) => told,
        }
    }

    /// Applies an event to the newest record, with retries after every conflict with another
    /// writer. An event that is no longer legal (two ends met) leaves the record as it is.
    ///
    /// Any process may record a cancel. An end is what the run of this process has reached, and
    /// says nothing about the nodes of a coordinator that has taken the alert over.
    ///
    /// # Errors
    /// The store's errors; [`StoreError::Superseded`] for an end if another coordinator has taken
    /// the alert over, or this process does not run the alert.
    pub async fn record(
        &self,
        alert: &AlertName,
        event: Event,
    ) -> Result<Arc<AlertRecord>, StoreError> {
        let run = || self.shared.handle(alert).map_or(Epoch(0), |handle| handle.epoch());
        let epoch = match event {
            Event::Cancel { .. } => None,
            Event::End(_) | Event::Settle(_) => Some(run()),
        };
        events::apply(&*self.shared.store, alert, event, self.shared.clock.wall(), epoch).await
    }

    /// Alerts that shutdown waits for, with their newest state: their end is not recorded, or the
    /// last reports of a resolved alert have not arrived.
    #[must_use]
    pub fn under_way(&self) -> Vec<Arc<Snapshot>> {
        let handles = self.shared.under_way();
        handles.iter().map(|handle| handle.snapshots.borrow().clone()).collect()
    }

    /// Waits until no alert is under way.
    pub async fn all_ended(&self) {
        while let Some(handle) = self.shared.under_way().pop() {
            // `wait_for` cannot fail: the handle owns the sender.
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

    /// Creates the handle of a new alert; `None`: the alert is known already.
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

    /// Keeps the last snapshot of a settled alert among the ended alerts.
    fn ended(&self, alert: &AlertName) {
        let mut alerts = self.alerts.lock();
        alerts.ended.push_back(alert.clone());
        if alerts.ended.len() > ENDED_KEPT
            && let Some(oldest) = alerts.ended.pop_front()
        {
            alerts.by_name.remove(&oldest);
        }
    }

    /// Forgets an alert that had ended before this process took it over.
    fn forget(&self, alert: &AlertName) {
        self.alerts.lock().by_name.remove(alert);
    }
}

#[cfg(test)]
mod tests;
