//! Notes of a session to the rest of the coordinator.

use clarion_proto::{
    ids::{Epoch, LaneId, WaveId},
    wire::shard_v1 as wire,
};

/// Note of a session to the rest of the coordinator.
#[derive(Debug)]
pub(crate) enum Note {
    Wave(WaveId, WaveNote),
    Lane(wire::LaneState),
    Load(wire::LaneLoad),
    /// The node asks for a slice of a lane that this coordinator has not created.
    LaneUnknown(LaneId),
    Registry(wire::RegistryState),
    Counted(wire::Counted),
    /// The node cannot take a count; `again`: a retry may succeed.
    CountFailed {
        id: u64,
        reason: String,
        again: bool,
    },
    /// A defect of the node, for the log.
    Fault(String),
}

/// Note of a session on one wave.
#[derive(Debug)]
pub(crate) enum WaveNote {
    /// The node has a session and a part of the wave.
    Joined,
    /// A report of the node, without its sets, which are in the node's memory.
    Report(Box<wire::Report>),
    /// The node has stopped the wave and sends nothing more.
    Stopped(wire::Stopped),
    /// The node got a grant to send.
    Granted,
    /// The node failed to take the wave three times, for this reason, and does not get it again.
    Isolated(String),
    /// Another coordinator directs the wave under this epoch, which is higher.
    Superseded(Epoch),
    /// The session's stream has ended.
    Gone,
}
