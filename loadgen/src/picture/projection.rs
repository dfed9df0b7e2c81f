//! The map projection of the earth around a region to a plane.
//!
//! Azimuthal and equidistant on WGS-84: every point is drawn at its true distance and direction
//! from the middle. A circle of the contract is then a circle of the page, a scale bar holds along
//! every ray, and neither the antimeridian nor a pole is a special case, because longitude is never
//! an axis.

use geo::{Bearing, Destination, Distance, Geodesic, Point};

use super::scale::Linear;
use crate::{
    place::{Place, wrap},
    scenario::RegionSpec,
};

/// Width of a map in its own units.
pub(super) const WIDTH: f64 = 640.0;
/// Margin around the drawing, as a share of the larger side.
const MARGIN: f64 = 0.05;
/// Longest step in which edges of rings are drawn, degrees: a line that is straight in longitude
/// and latitude is curved on the page.
const EDGE_STEP_DEGREES: f64 = 0.1;
/// Most steps of one edge.
const EDGE_STEPS_MAX: f64 = 200.0;

/// Coordinates east and north of the middle, metres.
pub(super) type Plane = (f64, f64);

/// Projection around a place in the middle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Projection {
    middle: Point<f64>,
}

impl Projection {
    pub(super) fn around(middle: Place) -> Self {
        Self { middle: point(middle) }
    }

    pub(super) fn project(&self, place: Place) -> Plane {
        let meters = Geodesic.distance(self.middle, point(place));
        // The middle itself has no direction.
        if meters < 1e-6 {
            return (0.0, 0.0);
        }
        let (east, north) = Geodesic.bearing(self.middle, point(place)).to_radians().sin_cos();
        (meters * east, meters * north)
    }

    /// Returns the place at a direction (degrees from north, clockwise) and a distance from the
    /// middle.
    pub(super) fn ray(&self, bearing: f64, meters: f64) -> Place {
        let end = Geodesic.destination(self.middle, bearing, meters);
        Place::new(end.y(), end.x())
    }
}

fn point(place: Place) -> Point<f64> {
    Point::new(place.longitude, place.latitude)
}

/// Part of the plane on a map: x to the right, y down, in the map's own units.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    x: Linear,
    y: Linear,
    /// Units of the page per metre.
    pub(super) per_meter: f64,
    /// Height of the map, units of the page.
    pub(super) height: f64,
}

impl Frame {
    /// Creates the frame around points of the plane.
    pub(super) fn around(points: impl Iterator<Item = Plane>) -> Self {
        let none = (f64::INFINITY, f64::NEG_INFINITY);
        let (x, y) = points.fold((none, none), |(x, y), p| {
            ((x.0.min(p.0), x.1.max(p.0)), (y.0.min(p.1), y.1.max(p.1)))
        });
        // Without points the frame is a square kilometre.
        let (x, y) = if x.0 <= x.1 { (x, y) } else { ((-500.0, 500.0), (-500.0, 500.0)) };
        let largest = (x.1 - x.0).max(y.1 - y.0).max(100.0);
        let margin = largest * MARGIN;
        // Neither so flat nor so tall that it would not fit a screen.
        let widen = |(low, high): (f64, f64), least: f64| {
            let more = ((least - (high - low)) / 2.0).max(0.0) + margin;
            (low - more, high + more)
        };
        let (x, y) = (widen(x, largest * 0.8), widen(y, largest * 0.55));
        let per_meter = WIDTH / (x.1 - x.0);
        let height = (y.1 - y.0) * per_meter;
        Self {
            x: Linear { from: x, to: (0.0, WIDTH) },
            y: Linear { from: y, to: (height, 0.0) },
            per_meter,
            height,
        }
    }

    pub(super) fn at(&self, (east, north): Plane) -> (f64, f64) {
        (self.x.at(east), self.y.at(north))
    }

    /// Reports whether a place of the page is on the map, and not closer than `margin` to its edge.
    pub(super) fn holds(&self, (x, y): (f64, f64), margin: f64) -> bool {
        (margin..=WIDTH - margin).contains(&x) && (margin..=self.height - margin).contains(&y)
    }
}

