//! A city of devices and an alert for all of them, as commands to a core.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_coordinator::{
    bands::{BandEdges, plan_bands},
    cover::{CellBudget, cover as cells_of},
};
use clarion_proto::{
    device::{Cell, Change, Record, Registration, Token},
    ids::{
        AppName, DeviceId, Epoch, LaneId, LogId, PartitionId, Position, UnixMillis, WaveId,
        partition_of,
    },
    region::{LatLng, Region},
    time::Time,
};
use clarion_shard::{
    command::{AppSpec, Command, MessageSpec, ShardSpec, WaveSpec},
    lane::{
        provider::request::{ApnsHeaders, Request},
        spec::LaneSpec,
    },
    outcome::Platform,
    wave::Cover,
};
use h3o::Resolution;
use roaring::RoaringBitmap;

use crate::{
    case::Case,
    devices::{START_MS, mixed},
};

/// Id of the only lane.
pub const LANE: LaneId = LaneId(1);
const LOG: LogId = LogId(0);
/// Number of places with devices: enough that none is crowded, few enough that creating them takes
/// no time.
const PLACES: usize = 1 << 17;
/// Latitude and longitude of Shenzhen, and the radius of the alert.
const CENTER: (f64, f64) = (22.543, 114.058);
const RADIUS_M: f64 = 120_000.0;
/// Records applied at once.
const BATCH: u64 = 8_192;

/// Devices of a city and their kind of push.
#[derive(Debug, Clone, Copy)]
pub struct City {
    /// Kind of push of all devices.
    pub case: Case,
    /// Number of devices in the city.
    pub devices: u64,
    /// Number of partitions of the core that holds the devices.
    pub partitions: u16,
}

/// Returns the arrivals of all devices, in batches of the feed.
pub fn arrivals(city: &City) -> impl Iterator<Item = Command> {
    let places = places();
    let City { devices, partitions, case } = *city;
    (0..devices.div_ceil(BATCH)).map(move |batch| {
        let records = (batch * BATCH..devices.min((batch + 1) * BATCH)).map(|n| {
            let record = arrival(n, case, &places);
            (partition_of(record.device, partitions), record)
        });
        Command::Apply {
            log: LOG,
            position: Position(batch + 1),
            appended: UnixMillis(START_MS),
            partitions: (0..partitions).map(PartitionId).collect(),
            records: records.collect(),
        }
    })
}

fn places() -> Vec<Cell> {
    let part = |n, salt| (mixed(n, salt) >> 11) as f64 / (1u64 << 53) as f64;
    let place = |n| {
        // Denser towards the middle, and all inside the circle.
        let (radius, angle) =
            (part(n, 1) * 0.98 * RADIUS_M / 111_200.0, part(n, 2) * std::f64::consts::TAU);
        let (latitude, longitude) =
            (radius * angle.sin(), radius * angle.cos() / CENTER.0.to_radians().cos());
        let place = h3o::LatLng::new(CENTER.0 + latitude, CENTER.1 + longitude).expect("finite");
        Cell::from(place.to_cell(Resolution::Nine))
    };
    (0..PLACES as u64).map(place).collect()
}

/// Returns the first record of device n.
fn arrival(n: u64, case: Case, places: &[Cell]) -> Record {
    let (one, two) = (mixed(n, 3), mixed(n, 4));
    let mut id = [0; 16];
    id[..8].copy_from_slice(&one.to_le_bytes());
    id[8..].copy_from_slice(&two.to_le_bytes());
    let registration = Registration {
        app: app(),
        token: token(one, two, case.platform()),
        locale: ["zh-hans-cn", "zh-hant-hk", "en"][(one % 3) as usize].to_owned(),
        segments: Vec::new(),
        person: String::new(),
    };
    let place = places[usize::try_from(two % PLACES as u64).expect("below PLACES")];
    Record {
        device: DeviceId(id),
        observed: UnixMillis(START_MS),
        change: Change::Arrival(registration, place),
    }
}

