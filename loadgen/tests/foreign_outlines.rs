//! Real outlines against a real small cluster: public counties and countries, read at run time from
//! packages by `foreign/outlines.py`, and never committed.
//!
//! Each outline is previewed through the API: every valid one must be accepted. Some are sent as
//! TEST alerts, and the emulator's record is compared, device by device, with what numpy and
//! shapely say: nobody inside is missed, and nobody is reached further outside than
//! `overshoot_meters`.
//!
//! CI takes a few outlines of each source. `CLARION_OUTLINES=360` takes that number, and sends a
//! sixth of them.

#[macro_use]
mod foreign;

use std::{collections::BTreeMap, fs, net::Ipv4Addr, time::Duration};

use clarion_emulator::{Platform, clock};
use clarion_loadgen::{
    cluster::{Cluster, ClusterPlan, emulator::GatewayPlan, network::NetworkPlan},
    drive, names,
    scenario::{DistanceSpec, FcmSpec, StoreKind},
    verdict::recorded::Recorded,
};
use clarion_proto::wire::v1::{
    self as wire, alert_service_client::AlertServiceClient, app_service_client::AppServiceClient,
    device_change::Change, region::Shape, registry_service_client::RegistryServiceClient,
};
use foreign::{Node, Python, verdict};
use serde_json::Value;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use xxhash_rust::xxh3::xxh3_64;

/// Outlines that CI takes; a sixth of them are sent.
const OUTLINES: usize = 18;
const TOPIC: &str = "org.clarion.outlines";
/// Time limit of every wait. Covers of countries take seconds without optimisation.
const PATIENCE: Duration = Duration::from_secs(120);
/// Previews from one address: fewer than the 60 that an address has at once.
const PREVIEWS_OF_ADDRESS: usize = 50;
/// What the distance of Python's flat map may be wrong by, metres.
const JUDGE_ERROR_M: f64 = 1.0;

/// One outline of the Python program.
struct Outline {
    name: String,
    /// Whether shapely calls it valid; if not, it may be refused.
    valid: bool,
    region: wire::Region,
    devices: Vec<Device>,
}

struct Device {
    place: wire::LatLng,
    inside: bool,
    outside_m: f64,
}

impl Outline {
    fn read(line: &str) -> Self {
        let told: Value = serde_json::from_str(line).expect("JSON");
        let text = |name: &str| told[name].as_str().expect("text").to_owned();
        let datum = if told["datum"] == "GCJ02" { wire::Datum::Gcj02 } else { wire::Datum::Wgs84 };
        let device = |row: &Value| Device {
            place: wire::LatLng {
                latitude: row[0].as_f64().expect("a number"),
                longitude: row[1].as_f64().expect("a number"),
            },
            inside: row[2].as_bool().expect("a verdict"),
            outside_m: row[3].as_f64().expect("a number"),
        };
        Self {
            name: text("name"),
            valid: told["valid"].as_bool().expect("a verdict"),
            region: wire::Region {
                shape: Some(Shape::Geojson(text("geojson"))),
                datum: datum.into(),
                ..wire::Region::default()
            },
            devices: told["devices"].as_array().into_iter().flatten().map(device).collect(),
        }
    }

    fn alert(&self, segments: String) -> wire::Alert {
        let message = wire::Message { title: "Test".to_owned(), body: "A test".to_owned() };
        wire::Alert {
            case: Some(wire::Case {
                messages: [("en".to_owned(), message)].into(),
                fallback_locale: "en".to_owned(),
                ..wire::Case::default()
            }),
            severity: wire::Severity::Information.into(),
            region: Some(self.region.clone()),
            audience: Some(wire::Audience {
                apps: vec!["apps/outlines".to_owned()],
                segments,
                place_seen_within: None,
            }),
            active_until: Some(timestamp(clock::wall().0 + 3_600_000)),
            mode: wire::Mode::Test.into(),
            ..wire::Alert::default()
        }
    }
}

fn timestamp(ms: u64) -> prost_types::Timestamp {
    let (seconds, nanos) = (ms / 1_000, ms % 1_000 * 1_000_000);
    prost_types::Timestamp {
        seconds: i64::try_from(seconds).expect("a time"),
        nanos: i32::try_from(nanos).expect("below a second"),
    }
}

/// Token of a device of an outline.
fn token(outline: usize, device: usize) -> [u8; 32] {
    let mut token = [7; 32];
    token[..8].copy_from_slice(&(outline as u64).to_be_bytes());
    token[8..16].copy_from_slice(&(device as u64).to_be_bytes());
    token
}

