//! The gRPC service of a node: accepts sessions and passes checked messages to the control plane.
//!
//! Only this file creates a `Status`. A coordinator that may not have a session gets a `Status`,
//! and a session ends with one when it is superseded or the node shuts down; a node answers any
//! invalid later message with a message of the session.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use clarion_proto::{
    limits::{DRAINING, REQUEST_BYTES_TAKEN},
    time::Time,
    wire::shard_v1::{
        self as wire, SessionRequest, SessionResponse,
        shard_service_server::{ShardService, ShardServiceServer},
    },
};
use clarion_runtime::repeated::Repeated;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_stream::Stream;
use tokio_util::task::TaskTracker;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};
use tracing::{Instrument, Span, debug, info_span, warn};

use crate::{
    control::{
        assembly::Assembly,
        fence::{FORMER_LOG_FOR, Fenced, Opened},
        message::{Message, Rejected, opened},
    },
    wave::Room,
};

/// Messages decoded and not yet taken by the control plane.
const INBOUND: usize = 16;
/// Messages made and not yet taken by the transport. Few: what waits here cannot be merged any
/// more.
const OUTBOUND: usize = 8;
/// Time limit for the control plane to take a message: beyond it the cores delay the control plane;
/// the session ends, and the coordinator reconnects.
const TAKE_WITHIN: Duration = Duration::from_secs(10);
/// Time limit for the coordinator's first message, Open.
pub const OPEN_WITHIN: Duration = Duration::from_secs(5);
/// Time limit for the control plane to admit a session; cores may delay it.
pub const ADMIT_WITHIN: Duration = Duration::from_secs(5);

/// Pause before a coordinator asks again for a session that all other coordinators hold.
const FULL_RETRY: Duration = Duration::from_secs(5);

/// The clock of the node, shared with its cores.
pub type Now = Arc<dyn Fn() -> Time + Send + Sync>;

/// A session that has begun, as the control plane gets it.
#[derive(Debug)]
pub struct SessionHandle {
    /// The coordinator's Open.
    pub opened: Opened,
    /// Sends whether the session may begin; dropped: the node takes no session.
    pub admitted: oneshot::Sender<Result<(), Fenced>>,
    /// Messages of the coordinator; the channel ends with the session.
    pub inbound: mpsc::Receiver<Result<Message, Rejected>>,
    /// Messages to the coordinator.
    pub outbound: mpsc::Sender<SessionResponse>,
    /// Ends the session at once; dropped without a value: the stream ends without an error.
    pub end: oneshot::Sender<End>,
    /// Span of the session for log lines and traces.
    pub span: Span,
}

/// Why the node ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A newer session has replaced this one.
    Superseded,
    /// The coordinator does not read messages.
    NotRead,
    /// The node shuts down.
    Draining,
}

/// The gRPC service of a shard node: accepts sessions of coordinators.
pub struct Service {
    sessions: mpsc::Sender<SessionHandle>,
    now: Now,
    room: Room,
    /// Limits the log lines about sessions that the node closes.
    closed: Arc<Mutex<Repeated>>,
    /// Owns the tasks that receive the messages of sessions.
    streams: TaskTracker,
}

impl Service {
    /// The gRPC service; new sessions go to `sessions`, the tasks that receive their messages to
    /// `streams`. A task ends with its session.
    #[must_use]
    pub fn server(
        sessions: mpsc::Sender<SessionHandle>,
        now: Now,
        streams: TaskTracker,
    ) -> ShardServiceServer<Self> {
        let room = Room::default();
        let closed = Arc::default();
        ShardServiceServer::new(Self { sessions, now, room, closed, streams })
            .max_decoding_message_size(REQUEST_BYTES_TAKEN)
    }
}

#[tonic::async_trait]
impl ShardService for Service {
    type SessionStream = Outbound;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Outbound>, Status> {
        let peer = request.remote_addr();
        let span = info_span!("session", peer = peer.map(tracing::field::display));
        clarion_runtime::telemetry::continue_trace(&span, request.metadata());
        let mut requests = request.into_inner();
        let opened = open(&mut requests).await?;
        let (inbound, taken) = mpsc::channel(INBOUND);
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        let (end, ended) = oneshot::channel();
        let (admit, admitted) = oneshot::channel();
        let connected = SessionHandle {
            opened,
            admitted: admit,
            inbound: taken,
            outbound,
            end,
            span: span.clone(),
        };
        let none = || Status::unavailable("the node cannot open a session now; retry");
        self.sessions.try_send(connected).map_err(|_| none())?;
        timeout(ADMIT_WITHIN, admitted)
            .await
            .map_err(|_| none())?
            .map_err(|_| none())?
            .map_err(|f| refused(&f))?;
        // Ends with the stream of requests, or as soon as the control plane has dropped its end of
        // the queue.
        let (unreadable, broken) = oneshot::channel();
        let assembly = Assembly::new(self.room.clone());
        self.streams.spawn(
            receive(
                requests,
                assembly,
                inbound,
                unreadable,
                self.now.clone(),
                Arc::clone(&self.closed),
            )
            .instrument(span),
        );
        Ok(Response::new(Outbound { messages, ended: Some(ended), broken: Some(broken) }))
    }
}

