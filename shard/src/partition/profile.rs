//! App, locale and segments of a device as one number of two bytes.
//!
//! A row that named the three separately would spend six bytes; a million devices have some
//! thousand combinations. Each partition numbers the combinations that it has met, and never
//! forgets one. A combination that arrives when all numbers are in use is stored for its device
//! alone, in a map: six bytes become forty, and nothing else changes. The numbers are valid in this
//! process only: a snapshot contains the words.

use std::collections::BTreeMap;

use clarion_proto::ids::Ordinal;
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    tag::Tag,
    vocabulary::{AppIndex, LocaleIndex, SegmentsIndex},
};

/// The number of a combination in one partition.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct ProfileIndex(pub(super) u16);

/// Combinations that have a number; the last number means "in the map".
const PROFILES_MAX: usize = u16::MAX as usize;

/// App, locale and segments of a device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) app: AppIndex,
    pub(super) locale: LocaleIndex,
    pub(super) segments: SegmentsIndex,
    /// Of the app: part of what a device's key is made of.
    pub(super) tag: Tag,
}

/// All combinations of a partition.
pub(super) struct Profiles {
    known: Vec<Profile>,
    table: HashTable<u16>,
    others: BTreeMap<Ordinal, Profile>,
    max: usize,
}

impl Profiles {
    /// An empty table of profiles.
    pub(super) fn new() -> Self {
        Self {
            known: Vec::new(),
            table: HashTable::new(),
            others: BTreeMap::new(),
            max: PROFILES_MAX,
        }
    }

    /// With room for fewer numbers; tests choose few, to see the map used.
    #[cfg(test)]
    pub(super) fn with_max(max: usize) -> Self {
        Self { max, ..Self::new() }
    }

    /// The number for a device with this combination. What was kept for it before is forgotten.
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

    /// The combination of a registered device.
    pub(super) fn get(&self, ordinal: Ordinal, index: ProfileIndex) -> Profile {
        match self.known.get(usize::from(index.0)) {
            Some(profile) => *profile,
            None => self.others.get(&ordinal).copied().unwrap_or(Profile::UNKNOWN),
        }
    }

    /// A device that is no longer registered.
    pub(super) fn remove(&mut self, ordinal: Ordinal) {
        if !self.others.is_empty() {
            self.others.remove(&ordinal);
        }
    }
}

impl Profile {
    /// The profile without an app: never pushed to.
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

    /// A combination has one number; one that found none left is its device's alone, until that has
    /// another.
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
