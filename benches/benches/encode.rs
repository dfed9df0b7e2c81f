//! One request, from template to bytes, and one turn of a connection: push, write, read the answer.
//! Measured for APNs with the credential in the header table and without, and for FCM, where the
//! token is in the body and each answer has a body.
//!
//! Times are per request. No sockets and no TLS: what a core spends on HTTP/2 itself.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clarion_proto::time::Time;
use clarion_shard::{
    lane::{
        connection::{Connection, ConnectionConfig, ConnectionEvent, TemplateSpec},
        provider::{
            authorization::Authorization,
            request::{ApnsHeaders, Request},
        },
    },
    outcome::Platform,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const STREAMS: usize = 1_000;

/// Measured case: a platform and the place of its credential.
#[derive(Clone, Copy)]
enum Case {
    Apns { authorization_indexed: bool },
    Fcm,
}

impl Case {
    fn platform(self) -> Platform {
        match self {
            Self::Apns { .. } => Platform::Apns,
            Self::Fcm => Platform::Fcm,
        }
    }

    fn authorization(self) -> String {
        match self {
            // As long as an ES256 provider token.
            Self::Apns { .. } => format!("bearer {}", "aZ09-_.x".repeat(25)),
            // As long as an access token of a service account.
            Self::Fcm => format!("Bearer ya29.{}", "aZ09-_.x".repeat(128)),
        }
    }

    /// Returns a template with a body of 257 bytes without the token.
    fn spec(self) -> TemplateSpec {
        match self {
            Self::Apns { .. } => TemplateSpec {
                request: Request::Apns(ApnsHeaders {
                    topic: "org.example.clarion".into(),
                    push_type: "alert".into(),
                    priority: 10,
                    expiration: 1_800_000_000,
                    collapse_id: "alert-0123456789".into(),
                }),
                body: Bytes::from(vec![b'x'; 257]),
                body_after_token: Bytes::new(),
            },
            Self::Fcm => TemplateSpec {
                request: Request::Fcm { project: "clarion-example".into() },
                body: Bytes::from(vec![b'"'; 200]),
                body_after_token: Bytes::from(vec![b'"'; 57]),
            },
        }
    }

    fn tokens(self) -> Vec<Vec<u8>> {
        let byte = |n: usize, i: usize| (n * 31 + i * 97).to_le_bytes()[0];
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let token = |n: usize| match self {
            Self::Apns { .. } => (0..32).map(|i| byte(n, i)).collect(),
            // Mixed lengths, as observed.
            Self::Fcm => {
                (0..[142, 152, 163][n % 3]).map(|i| letters[usize::from(byte(n, i) & 63)]).collect()
            }
        };
        (0..STREAMS).map(token).collect()
    }

    /// Returns the fields of an answer after the frame header and `:status 200`, and the payload of
    /// its DATA frame.
    fn answer(self) -> (&'static [u8], &'static [u8]) {
        match self {
            Self::Apns { .. } => (b"\x88\x00\x07apns-id\x24EC1BF194-B3B2-424A-89A9-5A918A6E6B5D", b""),
            Self::Fcm => (
                b"\x88\x0f\x10\x1fapplication/json; charset=UTF-8\x0f\x12\x1dSun, 06 Nov 1994 08:49:37 GMT",
                b"{\n  \"name\": \"projects/clarion-example/messages/0:1500415314455276%31bd1c9631bd1c96\"\n}\n",
            ),
        }
    }
}

/// One connection in the middle of a wave, and its peer's answers.
struct Peer {
    case: Case,
    connection: Connection,
    spec: TemplateSpec,
    tokens: Vec<Vec<u8>>,
    out: Vec<u8>,
    answers: Vec<u8>,
    next_id: u32,
}

impl Peer {
    fn new(case: Case) -> Self {
        let config = ConnectionConfig {
            platform: case.platform(),
            authority: "api.push.apple.com".into(),
            streams_max: STREAMS,
            authorization_indexed: !matches!(case, Case::Apns { authorization_indexed: false }),
            ..ConnectionConfig::default()
        };
        let authorization = Authorization(Arc::new(case.authorization().into()));
        let connection = Connection::new(config, authorization, Time(0));
        let (out, answers) = (Vec::new(), Vec::new());
        let mut peer = Self {
            case,
            connection,
            spec: case.spec(),
            tokens: case.tokens(),
            out,
            answers,
            next_id: 1,
        };
        // SETTINGS with 1,000 streams and a large window for each; the acknowledgement of ours; a
        // window for the connection.
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 3, 232];
        peer.receive(
            &[
                &settings[..],
                &[0, 0, 0, 4, 1, 0, 0, 0, 0],
                &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0x70, 0, 0, 0],
            ]
            .concat(),
        );
        for _ in 0..3 {
            peer.push(1);
            peer.answer(1);
        }
        assert_eq!(peer.connection.room(), STREAMS);
        peer
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.connection.receive(bytes, Time(1)).expect("the peer keeps to the protocol");
    }

    fn push(&mut self, count: usize) {
        for (ticket, token) in (0..).zip(&self.tokens[..count]) {
            self.connection.push(ticket, 0, &self.spec, token, Time(1)).expect("there is room");
        }
        self.out.clear();
        self.connection.transmit(&mut self.out, Time(1));
    }

    /// Writes the answers of a gateway.
    fn write_answers(&mut self, count: usize) {
        let (fields, body) = self.case.answer();
        let length = |bytes: &[u8]| u8::try_from(bytes.len()).expect("short");
        self.answers.clear();
        for _ in 0..count {
            let id = self.next_id.to_be_bytes();
            self.answers.extend_from_slice(&[
                0,
                0,
                length(fields),
                1,
                if body.is_empty() { 5 } else { 4 },
            ]);
            self.answers.extend_from_slice(&id);
            self.answers.extend_from_slice(fields);
            if !body.is_empty() {
                self.answers.extend_from_slice(&[0, 0, length(body), 0, 1]);
                self.answers.extend_from_slice(&id);
                self.answers.extend_from_slice(body);
            }
            self.next_id += 2;
        }
        // Returns the window that the bodies took.
        let tokens = match self.case {
            Case::Apns { .. } => 0,
            Case::Fcm => self.tokens[..count].iter().map(Vec::len).sum(),
        };
        let bodies = count * (self.spec.body.len() + self.spec.body_after_token.len()) + tokens;
        let credit = u32::try_from(bodies).expect("small").to_be_bytes();
        self.answers.extend_from_slice(&[0, 0, 4, 8, 0, 0, 0, 0, 0]);
        self.answers.extend_from_slice(&credit);
    }

    fn read_answers(&mut self) -> usize {
        self.connection.receive(&self.answers, Time(1)).expect("the peer keeps to the protocol");
        let mut accepted = 0;
        while let Some(event) = self.connection.poll() {
            accepted += usize::from(
                matches!(event, ConnectionEvent::Answer { answer, .. } if answer.status == 200),
            );
        }
        accepted
    }

    fn answer(&mut self, count: usize) {
        self.write_answers(count);
        assert_eq!(self.read_answers(), count);
        // Ids end after a billion requests; the benchmark starts again before.
        assert!(self.next_id < 0x7fff_0000);
    }
}

