//! What the store asks of one database of SQL.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use clarion_proto::ids::{Epoch, LogId, Position, UnixMillis};

/// One database: runs statements, appends flushes and reads batches.
///
/// An engine reconnects by itself. Every call has a deadline of the engine's own, well below a
/// minute: a database that does not answer in time is [`EngineError::Away`], or
/// [`EngineError::Unknown`] if a write may have been committed. Calls may be dropped by the caller
/// at any await; a statement that was sent goes on.
#[async_trait]
pub trait Engine: fmt::Debug + Send + Sync + 'static {
    /// Runs a statement that reads, and returns its rows.
    async fn query(&self, statement: Statement) -> Result<Vec<Row>, EngineError>;

    /// Runs a statement that writes, commits it by itself, and returns its rows (`RETURNING`).
    ///
    /// A [`Statement::serializable`] decides by rows that it does not write (the number of active
    /// alerts, the apps of an alert). Where other writers may commit meanwhile, such a statement
    /// runs at the isolation level SERIALIZABLE and is repeated after a serialization failure.
    async fn execute(&self, statement: Statement) -> Result<Vec<Row>, EngineError>;

    /// Runs statements in one transaction: all of them or none. Only for the schema and its
    /// migrations; the statements may define tables and indexes.
    ///
    /// The type `TEXT` in the definition of a table means text that is compared by bytes, so that
    /// the order of names does not depend on a locale. An engine whose `TEXT` has a locale replaces
    /// the word (PostgreSQL: `TEXT COLLATE "C"`).
    async fn migrate(&self, statements: Vec<Statement>) -> Result<(), EngineError>;

    /// Takes the role of chief: raises the epoch in `chief`, sets the incarnation, and returns the
    /// new epoch. After the return no statement of a lower epoch commits any more.
    ///
    /// An engine that several processes may open first waits long enough to see that no other
    /// chief renews its counter, and renews its own from then on.
    async fn lead(&self, incarnation: [u8; 16]) -> Result<Epoch, EngineError>;

    /// Appends one batch to each log of the flush in one transaction: all of them or none. The
    /// positions are the next of their logs, and the time is the database's clock, but not before
    /// the log's newest append. Returns the batches in the order of [`Flush::batches`].
    ///
    /// A flush that is stored already (same producer and number) is [`EngineError::Duplicate`] and
    /// changes nothing. [`EngineError::Fenced`]: the epoch is not the stored one. The caller has at
    /// most one flush under way.
    async fn flush(&self, flush: Flush) -> Result<Vec<Flushed>, EngineError>;

    /// Reads batches of several logs after the given positions, in the order of the logs given and
    /// without a gap within a log, until `bytes_max` bytes of sealed records are found; the first
    /// batch comes whatever its size. Logs without batches have no entry. Nothing is checked: the
    /// caller checks digests and chains.
    ///
    /// [`ReadError::Damaged`]: the database cannot read the rows of one log. Batches of logs before
    /// it are returned first, the error when it is the first log that has something to read.
    async fn read(
        &self,
        after: Vec<(LogId, Position)>,
        bytes_max: usize,
    ) -> Result<Vec<StoredBatch>, ReadError>;

    /// Makes sure that the engine's own files have nothing of rows that were deleted before. An
    /// engine on a server does nothing: an erased key makes what remains there unreadable.
    async fn scrub(&self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Why this process must not be ready although the database answers.
    ///
    /// # Errors
    /// The reason, with what to do.
    fn fit(&self) -> Result<(), String> {
        Ok(())
    }

    /// Finishes what is under way and closes the database. Later calls are refused as
    /// [`EngineError::Away`].
    async fn close(&self);
}

/// Value of a parameter or of a column.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// A number of type BIGINT.
    Integer(i64),
    /// A value of type TEXT.
    Text(String),
    /// Bytes of type BYTEA.
    Bytes(Bytes),
    /// No value: only in rows, never as a parameter.
    Null,
}

/// Only kind and size: values may hold tokens and places.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => write!(f, "{number}"),
            Self::Text(text) => write!(f, "text of {} bytes", text.len()),
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Null => f.write_str("null"),
        }
    }
}

/// Text of SQL with the values of its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The text: fixed, so that engines can keep it prepared.
    pub text: &'static str,
    /// Values of `$1`, `$2`, ....
    pub values: Vec<Value>,
    /// Whether the statement decides by rows that it does not write; see [`Engine::execute`].
    pub serializable: bool,
}

impl Statement {
    /// A statement without parameters.
    #[must_use]
    pub fn new(text: &'static str) -> Self {
        Self { text, values: Vec::new(), serializable: false }
    }

    /// Adds the next parameter, a BIGINT. Numbers beyond the type's range become its maximum.
    #[must_use]
    pub fn integer(mut self, value: impl TryInto<i64>) -> Self {
        self.values.push(Value::Integer(value.try_into().unwrap_or(i64::MAX)));
        self
    }

    /// Adds the next parameter, a text.
    #[must_use]
    pub fn text(mut self, value: impl Into<String>) -> Self {
        self.values.push(Value::Text(value.into()));
        self
    }

    /// Adds the next parameter, a BYTEA.
    #[must_use]
    pub fn bytes(mut self, value: impl Into<Bytes>) -> Self {
        self.values.push(Value::Bytes(value.into()));
        self
    }

    /// Marks the statement as one that decides by rows that it does not write.
    #[must_use]
    pub fn serializable(mut self) -> Self {
        self.serializable = true;
        self
    }
}

/// Row of a statement's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row(pub Vec<Value>);

