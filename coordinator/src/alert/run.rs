//! One alert under way, as a state machine: what nodes say, a wish to cancel and time come in; the
//! state, what nodes are to do next and the progress go out. No task, no clock.
//!
//! ```text
//! Running ─all nodes complete─▶ Resolved ─recorded─▶ Ending ─last reports─▶ Settled (RESOLVED)
//!    ├─────its time is over───▶ Expired ──────────────────────────────────▶ Settled (EXPIRED)
//!    └──cancel──▶ Cancelling ──all confirmed──▶ Cancelled ────────────────▶ Settled (CANCELLED)
//! ```
//!
//! `Resolved` waits until the store has the end: a node that was told of it forgets what it has
//! handed over, and a coordinator that found the alert active would send to everybody again.
//!
//! A node that never took the wave ([`WaveNote::Isolated`]) is never complete: such an alert runs
//! until its time is over or it is cancelled, and says so to those who watch it.
//!
//! `Resolved`, `Expired` and `Cancelled` are final for callers: nothing more is sent. Answers to
//! what is under way still come in; `Settled` is when no number will change any more.

use std::{collections::BTreeMap, time::Duration};

use clarion_proto::{ids::BootId, time::Time, wire::shard_v1 as wire};

use crate::{
    clock::Moment,
    lane::lease::LEASE_MS,
    owners::NodeName,
    planned::PlannedAlert,
    progress::{Added, Fold, Timeline},
    session::note::WaveNote,
    snapshot::{Snapshot, State},
    standing,
};

/// Everybody was complete: the last reports come within a round trip, or the node is gone and has
/// nothing to add.
const LAST_REPORTS: Duration = Duration::from_secs(2);
/// After the request deadline, for the last reports on their way.
const SETTLE: Duration = Duration::from_secs(5);
/// A grant runs on the node's clock from when the node asked, before it was given here: it ends
/// earlier than this. The rest is for clocks that run at different speeds (50 ms in 5 s are 1 %;
/// quartz is off by 0.01 %).
const GRANT: Duration = Duration::from_millis(LEASE_MS as u64 + 50);

/// One alert under way.
#[derive(Debug)]
pub(crate) struct Run {
    phase: Phase,
    expires: Time,
    /// The longest that a request may go unanswered.
    request_deadline: Duration,
    nodes: BTreeMap<NodeName, Node>,
    fold: Fold,
    ended: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Resolved,
    Ending { since: Time },
    Cancelling { since: Time },
    Cancelled { since: Time },
    Expired { since: Time },
    Settled(State),
}

/// One node's part in the wave.
#[derive(Debug, Default)]
struct Node {
    connected: bool,
    boot: Option<BootId>,
    /// Of the newest report of this boot.
    sequence: u64,
    complete: bool,
    /// Nothing of this boot will change any more.
    ended: bool,
    stopped: bool,
    granted: Option<Time>,
    /// It was not taken three times, and is not sent again: why.
    isolated: Option<String>,
}

impl Run {
    /// `nodes`: those with a part, taken to be connected until [`Run::away`] or [`WaveNote::Gone`]
    /// says otherwise. Of an alert that was taken over each may have a grant of the former
    /// coordinator, given until `begun`.
    pub(crate) fn new(
        plan: &PlannedAlert,
        nodes: impl IntoIterator<Item = NodeName>,
        request_deadline: Duration,
        begun: Moment,
    ) -> Self {
        let timeline = Timeline::new(plan.created, begun);
        let granted = plan.is_taken_over().then_some(begun.at);
        let node = || Node { connected: true, granted, ..Node::default() };
        let nodes: BTreeMap<_, _> = nodes.into_iter().map(|name| (name, node())).collect();
        let fold =
            Fold::new(plan.name.clone(), timeline, &plan.bands, &plan.apps, nodes.keys().cloned());
        Self {
            phase: Phase::Running,
            expires: timeline.at(plan.expires),
            request_deadline,
            nodes,
            fold,
            ended: None,
        }
    }

