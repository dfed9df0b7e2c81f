//! The engine for one machine: SQLite in one file.
//!
//! ```text
//! tasks ──jobs (bounded)──▶ one thread, one connection ──▶ store.sqlite, store.sqlite-wal
//! ```
//!
//! One thread owns the one connection, so statements are serial and never wait for a lock. The file
//! is in WAL mode with `synchronous=FULL`: a commit is on the disk when it is answered.
//! `locking_mode=EXCLUSIVE` holds the file for the connection's life, so that a second process is
//! refused when it opens the file, and deleted rows are overwritten (`secure_delete`).

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::mpsc::{SyncSender, TrySendError, sync_channel},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use clarion_proto::ids::{Epoch, LogId, Position};
use clarion_runtime::world::Clock;
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::timeout};

use self::{connection::Opened, worker::Worker};
use super::sql::{Engine, EngineError, Flush, Flushed, ReadError, Row, Statement, StoredBatch};

mod connection;
mod problem;
#[cfg(test)]
mod tests;
mod worker;

/// Maximum number of statements that wait for the thread.
const JOBS_MAX: usize = 1_024;
/// Longest time that a caller waits for a statement.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A SQLite file and the thread that owns it.
pub struct SqliteEngine {
    path: PathBuf,
    jobs: SyncSender<Job>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

/// What the thread is asked to do, with the way to answer.
enum Job {
    /// Runs a statement and commits it.
    Run(Statement, oneshot::Sender<Result<Vec<Row>, EngineError>>),
    Migrate(Vec<Statement>, oneshot::Sender<Result<(), EngineError>>),
    Lead([u8; 16], oneshot::Sender<Result<Epoch, EngineError>>),
    Flush(Flush, oneshot::Sender<Result<Vec<Flushed>, EngineError>>),
    Read(Vec<(LogId, Position)>, usize, oneshot::Sender<Result<Vec<StoredBatch>, ReadError>>),
    /// Moves the WAL into the file and empties it.
    Scrub(oneshot::Sender<Result<(), EngineError>>),
    /// Ends the thread; answered when the file is closed.
    Close(oneshot::Sender<()>),
}

impl SqliteEngine {
    /// Opens a file, or creates it with access for its owner only.
    ///
    /// # Errors
    /// The file cannot be opened or written, another process holds it, or it is not a store of this
    /// program. The text says what to do.
    pub async fn open(path: &Path, clock: Clock) -> Result<Self, EngineError> {
        let (jobs, queue) = sync_channel(JOBS_MAX);
        let (opened, result) = oneshot::channel();
        let file = path.to_owned();
        let work = move || {
            let opened_file = match Opened::open(&file) {
                Ok(connection) => connection,
                Err(error) => return drop(opened.send(Err(error))),
            };
            if opened.send(Ok(())).is_ok() {
                Worker::run(opened_file, &queue, clock);
            }
        };
        let spawned = thread::Builder::new().name("sqlite".to_owned()).spawn(work);
        let thread = spawned.map_err(|error: io::Error| {
            EngineError::Away(format!("cannot start the thread of {}: {error}", path.display()))
        })?;
        let ended = |_| EngineError::Broken(format!("the thread of {} ended", path.display()));
        result.await.map_err(ended)??;
        Ok(Self { path: path.to_owned(), jobs, thread: Mutex::new(Some(thread)) })
    }

    /// Gives a job to the thread and waits for the answer. `None`: there was none in time, or the
    /// thread has ended meanwhile.
    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<T>) -> Job,
    ) -> Result<Option<T>, EngineError> {
        let (answer, answered) = oneshot::channel();
        self.jobs.try_send(job(answer)).map_err(|error| match error {
            TrySendError::Full(_) => EngineError::Busy(format!(
                "{JOBS_MAX} statements wait for {}; its disk is slow",
                self.path.display()
            )),
            TrySendError::Disconnected(_) => {
                EngineError::Away(format!("{} was closed", self.path.display()))
            }
        })?;
        Ok(timeout(ANSWER_MAX, answered).await.ok().and_then(Result::ok))
    }

    fn no_answer(&self) -> String {
        format!("no answer from {} within {} s", self.path.display(), ANSWER_MAX.as_secs())
    }
}

#[async_trait]
impl Engine for SqliteEngine {
    async fn query(&self, statement: Statement) -> Result<Vec<Row>, EngineError> {
        let answer = self.ask(|answer| Job::Run(statement, answer)).await?;
        answer.unwrap_or_else(|| Err(EngineError::Away(self.no_answer())))
    }

    async fn execute(&self, statement: Statement) -> Result<Vec<Row>, EngineError> {
        let answer = self.ask(|answer| Job::Run(statement, answer)).await?;
        answer.unwrap_or_else(|| Err(EngineError::Unknown(self.no_answer())))
    }

    async fn migrate(&self, statements: Vec<Statement>) -> Result<(), EngineError> {
        let answer = self.ask(|answer| Job::Migrate(statements, answer)).await?;
        answer.unwrap_or_else(|| Err(EngineError::Unknown(self.no_answer())))
    }

    async fn lead(&self, incarnation: [u8; 16]) -> Result<Epoch, EngineError> {
        let answer = self.ask(|answer| Job::Lead(incarnation, answer)).await?;
        answer.unwrap_or_else(|| Err(EngineError::Unknown(self.no_answer())))
    }

    async fn flush(&self, flush: Flush) -> Result<Vec<Flushed>, EngineError> {
        let answer = self.ask(|answer| Job::Flush(flush, answer)).await?;
        answer.unwrap_or_else(|| Err(EngineError::Unknown(self.no_answer())))
    }

    async fn read(
        &self,
        after: Vec<(LogId, Position)>,
        bytes_max: usize,
    ) -> Result<Vec<StoredBatch>, ReadError> {
        let answer = self.ask(|answer| Job::Read(after, bytes_max, answer)).await?;
        answer.unwrap_or_else(|| Err(EngineError::Away(self.no_answer()).into()))
    }

    /// A deleted row is overwritten in the file (`secure_delete`), and stays in the WAL until the
    /// WAL is emptied.
    async fn scrub(&self) -> Result<(), EngineError> {
        let answer = self.ask(Job::Scrub).await?;
        answer.unwrap_or_else(|| Err(EngineError::Away(self.no_answer())))
    }

    async fn close(&self) {
        let closed = self.ask(Job::Close).await;
        let thread = self.thread.lock().take();
        // The thread has nothing left to do after its answer.
        if let (Ok(Some(())), Some(thread)) = (closed, thread)
            && thread.join().is_err()
        {
            tracing::error!(path = %self.path.display(), "thread of the store panicked");
        }
    }
}

impl fmt::Debug for SqliteEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteEngine").field("path", &self.path).finish_non_exhaustive()
    }
}
