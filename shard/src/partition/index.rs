//! Device id to ordinal.
//!
//! The table stores bare ordinals, four bytes each and one of hash; the ids stand in the rows. Callers choose ids, so
//! the hash has a seed that they do not know, or chosen ids could be made to collide. The seed is drawn once for a
//! process and can differ between two nodes with the same log: nothing but the time of a look-up depends on it, because
//! the table is never iterated.

use std::sync::LazyLock;

use clarion_proto::ids::{DeviceId, Ordinal};
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::rows::Rows;

static SEED: LazyLock<u64> = LazyLock::new(|| uuid::Uuid::new_v4().as_u64_pair().1);

/// The ordinals of a partition's devices.
#[derive(Default)]
pub(super) struct Index {
    table: HashTable<Ordinal>,
}

impl Index {
    /// The ordinal of a device.
    pub(super) fn find(&self, device: DeviceId, rows: &Rows) -> Option<Ordinal> {
        self.table.find(hash(device), |&o| rows.at(o).device == device).copied()
    }

    /// Adds a device that is not there and stands in the rows.
    pub(super) fn insert(&mut self, ordinal: Ordinal, rows: &Rows) {
        let hash_of = |o: &Ordinal| hash(rows.at(*o).device);
        self.table.insert_unique(hash_of(&ordinal), ordinal, hash_of);
    }

    /// Takes a device out; its row must still be there.
    pub(super) fn remove(&mut self, ordinal: Ordinal, rows: &Rows) {
        if let Ok(entry) = self.table.find_entry(hash(rows.at(ordinal).device), |&o| o == ordinal) {
            entry.remove();
        }
    }
}

fn hash(device: DeviceId) -> u64 {
    xxh3_64_with_seed(&device.0, *SEED)
}
