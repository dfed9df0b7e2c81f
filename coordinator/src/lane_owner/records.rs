//! Numbered records of the lane owner in the store: one operation of a key at a time, repeated
//! until it succeeds. Free of I/O.
//!
//! All records are read once at the start, and again after a conflict. The owner wants bytes under
//! a key; it learns from [`Records::stored`] that the store has them.
//!
//! | State of a key | Input | Output | Next state |
//! |---|---|---|---|
//! | idle | [`Records::put`] | – | wanted |
//! | wanted | [`Records::poll`], once all records were read | write | under way |
//! | under way | written | – | idle; wanted if other bytes are wanted by now |
//! | under way | conflict | read of all records | wanted, until the read finds the wanted bytes |
//! | under way | any other error | – | wanted, after [`PAUSE`] |
//!
//! The conflict after a lost answer is the record's own: the read finds the wanted bytes stored.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use clarion_proto::time::Time;
use clarion_runtime::repeated::Repeated;

use crate::store::{Numbered, StoreError};

/// Pause after a failed operation of the store.
const PAUSE: Duration = Duration::from_millis(500);

/// Operation of the store, for the shell to carry out.
#[derive(Debug)]
pub(crate) enum StoreOp {
    /// Read all records whose keys begin with one of [`PREFIXES`].
    Read,
    /// Replace a record.
    Write(Numbered),
    /// Delete a record.
    Delete(Numbered),
}

/// Beginnings of the keys of all records of the lane owner.
pub(crate) const PREFIXES: [&str; 2] = [super::mints::PREFIX, super::ramps::PREFIX];

/// Result of a [`StoreOp`].
#[derive(Debug)]
pub(crate) enum StoreResult {
    /// All records, or why they were not read.
    Read(Result<Vec<Numbered>, StoreError>),
    /// The record of the operation, and whether it was written.
    Written(Numbered, Result<(), StoreError>),
    /// The record of the operation, and whether it was deleted.
    Deleted(Numbered, Result<(), StoreError>),
}

#[cfg(any(test, feature = "testing"))]
impl StoreOp {
    /// Result of the operation in a store without records that never fails.
    pub(crate) fn done_at_once(self) -> StoreResult {
        match self {
            Self::Read => StoreResult::Read(Ok(Vec::new())),
            Self::Write(record) => StoreResult::Written(record, Ok(())),
            Self::Delete(record) => StoreResult::Deleted(record, Ok(())),
        }
    }
}

/// Why an operation failed, for a log message.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: StoreError,
    /// Number of failures since the last message.
    pub(crate) times: u64,
}

/// The records as the store has them, and as they are wanted.
#[derive(Debug, Default)]
pub(crate) struct Records {
    read: Read,
    /// Whether all records were read once.
    known: bool,
    by_key: BTreeMap<String, Entry>,
    failures: Repeated,
}

/// State of the read of all records.
#[derive(Debug)]
enum Read {
    /// Due from this time on.
    Due(Time),
    UnderWay,
    Done,
}

impl Default for Read {
    fn default() -> Self {
        Self::Due(Time(0))
    }
}

#[derive(Debug, Default)]
struct Entry {
    /// Record of the store, as far as known.
    stored: Option<Numbered>,
    /// Bytes that are to be stored instead.
    wanted: Option<Bytes>,
    /// Whether the record is to be deleted.
    dropped: bool,
    under_way: bool,
    /// Earliest time of the next try.
    not_before: Time,
}

impl Entry {
    fn has_work(&self) -> bool {
        !self.under_way && (self.wanted.is_some() || self.dropped)
    }
}

impl Records {
    /// Whether all records were read: until then [`Records::stored`] says nothing.
    pub(crate) fn are_known(&self) -> bool {
        self.known
    }

    /// Record of a key as the store has it.
    pub(crate) fn stored(&self, key: &str) -> Option<&Numbered> {
        self.by_key.get(key)?.stored.as_ref()
    }

    /// All stored records whose keys begin with `prefix`.
    pub(crate) fn all(&self, prefix: &'static str) -> impl Iterator<Item = &Numbered> {
        let stored = self.by_key.values().filter_map(|entry| entry.stored.as_ref());
        stored.filter(move |record| record.key.starts_with(prefix))
    }

    /// Wants these bytes under the key, instead of bytes wanted before.
    pub(crate) fn put(&mut self, key: &str, bytes: Vec<u8>) {
        let entry = self.by_key.entry(key.to_owned()).or_default();
        (entry.wanted, entry.dropped) = (Some(bytes.into()), false);
    }

