//! Records of keys: `key/` and the generation in ten digits, and [`NEWEST`].

use clarion_proto::{ids::UnixMillis, wire::store::v1 as wire};
use prost::Message as _;
use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

use super::KnownKey;
use crate::{
    seal::{Generation, KEY_BYTES},
    store::{Numbered, Store, StoreError},
};

/// Key of the record whose number is the highest generation that was ever given to a key.
pub const NEWEST: &str = "key/newest";
/// Beginning of the keys of all records of this module.
const KEYS: &str = "key/";

/// Bytes of a key, or of one of its halves; zeroed when they are dropped.
pub type Secret = Zeroizing<[u8; KEY_BYTES]>;

/// The record of one generation.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyRecord {
    /// The message that the store keeps.
    pub wire: wire::DataKey,
    /// Number of the record's revision.
    pub number: u64,
}

impl KeyRecord {
    /// The record of a new key.
    #[must_use]
    pub fn new(
        generation: Generation,
        half: &Secret,
        key: &Secret,
        object: String,
        now: UnixMillis,
    ) -> Self {
        let wire = wire::DataKey {
            generation: generation.0,
            half: half.to_vec(),
            object,
            key_digest: digest_of(key),
            created_ms: now.0,
            erasing: false,
        };
        Self { wire, number: 1 }
    }

    /// The record of a key that is being erased, without its half.
    #[must_use]
    pub fn erasing(&self) -> Self {
        let wire = wire::DataKey { half: Vec::new(), erasing: true, ..self.wire.clone() };
        Self { wire, number: self.number + 1 }
    }

    /// The record as the store keeps it.
    #[must_use]
    pub fn numbered(&self) -> Numbered {
        let key = format!("{KEYS}{:010}", self.wire.generation);
        Numbered::new(key, self.number, self.wire.encode_to_vec())
    }

    /// Number of the key.
    #[must_use]
    pub fn generation(&self) -> Generation {
        Generation(self.wire.generation)
    }

    /// What the rules need to know of the key.
    #[must_use]
    pub fn known(&self) -> KnownKey {
        let wire::DataKey { created_ms, erasing, .. } = self.wire;
        KnownKey { generation: self.generation(), created: UnixMillis(created_ms), erasing }
    }

    /// The key, of the record's half and the other half.
    ///
    /// # Errors
    /// The two halves are not those of the key.
    pub fn key(&self, other: &[u8]) -> Result<Secret, String> {
        let half: Secret =
            Zeroizing::new(self.wire.half.as_slice().try_into().map_err(|_| {
                format!("the half in the database {}", not_a_half(&self.wire.half))
            })?);
        let other: Secret = Zeroizing::new(other.try_into().map_err(|_| not_a_half(other))?);
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        for ((key, half), other) in key.iter_mut().zip(&*half).zip(&*other) {
            *key = half ^ other;
        }
        if digest_of(&key) != self.wire.key_digest {
            return Err("is not the other half of this key".to_owned());
        }
        Ok(key)
    }
}

/// All keys of a store, by generation, and the highest generation that was ever given to a key.
///
/// # Errors
/// The store does not answer, or a record cannot be read.
pub async fn all(store: &dyn Store) -> Result<(Vec<KeyRecord>, Generation), StoreError> {
    let mut newest = 0;
    let mut records = Vec::new();
    for stored in store.all_numbered(KEYS).await? {
        if stored.key == NEWEST {
            newest = stored.number;
        } else {
            let wire = stored.read(|bytes| wire::DataKey::decode(bytes))?;
            records.push(KeyRecord { wire, number: stored.number });
        }
    }
    Ok((records, Generation(u32::try_from(newest).unwrap_or(u32::MAX))))
}

/// The lowest generation that sealed a stored snapshot; `None`: there are no snapshots.
///
/// # Errors
/// The store does not answer, or a record cannot be read.
pub async fn oldest_in_snapshots(store: &dyn Store) -> Result<Option<Generation>, StoreError> {
    let mut oldest = None;
    for stored in store.all_numbered("snapshot/").await? {
        let of_partition = stored.read(|bytes| wire::PartitionSnapshots::decode(bytes))?;
        let both = of_partition.current.iter().chain(&of_partition.retired);
        oldest = oldest.into_iter().chain(both.map(|snapshot| snapshot.generation)).min();
    }
    Ok(oldest.map(Generation))
}

fn digest_of(key: &Secret) -> Vec<u8> {
    digest(&SHA256, &key[..]).as_ref().to_vec()
}

fn not_a_half(half: &[u8]) -> String {
    format!("must have {KEY_BYTES} bytes; got {} bytes", half.len())
}
