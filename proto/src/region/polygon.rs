//! Polygons as in GeoJSON: rings of straight edges in longitude and latitude, in either direction.

use super::{Budget, LatLng, PAIRS_MAX, check_count};
use crate::{
    error::{InvalidField, required},
    wire::v1 as wire,
};

/// Minimum number of points of one ring, the closing point included.
const POINTS_MIN: usize = 4;
/// Maximum number of points of one ring, the closing point included.
pub const POINTS_MAX: usize = 10_000;
/// Maximum number of holes of one polygon.
pub const HOLES_MAX: usize = 64;

/// Area inside an outer ring and outside all holes.
#[derive(Debug, Clone, PartialEq)]
pub struct Polygon {
    /// Ring around the whole area.
    pub outer: Ring,
    /// Rings inside the outer ring whose area does not belong to the polygon.
    pub holes: Vec<Ring>,
}

/// Closed ring of unwrapped points, stored without the closing point.
#[derive(Debug, Clone, PartialEq)]
pub struct Ring {
    points: Vec<UnwrappedPoint>,
}

/// Point of a ring. Its longitude may be beyond 180°, but is within 180° of its neighbours'.
#[derive(Clone, Copy, PartialEq)]
pub struct UnwrappedPoint {
    /// Latitude in degrees, -90 to 90.
    pub lat_deg: f64,
    /// Unwrapped longitude in degrees; may be outside -180 to 180.
    pub lng_deg: f64,
}

impl std::fmt::Debug for UnwrappedPoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UnwrappedPoint(..)")
    }
}

impl Ring {
    /// Returns the points, at least three. The last point is not equal to the first.
    #[must_use]
    pub fn points(&self) -> &[UnwrappedPoint] {
        &self.points
    }

    /// Returns the edges, the closing edge included.
    pub fn edges(&self) -> impl Iterator<Item = (UnwrappedPoint, UnwrappedPoint)> + '_ {
        let next = self.points.iter().copied().cycle().skip(1);
        self.points.iter().copied().zip(next)
    }

    fn checked(ring: wire::Ring, budget: &mut Budget) -> Result<Self, InvalidField> {
        check_count("points", ring.points.len(), POINTS_MIN..=POINTS_MAX, "points")?;
        budget.take_points(ring.points.len())?;
        let point = |(i, p)| LatLng::from_wire(p).map_err(|e| e.within(&format!("points[{i}]")));
        let mut given: Vec<LatLng> =
            ring.points.into_iter().enumerate().map(point).collect::<Result<_, _>>()?;
        if given.first() != given.last() {
            let problem = format!(
                "the ring is open: the last of its {} points must be equal to the first",
                given.len()
            );
            return Err(InvalidField::new("points", problem));
        }
        given.pop();

        let mut points: Vec<UnwrappedPoint> = Vec::with_capacity(given.len());
        for (i, p) in given.iter().enumerate() {
            let lng_deg = match points.last() {
                Some(previous) => previous.lng_deg + shorter_way(previous.lng_deg, p.lng_deg(), i)?,
                None => p.lng_deg(),
            };
            points.push(UnwrappedPoint { lat_deg: p.lat_deg(), lng_deg });
        }
        // A ring that does not enclose a pole ends at the longitude at which it began.
        let (first, last) = (points[0].lng_deg, points[points.len() - 1].lng_deg);
        let closing = last + shorter_way(last, first, 0)?;
        if (closing - first).abs() > 1.0 {
            return Err(InvalidField::new("points", "must not enclose a pole; use a circle"));
        }
        let ring = Self { points };
        match ring.crossing(budget) {
            Crossing::At(a, b) => Err(InvalidField::new(
                "points",
                format_args!("the ring crosses itself: edge {a} and edge {b}"),
            )),
            Crossing::Unknown => {
                let problem = format!(
                    "the ring is too complex: checking its edges takes more than {PAIRS_MAX} pairs"
                );
                Err(InvalidField::new("points", problem))
            }
            Crossing::None => Ok(ring),
        }
    }

    /// Finds two edges that cross. Sweeps the edges by their western end, which takes about n log n
    /// steps for real outlines.
    fn crossing(&self, budget: &mut Budget) -> Crossing {
        let edges: Vec<_> = self.edges().collect();
        let west = |i: usize| edges[i].0.lng_deg.min(edges[i].1.lng_deg);
        let east = |i: usize| edges[i].0.lng_deg.max(edges[i].1.lng_deg);
        let mut order: Vec<usize> = (0..edges.len()).collect();
        order.sort_by(|&a, &b| west(a).total_cmp(&west(b)));
        let mut open: Vec<usize> = Vec::new();
        for i in order {
            open.retain(|&j| east(j) >= west(i));
            for &j in &open {
                if !budget.take_pair() {
                    return Crossing::Unknown;
                }
                let neighbours = i.abs_diff(j) == 1 || i.abs_diff(j) == edges.len() - 1;
                if !neighbours && cross(edges[i], edges[j]) {
                    return Crossing::At(i.min(j), i.max(j));
                }
            }
            open.push(i);
        }
        Crossing::None
    }
}

