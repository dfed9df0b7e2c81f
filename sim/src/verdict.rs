//! The verdict: compares the gateway's record with the alert's expected result, person by person.

use std::collections::{BTreeMap, BTreeSet};

use clarion_coordinator::{planned::PlannedAlert, snapshot::State};
use clarion_emulator::record::Entry;
use clarion_proto::outcome::Outcome;
use h3o::{CellIndex, Resolution};

use crate::scene::{Scene, alert::RADIUS_M, people::Person};

/// Longest time by which a first try of a nearer band may arrive after a first try of a further
/// band of the same node: connections differ in delay, and a request may wait at another core's
/// connections.
pub const DISORDER_US_MAX: u64 = 100_000;

/// Result of a run; equal for every seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// Phones that were reached, by hash of the token.
    pub phones: BTreeSet<u64>,
    /// Phones reached by band, nearest first.
    pub by_band: Vec<u64>,
}

/// Effort of a run; differs between seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Number of requests that the gateway decided.
    pub requests: usize,
    /// Number of these requests that were not accepted.
    pub refused: usize,
    /// Number of connections that the gateway accepted.
    pub connections: u32,
    /// Time from the first to the last request, microseconds.
    pub sending_us: u64,
    /// Longest time by which a first try of a nearer band came after one of a further band.
    pub disorder_us: u64,
}

/// Judges a scene whose alert is settled.
///
/// # Errors
/// The first rule that does not hold.
pub fn judge(scene: &mut Scene) -> Result<(Reached, Effort), String> {
    let problems = scene.problems();
    if !problems.is_empty() {
        return Err(format!("problems: {problems:?}"));
    }
    let snapshot = scene.snapshot().ok_or("the alert did not start")?;
    if snapshot.state != State::Resolved || !snapshot.settled {
        return Err(format!("the alert is {:?}, settled: {}", snapshot.state, snapshot.settled));
    }
    let record = scene.record();
    let bands = Bands::of(scene.alert().ok_or("the alert did not start")?);
    let expected = expected(scene.people(), &bands)?;
    let phones: BTreeSet<u64> = accepted(&record)?.into_keys().collect();
    compare(&phones, &expected)?;
    let by_band: Vec<u64> = (0..bands.count)
        .map(|band| expected.values().filter(|of| **of == band).count() as u64)
        .collect();
    let told: Vec<u64> =
        snapshot.bands.iter().map(|band| band.counts.of(Outcome::Accepted)).collect();
    if told != by_band {
        return Err(format!(
            "progress tells {told:?} accepted by band, the record has {by_band:?}"
        ));
    }
    let totals = snapshot.totals;
    if (totals.handed, totals.open()) != (phones.len() as u64, 0) {
        return Err(format!("progress tells {totals:?}, the record has {}", phones.len()));
    }
    let disorder_us = nearest_first(&record, &expected, &scene.nodes_of_tokens())?;
    let times = record.iter().map(|entry| entry.time_us);
    let effort = Effort {
        requests: record.len(),
        refused: record.len() - phones.len(),
        connections: scene.connections(),
        sending_us: times.clone().max().unwrap_or(0) - times.min().unwrap_or(0),
        disorder_us,
    };
    Ok((Reached { phones, by_band }, effort))
}

/// The bands of a plan, cell by cell.
struct Bands {
    count: usize,
    of_cell: BTreeMap<u64, usize>,
}

impl Bands {
    fn of(plan: &PlannedAlert) -> Self {
        let cells = plan.bands.iter().enumerate();
        let of_cell = cells
            .flat_map(|(n, band)| band.cells.iter().map(move |cell| (u64::from(*cell), n)))
            .collect();
        Self { count: plan.bands.len(), of_cell }
    }

    fn band(&self, cell: CellIndex) -> Option<usize> {
        let coarser = Resolution::range(Resolution::Zero, Resolution::Nine);
        coarser
            .filter_map(|resolution| cell.parent(resolution))
            .find_map(|cell| self.of_cell.get(&u64::from(cell)).copied())
    }
}

/// All people in the region, with their band: by an independent measure of distance, with which the
/// plan must agree.
fn expected(people: &[Person], bands: &Bands) -> Result<BTreeMap<u64, usize>, String> {
    let mut expected = BTreeMap::new();
    for person in people {
        let is_inside = person.distance_m() <= RADIUS_M;
        match bands.band(person.cell.to_h3()) {
            Some(band) if is_inside => drop(expected.insert(person.token_hash(), band)),
            None if !is_inside => {}
            band => return Err(format!("{} m away, in band {band:?}", person.distance_m())),
        }
    }
    Ok(expected)
}

