//! What became of a request, and what follows from it for its device, its lane and its wave.

use std::time::Duration;

use clarion_proto::{ids::UnixMillis, outcome::Outcome, time::Time};

use super::{
    Core,
    guests::ticket_of_guest,
    open::Open,
    run::{Phase, given_up},
    trial::{Invalid, Trial},
};
use crate::{
    command::{DeadToken, Platform},
    lane::{
        Mute,
        connection::{CloseReason, ConnectionEvent, ErrorCode, PushError},
        pool,
    },
    outcome::{Answer, Reason, Verdict, apns, classify},
};

/// A connection that has stood so long without a request was not taken only to be ended again.
const IDLED: Duration = Duration::from_mins(1);

/// When a device has its next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Later {
    AtOnce,
    /// After so long, or the pause that its tries call for, whichever is longer.
    After(Duration),
}

impl Core {
    /// Takes all that a connection has to say.
    pub(super) fn settle(&mut self, link: u32, now: Time) {
        let mut accepted = std::mem::take(&mut self.accepted);
        if let Some(connection) = self.connection(link) {
            connection.take_accepted(&mut accepted);
        }
        if !self.guests.is_empty() {
            self.hand_back_accepted(link, &mut accepted, now);
        }
        if !accepted.is_empty() {
            self.accepted(link, &accepted, now);
            accepted.clear();
        }
        self.accepted = accepted;
        while let Some(event) = self.connection(link).and_then(|c| c.poll()) {
            if let Some(ticket) = ticket_of_guest(&event) {
                self.hand_back(link, ticket, event, now);
                continue;
            }
            match event {
                ConnectionEvent::Answer { ticket, answer } => self.answered(link, ticket, &answer, now),
                ConnectionEvent::Unanswered { ticket } => self.unanswered(link, ticket, now),
                ConnectionEvent::Unprocessed { ticket } => self.unprocessed(link, ticket, now),
                ConnectionEvent::Closing { reason } => self.closing(link, &reason, now),
                ConnectionEvent::Closed => self.close_link(link, false),
            }
        }
    }

    /// A connection takes no more requests. Leaving in order is no failure, unless it is all that connections do.
    fn closing(&mut self, link: u32, reason: &CloseReason, now: Time) {
        let Some(l) = self.links[link as usize].link.as_mut() else { return };
        let in_order = match reason {
            CloseReason::Asked | CloseReason::Lost => true,
            // One that idled for a while was of use too: it was there (FCM ends those after some minutes).
            CloseReason::GoAway { code, .. } => {
                *code == ErrorCode::NO_ERROR && (l.answers > 0 || now.since(l.opened) >= IDLED)
            }
            CloseReason::StreamIdsSpent => true,
            CloseReason::Silent | CloseReason::Error(_) => false,
        };
        if !in_order {
            tell_end(&self.lanes[l.lane].end.spec.name, reason);
        }
        // It stood, and went in order: that attempts before it failed is past.
        if in_order && now.since(l.opened) >= IDLED && l.is_open() {
            self.lanes[l.lane].end.pool.answered();
        }
        let idle = l.connection().is_some_and(|connection| connection.idle_since().is_some());
        if in_order && idle && l.idle_max.is_some() {
            self.lanes[l.lane].end.rest();
        }
        if !in_order && !l.leaving {
            self.lanes[l.lane].end.pool.failed(now, &mut self.rng);
        }
        self.leave(link);
    }

    /// The gateway took these: the hot path. What one acceptance means for the lane, many mean at once.
    pub(super) fn accepted(&mut self, link: u32, tickets: &[u64], now: Time) {
        let Self { links, lanes, opens, waves, .. } = self;
        let Some(l) = links[link as usize].link.as_mut() else { return };
        let before = l.answers;
        l.answers = before.saturating_add(u32::try_from(tickets.len()).unwrap_or(u32::MAX));
        let end = &mut lanes[l.lane].end;
        if let Some(took) = l.probe.among(tickets, now) {
            end.meter.answered(took, now);
        }
        end.settled(tickets.len(), now);
        end.answered(tickets.len(), now);
        end.was_of_use(l.answers);
        if before < pool::ANSWERS_FOR_AN_ATTEMPT {
            end.counted(before, l.answers);
        }
        let lane = l.lane;
        let mut proof = None;
        if end.trust.is_in_doubt() {
            let number = end.trust.number();
            let with_it = |ticket: &u64| opens.find(*ticket).is_some_and(|slot| opens.get(slot).credential == number);
            proof = tickets.iter().any(with_it).then_some(number);
        }
        // Only FCM says the same words of a message and of a token.
        let trials = end.spec.platform == Platform::Fcm;
        for ticket in tickets {
            let Some(open) = opens.take(*ticket) else { continue };
            let Some(run) = waves[usize::from(open.wave)].as_mut() else { continue };
            if trials {
                run.audience.app(open.app).message(open.message).trial.accepted();
            }
            run.ended(&open, Outcome::Accepted);
        }
        if let Some(number) = proof {
            self.token_accepted(lane, number);
        }
    }

