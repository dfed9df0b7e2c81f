//! What became of a request, and what follows from it for its device, its lane and its wave.

use clarion_proto::{ids::UnixMillis, outcome::Outcome, time::Time};

use super::{
    Core,
    run::{Phase, given_up},
};
use crate::{
    command::DeadToken,
    lane::{
        connection::{CloseReason, ConnectionEvent, ErrorCode},
        pool,
    },
    outcome::{Answer, Verdict, classify},
};

impl Core {
    /// Takes all that a connection has to say.
    pub(super) fn settle(&mut self, link: u32, now: Time) {
        while let Some(event) = self.connection(link).and_then(|c| c.poll()) {
            match event {
                ConnectionEvent::Answer { ticket, answer } => self.answered(link, ticket, &answer, now),
                ConnectionEvent::Unanswered { ticket } => self.unanswered(link, ticket, now),
                ConnectionEvent::Unprocessed { ticket } => self.unprocessed(ticket, now),
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
            CloseReason::GoAway { code, .. } => *code == ErrorCode::NO_ERROR && l.answers > 0,
            CloseReason::StreamIdsSpent => true,
            CloseReason::Silent | CloseReason::Error(_) => false,
        };
        if !in_order && !l.leaving {
            self.lanes[l.lane].end.pool.failed(now, &mut self.rng);
        }
        self.leave(link);
    }

    fn answered(&mut self, link: u32, ticket: u64, answer: &Answer, now: Time) {
        let Some(slot) = self.opens.find(ticket) else { return };
        let Some(l) = self.links[link as usize].link.as_mut() else { return };
        l.answers = l.answers.saturating_add(1);
        let at = l.lane;
        let lane = &mut self.lanes[at].end;
        if l.answers == pool::ANSWERS_FOR_AN_ATTEMPT {
            lane.pool.earned();
        }
        let open = *self.opens.get(slot);
        match classify(answer) {
            Verdict::Final(outcome) => {
                lane.answered(now);
                if outcome == Outcome::Dead {
                    let dead = DeadToken {
                        lane: lane.spec.id,
                        device: open.device,
                        token_hash: open.token_hash,
                        gateway_time: answer.timestamp_ms.map(UnixMillis),
                    };
                    self.run(open.wave).note_dead(dead);
                }
                self.end(slot, outcome);
            }
            Verdict::DeviceLater => {
                lane.answered(now);
                self.try_again(slot, now, true);
            }
            Verdict::LaneLater => {
                lane.refused(now, &mut self.rng, &answer.reason);
                self.try_again(slot, now, true);
            }
            // Whether a fresh token will do or somebody has to look at it, nothing can go on without another one.
            Verdict::Credential { renew: _ } => {
                lane.heard(now);
                // Connections remember: another token has to go over other ones.
                if lane.credential_refused(open.credential, &answer.reason) {
                    self.retire_lane(at);
                } else {
                    self.retire(link);
                }
                self.try_again(slot, now, false);
            }
            Verdict::Campaign => {
                lane.heard(now);
                let detail = answer.reason.to_string();
                let alert = self.waves[usize::from(open.wave)].as_ref().map_or("", |run| &run.spec.alert);
                lane.campaign_refused(format!("{alert}: {detail}"));
                self.run(open.wave).audience.app(open.app).stopped = true;
                self.end(slot, Outcome::Refused);
            }
            Verdict::ConnectionOnly => {
                lane.heard(now);
                self.retire(link);
                self.try_again(slot, now, false);
            }
        }
    }

    /// Sent, and nothing came back: it may have been delivered all the same.
    fn unanswered(&mut self, link: u32, ticket: u64, now: Time) {
        let Some(slot) = self.opens.find(ticket) else { return };
        if let Some(l) = &self.links[link as usize].link {
            self.lanes[l.lane].end.unanswered(now, &mut self.rng);
        }
        let open = self.opens.get(slot);
        open.unanswered = true;
        let wave = open.wave;
        self.run(wave).unanswered_requests += 1;
        self.put_off(slot, now, true);
    }

    /// The gateway has not looked at it: it may go again at once, elsewhere.
    fn unprocessed(&mut self, ticket: u64, now: Time) {
        if let Some(slot) = self.opens.find(ticket) {
            self.try_again(slot, now, false);
        }
    }

    fn try_again(&mut self, slot: u32, now: Time, later: bool) {
        let wave = self.opens.get(slot).wave;
        self.run(wave).retried_requests += 1;
        self.put_off(slot, now, later);
    }

    /// Into the line: at once, or after a pause that grows with each try. A wave that has stopped gives up instead.
    fn put_off(&mut self, slot: u32, now: Time, later: bool) {
        let open = self.opens.get(slot);
        let tries = u32::from(open.tries);
        open.tries = open.tries.saturating_add(u8::from(later));
        let open = *open;
        let run = self.run(open.wave);
        if run.phase != Phase::Running {
            self.end(slot, given_up(&open));
            return;
        }
        run.reporting.change();
        let lane = run.outlets[usize::from(open.outlet)].lane;
        let due = match self.lanes.iter().find(|l| l.end.spec.id == lane) {
            Some(lane) if later => now + lane.end.backoff().pause(tries, &mut self.rng),
            _ => now,
        };
        self.run(open.wave).outlets[usize::from(open.outlet)].retry.push(due, slot);
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
