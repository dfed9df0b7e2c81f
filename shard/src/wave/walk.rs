//! (being built: the signatures that others rely on)

use clarion_proto::{device::Cell, ids::Ordinal};
use roaring::RoaringBitmap;

use super::{Bits, Cover};
use crate::partition::Partition;

/// One wave in one partition.
#[derive(Debug)]
pub struct Walk {
    handed: Bits,
    delta: RoaringBitmap,
}

/// What one step found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Pushable now and inside the cover. Comes once, unless it enters again before it is handed.
    Device {
        /// Which.
        ordinal: Ordinal,
        /// Where it is.
        cell: Cell,
        /// Of the cover.
        band: u32,
    },
    /// The work allowed for one call is spent without a find: call again.
    More,
    /// All open bands are walked and nobody there is late; a higher `bands_open` goes on.
    Waiting,
    /// All bands are walked and nobody is late. [`Walk::entered`] may end this.
    Idle,
}

impl Walk {
    /// From the beginning, without those whom an earlier holder handed over.
    #[must_use]
    pub fn new(handed: RoaringBitmap) -> Self {
        Self { handed: Bits::from(&handed), delta: RoaringBitmap::new() }
    }

    /// The next device, nearest band first, in bands below `bands_open`.
    pub fn step(&mut self, _partition: &Partition, _cover: &Cover, _bands_open: u32) -> Step {
        Step::Idle
    }

    /// Notes that a device was handed to a lane; false: it was before, and must not be pushed again. Call it right after
    /// the `step` that returned the device, with no record applied between.
    pub fn hand(&mut self, ordinal: Ordinal) -> bool {
        self.delta.insert(ordinal.0);
        self.handed.insert(ordinal)
    }

    /// Hears of every [`crate::partition::Applied::placed`] of the partition.
    pub fn entered(&mut self, _cover: &Cover, _ordinal: Ordinal, _cell: Cell) {}

    /// Bands walked whole, from the nearest; never shrinks.
    #[must_use]
    pub fn bands_walked(&self) -> u32 {
        0
    }

    /// Those handed since the last call.
    pub fn take_handed(&mut self) -> RoaringBitmap {
        std::mem::take(&mut self.delta)
    }

    /// All who are handed over, those of earlier holders too.
    #[must_use]
    pub fn handed(&self) -> &Bits {
        &self.handed
    }
}
