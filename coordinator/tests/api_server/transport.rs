//! What a peer can do to the transport, and that nobody else notices.

use std::{sync::Arc, time::Duration};

use clarion_coordinator::{
    api::{door::REQUESTS_PER_CONNECTION_MAX, ports},
    config::Args,
};
use clarion_proto::wire::v1::{self as wire, alert_service_client::AlertServiceClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, transport::Channel};

use crate::support::{Server, busy, create, demo_alert, soon, violation};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

async fn raw(server: &Server) -> TcpStream {
    soon(TcpStream::connect(server.address)).await.expect("listens")
}

/// Another client, on a connection of its own.
async fn stranger(server: &Server) -> AlertServiceClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{}", server.address)).expect("an address");
    AlertServiceClient::new(soon(endpoint.connect()).await.expect("listens"))
}

async fn answers(client: &mut AlertServiceClient<Channel>) {
    soon(client.list_alerts(wire::ListAlertsRequest::default())).await.expect("served");
}

/// Everything until the server ends the connection; an error of the socket is an end too.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = soon(stream.read_to_end(&mut all)).await;
    all
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The head of a request without its end, in HPACK literals (RFC 7541, section 6.2.2).
fn head() -> Vec<u8> {
    let mut block = vec![0x83, 0x86]; // :method POST, :scheme http
    for (name, value) in [
        (":path", "/clarion.v1.AlertService/ListAlerts"),
        (":authority", "clarion"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("below 127"));
            block.extend(text.as_bytes());
        }
    }
    block
}

/// The error code of a GOAWAY among frames.
fn goaway(mut bytes: &[u8]) -> Option<u32> {
    while bytes.len() >= 9 {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let (kind, payload) = (bytes[3], bytes.get(9..9 + length)?);
        // Two GOAWAYs may come: the graceful one first.
        if kind == 7 && payload[4..8] != [0; 4] {
            return Some(u32::from_be_bytes(payload[4..8].try_into().expect("four")));
        }
        bytes = &bytes[9 + length..];
    }
    None
}

