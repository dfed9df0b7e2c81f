//! The processes of a run: one coordinator, shard nodes, a gateway emulator for each platform.
//!
//! Each is this program, started again with a hidden subcommand, so that one build provides all of
//! them and each has its own memory and CPU time. The system chooses ports. Nodes and coordinator
//! need each other's address before either is up, so the ports by which they call each other are
//! claimed first.
//!
//! No process outlives a run: children are asked to end, then killed, and they end by themselves if
//! this program is killed.

pub mod accounting;
mod data;
pub mod emulator;
pub mod files;
pub mod network;
pub mod orders;
pub mod ports;
pub mod process;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use clarion_emulator::Platform;
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};

use crate::{
    keys::{self, KeyError, SigningKey},
    names,
    scenario::{FcmSpec, NodeAction, StoreKind},
};
use accounting::{MemoryLog, Watched};
use emulator::{Emulator, Served};
use network::NetworkPlan;
use orders::OrderError;
use ports::Port;
use process::{Announcement, Pipes, Process, ProcessError, Role, Spec};

/// Interval between two checks of the processes.
const WATCH_EVERY: Duration = Duration::from_millis(100);

/// Parts of a cluster, and the folder for its files.
#[derive(Debug, Clone)]
pub struct ClusterPlan {
    /// Path of this program, which also runs as the emulator.
    pub program: PathBuf,
    /// Folder for logs, keys and configurations.
    pub dir: PathBuf,
    /// Number of shard nodes.
    pub nodes: u32,
    /// Numbers of the nodes that a scenario starts later.
    pub nodes_later: Vec<u32>,
    /// Number of nodes, from the first, that the coordinator knows; `None`: all.
    pub nodes_told: Option<u32>,
    /// Store of each coordinator.
    pub store: StoreKind,
    /// Number of threads of each node that walk partitions and send pushes.
    pub cores_per_node: usize,
    /// Plan of the gateway emulators.
    pub gateway: emulator::GatewayPlan,
    /// Configuration of the FCM lane in the coordinator.
    pub fcm: FcmSpec,
    /// Time after which a request counts as unanswered, milliseconds; `None`: the coordinator's
    /// default.
    pub request_deadline_ms: Option<u32>,
    /// Whether lanes send `authorization` as a literal in each request.
    pub authorization_literal: bool,
    /// Time between two snapshots of a partition, seconds; `None`: the coordinator's default.
    pub snapshot_every_seconds: Option<u64>,
    /// Proxy of the cluster, and the source of Google's access tokens.
    pub network: NetworkPlan,
    /// Time limit for the start of each process.
    pub start_deadline: Duration,
}

/// Addresses of a cluster that another program started.
#[derive(Debug, Clone)]
pub struct Elsewhere {
    /// Address of the coordinator, `http://host:port`.
    pub coordinator: String,
    /// Control port of each emulator, host:port.
    pub gateways: BTreeMap<Platform, String>,
}

impl Elsewhere {
    /// Returns the address of the control port of a platform's emulator.
    ///
    /// # Errors
    /// If none is configured.
    pub fn control(&self, platform: Platform) -> Result<&str, ClusterError> {
        let control = self.gateways.get(&platform).map(String::as_str);
        control.ok_or(ClusterError::NoControl(platform.as_str()))
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Address of the coordinator, `http://host:port`.
    pub coordinator: String,
    /// Gateway emulators, to which orders are sent.
    pub emulators: Vec<Emulator>,
    /// Memory of all processes over time.
    pub memory: MemoryLog,
    processes: Vec<Process>,
    /// Nodes of the run; `None` for a cluster that another program started.
    nodes: Option<Nodes>,
}

/// Arguments for starting a node again.
#[derive(Debug)]
struct Nodes {
    plan: ClusterPlan,
    coordinator: Port,
    feed: Port,
    /// Port of a second coordinator.
    second: Port,
    served: Vec<Served>,
    key: SigningKey,
    /// Ports of each node, the same for all of its processes.
    ports: Vec<Port>,
    orders: mpsc::Receiver<NodeOrder>,
    to: mpsc::Sender<NodeOrder>,
}

/// Changes for a process that is started again; absent values stay as they were.
#[derive(Debug, Clone, Copy, Default)]
pub struct Started<'a> {
    /// Name of the cluster to which the process belongs.
    pub cluster: Option<&'a str>,
    /// Name of the node, if it changes.
    pub name: Option<&'a str>,
    /// Number of partitions of the coordinator, if it changes.
    pub partitions: Option<u16>,
    /// Number of nodes, from the first, that the coordinator knows.
    pub nodes: Option<u32>,
}

