//! Outputs of the control plane: commands for cores, and requests to stop and start the feed.

use std::collections::BTreeSet;

use super::ownership::{Assignment, Follows};
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
    /// Follow the logs of this assignment: those in `continues` from the current position, the
    /// others from their beginning.
    Follow {
        /// Which logs are followed, and for which core.
        assignment: Assignment,
        /// What goes on from where it was.
        continues: BTreeSet<Follows>,
    },
}

impl Output {
    pub(super) fn command(core: usize, command: Command) -> Self {
        Self::Command { core, command }
    }
}
