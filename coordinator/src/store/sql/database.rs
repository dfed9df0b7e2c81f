//! A database with this process's epoch in it: what its errors mean, and how it is.

use std::sync::atomic::{AtomicBool, Ordering};

use clarion_proto::{
    ids::{Epoch, LogIdentity},
    time::Time,
};
use clarion_runtime::{repeated::Repeated, world::Clock};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    Condition,
    engine::{Engine, EngineError, Flush, Flushed, ReadError, Row, Statement},
};
use crate::store::StoreError;

/// Number of times that an operation is tried whose outcome was unknown or that lost a race.
pub(super) const TRIES: usize = 3;

/// A write that changes nothing: it succeeds when the database takes writes again.
const TOUCH: &str = "UPDATE meta SET value = value \
     WHERE (SELECT epoch FROM chief WHERE id = 1) = $1 AND key = 'schema_version' RETURNING key";

/// An engine that this process writes to under its epoch.
#[derive(Debug)]
pub(super) struct Database<E> {
    engine: E,
    epoch: Epoch,
    identity: LogIdentity,
    clock: Clock,
    condition: watch::Sender<Condition>,
    /// Whether the newest write failed. A full disk is still read, and is away all the same.
    write_failed: AtomicBool,
    away: Mutex<Logged>,
}

/// What was logged of a database that does not answer.
#[derive(Debug, Default)]
struct Logged {
    repeated: Repeated,
    /// Whether a line tells that it is away, and none yet that it answers again.
    open: bool,
}

/// Attempts of one operation, of which an earlier one may have been committed.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    unknown: Option<String>,
}

impl Attempts {
    /// Takes the result of an attempt. True: it changed a row for certain.
    pub(super) fn changed(&mut self, written: Written) -> bool {
        match written {
            Written::Rows(rows) => !rows.is_empty(),
            Written::Unknown(reason) => {
                self.unknown = Some(reason);
                false
            }
        }
    }

    /// Whether an attempt may have been committed without this process's knowing.
    pub(super) fn maybe_done(&self) -> bool {
        self.unknown.is_some()
    }

    /// The error of an operation that has no outcome after [`TRIES`] attempts.
    pub(super) fn exhausted(self, name: &impl std::fmt::Display) -> StoreError {
        StoreError::Away(match self.unknown {
            Some(reason) => format!("{reason}; the change of {name} may have been stored"),
            None => format!("{name} changed during {TRIES} attempts"),
        })
    }
}

/// What is known of a write.
#[derive(Debug)]
pub(super) enum Written {
    /// The write was committed, and these are its rows. Without a row it changed nothing.
    Rows(Vec<Row>),
    /// The write may have been committed.
    Unknown(String),
}

impl<E: Engine> Database<E> {
    pub(super) fn new(engine: E, epoch: Epoch, identity: LogIdentity, clock: Clock) -> Self {
        Self {
            engine,
            epoch,
            identity,
            clock,
            condition: watch::Sender::new(Condition::Up),
            write_failed: AtomicBool::new(false),
            away: Mutex::default(),
        }
    }

