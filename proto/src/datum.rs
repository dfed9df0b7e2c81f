//! Datum: what a latitude and a longitude mean, and the conversion between WGS-84 and GCJ-02.
//!
//! Clarion stores and compares places on WGS-84. Maps of mainland China show GCJ-02, which is moved
//! by up to 735 m. A point is converted once ([`Datum::to_wgs84`]). A polygon is not: its straight
//! edges bend in the other datum, so a place is read in the polygon's datum instead
//! ([`Datum::readings`]).
//!
//! **Source.** The authority publishes no formula. This is the formula of the open-source
//! converters, for example eviltransform and gcoord, on the ellipsoid of Krasovsky; those that use
//! WGS-84's differ by at most 2 cm. How far a provider's own converter differs is not published.
//!
//! **Where the offset applies.** In the rectangle of longitudes 72.004 to 137.8347 and latitudes
//! 0.8293 to 55.8271, as in those converters, and nowhere else. The rectangle includes places where
//! maps use WGS-84, such as Hong Kong: the caller names the datum, and no border is looked at.
//!
//! **Bounds.** Within the rectangle and a degree around it, measured over 4 million places, the
//! offset is at most 735 m, and two readings are at most 1.0082 times as far from each other as
//! their places, and 1 m: the formula has a square root of |longitude - 105|, whose slope has no
//! bound, but whose value over 50 km is below 0.2 m. At the rim of the rectangle the offset jumps.
//! So a place within 1 km of the rim has two readings, with the offset and without.

use std::f64::consts::PI;

use crate::{error::InvalidField, wire::v1 as wire};

/// Largest distance between a place and its reading in GCJ-02, metres.
const OFFSET_M_MAX: f64 = 750.0;
/// Distance from the rim of the rectangle within which a place has two readings, metres.
const RIM_M: f64 = 1_000.0;
/// Largest stretch between places and their readings, and a part that does not depend on distance.
const STRETCH_MAX: f64 = 1.009;
const STRETCH_M: f64 = 1.0;
/// A disc of a larger radius is not stretched: its radius grows by the offset, which is less.
const LARGE_M: f64 = 50_000.0;
/// Metres of one degree of latitude, rounded down.
const DEGREE_M_MIN: f64 = 110_500.0;
/// Rectangle in which the offset applies: the middle and the half extent, degrees.
const MIDDLE: Degrees = Degrees { lat: (0.8293 + 55.8271) / 2.0, lng: (72.004 + 137.8347) / 2.0 };
const HALF: Degrees = Degrees { lat: (55.8271 - 0.8293) / 2.0, lng: (137.8347 - 72.004) / 2.0 };
/// Semi-major axis (metres) and first eccentricity squared of Krasovsky's ellipsoid.
const KRASOVSKY: (f64, f64) = (6_378_245.0, 0.006_693_421_622_965_943);

/// Meaning of a latitude and a longitude.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Datum {
    /// The datum of GPS receivers, of H3 cells and of everything that Clarion stores.
    #[default]
    Wgs84,
    /// The datum of maps of mainland China.
    Gcj02,
}

/// A latitude and a longitude in some datum. `Debug` does not print them.
#[derive(Clone, Copy, PartialEq)]
pub struct Degrees {
    /// Latitude in degrees, -90 to 90.
    pub lat: f64,
    /// Longitude in degrees, -180 to 180.
    pub lng: f64,
}

impl std::fmt::Debug for Degrees {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Degrees(..)")
    }
}

impl Datum {
    /// Problem with a datum that is given beside cells.
    pub const OF_CELLS: &str = "must be DATUM_WGS84 or not set: cells are sets of points on WGS-84; \
                                got DATUM_GCJ02";

    /// Checks the datum of a message; `None`: not set.
    ///
    /// # Errors
    /// The number is no datum.
    pub fn from_wire(number: i32, field: &str) -> Result<Option<Self>, InvalidField> {
        match wire::Datum::try_from(number) {
            Ok(wire::Datum::Unspecified) => Ok(None),
            Ok(wire::Datum::Wgs84) => Ok(Some(Self::Wgs84)),
            Ok(wire::Datum::Gcj02) => Ok(Some(Self::Gcj02)),
            Err(_) => Err(InvalidField::new(
                field,
                format_args!("must be DATUM_WGS84 (1), DATUM_GCJ02 (2) or not set; got {number}"),
            )),
        }
    }

