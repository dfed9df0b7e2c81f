//! Progress of an alert: folds the nodes' reports into counts that only grow. Pure.
//!
//! A report carries totals since the boot of its node. So the fold keeps the greatest value of each
//! number per node and boot, and sums these values: a report that is lost, repeated or old changes
//! nothing.
//!
//! When a node restarts, the **outcomes of its former boot stay counted**, because gateways do not
//! take back their answers. The outcomes of devices that were handed over and still open are
//! unknown; the new boot hands these devices over again and counts them itself. So per node and
//! band
//!
//! ```text
//! handed = greatest ever seen of (outcomes of former boots + handed by this boot)
//! open   = handed − outcomes of all boots
//! ```
//!
//! `handed` does not shrink at the restart (the greatest ever seen) and counts no device twice
//! (former boots count only by their outcomes). Open devices stay open and wait for a retry. A
//! device that was open and then left the region or the registry is never handed over again. When
//! the wave has ended, devices that are open without a node that could still report an answer are
//! `unknown`: sent, never answered ([`Fold::settle`]).
//!
//! Memory: bands and at most [`CELLS_MAX`] cells for each node, twice.

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

/// Maximum number of cells kept for one alert; the limit of the API.
///
/// Nodes report coarser cells for a large region, so that they have at most this many together; only
/// cells of a node at fault are beyond the limit, and are omitted.
pub(crate) const CELLS_MAX: usize = 20_000;
/// Maximum number of former boots kept for a node, so that a late report of a former boot does not
/// count as a new boot.
const BOOTS_MAX: usize = 16;
/// Maximum number of apps on lanes whose answers are counted; an alert has at most 64 apps.
const APPS_MAX: usize = 256;
/// Maximum number of refused messages kept for one alert; each has a different reason.
const REFUSED_MAX: usize = 64;

/// Progress of one alert over all nodes and boots.
#[derive(Debug)]
pub(crate) struct Fold {
    alert: AlertName,
    timeline: Timeline,
    nodes: BTreeMap<NodeName, Node>,
    /// Lanes of the alert's apps.
    lanes: BTreeMap<AppName, LaneKey>,
    bands: Vec<(f64, f64)>,
    cells: BTreeMap<u64, CellCounts>,
    first_accepted: Option<Time>,
    last_accepted: Option<Time>,
    refused_messages: BTreeSet<RefusedMessage>,
    settled: bool,
    version: u64,
}

/// Progress of one node's part.
#[derive(Debug)]
struct Node {
    boot: Option<BootId>,
    former: Vec<BootId>,
    /// Totals of former boots; `handed` includes only devices with an outcome.
    settled: Tally,
    /// Totals of the present boot.
    current: Tally,
    /// Greatest `handed` ever seen, by band and by cell.
    peak: Tally,
    bands_walked: u32,
    /// Answers of the present boot, by app and lane.
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

/// Increase of the counts by one report.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Added {
    /// New answers of gateways, by app and lane; only non-zero counts.
    pub(crate) answers: BTreeMap<AppLane, Answers>,
}

/// Final answers of gateways, to judge whether a bad token is the token's fault.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answers {
    /// Number of devices whose push the gateway accepted.
    pub(crate) accepted: u64,
    /// Number of tokens called bad, which may also mean a wrong environment.
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

    /// Folds in a report of one boot of a node. Ignores reports of nodes without a part, and of
    /// former boots.
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

    /// Ends the fold: counts all open devices as `unknown`, because no answer can follow.
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

    /// Makes the snapshot for watchers; each call makes a new version.
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
    /// Enters a boot; false if it is a former boot, whose reports are ignored.
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

    /// Increase of an app's answers by a report; `None`: none.
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

    /// Counts of a band over all boots.
    fn counts(&self, band: usize) -> Counts {
        let mut outcomes = self.settled.bands[band].outcomes;
        for (sum, more) in outcomes.iter_mut().zip(self.current.bands[band].outcomes) {
            *sum += more;
        }
        // Never less than the outcomes: reports may arrive out of order.
        let handed = self.peak.bands[band].handed.max(outcomes.iter().sum());
        Counts { handed, outcomes }
    }

    /// Adds the increase by a cell's report to the sum over all nodes.
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

    /// Adds the totals of an ended boot; only devices with an outcome count as handed.
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
