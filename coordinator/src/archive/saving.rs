//! The shell of one save: chunks become sealed objects, and at the end the record names them.
//!
//! | Step | A crash after it leaves |
//! |---|---|
//! | some objects are written | objects without a record, deleted by [`super::orphans`] |
//! | all objects are written | the same |
//! | the record is replaced | a snapshot that nodes may load |
//!
//! A save that fails deletes its objects. If it is unknown whether the record was replaced, they
//! stay: a record that names them may appear, and without one they are deleted as orphans.

use std::sync::Arc;

use bytes::Bytes;
use clarion_proto::{
    ids::{PartitionId, Position, log_of},
    time::Time,
};
use clarion_runtime::offload::offload;

use super::{
    Archive, ArchiveError, SAVE_WITHIN,
    gather::{Chunk, Gathering},
    record::{SnapshotId, Snapshots, StoredSnapshot, object, place},
};
use crate::{
    objects::ObjectError,
    owners::NodeName,
    seal::{Generation, Held, generation_of},
    store::{ChainAt, StoreError},
};

/// A snapshot that is being saved. Whoever does not finish it calls [`Saving::abandon`].
pub struct Saving {
    archive: Arc<Archive>,
    node: NodeName,
    partition: PartitionId,
    position: Position,
    id: SnapshotId,
    gathering: Gathering,
    /// Number of objects whose write has begun.
    written: u32,
    /// Lowest generation that sealed an object.
    generation: Option<Generation>,
    began: Time,
    /// Keeps the keys of the objects until the record names their generation.
    _held: Held,
}

impl Saving {
    pub(super) fn new(
        archive: Arc<Archive>,
        node: NodeName,
        partition: PartitionId,
        position: Position,
    ) -> Self {
        let (id, began) = (SnapshotId(archive.world.id()), archive.world.clock().now());
        let gathering = Gathering::new(partition);
        let _held = archive.seals.hold();
        Self {
            archive,
            node,
            partition,
            position,
            id,
            gathering,
            written: 0,
            generation: None,
            began,
            _held,
        }
    }

    /// Number of bytes that have arrived.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.gathering.bytes()
    }

    /// Takes the next piece; writes an object when a chunk is complete.
    ///
    /// # Errors
    /// The piece is not as documented, the save takes too long, or the objects cannot be written.
    pub async fn push(&mut self, piece: &[u8]) -> Result<(), ArchiveError> {
        match self.gathering.push(piece)? {
            Some(chunk) => self.write(chunk).await,
            None => Ok(()),
        }
    }

    /// Ends the snapshot, which has this size and this xxh3-64 by the node's words, and records it.
    ///
    /// # Errors
    /// See [`ArchiveError`]. The objects are deleted, unless the record may name them.
    pub async fn finish(mut self, bytes: u64, hash: u64) -> Result<StoredSnapshot, ArchiveError> {
        match self.stored(bytes, hash).await {
            Ok(stored) => {
                let StoredSnapshot { id, position, bytes, .. } = &stored;
                let (partition, node) = (self.partition, &self.node);
                tracing::info!(
                    %partition,
                    %node,
                    %id,
                    %position,
                    bytes,
                    "snapshot stored for a node"
                );
                Ok(stored)
            }
            Err(error) => {
                // An attempt without an answer may have been the one that was stored, also if the
                // next one finds that another process has taken the store over.
                let is_unknown = |error: &StoreError| error.may_pass() || error.ends_process();
                let is_unknown = matches!(&error, ArchiveError::Store(error) if is_unknown(error));
                if !is_unknown {
                    self.abandon().await;
                }
                Err(error)
            }
        }
    }

    /// Deletes what was written.
    pub async fn abandon(self) {
        for chunk in 0..self.written {
            let name = object(self.partition, self.id, chunk);
            if let Err(error) = self.archive.objects.delete(&name).await {
                // They are found and deleted later.
                self.archive.objects_away(&error);
                return;
            }
        }
    }

    async fn stored(&mut self, bytes: u64, hash: u64) -> Result<StoredSnapshot, ArchiveError> {
        let gathering = std::mem::replace(&mut self.gathering, Gathering::new(self.partition));
        let (last, gathered) = gathering.finish(bytes, hash)?;
        if let Some(last) = last {
            self.write(last).await?;
        }
        let (partition, position) = (self.partition, self.position);
        let log = log_of(partition, self.archive.store.logs());
        let chain = match self.archive.store.chain_at(log, position).await {
            Ok(ChainAt::Known(chain)) => chain.to_vec(),
            // A restore brings the batches later.
            Ok(ChainAt::Trimmed | ChainAt::Ahead) | Err(StoreError::Damaged { .. }) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let stored = StoredSnapshot {
            id: self.id,
            position,
            saved: self.archive.world.clock().wall(),
            bytes: gathered.bytes,
            chunks: gathered.chunks,
            generation: self.generation.expect("a snapshot has a chunk at least"),
            hash: gathered.hash,
            node: self.node.to_string(),
            damaged: false,
            chain,
        };
        let add = |snapshots: &mut Snapshots| {
            // The record was replaced, but the answer was lost.
            if snapshots.names(stored.id) {
                return Ok(false);
            }
            let add = snapshots.add(stored.clone());
            add.map(|()| true).map_err(|stored| ArchiveError::Behind {
                partition,
                stored,
                position,
            })
        };
        self.in_time()?;
        match self.archive.change(partition, add).await {
            Err(ArchiveError::Store(error)) if error.may_pass() => {
                let (_, snapshots) = self.archive.record(partition).await?;
                if snapshots.names(stored.id) { Ok(stored) } else { Err(error.into()) }
            }
            changed => changed.map(|()| stored),
        }
    }

    async fn write(&mut self, chunk: Chunk) -> Result<(), ArchiveError> {
        self.in_time()?;
        let Chunk { number, bytes } = chunk;
        let place = place(self.archive.store.identity(), self.partition, self.id, number);
        let seals = Arc::clone(&self.archive.seals);
        let sealed = offload(move || seals.seal(&place, &bytes)).await;
        let sealed =
            sealed.map_err(|error| StoreError::Away(format!("a chunk was not sealed: {error}")))?;
        let generation = generation_of(&sealed).expect("just sealed");
        self.generation = Some(self.generation.map_or(generation, |least| least.min(generation)));
        self.written = number + 1;
        let name = object(self.partition, self.id, number);
        match self.archive.objects.put(&name, Bytes::from(sealed)).await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.archive.objects_away(&error);
                Err(error.into())
            }
        }
    }

    /// Objects without a record are deleted when they are old: a save must not be as old.
    fn in_time(&self) -> Result<(), ArchiveError> {
        let took = self.archive.world.clock().now().since(self.began);
        if took < SAVE_WITHIN { Ok(()) } else { Err(ArchiveError::Late) }
    }
}

impl Archive {
    /// Logs that the objects cannot be reached.
    pub(super) fn objects_away(&self, error: &ObjectError) {
        if let Some(times) = self.noted(|trouble| &mut trouble.objects, "") {
            tracing::warn!(%error, times, "objects of snapshots cannot be reached");
        }
    }
}