fn plan(dir: &tempfile::TempDir) -> ClusterPlan {
    ClusterPlan {
        program: env!("CARGO_BIN_EXE_loadgen").into(),
        dir: dir.path().to_owned(),
        nodes: 1,
        nodes_later: Vec::new(),
        nodes_told: None,
        store: StoreKind::Sqlite,
        network: NetworkPlan::default(),
        cores_per_node: 1,
        gateway: GatewayPlan {
            platforms: vec![Platform::Apns],
            dead_share: 0.0,
            latency_us: 0,
            distance: DistanceSpec::default(),
            seed: 1,
            topics: vec![TOPIC.to_owned()],
            fcm_quota_per_minute: 1,
        },
        fcm: FcmSpec::default(),
        authorization_literal: false,
        snapshot_every_seconds: None,
        request_deadline_ms: None,
        start_deadline: PATIENCE,
    }
}

async fn create_app(channel: &Channel) {
    let request = wire::CreateAppRequest {
        app_id: "outlines".to_owned(),
        app: Some(wire::App {
            display_name: "Outlines".to_owned(),
            platform: wire::Platform::Apns.into(),
            gateway: names::gateway(Platform::Apns).to_owned(),
            credential: names::credential(Platform::Apns).to_owned(),
            topic: TOPIC.to_owned(),
            environment: wire::Environment::Sandbox.into(),
            lane_kind: wire::LaneKind::Test.into(),
            ..wire::App::default()
        }),
    };
    AppServiceClient::new(channel.clone()).create_app(request).await.expect("an app");
}

/// Registers the devices of all outlines, those of each in a segment of their own.
async fn register(channel: &Channel, outlines: &[Outline]) {
    let observed = timestamp(clock::wall().0);
    let of = |(o, outline): (usize, &Outline)| {
        let change = |(d, device): (usize, &Device)| wire::DeviceChange {
            device: format!("outline-{o}-{d}"),
            observe_time: Some(observed),
            change: Some(Change::Arrival(wire::Arrival {
                registration: Some(wire::Registration {
                    app: "apps/outlines".to_owned(),
                    token: data_encoding::HEXLOWER.encode(&token(o, d)),
                    segments: vec![format!("o{o}")],
                    ..wire::Registration::default()
                }),
                place: Some(wire::Place {
                    place: Some(wire::place::Place::Point(device.place)),
                    datum: wire::Datum::Wgs84.into(),
                }),
            })),
            token_device: None,
        };
        outline.devices.iter().enumerate().map(change).collect::<Vec<_>>()
    };
    let changes: Vec<_> = outlines.iter().enumerate().flat_map(of).collect();
    let batches = changes.chunks(1_000).enumerate();
    let batches = batches.map(|(i, changes)| wire::WriteDevicesRequest {
        batch_id: i as u64,
        changes: changes.to_vec(),
        historic: false,
    });
    drive::load::write(RegistryServiceClient::new(channel.clone()), batches, |_| {})
        .await
        .expect("written");
    drive::visible(channel.clone(), changes.len() as u64, PATIENCE).await.expect("visible");
}

/// Whether the API takes a region; a region with too few devices for a count is taken, too.
fn is_taken(preview: &Result<tonic::Response<wire::PreviewAlertResponse>, Status>) -> bool {
    match preview {
        Ok(_) => true,
        Err(status) => status.code() == Code::PermissionDenied,
    }
}

/// Previews every outline, from an address of its own for some of them.
async fn preview(coordinator: &str, outlines: &[Outline]) {
    let (mut taken, mut refused) = (0, Vec::new());
    for (n, of_address) in outlines.chunks(PREVIEWS_OF_ADDRESS).enumerate() {
        let last = u8::try_from(n + 2).expect("at most 253 addresses");
        let channel = Endpoint::from_shared(coordinator.to_owned())
            .expect("an address")
            .local_address(Some(Ipv4Addr::new(127, 0, 0, last).into()))
            .connect()
            .await
            .expect("it listens");
        for outline in of_address {
            let request = wire::PreviewAlertRequest { alert: Some(outline.alert(String::new())) };
            let previewed = AlertServiceClient::new(channel.clone()).preview_alert(request).await;
            if is_taken(&previewed) {
                taken += 1;
            } else {
                let why = previewed.expect_err("not taken").message().to_owned();
                assert!(!outline.valid, "{} must be accepted: {why}", outline.name);
                refused.push((&outline.name, why));
            }
        }
    }
    println!("{taken} outlines accepted; refused, all invalid: {refused:#?}");
}

