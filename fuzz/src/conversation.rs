//! Fuzz target: a whole conversation of requests and arbitrary frames of a peer, cut into pieces.
//!
//! Checked are the promises of `lane/connection.rs`: each accepted ticket has exactly one event; no
//! event follows the end; memory and output are bounded; the result does not depend on how the
//! bytes were cut; and as long as the peer keeps the rules, the fast path of reading an answer
//! gives the same as the slow one.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_proto::time::Time;
use clarion_shard::{
    lane::{
        connection::{CloseReason, Connection, ConnectionConfig, ConnectionEvent, TemplateSpec},
        provider::{
            authorization::Authorization,
            request::{ApnsHeaders, Request},
        },
    },
    outcome::Platform,
};

use crate::input::Input;

/// Most open streams, small so that the limit is reached.
const STREAMS_MAX: usize = 8;
const FRAME_BYTES_MAX: usize = 9 + 16_384;
/// Most bytes that a connection may hold: a partial frame, a block, bodies of all streams, and
/// output of a thousand acknowledgements and eight requests of 20 kB, in a buffer that doubles.
const HELD_BYTES_MAX: usize =
    2 * (FRAME_BYTES_MAX + 8_192) + STREAMS_MAX * 2 * 4_096 + 2 * (17_000 + 160_000);
const EXPIRATION: u64 = 1_800_000_000;

/// Plays an input three times and compares the results.
///
/// # Panics
/// If a promise is broken.
pub fn run(input: &[u8]) {
    let whole = play(input, Reading::Whole);
    let cut = play(input, Reading::Cut);
    assert_eq!(whole.events, cut.events, "how the bytes were cut made a difference");
    assert_eq!(whole.written, cut.written, "how the bytes were cut made a difference");
    if whole.is_honest {
        let long = play(input, Reading::TheLongWay);
        assert_eq!(whole.events, long.events, "the short way heard something else");
        assert_eq!(whole.written, long.written, "the short way said something else");
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Whole,
    Cut,
    TheLongWay,
}

struct Played {
    events: Vec<ConnectionEvent>,
    written: Vec<u8>,
    /// Whether the peer sent only blocks that both paths must read alike: a few correct ones.
    is_honest: bool,
}

struct Play<'a> {
    input: Input<'a>,
    connection: Connection,
    reading: Reading,
    now: Time,
    spec: [TemplateSpec; 2],
    next_ticket: u64,
    open: BTreeSet<u64>,
    closing: bool,
    closed: bool,
    played: Played,
}

fn play(input: &[u8], reading: Reading) -> Played {
    let mut input = Input(input);
    let choice = input.byte();
    let platform = if choice & 1 == 0 { Platform::Apns } else { Platform::Fcm };
    let config = ConnectionConfig {
        platform,
        authority: "gateway.example".into(),
        streams_max: STREAMS_MAX,
        request_deadline: Duration::from_secs(10),
        authorization_indexed: choice & 2 == 0,
        ping_after: (choice & 4 != 0).then_some(Duration::from_secs(5)),
        ping_deadline: Duration::from_secs(5),
        drain_deadline: Duration::from_secs(10),
        // In some inputs the stream ids end.
        stream_id_last: if choice & 8 == 0 { ConnectionConfig::STREAM_ID_LAST } else { 41 },
    };
    let now = Time(1_000_000);
    let mut connection = Connection::new(config, authorization(0), now);
    if reading == Reading::TheLongWay {
        connection = connection.without_fast_reader();
    }
    let mut play = Play {
        input,
        connection,
        reading,
        now,
        spec: specs(platform, usize::from(choice >> 4) * 600),
        next_ticket: 1,
        open: BTreeSet::new(),
        closing: false,
        closed: false,
        played: Played { events: Vec::new(), written: Vec::new(), is_honest: true },
    };
    // As every server begins; an input that needs another beginning sends it before.
    if play.input.byte() & 1 == 0 {
        play.receive(&frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]));
        play.receive(&frame(4, 1, 0, &[]));
    }
    while !play.input.is_empty() {
        play.step();
    }
    play.end(choice);
    play.played
}

