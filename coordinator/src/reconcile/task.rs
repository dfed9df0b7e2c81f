//! The task of one active alert: takes it over, waits until dispatch can start it, records its end.

use std::{sync::Arc, time::Duration};

use clarion_proto::{ids::UnixMillis, time::Time};
use clarion_runtime::{offload::offload, repeated::Repeated};
use tokio::sync::watch;

use super::{
    Shared, events,
    handle::{Handle, Stage},
    plan,
};
use crate::{
    admission::Admitted,
    alert::Event,
    bands::Bands,
    dispatch::{Start, StartError},
    planned::PlannedAlert,
    snapshot::{Snapshot, State},
    store::{AlertRecord, SendPlan, StoreError},
};

/// Pause between retries of operations without a wake-up signal: the store, lanes, room for cells.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// Time for which an alert found in the store is started although it may have expired.
const LATE: Duration = Duration::from_secs(10);

/// One active alert, until its end is recorded.
pub(super) struct AlertTask {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
    record: Arc<AlertRecord>,
    /// Whether this process created the alert: no other coordinator has offered it to a node.
    own: bool,
    /// The plan, built as soon as the bands are known.
    planned: Option<Arc<PlannedAlert>>,
    changes: watch::Receiver<u64>,
    waiting: Repeated,
}

/// Result of an alert's stage before its run.
enum Begun {
    /// Dispatch runs the alert.
    Running,
    /// The alert ended before this process sent anything.
    Over(State),
    /// The alert's record had ended, or the store no longer held it.
    Gone,
}

impl AlertTask {
    /// An alert that this process created, with the bands that admission computed.
    pub(super) fn created(
        shared: Arc<Shared>,
        handle: Arc<Handle>,
        record: Arc<AlertRecord>,
        bands: Bands,
    ) -> Self {
        let mut task = Self::found(shared, handle, record);
        task.own = true;
        task.planned = task.record.plan.as_ref().map(|of| plan::planned(&task.record, of, bands));
        task
    }

    /// An alert that was found in the store.
    pub(super) fn found(
        shared: Arc<Shared>,
        handle: Arc<Handle>,
        record: Arc<AlertRecord>,
    ) -> Self {
        let (changes, waiting) = (shared.dispatch.changes(), Repeated::default());
        Self { shared, handle, record, own: false, planned: None, changes, waiting }
    }

    /// Tries to start the alert at once, if the bands are known.
    pub(super) fn try_start(&mut self) -> Option<Result<(), StartError>> {
        let plan = Arc::clone(self.planned.as_ref()?);
        self.changes.borrow_and_update();
        let mut stage = self.handle.stage();
        let cancelled = match *stage {
            Stage::Waiting { cancelled } => cancelled,
            Stage::Started => return Some(Ok(())),
        };
        let snapshots = self.handle.snapshots.clone();
        let superseded = self.handle.superseded.clone();
        let started = self.shared.dispatch.start(Start { plan, cancelled, snapshots, superseded });
        if started.is_ok() {
            *stage = Stage::Started;
        }
        Some(started)
    }

    /// Runs until the alert's end is recorded and its progress no longer changes.
    pub(super) async fn run(mut self) {
        let clock = self.shared.clock;
        let left = Duration::from_millis(self.record.expires.0.saturating_sub(clock.wall().0));
        // An alert that expired while no coordinator ran it still gets a run, which receives the
        // nodes' last reports.
        let expires = clock.now() + if self.own { left } else { left.max(LATE) };
        let begun = tokio::select! {
            biased;
            begun = self.begin() => begun,
            () = clock.sleep_until(Some(expires)) => Begun::Over(State::Expired),
        };
        match begun {
            Begun::Running => {}
            Begun::Over(state) => self.publish_end(state),
            Begun::Gone => {
                self.handle.over.send_replace(true);
                return self.shared.forget(&self.record.name);
            }
        }
        self.follow().await;
    }

    async fn begin(&mut self) -> Begun {
        if !self.own && !self.take_over().await {
            return Begun::Gone;
        }
        loop {
            if self.own && *self.handle.stage() == (Stage::Waiting { cancelled: true }) {
                return Begun::Over(State::Cancelled);
            }
            let reason = match self.try_start() {
                Some(Ok(())) => return Begun::Running,
                Some(Err(error)) => error.to_string(),
                None => match self.make_plan().await {
                    Ok(()) => continue,
                    Err(reason) => reason,
                },
            };
            self.wait(&reason).await;
        }
    }

    /// Raises the record's epoch before any message to a node. False: the alert has ended.
    async fn take_over(&mut self) -> bool {
        loop {
            match events::take_over(&*self.shared.store, &self.record.name).await {
                Ok(Some(record)) => {
                    let (alert, epoch) = (&record.name, record.epoch.0);
                    tracing::info!(%alert, epoch, state = ?record.state, "alert taken over");
                    self.handle.taken_over(record.epoch);
                    if record.state == State::Cancelling {
                        self.handle.cancel_waiting();
                    }
                    self.record = record;
                    return true;
                }
                Ok(None) => return false,
                Err(StoreError::Conflict(_)) => {}
                Err(error) => self.wait(&error.to_string()).await,
            }
        }
    }

