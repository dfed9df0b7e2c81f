//! Tests of discs against a polygon: edges near the disc, else inside or outside.
//!
//! Edges are straight in longitude and latitude. Near a small disc that is a straight line in the
//! local metric at the disc's centre, so the distance is plain geometry. A large disc (resolution 0
//! to 4, up to 1,500 km) has no such metric: there an edge counts as near where the boxes in
//! longitude and latitude meet, which can only descend too far.
//!
//! Edges are sorted into buckets by latitude, and a disc is tested only against the edges of its
//! own latitudes: the outline of a province has ten thousand edges.

use clarion_proto::region;

use super::{
    disc::Disc,
    geodesic::{Point, metres_per_degree},
    work::Work,
};

#[derive(Debug, Clone)]
pub(super) struct Polygon {
    edges: Vec<Edge>,
    /// Indexes of the edges that reach into each of `buckets.len()` equal strips of latitude.
    buckets: Vec<Vec<u32>>,
    south_deg: f64,
    north_deg: f64,
    west_deg: f64,
    east_deg: f64,
}

#[derive(Debug, Clone, Copy)]
struct Edge {
    from: Point,
    to: Point,
}

/// Strips of latitude: enough that ten thousand edges leave a few dozen in each.
const BUCKETS: usize = 512;
/// Maximum entries of all strips together, 16 MB: reached if every edge reaches into every strip.
const ENTRIES_MAX: usize = 4_000_000;

/// Discs up to this radius use the local metric: 10,993 m × 1.08, resolution 5.
const LOCAL_RADIUS_M_MAX: f64 = 12_000.0;

/// How much a coarse disc grows for the error of the local metric over 12 km: tan φ × 12 km / 6,371
/// km is 1.1 % at 80°.
const LOCAL_METRIC_MARGIN: f64 = 1.03;

/// Beyond this latitude only discs of resolution 9 use the local metric, degrees.
const LOCAL_LAT_DEG_MAX: f64 = 80.0;

impl Polygon {
    pub(super) fn new(polygon: &region::Polygon) -> Self {
        let point = |p: region::UnwrappedPoint| Point { lat_deg: p.lat_deg, lng_deg: p.lng_deg };
        let rings = std::iter::once(&polygon.outer).chain(&polygon.holes);
        let edges: Vec<Edge> = rings
            .flat_map(region::Ring::edges)
            .map(|(a, b)| Edge { from: point(a), to: point(b) })
            .collect();
        let (west_deg, east_deg) = polygon.extent_lng_deg();
        let lats = polygon.outer.points().iter().map(|p| p.lat_deg);
        let south_deg = lats.clone().fold(f64::INFINITY, f64::min);
        let north_deg = lats.fold(f64::NEG_INFINITY, f64::max);
        let buckets = (ENTRIES_MAX / edges.len().max(1)).clamp(16, BUCKETS);
        let mut this = Self {
            edges,
            buckets: vec![Vec::new(); buckets],
            south_deg,
            north_deg,
            west_deg,
            east_deg,
        };
        for i in 0..this.edges.len() {
            let Edge { from, to } = this.edges[i];
            let (low, high) = (from.lat_deg.min(to.lat_deg), from.lat_deg.max(to.lat_deg));
            for strip in this.strip(low)..=this.strip(high) {
                #[allow(clippy::cast_possible_truncation)] // 65 rings of at most 10,000 points
                this.buckets[strip].push(i as u32);
            }
        }
        this
    }

    pub(super) fn touches(&self, disc: &Disc, work: &Work) -> bool {
        self.is_near_an_edge(disc, work) || self.holds(disc.center, work)
    }

    pub(super) fn contains(&self, disc: &Disc, work: &Work) -> bool {
        !self.is_near_an_edge(disc, work) && self.holds(disc.center, work)
    }

    fn strip(&self, lat_deg: f64) -> usize {
        let height = (self.north_deg - self.south_deg).max(f64::MIN_POSITIVE);
        let strip = (lat_deg - self.south_deg) / height * self.buckets.len() as f64;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped
        let strip = strip.clamp(0.0, (self.buckets.len() - 1) as f64) as usize;
        strip
    }

