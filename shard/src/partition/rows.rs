//! Rows by ordinal, and the assignment of ordinals to devices.
//!
//! Ordinals are dense from 0, so a row is found by arithmetic. Rows are in chunks that never move:
//! growth of a partition copies nothing and leaves no half-empty allocation.
//!
//! **When an ordinal is reused.** Waves, reports of handed-over devices and the ledger name devices
//! by ordinal. If an ordinal went to another device meanwhile, that device would count as alerted.
//! Only one node knows whether a wave is running, so the rule must not depend on waves: two nodes
//! that applied the same log must have the same ordinals, because one continues from the other's
//! reports. So the rule uses the only clock that both share, the append time: an ordinal rests for
//! [`ORDINAL_REST_MS`] after its row was dropped, and a row is dropped 24 h after it could last be
//! pushed to. Together that is a day longer than the longest alert and the 72 h for which it may
//! stay sticky afterwards.
//!
//! **A resting ordinal takes no room.** A tenth of all devices may leave within that month, and a
//! vacant row for each would cost four bytes for every device. So the slot of a resting ordinal
//! goes to a *guest*: where there are vacant slots for a whole chunk, the next chunk of ordinals
//! has no slots of its own, but four bytes for each ordinal that name the slot of its row. An
//! ordinal that is reused gets its slot back, and the guest moves to another vacant slot; where no
//! slot is vacant, the guest's chunk gets slots of its own. Only this file knows the slot of a row,
//! and the slot depends only on the order of records.

use std::collections::VecDeque;

use clarion_proto::{
    alert::ACTIVE_MS_MAX,
    ids::{DeviceId, Ordinal, UnixMillis},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    block::{BLOCK_BYTES, Block},
    key::ORDINALS_MAX,
    prefetch,
    row::Row,
};

/// Time for which an ordinal rests, in append time, milliseconds: the longest active time of an
/// alert and 72 h, 33 days.
pub(super) const ORDINAL_REST_MS: u64 = ACTIVE_MS_MAX + 72 * 3_600_000;
/// Number of rows of a chunk: one block, of which half is empty on average in the last chunk.
const CHUNK_ROWS: usize = BLOCK_BYTES / size_of::<Row>();
/// End of the list of vacant slots; for an ordinal: it has no row.
const NONE: u32 = u32::MAX;
/// Share by which the capacity grows. Doubling would leave half of it empty.
const ROOM_SHARE: usize = 16;
/// Unit of resting times, milliseconds: some 70 minutes, rounded up so that no ordinal rests too
/// briefly. Each ordinal of a month then costs four bytes, and each unit sixteen.
const REST_UNIT_MS: u64 = 1_024 << SAVED_SHIFT;
/// Binary logarithm of [`REST_UNIT_MS`] in units of a snapshot, 1,024 ms.
const SAVED_SHIFT: u32 = 12;
/// The last time that a snapshot can store.
const SINCE_MAX: u64 = (1 << (u64::BITS - SAVED_ORDINAL_BITS - SAVED_SHIFT)) - 1;
/// Number of bits for the ordinal in a snapshot's entry.
const SAVED_ORDINAL_BITS: u32 = 30;

/// All rows of a partition.
pub(super) struct Rows {
    chunks: Vec<Chunk>,
    /// Number of ordinals assigned so far; all higher ones were never assigned.
    unused: u32,
    /// First vacant slot of assigned ordinals. Each vacant slot names the one before and the one
    /// after it.
    vacant: u32,
    vacants: usize,
    /// Resting ordinals, oldest first.
    resting: VecDeque<Ordinal>,
    /// Start of the rest of `resting`, oldest first: time in units of [`REST_UNIT_MS`] since 1970,
    /// and the number of ordinals, at least 1.
    since: VecDeque<(u64, u32)>,
}

/// Rows of adjacent ordinals.
enum Chunk {
    /// The rows are in slots of their own. A guest may use a slot while its ordinal rests.
    Own(Block<Slots>),
    /// The rows are guests in the slots of these ordinals.
    Guests(Box<[u32; CHUNK_ROWS]>),
}

/// Slots of a chunk, and the rest of their block.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Slots {
    rows: [Row; CHUNK_ROWS],
    rest: [u8; BLOCK_BYTES - CHUNK_ROWS * size_of::<Row>()],
}

impl Default for Rows {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            unused: 0,
            vacant: NONE,
            vacants: 0,
            resting: VecDeque::new(),
            since: VecDeque::new(),
        }
    }
}

