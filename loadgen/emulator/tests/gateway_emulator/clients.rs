//! An independent HTTP/2 client (the `h2` crate) against the emulator, over TLS.

use std::collections::BTreeMap;

use clarion_emulator::{
    GatewayConfig,
    answer::Reason,
    record::Record,
    script::{Rule, Scripted, Scripts, TokenKey},
};
use http::{Method, Request};

use super::{
    client::{PATIENCE, ask, connect, post, secure, start},
    sender::{BODY, KEY, Signer, TEAM, TOPIC, config, wall_s},
};

const TOKEN: &str = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0";
const ID: &str = "123e4567-e89b-12d3-a456-4266554400a0";

#[tokio::test]
async fn the_happy_path() {
    let signer = Signer::new();
    let gateway = start(config(&signer));
    let (requests, _driver) = connect(gateway.addr(), gateway.ca_pem()).await;
    let bearer = signer.bearer(KEY, TEAM, wall_s());
    let fields = [
        ("authorization", &*bearer),
        ("apns-topic", TOPIC),
        ("apns-push-type", "alert"),
        ("apns-priority", "10"),
        ("apns-expiration", "0"),
        ("apns-collapse-id", "case-1"),
    ];
    let seen = ask(&requests, post(TOKEN, &[&fields[..], &[("apns-id", ID)]].concat()), BODY)
        .await
        .expect("answered");
    assert_eq!((seen.status, &*seen.apns_id, &*seen.body), (200, ID, ""));
    let seen = ask(&requests, post(TOKEN, &fields), BODY).await.expect("answered");
    assert!(
        uuid::Uuid::try_parse(&seen.apns_id).is_ok_and(|id| id.get_version_num() == 4),
        "{}",
        seen.apns_id
    );

    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("record");
    assert_eq!(gateway.export(&path).expect("written"), 2);
    let record = Record::load(path).expect("read");
    let token = data_encoding::HEXLOWER.decode(TOKEN.as_bytes()).expect("hex");
    let hashes = (clarion_proto::device::token_hash(&token), xxhash_rust::xxh3::xxh3_64(b"case-1"));
    assert!(
        record.entries.iter().all(|e| (e.token_hash, e.collapse_hash) == hashes && e.settled())
    );
    assert!(record.entries[0].time_us <= record.entries[1].time_us);
    assert!(record.header.start_monotonic_us <= record.entries[0].time_us);
    gateway.stop();
}

