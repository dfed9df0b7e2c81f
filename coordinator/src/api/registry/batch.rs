//! One batch of changes: read item by item, and written as far as the store has room.
//!
//! A message of 4 MiB that is decoded at once may take hundreds of MB: an empty item is two bytes
//! on the wire and some 200 bytes in memory. So the batch stays encoded, and one item at a time is
//! decoded, checked and encoded for its log. A batch costs its own bytes and the bytes of its
//! records, which are fewer.
//!
//! **A full store** ([`StoreError::Full`]) accepts removals and mutes longer than registrations and
//! places. If the batch has removals or mutes, they are written, and every other item is answered
//! with an error (no room). If it has none, the error ends the stream.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes};
use clarion_proto::{
    device::{Change, Record},
    error::InvalidField,
    ids::{AppName, LogId, UnixMillis, log_of, partition_of},
    wire::v1 as wire,
};
use clarion_runtime::peers::{
    PeerKey,
    turns::{Turn, Turns},
};
use prost::{
    Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use tonic::Status;

use super::{
    DeviceKey,
    ages::Ages,
    change::{self, Accepted, KnownApp},
    status,
};
use crate::{
    dispatch::NewestObservation,
    store::{AlertStore, ChangeLog, RecordBatch, RecordBatchBuilder, StoreError},
};

/// Maximum number of items in one batch.
const CHANGES_MAX: usize = 10_000;
/// Largest item, bytes: a valid item has at most a token of 1 KB and 16 segments of 63 bytes.
const CHANGE_BYTES_MAX: usize = 16 * 1_024;
/// Largest batch of a log, bytes: a node takes messages of 4 MiB, and reads ahead by the batch.
const LOG_BATCH_BYTES_MAX: usize = 1_024 * 1_024;
/// Number of items that are checked without a pause: under 2 ms, or some 3 ms if each of them
/// replaces as many devices as it may.
const SLICE: usize = 512;

/// Where changes of devices are checked against and written to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Registrar<'a> {
    /// Apps that changes may name.
    pub(crate) apps: &'a dyn AlertStore,
    /// Logs that changes are written to.
    pub(crate) log: &'a dyn ChangeLog,
    /// Key that makes ids of device names.
    pub(crate) device_key: &'a DeviceKey,
    /// Number of partitions of the cluster.
    pub(crate) partitions: u16,
    /// Newest observation that was written.
    pub(crate) observed: &'a NewestObservation,
    /// Time at which changes are checked.
    pub(crate) now: UnixMillis,
    /// Turns of the peers to check, and the peer whose changes these are; `None`: there is one
    /// writer.
    pub(crate) turns: Option<(&'a Turns, PeerKey)>,
}

impl Registrar<'_> {
    async fn turn(&self) -> Option<Turn> {
        match self.turns {
            Some((turns, peer)) => Some(turns.enter(peer, 1).await),
            None => None,
        }
    }
}

/// A batch that is not decoded; only its items are counted.
#[derive(Debug)]
pub(crate) struct RawBatch {
    head: Head,
    bytes: Bytes,
}

/// Fields of a batch besides its items.
#[derive(Debug, Clone, Copy, Default)]
struct Head {
    id: u64,
    historic: bool,
}

impl RawBatch {
    /// Finds the id of a batch, and checks the number of its items.
    pub(crate) fn new(bytes: Bytes) -> Result<Self, Status> {
        let mut batch = Self { head: Head::default(), bytes: bytes.clone() };
        let mut items = Items(bytes);
        let mut count = 0;
        while let Some(field) = items.next_field(&mut batch.head)? {
            count += usize::from(field.is_some());
        }
        if count > CHANGES_MAX {
            let problem = format!("must have at most {CHANGES_MAX} changes; got {count}");
            return Err(status::invalid(InvalidField::new("changes", problem)));
        }
        Ok(batch)
    }

    /// Whether the batch imports devices from another system.
    pub(super) fn is_historic(&self) -> bool {
        self.head.historic
    }

    /// Size of the batch, bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Checks the batch and appends it to the logs. The turn to check ends before the append.
    pub(crate) async fn write(
        &self,
        to: Registrar<'_>,
    ) -> Result<wire::WriteDevicesResponse, Status> {
        let whole = {
            let _turn = to.turn().await;
            Checked::of(self, to, false).await?
        };
        let (any_urgent, newest, answer) = (whole.urgent > 0, whole.newest, whole.answer);
        match to.log.append_all(whole.logs.finish()).await {
            Ok(_) => {
                to.observed.note(newest);
                return Ok(answer);
            }
            Err(StoreError::Full { .. }) if any_urgent => {}
            Err(error) => return Err(status::store(error)),
        }
        let urgent = {
            let _turn = to.turn().await;
            Checked::of(self, to, true).await?
        };
        to.log.append_all(urgent.logs.finish()).await.map_err(status::store)?;
        Ok(wire::WriteDevicesResponse {
            retry_after: status::SOMEBODY_MUST_ACT.try_into().ok(),
            ..urgent.answer
        })
    }
}

