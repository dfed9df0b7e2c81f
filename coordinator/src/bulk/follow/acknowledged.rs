//! Acknowledged rows of a table that is followed: counted, shown, and remembered on disk.
//!
//! For each acknowledged batch the rejects are written and synced; then the resume file is
//! replaced, at most once a second. After a kill at any moment, rows behind the resume file are
//! read and written again, which changes nothing. Their rejects may be in the file twice.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clarion_proto::time::Time;
use clarion_runtime::world::Clock;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::history::Place;
use crate::bulk::{
    batch::{Batch, Outcome, Reject},
    error::ImportError,
    journal::{self, Counts},
    ledger::{Acknowledged, JournalEnded},
    progress::per_second,
};

/// Version of the resume file.
const VERSION: u32 = 1;
/// Shortest time between two resume files.
const MARK_EVERY: Duration = Duration::from_secs(1);
/// Time between two lines about progress.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Number of rejects that are shown if no file takes them.
const SHOWN_MAX: u64 = 10;
/// First line of the file of rejects.
const HEADER: &str = "key,column,reason\n";

/// How far a table is followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    version: u32,
    /// Table and cursor, and the coordinator that has the rows.
    table: String,
    cursor: String,
    to: String,
    /// Everything up to there is written for good.
    pub(super) begin: Option<Place>,
    /// The present pass has reached this place.
    pub(super) reached: Option<Place>,
    /// Rows of all runs.
    pub(super) counts: Counts,
}

/// Rows of a batch that is not acknowledged yet.
#[derive(Debug)]
pub(super) struct Sent {
    /// Keys of the rows.
    pub(super) keys: Vec<String>,
    /// Place of the last row.
    pub(super) end: Place,
}

/// Batches that are not acknowledged yet, by their numbers: at most those between the reader and
/// the coordinator.
pub(super) type AllSent = Arc<Mutex<BTreeMap<u64, Sent>>>;

/// Takes acknowledged batches.
pub(super) struct Followed {
    pub(super) mark: Mark,
    sent: AllSent,
    clock: Clock,
    resume: Option<PathBuf>,
    rejects: Option<(PathBuf, File)>,
    /// Why nothing more can be acknowledged.
    failed: Option<ImportError>,
    marked: Time,
    line: (Time, u64),
}

impl Mark {
    /// The mark of a table of which nothing is read.
    pub(super) fn start(table: &str, cursor: &str, to: &str) -> Self {
        Self {
            version: VERSION,
            table: table.to_owned(),
            cursor: cursor.to_owned(),
            to: to.to_owned(),
            begin: None,
            reached: None,
            counts: Counts::default(),
        }
    }

    /// The mark of an earlier run, or this one if there was none.
    ///
    /// # Errors
    /// The file is unreadable, or belongs to another table.
    fn resumed(self, path: &Path) -> Result<Self, ImportError> {
        let Some(mark) = journal::read_mark::<Self>(path)? else { return Ok(self) };
        let of =
            |mark: &Self| (mark.version, mark.table.clone(), mark.cursor.clone(), mark.to.clone());
        if of(&mark) != of(&self) {
            let problem = format!(
                "is of table {}, cursor {}, to {}, version {}; to read this table from the \
                 beginning, delete the file",
                mark.table, mark.cursor, mark.to, mark.version
            );
            return Err(ImportError::content(path, problem));
        }
        Ok(mark)
    }
}

impl Followed {
    /// Continues behind the resume file, and opens the file of rejects.
    ///
    /// # Errors
    /// A file cannot be used.
    pub(super) fn open(
        start: Mark,
        resume: Option<&Path>,
        rejects: Option<&Path>,
        clock: Clock,
    ) -> Result<Self, ImportError> {
        let mark = match resume {
            Some(path) => start.resumed(path)?,
            None => start,
        };
        let rejects = rejects.map(open_rejects).transpose()?;
        let (now, rows) = (clock.now(), mark.counts.written + mark.counts.rejected);
        let followed = Self {
            mark,
            sent: AllSent::default(),
            clock,
            resume: resume.map(Path::to_owned),
            rejects,
            failed: None,
            marked: now,
            line: (now, rows),
        };
        // A file that cannot be written is told now, and not after the first rows.
        followed.remember()?;
        Ok(followed)
    }

