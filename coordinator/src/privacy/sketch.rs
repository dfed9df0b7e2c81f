//! Sketch of a cover, some 2 KB for any size, to find out whether two covers are nearly equal.
//!
//! A sketch keeps those [`KEPT`] cells of a cover, at one resolution, that have the smallest
//! hashes. They are a fair sample of the cover, and other covers with these cells keep the same
//! cells: among the smallest hashes of both covers, the part that both covers have estimates the
//! part that the covers share (Broder's bottom-k sketch). This works for polygons, circles and
//! unions alike.
//!
//! A cover is sampled at the finest resolution at which it has at most [`CELLS_MAX`] cells, and at
//! the next coarser resolution: two nearly equal covers have one of the two resolutions in common,
//! also where one cover has a cell more than the limit.

use h3o::{CellIndex, Resolution};

/// Number of cells of a sample: covers that share 99 % are estimated at 99 ± 0.9 %.
const KEPT: usize = 128;
/// Approximate maximum number of cells that are hashed for a sample, in under a millisecond.
const CELLS_MAX: f64 = 50_000.0;
/// Smallest part that two nearly equal covers share.
const SHARED_MIN: f64 = 0.95;
/// Largest difference, in cells of resolution 9, at which two covers are nearly equal in any case.
///
/// It is some 1 km² ([`super::REGION_KM2_MIN`]): the difference is a region, and smaller regions
/// must not be counted.
const DIFFERENCE_MAX: f64 = 10.0;

/// Samples of a cover at two resolutions.
#[derive(Debug, Clone, PartialEq)]
pub struct Sketch([Sample; 2]);

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    resolution: Resolution,
    cells: u64,
    /// The smallest hashes of the cover's cells, ascending.
    smallest: Vec<u64>,
}

impl Sketch {
    /// Makes the sketch of a cover: disjoint cells of resolution 0 to 9.
    #[must_use]
    pub fn of(cover: &[CellIndex]) -> Self {
        let mut resolution = Resolution::Nine;
        // Number of cells of a resolution that have the area of the cover: a child has a seventh of
        // its parent's area.
        let count = |at: Resolution| {
            let of = |cell: &CellIndex| {
                7_f64.powi(i32::from(u8::from(at)) - i32::from(u8::from(cell.resolution())))
            };
            cover.iter().map(of).sum::<f64>()
        };
        while count(resolution) > CELLS_MAX
            && let Some(coarser) = resolution.pred()
        {
            resolution = coarser;
        }
        let finer = Sample::of(cover, resolution);
        let coarser =
            resolution.pred().map_or_else(|| finer.clone(), |coarser| Sample::of(cover, coarser));
        Self([finer, coarser])
    }

    /// Whether two covers are nearly equal.
    #[must_use]
    pub fn is_near(&self, other: &Self) -> bool {
        let pairs = self.0.iter().flat_map(|mine| other.0.iter().map(move |theirs| (mine, theirs)));
        // Compares at the finest resolution that both sketches have.
        let common = pairs.filter(|(mine, theirs)| mine.resolution == theirs.resolution);
        common
            .max_by_key(|(mine, _)| u8::from(mine.resolution))
            .is_some_and(|(mine, theirs)| mine.is_near(theirs))
    }
}

impl Sample {
    fn of(cover: &[CellIndex], resolution: Resolution) -> Self {
        let mut hashes: Vec<u64> = Vec::new();
        for cell in cover {
            match cell.parent(resolution) {
                Some(around) => hashes.push(hash(around)),
                None => hashes.extend(cell.children(resolution).map(hash)),
            }
        }
        hashes.sort_unstable();
        hashes.dedup();
        let cells = hashes.len() as u64;
        hashes.truncate(KEPT);
        hashes.shrink_to_fit();
        Self { resolution, cells, smallest: hashes }
    }

