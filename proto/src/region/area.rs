//! Area of a polygon or of many: the parts without their holes, cut into rings that do not overlap.
//!
//! ```text
//! given rings ── normalize, judge ──▶ rings ── one frame of 360 degrees ──▶ rings in the frame
//!    part − holes, for each part; then the union of the parts ──▶ rings that only touch
//! ```
//!
//! Inside a ring is each point around which the ring winds at least once, in either direction: the
//! widest reading of a ring that touches itself, so that nobody is missed. Holes are removed as a
//! union: overlapping holes and a hole given twice remove what the holes cover together, and a hole
//! that reaches out of its part removes only what is inside the part.

use super::{
    budget::Work,
    grid::{Edge, GridPoint, Meeting, TURN, meeting},
    outline::{Exhausted, Outline, edges_of},
    overlay::{Hole, Piece, united},
    ring::{GivenRing, Ring, follow},
    seam,
};
use crate::{datum::Datum, error::InvalidField};

/// Maximum number of places at which edges of a region meet other edges than their neighbours.
const MEETINGS_MAX: u64 = 100_000;
/// Work to cut the edges at one such place. A region of many areas, each with as many places as are
/// allowed, would take seconds to cut.
const MEETING_WORK: u64 = 400;
/// Largest distance by which cutting moves an edge, metres: some grid units.
const CUT_ERROR_M: f64 = 0.2;

/// One polygon as it was given: an outer ring and its holes.
#[derive(Debug, Clone)]
pub(super) struct GivenPart {
    pub(super) outer: GivenRing,
    pub(super) holes: Vec<GivenRing>,
}

/// Set of points between rings on the grid: never empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Area {
    datum: Datum,
    /// Western end of the 360 degrees in which the rings lie, grid units.
    west: i64,
    /// Rings that touch at most: counterclockwise around the area, clockwise around its holes.
    rings: Vec<Vec<GridPoint>>,
    outline: Outline,
    error_m: f64,
}

impl Area {
    /// Normalizes, checks and cuts the parts. `work` is the rest of the budget of the region.
    pub(super) fn checked(
        parts: &[GivenPart],
        datum: Datum,
        work: &Work,
    ) -> Result<Self, InvalidField> {
        let mut pieces = Vec::with_capacity(parts.len());
        for part in parts {
            // Outlines of low resolution have islands and lakes that became a line or a point.
            let Some(outer) = Ring::checked(&part.outer, work)? else { continue };
            let mut holes = Vec::with_capacity(part.holes.len());
            let outline = (!part.holes.is_empty()).then(|| outer.outline());
            for (i, given) in part.holes.iter().enumerate() {
                let Some(hole) = Ring::checked(given, work)? else { continue };
                if outline.as_ref().is_some_and(|o| is_outside(&hole, &outer, o, work)) {
                    return Err(InvalidField::new(
                        &given.field,
                        format_args!("hole {i} lies outside the outer ring; is it a part?"),
                    ));
                }
                holes.push(hole);
            }
            pieces.push((outer, holes));
        }
        let field = parts.first().map_or("", |part| part.outer.field.as_str());
        if pieces.is_empty() {
            let points = parts.first().map_or(0, |part| part.outer.points.len());
            let problem = format_args!(
                "must have at least 3 different points that are not on one line; got {points} points"
            );
            return Err(InvalidField::new(field, problem));
        }
        let (west, is_whole_turn) = frame(pieces.iter().map(|(outer, _)| outer.extent()));
        let placed = |ring: &Ring| seam::placed(&ring.points, west);
        let pieces: Vec<Piece> = pieces
            .iter()
            .map(|(outer, holes)| Piece {
                outer: placed(outer),
                holes: holes.iter().map(|h| Hole::new(placed(h), h.touches_itself)).collect(),
            })
            .collect();
        let meetings = meetings(&pieces, work).map_err(|Exhausted| {
            let problem = format!(
                "the region is too intricate: its edges meet at more than {MEETINGS_MAX} places, \
                 or too many lie across each other's way; simplify it"
            );
            InvalidField::new(field, problem)
        })?;
        let (rings, is_exact) = united(&pieces);
        if rings.is_empty() {
            return Err(InvalidField::new(field, "must enclose an area that its holes leave"));
        }
        let error_m = if meetings == 0 && is_exact && !is_whole_turn { 0.0 } else { CUT_ERROR_M };
        let outline = Outline::new(rings.iter().map(Vec::as_slice));
        Ok(Self { datum, west, rings, outline, error_m })
    }

    /// Datum of the rings, in which their edges are straight.
    #[must_use]
    pub fn datum(&self) -> Datum {
        self.datum
    }

