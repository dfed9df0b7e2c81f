//! The task that owns a node's control plane: it brings sessions, cores, feed and time to the state
//! machine and carries out what comes of it. Nothing is decided here.
//!
//! What waits, and for how long: commands for a core in its outbox (bounded; while one is nearly
//! full no input is read), messages for the coordinator not at all (they are pulled when its queue
//! has room; 10 s without room end the session), the feed in its own task. A core that ends, or
//! takes no command for 10 s, ends the node: its partitions would be silent, and a new process is
//! back in a few seconds.

pub mod cores;

use std::{future::Future, io, net::SocketAddr, time::Duration};

use clarion_proto::{
    ids::{BootId, ClusterName},
    limits::REQUEST_BYTES_TAKEN,
    wire::shard_v1::shard_service_server::SERVICE_NAME,
};
use clarion_runtime::{
    descriptors::{self, Shortage, Wanted},
    health::{self, HealthPort},
    listener::{self, Budget, Limits, Method, WhenBusy},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use self::{
    cores::{CoreFailure, CorePort},
    task::NodeTask,
};
use crate::{
    control::{Control, Identity},
    feed::FeedConfig,
    service::{ADMIT_WITHIN, Now, OPEN_WITHIN, Service},
};

mod task;

/// Sessions that have begun and wait to be taken up; a newer one supersedes the older anyway.
const SESSIONS: usize = 4;
/// Connections of coordinators. Each has one; a second is there while a session is superseded.
const CONNECTIONS_MAX: usize = 32;
/// Fewer would keep the coordinator out while somebody holds the others.
const CONNECTIONS_MIN: usize = 4;
/// Streams of one connection. A coordinator needs one.
const STREAMS_MAX: u32 = 2;
/// Descriptors of a core: its event queue, its waker, a socket pair.
const CORE_DESCRIPTORS: usize = 4;
/// The process's own: standard streams, the control plane's event queue and signals, the exporter
/// of traces, name service.
const OWN_DESCRIPTORS: usize = 20;
/// The least that a lane can work with, and the feed: two connections of each platform, the feed's
/// old and new.
const CONNECTS_MIN: usize = 6;
/// For servers to end after the sessions have ended.
const SERVERS_WITHIN: Duration = Duration::from_secs(2);

/// What ends a node before its time.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A port cannot be bound. The operator's to mend.
    #[error("{0}")]
    Bind(#[from] io::Error),
    /// The limit of file descriptors is too low. The operator's to mend.
    #[error(transparent)]
    Descriptors(#[from] Shortage),
    /// A core's thread has ended by itself.
    #[error("core {0} has died")]
    CoreDied(usize),
    /// A core takes nothing any more.
    #[error("core {0} hangs")]
    CoreHangs(usize),
    /// Not all cores closed their connections in time.
    #[error("cores were still busy after {} ms", .0.as_millis())]
    DrainDeadline(Duration),
    /// A defect in here.
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

/// What a node is told at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Where coordinators call. Port 0: the system chooses.
    pub listen: SocketAddr,
    /// Where `grpc.health.v1` is served, in plaintext. Port 0: the system chooses.
    pub health_listen: SocketAddr,
    /// Coordinators of another cluster are refused.
    pub cluster: ClusterName,
    /// Stable over restarts: what a coordinator gives partitions to.
    pub name: String,
    /// `host:port` of each one's port for feeds; a name stands for all of its addresses.
    pub coordinators: Vec<String>,
    /// Threads that walk and send. At least 1.
    pub cores: usize,
}

/// A node, bound and not yet running.
pub struct Node {
    listener: TcpListener,
    address: SocketAddr,
    limits: Limits,
    health: HealthPort,
    config: NodeConfig,
    boot: BootId,
}

impl Node {
    /// Binds both ports.
    ///
    /// # Errors
    /// Names the address that cannot be bound; too few file descriptors.
    pub async fn bind(config: NodeConfig) -> Result<Self, NodeError> {
        let own = OWN_DESCRIPTORS + CORE_DESCRIPTORS * config.cores;
        let wanted = [
            Wanted { name: "session", min: CONNECTIONS_MIN, max: CONNECTIONS_MAX },
            Wanted { name: "health", min: health::CONNECTIONS_MIN, max: health::CONNECTIONS_MAX },
        ];
        let shares = descriptors::share(descriptors::raise()?, own, CONNECTS_MIN, &wanted)?;
        let limits = limits().with_connections_max(shares[0]);
        let listener = health::bind(config.listen).await?;
        let address = listener.local_addr()?;
        let health = HealthPort::bind(config.health_listen).await?.with_connections_max(shares[1]);
        Ok(Self {
            listener,
            address,
            limits,
            health,
            config,
            boot: BootId(*uuid::Uuid::new_v4().as_bytes()),
        })
    }

    /// Where coordinators call.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where health is served.
    #[must_use]
    pub fn health_address(&self) -> SocketAddr {
        self.health.address()
    }

    /// Runs until `stop` resolves, then drains: no new wave, open requests finish, cores close, the
    /// last reports go out and the coordinator confirms that it has applied them; `drain_within` at
    /// most.
    ///
    /// # Errors
    /// A core died or hangs, a server failed, or the drain took too long.
    pub async fn run(
        self,
        ports: Vec<CorePort>,
        now: Now,
        stop: impl Future<Output = ()>,
        drain_within: Duration,
    ) -> Result<(), NodeError> {
        let (sessions, begun) = mpsc::channel(SESSIONS);
        let (reporter, health) = health::reporter().await;
        reporter.set_service_status(SERVICE_NAME, tonic_health::ServingStatus::NotServing).await;
        let closing = CancellationToken::new();
        let mut servers = JoinSet::new();
        let service = Routes::new(Service::server(sessions, now.clone())).prepare();
        servers.spawn(listener::serve(
            self.listener,
            self.limits,
            service,
            closing.clone().cancelled_owned(),
        ));
        servers.spawn(self.health.serve(health, closing.clone().cancelled_owned()));

        let identity = Identity {
            node: self.config.name.clone(),
            boot: self.boot,
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
        let task = NodeTask::new(control, ports, now, begun, reporter, feed, self.boot);
        let result = tokio::select! {
            result = task.run(stop, drain_within) => result,
            _ = servers.join_next() => Err(NodeError::Internal("a server has ended by itself")),
        };
        // Sessions have ended with the task; what is left are connections without a stream.
        closing.cancel();
        if timeout(SERVERS_WITHIN, async { while servers.join_next().await.is_some() {} })
            .await
            .is_err()
        {
            servers.abort_all();
        }
        result
    }
}

/// The bounds of the node's port: at most 42 MiB, most of it the one message of up to 32 MiB that
/// may be received at a time, which is a wave's. A connection that has not begun a session makes
/// room for one that wants to.
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
        streams_unread_max: SESSIONS,
        send_buffer_bytes: 64 << 10,
        messages: Budget {
            bytes: REQUEST_BYTES_TAKEN,
            peer_bytes_max: REQUEST_BYTES_TAKEN,
            free_bytes: 8 << 10,
            streams_max,
            waiting_max: 8,
            message_bytes_max: REQUEST_BYTES_TAKEN,
        },
        hello_deadline: Duration::from_secs(5),
        // Behind the session's own deadlines, which say what they waited for.
        request_deadline: OPEN_WITHIN + ADMIT_WITHIN + Duration::from_secs(1),
        idle_deadline: Duration::from_secs(30),
        // A coordinator that is gone without a word is noticed before its grants have run out by
        // more than a moment.
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