/// Order to kill or start a node of a running cluster, which [`Cluster::watch`] carries out.
#[derive(Debug)]
pub struct NodeOrder {
    /// Whether the node is killed or started.
    pub action: NodeAction,
    /// Number of the node, counted from 0.
    pub node: u32,
    /// Channel that signals the end of the action.
    pub done: oneshot::Sender<()>,
}

/// Reason why a cluster could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A key, a certificate or a configuration could not be created.
    #[error("cannot prepare {what}: {problem}")]
    Prepare {
        /// The key, certificate or configuration.
        what: String,
        /// Error of that step.
        problem: String,
    },
    /// A key could not be created.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A process did not start or ended.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The cluster was started by another program, and no control port of an emulator was given.
    #[error("--gateway: is required for {0}; give the control port of its emulator: {0}=HOST:PORT")]
    NoControl(&'static str),
    /// The coordinator of a cluster that another program started cannot be reached.
    #[error("the coordinator: {0}")]
    Coordinator(String),
    /// An emulator did not carry out an order.
    #[error(transparent)]
    Order(#[from] OrderError),
}

impl Cluster {
    /// Starts all processes, in the order of their dependencies, with an empty store.
    ///
    /// # Errors
    /// The first process that does not start; the processes before it are ended.
    pub async fn start(plan: &ClusterPlan) -> Result<Self, ClusterError> {
        plan.remove_data().map_err(|e| prepare("the data folders", e))?;
        let key = keys::signing_key(&plan.dir)?;
        let (mut processes, mut emulators, mut served) = (Vec::new(), Vec::new(), Vec::new());
        for platform in &plan.gateway.platforms {
            let (process, emulator, serves) = Emulator::start(plan, *platform, &key).await?;
            processes.push(process);
            emulators.push(emulator);
            served.push(serves);
        }
        let mut ports = ports::claim(3 + plan.nodes as usize).map_err(|e| prepare("ports", e))?;
        let [at, feed, second] = [ports.remove(0), ports.remove(0), ports.remove(0)];

        // A node keeps its address over all of its processes, like one behind a DNS name.
        for (n, port) in (0..plan.nodes).zip(&ports) {
            if !plan.nodes_later.contains(&n) {
                processes.push(start_node(plan, &feed, (n, port), Started::default()).await?);
            }
        }

        let (to, orders) = mpsc::channel(1);
        let coordinator = format!("http://{}", at.address());
        let nodes = Nodes {
            plan: plan.clone(),
            coordinator: at,
            feed,
            second,
            served,
            key,
            ports,
            orders,
            to,
        };
        let started = Started { nodes: plan.nodes_told, ..Started::default() };
        processes.push(nodes.start_coordinator(names::COORDINATOR, started).await?);
        Ok(Self {
            coordinator,
            emulators,
            memory: MemoryLog::default(),
            processes,
            nodes: Some(nodes),
        })
    }

    /// Returns the folder for logs and records, also for a cluster that another program started.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.nodes.as_ref().map_or(Path::new("."), |nodes| &nodes.plan.dir)
    }

    /// Returns host:port of a process's health service; `None` if there is none.
    #[must_use]
    pub fn health(&self, name: &str) -> Option<&str> {
        self.announced(name)?.health.as_deref()
    }

    /// Returns the addresses that a process announced; `None` if it does not run.
    #[must_use]
    pub fn announced(&self, name: &str) -> Option<&Announcement> {
        self.processes.iter().find(|p| p.name == name)?.announced.as_ref()
    }

    /// Kills a process as a power failure would. Nothing happens if it does not run.
    pub async fn kill(&mut self, name: &str) {
        if let Some(process) = self.take(name) {
            process.kill().await;
        }
    }

    /// Asks a process to end. Returns false if it did not run, or did not end gracefully within the
    /// deadline.
    pub async fn terminate(&mut self, name: &str, deadline: Duration) -> bool {
        match self.take(name) {
            Some(process) => process.terminate(deadline).await,
            None => false,
        }
    }

    /// Starts a process, `coordinator`, `coordinator-2` or a node: in place of an earlier one, or
    /// for the first time.
    ///
    /// # Errors
    /// If the process does not start.
    pub async fn start_again(
        &mut self,
        name: &str,
        started: Started<'_>,
    ) -> Result<(), ClusterError> {
        let Some(nodes) = &self.nodes else { return Ok(()) };
        let node = names::node_number(name);
        let process = match node.and_then(|n| Some((n, nodes.ports.get(n as usize)?))) {
            Some(node) => start_node(&nodes.plan, &nodes.feed, node, started).await?,
            None => nodes.start_coordinator(name, started).await?,
        };
        self.processes.push(process);
        Ok(())
    }

    fn take(&mut self, name: &str) -> Option<Process> {
        let at = self.processes.iter().position(|p| p.name == name)?;
        Some(self.processes.swap_remove(at))
    }

    /// Connects to a cluster that another program started. Its processes are neither watched nor
    /// ended.
    ///
    /// # Errors
    /// If an emulator does not answer, or a platform has none.
    pub async fn attach(
        there: &Elsewhere,
        plan: &emulator::GatewayPlan,
    ) -> Result<Self, ClusterError> {
        let mut emulators = Vec::new();
        for platform in &plan.platforms {
            emulators.push(Emulator::attach(*platform, there.control(*platform)?, plan).await?);
        }
        // Later connections make one attempt only.
        let coordinator = there.coordinator.clone();
        let authority = coordinator.trim_start_matches("http://").trim_end_matches('/');
        orders::reach(authority)
            .await
            .map_err(|problem| ClusterError::Coordinator(format!("{authority}: {problem}")))?;
        Ok(Self {
            coordinator,
            emulators,
            memory: MemoryLog::default(),
            processes: Vec::new(),
            nodes: None,
        })
    }

    /// Returns the processes whose CPU time and memory can be read.
    #[must_use]
    pub fn watched(&self) -> Vec<Watched> {
        let watch = |p: &Process| Watched { role: p.role, name: p.name.clone(), pid: p.pid };
        self.processes.iter().map(watch).collect()
    }

    /// Returns the sender of orders for nodes; `None` if another program started them.
    #[must_use]
    pub fn node_orders(&self) -> Option<mpsc::Sender<NodeOrder>> {
        self.nodes.as_ref().map(|nodes| nodes.to.clone())
    }

    /// Samples memory and carries out orders for nodes, until a process ends unasked.
    pub async fn watch(&mut self) -> ProcessError {
        let mut ticks = interval(WATCH_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let order = tokio::select! {
                _ = ticks.tick() => None,
                order = Nodes::order(self.nodes.as_mut()) => Some(order),
            };
            if let Some(death) = self.processes.iter_mut().find_map(Process::death) {
                return death;
            }
            if let Some(order) = order
                && let Err(problem) = self.heed(order).await
            {
                return problem;
            }
            self.memory.sample(&self.watched());
        }
    }

    async fn heed(&mut self, order: NodeOrder) -> Result<(), ProcessError> {
        let Some(nodes) = &self.nodes else { return Ok(()) };
        match order.action {
            NodeAction::Start => {
                let node = (order.node, &nodes.ports[order.node as usize]);
                self.processes
                    .push(start_node(&nodes.plan, &nodes.feed, node, Started::default()).await?);
            }
            NodeAction::Kill => {
                self.kill(&names::node(order.node)).await;
            }
        }
        // The sender of the order may have ended.
        let _ = order.done.send(());
        Ok(())
    }

    /// Ends all processes at the same time. Returns the names of those that had to be killed or
    /// failed.
    pub async fn stop(self, deadline: Duration) -> Vec<String> {
        let mut stopping = tokio::task::JoinSet::new();
        for process in self.processes {
            stopping.spawn(async move {
                let name = process.name.clone();
                (process.stop(deadline).await, name)
            });
        }
        let ends = stopping.join_all().await;
        ends.into_iter().filter(|(well, _)| !well).map(|(_, name)| name).collect()
    }
}