/// Runs turns of [`STREAMS`] requests and adds up the time of one side of them.
#[allow(clippy::disallowed_methods)] // a bench measures time
fn turns(rounds: u64, case: Case, out: bool) -> Duration {
    let mut peer = Peer::new(case);
    let mut total = Duration::ZERO;
    for round in 0..rounds {
        if round % 500_000 == 499_999 {
            peer = Peer::new(case);
        }
        let begin = Instant::now();
        peer.push(STREAMS);
        black_box(&peer.out);
        let pushed = begin.elapsed();
        peer.write_answers(STREAMS);
        let begin = Instant::now();
        assert_eq!(black_box(peer.read_answers()), STREAMS);
        total += if out { pushed } else { begin.elapsed() };
    }
    total
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(STREAMS as u64));
    let apns = |authorization_indexed| Case::Apns { authorization_indexed };
    for (name, case) in [("indexed", apns(true)), ("literal", apns(false)), ("fcm", Case::Fcm)] {
        let mut peer = Peer::new(case);
        peer.push(STREAMS);
        println!("encode/{name}: {} bytes per push", peer.out.len() / STREAMS);
        group.bench_function(format!("{name}/push"), |b| {
            b.iter_custom(|rounds| turns(rounds, case, true));
        });
    }
    for (name, case) in [("answers", apns(true)), ("fcm/answers", Case::Fcm)] {
        group.bench_function(name, |b| b.iter_custom(|rounds| turns(rounds, case, false)));
    }
    group.finish();
}

criterion_group!(benches, encode);
criterion_main!(benches);
