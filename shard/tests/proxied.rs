//! Lanes through an HTTP proxy that says what a test tells it to: every way to refuse a tunnel is a
//! trouble of the lane that names the proxy and the reason.

#![allow(clippy::disallowed_methods, reason = "tests have clocks and tasks of their own")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clarion_runtime::{
    proxy::{Proxy, Route, rules::ProxyRules},
    world::World,
};
use clarion_shard::{
    command::{Command, Event},
    driver,
    lane::{health::LaneHealth, provider::authorization::Authorization, spec::LaneSpec},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

mod wave_support;

use wave_support::{Gateway, LANE, PATIENCE, certificate, lane_spec, next, shut_down};

/// What the proxy does with a request for a tunnel.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// It sends these bytes, and keeps the connection.
    Says(&'static [u8]),
    /// It closes the connection.
    Closes,
    /// It reads, and never answers.
    Stalls,
}

/// A proxy with one answer, and the requests that it read.
struct Scripted {
    address: SocketAddr,
    requests: mpsc::Receiver<String>,
}

impl Scripted {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, requests) = mpsc::channel(64);
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.expect("accepted");
                tokio::spawn(answer_one(tcp, answer, sender.clone()));
            }
        });
        Self { address, requests }
    }
}

async fn answer_one(mut tcp: TcpStream, answer: Answer, requests: mpsc::Sender<String>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if tcp.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    }
    // Some tests read the first request only.
    let _ = requests.try_send(String::from_utf8_lossy(&request).into_owned());
    match answer {
        Answer::Says(bytes) => {
            let _ = tcp.write_all(bytes).await;
            let _ = tcp.read(&mut [0; 1]).await;
        }
        Answer::Closes => {}
        Answer::Stalls => std::future::pending().await,
    }
}

/// The trouble of a lane with this route, once it has these words.
async fn trouble(route: Route, world: World, expected: &str) {
    let (_, roots) = certificate();
    let gateway = Gateway { address: ([127, 0, 0, 1], 9).into(), roots, connections: 1, hosts: 1 };
    let spec = LaneSpec {
        route,
        endpoint: "gateway.example:443".to_owned(),
        connect_deadline: Duration::from_secs(3),
        ..lane_spec(LANE, &gateway, 1)
    };
    let mut cores = driver::spawn(1, &world).expect("a thread");
    let say = async |command| cores[0].commands.send(command).await.expect("the core lives");
    say(Command::Lane(Arc::new(spec))).await;
    let authorization = Authorization(Arc::new("bearer token".to_owned().into()));
    say(Command::ProviderToken { lane: LANE, authorization, signer: 0 }).await;
    let mut last = String::new();
    let heard = timeout(PATIENCE, async {
        loop {
            let (_, event) = next(&mut cores).await;
            if let Event::LaneState { health, detail, .. } = event {
                assert_eq!(health, LaneHealth::Unreachable);
                if detail.contains(expected) {
                    return;
                }
                last = detail;
            }
        }
    });
    assert!(heard.await.is_ok(), "{expected:?} was never reported; last: {last:?}");
    shut_down(cores).await;
}

fn through(address: SocketAddr) -> Route {
    let proxy = Proxy::parse(&format!("http://me:secret@{address}")).expect("a proxy");
    Route::Proxy(Arc::new(proxy))
}

#[tokio::test]
async fn every_refusal_is_a_trouble_with_its_reason() {
    for (answer, words) in [
        (
            Answer::Says(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"),
            "answered 407 Proxy Authentication Required: the proxy refuses the credentials",
        ),
        (
            Answer::Says(b"HTTP/1.0 403 Filtered\r\n\r\n"),
            "answered 403 Filtered: the proxy's rules must allow CONNECT to gateway.example:443",
        ),
        (
            Answer::Says(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\nhello"),
            "answered 502 Bad Gateway: the proxy cannot reach gateway.example:443",
        ),
        (
            Answer::Says(b"HTTP/1.1 302 Found\r\n\r\n"),
            "answered 302 Found: a proxy must not redirect CONNECT",
        ),
        (Answer::Says(b"\x05\x00"), "answered in another protocol than HTTP/1"),
        (
            Answer::Says(b"HTTP/1.1 200 OK\r\n\r\n\x16\x03\x03"),
            "sent 3 bytes after its answer to CONNECT, before TLS began",
        ),
        (Answer::Closes, "closed the connection without an answer to CONNECT"),
        (Answer::Stalls, "takes too long to answer CONNECT"),
    ] {
        let mut proxy = Scripted::start(answer).await;
        let expected = format!("no connection: proxy {} {words}", proxy.address);
        trouble(through(proxy.address), World::system(), &expected).await;
        let request = proxy.requests.recv().await.expect("a request");
        assert!(request.starts_with("CONNECT gateway.example:443 HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n"), "{request}");
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let expected = format!("no connection: proxy {address} cannot be reached: Connection refused");
    trouble(through(address), World::system(), &expected).await;
}

#[tokio::test]
async fn the_environment_decides_where_the_lane_leaves_it_to_the_node() {
    let proxy = Scripted::start(Answer::Closes).await;
    let (url, words) = (format!("http://{}", proxy.address), "closed the connection");
    let rules = |exceptions: &str| {
        let rules = ProxyRules::new(|name| match name {
            "https_proxy" => Some(url.clone()),
            "no_proxy" => Some(exceptions.to_owned()),
            _ => None,
        });
        World::system().with_proxy_rules(rules.expect("valid"))
    };
    trouble(Route::Environment, rules("other.example"), words).await;
    // Without the proxy the name of the gateway is resolved, which does not exist.
    trouble(Route::Environment, rules(".example"), "no connection: failed to lookup").await;
    trouble(Route::Direct, rules(""), "no connection: failed to lookup").await;
}
