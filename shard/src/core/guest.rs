//! The host's side: runs of other cores through this core's connections, fairly beside its own waves.
//!
//! Guests come first in a turn, but only with what they were given credit for, and credits are an equal share of the room
//! that there is: with two guests a third each, and a third for the waves of this core. What is promised is kept free, so a
//! run that arrives goes out at once, and waits only if its connection has gone meanwhile. Small rooms go round: a
//! connection that takes a single request (APNs, before its first answer) gives it to another one each time.

use std::collections::VecDeque;

use clarion_proto::{
    ids::{LaneId, WaveId},
    time::Time,
};

use super::{
    Core,
    letter::{Became, Entry, Fate, Letter, RUN_MAX, Run},
    link::{CANCEL_PATIENCE, Link, State},
    pull::{FLUSH_BYTES, HEADER_BYTES},
};
use crate::{
    command::Platform,
    lane::{
        connection::{ConnectionEvent, PushError, TemplateSpec},
        pool,
    },
    outcome::{Verdict, classify},
};

/// Marks tickets of guests: those of this core's own pushes never have it (see [`super::open`]).
const GUEST: u64 = 1 << 63;

/// One core that borrows, on one lane.
#[derive(Debug)]
struct Guest {
    core: usize,
    lane: LaneId,
    /// Round of its last [`Letter::Want`], if it still does.
    wants: Option<u32>,
    /// Credits that it has not used.
    promised: usize,
    /// What waits for a connection.
    runs: VecDeque<Waiting>,
    waiting: usize,
    /// Encoded, no fate yet.
    under_way: usize,
    /// By the guest's numbers: ours, and what it says.
    templates: Vec<Option<(u32, TemplateSpec)>>,
    fates: Vec<Fate>,
    left: bool,
}

/// A run and how far it has been sent.
#[derive(Debug)]
struct Waiting {
    run: Run,
    next: usize,
    token_at: usize,
    /// By entry: handed back.
    void: Vec<bool>,
}

/// A request of a guest on one of our connections.
#[derive(Debug, Clone, Copy)]
struct Carried {
    guest: u16,
    ticket: u64,
    credential: u32,
}

/// Guests of all lanes.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    all: Vec<Option<Guest>>,
    carried: Vec<(u32, Option<Carried>)>,
    free: Vec<u32>,
    /// Whose turn it is with what cannot be divided.
    turn: usize,
}

impl Guests {
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether one of them has somebody to push to, or something waiting.
    pub(crate) fn want(&self, lane: LaneId) -> bool {
        self.of(lane).any(|guest| guest.wants.is_some() || guest.waiting > 0)
    }

    /// When something that waits may not be written any more.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let fronts = self.all.iter().flatten().filter_map(|guest| guest.runs.front());
        fronts.filter_map(|waiting| waiting.run.entries.get(waiting.next)).map(|entry| entry.until).min()
    }

    fn of(&self, lane: LaneId) -> impl Iterator<Item = &Guest> {
        self.all.iter().flatten().filter(move |guest| guest.lane == lane)
    }

    fn find(&mut self, core: usize, lane: LaneId) -> Option<&mut Guest> {
        self.all.iter_mut().flatten().find(|guest| guest.core == core && guest.lane == lane)
    }

    fn carry(&mut self, carried: Carried) -> u64 {
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
    fn carried(&mut self, ticket: u64) -> Option<Carried> {
        let (slot, uses) = (ticket as u32, (ticket >> 32) as u32 & 0x7fff_ffff);
        let (now, entry) = self.carried.get_mut(slot as usize)?;
        let carried = entry.take_if(|_| *now == uses)?;
        self.free.push(slot);
        Some(carried)
    }
}

