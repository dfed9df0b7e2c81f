//! Storage of tokens in few bytes, without an allocation for each.
//!
//! Tokens come in few lengths (APNs 32 bytes, FCM some twenty lengths between 142 and 163), and
//! every replaced device takes one and leaves one. One arena would need compaction, so each *shape*
//! has slots of exactly its size, in chunks that never move, and freed slots form a list. A shape
//! is the form, the length and the length of the person after the token. So a token needs no byte
//! that describes it: four bytes in the row name chunk and slot, and the chunk knows its shape.
//!
//! **Forms.** *Raw*: the bytes. *Packed*: every FCM token observed in years is base64url and one
//! colon, so 162 of 163 characters take six bits each; the position of the colon is part of the
//! shape. 163 characters become 122 bytes. All other tokens are kept raw; no token is refused or
//! changed.
//!
//! A registration may carry a `person`. It is reserved and clients hardly ever send it, so it has
//! no field of its own: it is stored after the token in the same slot.
//!
//! Memory per token of a big partition: its bytes, 32 bytes of each chunk for up to
//! [`CHUNK_SLOTS_MAX`] slots, the unused rest of a block (0.1 to 0.5 together), and for each shape
//! on average half a chunk of slots that were never used.

mod pack;

use std::collections::BTreeMap;

use clarion_proto::device::{TOKEN_BYTES_MAX, token_hash};

use super::{
    block::{BLOCK_BYTES, Block, Bytes},
    prefetch,
};

/// Place of a token: chunk in the upper bits, slot in the lower bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct TokenRef(pub(super) u32);

/// Number of bits of a [`TokenRef`] for the slot.
const SLOT_BITS: u32 = 9;
/// Most slots of a chunk.
const CHUNK_SLOTS_MAX: usize = 1 << SLOT_BITS;
/// Share of a shape's slots that its next chunk has. A length that is used once costs eight slots.
const GROWTH_SHARE: usize = 8;
const CHUNK_SLOTS_MIN: usize = 8;
/// Smallest slot, bytes: a freed slot holds the number of the next freed one.
const SLOT_BYTES_MIN: usize = 4;
/// No slot; a chunk of this number would be the last of 2^23.
const NONE: u32 = u32::MAX;
/// Longest `person`, bytes (registry.proto). A longer one is a defect of the sender and is not
/// kept.
pub(super) const PERSON_BYTES_MAX: usize = 128;

/// Form and lengths of a slot's content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    /// Length of the token as returned, bytes.
    token_bytes: u16,
    /// Position of the colon in a packed token; `None` for a raw one.
    colon: Option<u8>,
    person_bytes: u8,
}

impl Shape {
    /// Creates the shape with these lengths; `None` if they are impossible.
    pub(super) fn new(token_bytes: usize, colon: Option<u8>, person_bytes: usize) -> Option<Self> {
        let fits = (1..=TOKEN_BYTES_MAX).contains(&token_bytes)
            && person_bytes <= PERSON_BYTES_MAX
            && colon.is_none_or(|colon| usize::from(colon) < token_bytes);
        let (token_bytes, person_bytes) =
            (u16::try_from(token_bytes).ok()?, u8::try_from(person_bytes).ok()?);
        fits.then_some(Self { token_bytes, colon, person_bytes })
    }

    fn of(token: &[u8], person: &str) -> Self {
        let person = if person.len() <= PERSON_BYTES_MAX { person } else { "" };
        Self::new(token.len(), pack::colon_of(token), person.len())
            .expect("at most TOKEN_BYTES_MAX, PERSON_BYTES_MAX")
    }

    pub(super) fn token_bytes(self) -> usize {
        self.token_bytes.into()
    }

    pub(super) fn colon(self) -> Option<u8> {
        self.colon
    }

    pub(super) fn person_bytes(self) -> usize {
        self.person_bytes.into()
    }

    /// Returns the stored length of the token, bytes.
    pub(super) fn stored_bytes(self) -> usize {
        match self.colon {
            None => self.token_bytes(),
            Some(_) => pack::packed_bytes(self.token_bytes() - 1),
        }
    }

    /// Returns the stored length of token and person together, bytes.
    pub(super) fn content_bytes(self) -> usize {
        self.stored_bytes() + self.person_bytes()
    }

    fn slot_bytes(self) -> usize {
        self.content_bytes().max(SLOT_BYTES_MIN)
    }
}

/// A provider's token as a partition stores it. Secret: it has no `Debug`.
#[derive(Clone, Copy)]
pub struct StoredToken<'a> {
    shape: Shape,
    /// Bytes of the token, then of the person.
    content: &'a [u8],
}

/// Buffer for one unpacked token.
pub struct TokenBuffer([u8; TOKEN_BYTES_MAX]);

impl std::fmt::Debug for TokenBuffer {
    // The last token in the buffer is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenBuffer").finish_non_exhaustive()
    }
}

impl Default for TokenBuffer {
    fn default() -> Self {
        Self([0; TOKEN_BYTES_MAX])
    }
}

