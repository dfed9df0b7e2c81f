//! Splits a batch of one log into the cores' parts; free of I/O. Hot while a registry is loaded.
//!
//! A stream begins with the identity of the log and the heads of the followed logs: the node has
//! caught up when every core has accepted its part of all batches up to these heads.
//!
//! Positions are kept per partition, and advance only when the partition's core has accepted its
//! part. So the feed may be interrupted anywhere, even between two cores' parts of one batch, and
//! continues from the lowest position of a log: a partition that has a batch already is skipped,
//! whether its core got the batch or its snapshot includes it.

use std::collections::BTreeMap;

use clarion_proto::{
    device::Record,
    ids::{
        ClusterName, LogId, LogIdentity, PartitionId, Position, UnixMillis, log_of, partition_of,
    },
    wire::shard_v1 as wire,
};
use tracing::error;

use crate::{command::Command, control::ownership::Assignment};

/// Position that each partition has reached in its log.
pub type Positions = BTreeMap<PartitionId, Position>;

/// A violation of the feed's contract by the coordinator. A retry may reach a healthy coordinator;
/// nothing was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// A batch arrived before the start, or a second start arrived.
    #[error("the stream must begin with one start")]
    Start,
    /// The start names a different log from the log that the node follows.
    #[error("the coordinator serves another log than {ours}")]
    OtherLog {
        /// The log of this node's partitions.
        ours: LogIdentity,
    },
    /// The start lacks the head of a requested log.
    #[error("the start names no head of log {0}")]
    NoHead(LogId),
    /// A partition has applied batches that its log does not hold: the log has lost them.
    #[error("log {log} ends at {head}, partition {partition} is at {applied}")]
    Ahead {
        /// Number of the log.
        log: LogId,
        /// Newest position of the log.
        head: Position,
        /// The partition that is further on.
        partition: PartitionId,
        /// Position of the partition.
        applied: Position,
    },
    /// The batch is of a log without partitions of this node.
    #[error("log {0} was not asked for")]
    NotAsked(u32),
    /// A batch was skipped or repeated.
    #[error("log {log}: position {position} came where {expected} was due")]
    NotDense {
        /// Number of the log.
        log: LogId,
        /// The expected position.
        expected: Position,
        /// The received position.
        position: Position,
    },
    /// A record belongs to a partition of another node or of another log.
    #[error(
        "log {log}, position {position}: a record of partition {partition}, which does not belong \
         there"
    )]
    Foreign {
        /// Log of the batch.
        log: LogId,
        /// Position of the batch.
        position: Position,
        /// Partition of the record.
        partition: PartitionId,
    },
}

/// Splits the batches of one ownership.
#[derive(Debug)]
pub struct Splitter {
    log: LogIdentity,
    partition_count: u16,
    log_count: u16,
    /// Core and position by partition number; [`NOBODY`]: not followed. A table, because every
    /// record needs a lookup.
    places: Vec<Place>,
    cores: usize,
    logs: BTreeMap<LogId, Log>,
    /// Whether the start of the open stream has arrived.
    started: bool,
}

const NOBODY: u16 = u16::MAX;

#[derive(Debug, Clone, Copy)]
struct Place {
    core: u16,
    applied: Position,
}

#[derive(Debug, Default)]
struct Log {
    /// Followed partitions of the log.
    partitions: Vec<PartitionId>,
    /// Position expected on the open stream.
    expected: Position,
    /// The log's head at the opening of the stream.
    head: Position,
}

impl Log {
    /// Position that all of its partitions have reached.
    fn applied(&self, places: &[Place]) -> Position {
        let applied = |p: &PartitionId| places[usize::from(p.0)].applied;
        self.partitions.iter().map(applied).min().unwrap_or_default()
    }
}

impl Splitter {
    /// Creates a splitter for the partitions of an assignment that have a position.
    #[must_use]
    pub fn new(assignment: &Assignment, positions: &Positions) -> Self {
        let owned = assignment.owned();
        let nowhere = Place { core: NOBODY, applied: Position(0) };
        let mut places = vec![nowhere; usize::from(owned.partition_count)];
        let mut logs: BTreeMap<LogId, Log> = BTreeMap::new();
        for (partition, core, log) in assignment.places() {
            let Some(applied) = positions.get(&partition).copied() else { continue };
            let core = u16::try_from(core).unwrap_or(NOBODY);
            places[usize::from(partition.0)] = Place { core, applied };
            logs.entry(log).or_default().partitions.push(partition);
        }
        Self {
            log: owned.log,
            partition_count: owned.partition_count,
            log_count: owned.log_count,
            places,
            cores: assignment.cores(),
            logs,
            started: false,
        }
    }

