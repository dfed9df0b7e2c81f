//! Where the partitions of one wave are walked, and what was handed in those that a core has let go
//! of. Pure.
//!
//! ```text
//!           plan                       ownership drops it, or a newer plan does
//! (unknown) ────▶ walked by a core ───────────────────────────────▶ let go, farewell awaited
//!                   ▲                                                        │ farewell
//!                   │ plan, with what was handed                             ▼
//!                   └──────────────────────────────────────────────── let go, handed known
//! ```
//!
//! A device is handed once in a process, whatever becomes of its partition. So a partition that
//! comes back to another core waits until the core that had it before has said its farewell: all
//! that were handed there, with nothing open any more. A core that gets its own partition back need
//! not wait, since it remembers.

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
    /// Partitions of the plan that wait for a farewell, with the core that walks them then.
    deferred: BTreeMap<PartitionId, (usize, ShardSpec)>,
    /// The core whose farewell is awaited.
    awaited: BTreeMap<PartitionId, usize>,
    /// All that were handed in partitions that a core has let go of.
    handed: BTreeMap<PartitionId, RoaringBitmap>,
}

/// The partitions of each core.
pub(super) type Shares = BTreeMap<usize, Vec<ShardSpec>>;

impl Placement {
    /// Takes a plan. Returns what each core may be told at once: every core that takes part is
    /// named, one that waits for all of its partitions with an empty list.
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

    /// The node owns other partitions now.
    pub(super) fn own(&mut self, assignment: &Assignment) {
        let stays = |(p, core): (&PartitionId, &usize)| assignment.core_of(*p) == Some(*core);
        let gone: Vec<_> =
            self.walked_by.iter().filter(|at| !stays(*at)).map(|(p, _)| *p).collect();
        gone.into_iter().for_each(|partition| self.let_go(partition));
        self.deferred.retain(|p, (core, _)| assignment.core_of(*p) == Some(*core));
    }

    /// A core says its farewell to partitions. Returns those that waited for it, with their core.
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