    /// Converts a point of this datum to WGS-84, exact to 1e-9 degrees.
    #[must_use]
    pub fn to_wgs84(self, given: Degrees) -> Degrees {
        if self == Self::Wgs84 || !is_offset(given) {
            return given;
        }
        // The offset changes by less than 0.9 % of a step, so each round gains two digits, and
        // seven rounds lead from 0.01 to below 1e-15 degrees.
        let mut place = given;
        for _ in 0..7 {
            let reading = offset(place);
            place.lat += given.lat - reading.lat;
            place.lng += given.lng - reading.lng;
        }
        place
    }

    /// The readings of a place of WGS-84 in this datum; two near the rim of the rectangle.
    ///
    /// All readings of the places within `radius_m` of the place are within
    /// [`Datum::spread_m`] of one of these.
    pub fn readings(self, place: Degrees, radius_m: f64) -> impl Iterator<Item = Degrees> {
        let (plain, moved) = match self {
            Self::Wgs84 => (true, false),
            Self::Gcj02 if radius_m > LARGE_M => (true, false),
            Self::Gcj02 => {
                let reach = reach(place, radius_m + RIM_M);
                let (lat, lng) = from_middle(place);
                let is_within = |sign: f64| {
                    lat <= HALF.lat + sign * reach.lat && lng <= HALF.lng + sign * reach.lng
                };
                (!is_within(-1.0), is_within(1.0))
            }
        };
        let plain = plain.then_some(place);
        plain.into_iter().chain(moved.then(|| offset(place)))
    }

    /// Radius of the discs around [`Datum::readings`] that hold the readings of a disc of places.
    #[must_use]
    pub fn spread_m(self, radius_m: f64) -> f64 {
        match self {
            Self::Wgs84 => radius_m,
            Self::Gcj02 if radius_m > LARGE_M => radius_m + OFFSET_M_MAX,
            Self::Gcj02 => STRETCH_MAX * radius_m + STRETCH_M,
        }
    }

    /// Largest distance on the ground between places whose readings are that far from each other.
    #[must_use]
    pub fn ground_m(self, reading_m: f64) -> f64 {
        match self {
            Self::Wgs84 => reading_m,
            Self::Gcj02 if reading_m > LARGE_M => reading_m + 2.0 * OFFSET_M_MAX,
            Self::Gcj02 => STRETCH_MAX * reading_m + STRETCH_M,
        }
    }
}

/// Distances from the middle of the rectangle, degrees, the shorter way around in longitude.
fn from_middle(place: Degrees) -> (f64, f64) {
    let lng = (place.lng - MIDDLE.lng + 180.0).rem_euclid(360.0) - 180.0;
    ((place.lat - MIDDLE.lat).abs(), lng.abs())
}

fn is_offset(place: Degrees) -> bool {
    let (lat, lng) = from_middle(place);
    lat <= HALF.lat && lng <= HALF.lng
}

/// Degrees that a distance reaches at most, at a place and around it.
fn reach(place: Degrees, distance_m: f64) -> Degrees {
    let lat = distance_m / DEGREE_M_MIN;
    let cos = (place.lat.abs() + lat).min(89.9).to_radians().cos();
    Degrees { lat, lng: lat / cos }
}

/// The reading of a place with the offset, also outside of the rectangle.
fn offset(place: Degrees) -> Degrees {
    let (x, y) = (place.lng - 105.0, place.lat - 35.0);
    let waves = |of: f64, waves: [(f64, f64); 2]| -> f64 {
        waves.iter().map(|&(metres, per_turn)| metres * (of * per_turn * PI).sin()).sum::<f64>()
            * 2.0
            / 3.0
    };
    let root = x.abs().sqrt();
    let common = waves(x, [(20.0, 6.0), (20.0, 2.0)]);
    let north = -100.0
        + 2.0 * x
        + 3.0 * y
        + 0.2 * y * y
        + 0.1 * x * y
        + 0.2 * root
        + common
        + waves(y, [(20.0, 1.0), (40.0, 1.0 / 3.0)])
        + waves(y, [(160.0, 1.0 / 12.0), (320.0, 1.0 / 30.0)]);
    let east = 300.0
        + x
        + 2.0 * y
        + 0.1 * x * x
        + 0.1 * x * y
        + 0.1 * root
        + common
        + waves(x, [(20.0, 1.0), (40.0, 1.0 / 3.0)])
        + waves(x, [(150.0, 1.0 / 12.0), (300.0, 1.0 / 30.0)]);
    let (axis_m, e2) = KRASOVSKY;
    let (sin, cos) = place.lat.to_radians().sin_cos();
    let w2 = 1.0 - e2 * sin * sin;
    let w = w2.sqrt();
    Degrees {
        lat: place.lat + (north * w2 * w / (axis_m * (1.0 - e2))).to_degrees(),
        lng: place.lng + (east * w / (axis_m * cos)).to_degrees(),
    }
}

#[cfg(test)]
mod tests;
