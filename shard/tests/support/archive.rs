//! The coordinator's snapshots, kept in memory: what nodes load and save.

use std::sync::Arc;

use bytes::Bytes;
use clarion_proto::{
    device::Record,
    ids::{PartitionId, Position, UnixMillis, partition_of},
    wire::shard_v1::{
        self as wire, save_snapshot_request::Part, snapshot_service_server::SnapshotService,
    },
};
use clarion_shard::partition::{Partition, Vocabulary};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::PARTITIONS;

/// All snapshots and what became of them.
#[derive(Clone, Default)]
pub struct Archive(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    interval_ms: u64,
    kept: Vec<Kept>,
    loads: Vec<(u32, u64)>,
    /// Saves that have begun.
    begun: usize,
    /// Saves whose stream the node gave up.
    dropped: usize,
    saves_hang: bool,
}

/// One snapshot.
#[derive(Clone)]
pub struct Kept {
    pub partition: u32,
    pub position: u64,
    pub bytes: Bytes,
    pub how: How,
}

/// How a snapshot is served.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    Whole,
    DataLoss,
    /// Half of it, and then nothing; as a whole the next time.
    HangsOnce,
    /// Half of it, and then nothing.
    Hangs,
}

impl Archive {
    pub fn keep(&self, kept: Kept) {
        self.0.lock().kept.push(kept);
    }

    pub fn want_every(&self, interval_ms: u64) {
        self.0.lock().interval_ms = interval_ms;
    }

    pub fn let_saves_hang(&self) {
        self.0.lock().saves_hang = true;
    }

    pub fn kept(&self) -> Vec<Kept> {
        self.0.lock().kept.clone()
    }

    /// Loads that were asked for: partition and position.
    pub fn loads(&self) -> Vec<(u32, u64)> {
        self.0.lock().loads.clone()
    }

    /// Saves that have begun, and saves that the node gave up.
    pub fn saves(&self) -> (usize, usize) {
        let state = self.0.lock();
        (state.begun, state.dropped)
    }
}

/// The id of a snapshot: its place in the archive.
fn id(at: usize) -> Vec<u8> {
    u128::try_from(at).unwrap().to_be_bytes().to_vec()
}

#[tonic::async_trait]
impl SnapshotService for Archive {
    type LoadSnapshotStream = ReceiverStream<Result<wire::LoadSnapshotResponse, Status>>;

    async fn list_snapshots(
        &self,
        request: Request<wire::ListSnapshotsRequest>,
    ) -> Result<Response<wire::ListSnapshotsResponse>, Status> {
        let (asked, state) = (request.into_inner().partitions, self.0.lock());
        let mine = |(_, kept): &(usize, &Kept)| asked.contains(&kept.partition);
        let snapshot = |(at, kept): (usize, &Kept)| wire::Snapshot {
            partition: kept.partition,
            id: id(at),
            position: kept.position,
            bytes: kept.bytes.len() as u64,
            saved_ms: 1,
        };
        Ok(Response::new(wire::ListSnapshotsResponse {
            snapshots: state.kept.iter().enumerate().filter(mine).map(snapshot).collect(),
            policy: Some(wire::SnapshotPolicy { interval_ms: state.interval_ms }),
        }))
    }

    async fn load_snapshot(
        &self,
        request: Request<wire::LoadSnapshotRequest>,
    ) -> Result<Response<Self::LoadSnapshotStream>, Status> {
        let (sender, stream) = mpsc::channel(1);
        let asked = request.into_inner().id;
        let kept = {
            let mut state = self.0.lock();
            let at = (0..state.kept.len()).find(|at| id(*at) == asked);
            let at = at.ok_or_else(|| Status::not_found("no such snapshot"))?;
            let kept = state.kept[at].clone();
            state.loads.push((kept.partition, kept.position));
            if kept.how == How::HangsOnce {
                state.kept[at].how = How::Whole;
            }
            kept
        };
        if kept.how == How::DataLoss {
            return Err(Status::data_loss("an object is missing"));
        }
        tokio::spawn(async move {
            let whole = kept.how == How::Whole;
            let end = if whole { kept.bytes.len() } else { kept.bytes.len() / 2 };
            for data in kept.bytes[..end].chunks(1_000) {
                let data = Bytes::copy_from_slice(data);
                if sender.send(Ok(wire::LoadSnapshotResponse { data })).await.is_err() {
                    return;
                }
            }
            if !whole {
                sender.closed().await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn save_snapshot(
        &self,
        request: Request<Streaming<wire::SaveSnapshotRequest>>,
    ) -> Result<Response<wire::SaveSnapshotResponse>, Status> {
        /// Counts a save that ends before its answer.
        struct Dropped(Archive, bool);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.0.lock().dropped += usize::from(!self.1);
            }
        }
        let mut parts = request.into_inner();
        let mut dropped = Dropped(self.clone(), false);
        let (mut start, mut bytes) = (None, Vec::new());
        while let Some(request) = parts.message().await? {
            match request.part.unwrap() {
                Part::Start(first) => {
                    self.0.lock().begun += 1;
                    start = Some(first);
                }
                Part::Data(data) => bytes.extend_from_slice(&data),
                Part::End(end) => {
                    assert_eq!(end.bytes, bytes.len() as u64);
                    assert_eq!(end.hash, xxhash_rust::xxh3::xxh3_64(&bytes));
                    let start = start.take().unwrap();
                    assert!(start.ownership > 0 && start.caller.is_some());
                    let (partition, position) = (start.partition, start.position);
                    let bytes = Bytes::from(bytes);
                    self.keep(Kept { partition, position, bytes, how: How::Whole });
                    dropped.1 = true;
                    return Ok(Response::new(wire::SaveSnapshotResponse { snapshot: None }));
                }
            }
            if self.0.lock().saves_hang {
                // Until the node gives the stream up.
                std::future::pending::<()>().await;
            }
        }
        Err(Status::aborted("no end"))
    }
}

/// The snapshot of a partition that has applied these batches, each with its records.
pub fn snapshot_of(partition: u32, batches: &[Vec<wire::Record>]) -> Kept {
    let id = PartitionId(u16::try_from(partition).unwrap());
    let (mut built, mut words) = (Partition::new(id, 1), Vocabulary::new());
    for record in batches.iter().flatten() {
        let record = Record::from_wire(record.clone()).unwrap();
        if partition_of(record.device, PARTITIONS) == id {
            built.apply(UnixMillis(1), &record, &mut words);
        }
    }
    let (position, mut out) = (batches.len() as u64, Vec::new());
    let mut writer = built.begin_snapshot(Position(position), &words, &mut out);
    while writer.next(&mut built, &words, &mut out).unwrap() {}
    Kept { partition, position, bytes: out.into(), how: How::Whole }
}
