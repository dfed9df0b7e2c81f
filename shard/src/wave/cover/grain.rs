//! Resolution of the cells by which a wave is reported: the finest, at most 6, in which the cover
//! has at most [`CELLS_MAX`] cells.
//!
//! A map of a large region needs coarser cells, but every device: so all devices of a wave are
//! counted in cells of one resolution, instead of some in cells and the rest nowhere. Every node
//! has the whole cover, so all nodes choose the same resolution, also after a restart.

use h3o::Resolution;

use super::{Place, Range};

/// Maximum number of cells by which a wave is reported. A radius of 120 km has some 1,300 cells of
/// resolution 6, one of 500 km some 22,000, which are 3,200 of resolution 5.
pub(crate) const CELLS_MAX: u64 = 20_000;
/// Finest resolution of reports: 36 km².
const FINEST: Resolution = Resolution::Six;

/// Returns the resolution for the ranges of a cover, which ascend.
pub(super) fn of(ranges: &[(Range, u32)]) -> Resolution {
    let mut resolution = FINEST;
    while let Some(coarser) = resolution.pred() {
        if cells(ranges, resolution) <= CELLS_MAX {
            break;
        }
        resolution = coarser;
    }
    resolution
}

/// Counts the cells of a resolution that hold a place of the ranges. Pentagons count as hexagons,
/// so the result may be too high by a few cells, never too low.
fn cells(ranges: &[(Range, u32)], resolution: Resolution) -> u64 {
    let mut counted = 0;
    let mut last = None;
    for (range, _) in ranges {
        let first = number(range.first.place(), resolution);
        let end = number(range.last.place(), resolution);
        counted += end - first + u64::from(last != Some(first));
        last = Some(end);
    }
    counted
}

/// Number of the cell of a resolution around a place, in the order of H3 indices and without gaps:
/// the digits are 0 to 6. The highest place of a coarser cell has sevens, which stand for sixes.
fn number(place: Place, resolution: Resolution) -> u64 {
    let digits = u32::from(u8::from(resolution));
    let base = place.bits() >> 27;
    (1..=digits)
        .fold(base, |number, digit| number * 7 + (place.bits() >> (27 - 3 * digit) & 7).min(6))
}

#[cfg(test)]
mod tests {
    use h3o::{CellIndex, LatLng};
    use proptest::prelude::*;

    use super::{super::range_of, *};

    fn ranges(cells: impl IntoIterator<Item = CellIndex>) -> Vec<(Range, u32)> {
        let ranges =
            cells.into_iter().map(|cell| (range_of(cell.into(), 0, 0).expect("a cell"), 0));
        let mut ranges: Vec<_> = ranges.collect();
        ranges.sort_unstable();
        ranges
    }

    fn around(resolution: Resolution, rings: u32) -> Vec<(Range, u32)> {
        let center = LatLng::new(35.0, 105.0).expect("finite").to_cell(resolution);
        ranges(center.grid_disk::<Vec<_>>(rings))
    }

    #[test]
    fn a_city_is_reported_finely_and_a_country_coarsely() {
        assert_eq!(of(&around(Resolution::Seven, 50)), Resolution::Six);
        // 81 rings of resolution 6 are 19,927 cells, 82 are 20,419.
        assert_eq!(of(&around(Resolution::Six, 81)), Resolution::Six);
        assert_eq!(of(&around(Resolution::Six, 82)), Resolution::Five);
        assert_eq!(of(&ranges(CellIndex::base_cells())), Resolution::Two);
        assert_eq!(of(&[]), Resolution::Six);
    }

    proptest! {
        #[test]
        fn cells_are_counted_as_h3_counts_them(
            lat in -60.0..60.0_f64, lng in -180.0..180.0_f64, rings in 0_u32..6,
            fine in 5_u8..=9, asked in 3_u8..=6,
        ) {
            let fine = Resolution::try_from(fine).expect("0 to 15");
            let asked = Resolution::try_from(asked).expect("0 to 15");
            let center = LatLng::new(lat, lng).expect("finite").to_cell(fine);
            let disk: Vec<CellIndex> = center.grid_disk(rings);
            let expected: std::collections::BTreeSet<CellIndex> = disk.iter().flat_map(|cell| {
                match cell.parent(asked) {
                    Some(parent) => vec![parent],
                    None => cell.children(asked).collect(),
                }
            }).collect();
            let counted = cells(&ranges(disk), asked);
            let pentagon = expected.iter().any(|cell| cell.is_pentagon());
            prop_assert!(counted == expected.len() as u64 || pentagon && counted > expected.len() as u64);
        }
    }
}
