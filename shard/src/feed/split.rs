//! One batch of one log in, each core's part of it out. Pure; hot while a registry is loaded.
//!
//! A stream begins with the identity of the log and the heads of the logs that are followed: the
//! node has caught up when every core has taken its part of all of these.
//!
//! Positions are kept per core and log, and moved only when a core has taken its part. So the feed
//! may be cut anywhere, between two cores' parts of one batch too, and goes on from the least
//! position: who has a batch already is passed over.

use std::collections::{BTreeMap, BTreeSet};

use clarion_proto::{
    device::Record,
    ids::{
        ClusterName, LogId, LogIdentity, PartitionId, Position, UnixMillis, log_of, partition_of,
    },
    wire::shard_v1 as wire,
};
use tracing::error;

use crate::{
    command::Command,
    control::ownership::{Assignment, Follows},
};

/// What each core has taken of each log.
pub type Positions = BTreeMap<Follows, Position>;

/// The sender broke the contract of the feed. Another try may meet a healthy one; nothing was
/// applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// A batch came before the start, or a second start.
    #[error("the stream must begin with one start")]
    Start,
    /// The start names another log than the one that the node follows.
    #[error("the coordinator serves another log than {ours}")]
    OtherLog {
        /// The log of this node's partitions.
        ours: LogIdentity,
    },
    /// The start names no head of a log that was asked for.
    #[error("the start names no head of log {0}")]
    NoHead(LogId),
    /// A log without partitions of ours.
    #[error("log {0} was not asked for")]
    NotAsked(u32),
    /// A batch was left out or came again.
    #[error("log {log}: position {position} came where {expected} was due")]
    NotDense {
        /// Number of the log.
        log: LogId,
        /// The position that was due.
        expected: Position,
        /// The position that came.
        position: Position,
    },
    /// A record of a partition that is not ours, or not of this log.
    #[error(
        "log {log}, position {position}: a record of partition {partition}, which does not belong \
         there"
    )]
    Foreign {
        /// Of the batch.
        log: LogId,
        /// Of the batch.
        position: Position,
        /// Of the record.
        partition: PartitionId,
    },
}

/// Splits the batches of one ownership.
#[derive(Debug)]
pub struct Splitter {
    log: LogIdentity,
    partitions: Vec<PartitionId>,
    partition_count: u16,
    log_count: u16,
    /// By partition number; [`NOBODY`]: not ours. A table, because it is asked for every record.
    core_of: Vec<u16>,
    cores: usize,
    logs: BTreeMap<LogId, Log>,
    /// The stream that is open now has begun.
    started: bool,
}

const NOBODY: u16 = u16::MAX;

#[derive(Debug, Default)]
struct Log {
    cores: Vec<(usize, Position)>,
    /// Of the stream that is open now.
    expected: Position,
    /// The newest position as of the opening of the stream.
    head: Position,
}

impl Log {
    fn applied(&self) -> Position {
        self.cores.iter().map(|(_, p)| *p).min().unwrap_or_default()
    }
}

impl Splitter {
    /// For an assignment, from where each core stands (0 where nothing is said).
    #[must_use]
    pub fn new(assignment: &Assignment, positions: &Positions) -> Self {
        let owned = assignment.owned();
        let mut core_of = vec![NOBODY; usize::from(owned.partition_count)];
        for partition in &owned.partitions {
            let core = assignment.core_of(*partition).and_then(|c| u16::try_from(c).ok());
            core_of[usize::from(partition.0)] = core.unwrap_or(NOBODY);
        }
        let follows: BTreeSet<Follows> = assignment.follows();
        let mut logs: BTreeMap<LogId, Log> = BTreeMap::new();
        for (core, log) in follows {
            let position = positions.get(&(core, log)).copied().unwrap_or_default();
            let log = logs.entry(log).or_default();
            log.cores.push((core, position));
        }
        Self {
            log: owned.log,
            partitions: owned.partitions.clone(),
            partition_count: owned.partition_count,
            log_count: owned.log_count,
            core_of,
            cores: assignment.cores(),
            logs,
            started: false,
        }
    }

