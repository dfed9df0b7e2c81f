//! Nodes that are killed and started during the alert.
//!
//! Ownership of partitions is fixed once they are assigned, and a partition has one owner. A killed
//! node is replaced by another process of the same name, and its partitions wait for that process.
//! A node that joins later owns nothing, but is connected, holds lanes and asks for slices like any
//! other node.

use std::fmt;

use serde::Deserialize;

use super::{Scenario, check::Checked};
use crate::names;

/// A node that is killed or started during the wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeChange {
    /// Time of the change after the first push, milliseconds.
    pub after_ms: u64,
    /// Action on the node.
    #[serde(rename = "do")]
    pub action: NodeAction,
    /// Number of the node, from 0.
    pub node: u32,
}

/// Action on a node during the wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeAction {
    /// Kills the node as a power failure would (SIGKILL).
    Kill,
    /// Starts the node: again, or for the first time if it was not started before.
    Start,
}

impl fmt::Display for NodeChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.action {
            NodeAction::Kill => "killed",
            NodeAction::Start => "started",
        };
        write!(f, "{} {what}", names::node(self.node))
    }
}

impl Scenario {
    /// Reports whether a node does not run at first, because its first change is a start.
    #[must_use]
    pub fn comes_later(&self, node: u32) -> bool {
        self.node_changes
            .iter()
            .find(|c| c.node == node)
            .is_some_and(|c| c.action == NodeAction::Start)
    }

    pub(super) fn check_nodes(&self) -> Checked {
        let mut up: Vec<bool> = (0..self.nodes).map(|node| !self.comes_later(node)).collect();
        if !up.contains(&true) {
            return Err(("node_changes", "must leave one node to begin with".to_owned()));
        }
        let mut before_ms = 0;
        for change in &self.node_changes {
            let Some(up) = up.get_mut(change.node as usize) else {
                return Err((
                    "node_changes",
                    format!("node must be below {}; got {}", self.nodes, change.node),
                ));
            };
            let to = change.action == NodeAction::Start;
            if *up == to || change.after_ms < before_ms {
                return Err((
                    "node_changes",
                    format!("{change}: must be in order of time, and change the state of the node"),
                ));
            }
            (*up, before_ms) = (to, change.after_ms);
        }
        Ok(())
    }
}
