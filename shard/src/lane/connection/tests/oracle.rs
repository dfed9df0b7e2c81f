//! An independent HTTP/2 server reads thousands of our requests and answers as a gateway might.
//!
//! The `h2` crate decodes every header and body, enforces windows, table sizes and stream limits,
//! and ends the connection at the first thing that it thinks wrong.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_proto::time::Time;
use http::{HeaderMap, Request, Response, StatusCode};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    task::JoinSet,
};

use super::{
    super::{CloseReason, Connection, ConnectionConfig, ConnectionEvent, ErrorCode, TemplateSpec},
    support::{authorization, fcm_spec, headers_of_spec, spec_of},
};
use crate::{
    lane::provider::request::{self, ApnsHeaders},
    outcome::{Answer, Platform, Reason, apns, fcm},
};

/// Parameters of one run.
#[derive(Clone)]
struct Case {
    platform: Platform,
    requests: u64,
    table: u32,
    streams: u32,
    window: u32,
    connection_window: u32,
    indexed: bool,
    /// Size of the largest body, bytes.
    body_bytes: usize,
    /// Number of requests after which the server closes gracefully.
    graceful_after: Option<usize>,
    /// Capacity of the pipe between both, bytes.
    pipe_bytes: usize,
}

const ORDINARY: Case = Case {
    platform: Platform::Apns,
    requests: 3_000,
    table: 4_096,
    streams: 100,
    window: 65_535,
    connection_window: 65_535,
    indexed: true,
    body_bytes: 400,
    graceful_after: None,
    pipe_bytes: 64 << 10,
};

/// Requests for each token as the server saw them: header lines in order, and the body.
type Record = BTreeMap<Vec<u8>, Vec<(Vec<(String, String)>, Bytes)>>;

/// A push as the test intends it.
#[derive(Clone)]
struct Push {
    token: Vec<u8>,
    template: u32,
    authorization: String,
}

fn pushes(case: &Case, rng: &mut Pcg64Mcg) -> (Vec<TemplateSpec>, Vec<Push>) {
    let templates = (0..6u8)
        .map(|n| {
            let headers = ApnsHeaders {
                topic: format!("org.example.app{}", n % 4),
                priority: if n == 3 { 5 } else { 10 },
                collapse_id: if n == 5 { String::new() } else { "case-7".into() },
                ..headers_of_spec()
            };
            let body = "x".repeat(rng.random_range(0..=case.body_bytes));
            match case.platform {
                Platform::Apns => spec_of(headers, &body),
                Platform::Fcm => {
                    let mut spec = fcm_spec(
                        &format!("{{{body}\""),
                        &format!("\"{}}}", &body[..body.len() / 3]),
                    );
                    spec.request = request::Request::Fcm { project: format!("demo-{}", n % 4) };
                    spec
                }
            }
        })
        .collect();
    let pushes = (0..case.requests)
        .map(|n| {
            let length = if n % 7 == 0 { rng.random_range(9..=140) } else { 32 };
            let mut token = vec![0; length];
            rng.fill(&mut token[..]);
            token[..8].copy_from_slice(&n.to_be_bytes());
            if case.platform == Platform::Fcm {
                // Any that may stand in JSON: printable, but for quote and backslash.
                token = token
                    .iter()
                    .map(|b| b"0123456789abcdefABCDEF:_-!#~"[usize::from(b % 28)])
                    .collect();
                token.splice(..8, format!("{n:08}").into_bytes());
                token.resize([142, 152, 163][usize::try_from(n % 3).unwrap()], b'x');
            }
            // In runs, as a wave sends them, and now and then another; a new credential every
            // thousand.
            let template = if n % 11 == 0 {
                rng.random_range(0..6)
            } else {
                u32::try_from(n / 500 % 6).unwrap()
            };
            Push { token, template, authorization: format!("bearer e30.{}.abc", n / 1_000) }
        })
        .collect();
    (templates, pushes)
}

/// Returns the server's answer, by a byte of the token, as the connection must report it.
fn meant(platform: Platform, token: &[u8]) -> Option<Result<Answer, ErrorCode>> {
    match platform {
        Platform::Apns => meant_by_apns(token),
        Platform::Fcm => meant_by_fcm(token),
    }
}