impl<'a> StoredToken<'a> {
    /// Returns the token: in place, or unpacked into the buffer.
    #[must_use]
    pub fn read<'b>(&self, buffer: &'b mut TokenBuffer) -> &'b [u8]
    where
        'a: 'b,
    {
        let stored = &self.content[..self.shape.stored_bytes()];
        match self.shape.colon {
            None => stored,
            Some(colon) => {
                let token = &mut buffer.0[..self.shape.token_bytes()];
                pack::unpack(stored, colon.into(), token);
                token
            }
        }
    }

    pub(super) fn hash(&self) -> u64 {
        token_hash(self.read(&mut TokenBuffer::default()))
    }

    /// Returns the person after the token; empty without one.
    pub(super) fn person(&self) -> &'a [u8] {
        &self.content[self.shape.stored_bytes()..]
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// Returns the stored bytes: token, then person.
    pub(super) fn content(&self) -> &'a [u8] {
        self.content
    }
}

/// The tokens of a partition.
#[derive(Default)]
pub(super) struct Tokens {
    chunks: Vec<Chunk>,
    shapes: Vec<Slots>,
    shape_of: BTreeMap<Shape, u32>,
    /// Number of the shape that was used last.
    last: u32,
}

struct Chunk {
    shape: u32,
    bytes: Slab,
}

/// Slots of a chunk: as many as fit into a block, or fewer for a rare shape.
enum Slab {
    Few(Box<[u8]>),
    Block(Block<Bytes>),
}

impl Slab {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Few(bytes) => bytes,
            Self::Block(block) => &block.all,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Few(bytes) => bytes,
            Self::Block(block) => &mut block.all,
        }
    }
}

struct Slots {
    shape: Shape,
    /// First of the freed slots.
    free: u32,
    /// The chunk whose last slots were never used.
    chunk: u32,
    unused: u32,
    slots: usize,
}

impl Tokens {
    /// Stores a token and, unless it is empty, a person.
    ///
    /// # Panics
    /// If there are 2^23 chunks already: with the smallest chunks, 67 million tokens of different
    /// lengths in one partition.
    pub(super) fn insert(&mut self, token: &[u8], person: &str) -> TokenRef {
        let shape = Shape::of(token, person);
        let (at, to) = self.take(shape);
        write(shape, to, token, person);
        at
    }

    /// Stores the bytes that [`StoredToken::content`] returned.
    pub(super) fn restore(&mut self, shape: Shape, content: &[u8]) -> TokenRef {
        let (at, to) = self.take(shape);
        to[..content.len()].copy_from_slice(content);
        at
    }

    /// Returns the token at this place.
    pub(super) fn get(&self, at: TokenRef) -> StoredToken<'_> {
        let chunk = &self.chunks[(at.0 >> SLOT_BITS) as usize];
        let shape = self.shapes[chunk.shape as usize].shape;
        let from = (at.0 & ((1 << SLOT_BITS) - 1)) as usize * shape.slot_bytes();
        StoredToken { shape, content: &chunk.bytes.bytes()[from..from + shape.content_bytes()] }
    }

    /// Reads a byte of the token, for [`super::Partition::warm`].
    pub(super) fn touch(&self, at: TokenRef) -> u8 {
        let content = self.get(at).content;
        content[0] ^ content[content.len() - 1]
    }

    /// Prefetches the entry that locates a token's bytes.
    pub(super) fn prefetch_chunk(&self, at: TokenRef) {
        if let Some(chunk) = self.chunks.get((at.0 >> SLOT_BITS) as usize) {
            prefetch::one(chunk);
        }
    }

    /// Prefetches the bytes of a token.
    pub(super) fn prefetch(&self, at: TokenRef) {
        prefetch::lines(self.get(at).content);
    }

    /// Stores a token in place of another one.
    pub(super) fn replace(&mut self, old: TokenRef, token: &[u8], person: &str) -> TokenRef {
        let shape = Shape::of(token, person);
        let chunk = &mut self.chunks[(old.0 >> SLOT_BITS) as usize];
        if self.shapes[chunk.shape as usize].shape != shape {
            self.remove(old);
            return self.insert(token, person);
        }
        write(shape, slot_of(chunk, shape, old), token, person);
        old
    }

    /// Frees a slot and clears its bytes at once, because they are personal data.
    pub(super) fn remove(&mut self, at: TokenRef) {
        let chunk = &mut self.chunks[(at.0 >> SLOT_BITS) as usize];
        let slots = &mut self.shapes[chunk.shape as usize];
        let to = slot_of(chunk, slots.shape, at);
        to.fill(0);
        to[..SLOT_BYTES_MIN].copy_from_slice(&slots.free.to_le_bytes());
        slots.free = at.0;
    }

    /// Returns the number of a shape, which is mostly that of the last one: all tokens of APNs have
    /// the same shape.
    fn number_of(&mut self, shape: Shape) -> u32 {
        if self.shapes.get(self.last as usize).is_none_or(|slots| slots.shape != shape) {
            self.last = *self.shape_of.entry(shape).or_insert_with(|| {
                self.shapes.push(Slots { shape, free: NONE, chunk: 0, unused: 0, slots: 0 });
                u32::try_from(self.shapes.len() - 1)
                    .expect("lengths of tokens and persons, and places of colons: fewer than 2^25")
            });
        }
        self.last
    }

    /// Takes a slot of this shape, all zeros.
    fn take(&mut self, shape: Shape) -> (TokenRef, &mut [u8]) {
        let number = self.number_of(shape);
        let slots = &mut self.shapes[number as usize];
        if slots.free != NONE {
            let at = TokenRef(slots.free);
            let to = slot_of(&mut self.chunks[(at.0 >> SLOT_BITS) as usize], shape, at);
            slots.free = u32::from_le_bytes([to[0], to[1], to[2], to[3]]);
            to[..SLOT_BYTES_MIN].fill(0);
            return (at, to);
        }
        if slots.unused == 0 {
            let most = (BLOCK_BYTES / shape.slot_bytes()).clamp(CHUNK_SLOTS_MIN, CHUNK_SLOTS_MAX);
            let count = (slots.slots / GROWTH_SHARE).clamp(CHUNK_SLOTS_MIN, most);
            let chunk =
                u32::try_from(self.chunks.len()).ok().filter(|n| *n < 1 << (u32::BITS - SLOT_BITS));
            slots.chunk = chunk.expect("see the panics of `insert`");
            slots.unused = u32::try_from(count).expect("at most CHUNK_SLOTS_MAX");
            slots.slots += count;
            if self.chunks.len() == self.chunks.capacity() {
                self.chunks.reserve_exact(self.chunks.len() / 16 + 4);
            }
            let bytes = if count == most && count * shape.slot_bytes() <= BLOCK_BYTES {
                Slab::Block(Block::new())
            } else {
                Slab::Few(vec![0; count * shape.slot_bytes()].into_boxed_slice())
            };
            self.chunks.push(Chunk { shape: number, bytes });
        }
        slots.unused -= 1;
        let at = TokenRef(slots.chunk << SLOT_BITS | slots.unused);
        (at, slot_of(&mut self.chunks[slots.chunk as usize], shape, at))
    }
}

