//! The archive: snapshots of partitions, saved by nodes, kept in objects, and the trimming of the
//! logs behind them.
//!
//! A node that starts from nothing loads the newest snapshot of each partition and follows the log
//! from there, so a log need not hold what every usable snapshot includes.
//!
//! | What | Where |
//! |---|---|
//! | which snapshots a partition has | [`record`]: a numbered record, replaced by compare-and-swap |
//! | one save: pieces to chunks | [`gather`] (machine), [`saving`] (shell) |
//! | one load | [`loading`] |
//! | up to where a log is not needed | [`trimming`] (machine) |
//! | who saves no snapshots | [`overdue`] (machine) |
//! | objects that nobody names | [`orphans`] (function) |
//! | all of it once a minute | [`upkeep`] (shell) |
//!
//! **Order of writes.** A save writes its objects first and then the record, so a record never
//! names what is not there. A crash between the two leaves objects that no record names; they are
//! deleted when they are older than any save may be. A retired snapshot loses its objects first and
//! then its place in the record: a crash between the two leaves a record that names them still, and
//! the next round deletes the rest without having to search for it. Nobody begins to load a retired
//! snapshot, so half of one harms nobody.
//!
//! **Trimming never destroys the last way back.** A log is trimmed only behind two sound snapshots
//! of each of its partitions, and only if all their objects are listed with their sizes at that
//! moment: an empty folder, a deleted bucket or objects that were lost with a process stop the
//! trimming.
//! Records are read again immediately before each trim. A save that comes between that read and the
//! trim only moves the snapshots forward, so the position that was read is still released; nothing
//! but a newer snapshot removes a current one.
//!
//! An active alert does not need the log. Its record names positions that a node must have reached
//! before it walks, and a snapshot beyond them satisfies that as well as the log does: a partition
//! is a function of the log's prefix, and a node that follows the log is beyond them just the same.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use clarion_proto::{
    error::InvalidField,
    ids::{ClusterName, LogIdentity, PartitionId, Position, log_of},
    time::Time,
    wire::shard_v1 as wire,
};
use clarion_runtime::{repeated::Repeated, world::World};
use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::watch;

pub use self::{loading::Loading, saving::Saving};
use self::{
    record::{SnapshotId, Snapshots, StoredSnapshot},
    upkeep::Upkeep,
};
use crate::{
    objects::Objects,
    owners::NodeName,
    seal::Seals,
    store::{ChainAt, Store, StoreError},
};

#[cfg(test)]
pub(crate) mod fixtures;
mod error;
pub mod gather;
mod loading;
pub mod orphans;
pub mod overdue;
pub mod record;
mod records;
pub(crate) mod saving;
#[cfg(test)]
mod tests;
pub mod trimming;
mod upkeep;

pub use error::ArchiveError;

/// Time within which all of a save is stored, its record included: half of the age at which objects
/// without a record are deleted.
pub const SAVE_WITHIN: Duration = Duration::from_secs(30 * 60);
/// Number of chains that a listing asks the store for at once: a node that owns 4,096 partitions
/// must have its answer within the 5 s of its request.
const ASKED_AT_ONCE: usize = 16;

/// Configuration of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveConfig {
    /// Nodes of another cluster save and load nothing.
    pub cluster: ClusterName,
    /// Number of partitions, P.
    pub partitions: u16,
    /// Time between two snapshots of a partition whose log grows; zero: nodes save none, and no log
    /// is trimmed.
    pub every: Duration,
    /// Time for which a snapshot can be followed and its objects stay, after newer ones have
    /// replaced it.
    pub keep: Duration,
}

/// Snapshots of all partitions of a cluster.
pub struct Archive {
    config: ArchiveConfig,
    store: Arc<dyn Store>,
    objects: Objects,
    seals: Arc<Seals>,
    world: World,
    /// Number of partitions that have no snapshot although one is due.
    overdue: watch::Sender<usize>,
    trouble: Mutex<Trouble>,
    loss: Mutex<Option<Loss>>,
    upkeep: tokio::sync::Mutex<Upkeep>,
}

/// Number of nodes that are remembered after a loss: names can be invented.
const CLEAN_MAX: usize = 4_096;

/// A loss of changes that the operator has accepted.
#[derive(Debug)]
struct Loss {
    /// Heads of the logs at the start after the loss.
    heads: Vec<Position>,
    /// Nodes that have nothing of what was lost.
    clean: BTreeSet<String>,
}

