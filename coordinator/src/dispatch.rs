//! Carries planned alerts out: one task for an alert, one session for a node.
//!
//! The parts, in the order of an alert's way: [`Dispatch::start`] puts the wave on the **board**
//! ([`crate::standing`]), from where every session takes what its node has to know; what nodes
//! report comes back through their sessions to the alert's **task** ([`alert`]), whose state
//! machine ([`crate::alert::run`]) decides when all are complete, when its time is over and when a
//! cancel is confirmed. Nothing here waits for a node: a node that is away finds on the board what
//! it has missed.
//!
//! Queues and their bounds: notes of all sessions to one alert 256, reports with tokens to be
//! pruned 256, messages to one node 64 + 4,096. Whoever finds the first two full waits, so that the
//! node's stream is read more slowly; a node that lets the last fill up loses its session.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use clarion_proto::ids::{AlertName, ClusterName, CoordinatorId, LaneId, LogIdentity};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    alert::run::Run,
    clock::Clock,
    lane::{Gateway, LaneKey},
    lane_owner::{
        Credential, CredentialStatus, LaneError, LaneOwner, ReplaceError,
        feedback::{self, Pruning},
        health::LaneStatus,
    },
    members::{NodeStatus, Roster, registry::RegistryTotals},
    owners::{NodeName, Owned},
    planned::{CountPlan, CountedDevices, PlannedAlert},
    session::Identity,
    snapshot::{Snapshot, State},
    standing::{Phase, StandingWave},
    store::{ChangeLog, ClusterStore},
};
use alert::AlertTask;
use cluster::{Cluster, Input};

mod alert;
mod cluster;
mod count;
mod node;
mod nodes;

pub use count::QUESTIONS_MAX;
pub use node::{Connect, Tcp, endpoint};
pub use nodes::NodesConfig;

/// Notes to one alert's task: 20 nodes × 50 reports a second are a thousand a second; a quarter of
/// that is queued.
const INPUTS: usize = 256;
/// Two seconds to wait for nodes (`alert::CANCEL_WAIT`), and half a second for the task to take the
/// wish.
const CANCEL_DEADLINE: Duration = Duration::from_millis(2_500);
/// For all tasks to end; each is dropped at its next wait.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// An alert cannot start now. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No shard node is there. Trying again helps once one is.
    #[error("no shard node is connected ({configured} configured)")]
    NoNodes {
        /// Number of addresses that are known.
        configured: usize,
    },
    /// The alert names a lane that cannot exist. Trying again does not help.
    #[error(transparent)]
    Lane(#[from] LaneError),
    /// The alert's positions are those of another log. Trying again does not help in this process.
    #[error("the alert was recorded over log {recorded}, this coordinator serves log {serves}")]
    OtherLog {
        /// Log of the record.
        recorded: LogIdentity,
        /// Log of this process.
        serves: LogIdentity,
    },
    /// It runs already. The caller's mistake.
    #[error("{0} has been started before")]
    Twice(AlertName),
}

/// An alert to be carried out, and where its progress goes.
#[derive(Debug, Clone)]
pub struct Start {
    /// Everything that nodes need.
    pub plan: Arc<PlannedAlert>,
    /// Whether the run begins cancelled: nodes are told to stop, and nothing is offered.
    pub cancelled: bool,
    /// Snapshots of the progress, with growing versions, until one that is settled.
    pub snapshots: watch::Sender<Arc<Snapshot>>,
}

/// A question could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// No shard node is there.
    #[error("no shard node is connected ({configured} configured)")]
    NoNodes {
        /// Number of addresses that are known.
        configured: usize,
    },
    /// These own partitions and are not connected: a count without them would be wrong.
    #[error("not connected: {}", nodes.join(", "))]
    Absent {
        /// Names of the nodes that are not connected.
        nodes: Vec<String>,
    },
    /// No answer in time.
    #[error("not all nodes answered within {seconds} s")]
    Deadline {
        /// Seconds that were waited.
        seconds: u64,
    },
    /// A node cannot take the question.
    #[error("node {node} cannot count it: {reason}")]
    Refused {
        /// Name of the node.
        node: String,
        /// In its words, or how its session broke each time that it was asked.
        reason: String,
        /// Trying again helps, later.
        again: bool,
    },
    /// Too many questions at once.
    #[error("{limit} counts are under way")]
    Busy {
        /// Largest number of counts at a time.
        limit: usize,
    },
}

