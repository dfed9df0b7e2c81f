//! A point on the earth, and the operations on a sphere that place devices.
//!
//! Placing may use a sphere, because the resulting place *is* the device's exact place. The verdict
//! may not: its distances are geodesics on WGS-84, see `verdict::geometry`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Mean radius of the earth, metres (IUGG R1).
pub const EARTH_RADIUS_M: f64 = 6_371_008.8;

/// A point on WGS-84, degrees. `Debug` does not print the place: a device's exact place never
/// reaches a log.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Latitude, -90 to 90 degrees.
    pub latitude: f64,
    /// Longitude, -180 to 180 degrees.
    pub longitude: f64,
}

impl Place {
    /// Creates a point; longitudes are converted to -180 to 180.
    #[must_use]
    pub fn new(latitude: f64, longitude: f64) -> Self {
        Self { latitude, longitude: wrap(longitude) }
    }

    /// Reports whether both coordinates are finite and in range.
    #[must_use]
    pub fn is_valid(self) -> bool {
        (-90.0..=90.0).contains(&self.latitude) && (-180.0..=180.0).contains(&self.longitude)
    }

    /// Returns the place `meters` away in direction `bearing` (radians from north, clockwise) on
    /// the sphere.
    #[must_use]
    pub fn toward(self, bearing: f64, meters: f64) -> Self {
        let (sin_lat, cos_lat) = self.latitude.to_radians().sin_cos();
        let (sin_d, cos_d) = (meters / EARTH_RADIUS_M).sin_cos();
        let sin_lat2 = (sin_lat * cos_d + cos_lat * sin_d * bearing.cos()).clamp(-1.0, 1.0);
        let east = bearing.sin() * sin_d * cos_lat;
        let north = cos_d - sin_lat * sin_lat2;
        Self::new(sin_lat2.asin().to_degrees(), self.longitude + east.atan2(north).to_degrees())
    }

    /// Returns the initial direction to another place on the sphere, radians from north, clockwise.
    #[must_use]
    pub fn bearing(self, other: Self) -> f64 {
        let (sin_lat, cos_lat) = self.latitude.to_radians().sin_cos();
        let (sin_lat2, cos_lat2) = other.latitude.to_radians().sin_cos();
        let (sin_lng, cos_lng) = (other.longitude - self.longitude).to_radians().sin_cos();
        (sin_lng * cos_lat2).atan2(cos_lat * sin_lat2 - sin_lat * cos_lat2 * cos_lng)
    }

    /// Rounds to 1e-7 degrees, a centimetre, so that the sines of other machines give the same
    /// place.
    #[must_use]
    pub fn rounded(self) -> Self {
        let e7 = |degrees: f64| (degrees * 1e7).round() / 1e7;
        Self { latitude: e7(self.latitude), longitude: e7(self.longitude) }
    }

    /// Returns the distance on the sphere, metres: within 0.6 % of the geodesic, for coarse choices
    /// only.
    #[must_use]
    pub fn spherical_distance(self, other: Self) -> f64 {
        let (lat1, lat2) = (self.latitude.to_radians(), other.latitude.to_radians());
        let half_lat = ((lat2 - lat1) / 2.0).sin();
        let half_lng = ((other.longitude - self.longitude).to_radians() / 2.0).sin();
        let h = half_lat * half_lat + lat1.cos() * lat2.cos() * half_lng * half_lng;
        2.0 * EARTH_RADIUS_M * h.sqrt().min(1.0).asin()
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place(..)")
    }
}

/// Converts a longitude, or a difference of two, to -180 to 180 degrees.
#[must_use]
pub fn wrap(degrees: f64) -> f64 {
    if (-180.0..=180.0).contains(&degrees) {
        degrees
    } else {
        (degrees + 180.0).rem_euclid(360.0) - 180.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn going_and_measuring_agree() {
        for start in [
            Place::new(22.5, 114.0),
            Place::new(-17.0, 179.9),
            Place::new(89.99, 10.0),
            Place::new(90.0, 0.0),
        ] {
            for step in 0..16 {
                let bearing = f64::from(step) * std::f64::consts::TAU / 16.0;
                let end = start.toward(bearing, 50_000.0);
                assert!(end.is_valid());
                assert!((start.spherical_distance(end) - 50_000.0).abs() < 0.5, "step {step}");
                // From a pole every direction is the same one.
                let again = start.toward(start.bearing(end), 50_000.0);
                assert!(
                    start.latitude == 90.0 || again.spherical_distance(end) < 0.5,
                    "step {step}"
                );
            }
        }
    }

    #[test]
    fn longitudes_wrap_at_the_antimeridian() {
        assert_eq!(wrap(181.0), -179.0);
        assert_eq!(wrap(-190.0), 170.0);
        assert_eq!(wrap(180.0), 180.0);
    }

    #[test]
    fn debug_keeps_the_place_to_itself() {
        assert_eq!(format!("{:?}", Place::new(1.5, 2.5)), "Place(..)");
    }
}