    fn is_near(&self, other: &Self) -> bool {
        let (mut mine, mut theirs) =
            (self.smallest.iter().peekable(), other.smallest.iter().peekable());
        let (mut seen, mut both) = (0_u32, 0_u32);
        // Visits the smallest hashes of both samples together; both are complete for that many.
        while seen < u32::try_from(KEPT).expect("small") {
            match (mine.peek(), theirs.peek()) {
                (None, None) => break,
                (Some(a), Some(b)) if a == b => {
                    both += 1;
                    mine.next();
                    theirs.next();
                }
                (Some(a), Some(b)) if a < b => drop(mine.next()),
                (Some(_), None) => drop(mine.next()),
                (_, Some(_)) => drop(theirs.next()),
            }
            seen += 1;
        }
        let shared = f64::from(both) / f64::from(seen.max(1));
        // |A ∪ B| = (|A| + |B|) / (1 + shared); the part that is not shared is the difference.
        let difference = (1.0 - shared) * (self.cells + other.cells) as f64 / (1.0 + shared);
        shared >= SHARED_MIN
            || (self.resolution == Resolution::Nine && shared > 0.0 && difference <= DIFFERENCE_MAX)
    }
}

fn hash(cell: CellIndex) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&u64::from(cell).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use clarion_proto::region::{LatLng, Region};

    use super::*;
    use crate::cover::{CellBudget, cover};

    fn circle(lat_deg: f64, lng_deg: f64, radius_m: f64) -> Vec<CellIndex> {
        let center = LatLng::new(lat_deg, lng_deg).expect("on the globe");
        cover(&Region::circle(center, radius_m).expect("valid"), CellBudget::default())
            .expect("within budget")
            .to_vec()
    }

    #[test]
    fn circles_that_differ_by_little_are_nearly_the_same() {
        for radius_m in [600.0, 3_000.0, 12_000.0, 40_000.0, 120_000.0, 500_000.0] {
            let first = Sketch::of(&circle(22.5, 114.0, radius_m));
            // 50 m is less than a cell; a degree is 111 km.
            for (what, other) in [
                ("the same", circle(22.5, 114.0, radius_m)),
                ("50 m wider", circle(22.5, 114.0, radius_m + 50.0)),
                ("50 m further", circle(22.5 + 50.0 / 111_000.0, 114.0, radius_m)),
                ("a hundredth wider", circle(22.5, 114.0, radius_m * 1.01)),
            ] {
                assert!(first.is_near(&Sketch::of(&other)), "{what} than {radius_m} m");
            }
            for (what, other) in [
                ("elsewhere", circle(22.5, 118.0, radius_m.min(150_000.0))),
                ("three times as wide", circle(22.5, 114.0, radius_m * 3.0)),
                (
                    "a third further",
                    circle(
                        22.5 + radius_m.max(2_500.0) / 3.0 / 111_000.0,
                        114.0,
                        radius_m.max(2_500.0),
                    ),
                ),
            ] {
                assert!(!first.is_near(&Sketch::of(&other)), "{what} than {radius_m} m");
            }
        }
    }

    /// One more cell of resolution 9 never makes another region, also where the resolution of the
    /// sample changes.
    #[test]
    fn one_cell_more_is_nearly_the_same() {
        for radius_m in [600.0, 2_000.0, 39_800.0, 105_000.0] {
            let cells = circle(48.1, 11.6, radius_m);
            let sketch = Sketch::of(&cells);
            let far = circle(49.5, 13.0, 100.0)[0];
            let more: Vec<CellIndex> = cells.iter().copied().chain([far]).collect();
            assert!(sketch.is_near(&Sketch::of(&more)), "{radius_m}");
            let fewer: Vec<CellIndex> = cells[..cells.len() - 1].to_vec();
            assert!(sketch.is_near(&Sketch::of(&fewer)) || cells.len() < 200, "{radius_m}");
        }
        // At the limit of cells itself.
        let base = h3o::CellIndex::try_from(0x86411ca07ffffff_u64)
            .expect("a cell")
            .parent(Resolution::Three)
            .expect("coarser");
        let leaves: Vec<CellIndex> = base.children(Resolution::Nine).take(50_001).collect();
        let (below, above) = (Sketch::of(&leaves[..50_000]), Sketch::of(&leaves));
        assert_ne!(below.0[0].resolution, above.0[0].resolution);
        assert!(below.is_near(&above) && above.is_near(&below));
    }
}
