//! Faults that only sockets show: TLS that is slow, expired or never begins, and connections that
//! end or fall silent one by one.

use std::time::Duration;

use clarion_emulator::{Faults, GatewayHandle, clock, faults::Plan, record::Record};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    client::{PATIENCE, ask, connect, post, start},
    sender::{KEY, Signer, TEAM, TOPIC, config, wall_s},
};

struct Stage {
    gateway: GatewayHandle,
    bearer: String,
}

impl Stage {
    fn new() -> Self {
        let signer = Signer::new();
        let gateway = start(config(&signer));
        Self { gateway, bearer: signer.bearer(KEY, TEAM, wall_s()) }
    }

    fn set(&self, faults: &str) {
        let faults: Faults = serde_json::from_str(faults).expect("faults");
        self.gateway.set_faults(faults).expect("set");
    }

    async fn push(&self) -> Result<u16, String> {
        let (requests, driver) = connect(self.gateway.addr(), self.gateway.ca_pem()).await;
        let fields = [("authorization", &*self.bearer), ("apns-topic", TOPIC)];
        let seen = ask(&requests, post("ab", &fields), b"{}").await;
        driver.abort();
        seen.map(|seen| seen.status).map_err(|e| e.to_string())
    }

    /// Returns rustls' error for a failed TLS handshake.
    async fn refused(&self) -> String {
        use std::sync::Arc;

        use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
        use tokio_rustls::{TlsConnector, rustls};
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.gateway.ca_pem().as_bytes()).expect("PEM"))
            .expect("a CA");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let socket = TcpStream::connect(self.gateway.addr()).await.expect("connected");
        let name = ServerName::try_from("localhost").expect("a name");
        let shaken = TlsConnector::from(Arc::new(tls)).connect(name, socket).await;
        shaken.err().map_or_else(|| "a handshake".to_owned(), |e| e.to_string())
    }
}

#[tokio::test]
async fn an_expired_certificate_is_expired_for_as_long_as_it_is_ordered() {
    let stage = Stage::new();
    stage.set(r#"{"handshake": {"expired_certificate": true}}"#);
    let error = stage.refused().await;
    assert!(error.contains("certificate expired"), "{error}");
    stage.set("{}");
    assert_eq!(stage.push().await, Ok(200));
}

#[tokio::test]
async fn a_slow_handshake_is_slow_and_succeeds() {
    let stage = Stage::new();
    stage.set(r#"{"handshake": {"delay_ms": 300}}"#);
    let begun = clock::monotonic();
    assert_eq!(stage.push().await, Ok(200));
    assert!(
        clock::monotonic().since(begun) >= Duration::from_millis(300),
        "nothing was said before"
    );
}

#[tokio::test]
async fn a_connection_is_reset_before_its_handshake() {
    let stage = Stage::new();
    stage.set(r#"{"handshake": {"reset": true}}"#);
    // So early that even the connecting call may return the error.
    let read = async { TcpStream::connect(stage.gateway.addr()).await?.read(&mut [0; 16]).await };
    let read = timeout(PATIENCE, read).await.expect("in time");
    assert_eq!(read.map_err(|e| e.kind()), Err(std::io::ErrorKind::ConnectionReset));
    let stats = stage.gateway.stats();
    assert_eq!((stats.connections_opened, stats.connections_closed), (1, 1));
}

#[tokio::test]
async fn connections_are_reset_again_and_again() {
    let stage = Stage::new();
    stage.set(r#"{"repeat": [{"every_ms": 20, "turns": [{"do": "reset"}]}]}"#);
    for _ in 0..3 {
        // The client sends nothing and waits for its reset, at the next turn.
        let mut socket = TcpStream::connect(stage.gateway.addr()).await.expect("connected");
        let read = timeout(PATIENCE, socket.read(&mut [0; 16])).await.expect("in time");
        assert_eq!(read.map_err(|e| e.kind()), Err(std::io::ErrorKind::ConnectionReset));
    }
}

#[tokio::test]
async fn one_connection_falls_silent_and_another_does_not() {
    let stage = Stage::new();
    let text = r#"{"seed": 1, "silent": {"mode": "stop_reading", "connections_ppm": 500000}}"#;
    stage.set(text);
    // A hash of a connection's number decides; connections are numbered in order of arrival.
    let faults: Faults = serde_json::from_str(text).expect("faults");
    let plan = Plan::new(faults, clock::monotonic(), 0);
    let (mut silent, mut heard) = (Vec::new(), Vec::new());
    for number in 1..=8 {
        let mut socket = TcpStream::connect(stage.gateway.addr()).await.expect("connected");
        // Bytes that are not TLS are answered with an alert, unless the client does not read it.
        socket.write_all(b"this is no handshake at all").await.expect("written");
        let is_silent = plan.silent(number, clock::monotonic()).is_some();
        if is_silent { silent.push(socket) } else { heard.push(socket) }
    }
    assert!(!silent.is_empty() && !heard.is_empty());
    let count = heard.len() as u64;
    for mut socket in heard {
        timeout(PATIENCE, socket.read(&mut [0; 64])).await.expect("in time").expect("an alert");
    }
    assert_eq!(stage.gateway.stats().handshakes_failed, count);
    // When the silence ends, the other connections are served.
    stage.set("{}");
    for mut socket in silent {
        timeout(PATIENCE, socket.read(&mut [0; 64])).await.expect("in time").expect("an alert");
    }
}

#[tokio::test]
async fn mixed_faults_are_kept_in_the_record() {
    let stage = Stage::new();
    stage.set(
        r#"{"seed": 9, "latency": {"p50_us": 2000, "p99_us": 9000}, "errors": [
            {"fate": "refuse", "ppm": 200000}, {"fate": "reset", "ppm": 200000, "delivered": true},
            {"reason": "ServiceUnavailable", "ppm": 200000, "delivered": true}]}"#,
    );
    let (requests, driver) = connect(stage.gateway.addr(), stage.gateway.ca_pem()).await;
    let fields = [("authorization", &*stage.bearer), ("apns-topic", TOPIC)];
    let (mut good, mut failed, mut broken) = (0, 0, 0);
    for _ in 0..200 {
        match ask(&requests, post("ab", &fields), b"{}").await {
            Ok(seen) if seen.status == 200 => good += 1,
            Ok(_) => failed += 1,
            Err(_) => broken += 1,
        }
    }
    driver.abort();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("record");
    stage.gateway.export(&path).expect("written");
    let entries = Record::load(path).expect("read").entries;
    let of = |status| entries.iter().filter(|e| e.status == status).count();
    assert_eq!((of(200), of(503), of(0)), (good, failed, broken));
    assert!(good > 0 && failed > 0 && broken > 0, "{good}, {failed}, {broken}");
    assert!(entries.iter().filter(|e| e.status == 503).all(|e| e.accepted() && !e.settled()));
}
