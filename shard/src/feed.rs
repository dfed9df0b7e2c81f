//! Follows the logs at any coordinator and passes their batches to the cores, in order.
//!
//! One stream carries all logs of the node's partitions. Each batch is checked (positions are
//! dense: a gap would be a lost registration, a repetition a clock of `apply` that runs backwards),
//! decoded once and split by partition into the cores' queues. The queues are bounded: when a core
//! is behind, the reader stops reading, HTTP/2's window closes and the coordinator stops sending.
//! The window, one message and the cores' queues bound the data under way.
//!
//! The coordinator begins a stream with the heads of the logs: the node has caught up when its
//! cores have got all batches up to these heads, however busy or silent the logs are.
//!
//! A stream that ends, fails or violates the contract is opened again from the partitions'
//! positions, at the next coordinator, after a pause with full jitter: the nodes of a cluster must
//! not reconnect all at once. Two answers end the feed until the control plane begins another one:
//! the log is shorter than what was applied, or was trimmed behind it.

pub mod coordinators;
pub mod split;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use clarion_proto::{
    ids::{ClusterName, LogId, PartitionId, Position},
    time::Time,
    wire::shard_v1::{self as wire, feed_service_client::FeedServiceClient},
};
use clarion_runtime::{
    channel::{self, ChannelLimits},
    repeated::Repeated,
    world::World,
};
use futures_util::future::join_all;
use rand::RngExt;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use tracing::{debug, info, warn};

use self::{
    coordinators::Coordinators,
    split::{Positions, SplitError, Splitter},
};
use crate::{
    command::{Closed, Command, CommandSink},
    control::FeedNote,
};

/// Largest message of the feed, bytes. A caller's batch is at most 4 MiB, and its records are no
/// larger than its items (tokens shrink by half: hexadecimal to bytes; ids become 16 bytes); the
/// rest is for flushes of several callers' batches.
pub const BATCH_BYTES_MAX: usize = 64 << 20;
/// Limits of the connection. Window: a coordinator may have a few batches of 10,000 records under
/// way before this node acknowledges them.
const CONNECTION: ChannelLimits = ChannelLimits {
    connect_within: Duration::from_secs(2),
    window_bytes: 8 << 20,
    ping_every: Duration::from_secs(2),
    pong_within: Duration::from_secs(4),
};
/// Deadline for the start message of a stream; batches have no deadline.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Time after which a core that accepts no batch counts as hung. Longer than the limit for a
/// command (10 s): a core accepts commands in every turn, but a batch only after it has applied the
/// batches before, up to five of [`BATCH_BYTES_MAX`] (one in hand, four queued) at 256 records a
/// turn while waves are under way.
pub(crate) const BATCH_TAKEN_WITHIN: Duration = Duration::from_secs(30);

/// Identity of the node and addresses of the coordinators that it follows.
#[derive(Debug, Clone)]
pub struct FeedConfig {
    /// The node's name, for both sides' log lines.
    pub node: String,
    /// The node's cluster: coordinators of other clusters refuse the feed.
    pub cluster: ClusterName,
    /// `host:port` of each coordinator's feed port.
    pub coordinators: Vec<String>,
}

/// Everything that a feed needs besides the ownership.
#[derive(Clone)]
pub struct Feed {
    /// Identity of the node and addresses of the coordinators.
    pub config: FeedConfig,
    /// Queues of batches to the cores.
    pub cores: Vec<Arc<dyn CommandSink>>,
    /// Channel for the feed's notes to the node task.
    pub notes: mpsc::Sender<FeedNote>,
    /// Time, names, connections, and the jitter of the pauses.
    pub world: World,
}

/// A running feed; dropping it ends the feed at once.
#[derive(Debug)]
pub struct Following {
    stop: CancellationToken,
    /// The one task of the feed.
    task: JoinSet<Positions>,
}

