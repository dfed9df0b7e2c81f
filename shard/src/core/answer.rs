//! The result of a request, and its consequences for the device, the lane and the wave.

use std::time::Duration;

use clarion_proto::{outcome::Outcome, time::Time};

use super::{
    Core, consequence::Later, guests::ticket_of_guest, link::Link, open::Open, reasons::Why,
};
use crate::{
    command::Consequence,
    lane::{
        Doubt, LaneEnd, Mute,
        connection::{CloseReason, ConnectionEvent, ErrorCode},
        evidence::{UNSIGNED_TRIES, Witness},
        pool,
    },
    outcome::{Answer, Reason, Verdict, classify},
};

/// Age at which a connection without requests counts as useful, because it was not accepted only to
/// be closed.
const IDLED: Duration = Duration::from_mins(1);

impl Core {
    /// Handles all events of a connection.
    pub(super) fn settle(&mut self, link: u32, now: Time) {
        let mut accepted = std::mem::take(&mut self.accepted);
        if let Some(connection) = self.connection(link) {
            connection.take_accepted(&mut accepted);
        }
        self.batch.begin(!accepted.is_empty());
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
                ConnectionEvent::Answer { ticket, answer } => {
                    let by = self.witness(link);
                    self.answered(link, ticket, by, &answer, now);
                }
                ConnectionEvent::Unanswered { ticket, status } => {
                    let by = self.witness(link);
                    self.unanswered(link, ticket, by, status, now);
                }
                ConnectionEvent::Unprocessed { ticket } => self.unprocessed(link, ticket, now),
                ConnectionEvent::Closing { reason } => self.closing(link, &reason, now),
                ConnectionEvent::Closed => self.close_link(link, false),
            }
        }
    }

    /// Handles a connection that takes no more requests. A graceful close is no failure, unless
    /// connections do nothing else.
    fn closing(&mut self, link: u32, reason: &CloseReason, now: Time) {
        let Some(l) = self.links[link as usize].link.as_mut() else { return };
        let in_order = match reason {
            CloseReason::Asked | CloseReason::Lost => true,
            // A connection that was idle for a while was useful too (FCM ends those after some
            // minutes).
            CloseReason::GoAway { code, .. } => {
                *code == ErrorCode::NO_ERROR && (l.answers > 0 || now.since(l.opened) >= IDLED)
            }
            CloseReason::StreamIdsSpent => true,
            CloseReason::Silent | CloseReason::Error(_) => false,
        };
        if !in_order {
            log_close(&mut self.lanes[l.lane].end, reason, now);
        }
        // The connection was established and closed gracefully, so earlier failed attempts no
        // longer count.
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

    /// Handles accepted pushes: the hot path. One acceptance means as much for the lane as many at
    /// once.
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
        l.refused_in_row = 0;
        end.answered(now);
        end.was_of_use(l.answers);
        if before < pool::ANSWERS_FOR_AN_ATTEMPT {
            end.counted(before, l.answers);
        }
        let lane = l.lane;
        let mut proof = None;
        if end.trust.is_in_doubt() {
            let number = end.trust.number();
            let with_it = |ticket: &u64| {
                opens.find(*ticket).is_some_and(|slot| opens.get(slot).credential == number)
            };
            proof = tickets.iter().any(with_it).then_some(number);
        }
        for ticket in tickets {
            let Some(open) = opens.take(*ticket) else { continue };
            let Some(run) = waves[usize::from(open.wave)].as_mut() else { continue };
            run.ended(&open, Outcome::Accepted);
        }
        if let Some(number) = proof {
            self.token_accepted(lane, number);
        }
    }

    /// Returns the identity of a connection in evidence.
    fn witness(&self, link: u32) -> Witness {
        self.links[link as usize].link.as_ref().map_or_else(Witness::default, Link::witness)
    }

    /// Counts one more answer on a connection.
    pub(super) fn count_answer(&mut self, link: u32, ticket: u64, now: Time) {
        let Some(l) = self.links[link as usize].link.as_mut() else { return };
        let before = l.answers;
        l.answers = before.saturating_add(1);
        let end = &mut self.lanes[l.lane].end;
        if let Some(took) = l.probe.answered(ticket, now) {
            end.meter.answered(took, now);
        }
        end.counted(before, l.answers);
    }

    /// Handles an answer other than an acceptance.
    pub(super) fn answered(
        &mut self,
        link: u32,
        ticket: u64,
        by: Witness,
        answer: &Answer,
        now: Time,
    ) {
        let Some(at) = self.links[link as usize].link.as_ref().map(|l| l.lane) else { return };
        self.count_answer(link, ticket, now);
        self.lanes[at].end.settled(1, now);
        let Some(slot) = self.opens.find(ticket) else { return };
        let open = *self.opens.get(slot);
        let verdict = self.apply_answer(link, by, open.credential, answer, Some(&open), now);
        let reason = || Why::Answer(answer.status, answer.reason.clone());
        match verdict {
            Verdict::Accepted => self.end(slot, Outcome::Accepted),
            Verdict::Dead { sure } => self.dead(slot, at, !sure, answer),
            Verdict::Refused => self.refuse(slot, &reason()),
            Verdict::Message { token } => self.message_refused(slot, link, by, token, answer, now),
            // While no device of the project is accepted, the cause is the project and not this
            // device.
            Verdict::Project if self.lanes[at].end.misses_project() => {
                self.try_again(slot, now, Later::Elsewhere(Duration::ZERO), &reason());
            }
            Verdict::Project | Verdict::Unfamiliar => {
                self.elsewhere_or_refuse(slot, link, &reason(), now);
            }
            Verdict::DeviceLater { wait } => {
                self.try_again(slot, now, Later::After(wait.unwrap_or_default()), &reason());
            }
            Verdict::LaneLater { wait } => {
                self.opens.get(slot).avoid = Some(link);
                self.try_again(slot, now, Later::After(wait.unwrap_or_default()), &reason());
            }
            Verdict::Unsigned { wait } => self.unsigned(slot, link, answer.status, wait, now),
            Verdict::TokenChange => {
                self.try_again(slot, now, Later::After(Duration::ZERO), &reason());
            }
            Verdict::Credential | Verdict::ConnectionOnly => {
                self.opens.get(slot).avoid = Some(link);
                self.try_again(slot, now, Later::AtOnce, &reason());
            }
        }
    }

    /// Applies an answer to the lane, the connection and the credential. `open` is the push that
    /// was answered, if this core has it.
    pub(super) fn apply_answer(
        &mut self,
        link: u32,
        by: Witness,
        credential: u32,
        answer: &Answer,
        open: Option<&Open>,
        now: Time,
    ) -> Verdict {
        let Some(at) = self.links[link as usize].link.as_ref().map(|l| l.lane) else {
            return Verdict::Unsigned { wait: None };
        };
        let Self { lanes, rng, .. } = self;
        let end = &mut lanes[at].end;
        let verdict = classify(end.spec.platform, answer);
        let in_row = !self.batch.has_success;
        let first = in_row && open.is_none_or(|open| open.doubts == 0);
        match verdict {
            Verdict::Accepted
            | Verdict::Dead { .. }
            | Verdict::Refused
            | Verdict::DeviceLater { .. } => {
                end.answered(now);
                self.in_row(link, false);
            }
            Verdict::Message { .. } | Verdict::Unfamiliar => {
                end.answered(now);
                self.in_row(link, true);
            }
            Verdict::Project => {
                end.doubted(Doubt::Project, (by, first), &answer.reason, now, rng);
                self.in_row(link, true);
            }
            Verdict::LaneLater { wait } => {
                end.doubted(Doubt::Load(wait), (by, in_row), &answer.reason, now, rng);
                self.in_row(link, true);
                return verdict;
            }
            Verdict::Unsigned { .. } => {
                self.apply_cut_answer(link, by, answer.status, open, now);
                return verdict;
            }
            Verdict::TokenChange => {
                if end.trust.put_off(credential, now, rng) {
                    end.answer_received(now);
                    end.credential_refused(&answer.reason);
                } else {
                    end.doubted(Doubt::TokenChange, (by, in_row), &answer.reason, now, rng);
                    self.in_row(link, true);
                }
                return verdict;
            }
            Verdict::Credential => {
                self.token_refused(link, by, credential, &answer.reason, now);
                self.in_row(link, true);
                return verdict;
            }
            Verdict::ConnectionOnly => {
                end.answer_received(now);
                self.retire(link);
            }
        }
        self.token_accepted(at, credential);
        verdict
    }

    /// Applies an unsigned or incomplete answer to the lane and the connection.
    pub(super) fn apply_cut_answer(
        &mut self,
        link: u32,
        by: Witness,
        status: u16,
        open: Option<&Open>,
        now: Time,
    ) {
        let Some(at) = self.links[link as usize].link.as_ref().map(|l| l.lane) else { return };
        let counts = !self.batch.has_success && open.is_none_or(|open| open.tries < UNSIGNED_TRIES);
        let Self { lanes, rng, .. } = self;
        let detail = format_args!("status {status} without the provider's reason");
        lanes[at].end.doubted(Doubt::Unsigned, (by, counts), &detail, now, rng);
        self.in_row(link, true);
    }

    /// Replaces a connection on which a full row of answers has no success. An intermediary on its
    /// way may be the cause, and a verdict needs a second connection, which a lane with a single
    /// connection gets only in this way.
    fn in_row(&mut self, link: u32, refused: bool) {
        let Self { links, lanes, .. } = self;
        let Some(l) = links[link as usize].link.as_mut() else { return };
        l.refused_in_row =
            if refused && !self.batch.has_success { l.refused_in_row.saturating_add(1) } else { 0 };
        if l.refused_in_row >= lanes[l.lane].end.spec.evidence && !l.leaving {
            self.retire(link);
        }
    }

    /// Handles a request that was sent and got no answer, or only the head of one. The push may
    /// have been delivered.
    pub(super) fn unanswered(
        &mut self,
        link: u32,
        ticket: u64,
        by: Witness,
        status: Option<u16>,
        now: Time,
    ) {
        if let Some(l) = &self.links[link as usize].link {
            self.lanes[l.lane].end.settled(1, now);
        }
        let slot = self.opens.find(ticket);
        match (status, slot) {
            (None, _) => self.went_unanswered(link, now),
            (Some(status), Some(slot)) => {
                let open = *self.opens.get(slot);
                self.apply_cut_answer(link, by, status, Some(&open), now);
            }
            (Some(_), None) => {}
        }
        let Some(slot) = slot else { return };
        let open = self.opens.get(slot);
        open.unanswered = true;
        open.avoid = status.is_some().then_some(link);
        let (wave, app) = (open.wave, open.app);
        let run = self.run(wave);
        run.unanswered_requests += 1;
        if let Some(status) = status {
            run.count_reason(Consequence::Retried, app, &Why::Answer(status, Reason::None));
        }
        self.put_off(slot, now, Later::After(Duration::ZERO));
    }

    /// Applies a request without an answer to the lane and its connection.
    pub(super) fn went_unanswered(&mut self, link: u32, now: Time) {
        let Some(l) = self.links[link as usize].link.as_mut() else { return };
        let (lane, dead_end) = (l.lane, l.is_dead_end(now));
        self.lanes[lane].end.unanswered(now, &mut self.rng);
        if dead_end {
            self.give_up(link, Mute::Silent, now);
        }
    }

    /// Handles a request that the gateway did not process, so that it may be sent again at once
    /// over another connection.
    pub(super) fn unprocessed(&mut self, link: u32, ticket: u64, now: Time) {
        if let Some(l) = &self.links[link as usize].link {
            self.lanes[l.lane].end.settled(1, now);
        }
        if let Some(slot) = self.opens.find(ticket) {
            let wave = self.opens.get(slot).wave;
            self.run(wave).retried_requests += 1;
            self.put_off(slot, now, Later::AtOnce);
        }
    }
}

/// Logs that a connection closed because of the gateway.
fn log_close(end: &mut LaneEnd, reason: &CloseReason, now: Time) {
    match reason {
        CloseReason::GoAway { code, reason } => {
            let code = code.0;
            if let Some(times) = end.times_to_log(&format!("GOAWAY {code}"), now) {
                let lane = &end.spec.name;
                tracing::warn!(lane, code, %reason, times, "connection closed by gateway (GOAWAY)");
            }
        }
        CloseReason::Silent => {
            if let Some(times) = end.times_to_log("silent", now) {
                let lane = &end.spec.name;
                tracing::warn!(lane, times, "connection closed: gateway stopped responding");
            }
        }
        // `Core::receive` logs an error: one may also occur while the connection drains.
        CloseReason::Error(_)
        | CloseReason::Asked
        | CloseReason::Lost
        | CloseReason::StreamIdsSpent => {}
    }
}
