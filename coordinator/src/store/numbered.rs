//! Numbered records: small records of the cluster, each replaced as a whole by the next number.
//!
//! A writer names the number that it makes, so that of two writers that read the same record only
//! one succeeds.

use bytes::Bytes;

use super::StoreError;

/// Key of the ownership.
pub(super) const OWNERSHIP: &str = "ownership";
/// Key of the lane director.
pub(super) const LANE_DIRECTOR: &str = "lane_director";

/// Record of the cluster, with the number of its revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbered {
    /// Key: ASCII; records of one kind share the part up to a slash.
    pub key: String,
    /// Number of the revision, from 1.
    pub number: u64,
    /// The owner's data; engines do not read it.
    pub bytes: Bytes,
}

impl Numbered {
    /// The record of a key.
    #[must_use]
    pub fn new(key: impl Into<String>, number: u64, bytes: impl Into<Bytes>) -> Self {
        Self { key: key.into(), number, bytes: bytes.into() }
    }

    /// Reads the record's data.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`], with the record's key.
    pub fn read<T, E: ToString>(
        &self,
        read: impl FnOnce(&[u8]) -> Result<T, E>,
    ) -> Result<T, StoreError> {
        read(&self.bytes).map_err(|problem| StoreError::Unreadable {
            record: self.key.clone(),
            problem: problem.to_string(),
        })
    }
}
