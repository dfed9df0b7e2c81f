//! The devices of one hash bucket: state built by applying the records of a log, without a clock.
//!
//! Two nodes may hold the same partition, one may take over from the other in the middle of an
//! alert, and their messages name devices by ordinal. So all state here depends only on the applied
//! prefix of the log: [`Partition::apply`] is a function of the earlier records and of one record,
//! and its only clock is the append time of batches.
//!
//! Phones report late, twice and out of order. Each record therefore carries the time at which the
//! phone made the observation, and each facet of a device (place, registration, mute) keeps the
//! newest observation:
//!
//! - an observation older than the one in its facet changes nothing; at a tie the later record
//!   wins;
//! - a removal is an observation of the absence of all three facets. The row stays for 24 h as a
//!   tombstone with its ordinal: older observations have no effect, and a newer one restores the
//!   device under the same ordinal for every wave;
//! - feedback of a gateway that a token is dead removes the registration if the token is still the
//!   current one and was not registered after the gateway's time. Only a newer observation restores
//!   the registration, so a late copy of the old one does not;
//! - a row without a registration is never pushed to. It is dropped 24 h after it was created, lost
//!   its registration or was removed, or after an empty row got a first facet again. The mute
//!   choice is dropped with the row, so an app whose user returns later must report the choice
//!   again;
//! - a limit of expiry removes the registrations of an app that were not observed, neither place
//!   nor registration, since the limit ([`sweep`]). An expired device is never pushed to.
//!
//! Four structures hold the data: rows by ordinal, tokens, an index from device id to ordinal, and
//! the order of the walk, which contains exactly the devices that can be pushed to. No device has
//! an allocation of its own, and no structure grows by doubling.
//!
//! **Memory of a device**, in bytes, with a token of 32 bytes (APNs) or one of 154 characters on
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
//! In addition to the devices, a partition has partly filled blocks and buckets of some 50 KiB.
//! Rows, keys and tokens are stored in blocks of memory ([`block`]) that belong to the process and
//! return to it, so a process keeps the memory that it once needed.

pub mod ahead;
pub(crate) mod key;
pub mod vocabulary;

mod applied;
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
mod sweep;
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
    sweep::Sweep,
    tag::Tag,
    token::Tokens,
};

pub use self::{
    applied::{Applied, Refreshed},
    bits::Bits,
    held::Held,
};
pub use tag::Tags;
pub use token::{StoredToken, TokenBuffer};
pub use vocabulary::{AppIndex, LocaleIndex, SegmentsIndex, Vocabulary};

/// Most rows that one record drops. A record creates at most one row that will be due, so two per
/// record keep up with new rows and reduce a backlog, and no record pays for a whole day.
const DROPPED_PER_RECORD_MAX: usize = 2;

/// The devices of one hash bucket.
pub struct Partition {
    id: PartitionId,
    /// Latest append time of all batches so far, which never goes back although coordinators'
    /// clocks differ.
    now: UnixMillis,
    rows: Rows,
    tokens: Tokens,
    profiles: Profiles,
    /// Versions of mute choices, for devices that have a choice and are not
    /// [`Row::is_mute_as_place`].
    mutes: BTreeMap<Ordinal, Millis40>,
    index: Index,
    pages: Pages,
    expiry: Expiry,
    sweep: Sweep,
    held: Held,
    /// Snapshot that is being written, if any.
    saving: Option<Box<Saving>>,
    /// Number of changes of pushable devices and places. A walk that finds the same value need not
    /// search again.
    changes: u64,
}

/// Data for a push to a device that can be pushed to now.
#[derive(Clone, Copy)]
pub struct Pushable<'a> {
    /// Id of the device.
    pub device: DeviceId,
    /// Last known cell of the device.
    pub cell: Cell,
    /// App of the device; never [`AppIndex::UNKNOWN`].
    pub app: AppIndex,
    /// Locale of the device, for the choice of a message.
    pub locale: LocaleIndex,
    /// Set of audience segments, as an index of the core's vocabulary.
    pub segments: SegmentsIndex,
    /// Time at which the phone observed its place.
    pub place_seen: UnixMillis,
    /// Token of the device. Secret: never printed.
    pub token: StoredToken<'a>,
}

