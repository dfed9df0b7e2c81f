//! Batches of records, which are encoded only once, when they are accepted.
//!
//! The records of a batch are kept as the bytes of `FeedResponse.records` (field 4, repeated). The
//! rest of that message (log, position, append time) is known only when the batch is appended; in
//! protobuf the order of fields is free, so the feed writes those three in front and copies the
//! rest. Feeding ten nodes costs ten copies, not ten encodings, and a device costs the coordinator
//! some 100 bytes instead of the 600 that decoded records with their strings would take.
//!
//! Each record starts with its device (field 1, 16 bytes); a reader that filters by partition
//! decodes nothing else.

use bytes::{Buf, Bytes, BytesMut};
use clarion_proto::{
    device::Record,
    ids::{DeviceId, PartitionId, Position, UnixMillis, partition_of},
    wire::shard_v1 as wire,
};
use prost::{
    Message,
    encoding::{
        WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint,
    },
};

/// Field number of `FeedResponse.records`.
const RECORDS_FIELD: u32 = 4;
/// First bytes of a record: field 1, length-delimited, 16 bytes.
const DEVICE_PREFIX: [u8; 2] = [0x0a, 16];

/// Encoded records of one log, not yet appended.
#[derive(Debug, Clone, Default)]
pub struct RecordBatch {
    records: Bytes,
    count: u32,
    growing: u32,
}

impl RecordBatch {
    /// Encodes records into a batch.
    pub fn from_records<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut builder = RecordBatchBuilder::default();
        records.into_iter().for_each(|record| builder.push(&record.to_wire()));
        builder.finish()
    }

    /// A batch of records that were encoded before, as [`Batch::records`] has them; `None`: the
    /// bytes are not such records.
    #[must_use]
    pub fn from_encoded(records: Bytes) -> Option<Self> {
        let decoded = wire::FeedResponse::decode(&records[..]).ok()?;
        if decoded.encoded_len() != records.len()
            || decoded.records.iter().any(|record| record.device.len() != 16)
        {
            return None;
        }
        let growing = decoded.records.iter().filter(|record| is_growing(record)).count();
        let (count, growing) =
            (u32::try_from(decoded.records.len()).ok()?, u32::try_from(growing).ok()?);
        Some(Self { records, count, growing })
    }

    /// Number of records in the batch.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Number of registrations and places, which make the registry larger. All other records are
    /// removals, mutes and feedback, which a nearly full store still accepts.
    #[must_use]
    pub fn growing(&self) -> u32 {
        self.growing
    }

    /// Bytes of the batch's records.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.records.len()
    }

    /// The devices of the records, in the order of the records; a device may occur again.
    pub(super) fn devices(&self) -> impl Iterator<Item = DeviceId> {
        let mut rest = &self.records[..];
        std::iter::from_fn(move || next_record(&mut rest).map(|(_, device)| device))
    }

    /// The batch with only the records whose device `wanted` accepts. Only for batches without
    /// registrations and places.
    pub(super) fn only(&self, mut wanted: impl FnMut(DeviceId) -> bool) -> Self {
        debug_assert_eq!(self.growing, 0, "what remains of it is not counted");
        let mut kept = BytesMut::new();
        let (mut rest, mut count) = (&self.records[..], 0);
        while let Some((whole, device)) = next_record(&mut rest) {
            if wanted(device) {
                kept.extend_from_slice(whole);
                count += 1;
            }
        }
        Self { records: Bytes::copy_from_slice(&kept), count, growing: 0 }
    }

    /// The encoded records, for the append.
    pub(super) fn into_records(self) -> Bytes {
        self.records
    }
}

/// Encodes records one after another.
#[derive(Debug, Default)]
pub struct RecordBatchBuilder {
    buffer: BytesMut,
    count: u32,
    growing: u32,
}

impl RecordBatchBuilder {
    /// Adds a record. Its device must be 16 bytes, as [`Record::to_wire`] writes it.
    pub fn push(&mut self, record: &wire::Record) {
        debug_assert_eq!(record.device.len(), 16, "checked where the record was made");
        let length = record.encoded_len();
        self.buffer.reserve(1 + encoded_len_varint(length as u64) + length);
        encode_key(RECORDS_FIELD, WireType::LengthDelimited, &mut self.buffer);
        encode_varint(length as u64, &mut self.buffer);
        record.encode_raw(&mut self.buffer);
        self.count += 1;
        self.growing += u32::from(is_growing(record));
    }

    /// Bytes added so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Whether no record was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The batch, in memory of its exact size: the store may keep it for the cluster's lifetime.
    #[must_use]
    pub fn finish(self) -> RecordBatch {
        RecordBatch {
            records: Bytes::copy_from_slice(&self.buffer),
            count: self.count,
            growing: self.growing,
        }
    }
}

