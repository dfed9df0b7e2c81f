//! One client's HTTP/2 connection, as a state machine: bytes and times in, bytes and record entries
//! out.
//!
//! Common to all gateways: the number of streams ([`limits`]), assembling a request ([`request`]),
//! the time and order of responses ([`answers`]), all other frames ([`control`]). [`decide`] asks
//! the provider about a request. The connection does no I/O. Any client error ends this connection
//! with a GOAWAY and affects nothing else.
//!
//! Memory is bounded by arithmetic: streams open × (limit of a body + 200 bytes) for bodies, one
//! header block of [`BLOCK_BYTES_MAX`], one frame of 16 KiB that is still incomplete, eight
//! templates of at most a block each, eight bodies. Output is bounded by the driver, which stops
//! reading a connection that does not take its answers ([`Connection::output_len`]).

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

/// Longest header block over all of its frames: twice the announced list, because Huffman coding
/// can also lengthen.
const BLOCK_BYTES_MAX: usize = 16_384;
/// Frames in a row without progress (PING, SETTINGS, empty DATA, …) after which a client gets
/// ENHANCE_YOUR_CALM.
const IDLE_FRAMES_MAX: u32 = 10_000;
/// Credit is given back to the client once this much is owed.
const CREDIT_MIN: u32 = 8_192;
/// Initial window of the connection and, unless a peer changes it, of every stream (RFC 9113,
/// section 6.9.2).
const WINDOW_BYTES: u32 = 65_535;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum End {
    /// The client closed the connection.
    Client = 1,
    /// The client broke HTTP/2, or a limit.
    Protocol = 2,
    /// A GOAWAY, and everything was answered.
    Drained = 3,
    /// The connection was reset by an order.
    Reset = 4,
    /// The TLS handshake failed or took too long.
    Handshake = 5,
    /// The socket failed with an error.
    Socket = 6,
    /// The gateway was stopped.
    Stopped = 7,
    /// The connection was cut in the middle of a response, by an order.
    Cut = 8,
}

/// State outside of one connection that its methods need.
pub struct Context<'a> {
    /// Policy of the gateway.
    pub policy: &'a Policy,
    /// The faults of the moment.
    pub plan: &'a Plan,
    /// The common clock of a slow gateway.
    pub pace: &'a Pace,
    /// Attempts so far of the tokens with a scripted answer.
    pub attempts: &'a Attempts,
    /// Record of the worker.
    pub log: &'a mut Log,
    /// Time of this call.
    pub now: Now,
}

/// When a slow gateway has its next answer: one line for all connections. Nanoseconds of
/// CLOCK_MONOTONIC.
#[derive(Debug, Default)]
pub struct Pace(AtomicU64);

impl Pace {
    /// Takes the next place in line.
    pub fn place(&self, now: Time, interval_ns: u64) -> Time {
        let now_ns = now.0.saturating_mul(1_000);
        let next = |free: u64| Some(free.max(now_ns).saturating_add(interval_ns));
        // The function never declines, so there is always a value before it.
        let free =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or(now_ns);
        Time(free.max(now_ns) / 1_000)
    }

    /// Removes all waiting requests.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Phase in the life of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Number of bytes of the client's preface received so far.
    Preface(usize),
    /// The preface came; SETTINGS must follow.
    Settings,
    Open,
    /// A GOAWAY that ends everything is the last output.
    Failed,
}

