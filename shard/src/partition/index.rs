//! The index from device id to ordinal, in four bytes per device.
//!
//! The ids are in the rows; the index holds ordinals, in buckets of some [`BUCKET_ENTRIES`]
//! entries. The bits of an entry that the ordinal does not need hold bits of the id's hash, so that
//! nearly all other entries are skipped without reading their rows: 16 bits of hash beside 16 of
//! ordinal in a small partition, 11 beside 21 in one of two million. A bucket is sorted by those
//! bits, and since a hash spreads evenly they also give the expected position of an entry: a
//! look-up reads the head of a bucket, one or two lines of it, and a row. Buckets are split one
//! after the other as the partition grows (linear hashing), a few hundred bytes at a time, so the
//! index never doubles and no half of it is empty. Per device: 4 bytes, 0.06 of spare room in the
//! bucket, 0.16 of the bucket's head and allocation.
//!
//! Callers choose ids, so the hash has a seed that callers do not know; otherwise they could choose
//! ids that collide. The core hands the seed to each partition. The seed can differ between two
//! nodes with the same log. Only the time of a look-up depends on it, because the index is never
//! iterated.

use clarion_proto::ids::{DeviceId, Ordinal};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{prefetch, rows::Rows};

/// Average number of entries of a bucket when the next bucket is split: a kilobyte, half of which
/// an insertion moves.
const BUCKET_ENTRIES: usize = 256;
/// Number of entries by which the capacity of a bucket grows.
const ROOM_ENTRIES: usize = 8;
/// Number of entries around the expected position that a look-up compares together: two lines.
const LOOK: usize = 32;
/// Number of bits of an ordinal in a new index.
const ORDINAL_BITS_MIN: u32 = 16;

/// The ordinals of a partition's devices.
pub(super) struct Index {
    /// Seed of the hash of ids.
    seed: u64,
    /// Buckets by the lower bits of the hash: as many bits as count the buckets, and one fewer for
    /// buckets that are not split yet. Each bucket is sorted by the hash bits of its entries.
    buckets: Vec<Vec<u32>>,
    entries: usize,
    /// Number of bits of an entry for the ordinal; the others are the highest bits of the hash.
    ordinal_bits: u32,
}

/// The hash of a device id, from which every look-up starts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct IdHash(u64);

