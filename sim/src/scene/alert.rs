//! The only alert of a scene and its lane: the coordinator's and the emulator's configuration.

use std::time::Duration;

use bytes::Bytes;
use clarion_coordinator::{
    bands::{BandEdges, plan_bands},
    cover::{CellBudget, cover},
    lane::{ConnectionLimits, Gateway, LaneKey, Quota},
    lane_owner::{ApnsKey, Credential},
    planned::{ApnsRequest, AppPlan, LocaleMessage, PlannedAlert, PushRequest},
    store::ChangeLog as _,
};
use clarion_emulator::{GatewayConfig, KeyConfig};
use clarion_proto::{
    app::Platform,
    ids::{AlertName, AppName, Epoch, UnixMillis, WaveId},
    region::{LatLng, Region},
};
use secrecy::SecretString;

use super::people::{APP, CENTER};
use crate::log::LogModel;

/// The alert's wave.
pub const WAVE: WaveId = WaveId(77);
/// Radius of the region, metres.
pub const RADIUS_M: f64 = 8_000.0;
/// Time in which a gateway must answer a request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Lifetime of the alert.
const ACTIVE_MS: u64 = 600_000;

const TOPIC: &str = "org.example.demo";
const KEY_ID: &str = "SIMULATED1";
const TEAM_ID: &str = "SIMULATED2";
/// A signing key that protects nothing; fixed, so that provider tokens are equal in each run.
const KEY_PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
    MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgThHKxnuBESLsXyA8\n\
    W+7Fvp3AT4yjoOuofb6oLVOgU52hRANCAATkee4NDSytNsHik4XzZB7+DOVGzCth\n\
    8VVae4ULSw8zIDjx1+DoeyhKxp6LGeJQpj2n7cH3OIVENyA7DokBmSLX\n\
    -----END PRIVATE KEY-----\n";
/// The public key that belongs to [`KEY_PEM`].
const PUBLIC_KEY_PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
    MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE5HnuDQ0srTbB4pOF82Qe/gzlRswr\n\
    YfFVWnuFC0sPMyA48dfg6HsoSsaeixniUKY9p+3B9ziFRDcgOw6JAZki1w==\n\
    -----END PUBLIC KEY-----\n";
/// Faults of the emulator: answers after some milliseconds, and of a hundred requests two that are
/// answered 503 and one that is refused unprocessed.
pub const FAULTS: &str = r#"{
    "latency": {"p50_us": 8000, "p99_us": 30000},
    "errors": [
        {"reason": "ServiceUnavailable", "ppm": 20000},
        {"fate": "refuse", "ppm": 10000}
    ]
}"#;

/// The lane of the alert's app.
#[must_use]
pub fn lane() -> LaneKey {
    LaneKey { gateway: "apns".to_owned(), credential: "key".to_owned() }
}

/// The gateway, as the coordinator's configuration has it.
#[must_use]
pub fn gateway(connections: ConnectionLimits, quota: Quota) -> Gateway {
    Gateway {
        name: lane().gateway,
        platform: Platform::Apns,
        endpoint: "gateway:443".to_owned(),
        server_name: "api.push.apple.com".to_owned(),
        ca_pem: String::new(),
        live: false,
        route: clarion_runtime::proxy::Route::Direct,
        connections,
        streams_per_connection: 1_000,
        request_deadline: REQUEST_DEADLINE,
        connect_deadline: Duration::from_secs(5),
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(30),
        hpack_authorization_indexed: true,
        evidence_answers: 32,
        quota: Some(quota),
    }
}

/// The lane's signing key.
#[must_use]
pub fn credential() -> Credential {
    Credential::Apns(ApnsKey {
        name: lane().credential,
        key_id: KEY_ID.to_owned(),
        team_id: TEAM_ID.to_owned(),
        key_pem: SecretString::from(KEY_PEM.to_owned()),
    })
}

/// The gateway, as the emulator's configuration has it.
///
/// # Panics
/// If the emulator does not support the faults.
#[must_use]
pub fn emulator(faults: &str, seed: u64) -> GatewayConfig {
    let key = KeyConfig {
        key_id: KEY_ID.to_owned(),
        team_id: TEAM_ID.to_owned(),
        public_key_file: None,
        public_key_pem: Some(PUBLIC_KEY_PEM.to_owned()),
    };
    GatewayConfig {
        keys: vec![key],
        topics: vec![TOPIC.to_owned()],
        faults: serde_json::from_str(faults).expect("faults of the emulator"),
        seed,
        ..GatewayConfig::default()
    }
}

/// The alert, recorded at a wall time, of the devices that the log has then.
///
/// # Panics
/// Never: the region is fixed.
#[must_use]
pub fn plan(created: UnixMillis, log: &LogModel, rate: u32) -> PlannedAlert {
    let center = LatLng::new(CENTER.0, CENTER.1).expect("a point");
    let region = Region::circle(center, RADIUS_M).expect("a circle");
    let cells = cover(&region, CellBudget::default()).expect("within the budget");
    let bands = plan_bands(&cells, center, &BandEdges::default(), usize::MAX).expect("no limit");
    PlannedAlert {
        name: AlertName::from_id("missing-child").expect("well-formed"),
        wave: WAVE,
        epoch: Epoch(1),
        bands: bands.into(),
        apps: vec![AppPlan {
            app: AppName::from_id(APP).expect("well-formed"),
            lane: lane(),
            request: PushRequest::Apns(ApnsRequest {
                topic: TOPIC.to_owned(),
                push_type: "alert".to_owned(),
                priority: 10,
                expiration: 1_800_010_000,
                collapse_id: "missing-child".to_owned(),
            }),
            messages: vec![LocaleMessage {
                locale: "en".to_owned(),
                body: Bytes::from_static(br#"{"aps":{"alert":{"title":"Missing child"}}}"#),
                body_after_token: Bytes::new(),
            }],
        }],
        segments: Vec::new(),
        place_seen_after: UnixMillis(0),
        log: log.identity(),
        positions: log.newest(),
        created,
        expires: UnixMillis(created.0 + ACTIVE_MS),
        max_rate_per_second: rate,
    }
}
