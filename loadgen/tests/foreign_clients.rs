//! The gateway emulator convinces clients that nobody here wrote.
//!
//! Each is a program of `foreign/`, run as a process of its own over real sockets and TLS. What it says that it was told
//! must agree with what the emulator recorded, request by request.

#[macro_use]
mod foreign;

use std::{collections::BTreeMap, fs, path::Path};

use clarion_loadgen::gateway::{
    Gateway, GatewayConfig, GatewayHandle, KeyConfig,
    answer::Reason,
    record::{Entry, Record, flag},
    script::{HexToken, Scripted, Scripts},
};
use clarion_proto::device::token_hash;
use serde_json::{Value, json};
use tempfile::TempDir;

use foreign::{Node, Python, verdict};

const TOPIC: &str = "com.example.app";
const TEAM: &str = "TEAM000001";
const KEY: &str = "KEY0000001";
const APNS_ID: &str = "123e4567-e89b-12d3-a456-4266554400a0";
/// When the dead token's app was removed, milliseconds since 1970.
const GONE_SINCE: u64 = 1_700_000_000_123;
/// Over one client, at once.
const MANY: usize = 4_000;

/// 32 bytes, as Apple's are today.
fn token(kind: u8, number: usize) -> [u8; 32] {
    let mut token = [kind; 32];
    token[24..].copy_from_slice(&(number as u64).to_be_bytes());
    token
}

fn hex(token: [u8; 32]) -> String {
    data_encoding::HEXLOWER.encode(&token)
}

/// An emulated APNs with two scripted tokens, and the file from which a foreign client learns of it.
struct Apns {
    gateway: GatewayHandle,
    dir: TempDir,
}

impl Apns {
    fn start(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let gone = Scripted { timestamp_ms: Some(GONE_SINCE), ..Scripted::always(Reason::Unregistered) };
        let script = |kind, answer| (HexToken(token(kind, 0).to_vec()), vec![answer]);
        let mut config = GatewayConfig {
            keys: vec![KeyConfig {
                key_id: KEY.to_owned(),
                team_id: TEAM.to_owned(),
                public_key_file: None,
                public_key_pem: Some(key.public_key_pem()),
            }],
            topics: vec![TOPIC.to_owned()],
            scripts: Scripts {
                tokens: BTreeMap::from([script(2, gone), script(3, Scripted::always(Reason::BadDeviceToken))]),
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

    /// The answers recorded for each token, in order.
    fn recorded(&self) -> BTreeMap<u64, Vec<Entry>> {
        let path: &Path = &self.dir.path().join("record");
        self.gateway.export(path).expect("written");
        let record = Record::load(path).expect("read");
        assert_eq!(record.header.dropped, 0);
        let mut by_token = BTreeMap::<u64, Vec<Entry>>::new();
        for entry in record.entries {
            by_token.entry(entry.token_hash).or_default().push(entry);
        }
        by_token
    }
}

/// Status and reason of each request for a token, by the emulator's record.
fn answers(recorded: &BTreeMap<u64, Vec<Entry>>, token: [u8; 32]) -> Vec<(u16, Reason)> {
    let entries = recorded.get(&token_hash(&token)).map_or(&[][..], Vec::as_slice);
    entries.iter().map(|e| (e.status, e.reason().expect("a known reason"))).collect()
}

/// What both clients must have been told, and the emulator recorded; `late` is each client's own.
fn judge(told: &Value, recorded: &BTreeMap<u64, Vec<Entry>>) {
    assert_eq!(told["good"], json!({ "status": 200, "apns_id": APNS_ID }));
    assert_eq!(told["dead"], json!({ "status": 410, "reason": "Unregistered", "timestamp": GONE_SINCE }));
    assert_eq!((&told["bad"]["status"], &told["bad"]["reason"]), (&json!(400), &json!("BadDeviceToken")));
    assert_eq!(told["many"], json!({ "accepted": MANY, "failed": 0 }));
    assert_eq!(
        (&told["stranger"]["status"], &told["stranger"]["reason"]),
        (&json!(403), &json!("InvalidProviderToken"))
    );

    let good = [(200, Reason::None), (403, Reason::InvalidProviderToken)];
    assert_eq!(answers(recorded, token(1, 0)), good, "its own, then the stranger's");
    assert_eq!(answers(recorded, token(2, 0)), [(410, Reason::Unregistered)]);
    assert_eq!(answers(recorded, token(3, 0)), [(400, Reason::BadDeviceToken)]);
    for i in 0..MANY {
        let entries = &recorded[&token_hash(&token(5, i))];
        // That the client read the answers is its own word; it may hang up right behind the last.
        let answered = entries[0].accepted() && entries[0].flags & flag::ANSWERED != 0;
        assert!(entries.len() == 1 && answered, "push {i} went out once and was answered: {entries:?}");
    }
    let collapse = xxhash_rust::xxh3::xxh3_64(b"case-1");
    assert!(recorded.values().flatten().all(|e| e.collapse_hash == collapse));
}

#[tokio::test]
async fn node_apn_is_convinced() {
    let node = or_skip!(Node::installed().await);
    // As Apple does: one stream until the first authenticated answer, a window of 64 KiB.
    let apns = Apns::start(|_| {});
    let told = verdict(node.program("node_apn.js").arg(apns.given())).await;
    let recorded = apns.recorded();
    judge(&told, &recorded);
    // Told that its provider token is too old, it signs a new one and sends again.
    assert_eq!(told["late"]["status"], 200, "{told}");
    let late = [(403, Reason::ExpiredProviderToken), (200, Reason::None)];
    assert_eq!(answers(&recorded, token(4, 0)), late);
    let connections: BTreeMap<u32, ()> =
        (0..MANY).map(|i| (recorded[&token_hash(&token(5, i))][0].connection, ())).collect();
    assert_eq!(connections.len(), 1, "one client, one connection");
}

#[tokio::test]
async fn aioapns_is_convinced() {
    let python = or_skip!(Python::installed().await);
    let apns = Apns::start(|config| {
        // It takes 1,000 streams for granted before it has read any SETTINGS …
        config.first_stream_alone = false;
        // … and, when the connection's window is used up, leaves its request half sent and starts another.
        config.connection_window = 1 << 20;
    });
    let told = verdict(python.program("aioapns_client.py").arg(apns.given())).await;
    let recorded = apns.recorded();
    judge(&told, &recorded);
    assert_eq!((&told["late"]["status"], &told["late"]["reason"]), (&json!(403), &json!("ExpiredProviderToken")));
    assert_eq!(answers(&recorded, token(4, 0)), [(403, Reason::ExpiredProviderToken)]);
}
