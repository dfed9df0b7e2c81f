//! The partitions of this core, each with the applied position of its log.
//!
//! Records are applied between turns, a bounded number at a time: a feed that catches up must not
//! stop a wave, and a wave must not stop the feed. The core holds only one batch; the next batch
//! waits in the driver's bounded queue.
//!
//! ```text
//!                own                     restored from a snapshot, or rebuilt
//! (not held) ──────────▶ without content ─────────────────────────▶ at a position ──▶ batches
//!                own, nothing is awaited: at position 0                 ▲         │
//!                                                                       └─────────┘
//!                                                   restored or rebuilt: another position
//! ```
//!
//! A partition takes a batch only if the feed names it and the batch is behind its position, and no
//! batch that began before its content changed. So each record of a partition is applied once, in
//! order, however far the other partitions of the log are: a partition that was restored or rebuilt
//! takes nothing before the feed follows it, because a batch for the others lacks its records.

use std::{collections::BTreeMap, vec};

use clarion_proto::{
    device::Record,
    ids::{LogId, PartitionId, Position, UnixMillis, log_of},
};

use crate::{
    command::{HeldStats, Owns},
    partition::{Applied, Partition, Vocabulary, ahead},
};

/// Partitions by slot; a slot holds the same partition for as long as the core owns it.
#[derive(Debug)]
pub(crate) struct Partitions {
    hash_seed: u64,
    slots: Vec<Option<Partition>>,
    /// State of each slot's partition.
    states: Vec<State>,
    slot_of: BTreeMap<PartitionId, u16>,
    /// Slots of the partitions of each log.
    of_log: BTreeMap<LogId, Vec<u16>>,
    pub(crate) words: Vocabulary,
    batch: Option<Batch>,
    /// Number of changes of ownership.
    owns: u64,
    /// Whether records were applied since the last call of [`Partitions::held`].
    changed: bool,
}

/// Progress of one partition.
#[derive(Debug, Clone, Copy)]
struct State {
    /// Last batch of the log that is included; `None`: the content is still to come.
    applied: Option<Position>,
    /// Whether the partition takes the records of the held batch.
    takes: bool,
}

#[derive(Debug)]
struct Batch {
    log: LogId,
    position: Position,
    appended: UnixMillis,
    records: vec::IntoIter<(PartitionId, Record)>,
}

impl Partitions {
    /// No partitions; those that come hash device ids with this seed.
    pub(crate) fn new(hash_seed: u64) -> Self {
        Self {
            hash_seed,
            slots: Vec::new(),
            states: Vec::new(),
            slot_of: BTreeMap::new(),
            of_log: BTreeMap::new(),
            words: Vocabulary::default(),
            batch: None,
            owns: 0,
            changed: false,
        }
    }

    /// Sets the owned partitions. Returns the slots of the partitions that were removed.
    pub(crate) fn own(&mut self, owns: &Owns) -> Vec<u16> {
        let wanted = &owns.partitions;
        let gone: Vec<_> = self
            .slot_of
            .iter()
            .filter(|(id, _)| !wanted.contains(id))
            .map(|(id, s)| (*id, *s))
            .collect();
        for (id, slot) in &gone {
            self.slot_of.remove(id);
            self.slots[usize::from(*slot)] = None;
            self.states[usize::from(*slot)].takes = false;
        }
        self.owns += 1;
        for id in wanted {
            if self.slot_of.contains_key(id) {
                continue;
            }
            let state = State {
                applied: (!owns.awaited.contains(id)).then_some(Position(0)),
                takes: false,
            };
            let partition = Some(Partition::new(*id, self.hash_seed));
            let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
            if free == self.slots.len() {
                self.slots.push(partition);
                self.states.push(state);
            } else {
                (self.slots[free], self.states[free]) = (partition, state);
            }
            self.slot_of.insert(*id, u16::try_from(free).expect("at most PARTITIONS_MAX"));
        }
        self.of_log.clear();
        for (id, slot) in &self.slot_of {
            self.of_log.entry(log_of(*id, owns.log_count)).or_default().push(*slot);
        }
        self.changed = true;
        gone.into_iter().map(|(_, slot)| slot).collect()
    }

    /// Replaces the content of a partition. `None`: it becomes empty, at position 0. Returns the
    /// slot and the position before, or `None` if the core does not hold the partition.
    pub(crate) fn replace(
        &mut self,
        id: PartitionId,
        restored: Option<(Partition, Position)>,
    ) -> Option<(u16, Position)> {
        let slot = self.slot_of(id)?;
        let (partition, position) =
            restored.unwrap_or_else(|| (Partition::new(id, self.hash_seed), Position(0)));
        let state = &mut self.states[usize::from(slot)];
        let before = state.applied.replace(position).unwrap_or_default();
        // The rest of a batch that was begun with the former content is not for this one: the feed
        // sends the batch again, or the content includes it.
        state.takes = false;
        self.slots[usize::from(slot)] = Some(partition);
        self.changed = true;
        Some((slot, before))
    }

    /// Returns a partition, the vocabulary of its words, and its position; no position while a
    /// batch is held, because the partition is then between two positions.
    pub(crate) fn between_batches(
        &mut self,
        id: PartitionId,
    ) -> Option<(&mut Partition, &Vocabulary, Option<Position>)> {
        let slot = usize::from(self.slot_of(id)?);
        let applied = self.states[slot].applied?;
        let applied = Some(applied).filter(|_| self.batch.is_none());
        Some((self.slots[slot].as_mut()?, &self.words, applied))
    }

