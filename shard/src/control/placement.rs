//! The core that walks each partition of one wave, and the devices handed in partitions that a core
//! has let go of; free of I/O.
//!
//! ```text
//!           plan                       ownership drops it, or a newer plan does
//! (unknown) ────▶ walked by a core ───────────────────────────────▶ let go, farewell awaited
//!                   ▲                                                        │ farewell
//!                   │ plan, with what was handed                             ▼
//!                   └──────────────────────────────────────────────── let go, handed known
//! ```
//!
//! A process hands each device once, even if the device's partition moves between cores. So a
//! partition that returns to a different core waits for the farewell of the core that walked the
//! partition before: the set of handed devices, with no push open. A core that gets its own
//! partition back need not wait, because the core still has this set.

use std::collections::{BTreeMap, BTreeSet};

use clarion_proto::ids::PartitionId;
use roaring::RoaringBitmap;

use super::ownership::Assignment;
use crate::command::ShardSpec;

/// The partitions of one wave.
#[derive(Debug, Default)]
pub(super) struct Placement {
    /// Partitions of the newest plan.
    planned: BTreeSet<PartitionId>,
    /// The core that walks each partition.
    walked_by: BTreeMap<PartitionId, usize>,
    /// Partitions of the plan that wait for a farewell, with the core that walks them afterwards.
    deferred: BTreeMap<PartitionId, (usize, ShardSpec)>,
    /// The core whose farewell is awaited.
    awaited: BTreeMap<PartitionId, usize>,
    /// Devices handed in partitions that a core has let go of.
    handed: BTreeMap<PartitionId, RoaringBitmap>,
}

/// The partitions of each core.
pub(super) type Shares = BTreeMap<usize, Vec<ShardSpec>>;

impl Placement {
    /// Applies a plan. Returns the partitions that each core may get at once. Every core that takes
    /// part has an entry; a core whose partitions all wait has an empty list.
    pub(super) fn plan(&mut self, plan: Shares) -> Shares {
        let in_plan = |p: &PartitionId| plan.values().flatten().any(|shard| shard.partition == *p);
        let dropped: Vec<_> = self.walked_by.keys().copied().filter(|p| !in_plan(p)).collect();
        dropped.into_iter().for_each(|partition| self.let_go(partition));
        self.deferred.clear();
        self.planned.clear();
        let mut told = Shares::new();
        for (core, shards) in plan {
            let mut at_once = Vec::with_capacity(shards.len());
            for mut shard in shards {
                let partition = shard.partition;
                self.planned.insert(partition);
                if self.awaited.get(&partition).is_some_and(|other| *other != core) {
                    self.deferred.insert(partition, (core, shard));
                    continue;
                }
                self.give(core, &mut shard);
                at_once.push(shard);
            }
            told.insert(core, at_once);
        }
        told
    }

    /// Applies a new ownership of the node.
    pub(super) fn own(&mut self, assignment: &Assignment) {
        let stays = |(p, core): (&PartitionId, &usize)| assignment.core_of(*p) == Some(*core);
        let gone: Vec<_> =
            self.walked_by.iter().filter(|at| !stays(*at)).map(|(p, _)| *p).collect();
        gone.into_iter().for_each(|partition| self.let_go(partition));
        self.deferred.retain(|p, (core, _)| assignment.core_of(*p) == Some(*core));
    }

    /// Processes a core's farewell to partitions. Returns the partitions that waited for the
    /// farewell, with the core that walks each of them now.
    pub(super) fn farewell(
        &mut self,
        core: usize,
        let_go: Vec<(PartitionId, RoaringBitmap)>,
    ) -> Vec<(usize, ShardSpec)> {
        let mut ready = Vec::new();
        for (partition, handed) in let_go {
            *self.handed.entry(partition).or_default() |= handed;
            if self.awaited.get(&partition) != Some(&core) {
                continue;
            }
            self.awaited.remove(&partition);
            if let Some((core, mut shard)) = self.deferred.remove(&partition) {
                self.give(core, &mut shard);
                ready.push((core, shard));
            }
        }
        ready
    }

    /// Whether a core of this node walks every partition of the plan.
    pub(super) fn is_whole(&self) -> bool {
        self.planned.iter().all(|partition| self.walked_by.contains_key(partition))
    }

    fn give(&mut self, core: usize, shard: &mut ShardSpec) {
        if let Some(handed) = self.handed.get(&shard.partition) {
            shard.handed |= handed;
        }
        self.awaited.remove(&shard.partition);
        self.walked_by.insert(shard.partition, core);
    }

    fn let_go(&mut self, partition: PartitionId) {
        if let Some(core) = self.walked_by.remove(&partition) {
            self.awaited.insert(partition, core);
        }
    }
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
