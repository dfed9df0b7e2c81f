use clarion_proto::{
    app::{App, Environment, LaneKind, Platform},
    device::{Cell, Change, Record},
    ids::{DeviceId, UnixMillis},
    wire::v1 as wire,
};

use super::{
    super::fixtures::{ended, record},
    *,
};
use crate::snapshot::State;

fn store() -> MemoryStore {
    MemoryStore::new(4, 10_000, Clock::start())
}

fn batch(records: u8) -> RecordBatch {
    let record =
        |d| Record { device: DeviceId([d; 16]), observed: UnixMillis(1), change: Change::Removal };
    RecordBatch::from_records(&(0..records).map(record).collect::<Vec<_>>())
}

fn of(devices: impl IntoIterator<Item = u16>, change: &Change) -> RecordBatch {
    let device = |d: u16| {
        DeviceId(
            [d.to_le_bytes(), [7; 2], [7; 2], [7; 2], [7; 2], [7; 2], [7; 2], [7; 2]]
                .concat()
                .try_into()
                .expect("16"),
        )
    };
    let record = |d| Record { device: device(d), observed: UnixMillis(1), change: change.clone() };
    RecordBatch::from_records(&devices.into_iter().map(record).collect::<Vec<_>>())
}

fn place() -> Change {
    Change::Place(Cell::new(0x89411ca0003ffff).expect("a cell"))
}

