//! Threads, sockets and TLS for real: a wave through the driver to an independent HTTP/2 server.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use clarion_proto::{
    device::{Cell, Change, Record, Registration, Token},
    ids::{AppName, DeviceId, Epoch, LaneId, LogId, PartitionId, Position, UnixMillis, WaveId, partition_of},
    outcome::Outcome,
    time::Time,
};
use clarion_shard::{
    command::{
        ApnsHeaders, AppSpec, Authorization, Command, Counts, Event, LaneHealth, LaneSpec, Rate, ShardSpec, WaveSpec,
    },
    driver::{self, Clock, CoreHandle},
    wave::Cover,
};
use h3o::{LatLng, Resolution};
use roaring::RoaringBitmap;
use rustls::{RootCertStore, ServerConfig};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

const CORES: usize = 2;
const PARTITIONS: u16 = 4;
const DEVICES: u32 = 4_000;
const LANE: LaneId = LaneId(1);
const WAVE: WaveId = WaveId(1);
/// Far more than any step needs; a step that does not come ends the test.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the server saw: connection number and token.
type Seen = mpsc::Receiver<(usize, String)>;

#[tokio::test]
async fn a_wave_reaches_an_independent_server_over_tls_once() {
    let (gateway, mut seen) = gateway().await;
    let clock = Clock::start();
    let mut cores = driver::spawn(CORES, clock).expect("threads");
    prepare(&cores, &gateway, None).await;

    let mut bands: Vec<BTreeMap<u32, Counts>> = vec![BTreeMap::new(); CORES];
    let (mut walked, mut complete) = (vec![0; CORES], vec![false; CORES]);
    while !complete.iter().all(|c| *c) {
        let (core, event) = next(&mut cores).await;
        match event {
            Event::Report(report) => {
                bands[core].extend(report.bands);
                walked[core] = report.bands_walked;
                complete[core] = report.complete;
                let open = *walked.iter().min().expect("cores") + 1;
                tell_all(&cores, || Command::OpenBands { wave: WAVE, bands: open }).await;
            }
            Event::LaneState { health, .. } => assert_eq!(health, LaneHealth::Ready),
            Event::Held(_) => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
    let mut total = Counts::default();
    bands.iter().flat_map(BTreeMap::values).for_each(|counts| total.add(counts));
    assert_eq!(total.handed, u64::from(DEVICES));
    assert_eq!(total.outcomes[Outcome::Accepted as usize], u64::from(DEVICES));

    shut_down(cores).await;
    let (mut tokens, mut connections) = (BTreeSet::new(), BTreeSet::new());
    while let Some((connection, token)) = timeout(PATIENCE, seen.recv()).await.expect("the server ends") {
        assert!(tokens.insert(token), "twice");
        connections.insert(connection);
        if tokens.len() == DEVICES as usize {
            break;
        }
    }
    assert!(connections.len() >= CORES, "each core has its own");
}

#[tokio::test]
async fn a_cancel_is_confirmed_with_the_time_of_the_last_write() {
    let (gateway, mut seen) = gateway().await;
    let clock = Clock::start();
    let mut cores = driver::spawn(CORES, clock).expect("threads");
    prepare(&cores, &gateway, Some(Rate { per_second: 500.0, burst: 5.0 })).await;
    for _ in 0..20 {
        timeout(PATIENCE, seen.recv()).await.expect("a push").expect("the server lives");
    }
    tell_all(&cores, || Command::Cancel { wave: WAVE, epoch: Epoch(1) }).await;
    let (mut stopped, mut ended) = ([None; CORES], [false; CORES]);
    let mut bands: Vec<BTreeMap<u32, Counts>> = vec![BTreeMap::new(); CORES];
    while stopped.iter().any(Option::is_none) || !ended.iter().all(|e| *e) {
        match next(&mut cores).await {
            (core, Event::Stopped { wave, last_write, written_after }) => {
                assert_eq!((wave, written_after), (WAVE, 0));
                stopped[core] = Some(last_write.expect("it wrote"));
            }
            (core, Event::Report(report)) => {
                bands[core].extend(report.bands);
                ended[core] = report.ended;
            }
            _ => {}
        }
    }
    let now = clock.now();
    assert!(stopped.iter().all(|at| at.is_some_and(|at| at > Time(0) && at <= now)));
    let mut total = Counts::default();
    bands.iter().flat_map(BTreeMap::values).for_each(|counts| total.add(counts));
    assert!((20..u64::from(DEVICES)).contains(&total.handed));
    assert_eq!(total.outcomes[Outcome::Accepted as usize], total.handed, "what was written before was answered");
    shut_down(cores).await;
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_refused() {
    let (mut gateway, _seen) = gateway().await;
    gateway.roots = Arc::new(RootCertStore::empty());
    let mut cores = driver::spawn(1, Clock::start()).expect("a thread");
    prepare(&cores, &gateway, None).await;
    loop {
        if let (_, Event::LaneState { health, .. }) = next(&mut cores).await {
            assert_eq!(health, LaneHealth::Unreachable);
            break;
        }
    }
    shut_down(cores).await;
}

/// A server that accepts every push.
struct Gateway {
    address: SocketAddr,
    roots: Arc<RootCertStore>,
}

async fn gateway() -> (Gateway, Seen) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .expect("a key");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (saw, seen) = mpsc::channel(2 * DEVICES as usize);
    tokio::spawn(async move {
        for connection in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            tokio::spawn(serve(acceptor.clone(), stream, connection, saw.clone()));
        }
    });
    (Gateway { address, roots: Arc::new(roots) }, seen)
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, connection: usize, saw: mpsc::Sender<(usize, String)>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let mut h2 = h2::server::Builder::new()
        .max_concurrent_streams(200)
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 20)
        .handshake::<_, Bytes>(stream)
        .await
        .expect("HTTP/2");
    while let Some(Ok((request, mut respond))) = h2.accept().await {
        let path = request.uri().path().to_owned();
        assert_eq!(request.method(), "POST");
        assert_eq!(request.headers()["authorization"], "bearer token");
        assert_eq!(request.headers()["apns-topic"], "org.example.demo");
        let saw = saw.clone();
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut length = 0;
            while let Some(Ok(chunk)) = body.data().await {
                length += chunk.len();
                let _ = body.flow_control().release_capacity(chunk.len());
            }
            assert_eq!(length, BODY.len());
            let response = http::Response::builder().status(200).header("apns-id", "1").body(()).expect("a response");
            if respond.send_response(response, true).is_ok() {
                let _ = saw.send((connection, path)).await;
            }
        });
    }
}

