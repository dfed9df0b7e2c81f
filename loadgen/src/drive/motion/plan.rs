//! The changes that phones report to the registry, and their delivery times: a pure function of the
//! seed.
//!
//! A run's changes are numbered; at a rate of `r` per second, the phone *observes* number `n` `n /
//! r` seconds after the beginning. The change is drawn from the seed and its number: a new place
//! for a commuter or for a whole carriage, a leap of a phone that was switched off meanwhile, an
//! installation, a new token, a removal, a mute.
//!
//! Observations do not arrive in order. Some are late, by milliseconds up to [`LATE_MAX_SECONDS`],
//! and arrive after others that were observed later; some arrive twice. The registry applies a
//! repetition as a change of its own, and it counts as one here.

use std::{collections::BTreeMap, time::Duration};

use super::way::{self, Ways};
use crate::{
    population::{DOMAIN_PLAN, Population, draws::Draws},
    report::motion::Kinds,
    verdict::history::Change,
};

/// Share of the changes that arrive late.
const LATE_SHARE: f64 = 0.03;
/// Longest delay of a delivery, seconds; half of the late ones arrive within a quarter of it.
const LATE_MAX_SECONDS: f64 = 8.0;
/// Share of the changes that arrive a second time, late.
const TWICE_SHARE: f64 = 0.02;

/// Changes per thousand that are not a train's, by kind; the rest are commuters'.
const LEAPS: usize = 100;
const TOKENS: usize = 50;
const REMOVALS: usize = 30;
const INSTALLS: usize = 30;
const MUTES: usize = 20;
/// Changes of trains per thousand changes; the changes of a carriage come together.
const TRAINS: f64 = 250.0;

/// One delivery of one observation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Planned {
    /// Number of the device; numbers beyond the population's count are installed during the run.
    pub device: u64,
    /// Time of the phone's observation, microseconds from the beginning.
    pub observed_us: u64,
    /// The change that the phone observed.
    pub change: Change,
}

/// A plan that returns its deliveries in order of time.
#[derive(Debug)]
pub struct Plan<'a> {
    population: &'a Population,
    ways: Ways,
    per_second: f64,
    /// Number of the next change.
    number: u64,
    /// Late changes, by the number of the change after which they are delivered.
    postponed: BTreeMap<u64, Vec<Planned>>,
    phones: Vec<Phone>,
    /// Number of returned changes by kind.
    pub kinds: Kinds,
}

/// State of a phone.
#[derive(Debug, Clone, Copy, Default)]
struct Phone {
    /// Number of its present token, from 0.
    generation: u16,
    gone: bool,
    muted: bool,
}

impl<'a> Plan<'a> {
    /// Creates the plan of a registered population whose devices are at their homes.
    #[must_use]
    pub fn new(population: &'a Population, ways: Ways, changes_per_second: u32) -> Self {
        let count = usize::try_from(population.count()).expect("checked: devices");
        Self {
            population,
            ways,
            per_second: f64::from(changes_per_second),
            number: 0,
            postponed: BTreeMap::new(),
            phones: vec![Phone::default(); count],
            kinds: Kinds::default(),
        }
    }

    /// Returns the number of devices so far, including removed ones.
    #[must_use]
    pub fn devices(&self) -> u64 {
        self.phones.len() as u64
    }

    /// Returns the time up to which changes were returned.
    #[must_use]
    pub fn reached(&self) -> Duration {
        Duration::from_secs_f64(self.seconds(self.number))
    }

    /// Appends the deliveries before a time, at most about `most`. Later calls continue from there.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // changes of a run
    pub fn until(&mut self, seconds: f64, most: usize, out: &mut Vec<Planned>) {
        let end = (seconds * self.per_second) as u64;
        while out.len() < most && self.number < end {
            let number = self.number;
            while let Some(due) = self.postponed.first_entry().filter(|e| *e.key() <= number) {
                out.extend(due.remove());
            }
            self.observe(number, out);
        }
    }

