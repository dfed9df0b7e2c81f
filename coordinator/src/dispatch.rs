//! Dispatch runs planned alerts: one task for each alert, one session for each node.
//!
//! The path of an alert: [`Dispatch::start`] puts the wave on the **board**
//! ([`crate::standing`]). Every session reads from the board the waves that its node needs.
//! The sessions pass the nodes' reports to the alert's **task** ([`alert`]). The task's state
//! machine ([`crate::alert::director`]) decides when all nodes are complete, when the alert has
//! expired and when a cancel is confirmed. No task waits for a node: a node that reconnects reads from the
//! board the waves that it has missed.
//!
//! Queues and their bounds: notes of all sessions to one alert 256, reports with tokens to be
//! pruned 256, messages to one node 64 + 4,096. A session that finds one of the first two queues
//! full waits, so that the node's stream is read more slowly; a node whose message queue fills up
//! loses its session.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use clarion_proto::ids::{AlertName, ClusterName, CoordinatorId, LaneId, LogIdentity};
use clarion_runtime::world::World;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    alert::director::Director,
    lane::{Gateway, LaneKey},
    lane_owner::{
        Credential, CredentialStatus, LaneError, LaneOwner, ReplaceError, health::LaneStatus,
    },
    members::{NodeStatus, Roster, registry::RegistryTotals},
    owners::{NodeName, Owned},
    planned::{CountPlan, CountedDevices, PlannedAlert},
    session::Identity,
    snapshot::{Snapshot, State},
    standing::{Change, StandingWave},
    store::{ChangeLog, Store},
};
use alert::AlertTask;
use cluster::{Cluster, Input};
use pruning::Pruning;

mod alert;
pub(crate) mod board;
mod cluster;
mod count;
mod direction;
pub(crate) mod expiry;
pub(crate) mod lanes;
mod members;
mod node;
mod nodes;
mod pruning;

pub use count::{CountError, QUESTIONS_MAX};
pub use expiry::{ExpiryConfig, NewestObservation};
pub use nodes::NodesConfig;

/// Queue of notes to one alert's task: 20 nodes × 50 reports a second are a thousand a second; the
/// queue holds a quarter of a second.
const INPUTS: usize = 256;
/// Deadline of a cancel: two seconds to wait for nodes (`director::CANCEL_WAIT`), and half a second
/// for the alert's task to receive the cancel.
const CANCEL_DEADLINE: Duration = Duration::from_millis(2_500);
/// Time for all tasks to end at shutdown; each task is dropped at its next wait.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// Why an alert cannot start now. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No shard node is connected. A retry succeeds once a node is connected.
    #[error("no shard node is connected ({configured} configured)")]
    NoNodes {
        /// Number of addresses that are known.
        configured: usize,
    },
    /// The alert names a lane that cannot exist. A retry does not help.
    #[error(transparent)]
    Lane(#[from] LaneError),
    /// The alert's positions belong to another log. A retry does not help in this process.
    #[error("the alert was recorded over log {recorded}, this coordinator serves log {serves}")]
    OtherLog {
        /// Log that the record names.
        recorded: LogIdentity,
        /// Log that this process serves.
        serves: LogIdentity,
    },
    /// The alert runs already: a mistake of the caller.
    #[error("{0} has been started before")]
    Twice(AlertName),
}

/// An alert to be run, and the channel of its progress.
#[derive(Debug, Clone)]
pub struct Start {
    /// The plan: everything that nodes need to send the alert.
    pub plan: Arc<PlannedAlert>,
    /// Whether the run begins cancelled: nodes get a stop, and no wave is offered.
    pub cancelled: bool,
    /// Channel of progress snapshots, with growing versions, up to a settled snapshot.
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    /// Cancelled when another coordinator has taken the alert over, by whoever learns it first: the
    /// run ends without an end of the alert.
    pub superseded: CancellationToken,
}

/// Result of [`Dispatch::cancel`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CancelState {
    /// The alert does not run in this process: never started, or ended.
    Unknown,
    /// Another coordinator has taken the alert over.
    Superseded,
    /// `Cancelled`: all nodes confirmed. `Cancelling`: some nodes did not confirm. Otherwise the
    /// alert had ended before.
    At {
        /// The alert's present state.
        state: State,
        /// Nodes that have not confirmed; each stops when its grant has run out.
        unconfirmed: Vec<String>,
    },
}

