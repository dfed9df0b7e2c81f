//! Snapshots as the control plane knows them, and what it asks those who carry them.

use std::time::Duration;

use clarion_proto::ids::{LogIdentity, PartitionId, Position};

/// A snapshot that a coordinator keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Number of the partition.
    pub partition: PartitionId,
    /// Id of the snapshot.
    pub id: [u8; 16],
    /// Position in the partition's log up to which records are included.
    pub position: Position,
    /// Size of the snapshot, bytes.
    pub bytes: u64,
    /// Time since the snapshot was stored.
    pub age: Duration,
}

/// Request for the snapshots of partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Number of the request; grows with each.
    pub number: u64,
    /// Identity of the log that the partitions are built from.
    pub log: LogIdentity,
    /// The partitions that are asked for.
    pub partitions: Vec<PartitionId>,
}

/// Snapshot on its way into a core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Number of the load; grows with each.
    pub number: u64,
    /// The core of the partition.
    pub core: usize,
    /// The snapshot to load.
    pub snapshot: Snapshot,
    /// Identity of the log that the partition is built from.
    pub log: LogIdentity,
}

/// Snapshot that a core writes and a coordinator keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Save {
    /// Number of the save; grows with each.
    pub number: u64,
    /// The core of the partition.
    pub core: usize,
    /// The partition to save.
    pub partition: PartitionId,
    /// Identity of the log that the partition is built from.
    pub log: LogIdentity,
    /// Number of the ownership under which the node holds the partition.
    pub ownership: u64,
}

/// Notes of those who carry snapshots to the control plane.
#[derive(Debug)]
pub enum SnapshotNote {
    /// Answer to [`List`].
    Listed {
        /// Number of the request.
        list: u64,
        /// Snapshots of all partitions that were asked for.
        snapshots: Vec<Snapshot>,
        /// Time between two snapshots of a partition that changes; 0: none are to be saved.
        interval: Duration,
    },
    /// [`Load`] cannot be carried out: another attempt does not help.
    NotLoaded {
        /// Number of the load.
        load: u64,
        /// What is wrong with the snapshot.
        problem: String,
    },
    /// A coordinator has stored the snapshot of [`Save`], or has one of the same or a later
    /// position.
    Saved {
        /// Number of the save.
        save: u64,
        /// Position of the snapshot.
        position: Position,
    },
    /// [`Save`] has failed.
    NotSaved {
        /// Number of the save.
        save: u64,
        /// What went wrong.
        problem: String,
    },
    /// A core takes no pieces, although it may still take commands: the node has to be replaced.
    CoreHangs(usize),
}