    /// Whether a point lies inside: even-odd rule over rim and holes, with the point's longitude
    /// moved by whole turns into the polygon's range of longitudes.
    fn holds(&self, point: Point, work: &Work) -> bool {
        if point.lat_deg < self.south_deg || point.lat_deg > self.north_deg {
            return false;
        }
        let mut lng_deg = self.west_deg + (point.lng_deg - self.west_deg).rem_euclid(360.0);
        // A polygon wider than the earth does not exist: at most one turn holds the point.
        if lng_deg > self.east_deg {
            lng_deg -= 360.0;
            if lng_deg < self.west_deg {
                return false;
            }
        }
        let mut inside = false;
        let bucket = &self.buckets[self.strip(point.lat_deg)];
        work.add(bucket.len() as u64);
        for &i in bucket {
            let Edge { from, to } = self.edges[i as usize];
            if (from.lat_deg > point.lat_deg) != (to.lat_deg > point.lat_deg) {
                let share = (point.lat_deg - from.lat_deg) / (to.lat_deg - from.lat_deg);
                if lng_deg < from.lng_deg + share * (to.lng_deg - from.lng_deg) {
                    inside = !inside;
                }
            }
        }
        inside
    }

    fn is_near_an_edge(&self, disc: &Disc, work: &Work) -> bool {
        let radius_m = disc.radius_m();
        let (per_lat, per_lng) = metres_per_degree(disc.center.lat_deg);
        // 0.7 % more: a degree of latitude is shorter near the equator than at the disc's centre.
        let dlat = radius_m / per_lat * 1.007;
        let (south, north) = (disc.center.lat_deg - dlat, disc.center.lat_deg + dlat);
        if south > self.north_deg || north < self.south_deg {
            return false;
        }
        // The meridians that a disc touches: sin Δλ = sin r / cos φ on a sphere; all of them if it
        // holds a pole.
        let angle = radius_m / 6_335_000.0;
        let ratio = angle.sin() / disc.center.lat_deg.to_radians().cos();
        let dlng =
            if ratio < 1.0 && angle < 1.5 { ratio.asin().to_degrees() * 1.007 } else { 180.0 };

        let local = radius_m <= LOCAL_RADIUS_M_MAX
            && (disc.is_leaf() || disc.center.lat_deg.abs() <= LOCAL_LAT_DEG_MAX);
        let reach_m = if disc.is_leaf() { radius_m } else { radius_m * LOCAL_METRIC_MARGIN };
        [-360.0, 0.0, 360.0].into_iter().any(|turn| {
            let lng_deg = disc.center.lng_deg + turn;
            let (west, east) = (lng_deg - dlng, lng_deg + dlng);
            if west > self.east_deg || east < self.west_deg {
                return false;
            }
            (self.strip(south)..=self.strip(north)).flat_map(|strip| &self.buckets[strip]).any(
                |&i| {
                    work.add(1);
                    let Edge { from, to } = self.edges[i as usize];
                    let boxes_meet = from.lat_deg.min(to.lat_deg) <= north
                        && from.lat_deg.max(to.lat_deg) >= south
                        && from.lng_deg.min(to.lng_deg) <= east
                        && from.lng_deg.max(to.lng_deg) >= west;
                    let flat = |p: Point| {
                        (
                            (p.lng_deg - lng_deg) * per_lng,
                            (p.lat_deg - disc.center.lat_deg) * per_lat,
                        )
                    };
                    boxes_meet && (!local || distance_from_zero(flat(from), flat(to)) <= reach_m)
                },
            )
        })
    }
}

/// Distance from the origin to the nearest point of a segment.
fn distance_from_zero(a: (f64, f64), b: (f64, f64)) -> f64 {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let length2 = dx * dx + dy * dy;
    let share =
        if length2 > 0.0 { (-(a.0 * dx + a.1 * dy) / length2).clamp(0.0, 1.0) } else { 0.0 };
    (a.0 + share * dx).hypot(a.1 + share * dy)
}
