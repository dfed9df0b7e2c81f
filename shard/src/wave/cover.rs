//! The bands of a wave, as sorted ranges of keys.
//!
//! A cover arrives as cells of mixed resolutions: a large cell stands for the thousands of small
//! ones in it. In the order of H3 indices all descendants of a cell are adjacent, so each cell
//! becomes one range, from its lowest to its highest descendant of resolution 9, and adjacent
//! ranges are joined. A walk then queries pages by range, and a device's band is one binary search;
//! no cell is expanded.

use clarion_proto::device::Cell;
use h3o::{CellIndex, Resolution};

use super::room;
use crate::partition::key::{Key, Place};

pub(crate) mod grain;

/// Bands of disjoint cells; all cores share one cover.
pub struct Cover {
    bands: Vec<Band>,
    /// All ranges in order, each with its band.
    ranges: Vec<(Range, u32)>,
    /// Resolution of the cells by which the wave is reported.
    reported: Resolution,
    /// Reservation of the memory for the cover and all other data of its wave.
    place: Option<room::Place>,
}

/// Builder of a cover from cells that arrive in pieces of any size and in any order.
pub struct CoverBuilder {
    bands: Vec<Band>,
    ranges: usize,
}

struct Band {
    from_m: f64,
    to_m: f64,
    /// Ranges in order, disjoint and joined where adjacent.
    ranges: Vec<Range>,
}

/// Memory of one range, bytes: it is stored in its band and in the list of all ranges.
const RANGE_BYTES: usize = size_of::<Range>() + size_of::<(Range, u32)>();

/// A range of keys at adjacent cells, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Range {
    pub(super) first: Key,
    pub(super) last: Key,
}

/// Error for an invalid cover: a defect of the sender, so a retry cannot help. The text never names
/// a cell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoverError {
    /// The number of bands exceeds 32 bits.
    #[error("bands: must be fewer than 2^32; got {bands}")]
    TooManyBands {
        /// Number of bands announced.
        bands: usize,
    },
    /// The band of the cells was not announced.
    #[error("band {band}: must be below the number of bands; got {bands} bands")]
    NoBand {
        /// Number of the band.
        band: u32,
        /// Number of bands announced.
        bands: usize,
    },
    /// The limits of the bands do not ascend.
    #[error("band {band}: distances must be numbers and ascend from near to far")]
    Limits {
        /// Number of the band.
        band: u32,
    },
    /// The number is not an H3 cell index.
    #[error("band {band}: cell {at}: must be an H3 cell index")]
    NotACell {
        /// Number of the band.
        band: u32,
        /// Position of the cell in its band, counted from 0.
        at: usize,
    },
    /// The cell is finer than resolution 9, the resolution of places.
    #[error("band {band}: cell {at}: must not be finer than resolution 9")]
    TooFine {
        /// Number of the band.
        band: u32,
        /// Position of the cell in its band, counted from 0.
        at: usize,
    },
    /// Two cells overlap, so a device could be returned twice and its band would be undefined.
    #[error("bands {one} and {other}: must not overlap")]
    Overlap {
        /// The lower band number.
        one: u32,
        /// The higher band number; equal if both cells are in one band.
        other: u32,
    },
}

impl Cover {
    /// Builds a cover from bands, nearest first: (from metres, to metres, compacted cells of
    /// resolution 0 to 9 in any order).
    ///
    /// # Errors
    /// The defect of the cover.
    pub fn new(bands: &[(f64, f64, Vec<u64>)]) -> Result<Self, CoverError> {
        let mut builder =
            CoverBuilder::new(bands.iter().map(|(from_m, to_m, _)| (*from_m, *to_m)))?;
        for (number, (_, _, cells)) in (0..).zip(bands) {
            builder.add(number, cells)?;
        }
        builder.finish()
    }

    /// Returns the memory of the ranges, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.ranges.len() * RANGE_BYTES
    }

    /// Stores the memory reservation, which is released when the last core drops the cover.
    pub fn keep_place(&mut self, place: room::Place) {
        self.place = Some(place);
    }

    /// Returns the number of bands.
    #[must_use]
    pub fn bands(&self) -> u32 {
        u32::try_from(self.bands.len()).expect("checked when it was made")
    }

    /// Returns the resolution of the cells by which the wave is reported: see [`grain`].
    #[must_use]
    pub fn reported(&self) -> Resolution {
        self.reported
    }

    /// Returns the limits of a band, metres from the place last seen.
    #[must_use]
    pub fn limits(&self, band: u32) -> Option<(f64, f64)> {
        self.bands.get(band as usize).map(|b| (b.from_m, b.to_m))
    }

    /// Returns the band of a cell; `None` outside the cover.
    #[must_use]
    pub fn band_of(&self, cell: Cell) -> Option<u32> {
        let key = Key::first_at(cell.into());
        let behind = self.ranges.partition_point(|(range, _)| range.first <= key);
        let (range, band) = self.ranges.get(behind.checked_sub(1)?)?;
        (key <= range.last).then_some(*band)
    }

    /// Returns the ranges of a band in order; `None` if the cover has no such band.
    pub(super) fn ranges(&self, band: u32) -> Option<&[Range]> {
        self.bands.get(band as usize).map(|b| b.ranges.as_slice())
    }
}

