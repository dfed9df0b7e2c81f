//! Faults of a database, which a real engine has only now and then: answers and commits that are
//! lost, another chief, a disk without room.

use std::{
    collections::VecDeque,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use clarion_proto::{
    device::{Cell, Change, Record},
    ids::{DeviceId, Epoch, LogId, Position, UnixMillis},
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::*;
use crate::{
    seal::{Generation, KEY_BYTES},
    store::{
        AlertStore, AppRecord, ChangeLog, Checkpoint, ClusterStore, Created, RecordBatch,
        fixtures::{record, seals},
        sqlite::SqliteEngine,
        suite::app,
    },
};

/// What happens to one write.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// It is committed, and nobody learns of it.
    AnswerLost,
    /// It is not committed, and nobody knows.
    CommitLost,
    /// It is refused.
    Away,
    /// It succeeds.
    Fine,
}

/// SQLite with faults.
#[derive(Debug)]
struct Faulty {
    engine: SqliteEngine,
    /// Faults of the next writes, flushes included; without one a write succeeds.
    faults: Mutex<VecDeque<Fault>>,
    flushes: AtomicUsize,
    /// A permit for each flush.
    gate: Semaphore,
}

impl Faulty {
    async fn write<T>(
        &self,
        write: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        let fault = self.faults.lock().pop_front();
        let lost = || EngineError::Unknown("the connection broke".to_owned());
        match fault {
            None | Some(Fault::Fine) => write.await,
            Some(Fault::AnswerLost) => write.await.and_then(|_| Err(lost())),
            Some(Fault::CommitLost) => Err(lost()),
            Some(Fault::Away) => Err(EngineError::Away("no route".to_owned())),
        }
    }
}

#[async_trait]
impl Engine for Faulty {
    async fn query(&self, statement: Statement) -> Result<Vec<Row>, EngineError> {
        self.engine.query(statement).await
    }

    async fn execute(&self, statement: Statement) -> Result<Vec<Row>, EngineError> {
        self.write(self.engine.execute(statement)).await
    }

    async fn migrate(&self, statements: Vec<Statement>) -> Result<(), EngineError> {
        self.engine.migrate(statements).await
    }

    async fn lead(&self, incarnation: [u8; 16]) -> Result<Epoch, EngineError> {
        self.engine.lead(incarnation).await
    }

    async fn flush(&self, flush: Flush) -> Result<Vec<Flushed>, EngineError> {
        self.gate.acquire().await.expect("open").forget();
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.write(self.engine.flush(flush)).await
    }

    async fn read(
        &self,
        after: Vec<(LogId, Position)>,
        bytes_max: usize,
    ) -> Result<Vec<StoredBatch>, ReadError> {
        self.engine.read(after, bytes_max).await
    }

    async fn close(&self) {
        self.engine.close().await;
    }
}

const OPEN: usize = 1_000_000;

async fn open(path: &Path, bytes_max: u64, flushes: usize) -> SqlStore<Faulty> {
    let world = World::system();
    let engine = SqliteEngine::open(path, world.clock()).await.expect("a file");
    let (faults, gate) = (Mutex::default(), Semaphore::new(flushes));
    let engine = Faulty { engine, faults, flushes: AtomicUsize::new(0), gate };
    let made_for = MadeFor { cluster: "c".to_owned(), partitions: 8, logs: 4, device_key: None };
    SqlStore::open(engine, &made_for, bytes_max, 1 << 20, seals(), &world).await.expect("up")
}

/// An empty store, with the app that alerts of [`record`] address; its file has no name any more.
async fn store(flushes: usize) -> SqlStore<Faulty> {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder.path().join("store.sqlite"), 1 << 30, flushes).await;
    store.create_app(app("demo")).await.expect("room");
    store
}

fn faults(store: &SqlStore<Faulty>, faults: impl IntoIterator<Item = Fault>) {
    store.engine().faults.lock().extend(faults);
}

