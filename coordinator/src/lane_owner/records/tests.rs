//! Operations one after another, and what follows from their results.

use super::*;

const KEY: &str = "mint/1";

fn seconds(n: u64) -> Time {
    Time(n * 1_000_000)
}

fn away() -> StoreError {
    StoreError::Away("cut".to_owned())
}

/// Records that were read from a store without any.
fn records() -> Records {
    let mut records = Records::default();
    assert!(matches!(records.poll(Time(0)), Some(StoreOp::Read)));
    assert!(records.poll(Time(0)).is_none() && !records.are_known());
    records.take(StoreResult::Read(Ok(Vec::new())), Time(0));
    assert!(records.are_known());
    records
}

fn write(records: &mut Records, now: Time) -> Numbered {
    match records.poll(now) {
        Some(StoreOp::Write(record)) => record,
        other => panic!("a write: {other:?}"),
    }
}

#[test]
fn a_key_has_one_operation_and_the_newest_bytes_win() {
    let mut records = records();
    records.put(KEY, vec![1]);
    let first = write(&mut records, Time(0));
    assert_eq!(first, Numbered::new(KEY, 1, vec![1]));
    records.put(KEY, vec![2]);
    records.put(KEY, vec![3]);
    assert!(records.poll(Time(0)).is_none(), "one at a time");
    assert_eq!(records.deadline(), None);
    records.take(StoreResult::Written(first, Ok(())), Time(0));
    let second = write(&mut records, Time(0));
    assert_eq!(second, Numbered::new(KEY, 2, vec![3]));
    records.take(StoreResult::Written(second, Ok(())), Time(0));
    assert!(records.poll(Time(0)).is_none());
    records.put(KEY, vec![3]);
    assert!(records.poll(Time(0)).is_none(), "stored already");
}

#[test]
fn a_failure_is_tried_again_and_its_lost_answer_is_found() {
    let mut records = records();
    records.put(KEY, vec![1]);
    let sent = write(&mut records, Time(0));
    let failed = records.take(StoreResult::Written(sent.clone(), Err(away())), Time(0));
    assert_eq!(failed.expect("logged").times, 1);
    assert!(records.poll(Time(0)).is_none(), "after a pause");
    let due = records.deadline().expect("a try");
    assert_eq!(due, Time(0) + PAUSE);
    let again = write(&mut records, due);
    let conflict = StoreError::Conflict(KEY.to_owned());
    assert!(records.take(StoreResult::Written(again, Err(conflict)), due).is_none());
    assert!(matches!(records.poll(due), Some(StoreOp::Read)));
    records.take(StoreResult::Read(Ok(vec![sent.clone()])), due);
    assert_eq!(records.stored(KEY), Some(&sent));
    assert!(records.poll(due).is_none(), "it was stored");
}

#[test]
fn a_read_that_fails_is_repeated() {
    let mut records = Records::default();
    assert!(records.poll(Time(0)).is_some());
    assert!(records.take(StoreResult::Read(Err(away())), Time(0)).is_some(), "logged");
    assert!(records.poll(Time(0)).is_none() && !records.are_known());
    assert_eq!(records.deadline(), Some(Time(0) + PAUSE));
    assert!(matches!(records.poll(seconds(1)), Some(StoreOp::Read)));
}

#[test]
fn a_deleted_key_begins_at_its_first_number() {
    let mut records = Records::default();
    records.poll(Time(0));
    let stored = Numbered::new(KEY, 7, vec![1]);
    records.take(StoreResult::Read(Ok(vec![stored.clone()])), Time(0));
    records.delete(KEY);
    let Some(StoreOp::Delete(sent)) = records.poll(Time(0)) else { panic!("a deletion") };
    assert_eq!(sent, stored);
    records.put(KEY, vec![2]);
    assert!(records.poll(Time(0)).is_none(), "one at a time");
    records.take(StoreResult::Deleted(sent, Ok(())), Time(0));
    assert_eq!(write(&mut records, Time(0)), Numbered::new(KEY, 1, vec![2]));
}
