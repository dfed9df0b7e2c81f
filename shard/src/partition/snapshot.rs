//! Snapshots: a partition as bytes, immutable, checked, and readable for years.
//!
//! A node that takes over a partition loads a snapshot and follows the log from there. Whether two
//! nodes then have the same ordinals decides who is alerted twice, so a snapshot is the state
//! *exactly* at one position of the log, with all that later records depend on: tombstones,
//! ordinals that rest, and the queue of rows to be dropped.
//!
//! **Written while changes flow.** [`super::Partition::begin_snapshot`] remembers where the log is.
//! From then on a record that is about to change a row that was not written yet keeps a copy of the
//! row first, and [`SnapshotWriter::next`] writes [`ROWS_PER_SECTION`] rows at a time, the copy
//! where there is one. So no record waits, and memory is one section (some 160 KiB for APNs, 340
//! KiB for FCM, at most [`SECTION_BYTES_MAX`]) and the copies. These are bounded by [`COPIES_MAX`]:
//! 20,000 changes a second over 64 partitions are 312 a second in each, so a partition has most of
//! a minute to be written in. Whoever writes so slowly that the bound is met has to begin again.
//!
//! # The format, version 1
//!
//! All numbers are little-endian. A file is a head of 16 bytes and sections.
//!
//! | head | |
//! |---|---|
//! | 8 bytes | `CLARPART` |
//! | u16 | version, 1 |
//! | u16 | partition |
//! | u32 | CRC-32C of the 12 bytes before |
//!
//! | section | |
//! |---|---|
//! | u8 | kind: 1 state, 2 resting, 3 expiry, 4 rows, 5 end |
//! | 3 bytes | 0 |
//! | u32 | number, from 0 |
//! | u32 | bytes of the content |
//! | u32 | bytes of the content as stored |
//! | | the content, as one frame of zstd |
//! | u32 | CRC-32C of all of the section before |
//!
//! Kinds come in the order of their numbers; state and end once, the others as often as needed.
//!
//! - *state*: position in the log u64, append time u64 (ms since 1970), ordinals given so far u32,
//!   resting ordinals u32, entries of the expiry queue u32, rows u32.
//! - *resting*: u64 each, longest first: since when (units of 1,024 ms since 1970) in the upper 34
//!   bits, ordinal in the lower 30.
//! - *expiry*: 10 bytes each, ascending: due time (ms since 1970) in 6 bytes, ordinal in 4, both
//!   with the highest byte first.
//! - *rows*: first ordinal u32, rows u16, of which registered u16, profiles u16; then one column
//!   after the other:
//!   1. ordinal less the first, u16 each, ascending;
//!   2. flags, u8 each: 1 placed, 2 registered, 4 muted, 8 in the expiry queue, 16 has a version of
//!      its mute;
//!   3. device id, 16 bytes each;
//!   4. H3 index of resolution 9, u64 for each that is placed;
//!   5. version of the place, 5 bytes each: ms since 2020-01-01 UTC, 0 for none;
//!   6. version of the registration, the same;
//!   7. version of the mute, the same for each that has one;
//!   8. due time, 6 bytes for each that is not registered: ms since 1970;
//!   9. profiles: app, locale, number of segments u16, segments. A word is its bytes behind a u16
//!      of their number; the number 65,535 instead is a word that was refused for want of room, for
//!      an app, a locale, or the count of segments;
//!   10. number of the profile, u16 for each that is registered;
//!   11. bytes of the token u16, colon u16, bytes of the person u8, for each that is registered.
//!       Colon 65,535: the token is stored as it is. Else its character of that number is a colon,
//!       and the others are packed: base64url, six bits each, the first in the highest bits of the
//!       first byte, the last byte filled with zeros;
//!   12. token and person, one behind the other.
//! - *end*: rows u64, xxh3-64 of all bytes before this section u64.
//!
//! A reader refuses a version that it does not know. What changes the meaning of a byte makes a new
//! version; each version that was ever written has a file in `shard/tests/snapshots`, which every
//! later reader must read.

mod columns;
mod entry;
mod frame;
mod read;
mod write;

#[cfg(test)]
mod tests;

pub(super) use write::Saving;
pub use {
    read::{Restored, SnapshotReader},
    write::{SnapshotWriter, WriteError},
};

use clarion_proto::ids::PartitionId;

/// The version that is written.
pub const VERSION: u16 = 1;
/// Ordinals of a section of rows.
const ROWS_PER_SECTION: u32 = 2_048;
/// Content of a section at most: 2,048 rows with the longest tokens, persons and words.
const SECTION_BYTES_MAX: usize = 8 << 20;
/// Rows that are kept for a snapshot because they changed: some 200 bytes each, 3 MiB.
const COPIES_MAX: usize = 16_384;

/// A snapshot that cannot be read. Trying again with the same bytes does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("snapshot of {}: section {section} at byte {offset}: {problem}", Named(*.partition))]
pub struct SnapshotError {
    /// Partition of the snapshot; `None`: it cannot be read.
    pub partition: Option<PartitionId>,
    /// Counted from 0; the head of the file comes before section 0.
    pub section: u32,
    /// Offset of the section, bytes.
    pub offset: u64,
    /// What is wrong with the section.
    pub problem: Problem,
}

/// Defect of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The bytes do not start with the mark of a snapshot.
    #[error("not a snapshot of a partition")]
    Magic,
    /// Written by a later release.
    #[error("version: must be {VERSION}; got {0}")]
    Version(u16),
    /// The bytes were changed.
    #[error("checksum mismatch; the file is damaged")]
    Checksum,
    /// Bytes are missing.
    #[error("the file is truncated")]
    Truncated,
    /// Bytes are left over.
    #[error("data follows the end of the snapshot")]
    Surplus,
    /// The section is whole and makes no sense.
    #[error("{0}")]
    Content(&'static str),
}

struct Named(Option<PartitionId>);

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(partition) => write!(f, "partition {partition}"),
            None => f.write_str("an unknown partition"),
        }
    }
}
