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
//! **Large regions.** The descent goes resolution by resolution. If the rim is so long that the
//! next resolution would take too many cells or too much work, the descent ends, and the cover
//! takes the rim's cells whole: it reaches further outside, by a distance that it tells. That is
//! allowed up to 0.2 % of the region's extent.
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
mod space;
mod work;

use std::ops::Deref;

use clarion_proto::{
    datum::Datum,
    region::{Region, Shape},
};
use h3o::{CellIndex, Resolution};

pub(crate) use self::disc::{CIRCUMRADIUS_M_MAX, center_of};
pub(crate) use self::geodesic::{Origin, Point};
pub(crate) use self::work::{PLACED, Stopped, Work};
pub use self::{area::area_km2, geodesic::distance_m};
use self::{
    disc::Disc,
    shape::Prepared,
    space::{Box3, place},
};

/// Factor by which the circle around a cell grows before one decision covers all descendants.
pub const MARGIN: f64 = 1.08;

/// Distance outside a region at which its cover may include a device in any case, metres.
pub const OVERSHOOT_M_MAX: f64 = 500.0;
/// The same as a part of the region's extent.
pub const OVERSHOOT_PART_MAX: f64 = 0.002;

/// Limits of one cover: the number of its cells and the work to find them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CellBudget {
    /// Maximum number of cells of the compacted cover.
    pub cells_max: usize,
    /// Maximum work to find the cells, in units of about one nanosecond of a core.
    pub work_max: u64,
    /// Resolution at which the descent ends, 9 or less.
    pub finest: Resolution,
}

impl Default for CellBudget {
    /// Limits for a circle of some 2,000 km at resolution 9, and for larger ones at a coarser one.
    ///
    /// A circle of 120 km takes some 3,900 cells, one of 500 km some 16,400: the length of the rim
    /// decides. A cover that is cut into bands has more cells: see
    /// `clarion_proto::limits::COVER_CELLS_MAX`.
    fn default() -> Self {
        Self { cells_max: 100_000, work_max: 250_000_000, finest: Resolution::Nine }
    }
}

/// Reason why a region has no cover.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum CoverError {
    /// The rim of the region is too long or too intricate for its extent: the caller's fault.
    #[error(
        "the region's rim is too long or too intricate for a cover of {cells_max} cells: the \
         cover would reach {needed_m:.0} m outside the region, and at most {allowed_m:.0} m are \
         allowed; simplify the rim or divide the region"
    )]
    Overshoot {
        /// The limit, [`CellBudget::cells_max`].
        cells_max: usize,
        /// Distance outside the region that the limits would need, metres.
        needed_m: f64,
        /// Largest distance that is allowed for the region's extent, metres.
        allowed_m: f64,
    },
    /// The region has too many edges of hundreds of kilometres: the caller's fault.
    #[error("the region has too many long edges; simplify it or divide the region")]
    LongEdges,
    /// Nobody waits for the cover any more.
    #[error("the request was abandoned")]
    Abandoned,
}

/// Cells that cover a region: ascending, disjoint, complete siblings merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cover {
    cells: Vec<CellIndex>,
    finest: Resolution,
    /// Datum that decides how far the cover reaches outside.
    datum: Datum,
}

impl Cover {
    /// Resolution at which the descent ended.
    #[must_use]
    pub fn finest(&self) -> Resolution {
        self.finest
    }

    /// Largest distance outside the region at which the cover includes a device, metres.
    #[must_use]
    pub fn overshoot_m(&self) -> f64 {
        overshoot_m(self.finest, self.datum)
    }
}

impl Deref for Cover {
    type Target = [CellIndex];

    fn deref(&self) -> &[CellIndex] {
        &self.cells
    }
}

/// Growth of the rim, in cells, from one resolution to the next: the square root of 7 children.
const LEVEL_GROWTH: f64 = 2.65;

/// Finds the cover of a region. Pure: the same region and budget give the same cover.
///
/// # Errors
/// The limits of `budget` do not suffice for a cover of the allowed overshoot.
pub fn cover(region: &Region, budget: CellBudget) -> Result<Cover, CoverError> {
    cover_within(region, budget, &Work::of(budget.work_max))
}

/// Finds the cover of a region as [`cover`] does; `work` counts and ends the work.
pub(crate) fn cover_within(
    region: &Region,
    budget: CellBudget,
    work: &Work,
) -> Result<Cover, CoverError> {
    let prepared = Prepared::new(region).map_err(|_| CoverError::LongEdges)?;
    let mut descent = Descent { region: &prepared, whole: Vec::new(), rim: Vec::new() };
    let mut finest = Resolution::Zero;
    descent.begin(work);
    while let Some(finer) = finest.succ().filter(|&finer| finer <= budget.finest) {
        let before = work.done();
        match descent.refine(finer, budget.cells_max, work) {
            Ok(true) => finest = finer,
            Ok(false) | Err(Stopped::Exhausted) => break,
            Err(Stopped::Abandoned) => return Err(CoverError::Abandoned),
        }
        let levels = u8::from(budget.finest) - u8::from(finest);
        let expected = (work.done() - before) as f64 * LEVEL_GROWTH.powi(levels.into());
        if work.is_hopeless(expected) {
            return Err(CoverError::Abandoned);
        }
    }
    // Nothing of the rim is left: a further descent would change nothing.
    if descent.rim.is_empty() {
        finest = budget.finest;
    }
    let Descent { mut whole, rim, .. } = descent;
    whole.extend(rim);
    let cover = Cover { cells: compacted(whole), finest, datum: datum_of(region) };
    let needed_m = cover.overshoot_m();
    if needed_m > OVERSHOOT_M_MAX {
        let centers = cover.iter().map(|&cell| place(center_of(cell)));
        let extent_m = Box3::around(centers).longest_m();
        let allowed_m = (OVERSHOOT_PART_MAX * extent_m).max(OVERSHOOT_M_MAX);
        if needed_m > allowed_m {
            let cells_max = budget.cells_max;
            return Err(CoverError::Overshoot { cells_max, needed_m, allowed_m });
        }
    }
    Ok(cover)
}

