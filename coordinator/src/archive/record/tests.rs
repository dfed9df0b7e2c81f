use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

/// A snapshot at a position, saved at a minute.
pub(in super::super) fn stored(position: u64, minute: u64) -> StoredSnapshot {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&position.to_le_bytes());
    StoredSnapshot {
        id: SnapshotId(id),
        position: Position(position),
        saved: at(minute),
        bytes: 100,
        chunks: 1,
        generation: Generation(1),
        hash: 7,
        node: "shard-0".to_owned(),
        damaged: false,
        chain: Vec::new(),
    }
}

fn at(minute: u64) -> UnixMillis {
    UnixMillis(1_800_000_000_000 + minute * 60_000)
}

fn positions(snapshots: &Snapshots) -> (Vec<u64>, Vec<u64>) {
    let current = snapshots.current.iter().map(|snapshot| snapshot.position.0).collect();
    let retired = snapshots.retired.iter().map(|retired| retired.snapshot.position.0).collect();
    (current, retired)
}

fn saved(each: &[(u64, u64)]) -> Snapshots {
    let mut snapshots = Snapshots::default();
    for (position, minute) in each {
        snapshots.add(stored(*position, *minute)).expect("a later position");
    }
    snapshots
}

#[test]
fn the_newest_two_are_current_and_the_others_are_retired() {
    let mut snapshots = saved(&[(5, 0), (9, 10), (12, 20), (13, 30)]);
    assert_eq!(positions(&snapshots), (vec![13, 12], vec![9, 5]));
    for position in [1, 12, 13] {
        assert_eq!(snapshots.add(stored(position, 40)), Err(Position(13)), "not later");
    }
    assert!(snapshots.names(stored(5, 0).id) && snapshots.find(stored(5, 0).id).is_none());
    let read = Snapshots::read(&snapshots.numbered(PartitionId(3), 4).bytes);
    assert_eq!(read.as_ref(), Ok(&snapshots));
    assert_eq!(snapshots.expired(at(89), HOUR), [stored(5, 0)], "retired at 20");
    assert!(snapshots.forget(&[stored(5, 0).id]) && !snapshots.forget(&[stored(5, 0).id]));
    assert_eq!(positions(&snapshots), (vec![13, 12], vec![9]));
}

#[test]
fn a_damaged_one_is_retired_first_and_its_position_may_be_saved_again() {
    let mut snapshots = saved(&[(5, 0), (9, 10)]);
    assert!(snapshots.mark_damaged(stored(9, 10).id) && !snapshots.mark_damaged(stored(9, 10).id));
    assert_eq!(snapshots.released(at(600), HOUR, true), None, "one sound snapshot is not enough");
    let again = StoredSnapshot { id: SnapshotId([1; 16]), ..stored(9, 20) };
    snapshots.add(again).expect("the same position as the damaged one");
    assert_eq!(positions(&snapshots), (vec![9, 5], vec![9]));
    assert_eq!(snapshots.released(at(600), HOUR, true), Some(Position(5)));
    // Both are damaged: the new one stands alone.
    let mut snapshots = saved(&[(5, 0), (9, 10)]);
    assert!(snapshots.mark_damaged(stored(9, 10).id) && snapshots.mark_damaged(stored(5, 0).id));
    snapshots.add(stored(7, 20)).expect("no sound one is stored");
    assert_eq!(positions(&snapshots), (vec![7], vec![5, 9]));
}

/// Every 10 minutes one, kept for an hour: the log is trimmed although no current snapshot is ever
/// an hour old.
#[test]
fn a_log_is_released_behind_all_that_may_be_loaded() {
    let mut snapshots = Snapshots::default();
    let mut released = Vec::new();
    for minute in 0..=140 {
        if minute % 10 == 0 {
            snapshots.add(stored(1 + minute, minute)).expect("a later position");
        }
        let gone: Vec<_> = snapshots.expired(at(minute), HOUR).iter().map(|s| s.id).collect();
        snapshots.forget(&gone);
        released.push(snapshots.released(at(minute), HOUR, false).map(|position| position.0));
        let short = snapshots.released(at(minute), HOUR, true);
        assert_eq!(short.is_some(), minute >= 10, "two are current");
        let named = snapshots.all().map(|snapshot| snapshot.position).min();
        assert!(short >= released[released.len() - 1].map(Position) && named <= short.or(named));
    }
    assert!(released[..60].iter().all(Option::is_none), "the first one is not yet an hour old");
    assert_eq!((released[60], released[79]), (Some(1), Some(1)));
    assert_eq!((released[80], released[90]), (Some(11), Some(21)), "retired at 20, 30");
    assert_eq!(released[140], Some(71));
}

#[test]
fn a_record_of_another_form_is_not_read() {
    let wrong = wire::PartitionSnapshots {
        current: vec![wire::StoredSnapshot::default()],
        retired: Vec::new(),
    };
    let refused = Snapshots::read(&wrong.encode_to_vec()).expect_err("no id");
    assert_eq!(refused, "current[0].id: must have 16 bytes; got 0");
    let order = wire::PartitionSnapshots {
        current: vec![stored(1, 0).to_wire(), stored(2, 0).to_wire()],
        retired: Vec::new(),
    };
    assert!(Snapshots::read(&order.encode_to_vec()).is_err());
    assert!(Snapshots::read(&[0xff]).is_err());
}

#[test]
fn names_are_read_as_they_are_written() {
    let (partition, id) = (PartitionId(41), SnapshotId([0xab; 16]));
    let name = object(partition, id, 3);
    assert_eq!(name, "snapshots/00041/abababababababababababababababab/000003");
    assert_eq!(parse_object(&name), Some((partition, id, 3)));
    assert_eq!(partition_of(&key(partition)), Some(partition));
    for wrong in ["", "keys/1", "snapshots/1/2/3", &name[1..], &format!("{name}/x"), &name[..20]] {
        assert_eq!(parse_object(wrong), None, "{wrong}");
    }
}
