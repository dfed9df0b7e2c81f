//! The roster of nodes, their sessions, and the ownership of partitions.
//!
//! The *name* in its Hello identifies a node: its address may change with every start, its memory
//! is lost with every boot. [`Roster`] holds one entry for each name: the session's address, the
//! node's reports about its waves, and its registry totals. If two processes had the same name,
//! each would get the other's partitions, and every device would be alerted twice; so the second
//! process is refused for as long as the first is connected.
//!
//! **Ownership** is made once (R = 1) and kept in the store: a restarted coordinator reads it from
//! the store. Ownership is made over the connected nodes, when as many nodes as known addresses
//! have sent a Hello, or [`GATHER`] after the first Hello ([`GATHER_COMING`] while a node announces
//! that it will accept a session soon). It never changes. A disconnected node keeps its partitions,
//! and their work waits until the node reconnects; a node that joins later owns no partition, which
//! is logged. Moving partitions needs a second owner with the data (R = 2), which is not built yet.
//!
//! [`crate::dispatch`] finds the nodes and keeps one session task for each address.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use clarion_proto::{
    ids::{BootId, WaveId},
    time::Time,
    wire::shard_v1 as wire,
};
use clarion_runtime::{repeated::Repeated, world::Clock};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::{
    members::registry::{NodeRegistry, RegistryTotals, totals},
    owners::{NodeName, Owned, Ownership},
    session::NodeMemory,
    standing::Board,
    store::{ClusterStore, StoreError},
};

pub mod registry;

