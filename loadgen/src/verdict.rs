//! The judgement: the gateway's own record against the truth, device by device.
//!
//! Nothing of the cluster is asked for who was inside or who was sent to. Every device is made again from the seed, its
//! exact place is held against the region by an independent geodesic, and its token against what the gateway recorded.
//! That is quadratic in nothing and costs some two microseconds a device, so there is no reason to sample.

pub mod cells;
pub mod geometry;
pub mod ledger;
pub mod order;
pub mod roll;
pub mod sample;

use std::{collections::BTreeMap, num::NonZero, thread};

use h3o::Resolution;

use crate::{
    gateway::Platform,
    place::Place,
    population::{Device, Population},
};
use geometry::Region;
use ledger::{Ledger, Tally};
use sample::{Sample, Spot};

/// Farther outside than this nobody may be reached: the overshoot that the contract allows a cover.
pub const OUTSIDE_METERS: f64 = 500.0;
/// No cell of resolution 9 that touches the region reaches farther out than this; beyond it the flat cover is not asked.
const COVER_REACH_METERS: f64 = 1_000.0;
/// Devices named in the report for each kind of failure.
const EXAMPLES_MAX: usize = 10;

/// One device going to another place.
#[derive(Debug, Clone, Copy)]
pub struct Move {
    /// When it was sent to the registry, nanoseconds of `CLOCK_MONOTONIC`.
    pub sent_ns: u64,
    /// When the registry had acknowledged it.
    pub acknowledged_ns: u64,
    /// Where to.
    pub place: Place,
}

/// All moves of a run, by device, oldest first.
pub type Moves = BTreeMap<u64, Vec<Move>>;

/// Everything to be judged.
pub struct Case<'a> {
    /// Who there is.
    pub population: &'a Population,
    /// Who should have been reached.
    pub region: &'a Region,
    /// From where "nearest" is counted.
    pub last_seen: Place,
    /// What the gateway saw.
    pub ledger: &'a Ledger,
    /// Who moved.
    pub moves: &'a Moves,
    /// A move acknowledged after this may not have been seen by the wave any more.
    pub settled_ns: u64,
    /// When the wave had ended; later moves do not matter.
    pub end_ns: u64,
    /// How finely the judgement tells places apart, for the picture; no finer than [`sample::FINEST`].
    pub resolution: Resolution,
}

/// What became of those addressed in one spot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpotCount {
    /// Devices inside or at the edge, and those that were reached anyway.
    pub devices: u64,
    /// Of those, exactly inside, alive, never accepted.
    pub missed: u64,
    /// Of those, sent to and never answered.
    pub unknown: u64,
}

/// What became of the devices of one platform; see [`Judgement`] for the words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlatformCount {
    /// Exactly inside, or at the edge.
    pub addressed: u64,
    /// Accepted at least once.
    pub accepted: u64,
    /// Never accepted, though inside and alive.
    pub missed: u64,
    /// Acceptances after the first without a reason.
    pub duplicates: u64,
    /// Acceptances after the first that follow an unanswered or failed request.
    pub repeated: u64,
    /// Sent to and never answered.
    pub unknown: u64,
    /// Token called dead.
    pub dead_tokens: u64,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Judgement {
    /// Exactly inside (devices that moved: at start and end).
    pub region_devices: u64,
    /// Outside, but their cell is in the flat cover (devices that never moved).
    pub edge_devices: u64,
    /// Devices accepted at least once.
    pub accepted: u64,
    /// Exactly inside at start and end, alive, never accepted.
    pub missed: u64,
    /// Accepted, and never within 500 m of the region.
    pub outside: u64,
    /// Acceptances after the first without a reason.
    pub duplicates: u64,
    /// Acceptances after the first that follow an unanswered or failed request.
    pub repeated: u64,
    /// Devices sent to and never answered.
    pub unknown: u64,
    /// Devices whose token the gateway called dead.
    pub dead_tokens: u64,
    /// Requests that the gateway left unanswered.
    pub unanswered_requests: u64,
    /// Requests for tokens that no device has.
    pub strangers: u64,
    /// Devices that moved during the wave.
    pub movers: u64,
    /// Of those, how many were inside at start and end.
    pub movers_inside: u64,
    /// The same by platform.
    pub platforms: BTreeMap<Platform, PlatformCount>,
    /// First acceptance of each device.
    pub samples: Vec<Sample>,
    /// Who was addressed where, by first place: as many entries as spots of the region.
    pub spots: BTreeMap<Spot, SpotCount>,
    /// For each failure some devices by number, to look at: `population.device(n)` with the seed of the run.
    pub examples: BTreeMap<&'static str, Vec<u64>>,
}

/// Judges a whole run on all cores.
#[must_use]
pub fn judge(case: &Case<'_>) -> Judgement {
    let workers = thread::available_parallelism().map_or(1, NonZero::get) as u64;
    let (count, share) = (case.population.count(), case.population.count().div_ceil(workers));
    let parts: Vec<Judgement> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|w| scope.spawn(move || judge_range(case, (w * share).min(count)..((w + 1) * share).min(count))))
            .collect();
        workers.into_iter().map(|w| w.join().expect("judging does not panic")).collect()
    });
    let mut whole = Judgement::default();
    let mut known = 0;
    for part in parts {
        known += part.strangers;
        whole.add(part);
    }
    whole.strangers = case.ledger.pushes().len() as u64 - known;
    whole
}

/// In a part, `strangers` holds the requests that belong to its devices; `judge` turns their sum into those that do not.
fn judge_range(case: &Case<'_>, range: std::ops::Range<u64>) -> Judgement {
    let mut sum = Judgement::default();
    for index in range {
        let device = case.population.device(index);
        let pushes = case.ledger.of(device.token.hash());
        sum.strangers += pushes.len() as u64;
        sum.device(case, &device, Tally::of(pushes));
    }
    sum
}

