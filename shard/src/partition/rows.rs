//! Rows by ordinal, and which ordinals are whose.
//!
//! Ordinals are dense from 0, so a row is found by arithmetic. Rows stand in chunks that never move: growing a partition
//! copies nothing and leaves no half-empty doubling behind.
//!
//! **When an ordinal is given again.** Waves, reports of what was handed over and the ledger name devices by ordinal. If
//! an ordinal went to another device meanwhile, that device would pass as alerted. Whether a wave is running is known
//! to one node only and must not matter here: two nodes that applied the same log have the same ordinals, since one
//! continues with what the other reported. So the rule uses the only clock that both share, the append time: an ordinal
//! rests for [`ORDINAL_REST_MS`] after its row was dropped, and a row is dropped 24 h after it could last be pushed to.
//! Together that is a day longer than the longest alert and the 72 h for which it may stay sticky afterwards. The price is
//! a row for each device that left within that month.

use std::collections::VecDeque;

use clarion_proto::{
    alert::ACTIVE_MS_MAX,
    ids::{Ordinal, UnixMillis},
};

use super::{key::ORDINALS_MAX, prefetch, row::Row};

/// How long an ordinal is nobody's, in append time: the longest active time of an alert and 72 h, 33 days.
pub(super) const ORDINAL_REST_MS: u64 = ACTIVE_MS_MAX + 72 * 3_600_000;
/// 512 × 37 bytes: 18.5 KiB, of which half is empty on average.
pub(super) const CHUNK_ROWS: usize = 512;
/// Room is made for a sixteenth at a time: doubling would leave half of it empty.
const ROOM_SHARE: usize = 16;
/// Rest is counted in units of some 70 minutes, rounded up, so that nobody rests less than told: of a month's ordinals each
/// then costs four bytes, and each unit sixteen.
const REST_UNIT_MS: u64 = 1_024 << SAVED_SHIFT;
/// A snapshot tells the time in units of 1,024 ms.
const SAVED_SHIFT: u32 = 12;
/// The last time that a snapshot can tell, which nobody will see.
const SINCE_MAX: u64 = (1 << (u64::BITS - SAVED_ORDINAL_BITS - SAVED_SHIFT)) - 1;
/// Of an entry of a snapshot, for the ordinal.
const SAVED_ORDINAL_BITS: u32 = 30;

/// All rows of a partition.
#[derive(Default)]
pub(super) struct Rows {
    chunks: Vec<Box<[Row]>>,
    /// Ordinals from here on were never given.
    unused: u32,
    /// Those that rest, oldest first.
    resting: VecDeque<Ordinal>,
    /// Since when, oldest first: units of [`REST_UNIT_MS`] since 1970, and how many of `resting`, never none.
    since: VecDeque<(u64, u32)>,
}

impl Rows {
    /// The row of somebody.
    pub(super) fn get(&self, ordinal: Ordinal) -> Option<&Row> {
        let n = ordinal.0 as usize;
        self.chunks.get(n / CHUNK_ROWS).map(|c| &c[n % CHUNK_ROWS]).filter(|r| r.is_live())
    }

    /// Reads both ends of a row, which may stand in two lines of the cache.
    pub(super) fn touch(&self, ordinal: Ordinal) -> u8 {
        let n = ordinal.0 as usize;
        self.chunks.get(n / CHUNK_ROWS).map_or(0, |c| c[n % CHUNK_ROWS].ends())
    }

    /// Asks for both ends of a row, which may stand in two lines of the cache.
    pub(super) fn seek(&self, ordinal: Ordinal) {
        let n = ordinal.0 as usize;
        if let Some(chunk) = self.chunks.get(n / CHUNK_ROWS) {
            prefetch::one(&chunk[n % CHUNK_ROWS]);
            prefetch::one(&chunk[n % CHUNK_ROWS].registration_version);
        }
    }

    /// The row of an ordinal that was given.
    pub(super) fn at(&self, ordinal: Ordinal) -> &Row {
        let n = ordinal.0 as usize;
        &self.chunks[n / CHUNK_ROWS][n % CHUNK_ROWS]
    }

    /// The row of an ordinal that was given.
    pub(super) fn at_mut(&mut self, ordinal: Ordinal) -> &mut Row {
        let n = ordinal.0 as usize;
        &mut self.chunks[n / CHUNK_ROWS][n % CHUNK_ROWS]
    }

    /// Gives an ordinal: the one that rested longest, if it rested enough, else a new one. `None`: all are given.
    pub(super) fn insert(&mut self, row: Row, now: UnixMillis) -> Option<Ordinal> {
        let ordinal = match self.pop_rested(now) {
            Some(ordinal) => ordinal,
            None if self.unused == ORDINALS_MAX => return None,
            None => {
                if self.unused as usize == self.chunks.len() * CHUNK_ROWS {
                    self.push_chunk();
                }
                self.unused += 1;
                Ordinal(self.unused - 1)
            }
        };
        *self.at_mut(ordinal) = row;
        Some(ordinal)
    }

    /// Takes a row away. `now` never goes back.
    pub(super) fn remove(&mut self, ordinal: Ordinal, now: UnixMillis) {
        *self.at_mut(ordinal) = Row::VACANT;
        self.push_resting(now.0.div_ceil(REST_UNIT_MS).min(SINCE_MAX), ordinal);
    }

