//! Offers of waves and counts to one node: which are sent, which wait, which are isolated.
//!
//! A small wave or count is one message. A large one is sent as a head and parts; the parts are
//! made as the stream takes them, a part of each in turn, and all other messages overtake the
//! parts.

use clarion_proto::{
    ids::{Epoch, WaveId},
    time::Time,
    wire::shard_v1::{self as wire, RefusalCause, SessionRequest, session_request::Message},
};

use super::{
    AGAIN, SentWave, Session,
    delivery::{Edition, Isolated, Leave, Subject},
    message,
    note::{Note, WaveNote},
    parts::{self, Parts},
};
use crate::{
    owners::Owned,
    standing::{Phase, Standing, StandingWave},
};

impl Session {
    pub(super) fn send_wave(&mut self, wave: &StandingWave, owned: &Owned, now: Time) {
        use SentWave::{Cancelled, Ended, Isolated, Offered, Passed, Refused, Stopped, Waiting};
        let present = edition(wave, owned);
        let id = wave.plan.wave;
        let sent = self.sent.waves.get(&id).copied();
        if sent.is_none() && owned.share(&self.node) > 0 {
            self.notes.push_back(Note::Wave(id, WaveNote::Joined));
            if wave.plan.is_taken_over() {
                // The node may have it from a former coordinator: it is told of a cancel and of the
                // end, too.
                self.memory.inherit(id, wave.plan.epoch);
            }
        }
        if wave.phase != Phase::Running {
            self.withdraw(Subject::Wave(id));
        }
        let has_part = owned.share(&self.node) > 0;
        let known = self.memory.has_reported(id) && self.memory.edition(id) == Some(present);
        let next = match (wave.phase, sent) {
            (_, None) if !has_part => Passed,
            (Phase::Running, None) if known => Offered,
            (Phase::Running, None | Some(Waiting)) => self.offer_wave(wave, owned, now),
            // A newer ownership: the node plans the wave anew, and keeps what it has handed.
            (Phase::Running, Some(Offered | Passed))
                if has_part && self.memory.edition(id) != Some(present) =>
            {
                self.offer_wave(wave, owned, now)
            }
            // A process that never got the wave has nothing to stop.
            (Phase::Cancelled, None | Some(Waiting | Isolated)) if !self.memory.was_offered(id) => {
                let stopped = wire::Stopped { wave: id.0, ..wire::Stopped::default() };
                self.notes.push_back(Note::Wave(id, WaveNote::Stopped(stopped)));
                Stopped
            }
            (Phase::Cancelled, None | Some(Waiting | Isolated | Offered | Refused(_))) => {
                let cancel = wire::Cancel { wave: id.0, epoch: wave.plan.epoch.0 };
                self.outbox.push_back(message::request(Message::Cancel(cancel)));
                Cancelled(now + AGAIN)
            }
            (Phase::Ended, None | Some(Waiting | Isolated)) if !self.memory.was_offered(id) => {
                Passed
            }
            (Phase::Ended, None | Some(Waiting | Isolated | Offered | Refused(_))) => {
                self.end(id, wave.plan.epoch);
                Ended
            }
            (Phase::Closed, None | Some(Waiting)) => Passed,
            (_, Some(as_before)) => as_before,
        };
        self.sent.waves.insert(id, next);
    }

    /// Sends End for waves that have ended everywhere and that this node may know. A wave that
    /// another coordinator has taken over goes on: its End would make the node forget the devices
    /// that it has handed.
    pub(super) fn end_others(&mut self, standing: &Standing) {
        for (wave, epoch) in self.memory.offered() {
            let ends = !standing.waves.contains_key(&wave)
                && !standing.abandoned.contains(&wave)
                && self.sent.waves.get(&wave) != Some(&SentWave::Ended);
            if ends {
                self.end(wave, epoch);
            }
        }
        self.sent.waves.retain(|wave, _| standing.waves.contains_key(wave));
        self.memory.retain(|wave| standing.waves.contains_key(&wave));
        let stands = |subject: Subject| match subject {
            Subject::Wave(wave) => standing.waves.contains_key(&wave),
            Subject::Count(id) => standing.counts.contains_key(&id),
        };
        self.memory.deliveries.retain(stands);
        self.heads.retain(|subject, _| stands(*subject));
        self.parts.retain(|parts| stands(parts.subject()));
    }

    fn end(&mut self, wave: WaveId, epoch: Epoch) {
        let end = wire::End { wave: wave.0, epoch: epoch.0 };
        self.outbox.push_back(message::request(Message::End(end)));
    }

    pub(super) fn send_counts(&mut self, standing: &Standing, owned: &Owned) {
        if owned.share(&self.node) == 0 {
            return;
        }
        self.sent.counts.retain(|id| standing.counts.contains_key(id));
        for id in standing.counts.keys() {
            if !self.sent.counts.contains(id) {
                self.offer_count(standing, *id);
            }
        }
    }

