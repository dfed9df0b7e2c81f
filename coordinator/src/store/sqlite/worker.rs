//! The thread that owns the connection: one job after another.

use std::{collections::BTreeMap, path::Path, sync::mpsc::Receiver};

use bytes::Bytes;
use clarion_proto::ids::{Epoch, LogId, Position, UnixMillis};
use clarion_runtime::world::Clock;
use rusqlite::{
    Connection, Error, ErrorCode,
    types::{ToSqlOutput, ValueRef},
};

use super::{Job, connection::Opened, problem::engine_error};
use crate::store::sql::{
    EngineError, Flush, FlushBatch, Flushed, ReadError, Row, Statement, StoredBatch, Value,
    next_link,
};

/// Names of parameters: statements have at most as many.
const NAMES: [&str; 16] = [
    "$1", "$2", "$3", "$4", "$5", "$6", "$7", "$8", "$9", "$10", "$11", "$12", "$13", "$14", "$15",
    "$16",
];

const EPOCH: &str = "SELECT epoch FROM chief WHERE id = 1";
const LEAD: &str = "UPDATE chief SET epoch = epoch + 1, incarnation = $1, counter = 0 \
     WHERE id = 1 RETURNING epoch";
const HEAD: &str = "SELECT position, appended, records, chain FROM log_head WHERE log = $1";
const MOVE_HEAD: &str = "UPDATE log_head SET position = $2, appended = $3, records = $4, \
     bytes = bytes + $5, chain = $6 WHERE log = $1";
const APPEND: &str = "INSERT INTO batch (log, position, appended, records_until, producer, number, \
     digest, chain, records) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
/// Moves the WAL into the file and cuts it to no bytes. No other connection reads, so that nothing
/// keeps any of it back.
const CHECKPOINT: &str = "PRAGMA wal_checkpoint(TRUNCATE)";
const FLUSHED: &str = "SELECT 1 FROM batch WHERE producer = $1 AND number = $2 LIMIT 1";
const READ: &str = "SELECT batch.position, batch.appended, batch.records_until, batch.digest, \
     batch.chain, former.chain, batch.records FROM batch \
     LEFT JOIN batch AS former ON former.log = batch.log AND former.position = batch.position - 1 \
     WHERE batch.log = $1 AND batch.position > $2 ORDER BY batch.position";

/// The connection, with the statements that were prepared on it.
pub(super) struct Worker<'c> {
    path: &'c Path,
    connection: &'c Connection,
    clock: Clock,
    /// Prepared statements by their texts, of which the program has a fixed number.
    prepared: BTreeMap<&'static str, rusqlite::Statement<'c>>,
}

