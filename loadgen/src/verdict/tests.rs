//! Artificial records: every kind of failure must be found, and nothing else.

use super::{
    history::{Batch, Change, Delivery},
    ledger::Answer,
    *,
};
use crate::scenario::RegionSpec;

const TAKEN: Fate = Fate::Accepted;

struct World {
    population: Population,
    region: Region,
    history: History,
    pushes: Vec<Push>,
}

/// Times of an alert's submission and end, and the longest time until a change is seen.
const BEGUN: u64 = 50;
const END: u64 = 30_000;
const SETTLE: u64 = 100;

impl World {
    /// Creates five hundred devices over 20 km and a circle of 10 km; every device of the cover is
    /// accepted once, in order of distance.
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
            .map(|d| Push {
                token_hash: d.token.hash(),
                at_ns: at(d.place),
                fate: TAKEN,
                answer: Answer::Given,
            })
            .collect();
        Self { population, region, history: History::default(), pushes }
    }

    fn judge(&self) -> Judgement {
        judge(&Case {
            population: &self.population,
            region: &self.region,
            last_seen: center(),
            ledger: &Ledger::new(self.pushes.clone()),
            history: &self.history,
            begun_ns: BEGUN,
            end_ns: END,
            settle_ns: SETTLE,
            overshoot_m: 448.8,
            edges: &order::default_edges(20_000.0),
            resolution: Resolution::Six,
        })
    }

    /// Returns the first device at this distance from the centre.
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

    /// Adds changes of one device: (sent, acknowledged, observed in milliseconds, change).
    fn tell(&mut self, device: &Device, changes: &[(u64, u64, u64, Change)]) {
        let batches =
            changes.iter().map(|c| Batch { sent_ns: c.0, acknowledged_ns: c.1 }).collect();
        let deliveries = (0..).zip(changes).map(|(batch, c)| Delivery {
            device: u32::try_from(device.index).unwrap(),
            batch,
            observed_us: c.2 * 1_000,
            change: c.3,
        });
        self.history = History::new(deliveries.collect(), batches, 0);
    }

    /// Adds places of one device, observed in their order.
    fn go(&mut self, device: &Device, steps: &[(u64, u64, Place)]) {
        let steps = (1..).zip(steps).map(|(n, (sent, acknowledged, place))| {
            (*sent, *acknowledged, n, Change::Place(*place))
        });
        self.tell(device, &steps.collect::<Vec<_>>());
    }

    /// Adds an acceptance of the device's token after this many changes of it.
    fn push_token(&mut self, device: &Device, generation: u16, at_ns: u64) {
        let token_hash = self.population.token(device.index, device.platform, generation).hash();
        self.pushes.push(Push { token_hash, at_ns, fate: TAKEN, answer: Answer::Given });
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
        judged.counts.region_devices > 150 && judged.counts.edge_devices > 10,
        "{} and {}",
        judged.counts.region_devices,
        judged.counts.edge_devices
    );
    assert_eq!(judged.counts.accepted, judged.counts.region_devices + judged.counts.edge_devices);
    assert_eq!(
        (
            judged.counts.missed,
            judged.counts.outside,
            judged.counts.duplicates,
            judged.counts.repeated
        ),
        (0, 0, 0, 0)
    );
    assert_eq!(
        (judged.counts.unknown, judged.counts.dead_tokens, judged.counts.strangers),
        (0, 0, 0)
    );
    assert!(judged.examples.is_empty());
    assert_eq!(judged.platforms[&Platform::Apns].accepted, judged.counts.accepted);
    assert_eq!(judged.samples.len() as u64, judged.counts.accepted);
    assert_eq!(judged.spots.values().map(|s| s.devices).sum::<u64>(), judged.counts.accepted);
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
    assert_eq!((judged.counts.missed, judged.counts.unknown), (1, 0));
    assert_eq!(judged.examples["missed"], [device.index]);
    world.push(&device, 5, Fate::Ignored);
    let judged = world.judge();
    assert_eq!(
        (judged.counts.missed, judged.counts.unknown, judged.counts.unanswered_requests),
        (1, 1, 1)
    );
}

#[test]
fn a_dead_token_is_not_missed() {
    let mut world = World::perfect();
    let device = world.device(0.0..9_000.0);
    world.forget(&device);
    world.push(&device, 5, Fate::Dead);
    let judged = world.judge();
    assert_eq!((judged.counts.missed, judged.counts.dead_tokens), (0, 1));
    assert_eq!(
        judged.counts.accepted,
        judged.counts.region_devices + judged.counts.edge_devices - 1
    );
}