fn is_growing(record: &wire::Record) -> bool {
    use wire::record::Change;
    match record.change {
        Some(Change::Registration(_) | Change::Cell(_) | Change::Arrival(_)) => true,
        Some(Change::Removal(_) | Change::Muted(_) | Change::Feedback(_) | Change::Expiry(_))
        | None => false,
    }
}

/// One appended batch of one log.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Position in the log: dense from 1.
    pub position: Position,
    /// Time of the append.
    pub appended: UnixMillis,
    /// The encoded records: the bytes of `FeedResponse.records`.
    pub records: Bytes,
}

impl Batch {
    /// The batch with only the records of the partitions that `wanted` accepts; `count`: number of
    /// partitions. Bytes are copied; only each record's length and device are decoded.
    #[must_use]
    pub fn only(&self, partition_count: u16, wanted: impl Fn(PartitionId) -> bool) -> Self {
        let mut kept = BytesMut::new();
        let mut rest = &self.records[..];
        while let Some((whole, device)) = next_record(&mut rest) {
            if wanted(partition_of(device, partition_count)) {
                kept.extend_from_slice(whole);
            }
        }
        Self { records: kept.freeze(), ..*self }
    }
}

/// The next record with its key and length, and the record's device.
fn next_record<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], DeviceId)> {
    let start = *rest;
    if start.is_empty() {
        return None;
    }
    // These bytes were written by `push`: a deviation is a defect of this file, not of a caller.
    let (field, _) = decode_key(rest).expect("written by push");
    assert_eq!(field, RECORDS_FIELD, "written by push");
    let length =
        usize::try_from(decode_varint(rest).expect("written by push")).expect("fits memory");
    let record = &rest[..length];
    let device = record
        .strip_prefix(&DEVICE_PREFIX)
        .and_then(|r| r.first_chunk::<16>())
        .expect("written by push");
    rest.advance(length);
    Some((&start[..start.len() - rest.len()], DeviceId(*device)))
}

#[cfg(test)]
mod tests {
    use clarion_proto::{device::Change, ids::UnixMillis};

    use super::*;

    fn record(device: u8) -> Record {
        Record {
            device: DeviceId([device; 16]),
            observed: UnixMillis(7),
            change: Change::Mute(device.is_multiple_of(2)),
        }
    }

    #[test]
    fn bytes_are_those_of_the_message() {
        let records: Vec<Record> = (0..5).map(record).collect();
        let batch = RecordBatch::from_records(&records);
        assert_eq!(batch.count(), 5);
        let decoded = wire::FeedResponse::decode(batch.records.clone()).expect("a message");
        let again: Vec<Record> =
            decoded.records.into_iter().map(|r| Record::from_wire(r).expect("valid")).collect();
        assert_eq!(again, records);
    }

    #[test]
    fn what_makes_the_registry_larger_is_counted() {
        let place = Record {
            change: Change::Place(
                clarion_proto::device::Cell::new(0x89411ca0003ffff).expect("a cell"),
            ),
            ..record(9)
        };
        let removal = Record { change: Change::Removal, ..record(7) };
        let batch = RecordBatch::from_records(&[record(1), place, removal.clone()]);
        assert_eq!((batch.count(), batch.growing()), (3, 1));
        assert_eq!(batch.devices().map(|device| device.0[0]).collect::<Vec<_>>(), [1, 9, 7]);
        let urgent = RecordBatch::from_records(&[record(1), removal.clone(), record(2)]);
        let only = urgent.only(|device| device.0[0] == 7);
        assert_eq!(
            (only.count(), only.growing(), only.records),
            (1, 0, RecordBatch::from_records(&[removal]).records)
        );
    }

    #[test]
    fn only_keeps_the_partitions_asked_for_in_order() {
        let records: Vec<Record> = (0..=255).map(record).collect();
        let records_encoded = RecordBatch::from_records(&records).into_records();
        let batch =
            Batch { position: Position(3), appended: UnixMillis(9), records: records_encoded };
        let mut seen = 0;
        for partition in 0..8 {
            let some = batch.only(8, |p| p == PartitionId(partition));
            assert_eq!((some.position, some.appended), (Position(3), UnixMillis(9)));
            let decoded = wire::FeedResponse::decode(some.records).expect("a message");
            let again: Vec<Record> =
                decoded.records.into_iter().map(|r| Record::from_wire(r).expect("valid")).collect();
            let expected: Vec<Record> = records
                .iter()
                .filter(|r| partition_of(r.device, 8) == PartitionId(partition))
                .cloned()
                .collect();
            assert_eq!(again, expected);
            seen += again.len();
        }
        assert_eq!(seen, 256);
    }
}
