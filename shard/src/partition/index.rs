//! Device id to ordinal, in four bytes a device.
//!
//! The ids stand in the rows; the index holds ordinals, in buckets of some [`BUCKET_ENTRIES`] that are read through. What an
//! ordinal leaves free of its 32 bits holds bits of the id's hash, so that nearly all wrong entries are passed over
//! without a look at their rows: 16 bits of hash beside 16 of ordinal in a small partition, 11 beside 21 in one of two
//! million. Buckets are split one after the other as the partition grows (linear hashing), a few hundred bytes at a time:
//! no moment doubles the index, and no half of it is empty. Per device: 4 bytes, 0.13 of spare room in the bucket, 0.3
//! of the bucket's head and allocation.
//!
//! Callers choose ids, so the hash has a seed that they do not know, or chosen ids could be made to collide. The seed is
//! drawn once for a process and can differ between two nodes with the same log: nothing but the time of a look-up depends
//! on it, because the index is never iterated.

use std::sync::LazyLock;

use clarion_proto::ids::{DeviceId, Ordinal};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::rows::Rows;

static SEED: LazyLock<u64> = LazyLock::new(|| uuid::Uuid::new_v4().as_u64_pair().1);

/// Entries of a bucket on average, when the next is split: eight lines of a cache, read in sequence.
const BUCKET_ENTRIES: usize = 128;
/// Room is made for so many entries at a time.
const ROOM_ENTRIES: usize = 8;
/// Bits of an ordinal at first.
const ORDINAL_BITS_MIN: u32 = 16;

/// The ordinals of a partition's devices.
pub(super) struct Index {
    /// By the lower bits of the hash: as many as count the buckets, one fewer for those that are not split yet.
    buckets: Vec<Vec<u32>>,
    entries: usize,
    /// Of an entry, for the ordinal; the others are the highest of the hash.
    ordinal_bits: u32,
}

impl Default for Index {
    fn default() -> Self {
        Self { buckets: vec![Vec::new()], entries: 0, ordinal_bits: ORDINAL_BITS_MIN }
    }
}

impl Index {
    /// Empty, with the buckets that so many entries will need: filling it splits none.
    pub(super) fn for_entries(entries: usize) -> Self {
        Self { buckets: vec![Vec::new(); entries.div_ceil(BUCKET_ENTRIES).max(1)], ..Self::default() }
    }

    /// The ordinal of a device.
    pub(super) fn find(&self, device: DeviceId, rows: &Rows) -> Option<Ordinal> {
        let hash = hash(device);
        let (bits, wanted) = (self.ordinal_bits, self.hash_bits(hash));
        let bucket = &self.buckets[bucket_of(hash, self.buckets.len())];
        let mut candidates = bucket.iter().filter(|entry| *entry >> bits == wanted).map(|entry| self.ordinal(*entry));
        candidates.find(|ordinal| rows.at(*ordinal).device == device)
    }

    /// Adds a device that is not there and stands in the rows.
    pub(super) fn insert(&mut self, ordinal: Ordinal, rows: &Rows) {
        while ordinal.0 >> self.ordinal_bits != 0 {
            self.widen();
        }
        let hash = hash(rows.at(ordinal).device);
        let entry = self.entry(hash, ordinal);
        let at = bucket_of(hash, self.buckets.len());
        push(&mut self.buckets[at], entry);
        self.entries += 1;
        if self.entries > self.buckets.len() * BUCKET_ENTRIES {
            self.split(rows);
        }
    }

    /// Takes a device out; its row must still be there.
    pub(super) fn remove(&mut self, ordinal: Ordinal, rows: &Rows) {
        let hash = hash(rows.at(ordinal).device);
        let entry = self.entry(hash, ordinal);
        let at = bucket_of(hash, self.buckets.len());
        let bucket = &mut self.buckets[at];
        let Some(n) = bucket.iter().position(|e| *e == entry) else { return };
        bucket.swap_remove(n);
        if bucket.capacity() - bucket.len() > 2 * ROOM_ENTRIES {
            bucket.shrink_to(bucket.len() + ROOM_ENTRIES);
        }
        self.entries -= 1;
        if self.buckets.len() > 1 && self.entries < self.buckets.len() * BUCKET_ENTRIES / 2 {
            self.join();
        }
    }

