//! One request, from template to bytes, and one turn of a connection: push, write, read the answer.
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
    command::{ApnsHeaders, Authorization},
    lane::connection::{Connection, ConnectionConfig, ConnectionEvent, TemplateSpec},
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const STREAMS: usize = 1_000;

/// One connection in the middle of a wave, and its peer's answers.
struct Peer {
    connection: Connection,
    spec: TemplateSpec,
    tokens: Vec<[u8; 32]>,
    out: Vec<u8>,
    answers: Vec<u8>,
    next_id: u32,
}

impl Peer {
    fn new(authorization_indexed: bool) -> Self {
        let config = ConnectionConfig {
            authority: "api.push.apple.com".into(),
            streams_max: STREAMS,
            authorization_indexed,
            ..ConnectionConfig::default()
        };
        // As long as an ES256 provider token.
        let authorization = Authorization(Arc::new(format!("bearer {}", "aZ09-_.x".repeat(25)).into()));
        let spec = TemplateSpec {
            headers: ApnsHeaders {
                topic: "org.example.clarion".into(),
                push_type: "alert".into(),
                priority: 10,
                expiration: 1_800_000_000,
                collapse_id: "alert-0123456789".into(),
            },
            body: Bytes::from(vec![b'x'; 257]),
        };
        let mut tokens = vec![[0; 32]; STREAMS];
        for (n, token) in tokens.iter_mut().enumerate() {
            for (i, byte) in token.iter_mut().enumerate() {
                *byte = (n * 31 + i * 97).to_le_bytes()[0];
            }
        }
        let connection = Connection::new(config, authorization, Time(0));
        let mut peer = Self { connection, spec, tokens, out: Vec::new(), answers: Vec::new(), next_id: 1 };
        // SETTINGS: 1,000 streams, a large window for each; their acknowledgement of ours; a window for all.
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 3, 232];
        peer.receive(
            &[&settings[..], &[0, 0, 0, 4, 1, 0, 0, 0, 0], &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0x70, 0, 0, 0]].concat(),
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

    /// What a gateway writes: `:status 200` and an `apns-id`, one frame for each.
    fn write_answers(&mut self, count: usize) {
        self.answers.clear();
        for _ in 0..count {
            self.answers.extend_from_slice(&[0, 0, 47, 1, 5]);
            self.answers.extend_from_slice(&self.next_id.to_be_bytes());
            self.answers.extend_from_slice(b"\x88\x00\x07apns-id\x24EC1BF194-B3B2-424A-89A9-5A918A6E6B5D");
            self.next_id += 2;
        }
        // The window that the bodies took.
        let credit = u32::try_from(count * self.spec.body.len()).expect("small").to_be_bytes();
        self.answers.extend_from_slice(&[0, 0, 4, 8, 0, 0, 0, 0, 0]);
        self.answers.extend_from_slice(&credit);
    }

    fn read_answers(&mut self) -> usize {
        self.connection.receive(&self.answers, Time(1)).expect("the peer keeps to the protocol");
        let mut accepted = 0;
        while let Some(event) = self.connection.poll() {
            accepted += usize::from(matches!(event, ConnectionEvent::Answer { answer, .. } if answer.status == 200));
        }
        accepted
    }

    fn answer(&mut self, count: usize) {
        self.write_answers(count);
        assert_eq!(self.read_answers(), count);
        // Ids end after a billion requests; the bench begins anew before.
        assert!(self.next_id < 0x7fff_0000);
    }
}

/// Runs turns of [`STREAMS`] requests and adds up the time of one side of them.
#[allow(clippy::disallowed_methods)] // a bench measures time
fn turns(rounds: u64, indexed: bool, out: bool) -> Duration {
    let mut peer = Peer::new(indexed);
    let mut total = Duration::ZERO;
    for round in 0..rounds {
        if round % 500_000 == 499_999 {
            peer = Peer::new(indexed);
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
    for (name, indexed) in [("indexed", true), ("literal", false)] {
        let mut peer = Peer::new(indexed);
        peer.push(STREAMS);
        println!("encode/{name}: {} bytes per push", peer.out.len() / STREAMS);
        group.bench_function(format!("{name}/push"), |b| b.iter_custom(|rounds| turns(rounds, indexed, true)));
    }
    group.bench_function("answers", |b| b.iter_custom(|rounds| turns(rounds, true, false)));
    group.finish();
}

criterion_group!(benches, encode);
criterion_main!(benches);
