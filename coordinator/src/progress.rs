//! Reports folded into progress that only grows. Pure.
//!
//! A report carries totals since the boot of its node. So per node and boot the greatest of each
//! number is kept, and sums are taken over them: a report that is lost, repeated or old changes
//! nothing that a newer one did not say.
//!
//! When a node starts again, its former boot's **outcomes stay counted**: the gateway's word does
//! not go away. Those handed but still open then have no outcome that anybody knows; the new boot
//! hands them again and counts them itself. So per node and band
//!
//! ```text
//! handed = greatest ever seen of (outcomes of former boots + handed by this boot)
//! open   = handed − outcomes of all boots
//! ```
//!
//! `handed` does not shrink at the restart (the greatest ever seen), counts nobody twice (former
//! boots count by their outcomes only), and what was open stays open: it waits for another try. A
//! device that was open then and afterwards left the region or the registry is never handed again;
//! when the wave has ended, what is open without a node that could still answer is `unknown`: sent,
//! never answered ([`Fold::settle`]).
//!
//! Memory: bands and at most [`CELLS_MAX`] cells a node, twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use clarion_proto::{
    ids::{AlertName, AppName, BootId, LaneId},
    outcome::Outcome,
    time::Time,
    wire::shard_v1 as wire,
};

use crate::{
    bands::Band,
    lane::{AppLane, LaneKey},
    owners::NodeName,
    planned::AppPlan,
    snapshot::{BandCounts, CellCounts, Counts, RefusedMessage, Snapshot, State, truncated},
};
use reasons::{NodeReasons, top};

mod reasons;
mod timeline;

pub(crate) use timeline::Timeline;

/// Cells of resolution 6 kept for one alert; the contract's limit. 120 km have some 1,300; more
/// than 480 km radius goes without the cells reported last.
pub(crate) const CELLS_MAX: usize = 20_000;
/// Former boots of a node that are remembered, so that a late report of one is not taken for a new
/// one.
const BOOTS_MAX: usize = 16;
/// Apps of one wave, with their lanes, whose answers are counted: an alert has 64 at most.
const APPS_MAX: usize = 256;
/// Refused messages kept of one alert; each is said in other words, so few say all.
const REFUSED_MAX: usize = 64;

/// The progress of one alert.
#[derive(Debug)]
pub(crate) struct Fold {
    alert: AlertName,
    timeline: Timeline,
    nodes: BTreeMap<NodeName, Node>,
    /// Of its apps.
    lanes: BTreeMap<AppName, LaneKey>,
    bands: Vec<(f64, f64)>,
    cells: BTreeMap<u64, CellCounts>,
    first_accepted: Option<Time>,
    last_accepted: Option<Time>,
    refused_messages: BTreeSet<RefusedMessage>,
    settled: bool,
    version: u64,
}

/// One node's part.
#[derive(Debug)]
struct Node {
    boot: Option<BootId>,
    former: Vec<BootId>,
    /// Of former boots: of `handed` only what has an outcome.
    settled: Tally,
    /// Of the present boot.
    current: Tally,
    /// The greatest `handed` seen, by band and by cell.
    peak: Tally,
    bands_walked: u32,
    /// Of the present boot.
    answers: BTreeMap<AppLane, Answers>,
    reasons: NodeReasons,
}

#[derive(Debug, Default, Clone)]
struct Tally {
    bands: Vec<Counts>,
    cells: BTreeMap<u64, Cell>,
    unanswered: u64,
    retried: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Cell {
    handed: u64,
    accepted: u64,
    failed: u64,
}

/// What a report added.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Added {
    /// New answers of gateways, by app and lane: those with any.
    pub(crate) answers: BTreeMap<AppLane, Answers>,
}

/// A gateway's last words on devices, as far as they say whose fault a bad token is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answers {
    /// Devices accepted.
    pub(crate) accepted: u64,
    /// Tokens called bad, which may mean the wrong environment.
    pub(crate) bad: u64,
}

impl Fold {
    pub(crate) fn new(
        alert: AlertName,
        timeline: Timeline,
        bands: &[Band],
        apps: &[AppPlan],
        nodes: impl IntoIterator<Item = NodeName>,
    ) -> Self {
        let tally = Tally { bands: vec![Counts::default(); bands.len()], ..Tally::default() };
        let node = || Node {
            boot: None,
            former: Vec::new(),
            settled: tally.clone(),
            current: tally.clone(),
            peak: tally.clone(),
            bands_walked: 0,
            answers: BTreeMap::new(),
            reasons: NodeReasons::default(),
        };
        Self {
            alert,
            timeline,
            nodes: nodes.into_iter().map(|name| (name, node())).collect(),
            lanes: apps.iter().map(|app| (app.app.clone(), app.lane.clone())).collect(),
            bands: bands.iter().map(|b| (b.from_m, b.to_m)).collect(),
            cells: BTreeMap::new(),
            first_accepted: None,
            last_accepted: None,
            refused_messages: BTreeSet::new(),
            settled: false,
            version: 0,
        }
    }