impl Rows {
    /// Returns the row of an ordinal in use.
    #[inline]
    pub(super) fn get(&self, ordinal: Ordinal) -> Option<&Row> {
        let at = ordinal.0 as usize % CHUNK_ROWS;
        match self.chunks.get(ordinal.0 as usize / CHUNK_ROWS)? {
            Chunk::Own(slots) => {
                Some(&slots.rows[at]).filter(|row| row.is_live() && !row.is_guest())
            }
            Chunk::Guests(slots) => (slots[at] != NONE).then(|| self.slot(slots[at])),
        }
    }

    /// Reads both ends of a row, which may be in two cache lines, to load them. The result has no
    /// meaning.
    pub(super) fn touch(&self, ordinal: Ordinal) -> u8 {
        self.get(ordinal).map_or(0, Row::ends)
    }

    /// Prefetches both ends of a row, which may be in two cache lines.
    #[inline]
    pub(super) fn prefetch(&self, ordinal: Ordinal) {
        let slot = match self.chunks.get(ordinal.0 as usize / CHUNK_ROWS) {
            Some(Chunk::Guests(slots)) => slots[ordinal.0 as usize % CHUNK_ROWS],
            _ => ordinal.0,
        };
        if let Some(Chunk::Own(slots)) = self.chunks.get(slot as usize / CHUNK_ROWS) {
            let row = &slots.rows[slot as usize % CHUNK_ROWS];
            prefetch::one(row);
            prefetch::one(&row.registration_version);
        }
    }

    /// Returns the row of an assigned ordinal.
    #[inline]
    pub(super) fn at(&self, ordinal: Ordinal) -> &Row {
        self.slot(self.slot_of(ordinal))
    }

    /// Returns the row of an assigned ordinal for changes.
    #[inline]
    pub(super) fn at_mut(&mut self, ordinal: Ordinal) -> &mut Row {
        self.slot_mut(self.slot_of(ordinal))
    }

    /// Assigns an ordinal: the one that rested longest, if it rested long enough, else a new one.
    /// Returns `None` if all are in use. `ordinal_of` returns the ordinal of a device that is present.
    pub(super) fn insert(
        &mut self,
        row: Row,
        now: UnixMillis,
        ordinal_of: impl Fn(&Self, DeviceId) -> Option<Ordinal>,
    ) -> Option<Ordinal> {
        let ordinal = match self.pop_rested(now) {
            Some(ordinal) => {
                self.free_own_slot(ordinal, ordinal_of);
                ordinal
            }
            None if self.unused == ORDINALS_MAX => return None,
            None => self.give_new(),
        };
        self.put(ordinal, row);
        Some(ordinal)
    }

    /// Removes a row. `now` must never go back.
    pub(super) fn remove(&mut self, ordinal: Ordinal, now: UnixMillis) {
        let slot = self.slot_of(ordinal);
        if let Chunk::Guests(slots) = &mut self.chunks[ordinal.0 as usize / CHUNK_ROWS] {
            slots[ordinal.0 as usize % CHUNK_ROWS] = NONE;
        }
        self.push_vacant(slot);
        self.push_resting(now.0.div_ceil(REST_UNIT_MS).min(SINCE_MAX), ordinal);
    }

    /// Assigns the next ordinal that was never assigned.
    fn give_new(&mut self) -> Ordinal {
        if self.unused as usize == self.chunks.len() * CHUNK_ROWS {
            if self.chunks.len() == self.chunks.capacity() {
                self.chunks.reserve_exact(self.chunks.len() / ROOM_SHARE + 4);
            }
            self.chunks.push(if self.vacants < CHUNK_ROWS {
                Chunk::Own(Block::new())
            } else {
                Chunk::Guests(Box::new([NONE; CHUNK_ROWS]))
            });
        }
        self.unused += 1;
        Ordinal(self.unused - 1)
    }

    /// Stores the row of an ordinal without one in its own slot, if that is free, or in a vacant
    /// one.
    fn put(&mut self, ordinal: Ordinal, mut row: Row) {
        let (chunk, at) = (ordinal.0 as usize / CHUNK_ROWS, ordinal.0 as usize % CHUNK_ROWS);
        if self.vacants == 0 && matches!(self.chunks[chunk], Chunk::Guests(_)) {
            self.have_own(chunk);
            self.unlink(ordinal.0);
        }
        let slot =
            if matches!(self.chunks[chunk], Chunk::Own(_)) { ordinal.0 } else { self.pop_vacant() };
        if let Chunk::Guests(slots) = &mut self.chunks[chunk] {
            slots[at] = slot;
        }
        row.set_guest(slot != ordinal.0);
        *self.slot_mut(slot) = row;
    }

