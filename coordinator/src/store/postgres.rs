//! The PostgreSQL engine: the store of coordinators that share a database.
//!
//! | Connections | For |
//! |---|---|
//! | one | flushes, one at a time, and the role of chief |
//! | four | reads, and writes of one record |
//! | two, SERIALIZABLE | writes that decide by rows that they do not write |
//! | one | renewal of the chief's counter, the server's clock |
//!
//! All connections wait for the server's disk and its synchronous standby with each commit, except
//! the last, which writes nothing that has to survive the server. Nothing is ever cancelled: a
//! statement beyond its deadline goes on, its connection is dropped, and its outcome is unknown
//! ([`EngineError::Unknown`]). Every statement after an unknown outcome first waits for a commit of
//! its own (`doubt`), so that what it reads cannot be lost in a failover any more.
//!
//! The server is PostgreSQL 14 or newer. A pooler between coordinator and server must keep
//! sessions: settings and prepared statements belong to them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use clarion_proto::ids::{Epoch, LogId, Position};
use clarion_runtime::{repeated::Repeated, world::World};
use parking_lot::Mutex;
use rand::RngExt as _;
use secrecy::SecretString;
use tokio::{sync::watch, task::JoinSet};

use self::{
    chief::{Holder, Next, RENEW_INTERVAL, WATCH_INTERVAL, Watch},
    clock::MEASURE_INTERVAL,
    connection::{Role, Server},
    failure::{Effect, Failure},
    link::{Link, Pool},
    query::Query,
};
use super::sql::{Engine, EngineError, Flush, Flushed, ReadError, Row, Statement, StoredBatch};

mod address;
mod chief;
mod clock;
mod connection;
mod doubt;
mod failure;
mod flush;
mod foreign;
mod link;
mod query;
#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;
mod tls;

pub use address::{Address, AddressError, Host, TlsMode};
pub use clock::{ClockOffset, OFFSET_MAX_MS};
pub(crate) use foreign::{Foreign, ForeignError, TextRow};

/// Deadline of a flush. The server gives up a flush that waits for locks after 10 s.
const FLUSH_DEADLINE: Duration = Duration::from_secs(15);
/// Deadline of other statements. The server gives them up after 8 s.
const DEADLINE: Duration = Duration::from_secs(10);
/// Deadline of a migration: an index over all rows takes its time.
const MIGRATION_DEADLINE: Duration = Duration::from_secs(50);
/// Deadline of a renewal: the next one is due.
const GUARD_DEADLINE: Duration = Duration::from_secs(2);
/// Longest time that a process watches for the role of chief.
const LEAD_DEADLINE: Duration = Duration::from_secs(40);
/// Number of times that a statement is run that loses to other writers.
const TRIES: u64 = 10;
/// Connections for reads and writes of one record.
const RECORD_LINKS: usize = 4;
/// Connections for writes that decide by other rows.
const DECISION_LINKS: usize = 2;

/// A PostgreSQL database.
#[derive(Debug)]
pub struct PostgresEngine {
    server: Arc<Server>,
    appends: Link,
    records: Pool,
    decisions: Pool,
    guard: Arc<Link>,
    /// The task that renews the counter.
    renewal: Mutex<JoinSet<()>>,
    epoch: Mutex<Option<Epoch>>,
    clock_offset: watch::Sender<ClockOffset>,
    taken_over: watch::Sender<Option<Epoch>>,
    is_closed: AtomicBool,
}

impl PostgresEngine {
    /// Connects to a database, and measures its clock.
    ///
    /// # Errors
    /// No host of the address can be used: each with its reason, and without the password.
    pub async fn open(
        address: Address,
        password: Option<SecretString>,
        world: &World,
    ) -> Result<Self, EngineError> {
        let server = Server::new(address, password, world.clone()).map_err(EngineError::Broken)?;
        let server = Arc::new(server);
        let guard = Arc::new(Link::new(&server, Role::Guard));
        let offset = measure(&server, &guard, DEADLINE).await;
        let offset = offset.map_err(|failure| failure.into_error(Effect::Reads))?;
        Ok(Self {
            appends: Link::new(&server, Role::Appends),
            records: Pool::new(&server, Role::Records, RECORD_LINKS),
            decisions: Pool::new(&server, Role::Decisions, DECISION_LINKS),
            guard,
            server,
            renewal: Mutex::default(),
            epoch: Mutex::default(),
            clock_offset: watch::Sender::new(offset),
            taken_over: watch::Sender::new(None),
            is_closed: AtomicBool::new(false),
        })
    }

