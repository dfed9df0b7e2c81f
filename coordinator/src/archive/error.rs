//! Reasons why a snapshot cannot be saved or loaded.

use std::time::Duration;

use clarion_proto::{
    error::InvalidField,
    ids::{ClusterName, LogId, LogIdentity, PartitionId, Position},
};

use super::{SAVE_WITHIN, record::SnapshotId};
use crate::{objects::ObjectError, owners::NodeName, store::StoreError};

/// Why a snapshot cannot be saved or loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// A field of a message is not as documented: a mistake of the node.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// The node belongs to another cluster: one of both is misconfigured.
    #[error("the node's cluster is \"{theirs}\", this coordinator's is \"{ours}\"")]
    OtherCluster {
        /// Name in the node's message, cut to the length that a name may have.
        theirs: String,
        /// Name of this coordinator's cluster.
        ours: ClusterName,
    },
    /// Positions of the node belong to another log.
    #[error("the node follows another log than {ours}")]
    OtherLog {
        /// Identity of the log that this coordinator serves.
        ours: LogIdentity,
    },
    /// The node does not own the partition in the newest ownership.
    #[error(
        "partition {partition} is owned by {owner} in ownership {number}; {node} holds it under \
         ownership {theirs}"
    )]
    NotOwner {
        /// Partition of the snapshot.
        partition: PartitionId,
        /// Node that saves.
        node: NodeName,
        /// Owner of the partition, or "nobody".
        owner: String,
        /// Number of the newest ownership.
        number: u64,
        /// Number that the node named.
        theirs: u64,
    },
    /// Nodes save no snapshots in this cluster.
    #[error("snapshots are turned off; set --snapshot-every-seconds above 0")]
    Off,
    /// The snapshots of the partition would be too many.
    #[error("partition {partition}: the newest snapshot was saved {age:?} ago, less than {min:?}")]
    TooSoon {
        /// Partition of the snapshot.
        partition: PartitionId,
        /// Age of the newest snapshot.
        age: Duration,
        /// Shortest time between two snapshots.
        min: Duration,
    },
    /// A snapshot of the same or a later position is stored.
    #[error("partition {partition}: a snapshot at position {stored} is stored; got {position}")]
    Behind {
        /// Partition of the snapshot.
        partition: PartitionId,
        /// Position of the stored snapshot.
        stored: Position,
        /// Position of the refused snapshot.
        position: Position,
    },
    /// The log does not reach the snapshot: it has lost batches.
    #[error("log {log} ends at {head}, the snapshot is at {position}")]
    Ahead {
        /// Log of the partition.
        log: LogId,
        /// Newest position of the log.
        head: Position,
        /// Position of the refused snapshot.
        position: Position,
    },
    /// All of the save took too long.
    #[error("the snapshot was not stored within {SAVE_WITHIN:?}")]
    Late,
    /// The snapshot is none of the partition's current ones. A retry does not help; list them
    /// again.
    #[error("partition {partition}: no current snapshot has the id {id}")]
    Gone {
        /// Partition of the snapshot.
        partition: PartitionId,
        /// Id that was asked for.
        id: SnapshotId,
    },
    /// An object is missing or damaged. A retry does not help; an older snapshot may be readable.
    #[error("partition {partition}: snapshot {id}, object {chunk}: {problem}")]
    Damaged {
        /// Partition of the snapshot.
        partition: PartitionId,
        /// Snapshot with the object.
        id: SnapshotId,
        /// Number of the object in the snapshot, from 0.
        chunk: u32,
        /// What is wrong with the object.
        problem: String,
    },
    /// The objects cannot be reached. A retry helps.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// The store refuses or cannot be reached.
    #[error(transparent)]
    Store(#[from] StoreError),
}
