//! Parameters, events and errors of a connection.

use std::time::Duration;

use bytes::Bytes;

use super::{
    error::{ConnectionError, ErrorCode},
    frames::STREAM_ID_MAX,
};
use crate::{
    lane::provider::request::Request,
    outcome::{Answer, Platform, Reason},
};

/// Limits and deadlines of one connection.
#[derive(Debug, Clone)]
pub struct ConnectionConfig {
    /// Platform, which decides how answers are parsed and how many requests may be open before the
    /// first answer: with APNs one, until a credential was accepted (Apple, "Establishing a
    /// token-based connection to APNs"); with FCM the limit in SETTINGS. Before SETTINGS it is one
    /// with both: FCM ends a connection that exceeds its 100, and SETTINGS arrive with the end of
    /// the handshake.
    pub platform: Platform,
    /// Value of the `:authority` pseudo-header.
    pub authority: String,
    /// Requests open at once, whatever more the peer allows; 1 to [`Self::STREAMS_MAX`], others are
    /// brought inside.
    pub streams_max: usize,
    /// From the push; then the request is reset and counts as unanswered. The same for all, which
    /// keeps deadlines in the order of sending.
    pub request_deadline: Duration,
    /// Whether `authorization` enters the header table, once per credential. Otherwise it is a
    /// literal in each request, as Apple advises (Apple, "Sending notification requests to APNs").
    pub authorization_indexed: bool,
    /// After so long without a byte from the peer a PING asks whether it is there; `None`: never
    /// (FCM punishes PINGs).
    pub ping_after: Option<Duration>,
    /// Time limit for the answer to a PING; then the connection is closed.
    pub ping_deadline: Duration,
    /// How long open requests may still be answered after GOAWAY, either side's.
    pub drain_deadline: Duration,
    /// The connection drains when the ids up to here are used. [`Self::STREAM_ID_LAST`] but in
    /// tests.
    pub stream_id_last: u32,
}

impl ConnectionConfig {
    /// Most streams of one connection; the ring of slots has twice as many, rounded up to a power
    /// of two, 32 bytes each.
    pub const STREAMS_MAX: usize = 16_384;
    /// The highest id a client can use.
    pub const STREAM_ID_LAST: u32 = STREAM_ID_MAX;
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            platform: Platform::Apns,
            authority: String::new(),
            streams_max: 1_000,
            request_deadline: Duration::from_secs(10),
            authorization_indexed: true,
            ping_after: Some(Duration::from_secs(60)),
            ping_deadline: Duration::from_secs(10),
            drain_deadline: Duration::from_secs(10),
            stream_id_last: Self::STREAM_ID_LAST,
        }
    }
}

/// Content that all pushes of one template share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateSpec {
    /// Fields of the request.
    pub request: Request,
    /// APNs: the complete JSON. FCM: the bytes before the token.
    pub body: Bytes,
    /// FCM: the bytes after the token. APNs: empty.
    pub body_after_token: Bytes,
}

impl TemplateSpec {
    /// Bytes of the body of a push to a token of this length.
    pub(crate) fn body_bytes(&self, token_bytes: usize) -> usize {
        let token_bytes = match self.request.platform() {
            Platform::Apns => 0,
            Platform::Fcm => token_bytes,
        };
        self.body.len() + token_bytes + self.body_after_token.len()
    }
}

/// What became of a ticket, or of the connection. Each ticket pushed gets exactly one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionEvent {
    /// The gateway answered a push.
    Answer {
        /// Ticket of the push.
        ticket: u64,
        /// The parsed answer.
        answer: Answer,
    },
    /// Sent, and no answer came or will come as a whole: perhaps processed.
    Unanswered {
        /// Ticket of the push.
        ticket: u64,
        /// Status of an answer that broke off after its head. Its source is unknown.
        status: Option<u16>,
    },
    /// Certainly not processed: safe to send again at once.
    Unprocessed {
        /// Ticket of the push.
        ticket: u64,
    },
    /// No more requests go out here; open ones may still be answered. Once, and always before
    /// [`Self::Closed`].
    Closing {
        /// Reason why the connection takes no more requests.
        reason: CloseReason,
    },
    /// Every ticket has had its event. What [`super::Connection::transmit`] still gives may be
    /// written, then the socket can be closed. Once.
    Closed,
}

/// Why a connection takes no more requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer sent GOAWAY.
    GoAway {
        /// `NO_ERROR` for an orderly end.
        code: ErrorCode,
        /// From the debug data, where APNs may give a JSON body as in an answer (Apple, "Sending
        /// notification requests to APNs").
        reason: Reason,
    },
    /// All stream ids are used; a new connection is needed.
    StreamIdsSpent,
    /// The owner closed the connection: see [`super::Connection::close`].
    Asked,
    /// The peer sent nothing although something was due.
    Silent,
    /// The peer broke the protocol.
    Error(ConnectionError),
    /// [`super::Connection::drop_all`]: the socket is gone.
    Lost,
}

/// Reason why an established connection without open requests can send nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// `SETTINGS_MAX_CONCURRENT_STREAMS` is 0: the gateway allows no stream.
    #[error("the gateway allows no stream (SETTINGS_MAX_CONCURRENT_STREAMS 0)")]
    Streams,
    /// No credit has come for what was sent.
    #[error("the gateway opens no flow-control window for requests")]
    Window,
    /// A request's header list exceeds the peer's `SETTINGS_MAX_HEADER_LIST_SIZE`, in bytes.
    #[error("a push's header list exceeds the gateway's limit (SETTINGS_MAX_HEADER_LIST_SIZE {0})")]
    HeaderList(usize),
}

/// A push that was not taken; nothing was written and the ticket gets no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// No error: [`super::Connection::room`] is 0; retry after the next answers.
    #[error("no stream or window is free")]
    Full,
    /// No error: use another connection.
    #[error("the connection takes no more requests")]
    Closing,
    /// The device's fault: no other try can succeed.
    #[error(
        "token: must have 1 to {} bytes; for FCM, printable ASCII only",
        clarion_proto::device::TOKEN_BYTES_MAX
    )]
    Token,
    /// The alert's fault: no device can succeed.
    #[error("header {0}: contains bytes that are not allowed in a header")]
    Header(&'static str),
    /// The alert's fault, or the gateway allows strangely little: no device can succeed on this
    /// connection.
    #[error("the request's header list exceeds the gateway's limit")]
    HeaderListTooLarge,
}