impl CoverBuilder {
    /// Creates a builder for bands without their cells, nearest first: (from metres, to metres).
    ///
    /// # Errors
    /// The defect of the limits.
    pub fn new(limits: impl IntoIterator<Item = (f64, f64)>) -> Result<Self, CoverError> {
        let mut bands: Vec<Band> = Vec::new();
        for (from_m, to_m) in limits {
            let band = u32::try_from(bands.len())
                .map_err(|_| CoverError::TooManyBands { bands: bands.len() })?;
            // Written so that a NaN is refused.
            let behind = bands.last().is_none_or(|nearer| nearer.from_m <= from_m);
            if !(behind && from_m.is_finite() && to_m.is_finite() && from_m <= to_m) {
                return Err(CoverError::Limits { band });
            }
            bands.push(Band { from_m, to_m, ranges: Vec::new() });
        }
        Ok(Self { bands, ranges: 0 })
    }

    /// Adds cells of a band.
    ///
    /// # Errors
    /// The defect of the cells; positions are counted from the first cell of this call. The builder
    /// cannot be used afterwards.
    pub fn add(&mut self, band: u32, cells: &[u64]) -> Result<(), CoverError> {
        let bands = self.bands.len();
        let Some(into) = self.bands.get_mut(band as usize) else {
            return Err(CoverError::NoBand { band, bands });
        };
        let mut ranges = Vec::with_capacity(cells.len());
        for (at, &index) in cells.iter().enumerate() {
            ranges.push(range_of(index, band, at)?);
        }
        join(&mut ranges, band)?;
        self.ranges += ranges.len();
        if into.ranges.is_empty() {
            ranges.shrink_to_fit();
            into.ranges = ranges;
        } else {
            into.ranges.reserve_exact(ranges.len());
            into.ranges.append(&mut ranges);
        }
        Ok(())
    }

    /// Returns an upper bound for the memory of a cover of all cells so far, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.ranges * RANGE_BYTES
    }

    /// Builds the cover of all cells that were added.
    ///
    /// # Errors
    /// [`CoverError::Overlap`] if two cells overlap.
    pub fn finish(self) -> Result<Cover, CoverError> {
        let mut cover = Cover {
            bands: self.bands,
            ranges: Vec::with_capacity(self.ranges),
            reported: Resolution::Zero,
            place: None,
        };
        for (number, band) in (0..).zip(&mut cover.bands) {
            join(&mut band.ranges, number)?;
            cover.ranges.extend(band.ranges.iter().map(|range| (*range, number)));
        }
        cover.ranges.sort_unstable();
        if let Some([(_, a), (_, b)]) =
            cover.ranges.array_windows().find(|[(lower, _), (upper, _)]| upper.first <= lower.last)
        {
            return Err(CoverError::Overlap { one: *a.min(b), other: *a.max(b) });
        }
        cover.reported = grain::of(&cover.ranges);
        Ok(cover)
    }
}

/// Sorts ranges and joins adjacent ones.
fn join(ranges: &mut Vec<Range>, band: u32) -> Result<(), CoverError> {
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| pair[1].first <= pair[0].last) {
        return Err(CoverError::Overlap { one: band, other: band });
    }
    ranges.dedup_by(|next, kept| {
        let touches = kept.last.next() == next.first;
        if touches {
            kept.last = next.last;
        }
        touches
    });
    Ok(())
}

/// Prints counts, but no place.
impl std::fmt::Debug for CoverBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CoverBuilder")
            .field("bands", &self.bands.len())
            .field("ranges", &self.ranges)
            .finish()
    }
}

/// Prints counts, but no place.
impl std::fmt::Debug for Cover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cover")
            .field("bands", &self.bands.len())
            .field("ranges", &self.ranges.len())
            .finish()
    }
}

