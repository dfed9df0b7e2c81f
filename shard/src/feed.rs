//! Follows the logs: from any coordinator, in order, into the cores.
//!
//! One stream carries all logs of the node's partitions. Each batch is checked (positions are
//! dense: a gap would be a lost registration, a repetition a clock of `apply` that runs backwards),
//! decoded once and split by partition into the cores' queues. Those are bounded: when a core is
//! behind, the reader stops reading, HTTP/2's window closes and the coordinator holds its log back.
//! What is under way is bounded by the window, one message, and the cores' queues.
//!
//! The coordinator begins a stream with the heads of the logs: the node has caught up when its
//! cores have been handed everything up to these, however busy or silent the logs are.
//!
//! A stream that ends, breaks or breaks the contract is opened again from where the cores stand, at
//! the next coordinator, after a pause with full jitter: a cluster of nodes must not come back as
//! one.

pub mod coordinators;
pub mod split;

use std::{collections::BTreeSet, io, net::SocketAddr, sync::Arc, time::Duration};

use clarion_proto::{
    ids::ClusterName,
    wire::shard_v1::{self as wire, feed_service_client::FeedServiceClient},
};
use clarion_runtime::{
    channel::{self, ChannelLimits},
    repeated::Repeated,
};
use futures_util::future::join_all;
use rand::{RngExt, SeedableRng};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use tracing::{debug, error, info, warn};

use self::{
    coordinators::Coordinators,
    split::{Positions, SplitError, Splitter},
};
use crate::{
    command::{Closed, Command, CommandSink},
    control::{FeedNote, ownership::Follows},
};

/// Largest message of the feed. A caller's batch is at most 4 MiB, and its records are no larger
/// than its items were (tokens lose half: hexadecimal to bytes; ids become 16 bytes); the rest is
/// for flushes of several callers' batches.
pub const BATCH_BYTES_MAX: usize = 64 << 20;
/// A coordinator may have a few batches of 10,000 records under way before it hears from us.
const CONNECTION: ChannelLimits = ChannelLimits {
    connect_within: Duration::from_secs(2),
    window_bytes: 8 << 20,
    ping_every: Duration::from_secs(2),
    pong_within: Duration::from_secs(4),
};
/// For the start of a stream; its batches come when there are any.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A core that takes no batch for this long hangs. Longer than the node waits for a command to be
/// taken (10 s): a core takes commands in every turn, but a batch only when it has applied those
/// before it, up to five of [`BATCH_BYTES_MAX`] (one in hand, four queued) at 256 records a turn
/// while waves are under way.
const BATCH_TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// Between two tries where a log was trimmed, at most; at least half of it. Only an operator can
/// help there, and no try but the one after that finds anything else.
const TRIMMED_PAUSE: Duration = Duration::from_secs(30);

/// Who follows, and whom.
#[derive(Debug, Clone)]
pub struct FeedConfig {
    /// The node's name, for both sides' log lines.
    pub node: String,
    /// The node's cluster: another one's coordinator refuses.
    pub cluster: ClusterName,
    /// `host:port` of each coordinator's port for feeds.
    pub coordinators: Vec<String>,
}

/// What following needs besides the ownership.
#[derive(Clone)]
pub struct Feed {
    /// Who follows, and whom.
    pub config: FeedConfig,
    /// Where batches go.
    pub cores: Vec<Arc<dyn CommandSink>>,
    /// Where to tell how it goes.
    pub notes: mpsc::Sender<FeedNote>,
    /// For the pauses.
    pub seed: u64,
}

/// A feed under way.
#[derive(Debug)]
pub struct Following {
    stop: CancellationToken,
    task: JoinHandle<Positions>,
}