/// A store to whose log 0 places of devices from 0 were appended, ten at a time, until it said that
/// it is full.
async fn filled(limit: u64) -> (MemoryStore, u16) {
    let store = MemoryStore::new(4, limit, Clock::start());
    let mut devices = 0;
    loop {
        match store.append(LogId(0), of(devices..devices + 10, &place())).await {
            Ok(_) => devices += 10,
            Err(StoreError::Full { held, limit: may_fill }) => {
                assert!(
                    held <= may_fill && may_fill == limit - (limit / 8),
                    "{held} of {may_fill}"
                );
                return (store, devices);
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

fn app(name: &str) -> AppRecord {
    let app = App {
        name: AppName::from_id(name).expect("valid"),
        display_name: String::new(),
        platform: Platform::Apns,
        gateway: "g".into(),
        credential: "c".into(),
        topic: "t".into(),
        project: String::new(),
        environment: Environment::Sandbox,
        lane_kind: LaneKind::Test,
    };
    AppRecord { app, created: UnixMillis(1), revision: 1 }
}

#[tokio::test]
async fn positions_are_dense_per_log_and_times_never_go_back() {
    let store = store();
    for expected in 1..=3 {
        assert_eq!(store.append(LogId(1), batch(2)).await, Ok(Position(expected)));
    }
    assert_eq!(store.append(LogId(0), batch(0)).await, Ok(Position(1)));
    assert_eq!(store.head(LogId(1)).await, Ok(Position(3)));
    assert_eq!(store.head(LogId(2)).await, Ok(Position(0)));
    let read = store.read(LogId(1), Position(1), usize::MAX).await.expect("there");
    assert_eq!(read.iter().map(|b| b.position.0).collect::<Vec<_>>(), [2, 3]);
    assert!(read.windows(2).all(|b| b[0].appended <= b[1].appended));
    assert!(read.iter().all(|b| b.appended > UnixMillis(0)));
    assert!(store.read(LogId(1), Position(9), 1).await.expect("there").is_empty());
    assert_eq!(store.read(LogId(1), Position(0), 1).await.expect("there").len(), 1, "at least one");
    assert_eq!(store.records_until(LogId(1), Position(2)).await, Ok(4));
    assert_eq!(store.records_until(LogId(1), Position(99)).await, Ok(6));
    assert_eq!(store.append(LogId(4), batch(1)).await, Err(StoreError::Missing("log 4".into())));
}

#[tokio::test]
async fn a_full_store_refuses_what_grows_and_takes_removals_of_those_it_knows() {
    let (store, devices) = filled(20_000).await;
    assert!(devices >= 100);
    assert!(!*store.has_room().borrow());
    let (head, one) = (store.head(LogId(0)).await.expect("there"), of([9_999], &place()));
    let refused = store.append(LogId(1), one.clone()).await.expect_err("small ones too");
    assert!(matches!(refused, StoreError::Full { .. }));
    let mixed = vec![(LogId(1), of([1], &Change::Removal)), (LogId(2), one)];
    assert!(matches!(store.append_all(mixed).await, Err(StoreError::Full { .. })));
    assert_eq!(store.head(LogId(1)).await, Ok(Position(0)), "all or nothing");

    // Of strangers nothing is kept, however many; who was registered is removed.
    for from in (10_000..40_000).step_by(1_000) {
        let strangers = of(from..from + 1_000, &Change::Removal);
        assert_eq!(store.append(LogId(0), strangers).await, Ok(head), "acknowledged, not stored");
    }
    let some = of([20_000, 3, 20_001, 5], &Change::Removal);
    assert_eq!(store.append(LogId(0), some).await, Ok(Position(head.0 + 1)));
    let kept = store.read(LogId(0), head, usize::MAX).await.expect("there");
    assert_eq!(kept[0].records, of([3, 5], &Change::Removal).into_records());
    assert_eq!(
        store.records_until(LogId(0), Position(head.0 + 1)).await,
        Ok(u64::from(devices) + 2)
    );
}

#[tokio::test]
async fn what_is_kept_for_removals_is_bounded_and_no_device_uses_it_up() {
    let (store, devices) = filled(200_000).await;
    // One device may say so 16 times.
    for n in 1..=17 {
        let said = store.append(LogId(0), of([1], &Change::Mute(n % 2 == 0))).await;
        assert_eq!(said.is_ok(), n <= 16, "{n}: {said:?}");
    }
    let mut removed = 0;
    let refused = loop {
        let next = (2..devices).nth(removed % usize::from(devices - 2)).expect("some");
        match store.append(LogId(0), of([next], &Change::Removal)).await {
            Ok(_) => removed += 1,
            Err(refused) => break refused,
        }
    };
    assert!(
        matches!(refused, StoreError::ReserveFull { held, limit: 200_000 } if held <= 200_000),
        "{refused:?}"
    );
    assert!(removed >= 1);
    let strangers = store.append(LogId(0), of([9_000], &Change::Removal)).await;
    assert!(strangers.is_ok(), "those are acknowledged as before");
}

#[tokio::test]
async fn what_is_known_is_charged_once() {
    let store = MemoryStore::new(1, 1_000_000, Clock::start());
    let mut appended = 0_u64;
    // The same ten devices: their places are stored again and again, they themselves once.
    while store.append(LogId(0), of(0..10, &place())).await.is_ok() {
        appended += 1;
    }
    let alone = log::cost(&of(0..10, &place())) - 10 * 12;
    assert_eq!(appended, (1_000_000 * 7 / 8 - 120 - 120) / alone);
}

/// A cover or an outline makes a record of megabytes: a thousand of them are forgotten sooner than
/// a thousand small ones.
#[tokio::test]
async fn large_alerts_that_ended_are_forgotten_sooner() {
    let store = store();
    store.create_app(app("demo")).await.expect("room");
    let region =
        wire::region::Shape::Cells(wire::CellSet { cells: vec![0x89411ca0003ffff; 100_000] });
    let region = wire::Region { shape: Some(region), exclusions: vec![] };
    let submitted = Arc::new(wire::Alert { region: Some(region), ..Default::default() });
    let of_one = submitted.encoded_len();
    assert!(of_one > 800_000);
    for i in 0..200 {
        let alert =
            AlertRecord { submitted: Arc::clone(&submitted), ..record(&format!("a{i}"), i) };
        store.create_alert(alert.clone(), 1).await.expect("room");
        store.replace_alert(ended(&alert, State::Resolved)).await.expect("first");
    }
    let all = store.alerts(None, usize::MAX).await.expect("up");
    assert!(
        (50..=ALERT_BYTES_MAX / of_one).contains(&all.len()),
        "{} of {of_one} bytes",
        all.len()
    );
    assert_eq!(all[0].name.id(), "a199", "the newest stay");
    let tables = store.tables.lock();
    assert_eq!(tables.bytes, tables.alerts.values().map(|alert| bytes_of(alert)).sum::<usize>());
}

#[tokio::test]
async fn a_follower_is_told_of_growth() {
    let store = store();
    let mut grown = store.grown();
    assert!(!grown.has_changed().expect("open"));
    store.append(LogId(3), batch(1)).await.expect("room");
    assert!(grown.has_changed().expect("open"));
    grown.borrow_and_update();
}

#[tokio::test]
async fn one_alert_for_a_request() {
    let store = store();
    let first = record("a", 1);
    assert_eq!(
        store.create_alert(first.clone(), 2).await.expect_err("no app"),
        StoreError::Missing("apps/demo".into())
    );
    store.create_app(app("demo")).await.expect("room");
    assert!(matches!(store.create_alert(first.clone(), 2).await, Ok(Created::New(_))));
    let again = AlertRecord { name: AlertName::from_id("b").expect("valid"), ..first.clone() };
    match store.create_alert(again, 2).await {
        Ok(Created::Existing(alert)) => assert_eq!(alert.name, first.name),
        other => panic!("{other:?}"),
    }
    assert!(matches!(store.create_alert(record("c", 3), 2).await, Ok(Created::New(_))));
    let full = store.create_alert(record("d", 4), 2).await.expect_err("full");
    assert_eq!(full, StoreError::TooManyActive { active: 2, limit: 2 });
    store.discard_alert(&first.name).await.expect("there");
    assert_eq!(
        store.alert_by_request(first.request_id).await.expect("up").map(|a| a.revision),
        None
    );
    assert!(matches!(store.create_alert(record("d", 4), 2).await, Ok(Created::New(_))));
}

#[tokio::test]
async fn the_first_writer_wins() {
    let store = store();
    store.create_app(app("demo")).await.expect("room");
    store.create_alert(record("a", 1), 9).await.expect("room");
    let read = store.alert(&record("a", 1).name).await.expect("up").expect("there");
    assert!(store.replace_alert(ended(&read, State::Resolved)).await.is_ok());
    assert!(matches!(
        store.replace_alert(ended(&read, State::Expired)).await,
        Err(StoreError::Conflict(_))
    ));
    assert_eq!(store.active_count().await, Ok(0));
}

#[tokio::test]
async fn pages_are_newest_first_and_miss_nobody() {
    let store = store();
    store.create_app(app("demo")).await.expect("room");
    for (name, created) in [("a", 5), ("b", 7), ("c", 6), ("e", 4)] {
        store.create_alert(record(name, created), 99).await.expect("room");
    }
    let names =
        |page: &[Arc<AlertRecord>]| page.iter().map(|a| a.name.id().to_owned()).collect::<Vec<_>>();
    let first = store.alerts(None, 2).await.expect("up");
    assert_eq!(names(&first), ["b", "c"]);
    let second = store.alerts(Some(&cursor(&first[1])), 2).await.expect("up");
    assert_eq!(names(&second), ["a", "e"]);
    assert!(store.alerts(Some(&cursor(&second[1])), 2).await.expect("up").is_empty());
}

#[tokio::test]
async fn only_so_many_ended_alerts_are_remembered() {
    let store = store();
    store.create_app(app("demo")).await.expect("room");
    for i in 0..=ENDED_ALERTS_KEPT as u64 {
        let alert = record(&format!("a{i}"), i);
        store.create_alert(alert.clone(), 1).await.expect("room");
        store.replace_alert(ended(&alert, State::Resolved)).await.expect("first");
    }
    let all = store.alerts(None, usize::MAX).await.expect("up");
    assert_eq!(all.len(), ENDED_ALERTS_KEPT);
    assert!(
        store.alert_by_request(record("a0", 0).request_id).await.expect("up").is_none(),
        "the oldest is gone"
    );
}

#[tokio::test]
async fn an_app_in_use_stays() {
    let store = store();
    store.create_app(app("demo")).await.expect("room");
    store.create_app(app("other")).await.expect("room");
    store.create_alert(record("a", 1), 9).await.expect("room");
    let demo = AppName::from_id("demo").expect("valid");
    assert!(matches!(store.delete_app(&demo).await, Err(StoreError::InUse { .. })));
    let other = AppName::from_id("other").expect("valid");
    assert_eq!(store.apps(Some(&demo), 9).await.expect("up")[0].app.name, other);
    assert_eq!(store.delete_app(&other).await, Ok(()));
    assert!(matches!(store.delete_app(&other).await, Err(StoreError::Missing(_))));
}