#[tokio::test]
async fn malformed_frames_end_their_own_connection_only() {
    let server = Server::with_demo().await;
    let mut other = stranger(&server).await;
    let hello = [PREFACE, SETTINGS].concat();
    let cases: [(&str, Vec<u8>); 7] = [
        (
            "no HTTP at all",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on and on and on".to_vec(),
        ),
        ("HTTP/1.1", b"POST / HTTP/1.1\r\nhost: clarion\r\ncontent-length: 0\r\n\r\n".to_vec()),
        (
            "a frame larger than agreed",
            [&hello[..], &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat(),
        ),
        ("HEADERS on stream 0", [&hello[..], &frame(1, 4, 0, &head())].concat()),
        ("DATA on a stream that is not open", [&hello[..], &frame(0, 0, 1, b"x")].concat()),
        ("a header block that is none", [&hello[..], &frame(1, 4, 1, &[0xff; 40])].concat()),
        ("CONTINUATION without HEADERS", [&hello[..], &frame(9, 4, 1, &head())].concat()),
    ];
    for (what, bytes) in cases {
        let mut stream = raw(&server).await;
        stream.write_all(&bytes).await.expect(what);
        rest(&mut stream).await;
        answers(&mut other).await;
    }
    server.created(1).await;
}

#[tokio::test]
async fn a_storm_of_resets_is_sent_away_and_others_are_served() {
    let server = Server::with_demo().await;
    let mut other = stranger(&server).await;
    let mut storm = raw(&server).await;
    let mut bytes = [PREFACE, SETTINGS].concat();
    for stream in (1_u32..).step_by(2).take(20_000) {
        bytes.extend(frame(1, 4, stream, &head()));
        bytes.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    let (mut reader, mut writer) = storm.split();
    let mut told = Vec::new();
    let flood = async {
        // The server stops reading when it has had enough.
        let _ = writer.write_all(&bytes).await;
    };
    let listen = async {
        let _ = reader.read_to_end(&mut told).await;
    };
    let meanwhile = async {
        for _ in 0..20 {
            answers(&mut other).await;
        }
    };
    Box::pin(soon(async { tokio::join!(flood, listen, meanwhile) })).await;
    assert_eq!(goaway(&told), Some(0xb), "ENHANCE_YOUR_CALM");
    answers(&mut other).await;
}

#[tokio::test]
async fn messages_that_are_too_large_or_none_are_the_callers_fault() {
    let server = Server::with_demo().await;
    let mut alerts = server.alerts();
    let large = wire::GetAlertRequest { name: "x".repeat(9 << 20), ..Default::default() };
    let (field, says) = violation(&soon(alerts.get_alert(large)).await.expect_err("large"));
    assert_eq!(field, "request");
    assert!(says.contains("9437189") && says.contains("8388608"), "value and limit: {says}");

    let frames: [(&str, Vec<u8>); 4] = [
        ("a message that is none", [&[0, 0, 0, 0, 3][..], &[0xff; 3]].concat()),
        ("half a message", vec![0, 0, 0, 0, 9, 1]),
        ("no message", vec![]),
        ("a flag that is none", [&[7, 0, 0, 0, 3][..], &[0; 3]].concat()),
    ];
    let tcp = raw(&server).await;
    let (mut client, connection) = h2::client::handshake(tcp).await.expect("HTTP/2");
    tokio::spawn(connection);
    for (what, bytes) in frames {
        let request = http::Request::post(format!(
            "http://{}/clarion.v1.AlertService/GetAlert",
            server.address
        ))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request");
        client = soon(client.ready()).await.expect("open");
        let (answer, mut body) = client.send_request(request, false).expect("sent");
        body.send_data(bytes.into(), true).expect("sent");
        let answer = soon(answer).await.expect(what);
        let status =
            tonic::Status::from_header_map(answer.headers()).expect("nothing but a status");
        assert_eq!(violation(&status).0, "request", "{what}");
    }
    answers(&mut stranger(&server).await).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = Server::with_demo().await;
    let mut request = tonic::Request::new(wire::ListAlertsRequest::default());
    request.metadata_mut().insert("x-much", "y".repeat(20_000).parse().expect("visible"));
    soon(server.alerts().list_alerts(request)).await.expect_err("large");
    answers(&mut stranger(&server).await).await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_its_place_is_free_again() {
    // One is the server's own client.
    let server = Server::with_demo_and(Args { connections_max: Some(2), ..Args::default() }).await;
    let mut second = raw(&server).await;
    second.write_all(&[PREFACE, SETTINGS].concat()).await.expect("open");
    let mut first = [0; 9];
    soon(second.read_exact(&mut first)).await.expect("the server's SETTINGS");
    let mut third = raw(&server).await;
    let _ = third.write_all(PREFACE).await;
    assert!(rest(&mut third).await.is_empty(), "closed without a word");
    answers(&mut server.alerts()).await;
    drop(second);
    soon(async {
        loop {
            let mut again = raw(&server).await;
            let _ = again.write_all(&[PREFACE, SETTINGS].concat()).await;
            if again.read_exact(&mut first).await.is_ok() {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn who_says_nothing_or_half_is_sent_away() {
    let server = Server::with_demo().await;
    let (mut silent, mut half) = (raw(&server).await, raw(&server).await);
    half.write_all(&PREFACE[..10]).await.expect("open");
    // Both are in the server's hands when a later connection is answered.
    answers(&mut stranger(&server).await).await;
    let begun = tokio::time::Instant::now();
    tokio::time::pause();
    // With nothing else to do the clock goes to the next timer: the deadline, or a ping of the other connections.
    for stream in [&mut silent, &mut half] {
        let mut told = Vec::new();
        let _ = stream.read_to_end(&mut told).await;
        assert!(told.len() < 100, "the server's own SETTINGS at most");
    }
    assert!(
        begun.elapsed()
            >= ports::api(&server.context.config).hello_deadline - Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    tokio::time::resume();
    answers(&mut stranger(&server).await).await;
}

#[tokio::test]
async fn one_connection_cannot_take_all_places() {
    let args = Args { admissions_max: Some(512), alerts_active_max: Some(512), ..Args::default() };
    let server = Server::with_demo_and(args).await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    *server.nodes.gate.lock() = Some(Arc::clone(&gate));
    let waiting: Vec<_> = (1..=REQUESTS_PER_CONNECTION_MAX as u128)
        .map(|n| {
            let mut client = server.alerts();
            tokio::spawn(async move { client.create_alert(create(n, demo_alert())).await })
        })
        .collect();
    let refused = soon(async {
        loop {
            if let Err(refused) =
                server.alerts().list_alerts(wire::ListAlertsRequest::default()).await
            {
                break refused;
            }
        }
    })
    .await;
    assert_eq!(busy(&refused), (Code::ResourceExhausted, "REQUESTS_BUSY".to_owned()));
    answers(&mut stranger(&server).await).await;
    gate.add_permits(waiting.len() + 1);
    let mut created = 0;
    for one in waiting {
        // The last of them may have met the lists that tried the door.
        created += usize::from(soon(one).await.expect("no panic").is_ok());
    }
    assert!(created >= REQUESTS_PER_CONNECTION_MAX - 1, "{created}");
    answers(&mut server.alerts()).await;
}

/// Requests under way by several connections of one address: half of all, and another address is served.
#[tokio::test]
async fn one_address_cannot_take_all_places_by_many_connections() {
    let args =
        Args { admissions_max: Some(1_024), alerts_active_max: Some(4_096), ..Args::default() };
    let server = Server::with_demo_and(args).await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    *server.nodes.gate.lock() = Some(Arc::clone(&gate));
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(stranger(&server).await);
    }
    let mut waiting = tokio::task::JoinSet::new();
    for n in 1..=600_u128 {
        let mut client = clients[usize::try_from(n % 5).expect("small")].clone();
        waiting.spawn(async move { client.create_alert(create(n, demo_alert())).await });
    }
    let refused = soon(async {
        loop {
            match waiting.join_next().await.expect("more are sent than may be").expect("no panic") {
                Err(refused) if refused.message().contains("127.0.0.1") => break refused,
                other => drop(other),
            }
        }
    })
    .await;
    assert_eq!(busy(&refused).0, Code::ResourceExhausted);
    let mut other = AlertServiceClient::new(server.from(2).await);
    answers(&mut other).await;
    gate.add_permits(1_000);
}
