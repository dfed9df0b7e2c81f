//! The record of a partition's snapshots: which ones nodes may load, and which wait for deletion.
//!
//! ```text
//! saved ──▶ current ──a newer one is saved──▶ retired ──kept for a time, objects deleted──▶ gone
//! ```
//!
//! At most two snapshots are current, so that the older one can be loaded if the newer one is
//! damaged. A snapshot that was found damaged is the first that is retired. A node may still load a
//! retired snapshot, whose log must stay complete behind it: so the record decides up to where the
//! log may be trimmed ([`Snapshots::released`]).

use std::{fmt, time::Duration};

use clarion_proto::{
    error::InvalidField,
    ids::{LogIdentity, PartitionId, Position, UnixMillis},
    wire::store::v1 as wire,
};
use data_encoding::HEXLOWER;
use prost::Message as _;

use crate::{seal::Generation, store::Numbered};

/// Beginning of the keys of all records of snapshots.
pub const KEYS: &str = "snapshot/";
/// Beginning of the names of all objects of snapshots.
pub const OBJECTS: &str = "snapshots";
/// Number of current snapshots of a partition.
const CURRENT_MAX: usize = 2;
/// Largest number of retired snapshots that a record names. Objects of further ones are deleted as
/// objects that no record names ([`super::orphans`]).
const RETIRED_MAX: usize = 64;

/// Random id of a snapshot: part of the names of objects that nobody else writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub [u8; 16]);

/// Writes all 16 bytes in hexadecimal, as the names of the objects have them.
impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

/// One stored snapshot of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSnapshot {
    /// Id of the snapshot.
    pub id: SnapshotId,
    /// Position in the partition's log up to which records are included.
    pub position: Position,
    /// Time at which the snapshot was complete.
    pub saved: UnixMillis,
    /// Size of the snapshot, bytes.
    pub bytes: u64,
    /// Number of objects.
    pub chunks: u32,
    /// Lowest generation of the keys that sealed the objects.
    pub generation: Generation,
    /// xxh3-64 of all bytes.
    pub hash: u64,
    /// Name of the node that wrote the snapshot.
    pub node: String,
    /// Whether an object was found missing or damaged.
    pub damaged: bool,
    /// Chain of the log at the position; empty: the engine keeps none.
    pub chain: Vec<u8>,
}

/// A snapshot that nodes may still be loading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetiredSnapshot {
    /// The snapshot as it was.
    pub snapshot: StoredSnapshot,
    /// Time at which newer snapshots replaced it.
    pub retired: UnixMillis,
}

/// Stored snapshots of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshots {
    /// Snapshots that nodes may load, the highest position first.
    current: Vec<StoredSnapshot>,
    /// Snapshots that wait for their deletion, the one that was retired last first.
    retired: Vec<RetiredSnapshot>,
}

