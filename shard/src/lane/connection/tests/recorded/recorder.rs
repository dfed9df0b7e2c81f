//! The recorder of a conversation with a real server over TCP and TLS.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::{
    super::support::BEARER, Connection, ConnectionEvent, Conversation, Step, Time, authorization,
    config, message,
};
use crate::outcome::Platform;

#[path = "../../../../../tests/foreign_support/mod.rs"]
#[allow(unreachable_pub, clippy::pedantic)]
mod foreign_support;

use foreign_support::{Foreign, Kind};

mod emulator;

const REQUESTS: u8 = 160;
/// Number of requests after which nginx closes a connection gracefully.
const NGINX_REQUESTS: u32 = 40;

/// A fresh conversation, if that server is installed.
pub(super) fn record(name: &str) -> Option<Vec<Conversation>> {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    fs::write(dir.path().join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let kind = match name {
        "nginx" => Kind::Nginx { requests: NGINX_REQUESTS },
        "nghttpd" => Kind::Nghttpd,
        "node" => Kind::Node { shrink: true },
        "python" => Kind::Python,
        _ => return emulator::record(dir.path(), REQUESTS),
    };
    let server = Foreign::start(kind, dir.path())?;
    let conversations = converse(server.address, roots, Platform::Apns, BEARER);
    server.stop();
    Some(conversations)
}

/// Pushes to tokens of every last digit until each has a fate, over as many connections as the
/// server wants.
fn converse(
    address: SocketAddr,
    roots: RootCertStore,
    platform: Platform,
    bearer: &str,
) -> Vec<Conversation> {
    let mut tls =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let tls = Arc::new(tls);
    let token = |n: u8| match platform {
        Platform::Apns => [vec![n; 31], vec![n]].concat(),
        Platform::Fcm => format!("{n:0160x}").into_bytes(),
    };
    // Next ones at the end.
    let mut waiting: Vec<_> = (0..REQUESTS).rev().map(token).collect();
    let mut conversations = Vec::new();
    while !waiting.is_empty() {
        assert!(conversations.len() < 20, "the server keeps sending us away");
        let tcp = TcpStream::connect(address).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        let mut stream =
            StreamOwned::new(ClientConnection::new(Arc::clone(&tls), name).unwrap(), tcp);
        conversations.push(Conversation {
            platform,
            steps: one(&mut stream, &mut waiting, platform, bearer),
        });
    }
    conversations
}

fn one(
    stream: &mut StreamOwned<ClientConnection, TcpStream>,
    waiting: &mut Vec<Vec<u8>>,
    platform: Platform,
    bearer: &str,
) -> Vec<Step> {
    let mut now = Time(0);
    let mut connection = Connection::new(config(platform), authorization(bearer), now);
    let (mut steps, mut pushed, mut out, mut input) =
        (Vec::new(), Vec::new(), Vec::new(), vec![0; 4_096]);
    let spec = message(platform);
    loop {
        now = now + Duration::from_micros(10);
        while connection.room() > 0
            && let Some(token) = waiting.pop()
        {
            connection.push(pushed.len() as u64, 7, &spec, &token, now).unwrap();
            pushed.push(token.clone());
            steps.push(Step::Push(token));
        }
        out.clear();
        connection.transmit(&mut out, now);
        if stream.write_all(&out).and_then(|()| stream.flush()).is_err() {
            break;
        }
        match stream.read(&mut input) {
            Ok(n @ 1..) => {
                steps.push(Step::Hear(input[..n].to_vec()));
                connection.receive(&input[..n], now).unwrap();
            }
            _ => break,
        }
        while let Some(event) = connection.poll() {
            // What a server refuses by its digit is not asked again; what it did not look at
            // because it closed is.
            if let ConnectionEvent::Unprocessed { ticket } = event {
                let token = &pushed[usize::try_from(ticket).unwrap()];
                if token.last().is_some_and(|last| last & 15 != 7) {
                    waiting.push(token.clone());
                }
            }
        }
        if connection.is_closed() || waiting.is_empty() && connection.open_streams() == 0 {
            break;
        }
    }
    connection.drop_all();
    while let Some(event) = connection.poll() {
        if let ConnectionEvent::Unanswered { ticket, .. } = event {
            waiting.push(pushed[usize::try_from(ticket).unwrap()].clone());
        }
    }
    steps
}