/// Checks that every person in the region was reached and no person outside.
fn compare(reached: &BTreeSet<u64>, expected: &BTreeMap<u64, usize>) -> Result<(), String> {
    let mut missed = expected.keys().filter(|phone| !reached.contains(phone));
    if let Some(first) = missed.next() {
        let more = missed.count();
        return Err(format!("phone {first:x} and {more} more in the region were not reached"));
    }
    match reached.iter().find(|phone| !expected.contains_key(phone)) {
        Some(phone) => Err(format!("phone {phone:x} is outside of the region and was reached")),
        None => Ok(()),
    }
}

/// Phones that were reached, with the time; an error if a phone was reached twice.
fn accepted(record: &[Entry]) -> Result<BTreeMap<u64, u64>, String> {
    let mut accepted = BTreeMap::new();
    for entry in record.iter().filter(|entry| entry.accepted()) {
        if accepted.insert(entry.token_hash, entry.time_us).is_some() {
            return Err(format!("phone {:x} was reached twice", entry.token_hash));
        }
    }
    Ok(accepted)
}

/// Checks that each node's first tries come band by band; returns the largest exception,
/// microseconds.
fn nearest_first(
    record: &[Entry],
    bands: &BTreeMap<u64, usize>,
    nodes: &BTreeMap<u64, u16>,
) -> Result<u64, String> {
    let mut tried = BTreeSet::new();
    // By node: for each band, when its first and its last first try came.
    let mut spans: BTreeMap<u16, BTreeMap<usize, (u64, u64)>> = BTreeMap::new();
    for entry in record.iter().filter(|entry| entry.token_hash != 0) {
        let (Some(band), Some(node)) = (bands.get(&entry.token_hash), nodes.get(&entry.token_hash))
        else {
            return Err(format!("a request for the unknown token {:x}", entry.token_hash));
        };
        if tried.insert(entry.token_hash) {
            let at = entry.time_us;
            let span = spans.entry(*node).or_default().entry(*band).or_insert((at, at));
            *span = (span.0.min(at), span.1.max(at));
        }
    }
    let mut most = 0;
    for (node, spans) in &spans {
        for ((near, (_, last)), (far, (first, _))) in spans.iter().zip(spans.iter().skip(1)) {
            let late = last.saturating_sub(*first);
            if late > DISORDER_US_MAX {
                return Err(format!("node {node}: band {near} ends {late} µs into band {far}"));
            }
            most = most.max(late);
        }
    }
    Ok(most)
}

#[cfg(test)]
mod tests {
    use clarion_emulator::record::flag;

    use super::*;

    fn entry(token_hash: u64, time_us: u64) -> Entry {
        Entry { token_hash, time_us, status: 200, flags: flag::ACCEPTED, ..Entry::default() }
    }

    #[test]
    fn a_phone_reached_twice_is_told() {
        assert!(accepted(&[entry(1, 1), entry(2, 2)]).is_ok());
        assert!(accepted(&[entry(1, 1), entry(2, 2), entry(1, 3)]).unwrap_err().contains("twice"));
        let refused = Entry { status: 503, flags: 0, ..entry(1, 1) };
        assert!(accepted(&[refused, entry(1, 2)]).is_ok(), "a further try is no repeat");
    }

    #[test]
    fn missed_and_foreign_phones_are_told() {
        let expected = BTreeMap::from([(1, 0), (2, 0)]);
        assert!(compare(&BTreeSet::from([1, 2]), &expected).is_ok());
        assert!(compare(&BTreeSet::from([1]), &expected).unwrap_err().contains("not reached"));
        let foreign = compare(&BTreeSet::from([1, 2, 3]), &expected);
        assert!(foreign.unwrap_err().contains("outside"));
    }

    #[test]
    fn a_further_band_before_a_nearer_one_is_told_within_one_node_only() {
        let bands = BTreeMap::from([(1, 0), (2, 1)]);
        let record = [entry(2, 1), entry(1, 1 + DISORDER_US_MAX + 1)];
        let one = BTreeMap::from([(1, 0), (2, 0)]);
        assert!(nearest_first(&record, &bands, &one).is_err());
        let two = BTreeMap::from([(1, 0), (2, 1)]);
        assert_eq!(nearest_first(&record, &bands, &two), Ok(0));
        assert_eq!(nearest_first(&[entry(1, 1), entry(2, 2)], &bands, &one), Ok(0));
    }
}
