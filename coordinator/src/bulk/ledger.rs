//! Acknowledged rows: counted, shown, and passed on to the journal.

use tokio::sync::mpsc;

use super::{
    batch::{Batch, Outcome},
    journal::{Entry, Mark},
    progress::Progress,
};

/// Number of rejects that are shown if no file takes them.
const SHOWN_MAX: u64 = 10;

/// What takes acknowledged batches.
pub(super) trait Acknowledged {
    /// Takes the rows of an acknowledged batch.
    ///
    /// # Errors
    /// Nothing more can be acknowledged.
    async fn take(&mut self, batch: &Batch, outcome: Outcome) -> Result<(), JournalEnded>;

    /// Tells of trouble that passes.
    fn say(&self, text: &str);
}

/// Acknowledged rows of an import.
pub(super) struct Ledger {
    mark: Mark,
    journal: mpsc::Sender<Entry>,
    progress: Progress,
    /// Names of the files of devices, if rejects are shown.
    shown: Option<Vec<String>>,
}

/// The journal has ended; its thread knows why.
#[derive(Debug)]
pub(super) struct JournalEnded;

impl Ledger {
    /// Begins behind a mark. `shown`: names of the files, if rejects are shown and not written.
    pub(super) fn new(
        mark: Mark,
        journal: mpsc::Sender<Entry>,
        progress: Progress,
        shown: Option<Vec<String>>,
    ) -> Self {
        Self { mark, journal, progress, shown }
    }

    /// Ends the journal, and returns the mark behind the last rows.
    pub(super) fn finish(self) -> Mark {
        self.progress.finish();
        self.mark
    }
}

impl Acknowledged for Ledger {
    /// Waits while the disk is slow.
    async fn take(&mut self, batch: &Batch, outcome: Outcome) -> Result<(), JournalEnded> {
        let Outcome { rejects, written, warned } = outcome;
        if let Some(files) = &self.shown {
            let left = SHOWN_MAX.saturating_sub(self.mark.counts.rejected);
            for reject in rejects.iter().take(usize::try_from(left).unwrap_or_default()) {
                let file = files.get(batch.file).map_or("", String::as_str);
                let column = reject.fault.column.map_or("row", |column| column.name());
                let reason = &reject.fault.reason;
                self.progress.say(&format!("{file}:{}: {column}: {reason}", reject.row));
            }
        }
        self.mark.counts.written += written;
        self.mark.counts.rejected += rejects.len() as u64;
        self.mark.counts.warned += warned;
        (self.mark.file, self.mark.at) = (batch.file, batch.end);
        self.progress.advance(batch.file, batch.end, self.mark.counts);
        let entry = Entry { mark: self.mark.clone(), file: batch.file, rejects };
        self.journal.send(entry).await.map_err(|_| JournalEnded)
    }

    fn say(&self, text: &str) {
        self.progress.say(&format!("import: {text}"));
    }
}
