//! Snapshots and batches for tests.

use clarion_proto::{
    device::{Change, Record},
    ids::{DeviceId, PartitionId, UnixMillis},
};

use crate::store::RecordBatch;

/// A batch of one record.
pub(crate) fn batch() -> RecordBatch {
    let (device, observed) = (DeviceId([7; 16]), UnixMillis(1));
    RecordBatch::from_records(&[Record { device, observed, change: Change::Removal }])
}

/// Bytes that begin as a snapshot of a partition does.
pub(crate) fn content(partition: PartitionId, length: usize) -> Vec<u8> {
    let mut content = b"CLARPART\x02\0".to_vec();
    content.extend_from_slice(&partition.0.to_le_bytes());
    let mut state = 0x9E37_79B9_u32;
    content.extend(
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_le_bytes()[3]
        })
        .take(length.saturating_sub(12)),
    );
    content.truncate(length);
    content
}