#[tokio::test]
async fn every_flaw_of_a_request_has_its_reason() {
    let signer = Signer::new();
    let gateway = start(config(&signer));
    let (requests, _driver) = connect(gateway.addr(), gateway.ca_pem()).await;
    let now = wall_s();
    let (bearer, stranger) = (signer.bearer(KEY, TEAM, now), Signer::new().bearer(KEY, TEAM, now));
    let (expired, early) =
        (signer.bearer(KEY, TEAM, now - 3_700), signer.bearer(KEY, TEAM, now + 600));
    let long = "c".repeat(65);
    let large = format!(r#"{{"x":"{}"}}"#, "y".repeat(4_089));
    let with = |extra: &[(&'static str, &str)], token: &str| {
        let fields = [&[("authorization", &*bearer), ("apns-topic", TOPIC)], extra].concat();
        post(token, &fields)
    };
    let by = |authorization: &str| {
        post(TOKEN, &[("authorization", authorization), ("apns-topic", TOPIC)])
    };
    let to = |method: Method, path: &str| {
        let uri = format!("https://localhost{path}");
        let request = Request::builder().method(method).uri(uri).version(http::Version::HTTP_2);
        request
            .header("authorization", &bearer)
            .header("apns-topic", TOPIC)
            .body(())
            .expect("a request")
    };
    let path = format!("/3/device/{TOKEN}");
    let cases: Vec<(Request<()>, &[u8], u16, &str)> = vec![
        (to(Method::GET, &path), BODY, 405, "MethodNotAllowed"),
        (to(Method::POST, "/4/device/ab"), BODY, 404, "BadPath"),
        (to(Method::POST, "/3/device/"), BODY, 400, "MissingDeviceToken"),
        (post(TOKEN, &[("apns-topic", TOPIC)]), BODY, 403, "MissingProviderToken"),
        (by("bearer abc"), BODY, 403, "InvalidProviderToken"),
        (by(&stranger), BODY, 403, "InvalidProviderToken"),
        (by(&early), BODY, 403, "InvalidProviderToken"),
        (by(&expired), BODY, 403, "ExpiredProviderToken"),
        (post(TOKEN, &[("authorization", &bearer)]), BODY, 400, "MissingTopic"),
        (post(TOKEN, &[("authorization", &bearer), ("apns-topic", "a b")]), BODY, 400, "BadTopic"),
        (
            post(TOKEN, &[("authorization", &bearer), ("apns-topic", "com.other")]),
            BODY,
            400,
            "TopicDisallowed",
        ),
        (with(&[("apns-topic", TOPIC)], TOKEN), BODY, 400, "DuplicateHeaders"),
        (with(&[("apns-push-type", "loud")], TOKEN), BODY, 400, "InvalidPushType"),
        (with(&[("apns-priority", "3")], TOKEN), BODY, 400, "BadPriority"),
        (with(&[("apns-expiration", "soon")], TOKEN), BODY, 400, "BadExpirationDate"),
        (with(&[("apns-collapse-id", &long)], TOKEN), BODY, 400, "BadCollapseId"),
        (with(&[("apns-id", "1")], TOKEN), BODY, 400, "BadMessageId"),
        (with(&[], "abcx"), BODY, 400, "BadDeviceToken"),
        (with(&[], TOKEN), b"", 400, "PayloadEmpty"),
        (with(&[], TOKEN), b"[]", 400, "PayloadEmpty"),
        (with(&[], TOKEN), large.as_bytes(), 413, "PayloadTooLarge"),
        (with(&[], TOKEN), &large.as_bytes()[..0], 400, "PayloadEmpty"),
        (with(&[], TOKEN), BODY, 200, ""),
        (by(&bearer.replacen("bearer", "Bearer", 1)), BODY, 429, "TooManyProviderTokenUpdates"),
    ];
    // The last case needs one change of token before it; one change is always allowed.
    let first = by(&signer.bearer(KEY, TEAM, now - 60));
    assert_eq!(ask(&requests, first, BODY).await.expect("answered").status, 200);
    for (request, body, status, reason) in cases {
        let what = format!("{request:?}").replace(TOKEN, "…");
        let seen = ask(&requests, request, body).await.expect("answered");
        assert_eq!((seen.status, &*seen.reason()), (status, reason), "{what}");
        assert_eq!(seen.apns_id.len(), 36, "{what}: every answer has its id");
    }
    gateway.stop();
}

#[tokio::test]
async fn scripted_tokens_have_their_answers() {
    let signer = Signer::new();
    let list = [Reason::TooManyRequests, Reason::None, Reason::InternalServerError]
        .map(Scripted::always)
        .to_vec();
    let gone = Scripted {
        timestamp_ms: Some(1_700_000_000_123),
        ..Scripted::always(Reason::Unregistered)
    };
    let scripts = Scripts {
        seed: 1,
        rules: vec![Rule { ppm: 1_000_000, answer: gone }],
        tokens: BTreeMap::from([(TokenKey(vec![0xab]), list)]),
    };
    let gateway = start(GatewayConfig { scripts, ..config(&signer) });
    let (requests, _driver) = connect(gateway.addr(), gateway.ca_pem()).await;
    let bearer = signer.bearer(KEY, TEAM, wall_s());
    let fields = [("authorization", &*bearer), ("apns-topic", TOPIC)];
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(ask(&requests, post("ab", &fields), BODY).await.expect("answered").status);
    }
    assert_eq!(statuses, [429, 200, 500, 200]);
    let seen = ask(&requests, post("cd", &fields), BODY).await.expect("answered");
    assert_eq!(
        (seen.status, &*seen.body),
        (410, r#"{"reason":"Unregistered","timestamp":1700000000123}"#)
    );
    gateway.stop();
}

#[tokio::test]
async fn a_connection_belongs_to_one_team() {
    let (ours, theirs) = (Signer::new(), Signer::new());
    let mut config = config(&ours);
    config.keys.push(theirs.config("KEY0000002", "TEAM000002"));
    let gateway = start(config);
    let (first, _a) = connect(gateway.addr(), gateway.ca_pem()).await;
    let (second, _b) = connect(gateway.addr(), gateway.ca_pem()).await;
    let bearers =
        [ours.bearer(KEY, TEAM, wall_s()), theirs.bearer("KEY0000002", "TEAM000002", wall_s())];
    let by = |i: usize| post(TOKEN, &[("authorization", &bearers[i]), ("apns-topic", TOPIC)]);
    assert_eq!(ask(&first, by(0), BODY).await.expect("answered").status, 200);
    assert_eq!(ask(&first, by(1), BODY).await.expect("answered").reason(), "InvalidProviderToken");
    assert_eq!(ask(&second, by(1), BODY).await.expect("answered").status, 200);
    gateway.stop();
}

#[tokio::test]
async fn an_expired_token_sticks_if_so_told() {
    let signer = Signer::new();
    let gateway = start(GatewayConfig { expired_sticks: true, sandbox: true, ..config(&signer) });
    let by = |issued| {
        post(TOKEN, &[("authorization", &signer.bearer(KEY, TEAM, issued)), ("apns-topic", TOPIC)])
    };
    let (requests, _a) = connect(gateway.addr(), gateway.ca_pem()).await;
    for issued in [wall_s() - 3_700, wall_s()] {
        assert_eq!(
            ask(&requests, by(issued), BODY).await.expect("answered").reason(),
            "ExpiredProviderToken"
        );
    }
    let (requests, _b) = connect(gateway.addr(), gateway.ca_pem()).await;
    assert_eq!(ask(&requests, by(wall_s()), BODY).await.expect("answered").status, 200);
    gateway.stop();
}

#[tokio::test]
async fn faults_set_on_a_running_gateway_reach_its_clients() {
    let signer = Signer::new();
    let gateway = start(GatewayConfig { threads: 2, ..config(&signer) });
    let bearer = signer.bearer(KEY, TEAM, wall_s());
    let push = || post(TOKEN, &[("authorization", &*bearer), ("apns-topic", TOPIC)]);
    let set = |faults: &str| {
        gateway.set_faults(serde_json::from_str(faults).expect("faults")).expect("set");
    };

    let (requests, driver) = connect(gateway.addr(), gateway.ca_pem()).await;
    assert_eq!(ask(&requests, push(), BODY).await.expect("answered").status, 200);
    set(r#"{"errors": [{"reason": "Shutdown", "ppm": 1000000}]}"#);
    assert_eq!(ask(&requests, push(), BODY).await.expect("answered").reason(), "Shutdown");
    set(r#"{"errors": [{"fate": "refuse", "ppm": 1000000}]}"#);
    let error = ask(&requests, push(), BODY).await.expect_err("refused");
    assert_eq!(error.reason(), Some(h2::Reason::REFUSED_STREAM));
    set(
        r#"{"silent": {"mode": "stop_reading", "duration_ms": 200}, "latency": {"p50_us": 1000, "p99_us": 3000}}"#,
    );
    assert_eq!(ask(&requests, push(), BODY).await.expect("answered after the silence").status, 200);
    set(r#"{"once": [{"do": "goaway", "reason": "IdleTimeout"}]}"#);
    tokio::time::timeout(PATIENCE, driver).await.expect("the connection ends").expect("no panic");

    let (requests, driver) = connect(gateway.addr(), gateway.ca_pem()).await;
    assert_eq!(ask(&requests, push(), BODY).await.expect("answered").status, 200);
    set(r#"{"once": [{"do": "reset"}]}"#);
    tokio::time::timeout(PATIENCE, driver).await.expect("the connection ends").expect("no panic");
    assert!(ask(&requests, push(), BODY).await.is_err());
    let stats = gateway.stats();
    assert_eq!((stats.accepted, stats.unprocessed, stats.connections_closed), (3, 1, 2));
    gateway.stop();
}

#[tokio::test]
async fn a_client_without_h2_or_tls_fails_alone() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let signer = Signer::new();
    let gateway = start(config(&signer));
    let mut plain = tokio::net::TcpStream::connect(gateway.addr()).await.expect("connected");
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    let end =
        tokio::time::timeout(PATIENCE, plain.read_to_end(&mut answer)).await.expect("it is closed");
    assert!(end.is_err() || answer.len() < 16, "a TLS alert at most");
    // A client without ALPN has completed the handshake before it can be refused; its requests are
    // not read.
    let mut silent = secure(gateway.addr(), gateway.ca_pem(), &[]).await;
    silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
    let end = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut answer)).await;
    // The connection may end with or without a TLS alert.
    let _ = end.expect("it is closed");
    let (requests, _driver) = connect(gateway.addr(), gateway.ca_pem()).await;
    let bearer = signer.bearer(KEY, TEAM, wall_s());
    let push = post(TOKEN, &[("authorization", &*bearer), ("apns-topic", TOPIC)]);
    assert_eq!(ask(&requests, push, BODY).await.expect("answered").status, 200);
    let stats = gateway.stats();
    assert_eq!((stats.handshakes_failed, stats.requests), (2, 1));
    gateway.stop();
}

#[test]
fn a_port_in_use_is_named() {
    let signer = Signer::new();
    let gateway = start(config(&signer));
    let again = GatewayConfig { listen: gateway.addr(), ..config(&signer) };
    let error = clarion_emulator::Gateway::start(again).err().expect("the port is taken");
    assert!(error.to_string().contains(&gateway.addr().to_string()), "{error}");
}
