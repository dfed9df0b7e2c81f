//! Whole waves: every device inside is pushed to once, in order, and counted where it is; also
//! while devices move.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clarion_proto::{
    device::Change,
    ids::{AppName, UnixMillis, WaveId},
    outcome::Outcome,
    time::Time,
};

use super::{
    gateway::{Gateway, Reply},
    world::{LANE, World, arrival, change, cover, far_away, home, outcomes},
};
use crate::command::{Command, CountSpec};

const HOUR: Time = Time(3_600_000_000);

#[test]
fn everybody_inside_once_and_counted_where_they_are() {
    let mut world = World::new(Gateway::new(100, |request, _| match request.device % 10 {
        7 => Reply::Refuse(410, "Unregistered"),
        8 => Reply::Refuse(400, "BadDeviceToken"),
        _ => Reply::Accept,
    }));
    world.populate(0..3_000);
    world.apply((3_000..3_100).map(|n| arrival(n, far_away())).collect());
    world.start(1, HOUR);
    world.run_for(Duration::from_secs(10));

    let requests = world.requests_by_device();
    assert_eq!(requests.len(), 3_000);
    assert!(requests.iter().all(|(device, tries)| *device < 3_000 && *tries == 1));
    let totals = world.totals(1);
    assert_eq!(totals.handed, 3_000);
    assert_eq!(totals.outcomes.iter().sum::<u64>(), 3_000);
    assert_eq!(totals.outcomes[Outcome::Accepted as usize], 2_400);
    let bands = &world.said.bands[&WaveId(1)];
    assert_eq!(bands.values().map(|c| c.handed).collect::<Vec<_>>(), [1_000, 1_000, 1_000]);
    let cells: u64 = world.said.cells.values().map(|c| c.handed).sum();
    assert_eq!(cells, 3_000);
    assert_eq!(world.said.handed.values().map(|s| s.len()).sum::<u64>(), 3_000);
    let last = world.last(1);
    assert!(last.complete && !last.ended && last.bands_walked == [(LANE, 3)]);
    assert!(last.open.iter().all(|(_, set)| set.is_empty()));
    let dead: usize = world.said.reports.iter().map(|r| r.dead.len()).sum();
    assert_eq!(dead as u64, totals.outcomes[Outcome::Dead as usize]);
    assert!(dead >= 300);

    world.tell(Command::End(WaveId(1)));
    world.run_for(Duration::from_secs(1));
    assert!(world.last(1).ended);
    assert!(world.core.waves.iter().all(Option::is_none));
}

#[test]
fn nearest_band_first_and_the_message_of_ones_language() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..900);
    world.start(1, HOUR);
    world.run_for(Duration::from_secs(10));
    let bands: Vec<u32> = world.gateway.requests.iter().map(|r| r.device % 3).collect();
    // Several connections: a request of the next band may overtake those of the former that are in
    // the same turn.
    let first_far = bands.iter().position(|b| *b == 2).unwrap();
    let last_near = bands.iter().rposition(|b| *b == 0).unwrap();
    assert!(last_near < first_far, "{last_near} {first_far}");
    for request in &world.gateway.requests {
        let chinese = request.body.windows(3).any(|w| w == "失".as_bytes());
        assert_eq!(chinese, request.device % 5 == 0);
    }
}

#[test]
fn the_first_push_finds_a_warm_connection() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..30);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.attempts.len(), 1, "one is warm before there is work");
    let started = world.now;
    world.start(1, HOUR);
    world.step();
    assert_eq!(world.gateway.requests[0].at, started);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.attempts.len(), 2, "the others when there is");
    let last = world.gateway.requests.iter().map(|r| r.at).max().unwrap();
    assert!(last.since(started) <= Duration::from_millis(10), "{:?}", last.since(started));
}

#[test]
fn a_wave_waits_for_what_was_acknowledged_before_it() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..30);
    world.tell(Command::Wave(Arc::new(super::world::wave_spec(1, HOUR, 2))));
    world.grant(1, Time::NEVER, None);
    world.run_for(Duration::from_secs(1));
    assert!(world.gateway.requests.is_empty());
    world.populate(30..60);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.requests_by_device().len(), 60);
}

#[test]
fn other_cores_are_waited_for_at_each_band() {
    let mut world = World::with(Gateway::new(100, |_, _| Reply::Accept), false, 2);
    world.populate(0..300);
    world.start(1, HOUR);
    for band in 1..=3 {
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.requests_by_device().len(), 100 * band as usize);
        assert_eq!(world.last(1).bands_walked, [(LANE, band)]);
        world.tell(Command::OpenBands { wave: WaveId(1), lane: LANE, bands: band + 1 });
    }
    assert!(world.last(1).complete);
}

