//! Threads, sockets and TLS for real: a wave through the driver to an independent HTTP/2 server.

#![allow(clippy::disallowed_methods, reason = "tests have clocks and tasks of their own")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use clarion_proto::{ids::Epoch, outcome::Outcome, time::Time};
use clarion_runtime::world::{Clock, Listener, Network, Stream, Tcp, World};
use clarion_shard::{
    command::{Command, Counts, Event},
    driver,
    lane::{health::LaneHealth, rate::Rate},
};
use rustls::{RootCertStore, ServerConfig};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

mod wave_support;

use wave_support::{
    BODY, Gateway, PATIENCE, WAVE, certificate, next, prepare, shut_down, tell_all,
};

const CORES: usize = 2;
const DEVICES: u32 = 4_000;

/// What the server saw of one request.
#[derive(Debug)]
struct Seen {
    /// Its number, and where it came in.
    connection: (usize, SocketAddr),
    /// Counts the requests of a connection as they came.
    order: usize,
    path: String,
}

async fn seen_next(seen: &mut mpsc::Receiver<Seen>) -> Seen {
    timeout(PATIENCE, seen.recv()).await.expect("a push").expect("the server lives")
}

#[tokio::test]
async fn a_wave_reaches_an_independent_server_over_tls_once() {
    let (gateway, mut seen) = gateway().await;
    let world = World::system();
    let mut cores = driver::spawn(CORES, &world).expect("threads");
    prepare(&cores, &gateway, DEVICES, None).await;

    let total = wave_support::complete(&mut cores).await;
    assert_eq!(total.handed, u64::from(DEVICES));
    assert_eq!(total.outcomes[Outcome::Accepted as usize], u64::from(DEVICES));

    shut_down(cores).await;
    let (mut tokens, mut connections) = (BTreeSet::new(), BTreeSet::new());
    while let Some(Seen { connection, path: token, .. }) =
        timeout(PATIENCE, seen.recv()).await.expect("the server ends")
    {
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
    let world = World::system();
    let mut cores = driver::spawn(CORES, &world).expect("threads");
    prepare(&cores, &gateway, DEVICES, Some(Rate { per_second: 500.0, burst: 5.0 })).await;
    // Some, and of each core.
    let (mut pushes, mut begun) = (0, [false; CORES]);
    while pushes < 20 || begun.contains(&false) {
        let Seen { path, .. } = seen_next(&mut seen).await;
        let device = u32::from_str_radix(&path["/3/device/".len()..][..8], 16).expect("a number");
        begun[wave_support::core_of(device, CORES)] = true;
        pushes += 1;
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
    let now = world.clock().now();
    assert!(stopped.iter().all(|at| at.is_some_and(|at| at > Time(0) && at <= now)));
    let mut total = Counts::default();
    bands.iter().flat_map(BTreeMap::values).for_each(|counts| total.add(counts));
    assert!((20..u64::from(DEVICES)).contains(&total.handed));
    assert_eq!(
        total.outcomes[Outcome::Accepted as usize],
        total.handed,
        "what was written before was answered"
    );
    shut_down(cores).await;
}

#[tokio::test]
async fn two_cores_push_through_one_connection_once_and_nearest_first() {
    let (mut gateway, mut seen) = gateway().await;
    (gateway.connections, gateway.hosts) = (1, 1);
    let mut cores = driver::spawn(CORES, &World::system()).expect("threads");
    prepare(&cores, &gateway, DEVICES, None).await;
    let total = wave_support::complete(&mut cores).await;
    assert_eq!(total.outcomes[Outcome::Accepted as usize], u64::from(DEVICES));
    shut_down(cores).await;
    let (mut tokens, mut connections) = (BTreeSet::new(), BTreeSet::new());
    let mut bands = vec![Vec::new(); CORES];
    let band_of = wave_support::band_of();
    for _ in 0..DEVICES {
        let Seen { connection, order, path } = seen_next(&mut seen).await;
        let token = path.strip_prefix("/3/device/").expect("path");
        let device = u32::from_str_radix(&token[..8], 16).expect("a number");
        bands[wave_support::core_of(device, CORES)].push((order, band_of(device)));
        assert!(tokens.insert(path), "pushed twice");
        connections.insert(connection);
    }
    assert_eq!((tokens.len(), connections.len()), (DEVICES as usize, 1));
    for bands in &mut bands {
        assert!(bands.len() > DEVICES as usize / 4, "each core has its part");
        bands.sort_unstable();
        assert!(bands.iter().map(|(_, band)| band).is_sorted(), "each core nearest first");
    }
}

/// The system's network, with the test's addresses of every name, by port.
struct Named<F>(F);

fn world_with_names(addresses: impl Fn(u16) -> Vec<SocketAddr> + Send + Sync + 'static) -> World {
    World::new(Clock::start(), 1, Arc::new(Named(addresses)))
}

impl<F> fmt::Debug for Named<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Named")
    }
}