#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error("no coordinator: {0}")]
    Resolve(#[from] io::Error),
    #[error("{0}: {1}")]
    Connect(SocketAddr, tonic::transport::Error),
    // Without the status's metadata, in which a date makes every failure another one.
    #[error("{0}: {code:?}: {message}", code = .1.code(), message = .1.message())]
    Refused(SocketAddr, Status),
    #[error("{0} does not answer")]
    Silent(SocketAddr),
    #[error("{0} ended the feed")]
    Ended(SocketAddr),
    #[error("{0}: {1}")]
    Contract(SocketAddr, SplitError),
    #[error("{0}: log {1} begins at position {2}, behind what this node has applied")]
    Trimmed(SocketAddr, u32, u64),
    #[error("core {0} has ended")]
    CoreEnded(usize),
    #[error("core {0} took no batch within {limit} s", limit = BATCH_TAKEN_WITHIN.as_secs())]
    CoreHangs(usize),
}

impl Feed {
    /// Begins to follow as soon as every `after` has come (or its sender is gone).
    pub fn follow(self, splitter: Splitter, after: Vec<oneshot::Receiver<()>>) -> Following {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut follower = Follower {
                coordinators: Coordinators::new(self.config.coordinators.clone()),
                splitter,
                feed: self,
            };
            let run = async {
                join_all(after).await;
                follower.run().await;
            };
            // Dropped between two commands to cores, never within one: positions are exact.
            let _ = stopped.run_until_cancelled(run).await;
            follower.splitter.positions()
        });
        Following { stop, task }
    }
}

impl Following {
    /// Ends it; when this returns, nothing more of it reaches a core. Tells what each core has
    /// taken.
    pub async fn stop(self) -> Positions {
        self.stop.cancel();
        self.task.await.unwrap_or_default()
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
        let mut random = rand_pcg::Pcg64Mcg::seed_from_u64(self.feed.seed);
        let (mut failures, mut failing, begun) =
            (0, Repeated::default(), tokio::time::Instant::now());
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
                // Of another cluster, or with another log: another coordinator may be the right
                // one. Positions of one log mean nothing in another; whether this node may change
                // its log is decided with the session.
                FeedError::Refused(_, status) if status.code() == Code::FailedPrecondition => {
                    FeedNote::Refused
                }
                FeedError::Contract(_, SplitError::OtherLog { .. }) => FeedNote::Refused,
                FeedError::Trimmed(..) => FeedNote::Trimmed,
                // The node task learns from the core's events that a core has ended.
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
            let pause = match note {
                FeedNote::Trimmed => TRIMMED_PAUSE.mul_f64(0.5 + jitter / 2.0),
                _ => pause_max.mul_f64(jitter),
            };
            let now = begun.elapsed();
            if batches > 0 {
                failing = Repeated::default();
            }
            match (failing.note(&error.to_string(), now), note) {
                (Some(times), FeedNote::Trimmed) => {
                    error!(%error, times, "log trimmed before this node applied it; not ready");
                }
                (Some(times), _) => warn!(%error, batches, times, "feed failed; retrying"),
                (None, _) => {}
            }
            sleep(pause).await;
        }
    }

    /// One stream, until it fails. Never ends well: a feed is without end.
    async fn stream(&mut self, batches: &mut u64) -> Result<std::convert::Infallible, FeedError> {
        let address = self.coordinators.next().await?;
        let mut stream = self.open(address).await?;
        debug!(%address, "stream of the feed opened");
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
        let channel = channel::endpoint(address, CONNECTION)
            .map_err(|e| FeedError::Connect(address, e))?
            .connect()
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

/// The next message of a stream, unless it is the one that ends it.
async fn next(
    stream: &mut Streaming<wire::FeedResponse>,
    address: SocketAddr,
) -> Result<wire::FeedResponse, FeedError> {
    let message = stream.message().await.map_err(|s| FeedError::Refused(address, s))?;
    let message = message.ok_or(FeedError::Ended(address))?;
    match message.trimmed {
        Some(trimmed) => Err(FeedError::Trimmed(address, trimmed.log, trimmed.first)),
        None => Ok(message),
    }
}

/// Positions for a feed that goes on: what `continues` from where it was, the rest from the
/// beginning.
#[must_use]
pub fn resume(mut positions: Positions, continues: &BTreeSet<Follows>) -> Positions {
    positions.retain(|follows, _| continues.contains(follows));
    positions
}
