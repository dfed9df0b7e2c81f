//! Sends the logs to the nodes: one follower for each node's stream.
//!
//! The transport pulls a follower: the follower reads the next batch when the transport asks for
//! it, so a slow node costs the coordinator one read-ahead and nothing else. There is no queue and
//! no task. A follower holds its position in each log, and one signal that any log has grown; logs
//! are served in turn, so that a busy log does not starve the rest.
//!
//! The follower reads the heads of the logs at the opening and sends them first: a node that has
//! applied these heads has caught up, whatever is appended meanwhile.

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

/// Bytes read ahead of the transport for one stream: some ten batches of a busy log.
const READ_BYTES_MAX: usize = 256 * 1_024;

/// Why a feed cannot be opened or continued.
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
    /// The log cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One node's positions in all logs that the node follows.
#[derive(Debug)]
pub struct Follower {
    log: Arc<dyn ChangeLog>,
    /// Heads of the followed logs at the opening.
    heads: Vec<(LogId, Position)>,
    grown: watch::Receiver<u64>,
    partition_count: u16,
    /// Cursors in turn: a served cursor goes to the back.
    cursors: VecDeque<Cursor>,
    ready: VecDeque<(LogId, Batch)>,
}

#[derive(Debug)]
struct Cursor {
    log: LogId,
    /// Position of the last batch handed out.
    after: Position,
    /// Partitions that the node follows; `None`: all partitions of the log.
    only: Option<BTreeSet<PartitionId>>,
}

impl Follower {
    /// Checks a node's request against the cluster and the logs.
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

    /// The first message of the stream: a node that has applied these heads has caught up.
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

    /// The next batch of any followed log; waits for a batch. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The log cannot be read, or is closed.
    pub async fn next(&mut self) -> Result<(LogId, Batch), StoreError> {
        loop {
            if let Some(next) = self.ready.pop_front() {
                return Ok(next);
            }
            // The signal is marked seen before the logs are read: a later append wakes this future
            // again.
            self.grown.borrow_and_update();
            if !self.read_ahead().await? {
                let closed = |_| StoreError::Away("the log was closed".to_owned());
                self.grown.changed().await.map_err(closed)?;
            }
        }
    }

    /// Fills `ready` from the logs that have new batches.
    async fn read_ahead(&mut self) -> Result<bool, StoreError> {
        let after: Vec<_> = self.cursors.iter().map(|c| (c.log, c.after)).collect();
        let found = self.log.read_many(&after, READ_BYTES_MAX).await?;
        // No await from here on: cursors and `ready` change together.
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
