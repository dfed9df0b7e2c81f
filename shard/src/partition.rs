//! The devices of one hash bucket: state built by applying the records of a log, without a clock.
//!
//! Two nodes may hold the same partition, one may take over from the other in the middle of an
//! alert, and their messages name devices by ordinal. So all state here depends on the applied
//! prefix of the log alone: [`Partition::apply`] is a function of the records applied before and of
//! one record, and its only clock is the append time of batches.
//!
//! Phones report late, twice and out of order. Each record therefore carries the time at which the
//! phone made the observation, and each facet of a device (place, registration, mute) keeps the
//! newest observation:
//!
//! - an observation older than what its facet holds changes nothing; at a tie the later record
//!   wins;
//! - a removal is an observation of absence, of all three facets. The row stays for 24 h as a
//!   tombstone, with its ordinal: older observations bounce off, a newer one brings the device back
//!   as the one that it was to every wave;
//! - a gateway's word that a token is dead removes the registration if that token is still the
//!   current one and was not registered after the gateway's time. The registration can come back
//!   only by a newer observation, so that a late copy does not revive it;
//! - a row without a registration is never pushed to, and dropped 24 h after it was made, lost its
//!   registration, was removed, or (where nothing was left of it) got a first facet again. A mute
//!   choice goes with it: an app whose user comes back later than that has to say it again.
//!
//! Four structures hold the data: rows by ordinal, tokens, an index from device to ordinal, and the
//! order of the walk, which contains exactly the devices that can be pushed to. No device has an
//! allocation of its own, and no structure grows by doubling.
//!
//! **What a device weighs**, in bytes, with a token of 32 (APNs) and one of 154 characters on
//! average (FCM, packed):
//!
//! | | APNs | FCM | |
//! |---|---|---|---|
//! | row ([`row`]) | 37 | 37 | |
//! | token ([`token`]) | 32 | 115 | and 0.1 to 0.5 for its chunk |
//! | key in a page ([`page`]) | 8.7 | 8.7 | 8 in pages that are 91 to 97 % full, 0.2 for the page |
//! | index ([`index`]) | 4.2 | 4.2 | 4, room in buckets 0.06, heads of buckets 0.16 |
//! | *each registered device* | *82.0* | *165.4* | |
//! | tombstone: row, index, expiry ([`expiry`]) | 52 | 52 | for 24 h |
//! | resting ordinal: queue, and where its guest or own row stands ([`rows`]) | 8 | 8 | for 33 days |
//! | person, mute choice, rare profile | | | its length; 40; 40: of those who have one |
//!
//! In addition to the devices, a partition has blocks and buckets that are partly filled: some 50
//! KiB. Rows, keys and tokens are stored in blocks of memory ([`block`]) that belong to the process
//! and return to it, so a process keeps the memory that it once needed.

pub mod ahead;
pub(crate) mod key;
pub mod vocabulary;

mod bits;
mod block;
mod expiry;
mod facets;
mod held;
mod index;
mod page;
mod prefetch;
mod profile;
mod row;
mod rows;
pub mod snapshot;
mod tag;
mod token;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use clarion_proto::{
    device::{Cell, Change, Record},
    ids::{DeviceId, Ordinal, PartitionId, UnixMillis},
};

use self::{
    ahead::Found,
    expiry::Expiry,
    held::Standing,
    index::Index,
    key::Key,
    page::Pages,
    profile::{Profile, Profiles},
    row::{Millis40, Row},
    rows::Rows,
    snapshot::Saving,
    tag::Tag,
    token::Tokens,
};

pub use self::{bits::Bits, held::Held};
pub use tag::Tags;
pub use token::{StoredToken, TokenBuffer};
pub use vocabulary::{AppIndex, LocaleIndex, SegmentsIndex, Vocabulary};

/// Rows dropped by one record at most. A record makes at most one row that will be due, so two keep
/// up and catch up, and no record pays for a day.
const DROPPED_PER_RECORD_MAX: usize = 2;

