//! Region to compacted H3 cells of resolution 0 to 9: top-down, geodesic, outward only.
//!
//! A flat cover at resolution 9 of a circle of 120 km is 441,000 cells and a second of work; almost
//! all of them lie safely inside. So a cell is taken whole if the circle around it, with a margin,
//! lies inside; dropped if that circle lies outside; and only else descended. The work is
//! proportional to the rim.
//!
//! **What is in.** A cell of resolution 9 belongs to the cover if the circle around it (its centre,
//! the largest distance to one of its corners) is not wholly outside the region; it is left out by
//! an exclusion only if that circle lies in the exclusion whole. That errs outwards by at most two
//! such radii, 2 × 222 m, never inwards.
//!
//! **Why the margin.** Descendants of a cell stick out of it, by up to 1.067 of its circumradius.
//! [`MARGIN`] covers that with the circles around them: the coarser decisions only anticipate what
//! every descendant would decide, so the cover is the same set, cell by cell, as the flat one (a
//! property test holds it to that).

mod area;
mod circle;
mod disc;
mod geodesic;
mod polygon;
mod shape;
mod work;

use clarion_proto::region::Region;
use h3o::{CellIndex, Resolution};

pub(crate) use self::disc::{CIRCUMRADIUS_M_MAX, center_of};
pub(crate) use self::geodesic::{Origin, Point};
pub use self::{area::area_km2, geodesic::distance_m};
use self::{disc::Disc, shape::Prepared, work::Work};

/// By how much the circle around a cell grows before a decision is taken for all of its
/// descendants.
pub const MARGIN: f64 = 1.08;

/// Furthest that somebody outside the region can be and still be in its cover, metres.
pub const OVERSHOOT_M_MAX: f64 = 500.0;

/// How large a cover may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CellBudget {
    /// Cells of the result, compacted.
    pub cells_max: usize,
    /// Work to find them, in tests of a disc against an edge; a circle counts as 8.
    pub tests_max: u64,
}

impl Default for CellBudget {
    /// A circle of 120 km takes some 3,900 cells, one of 500 km some 16,400: the rim decides.
    /// 100,000 allow a circle of 3,000 km. Cut into bands it has more: see
    /// `clarion_proto::limits::COVER_CELLS_MAX`.
    fn default() -> Self {
        // A circle of 3,000 km takes some 5 million tests. This many are a second of a core,
        // whatever the region is made of: a thousand circles, or ten thousand edges from one end of
        // it to the other.
        Self { cells_max: 100_000, tests_max: 400_000_000 }
    }
}

/// Why there is no cover.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoverError {
    /// The caller's fault: the rim of the region is too long.
    #[error("the region's rim is too long: its cover would need more than {cells_max} cells")]
    Budget {
        /// The limit.
        cells_max: usize,
    },
    /// The caller's fault: the region is made of too many shapes, or of too many long edges.
    #[error(
        "the region is too intricate: its cover would need more than {tests_max} tests of a cell against an edge"
    )]
    Work {
        /// The limit.
        tests_max: u64,
    },
}

/// The cover of a region, ascending, disjoint, siblings merged. Pure.
///
/// # Errors
/// The budget is spent; the work until then is bounded by it.
pub fn cover(region: &Region, budget: CellBudget) -> Result<Vec<CellIndex>, CoverError> {
    let prepared = Prepared::new(region);
    let mut descent =
        Descent { region: &prepared, cells: Vec::new(), budget, work: Work::default() };
    for base in CellIndex::base_cells() {
        if descent.visit(base)? {
            descent.cells.push(base);
        }
    }
    Ok(descent.cells)
}

struct Descent<'a> {
    region: &'a Prepared,
    cells: Vec<CellIndex>,
    budget: CellBudget,
    work: Work,
}

impl Descent<'_> {
    /// True: the cell is in whole, and it is the caller who writes it down, or merges it with its
    /// siblings.
    fn visit(&mut self, cell: CellIndex) -> Result<bool, CoverError> {
        let disc = Disc::around(cell);
        if self.work.done() > self.budget.tests_max {
            return Err(CoverError::Work { tests_max: self.budget.tests_max });
        }
        if !self.region.touches(&disc, &self.work) {
            return Ok(false);
        }
        let Some(finer) = cell.resolution().succ().filter(|&finer| finer <= Resolution::Nine)
        else {
            return Ok(true);
        };
        if self.region.contains(&disc, &self.work) {
            return Ok(true);
        }
        let start = self.cells.len();
        let mut whole = true;
        for child in cell.children(finer) {
            if self.visit(child)? {
                self.cells.push(child);
            } else {
                whole = false;
            }
        }
        // All children whole: nothing else was written since `start`, for a whole child writes
        // nothing of its own.
        if whole {
            self.cells.truncate(start);
        }
        if self.cells.len() > self.budget.cells_max {
            return Err(CoverError::Budget { cells_max: self.budget.cells_max });
        }
        Ok(whole)
    }
}

#[cfg(test)]
mod tests;
