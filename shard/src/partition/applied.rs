//! The effect of one record on the waves that walk its partition.

use clarion_proto::{
    device::Cell,
    ids::{Ordinal, UnixMillis},
};

/// Effect of one record on waves in progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Ordinal and cell of a device that became pushable, moved, or changed its app or segments,
    /// and that is pushable now. The walk of every wave must handle it before its next step.
    pub placed: Option<(Ordinal, Cell)>,
    /// Device whose place was observed again and that did not change otherwise.
    pub refreshed: Option<Refreshed>,
}

/// A pushable device whose place has become newer and is the same. The walk of a wave that the
/// earlier observation was too old for must handle the device before its next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refreshed {
    /// Ordinal of the device.
    pub ordinal: Ordinal,
    /// Place of the device.
    pub cell: Cell,
    /// Time of the earlier observation of the place.
    pub earlier: UnixMillis,
}
