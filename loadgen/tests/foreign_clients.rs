//! The gateway emulator with third-party clients.
//!
//! Each client is a program of `foreign/`, run as a process of its own over real sockets and TLS.
//! The answers that it reports must agree with the emulator's record, request by request.

#[macro_use]
mod foreign;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use clarion_emulator::{
    Gateway, GatewayConfig, GatewayHandle, KeyConfig, Platform, ProjectConfig,
    ServiceAccountConfig,
    answer::Reason,
    config::{TEST_SERVICE_ACCOUNT_PRIVATE_KEY_PEM, TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM},
    record::{Entry, Record, flag},
    script::{Scripted, Scripts, TokenKey},
};
use clarion_proto::device::token_hash;
use serde_json::{Value, json};
use tempfile::TempDir;

use foreign::{Node, Python, verdict};

const TOPIC: &str = "com.example.app";
const TEAM: &str = "TEAM000001";
const KEY: &str = "KEY0000001";
const APNS_ID: &str = "123e4567-e89b-12d3-a456-4266554400a0";
/// Time at which the dead token's app was removed, milliseconds since 1970.
const GONE_SINCE: u64 = 1_700_000_000_123;
/// Number of pushes to APNs over one client at once.
const MANY: usize = 4_000;
/// Number of messages to FCM over one client, at most 100 at once; each takes some 15 ms of a
/// processor.
const MESSAGES: usize = 1_000;

/// Returns a token of 32 bytes, like Apple's.
fn token(kind: u8, number: usize) -> [u8; 32] {
    let mut token = [kind; 32];
    token[24..].copy_from_slice(&(number as u64).to_be_bytes());
    token
}

fn hex(token: [u8; 32]) -> String {
    data_encoding::HEXLOWER.encode(&token)
}

/// An emulated APNs with two scripted tokens, and the file with its addresses for a third-party
/// client.
struct Apns {
    gateway: GatewayHandle,
    dir: TempDir,
}

impl Apns {
    fn start(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let gone =
            Scripted { timestamp_ms: Some(GONE_SINCE), ..Scripted::always(Reason::Unregistered) };
        let script = |kind, answer| (TokenKey(token(kind, 0).to_vec()), vec![answer]);
        let mut config = GatewayConfig {
            keys: vec![KeyConfig {
                key_id: KEY.to_owned(),
                team_id: TEAM.to_owned(),
                public_key_file: None,
                public_key_pem: Some(key.public_key_pem()),
            }],
            topics: vec![TOPIC.to_owned()],
            scripts: Scripts {
                tokens: BTreeMap::from([
                    script(2, gone),
                    script(3, Scripted::always(Reason::BadDeviceToken)),
                ]),
                ..Scripts::default()
            },
            ..GatewayConfig::default()
        };
        change(&mut config);
        let gateway = Gateway::start(config).expect("a gateway on a free port");
        let path = |name| dir.path().join(name);
        fs::write(path("ca.pem"), gateway.ca_pem()).expect("written");
        fs::write(path("key.p8"), key.serialize_pem()).expect("written");
        let given = json!({
            "port": gateway.addr().port(), "ca_file": path("ca.pem"), "key_file": path("key.p8"),
            "key_id": KEY, "unknown_key_id": "KEY0000009", "team_id": TEAM, "topic": TOPIC, "apns_id": APNS_ID,
            "good": hex(token(1, 0)), "dead": hex(token(2, 0)), "bad": hex(token(3, 0)), "late": hex(token(4, 0)),
            "many": (0..MANY).map(|i| hex(token(5, i))).collect::<Vec<_>>(),
        });
        fs::write(path("given.json"), given.to_string()).expect("written");
        Self { gateway, dir }
    }

    fn given(&self) -> std::path::PathBuf {
        self.dir.path().join("given.json")
    }
}

/// Requests in a gateway's record, by token, in order.
struct Recorded(BTreeMap<u64, Vec<Entry>>);

impl Recorded {
    fn of(gateway: &GatewayHandle, dir: &TempDir) -> Self {
        let path: &Path = &dir.path().join("record");
        gateway.export(path).expect("written");
        let record = Record::load(path).expect("read");
        assert_eq!(record.header.dropped, 0);
        let mut by_token = BTreeMap::<u64, Vec<Entry>>::new();
        for entry in record.entries {
            by_token.entry(entry.token_hash).or_default().push(entry);
        }
        Self(by_token)
    }

    fn entries(&self, token: &[u8]) -> &[Entry] {
        self.0.get(&token_hash(token)).map_or(&[], Vec::as_slice)
    }