fn batch(change: &Change, records: u16) -> RecordBatch {
    let record = |n: u16| {
        let mut device = [0; 16];
        device[..2].copy_from_slice(&n.to_be_bytes());
        Record { device: DeviceId(device), observed: UnixMillis(1), change: change.clone() }
    };
    RecordBatch::from_records(&(0..records).map(record).collect::<Vec<_>>())
}

fn place() -> Change {
    Change::Place(Cell::new(0x89411ca0003ffff).expect("a cell"))
}

async fn append(store: &SqlStore<Faulty>, log: u16) -> Result<Position, StoreError> {
    Ok(store.append_all(vec![(LogId(log), batch(&Change::Removal, 1))]).await?[0])
}

#[tokio::test]
async fn what_cannot_be_forgotten_now_fails_no_write() {
    let store = store(OPEN).await;
    faults(&store, [Fault::Fine, Fault::Away]);
    let made = store.create_alert(record("a", 1), 1).await.expect("it is recorded");
    assert!(matches!(made, Created::New(_)));
    assert!(store.fit().is_err(), "the newest write failed");
    append(&store, 1).await.expect("room");
    assert_eq!(store.fit(), Ok(()));
    store.close().await;
}

#[tokio::test]
async fn an_append_of_unknown_outcome_is_there_once() {
    let store = store(OPEN).await;
    faults(&store, [Fault::AnswerLost]);
    assert_eq!(append(&store, 1).await, Ok(Position(1)), "asked for, and found");
    faults(&store, [Fault::CommitLost, Fault::CommitLost, Fault::AnswerLost]);
    assert_eq!(append(&store, 1).await, Ok(Position(2)), "repeated until it is there");
    // An attempt is refused while an earlier one may be committed.
    faults(&store, [Fault::CommitLost, Fault::Away]);
    assert_eq!(append(&store, 1).await, Ok(Position(3)));
    faults(&store, [Fault::Away]);
    assert!(matches!(append(&store, 1).await, Err(StoreError::Away(_))));
    assert_eq!(append(&store, 1).await, Ok(Position(4)));
    let read = store.read_many(&[(LogId(1), Position(0))], usize::MAX).await.expect("up");
    assert_eq!(read[0].1.len(), 4);
    assert_eq!(*store.condition().borrow(), Condition::Up);
    store.close().await;
}

#[tokio::test]
async fn calls_that_wait_share_a_flush_and_keep_their_order() {
    let store = Arc::new(store(1).await);
    let calls: Vec<_> = (0..40u16)
        .map(|n| vec![(LogId(n % 4), batch(&place(), n)), (LogId(0), batch(&place(), 1))])
        .collect();
    // Polled once in order, so that they wait in order.
    let mut calls: Vec<_> = calls.into_iter().map(|call| store.append_all(call)).collect();
    for call in &mut calls {
        assert!(futures_util::FutureExt::now_or_never(call).is_none(), "it waits");
        tokio::task::yield_now().await;
    }
    let appended = async {
        let all = futures_util::future::join_all(calls).await;
        all.into_iter().collect::<Result<Vec<_>, _>>().expect("room")
    };
    // All calls wait when the second flush may begin.
    let open = async {
        while store.engine().gate.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        store.engine().gate.add_permits(OPEN);
    };
    let (positions, ()) = tokio::join!(appended, open);
    assert!(positions.windows(2).all(|pair| pair[0][1] <= pair[1][1]), "in the order of calls");
    let flushes = store.engine().flushes.load(Ordering::Relaxed);
    assert!((2..=3).contains(&flushes), "{flushes} flushes for 40 calls");
    let head = store.heads().await.expect("up")[0];
    assert_eq!(positions.last().expect("some")[1], head);
    assert_eq!(head.0, flushes as u64, "one batch for each flush");
    let all = store.records_until(&[(LogId(0), head)]).await.expect("up");
    assert_eq!(all, [40 + (0..40u64).step_by(4).sum::<u64>()]);
    let read = store.read_many(&[(LogId(0), Position(0))], usize::MAX).await.expect("up");
    assert_eq!(read[0].1.len(), flushes);
    store.close().await;
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_the_flush() {
    let store = store(0).await;
    let gone = append(&store, 2);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), gone).await.is_err());
    let held = store.logs.room.held();
    // The call has begun. A second one that waits and goes away is not written.
    let waiting = append(&store, 2);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), waiting).await.is_err());
    store.engine().gate.add_permits(OPEN);
    assert_eq!(append(&store, 2).await, Ok(Position(2)), "after the one that had begun");
    assert_eq!(store.logs.room.held(), 2 * held, "two batches are charged");
    store.close().await;
}