    /// The request to a coordinator that opens a stream.
    pub fn request(&mut self, node: &str, cluster: &ClusterName) -> wire::FeedRequest {
        self.started = false;
        for log in self.logs.values_mut() {
            log.expected = Position(log.applied(&self.places).0 + 1);
        }
        let mut partitions: Vec<_> = self.followed().map(|p| u32::from(p.0)).collect();
        partitions.sort_unstable();
        wire::FeedRequest {
            node: node.to_owned(),
            partitions,
            positions: crate::control::registry::to_wire(
                &self.logs.iter().map(|(l, s)| (*l, s.applied(&self.places))).collect(),
            ),
            cluster: cluster.to_string(),
            log_identity: self.log.to_wire(),
        }
    }

    /// Accepts the start of the stream that was requested last.
    ///
    /// # Errors
    /// The stream had its start before, serves another log, or lacks a head; or a partition is
    /// ahead of a head. The request names the least position of a log only, so the coordinator
    /// cannot tell.
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
            for partition in &state.partitions {
                let (log, head, partition) = (*log, state.head, *partition);
                let applied = self.places[usize::from(partition.0)].applied;
                if applied > head {
                    return Err(SplitError::Ahead { log, head, partition, applied });
                }
            }
        }
        Ok(())
    }

    /// Whether the stream's start has arrived and every partition's core has accepted all batches
    /// up to the heads.
    #[must_use]
    pub fn has_caught_up(&self) -> bool {
        self.started && self.logs.values().all(|log| log.applied(&self.places) >= log.head)
    }

    /// Whether the node has no log to follow.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// Position that each followed partition has reached.
    #[must_use]
    pub fn positions(&self) -> Positions {
        self.followed().map(|p| (p, self.places[usize::from(p.0)].applied)).collect()
    }

    fn followed(&self) -> impl Iterator<Item = PartitionId> + '_ {
        self.logs.values().flat_map(|log| log.partitions.iter().copied())
    }

    /// Records that a core has accepted its part of a batch.
    pub fn taken(&mut self, core: usize, log: LogId, position: Position) {
        for partition in self.logs.get(&log).into_iter().flat_map(|log| &log.partitions) {
            let place = &mut self.places[usize::from(partition.0)];
            if usize::from(place.core) == core {
                place.applied = place.applied.max(position);
            }
        }
    }

    /// Splits one batch: a command for each core with a partition of the log that does not have the
    /// batch yet, with or without records.
    ///
    /// A record that cannot be decoded is skipped and logged as an error: every reader and every
    /// retry would get the same bytes, and one such record must not block the batches after it.
    ///
    /// # Errors
    /// The batch does not have the expected position, or this node does not follow its log.
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
        let mut takers: Vec<Vec<PartitionId>> = vec![Vec::new(); self.cores];
        // An even share and an eighth more: hashing spreads a large batch within this capacity; the
        // part of a small batch reallocates once.
        let lacks = |p: &PartitionId| self.places[usize::from(p.0)].applied < position;
        let lacking = state.partitions.iter().filter(|p| lacks(p)).count().max(1);
        for partition in state.partitions.iter().filter(|p| lacks(p)) {
            let core = usize::from(self.places[usize::from(partition.0)].core);
            takers.get_mut(core).into_iter().for_each(|takers| takers.push(*partition));
            if let Some(part @ None) = parts.get_mut(core) {
                let room = batch.records.len() / lacking.min(self.cores);
                *part = Some(Vec::with_capacity(room + room / 8));
            }
        }
        for record in batch.records {
            let record = match Record::from_wire(record) {
                Ok(record) => record,
                Err(problem) => {
                    error!(%log, %position, %problem, "invalid feed record skipped");
                    continue;
                }
            };
            let partition = partition_of(record.device, self.partition_count);
            let Place { core, applied } = self.places[usize::from(partition.0)];
            if core == NOBODY || log_of(partition, self.log_count) != log {
                return Err(SplitError::Foreign { log, position, partition });
            }
            if applied < position
                && let Some(part) = &mut parts[usize::from(core)]
            {
                part.push((partition, record));
            }
        }
        state.expected = Position(position.0 + 1);
        let appended = UnixMillis(batch.append_time_ms);
        let command = |((core, part), partitions): ((usize, Option<_>), Vec<_>)| {
            let records = part?;
            Some((core, Command::Apply { log, position, appended, partitions, records }))
        };
        Ok(parts.into_iter().enumerate().zip(takers).filter_map(command).collect())
    }
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
