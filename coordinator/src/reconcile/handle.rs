//! How an alert is reached from the moment it is handed over: its newest snapshot, and the wish to
//! cancel it, also while its task still waits for nodes or lanes.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};

use crate::{
    snapshot::{Snapshot, State},
    store::AlertRecord,
};

/// One alert of this process.
#[derive(Debug)]
pub(super) struct Handle {
    /// Newest state, from dispatch once the run has begun.
    pub(super) snapshots: watch::Sender<Arc<Snapshot>>,
    /// Whether a stop of the process need not wait for the alert any more.
    pub(super) over: watch::Sender<bool>,
    /// Wakes the task that waits to start.
    pub(super) wake: Notify,
    stage: Mutex<Stage>,
}

/// How far the task of an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing was sent by this process.
    Waiting {
        /// Whether somebody wants it stopped.
        cancelled: bool,
    },
    /// Dispatch carries it out.
    Started,
}

impl Handle {
    /// Handle of an active alert whose run has not begun.
    pub(super) fn new(alert: &AlertRecord) -> Self {
        let snapshot = Snapshot::empty(alert.name.clone(), alert.state);
        Self {
            snapshots: watch::Sender::new(Arc::new(snapshot)),
            over: watch::Sender::new(false),
            wake: Notify::new(),
            stage: Mutex::new(Stage::Waiting { cancelled: alert.state == State::Cancelling }),
        }
    }

    /// The stage, held: no cancel comes between a look at it and what follows.
    pub(super) fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock()
    }

    /// Notes the wish to cancel. False: dispatch has the alert and must be told.
    pub(super) fn cancel_waiting(&self) -> bool {
        match &mut *self.stage.lock() {
            Stage::Started => false,
            Stage::Waiting { cancelled } => {
                *cancelled = true;
                self.snapshots.send_if_modified(|snapshot| {
                    let active = snapshot.state == State::Active;
                    if active {
                        Arc::make_mut(snapshot).state = State::Cancelling;
                    }
                    active
                });
                self.wake.notify_one();
                true
            }
        }
    }

    /// Newest state of the alert.
    pub(super) fn state(&self) -> State {
        self.snapshots.borrow().state
    }
}
