//! What a session tells the rest of the coordinator.

use clarion_proto::{ids::WaveId, wire::shard_v1 as wire};

/// What a session tells the rest of the coordinator.
#[derive(Debug)]
pub(crate) enum Note {
    Wave(WaveId, WaveNote),
    Lane(wire::LaneState),
    Load(wire::LaneLoad),
    Registry(wire::RegistryState),
    Counted(wire::Counted),
    /// The node cannot take a count; `again`: later it may.
    CountFailed {
        id: u64,
        reason: String,
        again: bool,
    },
    /// A defect of the node, for the log.
    Fault(String),
}

/// What a session tells of one wave.
#[derive(Debug)]
pub(crate) enum WaveNote {
    /// The node is there, in this process.
    Joined,
    /// Without its sets, which are kept in the node's memory.
    Report(Box<wire::Report>),
    /// The node writes nothing more.
    Stopped(wire::Stopped),
    /// The node was given leave to send.
    Granted,
    /// The node did not take it three times, for this reason, and is not sent it again.
    Isolated(String),
    /// The stream has ended.
    Gone,
}
