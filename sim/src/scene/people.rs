//! The people and their places, equal in every run.

use bytes::Bytes;
use clarion_proto::{
    device::{Cell, Change, Record, Registration, Token, token_hash},
    ids::{AppName, DeviceId, UnixMillis},
};
use h3o::{LatLng, Resolution};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Where the child was last seen, degrees: Shenzhen.
pub const CENTER: (f64, f64) = (22.543, 114.058);
/// Name of the one app.
pub const APP: &str = "demo";
/// Seed of the people.
const SEED: u64 = 20_270_115;
/// Radius of the Earth, metres.
const EARTH_M: f64 = 6_371_000.0;

/// One person with one phone.
#[derive(Debug, Clone)]
pub struct Person {
    /// Id of the phone.
    pub device: DeviceId,
    /// Place of the phone.
    pub cell: Cell,
    token: [u8; 32],
}

impl Person {
    /// The hash by which the gateway's record names the phone.
    #[must_use]
    pub fn token_hash(&self) -> u64 {
        token_hash(&self.token)
    }

    /// Metres from the place last seen to the middle of the phone's cell, on a sphere: at most half
    /// a percent off.
    #[must_use]
    pub fn distance_m(&self) -> f64 {
        let middle = LatLng::from(self.cell.to_h3());
        let (lat, lng) = (CENTER.0.to_radians(), CENTER.1.to_radians());
        let (north, east) = (middle.lat_radians() - lat, middle.lng_radians() - lng);
        let half = (north / 2.0).sin().powi(2)
            + lat.cos() * middle.lat_radians().cos() * (east / 2.0).sin().powi(2);
        2.0 * EARTH_M * half.sqrt().asin()
    }

    /// The record with which the phone first appears.
    ///
    /// # Panics
    /// Never: app and token are well-formed.
    #[must_use]
    pub fn arrival(&self, observed: UnixMillis) -> Record {
        let registration = Registration {
            app: AppName::from_id(APP).expect("well-formed"),
            token: Token::new(Bytes::copy_from_slice(&self.token)).expect("32 bytes"),
            locale: "en".to_owned(),
            segments: Vec::new(),
            person: String::new(),
        };
        let change = Change::Arrival(registration, self.cell);
        Record { device: self.device, observed, change }
    }
}

/// All people: four in five up to 7.4 km from the place last seen, one in five 9.2 km to 30 km
/// away. So each person is clearly inside or outside a region of 8 km.
#[must_use]
pub fn all(devices: u32) -> Vec<Person> {
    let mut random = Pcg64Mcg::seed_from_u64(SEED);
    (0..devices)
        .map(|n| {
            let part: f64 = random.random();
            let radius_m =
                if n % 5 < 4 { 7_400.0 * part.sqrt() } else { 9_200.0 + 20_800.0 * part };
            let angle = random.random_range(0.0..std::f64::consts::TAU);
            let (north, east) = (radius_m * angle.sin(), radius_m * angle.cos());
            let lat = CENTER.0.to_radians() + north / EARTH_M;
            let lng = CENTER.1.to_radians() + east / EARTH_M / CENTER.0.to_radians().cos();
            let place = LatLng::from_radians(lat, lng).expect("finite");
            let cell = Cell::from(place.to_cell(Resolution::Nine));
            Person { device: DeviceId(random.random()), cell, token: random.random() }
        })
        .collect()
}
