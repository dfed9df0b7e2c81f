//! Reasons why devices were not accepted, for one alert, by node. Pure.
//!
//! As with all totals, the greatest value of each count is kept per node and boot, and former boots
//! stay counted: a report that is lost, repeated or late changes nothing.
//!
//! Memory: a node reports at most 64 kinds; [`KINDS_MAX`] are kept for each node, twice, at some
//! 150 bytes each.

use std::collections::BTreeMap;

use clarion_proto::{ids::AppName, wire::shard_v1 as wire};

use crate::{
    lane::LaneKey,
    snapshot::{AnswerOutcome, ReasonCount},
};

/// Maximum number of reasons in a snapshot.
const TOLD_MAX: usize = 32;
/// Maximum number of kinds kept for one node.
const KINDS_MAX: usize = 256;
/// Longest reason kept, bytes.
const REASON_BYTES_MAX: usize = 64;
/// Reason under which a node counts several reasons together.
const OTHER: &str = "other";

/// Counts of reasons that one node reported.
#[derive(Debug, Default)]
pub(super) struct NodeReasons {
    /// Sums of all former boots.
    settled: BTreeMap<Kind, u64>,
    /// Totals of the present boot.
    current: BTreeMap<Kind, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    /// App whose devices the reason is for; `None`: several apps, counted together.
    app: Option<AppName>,
    outcome: AnswerOutcome,
    status: u32,
    reason: String,
}

impl NodeReasons {
    /// Takes a total of the present boot. Ignores apps that the alert does not address.
    pub(super) fn report(
        &mut self,
        report: &wire::ReasonCount,
        lanes: &BTreeMap<AppName, LaneKey>,
    ) {
        let app = match AppName::from_name(&report.app).ok() {
            Some(app) if lanes.contains_key(&app) => Some(app),
            None if report.app.is_empty() => None,
            _ => return,
        };
        let outcome = match report.outcome() {
            wire::AnswerOutcome::Unspecified => return,
            wire::AnswerOutcome::Dead => AnswerOutcome::Dead,
            wire::AnswerOutcome::Refused => AnswerOutcome::Refused,
            wire::AnswerOutcome::Retried => AnswerOutcome::Retried,
        };
        let reason =
            report.reason[..report.reason.floor_char_boundary(REASON_BYTES_MAX)].to_owned();
        let kind = Kind { app, outcome, status: report.status, reason };
        // A node that reports more than 64 kinds is faulty; further kinds are dropped.
        if self.current.len() < KINDS_MAX || self.current.contains_key(&kind) {
            let count = self.current.entry(kind).or_default();
            *count = (*count).max(report.count);
        }
    }

    /// Adds the totals of the present boot, which has ended, to the former boots.
    pub(super) fn settle(&mut self) {
        for (kind, count) in std::mem::take(&mut self.current) {
            let kept = self.settled.len() < KINDS_MAX || self.settled.contains_key(&kind);
            let kind = if kept {
                kind
            } else {
                Kind { app: None, status: 0, reason: OTHER.to_owned(), ..kind }
            };
            *self.settled.entry(kind).or_default() += count;
        }
    }
}

/// The reasons with the highest counts, highest first, and the sum of all others.
pub(super) fn top<'a>(
    nodes: impl Iterator<Item = &'a NodeReasons>,
    lanes: &BTreeMap<AppName, LaneKey>,
) -> (Vec<ReasonCount>, u64) {
    let mut sums: BTreeMap<&Kind, u64> = BTreeMap::new();
    for (kind, count) in nodes.flat_map(|node| node.settled.iter().chain(&node.current)) {
        *sums.entry(kind).or_default() += count;
    }
    let mut sums: Vec<_> = sums.into_iter().filter(|(_, count)| *count > 0).collect();
    // Stable: equal counts stay in the order of their kinds.
    sums.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let others = sums.iter().skip(TOLD_MAX).map(|(_, count)| count).sum();
    let told = sums.into_iter().take(TOLD_MAX).map(|(kind, count)| ReasonCount {
        of: kind.app.as_ref().and_then(|app| Some((app.clone(), lanes.get(app)?.clone()))),
        outcome: kind.outcome,
        status: kind.status,
        reason: kind.reason.clone(),
        count,
    });
    (told.collect(), others)
}
