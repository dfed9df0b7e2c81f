//! Lanes pull from waves: the one place where a device becomes a request.
//!
//! A connection with room takes runs from the waves of its lane in turn, so that waves share a lane by runs however much
//! each has to send. Within a wave, those due for another try go first, then those late, then the nearest band.

use std::time::Duration;

use clarion_proto::{device::token_hash, outcome::Outcome, time::Time};

use super::{
    Core, LaneSlot,
    buffers::Buffers,
    link::{Link, State},
    links::LinkSlot,
    open::{Open, Opens},
    outlet::{Found, Steps},
    partitions::Partitions,
    reasons::{HEADER, TOKEN, Why},
    run::{WaveRun, given_up},
    tokens::Permits,
};
use crate::{
    command::Consequence,
    lane::{LaneEnd, connection::PushError, retry},
    partition::{Pushable, TokenBuffer},
};

/// Devices of one wave before the next wave of the lane has its turn.
pub(super) const RUN: usize = 16;
/// Encoded bytes of one flush: two TLS records, where a write costs least per byte.
pub(super) const FLUSH_BYTES: usize = 32 * 1024;
/// Requests of one lane in one turn. A lane of many connections (FCM's have 100 streams each, so it needs dozens) could fill all
/// of them before another one's few are written, and so take ten times its part of the core: both are at their nearest
/// phones at the same time. Half a millisecond of work, beside which a turn's own cost does not count.
const LANE_REQUESTS_PER_TURN: usize = 512;
/// How long a device that is to go over another connection is put off when its turn comes on the same one.
const DEFERRED: Duration = Duration::from_millis(1);
/// So many are put off in one turn: in a storm of refusals they must not cost more than what is sent.
const DEFERRED_MAX: usize = 64;
/// What a request is reckoned beside its body: 361 bytes with `authorization` indexed, 605 without, the body (257) off.
pub(super) const HEADER_BYTES: usize = 352;

impl Core {
    /// Everything that may be sent on one lane now. True: something was.
    pub(super) fn pull(&mut self, lane: usize, now: Time, steps: &mut Steps) -> bool {
        let Self { lanes, links, waves, partitions, opens, buffers, token, config, .. } = self;
        let share = retry::ORDINALS_MAX / config.cores.max(1) / lanes.len().max(1);
        let LaneSlot {
            end,
            links: of_lane,
            reserved,
            next_link,
            outlets,
            next_outlet,
            run_left,
            ..
        } = &mut lanes[lane];
        let slice_room = end.room(now);
        let lane_room = slice_room.min(LANE_REQUESTS_PER_TURN);
        if lane_room == 0 || outlets.is_empty() || of_lane.is_empty() {
            return false;
        }
        let waiting = retries_waiting(waves, outlets);
        let mut permits = Permits::new(end, of_lane, links);
        let mut turn = LaneTurn {
            // No wave may have all of it: there is always room for one more to begin.
            retries_max: if waiting < share { share / (outlets.len() + 1) } else { 0 },
            // Whoever is to go over another connection waits for one only where there is one.
            others: waiting > 0 && has_two_connections(of_lane, links),
            reserve: end.reserve(),
            alone: config.single,
            now,
            slice_room,
            lane_room,
            sent: 0,
            deferred: 0,
            encoded: 0,
            waves,
            partitions,
            opens,
            buffers,
            token,
            end,
            outlets,
            next_outlet,
            run_left,
        };
        for n in 0..of_lane.len() {
            let link = of_lane[(*next_link + n) % of_lane.len()];
            if turn.lane_room == 0 {
                break;
            }
            let Some(link) = links[link as usize].link.as_mut() else { continue };
            let offer = permits.offer(turn.end, link, now);
            let kept = offer.min(*reserved);
            *reserved -= kept;
            turn.fill(link, offer - kept, steps);
        }
        let LaneTurn { sent, deferred, encoded, .. } = turn;
        if sent > 0 || deferred > 0 {
            // Not by turns: those that find nothing to send would make a paced wave meet the same connection each time.
            *next_link = (*next_link + 1) % of_lane.len();
        }
        end.meter.sent(sent, encoded - sent * HEADER_BYTES);
        // A pace that has given all it has says by itself when to go on.
        sent > 0
            && outlets.iter().any(|(wave, _)| {
                waves[usize::from(*wave)].as_mut().is_some_and(|run| run.pace.room(now) > 0)
            })
    }

