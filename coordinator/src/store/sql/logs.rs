//! What this process knows of its logs without asking: heads, newest batches, room.
//!
//! Only this process writes, so the heads are read once, when the store is opened.
//!
//! What the database holds of a batch is sealed: the database's digests and chains are over sealed
//! bytes, and whoever reads it has no tokens and places. The tail has the records as they were
//! appended.

use std::sync::Arc;

use bytes::Bytes;
use clarion_proto::ids::{LogId, LogIdentity, Position, UnixMillis};
use parking_lot::Mutex;
use ring::digest::{Context, SHA256};
use tokio::sync::watch;

use super::{
    engine::{BATCH_BYTES, Flush, Flushed, Hash, StoredBatch},
    tail::{Tail, Tailed},
};
use crate::{
    seal::{SEAL_BYTES, SealError, Seals},
    store::{Batch, Link, StoreError, room::Room},
};

/// First byte of records that are not sealed, which schema version 1 wrote: key of the field
/// `FeedResponse.records`. Sealed bytes begin with another one.
const PLAIN: u8 = 0x22;

/// Heads and newest batches of all logs.
#[derive(Debug)]
pub(super) struct Logs {
    pub(super) identity: LogIdentity,
    pub(super) seals: Arc<Seals>,
    pub(super) room: Room,
    pub(super) grown: watch::Sender<u64>,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    heads: Vec<Head>,
    tail: Tail,
}

/// Row of `log_head`: where a log begins and ends.
#[derive(Debug, Clone)]
pub(super) struct Head {
    /// Newest position; 0: the log was never appended to.
    pub(super) position: Position,
    /// Time of the newest append.
    pub(super) appended: UnixMillis,
    /// Number of records up to the newest position, trimmed records included.
    pub(super) records: u64,
    /// Bytes of the batches that the log holds, as the room counts them.
    pub(super) bytes: u64,
    /// Chain of the newest batch.
    pub(super) chain: Hash,
    /// Oldest position that the log holds, or its next position.
    pub(super) first: Position,
    /// Number of records before `first`.
    pub(super) records_trimmed: u64,
    /// Chain of the batch before `first`.
    pub(super) trimmed_chain: Hash,
}

/// Batches of one log that the tail has, or why it has none.
pub(super) enum Newest {
    /// The log has no batch after the position.
    Nothing,
    /// The newest batches of the log, without a gap.
    Tail(Vec<Batch>),
    /// The batches are only in the database.
    Stored,
}