    /// Frees the slot of a rested ordinal, if it has one. Afterwards the slot is in no list and
    /// without a row.
    fn free_own_slot(
        &mut self,
        ordinal: Ordinal,
        ordinal_of: impl Fn(&Self, DeviceId) -> Option<Ordinal>,
    ) {
        if matches!(self.chunks[ordinal.0 as usize / CHUNK_ROWS], Chunk::Guests(_)) {
            return;
        }
        let row = *self.slot(ordinal.0);
        if !row.is_guest() {
            return self.unlink(ordinal.0);
        }
        let guest =
            ordinal_of(self, row.device()).expect("the device of every row is in the index");
        let chunk = guest.0 as usize / CHUNK_ROWS;
        if self.vacants == 0 {
            // All rows of the chunk move to their own slots, this one included, and their old slots
            // become vacant.
            self.have_own(chunk);
            return self.unlink(ordinal.0);
        }
        self.put(guest, row);
    }

    /// Gives a chunk of guests slots of its own.
    fn have_own(&mut self, chunk: usize) {
        let Chunk::Guests(guests) =
            std::mem::replace(&mut self.chunks[chunk], Chunk::Own(Block::new()))
        else {
            return;
        };
        for (own, slot) in (chunk * CHUNK_ROWS..).zip(guests.iter()) {
            let own = u32::try_from(own).expect("below ORDINALS_MAX and a chunk");
            if *slot != NONE {
                let mut row = *self.slot(*slot);
                row.set_guest(false);
                *self.slot_mut(own) = row;
                self.push_vacant(*slot);
            } else if own < self.unused {
                self.push_vacant(own);
            }
        }
    }

    fn push_vacant(&mut self, slot: u32) {
        let behind = std::mem::replace(&mut self.vacant, slot);
        *self.slot_mut(slot) = Row::link(NONE, behind);
        if behind != NONE {
            let (_, next) = self.slot(behind).links();
            *self.slot_mut(behind) = Row::link(slot, next);
        }
        self.vacants += 1;
    }

    /// Takes a vacant slot; there must be one.
    fn pop_vacant(&mut self) -> u32 {
        let slot = self.vacant;
        self.unlink(slot);
        slot
    }

    fn unlink(&mut self, slot: u32) {
        let (before, behind) = self.slot(slot).links();
        match before {
            NONE => self.vacant = behind,
            before => *self.slot_mut(before) = Row::link(self.slot(before).links().0, behind),
        }
        if behind != NONE {
            *self.slot_mut(behind) = Row::link(before, self.slot(behind).links().1);
        }
        *self.slot_mut(slot) = Row::VACANT;
        self.vacants -= 1;
    }

    /// Returns the slot of the row of an assigned ordinal.
    #[inline]
    fn slot_of(&self, ordinal: Ordinal) -> u32 {
        match &self.chunks[ordinal.0 as usize / CHUNK_ROWS] {
            Chunk::Own(_) => ordinal.0,
            Chunk::Guests(slots) => slots[ordinal.0 as usize % CHUNK_ROWS],
        }
    }

    #[inline]
    fn slot(&self, slot: u32) -> &Row {
        match &self.chunks[slot as usize / CHUNK_ROWS] {
            Chunk::Own(slots) => &slots.rows[slot as usize % CHUNK_ROWS],
            Chunk::Guests(_) => unreachable!("slots are those of chunks that have their own"),
        }
    }

