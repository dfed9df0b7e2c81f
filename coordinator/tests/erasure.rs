//! A removed device leaves everything: files, free pages, logs of the database, objects, and a
//! backup from before, when the key that sealed them is erased.
//!
//! The test registers devices, removes some of them, trims the logs as a snapshot allows it, makes
//! the next key and erases the former one. Then it reads every byte that is left and decrypts it
//! with every key that any two halves make. The same search finds the tokens when nothing is
//! erased.

#![allow(clippy::disallowed_methods, reason = "a client with a world of its own")]

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_coordinator::{
    keys::{
        keeper::KeyKeeper,
        record::{self, KeyRecord},
    },
    objects::Objects,
    seal::{Generation, Seals},
    store::{
        Numbered, RecordBatch, Store,
        postgres::{Address, PostgresEngine},
        sql::{Engine, MadeFor, SqlStore},
        sqlite::SqliteEngine,
    },
};
use clarion_proto::{
    device::{Change, Record, Registration, Token},
    ids::{AppName, DeviceId, LogId, Position, UnixMillis},
    wire::store::v1 as wire,
};
use clarion_runtime::world::World;
use prost::Message as _;

use self::{attack::Loot, server::TestServer};

#[path = "erasure/attack.rs"]
mod attack;
#[path = "../src/store/postgres/server.rs"]
mod server;

/// Beginning of the tokens of devices that are removed.
const GONE: [u8; 16] = *b"\x9e\x37removed-device";
/// Beginning of the tokens of devices that stay.
const STAYS: [u8; 16] = *b"\x9e\x37device-of-city";
/// Logs of the cluster: each has devices of both kinds.
const LOGS: u16 = 2;
const HOUR: Duration = Duration::from_secs(3_600);

/// A store with its objects and keys.
struct Cluster {
    store: Arc<dyn Store>,
    objects: Objects,
    seals: Arc<Seals>,
    keys: KeyKeeper,
}

impl Cluster {
    async fn open<E: Engine>(engine: E, objects: &Path) -> Self {
        let world = World::system();
        let (cluster, seals) = ("c".to_owned(), Arc::<Seals>::default());
        let made_for = MadeFor { cluster, partitions: LOGS, logs: LOGS, device_key: None };
        // No batch stays in memory, so that what is read comes from the database.
        let opened = SqlStore::open(engine, &made_for, 1 << 30, 0, Arc::clone(&seals), &world);
        let store: Arc<dyn Store> = Arc::new(opened.await.expect("a store"));
        let objects = Objects::in_folder(objects).expect("a folder").of(store.identity());
        let (of_keys, clock) = (Arc::clone(&store), world.clock());
        let keys = KeyKeeper::open(of_keys, objects.clone(), Arc::clone(&seals), HOUR, clock);
        Self { keys: keys.await.expect("its keys"), store, objects, seals }
    }

    /// Appends one batch to each log.
    async fn append(&self, records: &[Record]) {
        let batch = || RecordBatch::from_records(records);
        let batches = (0..LOGS).map(|log| (LogId(log), batch()));
        self.store.append_all(batches.collect()).await.expect("room");
    }

    /// Saves a snapshot of devices and records it, as the next one of its partition.
    async fn save(&self, number: u64, prefix: [u8; 16]) {
        let plain: Vec<u8> = (0..20).flat_map(|n| token(prefix, n)).collect();
        let held = self.seals.hold();
        let sealed = Bytes::from(self.seals.seal(b"snapshot", &plain));
        self.objects.put(&format!("snapshots/{number}"), sealed).await.expect("new");
        let generation = self.seals.newest().0;
        let stored = wire::StoredSnapshot { generation, ..Default::default() };
        let of_partition = wire::PartitionSnapshots { current: vec![stored], retired: Vec::new() };
        let next = Numbered::new("snapshot/00000", number, of_partition.encode_to_vec());
        self.store.replace_numbered(next).await.expect("next");
        drop(held);
    }

    async fn records(&self) -> Vec<KeyRecord> {
        record::all(&*self.store).await.expect("up").0
    }

    /// Halves of keys in the database.
    async fn halves(&self) -> Vec<Vec<u8>> {
        self.records().await.into_iter().map(|record| record.wire.half).collect()
    }

    /// Halves of keys among the objects.
    async fn others(&self) -> Vec<Vec<u8>> {
        let mut others = Vec::new();
        for listed in self.objects.list("keys").await.expect("up") {
            others.push(self.objects.get(&listed.name).await.expect("there").to_vec());
        }
        others
    }
}

fn token(prefix: [u8; 16], number: u8) -> Vec<u8> {
    [&prefix[..], &[number; 16]].concat()
}

/// Records of some devices; few, so that a batch is a part of one page.
fn registrations(prefix: [u8; 16]) -> Vec<Record> {
    let record = |number: u8| Record {
        device: DeviceId([number; 16]),
        observed: UnixMillis(1),
        change: Change::Registration(Registration {
            app: AppName::from_id("demo").expect("a name"),
            token: Token::new(token(prefix, number).into()).expect("valid"),
            locale: String::new(),
            segments: Vec::new(),
            person: String::new(),
        }),
    };
    (0..8).map(record).collect()
}

/// What is left, and what a backup has that was made before the erasure.
struct Left {
    halves: Vec<Vec<u8>>,
    others: Vec<Vec<u8>>,
    backup: Vec<Loot>,
    /// Both halves of the first key, before anything was erased.
    first: [Vec<u8>; 2],
}