/// The encoded rest of a batch, which is read field by field.
struct Items(Bytes);

impl Items {
    /// Reads the next field: `Some(Some(_))` is an encoded item, `Some(None)` any other field.
    fn next_field(&mut self, head: &mut Head) -> Result<Option<Option<Bytes>>, Status> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let unreadable = |error: prost::DecodeError| {
            status::invalid(InvalidField::new("request", format_args!("cannot be read: {error}")))
        };
        let cut = || {
            status::invalid(InvalidField::new("request", "cannot be read: it ends within an item"))
        };
        let bytes = &mut self.0;
        match decode_key(bytes).map_err(unreadable)? {
            (1, WireType::Varint) => head.id = decode_varint(bytes).map_err(unreadable)?,
            (3, WireType::Varint) => {
                head.historic = decode_varint(bytes).map_err(unreadable)? != 0;
            }
            (2, WireType::LengthDelimited) => {
                let length = usize::try_from(decode_varint(bytes).map_err(unreadable)?)
                    .unwrap_or(usize::MAX);
                if length > bytes.remaining() {
                    return Err(cut());
                }
                return Ok(Some(Some(bytes.split_to(length))));
            }
            (number @ 1..=3, kind) => {
                let problem = format!("cannot be read: field {number} is of wire type {kind:?}");
                return Err(status::invalid(InvalidField::new("request", problem)));
            }
            (number, kind) => {
                skip_field(kind, number, bytes, DecodeContext::default()).map_err(unreadable)?;
            }
        }
        Ok(Some(None))
    }

    fn next(&mut self) -> Result<Option<Bytes>, Status> {
        while let Some(field) = self.next_field(&mut Head::default())? {
            if field.is_some() {
                return Ok(field);
            }
        }
        Ok(None)
    }
}

/// A batch after its check.
struct Checked {
    logs: Logs,
    /// Number of items that a full store accepts, too.
    urgent: usize,
    /// Newest observation of the accepted items; 0: none.
    newest: UnixMillis,
    answer: wire::WriteDevicesResponse,
}

impl Checked {
    /// Checks all items; `urgent_only`: refuses items that need more room in the store.
    async fn of(batch: &RawBatch, to: Registrar<'_>, urgent_only: bool) -> Result<Self, Status> {
        let mut apps = KnownApps { to, known: BTreeMap::new() };
        let ages = Ages { now: to.now, historic: batch.head.historic };
        let answer = wire::WriteDevicesResponse { batch_id: batch.head.id, ..Default::default() };
        let mut checked = Self { logs: Logs::default(), urgent: 0, newest: UnixMillis(0), answer };
        let mut items = Items(batch.bytes.clone());
        let mut index = 0;
        while let Some(item) = items.next()? {
            if usize::try_from(index).unwrap_or_default() % SLICE == SLICE - 1 {
                tokio::task::yield_now().await;
            }
            let error = match record(&item, &mut apps, ages).await? {
                Ok(accepted) if urgent_only && is_growing(&accepted.record.change) => {
                    Some(no_room(index))
                }
                Ok(accepted) => {
                    checked.take(&accepted, to);
                    let warning = accepted.warning.map(|InvalidField { field, problem }| {
                        wire::DeviceWarning { index, field, description: problem }
                    });
                    checked.answer.warnings.extend(warning);
                    None
                }
                Err(InvalidField { field, problem }) => {
                    Some(wire::DeviceError { index, field, description: problem, no_room: false })
                }
            };
            checked.answer.errors.extend(error);
            index += 1;
        }
        Ok(checked)
    }

    /// Adds an accepted change: its record, and then the removals of the devices that it replaces.
    /// The append takes all of them or none, so no device is removed without the registration.
    fn take(&mut self, accepted: &Accepted, to: Registrar<'_>) {
        self.urgent += usize::from(!is_growing(&accepted.record.change));
        self.newest = self.newest.max(accepted.record.observed);
        self.push(&accepted.record, to);
        accepted.removals().for_each(|removal| self.push(&removal, to));
        self.answer.written += 1;
    }

    fn push(&mut self, record: &Record, to: Registrar<'_>) {
        let log = log_of(partition_of(record.device, to.partitions), to.log.logs());
        self.logs.push(log, &record.to_wire());
    }
}

fn is_growing(change: &Change) -> bool {
    match change {
        Change::Registration(_) | Change::Place(_) | Change::Arrival(..) => true,
        Change::Removal | Change::Mute(_) | Change::Feedback { .. } | Change::Expiry(_) => false,
    }
}

fn no_room(index: u32) -> wire::DeviceError {
    let description = "the store has no room for registrations and places, and writes only \
                       removals and mutes; retry after retry_after";
    wire::DeviceError {
        index,
        field: "change".to_owned(),
        description: description.to_owned(),
        no_room: true,
    }
}