    /// Another answer than that it was accepted.
    pub(super) fn answered(&mut self, link: u32, ticket: u64, answer: &Answer, now: Time) {
        let Some(l) = self.links[link as usize].link.as_mut() else { return };
        let before = l.answers;
        l.answers = before.saturating_add(1);
        let at = l.lane;
        let lane = &mut self.lanes[at].end;
        if let Some(took) = l.probe.answered(ticket, now) {
            lane.meter.answered(took, now);
        }
        lane.settled(1, now);
        let Some(slot) = self.opens.find(ticket) else { return };
        lane.counted(before, l.answers);
        let open = *self.opens.get(slot);
        let verdict = classify(lane.spec.platform, answer);
        if !matches!(verdict, Verdict::Credential { .. } | Verdict::LaneLater { .. }) {
            self.token_accepted(at, open.credential);
        }
        let lane = &mut self.lanes[at].end;
        match verdict {
            Verdict::Final(outcome) => {
                lane.answered(1, now);
                if outcome == Outcome::Dead {
                    self.note_dead(at, &open, answer);
                }
                self.end(slot, outcome);
            }
            Verdict::Invalid { token } => {
                lane.answered(1, now);
                self.invalid(slot, at, token, answer);
            }
            Verdict::DeviceLater { wait } => {
                lane.answered(1, now);
                self.try_again(slot, now, Later::After(wait.unwrap_or_default()));
            }
            Verdict::LaneLater { wait } => {
                self.lane_later(at, open.credential, wait, answer, now);
                self.try_again(slot, now, Later::After(Duration::ZERO));
            }
            Verdict::Credential { renew } => {
                self.token_refused(link, open.credential, renew, &answer.reason, now);
                self.try_again(slot, now, Later::AtOnce);
            }
            Verdict::Campaign => {
                lane.heard(now);
                self.run(open.wave).audience.app(open.app).stopped = true;
                self.campaign_refused(at, &open, answer);
                self.end(slot, Outcome::Refused);
            }
            Verdict::ConnectionOnly => {
                lane.heard(now);
                self.retire(link);
                self.try_again(slot, now, Later::AtOnce);
            }
        }
    }

    /// The gateway asks for less.
    pub(super) fn lane_later(
        &mut self,
        lane: usize,
        credential: u32,
        wait: Option<Duration>,
        answer: &Answer,
        now: Time,
    ) {
        let end = &mut self.lanes[lane].end;
        // Of a token that is just being tried it is no word on the lane: the former goes on.
        if answer.reason == Reason::Apns(apns::Reason::TooManyProviderTokenUpdates) {
            end.trust.put_off(credential, now);
            if end.trust.is_trying() {
                return end.heard(now);
            }
        }
        end.refused(now, &mut self.rng, wait, &answer.reason);
    }

    /// The gateway calls the token or the message invalid.
    fn invalid(&mut self, slot: u32, lane: usize, token: bool, answer: &Answer) {
        let open = *self.opens.get(slot);
        let outcome = match self.trial(&open).invalid() {
            Invalid::Token if token => {
                self.note_dead(lane, &open, answer);
                Outcome::Dead
            }
            Invalid::Token | Invalid::Either => Outcome::Refused,
            Invalid::Message => {
                self.campaign_refused(lane, &open, answer);
                Outcome::Refused
            }
        };
        self.end(slot, outcome);
    }

    /// What has been heard of the message of a push.
    fn trial(&mut self, open: &Open) -> &mut Trial {
        &mut self.run(open.wave).audience.app(open.app).message(open.message).trial
    }

    fn note_dead(&mut self, lane: usize, open: &Open, answer: &Answer) {
        let dead = DeadToken {
            lane: self.lanes[lane].end.spec.id,
            device: open.device,
            token_hash: open.token_hash,
            gateway_time: answer.timestamp_ms.map(UnixMillis),
        };
        self.run(open.wave).note_dead(dead);
    }

    /// Tells people that a message is not sent any more.
    fn campaign_refused(&mut self, lane: usize, open: &Open, answer: &Answer) {
        let words = format!("{} {}", answer.status, answer.reason);
        let run = self.run(open.wave);
        run.refuse_message(open.app, words.clone());
        let detail = format!("{}: {words}", run.spec.alert);
        self.lanes[lane].end.campaign_refused(detail);
    }

