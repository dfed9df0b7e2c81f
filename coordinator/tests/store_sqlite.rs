//! The SQLite store with a real process that is killed, and what the store takes on this disk.

#![allow(clippy::disallowed_methods, reason = "a client with a world of its own")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use clarion_coordinator::{
    seal::{Generation, KEY_BYTES, Seals},
    store::{
        ChangeLog as _, RecordBatch,
        sql::{MadeFor, SqlStore},
        sqlite::SqliteEngine,
    },
};
use clarion_proto::{
    device::{Change, Record},
    ids::{DeviceId, LogId, Position, UnixMillis},
};
use clarion_runtime::world::World;

/// Path of the file that a child of the test appends to; unset in the test itself.
const CHILD: &str = "CLARION_TEST_STORE";
/// Logs that the child appends to.
const LOGS: u16 = 4;

async fn open(path: &Path, logs: u16) -> Result<SqlStore<SqliteEngine>, String> {
    let world = World::system();
    let engine = SqliteEngine::open(path, world.clock()).await.map_err(|e| e.to_string())?;
    let made_for = MadeFor { cluster: "c".to_owned(), partitions: 64, logs, device_key: None };
    let seals = Arc::new(Seals::new(Generation(1), &[1; KEY_BYTES]));
    let opened = SqlStore::open(engine, &made_for, 1 << 40, 1 << 20, seals, &world).await;
    opened.map_err(|error| error.to_string())
}

fn batch(number: u64, records: u64) -> RecordBatch {
    let record = |n: u64| {
        let mut device = [0; 16];
        device[..8].copy_from_slice(&number.to_be_bytes());
        device[8..].copy_from_slice(&n.to_be_bytes());
        Record { device: DeviceId(device), observed: UnixMillis(1), change: Change::Removal }
    };
    RecordBatch::from_records(&(0..records).map(record).collect::<Vec<_>>())
}

/// The child: appends in eight tasks until it is killed, and prints what was acknowledged.
#[tokio::test]
async fn child_appends_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = Arc::new(open(Path::new(&path), LOGS).await.expect("the file is free"));
    println!("\nopened");
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8u64 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            for n in 0.. {
                let number = (u64::from(std::process::id()) << 32) | (task << 24) | n;
                let log = u16::try_from((task + n) % u64::from(LOGS)).expect("small");
                let appended = store.append_all(vec![(LogId(log), batch(number, 3))]).await;
                let position = appended.expect("room")[0];
                // One write for a line: lines of several tasks are not mixed.
                let line = format!("ack {log} {position} {number}\n");
                std::io::stdout().write_all(line.as_bytes()).expect("the parent reads");
            }
        });
    }
    tasks.join_all().await;
}

/// Every acknowledged append is there after a kill -9 at a random moment, once and without a gap.
#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.sqlite");
    let mut acknowledged: Vec<(u16, u64, u64)> = Vec::new();
    for round in 0..8u64 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "child_appends_until_it_is_killed", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the test runs itself");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let opened = lines.by_ref().map_while(Result::ok).any(|line| line == "opened");
        assert!(opened, "round {round}: the child opens the file of a killed process");
        if round == 0 {
            let refused = open(&path, LOGS).await.expect_err("held by the child");
            assert!(refused.contains("another process holds"), "{refused}");
        }
        let more = 37 * round * round % 200;
        let mut seen = 0;
        for line in lines.map_while(Result::ok) {
            let Some(line) = line.strip_prefix("ack ") else { continue };
            let mut numbers =
                line.split(' ').map(|number| number.parse::<u64>().expect("a number"));
            let [Some(log), Some(position), Some(number), None] =
                [numbers.next(), numbers.next(), numbers.next(), numbers.next()]
            else {
                // The last line may be cut off by the kill.
                continue;
            };
            acknowledged.push((u16::try_from(log).expect("small"), position, number));
            seen += 1;
            // What was printed before the kill is read to its end.
            if seen == more + 1 {
                child.kill().expect("it runs");
            }
        }
        child.wait().expect("killed");
    }
    assert!(acknowledged.len() > 100, "{} appends", acknowledged.len());

    let store = open(&path, LOGS).await.expect("nobody holds it");
    let heads = store.heads().await.expect("up");
    let mut stored = std::collections::BTreeMap::new();
    for (log, head) in (0u16..).zip(&heads) {
        let mut after = Position(0);
        while after < *head {
            let read = store.read_many(&[(LogId(log), after)], 1 << 20).await.expect("whole");
            for batch in &read[0].1 {
                assert_eq!(batch.position.0, after.0 + 1, "dense");
                after = batch.position;
                // A record has its device in bytes 4 to 20; a batch has three records per call.
                let devices = batch.records.chunks(batch_record_bytes());
                for device in devices.step_by(3) {
                    let number = u64::from_be_bytes(device[4..12].try_into().expect("8 bytes"));
                    let twice = stored.insert(number, (log, batch.position.0));
                    assert_eq!(twice, None, "an append is there once");
                }
            }
        }
    }
    for (log, position, number) in &acknowledged {
        assert_eq!(stored.get(number), Some(&(*log, *position)), "acknowledged, and where it said");
    }
    store.close().await;
}

