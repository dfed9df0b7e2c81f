//! Regions prepared for many tests: does the region touch a disc, does it contain the disc?

use clarion_proto::region::{Region, Shape};
use h3o::{CellIndex, Resolution};

use super::{
    circle::Circle,
    disc::Disc,
    geodesic::Point,
    polygon::{PIECES_MAX, Polygon, TooManyPieces},
    work::{CELLS, Work},
};

#[derive(Debug)]
pub(super) struct Prepared<'a> {
    shape: PreparedShape<'a>,
    exclusions: Vec<Prepared<'a>>,
}

#[derive(Debug)]
enum PreparedShape<'a> {
    Circle(Circle),
    Polygon(Polygon<'a>),
    Cells(Cells),
    Union(Vec<Prepared<'a>>),
}

impl<'a> Prepared<'a> {
    pub(super) fn new(region: &'a Region) -> Result<Self, TooManyPieces> {
        let mut spare = PIECES_MAX;
        Self::within(region, &mut spare)
    }

    /// Prepares a region with the pieces of edges that are left for it.
    fn within(region: &'a Region, spare: &mut usize) -> Result<Self, TooManyPieces> {
        let all = |regions: &'a [Region], spare: &mut usize| -> Result<Vec<Self>, TooManyPieces> {
            regions.iter().map(|region| Self::within(region, spare)).collect()
        };
        let shape = match &region.shape {
            Shape::Circle { center, radius_m } => PreparedShape::Circle(Circle::new(
                Point { lat_deg: center.lat_deg(), lng_deg: center.lng_deg() },
                *radius_m,
            )),
            Shape::Area(area) => PreparedShape::Polygon(Polygon::new(area, spare)?),
            Shape::Cells(cells) => PreparedShape::Cells(Cells::new(cells)),
            Shape::Union(regions) => PreparedShape::Union(all(regions, spare)?),
        };
        Ok(Self { shape, exclusions: all(&region.exclusions, spare)? })
    }

    /// Whether some of the disc is in the region. An exclusion removes a disc only if the whole
    /// disc lies in it.
    pub(super) fn touches(&self, disc: &Disc, work: &Work) -> bool {
        let shape = match &self.shape {
            PreparedShape::Circle(circle) => circle.touches(disc, work),
            PreparedShape::Polygon(polygon) => polygon.touches(disc, work),
            PreparedShape::Cells(cells) => cells.touches(disc.cell, work),
            PreparedShape::Union(regions) => {
                regions.iter().any(|r| !r.is_far(disc, work) && r.touches(disc, work))
            }
        };
        let removes = |e: &Prepared<'_>| !e.is_far(disc, work) && e.contains(disc, work);
        shape && !self.exclusions.iter().any(removes)
    }

    /// Whether the whole disc is in the region, and no part of the disc is in an exclusion.
    pub(super) fn contains(&self, disc: &Disc, work: &Work) -> bool {
        let shape = match &self.shape {
            PreparedShape::Circle(circle) => circle.contains(disc, work),
            PreparedShape::Polygon(polygon) => polygon.contains(disc, work),
            PreparedShape::Cells(cells) => cells.contains(disc.cell, work),
            PreparedShape::Union(regions) => {
                regions.iter().any(|r| !r.is_far(disc, work) && r.contains(disc, work))
            }
        };
        let reduces = |e: &Prepared<'_>| !e.is_far(disc, work) && e.touches(disc, work);
        shape && !self.exclusions.iter().any(reduces)
    }

    /// Whether a quick test shows that the region is far from the disc.
    fn is_far(&self, disc: &Disc, work: &Work) -> bool {
        matches!(&self.shape, PreparedShape::Circle(circle) if circle.is_far(disc, work))
    }
}

/// A set of cells as sorted, disjoint ranges of resolution-9 indexes: H3 numbers the descendants of
/// a cell together.
#[derive(Debug, Clone)]
struct Cells(Vec<(u64, u64)>);

impl Cells {
    fn new(cells: &[CellIndex]) -> Self {
        let mut ranges: Vec<_> = cells.iter().map(|&c| leaves(c)).collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                // A complete set of siblings contains the parent although no sibling does.
                // `contains` tests range by range, so ranges that follow each other in H3's
                // numbering are joined. Ranges overlap where a cell is given with its ancestor.
                Some(previous) if first <= previous.1 || follows(previous.1, first) => {
                    previous.1 = previous.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    fn touches(&self, cell: CellIndex, work: &Work) -> bool {
        work.add(CELLS);
        let (first, last) = leaves(cell);
        let i = self.0.partition_point(|r| r.1 < first);
        self.0.get(i).is_some_and(|r| r.0 <= last)
    }

    fn contains(&self, cell: CellIndex, work: &Work) -> bool {
        work.add(CELLS);
        let (first, last) = leaves(cell);
        let i = self.0.partition_point(|r| r.1 < first);
        self.0.get(i).is_some_and(|r| r.0 <= first && last <= r.1)
    }
}

/// First and last index of the resolution-9 cells within a cell.
fn leaves(cell: CellIndex) -> (u64, u64) {
    let end =
        |position| cell.child_at(position, Resolution::Nine).map_or(u64::from(cell), u64::from);
    (end(0), end(cell.children_count(Resolution::Nine) - 1))
}

/// Whether no cell of resolution 9 lies between two indexes.
fn follows(previous: u64, next: u64) -> bool {
    CellIndex::try_from(previous)
        .ok()
        .and_then(CellIndex::succ)
        .is_some_and(|cell| u64::from(cell) == next)
}
