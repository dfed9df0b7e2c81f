//! One client's HTTP/2 connection, as a state machine: bytes and times in, bytes and record entries
//! out.
//!
//! Common to all gateways: the number of streams ([`limits`]), assembling a request ([`request`]),
//! the time and order of responses ([`answers`]) and all other frames ([`control`]). [`decide`]
//! asks the provider's module about a request. The connection does no I/O. Any client error ends
//! this connection with a GOAWAY and affects no other connection.
//!
//! Memory has a fixed bound: open streams × (longest body + 200 bytes), one header block of
//! [`BLOCK_BYTES_MAX`], one incomplete frame of 16 KiB, eight templates of at most one block each,
//! and eight bodies. The driver bounds the output: it stops reading from a client that does not
//! take its answers ([`Connection::output_len`]).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::atomic::{AtomicU64, Ordering},
};

use clarion_proto::time::Time;
use rand::SeedableRng as _;
use rand_pcg::Pcg64Mcg;

use self::{
    answers::{Blocked, Written},
    control::Farewell,
    decide::Judge,
    limits::Limits,
    line::Waiting,
    request::Receiving,
};
use super::{
    clock::Now,
    faults::Plan,
    frame::{self, Code, HEAD_BYTES, Head, PREFACE, flag, kind, setting},
    head::{LIST_BYTES_MAX, Reader},
    hpack::{Encoder, TABLE_BYTES},
    policy::Policy,
    record::Log,
    script::Attempts,
};

mod answers;
mod control;
mod decide;
mod limits;
mod line;
mod request;

/// Longest header block over all of its frames, bytes: twice the announced size of a header list,
/// because Huffman coding can also lengthen a list.
const BLOCK_BYTES_MAX: usize = 16_384;
/// Number of consecutive frames without progress (PING, SETTINGS, empty DATA, …) after which a
/// client gets ENHANCE_YOUR_CALM.
const IDLE_FRAMES_MAX: u32 = 10_000;
/// Received bytes after which the gateway returns credit to the client.
const CREDIT_MIN: u32 = 8_192;
/// Initial window of the connection and, unless SETTINGS change it, of every stream (RFC 9113,
/// section 6.9.2).
const WINDOW_BYTES: u32 = 65_535;

/// Reason for the end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum End {
    /// The client closed the connection.
    Client = 1,
    /// The client violated HTTP/2 or a limit.
    Protocol = 2,
    /// The gateway sent a GOAWAY and answered every open request.
    Drained = 3,
    /// A fault reset the connection.
    Reset = 4,
    /// The TLS handshake failed or took too long.
    Handshake = 5,
    /// The socket failed with an error.
    Socket = 6,
    /// The gateway stopped.
    Stopped = 7,
    /// A fault closed the connection in the middle of a response.
    Cut = 8,
}

/// State outside a connection that the methods of the connection need.
pub struct Context<'a> {
    /// Policy of the gateway.
    pub policy: &'a Policy,
    /// Faults in force at the time of the call.
    pub plan: &'a Plan,
    /// Common pace of all connections of a slow gateway.
    pub pace: &'a Pace,
    /// Number of attempts so far of each token with a scripted answer.
    pub attempts: &'a Attempts,
    /// Record of the worker that owns the connection.
    pub log: &'a mut Log,
    /// Time of this call.
    pub now: Now,
}

/// Time of the next answer of a slow gateway, nanoseconds of CLOCK_MONOTONIC. All connections share
/// one line.
#[derive(Debug, Default)]
pub struct Pace(AtomicU64);

impl Pace {
    /// Reserves the next place in the line, and returns its time.
    pub fn place(&self, now: Time, interval_ns: u64) -> Time {
        let now_ns = now.0.saturating_mul(1_000);
        let next = |free: u64| Some(free.max(now_ns).saturating_add(interval_ns));
        // The closure always returns a value, so the update cannot fail.
        let free =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or(now_ns);
        Time(free.max(now_ns) / 1_000)
    }

