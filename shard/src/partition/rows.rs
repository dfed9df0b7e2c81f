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

use super::{key::ORDINALS_MAX, row::Row};

/// How long an ordinal is nobody's, in append time: the longest active time of an alert and 72 h, 33 days.
pub(super) const ORDINAL_REST_MS: u64 = ACTIVE_MS_MAX + 72 * 3_600_000;
/// 512 × 56 bytes: 28 KiB, of which half is empty on average.
const CHUNK_ROWS: usize = 512;

/// All rows of a partition.
#[derive(Default)]
pub(super) struct Rows {
    chunks: Vec<Box<[Row]>>,
    /// Ordinals from here on were never given.
    unused: u32,
    /// Dropped at that append time, oldest first.
    resting: VecDeque<(UnixMillis, Ordinal)>,
}

impl Rows {
    /// The row of somebody.
    pub(super) fn get(&self, ordinal: Ordinal) -> Option<&Row> {
        let n = ordinal.0 as usize;
        self.chunks.get(n / CHUNK_ROWS).map(|c| &c[n % CHUNK_ROWS]).filter(|r| r.is_live())
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
        let rested = |(since, _): &mut (UnixMillis, Ordinal)| since.0.saturating_add(ORDINAL_REST_MS) <= now.0;
        let ordinal = match self.resting.pop_front_if(rested) {
            Some((_, ordinal)) => ordinal,
            None if self.unused == ORDINALS_MAX => return None,
            None => {
                if self.unused as usize == self.chunks.len() * CHUNK_ROWS {
                    self.chunks.push(vec![Row::VACANT; CHUNK_ROWS].into_boxed_slice());
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
        self.resting.push_back((now, ordinal));
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
        rows.remove(Ordinal(1), UnixMillis(10));
        rows.remove(Ordinal(0), UnixMillis(20));
        assert!(rows.get(Ordinal(1)).is_none());
        assert_eq!(give(&mut rows, 9 + ORDINAL_REST_MS), 3);
        assert_eq!(give(&mut rows, 10 + ORDINAL_REST_MS), 1);
        assert_eq!(give(&mut rows, 10 + ORDINAL_REST_MS), 4);
        assert_eq!(give(&mut rows, 20 + ORDINAL_REST_MS), 0);
        assert!(rows.get(Ordinal(5)).is_none() && rows.get(Ordinal(u32::MAX)).is_none());
    }
}
