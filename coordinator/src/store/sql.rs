//! The store over a database of SQL: what all database engines share.
//!
//! ```text
//! SqlStore   records and logs: what is atomic, what a refusal means, what is kept in memory
//!   Engine   one database: runs statements, flushes, reads batches
//! ```
//!
//! **Each operation on a record is one portable statement that commits by itself.** SQLite and
//! PostgreSQL run the same text. Parameters are `$1`, `$2`, ...; every parameter has a type of its
//! own ([`Value`]) and is never NULL; every column of integers is a BIGINT. A write that changed no
//! row is followed by one read that tells why.
//!
//! **One process writes.** The process takes the role of chief when it opens the store
//! ([`Engine::lead`]), which raises the stored epoch. Every statement that writes holds the
//! condition [`FENCE`]; a writer of a lower epoch changes nothing and gets
//! [`StoreError::TakenOver`].

use std::{fmt, sync::Arc};

use clarion_runtime::world::World;
use tokio::sync::watch;

pub use engine::{
    BATCH_BYTES, Engine, EngineError, Flush, FlushBatch, Flushed, Hash, ReadError, Row, Statement,
    StoredBatch, Value,
};
pub use logs::next_link;
pub use open::{MadeFor, OpenError};

use self::{apps::KnownApps, database::Database, flush::Flusher, logs::Logs};
use super::StoreError;
use crate::seal::Seals;

mod alerts;
mod apps;
mod change_log;
mod cluster;
mod database;
mod engine;
mod flush;
mod fork;
mod logs;
#[cfg(test)]
pub(super) mod model;
mod open;
mod restore;
mod schema;
mod tail;
#[cfg(test)]
mod tests;

/// Condition that every writing statement holds, as text; its parameter is the writer's epoch,
/// always the first parameter.
pub const FENCE: &str = "(SELECT epoch FROM chief WHERE id = 1) = $1";

/// Store of apps, alerts and logs in a database.
pub struct SqlStore<E: Engine> {
    database: Arc<Database<E>>,
    logs: Arc<Logs>,
    apps: KnownApps,
    flusher: Flusher,
}

impl<E: Engine> SqlStore<E> {
    /// Opens the store of a database: creates its tables if there are none, and takes the role of
    /// the process that writes.
    ///
    /// `bytes_max`: maximum number of bytes that all logs may hold; `tail_bytes_max`: bytes of
    /// their newest batches that are kept in memory for the nodes that follow; `seals`: keys of the
    /// batches, which must be there when the first batch is appended or read.
    ///
    /// # Errors
    /// The database cannot be reached, is not one of this program's, or was made for other numbers.
    pub async fn open(
        engine: E,
        made_for: &MadeFor,
        bytes_max: u64,
        tail_bytes_max: usize,
        seals: Arc<Seals>,
        world: &World,
    ) -> Result<Self, OpenError> {
        let (database, heads) = open::open(engine, made_for, world).await?;
        let database = Arc::new(database);
        let logs = Logs::new(database.identity(), heads, seals, bytes_max, tail_bytes_max);
        let logs = Arc::new(logs);
        let flusher = Flusher::start(Arc::clone(&database), Arc::clone(&logs), world);
        Ok(Self { database, logs, apps: KnownApps::default(), flusher })
    }

    /// Channel of how the database is. [`Condition::Stopped`] is the last value: the process has to
    /// end.
    #[must_use]
    pub fn condition(&self) -> watch::Receiver<Condition> {
        self.database.condition()
    }

    /// The database, for tests that break it.
    #[cfg(test)]
    pub(in crate::store) fn engine(&self) -> &E {
        self.database.engine()
    }

    /// Finishes the appends that wait and closes the database. A process that ends without it
    /// loses nothing that was acknowledged.
    pub async fn close(&self) {
        self.flusher.close().await;
        self.database.engine().close().await;
    }
}

impl<E: Engine> fmt::Debug for SqlStore<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlStore").field("engine", self.database.engine()).finish_non_exhaustive()
    }
}

/// How the database was at the newest statement; one that refuses writes is away, although it can
/// be read. A store without work asks once a second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The database answers.
    Up,
    /// The database does not answer, or too slowly; with the reason.
    Away(String),
    /// The store can never be used again by this process: [`StoreError::TakenOver`] or
    /// [`StoreError::Broken`].
    Stopped(StoreError),
}