#[tokio::test]
async fn a_flush_that_is_late_keeps_its_key() {
    let store = store(0).await;
    let keys = Arc::clone(&store.logs.seals);
    let mut late = Box::pin(append(&store, 1));
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), &mut late).await.is_err());
    keys.add(Generation(2), &[2; KEY_BYTES]);
    assert_eq!(store.oldest_generation().await, Ok(None), "nothing is stored");
    assert_eq!(keys.oldest_held(), Generation(1), "and all the same the key is needed");
    store.engine().gate.add_permits(OPEN);
    assert_eq!(late.await, Ok(Position(1)));
    assert_eq!(keys.oldest_held(), Generation(2));
    assert_eq!(store.oldest_generation().await, Ok(Some(Generation(1))));
    append(&store, 1).await.expect("room");
    store.trim(LogId(1), Position(2)).await.expect("up");
    assert_eq!(store.oldest_generation().await, Ok(Some(Generation(2))));
    store.close().await;
}

#[tokio::test]
async fn a_slow_database_bounds_what_waits() {
    let store = store(0).await;
    let large = vec![(LogId(0), batch(&place(), 40_000)), (LogId(1), batch(&place(), 40_000))];
    let bytes: usize = large.iter().map(|(_, batch)| batch.bytes()).sum();
    let mut calls: Vec<_> = (0..200).map(|_| store.append_all(large.clone())).collect();
    let mut refused = 0;
    for call in &mut calls {
        if let Some(Err(StoreError::Busy(_))) = futures_util::FutureExt::now_or_never(call) {
            refused += 1;
        }
    }
    let waiting = 200 - refused;
    assert!(refused > 0 && waiting * bytes <= 64 << 20, "{waiting} of {bytes} bytes");
    drop(calls);
    store.engine().gate.add_permits(OPEN);
    assert!(append(&store, 3).await.is_ok(), "nothing is left of them");
    store.close().await;
}

#[tokio::test]
async fn a_process_that_was_taken_over_writes_nothing() {
    let store = store(OPEN).await;
    store.create_alert(record("a", 1), 9).await.expect("room");
    let engine = &store.engine().engine;
    engine.lead([9; 16]).await.expect("up");
    let taken_over = StoreError::TakenOver { stored: Epoch(2), epoch: Epoch(1) };
    assert_eq!(append(&store, 1).await, Err(taken_over.clone()));
    assert_eq!(*store.condition().borrow(), Condition::Stopped(taken_over.clone()));
    assert_eq!(store.heads().await.expect_err("stopped"), taken_over);

    // Each kind of write finds it out by itself.
    let of_new = async |write: &'static str| {
        let store = self::store(OPEN).await;
        store.create_alert(record("a", 1), 9).await.expect("room");
        store.engine().engine.lead([9; 16]).await.expect("up");
        let next = AppRecord { revision: 2, ..app("demo") };
        let alert = record("a", 1);
        let bytes = bytes::Bytes::new();
        let checkpoint =
            Checkpoint { alert: alert.name.clone(), epoch: Epoch(1), number: 1, bytes };
        let refused = match write {
            "create_app" => store.create_app(app("other")).await.map(drop),
            "replace_app" => store.replace_app(next).await.map(drop),
            "delete_app" => store.delete_app(&next.app.name).await,
            "create_alert" => store.create_alert(record("b", 2), 9).await.map(drop),
            "replace_alert" => {
                let next = crate::store::fixtures::ended(&alert, crate::snapshot::State::Resolved);
                store.replace_alert(next).await.map(drop)
            }
            "ownership" => {
                store.replace_ownership(crate::owners::Ownership::assign(1, 8, &[])).await.map(drop)
            }
            _ => store.put_checkpoint(checkpoint).await,
        };
        assert_eq!(refused, Err(taken_over.clone()), "{write}");
        store.close().await;
    };
    for write in [
        "create_app",
        "replace_app",
        "delete_app",
        "create_alert",
        "replace_alert",
        "ownership",
        "checkpoint",
    ] {
        of_new(write).await;
    }
}

