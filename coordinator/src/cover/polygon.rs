//! Tests of discs against a polygon: edges near the disc, else inside or outside.
//!
//! Edges are straight in longitude and latitude. Each is cut into pieces so short that a straight
//! line in space is within some metres of the piece, and a disc is tested against the pieces in its
//! reach, at any latitude. Near a disc of resolution 9 an edge is also a straight line in the local
//! metric at the disc's centre, which is exact to a millimetre; beyond 80 degrees of latitude,
//! where meridians converge, the line in space decides alone.
//!
//! A polygon in GCJ-02 is a polygon of its own map: the disc is moved onto that map instead, and
//! widened so that it holds the readings of all of its places.

use clarion_proto::{
    datum::Datum,
    region::{Area, Edge, hierarchy::Hierarchy},
};

use super::{
    disc::Disc,
    geodesic::{Point, metres_per_degree},
    space::{Box3, Vector, distance2, place},
    work::{EXACT, READINGS, Work},
};

/// Largest distance of a piece from its straight line in space, metres: 449 m + 10 m is within the
/// overshoot of 500 m.
const SAG_M_MAX: f64 = 10.0;
/// Upper bound of the earth's radii of curvature and their change along a meridian, metres.
const CURVATURE_M_MAX: f64 = 6_500_000.0;
/// Maximum number of pieces of all polygons of a region, 80 bytes each: 400 edges from pole to pole,
/// or 100,000 short edges and 300 long ones.
pub(super) const PIECES_MAX: usize = 400_000;
/// Beyond this latitude the line in space decides alone, degrees.
const LOCAL_LAT_DEG_MAX: f64 = 80.0;

#[derive(Debug)]
pub(super) struct Polygon<'a> {
    area: &'a Area,
    pieces: Vec<Piece>,
    boxes: Hierarchy<Box3>,
    /// Largest distance of the boundary from the pieces' lines in space, metres.
    sag_m: f64,
}

/// Part of an edge, with its ends on the globe and in space.
#[derive(Debug, Clone, Copy)]
struct Piece {
    ends: (Point, Point),
    line: (Vector, Vector),
}

/// The polygon's edges need more pieces than are allowed.
#[derive(Debug)]
pub(super) struct TooManyPieces;

impl<'a> Polygon<'a> {
    /// Cuts the edges of an area. `spare` is the number of pieces that are left for the region.
    pub(super) fn new(area: &'a Area, spare: &mut usize) -> Result<Self, TooManyPieces> {
        let boundary = area.boundary();
        let mut pieces = Vec::with_capacity(boundary.len());
        let mut sag_m: f64 = 0.0;
        for edge in boundary {
            let sag = sag_m_of(edge);
            let parts = (sag / SAG_M_MAX).sqrt().ceil().max(1.0);
            sag_m = sag_m.max(sag / (parts * parts));
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            // rounds to usize::MAX
            let left = spare.checked_sub(parts as usize);
            *spare = left.ok_or(TooManyPieces)?;
            pieces.extend(cut(edge, parts));
        }
        let boxes: Vec<Box3> =
            pieces.iter().map(|piece| Box3::around([piece.line.0, piece.line.1])).collect();
        Ok(Self { area, boxes: Hierarchy::new(&boxes), pieces, sag_m: sag_m + area.error_m() })
    }

    pub(super) fn touches(&self, disc: &Disc, work: &Work) -> bool {
        let touches =
            |disc: &Disc| self.is_near_the_boundary(disc, work) || self.holds(disc.center, work);
        self.reads_any(disc, work, touches)
    }

    pub(super) fn contains(&self, disc: &Disc, work: &Work) -> bool {
        let reaches_out =
            |disc: &Disc| self.is_near_the_boundary(disc, work) || !self.holds(disc.center, work);
        !self.reads_any(disc, work, reaches_out)
    }

    /// Whether the disc, or a reading of the disc in the polygon's datum, passes a test.
    fn reads_any(&self, disc: &Disc, work: &Work, test: impl Fn(&Disc) -> bool) -> bool {
        match self.area.datum() {
            Datum::Wgs84 => test(disc),
            datum @ Datum::Gcj02 => {
                work.add(READINGS);
                disc.readings(datum).any(|reading| test(&reading))
            }
        }
    }