#[test]
fn more_than_500_metres_out_is_outside() {
    let mut world = World::perfect();
    let (near, out) = (world.device(10_200.0..10_499.0), world.device(10_501.0..15_000.0));
    world.forget(&near);
    world.push(&near, 5, TAKEN);
    assert_eq!(world.judge().counts.outside, 0);
    world.push(&out, 5, TAKEN);
    let judged = world.judge();
    assert_eq!(
        (judged.counts.outside, judged.examples["outside"].as_slice()),
        (1, &[out.index][..])
    );
}

#[test]
fn acceptances_after_the_first_are_told_apart() {
    let mut world = World::perfect();
    let device = world.device(0.0..5_000.0);
    world.push(&device, 9_999, TAKEN);
    assert_eq!((world.judge().counts.duplicates, world.judge().counts.repeated), (1, 0));
    world.push(&device, 9_998, Fate::Ignored);
    assert_eq!((world.judge().counts.duplicates, world.judge().counts.repeated), (0, 1));
}

#[test]
fn a_token_that_nobody_has_is_a_stranger() {
    let mut world = World::perfect();
    world.pushes.push(Push { token_hash: 42, at_ns: 1, fate: TAKEN, answer: Answer::Given });
    assert_eq!(world.judge().counts.strangers, 1);
}

#[test]
fn whoever_is_inside_at_the_end_must_be_reached_wherever_it_was_before() {
    let mut world = World::perfect();
    let device = world.device(0.0..5_000.0);
    world.forget(&device);
    let home = device.place;
    world.go(&device, &[(100, 110, far()), (200, 210, home)]);
    assert_eq!((world.judge().counts.missed, world.judge().movers_inside), (1, 1));
    // Gone at the end: need not be reached, may be.
    world.go(&device, &[(100, 110, far())]);
    assert_eq!(world.judge().counts.missed, 0);
    world.push(&device, 90, TAKEN);
    assert_eq!(world.judge().counts.outside, 0);
    world.forget(&device);
    // Back too late to have been seen: the last settled place was outside.
    world.go(&device, &[(100, 110, far()), (END - 120, END - 90, home)]);
    assert_eq!(world.judge().counts.missed, 0);
    // Sent away, but too late to have been seen for sure: may have been out, so nothing is owed.
    world.go(&device, &[(END - 120, END - 90, far())]);
    assert_eq!(world.judge().counts.missed, 0);
    // What happens after the end does not matter.
    world.go(&device, &[(END + 1, END + 2, far())]);
    assert_eq!(world.judge().counts.missed, 1);
}

#[test]
fn a_visitor_may_be_reached_once_and_only_while_it_is_there() {
    let mut world = World::perfect();
    let device = world.device(12_000.0..20_000.0);
    world.go(&device, &[(200, 210, center()), (400, 410, far())]);
    assert_eq!((world.judge().counts.missed, world.judge().movers), (0, 1));
    for (at, outside) in [(199, 1), (200, 0), (410 + SETTLE, 0), (411 + SETTLE, 1)] {
        world.push(&device, at, TAKEN);
        let judged = world.judge();
        assert_eq!((judged.counts.outside, judged.counts.duplicates), (outside, 0), "at {at}");
        world.forget(&device);
    }
    world.push(&device, 250, TAKEN);
    world.push(&device, 260, TAKEN);
    assert_eq!(world.judge().counts.duplicates, 1);
}

#[test]
fn a_token_is_told_only_while_it_is_the_current_one() {
    let mut world = World::perfect();
    let device = world.device(0.0..5_000.0);
    world.forget(&device);
    world.tell(&device, &[(500, 510, 1, Change::Registration(1))]);
    assert_eq!(world.judge().counts.missed, 1);
    for (generation, at, stale) in
        [(0, 510 + SETTLE, 0), (0, 511 + SETTLE, 1), (1, 499, 1), (1, 500, 0), (1, 20_000, 0)]
    {
        world.push_token(&device, generation, at);
        let judged = world.judge();
        assert_eq!(
            (judged.counts.missed, judged.counts.stale_tokens, judged.counts.strangers),
            (0, stale, 0),
            "{generation} at {at}"
        );
        world.pushes.pop();
    }
    // Once on each token is twice on the device.
    world.push_token(&device, 0, 400);
    world.push_token(&device, 1, 700);
    assert_eq!(world.judge().counts.duplicates, 1);
}

