//! App, locale and segments of a device as one number of two bytes.
//!
//! A row that named the three separately would need six bytes, but a million devices have only some
//! thousand combinations. Each partition numbers the combinations that it has met, and never
//! forgets one. A combination that arrives when all numbers are in use is stored for its device
//! alone, in a map: six bytes become forty, and nothing else changes. The numbers are valid only in
//! this process; a snapshot contains the words.

use std::collections::BTreeMap;

use clarion_proto::ids::Ordinal;
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    tag::Tag,
    vocabulary::{AppIndex, LocaleIndex, SegmentsIndex},
};

/// Number of a combination in one partition.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct ProfileIndex(pub(super) u16);

/// Most combinations that have a number; the last number means "in the map".
const PROFILES_MAX: usize = u16::MAX as usize;

/// App, locale and segments of a device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) app: AppIndex,
    pub(super) locale: LocaleIndex,
    pub(super) segments: SegmentsIndex,
    /// Tag of the app, a part of the device's key.
    pub(super) tag: Tag,
}

/// All combinations of one partition.
pub(super) struct Profiles {
    known: Vec<Profile>,
    table: HashTable<u16>,
    others: BTreeMap<Ordinal, Profile>,
    max: usize,
}

impl Profiles {
    /// Creates an empty table of profiles.
    pub(super) fn new() -> Self {
        Self {
            known: Vec::new(),
            table: HashTable::new(),
            others: BTreeMap::new(),
            max: PROFILES_MAX,
        }
    }

    /// Creates an empty table with fewer numbers. Tests choose few, so that the map is used.
    #[cfg(test)]
    pub(super) fn with_max(max: usize) -> Self {
        Self { max, ..Self::new() }
    }

    /// Returns the number for a device with this combination, and replaces the combination stored
    /// for the device before.
    pub(super) fn insert(&mut self, ordinal: Ordinal, profile: Profile) -> ProfileIndex {
        self.remove(ordinal);
        if let Some(&known) =
            self.table.find(hash(&profile), |&n| self.known[usize::from(n)] == profile)
        {
            return ProfileIndex(known);
        }
        if self.known.len() >= self.max {
            self.others.insert(ordinal, profile);
            return ProfileIndex(u16::MAX);
        }
        let index = u16::try_from(self.known.len()).expect("below PROFILES_MAX");
        self.known.push(profile);
        let known = &self.known;
        self.table.insert_unique(hash(&profile), index, |&n| hash(&known[usize::from(n)]));
        ProfileIndex(index)
    }

    /// Returns the combination of a registered device.
    pub(super) fn get(&self, ordinal: Ordinal, index: ProfileIndex) -> Profile {
        match self.known.get(usize::from(index.0)) {
            Some(profile) => *profile,
            None => self.others.get(&ordinal).copied().unwrap_or(Profile::UNKNOWN),
        }
    }

    /// Removes the combination of a device that is no longer registered.
    pub(super) fn remove(&mut self, ordinal: Ordinal) {
        if !self.others.is_empty() {
            self.others.remove(&ordinal);
        }
    }
}

impl Profile {
    /// Combination with the unknown app, which is never pushed to.
    const UNKNOWN: Self = Self {
        app: AppIndex::UNKNOWN,
        locale: LocaleIndex::UNKNOWN,
        segments: SegmentsIndex::UNKNOWN,
        tag: Tag::NONE,
    };
}

fn hash(p: &Profile) -> u64 {
    let word = u64::from(p.app.0) << 32 | u64::from(p.locale.0) << 16 | u64::from(p.segments.0);
    xxh3_64(&word.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each combination has one number. A combination that found no number free belongs to its
    /// device until the device gets another one.
    #[test]
    fn numbers_run_out() {
        let of = |n: u16| Profile {
            app: AppIndex(n),
            locale: LocaleIndex(0),
            segments: SegmentsIndex(0),
            tag: Tag::NONE,
        };
        let mut profiles = Profiles::with_max(2);
        let number: Vec<_> =
            (0..4).map(|n| profiles.insert(Ordinal(u32::from(n)), of(n))).collect();
        assert!(profiles.insert(Ordinal(9), of(1)) == number[1]);
        assert!(
            (0..4).all(|n| profiles.get(Ordinal(u32::from(n)), number[usize::from(n)]) == of(n))
        );
        profiles.remove(Ordinal(2));
        let again = profiles.insert(Ordinal(3), of(0));
        assert!(profiles.get(Ordinal(3), again) == of(0) && profiles.others.is_empty());
    }
}