#[test]
fn a_band_with_nobody_in_it_is_reported_as_walked() {
    // Other cores wait for the news, though nothing happened here that would make a report by
    // itself.
    let mut world = World::with(Gateway::new(100, |_, _| Reply::Accept), false, 2);
    world.populate(0..1);
    world.start(1, HOUR);
    for band in 1..=3 {
        world.run_for(Duration::from_secs(1));
        assert_eq!(
            (world.requests_by_device().len(), &world.last(1).bands_walked),
            (1, &vec![(LANE, band)])
        );
        assert_eq!(world.last(1).complete, band == 3);
        world.tell(Command::OpenBands { wave: WaveId(1), lane: LANE, bands: band + 1 });
    }
}

#[test]
fn who_moves_is_pushed_once_wherever_they_were() {
    // Slowly, so that the feed moves people across the frontier while it passes.
    let mut world = World::new(Gateway::new(4, |_, _| Reply::Accept));
    world.populate(0..600);
    world.start(1, HOUR);
    world.grant(1, Time::NEVER, Some(crate::lane::rate::Rate { per_second: 500.0, burst: 10.0 }));
    for round in 1..=12u32 {
        world.run_for(Duration::from_millis(100));
        // Everybody moves to another band, to and fro; all are inside at the start and at the end.
        let moved = (0..600).filter(|n| n % 12 == round % 12);
        world.apply(
            moved.map(|n| change(n, u64::from(round), Change::Place(home(n + round)))).collect(),
        );
    }
    // New ones appear behind the frontier, and some leave for good before it.
    world.apply((600..650).map(|n| arrival(n, home(3 * n))).collect());
    world.run_for(Duration::from_secs(10));
    let requests = world.requests_by_device();
    assert_eq!(requests.len(), 650);
    assert!(requests.values().all(|n| *n == 1));
    assert_eq!(world.totals(1).handed, 650);
    assert!(world.last(1).complete);
}

#[test]
fn whoever_comes_in_behind_the_frontier_waits_for_no_partition() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..3_000);
    world.start(1, HOUR);
    world.grant(1, Time::NEVER, Some(crate::lane::rate::Rate { per_second: 500.0, burst: 50.0 }));
    // The second band, a thousand devices of four partitions, one after the other.
    world.run_for(Duration::from_millis(2_200));
    assert!(world.requests_by_device().keys().any(|n| n % 3 == 1));
    let late = 3_000..3_040;
    world.apply(late.clone().map(|n| arrival(n, home(3 * n))).collect());
    world.run_for(Duration::from_millis(150));
    // 40 at 500 a second; the partitions' turn in the band would be up to two seconds away.
    let told = world.requests_by_device();
    assert_eq!(late.clone().filter(|n| told.contains_key(n)).count(), late.len());
    assert!(told.len() < 1_500, "{}", told.len());
}

#[test]
fn counting_hands_nobody_over() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..299);
    let apps = vec![AppName::from_id("other").unwrap(), AppName::from_id("demo").unwrap()];
    world.tell(Command::Count(Arc::new(CountSpec {
        id: 5,
        cover: cover(),
        apps,
        segments: Vec::new(),
        place_seen_after: UnixMillis(0),
    })));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.said.counted, [vec![vec![0, 0, 0], vec![100, 100, 99]]]);
    assert!(world.gateway.requests.is_empty());
    assert_eq!(world.said.devices, 299);
}

#[test]
fn a_new_session_is_told_everything() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..300);
    world.start(1, HOUR);
    world.run_for(Duration::from_secs(2));
    let before = world.totals(1);
    let cells: BTreeMap<_, _> = std::mem::take(&mut world.said.cells);
    let handed = std::mem::take(&mut world.said.handed);
    world.said.bands.clear();
    world.tell(Command::ReportAll);
    world.run_for(Duration::from_secs(1));
    assert_eq!(outcomes(&world.totals(1)), outcomes(&before));
    assert_eq!(world.said.cells, cells);
    assert_eq!(world.said.handed, handed);
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let story = || {
        let mut world =
            World::new(Gateway::new(50, |request, tries| match (request.device % 7, tries) {
                (1, 1..=2) => Reply::Refuse(429, "TooManyRequests"),
                (2, 1) => Reply::Refuse(503, "ServiceUnavailable"),
                (3, 1) => Reply::NotProcessed,
                _ => Reply::Accept,
            }));
        world.populate(0..500);
        world.start(1, HOUR);
        world.run_for(Duration::from_secs(60));
        assert_eq!(world.totals(1).outcomes[Outcome::Accepted as usize], 500);
        (world.transcript, world.gateway.requests, world.said.reports.len())
    };
    assert!(story() == story());
}
