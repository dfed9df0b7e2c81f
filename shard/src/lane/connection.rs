//! One HTTP/2 connection to a gateway, as a state machine without I/O and clock.
//!
//! A general client spends some ten microseconds on a push: it builds a header map, encodes each
//! field, and allocates for the stream and for the answer. But the pushes of a message differ only
//! in their token and stream id (APNs has the token in `:path`, FCM in the body), and nearly every
//! answer is `:status 200` with nothing else that matters. So here a request is copied from a
//! template (`template`), a stream is a slot in a ring (`streams`), and an ordinary answer is
//! recognised by three bytes (`read`). Neither allocates. Everything else that HTTP/2 allows is
//! handled on slower paths: settings at any time, windows in both directions, blocks and bodies in
//! pieces, resets, GOAWAY in one and two steps.
//!
//! Guarantees:
//! - each ticket that [`Connection::push`] accepted gets exactly one event, whatever the peer or
//!   the socket does;
//! - a ticket is [`ConnectionEvent::Unprocessed`] only if the peer certainly did not process it;
//! - memory is bounded: open streams and events by `streams_max`, blocks and bodies by constants,
//!   output that the peer can cause between two calls of [`Connection::transmit`] by a count;
//! - frames without progress (PING, SETTINGS, frames of streams that ended long ago) are accepted
//!   in bounded number (`patience`);
//! - whatever the peer sends, at worst this connection ends.
//!
//! ```text
//! push ──template──▶ out ──transmit──▶ socket ──receive──▶ frames ──answers──▶ poll
//! ```

mod answers;
mod closing;
mod error;
mod flow;
mod frames;
mod hpack;
mod patience;
mod push;
mod read;
mod retry_after;
mod settings;
mod spec;
mod streams;
mod template;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use clarion_proto::time::Time;

use self::{
    closing::Phase, flow::SendWindows, read::Reader, streams::Streams, template::Templates,
};
pub use self::{
    error::{ConnectionError, ErrorCode},
    spec::{CloseReason, ConnectionConfig, ConnectionEvent, Obstacle, PushError, TemplateSpec},
};
use crate::{
    lane::provider::{answer::body_bytes_max, authorization::Authorization},
    outcome::{Answer, Platform},
};

/// Smallest buffer that is worth lending, bytes. Smaller ones hold only a few frames, such as
/// acknowledgements.
const BUFFER_BYTES_MIN: usize = 16 * 1024;
/// Capacity for events that is kept once all are fetched. After a storm of errors there were two
/// events for each stream.
const EVENTS_KEPT: usize = 64;

/// The client's side of one HTTP/2 connection.
pub struct Connection {
    config: ConnectionConfig,
    authorization: Authorization,

    // Requests.
    encoder: hpack::encode::Encoder,
    templates: Templates,
    streams: Streams,
    windows: SendWindows,
    peer: Peer,
    /// Number of streams opened since the last [`Self::transmit`].
    openings: usize,
    /// Whether the stream limit in SETTINGS applies: with APNs after an answered request (Apple,
    /// "Sending notification requests to APNs"), with FCM from the beginning.
    proven: bool,

    // Answers.
    reader: Reader,
    answers: answers::Answers,
    credit: flow::Credit,
    /// Accepted tickets: nearly all answers contain nothing else, so they are stored as eight bytes
    /// each.
    accepted: VecDeque<u64>,
    events: VecDeque<ConnectionEvent>,

    // Life.
    phase: Phase,
    /// Newest time that a caller passed.
    now: Time,
    last_received: Time,
    /// Time of a PING after which the peer has sent nothing.
    pinged: Option<Time>,
    /// Whether GOAWAY was written.
    goaway_sent: bool,

    // Output.
    out: Vec<u8>,
    /// Number of acknowledgements in `out`, which the peer caused.
    acknowledgements: usize,
}

/// Limits in the peer's SETTINGS, except for windows.
#[derive(Debug)]
struct Peer {
    streams_max: usize,
    header_table_bytes: usize,
    header_list_bytes_max: usize,
}

impl Connection {
    /// Creates a connection on a socket that has just been opened. Its first output is the preface
    /// and SETTINGS.
    #[must_use]
    pub fn new(mut config: ConnectionConfig, authorization: Authorization, now: Time) -> Self {
        config.streams_max = config.streams_max.clamp(1, ConnectionConfig::STREAMS_MAX);
        config.stream_id_last = config.stream_id_last.min(ConnectionConfig::STREAM_ID_LAST);
        let mut out = frames::PREFACE.to_vec();
        settings::put_ours(&mut out);
        let credit = flow::Credit::new(&mut out);
        Self {
            authorization,
            encoder: hpack::encode::Encoder::new(),
            templates: Templates::default(),
            streams: Streams::new(config.streams_max, config.stream_id_last),
            windows: SendWindows::new(),
            // One stream until SETTINGS allow more.
            peer: Peer {
                streams_max: 1,
                header_table_bytes: hpack::TABLE_SIZE_DEFAULT,
                header_list_bytes_max: usize::MAX,
            },
            openings: 0,
            proven: config.platform == Platform::Fcm,
            reader: Reader::new(),
            answers: answers::Answers::new(body_bytes_max(config.platform)),
            credit,
            accepted: VecDeque::new(),
            events: VecDeque::new(),
            phase: Phase::Open,
            now,
            last_received: now,
            pinged: None,
            goaway_sent: false,
            out,
            acknowledgements: 0,
            config,
        }
    }

    /// Sets the credential for further requests. The same credential changes nothing.
    pub fn set_authorization(&mut self, authorization: Authorization) {
        use secrecy::ExposeSecret as _;
        if self.authorization.0.expose_secret() == authorization.0.expose_secret() {
            return;
        }
        self.authorization = authorization;
        if self.config.authorization_indexed {
            self.encoder.restart(self.peer.header_table_bytes);
        } else {
            self.encoder.outdate();
        }
    }