/// Result of the search for two edges that cross.
enum Crossing {
    /// No edges cross.
    None,
    /// The edges with these numbers cross.
    At(usize, usize),
    /// The ring has too many pairs of edges to check.
    Unknown,
}

/// Returns the shorter difference between two longitudes, -180 to 180 degrees.
fn shorter_way(from_deg: f64, to_deg: f64, index: usize) -> Result<f64, InvalidField> {
    let way = (to_deg - from_deg).rem_euclid(360.0);
    #[allow(clippy::float_cmp)] // exactly 180 degrees: neither direction is shorter
    if way == 180.0 {
        let problem = "must not be exactly 180 degrees of longitude from the previous point: \
                       neither direction is shorter";
        return Err(InvalidField::new(format!("points[{index}]"), problem));
    }
    Ok(if way > 180.0 { way - 360.0 } else { way })
}

type Edge = (UnwrappedPoint, UnwrappedPoint);

/// Whether two edges have a common point.
fn cross(a: Edge, b: Edge) -> bool {
    let side = |edge: Edge, p: UnwrappedPoint| {
        (edge.1.lng_deg - edge.0.lng_deg) * (p.lat_deg - edge.0.lat_deg)
            - (edge.1.lat_deg - edge.0.lat_deg) * (p.lng_deg - edge.0.lng_deg)
    };
    let within = |edge: Edge, p: UnwrappedPoint| {
        let between = |x: f64, y: f64, z: f64| x.min(y) <= z && z <= x.max(y);
        between(edge.0.lng_deg, edge.1.lng_deg, p.lng_deg)
            && between(edge.0.lat_deg, edge.1.lat_deg, p.lat_deg)
    };
    let (s0, s1, s2, s3) = (side(a, b.0), side(a, b.1), side(b, a.0), side(b, a.1));
    if s0 * s1 < 0.0 && s2 * s3 < 0.0 {
        return true;
    }
    (s0 == 0.0 && within(a, b.0))
        || (s1 == 0.0 && within(a, b.1))
        || (s2 == 0.0 && within(b, a.0))
        || (s3 == 0.0 && within(b, a.1))
}

impl Polygon {
    /// Checks a polygon of a message.
    ///
    /// # Errors
    /// A ring is open, has too few or too many points, crosses itself or encloses a pole.
    pub fn from_wire(polygon: wire::Polygon) -> Result<Self, InvalidField> {
        Self::checked(polygon, &mut Budget::new())
    }

    pub(super) fn checked(
        polygon: wire::Polygon,
        budget: &mut Budget,
    ) -> Result<Self, InvalidField> {
        check_count("holes", polygon.holes.len(), 0..=HOLES_MAX, "rings")?;
        let outer = Ring::checked(required(polygon.outer, "outer")?, budget)
            .map_err(|e| e.within("outer"))?;
        let (west, east) = extent(&outer);
        let mut holes = Vec::with_capacity(polygon.holes.len());
        for (i, hole) in polygon.holes.into_iter().enumerate() {
            let mut hole =
                Ring::checked(hole, budget).map_err(|e| e.within(&format!("holes[{i}]")))?;
            // Shift the hole by full turns to the range of longitudes of the outer ring.
            let (hole_west, hole_east) = extent(&hole);
            let turn = (((west + east) - (hole_west + hole_east)) / 2.0 / 360.0).round() * 360.0;
            for p in &mut hole.points {
                p.lng_deg += turn;
            }
            holes.push(hole);
        }
        Ok(Self { outer, holes })
    }