/// Sends an alert to the devices of an outline; returns its overshoot, or `None` for an outline that
/// is too small to be private (reefs of a few hundred metres).
async fn send(channel: &Channel, number: usize, outline: &Outline) -> Option<f64> {
    let request = wire::CreateAlertRequest {
        alert: Some(outline.alert(format!("o{number}"))),
        request_id: format!("8d2f8e4e-0f6e-4a0e-9f61-7a0f3c1f{number:04}"),
        validate_only: false,
    };
    let made = AlertServiceClient::new(channel.clone()).create_alert(request).await;
    let made = match made {
        Ok(made) => made.into_inner(),
        Err(small) if small.message().contains("at least 1 km²") => return None,
        Err(other) => panic!("{}: {}", outline.name, other.message()),
    };
    let ended = drive::alert::watch(channel.clone(), &made.name, None, PATIENCE, |_| {}).await;
    assert_eq!(ended.expect("it ends").progress.state(), wire::State::Resolved);
    Some(made.overshoot_meters)
}

#[tokio::test(flavor = "multi_thread")]
async fn outlines_of_the_world_reach_whom_numpy_and_shapely_say() {
    let (python, node) = (or_skip!(Python::installed().await), or_skip!(Node::installed().await));
    let dir = tempfile::tempdir().expect("a folder");
    let count =
        std::env::var("CLARION_OUTLINES").map_or(OUTLINES, |n| n.parse().expect("a number"));
    let file = dir.path().join("outlines.jsonl");
    let mut program = python.program("outlines.py");
    program.arg(node.modules()).arg(count.to_string()).arg((count / 6).to_string()).arg(&file);
    verdict(&mut program).await;
    let outlines: Vec<Outline> =
        fs::read_to_string(&file).expect("written").lines().map(Outline::read).collect();
    assert!(outlines.len() >= count * 4 / 5, "{} outlines", outlines.len());

    let cluster = Cluster::start(&plan(&dir)).await.expect("a cluster");
    let channel = Channel::from_shared(cluster.coordinator.clone()).expect("an address");
    let channel = channel.connect().await.expect("it listens");
    create_app(&channel).await;
    register(&channel, &outlines).await;
    preview(&cluster.coordinator, &outlines).await;
    let mut sent = BTreeMap::new();
    for (number, outline) in outlines.iter().enumerate().filter(|(_, o)| !o.devices.is_empty()) {
        sent.extend(send(&channel, number, outline).await.map(|overshoot_m| (number, overshoot_m)));
    }
    assert!(sent.len() >= count / 7, "{} alerts", sent.len());
    let record = dir.path().join("record");
    cluster.emulators[0].export(&record).await.expect("exported");
    let recorded = Recorded::read([(Platform::Apns, record.as_path())]).expect("whole");
    judge(&outlines, &sent, &recorded);
    assert!(cluster.stop(PATIENCE).await.is_empty());
}

/// Compares the record with the verdicts of the Python program.
fn judge(outlines: &[Outline], sent: &BTreeMap<usize, f64>, recorded: &Recorded) {
    let (mut inside, mut furthest_m, mut requests) = (0, 0.0_f64, 0);
    for (&number, &overshoot_m) in sent {
        let outline = &outlines[number];
        for (d, device) in outline.devices.iter().enumerate() {
            let times = recorded.ledger.of(xxh3_64(&token(number, d))).len();
            requests += times;
            assert!(times <= 1, "{}: device {d} was reached {times} times", outline.name);
            assert!(!device.inside || times == 1, "{}: device {d} was missed", outline.name);
            if times == 1 && !device.inside {
                let outside_m = device.outside_m;
                assert!(
                    outside_m <= overshoot_m + JUDGE_ERROR_M,
                    "{}: device {d} was reached {outside_m} m outside, of {overshoot_m} m",
                    outline.name
                );
                furthest_m = furthest_m.max(outside_m);
            }
            inside += usize::from(device.inside);
        }
    }
    assert_eq!(recorded.ledger.pushes().len(), requests, "every request was judged");
    println!(
        "{} alerts, {inside} devices inside, 0 missed, 0 twice; {} outside, at most {furthest_m} m",
        sent.len(),
        requests - inside
    );
}
