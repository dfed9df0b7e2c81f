//! Assignment of partitions to nodes: read from the store, or made once; free of I/O.
//!
//! **Ownership** is made once (R = 1) and kept in the store: a restarted coordinator reads it from
//! the store. Ownership is made over the connected nodes, when as many nodes as known addresses
//! have sent a Hello, or [`GATHER`] after the first Hello ([`GATHER_COMING`] while a node announces
//! that it will accept a session soon). It never changes, and a node that joins later owns no
//! partition. Moving partitions needs a second owner with the data (R = 2), which is not built yet.
//!
//! | State | Input | Output | Next state |
//! |---|---|---|---|
//! | Reading | the stored ownership | publish it, log | Decided |
//! | Reading | an ownership of another number of partitions | log | Decided, without owners |
//! | Reading | the store has none | – | Gathering |
//! | Gathering | time or a Hello, and the nodes are gathered | write ownership 1 | Writing |
//! | Writing | the written ownership | publish it, log | Decided |
//! | Reading, Writing | conflict: another coordinator was faster | read ownership | Reading |
//! | Reading, Writing | another error of the store | log | Pausing |
//! | Pausing | time: [`STORE_PAUSE`] has passed | read ownership | Reading |

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use clarion_proto::time::Time;
use clarion_runtime::repeated::Repeated;

use crate::{
    owners::{NodeName, Owned, Ownership},
    store::StoreError,
};

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

/// An operation of the store that the roster asks for; one at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreOp {
    /// Read the newest ownership.
    ReadOwnership,
    /// Record the next ownership.
    WriteOwnership(Ownership),
}

/// Answer of the store to a [`StoreOp`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreResult {
    /// The newest ownership; `None` before the first.
    Read(Result<Option<Arc<Ownership>>, StoreError>),
    /// The ownership as recorded.
    Written(Result<Arc<Ownership>, StoreError>),
}

/// One step for the shell to perform.
#[derive(Debug)]
pub(crate) enum Output {
    /// Carry out an operation of the store and return its result.
    Store(StoreOp),
    /// Publish the ownership: from now on alerts can start.
    Publish(Arc<Owned>),
    /// Write a log message.
    Log(Log),
}

/// A log message of the roster.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Log {
    /// The store failed, for the given number of times since the last message.
    StoreFailed { reason: String, times: u64 },
    /// The stored ownership has another number of partitions than the configuration.
    PartitionCount { recorded: u16, configured: u16 },
    /// Partitions are assigned.
    Assigned { nodes: Vec<NodeName>, partitions: u16, number: u64 },
}

/// Decides once who owns which partition.
#[derive(Debug)]
pub(crate) struct Assignment {
    /// Minimum number of connected nodes before partitions are assigned.
    nodes_min: usize,
    partitions: u16,
    logs: u16,
    state: State,
    connected: BTreeSet<NodeName>,
    /// Number of known addresses; `None` before the first resolution.
    addresses: Option<usize>,
    first_hello: Option<Time>,
    /// End of the latest announcement: a reachable node still keeps to a former coordinator and has
    /// asked to be called again.
    coming_until: Option<Time>,
    /// Limits the log lines of failures of the store.
    failures: Repeated,
    outputs: VecDeque<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    /// Waits for the nodes until this time, unless an input comes before.
    Gathering(Time),
    Writing,
    Pausing(Time),
    Decided,
}

impl Assignment {
    pub(crate) fn new(nodes_min: usize, partitions: u16, logs: u16) -> Self {
        Self {
            nodes_min: nodes_min.max(1),
            partitions,
            logs,
            state: State::Reading,
            connected: BTreeSet::new(),
            addresses: None,
            first_hello: None,
            coming_until: None,
            failures: Repeated::default(),
            outputs: VecDeque::from([Output::Store(StoreOp::ReadOwnership)]),
        }
    }

    /// Reports that a node has a session from now on.
    pub(crate) fn joined(&mut self, node: &NodeName, now: Time) {
        self.connected.insert(node.clone());
        self.first_hello.get_or_insert(now);
    }

    /// Reports that a node has no session any more.
    pub(crate) fn left(&mut self, node: &NodeName) {
        self.connected.remove(node);
    }

    /// Reports a reachable node that accepts no session *yet*.
    pub(crate) fn coming(&mut self, now: Time) {
        self.coming_until = Some(now + COMING);
    }

    pub(crate) fn set_addresses(&mut self, addresses: usize) {
        self.addresses = Some(addresses);
    }

    /// Number of known addresses; 0 before the first resolution.
    pub(crate) fn addresses(&self) -> usize {
        self.addresses.unwrap_or(0)
    }

