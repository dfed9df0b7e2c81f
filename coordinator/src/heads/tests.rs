use std::{fs, path::Path, sync::Arc};

use clarion_proto::{
    device::{Change, Record},
    ids::{DeviceId, UnixMillis},
};

use super::*;
use crate::{
    seal::{Generation, Seals},
    store::{
        RecordBatch,
        sql::{MadeFor, SqlStore},
        sqlite::SqliteEngine,
    },
};

/// The same key for every store of a test.
fn seals() -> Arc<Seals> {
    Arc::new(Seals::new(Generation(1), &[1; 32]))
}

type Store = SqlStore<SqliteEngine>;

async fn open(path: &Path) -> Store {
    let made_for = MadeFor { cluster: "c".to_owned(), partitions: 4, logs: 4, device_key: None };
    let world = World::system();
    let engine = SqliteEngine::open(path, world.clock()).await.expect("a file");
    SqlStore::open(engine, &made_for, 1 << 30, 0, seals(), &world).await.expect("ours")
}

async fn append(store: &Store, log: u16, byte: u8) {
    let device = DeviceId([byte; 16]);
    let record = Record { device, observed: UnixMillis(1), change: Change::Removal };
    let batch = RecordBatch::from_records([&record]);
    store.append_all(vec![(LogId(log), batch)]).await.expect("room");
}

/// Writes the ends once, as a process that shuts down, and returns what it left.
async fn write(store: &Store, objects: &Objects, former: Former) -> Vec<String> {
    let stopped = CancellationToken::new();
    stopped.cancel();
    keep(store, objects, former, &World::system(), stopped).await;
    names(objects).await
}

async fn names(objects: &Objects) -> Vec<String> {
    objects.list(FOLDER).await.expect("up").into_iter().map(|found| found.name).collect()
}

/// A store whose log 1 has three batches, a copy of its file from before the third, and the ends.
struct Scene {
    folder: tempfile::TempDir,
    objects: Objects,
}