/// Returns the range of all keys at places in a cell.
///
/// A digit of an H3 index is 0 to 6, and 7 where it is unused. The lowest descendant has zeros in
/// place of the sevens. The highest has sixes, but the sevens serve as well, because no descendant
/// lies between them. With sevens the ranges of one child and the next touch, so that they are
/// joined.
fn range_of(index: u64, band: u32, at: usize) -> Result<Range, CoverError> {
    let cell = CellIndex::try_from(index).map_err(|_| CoverError::NotACell { band, at })?;
    if cell.resolution() > Resolution::Nine {
        return Err(CoverError::TooFine { band, at });
    }
    let finer = Resolution::Nine as u32 - cell.resolution() as u32;
    let last = Place::of_index(index);
    let first = Place::from_bits(last.bits() & !((1 << (3 * finer)) - 1));
    Ok(Range { first: Key::first_at(first), last: Key::last_at(last) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use h3o::LatLng;

    fn cell(lat: f64, lng: f64, resolution: Resolution) -> CellIndex {
        LatLng::new(lat, lng).expect("finite").to_cell(resolution)
    }

    fn band(from: f64, to: f64, cells: &[CellIndex]) -> (f64, f64, Vec<u64>) {
        (from, to, cells.iter().map(|c| u64::from(*c)).collect())
    }

    /// Checks that exactly the descendants of a cell are in its band, pentagons included.
    #[test]
    fn a_cell_covers_its_descendants() {
        let pentagon = CellIndex::base_cells().find(|c| c.is_pentagon()).expect("there are twelve");
        for ancestor in [
            cell(22.5, 114.0, Resolution::Six),
            pentagon.center_child(Resolution::Five).expect("finer"),
        ] {
            let cover = Cover::new(&[band(0.0, 1.0, &[ancestor])]).unwrap();
            for inside in ancestor.children(Resolution::Nine) {
                assert_eq!(cover.band_of(inside.into()), Some(0));
            }
            for neighbour in ancestor.grid_disk::<Vec<_>>(1).into_iter().filter(|c| *c != ancestor)
            {
                assert!(
                    neighbour.children(Resolution::Nine).all(|c| cover.band_of(c.into()).is_none())
                );
            }
        }
    }

    /// A cover of the whole world at resolution 0 contains every cell.
    #[test]
    fn the_whole_world() {
        let cover =
            Cover::new(&[band(0.0, 2e7, &CellIndex::base_cells().collect::<Vec<_>>())]).unwrap();
        for (lat, lng) in [(22.5, 114.0), (-89.9, 10.0), (0.0, -180.0), (64.7, 10.5)] {
            assert_eq!(cover.band_of(cell(lat, lng, Resolution::Nine).into()), Some(0));
        }
        assert_eq!(cover.ranges(0).unwrap().len(), 1);
    }

    #[test]
    fn touching_ranges_of_a_band_become_one() {
        let parent = cell(22.5, 114.0, Resolution::Seven);
        let mut children: Vec<_> = parent.children(Resolution::Eight).collect();
        children.reverse();
        let (near, far) = children.split_at(3);
        let cover = Cover::new(&[band(0.0, 1.0, near), band(1.0, 2.0, far)]).unwrap();
        assert_eq!([cover.ranges(0).unwrap().len(), cover.ranges(1).unwrap().len()], [1, 1]);
        for (number, cells) in [(0, near), (1, far)] {
            for c in cells.iter().flat_map(|c| c.children(Resolution::Nine)) {
                assert_eq!(cover.band_of(c.into()), Some(number));
            }
        }
        assert_eq!((cover.bands(), cover.limits(1), cover.limits(2)), (2, Some((1.0, 2.0)), None));
    }

    #[test]
    fn defects_of_the_sender_are_named() {
        let nine = cell(22.5, 114.0, Resolution::Nine);
        let ten = cell(22.5, 114.0, Resolution::Ten);
        let seven = cell(22.5, 114.0, Resolution::Seven);
        let error = |bands: &[_]| Cover::new(bands).unwrap_err();
        assert_eq!(
            error(&[(0.0, 1.0, vec![nine.into(), 7])]),
            CoverError::NotACell { band: 0, at: 1 }
        );
        assert_eq!(error(&[band(0.0, 1.0, &[ten])]), CoverError::TooFine { band: 0, at: 0 });
        assert_eq!(
            error(&[band(0.0, 1.0, &[nine, nine])]),
            CoverError::Overlap { one: 0, other: 0 }
        );
        let apart = [band(0.0, 1.0, &[nine]), band(1.0, 2.0, &[]), band(2.0, 3.0, &[seven])];
        assert_eq!(error(&apart), CoverError::Overlap { one: 0, other: 2 });
        for (from, to) in [(f64::NAN, 1.0), (0.0, f64::INFINITY), (2.0, 1.0)] {
            assert_eq!(error(&[band(from, to, &[])]), CoverError::Limits { band: 0 });
        }
        assert_eq!(
            error(&[band(2.0, 3.0, &[]), band(1.0, 2.0, &[])]),
            CoverError::Limits { band: 1 }
        );
    }

    #[test]
    fn an_empty_cover_takes_nobody() {
        let cover = Cover::new(&[]).unwrap();
        assert_eq!(
            (cover.bands(), cover.band_of(cell(0.0, 0.0, Resolution::Nine).into())),
            (0, None)
        );
    }
}
