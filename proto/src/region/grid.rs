//! The grid of a polygon's points, on which every decision about the polygon is exact.
//!
//! A grid unit is 1e-7 degrees, at most 1.1 cm. Two points of one place, published with different
//! last digits, are one grid point, and no verdict depends on the noise of floating-point numbers.

use crate::error::InvalidField;

/// Grid units of one degree.
pub(super) const DEGREE: i64 = 10_000_000;
/// Grid units of one full turn of longitude.
pub(super) const TURN: i64 = 360 * DEGREE;
/// Largest absolute longitude of a point of a region, degrees.
pub(super) const LNG_DEG_MAX: f64 = 360.0;
/// Two edges that cross by less than this, in grid units, only touch each other: snapping moves
/// each point by up to 0.7 units.
const TOUCH_UNITS: u128 = 2;

/// Point of a polygon in grid units. `Debug` does not print the point.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct GridPoint {
    /// Longitude in units of 1e-7 degrees; unwrapped, so it may be outside -180 to 180 degrees.
    pub(super) lng: i64,
    /// Latitude in units of 1e-7 degrees.
    pub(super) lat: i64,
}

/// Straight line in longitude and latitude between two points of a ring.
pub type Edge = (GridPoint, GridPoint);

impl GridPoint {
    /// Converts a given point to the grid. The grid is of the region's datum.
    ///
    /// # Errors
    /// The latitude is beyond 90 degrees, or the longitude beyond 360 degrees.
    pub(super) fn snapped(lat_deg: f64, lng_deg: f64) -> Result<Self, InvalidField> {
        super::in_range("latitude", lat_deg, 90.0)?;
        super::in_range("longitude", lng_deg, LNG_DEG_MAX)?;
        Ok(Self::nearest(lat_deg, lng_deg))
    }

    /// Grid point that is nearest to a place of at most 360 degrees of longitude.
    pub(super) fn nearest(lat_deg: f64, lng_deg: f64) -> Self {
        #[allow(clippy::cast_possible_truncation)] // at most 3.6e9
        let units = |degrees: f64| (degrees * DEGREE as f64).round() as i64;
        Self { lng: units(lng_deg), lat: units(lat_deg) }
    }

    /// Latitude in degrees, -90 to 90.
    #[must_use]
    pub fn lat_deg(self) -> f64 {
        self.lat as f64 / DEGREE as f64
    }

    /// Unwrapped longitude in degrees; may be outside -180 to 180.
    #[must_use]
    pub fn lng_deg(self) -> f64 {
        self.lng as f64 / DEGREE as f64
    }

    /// The same place, moved by grid units of longitude.
    pub(super) fn moved(self, lng: i64) -> Self {
        Self { lng: self.lng + lng, lat: self.lat }
    }

    /// Text for the caller who gave the point: latitude and longitude, within 180 degrees.
    pub(super) fn shown(self) -> String {
        let lng = (self.lng + TURN / 2).rem_euclid(TURN) - TURN / 2;
        format!("({}, {})", self.lat_deg(), lng as f64 / DEGREE as f64)
    }
}

impl std::fmt::Debug for GridPoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GridPoint(..)")
    }
}

/// Twice the area of the triangle of an edge and a point: positive if the point lies to the left
/// of the edge, 0 if it lies on the line through the edge.
///
/// An edge is at most 3.6e9 units long in longitude and 1.8e9 in latitude, so the result is below
/// 1.3e19, and its square fits into `u128`.
pub(super) fn side(edge: Edge, point: GridPoint) -> i128 {
    let (from, to) = edge;
    i128::from(to.lng - from.lng) * i128::from(point.lat - from.lat)
        - i128::from(to.lat - from.lat) * i128::from(point.lng - from.lng)
}

/// Whether a point is so near to the line through an edge that it counts as a point of the line.
pub(super) fn is_near_line(edge: Edge, point: GridPoint) -> bool {
    let (lng, lat) = ((edge.1.lng - edge.0.lng).unsigned_abs(), edge.1.lat - edge.0.lat);
    let length2 = u128::from(lng) * u128::from(lng) + u128::from(lat.unsigned_abs()).pow(2);
    // distance = |side| / length
    side(edge, point).unsigned_abs().pow(2) < TOUCH_UNITS * TOUCH_UNITS * length2
}

/// Whether the box around an edge holds a point, the rim of the box included.
pub(super) fn box_holds(edge: Edge, point: GridPoint) -> bool {
    let between = |a: i64, b: i64, c: i64| a.min(b) <= c && c <= a.max(b);
    between(edge.0.lng, edge.1.lng, point.lng) && between(edge.0.lat, edge.1.lat, point.lat)
}

/// Where two edges meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meeting {
    /// The edges have no common point.
    Apart,
    /// The edges touch, or cross by less than two grid units.
    Touch,
    /// The edges cross.
    Cross,
}

/// Decides exactly where two edges meet.
pub(super) fn meeting(a: Edge, b: Edge) -> Meeting {
    let (b0, b1, a0, a1) = (side(a, b.0), side(a, b.1), side(b, a.0), side(b, a.1));
    let opposite = |s: i128, t: i128| (s < 0 && t > 0) || (s > 0 && t < 0);
    if opposite(b0, b1) && opposite(a0, a1) {
        let shallow = is_near_line(a, b.0)
            || is_near_line(a, b.1)
            || is_near_line(b, a.0)
            || is_near_line(b, a.1);
        return if shallow { Meeting::Touch } else { Meeting::Cross };
    }
    let touch = (b0 == 0 && box_holds(a, b.0))
        || (b1 == 0 && box_holds(a, b.1))
        || (a0 == 0 && box_holds(b, a.0))
        || (a1 == 0 && box_holds(b, a.1));
    if touch { Meeting::Touch } else { Meeting::Apart }
}

/// The point in which two edges cross, rounded to the grid.
pub(super) fn crossing_point(a: Edge, b: Edge) -> GridPoint {
    let (from, to) = (side(b, a.0), side(b, a.1));
    let share = |from_units: i64, to_units: i64| {
        // The share of the way from a.0 to a.1 is from / (from - to). The quotient is within the
        // edge; f64 is exact enough for a text.
        let way = (to_units - from_units) as f64;
        #[allow(clippy::cast_possible_truncation)] // between the two ends
        let units = (way * (from as f64 / (from - to) as f64)).round() as i64;
        from_units + units
    };
    GridPoint { lng: share(a.0.lng, a.1.lng), lat: share(a.0.lat, a.1.lat) }
}
