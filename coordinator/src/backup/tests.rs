use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_proto::{
    app::Identity,
    device::{Change, Record},
    ids::{
        AlertName, AppName, ClusterName, CoordinatorId, DeviceId, Epoch, LogId, PartitionId,
        Position, UnixMillis,
    },
    wire::store::v1::{BackupHead, BackupItem, backup_item::Item},
};
use clarion_runtime::world::World;
use proptest::prelude::*;
use tokio::sync::mpsc;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    file::{self, BackupKey, FileError, Reader, Writer},
    read,
    restore::{Report, RestoreError, Restoring, check_finished},
};
use crate::{
    archive::{Archive, ArchiveConfig, fixtures::content},
    objects::Objects,
    seal::{Generation, Seals},
    snapshot::State,
    store::{
        AlertRecord, Batch, Created, LaneDirector, Numbered, RecordBatch, Store,
        fixtures::{ended, record},
        memory::MemoryStore,
        sql::{MadeFor, SqlStore},
        sqlite::SqliteEngine,
        suite::app,
    },
};

const PARTITIONS: u16 = 4;
const LOGS: u16 = 2;

/// A store with its archive, both of this test alone.
struct Place {
    store: Arc<dyn Store>,
    archive: Arc<Archive>,
    _folder: tempfile::TempDir,
}

impl Place {
    async fn new() -> Self {
        let (folder, world) = (tempfile::tempdir().expect("a folder"), World::system());
        let path = folder.path().join("store.sqlite");
        let engine = SqliteEngine::open(&path, world.clock()).await.expect("a file");
        let made_for = MadeFor {
            cluster: "c".to_owned(),
            partitions: PARTITIONS,
            logs: LOGS,
            device_key: None,
        };
        let seals = Arc::new(Seals::new(Generation(1), &[1; 32]));
        let store = SqlStore::open(engine, &made_for, 1 << 30, 1 << 20, seals, &world).await;
        let store: Arc<dyn Store> = Arc::new(store.expect("ours"));
        let archive = archive(&store);
        Self { store, archive, _folder: folder }
    }

    async fn append(&self, log: u16, devices: &[u8]) {
        let record = |device: &u8| Record {
            device: DeviceId([*device; 16]),
            observed: UnixMillis(u64::from(*device)),
            change: Change::Mute(true),
        };
        let records: Vec<_> = devices.iter().map(record).collect();
        let batch = RecordBatch::from_records(&records);
        self.store.append_all(vec![(LogId(log), batch)]).await.expect("room");
    }

    async fn save(&self, partition: u16, position: u64, length: usize) {
        let partition = PartitionId(partition);
        let mut saving = self.archive.restore(partition, Position(position));
        let content = content(partition, length);
        for piece in content.chunks(1 << 20) {
            saving.push(piece).await.expect("written");
        }
        saving.finish(length as u64, xxh3_64(&content)).await.expect("newer");
    }

    /// Content of the newest snapshot of each partition, with its position.
    async fn snapshots(&self) -> BTreeMap<u16, (u64, Vec<u8>)> {
        let mut found = BTreeMap::new();
        let partitions: Vec<_> = (0..PARTITIONS).map(PartitionId).collect();
        for (partition, stored) in self.archive.list(&partitions).await.expect("up") {
            if found.contains_key(&partition.0) {
                continue;
            }
            let mut loading = self.archive.open(partition, stored.id).await.expect("there");
            let mut content = Vec::new();
            while let Some(chunk) = loading.next().await.expect("whole") {
                content.extend_from_slice(&chunk);
            }
            found.insert(partition.0, (stored.position.0, content));
        }
        found
    }

    async fn batches(&self, log: u16, after: u64) -> Vec<Batch> {
        let after = [(LogId(log), Position(after))];
        let read = self.store.read_many(&after, usize::MAX).await.expect("up");
        read.into_iter().flat_map(|(_, batches)| batches).collect()
    }

    async fn items(&self) -> Vec<BackupItem> {
        let (to, mut from) = mpsc::channel(1);
        let head = BackupHead {
            cluster: "c".to_owned(),
            partitions: PARTITIONS.into(),
            logs: LOGS.into(),
            device_key: String::new(),
            begun_ms: 1_000,
        };
        let reading = read::read(&self.archive, head, &to);
        let receiving = async {
            let mut items = Vec::new();
            while let Some(item) = from.recv().await {
                let ended = matches!(item.item, Some(Item::End(_)));
                items.push(item);
                if ended {
                    break;
                }
            }
            items
        };
        let (read, items) = tokio::join!(reading, receiving);
        read.expect("read");
        items
    }

