//! Counts of one wave on one core, by band and by cell of the cover's reported resolution
//! ([`crate::wave::cover::grain`]), with the changes since the last report.

use std::collections::BTreeMap;

use clarion_proto::{device::Cell, outcome::Outcome};
use h3o::Resolution;

use crate::command::Counts;

/// Totals of one wave on one core, which only grow.
#[derive(Debug)]
pub(crate) struct Tally {
    bands: Changing,
    cells: Changing,
    /// Cell of each slot of `cells`.
    cell_of: Vec<u64>,
    slot_of: BTreeMap<u64, u32>,
    /// Cell of the last device and its slot: a walk goes by place, so the next device is mostly in
    /// the same cell.
    last: (u64, u32),
    parents: Parents,
}

impl Tally {
    /// Creates the counts for a cover with this many bands, by cells of this resolution.
    pub(crate) fn new(bands: usize, resolution: Resolution) -> Self {
        Self {
            bands: Changing::with_len(bands),
            cells: Changing::default(),
            cell_of: Vec::new(),
            slot_of: BTreeMap::new(),
            // No cell has the index 0.
            last: (0, 0),
            parents: Parents::new(resolution),
        }
    }

    /// Counts a device that was handed over, and returns the slot of its cell.
    pub(crate) fn handed(&mut self, band: u32, cell: Cell) -> u32 {
        self.bands.at(band).handed += 1;
        let slot = self.slot(self.parents.of(cell));
        self.cells.at(slot).handed += 1;
        slot
    }

    /// Counts an outcome in the band and cell where the device was handed over.
    pub(crate) fn ended(&mut self, band: u32, cell: u32, outcome: Outcome) {
        self.bands.at(band).count(outcome);
        self.cells.at(cell).count(outcome);
    }

    /// Returns the bands that changed since the last call.
    pub(crate) fn take_bands(&mut self) -> Vec<(u32, Counts)> {
        self.bands.take()
    }

    /// Returns the cells that changed since the last call.
    pub(crate) fn take_cells(&mut self) -> Vec<(u64, Counts)> {
        let cell_of = &self.cell_of;
        self.cells
            .take()
            .into_iter()
            .map(|(slot, counts)| (cell_of[slot as usize], counts))
            .collect()
    }

    pub(crate) fn cells_changed(&self) -> bool {
        !self.cells.changed.is_empty()
    }

    /// Marks all counts as changed, so that the next report is complete.
    pub(crate) fn repeat_all(&mut self) {
        self.bands.repeat_all();
        self.cells.repeat_all();
    }

    /// A device is handed over inside the cover, so there are at most [`CELLS_MAX`] slots.
    ///
    /// [`CELLS_MAX`]: crate::wave::cover::grain::CELLS_MAX
    #[allow(clippy::cast_possible_truncation)] // at most CELLS_MAX
    fn slot(&mut self, cell: u64) -> u32 {
        if self.last.0 == cell {
            return self.last.1;
        }
        let slot = match self.slot_of.get(&cell) {
            Some(slot) => *slot,
            None => {
                let slot = self.cell_of.len() as u32;
                self.cell_of.push(cell);
                self.cells.counts.push((Counts::default(), false));
                self.slot_of.insert(cell, slot);
                slot
            }
        };
        self.last = (cell, slot);
        slot
    }
}

/// Counts with the set of indices that changed.
#[derive(Debug, Default)]
struct Changing {
    counts: Vec<(Counts, bool)>,
    changed: Vec<u32>,
}

impl Changing {
    fn with_len(len: usize) -> Self {
        Self { counts: vec![(Counts::default(), false); len], changed: Vec::with_capacity(len) }
    }

    fn at(&mut self, slot: u32) -> &mut Counts {
        let (counts, marked) = &mut self.counts[slot as usize];
        if !*marked {
            *marked = true;
            self.changed.push(slot);
        }
        counts
    }

    fn take(&mut self) -> Vec<(u32, Counts)> {
        self.changed.sort_unstable();
        let counts = &mut self.counts;
        self.changed
            .drain(..)
            .map(|slot| {
                let (counts, marked) = &mut counts[slot as usize];
                *marked = false;
                (slot, *counts)
            })
            .collect()
    }

    #[allow(clippy::cast_possible_truncation)] // bands: a u32; cells: CELLS_MAX
    fn repeat_all(&mut self) {
        for (slot, (counts, marked)) in self.counts.iter_mut().enumerate() {
            if counts.handed > 0 && !*marked {
                *marked = true;
                self.changed.push(slot as u32);
            }
        }
    }
}

/// Parents of res-9 cells in one resolution. An H3 index keeps its resolution in bits 52 to 55 and
/// one digit of three bits for each finer resolution, the finest lowest; unused digits are 7. So
/// the parent is the index with another resolution and all finer digits set: these bits.
#[derive(Debug)]
struct Parents(u64);

impl Parents {
    fn new(resolution: Resolution) -> Self {
        let resolution = u64::from(u8::from(resolution));
        Self(resolution << 52 | ((1 << (3 * (15 - resolution))) - 1))
    }

    fn of(&self, cell: Cell) -> u64 {
        cell.index() & !(0xf << 52) | self.0
    }
}

#[cfg(test)]
mod tests {
    use h3o::LatLng;

    use super::*;

    #[test]
    fn parents_are_h3s() {
        for (lat, lng) in [(22.54, 114.06), (-89.9, 10.0), (41.6, -93.6), (0.0, 180.0)] {
            let cell = LatLng::new(lat, lng).unwrap().to_cell(Resolution::Nine);
            for resolution in (0..=6).map(|r| Resolution::try_from(r).unwrap()) {
                let expected = u64::from(cell.parent(resolution).unwrap());
                assert_eq!(Parents::new(resolution).of(Cell::from(cell)), expected);
            }
        }
    }

    #[test]
    fn reports_what_changed_and_all_again_when_asked() {
        let near = Cell::from(LatLng::new(22.54, 114.06).unwrap().to_cell(Resolution::Nine));
        let far = Cell::from(LatLng::new(22.94, 114.06).unwrap().to_cell(Resolution::Nine));
        let mut tally = Tally::new(3, Resolution::Six);
        let slot = tally.handed(0, near);
        tally.handed(2, far);
        tally.ended(0, slot, Outcome::Accepted);
        let bands = tally.take_bands();
        assert_eq!(
            bands.iter().map(|(b, c)| (*b, c.handed, c.open())).collect::<Vec<_>>(),
            [(0, 1, 0), (2, 1, 1)]
        );
        assert_eq!(tally.take_cells().len(), 2);
        assert!(tally.take_bands().is_empty() && !tally.cells_changed());
        tally.repeat_all();
        assert_eq!(tally.take_bands(), bands);
        assert_eq!(tally.take_cells()[0], (Parents::new(Resolution::Six).of(near), bands[0].1));
    }
}
