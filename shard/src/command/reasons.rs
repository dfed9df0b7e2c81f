//! Counts of the reasons why devices were not accepted at once.

use clarion_proto::ids::{AppName, LaneId};

/// How often one reason was given; totals that only grow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReasonCount {
    /// Subject and text of the reason.
    pub kind: ReasonKind,
    /// Number of times that the reason was given.
    pub count: u64,
}

/// Subject and text of a reason.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReasonKind {
    /// Consequence for the device.
    pub then: Consequence,
    /// App of the device and lane of the request; `None`: several kinds merged.
    pub app: Option<(AppName, LaneId)>,
    /// HTTP status of the answer; 0: several kinds merged, or no answer because the request cannot
    /// be written.
    pub status: u16,
    /// At most [`crate::outcome::UNKNOWN_CHARS_MAX`] characters; empty: the provider did not sign
    /// the answer.
    pub reason: String,
}

/// What followed from an answer for its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consequence {
    /// The token of the device is dead.
    Dead,
    /// The device is not alerted.
    Refused,
    /// The push is sent again.
    Retried,
}
