//! Applies records in a pipeline that loads the memory of later records into the cache.
//!
//! A single record waits for memory some eight times, one after the other: the head of the index's
//! bucket, the entry in it, the row, the fences of two pages, the pages themselves, its token. The
//! devices of successive records are spread over all memory, so on a node that holds millions none
//! of this is in a cache, and each wait takes a few hundred nanoseconds. So records go through a
//! pipeline: while one record is applied, the pages of the next three are fetched, the three after
//! them search for their pages, and so on up to the hash of the record that comes [`STAGES`] times
//! [`STEP`] later. Each stage reads the memory that the stage before it requested, and requests
//! more; no stage waits.
//!
//! The pipeline changes nothing before a record's turn and does not trust its own results, because
//! earlier records may invalidate them. So an ordinal counts only if its row names the device, and
//! a page only if the key is between its fences. A wrong guess only costs time.

use clarion_proto::{
    device::{Change, Record},
    ids::{Ordinal, PartitionId, UnixMillis},
};

use super::{
    Applied, Partition, Vocabulary,
    index::IdHash,
    key::{Key, Place},
    tag::Tag,
    token::TokenRef,
};

/// Number of records between two stages, which is the time for requested memory to arrive. Fewer
/// are too short a time; with more, other lines evict the requested ones from the first cache (9
/// took a tenth longer).
const STEP: usize = 3;
/// Number of stages in which a record is looked up before its turn.
const STAGES: usize = 6;
/// Size of the ring for records in the pipeline, a power of two.
const RING: usize = (STAGES * STEP + 1).next_power_of_two();

/// Results for a record before its turn, which may be wrong.
#[derive(Clone, Copy, Default)]
pub(super) struct Found {
    pub(super) hash: IdHash,
    pub(super) ordinal: Option<Ordinal>,
    /// Keys that the record will remove and add, as far as known, with their groups of pages.
    goes: Option<(Key, u32)>,
    comes: Option<(Key, u32)>,
    token: Option<TokenRef>,
    pub(super) page_from: u32,
    pub(super) page_to: u32,
}

impl Found {
    /// Begins a record with the hash of its device, the result of the first stage.
    pub(super) fn of(hash: IdHash) -> Self {
        Self { hash, ..Self::default() }
    }
}

/// Applies the records of one batch in their order. A record whose partition has no slot, or an
/// empty one, is skipped. `placed` is called with the slot and the result of each record.
pub fn apply_all(
    partitions: &mut [Option<Partition>],
    appended: UnixMillis,
    records: &[(PartitionId, Record)],
    words: &mut Vocabulary,
    slot_of: impl Fn(PartitionId) -> Option<usize>,
    mut applied: impl FnMut(usize, Applied),
) {
    let mut ring = [(None, Found::default()); RING];
    for turn in 0..records.len() + STAGES * STEP {
        if let Some((id, record)) = records.get(turn) {
            let slot =
                slot_of(*id).filter(|slot| partitions.get(*slot).is_some_and(Option::is_some));
            ring[turn % RING] = (slot, Found::default());
            if let Some(partition) = slot.and_then(|slot| partitions[slot].as_ref()) {
                ring[turn % RING].1 = partition.look_for_bucket(record);
            }
        }
        let looks: [fn(&Partition, &Record, &mut Found); STAGES - 1] = [
            Partition::look_for_entry,
            Partition::look_for_row,
            Partition::look_for_fences,
            Partition::look_for_pages,
            Partition::look_for_keys,
        ];
        for (stage, look) in (1..).zip(looks) {
            let Some(at) = turn.checked_sub(stage * STEP).filter(|at| *at < records.len()) else {
                continue;
            };
            let (slot, found) = &mut ring[at % RING];
            if let Some(partition) = slot.and_then(|slot| partitions[slot].as_ref()) {
                look(partition, &records[at].1, found);
            }
        }
        let Some(at) = turn.checked_sub(STAGES * STEP) else { continue };
        let (slot, found) = &ring[at % RING];
        if let Some((slot, partition)) =
            slot.and_then(|slot| Some((slot, partitions[slot].as_mut()?)))
        {
            applied(slot, partition.apply_found(appended, &records[at].1, found, words));
        }
    }
}

impl Partition {
    #[inline]
    fn look_for_bucket(&self, record: &Record) -> Found {
        let found = Found::of(self.index.hash(record.device));
        self.index.prefetch_bucket(found.hash);
        found
    }

    #[inline]
    fn look_for_entry(&self, _: &Record, found: &mut Found) {
        self.index.prefetch_entry(found.hash);
    }

    /// Requests the row, and the fences of the page to which the device will move, which do not
    /// depend on the row.
    #[inline]
    fn look_for_row(&self, record: &Record, found: &mut Found) {
        found.ordinal = self.index.likely(found.hash);
        match found.ordinal {
            Some(ordinal) => self.rows.prefetch(ordinal),
            None => self.index.prefetch_rest(found.hash),
        }
        if let Change::Place(cell) | Change::Arrival(_, cell) = &record.change {
            let first = Key::first_at(Place::from(*cell));
            found.comes = Some((first, self.pages.prefetch_group(first)));
        }
    }

    /// Reads the row, and requests the fences of the page that the device leaves, those of its new
    /// page, and its token.
    #[inline]
    fn look_for_fences(&self, record: &Record, found: &mut Found) {
        let Some((ordinal, row)) =
            found.ordinal.and_then(|ordinal| Some((ordinal, self.rows.get(ordinal)?)))
        else {
            return;
        };
        let stands = self.standing_of(row, ordinal).key;
        let at = |place: Place| Key::new(place, stands.map_or(Tag::NONE, Key::tag), ordinal);
        let (goes, comes) = match &record.change {
            // The key's group is nearly always that of the first key at its place.
            Change::Place(_) | Change::Arrival(..) => {
                let comes = found.comes.map(|(key, group)| (at(key.place()), group));
                let is_reached = stands.is_some() || matches!(record.change, Change::Arrival(..));
                (stands, comes.filter(|(key, _)| is_reached && stands != Some(*key)))
            }
            Change::Registration(_) | Change::Mute(false) => {
                let comes = row.place().filter(|_| stands.is_none()).map(at);
                (None, comes.map(|key| (key, self.pages.prefetch_group(key))))
            }
            Change::Removal | Change::Mute(true) | Change::Feedback { .. } => (stands, None),
            // Its device is none.
            Change::Expiry(_) => (None, None),
        };
        let stays =
            comes.is_none() && matches!(record.change, Change::Place(_) | Change::Arrival(..));
        found.goes = goes.filter(|_| !stays).map(|key| (key, self.pages.prefetch_group(key)));
        found.comes = comes;
        if !matches!(record.change, Change::Place(_) | Change::Mute(_)) {
            found.token = row.registration().map(|r| r.token);
            found.token.iter().for_each(|token| self.tokens.prefetch_chunk(*token));
        }
    }

    #[inline]
    fn look_for_pages(&self, _: &Record, found: &mut Found) {
        if let Some((key, group)) = found.goes {
            found.page_from = self.pages.prefetch(key, group);
        }
        if let Some((key, group)) = found.comes {
            found.page_to = self.pages.prefetch(key, group);
        }
        if let Some(token) = found.token {
            self.tokens.prefetch(token);
        }
    }

    #[inline]
    fn look_for_keys(&self, _: &Record, found: &mut Found) {
        if found.goes.is_some() {
            self.pages.prefetch_keys(found.page_from);
        }
        if found.comes.is_some() {
            self.pages.prefetch_keys(found.page_to);
        }
    }
}
