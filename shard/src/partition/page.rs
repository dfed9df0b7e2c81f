//! The order of the walk: pages of keys under a directory.
//!
//! A wave asks for the devices in a range of cells, some thousand ranges for a city; between two
//! queries devices come, go and move. So keys are sorted in pages of up to [`PAGE_KEYS_MAX`]: a
//! change moves at most one page's keys, a query is one search in the directory and one in a page,
//! and the following keys are read in sequence. The pages contain only devices that can be pushed
//! to, so a walk reads no key in vain. A page is only numbers: the rows are not read until a device
//! is due.
//!
//! **Size.** The cost of a change is memory, not work: the page is in no cache, and a line of it
//! arrives in some ten nanoseconds. 64 keys are 8 lines, of which a change moves half. With larger
//! pages a change costs proportionally more; smaller ones lengthen the directory, which is searched
//! once for each change and each page of a walk, and need more memory.
//!
//! **Fill.** A page takes its full room whether it is full or not. A full page does not split in
//! two halves, which would leave pages at some 70 %: the keys of up to [`WINDOW`] neighbours are
//! spread evenly over them, and only where all are nearly full over one page more. So 16 pages at
//! 97 % become 17 at 91 %. In the same way a window returns a page when its keys would fill one
//! page fewer to less than 94 %. Spreading copies 8 KiB, once for the fifty or more changes that
//! fill a page again.
//!
//! **Room.** Pages of a partition are parts of slabs, which are blocks ([`super::block`]), and
//! return to a list: no page is an allocation. A page costs 14 bytes beside its keys: fence, place
//! in the slabs, length.
//!
//! No other code keeps a position in the pages. A frontier is a key, and its page is searched again
//! after splits and merges.

use super::{
    block::{BLOCK_BYTES, Block},
    key::Key,
    prefetch,
};

/// Most keys of a page.
pub(super) const PAGE_KEYS_MAX: usize = 64;
/// Number of neighbouring pages among which room is found.
const WINDOW: usize = 16;
/// Number of keys of a slab, which is a block.
const SLAB_KEYS: usize = BLOCK_BYTES / size_of::<Key>();
/// Number of fences of a group: four lines, of which a search reads two or three.
const GROUP: usize = 32;
/// Share by which directories grow. Doubling would leave half of them empty.
const ROOM_SHARE: usize = 16;

/// All keys of a partition in sorted pages.
#[derive(Debug)]
pub(super) struct Pages {
    /// Directory of the pages: no key of page n is below `fences[n]`, and every key of page n - 1
    /// is. The first fence is [`Key::MIN`], so that every key has a page.
    fences: Vec<Key>,
    /// First fence of each group of [`GROUP`] fences. The list is short enough to stay in a cache;
    /// a search over all fences would read another line with each step.
    groups: Vec<Key>,
    /// Place and length of each page's keys. No page is empty, except a single one.
    pages: Vec<Page>,
    slabs: Vec<Block<[Key; SLAB_KEYS]>>,
    /// Free places in the slabs, counted in keys; the last that was returned is taken first.
    free: Vec<u32>,
    page_keys_max: usize,
}

/// A page: its place in the slabs and the number of its keys.
#[derive(Debug, Clone, Copy)]
struct Page {
    at: [u8; 4],
    len: [u8; 2],
}

impl Page {
    fn at(self) -> usize {
        u32::from_le_bytes(self.at) as usize
    }

    fn len(self) -> usize {
        u16::from_le_bytes(self.len).into()
    }

    fn set_len(&mut self, keys: usize) {
        self.len = u16::try_from(keys).expect("at most page_keys_max").to_le_bytes();
    }
}

impl Pages {
    /// Creates pages without keys. Tests choose small pages, for many splits and merges.
    pub(super) fn new(page_keys_max: usize) -> Self {
        assert!(
            page_keys_max >= 4,
            "a page that is split must leave two that are not merged at once"
        );
        assert!(page_keys_max <= SLAB_KEYS, "a page stands in one slab");
        let mut new = Self {
            fences: vec![Key::MIN],
            groups: vec![Key::MIN],
            pages: Vec::new(),
            slabs: Vec::new(),
            free: Vec::new(),
            page_keys_max,
        };
        let first = new.take_page();
        new.pages.push(first);
        new
    }

    /// Creates pages of sorted, unique keys.
    pub(super) fn of_sorted(page_keys_max: usize, keys: &[Key]) -> Self {
        let mut new = Self::new(page_keys_max);
        let pages = keys.len().div_ceil(new.after_split()).max(1);
        new.fences.reserve_exact(pages);
        new.pages.reserve_exact(pages);
        new.spread(0, 1, pages, keys);
        new
    }