/// Largest distance between a region and a device in a cell that touches the region: the radius of
/// the cell's circle, and the device's distance from the cell's centre, both as the datum reads
/// them.
fn overshoot_m(finest: Resolution, datum: Datum) -> f64 {
    let radius_m = CIRCUMRADIUS_M_MAX[usize::from(u8::from(finest))];
    let (circle_m, device_m) = match finest {
        Resolution::Nine => (radius_m, radius_m),
        // The cell's circle has the margin, and descendants stick out by up to 1.067.
        _ => (MARGIN * radius_m, 1.067 * radius_m),
    };
    datum.ground_m(datum.spread_m(circle_m) + datum.spread_m(device_m))
}

/// The datum that widens the region's cover most.
fn datum_of(region: &Region) -> Datum {
    let of_any = |regions: &[Region]| {
        let widens = regions.iter().any(|region| datum_of(region) == Datum::Gcj02);
        if widens { Datum::Gcj02 } else { Datum::Wgs84 }
    };
    let of_shape = match &region.shape {
        Shape::Area(area) => area.datum(),
        Shape::Union(regions) => of_any(regions),
        Shape::Circle { .. } | Shape::Cells(_) => Datum::Wgs84,
    };
    match of_shape {
        Datum::Gcj02 => Datum::Gcj02,
        Datum::Wgs84 => of_any(&region.exclusions),
    }
}

/// The descent, resolution by resolution.
struct Descent<'a> {
    region: &'a Prepared<'a>,
    /// Cells that belong to the cover wholly.
    whole: Vec<CellIndex>,
    /// Cells of the present resolution that touch the region and are not wholly inside.
    rim: Vec<CellIndex>,
}

impl Descent<'_> {
    /// Takes the cells of resolution 0, whatever the budget: there are only 122.
    fn begin(&mut self, work: &Work) {
        for base in CellIndex::base_cells() {
            let disc = Disc::around(base);
            work.add(work::DISC);
            if self.region.touches(&disc, work) {
                let is_whole = self.region.contains(&disc, work);
                if is_whole { &mut self.whole } else { &mut self.rim }.push(base);
            }
        }
    }

    /// Replaces the rim by its children. False, and nothing changed: the cover would have more than
    /// `cells_max` cells.
    fn refine(
        &mut self,
        finer: Resolution,
        cells_max: usize,
        work: &Work,
    ) -> Result<bool, Stopped> {
        let (mut whole, mut rim) = (Vec::new(), Vec::new());
        // Cells of the cover if the descent ended here, with the rim's complete siblings merged.
        let mut cells = self.whole.len();
        for &cell in &self.rim {
            work.check()?;
            let (whole_before, rim_before) = (whole.len(), rim.len());
            let mut children: usize = 0;
            for child in cell.children(finer) {
                children += 1;
                let disc = Disc::around(child);
                work.add(work::DISC);
                if self.region.touches(&disc, work) {
                    let is_whole = disc.is_leaf() || self.region.contains(&disc, work);
                    if is_whole { &mut whole } else { &mut rim }.push(child);
                }
            }
            let (of_whole, of_rim) = (whole.len() - whole_before, rim.len() - rim_before);
            if of_whole == children {
                whole.truncate(whole_before);
                whole.push(cell);
            }
            cells += if of_whole + of_rim == children { 1 } else { of_whole + of_rim };
            if cells > cells_max {
                return Ok(false);
            }
        }
        self.whole.append(&mut whole);
        self.rim = rim;
        Ok(true)
    }
}

/// Sorts disjoint cells in the order of the descent, and merges complete siblings.
fn compacted(mut cells: Vec<CellIndex>) -> Vec<CellIndex> {
    cells.sort_unstable_by_key(|&cell| place_in_order(cell));
    let mut merged: Vec<CellIndex> = Vec::with_capacity(cells.len());
    for cell in cells {
        merged.push(cell);
        while let Some(parent) = merged.last().and_then(|last| parent_of(*last)) {
            let finer = merged[merged.len() - 1].resolution();
            #[allow(clippy::cast_possible_truncation)] // 6 or 7
            let siblings = parent.children_count(finer) as usize;
            let Some(start) = merged.len().checked_sub(siblings) else { break };
            let is_sibling =
                |c: &CellIndex| c.resolution() == finer && parent_of(*c) == Some(parent);
            if !merged[start..].iter().all(is_sibling) {
                break;
            }
            merged.truncate(start);
            merged.push(parent);
        }
    }
    merged
}

/// A number that orders cells of all resolutions as the descent meets them: the cell's index without
/// the resolution (four bits) and without the digits of finer resolutions (three bits each).
fn place_in_order(cell: CellIndex) -> u64 {
    let unused = 3 * (15 - u32::from(u8::from(cell.resolution())));
    let digits = u64::from(cell) & !(0xF << 52);
    (digits >> unused) << unused
}

fn parent_of(cell: CellIndex) -> Option<CellIndex> {
    cell.resolution().pred().and_then(|coarser| cell.parent(coarser))
}

#[cfg(test)]
mod tests;