/// Where one device was, in the terms of the judgement.
struct Whereabouts {
    /// Exactly inside at start and end.
    inside: bool,
    /// Outside, in the flat cover, and it never moved.
    edge: bool,
    /// The least distance from the region at any time of the wave, metres.
    outside_meters: f64,
}

impl Judgement {
    fn device(&mut self, case: &Case<'_>, device: &Device, tally: Tally) {
        let moves = case.moves.get(&device.index).map_or(&[][..], Vec::as_slice);
        let whereabouts = whereabouts(case, device.place, moves);
        self.region_devices += u64::from(whereabouts.inside);
        self.edge_devices += u64::from(whereabouts.edge);
        self.movers += u64::from(!moves.is_empty());
        self.movers_inside += u64::from(!moves.is_empty() && whereabouts.inside);
        self.duplicates += tally.duplicates;
        self.repeated += tally.repeated;
        self.unanswered_requests += tally.unanswered;
        self.dead_tokens += u64::from(tally.dead);
        self.unknown += u64::from(tally.unknown);
        if tally.duplicates > 0 {
            self.example("duplicates", device.index);
        }
        let missed = whereabouts.inside && !tally.dead && tally.first_accepted_ns.is_none();
        if whereabouts.inside || whereabouts.edge || tally.first_accepted_ns.is_some() {
            self.addressed(case, device, &tally, missed);
        }
        let count = self.platforms.entry(device.platform).or_default();
        count.addressed += u64::from(whereabouts.inside || whereabouts.edge);
        count.accepted += u64::from(tally.first_accepted_ns.is_some());
        count.missed += u64::from(missed);
        count.duplicates += tally.duplicates;
        count.repeated += tally.repeated;
        count.unknown += u64::from(tally.unknown);
        count.dead_tokens += u64::from(tally.dead);
        if missed {
            self.missed += 1;
            self.example("missed", device.index);
        }
        if tally.first_accepted_ns.is_some() {
            self.accepted += 1;
            if whereabouts.outside_meters > OUTSIDE_METERS {
                self.outside += 1;
                self.example("outside", device.index);
            }
        }
    }

    /// Counts a device where it is.
    fn addressed(&mut self, case: &Case<'_>, device: &Device, tally: &Tally, missed: bool) {
        let spot = Spot::of(device.place, device.platform, case.resolution);
        let count = SpotCount { devices: 1, missed: u64::from(missed), unknown: u64::from(tally.unknown) };
        self.spots.entry(spot).or_default().add(count);
        if let Some(at_ns) = tally.first_accepted_ns {
            #[allow(clippy::cast_possible_truncation)] // metres in an f32 are good to a metre
            let meters = geometry::distance_meters(case.last_seen, device.place) as f32;
            self.samples.push(Sample { at_ns, meters, spot });
        }
    }

    fn example(&mut self, kind: &'static str, index: u64) {
        let examples = self.examples.entry(kind).or_default();
        if examples.len() < EXAMPLES_MAX {
            examples.push(index);
        }
    }

    fn add(&mut self, part: Self) {
        self.region_devices += part.region_devices;
        self.edge_devices += part.edge_devices;
        self.accepted += part.accepted;
        self.missed += part.missed;
        self.outside += part.outside;
        self.duplicates += part.duplicates;
        self.repeated += part.repeated;
        self.unknown += part.unknown;
        self.dead_tokens += part.dead_tokens;
        self.unanswered_requests += part.unanswered_requests;
        self.movers += part.movers;
        self.movers_inside += part.movers_inside;
        for (platform, count) in part.platforms {
            self.platforms.entry(platform).or_default().add(count);
        }
        self.samples.extend(part.samples);
        for (spot, count) in part.spots {
            self.spots.entry(spot).or_default().add(count);
        }
        for (kind, indexes) in part.examples {
            for index in indexes {
                self.example(kind, index);
            }
        }
    }
}

impl PlatformCount {
    fn add(&mut self, other: Self) {
        self.addressed += other.addressed;
        self.accepted += other.accepted;
        self.missed += other.missed;
        self.duplicates += other.duplicates;
        self.repeated += other.repeated;
        self.unknown += other.unknown;
        self.dead_tokens += other.dead_tokens;
    }
}

impl SpotCount {
    /// Adds another's.
    pub fn add(&mut self, other: Self) {
        self.devices += other.devices;
        self.missed += other.missed;
        self.unknown += other.unknown;
    }
}

fn whereabouts(case: &Case<'_>, start: Place, moves: &[Move]) -> Whereabouts {
    let at_start = case.region.outside_meters(start);
    if moves.is_empty() {
        let near = at_start > 0.0 && at_start < COVER_REACH_METERS;
        let edge = near && cells::in_cover(case.region, cells::cell_of(start));
        return Whereabouts { inside: at_start == 0.0, edge, outside_meters: at_start };
    }
    // The end is the last place that has settled, and every place after it: whichever of them the wave saw last.
    let (mut inside_at_end, mut nearest) = (at_start == 0.0, at_start);
    for step in moves.iter().take_while(|m| m.sent_ns <= case.end_ns) {
        let outside = case.region.outside_meters(step.place);
        nearest = nearest.min(outside);
        let settled = step.acknowledged_ns <= case.settled_ns;
        inside_at_end = outside == 0.0 && (settled || inside_at_end);
    }
    Whereabouts { inside: at_start == 0.0 && inside_at_end, edge: false, outside_meters: nearest }
}

#[cfg(test)]
mod tests;
