//! `SnapshotService`: nodes list, load and save the snapshots of their partitions.
//!
//! **Bounds**, on the nodes' port:
//!
//! | resource | total | one peer | refused nodes get |
//! |---|---|---|---|
//! | snapshots that are being saved | [`SAVES_MAX`] | half | SAVES_BUSY, retry after 5 s |
//! | snapshots that are being loaded | [`LOADS_MAX`] | three quarters, and its turn | up to 3 s of waiting, then LOADS_BUSY, after 1 s |
//! | a save: next message; waiting in all; all of it | 10 s; a minute, and a second for each 128 KiB; 30 min | the same | DEADLINE_EXCEEDED: SAVE_SLOW |
//! | a load: a message is taken | 30 s | the same | DEADLINE_EXCEEDED: LOAD_NOT_READ |
//! | bytes in memory | a save: a chunk of 4 MiB and its sealed copy; a load: the same | | |
//! | bytes of a snapshot | 4 GiB | | INVALID_ARGUMENT |
//!
//! A save and a load are tasks: a node that goes away or does not read must not hold a place for
//! ever, and what a save has written is to be deleted also if nobody waits for the answer.

use std::{sync::Arc, time::Duration};

use clarion_proto::{
    error::InvalidField,
    ids::PartitionId,
    wire::shard_v1::{
        self as wire,
        snapshot_service_server::{SnapshotService, SnapshotServiceServer},
    },
};
use clarion_runtime::peers::{shares::Places, turns::Turns};
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Context, door::peer, status};
use crate::archive::{
    ArchiveError,
    gather::PIECE_BYTES_MAX,
    record::{StoredSnapshot, snapshot_id},
};

mod load;
mod save;

/// Maximum number of snapshots that are being saved: each takes up to 16 MiB.
pub(super) const SAVES_MAX: usize = 4;
/// Maximum number of snapshots that are being loaded: each takes up to 10 MiB.
pub(super) const LOADS_MAX: usize = 8;
/// Longest wait for a turn to load: the response must begin within 5 s ([`super::ports::feed`]).
const TURN_WITHIN: Duration = Duration::from_secs(3);
/// Largest request: a piece of a snapshot and its frame, or the number of every partition.
pub(super) const REQUEST_BYTES_MAX: usize = PIECE_BYTES_MAX + (64 << 10);

/// Serves the archive of the context to shard nodes.
pub(super) fn server(api: Arc<Context>) -> SnapshotServiceServer<Snapshots> {
    let (loads, saves) =
        (Turns::new(LOADS_MAX as u64, LOADS_MAX as u64 * 3 / 4), Places::new(SAVES_MAX));
    SnapshotServiceServer::new(Snapshots { api, loads, saves })
        .max_decoding_message_size(REQUEST_BYTES_MAX)
}

/// The service: one archive, and the places of those who save and load.
#[derive(Debug)]
pub(super) struct Snapshots {
    api: Arc<Context>,
    loads: Turns,
    saves: Places,
}

#[tonic::async_trait]
impl SnapshotService for Snapshots {
    type LoadSnapshotStream = BoxStream<'static, Result<wire::LoadSnapshotResponse, Status>>;

    async fn list_snapshots(
        &self,
        request: Request<wire::ListSnapshotsRequest>,
    ) -> Result<Response<wire::ListSnapshotsResponse>, Status> {
        let wire::ListSnapshotsRequest { caller, partitions } = request.into_inner();
        let archive = &self.api.archive;
        archive.check(caller.as_ref()).map_err(refused)?;
        let read =
            |(i, number): (usize, &u32)| archive.partition(*number, &format!("partitions[{i}]"));
        let mut partitions = partitions
            .iter()
            .enumerate()
            .map(read)
            .collect::<Result<Vec<_>, _>>()
            .map_err(status::invalid)?;
        partitions.sort_unstable();
        partitions.dedup();
        let found = archive.list(&partitions).await.map_err(status::store)?;
        let interval = archive.config().every.as_millis();
        let policy =
            wire::SnapshotPolicy { interval_ms: u64::try_from(interval).unwrap_or(u64::MAX) };
        Ok(Response::new(wire::ListSnapshotsResponse {
            snapshots: found.iter().map(|(partition, stored)| shown(*partition, stored)).collect(),
            policy: Some(policy),
        }))
    }

