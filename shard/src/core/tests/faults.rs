//! Gateways that fail in every way, and waves that reach every device nevertheless.

use std::{sync::Arc, time::Duration};

use clarion_proto::{
    device::Change,
    ids::{AppName, LaneId, WaveId},
    outcome::Outcome,
    time::Time,
};

use super::{
    gateway::{Gateway, Reply},
    world::{LANE, SECOND, World, arrival, arrival_of, change, home, lane_spec, token, wave_spec},
};
use crate::{
    command::{AppSpec, Command, Consequence},
    lane::{health::LaneHealth, provider::authorization::Authorization, spec::LaneSpec},
};

const HOUR: Time = Time(3_600 * SECOND);

fn accepted(world: &World) -> u64 {
    world.totals(1).outcomes[Outcome::Accepted as usize]
}

#[test]
fn silence_is_probed_and_everybody_is_reached_afterwards() {
    let (from, to) = (Time(2 * SECOND), Time(40 * SECOND));
    let mut gateway = Gateway::new(100, move |request, _| match request.at {
        at if at >= from && at < to => Reply::Silence,
        _ => Reply::Accept,
    });
    gateway.pongs = false;
    let mut world = World::new(gateway);
    world.populate(0..5_000);
    world.start(1, HOUR);
    // Slowly enough that the silence falls into the middle.
    world.grant(
        1,
        Time::NEVER,
        Some(crate::lane::rate::Rate { per_second: 2_000.0, burst: 100.0 }),
    );
    world.run(to);
    let during = world.gateway.requests.iter().filter(|r| r.at >= from).count();
    // Two connections full of requests, then probes: one per connection for each deadline, and on
    // each new connection.
    assert!((200..=240).contains(&during), "{during}");
    assert!(world.open_slots() <= 400, "{}", world.open_slots());
    assert!(world.said.health.contains(&LaneHealth::Unreachable));
    let attempts = world.attempts.len();
    assert!(attempts <= 12, "{attempts}");
    world.run_for(Duration::from_secs(90));
    assert_eq!(accepted(&world), 5_000);
    assert_eq!(world.last(1).unanswered_requests, during as u64);
    assert_eq!(world.said.health.last(), Some(&LaneHealth::Ready));
    let repeated: usize = world.requests_by_device().values().map(|n| n - 1).sum();
    assert_eq!(repeated, during);
    assert_eq!(world.requests_out(), 0);
}

#[test]
fn a_gateway_that_asks_for_less_is_left_alone_and_asked_again() {
    let (from, to) = (Time(2 * SECOND), Time(12 * SECOND));
    let mut world = World::new(Gateway::new(100, move |request, _| match request.at {
        at if at >= from && at < to => Reply::Refuse(503, "ServiceUnavailable"),
        _ => Reply::Accept,
    }));
    world.populate(0..5_000);
    world.start(1, HOUR);
    world.grant(
        1,
        Time::NEVER,
        Some(crate::lane::rate::Rate { per_second: 2_000.0, burst: 100.0 }),
    );
    world.run(to);
    let during = world.gateway.requests.iter().filter(|r| r.at >= from).count();
    // What was in flight, a flush for each connection, and probes after pauses that double from 100
    // ms.
    assert!(during <= 250, "{during}");
    assert!(world.said.health.contains(&LaneHealth::Throttled));
    world.run_for(Duration::from_secs(60));
    assert_eq!(accepted(&world), 5_000);
    assert_eq!(world.last(1).retried_requests, during as u64);
    assert_eq!(world.said.health.last(), Some(&LaneHealth::Ready));
}

#[test]
fn an_accident_here_and_there_does_not_stop_the_lane() {
    let mut world =
        World::new(Gateway::new(100, |request, tries| match (request.device % 50, tries) {
            (0, 1) => Reply::Refuse(500, "InternalServerError"),
            (1, 1) => Reply::Refuse(429, "TooManyRequests"),
            (2, 1) => Reply::NotProcessed,
            _ => Reply::Accept,
        }));
    world.populate(0..5_000);
    world.start(1, HOUR);
    let began = world.now;
    world.run_for(Duration::from_secs(30));
    assert_eq!(accepted(&world), 5_000);
    assert_eq!(world.last(1).retried_requests, 300);
    assert!(!world.said.health.contains(&LaneHealth::Throttled));
    let last = world.gateway.requests.iter().map(|r| r.at).max().unwrap();
    assert!(last.since(began) < Duration::from_secs(1), "{:?}", last.since(began));
    assert_eq!(world.requests_out(), 0);
}

