//! Snapshot of an alert's progress, for its record and its watchers.
//!
//! [`crate::progress`] computes the snapshot; the api turns it into the messages for callers.

use std::time::Duration;

use clarion_proto::{
    ids::{AlertName, AppName, UnixMillis},
    outcome::Outcome,
};

use crate::{lane::LaneKey, owners::NodeName};

/// Longest detail kept, bytes; gateways do not limit their words.
const DETAIL_BYTES_MAX: usize = 256;

/// State of an alert: active, or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// The alert is being sent.
    Active,
    /// The alert was cancelled; some nodes have not confirmed yet.
    Cancelling,
    /// The alert was cancelled, and nothing more is sent.
    Cancelled,
    /// Every device in the region has its outcome.
    Resolved,
    /// The alert's time ended before every device was sent to.
    Expired,
}

/// Counts of devices handed to a lane, by outcome; sums only grow.
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
    /// Whether every node has handed over all devices of the band.
    pub walked: bool,
    /// Counts of all nodes together.
    pub counts: Counts,
}

/// Progress of one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CellCounts {
    /// H3 cell of resolution 0 to 6.
    pub cell: u64,
    /// Devices handed to a lane: those with an outcome and those still open.
    pub handed: u64,
    /// Devices whose push the gateway took.
    pub accepted: u64,
    /// Devices with any other outcome.
    pub failed: u64,
    /// Version of the snapshot that changed the cell last.
    pub version: u64,
}

/// Newest state of one alert, as a watcher gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Alert whose state it is.
    pub alert: AlertName,
    /// Grows with each change that was published.
    pub version: u64,
    /// State of the alert: active, or how it ended.
    pub state: State,
    /// Whether the counts are final, so that the watcher's stream can end. After a final state was
    /// reached, the last reports, and answers to requests under way, still arrive for some seconds
    /// before this is set.
    pub settled: bool,
    /// Wall time at which the alert reached a final state.
    pub ended: Option<UnixMillis>,
    /// Counts of all bands together.
    pub totals: Counts,
    /// Number of requests without an answer within their deadline.
    pub unanswered_requests: u64,
    /// Number of requests that the gateway asked to retry.
    pub retried_requests: u64,
    /// Number of nodes that have walked their whole part.
    pub nodes_walked: u32,
    /// Number of nodes with a part of the alert.
    pub nodes: u32,
    /// Time from the alert's record to the first acceptance that this coordinator heard of.
    pub first_accepted_after: Option<Duration>,
    /// Time from the alert's record to the newest reported acceptance.
    pub last_accepted_after: Option<Duration>,
    /// All bands, nearest first.
    pub bands: Vec<BandCounts>,
    /// All cells, in the order of their index.
    pub cells: Vec<CellCounts>,
    /// Messages that the nodes stopped sending because a gateway refuses them.
    pub refused_messages: Vec<RefusedMessage>,
    /// Troubles that keep the lanes of the alert from sending.
    pub lane_troubles: Vec<LaneTrouble>,
    /// Nodes that failed to accept the alert three times and do not get it again, with the reason.
    pub isolated: Vec<(NodeName, String)>,
    /// Reasons why devices were not accepted, or not at once; the highest counts first.
    pub reasons: Vec<ReasonCount>,
    /// Sum of the counts of all other reasons.
    pub other_reasons: u64,
    /// Alarms of the apps of the alert.
    pub pruning_alarms: Vec<PruningAlarm>,
}

/// How often a gateway gave one reason to the devices of an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReasonCount {
    /// App and lane of the devices; `None`: several, which a node counted together.
    pub of: Option<(AppName, LaneKey)>,
    /// Consequence of the answer for the device.
    pub outcome: AnswerOutcome,
    /// HTTP status of the answer; 0: several statuses.
    pub status: u32,
    /// Reason in the provider's words; empty: the answer was not the provider's.
    pub reason: String,
    /// Number of answers with the reason, over all nodes and all of their boots.
    pub count: u64,
}

/// Consequence of an answer for its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AnswerOutcome {
    /// The token is dead.
    Dead,
    /// The device gets no notification of this alert.
    Refused,
    /// The push to the device is retried.
    Retried,
}

/// Alarm of an app whose devices are kept although its gateway calls their tokens bad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruningAlarm {
    /// App whose devices are kept.
    pub app: AppName,
    /// Lane that the devices of the app are reached through.
    pub lane: LaneKey,
    /// When the alarm started.
    pub since: UnixMillis,
    /// Number of answers since then that called a token bad and pruned no device.
    pub withheld: u64,
    /// Whether the gateway accepted any push of the app.
    pub accepted_any: bool,
}

/// A message that a gateway refuses for every device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefusedMessage {
    /// App whose message the gateway refuses.
    pub app: AppName,
    /// Status and reason, in the gateway's words.
    pub detail: String,
}

/// Trouble of one kind on one lane, over the nodes that have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneTrouble {
    /// Name of the gateway of the lane.
    pub gateway: String,
    /// Name of the credential of the lane.
    pub credential: String,
    /// Why the ends cannot send.
    pub kind: Trouble,
    /// Number of affected nodes.
    pub nodes: u32,
    /// Reason on one of these nodes, in the gateway's words.
    pub detail: String,
    /// When the trouble began on the first of these nodes.
    pub since: UnixMillis,
    /// When the next of these nodes tries again to send; `None`: not known.
    pub next_probe: Option<UnixMillis>,
}

/// Why an end of a lane does not send as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// The gateway cannot be connected to, or does not answer.
    Unreachable,
    /// The gateway asks for a lower rate.
    Throttled,
    /// The gateway refuses the credential.
    Credential,
    /// The answers come from an intermediary, not from the provider.
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
    /// Whether the alert has ended, so that nothing more is sent.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Cancelled | Self::Resolved | Self::Expired)
    }
}

/// Cuts a gateway's words to at most 256 bytes.
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
