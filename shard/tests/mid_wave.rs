//! Partitions that are gained, restored, leave and come back in the middle of a wave: a whole node
//! between a scripted coordinator and a gateway, judged by what the gateway got.

#![allow(clippy::disallowed_methods, reason = "tests have clocks and tasks of their own")]
#![allow(clippy::unwrap_used, reason = "a failure here fails the test")]

mod support;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_proto::{
    device::{Cell, Change, Record, Registration, Token},
    ids::{AppName, ClusterName, DeviceId, UnixMillis, partition_of},
    wire::shard_v1::{
        self as wire, session_request::Message as Say, session_response::Message as Told,
    },
};
use clarion_runtime::world::World;
use clarion_shard::{
    driver,
    node::{Node, NodeConfig, cores::CorePort},
};
use parking_lot::Mutex;
use rustls::ServerConfig;
use support::{Call, LOG, PARTITIONS, ScriptedFeed, Session, archive::snapshot_of, wave, within};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::TlsAcceptor;

const DEVICES: u32 = 3_000;
const CORES: usize = 2;
const WAVE: u64 = 5;
/// All devices are in the first nine of sixteen partitions, and these are of one log: the feed
/// serves partitions at different positions.
const OWNED: u16 = 9;

/// How often each path was asked for.
type Seen = Arc<Mutex<BTreeMap<String, u32>>>;

#[tokio::test]
async fn a_wave_is_complete_only_when_all_partitions_are_whatever_becomes_of_them_meanwhile() {
    let (gateway, certificate, seen) = gateway().await;
    let mut bench = Bench::start().await;
    let all: Vec<u32> = (0..u32::from(OWNED)).collect();

    // Eight partitions, four on each core.
    bench.own(1, &all[..8]).await;
    bench.session.say(lane(gateway, certificate)).await;
    let (lane, signer, authorization) = (1, 0, "bearer token".to_owned());
    bench
        .session
        .say(Say::ProviderToken(wire::ProviderToken { lane, signer, authorization }))
        .await;
    bench.session.say(Say::Connections(wire::Connections { lane, connections: 4 })).await;
    bench.offer(1, &all[..8]).await;
    bench.until_pushed(&seen, DEVICES as usize / 6).await;

    // The ninth comes to core 0, which keeps the four that it has.
    bench.own(2, &all).await;
    bench.until_pushed(&seen, DEVICES as usize / 4).await;
    bench.offer(2, &all).await;
    bench.until_pushed(&seen, DEVICES as usize / 3).await;

    // The log is trimmed: all are replaced by their snapshots, and what was handed stays handed.
    bench.trim(&all).await;
    assert_eq!(bench.feed.archive.loads().len(), all.len());
    bench.until_pushed(&seen, DEVICES as usize / 2).await;

    // All but three of core 1's leave, and those that come back are dealt out anew.
    bench.own(3, &[3, 5, 7]).await;
    bench.pass(Duration::from_millis(300)).await;
    assert_eq!(bench.complete, Some(false), "most of its partitions are not here");
    bench.own(4, &all).await;
    bench.offer(4, &all).await;
    bench.until_complete().await;

    let seen = seen.lock();
    assert!(seen.values().all(|times| *times == 1), "somebody was pushed twice");
    assert_eq!(seen.len(), DEVICES as usize, "complete means that everybody was pushed");
}

/// A node with real cores, and what a coordinator says to it.
struct Bench {
    feed: ScriptedFeed,
    session: Session,
    call: Option<Call>,
    records: Vec<(u32, wire::Record)>,
    /// As the newest report of the wave says.
    complete: Option<bool>,
    _stop: oneshot::Sender<()>,
}

