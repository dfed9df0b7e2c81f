//! Partitions that are being restored from snapshots, piece by piece.
//!
//! ```text
//!            Begin                Data                      End
//! (nothing) ──────▶ reading ──────────────────▶ reading ──────────▶ the partition is replaced
//!                     │  ▲ Begin: from the start    │
//!                     │  └──────────────────────────┤
//!                     └─ damage, Abandon, lost ─────┴──────────────▶ (nothing)
//! ```
//!
//! A partition keeps its former content, if it has any, until a snapshot is read as a whole. Waves
//! then walk it from the start, without the devices that were handed: equal records give equal
//! ordinals, so the set of handed devices holds for the new content too.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
};

use bytes::{Buf, Bytes};
use clarion_proto::ids::{PartitionId, Position};

use super::Core;
use crate::{
    command::{Event, RestorePiece},
    partition::{
        Vocabulary,
        snapshot::{Restored, SnapshotError, SnapshotReader},
    },
};

/// Most bytes of a snapshot that are read in one turn while waves are under way: less than a
/// section of it, some half a millisecond of work.
const BYTES_PER_TURN: usize = 64 << 10;

/// Snapshots that are being read, and the results that nobody has heard of.
#[derive(Debug, Default)]
pub(super) struct Restores {
    reading: BTreeMap<PartitionId, Reading>,
    /// The piece that is read now.
    piece: Option<(PartitionId, u64, Bytes)>,
    results: VecDeque<(PartitionId, u64, Result<Position, SnapshotError>)>,
}

struct Reading {
    load: u64,
    reader: SnapshotReader,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("load", &self.load).finish_non_exhaustive()
    }
}

impl Restores {
    /// Whether the next piece may come.
    pub(super) fn is_free(&self) -> bool {
        self.piece.is_none()
    }

    /// Drops what belongs to partitions that the core does not hold.
    pub(super) fn own(&mut self, partitions: &[PartitionId]) {
        self.reading.retain(|id, _| partitions.contains(id));
        self.results.retain(|(id, ..)| partitions.contains(id));
        self.piece.take_if(|(id, ..)| !partitions.contains(id));
    }

    /// The next result for the control plane.
    pub(super) fn take_result(&mut self) -> Option<Event> {
        let (partition, load, result) = self.results.pop_front()?;
        Some(Event::Restored { partition, load, result })
    }

    fn begin(&mut self, id: PartitionId, load: u64, hash_seed: u64) {
        if self.reading.get(&id).is_none_or(|reading| reading.load <= load) {
            let reader = SnapshotReader::new(hash_seed);
            self.reading.insert(id, Reading { load, reader });
        }
    }

    /// Removes a reader, if it is the one of this load.
    fn take(&mut self, id: PartitionId, load: u64) -> Option<SnapshotReader> {
        self.reading.get(&id).filter(|reading| reading.load == load)?;
        self.reading.remove(&id).map(|reading| reading.reader)
    }

    /// Reads some of the present piece.
    fn read(&mut self, bytes_max: usize, words: &mut Vocabulary) {
        let Some((id, load, bytes)) = &mut self.piece else { return };
        let (id, load) = (*id, *load);
        let reading = self.reading.get_mut(&id).filter(|reading| reading.load == load);
        let some = bytes.split_to(bytes.len().min(bytes_max));
        let read = reading.map_or(Ok(()), |reading| reading.reader.push(&some, words));
        if let Err(error) = read {
            self.reading.remove(&id);
            self.results.push_back((id, load, Err(error)));
        }
        self.piece.take_if(|(.., rest)| !rest.has_remaining());
    }
}

impl Core {
    pub(super) fn restore(&mut self, id: PartitionId, load: u64, piece: RestorePiece) {
        match piece {
            RestorePiece::Begin if self.partitions.slot_of(id).is_some() => {
                self.restores.begin(id, load, self.partitions.hash_seed());
            }
            RestorePiece::Begin => {}
            RestorePiece::Data(bytes) => self.restores.piece = Some((id, load, bytes)),
            RestorePiece::End => {
                let Some(reader) = self.restores.take(id, load) else { return };
                let result = reader.finish().and_then(|restored| restored.of(id));
                let result = result.map(|Restored { partition, position }| {
                    self.replace_with(id, (partition, position));
                    position
                });
                self.restores.results.push_back((id, load, result));
            }
            RestorePiece::Abandon => drop(self.restores.take(id, load)),
        }
    }

    /// Makes a partition empty: what was applied may be what its log has lost, so no wave waits for
    /// the position that it had.
    pub(super) fn rebuild(&mut self, id: PartitionId) {
        // The end of a load that was stopped may still be in the queue.
        self.restores.reading.remove(&id);
        if let Some((slot, _)) = self.partitions.replace(id, None) {
            self.restart_waves(slot, Position(0));
        }
    }

    /// Reads a part of the piece that came last. Returns true if more is left.
    pub(super) fn read_snapshots(&mut self, is_busy: bool) -> bool {
        let bytes_max = if is_busy { BYTES_PER_TURN } else { usize::MAX };
        self.restores.read(bytes_max, &mut self.partitions.words);
        !self.restores.is_free()
    }

    /// No wave may meet an older state of a partition than it has met before.
    fn replace_with(&mut self, id: PartitionId, restored: (crate::partition::Partition, Position)) {
        if let Some((slot, before)) = self.partitions.replace(id, Some(restored)) {
            self.restart_waves(slot, before);
        }
    }

    fn restart_waves(&mut self, slot: u16, from: Position) {
        let Self { waves, partitions, .. } = self;
        for run in waves.iter_mut().flatten() {
            run.restart(slot, from);
            run.start_parts(partitions);
        }
    }
}

#[cfg(test)]
impl Core {
    /// Returns a partition with the words of its core, and its position.
    pub(crate) fn held_partition(
        &self,
        id: PartitionId,
    ) -> Option<(&crate::partition::Partition, &Vocabulary, Option<Position>)> {
        let slot = self.partitions.slot_of(id)?;
        let partitions = &self.partitions;
        Some((partitions.partition(slot), &partitions.words, partitions.applied(slot)))
    }
}
