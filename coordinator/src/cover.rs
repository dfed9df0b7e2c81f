//! Region to compacted H3 cells of resolution 0 to 9: top-down, geodesic, outward only.
//!
//! A flat cover at resolution 9 of a circle of 120 km has 441,000 cells and takes a second; almost
//! all of these cells lie safely inside. So the descent takes a cell whole if the circle around the
//! cell, with a margin, lies inside the region, drops the cell if that circle lies outside, and
//! descends into the cell's children otherwise. The work is proportional to the rim.
//!
//! **Which cells belong to the cover.** A cell of resolution 9 belongs to the cover if the circle
//! around it (its centre, the largest distance to one of its corners) is not wholly outside the
//! region. An exclusion removes the cell only if that circle lies wholly in the exclusion. The
//! cover errs outwards by at most two such radii, 2 × 222 m, and never inwards.
//!
//! **Why there is a margin.** Descendants of a cell stick out of it by up to 1.067 of its
//! circumradius. [`MARGIN`] covers that, and the circles around the descendants: a decision for a
//! coarse cell only anticipates the decision for each descendant. So the cover is the same set,
//! cell by cell, as the flat cover (a property test compares them).

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

/// Factor by which the circle around a cell grows before one decision covers all descendants.
pub const MARGIN: f64 = 1.08;

/// Largest distance outside a region at which its cover still includes a device, metres.
pub const OVERSHOOT_M_MAX: f64 = 500.0;

/// Limits of one cover: the number of its cells and the work to find them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CellBudget {
    /// Maximum number of cells of the compacted cover.
    pub cells_max: usize,
    /// Maximum work to find the cells, in tests of a disc against an edge; a circle counts as 8.
    pub tests_max: u64,
}

impl Default for CellBudget {
    /// Limits for a circle of 3,000 km.
    ///
    /// A circle of 120 km takes some 3,900 cells, one of 500 km some 16,400: the length of the rim
    /// decides. A cover that is cut into bands has more cells: see
    /// `clarion_proto::limits::COVER_CELLS_MAX`.
    fn default() -> Self {
        // A circle of 3,000 km takes some 5 million tests. 400 million tests take a core a second,
        // also for a thousand circles, or for ten thousand edges from one end of the region to the
        // other.
        Self { cells_max: 100_000, tests_max: 400_000_000 }
    }
}

/// Reason why a region has no cover: a limit of [`CellBudget`]. The caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoverError {
    /// The rim of the region is too long.
    #[error("the region's rim is too long: its cover would need more than {cells_max} cells")]
    Budget {
        /// The limit, [`CellBudget::cells_max`].
        cells_max: usize,
    },
    /// The region has too many shapes, or too many long edges.
    #[error(
        "the region is too intricate: its cover would need more than {tests_max} tests of a cell \
         against an edge"
    )]
    Work {
        /// The limit, [`CellBudget::tests_max`].
        tests_max: u64,
    },
}

/// Finds the cover of a region: ascending, disjoint cells, complete siblings merged. Pure.
///
/// # Errors
/// The cover exceeds a limit of `budget`. The work stops at that limit.
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
    /// Visits a cell; true if the whole cell belongs to the cover. The caller then records the
    /// cell, or merges it with its siblings.
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
        // All children are whole: `cells` holds nothing else since `start`, because the visit of a
        // whole child records nothing itself.
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