/// Time that ownership waits for all nodes after the first Hello: processes that start together
/// are seconds apart.
pub const GATHER: Duration = Duration::from_secs(5);
/// Time that ownership waits while a node announces a session: a node refuses this coordinator for
/// 10 s after its last session with a coordinator of another log, and is called again after 2 s at
/// most. Without this wait a single new node would get all partitions.
pub const GATHER_COMING: Duration = Duration::from_secs(15);
/// Validity of such an announcement: longer than the longest pause between two calls.
const COMING: Duration = Duration::from_secs(4);
/// Pause between retries to read ownership while the store is down.
const STORE_PAUSE: Duration = Duration::from_millis(500);
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
    nodes: Mutex<Nodes>,
    changed: Notify,
    /// Changes with every session that begins or ends, and when partitions are assigned.
    sessions: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Nodes {
    /// Minimum number of connected nodes before partitions are assigned.
    min: usize,
    by_name: BTreeMap<NodeName, Node>,
    /// Number of known addresses; `None` before the first resolution.
    addresses: Option<usize>,
    first_hello: Option<Time>,
    /// End of the latest announcement: a reachable node still keeps to a former coordinator and has
    /// asked to be called again.
    coming_until: Option<Time>,
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
    pub(crate) fn new(nodes_min: usize) -> Self {
        let nodes = Nodes { min: nodes_min.max(1), ..Nodes::default() };
        Self { nodes: Mutex::new(nodes), changed: Notify::new(), sessions: watch::Sender::new(0) }
    }

    /// Channel that changes with every session that begins or ends, and when partitions are
    /// assigned.
    pub(crate) fn sessions(&self) -> watch::Receiver<u64> {
        self.sessions.subscribe()
    }

    /// Claims a node for a session after its Hello: the session owns the node's memory until
    /// [`Roster::release`].
    ///
    /// # Errors
    /// [`Refused`]: the name or the process is connected already, or there are too many names.
    pub(crate) fn claim(
        &self,
        name: &NodeName,
        boot: BootId,
        address: SocketAddr,
        positions: &[wire::LogPosition],
        now: Time,
    ) -> Result<NodeMemory, Refused> {
        let mut nodes = self.nodes.lock();
        let known = nodes.by_name.len();
        let memory = match nodes.by_name.get_mut(name) {
            None if known >= NAMES_MAX => return Err(Refused::TooManyNames),
            None => {
                let registry = NodeRegistry::new(positions);
                let node = Node { memory: None, session: Some((address, boot)), boot, registry };
                nodes.by_name.insert(name.clone(), node);
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
        nodes.first_hello.get_or_insert(now);
        drop(nodes);
        self.changed.notify_one();
        self.sessions.send_modify(|n| *n += 1);
        Ok(memory)
    }

    /// Ends the session of a node and takes the node's memory back.
    pub(crate) fn release(&self, name: &NodeName, memory: NodeMemory) {
        if let Some(node) = self.nodes.lock().by_name.get_mut(name) {
            (node.memory, node.session) = (Some(memory), None);
        }
        self.sessions.send_modify(|n| *n += 1);
    }

    /// Removes an ended wave from the memory of disconnected nodes. The sessions of connected nodes
    /// remove it themselves.
    pub(crate) fn forget(&self, wave: WaveId) {
        let mut nodes = self.nodes.lock();
        nodes
            .by_name
            .values_mut()
            .filter_map(|n| n.memory.as_mut())
            .for_each(|memory| memory.forget_sets(wave));
    }

    /// Reports a reachable node that accepts no session *yet*: it is called again within seconds.
    pub(crate) fn coming(&self, now: Time) {
        self.nodes.lock().coming_until = Some(now + COMING);
    }

    /// Records a node's registry state; `None`: the node has no data of this coordinator's log.
    pub(crate) fn registry(&self, name: &NodeName, state: Option<&wire::RegistryState>) {
        let mut nodes = self.nodes.lock();
        match (nodes.by_name.get_mut(name), state) {
            (Some(node), Some(state)) => node.registry.state(state),
            (Some(node), None) => node.registry = NodeRegistry::default(),
            (None, _) => {}
        }
    }

    /// Totals over all nodes. A disconnected node counts with its last report.
    pub(crate) fn totals(&self, owned: Option<&Owned>) -> RegistryTotals {
        let nodes = self.nodes.lock();
        totals(nodes.by_name.iter().map(|(name, node)| (name, &node.registry)), owned)
    }

    pub(crate) fn is_connected(&self, name: &NodeName) -> bool {
        self.nodes.lock().by_name.get(name).is_some_and(|n| n.session.is_some())
    }

    pub(crate) fn addresses(&self) -> usize {
        self.nodes.lock().addresses.unwrap_or(0)
    }

    /// Sets the number of known addresses.
    pub(crate) fn set_addresses(&self, addresses: usize) {
        let before = self.nodes.lock().addresses.replace(addresses);
        if before != Some(addresses) {
            self.changed.notify_one();
        }
    }

    pub(crate) fn status(&self, owned: Option<&Owned>) -> Vec<NodeStatus> {
        let nodes = self.nodes.lock();
        let status = |(name, node): (&NodeName, &Node)| NodeStatus {
            node: name.clone(),
            address: node.session.map(|(address, _)| address),
            partitions: owned.map_or(0, |o| o.share(name)),
        };
        nodes.by_name.iter().map(status).collect()
    }

    /// Publishes the store's ownership on the board. If the store has none, waits for the nodes,
    /// makes the first ownership, records and publishes it. Then ends.
    pub(crate) async fn share_out(
        &self,
        board: &Board,
        (partitions, logs): (u16, u16),
        store: &dyn ClusterStore,
        clock: Clock,
    ) {
        let mut away = Repeated::default();
        loop {
            let owned = match store.ownership().await {
                Ok(Some(owned)) => Ok(owned),
                Ok(None) => {
                    let names = self.gather(clock).await;
                    // Another coordinator may have been faster: then its ownership is read.
                    store.replace_ownership(Ownership::assign(1, partitions, &names)).await
                }
                Err(error) => Err(error),
            };
            match owned {
                Ok(owned) => return self.assigned(board, &owned, partitions, logs),
                Err(StoreError::Conflict(_)) => {}
                Err(error) => {
                    let (reason, now) = (error.to_string(), clock.now().since(Time(0)));
                    if let Some(times) = away.note(&reason, now) {
                        tracing::warn!(reason, times, "ownership not read from store; retrying");
                    }
                    tokio::time::sleep(STORE_PAUSE).await;
                }
            }
        }
    }

    /// Publishes ownership on the board: from now on alerts can start.
    fn assigned(&self, board: &Board, ownership: &Ownership, partitions: u16, logs: u16) {
        if ownership.partition_count() != partitions {
            let (recorded, configured) = (ownership.partition_count(), partitions);
            tracing::error!(recorded, configured, "ownership refused: partition count differs");
            return;
        }
        let number = ownership.number;
        let nodes: Vec<_> = ownership.nodes().iter().map(ToString::to_string).collect();
        let owned = Arc::new(Owned::new(ownership.clone(), partitions, logs));
        board.change(|standing| standing.owned = Some(owned));
        tracing::info!(
            nodes = nodes.join(", "),
            partitions,
            number,
            "partitions assigned to nodes"
        );
        self.sessions.send_modify(|n| *n += 1);
    }

    /// Waits until partitions can be assigned; returns the names of the connected nodes.
    async fn gather(&self, clock: Clock) -> Vec<NodeName> {
        loop {
            let due = match self.nodes.lock().gathered(clock.now()) {
                Gathered::Ready(names) => return names,
                Gathered::Wait(until) => until,
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(clock.instant(due)) => {}
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Gathered {
    /// Nothing to do before this time, unless the roster changes.
    Wait(Time),
    Ready(Vec<NodeName>),
}

impl Nodes {
    fn gathered(&self, now: Time) -> Gathered {
        let Some(first) = self.first_hello else { return Gathered::Wait(Time::NEVER) };
        let there: Vec<_> = self
            .by_name
            .iter()
            .filter(|(_, n)| n.session.is_some())
            .map(|(n, _)| n.clone())
            .collect();
        if there.len() < self.min {
            // Ownership never changes later: assigning no partition yet is better than assigning
            // all partitions to the first node. The next Hello checks again.
            return Gathered::Wait(Time::NEVER);
        }
        let all = self.addresses.is_some_and(|expected| there.len() >= expected);
        let coming = self.coming_until.map_or(first, |until| until.min(first + GATHER_COMING));
        let until = coming.max(first + GATHER);
        if all || now >= until { Gathered::Ready(there) } else { Gathered::Wait(until) }
    }
}

#[cfg(test)]
mod tests;
