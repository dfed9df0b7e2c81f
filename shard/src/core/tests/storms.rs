//! Gateways that close or refuse all connections: the core does not reconnect in a tight loop, and
//! the lane recovers within seconds after the gateway.

use std::time::Duration;

use clarion_proto::{outcome::Outcome, time::Time};

use super::{
    gateway::{Gateway, Reply},
    world::{SECOND, World},
};
use crate::lane::{
    health::LaneHealth,
    pool::{BUSY_PAUSE_MAX, LATE_AFTER},
    rate::Rate,
};

const HOUR: Time = Time(3_600 * SECOND);
const CONNECTIONS: usize = 4;
const MS: Duration = Duration::from_millis(1);
/// Longest time from the gateway's recovery to the first push: the longest pause with a tenth on
/// top, handshakes, and the round trip.
const BACK: Duration = BUSY_PAUSE_MAX.saturating_add(Duration::from_millis(1_000));
/// Longest time after that until all connections are established: each useful one makes room for
/// another.
const WHOLE: Duration = Duration::from_secs(3);

/// Creates a wave of 200 pushes per second, over connections that take 60 ms to establish and 20 ms
/// to answer.
fn world() -> World {
    let mut world = World::with(Gateway::new(100, |_, _| Reply::Accept), true, CONNECTIONS);
    (world.handshake, world.latency) = (60 * MS, 20 * MS);
    world.populate(0..6_000);
    world.start(1, HOUR);
    world.grant(1, Time::NEVER, Some(Rate { per_second: 200.0, burst: 20.0 }));
    world.run_for(1_000 * MS);
    assert_eq!(world.gateway.connections().len(), CONNECTIONS);
    world
}

/// Lets the gateway recover, and checks that the lane follows.
fn comes_back(world: &mut World, storm: &str) {
    comes_back_within(world, BACK, storm);
}

fn comes_back_within(world: &mut World, back: Duration, storm: &str) {
    let (end, attempts) = (world.now, world.attempts.len());
    world.run_for(back + WHOLE);
    let first =
        world.gateway.requests.iter().map(|r| r.at).find(|at| *at >= end).unwrap_or(Time::NEVER);
    assert!(first.since(end) <= back, "{storm}: back after {:?}", first.since(end));
    let since = world.attempts.len() - attempts;
    assert_eq!(world.gateway.connections().len(), CONNECTIONS, "{storm}: {since} attempts since");
    let before = world.gateway.requests.len();
    world.run_for(1_000 * MS);
    let rate = world.gateway.requests.len() - before;
    assert!((190..=210).contains(&rate), "{storm}: {rate} a second");
    assert_eq!(world.said.health.last(), Some(&LaneHealth::Ready), "{storm}");
    world.attempts_are_bounded(CONNECTIONS);
    assert!(world.requests_by_device().values().all(|n| *n <= 2), "{storm}");
}

/// Repeats an event every 300 ms for 2.5 s.
fn again_and_again(world: &mut World, mut what: impl FnMut(&mut World)) {
    for _ in 0..9 {
        world.run_for(300 * MS);
        what(world);
    }
}

#[test]
fn after_goaways_in_order_and_out_of_order() {
    for (code, words) in
        [(0, ""), (0, "{\"reason\":\"Shutdown\"}"), (11, "too_many_pings"), (7, "")]
    {
        let mut world = world();
        again_and_again(&mut world, |world| {
            for id in world.gateway.connections() {
                world.gateway.go_away_saying(id, 0x7fff_ffff, code, words);
            }
        });
        comes_back(&mut world, &format!("GOAWAY {code} {words}"));
        assert!(world.requests_by_device().values().all(|n| *n == 1), "what was out was answered");
    }
}

#[test]
fn after_resets() {
    let mut world = world();
    again_and_again(&mut world, World::break_connections);
    comes_back(&mut world, "resets");
}

#[test]
fn after_a_minute_and_ten_of_refusing_everybody() {
    for seconds in [60, 600] {
        let mut world = world();
        world.refusing = true;
        world.break_connections();
        let attempts = world.attempts.len();
        world.run_for(Duration::from_secs(seconds));
        let tries = world.attempts.len() - attempts;
        assert!(tries as u64 >= seconds / 5, "it goes on trying: {tries}");
        world.refusing = false;
        comes_back(&mut world, "refused");
        assert!(
            world.said.details.contains(&"no connection: refused".to_owned()),
            "{:?}",
            world.said.details
        );
    }
}

#[test]
fn after_no_answer_to_the_handshake() {
    for seconds in [7, 60] {
        let mut world = world();
        world.unreachable = true;
        world.break_connections();
        world.run_for(Duration::from_secs(seconds));
        world.unreachable = false;
        comes_back(&mut world, "black hole");
    }
}

#[test]
fn after_handshakes_that_take_too_long() {
    for takes in [3, 20] {
        let mut world = world();
        world.handshake = Duration::from_secs(takes);
        world.break_connections();
        world.run_for(Duration::from_secs(12));
        if takes == 3 {
            assert!(
                world.gateway.connections().len() == CONNECTIONS,
                "slow, and they come to stand all the same"
            );
        }
        world.handshake = 60 * MS;
        // The last of the slow ones has to be late first.
        comes_back_within(&mut world, BACK + LATE_AFTER, "slow handshakes");
    }
}

#[test]
fn an_alert_does_not_wait_for_the_pause_of_an_idle_lane() {
    let mut world = World::with(Gateway::new(100, |_, _| Reply::Accept), true, CONNECTIONS);
    world.refusing = true;
    world.populate(0..1_000);
    world.run_for(Duration::from_mins(20));
    let idle = world.attempts.len();
    assert!((40..150).contains(&idle), "half a minute apart at most, a quarter on average: {idle}");
    world.refusing = false;
    let began = world.now;
    world.start(1, HOUR);
    world.run_for(BACK);
    let first = world.gateway.requests.iter().map(|r| r.at).min().unwrap_or(Time::NEVER);
    assert!(first.since(began) <= BACK, "{:?}", first.since(began));
    world.run_for(WHOLE);
    assert_eq!(world.totals(1).outcomes[Outcome::Accepted as usize], 1_000);
}