/// The dispatch interface that the API uses: [`Dispatcher`] in the process, a scripted
/// implementation in tests of the API.
#[async_trait]
pub trait Dispatch: fmt::Debug + Send + Sync + 'static {
    /// Creates the lane at every node when an app is created, so that connections warm up before
    /// the first alert. A lane that exists stays as it is.
    ///
    /// # Errors
    /// See [`LaneError`].
    fn ensure_lane(&self, key: &LaneKey) -> Result<(), LaneError>;

    /// Checks before an alert is recorded whether an alert on these lanes can reach a device now.
    ///
    /// # Errors
    /// [`StartError`]: no node that owns partitions is connected, or a lane cannot exist.
    fn check_start(&self, lanes: &[&LaneKey]) -> Result<(), StartError>;

    /// Runs a recorded alert once partitions are assigned; nodes may be disconnected.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing was sent.
    fn start(&self, start: Start) -> Result<(), StartError>;

    /// Channel that changes whenever a failed start may succeed.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Reports that the store holds the end of an alert: nodes may forget the alert.
    async fn recorded(&self, alert: &AlertName);

    /// Stops an alert; returns when every reachable node has confirmed, after at most two
    /// seconds.
    async fn cancel(&self, alert: &AlertName) -> CancelState;

    /// Counts the devices that an alert would reach.
    ///
    /// # Errors
    /// See [`CountError`].
    async fn count(&self, plan: CountPlan) -> Result<CountedDevices, CountError>;

    /// Whether an alert would reach `least` devices. Returns as soon as the answer is certain:
    /// disconnected or slow nodes only matter if the remaining nodes count less than `least`.
    ///
    /// # Errors
    /// See [`CountError`].
    async fn reaches(&self, plan: CountPlan, least: u64) -> Result<bool, CountError>;

    /// Totals over the registries of all nodes.
    fn registry(&self) -> RegistryTotals;

    /// Whether a node of that name has a session with this coordinator now.
    fn has_session(&self, node: &str) -> bool;
}

/// Configuration of dispatch.
#[derive(Debug, Clone)]
pub struct DispatchConfig {
    /// Name of the cluster: nodes of another cluster refuse sessions.
    pub cluster: ClusterName,
    /// Addresses of the nodes and limits of their sessions.
    pub nodes: NodesConfig,
    /// Number of partitions, P.
    pub partitions: u16,
    /// Number of logs, L.
    pub logs: u16,
    /// All gateways of the configuration.
    pub gateways: Vec<Gateway>,
    /// All credentials of the configuration.
    pub credentials: Vec<Credential>,
}

