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
    /// with both: FCM closes a connection that exceeds its 100, and SETTINGS arrive with the end of
    /// the handshake.
    pub platform: Platform,
    /// Value of the `:authority` pseudo-header.
    pub authority: String,
    /// Most open requests, even if the peer allows more; 1 to [`Self::STREAMS_MAX`], other values
    /// are clamped.
    pub streams_max: usize,
    /// Time after which a request is reset and counts as unanswered. It is the same for all, which
    /// keeps deadlines in the order of sending.
    pub request_deadline: Duration,
    /// Whether `authorization` enters the header table, once per credential. Otherwise it is a
    /// literal in each request, as Apple advises (Apple, "Sending notification requests to APNs").
    pub authorization_indexed: bool,
    /// Time without a byte from the peer after which a PING is sent; `None`: never (FCM punishes
    /// PINGs).
    pub ping_after: Option<Duration>,
    /// Time limit for the answer to a PING; then the connection is closed.
    pub ping_deadline: Duration,
    /// Time for which open requests may still be answered after a GOAWAY of either side.
    pub drain_deadline: Duration,
    /// Highest stream id; the connection drains when it is used. [`Self::STREAM_ID_LAST`] except in
    /// tests.
    pub stream_id_last: u32,
}

impl ConnectionConfig {
    /// Most streams of one connection. The ring of slots has twice as many, rounded up to a power
    /// of two, 32 bytes each.
    pub const STREAMS_MAX: usize = 16_384;
    /// Highest stream id that a client can use.
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
    /// APNs: the complete JSON. FCM: the body before the token.
    pub body: Bytes,
    /// FCM: the body after the token. APNs: empty.
    pub body_after_token: Bytes,
}

impl TemplateSpec {
    /// Returns the size of the body with a token of this length, bytes.
    pub(crate) fn body_bytes(&self, token_bytes: usize) -> usize {
        let token_bytes = match self.request.platform() {
            Platform::Apns => 0,
            Platform::Fcm => token_bytes,
        };
        self.body.len() + token_bytes + self.body_after_token.len()
    }
}

/// Result of a ticket, or end of the connection. Each ticket gets exactly one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionEvent {
    /// The gateway answered a push.
    Answer {
        /// Ticket of the push.
        ticket: u64,
        /// The parsed answer.
        answer: Answer,
    },
    /// The request was sent, and there is no complete answer. It may have been processed.
    Unanswered {
        /// Ticket of the push.
        ticket: u64,
        /// Status of an answer that broke off after its head. Its source is unknown.
        status: Option<u16>,
    },
    /// The request was certainly not processed, so that it may be sent again at once.
    Unprocessed {
        /// Ticket of the push.
        ticket: u64,
    },
    /// The connection takes no more requests; open ones may still be answered. The event comes
    /// once, and always before [`Self::Closed`].
    Closing {
        /// Reason why the connection takes no more requests.
        reason: CloseReason,
    },
    /// Every ticket has had its event. The last output of [`super::Connection::transmit`] may be
    /// written before the socket is closed. The event comes once.
    Closed,
}

/// Reason why a connection takes no more requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer sent GOAWAY.
    GoAway {
        /// Error code; `NO_ERROR` for a graceful end.
        code: ErrorCode,
        /// Reason in the debug data, where APNs may send a JSON body as in an answer (Apple,
        /// "Sending notification requests to APNs").
        reason: Reason,
    },
    /// All stream ids are used; a new connection is needed.
    StreamIdsSpent,
    /// The owner closed the connection with [`super::Connection::close`].
    Asked,
    /// The peer sent nothing although an answer was due.
    Silent,
    /// The peer violated the protocol.
    Error(ConnectionError),
    /// The socket is lost ([`super::Connection::drop_all`]).
    Lost,
}

/// Reason why an established connection without open requests can send nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// `SETTINGS_MAX_CONCURRENT_STREAMS` is 0: the gateway allows no stream.
    #[error("the gateway allows no stream (SETTINGS_MAX_CONCURRENT_STREAMS 0)")]
    Streams,
    /// The peer has given no credit for the bytes that were sent.
    #[error("the gateway opens no flow-control window for requests")]
    Window,
    /// A request's header list exceeds the peer's `SETTINGS_MAX_HEADER_LIST_SIZE`, given here in
    /// bytes.
    #[error("a push's header list exceeds the gateway's limit (SETTINGS_MAX_HEADER_LIST_SIZE {0})")]
    HeaderList(usize),
}

/// Reason why a push was not taken. Nothing was written and the ticket gets no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The connection has no room ([`super::Connection::room`] is 0). A retry is possible after the
    /// next answers.
    #[error("no stream or window is free")]
    Full,
    /// The connection is closing, so another one must be used.
    #[error("the connection takes no more requests")]
    Closing,
    /// The device's token is invalid, so no retry can succeed.
    #[error(
        "token: must have 1 to {} bytes; for FCM, printable ASCII only",
        clarion_proto::device::TOKEN_BYTES_MAX
    )]
    Token,
    /// A header of the alert is invalid, so no device can succeed.
    #[error("header {0}: contains bytes that are not allowed in a header")]
    Header(&'static str),
    /// The header list is too large for the gateway's limit, so no device can succeed on this
    /// connection.
    #[error("the request's header list exceeds the gateway's limit")]
    HeaderListTooLarge,
}