    /// Computes the bands, which only the process that created the alert has already.
    async fn make_plan(&mut self) -> Result<(), String> {
        let send: Arc<SendPlan> = self.record.plan.clone().ok_or("the record has no plan")?;
        // A region of 100,000 points takes a tenth of a second to check.
        let (record, plan) = (Arc::clone(&self.record), Arc::clone(&send));
        let target = offload(move || plan::target(&record, &plan)).await;
        let target = target.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let target = self.shared.admission.target(target, false, &mut Admitted::recorded()).await;
        let (target, _) = target.map_err(|e| e.to_string())?;
        self.planned = Some(plan::planned(&self.record, &send, target.bands));
        Ok(())
    }

    /// Logs the reason that the alert cannot start and waits until a start may succeed.
    async fn wait(&mut self, reason: &str) {
        let now = self.shared.clock.now().since(Time(0));
        if let Some(times) = self.waiting.note(reason, now) {
            tracing::warn!(alert = %self.record.name, reason, times, "alert waits to start");
        }
        tokio::select! {
            biased;
            () = self.handle.wake.notified() => {}
            _ = self.changes.changed() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }

    /// Ends an alert that dispatch never ran.
    fn publish_end(&self, state: State) {
        *self.handle.stage() = Stage::Waiting { cancelled: true };
        let (ended, name) = (Some(self.shared.clock.wall()), self.record.name.clone());
        let snapshot =
            Snapshot { version: 1, settled: true, ended, ..Snapshot::empty(name, state) };
        self.handle.snapshots.send_replace(Arc::new(snapshot));
    }

    /// Follows the progress until it no longer changes; records the end as soon as it is known.
    /// Once another coordinator has taken the alert over, this process forgets the alert: its
    /// watchers find the channel closed and go to the other coordinator.
    async fn follow(mut self) {
        let superseded = self.handle.superseded.clone();
        let (handle, shared) = (Arc::clone(&self.handle), Arc::clone(&self.shared));
        let name = self.record.name.clone();
        let ended = tokio::select! {
            biased;
            () = superseded.cancelled() => false,
            () = self.record_end() => !superseded.is_cancelled(),
        };
        handle.over.send_replace(true);
        match ended {
            true => shared.ended(&name),
            false => {
                tracing::info!(alert = %name, "alert left to another coordinator");
                shared.forget(&name);
            }
        }
    }

    async fn record_end(&mut self) {
        let mut newest = self.handle.snapshots.subscribe();
        let mut recorded = false;
        loop {
            let snapshot = Arc::clone(&newest.borrow_and_update());
            if snapshot.state.is_final() && !recorded {
                let at = snapshot.ended.unwrap_or_else(|| self.shared.clock.wall());
                recorded = self.recorded(Event::End(snapshot.state), at).await;
                if !recorded {
                    break;
                }
                self.shared.dispatch.recorded(&self.record.name).await;
                // The last reports of a resolved alert arrive at once; responses to requests that a
                // cancel or the expiry cut off may take as long as the request deadline.
                if snapshot.state != State::Resolved {
                    self.handle.over.send_replace(true);
                }
            }
            if snapshot.settled {
                let settle = Event::Settle(Arc::clone(&snapshot));
                self.recorded(settle, self.shared.clock.wall()).await;
                let (alert, handed) = (&self.record.name, snapshot.totals.handed);
                tracing::info!(%alert, state = ?snapshot.state, handed, "alert has ended");
                break;
            }
            if newest.changed().await.is_err() {
                break; // unreachable: the handle owns the sender
            }
        }
    }

    /// Records an event, with retries while the store is down; false if the store refuses it.
    async fn recorded(&mut self, event: Event, at: UnixMillis) -> bool {
        let (name, epoch) = (&self.record.name, Some(self.record.epoch));
        let mut away = Repeated::default();
        loop {
            match events::apply(&*self.shared.store, name, event.clone(), at, epoch).await {
                Ok(_) => return true,
                Err(error) if error.may_pass() => {
                    let (reason, now) = (error.to_string(), self.shared.clock.now().since(Time(0)));
                    if let Some(times) = away.note(&reason, now) {
                        tracing::warn!(
                            alert = %name,
                            reason,
                            times,
                            "recording alert end failed; retrying"
                        );
                    }
                }
                Err(StoreError::Superseded { .. }) => {
                    self.handle.superseded.cancel();
                    return false;
                }
                Err(error) => {
                    tracing::error!(alert = %name, %error, "recording alert end refused");
                    return false;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
