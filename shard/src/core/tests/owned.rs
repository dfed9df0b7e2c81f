//! Partitions that are rebuilt, restored, leave or come back in the middle of a wave: no device is
//! missed or pushed to twice, and the wave is complete only when all of them are.

use std::{sync::Arc, time::Duration};

use clarion_proto::{
    device::Change,
    ids::{LogId, PartitionId, Position, partition_of},
    outcome::Outcome,
    time::Time,
};

use proptest::prelude::*;
use tokio::sync::mpsc;

use super::{
    gateway::{Gateway, Reply},
    world::{LANE, PARTITIONS, STARTED, World, change, device, wave_spec},
};
use crate::{
    command::{Command, Owns, RestorePiece, SnapshotPart, WaveSpec},
    lane::rate::Rate,
};

const HOUR: Time = Time(3_600_000_000);
const DEVICES: u32 = 5_000;
const SLOWLY: Option<Rate> = Some(Rate { per_second: 1_000.0, burst: 100.0 });

/// Creates a wave that has pushed to about a thousand of 5,000 devices.
fn in_the_middle(gateway: Gateway) -> World {
    let mut world = World::new(gateway);
    world.populate(0..DEVICES);
    world.start(1, HOUR);
    world.grant(1, Time::NEVER, SLOWLY);
    world.run_for(Duration::from_secs(1));
    assert!((400..1_300).contains(&world.requests_by_device().len()));
    world
}

fn all() -> Vec<PartitionId> {
    (0..PARTITIONS).map(PartitionId).collect()
}

/// Rebuilds every partition from the beginning of the log, which has one batch again.
fn rebuild(world: &mut World) {
    world.tell(Command::Rebuild(all()));
    world.position = 0;
}

/// Writes a snapshot of a partition, at once.
fn saved(world: &mut World, partition: u16) -> Vec<u8> {
    let (sink, mut parts) = mpsc::channel(1);
    world.tell(Command::Save { partition: PartitionId(partition), sink });
    let (mut bytes, mut ended) = (Vec::new(), false);
    for _ in 0..10_000 {
        world.run_for(Duration::from_millis(1));
        while let Ok(part) = parts.try_recv() {
            match part {
                SnapshotPart::Begin(_) => bytes.clear(),
                SnapshotPart::Data(data) => bytes.extend_from_slice(&data),
                SnapshotPart::End => ended = true,
            }
        }
        if ended {
            return bytes;
        }
    }
    panic!("no snapshot was written")
}

/// Restores a partition from a snapshot, in pieces.
fn restore(world: &mut World, partition: u16, load: u64, bytes: &[u8]) {
    let data = bytes.chunks(1_000).map(|piece| RestorePiece::Data(piece.to_vec().into()));
    for piece in [RestorePiece::Begin].into_iter().chain(data).chain([RestorePiece::End]) {
        let partition = PartitionId(partition);
        world.tell(Command::Restore { partition, load, piece });
        while !world.core.feed_ready() {
            world.step();
        }
    }
}

fn is_in(device_number: u32, partition: u16) -> bool {
    partition_of(device(device_number), PARTITIONS) == PartitionId(partition)
}

fn everybody_once(world: &World) {
    let requests = world.requests_by_device();
    assert!(requests.values().all(|n| *n == 1), "pushed twice");
    assert_eq!(requests.len(), DEVICES as usize);
}

#[test]
fn a_wave_over_rebuilt_partitions_walks_them_again_before_it_is_complete() {
    let mut world = in_the_middle(Gateway::new(100, |_, _| Reply::Accept));
    rebuild(&mut world);
    let before = world.requests_by_device().len();
    world.run_for(Duration::from_secs(2));
    let last = world.last(1);
    assert!(!last.complete && last.bands_walked == [(LANE, 0)], "{last:?}");
    assert_eq!(world.requests_by_device().len(), before, "nobody is there yet");
    world.populate(0..DEVICES);
    world.run_for(Duration::from_secs(30));
    everybody_once(&world);
    assert!(world.last(1).complete);
    assert_eq!(world.totals(1).handed, u64::from(DEVICES));
}