    /// Counts those whom an expired wave will not reach, within the turn's work.
    pub(super) fn expire_walk(&mut self, wave: usize, steps: &mut Steps) {
        let Self { waves, partitions, config, .. } = self;
        let Some(run) = waves[wave].as_mut() else { return };
        for outlet in 0..run.outlets.len() {
            while let Some(found) = run.next(outlet, partitions, config.single, steps) {
                let outlet = u16::try_from(outlet).expect("few lanes");
                if run.check(outlet, found, partitions).is_ok() {
                    run.outlets[usize::from(outlet)].hand(found.part, found.ordinal);
                    run.ended_unsent(found.band, found.cell, Outcome::Expired);
                }
            }
        }
    }
}

/// Devices of a lane's waves that wait for another try.
fn retries_waiting(waves: &[Option<WaveRun>], outlets: &[(u16, u16)]) -> usize {
    let waiting = |(wave, outlet): &(u16, u16)| {
        Some(waves[usize::from(*wave)].as_ref()?.outlets[usize::from(*outlet)].retry.len())
    };
    outlets.iter().filter_map(waiting).sum()
}

/// Whether at least two of a lane's connections stand.
fn has_two_connections(of_lane: &[u32], links: &[LinkSlot]) -> bool {
    let stands = |l: &&u32| {
        links[**l as usize].link.as_ref().is_some_and(|link| link.is_open() && !link.leaving)
    };
    of_lane.iter().filter(stands).nth(1).is_some()
}

/// One turn of one lane: what it may still send, what it has sent, and what it needs of the core for that.
struct LaneTurn<'a> {
    /// Retries of one wave and lane beyond which its walk waits.
    retries_max: usize,
    /// The lane has another connection.
    others: bool,
    /// Requests of the slice that are kept free for waves that begin.
    reserve: usize,
    /// This core opens bands by itself.
    alone: bool,
    now: Time,
    /// Requests that the slice of the quota still allows.
    slice_room: usize,
    /// Requests that may still go in this turn.
    lane_room: usize,
    sent: usize,
    deferred: usize,
    /// Bytes, about.
    encoded: usize,
    waves: &'a mut [Option<WaveRun>],
    partitions: &'a Partitions,
    opens: &'a mut Opens,
    buffers: &'a mut Buffers,
    token: &'a mut TokenBuffer,
    end: &'a mut LaneEnd,
    outlets: &'a [(u16, u16)],
    next_outlet: &'a mut usize,
    run_left: &'a mut usize,
}

impl LaneTurn<'_> {
    /// Takes runs of the lane's waves in turn until a connection has no room left or no wave has anybody for it.
    #[inline]
    fn fill(&mut self, link: &mut Link, offer: usize, steps: &mut Steps) {
        let outlets = self.outlets;
        let mut room = offer.min(self.lane_room);
        let mut bytes = 0;
        // Asked in vain since somebody sent; and of those whose turn it is, passed over without losing it.
        let (mut idle, mut passed) = (0, 0);
        while room > 0 && bytes < FLUSH_BYTES && idle < outlets.len() {
            let (wave, outlet) = outlets[(*self.next_outlet + passed) % outlets.len()];
            let Some(run) = self.waves[usize::from(wave)].as_mut() else { break };
            let its = &run.outlets[usize::from(outlet)];
            let walk = its.retry.len() < self.retries_max;
            let kept = if its.begun < self.reserve { 0 } else { self.reserve };
            let its_run = if passed == 0 { *self.run_left } else { RUN };
            let most = room.min(its_run).min(self.slice_room.saturating_sub(kept));
            if most == 0 {
                (idle, passed) = (idle + 1, passed + 1);
                continue;
            }
            let mut desk = Desk {
                partitions: self.partitions,
                opens: self.opens,
                buffers: self.buffers,
                end: self.end,
                link,
                run,
                wave,
                outlet,
                alone: self.alone,
                others: self.others,
                now: self.now,
                token: self.token,
            };
            let took = desk.run(most, walk, &mut bytes, &mut self.deferred, steps);
            run.outlets[usize::from(outlet)].begun += took;
            room -= took;
            self.took(took);
            if passed == 0 {
                self.pass_turn(took, took < most);
            }
            (idle, passed) = match took {
                0 => (idle + 1, if passed == 0 { 0 } else { passed + 1 }),
                _ => (0, 0),
            };
        }
        self.encoded += bytes;
    }

    /// So many requests went out.
    #[inline]
    fn took(&mut self, requests: usize) {
        self.lane_room -= requests;
        self.slice_room -= requests;
        self.sent += requests;
    }

    /// The wave whose turn it was has sent so many: the next wave's turn comes when its run is complete, or it had fewer
    /// than it might have sent.
    ///
    /// Who is cut short has the rest of its run first next time: a quota that gives 20 at a time would give one wave 16 of
    /// them each time.
    #[inline]
    fn pass_turn(&mut self, took: usize, had_fewer: bool) {
        *self.run_left -= took;
        if had_fewer || *self.run_left == 0 {
            *self.next_outlet = (*self.next_outlet + 1) % self.outlets.len();
            *self.run_left = RUN;
        }
    }
}

