//! Union and difference of rings, by the library `i_overlay` on 32-bit coordinates.

use i_overlay::{
    core::{fill_rule::FillRule, overlay::Overlay, overlay_rule::OverlayRule},
    i_float::int::point::IntPoint,
};

use super::{
    grid::{Edge, GridPoint},
    outline::edges_of,
};

/// Rings of one polygon on the map: of its outer ring, and its holes.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) outer: Vec<Vec<GridPoint>>,
    pub(super) holes: Vec<Hole>,
}

impl Piece {
    pub(super) fn rings(&self) -> impl Iterator<Item = &Vec<GridPoint>> {
        self.outer.iter().chain(self.holes.iter().flat_map(|hole| &hole.rings))
    }
}

/// One hole on the map: a ring, or the two sides of a ring that the map's edge cuts.
#[derive(Debug, Clone)]
pub(super) struct Hole {
    rings: Vec<Vec<GridPoint>>,
    /// Whether loops of the ring may run in both directions.
    touches_itself: bool,
}

impl Hole {
    pub(super) fn new(mut rings: Vec<Vec<GridPoint>>, touches_itself: bool) -> Self {
        // Counterclockwise, so that overlapping holes add up and do not cancel out.
        for ring in &mut rings {
            let strip = |(a, b): Edge| {
                i128::from(a.lng) * i128::from(b.lat) - i128::from(b.lng) * i128::from(a.lat)
            };
            if edges_of(ring).map(strip).sum::<i128>() < 0 {
                ring.reverse();
            }
        }
        Self { rings, touches_itself }
    }
}

/// Widest extent whose coordinates fit as they are, grid units (200 degrees): the library
/// multiplies differences of coordinates in 64 bits.
const WIDTH_MAX: i64 = 2_000_000_000;
/// A wider area is cut on a grid that is coarser by this factor: 4.4 cm.
const COARSER: i64 = 4;

type Contour = Vec<IntPoint>;

/// Removes the holes of each piece, then unites the pieces. Returns rings that touch at most,
/// counterclockwise around the area, and whether the grid was fine enough to keep every point.
pub(super) fn united(pieces: &[Piece]) -> (Vec<Vec<GridPoint>>, bool) {
    let points = || pieces.iter().flat_map(Piece::rings).flatten().map(|p| p.lng);
    let (west, east) = (points().min().unwrap_or(0), points().max().unwrap_or(0));
    let step = if east - west > WIDTH_MAX { COARSER } else { 1 };
    let middle = i64::midpoint(west, east);
    let contour = |ring: &Vec<GridPoint>| -> Contour {
        #[allow(clippy::cast_possible_truncation)] // at most 1.8e9 / step from the middle
        let units = |value: i64| (value + step / 2).div_euclid(step) as i32;
        ring.iter().map(|p| IntPoint::new(units(p.lng - middle), units(p.lat))).collect()
    };
    let contours =
        |rings: &[Vec<GridPoint>]| -> Vec<Contour> { rings.iter().map(contour).collect() };
    let mut shapes: Vec<Vec<Contour>> = Vec::new();
    for piece in pieces {
        let hole = |hole: &Hole| match contours(&hole.rings) {
            rings if hole.touches_itself => resolved(&rings).into_iter().flatten().collect(),
            rings => rings,
        };
        let holes: Vec<Contour> = piece.holes.iter().flat_map(hole).collect();
        let outer = contours(&piece.outer);
        shapes.extend(if holes.is_empty() {
            resolved(&outer)
        } else {
            let mut overlay = Overlay::with_contours(&outer, &holes);
            overlay.overlay(OverlayRule::Difference, FillRule::NonZero)
        });
    }
    if pieces.len() > 1 {
        let all: Vec<Contour> = shapes.into_iter().flatten().collect();
        shapes = resolved(&all);
    }
    let point = |p: IntPoint| GridPoint {
        lng: i64::from(p.x) * step + middle,
        // The coarser grid has the poles, too.
        lat: i64::from(p.y) * step,
    };
    let ring = |contour: Contour| contour.into_iter().map(point).collect();
    (shapes.into_iter().flatten().map(ring).collect(), step == 1)
}

/// The area around which the contours wind, as contours that touch at most.
fn resolved(contours: &[Contour]) -> Vec<Vec<Contour>> {
    Overlay::with_contours(contours, &[]).overlay(OverlayRule::Subject, FillRule::NonZero)
}
