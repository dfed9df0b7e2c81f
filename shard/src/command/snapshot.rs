//! Parts of a snapshot that a core writes.

use bytes::Bytes;
use clarion_proto::ids::Position;

/// One part of a snapshot on its way out of a core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotPart {
    /// A snapshot begins, of this position. What came of an earlier one is void: too many rows
    /// changed before they were written.
    Begin(Position),
    /// Bytes in order, a section or a few.
    Data(Bytes),
    /// All bytes were written.
    End,
}