/// The ticket of what a connection says, if it is a guest's.
pub(super) fn ticket_of_guest(event: &ConnectionEvent) -> Option<u64> {
    match event {
        ConnectionEvent::Answer { ticket, .. }
        | ConnectionEvent::Unanswered { ticket }
        | ConnectionEvent::Unprocessed { ticket } => Some(*ticket).filter(|ticket| ticket & GUEST != 0),
        ConnectionEvent::Closing { .. } | ConnectionEvent::Closed => None,
    }
}

impl Guest {
    fn new(core: usize, lane: LaneId) -> Self {
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

    /// The next request that waits, its token, and what it says; those whose time is over go back.
    fn front(&mut self, now: Time) -> Option<(Entry, &[u8], &(u32, TemplateSpec))> {
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
        let token = &waiting.run.tokens.0[waiting.token_at..waiting.token_at + usize::from(entry.token_bytes)];
        let template = self.templates.get(entry.template as usize)?.as_ref()?;
        Some((entry, token, template))
    }

    /// The request in front has gone somewhere.
    fn pass(&mut self) {
        if let Some(waiting) = self.runs.front_mut() {
            waiting.token_at += usize::from(waiting.run.entries[waiting.next].token_bytes);
            waiting.next += 1;
        }
    }

    /// A request that waits goes back.
    fn back(&mut self, entry: &Entry, what: Became) {
        self.waiting -= 1;
        self.fates.push(Fate { ticket: entry.ticket, credential: 0, what });
    }

    /// Those of a wave, or all, go back.
    fn void(&mut self, wave: Option<WaveId>) {
        for waiting in &mut self.runs {
            let left = waiting.run.entries.iter().zip(&mut waiting.void).skip(waiting.next);
            for (entry, void) in left.filter(|(entry, _)| wave.is_none_or(|wave| entry.wave == wave)) {
                if !std::mem::replace(void, true) {
                    self.waiting -= 1;
                    self.fates.push(Fate { ticket: entry.ticket, credential: 0, what: Became::Returned });
                }
            }
        }
        if self.waiting == 0 {
            self.runs.clear();
        }
    }
}

impl Core {
    /// What a guest asks for.
    pub(super) fn guest_asks(&mut self, core: usize, letter: Letter, now: Time) {
        match letter {
            Letter::Want { lane, round } => {
                if self.guests.find(core, lane).is_none() {
                    let slot = self.guests.all.iter().position(Option::is_none).unwrap_or_else(|| {
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
                    if link.unsent_of_guests.iter().any(|(guest, w, _)| *guest == at && *w == wave) {
                        let by = now + CANCEL_PATIENCE;
                        link.reset_at = Some(link.reset_at.map_or(by, |at| at.min(by)));
                    }
                }
            }
            Letter::Forget { lane, template } => {
                let Some(guest) = self.guests.find(core, lane) else { return };
                if let Some((own, _)) = guest.templates.get_mut(template as usize).and_then(Option::take) {
                    self.forget_template(own);
                }
            }
            Letter::Leave { lane } => {
                if let Some(guest) = self.guests.find(core, lane) {
                    (guest.wants, guest.promised, guest.left) = (None, 0, true);
                    guest.void(None);
                }
            }
            // Those of a host are taken before.
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

    /// Serves the guests of a lane, promises them part of what is left, and keeps what was promised free. True: something
    /// was sent.
    pub(super) fn host(&mut self, lane: usize, now: Time) -> bool {
        if self.guests.is_empty() {
            return false;
        }
        let id = self.lanes[lane].end.spec.id;
        let own_work = self.lane_has_work(&self.lanes[lane]);
        let Self { guests, lanes, links, letters, .. } = self;
        let slot = &mut lanes[lane];
        slot.reserved = 0;
        let stays = |l: &u32| links[*l as usize].link.as_ref().is_some_and(|link| link.is_open() && !link.leaving);
        if self.shutdown.is_some() || !slot.end.is_open(now) || !slot.links.iter().any(stays) {
            for guest in guests.all.iter_mut().flatten().filter(|guest| guest.lane == id) {
                guest.void(None);
            }
            return false;
        }
        let mut sent = 0;
        let mut room_left = 0;
        for l in &slot.links {
            let Some(link) = links[*l as usize].link.as_mut().filter(|link| link.is_open()) else { continue };
            let mut room = link.offer(slot.end.is_probing(), now);
            let mut bytes = 0;
            // One of each guest in turn; whoever has nothing is passed over.
            let mut idle = 0;
            while room > 0 && bytes < FLUSH_BYTES && idle < guests.all.len() {
                guests.turn = (guests.turn + 1) % guests.all.len();
                match serve(guests, id, link, &mut slot.end, now) {
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

    /// Takes those of guests out of what a connection has had accepted.
    pub(super) fn hand_back_accepted(&mut self, link: u32, tickets: &mut Vec<u64>, now: Time) {
        let Self { guests, links, lanes, .. } = self;
        let Some(l) = links[link as usize].link.as_mut() else { return };
        let (end, before, all) = (&mut lanes[l.lane].end, l.answers, tickets.len());
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
                guest.fates.push(Fate { ticket, credential, what: Became::Accepted });
            }
            false
        });
        let of_guests = all - tickets.len();
        if of_guests > 0 {
            l.answers = before.saturating_add(u32::try_from(of_guests).unwrap_or(u32::MAX));
            end.answered(of_guests, now);
            if before < pool::ANSWERS_FOR_AN_ATTEMPT && l.answers >= pool::ANSWERS_FOR_AN_ATTEMPT {
                end.pool.earned();
            }
        }
    }

    /// What a connection says of a guest's request.
    pub(super) fn hand_back(&mut self, link: u32, ticket: u64, event: ConnectionEvent, now: Time) {
        let Some(carried) = self.guests.carried(ticket) else { return };
        let what = match event {
            ConnectionEvent::Answer { answer, .. } => {
                self.hear_for_guest(link, ticket, carried.credential, &answer, now);
                Became::Answer(answer)
            }
            ConnectionEvent::Unanswered { .. } => {
                if let Some(l) = &self.links[link as usize].link {
                    self.lanes[l.lane].end.unanswered(now, &mut self.rng);
                }
                Became::Unanswered
            }
            ConnectionEvent::Unprocessed { .. } => Became::Unprocessed,
            ConnectionEvent::Closing { .. } | ConnectionEvent::Closed => return,
        };
        if let Some(guest) = &mut self.guests.all[usize::from(carried.guest)] {
            guest.under_way -= 1;
            guest.fates.push(Fate { ticket: carried.ticket, credential: carried.credential, what });
        }
    }

    /// What an answer says of the lane and of the connection is for us to hear; what it says of the device, for the guest.
    fn hear_for_guest(&mut self, link: u32, ticket: u64, credential: u32, answer: &crate::outcome::Answer, now: Time) {
        let Some(l) = self.links[link as usize].link.as_mut() else { return };
        l.answers = l.answers.saturating_add(1);
        let at = l.lane;
        let end = &mut self.lanes[at].end;
        if let Some(took) = l.probe.answered(ticket, now) {
            end.meter.answered(took, now);
        }
        if l.answers == pool::ANSWERS_FOR_AN_ATTEMPT {
            end.pool.earned();
        }
        let platform = end.spec.platform;
        match classify(platform, answer) {
            Verdict::Final(_) | Verdict::Invalid { .. } | Verdict::DeviceLater { .. } => end.answered(1, now),
            Verdict::LaneLater { wait } => end.refused(now, &mut self.rng, wait, &answer.reason),
            Verdict::Credential { renew: _ } => {
                end.heard(now);
                let present = end.credential_refused(credential, &answer.reason);
                match platform {
                    Platform::Apns if present => self.retire_lane(at),
                    Platform::Apns => self.retire(link),
                    Platform::Fcm => {}
                }
            }
            Verdict::Campaign => end.heard(now),
            Verdict::ConnectionOnly => {
                end.heard(now);
                self.retire(link);
            }
        }
    }

    /// A socket has taken what a link had encoded for guests, or was lost with it.
    pub(super) fn tell_written(&mut self, slot: u32, whole: bool) {
        let Self { links, guests, letters, .. } = self;
        let Some(link) = links[slot as usize].link.as_mut() else { return };
        for (guest, wave, requests) in link.unsent_of_guests.drain(..) {
            if let Some(guest) = &guests.all[usize::from(guest)] {
                let (lane, at) = (guest.lane, link.last_write);
                letters.push_back((guest.core, Letter::Written { lane, wave, requests, at, whole }));
            }
        }
    }

    /// Sends off what became of guests' requests; forgets guests that have left.
    pub(super) fn answer_guests(&mut self) {
        let Self { links, guests, letters, .. } = self;
        let mut ended = Vec::new();
        for (at, slot) in guests.all.iter_mut().enumerate() {
            let Some(guest) = slot else { continue };
            if !guest.fates.is_empty() {
                let (lane, fates) = (guest.lane, std::mem::take(&mut guest.fates));
                letters.push_back((guest.core, Letter::Fates { lane, fates }));
            }
            let mut unsent = links.iter().filter_map(|slot| slot.link.as_ref()).flat_map(|l| &l.unsent_of_guests);
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
        let at = all.position(|guest| guest.as_ref().is_some_and(|guest| guest.core == core && guest.lane == lane))?;
        u16::try_from(at).ok()
    }
}

/// What became of one guest's turn on one connection.
enum Served {
    /// Encoded: about so many bytes.
    Sent(usize),
    /// Nobody of this guest waits.
    Nothing,
    /// The connection takes no more.
    Full,
}

fn serve(guests: &mut Guests, lane: LaneId, link: &mut Link, end: &mut crate::lane::LaneEnd, now: Time) -> Served {
    let at = guests.turn;
    let credential = end.credential();
    let name = u16::try_from(at).expect("few cores and lanes");
    let Some(guest) = guests.all[at].as_mut().filter(|guest| guest.lane == lane) else { return Served::Nothing };
    let Some((entry, ..)) = guest.front(now) else { return Served::Nothing };
    let ticket = guests.carry(Carried { guest: name, ticket: entry.ticket, credential });
    let Some(guest) = guests.all[at].as_mut() else { return Served::Nothing };
    let State::Open(connection) = &mut link.state else { return Served::Full };
    let pushed = match guest.front(now) {
        Some((_, token, (template, spec))) => {
            let body_bytes = spec.body_bytes(token.len());
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
        // The guest has looked at it before; whatever it is, no connection takes it.
        Err(PushError::Token) => Some(Became::Refused("token")),
    };
    guests.carried(ticket);
    let Some((guest, what)) = guests.all[at].as_mut().zip(what) else { return Served::Full };
    guest.back(&entry, what);
    guest.pass();
    Served::Sent(0)
}

/// Gives credits; returns what is to be kept free.
fn promise(
    guests: &mut Guests,
    lane: LaneId,
    room: usize,
    own_work: bool,
    letters: &mut VecDeque<(usize, Letter)>,
) -> usize {
    let Guests { all, turn, .. } = guests;
    let wanting = all.iter().flatten().filter(|guest| guest.lane == lane && guest.wants.is_some()).count();
    let sharers = wanting + usize::from(own_work);
    let mut kept = 0;
    if wanting > 0 {
        let (share, odd) = (room / sharers, room % sharers);
        *turn = turn.wrapping_add(1);
        let first = *turn % sharers;
        let mut n = 0;
        for guest in all.iter_mut().flatten().filter(|guest| guest.lane == lane) {
            let Some(round) = guest.wants else { continue };
            // One more for as many as there are odd ones, another each time.
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