impl Row {
    /// The BIGINT of a column, by its index.
    ///
    /// # Errors
    /// The column has no integer: the database is damaged or not ours.
    pub fn integer(&self, column: usize) -> Result<i64, EngineError> {
        match self.0.get(column) {
            Some(Value::Integer(number)) => Ok(*number),
            other => Err(unexpected(column, "an integer", other)),
        }
    }

    /// The BIGINT of a column as an unsigned number.
    ///
    /// # Errors
    /// The column has no integer, or a negative one.
    pub fn unsigned(&self, column: usize) -> Result<u64, EngineError> {
        let negative = |_| unexpected(column, "a number from 0", self.0.get(column));
        u64::try_from(self.integer(column)?).map_err(negative)
    }

    /// The text of a column.
    ///
    /// # Errors
    /// The column has no text: the database is damaged or not ours.
    pub fn text(&self, column: usize) -> Result<&str, EngineError> {
        match self.0.get(column) {
            Some(Value::Text(text)) => Ok(text),
            other => Err(unexpected(column, "a text", other)),
        }
    }

    /// The bytes of a column.
    ///
    /// # Errors
    /// The column has no bytes: the database is damaged or not ours.
    pub fn bytes(&self, column: usize) -> Result<&Bytes, EngineError> {
        match self.0.get(column) {
            Some(Value::Bytes(bytes)) => Ok(bytes),
            other => Err(unexpected(column, "bytes", other)),
        }
    }

    /// The SHA-256 of a column.
    ///
    /// # Errors
    /// The column has no 32 bytes: the database is damaged or not ours.
    pub fn hash(&self, column: usize) -> Result<Hash, EngineError> {
        let of_other_size = |_| unexpected(column, "32 bytes", self.0.get(column));
        self.bytes(column)?[..].try_into().map_err(of_other_size)
    }
}

fn unexpected(column: usize, expected: &str, found: Option<&Value>) -> EngineError {
    EngineError::Broken(format!(
        "a row has {found:?} in column {column} instead of {expected}: restore the database from a \
         backup"
    ))
}

/// SHA-256: of the records of a batch, or a link of the chain of a log.
pub type Hash = [u8; 32];

/// Batches that are appended together, at most one for each log.
#[derive(Debug, Clone)]
pub struct Flush {
    /// Epoch of the chief that writes.
    pub epoch: Epoch,
    /// Identity of the writing process: one process start is one producer.
    pub producer: [u8; 16],
    /// Number of the flush: from 1, one more with each flush of the producer.
    pub number: u64,
    /// The batches, ascending by log.
    pub batches: Vec<FlushBatch>,
}

/// One batch of a flush.
#[derive(Clone)]
pub struct FlushBatch {
    /// Log that the batch is appended to.
    pub log: LogId,
    /// Number of records.
    pub count: u64,
    /// Bytes by which the log grows: the sealed records and [`BATCH_BYTES`].
    pub bytes: u64,
    /// SHA-256 of the sealed records.
    pub digest: Hash,
    /// The encoded records, sealed.
    pub records: Bytes,
}

impl fmt::Debug for FlushBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log {}: {} records, {} bytes", self.log, self.count, self.records.len())
    }
}

/// Bytes that a batch is charged besides its records: its columns and its entries in two indexes.
pub const BATCH_BYTES: u64 = 256;

/// What the database made of one batch of a flush.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flushed {
    /// Log of the batch.
    pub log: LogId,
    /// Position of the batch.
    pub position: Position,
    /// Time of the append.
    pub appended: UnixMillis,
    /// Number of records in the log up to and including the batch.
    pub records_until: u64,
    /// SHA-256 of the former chain and the batch's digest.
    pub chain: Hash,
}

/// A batch as the database holds it, unchecked.
#[derive(Clone)]
pub struct StoredBatch {
    /// What the database made of the batch when it was appended.
    pub flushed: Flushed,
    /// SHA-256 of the sealed records, as it was computed before the append.
    pub digest: Hash,
    /// Chain of the batch before, if the database still holds that batch.
    pub before: Option<Hash>,
    /// The encoded records, sealed; plain if schema version 1 appended them.
    pub records: Bytes,
}

impl fmt::Debug for StoredBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {} bytes", self.flushed, self.records.len())
    }
}

/// Why an engine did not do what was asked. No text has a password, a token or a place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Nothing was written, and a retry helps: the database cannot be reached or does not answer.
    #[error("{0}")]
    Away(String),
    /// Nothing was written, and a retry helps: the database is slower than what is asked of it.
    #[error("{0}")]
    Busy(String),
    /// It is unknown whether the write was committed: the caller has to ask.
    #[error("{0}")]
    Unknown(String),
    /// The flush with this producer and number is stored already.
    #[error("the flush is stored already")]
    Duplicate,
    /// The stored epoch is not the writer's: another process is chief.
    #[error("the stored epoch is {stored}")]
    Fenced {
        /// The stored epoch.
        stored: Epoch,
    },
    /// The engine cannot go on: the database is damaged outside of a log's rows, or not ours. The
    /// process has to end.
    #[error("{0}")]
    Broken(String),
}

/// Why batches could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The database cannot read the rows of one log: only the readers of that log are concerned.
    #[error("log {log}: {problem}")]
    Damaged {
        /// Log that cannot be read.
        log: LogId,
        /// First position that cannot be read.
        position: Position,
        /// The database's words.
        problem: String,
    },
    /// The database as a whole.
    #[error(transparent)]
    Engine(#[from] EngineError),
}