    /// Wants the record of the key as the store has it.
    pub(crate) fn withdraw(&mut self, key: &str) {
        if let Some(entry) = self.by_key.get_mut(key) {
            entry.wanted = None;
        }
    }

    /// Wants no record of the key. A key that was deleted may be used again: no operation of the
    /// key is under way then, and a late one of a former process has a lower epoch.
    pub(crate) fn delete(&mut self, key: &str) {
        if let Some(entry) = self.by_key.get_mut(key) {
            (entry.wanted, entry.dropped) = (None, true);
        }
    }

    /// The next operation that may be carried out now.
    pub(crate) fn poll(&mut self, now: Time) -> Option<StoreOp> {
        match self.read {
            Read::Due(at) if at <= now && !self.by_key.values().any(|entry| entry.under_way) => {
                self.read = Read::UnderWay;
                return Some(StoreOp::Read);
            }
            Read::Due(_) | Read::UnderWay => return None,
            Read::Done => {}
        }
        for (key, entry) in &mut self.by_key {
            if entry.wanted.is_some()
                && entry.wanted.as_ref() == entry.stored.as_ref().map(|s| &s.bytes)
            {
                entry.wanted = None;
            }
            if !entry.has_work() || entry.not_before > now {
                continue;
            }
            let number = entry.stored.as_ref().map_or(0, |stored| stored.number);
            match (&entry.wanted, &entry.stored) {
                (Some(wanted), _) => {
                    entry.under_way = true;
                    return Some(StoreOp::Write(Numbered::new(key, number + 1, wanted.clone())));
                }
                (None, Some(stored)) => {
                    entry.under_way = true;
                    return Some(StoreOp::Delete(stored.clone()));
                }
                (None, None) => entry.dropped = false,
            }
        }
        None
    }

    /// When [`Records::poll`] has an operation next, if no result arrives before.
    pub(crate) fn deadline(&self) -> Option<Time> {
        match self.read {
            Read::Due(at) if !self.by_key.values().any(|entry| entry.under_way) => Some(at),
            Read::Due(_) | Read::UnderWay => None,
            Read::Done => {
                let waiting = self.by_key.values().filter(|entry| entry.has_work());
                waiting.map(|entry| entry.not_before).min()
            }
        }
    }

    /// Takes the result of an operation; returns a failure that is to be logged.
    pub(crate) fn take(&mut self, result: StoreResult, now: Time) -> Option<Failed> {
        let error = match result {
            StoreResult::Read(Ok(records)) => {
                (self.read, self.known) = (Read::Done, true);
                self.by_key.values_mut().for_each(|entry| entry.stored = None);
                for record in records {
                    let entry = self.by_key.entry(record.key.clone()).or_default();
                    entry.stored = Some(record);
                }
                return None;
            }
            StoreResult::Read(Err(error)) => {
                self.read = Read::Due(now + PAUSE);
                error
            }
            StoreResult::Written(sent, result) => {
                let entry = self.by_key.get_mut(&sent.key)?;
                entry.under_way = false;
                match result {
                    Ok(()) => {
                        entry.stored = Some(sent);
                        return None;
                    }
                    Err(error) => self.failed(&sent.key, error, now)?,
                }
            }
            StoreResult::Deleted(sent, result) => match result {
                Ok(()) => {
                    if let Some(entry) = self.by_key.get_mut(&sent.key) {
                        (entry.stored, entry.under_way, entry.dropped) = (None, false, false);
                        if entry.wanted.is_none() {
                            self.by_key.remove(&sent.key);
                        }
                    }
                    return None;
                }
                Err(error) => {
                    self.by_key.get_mut(&sent.key)?.under_way = false;
                    self.failed(&sent.key, error, now)?
                }
            },
        };
        let times = self.failures.note(&error.to_string(), now.since(Time(0)))?;
        Some(Failed { error, times })
    }

    /// Plans the next try of a key; returns the error unless it is a conflict.
    fn failed(&mut self, key: &str, error: StoreError, now: Time) -> Option<StoreError> {
        if matches!(error, StoreError::Conflict(_)) {
            self.read = Read::Due(now);
            return None;
        }
        self.by_key.get_mut(key)?.not_before = now + PAUSE;
        Some(error)
    }
}

#[cfg(test)]
mod tests;