fn meant_by_fcm(token: &[u8]) -> Option<Result<Answer, ErrorCode>> {
    let answer = |status, reason: Reason, retry_after: Option<u64>| {
        let retry_after = retry_after.map(Duration::from_secs);
        Some(Ok(Answer { status, reason, timestamp_ms: None, retry_after }))
    };
    let unregistered =
        fcm::Reason { code: Some(fcm::ErrorCode::Unregistered), ..fcm::Reason::default() };
    match token[8] % 16 {
        9 | 10 => answer(404, unregistered.into(), None),
        11 => answer(503, Reason::None, Some(120)),
        12 => answer(429, Reason::None, Some(33)),
        13 => Some(Err(ErrorCode::REFUSED_STREAM)),
        14 => Some(Err(ErrorCode::CANCEL)),
        _ => answer(200, Reason::None, None),
    }
}

fn meant_by_apns(token: &[u8]) -> Option<Result<Answer, ErrorCode>> {
    let answer = |status, reason, timestamp_ms| {
        Some(Ok(Answer { status, reason, timestamp_ms, retry_after: None }))
    };
    match token[8] % 16 {
        0..9 => answer(200, Reason::None, None),
        9 => answer(400, apns::Reason::BadDeviceToken.into(), None),
        10 => answer(410, apns::Reason::Unregistered.into(), Some(1_700_000_000_123)),
        11 => answer(503, Reason::None, None),
        12 => answer(429, apns::Reason::TooManyRequests.into(), None),
        13 => Some(Err(ErrorCode::REFUSED_STREAM)),
        14 => Some(Err(ErrorCode::CANCEL)),
        _ => answer(200, Reason::None, None),
    }
}