async fn record(
    item: &Bytes,
    apps: &mut KnownApps<'_>,
    ages: Ages,
) -> Result<Result<Accepted, InvalidField>, Status> {
    if item.len() > CHANGE_BYTES_MAX {
        let problem = format!("must be at most {CHANGE_BYTES_MAX} bytes; got {} bytes", item.len());
        return Ok(Err(InvalidField::new("change", problem)));
    }
    let change = wire::DeviceChange::decode(&item[..]);
    let change = change.map_err(|e| {
        status::invalid(InvalidField::new("request", format_args!("cannot be read: {e}")))
    })?;
    let key = apps.to.device_key;
    Ok(apps.of(&change).await?.and_then(|app| change::record(change, app, ages, key)))
}

/// The records of one batch, by log.
#[derive(Default)]
struct Logs {
    open: BTreeMap<LogId, RecordBatchBuilder>,
    full: Vec<(LogId, RecordBatch)>,
}

impl Logs {
    fn push(&mut self, log: LogId, record: &clarion_proto::wire::shard_v1::Record) {
        let builder = self.open.entry(log).or_default();
        builder.push(record);
        if builder.bytes() >= LOG_BATCH_BYTES_MAX {
            self.full.push((log, std::mem::take(builder).finish()));
        }
    }

    /// Ends the builders: one batch for each log, or several if the batch is large.
    fn finish(mut self) -> Vec<(LogId, RecordBatch)> {
        let open = self.open.into_iter().filter(|(_, builder)| !builder.is_empty());
        self.full.extend(open.map(|(id, builder)| (id, builder.finish())));
        self.full
    }
}

/// Apps that a batch refers to, looked up once: most batches have one or two apps.
struct KnownApps<'a> {
    to: Registrar<'a>,
    known: BTreeMap<String, Option<KnownApp>>,
}

impl KnownApps<'_> {
    /// The app that a change names; `None`: the change names no app.
    async fn of(
        &mut self,
        change: &wire::DeviceChange,
    ) -> Result<Result<Option<KnownApp>, InvalidField>, Status> {
        let Some((name, field)) = change::app(change) else { return Ok(Ok(None)) };
        if let Some(known) = self.known.get(name) {
            return Ok(known.clone().map(Some).ok_or_else(|| unknown(field)));
        }
        let app = match AppName::from_name(name) {
            Ok(app) => app,
            Err(problem) => return Ok(Err(problem.within(field))),
        };
        let record = self.to.apps.app(&app).await.map_err(status::store)?;
        let app = record.map(|record| KnownApp {
            name: app,
            platform: record.app.platform,
            identity: record.app.identity,
        });
        self.known.insert(name.to_owned(), app.clone());
        Ok(app.map(Some).ok_or_else(|| unknown(field)))
    }
}

fn unknown(field: &str) -> InvalidField {
    InvalidField::new(field, "must be the name of an existing app; create the app first")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items(bytes: &[u8]) -> Result<((u64, bool), Vec<Bytes>), Status> {
        let batch = RawBatch::new(Bytes::copy_from_slice(bytes))?;
        let mut items = Items(batch.bytes.clone());
        let all = std::iter::from_fn(|| items.next().transpose()).collect::<Result<_, _>>()?;
        Ok(((batch.head.id, batch.head.historic), all))
    }

    proptest! {
        /// What the item-wise reader makes of any bytes is what the whole decoder makes of them.
        #[test]
        fn it_reads_what_a_decoder_reads(
            id in any::<u64>(),
            historic in any::<bool>(),
            devices in proptest::collection::vec("[a-z]{0,40}", 0..20),
            cut in any::<prop::sample::Index>(),
            noise in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let change = |device: String| wire::DeviceChange { device, ..Default::default() };
            let changes = devices.into_iter().map(change).collect();
            let batch = wire::WriteDevicesRequest { batch_id: id, changes, historic };
            let whole = batch.encode_to_vec();
            for bytes in [&whole[..], &whole[..cut.index(whole.len() + 1)], &noise[..]] {
                match (items(bytes), wire::WriteDevicesRequest::decode(bytes)) {
                    (Ok((head, items)), Ok(decoded)) => {
                        prop_assert_eq!(head, (decoded.batch_id, decoded.historic));
                        let again: Vec<_> = items.iter().map(|item| wire::DeviceChange::decode(&item[..]).expect("read")).collect();
                        prop_assert_eq!(again, decoded.changes);
                    }
                    // An item that is none is found when its turn comes.
                    (Ok((_, items)), Err(_)) => {
                        prop_assert!(items.iter().any(|item| wire::DeviceChange::decode(&item[..]).is_err()));
                    }
                    (Err(_), decoded) => prop_assert!(decoded.is_err()),
                }
            }
        }
    }

    #[test]
    fn items_are_counted_before_any_is_decoded() {
        let empty = [0x12, 0].repeat(CHANGES_MAX + 1);
        let refused = items(&empty).expect_err("one too many");
        assert!(
            refused.message().contains("must have at most 10000 changes; got 10001"),
            "{refused:?}"
        );
        assert_eq!(items(&empty[2..]).expect("as many as may be").1.len(), CHANGES_MAX);
    }
}