    /// Returns the most keys of a page.
    pub(super) fn page_keys_max(&self) -> usize {
        self.page_keys_max
    }

    /// Returns the keys from `from` to the end of their page; empty if no key follows at all.
    pub(super) fn from(&self, from: Key) -> &[Key] {
        let page = self.page_of(from);
        let keys = self.keys(page);
        let tail = &keys[keys.partition_point(|k| *k < from)..];
        if tail.is_empty() && page + 1 < self.pages.len() { self.keys(page + 1) } else { tail }
    }

    /// Adds a key that is not present. `page` is a guess of its page.
    pub(super) fn insert(&mut self, key: Key, page: u32) {
        self.insert_at(self.still(page, key), key);
    }

    /// Removes a key that is present. `page` is a guess of its page.
    pub(super) fn remove(&mut self, key: Key, page: u32) {
        self.remove_at(self.still(page, key), key);
    }

    /// Replaces a key. If both keys belong to the same page, as they often do when a device moves,
    /// only the keys between them move.
    pub(super) fn replace(&mut self, (old, old_page): (Key, u32), (new, new_page): (Key, u32)) {
        let page = self.still(old_page, old);
        if !self.is_of(page, new) {
            self.remove_at(page, old);
            return self.insert_at(self.still(new_page, new), new);
        }
        let len = self.pages[page].len();
        let keys = &mut self.room(page)[..len];
        let (Ok(from), Err(to)) = (keys.binary_search(&old), keys.binary_search(&new)) else {
            debug_assert!(false, "a key is taken out once, and added once");
            return;
        };
        if from < to {
            keys.copy_within(from + 1..to, from);
            keys[to - 1] = new;
        } else {
            keys.copy_within(to..from, to + 1);
            keys[to] = new;
        }
    }

    fn insert_at(&mut self, mut page: usize, key: Key) {
        if self.pages[page].len() == self.page_keys_max {
            self.make_room(page);
            page = self.page_of(key);
        }
        let len = self.pages[page].len();
        let keys = &mut self.room(page)[..=len];
        let Err(at) = keys[..len].binary_search(&key) else {
            debug_assert!(false, "a key is added once");
            return;
        };
        keys.copy_within(at..len, at + 1);
        keys[at] = key;
        self.pages[page].set_len(len + 1);
    }

    fn remove_at(&mut self, page: usize, key: Key) {
        let len = self.pages[page].len();
        let keys = &mut self.room(page)[..len];
        let Ok(at) = keys.binary_search(&key) else {
            debug_assert!(false, "a key is taken out once");
            return;
        };
        keys.copy_within(at + 1.., at);
        let left = len - 1;
        self.pages[page].set_len(left);
        if left == 0 && self.pages.len() > 1 {
            self.give_page(page);
            self.pages.remove(page);
            // Keys of the removed page's range now belong to the page before it. Without one, the
            // first page starts at the lowest key.
            self.fences.remove(page);
            self.fences[0] = Key::MIN;
            self.regroup(page);
        } else if left.is_multiple_of(4) && left < self.page_keys_max - self.page_keys_max / 8 {
            self.give_back(page);
        }
    }

    /// Prefetches the fences of the group of a key, the first of three prefetches for a change of
    /// that key.
    pub(super) fn prefetch_group(&self, key: Key) -> u32 {
        let (from, to) = self.group_of(key);
        prefetch::lines(&self.fences[from..to]);
        number(from / GROUP)
    }

    /// Prefetches the entry of the page of a key, the second of three prefetches. `group` is a
    /// guess.
    pub(super) fn prefetch(&self, key: Key, group: u32) -> u32 {
        let from = (group as usize * GROUP).min(self.fences.len());
        let group = &self.fences[from..self.fences.len().min(from + GROUP)];
        let page = (from + group.partition_point(|fence| *fence <= key)).saturating_sub(1);
        if let Some(page) = self.pages.get(page) {
            prefetch::one(page);
        }
        number(page)
    }

    /// Prefetches the keys of a page, the third of three prefetches.
    pub(super) fn prefetch_keys(&self, page: u32) {
        if (page as usize) < self.pages.len() {
            prefetch::lines(self.keys(page as usize));
        }
    }

    /// Spreads the keys around a full page so that no page there is full.
    fn make_room(&mut self, page: usize) {
        let (from, to) = self.window(page);
        let keys = self.concat(from, to);
        let pages = keys.len().div_ceil(self.nearly_full()).max(to - from);
        self.spread(from, to, pages, &keys);
    }

    /// Removes a page if its neighbours can take its keys and keep room.
    fn give_back(&mut self, page: usize) {
        let (from, to) = self.window(page);
        let pages = to - from;
        let held: usize = self.pages[from..to].iter().map(|page| page.len()).sum();
        if pages > 1 && held <= (pages - 1) * self.after_split() {
            let keys = self.concat(from, to);
            self.spread(from, to, held.div_ceil(self.after_split()).max(1), &keys);
        }
    }

