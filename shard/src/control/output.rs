//! Outputs of the control plane: commands for cores, and requests to stop and start the feed.

use std::collections::BTreeSet;

use super::ownership::{Follows, Ownership};
use crate::command::Command;

/// One step that the node's task carries out. Steps are carried out in the order in which they
/// come.
#[derive(Debug)]
pub enum Output {
    /// Hands a command to a core.
    Command {
        /// Number of the core.
        core: usize,
        /// What the core is told.
        command: Command,
    },
    /// Stop following the logs, and let nothing of them reach a core after what follows here.
    Unfollow,
    /// Follow the logs of this ownership: what `continues` from where it was, the rest from its
    /// beginning.
    Follow {
        /// Which logs are followed, and for which core.
        ownership: Ownership,
        /// What goes on from where it was.
        continues: BTreeSet<Follows>,
    },
}

impl Output {
    pub(super) fn command(core: usize, command: Command) -> Self {
        Self::Command { core, command }
    }
}