impl Partition {
    /// Creates an empty partition. Its look-ups hash device ids with a seed that callers who choose
    /// ids must not know; nothing else depends on the seed.
    #[must_use]
    pub fn new(id: PartitionId, hash_seed: u64) -> Self {
        Self::with_pages(id, hash_seed, page::PAGE_KEYS_MAX)
    }

    /// Creates an empty partition with pages of another size. Tests choose small pages, for many
    /// splits and merges.
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
            sweep: Sweep::default(),
            held: Held::default(),
            saving: None,
            changes: 0,
        }
    }

    /// Returns the number of the partition.
    #[must_use]
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// Applies one record of the log, in the order of the log. `appended` is the append time of its
    /// batch.
    ///
    /// A new device is not added when all 2^26 ordinals are in use.
    pub fn apply(
        &mut self,
        appended: UnixMillis,
        record: &Record,
        words: &mut Vocabulary,
    ) -> Applied {
        let found = Found::of(self.index.hash(record.device));
        self.apply_found(appended, record, &found, words)
    }

    /// Applies one record with the results of [`ahead`].
    fn apply_found(
        &mut self,
        appended: UnixMillis,
        record: &Record,
        found: &Found,
        words: &mut Vocabulary,
    ) -> Applied {
        self.now = self.now.max(appended);
        self.drop_due();
        self.sweep_some();
        if let Change::Expiry(app) = &record.change {
            self.raise_limit(words.intern_app(app), record.observed);
            return Applied::default();
        }
        let Some(ordinal) = self.find_or_insert(record, found) else { return Applied::default() };
        if let Change::Place(cell) = &record.change
            && let Some(applied) = self.apply_move(ordinal, record.observed.into(), *cell, found)
        {
            return applied;
        }
        let before = self.standing(ordinal);
        let earlier = self.rows.at(ordinal).place_version;
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
            Change::Expiry(_) => {}
        }
        self.schedule(ordinal, before);
        let applied = self.settle(ordinal, before, found);
        if applied.placed.is_some() {
            return applied;
        }
        Applied { refreshed: self.refreshed(ordinal, earlier), ..applied }
    }

    /// Returns the data for a push to a device; `None` if it is gone, muted, expired, or without
    /// registration or place.
    #[must_use]
    pub fn pushable(&self, ordinal: Ordinal) -> Option<Pushable<'_>> {
        // What `standing_of` says, without the rest of it: every push pays for this.
        let row = self.rows.get(ordinal)?;
        let place = row.place().filter(|_| !row.is_muted())?;
        let r = row.registration()?;
        let Profile { app, locale, segments, .. } = self.profiles.get(ordinal, r.profile);
        if app == AppIndex::UNKNOWN || self.sweep.expires(app, row) {
            return None;
        }
        let (device, cell, place_seen) = (row.device(), place.cell(), row.place_version.into());
        let token = self.tokens.get(r.token);
        Some(Pushable { device, cell, app, locale, segments, place_seen, token })
    }

    /// Returns the ordinal of a device, also of a tombstone or an unregistered row.
    #[must_use]
    pub fn ordinal_of(&self, device: DeviceId) -> Option<Ordinal> {
        self.index.find(self.index.hash(device), device, &self.rows)
    }

    /// Returns the reserved `person` of a registration; `None` without a registration or without a
    /// person.
    #[must_use]
    pub fn person(&self, ordinal: Ordinal) -> Option<&str> {
        let r = self.rows.get(ordinal)?.registration()?;
        std::str::from_utf8(self.tokens.get(r.token).person()).ok().filter(|p| !p.is_empty())
    }

    /// Returns the counts of the content. `apply` keeps them up to date, so the call costs nothing.
    #[must_use]
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Returns the keys of pushable devices from a key to the end of one page, in the order of the
    /// walk; empty if there are none.
    pub(crate) fn keys_from(&self, from: Key) -> &[Key] {
        self.pages.from(from)
    }

    /// Returns the key of a device in the walk; `None` if the device cannot be pushed to.
    pub(crate) fn key_of(&self, ordinal: Ordinal) -> Option<Key> {
        self.standing_of(self.rows.get(ordinal)?, ordinal).key
    }

    /// Returns the number of changes of pushable devices and places.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Loads the rows and tokens of these devices into the cache. Each push would wait for memory
    /// three times, for one row and token after the other; loaded together, the waits overlap. All
    /// rows are loaded before all tokens: only the row names the place of its token, so in one pass
    /// each wait for a token would follow a wait for a row. The result has no meaning; it keeps the
    /// compiler from removing the reads.
    pub(crate) fn warm(&self, keys: &[Key]) -> u8 {
        let rows = self.warm_rows(keys);
        let registrations =
            keys.iter().filter_map(|key| self.rows.get(key.ordinal())?.registration());
        registrations.fold(rows, |sum, r| sum ^ self.tokens.touch(r.token))
    }

    /// Loads only the rows into the cache, for walks that do not read tokens.
    pub(crate) fn warm_rows(&self, keys: &[Key]) -> u8 {
        keys.iter().fold(0, |sum, key| sum ^ self.rows.touch(key.ordinal()))
    }

    fn find_or_insert(&mut self, record: &Record, found: &Found) -> Option<Ordinal> {
        // Feedback has no effect on a device that is not here.
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
            // The row is due but waits behind other rows: it counts as dropped.
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

    /// Applies the most frequent record, the move of a pushable device, which changes only place
    /// and key. Returns `None` for any other record.
    fn apply_move(
        &mut self,
        ordinal: Ordinal,
        observed: Millis40,
        cell: Cell,
        found: &Found,
    ) -> Option<Applied> {
        let Standing { key: Some(from), expired: false, .. } = self.standing(ordinal) else {
            return None;
        };
        let row = self.rows.at_mut(ordinal);
        if !row.place_version.yields_to(observed) {
            return Some(Applied::default());
        }
        let earlier = std::mem::replace(&mut row.place_version, observed);
        let to = Key::new(cell.into(), from.tag(), ordinal);
        if from == to {
            let refreshed = self.refreshed(ordinal, earlier);
            return Some(Applied { refreshed, ..Applied::default() });
        }
        row.set_place(Some(cell.into()));
        self.pages.replace((from, found.page_from), (to, found.page_to));
        self.changes += 1;
        Some(Applied { placed: Some((ordinal, cell)), ..Applied::default() })
    }

    /// Returns the device if it is pushable and its place has become newer than `earlier`.
    fn refreshed(&self, ordinal: Ordinal, earlier: Millis40) -> Option<Refreshed> {
        let row = self.rows.at(ordinal);
        if row.place_version.yields_to(earlier) {
            return None;
        }
        let standing = self.standing_of(row, ordinal);
        let cell = standing.key.filter(|_| !standing.expired)?.place().cell();
        Some(Refreshed { ordinal, cell, earlier: earlier.into() })
    }

    /// Updates the due time of a row without registration, and enters the row in the expiry queue.
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

    /// Updates the counts and the order of the walk after a change of a row.
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
        let key = after.key.filter(|_| !after.expired);
        let placed = key.map(|key| (ordinal, key.place().cell()));
        Applied { placed, ..Applied::default() }
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
        let expired = profile.is_some_and(|profile| self.sweep.expires(profile.app, row));
        Standing { registered, placed: place.is_some(), muted: row.is_muted(), expired, key }
    }
}

/// Prints the number of the partition and its counts, but no device.
impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition")
            .field("id", &self.id)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

/// Prints the id of the device and its app, but neither token nor place.
impl std::fmt::Debug for Pushable<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pushable")
            .field("device", &self.device)
            .field("app", &self.app)
            .finish_non_exhaustive()
    }
}
