use proptest::prelude::*;

use super::*;

fn ownership(partition_count: u16, log_count: u16, partitions: &[u16]) -> Ownership {
    let partitions = partitions.iter().map(|p| PartitionId(*p)).collect();
    Ownership { log: LogIdentity([1; 16]), number: 1, partition_count, log_count, partitions }
}

fn first(partition_count: u16, log_count: u16, partitions: &[u16], cores: usize) -> Assignment {
    change(None, ownership(partition_count, log_count, partitions), cores).assignment
}

fn set(partitions: &[u16]) -> BTreeSet<PartitionId> {
    partitions.iter().map(|p| PartitionId(*p)).collect()
}

fn ids(lists: &[&[u16]]) -> Vec<Vec<PartitionId>> {
    lists.iter().map(|l| l.iter().map(|p| PartitionId(*p)).collect()).collect()
}

#[test]
fn the_first_ownership_is_dealt_out_and_is_all_new() {
    let change = change(None, ownership(64, 64, &[3, 10, 11, 40]), 3);
    assert_eq!(change.assignment.shares(), ids(&[&[3, 40], &[10], &[11]]));
    assert_eq!(change.gained, set(&[3, 10, 11, 40]));
    assert_eq!(change.assignment.core_of(PartitionId(40)), Some(0));
    assert_eq!(change.assignment.core_of(PartitionId(4)), None);
}

#[test]
fn what_stays_keeps_its_core_and_goes_on() {
    let old = first(64, 64, &[0, 1, 2, 3, 4], 2);
    assert_eq!(old.shares(), ids(&[&[0, 2, 4], &[1, 3]]));
    // 0 leaves: nothing else moves.
    let loss = change(Some(&old), ownership(64, 64, &[1, 2, 3, 4]), 2);
    assert_eq!(loss.assignment.shares(), ids(&[&[2, 4], &[1, 3]]));
    assert!(loss.gained.is_empty());
    // 5 comes to the lower of two equals, 6 and 7 to the emptier core each time.
    let gain = change(Some(&loss.assignment), ownership(64, 64, &[1, 2, 3, 4, 5, 6, 7]), 2);
    assert_eq!(gain.assignment.shares(), ids(&[&[2, 4, 5, 7], &[1, 3, 6]]));
    assert_eq!(gain.gained, set(&[5, 6, 7]));
}

#[test]
fn a_partition_that_comes_back_goes_to_the_least_loaded_core() {
    let old = first(64, 64, &[0, 1, 2], 2);
    let without = change(Some(&old), ownership(64, 64, &[0, 2]), 2).assignment;
    let back = change(Some(&without), ownership(64, 64, &[0, 1, 2]), 2);
    assert_eq!(back.assignment.shares(), ids(&[&[0, 2], &[1]]));
    assert_eq!(back.gained, set(&[1]), "its content did not wait here");
}

#[test]
fn a_gain_leaves_what_shares_its_log_on_that_core_alone() {
    // Partitions 0 and 4 share log 0; with one core both are core 0's.
    let change = change(Some(&first(8, 4, &[0, 1], 1)), ownership(8, 4, &[0, 1, 4]), 1);
    assert_eq!(change.assignment.shares(), ids(&[&[0, 1, 4]]));
    assert_eq!(change.gained, set(&[4]));
    let places: Vec<_> =
        change.assignment.places().map(|(p, core, log)| (p.0, core, log.0)).collect();
    assert_eq!(places, [(0, 0, 0), (1, 0, 1), (4, 0, 0)]);
}

#[test]
fn nothing_of_another_log_or_another_cluster_goes_on() {
    let old = first(8, 4, &[0, 1], 1);
    let other_log = Ownership { log: LogIdentity([2; 16]), ..ownership(8, 4, &[0, 1]) };
    for new in [other_log, ownership(16, 4, &[0, 1])] {
        let change = change(Some(&old), new, 1);
        assert_eq!(change.assignment.shares(), ids(&[&[0, 1]]));
        assert_eq!(change.gained, set(&[0, 1]));
    }
}

proptest! {
    /// After any sequence of ownerships: what is kept stays where it is, loads are as even as
    /// losses allow, and exactly what was not held before is gained.
    #[test]
    fn kept_partitions_stay_and_loads_are_even(
        cores in 1..5_usize,
        logs in 1..=24_u16,
        lists in prop::collection::vec(prop::collection::btree_set(0..24_u16, 0..24), 1..12),
    ) {
        let mut held: Option<Assignment> = None;
        for list in lists {
            let list: Vec<u16> = list.into_iter().collect();
            let Change { assignment, gained: new } =
                change(held.as_ref(), ownership(24, logs, &list), cores);
            let before = held.map_or_else(|| vec![Vec::new(); cores], |held| held.shares());
            let shares = assignment.shares();
            let total: usize = shares.iter().map(Vec::len).sum();
            prop_assert_eq!(total, list.len());
            let least = shares.iter().map(Vec::len).min().unwrap();
            for (core, share) in shares.iter().enumerate() {
                let (kept, gained): (Vec<PartitionId>, Vec<_>) =
                    share.iter().partition(|p| before[core].contains(p));
                for partition in &gained {
                    let held_elsewhere = before.iter().any(|others| others.contains(partition));
                    prop_assert!(!held_elsewhere, "a kept partition moved");
                }
                if !gained.is_empty() {
                    prop_assert!(share.len() <= least + 1, "{share:?} beside a core of {least}");
                    prop_assert!(share.len() <= list.len().div_ceil(cores));
                }
                prop_assert!(gained.iter().all(|p| new.contains(p)));
                prop_assert!(kept.iter().all(|p| !new.contains(p)));
            }
            held = Some(assignment);
        }
    }
}
