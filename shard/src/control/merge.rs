//! The reports of several cores as one.
//!
//! Each core counts for itself and reports every 20 ms; the coordinator sees one node. Totals are
//! kept per core and summed when a report is made, so a core's report may be late, repeated or
//! folded into the next without any effect on the sum. What is not a total (ordinals newly handed,
//! tokens newly dead) is collected until it is sent. So however slowly a coordinator reads, what
//! waits here is one report, and its size is bounded by what the wave is: two bytes for each device
//! of the node, its bands, its cells.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use clarion_proto::{
    ids::{AppName, Epoch, LaneId, PartitionId, WaveId},
    limits::PART_BYTES_MAX,
    outcome::Outcome,
    wire::shard_v1 as wire,
};
use roaring::RoaringBitmap;

use crate::{
    command::{
        Consequence, CoreReport, Counts, DeadToken, ReasonCount, ReasonKind, RefusedMessage,
    },
    core::reasons::{OTHER, REPORTED_MAX},
    outcome::Answers,
};

/// Dead tokens that wait to be told. A token dropped here is found dead again by the next wave; the
/// bound, 64 k × 48 bytes = 3 MiB, is what a node may spend on them while no coordinator is there.
const DEAD_MAX: usize = 65_536;
/// Dead tokens in one report: 10 k × 40 bytes on the wire = 400 KB, below any limit of message
/// size.
const DEAD_PER_REPORT: usize = 10_000;
/// Cells in one report: 8 k × 44 bytes = 360 KB.
const CELLS_PER_REPORT: usize = 8_192;
/// Ordinals of one set of a report: 32 containers of 65,536, each of which takes 8 KiB at most.
const ORDINALS_PER_SET: u32 = 32 * 65_536;
const _: () = assert!(32 * 8_192 <= PART_BYTES_MAX);
/// Refused messages in one report, as the contract has it.
const REFUSED_MAX: usize = 64;

/// What one wave's cores have said. Nobody takes part at first: see [`Merge::set_cores`].
#[derive(Debug, Default)]
pub struct Merge {
    cores: BTreeMap<usize, CoreTotals>,
    bands_changed: BTreeSet<u32>,
    cells_changed: BTreeSet<u64>,
    handed: BTreeMap<PartitionId, RoaringBitmap>,
    open: BTreeMap<PartitionId, RoaringBitmap>,
    open_told: BTreeSet<PartitionId>,
    dead: VecDeque<DeadToken>,
    dead_dropped: u64,
    reasons_changed: bool,
    sequence: u64,
    changed: bool,
}

#[derive(Debug, Default)]
struct CoreTotals {
    takes_part: bool,
    /// The newest plan that the core was told. What it says of a former one does not count.
    plan: u64,
    told_all: bool,
    bands_walked: BTreeMap<LaneId, u32>,
    complete: bool,
    ended: bool,
    bands: BTreeMap<u32, Counts>,
    cells: BTreeMap<u64, Counts>,
    unanswered_requests: u64,
    retried_requests: u64,
    answers: BTreeMap<(LaneId, AppName), Answers>,
    reasons: Vec<ReasonCount>,
    refused_messages: Vec<RefusedMessage>,
}

impl Merge {
    /// The wave was planned, once more perhaps: these cores take part. Totals of all are kept.
    pub fn set_cores(&mut self, cores: impl IntoIterator<Item = usize>, plan: u64) {
        self.cores.values_mut().for_each(|totals| totals.takes_part = false);
        cores.into_iter().for_each(|core| self.expect(core, plan));
        self.changed = true;
    }

    /// What a core says of this plan counts, not what it said of a former one. A core new to the
    /// wave has told nothing yet: all that it will tell is complete.
    pub fn expect(&mut self, core: usize, plan: u64) {
        let new = || CoreTotals { told_all: true, ..CoreTotals::default() };
        let totals = self.cores.entry(core).or_insert_with(new);
        (totals.takes_part, totals.plan) = (true, plan);
        (totals.complete, totals.ended) = (false, false);
        totals.bands_walked.clear();
        self.changed = true;
    }

    /// Something that reports say has changed, though no core said so.
    pub fn change(&mut self) {
        self.changed = true;
    }

    /// A new session begins: everything is to be told again, once all cores have said everything
    /// again.
    pub fn start_over(&mut self) {
        self.handed.clear();
        self.open_told.clear();
        for totals in self.cores.values_mut() {
            totals.told_all = false;
            self.bands_changed.extend(totals.bands.keys());
            self.cells_changed.extend(totals.cells.keys());
        }
        self.reasons_changed = true;
        self.changed = true;
    }