    /// Takes the answer of the store; an answer that nobody waits for changes nothing.
    pub(crate) fn stored(&mut self, result: StoreResult, now: Time) {
        match (self.state, result) {
            (State::Reading, StoreResult::Read(Ok(None))) => {
                self.state = State::Gathering(now);
                self.expire(now);
            }
            (State::Reading, StoreResult::Read(Ok(Some(ownership))))
            | (State::Writing, StoreResult::Written(Ok(ownership))) => self.decide(&ownership),
            // Another coordinator was faster: its ownership is read.
            (State::Reading, StoreResult::Read(Err(StoreError::Conflict(_))))
            | (State::Writing, StoreResult::Written(Err(StoreError::Conflict(_)))) => self.read(),
            (State::Reading, StoreResult::Read(Err(error)))
            | (State::Writing, StoreResult::Written(Err(error))) => {
                let reason = error.to_string();
                if let Some(times) = self.failures.note(&reason, now.since(Time(0))) {
                    self.outputs.push_back(Output::Log(Log::StoreFailed { reason, times }));
                }
                self.state = State::Pausing(now + STORE_PAUSE);
            }
            _ => {}
        }
    }

    /// Applies all inputs so far, and the passage of time.
    pub(crate) fn expire(&mut self, now: Time) {
        match self.state {
            State::Gathering(_) => match self.gathered(now) {
                Gathered::Wait(until) => self.state = State::Gathering(until),
                Gathered::Ready(nodes) => {
                    let ownership = Ownership::assign(1, self.partitions, &nodes);
                    self.outputs.push_back(Output::Store(StoreOp::WriteOwnership(ownership)));
                    self.state = State::Writing;
                }
            },
            State::Pausing(until) if until <= now => self.read(),
            State::Pausing(_) | State::Reading | State::Writing | State::Decided => {}
        }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Gathering(until) | State::Pausing(until) => {
                Some(until).filter(|until| *until < Time::NEVER)
            }
            State::Reading | State::Writing | State::Decided => None,
        }
    }

    pub(crate) fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether ownership is decided: no output follows the present ones.
    pub(crate) fn is_decided(&self) -> bool {
        self.state == State::Decided
    }

    fn read(&mut self) {
        self.state = State::Reading;
        self.outputs.push_back(Output::Store(StoreOp::ReadOwnership));
    }

    fn decide(&mut self, ownership: &Ownership) {
        self.state = State::Decided;
        if ownership.partition_count() != self.partitions {
            let (recorded, configured) = (ownership.partition_count(), self.partitions);
            self.outputs.push_back(Output::Log(Log::PartitionCount { recorded, configured }));
            return;
        }
        let (nodes, number) = (ownership.nodes().to_vec(), ownership.number);
        let owned = Owned::new(ownership.clone(), self.partitions, self.logs);
        self.outputs.push_back(Output::Publish(Arc::new(owned)));
        let partitions = self.partitions;
        self.outputs.push_back(Output::Log(Log::Assigned { nodes, partitions, number }));
    }

    fn gathered(&self, now: Time) -> Gathered {
        let Some(first) = self.first_hello else { return Gathered::Wait(Time::NEVER) };
        if self.connected.len() < self.nodes_min {
            // Ownership never changes later: assigning no partition yet is better than assigning
            // all partitions to the first node. The next Hello checks again.
            return Gathered::Wait(Time::NEVER);
        }
        let all = self.addresses.is_some_and(|expected| self.connected.len() >= expected);
        let coming = self.coming_until.map_or(first, |until| until.min(first + GATHER_COMING));
        let until = coming.max(first + GATHER);
        if all || now >= until {
            Gathered::Ready(self.connected.iter().cloned().collect())
        } else {
            Gathered::Wait(until)
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Gathered {
    /// Nothing to do before this time, unless the roster changes.
    Wait(Time),
    Ready(Vec<NodeName>),
}

impl Log {
    /// Writes the message to the log.
    pub(crate) fn write(&self) {
        match self {
            Self::StoreFailed { reason, times } => {
                tracing::warn!(reason, times, "ownership not read from store; retrying");
            }
            Self::PartitionCount { recorded, configured } => {
                tracing::error!(recorded, configured, "ownership refused: partition count differs");
            }
            Self::Assigned { nodes, partitions, number } => {
                let nodes: Vec<_> = nodes.iter().map(ToString::to_string).collect();
                tracing::info!(
                    nodes = nodes.join(", "),
                    partitions,
                    number,
                    "partitions assigned to nodes"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