    /// A node has no session.
    pub(crate) fn away(&mut self, name: &NodeName) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.connected = false;
        }
    }

    /// A node says something of the wave, or comes, or goes.
    pub(crate) fn note(
        &mut self,
        name: &NodeName,
        boot: BootId,
        note: WaveNote,
        now: Time,
    ) -> Added {
        let mut added = Added::default();
        let Some(node) = self.nodes.get_mut(name) else { return added };
        match note {
            WaveNote::Joined => {
                if node.boot != Some(boot) {
                    let (granted, isolated) = (node.granted, node.isolated.take());
                    *node = Node { boot: Some(boot), granted, isolated, ..Node::default() };
                }
                node.connected = true;
            }
            WaveNote::Gone => self.away(name),
            // It asks for leave for it: it has it after all.
            WaveNote::Granted => (node.granted, node.isolated) = (Some(now), None),
            WaveNote::Isolated(reason) => node.isolated = Some(reason),
            WaveNote::Stopped(_) => node.stopped = true,
            WaveNote::Report(report) => {
                added = self.fold.report(name, boot, &report, now);
                node.isolated = None;
                node.report(boot, &report);
            }
        }
        self.step(now);
        added
    }

    /// Somebody wants it stopped. Where it has ended, or everybody is complete, nothing changes.
    pub(crate) fn cancel(&mut self, now: Time) {
        if self.phase == Phase::Running {
            self.phase = Phase::Cancelling { since: now };
        }
        self.step(now);
    }

    /// The store has the end: nodes may forget the alert.
    pub(crate) fn recorded(&mut self, now: Time) {
        if self.phase == Phase::Resolved {
            self.phase = Phase::Ending { since: now };
        }
        self.step(now);
    }

    /// When the alert's time is over.
    pub(crate) fn expires(&self) -> Time {
        self.expires
    }

    /// Time has passed.
    pub(crate) fn step(&mut self, now: Time) {
        // Each turn moves on at most once, and there are four phases in a row at most.
        while let Some(next) = self.next(now) {
            self.phase = next;
            if self.state().is_final() {
                self.ended.get_or_insert(now);
            }
            if let Phase::Settled(_) = next {
                self.fold.settle();
            }
        }
    }

    fn next(&self, now: Time) -> Option<Phase> {
        let all = |done: fn(&Node) -> bool| self.nodes.values().all(done);
        // A node that is away may come back with what it knows, for as long as it may have been
        // sending.
        let away = |since: Time| now >= since + GRANT;
        let quiet = |since: Time| {
            self.nodes
                .values()
                .all(|n| n.ended || n.granted.is_none() || (!n.connected && away(since)))
                || now >= self.quiet_by(since)
        };
        match self.phase {
            Phase::Running if all(|n| n.complete) => Some(Phase::Resolved),
            Phase::Running if now >= self.expires => Some(Phase::Expired { since: now }),
            Phase::Ending { since }
                if all(|n| n.ended || !n.connected) || now >= since + LAST_REPORTS =>
            {
                Some(Phase::Settled(State::Resolved))
            }
            Phase::Cancelling { since } if self.nodes.values().all(|n| n.silent(since) <= now) => {
                Some(Phase::Cancelled { since: now })
            }
            Phase::Cancelled { since } if quiet(since) => Some(Phase::Settled(State::Cancelled)),
            Phase::Expired { since } if quiet(since) => Some(Phase::Settled(State::Expired)),
            _ => None,
        }
    }

    /// By then every request has its answer or none, and the report of it has come.
    fn quiet_by(&self, since: Time) -> Time {
        since + self.request_deadline.max(GRANT) + SETTLE
    }

    /// When [`Run::step`] may have something to do though nobody says anything; after `now`.
    pub(crate) fn deadline(&self, now: Time) -> Option<Time> {
        match self.phase {
            Phase::Running => Some(self.expires),
            Phase::Ending { since } => Some(since + LAST_REPORTS),
            Phase::Cancelling { since } => self
                .nodes
                .values()
                .map(|n| n.silent(since))
                .filter(|at| *at > now)
                .min()
                .or(Some(now)),
            Phase::Cancelled { since } | Phase::Expired { since } => {
                Some(since + GRANT).filter(|at| *at > now).or(Some(self.quiet_by(since)))
            }
            Phase::Resolved | Phase::Settled(_) => None,
        }
    }

    /// What callers see.
    pub(crate) fn state(&self) -> State {
        match self.phase {
            Phase::Running => State::Active,
            Phase::Resolved | Phase::Ending { .. } => State::Resolved,
            Phase::Cancelling { .. } => State::Cancelling,
            Phase::Cancelled { .. } => State::Cancelled,
            Phase::Expired { .. } => State::Expired,
            Phase::Settled(state) => state,
        }
    }

    /// What nodes are to do; `None`: forget it.
    pub(crate) fn standing(&self) -> Option<standing::Phase> {
        match self.phase {
            Phase::Running => Some(standing::Phase::Running),
            Phase::Ending { .. } => Some(standing::Phase::Ended),
            Phase::Cancelling { .. } | Phase::Cancelled { .. } => Some(standing::Phase::Cancelled),
            Phase::Resolved | Phase::Expired { .. } => Some(standing::Phase::Closed),
            Phase::Settled(_) => None,
        }
    }

    /// Nothing will change any more.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Settled(_))
    }

    /// Nodes that may still send although it was cancelled: those that can be reached, and those
    /// that cannot.
    pub(crate) fn unconfirmed(&self, now: Time) -> (Vec<&NodeName>, Vec<&NodeName>) {
        let Phase::Cancelling { since } = self.phase else { return (Vec::new(), Vec::new()) };
        let open = self.nodes.iter().filter(|(_, n)| n.silent(since) > now);
        let (here, away): (Vec<_>, Vec<_>) = open.partition(|(_, n)| n.connected);
        let names = |nodes: Vec<(_, _)>| nodes.into_iter().map(|(name, _)| name).collect();
        (names(here), names(away))
    }

    /// The newest state of the alert, for watchers and for the record.
    pub(crate) fn snapshot(&mut self) -> Snapshot {
        let state = self.state();
        let isolated = self
            .nodes
            .iter()
            .filter_map(|(name, node)| Some((name.clone(), node.isolated.clone()?)));
        let isolated = isolated.collect();
        Snapshot { isolated, ..self.fold.snapshot(state, self.ended) }
    }
}

impl Node {
    fn report(&mut self, boot: BootId, report: &wire::Report) {
        if self.boot == Some(boot) && report.sequence > self.sequence {
            self.sequence = report.sequence;
            // A device that moves into the region makes a complete node incomplete again.
            self.complete = report.complete;
            self.ended |= report.ended;
        }
    }

    /// From when on it surely writes nothing more, the alert being cancelled at `since`. A node
    /// without a grant sends nothing. A connected one may be given a last grant in the moment of
    /// the cancel.
    fn silent(&self, since: Time) -> Time {
        match (self.stopped || self.ended, self.connected, self.granted) {
            (true, _, _) | (false, false, None) => Time(0),
            (false, false, Some(granted)) => granted + GRANT,
            (false, true, granted) => granted.unwrap_or(since).max(since) + GRANT,
        }
    }
}

#[cfg(test)]
mod tests;
