//! The walk of one wave in one partition, which finds the next device.
//!
//! **Order.** Bands from the nearest; within a band by key (cell, tag of the app, ordinal). The
//! *frontier* is (band, key): every device before it has been met. It names no page, so pages may
//! split, merge and fill while the wave waits for a lane.
//!
//! **A small buffer.** Finding the next key needs a search, so each search takes up to
//! [`BUFFER_KEYS`] keys at once and moves the frontier behind them. A buffered or late device is
//! only a key. At its turn it is returned if the device still has exactly that key. If not, the
//! partition reported the new key ([`Walk::entered`]), and the walk meets the device there.
//!
//! A push reads the device's row and token, which are spread over memory. So a search that has
//! found the next devices also loads their rows and tokens into the cache, all at once
//! ([`Partition::warm`]), so that the waits for memory overlap; [`Ahead`] selects what is loaded.
//!
//! **Late devices.** A device that becomes pushable behind the frontier waits in the *late queue*,
//! nearest band first and before all devices ahead of the frontier. The queue is bounded. When it
//! is full the walk starts over from the nearest cell, which includes every device in the queue: a
//! bit skips devices that were met already, and skipping a million takes milliseconds. The walk
//! cannot start over again and again, because right after a restart all devices are ahead of the
//! frontier.
//!
//! **Each device once.** There are two bits for each ordinal. *Handed* lasts for the wave's life:
//! the device is never returned again. *Met* is set when a device is returned, and cleared when the
//! device enters again without having been handed: so a device that was not addressed is returned
//! again only after it has changed.

use std::collections::BTreeSet;

use clarion_proto::{device::Cell, ids::Ordinal};
use roaring::RoaringBitmap;

use super::{Cover, cover::Range};
use crate::partition::{
    Bits, Partition, Tags,
    key::{Key, Place},
};

/// Most keys in the buffer: 2 KiB. A walk holds at most this many devices, and no page, between two
/// steps.
const BUFFER_KEYS: usize = 256;
/// Most late devices of one wave in one partition: 64 KiB of keys. That is a quarter of a city's
/// partition of 16,000 devices, moved while a gateway was silent.
const LATE_MAX: usize = 4_096;
/// Most searches and outdated late entries of one [`Walk::step`]: at worst 16 pages of bits to
/// skip, some ten microseconds, so that a core's sockets do not wait.
const WORK_PER_STEP: usize = 16;

/// The walk of one wave in one partition.
#[derive(Debug)]
pub struct Walk {
    /// Tags of the devices that the walk returns.
    tags: Tags,
    handed: Bits,
    met: Bits,
    /// Ordinals handed since the last report, each once: at most the partition's devices. They are
    /// sorted on request, because inserting into a set one by one costs several times as much.
    unreported: Vec<u32>,
    /// Band of the frontier. Every device in a nearer band, and in this band below `next`, was met
    /// or is in the buffer or the late queue.
    band: u32,
    next: Key,
    /// Index of the first range of the band that reaches `next`, or of an earlier one.
    range: usize,
    /// Keys of `band` below `next`, in reverse order.
    buffer: Vec<Key>,
    /// Value of [`Partition::changes`] when the buffer was filled. While the value is the same, all
    /// buffered devices have their keys.
    buffered_at: u64,
    /// Late queue: band, place, ordinal.
    late: BTreeSet<(u32, Place, Ordinal)>,
    bands_walked: u32,
    ahead: Ahead,
    limits: Limits,
}

/// Bounds of a walk. Tests choose small ones, so that every bound is reached.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) buffer_keys: usize,
    pub(super) late_max: usize,
    pub(super) work_per_step: usize,
}

/// Data of the next devices that a walk loads into the cache before their turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// Nothing is loaded: the caller does not read the devices.
    Nothing,
    /// Rows are loaded: the devices are counted.
    Rows,
    /// Rows and tokens are loaded: the devices are pushed to.
    Tokens,
}

/// Result of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A device that is pushable now and inside the cover. It is returned once, unless it enters
    /// again before it is handed.
    Device {
        /// Ordinal of the device.
        ordinal: Ordinal,
        /// Last known cell of the device.
        cell: Cell,
        /// Number of the device's band in the cover.
        band: u32,
    },
    /// The work limit of one call was reached without a device; the caller must call again.
    More,
    /// All open bands are walked and no device there is late. A higher `bands_open` continues the
    /// walk.
    Waiting,
    /// All bands are walked and no device is late. [`Walk::entered`] may end this state.
    Idle,
}

