//! Reports of a wave on this core, every 20 ms while something changes.
//!
//! Counts are totals, so a lost or repeated report does no harm; sets of ordinals are changes,
//! because totals would take megabytes. A report is built only when the control plane has room for
//! it: changes merge until then.

use std::time::Duration;

use clarion_proto::{ids::PartitionId, time::Time};
use roaring::RoaringBitmap;

use super::{open::Open, reporting::Reporting, run::WaveRun};
use crate::command::CoreReport;

/// Time between two reports of one wave.
const EVERY: Duration = Duration::from_millis(20);
/// Time between two reports with cells.
const CELLS_EVERY: Duration = Duration::from_millis(200);
/// Most dead tokens in one report; the others follow in the next ones.
const DEAD_MAX: usize = 1_000;

impl WaveRun {
    /// Marks everything as unreported, because a new session has no earlier report.
    pub(crate) fn repeat_all(&mut self) {
        self.tally.repeat_all();
        self.reasons.repeat_all();
        self.reporting = Reporting { all: true, changed: true, ..Reporting::default() };
    }
}

/// Returns the time at which the next report of a wave is due; `None` if nothing has changed.
pub(crate) fn due(run: &WaveRun, single: bool) -> Option<Time> {
    let r = &run.reporting;
    let ended = run.is_ended() && !r.ended;
    // A band can become walked, or a wave complete, without a device handed over or answered at
    // that time: the last device of a band is known to be the last only when the walk finds none
    // after it.
    let walked = !run.lanes_walked().map(|(_, bands)| bands).eq(r.bands_walked.iter().copied());
    if r.changed || ended || walked || run.is_complete() != r.complete || !run.dead.is_empty() {
        let Some(last) = r.at else { return Some(Time(0)) };
        // Other cores wait for the report that a band is walked.
        let urgent = ended || (!single && walked);
        return Some(if urgent { last } else { last + EVERY });
    }
    run.tally.cells_changed().then(|| r.cells_at.map_or(Time(0), |at| at + CELLS_EVERY))
}

/// Builds the due report from the open pushes of the wave. `last` means that the core has closed
/// and no push waits any more.
pub(crate) fn build<'a>(
    run: &mut WaveRun,
    open: impl Iterator<Item = &'a Open>,
    last: bool,
    now: Time,
) -> CoreReport {
    let dead = run.dead.drain(..DEAD_MAX.min(run.dead.len())).collect();
    let ended = run.is_ended() && run.dead.is_empty();
    let all = run.reporting.all;
    let cells_due = run.reporting.cells_at.is_none_or(|at| now >= at + CELLS_EVERY);
    let cells = if ended || all || last || cells_due { run.tally.take_cells() } else { Vec::new() };
    let report = CoreReport {
        wave: run.spec.id,
        epoch: run.epoch,
        plan: run.plan,
        // Complete for the first report of the wave, and for the first after a request for
        // everything.
        all: run.reporting.at.is_none(),
        bands_walked: run.lanes_walked().collect(),
        complete: run.is_complete(),
        ended,
        bands: run.tally.take_bands(),
        handed: handed(run, all),
        open: open_sets(run, open),
        let_go: let_go(run),
        unanswered_requests: run.unanswered_requests,
        retried_requests: run.retried_requests,
        dead,
        answers: run.audience.answers().collect(),
        reasons: run.reasons.take(&run.audience),
        cells,
        refused_messages: run.refused_messages.clone(),
    };
    let r = &mut run.reporting;
    r.at = Some(now);
    if !report.cells.is_empty() {
        r.cells_at = Some(now);
    }
    (r.changed, r.all) = (false, false);
    r.bands_walked = report.bands_walked.iter().map(|(_, bands)| *bands).collect();
    (r.complete, r.ended) = (report.complete, ended);
    report
}

/// Returns the devices handed over since the last report, or all.
fn handed(run: &mut WaveRun, all: bool) -> Vec<(PartitionId, RoaringBitmap)> {
    let mut sets = Vec::new();
    for (n, part) in run.parts.iter().enumerate() {
        let mut set = RoaringBitmap::new();
        for outlet in &mut run.outlets {
            let walk = outlet.walk(n);
            let delta = walk.take_handed();
            set |= if all { walk.handed().to_roaring() } else { delta };
        }
        if !set.is_empty() {
            sets.push((part.partition, set));
        }
    }
    sets
}

/// Returns the ordinals that are open now, for each partition that has any or had any in the last
/// report.
fn open_sets<'a>(
    run: &mut WaveRun,
    open: impl Iterator<Item = &'a Open>,
) -> Vec<(PartitionId, RoaringBitmap)> {
    let mut names: Vec<(u16, u32)> = open.map(|open| (open.part, open.ordinal.0)).collect();
    names.sort_unstable();
    let had = &mut run.reporting.had_open;
    had.resize(run.parts.len(), false);
    let mut sets = Vec::new();
    let mut left = names.as_slice();
    for (n, part) in run.parts.iter().enumerate() {
        let mine = left.iter().take_while(|(p, _)| usize::from(*p) == n).count();
        let (these, others) = left.split_at(mine);
        left = others;
        if std::mem::replace(&mut had[n], mine > 0) || mine > 0 {
            sets.push((part.partition, these.iter().map(|(_, ordinal)| *ordinal).collect()));
        }
    }
    sets
}

/// Returns the last sets of handed devices of partitions that the core no longer holds. A partition
/// with an open push is left out, because an abandoned push is removed from the set.
fn let_go(run: &mut WaveRun) -> Vec<(PartitionId, RoaringBitmap)> {
    let mut sets = Vec::new();
    for n in 0..run.parts.len() {
        if !run.parts[n].farewell || run.reporting.had_open[n] {
            continue;
        }
        run.parts[n].farewell = false;
        let mut set = RoaringBitmap::new();
        for outlet in &mut run.outlets {
            set |= outlet.walk(n).handed().to_roaring();
        }
        sets.push((run.parts[n].partition, set));
    }
    sets
}
