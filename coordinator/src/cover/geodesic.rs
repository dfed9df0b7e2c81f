//! Distances on WGS-84: cheap bounds first, exact figures where the bounds do not decide.

use std::f64::consts::PI;

use geographiclib_rs::{Geodesic, InverseGeodesic};

/// Semi-major axis of WGS-84, metres.
pub(super) const A: f64 = 6_378_137.0;
/// Flattening of WGS-84.
const F: f64 = 1.0 / 298.257_223_563;
/// First eccentricity squared.
pub(super) const E2: f64 = F * (2.0 - F);

/// A point on WGS-84, in degrees of latitude and longitude.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Point {
    pub(crate) lat_deg: f64,
    pub(crate) lng_deg: f64,
}

/// Geodesic distance of two points, metres (Karney's algorithm, exact to some nanometres).
#[must_use]
pub fn distance_m(from_lat_deg: f64, from_lng_deg: f64, to_lat_deg: f64, to_lng_deg: f64) -> f64 {
    // Series coefficients of the ellipsoid: made once, some microseconds.
    static WGS84: std::sync::LazyLock<Geodesic> = std::sync::LazyLock::new(Geodesic::wgs84);
    WGS84.inverse(from_lat_deg, from_lng_deg, to_lat_deg, to_lng_deg)
}

/// A fixed point, from which distances are bounded (some 60 ns) or computed exactly (1 µs).
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) point: Point,
    /// Reduced latitude: sine and cosine.
    sin_beta: f64,
    cos_beta: f64,
    lng_rad: f64,
}

impl Origin {
    pub(crate) fn new(point: Point) -> Self {
        let (sin_beta, cos_beta) = reduced(point.lat_deg);
        Self { point, sin_beta, cos_beta, lng_rad: point.lng_deg.to_radians() }
    }

    /// A lower and an upper bound of the distance, metres.
    ///
    /// Lambert's formula on reduced latitudes: the great circle with a first-order correction for
    /// the flattening. Its error is of second order in the flattening, 1.1e-5 of the distance, and
    /// grows towards the antipode; bounds of 6e-5 and 1 m hold up to 10,000 km (property test).
    /// Beyond 10,000 km the bound is 0.6 %, the error of a sphere.
    pub(crate) fn bounds_m(&self, to: Point) -> (f64, f64) {
        let (sin_beta, cos_beta) = reduced(to.lat_deg);
        let half_lng = (to.lng_deg.to_radians() - self.lng_rad) / 2.0;
        // Haversine: sin² of half the angle; half the difference of β through sines and cosines,
        // which stays exact for near points.
        let sin_half_lng = half_lng.sin();
        let cos_difference = self.cos_beta * cos_beta + self.sin_beta * sin_beta;
        let sin_difference = sin_beta * self.cos_beta - cos_beta * self.sin_beta;
        // sin²(Δβ/2) = (1 - cos Δβ) / 2, written without cancellation as sin²Δβ / (2 (1 + cos Δβ))
        let sin2_half_beta =
            sin_difference * sin_difference / (2.0 * (1.0 + cos_difference)).max(f64::MIN_POSITIVE);
        let h = (sin2_half_beta + self.cos_beta * cos_beta * sin_half_lng * sin_half_lng)
            .clamp(0.0, 1.0);
        let sigma = 2.0 * h.sqrt().asin();
        if sigma * A > 10_000_000.0 {
            let sphere = sigma * A;
            return (sphere * (1.0 - 0.006), sphere * (1.0 + 0.006));
        }
        let sin_sigma = sigma.sin();
        let correction = if h > 0.0 {
            let sum = self.sin_beta + sin_beta;
            let difference = self.sin_beta - sin_beta;
            // sin²P cos²Q = sum²/4 and cos²P sin²Q = difference²/4, with P and Q the half sum and
            // half difference of β.
            let x = (sigma - sin_sigma) * (sum * sum / 4.0) / (1.0 - h);
            let y = (sigma + sin_sigma) * (difference * difference / 4.0) / h;
            F / 2.0 * (x + y)
        } else {
            0.0
        };
        let distance = A * (sigma - correction);
        let error = 6e-5 * distance + 1.0;
        ((distance - error).max(0.0), distance + error)
    }

    pub(crate) fn exact_m(&self, to: Point) -> f64 {
        distance_m(self.point.lat_deg, self.point.lng_deg, to.lat_deg, to.lng_deg)
    }
}

/// Sine and cosine of the reduced latitude: tan β = (1 - f) tan φ.
fn reduced(lat_deg: f64) -> (f64, f64) {
    let (sin, cos) = lat_deg.to_radians().sin_cos();
    let scaled = (1.0 - F) * sin;
    let norm = (scaled * scaled + cos * cos).sqrt();
    (scaled / norm, cos / norm)
}

/// Metres of one degree of latitude and of one degree of longitude, at a latitude.
pub(crate) fn metres_per_degree(lat_deg: f64) -> (f64, f64) {
    let (sin, cos) = lat_deg.to_radians().sin_cos();
    let w2 = 1.0 - E2 * sin * sin;
    let w = w2.sqrt();
    (A * (1.0 - E2) / (w2 * w) * PI / 180.0, A / w * cos * PI / 180.0)
}

/// Distance in metres of two points that are some hundreds of metres apart.
///
/// Uses the metric at the points' middle latitude, which is wrong by less than a millionth there;
/// near a pole, where meridians converge, computes the exact distance.
pub(crate) fn short_distance_m(a: Point, b: Point) -> f64 {
    if a.lat_deg.abs() > 80.0 {
        return distance_m(a.lat_deg, a.lng_deg, b.lat_deg, b.lng_deg);
    }
    let (per_lat, per_lng) = metres_per_degree((a.lat_deg + b.lat_deg) / 2.0);
    let dlng = (b.lng_deg - a.lng_deg + 180.0).rem_euclid(360.0) - 180.0;
    (per_lat * (b.lat_deg - a.lat_deg)).hypot(per_lng * dlng)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn the_bounds_hold(lat in -90.0..90.0f64, lng in -180.0..180.0f64, lat2 in -90.0..90.0f64, lng2 in -180.0..180.0f64,
                           nearness in 0.0..1.0f64) {
            // from neighbours to the other side of the earth
            let near = nearness.powi(4);
            let to = Point { lat_deg: lat + (lat2 - lat) * near, lng_deg: lng + (lng2 - lng) * near };
            let origin = Origin::new(Point { lat_deg: lat, lng_deg: lng });
            let (low, high) = origin.bounds_m(to);
            let exact = origin.exact_m(to);
            prop_assert!(low <= exact && exact <= high, "{low} <= {exact} <= {high}");
            if exact < 1_000_000.0 {
                prop_assert!(high - low < 150.0);
            }
        }

        #[test]
        fn short_distances_are_true(lat in -89.9..89.9f64, lng in -180.0..180.0f64, dlat in -0.002..0.002f64, dlng in -0.002..0.002f64) {
            let a = Point { lat_deg: lat, lng_deg: lng };
            let b = Point { lat_deg: lat + dlat, lng_deg: lng + dlng };
            let exact = distance_m(a.lat_deg, a.lng_deg, b.lat_deg, b.lng_deg);
            prop_assert!((short_distance_m(a, b) - exact).abs() <= 1e-6 * exact + 1e-6);
        }
    }
}
