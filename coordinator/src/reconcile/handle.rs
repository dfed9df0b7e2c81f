//! The handle of an alert from its handover on: its newest snapshot, and its cancel, also while the
//! alert's task still waits for nodes or lanes.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use clarion_proto::ids::Epoch;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    snapshot::{Snapshot, State},
    store::AlertRecord,
};

/// One alert that this process runs.
#[derive(Debug)]
pub(super) struct Handle {
    /// Newest state of the alert; dispatch sets it once the run has begun.
    pub(super) snapshots: watch::Sender<Arc<Snapshot>>,
    /// Whether shutdown no longer needs to wait for the alert.
    pub(super) over: watch::Sender<bool>,
    /// Wakes the task that waits to start.
    pub(super) wake: Notify,
    /// Cancelled when another coordinator has taken the alert over.
    pub(super) superseded: CancellationToken,
    stage: Mutex<Stage>,
    /// Epoch under which this process runs the alert.
    epoch: AtomicU64,
}

/// Stage of an alert's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing was sent by this process.
    Waiting {
        /// Whether a caller has cancelled the alert.
        cancelled: bool,
    },
    /// Dispatch runs the alert.
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
            superseded: CancellationToken::new(),
            stage: Mutex::new(Stage::Waiting { cancelled: alert.state == State::Cancelling }),
            epoch: AtomicU64::new(alert.epoch.0),
        }
    }

    /// Locks the stage: no cancel can happen between reading the stage and acting on it.
    pub(super) fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock()
    }

    /// Records the cancel in the stage. False: dispatch runs the alert, and the caller must cancel
    /// it there.
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

    /// Epoch under which this process runs the alert, or finds it in the store before its takeover.
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Relaxed))
    }

    /// Sets the epoch after a takeover.
    pub(super) fn taken_over(&self, epoch: Epoch) {
        self.epoch.store(epoch.0, Ordering::Relaxed);
    }

    /// Newest state of the alert.
    pub(super) fn state(&self) -> State {
        self.snapshots.borrow().state
    }
}