impl Snapshots {
    /// Reads a record's bytes.
    ///
    /// # Errors
    /// The bytes are damaged, or a later version wrote them.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let record = wire::PartitionSnapshots::decode(bytes).map_err(|e| e.to_string())?;
        let read = |(field, all): (&str, Vec<wire::StoredSnapshot>)| {
            let each = all.into_iter().enumerate().map(|(i, stored)| {
                let retired = UnixMillis(stored.retired_ms);
                let snapshot = StoredSnapshot::from_wire(stored)
                    .map_err(|error| error.within(&format!("{field}[{i}]")).to_string())?;
                Ok(RetiredSnapshot { snapshot, retired })
            });
            each.collect::<Result<Vec<_>, String>>()
        };
        let current = read(("current", record.current))?;
        let current: Vec<_> = current.into_iter().map(|current| current.snapshot).collect();
        if current.len() > CURRENT_MAX || !current.is_sorted_by(|a, b| a.position >= b.position) {
            return Err(format!("current: must be at most {CURRENT_MAX}, by position descending"));
        }
        Ok(Self { current, retired: read(("retired", record.retired))? })
    }

    /// The record with a number, to be stored.
    #[must_use]
    pub fn numbered(&self, partition: PartitionId, number: u64) -> Numbered {
        let retired = self.retired.iter().map(|RetiredSnapshot { snapshot, retired }| {
            wire::StoredSnapshot { retired_ms: retired.0, ..snapshot.to_wire() }
        });
        let record = wire::PartitionSnapshots {
            current: self.current.iter().map(StoredSnapshot::to_wire).collect(),
            retired: retired.collect(),
        };
        Numbered::new(key(partition), number, record.encode_to_vec())
    }

    /// Snapshots that nodes may load, the highest position first.
    #[must_use]
    pub fn current(&self) -> &[StoredSnapshot] {
        &self.current
    }

    /// The current snapshot of an id.
    #[must_use]
    pub fn find(&self, id: SnapshotId) -> Option<&StoredSnapshot> {
        self.current.iter().find(|snapshot| snapshot.id == id)
    }

    /// The snapshot of an id, current or retired.
    #[must_use]
    pub fn find_kept(&self, id: SnapshotId) -> Option<&StoredSnapshot> {
        self.all().find(|snapshot| snapshot.id == id)
    }

    /// Whether the record names a snapshot, current or retired.
    #[must_use]
    pub fn names(&self, id: SnapshotId) -> bool {
        self.all().any(|snapshot| snapshot.id == id)
    }

    /// The newest current snapshot that is not known to be damaged.
    #[must_use]
    pub fn newest(&self) -> Option<&StoredSnapshot> {
        self.sound().next()
    }

    /// Current snapshots that are not known to be damaged, the highest position first.
    pub fn sound(&self) -> impl Iterator<Item = &StoredSnapshot> {
        self.current.iter().filter(|snapshot| !snapshot.damaged)
    }

    /// Adds a new snapshot and retires those that are no longer needed.
    ///
    /// # Errors
    /// A snapshot of this position or a later one is stored; returns its position.
    pub fn add(&mut self, new: StoredSnapshot) -> Result<(), Position> {
        if let Some(newest) = self.newest().filter(|newest| newest.position >= new.position) {
            return Err(newest.position);
        }
        let retired = new.saved;
        let at = self.current.partition_point(|current| current.position > new.position);
        self.current.insert(at, new);
        while self.current.len() > CURRENT_MAX || self.current.iter().any(|s| s.damaged) {
            let last = self.current.len() - 1;
            let at = self.current.iter().position(|s| s.damaged).unwrap_or(last);
            let snapshot = self.current.remove(at);
            self.retired.insert(0, RetiredSnapshot { snapshot, retired });
        }
        self.retired.truncate(RETIRED_MAX);
        Ok(())
    }

    /// Marks a current snapshot as damaged. Returns whether the record has changed.
    pub fn mark_damaged(&mut self, id: SnapshotId) -> bool {
        let found = self.current.iter_mut().find(|snapshot| snapshot.id == id && !snapshot.damaged);
        found.map(|snapshot| snapshot.damaged = true).is_some()
    }

    /// Retired snapshots whose time is over.
    pub fn expired(&self, now: UnixMillis, keep: Duration) -> Vec<StoredSnapshot> {
        let due = self.retired.iter().filter(|retired| is_over(retired.retired, now, keep));
        due.map(|retired| retired.snapshot.clone()).collect()
    }

    /// Removes retired snapshots whose objects are deleted. Returns whether the record has changed.
    pub fn forget(&mut self, ids: &[SnapshotId]) -> bool {
        let before = self.retired.len();
        self.retired.retain(|retired| !ids.contains(&retired.snapshot.id));
        self.retired.len() < before
    }

    /// Position up to which the partition's log is no longer needed; `None`: all of it is.
    ///
    /// Two sound snapshots must be current. The log is complete behind every snapshot that the
    /// record names, also a retired one that a node may have loaded and not followed yet, and the
    /// first of them must be older than `keep`. With too little room only the current snapshots
    /// count: a node that has loaded a retired one must load again, but a full store would take no
    /// registrations.
    #[must_use]
    pub fn released(&self, now: UnixMillis, keep: Duration, is_short: bool) -> Option<Position> {
        let older = self.sound().nth(CURRENT_MAX - 1)?;
        if is_short {
            return Some(older.position);
        }
        let first = self.all().min_by_key(|snapshot| snapshot.position)?;
        // More would be kept than the record can name: then the first that it names decides.
        let is_full = self.retired.len() >= RETIRED_MAX;
        (is_full || is_over(first.saved, now, keep)).then_some(first.position)
    }

    fn all(&self) -> impl Iterator<Item = &StoredSnapshot> {
        self.current.iter().chain(self.retired.iter().map(|retired| &retired.snapshot))
    }
}