impl Logs {
    pub(super) fn new(
        identity: LogIdentity,
        heads: Vec<Head>,
        seals: Arc<Seals>,
        bytes_max: u64,
        tail_bytes_max: usize,
    ) -> Self {
        let held = heads.iter().map(|head| head.bytes).sum();
        let count = u16::try_from(heads.len()).expect("as many as there are logs");
        let tail = Tail::new(count, tail_bytes_max);
        Self {
            identity,
            seals,
            room: Room::new(bytes_max, held),
            grown: watch::Sender::new(0),
            known: Mutex::new(Known { heads, tail }),
        }
    }

    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.known.lock().heads.len()).expect("as many as there are logs")
    }

    pub(super) fn heads(&self) -> Vec<Position> {
        self.known.lock().heads.iter().map(|head| head.position).collect()
    }

    /// Newest position of every log with its chain.
    pub(super) fn links(&self) -> Vec<Link> {
        let known = self.known.lock();
        let link = |(log, head): (u16, &Head)| {
            let (position, chain) = (head.position, head.chain);
            Link { log: LogId(log), position, chain }
        };
        (0..).zip(&known.heads).map(link).collect()
    }

    pub(super) fn head(&self, log: LogId) -> Result<Head, StoreError> {
        let known = self.known.lock();
        let head = known.heads.get(usize::from(log.0)).cloned();
        head.ok_or_else(|| StoreError::Missing(format!("log {log}")))
    }

    /// The batches of a log after a position that are in memory, at most `bytes_max`; `whole`: the
    /// first one whatever its size.
    pub(super) fn newest(
        &self,
        log: LogId,
        after: Position,
        bytes_max: usize,
        whole: bool,
    ) -> Result<Newest, StoreError> {
        let known = self.known.lock();
        let head = known.heads.get(usize::from(log.0));
        let head = head.ok_or_else(|| StoreError::Missing(format!("log {log}")))?;
        if after.0 + 1 < head.first.0 {
            return Err(StoreError::Trimmed { log, first: head.first });
        }
        if after >= head.position {
            return Ok(Newest::Nothing);
        }
        let Some(held) = known.tail.after(log, after) else { return Ok(Newest::Stored) };
        let mut left = bytes_max;
        let mut batches = Vec::new();
        for Tailed { batch, .. } in held {
            let bytes = batch.records.len();
            if left == 0 || (bytes > left && !(whole && batches.is_empty())) {
                break;
            }
            left = left.saturating_sub(bytes);
            batches.push(batch.clone());
        }
        Ok(Newest::Tail(batches))
    }

    /// Number of records up to and including a position, if that is known without the database.
    pub(super) fn records_until(
        &self,
        log: LogId,
        until: Position,
    ) -> Result<Option<u64>, StoreError> {
        let known = self.known.lock();
        let head = known.heads.get(usize::from(log.0));
        let head = head.ok_or_else(|| StoreError::Missing(format!("log {log}")))?;
        if until >= head.position {
            return Ok(Some(head.records));
        }
        if until < head.first {
            return Ok(Some(head.records_trimmed));
        }
        let before = Position(until.0 - 1);
        let tailed = known.tail.after(log, before).and_then(|mut held| held.next());
        Ok(tailed.map(|tailed| tailed.records_until))
    }

    /// Takes what the database made of a flush, and wakes the readers. `records`: what was sealed,
    /// in the order of the batches. Error: what the database made does not follow from what this
    /// process knows.
    pub(super) fn appended(
        &self,
        flush: &Flush,
        records: Vec<Bytes>,
        flushed: &[Flushed],
    ) -> Result<(), String> {
        let mut known = self.known.lock();
        let Known { heads, tail } = &mut *known;
        if flushed.len() != flush.batches.len() {
            return Err(format!("it has {} of {} batches", flushed.len(), flush.batches.len()));
        }
        for ((batch, records), flushed) in flush.batches.iter().zip(records).zip(flushed) {
            let head = &mut heads[usize::from(batch.log.0)];
            let expected = (batch.log, Position(head.position.0 + 1));
            let chain = next_link(&head.chain, &batch.digest);
            if (flushed.log, flushed.position) != expected || flushed.chain != chain {
                return Err(format!(
                    "log {} goes on at position {} instead of {}, or with another chain",
                    batch.log, flushed.position, expected.1
                ));
            }
            head.position = flushed.position;
            head.appended = flushed.appended;
            head.records = flushed.records_until;
            head.bytes += batch.bytes;
            head.chain = chain;
            let (position, appended) = (flushed.position, flushed.appended);
            let tailed = Batch { position, appended, records };
            let records_until = flushed.records_until;
            tail.push(batch.log, Tailed { batch: tailed, records_until });
        }
        drop(known);
        self.grown.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Takes where a log that was never appended to begins.
    pub(super) fn begun(&self, log: LogId, first: Position, records_before: u64) {
        let head = &mut self.known.lock().heads[usize::from(log.0)];
        (head.position, head.first) = (Position(first.0 - 1), first);
        (head.records, head.records_trimmed) = (records_before, records_before);
    }

    /// Takes where a log begins after a trim.
    pub(super) fn trimmed(
        &self,
        log: LogId,
        first: Position,
        records: u64,
        chain: Hash,
        bytes: u64,
    ) {
        let mut known = self.known.lock();
        let head = &mut known.heads[usize::from(log.0)];
        if first > head.first {
            self.room.give_back(bytes);
            head.bytes = head.bytes.saturating_sub(bytes);
            (head.first, head.records_trimmed, head.trimmed_chain) = (first, records, chain);
        }
        drop(known);
        self.room.reopen();
    }

    /// Seals records of a log, for the database.
    pub(super) fn seal(&self, log: LogId, records: &[u8]) -> Bytes {
        self.seals.seal(&place(self.identity, log), records).into()
    }

    /// Checks batches of one log that follow on `after`, as the database returned them, and opens
    /// them.
    pub(super) fn opened(
        &self,
        head: &Head,
        after: Position,
        stored: Vec<StoredBatch>,
    ) -> Result<Vec<Batch>, StoreError> {
        let open = |batch: StoredBatch| {
            let Flushed { log, position, appended, .. } = batch.flushed;
            let records = match batch.records.first() {
                // Appended by a version that sealed nothing, or without any record.
                Some(&PLAIN) | None => batch.records,
                Some(_) => {
                    let opened = self.seals.open(&place(self.identity, log), &batch.records);
                    let damaged = |error: SealError| StoreError::Damaged {
                        log,
                        position,
                        problem: error.to_string(),
                    };
                    opened.map_err(damaged)?.into()
                }
            };
            Ok(Batch { position, appended, records })
        };
        checked(head, after, stored)?.into_iter().map(open).collect()
    }
}

/// Checks batches of one log that follow on `after`, as the database returned them.
pub(super) fn checked(
    head: &Head,
    after: Position,
    stored: Vec<StoredBatch>,
) -> Result<Vec<StoredBatch>, StoreError> {
    let mut before = (after.0 + 1 == head.first.0).then_some(head.trimmed_chain);
    for (expected, batch) in (after.0 + 1..).zip(&stored) {
        let Flushed { log, position, chain, .. } = batch.flushed;
        let damaged = |problem: &str| {
            let (position, problem) = (Position(expected), problem.to_owned());
            Err(StoreError::Damaged { log, position, problem })
        };
        if position.0 != expected {
            return damaged("the batch is missing");
        }
        if digest(&batch.records) != batch.digest {
            return damaged("its records are not those that were appended");
        }
        let Some(former) = before.or(batch.before) else {
            return damaged("the batch before it is missing");
        };
        if next_link(&former, &batch.digest) != chain {
            return damaged("its chain does not follow from the batch before it");
        }
        before = Some(chain);
    }
    Ok(stored)
}

/// Where the records of a log may be opened: nowhere else. Positions are not part of it, because a
/// batch is sealed before it has one; digests and chains tell the order.
fn place(identity: LogIdentity, log: LogId) -> Vec<u8> {
    [b"log", &identity.0[..], &log.0.to_le_bytes()].concat()
}

/// SHA-256 of records.
pub(super) fn digest(records: &[u8]) -> Hash {
    hash(&[records])
}

/// The next link of a log's chain: SHA-256 of the former link and a batch's digest.
#[must_use]
pub fn next_link(former: &Hash, digest: &Hash) -> Hash {
    hash(&[former, digest])
}

fn hash(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Bytes that a batch of a call takes: an upper bound, because joined batches share their overhead.
pub(super) fn cost(records: usize) -> u64 {
    (records + SEAL_BYTES) as u64 + BATCH_BYTES
}