    /// Returns status and reason of each request for a token.
    fn answers(&self, token: &[u8]) -> Vec<(u16, Reason)> {
        let answer = |e: &Entry| (e.status, e.reason().expect("a known reason"));
        self.entries(token).iter().map(answer).collect()
    }

    /// Reports whether exactly one request for a token arrived, was accepted and answered. Only the
    /// client knows whether it read the answer; it may disconnect right after the last one.
    fn accepted_once(&self, token: &[u8]) -> bool {
        matches!(self.entries(token), [e] if e.accepted() && e.flags & flag::ANSWERED != 0)
    }

    /// Returns the number of connections over which requests for these tokens came.
    fn connections(&self, tokens: impl Iterator<Item = Vec<u8>>) -> usize {
        let numbers: BTreeSet<u32> =
            tokens.flat_map(|t| self.entries(&t).to_vec()).map(|e| e.connection).collect();
        numbers.len()
    }
}

/// Checks the answers that both clients must have received and the emulator recorded; `late`
/// differs between the clients.
fn judge(told: &Value, recorded: &Recorded) {
    assert_eq!(told["good"], json!({ "status": 200, "apns_id": APNS_ID }));
    assert_eq!(
        told["dead"],
        json!({ "status": 410, "reason": "Unregistered", "timestamp": GONE_SINCE })
    );
    assert_eq!(
        (&told["bad"]["status"], &told["bad"]["reason"]),
        (&json!(400), &json!("BadDeviceToken"))
    );
    assert_eq!(told["many"], json!({ "accepted": MANY, "failed": 0 }));
    assert_eq!(
        (&told["stranger"]["status"], &told["stranger"]["reason"]),
        (&json!(403), &json!("InvalidProviderToken"))
    );

    let good = [(200, Reason::None), (403, Reason::InvalidProviderToken)];
    assert_eq!(recorded.answers(&token(1, 0)), good, "its own, then the stranger's");
    assert_eq!(recorded.answers(&token(2, 0)), [(410, Reason::Unregistered)]);
    assert_eq!(recorded.answers(&token(3, 0)), [(400, Reason::BadDeviceToken)]);
    for i in 0..MANY {
        assert!(
            recorded.accepted_once(&token(5, i)),
            "push {i}: {:?}",
            recorded.entries(&token(5, i))
        );
    }
    let collapse = xxhash_rust::xxh3::xxh3_64(b"case-1");
    assert!(recorded.0.values().flatten().all(|e| e.collapse_hash == collapse));
}

#[tokio::test]
async fn node_apn_is_convinced() {
    let node = or_skip!(Node::installed().await);
    // As Apple does: one stream until the first authenticated answer, a window of 64 KiB.
    let apns = Apns::start(|_| {});
    let told = verdict(node.program("node_apn.js").arg(apns.given())).await;
    let recorded = Recorded::of(&apns.gateway, &apns.dir);
    judge(&told, &recorded);
    // After the answer that its provider token is too old, the client signs a new one and sends
    // again.
    assert_eq!(told["late"]["status"], 200, "{told}");
    let late = [(403, Reason::ExpiredProviderToken), (200, Reason::None)];
    assert_eq!(recorded.answers(&token(4, 0)), late);
    assert_eq!(
        recorded.connections((0..MANY).map(|i| token(5, i).to_vec())),
        1,
        "one client, one connection"
    );
}

#[tokio::test]
async fn aioapns_is_convinced() {
    let python = or_skip!(Python::installed().await);
    let apns = Apns::start(|config| {
        // It takes 1,000 streams for granted before it has read any SETTINGS …
        config.first_stream_alone = false;
        // … and, when the connection's window is used up, leaves its request half sent and starts
        // another.
        config.connection_window = 1 << 20;
    });
    let told = verdict(python.program("aioapns_client.py").arg(apns.given())).await;
    let recorded = Recorded::of(&apns.gateway, &apns.dir);
    judge(&told, &recorded);
    assert_eq!(
        (&told["late"]["status"], &told["late"]["reason"]),
        (&json!(403), &json!("ExpiredProviderToken"))
    );
    assert_eq!(recorded.answers(&token(4, 0)), [(403, Reason::ExpiredProviderToken)]);
}

/// Returns a registration token in the form of FCM's: an id, a colon, and encoded bytes.
fn fcm_token(kind: &str, number: usize) -> String {
    format!("{kind:-<16}{number:06}:APA91b{}", "xY_z-".repeat(24))
}

