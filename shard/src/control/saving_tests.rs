use clarion_proto::ids::LogIdentity;

use super::{
    super::ownership::{Ownership, change},
    *,
};

const INTERVAL: Duration = Duration::from_secs(600);
const PARTITIONS: u16 = 64;

fn assignment() -> Assignment {
    let partitions = (0..PARTITIONS).map(PartitionId).collect();
    let log = LogIdentity([1; 16]);
    let (partition_count, log_count) = (PARTITIONS, PARTITIONS);
    let owned = Ownership { log, number: 3, partition_count, log_count, partitions };
    change(None, owned, 2).assignment
}

fn saving() -> Saving {
    Saving::new(BootId([7; 16]))
}

fn snapshot(partition: u16, position: u64, age: Duration) -> Snapshot {
    let (partition, position) = (PartitionId(partition), Position(position));
    Snapshot { partition, id: [1; 16], position, bytes: 1, age }
}

/// Looks every second, and finishes each save at once; the saves with their seconds.
fn saves(saving: &mut Saving, applied: u64, seconds: u64) -> Vec<(u64, u16)> {
    let (assignment, mut out, mut saves) = (assignment(), VecDeque::new(), Vec::new());
    for second in 0..seconds {
        let now = Time(0) + Duration::from_secs(second);
        if saving.is_due(now) {
            saving.save_next(&assignment, |_, _| Some(Position(applied)), now, &mut out);
        }
        if let Some(Output::Save(save)) = out.pop_front() {
            assert_eq!((save.ownership, Some(save.core)), (3, assignment.core_of(save.partition)));
            saves.push((second, save.partition.0));
            saving.saved(save.number, Position(applied), now);
        }
        assert!(out.is_empty(), "one at a time");
    }
    saves
}

#[test]
fn every_partition_is_saved_once_in_an_interval_and_not_all_at_once() {
    let mut saving = saving();
    saving.listed(&[], INTERVAL, &assignment(), Time(0));
    let first = saves(&mut saving, 9, 600);
    let mut partitions: Vec<_> = first.iter().map(|(_, partition)| *partition).collect();
    partitions.sort_unstable();
    assert_eq!(partitions, (0..PARTITIONS).collect::<Vec<_>>());
    for tenth in 0..10 {
        let within = first.iter().filter(|(second, _)| second / 60 == tenth).count();
        assert!((5..=8).contains(&within), "{within} in the minute {tenth}");
    }
}

#[test]
fn what_has_not_changed_is_not_saved() {
    let mut saving = saving();
    let kept: Vec<_> = (0..PARTITIONS).map(|p| snapshot(p, 9, INTERVAL * 3)).collect();
    saving.listed(&kept, INTERVAL, &assignment(), Time(0));
    assert!(saves(&mut saving, 9, 2_000).is_empty());
}

#[test]
fn a_node_that_starts_again_does_not_save_again_at_once() {
    let mut saving = saving();
    let kept: Vec<_> = (0..PARTITIONS).map(|p| snapshot(p, 9, Duration::from_secs(60))).collect();
    saving.listed(&kept, INTERVAL, &assignment(), Time(0));
    let saves = saves(&mut saving, 10, 750);
    let first = saves.first().map(|(second, _)| *second);
    assert!(first.is_some_and(|second| (388..410).contains(&second)), "{first:?}");
    assert_eq!(saves.len(), usize::from(PARTITIONS));
}

#[test]
fn without_a_policy_nothing_is_saved_and_the_lists_go_on() {
    let mut saving = saving();
    assert!(!saving.is_list_due(Time(0) + LIST_EVERY), "none was asked for yet");
    saving.listed(&[], Duration::ZERO, &assignment(), Time(0));
    assert!(saves(&mut saving, 9, 1_000).is_empty());
    assert_eq!(saving.deadline(), Some(Time(0) + LIST_EVERY));
    assert!(saving.is_list_due(Time(0) + LIST_EVERY));
    assert!(!saving.is_list_due(Time(0) + LIST_EVERY), "until it is answered");
}

#[test]
fn after_a_failure_all_saves_pause() {
    let (mut saving, assignment, mut out) = (saving(), assignment(), VecDeque::new());
    saving.listed(&[], INTERVAL, &assignment, Time(0));
    let now = Time(0) + INTERVAL;
    saving.save_next(&assignment, |_, _| Some(Position(1)), now, &mut out);
    assert!(!saving.is_due(now + LOOK_EVERY), "one is under way");
    saving.failed(1, "no room", now);
    assert!(!saving.is_due(now + FAILED_PAUSE - LOOK_EVERY));
    assert!(saving.is_due(now + FAILED_PAUSE));
    // What is said of a save that was stopped counts for none.
    saving.save_next(&assignment, |_, _| Some(Position(1)), now + FAILED_PAUSE, &mut out);
    saving.stop(&mut out);
    assert!(matches!(out.back(), Some(Output::StopSave)));
    saving.saved(2, Position(1), now + FAILED_PAUSE);
    assert!(saving.newest.values().all(|newest| newest.position == Position(0)));
}