#[test]
fn a_restored_partition_is_not_walked_in_an_older_state_than_before() {
    let mut world = in_the_middle(Gateway::new(100, |_, _| Reply::Accept));
    let older: Vec<_> = (0..PARTITIONS).map(|p| saved(&mut world, p)).collect();
    // The last hundred leave: position 2.
    let gone = DEVICES - 100..DEVICES;
    let removed: Vec<_> = gone.clone().map(|n| change(n, 1, Change::Removal)).collect();
    world.apply(removed.clone());
    let told = world.requests_by_device();
    for (load, (partition, snapshot)) in (1..).zip((0..).zip(&older)) {
        restore(&mut world, partition, load, snapshot);
    }
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.requests_by_device(), told, "position 1 of 2: the removals are to come");
    world.position = 1;
    world.apply(removed);
    world.run_for(Duration::from_secs(30));
    let requests = world.requests_by_device();
    for n in gone {
        assert_eq!(requests.get(&n), told.get(&n), "pushed after it was removed");
    }
    assert!(world.last(1).complete);
}

#[test]
fn a_restored_partition_takes_no_batch_before_the_feed_follows_it() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..DEVICES);
    let snapshot = saved(&mut world, 1);
    restore(&mut world, 1, 1, &snapshot);
    world.tell(Command::Rebuild(vec![PartitionId(2)]));
    // The feed follows the other two.
    world.tell(Command::Apply {
        log: LogId(0),
        position: Position(2),
        appended: STARTED,
        partitions: vec![PartitionId(0), PartitionId(3)],
        records: Vec::new(),
    });
    world.run_for(Duration::from_millis(100));
    let position = |p| world.core.held_partition(PartitionId(p)).and_then(|(.., at)| at);
    assert_eq!([0, 1, 2, 3].map(position), [2, 1, 0, 2].map(|at| Some(Position(at))));
}

#[test]
fn those_that_wait_for_another_try_wait_until_their_partition_is_built() {
    let mut world = in_the_middle(Gateway::new(100, |request, tries| match tries {
        1 if request.device % 4 == 0 => Reply::Refuse(429, "TooManyRequests"),
        _ => Reply::Accept,
    }));
    rebuild(&mut world);
    world.run_for(Duration::from_secs(5));
    world.populate(0..DEVICES);
    world.run_for(Duration::from_mins(2));
    let totals = world.totals(1);
    assert_eq!((totals.handed, totals.outcomes[Outcome::Accepted as usize]), (5_000, 5_000));
    assert!(world.last(1).complete);
}

#[test]
fn a_dropped_partition_keeps_the_wave_from_being_complete_until_a_plan_without_it() {
    let mut world = in_the_middle(Gateway::new(100, |_, _| Reply::Accept));
    let kept: Vec<_> = all().into_iter().filter(|p| p.0 != 1).collect();
    world.tell(Command::Own(kept.into()));
    world.run_for(Duration::from_secs(30));
    let last = world.last(1);
    assert!(!last.complete && last.bands_walked == [(LANE, 3)], "{last:?}");
    let mut spec = wave_spec(1, HOUR, 1);
    spec.shards.remove(1);
    world.tell(Command::Wave(Arc::new(WaveSpec { plan: 1, ..spec })));
    world.run_for(Duration::from_secs(1));
    assert!(world.last(1).complete && world.last(1).plan == 1);
}

#[test]
fn a_partition_that_comes_back_is_walked_from_the_start_without_those_it_had() {
    let mut world = in_the_middle(Gateway::new(100, |_, _| Reply::Accept));
    let kept: Vec<_> = all().into_iter().filter(|p| p.0 != 1).collect();
    world.tell(Command::Own(kept.into()));
    world.run_for(Duration::from_millis(100));
    let farewell: Vec<_> = world.said.reports.iter().flat_map(|r| r.let_go.clone()).collect();
    let [(PartitionId(1), handed)] = &farewell[..] else { panic!("{farewell:?}") };
    let pushed = world.requests_by_device();
    assert!(handed.len() > 100);
    assert_eq!(handed.len(), pushed.keys().filter(|n| is_in(**n, 1)).count() as u64);

    let awaited = vec![PartitionId(1)];
    world.tell(Command::Own(Owns { awaited: awaited.clone(), ..all().into() }));
    let elsewhere = wave_spec(1, HOUR, 1);
    world.tell(Command::Wave(Arc::new(WaveSpec { plan: 1, ..elsewhere })));
    world.run_for(Duration::from_secs(30));
    assert!(!world.last(1).complete, "its content is still to come");
    world.tell(Command::Rebuild(awaited));
    world.position = 0;
    world.populate(0..DEVICES);
    world.run_for(Duration::from_secs(30));
    everybody_once(&world);
    assert!(world.last(1).complete);
}