    /// Empties the line.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Phase in the life of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The client sends its preface; the value is the number of bytes received so far.
    Preface(usize),
    /// The preface is complete, and SETTINGS must follow.
    Settings,
    Open,
    /// The connection failed; its last output is a GOAWAY.
    Failed,
}

/// The HTTP/2 connection of one client.
pub struct Connection {
    number: u32,
    phase: Phase,
    end: Option<End>,
    /// Bytes of an incomplete frame.
    partial: Vec<u8>,
    output: Vec<u8>,
    /// Number of output bytes that the driver has taken so far.
    taken: u64,
    /// Highest stream id that the client opened.
    highest: u32,
    /// Last stream id of the GOAWAY that was sent.
    last: Option<u32>,
    /// Second part of a two-step GOAWAY, with the time at which it is sent.
    goaway_due: Option<(Time, Farewell)>,
    /// After a GOAWAY: time at which the connection ends even if answers are still open.
    drain_due: Option<Time>,
    limits: Limits,
    reader: Reader,
    encoder: Encoder,
    /// Header block without its END_HEADERS so far: the stream, whether the block ends the stream,
    /// and the bytes.
    block: Option<(u32, bool, Vec<u8>)>,
    receiving: Vec<Receiving>,
    waiting: Waiting,
    blocked: Vec<Blocked>,
    written: Written,
    /// Bytes that the client may still send on the connection.
    receive_window: i64,
    /// Received bytes for which the gateway has not returned credit yet.
    uncredited: u32,
    /// Credits that a fault delays: time, stream (0: the connection), bytes. A credit for the
    /// connection has at least [`CREDIT_MIN`] bytes, and one for a stream those of its request, so
    /// the windows bound the length of the queue.
    credits: VecDeque<(Time, u32, u32)>,
    send_window: i64,
    stream_send_window: i64,
    /// Send windows of streams that differ from the initial window.
    stream_windows: BTreeMap<u32, i64>,
    idle_frames: u32,
    requests: u64,
    judge: Judge,
    /// Scratch buffer for the body of an answer, before the client's window is checked.
    body: Vec<u8>,
    /// Number of PINGs since the last frame of a request.
    pings: u32,
    /// Time of the last request or answer; `None` until the first one.
    active: Option<Time>,
    random: Pcg64Mcg,
    /// Whether a slow or silent phase has been seen. Its end releases the waiting answers.
    was_slow: bool,
    was_held: bool,
    /// Whether the client sent a GOAWAY.
    client_leaves: bool,
}

impl Connection {
    /// Creates a connection whose first output is the gateway's SETTINGS. `number` is the number of
    /// the connection in the record, from 1.
    #[must_use]
    pub fn new(number: u32, policy: &Policy) -> Self {
        let limits = Limits::new(
            policy.streams_max,
            policy.first_stream_alone,
            policy.stream_window,
            TABLE_BYTES,
        );
        let mut output = Vec::new();
        frame::settings(
            &mut output,
            &[
                (setting::HEADER_TABLE_SIZE, TABLE_BYTES),
                (setting::MAX_CONCURRENT_STREAMS, limits.advertised().streams),
                (setting::INITIAL_WINDOW_SIZE, policy.stream_window),
                (setting::MAX_FRAME_SIZE, u32::try_from(frame::PAYLOAD_BYTES_MAX).expect("16,384")),
                (setting::MAX_HEADER_LIST_SIZE, u32::try_from(LIST_BYTES_MAX).expect("8,000")),
            ],
        );
        let window = policy.connection_window.max(WINDOW_BYTES);
        if window > WINDOW_BYTES {
            frame::window_update(&mut output, 0, window - WINDOW_BYTES);
        }
        Self {
            number,
            phase: Phase::Preface(0),
            end: None,
            partial: Vec::new(),
            output,
            taken: 0,
            highest: 0,
            last: None,
            goaway_due: None,
            drain_due: None,
            limits,
            reader: Reader::default(),
            encoder: Encoder::new(),
            block: None,
            receiving: Vec::new(),
            waiting: Waiting::default(),
            blocked: Vec::new(),
            written: Written::default(),
            receive_window: i64::from(window),
            uncredited: 0,
            credits: VecDeque::new(),
            send_window: i64::from(WINDOW_BYTES),
            stream_send_window: i64::from(WINDOW_BYTES),
            stream_windows: BTreeMap::new(),
            idle_frames: 0,
            requests: 0,
            judge: Judge::new(policy),
            body: Vec::new(),
            pings: 0,
            active: None,
            random: Pcg64Mcg::seed_from_u64(policy.seed ^ u64::from(number)),
            was_slow: false,
            was_held: false,
            client_leaves: false,
        }
    }

