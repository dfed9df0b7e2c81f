//! Calls to the coordinators: which one, how long, and what a refusal means.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use clarion_proto::{
    ids::{LogIdentity, PartitionId, Position},
    time::Time,
    wire::shard_v1::{self as wire, snapshot_service_client::SnapshotServiceClient},
};
use clarion_runtime::{
    channel::{self, ChannelLimits},
    repeated::Repeated,
    world::World,
};
use rand::RngExt;
use tokio::{
    sync::{Mutex, mpsc},
    time::{sleep, timeout},
};
use tonic::{Code, Status, transport::Channel};
use tracing::warn;

use crate::{
    command::CommandSink,
    control::snapshot::{List, Snapshot, SnapshotNote},
    feed::{FeedConfig, coordinators::Coordinators},
};

/// Largest message of a snapshot, bytes: 1 MiB of data and its frame.
const MESSAGE_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// Limits of the connections. The window bounds what a load has under way.
const CONNECTION: ChannelLimits = ChannelLimits {
    connect_within: Duration::from_secs(2),
    window_bytes: 1 << 20,
    ping_every: Duration::from_secs(2),
    pong_within: Duration::from_secs(4),
};
/// Deadline for an answer, and for each message of a stream: a coordinator may have to read an
/// object from slow storage first.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Everything that a call needs.
#[derive(Clone)]
pub(super) struct Carrier {
    pub(super) config: Arc<FeedConfig>,
    pub(super) cores: Vec<Arc<dyn CommandSink>>,
    pub(super) notes: mpsc::Sender<SnapshotNote>,
    pub(super) world: World,
    /// Shared by all calls, which so go to the coordinators in turn.
    pub(super) coordinators: Arc<Mutex<Coordinators>>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// No name of a coordinator resolves.
    #[error("no coordinator: {0}")]
    Resolve(#[from] io::Error),
    /// The coordinator cannot be reached.
    #[error("{0}: {1}")]
    Connect(SocketAddr, tonic::transport::Error),
    /// The coordinator answered with an error. Without the status's metadata: its date would make
    /// every failure look different.
    #[error("{0}: {code:?}: {message}", code = .1.code(), message = .1.message())]
    Refused(SocketAddr, Status),
    /// Nothing came in time.
    #[error("{0} does not answer within {limit} s", limit = ANSWER_WITHIN.as_secs())]
    Silent(SocketAddr),
    /// The answer is not as documented.
    #[error("{0}: {1}")]
    Contract(SocketAddr, &'static str),
}

impl CallError {
    /// Whether another attempt, at any coordinator, gives the same answer.
    pub(super) fn is_final(&self) -> bool {
        let Self::Refused(_, status) = self else { return false };
        match status.code() {
            // The object is gone or damaged, or the request is one that no coordinator takes.
            Code::NotFound | Code::DataLoss | Code::InvalidArgument | Code::OutOfRange => true,
            // Another coordinator may serve this log, have room, reach the store, or be well.
            Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::Unavailable
            | Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Aborted
            | Code::Unimplemented
            | Code::Internal
            | Code::Unauthenticated => false,
        }
    }
}

impl Carrier {
    /// A client of the next coordinator.
    pub(super) async fn client(
        &self,
    ) -> Result<(SocketAddr, SnapshotServiceClient<Channel>), CallError> {
        let address = self.coordinators.lock().await.next().await?;
        let channel = channel::connect(&self.world, address, CONNECTION).await;
        let channel = channel.map_err(|error| CallError::Connect(address, error))?;
        let client = SnapshotServiceClient::new(channel);
        Ok((address, client.max_decoding_message_size(MESSAGE_BYTES_MAX)))
    }

    /// The sender of a request.
    pub(super) fn caller(&self, log: LogIdentity) -> wire::SnapshotCaller {
        wire::SnapshotCaller {
            node: self.config.node.clone(),
            cluster: self.config.cluster.to_string(),
            log_identity: log.to_wire(),
        }
    }

    /// The last coordinator answered well: the next call goes to it, too.
    pub(super) async fn stay(&self) {
        self.coordinators.lock().await.stay();
    }

    /// Tells the control plane.
    pub(super) async fn note(&self, note: SnapshotNote) {
        // The node task has ended if nobody listens.
        let _ = self.notes.send(note).await;
    }
}

/// Failures of one task in a row.
#[derive(Default)]
pub(super) struct Failures {
    times: u32,
    failing: Repeated,
}

impl Failures {
    /// Counts a failure. `Some`: the caller logs it, with the number of failures since the last
    /// line.
    pub(super) fn note(&mut self, world: &World, error: &CallError) -> Option<u64> {
        self.times += 1;
        self.failing.note(&error.to_string(), world.clock().now().since(Time(0)))
    }

    /// Waits before the next attempt: longer after each failure, with full jitter.
    pub(super) async fn pause(&self, world: &World) {
        let pause_max = PAUSE_MIN.saturating_mul(1 << self.times.min(10)).min(PAUSE_MAX);
        let jitter: f64 = world.random().random();
        sleep(pause_max.mul_f64(jitter)).await;
    }
}

/// The request for a list, until a coordinator answers.
pub(super) struct Listing {
    pub(super) list: List,
    pub(super) carrier: Carrier,
}

impl Listing {
    pub(super) async fn run(self) {
        let mut failures = Failures::default();
        loop {
            match self.attempt().await {
                Ok((snapshots, interval)) => {
                    let list = self.list.number;
                    let note = SnapshotNote::Listed { list, snapshots, interval };
                    return self.carrier.note(note).await;
                }
                Err(error) => {
                    if let Some(times) = failures.note(&self.carrier.world, &error) {
                        warn!(%error, times, "listing snapshots failed; retrying");
                    }
                    failures.pause(&self.carrier.world).await;
                }
            }
        }
    }

    async fn attempt(&self) -> Result<(Vec<Snapshot>, Duration), CallError> {
        let (address, mut client) = self.carrier.client().await?;
        let request = wire::ListSnapshotsRequest {
            caller: Some(self.carrier.caller(self.list.log)),
            partitions: self.list.partitions.iter().map(|p| u32::from(p.0)).collect(),
        };
        let answer = timeout(ANSWER_WITHIN, client.list_snapshots(request)).await;
        let answer = match answer.map_err(|_| CallError::Silent(address))? {
            Ok(answer) => answer.into_inner(),
            // A coordinator of a release that keeps none.
            Err(status) if status.code() == Code::Unimplemented => {
                return Ok((Vec::new(), Duration::ZERO));
            }
            Err(status) => return Err(CallError::Refused(address, status)),
        };
        let problem = "the list must have a policy";
        let policy = answer.policy.ok_or(CallError::Contract(address, problem))?;
        let now = self.carrier.world.clock().wall().0;
        let snapshots = answer.snapshots.into_iter().map(|snapshot| {
            let partition = u16::try_from(snapshot.partition).ok().map(PartitionId);
            let partition = partition.filter(|p| self.list.partitions.contains(p));
            let age = Duration::from_millis(now.saturating_sub(snapshot.saved_ms));
            let position = Position(snapshot.position);
            let (partition, id) = partition.zip(snapshot.id.try_into().ok())?;
            Some(Snapshot { partition, id, position, bytes: snapshot.bytes, age })
        });
        let problem =
            "a snapshot must be of a partition that was asked for, with an id of 16 bytes";
        let snapshots: Option<Vec<_>> = snapshots.collect();
        let snapshots = snapshots.ok_or(CallError::Contract(address, problem))?;
        self.carrier.stay().await;
        Ok((snapshots, Duration::from_millis(policy.interval_ms)))
    }
}