    /// Appends the observation of this number, or those of a whole carriage.
    fn observe(&mut self, number: u64, out: &mut Vec<Planned>) {
        let mut draws = Draws::new(self.population.seed(), DOMAIN_PLAN, number);
        let carriages = way::carriages(self.population.count());
        // A carriage takes as many numbers as it has riders.
        #[allow(clippy::cast_precision_loss)] // a hundred
        let carriage_share = TRAINS / (TRAINS + (1_000.0 - TRAINS) * way::CARRIAGE as f64);
        if carriages > 0 && draws.unit() < carriage_share {
            let carriage = draws.below(usize::try_from(carriages).expect("fits")) as u64;
            let place = self.ways.at(
                self.population,
                way::riders(carriage).next().unwrap_or(0),
                self.seconds(number),
            );
            for device in way::riders(carriage) {
                self.number += 1;
                if !self.phone(device).gone {
                    self.kinds.rides += 1;
                    self.deliver(number, device, Change::Place(place), &mut draws, out);
                }
            }
            return;
        }
        self.number += 1;
        let kind = draws.below(1_000);
        let installed = LEAPS..LEAPS + INSTALLS;
        if installed.contains(&kind) {
            let device = self.devices();
            self.phones.push(Phone::default());
            self.kinds.installs += 1;
            let change = Change::Arrival(0, self.population.home(device));
            return self.deliver(number, device, change, &mut draws, out);
        }
        let device = draws.below(self.phones.len()) as u64;
        let place = self.ways.at(self.population, device, self.seconds(number));
        let at = usize::try_from(device).expect("fits");
        let (phone, kinds) = (&mut self.phones[at], &mut self.kinds);
        let change = if phone.gone {
            // An app that is installed again has a new token each time.
            *phone = Phone { generation: phone.generation + 1, ..Phone::default() };
            kinds.installs += 1;
            Change::Arrival(phone.generation, place)
        } else if kind < LEAPS {
            kinds.leaps += 1;
            Change::Place(self.population.place(&mut draws).0)
        } else if (installed.end..installed.end + TOKENS).contains(&kind) {
            phone.generation += 1;
            kinds.tokens += 1;
            Change::Registration(phone.generation)
        } else if (installed.end + TOKENS..installed.end + TOKENS + REMOVALS).contains(&kind) {
            phone.gone = true;
            kinds.removals += 1;
            Change::Removal
        } else if kind >= 1_000 - MUTES {
            phone.muted = !phone.muted;
            kinds.mutes += 1;
            Change::Mute(phone.muted)
        } else {
            kinds.commutes += 1;
            Change::Place(place)
        };
        self.deliver(number, device, change, &mut draws, out);
    }

    /// Delivers an observation now, late, or twice.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // changes of a run
    fn deliver(
        &mut self,
        number: u64,
        device: u64,
        change: Change,
        draws: &mut Draws,
        out: &mut Vec<Planned>,
    ) {
        let planned = Planned { device, observed_us: (self.seconds(number) * 1e6) as u64, change };
        let late = draws.unit() < LATE_SHARE;
        let twice = draws.unit() < TWICE_SHARE;
        let mut later =
            || number + 1 + (draws.unit().powi(2) * LATE_MAX_SECONDS * self.per_second) as u64;
        if late {
            self.kinds.late += 1;
            self.postponed.entry(later()).or_default().push(planned);
        } else {
            out.push(planned);
        }
        if twice {
            self.kinds.twice += 1;
            self.number += 1;
            self.postponed.entry(later()).or_default().push(planned);
        }
    }

    fn phone(&self, device: u64) -> Phone {
        self.phones[usize::try_from(device).expect("fits")]
    }

