//! Made-up records: every kind of failure must be found, and nothing else.

use super::{
    ledger::{Answer, Fate, Push},
    *,
};
use crate::scenario::RegionSpec;

const TAKEN: Fate = Fate::Accepted;

struct World {
    population: Population,
    region: Region,
    moves: Moves,
    pushes: Vec<Push>,
}

impl World {
    /// Five hundred devices over 20 km, a circle of 10 km; every device of the cover accepted once, in the order of distance.
    fn perfect() -> Self {
        let spec = toml::from_str(
            "areas = [{ kind = 'disc', share = 1, center = { latitude = 22.5, longitude = 114 }, radius_meters = 20000 },
                      { kind = 'ring', share = 1, center = { latitude = 22.5, longitude = 114 }, radius_meters = 10000, width_meters = 900 }]",
        )
        .unwrap();
        let population = Population::new(&spec, 1, 500).unwrap();
        let region = Region::new(&RegionSpec::Circle { center: center(), radius_meters: 10_000.0 });
        let pushes = population
            .iter()
            .filter(|d| cells::in_cover(&region, cells::cell_of(d.place)))
            .map(|d| Push { token_hash: d.token.hash(), at_ns: at(d.place), fate: TAKEN, answer: Answer::Given })
            .collect();
        Self { population, region, moves: Moves::new(), pushes }
    }

    fn judge(&self) -> Judgement {
        judge(&Case {
            population: &self.population,
            region: &self.region,
            last_seen: center(),
            ledger: &Ledger::new(self.pushes.clone()),
            moves: &self.moves,
            settled_ns: 900,
            end_ns: 1_000,
            resolution: Resolution::Six,
        })
    }

    /// The first device at this distance from the centre.
    fn device(&self, meters: std::ops::Range<f64>) -> Device {
        self.population
            .iter()
            .find(|d| meters.contains(&geometry::distance_meters(center(), d.place)))
            .expect("some device is there")
    }

    fn push(&mut self, device: &Device, at_ns: u64, fate: Fate) {
        let answer = if fate == Fate::Ignored { Answer::Withheld } else { Answer::Given };
        self.pushes.push(Push { token_hash: device.token.hash(), at_ns, fate, answer });
    }

    fn forget(&mut self, device: &Device) {
        self.pushes.retain(|p| p.token_hash != device.token.hash());
    }

    fn go(&mut self, device: &Device, steps: &[(u64, u64, Place)]) {
        let steps = steps.iter().map(|(sent_ns, acknowledged_ns, place)| Move {
            sent_ns: *sent_ns,
            acknowledged_ns: *acknowledged_ns,
            place: *place,
        });
        self.moves.insert(device.index, steps.collect());
    }
}

fn center() -> Place {
    Place::new(22.5, 114.0)
}

