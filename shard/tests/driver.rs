//! Threads, sockets and TLS for real: a wave through the driver to an independent HTTP/2 server.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use clarion_proto::{ids::Epoch, outcome::Outcome, time::Time};
use clarion_shard::{
    command::{Command, Counts, Event, LaneHealth, Rate},
    driver::{self, Clock},
};
use rustls::{RootCertStore, ServerConfig};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

mod wave_support;

use wave_support::{BODY, Gateway, PATIENCE, WAVE, certificate, next, prepare, shut_down, tell_all};

const CORES: usize = 2;
const DEVICES: u32 = 4_000;

/// What the server saw: connection number and token.
type Seen = mpsc::Receiver<(usize, String)>;

#[tokio::test]
async fn a_wave_reaches_an_independent_server_over_tls_once() {
    let (gateway, mut seen) = gateway().await;
    let clock = Clock::start();
    let mut cores = driver::spawn(CORES, clock).expect("threads");
    prepare(&cores, &gateway, DEVICES, None).await;

    let total = wave_support::complete(&mut cores).await;
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
    prepare(&cores, &gateway, DEVICES, Some(Rate { per_second: 500.0, burst: 5.0 })).await;
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
    prepare(&cores, &gateway, DEVICES, None).await;
    loop {
        if let (_, Event::LaneState { health, .. }) = next(&mut cores).await {
            assert_eq!(health, LaneHealth::Unreachable);
            break;
        }
    }
    shut_down(cores).await;
}

async fn gateway() -> (Gateway, Seen) {
    let (made, roots) = certificate();
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
    (Gateway { address, roots, connections: 2 }, seen)
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
