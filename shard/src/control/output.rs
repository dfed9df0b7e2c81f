//! Outputs of the control plane: commands for cores, and requests about feed and snapshots.

use std::collections::{BTreeMap, BTreeSet};

use clarion_proto::ids::{PartitionId, Position};

use super::{
    ownership::Assignment,
    snapshot::{List, Load, Save},
};
use crate::command::Command;

/// One step that the node's task carries out. Steps are carried out in the order in which they
/// come.
#[derive(Debug)]
pub enum Output {
    /// Send a command to a core.
    Command {
        /// Number of the core.
        core: usize,
        /// The command for the core.
        command: Command,
    },
    /// Stop following the logs; no core may receive records of them after the next output.
    Unfollow,
    /// Follow the logs of some partitions.
    Follow {
        /// Which logs are followed, and for which core.
        assignment: Assignment,
        /// The partitions that are followed: all others wait for their content.
        followed: BTreeSet<PartitionId>,
        /// Of these, partitions that begin at a position; the others go on from where they were.
        begin: BTreeMap<PartitionId, Position>,
    },
    /// Ask the coordinators for the snapshots of some partitions until one answers. A newer request
    /// replaces an older one.
    List(List),
    /// Load a snapshot into a core.
    Load(Load),
    /// Let a core write a snapshot, and a coordinator keep it.
    Save(Save),
    /// Stop the save that is under way.
    StopSave,
    /// Stop a load; its partition is not this node's any more, or waits for another content.
    StopLoad {
        /// Number of the load.
        load: u64,
    },
}

impl Output {
    pub(super) fn command(core: usize, command: Command) -> Self {
        Self::Command { core, command }
    }
}
