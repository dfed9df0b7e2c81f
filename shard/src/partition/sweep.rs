//! Limits of expiry, and the sweep that removes the registrations that are older.
//!
//! A coordinator writes to each partition, once a day for each app, the time since which a
//! registration or its place must have been observed ([`clarion_proto::device::Change::Expiry`]).
//! A registration that is older is *expired*:
//!
//! - it is never pushed to, from the record of the limit on ([`Partition::pushable`]);
//! - the sweep removes it, as feedback removes a dead token. Each record of the log moves the sweep
//!   by [`SWEPT_PER_RECORD`] rows, so no record pays for a whole partition, and two nodes remove the
//!   same rows at the same records. A new limit begins another round over all rows;
//! - if its phone is observed again before the sweep comes, the registration is no longer expired.
//!
//! Nothing is stored for a device: its row has the times of both observations anyway. The limits
//! and the state of the sweep are part of a snapshot.

use clarion_proto::ids::{AppName, Ordinal, UnixMillis};

use super::{
    Partition,
    ahead::Found,
    row::{Millis40, Row},
    vocabulary::{AppIndex, Vocabulary},
};

/// Number of rows that one record looks at while a sweep is under way. A partition of 16,000 devices
/// is swept by 2,000 records, a few seconds of a city's changes.
const SWEPT_PER_RECORD: u32 = 8;

/// Limits by app, and the state of the sweep.
#[derive(Default)]
pub(super) struct Sweep {
    /// Limit by `AppIndex.0`, as bits of a version; 0, or no entry: the app's registrations do not
    /// expire.
    limits: Vec<u64>,
    /// Highest of all limits: a device observed since then need not be looked up.
    newest: u64,
    /// Ordinal at which the sweep continues.
    next: u32,
    /// Number of ordinals that the sweep has yet to look at; 0: no sweep is under way.
    left: u32,
}

impl Sweep {
    /// Reports whether a registration of an app has expired, by the times in its row.
    #[inline]
    pub(super) fn expires(&self, app: AppIndex, row: &Row) -> bool {
        row.place_version.is_before(self.newest)
            && self.limits.get(usize::from(app.0)).is_some_and(|limit| row.seen().is_before(*limit))
    }

    /// Raises the limit of an app; a limit never goes back. `rows` is the number of ordinals.
    fn raise(&mut self, app: AppIndex, limit: Millis40, rows: u32) {
        let at = usize::from(app.0);
        if app == AppIndex::UNKNOWN || self.limits.get(at).is_some_and(|l| *l >= limit.bits()) {
            return;
        }
        if self.limits.len() <= at {
            self.limits.resize(at + 1, 0);
        }
        self.limits[at] = limit.bits();
        self.newest = self.newest.max(limit.bits());
        self.left = rows;
    }

    /// Returns the limits by the names of their apps, in the order of the names.
    pub(super) fn limits<'w>(&self, words: &'w Vocabulary) -> Vec<(&'w AppName, Millis40)> {
        let limits = (0..).zip(&self.limits).filter(|(_, limit)| **limit > 0);
        let named = limits.filter_map(|(app, limit)| {
            Some((words.app(AppIndex(app))?, Millis40::from_bits(*limit)?))
        });
        let mut limits: Vec<_> = named.collect();
        limits.sort_unstable_by_key(|(app, _)| *app);
        limits
    }

    /// Returns the ordinal at which the sweep continues, and the number of ordinals left.
    pub(super) fn cursor(&self) -> (u32, u32) {
        (self.next, self.left)
    }

    /// Creates the state of a snapshot.
    pub(super) fn restored(
        limits: impl IntoIterator<Item = (AppIndex, Millis40)>,
        (next, left): (u32, u32),
    ) -> Self {
        let mut new = Self::default();
        limits.into_iter().for_each(|(app, limit)| new.raise(app, limit, 0));
        Self { next, left, ..new }
    }
}

impl Partition {
    /// Takes a limit of the log, and begins a sweep if the limit is new.
    pub(super) fn raise_limit(&mut self, app: AppIndex, limit: UnixMillis) {
        self.sweep.raise(app, Millis40::from(limit), self.rows.unused());
    }

    /// Looks at the next rows of a sweep that is under way, and removes expired registrations.
    pub(super) fn sweep_some(&mut self) {
        if self.sweep.left == 0 {
            return;
        }
        let rows = self.rows.unused();
        for _ in 0..SWEPT_PER_RECORD.min(self.sweep.left) {
            let ordinal = Ordinal(if self.sweep.next < rows { self.sweep.next } else { 0 });
            (self.sweep.next, self.sweep.left) = (ordinal.0 + 1, self.sweep.left - 1);
            let row = self.rows.get(ordinal);
            let Some(before) = row.map(|row| self.standing_of(row, ordinal)) else { continue };
            if before.expired {
                self.keep(ordinal);
                self.expire(ordinal);
                self.schedule(ordinal, before);
                self.settle(ordinal, before, &Found::default());
            }
        }
    }
}

#[cfg(test)]
impl Partition {
    /// Returns the devices that the sweep looks at before the next record.
    pub(super) fn next_swept(&self) -> Vec<clarion_proto::ids::DeviceId> {
        let (rows, from) = (self.rows.unused(), self.sweep.next);
        let ordinals = (0..SWEPT_PER_RECORD.min(self.sweep.left)).map(|n| (from + n) % rows.max(1));
        ordinals.filter_map(|n| Some(self.rows.get(Ordinal(n))?.device())).collect()
    }
}

#[cfg(test)]
mod tests;