    async fn restore(&self, items: &[BackupItem], go_on: bool) -> Result<Report, RestoreError> {
        let now = UnixMillis(9_000_000_000_000);
        let begun = Restoring::begin(&self.archive, go_on, now).await;
        let mut restoring = begun?;
        for item in items {
            restoring.take(item.item.clone().expect("an item")).await?;
        }
        restoring.finish().await
    }
}

fn archive(store: &Arc<dyn Store>) -> Arc<Archive> {
    let config = ArchiveConfig {
        cluster: ClusterName::default(),
        partitions: PARTITIONS,
        every: Duration::from_secs(600),
        keep: Duration::from_secs(3_600),
    };
    let seals = Arc::new(Seals::new(Generation(1), &[7; 32]));
    let (store, world) = (Arc::clone(store), World::system());
    Arc::new(Archive::new(config, store, Objects::in_memory(), seals, world))
}

fn name(id: &str) -> AlertName {
    AlertName::from_id(id).expect("valid")
}

/// A store in which everything of a backup occurs.
async fn full() -> Place {
    let place = Place::new().await;
    let store = &place.store;
    for app_name in ["demo", "gone"] {
        store.create_app(app(app_name)).await.expect("room");
    }
    let gone = AppName::from_id("gone").expect("valid");
    let of_gone = AlertRecord { apps: vec![gone.clone()], ..record("old", 1) };
    for alert in [of_gone, record("running", 2), record("over", 3)] {
        assert!(matches!(store.create_alert(alert, 9).await, Ok(Created::New(_))));
    }
    for over in ["old", "over"] {
        let stored = store.alert(&name(over)).await.expect("up").expect("there");
        store.replace_alert(ended(&stored, State::Resolved)).await.expect("the next revision");
    }
    store.delete_app(&gone).await.expect("no alert needs it");
    let director = LaneDirector { epoch: Epoch(1), coordinator: CoordinatorId([3; 16]) };
    store.replace_lane_director(director).await.expect("the first");
    for number in 1..=3 {
        store.replace_numbered(Numbered::new("mint/a", number, vec![5; 9])).await.expect("next");
    }
    store.replace_numbered(Numbered::new("key/0000000001", 1, vec![6; 9])).await.expect("first");
    for device in 1..=7 {
        place.append(0, &[device, device + 100]).await;
    }
    place.append(0, &[]).await;
    place.append(1, &[50]).await;
    // Partitions 0 and 2 are in log 0, and 1 and 3 in log 1.
    place.save(0, 5, 9 << 20).await;
    place.save(2, 3, 200).await;
    place.save(1, 1, 300).await;
    place
}

#[tokio::test]
async fn a_restored_store_has_everything_but_keys_and_ownership() {
    let (from, to) = (full().await, Place::new().await);
    let items = from.items().await;
    let report = to.restore(&items, false).await.expect("restored");
    assert_eq!((report.end.apps, report.end.alerts, report.end.snapshots), (1, 3, 3));
    assert_eq!(report.active, [name("running")]);

    let app_names = |place: &Place| {
        let store = Arc::clone(&place.store);
        async move { store.apps(None, 9).await.expect("up") }
    };
    assert_eq!(app_names(&to).await, app_names(&from).await);
    let deleted = to.store.deleted_apps().await.expect("up");
    assert_eq!(deleted, [(AppName::from_id("gone").expect("valid"), Identity::Device)]);
    for over in ["old", "over"] {
        let [before, after] = [&from, &to].map(|place| Arc::clone(&place.store));
        let before = before.alert(&name(over)).await.expect("up").expect("there");
        let after = after.alert(&name(over)).await.expect("up").expect("there");
        assert_eq!((after.state, after.ended), (before.state, before.ended));
        assert_eq!((&after.submitted, &after.apps), (&before.submitted, &before.apps));
        assert_eq!(after.log, to.store.identity());
    }
    let running = to.store.alert(&name("running")).await.expect("up").expect("there");
    assert_eq!((running.state, running.plan.is_none()), (State::Cancelled, true));
    assert!(running.cancel_reason.as_deref().is_some_and(|why| why.contains("backup")));
    assert!(to.store.active_alerts().await.expect("up").is_empty());

    let mint = to.store.numbered("mint/a").await.expect("up").expect("there");
    assert_eq!((mint.number, &mint.bytes[..]), (3, &[5; 9][..]));
    assert_eq!(to.store.lane_director().await, from.store.lane_director().await);
    assert_eq!(to.store.numbered("key/0000000001").await, Ok(None));

    assert_eq!(to.snapshots().await, from.snapshots().await);
    // The log begins behind the oldest of the newest snapshots, and keeps positions up to the
    // newest of them.
    let (before, after) = (from.batches(0, 3).await, to.batches(0, 3).await);
    let exact = |batches: &[Batch]| {
        batches[..2].iter().map(|b| (b.position, b.records.clone())).collect::<Vec<_>>()
    };
    assert_eq!(exact(&after), exact(&before));
    let all =
        |batches: &[Batch]| batches.iter().flat_map(|b| b.records.clone()).collect::<Vec<_>>();
    assert_eq!(all(&after), all(&before));
    assert!(to.store.read_many(&[(LogId(0), Position(2))], 1).await.is_err(), "trimmed");
    assert_eq!(all(&to.batches(1, 0).await), all(&from.batches(1, 0).await));
    let counts = |place: &Place| {
        let store = Arc::clone(&place.store);
        async move { store.records_until(&[(LogId(0), Position(99))]).await.expect("up") }
    };
    assert_eq!(counts(&to).await, counts(&from).await);

    check_finished(&*to.store).await.expect("it has ended");
    let again = to.restore(&items, false).await;
    assert_eq!(again.expect_err("not new"), RestoreError::NotEmpty("apps"));
    // What was restored can be backed up and restored in turn.
    let third = Place::new().await;
    third.restore(&to.items().await, false).await.expect("restored");
    assert_eq!(third.snapshots().await, from.snapshots().await);
}