fn far() -> Place {
    Place::new(23.5, 114.0)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn at(place: Place) -> u64 {
    1_000 + geometry::distance_meters(center(), place) as u64
}

#[test]
fn a_perfect_wave_is_found_perfect() {
    let judged = World::perfect().judge();
    assert!(
        judged.region_devices > 150 && judged.edge_devices > 10,
        "{} and {}",
        judged.region_devices,
        judged.edge_devices
    );
    assert_eq!(judged.accepted, judged.region_devices + judged.edge_devices);
    assert_eq!((judged.missed, judged.outside, judged.duplicates, judged.repeated), (0, 0, 0, 0));
    assert_eq!((judged.unknown, judged.dead_tokens, judged.strangers), (0, 0, 0));
    assert!(judged.examples.is_empty());
    assert_eq!(judged.platforms[&Platform::Apns].accepted, judged.accepted);
    assert_eq!(judged.samples.len() as u64, judged.accepted);
    assert_eq!(judged.spots.values().map(|s| s.devices).sum::<u64>(), judged.accepted);
    let mut samples = judged.samples;
    order::sort(&mut samples);
    assert!(order::measure(&samples, &order::default_edges(20_000.0)).disorder < 1e-9);
}

#[test]
fn a_device_inside_without_acceptance_is_missed() {
    let mut world = World::perfect();
    let device = world.device(0.0..9_000.0);
    world.forget(&device);
    let judged = world.judge();
    assert_eq!((judged.missed, judged.unknown), (1, 0));
    assert_eq!(judged.examples["missed"], [device.index]);
    world.push(&device, 5, Fate::Ignored);
    let judged = world.judge();
    assert_eq!((judged.missed, judged.unknown, judged.unanswered_requests), (1, 1, 1));
}

#[test]
fn a_dead_token_is_not_missed() {
    let mut world = World::perfect();
    let device = world.device(0.0..9_000.0);
    world.forget(&device);
    world.push(&device, 5, Fate::Dead);
    let judged = world.judge();
    assert_eq!((judged.missed, judged.dead_tokens), (0, 1));
    assert_eq!(judged.accepted, judged.region_devices + judged.edge_devices - 1);
}

#[test]
fn more_than_500_metres_out_is_outside() {
    let mut world = World::perfect();
    let (near, out) = (world.device(10_200.0..10_499.0), world.device(10_501.0..15_000.0));
    world.forget(&near);
    world.push(&near, 5, TAKEN);
    assert_eq!(world.judge().outside, 0);
    world.push(&out, 5, TAKEN);
    let judged = world.judge();
    assert_eq!((judged.outside, judged.examples["outside"].as_slice()), (1, &[out.index][..]));
}

#[test]
fn acceptances_after_the_first_are_told_apart() {
    let mut world = World::perfect();
    let device = world.device(0.0..5_000.0);
    world.push(&device, 9_999, TAKEN);
    assert_eq!((world.judge().duplicates, world.judge().repeated), (1, 0));
    world.push(&device, 9_998, Fate::Ignored);
    assert_eq!((world.judge().duplicates, world.judge().repeated), (0, 1));
}

#[test]
fn a_token_that_nobody_has_is_a_stranger() {
    let mut world = World::perfect();
    world.pushes.push(Push { token_hash: 42, at_ns: 1, fate: TAKEN, answer: Answer::Given });
    assert_eq!(world.judge().strangers, 1);
}

#[test]
fn whoever_was_inside_at_start_and_end_must_be_reached_wherever_it_was_between() {
    let mut world = World::perfect();
    let device = world.device(0.0..5_000.0);
    world.forget(&device);
    let home = device.place;
    world.go(&device, &[(100, 110, far()), (200, 210, home)]);
    assert_eq!((world.judge().missed, world.judge().movers_inside), (1, 1));
    // Gone at the end: need not be reached, may be.
    world.go(&device, &[(100, 110, far())]);
    assert_eq!(world.judge().missed, 0);
    world.push(&device, 50, TAKEN);
    assert_eq!(world.judge().outside, 0);
    world.forget(&device);
    // Back too late to have been seen: the last settled place was outside.
    world.go(&device, &[(100, 110, far()), (890, 950, home)]);
    assert_eq!(world.judge().missed, 0);
    // Sent away, but too late to have been seen for sure: may have been out, so nothing is owed.
    world.go(&device, &[(890, 950, far())]);
    assert_eq!(world.judge().missed, 0);
    // What happens after the end does not matter.
    world.go(&device, &[(2_000, 2_010, far())]);
    assert_eq!(world.judge().missed, 1);
}

#[test]
fn a_visitor_may_be_reached_once() {
    let mut world = World::perfect();
    let device = world.device(12_000.0..20_000.0);
    world.go(&device, &[(100, 110, center()), (200, 210, far())]);
    assert_eq!((world.judge().missed, world.judge().movers), (0, 1));
    world.push(&device, 150, TAKEN);
    assert_eq!(world.judge().outside, 0);
    world.push(&device, 160, TAKEN);
    assert_eq!(world.judge().duplicates, 1);
}
