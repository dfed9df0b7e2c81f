//! Provider tokens that change, that one host or all hosts call expired, and that are refused.

use std::{collections::BTreeSet, time::Duration};

use clarion_proto::{outcome::Outcome, time::Time};

use super::{
    gateway::{Gateway, Reply, Request},
    world::{SECOND, World, fcm_token, provider_token},
};
use crate::{
    command::Command,
    core::ConnectionId,
    lane::{health::LaneHealth, rate::Rate},
    outcome::Platform,
};

const HOUR: Time = Time(3_600 * SECOND);
const LATENCY: Duration = Duration::from_millis(50);

fn accepted(world: &World) -> u64 {
    world.totals(1).outcomes[Outcome::Accepted as usize]
}

/// Creates a wave of 500 pushes per second, 50 ms from the gateway.
fn world(script: impl FnMut(&Request, u32) -> Reply + 'static) -> World {
    let mut world = World::with(Gateway::new(100, script), true, 3);
    world.latency = LATENCY;
    world.populate(0..3_000);
    world.start(1, HOUR);
    world.grant(1, Time::NEVER, Some(Rate { per_second: 500.0, burst: 10.0 }));
    world.run_for(Duration::from_secs(1));
    assert!(world.requests_by_device().len() > 300);
    world
}

fn with(world: &World, token: &str) -> Vec<Request> {
    world.gateway.requests.iter().filter(|r| r.authorization == token).cloned().collect()
}

fn of_another_key(token: &str) -> Command {
    let Command::ProviderToken { lane, authorization, signer } = provider_token(token) else {
        unreachable!()
    };
    Command::ProviderToken { lane, authorization, signer: signer + 1 }
}

fn all_were_pushed_once(world: &World) {
    assert_eq!(accepted(world), 3_000);
    assert_eq!(world.requests_out(), 0);
}

#[test]
fn a_new_one_is_tried_by_one_request_while_the_others_go_on() {
    let mut world = world(|_, _| Reply::Accept);
    world.tell(provider_token("bearer two"));
    let (told, attempts) = (world.now, world.attempts.len());
    world.run_for(Duration::from_secs(10));
    let new = with(&world, "bearer two");
    let known = new[0].at + LATENCY;
    assert_eq!(new.iter().filter(|r| r.at < known).count(), 1, "one probe");
    let old = with(&world, "bearer one");
    let meanwhile = old.iter().filter(|r| r.at >= told && r.at < known).count();
    assert!(meanwhile >= 20, "{meanwhile}");
    assert!(old.iter().all(|r| r.at <= known));
    assert_eq!(
        new.iter().map(|r| r.connection).collect::<BTreeSet<_>>().len(),
        3,
        "then on all of them"
    );
    assert_eq!(world.attempts.len(), attempts, "which stay");
    all_were_pushed_once(&world);
    assert!(world.requests_by_device().values().all(|n| *n == 1));
}

#[test]
fn one_that_comes_in_a_quiet_time_is_tried_by_the_first_request_of_the_next_alert() {
    for platform in [Platform::Apns, Platform::Fcm] {
        let mut world = World::new(Gateway::new(100, |_, _| Reply::Accept));
        world.latency = LATENCY;
        world.add_fcm(2);
        world.populate_both(0..400);
        // The first of all is tried, too.
        world.start_both(1, HOUR);
        world.run_for(Duration::from_secs(20));
        assert_eq!(accepted(&world), 400);
        let all = world.requests_of(platform);
        let first = all[0].at;
        assert_eq!(all.iter().filter(|r| r.at < first + LATENCY).count(), 1, "{platform:?}");
        let before = all.len();
        world.tell(provider_token("bearer two"));
        world.tell(fcm_token("Bearer two"));
        world.run_for(Duration::from_mins(15));
        world.start_both(2, HOUR);
        world.run_for(Duration::from_secs(20));
        let new = &world.requests_of(platform)[before..];
        assert_eq!(new.len(), 200);
        assert!(new.iter().all(|r| r.authorization.ends_with("two")), "the former's time is over");
        let first = new[0].at;
        assert_eq!(new.iter().filter(|r| r.at < first + LATENCY).count(), 1, "{platform:?}");
    }
}

#[test]
fn one_that_is_refused_is_tried_by_single_requests_and_the_former_goes_on() {
    let mut world = world(|request, _| match request.authorization.as_str() {
        "bearer two" => Reply::Refuse(403, "InvalidProviderToken"),
        _ => Reply::Accept,
    });
    world.tell(provider_token("bearer two"));
    world.run_for(Duration::from_secs(20));
    let tries: Vec<Time> = with(&world, "bearer two").iter().map(|r| r.at).collect();
    assert!(
        (1..=10).contains(&tries.len()),
        "tried again seldom while the former goes on: {}",
        tries.len()
    );
    assert!(tries.windows(2).all(|w| w[1].since(w[0]) >= Duration::from_secs(1)), "one at a time");
    assert!(world.said.health.contains(&LaneHealth::Credential), "an alarm all the same");
    assert!(world.said.details.contains(&"InvalidProviderToken".to_owned()));
    all_were_pushed_once(&world);
    // Ten minutes later nobody uses the former any more: single requests try this one, and another
    // one when it comes.
    world.run_for(Duration::from_mins(10));
    world.start(2, HOUR);
    let before = world.gateway.requests.len();
    world.run_for(Duration::from_mins(1));
    let probes = &world.gateway.requests[before..];
    assert!((10..=120).contains(&probes.len()), "{}", probes.len());
    assert!(probes.iter().all(|r| r.authorization == "bearer two"));
    assert!(probes.windows(2).all(|w| w[1].at.since(w[0].at) >= LATENCY), "one at a time");
    world.tell(provider_token("bearer three"));
    world.run_for(Duration::from_mins(1));
    assert_eq!(world.totals(2).outcomes[Outcome::Accepted as usize], 3_000);
    assert_eq!(world.said.health.last(), Some(&LaneHealth::Ready));
}

