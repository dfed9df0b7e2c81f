//! Events from a core to the control plane.

use clarion_proto::{
    ids::{LaneId, WaveId},
    time::Time,
};

use super::{held::HeldStats, report::CoreReport};
use crate::lane::{health::LaneHealth, load::LaneLoad};

/// From one core to the control plane.
#[derive(Debug)]
pub enum Event {
    /// What happened to a wave since the last report of this core; every 20 ms while something
    /// changes.
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
    /// Answers [`super::Command::Count`]: per app of the question, per band.
    Counted {
        /// Number of the question.
        id: u64,
        /// Devices by app of the question (outer) and band (inner).
        devices: Vec<Vec<u64>>,
    },
    /// A lane end changed its health.
    LaneState {
        /// The lane that the event is about.
        lane: LaneId,
        /// When the core noticed it.
        at: Time,
        /// What is the matter with it, or that nothing is.
        health: LaneHealth,
        /// The gateway's words; never a token.
        detail: String,
        /// When the trouble began; `None`: there is none.
        since: Option<Time>,
        /// When the gateway is asked again, if that is known.
        next_probe: Option<Time>,
    },
    /// How the connections of a lane are used, every 100 ms while it has work.
    LaneLoad {
        /// The lane that the event is about.
        lane: LaneId,
        /// How they are used.
        load: Box<LaneLoad>,
    },
    /// What this core holds, after it changed; at most every 100 ms.
    Held(HeldStats),
}
