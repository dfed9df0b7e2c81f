//! Whether a node took what it was sent, over all sessions and processes of the node: nothing is
//! sent a fourth time.
//!
//! ```text
//!            send            in flight ──report, stop, lease request, count──▶ taken
//! untried ─────────▶ queued ────▶ │
//!    ▲                            │ refusal; session lost; no sign for 30 s
//!    └───── failed < 3 ───────────┤
//!                                 └─ failed = 3 ──▶ isolated ──report after all──▶ taken
//! ```
//!
//! One alert whose message a node cannot take must not stand in the way of the others. A refusal
//! says so itself. A session that breaks says nothing, so what was in flight then is *suspected*:
//! it failed once. From then on a suspect is sent alone (nothing else in flight) and only in a
//! session that has lived for a while, those that failed less first. Thus
//!
//! - whoever was in flight by chance is sent alone, taken, and suspected no more;
//! - a node that is restarted, cut off or breaks by itself condemns nothing, unless that happens
//!   within the milliseconds between a suspect and the sign that it was taken, three times in a
//!   row;
//! - what really breaks the node is alone each time, and isolated by its third session.
//!
//! A graceful end of a session is no failure, neither is a refusal because the node is shutting
//! down. A message that says something new (another ownership, another epoch) begins anew.

use std::{collections::BTreeMap, time::Duration};

use clarion_proto::{
    ids::{Epoch, WaveId},
    time::Time,
};

use crate::snapshot::truncated;

/// Deliveries of one message that may fail.
pub(crate) const FAILURES_MAX: u32 = 3;
/// A session that has lived so long can carry a suspect: if it breaks now, the suspect is the
/// reason.
pub(crate) const PROVEN_AFTER: Duration = Duration::from_secs(1);
/// Between sending all of a message and a sign that the node took it. A node answers within
/// milliseconds; more than its lease (5 s) means that it does not.
const SIGN_WITHIN: Duration = Duration::from_secs(30);

/// What is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Wave(WaveId),
    Count(u64),
}

/// What of a wave makes its message another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Edition {
    pub(crate) epoch: Epoch,
    pub(crate) ownership: u64,
}

/// All deliveries to one node.
#[derive(Debug, Default)]
pub(crate) struct Deliveries(BTreeMap<Subject, Delivery>);

#[derive(Debug, Default)]
struct Delivery {
    edition: Edition,
    failures: u32,
    /// Of the last failure.
    reason: String,
    stage: Stage,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not in this session.
    #[default]
    Away,
    /// It waits for the stream.
    Queued,
    /// On its way; a sign that it was taken is due by then, once all of it was sent.
    InFlight { due: Option<Time> },
}

/// Whether something may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Now; it is the delivery of this number, from 1.
    Send(u32),
    /// Not now: it is suspected, and is sent alone.
    Wait,
    /// Never again.
    Isolated,
}

/// Failed for the last time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Isolated {
    pub(crate) subject: Subject,
    pub(crate) reason: String,
}

impl Deliveries {
    /// Asks for leave to send; [`Leave::Send`] counts as queued.
    ///
    /// `proven`: the session is beyond [`PROVEN_AFTER`].
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

    /// How often this edition of it failed: the order in which suspects are tried.
    pub(crate) fn failures(&self, subject: Subject, edition: Edition) -> u32 {
        self.0.get(&subject).filter(|d| d.edition == edition).map_or(0, |d| d.failures)
    }

    /// How often the newest edition of it failed.
    pub(crate) fn failures_of(&self, subject: Subject) -> u32 {
        self.0.get(&subject).map_or(0, |d| d.failures)
    }

    /// Its first byte is on its way.
    pub(crate) fn sent(&mut self, subject: Subject) {
        if let Some(delivery) = self.0.get_mut(&subject) {
            delivery.stage = Stage::InFlight { due: None };
        }
    }

    /// All of it is on its way.
    pub(crate) fn sent_whole(&mut self, subject: Subject, now: Time) {
        if let Some(delivery) = self.0.get_mut(&subject) {
            delivery.stage = Stage::InFlight { due: Some(now + SIGN_WITHIN) };
        }
    }

    /// It will not be sent, or nobody waits for it any more: no failure.
    pub(crate) fn withdraw(&mut self, subject: Subject) {
        if let Some(delivery) = self.0.get_mut(&subject) {
            delivery.stage = Stage::Away;
        }
    }

    /// The node has it. True: that is news.
    pub(crate) fn taken(&mut self, subject: Subject) -> bool {
        let Some(delivery) = self.0.get_mut(&subject) else { return false };
        let before = (std::mem::take(&mut delivery.stage), std::mem::take(&mut delivery.failures));
        before != (Stage::Away, 0)
    }

    /// The node did not take it. `Some`: never again.
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

    /// The session has ended. `broken` says how, unless it ended as either side wanted.
    pub(crate) fn session_ended(&mut self, broken: Option<&str>) -> Vec<Isolated> {
        let in_flight = |d: &Delivery| matches!(d.stage, Stage::InFlight { .. });
        let suspects: Vec<Subject> =
            self.0.iter().filter(|(_, d)| in_flight(d)).map(|(s, _)| *s).collect();
        self.0.values_mut().for_each(|d| d.stage = Stage::Away);
        let Some(reason) = broken else { return Vec::new() };
        suspects.into_iter().filter_map(|subject| self.failed(subject, reason)).collect()
    }

    /// Those of which no sign came in time.
    pub(crate) fn overdue(&self, now: Time) -> Vec<Subject> {
        let late =
            |d: &Delivery| matches!(d.stage, Stage::InFlight { due: Some(due) } if due <= now);
        self.0.iter().filter(|(_, d)| late(d)).map(|(subject, _)| *subject).collect()
    }

    /// When [`Deliveries::overdue`] has something.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let due = |d: &Delivery| match d.stage {
            Stage::InFlight { due } => due,
            _ => None,
        };
        self.0.values().filter_map(due).min()
    }

    /// All that is never sent again.
    pub(crate) fn isolated(&self) -> impl Iterator<Item = Isolated> {
        let isolated = self.0.iter().filter(|(_, d)| d.failures >= FAILURES_MAX);
        isolated.map(|(subject, d)| Isolated { subject: *subject, reason: d.reason.clone() })
    }

    /// Forgets all that is over.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(Subject) -> bool) {
        self.0.retain(|subject, _| keep(*subject));
    }
}

#[cfg(test)]
mod tests;
