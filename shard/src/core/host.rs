//! The host's side of a remote lane: sends runs of other cores through this core's connections,
//! fairly beside its own waves.
//!
//! Guests come first in a turn, but only with requests for which they have credit, and credits are
//! an equal share of the available room: with two guests a third each, and a third for the waves of
//! this core. Promised room stays free, so a run that arrives is sent at once, and waits only if
//! its connection has closed meanwhile. A small room rotates: a connection that takes a single
//! request (APNs, before its first answer) gives it to another guest each time.

use std::collections::VecDeque;

use clarion_proto::{ids::LaneId, time::Time};

use super::{
    Core,
    buffers::Buffers,
    desk::HEADER_BYTES,
    guests::{Carried, GUEST, Guest, Guests, Waiting},
    letter::{Became, Fate, Letter, RUN_MAX, Run},
    link::{CANCEL_PATIENCE, Link, State},
    pull::FLUSH_BYTES,
    tokens::Permits,
};
use crate::lane::connection::{ConnectionEvent, PushError};

impl Core {
    /// Handles a letter of a guest.
    pub(super) fn guest_asks(&mut self, core: usize, letter: Letter, now: Time) {
        match letter {
            Letter::Want { lane, round } => {
                if self.guests.find(core, lane).is_none() {
                    let slot =
                        self.guests.all.iter().position(Option::is_none).unwrap_or_else(|| {
                            self.guests.all.push(None);
                            self.guests.all.len() - 1
                        });
                    self.guests.all[slot] = Some(Guest::new(core, lane));
                }
                if let Some(guest) = self.guests.find(core, lane) {
                    (guest.wants, guest.promised, guest.left) = (Some(round), 0, false);
                }
            }
            Letter::Enough { lane } => {
                if let Some(guest) = self.guests.find(core, lane) {
                    (guest.wants, guest.promised) = (None, 0);
                }
            }
            Letter::Run(run) => self.take_run(core, run),
            Letter::Void { lane, wave } => {
                let Some(at) = self.guest_slot(core, lane) else { return };
                if let Some(guest) = &mut self.guests.all[usize::from(at)] {
                    guest.void(Some(wave));
                }
                for link in self.links.iter_mut().filter_map(|slot| slot.link.as_mut()) {
                    if link.unsent_of_guests.iter().any(|(guest, w, _)| *guest == at && *w == wave)
                    {
                        let by = now + CANCEL_PATIENCE;
                        link.reset_at = Some(link.reset_at.map_or(by, |at| at.min(by)));
                    }
                }
            }
            Letter::Forget { lane, template } => {
                let Some(guest) = self.guests.find(core, lane) else { return };
                if let Some((own, _)) =
                    guest.templates.get_mut(template as usize).and_then(Option::take)
                {
                    self.forget_template(own);
                }
            }
            Letter::Leave { lane } => {
                if let Some(guest) = self.guests.find(core, lane) {
                    (guest.wants, guest.promised, guest.left) = (None, 0, true);
                    guest.void(None);
                }
            }
            // Letters of a host are handled before.
            Letter::Credit { .. } | Letter::Fates { .. } | Letter::Written { .. } => {}
        }
    }

    fn take_run(&mut self, core: usize, mut run: Run) {
        let gone = self.shutdown.is_some();
        let Self { guests, templates, .. } = self;
        let Some(guest) = guests.find(core, run.lane) else { return };
        for (number, spec) in run.templates.drain(..) {
            let at = number as usize;
            if guest.templates.len() <= at {
                guest.templates.resize_with(at + 1, || None);
            }
            guest.templates[at] = Some((templates.take(), spec));
        }
        guest.promised = guest.promised.saturating_sub(run.entries.len());
        guest.waiting += run.entries.len();
        let void = vec![false; run.entries.len()];
        guest.runs.push_back(Waiting { run, next: 0, token_at: 0, void });
        if gone || guest.left {
            guest.void(None);
        }
    }