/// A device that is to be sent to, and its app within the wave.
struct Addressed<'s> {
    device: Pushable<'s>,
    app: u16,
}

/// A device that is not to be sent to through this outlet.
struct NotHere;

impl WaveRun {
    fn next(
        &mut self,
        outlet: usize,
        partitions: &Partitions,
        alone: bool,
        steps: &mut Steps,
    ) -> Option<Found> {
        self.outlets[outlet].next(&self.parts, partitions, &self.spec.cover, alone, steps)
    }

    /// Whether a found device is addressed through this outlet and by nobody else yet.
    fn check<'s>(
        &mut self,
        outlet: u16,
        found: Found,
        partitions: &'s Partitions,
    ) -> Result<Addressed<'s>, NotHere> {
        let slot = self.parts[usize::from(found.part)].slot.ok_or(NotHere)?;
        let device = partitions.partition(slot).pushable(found.ordinal).ok_or(NotHere)?;
        let app = self.audience.addressed(&partitions.words, &device).ok_or(NotHere)?;
        if self.outlets.len() == 1 {
            return Ok(Addressed { device, app });
        }
        let right = self.audience.app(app).outlet;
        // A device that changed to an app of another lane may have been handed over there, or its new walk may be past it.
        if self.outlets.iter().any(|o| o.is_handed(found.part, found.ordinal)) {
            return Err(NotHere);
        }
        if right == outlet {
            return Ok(Addressed { device, app });
        }
        self.outlets[usize::from(right)].put_back(found);
        Err(NotHere)
    }
}

/// One connection serving one wave.
struct Desk<'a> {
    partitions: &'a Partitions,
    opens: &'a mut Opens,
    buffers: &'a mut Buffers,
    end: &'a mut LaneEnd,
    link: &'a mut Link,
    run: &'a mut WaveRun,
    wave: u16,
    outlet: u16,
    alone: bool,
    /// The lane has another connection.
    others: bool,
    now: Time,
    /// Where a token that is kept packed is unpacked.
    token: &'a mut TokenBuffer,
}

/// What became of one device.
enum Taken {
    /// Encoded: about so many bytes.
    Sent(usize),
    /// Nothing is sent to it here.
    Passed,
    /// The connection took no more; the device comes again.
    Full,
}

/// A request that was not encoded.
enum NotSent {
    /// The connection takes no more now.
    Full,
    /// This device, or this message whoever it is for, can never be sent.
    Never,
}

