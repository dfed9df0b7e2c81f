//! The engine on a real server. A test whose server is missing prints `SKIPPED`; with `CI=1` it
//! fails.
#![allow(clippy::disallowed_methods, reason = "tests have clocks and tasks of their own")]

use std::sync::{
    OnceLock,
    atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;

use super::{server::TestServer, *};
use crate::store::sql::{FlushBatch, Hash, Value, schema};

mod flush;
mod outage;
mod roles;
mod session;

/// Number of logs of the tests' databases.
const LOGS: u16 = 8;
/// Identity of the logs of the tests' databases.
const IDENTITY: [u8; 16] = [7; 16];

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

async fn connect(server: &TestServer, database: &str) -> Postgres {
    let address = Address::parse(&server.url(database)).expect("a URL");
    Postgres::open(address, None, &World::system()).await.expect("up")
}

/// A database with tables, and an engine that is chief of it.
async fn led(server: &TestServer) -> (String, Postgres, Epoch) {
    let database = database(server);
    let engine = connect(server, &database).await;
    let mut statements: Vec<_> = schema::TABLES.into_iter().map(Statement::new).collect();
    statements.push(schema::no_chief());
    statements.extend((0..LOGS).map(|log| schema::empty_log(log, IDENTITY)));
    engine.migrate(statements).await.expect("tables");
    let epoch = engine.lead([1; 16]).await.expect("nobody else");
    (database, engine, epoch)
}

/// An engine that died: its renewals end, and nothing is given back.
fn die(engine: &Postgres) {
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
async fn is_stored(engine: &Postgres, producer: u8, number: u64) -> Result<bool, EngineError> {
    let asked = Statement::new("SELECT log FROM batch WHERE producer = $1 AND number = $2")
        .bytes(vec![producer; 16])
        .integer(number);
    Ok(!engine.query(asked).await?.is_empty())
}

/// Where a reader is in a log.
#[derive(Debug, Clone)]
struct Place {
    position: Position,
    chain: Vec<u8>,
    appended: u64,
}

impl Place {
    /// Before the first batch.
    fn beginning() -> Self {
        Self { position: Position(0), chain: IDENTITY.to_vec(), appended: 0 }
    }

    /// Checks batches of one record each, which were read after this place, and goes on to the last.
    fn follow(&mut self, log: u16, batches: &[StoredBatch]) {
        for batch in batches {
            assert_eq!(batch.flushed.log, LogId(log));
            assert_eq!(batch.flushed.position, Position(self.position.0 + 1), "log {log}: dense");
            assert_eq!(batch.digest, sha256(&batch.records), "log {log}");
            let chain = sha256(&[&self.chain[..], &batch.digest[..]].concat());
            assert_eq!(batch.flushed.chain, chain, "log {log}");
            assert_eq!(batch.flushed.records_until, batch.flushed.position.0, "log {log}");
            assert!(batch.flushed.appended.0 >= self.appended, "log {log}: time goes on");
            if self.position.0 > 0 {
                assert_eq!(batch.before.map(Vec::from), Some(self.chain.clone()), "log {log}");
            }
            self.position = batch.flushed.position;
            self.chain = chain.to_vec();
            self.appended = batch.flushed.appended.0;
        }
    }
}