impl Walk {
    /// Creates a walk from the beginning, without the devices that an earlier owner handed over.
    #[must_use]
    #[allow(clippy::needless_pass_by_value)] // a wave gives it away; the form kept here is another
    pub fn new(handed: RoaringBitmap, tags: Tags, ahead: Ahead) -> Self {
        let limits =
            Limits { buffer_keys: BUFFER_KEYS, late_max: LATE_MAX, work_per_step: WORK_PER_STEP };
        Self { ahead, ..Self::with_limits(&handed, tags, limits) }
    }

    pub(super) fn with_limits(handed: &RoaringBitmap, tags: Tags, limits: Limits) -> Self {
        let handed = Bits::from(handed);
        Self {
            tags,
            met: handed.clone(),
            handed,
            unreported: Vec::new(),
            band: 0,
            next: Key::MIN,
            range: 0,
            buffer: Vec::new(),
            buffered_at: 0,
            late: BTreeSet::new(),
            bands_walked: 0,
            ahead: Ahead::Tokens,
            limits,
        }
    }

    /// Returns the next device in bands below `bands_open`, nearest band first. Every call must get
    /// the same partition and cover, and [`Walk::entered`] must have been called for every change
    /// of the partition since the last call.
    pub fn step(&mut self, partition: &Partition, cover: &Cover, bands_open: u32) -> Step {
        for _ in 0..self.limits.work_per_step {
            if let Some((band, place, ordinal)) = self.next_late(bands_open) {
                if let Some(key) = self.meet(partition, place, ordinal) {
                    return device(key, band);
                }
                continue;
            }
            let Some(ranges) = cover.ranges(self.band) else {
                return if self.late.is_empty() { Step::Idle } else { Step::Waiting };
            };
            if self.band >= bands_open {
                return Step::Waiting;
            }
            while let Some(key) = self.buffer.pop() {
                let stands = partition.changes() == self.buffered_at
                    || partition.key_of(key.ordinal()) == Some(key);
                if stands && self.met.insert(key.ordinal()) {
                    return device(key, self.band);
                }
            }
            if !self.search(partition, ranges) {
                (self.band, self.next, self.range) = (self.band + 1, Key::MIN, 0);
                self.bands_walked = self.bands_walked.max(self.band);
            }
        }
        Step::More
    }

    /// Records that a device was handed to a lane. Returns false if it was handed before and must
    /// not be pushed again. The caller must call it right after the `step` that returned the
    /// device, with no record applied between.
    pub fn hand(&mut self, ordinal: Ordinal) -> bool {
        let new = self.handed.insert(ordinal);
        if new {
            self.met.insert(ordinal);
            self.unreported.push(ordinal.0);
        }
        new
    }

    /// Records devices that another holder of the partition has handed.
    pub fn handed_elsewhere(&mut self, handed: &RoaringBitmap) {
        for ordinal in handed.iter().map(Ordinal) {
            self.handed.insert(ordinal);
            self.met.insert(ordinal);
        }
    }

    /// Revokes that a device was handed, because its push was abandoned. The next holder of the
    /// partition hands it again.
    pub fn take_back(&mut self, ordinal: Ordinal) {
        if self.handed.remove(ordinal) {
            self.met.remove(ordinal);
            self.unreported.retain(|other| *other != ordinal.0);
        }
    }

    /// Starts over, without the handed devices, because the partition was rebuilt.
    pub fn restart(&mut self) {
        self.met = self.handed.clone();
        self.bands_walked = 0;
        self.start_over();
    }

    /// Handles a device of [`crate::partition::Applied::placed`]. The caller must pass every one of
    /// the partition.
    pub fn entered(&mut self, cover: &Cover, ordinal: Ordinal, cell: Cell) {
        if self.handed.contains(ordinal) {
            return;
        }
        self.met.remove(ordinal);
        if let Some(band) = cover.band_of(cell) {
            self.wait_if_late(band, Place::from(cell), ordinal);
        }
    }

    /// Handles a device that another walk of the same cover met, like [`Walk::entered`] with a
    /// known band.
    pub fn comes_again(&mut self, ordinal: Ordinal, cell: Cell, band: u32) {
        if !self.handed.contains(ordinal) {
            self.met.remove(ordinal);
            self.wait_if_late(band, Place::from(cell), ordinal);
        }
    }

