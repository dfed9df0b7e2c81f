//! The consequence of an answer for its device and message: a final outcome, or another attempt.

use std::time::Duration;

use clarion_proto::{ids::UnixMillis, outcome::Outcome, time::Time};

use super::{
    Core,
    open::Open,
    reasons::{HEADER, Why},
    run::{Phase, WaveRun, given_up},
};
use crate::{
    command::{Consequence, DeadToken},
    lane::{
        connection::PushError,
        evidence::{Blame, Complaint, TRIES_ELSEWHERE, Witness},
    },
    outcome::{Answer, Reason},
};

/// Time of a device's next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Later {
    AtOnce,
    /// After this time, or the pause for the number of its attempts, whichever is longer.
    After(Duration),
    /// As [`Self::After`], over another connection if there is one; the gateway has not asked for a
    /// pause.
    Elsewhere(Duration),
}

impl Core {
    /// Handles an answer that calls the token dead.
    pub(super) fn dead(&mut self, slot: u32, lane: usize, needs_evidence: bool, answer: &Answer) {
        let open = *self.opens.get(slot);
        let lane = self.lanes[lane].end.spec.id;
        let run = self.run(open.wave);
        let dead = DeadToken {
            app: run.audience.app(open.app).name().clone(),
            needs_evidence,
            lane,
            device: open.device,
            token_hash: open.token_hash,
            gateway_time: answer.timestamp_ms.map(UnixMillis),
        };
        run.note_dead(dead);
        run.message(&open).answers.bad_device_tokens += u64::from(needs_evidence);
        run.count_reason(
            Consequence::Dead,
            open.app,
            &Why::Answer(answer.status, answer.reason.clone()),
        );
        self.end(slot, Outcome::Dead);
    }

    /// Refuses a device, by its own answer or by the evidence about its message.
    pub(super) fn refuse(&mut self, slot: u32, why: &Why) {
        let open = *self.opens.get(slot);
        self.run(open.wave).count_reason(Consequence::Refused, open.app, why);
        self.end(slot, Outcome::Refused);
    }

    /// Handles an answer that calls the message, or the token, invalid.
    pub(super) fn message_refused(
        &mut self,
        slot: u32,
        link: u32,
        by: Witness,
        token: bool,
        answer: &Answer,
        now: Time,
    ) {
        let open = *self.opens.get(slot);
        let lane = self.run(open.wave).outlets[usize::from(open.outlet)].lane;
        let Some(at) = self.find_lane(lane) else {
            return self.refuse(slot, &Why::Answer(answer.status, Reason::None));
        };
        let (needed, batch) = (self.lanes[at].end.spec.evidence, self.batch.number);
        let message = self.run(open.wave).message(&open);
        let known = message.evidence.refused(&message.answers).is_some();
        let complaint = Complaint { by, first: open.doubts == 0, token, batch, answer };
        let blame = message.evidence.refuse(&message.answers, complaint, needed);
        let why = Why::Answer(answer.status, answer.reason.clone());
        match blame {
            // FCM answers 400 here, as APNs does for a token of the other environment, so the
            // verdict is just as uncertain.
            Blame::Token => self.dead(slot, at, true, answer),
            Blame::Open => self.elsewhere_or_refuse(slot, link, &why, now),
            Blame::Message => {
                if !known {
                    self.campaign_refused(at, &open, answer);
                }
                self.refuse(slot, &why);
            }
        }
    }

    /// Tries a device over other connections three more times, then refuses it.
    pub(super) fn elsewhere_or_refuse(&mut self, slot: u32, link: u32, why: &Why, now: Time) {
        let open = self.opens.get(slot);
        if open.doubts >= TRIES_ELSEWHERE {
            return self.refuse(slot, why);
        }
        open.doubts += 1;
        open.avoid = Some(link);
        self.try_again(slot, now, Later::Elsewhere(Duration::ZERO), why);
    }

    /// Handles an unsigned answer: the request is sent again over another connection. A failing
    /// front end gets the pause that the provider asks for.
    pub(super) fn unsigned(
        &mut self,
        slot: u32,
        link: u32,
        status: u16,
        wait: Option<Duration>,
        now: Time,
    ) {
        self.opens.get(slot).avoid = Some(link);
        let wait = wait.unwrap_or_default();
        let later = if status >= 500 { Later::After(wait) } else { Later::Elsewhere(wait) };
        self.try_again(slot, now, later, &Why::Answer(status, Reason::None));
    }

    /// Reports that a message is no longer sent.
    fn campaign_refused(&mut self, lane: usize, open: &Open, answer: &Answer) {
        let words = format!("{} {}", answer.status, answer.reason);
        let run = self.run(open.wave);
        run.refuse_message(open.app, words.clone());
        let detail = format!("{}: {words}", run.spec.alert);
        self.lanes[lane].end.campaign_refused(detail);
    }

    pub(super) fn try_again(&mut self, slot: u32, now: Time, later: Later, why: &Why) {
        let (wave, app) = (self.opens.get(slot).wave, self.opens.get(slot).app);
        let run = self.run(wave);
        run.retried_requests += 1;
        run.count_reason(Consequence::Retried, app, why);
        self.put_off(slot, now, later);
    }

    /// Puts a push into the retry line: at once, or after a pause that grows with each attempt. A
    /// push of a stopped wave ends instead.
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
        if !run.holds(&open) {
            run.give_back(&open);
            self.opens.remove(slot);
            return;
        }
        run.reporting.change();
        let lane = run.outlets[usize::from(open.outlet)].lane;
        let Self { lanes, rng, .. } = self;
        let end = lanes.iter().find(|l| l.end.spec.id == lane).map(|l| &l.end);
        let due = match (later, end) {
            (Later::After(wait), Some(end)) => now + end.backoff().pause(tries, rng).max(wait),
            (Later::Elsewhere(wait), Some(end)) => {
                now + end.backoff_elsewhere().pause(tries, rng).max(wait)
            }
            (Later::After(wait) | Later::Elsewhere(wait), None) => now + wait,
            (Later::AtOnce, _) => now,
        };
        self.run(open.wave).outlets[usize::from(open.outlet)].retry.push(due, slot);
    }

    /// Handles a header of an app's message that contains invalid bytes, so that no push of the app
    /// can be sent.
    pub(super) fn header_refused(&mut self, slot: u32, header: &'static str) {
        let open = *self.opens.get(slot);
        let run = self.run(open.wave);
        run.audience.app(open.app).stopped = true;
        let (lane, alert) = (run.outlets[usize::from(open.outlet)].lane, run.spec.alert.clone());
        if let Some(lane) = self.find_lane(lane) {
            self.lanes[lane]
                .end
                .campaign_refused(format!("{alert}: {}", PushError::Header(header)));
        }
        self.refuse(slot, &Why::Unwritable(HEADER));
    }

    pub(super) fn end(&mut self, slot: u32, outcome: Outcome) {
        let open = self.opens.remove(slot);
        self.run(open.wave).ended(&open, outcome);
    }

    /// Ends all pushes of a stopped wave that wait for another attempt.
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

    /// Returns the wave of an open push.
    ///
    /// # Panics
    /// Never: the slot of a wave is freed only when none of its pushes is open.
    pub(super) fn run(&mut self, wave: u16) -> &mut WaveRun {
        self.waves[usize::from(wave)].as_mut().expect("a wave stays while its pushes are open")
    }
}