async fn serve(io: DuplexStream, case: Case, record: Arc<Mutex<Record>>) {
    let mut connection = h2::server::Builder::new()
        .header_table_size(case.table)
        .max_concurrent_streams(case.streams)
        .initial_window_size(case.window)
        .initial_connection_window_size(case.connection_window)
        .handshake::<_, Bytes>(io)
        .await
        .unwrap();
    let (mut tasks, mut accepted) = (JoinSet::new(), 0);
    while let Some(request) = connection.accept().await {
        let (request, respond) = request.expect("the server finds nothing wrong");
        tasks.spawn(answer(case.platform, request, respond, Arc::clone(&record)));
        accepted += 1;
        if case.graceful_after == Some(accepted) {
            connection.graceful_shutdown();
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

async fn answer(
    platform: Platform,
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    record: Arc<Mutex<Record>>,
) {
    let (head, mut body) = request.into_parts();
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        bytes.extend_from_slice(&piece);
        body.flow_control().release_capacity(piece.len()).unwrap();
    }
    assert!(body.trailers().await.unwrap().is_none());
    assert_eq!((head.method.as_str(), head.uri.scheme_str()), ("POST", Some("https")));
    assert_eq!(head.uri.authority().unwrap(), "api.push.example");
    let path = head.uri.path().to_owned();
    let mut lines: Vec<_> =
        head.headers.iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned())).collect();
    let token = match platform {
        Platform::Apns => data_encoding::HEXLOWER
            .decode(path.strip_prefix("/3/device/").unwrap().as_bytes())
            .unwrap(),
        Platform::Fcm => {
            lines.insert(0, ("path".to_owned(), path));
            bytes.split(|b| *b == b'"').nth(1).unwrap().to_vec()
        }
    };
    record.lock().entry(token.clone()).or_default().push((lines, bytes.into()));

    let response = |status: u16| {
        let response = Response::builder()
            .status(StatusCode::from_u16(status).unwrap())
            .header("apns-id", "EC1BF194-B3B2-424A-89A9-5A918A6E6B5D");
        match (platform, status) {
            (Platform::Fcm, 429) => response.header("retry-after", "33"),
            (Platform::Fcm, 503) => response
                .header("date", "Sun, 06 Nov 1994 08:49:37 GMT")
                .header("retry-after", "Sun, 06 Nov 1994 08:51:37 GMT"),
            _ => response,
        }
        .body(())
        .unwrap()
    };
    let mut say = |status, pieces: &[&'static str], trailers: bool| {
        let Ok(mut stream) =
            respond.send_response(response(status), pieces.is_empty() && !trailers)
        else {
            return;
        };
        for (n, piece) in pieces.iter().enumerate() {
            stream
                .send_data(Bytes::from_static(piece.as_bytes()), !trailers && n + 1 == pieces.len())
                .unwrap();
        }
        if trailers {
            stream.send_trailers(HeaderMap::new()).unwrap();
        }
    };
    const NAME: &str = r#"{"name":"projects/demo/messages/1"}"#;
    const UNREGISTERED: [&str; 2] = [
        r#"{"error":{"details":[{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"#,
        r#""UNREGISTERED"}]}}"#,
    ];
    match token[8] % 16 {
        0..9 if platform == Platform::Fcm => say(200, &[NAME], false),
        9 | 10 if platform == Platform::Fcm => say(404, &UNREGISTERED, false),
        12 if platform == Platform::Fcm => say(429, &["<html>"], true),
        0..9 => say(200, &[], false),
        9 => say(400, &[r#"{"reason":"BadDev"#, r#"iceToken"}"#], false),
        10 => say(410, &[r#"{"timestamp":1700000000123,"reason":"Unregistered"}"#], false),
        11 => say(503, &["<html>", "</html>", ""], false),
        12 => say(429, &[r#"{"reason":"TooManyRequests"}"#], true),
        13 => respond.send_reset(h2::Reason::REFUSED_STREAM),
        14 => respond.send_reset(h2::Reason::INTERNAL_ERROR),
        _ => say(200, &["a body where none is due"], false),
    }
}

/// Pushes all requests, on as many connections as necessary, and returns each ticket's last event.
async fn run(
    case: &Case,
    templates: &[TemplateSpec],
    pushes: &[Push],
    record: &Arc<Mutex<Record>>,
) -> Vec<ConnectionEvent> {
    let mut fates: Vec<Option<ConnectionEvent>> = vec![None; pushes.len()];
    // Next ones at the end.
    let mut waiting: Vec<usize> = (0..pushes.len()).rev().collect();
    let mut connections = 0;
    while !waiting.is_empty() {
        connections += 1;
        assert!(connections <= 2, "only a server that goes away is replaced");
        let case = if connections == 1 {
            case.clone()
        } else {
            Case { graceful_after: None, ..case.clone() }
        };
        let (near, far) = duplex(case.pipe_bytes);
        let server = tokio::spawn(serve(far, case.clone(), Arc::clone(record)));
        let config = ConnectionConfig {
            platform: case.platform,
            authority: "api.push.example".into(),
            streams_max: 500,
            request_deadline: Duration::from_secs(3_600),
            authorization_indexed: case.indexed,
            ping_after: None,
            ..ConnectionConfig::default()
        };
        let mut now = Time(0);
        let mut connection = Connection::new(config, authorization(&pushes[0].authorization), now);
        let (mut from, mut to) = tokio::io::split(near);
        let (mut out, mut input) = (Vec::new(), vec![0; 4_096]);
        loop {
            now = now + Duration::from_micros(10);
            while connection.room() > 0
                && let Some(&n) = waiting.last()
            {
                let push = &pushes[n];
                connection.set_authorization(authorization(&push.authorization));
                let spec = &templates[push.template as usize];
                // The body may be larger than the room was meant for: then it waits.
                if connection.push(n as u64, push.template, spec, &push.token, now).is_err() {
                    break;
                }
                waiting.pop();
            }
            if waiting.is_empty() && connection.open_streams() == 0 {
                connection.close();
            }
            if out.is_empty() {
                connection.transmit(&mut out, now);
            }
            while let Some(event) = connection.poll() {
                match event {
                    ConnectionEvent::Answer { ticket, .. }
                    | ConnectionEvent::Unanswered { ticket, .. }
                    | ConnectionEvent::Unprocessed { ticket } => {
                        let n = usize::try_from(ticket).unwrap();
                        let fate = fates[n].replace(event);
                        assert!(fate.is_none(), "one event for each ticket");
                    }
                    ConnectionEvent::Closing { reason: CloseReason::Asked }
                    | ConnectionEvent::Closed => {}
                    ConnectionEvent::Closing {
                        reason: CloseReason::GoAway { code: ErrorCode::NO_ERROR, .. },
                    } => {
                        assert!(case.graceful_after.is_some());
                    }
                    ConnectionEvent::Closing { reason } => panic!("{reason:?}"),
                }
            }
            if out.is_empty() && connection.is_closed() {
                break;
            }
            tokio::select! {
                written = to.write(&out), if !out.is_empty() => { out.drain(..written.unwrap()); }
                read = from.read(&mut input) => match read.unwrap() {
                    0 => connection.drop_all(),
                    n => connection.receive(&input[..n], now).unwrap(),
                },
            }
        }
        // As `close_notify` would: nothing more from us, and the server's last words are still
        // read.
        to.shutdown().await.unwrap();
        while from.read(&mut input).await.unwrap() > 0 {}
        tokio::time::timeout(Duration::from_secs(60), server).await.unwrap().unwrap();
        // What the server did not look at goes to the next connection; a stream it refused by
        // itself looks the same.
        for n in (0..pushes.len()).rev() {
            let refused =
                meant(case.platform, &pushes[n].token) == Some(Err(ErrorCode::REFUSED_STREAM));
            if matches!(fates[n], Some(ConnectionEvent::Unprocessed { .. })) && !refused {
                assert!(case.graceful_after.is_some());
                fates[n] = None;
                waiting.push(n);
            }
        }
    }
    fates.into_iter().map(Option::unwrap).collect()
}

fn check(case: &Case, seed: u64) {
    let (templates, pushes) = pushes(case, &mut Pcg64Mcg::seed_from_u64(seed));
    let record = Arc::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let all = async {
        tokio::time::timeout(Duration::from_secs(120), run(case, &templates, &pushes, &record))
            .await
    };
    let fates = runtime.block_on(all).expect("it ends");

    let mut record = record.lock();
    for (n, (push, fate)) in pushes.iter().zip(fates).enumerate() {
        let ticket = n as u64;
        assert_eq!(
            fate,
            match meant(case.platform, &push.token).unwrap() {
                Ok(answer) => ConnectionEvent::Answer { ticket, answer },
                Err(ErrorCode::REFUSED_STREAM) => ConnectionEvent::Unprocessed { ticket },
                Err(_) => ConnectionEvent::Unanswered { ticket, status: None },
            }
        );
        let seen = record.remove(&push.token);
        let spec = &templates[push.template as usize];
        let mut body = spec.body.clone();
        let authorization = ("authorization", push.authorization.clone());
        let lines = match &spec.request {
            request::Request::Apns(headers) => {
                let mut lines = vec![
                    authorization,
                    ("apns-topic", headers.topic.clone()),
                    ("apns-push-type", headers.push_type.clone()),
                    ("apns-priority", headers.priority.to_string()),
                    ("apns-expiration", headers.expiration.to_string()),
                ];
                if !headers.collapse_id.is_empty() {
                    lines.push(("apns-collapse-id", headers.collapse_id.clone()));
                }
                lines
            }
            request::Request::Fcm { project } => {
                body = [&spec.body, &push.token[..], &spec.body_after_token].concat().into();
                let path = format!("/v1/projects/{project}/messages:send");
                vec![("path", path), authorization, ("content-type", "application/json".to_owned())]
            }
        };
        let lines: Vec<_> = lines.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
        match seen.as_deref() {
            Some([(seen_lines, seen_body)]) => {
                assert_eq!((seen_lines, seen_body), (&lines, &body));
            }
            other => panic!("request {n} was seen {} times", other.map_or(0, <[_]>::len)),
        }
    }
    assert!(record.is_empty(), "nothing else was sent");
}

#[test]
fn ordinary() {
    check(&ORDINARY, 1);
}

#[test]
fn literal_credential() {
    check(&Case { indexed: false, ..ORDINARY }, 2);
}

#[test]
fn header_tables_of_other_sizes() {
    for table in [0, 64, 150, 1 << 16] {
        check(&Case { table, requests: 1_500, ..ORDINARY }, u64::from(table));
    }
}

#[test]
fn small_windows() {
    check(&Case { window: 100, requests: 1_500, body_bytes: 4_000, ..ORDINARY }, 3);
    check(
        &Case { window: 0x7fff_ffff, connection_window: 1 << 20, body_bytes: 4_000, ..ORDINARY },
        4,
    );
}

#[test]
fn bodies_of_several_frames() {
    check(&Case { requests: 100, body_bytes: 60_000, ..ORDINARY }, 5);
}

#[test]
fn few_streams_and_a_narrow_pipe() {
    check(&Case { streams: 1, requests: 500, ..ORDINARY }, 6);
    check(&Case { streams: 3, requests: 500, pipe_bytes: 7, ..ORDINARY }, 7);
}

#[test]
fn a_server_that_goes_away_misses_nothing_and_sees_nothing_twice() {
    for (seed, after) in [(8, 1), (9, 500), (10, 2_000)] {
        check(&Case { graceful_after: Some(after), streams: 300, ..ORDINARY }, seed);
    }
}

#[test]
fn fcm() {
    let fcm = Case { platform: Platform::Fcm, ..ORDINARY };
    check(&fcm, 11);
    check(&Case { indexed: false, table: 64, requests: 1_500, ..fcm.clone() }, 12);
    // Windows that cut bodies, tokens among them.
    check(&Case { window: 100, requests: 1_500, body_bytes: 4_000, ..fcm.clone() }, 13);
    check(&Case { requests: 100, body_bytes: 60_000, ..fcm.clone() }, 14);
    check(&Case { streams: 3, requests: 500, pipe_bytes: 7, ..fcm.clone() }, 15);
    check(&Case { graceful_after: Some(500), ..fcm }, 16);
}
