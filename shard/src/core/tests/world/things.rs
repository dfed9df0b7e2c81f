//! Parts of the world: devices, their records, the region, the lanes and apps, the wave.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_proto::{
    device::{Cell, Change, Record, Registration, Token},
    ids::{AppName, DeviceId, Epoch, PartitionId, Position, UnixMillis, WaveId},
    time::Time,
};
use h3o::{CellIndex, LatLng, Resolution};
use roaring::RoaringBitmap;

use super::{FCM, LANE, PARTITIONS, STARTED};
use crate::{
    command::{AppSpec, Command, MessageSpec, ShardSpec, WaveSpec},
    lane::{
        provider::{
            authorization::Authorization,
            request::{ApnsHeaders, Request},
        },
        spec::LaneSpec,
    },
    outcome::Platform,
    wave::Cover,
};

/// Returns the home of device n in band n % 3.
pub(in crate::core::tests) fn home(n: u32) -> Cell {
    let cells = band_cells();
    let band = &cells[(n % 3) as usize];
    Cell::from(band[(n / 3) as usize % band.len()])
}

/// Returns a cell that no wave covers.
pub(in crate::core::tests) fn far_away() -> Cell {
    Cell::from(LatLng::new(41.6, -93.6).unwrap().to_cell(Resolution::Nine))
}

/// Returns the cells of the bands: rings 0 to 3, 4 to 7 and 8 to 11 around a place.
fn band_cells() -> [Vec<CellIndex>; 3] {
    let center = LatLng::new(22.54, 114.06).unwrap().to_cell(Resolution::Nine);
    let ring =
        |from: u32, to: u32| (from..=to).flat_map(|k| center.grid_ring::<Vec<_>>(k)).collect();
    [ring(0, 3), ring(4, 7), ring(8, 11)]
}

pub(in crate::core::tests) fn cover() -> Arc<Cover> {
    let mut bands = Vec::new();
    for (n, cells) in band_cells().into_iter().enumerate() {
        let mut cells: Vec<u64> = cells.into_iter().map(u64::from).collect();
        cells.sort_unstable();
        let n = f64::from(u32::try_from(n).unwrap());
        bands.push((n * 1000.0, (n + 1.0) * 1000.0, cells));
    }
    Arc::new(Cover::new(&bands).unwrap())
}

pub(in crate::core::tests) fn device(n: u32) -> DeviceId {
    let mut id = [7; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    DeviceId(id)
}

/// Returns a token of 32 bytes that begins with the device's number.
pub(in crate::core::tests) fn token(n: u32) -> Token {
    let mut token = n.to_be_bytes().to_vec();
    token.resize(32, 0xab);
    Token::new(Bytes::from(token)).unwrap()
}

pub(in crate::core::tests) fn arrival(n: u32, cell: Cell) -> Record {
    arrival_of("demo", n, cell)
}

pub(in crate::core::tests) fn arrival_of(app: &str, n: u32, cell: Cell) -> Record {
    let registration = Registration {
        app: AppName::from_id(app).unwrap(),
        token: token(n),
        locale: if n.is_multiple_of(5) { "zh-hans-cn".to_owned() } else { String::new() },
        segments: Vec::new(),
        person: String::new(),
    };
    Record { device: device(n), observed: STARTED, change: Change::Arrival(registration, cell) }
}

/// Returns a later change of device n.
pub(in crate::core::tests) fn change(n: u32, after_ms: u64, change: Change) -> Record {
    Record { device: device(n), observed: UnixMillis(STARTED.0 + after_ms), change }
}

pub(in crate::core::tests) fn provider_token(value: &str) -> Command {
    let authorization = Authorization(Arc::new(secrecy::SecretString::from(value.to_owned())));
    Command::ProviderToken { lane: LANE, authorization, signer: 0 }
}

/// Returns device n with the app `android` and an FCM token that begins with its number.
pub(in crate::core::tests) fn android(n: u32) -> Record {
    let mut record = arrival_of("android", n, home(n));
    if let Change::Arrival(registration, _) = &mut record.change {
        let token = format!("{n:08x}:APA91b{}", "x".repeat(127 + (n % 3) as usize * 10));
        registration.token = Token::new(Bytes::from(token)).unwrap();
    }
    record
}

pub(in crate::core::tests) fn fcm_token(value: &str) -> Command {
    let authorization = Authorization(Arc::new(secrecy::SecretString::from(value.to_owned())));
    Command::ProviderToken { lane: FCM, authorization, signer: 0 }
}

pub(in crate::core::tests) fn fcm_app() -> AppSpec {
    let message = |locale: &str, title: &str| MessageSpec {
        locale: locale.to_owned(),
        body: Bytes::from(format!(
            r#"{{"message":{{"notification":{{"title":"{title}"}},"token":""#
        )),
        body_after_token: Bytes::from_static(br#""}}"#),
    };
    AppSpec {
        app: AppName::from_id("android").unwrap(),
        lane: FCM,
        request: Request::Fcm { project: "demo-1".to_owned() },
        messages: vec![message("en", "missing child"), message("zh", "\u{5931}\u{8e2a}")],
    }
}

pub(in crate::core::tests) fn lane_spec(connections: usize) -> LaneSpec {
    LaneSpec {
        id: LANE,
        platform: Platform::Apns,
        name: "emulator/demo".to_owned(),
        endpoint: "127.0.0.1:1".to_owned(),
        server_name: "localhost".to_owned(),
        roots: Arc::new(rustls::RootCertStore::empty()),
        live: false,
        route: clarion_runtime::proxy::Route::Direct,
        connections,
        streams_per_connection: 100,
        request_deadline: Duration::from_secs(10),
        connect_deadline: Duration::from_secs(5),
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(30),
        authorization_indexed: true,
        evidence: 32,
    }
}

pub(in crate::core::tests) fn wave_spec(wave: u64, expires: Time, position: u64) -> WaveSpec {
    let headers = ApnsHeaders {
        topic: "org.example.demo".to_owned(),
        push_type: "alert".to_owned(),
        priority: 10,
        expiration: 1_800_000_000,
        collapse_id: format!("alert-{wave}"),
    };
    let message = |locale: &str, body: &'static [u8]| MessageSpec {
        locale: locale.to_owned(),
        body: Bytes::from_static(body),
        body_after_token: Bytes::new(),
    };
    let messages = vec![
        message("en", b"{\"aps\":{\"alert\":\"missing child\"}}"),
        message("zh", b"{\"aps\":{\"alert\":\"\xe5\xa4\xb1\xe8\xb8\xaa\"}}"),
    ];
    let shard = |n| ShardSpec {
        partition: PartitionId(n),
        start: Position(position),
        handed: RoaringBitmap::new(),
    };
    WaveSpec {
        id: WaveId(wave),
        alert: format!("alerts/test-{wave}"),
        epoch: Epoch(1),
        plan: 0,
        cover: cover(),
        shards: (0..PARTITIONS).map(shard).collect(),
        apps: vec![AppSpec {
            app: AppName::from_id("demo").unwrap(),
            lane: LANE,
            request: Request::Apns(headers),
            messages,
        }],
        segments: Vec::new(),
        place_seen_after: UnixMillis(0),
        expires,
    }
}
