//! Failovers to a standby: with synchronous replication nothing acknowledged is lost; without it
//! the loss is found, and the store stops.
//!
//! `CLARION_FAILOVERS` sets the number of failovers of the long run.

use std::{collections::BTreeMap, time::Instant};

use clarion_proto::{
    device::{Change, Record},
    ids::{DeviceId, UnixMillis},
    wire::shard_v1 as wire,
};
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::store::{ChangeLog as _, ClusterStore as _, Numbered, RecordBatch, StoreError};

/// Failovers of the test without a variable.
const FAILOVERS: u64 = 3;
/// Logs of these tests' stores.
const STORE_LOGS: u16 = 4;
/// For everything that must happen; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(90);

/// Two servers, of which one follows the other, and a store with both in its address.
struct Pair {
    primary: TestServer,
    standby: TestServer,
    database: String,
    store: Arc<SqlStore<PostgresEngine>>,
}

impl Pair {
    /// `synchronous`: commits wait for the standby.
    async fn start(synchronous: bool) -> Option<Self> {
        let primary = TestServer::start()?;
        let database = database(&primary);
        // Before the base backup, so that the standby waits for a standby, too, when it is
        // promoted.
        if synchronous {
            primary.set("synchronous_standby_names", "*");
        }
        let standby = primary.standby();
        let hosts = format!("{},{}", primary.host(), standby.host());
        let url = format!("postgres://clarion@{hosts}/{database}?target_session_attrs=read-write");
        let address = Address::parse(&url).expect("a URL");
        let world = World::system();
        let engine = PostgresEngine::open(address, None, &world).await.expect("up");
        let store =
            SqlStore::open(engine, &made_for(STORE_LOGS), 1 << 30, 1 << 20, seals(), &world).await;
        let store = Arc::new(store.expect("no other process"));
        Some(Self { primary, standby, database, store })
    }

    /// Cuts the primary off, and promotes the standby. `stands`: the primary stands still first,
    /// instead of being killed, as a machine does whose network is cut; then it is fenced.
    fn fail_over(&mut self, stands: bool) {
        if stands {
            self.primary.pause(true);
            self.standby.promote();
            self.primary.kill();
        } else {
            self.primary.kill();
            self.standby.promote();
        }
        std::mem::swap(&mut self.primary, &mut self.standby);
        self.standby.follow(&self.primary);
    }
}

fn device(number: u64) -> DeviceId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    DeviceId(id)
}

fn change(number: u64) -> RecordBatch {
    let (device, change) = (device(number), Change::Mute(true));
    RecordBatch::from_records(&[Record { device, observed: UnixMillis(number), change }])
}

