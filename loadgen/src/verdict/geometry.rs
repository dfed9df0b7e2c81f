//! The devices inside a region, computed independently of the coordinator.
//!
//! The coordinator covers regions with H3 cells and Karney's geodesic. A verdict that used the same
//! code would share its mistakes. So distances here are Vincenty's inverse formula on WGS-84 (exact
//! to a millimetre except for nearly antipodal points), and polygons are tested by crossings. The
//! meaning is the contract's: a circle is all points within the geodesic distance; a polygon's
//! edges are straight in longitude and latitude, each the shorter way in longitude.

use geo::{Distance, VincentyDistance};

use crate::{
    place::{Place, wrap},
    scenario::RegionSpec,
};

/// Equatorial radius of WGS-84, metres.
const EQUATORIAL_RADIUS_M: f64 = 6_378_137.0;
/// First eccentricity of WGS-84 squared: f(2 - f) with f = 1/298.257223563.
const ECCENTRICITY_SQUARED: f64 = 6.694_379_990_141_317e-3;

/// Returns the geodesic distance on WGS-84, metres.
#[must_use]
pub fn distance_meters(a: Place, b: Place) -> f64 {
    let (a, b) =
        (geo::Point::new(a.longitude, a.latitude), geo::Point::new(b.longitude, b.latitude));
    // Vincenty's formula does not converge for nearly antipodal points, and for one point written
    // in two ways (a pole, ±180°).
    a.vincenty_distance(&b).unwrap_or_else(|_| geo::Geodesic.distance(a, b))
}

/// A region prepared for queries.
#[derive(Debug, Clone)]
pub struct Region(Shape);

#[derive(Debug, Clone)]
enum Shape {
    Circle { center: Place, radius_meters: f64 },
    Polygon { outer: Ring, holes: Vec<Ring> },
}

/// A closed ring with continuous longitudes: no edge jumps at ±180°, so values may leave that
/// range.
#[derive(Debug, Clone)]
struct Ring {
    /// Longitude and latitude of each point; the last equals the first.
    points: Vec<(f64, f64)>,
}

impl Region {
    /// Prepares the region of a scenario.
    #[must_use]
    pub fn new(spec: &RegionSpec) -> Self {
        Self(match spec {
            RegionSpec::Circle { center, radius_meters } => {
                Shape::Circle { center: *center, radius_meters: *radius_meters }
            }
            RegionSpec::Polygon { outer, holes } => Shape::Polygon {
                outer: Ring::new(outer),
                holes: holes.iter().map(|h| Ring::new(h)).collect(),
            },
        })
    }

    /// Returns the distance of a place from the region, metres; 0 if it is inside.
    ///
    /// The distance is exact to a millimetre for circles. For polygons it is exact within some
    /// kilometres of an edge; farther out the value only means "far".
    #[must_use]
    pub fn outside_meters(&self, place: Place) -> f64 {
        match &self.0 {
            Shape::Circle { center, radius_meters } => {
                (distance_meters(*center, place) - radius_meters).max(0.0)
            }
            Shape::Polygon { outer, holes } => {
                if !outer.contains(place) {
                    return outer.distance_meters(place);
                }
                holes
                    .iter()
                    .filter(|h| h.contains(place))
                    .map(|h| h.distance_meters(place))
                    .fold(0.0, f64::max)
            }
        }
    }

    /// Reports whether a disc around `center` touches the region: the test of a cell's
    /// circumscribed circle.
    #[must_use]
    pub fn touches(&self, center: Place, radius: f64) -> bool {
        match &self.0 {
            Shape::Circle { center: middle, radius_meters } => {
                distance_meters(*middle, center) <= radius_meters + radius
            }
            Shape::Polygon { outer, holes } => {
                (outer.contains(center) || outer.distance_meters(center) <= radius)
                    // A disc completely within a hole does not reach the region.
                    && !holes.iter().any(|h| h.contains(center) && h.distance_meters(center) > radius)
            }
        }
    }
}

