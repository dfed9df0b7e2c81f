//! One log in memory: its batches, and the devices it has heard of.

use std::collections::BTreeMap;

use bytes::Bytes;
use clarion_proto::ids::{Position, UnixMillis};

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

/// Batches in the order of their positions: the one at index `i` has position `i + 1`.
#[derive(Debug, Default)]
pub(super) struct Log {
    batches: Vec<Appended>,
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
        let (last, until) =
            self.batches.last().map_or((UnixMillis(0), 0), |b| (b.at, b.records_until));
        self.batches.push(Appended {
            at: now.max(last),
            records: batch.into_records(),
            records_until: until + count,
        });
        self.head()
    }

    /// Appends what a batch of removals, mutes and feedback changes, from the room that is kept for
    /// it.
    pub(super) fn append_from_reserve(
        &mut self,
        batch: &RecordBatch,
        now: UnixMillis,
        room: &Room,
    ) -> Result<Position, StoreError> {
        let kept = batch.only(|device| self.known.contains(Fingerprint::of(device)));
        if kept.count() == 0 {
            return Ok(self.head());
        }
        let mut of_device: BTreeMap<Fingerprint, u8> = BTreeMap::new();
        for fingerprint in kept.devices().map(Fingerprint::of) {
            let held = self.in_reserve.get(&fingerprint).copied().unwrap_or_default();
            let more = of_device.entry(fingerprint).or_default();
            if held + *more >= DEVICE_IN_RESERVE_MAX {
                return Err(StoreError::ReserveShare { limit: DEVICE_IN_RESERVE_MAX });
            }
            *more += 1;
        }
        room.take_reserve(cost(&kept))?;
        for (fingerprint, more) in of_device {
            *self.in_reserve.entry(fingerprint).or_default() += more;
        }
        Ok(self.append(kept, now, room))
    }

    pub(super) fn head(&self) -> Position {
        Position(self.batches.len() as u64)
    }

    /// See [`crate::store::ChangeLog::read`].
    pub(super) fn after(&self, after: Position, bytes_max: usize) -> Vec<Batch> {
        let mut batches = Vec::new();
        let mut left = bytes_max;
        for (position, appended) in (after.0 + 1..).zip(self.batches.iter().skip(index(after))) {
            let bytes = appended.records.len();
            if !batches.is_empty() && bytes > left {
                break;
            }
            left = left.saturating_sub(bytes);
            let (appended, records) = (appended.at, appended.records.clone());
            batches.push(Batch { position: Position(position), appended, records });
            if left == 0 {
                break;
            }
        }
        batches
    }

    pub(super) fn records_until(&self, position: Position) -> u64 {
        let held = index(position).min(self.batches.len());
        held.checked_sub(1).map_or(0, |last| self.batches[last].records_until)
    }
}

/// How many batches there are up to and with a position.
fn index(position: Position) -> usize {
    usize::try_from(position.0).unwrap_or(usize::MAX)
}