    /// Adds a device to the late queue unless it is ahead of the frontier. At the frontier's own
    /// place it may be ahead as well; then it is returned a little early, and not again.
    fn wait_if_late(&mut self, band: u32, place: Place, ordinal: Ordinal) {
        if (band, Key::first_at(place)) >= (self.band, self.next) {
            return;
        }
        if self.late.len() < self.limits.late_max {
            self.late.insert((band, place, ordinal));
        } else {
            self.start_over();
        }
    }

    /// Returns the number of completely walked bands, from the nearest. It decreases only when the
    /// walk is restarted.
    #[must_use]
    pub fn bands_walked(&self) -> u32 {
        self.bands_walked
    }

    /// Returns the devices handed since the last call.
    pub fn take_handed(&mut self) -> RoaringBitmap {
        self.unreported.sort_unstable();
        RoaringBitmap::from_sorted_iter(self.unreported.drain(..))
            .expect("sorted, and each was handed once")
    }

    /// Returns all handed devices, including those of earlier owners.
    #[must_use]
    pub fn handed(&self) -> &Bits {
        &self.handed
    }

    /// Returns the number of devices in the late queue.
    #[must_use]
    pub fn late(&self) -> usize {
        self.late.len()
    }

    fn next_late(&mut self, bands_open: u32) -> Option<(u32, Place, Ordinal)> {
        let (band, ..) = self.late.first()?;
        if *band < bands_open { self.late.pop_first() } else { None }
    }

    /// Meets a late device if the walk looks for it, and if it is still at the same place and was
    /// not met since.
    fn meet(&mut self, partition: &Partition, place: Place, ordinal: Ordinal) -> Option<Key> {
        let key = partition
            .key_of(ordinal)
            .filter(|key| key.place() == place && self.tags.has(key.tag()))?;
        self.met.insert(ordinal).then_some(key)
    }

    /// Fills the buffer with the next keys of the band, up to the end of a page. Returns false if
    /// the band has no more.
    fn search(&mut self, partition: &Partition, ranges: &[Range]) -> bool {
        self.range += gallop(&ranges[self.range..], |r| r.last < self.next);
        let Some(range) = ranges.get(self.range) else { return false };
        let mut keys = partition.keys_from(self.next.max(range.first));
        let Some(&last) = keys.last() else { return false };
        loop {
            let Some(&key) = keys.first() else {
                self.next = last.next();
                break;
            };
            // No device is between `next` and this key, neither in this range nor in those that end
            // before it.
            self.next = key;
            self.range += gallop(&ranges[self.range..], |r| r.last < key);
            let Some(range) = ranges.get(self.range) else { break };
            if key < range.first {
                keys = &keys[gallop(keys, |k| *k < range.first)..];
            } else if self.buffer.len() < self.limits.buffer_keys {
                let inside = &keys[..gallop(keys, |k| *k <= range.last)];
                keys = &keys[self.take(inside)..];
            } else {
                break;
            }
        }
        self.buffer.reverse();
        self.buffered_at = partition.changes();
        match self.ahead {
            Ahead::Nothing => 0,
            Ahead::Rows => std::hint::black_box(partition.warm_rows(&self.buffer)),
            Ahead::Tokens => std::hint::black_box(partition.warm(&self.buffer)),
        };
        true
    }

    /// Adds the keys that were not met to the buffer. Returns the number of processed keys when the
    /// buffer is full.
    fn take(&mut self, keys: &[Key]) -> usize {
        for (at, key) in keys.iter().enumerate() {
            if !self.tags.has(key.tag()) || self.met.contains(key.ordinal()) {
                continue;
            }
            if self.buffer.len() == self.limits.buffer_keys {
                return at;
            }
            self.buffer.push(*key);
        }
        keys.len()
    }

    fn start_over(&mut self) {
        (self.band, self.next, self.range) = (0, Key::MIN, 0);
        self.buffer.clear();
        self.late.clear();
    }
}

fn device(key: Key, band: u32) -> Step {
    Step::Device { ordinal: key.ordinal(), cell: key.place().cell(), band }
}

/// Returns the number of items at the start that satisfy `ahead`; no item after the first that
/// fails may satisfy it. The search doubles its steps, then halves them, so few items cost little
/// in a list of any length.
fn gallop<T>(sorted: &[T], ahead: impl Fn(&T) -> bool) -> usize {
    let mut end = 1;
    while end <= sorted.len() && ahead(&sorted[end - 1]) {
        end *= 2;
    }
    let start = end / 2;
    start + sorted[start..sorted.len().min(end)].partition_point(ahead)
}
