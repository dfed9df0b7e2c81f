//! Snapshots: a partition as bytes, immutable, checked, and readable for years.
//!
//! A node that takes over a partition loads a snapshot and follows the log from there. Equal
//! ordinals on both nodes decide whether a device is alerted twice. So a snapshot is the state
//! *exactly* at one position of the log, with all that later records depend on: tombstones, resting
//! ordinals, the queue of rows to be dropped, and the limits of expiry with the state of the sweep.
//!
//! **Written while records arrive.** [`super::Partition::begin_snapshot`] records the position of
//! the log. From then on, a record that is about to change an unwritten row first keeps a copy of
//! the row, and [`SnapshotWriter::next`] writes [`ROWS_PER_SECTION`] rows at a time, and the copy
//! where there is one. So no record waits. The memory is one section (some 160 KiB for APNs, 340
//! KiB for FCM, at most [`SECTION_BYTES_MAX`]) and the copies. These are bounded by [`COPIES_MAX`]:
//! 20,000 changes a second over 64 partitions are 312 a second in each, so a snapshot may take most
//! of a minute. A writer that is so slow that it meets the bound must begin again.
//!
//! # The format, version 2
//!
//! All numbers are little-endian. A file is a head of 16 bytes and sections.
//!
//! | head | |
//! |---|---|
//! | 8 bytes | `CLARPART` |
//! | u16 | version, 2 |
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
//! Kinds come in the order of their numbers; *state* and *end* once, the others as often as needed.
//!
//! - *state*: position in the log u64, append time u64 (ms since 1970), number of ordinals assigned
//!   so far u32, resting ordinals u32, entries of the expiry queue u32, rows u32. From version 2
//!   on, also the sweep for expired registrations: ordinal at which it continues u32, ordinals left
//!   u32, limits u16; then for each limit, in the order of the apps, the app (its bytes behind a u16
//!   of their number) and the limit in 5 bytes, ms since 2020-01-01 UTC.
//! - *resting*: u64 each, longest first: start of the rest (units of 1,024 ms since 1970) in the
//!   upper 34 bits, ordinal in the lower 30.
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
//! A reader reads every earlier version, and refuses a version that it does not know. A change of
//! the meaning of a byte needs a new version. Version 1 had no sweep. Each version that was ever
//! written has a file in `shard/tests/snapshots`, which every later reader must read.

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

/// Version of the format that is written.
pub const VERSION: u16 = 2;
/// First version whose state has the sweep for expired registrations.
const SWEEP_VERSION: u16 = 2;
/// Number of ordinals of a section of rows.
const ROWS_PER_SECTION: u32 = 2_048;
/// Longest content of a section, bytes: 2,048 rows with the longest tokens, persons and words.
const SECTION_BYTES_MAX: usize = 8 << 20;
/// Most copies of changed rows that are kept for a snapshot: some 200 bytes each, 3 MiB.
const COPIES_MAX: usize = 16_384;

/// Error for a snapshot that cannot be read. Another attempt with the same bytes does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("snapshot of {}: section {section} at byte {offset}: {problem}", Named(*.partition))]
pub struct SnapshotError {
    /// Partition of the snapshot; `None` if it cannot be read.
    pub partition: Option<PartitionId>,
    /// Number of the section, from 0; the head of the file comes before section 0.
    pub section: u32,
    /// Offset of the section, bytes.
    pub offset: u64,
    /// Defect of the section.
    pub problem: Problem,
}

/// Defect of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The bytes do not start with the mark of a snapshot.
    #[error("not a snapshot of a partition")]
    Magic,
    /// A later release wrote the snapshot.
    #[error("version: must be 1 to {VERSION}; got {0}")]
    Version(u16),
    /// The checksum does not match the bytes.
    #[error("checksum mismatch; the file is damaged")]
    Checksum,
    /// Bytes are missing.
    #[error("the file is truncated")]
    Truncated,
    /// Bytes follow the end of the snapshot or of a section.
    #[error("data follows the end of the snapshot")]
    Surplus,
    /// The section has a valid checksum but impossible content.
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
