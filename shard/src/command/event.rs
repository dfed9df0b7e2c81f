//! Events from a core to the control plane.

use clarion_proto::{
    ids::{LaneId, PartitionId, Position, WaveId},
    time::Time,
};

use super::{held::HeldStats, report::CoreReport};
use crate::{
    lane::{health::LaneHealth, load::LaneLoad},
    partition::snapshot::SnapshotError,
};

/// From one core to the control plane.
#[derive(Debug)]
pub enum Event {
    /// Changes of a wave since the last report of this core; every 20 ms while something changes.
    Report(Box<CoreReport>),
    /// Answers [`super::Command::Cancel`]: nothing more of the wave will be written.
    Stopped {
        /// The wave that was stopped.
        wave: WaveId,
        /// When its last request was handed to a socket; `None`: it wrote none.
        last_write: Option<Time>,
        /// Requests written after the command had arrived here.
        written_after: u64,
    },
    /// Answer to [`super::Command::Count`]: devices by app of the count and by band.
    Counted {
        /// Number of the count.
        id: u64,
        /// Devices by app of the count (outer) and band (inner).
        devices: Vec<Vec<u64>>,
        /// Number of devices that only the age of their place leaves out.
        left_out_for_age: u64,
    },
    /// A lane end changed its health.
    LaneState {
        /// The lane that the event is about.
        lane: LaneId,
        /// Time at which the core noticed the change.
        at: Time,
        /// What is the matter with it, or that nothing is.
        health: LaneHealth,
        /// Reason in the gateway's own text; never a token.
        detail: String,
        /// When the trouble began; `None`: there is none.
        since: Option<Time>,
        /// When the gateway is asked again, if that is known.
        next_probe: Option<Time>,
    },
    /// Load of a lane's connections, every 100 ms while the lane has work.
    LaneLoad {
        /// The lane that the event is about.
        lane: LaneId,
        /// Load of the lane's connections.
        load: Box<LaneLoad>,
    },
    /// What this core holds, after it changed; at most every 100 ms.
    Held(HeldStats),
    /// Answer to [`super::Command::Restore`]: the snapshot is in place, or cannot be read.
    Restored {
        /// The partition that was to be restored.
        partition: PartitionId,
        /// Number of the load, as in the command.
        load: u64,
        /// Position of the partition now; the defect of the snapshot otherwise.
        result: Result<Position, SnapshotError>,
    },
}