    fn holds(&self, point: Point, work: &Work) -> bool {
        let mut steps = 0;
        let holds = self.area.holds(point.lat_deg, point.lng_deg, &mut steps);
        work.add(steps);
        holds
    }

    fn is_near_the_boundary(&self, disc: &Disc, work: &Work) -> bool {
        let (small_m, large_m) = disc.radius_bounds_m();
        let center = disc.place();
        let is_local = disc.is_leaf() && disc.center.lat_deg.abs() <= LOCAL_LAT_DEG_MAX;
        let spare_m = if is_local { self.area.error_m() } else { self.sag_m };
        let metric = metres_per_degree(disc.center.lat_deg);
        let (mut box_steps, mut steps, mut nearest_m) = (30, 0, f64::INFINITY);
        let is_surely_near = self.boxes.search(
            |bounds| {
                box_steps += 4;
                bounds.is_within(center, large_m + self.sag_m)
            },
            |range| {
                for piece in &self.pieces[range] {
                    steps += 8;
                    let mut distance_m = distance2(center, piece.line).sqrt();
                    if distance_m > large_m + self.sag_m {
                        continue;
                    }
                    if is_local {
                        steps += 12;
                        distance_m = piece.local_distance_m(disc.center, metric);
                    }
                    nearest_m = nearest_m.min(distance_m);
                    if distance_m <= small_m + spare_m {
                        return true;
                    }
                }
                false
            },
        );
        steps += box_steps;
        let is_near = is_surely_near
            || (nearest_m <= large_m + spare_m && {
                steps += EXACT;
                nearest_m <= disc.radius_m() + spare_m
            });
        work.add(steps);
        is_near
    }
}

impl Piece {
    /// Distance from a point in the local metric there: metres per degree of latitude and of
    /// longitude.
    fn local_distance_m(&self, from: Point, (per_lat, per_lng): (f64, f64)) -> f64 {
        let (a, b) = self.ends;
        let turn = ((from.lng_deg - a.lng_deg) / 360.0).round() * 360.0;
        let flat = |p: Point| {
            ((p.lng_deg + turn - from.lng_deg) * per_lng, (p.lat_deg - from.lat_deg) * per_lat)
        };
        distance_from_zero(flat(a), flat(b))
    }
}

/// Upper bound of the distance between an edge and the straight line in space between its ends.
///
/// A curve is within an eighth of its largest second derivative of its chord. With a parameter from
/// 0 to 1, the second derivative is at most R (Δφ² + cos φ Δλ² + 2 Δφ Δλ).
fn sag_m_of((from, to): Edge) -> f64 {
    let (south, north) = (from.lat_deg().min(to.lat_deg()), from.lat_deg().max(to.lat_deg()));
    let dlat = (north - south).to_radians();
    let dlng = (to.lng_deg() - from.lng_deg()).abs().to_radians();
    let nearest_to_equator =
        if south <= 0.0 && north >= 0.0 { 0.0 } else { south.abs().min(north.abs()) };
    let cos_max = nearest_to_equator.to_radians().cos();
    CURVATURE_M_MAX * (dlat * dlat + cos_max * dlng * dlng + 2.0 * dlat * dlng) / 8.0
}

fn cut((from, to): Edge, parts: f64) -> impl Iterator<Item = Piece> {
    let at = move |part: u32| {
        let share = f64::from(part) / parts;
        if share >= 1.0 {
            return Point { lat_deg: to.lat_deg(), lng_deg: to.lng_deg() };
        }
        Point {
            lat_deg: from.lat_deg() + share * (to.lat_deg() - from.lat_deg()),
            lng_deg: from.lng_deg() + share * (to.lng_deg() - from.lng_deg()),
        }
    };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 1 to PIECES_MAX
    let count = parts as u32;
    (0..count).map(move |part| {
        let ends = (at(part), at(part + 1));
        Piece { ends, line: (place(ends.0), place(ends.1)) }
    })
}

/// Distance from the origin to the nearest point of a segment.
fn distance_from_zero(a: (f64, f64), b: (f64, f64)) -> f64 {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let length2 = dx * dx + dy * dy;
    let share =
        if length2 > 0.0 { (-(a.0 * dx + a.1 * dy) / length2).clamp(0.0, 1.0) } else { 0.0 };
    (a.0 + share * dx).hypot(a.1 + share * dy)
}