    /// Takes in one core's report.
    pub fn add(&mut self, core: usize, report: CoreReport) {
        let totals = self.cores.entry(core).or_default();
        if report.all {
            // Complete: what was collected of this core before is contained in it.
            totals.told_all = true;
        }
        if report.plan >= totals.plan {
            totals.bands_walked = report.bands_walked.into_iter().collect();
            totals.complete = report.complete;
            totals.ended = report.ended;
        }
        totals.unanswered_requests = report.unanswered_requests;
        totals.retried_requests = report.retried_requests;
        totals
            .answers
            .extend(report.answers.into_iter().map(|(lane, app, answers)| ((lane, app), answers)));
        if !report.reasons.is_empty() {
            totals.reasons = report.reasons;
            self.reasons_changed = true;
        }
        totals.refused_messages = report.refused_messages;
        self.bands_changed.extend(report.bands.iter().map(|(band, _)| *band));
        totals.bands.extend(report.bands);
        self.cells_changed.extend(report.cells.iter().map(|(cell, _)| *cell));
        totals.cells.extend(report.cells);
        for (partition, ordinals) in report.handed {
            *self.handed.entry(partition).or_default() |= ordinals;
        }
        self.open.extend(report.open);
        for dead in report.dead {
            if self.dead.len() < DEAD_MAX {
                self.dead.push_back(dead);
            } else {
                self.dead_dropped += 1;
            }
        }
        self.changed = true;
    }

    /// Whether there is something to tell, and it may be told: the first report of a session waits
    /// until every core has answered `ReportAll`.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.changed && self.parts().all(|c| c.told_all)
    }

    /// Whether there is something to tell.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// Bands that all cores have walked for all lanes, of so many.
    #[must_use]
    pub fn bands_walked(&self, bands: u32) -> u32 {
        self.parts()
            .map(|c| c.bands_walked.values().copied().min().unwrap_or(0))
            .min()
            .unwrap_or(bands)
    }

    /// Bands that all cores have walked for one lane, of so many.
    #[must_use]
    pub fn lane_bands_walked(&self, lane: LaneId, bands: u32) -> u32 {
        self.parts().map(|c| c.bands_walked.get(&lane).copied().unwrap_or(0)).min().unwrap_or(bands)
    }

    /// Every core has completed the newest plan that it was told.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.parts().all(|c| c.complete)
    }

    /// Nothing more will change on any core.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.parts().all(|c| c.ended)
    }

    /// Dead tokens that found no room since the last asking.
    pub fn take_dead_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dead_dropped)
    }

    /// The report of everything that changed since the last one. `whole`: the cores that take part
    /// walk every partition of the plan; the wave is not complete otherwise.
    pub fn take(&mut self, wave: WaveId, epoch: Epoch, bands: u32, whole: bool) -> wire::Report {
        self.sequence += 1;
        let open: BTreeMap<PartitionId, RoaringBitmap> = std::mem::take(&mut self.open);
        let handed = self.take_handed();
        let dead =
            self.dead.drain(..self.dead.len().min(DEAD_PER_REPORT)).map(|d| dead(&d)).collect();
        let later = self.cells_changed.iter().nth(CELLS_PER_REPORT).copied();
        let cells_later = later.map(|cell| self.cells_changed.split_off(&cell)).unwrap_or_default();
        // What is too much for this report is told by the next ones; the wave has not ended before.
        let more = !self.handed.is_empty() || !self.dead.is_empty() || !cells_later.is_empty();
        let report = wire::Report {
            wave: wave.0,
            epoch: epoch.0,
            sequence: self.sequence,
            bands_walked: self.bands_walked(bands),
            complete: whole && self.is_complete(),
            ended: self.is_ended() && !more,
            bands: self
                .bands_changed
                .iter()
                .map(|b| band(*b, &self.sum(|c| c.bands.get(b))))
                .collect(),
            cells: self
                .cells_changed
                .iter()
                .map(|c| cell(*c, &self.sum(|core| core.cells.get(c))))
                .collect(),
            handed,
            // Every partition with something open, and those that had something open in the last
            // report.
            open: open
                .iter()
                .filter(|(p, set)| !set.is_empty() || self.open_told.contains(p))
                .map(|(p, set)| ordinals(*p, set))
                .collect(),
            unanswered_requests: self.cores.values().map(|c| c.unanswered_requests).sum(),
            retried_requests: self.cores.values().map(|c| c.retried_requests).sum(),
            dead,
            lanes: self.answers(),
            refused_messages: self.refused_messages(),
            reasons: if std::mem::take(&mut self.reasons_changed) {
                self.reasons()
            } else {
                Vec::new()
            },
        };
        self.bands_changed.clear();
        self.cells_changed = cells_later;
        self.open = open.into_iter().filter(|(_, set)| !set.is_empty()).collect();
        self.open_told = self.open.keys().copied().collect();
        self.changed = more;
        report
    }

    /// As many of the ordinals handed over as fit into a report. `open` is complete in each: what
    /// it names and was not told as handed yet is told later, and counts as open until then.
    fn take_handed(&mut self) -> Vec<wire::OrdinalSet> {
        let mut sets = Vec::new();
        let mut bytes = 0;
        while bytes < PART_BYTES_MAX
            && let Some((partition, mut set)) = self.handed.pop_first()
        {
            if set.serialized_size() > PART_BYTES_MAX
                && let Some(first) = set.min()
            {
                let mut rest = set.clone();
                let window = first..=first.saturating_add(ORDINALS_PER_SET - 1);
                rest.remove_range(window.clone());
                let mut whole = RoaringBitmap::new();
                whole.insert_range(window);
                set &= whole;
                if !rest.is_empty() {
                    self.handed.insert(partition, rest);
                }
            }
            let set = ordinals(partition, &set);
            bytes += set.ordinals.len() + 16;
            sets.push(set);
        }
        sets
    }

    fn parts(&self) -> impl Iterator<Item = &CoreTotals> {
        self.cores.values().filter(|c| c.takes_part)
    }

    fn answers(&self) -> Vec<wire::LaneAnswers> {
        let mut sums: BTreeMap<&(LaneId, AppName), Answers> = BTreeMap::new();
        for (of, answers) in self.cores.values().flat_map(|core| &core.answers) {
            sums.entry(of).or_default().add(answers);
        }
        let answered = sums.into_iter().filter(|(_, sum)| sum.all() > 0);
        let to_wire = |((lane, app), sum): (&(LaneId, AppName), Answers)| wire::LaneAnswers {
            lane: lane.0,
            answers: sum.all(),
            dead: sum.of(Outcome::Dead),
            app: app.name(),
            accepted: sum.of(Outcome::Accepted),
            bad_device_tokens: sum.bad_device_tokens,
        };
        answered.map(to_wire).collect()
    }

    /// Those of all cores together; the rarest are folded into `other`.
    fn reasons(&self) -> Vec<wire::ReasonCount> {
        let mut sums: BTreeMap<ReasonKind, u64> = BTreeMap::new();
        for reason in self.cores.values().flat_map(|core| &core.reasons) {
            *sums.entry(reason.kind.clone()).or_default() += reason.count;
        }
        if sums.len() > REPORTED_MAX {
            let mut by_count: Vec<_> = sums.into_iter().collect();
            by_count.sort_by(|(kind, count), (other, others)| {
                others.cmp(count).then_with(|| kind.cmp(other))
            });
            sums = BTreeMap::new();
            for (n, (mut kind, count)) in by_count.into_iter().enumerate() {
                // One place is kept for the rest of each consequence.
                if n >= REPORTED_MAX - 3 {
                    kind = ReasonKind {
                        then: kind.then,
                        app: None,
                        status: 0,
                        reason: OTHER.to_owned(),
                    };
                }
                *sums.entry(kind).or_default() += count;
            }
        }
        sums.into_iter().map(|(kind, count)| reason(kind, count)).collect()
    }

    fn refused_messages(&self) -> Vec<wire::RefusedMessage> {
        let all: BTreeSet<_> =
            self.cores.values().flat_map(|core| &core.refused_messages).collect();
        let told = all.into_iter().take(REFUSED_MAX);
        told.map(|r| wire::RefusedMessage { app: r.app.name(), detail: r.detail.clone() }).collect()
    }

    fn sum<'a>(&'a self, of: impl Fn(&'a CoreTotals) -> Option<&'a Counts>) -> Counts {
        let mut sum = Counts::default();
        self.cores.values().filter_map(of).for_each(|counts| sum.add(counts));
        sum
    }
}

