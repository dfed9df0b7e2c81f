//! Points, boxes and lines in space: distances without special cases at poles and the antimeridian.
//!
//! Coordinates are metres from the centre of WGS-84. A chord through the earth is never longer than
//! the geodesic between the same points, so a point within a geodesic distance of a line is within
//! that distance in space as well: decisions by chords err outwards only.

use clarion_proto::region::hierarchy::Bounds;

use super::geodesic::{A, E2, Point};

/// A point or a vector in space, metres.
pub(super) type Vector = [f64; 3];

/// The place of a point of WGS-84 in space.
pub(super) fn place(point: Point) -> Vector {
    let (sin_lat, cos_lat) = point.lat_deg.to_radians().sin_cos();
    let (sin_lng, cos_lng) = point.lng_deg.to_radians().sin_cos();
    let normal = A / (1.0 - E2 * sin_lat * sin_lat).sqrt();
    let flat = normal * cos_lat;
    [flat * cos_lng, flat * sin_lng, normal * (1.0 - E2) * sin_lat]
}

/// Square of the distance from a point to a straight line between two points.
pub(super) fn distance2(point: Vector, (a, b): (Vector, Vector)) -> f64 {
    let minus = |p: Vector, q: Vector| [p[0] - q[0], p[1] - q[1], p[2] - q[2]];
    let dot = |p: Vector, q: Vector| p[0] * q[0] + p[1] * q[1] + p[2] * q[2];
    let (along, from) = (minus(b, a), minus(point, a));
    let length2 = dot(along, along);
    let share = if length2 > 0.0 { (dot(from, along) / length2).clamp(0.0, 1.0) } else { 0.0 };
    let off = [0, 1, 2].map(|i| from[i] - share * along[i]);
    dot(off, off)
}

/// A box along the axes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Box3 {
    low: Vector,
    high: Vector,
}

impl Box3 {
    pub(super) fn around(points: impl IntoIterator<Item = Vector>) -> Self {
        let empty = Self { low: [f64::INFINITY; 3], high: [f64::NEG_INFINITY; 3] };
        points.into_iter().fold(empty, |all, p| all.joined(Self { low: p, high: p }))
    }

    /// Length of the longest side, metres.
    pub(super) fn longest_m(&self) -> f64 {
        (0..3).map(|i| self.high[i] - self.low[i]).fold(0.0, f64::max)
    }

    /// Whether the box has a point within a distance of a point.
    pub(super) fn is_within(&self, point: Vector, distance_m: f64) -> bool {
        let off = [0, 1, 2].map(|i| (self.low[i] - point[i]).max(point[i] - self.high[i]).max(0.0));
        off[0] * off[0] + off[1] * off[1] + off[2] * off[2] <= distance_m * distance_m
    }
}

impl Bounds for Box3 {
    fn joined(self, next: Self) -> Self {
        Self {
            low: [0, 1, 2].map(|i| self.low[i].min(next.low[i])),
            high: [0, 1, 2].map(|i| self.high[i].max(next.high[i])),
        }
    }
}
