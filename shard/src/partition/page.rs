//! The order of the walk: pages of keys under a directory.
//!
//! A wave asks for the devices in a range of cells, some thousand ranges for a city; between two questions devices come,
//! go and move. So keys stand sorted in pages of up to 1,024: a change moves at most one page's keys (8 KiB), a question
//! is one search in the directory and one in a page, and what follows is read in sequence. Only devices that can be
//! pushed to are here, so a walk meets nobody in vain, and a page is nothing but numbers: the rows are not touched until
//! a device is due.
//!
//! **Fill.** A page is 8 KiB, full or not. One that is full does not split in two halves, which would leave pages at
//! some 70 %: the keys of up to [`WINDOW`] neighbours are spread evenly over them, and only where all are nearly full over
//! one page more. So 16 pages at 97 % become 17 at 91 %. In the same way a window that fell below what one page fewer would
//! hold at 94 % gives one back. Spreading copies 128 KiB, some ten microseconds, for the hundreds of changes that it
//! takes to fill a page anew.
//!
//! Nobody keeps a position in here. A frontier is a key, and finds its page anew after splits and merges.

use super::key::Key;

/// Keys of a page at most.
pub(super) const PAGE_KEYS_MAX: usize = 1_024;
/// Neighbours among which room is found.
const WINDOW: usize = 16;

/// All keys of a partition in order.
#[derive(Debug)]
pub(super) struct Pages {
    /// The directory: no key of page n is below `fences[n]`, and none of page n - 1 reaches it. The first is
    /// [`Key::MIN`], so that every key has a page.
    fences: Vec<Key>,
    /// Sorted within. None is empty, except where it is the only one. Each has room for `page_keys_max`, from its making on.
    pages: Vec<Vec<Key>>,
    page_keys_max: usize,
}

impl Pages {
    /// Without keys. Tests choose small pages, to see many splits and merges.
    pub(super) fn new(page_keys_max: usize) -> Self {
        assert!(page_keys_max >= 4, "a page that is split must leave two that are not merged at once");
        Self { fences: vec![Key::MIN], pages: vec![Vec::with_capacity(page_keys_max)], page_keys_max }
    }

    /// Of keys in order, each once.
    pub(super) fn of_sorted(page_keys_max: usize, keys: &[Key]) -> Self {
        let mut new = Self::new(page_keys_max);
        new.spread(0, 1, keys.len().div_ceil(new.after_split()).max(1), keys);
        new
    }

    /// Keys of a page at most.
    pub(super) fn page_keys_max(&self) -> usize {
        self.page_keys_max
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
        let mut page = self.page_of(key);
        if self.pages[page].len() == self.page_keys_max {
            self.make_room(page);
            page = self.page_of(key);
        }
        let keys = &mut self.pages[page];
        let Err(at) = keys.binary_search(&key) else {
            debug_assert!(false, "a key is added once");
            return;
        };
        keys.insert(at, key);
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
        let left = keys.len();
        if left == 0 && self.pages.len() > 1 {
            self.pages.remove(page);
            // Its keys would now belong to the page below; without one, the first page reaches down to all.
            self.fences.remove(page);
            self.fences[0] = Key::MIN;
        } else if left < self.page_keys_max - self.page_keys_max / 8 {
            self.give_back(page);
        }
    }

    /// Sees to it that no page around a full one is full.
    fn make_room(&mut self, page: usize) {
        let (from, to) = self.window(page);
        let keys = self.pages[from..to].concat();
        let pages = keys.len().div_ceil(self.nearly_full()).max(to - from);
        self.spread(from, to, pages, &keys);
    }

    /// Lets a page go where its neighbours can take its keys and have room left.
    fn give_back(&mut self, page: usize) {
        let (from, to) = self.window(page);
        let pages = to - from;
        let held: usize = self.pages[from..to].iter().map(Vec::len).sum();
        if pages > 1 && held <= (pages - 1) * self.after_split() {
            let keys = self.pages[from..to].concat();
            self.spread(from, to, held.div_ceil(self.after_split()).max(1), &keys);
        }
    }

    /// Puts keys, in order, evenly into so many pages in place of those from `from` to `to`. The first keeps its fence: if it
    /// went up, keys below would belong to a page outside that may be full.
    fn spread(&mut self, from: usize, to: usize, pages: usize, keys: &[Key]) {
        let max = self.page_keys_max;
        let kept = from + pages.min(to - from);
        self.pages.drain(kept..to);
        self.fences.drain(kept..to);
        for at in to..from + pages {
            self.pages.insert(at, Vec::with_capacity(max));
            self.fences.insert(at, Key::MIN);
        }
        for n in 0..pages {
            let part = &keys[keys.len() * n / pages..keys.len() * (n + 1) / pages];
            let page = &mut self.pages[from + n];
            page.clear();
            page.extend_from_slice(part);
            if let Some(first) = part.first().filter(|_| n > 0) {
                self.fences[from + n] = *first;
            }
        }
    }

    /// Neighbours of a page, itself among them.
    fn window(&self, page: usize) -> (usize, usize) {
        let from = page.saturating_sub(WINDOW / 2).min(self.pages.len().saturating_sub(WINDOW));
        (from, (from + WINDOW).min(self.pages.len()))
    }

    /// Up to here, keys are spread over the pages that there are. Below a full page, so that spreading makes room.
    fn nearly_full(&self) -> usize {
        self.page_keys_max - self.page_keys_max / 32 - 1
    }

    /// Up to here pages are filled by what gives one back, and by a snapshot.
    fn after_split(&self) -> usize {
        self.page_keys_max - self.page_keys_max / 16 - 1
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
            assert_eq!(page.capacity(), self.page_keys_max);
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

    /// Pages stay nine tenths full: filled at random, and after everybody has moved.
    #[test]
    fn pages_stay_full() {
        let mut pages = Pages::new(64);
        let at = |n: u64| Key::new(Place::from_bits(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 31), Ordinal(0));
        let fill = |pages: &Pages| pages.pages.iter().map(Vec::len).sum::<usize>() * 100 / (pages.pages.len() * 64);
        (0..20_000).for_each(|n| pages.insert(at(n)));
        assert!(fill(&pages) >= 90, "{}", fill(&pages));
        for n in 0..20_000 {
            pages.remove(at(n));
            pages.insert(at(n + 20_000));
        }
        assert!(fill(&pages) >= 90, "{}", fill(&pages));
        (20_000..38_000).for_each(|n| pages.remove(at(n)));
        assert!(fill(&pages) >= 80, "{}", fill(&pages));
    }

    /// Emptied pages go: a partition that everybody left costs nothing.
    #[test]
    fn merges_down_to_one_page() {
        let mut pages = Pages::new(8);
        (0..200).for_each(|n| pages.insert(key(n)));
        assert!((25..33).contains(&pages.pages.len()), "{}", pages.pages.len());
        (0..200).for_each(|n| pages.remove(key(n)));
        assert_eq!((pages.check(), pages.pages.len()), (vec![], 1));
    }
}