    /// Edges of all rings; the area lies to the left of each.
    #[must_use]
    pub fn edges(&self) -> &[Edge] {
        self.outline.edges()
    }

    /// Number of rings.
    #[must_use]
    pub fn ring_count(&self) -> usize {
        self.rings.len()
    }

    /// Edges on the boundary of the area on the globe: without a meridian at which only the map is
    /// cut, and without a pole, which is one point.
    #[must_use]
    pub fn boundary(&self) -> Vec<Edge> {
        seam::boundary(self.edges(), self.west)
    }

    /// Largest distance of the boundary from the given edges, metres: 0 unless rings touch.
    #[must_use]
    pub fn error_m(&self) -> f64 {
        self.error_m
    }

    /// Whether a place in the area's datum is inside; a place on an edge is. `work` grows by about one for each
    /// nanosecond.
    #[must_use]
    pub fn holds(&self, lat_deg: f64, lng_deg: f64, work: &mut u64) -> bool {
        let point = GridPoint::nearest(lat_deg, lng_deg);
        let lng = self.west + (point.lng - self.west).rem_euclid(TURN);
        self.outline.winding(GridPoint { lng, ..point }, work) != Some(0)
    }
}

/// Western end of the frame, and whether the frame cuts through rings: the middle of the widest gap
/// in longitude between the rings, or -180 degrees.
fn frame(extents: impl Iterator<Item = (i64, i64)>) -> (i64, bool) {
    let mut spans: Vec<(i64, i64)> = extents
        .map(|(west, east)| (west.rem_euclid(TURN), west.rem_euclid(TURN) + east - west))
        .collect();
    spans.sort_unstable();
    // The spans once more, a turn further: the gap may lie across the turn.
    let first = spans[0].0;
    let (mut reached, mut widest) = (spans[0].1, (0, -TURN / 2));
    let again = spans.iter().map(|(west, east)| (west + TURN, east + TURN));
    for (west, east) in spans.iter().copied().chain(again) {
        if west - reached > widest.0 && reached < first + TURN {
            widest = (west - reached, reached + (west - reached) / 2);
        }
        reached = reached.max(east);
    }
    (widest.1, widest.0 == 0)
}

/// Whether a hole has no area in common with its outer ring: no edges cross, none of the hole's
/// points and middles of edges is inside, and at least one of them is outside.
fn is_outside(hole: &Ring, outer: &Ring, outline: &Outline, work: &Work) -> bool {
    let ((west, east), (hole_west, hole_east)) = (outer.extent(), hole.extent());
    let turns = (-2..=2).map(|turn| turn * TURN);
    let near = turns.filter(|turn| hole_west + turn <= east && hole_east + turn >= west);
    near.into_iter().all(|turn| {
        let points: Vec<GridPoint> = hole.points.iter().map(|p| p.moved(turn)).collect();
        let middle = |(a, b): Edge| GridPoint {
            lng: i64::midpoint(a.lng, b.lng),
            lat: i64::midpoint(a.lat, b.lat),
        };
        let mut outside = false;
        for place in points.iter().copied().chain(edges_of(&points).map(middle)) {
            let mut steps = 0;
            let winding = outline.winding(place, &mut steps);
            work.take(steps);
            if work.is_used_up() {
                return false; // the search for meetings refuses the region
            }
            match winding {
                Some(0) => outside = true,
                Some(_) => return false,
                None => {}
            }
        }
        let covers = Outline::new(std::iter::once(points.as_slice()));
        let mut steps = 0;
        // A hole around the whole outer ring has no point inside the ring.
        let is_around =
            outer.points.iter().take(64).any(|&p| covers.winding(p, &mut steps) != Some(0));
        work.take(steps);
        outside && !is_around && !crosses(&points, outline, work)
    })
}

/// Whether an edge of a ring crosses an edge of an outline.
fn crosses(ring: &[GridPoint], outline: &Outline, work: &Work) -> bool {
    edges_of(ring)
        .any(|edge| outline.meets(edge, work, |other| meeting(edge, other) == Meeting::Cross))
}

/// Counts the places at which edges meet that do not follow each other in a ring.
fn meetings(pieces: &[Piece], work: &Work) -> Result<u64, Exhausted> {
    let outline = Outline::new(pieces.iter().flat_map(Piece::rings).map(Vec::as_slice));
    let edges = outline.edges();
    let mut count = 0;
    let too_many = outline.pairs(work, |i, j| {
        let (a, b) = (edges[i], edges[j]);
        if !follow(a, b) && meeting(a, b) != Meeting::Apart {
            count += 1;
        }
        count > MEETINGS_MAX
    })?;
    work.take(count * MEETING_WORK);
    if too_many || work.is_used_up() { Err(Exhausted) } else { Ok(count) }
}