    /// Serves the guests of a lane, promises them part of the remaining room, and keeps the
    /// promised room free. Returns true if a request was sent.
    pub(super) fn host(&mut self, lane: usize, now: Time) -> bool {
        if self.guests.is_empty() {
            return false;
        }
        let id = self.lanes[lane].end.spec.id;
        let own_work = self.lane_has_work(&self.lanes[lane]);
        let Self { guests, lanes, links, letters, buffers, .. } = self;
        let slot = &mut lanes[lane];
        slot.reserved = 0;
        let stays = |l: &u32| {
            links[*l as usize].link.as_ref().is_some_and(|link| link.is_open() && !link.leaving)
        };
        if self.shutdown.is_some() || !slot.end.is_open(now) || !slot.links.iter().any(stays) {
            for guest in guests.all.iter_mut().flatten().filter(|guest| guest.lane == id) {
                guest.void(None);
            }
            return false;
        }
        let mut permits = Permits::new(&slot.end, &slot.links, links);
        let mut sent = 0;
        let mut room_left = 0;
        for l in &slot.links {
            let Some(link) = links[*l as usize].link.as_mut().filter(|link| link.is_open()) else {
                continue;
            };
            let mut room = permits.offer(&slot.end, link, now);
            let mut bytes = 0;
            // One request of each guest in turn; a guest without requests is skipped.
            let mut idle = 0;
            while room > 0 && bytes < FLUSH_BYTES && idle < guests.all.len() {
                guests.turn = (guests.turn + 1) % guests.all.len();
                match serve(guests, id, link, buffers, &mut slot.end, now) {
                    Served::Sent(length) => {
                        (room, sent, idle) = (room - 1, sent + 1, 0);
                        bytes += length;
                    }
                    Served::Nothing => idle += 1,
                    Served::Full => room = 0,
                }
            }
            room_left += room;
        }
        let reserved = promise(guests, id, room_left, own_work, letters);
        slot.reserved = reserved;
        sent > 0
    }

    /// Removes the tickets of guests from the accepted tickets of a connection, and returns them to
    /// their guests.
    pub(super) fn hand_back_accepted(&mut self, link: u32, tickets: &mut Vec<u64>, now: Time) {
        let Self { guests, links, lanes, .. } = self;
        let Some(l) = links[link as usize].link.as_mut() else { return };
        let (lane, before, all, by) = (l.lane, l.answers, tickets.len(), l.witness());
        let end = &mut lanes[lane].end;
        let mut newest = 0;
        if let Some(took) = l.probe.among(tickets, now) {
            end.meter.answered(took, now);
        }
        tickets.retain(|ticket| {
            if ticket & GUEST == 0 {
                return true;
            }
            if let Some(carried) = guests.carried(*ticket)
                && let Some(guest) = &mut guests.all[usize::from(carried.guest)]
            {
                guest.under_way -= 1;
                let (ticket, credential) = (carried.ticket, carried.credential);
                newest = newest.max(credential);
                guest.fates.push(Fate { ticket, credential, by, what: Became::Accepted });
            }
            false
        });
        let of_guests = all - tickets.len();
        if of_guests > 0 {
            l.answers = before.saturating_add(u32::try_from(of_guests).unwrap_or(u32::MAX));
            l.refused_in_row = 0;
            end.answered(now);
            end.was_of_use(l.answers);
            end.counted(before, l.answers);
            if end.trust.is_in_doubt() {
                self.token_accepted(lane, newest);
            }
        }
    }

    /// Returns the event of a guest's request to the guest.
    pub(super) fn hand_back(&mut self, link: u32, ticket: u64, event: ConnectionEvent, now: Time) {
        let Some(carried) = self.guests.carried(ticket) else { return };
        let by =
            self.links[link as usize].link.as_ref().map_or_else(Default::default, Link::witness);
        let what = match event {
            ConnectionEvent::Answer { answer, .. } => {
                // The part of an answer about the lane, the credential and the connection is
                // handled here; the part about the device and the message, by the guest.
                self.count_answer(link, ticket, now);
                self.apply_answer(link, by, carried.credential, &answer, None, now);
                Became::Answer(answer)
            }
            ConnectionEvent::Unanswered { status, .. } => {
                match status {
                    Some(status) => self.apply_cut_answer(link, by, status, None, now),
                    None => self.went_unanswered(link, now),
                }
                Became::Unanswered(status)
            }
            ConnectionEvent::Unprocessed { .. } => Became::Unprocessed,
            ConnectionEvent::Closing { .. } | ConnectionEvent::Closed => return,
        };
        if let Some(guest) = &mut self.guests.all[usize::from(carried.guest)] {
            guest.under_way -= 1;
            guest.fates.push(Fate {
                ticket: carried.ticket,
                credential: carried.credential,
                by,
                what,
            });
        }
    }

    /// Reports to guests that a socket has taken the requests of a link, or was lost with them.
    pub(super) fn report_written(&mut self, slot: u32, whole: bool) {
        let Self { links, guests, letters, .. } = self;
        let Some(link) = links[slot as usize].link.as_mut() else { return };
        for (guest, wave, requests) in link.unsent_of_guests.drain(..) {
            if let Some(guest) = &guests.all[usize::from(guest)] {
                let (lane, at) = (guest.lane, link.last_write);
                letters
                    .push_back((guest.core, Letter::Written { lane, wave, requests, at, whole }));
            }
        }
    }