/// Limits for the log lines of each kind of trouble.
#[derive(Debug, Default)]
struct Trouble {
    damaged: Repeated,
    unreadable: Repeated,
    objects: Repeated,
    upkeep: Repeated,
    guard: Repeated,
    overdue: Repeated,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Archive {
    /// The archive of a store, with the objects that its records name and the keys that seal them.
    #[must_use]
    pub fn new(
        config: ArchiveConfig,
        store: Arc<dyn Store>,
        objects: Objects,
        seals: Arc<Seals>,
        world: World,
    ) -> Self {
        let (overdue, trouble) = (watch::Sender::new(0), Mutex::default());
        let upkeep = Upkeep::new(&config, store.logs(), world.clock().now()).into();
        let loss = Mutex::default();
        Self { config, store, objects, seals, world, overdue, trouble, loss, upkeep }
    }

    /// Takes the heads of the logs after a loss of changes that the operator has accepted.
    pub(crate) fn accept_loss(&self, heads: Vec<Position>) {
        *self.loss.lock() = Some(Loss { heads, clean: BTreeSet::new() });
    }

    /// A position of a node that may include changes that its log has lost: behind the head that
    /// the log had after the loss, although the log has other batches there by now. A node that has
    /// asked from before that head once has rebuilt, or never had them.
    pub(crate) fn lost_position(&self, request: &wire::FeedRequest) -> Option<wire::LogPosition> {
        let mut loss = self.loss.lock();
        let Loss { heads, clean } = loss.as_mut()?;
        if clean.contains(&request.node) {
            return None;
        }
        let is_behind = |asked: &&wire::LogPosition| {
            let head = usize::try_from(asked.log).ok().and_then(|log| heads.get(log));
            head.is_some_and(|head| asked.position > head.0)
        };
        let found = request.positions.iter().find(is_behind).copied();
        if found.is_none() && clean.len() < CLEAN_MAX {
            clean.insert(request.node.clone());
        }
        found
    }

    /// The configuration of the archive.
    #[must_use]
    pub fn config(&self) -> &ArchiveConfig {
        &self.config
    }

    /// Channel of the number of partitions that have no snapshot although one is due.
    #[must_use]
    pub fn overdue(&self) -> watch::Receiver<usize> {
        self.overdue.subscribe()
    }

    /// Checks that a message comes from a node of this cluster that follows this log. Returns the
    /// node's name.
    ///
    /// # Errors
    /// [`ArchiveError::OtherCluster`], [`ArchiveError::OtherLog`] or a field of the message.
    pub fn check(&self, caller: Option<&wire::SnapshotCaller>) -> Result<NodeName, ArchiveError> {
        let caller = caller.ok_or_else(|| InvalidField::new("caller", "is required"))?;
        let ours = &self.config.cluster;
        if caller.cluster != ours.as_str() {
            let theirs = caller.cluster.chars().take(63).collect();
            return Err(ArchiveError::OtherCluster { theirs, ours: ours.clone() });
        }
        let log = self.store.identity();
        if LogIdentity::from_wire(&caller.log_identity) != Ok(log) {
            return Err(ArchiveError::OtherLog { ours: log });
        }
        Ok(NodeName::new(&caller.node).map_err(|error| error.within("caller"))?)
    }

    /// Partition of a number in a message.
    ///
    /// # Errors
    /// The cluster has no such partition.
    pub fn partition(&self, number: u32, field: &str) -> Result<PartitionId, InvalidField> {
        let count = self.config.partitions;
        let found = u16::try_from(number).ok().filter(|number| *number < count);
        let problem = || format!("the cluster has {count} partitions from 0; got {number}");
        found.map(PartitionId).ok_or_else(|| InvalidField::new(field, problem()))
    }

    /// Snapshots of some partitions that can be loaded, by partition: the newest first and those
    /// that were found damaged last. One with changes that the log has lost is never loaded:
    /// whoever followed the log behind it would lack what the log has instead. A partition whose
    /// record cannot be read has none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn list(
        &self,
        partitions: &[PartitionId],
    ) -> Result<Vec<(PartitionId, StoredSnapshot)>, StoreError> {
        let records = self.records().await?;
        let mut current = Vec::new();
        for partition in partitions {
            let snapshots = records.get(partition).and_then(|record| record.as_ref());
            let snapshots = snapshots.map(Snapshots::current).unwrap_or_default();
            current.extend(snapshots.iter().map(|snapshot| (*partition, snapshot.clone())));
        }
        let checked = stream::iter(current).map(|(partition, snapshot)| async move {
            let is_forked = self.is_forked(partition, &snapshot).await?;
            Ok::<_, StoreError>((!is_forked).then_some((partition, snapshot)))
        });
        let checked: Vec<_> = checked.buffered(ASKED_AT_ONCE).try_collect().await?;
        let mut found: Vec<_> = checked.into_iter().flatten().collect();
        found.sort_by_key(|(partition, snapshot)| (*partition, snapshot.damaged));
        Ok(found)
    }