    /// One bucket more: the next in turn gives up those whom one more bit of the hash sends there.
    fn split(&mut self, rows: &Rows) {
        let buckets = self.buckets.len() + 1;
        if self.buckets.len() == self.buckets.capacity() {
            self.buckets.reserve_exact(buckets / 16 + 4);
        }
        let from = buckets - 1 - previous_power(buckets - 1);
        let entries = std::mem::take(&mut self.buckets[from]);
        let (mut stay, mut go) = (Vec::new(), Vec::new());
        stay.reserve_exact(entries.len() / 2 + ROOM_ENTRIES);
        go.reserve_exact(entries.len() / 2 + ROOM_ENTRIES);
        for entry in entries {
            let at = bucket_of(hash(rows.at(self.ordinal(entry)).device), buckets);
            push(if at == from { &mut stay } else { &mut go }, entry);
        }
        self.buckets[from] = stay;
        self.buckets.push(go);
    }

    /// One bucket fewer.
    fn join(&mut self) {
        let Some(last) = self.buckets.pop() else { return };
        let buckets = self.buckets.len();
        let to = buckets - previous_power(buckets);
        let bucket = &mut self.buckets[to];
        bucket.reserve_exact(last.len());
        bucket.extend(last);
    }

    /// One bit more for ordinals, one fewer for hashes.
    fn widen(&mut self) {
        let (bits, low) = (self.ordinal_bits, (1u32 << self.ordinal_bits) - 1);
        for entry in self.buckets.iter_mut().flatten() {
            *entry = *entry >> (bits + 1) << (bits + 1) | *entry & low;
        }
        self.ordinal_bits += 1;
    }

    fn entry(&self, hash: u64, ordinal: Ordinal) -> u32 {
        self.hash_bits(hash) << self.ordinal_bits | ordinal.0
    }

    fn ordinal(&self, entry: u32) -> Ordinal {
        Ordinal(entry & ((1 << self.ordinal_bits) - 1))
    }

    #[allow(clippy::cast_possible_truncation)] // the upper 32 bits, less those of an ordinal
    fn hash_bits(&self, hash: u64) -> u32 {
        (hash >> 32) as u32 >> self.ordinal_bits
    }
}

fn push(bucket: &mut Vec<u32>, entry: u32) {
    if bucket.len() == bucket.capacity() {
        bucket.reserve_exact(ROOM_ENTRIES);
    }
    bucket.push(entry);
}

/// The bucket of a hash, of so many.
#[allow(clippy::cast_possible_truncation)] // lower bits are what is asked for
fn bucket_of(hash: u64, buckets: usize) -> usize {
    let all = buckets.next_power_of_two();
    let at = hash as usize & (all - 1);
    if at < buckets { at } else { at - all / 2 }
}

/// The highest power of two that is not above `n`, which is not 0.
fn previous_power(n: usize) -> usize {
    1 << n.ilog2()
}

fn hash(device: DeviceId) -> u64 {
    xxh3_64_with_seed(&device.0, *SEED)
}

#[cfg(test)]
mod tests {
    use super::{super::row::Row, *};
    use clarion_proto::ids::UnixMillis;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn device(n: u32) -> DeviceId {
        let mut id = [7; 16];
        id[3..7].copy_from_slice(&n.to_be_bytes());
        DeviceId(id)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Everybody is found who is there and nobody else, through splits and joins.
        #[test]
        fn finds_who_is_there(phases in prop::collection::vec((any::<bool>(), 0u32..3_000, 1u32..1_500), 1..8)) {
            let (mut rows, mut index, mut model) = (Rows::default(), Index::default(), BTreeMap::new());
            for (add, from, count) in phases {
                for n in from..from + count {
                    match (add, model.contains_key(&n)) {
                        (true, false) => {
                            let ordinal = rows.insert(Row::new(device(n)), UnixMillis(0)).unwrap();
                            index.insert(ordinal, &rows);
                            model.insert(n, ordinal);
                        }
                        (false, true) => index.remove(model.remove(&n).unwrap(), &rows),
                        _ => {}
                    }
                }
                for n in (0..4_500).step_by(7).chain(from..from + count) {
                    prop_assert_eq!(index.find(device(n), &rows), model.get(&n).copied());
                }
                prop_assert_eq!(index.buckets.iter().map(Vec::len).sum::<usize>(), model.len());
            }
        }
    }

    /// More ordinals than there were bits for: entries keep both halves.
    #[test]
    fn widens() {
        let (mut rows, mut index) = (Rows::default(), Index::default());
        for n in 0..70_000 {
            let ordinal = rows.insert(Row::new(device(n)), UnixMillis(0)).unwrap();
            index.insert(ordinal, &rows);
        }
        assert_eq!(index.ordinal_bits, 17);
        assert!((0..70_000).all(|n| index.find(device(n), &rows) == Some(Ordinal(n))));
        assert_eq!(index.find(device(70_000), &rows), None);
        let held: usize = index.buckets.iter().map(Vec::capacity).sum();
        assert!(held * 100 < 70_000 * 108, "{held} entries are held for 70,000");
    }
}
