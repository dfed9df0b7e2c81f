//! The task that owns a node's control plane: passes the inputs of sessions, cores, feed and clock
//! to the state machine and executes its outputs. This module makes no decisions.
//!
//! Queues and waits: commands for a core wait in its outbox (bounded; while one outbox is nearly
//! full, no input is read). Messages for a coordinator do not wait: they are pulled when the queue
//! of its session has room, and 10 s without room end that session. Sessions and cores are served
//! in turn, so a slow coordinator delays no other. The feed waits in its own task. A core
//! that ends, or accepts no command for 10 s, ends the node: the core's partitions would send
//! nothing, and a new process starts within a few seconds.

pub mod cores;

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use clarion_proto::{
    ids::{BootId, ClusterName},
    limits::REQUEST_BYTES_TAKEN,
    wire::shard_v1::shard_service_server::SERVICE_NAME,
};
use clarion_runtime::{
    descriptors::{self, Shortage, Wanted},
    health::{self, HealthPort},
    listener::{Budget, Limits, Method, Port, WhenBusy},
    world::World,
};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

use self::{
    cores::{CoreFailure, CorePort},
    task::NodeTask,
};
use crate::{
    control::{Control, Identity, fence::SESSIONS_MAX},
    feed::FeedConfig,
    service::{ADMIT_WITHIN, Now, OPEN_WITHIN, Service},
};

mod sessions;
mod task;

/// Queue of new sessions that wait for the node task: each coordinator opens one at a time.
const SESSIONS: usize = SESSIONS_MAX;
/// Maximum number of connections of coordinators. Each coordinator has one connection, and a second
/// connection while its session is superseded; as many again are for connections without a session.
const CONNECTIONS_MAX: usize = 2 * 2 * SESSIONS_MAX;
/// Minimum number of connections of coordinators, two for each of two coordinators: with fewer,
/// third-party clients could hold all connections and lock the coordinators out.
const CONNECTIONS_MIN: usize = 4;
/// Maximum number of streams of one connection. A coordinator needs one stream.
const STREAMS_MAX: u32 = 2;
/// File descriptors of a core: its event queue, its waker, a socket pair, two loads of snapshots.
const CORE_DESCRIPTORS: usize = 6;
/// File descriptors of the process: standard streams, the control plane's event queue and signals,
/// the exporter of traces, name service.
const OWN_DESCRIPTORS: usize = 20;
/// Minimum number of outgoing connections for lanes and coordinators: two connections of each
/// platform, the feed's old and new connection, a list of snapshots, and a save.
const CONNECTS_MIN: usize = 8;
/// Time for the servers to end after the sessions have ended.
const SERVERS_WITHIN: Duration = Duration::from_secs(2);

