//! The decision about a complete request: the provider's checks, and the script or fault that
//! overrides them.

use clarion_proto::{device::token_hash, time::Time};
use rand::Rng as _;

use super::{
    super::{
        answer::{Answer, Reason, RetryAfter, Violation},
        apns, fcm,
        head::{Ask, Head},
        policy::{Policy, Provider},
        record::flag,
        script::{Fate, Script, answer_for},
    },
    Connection, Context,
    answers::Subject,
    request::mint,
};

/// State of a connection for the checks of its provider.
#[derive(Debug)]
pub(super) enum Judge {
    Apns(apns::judge::Judge),
    Fcm(fcm::judge::Judge),
}

impl Judge {
    pub(super) fn new(policy: &Policy) -> Self {
        match policy.provider {
            Provider::Apns(_) => Self::Apns(apns::judge::Judge::default()),
            Provider::Fcm(_) => Self::Fcm(fcm::judge::Judge::default()),
        }
    }

    /// Clears the cache of bodies.
    pub(super) fn forget(&mut self) {
        match self {
            Self::Apns(judge) => judge.forget(),
            Self::Fcm(judge) => judge.forget(),
        }
    }

    /// Returns the hashes of token and collapse key of an FCM body, for the record.
    pub(super) fn hashes(&mut self, body: &[u8]) -> (u64, u64) {
        let Self::Fcm(judge) = self else { return (0, 0) };
        let read = judge.read(body);
        (read.token.map_or(0, |t| token_hash(&t)), read.meaning.map_or(0, |m| m.collapse_hash))
    }
}

/// The decision about one request.
pub(super) struct Decision {
    pub(super) answer: Answer,
    pub(super) fate: Fate,
    pub(super) subject: Subject,
    /// Time that the record gives to the decision.
    pub(super) at: Time,
    pub(super) token_hash: u64,
    pub(super) collapse_hash: u64,
    pub(super) flags: u8,
}

impl Connection {
    /// Decides the answer to a request, and whether the push reaches the phone.
    pub(super) fn decide(
        &mut self,
        head: &Head,
        body: &[u8],
        context: &mut Context<'_>,
    ) -> Decision {
        match (&head.ask, &context.policy.provider) {
            (Ask::Apns(ask), Provider::Apns(policy)) => {
                self.decide_apns(ask, head, body, policy, context)
            }
            (Ask::Fcm(ask), Provider::Fcm(policy)) => {
                self.decide_fcm(ask, head, body, policy, context)
            }
            _ => unreachable!("a head is read by its policy's provider"),
        }
    }

    fn decide_apns(
        &mut self,
        ask: &apns::request::Ask,
        head: &Head,
        body: &[u8],
        policy: &apns::Policy,
        context: &mut Context<'_>,
    ) -> Decision {
        let Judge::Apns(judge) = &mut self.judge else {
            unreachable!("a judge is of its policy's provider")
        };
        let age_max = context.plan.provider_token_age_max(context.now.at);
        let judged = judge.judge(ask, body, head.body_bytes_max, policy, age_max, context.now);
        context.log.totals.payload_not_json += std::mem::take(&mut judge.not_json);
        let Verdict { answer, fate, accepted } = match judged {
            Ok(token) => self.scripted(token, context),
            Err(reason) => {
                Verdict { answer: Answer::refused(reason), fate: Fate::Answer, accepted: false }
            }
        };
        let token_hash = match &ask.path {
            apns::request::Path::Device(token) => token_hash(token.as_bytes()),
            apns::request::Path::Bad | apns::request::Path::BadToken(_) => 0,
        };
        Decision {
            answer,
            fate,
            subject: Subject::Apns(ask.rest.apns_id.unwrap_or_else(|| mint(&mut self.random))),
            at: context.now.at,
            token_hash,
            collapse_hash: ask.rest.collapse_hash,
            flags: if accepted { flag::ACCEPTED } else { 0 },
        }
    }

