//! What one core owns, and what of that it has to build anew.

use clarion_proto::ids::{LogId, PartitionId, Position};

/// The partitions of one core from now on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owns {
    /// Partitions of this core: those it does not hold are made empty, all others that it holds
    /// are dropped.
    pub partitions: Vec<PartitionId>,
    /// Of these, partitions that become empty because their log is read again, with the position
    /// up to which the log has to be applied before waves walk them again.
    pub rebuilt: Vec<(PartitionId, Position)>,
    /// Logs that this core reads from their beginning: its positions in them are void.
    pub restarted: Vec<LogId>,
}

impl From<Vec<PartitionId>> for Owns {
    /// Nothing is built anew but partitions that the core does not hold.
    fn from(partitions: Vec<PartitionId>) -> Self {
        Self { partitions, ..Self::default() }
    }
}
