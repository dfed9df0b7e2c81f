use clarion_proto::ids::{LogIdentity, Position};
use proptest::prelude::*;

use super::*;
use crate::control::ownership::{Ownership, change};

const P: PartitionId = PartitionId(1);

fn shard(partition: u16, handed: &[u32]) -> ShardSpec {
    let start = Position(0);
    let handed = handed.iter().copied().collect();
    ShardSpec { partition: PartitionId(partition), start, handed }
}

/// 0 and 2 are core 0's; 1 is core 1's.
fn placed() -> Placement {
    let mut placement = Placement::default();
    let plan = Shares::from([(0, vec![shard(0, &[]), shard(2, &[])]), (1, vec![shard(1, &[])])]);
    assert_eq!(placement.plan(plan.clone()).values().flatten().count(), 3);
    assert!(placement.is_whole());
    placement
}

fn ownership(list: &[u16]) -> Ownership {
    Ownership {
        log: LogIdentity([1; 16]),
        number: 1,
        partition_count: 16,
        log_count: 16,
        partitions: list.iter().map(|p| PartitionId(*p)).collect(),
    }
}

fn own(placement: &mut Placement, lists: &[&[u16]]) {
    let mut held: Option<Assignment> = None;
    for list in lists {
        let assignment = change(held.as_ref(), ownership(list), 2).assignment;
        placement.own(&assignment);
        held = Some(assignment);
    }
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
    assert_eq!((shard.partition, shard.handed.iter().collect::<Vec<_>>()), (P, vec![3, 4, 7, 9]));
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

/// What happens next, in the property below.
#[derive(Debug, Clone)]
enum Turn {
    /// The node owns these, and the wave is planned for them, or not yet.
    Own(BTreeSet<u16>, bool),
    /// Every core hands one more device in each partition that it walks.
    Hand,
    /// The oldest farewell that is on its way arrives.
    Farewell,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let own = (prop::collection::btree_set(0..6_u16, 0..6), any::<bool>());
    let own = own.prop_map(|(list, planned)| Turn::Own(list, planned));
    prop::collection::vec(prop_oneof![own, Just(Turn::Hand), Just(Turn::Farewell)], 1..40)
}

/// Cores that walk as they are told: what each has handed in each partition, for its life.
#[derive(Default)]
struct Cores {
    walks: BTreeMap<PartitionId, usize>,
    handed: BTreeMap<(usize, PartitionId), RoaringBitmap>,
    farewells: std::collections::VecDeque<(usize, PartitionId)>,
}

impl Cores {
    fn take(&mut self, core: usize, shard: &ShardSpec) {
        let partition = shard.partition;
        let before = self.walks.insert(partition, core);
        assert!(before.is_none_or(|other| other == core), "two cores walk {partition}");
        for ((other, p), handed) in &self.handed {
            let known = *p != partition || *other == core || handed.is_subset(&shard.handed);
            assert!(known, "core {core} does not know what core {other} handed in {partition}");
        }
        *self.handed.entry((core, partition)).or_default() |= &shard.handed;
        self.farewells.retain(|farewell| *farewell != (core, partition));
    }

    fn keep(&mut self, stays: impl Fn(PartitionId, usize) -> bool) {
        let Self { walks, farewells, .. } = self;
        walks.retain(|partition, core| {
            let stays = stays(*partition, *core);
            if !stays {
                farewells.push_back((*core, *partition));
            }
            stays
        });
    }
}

proptest! {
    /// However partitions come and go, and whenever cores say farewell: one core walks a partition
    /// at a time, and whoever walks it knows all that any core has handed there.
    #[test]
    fn whoever_walks_a_partition_knows_what_was_handed_there(turns in turns()) {
        let (mut placement, mut cores) = (Placement::default(), Cores::default());
        let mut held: Option<Assignment> = None;
        let mut ordinal = 0;
        let all = Turn::Own((0..6).collect(), true);
        let rest = std::iter::repeat_n(Turn::Farewell, 40);
        for turn in turns.into_iter().chain([all]).chain(rest) {
            match turn {
                Turn::Own(list, planned) => {
                    let list: Vec<u16> = list.into_iter().collect();
                    let new = change(held.as_ref(), ownership(&list), 2).assignment;
                    placement.own(&new);
                    cores.keep(|partition, core| new.core_of(partition) == Some(core));
                    if planned {
                        let mut plan = Shares::new();
                        for n in &list {
                            let core = new.core_of(PartitionId(*n)).unwrap();
                            plan.entry(core).or_default().push(shard(*n, &[]));
                        }
                        // The plan names all that the node owns: nothing else is let go of.
                        for (core, shards) in placement.plan(plan) {
                            shards.iter().for_each(|shard| cores.take(core, shard));
                        }
                    }
                    held = Some(new);
                }
                Turn::Hand => {
                    for (partition, core) in &cores.walks {
                        ordinal += 1;
                        cores.handed.entry((*core, *partition)).or_default().insert(ordinal);
                    }
                }
                Turn::Farewell => {
                    let Some((core, partition)) = cores.farewells.pop_front() else { continue };
                    let handed = cores.handed[&(core, partition)].clone();
                    for (to, shard) in placement.farewell(core, vec![(partition, handed)]) {
                        cores.take(to, &shard);
                    }
                }
            }
        }
        prop_assert!(placement.is_whole());
        prop_assert_eq!(cores.walks.len(), 6);
    }
}
