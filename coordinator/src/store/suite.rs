//! Requirements of every engine, as tests over the traits alone. An engine runs them by
//! [`suite!`](suite), with a function that makes an empty store of four logs.

use std::sync::Arc;

use clarion_proto::{
    alert::Mode,
    app::{App, Environment, Identity, LaneKind, Platform},
    device::{Change, Record},
    ids::{
        AlertName, AppName, CoordinatorId, DeviceId, Epoch, LogId, PartitionId, Position,
        UnixMillis,
    },
    wire::v1 as wire,
};

use super::{
    AlertCursor, AlertFilter, AlertRecord, AlertStore, AppRecord, ChainAt, ChangeLog, Checkpoint,
    ClusterStore, Created, LaneDirector, Numbered, RecordBatch, StoreError,
    fixtures::{ended, record},
};
use crate::{
    owners::{NodeName, Ownership},
    snapshot::State,
};

/// Everything that an engine provides.
pub(super) trait Engine: AlertStore + ChangeLog + ClusterStore {}
impl<T: AlertStore + ChangeLog + ClusterStore> Engine for T {}

/// Runs every test of this file against the engine that `$empty` makes.
macro_rules! suite {
    ($empty:expr => $($test:ident)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                $crate::store::suite::$test($empty).await;
            }
        )*
    };
    ($empty:expr) => {
        $crate::store::suite::suite! { $empty =>
            positions_are_dense_per_log_and_times_never_go_back
            one_call_appends_to_several_logs_or_to_none
            several_logs_are_read_at_once_within_one_limit
            what_is_trimmed_is_gone_and_positions_stay
            chains_tell_what_a_log_had
            a_follower_is_told_of_growth
            an_alert_names_the_logs_as_they_were
            one_alert_for_a_request
            an_active_alert_is_kept_whole
            the_first_writer_wins
            a_lower_epoch_writes_nothing
            active_alerts_are_listed_until_they_end
            pages_are_newest_first_and_miss_nobody
            a_filter_finds_what_it_says
            an_app_in_use_stays
            the_identity_of_a_deleted_app_is_kept_until_the_name_is_used
            ownership_is_numbered_without_a_gap
            the_lane_director_is_numbered_without_a_gap
            numbered_records_are_kept_by_key
            a_checkpoint_belongs_to_the_highest_epoch_and_goes_with_the_alert
        }
    };
}
pub(super) use suite;

pub(crate) fn app(name: &str) -> AppRecord {
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
        identity: Identity::Device,
    };
    AppRecord { app, created: UnixMillis(1), revision: 1 }
}

fn batch(records: u8) -> RecordBatch {
    let record =
        |d| Record { device: DeviceId([d; 16]), observed: UnixMillis(1), change: Change::Removal };
    RecordBatch::from_records(&(0..records).map(record).collect::<Vec<_>>())
}

async fn append(store: &impl Engine, log: u16, records: u8) -> Result<Position, StoreError> {
    Ok(store.append_all(vec![(LogId(log), batch(records))]).await?[0])
}

fn cursor(alert: &AlertRecord) -> AlertCursor {
    AlertCursor { created: alert.created, name: alert.name.clone() }
}

/// A store with the app that the alerts of [`record`] address.
async fn with_app<S: Engine>(store: S) -> S {
    store.create_app(app("demo")).await.expect("room");
    store
}

pub(super) async fn positions_are_dense_per_log_and_times_never_go_back(store: impl Engine) {
    for expected in 1..=3 {
        assert_eq!(append(&store, 1, 2).await, Ok(Position(expected)));
    }
    assert_eq!(append(&store, 0, 0).await, Ok(Position(1)), "an empty batch takes a position");
    let heads = [1, 3, 0, 0].map(Position).to_vec();
    assert_eq!(store.heads().await, Ok(heads));
    let read = store.read_many(&[(LogId(1), Position(1))], usize::MAX).await.expect("up");
    let (log, batches) = &read[0];
    assert_eq!((read.len(), *log), (1, LogId(1)));
    assert_eq!(batches.iter().map(|b| b.position.0).collect::<Vec<_>>(), [2, 3]);
    assert!(batches.windows(2).all(|b| b[0].appended <= b[1].appended));
    assert!(batches.iter().all(|b| b.appended > UnixMillis(0)));
    assert!(store.read_many(&[(LogId(1), Position(9))], 1).await.expect("up").is_empty());
    let of = [(LogId(1), Position(2)), (LogId(1), Position(99)), (LogId(3), Position(1))];
    assert_eq!(store.records_until(&of).await, Ok(vec![4, 6, 0]));
}