#[test]
fn fcm_goes_on_with_the_former_on_the_same_connections() {
    let mut world =
        World::new(Gateway::new(100, |request, _| match request.authorization.as_str() {
            "Bearer two" => Reply::Fcm(401, "", None),
            _ => Reply::Accept,
        }));
    world.add_fcm(1);
    world.populate_both(0..2_000);
    world.start_both(1, HOUR);
    world.grant(1, Time::NEVER, Some(Rate { per_second: 400.0, burst: 10.0 }));
    world.run_for(Duration::from_secs(1));
    let attempts = world.attempts.len();
    world.tell(fcm_token("Bearer two"));
    world.run_for(Duration::from_secs(60));
    let tries = with(&world, "Bearer two").len();
    assert!((1..=10).contains(&tries), "{tries}");
    assert_eq!(world.attempts.len(), attempts);
    assert_eq!(accepted(&world), 2_000);
    assert!(world.said.health.contains(&LaneHealth::Credential));
}

#[test]
fn a_change_that_the_gateway_minds_waits_and_nobody_else_does() {
    let minds = Time(20 * SECOND);
    let mut world = world(move |request, _| match request.authorization.as_str() {
        "bearer two" if request.at < minds => Reply::Refuse(429, "TooManyProviderTokenUpdates"),
        _ => Reply::Accept,
    });
    world.tell(provider_token("bearer two"));
    world.run_for(Duration::from_secs(15));
    let tries = with(&world, "bearer two").len();
    assert!((3..=30).contains(&tries), "{tries}");
    all_were_pushed_once(&world);
    let meanwhile = with(&world, "bearer one").iter().filter(|r| r.at > Time(2 * SECOND)).count();
    assert!(meanwhile > 1_500, "the accepted one goes on: {meanwhile}");
    assert!(
        world.said.details.contains(&"TooManyProviderTokenUpdates".to_owned()),
        "and somebody is told"
    );
    assert!(!world.said.health.contains(&LaneHealth::Credential), "the key is not in question");
    world.start(2, HOUR);
    world.grant(2, Time::NEVER, Some(Rate { per_second: 100.0, burst: 10.0 }));
    world.run(Time(60 * SECOND));
    let accepted = with(&world, "bearer two").iter().map(|r| r.at).find(|at| *at >= minds).unwrap();
    assert!(accepted.since(minds) <= Duration::from_secs(3), "{:?}", accepted.since(minds));
    assert_eq!(world.totals(2).outcomes[Outcome::Accepted as usize], 3_000);
}

/// One host's clock is wrong: it refuses every request, on each new connection that reaches it.
#[test]
fn one_host_that_calls_it_expired_costs_its_connections_and_no_more() {
    let mut hosts: Vec<ConnectionId> = Vec::new();
    let mut world = world(move |request, _| {
        if !hosts.contains(&request.connection) {
            hosts.push(request.connection);
        }
        let host = hosts.iter().position(|id| *id == request.connection).unwrap() % 3;
        if host == 1 && request.at > Time(2 * SECOND) {
            Reply::Refuse(403, "ExpiredProviderToken")
        } else {
            Reply::Accept
        }
    });
    world.run_for(Duration::from_secs(20));
    all_were_pushed_once(&world);
    assert!(
        world.said.health.iter().all(|health| *health == LaneHealth::Ready),
        "{:?}",
        world.said.health
    );
    let again: usize = world.requests_by_device().values().map(|n| n - 1).sum();
    assert!(
        (1..=150).contains(&again),
        "what was in flight on one connection, and one for each that ended up there: {again}"
    );
    let last = world.gateway.requests.iter().map(|r| r.at).max().unwrap();
    assert!(last < Time(9 * SECOND), "as if nothing was: {last:?}");
}