const BODY: &[u8] = b"{\"aps\":{\"alert\":\"missing child\"}}";

/// Everything that a control plane says before a wave runs.
async fn prepare(cores: &[CoreHandle], gateway: &Gateway, rate: Option<Rate>) {
    let spec = Arc::new(LaneSpec {
        id: LANE,
        name: "test/demo".to_owned(),
        endpoint: format!("localhost:{}", gateway.address.port()),
        server_name: "localhost".to_owned(),
        roots: Arc::clone(&gateway.roots),
        live: false,
        connections: 2,
        streams_per_connection: 1_000,
        request_deadline: Duration::from_secs(30),
        connect_deadline: Duration::from_secs(30),
        backoff_min: Duration::from_millis(10),
        backoff_max: Duration::from_millis(100),
        authorization_indexed: true,
    });
    let authorization = Authorization(Arc::new(secrecy::SecretString::from("bearer token".to_owned())));
    let cover = Arc::new(cover());
    let mine = |core: usize| (0..PARTITIONS).filter(move |p| usize::from(*p) % cores.len() == core).map(PartitionId);
    for (core, handle) in cores.iter().enumerate() {
        let say = async |command| handle.commands.send(command).await.expect("the core lives");
        say(Command::Own(mine(core).collect())).await;
        say(Command::Lane(Arc::clone(&spec))).await;
        say(Command::ProviderToken { lane: LANE, authorization: authorization.clone() }).await;
        say(Command::Slice { lane: LANE, until: Time::NEVER, rate: None }).await;
        let records = (0..DEVICES).map(record).map(|r| (partition_of(r.device, PARTITIONS), r));
        let records = records.filter(|(partition, _)| usize::from(partition.0) % cores.len() == core).collect();
        say(Command::Apply { log: LogId(0), position: Position(1), appended: UnixMillis(1), records }).await;
        let shard =
            |partition| ShardSpec { partition, log: LogId(0), start: Position(1), handed: RoaringBitmap::new() };
        say(Command::Wave(Arc::new(WaveSpec {
            id: WAVE,
            alert: "alerts/test".to_owned(),
            epoch: Epoch(1),
            cover: Arc::clone(&cover),
            shards: mine(core).map(shard).collect(),
            apps: vec![app()],
            segments: Vec::new(),
            expires: Time::NEVER,
        })))
        .await;
        say(Command::Grant { wave: WAVE, until: Time::NEVER, rate }).await;
    }
}

