//! Carries planned alerts out: one task for an alert, one session for a node.

use std::sync::Arc;

use bytes::Bytes;
use clarion_proto::{
    ids::{AlertName, AppName, Epoch, WaveId},
    time::Time,
    wire::shard_v1 as wire,
};
use tokio::sync::watch;

use crate::{
    clock::Clock,
    lane_owner::{Credential, Gateway},
    members::NodesConfig,
    plan::Band,
    progress::{RegistryTotals, Snapshot, State},
};

/// One alert, decoded, admitted, planned and recorded: all that nodes need to carry it out.
#[derive(Debug)]
pub struct PlannedAlert {
    /// Its name.
    pub name: AlertName,
    /// Its one wave.
    pub wave: WaveId,
    /// Obeyed by nodes if it is the highest they saw for this alert.
    pub epoch: Epoch,
    /// Nearest first; together the cover.
    pub bands: Vec<Band>,
    /// What is said, per app.
    pub apps: Vec<AppPlan>,
    /// Who: an expression over segments in prefix form; empty: everybody.
    pub segments: Vec<wire::SegmentOp>,
    /// When it was recorded, on [`crate::clock::Clock`].
    pub created: Time,
    /// Nothing is sent later, on [`crate::clock::Clock`].
    pub expires: Time,
    /// Over all nodes; 0: no limit.
    pub max_rate_per_second: u32,
}

/// What is said to one app's devices, and through which lane.
#[derive(Debug, Clone)]
pub struct AppPlan {
    /// Whose devices.
    pub app: AppName,
    /// Through which lane.
    pub lane: LaneKey,
    /// `apns-topic`.
    pub topic: String,
    /// `apns-push-type`.
    pub push_type: String,
    /// `apns-priority`: 10 or 5.
    pub priority: u32,
    /// `apns-expiration`, Unix seconds.
    pub expiration: u64,
    /// `apns-collapse-id`, at most 64 bytes.
    pub collapse_id: String,
    /// Locale (lower case) and complete body; the first is the fallback.
    pub messages: Vec<(String, Bytes)>,
}

/// Names a lane: one credential on one gateway, both as configured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneKey {
    /// Of `[[gateways]]`.
    pub gateway: String,
    /// Of `[[credentials]]`.
    pub credential: String,
}

/// Who would a wave reach? Nothing is sent.
#[derive(Debug)]
pub struct CountPlan {
    /// Nearest first.
    pub bands: Vec<Band>,
    /// Counted one by one.
    pub apps: Vec<AppName>,
    /// As in [`PlannedAlert`].
    pub segments: Vec<wire::SegmentOp>,
}

/// The answer: for each app of the plan, in its order, the devices of each band.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Outer: apps; inner: bands.
    pub devices: Vec<Vec<u64>>,
}

/// An alert cannot start now. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No shard node is there. Trying again helps once one is.
    #[error("no shard node is connected ({configured} configured)")]
    NoNodes {
        /// Addresses known.
        configured: usize,
    },
    /// The alert names a lane that the configuration lacks, or whose credential makes no token. Trying again does not help.
    #[error("lane {gateway}/{credential}: {problem}")]
    Lane {
        /// As in [`LaneKey`].
        gateway: String,
        /// As in [`LaneKey`].
        credential: String,
        /// For people.
        problem: String,
    },
    /// It runs already. The caller's mistake.
    #[error("{0} has been started before")]
    Twice(AlertName),
}

/// A question could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// No shard node is there.
    #[error("no shard node is connected ({configured} configured)")]
    NoNodes {
        /// Addresses known.
        configured: usize,
    },
    /// These own partitions and are not connected: a count without them would be wrong.
    #[error("not connected: {}", nodes.join(", "))]
    Absent {
        /// Their names.
        nodes: Vec<String>,
    },
    /// No answer in time.
    #[error("not all nodes answered within {seconds} s")]
    Deadline {
        /// The limit.
        seconds: u64,
    },
    /// Too many questions at once.
    #[error("{limit} counts are under way")]
    Busy {
        /// The limit.
        limit: usize,
    },
}

/// What [`Dispatcher::cancel`] achieved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CancelState {
    /// Not known here: never started, or ended long ago.
    Unknown,
    /// `Cancelled`: all nodes confirmed. `Cancelling`: some did not. Otherwise it had ended before.
    At {
        /// Where it stands now.
        state: State,
        /// Nodes that have not confirmed; they stop when their grant has run out.
        unconfirmed: Vec<String>,
    },
}

/// What dispatch needs to know of the configuration.
#[derive(Debug, Clone)]
pub struct DispatchConfig {
    /// Where the nodes are.
    pub nodes: NodesConfig,
    /// P.
    pub partitions: u16,
    /// L.
    pub logs: u16,
    /// As configured.
    pub gateways: Vec<Gateway>,
    /// As configured.
    pub credentials: Vec<Credential>,
}

/// Handle to all that runs alerts. Clones name the same.
#[derive(Debug, Clone)]
pub struct Dispatcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {}

impl Dispatcher {
    /// Starts the tasks: sessions to all nodes, the lanes' owner. To be called within a tokio runtime.
    // `log: Arc<dyn ChangeLog>` becomes a parameter when the store has landed.
    #[must_use]
    pub fn spawn(_config: DispatchConfig, _clock: Clock) -> Self {
        Self { inner: Arc::new(Inner {}) }
    }

    /// Ends all tasks, within two seconds. Nodes stop sending when their grants have run out.
    pub async fn shutdown(&self) {}

    /// Makes the lane exist at every node before the first alert needs it (connections warm up): when an app is
    /// created. Known already: nothing happens.
    ///
    /// # Errors
    /// [`StartError::Lane`].
    pub fn ensure_lane(&self, _key: &LaneKey) -> Result<(), StartError> {
        Ok(())
    }

    /// Makes a recorded alert run.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(&self, _alert: Arc<PlannedAlert>) -> Result<(), StartError> {
        let _ = &self.inner;
        Err(StartError::NoNodes { configured: 0 })
    }

    /// Stops an alert; comes back when every reachable node has confirmed, after two seconds at most.
    pub async fn cancel(&self, _alert: &AlertName) -> CancelState {
        CancelState::Unknown
    }

    /// Counts who would be reached.
    ///
    /// # Errors
    /// See [`CountError`].
    pub async fn count(&self, _plan: CountPlan) -> Result<Counts, CountError> {
        Err(CountError::NoNodes { configured: 0 })
    }

    /// The newest state of an alert; `None` if it was never started here or ended long ago.
    #[must_use]
    pub fn watch(&self, _alert: &AlertName) -> Option<watch::Receiver<Arc<Snapshot>>> {
        None
    }

    /// What all nodes hold.
    #[must_use]
    pub fn registry(&self) -> RegistryTotals {
        RegistryTotals::default()
    }
}