fn write(shape: Shape, slot: &mut [u8], token: &[u8], person: &str) {
    let (stored, behind) = slot.split_at_mut(shape.stored_bytes());
    match shape.colon {
        None => stored.copy_from_slice(token),
        Some(colon) => pack::pack(token, colon.into(), stored),
    }
    behind[..shape.person_bytes()].copy_from_slice(&person.as_bytes()[..shape.person_bytes()]);
}

fn slot_of(chunk: &mut Chunk, shape: Shape, at: TokenRef) -> &mut [u8] {
    let bytes = shape.slot_bytes();
    &mut chunk.bytes.bytes_mut()[(at.0 & ((1 << SLOT_BITS) - 1)) as usize * bytes..][..bytes]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 1..40),
            "[A-Za-z0-9_-]{0,30}:[A-Za-z0-9_-]{0,30}".prop_map(String::into_bytes),
            "[A-Za-z0-9_:-]{1,12}".prop_map(String::into_bytes),
        ]
    }

    proptest! {
        /// Checks under random changes that every token is found as it was stored, and that freed
        /// slots are used again.
        #[test]
        fn tokens_stay_as_stored(changes in prop::collection::vec(
            (0u8..40, prop::option::of((token(), "[a-z]{0,3}"))), 1..400,
        )) {
            let mut tokens = Tokens::default();
            let mut model: BTreeMap<u8, (TokenRef, Vec<u8>, String)> = BTreeMap::new();
            for (holder, new) in changes {
                if let Some((at, ..)) = model.remove(&holder) {
                    tokens.remove(at);
                }
                if let Some((token, person)) = new {
                    model.insert(holder, (tokens.insert(&token, &person), token, person));
                }
                let mut buffer = TokenBuffer::default();
                for (at, token, person) in model.values() {
                    let stored = tokens.get(*at);
                    prop_assert_eq!(stored.person(), person.as_bytes());
                    prop_assert_eq!(stored.read(&mut buffer), token.as_slice());
                }
            }
        }
    }

    #[test]
    fn a_slot_is_wiped_and_used_again() {
        let mut tokens = Tokens::default();
        let first = tokens.insert(b"secret", "");
        tokens.remove(first);
        assert!(tokens.chunks[0].bytes.bytes().iter().all(|b| [0, u8::MAX].contains(b)));
        assert!(tokens.insert(b"public", "") == first);
    }

    #[test]
    fn an_overlong_person_is_not_kept() {
        let mut tokens = Tokens::default();
        let at = tokens.insert(b"token", &"p".repeat(PERSON_BYTES_MAX + 1));
        let stored = tokens.get(at);
        assert_eq!(
            (stored.read(&mut TokenBuffer::default()), stored.person()),
            (&b"token"[..], &b""[..])
        );
    }

    #[test]
    fn an_fcm_token_takes_six_bits_a_character() {
        let token =
            [b"a".repeat(22), b":APA91b".to_vec(), b"-_Z9".repeat(33), b"xy".to_vec()].concat();
        let mut tokens = Tokens::default();
        let at = tokens.insert(&token, "");
        assert_eq!((token.len(), tokens.get(at).content().len()), (163, 122));
    }
}