/// Appends changes until it is stopped; returns where the acknowledged ones are.
async fn write(
    store: Arc<SqlStore<PostgresEngine>>,
    first: u64,
    stop: CancellationToken,
) -> BTreeMap<u64, (LogId, Position)> {
    let mut acknowledged = BTreeMap::new();
    for number in first.. {
        if stop.is_cancelled() {
            break;
        }
        let log = LogId(u16::try_from(number % u64::from(STORE_LOGS)).expect("below"));
        match store.append_all(vec![(log, change(number))]).await {
            Ok(positions) => drop(acknowledged.insert(number, (log, positions[0]))),
            // It may be stored or not; it is not written again.
            Err(StoreError::Away(_) | StoreError::Busy(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    acknowledged
}

/// Every change that is stored, once, and where: logs are dense, and their chains unbroken.
async fn stored(store: &SqlStore<PostgresEngine>) -> BTreeMap<u64, (LogId, Position)> {
    let mut found = BTreeMap::new();
    for log in (0..STORE_LOGS).map(LogId) {
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
        assert_eq!(store.heads().await.expect("up")[usize::from(log.0)], after);
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_to_a_synchronous_standby_loses_nothing() {
    let Some(mut pair) = Pair::start(true).await else { return };
    let failovers = std::env::var("CLARION_FAILOVERS");
    let failovers = failovers.map_or(FAILOVERS, |n| n.parse().expect("a number"));
    let stop = CancellationToken::new();
    let mut writers = JoinSet::new();
    for writer in 0..3_u64 {
        writers.spawn(write(Arc::clone(&pair.store), writer << 40, stop.clone()));
    }
    let (mut slowest, mut sum) = (Duration::ZERO, Duration::ZERO);
    for round in 0..failovers {
        tokio::time::sleep(Duration::from_millis(300 + round * 37 % 500)).await;
        let heads = pair.store.heads().await.expect("not stopped");
        let cut = Instant::now();
        pair = tokio::task::spawn_blocking(move || {
            pair.fail_over(round % 3 == 2);
            pair
        })
        .await
        .expect("no panic");
        // Appends go on in every log.
        loop {
            let now = pair.store.heads().await.expect("not stopped");
            if now.iter().zip(&heads).all(|(now, then)| now.0 > then.0 + 10) {
                break;
            }
            assert!(cut.elapsed() < PATIENCE, "round {round}: {now:?} after {heads:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        (slowest, sum) = (slowest.max(cut.elapsed()), sum + cut.elapsed());
    }
    stop.cancel();
    let mut acknowledged = BTreeMap::new();
    for of_writer in writers.join_all().await {
        acknowledged.extend(of_writer);
    }
    pair.store.close().await;
    // From the database alone, not from this process's memory.
    let reopened = store(&pair.primary, &pair.database, STORE_LOGS, 0).await;
    let found = stored(&reopened).await;
    for (number, at) in &acknowledged {
        assert_eq!(found.get(number), Some(at), "change {number} was acknowledged");
    }
    let unknown = found.len() - acknowledged.len();
    println!(
        "{failovers} failovers, {} changes acknowledged, {unknown} stored without an answer; \
         appends went on after {:?} on average, {slowest:?} at most",
        acknowledged.len(),
        sum / u32::try_from(failovers.max(1)).expect("some"),
    );
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
    reopened.close().await;
}

/// How a loss is met first.
#[derive(Debug, Clone, Copy)]
enum Meets {
    Flush,
    Read,
    Record,
    Nothing,
}

/// Commits that the standby never gets are acknowledged, and the standby is promoted.
async fn lose(pair: &mut Pair) {
    for number in 0..20_u64 {
        let log = LogId(u16::try_from(number % 2).expect("0 or 1"));
        pair.store.append_all(vec![(log, change(number))]).await.expect("up");
    }
    let head = "SELECT position FROM log_head WHERE log = 0";
    let since = Instant::now();
    while pair.standby.sql(&pair.database, head) != "10" {
        assert!(since.elapsed() < PATIENCE, "the standby does not follow");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    pair.standby.stop();
    for number in 20..26_u64 {
        pair.store.append_all(vec![(LogId(0), change(number))]).await.expect("acknowledged");
    }
    pair.primary.kill();
    pair.standby.restart();
    pair.standby.promote();
    assert_eq!(pair.standby.sql(&pair.database, head), "10", "the standby lags");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_loses_acknowledged_changes_stops_the_store() {
    for meets in [Meets::Flush, Meets::Read, Meets::Record, Meets::Nothing] {
        let Some(mut pair) = Pair::start(false).await else { return };
        lose(&mut pair).await;
        let store = &pair.store;
        // A store that answers is asked until it has noticed; the first answers may be of
        // connections that the server's death broke.
        let since = Instant::now();
        let lost = loop {
            let answer = match meets {
                Meets::Flush => store.append_all(vec![(LogId(0), change(100))]).await.map(drop),
                // Of the beginning: the newest batches are in memory.
                Meets::Read => {
                    let read = store.read_many(&[(LogId(1), Position(0))], 1 << 20).await;
                    read.map(drop)
                }
                Meets::Record => store.replace_numbered(Numbered::new("mint/1", 1, vec![1])).await,
                Meets::Nothing => store.lane_director().await.map(drop),
            };
            match answer {
                Err(error) if error.ends_process() => break error,
                _ => assert!(since.elapsed() < PATIENCE, "{meets:?}: {answer:?}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let StoreError::Broken(reason) = &lost else { panic!("{meets:?}: {lost}") };
        println!("{meets:?} after {:?}: {reason}", since.elapsed());
        assert!(reason.contains("log 0"), "{meets:?}: {reason}");
        // The store has stopped for good, and what the coordinator asks each second says so.
        for _ in 0..2 {
            let refused = store.append_all(vec![(LogId(1), change(200))]).await;
            assert_eq!(refused, Err(lost.clone()), "{meets:?}");
            assert_eq!(store.lane_director().await, Err(lost.clone()), "{meets:?}");
        }
        store.close().await;
    }
}