    /// Takes a report of a node's process. Of a node without a part or a former process: changes
    /// nothing.
    pub(crate) fn report(
        &mut self,
        name: &NodeName,
        boot: BootId,
        report: &wire::Report,
        now: Time,
    ) -> Added {
        let version = self.version + 1;
        let Some(node) = self.nodes.get_mut(name).filter(|_| !self.settled) else {
            return Added::default();
        };
        if !node.enter(boot) {
            return Added::default();
        }
        let accepted_before = node.current.accepted();
        node.bands_walked = node.bands_walked.max(report.bands_walked);
        node.current.unanswered = node.current.unanswered.max(report.unanswered_requests);
        node.current.retried = node.current.retried.max(report.retried_requests);
        for band in &report.bands {
            node.band(band);
        }
        for cell in &report.cells {
            node.cell(cell, &mut self.cells, version);
        }
        for refused in &report.refused_messages {
            if let Ok(app) = AppName::from_name(&refused.app)
                && self.refused_messages.len() < REFUSED_MAX
            {
                let detail = truncated(&refused.detail).to_owned();
                self.refused_messages.insert(RefusedMessage { app, detail });
            }
        }
        if node.current.accepted() > accepted_before {
            self.first_accepted.get_or_insert(now);
            self.last_accepted = Some(now);
        }
        for reason in &report.reasons {
            node.reasons.report(reason, &self.lanes);
        }
        Added { answers: report.lanes.iter().filter_map(|answers| node.answers(answers)).collect() }
    }

    /// The wave has ended: whatever is open will have no answer any more.
    pub(crate) fn settle(&mut self) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        for node in self.nodes.values_mut() {
            for band in 0..self.bands.len() {
                let counts = node.counts(band);
                node.settled.bands[band].outcomes[Outcome::Unknown as usize] += counts.open();
            }
        }
        let version = self.version + 1;
        for cell in self.cells.values_mut() {
            let open = cell.handed.saturating_sub(cell.accepted + cell.failed);
            if open > 0 {
                (cell.failed, cell.version) = (cell.failed + open, version);
            }
        }
    }

    /// What watchers are given. Each call makes a version of its own.
    pub(crate) fn snapshot(&mut self, state: State, ended: Option<Time>) -> Snapshot {
        self.version += 1;
        let every = self.bands.len();
        let walked = |band: usize| self.nodes.values().all(|n| n.bands_walked as usize > band);
        let bands = self.bands.iter().enumerate().map(|(i, &(from_m, to_m))| {
            let mut counts = Counts::default();
            self.nodes.values().for_each(|node| counts.add(&node.counts(i)));
            BandCounts { from_m, to_m, walked: walked(i), counts }
        });
        let bands: Vec<_> = bands.collect();
        let mut totals = Counts::default();
        bands.iter().for_each(|band| totals.add(&band.counts));
        let sum = |part: fn(&Tally) -> u64| {
            self.nodes.values().map(|n| part(&n.settled) + part(&n.current)).sum()
        };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (reasons, other_reasons) =
            top(self.nodes.values().map(|node| &node.reasons), &self.lanes);
        Snapshot {
            alert: self.alert.clone(),
            version: self.version,
            state,
            settled: self.settled,
            ended: ended.map(|at| self.timeline.wall(at)),
            totals,
            unanswered_requests: sum(|t| t.unanswered),
            retried_requests: sum(|t| t.retried),
            nodes_walked: count(
                self.nodes.values().filter(|n| n.bands_walked as usize >= every).count(),
            ),
            nodes: count(self.nodes.len()),
            first_accepted_after: self.after(self.first_accepted),
            last_accepted_after: self.after(self.last_accepted),
            bands,
            cells: self.cells.values().copied().collect(),
            refused_messages: self.refused_messages.iter().cloned().collect(),
            lane_troubles: Vec::new(),
            isolated: Vec::new(),
            reasons,
            other_reasons,
            pruning_alarms: Vec::new(),
        }
    }

    fn after(&self, at: Option<Time>) -> Option<Duration> {
        at.map(|at| self.timeline.since_created(at))
    }
}