    #[inline]
    fn slot_mut(&mut self, slot: u32) -> &mut Row {
        match &mut self.chunks[slot as usize / CHUNK_ROWS] {
            Chunk::Own(slots) => &mut slots.rows[slot as usize % CHUNK_ROWS],
            Chunk::Guests(_) => unreachable!("slots are those of chunks that have their own"),
        }
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

    /// Returns the first ordinal that was never assigned.
    pub(super) fn unused(&self) -> u32 {
        self.unused
    }

    /// Returns the resting ordinals, longest rest first.
    pub(super) fn resting(&self) -> impl ExactSizeIterator<Item = Ordinal> {
        self.resting.iter().copied()
    }

    /// Returns the resting ordinals in the form of snapshots, longest rest first: 34 bits of time
    /// in units of 1,024 ms since 1970, which last until the year 2527, above 30 bits of ordinal.
    pub(super) fn saved_resting(&self) -> impl Iterator<Item = u64> {
        let since =
            self.since.iter().flat_map(|(since, n)| std::iter::repeat_n(*since, *n as usize));
        since.zip(&self.resting).map(|(since, ordinal)| {
            since << SAVED_SHIFT << SAVED_ORDINAL_BITS | u64::from(ordinal.0)
        })
    }

    /// Creates the rows of a snapshot before its rows are read: vacant, with the resting ordinals.
    /// `None` if the numbers are impossible.
    pub(super) fn vacant(unused: u32, saved_resting: &[u64]) -> Option<Self> {
        let mut new = Self::default();
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

    /// Stores the row of a snapshot under its ordinal. Calls must be in ascending order of
    /// ordinals.
    pub(super) fn restore(&mut self, ordinal: Ordinal, row: Row) {
        self.reserve(ordinal.0);
        self.give_new();
        self.put(ordinal, row);
    }

    /// Marks the ordinals below `unused` that were not restored as resting.
    pub(super) fn reserve(&mut self, unused: u32) {
        while self.unused < unused {
            let ordinal = self.give_new();
            if matches!(self.chunks[ordinal.0 as usize / CHUNK_ROWS], Chunk::Own(_)) {
                self.push_vacant(ordinal.0);
            }
        }
    }
}

#[cfg(test)]
impl Rows {
    /// Returns all rows in use, in the order of ordinals.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Ordinal, &Row)> {
        (0..self.unused).filter_map(|n| self.get(Ordinal(n)).map(|row| (Ordinal(n), row)))
    }

    /// Checks the invariants of slots and their list, and returns the number of slots.
    fn check(&self) -> usize {
        let mut taken: Vec<u32> = self.iter().map(|(ordinal, _)| self.slot_of(ordinal)).collect();
        assert!(
            self.iter()
                .all(|(ordinal, row)| row.is_guest() == (self.slot_of(ordinal) != ordinal.0))
        );
        let (mut slot, mut before) = (self.vacant, NONE);
        while slot != NONE {
            let row = self.slot(slot);
            assert!(!row.is_live() && row.links().0 == before);
            taken.push(slot);
            (before, slot) = (slot, row.links().1);
        }
        taken.sort_unstable();
        let own = |n: &u32| matches!(self.chunks[*n as usize / CHUNK_ROWS], Chunk::Own(_));
        assert!(
            taken.into_iter().eq((0..self.unused).filter(own)),
            "each slot is somebody's, or vacant"
        );
        self.chunks.iter().filter(|chunk| matches!(chunk, Chunk::Own(_))).count() * CHUNK_ROWS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Ordinals are dense from 0. A dropped ordinal rests its time; then the longest rested one is
    /// assigned first.
    #[test]
    fn ordinals_rest() {
        let mut rows = Rows::default();
        let give = |rows: &mut Rows, now| {
            rows.insert(Row::new(DeviceId([1; 16])), UnixMillis(now), |_, _| None).unwrap().0
        };
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

    fn device(n: u32) -> DeviceId {
        let mut id = [7; 16];
        id[..4].copy_from_slice(&n.to_le_bytes());
        DeviceId(id)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 64 + 4))]

        /// Compares the rows with a map under random changes: each row is found by its ordinal,
        /// resting ordinals have no row, restored rows are equal, and resting ordinals take no
        /// slots while others can use them.
        #[test]
        fn rows_are_found_wherever_they_stand(
            phases in prop::collection::vec((0u8..3, 1u32..1_500, 0u64..40, any::<u32>()), 1..12),
        ) {
            let (mut rows, mut model, mut next, mut now, mut most) = (Rows::default(), BTreeMap::new(), 0, 0, 0);
            for (what, count, days, salt) in phases {
                now += days * 24 * 3_600_000;
                for n in 0..count {
                    if what == 2 {
                        let at = (salt.wrapping_add(n).wrapping_mul(0x9e37_79b9) >> 8) as usize % model.len().max(1);
                        let Some(ordinal) = model.keys().nth(at).copied() else { break };
                        model.remove(&ordinal);
                        rows.remove(Ordinal(ordinal), UnixMillis(now));
                    } else {
                        let ordinal_of = |_: &Rows, device: DeviceId| {
                            model.iter().find(|(_, d)| **d == device).map(|(ordinal, _)| Ordinal(*ordinal))
                        };
                        let ordinal = rows.insert(Row::new(device(next)), UnixMillis(now), ordinal_of).unwrap().0;
                        prop_assert!(model.insert(ordinal, device(next)).is_none());
                        next += 1;
                    }
                    most = most.max(model.len());
                }
                let found = |rows: &Rows| rows.iter().map(|(o, row)| (o.0, row.device())).collect::<BTreeMap<_, _>>();
                prop_assert_eq!(&found(&rows), &model);
                let slots = rows.check();
                prop_assert!(slots < most + 3 * CHUNK_ROWS, "{} slots for at most {}", slots, most);
                let saved: Vec<_> = rows.saved_resting().collect();
                let mut again = Rows::vacant(rows.unused(), &saved).unwrap();
                rows.iter().for_each(|(ordinal, row)| again.restore(ordinal, *row));
                again.reserve(rows.unused());
                prop_assert_eq!(found(&again), found(&rows));
                again.check();
            }
        }
    }
}
