//! The engine on a real server. A test whose server is missing prints `SKIPPED`; with `CI=1` it
//! fails.
#![allow(clippy::disallowed_methods, reason = "tests have clocks and tasks of their own")]

use std::sync::{
    OnceLock,
    atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use proptest::{prelude::*, sample::select};

use super::{server::TestServer, *};
use crate::store::{
    fixtures::seals,
    sql::{
        FlushBatch, Hash, MadeFor, SqlStore, Value,
        model::{compare, step},
        next_link,
    },
    suite::suite,
};

mod failover;
mod flush;
mod outage;
mod roles;
mod session;

/// Number of logs of the tests' databases.
const LOGS: u16 = 8;

/// The server of all tests that do not stop it.
fn shared() -> Option<&'static TestServer> {
    static SHARED: OnceLock<Option<TestServer>> = OnceLock::new();
    SHARED.get_or_init(TestServer::start).as_ref()
}

/// A new database of a server: its name.
fn database(server: &TestServer) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
    server.create_database(&name);
    name
}

async fn connect(server: &TestServer, database: &str) -> PostgresEngine {
    let address = Address::parse(&server.url(database)).expect("a URL");
    PostgresEngine::open(address, None, &World::system()).await.expect("up")
}

fn made_for(logs: u16) -> MadeFor {
    MadeFor { cluster: "c".to_owned(), partitions: 8, logs, device_key: None }
}

/// Opens the store of a database; `tail`: bytes of the newest batches in memory.
async fn store(
    server: &TestServer,
    database: &str,
    logs: u16,
    tail: usize,
) -> SqlStore<PostgresEngine> {
    let engine = connect(server, database).await;
    let (made_for, world) = (made_for(logs), World::system());
    let store = SqlStore::open(engine, &made_for, 1 << 30, tail, seals(), &world).await;
    store.expect("no other process")
}

/// A database with the tables of `logs` logs, and an engine that is chief of it.
async fn led_of(server: &TestServer, logs: u16) -> (String, PostgresEngine, Epoch) {
    let database = database(server);
    store(server, &database, logs, 0).await.close().await;
    let engine = connect(server, &database).await;
    let epoch = engine.lead([1; 16]).await.expect("nobody else");
    (database, engine, epoch)
}

async fn led(server: &TestServer) -> (String, PostgresEngine, Epoch) {
    led_of(server, LOGS).await
}

suite! {{
    let Some(server) = shared() else { return };
    store(server, &database(server), 4, 1 << 20).await
}}

/// The same requirements with every read from the database.
mod without_tail {
    use super::*;

    suite! {{
        let Some(server) = shared() else { return };
        store(server, &database(server), 4, 0).await
    }}
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_have_equal_answers(
        steps in prop::collection::vec(step(), 1..40),
        tail in select(vec![0, 300, 1 << 20]),
    ) {
        let Some(server) = shared() else { return Ok(()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let name = database(server);
            compare(&steps, async || store(server, &name, 4, tail).await).await;
        });
    }
}

/// An engine that died: its renewals end, and nothing is given back.
fn die(engine: &PostgresEngine) {
    engine.renewal.lock().abort_all();
}

fn sha256(bytes: &[u8]) -> Hash {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("32 bytes")
}

fn batch(log: u16, records: &[u8]) -> FlushBatch {
    FlushBatch {
        log: LogId(log),
        count: 1,
        bytes: records.len() as u64,
        digest: sha256(records),
        records: Bytes::copy_from_slice(records),
    }
}

fn flush_of(epoch: Epoch, producer: u8, number: u64, logs: &[u16]) -> Flush {
    let records = format!("{producer} {number} {}", "x".repeat(usize::from(producer) * 50));
    let batches = logs.iter().map(|&log| batch(log, records.as_bytes())).collect();
    Flush { epoch, producer: [producer; 16], number, batches }
}

/// Whether a flush is stored in a log, as the store asks after a lost answer.
async fn is_stored(
    engine: &PostgresEngine,
    producer: u8,
    number: u64,
) -> Result<bool, EngineError> {
    let asked = Statement::new("SELECT log FROM batch WHERE producer = $1 AND number = $2")
        .bytes(vec![producer; 16])
        .integer(number);
    Ok(!engine.query(asked).await?.is_empty())
}

/// Where a reader is in a log.
#[derive(Debug, Clone)]
struct Place {
    position: Position,
    chain: Hash,
    appended: u64,
}

impl Place {
    /// Before the first batch of a log of which nothing was trimmed.
    fn beginning(server: &TestServer, database: &str) -> Self {
        let chain = "SELECT encode(trimmed_chain, 'hex') FROM log_head WHERE log = 0";
        let chain = data_encoding::HEXLOWER.decode(server.sql(database, chain).as_bytes());
        let chain = chain.expect("hexadecimal").try_into().expect("32 bytes");
        Self { position: Position(0), chain, appended: 0 }
    }

    /// Checks batches of one record each, which were read after this place, and moves to the last.
    fn follow(&mut self, log: u16, batches: &[StoredBatch]) {
        for batch in batches {
            assert_eq!(batch.flushed.log, LogId(log));
            assert_eq!(batch.flushed.position, Position(self.position.0 + 1), "log {log}: dense");
            assert_eq!(batch.digest, sha256(&batch.records), "log {log}");
            assert_eq!(batch.flushed.chain, next_link(&self.chain, &batch.digest), "log {log}");
            assert_eq!(batch.flushed.records_until, batch.flushed.position.0, "log {log}");
            assert!(batch.flushed.appended.0 >= self.appended, "log {log}: time goes on");
            if self.position.0 > 0 {
                assert_eq!(batch.before, Some(self.chain), "log {log}");
            }
            self.position = batch.flushed.position;
            self.chain = batch.flushed.chain;
            self.appended = batch.flushed.appended.0;
        }
    }
}
