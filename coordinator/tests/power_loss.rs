//! Loss of power: the store on a disk that loses everything that was not synced.
//!
//! A kill alone never loses what a program wrote, because the system keeps it. Here a library
//! (`power_loss/shim.c`, preloaded into a child process) remembers what is not synced. The test kills
//! the child at a random moment, takes it back, all or any part of it, and opens the store again:
//! every acknowledged change is there, once.
//!
//! `CLARION_LOSS_ROUNDS` sets the number of kills.

#![allow(clippy::disallowed_methods, reason = "a client with a world of its own")]

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use clarion_coordinator::{
    seal::{Generation, KEY_BYTES, Seals},
    store::{
        AlertStore as _, AppRecord, ChangeLog as _, Created, RecordBatch,
        sql::{MadeFor, SqlStore},
        sqlite::SqliteEngine,
    },
};
use clarion_proto::{
    app::{App, Environment, Identity, LaneKind, Platform},
    device::{Change, Record},
    ids::{AppName, DeviceId, LogId, Position, UnixMillis},
    wire::shard_v1 as wire,
};
use clarion_runtime::world::World;
use prost::Message as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use self::undo::{Loss, undo};

#[path = "power_loss/undo.rs"]
mod undo;

const ROUNDS: u64 = 8;
const LOGS: u16 = 4;
/// Environment of a child: the file of its store, and the first number of its changes.
const CHILD: &str = "CLARION_LOSS_CHILD";
const FIRST: &str = "CLARION_LOSS_FIRST";

/// Compiles the library that remembers; `None`: there is no C compiler here.
fn shim(folder: &Path) -> Option<PathBuf> {
    let library = folder.join("shim.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/power_loss/shim.c");
    let compiled = Command::new("cc")
        .args(["-O1", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .args([source, "-ldl", "-lpthread"])
        .status();
    match compiled {
        Ok(status) => {
            assert!(status.success(), "{source} does not compile");
            Some(library)
        }
        Err(error) => {
            assert!(env::var_os("CI").is_none(), "no C compiler: {error}");
            println!("SKIPPED: no C compiler: {error}");
            None
        }
    }
}

async fn open(file: &Path) -> SqlStore<SqliteEngine> {
    let world = World::system();
    let engine = SqliteEngine::open(file, world.clock()).await.expect("opened");
    let made_for =
        MadeFor { cluster: "loss".to_owned(), partitions: 64, logs: LOGS, device_key: None };
    let seals = Arc::new(Seals::new(Generation(1), &[1; KEY_BYTES]));
    SqlStore::open(engine, &made_for, 1 << 30, 1 << 20, seals, &world).await.expect("a store")
}

fn device(number: u64) -> DeviceId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    DeviceId(id)
}

fn app(number: u64) -> AppRecord {
    let app = App {
        name: AppName::from_id(&format!("app-{number}")).expect("a name"),
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

fn told(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("the parent reads");
}

/// The process that is killed: writes, and tells what was acknowledged.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of other tests"]
async fn child_that_writes_until_it_is_killed() {
    let file = PathBuf::from(env::var_os(CHILD).expect("the parent sets it"));
    let first: u64 = env::var(FIRST).expect("the parent sets it").parse().expect("a number");
    let store = Arc::new(open(&file).await);
    told("open");
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            for number in (first + writer..).step_by(4) {
                let record = |device| Record {
                    device,
                    observed: UnixMillis(number),
                    change: Change::Mute(true),
                };
                let log = LogId(u16::try_from(number % u64::from(LOGS)).expect("below"));
                let batch = RecordBatch::from_records(&[record(device(number))]);
                let positions = store.append_all(vec![(log, batch)]).await.expect("appended");
                told(&format!("change {number} {log} {}", positions[0]));
                if number.is_multiple_of(16) {
                    let created = store.create_app(app(number)).await.expect("created");
                    assert!(matches!(created, Created::New(_)));
                    told(&format!("app {number}"));
                }
            }
        });
    }
    while writers.join_next().await.is_some() {}
}

/// A program that does not sync, so that a green test means something.
#[test]
#[ignore = "the child of other tests"]
fn child_that_does_not_sync() {
    let file = PathBuf::from(env::var_os(CHILD).expect("the parent sets it"));
    let mut open = fs::OpenOptions::new().write(true).open(&file).expect("there");
    open.write_all(b"unsynced").expect("written");
    fs::write(file.with_extension("new"), "new").expect("written");
    told("open");
    loop {
        std::thread::park();
    }
}

