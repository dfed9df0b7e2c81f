//! The task that owns a node's control plane: it brings sessions, cores, feed and time to the state machine and carries
//! out what comes of it. Nothing is decided here.
//!
//! What waits, and for how long: commands for a core in its outbox (bounded; while one is nearly full no input is
//! read), messages for the coordinator not at all (they are pulled when its queue has room; 10 s without room end the
//! session), the feed in its own task. A core that ends, or takes no command for 10 s, ends the node: its partitions
//! would be silent, and a new process is back in a few seconds.

pub mod cores;

use std::{future::Future, io, net::SocketAddr, time::Duration};

use clarion_proto::{
    ids::BootId,
    wire::shard_v1::shard_service_server::{SERVICE_NAME, ShardService},
};
use clarion_runtime::health::{self, HealthPort};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};

use self::{
    control::Driver,
    cores::{CoreFailure, CorePort},
};
use crate::{
    config::Config,
    service::{Now, Service},
    session::{Control, Identity},
};

mod control;

/// Sessions that have begun and wait to be taken up; a newer one supersedes the older anyway.
const SESSIONS: usize = 4;
/// A coordinator that is gone without a word is noticed after 2 s + 4 s; its grants have run out by then.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(2);
const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(4);
/// Streams of one connection. A coordinator needs one; a second is there while a session is superseded.
const STREAMS_MAX: u32 = 16;
/// For servers to end after the sessions have ended.
const SERVERS_WITHIN: Duration = Duration::from_secs(2);

/// What ends a node before its time.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A port cannot be bound. The operator's to mend.
    #[error("{0}")]
    Bind(#[from] io::Error),
    /// A server's transport failed.
    #[error("serving: {0}")]
    Serve(#[from] tonic::transport::Error),
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

/// A node, bound and not yet running.
pub struct Node {
    listener: TcpListener,
    address: SocketAddr,
    health: HealthPort,
    config: Config,
    boot: BootId,
}

impl Node {
    /// Binds both ports.
    ///
    /// # Errors
    /// Names the address that cannot be bound.
    pub async fn bind(config: Config) -> Result<Self, NodeError> {
        let listener = health::bind(config.listen).await?;
        let address = listener.local_addr()?;
        let health = HealthPort::bind(config.health_listen).await?;
        Ok(Self { listener, address, health, config, boot: BootId(*uuid::Uuid::new_v4().as_bytes()) })
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

    /// Runs until `stop` resolves, then drains: no new wave, open requests finish, cores close, the last reports go out and
    /// the coordinator confirms that it has applied them; `drain_within` at most.
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
        let service = Service::server(sessions, now.clone());
        servers.spawn(serve(self.listener, service, closing.clone()));
        servers.spawn(self.health.serve(health, closing.clone().cancelled_owned()));

        let identity = Identity {
            node: self.config.name.clone(),
            boot: self.boot,
            cluster: self.config.cluster.clone(),
            version: env!("CARGO_PKG_VERSION"),
            cores: ports.len(),
        };
        let control = Control::new(identity, rss_bytes);
        let driver = Driver::new(control, ports, now, begun, reporter, &self.config, self.boot);
        let result = tokio::select! {
            result = driver.run(stop, drain_within) => result,
            ended = servers.join_next() => match ended {
                Some(Ok(Err(error))) => Err(error.into()),
                _ => Err(NodeError::Internal("a server has ended by itself")),
            },
        };
        // Sessions have ended with the driver; what is left are connections without a stream.
        closing.cancel();
        if timeout(SERVERS_WITHIN, async { while servers.join_next().await.is_some() {} }).await.is_err() {
            servers.abort_all();
        }
        result
    }
}

async fn serve(
    listener: TcpListener,
    service: clarion_proto::wire::shard_v1::shard_service_server::ShardServiceServer<impl ShardService>,
    closing: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_WITHIN))
        .max_concurrent_streams(Some(STREAMS_MAX))
        .add_service(service)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), closing.cancelled_owned())
        .await
}

/// Resident memory, from the second number of /proc/self/statm, in pages of 4 KiB (the page size of every platform that
/// is supported). 0 where there is no such file.
fn rss_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}