    /// Processes bytes from the client.
    pub fn receive(&mut self, mut bytes: &[u8], context: &mut Context<'_>) {
        if let Phase::Preface(came) = self.phase {
            let count = bytes.len().min(PREFACE.len() - came);
            if bytes[..count] != PREFACE[came..came + count] {
                return self.fail(Code::ProtocolError, b"");
            }
            bytes = &bytes[count..];
            self.phase = if came + count == PREFACE.len() {
                Phase::Settings
            } else {
                Phase::Preface(came + count)
            };
        }
        while !bytes.is_empty() && self.phase != Phase::Failed {
            bytes = self.take_frame(bytes, context);
        }
        if self.uncredited >= CREDIT_MIN && self.phase != Phase::Failed {
            let uncredited = std::mem::take(&mut self.uncredited);
            self.give_credit(0, uncredited, context);
        }
    }

    /// Returns the number of output bytes that the driver has not taken yet.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.output.len()
    }

    /// Appends the output to `to`, and returns the position in the output up to which everything
    /// has been taken.
    pub fn take_output(&mut self, to: &mut Vec<u8>) -> u64 {
        self.taken += self.output.len() as u64;
        to.append(&mut self.output);
        self.taken
    }

    /// Records that the kernel has all output up to a position that [`Self::take_output`] returned.
    pub fn flushed(&mut self, position: u64, context: &mut Context<'_>) {
        self.written.flushed(position, context.now.at, context.log);
    }

    /// Returns the time at which [`Self::advance`] next has work.
    #[must_use]
    pub fn deadline(&self, policy: &Policy, plan: &Plan, now: Time) -> Option<Time> {
        let goaway = self.goaway_due.as_ref().map(|(due, _)| *due);
        // During a silence no answer leaves even if it is due; the end of the silence is the plan's
        // next change.
        let answer = self.waiting.due().filter(|_| !plan.holds_back(self.number, now));
        let credit = self.credits.front().map(|(due, ..)| *due);
        answer
            .into_iter()
            .chain(credit)
            .chain(goaway)
            .chain(self.drain_due)
            .chain(self.idle_due(policy))
            .min()
    }

    /// Writes all output that is due.
    pub fn advance(&mut self, context: &mut Context<'_>) {
        self.end_of_slowness(context);
        self.write_credits(context.now.at);
        while !context.plan.holds_back(self.number, context.now.at)
            && let Some(list) = self.waiting.take_due(context.now.at)
        {
            for pending in &list {
                self.write_answer(pending, context);
            }
            self.waiting.recycle(list);
        }
        self.end_of_idleness(context);
        self.advance_goaway(context);
    }

    /// Returns the reason for which the driver closes the connection once its output is sent.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Returns the number of complete requests.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Clears the caches, so that the next request is parsed completely. The caches never change a
    /// result.
    pub fn forget(&mut self) {
        self.reader.forget();
        self.judge.forget();
    }

    /// Returns the number of streams between their first frame and the end of their answer.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.receiving.len() + self.waiting.len() + self.blocked.len()
    }

    /// Records that the socket is closed. Waiting answers are never sent. Answers of the last
    /// second may be lost, unless the client announced its close: then it had received them.
    pub fn lost(&mut self, now: Time, log: &mut Log) {
        if !self.client_leaves {
            self.written.lost(now, log);
        }
    }

    /// Processes one frame, or the available part of it, and returns the bytes after it.
    fn take_frame<'a>(&mut self, bytes: &'a [u8], context: &mut Context<'_>) -> &'a [u8] {
        if self.partial.is_empty() {
            if let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() {
                let head = Head::read(head);
                if head.length > frame::PAYLOAD_BYTES_MAX {
                    self.fail(Code::FrameSizeError, b"");
                    return &[];
                }
                if let Some((payload, rest)) = rest.split_at_checked(head.length) {
                    self.handle(head, payload, context);
                    return rest;
                }
            }
            self.partial.extend_from_slice(bytes);
            return &[];
        }
        // A frame is incomplete: first its header is completed, then its payload.
        let wanted = match self.partial.first_chunk::<HEAD_BYTES>() {
            Some(head) => HEAD_BYTES + Head::read(head).length,
            None => HEAD_BYTES,
        };
        let (now, rest) = bytes.split_at(bytes.len().min(wanted - self.partial.len()));
        self.partial.extend_from_slice(now);
        if let Some(head) = self.partial.first_chunk::<HEAD_BYTES>().map(Head::read) {
            if head.length > frame::PAYLOAD_BYTES_MAX {
                self.fail(Code::FrameSizeError, b"");
                return &[];
            }
            if self.partial.len() == HEAD_BYTES + head.length {
                let mut whole = std::mem::take(&mut self.partial);
                self.handle(head, &whole[HEAD_BYTES..], context);
                whole.clear();
                self.partial = whole;
            }
        }
        rest
    }

    fn handle(&mut self, head: Head, payload: &[u8], context: &mut Context<'_>) {
        let expected = match (self.phase, &self.block) {
            (Phase::Settings, _) => head.kind == kind::SETTINGS && !head.has(flag::ACK),
            (_, Some((stream, ..))) => head.kind == kind::CONTINUATION && head.stream == *stream,
            _ => head.kind != kind::CONTINUATION,
        };
        if !expected {
            return self.fail(Code::ProtocolError, b"");
        }
        self.phase = Phase::Open;
        self.idle_frames += 1;
        if self.idle_frames > IDLE_FRAMES_MAX {
            return self.fail(Code::EnhanceYourCalm, b"");
        }
        if matches!(head.kind, kind::DATA | kind::HEADERS) {
            self.pings = 0;
            self.active = Some(context.now.at);
        }
        let handled = match head.kind {
            kind::DATA => self.data(head, payload, context),
            kind::HEADERS => self.headers(head, payload, context),
            kind::CONTINUATION => self.continuation(head, payload, context),
            kind::SETTINGS => self.settings(head, payload),
            kind::WINDOW_UPDATE => self.window_update(head, payload, context),
            kind::RST_STREAM => self.rst_stream(head, payload, context),
            kind::PING => self.ping(head, payload, context),
            kind::PRIORITY if payload.len() != 5 => Err(Code::FrameSizeError),
            kind::PUSH_PROMISE => Err(Code::ProtocolError),
            kind::GOAWAY => {
                self.client_leaves = true;
                Ok(())
            }
            // PRIORITY and unknown frames are ignored (RFC 9113, section 5.5).
            _ => Ok(()),
        };
        if let Err(code) = handled {
            self.fail(code, b"");
        }
    }

    /// Ends the connection with a GOAWAY because of a client error.
    fn fail(&mut self, code: Code, debug: &[u8]) {
        if self.phase != Phase::Failed {
            frame::goaway(&mut self.output, self.last.unwrap_or(self.highest), code, debug);
            self.phase = Phase::Failed;
            self.end = Some(End::Protocol);
        }
    }

    fn position(&self) -> u64 {
        self.taken + self.output.len() as u64
    }
}
