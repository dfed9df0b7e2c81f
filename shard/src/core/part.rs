//! One partition of a wave on one core.
//!
//! ```text
//!            plan or addition               log applied far enough
//! (nothing) ──────────────────▶ held ─────────────────────────────▶ started
//!     ▲                          ▲ ▲                                  │ │
//!     │ plan, addition           │ └──────────rebuilt from its log────┘ │
//!     └────────── let go ◀───────┴──────────────────────────────────────┘
//!                        dropped by ownership, or not in a newer plan
//! ```
//!
//! What was handed stays with the part through all of this, so that a partition that begins again
//! or comes back skips the devices that were handed before.

use clarion_proto::ids::{LogId, PartitionId, Position};

/// One partition of a wave.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) partition: PartitionId,
    pub(super) log: LogId,
    pub(super) start: Position,
    /// Slot among the core's partitions; `None`: the core has let go of the partition.
    pub(crate) slot: Option<u16>,
    pub(crate) started: bool,
    /// The newest plan names the partition: the wave is complete only with it.
    pub(super) planned: bool,
    /// The core has let go of the partition, and what was handed there is not reported yet.
    pub(super) farewell: bool,
}