    fn decide_fcm(
        &mut self,
        ask: &fcm::request::Ask,
        head: &Head,
        body: &[u8],
        policy: &fcm::Policy,
        context: &mut Context<'_>,
    ) -> Decision {
        let subject = fcm::answer::Subject {
            project: ask.project,
            dry_run: false,
            id: self.random.next_u64(),
        };
        let mut decision = Decision {
            answer: Answer::ACCEPTED,
            fate: Fate::Answer,
            subject: Subject::Fcm(subject),
            at: context.now.at,
            token_hash: 0,
            collapse_hash: 0,
            flags: 0,
        };
        let Judge::Fcm(judge) = &mut self.judge else {
            unreachable!("a judge is of its policy's provider")
        };
        let project = match fcm::judge::admit(ask, policy, context.now) {
            Ok(project) => project,
            Err(answer) => return Decision { answer, ..decision },
        };
        let too_long = body.len() > head.body_bytes_max;
        let read = if too_long {
            fcm::judge::Body {
                token: None,
                meaning: Err(Answer::refused(Reason::FcmPayloadTooLarge)),
            }
        } else if ask.not_json {
            let what =
                "Invalid JSON payload received. The body is not of the type application/json.";
            fcm::judge::Body { token: None, meaning: Err(fcm::message::malformed(what)) }
        } else {
            judge.read(body)
        };
        decision.token_hash = read.token.as_deref().map_or(0, token_hash);
        let entrance = fcm::judge::enter(project, policy, context.now);
        decision.at = entrance.at;
        if let Some(wait) = entrance.refused {
            decision.answer = over_quota(policy, project, wait.as_secs_f64().ceil());
            decision.flags = flag::OVER_QUOTA;
            return decision;
        }
        let Verdict { answer, fate, accepted } = match read.meaning {
            Ok(meaning) => {
                decision.collapse_hash = meaning.collapse_hash;
                decision.subject =
                    Subject::Fcm(fcm::answer::Subject { dry_run: meaning.dry_run, ..subject });
                let token = read.token.as_deref().unwrap_or_default();
                let verdict = self.scripted(token, context);
                Verdict { accepted: verdict.accepted && !meaning.dry_run, ..verdict }
            }
            Err(answer) => Verdict { answer, fate: Fate::Answer, accepted: false },
        };
        if fate == Fate::Refuse || fate == Fate::Answer && answer.status == 429 {
            policy.projects[project].quota.lock().forgive(entrance.at);
        } else {
            decision.flags |= flag::COUNTED;
        }
        decision.flags |= if accepted { flag::ACCEPTED } else { 0 };
        (decision.answer, decision.fate) = (answer, fate);
        decision
    }

    /// Applies scripts and faults to a valid request: its answer, and whether the push reaches the
    /// phone.
    fn scripted(&mut self, token: &[u8], context: &mut Context<'_>) -> Verdict {
        // The scripts of faults count attempts from the time they were set, those of the gateway
        // from its start.
        let faults = (&context.plan.scripts, context.plan.generation + 1);
        for (scripts, series) in [faults, (&context.policy.scripts, 0)] {
            let script = answer_for(token, scripts);
            if script == Script::Accept {
                continue;
            }
            let attempt =
                if script.counts_attempts() { context.attempts.next(token, series) } else { 0 };
            if let Some(scripted) = script.at(attempt) {
                return Verdict::new(
                    scripted.fate,
                    scripted.answer(context.now.wall),
                    scripted.delivered,
                );
            }
        }
        if !context.plan.faults.errors.is_empty()
            && let Some(error) =
                context.plan.error(self.random.next_u64(), self.number, context.now.at)
        {
            let status = error.status.unwrap_or_else(|| error.reason.status());
            let answer =
                Answer { status, retry_after: error.retry_after, ..Answer::refused(error.reason) };
            return Verdict::new(error.fate, answer, error.delivered);
        }
        Verdict { answer: Answer::ACCEPTED, fate: Fate::Answer, accepted: true }
    }
}

/// Result of a valid request.
struct Verdict {
    answer: Answer,
    fate: Fate,
    /// Whether the push reaches the device.
    accepted: bool,
}

impl Verdict {
    /// Creates the result of a script or a fault. A request without an answer has no status in the
    /// record.
    fn new(fate: Fate, answer: Answer, delivered: bool) -> Self {
        if fate.is_answered() {
            return Self { accepted: delivered || answer.reason == Reason::None, answer, fate };
        }
        let status = if fate.is_cut() { answer.status } else { 0 };
        let nothing = Answer { status, ..Answer::ACCEPTED };
        Self { answer: nothing, fate, accepted: delivered && fate != Fate::Refuse }
    }
}

/// Returns the refusal for a used-up quota, with the time until there is room.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "whole seconds of a minute at most"
)]
fn over_quota(policy: &fcm::Policy, project: usize, seconds: f64) -> Answer {
    let limit = policy.projects[project].quota.lock().per_minute().to_string();
    Answer {
        retry_after: Some(RetryAfter { seconds: seconds as u32, date: false }),
        violation: Some(Box::new(Violation { field: limit, description: String::new() })),
        ..Answer::refused(Reason::FcmRateLimitExceeded)
    }
}
