//! One log in memory: its batches and its known devices.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use clarion_proto::ids::{LogId, Position, UnixMillis};

use super::super::{
    Batch, RecordBatch, StoreError,
    known::{BYTES_PER_DEVICE, Fingerprint, KnownDevices},
    room::Room,
};

/// Bytes of a batch besides its records: its entry in a list that may be half empty, the reference
/// count of `Bytes`, and two allocations.
const BATCH_BYTES: u64 = 2 * size_of::<Appended>() as u64 + 48;
/// Maximum number of records of one device in the reserve: a person may change a choice a few
/// times, and no single device can use the reserve up.
const DEVICE_IN_RESERVE_MAX: u8 = 16;

/// Batches in the order of their positions: the batch at index `i` has position `trimmed + i + 1`.
#[derive(Debug, Default)]
pub(super) struct Log {
    batches: VecDeque<Appended>,
    /// Number of trimmed batches.
    trimmed: u64,
    /// Number of records in the trimmed batches.
    records_trimmed: u64,
    /// Append time of the newest trimmed batch.
    last_trimmed: UnixMillis,
    known: KnownDevices,
    /// Number of records by device in the reserve. The reserve bounds these records, and so it
    /// bounds this map.
    in_reserve: BTreeMap<Fingerprint, u8>,
}

#[derive(Debug)]
struct Appended {
    at: UnixMillis,
    records: Bytes,
    /// Number of records in the log up to and including this batch.
    records_until: u64,
}

/// Upper bound of a batch's bytes: [`Log::append`] gives back the unused part.
pub(super) fn cost(batch: &RecordBatch) -> u64 {
    let devices = if batch.growing() > 0 { batch.count() } else { 0 };
    batch.bytes() as u64 + BATCH_BYTES + BYTES_PER_DEVICE * u64::from(devices)
}

impl Log {
    /// Appends a batch for which the caller has taken the room of [`cost`].
    pub(super) fn append(&mut self, batch: RecordBatch, now: UnixMillis, room: &Room) -> Position {
        if batch.growing() > 0 {
            let before = batch
                .devices()
                .filter(|&device| !self.known.insert(Fingerprint::of(device)))
                .count();
            room.give_back(BYTES_PER_DEVICE * before as u64);
        }
        let count = u64::from(batch.count());
        // Times must not decrease with growing positions; the wall clock may be set back.
        let (last, until) = self
            .batches
            .back()
            .map_or((self.last_trimmed, self.records_trimmed), |b| (b.at, b.records_until));
        self.batches.push_back(Appended {
            at: now.max(last),
            records: batch.into_records(),
            records_until: until + count,
        });
        self.head()
    }

    /// The records of a batch of removals, mutes and feedback that change something, if each of
    /// their devices is below its limit in the reserve; `taken` counts the earlier records of this
    /// call.
    fn reservable(
        &self,
        batch: &RecordBatch,
        taken: &mut BTreeMap<Fingerprint, u8>,
    ) -> Result<Option<RecordBatch>, StoreError> {
        let kept = batch.only(|device| self.known.contains(Fingerprint::of(device)));
        if kept.count() == 0 {
            return Ok(None);
        }
        for fingerprint in kept.devices().map(Fingerprint::of) {
            let held = self.in_reserve.get(&fingerprint).copied().unwrap_or_default();
            let more = taken.entry(fingerprint).or_default();
            if held + *more >= DEVICE_IN_RESERVE_MAX {
                return Err(StoreError::ReserveShare { limit: DEVICE_IN_RESERVE_MAX });
            }
            *more += 1;
        }
        Ok(Some(kept))
    }

    /// Drops the batches before a position, at most all batches of the log.
    pub(super) fn trim(&mut self, before: Position, room: &Room) {
        let end = index(before).saturating_sub(1);
        let drop = end.saturating_sub(index(Position(self.trimmed))).min(self.batches.len());
        for gone in self.batches.drain(..drop) {
            room.give_back(gone.records.len() as u64 + BATCH_BYTES);
            (self.records_trimmed, self.last_trimmed) = (gone.records_until, gone.at);
            self.trimmed += 1;
        }
        room.reopen();
    }

    pub(super) fn head(&self) -> Position {
        Position(self.trimmed + self.batches.len() as u64)
    }

    /// See [`crate::store::ChangeLog::read_many`]; `one_at_least`: return the first batch even if
    /// it is larger than `bytes_max`.
    pub(super) fn after(
        &self,
        id: LogId,
        after: Position,
        bytes_max: usize,
        one_at_least: bool,
    ) -> Result<Vec<Batch>, StoreError> {
        if after.0 < self.trimmed {
            return Err(StoreError::Trimmed { log: id, first: Position(self.trimmed + 1) });
        }
        let mut batches = Vec::new();
        let mut left = bytes_max;
        let held = self.batches.iter().skip(index(Position(after.0 - self.trimmed)));
        for (position, appended) in (after.0 + 1..).zip(held) {
            let bytes = appended.records.len();
            if bytes > left && !(one_at_least && batches.is_empty()) {
                break;
            }
            left = left.saturating_sub(bytes);
            let (appended, records) = (appended.at, appended.records.clone());
            batches.push(Batch { position: Position(position), appended, records });
            if left == 0 {
                break;
            }
        }
        Ok(batches)
    }

    pub(super) fn records_until(&self, position: Position) -> u64 {
        let held = index(Position(position.0.saturating_sub(self.trimmed))).min(self.batches.len());
        held.checked_sub(1).map_or(self.records_trimmed, |last| self.batches[last].records_until)
    }
}

/// Reduces batches of removals, mutes and feedback when only the reserve is left: each batch keeps
/// the records that change something; `None`: no record is left. Takes the room of the result.
pub(super) fn reserve(
    logs: &mut BTreeMap<LogId, &mut Log>,
    batches: Vec<(LogId, RecordBatch)>,
    room: &Room,
) -> Result<Vec<(LogId, Option<RecordBatch>)>, StoreError> {
    let mut taken: BTreeMap<LogId, BTreeMap<Fingerprint, u8>> = BTreeMap::new();
    let mut kept = Vec::with_capacity(batches.len());
    for (id, batch) in batches {
        let log = logs.get(&id).expect("locked by the caller");
        kept.push((id, log.reservable(&batch, taken.entry(id).or_default())?));
    }
    room.take_reserve(kept.iter().filter_map(|(_, batch)| batch.as_ref()).map(cost).sum())?;
    for (id, of_device) in taken {
        let log = logs.get_mut(&id).expect("locked by the caller");
        for (fingerprint, more) in of_device {
            *log.in_reserve.entry(fingerprint).or_default() += more;
        }
    }
    Ok(kept)
}

/// Number of batches up to and including a position.
fn index(position: Position) -> usize {
    usize::try_from(position.0).unwrap_or(usize::MAX)
}