#[async_trait]
impl<F: Fn(u16) -> Vec<SocketAddr> + Send + Sync + 'static> Network for Named<F> {
    fn lookup(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        Ok((self.0)(name.rsplit_once(':').expect("a port").1.parse().expect("a number")))
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        Tcp.connect(address).await
    }

    async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        Tcp.listen(address).await
    }
}

#[tokio::test]
async fn connections_go_to_all_addresses_of_a_name_and_pass_over_those_that_fail() {
    // A name with three addresses of this machine, in another order each time.
    let turn = AtomicUsize::new(0);
    let three = move |port| {
        let mut all: Vec<_> = [1, 2, 3].map(|n| ([127, 0, 0, n], port).into()).to_vec();
        all.rotate_left(turn.fetch_add(1, Ordering::Relaxed) % 3);
        all
    };
    // Nobody listens at the third.
    let (mut gateway, mut seen) = gateway_at(&[1, 2]).await;
    (gateway.connections, gateway.hosts) = (8, 1);
    let mut cores = driver::spawn(1, &world_with_names(three)).expect("a thread");
    prepare(&cores, &gateway, DEVICES, Some(Rate { per_second: 8_000.0, burst: 100.0 })).await;
    let total = wave_support::complete(&mut cores).await;
    assert_eq!(total.outcomes[Outcome::Accepted as usize], u64::from(DEVICES));
    shut_down(cores).await;
    let mut connections: BTreeMap<SocketAddr, BTreeSet<usize>> = BTreeMap::new();
    for _ in 0..DEVICES {
        let Seen { connection, .. } = seen_next(&mut seen).await;
        connections.entry(connection.1).or_default().insert(connection.0);
    }
    let counts: Vec<_> = connections.values().map(BTreeSet::len).collect();
    assert!(counts.len() == 2 && counts.iter().sum::<usize>() <= 8, "{counts:?}");
    assert!(counts[0].abs_diff(counts[1]) <= 2, "{counts:?}");
}

