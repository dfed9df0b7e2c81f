//! What became of an alert so far, as its record and its watchers are given it.
//!
//! The arithmetic is in [`crate::progress`]; here is what comes out of it. How that is said to
//! callers is the api's matter.

use std::time::Duration;

use clarion_proto::{
    ids::{AlertName, AppName, UnixMillis},
    outcome::Outcome,
};

use crate::{lane::LaneKey, owners::NodeName};

/// Longest detail kept, bytes: the gateway's words, which nobody limits.
const DETAIL_BYTES_MAX: usize = 256;

/// Where an alert stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// The alert is being sent.
    Active,
    /// Cancelled, not yet confirmed by every node.
    Cancelling,
    /// Cancelled: nothing more is sent.
    Cancelled,
    /// Every device in the region has its outcome.
    Resolved,
    /// Its time passed with devices still to be sent to.
    Expired,
}

/// Devices handed to a lane and the gateway's last word on them; sums only grow.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Devices handed to a lane: those with an outcome and those still open.
    pub handed: u64,
    /// Devices by `clarion_proto::outcome::Outcome`, in the order of `Outcome::ALL`.
    pub outcomes: [u64; 5],
}

impl Counts {
    /// Devices handed that have no outcome yet.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.handed.saturating_sub(self.outcomes.iter().sum())
    }

    /// Devices with one outcome.
    #[must_use]
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize]
    }

    /// Adds the counts of another part.
    pub fn add(&mut self, other: &Self) {
        self.handed += other.handed;
        for (mine, theirs) in self.outcomes.iter_mut().zip(other.outcomes) {
            *mine += theirs;
        }
    }
}

/// Progress of one band.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BandCounts {
    /// Inner edge: distance from the place last seen, metres.
    pub from_m: f64,
    /// Outer edge: distance from the place last seen, metres.
    pub to_m: f64,
    /// Every node has handed all of the band.
    pub walked: bool,
    /// Counts of all nodes together.
    pub counts: Counts,
}

/// Progress of one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CellCounts {
    /// H3 cell of resolution 6.
    pub cell: u64,
    /// Devices handed to a lane: those with an outcome and those still open.
    pub handed: u64,
    /// Devices whose push the gateway took.
    pub accepted: u64,
    /// Devices with any other outcome.
    pub failed: u64,
    /// The snapshot that changed it last.
    pub version: u64,
}

/// The newest state of one alert: what a watcher is given.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Alert whose state it is.
    pub alert: AlertName,
    /// Grows with each change that was published.
    pub version: u64,
    /// Where the alert stands.
    pub state: State,
    /// Nothing will change any more; the watcher's stream can end. After a final state was reached
    /// the last reports, and answers to requests under way, still come in for some seconds before
    /// this is set.
    pub settled: bool,
    /// Wall time at which the alert reached a final state.
    pub ended: Option<UnixMillis>,
    /// Counts of all bands together.
    pub totals: Counts,
    /// Requests without an answer in their deadline.
    pub unanswered_requests: u64,
    /// Requests the gateway asked to be tried again.
    pub retried_requests: u64,
    /// Nodes that walked their whole part.
    pub nodes_walked: u32,
    /// Nodes with a part.
    pub nodes: u32,
    /// Time from the alert's record to the first acceptance that this coordinator heard of.
    pub first_accepted_after: Option<Duration>,
    /// The same for the newest acceptance reported.
    pub last_accepted_after: Option<Duration>,
    /// All bands, nearest first.
    pub bands: Vec<BandCounts>,
    /// All cells, in the order of their index.
    pub cells: Vec<CellCounts>,
    /// Messages that are sent no more.
    pub refused_messages: Vec<RefusedMessage>,
    /// What keeps the lanes of the alert from sending.
    pub lane_troubles: Vec<LaneTrouble>,
    /// Nodes that did not take it and are not sent it again, each with its reason.
    pub isolated: Vec<(NodeName, String)>,
    /// Why devices were not accepted, or not at once: those with the highest counts, highest first.
    pub reasons: Vec<ReasonCount>,
    /// Sum of the counts of all other reasons.
    pub other_reasons: u64,
    /// Alarms of the apps of the alert.
    pub pruning_alarms: Vec<PruningAlarm>,
}

/// How often a gateway gave one reason to the devices of an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReasonCount {
    /// App and lane; `None`: several, which a node counted together.
    pub of: Option<(AppName, LaneKey)>,
    /// What followed for the device.
    pub outcome: AnswerOutcome,
    /// HTTP status of the answer; 0: several.
    pub status: u32,
    /// The provider's word; empty: none that it signed.
    pub reason: String,
    /// How often the reason was given, over all nodes and all of their boots.
    pub count: u64,
}

/// What followed from an answer for its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AnswerOutcome {
    /// The token is dead.
    Dead,
    /// The device gets no notification of this alert.
    Refused,
    /// The device is pushed to again.
    Retried,
}

/// An app whose devices are kept although its gateway calls their tokens bad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruningAlarm {
    /// App that it is about.
    pub app: AppName,
    /// Lane that the devices of the app are reached through.
    pub lane: LaneKey,
    /// When the alarm started.
    pub since: UnixMillis,
    /// Answers since then that called a token bad and pruned nobody.
    pub withheld: u64,
    /// Something of the app was accepted.
    pub accepted_any: bool,
}

/// A message that a gateway refuses whoever it is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefusedMessage {
    /// App that it is about.
    pub app: AppName,
    /// Status and reason, in the gateway's words.
    pub detail: String,
}

/// Ends of one lane that cannot send as they should, for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneTrouble {
    /// Name of the gateway of the lane.
    pub gateway: String,
    /// Name of the credential of the lane.
    pub credential: String,
    /// Why the ends cannot send.
    pub kind: Trouble,
    /// On so many nodes.
    pub nodes: u32,
    /// Of one of them, in the gateway's words.
    pub detail: String,
    /// When it began at the first of them.
    pub since: UnixMillis,
    /// When the next of them tries whether it is over, if that is known.
    pub next_probe: Option<UnixMillis>,
}

/// Why an end of a lane does not send as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// No connection, or no answers.
    Unreachable,
    /// The gateway asks for less.
    Throttled,
    /// The gateway refuses the credential.
    Credential,
    /// Answers are not the provider's.
    Intermediary,
    /// The gateway does not know the project.
    Project,
}

impl Snapshot {
    /// The state of an alert that no node has reported on yet.
    #[must_use]
    pub fn empty(alert: AlertName, state: State) -> Self {
        Self {
            alert,
            version: 0,
            state,
            settled: false,
            ended: None,
            totals: Counts::default(),
            unanswered_requests: 0,
            retried_requests: 0,
            nodes_walked: 0,
            nodes: 0,
            first_accepted_after: None,
            last_accepted_after: None,
            bands: Vec::new(),
            cells: Vec::new(),
            refused_messages: Vec::new(),
            lane_troubles: Vec::new(),
            isolated: Vec::new(),
            reasons: Vec::new(),
            other_reasons: 0,
            pruning_alarms: Vec::new(),
        }
    }
}

impl State {
    /// Nothing more is sent.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Cancelled | Self::Resolved | Self::Expired)
    }
}

/// A gateway's words, cut.
pub(crate) fn truncated(detail: &str) -> &str {
    &detail[..detail.floor_char_boundary(DETAIL_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_are_cut_between_characters() {
        let long = "é".repeat(DETAIL_BYTES_MAX);
        assert_eq!(truncated(&long).len(), DETAIL_BYTES_MAX);
        assert_eq!(truncated(&format!("x{long}")).len(), DETAIL_BYTES_MAX - 1);
    }
}