/// Returns the middle of a region: a circle's centre, or the mean direction of a polygon's corners.
pub(super) fn middle(region: &RegionSpec) -> Place {
    let corners = match region {
        RegionSpec::Circle { center, .. } => return *center,
        RegionSpec::Polygon { outer, .. } => outer,
    };
    let sum = corners.iter().fold([0.0; 3], |[x, y, z], corner| {
        let (sin_lat, cos_lat) = corner.latitude.to_radians().sin_cos();
        let (sin_lng, cos_lng) = corner.longitude.to_radians().sin_cos();
        [x + cos_lat * cos_lng, y + cos_lat * sin_lng, z + sin_lat]
    });
    Place::new(sum[2].atan2(sum[0].hypot(sum[1])).to_degrees(), sum[1].atan2(sum[0]).to_degrees())
}

/// Returns the rings of a region as closed lines of the plane; the first is the outer one.
pub(super) fn outline(region: &RegionSpec, projection: &Projection) -> Vec<Vec<Plane>> {
    match region {
        RegionSpec::Circle { radius_meters, .. } => {
            let ray =
                |degrees| projection.project(projection.ray(f64::from(degrees), *radius_meters));
            vec![(0..360).step_by(2).map(ray).collect()]
        }
        RegionSpec::Polygon { outer, holes } => {
            std::iter::once(outer).chain(holes).map(|ring| edges(ring, projection)).collect()
        }
    }
}

fn edges(ring: &[Place], projection: &Projection) -> Vec<Plane> {
    let mut out = Vec::new();
    for (from, to) in ring.iter().zip(ring.iter().cycle().skip(1)) {
        let (lng, lat) = (wrap(to.longitude - from.longitude), to.latitude - from.latitude);
        let steps =
            (lng.abs().max(lat.abs()) / EDGE_STEP_DEGREES).ceil().clamp(1.0, EDGE_STEPS_MAX);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 1 to EDGE_STEPS_MAX
        for step in 0..steps as u32 {
            let share = f64::from(step) / steps;
            out.push(
                projection
                    .project(Place::new(from.latitude + share * lat, from.longitude + share * lng)),
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::geometry::distance_meters;

    #[test]
    fn distances_from_the_middle_are_true_everywhere() {
        for middle in [
            Place::new(22.5, 114.0),
            Place::new(-16.8, 179.9),
            Place::new(89.5, 45.0),
            Place::new(90.0, 0.0),
        ] {
            let projection = Projection::around(middle);
            assert_eq!(projection.project(middle), (0.0, 0.0));
            for degrees in (0..360).step_by(15) {
                let place = projection.ray(f64::from(degrees), 120_000.0);
                let (east, north) = projection.project(place);
                assert!((east.hypot(north) - 120_000.0).abs() < 0.01);
                assert!((east.hypot(north) - distance_meters(middle, place)).abs() < 0.01);
                let back = east.atan2(north).to_degrees().rem_euclid(360.0);
                assert!((back - f64::from(degrees)).abs() < 1e-6, "{back} for {degrees}");
            }
        }
    }

    #[test]
    fn the_antimeridian_cuts_nothing() {
        let projection = Projection::around(Place::new(-16.8, 179.9));
        let (west, east) = (
            projection.project(Place::new(-16.8, 179.99)),
            projection.project(Place::new(-16.8, -179.99)),
        );
        assert!(
            (east.0 - west.0 - 2_131.0).abs() < 3.0,
            "two hundredths of a degree apart: {west:?} {east:?}"
        );
    }

    #[test]
    fn north_is_up_and_east_to_the_right() {
        let frame = Frame::around([(-1_000.0, -1_000.0), (1_000.0, 1_000.0)].into_iter());
        let (middle, north, east) =
            (frame.at((0.0, 0.0)), frame.at((0.0, 500.0)), frame.at((500.0, 0.0)));
        assert!(north.1 < middle.1 && east.0 > middle.0);
        assert!(((east.0 - middle.0) - 500.0 * frame.per_meter).abs() < 1e-9);
        assert!(frame.holds(middle, 10.0) && !frame.holds((-1.0, 5.0), 0.0));
    }

    #[test]
    fn a_polygon_across_the_antimeridian_has_its_middle_there() {
        let ring = [(-1.0, 179.0), (-1.0, -179.0), (1.0, -179.0), (1.0, 179.0)];
        let outer: Vec<_> = ring.iter().map(|(lat, lng)| Place::new(*lat, *lng)).collect();
        let region = RegionSpec::Polygon { outer, holes: Vec::new() };
        let middle = middle(&region);
        assert!(middle.latitude.abs() < 1e-9 && (middle.longitude.abs() - 180.0).abs() < 1e-9);
        let rings = outline(&region, &Projection::around(middle));
        assert!(
            rings[0].iter().all(|(x, y)| x.abs() < 112_000.0 && y.abs() < 112_000.0),
            "no edge goes round the world"
        );
    }
}
