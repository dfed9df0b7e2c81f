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
mod tests {
    use clarion_proto::ids::{LogId, LogIdentity, Position};

    use super::*;
    use crate::control::ownership::{Ownership, change};

    const P: PartitionId = PartitionId(1);

    fn shard(partition: u16, handed: &[u32]) -> ShardSpec {
        let (log, start) = (LogId(partition), Position(0));
        let handed = handed.iter().copied().collect();
        ShardSpec { partition: PartitionId(partition), log, start, handed }
    }

    /// 0 and 2 are core 0's; 1 is core 1's.
    fn placed() -> Placement {
        let mut placement = Placement::default();
        let plan =
            Shares::from([(0, vec![shard(0, &[]), shard(2, &[])]), (1, vec![shard(1, &[])])]);
        assert_eq!(placement.plan(plan.clone()).values().flatten().count(), 3);
        assert!(placement.is_whole());
        placement
    }

    fn own(placement: &mut Placement, lists: &[&[u16]]) -> Assignment {
        let ownership = |list: &[u16]| Ownership {
            log: LogIdentity([1; 16]),
            number: 1,
            partition_count: 16,
            log_count: 16,
            partitions: list.iter().map(|p| PartitionId(*p)).collect(),
        };
        let mut held: Option<Assignment> = None;
        for list in lists {
            let assignment = change(held.as_ref(), ownership(list), 2).assignment;
            placement.own(&assignment);
            held = Some(assignment);
        }
        held.expect("a list")
    }

    #[test]
    fn a_dropped_partition_of_the_plan_leaves_it_not_whole() {
        let mut placement = placed();
        own(&mut placement, &[&[0, 1, 2], &[0, 2]]);
        assert!(!placement.is_whole());
        // Planned anew without it, the wave is whole again.
        placement.plan(Shares::from([(0, vec![shard(0, &[]), shard(2, &[])])]));
        assert!(placement.is_whole());
    }

    #[test]
    fn a_partition_comes_back_to_another_core_only_after_the_farewell() {
        let mut placement = placed();
        own(&mut placement, &[&[0, 1, 2], &[0, 2]]);
        let told = placement.plan(Shares::from([(0, vec![shard(1, &[7]), shard(2, &[])])]));
        assert_eq!(told[&0].iter().map(|s| s.partition.0).collect::<Vec<_>>(), [2]);
        assert!(!placement.is_whole());
        // Another core's word is not the one that is awaited, but counts.
        assert!(placement.farewell(0, vec![(P, [9].into_iter().collect())]).is_empty());
        let ready = placement.farewell(1, vec![(P, [3, 4].into_iter().collect())]);
        let [(0, shard)] = &ready[..] else { panic!("{ready:?}") };
        assert_eq!(
            (shard.partition, shard.handed.iter().collect::<Vec<_>>()),
            (P, vec![3, 4, 7, 9])
        );
        assert!(placement.is_whole());
    }

    #[test]
    fn a_core_that_gets_its_own_partition_back_need_not_wait() {
        let mut placement = placed();
        own(&mut placement, &[&[0, 1, 2], &[0, 2]]);
        let told = placement.plan(Shares::from([(1, vec![shard(1, &[7])])]));
        assert_eq!(told[&1].len(), 1);
        assert!(placement.is_whole());
        // The farewell was on its way: nobody waits for it, and it is remembered.
        assert!(placement.farewell(1, vec![(P, [3].into_iter().collect())]).is_empty());
        own(&mut placement, &[&[0, 1, 2], &[0, 2]]);
        let later = placement.farewell(1, vec![(P, [8].into_iter().collect())]);
        assert!(later.is_empty());
        let told = placement.plan(Shares::from([(0, vec![shard(1, &[])])]));
        assert_eq!(told[&0][0].handed.iter().collect::<Vec<_>>(), [3, 8]);
    }

    #[test]
    fn a_partition_that_goes_again_before_the_farewell_is_deferred_no_more() {
        let mut placement = placed();
        own(&mut placement, &[&[0, 1, 2], &[0, 2]]);
        placement.plan(Shares::from([(0, vec![shard(1, &[])])]));
        own(&mut placement, &[&[0, 2]]);
        assert!(placement.farewell(1, vec![(P, RoaringBitmap::new())]).is_empty());
        assert!(!placement.is_whole());
    }
}
