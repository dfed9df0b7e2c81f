//! The state machine of one alert under way. Inputs: the nodes' notes, a cancel and the time.
//! Outputs: the alert's state, the wave's phase and the progress. No task, no clock.
//!
//! ```text
//! Running ─all nodes complete─▶ Resolved ─recorded─▶ Ending ─last reports─▶ Settled (RESOLVED)
//!    ├─────its time is over───▶ Expired ──────────────────────────────────▶ Settled (EXPIRED)
//!    └──cancel──▶ Cancelling ──all confirmed──▶ Cancelled ────────────────▶ Settled (CANCELLED)
//! ```
//!
//! `Resolved` waits until the store holds the end: a node forgets the devices that it has handed
//! over when the wave ends, and a coordinator that found the alert active in the store would send
//! to every device again.
//!
//! A cancel that another coordinator has recorded and sent reaches this run by the nodes'
//! confirmations: once every node has stopped or is complete, the alert is cancelled here, too. One
//! node alone cancels nothing.
//!
//! A node that never accepted the wave ([`WaveNote::Isolated`]) is never complete: such an alert
//! runs until it expires or is cancelled, and its snapshots name the isolated node.
//!
//! `Resolved`, `Expired` and `Cancelled` are final for callers: nothing more is sent. Responses to
//! requests under way still arrive; in `Settled` no number changes.

use std::{collections::BTreeMap, time::Duration};

use clarion_proto::{ids::BootId, time::Time, wire::shard_v1 as wire};
use clarion_runtime::world::Moment;

use crate::{
    lane::lease::LEASE_MS,
    owners::NodeName,
    planned::PlannedAlert,
    progress::{Added, Fold, Timeline},
    session::note::WaveNote,
    snapshot::{Snapshot, State},
    standing,
};

/// Time for the last reports after all nodes were complete: they arrive within a round trip, or the
/// node is gone and has nothing to add.
const LAST_REPORTS: Duration = Duration::from_secs(2);
/// Time after the request deadline for the last reports in transit.
const SETTLE: Duration = Duration::from_secs(5);
/// Lifetime of a grant as seen here. On the node's clock a grant starts when the node asks, before
/// this coordinator gives the grant, so it ends earlier than this time. The margin is for clocks of
/// different speed (50 ms in 5 s are 1 %; quartz is off by 0.01 %).
const GRANT: Duration = Duration::from_millis(LEASE_MS as u64 + 50);

/// The run of one alert under way.
#[derive(Debug)]
pub(crate) struct Run {
    phase: Phase,
    expires: Time,
    /// Longest request deadline of all lanes.
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
    /// Number of the newest report of this boot.
    sequence: u64,
    complete: bool,
    /// Whether the numbers of this boot are final.
    ended: bool,
    stopped: bool,
    granted: Option<Time>,
    /// Reason of the isolation: the node failed to accept the wave three times, and the wave is not
    /// sent to it again.
    isolated: Option<String>,
}

impl Run {
    /// `nodes`: the nodes with partitions, assumed to be connected until [`Run::away`] or
    /// [`WaveNote::Gone`]. After a takeover each node may still have a grant of the former
    /// coordinator, given at `begun` at the latest.
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

    /// Reports that a node has no session.
    pub(crate) fn away(&mut self, name: &NodeName) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.connected = false;
        }
    }

    /// Processes a node's note: a report about the wave, a connect or a disconnect.
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
            // The alert's task ends: the run says nothing more.
            WaveNote::Superseded(_) => {}
            // A node that asks for a grant has accepted the wave after all.
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

    /// Cancels the alert. Changes nothing if the alert has ended or all nodes are complete.
    pub(crate) fn cancel(&mut self, now: Time) {
        if self.phase == Phase::Running {
            self.phase = Phase::Cancelling { since: now };
        }
        self.step(now);
    }

    /// Reports that the store holds the end: nodes may forget the alert.
    pub(crate) fn recorded(&mut self, now: Time) {
        if self.phase == Phase::Resolved {
            self.phase = Phase::Ending { since: now };
        }
        self.step(now);
    }

    /// Time at which the alert expires.
    pub(crate) fn expires(&self) -> Time {
        self.expires
    }

    /// Applies the passage of time.
    pub(crate) fn step(&mut self, now: Time) {
        // Each turn makes at most one transition, and at most four phases follow each other.
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
        // A disconnected node may reconnect with new reports for as long as it may have been
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
            Phase::Running if all(|n| n.complete || n.stopped) => {
                Some(Phase::Cancelling { since: now })
            }
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

    /// Time by which every request has a response or has timed out, and its report has arrived.
    fn quiet_by(&self, since: Time) -> Time {
        since + self.request_deadline.max(GRANT) + SETTLE
    }

    /// Next time after `now` at which [`Run::step`] may change the state without a new input.
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

    /// The state that callers see.
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

    /// The phase of the wave at the nodes; `None`: nodes forget the wave.
    pub(crate) fn standing(&self) -> Option<standing::Phase> {
        match self.phase {
            Phase::Running => Some(standing::Phase::Running),
            Phase::Ending { .. } => Some(standing::Phase::Ended),
            Phase::Cancelling { .. } | Phase::Cancelled { .. } => Some(standing::Phase::Cancelled),
            Phase::Resolved | Phase::Expired { .. } => Some(standing::Phase::Closed),
            Phase::Settled(_) => None,
        }
    }

    /// Whether the alert is settled: its numbers no longer change.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Settled(_))
    }

    /// Nodes that may still send after the cancel: the connected nodes, then the disconnected
    /// nodes.
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
            // Not monotonic: a device that moves into the region makes a complete node incomplete.
            self.complete = report.complete;
            self.ended |= report.ended;
        }
    }

    /// Time after which the node certainly sends nothing more of an alert cancelled at `since`. A
    /// node without a grant sends nothing. A connected node may get a last grant at the moment of
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
