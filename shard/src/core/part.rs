//! One partition of a wave on one core.

use clarion_proto::ids::{LogId, PartitionId, Position};

/// One partition of a wave.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) partition: PartitionId,
    pub(super) log: LogId,
    pub(super) start: Position,
    /// Slot among the core's partitions; `None`: no longer owned.
    pub(crate) slot: Option<u16>,
    pub(crate) started: bool,
}