/// Why a node ended with a failure.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A port cannot be bound. The operator must change the address or free the port.
    #[error("{0}")]
    Bind(#[from] io::Error),
    /// The limit of file descriptors is too low. The operator must raise the limit.
    #[error(transparent)]
    Descriptors(#[from] Shortage),
    /// A core's thread has ended unexpectedly.
    #[error("core {0} has died")]
    CoreDied(usize),
    /// A core no longer accepts commands or batches.
    #[error("core {0} hangs")]
    CoreHangs(usize),
    /// Some cores did not close their connections within the drain deadline.
    #[error("cores were still busy after {} ms", .0.as_millis())]
    DrainDeadline(Duration),
    /// A defect of the node's program.
    #[error("internal: {0}")]
    Internal(&'static str),
}

impl From<CoreFailure> for NodeError {
    fn from(failure: CoreFailure) -> Self {
        match failure {
            CoreFailure::Ended(core) => Self::CoreDied(core),
            CoreFailure::Hangs(core) => Self::CoreHangs(core),
        }
    }
}

/// Configuration of a node at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Address for coordinators' connections. Port 0: the system chooses a port.
    pub listen: SocketAddr,
    /// Address of `grpc.health.v1`, in plaintext. Port 0: the system chooses a port.
    pub health_listen: SocketAddr,
    /// Name of the cluster: the node refuses coordinators of other clusters.
    pub cluster: ClusterName,
    /// Name of the node, stable over restarts: a coordinator assigns partitions to this name.
    pub name: String,
    /// `host:port` of each coordinator's feed port; a DNS name means all of its addresses.
    pub coordinators: Vec<String>,
    /// Number of threads that walk partitions and send requests. At least 1.
    pub cores: usize,
}

/// A node with bound ports that does not run yet.
pub struct Node {
    port: Port,
    health: HealthPort,
    config: NodeConfig,
    world: World,
}

impl Node {
    /// Binds both ports.
    ///
    /// # Errors
    /// Names the address that cannot be bound; too few file descriptors.
    pub async fn bind(config: NodeConfig, world: &World) -> Result<Self, NodeError> {
        let own = OWN_DESCRIPTORS + CORE_DESCRIPTORS * config.cores;
        let wanted = [
            Wanted { name: "session", min: CONNECTIONS_MIN, max: CONNECTIONS_MAX },
            Wanted { name: "health", min: health::CONNECTIONS_MIN, max: health::CONNECTIONS_MAX },
        ];
        let shares = descriptors::share(descriptors::raise()?, own, CONNECTS_MIN, &wanted)?;
        let limits = limits().with_connections_max(shares[0]);
        let port = Port::bind(world, config.listen, limits).await?;
        let health =
            HealthPort::bind(world, config.health_listen).await?.with_connections_max(shares[1]);
        Ok(Self { port, health, config, world: world.clone() })
    }

    /// Address for coordinators' connections.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Address of the health port.
    #[must_use]
    pub fn health_address(&self) -> SocketAddr {
        self.health.address()
    }

    /// Runs until `stop` resolves, then drains: no new wave, open requests finish, cores close, the
    /// last reports go out and the coordinator confirms that it has applied them; `drain_within` at
    /// most.
    ///
    /// # Errors
    /// [`NodeError`]: a core died or hangs, a server failed, or the drain exceeded its deadline.
    pub async fn run(
        self,
        ports: Vec<CorePort>,
        stop: impl Future<Output = ()>,
        drain_within: Duration,
    ) -> Result<(), NodeError> {
        let clock = self.world.clock();
        let now: Now = Arc::new(move || clock.now());
        let (sessions, begun) = mpsc::channel(SESSIONS);
        let (reporter, health) = health::reporter().await;
        reporter.set_service_status(SERVICE_NAME, tonic_health::ServingStatus::NotServing).await;
        let closing = CancellationToken::new();
        let mut servers = JoinSet::new();
        let streams = TaskTracker::new();
        let service = Service::server(sessions, now.clone(), streams.clone());
        let service = Routes::new(service).prepare();
        servers.spawn(self.port.serve(service, closing.clone().cancelled_owned()));
        servers.spawn(self.health.serve(health, closing.clone().cancelled_owned()));

        let identity = Identity {
            node: self.config.name.clone(),
            boot: BootId(self.world.id()),
            cluster: self.config.cluster.clone(),
            version: env!("CARGO_PKG_VERSION"),
            cores: ports.len(),
        };
        let control = Control::new(identity, rss_bytes);
        let feed = FeedConfig {
            node: self.config.name,
            cluster: self.config.cluster,
            coordinators: self.config.coordinators,
        };
        let task = NodeTask::new(control, ports, now, begun, reporter, feed, self.world);
        // The task's own result names the failure; the end of a server is a consequence of it.
        let result = tokio::select! {
            // The task's own result says more than the end of a server.
            biased;
            result = task.run(stop, drain_within) => result,
            _ = servers.join_next() => Err(NodeError::Internal("a server has ended by itself")),
        };
        // The sessions have ended with the task; only connections without a stream are left.
        closing.cancel();
        streams.close();
        let ended = async {
            while servers.join_next().await.is_some() {}
            streams.wait().await;
        };
        if timeout(SERVERS_WITHIN, ended).await.is_err() {
            servers.abort_all();
        }
        result
    }
}

/// The limits of the node's port. Messages that are being received take at most 32 MiB: one of the
/// maximum size for each session, so that a coordinator that sends slowly delays no other. Windows
/// of 1 MiB for each session and the buffers of 64 streams take 17 MiB more. A connection without a
/// session is closed if a new connection needs its place.
#[must_use]
pub fn limits() -> Limits {
    let streams_max = CONNECTIONS_MAX * STREAMS_MAX as usize;
    Limits {
        name: "session",
        connections_max: CONNECTIONS_MAX,
        connections_per_peer_max: CONNECTIONS_MAX * 3 / 4,
        when_busy: WhenBusy::Stays,
        streams_per_connection_max: STREAMS_MAX,
        streams_max,
        requests_per_connection_max: STREAMS_MAX as usize,
        header_list_bytes_max: 8 << 10,
        stream_window_bytes: 1 << 20,
        connection_window_bytes: 1 << 20,
        streams_unread_max: SESSIONS_MAX,
        send_buffer_bytes: 64 << 10,
        messages: Budget {
            bytes: SESSIONS_MAX * REQUEST_BYTES_TAKEN,
            // All coordinators may have one address: behind a proxy, or on one machine.
            peer_bytes_max: SESSIONS_MAX * REQUEST_BYTES_TAKEN,
            free_bytes: 8 << 10,
            streams_max,
            waiting_max: 2 * SESSIONS_MAX,
            message_bytes_max: REQUEST_BYTES_TAKEN,
        },
        inflated: None,
        hello_deadline: Duration::from_secs(5),
        // Longer than the session's own deadlines, whose errors name what the session waited for.
        request_deadline: OPEN_WITHIN + ADMIT_WITHIN + Duration::from_secs(1),
        idle_deadline: Duration::from_secs(30),
        // A coordinator that vanishes without closing its connection is noticed at the latest
        // shortly after its grants have run out.
        keep_alive_every: Duration::from_secs(2),
        method: |_| Method::Exchange,
    }
}

/// Resident memory, from the second number of /proc/self/statm, in pages of 4 KiB (the page size of
/// every platform that is supported). 0 where there is no such file.
fn rss_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}