impl Index {
    /// Creates an index without devices, which hashes ids with this seed.
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, buckets: vec![Vec::new()], entries: 0, ordinal_bits: ORDINAL_BITS_MIN }
    }

    /// Computes the hash of a device id in this index.
    #[inline]
    pub(super) fn hash(&self, device: DeviceId) -> IdHash {
        IdHash(xxh3_64_with_seed(&device.0, self.seed))
    }

    /// Builds an index of devices whose rows exist and whose hashes are from the empty index
    /// `self`; `None` if a device occurs twice.
    pub(super) fn filled(&self, devices: &[(IdHash, Ordinal)], rows: &Rows) -> Option<Self> {
        let buckets = devices.len().div_ceil(BUCKET_ENTRIES).max(1);
        let most = devices.iter().map(|(_, ordinal)| ordinal.0).max().unwrap_or(0);
        let mut new = Self {
            seed: self.seed,
            buckets: Vec::with_capacity(buckets),
            entries: devices.len(),
            ordinal_bits: (u32::BITS - most.leading_zeros()).max(ORDINAL_BITS_MIN),
        };
        // The entries of each bucket are counted first and then distributed, so that the entries of
        // a bucket are adjacent.
        let mut ends = vec![0usize; buckets + 1];
        devices.iter().for_each(|(hash, _)| ends[bucket_of(*hash, buckets) + 1] += 1);
        (0..buckets).for_each(|n| ends[n + 1] += ends[n]);
        let mut dealt = vec![(IdHash(0), Ordinal(0)); devices.len()];
        let mut next = ends.clone();
        for device in devices {
            let at = &mut next[bucket_of(device.0, buckets)];
            dealt[*at] = *device;
            *at += 1;
        }
        for n in 0..buckets {
            let of_bucket = &mut dealt[ends[n]..ends[n + 1]];
            of_bucket.sort_unstable();
            let device = |ordinal: Ordinal| rows.at(ordinal).device();
            if of_bucket.chunk_by(|a, b| a.0 == b.0).any(|same| {
                same.iter()
                    .enumerate()
                    .any(|(n, a)| same[..n].iter().any(|b| device(a.1) == device(b.1)))
            }) {
                return None;
            }
            let mut bucket = Vec::new();
            bucket.reserve_exact(of_bucket.len().next_multiple_of(ROOM_ENTRIES));
            bucket.extend(of_bucket.iter().map(|(hash, ordinal)| new.entry(*hash, *ordinal)));
            new.buckets.push(bucket);
        }
        Some(new)
    }

    /// Returns the ordinal of a device; `None` if the device is not in the index.
    pub(super) fn find(&self, hash: IdHash, device: DeviceId, rows: &Rows) -> Option<Ordinal> {
        let bucket = &self.buckets[bucket_of(hash, self.buckets.len())];
        let mut same = self.same(bucket, hash).iter().map(|entry| self.ordinal(*entry));
        same.find(|ordinal| rows.at(*ordinal).device() == device)
    }

    /// Adds a device that is not in the index.
    pub(super) fn insert(&mut self, hash: IdHash, ordinal: Ordinal, rows: &Rows) {
        while ordinal.0 >> self.ordinal_bits != 0 {
            self.widen();
        }
        let entry = self.entry(hash, ordinal);
        let at = bucket_of(hash, self.buckets.len());
        let to = self.begin(&self.buckets[at], self.hash_bits(hash));
        let bucket = &mut self.buckets[at];
        make_room(bucket);
        bucket.insert(to, entry);
        self.entries += 1;
        if self.entries > self.buckets.len() * BUCKET_ENTRIES {
            self.split(rows);
        }
    }

    /// Removes a device from the index.
    pub(super) fn remove(&mut self, hash: IdHash, ordinal: Ordinal) {
        let entry = self.entry(hash, ordinal);
        let at = bucket_of(hash, self.buckets.len());
        let from = self.begin(&self.buckets[at], self.hash_bits(hash));
        let bucket = &mut self.buckets[at];
        let Some(n) = bucket[from..].iter().position(|e| *e == entry) else { return };
        bucket.remove(from + n);
        if bucket.capacity() - bucket.len() > 2 * ROOM_ENTRIES {
            bucket.shrink_to(bucket.len() + ROOM_ENTRIES);
        }
        self.entries -= 1;
        if self.buckets.len() > 1 && self.entries < self.buckets.len() * BUCKET_ENTRIES / 2 {
            self.join();
        }
    }

    /// Returns the first ordinal that matches the hash bits, without reading its row. In nearly all
    /// cases it is the right one if the device is in the index.
    pub(super) fn likely(&self, hash: IdHash) -> Option<Ordinal> {
        let bucket = &self.buckets[bucket_of(hash, self.buckets.len())];
        self.same(bucket, hash).first().map(|entry| self.ordinal(*entry))
    }

    /// Prefetches the head of the bucket of a hash, the first of the three memory waits of a
    /// look-up.
    pub(super) fn prefetch_bucket(&self, hash: IdHash) {
        prefetch::one(&self.buckets[bucket_of(hash, self.buckets.len())]);
    }

    /// Prefetches the part of a bucket that a look-up will read. The bucket's head must be in the
    /// cache already.
    pub(super) fn prefetch_entry(&self, hash: IdHash) {
        let bucket = &self.buckets[bucket_of(hash, self.buckets.len())];
        let from = self.look_from(bucket.len(), self.hash_bits(hash));
        prefetch::lines(&bucket[from..bucket.len().min(from + LOOK)]);
    }

    /// Prefetches the part of a bucket that an insertion will move.
    pub(super) fn prefetch_rest(&self, hash: IdHash) {
        let bucket = &self.buckets[bucket_of(hash, self.buckets.len())];
        let from = self.look_from(bucket.len(), self.hash_bits(hash));
        prefetch::lines(&bucket[from..]);
    }

    /// Returns the entries of a bucket that match the bits of a hash.
    fn same<'b>(&self, bucket: &'b [u32], hash: IdHash) -> &'b [u32] {
        let wanted = self.hash_bits(hash);
        let tail = &bucket[self.begin(bucket, wanted)..];
        let same = tail.iter().take_while(|entry| **entry >> self.ordinal_bits == wanted).count();
        &tail[..same]
    }

    /// Returns the position at which entries with these hash bits begin or would begin. The entries
    /// before them are counted around the expected position, without a branch that can be
    /// mispredicted; only if they are not there, a search goes step by step.
    fn begin(&self, bucket: &[u32], wanted: u32) -> usize {
        // No entry below this one has the wanted bits, and none from it on has lower ones.
        let least = wanted << self.ordinal_bits;
        let from = self.look_from(bucket.len(), wanted);
        let below =
            |look: &[u32]| look.iter().map(|entry| u32::from(*entry < least)).sum::<u32>() as usize;
        let look = bucket[from..].first_chunk::<LOOK>();
        let mut at = from + look.map_or_else(|| below(&bucket[from..]), |look| below(look));
        while at > 0 && bucket[at - 1] >= least {
            at -= 1;
        }
        while at < bucket.len() && bucket[at] < least {
            at += 1;
        }
        at
    }

    /// Returns the start of a search in a bucket. Hash bits are spread evenly, so the wanted entry
    /// is at its expected position, give or take half the square root of the number of entries,
    /// eight.
    fn look_from(&self, entries: usize, wanted: u32) -> usize {
        let expected = (entries * wanted as usize) >> (u32::BITS - self.ordinal_bits);
        expected.saturating_sub(LOOK / 2).min(entries.saturating_sub(LOOK))
    }

    /// Adds a bucket by splitting the next one in turn by one more bit of the hash.
    fn split(&mut self, rows: &Rows) {
        let buckets = self.buckets.len() + 1;
        if self.buckets.len() == self.buckets.capacity() {
            self.buckets.reserve_exact(buckets / 16 + 4);
        }
        let from = buckets - 1 - previous_power(buckets - 1);
        let entries = std::mem::take(&mut self.buckets[from]);
        // Rows are spread over memory; in a pass that does nothing else the waits for them overlap.
        let hashes: Vec<_> =
            entries.iter().map(|entry| self.hash(rows.at(self.ordinal(*entry)).device())).collect();
        let stays = |hash: &IdHash| bucket_of(*hash, buckets) == from;
        let staying = hashes.iter().filter(|hash| stays(hash)).count();
        let (mut stay, mut go) = (Vec::new(), Vec::new());
        stay.reserve_exact(staying + ROOM_ENTRIES);
        go.reserve_exact(entries.len() - staying + ROOM_ENTRIES);
        for (entry, hash) in entries.into_iter().zip(&hashes) {
            if stays(hash) { stay.push(entry) } else { go.push(entry) }
        }
        self.buckets[from] = stay;
        self.buckets.push(go);
    }

    /// Removes the last bucket by joining it with the one from which it was split.
    fn join(&mut self) {
        let Some(last) = self.buckets.pop() else { return };
        let buckets = self.buckets.len();
        let to = buckets - previous_power(buckets);
        let bucket = &mut self.buckets[to];
        bucket.reserve_exact(last.len());
        bucket.extend(last);
        bucket.sort_unstable();
    }

    /// Gives the ordinals one more bit and the hashes one fewer. Entries stay sorted without the
    /// lowest bit of the hash.
    fn widen(&mut self) {
        let (bits, low) = (self.ordinal_bits, (1u32 << self.ordinal_bits) - 1);
        for entry in self.buckets.iter_mut().flatten() {
            *entry = *entry >> (bits + 1) << (bits + 1) | *entry & low;
        }
        self.ordinal_bits += 1;
    }

    fn entry(&self, hash: IdHash, ordinal: Ordinal) -> u32 {
        self.hash_bits(hash) << self.ordinal_bits | ordinal.0
    }

    fn ordinal(&self, entry: u32) -> Ordinal {
        Ordinal(entry & ((1 << self.ordinal_bits) - 1))
    }

    #[allow(clippy::cast_possible_truncation)] // the upper 32 bits, less those of an ordinal
    fn hash_bits(&self, hash: IdHash) -> u32 {
        (hash.0 >> 32) as u32 >> self.ordinal_bits
    }
}