#[tokio::test]
async fn an_alert_that_shall_go_on_starts_at_the_new_heads() {
    let (from, to) = (full().await, Place::new().await);
    to.restore(&from.items().await, true).await.expect("restored");
    let active = to.store.active_alerts().await.expect("up");
    assert_eq!(active.iter().map(|alert| &alert.name).collect::<Vec<_>>(), [&name("running")]);
    assert_eq!(active[0].positions, to.store.heads().await.expect("up"));
    assert_eq!(active[0].log, to.store.identity());
    assert!(active[0].plan.is_some());
}

#[tokio::test]
async fn a_restore_that_broke_off_is_not_taken_for_a_store() {
    let (from, to) = (full().await, Place::new().await);
    let items = from.items().await;
    let mut restoring = Restoring::begin(&to.archive, false, UnixMillis(1)).await.expect("new");
    for item in &items[..items.len() / 2] {
        restoring.take(item.item.clone().expect("an item")).await.expect("whole so far");
    }
    drop(restoring);
    assert_eq!(check_finished(&*to.store).await, Err(RestoreError::Unfinished));
    let again = to.restore(&items, false).await;
    assert_eq!(again.expect_err("half of it is there"), RestoreError::Unfinished);
}

#[tokio::test]
async fn items_that_no_backup_has_are_refused() {
    let items = full().await.items().await;
    let at = |kind: fn(&Item) -> bool| {
        items.iter().position(|item| item.item.as_ref().is_some_and(kind)).expect("one at least")
    };
    let without = |kind: fn(&Item) -> bool| {
        let mut fewer = items.clone();
        fewer.remove(at(kind));
        fewer
    };
    for (fewer, words) in [
        (without(|item| matches!(item, Item::App(_))), "apps"),
        (without(|item| matches!(item, Item::Alert(_))), "alerts"),
        (without(|item| matches!(item, Item::Batch(_))), "batch.position: must be"),
        (without(|item| matches!(item, Item::Log(_))), "must follow its log"),
        (without(|item| matches!(item, Item::SnapshotData(_))), ""),
    ] {
        let refused = Place::new().await.restore(&fewer, false).await.expect_err("refused");
        assert!(refused.to_string().contains(words), "{refused}");
    }
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::new(LOGS, 1 << 30, &World::system()));
    let of_memory = archive(&memory);
    let refused = Restoring::begin(&of_memory, false, UnixMillis(1)).await;
    assert_eq!(refused.err(), Some(RestoreError::Memory));
}

/// Key of a file with this content.
fn key(byte: u8) -> BackupKey {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), [byte; 32]).expect("written");
    BackupKey::read(file.path()).expect("long enough")
}

async fn written(objects: &Objects, key: &BackupKey, items: &[BackupItem], at: u64) -> String {
    let head = BackupHead { begun_ms: at, ..BackupHead::default() };
    let mut writer = Writer::new(objects, key, head, 7);
    for item in items {
        writer.push(item).await.expect("written");
    }
    writer.finish(Default::default(), at + 1).await.expect("written")
}

async fn read_back(
    objects: &Objects,
    key: &BackupKey,
    id: Option<&str>,
) -> Result<Vec<BackupItem>, FileError> {
    let mut reader = Reader::open(objects, key, id).await?;
    let mut items = Vec::new();
    while let Some(item) = reader.next().await? {
        items.push(BackupItem { item: Some(item) });
    }
    Ok(items)
}

