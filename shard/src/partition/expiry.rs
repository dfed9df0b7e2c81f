//! Which rows without registration are to be dropped, and when: tombstones, and places of devices that never registered.
//!
//! Append time is the only clock here, so two nodes drop the same rows at the same records. A row is named at most once,
//! whatever becomes of it meanwhile: a row that registered, or whose time was put off, is looked at when its entry
//! comes up. So the queue is bounded by the rows, and a device that flaps costs nothing.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
};

use clarion_proto::ids::{Ordinal, UnixMillis};

/// How long a row without registration is kept, in append time: 24 h, the age at which coordinators refuse an
/// observation. So whoever a tombstone would keep out does not come after it is gone.
pub(super) const UNREGISTERED_KEPT_MS: u64 = 24 * 3_600_000;
/// How far ahead of append time an observation can be: coordinators refuse more.
pub(super) const OBSERVED_AHEAD_MAX_MS: u64 = 60_000;

/// Rows by the time at which they are to be looked at.
#[derive(Default)]
pub(super) struct Expiry {
    queue: BinaryHeap<Reverse<(UnixMillis, Ordinal)>>,
}

impl Expiry {
    /// Names a row that is not named yet.
    pub(super) fn push(&mut self, due: UnixMillis, ordinal: Ordinal) {
        self.queue.push(Reverse((due, ordinal)));
    }

    /// The next row whose time has come; equal times in the order of ordinals.
    pub(super) fn pop_due(&mut self, now: UnixMillis) -> Option<Ordinal> {
        let first = self.queue.peek_mut()?;
        (first.0.0 <= now).then(|| PeekMut::pop(first).0.1)
    }
}

/// When a row without registration is dropped, if what it is kept for was observed and appended then. What was observed
/// ahead of its append time is kept so much longer, as what it keeps out can come so much later.
pub(super) fn due(appended: UnixMillis, observed: UnixMillis) -> UnixMillis {
    let ahead = observed.0.saturating_sub(appended.0).min(OBSERVED_AHEAD_MAX_MS);
    UnixMillis(appended.0.saturating_add(ahead).saturating_add(UNREGISTERED_KEPT_MS))
}
