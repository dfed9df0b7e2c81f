//! One ring as it is published: normalized first, then judged.
//!
//! Published outlines are open or closed, repeat vertices, run along a line and back, and touch
//! themselves. None of that changes the area, so none of it is refused. A ring is refused only if
//! two of its edges really cross, if it runs around a pole, or if it encloses no area.

use super::{
    budget::Work,
    grid::{
        DEGREE, Edge, GridPoint, Meeting, TURN, box_holds, crossing_point, is_near_line, meeting,
        side,
    },
    outline::{Exhausted, Outline, edges_of},
};
use crate::error::InvalidField;

/// Points of a ring as they were given, on the grid.
#[derive(Debug, Clone)]
pub(super) struct GivenRing {
    /// Path of the ring's list of points, for errors.
    pub(super) field: String,
    /// Points in the order in which they were given, with or without the closing point.
    pub(super) points: Vec<GridPoint>,
}

/// Closed ring without a repeated closing point, without repeated points and without spikes.
///
/// Longitudes are *unwrapped*: each is within 180 degrees of the longitude before it, or the edge
/// between them runs the whole way around the earth. So a ring across the antimeridian is an
/// ordinary ring, for example from 170 to 190 degrees.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ring {
    pub(super) points: Vec<GridPoint>,
    /// Whether edges meet that do not follow each other.
    pub(super) touches_itself: bool,
}

/// How an edge between two spellings of one meridian is read.
#[derive(Clone, Copy, PartialEq)]
enum Whole {
    /// As no way: -180 and 180 degrees are one place.
    SamePlace,
    /// As the whole way around the earth.
    Around,
}

/// Reason why points are not a ring under one reading.
enum Misread {
    /// The edge to this point has exactly 180 degrees of longitude.
    HalfTurn(usize),
    /// The ring runs around a pole.
    Pole,
    /// The points are on one line, or fewer than three.
    Flat,
}

impl Ring {
    /// Normalizes a ring, and checks that its edges do not cross. `None`: the ring encloses nothing,
    /// because its points are fewer than three or on one line. `work` is the rest of the budget of
    /// the region.
    pub(super) fn checked(given: &GivenRing, work: &Work) -> Result<Option<Self>, InvalidField> {
        let refused = |problem: String| InvalidField::new(&given.field, problem);
        // A ring is read as the world's edge only where the other reading encloses nothing.
        let read = |whole| normalized(&given.points, whole);
        let points = read(Whole::SamePlace).or_else(|misread| {
            read(Whole::Around).map_err(|around| match (misread, around) {
                (misread, Misread::Flat) => misread,
                (Misread::Flat, _) => Misread::Flat,
                (misread, _) => misread,
            })
        });
        let points = match points {
            Ok(points) => points,
            Err(Misread::Flat) => return Ok(None),
            Err(Misread::HalfTurn(i)) => {
                return Err(InvalidField::new(
                    format!("{}[{i}]", given.field),
                    "must not be exactly 180 degrees of longitude from the previous point: neither \
                     direction is shorter; add a point between them",
                ));
            }
            Err(Misread::Pole) => {
                return Err(refused(
                    "must not run around a pole: add the points at longitudes -180 and 180 that \
                     lead to the pole, as GeoJSON does, or use a circle"
                        .to_owned(),
                ));
            }
        };
        let mut ring = Self { points, touches_itself: false };
        let (west, east) = ring.extent();
        if east - west > TURN {
            let degrees = (east - west) / DEGREE;
            return Err(refused(format!(
                "must not run around the earth more than once; got {degrees} degrees of longitude"
            )));
        }
        match ring.crossing(work) {
            Ok(None) => Ok(Some(ring)),
            Ok(Some((a, b))) => Err(refused(format!(
                "the ring crosses itself at {}: the edge from {} to {} crosses the edge from {} \
                 to {}; places are (latitude, longitude)",
                crossing_point(a, b).shown(),
                a.0.shown(),
                a.1.shown(),
                b.0.shown(),
                b.1.shown(),
            ))),
            Err(Exhausted) => Err(refused(
                "the region is too intricate: too many edges lie across each other's way; \
                 simplify it"
                    .to_owned(),
            )),
        }
    }

    /// The western and the eastern end, unwrapped.
    pub(super) fn extent(&self) -> (i64, i64) {
        let lngs = self.points.iter().map(|p| p.lng);
        (lngs.clone().min().unwrap_or(0), lngs.max().unwrap_or(0))
    }

    pub(super) fn outline(&self) -> Outline {
        Outline::new(std::iter::once(self.points.as_slice()))
    }