/// What [`Dispatch::cancel`] achieved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CancelState {
    /// Not known here: never started, or ended.
    Unknown,
    /// `Cancelled`: all nodes confirmed. `Cancelling`: some did not. Otherwise it had ended before.
    At {
        /// Where it stands now.
        state: State,
        /// Nodes that have not confirmed; they stop when their grant has run out.
        unconfirmed: Vec<String>,
    },
}

/// What carries alerts out, as the API needs it: [`Dispatcher`] in the process, scripted in tests
/// of the API.
#[async_trait]
pub trait Dispatch: fmt::Debug + Send + Sync + 'static {
    /// Makes the lane exist at every node before the first alert needs it (connections warm up):
    /// when an app is created. Known already: nothing happens.
    ///
    /// # Errors
    /// See [`LaneError`].
    fn ensure_lane(&self, key: &LaneKey) -> Result<(), LaneError>;

    /// Checks whether an alert on these lanes would reach anybody now: before it is recorded.
    ///
    /// # Errors
    /// No node that owns partitions is connected, or a lane cannot exist.
    fn check_start(&self, lanes: &[&LaneKey]) -> Result<(), StartError>;

    /// Makes a recorded alert run, as soon as partitions are assigned; nodes may be away.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing was sent.
    fn start(&self, start: Start) -> Result<(), StartError>;

    /// Changes whenever a start that failed may succeed.
    fn changes(&self) -> watch::Receiver<u64>;

    /// The store has the end of an alert: nodes may forget it.
    async fn recorded(&self, alert: &AlertName);

    /// Stops an alert; comes back when every reachable node has confirmed, after two seconds at
    /// most.
    async fn cancel(&self, alert: &AlertName) -> CancelState;

    /// Counts who would be reached.
    ///
    /// # Errors
    /// See [`CountError`].
    async fn count(&self, plan: CountPlan) -> Result<CountedDevices, CountError>;

    /// Whether an alert would reach `least` devices. Answered as soon as that is certain: nodes
    /// that are away or slow only matter if the others have too few.
    ///
    /// # Errors
    /// See [`CountError`].
    async fn reaches(&self, plan: CountPlan, least: u64) -> Result<bool, CountError>;

    /// What all nodes hold.
    fn registry(&self) -> RegistryTotals;

    /// Whether a node of that name has a session with this coordinator now.
    fn has_session(&self, node: &str) -> bool;
}

/// What dispatch is configured by.
#[derive(Debug, Clone)]
pub struct DispatchConfig {
    /// Name of the cluster: nodes of another one refuse sessions.
    pub cluster: ClusterName,
    /// Where the nodes are.
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

/// Handle to all that runs alerts. Clones name the same.
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
    /// Starts the tasks: sessions to all nodes, the lanes' owner, feedback. To be called within a
    /// tokio runtime.
    #[must_use]
    pub fn spawn<S>(config: DispatchConfig, store: Arc<S>, clock: Clock) -> Self
    where
        S: ChangeLog + ClusterStore,
    {
        Self::spawn_over(config, store, clock, Arc::new(Tcp))
    }

    /// The same over other connections than TCP.
    #[must_use]
    pub fn spawn_over<S>(
        config: DispatchConfig,
        store: Arc<S>,
        clock: Clock,
        connect: Arc<dyn Connect>,
    ) -> Self
    where
        S: ChangeLog + ClusterStore,
    {
        let log: Arc<dyn ChangeLog> = Arc::clone(&store) as _;
        let DispatchConfig { cluster, nodes, partitions, logs, gateways, credentials } = config;
        let coordinator = CoordinatorId(uuid::Uuid::new_v4().into_bytes());
        let identity = Identity { cluster, coordinator, log: log.identity() };
        tracing::info!(
            cluster = %identity.cluster,
            %coordinator,
            log = %identity.log,
            "coordinator identity drawn"
        );
        let (pruning, pruned) = Pruning::new();
        let pruning = Arc::new(pruning);
        let (roster, lanes) = (Roster::new(nodes.min), LaneOwner::new(gateways, credentials));
        let cluster = Arc::new(Cluster::new(identity, clock, roster, lanes, pruning.clone()));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let until = |task: Pin<Box<dyn Future<Output = ()> + Send>>| {
            let stop = stop.clone();
            tasks.spawn(async move {
                let _ = stop.run_until_cancelled(task).await;
            });
        };
        let shared = cluster.clone();
        until(Box::pin(async move {
            shared.roster.share_out(&shared.board, (partitions, logs), &*store, clock).await;
        }));
        let shared = cluster.clone();
        until(Box::pin(async move { shared.lanes.keep_fresh(&shared.board, clock).await }));
        until(Box::pin(feedback::run(pruning, pruned, log, partitions, logs, clock)));
        // Ends its own tasks in order.
        tasks.spawn(nodes::keep_sessions(nodes, cluster.clone(), connect, stop.clone()));
        let inner = Inner { cluster, questions: AtomicU64::new(1), tasks, stop };
        Self { inner: Arc::new(inner) }
    }