    /// Sends a suspect if one may be due.
    pub(super) fn send_due_suspect(&mut self, now: Time) {
        let standing = self.standing.clone();
        if std::mem::take(&mut self.suspects_due)
            && let Some(owned) = &standing.owned
        {
            self.send_suspect(&standing, owned, now);
        }
    }

    /// Sends one suspect if it may be sent now: the one with the fewest failures.
    pub(super) fn send_suspect(&mut self, standing: &Standing, owned: &Owned, now: Time) {
        let waves = standing.waves.values().filter(|w| {
            w.phase == Phase::Running
                && self.sent.waves.get(&w.plan.wave) == Some(&SentWave::Waiting)
        });
        let waves = waves.map(|w| (Subject::Wave(w.plan.wave), edition(w, owned)));
        let counts = standing.counts.keys().filter(|id| !self.sent.counts.contains(id));
        let counts = counts.map(|id| (Subject::Count(*id), Edition::default()));
        let suspects = waves.chain(counts).filter(|_| owned.share(&self.node) > 0);
        let least = suspects
            .map(|(subject, edition)| (self.memory.deliveries.failures(subject, edition), subject))
            .min();
        let Some((_, subject)) = least else { return };
        self.alone = true;
        match subject {
            Subject::Wave(id) => {
                if let Some(wave) = standing.waves.get(&id) {
                    let next = self.offer_wave(wave, owned, now);
                    self.sent.waves.insert(id, next);
                }
            }
            Subject::Count(id) => self.offer_count(standing, id),
        }
        self.alone = false;
    }

    /// Decides whether a message may be sent; a suspect waits for [`Session::send_suspect`].
    fn leave(&mut self, subject: Subject, edition: Edition) -> Leave {
        match self.memory.deliveries.failures(subject, edition) {
            1..super::delivery::FAILURES_MAX if !self.alone => Leave::Wait,
            _ => self.memory.deliveries.queue(subject, edition, self.proven),
        }
    }

    fn offer_wave(&mut self, wave: &StandingWave, owned: &Owned, now: Time) -> SentWave {
        let (plan, id) = (&wave.plan, wave.plan.wave);
        let subject = Subject::Wave(id);
        match self.leave(subject, edition(wave, owned)) {
            Leave::Wait => SentWave::Waiting,
            Leave::Isolated => {
                self.note_isolated(subject);
                SentWave::Isolated
            }
            Leave::Send(number) => {
                let small = parts::is_small(&plan.bands, &plan.apps, self.memory.done_bytes(id));
                let delivery = if small { 0 } else { number };
                if !small {
                    let partitions = owned.ownership.partitions_of(&self.node);
                    self.heads.insert(subject, Parts::of_wave(delivery, plan.clone(), partitions));
                }
                let head = message::wave(wave, owned, &self.node, &self.memory, delivery, now);
                self.outbox.push_back(head);
                self.memory.offer(id, edition(wave, owned));
                SentWave::Offered
            }
        }
    }

    fn offer_count(&mut self, standing: &Standing, id: u64) {
        let Some(plan) = standing.counts.get(&id) else { return };
        let subject = Subject::Count(id);
        match self.leave(subject, Edition::default()) {
            Leave::Wait => {}
            Leave::Isolated => {
                self.sent.counts.insert(id);
                self.note_isolated(subject);
            }
            Leave::Send(number) => {
                let small = parts::is_small(&plan.bands, &[], 0);
                let delivery = if small { 0 } else { number };
                if !small {
                    self.heads.insert(subject, Parts::of_count(delivery, id, plan.clone()));
                }
                self.outbox.push_back(message::count(id, plan, delivery));
                self.sent.counts.insert(id);
            }
        }
    }

    /// The next message for the node, without parts.
    pub(crate) fn poll_message(&mut self) -> Option<SessionRequest> {
        let request = self.outbox.pop_front()?;
        let subject = match &request.message {
            Some(Message::Wave(wave)) => Subject::Wave(WaveId(wave.id)),
            Some(Message::Count(count)) => Subject::Count(count.id),
            _ => return Some(request),
        };
        self.memory.deliveries.sent(subject);
        match self.heads.remove(&subject) {
            Some(parts) => self.parts.push_back(parts),
            None => self.memory.deliveries.sent_whole(subject, self.now),
        }
        Some(request)
    }

    pub(crate) fn has_part(&self) -> bool {
        !self.parts.is_empty()
    }

    /// The next part for the node, whose head has been polled.
    pub(crate) fn poll_part(&mut self) -> Option<SessionRequest> {
        let mut parts = self.parts.pop_front()?;
        let part = parts.next(&self.memory);
        if part.last {
            self.memory.deliveries.sent_whole(parts.subject(), self.now);
        } else {
            self.parts.push_back(parts);
        }
        Some(message::request(Message::CoverPart(part)))
    }

