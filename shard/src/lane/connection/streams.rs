//! Open requests: the ticket of each stream, and the time at which its request was sent.
//!
//! A ring of slots, found by the stream's id without hashing. Ids ascend by two, so requests that
//! are close in time are close in memory. A request that stays open for long keeps its slot; an id
//! whose slot is taken is skipped, which HTTP/2 allows (RFC 9113, 5.1.1: using an id closes the
//! unused lower ones). With twice as many slots as streams a free one is near, even if most
//! requests stay open for long: skipping costs at most every second id.
//!
//! The slots are also a list in the order of sending. All requests have the same deadline after
//! sending, so the head of the list has the next deadline.

use clarion_proto::time::Time;

const NONE: u32 = u32::MAX;

/// An open request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) ticket: u64,
    pub(crate) sent: Time,
    /// Id of the open stream; 0: the slot is free.
    pub(crate) id: u32,
    /// Number of the answer in progress, from [`super::answers::Answers`].
    pub(crate) answer: Option<std::num::NonZeroU16>,
    /// Length of the answer's body so far, whether kept or not, bytes.
    pub(crate) body_bytes: u16,
    older: u32,
    newer: u32,
}

const FREE: Slot =
    Slot { ticket: 0, sent: Time(0), id: 0, answer: None, body_bytes: 0, older: NONE, newer: NONE };

/// All open requests of a connection.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Slots of the ring; their number is a power of two.
    slots: Box<[Slot]>,
    oldest: u32,
    newest: u32,
    open: usize,
    /// Id of the next request, unless its slot is taken.
    next_id: u32,
    last_id: u32,
}

impl Streams {
    /// Creates a ring for at most `streams_max` streams at once and ids up to `last_id`.
    pub(crate) fn new(streams_max: usize, last_id: u32) -> Self {
        let slots = vec![FREE; (2 * streams_max).next_power_of_two()].into_boxed_slice();
        Self { slots, oldest: NONE, newest: NONE, open: 0, next_id: 1, last_id }
    }

    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Reports whether no request can be opened any more.
    pub(crate) fn is_spent(&self) -> bool {
        self.next_id > self.last_id
    }

    /// Reports whether the id has not been used or skipped yet, so that no frame may name it.
    pub(crate) fn is_idle(&self, id: u32) -> bool {
        id >= self.next_id
    }

    /// Returns the id of the next request, which grows by two or more with each.
    pub(crate) fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Opens the next stream. Returns `None` if the ids are used up. The caller keeps the number of
    /// open streams within its limit, so a slot is free.
    pub(crate) fn push(&mut self, ticket: u64, sent: Time) -> Option<u32> {
        debug_assert!(self.open < self.slots.len());
        while !self.is_spent() {
            let id = self.next_id;
            // The loop ends: a stream has 2^30 odd ids and their last is 2^31-1.
            self.next_id = id + 2;
            let at = self.index(id);
            if self.slots[at as usize].id != 0 {
                continue;
            }
            self.slots[at as usize] = Slot {
                ticket,
                sent,
                id,
                answer: None,
                body_bytes: 0,
                older: self.newest,
                newer: NONE,
            };
            match self.newest {
                NONE => self.oldest = at,
                newest => self.slots[newest as usize].newer = at,
            }
            self.newest = at;
            self.open += 1;
            return Some(id);
        }
        None
    }

    /// Returns an open stream.
    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut Slot> {
        let at = self.index(id);
        Some(&mut self.slots[at as usize]).filter(|s| s.id == id && id != 0)
    }

    /// Ends a stream and returns its slot.
    pub(crate) fn remove(&mut self, id: u32) -> Option<Slot> {
        let at = self.index(id) as usize;
        let slot = self.slots[at];
        if slot.id != id || id == 0 {
            return None;
        }
        match slot.older {
            NONE => self.oldest = slot.newer,
            older => self.slots[older as usize].newer = slot.newer,
        }
        match slot.newer {
            NONE => self.newest = slot.older,
            newer => self.slots[newer as usize].older = slot.older,
        }
        self.slots[at].id = 0;
        self.open -= 1;
        Some(slot)
    }

    /// Returns the stream that has been open longest.
    pub(crate) fn oldest(&self) -> Option<&Slot> {
        self.slots.get(self.oldest as usize)
    }

    /// Returns the stream that was opened last.
    pub(crate) fn newest(&self) -> Option<&Slot> {
        self.slots.get(self.newest as usize)
    }

    #[allow(clippy::cast_possible_truncation)] // there are at most 2^15 slots
    fn index(&self, id: u32) -> u32 {
        (id >> 1) & (self.slots.len() as u32 - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Compares the ring with a map, with requests that stay open at random.
        #[test]
        fn behaves_as_a_map_in_order_of_sending(actions in proptest::collection::vec((any::<bool>(), 0usize..16), 1..400)) {
            let (mut streams, mut model) = (Streams::new(8, STREAM_IDS), BTreeMap::new());
            for (now, (push, which)) in (1u64..).zip(actions) {
                if push && model.len() < 8 {
                    let id = streams.push(now, Time(now)).unwrap();
                    prop_assert!(model.keys().all(|&k| k < id));
                    model.insert(id, now);
                } else if let Some(&id) = model.keys().nth(which) {
                    prop_assert_eq!(streams.remove(id).map(|s| s.ticket), model.remove(&id));
                    prop_assert!(streams.remove(id).is_none());
                }
                prop_assert_eq!(streams.open(), model.len());
                prop_assert_eq!(streams.oldest().map(|s| s.ticket), model.values().next().copied());
                prop_assert_eq!(streams.newest().map(|s| s.ticket), model.values().last().copied());
            }
        }
    }

    const STREAM_IDS: u32 = 0x7fff_ffff;

    #[test]
    fn ids_end() {
        let mut streams = Streams::new(1, 5);
        for id in [1, 3, 5] {
            assert_eq!(streams.push(0, Time(0)), Some(id));
            assert!(streams.remove(id).is_some());
        }
        assert!(streams.is_spent());
        assert_eq!(streams.push(0, Time(0)), None);
    }
}