#[tokio::test]
async fn records_of_unknown_outcome_are_written_once() {
    for fault in [Fault::AnswerLost, Fault::CommitLost] {
        let store = store(OPEN).await;
        faults(&store, [fault]);
        let made = store.create_app(app("other")).await.expect("room");
        assert!(matches!(made, Created::New(_)), "{fault:?}");
        faults(&store, [fault]);
        let next = AppRecord { revision: 2, ..app("other") };
        assert_eq!(*store.replace_app(next.clone()).await.expect("the next"), next);
        faults(&store, [fault]);
        store.delete_app(&next.app.name).await.expect("not in use");
        faults(&store, [fault]);
        let made = store.create_alert(record("a", 1), 1).await.expect("room");
        assert!(matches!(made, Created::New(_)), "{fault:?}");
        let mut alert = record("a", 1);
        (alert.revision, alert.positions) = (2, vec![Position(7)]);
        faults(&store, [fault]);
        store.replace_alert(alert.clone()).await.expect("the next");
        let stored = store.alert(&alert.name).await.expect("up").expect("there");
        assert_eq!((stored.revision, &stored.positions), (2, &alert.positions));
        let bytes = bytes::Bytes::from_static(b"c");
        let checkpoint = Checkpoint { alert: alert.name, epoch: Epoch(1), number: 1, bytes };
        faults(&store, [fault]);
        store.put_checkpoint(checkpoint).await.expect("the first");
        faults(&store, [fault]);
        let ownership = crate::owners::Ownership::assign(1, 8, &[]);
        store.replace_ownership(ownership).await.expect("the first");
        store.close().await;
    }
    let store = store(OPEN).await;
    faults(&store, [Fault::CommitLost; 3]);
    let given_up = store.create_app(app("other")).await.expect_err("three times");
    assert!(given_up.to_string().contains("the connection broke"), "{given_up}");
    store.close().await;
}

#[tokio::test]
async fn a_database_that_went_back_stops_the_store() {
    let store = store(OPEN).await;
    append(&store, 1).await.expect("room");
    append(&store, 1).await.expect("room");
    let engine = &store.engine().engine;
    for back in [
        "DELETE FROM batch WHERE position = 2",
        "UPDATE log_head SET position = 1, chain = (SELECT chain FROM batch) WHERE log = 1",
    ] {
        engine.execute(Statement::new(back)).await.expect("up");
    }
    let stopped = append(&store, 1).await.expect_err("it is not as this process left it");
    assert!(matches!(stopped, StoreError::Broken(_)), "{stopped}");
    assert!(matches!(*store.condition().borrow(), Condition::Stopped(_)));
    assert!(matches!(store.apps(None, 1).await, Err(StoreError::Broken(_))));
    store.close().await;
}

#[tokio::test]
async fn a_log_behind_its_head_stops_the_store() {
    let store = store(OPEN).await;
    append(&store, 1).await.expect("room");
    append(&store, 1).await.expect("room");
    let back = "UPDATE log_head SET position = 1 WHERE log = 1";
    store.engine().engine.execute(Statement::new(back)).await.expect("up");
    let stopped = append(&store, 1).await.expect_err("position 2 is taken");
    assert!(matches!(stopped, StoreError::Broken(_)), "{stopped}");
    store.close().await;
}