#[test]
fn those_that_wait_for_another_try_in_a_dropped_partition_are_given_back() {
    let mut world = in_the_middle(Gateway::new(100, |request, tries| match tries {
        1..=3 if request.device % 4 == 0 => Reply::Refuse(429, "TooManyRequests"),
        _ => Reply::Accept,
    }));
    let requests: Vec<_> = world.gateway.requests.iter().map(|r| r.device).collect();
    let kept: Vec<_> = all().into_iter().filter(|p| p.0 != 1).collect();
    world.tell(Command::Own(kept.into()));
    world.run_for(Duration::from_secs(1));
    let farewell: Vec<_> = world.said.reports.iter().flat_map(|r| r.let_go.clone()).collect();
    let [(PartitionId(1), handed)] = &farewell[..] else { panic!("{farewell:?}") };
    let mut tries = std::collections::BTreeMap::<u32, u32>::new();
    requests.iter().filter(|n| is_in(**n, 1)).for_each(|n| *tries.entry(*n).or_default() += 1);
    let accepted = tries.iter().filter(|(n, tries)| **n % 4 != 0 || **tries == 4).count() as u64;
    assert!(handed.len() < tries.len() as u64, "some are given back");
    assert_eq!(handed.len(), accepted, "those that were accepted are not");
    assert!(world.last(1).open.iter().all(|(p, set)| p.0 != 1 || set.is_empty()));
}

/// Event for the partitions during the wave.
#[derive(Debug, Clone)]
enum Turn {
    /// All held partitions are rebuilt.
    Rebuilt,
    /// These partitions are restored from snapshots, if they are held.
    Restored(Vec<u16>),
    /// Only these partitions are held and planned from now on; those that come back are restored.
    Held(Vec<u16>),
}

fn turns() -> impl Strategy<Value = Vec<(u64, Turn)>> {
    let lists = prop::sample::subsequence((0..PARTITIONS).collect::<Vec<_>>(), 0..=4);
    let turn = prop_oneof![
        Just(Turn::Rebuilt),
        lists.clone().prop_map(Turn::Restored),
        lists.prop_map(Turn::Held)
    ];
    prop::collection::vec((20..900_u64, turn), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// With any events of the partitions at any time, no device is pushed to twice or missed, and
    /// the wave is complete when every device has been pushed to, not before.
    #[test]
    fn everybody_is_pushed_once_whatever_becomes_of_the_partitions(turns in turns()) {
        let devices = 800;
        let mut world = World::new(Gateway::new(50, |_, _| Reply::Accept));
        world.populate(0..devices);
        let snapshots: Vec<_> = (0..PARTITIONS).map(|p| saved(&mut world, p)).collect();
        world.start(1, HOUR);
        world.grant(1, Time::NEVER, SLOWLY);
        let mut held: Vec<u16> = (0..PARTITIONS).collect();
        let ids = |list: &[u16]| list.iter().copied().map(PartitionId).collect::<Vec<_>>();
        let last = (100, Turn::Held(held.clone()));
        let mut load = 0;
        for (plan, (time, turn)) in turns.into_iter().chain([last]).enumerate() {
            world.run_for(Duration::from_millis(time));
            let whole = world.requests_by_device().len() == devices as usize;
            let current = held.len() == 4 && world.last(1).plan == plan as u64;
            prop_assert!(whole || !current || !world.last(1).complete);
            let (next, restored) = match turn {
                Turn::Rebuilt => (held.clone(), Vec::new()),
                Turn::Restored(list) => {
                    (held.clone(), list.into_iter().filter(|p| held.contains(p)).collect())
                }
                Turn::Held(list) => {
                    let gained = list.iter().copied().filter(|p| !held.contains(p)).collect();
                    (list, gained)
                }
            };
            let rebuilt = if next == held && restored.is_empty() { held.clone() } else { Vec::new() };
            let gained = next.iter().copied().filter(|p| !held.contains(p)).collect::<Vec<_>>();
            let awaited = ids(&gained);
            world.tell(Command::Own(Owns { awaited, ..ids(&next).into() }));
            let mut spec = WaveSpec { plan: plan as u64 + 1, ..wave_spec(1, HOUR, 1) };
            spec.shards.retain(|shard| next.contains(&shard.partition.0));
            world.tell(Command::Wave(Arc::new(spec)));
            world.tell(Command::Rebuild(ids(&rebuilt)));
            for partition in restored {
                load += 1;
                restore(&mut world, partition, load, &snapshots[usize::from(partition)]);
            }
            if !rebuilt.is_empty() {
                world.position = 0;
                world.populate(0..devices);
            }
            held = next;
        }
        world.run_for(Duration::from_secs(30));
        let requests = world.requests_by_device();
        prop_assert!(requests.values().all(|n| *n == 1), "pushed twice");
        prop_assert_eq!(requests.len(), devices as usize);
        prop_assert!(world.last(1).complete);
    }
}