/// One client's connection.
pub struct Connection {
    number: u32,
    phase: Phase,
    end: Option<End>,
    /// A frame that has not come whole.
    partial: Vec<u8>,
    output: Vec<u8>,
    /// Output handed over so far.
    taken: u64,
    /// Highest stream that the client opened.
    highest: u32,
    /// Last stream id in a GOAWAY.
    last: Option<u32>,
    /// Second part of a two-step GOAWAY: its time and content.
    goaway_due: Option<(Time, Farewell)>,
    /// After a GOAWAY: when to end without waiting longer.
    drain_due: Option<Time>,
    limits: Limits,
    reader: Reader,
    encoder: Encoder,
    /// The header block of a stream, and whether the stream ends with it, until END_HEADERS.
    block: Option<(u32, bool, Vec<u8>)>,
    receiving: Vec<Receiving>,
    waiting: Waiting,
    blocked: Vec<Blocked>,
    written: Written,
    /// The client may still send so much.
    receive_window: i64,
    /// Taken, not yet given back.
    owed: u32,
    /// Credits that come late: when, for which stream (0: the connection), how many bytes. What is
    /// owed for a connection is [`CREDIT_MIN`] at least, for a stream its request; so there are no
    /// more than windows allow.
    credits: VecDeque<(Time, u32, u32)>,
    send_window: i64,
    stream_send_window: i64,
    /// Windows of streams that differ from the initial one.
    stream_windows: BTreeMap<u32, i64>,
    idle_frames: u32,
    requests: u64,
    judge: Judge,
    /// Where an answer's body is written before the client's window is asked.
    body: Vec<u8>,
    /// Pings since the last frame of a request.
    pings: u32,
    /// When a request last came or was answered; none: not known yet.
    active: Option<Time>,
    random: Pcg64Mcg,
    /// Whether slowness, and held answers, were seen: their end hastens what waits.
    was_slow: bool,
    was_held: bool,
    /// The client sent a GOAWAY.
    client_leaves: bool,
}

impl Connection {
    /// A connection whose first output is the gateway's SETTINGS. `number` is its number in the
    /// record, from 1.
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
            owed: 0,
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

    /// Takes what the client sent.
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
        if self.owed >= CREDIT_MIN && self.phase != Phase::Failed {
            let owed = std::mem::take(&mut self.owed);
            self.give_credit(0, owed, context);
        }
    }

    /// Bytes to be sent that were not taken yet.
    #[must_use]
    pub fn output_len(&self) -> usize {
        self.output.len()
    }

    /// Moves the output to the end of `to`, and returns the position up to which all is taken now.
    pub fn take_output(&mut self, to: &mut Vec<u8>) -> u64 {
        self.taken += self.output.len() as u64;
        to.append(&mut self.output);
        self.taken
    }

    /// The kernel has all output up to a position that [`Self::take_output`] gave.
    pub fn flushed(&mut self, position: u64, context: &mut Context<'_>) {
        self.written.flushed(position, context.now.at, context.log);
    }

    /// Time of the next call to [`Self::advance`] that has work.
    #[must_use]
    pub fn deadline(&self, policy: &Policy, plan: &Plan, now: Time) -> Option<Time> {
        let goaway = self.goaway_due.as_ref().map(|(due, _)| *due);
        // A silence is not broken by what was due before it; its end is the plan's next change.
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

    /// Why the driver should close the connection once its output is sent.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Number of complete requests.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Clears the caches: the next request is parsed completely. The result must be the same.
    pub fn forget(&mut self) {
        self.reader.forget();
        self.judge.forget();
    }

    /// Streams between their first frame and the end of their answer.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.receiving.len() + self.waiting.len() + self.blocked.len()
    }

    /// Records that the socket is gone. Waiting answers are never sent; answers of just now may be
    /// lost, unless the client had announced its close: then it had received them.
    pub fn lost(&mut self, now: Time, log: &mut Log) {
        if !self.client_leaves {
            self.written.lost(now, log);
        }
    }

    /// Processes one frame, or the available part of it; returns the bytes after it.
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
        // A frame was begun: first its header, then the rest of it.
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
            // PRIORITY and unknown frames mean nothing here (RFC 9113, section 5.5).
            _ => Ok(()),
        };
        if let Err(code) = handled {
            self.fail(code, b"");
        }
    }

    /// Ends the connection because of a client error, with GOAWAY.
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