    fn concat(&self, from: usize, to: usize) -> Vec<Key> {
        let mut all = Vec::with_capacity((to - from) * self.page_keys_max);
        (from..to).for_each(|page| all.extend_from_slice(self.keys(page)));
        all
    }

    /// Spreads sorted keys evenly over a number of pages that replace the pages `from` to `to`. The
    /// first page keeps its fence: with a higher one, lower keys would belong to a page outside the
    /// range, which may be full.
    fn spread(&mut self, from: usize, to: usize, pages: usize, keys: &[Key]) {
        let kept = from + pages.min(to - from);
        (kept..to).for_each(|page| self.give_page(page));
        self.pages.drain(kept..to);
        self.fences.drain(kept..to);
        let more: Vec<_> = (to..from + pages).map(|_| self.take_page()).collect();
        if self.pages.capacity() - self.pages.len() < more.len() {
            self.pages.reserve_exact(self.pages.len() / ROOM_SHARE + more.len());
            self.fences.reserve_exact(self.pages.len() / ROOM_SHARE + more.len());
        }
        self.fences.splice(kept..kept, more.iter().map(|_| Key::MIN));
        self.pages.splice(kept..kept, more);
        for n in 0..pages {
            let part = &keys[keys.len() * n / pages..keys.len() * (n + 1) / pages];
            self.room(from + n)[..part.len()].copy_from_slice(part);
            self.pages[from + n].set_len(part.len());
            if let Some(first) = part.first().filter(|_| n > 0) {
                self.fences[from + n] = *first;
            }
        }
        self.regroup(from);
    }

    /// Updates the groups for fences that changed from a page on.
    fn regroup(&mut self, page: usize) {
        self.groups.truncate(page / GROUP);
        self.groups.extend(self.fences.iter().step_by(GROUP).skip(page / GROUP));
    }

    /// Returns the range of a page and its neighbours.
    fn window(&self, page: usize) -> (usize, usize) {
        let from = page.saturating_sub(WINDOW / 2).min(self.pages.len().saturating_sub(WINDOW));
        (from, (from + WINDOW).min(self.pages.len()))
    }

    /// Returns the number of keys per page up to which keys are spread over the present pages. It
    /// is below a full page, so that spreading makes room.
    fn nearly_full(&self) -> usize {
        self.page_keys_max - self.page_keys_max / 32 - 1
    }

    /// Returns the number of keys per page to which removing a page or reading a snapshot fills
    /// pages.
    fn after_split(&self) -> usize {
        self.page_keys_max - self.page_keys_max / 16 - 1
    }

    fn page_of(&self, key: Key) -> usize {
        let (from, to) = self.group_of(key);
        from + self.fences[from..to].partition_point(|fence| *fence <= key) - 1
    }

    /// Returns the range of the pages in the group of a key.
    fn group_of(&self, key: Key) -> (usize, usize) {
        let from = (self.groups.partition_point(|fence| *fence <= key) - 1) * GROUP;
        (from, self.fences.len().min(from + GROUP))
    }

    /// Returns the page of a key. `page` is a guess, which is tried first.
    fn still(&self, page: u32, key: Key) -> usize {
        let page = page as usize;
        if self.is_of(page, key) { page } else { self.page_of(key) }
    }

    fn is_of(&self, page: usize, key: Key) -> bool {
        self.fences.get(page).is_some_and(|fence| *fence <= key)
            && self.fences.get(page + 1).is_none_or(|fence| key < *fence)
    }

    fn keys(&self, page: usize) -> &[Key] {
        let page = self.pages[page];
        let from = page.at();
        &self.slabs[from / SLAB_KEYS][from % SLAB_KEYS..][..page.len()]
    }

    /// Returns the whole part of the slabs that belongs to a page.
    fn room(&mut self, page: usize) -> &mut [Key] {
        let from = self.pages[page].at();
        &mut self.slabs[from / SLAB_KEYS][from % SLAB_KEYS..][..self.page_keys_max]
    }

    /// Takes an empty page, which is not in the directory yet.
    fn take_page(&mut self) -> Page {
        if self.free.is_empty() {
            let from = self.slabs.len() * SLAB_KEYS;
            self.slabs.push(Block::new());
            let pages = SLAB_KEYS / self.page_keys_max;
            self.free.extend((0..pages).rev().map(|page| number(from + page * self.page_keys_max)));
        }
        let at = self.free.pop().expect("a slab was added");
        Page { at: at.to_le_bytes(), len: [0; 2] }
    }