#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error("no coordinator: {0}")]
    Resolve(#[from] io::Error),
    #[error("{0}: {1}")]
    Connect(SocketAddr, tonic::transport::Error),
    // Without the status's metadata: its date would make every failure look different.
    #[error("{0}: {code:?}: {message}", code = .1.code(), message = .1.message())]
    Refused(SocketAddr, Status),
    #[error("{0} does not answer")]
    Silent(SocketAddr),
    #[error("{0} ended the feed")]
    Ended(SocketAddr),
    #[error("{0}: {1}")]
    Contract(SocketAddr, SplitError),
    #[error("{0}: log {1} begins at position {2}, behind what this node has applied")]
    Trimmed(SocketAddr, u16, u64),
    #[error("core {0} has ended")]
    CoreEnded(usize),
    #[error("core {0} took no batch within {limit} s", limit = BATCH_TAKEN_WITHIN.as_secs())]
    CoreHangs(usize),
}

impl Feed {
    /// Begins to follow as soon as every receiver in `after` has resolved (or lost its sender).
    pub fn follow(self, splitter: Splitter, after: Vec<oneshot::Receiver<()>>) -> Following {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let (names, world) = (self.config.coordinators.clone(), self.world.clone());
            let mut follower =
                Follower { coordinators: Coordinators::new(names, world), splitter, feed: self };
            let run = async {
                join_all(after).await;
                follower.run().await;
            };
            // The future is dropped between two commands to cores, never within a command, so the
            // positions are exact.
            let _ = stopped.run_until_cancelled(run).await;
            follower.splitter.positions()
        });
        Following { stop, task }
    }
}

impl Following {
    /// Ends the feed; after the return, no further batch reaches a core. Returns the position that
    /// each partition has reached.
    pub async fn stop(mut self) -> Positions {
        self.stop.cancel();
        self.task.join_next().await.and_then(Result::ok).unwrap_or_default()
    }
}

struct Follower {
    feed: Feed,
    coordinators: Coordinators,
    splitter: Splitter,
}

impl Follower {
    async fn run(&mut self) {
        if self.splitter.is_empty() {
            let _ = self.feed.notes.send(FeedNote::CaughtUp).await;
            return;
        }
        let (clock, mut random) = (self.feed.world.clock(), self.feed.world.random());
        let (mut failures, mut failing) = (0, Repeated::default());
        loop {
            let mut batches = 0_u64;
            let Err(error) = self.stream(&mut batches).await;
            let note = match &error {
                FeedError::Refused(_, status) if status.code() == Code::OutOfRange => {
                    warn!(
                        %error,
                        "the log is shorter than what was applied; rebuilding from the beginning"
                    );
                    let _ = self.feed.notes.send(FeedNote::OtherLog).await;
                    return;
                }
                FeedError::Contract(_, SplitError::Ahead { .. }) => {
                    warn!(%error, "the log has lost what was applied; rebuilding from the beginning");
                    let _ = self.feed.notes.send(FeedNote::OtherLog).await;
                    return;
                }
                // The coordinator belongs to another cluster or serves another log; the next
                // coordinator may be the right one. Positions of one log are meaningless in
                // another log; the session decides whether this node may change its log.
                FeedError::Refused(_, status) if status.code() == Code::FailedPrecondition => {
                    FeedNote::Refused
                }
                FeedError::Contract(_, SplitError::OtherLog { .. }) => FeedNote::Refused,
                FeedError::Trimmed(address, log, first) => {
                    debug!(%address, log, first, "log begins behind an applied position");
                    let (log, first) = (LogId(*log), Position(*first));
                    let _ = self.feed.notes.send(FeedNote::Trimmed { log, first }).await;
                    return;
                }
                // The core's events tell the node task that a core has ended.
                FeedError::CoreEnded(_) => return,
                FeedError::CoreHangs(core) => {
                    let _ = self.feed.notes.send(FeedNote::CoreHangs(*core)).await;
                    return;
                }
                _ => FeedNote::Lost,
            };
            let _ = self.feed.notes.send(note).await;
            failures = if batches > 0 { 0 } else { failures + 1 };
            let pause_max = PAUSE_MIN.saturating_mul(1 << failures.min(10)).min(PAUSE_MAX);
            let jitter: f64 = random.random();
            let now = clock.now().since(Time(0));
            if batches > 0 {
                failing = Repeated::default();
            }
            if let Some(times) = failing.note(&error.to_string(), now) {
                warn!(%error, batches, times, "feed failed; retrying");
            }
            sleep(pause_max.mul_f64(jitter)).await;
        }
    }

