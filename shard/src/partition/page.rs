//! The order of the walk: pages of keys under a directory.
//!
//! A wave asks for the devices in a range of cells, some thousand ranges for a city; between two questions devices come,
//! go and move. So keys stand sorted in pages of up to 1,024: a change moves at most one page's keys (8 KiB), a question
//! is one search in the directory and one in a page, and what follows is read in sequence. Only devices that can be
//! pushed to are here, so a walk meets nobody in vain, and a page is nothing but numbers: the rows are not touched until
//! a device is due.
//!
//! Nobody keeps a position in here. A frontier is a key, and finds its page anew after splits and merges.

use super::key::Key;

/// Keys of a page at most.
pub(super) const PAGE_KEYS_MAX: usize = 1_024;
/// Room is made for so many keys at a time: half of it (some 3 % of a page) is empty on average.
const ROOM_KEYS: usize = 64;

/// All keys of a partition in order.
#[derive(Debug)]
pub(super) struct Pages {
    /// The directory: no key of page n is below `fences[n]`, and none of page n - 1 reaches it. The first is
    /// [`Key::MIN`], so that every key has a page.
    fences: Vec<Key>,
    /// Sorted within. None is empty, except where it is the only one.
    pages: Vec<Vec<Key>>,
    page_keys_max: usize,
}

impl Pages {
    /// Without keys. Tests choose small pages, to see many splits and merges.
    pub(super) fn new(page_keys_max: usize) -> Self {
        assert!(page_keys_max >= 4, "a page that is split must leave two that are not merged at once");
        Self { fences: vec![Key::MIN], pages: vec![Vec::new()], page_keys_max }
    }

    /// The keys from `from` on to the end of their page; empty if there are none behind it at all.
    pub(super) fn from(&self, from: Key) -> &[Key] {
        let page = self.page_of(from);
        let keys = &self.pages[page];
        let tail = &keys[keys.partition_point(|k| *k < from)..];
        if tail.is_empty() { self.pages.get(page + 1).map_or(&[], Vec::as_slice) } else { tail }
    }

    /// Adds a key that is not there.
    pub(super) fn insert(&mut self, key: Key) {
        let page = self.page_of(key);
        let keys = &mut self.pages[page];
        let Err(at) = keys.binary_search(&key) else {
            debug_assert!(false, "a key is added once");
            return;
        };
        if keys.len() == keys.capacity() {
            keys.reserve_exact(ROOM_KEYS);
        }
        keys.insert(at, key);
        if keys.len() > self.page_keys_max {
            let upper = keys.split_off(keys.len() / 2);
            keys.shrink_to(keys.len() + ROOM_KEYS);
            self.fences.insert(page + 1, upper[0]);
            self.pages.insert(page + 1, upper);
        }
    }

    /// Takes out a key that is there.
    pub(super) fn remove(&mut self, key: Key) {
        let page = self.page_of(key);
        let keys = &mut self.pages[page];
        let Ok(at) = keys.binary_search(&key) else {
            debug_assert!(false, "a key is taken out once");
            return;
        };
        keys.remove(at);
        if keys.capacity() - keys.len() > 2 * ROOM_KEYS {
            keys.shrink_to(keys.len() + ROOM_KEYS);
        }
        if keys.is_empty() && self.pages.len() > 1 {
            self.pages.remove(page);
            // Its keys would now belong to the page below; without one, the first page reaches down to all.
            self.fences.remove(page);
            self.fences[0] = Key::MIN;
        } else if self.pages[page].len() <= self.page_keys_max / 4 {
            self.merge(page);
        }
    }

    /// Joins a small page with a neighbour, if both then fill a page to three quarters at most: neither the next insertion
    /// nor the next removal undoes it.
    fn merge(&mut self, page: usize) {
        for lower in [page.checked_sub(1), Some(page)].into_iter().flatten() {
            let Some([below, above]) = self.pages.get_mut(lower..lower + 2) else { continue };
            if below.len() + above.len() <= self.page_keys_max * 3 / 4 {
                below.reserve_exact(above.len());
                below.append(above);
                self.pages.remove(lower + 1);
                self.fences.remove(lower + 1);
                return;
            }
        }
    }

    fn page_of(&self, key: Key) -> usize {
        self.fences.partition_point(|fence| *fence <= key) - 1
    }
}

#[cfg(test)]
impl Pages {
    /// All keys, and a check of what the directory promises.
    pub(super) fn check(&self) -> Vec<Key> {
        assert_eq!((self.fences.len(), self.fences[0]), (self.pages.len(), Key::MIN));
        for (n, page) in self.pages.iter().enumerate() {
            assert!(!page.is_empty() || self.pages.len() == 1, "page {n} is empty");
            assert!(page.len() <= self.page_keys_max);
            assert!(page.iter().all(|k| *k >= self.fences[n]));
            assert!(self.fences.get(n + 1).is_none_or(|f| page.iter().all(|k| k < f)));
        }
        let all: Vec<_> = self.pages.concat();
        assert!(all.is_sorted_by(|a, b| a < b));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::{super::key::Place, *};
    use clarion_proto::ids::Ordinal;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn key(n: u32) -> Key {
        Key::new(Place::from_bits(u64::from(n / 4)), Ordinal(n % 4))
    }

    proptest! {
        /// Pages are a sorted set, however they were split and merged.
        #[test]
        fn pages_are_a_sorted_set(changes in prop::collection::vec((0u32..200, prop::bool::weighted(0.55)), 0..600)) {
            let mut pages = Pages::new(4);
            let mut model = BTreeSet::new();
            for (n, add) in changes {
                match (add, model.contains(&key(n))) {
                    (true, false) => { pages.insert(key(n)); model.insert(key(n)); }
                    (false, true) => { pages.remove(key(n)); model.remove(&key(n)); }
                    _ => {}
                }
                prop_assert_eq!(pages.check(), model.iter().copied().collect::<Vec<_>>());
            }
            for n in 0..=200 {
                prop_assert_eq!(pages.from(key(n)).first(), model.range(key(n)..).next());
            }
        }
    }

    /// Emptied pages go: a partition that everybody left costs nothing.
    #[test]
    fn merges_down_to_one_page() {
        let mut pages = Pages::new(8);
        (0..200).for_each(|n| pages.insert(key(n)));
        assert!(pages.pages.len() >= 25);
        (0..200).for_each(|n| pages.remove(key(n)));
        assert_eq!((pages.check(), pages.pages.len()), (vec![], 1));
    }
}
