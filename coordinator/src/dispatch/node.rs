//! The task of one node address: connects, exchanges messages, reconnects. The only module below
//! the API that uses gRPC.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clarion_proto::{
    limits::{DRAINING, RESPONSE_BYTES_TAKEN},
    time::Time,
    wire::shard_v1::{self as wire, SessionRequest, shard_service_client::ShardServiceClient},
};
use clarion_runtime::{
    channel::{self, ChannelLimits},
    repeated::Repeated,
    world::World,
};
use futures_util::stream::{PollNext, select_with_strategy};
use rand::RngExt;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Streaming};

use super::cluster::Cluster;
use crate::{
    members::Refused,
    session::{
        NotReading, Session,
        hello::{self, Greeted, HelloError},
        message,
    },
    standing::Standing,
};
use reconnect::Reconnect;

mod reconnect;

/// A dead connection is noticed after five seconds. A complete first report fits into one window.
const CONNECTION: ChannelLimits = ChannelLimits {
    connect_within: Duration::from_secs(3),
    window_bytes: 8 << 20,
    ping_every: Duration::from_secs(2),
    pong_within: Duration::from_secs(3),
};
/// Queue of messages between the state machine and the stream. HTTP/2 buffers more after the queue;
/// the state machine's own limit applies before it.
const OUTGOING: usize = 64;
/// Queue of parts between the state machine and the stream: all other messages overtake the parts.
const PARTS: usize = 1;

/// Time to wait for a gRPC status that is in transit when the stream has failed.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Why a session ended or did not begin. Every variant is worth a retry.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("the node refuses the session: {}", .0.message())]
    Call(tonic::Status),
    #[error("no Hello within {} s", hello::DEADLINE.as_secs())]
    NoHello,
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    NotReading(#[from] NotReading),
    #[error("the stream broke: {:?}: {}", .0.code(), .0.message())]
    Broken(tonic::Status),
    #[error("the node ended the stream")]
    Ended,
}

impl SessionError {
    /// Whether a sent message may have broken the session. False if the node ended the session
    /// itself: the node is shutting down, or a newer session has replaced this one.
    fn may_be_our_fault(&self) -> bool {
        match self {
            Self::Broken(status) => {
                !(status.code() == Code::Aborted || status.message() == DRAINING)
            }
            Self::Ended => true,
            Self::Connect(_)
            | Self::Call(_)
            | Self::NoHello
            | Self::Hello(_)
            | Self::Refused(_) => false,
            // The node does not read at all; no single message is the cause.
            Self::NotReading(_) => true,
        }
    }
}

