use clarion_proto::{
    device::{Cell, Change, Record},
    ids::{DeviceId, UnixMillis},
    wire::v1 as wire,
};

use super::{
    super::{
        fixtures::{ended, record},
        suite::{app, suite},
    },
    *,
};
use crate::snapshot::State;

fn store() -> MemoryStore {
    MemoryStore::new(4, 10_000, &World::system())
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

/// A store whose log 0 has places of devices from 0, appended ten at a time until it was full.
async fn filled(limit: u64) -> (MemoryStore, u16) {
    let store = MemoryStore::new(4, limit, &World::system());
    let mut devices = 0;
    loop {
        match append(&store, 0, of(devices..devices + 10, &place())).await {
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

/// Appends one batch to one log.
async fn append(store: &MemoryStore, log: u16, batch: RecordBatch) -> Result<Position, StoreError> {
    Ok(store.append_all(vec![(LogId(log), batch)]).await?[0])
}

suite! { store() }

#[tokio::test]
async fn a_full_store_refuses_what_grows_and_takes_removals_of_those_it_knows() {
    let (store, devices) = filled(20_000).await;
    assert!(devices >= 100);
    assert!(!*store.has_room().borrow());
    let (head, one) = (store.heads().await.expect("up")[0], of([9_999], &place()));
    let refused = append(&store, 1, one.clone()).await.expect_err("small ones too");
    assert!(matches!(refused, StoreError::Full { .. }));
    let mixed = vec![(LogId(1), of([1], &Change::Removal)), (LogId(2), one)];
    assert!(matches!(store.append_all(mixed).await, Err(StoreError::Full { .. })));
    assert_eq!(store.heads().await.expect("up")[1..], [Position(0); 3], "all or nothing");

    // Records of unknown devices are dropped; the removal of a registered device is kept.
    for from in (10_000..40_000).step_by(1_000) {
        let strangers = of(from..from + 1_000, &Change::Removal);
        assert_eq!(append(&store, 0, strangers).await, Ok(head), "acknowledged, not stored");
    }
    let some = of([20_000, 3, 20_001, 5], &Change::Removal);
    assert_eq!(append(&store, 0, some).await, Ok(Position(head.0 + 1)));
    let kept = store.read_many(&[(LogId(0), head)], usize::MAX).await.expect("up");
    assert_eq!(kept[0].1[0].records, of([3, 5], &Change::Removal).into_records());
    let until = [(LogId(0), Position(head.0 + 1))];
    assert_eq!(store.records_until(&until).await, Ok(vec![u64::from(devices) + 2]));
}

#[tokio::test]
async fn what_is_kept_for_removals_is_bounded_and_no_device_uses_it_up() {
    let (store, devices) = filled(200_000).await;
    // One device may have 16 records in the reserve.
    for n in 1..=17 {
        let said = append(&store, 0, of([1], &Change::Mute(n % 2 == 0))).await;
        assert_eq!(said.is_ok(), n <= 16, "{n}: {said:?}");
    }
    let mut removed = 0;
    let refused = loop {
        let next = (2..devices).nth(removed % usize::from(devices - 2)).expect("some");
        match append(&store, 0, of([next], &Change::Removal)).await {
            Ok(_) => removed += 1,
            Err(refused) => break refused,
        }
    };
    assert!(
        matches!(refused, StoreError::ReserveFull { held, limit: 200_000 } if held <= 200_000),
        "{refused:?}"
    );
    assert!(removed >= 1);
    let share = vec![(LogId(1), of([2], &Change::Removal)), (LogId(0), of([1], &Change::Removal))];
    assert!(store.append_all(share).await.is_err(), "all or none");
    let strangers = append(&store, 0, of([9_000], &Change::Removal)).await;
    assert!(strangers.is_ok(), "those are acknowledged as before");
}

#[tokio::test]
async fn what_is_known_is_charged_once() {
    let store = MemoryStore::new(1, 1_000_000, &World::system());
    let mut appended = 0_u64;
    // Ten devices: each new place is stored again, each device counts only once.
    while append(&store, 0, of(0..10, &place())).await.is_ok() {
        appended += 1;
    }
    let alone = log::cost(&of(0..10, &place())) - 10 * 12;
    assert_eq!(appended, (1_000_000 * 7 / 8 - 120 - 120) / alone);
}

/// Bodies are counted while the record holds them.
#[tokio::test]
async fn an_alert_that_has_ended_gives_its_bodies_back() {
    let store = store();
    store.create_app(app("demo")).await.expect("room");
    let mut alert = record("a", 1);
    let mut plan = alert.plan.as_deref().expect("active").clone();
    plan.apps[0].messages[0].body = vec![b'x'; 100_000].into();
    alert.plan = Some(Arc::new(plan));
    store.create_alert(alert.clone(), 1).await.expect("room");
    let held = || store.tables.lock().bytes;
    assert!(held() > 100_000, "{}", held());
    store.replace_alert(ended(&alert, State::Resolved)).await.expect("first");
    assert!(held() < 2_000, "{}", held());
}

/// A cover or an outline makes a record of megabytes.
#[tokio::test]
async fn large_alerts_that_ended_are_forgotten_sooner() {
    let store = store();
    store.create_app(app("demo")).await.expect("room");
    let region =
        wire::region::Shape::Cells(wire::CellSet { cells: vec![0x89411ca0003ffff; 100_000] });
    let region = wire::Region { shape: Some(region), exclusions: vec![], datum: 0 };
    let submitted = Arc::new(wire::Alert { region: Some(region), ..Default::default() });
    let of_one = submitted.encoded_len();
    assert!(of_one > 800_000);
    for i in 0..200 {
        let alert =
            AlertRecord { submitted: Arc::clone(&submitted), ..record(&format!("a{i}"), i) };
        store.create_alert(alert.clone(), 1).await.expect("room");
        store.replace_alert(ended(&alert, State::Resolved)).await.expect("first");
    }
    let all = store.alerts(&AlertFilter::default(), None, usize::MAX).await.expect("up");
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
async fn only_so_many_ended_alerts_are_remembered() {
    let store = store();
    store.create_app(app("demo")).await.expect("room");
    for i in 0..=ENDED_ALERTS_KEPT as u64 {
        let alert = record(&format!("a{i}"), i);
        store.create_alert(alert.clone(), 1).await.expect("room");
        store.replace_alert(ended(&alert, State::Resolved)).await.expect("first");
    }
    let all = store.alerts(&AlertFilter::default(), None, usize::MAX).await.expect("up");
    assert_eq!(all.len(), ENDED_ALERTS_KEPT);
    assert!(
        store.alert_by_request(record("a0", 0).request_id).await.expect("up").is_none(),
        "the oldest is gone"
    );
}

#[tokio::test]
async fn trimming_makes_room() {
    let (store, _) = filled(20_000).await;
    let (head, held) = (store.heads().await.expect("up")[0], store.room.held());
    store.trim(LogId(0), head).await.expect("up");
    let freed = held - store.room.held();
    assert!(freed > 10_000, "{freed} of {held} bytes");
    assert!(*store.has_room().borrow());
    append(&store, 1, of([9_999], &place())).await.expect("room");
}
