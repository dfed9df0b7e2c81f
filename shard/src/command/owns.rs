//! The partitions that one core owns, and which of them wait for their content.

use clarion_proto::ids::PartitionId;

/// The partitions of one core from now on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owns {
    /// Partitions of this core: those that it does not hold begin empty at position 0, all others
    /// that it holds are dropped.
    pub partitions: Vec<PartitionId>,
    /// Of the partitions that it does not hold, those whose content is still to come: waves wait
    /// until the partition is rebuilt or restored.
    pub awaited: Vec<PartitionId>,
    /// Number of logs of the cluster, which says the log of each partition. At least 1 if there are
    /// partitions.
    pub log_count: u16,
}

impl From<Vec<PartitionId>> for Owns {
    /// Partitions of one log that begin empty.
    fn from(partitions: Vec<PartitionId>) -> Self {
        Self { partitions, awaited: Vec::new(), log_count: 1 }
    }
}