    /// Records that the node took a wave or count: the node confirmed it or reported on it.
    pub(super) fn taken(&mut self, subject: Subject) {
        let news = self.memory.deliveries.taken(subject);
        if let Subject::Wave(wave) = subject
            && let Some(sent @ (SentWave::Refused(_) | SentWave::Isolated | SentWave::Waiting)) =
                self.sent.waves.get_mut(&wave)
        {
            *sent = SentWave::Offered; // the node has the wave after all
        }
        self.suspects_due |= news;
    }

    /// Withdraws a message that is no longer needed.
    fn withdraw(&mut self, subject: Subject) {
        self.memory.deliveries.withdraw(subject);
        self.drop_parts(subject);
    }

    fn drop_parts(&mut self, subject: Subject) {
        self.heads.remove(&subject);
        self.parts.retain(|parts| parts.subject() != subject);
    }

    /// Takes a node's refusal. A refused wave is sent again later, when the node may have taken the
    /// ownership or may have room; after the third refusal it is isolated. A refusal of neither a
    /// wave nor a count is a defect of one side, which the note reports for the log.
    pub(super) fn refused(&mut self, refusal: &wire::Refusal, now: Time) {
        let wire::Refusal { ownership, wave, reason, count, .. } = refusal;
        let cause = refusal.cause();
        self.fault(format!(
            "refused wave {wave}, count {count}, holding ownership {ownership}, {cause:?}: {reason}"
        ));
        if self.sent.ownership != Some(*ownership) {
            self.sent.ownership = None; // the ownership is sent again, before the wave
        }
        match (*wave, *count) {
            (0, 0) => {}
            (0, id) => {
                self.withdraw(Subject::Count(id));
                let again = matches!(cause, RefusalCause::Room | RefusalCause::Draining);
                self.notes.push_back(Note::CountFailed { id, reason: reason.clone(), again });
            }
            (wave, _) => {
                let wave = WaveId(wave);
                if cause == RefusalCause::Superseded && self.is_superseded(wave, refusal.epoch) {
                    self.withdraw(Subject::Wave(wave));
                    self.sent.waves.insert(wave, SentWave::Superseded);
                    let epoch = Epoch(refusal.epoch);
                    self.notes.push_back(Note::Wave(wave, WaveNote::Superseded(epoch)));
                    return;
                }
                // The refusal is of a Cancel, or of a delivery that was given up.
                if self.sent.waves.get(&wave) != Some(&SentWave::Offered) {
                    return;
                }
                if cause == RefusalCause::Draining {
                    self.withdraw(Subject::Wave(wave));
                    self.sent.waves.insert(wave, SentWave::Refused(now + AGAIN));
                } else {
                    self.failed(Subject::Wave(wave), reason, now);
                }
            }
        }
        self.suspects_due = true;
    }

    /// Whether an epoch that a node obeys is another coordinator's.
    fn is_superseded(&self, wave: WaveId, epoch: u64) -> bool {
        self.standing.waves.get(&wave).is_some_and(|wave| epoch > wave.plan.epoch.0)
    }

    /// Fails the deliveries whose sign did not arrive in time.
    pub(super) fn give_up_overdue(&mut self, now: Time) {
        for subject in self.memory.deliveries.overdue(now) {
            self.fault(format!("no sign that {subject:?} was taken"));
            self.failed(subject, "no sign from the node that it was taken", now);
            self.suspects_due = true;
        }
    }

    fn failed(&mut self, subject: Subject, reason: &str, now: Time) {
        self.drop_parts(subject);
        let isolated = self.memory.deliveries.failed(subject, reason);
        match (subject, &isolated) {
            (Subject::Wave(wave), None) => {
                // 1 s, then 4 s: a node needs some seconds to remove ended waves.
                let failures = self.memory.deliveries.failures_of(subject).max(1);
                let pause = AGAIN * 4_u32.saturating_pow(failures - 1);
                self.sent.waves.insert(wave, SentWave::Refused(now + pause));
            }
            (Subject::Wave(wave), Some(_)) => {
                self.sent.waves.insert(wave, SentWave::Isolated);
            }
            (Subject::Count(id), None) => drop(self.sent.counts.remove(&id)),
            (Subject::Count(_), Some(_)) => {}
        }
        self.notes.extend(isolated.map(note_of));
    }

    fn note_isolated(&mut self, subject: Subject) {
        let isolated =
            self.memory.deliveries.isolated().find(|isolated| isolated.subject == subject);
        self.notes.extend(isolated.map(note_of));
    }
}

/// Note to the coordinator about an isolated message.
pub(super) fn note_of(Isolated { subject, reason }: Isolated) -> Note {
    match subject {
        Subject::Wave(wave) => Note::Wave(wave, WaveNote::Isolated(reason)),
        Subject::Count(id) => Note::CountFailed { id, reason, again: false },
    }
}

fn edition(wave: &StandingWave, owned: &Owned) -> Edition {
    Edition { epoch: wave.plan.epoch, ownership: owned.ownership.number }
}
