//! Devices whose place is too old for a wave get no push, until their phones report a place.

use std::time::Duration;

use clarion_proto::{
    device::{Change, Record},
    ids::{AppName, UnixMillis, partition_of},
    time::Time,
};

use super::{
    gateway::{Gateway, Reply},
    world::{PARTITIONS, SECOND, World, arrival, change, cover, device, home, wave_spec},
};
use crate::{
    command::{Command, CountSpec, WaveSpec},
    lane::rate::Rate,
};

const HOUR: Time = Time(3_600 * SECOND);
const DEVICES: u32 = 600;

/// A world of devices whose places were observed at the same time, and the first later time.
fn world() -> (World, UnixMillis) {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..DEVICES);
    (world, UnixMillis(arrival(0, home(0)).observed.0 + 1))
}

fn start(world: &mut World, place_seen_after: UnixMillis) {
    let position = world.position;
    let spec = WaveSpec { place_seen_after, ..wave_spec(1, HOUR, position) };
    world.tell(Command::Wave(spec.into()));
}

#[test]
fn an_old_place_gets_no_push_and_a_new_one_gets_one() {
    let (mut world, after) = world();
    // Every third device was seen since then.
    let seen = |n: &u32| n.is_multiple_of(3);
    world.apply((0..DEVICES).filter(seen).map(|n| change(n, 1, Change::Place(home(n)))).collect());
    start(&mut world, after);
    world.grant(1, Time::NEVER, Some(Rate { per_second: 100.0, burst: 20.0 }));
    world.run_for(Duration::from_secs(1));
    let told = world.requests_by_device();
    assert!((50..150).contains(&told.len()), "in the middle: {}", told.len());
    // Behind the frontier and ahead of it; some repeatedly, some too old even now.
    let refreshed = |n: &u32| n % 3 == 1;
    for after_ms in [1, 2] {
        let places = (0..DEVICES).filter(refreshed);
        world.apply(places.map(|n| change(n, after_ms, Change::Place(home(n)))).collect());
        world.run_for(Duration::from_millis(500));
    }
    world.apply(
        (0..DEVICES).filter(|n| n % 3 == 2).map(|n| change(n, 0, Change::Place(home(n)))).collect(),
    );
    world.run_for(Duration::from_secs(20));
    let told = world.requests_by_device();
    let reached: Vec<_> = (0..DEVICES).filter(|n| seen(n) || refreshed(n)).collect();
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), reached);
    assert!(told.values().all(|pushes| *pushes == 1));
    assert!(world.last(1).complete);

    // The wave is over its walk; a phone that comes back now is reached, too.
    world.apply(vec![change(2, 3, Change::Place(home(2)))]);
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.requests_by_device().get(&2), Some(&1));
}

#[test]
fn a_wave_for_every_place_asks_for_no_age() {
    let (mut world, _) = world();
    start(&mut world, UnixMillis(0));
    world.grant(1, Time::NEVER, None);
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.requests_by_device().len(), DEVICES as usize);
}

#[test]
fn an_expired_device_gets_no_push_before_the_sweep_comes() {
    let (mut world, after) = world();
    let of_partition = |p| (0..DEVICES).find(|n| partition_of(device(*n), PARTITIONS).0 == p);
    let limit = |n| Record {
        observed: after,
        ..change(n, 0, Change::Expiry(AppName::from_id("demo").expect("a name")))
    };
    world.apply((0..PARTITIONS).filter_map(of_partition).map(limit).collect());
    let Change::Arrival(again, _) = arrival(5, home(5)).change else { unreachable!() };
    world.apply(vec![change(5, 1, Change::Registration(again))]);
    start(&mut world, UnixMillis(0));
    world.grant(1, Time::NEVER, None);
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.requests_by_device().into_iter().collect::<Vec<_>>(), [(5, 1)]);
    assert!(world.last(1).complete && world.said.devices > 500, "the sweep has hardly begun");
}

#[test]
fn a_count_tells_how_many_the_age_leaves_out() {
    let (mut world, after) = world();
    world.apply((0..40).map(|n| change(n, 1, Change::Place(home(n)))).collect());
    world.tell(Command::Count(
        CountSpec {
            id: 5,
            cover: cover(),
            apps: vec![AppName::from_id("demo").expect("a name")],
            segments: Vec::new(),
            place_seen_after: after,
        }
        .into(),
    ));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.said.counted, [vec![vec![14, 13, 13]]]);
    assert_eq!(world.said.left_out_for_age, [u64::from(DEVICES) - 40]);
}