impl Worker<'_> {
    /// Does jobs until it is told to close, or until nobody can give any.
    pub(super) fn run(opened: Opened, jobs: &Receiver<Job>, clock: Clock) {
        let Opened { path, connection } = opened;
        let mut worker =
            Worker { path: &path, connection: &connection, clock, prepared: BTreeMap::new() };
        let mut closed = None;
        for job in jobs {
            match worker.job(job) {
                None => {}
                answer => {
                    closed = answer;
                    break;
                }
            }
        }
        drop(worker);
        if let Err((_, error)) = connection.close() {
            tracing::error!(path = %path.display(), %error, "store file not closed in order");
        }
        if let Some(closed) = closed {
            let _ = closed.send(());
        }
    }

    /// Does one job, unless its caller is gone. `Some`: the job is to close.
    fn job(&mut self, job: Job) -> Option<tokio::sync::oneshot::Sender<()>> {
        match job {
            Job::Run(statement, answer) if !answer.is_closed() => {
                let rows = self.rows(&statement);
                let _ = answer.send(rows.map_err(|error| self.error(&error)));
            }
            Job::Migrate(statements, answer) if !answer.is_closed() => {
                let done = self.transaction(|worker| {
                    statements.iter().try_for_each(|statement| worker.rows(statement).map(drop))
                });
                let _ = answer.send(done.map_err(|error| self.error(&error)));
            }
            Job::Lead(incarnation, answer) if !answer.is_closed() => {
                let _ = answer.send(self.lead(incarnation));
            }
            Job::Flush(flush, answer) if !answer.is_closed() => {
                let _ = answer.send(self.flush(&flush));
            }
            Job::Read(after, bytes_max, answer) if !answer.is_closed() => {
                let _ = answer.send(self.read(&after, bytes_max));
            }
            Job::Scrub(answer) if !answer.is_closed() => {
                let emptied = self.each(CHECKPOINT, &[], |_, _| Ok(true));
                let _ = answer.send(emptied.map_err(|error| self.error(&error)));
            }
            Job::Close(closed) => return Some(closed),
            Job::Run(..)
            | Job::Migrate(..)
            | Job::Lead(..)
            | Job::Flush(..)
            | Job::Read(..)
            | Job::Scrub(..) => {}
        }
        None
    }

    fn error(&self, error: &Error) -> EngineError {
        engine_error(self.path, error, true)
    }

    /// Runs a statement to its end. Outside of a transaction its end is its commit.
    fn rows(&mut self, statement: &Statement) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        self.each(statement.text, &statement.values, |row, columns| {
            let values = (0..columns).map(|column| row.get_ref(column).map(value));
            rows.push(Row(values.collect::<Result<_, _>>()?));
            Ok(true)
        })?;
        Ok(rows)
    }

    /// Runs a statement and gives each row to `take`, with the number of columns, until `take`
    /// returns false.
    fn each(
        &mut self,
        text: &'static str,
        values: &[Value],
        mut take: impl FnMut(&rusqlite::Row<'_>, usize) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        if !self.prepared.contains_key(text) {
            self.prepared.insert(text, self.connection.prepare(text)?);
        }
        let prepared = self.prepared.get_mut(text).expect("just prepared");
        for (name, value) in NAMES.iter().zip(values) {
            // `$n` is a name to SQLite: its index is that of its first use.
            if let Some(index) = prepared.parameter_index(name)? {
                prepared.raw_bind_parameter(index, Bound(value))?;
            }
        }
        let columns = prepared.column_count();
        let mut rows = prepared.raw_query();
        let mut step = || -> Result<(), Error> {
            while let Some(row) = rows.next()? {
                if !take(row, columns)? {
                    break;
                }
            }
            Ok(())
        };
        let stepped = step();
        drop(rows);
        // The copies of the values are not kept until the text is used again.
        prepared.clear_bindings();
        stepped
    }

    /// Runs `work` in a transaction: it is committed if `work` succeeds.
    fn transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.each("BEGIN IMMEDIATE", &[], |_, _| Ok(true))?;
        let result = work(self).and_then(|done| {
            self.each("COMMIT", &[], |_, _| Ok(true))?;
            Ok(done)
        });
        // Some errors end the transaction by themselves.
        if result.is_err() && !self.connection.is_autocommit() {
            self.each("ROLLBACK", &[], |_, _| Ok(true))?;
        }
        result
    }

    fn lead(&mut self, incarnation: [u8; 16]) -> Result<Epoch, EngineError> {
        let lead = Statement::new(LEAD).bytes(incarnation.to_vec());
        let rows = self.rows(&lead).map_err(|error| self.error(&error))?;
        let row = rows.first().ok_or_else(|| {
            EngineError::Broken(format!(
                "{} has no row of the process that writes: restore it from a backup",
                self.path.display()
            ))
        })?;
        row.unsigned(0).map(Epoch)
    }

    fn flush(&mut self, flush: &Flush) -> Result<Vec<Flushed>, EngineError> {
        let epoch = self.rows(&Statement::new(EPOCH)).map_err(|error| self.error(&error))?;
        let stored = Epoch(epoch.first().map_or(Ok(0), |row| row.unsigned(0))?);
        if stored != flush.epoch {
            return Err(EngineError::Fenced { stored });
        }
        let now = self.clock.wall();
        let flushed = self.transaction(|worker| {
            let append = |batch| worker.append(flush, batch, now);
            flush.batches.iter().map(append).collect::<Result<Vec<_>, _>>()
        });
        flushed.map_err(|error| {
            if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) {
                return EngineError::Duplicate;
            }
            let problem = self.error(&error);
            // A commit that failed is rolled back. What can be read now tells the outcome.
            let ask = Statement::new(FLUSHED).bytes(flush.producer.to_vec()).integer(flush.number);
            match (problem, self.rows(&ask)) {
                (EngineError::Unknown(reason), Ok(rows)) if rows.is_empty() => {
                    EngineError::Away(reason)
                }
                (problem, _) => problem,
            }
        })
    }

    /// Appends one batch within the transaction of its flush.
    fn append(
        &mut self,
        flush: &Flush,
        batch: &FlushBatch,
        now: UnixMillis,
    ) -> Result<Flushed, Error> {
        let log = Value::Integer(batch.log.0.into());
        let mut head = None;
        self.each(HEAD, std::slice::from_ref(&log), |row, _| {
            let chain: [u8; 32] = row.get(3)?;
            head =
                Some((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?, chain));
            Ok(true)
        })?;
        let (position, appended, records, chain) = head.ok_or(Error::QueryReturnedNoRows)?;
        let position = position + 1;
        let now = i64::try_from(now.0).unwrap_or(i64::MAX);
        // Times must not decrease with growing positions; the wall clock may be set back.
        let appended = appended.max(now);
        let records = records + i64::try_from(batch.count).unwrap_or(i64::MAX);
        let chain = next_link(&chain, &batch.digest);
        let bytes = |bytes: &[u8]| Value::Bytes(Bytes::copy_from_slice(bytes));
        let insert = Statement::new(APPEND).integer(batch.log.0).integer(position);
        let insert = insert.integer(appended).integer(records).bytes(flush.producer.to_vec());
        let mut insert = insert.integer(flush.number);
        insert.values.extend([bytes(&batch.digest), bytes(&chain)]);
        insert.values.push(Value::Bytes(batch.records.clone()));
        self.rows(&insert)?;
        let update = Statement::new(MOVE_HEAD).integer(batch.log.0).integer(position);
        let mut update = update.integer(appended).integer(records).integer(batch.bytes);
        update.values.push(bytes(&chain));
        self.rows(&update)?;
        Ok(Flushed {
            log: batch.log,
            position: Position(position.cast_unsigned()),
            appended: UnixMillis(appended.cast_unsigned()),
            records_until: records.cast_unsigned(),
            chain,
        })
    }

    fn read(
        &mut self,
        after: &[(LogId, Position)],
        bytes_max: usize,
    ) -> Result<Vec<StoredBatch>, ReadError> {
        let (mut found, mut left) = (Vec::new(), bytes_max);
        for &(log, after) in after {
            let mut position = after;
            let asked = Statement::new(READ).integer(log.0).integer(after.0);
            let read = self.each(READ, &asked.values, |row, _| {
                let batch = stored(log, row)?;
                let bytes = batch.records.len();
                if left == 0 || (bytes > left && !found.is_empty()) {
                    return Ok(false);
                }
                left = left.saturating_sub(bytes);
                position = batch.flushed.position;
                found.push(batch);
                Ok(true)
            });
            match read {
                Ok(()) => {}
                // The error comes when the log is the first that is asked for.
                Err(_) if !found.is_empty() => break,
                Err(error) if is_damage(&error) => {
                    let (position, problem) = (Position(position.0 + 1), error.to_string());
                    return Err(ReadError::Damaged { log, position, problem });
                }
                Err(error) => return Err(engine_error(self.path, &error, false).into()),
            }
            if left == 0 {
                break;
            }
        }
        Ok(found)
    }
}

