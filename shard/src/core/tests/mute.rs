//! Gateways that can be reached and accept no request: the reason is reported, and the lane
//! recovers soon after the gateway.

use std::time::Duration;

use clarion_proto::{outcome::Outcome, time::Time};

use super::{
    gateway::{Gateway, Reply},
    world::{SECOND, World},
};
use crate::{
    lane::{health::LaneHealth, pool::BUSY_PAUSE_MAX, rate::Rate},
    outcome::Platform,
};

const HOUR: Time = Time(3_600 * SECOND);
const MAX_CONCURRENT_STREAMS: u16 = 3;
const MAX_HEADER_LIST_SIZE: u16 = 6;
/// Longest time until the lane is back: the longest pause with a tenth on top, and the duration of
/// a turn.
const BACK: Duration = BUSY_PAUSE_MAX.saturating_add(Duration::from_millis(600));

fn accepted(world: &World) -> u64 {
    world.totals(1).outcomes[Outcome::Accepted as usize]
}

/// Creates a wave in progress with 500 pushes per second.
fn world(gateway: Gateway, devices: u32, connections: usize) -> World {
    let mut world = World::with(gateway, true, connections);
    world.latency = Duration::from_millis(10);
    world.populate(0..devices);
    world.start(1, HOUR);
    world.grant(1, Time::NEVER, Some(Rate { per_second: 500.0, burst: 20.0 }));
    world.run_for(Duration::from_secs(2));
    world
}

/// Sends useless SETTINGS for two minutes and checks the reported reason.
fn settings(bad: (u16, u32), good: (u16, u32), words: &str) {
    let mut world = world(Gateway::new(100, |_, _| Reply::Accept), 3_000, 2);
    world.gateway.settings = vec![bad];
    world.gateway.say_settings(&[bad]);
    let (began, attempts) = (world.now, world.attempts.len());
    world.run_for(Duration::from_secs(25));
    // One deadline after the last answer at the latest.
    let told = world.said.health.iter().zip(&world.said.details).skip(1).collect::<Vec<_>>();
    let last = told.last().expect("told");
    assert!(*last.0 == LaneHealth::Unreachable && last.1.contains(words), "{told:?}");
    let news = world.said.health.len();
    world.run_for(Duration::from_secs(95));
    assert_eq!(world.said.health.len(), news, "told once: {:?}", world.said.details);
    assert!(world.attempts.len() - attempts <= 2 * 32, "{}", world.attempts.len() - attempts);
    assert!(world.attempts.len() - attempts >= 120 / 16, "it goes on trying");
    world.attempts_are_bounded(2);
    // One on each connection, before its SETTINGS came, and what was on its way.
    let during = world.gateway.requests.iter().filter(|r| r.at > began).count();
    assert!(during <= world.attempts.len() - attempts + 20, "{during}");

    world.gateway.settings.clear();
    world.gateway.say_settings(&[good]);
    let sane = world.now;
    world.run_for(BACK);
    let first =
        world.gateway.requests.iter().map(|r| r.at).find(|at| *at >= sane).unwrap_or(Time::NEVER);
    assert!(first.since(sane) <= BACK, "{:?}", first.since(sane));
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.said.health.last(), Some(&LaneHealth::Ready));
    assert_eq!(accepted(&world), 3_000);
    assert!(world.requests_by_device().values().all(|n| *n == 1));
}

#[test]
fn no_stream_for_ever() {
    settings(
        (MAX_CONCURRENT_STREAMS, 0),
        (MAX_CONCURRENT_STREAMS, 100),
        "SETTINGS_MAX_CONCURRENT_STREAMS 0",
    );
}

#[test]
fn header_lists_smaller_than_a_push() {
    settings(
        (MAX_HEADER_LIST_SIZE, 300),
        (MAX_HEADER_LIST_SIZE, 8_000),
        "SETTINGS_MAX_HEADER_LIST_SIZE 300",
    );
}

#[test]
fn no_window_for_ever() {
    // 65,535 bytes of bodies with 32 bytes each, and no more: on each connection, of which there is
    // one.
    let mut gateway = Gateway::new(100, |_, _| Reply::Accept);
    gateway.credits = false;
    let mut world = world(gateway, 7_000, 1);
    world.run_for(Duration::from_secs(120));
    assert_eq!(accepted(&world), 7_000, "another connection has another window");
    assert!(world.attempts.len() >= 4, "{}", world.attempts.len());
    assert!(
        world.said.details.iter().any(|words| words.contains("no flow-control window")),
        "{:?}",
        world.said.details
    );
    // The last request of each connection was cut in two and had to run into its deadline.
    assert!(world.last(1).unanswered_requests <= 6, "{}", world.last(1).unanswered_requests);
}

/// One of two connections sends PINGs all the time and answers no request: another one replaces it.
#[test]
fn a_connection_that_talks_and_never_answers() {
    let mut dead = None;
    let gateway =
        Gateway::new(100, move |request, _| match *dead.get_or_insert(request.connection) {
            dead if dead == request.connection && request.at > Time(2 * SECOND) => Reply::Silence,
            _ => Reply::Accept,
        });
    let mut world = world(gateway, 5_000, 2);
    world.grant(1, Time::NEVER, Some(Rate { per_second: 100.0, burst: 20.0 }));
    let attempts = world.attempts.len();
    for _ in 0..60 {
        world.run_for(Duration::from_millis(500));
        world.gateway.ping();
    }
    assert_eq!(world.attempts.len(), attempts + 1, "it was replaced, once");
    let first = world.gateway.requests[0].connection;
    let last = world.gateway.requests.iter().rfind(|r| r.connection == first).unwrap().at;
    assert!(last < Time(24 * SECOND), "two deadlines, and no more: {last:?}");
    assert!(
        world.said.health.iter().all(|health| *health == LaneHealth::Ready),
        "the other was well all the time"
    );
    world.run_for(Duration::from_secs(60));
    assert_eq!(accepted(&world), 5_000);
}

#[test]
fn a_lane_without_anybody_to_push_to_gives_up_nothing() {
    let mut gateway = Gateway::new(100, |_, _| Reply::Accept);
    gateway.settings = vec![(MAX_CONCURRENT_STREAMS, 0)];
    let mut world = World::new(gateway);
    world.run_for(Duration::from_mins(10));
    assert_eq!(world.attempts.len(), 1);
    assert_eq!(world.requests_of(Platform::Apns).len(), 0);
}