impl Play<'_> {
    fn step(&mut self) {
        let choice = self.input.byte();
        match choice % 16 {
            0..=2 => self.push(usize::from(choice >> 4) % 4 + 1),
            3 => {
                let (template, other) = (u32::from(choice >> 4), self.input.byte());
                self.connection.forget_template(template & 1);
                self.connection.set_authorization(authorization(other % 3));
            }
            4 => {
                self.now = self.now + Duration::from_millis(u64::from(self.input.byte()) * 20);
                self.connection.expire(self.now);
            }
            5 if choice >= 0xf0 => self.connection.close(),
            5 => self.transmit(),
            6 => {
                // A piece of arbitrary bytes.
                self.played.is_honest = false;
                let bytes = self.input.piece();
                self.receive(bytes);
            }
            // The high bits choose the block, mostly a correct one.
            7 | 8 => self.answer(choice >> 4),
            9 => {
                let (id, body) = (self.stream(), self.input.piece());
                let length = if choice & 0x20 == 0 { body.len() } else { 1_000 + body.len() };
                let mut bytes = body.to_vec();
                bytes.resize(length, b'x');
                self.receive(&frame(0, choice >> 4 & 1, id, &bytes));
            }
            10 => {
                let (id, code) = (self.stream(), self.input.byte() % 14);
                self.receive(&frame(3, 0, id, &[0, 0, 0, code]));
            }
            11 => {
                let id = if choice & 0x10 == 0 { 0 } else { self.stream() };
                let credit = self.input.word() >> (choice >> 5);
                self.receive(&frame(8, 0, id, &credit.to_be_bytes()));
            }
            12 => {
                let value = self.input.word() >> (2 * (choice >> 4));
                let mut payload = vec![0, self.input.byte() % 9];
                payload.extend_from_slice(&value.to_be_bytes());
                self.receive(&frame(4, 0, 0, &payload));
            }
            13 if choice & 0x10 == 0 => self.receive(&frame(6, choice >> 5 & 1, 0, b"8 bytes.")),
            13 => self.receive(&frame(4, 1, 0, &[])),
            14 => {
                let (last, code, debug) =
                    (self.input.word(), self.input.byte() % 14, self.input.piece());
                let last = if choice & 0x10 == 0 { last & 0xff } else { last };
                let payload = [&last.to_be_bytes()[..], &[0, 0, 0, code], debug].concat();
                self.receive(&frame(7, 0, 0, &payload));
            }
            _ => {
                // A frame of any type.
                self.played.is_honest = false;
                let (kind, flags) = (self.input.byte() % 12, self.input.byte());
                let id = if choice & 0x10 == 0 { self.stream() } else { 0 };
                let payload = self.input.piece();
                self.receive(&frame(kind, flags, id, payload));
            }
        }
        self.check();
    }

    /// Returns one of the first streams, which are those in use.
    fn stream(&mut self) -> u32 {
        2 * u32::from(self.input.byte() % 32) + 1
    }

    fn push(&mut self, requests: usize) {
        let kind = self.input.byte();
        for _ in 0..requests {
            let room = self.connection.room();
            let (ticket, template) = (self.next_ticket, u32::from(kind & 1));
            let token = vec![b'a' + kind % 20; 1 + usize::from(kind) / 2];
            let spec = &self.spec[template as usize];
            let taken = self.connection.push(ticket, template, spec, &token, self.now).is_ok();
            assert!(!taken || room > 0, "more than there was room for");
            if taken {
                self.open.insert(ticket);
            }
            self.next_ticket += 1;
        }
    }

    /// Writes a header block, whole or in pieces.
    fn answer(&mut self, choice: u8) {
        const CORRECT: [&[u8]; 8] = [
            b"\x88",
            b"\x20\x88",
            b"\x88\x0f\x0d\x0231", // content-length
            b"\x08\x03400",
            b"\x08\x03410\x0f\x10\x0aapplication", // content-type
            b"\x8d",
            b"\x08\x03503\x0f\x26\x0230", // retry-after
            b"\x48\x03429\x00\x07apns-id\x0242",
        ];
        let (id, which) = (self.stream(), self.input.byte());
        let block = match CORRECT.get(usize::from(which % 16)) {
            Some(block) => block,
            None => {
                self.played.is_honest = false;
                self.input.piece()
            }
        };
        let end_stream = choice & 1;
        if choice & 6 != 6 {
            self.receive(&frame(1, end_stream | 4, id, block));
            return;
        }
        let (first, rest) = block.split_at(block.len() / 2);
        self.receive(&frame(1, end_stream, id, first));
        self.receive(&frame(9, 4, id, rest));
    }

    fn receive(&mut self, bytes: &[u8]) {
        match self.reading {
            Reading::Cut => {
                // The length of the block decides how it is cut, so an input can choose.
                let size = [1, 2, 3, 5, 8, 13, 100, 1_000][bytes.len() % 8];
                for piece in bytes.chunks(size) {
                    let _ = self.connection.receive(piece, self.now);
                }
            }
            Reading::Whole | Reading::TheLongWay => {
                let _ = self.connection.receive(bytes, self.now);
            }
        }
    }

    fn transmit(&mut self) {
        let before = self.played.written.len();
        let mut out = Vec::new();
        self.connection.transmit(&mut out, self.now);
        self.played.written.append(&mut out);
        assert!(self.played.written.len() - before <= HELD_BYTES_MAX);
    }

    fn check(&mut self) {
        while let Some(event) = self.connection.poll() {
            assert!(!self.closed, "{event:?} after the end");
            match &event {
                ConnectionEvent::Answer { ticket, .. }
                | ConnectionEvent::Unanswered { ticket, .. }
                | ConnectionEvent::Unprocessed { ticket } => {
                    assert!(self.open.remove(ticket), "{ticket} had its event, or was never taken");
                }
                ConnectionEvent::Closing { reason } => {
                    assert!(!std::mem::replace(&mut self.closing, true));
                    self.played.is_honest &= !matches!(reason, CloseReason::Error(_));
                }
                ConnectionEvent::Closed => {
                    assert!(self.closing && self.open.is_empty());
                    self.closed = true;
                }
            }
            self.played.events.push(event);
        }
        assert_eq!(self.connection.open_streams(), self.open.len());
        assert!(self.open.len() <= STREAMS_MAX);
        assert!(
            self.connection.held_bytes() <= HELD_BYTES_MAX,
            "{} bytes held",
            self.connection.held_bytes()
        );
        assert_eq!(self.connection.is_closed(), self.closed);
    }

    fn end(&mut self, choice: u8) {
        match choice >> 4 & 3 {
            0 => self.connection.drop_all(),
            1 => {
                self.connection.close();
                while let Some(deadline) = self.connection.deadline() {
                    self.connection.expire(deadline);
                }
            }
            2 => {
                self.connection.close();
                self.connection.expire(Time::NEVER);
            }
            _ => {
                // Without a PING, an idle connection has nothing to wait for.
                self.connection.expire(Time::NEVER);
                self.connection.drop_all();
            }
        }
        self.check();
        assert!(self.closed && self.open.is_empty());
        assert_eq!(self.connection.deadline(), None);
        self.transmit();
    }
}

fn authorization(n: u8) -> Authorization {
    Authorization(Arc::new(secrecy::SecretString::from(format!("bearer e30.e30.{n}"))))
}

fn specs(platform: Platform, body_bytes: usize) -> [TemplateSpec; 2] {
    let body = |n: usize| Bytes::from("{".repeat(n * body_bytes + 2));
    let spec = |n: usize| match platform {
        Platform::Apns => TemplateSpec {
            request: Request::Apns(ApnsHeaders {
                topic: format!("org.example.{n}"),
                push_type: "alert".into(),
                priority: 10,
                expiration: EXPIRATION,
                collapse_id: "case".into(),
            }),
            body: body(n),
            body_after_token: Bytes::new(),
        },
        Platform::Fcm => TemplateSpec {
            request: Request::Fcm { project: format!("demo-{n}") },
            body: body(n),
            body_after_token: body(1),
        },
    };
    [spec(0), spec(1)]
}

#[allow(clippy::cast_possible_truncation)] // a payload is at most some kilobytes here
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