    /// Processes bytes from the socket, in pieces of any size.
    ///
    /// # Errors
    /// If the peer violated the protocol. The connection is closed, its last output tells the peer
    /// the reason, and [`Self::poll`] returns the result of each open ticket.
    pub fn receive(&mut self, bytes: &[u8], now: Time) -> Result<(), ConnectionError> {
        self.now = now;
        if self.is_closed() || bytes.is_empty() {
            return Ok(());
        }
        self.last_received = now;
        self.pinged = None;
        self.read(bytes)
            .inspect_err(|error| self.abandon(CloseReason::Error(*error), Some(error.code)))
    }

    /// Appends the output, except for cut bodies, of which one burst at a time is encoded. The
    /// caller repeats it when the socket has taken the bytes, until nothing is appended. Until then
    /// the peer gets no further acknowledgements, and is disconnected if it causes too many.
    pub fn transmit(&mut self, out: &mut Vec<u8>, now: Time) {
        self.now = now;
        if !self.is_closed() {
            self.credit.give(&mut self.out);
            self.windows.flush(&mut self.out);
        }
        if out.is_empty() && !self.out.is_empty() {
            std::mem::swap(out, &mut self.out);
        } else {
            out.append(&mut self.out);
        }
        self.openings = 0;
        self.acknowledgements = 0;
    }

    /// Reports whether the connection has no buffer into which it could encode requests.
    #[must_use]
    pub fn needs_buffer(&self) -> bool {
        self.out.capacity() < BUFFER_BYTES_MIN
    }

    /// Lends the connection an empty buffer, which leaves it with the next [`Self::transmit`].
    /// Without one it allocates its own.
    pub fn lend(&mut self, mut buffer: Vec<u8>) {
        buffer.extend_from_slice(&self.out);
        self.out = buffer;
    }

    /// Reports whether [`Self::transmit`] would append anything.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.out.is_empty()
            || !self.is_closed() && (self.credit.is_due() || self.windows.has_more())
    }

    /// Returns the time at which [`Self::expire`] next has work.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let drain = match self.phase {
            Phase::Closed => return None,
            Phase::Draining { until } => Some(until),
            Phase::Open => None,
        };
        let request = self.streams.oldest().map(|s| s.sent + self.config.request_deadline);
        let ping = match self.pinged {
            Some(at) => Some(at + self.config.ping_deadline),
            None => self.config.ping_after.map(|after| self.last_received + after),
        };
        [drain, request, ping].into_iter().flatten().min()
    }

    /// Handles expired deadlines: resets requests, sends PINGs, and ends a drained connection.
    pub fn expire(&mut self, now: Time) {
        self.now = now;
        self.expire_connection();
        self.expire_requests();
    }

    /// Appends the tickets of accepted pushes (status 200) to `into`, in the order of their
    /// answers. The caller calls it before [`Self::poll`], which returns the remaining ones one by
    /// one.
    pub fn take_accepted(&mut self, into: &mut Vec<u64>) {
        into.extend(self.accepted.drain(..));
    }

    /// Returns the next event: acceptances first, then all others in the order in which they
    /// happened.
    pub fn poll(&mut self) -> Option<ConnectionEvent> {
        let accepted = |ticket| ConnectionEvent::Answer { ticket, answer: Answer::accepted() };
        let event = self.accepted.pop_front().map(accepted).or_else(|| self.events.pop_front());
        if event.is_none() && self.events.capacity() > EVENTS_KEPT {
            self.events = VecDeque::new();
        }
        event
    }

    /// Returns the number of requests without an event.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.streams.open()
    }

    /// Returns the number of streams that the gateway allows, and the largest window of the
    /// connection; `None` if they are unknown, or the connection takes no more requests.
    #[must_use]
    pub fn capacity(&self) -> Option<(usize, u64)> {
        let open = self.proven && self.phase == Phase::Open;
        open.then(|| (self.peer.streams_max.min(self.config.streams_max), self.windows.widest()))
    }

    /// Returns the reason why no request can be written, as far as the peer has given one. It is
    /// meaningful when [`Self::room`] is 0 and no request is open, or after
    /// [`PushError::HeaderListTooLarge`].
    #[must_use]
    pub fn obstacle(&self) -> Obstacle {
        match self.peer.streams_max {
            0 => Obstacle::Streams,
            _ if self.windows.bodies(1) == 0 => Obstacle::Window,
            _ => Obstacle::HeaderList(self.peer.header_list_bytes_max),
        }
    }

    /// Returns the time since which nothing arrived; `None` while something is awaited.
    #[must_use]
    pub fn idle_since(&self) -> Option<Time> {
        (self.streams.open() == 0).then_some(self.last_received)
    }

    /// Reports whether the connection has ended. Its last output and events may still be fetched.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Closes the connection gracefully: GOAWAY, then open requests may still be answered until the
    /// drain deadline.
    pub fn close(&mut self) {
        self.begin_closing(CloseReason::Asked);
        self.send_goaway(ErrorCode::NO_ERROR);
        self.settle();
    }

    /// Handles the loss of the socket: every open ticket becomes unanswered.
    pub fn drop_all(&mut self) {
        self.abandon(CloseReason::Lost, None);
        self.out.clear();
    }
}

impl std::fmt::Debug for Connection {
    // The content is secret (credential, tokens in the output), so only the state is printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("phase", &self.phase)
            .field("open", &self.streams.open())
            .field("peer", &self.peer)
            .field("out_bytes", &self.out.len())
            .finish_non_exhaustive()
    }
}