impl StoredSnapshot {
    fn to_wire(&self) -> wire::StoredSnapshot {
        wire::StoredSnapshot {
            id: self.id.0.to_vec(),
            position: self.position.0,
            chain: self.chain.clone(),
            saved_ms: self.saved.0,
            bytes: self.bytes,
            chunks: self.chunks,
            generation: self.generation.0,
            hash: self.hash,
            node: self.node.clone(),
            retired_ms: 0,
            damaged: self.damaged,
        }
    }

    fn from_wire(stored: wire::StoredSnapshot) -> Result<Self, InvalidField> {
        Ok(Self {
            id: snapshot_id(&stored.id)?,
            position: Position(stored.position),
            saved: UnixMillis(stored.saved_ms),
            bytes: stored.bytes,
            chunks: stored.chunks,
            generation: Generation(stored.generation),
            hash: stored.hash,
            node: stored.node,
            damaged: stored.damaged,
            chain: stored.chain,
        })
    }
}

/// Reads the id of a snapshot.
///
/// # Errors
/// The length is not 16.
pub fn snapshot_id(bytes: &[u8]) -> Result<SnapshotId, InvalidField> {
    let problem = || format!("must have 16 bytes; got {}", bytes.len());
    bytes.try_into().map(SnapshotId).map_err(|_| InvalidField::new("id", problem()))
}

/// Key of a partition's record.
#[must_use]
pub fn key(partition: PartitionId) -> String {
    format!("{KEYS}{:05}", partition.0)
}

/// Partition of a record's key.
#[must_use]
pub fn partition_of(key: &str) -> Option<PartitionId> {
    number(key.strip_prefix(KEYS)?, 5).map(PartitionId)
}

/// Beginning of the names of the objects of a partition's snapshots.
#[must_use]
pub fn folder(partition: PartitionId) -> String {
    format!("{OBJECTS}/{:05}", partition.0)
}

/// Name of an object of a snapshot.
#[must_use]
pub fn object(partition: PartitionId, id: SnapshotId, chunk: u32) -> String {
    format!("{}/{id}/{chunk:06}", folder(partition))
}

/// Partition, snapshot and chunk of an object's name; `None`: it is none of a snapshot.
#[must_use]
pub fn parse_object(name: &str) -> Option<(PartitionId, SnapshotId, u32)> {
    let mut parts = name.strip_prefix(OBJECTS)?.strip_prefix('/')?.split('/');
    let (partition, id, chunk) = (parts.next()?, parts.next()?, parts.next()?);
    let id = HEXLOWER.decode(id.as_bytes()).ok()?.try_into().ok()?;
    let found = (PartitionId(number(partition, 5)?), SnapshotId(id), number(chunk, 6)?);
    parts.next().is_none().then_some(found)
}

/// Place of an object in a seal: it opens only as this chunk of this snapshot.
#[must_use]
pub fn place(log: LogIdentity, partition: PartitionId, id: SnapshotId, chunk: u32) -> Vec<u8> {
    let (partition, chunk) = (partition.0.to_le_bytes(), chunk.to_le_bytes());
    [&b"snapshot"[..], &log.0, &partition, &id.0, &chunk].concat()
}

fn number<N: std::str::FromStr>(text: &str, digits: usize) -> Option<N> {
    let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// Whether at least `keep` has passed since `since`.
pub(super) fn is_over(since: UnixMillis, now: UnixMillis, keep: Duration) -> bool {
    u128::from(now.0.saturating_sub(since.0)) >= keep.as_millis() && now >= since
}

#[cfg(test)]
pub(super) mod tests;