#[tokio::test]
async fn a_missing_batch_is_damage_and_not_the_end_of_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.sqlite");
    let store = open(&path, 1 << 30, OPEN).await;
    for _ in 0..3 {
        append(&store, 1).await.expect("room");
        append(&store, 2).await.expect("room");
    }
    store.close().await;
    let store = open(&path, 1 << 30, OPEN).await;
    let engine = &store.engine().engine;
    let remove = Statement::new("DELETE FROM batch WHERE log = 1 AND position > 1");
    engine.execute(remove).await.expect("up");
    let from = |log, after| (LogId(log), Position(after));
    for asked in [vec![from(1, 1)], vec![from(1, 1), from(2, 0)]] {
        let error = store.read_many(&asked, usize::MAX).await.expect_err("missing");
        let second = StoreError::Damaged {
            log: LogId(1),
            position: Position(2),
            problem: "the batch is missing".to_owned(),
        };
        assert_eq!(error, second, "{asked:?}");
    }
    let before = store.read_many(&[from(2, 0), from(1, 1)], usize::MAX).await.expect("log 2");
    assert_eq!(before.len(), 1);
    assert!(store.records_until(&[from(1, 2)]).await.is_err());
    store.close().await;
}

#[tokio::test]
async fn a_full_store_refuses_what_grows_also_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.sqlite");
    let store = open(&path, 80_000, OPEN).await;
    let grow = async |store: &SqlStore<Faulty>| {
        store.append_all(vec![(LogId(0), batch(&place(), 100))]).await
    };
    while grow(&store).await.is_ok() {}
    assert!(!*store.has_room().borrow());
    assert!(append(&store, 1).await.is_ok(), "a removal uses the reserve");
    let held = store.logs.room.held();
    store.close().await;

    let store = open(&path, 80_000, OPEN).await;
    assert_eq!(store.logs.room.held(), held, "counted as before");
    assert!(matches!(grow(&store).await, Err(StoreError::Full { .. })));
    let refused = loop {
        if let Err(refused) = append(&store, 1).await {
            break refused;
        }
    };
    assert!(matches!(refused, StoreError::ReserveFull { .. }), "{refused}");
    let head = store.heads().await.expect("up")[0];
    store.trim(LogId(0), Position(head.0 + 1)).await.expect("up");
    assert!(*store.has_room().borrow());
    grow(&store).await.expect("room");
    let held = store.logs.room.held();
    store.close().await;
    let store = open(&path, 80_000, OPEN).await;
    assert_eq!(store.logs.room.held(), held);
    store.close().await;
}

#[tokio::test]
async fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let store = store(OPEN).await;
    let engine = &store.engine().engine;
    let limit = Statement::new("PRAGMA max_page_count = 60");
    engine.execute(limit).await.expect("up");
    let large = || vec![(LogId(0), batch(&place(), 500))];
    let mut appended = 0;
    let refused = loop {
        match store.append_all(large()).await {
            Ok(_) => appended += 1,
            Err(refused) => break refused,
        }
    };
    assert!(refused.to_string().contains("is full: free space on it"), "{refused}");
    assert!(matches!(refused, StoreError::Away(_)));
    assert_eq!(store.heads().await.expect("up")[0], Position(appended));
    assert_eq!(store.apps(None, 9).await.expect("it can be read").len(), 1);
    assert!(matches!(*store.condition().borrow(), Condition::Away(_)), "and is away all the same");
    let engine = &store.engine().engine;
    engine.execute(Statement::new("PRAGMA max_page_count = 10000")).await.expect("up");
    let next = store.append_all(large()).await;
    assert_eq!(next, Ok(vec![Position(appended + 1)]), "no position is skipped");
    assert_eq!(*store.condition().borrow(), Condition::Up);
    store.close().await;
}
