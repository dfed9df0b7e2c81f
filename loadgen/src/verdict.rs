//! The verdict, which compares the gateways' record with the truth, device by device.
//!
//! The verdict never asks the cluster which devices were inside or received a push. Every device is
//! computed again from the seed; its exact place is compared with the region by an independent
//! geodesic, and its token with the gateways' record. The cost is linear, some two microseconds per
//! device, so there is no reason to sample.

pub mod cells;
pub mod counts;
pub mod entrants;
pub mod geometry;
pub mod history;
pub mod ledger;
pub mod order;
pub mod pace;
pub mod recorded;
pub mod roll;
pub mod sample;

use std::{collections::BTreeMap, num::NonZero, ops::Range, thread};

use clarion_emulator::Platform;
use h3o::Resolution;

use crate::{
    place::Place,
    population::{Device, Population},
};
use counts::{Counts, PlatformCount, SpotCount};
use entrants::{Arrivals, Frontier};
use geometry::Region;
use history::{History, Stretch};
use ledger::{Fate, Ledger, Push, Tally};
use pace::Due;
use sample::{Sample, Spot};

/// Largest distance outside the region at which a device may be reached, metres: the overshoot that
/// the contract allows the cover of a region of at most 250 km.
pub const OUTSIDE_METERS: f64 = 500.0;
/// Distance outside the region beyond which no place is in the flat cover, metres: no cell of
/// resolution 9 that touches the region reaches farther.
const COVER_REACH_METERS: f64 = 1_000.0;
/// Most devices that the report names for each kind of failure.
const EXAMPLES_MAX: usize = 10;

/// Input of the verdict.
pub struct Case<'a> {
    /// The devices of the run.
    pub population: &'a Population,
    /// Region of the devices that should have been reached.
    pub region: &'a Region,
    /// Place last seen, from which distances are measured.
    pub last_seen: Place,
    /// Requests that the gateways recorded.
    pub ledger: &'a Ledger,
    /// Changes of devices that the registry acknowledged during the run.
    pub history: &'a History,
    /// Submission of the alert, nanoseconds of `CLOCK_MONOTONIC`.
    pub begun_ns: u64,
    /// End of the wave, nanoseconds of `CLOCK_MONOTONIC`; later changes do not matter.
    pub end_ns: u64,
    /// Time after its acknowledgement in which a change may be unknown to the wave, nanoseconds.
    pub settle_ns: u64,
    /// Largest distance outside the region at which the alert may reach a device, metres.
    pub overshoot_m: f64,
    /// Outer limits of the bands, ascending, metres.
    pub edges: &'a [f64],
    /// Resolution of places in the picture; at most [`sample::FINEST`].
    pub resolution: Resolution,
}

/// Result of the verdict.
#[derive(Debug, Clone, Default)]
pub struct Judgement {
    /// Counts of devices and requests.
    pub counts: Counts,
    /// Devices that changed during the wave.
    pub movers: u64,
    /// Devices that changed and were inside at the end.
    pub movers_inside: u64,
    /// Times of the devices that entered behind the frontier and stayed, from the acknowledgement
    /// of the change to the acceptance, nanoseconds, ascending.
    pub entered_ns: Vec<u64>,
    /// First acceptance of each device with the time since which it was due, in order of time.
    pub due: Vec<Due>,
    /// Counts by platform.
    pub platforms: BTreeMap<Platform, PlatformCount>,
    /// First acceptance of each device.
    pub samples: Vec<Sample>,
    /// Addressed devices by the spot of their first place, for every spot of the region.
    pub spots: BTreeMap<Spot, SpotCount>,
    /// Numbers of some devices for each kind of failure: `population.device(n)` with the seed of
    /// the run returns the device.
    pub examples: BTreeMap<&'static str, Vec<u64>>,
}

/// Judges a whole run on all cores.
#[must_use]
pub fn judge(case: &Case<'_>) -> Judgement {
    let workers = thread::available_parallelism().map_or(1, NonZero::get) as u64;
    let count = case.history.devices(case.population);
    let share = count.div_ceil(workers);
    let ranges = (0..workers).map(|w| (w * share).min(count)..((w + 1) * share).min(count));
    let frontier = Frontier::merge(side_by_side(ranges.clone(), |range| Frontier::of(case, range)));
    let mut whole = Judgement::default();
    let mut known = 0;
    for (part, requests) in side_by_side(ranges, |range| judge_range(case, &frontier, range)) {
        known += requests;
        whole.add(part);
    }
    whole.counts.strangers = case.ledger.pushes().len() as u64 - known;
    whole.entered_ns.sort_unstable();
    whole.due.sort_unstable();
    whole
}

