//! A model of the logs of changes: it keeps all batches, and every call returns at once.
//!
//! The model has the interface of the coordinator's engines, so that the coordinator's own follower
//! reads it. Append times are virtual, and the identity is a parameter, so that a run repeats.

use async_trait::async_trait;
use bytes::Bytes;
use clarion_coordinator::store::{Batch, ChangeLog, RecordBatch, StoreError, Usage};
use clarion_proto::{
    device::Record,
    ids::{LogId, LogIdentity, Position, UnixMillis},
    wire::shard_v1 as wire,
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::watch;

/// All logs of a cluster.
#[derive(Debug)]
pub struct LogModel {
    identity: LogIdentity,
    logs: Mutex<Vec<Vec<Batch>>>,
    grown: watch::Sender<u64>,
    room: watch::Sender<bool>,
}

impl LogModel {
    /// Creates the given number of empty logs.
    #[must_use]
    pub fn new(identity: LogIdentity, logs: u16) -> Self {
        Self {
            identity,
            logs: Mutex::new(vec![Vec::new(); usize::from(logs)]),
            grown: watch::Sender::new(0),
            room: watch::Sender::new(true),
        }
    }

    /// Appends a batch of records to one log.
    pub fn append(&self, log: LogId, records: &[Record], appended: UnixMillis) {
        let records = records.iter().map(Record::to_wire).collect();
        let encoded = wire::FeedResponse { records, ..Default::default() }.encode_to_vec();
        let mut logs = self.logs.lock();
        let batches = &mut logs[usize::from(log.0)];
        let position = Position(batches.len() as u64 + 1);
        batches.push(Batch { position, appended, records: Bytes::from(encoded) });
        drop(logs);
        self.grown.send_modify(|changes| *changes += 1);
    }

    /// Batches of several logs after the given positions, like [`ChangeLog::read_many`].
    #[must_use]
    pub fn read(&self, after: &[(LogId, Position)], bytes_max: usize) -> Vec<(LogId, Vec<Batch>)> {
        let logs = self.logs.lock();
        let (mut found, mut bytes) = (Vec::new(), 0);
        for (log, Position(after)) in after {
            let mut batches = Vec::new();
            let skipped = usize::try_from(*after).unwrap_or(usize::MAX);
            for batch in logs[usize::from(log.0)].iter().skip(skipped) {
                if bytes >= bytes_max {
                    break;
                }
                bytes += batch.records.len();
                batches.push(batch.clone());
            }
            if !batches.is_empty() {
                found.push((*log, batches));
            }
        }
        found
    }

    /// The newest position of each log.
    #[must_use]
    pub fn newest(&self) -> Vec<Position> {
        self.logs.lock().iter().map(|batches| Position(batches.len() as u64)).collect()
    }
}

#[async_trait]
impl ChangeLog for LogModel {
    fn identity(&self) -> LogIdentity {
        self.identity
    }

    fn logs(&self) -> u16 {
        u16::try_from(self.logs.lock().len()).expect("made from a u16")
    }

    async fn append_all(
        &self,
        _batches: Vec<(LogId, RecordBatch)>,
    ) -> Result<Vec<Position>, StoreError> {
        Err(StoreError::Away("the model is appended to by the simulator only".to_owned()))
    }

    fn has_room(&self) -> watch::Receiver<bool> {
        self.room.subscribe()
    }

    fn usage(&self) -> Usage {
        Usage { held: 0, limit: u64::MAX }
    }

    async fn heads(&self) -> Result<Vec<Position>, StoreError> {
        Ok(self.newest())
    }

    async fn read_many(
        &self,
        after: &[(LogId, Position)],
        bytes_max: usize,
    ) -> Result<Vec<(LogId, Vec<Batch>)>, StoreError> {
        Ok(self.read(after, bytes_max))
    }

    async fn records_until(&self, of: &[(LogId, Position)]) -> Result<Vec<u64>, StoreError> {
        let logs = self.logs.lock();
        let count = |(log, Position(until)): &(LogId, Position)| {
            let until = usize::try_from(*until).unwrap_or(usize::MAX);
            let batches = logs[usize::from(log.0)].iter().take(until);
            let decoded = batches.filter_map(|b| wire::FeedResponse::decode(&b.records[..]).ok());
            decoded.map(|response| response.records.len() as u64).sum()
        };
        Ok(of.iter().map(count).collect())
    }

    async fn trim(&self, _log: LogId, _before: Position) -> Result<(), StoreError> {
        Err(StoreError::Away("the model keeps everything".to_owned()))
    }

    fn grown(&self) -> watch::Receiver<u64> {
        self.grown.subscribe()
    }
}
