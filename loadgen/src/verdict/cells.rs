//! The flat cover: the cells of resolution 9 that belong to a region, each tested by itself.
//!
//! A cell belongs to the flat cover if and only if its circumscribed circle is not wholly outside.
//! The coordinator finds cells top-down through coarser ones; here every cell is tested alone, so
//! that the verdict detects a whole branch that was lost by mistake.

use h3o::{CellIndex, LatLng, Resolution};

use super::geometry::{Region, distance_meters};
use crate::place::Place;

/// Returns the cell in which a place is stored.
///
/// # Panics
/// If the place is not on the earth.
#[must_use]
pub fn cell_of(place: Place) -> CellIndex {
    LatLng::new(place.latitude, place.longitude)
        .expect("finite coordinates")
        .to_cell(Resolution::Nine)
}

/// Reports whether a cell is in the flat cover of a region.
#[must_use]
pub fn in_cover(region: &Region, cell: CellIndex) -> bool {
    let center = place_of(LatLng::from(cell));
    region.touches(center, circumradius_meters(cell, center))
}

fn circumradius_meters(cell: CellIndex, center: Place) -> f64 {
    cell.boundary()
        .iter()
        .map(|vertex| distance_meters(center, place_of(*vertex)))
        .fold(0.0, f64::max)
}

fn place_of(point: LatLng) -> Place {
    Place::new(point.lat(), point.lng())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::RegionSpec;

    /// Checks all cells near a small circle by sampling its points: every cell with a point of the
    /// circle is in the cover, and no cell of the cover is farther out than its own diameter.
    #[test]
    fn agrees_with_sampling_every_cell() {
        for (lat, lng) in [(22.5, 114.0), (-17.0, 180.0), (89.99, 10.0), (0.0, 0.0)] {
            let center = Place::new(lat, lng);
            let radius_meters = 1_500.0;
            let region = Region::new(&RegionSpec::Circle { center, radius_meters });
            let disk: Vec<CellIndex> = cell_of(center).grid_disk::<Vec<_>>(9);
            let mut inside = 0;
            for cell in disk {
                let middle = place_of(LatLng::from(cell));
                let nearest_vertex = cell
                    .boundary()
                    .iter()
                    .map(|v| distance_meters(center, place_of(*v)))
                    .fold(distance_meters(center, middle), f64::min);
                let covered = in_cover(&region, cell);
                inside += u32::from(covered);
                assert!(
                    covered || nearest_vertex > radius_meters,
                    "a cell with a point inside is in the cover"
                );
                assert!(
                    !covered || nearest_vertex <= radius_meters + 500.0,
                    "nothing is far outside"
                );
            }
            // 7.07 km² at some 0.1 km² per cell, and the rim.
            assert!((60..140).contains(&inside), "{inside} cells");
        }
    }

    #[test]
    fn a_hole_is_left_out_only_where_cells_lie_in_it_whole() {
        let ring = |d: f64| {
            [(-d, -d), (-d, d), (d, d), (d, -d)]
                .iter()
                .map(|(a, b)| Place::new(22.5 + a, 114.0 + b))
                .collect::<Vec<_>>()
        };
        let region =
            Region::new(&RegionSpec::Polygon { outer: ring(0.1), holes: vec![ring(0.02)] });
        assert!(!in_cover(&region, cell_of(Place::new(22.5, 114.0))), "the middle of the hole");
        assert!(in_cover(&region, cell_of(Place::new(22.5, 114.0199))), "cut by its edge");
        assert!(in_cover(&region, cell_of(Place::new(22.5, 114.05))), "the region itself");
        assert!(!in_cover(&region, cell_of(Place::new(22.5, 114.11))), "outside");
    }
}
