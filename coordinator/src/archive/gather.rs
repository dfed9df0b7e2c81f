//! The machine of one save: gathers pieces to chunks, and checks what the node says of them.
//!
//! ```text
//! pieces of 1 byte to 1 MiB ──▶ chunk of 4 MiB ──▶ an object
//!                               the last chunk is shorter; the first has the head at least
//! ```

use bytes::{Bytes, BytesMut};
use clarion_proto::{error::InvalidField, ids::PartitionId};
use xxhash_rust::xxh3::Xxh3;

/// Longest piece of a stream, bytes.
pub const PIECE_BYTES_MAX: usize = 1 << 20;
/// Bytes of a chunk but the last, which is one object when it is sealed.
pub const CHUNK_BYTES: usize = 4 << 20;
/// Largest snapshot, bytes: 40 million devices of 100 bytes, in one partition.
pub const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;
/// Bytes of the head of a snapshot (`shard/src/partition/snapshot.rs`).
const HEAD_BYTES: usize = 16;
const MAGIC: &[u8; 8] = b"CLARPART";

/// Chunk that is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Number of the chunk in its snapshot, from 0.
    pub number: u32,
    /// Content of the chunk.
    pub bytes: Bytes,
}

/// What a snapshot has turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gathered {
    /// Size of the snapshot, bytes.
    pub bytes: u64,
    /// Number of chunks.
    pub chunks: u32,
    /// xxh3-64 of all bytes.
    pub hash: u64,
}

/// A snapshot of which some pieces have arrived.
pub struct Gathering {
    partition: PartitionId,
    chunk: BytesMut,
    chunks: u32,
    bytes: u64,
    hash: Xxh3,
}

impl Gathering {
    /// Begins with the first piece of a snapshot of this partition.
    #[must_use]
    pub fn new(partition: PartitionId) -> Self {
        let (chunk, hash) = (BytesMut::new(), Xxh3::new());
        Self { partition, chunk, chunks: 0, bytes: 0, hash }
    }

    /// Takes a piece. Returns the chunk that it has completed.
    ///
    /// # Errors
    /// The piece is empty or too long, the snapshot is too long, or it is none of the partition.
    pub fn push(&mut self, piece: &[u8]) -> Result<Option<Chunk>, InvalidField> {
        if piece.is_empty() || piece.len() > PIECE_BYTES_MAX {
            let problem = format!("must have 1 to {PIECE_BYTES_MAX} bytes; got {}", piece.len());
            return Err(InvalidField::new("data", problem));
        }
        let bytes = self.bytes + piece.len() as u64;
        if bytes > SNAPSHOT_BYTES_MAX {
            let problem = format!("a snapshot must have at most {SNAPSHOT_BYTES_MAX} bytes");
            return Err(InvalidField::new("data", problem));
        }
        let had_head = self.bytes >= HEAD_BYTES as u64;
        self.bytes = bytes;
        self.hash.update(piece);
        // A piece is shorter than a chunk: it completes one chunk at most.
        let (now, later) = piece.split_at(piece.len().min(CHUNK_BYTES - self.chunk.len()));
        self.chunk.extend_from_slice(now);
        if !had_head && let Some(head) = self.chunk.first_chunk() {
            check_head(head, self.partition)?;
        }
        let complete = (self.chunk.len() == CHUNK_BYTES).then(|| self.take());
        self.chunk.extend_from_slice(later);
        Ok(complete)
    }

    /// Ends the snapshot, which has this size and this xxh3-64 by the node's words. Returns the
    /// last chunk.
    ///
    /// # Errors
    /// The size or the hash is another, or the snapshot has no head.
    pub fn finish(
        mut self,
        bytes: u64,
        hash: u64,
    ) -> Result<(Option<Chunk>, Gathered), InvalidField> {
        if self.bytes < HEAD_BYTES as u64 {
            let problem = format!("must have at least {HEAD_BYTES} bytes; got {}", self.bytes);
            return Err(InvalidField::new("data", problem));
        }
        if bytes != self.bytes {
            let problem = format!("must be the {} bytes that arrived; got {bytes}", self.bytes);
            return Err(InvalidField::new("end.bytes", problem));
        }
        let is = self.hash.digest();
        if hash != is {
            let problem = "differs from the hash of the bytes that arrived; send them again";
            return Err(InvalidField::new("end.hash", problem));
        }
        let last = (!self.chunk.is_empty()).then(|| self.take());
        Ok((last, Gathered { bytes, chunks: self.chunks, hash }))
    }