pub(super) async fn one_call_appends_to_several_logs_or_to_none(store: impl Engine) {
    let all = [(2, 1), (0, 3), (2, 2)];
    let batches = |all: &[(u16, u8)]| all.iter().map(|&(l, n)| (LogId(l), batch(n))).collect();
    let positions = store.append_all(batches(&all)).await.expect("room");
    assert_eq!(positions[..2], [1, 1].map(Position), "in the order given");
    assert!([1, 2].contains(&positions[2].0), "joined to the first one of its log, or after it");
    let missing = store.append_all(batches(&[(1, 1), (4, 1)])).await;
    assert_eq!(missing, Err(StoreError::Missing("log 4".into())));
    let heads = [Position(1), Position(0), positions[2], Position(0)].to_vec();
    assert_eq!(store.heads().await, Ok(heads), "all or none");
    assert_eq!(store.records_until(&[(LogId(2), positions[2])]).await, Ok(vec![3]));
    assert_eq!(store.append_all(Vec::new()).await, Ok(Vec::new()));
}

pub(super) async fn several_logs_are_read_at_once_within_one_limit(store: impl Engine) {
    for _ in 0..3 {
        append(&store, 0, 10).await.expect("room");
        append(&store, 2, 10).await.expect("room");
    }
    let of_one = batch(10).bytes();
    let from = |at: u64| [2, 1, 0].map(|log| (LogId(log), Position(at)));
    let sizes = async |at: u64, bytes_max: usize| {
        let read = store.read_many(&from(at), bytes_max).await.expect("up");
        read.into_iter().map(|(log, batches)| (log.0, batches.len())).collect::<Vec<_>>()
    };
    assert_eq!(sizes(0, usize::MAX).await, [(2, 3), (0, 3)]);
    assert_eq!(sizes(0, 4 * of_one).await, [(2, 3), (0, 1)], "in the order asked for");
    assert_eq!(sizes(1, of_one).await, [(2, 1)]);
    assert_eq!(sizes(0, 1).await, [(2, 1)], "one batch at least, however large");
    assert_eq!(sizes(3, usize::MAX).await, []);
}

pub(super) async fn what_is_trimmed_is_gone_and_positions_stay(store: impl Engine) {
    for _ in 0..5 {
        append(&store, 1, 2).await.expect("room");
    }
    store.trim(LogId(1), Position(4)).await.expect("up");
    let first = StoreError::Trimmed { log: LogId(1), first: Position(4) };
    for after in [0, 2] {
        let read = store.read_many(&[(LogId(1), Position(after))], 9).await;
        assert_eq!(read.expect_err("trimmed"), first, "after {after}");
    }
    let read = store.read_many(&[(LogId(1), Position(3))], usize::MAX).await.expect("up");
    assert_eq!(read[0].1.iter().map(|b| b.position.0).collect::<Vec<_>>(), [4, 5]);
    let of = [1, 4, 5].map(|position| (LogId(1), Position(position)));
    let counts = store.records_until(&of).await.expect("up");
    assert_eq!(counts[1..], [8, 10], "what was trimmed is counted");
    assert!(counts[0] <= 6, "at most what is trimmed: {counts:?}");
    // A second trim, or a trim past the head, leaves the head where it is.
    store.trim(LogId(1), Position(2)).await.expect("up");
    store.trim(LogId(1), Position(99)).await.expect("up");
    assert_eq!(store.heads().await.expect("up")[1], Position(5));
    let before = append(&store, 1, 1).await;
    assert_eq!(before, Ok(Position(6)));
    let read = store.read_many(&[(LogId(1), Position(5))], usize::MAX).await.expect("up");
    assert_eq!(read[0].1[0].position, Position(6));
    assert_eq!(store.records_until(&[(LogId(1), Position(6))]).await, Ok(vec![11]));
}