    #[allow(clippy::cast_precision_loss)] // changes of a run
    fn seconds(&self, number: u64) -> f64 {
        number as f64 / self.per_second
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::place::Place;

    fn population(devices: u64, seed: u64) -> Population {
        let spec = toml::from_str(
            "areas = [{ kind = 'disc', share = 1, center = { latitude = 22.5, longitude = 114 }, \
             radius_meters = 30000 }]",
        );
        Population::new(&spec.unwrap(), seed, devices).unwrap()
    }

    const WAYS: Ways =
        Ways { center: Place { latitude: 22.5, longitude: 114.0 }, rim_meters: 20_000.0 };

    #[test]
    fn a_minute_holds_every_kind_at_the_rate_that_was_asked_for() {
        let population = population(5_000, 1);
        let mut plan = Plan::new(&population, WAYS, 1_000);
        let mut all = Vec::new();
        plan.until(60.0, usize::MAX, &mut all);
        let Kinds { commutes, rides, leaps, installs, tokens, removals, mutes, late, twice } =
            plan.kinds;
        for (count, expected) in [
            (rides, 15_000),
            (leaps, 4_500),
            (tokens, 2_250),
            (removals, 1_350),
            (mutes, 900),
            (late, 1_800),
            (twice, 1_200),
        ] {
            // A removed phone cannot leap, and is installed again instead.
            assert!((expected * 6 / 10..expected * 13 / 10).contains(&count), "{:?}", plan.kinds);
        }
        assert!(commutes > 20_000 && installs > 1_350, "{:?}", plan.kinds);
        assert!((58_500..=60_100).contains(&all.len()), "{}", all.len());
        assert!(!all.is_sorted_by_key(|p| p.observed_us), "some are late");
        assert!(plan.devices() > 5_000 && all.iter().all(|p| p.device < plan.devices()));
    }

    proptest! {
        /// The changes and their order do not depend on the number of calls or on their limits.
        #[test]
        fn the_plan_is_the_seeds_alone(seed in 0_u64..1_000, steps in proptest::collection::vec((0.0..2.0_f64, 1_usize..400), 1..20)) {
            let population = population(2_000, seed);
            let (mut by_steps, mut at_once) = (Vec::new(), Vec::new());
            let mut plan = Plan::new(&population, WAYS, 300);
            let mut seconds = 0.0;
            for (step, most) in steps {
                seconds += step;
                let mut out = Vec::new();
                plan.until(seconds, most, &mut out);
                by_steps.extend(out);
            }
            Plan::new(&population, WAYS, 300).until(seconds, usize::MAX, &mut at_once);
            prop_assert!(by_steps.len() <= at_once.len());
            prop_assert_eq!(&by_steps[..], &at_once[..by_steps.len()]);
        }

        /// No phone reports anything before it is installed or after it is removed, and no token is
        /// used twice.
        #[test]
        fn phones_live_one_life_after_the_other(seed in 0_u64..1_000) {
            let population = population(600, seed);
            let mut all = Vec::new();
            let mut plan = Plan::new(&population, WAYS, 500);
            plan.until(20.0, usize::MAX, &mut all);
            all.extend(plan.postponed.into_values().flatten());
            all.sort_by_key(|p| p.observed_us);
            all.dedup();
            let mut phones: BTreeMap<u64, (bool, u16)> = (0..600).map(|device| (device, (true, 0))).collect();
            for Planned { device, change, .. } in all {
                let phone = phones.entry(device).or_insert((false, 0));
                match change {
                    Change::Arrival(generation, _) => {
                        prop_assert!(!phone.0 && (generation == phone.1 + 1 || device >= 600 && generation == 0));
                        *phone = (true, generation);
                    }
                    Change::Registration(generation) => {
                        prop_assert!(phone.0 && generation == phone.1 + 1);
                        phone.1 = generation;
                    }
                    Change::Removal => prop_assert!(std::mem::replace(&mut phone.0, false)),
                    Change::Place(_) | Change::Mute(_) => prop_assert!(phone.0),
                }
            }
        }
    }
}