/// All hosts call a valid token expired. The lane tries it again, rarely, and does not wait for
/// another token.
#[test]
fn all_that_call_it_expired_are_asked_again_until_they_do_not() {
    let (from, to) = (Time(2 * SECOND), Time(302 * SECOND));
    let mut world = world(move |request, _| match request.at {
        at if at >= from && at < to => Reply::Refuse(403, "ExpiredProviderToken"),
        _ => Reply::Accept,
    });
    world.run(to);
    assert_eq!(world.said.health.last(), Some(&LaneHealth::Credential));
    assert_eq!(
        world.said.health.iter().filter(|h| **h == LaneHealth::Credential).count(),
        1,
        "one alarm"
    );
    // A row is full with what was in flight and the first requests of a few new connections.
    let told = world
        .said
        .states
        .iter()
        .find(|(_, at, news)| *at >= from && news.health == LaneHealth::Credential)
        .unwrap();
    assert!(told.1.since(from) < Duration::from_secs(2), "{:?}", told.1.since(from));
    let refused = world.gateway.requests.iter().filter(|r| r.at >= from && r.at < told.1).count();
    assert!(refused <= 2 * 32 + 100, "{refused}");
    let settled = from + Duration::from_secs(40);
    let asked: Vec<Time> =
        world.gateway.requests.iter().map(|r| r.at).filter(|at| *at >= settled).collect();
    assert!((40..=160).contains(&asked.len()), "{}", asked.len());
    assert!(asked.windows(2).all(|w| w[1].since(w[0]) >= LATENCY), "one at a time");
    world.attempts_are_bounded(3);
    world.run_for(Duration::from_secs(62));
    let back = world.gateway.requests.iter().map(|r| r.at).find(|at| *at >= to).unwrap();
    assert!(back.since(to) <= Duration::from_secs(6), "{:?}", back.since(to));
    world.run_for(Duration::from_secs(20));
    all_were_pushed_once(&world);
    assert_eq!(world.said.health.last(), Some(&LaneHealth::Ready));
}

#[test]
fn another_token_ends_the_wait_for_an_expired_one_at_once() {
    let mut world = world(|request, _| match request.authorization.as_str() {
        "bearer one" if request.at > Time(2 * SECOND) => Reply::Refuse(403, "ExpiredProviderToken"),
        _ => Reply::Accept,
    });
    world.run(Time(40 * SECOND));
    assert_eq!(world.said.health.last(), Some(&LaneHealth::Credential));
    let (before, old) = (world.gateway.requests.len(), world.gateway.connections());
    world.tell(provider_token("bearer two"));
    let told = world.now;
    world.run_for(Duration::from_secs(30));
    let new = &world.gateway.requests[before..];
    assert!(new[0].at.since(told) <= Duration::from_secs(6), "{:?}", new[0].at.since(told));
    assert!(new.iter().all(|r| r.authorization == "bearer two"));
    assert!(old.iter().all(|id| new.iter().all(|r| r.connection != *id)), "connections remember");
    all_were_pushed_once(&world);
    assert_eq!(world.said.health.last(), Some(&LaneHealth::Ready));
}

/// A key is replaced in the middle of a wave. APNs ties a connection to the key of its first
/// request, so the new one is tried over a connection of its own, the others go on, and when it was
/// accepted all are replaced; nobody is pushed to twice.
#[test]
fn another_key_is_tried_over_a_connection_of_its_own() {
    let mut world = world(|_, _| Reply::Accept);
    let (told, attempts) = (world.now, world.attempts.len());
    world.tell(of_another_key("bearer two"));
    world.run_for(Duration::from_secs(10));
    let new = with(&world, "bearer two");
    let known = new[0].at + LATENCY;
    assert_eq!(new.iter().filter(|r| r.at < known).count(), 1, "one probe");
    let old = with(&world, "bearer one");
    assert!(old.iter().filter(|r| r.at >= told && r.at < known).count() >= 20);
    let connections =
        |requests: &[Request]| requests.iter().map(|r| r.connection).collect::<BTreeSet<_>>();
    assert!(connections(&new).is_disjoint(&connections(&old)), "no connection sees both keys");
    assert_eq!(world.attempts.len(), attempts + 3, "each of the three was replaced once");
    all_were_pushed_once(&world);
    assert!(world.requests_by_device().values().all(|n| *n == 1));
}

#[test]
fn a_wrong_key_costs_a_connection_and_the_former_goes_on() {
    let mut world = world(|request, _| match request.authorization.as_str() {
        "bearer two" => Reply::Refuse(403, "InvalidProviderToken"),
        _ => Reply::Accept,
    });
    let attempts = world.attempts.len();
    world.tell(of_another_key("bearer two"));
    world.run_for(Duration::from_secs(10));
    let tries = with(&world, "bearer two").len();
    assert!((1..=6).contains(&tries), "{tries}");
    assert!(world.attempts.len() <= attempts + 2 * tries, "one for each try, one to replace that");
    assert!(world.said.health.contains(&LaneHealth::Credential), "an alarm all the same");
    all_were_pushed_once(&world);
}

#[test]
fn the_same_token_again_disturbs_nothing() {
    let mut world = world(|_, _| Reply::Accept);
    let Command::ProviderToken { lane, authorization, signer } = provider_token("bearer one")
    else {
        unreachable!()
    };
    for _ in 0..50 {
        world.tell(Command::ProviderToken { lane, authorization: authorization.clone(), signer });
        world.run_for(Duration::from_millis(100));
    }
    let sent = world.requests_by_device().len();
    assert!(sent >= 2_900, "{sent}");
    world.run_for(Duration::from_secs(5));
    all_were_pushed_once(&world);
}
