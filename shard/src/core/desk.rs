//! The desk that takes devices from one wave for one connection: the only place where a device
//! becomes a request.
//!
//! Devices that are due for another attempt go first, then late devices, then the nearest band.

use std::time::Duration;

use clarion_proto::{device::token_hash, outcome::Outcome, time::Time};

use super::{
    buffers::Buffers,
    link::{Link, State},
    open::{Open, Opens},
    outlet::{Found, Steps},
    partitions::Partitions,
    reasons::{HEADER, TOKEN, Why},
    run::{WaveRun, given_up},
};
use crate::{
    command::Consequence,
    lane::{LaneEnd, connection::PushError},
    partition::{Pushable, TokenBuffer},
};

/// Time by which a device that needs another connection is postponed when its turn comes on the
/// same one.
const DEFERRED: Duration = Duration::from_millis(1);
/// Time for which a device waits while its partition is rebuilt, before it is looked up again. A
/// partition takes seconds to load.
const REBUILT_AGAIN: Duration = Duration::from_millis(250);
/// Most pushes that are postponed in one turn: in a storm of refusals they must not cost more than
/// the pushes that are sent.
const DEFERRED_MAX: usize = 64;
/// Estimated size of a request without its body, bytes: 361 bytes with `authorization` indexed, 605
/// without, less the body (257).
pub(super) const HEADER_BYTES: usize = 352;

/// A device that is to be pushed to, and its app within the wave.
pub(super) struct Addressed<'s> {
    device: Pushable<'s>,
    app: u16,
}

/// The device gets no push through this outlet.
pub(super) struct NotHere;

impl WaveRun {
    /// Returns the next device that the walk of an outlet finds.
    pub(super) fn next(
        &mut self,
        outlet: usize,
        partitions: &Partitions,
        alone: bool,
        steps: &mut Steps,
    ) -> Option<Found> {
        self.outlets[outlet].next(&self.parts, partitions, &self.spec.cover, alone, steps)
    }

    /// Checks whether a found device is addressed through this outlet and not handed over yet.
    pub(super) fn check<'s>(
        &mut self,
        outlet: u16,
        found: Found,
        partitions: &'s Partitions,
    ) -> Result<Addressed<'s>, NotHere> {
        let slot = self.parts[usize::from(found.part)].slot.ok_or(NotHere)?;
        let device = partitions.partition(slot).pushable(found.ordinal).ok_or(NotHere)?;
        if device.place_seen < self.spec.place_seen_after {
            // The device enters when its phone reports a place.
            return Err(NotHere);
        }
        let app = self.audience.addressed(&partitions.words, &device).ok_or(NotHere)?;
        if self.outlets.len() == 1 {
            return Ok(Addressed { device, app });
        }
        let right = self.audience.app(app).outlet;
        // A device that changed to an app of another lane may have been handed over there, or its
        // new walk may be past it.
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

/// The desk of one connection for one wave.
pub(super) struct Desk<'a> {
    pub(super) partitions: &'a Partitions,
    pub(super) opens: &'a mut Opens,
    pub(super) buffers: &'a mut Buffers,
    pub(super) end: &'a mut LaneEnd,
    pub(super) link: &'a mut Link,
    pub(super) run: &'a mut WaveRun,
    pub(super) wave: u16,
    pub(super) outlet: u16,
    pub(super) alone: bool,
    /// Whether the lane has another connection.
    pub(super) others: bool,
    pub(super) now: Time,
    /// Buffer for an unpacked token.
    pub(super) token: &'a mut TokenBuffer,
}

/// Result of taking one device.
enum Taken {
    /// The push was encoded, with approximately this many bytes.
    Sent(usize),
    /// The device gets no push through this outlet.
    Passed,
    /// The connection takes no more requests; the device is found again later.
    Full,
}

/// A request that was not encoded.
enum NotSent {
    /// The connection takes no more requests now.
    Full,
    /// No request can ever be sent to the device, or with its message to any device.
    Never,
}

impl Desk<'_> {
    /// Sends to at most `most` devices, and returns the number of requests sent.
    pub(super) fn run(
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
                    // The device is sent in another turn, which begins with another connection.
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

    /// Sends to a device that the walk found.
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

    /// Sends again to a device that is due for another attempt. Its token is read again, because it
    /// may have changed.
    fn again(&mut self, slot: u32) -> Taken {
        let open = *self.opens.get(slot);
        let part = &self.run.parts[usize::from(open.part)];
        if part.slot.is_some() && !part.started {
            self.run.outlets[usize::from(self.outlet)].retry.push(self.now + REBUILT_AGAIN, slot);
            return Taken::Passed;
        }
        let device = part
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
            // The device's new app is on another lane, whose outlet continues with the push.
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

    /// Encodes one request, and returns its approximate size in bytes.
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
                // Header lists are bounded where alerts are admitted, so the limit of this
                // connection is the cause. Another one is tried, with backoff, as after a failure.
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
