//! Sends the logs to the nodes: one follower for each node's stream; free of I/O.
//!
//! The transport pulls a follower: the follower asks for the next batch when the transport asks for
//! it, so a slow node costs the coordinator one read-ahead and nothing else. There is no queue and
//! no task. A follower holds its position in each log, and one signal that any log has grown; logs
//! are served in turn, so that a busy log does not starve the rest.
//!
//! The heads of the logs are read at the opening and sent first: a node that has applied these
//! heads has caught up, whatever is appended meanwhile.
//!
//! [`Opening::check`] checks a node's request, [`Opening::follow`] takes the heads and returns the
//! [`Follower`], which is in one of these states:
//!
//! | State | [`Follower::poll`] returns | Input | Next state |
//! |---|---|---|---|
//! | batches are ready | the next batch | – | the same, or none is ready |
//! | none is ready | read | batches found | batches are ready; logs with batches go to the end of the turn |
//! | none is ready | read | nothing found | waits |
//! | none is ready | read | the log was trimmed | the last message is ready, then ended |
//! | none is ready | read | a log is damaged | none is ready; the log is read no more, ended with the error if it was the last |
//! | none is ready | read | another error of the store | ended with the error |
//! | waits | wait | a log has grown | none is ready |
//! | ended | end | – | ended |
//!
//! The shell (`api/feed/pulled.rs`) marks the signal as seen before it reads: a later append wakes
//! it again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
};

use clarion_proto::{
    error::InvalidField,
    ids::{ClusterName, LogId, LogIdentity, PartitionId, Position, log_of},
    wire::shard_v1 as wire,
};

use crate::store::{Batch, StoreError};

/// Bytes read ahead of the transport for one stream: some ten batches of a busy log.
const READ_BYTES_MAX: usize = 256 * 1_024;

/// What a coordinator serves to the nodes of its cluster.
#[derive(Debug, Clone, Copy)]
pub struct Served<'a> {
    /// Name of the cluster.
    pub cluster: &'a ClusterName,
    /// Identity of the logs.
    pub identity: LogIdentity,
    /// Number of partitions, P.
    pub partitions: u16,
    /// Number of logs, L.
    pub logs: u16,
}

/// Why a feed cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// A partition or log that the cluster does not have.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// The node and this coordinator belong to different clusters: one of them is misconfigured.
    #[error("the node's cluster is \"{theirs}\", this coordinator's is \"{ours}\"")]
    OtherCluster {
        /// Name in the node's request, cut to the length that a name may have.
        theirs: String,
        /// Cluster name of this coordinator.
        ours: ClusterName,
    },
    /// The node's positions belong to another log. The node's next session decides whether the node
    /// may follow this coordinator's log.
    #[error("the node follows another log than {ours}")]
    OtherLog {
        /// Identity of the log that this coordinator serves.
        ours: LogIdentity,
    },
    /// The node has applied batches that this log does not hold: the log has lost them, and the
    /// node must rebuild from the beginning.
    #[error("log {log} ends at {head}, the node is at {asked}")]
    Ahead {
        /// Log that is behind the node.
        log: LogId,
        /// Newest position of that log.
        head: Position,
        /// Position that the node has applied.
        asked: Position,
    },
    /// The heads of the logs cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A node's request, checked against the cluster; the heads of the logs are not known yet.
#[derive(Debug)]
pub struct Opening {
    identity: LogIdentity,
    partitions: u16,
    /// Positions that the node has applied, of any log.
    applied: BTreeMap<LogId, Position>,
    cursors: VecDeque<Cursor>,
}

/// One node's positions in all logs that the node follows.
#[derive(Debug)]
pub struct Follower {
    partitions: u16,
    /// Cursors in turn: a served cursor goes to the back.
    cursors: VecDeque<Cursor>,
    ready: VecDeque<Fed>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// May read once no message is ready.
    Reading,
    /// Has found nothing new.
    Waiting,
    Ended(Option<StoreError>),
}

/// One message of a feed.
#[derive(Debug, Clone)]
pub enum Fed {
    /// The first message: the log's identity and the heads at the opening.
    Start(wire::FeedStart),
    /// One batch of one log.
    Batch(LogId, Batch),
    /// The last message: the batches after the node's position were trimmed.
    Trimmed(wire::FeedTrimmed),
}

/// One step for the shell to perform.
#[derive(Debug, Clone)]
pub enum Step {
    /// Send a message.
    Send(Fed),
    /// Read the logs after these positions, and return the result to [`Follower::read`].
    Read {
        /// Position in each log, the log whose turn it is first.
        after: Vec<(LogId, Position)>,
        /// Bytes after which the store stops reading.
        bytes_max: usize,
    },
    /// Wait until any log has grown, then call [`Follower::grown`].
    Wait,
    /// End the stream, with the store's error if there is one.
    End(Option<StoreError>),
}

#[derive(Debug)]
struct Cursor {
    log: LogId,
    /// Position of the last batch handed out.
    after: Position,
    /// Partitions that the node follows; `None`: all partitions of the log.
    only: Option<BTreeSet<PartitionId>>,
}