    /// Ends all tasks, within two seconds. Nodes stop sending when their grants have run out.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        if tokio::time::timeout(SHUTDOWN, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.inner.tasks.len(), "tasks did not end in time");
        }
    }

    /// Credentials as their files tell now; they replace those that the lanes have.
    ///
    /// # Errors
    /// They cannot take the place of those that there are; nothing has changed then.
    pub fn replace_credentials(&self, credentials: Vec<Credential>) -> Result<(), ReplaceError> {
        self.inner.cluster.lanes.replace(credentials)
    }

    fn run(&self, start: Start, lanes: Vec<LaneId>, owned: &Owned) -> Result<(), StartError> {
        let Start { plan: alert, cancelled, snapshots } = start;
        let cluster = self.inner.cluster.clone();
        let (inputs, received) = mpsc::channel(INPUTS);
        let (nodes, begun) = (owned.nodes().keys().cloned(), cluster.clock.moment());
        let mut run = Run::new(&alert, nodes, cluster.lanes.request_deadline_max(), begun);
        if !cluster.enter(&alert.name, alert.wave, inputs) {
            return Err(StartError::Twice(alert.name.clone()));
        }
        // From here on every session that ends is heard of; who has no session now is away.
        let away = owned.nodes().keys().filter(|node| !cluster.roster.is_connected(node));
        away.for_each(|node| run.away(node));
        match cancelled {
            true => run.cancel(begun.at),
            false => run.step(begun.at),
        }
        snapshots.send_replace(Arc::new(run.snapshot()));
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
        // A run that has ended by now has nothing for nodes: its task says so at once.
        let phase = run.standing().unwrap_or(Phase::Closed);
        let (plan, expires) = (Arc::clone(&alert), run.expires());
        cluster.board.begin(StandingWave { plan, lanes, expires, phase }, begun.at);
        let task = AlertTask {
            alert: alert.name.clone(),
            wave: alert.wave,
            run,
            lanes: specs,
            apps,
            cluster,
            inputs: received,
            snapshots,
        };
        let stop = self.inner.stop.clone();
        self.inner.tasks.spawn(async move {
            // Stopped in the middle: the process ends.
            let _ = stop.run_until_cancelled(task.run()).await;
        });
        Ok(())
    }

    /// All nodes ever heard of, and which are alive.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let cluster = &self.inner.cluster;
        cluster.roster.status(cluster.board.read().owned.as_deref())
    }

    /// Whether an alert can be sent to anybody: partitions are assigned, and an owner of some has a
    /// session.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.owned().is_some()
    }

    /// Changes whenever [`Dispatcher::is_ready`] may have changed.
    #[must_use]
    pub fn sessions(&self) -> watch::Receiver<u64> {
        self.inner.cluster.roster.sessions()
    }

    /// How nodes' ends of all lanes are.
    #[must_use]
    pub fn lanes(&self) -> Vec<LaneStatus> {
        self.inner.cluster.lanes.status()
    }

    /// How the credentials of all lanes are.
    #[must_use]
    pub fn credentials(&self) -> Vec<CredentialStatus> {
        self.inner.cluster.lanes.credentials()
    }

    /// The lanes of these names, made if they were not there.
    fn ensure_lanes<'a>(
        &self,
        lanes: impl Iterator<Item = &'a LaneKey>,
    ) -> Result<Vec<LaneId>, LaneError> {
        let cluster = &self.inner.cluster;
        let ensure = |key| cluster.lanes.ensure(key, &cluster.board, &cluster.clock);
        lanes.map(|key| Ok(ensure(key)?.id)).collect()
    }

    fn no_nodes(&self) -> StartError {
        StartError::NoNodes { configured: self.inner.cluster.roster.addresses() }
    }

    /// Ownership, if it is made and any owner is connected.
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
            // Fails only if the alert has settled by itself.
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
        // It ended in this moment, or its task is far behind: what is known is the newest snapshot.
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
