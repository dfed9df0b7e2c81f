//! Which nodes there are, which are alive, and who owns what.
//!
//! A node is its *name*, as it says in its Hello: its address may change with every start, its
//! memory with every boot. [`Roster`] knows each name once: who holds the session, what the node
//! told of its waves, what it holds of the registry. Two processes that call themselves the same
//! would each be given the other's partitions, and everybody would be alerted twice; so the second
//! is refused for as long as the first is connected.
//!
//! **Ownership** is made once (R = 1) and kept in the store: a coordinator that starts again goes on
//! with it. It is made when as many nodes as there are addresses have said hello, or [`GATHER`]
//! after the first ([`GATHER_COMING`] while a node says that it will take a session soon), with
//! those that are there. Then it stays. A node that is away keeps its partitions, and what they have
//! to do waits for its return; one that comes later owns nothing, which is logged. Handing
//! partitions on needs a second owner with the data (R = 2), which is not built yet.
//!
//! [`crate::dispatch`] finds the nodes and keeps one session task for each address.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use clarion_proto::{
    ids::{BootId, WaveId},
    time::Time,
    wire::shard_v1 as wire,
};
use clarion_runtime::repeated::Repeated;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::{
    clock::Clock,
    members::registry::{NodeRegistry, RegistryTotals, totals},
    owners::{NodeName, Owned, Ownership},
    session::NodeMemory,
    standing::Board,
    store::{ClusterStore, StoreError},
};

pub mod registry;

/// How long ownership waits for all nodes after the first one has said hello: processes of one
/// start are seconds apart.
pub const GATHER: Duration = Duration::from_secs(5);
/// The same while a node says that it will come: it refuses this coordinator for 10 s after its
/// last session with one that served another log, and is asked again after 2 s at most. Otherwise a
/// node that is new would be given everything.
pub const GATHER_COMING: Duration = Duration::from_secs(15);
/// How long such a word holds: longer than the longest pause between two calls.
const COMING: Duration = Duration::from_secs(4);
/// Pause between tries to read ownership while the store is away.
const STORE_PAUSE: Duration = Duration::from_millis(500);
/// Names remembered: nodes that were ever there. A thousand is beyond any cluster; more means that
/// nodes draw random names, which would each be given a registry to hold.
pub const NAMES_MAX: usize = 1_024;

/// One node, as callers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// Name of the node.
    pub node: NodeName,
    /// Address of the node's session; `None`: it has no session.
    pub address: Option<SocketAddr>,
    /// Number of partitions that the node owns.
    pub partitions: u16,
}

/// All nodes ever heard of.
#[derive(Debug)]
pub(crate) struct Roster {
    nodes: Mutex<Nodes>,
    changed: Notify,
    /// Changes with every session that begins or ends, and when partitions are assigned.
    sessions: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Nodes {
    /// Fewer are not shared out to.
    min: usize,
    by_name: BTreeMap<NodeName, Node>,
    /// Addresses known; `None` before the first resolution.
    addresses: Option<usize>,
    first_hello: Option<Time>,
    /// A node that is there has asked to be called again until then: it still keeps to a former
    /// coordinator.
    coming_until: Option<Time>,
}

#[derive(Debug)]
struct Node {
    /// `None` while a session holds it.
    memory: Option<NodeMemory>,
    session: Option<(SocketAddr, BootId)>,
    boot: BootId,
    registry: NodeRegistry,
}

/// A Hello that is not taken.
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
    /// Partitions are shared out once `nodes_min` nodes are there, not before.
    pub(crate) fn new(nodes_min: usize) -> Self {
        let nodes = Nodes { min: nodes_min.max(1), ..Nodes::default() };
        Self { nodes: Mutex::new(nodes), changed: Notify::new(), sessions: watch::Sender::new(0) }
    }

    /// Tells of every session that begins or ends, and when partitions are assigned.
    pub(crate) fn sessions(&self) -> watch::Receiver<u64> {
        self.sessions.subscribe()
    }

    /// A node has said hello: its memory belongs to the session now, until [`Roster::release`].
    ///
    /// # Errors
    /// The name is taken.
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

    /// The session has ended.
    pub(crate) fn release(&self, name: &NodeName, memory: NodeMemory) {
        if let Some(node) = self.nodes.lock().by_name.get_mut(name) {
            (node.memory, node.session) = (Some(memory), None);
        }
        self.sessions.send_modify(|n| *n += 1);
    }

    /// A wave has ended: what nodes that are away had told of it goes. Those that are connected see
    /// to it themselves.
    pub(crate) fn forget(&self, wave: WaveId) {
        let mut nodes = self.nodes.lock();
        nodes
            .by_name
            .values_mut()
            .filter_map(|n| n.memory.as_mut())
            .for_each(|memory| memory.forget_sets(wave));
    }

    /// A node is there and takes no session *yet*: it is called again within a few seconds.
    pub(crate) fn coming(&self, now: Time) {
        self.nodes.lock().coming_until = Some(now + COMING);
    }

    /// A node says what it holds; `None`: nothing of this coordinator's log.
    pub(crate) fn registry(&self, name: &NodeName, state: Option<&wire::RegistryState>) {
        let mut nodes = self.nodes.lock();
        match (nodes.by_name.get_mut(name), state) {
            (Some(node), Some(state)) => node.registry.state(state),
            (Some(node), None) => node.registry = NodeRegistry::default(),
            (None, _) => {}
        }
    }

    /// What all nodes hold. A node that is away counts with what it said last.
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

    /// So many addresses are known now.
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

    /// Puts the store's ownership on the board, or makes the first one when its time has come,
    /// records it and puts it there. Then ends.
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
                    // Another coordinator may have been faster: then the store's is taken.
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

    /// Puts ownership on the board: from now on alerts can start.
    fn assigned(&self, board: &Board, ownership: &Ownership, partitions: u16, logs: u16) {
        if ownership.partition_count() != partitions {
            let (recorded, configured) = (ownership.partition_count(), partitions);
            tracing::error!(recorded, configured, "ownership has another number of partitions");
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

    /// Waits until partitions can be shared out, and names the nodes that are there.
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
    /// Nothing to do before then, unless something changes.
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
            // Ownership does not change later: better nobody yet than all of it to the first. The
            // next hello asks again.
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