#[test]
fn a_broken_connection_is_replaced_and_its_requests_are_counted() {
    let mut world = World::new(Gateway::new(100, |request, _| match request.device {
        100.. if request.at < Time(3 * SECOND) => Reply::Silence,
        _ => Reply::Accept,
    }));
    world.populate(0..500);
    world.start(1, HOUR);
    world.run(Time(3 * SECOND - 1));
    let in_flight = world.gateway.requests.len() as u64 - accepted(&world);
    assert!(in_flight >= 1);
    world.now = Time(3 * SECOND);
    world.break_connections();
    world.run_for(Duration::from_secs(30));
    assert_eq!(accepted(&world), 500);
    assert_eq!(world.last(1).unanswered_requests, in_flight);
    assert_eq!(world.requests_out(), 0);
}

#[test]
fn an_unreachable_gateway_is_not_hammered() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    world.unreachable = true;
    world.populate(0..100);
    world.start(1, HOUR);
    world.run_for(Duration::from_secs(600));
    world.attempts_are_bounded(2);
    assert!(world.attempts.len() > 120, "it goes on trying: {}", world.attempts.len());
    assert_eq!(world.said.health, [LaneHealth::Unreachable]);
    world.unreachable = false;
    world.run_for(Duration::from_secs(60));
    assert_eq!(accepted(&world), 100);
    assert!(world.requests_by_device().values().all(|n| *n == 1));
}

#[test]
fn a_goaway_moves_the_work_elsewhere() {
    let mut world = World::new(Gateway::new(10, |_, _| Reply::Accept));
    world.populate(0..2_000);
    world.start(1, HOUR);
    world.grant(1, Time::NEVER, Some(crate::lane::rate::Rate { per_second: 1_000.0, burst: 10.0 }));
    for _ in 0..5 {
        world.run_for(Duration::from_millis(200));
        let leaving = world.gateway.connections()[0];
        world.gateway.go_away(leaving, 0x7fff_ffff);
    }
    world.run_for(Duration::from_secs(10));
    assert_eq!(accepted(&world), 2_000);
    assert!(world.requests_by_device().values().all(|n| *n == 1));
    assert!(world.attempts.len() >= 7);
    assert_eq!(world.last(1).unanswered_requests, 0);
    assert_eq!(world.requests_out(), 0);
}

#[test]
fn a_message_that_is_wrong_for_everybody_goes_to_nobody_else() {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Refuse(400, "BadTopic")));
    world.populate(0..1_000);
    world.start(1, HOUR);
    world.run_for(Duration::from_secs(10));
    // For each of the two languages: as many devices as it takes, each asked again a few times, and
    // what was in flight.
    let asked = world.gateway.requests.len();
    assert!(asked <= 2 * 4 * 32 + 200, "{asked}");
    let totals = world.totals(1);
    assert_eq!((totals.handed, totals.outcomes[Outcome::Refused as usize]), (1_000, 1_000));
    assert!(world.last(1).complete);
    assert!(world.said.health.contains(&LaneHealth::Campaign));
    let refused = &world.last(1).refused_messages;
    assert_eq!(
        refused.iter().map(|r| (r.app.name(), r.detail.as_str())).collect::<Vec<_>>(),
        [("apps/demo".to_owned(), "400 BadTopic")]
    );
    let reasons = world.reasons(1);
    assert!(
        reasons.contains(&(Consequence::Refused, 400, "BadTopic".to_owned(), 1_000)),
        "{reasons:?}"
    );
}