    /// Runs one stream until the stream fails. Never returns success: a feed has no end.
    async fn stream(&mut self, batches: &mut u64) -> Result<std::convert::Infallible, FeedError> {
        let address = self.coordinators.next().await?;
        let mut stream = self.open(address).await?;
        debug!(%address, "feed stream opened");
        let mut caught_up = false;
        loop {
            if !caught_up && self.splitter.has_caught_up() {
                info!(%address, batches = *batches, "feed caught up with its logs");
                caught_up = true;
                let _ = self.feed.notes.send(FeedNote::CaughtUp).await;
            }
            let batch = next(&mut stream, address).await?;
            self.deliver(batch, address).await?;
            if *batches == 0 {
                self.coordinators.stay();
            }
            *batches += 1;
        }
    }

    async fn open(
        &mut self,
        address: SocketAddr,
    ) -> Result<Streaming<wire::FeedResponse>, FeedError> {
        let channel = channel::connect(&self.feed.world, address, CONNECTION)
            .await
            .map_err(|e| FeedError::Connect(address, e))?;
        let mut client = FeedServiceClient::new(channel).max_decoding_message_size(BATCH_BYTES_MAX);
        let request = self.splitter.request(&self.feed.config.node, &self.feed.config.cluster);
        let answer = async {
            let answer = client.feed(request).await.map_err(|s| FeedError::Refused(address, s))?;
            let mut stream = answer.into_inner();
            let first = next(&mut stream, address).await?;
            Ok::<_, FeedError>((stream, first))
        };
        let answer = timeout(ANSWER_WITHIN, answer).await;
        let (stream, first) = answer.map_err(|_| FeedError::Silent(address))??;
        let started = first.start.ok_or(SplitError::Start);
        let started = started.and_then(|start| self.splitter.start(&start));
        started.map_err(|error| FeedError::Contract(address, error))?;
        Ok(stream)
    }

    async fn deliver(
        &mut self,
        batch: wire::FeedResponse,
        address: SocketAddr,
    ) -> Result<(), FeedError> {
        if batch.start.is_some() {
            return Err(FeedError::Contract(address, SplitError::Start));
        }
        let commands = self.splitter.split(batch).map_err(|e| FeedError::Contract(address, e))?;
        for (core, command) in commands {
            let Command::Apply { log, position, .. } = command else { continue };
            match timeout(BATCH_TAKEN_WITHIN, self.feed.cores[core].send(command)).await {
                Ok(Ok(())) => self.splitter.taken(core, log, position),
                Ok(Err(Closed)) => return Err(FeedError::CoreEnded(core)),
                Err(_) => return Err(FeedError::CoreHangs(core)),
            }
        }
        Ok(())
    }
}

/// The next message of a stream; an error if the message ends the stream.
async fn next(
    stream: &mut Streaming<wire::FeedResponse>,
    address: SocketAddr,
) -> Result<wire::FeedResponse, FeedError> {
    let message = stream.message().await.map_err(|s| FeedError::Refused(address, s))?;
    let message = message.ok_or(FeedError::Ended(address))?;
    match message.trimmed {
        Some(trimmed) => {
            let not_asked = |_| FeedError::Contract(address, SplitError::NotAsked(trimmed.log));
            let log = u16::try_from(trimmed.log).map_err(not_asked)?;
            Err(FeedError::Trimmed(address, log, trimmed.first))
        }
        None => Ok(message),
    }
}

/// Start positions of a feed: partitions in `begin` start where it says, the other followed ones
/// keep their position.
#[must_use]
pub fn resume(
    mut positions: Positions,
    followed: &BTreeSet<PartitionId>,
    begin: BTreeMap<PartitionId, Position>,
) -> Positions {
    positions.retain(|partition, _| followed.contains(partition));
    positions.extend(begin);
    positions
}

#[cfg(test)]
#[path = "feed/core_tests.rs"]
mod core_tests;