    /// Whether a snapshot has changes that its log has lost. Such a snapshot is marked as damaged.
    async fn is_forked(
        &self,
        partition: PartitionId,
        snapshot: &StoredSnapshot,
    ) -> Result<bool, StoreError> {
        if snapshot.chain.is_empty() {
            return Ok(false);
        }
        let log = log_of(partition, self.store.logs());
        let is_forked = match self.store.chain_at(log, snapshot.position).await {
            Ok(ChainAt::Known(chain)) => chain[..] != snapshot.chain[..],
            // A damaged batch must not keep a node from the snapshots of all its partitions.
            Ok(ChainAt::Trimmed) | Err(StoreError::Damaged { .. }) => false,
            Ok(ChainAt::Ahead) => true,
            Err(error) => return Err(error),
        };
        if is_forked && !snapshot.damaged {
            let (id, position) = (snapshot.id, snapshot.position);
            if let Some(times) = self.noted(|trouble| &mut trouble.damaged, &id.to_string()) {
                tracing::error!(
                    %partition,
                    %id,
                    %position,
                    times,
                    "snapshot has changes that the store has lost"
                );
            }
            self.mark_damaged(partition, id).await;
        }
        Ok(is_forked)
    }

    /// Begins to save a snapshot of a partition at a position, by a node that holds the partition
    /// under an ownership.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub async fn save(
        self: &Arc<Self>,
        node: NodeName,
        partition: PartitionId,
        position: Position,
        ownership: u64,
    ) -> Result<Saving, ArchiveError> {
        if self.config.every.is_zero() {
            return Err(ArchiveError::Off);
        }
        self.check_owner(&node, partition, ownership).await?;
        let log = log_of(partition, self.store.logs());
        let heads = self.store.heads().await?;
        let head = heads.get(usize::from(log.0)).copied().unwrap_or_default();
        if position == Position(0) {
            return Err(InvalidField::new("start.position", "must be at least 1; got 0").into());
        }
        if position > head {
            return Err(ArchiveError::Ahead { log, head, position });
        }
        let (_, snapshots) = self.record(partition).await?;
        self.check_newer(partition, position, &snapshots)?;
        Ok(Saving::new(Arc::clone(self), node, partition, position))
    }

    /// Opens a current snapshot to be loaded.
    ///
    /// # Errors
    /// [`ArchiveError::Gone`] or an error of the store.
    pub async fn open(
        self: &Arc<Self>,
        partition: PartitionId,
        id: SnapshotId,
    ) -> Result<Loading, ArchiveError> {
        let (_, snapshots) = self.record(partition).await?;
        let found = snapshots.find(id).ok_or(ArchiveError::Gone { partition, id })?;
        Ok(Loading::new(Arc::clone(self), partition, found.clone()))
    }

    /// Opens a snapshot that the record names, also one that was retired since it was listed: its
    /// objects, and the log behind it, stay for a while.
    ///
    /// # Errors
    /// [`ArchiveError::Gone`] or an error of the store.
    pub(crate) async fn open_kept(
        self: &Arc<Self>,
        partition: PartitionId,
        id: SnapshotId,
    ) -> Result<Loading, ArchiveError> {
        let (_, snapshots) = self.record(partition).await?;
        let found = snapshots.find_kept(id).ok_or(ArchiveError::Gone { partition, id })?;
        Ok(Loading::new(Arc::clone(self), partition, found.clone()))
    }

    /// Begins to save a snapshot of a backup, at the position that it had. Only for a new store.
    pub(crate) fn restore(self: &Arc<Self>, partition: PartitionId, position: Position) -> Saving {
        let node = NodeName::new("restore").expect("a valid name");
        Saving::new(Arc::clone(self), node, partition, position)
    }

    /// The store with the records of snapshots.
    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    async fn check_owner(
        &self,
        node: &NodeName,
        partition: PartitionId,
        theirs: u64,
    ) -> Result<(), ArchiveError> {
        let newest = self.store.ownership().await?;
        let number = newest.as_ref().map_or(0, |newest| newest.number);
        let owner = newest.as_ref().and_then(|newest| newest.owner(partition));
        if owner == Some(node) && number == theirs {
            return Ok(());
        }
        let owner = owner.map_or("nobody".to_owned(), ToString::to_string);
        Err(ArchiveError::NotOwner { partition, node: node.clone(), owner, number, theirs })
    }

    /// Checks that a new snapshot would bring the partition forward, and that it does not come too
    /// soon: a node that saved without a pause would fill the objects.
    fn check_newer(
        &self,
        partition: PartitionId,
        position: Position,
        snapshots: &Snapshots,
    ) -> Result<(), ArchiveError> {
        let mut sound = snapshots.sound();
        let Some(newest) = sound.next() else { return Ok(()) };
        if newest.position >= position {
            let stored = newest.position;
            return Err(ArchiveError::Behind { partition, stored, position });
        }
        let min = self.config.every / 4;
        // A snapshot from the future was saved under a clock that was wrong.
        let age = self.world.clock().wall().0.abs_diff(newest.saved.0);
        let age = Duration::from_millis(age);
        if sound.next().is_some() && age < min {
            return Err(ArchiveError::TooSoon { partition, age, min });
        }
        Ok(())
    }

    /// Whether a line about trouble is due, with the number of occurrences that it stands for.
    fn noted(&self, kind: impl FnOnce(&mut Trouble) -> &mut Repeated, reason: &str) -> Option<u64> {
        let now = self.world.clock().now().since(Time(0));
        kind(&mut self.trouble.lock()).note(reason, now)
    }
}
