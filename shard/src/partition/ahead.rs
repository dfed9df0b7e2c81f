//! Brings into the cache what records will change, before they are applied.
//!
//! A record on its own waits for memory some eight times, one after the other: the head of the index's bucket, the entry in
//! it, the row, the page where the device stood, the page where it will stand, its token. Devices stand anywhere, so none of
//! this is in a cache of a node that holds millions, and each wait takes a hundred nanoseconds. Of a few dozen records the waits
//! for the same step overlap. Nothing is changed here and nothing remembered: whatever was read in vain, or
//! changed by an earlier record of the same few, costs its time only.

use clarion_proto::{
    device::{Change, Record},
    ids::Ordinal,
};

use super::{
    Partition,
    index::IdHash,
    key::{Key, Place},
    tag::Tag,
};

/// Records looked at together: their pages, 4 KiB each, fit into the second cache of a core beside all else.
pub const AHEAD_RECORDS: usize = 32;

/// Reads what these records will need, of partitions that each record belongs to; at most [`AHEAD_RECORDS`] at a time are
/// of use. Returns nothing of meaning, so that it is done.
pub fn warm(records: &[(&Partition, &Record)]) -> u64 {
    let mut sum = 0;
    for few in records.chunks(AHEAD_RECORDS) {
        let mut hashes = [IdHash::default(); AHEAD_RECORDS];
        let mut ordinals = [None; AHEAD_RECORDS];
        for (hash, (partition, record)) in hashes.iter_mut().zip(few) {
            *hash = IdHash::of(record.device);
            sum ^= partition.index.touch_bucket(*hash) as u64;
        }
        for (hash, (partition, _)) in hashes.iter().zip(few) {
            sum ^= u64::from(partition.index.touch_entry(*hash));
        }
        for ((ordinal, hash), (partition, _)) in ordinals.iter_mut().zip(&hashes).zip(few) {
            *ordinal = partition.index.likely(*hash);
            sum ^= ordinal.map_or(0, |ordinal| u64::from(partition.rows.touch(ordinal)));
        }
        for (ordinal, (partition, record)) in ordinals.iter().zip(few) {
            sum ^= partition.touch_what_changes(*ordinal, record);
        }
    }
    sum
}

impl Partition {
    /// The row is in the cache: of it, and of the record, what else is read.
    fn touch_what_changes(&self, ordinal: Option<Ordinal>, record: &Record) -> u64 {
        let row = ordinal.and_then(|ordinal| self.rows.get(ordinal));
        let place = row.and_then(|row| row.place());
        let (goes, comes) = match &record.change {
            Change::Place(cell) | Change::Arrival(_, cell) => (place, Some(Place::from(*cell))),
            Change::Removal | Change::Mute(_) | Change::Feedback { .. } => (place, None),
            Change::Registration(_) => (None, place),
        };
        // A cell's keys stand together: its tags are not worth a look at the profile.
        let ordinal = ordinal.unwrap_or(Ordinal(0));
        let page =
            |place: Option<Place>| place.map_or(0, |place| self.pages.touch(Key::new(place, Tag::NONE, ordinal)));
        let token = match record.change {
            Change::Place(_) | Change::Mute(_) => None,
            _ => row.and_then(|row| row.registration()),
        };
        page(goes) ^ page(comes) ^ token.map_or(0, |r| u64::from(self.tokens.touch(r.token)))
    }
}
