//! The partitions of this core and the applied positions of their logs.
//!
//! Records are applied between turns, a bounded number at a time: a feed that catches up must not
//! stop a wave, and a wave must not stop the feed. The core holds only one batch; the next batch
//! waits in the driver's bounded queue.

use std::{collections::BTreeMap, vec};

use clarion_proto::{
    device::Record,
    ids::{LogId, PartitionId, Position, UnixMillis},
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
    slot_of: BTreeMap<PartitionId, u16>,
    pub(crate) words: Vocabulary,
    positions: BTreeMap<LogId, Position>,
    batch: Option<Batch>,
    /// Number of changes of ownership.
    owns: u64,
    /// Whether records were applied since the last call of [`Partitions::held`].
    changed: bool,
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
            slot_of: BTreeMap::new(),
            words: Vocabulary::default(),
            positions: BTreeMap::new(),
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
        }
        for (id, _) in &owns.rebuilt {
            if let Some(slot) = self.slot_of.get(id) {
                self.slots[usize::from(*slot)] = Some(Partition::new(*id, self.hash_seed));
            }
        }
        // The rest of a held batch of such a log must not be applied to empty partitions; the feed
        // sends the batch again.
        self.positions.retain(|log, _| !owns.restarted.contains(log));
        self.batch.take_if(|batch| owns.restarted.contains(&batch.log));
        if wanted.is_empty() {
            (self.positions, self.batch) = (BTreeMap::new(), None);
        }
        self.owns += 1;
        for id in wanted {
            if !self.slot_of.contains_key(id) {
                let free = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
                    self.slots.push(None);
                    self.slots.len() - 1
                });
                self.slots[free] = Some(Partition::new(*id, self.hash_seed));
                self.slot_of.insert(*id, u16::try_from(free).expect("at most PARTITIONS_MAX"));
            }
        }
        self.changed = true;
        gone.into_iter().map(|(_, slot)| slot).collect()
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

    /// Returns the applied position of a log.
    pub(crate) fn position(&self, log: LogId) -> Position {
        self.positions.get(&log).copied().unwrap_or_default()
    }

    /// Reports whether [`Partitions::take`] may be called.
    pub(crate) fn is_free(&self) -> bool {
        self.batch.is_none()
    }

    /// Accepts a batch, which [`Partitions::apply`] applies.
    ///
    /// # Panics
    /// If a batch is held already.
    pub(crate) fn take(
        &mut self,
        log: LogId,
        position: Position,
        appended: UnixMillis,
        records: Vec<(PartitionId, Record)>,
    ) {
        assert!(self.batch.is_none(), "one batch at a time: ask feed_ready");
        self.batch = Some(Batch { log, position, appended, records: records.into_iter() });
    }

    /// Applies at most the given number of records. `applied` is called with the slot and the effect
    /// of each record that may concern waves. Returns true if the batch is complete and its log's position has
    /// advanced.
    pub(crate) fn apply(&mut self, records: usize, mut applied: impl FnMut(u16, Applied)) -> bool {
        let Some(batch) = &mut self.batch else { return false };
        let records = records.min(batch.records.as_slice().len());
        ahead::apply_all(
            &mut self.slots,
            batch.appended,
            &batch.records.as_slice()[..records],
            &mut self.words,
            // `None`: the partition has moved to another core or node meanwhile.
            |id| self.slot_of.get(&id).map(|slot| usize::from(*slot)),
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
        // The position may decrease: a feed that restarts for new partitions of this core starts
        // from an earlier position.
        self.positions.insert(batch.log, batch.position);
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

    /// Returns totals and positions of the partitions, and marks them as reported.
    pub(crate) fn held(&mut self) -> HeldStats {
        self.changed = false;
        let mut stats = HeldStats {
            owns: self.owns,
            positions: self.positions.iter().map(|(log, position)| (*log, *position)).collect(),
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
