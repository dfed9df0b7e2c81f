//! Encryption of what the store and the objects keep: AES-256-GCM under the key of a generation.
//!
//! Sealed bytes begin with the number of the generation, so that whoever holds the keys of all
//! generations can open them, and whoever erases a generation's key has erased them.
//!
//! | bytes | |
//! |---|---|
//! | 1 | version of this form, 1 |
//! | 4 | generation, little-endian |
//! | 12 | nonce, random |
//! | n | ciphertext |
//! | 16 | tag |
//!
//! Nonces are random: positions would repeat when a store goes back to an earlier state. Below 2^32
//! sealed parts per key the chance of a repeat is below 2^-32 (NIST SP 800-38D, 8.3); generations
//! change far sooner.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};

/// Length of a generation's key, bytes.
pub const KEY_BYTES: usize = 32;
/// Bytes by which sealed data is longer than the data.
pub const SEAL_BYTES: usize = HEAD_BYTES + 16;
const HEAD_BYTES: usize = 1 + 4 + NONCE_LEN;
const VERSION: u8 = 1;

/// Number of a key: from 1, one more with every new key of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u32);

/// Why sealed bytes cannot be opened. A retry does not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The bytes are not in the form that this version writes.
    #[error("it is not sealed data, or a later version sealed it")]
    Form,
    /// The generation's key was erased, or belongs to another cluster.
    #[error("the key of generation {} is not there", .0.0)]
    NoKey(Generation),
    /// The bytes were changed, or sealed for another place.
    #[error("checksum mismatch; the data is damaged")]
    Damaged,
}

/// Keys of all generations that are not erased; the newest one seals.
pub struct Seals {
    keys: RwLock<Keys>,
    random: SystemRandom,
}

#[derive(Default)]
struct Keys {
    by_generation: BTreeMap<Generation, LessSafeKey>,
    /// Number of holders by the generation that was the newest when they began.
    held: BTreeMap<Generation, usize>,
    /// Number of parts that the newest key has sealed in this process.
    sealed: AtomicU64,
}

/// Seals without any key yet.
impl Default for Seals {
    fn default() -> Self {
        Self { keys: RwLock::default(), random: SystemRandom::new() }
    }
}

/// Shows the generations, never a key.
impl fmt::Debug for Seals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys.read().by_generation.keys()).finish()
    }
}

impl Seals {
    /// Seals with one key.
    #[must_use]
    pub fn new(generation: Generation, key: &[u8; KEY_BYTES]) -> Self {
        let seals = Self::default();
        seals.add(generation, key);
        seals
    }

    /// Adds the key of a generation. From then on the highest generation seals.
    pub fn add(&self, generation: Generation, key: &[u8; KEY_BYTES]) {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("as long as the algorithm's keys");
        let mut keys = self.keys.write();
        if keys.by_generation.last_key_value().is_none_or(|(newest, _)| *newest < generation) {
            keys.sealed = AtomicU64::new(0);
        }
        keys.by_generation.insert(generation, LessSafeKey::new(key));
    }

    /// Removes the key of a generation: what it sealed cannot be opened any more.
    pub fn remove(&self, generation: Generation) {
        self.keys.write().by_generation.remove(&generation);
    }

    /// Whether the key of a generation is there.
    #[must_use]
    pub fn has(&self, generation: Generation) -> bool {
        self.keys.read().by_generation.contains_key(&generation)
    }

    /// Generation that seals now.
    ///
    /// # Panics
    /// If there is no key.
    #[must_use]
    pub fn newest(&self) -> Generation {
        self.keys.read().newest()
    }

    /// Number of parts that the newest key has sealed in this process.
    #[must_use]
    pub fn sealed(&self) -> u64 {
        self.keys.read().sealed.load(Ordering::Relaxed)
    }