    /// Ends the snapshot of a partition that is being written, if there is one.
    pub(crate) fn end_snapshot(&mut self, id: PartitionId) {
        let slot = self.slot_of(id).map(usize::from);
        slot.and_then(|slot| self.slots[slot].as_mut())
            .into_iter()
            .for_each(Partition::end_snapshot);
    }

    /// Seed with which the partitions of this core hash device ids.
    pub(crate) fn hash_seed(&self) -> u64 {
        self.hash_seed
    }

    pub(crate) fn slot_of(&self, partition: PartitionId) -> Option<u16> {
        self.slot_of.get(&partition).copied()
    }

    /// # Panics
    /// If the slot is not owned. Waves drop their parts when [`Partitions::own`] removes a slot.
    pub(crate) fn partition(&self, slot: u16) -> &Partition {
        self.slots[usize::from(slot)].as_ref().expect("an owned slot")
    }

    /// Returns all partitions by number.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Partition> {
        self.slot_of.values().map(|slot| self.partition(*slot))
    }

    /// Returns the partition with the lowest number above this one.
    pub(crate) fn next_partition(&self, after: Option<PartitionId>) -> Option<&Partition> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.slot_of
            .range((from, std::ops::Bound::Unbounded))
            .next()
            .map(|(_, slot)| self.partition(*slot))
    }

    /// Returns the applied position of a slot's partition; `None` while its content is still to
    /// come.
    pub(crate) fn applied(&self, slot: u16) -> Option<Position> {
        self.states[usize::from(slot)].applied
    }

    /// Reports whether [`Partitions::take`] may be called.
    pub(crate) fn is_free(&self) -> bool {
        self.batch.is_none()
    }

    /// Accepts a batch for some partitions, which [`Partitions::apply`] applies.
    ///
    /// # Panics
    /// If a batch is held already.
    pub(crate) fn take(
        &mut self,
        log: LogId,
        position: Position,
        appended: UnixMillis,
        partitions: &[PartitionId],
        records: Vec<(PartitionId, Record)>,
    ) {
        assert!(self.batch.is_none(), "one batch at a time: ask feed_ready");
        for slot in partitions.iter().filter_map(|id| self.slot_of.get(id)) {
            let state = &mut self.states[usize::from(*slot)];
            state.takes = state.applied.is_some_and(|at| at < position);
        }
        self.batch = Some(Batch { log, position, appended, records: records.into_iter() });
    }

    /// Applies at most the given number of records. `applied` is called with the slot and the
    /// effect of each record that may concern waves. Returns true if the batch is complete, and the
    /// positions of the partitions that took it have advanced.
    pub(crate) fn apply(&mut self, records: usize, mut applied: impl FnMut(u16, Applied)) -> bool {
        let Some(batch) = &mut self.batch else { return false };
        let records = records.min(batch.records.as_slice().len());
        let states = &self.states;
        ahead::apply_all(
            &mut self.slots,
            batch.appended,
            &batch.records.as_slice()[..records],
            &mut self.words,
            // `None`: the partition has moved to another core or node meanwhile, or is further on.
            |id| {
                let slot = usize::from(*self.slot_of.get(&id)?);
                states[slot].takes.then_some(slot)
            },
            |slot, effect| {
                if effect != Applied::default() {
                    applied(u16::try_from(slot).expect("at most PARTITIONS_MAX"), effect);
                }
            },
        );
        batch.records.by_ref().take(records).for_each(drop);
        if !batch.records.as_slice().is_empty() {
            return false;
        }
        for slot in self.of_log.get(&batch.log).into_iter().flatten() {
            let state = &mut self.states[usize::from(*slot)];
            if std::mem::take(&mut state.takes) {
                state.applied = Some(batch.position);
            }
        }
        self.batch = None;
        self.changed = true;
        true
    }

    pub(crate) fn changed(&self) -> bool {
        self.changed
    }

    /// Marks all positions as changed, so that [`Partitions::held`] returns them again.
    pub(crate) fn repeat(&mut self) {
        self.changed = true;
    }

    /// Returns the partitions that have content, each with its applied position.
    fn positions(&self) -> impl Iterator<Item = (PartitionId, Position)> + '_ {
        self.slot_of.iter().filter_map(|(id, slot)| Some((*id, self.applied(*slot)?)))
    }

    /// Returns totals and positions of the partitions, and marks them as reported.
    pub(crate) fn held(&mut self) -> HeldStats {
        self.changed = false;
        let mut stats = HeldStats {
            owns: self.owns,
            positions: self.positions().collect(),
            ..HeldStats::default()
        };
        let mut apps = vec![0; usize::from(self.words.apps())];
        for partition in self.all() {
            let held = partition.held();
            stats.devices += held.devices;
            stats.placed += held.placed;
            stats.muted += held.muted;
            apps.iter_mut().zip(&held.apps).for_each(|(sum, n)| *sum += n);
        }
        stats.apps = (0..self.words.apps())
            .zip(apps)
            .filter_map(|(index, devices)| {
                Some((self.words.app(crate::partition::AppIndex(index))?.clone(), devices))
            })
            .collect();
        stats
    }
}