pub(super) async fn chains_tell_what_a_log_had(store: impl Engine) {
    let empty = store.links();
    for _ in 0..4 {
        append(&store, 1, 2).await.expect("room");
    }
    let links = store.links();
    if links.is_empty() {
        return; // The memory engine keeps no chains.
    }
    assert_eq!(links.iter().map(|l| l.position.0).collect::<Vec<_>>(), [0, 4, 0, 0]);
    assert_eq!((links[0], links[3]), (empty[0], empty[3]), "they were not appended to");
    let at = async |position| store.chain_at(LogId(1), Position(position)).await.expect("up");
    assert_eq!(
        (at(0).await, at(4).await, at(5).await),
        (ChainAt::Known(empty[1].chain), ChainAt::Known(links[1].chain), ChainAt::Ahead,)
    );
    let (two, three) = (at(2).await, at(3).await);
    assert!(matches!((two, three), (ChainAt::Known(two), ChainAt::Known(three)) if two != three));
    store.trim(LogId(1), Position(4)).await.expect("up");
    assert_eq!((at(2).await, at(3).await), (ChainAt::Trimmed, three), "the last that was trimmed");
}

pub(super) async fn a_follower_is_told_of_growth(store: impl Engine) {
    let mut grown = store.grown();
    assert!(!grown.has_changed().expect("open"));
    append(&store, 3, 1).await.expect("room");
    assert!(grown.has_changed().expect("open"));
    grown.borrow_and_update();
}

pub(super) async fn an_alert_names_the_logs_as_they_were(store: impl Engine) {
    let store = with_app(store).await;
    append(&store, 0, 1).await.expect("room");
    append(&store, 3, 1).await.expect("room");
    let Ok(Created::New(alert)) = store.create_alert(record("a", 1), 9).await else {
        panic!("it is new")
    };
    append(&store, 0, 1).await.expect("room");
    let heads = [1, 0, 0, 1].map(Position).to_vec();
    assert_eq!((alert.log, &alert.positions), (store.identity(), &heads));
    let read = store.alert(&alert.name).await.expect("up").expect("there");
    assert_eq!(read.positions, heads, "as stored, not as they are now");
}

pub(super) async fn one_alert_for_a_request(store: impl Engine) {
    let first = record("a", 1);
    assert_eq!(
        store.create_alert(first.clone(), 2).await.expect_err("no app"),
        StoreError::Missing("apps/demo".into())
    );
    let store = with_app(store).await;
    assert!(matches!(store.create_alert(first.clone(), 2).await, Ok(Created::New(_))));
    let again = AlertRecord { name: AlertName::from_id("b").expect("valid"), ..first.clone() };
    match store.create_alert(again, 2).await {
        Ok(Created::Existing(alert)) => assert_eq!(alert.name, first.name),
        other => panic!("{other:?}"),
    }
    assert!(matches!(store.create_alert(record("c", 3), 2).await, Ok(Created::New(_))));
    let full = store.create_alert(record("d", 4), 2).await.expect_err("full");
    assert_eq!(full, StoreError::TooManyActive { active: 2, limit: 2 });
    store.replace_alert(ended(&first, State::Resolved)).await.expect("first");
    assert!(matches!(store.create_alert(record("d", 4), 2).await, Ok(Created::New(_))));
}

pub(super) async fn an_active_alert_is_kept_whole(store: impl Engine) {
    let store = with_app(store).await;
    let written = record("a", 1);
    store.create_alert(written.clone(), 9).await.expect("room");
    let active = store.active_alerts().await.expect("up");
    let read = store.alert(&written.name).await.expect("up").expect("there");
    for read in [&active[0], &read] {
        assert_eq!((&read.plan, read.created), (&written.plan, written.created));
        assert_eq!((read.expires, &read.submitted), (written.expires, &written.submitted));
    }
    let ended = store.replace_alert(ended(&read, State::Resolved)).await.expect("first");
    assert_eq!(ended.plan, None);
    let read = store.alert(&written.name).await.expect("up").expect("there");
    assert_eq!(read.plan, None, "gone with the end");
}