/// Errors of the disk that concern single blocks.
const UNREADABLE: [i32; 4] = [
    rusqlite::ffi::SQLITE_IOERR_READ,
    rusqlite::ffi::SQLITE_IOERR_SHORT_READ,
    rusqlite::ffi::SQLITE_IOERR_CORRUPTFS,
    rusqlite::ffi::SQLITE_IOERR_DATA,
];

/// Whether rows cannot be read because the file has other bytes than were written, or the disk
/// cannot read them.
fn is_damage(error: &Error) -> bool {
    match error.sqlite_error() {
        Some(error) => {
            error.code == ErrorCode::DatabaseCorrupt || UNREADABLE.contains(&error.extended_code)
        }
        // A column has another type than was written.
        None => true,
    }
}

fn stored(log: LogId, row: &rusqlite::Row<'_>) -> Result<StoredBatch, Error> {
    let number = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    Ok(StoredBatch {
        flushed: Flushed {
            log,
            position: Position(number(0)?),
            appended: UnixMillis(number(1)?),
            records_until: number(2)?,
            chain: row.get(4)?,
        },
        digest: row.get(3)?,
        before: row.get(5)?,
        records: Bytes::copy_from_slice(row.get_ref(6)?.as_blob()?),
    })
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Bytes(Bytes::copy_from_slice(bytes)),
        // No column has numbers with a fraction.
        ValueRef::Null | ValueRef::Real(_) => Value::Null,
    }
}

/// A parameter as SQLite takes it, without a copy of its bytes.
struct Bound<'a>(&'a Value);

impl rusqlite::ToSql for Bound<'_> {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>, Error> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Bytes(bytes) => ValueRef::Blob(bytes),
            Value::Null => ValueRef::Null,
        }))
    }
}
