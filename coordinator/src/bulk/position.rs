//! How far a file of devices is read.

use serde::{Deserialize, Serialize};

/// Position in a file: between two rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Position {
    /// Number of rows before the position.
    pub(super) rows: u64,
    /// Number of bytes before the position: exact for CSV, in proportion to the rows for Parquet.
    pub(super) byte: u64,
    /// Line of a CSV file, from 1; 0 for Parquet.
    pub(super) line: u64,
}