pub(super) async fn the_first_writer_wins(store: impl Engine) {
    let store = with_app(store).await;
    store.create_alert(record("a", 1), 9).await.expect("room");
    let read = store.alert(&record("a", 1).name).await.expect("up").expect("there");
    assert!(store.replace_alert(ended(&read, State::Resolved)).await.is_ok());
    let second = store.replace_alert(ended(&read, State::Expired)).await;
    assert!(matches!(second, Err(StoreError::Conflict(_))));
}

pub(super) async fn a_lower_epoch_writes_nothing(store: impl Engine) {
    let store = with_app(store).await;
    store.create_alert(record("a", 1), 9).await.expect("room");
    let read = store.alert(&record("a", 1).name).await.expect("up").expect("there");
    let taken_over =
        AlertRecord { epoch: Epoch(2), revision: read.revision + 1, ..(*read).clone() };
    store.replace_alert(taken_over.clone()).await.expect("a higher epoch");
    // The former coordinator has read the newest revision and writes under its own epoch.
    let late = AlertRecord { epoch: Epoch(1), ..ended(&taken_over, State::Expired) };
    let alert = late.name.clone();
    assert_eq!(
        store.replace_alert(late).await.expect_err("fenced"),
        StoreError::Superseded { alert: alert.clone(), stored: Epoch(2), epoch: Epoch(1) }
    );
    let stored = store.alert(&alert).await.expect("up").expect("there");
    assert_eq!((stored.state, stored.epoch), (State::Active, Epoch(2)));
}