/// Handle to the tasks that run alerts. Clones share the same tasks.
#[derive(Debug, Clone)]
pub struct Dispatcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cluster: Arc<Cluster>,
    questions: AtomicU64,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Dispatcher {
    /// Starts the tasks: sessions to all nodes, the lanes' owner, feedback. Must be called within a
    /// tokio runtime.
    #[must_use]
    pub fn spawn(config: DispatchConfig, store: Arc<dyn Store>, world: World) -> Self {
        let clock = world.clock();
        let log: Arc<dyn ChangeLog> = Arc::clone(&store) as _;
        let DispatchConfig { cluster, nodes, partitions, logs, gateways, credentials } = config;
        let coordinator = CoordinatorId(world.id());
        let lanes_epoch = OnceLock::new();
        let identity = Identity { cluster, coordinator, log: log.identity(), lanes_epoch };
        tracing::info!(
            cluster = %identity.cluster,
            %coordinator,
            log = %identity.log,
            "coordinator identity drawn"
        );
        let (pruning, pruned) = Pruning::new();
        let pruning = Arc::new(pruning);
        let roster = Roster::new(nodes.min, partitions, logs);
        let lanes = LaneOwner::new(gateways, credentials);
        let cluster = Arc::new(Cluster::new(identity, clock, roster, lanes, pruning.clone()));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let until = |task: Pin<Box<dyn Future<Output = ()> + Send>>| {
            let stop = stop.clone();
            tasks.spawn(async move {
                let _ = stop.run_until_cancelled(task).await;
            });
        };
        let (shared, of_cluster) = (cluster.clone(), store.clone());
        until(Box::pin(async move {
            shared.roster.assign(&shared.board, &*of_cluster, clock).await;
        }));
        let (shared, of_lanes, records) = (cluster.clone(), world.clone(), store.clone());
        until(Box::pin(async move { shared.lanes.keep_fresh(&of_lanes, &*records).await }));
        until(Box::pin(pruning::run(pruning, pruned, log, partitions, logs, clock)));
        // Not dropped by `until`: the task shuts down its own session tasks gracefully.
        let (shared, stopped) = (cluster.clone(), stop.clone());
        tasks.spawn(async move {
            let direct = direction::direct_lanes(&*store, coordinator, clock);
            let Some(epoch) = stopped.run_until_cancelled(direct).await else { return };
            shared.identity.lanes_epoch.get_or_init(|| epoch);
            nodes::keep_sessions(nodes, shared, world, stopped).await;
        });
        let inner = Inner { cluster, questions: AtomicU64::new(1), tasks, stop };
        Self { inner: Arc::new(inner) }
    }

    /// Ends all tasks, within two seconds. Nodes stop sending when their grants have run out.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        if tokio::time::timeout(SHUTDOWN, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.inner.tasks.len(), "dispatch tasks outlived the shutdown");
        }
    }

    /// Replaces the lanes' credentials by the credentials that were read from the files again.
    ///
    /// # Errors
    /// [`ReplaceError`]: the new credentials cannot replace the present ones. Nothing changes.
    pub fn replace_credentials(&self, credentials: Vec<Credential>) -> Result<(), ReplaceError> {
        let cluster = &self.inner.cluster;
        cluster.lanes.replace(credentials, cluster.clock.now())
    }

    fn run(&self, start: Start, lanes: Vec<LaneId>, owned: &Owned) -> Result<(), StartError> {
        let Start { plan: alert, cancelled, snapshots, superseded } = start;
        let cluster = self.inner.cluster.clone();
        let (inputs, received) = mpsc::channel(INPUTS);
        let (nodes, begun) = (owned.nodes().keys().cloned(), cluster.clock.moment());
        let deadline = cluster.lanes.request_deadline_max();
        let mut director = Director::new(&alert, nodes, deadline, begun);
        if !cluster.enter(&alert.name, alert.wave, inputs) {
            return Err(StartError::Twice(alert.name.clone()));
        }
        // From here on the alert gets a note for every session that ends; a node without a session
        // at this point is disconnected.
        let away = owned.nodes().keys().filter(|node| !cluster.roster.is_connected(node));
        let phase = director.begin(away, cancelled, begun.at);
        snapshots.send_replace(Arc::new(director.snapshot()));
        tracing::info!(
            alert = %alert.name,
            wave = alert.wave.0,
            epoch = alert.epoch.0,
            bands = alert.bands.len(),
            cancelled,
            "alert run begins"
        );
        let mut ids = lanes.clone();
        ids.sort_unstable();
        ids.dedup();
        let specs =
            ids.iter().filter_map(|id| cluster.board.read().lanes.get(id).cloned()).collect();
        let apps =
            alert.apps.iter().map(|app| app.app.clone()).zip(lanes.iter().copied()).collect();
        let (plan, expires) = (Arc::clone(&alert), director.expires());
        let wave = StandingWave { plan, lanes, expires, phase };
        cluster.board.apply(Change::Begin(wave), begun.at);
        let task = AlertTask {
            alert: alert.name.clone(),
            wave: alert.wave,
            director,
            lanes: specs,
            apps,
            cluster,
            inputs: received,
            snapshots,
            superseded,
        };
        let stop = self.inner.stop.clone();
        self.inner.tasks.spawn(async move {
            // The task may be dropped in the middle of a run, because the process ends.
            let _ = stop.run_until_cancelled(task.run()).await;
        });
        Ok(())
    }

    /// Status of every node that this process has known, connected or not.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let cluster = &self.inner.cluster;
        cluster.roster.status(cluster.board.read().owned.as_deref())
    }

    /// Whether an alert can be sent: partitions are assigned, and at least one node that owns
    /// partitions has a session.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.owned().is_some()
    }

    /// Channel that changes whenever [`Dispatcher::is_ready`] may have changed.
    #[must_use]
    pub fn sessions(&self) -> watch::Receiver<u64> {
        self.inner.cluster.roster.sessions()
    }

    /// Status of all lanes, as the nodes report it.
    #[must_use]
    pub fn lanes(&self) -> Vec<LaneStatus> {
        self.inner.cluster.lanes.status()
    }

    /// Status of the credentials of all lanes.
    #[must_use]
    pub fn credentials(&self) -> Vec<CredentialStatus> {
        self.inner.cluster.lanes.credentials()
    }

    /// The ids of the lanes with these keys; missing lanes are created.
    fn ensure_lanes<'a>(
        &self,
        lanes: impl Iterator<Item = &'a LaneKey>,
    ) -> Result<Vec<LaneId>, LaneError> {
        let cluster = &self.inner.cluster;
        lanes.map(|key| Ok(cluster.lanes.ensure(key, &cluster.clock)?.id)).collect()
    }

    fn no_nodes(&self) -> StartError {
        StartError::NoNodes { configured: self.inner.cluster.roster.addresses() }
    }

    /// The ownership of partitions, if partitions are assigned and an owner is connected.
    fn owned(&self) -> Option<Arc<Owned>> {
        let cluster = &self.inner.cluster;
        let owned = cluster.board.read().owned.clone()?;
        let connected = owned.nodes().keys().any(|node| cluster.roster.is_connected(node));
        connected.then_some(owned)
    }
}