impl Opening {
    /// Checks a node's request against the cluster.
    ///
    /// # Errors
    /// See [`FeedError`].
    pub fn check(served: &Served<'_>, request: &wire::FeedRequest) -> Result<Self, FeedError> {
        let Served { cluster, identity, partitions: count, logs } = *served;
        if request.cluster != cluster.as_str() {
            let theirs = request.cluster.chars().take(63).collect();
            return Err(FeedError::OtherCluster { theirs, ours: cluster.clone() });
        }
        if LogIdentity::from_wire(&request.log_identity) != Ok(identity) {
            return Err(FeedError::OtherLog { ours: identity });
        }
        let wanted = partitions(count, logs, &request.partitions)?;
        let applied = positions(logs, &request.positions)?;
        let cursors = wanted.into_iter().map(|(log, partitions)| {
            let is_whole = partitions.len() == partitions_in(log, count, logs);
            let after = applied.get(&log).copied().unwrap_or_default();
            Cursor { log, after, only: (!is_whole).then_some(partitions) }
        });
        let cursors = cursors.collect();
        Ok(Self { identity, partitions: count, applied, cursors })
    }

    /// Opens the feed at these heads, by log.
    ///
    /// # Errors
    /// [`FeedError::Ahead`]: the node has applied batches that the log does not hold.
    pub fn follow(self, heads: &[Position]) -> Result<Follower, FeedError> {
        let head = |log: LogId| heads.get(usize::from(log.0)).copied().unwrap_or_default();
        for (&log, &asked) in &self.applied {
            if asked > head(log) {
                return Err(FeedError::Ahead { log, head: head(log), asked });
            }
        }
        // A node that has applied these heads has caught up.
        let heads = self.cursors.iter().map(|cursor| wire::LogPosition {
            log: cursor.log.0.into(),
            position: head(cursor.log).0,
        });
        let log_identity = self.identity.to_wire();
        let start = wire::FeedStart { log_identity, heads: heads.collect() };
        let (partitions, cursors) = (self.partitions, self.cursors);
        let ready = VecDeque::from([Fed::Start(start)]);
        Ok(Follower { partitions, cursors, ready, state: State::Reading })
    }
}

impl Follower {
    /// The next step for the shell to perform. [`Step::Read`] and [`Step::Wait`] come again until
    /// their answer is here.
    pub fn poll(&mut self) -> Step {
        if let Some(fed) = self.ready.pop_front() {
            return Step::Send(fed);
        }
        match &mut self.state {
            State::Reading => Step::Read {
                after: self.cursors.iter().map(|cursor| (cursor.log, cursor.after)).collect(),
                bytes_max: READ_BYTES_MAX,
            },
            State::Waiting => Step::Wait,
            State::Ended(error) => Step::End(mem::take(error)),
        }
    }

    /// Takes the result of [`Step::Read`].
    pub fn read(&mut self, found: Result<Vec<(LogId, Vec<Batch>)>, StoreError>) {
        match found {
            Ok(found) if found.is_empty() => self.state = State::Waiting,
            Ok(found) => found.into_iter().for_each(|(log, batches)| self.take(log, batches)),
            Err(StoreError::Trimmed { log, first }) => {
                let (log, first) = (log.0.into(), first.0);
                self.ready.push_back(Fed::Trimmed(wire::FeedTrimmed { log, first }));
                self.state = State::Ended(None);
            }
            // The node goes on with its other logs. It is not ready until it has this one, too.
            Err(StoreError::Damaged { log, .. }) if self.cursors.len() > 1 => {
                self.cursors.retain(|cursor| cursor.log != log);
            }
            Err(error) => self.state = State::Ended(Some(error)),
        }
    }

    /// Reports that any log has grown.
    pub fn grown(&mut self) {
        if matches!(self.state, State::Waiting) {
            self.state = State::Reading;
        }
    }

    /// Makes the batches of one log ready; the log goes to the end of the turn.
    fn take(&mut self, log: LogId, batches: Vec<Batch>) {
        let at = self.cursors.iter().position(|cursor| cursor.log == log).expect("asked for");
        let mut cursor = self.cursors.remove(at).expect("just found");
        for batch in batches {
            cursor.after = batch.position;
            let batch = match &cursor.only {
                None => batch,
                Some(only) => batch.only(self.partitions, |partition| only.contains(&partition)),
            };
            self.ready.push_back(Fed::Batch(log, batch));
        }
        self.cursors.push_back(cursor);
    }
}

/// Number of partitions that write to a log.
fn partitions_in(log: LogId, partitions: u16, logs: u16) -> usize {
    usize::from((partitions - log.0).div_ceil(logs))
}

fn partitions(
    partition_count: u16,
    logs: u16,
    asked: &[u32],
) -> Result<BTreeMap<LogId, BTreeSet<PartitionId>>, InvalidField> {
    let mut wanted: BTreeMap<LogId, BTreeSet<PartitionId>> = BTreeMap::new();
    for (i, &number) in asked.iter().enumerate() {
        let partition =
            u16::try_from(number).ok().filter(|n| *n < partition_count).map(PartitionId);
        let problem =
            || format!("the cluster has {partition_count} partitions from 0, asked for {number}");
        let partition =
            partition.ok_or_else(|| InvalidField::new(format!("partitions[{i}]"), problem()))?;
        wanted.entry(log_of(partition, logs)).or_default().insert(partition);
    }
    Ok(wanted)
}

fn positions(
    logs: u16,
    given: &[wire::LogPosition],
) -> Result<BTreeMap<LogId, Position>, InvalidField> {
    let mut positions = BTreeMap::new();
    for (i, place) in given.iter().enumerate() {
        let field = || format!("positions[{i}].log");
        let log = u16::try_from(place.log).ok().filter(|n| *n < logs).map(LogId);
        let problem = || format!("the cluster has {logs} logs from 0, named {}", place.log);
        let log = log.ok_or_else(|| InvalidField::new(field(), problem()))?;
        if positions.insert(log, Position(place.position)).is_some() {
            return Err(InvalidField::new(field(), format_args!("names log {log} again")));
        }
    }
    Ok(positions)
}

#[cfg(test)]
mod tests;
