//! The peer of a connection: it writes frames as a gateway would, and reads ours with another
//! library's HPACK.

use std::sync::Arc;

use bytes::Bytes;
use clarion_proto::time::Time;

use super::super::{
    Connection, ConnectionConfig, ConnectionEvent, PushError, TemplateSpec,
    frames::{self, PREFACE, flag, kind},
};
use crate::{
    lane::provider::{
        authorization::Authorization,
        request::{ApnsHeaders, Request},
    },
    outcome::Platform,
};

/// One of our frames, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Settings(Vec<(u16, u32)>),
    SettingsAck,
    Credit(u32),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Headers(u32, Vec<(String, String)>),
    Data(u32, Vec<u8>),
    End(u32, Vec<u8>),
    Reset(u32, u32),
    GoAway(u32),
}

/// A connection, and the frames that its peer has read.
pub(super) struct Talk {
    pub(super) connection: Connection,
    pub(super) now: Time,
    decoder: fluke_hpack::Decoder<'static>,
    greeted: bool,
    /// Size of the last header block, bytes.
    pub(super) block_bytes: usize,
}

pub(super) fn authorization(text: &str) -> Authorization {
    Authorization(Arc::new(secrecy::SecretString::from(text)))
}

pub(super) fn config() -> ConnectionConfig {
    ConnectionConfig {
        authority: "api.push.example".into(),
        ping_after: None,
        ..ConnectionConfig::default()
    }
}

pub(super) fn fcm_config() -> ConnectionConfig {
    ConnectionConfig { platform: Platform::Fcm, authority: "fcm.example".into(), ..config() }
}

pub(super) fn headers_of_spec() -> ApnsHeaders {
    ApnsHeaders {
        topic: "org.example.alerts".into(),
        push_type: "alert".into(),
        priority: 10,
        expiration: 1_800_000_000,
        collapse_id: "case-7".into(),
    }
}

pub(super) fn spec(body: &str) -> TemplateSpec {
    spec_of(headers_of_spec(), body)
}

pub(super) fn spec_of(headers: ApnsHeaders, body: &str) -> TemplateSpec {
    let body = Bytes::copy_from_slice(body.as_bytes());
    TemplateSpec { request: Request::Apns(headers), body, body_after_token: Bytes::new() }
}

pub(super) fn fcm_spec(before: &str, after: &str) -> TemplateSpec {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    TemplateSpec {
        request: Request::Fcm { project: "demo-1".into() },
        body: bytes(before),
        body_after_token: bytes(after),
    }
}

/// Returns the fields of a request of `fcm_spec(..)`, the same for every token.
pub(super) fn fcm_fields(authorization: &str) -> Vec<(String, String)> {
    [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "fcm.example"),
        (":path", "/v1/projects/demo-1/messages:send"),
        ("authorization", authorization),
        ("content-type", "application/json"),
    ]
    .map(|(n, v)| (n.to_owned(), v.to_owned()))
    .to_vec()
}

/// Returns the fields of a request of `spec(..)` with this token.
pub(super) fn fields(token: &[u8], authorization: &str) -> Vec<(String, String)> {
    let path = format!("/3/device/{}", data_encoding::HEXLOWER.encode(token));
    [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "api.push.example"),
        (":path", &path),
        ("authorization", authorization),
        ("apns-topic", "org.example.alerts"),
        ("apns-push-type", "alert"),
        ("apns-priority", "10"),
        ("apns-expiration", "1800000000"),
        ("apns-collapse-id", "case-7"),
    ]
    .map(|(n, v)| (n.to_owned(), v.to_owned()))
    .to_vec()
}

pub(super) const BEARER: &str = "bearer e30.e30.abc";

impl Talk {
    pub(super) fn new(config: ConnectionConfig) -> Self {
        let now = Time(1_000_000);
        Self {
            connection: Connection::new(config, authorization(BEARER), now),
            now,
            decoder: fluke_hpack::Decoder::new(),
            greeted: false,
            block_bytes: 0,
        }
    }

    /// Creates a connection like [`Self::new`], after SETTINGS and one answered request, so that
    /// streams and tables are as in the middle of a run.
    pub(super) fn warm(config: ConnectionConfig, settings: &[(u16, u32)]) -> Self {
        let mut talk = Self::new(config);
        talk.hear(&[super::support::settings(settings), settings_ack()].concat());
        talk.push(0).unwrap();
        talk.hear(&headers(1, &[0x20, 0x88], true));
        assert!(matches!(talk.connection.poll(), Some(ConnectionEvent::Answer { ticket: 0, .. })));
        talk.say();
        talk
    }

    /// Pushes the ordinary message to a token made from the ticket.
    pub(super) fn push(&mut self, ticket: u64) -> Result<(), PushError> {
        self.connection.push(ticket, 7, &spec("{}"), &token(ticket), self.now)
    }

