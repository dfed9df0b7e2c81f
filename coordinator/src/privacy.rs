//! Small audiences are private: what is told of few, and who may be addressed at all. Pure.
//!
//! The registry answers "how many", never "who" or "where". But whoever can ask for small numbers
//! can ask for one person: three phones in a street, one phone with a rare segment. Two rules stand
//! against that.
//!
//! - **Numbers below [`TOLD_MIN`] are not told**: of an audience that is only counted, [`Told`]
//!   withholds as many others as keep the small ones from being worked out; of a wave, bands are
//!   told together with their neighbours ([`bands`]) and cells together with those around them
//!   ([`cells`]) until there are enough.
//! - **Regions below [`REGION_KM2_MIN`] and audiences below [`AUDIENCE_MIN`] are refused** unless
//!   the operator allows them. An audience is counted before an alert to it is recorded, nearest
//!   first and only until it is large enough: a city is large enough within its first kilometres.
//!
//! Totals of one's own alert are told exactly: they place nobody more exactly than the alert's
//! region. That holds for `AlertProgress.reasons`, too: their counts are by app, status and reason
//! over the whole alert, never by band or cell, and carry no device and no token. A pruning alarm
//! is told to everybody (`GetRegistryStats`), so it starts at [`TOLD_MIN`] tokens at least
//! (`lane_owner/feedback/evidence.rs`).
//!
//! A third rule is about many questions: nearly equal regions are counted as one, and each peer
//! asks so often ([`curiosity`]).
//!
//! **What these rules do not cover, until callers have identities:**
//!
//! - *Invented devices count.* Whoever may write devices puts two hundred of their own into a
//!   street: then it is large enough to be addressed and counted, and what is told less two hundred
//!   is who else is there. (Nothing is told of whom, or where in it.)
//! - *Many addresses are many peers.* Rates hold for each of them. That nearly equal regions are
//!   one holds for all.
//! - *Larger differences.* Two regions that differ by more than a twentieth, and by more than 1
//!   km², are two; a union less its parts can be one house. Each costs questions, of which a peer
//!   has few.
//! - *Continents.* Regions of more than half a million cells are too large to be compared.
//! - *Time.* After an hour, or in the rates of one region, the same count is taken again: who came
//!   or left is in it. So are two messages of one watch.
//! - *Segments.* An audience and the same less one rare segment are two audiences; each is told by
//!   the rules above.
//!
//! Against these stand whoever may reach the port, and the log, which names the peer of each
//! question.

pub mod curiosity;
pub mod sketch;

use h3o::{CellIndex, Resolution};

use crate::{
    bands::Band,
    snapshot::{BandCounts, CellCounts},
};

/// The smallest number of devices that is told.
pub const TOLD_MIN: u64 = 20;
/// The smallest audience that may be addressed without the operator's leave, devices.
pub const AUDIENCE_MIN: u64 = 100;
/// The smallest region that may be addressed without the operator's leave, km².
pub const REGION_KM2_MIN: f64 = 1.0;

/// A number as it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// As counted.
    Exact(u64),
    /// Fewer than [`TOLD_MIN`].
    Few,
    /// Of any size: it would give away another.
    Withheld,
}

impl Told {
    /// A number that is the sum of nothing else that is told.
    #[must_use]
    pub fn total(count: u64) -> Self {
        if count < TOLD_MIN { Self::Few } else { Self::Exact(count) }
    }

    /// The parts of a total that is told as [`Told::total`].
    ///
    /// With the total, what is told of the parts gives the sum of the others. So that each part
    /// told as `Few` could still be anything from 0 to 19, other parts are withheld, smallest
    /// first, until
    ///
    /// ```text
    /// sum over withheld of (count − 20) + sum over few of count ≥ 19
    /// ```
    ///
    /// for whoever reads it knows that each withheld part is at least 20. If all parts together are
    /// too few for that, none says anything: then nobody knows which of them are few.
    #[must_use]
    pub fn parts(counts: &[u64]) -> Vec<Self> {
        let total: u64 = counts.iter().sum();
        let mut told: Vec<_> = counts.iter().map(|&count| Self::total(count)).collect();
        let few: u64 = counts.iter().filter(|&&count| count < TOLD_MIN).sum();
        // A total that is itself few is not told: nothing can be worked out from it.
        if total < TOLD_MIN || told.iter().all(|part| *part != Self::Few) {
            return told;
        }
        let mut others: Vec<usize> = (0..counts.len()).filter(|&i| counts[i] >= TOLD_MIN).collect();
        others.sort_by_key(|&i| counts[i]);
        let mut slack = few;
        for i in others {
            told[i] = Self::Withheld;
            slack += counts[i] - TOLD_MIN;
            if slack >= TOLD_MIN - 1 {
                return told;
            }
        }
        vec![Self::Withheld; counts.len()]
    }
}

