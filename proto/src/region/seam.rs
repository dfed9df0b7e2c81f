//! The meridian at which the map of an area is cut, so that its rings lie in 360 degrees.
//!
//! The cut lies in the widest gap between the rings. Only an area without a gap, such as one around
//! a pole, is really cut; the edges along the cut bound the map but not the area.

use super::grid::{DEGREE, Edge, GridPoint, TURN};

/// A ring moved into the turn that begins at `west`; two rings if the ring reaches out of the turn.
pub(super) fn placed(ring: &[GridPoint], west: i64) -> Vec<Vec<GridPoint>> {
    let start = ring.iter().map(|p| p.lng).min().unwrap_or(west);
    let moved = west + (start - west).rem_euclid(TURN) - start;
    let here: Vec<GridPoint> = ring.iter().map(|p| p.moved(moved)).collect();
    if here.iter().all(|p| p.lng <= west + TURN) {
        return vec![here];
    }
    let back: Vec<GridPoint> = here.iter().map(|p| p.moved(-TURN)).collect();
    vec![side_of(&here, west + TURN, false), side_of(&back, west, true)]
}

/// The ring with everything beyond a meridian moved onto the meridian: around each point on this
/// side, the ring winds as before.
fn side_of(ring: &[GridPoint], meridian: i64, keep_east: bool) -> Vec<GridPoint> {
    let keeps = |p: GridPoint| if keep_east { p.lng >= meridian } else { p.lng <= meridian };
    let mut kept = Vec::with_capacity(ring.len() + 4);
    for (from, to) in super::outline::edges_of(ring) {
        if keeps(from) {
            kept.push(from);
        }
        if keeps(from) != keeps(to) {
            let (way, part) = (i128::from(to.lng - from.lng), i128::from(meridian - from.lng));
            let lat = i128::from(to.lat - from.lat) * part / way;
            #[allow(clippy::cast_possible_truncation)] // between the latitudes of the two ends
            kept.push(GridPoint { lng: meridian, lat: from.lat + lat as i64 });
        }
    }
    kept
}

/// Edges without the poles, and without those parts of the cut at `west` that have the area on both
/// sides.
pub(super) fn boundary(edges: &[Edge], west: i64) -> Vec<Edge> {
    let on = |meridian: i64| move |&&(a, b): &&Edge| a.lng == meridian && b.lng == meridian;
    let is_cut = |edge: &&Edge| on(west)(edge) || on(west + TURN)(edge);
    let at_pole = |&&(a, b): &&Edge| a.lat == b.lat && a.lat.abs() == 90 * DEGREE;
    let mut kept: Vec<Edge> =
        edges.iter().filter(|edge| !is_cut(edge) && !at_pole(edge)).copied().collect();
    // The area lies north-west and south-east of the cut or on one side only: each end of an edge
    // on either side switches that side, and a stretch where one side is on is boundary.
    let mut ends: Vec<(i64, bool)> = Vec::new();
    for (meridian, is_east) in [(west, false), (west + TURN, true)] {
        for (a, b) in edges.iter().filter(on(meridian)) {
            ends.extend([(a.lat, is_east), (b.lat, is_east)]);
        }
    }
    ends.sort_unstable();
    let (mut at_west, mut at_east, mut since) = (false, false, 0);
    for (lat, is_east) in ends {
        if at_west != at_east && lat > since {
            let point = |lat| GridPoint { lng: west, lat };
            kept.push((point(since), point(lat)));
        }
        since = lat;
        if is_east {
            at_east = !at_east;
        } else {
            at_west = !at_west;
        }
    }
    kept
}
