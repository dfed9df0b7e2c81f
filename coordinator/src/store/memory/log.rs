//! One log in memory: its batches, and the devices it has heard of.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use clarion_proto::ids::{LogId, Position, UnixMillis};

use super::{
    super::{
        Batch, RecordBatch, StoreError,
        known::{BYTES_PER_DEVICE, Fingerprint, KnownDevices},
    },
    room::Room,
};

/// What a batch takes besides its records: its entry in a list that may be half empty, what `Bytes`
/// keeps to be shared, and two allocations.
const BATCH_BYTES: u64 = 2 * size_of::<Appended>() as u64 + 48;
/// Records of one device taken from the reserve: a person may change a choice a few times, and
/// nobody may use it up.
const DEVICE_IN_RESERVE_MAX: u8 = 16;

/// Batches in the order of their positions: the one at index `i` has position `trimmed + i + 1`.
#[derive(Debug, Default)]
pub(super) struct Log {
    batches: VecDeque<Appended>,
    /// Batches that the log held once.
    trimmed: u64,
    /// Records in those.
    records_trimmed: u64,
    /// When the newest of those was appended.
    last_trimmed: UnixMillis,
    known: KnownDevices,
    /// How many records of a device were taken from the reserve. Those fit the reserve together,
    /// and so does this.
    in_reserve: BTreeMap<Fingerprint, u8>,
}

#[derive(Debug)]
struct Appended {
    at: UnixMillis,
    records: Bytes,
    /// Records in the log up to and with this batch.
    records_until: u64,
}

/// What a batch takes at most, bytes: [`Log::append`] gives back what it did not.
pub(super) fn cost(batch: &RecordBatch) -> u64 {
    let devices = if batch.growing() > 0 { batch.count() } else { 0 };
    batch.bytes() as u64 + BATCH_BYTES + BYTES_PER_DEVICE * u64::from(devices)
}

impl Log {
    /// Appends what was paid for by its [`cost`].
    pub(super) fn append(&mut self, batch: RecordBatch, now: UnixMillis, room: &Room) -> Position {
        if batch.growing() > 0 {
            let before = batch
                .devices()
                .filter(|&device| !self.known.insert(Fingerprint::of(device)))
                .count();
            room.give_back(BYTES_PER_DEVICE * before as u64);
        }
        let count = u64::from(batch.count());
        // Read within the log's lock, so that the order of times is that of positions; a wall clock
        // may be set back.
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

    /// The part of a batch of removals, mutes and feedback that changes something, if each of its
    /// devices may still take from the reserve; `taken` counts what this call has taken before.
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

    /// Drops the batches before a position; at most those that the log holds.
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

    /// See [`crate::store::ChangeLog::read_many`]; `one_at_least`: although it is larger than
    /// `bytes_max`.
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

/// What is left of batches of removals, mutes and feedback when only the room is left that is kept
/// for them: of each the part that changes something, `None` if that is nothing. Takes that room.
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

/// How many batches there are up to and with a position.
fn index(position: Position) -> usize {
    usize::try_from(position.0).unwrap_or(usize::MAX)
}
