//! Deliveries to one node, over all its sessions and processes: no message is sent a fourth time.
//!
//! ```text
//!            send            in flight ──report, stop, lease request, count──▶ taken
//! untried ─────────▶ queued ────▶ │
//!    ▲                            │ refusal; session lost; no sign for 30 s
//!    └───── failed < 3 ───────────┤
//!                                 └─ failed = 3 ──▶ isolated ──report after all──▶ taken
//! ```
//!
//! An alert whose message a node cannot take must not block other alerts. A refusal names the
//! message. A session that breaks names none, so every message in flight becomes a *suspect*, with
//! one failure. A suspect is sent alone (no other message in flight) and only in a session that has
//! lived for a while; suspects with fewer failures go first. Thus
//!
//! - a message that was in flight by chance is sent alone, taken, and suspected no more;
//! - a node that restarts, loses its connection or breaks by itself isolates no message, unless
//!   that happens three times in a row within the milliseconds between a suspect and the sign that
//!   the node took it;
//! - a message that really breaks the node is alone each time, and isolated by the third session.
//!
//! A graceful end of a session is no failure, and neither is a refusal because the node shuts down.
//! A message with new content (another ownership, another epoch) starts without failures.

use std::{collections::BTreeMap, time::Duration};

use clarion_proto::{
    ids::{Epoch, WaveId},
    time::Time,
};

use crate::snapshot::truncated;

/// Number of failed deliveries after which a message is isolated.
pub(crate) const FAILURES_MAX: u32 = 3;
/// Age from which a session can carry a suspect: if the session then breaks, the suspect is the
/// likely cause.
pub(crate) const PROVEN_AFTER: Duration = Duration::from_secs(1);
/// Deadline for the sign that a node took a message, from the end of sending. A node answers within
/// milliseconds; a node that needs longer than its lease (5 s) does not answer.
const SIGN_WITHIN: Duration = Duration::from_secs(30);

/// Message that is delivered: a wave or a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Wave(WaveId),
    Count(u64),
}

/// Version of a wave's message: a message of another edition starts without failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Edition {
    pub(crate) epoch: Epoch,
    pub(crate) ownership: u64,
}

/// All deliveries to one node, over its sessions and processes.
#[derive(Debug, Default)]
pub(crate) struct Deliveries(BTreeMap<Subject, Delivery>);

#[derive(Debug, Default)]
struct Delivery {
    edition: Edition,
    failures: u32,
    /// Reason of the last failure.
    reason: String,
    stage: Stage,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The message was not sent in this session.
    #[default]
    Away,
    /// The message waits for the stream.
    Queued,
    /// The message is on its way; `due`: deadline of the sign, set once all of it was sent.
    InFlight { due: Option<Time> },
}

/// Answer to the question whether a message may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Send now, as the delivery of this number, from 1.
    Send(u32),
    /// Send later: the message is a suspect and is sent alone.
    Wait,
    /// Never send again: the message failed too often.
    Isolated,
}

/// A message that failed too often and is never sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Isolated {
    pub(crate) subject: Subject,
    pub(crate) reason: String,
}

impl Deliveries {
    /// Decides whether a message may be sent; after [`Leave::Send`] the message counts as queued.
    ///
    /// `proven`: the session is older than [`PROVEN_AFTER`].
    pub(crate) fn queue(&mut self, subject: Subject, edition: Edition, proven: bool) -> Leave {
        let known = self.0.entry(subject).or_default();
        if known.edition != edition {
            *known = Delivery { edition, ..Delivery::default() };
        }
        let failures = known.failures;
        if failures >= FAILURES_MAX {
            return Leave::Isolated;
        }
        if failures > 0 && !(proven && self.0.values().all(|d| d.stage == Stage::Away)) {
            return Leave::Wait;
        }
        if let Some(delivery) = self.0.get_mut(&subject) {
            delivery.stage = Stage::Queued;
        }
        Leave::Send(failures + 1)
    }