#[tokio::test]
async fn firebase_admin_is_convinced() {
    const PROJECT: &str = "clarion-foreign";
    const EMAIL: &str = "sender@clarion-foreign.iam.gserviceaccount.com";
    let python = or_skip!(Python::installed().await);
    let dir = tempfile::tempdir().expect("a folder");
    let one = |kind| fcm_token(kind, 0);
    let script = |kind, reason| (TokenKey(one(kind).into_bytes()), vec![Scripted::always(reason)]);
    let gateway = Gateway::start(GatewayConfig {
        platform: Platform::Fcm,
        projects: vec![ProjectConfig { project: PROJECT.to_owned(), quota_per_minute: 600_000 }],
        service_accounts: vec![ServiceAccountConfig {
            client_email: EMAIL.to_owned(),
            private_key_id: None,
            public_key_file: None,
            public_key_pem: Some(TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM.to_owned()),
            projects: vec![PROJECT.to_owned()],
        }],
        scripts: Scripts {
            tokens: BTreeMap::from([
                script("dead", Reason::FcmUnregistered),
                script("mismatch", Reason::FcmSenderIdMismatch),
                script("throttled", Reason::FcmQuotaExceeded),
                // Once; then the push is accepted.
                script("busy", Reason::FcmUnavailable),
            ]),
            ..Scripts::default()
        },
        ..GatewayConfig::default()
    })
    .expect("a gateway on a free port");
    let path = |name| dir.path().join(name);
    fs::write(path("ca.pem"), gateway.ca_pem()).expect("written");
    let account = json!({
        "type": "service_account", "project_id": PROJECT, "private_key_id": "0123456789abcdef",
        "private_key": TEST_SERVICE_ACCOUNT_PRIVATE_KEY_PEM, "client_email": EMAIL, "token_uri": gateway.token_uri(),
    });
    fs::write(path("account.json"), account.to_string()).expect("written");
    let given = json!({
        "port": gateway.addr().port(), "service_account": path("account.json"),
        "good": one("good"), "dead": one("dead"), "mismatch": one("mismatch"), "throttled": one("throttled"),
        "busy": one("busy"), "dry": one("dry"), "many": (0..MESSAGES).map(|i| fcm_token("many", i)).collect::<Vec<_>>(),
    });
    fs::write(path("given.json"), given.to_string()).expect("written");
    let mut program = python.program("firebase_admin_client.py");
    // httpx reads one of them, and requests, which google-auth uses, the other.
    program
        .arg(path("given.json"))
        .env("SSL_CERT_FILE", path("ca.pem"))
        .env("REQUESTS_CA_BUNDLE", path("ca.pem"));
    let told = verdict(&mut program).await;
    let recorded = Recorded::of(&gateway, &dir);

    let named = |name: &str| {
        told[name]["name"]
            .as_str()
            .is_some_and(|n| n.starts_with("projects/clarion-foreign/messages/"))
    };
    assert!(named("good") && named("busy") && named("dry"), "{told}");
    let error = |error: &str, code: &str, status: u16| json!({ "error": error, "code": code, "status": status });
    assert_eq!(told["dead"], error("UnregisteredError", "NOT_FOUND", 404));
    assert_eq!(told["mismatch"], error("SenderIdMismatchError", "PERMISSION_DENIED", 403));
    assert_eq!(told["throttled"], error("QuotaExceededError", "RESOURCE_EXHAUSTED", 429));
    assert_eq!(told["many"], json!({ "accepted": MESSAGES, "failed": 0 }));
    assert!(
        told["stranger"]["words"].as_str().is_some_and(|w| w.contains("invalid_grant")),
        "{told}"
    );

    assert!(recorded.accepted_once(one("good").as_bytes()), "the stranger's never came here");
    assert_eq!(recorded.answers(one("dead").as_bytes()), [(404, Reason::FcmUnregistered)]);
    assert_eq!(recorded.answers(one("mismatch").as_bytes()), [(403, Reason::FcmSenderIdMismatch)]);
    assert_eq!(recorded.answers(one("throttled").as_bytes()), [(429, Reason::FcmQuotaExceeded)]);
    assert_eq!(
        recorded.answers(one("busy").as_bytes()),
        [(503, Reason::FcmUnavailable), (200, Reason::None)]
    );
    assert!(
        recorded.entries(one("dry").as_bytes()).iter().all(|e| !e.accepted()),
        "a dry run reaches nobody"
    );
    for i in 0..MESSAGES {
        let token = fcm_token("many", i);
        assert!(
            recorded.accepted_once(token.as_bytes()),
            "message {i}: {:?}",
            recorded.entries(token.as_bytes())
        );
    }
}