pub(super) async fn active_alerts_are_listed_until_they_end(store: impl Engine) {
    let store = with_app(store).await;
    for name in ["b", "a", "c"] {
        store.create_alert(record(name, u64::from(name.as_bytes()[0])), 9).await.expect("room");
    }
    let names = async || {
        let active = store.active_alerts().await.expect("up");
        active.iter().map(|a| a.name.id().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["a", "b", "c"]);
    let b = store.alert(&AlertName::from_id("b").expect("valid")).await.expect("up").expect("b");
    let (state, revision) = (State::Cancelling, b.revision + 1);
    let cancelling = AlertRecord { state, revision, ..(*b).clone() };
    store.replace_alert(cancelling.clone()).await.expect("first");
    assert_eq!(names().await, ["a", "b", "c"], "CANCELLING has not ended");
    store.replace_alert(ended(&cancelling, State::Cancelled)).await.expect("first");
    assert_eq!(names().await, ["a", "c"]);
}

pub(super) async fn pages_are_newest_first_and_miss_nobody(store: impl Engine) {
    let store = with_app(store).await;
    for (name, created) in [("a", 5), ("b", 7), ("c", 6), ("e", 4)] {
        store.create_alert(record(name, created), 99).await.expect("room");
    }
    let names =
        |page: &[Arc<AlertRecord>]| page.iter().map(|a| a.name.id().to_owned()).collect::<Vec<_>>();
    let all = AlertFilter::default();
    let first = store.alerts(&all, None, 2).await.expect("up");
    assert_eq!(names(&first), ["b", "c"]);
    let second = store.alerts(&all, Some(&cursor(&first[1])), 2).await.expect("up");
    assert_eq!(names(&second), ["a", "e"]);
    assert!(store.alerts(&all, Some(&cursor(&second[1])), 2).await.expect("up").is_empty());
}

pub(super) async fn a_filter_finds_what_it_says(store: impl Engine) {
    let store = with_app(store).await;
    store.create_app(app("other")).await.expect("room");
    let filed = |name: &str, created: u64, external_id: &str, label: &str| {
        let submitted = wire::Alert {
            mode: if created.is_multiple_of(2) { wire::Mode::Live } else { wire::Mode::Test }
                .into(),
            external_id: external_id.to_owned(),
            labels: [("team".to_owned(), label.to_owned())].into(),
            ..Default::default()
        };
        AlertRecord { submitted: Arc::new(submitted), ..record(name, created) }
    };
    let other = AppName::from_id("other").expect("valid");
    let of_other = AlertRecord { apps: vec![other.clone()], ..filed("d", 4, "case-2", "south") };
    for alert in [
        filed("a", 1, "case-1", "north"),
        filed("b", 2, "case-1", "south"),
        filed("c", 3, "", "north"),
        of_other,
        filed("e", 5, "case-1", "north"),
    ] {
        store.create_alert(alert, 99).await.expect("room");
    }
    let a =
        store.alert(&AlertName::from_id("a").expect("valid")).await.expect("up").expect("there");
    store.replace_alert(ended(&a, State::Resolved)).await.expect("the next revision");
    let none = AlertFilter::default;
    let labels = |value: &str| [("team".to_owned(), value.to_owned())].into();
    let case = |id: &str| AlertFilter { external_id: Some(id.to_owned()), ..none() };
    for (filter, expected) in [
        (none(), "edcba"),
        (case("case-1"), "eba"),
        (case("case"), ""),
        (AlertFilter { states: vec![State::Active], ..case("case-1") }, "eb"),
        (AlertFilter { states: vec![State::Resolved, State::Expired], ..none() }, "a"),
        (AlertFilter { modes: vec![Mode::Live], ..none() }, "db"),
        (AlertFilter { created_from: Some(UnixMillis(2)), ..none() }, "edcb"),
        (AlertFilter { created_before: Some(UnixMillis(2)), ..none() }, "a"),
        (AlertFilter { app: Some(other), ..none() }, "d"),
        (AlertFilter { labels: labels("north"), ..none() }, "eca"),
        (AlertFilter { labels: labels("north"), ..case("case-1") }, "ea"),
    ] {
        let mut found = String::new();
        let mut after = None;
        // Page by page, so that no page misses an alert.
        while let [alert] = &store.alerts(&filter, after.as_ref(), 1).await.expect("up")[..] {
            found.push_str(alert.name.id());
            after = Some(cursor(alert));
        }
        assert_eq!(found, expected, "{filter:?}");
    }
}

pub(super) async fn an_app_in_use_stays(store: impl Engine) {
    let store = with_app(store).await;
    store.create_app(app("other")).await.expect("room");
    store.create_alert(record("a", 1), 9).await.expect("room");
    let demo = AppName::from_id("demo").expect("valid");
    assert!(matches!(store.delete_app(&demo).await, Err(StoreError::InUse { .. })));
    let other = AppName::from_id("other").expect("valid");
    assert_eq!(store.apps(Some(&demo), 9).await.expect("up")[0].app.name, other);
    assert_eq!(store.delete_app(&other).await, Ok(()));
    assert!(matches!(store.delete_app(&other).await, Err(StoreError::Missing(_))));
}

pub(super) async fn the_identity_of_a_deleted_app_is_kept_until_the_name_is_used(
    store: impl Engine,
) {
    let name = AppName::from_id("other").expect("valid");
    for identity in [Identity::Token, Identity::Device] {
        let mut record = app("other");
        record.app.identity = identity;
        store.create_app(record).await.expect("room");
        assert_eq!(store.deleted_identity(&name).await, Ok(None), "the name is in use");
        store.delete_app(&name).await.expect("there");
        assert_eq!(store.deleted_identity(&name).await, Ok(Some(identity)));
    }
}

pub(super) async fn ownership_is_numbered_without_a_gap(store: impl Engine) {
    assert_eq!(store.ownership().await, Ok(None));
    let nodes = ["n1", "n2"].map(|name| NodeName::new(name).expect("valid"));
    let first = Ownership::assign(1, 8, &nodes[..1]);
    store.replace_ownership(first.clone()).await.expect("the first");
    for wrong in [1, 3] {
        let replaced = store.replace_ownership(Ownership::assign(wrong, 8, &nodes)).await;
        assert!(matches!(replaced, Err(StoreError::Conflict(_))), "{wrong}");
    }
    assert_eq!(store.ownership().await.expect("up").as_deref(), Some(&first));
    store.replace_ownership(Ownership::assign(2, 8, &nodes)).await.expect("the next");
    let stored = store.ownership().await.expect("up").expect("there");
    let owners: std::collections::BTreeSet<_> =
        (0..8).filter_map(|p| stored.owner(PartitionId(p))).collect();
    assert_eq!(owners.len(), 2, "as it was assigned");
}

pub(super) async fn the_lane_director_is_numbered_without_a_gap(store: impl Engine) {
    assert_eq!(store.lane_director().await, Ok(None));
    let of = |epoch, coordinator| LaneDirector {
        epoch: Epoch(epoch),
        coordinator: CoordinatorId([coordinator; 16]),
    };
    store.replace_lane_director(of(1, 1)).await.expect("the first");
    for wrong in [1, 3] {
        let replaced = store.replace_lane_director(of(wrong, 2)).await;
        assert!(matches!(replaced, Err(StoreError::Conflict(_))), "{wrong}");
    }
    assert_eq!(store.lane_director().await, Ok(Some(of(1, 1))));
    store.replace_lane_director(of(2, 2)).await.expect("the next");
    assert_eq!(store.lane_director().await, Ok(Some(of(2, 2))));
}

pub(super) async fn numbered_records_are_kept_by_key(store: impl Engine) {
    let of = |key: &str, number| Numbered::new(key, number, vec![7; 3]);
    assert_eq!(store.numbered("kind/1").await, Ok(None));
    let (others, kind) = ([of("kind", 1), of("kind0", 1)], ["kind/1", "kind/10", "kind/2"]);
    let kind = kind.map(|key| of(key, 1));
    for record in others.iter().chain(&kind) {
        store.replace_numbered(record.clone()).await.expect("the first of its key");
    }
    assert_eq!(store.numbered("kind/10").await, Ok(Some(of("kind/10", 1))));
    assert_eq!(store.all_numbered("kind/").await, Ok(kind.to_vec()), "by key");
    for wrong in [0, 1, 3, u64::MAX] {
        let replaced = store.replace_numbered(of("kind/2", wrong)).await;
        assert!(matches!(replaced, Err(StoreError::Conflict(_))), "{wrong}");
    }
    store.replace_numbered(of("kind/2", 2)).await.expect("the next");
    let deleted = store.delete_numbered("kind/2", 1).await;
    assert!(matches!(deleted, Err(StoreError::Conflict(_))), "it has changed");
    store.delete_numbered("kind/2", 2).await.expect("there");
    store.delete_numbered("kind/2", 2).await.expect("gone is gone");
    assert_eq!(store.all_numbered("kind/").await, Ok(kind[..2].to_vec()));
}

pub(super) async fn a_checkpoint_belongs_to_the_highest_epoch_and_goes_with_the_alert(
    store: impl Engine,
) {
    let store = with_app(store).await;
    let alert = record("a", 1);
    let write = |epoch, number, bytes: &'static [u8]| {
        let (alert, bytes) = (alert.name.clone(), bytes::Bytes::from_static(bytes));
        store.put_checkpoint(Checkpoint { alert, epoch: Epoch(epoch), number, bytes })
    };
    let missing = write(1, 1, b"x").await;
    assert!(matches!(missing, Err(StoreError::Missing(_))), "there is no such alert");
    store.create_alert(alert.clone(), 9).await.expect("room");
    assert_eq!(store.checkpoint(&alert.name).await, Ok(None));
    write(1, 1, b"first").await.expect("the first");
    assert!(matches!(write(1, 1, b"again").await, Err(StoreError::Conflict(_))));
    write(1, 2, b"second").await.expect("the next");
    let taken_over = AlertRecord { epoch: Epoch(2), revision: 2, ..alert.clone() };
    store.replace_alert(taken_over.clone()).await.expect("a higher epoch");
    assert!(matches!(write(1, 3, b"late").await, Err(StoreError::Superseded { .. })));
    write(2, 3, b"third").await.expect("the new holder goes on");
    let stored = store.checkpoint(&alert.name).await.expect("up").expect("there");
    assert_eq!((&stored.bytes[..], stored.epoch), (&b"third"[..], Epoch(2)));
    store.replace_alert(ended(&taken_over, State::Resolved)).await.expect("first");
    assert_eq!(store.checkpoint(&alert.name).await, Ok(None));
    assert!(matches!(write(2, 4, b"too late").await, Err(StoreError::Missing(_))));
}