    /// Channel of the difference between the server's clock and this machine's, measured when the
    /// database is opened and every 30 s while this process is chief.
    #[must_use]
    pub fn clock_offset(&self) -> watch::Receiver<ClockOffset> {
        self.clock_offset.subscribe()
    }

    /// Channel of the epoch of another process that took the role of chief over; `None`: this
    /// process has not lost it.
    #[must_use]
    pub fn taken_over(&self) -> watch::Receiver<Option<Epoch>> {
        self.taken_over.subscribe()
    }

    fn usable(&self) -> Result<(), EngineError> {
        if self.is_closed.load(Ordering::SeqCst) {
            return Err(EngineError::Away("the database was closed".to_owned()));
        }
        Ok(())
    }

    /// Runs a statement that writes, again while it loses to other writers.
    async fn write(&self, pool: &Pool, query: &Query) -> Result<Vec<tokio_postgres::Row>, Failure> {
        let mut random = None;
        for attempt in 1.. {
            let ran = pool.run(query, Effect::Writes, DEADLINE).await;
            match ran {
                Err(failure) if failure.is_conflict() && attempt < TRIES => {
                    let clock = self.server.world.clock();
                    let random = random.get_or_insert_with(|| self.server.world.random());
                    let wait = Duration::from_millis(random.random_range(0..=5 * attempt));
                    clock.sleep_until(Some(clock.now() + wait)).await;
                }
                ran => return ran,
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Why a flush changed nothing: another epoch, or heads that are missing.
    async fn why_nothing(&self, epoch: Epoch) -> EngineError {
        let stored = self.records.run(&chief::stored(), Effect::Reads, DEADLINE).await;
        let stored = match stored {
            Ok(rows) => rows.first().and_then(|row| row.try_get::<_, i64>(0).ok()),
            Err(failure) => return failure.into_error(Effect::Reads),
        };
        match stored.and_then(|stored| u64::try_from(stored).ok()).map(Epoch) {
            Some(stored) if stored != epoch => EngineError::Fenced { stored },
            _ => EngineError::Broken(
                "the database has no row for a log or for the chief: restore it from a backup"
                    .to_owned(),
            ),
        }
    }

    /// Reads one batch after another, to find the one that is damaged.
    async fn read_to_damage(
        &self,
        after: Vec<(LogId, Position)>,
        bytes_max: usize,
    ) -> Result<Vec<StoredBatch>, ReadError> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        for (log, mut position) in after {
            while bytes < bytes_max || found.is_empty() {
                let one = flush::read_one(log, position);
                match self.records.run(&one, Effect::Reads, DEADLINE).await {
                    Ok(rows) => {
                        let Some(row) = rows.first() else { break };
                        let batch = flush::stored(row).map_err(undecodable)?;
                        bytes += batch.records.len();
                        if bytes > bytes_max && !found.is_empty() {
                            return Ok(found);
                        }
                        position = batch.flushed.position;
                        found.push(batch);
                    }
                    Err(_) if !found.is_empty() => return Ok(found),
                    Err(Failure::Refused(refusal))
                        if Failure::Refused(refusal.clone()).is_damage() =>
                    {
                        let position = Position(position.0 + 1);
                        return Err(ReadError::Damaged { log, position, problem: refusal.text });
                    }
                    Err(failure) => return Err(failure.into_error(Effect::Reads).into()),
                }
            }
        }
        Ok(found)
    }

    /// Reads who is chief.
    async fn holder(&self) -> Result<Holder, EngineError> {
        let rows = self.appends.run(&chief::look(), Effect::Reads, DEADLINE).await;
        let rows = rows.map_err(|failure| failure.into_error(Effect::Reads))?;
        let row = rows.first().ok_or_else(|| {
            EngineError::Broken("the database has no chief: restore it from a backup".to_owned())
        })?;
        let incarnation: &[u8] = row.try_get(0).map_err(undecodable)?;
        Ok(Holder {
            incarnation: incarnation.to_vec(),
            epoch: row.try_get(1).map_err(undecodable)?,
            counter: row.try_get(2).map_err(undecodable)?,
        })
    }

    /// Renews the counter until another process is chief.
    fn hold(&self, epoch: Epoch) {
        *self.epoch.lock() = Some(epoch);
        let (server, guard) = (Arc::clone(&self.server), Arc::clone(&self.guard));
        let (offset, taken_over) = (self.clock_offset.clone(), self.taken_over.clone());
        let mut renewal = self.renewal.lock();
        renewal.abort_all();
        renewal.spawn(async move {
            let stored = renew(&server, &guard, epoch, &offset).await;
            tracing::error!(
                stored = stored.0,
                epoch = epoch.0,
                "another coordinator took the store over"
            );
            taken_over.send_replace(Some(stored));
        });
    }
}

#[async_trait]
impl Engine for PostgresEngine {
    fn fit(&self) -> Result<(), String> {
        let offset = *self.clock_offset.borrow();
        if offset.is_too_large() {
            return Err(format!(
                "the clocks of database and coordinator differ by {} ms; set both by NTP",
                offset.offset_ms
            ));
        }
        Ok(())
    }

    async fn query(&self, statement: Statement) -> Result<Vec<Row>, EngineError> {
        self.usable()?;
        let rows = self.records.run(&statement.into(), Effect::Reads, DEADLINE).await;
        let rows = rows.map_err(|failure| failure.into_error(Effect::Reads))?;
        rows.iter().map(query::row).collect()
    }

    async fn execute(&self, statement: Statement) -> Result<Vec<Row>, EngineError> {
        self.usable()?;
        let pool = if statement.serializable { &self.decisions } else { &self.records };
        let rows = self.write(pool, &statement.into()).await;
        let rows = rows.map_err(|failure| failure.into_error(Effect::Writes))?;
        rows.iter().map(query::row).collect()
    }

    async fn migrate(&self, statements: Vec<Statement>) -> Result<(), EngineError> {
        self.usable()?;
        let queries: Vec<Query> = statements.into_iter().map(Query::from).collect();
        let migrated = self.appends.run_together(&queries, MIGRATION_DEADLINE).await;
        migrated.map_err(|failure| failure.into_error(Effect::Writes))
    }

    async fn lead(&self, incarnation: [u8; 16]) -> Result<Epoch, EngineError> {
        self.usable()?;
        let clock = self.server.world.clock();
        let until = clock.now() + LEAD_DEADLINE;
        let mut watch = Watch::new(incarnation);
        while clock.now() < until {
            match watch.observe(self.holder().await?, clock.now()) {
                Next::Watch => clock.sleep_until(Some(clock.now() + WATCH_INTERVAL)).await,
                Next::Refuse(holder) => {
                    return Err(EngineError::Busy(format!(
                        "another coordinator uses this store: incarnation {}, epoch {}. Stop it, \
                         or start this one with a store of its own",
                        holder.name(),
                        holder.epoch
                    )));
                }
                Next::Take(holder) => {
                    let take = chief::take(incarnation, &holder);
                    let rows = self.appends.run(&take, Effect::Writes, FLUSH_DEADLINE).await;
                    let rows = rows.map_err(|failure| failure.into_error(Effect::Writes))?;
                    let Some(row) = rows.first() else {
                        watch = Watch::new(incarnation);
                        continue;
                    };
                    let epoch: i64 = row.try_get(0).map_err(undecodable)?;
                    let epoch = Epoch(u64::try_from(epoch).unwrap_or_default());
                    let former = holder.name();
                    tracing::info!(epoch = epoch.0, former, "role of chief taken");
                    self.hold(epoch);
                    return Ok(epoch);
                }
            }
        }
        Err(EngineError::Busy("other coordinators compete for this store".to_owned()))
    }

    async fn flush(&self, flush: Flush) -> Result<Vec<Flushed>, EngineError> {
        self.usable()?;
        let (epoch, batches) = (flush.epoch, flush.batches.len());
        if batches == 0 {
            return Ok(Vec::new());
        }
        match self.appends.run(&flush::append(flush), Effect::Writes, FLUSH_DEADLINE).await {
            Ok(rows) if rows.is_empty() => Err(self.why_nothing(epoch).await),
            Ok(rows) => rows.iter().map(|row| flush::flushed(row).map_err(undecodable)).collect(),
            Err(failure) if failure.is_duplicate_flush() => Err(EngineError::Duplicate),
            Err(failure) => Err(failure.into_error(Effect::Writes)),
        }
    }

    async fn read(
        &self,
        after: Vec<(LogId, Position)>,
        bytes_max: usize,
    ) -> Result<Vec<StoredBatch>, ReadError> {
        self.usable()?;
        match self.records.run(&flush::read(&after, bytes_max), Effect::Reads, DEADLINE).await {
            Ok(rows) => {
                let stored = rows.iter().map(flush::stored).collect::<Result<_, _>>();
                Ok(stored.map_err(undecodable)?)
            }
            Err(failure) if failure.is_damage() => self.read_to_damage(after, bytes_max).await,
            Err(failure) => Err(failure.into_error(Effect::Reads).into()),
        }
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.renewal.lock().abort_all();
        let epoch = self.epoch.lock().take();
        if let Some(epoch) = epoch {
            // Without this, the next process waits for some seconds.
            let _ = self.appends.run(&chief::release(epoch), Effect::Writes, DEADLINE).await;
        }
        self.appends.close().await;
        self.records.close().await;
        self.decisions.close().await;
        self.guard.close().await;
    }
}

/// Renews the counter each second, and measures the clock every 30 s. Returns the epoch of the
/// process that took the role over.
async fn renew(
    server: &Server,
    guard: &Link,
    epoch: Epoch,
    clock_offset: &watch::Sender<ClockOffset>,
) -> Epoch {
    let clock = server.world.clock();
    let mut measure_at = clock.now() + MEASURE_INTERVAL;
    let (mut failures, mut offsets) = (Repeated::default(), Repeated::default());
    loop {
        clock.sleep_until(Some(clock.now() + RENEW_INTERVAL)).await;
        let renewed = async {
            if !guard.run(&chief::renew(epoch), Effect::Reads, GUARD_DEADLINE).await?.is_empty() {
                return Ok::<_, Failure>(None);
            }
            let stored = guard.run(&chief::stored(), Effect::Reads, GUARD_DEADLINE).await?;
            let stored = stored.first().and_then(|row| row.try_get::<_, i64>(0).ok());
            Ok(stored.and_then(|stored| u64::try_from(stored).ok()))
        };
        let now = clock.now();
        match renewed.await {
            Ok(Some(stored)) if stored != epoch.0 => return Epoch(stored),
            Ok(_) => {}
            Err(failure) => {
                let reason = failure.into_text();
                if let Some(count) = failures.note(&reason, now.since(Default::default())) {
                    tracing::warn!(reason, count, "renewal of the role of chief failed");
                }
            }
        }
        if now < measure_at {
            continue;
        }
        measure_at = now + MEASURE_INTERVAL;
        if let Ok(offset) = measure(server, guard, GUARD_DEADLINE).await {
            if offset.is_too_large()
                && let Some(count) = offsets.note("offset", now.since(Default::default()))
            {
                log_offset(offset, count);
            }
            clock_offset.send_replace(offset);
        }
    }
}

/// Measures the difference between the server's clock and this machine's.
async fn measure(
    server: &Server,
    guard: &Link,
    deadline: Duration,
) -> Result<ClockOffset, Failure> {
    // The first answer may have waited for the connection.
    guard.run(&clock::ask(), Effect::Reads, deadline).await?;
    let clock = server.world.clock();
    let before = clock.wall();
    let rows = guard.run(&clock::ask(), Effect::Reads, deadline).await?;
    let after = clock.wall();
    let server_ms: Option<i64> = rows.first().and_then(|row| row.try_get(0).ok());
    let server_ms =
        server_ms.ok_or_else(|| Failure::Lost("the server does not tell its time".to_owned()))?;
    Ok(ClockOffset::of(before, server_ms, after))
}

fn log_offset(offset: ClockOffset, count: u64) {
    tracing::error!(
        offset_ms = offset.offset_ms,
        offset_ms_max = OFFSET_MAX_MS,
        count,
        "clocks of database and coordinator differ; set both by NTP"
    );
}

/// A column of a statement of this engine that has another type than it was made with.
#[allow(clippy::needless_pass_by_value, reason = "the form of `map_err`")]
fn undecodable(error: tokio_postgres::Error) -> EngineError {
    EngineError::Broken(format!(
        "{}: the tables of the database were changed by another program",
        failure::words(&error)
    ))
}