impl Bench {
    async fn start() -> Self {
        let feed = ScriptedFeed::start().await;
        let config = NodeConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            health_listen: ([127, 0, 0, 1], 0).into(),
            cluster: ClusterName::default(),
            name: "node-1".to_owned(),
            coordinators: vec![feed.address.to_string()],
            cores: CORES,
        };
        let world = World::system();
        let node = Node::bind(config, &world).await.unwrap();
        let address = node.address();
        let port = |core: driver::CoreHandle| CorePort {
            commands: Arc::new(core.commands),
            events: core.events,
        };
        let ports = driver::spawn(CORES, &world).unwrap().into_iter().map(port).collect();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        tokio::spawn(node.run(ports, stopped, Duration::from_secs(10)));
        let session = Session::open(address).await;
        let records = records();
        Self { feed, session, call: None, records, complete: None, _stop: stop }
    }

    /// A newer ownership, and the feed that the node asks for then.
    async fn own(&mut self, number: u64, partitions: &[u32]) {
        let ownership = wire::Ownership {
            number,
            partition_count: u32::from(PARTITIONS),
            log_count: 1,
            partitions: partitions.to_vec(),
            log_identity: LOG.to_vec(),
        };
        self.session.say(Say::Ownership(ownership)).await;
        let call = loop {
            // Those that stay are followed alone until the snapshots of the others are known.
            let call = self.feed.asked().await;
            if call.request.partitions == partitions {
                break call;
            }
            call.start(&[(0, 1)]).await;
        };
        call.start(&[(0, 1)]).await;
        if call.positions() == [(0, 0)] {
            let records = self.records.iter().filter(|(p, _)| partitions.contains(p));
            let records = records.map(|(_, record)| record.clone()).collect();
            let batch = wire::FeedResponse {
                position: 1,
                append_time_ms: 1,
                records,
                ..Default::default()
            };
            call.send(batch).await;
        }
        self.call = Some(call);
    }

    /// The log loses what the node has applied, and each partition has a snapshot of it.
    async fn trim(&mut self, partitions: &[u32]) {
        let records: Vec<_> = self.records.iter().map(|(_, record)| record.clone()).collect();
        for partition in partitions {
            self.feed.archive.keep(snapshot_of(*partition, std::slice::from_ref(&records)));
        }
        self.call.take().unwrap().trimmed(0, 2).await;
        let call = self.feed.asked().await;
        assert_eq!((&call.request.partitions[..], call.positions()), (partitions, vec![(0, 1)]));
        call.start(&[(0, 1)]).await;
        self.call = Some(call);
    }

    /// The wave, for an ownership, always under the same epoch and without a word of what was
    /// handed: the node remembers.
    async fn offer(&mut self, ownership: u64, partitions: &[u32]) {
        let mut wave = wave(WAVE, 1, ownership, partitions);
        wave.shards.iter_mut().for_each(|shard| shard.start_position = 1);
        self.session.say(Say::Wave(wave)).await;
    }

    /// Answers what the node asks for: 600 pushes a second.
    async fn turn(&mut self) {
        match self.session.next().await.unwrap().expect("the session goes on") {
            Told::LeaseRequest(ask) => {
                let grant = |wave: &u64| wire::WaveGrant {
                    wave: *wave,
                    rate_millis_per_second: 600_000,
                    epoch: 1,
                };
                let waves = ask.waves.iter().map(grant).collect();
                let grant = wire::Grant { nonce: ask.nonce, lease_ms: 5_000, waves };
                self.session.say(Say::Grant(grant)).await;
                for lane in ask.lanes {
                    let slice = wire::Slice {
                        nonce: ask.nonce,
                        lease_ms: 5_000,
                        lane,
                        ..Default::default()
                    };
                    self.session.say(Say::Slice(slice)).await;
                }
            }
            Told::Report(report) => self.complete = Some(report.complete),
            Told::Refusal(refusal) => panic!("{refusal:?}"),
            _ => {}
        }
    }

    async fn pass(&mut self, time: Duration) {
        let _ = tokio::time::timeout(time, async {
            loop {
                self.turn().await;
            }
        })
        .await;
    }

    async fn until_pushed(&mut self, seen: &Seen, devices: usize) {
        within("so many pushes", async {
            while seen.lock().len() < devices {
                self.turn().await;
                assert_ne!(self.complete, Some(true), "complete in the middle");
            }
        })
        .await;
    }

    async fn until_complete(&mut self) {
        within("the wave's end", async {
            while self.complete != Some(true) {
                self.turn().await;
            }
        })
        .await;
    }
}

/// Arrivals in the one cell of the wave, with their partitions.
fn records() -> Vec<(u32, wire::Record)> {
    let cell = h3o::LatLng::new(22.54, 114.06).unwrap().to_cell(h3o::Resolution::Nine);
    let record = |n: u32| {
        let mut id = [1; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        let mut token = n.to_be_bytes().to_vec();
        token.resize(32, 0xcd);
        let registration = Registration {
            app: AppName::from_id("demo").unwrap(),
            token: Token::new(Bytes::from(token)).unwrap(),
            locale: String::new(),
            segments: Vec::new(),
            person: String::new(),
        };
        let change = Change::Arrival(registration, Cell::from(cell));
        Record { device: DeviceId(id), observed: UnixMillis(1), change }
    };
    let records = (0..).map(record).map(|r| (partition_of(r.device, PARTITIONS).0, r));
    let mine = records.filter(|(partition, _)| *partition < OWNED).take(DEVICES as usize);
    mine.map(|(partition, record)| (u32::from(partition), record.to_wire())).collect()
}

fn lane(gateway: SocketAddr, ca_pem: String) -> Say {
    let Say::Lane(mut lane) = support::lane(1) else { panic!("a lane") };
    lane.endpoint = format!("localhost:{}", gateway.port());
    lane.server_name = "localhost".to_owned();
    lane.ca_pem = ca_pem;
    Say::Lane(lane)
}

/// Accepts every push, a few milliseconds after it has come.
async fn gateway() -> (SocketAddr, String, Seen) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Seen::default();
    let record = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(acceptor.clone(), stream, Arc::clone(&record)));
        }
    });
    (address, made.cert.pem(), seen)
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, seen: Seen) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let Ok(mut h2) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = h2.accept().await {
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            let path = request.uri().path().to_owned();
            let mut body = request.into_body();
            while let Some(Ok(chunk)) = body.data().await {
                let _ = body.flow_control().release_capacity(chunk.len());
            }
            *seen.lock().entry(path).or_default() += 1;
            tokio::time::sleep(Duration::from_millis(3)).await;
            let _ = respond.send_response(http::Response::new(()), true);
        });
    }
}