#[test]
fn a_retry_reads_the_device_again() {
    let mut world = World::new(Gateway::new(100, |request, tries| match (request.device, tries) {
        (0..=99, 1) => Reply::Refuse(429, "TooManyRequests"),
        _ => Reply::Accept,
    }));
    world.populate(0..200);
    world.start(1, HOUR);
    world.step(); // the first request of each connection goes out
    while world.gateway.requests.len() < 200 {
        world.step();
    }
    // Meanwhile device 3 has another token (as device 1,003 would have), and device 4 is gone.
    let mut registered = arrival(3, home(3));
    if let Change::Arrival(registration, _) = &mut registered.change {
        registration.token = token(1_003);
    }
    registered.observed.0 += 1;
    world.apply(vec![registered, change(4, 1, Change::Removal)]);
    world.run_for(Duration::from_secs(60));
    let requests = world.requests_by_device();
    // Either was on its way already, or it was read anew.
    assert_eq!(requests[&3] + requests.get(&1_003).copied().unwrap_or(0), 2);
    assert_eq!(requests.get(&1_003), Some(&1));
    assert_eq!(requests[&4], 1);
    let totals = world.totals(1);
    assert_eq!(totals.outcomes[Outcome::Accepted as usize], 199);
    assert_eq!(totals.outcomes[Outcome::Expired as usize], 1);
    assert!(world.said.bands[&WaveId(1)].values().all(|counts| counts.open() == 0));
}

/// Creates a wave over two apps, each on a lane of its own; devices with odd numbers have the
/// second app.
fn two_lanes() -> World {
    let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
    let other = LaneId(2);
    world.tell(Command::Lane(Arc::new(LaneSpec { id: other, ..lane_spec(2) })));
    let authorization =
        Authorization(Arc::new(secrecy::SecretString::from("bearer other".to_owned())));
    world.tell(Command::ProviderToken { lane: other, authorization, signer: 0 });
    world.tell(Command::Slice { lane: other, until: Time::NEVER, rate: None });
    world.apply(
        (0..600)
            .map(|n| arrival_of(if n % 2 == 0 { "demo" } else { "other" }, n, home(n)))
            .collect(),
    );
    let mut spec = wave_spec(1, HOUR, 1);
    let second =
        AppSpec { app: AppName::from_id("other").unwrap(), lane: other, ..spec.apps[0].clone() };
    spec.apps.push(second);
    world.tell(Command::Wave(Arc::new(spec)));
    world
}

#[test]
fn a_lane_that_is_down_holds_back_nobody_of_the_other() {
    let mut world = two_lanes();
    world.unreachable_lane = Some(LANE);
    world.break_connections();
    world.grant(1, Time::NEVER, None);
    world.run_for(Duration::from_secs(5));
    let requests = world.requests_by_device();
    assert_eq!(requests.len(), 300);
    assert!(requests.keys().all(|device| device % 2 == 1));
    assert!(world.gateway.requests.iter().all(|r| r.authorization == "bearer other"));
    let walked = &world.last(1).bands_walked;
    assert_eq!(
        *walked,
        [(LANE, 0), (LaneId(2), 3)],
        "each for itself, and not whole while half of it waits"
    );
    assert!(!world.last(1).complete);
    world.unreachable_lane = None;
    world.run_for(Duration::from_secs(60));
    assert_eq!(accepted(&world), 600);
    assert!(world.requests_by_device().values().all(|n| *n == 1));
    assert!(world.last(1).complete);
}

#[test]
fn who_changes_to_an_app_of_the_other_lane_is_pushed_once() {
    let mut world = two_lanes();
    world.unreachable_lane = Some(LANE);
    world.break_connections();
    world.grant(1, Time::NEVER, None);
    world.run_for(Duration::from_secs(5));
    // The second app's walk is through. Those of the first that change over now join it; those who
    // were pushed through it and change away are not pushed again.
    let changed = |n: u32, app| {
        let mut record = arrival_of(app, n, home(n));
        record.observed.0 += 1;
        record
    };
    let mut records: Vec<_> = (0..100).map(|n| changed(2 * n, "other")).collect();
    records.extend((0..100).map(|n| changed(2 * n + 1, "demo")));
    world.apply(records);
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.requests_by_device().len(), 400);
    world.unreachable_lane = None;
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.requests_by_device().len(), 600);
    assert!(world.requests_by_device().values().all(|n| *n == 1));
    assert_eq!(accepted(&world), 600);
    assert!(world.last(1).complete);
}
