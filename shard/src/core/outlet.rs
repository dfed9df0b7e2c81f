//! The part of a wave that goes through one lane: a walk for each partition, and the retry line.
//!
//! A wave with apps on two lanes walks twice, once for each lane. A single walk would stop at the
//! first device of a lane that takes no requests, and a gateway that is down would delay the phones
//! of the other platform. Each walk skips the devices of the other lane by the tag in their keys.

use std::collections::VecDeque;

use clarion_proto::{
    device::Cell,
    ids::{LaneId, Ordinal},
};
use roaring::RoaringBitmap;

use super::{part::Part, partitions::Partitions};
use crate::{
    lane::retry::RetryLine,
    partition::Tags,
    wave::{Ahead, Cover, Step, Walk},
};

/// One lane's part of a wave.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) lane: LaneId,
    pub(crate) retry: RetryLine,
    /// Number of requests so far, which decides whether the wave still counts as new: see
    /// [`crate::lane::slice`].
    pub(crate) begun: usize,
    /// Walks over the node's partitions, indexed by part.
    walks: Vec<Walk>,
    tags: Tags,
    /// Parts that may have devices to push to, in the order of their turn.
    ready: VecDeque<u16>,
    /// Whether a part is in `ready`, indexed by part.
    is_ready: Vec<bool>,
    /// Parts of `ready` in which a late device was found; each once.
    late: VecDeque<u16>,
    /// Number of open bands, which may be walked.
    bands_open: u32,
    bands: u32,
}

/// A device that a walk found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) part: u16,
    pub(crate) ordinal: Ordinal,
    pub(crate) cell: Cell,
    pub(crate) band: u32,
}

/// Remaining work of one turn, in steps of walks.
#[derive(Debug)]
pub(crate) struct Steps(pub(crate) usize);

/// Cost of a `Step::More` in steps: a walk that found no device has searched about this many.
const MORE_COSTS: usize = 16;

impl Outlet {
    /// Creates an outlet; `tags` are those of the apps on the lane.
    pub(crate) fn new(lane: LaneId, tags: Tags, bands: u32) -> Self {
        Self {
            lane,
            retry: RetryLine::default(),
            begun: 0,
            walks: Vec::new(),
            tags,
            ready: VecDeque::new(),
            is_ready: Vec::new(),
            late: VecDeque::new(),
            bands_open: 1,
            bands,
        }
    }

    /// Adds a part.
    pub(crate) fn add(&mut self, handed: RoaringBitmap) {
        self.walks.push(Walk::new(handed, self.tags, Ahead::Tokens));
        self.is_ready.push(false);
    }

    /// Restarts a part that was rebuilt or has come back: it is walked from its beginning once it
    /// is ready.
    pub(crate) fn restart(&mut self, part: usize) {
        self.walks[part].restart();
        self.rest(u16::try_from(part).expect("at most PARTITIONS_MAX"));
    }

    /// Marks a device as handed over, so that it is not returned again.
    pub(crate) fn hand(&mut self, part: u16, ordinal: Ordinal) -> bool {
        self.walks[usize::from(part)].hand(ordinal)
    }

    pub(crate) fn is_handed(&self, part: u16, ordinal: Ordinal) -> bool {
        self.walks[usize::from(part)].handed().contains(ordinal)
    }

    pub(crate) fn walk(&mut self, part: usize) -> &mut Walk {
        &mut self.walks[part]
    }

    pub(crate) fn entered(&mut self, cover: &Cover, part: usize, ordinal: Ordinal, cell: Cell) {
        self.walks[part].entered(cover, ordinal, cell);
    }

    /// Returns a found device that could not be handed over, so that it is found again.
    pub(crate) fn put_back(&mut self, found: Found) {
        let part = usize::from(found.part);
        self.walks[part].comes_again(found.ordinal, found.cell, found.band);
        self.make_ready_first(part);
    }

    /// Records that a part may have devices to push to.
    pub(crate) fn make_ready(&mut self, part: usize) {
        if !std::mem::replace(&mut self.is_ready[part], true) {
            self.ready.push_back(u16::try_from(part).expect("at most PARTITIONS_MAX"));
        }
    }

    /// Records that a part has a late device. Late devices go before devices in order, also before
    /// those of other parts, whose walk of a band may take seconds in a paced wave.
    pub(crate) fn make_ready_first(&mut self, part: usize) {
        let number = u16::try_from(part).expect("at most PARTITIONS_MAX");
        if self.walks[part].late() > 0 && !self.late.contains(&number) {
            self.late.push_back(number);
        }
        if !std::mem::replace(&mut self.is_ready[part], true) {
            self.ready.push_front(number);
        }
    }

    /// Returns the part whose turn it is: one with a late device, otherwise one that may have
    /// devices.
    fn first(&mut self) -> Option<u16> {
        while let Some(&part) = self.late.front() {
            if self.walks[usize::from(part)].late() > 0 {
                return Some(part);
            }
            self.late.pop_front();
        }
        self.ready.front().copied()
    }

    /// Records that a part has no devices in the open bands.
    pub(crate) fn rest(&mut self, part: u16) {
        self.late.retain(|other| *other != part);
        self.ready.retain(|other| *other != part);
        self.is_ready[usize::from(part)] = false;
    }

    /// Opens the bands below a number.
    pub(crate) fn open_bands(&mut self, bands: u32, parts: &[Part]) {
        if bands > self.bands_open {
            self.bands_open = bands.min(self.bands.max(1));
            self.wake(parts);
        }
    }

    fn wake(&mut self, parts: &[Part]) {
        for (n, part) in parts.iter().enumerate() {
            if part.started && part.slot.is_some() {
                self.make_ready(n);
            }
        }
    }

    /// Returns the next device of the nearest open band. With `own_bands`, this core is the only
    /// one and opens the next band itself when all its partitions have walked the one before.
    pub(crate) fn next(
        &mut self,
        parts: &[Part],
        partitions: &Partitions,
        cover: &Cover,
        own_bands: bool,
        steps: &mut Steps,
    ) -> Option<Found> {
        loop {
            while let Some(part) = self.first() {
                if steps.0 == 0 {
                    return None;
                }
                steps.0 -= 1;
                let step = match parts[usize::from(part)].slot {
                    Some(slot) => self.walks[usize::from(part)].step(
                        partitions.partition(slot),
                        cover,
                        self.bands_open,
                    ),
                    None => Step::Idle,
                };
                match step {
                    Step::Device { ordinal, cell, band } => {
                        return Some(Found { part, ordinal, cell, band });
                    }
                    Step::More => steps.0 = steps.0.saturating_sub(MORE_COSTS),
                    Step::Waiting | Step::Idle => self.rest(part),
                }
            }
            if !own_bands
                || self.bands_open >= self.bands
                || self.bands_walked(parts) < self.bands_open
            {
                return None;
            }
            self.bands_open += 1;
            self.wake(parts);
        }
    }

    /// Returns the number of bands walked in all parts.
    pub(crate) fn bands_walked(&self, parts: &[Part]) -> u32 {
        let owned = parts.iter().zip(&self.walks).filter(|(part, _)| part.slot.is_some());
        owned
            .map(|(part, walk)| if part.started { walk.bands_walked() } else { 0 })
            .min()
            .unwrap_or(self.bands)
    }

    /// Reports whether no device is known to be left in the open bands.
    pub(crate) fn is_idle(&self) -> bool {
        self.ready.is_empty()
    }

    /// Reports whether devices may be left, or pushes wait for another attempt.
    pub(crate) fn has_work(&self) -> bool {
        !self.ready.is_empty() || !self.retry.is_empty()
    }
}
