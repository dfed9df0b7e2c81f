//! Open pushes: handed to a lane, and without an outcome yet.
//!
//! A ticket names a slot here rather than (wave, partition, ordinal): an outcome must be counted
//! where its device was counted as handed, and the device may have moved, changed its token or been
//! removed since. Slots are reused. Each use has its own number in the upper half of the ticket, so
//! an answer to an abandoned push is recognized and ignored.
//!
//! Bound: a walk hands out devices only while its lane's retry lines are below their share, so the
//! number of slots never exceeds those shares plus all streams of this core's connections.

use clarion_proto::ids::{DeviceId, Ordinal};

/// A push that was handed over and has no outcome yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Open {
    /// Slot of the push's wave.
    pub(crate) wave: u16,
    /// Index of the outlet within the wave.
    pub(crate) outlet: u16,
    /// Index of the partition's part within the wave.
    pub(crate) part: u16,
    /// Index of the app within the wave.
    pub(crate) app: u16,
    /// Index within the app of the message sent last.
    pub(crate) message: u16,
    pub(crate) ordinal: Ordinal,
    /// Band in which the device was counted as handed.
    pub(crate) band: u32,
    /// Slot of the res-6 cell in which the device was counted as handed.
    pub(crate) cell: u32,
    /// Hash of the token sent last, to which a dead-token answer refers.
    pub(crate) token_hash: u64,
    pub(crate) device: DeviceId,
    /// Number of the provider token of the last request.
    pub(crate) credential: u32,
    /// Number of requests so far that did not end the push.
    pub(crate) tries: u8,
    /// Number of answers that called its message or project into question, or gave an unknown
    /// reason.
    pub(crate) doubts: u8,
    /// Whether one of the requests was never answered, so that the push may have been delivered.
    pub(crate) unanswered: bool,
    /// Slot of the last request's connection, if the next request must use another one.
    pub(crate) avoid: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
enum Slot {
    Free { next: u32 },
    Used(Open),
}

const END: u32 = u32::MAX;

/// All open pushes of a core.
#[derive(Debug)]
pub(crate) struct Opens {
    /// Slots, each with the number of its uses.
    slots: Vec<(u32, Slot)>,
    free: u32,
}

impl Default for Opens {
    fn default() -> Self {
        Self { slots: Vec::new(), free: END }
    }
}

impl Opens {
    /// Adds a push and returns its slot.
    #[allow(clippy::cast_possible_truncation)] // bounded far below 2^32, see the module
    pub(crate) fn insert(&mut self, open: Open) -> u32 {
        if self.free == END {
            self.slots.push((0, Slot::Used(open)));
            return (self.slots.len() - 1) as u32;
        }
        let slot = self.free;
        let (uses, entry) = &mut self.slots[slot as usize];
        let Slot::Free { next } = *entry else { unreachable!("the free list holds free slots") };
        self.free = next;
        // The highest bit of a ticket marks those of guests (`guests`).
        *uses = uses.wrapping_add(1) & (u32::MAX >> 1);
        *entry = Slot::Used(open);
        slot
    }

    /// Returns the ticket under which a connection knows the push.
    pub(crate) fn ticket(&self, slot: u32) -> u64 {
        u64::from(self.slots[slot as usize].0) << 32 | u64::from(slot)
    }

    /// Returns the slot of a ticket, if the ticket still names the same push.
    #[allow(clippy::cast_possible_truncation)] // the two halves
    pub(crate) fn find(&self, ticket: u64) -> Option<u32> {
        let (slot, uses) = (ticket as u32, (ticket >> 32) as u32);
        match self.slots.get(slot as usize) {
            Some((now, Slot::Used(_))) if *now == uses => Some(slot),
            _ => None,
        }
    }

    /// Ends the push of a ticket, if the ticket still names the same push.
    pub(crate) fn take(&mut self, ticket: u64) -> Option<Open> {
        self.find(ticket).map(|slot| self.remove(slot))
    }

    /// Returns the open push in a slot.
    ///
    /// # Panics
    /// If the slot is free. Only [`Opens::find`] and retry lines return slots, and both end with
    /// the push.
    pub(crate) fn get(&mut self, slot: u32) -> &mut Open {
        match &mut self.slots[slot as usize].1 {
            Slot::Used(open) => open,
            Slot::Free { .. } => unreachable!("slot {slot} is free"),
        }
    }

    /// Ends the push in a slot.
    ///
    /// # Panics
    /// Those of [`Opens::get`].
    pub(crate) fn remove(&mut self, slot: u32) -> Open {
        let open = *self.get(slot);
        self.slots[slot as usize].1 = Slot::Free { next: self.free };
        self.free = slot;
        open
    }

    /// Returns all open pushes in the order of their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Open> {
        self.slots.iter().filter_map(|(_, slot)| match slot {
            Slot::Used(open) => Some(open),
            Slot::Free { .. } => None,
        })
    }

    /// Returns the highest number of slots that were in use at once, which determines the memory.
    #[cfg(test)]
    pub(crate) fn capacity_used(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(ordinal: u32) -> Open {
        Open {
            wave: 0,
            outlet: 0,
            part: 0,
            app: 0,
            message: 0,
            ordinal: Ordinal(ordinal),
            band: 0,
            cell: 0,
            token_hash: 0,
            device: DeviceId([0; 16]),
            credential: 0,
            tries: 0,
            doubts: 0,
            unanswered: false,
            avoid: None,
        }
    }

    #[test]
    fn a_late_answer_does_not_meet_the_next_push_of_its_slot() {
        let mut opens = Opens::default();
        let first = opens.insert(open(1));
        let ticket = opens.ticket(first);
        assert_eq!(opens.remove(opens.find(ticket).unwrap()).ordinal, Ordinal(1));
        let second = opens.insert(open(2));
        assert_eq!(second, first);
        assert_eq!(opens.find(ticket), None);
        assert_eq!(opens.find(opens.ticket(second)), Some(second));
        assert_eq!(opens.find(99), None);
    }

    #[test]
    fn slots_are_reused() {
        let mut opens = Opens::default();
        for round in 0..10 {
            let slots: Vec<_> = (0..5).map(|n| opens.insert(open(round * 5 + n))).collect();
            assert_eq!(opens.iter().count(), 5);
            for slot in slots {
                opens.remove(slot);
            }
        }
        assert_eq!((opens.iter().count(), opens.capacity_used()), (0, 5));
    }
}