    /// Keeps the key that seals now, and all later ones, from being erased until the returned value
    /// is dropped. Whoever seals holds keys from before the first seal until a record in the store
    /// tells which generation was used.
    ///
    /// # Panics
    /// If there is no key.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> Held {
        let mut keys = self.keys.write();
        let generation = keys.newest();
        *keys.held.entry(generation).or_default() += 1;
        Held { seals: Arc::clone(self), generation }
    }

    /// The lowest generation that must be kept for those who seal now: the lowest one held, else
    /// the newest one.
    ///
    /// # Panics
    /// If there is no key.
    #[must_use]
    pub fn oldest_held(&self) -> Generation {
        let keys = self.keys.read();
        keys.held.first_key_value().map_or_else(|| keys.newest(), |(oldest, _)| *oldest)
    }

    /// Seals bytes. They can be opened only with the same `place`, which tells where they belong.
    ///
    /// # Panics
    /// If there is no key, or the system has no random numbers.
    #[must_use]
    pub fn seal(&self, place: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).expect("the system has random numbers");
        let keys = self.keys.read();
        keys.sealed.fetch_add(1, Ordering::Relaxed);
        let (generation, key) = keys.by_generation.last_key_value().expect("at least one key");
        let mut sealed = Vec::with_capacity(SEAL_BYTES + plain.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&generation.0.to_le_bytes());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let content = &mut sealed[HEAD_BYTES..];
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(place), content);
        sealed.extend_from_slice(tag.expect("far below the algorithm's 64 GiB").as_ref());
        sealed
    }

    /// Opens what [`Seals::seal`] returned.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let generation = generation_of(sealed).ok_or(SealError::Form)?;
        let (head, content) = sealed.split_at(HEAD_BYTES);
        let nonce = Nonce::try_assume_unique_for_key(&head[5..]).map_err(|_| SealError::Form)?;
        let keys = self.keys.read();
        let key = keys.by_generation.get(&generation).ok_or(SealError::NoKey(generation))?;
        let mut content = content.to_vec();
        let opened = key.open_in_place(nonce, Aad::from(place), &mut content);
        let length = opened.map_err(|_| SealError::Damaged)?.len();
        content.truncate(length);
        Ok(content)
    }
}

impl Keys {
    fn newest(&self) -> Generation {
        *self.by_generation.last_key_value().expect("at least one key").0
    }
}

/// Keys that must not be erased yet: see [`Seals::hold`].
#[derive(Debug)]
pub struct Held {
    seals: Arc<Seals>,
    generation: Generation,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut keys = self.seals.keys.write();
        if let Some(holders) = keys.held.get_mut(&self.generation) {
            *holders -= 1;
            if *holders == 0 {
                keys.held.remove(&self.generation);
            }
        }
    }
}

/// Generation whose key sealed the bytes; `None`: they are not sealed.
#[must_use]
pub fn generation_of(sealed: &[u8]) -> Option<Generation> {
    let (&[VERSION], rest) = sealed.split_first_chunk::<1>()? else { return None };
    if sealed.len() < SEAL_BYTES {
        return None;
    }
    rest.first_chunk().map(|number| Generation(u32::from_le_bytes(*number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_in_its_place_until_the_key_is_removed() {
        let seals = Seals::new(Generation(1), &[1; KEY_BYTES]);
        let first = seals.seal(b"log 1", b"records");
        assert_eq!(first.len(), SEAL_BYTES + 7);
        assert!(!first.windows(7).any(|part| part == b"records"));
        assert_ne!(first, seals.seal(b"log 1", b"records"), "another nonce");
        seals.add(Generation(2), &[2; KEY_BYTES]);
        let second = seals.seal(b"log 1", b"");
        assert_eq!(
            [&first, &second].map(|s| generation_of(s)),
            [1, 2].map(|g| Some(Generation(g)))
        );
        assert_eq!(seals.open(b"log 1", &first), Ok(b"records".to_vec()));
        assert_eq!(seals.open(b"log 2", &first), Err(SealError::Damaged), "of another place");
        seals.remove(Generation(1));
        assert_eq!(seals.open(b"log 1", &first), Err(SealError::NoKey(Generation(1))));
        assert_eq!(seals.open(b"log 1", &second), Ok(Vec::new()));
    }

    #[test]
    fn who_seals_holds_the_key_that_was_the_newest_when_it_began() {
        let seals = Arc::new(Seals::new(Generation(3), &[3; KEY_BYTES]));
        let (first, second) = (seals.hold(), seals.hold());
        seals.add(Generation(4), &[4; KEY_BYTES]);
        let third = seals.hold();
        assert_eq!((seals.oldest_held(), seals.sealed()), (Generation(3), 0));
        drop(first);
        assert_eq!(seals.oldest_held(), Generation(3));
        drop(second);
        assert_eq!(seals.oldest_held(), Generation(4));
        seals.add(Generation(5), &[5; KEY_BYTES]);
        let _ = seals.seal(b"", b"");
        assert_eq!((seals.oldest_held(), seals.sealed()), (Generation(4), 1));
        drop(third);
        assert_eq!(seals.oldest_held(), Generation(5), "nobody holds any");
    }

    #[test]
    fn a_changed_bit_is_found_wherever_it_is() {
        let seals = Seals::new(Generation(7), &[1; KEY_BYTES]);
        let sealed = seals.seal(b"", b"records");
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(seals.open(b"", &damaged).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(seals.open(b"", &sealed[..length]).is_err(), "cut to {length}");
        }
    }
}
