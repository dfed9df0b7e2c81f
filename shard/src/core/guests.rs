//! The host's records of its guests: credits, waiting requests, results, and the guest of each
//! request.

use std::collections::VecDeque;

use clarion_proto::{
    ids::{LaneId, WaveId},
    time::Time,
};

use super::letter::{Became, Entry, Fate, Run};
use crate::lane::{
    connection::{ConnectionEvent, TemplateSpec},
    evidence::Witness,
};

/// Bit that marks tickets of guests; tickets of this core's own pushes never have it (see
/// [`super::open`]).
pub(super) const GUEST: u64 = 1 << 63;

/// One core that borrows connections, on one lane.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) core: usize,
    pub(super) lane: LaneId,
    /// Round of its last [`super::letter::Letter::Want`], if the request for credits is still open.
    pub(super) wants: Option<u32>,
    /// Credits that the guest has not used.
    pub(super) promised: usize,
    /// Requests that wait for a connection.
    pub(super) runs: VecDeque<Waiting>,
    pub(super) waiting: usize,
    /// Requests that are encoded and have no result yet.
    pub(super) under_way: usize,
    /// Templates, indexed by the guest's number: the number of this core, and the content.
    pub(super) templates: Vec<Option<(u32, TemplateSpec)>>,
    pub(super) fates: Vec<Fate>,
    pub(super) left: bool,
}

/// A run of requests and the number of them that were sent.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) run: Run,
    pub(super) next: usize,
    pub(super) token_at: usize,
    /// Whether an entry was handed back, indexed by entry.
    pub(super) void: Vec<bool>,
}

/// A request of a guest on one of our connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Carried {
    pub(super) guest: u16,
    pub(super) ticket: u64,
    pub(super) credential: u32,
}

/// Guests of all lanes.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    pub(super) all: Vec<Option<Guest>>,
    pub(super) carried: Vec<(u32, Option<Carried>)>,
    pub(super) free: Vec<u32>,
    /// Index of the guest whose turn it is for room that cannot be divided.
    pub(super) turn: usize,
}

impl Guests {
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Reports whether a guest of the lane has devices to push to, or waiting requests.
    pub(crate) fn want(&self, lane: LaneId) -> bool {
        self.of(lane).any(|guest| guest.wants.is_some() || guest.waiting > 0)
    }

    /// Returns the earliest time after which a waiting request may no longer be written.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let fronts = self.all.iter().flatten().filter_map(|guest| guest.runs.front());
        fronts
            .filter_map(|waiting| waiting.run.entries.get(waiting.next))
            .map(|entry| entry.until)
            .min()
    }

    pub(super) fn of(&self, lane: LaneId) -> impl Iterator<Item = &Guest> {
        self.all.iter().flatten().filter(move |guest| guest.lane == lane)
    }

    pub(super) fn find(&mut self, core: usize, lane: LaneId) -> Option<&mut Guest> {
        self.all.iter_mut().flatten().find(|guest| guest.core == core && guest.lane == lane)
    }

    pub(super) fn carry(&mut self, carried: Carried) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.carried.push((0, None));
            u32::try_from(self.carried.len() - 1).expect("at most the streams of a core")
        });
        let (uses, entry) = &mut self.carried[slot as usize];
        *uses = uses.wrapping_add(1) & 0x7fff_ffff;
        *entry = Some(carried);
        GUEST | u64::from(*uses) << 32 | u64::from(slot)
    }

    #[allow(clippy::cast_possible_truncation)] // the two halves
    pub(super) fn carried(&mut self, ticket: u64) -> Option<Carried> {
        let (slot, uses) = (ticket as u32, (ticket >> 32) as u32 & 0x7fff_ffff);
        let (now, entry) = self.carried.get_mut(slot as usize)?;
        let carried = entry.take_if(|_| *now == uses)?;
        self.free.push(slot);
        Some(carried)
    }
}

/// Returns the ticket of a connection's event, if the ticket belongs to a guest.
pub(super) fn ticket_of_guest(event: &ConnectionEvent) -> Option<u64> {
    match event {
        ConnectionEvent::Answer { ticket, .. }
        | ConnectionEvent::Unanswered { ticket, .. }
        | ConnectionEvent::Unprocessed { ticket } => {
            Some(*ticket).filter(|ticket| ticket & GUEST != 0)
        }
        ConnectionEvent::Closing { .. } | ConnectionEvent::Closed => None,
    }
}

impl Guest {
    pub(super) fn new(core: usize, lane: LaneId) -> Self {
        Self {
            core,
            lane,
            wants: None,
            promised: 0,
            runs: VecDeque::new(),
            waiting: 0,
            under_way: 0,
            templates: Vec::new(),
            fates: Vec::new(),
            left: false,
        }
    }

    /// Returns the next waiting request, its token and its template. Requests whose time is over
    /// are returned to the guest.
    pub(super) fn front(&mut self, now: Time) -> Option<(Entry, &[u8], &(u32, TemplateSpec))> {
        loop {
            let waiting = self.runs.front()?;
            match waiting.run.entries.get(waiting.next) {
                None => drop(self.runs.pop_front()),
                Some(_) if waiting.void[waiting.next] => self.pass(),
                Some(entry) if now >= entry.until => {
                    let entry = *entry;
                    self.back(&entry, Became::Returned);
                    self.pass();
                }
                Some(_) => break,
            }
        }
        let waiting = self.runs.front()?;
        let entry = waiting.run.entries[waiting.next];
        let token = &waiting.run.tokens.0
            [waiting.token_at..waiting.token_at + usize::from(entry.token_bytes)];
        let template = self.templates.get(entry.template as usize)?.as_ref()?;
        Some((entry, token, template))
    }

    /// Moves on from the first waiting request, which was sent or returned.
    pub(super) fn pass(&mut self) {
        if let Some(waiting) = self.runs.front_mut() {
            waiting.token_at += usize::from(waiting.run.entries[waiting.next].token_bytes);
            waiting.next += 1;
        }
    }

    /// Returns a waiting request to the guest with its result.
    pub(super) fn back(&mut self, entry: &Entry, what: Became) {
        self.waiting -= 1;
        self.fates.push(Fate { ticket: entry.ticket, credential: 0, by: Witness::default(), what });
    }

    /// Returns the waiting requests of a wave, or all, to the guest.
    pub(super) fn void(&mut self, wave: Option<WaveId>) {
        for waiting in &mut self.runs {
            let left = waiting.run.entries.iter().zip(&mut waiting.void).skip(waiting.next);
            for (entry, void) in
                left.filter(|(entry, _)| wave.is_none_or(|wave| entry.wave == wave))
            {
                if !std::mem::replace(void, true) {
                    self.waiting -= 1;
                    self.fates.push(Fate {
                        ticket: entry.ticket,
                        credential: 0,
                        by: Witness::default(),
                        what: Became::Returned,
                    });
                }
            }
        }
        if self.waiting == 0 {
            self.runs.clear();
        }
    }
}