impl Node {
    /// True if reports of this boot count as the present one's.
    fn enter(&mut self, boot: BootId) -> bool {
        if self.boot == Some(boot) {
            return true;
        }
        if self.former.contains(&boot) {
            return false;
        }
        if let Some(former) = self.boot.replace(boot) {
            if self.former.len() == BOOTS_MAX {
                self.former.remove(0);
            }
            self.former.push(former);
            let bands = vec![Counts::default(); self.current.bands.len()];
            self.answers.clear();
            self.reasons.settle();
            let current = std::mem::replace(&mut self.current, Tally { bands, ..Tally::default() });
            self.settled.add_outcomes(&current);
        }
        true
    }

    fn band(&mut self, report: &wire::BandReport) {
        let index = report.band as usize;
        let Some(current) = self.current.bands.get_mut(index) else { return };
        current.handed = current.handed.max(report.handed);
        let outcomes =
            [report.accepted, report.dead, report.refused, report.unknown, report.expired];
        for (mine, theirs) in current.outcomes.iter_mut().zip(outcomes) {
            *mine = (*mine).max(theirs);
        }
        let handed = self.settled.bands[index].handed + current.handed;
        let peak = &mut self.peak.bands[index].handed;
        *peak = (*peak).max(handed);
    }

    /// What is new of the answers to an app.
    fn answers(&mut self, report: &wire::LaneAnswers) -> Option<(AppLane, Answers)> {
        let of = (AppName::from_name(&report.app).ok()?, LaneId(report.lane));
        if !self.answers.contains_key(&of) && self.answers.len() >= APPS_MAX {
            return None;
        }
        let known = self.answers.entry(of.clone()).or_default();
        let next = Answers {
            accepted: known.accepted.max(report.accepted),
            bad: known.bad.max(report.bad_device_tokens),
        };
        let more = Answers { accepted: next.accepted - known.accepted, bad: next.bad - known.bad };
        *known = next;
        (more != Answers::default()).then_some((of, more))
    }

    /// Of all boots.
    fn counts(&self, band: usize) -> Counts {
        let mut outcomes = self.settled.bands[band].outcomes;
        for (sum, more) in outcomes.iter_mut().zip(self.current.bands[band].outcomes) {
            *sum += more;
        }
        // Never less than the outcomes: reports may come in another order than they were made in.
        let handed = self.peak.bands[band].handed.max(outcomes.iter().sum());
        Counts { handed, outcomes }
    }

    /// Adds what the report changes to the sum over all nodes.
    fn cell(
        &mut self,
        report: &wire::CellReport,
        cells: &mut BTreeMap<u64, CellCounts>,
        version: u64,
    ) {
        if !cells.contains_key(&report.cell) && cells.len() >= CELLS_MAX {
            return;
        }
        let settled = self.settled.cells.get(&report.cell).copied().unwrap_or_default();
        let current = self.current.cells.entry(report.cell).or_default();
        let next = Cell {
            handed: current.handed.max(report.handed),
            accepted: current.accepted.max(report.accepted),
            failed: current.failed.max(report.failed),
        };
        let peak = self.peak.cells.entry(report.cell).or_default();
        let handed = peak
            .handed
            .max(settled.handed + next.handed)
            .max(settled.handed + next.accepted + next.failed);
        let more = Cell {
            handed: handed - peak.handed,
            accepted: next.accepted - current.accepted,
            failed: next.failed - current.failed,
        };
        peak.handed = handed;
        *current = next;
        if more.handed + more.accepted + more.failed > 0 {
            let none = CellCounts { cell: report.cell, handed: 0, accepted: 0, failed: 0, version };
            let sum = cells.entry(report.cell).or_insert(none);
            sum.handed += more.handed;
            sum.accepted += more.accepted;
            sum.failed += more.failed;
            sum.version = version;
        }
    }
}

impl Tally {
    fn accepted(&self) -> u64 {
        self.bands.iter().map(|b| b.outcomes[Outcome::Accepted as usize]).sum()
    }

    /// A boot is over: of what it handed, what has an outcome stays.
    fn add_outcomes(&mut self, boot: &Self) {
        for (mine, theirs) in self.bands.iter_mut().zip(&boot.bands) {
            mine.add(&Counts { handed: theirs.outcomes.iter().sum(), outcomes: theirs.outcomes });
        }
        for (id, theirs) in &boot.cells {
            let mine = self.cells.entry(*id).or_default();
            mine.handed += theirs.accepted + theirs.failed;
            mine.accepted += theirs.accepted;
            mine.failed += theirs.failed;
        }
        self.unanswered += boot.unanswered;
        self.retried += boot.retried;
    }
}

#[cfg(test)]
mod tests;