#[async_trait]
impl Dispatch for Dispatcher {
    fn ensure_lane(&self, key: &LaneKey) -> Result<(), LaneError> {
        self.ensure_lanes(std::iter::once(key)).map(drop)
    }

    fn check_start(&self, lanes: &[&LaneKey]) -> Result<(), StartError> {
        self.owned().ok_or_else(|| self.no_nodes())?;
        self.ensure_lanes(lanes.iter().copied())?;
        Ok(())
    }

    fn start(&self, start: Start) -> Result<(), StartError> {
        let cluster = &self.inner.cluster;
        let (recorded, serves) = (start.plan.log, cluster.identity.log);
        if recorded != serves {
            return Err(StartError::OtherLog { recorded, serves });
        }
        let owned = cluster.board.read().owned.clone().ok_or_else(|| self.no_nodes())?;
        let lanes = self.ensure_lanes(start.plan.apps.iter().map(|app| &app.lane))?;
        self.run(start, lanes, &owned)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.sessions()
    }

    async fn recorded(&self, alert: &AlertName) {
        if let Some(inputs) = self.inner.cluster.alert(alert) {
            // Fails only if the alert has settled in the meantime.
            let _ = inputs.send(Input::Recorded).await;
        }
    }

    async fn cancel(&self, alert: &AlertName) -> CancelState {
        let Some(inputs) = self.inner.cluster.alert(alert) else { return CancelState::Unknown };
        let (answer, answered) = oneshot::channel();
        let asked = async {
            inputs.send(Input::Cancel(answer)).await.ok()?;
            answered.await.ok()
        };
        // No answer: the alert has just ended, or its task is far behind; see the newest snapshot.
        let answered = tokio::time::timeout(CANCEL_DEADLINE, asked).await;
        answered.ok().flatten().unwrap_or(CancelState::Unknown)
    }

    async fn count(&self, plan: CountPlan) -> Result<CountedDevices, CountError> {
        let cluster = &self.inner.cluster;
        let owned = self
            .owned()
            .ok_or_else(|| CountError::NoNodes { configured: cluster.roster.addresses() })?;
        let id = self.inner.questions.fetch_add(1, Ordering::Relaxed);
        count::ask(id, plan, cluster, &owned).await
    }

    async fn reaches(&self, plan: CountPlan, least: u64) -> Result<bool, CountError> {
        let cluster = &self.inner.cluster;
        let owned = self
            .owned()
            .ok_or_else(|| CountError::NoNodes { configured: cluster.roster.addresses() })?;
        let id = self.inner.questions.fetch_add(1, Ordering::Relaxed);
        count::reaches(id, plan, least, cluster, &owned).await
    }

    fn registry(&self) -> RegistryTotals {
        let cluster = &self.inner.cluster;
        let totals = cluster.roster.totals(cluster.board.read().owned.as_deref());
        RegistryTotals { pruning_alarms: cluster.pruning_alarms(|_| true), ..totals }
    }

    fn has_session(&self, node: &str) -> bool {
        NodeName::new(node).is_ok_and(|name| self.inner.cluster.roster.is_connected(&name))
    }
}
