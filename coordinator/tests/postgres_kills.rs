//! A coordinator's store and its PostgreSQL server, killed at random moments while changes are
//! appended: one of them, the other, or both. Every acknowledged change is there, once.
//!
//! `CLARION_KILL_ROUNDS` sets the number of rounds of the long run.

#![allow(clippy::disallowed_methods, reason = "a client with a world of its own")]

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use clarion_coordinator::{
    seal::{Generation, Seals},
    store::{
        ChangeLog as _, RecordBatch, StoreError,
        postgres::{Address, PostgresEngine},
        sql::{MadeFor, SqlStore},
    },
};
use clarion_proto::{
    device::{Change, Record},
    ids::{DeviceId, LogId, Position, UnixMillis},
    wire::shard_v1 as wire,
};
use clarion_runtime::world::World;
use prost::Message as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use self::server::TestServer;

#[path = "../src/store/postgres/server.rs"]
mod server;

const ROUNDS: u64 = 6;
const LOGS: u16 = 4;
/// Environment of a child: the address of its store, and the first number of its changes.
const CHILD: &str = "CLARION_KILL_CHILD";
const FIRST: &str = "CLARION_KILL_FIRST";

async fn open(url: &str) -> SqlStore<PostgresEngine> {
    let world = World::system();
    let address = Address::parse(url).expect("a URL");
    let engine = PostgresEngine::open(address, None, &world).await.expect("up");
    let made_for =
        MadeFor { cluster: "kills".to_owned(), partitions: 64, logs: LOGS, device_key: None };
    let seals = Arc::new(Seals::new(Generation(1), &[1; 32]));
    SqlStore::open(engine, &made_for, 1 << 30, 0, seals, &world).await.expect("a store")
}

fn change(number: u64) -> RecordBatch {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    let (observed, change) = (UnixMillis(number), Change::Mute(true));
    RecordBatch::from_records(&[Record { device: DeviceId(id), observed, change }])
}

fn log_of(number: u64) -> LogId {
    LogId(u16::try_from(number % u64::from(LOGS)).expect("below"))
}

fn told(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("the parent reads");
}

/// The process that is killed: appends, and tells what was acknowledged.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of another test"]
async fn child_that_appends_until_it_is_killed() {
    let url = env::var(CHILD).expect("the parent sets it");
    let first: u64 = env::var(FIRST).expect("the parent sets it").parse().expect("a number");
    let store = Arc::new(open(&url).await);
    told("open");
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            for number in (first + writer..).step_by(8) {
                match store.append_all(vec![(log_of(number), change(number))]).await {
                    Ok(positions) => told(&format!("change {number} {}", positions[0])),
                    // The change may be stored; it is not written again.
                    Err(StoreError::Away(_) | StoreError::Busy(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.expect("no panic");
    }
}

fn start(url: &str, first: u64) -> (Child, thread::JoinHandle<Vec<String>>) {
    let mut child = Command::new(env::current_exe().expect("this test"))
        .args(["--ignored", "--exact", "--nocapture", "child_that_appends_until_it_is_killed"])
        .env(CHILD, url)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut lines = lines.map_while(Result::ok);
    // The first lines are the test program's own.
    while lines.next().expect("the child opens its store") != "open" {}
    (child, thread::spawn(move || lines.collect()))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_change_survives_kills_of_coordinator_and_server() {
    let Some(mut server) = TestServer::start() else { return };
    server.create_database("kills");
    let url = server.url("kills");
    let rounds = env::var("CLARION_KILL_ROUNDS").map_or(ROUNDS, |n| n.parse().expect("a number"));
    let mut draw = StdRng::seed_from_u64(15);
    let mut acknowledged = BTreeMap::new();
    let mut kills = (0, 0);
    for round in 0..rounds {
        // Numbers that were not acknowledged may be stored, too; none is used again.
        let (mut child, reader) = start(&url, round * 1_000_000);
        thread::sleep(Duration::from_millis(draw.random_range(0..700)));
        if round % 3 != 0 {
            server.kill();
            kills.1 += 1;
        }
        if round % 3 == 1 {
            // The store goes on after the server's restart.
            server.restart();
            thread::sleep(Duration::from_millis(draw.random_range(200..900)));
        }
        child.kill().expect("killed");
        child.wait().expect("ended");
        kills.0 += 1;
        if round % 3 == 2 {
            server.restart();
        }
        for line in reader.join().expect("no panic") {
            let words: Vec<&str> = line.split(' ').collect();
            let ["change", number, position] = words[..] else { panic!("{line}") };
            let number: u64 = number.parse().expect("a number");
            acknowledged.insert(number, position.parse::<u64>().expect("a position"));
        }
    }
    let store = open(&url).await;
    let found = stored(&store).await;
    for (number, position) in &acknowledged {
        let expected = Some(&(log_of(*number), Position(*position)));
        assert_eq!(found.get(number), expected, "change {number} was acknowledged");
    }
    println!(
        "{} kills of the coordinator, {} of the server; {} changes acknowledged, {} stored",
        kills.0,
        kills.1,
        acknowledged.len(),
        found.len(),
    );
    assert!(acknowledged.len() > 20, "{}", acknowledged.len());
    store.close().await;
}

/// Every change that is stored, once, and where: logs are dense, and their chains unbroken.
async fn stored(store: &SqlStore<PostgresEngine>) -> BTreeMap<u64, (LogId, Position)> {
    let mut found = BTreeMap::new();
    for log in (0..LOGS).map(LogId) {
        let mut after = Position(0);
        loop {
            let read = store.read_many(&[(log, after)], 1 << 20).await.expect("readable");
            let Some((_, batches)) = read.first() else { break };
            for batch in batches {
                assert_eq!(batch.position.0, after.0 + 1, "log {log} is dense");
                after = batch.position;
                let records = wire::FeedResponse::decode(batch.records.clone()).expect("records");
                for record in records.records {
                    let number = u64::from_be_bytes(record.device[..8].try_into().expect("8"));
                    let twice = found.insert(number, (log, batch.position));
                    assert_eq!(twice, None, "change {number} is stored once");
                }
            }
        }
        assert_eq!(store.heads().await.expect("heads")[usize::from(log.0)], after);
    }
    found
}