impl Ring {
    fn new(points: &[Place]) -> Self {
        let mut out: Vec<(f64, f64)> = Vec::with_capacity(points.len() + 1);
        for point in points {
            let longitude =
                out.last().map_or(point.longitude, |(last, _)| last + wrap(point.longitude - last));
            out.push((longitude, point.latitude));
        }
        if let (Some(first), Some(last)) = (out.first().copied(), out.last().copied())
            && first != last
        {
            out.push(first);
        }
        Self { points: out }
    }

    /// Counts crossings of the meridian half-line north of the place, in each copy of the world in
    /// which the ring may be.
    fn contains(&self, place: Place) -> bool {
        [-360.0, 0.0, 360.0].iter().any(|turn| {
            let (x, y) = (place.longitude + turn, place.latitude);
            let crossings = self.edges().filter(|((x1, y1), (x2, y2))| {
                (x1 > &x) != (x2 > &x) && y < y1 + (x - x1) / (x2 - x1) * (y2 - y1)
            });
            crossings.count() % 2 == 1
        })
    }

    /// Returns the distance to the nearest edge in the plane that touches the ellipsoid at the
    /// place, metres. The error is about d²/R, some decimetres at a kilometre. A line that is
    /// straight in longitude and latitude is straight in that plane.
    fn distance_meters(&self, place: Place) -> f64 {
        let (sin, cos) = place.latitude.to_radians().sin_cos();
        let w = 1.0 - ECCENTRICITY_SQUARED * sin * sin;
        let north =
            EQUATORIAL_RADIUS_M * (1.0 - ECCENTRICITY_SQUARED) / (w * w.sqrt()) * 1f64.to_radians();
        let east = EQUATORIAL_RADIUS_M / w.sqrt() * cos * 1f64.to_radians();
        let nearest = self.edges().map(|((x1, y1), (x2, y2))| {
            // The copy of the edge that is nearest to the place.
            let turn = wrap(x1 - place.longitude) - (x1 - place.longitude);
            let a = ((x1 + turn - place.longitude) * east, (y1 - place.latitude) * north);
            let b = ((x2 + turn - place.longitude) * east, (y2 - place.latitude) * north);
            to_segment(a, b)
        });
        nearest.fold(f64::INFINITY, f64::min)
    }

    fn edges(&self) -> impl Iterator<Item = ((f64, f64), (f64, f64))> + '_ {
        self.points.windows(2).map(|w| (w[0], w[1]))
    }
}