fn side_by_side<T: Send>(
    ranges: impl Iterator<Item = Range<u64>>,
    work: impl Fn(Range<u64>) -> T + Sync,
) -> Vec<T> {
    let work = &work;
    thread::scope(|scope| {
        let workers: Vec<_> = ranges.map(|range| scope.spawn(move || work(range))).collect();
        workers.into_iter().map(|w| w.join().expect("judging does not panic")).collect()
    })
}

/// Judges a range of devices. Returns also the number of requests to them.
fn judge_range(case: &Case<'_>, frontier: &Frontier, range: Range<u64>) -> (Judgement, u64) {
    let (mut sum, mut requests) = (Judgement::default(), 0);
    for index in range {
        let device = case.population.device(index);
        let life = Life::of(case, &device);
        requests += life.pushes.len() as u64;
        sum.device(case, frontier, &device, &life);
    }
    (sum, requests)
}

/// Data of one device for the judgement.
struct Life {
    /// States of the device over time.
    stretches: Vec<Stretch>,
    /// Requests to all tokens of the device, oldest first.
    pushes: Vec<Push>,
    /// Number of the token of each request.
    generations: Vec<u16>,
}

/// State of the device at an acceptance.
enum Welcome {
    /// The device was inside and addressed, in this state.
    In(usize),
    /// The device was inside, with another token.
    Stale,
    /// The device was not inside.
    Outside,
    /// The device was removed or muted.
    Unwanted,
}

impl Life {
    fn of(case: &Case<'_>, device: &Device) -> Self {
        let stretches = case.history.stretches(case.population, device.index, device.place);
        let mut pushes = Vec::new();
        let deliveries = case.history.of(device.index);
        for (generation, token) in
            history::tokens(case.population, device.index, device.platform, deliveries)
        {
            pushes.extend(case.ledger.of(token.hash()).iter().map(|push| (*push, generation)));
        }
        pushes.sort_unstable_by_key(|(push, _)| push.at_ns);
        let (pushes, generations) = pushes.into_iter().unzip();
        Self { stretches, pushes, generations }
    }

    /// Reports whether the device changed in a way that the wave may have seen.
    fn changed(&self, case: &Case<'_>) -> bool {
        let during = |s: &Stretch| {
            s.acknowledged_ns + case.settle_ns >= case.begun_ns && s.sent_ns <= case.end_ns
        };
        self.stretches.iter().any(|s| s.moved && during(s))
    }

    /// Reports whether the device was exactly inside and addressable from the settling time before
    /// the end until the end.
    fn inside_at_end(&self, case: &Case<'_>) -> bool {
        let settled_ns = case.end_ns.saturating_sub(case.settle_ns);
        let mut last = self.stretches.iter().filter(|s| s.possible(settled_ns, case.end_ns, 0));
        last.all(|s| s.outside_meters(case.region) == 0.0)
    }

    fn welcome(&self, case: &Case<'_>, push: &Push, generation: u16) -> Welcome {
        let mut found = Welcome::Unwanted;
        for (n, stretch) in self.stretches.iter().enumerate() {
            let Some(standing) = stretch.standing else { continue };
            if !stretch.possible(push.at_ns, push.at_ns, case.settle_ns) {
                continue;
            }
            let within = case.region.outside_meters(standing.place) <= case.outside_meters_max();
            found = match (within, standing.generation == generation, found) {
                (true, true, _) => return Welcome::In(n),
                (true, false, _) | (false, _, Welcome::Stale) => Welcome::Stale,
                (false, ..) => Welcome::Outside,
            };
        }
        found
    }

    /// Returns the time since which a device in this state has been due, nanoseconds; 0 if it was
    /// inside before all motion.
    fn due_since_ns(&self, case: &Case<'_>, stretch: usize) -> u64 {
        let inside = |s: &&Stretch| s.outside_meters(case.region) <= case.outside_meters_max();
        let first = self.stretches[..=stretch].iter().rev().take_while(inside).last();
        first.map_or(0, |s| s.sent_ns)
    }
}

