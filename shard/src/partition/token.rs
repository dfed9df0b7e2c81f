//! Tokens, without an allocation for each.
//!
//! Tokens come in few lengths (APNs 32 bytes, FCM some twenty lengths between 142 and 163), and every churned device
//! takes one and leaves one. An allocation each would cost 16 bytes more and scatter them; one arena would need
//! compaction. So each length has slots of exactly that length, in chunks that never move, with the free slots on a
//! stack: no byte of padding, no length stored, and what is freed is what the next token of that length gets.
//!
//! A registration may carry a `person`. It is reserved and hardly anybody sends it, so it has no field of its own: it
//! stands behind the token in the same slot, and a flag of the row says so.

/// Slots of a chunk: few enough that a length used once costs little (64 × 163 bytes), enough that a chunk's pointer and
/// allocation (32 bytes) cost half a byte a token.
const CHUNK_SLOTS: usize = 64;
/// What a `person` may have (registry.proto). A longer one is a sender's defect and is not kept.
const PERSON_BYTES_MAX: usize = 128;
/// The token's length, behind a token and a person.
const LENGTH_BYTES: usize = 2;

/// The tokens of a partition.
#[derive(Default)]
pub(super) struct Tokens {
    /// By length of the slot.
    sizes: Vec<Slots>,
}

#[derive(Default)]
struct Slots {
    chunks: Vec<Box<[u8]>>,
    /// Slots from here on were never used.
    unused: u32,
    free: Vec<u32>,
}

/// Where a token is: slot, bytes of the slot, and whether a person stands behind it.
pub(super) type Stored = (u32, u16, bool);

impl Tokens {
    /// Stores a token and, unless empty, a person.
    pub(super) fn insert(&mut self, token: &[u8], person: &str) -> Stored {
        let with_person = !person.is_empty() && person.len() <= PERSON_BYTES_MAX;
        let bytes = if with_person { token.len() + person.len() + LENGTH_BYTES } else { token.len() };
        if bytes >= self.sizes.len() {
            self.sizes.resize_with(bytes + 1, Slots::default);
        }
        let slots = &mut self.sizes[bytes];
        let slot = slots.take(bytes);
        let to = slots.bytes_mut(slot, bytes);
        to[..token.len()].copy_from_slice(token);
        let token_bytes = u16::try_from(token.len()).expect("at most TOKEN_BYTES_MAX");
        if with_person {
            to[token.len()..bytes - LENGTH_BYTES].copy_from_slice(person.as_bytes());
            to[bytes - LENGTH_BYTES..].copy_from_slice(&token_bytes.to_le_bytes());
        }
        (slot, u16::try_from(bytes).expect("at most TOKEN_BYTES_MAX + PERSON_BYTES_MAX + LENGTH_BYTES"), with_person)
    }

    /// The token, and the person or nothing.
    pub(super) fn get(&self, (slot, bytes, with_person): Stored) -> (&[u8], &[u8]) {
        let bytes = usize::from(bytes);
        let all = self.sizes[bytes].bytes(slot, bytes);
        if !with_person {
            return (all, &[]);
        }
        let (both, length) = all.split_at(bytes - LENGTH_BYTES);
        both.split_at(usize::from(u16::from_le_bytes([length[0], length[1]])))
    }

    /// Frees a slot; its bytes are wiped at once, as they are a person's.
    pub(super) fn remove(&mut self, (slot, bytes, _): Stored) {
        let bytes = usize::from(bytes);
        let slots = &mut self.sizes[bytes];
        slots.bytes_mut(slot, bytes).fill(0);
        slots.free.push(slot);
    }
}

impl Slots {
    fn take(&mut self, bytes: usize) -> u32 {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        if self.unused as usize == self.chunks.len() * CHUNK_SLOTS {
            self.chunks.push(vec![0; bytes * CHUNK_SLOTS].into_boxed_slice());
        }
        self.unused += 1;
        self.unused - 1
    }

    fn bytes(&self, slot: u32, bytes: usize) -> &[u8] {
        let n = slot as usize;
        &self.chunks[n / CHUNK_SLOTS][n % CHUNK_SLOTS * bytes..][..bytes]
    }

    fn bytes_mut(&mut self, slot: u32, bytes: usize) -> &mut [u8] {
        let n = slot as usize;
        &mut self.chunks[n / CHUNK_SLOTS][n % CHUNK_SLOTS * bytes..][..bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Every token is found as it was stored, whatever was freed between, and freed slots are used again.
        #[test]
        fn tokens_stay_as_stored(changes in prop::collection::vec(
            (0u8..40, prop::option::of((prop::collection::vec(any::<u8>(), 1..40), "[a-z]{0,3}"))), 1..400,
        )) {
            let mut tokens = Tokens::default();
            let mut model: BTreeMap<u8, (Stored, Vec<u8>, String)> = BTreeMap::new();
            for (holder, new) in changes {
                if let Some((stored, ..)) = model.remove(&holder) {
                    tokens.remove(stored);
                }
                if let Some((token, person)) = new {
                    model.insert(holder, (tokens.insert(&token, &person), token, person));
                }
                for (stored, token, person) in model.values() {
                    prop_assert_eq!(tokens.get(*stored), (token.as_slice(), person.as_bytes()));
                }
                let slots: usize = tokens.sizes.iter().map(|s| s.unused as usize - s.free.len()).sum();
                prop_assert_eq!(slots, model.len());
            }
        }
    }

    #[test]
    fn a_slot_is_wiped_and_used_again() {
        let mut tokens = Tokens::default();
        let first = tokens.insert(b"secret", "");
        tokens.remove(first);
        assert_eq!(tokens.get(first).0, [0; 6]);
        assert_eq!(tokens.insert(b"public", ""), first);
    }

    #[test]
    fn an_overlong_person_is_not_kept() {
        let mut tokens = Tokens::default();
        let stored = tokens.insert(b"token", &"p".repeat(PERSON_BYTES_MAX + 1));
        assert_eq!(tokens.get(stored), (&b"token"[..], &b""[..]));
    }
}
