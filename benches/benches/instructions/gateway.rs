//! A gateway in memory: it reads frames, keeps no header, and accepts every push after a while.
//!
//! It sends what brings the core to its ordinary state (SETTINGS, their acknowledgement, windows,
//! answers in the form of APNs and FCM) and checks nothing; other tests do that. None of its work
//! is counted.

use std::{collections::VecDeque, time::Duration};

use clarion_benches::case::Case;
use clarion_proto::time::Time;
use clarion_shard::{core::ConnectionId, outcome::Platform};

/// Time from a request to its answer on the core's clock. At one push per microsecond some 2,000
/// are in flight.
pub(crate) const LATENCY: Duration = Duration::from_millis(2);
/// Window of the connection and of each stream, bytes.
const WINDOW_BYTES: u32 = 1 << 20;
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;

/// Fields that APNs answers with: `:status 200` and a literal `apns-id`.
const APNS_FIELDS: &[u8] = b"\x88\x00\x07apns-id\x24EC1BF194-B3B2-424A-89A9-5A918A6E6B5D";
/// Fields that FCM answers with.
const FCM_FIELDS: &[u8] =
    b"\x88\x0f\x10\x1fapplication/json; charset=UTF-8\x0f\x12\x1dSun, 06 Nov 1994 08:49:37 GMT";
/// Body of FCM's answer.
const FCM_BODY: &[u8] =
    b"{\n  \"name\": \"projects/clarion-example/messages/0:1500415314455276%31bd1c9631bd1c96\"\n}\n";

/// One connection, seen from the gateway.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Id by which the core knows the connection.
    pub(crate) id: ConnectionId,
    platform: Platform,
    streams_max: u32,
    greeted: bool,
    /// Whether an answer has been sent.
    answered: bool,
    /// Received body bytes since the last credit.
    uncredited: u32,
    /// Unanswered requests in order, with the times of their answers.
    open: VecDeque<(Time, u32)>,
    /// Bytes for the core to read.
    pub(crate) output: Vec<u8>,
    /// Number of complete requests.
    pub(crate) requests: u64,
    /// Number of received bytes.
    pub(crate) bytes: u64,
}

impl Peer {
    /// Creates a connection that was just accepted, with its SETTINGS in the output.
    pub(crate) fn new(id: ConnectionId, case: Case) -> Self {
        let streams_max = u32::try_from(case.lane().1).expect("few");
        let mut peer = Self {
            id,
            platform: case.platform(),
            streams_max,
            greeted: false,
            answered: false,
            uncredited: 0,
            open: VecDeque::new(),
            output: Vec::new(),
            requests: 0,
            bytes: 0,
        };
        let [a, b, c, d] = streams_max.to_be_bytes();
        let [e, f, g, h] = WINDOW_BYTES.to_be_bytes();
        peer.put(4, 0, 0, &[0, 3, a, b, c, d, 0, 4, e, f, g, h]);
        peer.put(8, 0, 0, &(WINDOW_BYTES - 65_535).to_be_bytes());
        peer
    }

    /// Reads the core's output, which consists of complete frames.
    pub(crate) fn receive(&mut self, mut bytes: &[u8], now: Time) {
        self.bytes += bytes.len() as u64;
        if !self.greeted {
            bytes = &bytes[PREFACE_BYTES..];
            self.greeted = true;
        }
        while !bytes.is_empty() {
            let length =
                usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
            let (kind, flags) = (bytes[3], bytes[4]);
            let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
            bytes = &bytes[HEAD_BYTES + length..];
            match kind {
                0 => self.uncredited += u32::try_from(length).expect("a frame"),
                3 | 7 => panic!("the core gave up stream {stream} (frame {kind})"),
                4 if flags & 1 == 0 => self.put(4, 1, 0, &[]),
                _ => {}
            }
            if kind <= 1 && flags & 1 == 1 {
                self.requests += 1;
                self.open.push_back((now + LATENCY, stream));
                assert!(
                    self.open.len() <= self.streams_max as usize,
                    "more streams than SETTINGS allow"
                );
            }
        }
        if self.uncredited >= WINDOW_BYTES / 2 {
            self.put(8, 0, 0, &self.uncredited.to_be_bytes());
            self.uncredited = 0;
        }
    }

    /// Returns the time of the next answer.
    pub(crate) fn due(&self) -> Option<Time> {
        self.open.front().map(|(due, _)| *due)
    }

    /// Writes the answers that are due, and returns their number.
    pub(crate) fn answer(&mut self, now: Time) -> u64 {
        let mut answers = 0;
        while let Some((_, stream)) = self.open.pop_front_if(|(due, _)| *due <= now) {
            answers += 1;
            let (fields, body) = match self.platform {
                Platform::Apns => (APNS_FIELDS, &b""[..]),
                Platform::Fcm => (FCM_FIELDS, FCM_BODY),
            };
            // The size update that SETTINGS_HEADER_TABLE_SIZE of 0 requires (RFC 7541, 4.2).
            if std::mem::replace(&mut self.answered, true) {
                self.put(1, if body.is_empty() { 5 } else { 4 }, stream, fields);
            } else {
                self.put(
                    1,
                    if body.is_empty() { 5 } else { 4 },
                    stream,
                    &[&[0x20], fields].concat(),
                );
            }
            if !body.is_empty() {
                self.put(0, 1, stream, body);
            }
        }
        answers
    }

    fn put(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        self.output.extend_from_slice(&length[1..]);
        self.output.extend_from_slice(&[kind, flags]);
        self.output.extend_from_slice(&stream.to_be_bytes());
        self.output.extend_from_slice(payload);
    }
}