    fn push_resting(&mut self, since: u64, ordinal: Ordinal) {
        if self.resting.len() == self.resting.capacity() {
            self.resting.reserve_exact(self.resting.len() / ROOM_SHARE + 16);
        }
        self.resting.push_back(ordinal);
        match self.since.back_mut().filter(|(last, _)| *last == since) {
            Some((_, ordinals)) => *ordinals += 1,
            None => self.since.push_back((since, 1)),
        }
    }

    fn pop_rested(&mut self, now: UnixMillis) -> Option<Ordinal> {
        let (since, ordinals) = self.since.front_mut()?;
        if *since * REST_UNIT_MS + ORDINAL_REST_MS > now.0 {
            return None;
        }
        *ordinals -= 1;
        if *ordinals == 0 {
            self.since.pop_front();
        }
        self.resting.pop_front()
    }

    /// Ordinals from here on were never given.
    pub(super) fn unused(&self) -> u32 {
        self.unused
    }

    /// Those that rest, longest first.
    pub(super) fn resting(&self) -> impl ExactSizeIterator<Item = Ordinal> {
        self.resting.iter().copied()
    }

    /// Those that rest, longest first, each as a snapshot names it: 34 bits of time in units of 1,024 ms since 1970, which
    /// last until the year 2527, above 30 of ordinal.
    pub(super) fn saved_resting(&self) -> impl Iterator<Item = u64> {
        let since = self.since.iter().flat_map(|(since, n)| std::iter::repeat_n(*since, *n as usize));
        since
            .zip(&self.resting)
            .map(|(since, ordinal)| since << SAVED_SHIFT << SAVED_ORDINAL_BITS | u64::from(ordinal.0))
    }

    /// With room for so many rows, all vacant, and with those that rest: what a snapshot begins with. `None`: the numbers
    /// cannot be.
    pub(super) fn vacant(unused: u32, saved_resting: &[u64]) -> Option<Self> {
        let mut new = Self { unused, ..Self::default() };
        for entry in saved_resting {
            #[allow(clippy::cast_possible_truncation)] // 30 bits
            let ordinal = Ordinal((entry & ((1 << SAVED_ORDINAL_BITS) - 1)) as u32);
            let since = (entry >> SAVED_ORDINAL_BITS).div_ceil(1 << SAVED_SHIFT).min(SINCE_MAX);
            if ordinal.0 >= unused || new.since.back().is_some_and(|(last, _)| *last > since) {
                return None;
            }
            new.push_resting(since, ordinal);
        }
        (unused <= ORDINALS_MAX).then_some(new)
    }

    /// Puts the row of a snapshot at its ordinal, which is below `unused`; only ever in ascending order.
    pub(super) fn restore(&mut self, ordinal: Ordinal, row: Row) {
        self.reserve(ordinal.0 + 1);
        *self.at_mut(ordinal) = row;
    }

    /// Has a row, vacant or not, for each ordinal below `unused`: nothing is read before it.
    pub(super) fn reserve(&mut self, unused: u32) {
        while self.chunks.len() * CHUNK_ROWS < unused as usize {
            self.push_chunk();
        }
    }

    fn push_chunk(&mut self) {
        if self.chunks.len() == self.chunks.capacity() {
            self.chunks.reserve_exact(self.chunks.len() / ROOM_SHARE + 4);
        }
        self.chunks.push(vec![Row::VACANT; CHUNK_ROWS].into_boxed_slice());
    }
}

#[cfg(test)]
impl Rows {
    /// Everybody, by ordinal.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Ordinal, &Row)> {
        (0..self.unused).filter_map(|n| self.get(Ordinal(n)).map(|row| (Ordinal(n), row)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clarion_proto::ids::DeviceId;

    /// Dense from 0; a dropped ordinal rests its time, then the longest rested is given first.
    #[test]
    fn ordinals_rest() {
        let mut rows = Rows::default();
        let give = |rows: &mut Rows, now| rows.insert(Row::new(DeviceId([1; 16])), UnixMillis(now)).unwrap().0;
        assert_eq!([give(&mut rows, 0), give(&mut rows, 0), give(&mut rows, 0)], [0, 1, 2]);
        rows.remove(Ordinal(1), UnixMillis(10 * REST_UNIT_MS));
        rows.remove(Ordinal(0), UnixMillis(19 * REST_UNIT_MS + 1));
        assert!(rows.get(Ordinal(1)).is_none());
        assert_eq!(give(&mut rows, 10 * REST_UNIT_MS - 1 + ORDINAL_REST_MS), 3);
        assert_eq!(give(&mut rows, 10 * REST_UNIT_MS + ORDINAL_REST_MS), 1);
        assert_eq!(give(&mut rows, 20 * REST_UNIT_MS - 1 + ORDINAL_REST_MS), 4);
        assert_eq!(give(&mut rows, 20 * REST_UNIT_MS + ORDINAL_REST_MS), 0);
        assert!(rows.get(Ordinal(5)).is_none() && rows.get(Ordinal(u32::MAX)).is_none());
    }
}
