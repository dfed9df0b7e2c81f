//! A small gateway, APNs or FCM by the lane that connects. It reads frames with code of its own and
//! HPACK with a library.

use std::collections::BTreeMap;

use clarion_proto::time::Time;

use crate::{core::ConnectionId, outcome::Platform};

/// A request as the gateway received it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) at: Time,
    pub(super) connection: ConnectionId,
    pub(super) platform: Platform,
    /// Number of the device, which the tests use as its token.
    pub(super) device: u32,
    pub(super) authorization: String,
    pub(super) body: Vec<u8>,
}

/// Reaction of the gateway to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// Status 200.
    Accept,
    /// An error with its status and reason.
    Refuse(u16, &'static str),
    /// An error of FCM: its status, the reason of its `FcmError` unless empty, its `retry-after`.
    Fcm(u16, &'static str, Option<u64>),
    /// A status with this body, from FCM or from an intermediary.
    Page(u16, &'static str),
    /// The head of an answer, then RST_STREAM (`true`) or the loss of the connection.
    Cut(u16, bool),
    /// No answer at all.
    Silence,
    /// RST_STREAM(REFUSED_STREAM): the request is not processed.
    NotProcessed,
}

type Fields = Vec<(Vec<u8>, Vec<u8>)>;
type Script = Box<dyn FnMut(&Request, u32) -> Reply>;

/// The gateway's side of one connection.
struct Peer {
    platform: Platform,
    input: Vec<u8>,
    output: Vec<u8>,
    greeted: bool,
    decoder: fluke_hpack::Decoder<'static>,
    /// Headers and body of incomplete requests.
    under_way: BTreeMap<u32, (Fields, Vec<u8>)>,
    answered: u64,
}

/// The gateway with all its connections.
pub(super) struct Gateway {
    peers: BTreeMap<ConnectionId, Peer>,
    pub(super) requests: Vec<Request>,
    /// Function that decides on each request. Its number counts the requests for the same device,
    /// from 1.
    pub(super) script: Script,
    tries: BTreeMap<u32, u32>,
    /// Streams allowed after the first success on a connection; 1 before.
    pub(super) streams: u32,
    /// Further settings that new connections get after the usual SETTINGS.
    pub(super) settings: Vec<(u16, u32)>,
    /// Whether the gateway returns credit for the connection's window as it is used.
    pub(super) credits: bool,
    /// Whether the gateway answers PINGs.
    pub(super) pongs: bool,
    /// PINGs received, by platform and time.
    pub(super) pings: Vec<(Platform, Time)>,
    pub(super) open_max: usize,
    /// Connections that are lost once their output has arrived.
    pub(super) lost: Vec<ConnectionId>,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Gateway {
    pub(super) fn new(streams: u32, script: impl FnMut(&Request, u32) -> Reply + 'static) -> Self {
        Self {
            peers: BTreeMap::new(),
            requests: Vec::new(),
            script: Box::new(script),
            tries: BTreeMap::new(),
            streams,
            settings: Vec::new(),
            credits: true,
            pongs: true,
            pings: Vec::new(),
            open_max: 0,
            lost: Vec::new(),
        }
    }

    pub(super) fn accept(&mut self, id: ConnectionId, platform: Platform) {
        let mut peer = Peer {
            platform,
            input: Vec::new(),
            output: Vec::new(),
            greeted: false,
            decoder: fluke_hpack::Decoder::new(),
            under_way: BTreeMap::new(),
            answered: 0,
        };
        // SETTINGS: MAX_CONCURRENT_STREAMS 1 (FCM says at once what it allows), INITIAL_WINDOW_SIZE
        // 65535.
        let streams = match platform {
            Platform::Apns => 1,
            Platform::Fcm => self.streams,
        };
        let [a, b, c, d] = streams.to_be_bytes();
        peer.frame(4, 0, 0, &[0, 3, a, b, c, d, 0, 4, 0, 0, 0xff, 0xff]);
        if !self.settings.is_empty() {
            peer.settings(&self.settings);
        }
        self.peers.insert(id, peer);
    }

    /// Sends SETTINGS on all established connections.
    pub(super) fn say_settings(&mut self, values: &[(u16, u32)]) {
        self.peers.values_mut().for_each(|peer| peer.settings(values));
    }

    /// Sends a PING on all established connections.
    pub(super) fn ping(&mut self) {
        self.peers.values_mut().for_each(|peer| peer.frame(6, 0, 0, b"eight..."));
    }

    pub(super) fn drop(&mut self, id: ConnectionId) {
        self.peers.remove(&id);
    }

    pub(super) fn connections(&self) -> Vec<ConnectionId> {
        self.peers.keys().copied().collect()
    }

    pub(super) fn connections_of(&self, platform: Platform) -> Vec<ConnectionId> {
        self.peers.iter().filter(|(_, peer)| peer.platform == platform).map(|(id, _)| *id).collect()
    }

    /// Sends a GOAWAY that leaves all streams so far to be answered.
    pub(super) fn go_away(&mut self, id: ConnectionId, last: u32) {
        self.go_away_saying(id, last, 0, "");
    }

    pub(super) fn go_away_saying(&mut self, id: ConnectionId, last: u32, code: u32, debug: &str) {
        let payload = [&last.to_be_bytes()[..], &code.to_be_bytes(), debug.as_bytes()].concat();
        self.peers.get_mut(&id).unwrap().frame(7, 0, 0, &payload);
    }

    /// Takes the output of all connections.
    pub(super) fn take_output(&mut self) -> Vec<(ConnectionId, Vec<u8>)> {
        let output =
            |(id, peer): (&ConnectionId, &mut Peer)| (*id, std::mem::take(&mut peer.output));
        self.peers.iter_mut().map(output).filter(|(_, bytes)| !bytes.is_empty()).collect()
    }

    pub(super) fn receive(&mut self, id: ConnectionId, bytes: &[u8], now: Time) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.input.extend_from_slice(bytes);
        if !peer.greeted {
            if peer.input.len() < PREFACE.len() {
                return;
            }
            assert_eq!(&peer.input[..PREFACE.len()], PREFACE);
            peer.input.drain(..PREFACE.len());
            peer.greeted = true;
        }
        let mut done = Vec::new();
        while peer.input.len() >= 9 {
            let length = usize::from(peer.input[0]) << 16
                | usize::from(peer.input[1]) << 8
                | usize::from(peer.input[2]);
            if peer.input.len() < 9 + length {
                break;
            }
            let frame: Vec<u8> = peer.input.drain(..9 + length).collect();
            let (kind, flags, payload) = (frame[3], frame[4], &frame[9..]);
            let stream = u32::from_be_bytes([frame[5] & 0x7f, frame[6], frame[7], frame[8]]);
            match kind {
                0 => {
                    let (_, body) =
                        peer.under_way.get_mut(&stream).expect("DATA on an open stream");
                    body.extend_from_slice(payload);
                    if !payload.is_empty() && self.credits {
                        let credit = u32::try_from(payload.len()).unwrap().to_be_bytes();
                        peer.frame(8, 0, 0, &credit);
                    }
                }
                1 => {
                    assert_eq!(flags & 0x28, 0, "no padding, no priority");
                    assert_eq!(flags & 0x4, 0x4, "headers of these tests fit one frame");
                    let headers = peer.decoder.decode(payload).expect("HPACK");
                    assert!(peer.under_way.insert(stream, (headers, Vec::new())).is_none());
                    self.open_max = self.open_max.max(peer.under_way.len());
                }
                3 => drop(peer.under_way.remove(&stream)),
                4 if flags & 1 == 0 => peer.frame(4, 1, 0, &[]),
                6 if flags & 1 == 0 => {
                    self.pings.push((peer.platform, now));
                    if self.pongs {
                        peer.frame(6, 1, 0, payload);
                    }
                }
                _ => {}
            }
            if kind <= 1 && flags & 1 == 1 {
                done.push(stream);
            }
        }
        for stream in done {
            self.request(id, stream, now);
        }
    }

    fn request(&mut self, id: ConnectionId, stream: u32, now: Time) {
        let peer = self.peers.get_mut(&id).unwrap();
        let (headers, body) = &peer.under_way[&stream];
        let header = |name: &str| {
            let value = headers.iter().find(|(n, _)| n == name.as_bytes()).map(|(_, v)| v.clone());
            String::from_utf8(value.unwrap_or_else(|| panic!("no {name}"))).unwrap()
        };
        let path = header(":path");
        let token = match peer.platform {
            Platform::Apns => path.strip_prefix("/3/device/").expect("path").to_owned(),
            Platform::Fcm => {
                assert_eq!(path, "/v1/projects/demo-1/messages:send");
                assert_eq!(header("content-type"), "application/json");
                let message: serde_json::Value = serde_json::from_slice(body).expect("JSON");
                message["message"]["token"].as_str().expect("a token").to_owned()
            }
        };
        let request = Request {
            at: now,
            connection: id,
            platform: peer.platform,
            device: u32::from_str_radix(&token[..8], 16).unwrap(),
            authorization: header("authorization"),
            body: body.clone(),
        };
        let device = request.device;
        let tries = self.tries.entry(device).or_default();
        *tries += 1;
        let reply = (self.script)(&request, *tries);
        self.requests.push(request);
        self.answer(id, stream, reply);
    }

    fn answer(&mut self, id: ConnectionId, stream: u32, reply: Reply) {
        let streams = self.streams;
        let peer = self.peers.get_mut(&id).unwrap();
        match reply {
            Reply::Silence => return,
            Reply::NotProcessed => peer.frame(3, 0, stream, &7u32.to_be_bytes()),
            Reply::Accept => {
                // The size update that our SETTINGS_HEADER_TABLE_SIZE of 0 calls for, then `:status
                // 200`.
                let block: &[u8] = if peer.answered == 0 { &[0x20, 0x88] } else { &[0x88] };
                match peer.platform {
                    Platform::Apns => peer.frame(1, 5, stream, block),
                    Platform::Fcm => {
                        peer.frame(1, 4, stream, block);
                        peer.frame(0, 1, stream, br#"{"name":"projects/demo-1/messages/1"}"#);
                    }
                }
                if peer.answered == 0 && peer.platform == Platform::Apns {
                    let [a, b, c, d] = streams.to_be_bytes();
                    peer.frame(4, 0, 0, &[0, 3, a, b, c, d]);
                    if !self.settings.is_empty() {
                        peer.settings(&self.settings);
                    }
                }
                peer.answered += 1;
            }
            Reply::Fcm(status, code, retry_after) => {
                let mut block = head(status);
                if let Some(seconds) = retry_after {
                    let seconds = seconds.to_string();
                    block.extend_from_slice(&[0x0f, 0x26, u8::try_from(seconds.len()).unwrap()]); // entry 53: `retry-after`
                    block.extend_from_slice(seconds.as_bytes());
                }
                peer.frame(1, 4, stream, &block);
                let detail = match code {
                    "" => String::new(),
                    code => format!(
                        r#"{{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"{code}"}}"#
                    ),
                };
                let word = match status {
                    401 => "UNAUTHENTICATED",
                    403 => "PERMISSION_DENIED",
                    404 => "NOT_FOUND",
                    429 => "RESOURCE_EXHAUSTED",
                    500 => "INTERNAL",
                    503 => "UNAVAILABLE",
                    _ => "INVALID_ARGUMENT",
                };
                let body = format!(
                    r#"{{"error":{{"code":{status},"message":"m","status":"{word}","details":[{detail}]}}}}"#
                );
                peer.frame(0, 1, stream, body.as_bytes());
            }
            Reply::Cut(status, reset) => {
                peer.frame(1, 4, stream, &head(status));
                match reset {
                    true => peer.frame(3, 0, stream, &2u32.to_be_bytes()),
                    false => self.lost.push(id),
                }
            }
            Reply::Page(status, body) => {
                peer.frame(1, 4, stream, &head(status));
                peer.frame(0, 1, stream, body.as_bytes());
            }
            Reply::Refuse(status, reason) => {
                peer.frame(1, 4, stream, &head(status));
                let timestamp = if status == 410 { ",\"timestamp\":1700000000000" } else { "" };
                peer.frame(
                    0,
                    1,
                    stream,
                    format!("{{\"reason\":\"{reason}\"{timestamp}}}").as_bytes(),
                );
            }
        }
        peer.under_way.remove(&stream);
    }
}

/// Returns `:status` as a literal without indexing.
fn head(status: u16) -> Vec<u8> {
    [&[0x08, 3], status.to_string().as_bytes()].concat()
}

impl Peer {
    fn settings(&mut self, values: &[(u16, u32)]) {
        let payload: Vec<u8> = values
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        self.frame(4, 0, 0, &payload);
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        self.output.extend_from_slice(&length[1..]);
        self.output.extend_from_slice(&[kind, flags]);
        self.output.extend_from_slice(&stream.to_be_bytes());
        self.output.extend_from_slice(payload);
    }
}