#[test]
fn whoever_was_removed_or_muted_is_neither_owed_nor_told() {
    let mut world = World::perfect();
    let device = world.device(0.0..5_000.0);
    world.forget(&device);
    for change in [Change::Removal, Change::Mute(true)] {
        world.tell(&device, &[(500, 510, 1, change)]);
        assert_eq!(world.judge().counts.missed, 0);
        world.push(&device, 400, TAKEN);
        assert_eq!(world.judge().counts.unwanted, 0, "{change:?}");
        world.forget(&device);
        world.push(&device, 511 + SETTLE, TAKEN);
        let judged = world.judge();
        assert_eq!((judged.counts.unwanted, judged.counts.outside), (1, 0), "{change:?}");
        world.forget(&device);
    }
    // Back again before the end, with another token: owed once.
    world.tell(
        &device,
        &[
            (500, 510, 1, Change::Removal),
            (900, 910, 2, Change::Arrival(1, center())),
            (950, 960, 1, Change::Removal),
        ],
    );
    assert_eq!(world.judge().counts.missed, 1, "the late copy of the removal changes nothing");
    world.push_token(&device, 1, 1_000);
    let judged = world.judge();
    assert_eq!(
        (
            judged.counts.missed,
            judged.counts.stale_tokens,
            judged.counts.unwanted,
            judged.counts.duplicates
        ),
        (0, 0, 0, 0)
    );
}

#[test]
fn the_newest_observation_counts_in_whatever_order_they_come() {
    let mut world = World::perfect();
    let device = world.device(0.0..5_000.0);
    world.forget(&device);
    // Out, observed second, overtook in, observed first.
    let (out, back) = (Change::Place(far()), Change::Place(device.place));
    world.tell(&device, &[(100, 110, 9, out), (200, 210, 8, back)]);
    assert_eq!(world.judge().counts.missed, 0);
    world.tell(&device, &[(100, 110, 8, out), (200, 210, 9, back)]);
    assert_eq!(world.judge().counts.missed, 1);
    // At a tie the later record.
    world.tell(&device, &[(100, 110, 8, back), (200, 210, 8, out)]);
    assert_eq!(world.judge().counts.missed, 0);
}

#[test]
fn whoever_comes_in_behind_the_frontier_and_stays_is_owed_and_timed() {
    let mut world = World::perfect();
    let device = world.device(12_000.0..20_000.0);
    // 5 to 10 km is the next band; the wave, which takes a nanosecond for each metre, has told it
    // by 11,000.
    let (arrives, near) = (12_000, center().toward(0.0, 3_000.0));
    world.go(&device, &[(arrives, arrives + 10, near), (arrives + 500, arrives + 510, far())]);
    let judged = world.judge();
    assert_eq!((judged.counts.missed, judged.entered_ns.len()), (1, 0));
    world.push(&device, arrives + 40, TAKEN);
    let judged = world.judge();
    assert_eq!((judged.counts.missed, judged.entered_ns.as_slice()), (0, &[30][..]));
    world.forget(&device);
    // It left before it must have been seen, or came before the frontier had passed: nothing is
    // owed.
    world.go(&device, &[(arrives, arrives + 10, near), (arrives + 90, arrives + 95, far())]);
    assert_eq!(world.judge().counts.missed, 0);
    world.go(&device, &[(1_010, 1_020, near), (1_500, 1_510, far())]);
    assert_eq!(world.judge().counts.missed, 0);
}

#[test]
fn a_device_installed_meanwhile_is_judged_too() {
    let mut world = World::perfect();
    let index = world.population.count();
    let device = world.population.device(index);
    world.history = History::new(
        vec![Delivery {
            device: u32::try_from(index).unwrap(),
            batch: 0,
            observed_us: 1_000,
            change: Change::Arrival(0, center()),
        }],
        vec![Batch { sent_ns: 100, acknowledged_ns: 110 }],
        index + 1,
    );
    assert_eq!(world.judge().counts.missed, 1);
    world.push(&device, 150, TAKEN);
    let judged = world.judge();
    assert_eq!((judged.counts.missed, judged.counts.strangers, judged.counts.unwanted), (0, 0, 0));
}
