//! Logs out to the nodes: one follower for one node's stream.
//!
//! A follower is pulled: it reads the next batch when the transport asks for one, so a slow node
//! costs the coordinator one read-ahead and nothing else. There is no queue and no task. A follower
//! holds its position in each log, and one signal that some log has grown; logs are served in turn,
//! so that a busy one does not starve the others.
//!
//! The heads of the logs are read at the opening and told first: a node that has applied them has
//! caught up, whatever is appended meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use clarion_proto::{
    error::InvalidField,
    ids::{ClusterName, LogId, LogIdentity, PartitionId, Position, log_of},
    wire::shard_v1 as wire,
};
use tokio::sync::watch;

use crate::store::{Batch, ChangeLog, StoreError};

/// Read ahead of the transport for one stream, bytes: some ten batches of a busy log.
const READ_BYTES_MAX: usize = 256 * 1_024;

/// A node's question that cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// A partition or log that the cluster does not have.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// One of the two is configured wrongly.
    #[error("the node's cluster is \"{theirs}\", this coordinator's is \"{ours}\"")]
    OtherCluster {
        /// Name in the node's request, cut to the length that a name may have.
        theirs: String,
        /// Cluster name of this coordinator.
        ours: ClusterName,
    },
    /// The node's positions belong to another log. Its next session decides whether it may follow
    /// this one.
    #[error("the node follows another log than {ours}")]
    OtherLog {
        /// Identity of the log that this coordinator serves.
        ours: LogIdentity,
    },
    /// The node has applied what this log does not hold: the log has lost it, and the node must
    /// start from nothing.
    #[error("log {log} ends at {head}, the node is at {asked}")]
    Ahead {
        /// Log that is behind the node.
        log: LogId,
        /// Newest position of that log.
        head: Position,
        /// Position that the node has applied.
        asked: Position,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One node's place in all the logs it follows.
#[derive(Debug)]
pub struct Follower {
    log: Arc<dyn ChangeLog>,
    /// Heads of the logs followed, as of the opening.
    heads: Vec<(LogId, Position)>,
    grown: watch::Receiver<u64>,
    partition_count: u16,
    /// In turn: who was served goes to the back.
    cursors: VecDeque<Cursor>,
    ready: VecDeque<(LogId, Batch)>,
}

#[derive(Debug)]
struct Cursor {
    log: LogId,
    /// The last position handed out.
    after: Position,
    /// `None`: the log holds nothing else.
    only: Option<BTreeSet<PartitionId>>,
}

impl Follower {
    /// Checks what a node asks for against the cluster and the logs.
    ///
    /// # Errors
    /// See [`FeedError`].
    pub async fn open(
        log: Arc<dyn ChangeLog>,
        cluster: &ClusterName,
        partition_count: u16,
        request: &wire::FeedRequest,
    ) -> Result<Self, FeedError> {
        if request.cluster != cluster.as_str() {
            let theirs = request.cluster.chars().take(63).collect();
            return Err(FeedError::OtherCluster { theirs, ours: cluster.clone() });
        }
        if LogIdentity::from_wire(&request.log_identity) != Ok(log.identity()) {
            return Err(FeedError::OtherLog { ours: log.identity() });
        }
        let wanted = partitions(partition_count, log.logs(), &request.partitions)?;
        let positions = positions(log.logs(), &request.positions)?;
        let heads = log.heads().await?;
        for (&log_id, &asked) in &positions {
            let head = heads.get(usize::from(log_id.0)).copied().unwrap_or_default();
            if asked > head {
                return Err(FeedError::Ahead { log: log_id, head, asked });
            }
        }
        let head = |log: LogId| heads.get(usize::from(log.0)).copied().unwrap_or_default();
        let heads = wanted.keys().map(|log| (*log, head(*log))).collect();
        let cursors = wanted.into_iter().map(|(log_id, partitions)| {
            let whole = partitions.len() == partitions_in(log_id, partition_count, log.logs());
            let after = positions.get(&log_id).copied().unwrap_or_default();
            Cursor { log: log_id, after, only: (!whole).then_some(partitions) }
        });
        let cursors = cursors.collect();
        let grown = log.grown();
        Ok(Self { log, heads, grown, partition_count, cursors, ready: VecDeque::new() })
    }

    /// The first message of the stream: whoever has applied these heads has caught up.
    #[must_use]
    pub fn start(&self) -> wire::FeedStart {
        let head = |(log, head): &(LogId, Position)| wire::LogPosition {
            log: log.0.into(),
            position: head.0,
        };
        wire::FeedStart {
            log_identity: self.log.identity().to_wire(),
            heads: self.heads.iter().map(head).collect(),
        }
    }

    /// The next batch of any log followed; waits until there is one. Dropping the future loses
    /// nothing.
    ///
    /// # Errors
    /// The log cannot be read, or is closed.
    pub async fn next(&mut self) -> Result<(LogId, Batch), StoreError> {
        loop {
            if let Some(next) = self.ready.pop_front() {
                return Ok(next);
            }
            // Seen before the logs are looked at: what is appended meanwhile wakes us again.
            self.grown.borrow_and_update();
            if !self.read_ahead().await? {
                let closed = |_| StoreError::Away("the log was closed".to_owned());
                self.grown.changed().await.map_err(closed)?;
            }
        }
    }

    /// Fills `ready` from the logs that have something.
    async fn read_ahead(&mut self) -> Result<bool, StoreError> {
        let after: Vec<_> = self.cursors.iter().map(|c| (c.log, c.after)).collect();
        let found = self.log.read_many(&after, READ_BYTES_MAX).await?;
        // From here on nothing waits: cursors and `ready` change together.
        let any = !found.is_empty();
        for (log, batches) in found {
            let at = self.cursors.iter().position(|c| c.log == log).expect("asked for");
            let mut cursor = self.cursors.remove(at).expect("just found");
            let count = self.partition_count;
            for batch in batches {
                cursor.after = batch.position;
                self.ready.push_back(match &cursor.only {
                    None => (cursor.log, batch),
                    Some(only) => {
                        (cursor.log, batch.only(count, |partition| only.contains(&partition)))
                    }
                });
            }
            self.cursors.push_back(cursor);
        }
        Ok(any)
    }
}

/// How many partitions write to a log.
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
