//! The flat cover: the cells of one resolution that belong to a region, each tested by itself.
//!
//! A cell belongs to the flat cover if and only if its circumscribed circle is not wholly outside.
//! The coordinator finds cells top-down through coarser ones; here every cell is tested alone, so
//! that the verdict detects a whole branch that was lost by mistake.
//!
//! The rim of a large region has cells of a coarser resolution than 9. The cover takes such a cell
//! whole if its circle with a margin touches the region; the alert's `overshoot_meters` tells the
//! resolution and the circle.

use h3o::{CellIndex, LatLng, Resolution};

use super::geometry::{Region, distance_meters};
use crate::place::Place;

/// Factor by which the circle around a coarse cell of a cover grows.
const MARGIN: f64 = 1.08;
/// Largest distance of a device from the centre of its ancestor cell, as a factor of that circle.
const STICKING_OUT: f64 = 1.067;
/// Overshoot of a cover as a multiple of the mean edge of the rim's cells: between the factors of
/// resolution 9, 2.2, and of the coarser resolutions, 2.4 to 2.7.
const OVERSHOOT_EDGES: f64 = 2.4;

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

/// Reports whether a device at a place is in the cover of a region, for a cover that reaches up to
/// `overshoot_m` outside.
#[must_use]
pub fn covers(region: &Region, place: Place, overshoot_m: f64) -> bool {
    let (leaf, finest) = (cell_of(place), rim_resolution(overshoot_m));
    match leaf.parent(finest) {
        Some(rim) if finest < Resolution::Nine => {
            let circle_m = overshoot_m * MARGIN / (MARGIN + STICKING_OUT);
            region.touches(place_of(LatLng::from(rim)), circle_m)
        }
        _ => in_cover(region, leaf),
    }
}

/// Resolution of the rim's cells in a cover that reaches up to `overshoot_m` outside: the one whose
/// overshoot is nearest by factor. Two neighbouring resolutions differ by a factor of 2.6.
fn rim_resolution(overshoot_m: f64) -> Resolution {
    let factor = |resolution: &Resolution| {
        (overshoot_m / (OVERSHOOT_EDGES * resolution.edge_length_m())).ln().abs()
    };
    let resolutions = Resolution::range(Resolution::Zero, Resolution::Nine);
    resolutions.min_by(|a, b| factor(a).total_cmp(&factor(b))).unwrap_or(Resolution::Nine)
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
    use clarion_coordinator::cover::{CellBudget, cover};
    use clarion_proto::region::{LatLng as Center, Region as Checked};

    use super::*;
    use crate::{population::draws::Draws, scenario::RegionSpec};

    /// The coordinator's covers of all resolutions hold the same devices, one by one.
    #[test]
    fn covers_of_coarse_cells_agree_with_the_coordinator() {
        let mut draws = Draws::new(7, 0, 0);
        for (finest, radius_meters) in [(9, 20_000.0), (8, 60_000.0), (7, 200_000.0), (5, 2e6)] {
            let finest = Resolution::try_from(finest).expect("a resolution");
            let center = Place::new(22.5, 114.0);
            let region = Region::new(&RegionSpec::Circle { center, radius_meters });
            let checked = Center::new(22.5, 114.0).expect("a place");
            let checked = Checked::circle(checked, radius_meters).expect("a circle");
            let budget = CellBudget { finest, ..CellBudget::default() };
            let Ok(cover) = cover(&checked, budget) else {
                continue; // further outside than the contract allows
            };
            let overshoot_m = cover.overshoot_m();
            assert_eq!(rim_resolution(overshoot_m), finest);
            let mut cells = cover.to_vec();
            cells.sort_unstable();
            let (mut held, mut outside) = (0, 0);
            for _ in 0..2_000 {
                let meters = radius_meters + overshoot_m * (3.0 * draws.unit() - 1.5);
                let place = center.toward(draws.unit() * std::f64::consts::TAU, meters);
                let leaf = cell_of(place);
                let expected = (0..=9_u8).any(|resolution| {
                    let resolution = Resolution::try_from(resolution).expect("a resolution");
                    leaf.parent(resolution).is_some_and(|cell| cells.binary_search(&cell).is_ok())
                });
                assert_eq!(covers(&region, place, overshoot_m), expected, "{finest} {meters}");
                held += u32::from(expected);
                outside += u32::from(expected && meters > radius_meters);
            }
            assert!((200..1_990).contains(&held) && outside > 50, "{finest}: {held}, {outside}");
        }
    }

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