/// The devices of one hash bucket.
pub struct Partition {
    id: PartitionId,
    /// The latest append time seen; coordinators' clocks differ, this one never goes back.
    now: UnixMillis,
    rows: Rows,
    tokens: Tokens,
    profiles: Profiles,
    /// Versions of mute choices, for devices that have one and are not [`Row::is_mute_as_place`].
    mutes: BTreeMap<Ordinal, Millis40>,
    index: Index,
    pages: Pages,
    expiry: Expiry,
    held: Held,
    /// A snapshot that is being written.
    saving: Option<Box<Saving>>,
    /// Counts changes of pushable devices and places: a walk that finds the same value need not
    /// look again.
    changes: u64,
}

/// A device that can be pushed to now.
#[derive(Clone, Copy)]
pub struct Pushable<'a> {
    /// Id of the device.
    pub device: DeviceId,
    /// Cell in which the device is.
    pub cell: Cell,
    /// App of the device; never [`AppIndex::UNKNOWN`].
    pub app: AppIndex,
    /// Locale of the device, for the choice of a message.
    pub locale: LocaleIndex,
    /// Set of audience segments, as an index of the core's vocabulary.
    pub segments: SegmentsIndex,
    /// Token of the device. Secret: never printed.
    pub token: StoredToken<'a>,
}

/// Effect of one record on waves in progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Some: pushable now at this cell, and newly pushable, moved, or of another app or other
    /// segments. The walk of every wave has to hear it before its next step.
    pub placed: Option<(Ordinal, Cell)>,
}

impl Partition {
    /// An empty partition. Its look-ups hash device ids with a seed that callers who choose ids
    /// must not know; nothing else depends on the seed.
    #[must_use]
    pub fn new(id: PartitionId, hash_seed: u64) -> Self {
        Self::with_pages(id, hash_seed, page::PAGE_KEYS_MAX)
    }

    /// With pages of another size; tests choose small ones, to see many splits and merges.
    pub(crate) fn with_pages(id: PartitionId, hash_seed: u64, page_keys_max: usize) -> Self {
        Self {
            id,
            now: UnixMillis(0),
            rows: Rows::default(),
            tokens: Tokens::default(),
            profiles: Profiles::new(),
            mutes: BTreeMap::new(),
            index: Index::new(hash_seed),
            pages: Pages::new(page_keys_max),
            expiry: Expiry::default(),
            held: Held::default(),
            saving: None,
            changes: 0,
        }
    }

    /// Number of the partition.
    #[must_use]
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// Applies one record of the log, in the log's order. `appended` is the append time of its
    /// batch.
    ///
    /// A device that would need an ordinal when all 2^26 are in use is not added.
    pub fn apply(
        &mut self,
        appended: UnixMillis,
        record: &Record,
        words: &mut Vocabulary,
    ) -> Applied {
        let found = Found::of(self.index.hash(record.device));
        self.apply_found(appended, record, &found, words)
    }

    /// The same, with what [`ahead`] found of the record.
    fn apply_found(
        &mut self,
        appended: UnixMillis,
        record: &Record,
        found: &Found,
        words: &mut Vocabulary,
    ) -> Applied {
        self.now = self.now.max(appended);
        self.drop_due();
        let Some(ordinal) = self.find_or_insert(record, found) else { return Applied::default() };
        if let Change::Place(cell) = &record.change
            && let Some(applied) = self.go(ordinal, record.observed.into(), *cell, found)
        {
            return applied;
        }
        let before = self.standing(ordinal);
        let observed = Millis40::from(record.observed);
        match &record.change {
            Change::Registration(registration) => {
                self.register(ordinal, observed, registration, words);
            }
            Change::Place(cell) => self.place(ordinal, observed, *cell),
            Change::Arrival(registration, cell) => {
                self.register(ordinal, observed, registration, words);
                self.place(ordinal, observed, *cell);
            }
            Change::Removal => self.remove(ordinal, record.observed),
            Change::Mute(muted) => self.mute(ordinal, observed, *muted),
            Change::Feedback { token_hash, gateway_time } => {
                self.feed_back(ordinal, *token_hash, *gateway_time);
            }
        }
        self.schedule(ordinal, before);
        self.settle(ordinal, before, found)
    }

