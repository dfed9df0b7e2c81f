//! The queue of rows without registration that will be dropped: tombstones, and places of devices
//! that never registered.
//!
//! Append time is the only clock here, so two nodes drop the same rows at the same records. The
//! queue contains a row at most once, even if the row changes: a row that was registered again, or
//! whose time was postponed, is checked when its entry is due. So the number of rows bounds the
//! queue, and a device that registers and unregisters often costs nothing more.
//!
//! An entry is ten bytes: due time before ordinal, both with the highest byte first, so that bytes
//! compare as times do.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
};

use clarion_proto::ids::{Ordinal, UnixMillis};

/// Time for which a row without registration is kept, in append time, milliseconds: 24 h, the age
/// at which coordinators refuse an observation. So no observation that a tombstone would refuse
/// arrives after the tombstone is dropped.
pub(super) const UNREGISTERED_KEPT_MS: u64 = 24 * 3_600_000;
/// Longest time by which an observation may be ahead of its append time, milliseconds; coordinators
/// refuse more.
pub(super) const OBSERVED_AHEAD_MAX_MS: u64 = 60_000;
/// Share by which the capacity grows. Doubling would leave half of it empty.
const ROOM_SHARE: usize = 16;

/// Rows by the time at which they must be checked.
#[derive(Default)]
pub(super) struct Expiry {
    queue: BinaryHeap<Reverse<[u8; 10]>>,
}

impl Expiry {
    /// Adds a row that is not in the queue.
    pub(super) fn push(&mut self, due: UnixMillis, ordinal: Ordinal) {
        if self.queue.len() == self.queue.capacity() {
            self.queue.reserve_exact(self.queue.len() / ROOM_SHARE + 16);
        }
        self.queue.push(Reverse(pack(due, ordinal)));
    }

    /// Removes and returns the next due row; rows with equal times come in the order of ordinals.
    pub(super) fn pop_due(&mut self, now: UnixMillis) -> Option<Ordinal> {
        let first = self.queue.peek_mut()?;
        let (due, ordinal) = unpack(first.0);
        let found = (due <= now).then(|| {
            PeekMut::pop(first);
            ordinal
        });
        if found.is_some() && self.queue.len() < self.queue.capacity() / 2 {
            self.queue.shrink_to(self.queue.len() + self.queue.len() / ROOM_SHARE + 16);
        }
        found
    }

    /// Returns all entries in unspecified order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (UnixMillis, Ordinal)> {
        self.queue.iter().map(|entry| unpack(entry.0))
    }
}

/// Returns the time at which a row without registration is dropped, from the append time and the
/// observation time of the facet for which it is kept. An observation ahead of its append time
/// prolongs the time by the difference, because older observations can arrive that much later.
pub(super) fn due(appended: UnixMillis, observed: UnixMillis) -> UnixMillis {
    let ahead = observed.0.saturating_sub(appended.0).min(OBSERVED_AHEAD_MAX_MS);
    UnixMillis(
        appended.0.saturating_add(ahead).saturating_add(UNREGISTERED_KEPT_MS).min((1 << 48) - 1),
    )
}

fn pack(due: UnixMillis, ordinal: Ordinal) -> [u8; 10] {
    let mut entry = [0; 10];
    entry[..6].copy_from_slice(&due.0.min((1 << 48) - 1).to_be_bytes()[2..]);
    entry[6..].copy_from_slice(&ordinal.0.to_be_bytes());
    entry
}

fn unpack(entry: [u8; 10]) -> (UnixMillis, Ordinal) {
    let [a, b, c, d, e, f, w, x, y, z] = entry;
    (
        UnixMillis(u64::from_be_bytes([0, 0, a, b, c, d, e, f])),
        Ordinal(u32::from_be_bytes([w, x, y, z])),
    )
}