    /// What to ask a coordinator for, at the start of a stream.
    pub fn request(&mut self, node: &str, cluster: &ClusterName) -> wire::FeedRequest {
        self.started = false;
        for log in self.logs.values_mut() {
            log.expected = Position(log.applied().0 + 1);
        }
        wire::FeedRequest {
            node: node.to_owned(),
            partitions: self.partitions.iter().map(|p| u32::from(p.0)).collect(),
            positions: crate::control::registry::to_wire(
                &self.logs.iter().map(|(l, s)| (*l, s.applied())).collect(),
            ),
            cluster: cluster.to_string(),
            log_identity: self.log.to_wire(),
        }
    }

    /// Takes the start of the stream that was asked for last.
    ///
    /// # Errors
    /// It began before, serves another log, or leaves out a head.
    pub fn start(&mut self, start: &wire::FeedStart) -> Result<(), SplitError> {
        if std::mem::replace(&mut self.started, true) {
            return Err(SplitError::Start);
        }
        if LogIdentity::from_wire(&start.log_identity) != Ok(self.log) {
            return Err(SplitError::OtherLog { ours: self.log });
        }
        for (log, state) in &mut self.logs {
            let head = start.heads.iter().find(|head| head.log == u32::from(log.0));
            state.head = Position(head.ok_or(SplitError::NoHead(*log))?.position);
        }
        Ok(())
    }

    /// Whether the stream has begun, and every core has taken all that there was at its opening.
    #[must_use]
    pub fn has_caught_up(&self) -> bool {
        self.started && self.logs.values().all(|log| log.applied() >= log.head)
    }

    /// Whether there is nothing to follow.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// What each core has taken.
    #[must_use]
    pub fn positions(&self) -> Positions {
        self.logs
            .iter()
            .flat_map(|(l, s)| s.cores.iter().map(|(core, p)| ((*core, *l), *p)))
            .collect()
    }

    /// A core has taken its part of a batch.
    pub fn taken(&mut self, core: usize, log: LogId, position: Position) {
        let cores = self.logs.get_mut(&log).into_iter().flat_map(|l| &mut l.cores);
        cores.filter(|(c, _)| *c == core).for_each(|(_, p)| *p = position);
    }

    /// Splits one batch: a command for each core that follows the log and does not have it yet,
    /// records or not.
    ///
    /// A record that cannot be decoded is left out with an error line: it is the same for every
    /// reader and every try, and one such record must not keep a node from everything behind it.
    ///
    /// # Errors
    /// The batch is not the one that is due, or not ours.
    pub fn split(
        &mut self,
        batch: wire::FeedResponse,
    ) -> Result<Vec<(usize, Command)>, SplitError> {
        if !self.started {
            return Err(SplitError::Start);
        }
        let position = Position(batch.position);
        let known = u16::try_from(batch.log)
            .ok()
            .map(LogId)
            .and_then(|l| self.logs.get_mut(&l).map(|s| (l, s)));
        let Some((log, state)) = known else { return Err(SplitError::NotAsked(batch.log)) };
        if state.expected != position {
            return Err(SplitError::NotDense { log, expected: state.expected, position });
        }
        let mut parts: Vec<Option<Vec<(PartitionId, Record)>>> = vec![None; self.cores];
        // An even share and an eighth more: hashing spreads a large batch within that, a small one
        // grows once.
        let room = batch.records.len() / state.cores.len();
        for (core, applied) in &state.cores {
            if *applied < position {
                parts[*core] = Some(Vec::with_capacity(room + room / 8));
            }
        }
        for record in batch.records {
            let record = match Record::from_wire(record) {
                Ok(record) => record,
                Err(problem) => {
                    error!(%log, %position, %problem, "a record cannot be read and is left out");
                    continue;
                }
            };
            let partition = partition_of(record.device, self.partition_count);
            let core = self.core_of[usize::from(partition.0)];
            if core == NOBODY || log_of(partition, self.log_count) != log {
                return Err(SplitError::Foreign { log, position, partition });
            }
            if let Some(part) = &mut parts[usize::from(core)] {
                part.push((partition, record));
            }
        }
        state.expected = Position(position.0 + 1);
        let appended = UnixMillis(batch.append_time_ms);
        let command = |(core, part): (usize, Option<_>)| {
            part.map(|records| (core, Command::Apply { log, position, appended, records }))
        };
        Ok(parts.into_iter().enumerate().filter_map(command).collect())
    }
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
