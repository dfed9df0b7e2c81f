//! The way of a phone over time, a pure function of the seed, the phone's number and the time.
//!
//! Most phones are *commuters*: each moves straight towards the place last seen or straight away
//! from it, at the speed of a bicycle up to that of a car, so that all bands are crossed in both
//! directions all the time. One phone in [`RIDE_ONE_IN`] rides a *train*: carriages of a hundred
//! phones that are at one place at one time and change their cells together. Half of the lines
//! cross the rim of the region during a run.

use std::f64::consts::{PI, TAU};

use crate::{
    place::Place,
    population::{Population, draws::Draws},
};

/// Domains of draws, separate from those of the population.
const DOMAIN_COMMUTER: u64 = 17;
const DOMAIN_LINE: u64 = 18;

/// Number of phones of which one rides on a train.
pub(super) const RIDE_ONE_IN: u64 = 5;
/// Number of phones in a carriage, which are at one place at one time.
pub(super) const CARRIAGE: u64 = 100;
/// Number of carriages of a train, and the distance between two of them, metres.
const CARRIAGES_PER_TRAIN: u64 = 8;
const CARRIAGE_METERS: f64 = 25.0;
/// Slowest and fastest commuter, metres per second: 18 to 108 km/h.
const COMMUTER_SPEED: (f64, f64) = (5.0, 30.0);
/// Slowest and fastest train, metres per second: 216 to 324 km/h.
const TRAIN_SPEED: (f64, f64) = (60.0, 90.0);
/// Distance to the rim within which half of the lines begin, metres, so that they cross the rim
/// within a minute or two.
const RIM_METERS: f64 = 4_000.0;
/// Largest angle by which a line may deviate from straight in or straight out, radians.
const TILT: f64 = PI / 6.0;

/// The ways of a population around a place.
#[derive(Debug, Clone, Copy)]
pub struct Ways {
    /// Place to which and from which all ways lead.
    pub center: Place,
    /// Radius at which train lines cross the region's rim, metres.
    pub rim_meters: f64,
}

impl Ways {
    /// Returns the place of a device after this many seconds.
    #[must_use]
    pub fn at(&self, population: &Population, device: u64, seconds: f64) -> Place {
        if device.is_multiple_of(RIDE_ONE_IN)
            && device / RIDE_ONE_IN < carriages(population.count()) * CARRIAGE
        {
            return self.train(population.seed(), device / RIDE_ONE_IN / CARRIAGE, seconds);
        }
        let mut draws = Draws::new(population.seed(), DOMAIN_COMMUTER, device);
        let home = population.home(device);
        let inwards = draws.unit() < 0.5;
        let way = seconds * between(COMMUTER_SPEED, draws.unit());
        let from_center = self.center.spherical_distance(home);
        let now = if inwards { (from_center - way).max(0.0) } else { from_center + way };
        self.center.toward(self.center.bearing(home), now).rounded()
    }

    /// Returns the place of a carriage after this many seconds.
    fn train(&self, seed: u64, carriage: u64, seconds: f64) -> Place {
        let mut draws = Draws::new(seed, DOMAIN_LINE, carriage / CARRIAGES_PER_TRAIN);
        let bearing = draws.unit() * TAU;
        let inwards = draws.unit() < 0.5;
        let off_rim = (draws.unit() * 2.0 - 1.0) * RIM_METERS;
        let begins = if draws.unit() < 0.5 {
            self.rim_meters + off_rim
        } else {
            self.rim_meters * draws.unit()
        };
        let tilt = (draws.unit() * 2.0 - 1.0) * TILT;
        let speed = between(TRAIN_SPEED, draws.unit());
        let start = self.center.toward(bearing, begins.max(0.0));
        let heading = if inwards { bearing + PI } else { bearing } + tilt;
        #[allow(clippy::cast_precision_loss)] // eight
        let behind = (carriage % CARRIAGES_PER_TRAIN) as f64 * CARRIAGE_METERS;
        start.toward(heading, seconds * speed - behind).rounded()
    }
}

/// Returns the number of carriages that the riders of a population fill.
#[must_use]
pub(super) fn carriages(devices: u64) -> u64 {
    devices / RIDE_ONE_IN / CARRIAGE
}

/// Returns the devices that ride in a carriage.
pub(super) fn riders(carriage: u64) -> impl Iterator<Item = u64> {
    (carriage * CARRIAGE..(carriage + 1) * CARRIAGE).map(|rider| rider * RIDE_ONE_IN)
}

fn between((from, to): (f64, f64), share: f64) -> f64 {
    from + (to - from) * share
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn population(devices: u64) -> Population {
        let spec = toml::from_str(
            "areas = [{ kind = 'disc', share = 1, center = { latitude = 22.5, longitude = 114 }, \
             radius_meters = 30000 }]",
        );
        Population::new(&spec.unwrap(), 3, devices).unwrap()
    }

    fn ways() -> Ways {
        Ways { center: Place::new(22.5, 114.0), rim_meters: 20_000.0 }
    }

    #[test]
    fn a_carriage_is_at_one_place_and_trains_cross_the_rim_both_ways() {
        let (population, ways) = (population(100_000), ways());
        let inside = |carriage, seconds| {
            let mut places = riders(carriage).map(|device| ways.at(&population, device, seconds));
            let first = places.next().unwrap();
            assert!(places.all(|place| place == first));
            ways.center.spherical_distance(first) < ways.rim_meters
        };
        let (mut entered, mut left) = (0, 0);
        for carriage in 0..carriages(population.count()) {
            match (inside(carriage, 0.0), inside(carriage, 60.0)) {
                (false, true) => entered += 1,
                (true, false) => left += 1,
                _ => {}
            }
        }
        assert!(entered > 0 && left > 0, "{entered} in, {left} out");
    }

    proptest! {
        #[test]
        fn nobody_is_faster_than_a_train_or_leaves_the_earth(device in 0_u64..10_000, from in 0.0..300.0_f64, more in 0.0..60.0_f64) {
            let (population, ways) = (population(10_000), ways());
            let (a, b) = (ways.at(&population, device, from), ways.at(&population, device, from + more));
            prop_assert!(a.is_valid() && b.is_valid());
            // A centimetre of rounding at either end.
            prop_assert!(a.spherical_distance(b) <= more * TRAIN_SPEED.1 + 0.1);
            prop_assert_eq!(a, ways.at(&population, device, from));
        }

        #[test]
        fn commuters_begin_at_home(device in 0_u64..10_000) {
            let population = population(10_000);
            prop_assume!(!device.is_multiple_of(RIDE_ONE_IN));
            prop_assert!(ways().at(&population, device, 0.0).spherical_distance(population.home(device)) < 0.1);
        }
    }
}