    /// Batches that are not acknowledged yet.
    pub(super) fn sent(&self) -> AllSent {
        Arc::clone(&self.sent)
    }

    /// Why nothing more can be acknowledged.
    pub(super) fn failure(&mut self) -> ImportError {
        let ended = || ImportError::Broken("an answer came twice".to_owned());
        self.failed.take().unwrap_or_else(ended)
    }

    /// Notes that a pass is complete, and where the next one begins.
    ///
    /// # Errors
    /// The resume file cannot be written.
    pub(super) fn completed(&mut self, begin: Option<&Place>) -> Result<(), ImportError> {
        let is_new = self.mark.begin.as_ref() != begin || self.mark.reached.is_some();
        (self.mark.begin, self.mark.reached) = (begin.cloned(), None);
        if is_new { self.remember() } else { Ok(()) }
    }

    fn remember(&self) -> Result<(), ImportError> {
        self.resume.as_deref().map_or(Ok(()), |path| journal::replace(path, &self.mark))
    }

    fn note(&mut self, keys: &[String], end: Place, outcome: Outcome) -> Result<(), ImportError> {
        let Outcome { rejects, written, warned } = outcome;
        self.reject(keys, &rejects)?;
        self.mark.counts.written += written;
        self.mark.counts.rejected += rejects.len() as u64;
        self.mark.counts.warned += warned;
        let now = self.clock.now();
        let (then, rows_then) = self.line;
        if now.since(then) >= LINE_EVERY {
            let Counts { written, rejected, .. } = self.mark.counts;
            let rate = per_second(written + rejected - rows_then, now.since(then));
            let cursor = &end.cursor;
            self.say(&format!(
                "{written} rows written, {rejected} rejected, up to {cursor}, {rate} rows/s"
            ));
            self.line = (now, written + rejected);
        }
        self.mark.reached = Some(end);
        if now.since(self.marked) >= MARK_EVERY {
            self.marked = now;
            self.remember()?;
        }
        Ok(())
    }

    fn reject(&mut self, keys: &[String], rejects: &[Reject]) -> Result<(), ImportError> {
        let of = |reject: &Reject| {
            let index = usize::try_from(reject.row).unwrap_or(usize::MAX);
            let key = keys.get(index).map_or("", String::as_str).to_owned();
            let column = reject.fault.column.map_or("", |column| column.name());
            (key, column)
        };
        let Some((path, file)) = &mut self.rejects else {
            let left = SHOWN_MAX.saturating_sub(self.mark.counts.rejected);
            for reject in rejects.iter().take(usize::try_from(left).unwrap_or_default()) {
                let (key, column) = of(reject);
                self.say(&format!("row {key}: {column}: {}", reject.fault.reason));
            }
            return Ok(());
        };
        if rejects.is_empty() {
            return Ok(());
        }
        let mut lines = String::new();
        for reject in rejects {
            let (key, column) = of(reject);
            let (key, reason) = (journal::quoted(&key), journal::quoted(&reject.fault.reason));
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "{key},{column},{reason}");
        }
        let wrote = file.write_all(lines.as_bytes()).and_then(|()| file.sync_data());
        wrote.map_err(|e| ImportError::file(path, "written", e))
    }
}

impl Acknowledged for Followed {
    async fn take(&mut self, batch: &Batch, outcome: Outcome) -> Result<(), JournalEnded> {
        let Some(Sent { keys, end }) = self.sent.lock().remove(&batch.id) else {
            return Err(JournalEnded);
        };
        self.note(&keys, end, outcome).map_err(|error| {
            self.failed = Some(error);
            JournalEnded
        })
    }

    fn say(&self, text: &str) {
        // Without a reader of standard error there is nobody to tell.
        drop(writeln!(std::io::stderr(), "follow: {text}"));
    }
}

fn open_rejects(path: &Path) -> Result<(PathBuf, File), ImportError> {
    let failed = |error| ImportError::file(path, "written", error);
    let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() == 0 {
        file.write_all(HEADER.as_bytes()).map_err(failed)?;
    }
    Ok((path.to_owned(), file))
}
