//! The circle around a cell, which regions are tested against instead of the cell itself.

use std::cell::OnceCell;

use clarion_proto::datum::{Datum, Degrees};
use h3o::{CellIndex, LatLng, Resolution};

use super::{
    MARGIN,
    geodesic::{Point, short_distance_m},
    space::{Vector, place},
};

/// Largest distance from a cell's centre to one of its corners, metres, for resolutions 0 to 9.
///
/// Measured on WGS-84 over all cells (resolutions 0 to 4) or over some 220,000 cells spread over
/// all base cells (5 to 9), plus 1 %.
pub(crate) const CIRCUMRADIUS_M_MAX: [f64; 10] = [
    1_402_650.0,
    537_400.0,
    203_500.0,
    76_950.0,
    29_080.0,
    10_993.0,
    4_155.0,
    1_571.0,
    593.5,
    224.4,
];
/// Smallest such distance at resolution 9, metres, measured the same way, minus 5 %.
const LEAF_CIRCUMRADIUS_M_MIN: f64 = 134.0;

/// The circle around a cell.
///
/// The circle of a cell of resolution 0 to 8 contains the circles of all descendants. The circle of
/// a cell of resolution 9 is exact; its radius is computed only when its bounds do not decide.
///
/// The circle around a cell as GCJ-02 reads it ([`Disc::readings`]) is at another place and wider:
/// it holds the readings of all places in the cell's circle.
#[derive(Debug)]
pub(crate) struct Disc {
    pub(crate) cell: CellIndex,
    /// Centre of the circle in the circle's datum.
    pub(crate) center: Point,
    datum: Datum,
    exact_m: OnceCell<f64>,
    place: OnceCell<Vector>,
}

impl Disc {
    pub(crate) fn around(cell: CellIndex) -> Self {
        Self::read(cell, Datum::Wgs84, center_of(cell))
    }

    /// The circles, of WGS-84, that together hold the circle in a datum.
    pub(super) fn readings(&self, datum: Datum) -> impl Iterator<Item = Self> {
        let center = Degrees { lat: self.center.lat_deg, lng: self.center.lng_deg };
        let centers = datum.readings(center, self.radius_bounds_m().1);
        let cell = self.cell;
        centers.map(move |c| Self::read(cell, datum, Point { lat_deg: c.lat, lng_deg: c.lng }))
    }

    fn read(cell: CellIndex, datum: Datum, center: Point) -> Self {
        Self { cell, center, datum, exact_m: OnceCell::new(), place: OnceCell::new() }
    }

    pub(crate) fn is_leaf(&self) -> bool {
        self.cell.resolution() == Resolution::Nine
    }

    /// Centre of the circle in space.
    pub(super) fn place(&self) -> Vector {
        *self.place.get_or_init(|| place(self.center))
    }

    /// Lower and upper bound of the radius, metres.
    pub(crate) fn radius_bounds_m(&self) -> (f64, f64) {
        if self.is_leaf() {
            let spread_m = |radius_m| self.datum.spread_m(radius_m);
            (spread_m(LEAF_CIRCUMRADIUS_M_MIN), spread_m(CIRCUMRADIUS_M_MAX[9]))
        } else {
            let radius = self.radius_m();
            (radius, radius)
        }
    }

    /// Radius of the circle in metres, exact at resolution 9.
    pub(crate) fn radius_m(&self) -> f64 {
        let resolution = usize::from(u8::from(self.cell.resolution()));
        if !self.is_leaf() {
            return self.datum.spread_m(MARGIN * CIRCUMRADIUS_M_MAX[resolution]);
        }
        *self.exact_m.get_or_init(|| {
            let center = center_of(self.cell);
            let corner =
                |p: &LatLng| short_distance_m(center, Point { lat_deg: p.lat(), lng_deg: p.lng() });
            self.datum.spread_m(self.cell.boundary().iter().map(corner).fold(0.0, f64::max))
        })
    }
}

pub(crate) fn center_of(cell: CellIndex) -> Point {
    let center = LatLng::from(cell);
    Point { lat_deg: center.lat(), lng_deg: center.lng() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cover::distance_m;

    proptest! {
        #[test]
        fn a_coarse_circle_holds_the_circles_of_its_descendants(lat in -90.0..90.0f64, lng in -180.0..180.0f64, res in 0u8..9) {
            let leaf = LatLng::new(lat, lng).unwrap().to_cell(Resolution::Nine);
            let coarse = Disc::around(leaf.parent(Resolution::try_from(res).unwrap()).unwrap());
            let leaf = Disc::around(leaf);
            let apart = distance_m(coarse.center.lat_deg, coarse.center.lng_deg, leaf.center.lat_deg, leaf.center.lng_deg);
            prop_assert!(apart + leaf.radius_m() <= coarse.radius_m());
            let (low, high) = leaf.radius_bounds_m();
            prop_assert!(low <= leaf.radius_m() && leaf.radius_m() <= high);
        }
    }
}