    /// Sends the results of guests' requests, and removes guests that have left.
    pub(super) fn answer_guests(&mut self) {
        let Self { links, guests, letters, .. } = self;
        let mut ended = Vec::new();
        for (at, slot) in guests.all.iter_mut().enumerate() {
            let Some(guest) = slot else { continue };
            if !guest.fates.is_empty() {
                let (lane, fates) = (guest.lane, std::mem::take(&mut guest.fates));
                letters.push_back((guest.core, Letter::Fates { lane, fates }));
            }
            let mut unsent = links
                .iter()
                .filter_map(|slot| slot.link.as_ref())
                .flat_map(|l| &l.unsent_of_guests);
            let idle = guest.under_way == 0 && !unsent.any(|(guest, ..)| usize::from(*guest) == at);
            if guest.left && idle && guest.waiting == 0 {
                ended.extend(guest.templates.drain(..).flatten().map(|(own, _)| own));
                *slot = None;
            }
        }
        while guests.all.last().is_some_and(Option::is_none) {
            guests.all.pop();
        }
        ended.into_iter().for_each(|template| self.forget_template(template));
    }

    fn guest_slot(&self, core: usize, lane: LaneId) -> Option<u16> {
        let mut all = self.guests.all.iter();
        let at = all.position(|guest| {
            guest.as_ref().is_some_and(|guest| guest.core == core && guest.lane == lane)
        })?;
        u16::try_from(at).ok()
    }
}

/// Result of one guest's turn on one connection.
enum Served {
    /// A request was encoded, with approximately this many bytes.
    Sent(usize),
    /// The guest has no waiting request.
    Nothing,
    /// The connection takes no more requests.
    Full,
}

fn serve(
    guests: &mut Guests,
    lane: LaneId,
    link: &mut Link,
    buffers: &mut Buffers,
    end: &mut crate::lane::LaneEnd,
    now: Time,
) -> Served {
    let at = guests.turn;
    let credential = link.credential;
    let name = u16::try_from(at).expect("few cores and lanes");
    let Some(guest) = guests.all[at].as_mut().filter(|guest| guest.lane == lane) else {
        return Served::Nothing;
    };
    let Some((entry, ..)) = guest.front(now) else { return Served::Nothing };
    let ticket = guests.carry(Carried { guest: name, ticket: entry.ticket, credential });
    let Some(guest) = guests.all[at].as_mut() else { return Served::Nothing };
    let State::Open(connection) = &mut link.state else { return Served::Full };
    let pushed = match guest.front(now) {
        Some((_, token, (template, spec))) => {
            let body_bytes = spec.body_bytes(token.len());
            buffers.lend(connection);
            connection.push(ticket, *template, spec, token, now).map(|()| body_bytes)
        }
        None => Err(PushError::Token),
    };
    let what = match pushed {
        Ok(body_bytes) => {
            guest.pass();
            (guest.waiting, guest.under_way) = (guest.waiting - 1, guest.under_way + 1);
            end.meter.sent(1, body_bytes);
            link.probe.sent(ticket, now);
            link.encoded_for_guest(name, entry.wave);
            return Served::Sent(HEADER_BYTES + body_bytes);
        }
        Err(PushError::Full | PushError::Closing) => None,
        Err(PushError::HeaderListTooLarge) => {
            link.useless = true;
            None
        }
        Err(PushError::Header(header)) => Some(Became::Refused(header)),
        // The guest has checked the token before, so no connection can send it.
        Err(PushError::Token) => Some(Became::Refused("token")),
    };
    guests.carried(ticket);
    let Some((guest, what)) = guests.all[at].as_mut().zip(what) else { return Served::Full };
    guest.back(&entry, what);
    guest.pass();
    Served::Sent(0)
}

/// Grants credits, and returns the number of requests for which room must be kept free.
fn promise(
    guests: &mut Guests,
    lane: LaneId,
    room: usize,
    own_work: bool,
    letters: &mut VecDeque<(usize, Letter)>,
) -> usize {
    let Guests { all, turn, .. } = guests;
    let wanting =
        all.iter().flatten().filter(|guest| guest.lane == lane && guest.wants.is_some()).count();
    let sharers = wanting + usize::from(own_work);
    let mut kept = 0;
    if wanting > 0 {
        let (share, odd) = (room / sharers, room % sharers);
        *turn = turn.wrapping_add(1);
        let first = *turn % sharers;
        let mut n = 0;
        for guest in all.iter_mut().flatten().filter(|guest| guest.lane == lane) {
            let Some(round) = guest.wants else { continue };
            // The remainder of the division goes to as many guests, other ones each time.
            let mine = (share + usize::from((n + first) % sharers < odd)).min(RUN_MAX);
            n += 1;
            let has = guest.promised + guest.waiting;
            if mine > has {
                let requests = mine - has;
                guest.promised += requests;
                letters.push_back((guest.core, Letter::Credit { lane, round, requests }));
            }
        }
    }
    for guest in all.iter().flatten().filter(|guest| guest.lane == lane) {
        kept += guest.promised + guest.waiting;
    }
    kept
}
