//! Privacy of small audiences: which counts are published and which audiences are refused. Pure.
//!
//! The registry answers "how many", never "who" or "where". But a caller who can ask for small
//! counts can ask about one person: three phones in a street, one phone with a rare segment. Two
//! rules prevent that.
//!
//! - **Counts below [`TOLD_MIN`] are not published.** For an audience that is only counted,
//!   [`Told`] also withholds as many other counts as are needed to keep the small counts from being
//!   computed. For a wave, bands are merged with their neighbours ([`bands`]), and cells with the
//!   cells around them ([`cells`]), until the count is large enough.
//! - **Regions below [`REGION_KM2_MIN`] and audiences below [`AUDIENCE_MIN`] are refused** unless
//!   the operator allows them. An audience is counted before its alert is recorded, nearest band
//!   first and only until the audience is large enough: a city is large enough within its first
//!   kilometres.
//!
//! A caller gets the exact totals of its own alert: they locate no person more exactly than the
//! alert's region does. The same holds for `AlertProgress.reasons`: these counts are by app, status
//! and reason over the whole alert, never by band or cell, and carry no device and no token. Every
//! caller can read a pruning alarm (`GetRegistryStats`), so an alarm starts at [`TOLD_MIN`] tokens
//! at least (`lane_owner/feedback/evidence.rs`).
//!
//! A third rule limits repeated counts: nearly equal regions are counted as one region, and the
//! rate of each peer is limited ([`curiosity`]).
//!
//! **Gaps of these rules until callers are authenticated:**
//!
//! - *Invented devices count.* A caller who may write devices registers two hundred devices in a
//!   street. Then the street is large enough to be addressed and counted, and the published count
//!   minus two hundred is the number of other devices. (Their identity and place stay private.)
//! - *Many addresses are many peers.* The rates hold for each address. The rule on nearly equal
//!   regions holds for all addresses together.
//! - *Larger differences.* Two regions that differ by more than a twentieth, and by more than 1
//!   km², are two regions; a union minus its parts can be one house. Each region costs a count, and
//!   a peer has few counts.
//! - *Time.* After an hour, or within the rate of one region, the same count is taken again, and
//!   the difference shows who came or left. So do two messages of one watch.
//! - *Segments and ages.* An audience, and the same audience without one rare segment, are two
//!   audiences; the rules above apply to each. The same holds for two values of
//!   `place_seen_within`: the difference is the number of devices last seen in between.
//!
//! The remaining protection is the network, which limits the callers of the port, and the log,
//! which names the peer of each count.

pub mod curiosity;
pub mod sketch;

use h3o::{CellIndex, Resolution};

use crate::{
    bands::Band,
    snapshot::{BandCounts, CellCounts},
};

/// Smallest count of devices that is published.
pub const TOLD_MIN: u64 = 20;
/// Smallest audience that is accepted without `allow_small_audiences`, devices.
pub const AUDIENCE_MIN: u64 = 100;
/// Smallest region that is accepted without `allow_small_audiences`, km².
pub const REGION_KM2_MIN: f64 = 1.0;

/// A count of devices as it is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The exact count, [`TOLD_MIN`] or more.
    Exact(u64),
    /// A count below [`TOLD_MIN`].
    Few,
    /// A count of any size, withheld because it would reveal a small count.
    Withheld,
}

impl Told {
    /// Publishes a count that is not the sum of other published counts.
    #[must_use]
    pub fn total(count: u64) -> Self {
        if count < TOLD_MIN { Self::Few } else { Self::Exact(count) }
    }

    /// Publishes the parts of a total that is published by [`Told::total`].
    ///
    /// The total minus the published parts is the sum of the other parts. Each `Few` must still be
    /// able to be any count from 0 to 19, so further parts are withheld, smallest first, until
    ///
    /// ```text
    /// sum over withheld of (count − 20) + sum over few of count ≥ 19
    /// ```
    ///
    /// because the reader knows that each withheld part is at least 20. If all parts together are
    /// too few for that, every part is withheld: then the reader does not know which parts are few.
    #[must_use]
    pub fn parts(counts: &[u64]) -> Vec<Self> {
        let total: u64 = counts.iter().sum();
        let mut told: Vec<_> = counts.iter().map(|&count| Self::total(count)).collect();
        let few: u64 = counts.iter().filter(|&&count| count < TOLD_MIN).sum();
        // A total below the minimum is not published, so no part can be computed from it.
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

/// Merges neighbouring bands until each has [`TOLD_MIN`] devices at least; nearest first, and no
/// band is omitted. If all bands together have fewer devices, the result is one band.
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

/// Publishes cells of one resolution, 6 or coarser, ascending; merges small cells into coarser cells.
///
/// A cell is published if at least [`TOLD_MIN`] of its devices are in no finer published cell; its
/// counts then include all of its devices. The remaining devices of a cell of resolution 0 are not
/// published. A cell that was published before and is not in the result keeps its former counts.
#[must_use]
pub fn cells(cells: &[CellCounts]) -> Vec<CellCounts> {
    let mut told = Vec::with_capacity(cells.len());
    // Cells of the present resolution, from 6 upwards: a cell with the counts of all its devices,
    // and the number of its devices that are not published yet.
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

/// Sums cells into their parents of `resolution`.
fn around(groups: Vec<(CellCounts, u64)>, resolution: Resolution) -> Vec<(CellCounts, u64)> {
    // Nothing else checks the cells that a node reports; an invalid cell is not published. A cell
    // that is as coarse already is its own parent.
    let parent_of = |cell: u64| {
        let cell = CellIndex::try_from(cell).ok()?;
        cell.parent(resolution.min(cell.resolution())).map(u64::from)
    };
    let mut of_parents: Vec<_> = groups
        .into_iter()
        .filter_map(|(cell, hidden)| Some((parent_of(cell.cell)?, cell, hidden)))
        .collect();
    // Nodes of two versions may report two resolutions, and then parents are not neighbours.
    of_parents.sort_by_key(|(parent, ..)| *parent);
    let mut parents: Vec<(CellCounts, u64)> = Vec::with_capacity(of_parents.len());
    for (parent, cell, hidden) in of_parents {
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

/// The nearest bands of a plan, up to 1,000 cells of resolution 9 (some 105 km², a circle of 6 km).
/// They are counted first to find out whether an audience is large enough.
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