    /// Returns the western and eastern end of the outer ring, unwrapped longitudes in degrees.
    #[must_use]
    pub fn extent_lng_deg(&self) -> (f64, f64) {
        extent(&self.outer)
    }
}

fn extent(ring: &Ring) -> (f64, f64) {
    let fold =
        |(west, east): (f64, f64), p: &UnwrappedPoint| (west.min(p.lng_deg), east.max(p.lng_deg));
    ring.points.iter().fold((f64::INFINITY, f64::NEG_INFINITY), fold)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(points: &[(f64, f64)]) -> wire::Ring {
        let point = |&(latitude, longitude): &(f64, f64)| wire::LatLng { latitude, longitude };
        wire::Ring { points: points.iter().map(point).collect() }
    }

    fn polygon(points: &[(f64, f64)]) -> Result<Polygon, InvalidField> {
        Polygon::from_wire(wire::Polygon { outer: Some(ring(points)), holes: Vec::new() })
    }

    #[test]
    fn a_ring_across_the_antimeridian_is_unwrapped() {
        let p =
            polygon(&[(0.0, 170.0), (0.0, -170.0), (10.0, -170.0), (10.0, 170.0), (0.0, 170.0)])
                .unwrap();
        assert_eq!(p.extent_lng_deg(), (170.0, 190.0));
    }

    #[test]
    fn what_is_no_polygon_is_refused() {
        let problem = |points: &[(f64, f64)]| polygon(points).unwrap_err().problem;
        assert!(problem(&[(0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.0)]).contains("open"));
        assert!(problem(&[(0.0, 0.0), (0.0, 1.0), (0.0, 0.0)]).contains("4 to 10000 points"));
        assert!(
            problem(&[(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
                .contains("crosses itself")
        );
        assert!(
            problem(&[(80.0, 0.0), (80.0, 120.0), (80.0, -120.0), (80.0, 0.0)]).contains("pole")
        );
        assert!(
            problem(&[(0.0, 0.0), (1.0, 180.0), (2.0, 90.0), (0.0, 0.0)]).contains("180 degrees")
        );
    }

    #[test]
    fn a_comb_that_cannot_be_checked_in_time_is_refused() {
        // Parallel teeth of the same length: each edge overlaps all others in longitude.
        let tooth = |i: u32| {
            let (south, north) = (f64::from(i) * 2e-3, f64::from(i) * 2e-3 + 1e-3);
            [(south, 0.0), (south, 10.0), (north, 10.0), (north, 0.0)]
        };
        let mut points: Vec<_> = (0..2_499).flat_map(tooth).collect();
        points.push((5.0, -1.0));
        points.push((0.0, -1.0));
        points.push(points[0]);
        assert!(polygon(&points).unwrap_err().problem.contains("more than 10000000 pairs"));
        let mut small: Vec<_> = (0..500).flat_map(tooth).collect();
        small.extend([(5.0, -1.0), (0.0, -1.0), small[0]]);
        assert!(polygon(&small).is_ok());
    }

    #[test]
    fn all_rings_together_are_bounded() {
        let round = |n: u32| {
            let mut points: Vec<_> = (0..n)
                .map(|i| (f64::from(i) / f64::from(n) * std::f64::consts::TAU).sin_cos())
                .collect();
            points.push(points[0]);
            ring(&points)
        };
        let polygon =
            |holes| Polygon::from_wire(wire::Polygon { outer: Some(round(9_999)), holes });
        assert!(polygon(vec![round(9_999); 4]).is_ok());
        let total = polygon(vec![round(9_999), round(9_999), round(9_999), round(9_999), round(3)])
            .unwrap_err();
        assert_eq!(
            (total.field.as_str(), total.problem.as_str()),
            ("holes[4].points", "must have at most 50000 points in all rings together; got more")
        );
    }

    #[test]
    fn a_hole_is_brought_to_the_turn_of_its_rim() {
        let outer =
            ring(&[(0.0, 170.0), (0.0, -170.0), (10.0, -170.0), (10.0, 170.0), (0.0, 170.0)]);
        let hole = ring(&[(4.0, -178.0), (4.0, -176.0), (6.0, -176.0), (4.0, -178.0)]);
        let p =
            Polygon::from_wire(wire::Polygon { outer: Some(outer), holes: vec![hole] }).unwrap();
        assert!(p.holes[0].points().iter().all(|p| (181.0..185.0).contains(&p.lng_deg)));
    }
}
