//! Sections of a snapshot: framing, compression and checksums.

use super::{Problem, SECTION_BYTES_MAX, VERSION};
use clarion_proto::ids::PartitionId;

pub(super) const MAGIC: &[u8; 8] = b"CLARPART";
pub(super) const FILE_HEAD_BYTES: usize = 16;
pub(super) const SECTION_HEAD_BYTES: usize = 16;
pub(super) const CHECKSUM_BYTES: usize = 4;
/// Ids and tokens do not compress; the rest does at the lowest level.
const ZSTD_LEVEL: i32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Kind {
    State = 1,
    Resting = 2,
    Expiry = 3,
    Rows = 4,
    End = 5,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::State, Self::Resting, Self::Expiry, Self::Rows, Self::End]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

pub(super) fn file_head(partition: PartitionId) -> [u8; FILE_HEAD_BYTES] {
    let mut head = [0; FILE_HEAD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..10].copy_from_slice(&VERSION.to_le_bytes());
    head[10..12].copy_from_slice(&partition.0.to_le_bytes());
    let checksum = crc32c::crc32c(&head[..12]);
    head[12..].copy_from_slice(&checksum.to_le_bytes());
    head
}

/// Returns the partition of the snapshot, and the version of its format.
pub(super) fn read_file_head(head: &[u8; FILE_HEAD_BYTES]) -> Result<(PartitionId, u16), Problem> {
    if head[..8] != *MAGIC {
        return Err(Problem::Magic);
    }
    let version = u16::from_le_bytes([head[8], head[9]]);
    if crc32c::crc32c(&head[..12]).to_le_bytes() != head[12..] {
        return Err(Problem::Checksum);
    }
    if !(1..=VERSION).contains(&version) {
        return Err(Problem::Version(version));
    }
    Ok((PartitionId(u16::from_le_bytes([head[10], head[11]])), version))
}

/// Creates a compressor for sections, which keeps its tables between them.
pub(super) fn compressor() -> zstd::bulk::Compressor<'static> {
    zstd::bulk::Compressor::new(ZSTD_LEVEL).expect("a level that exists, and memory")
}

/// Appends a section with head and checksum.
pub(super) fn write_section(
    kind: Kind,
    number: u32,
    content: &[u8],
    compressor: &mut zstd::bulk::Compressor<'_>,
    out: &mut Vec<u8>,
) {
    let begin = out.len();
    let bytes = |n: usize| u32::try_from(n).expect("at most SECTION_BYTES_MAX").to_le_bytes();
    let stored = compressor.compress(content).expect("memory");
    out.reserve(SECTION_HEAD_BYTES + stored.len() + CHECKSUM_BYTES);
    out.extend_from_slice(&[kind as u8, 0, 0, 0]);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&bytes(content.len()));
    out.extend_from_slice(&bytes(stored.len()));
    out.extend_from_slice(&stored);
    let checksum = crc32c::crc32c(&out[begin..]);
    out.extend_from_slice(&checksum.to_le_bytes());
}

/// Head of a section. Its checksum is not verified yet, so only sizes within the limits are
/// accepted.
pub(super) struct Head {
    kind: u8,
    number: u32,
    content_bytes: usize,
    stored_bytes: usize,
}

impl Head {
    pub(super) fn read(head: &[u8; SECTION_HEAD_BYTES]) -> Result<Self, Problem> {
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (content_bytes, stored_bytes) = (word(8) as usize, word(12) as usize);
        // Content that cannot be compressed grows by less than this.
        if content_bytes > SECTION_BYTES_MAX
            || stored_bytes > SECTION_BYTES_MAX + (SECTION_BYTES_MAX >> 8) + 64
        {
            return Err(Problem::Content("a section exceeds the largest possible size"));
        }
        if head[1..4] != [0; 3] {
            return Err(Problem::Content("reserved bytes are not zero"));
        }
        Ok(Self { kind: head[0], number: word(4), content_bytes, stored_bytes })
    }

    /// Returns the size of the section, bytes: head, content and checksum.
    pub(super) fn section_bytes(&self) -> usize {
        SECTION_HEAD_BYTES + self.stored_bytes + CHECKSUM_BYTES
    }

    /// Checks the whole section, and returns its content.
    pub(super) fn open(
        &self,
        section: &[u8],
        number: u32,
        decompressor: &mut zstd::bulk::Decompressor<'_>,
        content: &mut Vec<u8>,
    ) -> Result<Kind, Problem> {
        let (checked, checksum) = section.split_at(section.len() - CHECKSUM_BYTES);
        if crc32c::crc32c(checked).to_le_bytes() != *checksum {
            return Err(Problem::Checksum);
        }
        if self.number != number {
            return Err(Problem::Content("a section is missing or repeated"));
        }
        // The old content is overwritten, or the section is refused.
        content.resize(self.content_bytes, 0);
        match decompressor
            .decompress_to_buffer(&checked[SECTION_HEAD_BYTES..], content.as_mut_slice())
        {
            Ok(bytes) if bytes == self.content_bytes => {}
            _ => return Err(Problem::Content("the content cannot be decompressed")),
        }
        Kind::of(self.kind).ok_or(Problem::Content("a section has an unknown kind"))
    }
}

/// Unread part of a section's content.
pub(super) struct Content<'a>(pub(super) &'a [u8]);

impl<'a> Content<'a> {
    pub(super) fn take(&mut self, bytes: usize) -> Result<&'a [u8], Problem> {
        let (taken, rest) =
            self.0.split_at_checked(bytes).ok_or(Problem::Content("a section is too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// Reads a column of items of `N` bytes.
    pub(super) fn column<const N: usize>(
        &mut self,
        items: usize,
    ) -> Result<&'a [[u8; N]], Problem> {
        Ok(self.take(items * N)?.as_chunks().0)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        Ok(self.column::<N>(1)?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Problem> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Problem> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Problem> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn end(&self) -> Result<(), Problem> {
        if self.0.is_empty() { Ok(()) } else { Err(Problem::Content("a section is too long")) }
    }
}
