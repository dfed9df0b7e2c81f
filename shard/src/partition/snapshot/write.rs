//! The writer of snapshots, which writes a section at a time while records are applied.

use std::collections::BTreeMap;

use clarion_proto::ids::{Ordinal, Position};
use xxhash_rust::xxh3::Xxh3;

use super::{
    super::{Partition, vocabulary::Vocabulary},
    COPIES_MAX, ROWS_PER_SECTION,
    columns::{Columns, spell},
    entry::Entry,
    frame::{self, Kind},
};

/// Most entries of a section of resting ordinals or of the expiry queue.
const ENTRIES_PER_SECTION: usize = 65_536;

/// A copy of a row as it was at the start of the snapshot.
struct Copied {
    entry: Entry<'static>,
    /// Content of the token; the content in the entry is empty.
    content: Box<[u8]>,
}

/// State of a partition for the snapshot that is being written.
pub(in super::super) struct Saving {
    number: u64,
    /// First ordinal whose row is not written yet.
    next: u32,
    /// First ordinal that was not assigned at the start of the snapshot.
    end: u32,
    /// Copies of unwritten rows that have changed; `None` for an ordinal that had no row.
    copies: BTreeMap<u32, Option<Copied>>,
    copies_max: usize,
    overrun: bool,
}

/// Writer of one snapshot, with its progress and the tables of the compression.
pub struct SnapshotWriter {
    number: u64,
    rows_per_section: u32,
    section: u32,
    rows: u64,
    hash: Xxh3,
    compressor: zstd::bulk::Compressor<'static>,
    is_done: bool,
}

/// Reason why a snapshot cannot be finished. The caller begins another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// More rows changed than copies may be kept.
    #[error("more than {COPIES_MAX} rows changed before they were written")]
    Overrun,
    /// Another snapshot of this partition was begun.
    #[error("another snapshot was started")]
    Replaced,
}

impl Partition {
    /// Begins a snapshot of the present state, with the log applied up to `position`, and writes
    /// its first sections. It cancels an earlier snapshot that is not finished.
    pub fn begin_snapshot(
        &mut self,
        position: Position,
        words: &Vocabulary,
        out: &mut Vec<u8>,
    ) -> SnapshotWriter {
        self.begin_snapshot_with(position, words, (COPIES_MAX, ROWS_PER_SECTION), out)
    }

    /// Ends the snapshot that is being written, finished or not: no copies are kept for it.
    pub fn end_snapshot(&mut self) {
        self.saving = None;
    }

    /// Begins a snapshot with other bounds, for tests.
    pub(crate) fn begin_snapshot_with(
        &mut self,
        position: Position,
        words: &Vocabulary,
        (copies_max, rows_per_section): (usize, u32),
        out: &mut Vec<u8>,
    ) -> SnapshotWriter {
        let number = self.saving.as_ref().map_or(0, |saving| saving.number) + 1;
        let end = self.rows.unused();
        self.saving = Some(Box::new(Saving {
            number,
            next: 0,
            end,
            copies: BTreeMap::new(),
            copies_max,
            overrun: false,
        }));
        let hash = Xxh3::new();
        let compressor = frame::compressor();
        let mut writer = SnapshotWriter {
            number,
            rows_per_section,
            section: 0,
            rows: 0,
            hash,
            compressor,
            is_done: false,
        };
        let head = frame::file_head(self.id);
        writer.hash.update(&head);
        out.extend_from_slice(&head);

        let resting: Vec<u64> = self.rows.saved_resting().collect();
        let mut expiry: Vec<_> = self.expiry.iter().collect();
        expiry.sort_unstable();
        let count =
            |n: usize| u32::try_from(n).expect("at most one for each ordinal").to_le_bytes();
        let mut state = Vec::new();
        state.extend_from_slice(&position.0.to_le_bytes());
        state.extend_from_slice(&self.now.0.to_le_bytes());
        state.extend_from_slice(&end.to_le_bytes());
        for counted in [resting.len(), expiry.len(), end as usize - resting.len()] {
            state.extend_from_slice(&count(counted));
        }
        let ((next, left), limits) = (self.sweep.cursor(), self.sweep.limits(words));
        state.extend_from_slice(&next.to_le_bytes());
        state.extend_from_slice(&left.to_le_bytes());
        let apps = u16::try_from(limits.len()).expect("at most one for each app");
        state.extend_from_slice(&apps.to_le_bytes());
        for (app, limit) in limits {
            spell(Some(app.id()), &mut state);
            state.extend_from_slice(&limit.bits().to_le_bytes()[..5]);
        }
        writer.write(Kind::State, &state, out);
        for entries in resting.chunks(ENTRIES_PER_SECTION) {
            let content: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
            writer.write(Kind::Resting, &content, out);
        }
        for entries in expiry.chunks(ENTRIES_PER_SECTION) {
            let mut content = Vec::with_capacity(entries.len() * 10);
            for (due, ordinal) in entries {
                content.extend_from_slice(&due.0.to_be_bytes()[2..]);
                content.extend_from_slice(&ordinal.0.to_be_bytes());
            }
            writer.write(Kind::Expiry, &content, out);
        }
        writer
    }