    /// Number of failures of this edition; suspects are tried in this order.
    pub(crate) fn failures(&self, subject: Subject, edition: Edition) -> u32 {
        self.0.get(&subject).filter(|d| d.edition == edition).map_or(0, |d| d.failures)
    }

    /// Number of failures of the newest edition.
    pub(crate) fn failures_of(&self, subject: Subject) -> u32 {
        self.0.get(&subject).map_or(0, |d| d.failures)
    }

    /// Records that the first byte of a message is on its way.
    pub(crate) fn sent(&mut self, subject: Subject) {
        if let Some(delivery) = self.0.get_mut(&subject) {
            delivery.stage = Stage::InFlight { due: None };
        }
    }

    /// Records that all of a message is on its way.
    pub(crate) fn sent_whole(&mut self, subject: Subject, now: Time) {
        if let Some(delivery) = self.0.get_mut(&subject) {
            delivery.stage = Stage::InFlight { due: Some(now + SIGN_WITHIN) };
        }
    }

    /// Withdraws a message that is not sent, or not needed any more; this is no failure.
    pub(crate) fn withdraw(&mut self, subject: Subject) {
        if let Some(delivery) = self.0.get_mut(&subject) {
            delivery.stage = Stage::Away;
        }
    }

    /// Records that the node took a message; true if that was not known.
    pub(crate) fn taken(&mut self, subject: Subject) -> bool {
        let Some(delivery) = self.0.get_mut(&subject) else { return false };
        let before = (std::mem::take(&mut delivery.stage), std::mem::take(&mut delivery.failures));
        before != (Stage::Away, 0)
    }

    /// Records that the node did not take a message; `Some`: the message is now isolated.
    pub(crate) fn failed(&mut self, subject: Subject, reason: &str) -> Option<Isolated> {
        let delivery = self.0.get_mut(&subject)?;
        delivery.stage = Stage::Away;
        if delivery.failures >= FAILURES_MAX {
            return None;
        }
        delivery.failures += 1;
        truncated(reason).clone_into(&mut delivery.reason);
        let reason = delivery.reason.clone();
        (delivery.failures >= FAILURES_MAX).then_some(Isolated { subject, reason })
    }

    /// Records the end of the session. `broken`: the reason if the stream broke; `None`: either
    /// side ended the session.
    pub(crate) fn session_ended(&mut self, broken: Option<&str>) -> Vec<Isolated> {
        let in_flight = |d: &Delivery| matches!(d.stage, Stage::InFlight { .. });
        let suspects: Vec<Subject> =
            self.0.iter().filter(|(_, d)| in_flight(d)).map(|(s, _)| *s).collect();
        self.0.values_mut().for_each(|d| d.stage = Stage::Away);
        let Some(reason) = broken else { return Vec::new() };
        suspects.into_iter().filter_map(|subject| self.failed(subject, reason)).collect()
    }

    /// Messages whose sign did not arrive in time.
    pub(crate) fn overdue(&self, now: Time) -> Vec<Subject> {
        let late =
            |d: &Delivery| matches!(d.stage, Stage::InFlight { due: Some(due) } if due <= now);
        self.0.iter().filter(|(_, d)| late(d)).map(|(subject, _)| *subject).collect()
    }

    /// Next time at which [`Deliveries::overdue`] may have messages.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let due = |d: &Delivery| match d.stage {
            Stage::InFlight { due } => due,
            _ => None,
        };
        self.0.values().filter_map(due).min()
    }

    /// All messages that are never sent again.
    pub(crate) fn isolated(&self) -> impl Iterator<Item = Isolated> {
        let isolated = self.0.iter().filter(|(_, d)| d.failures >= FAILURES_MAX);
        isolated.map(|(subject, d)| Isolated { subject: *subject, reason: d.reason.clone() })
    }

    /// Removes the messages that `keep` rejects.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(Subject) -> bool) {
        self.0.retain(|subject, _| keep(*subject));
    }
}

#[cfg(test)]
mod tests;