/// Returns a token of an ordinary length: 32 bytes for APNs; 142, 152 or 163 characters for FCM.
fn token(one: u64, two: u64, platform: Platform) -> Token {
    let bytes = match platform {
        Platform::Apns => [one, two, !one, !two].map(u64::to_le_bytes).concat(),
        Platform::Fcm => {
            let length = [142, 152, 163][(one % 3) as usize];
            let mut token = format!("{one:022x}:APA91b{two:016x}").into_bytes();
            token.resize(length, b'x');
            token
        }
    };
    Token::new(Bytes::from(bytes)).expect("of a good length")
}

fn app() -> AppName {
    AppName::from_id("demo").expect("well-formed")
}

/// Returns the circle around the city, in bands.
///
/// # Panics
/// Never: the region is fixed.
#[must_use]
pub fn cover() -> Arc<Cover> {
    let center = LatLng::new(CENTER.0, CENTER.1).expect("a point");
    let region = Region::circle(center, RADIUS_M).expect("a circle");
    let cells = cells_of(&region, CellBudget::default()).expect("within the budget");
    let bands: Vec<_> = plan_bands(&cells, center, &BandEdges::default(), usize::MAX)
        .expect("no limit")
        .into_iter()
        .map(|band| (band.from_m, band.to_m, band.cells.into_iter().map(u64::from).collect()))
        .collect();
    Arc::new(Cover::new(&bands).expect("disjoint"))
}

/// Returns a lane whose endpoint does not exist unless it is changed.
#[must_use]
pub fn lane_spec(case: Case) -> LaneSpec {
    let (connections, streams_per_connection) = case.lane();
    LaneSpec {
        id: LANE,
        platform: case.platform(),
        name: "memory/demo".to_owned(),
        endpoint: "localhost:1".to_owned(),
        server_name: case.host().to_owned(),
        roots: Arc::new(rustls::RootCertStore::empty()),
        live: false,
        route: clarion_runtime::proxy::Route::Direct,
        connections,
        streams_per_connection,
        request_deadline: Duration::from_secs(10),
        connect_deadline: Duration::from_secs(5),
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(30),
        authorization_indexed: case != Case::ApnsLiteral,
        evidence: 32,
    }
}

/// Returns the id of wave number n.
#[must_use]
pub fn wave_id(wave: usize) -> WaveId {
    WaveId(wave as u64 + 1)
}

/// Returns a wave for all devices.
///
/// # Panics
/// Never: its parts are fixed.
#[must_use]
pub fn wave_spec(wave: usize, city: &City, cover: Arc<Cover>) -> WaveSpec {
    let request = match city.case.platform() {
        Platform::Apns => Request::Apns(ApnsHeaders {
            topic: "org.example.clarion".to_owned(),
            push_type: "alert".to_owned(),
            priority: 10,
            expiration: 1_800_000_000,
            collapse_id: format!("alert-{wave:010}"),
        }),
        Platform::Fcm => Request::Fcm { project: "clarion-example".to_owned() },
    };
    let message = |locale: &str| match city.case.platform() {
        Platform::Apns => MessageSpec {
            locale: locale.to_owned(),
            body: Bytes::from(vec![b'x'; 257]),
            body_after_token: Bytes::new(),
        },
        Platform::Fcm => MessageSpec {
            locale: locale.to_owned(),
            body: Bytes::from(vec![b'"'; 200]),
            body_after_token: Bytes::from(vec![b'"'; 57]),
        },
    };
    let start = Position(city.devices.div_ceil(BATCH));
    let shard = |n| ShardSpec { partition: PartitionId(n), start, handed: RoaringBitmap::new() };
    WaveSpec {
        id: wave_id(wave),
        alert: format!("alerts/bench-{wave}"),
        epoch: Epoch(1),
        plan: 0,
        cover,
        shards: (0..city.partitions).map(shard).collect(),
        apps: vec![AppSpec {
            app: app(),
            lane: LANE,
            request,
            messages: vec![message("en"), message("zh")],
        }],
        segments: Vec::new(),
        place_seen_after: UnixMillis(0),
        expires: Time::NEVER,
    }
}
