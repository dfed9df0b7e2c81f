//! The roster of nodes, their sessions, and the ownership of partitions; free of I/O.
//!
//! The *name* in its Hello identifies a node: its address may change with every start, its memory
//! is lost with every boot. [`Roster`] holds one entry for each name: the session's address, the
//! node's reports about its waves, and its registry totals. If two processes had the same name,
//! each would get the other's partitions, and every device would be alerted twice; so the second
//! process is refused for as long as the first is connected.
//!
//! | Node | Hello | End of the session |
//! |---|---|---|
//! | unknown | has a session, with an empty memory; refused beyond [`NAMES_MAX`] names | – |
//! | with a session | refused: [`Refused::SameProcess`] or [`Refused::SameName`] | without a session; the roster has its memory |
//! | without a session | has a session, with the memory; a new boot starts with new registry totals | – |
//!
//! [`assignment`] decides who owns which partition: a disconnected node keeps its partitions, and
//! their work waits until the node reconnects; a node that joins later owns no partition.
//!
//! Inputs are methods; [`Roster::expire`] applies the passage of time after each of them, and
//! [`Roster::poll`] returns what the shell has to do. The shell is `dispatch/members.rs`.

use std::{collections::BTreeMap, net::SocketAddr};

use clarion_proto::{
    ids::{BootId, WaveId},
    time::Time,
    wire::shard_v1 as wire,
};

use crate::{
    members::{
        assignment::{Assignment, Output, StoreResult},
        registry::{NodeRegistry, RegistryTotals, totals},
    },
    owners::{NodeName, Owned},
    session::NodeMemory,
};

pub mod assignment;
pub mod registry;

/// Maximum number of node names, connected or not. No cluster has a thousand nodes; more names mean
/// that nodes draw random names, and each name would get partitions.
pub const NAMES_MAX: usize = 1_024;

/// Status of one node, as callers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// Name of the node.
    pub node: NodeName,
    /// Address of the node's session; `None`: it has no session.
    pub address: Option<SocketAddr>,
    /// Number of partitions that the node owns.
    pub partitions: u16,
}

/// All nodes that this process has known.
#[derive(Debug)]
pub(crate) struct Roster {
    by_name: BTreeMap<NodeName, Node>,
    assignment: Assignment,
}

#[derive(Debug)]
struct Node {
    /// The node's memory; `None` while a session holds it.
    memory: Option<NodeMemory>,
    session: Option<(SocketAddr, BootId)>,
    boot: BootId,
    registry: NodeRegistry,
}

/// Why a Hello is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the process at {other} is connected here already: one process, two addresses")]
    SameProcess { other: SocketAddr },
    #[error("another process at {other} has the same node name: names must differ")]
    SameName { other: SocketAddr },
    #[error("{NAMES_MAX} node names are known; names must be stable over restarts")]
    TooManyNames,
}

impl Roster {
    /// Creates an empty roster; partitions are assigned only once `nodes_min` nodes are connected.
    pub(crate) fn new(nodes_min: usize, partitions: u16, logs: u16) -> Self {
        let assignment = Assignment::new(nodes_min, partitions, logs);
        Self { by_name: BTreeMap::new(), assignment }
    }

    /// Claims a node for a session after its Hello: the session owns the node's memory until
    /// [`Roster::release`].
    ///
    /// # Errors
    /// [`Refused`]: the name or the process is connected already, or there are too many names.
    pub(crate) fn claim(
        &mut self,
        name: &NodeName,
        boot: BootId,
        address: SocketAddr,
        positions: &[wire::LogPosition],
        now: Time,
    ) -> Result<NodeMemory, Refused> {
        let known = self.by_name.len();
        let memory = match self.by_name.get_mut(name) {
            None if known >= NAMES_MAX => return Err(Refused::TooManyNames),
            None => {
                let registry = NodeRegistry::new(positions);
                let node = Node { memory: None, session: Some((address, boot)), boot, registry };
                self.by_name.insert(name.clone(), node);
                NodeMemory::default()
            }
            Some(node) => {
                match node.session {
                    Some((other, same)) if same == boot => {
                        return Err(Refused::SameProcess { other });
                    }
                    Some((other, _)) => return Err(Refused::SameName { other }),
                    None => node.session = Some((address, boot)),
                }
                if node.boot != boot {
                    (node.boot, node.registry) = (boot, NodeRegistry::new(positions));
                }
                node.memory.take().unwrap_or_default()
            }
        };
        self.assignment.joined(name, now);
        Ok(memory)
    }

    /// Ends the session of a node and takes the node's memory back.
    pub(crate) fn release(&mut self, name: &NodeName, memory: NodeMemory) {
        if let Some(node) = self.by_name.get_mut(name) {
            (node.memory, node.session) = (Some(memory), None);
        }
        self.assignment.left(name);
    }

    /// Removes an ended wave from the memory of disconnected nodes. The sessions of connected nodes
    /// remove it themselves.
    pub(crate) fn forget(&mut self, wave: WaveId) {
        let memories = self.by_name.values_mut().filter_map(|node| node.memory.as_mut());
        memories.for_each(|memory| memory.forget_sets(wave));
    }

    /// Reports a reachable node that accepts no session *yet*: it is called again within seconds.
    pub(crate) fn coming(&mut self, now: Time) {
        self.assignment.coming(now);
    }

    /// Sets the number of known addresses.
    pub(crate) fn set_addresses(&mut self, addresses: usize) {
        self.assignment.set_addresses(addresses);
    }

    /// Takes the answer of the store to [`Output::Store`].
    pub(crate) fn stored(&mut self, result: StoreResult, now: Time) {
        self.assignment.stored(result, now);
    }

    /// Applies all inputs so far, and the passage of time.
    pub(crate) fn expire(&mut self, now: Time) {
        self.assignment.expire(now);
    }

    /// Next time at which [`Roster::expire`] has something to do without a new input.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.assignment.deadline()
    }

    /// The next step for the shell to perform.
    pub(crate) fn poll(&mut self) -> Option<Output> {
        self.assignment.poll()
    }

    /// Whether ownership is decided: the roster asks the shell for nothing more.
    pub(crate) fn is_decided(&self) -> bool {
        self.assignment.is_decided()
    }

    /// Records a node's registry state; `None`: the node has no data of this coordinator's log.
    pub(crate) fn registry(&mut self, name: &NodeName, state: Option<&wire::RegistryState>) {
        match (self.by_name.get_mut(name), state) {
            (Some(node), Some(state)) => node.registry.state(state),
            (Some(node), None) => node.registry = NodeRegistry::default(),
            (None, _) => {}
        }
    }

    /// Totals over all nodes. A disconnected node counts with its last report.
    pub(crate) fn totals(&self, owned: Option<&Owned>) -> RegistryTotals {
        totals(self.by_name.iter().map(|(name, node)| (name, &node.registry)), owned)
    }

    pub(crate) fn is_connected(&self, name: &NodeName) -> bool {
        self.by_name.get(name).is_some_and(|node| node.session.is_some())
    }

    /// Number of known addresses; 0 before the first resolution.
    pub(crate) fn addresses(&self) -> usize {
        self.assignment.addresses()
    }

    pub(crate) fn status(&self, owned: Option<&Owned>) -> Vec<NodeStatus> {
        let status = |(name, node): (&NodeName, &Node)| NodeStatus {
            node: name.clone(),
            address: node.session.map(|(address, _)| address),
            partitions: owned.map_or(0, |o| o.share(name)),
        };
        self.by_name.iter().map(status).collect()
    }
}

#[cfg(test)]
mod tests;
