//! Devices around a city by number; the same number is the same device everywhere.

use bytes::Bytes;
use clarion_proto::{
    device::{Cell, Change, Record, Registration, Token, token_hash},
    ids::{AppName, DeviceId, UnixMillis},
};
use h3o::{CellIndex, LatLng, Resolution};

/// Time of the first observation and append, milliseconds since 1970.
pub const START_MS: u64 = 1_780_000_000_000;

/// Returns the number of devices for a benchmark of a whole node: ten million, or the environment
/// variable `DEVICES`.
#[must_use]
pub fn devices() -> u64 {
    std::env::var("DEVICES").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000_000)
}

/// Returns a number that looks random, from a number and a salt.
#[must_use]
pub fn mixed(n: u64, salt: u64) -> u64 {
    token_hash(&[n.to_le_bytes(), salt.to_le_bytes()].concat())
}

/// Returns a place within some 60 km of Shenzhen, denser towards the middle.
#[must_use]
pub fn cell(n: u64) -> CellIndex {
    let part = |salt| (mixed(n, salt) >> 11) as f64 / (1u64 << 53) as f64;
    let (radius, angle) = (part(1) * 0.55, part(2) * std::f64::consts::TAU);
    let place =
        LatLng::new(22.54 + radius * angle.sin(), 114.06 + radius * angle.cos()).expect("finite");
    place.to_cell(Resolution::Nine)
}

/// Returns the id of a device.
#[must_use]
pub fn id(n: u64) -> DeviceId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&mixed(n, 3).to_le_bytes());
    id[8..].copy_from_slice(&mixed(n, 4).to_le_bytes());
    DeviceId(id)
}

/// Returns a registration with an APNs token of 32 bytes, another one for each `version`.
#[must_use]
pub fn registration(n: u64, version: u64) -> Registration {
    let token: Vec<u8> =
        (5..9).flat_map(|salt| mixed(n + (version << 40), salt).to_le_bytes()).collect();
    Registration {
        app: AppName::from_id("demo").expect("well-formed"),
        token: Token::new(Bytes::from(token)).expect("32 bytes"),
        locale: ["zh-hans-cn", "zh-hant-hk", "en"][(mixed(n, 9) % 3) as usize].to_owned(),
        segments: (0..mixed(n, 10) % 3).map(|s| format!("segment-{s}")).collect(),
        person: String::new(),
    }
}

/// Returns a registration with an FCM token: 142, 152 or 163 characters, 22 of them before the
/// colon.
#[must_use]
pub fn registration_fcm(n: u64, version: u64) -> Registration {
    const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let length = [142, 142, 142, 152, 152, 163, 163, 163, 163, 163][(mixed(n, 11) % 10) as usize];
    let mut token = Vec::with_capacity(length);
    for salt in 0.. {
        let mut bits = mixed(n + (version << 40), 100 + salt);
        for _ in 0..10.min(length - token.len()) {
            token.push(URL_SAFE[(bits & 63) as usize]);
            bits >>= 6;
        }
        if token.len() == length {
            break;
        }
    }
    token[22..29].copy_from_slice(b":APA91b");
    Registration {
        app: AppName::from_id("demo-android").expect("well-formed"),
        token: Token::new(Bytes::from(token)).expect("not too long"),
        ..registration(n, version)
    }
}

/// Returns a record of a device, observed this many milliseconds after the start.
#[must_use]
pub fn record(n: u64, observed: u64, change: Change) -> Record {
    Record { device: id(n), observed: UnixMillis(START_MS + observed), change }
}

/// Returns the first record of a device.
#[must_use]
pub fn arrival(n: u64) -> Record {
    record(n, 0, Change::Arrival(registration(n, 0), place(n)))
}

/// Returns the place of a device as a cell of the domain.
#[must_use]
pub fn place(n: u64) -> Cell {
    cell(n).into()
}

/// Returns the resident memory of this process, bytes; 0 if `/proc` does not have it.
#[must_use]
pub fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok())
        .unwrap_or(0);
    pages * 4_096
}
