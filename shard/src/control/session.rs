//! What is owed to one coordinator's session. Everything else belongs to the node.
//!
//! Memory of one session: [`REFUSALS_MAX`] refusals and as many pending cancels of unknown waves,
//! 64 lease requests, and the numbers up to which the session knows the node's news: some 40 KB,
//! and eight times as much for [`SESSIONS_MAX`](super::fence::SESSIONS_MAX) sessions.

use std::collections::{BTreeSet, VecDeque};

use clarion_proto::ids::WaveId;

use super::{REFUSALS_MAX, lanes, leases::Leases, message::Rejected, registry};

/// The open session of one coordinator.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) greeted: bool,
    pub(super) refusals: Refusals,
    /// Cancelled here without ever having been here.
    pub(super) stopped_unknown: BTreeSet<WaveId>,
    /// Whether the coordinator must state its lanes again.
    pub(super) lanes_wanted: bool,
    pub(super) leases: Leases,
    /// State of lanes that the coordinator knows.
    pub(super) lanes: lanes::Told,
    /// State of the registry that the coordinator knows.
    pub(super) registry: registry::Told,
    /// The coordinator's newest ownership was refused.
    pub(super) ownership_refused: bool,
    pub(super) farewell: Farewell,
}

/// How far a session is with the node's leaving.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell {
    #[default]
    Stays,
    /// The node must report that it leaves, after all other messages.
    Due,
    Told,
    /// The coordinator has confirmed that it applied everything.
    Left,
}

/// Refusals that the coordinator has not read yet: at most [`REFUSALS_MAX`], the rest is counted.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    kept: VecDeque<Rejected>,
    dropped: u64,
}

impl Refusals {
    pub(super) fn push(&mut self, rejected: Rejected) {
        if self.kept.len() < REFUSALS_MAX {
            self.kept.push_back(rejected);
        } else {
            self.dropped += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The next refusal with its text; the last one names the number of those that were not kept.
    pub(super) fn pop(&mut self) -> Option<(Rejected, String)> {
        let rejected = self.kept.pop_front()?;
        let mut reason = rejected.problem.to_string();
        if self.kept.is_empty() && self.dropped > 0 {
            reason +=
                &format!(" (and {} more that were not kept)", std::mem::take(&mut self.dropped));
        }
        Some((rejected, reason))
    }
}