/// Waits for the coordinator's Open, which decides whether the session may continue.
async fn open(requests: &mut Streaming<SessionRequest>) -> Result<Opened, Status> {
    let late = |_| {
        Status::deadline_exceeded(format!(
            "open: must arrive within {} s of the session's start",
            OPEN_WITHIN.as_secs()
        ))
    };
    let first = timeout(OPEN_WITHIN, requests.message()).await.map_err(late)??;
    let first = first.ok_or_else(|| {
        Status::invalid_argument("open: must be the first message; the stream ended before it")
    })?;
    opened(first).map_err(|problem| Status::invalid_argument(problem.to_string()))
}

/// The status of a refused session, with the time of a retry if a retry helps without a change by
/// an operator.
fn refused(fenced: &Fenced) -> Status {
    let (code, retry) = match fenced {
        Fenced::Cluster { .. } | Fenced::OtherLog { .. } => (Code::FailedPrecondition, None),
        Fenced::FormerLog { .. } => (Code::Unavailable, Some(FORMER_LOG_FOR)),
        Fenced::Full => (Code::ResourceExhausted, Some(FULL_RETRY)),
    };
    let mut details = ErrorDetails::new();
    if retry.is_some() {
        details.set_retry_info(retry);
    }
    Status::with_error_details(code, fenced.to_string(), details)
}

/// Receives messages until the session ends. `unreadable` tells the coordinator why an undecodable
/// message ended the session, so that the coordinator does not send it for ever.
async fn receive(
    mut requests: Streaming<SessionRequest>,
    mut assembly: Assembly,
    inbound: mpsc::Sender<Result<Message, Rejected>>,
    unreadable: oneshot::Sender<Status>,
    now: Now,
    closed: Arc<Mutex<Repeated>>,
) {
    let times_to_log = |reason: &str| closed.lock().note(reason, now().since(Time(0)));
    loop {
        let request = tokio::select! {
            // Of a session that has ended nothing more is taken.
            biased;
            () = inbound.closed() => return,
            request = requests.message() => request,
        };
        let message = match request {
            Ok(Some(request)) => match assembly.take(request, now()) {
                Some(message) => message,
                None => continue,
            },
            Ok(None) => return debug!("session closed by the coordinator"),
            Err(status) => {
                match status.code() {
                    Code::OutOfRange | Code::Internal => {
                        if let Some(times) = times_to_log(status.message()) {
                            warn!(%status, times, "session closed: unreadable message received");
                        }
                    }
                    _ => debug!(%status, "session lost: connection to coordinator broke"),
                }
                // Of a connection that is gone, nobody hears this.
                let _ = unreadable.send(status);
                return;
            }
        };
        match timeout(TAKE_WITHIN, inbound.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                if let Some(times) = times_to_log("not taken") {
                    warn!(times, "session closed: node took no message in time");
                }
                return;
            }
        }
    }
}

/// The response stream of a session: messages until the control plane or the session ends.
#[derive(Debug)]
pub struct Outbound {
    messages: mpsc::Receiver<SessionResponse>,
    ended: Option<oneshot::Receiver<End>>,
    /// Status that ends the stream when requests cannot be received any more.
    broken: Option<oneshot::Receiver<Status>>,
}

impl Stream for Outbound {
    type Item = Result<wire::SessionResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(ended) = &mut self.ended
            && let Poll::Ready(end) = Pin::new(ended).poll(context)
        {
            self.ended = None;
            if let Ok(end) = end {
                self.messages.close();
                return Poll::Ready(Some(Err(status(end))));
            }
        }
        if let Some(broken) = &mut self.broken
            && let Poll::Ready(status) = Pin::new(broken).poll(context)
        {
            self.broken = None;
            if let Ok(status) = status {
                self.messages.close();
                return Poll::Ready(Some(Err(status)));
            }
        }
        self.messages.poll_recv(context).map(|message| message.map(Ok))
    }
}

fn status(end: End) -> Status {
    match end {
        End::Superseded => Status::aborted("a newer session has replaced this one"),
        End::NotRead => {
            Status::deadline_exceeded("the coordinator did not read the session's messages in time")
        }
        End::Draining => Status::unavailable(DRAINING),
    }
}