    /// What is needed to push to a device; `None`: gone, muted, without registration or place.
    #[must_use]
    pub fn pushable(&self, ordinal: Ordinal) -> Option<Pushable<'_>> {
        let row = self.rows.get(ordinal)?;
        let place = self.standing_of(row, ordinal).key?.place();
        let r = row.registration()?;
        let Profile { app, locale, segments, .. } = self.profiles.get(ordinal, r.profile);
        let token = self.tokens.get(r.token);
        Some(Pushable { device: row.device(), cell: place.cell(), app, locale, segments, token })
    }

    /// The ordinal of a device, tombstones and unregistered rows included.
    #[must_use]
    pub fn ordinal_of(&self, device: DeviceId) -> Option<Ordinal> {
        self.index.find(self.index.hash(device), device, &self.rows)
    }

    /// The reserved `person` of a registration; `None`: not registered, or without.
    #[must_use]
    pub fn person(&self, ordinal: Ordinal) -> Option<&str> {
        let r = self.rows.get(ordinal)?.registration()?;
        std::str::from_utf8(self.tokens.get(r.token).person()).ok().filter(|p| !p.is_empty())
    }

    /// How much is held; kept up to date by `apply`, so asking costs nothing.
    #[must_use]
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Keys of pushable devices from a key on, in the order of the walk, up to the end of one page.
    /// Empty: there are none.
    pub(crate) fn keys_from(&self, from: Key) -> &[Key] {
        self.pages.from(from)
    }

    /// Key of a device in the walk; `None`: the device cannot be pushed to.
    pub(crate) fn key_of(&self, ordinal: Ordinal) -> Option<Key> {
        self.standing_of(self.rows.get(ordinal)?, ordinal).key
    }

    /// Counter of changes of pushable devices and places.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Loads the rows and tokens of these devices into the cache. Each push would wait for memory
    /// three times, for one row and token after the other; loaded together, the waits overlap.
    /// First all rows, then all tokens: only the row tells where its token is, and in one pass each
    /// wait for a token would follow a wait for a row. The result has no meaning; it keeps the
    /// reads from being optimised away.
    pub(crate) fn warm(&self, keys: &[Key]) -> u8 {
        let rows = self.warm_rows(keys);
        let registrations =
            keys.iter().filter_map(|key| self.rows.get(key.ordinal())?.registration());
        registrations.fold(rows, |sum, r| sum ^ self.tokens.touch(r.token))
    }

    /// Loads only the rows, for walks that do not read tokens.
    pub(crate) fn warm_rows(&self, keys: &[Key]) -> u8 {
        keys.iter().fold(0, |sum, key| sum ^ self.rows.touch(key.ordinal()))
    }

    fn find_or_insert(&mut self, record: &Record, found: &Found) -> Option<Ordinal> {
        // Feedback says nothing of a device that is not here.
        let feedback = matches!(record.change, Change::Feedback { .. });
        let hash = found.hash;
        let is_its = |ordinal: &Ordinal| {
            self.rows.get(*ordinal).is_some_and(|row| row.device() == record.device)
        };
        let found = found
            .ordinal
            .filter(is_its)
            .or_else(|| self.index.find(hash, record.device, &self.rows));
        if let Some(ordinal) = found {
            self.keep(ordinal);
            let row = self.rows.at_mut(ordinal);
            if row.due().is_none_or(|due| due > self.now) {
                return Some(ordinal);
            }
            // Due, and not dropped yet only because others were first: it counts as dropped.
            if !feedback {
                row.reset();
                self.mutes.remove(&ordinal);
                return Some(ordinal);
            }
        }
        if feedback {
            return None;
        }
        let who = |rows: &Rows, device| self.index.find(self.index.hash(device), device, rows);
        let ordinal = self.rows.insert(Row::new(record.device), self.now, who)?;
        self.keep_vacant(ordinal);
        self.index.insert(hash, ordinal, &self.rows);
        Some(ordinal)
    }

    /// Handles the most frequent record: a pushable device moves. Only place and key change.
    /// `None`: the record is another one.
    fn go(
        &mut self,
        ordinal: Ordinal,
        observed: Millis40,
        cell: Cell,
        found: &Found,
    ) -> Option<Applied> {
        let from = self.key_of(ordinal)?;
        let row = self.rows.at_mut(ordinal);
        if !row.place_version.yields_to(observed) {
            return Some(Applied::default());
        }
        row.place_version = observed;
        let to = Key::new(cell.into(), from.tag(), ordinal);
        if from == to {
            return Some(Applied::default());
        }
        row.set_place(Some(cell.into()));
        self.pages.replace((from, found.page_from), (to, found.page_to));
        self.changes += 1;
        Some(Applied { placed: Some((ordinal, cell)) })
    }

    /// Sees to it that a row without registration is dropped in time.
    fn schedule(&mut self, ordinal: Ordinal, before: Standing) {
        let kept_for_new = expiry::due(self.now, self.now);
        let row = self.rows.at_mut(ordinal);
        let Some(mut due) = row.due() else { return };
        let made = due == UnixMillis(0); // of a new row or one that was reset
        let empty_before = before.registered.is_none() && !before.placed && !before.muted;
        if made || empty_before && (row.place().is_some() || row.is_muted()) {
            due = due.max(kept_for_new);
            row.unregister(due);
        }
        if !row.is_scheduled() {
            row.set_scheduled(true);
            self.expiry.push(due, ordinal);
        }
    }

    fn drop_due(&mut self) {
        for _ in 0..DROPPED_PER_RECORD_MAX {
            let Some(ordinal) = self.expiry.pop_due(self.now) else { return };
            self.keep(ordinal);
            let row = self.rows.at_mut(ordinal);
            match row.due() {
                None => row.set_scheduled(false),
                Some(due) if due > self.now => self.expiry.push(due, ordinal),
                Some(_) => {
                    let hash = self.index.hash(row.device());
                    self.index.remove(hash, ordinal);
                    self.mutes.remove(&ordinal);
                    self.rows.remove(ordinal, self.now);
                }
            }
        }
    }

    /// Brings counts and the order of the walk up to date with a changed row.
    fn settle(&mut self, ordinal: Ordinal, before: Standing, found: &Found) -> Applied {
        let after = self.standing(ordinal);
        if before == after {
            return Applied::default();
        }
        self.held.count(before, |n| *n -= 1);
        self.held.count(after, |n| *n += 1);
        if before.key != after.key {
            self.changes += 1;
            match (before.key, after.key) {
                (Some(old), Some(new)) => {
                    self.pages.replace((old, found.page_from), (new, found.page_to));
                }
                (Some(old), None) => self.pages.remove(old, found.page_from),
                (None, Some(new)) => self.pages.insert(new, found.page_to),
                (None, None) => {}
            }
        }
        Applied { placed: after.key.map(|key| (ordinal, key.place().cell())) }
    }

    fn standing(&self, ordinal: Ordinal) -> Standing {
        self.standing_of(self.rows.at(ordinal), ordinal)
    }

    fn standing_of(&self, row: &Row, ordinal: Ordinal) -> Standing {
        let profile = row.registration().map(|r| self.profiles.get(ordinal, r.profile));
        let registered = profile.map(|profile| (profile.app, profile.segments));
        let reachable =
            registered.is_some_and(|(app, _)| app != AppIndex::UNKNOWN) && !row.is_muted();
        let place = row.place();
        let tag = profile.map_or(Tag::NONE, |profile| profile.tag);
        let key = place.filter(|_| reachable).map(|place| Key::new(place, tag, ordinal));
        Standing { registered, placed: place.is_some(), muted: row.is_muted(), key }
    }
}

/// Prints no device.
impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition")
            .field("id", &self.id)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

/// Prints neither token nor place.
impl std::fmt::Debug for Pushable<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pushable")
            .field("device", &self.device)
            .field("app", &self.app)
            .finish_non_exhaustive()
    }
}