fn band(band: u32, c: &Counts) -> wire::BandReport {
    let [accepted, dead, refused, unknown, expired] = c.outcomes;
    wire::BandReport { band, handed: c.handed, accepted, dead, refused, unknown, expired }
}

fn cell(cell: u64, c: &Counts) -> wire::CellReport {
    let [accepted, failed @ ..] = c.outcomes;
    wire::CellReport { cell, handed: c.handed, accepted, failed: failed.iter().sum() }
}

fn ordinals(partition: PartitionId, set: &RoaringBitmap) -> wire::OrdinalSet {
    let mut bytes = Vec::with_capacity(set.serialized_size());
    set.serialize_into(&mut bytes).expect("a Vec takes all");
    wire::OrdinalSet { partition: u32::from(partition.0), ordinals: Bytes::from(bytes) }
}

fn dead(d: &DeadToken) -> wire::DeadToken {
    wire::DeadToken {
        lane: d.lane.0,
        device: d.device.0.to_vec(),
        token_hash: d.token_hash,
        gateway_time_ms: d.gateway_time.map_or(0, |t| t.0),
        app: d.app.name(),
        needs_evidence: d.needs_evidence,
    }
}

fn reason(kind: ReasonKind, count: u64) -> wire::ReasonCount {
    let outcome = match kind.then {
        Consequence::Dead => wire::AnswerOutcome::Dead,
        Consequence::Refused => wire::AnswerOutcome::Refused,
        Consequence::Retried => wire::AnswerOutcome::Retried,
    };
    wire::ReasonCount {
        app: kind.app.as_ref().map(|(app, _)| app.name()).unwrap_or_default(),
        lane: kind.app.map_or(0, |(_, lane)| lane.0),
        outcome: outcome.into(),
        status: u32::from(kind.status),
        reason: kind.reason,
        count,
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