fn app() -> AppSpec {
    let headers = ApnsHeaders {
        topic: "org.example.demo".to_owned(),
        push_type: "alert".to_owned(),
        priority: 10,
        expiration: 1_800_000_000,
        collapse_id: "test".to_owned(),
    };
    let messages = vec![("en".to_owned(), Bytes::from_static(BODY))];
    AppSpec { app: AppName::from_id("demo").expect("a name"), lane: LANE, headers, messages }
}

/// Two bands: a disk and the ring around it.
fn cover() -> Cover {
    let cells = |from, to| {
        let mut cells: Vec<u64> = (from..=to).flat_map(|k| center().grid_ring::<Vec<_>>(k)).map(u64::from).collect();
        cells.sort_unstable();
        cells
    };
    Cover::new(&[(0.0, 1_000.0, cells(0, 3)), (1_000.0, 2_000.0, cells(4, 8))]).expect("a cover")
}

fn center() -> h3o::CellIndex {
    LatLng::new(22.54, 114.06).expect("a place").to_cell(Resolution::Nine)
}

fn record(n: u32) -> Record {
    let disk: Vec<_> = (0..=8).flat_map(|k| center().grid_ring::<Vec<_>>(k)).collect();
    let mut id = [1; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    let mut token = n.to_be_bytes().to_vec();
    token.resize(32, 0xcd);
    let registration = Registration {
        app: AppName::from_id("demo").expect("a name"),
        token: Token::new(Bytes::from(token)).expect("a token"),
        locale: String::new(),
        segments: Vec::new(),
        person: String::new(),
    };
    let cell = Cell::from(disk[n as usize % disk.len()]);
    Record { device: DeviceId(id), observed: UnixMillis(1), change: Change::Arrival(registration, cell) }
}

async fn tell_all(cores: &[CoreHandle], command: impl Fn() -> Command) {
    for core in cores {
        core.commands.send(command()).await.expect("the core lives");
    }
}

/// The next event of any core.
async fn next(cores: &mut [CoreHandle]) -> (usize, Event) {
    let events = cores
        .iter_mut()
        .enumerate()
        .map(|(n, core)| Box::pin(async move { (n, core.events.recv().await.expect("the core lives")) }));
    timeout(PATIENCE, futures_util::future::select_all(events)).await.expect("an event").0
}

async fn shut_down(cores: Vec<CoreHandle>) {
    tell_all(&cores, || Command::Shutdown).await;
    let joined = tokio::task::spawn_blocking(move || cores.into_iter().for_each(|c| c.join.join().expect("no panic")));
    timeout(PATIENCE, joined).await.expect("threads end").expect("joined");
}