impl Desk<'_> {
    /// Sends to at most `most` devices; returns to how many.
    fn run(
        &mut self,
        most: usize,
        walk: bool,
        bytes: &mut usize,
        deferred: &mut usize,
        steps: &mut Steps,
    ) -> usize {
        if !self.run.may_send(self.now) {
            return 0;
        }
        let most = most.min(self.run.pace.room(self.now));
        let mut sent = 0;
        while sent < most {
            let outlet = usize::from(self.outlet);
            let taken = match self.run.outlets[outlet].retry.pop_due(self.now) {
                Some(slot)
                    if self.others && self.opens.get(slot).avoid == Some(self.link.id.slot) =>
                {
                    // In another turn, which begins with another connection.
                    self.run.outlets[outlet].retry.push(self.now + DEFERRED, slot);
                    *deferred += 1;
                    if *deferred >= DEFERRED_MAX {
                        break;
                    }
                    continue;
                }
                Some(slot) => self.again(slot),
                None if !walk => break,
                None => match self.run.next(outlet, self.partitions, self.alone, steps) {
                    Some(found) => self.first(found),
                    None => break,
                },
            };
            match taken {
                Taken::Sent(length) => {
                    sent += 1;
                    *bytes += length;
                }
                Taken::Passed => {}
                Taken::Full => break,
            }
        }
        if sent > 0 {
            self.run.pace.take(sent, self.now);
            self.end.take(sent, self.now);
            if self.link.encoded(self.wave, sent) {
                self.run.unsent += 1;
            }
        }
        sent
    }

    /// A device that the walk found.
    fn first(&mut self, found: Found) -> Taken {
        let Ok(Addressed { device, app }) = self.run.check(self.outlet, found, self.partitions)
        else {
            return Taken::Passed;
        };
        let slot = self.opens.insert(Open {
            wave: self.wave,
            outlet: self.outlet,
            part: found.part,
            app,
            message: 0,
            ordinal: found.ordinal,
            band: found.band,
            cell: 0,
            token_hash: 0,
            device: device.device,
            credential: 0,
            tries: 0,
            doubts: 0,
            unanswered: false,
            avoid: None,
        });
        let outlet = usize::from(self.outlet);
        match self.push(slot, app, &device) {
            Ok(length) => {
                self.run.outlets[outlet].hand(found.part, found.ordinal);
                self.opens.get(slot).cell = self.run.tally.handed(found.band, found.cell);
                self.run.open += 1;
                self.run.reporting.change();
                Taken::Sent(length)
            }
            Err(NotSent::Full) => {
                self.opens.remove(slot);
                self.run.outlets[outlet].put_back(found);
                Taken::Full
            }
            Err(NotSent::Never) => {
                self.opens.remove(slot);
                self.run.outlets[outlet].hand(found.part, found.ordinal);
                self.run.ended_unsent(found.band, found.cell, Outcome::Refused);
                Taken::Passed
            }
        }
    }

    /// A device that is due for another try: its token is read again, as it may have changed meanwhile.
    fn again(&mut self, slot: u32) -> Taken {
        let open = *self.opens.get(slot);
        let device = self.run.parts[usize::from(open.part)]
            .slot
            .and_then(|slot| self.partitions.partition(slot).pushable(open.ordinal))
            .filter(|device| device.device == open.device);
        let app =
            device.and_then(|device| self.run.audience.app_of(&self.partitions.words, device.app));
        let (Some(device), Some(app)) = (device, app) else {
            self.end_open(slot, given_up(&open));
            return Taken::Passed;
        };
        let right = self.run.audience.app(app).outlet;
        if right != self.outlet {
            // Its new app is on another lane, which takes it from here.
            self.opens.get(slot).outlet = right;
            self.run.outlets[usize::from(right)].retry.push(self.now, slot);
            return Taken::Passed;
        }
        match self.push(slot, app, &device) {
            Ok(length) => Taken::Sent(length),
            Err(NotSent::Full) => {
                self.run.outlets[usize::from(self.outlet)].retry.push(self.now, slot);
                Taken::Full
            }
            Err(NotSent::Never) => {
                self.end_open(slot, Outcome::Refused);
                Taken::Passed
            }
        }
    }

    fn end_open(&mut self, slot: u32, outcome: Outcome) {
        let open = self.opens.remove(slot);
        self.run.ended(&open, outcome);
    }

    /// Encodes one request; returns about how many bytes.
    fn push(&mut self, slot: u32, app: u16, device: &Pushable<'_>) -> Result<usize, NotSent> {
        let app_run = self.run.audience.app(app);
        if app_run.stopped {
            self.run.count_reason(Consequence::Refused, app, &Why::Unwritable(HEADER));
            return Err(NotSent::Never);
        }
        let number = app_run.message_for(&self.partitions.words, device.locale);
        let message = app_run.message(number);
        if let Some(answer) = message.evidence.refused(&message.answers) {
            let why = Why::Answer(answer.status, answer.reason.clone());
            self.run.count_reason(Consequence::Refused, app, &why);
            return Err(NotSent::Never);
        }
        let ticket = self.opens.ticket(slot);
        let token = device.token.read(self.token);
        let pushed = match &mut self.link.state {
            State::Open(connection) => {
                self.buffers.lend(connection);
                connection.push(ticket, message.template, &message.spec, token, self.now)
            }
            State::Remote(remote) => {
                let until =
                    self.run.grant_until.min(self.run.spec.expires).min(self.end.leased_until());
                remote.push(
                    ticket,
                    (self.run.spec.id, until),
                    message.template,
                    &message.spec,
                    token,
                )
            }
            State::Connecting(_) => return Err(NotSent::Full),
        };
        match pushed {
            Ok(()) => {}
            Err(PushError::Full | PushError::Closing) => return Err(NotSent::Full),
            Err(PushError::Token) => {
                self.run.count_reason(Consequence::Refused, app, &Why::Unwritable(TOKEN));
                return Err(NotSent::Never);
            }
            Err(error @ PushError::Header(_)) => {
                app_run.stopped = true;
                self.run.count_reason(Consequence::Refused, app, &Why::Unwritable(HEADER));
                self.run.refuse_message(app, error.to_string());
                self.end.campaign_refused(format!("{}: {error}", self.run.spec.alert));
                return Err(NotSent::Never);
            }
            Err(PushError::HeaderListTooLarge) => {
                // Our header lists are bounded where alerts are admitted: this is the connection's doing. Another one is
                // tried, with backoff, as after a failure.
                self.link.useless = true;
                return Err(NotSent::Full);
            }
        }
        let length = HEADER_BYTES + message.spec.body_bytes(token.len());
        let open = self.opens.get(slot);
        (open.app, open.message, open.avoid) = (app, number, None);
        open.token_hash = token_hash(token);
        open.credential = self.link.credential;
        self.link.probe.sent(ticket, self.now);
        Ok(length)
    }
}
