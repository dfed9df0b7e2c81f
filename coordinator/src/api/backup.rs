//! `BackupService`: streams what the store keeps to `coordinator backup`, one backup at a time.

use std::{sync::Arc, time::Duration};

use clarion_proto::{
    ids::UnixMillis,
    wire::store::v1::{
        BackupHead, BackupItem, ReadBackupRequest, ReadBackupResponse,
        backup_service_server::{BackupService, BackupServiceServer},
    },
};
use data_encoding::HEXLOWER;
use futures_util::{FutureExt, StreamExt, future, stream, stream::BoxStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{ApiConfig, Context as Api, status};
use crate::{
    archive::ArchiveError,
    backup::read::{QUEUE, ReadError, read},
    store::StoreError,
};

impl ApiConfig {
    /// Head of a backup of the cluster, which has this number of logs, that begins now.
    pub(crate) fn backup_head(&self, logs: u16, now: UnixMillis) -> BackupHead {
        BackupHead {
            cluster: self.cluster.to_string(),
            partitions: self.partitions.into(),
            logs: logs.into(),
            device_key: HEXLOWER.encode(&self.device_key.fingerprint()),
            begun_ms: now.0,
        }
    }
}

/// Serves backups of the context's store.
#[must_use]
pub(super) fn server(api: Arc<Api>) -> BackupServiceServer<Backup> {
    BackupServiceServer::new(Backup { api, place: Arc::new(Semaphore::new(1)) })
}

/// Service that streams one backup at a time.
#[derive(Debug)]
pub(super) struct Backup {
    api: Arc<Api>,
    /// Taken while a backup is read.
    place: Arc<Semaphore>,
}

#[tonic::async_trait]
impl BackupService for Backup {
    type ReadBackupStream = BoxStream<'static, Result<ReadBackupResponse, Status>>;

    async fn read_backup(
        &self,
        request: Request<ReadBackupRequest>,
    ) -> Result<Response<Self::ReadBackupStream>, Status> {
        let (ours, theirs) = (&self.api.config.cluster, &request.get_ref().cluster);
        if theirs != ours.as_str() {
            let theirs: String = theirs.chars().take(63).collect();
            return Err(Status::failed_precondition(format!(
                "the request's cluster is \"{theirs}\", this coordinator's is \"{ours}\""
            )));
        }
        let place = Arc::clone(&self.place).try_acquire_owned().map_err(|_| {
            let message = "another backup is being read".to_owned();
            status::exhausted("BACKUPS_MAX", message, Duration::from_secs(30))
        })?;
        let api = Arc::clone(&self.api);
        let head = api.config.backup_head(api.log.logs(), api.world.clock().wall());
        let (to, items) = mpsc::channel(QUEUE);
        tracing::info!("backup begins to be read");
        let reading = async move {
            let read = read(&api.archive, head, &to).await;
            drop(place);
            read
        };
        let failed = reading.into_stream().filter_map(|read| future::ready(read.err()));
        let items = ReceiverStream::new(items);
        let response = |item: BackupItem| Ok(ReadBackupResponse { items: vec![item] });
        let stopped = self.api.drain.token().cancelled_owned();
        let stream = stream::select(items.map(response), failed.map(|error| Err(refused(error))));
        Ok(Response::new(stream.take_until(stopped).boxed()))
    }
}

fn refused(error: ReadError) -> Status {
    match error {
        ReadError::Store(error @ StoreError::Trimmed { .. }) => {
            tracing::warn!(%error, "backup broke off because a log was trimmed");
            Status::aborted(error.to_string())
        }
        ReadError::Store(error) => status::store(error),
        ReadError::Archive(ArchiveError::Store(error)) => status::store(error),
        ReadError::Archive(error @ ArchiveError::Gone { .. }) => Status::aborted(error.to_string()),
        ReadError::Archive(error @ ArchiveError::Damaged { .. }) => {
            Status::data_loss(error.to_string())
        }
        ReadError::Archive(error) => Status::unavailable(error.to_string()),
        ReadError::Gone => Status::cancelled("the receiver has gone"),
    }
}