    pub(super) fn engine(&self) -> &E {
        &self.engine
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Identity of the logs, drawn when the store was created.
    pub(super) fn identity(&self) -> LogIdentity {
        self.identity
    }

    pub(super) fn condition(&self) -> watch::Receiver<Condition> {
        self.condition.subscribe()
    }

    /// Returns the rows of a statement that reads.
    pub(super) async fn read(&self, statement: Statement) -> Result<Vec<Row>, StoreError> {
        self.usable()?;
        self.noted(self.engine.query(statement).await)
    }

    /// Runs a statement that writes. Its text has to hold [`FENCE`](super::FENCE).
    pub(super) async fn write(&self, statement: Statement) -> Result<Written, StoreError> {
        self.usable()?;
        debug_assert!(statement.text.contains(super::FENCE), "{}", statement.text);
        let written = self.engine.execute(statement).await;
        self.write_failed.store(written.is_err(), Ordering::Relaxed);
        match written {
            Err(EngineError::Unknown(reason)) => {
                self.turn(Condition::Away(reason.clone()));
                Ok(Written::Unknown(reason))
            }
            known => self.noted(known).map(Written::Rows),
        }
    }

    /// Starts a statement that writes, with the epoch as its first parameter.
    pub(super) fn fenced(&self, text: &'static str) -> Statement {
        Statement::new(text).integer(self.epoch.0)
    }

    /// Refuses if another process writes meanwhile: the reason why a fenced statement may have
    /// changed nothing.
    pub(super) async fn check_chief(&self) -> Result<(), StoreError> {
        let rows = self.read(Statement::new("SELECT epoch FROM chief WHERE id = 1")).await?;
        let stored = rows.first().map_or(Ok(0), |row| row.unsigned(0));
        let stored = Epoch(self.noted(stored)?);
        if stored == self.epoch {
            return Ok(());
        }
        self.noted(Err(EngineError::Fenced { stored }))
    }

    /// Makes sure that the database's own files have nothing of rows that were deleted before.
    pub(super) async fn scrub(&self) -> Result<(), StoreError> {
        self.noted(self.engine.scrub().await)
    }

    /// Asks the database whether it answers, and takes writes if the newest one failed.
    pub(super) async fn probe(&self) {
        let answer = match self.write_failed.load(Ordering::Relaxed) {
            true => self.write(self.fenced(TOUCH)).await.map(drop),
            false => self.check_chief().await,
        };
        // The condition tells it.
        drop(answer);
    }

    /// Appends a flush; the error is as the engine gave it, because the outcome may be unknown.
    pub(super) async fn flush(&self, flush: Flush) -> Result<Vec<Flushed>, EngineError> {
        let flushed = self.engine.flush(flush).await;
        self.write_failed.store(flushed.is_err(), Ordering::Relaxed);
        match &flushed {
            Err(EngineError::Duplicate) => {}
            Err(error) => drop(self.noted::<()>(Err(error.clone()))),
            Ok(_) => self.turn(Condition::Up),
        }
        flushed
    }

    /// Ends all use of the store: it is not what this process wrote.
    pub(super) fn stop(&self, error: StoreError) {
        self.turn(Condition::Stopped(error));
    }

    /// The error of a store that cannot be used any more.
    pub(super) fn usable(&self) -> Result<(), StoreError> {
        match &*self.condition.borrow() {
            Condition::Stopped(error) => Err(error.clone()),
            Condition::Up | Condition::Away(_) => Ok(()),
        }
    }

    /// The store's error for an engine's error, which is noted in the condition.
    pub(super) fn error(&self, error: EngineError) -> StoreError {
        let error = match error {
            EngineError::Away(reason) => StoreError::Away(reason),
            EngineError::Busy(reason) => StoreError::Busy(reason),
            EngineError::Unknown(reason) => {
                StoreError::Away(format!("{reason}; the change may have been stored"))
            }
            EngineError::Duplicate => StoreError::Conflict("flush".to_owned()),
            EngineError::Fenced { stored } => StoreError::TakenOver { stored, epoch: self.epoch },
            EngineError::Broken(reason) => StoreError::Broken(reason),
        };
        match &error {
            StoreError::TakenOver { .. } | StoreError::Broken(_) => self.stop(error.clone()),
            StoreError::Away(reason) | StoreError::Busy(reason) => {
                self.turn(Condition::Away(reason.clone()));
            }
            _ => {}
        }
        error
    }

    /// The store's error for an engine's error of a read of batches.
    pub(super) fn read_error(&self, error: ReadError) -> StoreError {
        match error {
            ReadError::Damaged { log, position, problem } => {
                StoreError::Damaged { log, position, problem }
            }
            ReadError::Engine(error) => self.error(error),
        }
    }

    /// Notes the result of a statement in the condition.
    pub(super) fn noted<T>(&self, result: Result<T, EngineError>) -> Result<T, StoreError> {
        if result.is_ok() && !self.write_failed.load(Ordering::Relaxed) {
            self.turn(Condition::Up);
        }
        result.map_err(|error| self.error(error))
    }

    fn turn(&self, next: Condition) {
        self.condition.send_if_modified(|condition| {
            if matches!(condition, Condition::Stopped(_)) || *condition == next {
                return false;
            }
            self.log(&next);
            *condition = next;
            true
        });
    }

    /// Logs the next condition; a database that comes and goes is logged once a minute.
    fn log(&self, next: &Condition) {
        let mut away = self.away.lock();
        match next {
            Condition::Stopped(error) => tracing::error!(%error, "store stopped for good"),
            Condition::Away(reason) => {
                let now = self.clock.now().since(Time(0));
                if let Some(count) = away.repeated.note(reason, now) {
                    away.open = true;
                    tracing::warn!(reason, count, "store does not answer");
                }
            }
            Condition::Up => {
                if std::mem::take(&mut away.open) {
                    tracing::info!("store answers again");
                }
            }
        }
    }
}
