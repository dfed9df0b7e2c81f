//! Counts of the reasons why devices were not accepted at once.

use clarion_proto::ids::{AppName, LaneId};

/// How often one reason was given; totals that only grow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReasonCount {
    /// What it is about and what it says.
    pub kind: ReasonKind,
    /// How often the reason was given.
    pub count: u64,
}

/// What a reason is about and what it says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReasonKind {
    /// What followed for the device.
    pub then: Consequence,
    /// Of the device, and the lane that it was sent through; `None`: several kinds, folded
    /// together.
    pub app: Option<(AppName, LaneId)>,
    /// Of the answer; 0: several kinds, or there was no answer because the request cannot be
    /// written.
    pub status: u16,
    /// At most [`crate::outcome::UNKNOWN_CHARS_MAX`] characters; empty: the provider did not sign
    /// the answer.
    pub reason: String,
}

/// What followed from an answer for its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consequence {
    /// Its token is dead.
    Dead,
    /// It is not told.
    Refused,
    /// It is pushed to again.
    Retried,
}