impl Nodes {
    /// Returns the next order; never if the run started no nodes. The call is safe to cancel.
    async fn order(nodes: Option<&mut Self>) -> NodeOrder {
        match nodes {
            Some(nodes) => match nodes.orders.recv().await {
                Some(order) => order,
                // The channel never closes, because the cluster holds a sender itself.
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    /// Starts the first or the second coordinator.
    async fn start_coordinator(
        &self,
        name: &str,
        started: Started<'_>,
    ) -> Result<Process, ClusterError> {
        // Nodes follow the logs of the first coordinator.
        let (port, feed) = match name {
            names::COORDINATOR => (&self.coordinator, self.feed.address()),
            _ => (&self.second, "127.0.0.1:0".to_owned()),
        };
        let known = started.nodes.map_or(self.ports.len(), |nodes| nodes as usize);
        let addresses: Vec<_> = self.ports.iter().map(Port::address).take(known).collect();
        let emulators = (&self.served[..], &self.key);
        let at = (name, port.address(), feed);
        let config = files::coordinator_config(&self.plan, at, &addresses, emulators, started)?;
        let [data_dir, store, objects] = self.plan.data_options(name);
        let arguments = [
            "coordinator".to_owned(),
            format!("--config={}", config.display()),
            data_dir,
            objects,
            store,
            "--announce".to_owned(),
        ];
        let environment = network::environment(&self.plan.dir, &self.served);
        let process = (Role::Coordinator, name.to_owned(), environment);
        Ok(start(&self.plan, process, &arguments).await?.0)
    }
}

async fn start_node(
    plan: &ClusterPlan,
    feed: &Port,
    (node, port): (u32, &Port),
    started: Started<'_>,
) -> Result<Process, ProcessError> {
    let own = names::node(node);
    let mut arguments = vec![
        "shard".to_owned(),
        format!("--listen={}", port.address()),
        "--health-listen=127.0.0.1:0".to_owned(),
        format!("--name={}", started.name.unwrap_or(&own)),
        format!("--coordinators={}", feed.address()),
        format!("--cores={}", plan.cores_per_node),
        "--announce".to_owned(),
    ];
    arguments.extend(started.cluster.map(|cluster| format!("--cluster={cluster}")));
    Ok(start(plan, (Role::Shard, own, Vec::new()), &arguments).await?.0)
}

/// Starts a child that prints only its announcement.
async fn start(
    plan: &ClusterPlan,
    process: (Role, String, Vec<(&'static str, String)>),
    arguments: &[String],
) -> Result<(Process, Announcement), ProcessError> {
    let (process, announcement, Pipes { stdin, mut stdout }) =
        start_with_pipes(plan, process, arguments).await?;
    // Read to the end, so that the child never blocks on a full pipe; the task ends with the child.
    tokio::spawn(async move {
        drop(tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await);
        drop(stdin);
    });
    Ok((process, announcement))
}

/// Starts a child with the id of its parent, so that the child can end with the parent.
async fn start_with_pipes(
    plan: &ClusterPlan,
    (role, name, environment): (Role, String, Vec<(&'static str, String)>),
    arguments: &[String],
) -> Result<(Process, Announcement, Pipes), ProcessError> {
    let arguments: Vec<OsString> = [format!("--child-of={}", std::process::id())]
        .into_iter()
        .chain(arguments.iter().cloned())
        .map(OsString::from)
        .collect();
    let spec = Spec {
        role,
        name,
        program: &plan.program,
        arguments: &arguments,
        environment: &environment,
        log_dir: &plan.dir,
    };
    Process::start(spec, plan.start_deadline).await
}

fn prepare(what: &str, problem: impl std::fmt::Display) -> ClusterError {
    ClusterError::Prepare { what: what.to_owned(), problem: problem.to_string() }
}