impl Scene {
    async fn new() -> Self {
        let (folder, objects) = (tempfile::tempdir().expect("a folder"), Objects::in_memory());
        let scene = Self { folder, objects };
        let store = open(&scene.path("store")).await;
        append(&store, 1, 1).await;
        append(&store, 1, 2).await;
        store.close().await;
        fs::copy(scene.path("store"), scene.path("copy")).expect("copied");
        let store = open(&scene.path("store")).await;
        append(&store, 1, 3).await;
        write(&store, &scene.objects, Former::default()).await;
        store.close().await;
        scene
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    async fn check(&self, store: &Store) -> Result<Former, HeadsError> {
        check(store, &self.objects, false).await
    }
}

#[tokio::test]
async fn a_store_that_only_grew_or_was_trimmed_is_accepted() {
    let scene = Scene::new().await;
    let store = open(&scene.path("store")).await;
    scene.check(&store).await.expect("as it was left");
    append(&store, 1, 4).await;
    append(&store, 1, 5).await;
    scene.check(&store).await.expect("longer");
    store.trim(LogId(1), Position(4)).await.expect("up");
    scene.check(&store).await.expect("the end that was seen is the last one trimmed");
    store.trim(LogId(1), Position(6)).await.expect("up");
    let former = scene.check(&store).await.expect("trimmed, and longer");
    let former_names = former.0.clone();
    let left = write(&store, &scene.objects, former).await;
    assert_eq!(left.len(), 1, "what was compared is replaced");
    assert!(!former_names.contains(&left[0]));
}

#[tokio::test]
async fn an_older_copy_is_refused_until_the_loss_is_accepted() {
    let scene = Scene::new().await;
    let store = open(&scene.path("copy")).await;
    let refused = scene.check(&store).await.expect_err("a batch is lost");
    let text = refused.to_string();
    assert!(text.starts_with("the store went back: log 1 ended at position 3 or later"), "{text}");
    let former = check(&store, &scene.objects, true).await.expect("accepted");
    write(&store, &scene.objects, former).await;
    scene.check(&store).await.expect("it is what there is now");
}

#[tokio::test]
async fn a_log_that_grew_again_after_a_loss_is_found() {
    let scene = Scene::new().await;
    let store = open(&scene.path("copy")).await;
    for byte in 7..12 {
        append(&store, 1, byte).await;
    }
    let refused = scene.check(&store).await.expect_err("position 3 has another batch");
    assert!(refused.to_string().contains("log 1 had another batch at position 3"), "{refused}");
    // Nothing is written, so a process that starts again is refused again.
    assert_eq!(names(&scene.objects).await.len(), 1);
}

#[tokio::test]
async fn damaged_ends_do_not_hide_whole_ones() {
    let scene = Scene::new().await;
    scene.objects.put("heads/0", Bytes::from_static(b"nonsense")).await.expect("new");
    scene.objects.put("heads/z", Bytes::new()).await.expect("new");
    let store = open(&scene.path("copy")).await;
    assert!(matches!(scene.check(&store).await, Err(HeadsError::WentBack { .. })));
    let store = open(&scene.path("store")).await;
    assert_eq!(scene.check(&store).await.expect("whole").0.len(), 3, "they are replaced, too");
}

#[tokio::test(start_paused = true)]
async fn ends_are_written_while_logs_grow_and_two_are_left() {
    let objects = Objects::in_memory();
    let store = Arc::new(crate::store::memory::MemoryStore::new(4, 1 << 30, &World::system()));
    let growing = Growing(store, parking_lot::Mutex::new(0));
    let stop = CancellationToken::new();
    let world = World::system();
    let keeping = keep(&growing, &objects, Former::default(), &world, stop.clone());
    let looking = async {
        tokio::time::sleep(EVERY / 2).await;
        assert_eq!(names(&objects).await.len(), 0);
        for expected in [1, 2, 2, 2] {
            tokio::time::sleep(EVERY).await;
            *growing.1.lock() += 1;
            assert_eq!(names(&objects).await.len(), expected);
        }
        stop.cancel();
    };
    tokio::join!(keeping, looking);
}

/// A log with one link, which the test moves.
#[derive(Debug)]
struct Growing(Arc<crate::store::memory::MemoryStore>, parking_lot::Mutex<u64>);

#[async_trait::async_trait]
impl ChangeLog for Growing {
    fn identity(&self) -> clarion_proto::ids::LogIdentity {
        self.0.identity()
    }
    fn logs(&self) -> u16 {
        self.0.logs()
    }
    fn usage(&self) -> crate::store::Usage {
        self.0.usage()
    }
    fn links(&self) -> Vec<Link> {
        vec![Link { log: LogId(0), position: Position(*self.1.lock()), chain: [0; 32] }]
    }
    async fn append_all(
        &self,
        batches: Vec<(LogId, RecordBatch)>,
    ) -> Result<Vec<Position>, StoreError> {
        self.0.append_all(batches).await
    }
    fn has_room(&self) -> tokio::sync::watch::Receiver<bool> {
        self.0.has_room()
    }
    async fn heads(&self) -> Result<Vec<Position>, StoreError> {
        self.0.heads().await
    }
    async fn read_many(
        &self,
        after: &[(LogId, Position)],
        bytes_max: usize,
    ) -> Result<Vec<(LogId, Vec<crate::store::Batch>)>, StoreError> {
        self.0.read_many(after, bytes_max).await
    }
    async fn records_until(&self, of: &[(LogId, Position)]) -> Result<Vec<u64>, StoreError> {
        self.0.records_until(of).await
    }
    async fn trim(&self, log: LogId, before: Position) -> Result<(), StoreError> {
        self.0.trim(log, before).await
    }
    fn grown(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.grown()
    }
}

proptest::proptest! {
    /// Bytes of an object are the links, or nothing.
    #[test]
    fn bytes_are_the_links_or_refused(
        positions in proptest::collection::vec(0u64.., 0..9),
        flip in 0usize..4_000,
    ) {
        let links: Vec<Link> = (0..).zip(&positions).map(|(log, position)| Link {
            log: LogId(log),
            position: Position(*position),
            chain: [u8::try_from(position % 251).expect("small"); 32],
        }).collect();
        let bytes = encode(&links, 7);
        proptest::prop_assert_eq!(decode(&bytes), Some(links));
        let mut damaged = bytes.to_vec();
        let bit = flip % (damaged.len() * 8);
        damaged[bit / 8] ^= 1 << (bit % 8);
        proptest::prop_assert_eq!(decode(&damaged), None);
    }
}