#[tokio::test]
async fn the_newest_complete_backup_is_read_unless_another_is_named() {
    let (objects, key) = (Objects::in_memory(), key(1));
    let nothing = read_back(&objects, &key, None).await.expect_err("none");
    assert_eq!(nothing, FileError::Missing("there is no complete backup".to_owned()));
    let items = full().await.items().await;
    let old = written(&objects, &key, &items[..2], 1_000).await;
    let new = written(&objects, &key, &items, 20_000).await;
    let mut broken_off =
        Writer::new(&objects, &key, BackupHead { begun_ms: 300_000, ..BackupHead::default() }, 1);
    for _ in 0..3 {
        for item in &items {
            broken_off.push(item).await.expect("written");
        }
    }
    assert_eq!(file::ids(&objects).await, Ok(vec![old.clone(), new.clone()]));
    assert!(read_back(&objects, &key, None).await.expect("whole") == items);
    assert_eq!(read_back(&objects, &key, Some(&old)).await.expect("whole").len(), 2);
    let other = read_back(&objects, &key, Some("5")).await.expect_err("none of that id");
    assert!(other.to_string().contains(&new), "{other}");
    file::delete(&objects, &new).await.expect("deleted");
    assert_eq!(file::ids(&objects).await, Ok(vec![old]));
    let left = objects.list(&format!("backup/{new}")).await.expect("up");
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn damage_and_another_key_are_told_apart_from_a_backup() {
    let items = full().await.items().await;
    let (objects, right) = (Objects::in_memory(), key(1));
    let id = written(&objects, &right, &items, 1).await;
    let other = read_back(&objects, &key(2), None).await.expect_err("another key");
    assert!(other.to_string().contains("--key-file is not the file"), "{other}");
    for object in objects.list("backup").await.expect("up") {
        let whole = objects.get(&object.name).await.expect("there");
        let mut flipped = whole.to_vec();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        for damaged in [Bytes::from(flipped), whole.slice(..whole.len() - 1), Bytes::new()] {
            objects.delete(&object.name).await.expect("deleted");
            objects.put(&object.name, damaged).await.expect("new");
            let refused = read_back(&objects, &right, None).await.expect_err("damaged");
            assert!(refused.to_string().contains(&id), "{refused}");
        }
        objects.delete(&object.name).await.expect("deleted");
        assert!(read_back(&objects, &right, None).await.is_err(), "{} is gone", object.name);
        objects.put(&object.name, whole).await.expect("new");
    }
    assert!(read_back(&objects, &right, None).await.expect("whole") == items);
}

#[test]
fn a_key_file_must_be_long_enough() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), [1; 31]).expect("written");
    let refused = BackupKey::read(file.path()).expect_err("too short");
    assert!(refused.ends_with("must have 32 to 4096 bytes; got 31"), "{refused}");
    let missing = BackupKey::read(std::path::Path::new("/nowhere/key")).expect_err("missing");
    assert!(missing.contains("head -c 32 /dev/urandom"), "{missing}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever was appended and saved: a node that begins with the restored snapshots reads the
    /// same records after them.
    #[test]
    fn what_follows_each_snapshot_is_the_same(
        appended in proptest::collection::vec(
            (0u16..LOGS, proptest::collection::vec(0u8..200, 0..4)), 0..30,
        ),
        saved in proptest::collection::vec((0u16..PARTITIONS, 1u64..12), 0..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let (from, to) = (Place::new().await, Place::new().await);
            for (log, devices) in &appended {
                from.append(*log, devices).await;
            }
            let heads = from.store.heads().await.expect("up");
            let mut newest = BTreeMap::new();
            for (partition, position) in &saved {
                let head = heads[usize::from(partition % LOGS)];
                let former = newest.get(partition).copied().unwrap_or(0);
                if *position <= head.0 && *position > former {
                    from.save(*partition, *position, 100).await;
                    newest.insert(*partition, *position);
                }
            }
            to.restore(&from.items().await, false).await.expect("restored");
            assert_eq!(to.snapshots().await, from.snapshots().await);
            for partition in 0..PARTITIONS {
                let (log, after) = (partition % LOGS, newest.get(&partition).copied().unwrap_or(0));
                let records = |batches: Vec<Batch>| {
                    batches.into_iter().flat_map(|b| b.records).collect::<Vec<u8>>()
                };
                let before = from.batches(log, after).await;
                let restored = to.batches(log, after).await;
                assert_eq!(records(restored), records(before), "partition {partition}");
            }
        });
    }
}