    fn give_page(&mut self, page: usize) {
        let at = u32::from_le_bytes(self.pages[page].at);
        self.free.push(at);
    }
}

fn number(at: usize) -> u32 {
    u32::try_from(at).expect("2^32 keys would be more than the ordinals there are")
}

#[cfg(test)]
impl Pages {
    /// Returns all keys, and checks the invariants of the directory.
    pub(super) fn check(&self) -> Vec<Key> {
        assert_eq!((self.fences.len(), self.fences[0]), (self.pages.len(), Key::MIN));
        assert!(self.fences.iter().step_by(GROUP).eq(&self.groups));
        let mut places: Vec<_> = self.pages.iter().map(|page| page.at()).collect();
        places.extend(self.free.iter().map(|at| *at as usize));
        places.sort_unstable();
        let pages = SLAB_KEYS / self.page_keys_max;
        let of_slab =
            |slab| (0..pages).map(move |page| slab * SLAB_KEYS + page * self.page_keys_max);
        assert!(
            places.into_iter().eq((0..self.slabs.len()).flat_map(of_slab)),
            "each place is one page's, or free"
        );
        for n in 0..self.pages.len() {
            let page = self.keys(n);
            assert!(!page.is_empty() || self.pages.len() == 1, "page {n} is empty");
            assert!(page.len() <= self.page_keys_max);
            assert!(page.iter().all(|k| *k >= self.fences[n]));
            assert!(self.fences.get(n + 1).is_none_or(|f| page.iter().all(|k| k < f)));
        }
        let all = self.concat(0, self.pages.len());
        assert!(all.is_sorted_by(|a, b| a < b));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{key::Place, tag::Tag},
        *,
    };
    use clarion_proto::ids::Ordinal;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn key(n: u32) -> Key {
        Key::new(Place::from_bits(u64::from(n / 4)), Tag::NONE, Ordinal(n % 4))
    }

    proptest! {
        /// Compares the pages with a sorted set through splits and merges.
        #[test]
        fn pages_are_a_sorted_set(
            changes in prop::collection::vec((0u32..200, prop::bool::weighted(0.55), 0u32..400), 0..600),
            page_keys in 4usize..8,
        ) {
            let mut pages = Pages::new(page_keys);
            let mut model = BTreeSet::new();
            for (n, add, to) in changes {
                match (add, model.contains(&key(n))) {
                    (_, true) if to < 200 && !model.contains(&key(to)) => {
                        let group = pages.prefetch_group(key(to));
                        let page = pages.prefetch(key(to), group);
                        prop_assert!(pages.is_of(page as usize, key(to)));
                        pages.replace((key(n), n % 7), (key(to), if n % 2 == 0 { page } else { n % 5 }));
                        model.remove(&key(n));
                        model.insert(key(to));
                    }
                    (true, false) => { pages.insert(key(n), n % 7); model.insert(key(n)); }
                    (false, true) => { pages.remove(key(n), n % 5); model.remove(&key(n)); }
                    _ => {}
                }
                prop_assert_eq!(pages.check(), model.iter().copied().collect::<Vec<_>>());
            }
            for n in 0..=200 {
                prop_assert_eq!(pages.from(key(n)).first(), model.range(key(n)..).next());
            }
        }
    }

    /// Checks that pages stay nine tenths full: when filled at random, and after every device has
    /// moved.
    #[test]
    fn pages_stay_full() {
        let mut pages = Pages::new(64);
        let at = |n: u64| {
            Key::new(
                Place::from_bits(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 31),
                Tag::NONE,
                Ordinal(0),
            )
        };
        let fill = |pages: &Pages| {
            pages.pages.iter().map(|p| p.len()).sum::<usize>() * 100 / (pages.pages.len() * 64)
        };
        (0..20_000).for_each(|n| pages.insert(at(n), 0));
        assert!(fill(&pages) >= 90, "{}", fill(&pages));
        for n in 0..20_000 {
            pages.replace((at(n), 0), (at(n + 20_000), 0));
        }
        assert!(fill(&pages) >= 90, "{}", fill(&pages));
        (20_000..38_000).for_each(|n| pages.remove(at(n), 0));
        assert!(fill(&pages) >= 80, "{}", fill(&pages));
    }

    /// Emptied pages are removed, and their room is used again.
    #[test]
    fn merges_down_to_one_page() {
        let mut pages = Pages::new(8);
        for _ in 0..3 {
            (0..200).for_each(|n| pages.insert(key(n), 0));
            assert!((25..33).contains(&pages.pages.len()), "{}", pages.pages.len());
            (0..200).for_each(|n| pages.remove(key(n), 0));
            assert_eq!((pages.check(), pages.pages.len()), (vec![], 1));
            assert!(pages.slabs.len() <= 5, "{}", pages.slabs.len());
        }
    }
}