/// Runs a child until `moment` after its first line, kills it, and returns its lines.
fn killed(
    library: &Path,
    (folder, undo): (&Path, &Path),
    (test, file, first): (&str, &Path, u64),
    moment: Duration,
) -> Vec<String> {
    let mut child = Command::new(env::current_exe().expect("this test"))
        .args(["--ignored", "--exact", "--nocapture", test])
        .env("LD_PRELOAD", library)
        .env("CLARION_LOSS_FOLDER", folder)
        .env("CLARION_LOSS_UNDO", undo)
        .env(CHILD, file)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut lines = lines.map_while(Result::ok);
    // The first lines are the test program's own.
    while lines.next().expect("the child opens its store") != "open" {}
    let reader = std::thread::spawn(move || lines.collect::<Vec<_>>());
    std::thread::sleep(moment);
    child.kill().expect("killed");
    child.wait().expect("ended");
    reader.join().expect("no panic")
}

#[test]
fn what_is_not_synced_is_lost() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(library) = shim(dir.path()) else { return };
    let (folder, undone) = (dir.path().join("data"), dir.path().join("undo"));
    fs::create_dir(&folder).expect("created");
    fs::create_dir(&undone).expect("created");
    let file = folder.join("file");
    fs::write(&file, "as before").expect("written");
    let run = ("child_that_does_not_sync", file.as_path(), 0);
    killed(&library, (&folder, &undone), run, Duration::ZERO);
    assert_eq!(fs::read(&file).expect("there"), b"unsyncede", "a kill alone loses nothing");
    let taken_back = undo(&undone, Loss::All);
    assert_eq!((taken_back.writes, taken_back.names), (2, 1), "{taken_back:?}");
    assert_eq!(fs::read(&file).expect("there"), b"as before");
    assert!(!folder.join("file.new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_change_survives_a_loss_of_power() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(library) = shim(dir.path()) else { return };
    let (folder, undone) = (dir.path().join("data"), dir.path().join("undo"));
    fs::create_dir(&folder).expect("created");
    fs::create_dir(&undone).expect("created");
    let file = folder.join("store.sqlite");
    let rounds = env::var("CLARION_LOSS_ROUNDS").map_or(ROUNDS, |n| n.parse().expect("a number"));
    let mut draw = StdRng::seed_from_u64(14);
    let (mut changes, mut apps) = (BTreeMap::new(), Vec::new());
    let (mut first, mut lost) = (0, 0);
    for round in 0..rounds {
        let moment = Duration::from_millis(draw.random_range(0..700));
        let run = ("child_that_writes_until_it_is_killed", file.as_path(), first);
        let lines = killed(&library, (&folder, &undone), run, moment);
        let loss = if round % 2 == 0 { Loss::All } else { Loss::Some(round) };
        lost += undo(&undone, loss).writes;
        for line in &lines {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |i: usize| words[i].parse::<u64>().expect("a number");
            match words[..] {
                ["change", ..] => drop(changes.insert(number(1), (number(2), number(3)))),
                ["app", _] => apps.push(number(1)),
                _ => panic!("{line}"),
            }
        }
        // Numbers that were not acknowledged may be stored, too; none is used again.
        first += 1_000_000;
        let store = open(&file).await;
        check(&store, &changes, &apps, round).await;
        store.close().await;
    }
    println!(
        "{} changes, {} apps in {rounds} rounds; {lost} writes lost",
        changes.len(),
        apps.len()
    );
    assert!(changes.len() > 10 && lost > 0, "{} changes, {lost} writes lost", changes.len());
}

/// Every acknowledged change is at its position, no change is there twice, no position is missing.
async fn check(
    store: &SqlStore<SqliteEngine>,
    changes: &BTreeMap<u64, (u64, u64)>,
    apps: &[u64],
    round: u64,
) {
    let mut found = BTreeMap::new();
    for log in (0..LOGS).map(LogId) {
        let mut after = Position(0);
        loop {
            let read = store.read_many(&[(log, after)], 1 << 20).await.expect("readable");
            let Some((_, batches)) = read.first() else { break };
            for batch in batches {
                assert_eq!(batch.position.0, after.0 + 1, "round {round}: log {log} is dense");
                after = batch.position;
                let records = wire::FeedResponse::decode(batch.records.clone()).expect("records");
                for record in records.records {
                    let number = u64::from_be_bytes(record.device[..8].try_into().expect("8"));
                    let twice = found.insert(number, (u64::from(log.0), batch.position.0));
                    assert_eq!(twice, None, "round {round}: {number} is stored once");
                }
            }
        }
        assert_eq!(store.heads().await.expect("heads")[usize::from(log.0)], after);
    }
    for (number, at) in changes {
        assert_eq!(found.get(number), Some(at), "round {round}: change {number} was acknowledged");
    }
    for number in apps {
        let name = app(*number).app.name;
        let stored = store.app(&name).await.expect("readable");
        assert!(stored.is_some(), "round {round}: {name} was acknowledged");
    }
}