    /// Number of bytes that have arrived.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn take(&mut self) -> Chunk {
        let number = self.chunks;
        self.chunks += 1;
        // Without the room of the whole: what follows may be short.
        let bytes = std::mem::take(&mut self.chunk).freeze();
        Chunk { number, bytes }
    }
}

/// Checks the head of a snapshot, which is all that a coordinator reads of it.
fn check_head(head: &[u8; HEAD_BYTES], partition: PartitionId) -> Result<(), InvalidField> {
    let number = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    if !head.starts_with(MAGIC) {
        return Err(InvalidField::new("data", "is not a snapshot of a partition"));
    }
    if number(8) == 0 {
        return Err(InvalidField::new("data", "has the version 0; must be at least 1"));
    }
    if number(10) != partition.0 {
        let problem = format!("must be of partition {partition}; got partition {}", number(10));
        return Err(InvalidField::new("data", problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;
    use crate::archive::fixtures::content;

    const OF: PartitionId = PartitionId(7);

    fn gather(
        pieces: &[&[u8]],
        bytes: u64,
        hash: u64,
    ) -> Result<(Vec<u8>, Gathered), InvalidField> {
        let (mut gathering, mut whole) = (Gathering::new(OF), Vec::new());
        let mut take = |chunk: Option<Chunk>, next: &mut u32| {
            let Some(chunk) = chunk else { return };
            assert_eq!(chunk.number, *next);
            (*next, _) = (*next + 1, whole.extend_from_slice(&chunk.bytes));
        };
        let mut next = 0;
        for piece in pieces {
            let chunk = gathering.push(piece)?;
            assert!(chunk.as_ref().is_none_or(|chunk| chunk.bytes.len() == CHUNK_BYTES));
            take(chunk, &mut next);
        }
        let (last, gathered) = gathering.finish(bytes, hash)?;
        take(last, &mut next);
        assert_eq!(next, gathered.chunks);
        Ok((whole, gathered))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
        #[test]
        fn whatever_the_pieces_the_chunks_are_the_snapshot(
            length in 16..3 * CHUNK_BYTES,
            lengths in prop::collection::vec(1..=PIECE_BYTES_MAX, 1..8),
        ) {
            let snapshot = content(OF, length);
            let (mut rest, mut pieces) = (&snapshot[..], Vec::new());
            for length in lengths.iter().cycle() {
                let (piece, after) = rest.split_at(rest.len().min(*length));
                pieces.push(piece);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            let gathered = gather(&pieces, length as u64, xxh3_64(&snapshot));
            let (whole, gathered) = gathered.expect("valid");
            prop_assert!(whole == snapshot);
            prop_assert_eq!(gathered.chunks as usize, length.div_ceil(CHUNK_BYTES));
        }
    }

    #[test]
    fn what_is_not_the_snapshot_that_was_announced_is_refused_by_its_field() {
        let snapshot = content(OF, 100);
        let hash = xxh3_64(&snapshot);
        let refused = |pieces: &[&[u8]], bytes: u64, hash: u64| {
            gather(pieces, bytes, hash).expect_err("must be refused").to_string()
        };
        let whole: &[&[u8]] = &[&snapshot];
        assert!(gather(whole, 100, hash).is_ok());
        assert!(refused(whole, 99, hash).starts_with("end.bytes: must be the 100 bytes"));
        assert!(refused(whole, 100, hash + 1).starts_with("end.hash: differs"));
        assert_eq!(refused(&[], 0, 0), "data: must have at least 16 bytes; got 0");
        assert!(refused(&[b"", &snapshot], 100, hash).starts_with("data: must have 1 to 1048576"));
        let long = vec![0; PIECE_BYTES_MAX + 1];
        assert!(refused(&[&long], 1, 1).ends_with("got 1048577"));
        let mut endless = Gathering::new(OF);
        endless.bytes = SNAPSHOT_BYTES_MAX - 1;
        assert_eq!(endless.push(b"1"), Ok(None));
        let words = "data: a snapshot must have at most 4294967296 bytes";
        assert_eq!(endless.push(b"1").expect_err("too long").to_string(), words);
        let other = content(PartitionId(8), 100);
        let words = "data: must be of partition 7; got partition 8";
        assert_eq!(refused(&[&other], 100, xxh3_64(&other)), words);
        assert_eq!(refused(&[&other[..9], &other[9..]], 100, hash), words, "in two pieces");
        assert!(refused(&[&[1; 100]], 100, 0).ends_with("is not a snapshot of a partition"));
    }
}