fn make_room(bucket: &mut Vec<u32>) {
    if bucket.len() == bucket.capacity() {
        bucket.reserve_exact(ROOM_ENTRIES);
    }
}

/// Returns the number of the bucket of a hash among `buckets`.
#[allow(clippy::cast_possible_truncation)] // lower bits are what is asked for
fn bucket_of(hash: IdHash, buckets: usize) -> usize {
    let all = buckets.next_power_of_two();
    let at = hash.0 as usize & (all - 1);
    if at < buckets { at } else { at - all / 2 }
}

/// Returns the highest power of two that is at most `n`, for an `n` of at least 1.
fn previous_power(n: usize) -> usize {
    1 << n.ilog2()
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

    fn find(index: &Index, n: u32, rows: &Rows) -> Option<Ordinal> {
        index.find(index.hash(device(n)), device(n), rows)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Checks through splits and joins that exactly the added devices are found.
        #[test]
        fn finds_who_is_there(phases in prop::collection::vec((any::<bool>(), 0u32..3_000, 1u32..1_500), 1..8)) {
            let (mut rows, mut index) = (Rows::default(), Index::new(7));
            let mut model = BTreeMap::new();
            for (add, from, count) in phases {
                for n in from..from + count {
                    match (add, model.contains_key(&n)) {
                        (true, false) => {
                            let ordinal = rows.insert(Row::new(device(n)), UnixMillis(0), |_, _| None).unwrap();
                            index.insert(index.hash(device(n)), ordinal, &rows);
                            model.insert(n, ordinal);
                        }
                        (false, true) => {
                            index.remove(index.hash(device(n)), model.remove(&n).unwrap());
                        }
                        _ => {}
                    }
                }
                for n in (0..4_500).step_by(7).chain(from..from + count) {
                    prop_assert_eq!(find(&index, n, &rows), model.get(&n).copied());
                }
                prop_assert_eq!(index.buckets.iter().map(Vec::len).sum::<usize>(), model.len());
                let hashed = |(n, ordinal): (&u32, &Ordinal)| (index.hash(device(*n)), *ordinal);
                let devices: Vec<_> = model.iter().map(hashed).collect();
                let again = Index::new(7).filled(&devices, &rows).expect("each comes once");
                prop_assert!(model.iter().all(|(n, ordinal)| find(&again, *n, &rows) == Some(*ordinal)));
                prop_assert!(again.buckets.iter().all(|bucket| bucket.is_sorted_by_key(|entry| entry >> again.ordinal_bits)));
            }
        }
    }

    /// More ordinals than the bits can hold: entries keep both halves.
    #[test]
    fn widens() {
        let (mut rows, mut index) = (Rows::default(), Index::new(7));
        for n in 0..70_000 {
            let ordinal = rows.insert(Row::new(device(n)), UnixMillis(0), |_, _| None).unwrap();
            index.insert(index.hash(device(n)), ordinal, &rows);
        }
        assert_eq!(index.ordinal_bits, 17);
        assert!((0..70_000).all(|n| find(&index, n, &rows) == Some(Ordinal(n))));
        assert_eq!(find(&index, 70_000, &rows), None);
        let held: usize = index.buckets.iter().map(Vec::capacity).sum();
        assert!(held * 100 < 70_000 * 108, "{held} entries are held for 70,000");
    }

    /// A device with two ordinals is refused.
    #[test]
    fn each_device_comes_once() {
        let (mut rows, index) = (Rows::default(), Index::new(7));
        let devices: Vec<_> = [1, 2, 1]
            .map(|n| {
                (
                    index.hash(device(n)),
                    rows.insert(Row::new(device(n)), UnixMillis(0), |_, _| None).unwrap(),
                )
            })
            .to_vec();
        assert!(index.filled(&devices, &rows).is_none());
        assert!(index.filled(&devices[..2], &rows).is_some());
    }
}
