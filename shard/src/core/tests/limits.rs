//! Bounds that hold whatever the gateway does, and rates that are kept.

use std::time::Duration;

use clarion_proto::{ids::WaveId, outcome::Outcome, time::Time};

use super::{
    gateway::{Gateway, Reply},
    world::{LANE, SECOND, World, arrival, home},
};
use crate::{
    command::Command,
    core::CoreConfig,
    lane::{rate::Rate, retry::ORDINALS_MAX},
};

const HOUR: Time = Time(3_600 * SECOND);

#[test]
fn a_slow_reader_makes_nothing_grow() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..5_000);
    world.start(1, HOUR);
    world.grant(1, Time::NEVER, Some(Rate { per_second: 2_000.0, burst: 100.0 }));
    world.run_for(Duration::from_millis(500));
    world.blocked = true;
    let sent = world.gateway.requests.len();
    for _ in 0..50 {
        world.run_for(Duration::from_millis(100));
        assert!(world.unsent_bytes() <= 2 * (32 + 4) * 1024, "{}", world.unsent_bytes());
    }
    assert!(world.open_slots() <= 200);
    assert_eq!(world.gateway.requests.len(), sent);
    world.blocked = false;
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.totals(1).outcomes[Outcome::Accepted as usize], 5_000);
}

#[test]
fn a_full_retry_line_makes_the_walk_wait() {
    let until = Time(30 * SECOND);
    let gateway = Gateway::new(100, move |request, _| match request.at {
        at if at < until => Reply::Refuse(429, "TooManyRequests"),
        _ => Reply::Accept,
    });
    let cores = 128;
    let mut world =
        World::with_config(gateway, CoreConfig { single: true, cores, seed: 1, hash_seed: 1 }, 2);
    world.populate(0..3_000);
    world.start(1, HOUR);
    world.run(until);
    // One wave alone has half of it, and leaves the other for the next.
    let share = ORDINALS_MAX / cores / 2;
    let open = world.totals(1).open();
    assert!((share as u64..=share as u64 + 200).contains(&open), "{open}");
    assert!(world.open_slots() <= share + 200);
    assert!(!world.last(1).complete);
    world.run_for(Duration::from_secs(120));
    assert_eq!(world.totals(1).outcomes[Outcome::Accepted as usize], 3_000);
    assert!(world.last(1).complete);
    assert!(world.open_slots() <= share + 200);
}

#[test]
fn the_next_alert_begins_beside_one_that_fills_its_part_of_the_line() {
    // Nobody of the first alert is accepted: its devices wait, all that may.
    let gateway = Gateway::new(100, move |request, _| match request.device {
        0..3_000 => Reply::Refuse(429, "TooManyRequests"),
        _ => Reply::Accept,
    });
    let mut world = World::with_config(
        gateway,
        CoreConfig { single: true, cores: 128, seed: 1, hash_seed: 1 },
        2,
    );
    world.populate(0..3_000);
    world.start(1, HOUR);
    world.run(Time(30 * SECOND));
    assert!(world.totals(1).open() < 1_000, "the walk waits");
    world.apply((3_000..3_100).map(|n| arrival(n, home(0))).collect());
    world.start(2, HOUR);
    // Of the second alert's walk the first thousands are those whom nobody accepts, until its own
    // part is full.
    let before = world.totals(2).handed;
    world.run_for(Duration::from_secs(5));
    let handed = world.totals(2).handed - before;
    assert!(handed >= (ORDINALS_MAX / 128 / 3) as u64, "{handed}");
}

#[test]
fn the_next_alert_begins_with_the_reserve_of_the_slice() {
    let mut world = World::new(Gateway::new(1_000, |_, _| Reply::Accept));
    world.latency = Duration::from_millis(10);
    world.populate(0..4_000);
    let rate = Some(Rate { per_second: 1_000.0, burst: 1_000.0 });
    world.tell(Command::Slice { lane: LANE, until: Time::NEVER, rate });
    world.start(1, HOUR);
    world.run_for(Duration::from_millis(2_300));
    let (first, began) = (world.gateway.requests.len(), world.now);
    let second = Duration::from_millis(1_000);
    assert!((1_900..=2_300).contains(&first), "{first}: it loses nothing by it");
    world.start(2, HOUR);
    // The slice may just be collecting for the first, 20 ms, and gives what has come in meanwhile
    // to either.
    world.run_for(Duration::from_millis(25));
    let begun = world.gateway.requests.len() - first;
    assert!(
        (62..=62 + 2 * 20).contains(&begun),
        "a sixteenth of a second at once, and no more: {begun}"
    );
    world.run_for(second);
    let (one, two) = (world.totals(1).handed - first as u64, world.totals(2).handed);
    assert!(two >= one && two - one <= 120, "then both alike: {one} and {two}");
    let in_it =
        world.gateway.requests.iter().filter(|r| r.at >= began && r.at < began + second).count();
    assert!(in_it <= 1_000 + 62 + 2 * 20, "{in_it}");
}