impl Judgement {
    fn device(&mut self, case: &Case<'_>, frontier: &Frontier, device: &Device, life: &Life) {
        let tally = Tally::of(&life.pushes);
        let changed = life.changed(case);
        let inside = life.inside_at_end(case);
        let edge = !changed && life.stretches.last().is_some_and(|s| is_edge(case, s));
        let entered = entrants::arrivals(
            case,
            frontier,
            device.platform,
            &life.stretches,
            tally.first_accepted_ns,
        );
        let owed = inside || matches!(entered, Arrivals::NeverAlerted);
        let missed = owed && !tally.dead && tally.first_accepted_ns.is_none();
        if let Arrivals::Alerted { after_ns } = entered {
            self.entered_ns.push(after_ns);
        }
        self.counts.region_devices += u64::from(inside);
        self.counts.edge_devices += u64::from(edge);
        self.movers += u64::from(changed);
        self.movers_inside += u64::from(changed && inside);
        self.counts.duplicates += tally.duplicates;
        self.counts.repeated += tally.repeated;
        self.counts.unanswered_requests += tally.unanswered;
        self.counts.dead_tokens += u64::from(tally.dead);
        self.counts.unknown += u64::from(tally.unknown);
        self.counts.missed += u64::from(missed);
        self.counts.accepted += u64::from(tally.first_accepted_ns.is_some());
        let count = self.platforms.entry(device.platform).or_default();
        count.addressed += u64::from(inside || edge);
        count.accepted += u64::from(tally.first_accepted_ns.is_some());
        count.missed += u64::from(missed);
        count.duplicates += tally.duplicates;
        count.repeated += tally.repeated;
        count.unknown += u64::from(tally.unknown);
        count.dead_tokens += u64::from(tally.dead);
        if tally.duplicates > 0 {
            self.example("duplicates", device.index);
        }
        if missed {
            self.example("missed", device.index);
        }
        let alerted_at = self.welcomes(case, device, life);
        if owed || edge || tally.first_accepted_ns.is_some() {
            let last = life.stretches.iter().rev().find_map(|s| s.standing).map(|s| s.place);
            let place = alerted_at.or(last).unwrap_or(device.place);
            self.addressed(case, device.platform, place, &tally, missed);
        }
    }

    /// Judges each acceptance, and returns the place of the device at the first one.
    fn welcomes(&mut self, case: &Case<'_>, device: &Device, life: &Life) -> Option<Place> {
        let mut alerted_at = None;
        let (mut outside, mut stale, mut unwanted) = (false, false, false);
        let pushes = life.pushes.iter().zip(&life.generations);
        for (push, generation) in pushes.filter(|(push, _)| push.fate == Fate::Accepted) {
            match life.welcome(case, push, *generation) {
                Welcome::In(stretch) => {
                    if alerted_at.is_none() {
                        alerted_at = life.stretches[stretch].standing.map(|s| s.place);
                        self.due.push(Due {
                            at_ns: push.at_ns,
                            since_ns: life.due_since_ns(case, stretch),
                        });
                    }
                }
                Welcome::Stale => stale = true,
                Welcome::Outside => outside = true,
                Welcome::Unwanted => unwanted = true,
            }
        }
        for (kind, found, sum) in [
            ("outside", outside, &mut self.counts.outside),
            ("stale_tokens", stale, &mut self.counts.stale_tokens),
            ("unwanted", unwanted, &mut self.counts.unwanted),
        ] {
            *sum += u64::from(found);
            if found {
                example(&mut self.examples, kind, device.index);
            }
        }
        alerted_at
    }

    /// Counts a device in the spot of its place.
    fn addressed(
        &mut self,
        case: &Case<'_>,
        platform: Platform,
        place: Place,
        tally: &Tally,
        missed: bool,
    ) {
        let spot = Spot::of(place, platform, case.resolution);
        let count =
            SpotCount { devices: 1, missed: u64::from(missed), unknown: u64::from(tally.unknown) };
        self.spots.entry(spot).or_default().add(count);
        if let Some(at_ns) = tally.first_accepted_ns {
            #[allow(clippy::cast_possible_truncation)] // metres in an f32 are good to a metre
            let meters = geometry::distance_meters(case.last_seen, place) as f32;
            self.samples.push(Sample { at_ns, meters, spot });
        }
    }

    fn example(&mut self, kind: &'static str, index: u64) {
        example(&mut self.examples, kind, index);
    }

    fn add(&mut self, part: Self) {
        self.counts.add(part.counts);
        self.movers += part.movers;
        self.movers_inside += part.movers_inside;
        self.entered_ns.extend(part.entered_ns);
        self.due.extend(part.due);
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

impl Case<'_> {
    /// Distance outside the region from which no device may be reached, metres.
    fn outside_meters_max(&self) -> f64 {
        self.overshoot_m.max(OUTSIDE_METERS)
    }
}

/// Reports whether a state is outside the region but in its cover.
fn is_edge(case: &Case<'_>, stretch: &Stretch) -> bool {
    let Some(standing) = stretch.standing else { return false };
    let outside_meters = case.region.outside_meters(standing.place);
    outside_meters > 0.0
        && outside_meters < case.overshoot_m.max(COVER_REACH_METERS)
        && cells::covers(case.region, standing.place, case.overshoot_m)
}

fn example(examples: &mut BTreeMap<&'static str, Vec<u64>>, kind: &'static str, index: u64) {
    let examples = examples.entry(kind).or_default();
    if examples.len() < EXAMPLES_MAX {
        examples.push(index);
    }
}

#[cfg(test)]
mod tests;
