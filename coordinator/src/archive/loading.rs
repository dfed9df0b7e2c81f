//! The shell of one load: objects in order, opened and checked.

use std::sync::Arc;

use bytes::Bytes;
use clarion_proto::ids::PartitionId;
use clarion_runtime::offload::offload;
use xxhash_rust::xxh3::Xxh3;

use super::{
    Archive, ArchiveError,
    record::{StoredSnapshot, object, place},
};
use crate::{objects::ObjectError, store::StoreError};

/// A snapshot that is being loaded: one object of it in memory at a time.
pub struct Loading {
    archive: Arc<Archive>,
    partition: PartitionId,
    snapshot: StoredSnapshot,
    next: u32,
    bytes: u64,
    hash: Xxh3,
}

impl Loading {
    pub(super) fn new(
        archive: Arc<Archive>,
        partition: PartitionId,
        snapshot: StoredSnapshot,
    ) -> Self {
        Self { archive, partition, snapshot, next: 0, bytes: 0, hash: Xxh3::new() }
    }

    /// The next chunk, at most [`super::gather::CHUNK_BYTES`]; `None`: the snapshot is complete.
    ///
    /// # Errors
    /// [`ArchiveError::Damaged`], [`ArchiveError::Gone`] if the snapshot was retired meanwhile, or
    /// [`ArchiveError::Objects`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, ArchiveError> {
        if self.next == self.snapshot.chunks {
            let is_whole = self.bytes == self.snapshot.bytes;
            if is_whole && self.hash.digest() == self.snapshot.hash {
                return Ok(None);
            }
            let problem = "the objects are not the snapshot that was recorded".to_owned();
            return Err(self.damaged(problem).await);
        }
        let chunk = self.read().await?;
        self.next += 1;
        self.bytes += chunk.len() as u64;
        self.hash.update(&chunk);
        Ok(Some(chunk))
    }

    async fn read(&self) -> Result<Bytes, ArchiveError> {
        let (partition, id) = (self.partition, self.snapshot.id);
        let sealed = match self.archive.objects.get(&object(partition, id, self.next)).await {
            Ok(sealed) => sealed,
            Err(ObjectError::Away { name, problem }) => {
                let error = ObjectError::Away { name, problem };
                self.archive.objects_away(&error);
                return Err(error.into());
            }
            Err(ObjectError::Missing(_)) => {
                // It may have been retired and deleted since the load began.
                let (_, snapshots) = self.archive.record(partition).await?;
                if snapshots.find(id).is_none() {
                    return Err(ArchiveError::Gone { partition, id });
                }
                return Err(self.damaged("is missing".to_owned()).await);
            }
            Err(error @ (ObjectError::TooLarge { .. } | ObjectError::Exists(_))) => {
                return Err(self.damaged(error.to_string()).await);
            }
        };
        let place = place(self.archive.store.identity(), partition, id, self.next);
        let seals = Arc::clone(&self.archive.seals);
        match offload(move || seals.open(&place, &sealed)).await {
            Ok(Ok(content)) => Ok(content.into()),
            Ok(Err(error)) => Err(self.damaged(error.to_string()).await),
            // No fault of the object.
            Err(error) => Err(StoreError::Away(format!("a chunk was not opened: {error}")).into()),
        }
    }

    /// Records and logs the damage of the next object, and makes the error of it.
    async fn damaged(&self, problem: String) -> ArchiveError {
        let (partition, id, chunk) = (self.partition, self.snapshot.id, self.next);
        let error = ArchiveError::Damaged { partition, id, chunk, problem };
        let archive = &self.archive;
        if let Some(times) = archive.noted(|trouble| &mut trouble.damaged, &error.to_string()) {
            tracing::error!(%error, times, "snapshot is damaged; nodes load an older one");
        }
        archive.mark_damaged(partition, id).await;
        error
    }
}