    /// Copies a row that a record is about to change, if the snapshot needs it.
    pub(in super::super) fn keep(&mut self, ordinal: Ordinal) {
        if self.saving.as_ref().is_some_and(|saving| saving.wants(ordinal)) {
            let copy = self.rows.get(ordinal).is_some().then(|| {
                let entry = self.entry(ordinal);
                Copied { content: entry.content().into(), entry: entry.without_content() }
            });
            self.copy(ordinal, copy);
        }
    }

    /// Marks an ordinal that is assigned for the first time as without a row in the snapshot.
    pub(in super::super) fn keep_vacant(&mut self, ordinal: Ordinal) {
        if self.saving.as_ref().is_some_and(|saving| saving.wants(ordinal)) {
            self.copy(ordinal, None);
        }
    }

    fn copy(&mut self, ordinal: Ordinal, copy: Option<Copied>) {
        let Some(saving) = &mut self.saving else { return };
        if saving.copies.len() >= saving.copies_max {
            saving.overrun = true;
            saving.copies = BTreeMap::new();
        } else {
            saving.copies.insert(ordinal.0, copy);
        }
    }

    /// Returns the entry of a row that exists.
    fn entry(&self, ordinal: Ordinal) -> Entry<'_> {
        let row = self.rows.at(ordinal);
        let registration = row.registration().map(|r| {
            let token = self.tokens.get(r.token);
            (self.profiles.get(ordinal, r.profile), token.shape(), token.content())
        });
        Entry {
            device: row.device(),
            place: row.place(),
            muted: row.is_muted(),
            scheduled: row.is_scheduled(),
            place_version: row.place_version,
            registration_version: row.registration_version,
            mute_version: self.mute_version(ordinal),
            registration: registration.ok_or(row.due().unwrap_or_default()),
        }
    }
}

impl Saving {
    fn wants(&self, ordinal: Ordinal) -> bool {
        (self.next..self.end).contains(&ordinal.0)
            && !self.overrun
            && !self.copies.contains_key(&ordinal.0)
    }
}

impl SnapshotWriter {
    /// Appends the next section. Returns false after the last one.
    ///
    /// # Errors
    /// Those of [`WriteError`].
    ///
    /// # Panics
    /// If it is called again after it returned false or an error.
    pub fn next(
        &mut self,
        partition: &mut Partition,
        words: &Vocabulary,
        out: &mut Vec<u8>,
    ) -> Result<bool, WriteError> {
        let saving = partition.saving.as_mut().filter(|saving| saving.number == self.number);
        assert!(!self.is_done, "a snapshot is finished once");
        let Some(saving) = saving else { return Err(WriteError::Replaced) };
        if saving.overrun {
            partition.saving = None;
            return Err(WriteError::Overrun);
        }
        let (from, end) = (saving.next, saving.end);
        if from == end {
            partition.saving = None;
            let content = [self.rows.to_le_bytes(), self.hash.digest().to_le_bytes()].concat();
            self.write(Kind::End, &content, out);
            self.is_done = true;
            return Ok(false);
        }
        let to = from.saturating_add(self.rows_per_section).min(end);
        let later = saving.copies.split_off(&to);
        let copies = std::mem::replace(&mut saving.copies, later);
        saving.next = to;
        let mut columns = Columns::new(from);
        for ordinal in from..to {
            match copies.get(&ordinal) {
                Some(None) => {}
                Some(Some(copied)) => columns.push(ordinal, &copied.entry, &copied.content),
                None if partition.rows.get(Ordinal(ordinal)).is_some() => {
                    let entry = partition.entry(Ordinal(ordinal));
                    columns.push(ordinal, &entry, entry.content());
                }
                None => {}
            }
        }
        self.rows += columns.rows() as u64;
        self.write(Kind::Rows, &columns.finish(words), out);
        Ok(true)
    }

    fn write(&mut self, kind: Kind, content: &[u8], out: &mut Vec<u8>) {
        let begin = out.len();
        frame::write_section(kind, self.section, content, &mut self.compressor, out);
        self.hash.update(&out[begin..]);
        self.section += 1;
    }
}
