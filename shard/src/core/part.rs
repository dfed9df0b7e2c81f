//! The part of a wave in one partition on one core.
//!
//! ```text
//!            plan or addition            partition applied far enough
//! (nothing) ──────────────────▶ held ─────────────────────────────▶ started
//!     ▲                          ▲ ▲                                  │ │
//!     │ plan, addition           │ └─────restored or rebuilt──────────┘ │
//!     └────────── let go ◀───────┴──────────────────────────────────────┘
//!                        dropped by ownership, or not in a newer plan
//! ```
//!
//! The part keeps the handed devices in every state, so that a restarted or returned partition
//! skips the devices that were handed before.

use clarion_proto::ids::{PartitionId, Position};

/// The part of a wave in one partition.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) partition: PartitionId,
    pub(super) start: Position,
    /// Slot among the core's partitions; `None` if the core no longer holds the partition.
    pub(crate) slot: Option<u16>,
    pub(crate) started: bool,
    /// Whether the newest plan names the partition: the wave is complete only with the partition.
    pub(super) planned: bool,
    /// Whether the core no longer holds the partition and must still report its handed devices.
    pub(super) farewell: bool,
}
