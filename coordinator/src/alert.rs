//! The legal transitions of an alert's record: a state machine free of I/O. While the alert runs,
//! [`run`] is a second state machine, and [`director`] a third one around it.
//!
//! ```text
//!            ┌── all have their outcome ──▶ RESOLVED
//!  ACTIVE ───┼── active_until passed ─────▶ EXPIRED
//!            └── a cancel ──▶ CANCELLING ──▶ CANCELLED
//! ```
//!
//! A cancel is recorded before the nodes are stopped, so that the cancel survives a coordinator
//! that dies in between. The alert may end by itself at the same moment: then the actual end
//! (RESOLVED or EXPIRED) replaces CANCELLING. While the store is away, the nodes are stopped without
//! a record: then ACTIVE becomes CANCELLED as soon as the store is back.

use std::sync::Arc;

use clarion_proto::ids::{AlertName, UnixMillis};

use crate::{
    snapshot::{Snapshot, State},
    store::AlertRecord,
};

pub(crate) mod director;
pub(crate) mod run;

/// Longest reason of a cancel, bytes.
pub const REASON_BYTES_MAX: usize = 512;

/// An event in the life of an alert.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A caller cancels the alert.
    Cancel {
        /// Reason that the caller gave, kept in the record.
        reason: String,
    },
    /// The alert reached a final state by its nodes' reports.
    End(State),
    /// The alert is settled: its numbers no longer change.
    Settle(Arc<Snapshot>),
}

/// An illegal transition of an alert's record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {from:?}: it cannot become {to:?}")]
pub struct Illegal {
    /// Alert whose record stays unchanged.
    pub name: AlertName,
    /// State of the record.
    pub from: State,
    /// State that the record was to get.
    pub to: State,
}

impl AlertRecord {
    /// The record after an event; `None` if the event changes nothing.
    ///
    /// # Errors
    /// [`Illegal`]: the record's state does not allow the event.
    pub fn after(&self, event: Event, now: UnixMillis) -> Result<Option<Self>, Illegal> {
        let illegal = |to| Illegal { name: self.name.clone(), from: self.state, to };
        let mut next = Self { revision: self.revision + 1, ..self.clone() };
        match (self.state, event) {
            (State::Active, Event::Cancel { reason }) => {
                next.state = State::Cancelling;
                next.cancel_reason = (!reason.is_empty()).then_some(reason);
            }
            // A second cancel, or the cancel of an ended alert, changes nothing.
            (_, Event::Cancel { .. }) => return Ok(None),
            (from, Event::End(to)) if from == to => return Ok(None),
            (
                State::Active | State::Cancelling,
                Event::End(to @ (State::Cancelled | State::Resolved | State::Expired)),
            ) => {
                next.state = to;
                next.ended = Some(now);
                // An ended alert never runs again, and bodies in many languages are most of its
                // size.
                next.plan = None;
            }
            (_, Event::End(to)) => return Err(illegal(to)),
            (from, Event::Settle(_)) if self.settled.is_some() && from.is_final() => {
                return Ok(None);
            }
            (from, Event::Settle(snapshot)) if from.is_final() => next.settled = Some(snapshot),
            (_, Event::Settle(snapshot)) => return Err(illegal(snapshot.state)),
        }
        Ok(Some(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixtures::record;

    const ALL: [State; 5] =
        [State::Active, State::Cancelling, State::Cancelled, State::Resolved, State::Expired];

    #[test]
    fn only_the_drawn_transitions_are_legal() {
        let drawn = [
            (State::Active, State::Resolved),
            (State::Active, State::Expired),
            (State::Active, State::Cancelled),
            (State::Cancelling, State::Cancelled),
            (State::Cancelling, State::Resolved),
            (State::Cancelling, State::Expired),
        ];
        for from in ALL {
            for to in ALL {
                let before = AlertRecord { state: from, ..record("a", 1) };
                let after = before.after(Event::End(to), UnixMillis(5));
                if from == to {
                    assert!(matches!(after, Ok(None)), "{from:?} → {to:?}");
                } else if drawn.contains(&(from, to)) {
                    let after = after.expect("legal").expect("new");
                    assert_eq!(
                        (after.state, after.ended, after.revision),
                        (to, Some(UnixMillis(5)), 2)
                    );
                    assert_eq!(after.plan, None, "what was only needed while active");
                } else {
                    let illegal = Illegal { name: before.name, from, to };
                    assert_eq!(after.expect_err("not drawn"), illegal);
                }
            }
        }
    }

    #[test]
    fn a_cancel_stops_what_is_active_and_changes_nothing_else() {
        let cancel = || Event::Cancel { reason: "found".into() };
        let after = record("a", 1).after(cancel(), UnixMillis(5)).expect("legal").expect("new");
        assert_eq!(
            (after.state, after.cancel_reason.as_deref(), after.ended),
            (State::Cancelling, Some("found"), None)
        );
        for state in &ALL[1..] {
            let before = AlertRecord { state: *state, ..record("a", 1) };
            assert!(matches!(before.after(cancel(), UnixMillis(5)), Ok(None)), "{state:?}");
        }
    }
}
