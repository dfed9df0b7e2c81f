//! Pieces of a snapshot on its way into a partition.

use bytes::Bytes;

/// One piece of a snapshot that is loaded.
#[derive(Debug)]
pub enum RestorePiece {
    /// The snapshot begins, or begins again: what came of it before is dropped.
    Begin,
    /// Bytes in order: at most 1 MiB, so that four queued pieces stay below 5 MiB.
    Data(Bytes),
    /// All bytes were sent. The core answers with [`super::Event::Restored`].
    End,
    /// The rest does not come: drop what came before.
    Abandon,
}