/// Bands, each with [`TOLD_MIN`] devices at least or together with its neighbours: nearest first,
/// nothing left out. If all together are fewer, one.
#[must_use]
pub fn bands(bands: &[BandCounts]) -> Vec<BandCounts> {
    let mut told: Vec<BandCounts> = Vec::with_capacity(bands.len());
    for band in bands {
        match told.last_mut() {
            Some(run) if run.counts.handed < TOLD_MIN => join(run, band),
            _ => told.push(*band),
        }
    }
    // Only the last run can be too small.
    if told.len() > 1 && told.last().is_some_and(|run| run.counts.handed < TOLD_MIN) {
        let last = told.pop().expect("more than one");
        join(told.last_mut().expect("one at least"), &last);
    }
    told
}

fn join(run: &mut BandCounts, band: &BandCounts) {
    run.to_m = band.to_m;
    run.walked &= band.walked;
    run.counts.add(&band.counts);
}

/// Cells of resolution 6 as they may be told: ascending; coarser ones hold all that is in them.
///
/// A cell is told if those of its devices that are told nowhere finer are [`TOLD_MIN`] at least.
/// What is left of a cell of resolution 0 is told nowhere. A cell that is told once and now would
/// not be is simply not in the answer: its former numbers stand.
#[must_use]
pub fn cells(cells: &[CellCounts]) -> Vec<CellCounts> {
    let mut told = Vec::with_capacity(cells.len());
    // One group for each resolution, from 6 upwards: a cell, all that is in it, and what of that is
    // not told yet.
    let mut groups: Vec<(CellCounts, u64)> =
        cells.iter().map(|cell| (*cell, cell.handed)).collect();
    let mut resolution = Resolution::Six;
    loop {
        for (cell, hidden) in &mut groups {
            if *hidden >= TOLD_MIN {
                told.push(*cell);
                *hidden = 0;
            }
        }
        let Some(coarser) = resolution.pred() else { break };
        resolution = coarser;
        groups = around(groups, resolution);
    }
    told.sort_unstable_by_key(|cell| cell.cell);
    told
}

/// The same, summed over the cells around them. Ascending in, ascending out: H3 numbers a cell's
/// descendants together.
fn around(groups: Vec<(CellCounts, u64)>, resolution: Resolution) -> Vec<(CellCounts, u64)> {
    let mut parents: Vec<(CellCounts, u64)> = Vec::with_capacity(groups.len());
    for (cell, hidden) in groups {
        // What a node reports is checked nowhere else; a number that is no cell is told nowhere.
        let Some(parent) =
            CellIndex::try_from(cell.cell).ok().and_then(|c| c.parent(resolution)).map(u64::from)
        else {
            continue;
        };
        match parents.last_mut() {
            Some((sum, rest)) if sum.cell == parent => {
                sum.handed += cell.handed;
                sum.accepted += cell.accepted;
                sum.failed += cell.failed;
                sum.version = sum.version.max(cell.version);
                *rest += hidden;
            }
            _ => parents.push((CellCounts { cell: parent, ..cell }, hidden)),
        }
    }
    parents
}

/// The nearest part of a plan, whole bands, up to so many cells of resolution 9: where to look
/// first whether an audience is large enough. 1,000 of them are some 105 km², a circle of 6 km.
#[must_use]
pub fn nearest(bands: &[Band]) -> &[Band] {
    const LEAVES: u64 = 1_000;
    let mut leaves = 0;
    let more = |band: &&Band| {
        let before = leaves;
        leaves += band.cells.iter().map(|cell| cell.children_count(Resolution::Nine)).sum::<u64>();
        before < LEAVES
    };
    let count = bands.iter().take_while(more).count();
    &bands[..count]
}

#[cfg(test)]
mod tests;