    /// Delivers bytes of the peer, a millisecond later.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        self.now = self.now + std::time::Duration::from_millis(1);
        self.connection.receive(bytes, self.now).unwrap();
    }

    pub(super) fn events(&mut self) -> Vec<ConnectionEvent> {
        std::iter::from_fn(|| self.connection.poll()).collect()
    }

    /// Returns the frames that are written now, as the peer reads them.
    pub(super) fn say(&mut self) -> Vec<Seen> {
        let mut out = Vec::new();
        loop {
            let before = out.len();
            self.connection.transmit(&mut out, self.now);
            if out.len() == before {
                break;
            }
        }
        let mut input = &out[..];
        if !self.greeted {
            input = input.strip_prefix(PREFACE).expect("the preface comes first");
            self.greeted = true;
        }
        let (mut seen, mut block) = (Vec::new(), Vec::new());
        while let Some(length) = frames::frame_len(input).unwrap() {
            let (bytes, rest) = input.split_at(length);
            input = rest;
            let frame = frames::parse(bytes);
            let id = frame.stream;
            let number =
                |at: usize| u32::from_be_bytes(frame.payload[at..at + 4].try_into().unwrap());
            assert!(
                block.is_empty() || frame.kind == kind::CONTINUATION,
                "a block was interrupted"
            );
            seen.push(match frame.kind {
                kind::SETTINGS if frame.has(flag::ACK) => Seen::SettingsAck,
                kind::SETTINGS => Seen::Settings(
                    frame
                        .payload
                        .chunks(6)
                        .map(|s| {
                            (
                                u16::from_be_bytes([s[0], s[1]]),
                                u32::from_be_bytes(s[2..].try_into().unwrap()),
                            )
                        })
                        .collect(),
                ),
                kind::WINDOW_UPDATE => {
                    assert_eq!(id, 0);
                    Seen::Credit(number(0))
                }
                kind::PING if frame.has(flag::ACK) => Seen::Pong(frame.payload.to_vec()),
                kind::PING => Seen::Ping(frame.payload.to_vec()),
                kind::HEADERS | kind::CONTINUATION => {
                    block.extend_from_slice(frame.payload);
                    if !frame.has(flag::END_HEADERS) {
                        continue;
                    }
                    self.block_bytes = block.len();
                    let fields = self.decoder.decode(&std::mem::take(&mut block)).unwrap();
                    let text = |bytes| String::from_utf8(bytes).unwrap();
                    Seen::Headers(id, fields.into_iter().map(|(n, v)| (text(n), text(v))).collect())
                }
                kind::DATA if frame.has(flag::END_STREAM) => Seen::End(id, frame.payload.to_vec()),
                kind::DATA => Seen::Data(id, frame.payload.to_vec()),
                kind::RST_STREAM => Seen::Reset(id, number(0)),
                kind::GOAWAY => Seen::GoAway(number(4)),
                other => panic!("a client has no reason for frame type {other}"),
            });
        }
        assert!(input.is_empty(), "only whole frames are written");
        seen
    }

    /// Sets the peer's table size, which another library enforces.
    pub(super) fn allow_table(&mut self, bytes: usize) {
        self.decoder.set_max_allowed_table_size(bytes);
    }
}

pub(super) fn token(ticket: u64) -> Vec<u8> {
    ticket.to_be_bytes().repeat(4)
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frames::put(&mut out, kind, flags, stream, payload);
    out
}

pub(super) const TABLE: u16 = 1;
pub(super) const STREAMS: u16 = 3;
pub(super) const WINDOW: u16 = 4;
pub(super) const FRAME: u16 = 5;
pub(super) const LIST: u16 = 6;

pub(super) fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(id, v)| [&id.to_be_bytes()[..], &v.to_be_bytes()].concat())
        .collect();
    frame(kind::SETTINGS, 0, 0, &payload)
}

pub(super) fn settings_ack() -> Vec<u8> {
    frame(kind::SETTINGS, flag::ACK, 0, &[])
}

pub(super) fn headers(stream: u32, block: &[u8], end: bool) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS | u8::from(end), stream, block)
}

/// Returns `:status` as a literal with the indexed name.
pub(super) fn status(stream: u32, status: &str, end: bool) -> Vec<u8> {
    headers(stream, &[&[0x08, 3], status.as_bytes()].concat(), end)
}

pub(super) fn data(stream: u32, bytes: &[u8], end: bool) -> Vec<u8> {
    frame(kind::DATA, u8::from(end), stream, bytes)
}

pub(super) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub(super) fn goaway(last: u32, code: u32, debug: &[u8]) -> Vec<u8> {
    frame(kind::GOAWAY, 0, 0, &[&last.to_be_bytes()[..], &code.to_be_bytes(), debug].concat())
}

pub(super) fn window_update(stream: u32, credit: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &credit.to_be_bytes())
}

pub(super) fn ping(payload: &[u8; 8]) -> Vec<u8> {
    frame(kind::PING, 0, 0, payload)
}