/// Bytes of one encoded record of [`batch`].
fn batch_record_bytes() -> usize {
    batch(0, 1).bytes()
}

/// Prints what the store takes on the disk of `CLARION_TEST_DISK` (default: the temporary folder).
/// Run: `cargo test --workspace --test store_sqlite -- --ignored --nocapture figures`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures; says nothing about right or wrong"]
async fn figures() {
    let folder = std::env::var_os("CLARION_TEST_DISK").map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    for (callers, records) in [(1u64, 1u64), (64, 1), (64, 10), (256, 100)] {
        let path = folder.path().join(format!("store-{callers}-{records}.sqlite"));
        let store = Arc::new(open(&path, 64).await.expect("a new file"));
        let started = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for caller in 0..callers {
            let store = Arc::clone(&store);
            tasks.spawn(async move {
                let (mut took, mut bytes) = (Vec::new(), 0);
                for n in 0.. {
                    let log = |n: u64| LogId(u16::try_from(n % 64).expect("small"));
                    // A record of some 100 bytes is four removals.
                    let batch = batch(caller << 32 | n, 4 * records);
                    bytes += batch.bytes();
                    let begun = Instant::now();
                    store.append_all(vec![(log(caller + n), batch)]).await.expect("room");
                    took.push(begun.elapsed());
                    if started.elapsed() > Duration::from_secs(4) {
                        break;
                    }
                }
                (took, bytes)
            });
        }
        let (mut took, mut bytes) = (Vec::new(), 0);
        for (mut of_task, of_bytes) in tasks.join_all().await {
            took.append(&mut of_task);
            bytes += of_bytes;
        }
        let elapsed = started.elapsed().as_secs_f64();
        took.sort_unstable();
        let heads = store.heads().await.expect("up");
        let rows: u64 = heads.iter().map(|head| head.0).sum();
        #[allow(clippy::cast_precision_loss, reason = "figures for people")]
        let per_second = |n: usize| n as f64 / elapsed;
        println!(
            "{callers} callers, {records} records of 100 bytes each: {:.0} appends/s, {:.2} MB/s, \
             {:.0} rows/s, p50 {:?}, p99 {:?}",
            per_second(took.len()),
            per_second(bytes) / 1e6,
            per_second(usize::try_from(rows).expect("small")),
            took[took.len() / 2],
            took[took.len() * 99 / 100],
        );
        store.close().await;
    }
}

/// Prints what sealing adds to the work on a batch: before, its digest; now, seal and digest.
/// Run: `cargo test --workspace --test store_sqlite -- --ignored --nocapture sealing`.
#[test]
#[ignore = "prints figures; says nothing about right or wrong"]
fn sealing_figures() {
    let seals = Seals::new(Generation(1), &[1; KEY_BYTES]);
    let digest = |bytes: &[u8]| ring::digest::digest(&ring::digest::SHA256, bytes);
    let micros = |rounds: u32, work: &dyn Fn()| {
        let since = Instant::now();
        (0..rounds).for_each(|_| work());
        since.elapsed().as_secs_f64() * 1e6 / f64::from(rounds)
    };
    for (bytes, rounds) in [(100_usize, 50_000), (10_000, 5_000), (1 << 20, 100)] {
        let plain: Vec<u8> = (0..bytes).map(|n| u8::try_from(n % 251).expect("small")).collect();
        let sealed = seals.seal(b"log", &plain);
        let before = micros(rounds, &|| {
            let _ = std::hint::black_box(digest(&plain));
        });
        let after = micros(rounds, &|| {
            let sealed = seals.seal(b"log", &plain);
            let _ = std::hint::black_box(digest(&sealed));
        });
        let opened = micros(rounds, &|| drop(seals.open(b"log", &sealed)));
        println!("{bytes} bytes: digest {before:.2} µs, sealed {after:.2} µs, open {opened:.2} µs");
    }
}