    /// Sent, and nothing came back: it may have been delivered all the same.
    pub(super) fn unanswered(&mut self, link: u32, ticket: u64, now: Time) {
        if let Some(l) = &self.links[link as usize].link {
            self.lanes[l.lane].end.settled(1, now);
        }
        self.went_unanswered(link, now);
        let Some(slot) = self.opens.find(ticket) else { return };
        let open = self.opens.get(slot);
        open.unanswered = true;
        let wave = open.wave;
        self.run(wave).unanswered_requests += 1;
        self.put_off(slot, now, Later::After(Duration::ZERO));
    }

    /// What a request without an answer says of the lane and of its connection.
    pub(super) fn went_unanswered(&mut self, link: u32, now: Time) {
        let Some(l) = self.links[link as usize].link.as_mut() else { return };
        let (lane, dead_end) = (l.lane, l.is_dead_end(now));
        self.lanes[lane].end.unanswered(now, &mut self.rng);
        if dead_end {
            self.give_up(link, Mute::Silent, now);
        }
    }

    /// The gateway has not looked at it: it may go again at once, elsewhere.
    pub(super) fn unprocessed(&mut self, link: u32, ticket: u64, now: Time) {
        if let Some(l) = &self.links[link as usize].link {
            self.lanes[l.lane].end.settled(1, now);
        }
        if let Some(slot) = self.opens.find(ticket) {
            self.try_again(slot, now, Later::AtOnce);
        }
    }

    fn try_again(&mut self, slot: u32, now: Time, later: Later) {
        let wave = self.opens.get(slot).wave;
        self.run(wave).retried_requests += 1;
        self.put_off(slot, now, later);
    }

    /// Into the line: at once, or after a pause that grows with each try. A wave that has stopped gives up instead.
    pub(super) fn put_off(&mut self, slot: u32, now: Time, later: Later) {
        let open = self.opens.get(slot);
        let tries = u32::from(open.tries);
        open.tries = open.tries.saturating_add(u8::from(later != Later::AtOnce));
        let open = *open;
        let run = self.run(open.wave);
        if run.phase != Phase::Running {
            self.end(slot, given_up(&open));
            return;
        }
        run.reporting.change();
        let lane = run.outlets[usize::from(open.outlet)].lane;
        let due = match (later, self.lanes.iter().find(|l| l.end.spec.id == lane)) {
            (Later::After(wait), Some(lane)) => now + lane.end.backoff().pause(tries, &mut self.rng).max(wait),
            (Later::After(wait), None) => now + wait,
            (Later::AtOnce, _) => now,
        };
        self.run(open.wave).outlets[usize::from(open.outlet)].retry.push(due, slot);
    }

    /// A header of an app's message holds what no header may hold: nobody of it can be sent to.
    pub(super) fn header_refused(&mut self, slot: u32, header: &'static str) {
        let open = *self.opens.get(slot);
        let run = self.run(open.wave);
        run.audience.app(open.app).stopped = true;
        let (lane, alert) = (run.outlets[usize::from(open.outlet)].lane, run.spec.alert.clone());
        if let Some(lane) = self.find_lane(lane) {
            self.lanes[lane].end.campaign_refused(format!("{alert}: {}", PushError::Header(header)));
        }
        self.end(slot, Outcome::Refused);
    }

    fn end(&mut self, slot: u32, outcome: Outcome) {
        let open = self.opens.remove(slot);
        self.run(open.wave).ended(&open, outcome);
    }

    /// Gives up all who wait for another try; the wave has stopped.
    pub(super) fn give_up_waiting(&mut self, wave: usize) {
        let Self { waves, opens, .. } = self;
        let Some(run) = waves[wave].as_mut() else { return };
        for outlet in 0..run.outlets.len() {
            while let Some(slot) = run.outlets[outlet].retry.pop() {
                let open = opens.remove(slot);
                run.ended(&open, given_up(&open));
            }
        }
    }

    /// The wave of an open push.
    ///
    /// # Panics
    /// Never: a wave's slot is given up only when none of its pushes is open.
    fn run(&mut self, wave: u16) -> &mut super::run::WaveRun {
        self.waves[usize::from(wave)].as_mut().expect("a wave stays while its pushes are open")
    }
}

/// One line for each connection that ended by its gateway's fault; how many there can be, the pool's backoff says.
fn tell_end(lane: &str, reason: &CloseReason) {
    match reason {
        CloseReason::GoAway { code, reason } => {
            tracing::warn!(lane, code = code.0, %reason, "connection ended: the gateway sent it away");
        }
        CloseReason::Silent => tracing::warn!(lane, "connection ended: the gateway fell silent"),
        // An error is told where it is met: one may also come while the connection drains.
        CloseReason::Error(_) | CloseReason::Asked | CloseReason::Lost | CloseReason::StreamIdsSpent => {}
    }
}