    async fn load_snapshot(
        &self,
        request: Request<wire::LoadSnapshotRequest>,
    ) -> Result<Response<Self::LoadSnapshotStream>, Status> {
        let peer = peer(request.extensions());
        let wire::LoadSnapshotRequest { caller, partition, id } = request.into_inner();
        let archive = &self.api.archive;
        let node = archive.check(caller.as_ref()).map_err(refused)?;
        let partition = archive.partition(partition, "partition").map_err(status::invalid)?;
        let id = snapshot_id(&id).map_err(status::invalid)?;
        let turn = tokio::time::timeout(TURN_WITHIN, self.loads.enter(peer, 1)).await;
        let turn = turn.map_err(|_| {
            let words = format!("{LOADS_MAX} snapshots are being loaded");
            status::exhausted("LOADS_BUSY", words, Duration::from_secs(1))
        })?;
        let loading = archive.open(partition, id).await.map_err(refused)?;
        tracing::info!(%node, %partition, %id, "node loads snapshot");
        Ok(Response::new(load::serve(&self.api.drain, loading, turn)))
    }

    async fn save_snapshot(
        &self,
        request: Request<Streaming<wire::SaveSnapshotRequest>>,
    ) -> Result<Response<wire::SaveSnapshotResponse>, Status> {
        let peer = peer(request.extensions());
        let place = self.saves.enter(peer).map_err(|full| {
            let retry = Duration::from_secs(5);
            status::share("SAVES_BUSY", "places to save snapshots", peer, full, retry)
        })?;
        let (api, messages) = (Arc::clone(&self.api), request.into_inner());
        let task = async move {
            let _place = place;
            save::save(&api, messages).await
        };
        let saved = self.api.drain.spawn(task).await;
        let (partition, stored) = saved.map_err(|error| status::internal(&error))??;
        let snapshot = Some(shown(partition, &stored));
        Ok(Response::new(wire::SaveSnapshotResponse { snapshot }))
    }
}

fn shown(partition: PartitionId, stored: &StoredSnapshot) -> wire::Snapshot {
    wire::Snapshot {
        partition: partition.0.into(),
        id: stored.id.0.to_vec(),
        position: stored.position.0,
        bytes: stored.bytes,
        saved_ms: stored.saved.0,
    }
}

/// Status of an error of the archive.
fn refused(error: ArchiveError) -> Status {
    let message = error.to_string();
    match error {
        ArchiveError::Invalid(field) => status::invalid(field),
        ArchiveError::OtherCluster { .. }
        | ArchiveError::OtherLog { .. }
        | ArchiveError::NotOwner { .. }
        | ArchiveError::Off => Status::failed_precondition(message),
        ArchiveError::TooSoon { age, min, .. } => {
            let retry = min.saturating_sub(age).max(Duration::from_secs(1));
            status::exhausted("SNAPSHOT_TOO_SOON", message, retry)
        }
        ArchiveError::Behind { .. } => Status::aborted(message),
        ArchiveError::Ahead { .. } => Status::out_of_range(message),
        ArchiveError::Late => status::late("SAVE_SLOW", message),
        ArchiveError::Gone { .. } => Status::not_found(message),
        ArchiveError::Damaged { .. } => Status::data_loss(message),
        ArchiveError::Objects(_) => status::objects_away(message),
        ArchiveError::Store(error) => status::store(error),
    }
}

fn required(field: &str) -> Status {
    status::invalid(InvalidField::new(field, "is required"))
}