/// Fills a store, removes devices, and erases the key that sealed them if `erase`. `disk`: all
/// bytes of the database.
async fn live(cluster: &Cluster, erase: bool, disk: impl Fn() -> Vec<Loot>) -> Left {
    cluster.append(&registrations(GONE)).await;
    cluster.append(&registrations(STAYS)).await;
    cluster.save(1, GONE).await;
    let removal = |record: Record| Record { change: Change::Removal, ..record };
    cluster.append(&registrations(GONE).into_iter().map(removal).collect::<Vec<_>>()).await;
    let backup = disk();
    let [half, other] = [cluster.halves().await, cluster.others().await];
    let first = [half[0].clone(), other[0].clone()];

    // The logs still have a batch of the first key.
    assert_eq!(cluster.keys.rotate().await, Ok(Generation(2)));
    cluster.append(&registrations(STAYS)).await;
    cluster.save(2, STAYS).await;
    cluster.keys.erase_unused().await.expect("up");
    assert!(cluster.seals.has(Generation(1)), "batches need it");
    let oldest = cluster.store.oldest_generation().await;
    assert_eq!(oldest, Ok(Some(Generation(1))));
    for log in (0..LOGS).map(LogId) {
        cluster.store.trim(log, Position(4)).await.expect("up");
    }
    assert_eq!(cluster.store.oldest_generation().await, Ok(Some(Generation(2))));
    // The object of the first snapshot is still there: its deletion may have failed.
    if erase {
        cluster.keys.erase_unused().await.expect("up");
        assert!(!cluster.seals.has(Generation(1)), "nothing needs it");
        assert_eq!(cluster.records().await.len(), 1);
    }
    // Halves of the database are also in the backup.
    let halves = [cluster.halves().await, vec![first[0].clone()]].concat();
    Left { halves, others: cluster.others().await, backup, first }
}

/// Sources in which a token is found: those of removed devices, and those of others.
fn attack(left: &Left, disk: &[Loot]) -> [BTreeSet<String>; 2] {
    let keys = attack::keys(&left.halves, &left.others);
    [GONE, STAYS].map(|token| {
        let mut found = attack::find(disk, &keys, &token);
        let in_backup = attack::find(&left.backup, &keys, &token);
        found.extend(in_backup.into_iter().map(|name| format!("backup: {name}")));
        found
    })
}

/// Runs both lives of a store. `open` opens a new one for a folder of objects, and `disk` reads all
/// bytes of its database.
async fn prove<E: Engine>(
    open: impl AsyncFn(usize) -> E,
    disk: impl Fn(usize) -> Vec<Loot>,
    folder: &Path,
) {
    for erase in [false, true] {
        let life = usize::from(erase);
        let path = folder.join(format!("objects-{life}"));
        let cluster = Cluster::open(open(life).await, &path).await;
        let left = live(&cluster, erase, || disk(life)).await;
        let rows = cluster.store.read_many(&[(LogId(1), Position(3))], 1 << 20).await;
        let rows = rows.expect("the newest batches can be read");
        assert!(attack::has(&rows[0].1[0].records, &STAYS));
        cluster.store.close().await;
        let mut all = disk(life);
        all.extend(attack::files(&path));
        let [gone, stays] = attack(&left, &all);
        assert!(stays.iter().any(|name| name.contains("snapshots/2")), "{stays:#?}");
        assert!(stays.iter().any(|name| !name.contains("objects")), "{stays:#?}");
        let half = |half: &[u8]| all.iter().filter(|loot| attack::has(&loot.bytes, half)).count();
        if erase {
            assert!(gone.is_empty(), "tokens of removed devices: {gone:#?}");
            assert_eq!(half(&left.first[1]), 0, "the object half is nowhere");
        } else {
            assert!(gone.iter().any(|name| name.starts_with("backup: ")), "{gone:#?}");
            assert!(gone.iter().any(|name| name.contains("snapshots/1")), "{gone:#?}");
            assert!(half(&left.first[0]) > 0 && half(&left.first[1]) > 0);
        }
    }
}

#[tokio::test]
async fn a_removed_device_leaves_the_file_its_backups_and_the_objects() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |life| folder.path().join(format!("{life}")).join("store.sqlite");
    let open = async |life| {
        let path = path(life);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        SqliteEngine::open(&path, World::system().clock()).await.expect("opened")
    };
    let disk = |life| attack::files(path(life).parent().expect("a folder"));
    prove(open, disk, folder.path()).await;
    for found in disk(1) {
        assert!(!attack::has(&found.bytes, &GONE), "{}", found.name);
    }
}

#[tokio::test]
async fn a_removed_device_leaves_the_server_its_backups_and_the_objects() {
    let Some(server) = TestServer::start() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let open = async |life| {
        let database = format!("life{life}");
        server.create_database(&database);
        let address = Address::parse(&server.url(&database)).expect("a URL");
        PostgresEngine::open(address, None, &World::system()).await.expect("up")
    };
    let disk = |life| {
        let database = format!("life{life}");
        server.sql(&database, "CHECKPOINT");
        let mut found = attack::files(server.folder());
        // Files of the server have pages, with what was deleted; rows have whole batches.
        let rows = "SELECT encode(records, 'hex') FROM batch UNION ALL \
                    SELECT encode(record, 'hex') FROM cluster";
        for (number, row) in server.sql(&database, rows).lines().enumerate() {
            let bytes = data_encoding::HEXLOWER.decode(row.as_bytes()).expect("hexadecimal");
            found.push(Loot { name: format!("row {number}"), bytes });
        }
        found
    };
    prove(open, disk, folder.path()).await;
}