/// Keeps a session with the node at an address until `stop`. After `leave`, the present session
/// goes on but is not replaced.
pub(crate) async fn keep_session(
    address: SocketAddr,
    cluster: Arc<Cluster>,
    world: World,
    leave: CancellationToken,
    stop: CancellationToken,
) {
    // Reconnects to many nodes must not stay synchronized: each address draws its own pauses.
    let mut random = world.random();
    let mut reconnect = Reconnect::default();
    let mut failing = Repeated::default();
    while !leave.is_cancelled() {
        let opened = tokio::select! {
            biased;
            () = leave.cancelled() => break,
            opened = Opened::open(address, &cluster, &world) => opened,
        };
        let result = match opened {
            Ok(opened) => {
                let begun = cluster.clock.now();
                let result = opened.run(&cluster, address, &stop).await;
                if reconnect.ended(cluster.clock.now().since(begun)) {
                    failing = Repeated::default();
                }
                result
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            if matches!(&error, SessionError::Call(status) if status.code() == tonic::Code::Unavailable)
            {
                cluster.roster.coming(cluster.clock.now());
            }
            let (reason, now) = (error.to_string(), cluster.clock.now().since(Time(0)));
            if let Some(times) = failing.note(&reason, now) {
                tracing::warn!(%address, reason, times, "session failed; retrying");
            }
        }
        let nap = random.random_range(Duration::ZERO..=reconnect.pause());
        tokio::select! {
            biased;
            () = leave.cancelled() => {}
            () = tokio::time::sleep(nap) => {}
        }
    }
}

/// A stream whose node has sent its Hello and is claimed in the roster.
struct Opened {
    session: Session,
    outgoing: mpsc::Sender<SessionRequest>,
    parts: mpsc::Sender<SessionRequest>,
    incoming: Streaming<wire::SessionResponse>,
    standing: tokio::sync::watch::Receiver<Arc<Standing>>,
}

impl Opened {
    async fn open(
        address: SocketAddr,
        cluster: &Cluster,
        world: &World,
    ) -> Result<Self, SessionError> {
        let connecting = channel::connect(world, address, CONNECTION);
        let connecting = timeout(CONNECTION.connect_within, connecting).await;
        let channel = match connecting {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(SessionError::Connect(deepest(&error))),
            Err(_) => {
                return Err(SessionError::Connect(format!(
                    "{} s passed",
                    CONNECTION.connect_within.as_secs()
                )));
            }
        };
        let mut client =
            ShardServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_TAKEN);
        let (outgoing, requests) = mpsc::channel(OUTGOING);
        // The node accepts or refuses the session by this message.
        outgoing.try_send(message::open(&cluster.identity)).map_err(|_| SessionError::Ended)?;
        let (parts, cover_parts) = mpsc::channel(PARTS);
        let requests = select_with_strategy(
            ReceiverStream::new(requests),
            ReceiverStream::new(cover_parts),
            |(): &mut ()| PollNext::Left,
        );
        let hello = async {
            let call = client.session(requests).await;
            let mut incoming = call.map_err(SessionError::Call)?.into_inner();
            let first = incoming
                .message()
                .await
                .map_err(SessionError::Broken)?
                .ok_or(SessionError::Ended)?;
            Ok::<_, SessionError>((first, incoming))
        };
        let (first, incoming) =
            timeout(hello::DEADLINE, hello).await.map_err(|_| SessionError::NoHello)??;
        let Greeted { node, boot, positions, hello } =
            hello::check(first.message.as_ref(), &cluster.identity)?;
        let (now, log) = (cluster.clock.now(), cluster.identity.log);
        let memory = cluster.roster.claim(&node, boot, address, positions, now)?;
        tracing::info!(
            %node,
            %address,
            version = hello.version,
            cores = hello.cores,
            "session with node begun"
        );
        let mut standing = cluster.board.watch();
        let holds = standing.borrow_and_update().clone();
        if holds.owned.as_ref().is_some_and(|owned| owned.share(&node) == 0) {
            tracing::warn!(
                %node,
                "node owns no partition: partitions were assigned before this node joined"
            );
        }
        let session = Session::open((node, boot), log, memory, holds, now);
        Ok(Self { session, outgoing, parts, incoming, standing })
    }

    /// Exchanges messages until the stream ends or `stop`; then releases the node.
    async fn run(
        mut self,
        cluster: &Cluster,
        address: SocketAddr,
        stop: &CancellationToken,
    ) -> Result<(), SessionError> {
        let result = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            result = self.exchange(cluster) => result,
        };
        let (node, boot) = (self.session.node().clone(), self.session.boot());
        let left = self.session.has_left();
        tracing::info!(%node, %address, drained = left, "session with node ended");
        let broken = result
            .as_ref()
            .err()
            .filter(|error| !left && error.may_be_our_fault())
            .map(ToString::to_string);
        let (memory, notes) = self.session.close(broken.as_deref());
        cluster.roster.release(&node, memory);
        for note in notes {
            cluster.note(&node, boot, note).await;
        }
        cluster.gone(&node, boot).await;
        if left { Ok(()) } else { result }
    }

    async fn exchange(&mut self, cluster: &Cluster) -> Result<(), SessionError> {
        let Self { session, outgoing, parts, incoming, standing } = self;
        loop {
            while let Some(note) = session.poll_note() {
                cluster.note(&session.node().clone(), session.boot(), note).await;
            }
            // At most one part in a turn: neither the parts of a large cover nor the messages of a
            // busy node make each other wait.
            if session.has_part()
                && let Ok(permit) = parts.try_reserve()
                && let Some(part) = session.poll_part()
            {
                permit.send(part);
            }
            let wake = session.deadline();
            // Messages to the node come first: grants are among them. Each message follows from a
            // branch below, so the messages come to an end. A deadline passes once, and the board
            // holds one value however often it changes. The node's stream, which may always have
            // a message, is behind them; the last branch only waits for room, as each turn begins
            // with a part.
            tokio::select! {
                biased;
                // Reading goes on while the node does not read: the node may be waiting for this
                // coordinator to read, too.
                permit = outgoing.reserve(), if session.has_message() => {
                    match (permit, session.poll_message()) {
                        (Ok(permit), Some(message)) => permit.send(message),
                        (Err(_), _) => return Err(last_words(incoming).await),
                        (Ok(_), None) => {}
                    }
                }
                () = cluster.clock.sleep_until(wake) => session.expire(cluster.clock.now()),
                changed = standing.changed() => {
                    if changed.is_err() {
                        return Ok(()); // the dispatcher is gone
                    }
                    let holds = standing.borrow_and_update().clone();
                    session.update(holds, cluster.clock.now());
                }
                said = incoming.message() => {
                    let said = said.map_err(SessionError::Broken)?.ok_or(SessionError::Ended)?;
                    if let Some(message) = said.message {
                        session.receive(message, cluster.clock.now())?;
                    }
                }
                permit = parts.reserve(), if session.has_part() => {
                    match (permit, session.poll_part()) {
                        (Ok(permit), Some(part)) => permit.send(part),
                        (Err(_), _) => return Err(last_words(incoming).await),
                        (Ok(_), None) => {}
                    }
                }
            }
        }
    }
}

/// The node's reason for ending the stream, if it sent one: a message may have been invalid.
async fn last_words(incoming: &mut Streaming<wire::SessionResponse>) -> SessionError {
    let words = async {
        loop {
            match incoming.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return SessionError::Ended,
                Err(status) => return SessionError::Broken(status),
            }
        }
    };
    timeout(LAST_WORDS, words).await.unwrap_or(SessionError::Ended)
}

/// The text of an error with its causes: tonic's `transport error` alone names no cause.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