    /// Two edges that cross; notes whether others touch.
    fn crossing(&mut self, work: &Work) -> Result<Option<(Edge, Edge)>, Exhausted> {
        let outline = self.outline();
        let edges = outline.edges();
        let (mut crossing, mut touches) = (None, false);
        outline.pairs(work, |i, j| {
            let (a, b) = (edges[i], edges[j]);
            match meeting(a, b) {
                Meeting::Cross => crossing = Some((a, b)),
                Meeting::Touch => touches |= !follow(a, b),
                Meeting::Apart => {}
            }
            crossing.is_some()
        })?;
        self.touches_itself = touches;
        Ok(crossing)
    }
}

/// Whether one edge begins where the other ends, and they have no other common point.
pub(super) fn follow(a: Edge, b: Edge) -> bool {
    let after = |a: Edge, b: Edge| a.1 == b.0 && (side(a, b.1) != 0 || !box_holds(a, b.1));
    after(a, b) || after(b, a)
}

/// The points of a ring, unwrapped, without repeated points and spikes.
fn normalized(given: &[GridPoint], whole: Whole) -> Result<Vec<GridPoint>, Misread> {
    let mut given = given;
    while let [first, rest @ .., last] = given
        && first == last
        && !rest.is_empty()
    {
        given = &given[..given.len() - 1];
    }
    let Some(&first) = given.first() else { return Err(Misread::Flat) };
    let mut lng = first.lng;
    let mut points = Vec::with_capacity(given.len());
    let n = given.len();
    for (i, (from, to)) in edges_of(given).enumerate() {
        points.push(GridPoint { lng, lat: from.lat });
        let (before, after) = (given[(i + n - 1) % n], given[(i + 2) % n]);
        let around = whole == Whole::Around && runs_around(before, (from, to), after);
        let way = if around { Some(to.lng - from.lng) } else { shorter_way(from, to) };
        lng += way.ok_or(Misread::HalfTurn((i + 1) % n))?;
    }
    if lng != first.lng {
        return Err(Misread::Pole);
    }
    let points = without_spikes(&points);
    let flat = match points.as_slice() {
        [a, b, rest @ ..] => rest.iter().all(|&c| side((*a, *b), c) == 0),
        _ => true,
    };
    if flat { Err(Misread::Flat) } else { Ok(points) }
}

/// Whether an edge that ends on the meridian on which it begins runs around the earth: from corner
/// to corner of a band, or along a pole.
fn runs_around(before: GridPoint, (from, to): Edge, after: GridPoint) -> bool {
    let corners = before.lng == from.lng && after.lng == to.lng;
    let along_pole = from.lat == to.lat && from.lat.abs() == 90 * DEGREE;
    (to.lng - from.lng).abs() == TURN && (corners || along_pole)
}

/// Way in longitude from one point to the next; `None`: neither direction is shorter.
fn shorter_way(from: GridPoint, to: GridPoint) -> Option<i64> {
    match (to.lng - from.lng).rem_euclid(TURN) {
        half if half == TURN / 2 => None,
        east if east > TURN / 2 => Some(east - TURN),
        east => Some(east),
    }
}

/// Removes repeated points, and points at which the ring turns back on its own line.
fn without_spikes(points: &[GridPoint]) -> Vec<GridPoint> {
    let mut kept: Vec<GridPoint> = Vec::with_capacity(points.len());
    for &point in points {
        kept.push(point);
        loop {
            match kept.as_slice() {
                [.., a, b] if a == b => drop(kept.pop()),
                [.., a, b, c] if is_spike(*a, *b, *c) => drop(kept.remove(kept.len() - 2)),
                _ => break,
            }
        }
    }
    // The same across the ends of the list.
    let mut start = 0;
    loop {
        match &kept[start..] {
            [first, .., last] if first == last => drop(kept.pop()),
            [first, .., before, last] if is_spike(*before, *last, *first) => drop(kept.pop()),
            [first, second, .., last] if is_spike(*last, *first, *second) => start += 1,
            _ => break,
        }
    }
    kept.split_off(start)
}

/// Whether the way from `a` to `b` and on to `c` turns back at `b` along the same line.
fn is_spike(a: GridPoint, b: GridPoint, c: GridPoint) -> bool {
    let vector = |p: GridPoint| (i128::from(p.lng - b.lng), i128::from(p.lat - b.lat));
    let (back, on) = (vector(a), vector(c));
    let length2 = |v: (i128, i128)| v.0 * v.0 + v.1 * v.1;
    let turns_back = back.0 * on.0 + back.1 * on.1 > 0;
    turns_back
        && if length2(on) <= length2(back) {
            is_near_line((a, b), c)
        } else {
            is_near_line((b, c), a)
        }
}