/// Returns the distance from the origin to the segment from `a` to `b`.
fn to_segment(a: (f64, f64), b: (f64, f64)) -> f64 {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let square = dx * dx + dy * dy;
    let t = if square > 0.0 { (-(a.0 * dx + a.1 * dy) / square).clamp(0.0, 1.0) } else { 0.0 };
    (a.0 + t * dx).hypot(a.1 + t * dy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_distances() {
        // Flinders Peak to Buninyong, the worked example of Geoscience Australia; a degree along
        // the equator is a·π/180; a degree of latitude from the equator and the quarter of a
        // meridian are in every table of WGS-84.
        let cases = [
            (
                (-37.951_033_416_666_67, 144.424_867_888_888_9),
                (-37.652_821_138_888_89, 143.926_495_527_777_8),
                54_972.271,
            ),
            ((0.0, 0.0), (0.0, 1.0), 111_319.491),
            ((0.0, 0.0), (1.0, 0.0), 110_574.389),
            ((0.0, 7.0), (90.0, 7.0), 10_001_965.729),
        ];
        for ((lat1, lng1), (lat2, lng2), meters) in cases {
            let d = distance_meters(Place::new(lat1, lng1), Place::new(lat2, lng2));
            assert!((d - meters).abs() < 0.01, "{d} instead of {meters}");
        }
    }

    #[test]
    fn agrees_with_karney_everywhere() {
        let mut draws = crate::population::draws::Draws::new(1, 0, 0);
        for _ in 0..2_000 {
            let from = Place::new(
                (1.0 - 2.0 * draws.unit()).asin().to_degrees(),
                draws.unit() * 360.0 - 180.0,
            );
            let to = from.toward(
                draws.unit() * std::f64::consts::TAU,
                draws.unit() * draws.unit() * 10_000_000.0,
            );
            let (a, b) = (
                geo::Point::new(from.longitude, from.latitude),
                geo::Point::new(to.longitude, to.latitude),
            );
            let karney = geo::Geodesic.distance(a, b);
            let ours = distance_meters(from, to);
            assert!((ours - karney).abs() < 0.001, "{ours} and {karney}");
        }
    }

    #[test]
    fn one_point_written_in_two_ways_is_at_no_distance() {
        assert!(
            distance_meters(Place::new(10.0, 180.0), Place { latitude: 10.0, longitude: -180.0 })
                < 1e-6
        );
        assert!(distance_meters(Place::new(90.0, 0.0), Place::new(90.0, 77.0)) < 1e-6);
    }

    fn polygon(outer: &[(f64, f64)], holes: &[&[(f64, f64)]]) -> Region {
        let ring = |points: &[(f64, f64)]| {
            points.iter().map(|(lat, lng)| Place::new(*lat, *lng)).collect::<Vec<_>>()
        };
        Region::new(&RegionSpec::Polygon {
            outer: ring(outer),
            holes: holes.iter().map(|h| ring(h)).collect(),
        })
    }

    #[test]
    fn polygons_have_holes_and_inward_corners() {
        let region = polygon(
            &[(0.0, 0.0), (0.0, 2.0), (1.0, 1.0), (2.0, 2.0), (2.0, 0.0)],
            &[&[(0.4, 0.4), (0.4, 0.6), (0.6, 0.6), (0.6, 0.4)]],
        );
        let inside = |lat, lng| region.outside_meters(Place::new(lat, lng)) == 0.0;
        assert!(inside(0.2, 0.2) && inside(0.5, 0.7) && inside(1.9, 1.85));
        assert!(!inside(1.0, 1.5), "the corner goes inwards");
        assert!(!inside(0.5, 0.5), "the hole");
        // From the middle of the hole to its edge: 0.1 degrees of longitude at 0.5 degrees north,
        // or of latitude.
        let out = region.outside_meters(Place::new(0.5, 0.5));
        assert!((out - 11_057.0).abs() < 3.0, "{out}");
        // A disc in the hole: completely within, or reaching out of it.
        assert!(!region.touches(Place::new(0.5, 0.5), 11_000.0));
        assert!(region.touches(Place::new(0.5, 0.5), 11_100.0));
        assert!(region.touches(Place::new(-0.001, 0.5), 111.0));
        assert!(!region.touches(Place::new(-0.001, 0.5), 110.0));
    }

    #[test]
    fn polygons_cross_the_antimeridian() {
        let region = polygon(&[(-1.0, 179.0), (-1.0, -179.0), (1.0, -179.0), (1.0, 179.0)], &[]);
        for longitude in [179.5, 180.0, -180.0, -179.5] {
            assert_eq!(
                region.outside_meters(Place { latitude: 0.0, longitude }),
                0.0,
                "{longitude}"
            );
        }
        for longitude in [178.9, -178.9, 0.0] {
            assert!(region.outside_meters(Place::new(0.0, longitude)) > 10_000.0, "{longitude}");
        }
        let out = region.outside_meters(Place::new(0.0, -178.99));
        assert!((out - 1_113.195).abs() < 0.5, "{out}");
    }

    #[test]
    fn circles_reach_across_the_pole() {
        let region = Region::new(&RegionSpec::Circle {
            center: Place::new(89.5, 45.0),
            radius_meters: 120_000.0,
        });
        assert_eq!(region.outside_meters(Place::new(90.0, 0.0)), 0.0);
        assert_eq!(region.outside_meters(Place::new(89.5, -135.0)), 0.0);
        assert!(region.outside_meters(Place::new(89.3, -135.0)) > 1_000.0);
    }
}