/// In the middle of a wave the name stands for other addresses, one of which refuses; those who
/// served so far say goodbye and listen no more. The wave goes on at the new address, and nobody is
/// missed or pushed twice.
#[tokio::test]
async fn a_name_that_moves_takes_the_wave_along() {
    let moved = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&moved);
    let moving = move |port| {
        let hosts: &[u8] = if asked.load(Ordering::SeqCst) { &[3, 2] } else { &[1] };
        hosts.iter().map(|n| ([127, 0, 0, *n], port).into()).collect()
    };
    let (leave, leaves) = watch::channel(0);
    let (mut gateway, mut seen) = gateway_that_leaves(&[1, 2], leaves).await;
    (gateway.connections, gateway.hosts) = (4, 1);
    let mut cores = driver::spawn(1, &world_with_names(moving)).expect("a thread");
    prepare(&cores, &gateway, DEVICES, Some(Rate { per_second: 4_000.0, burst: 100.0 })).await;
    let meanwhile = async {
        let mut all = Vec::new();
        while all.len() < DEVICES as usize {
            all.push(seen_next(&mut seen).await);
            if all.len() == 500 {
                moved.store(true, Ordering::SeqCst);
                leave.send(1).expect("the server lives");
            }
        }
        all
    };
    let (total, all) = tokio::join!(wave_support::complete_through(&mut cores, |_| {}), meanwhile);
    assert_eq!(total.outcomes[Outcome::Accepted as usize], u64::from(DEVICES));
    shut_down(cores).await;
    let tokens: BTreeSet<_> = all.iter().map(|seen| &seen.path).collect();
    assert_eq!(tokens.len(), DEVICES as usize, "each once");
    let at = |host: u8| {
        all.iter()
            .filter(move |seen| seen.connection.1.ip() == std::net::Ipv4Addr::new(127, 0, 0, host))
    };
    let connections = |host| at(host).map(|seen| seen.connection.0).collect::<BTreeSet<_>>().len();
    assert!((1..=4).contains(&connections(1)) && (1..=8).contains(&connections(2)));
    assert!(at(2).count() > DEVICES as usize / 2, "the rest went there: {}", at(2).count());
    let last_first = all
        .iter()
        .rposition(|seen| seen.connection.1.ip().to_string() == "127.0.0.1")
        .expect("some");
    assert!(last_first < 3_000, "those who said goodbye got no more: {last_first}");
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_refused() {
    let (mut gateway, _seen) = gateway().await;
    gateway.roots = Arc::new(RootCertStore::empty());
    let mut cores = driver::spawn(1, &World::system()).expect("a thread");
    prepare(&cores, &gateway, DEVICES, None).await;
    loop {
        if let (_, Event::LaneState { health, detail, .. }) = next(&mut cores).await {
            assert_eq!(health, LaneHealth::Unreachable);
            assert!(detail.contains("certificate"), "why? {detail}");
            break;
        }
    }
    shut_down(cores).await;
}

async fn gateway() -> (Gateway, mpsc::Receiver<Seen>) {
    gateway_at(&[1]).await
}

/// One server at some addresses of this machine, all at the same port.
async fn gateway_at(hosts: &[u8]) -> (Gateway, mpsc::Receiver<Seen>) {
    gateway_that_leaves(hosts, watch::channel(0).1).await
}

/// The one at the address whose number `leaves` becomes closes its connections in order, and its
/// port.
async fn gateway_that_leaves(
    hosts: &[u8],
    leaves: watch::Receiver<u8>,
) -> (Gateway, mpsc::Receiver<Seen>) {
    let (made, roots) = certificate();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .expect("a key");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (saw, seen) = mpsc::channel(2 * DEVICES as usize);
    let mut port = 0;
    for host in hosts {
        let listener =
            TcpListener::bind(SocketAddr::from(([127, 0, 0, *host], port))).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        port = address.port();
        let (acceptor, saw, leaves, host) = (acceptor.clone(), saw.clone(), leaves.clone(), *host);
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = tokio::select! {
                    accepted = listener.accept() => accepted.expect("a connection"),
                    () = told(leaves.clone(), host) => return,
                };
                let leave = told(leaves.clone(), host);
                tokio::spawn(serve(
                    acceptor.clone(),
                    stream,
                    (connection, address),
                    saw.clone(),
                    leave,
                ));
            }
        });
    }
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    (Gateway { address, roots, connections: 2, hosts: usize::MAX }, seen)
}

/// Whoever never tells anybody is waited for for ever.
async fn told(mut leaves: watch::Receiver<u8>, host: u8) {
    if leaves.wait_for(|leaves| *leaves == host).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn serve(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    connection: (usize, SocketAddr),
    saw: mpsc::Sender<Seen>,
    leave: impl Future<Output = ()>,
) {
    let mut leave = std::pin::pin!(leave);
    let mut leaving = false;
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let mut h2 = h2::server::Builder::new()
        .max_concurrent_streams(200)
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 20)
        .handshake::<_, Bytes>(stream)
        .await
        .expect("HTTP/2");
    let mut order = 0;
    loop {
        let accepted = tokio::select! {
            accepted = h2.accept() => accepted,
            () = &mut leave, if !leaving => {
                leaving = true;
                h2.graceful_shutdown();
                continue;
            }
        };
        let Some(Ok((request, mut respond))) = accepted else { return };
        order += 1;
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
            let response = http::Response::builder()
                .status(200)
                .header("apns-id", "1")
                .body(())
                .expect("a response");
            if respond.send_response(response, true).is_ok() {
                let _ = saw.send(Seen { connection, order, path }).await;
            }
        });
    }
}