#[test]
fn an_alert_keeps_its_rate() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..3_000);
    world.start(1, HOUR);
    world.grant(1, Time::NEVER, Some(Rate { per_second: 1_000.0, burst: 50.0 }));
    world.run_for(Duration::from_secs(10));
    keeps(&world, 1_000, 50);
}

#[test]
fn a_lane_keeps_its_slice_and_stops_with_it() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..3_000);
    let rate = Some(Rate { per_second: 1_000.0, burst: 50.0 });
    // The slice without a rate, from the world's beginning, ends here.
    world.tell(Command::Slice { lane: LANE, until: Time(2 * SECOND), rate });
    world.start(1, HOUR);
    world.run(Time(5 * SECOND));
    assert!(world.gateway.requests.iter().all(|r| r.at < Time(2 * SECOND)));
    let first = world.gateway.requests.len();
    assert!((900..=1_060).contains(&first), "{first}");
    world.tell(Command::Slice { lane: LANE, until: Time::NEVER, rate });
    world.run_for(Duration::from_secs(10));
    keeps(&world, 1_000, 50);
}

/// Checks that every device was pushed to once, that no second had more than a second's worth and a
/// burst, and that the wave was not slower than its rate.
fn keeps(world: &World, per_second: usize, burst: usize) {
    let times: Vec<_> = world.gateway.requests.iter().map(|r| r.at).collect();
    assert_eq!(times.len(), 3_000);
    for window in times.windows(per_second + burst + 2) {
        assert!(window[per_second + burst + 1].since(window[0]) > Duration::from_secs(1));
    }
    let busy = times[2_999].since(times[0]);
    assert!(busy < Duration::from_millis(6_100), "{busy:?}");
}

#[test]
fn two_waves_share_a_lane_by_runs() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..3_000);
    world.tell(Command::Slice {
        lane: LANE,
        until: Time::NEVER,
        rate: Some(Rate { per_second: 2_000.0, burst: 20.0 }),
    });
    world.start(1, HOUR);
    world.run_for(Duration::from_millis(100));
    let head_start = world.totals(1).handed;
    world.start(2, HOUR);
    world.run_for(Duration::from_secs(1));
    let (one, two) = (world.totals(1).handed - head_start, world.totals(2).handed);
    assert!(one + two >= 1_900);
    assert!(one.abs_diff(two) <= 100, "{one} {two}");
    world.run_for(Duration::from_secs(10));
    assert_eq!((world.totals(1).handed, world.totals(2).handed), (3_000, 3_000));
    assert!(world.requests_by_device().values().all(|n| *n == 2));
}

#[test]
fn nothing_goes_out_without_a_grant() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.populate(0..3_000);
    world.start(1, HOUR);
    let until = world.now + Duration::from_millis(500);
    world.grant(1, until, Some(Rate { per_second: 2_000.0, burst: 20.0 }));
    world.run_for(Duration::from_secs(3));
    let sent = world.gateway.requests.len();
    assert!((900..=1_040).contains(&sent), "{sent}");
    assert!(world.gateway.requests.iter().all(|r| r.at < until));
    world.grant(1, Time::NEVER, None);
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.requests_by_device().len(), 3_000);
    assert!(world.said.bands.contains_key(&WaveId(1)));
}

#[test]
fn a_write_carries_many() {
    let mut world = World::new(Gateway::new(1_000, |_, _| Reply::Accept));
    world.populate(0..5_000);
    world.start(1, HOUR);
    world.run_for(Duration::from_secs(2));
    // A write is what one turn gave to one connection: all requests with the same time and
    // connection are at most that.
    let mut writes: Vec<_> = world.gateway.requests.iter().map(|r| (r.connection, r.at)).collect();
    writes.dedup();
    assert_eq!(world.requests_by_device().len(), 5_000);
    assert!(world.gateway.requests.len() / writes.len() >= 20, "{} writes", writes.len());
}
