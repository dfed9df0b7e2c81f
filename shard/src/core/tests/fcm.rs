//! Reactions of a core to FCM's answers.

use std::time::Duration;

use clarion_proto::{outcome::Outcome, time::Time};

use super::{
    gateway::{Gateway, Reply, Request},
    world::{FCM, SECOND, World, fcm_token},
};
use crate::{
    command::{Command, Consequence},
    lane::{health::LaneHealth, rate::Rate},
    outcome::Platform,
};

/// Number of answers in a full row, as in the tests' lanes.
const EVIDENCE: usize = 32;

const HOUR: Time = Time(3_600 * SECOND);
const DAY: Time = Time(24 * 3_600 * SECOND);

/// Creates a world of 600 devices; those with odd numbers use FCM, which answers by the script.
fn world(script: impl FnMut(&Request, u32) -> Reply + 'static) -> World {
    let mut script = script;
    let gateway = Gateway::new(100, move |request, tries| match request.platform {
        Platform::Apns => Reply::Accept,
        Platform::Fcm => script(request, tries),
    });
    let mut world = World::new(gateway);
    world.add_fcm(2);
    world.populate_both(0..600);
    world
}

fn counted(world: &World, outcome: Outcome) -> u64 {
    world.totals(1).outcomes[outcome as usize]
}

fn dead(world: &World) -> usize {
    world.said.reports.iter().map(|r| r.dead.iter().filter(|d| d.lane == FCM).count()).sum()
}

#[test]
fn one_wave_through_both() {
    let mut world = world(|_, _| Reply::Accept);
    world.start_both(1, HOUR);
    world.run_for(Duration::from_secs(10));
    assert_eq!((counted(&world, Outcome::Accepted), world.requests_by_device().len()), (600, 600));
    assert!(world.requests_by_device().values().all(|tries| *tries == 1));
    for request in &world.gateway.requests {
        let fcm = request.platform == Platform::Fcm;
        assert_eq!(request.device % 2 == 1, fcm);
        assert_eq!(request.authorization, if fcm { "Bearer one" } else { "bearer one" });
        let chinese = request.body.windows(3).any(|w| w == "失".as_bytes());
        assert_eq!(chinese, request.device % 5 == 0);
    }
    assert!(world.gateway.open_max <= 100);
    assert!(world.last(1).complete);
}

#[test]
fn fcm_is_never_pinged_and_connected_only_on_demand() {
    let mut world = world(|_, _| Reply::Accept);
    world.run_for(Duration::from_mins(1));
    assert_eq!(world.gateway.connections_of(Platform::Fcm).len(), 1, "one is warm at first");
    world.run(Time(12 * 3_600 * SECOND));
    assert_eq!(
        world.gateway.connections_of(Platform::Fcm).len(),
        0,
        "it left before a NAT could forget it"
    );
    let attempts = world.attempts.len();
    world.start_both(1, DAY);
    world.run_for(Duration::from_secs(2));
    assert_eq!(counted(&world, Outcome::Accepted), 600);
    assert_eq!(world.gateway.connections_of(Platform::Fcm).len(), 2);
    world.run(Time(20 * 3_600 * SECOND));
    assert!(
        world.gateway.pings.iter().any(|(platform, _)| *platform == Platform::Apns),
        "the others are asked"
    );
    assert!(world.gateway.pings.iter().all(|(platform, _)| *platform == Platform::Apns));
    // APNs: the second connection, and both anew every six hours at most. FCM: two.
    assert!(world.attempts.len() - attempts <= 9, "{}", world.attempts.len() - attempts);
    assert!(!world.said.health.contains(&LaneHealth::Unreachable));
}

#[test]
fn a_session_that_timed_out_is_opened_again_when_there_is_work() {
    let mut world = world(|_, _| Reply::Accept);
    world.run_for(Duration::from_mins(2));
    let [idle] = world.gateway.connections_of(Platform::Fcm)[..] else { panic!("one is warm") };
    world.gateway.go_away_saying(idle, 0, 0, "session_timed_out");
    let attempts = world.attempts.len();
    world.run_for(Duration::from_mins(10));
    assert_eq!(
        (world.attempts.len() - attempts, world.gateway.connections_of(Platform::Fcm).len()),
        (0, 0)
    );
    let began = world.now;
    world.start_both(1, DAY);
    world.run_for(Duration::from_secs(5));
    assert_eq!(counted(&world, Outcome::Accepted), 600);
    // An orderly end is no failure: nobody waited for it.
    let last = world.gateway.requests.iter().map(|r| r.at).max().unwrap();
    assert!(last.since(began) < Duration::from_secs(1));
}

#[test]
fn being_thrown_out_is_a_failure_with_a_pause() {
    for (code, debug) in [(11, "too_many_pings"), (1, "exceeded_max_concurrent_streams")] {
        let mut world = world(|_, _| Reply::Accept);
        world.tell(Command::Slice {
            lane: FCM,
            until: Time::NEVER,
            rate: Some(Rate { per_second: 50.0, burst: 10.0 }),
        });
        world.start_both(1, HOUR);
        world.run_for(Duration::from_secs(1));
        let attempts = world.attempts.len();
        for id in world.gateway.connections_of(Platform::Fcm) {
            world.gateway.go_away_saying(id, 0x7fff_ffff, code, debug);
        }
        // Two failures: the pause is up to 10 s, then up to 20 s; which it is, the seed says.
        world.run_for(Duration::from_millis(100));
        assert_eq!(world.attempts.len(), attempts, "{debug}");
        world.run_for(Duration::from_mins(2));
        assert_eq!(counted(&world, Outcome::Accepted), 600);
    }
}

#[test]
fn a_message_that_fcm_does_not_take_stops_after_a_few_and_kills_nobody() {
    let mut world = world(|_, _| Reply::Fcm(400, "INVALID_ARGUMENT", None));
    world.start_both(1, HOUR);
    world.run_for(Duration::from_secs(60));
    let asked = world.requests_of(Platform::Fcm).len();
    // For each of the two languages: as many as it takes, and what was in flight by then.
    let (least, most) = (EVIDENCE, 2 * EVIDENCE + 200);
    assert!((least..=most).contains(&asked), "{asked}");
    assert_eq!((counted(&world, Outcome::Accepted), counted(&world, Outcome::Refused)), (300, 300));
    assert_eq!((counted(&world, Outcome::Dead), dead(&world)), (0, 0));
    assert!(world.said.health.contains(&LaneHealth::Campaign));
    assert!(world.last(1).complete);
}

#[test]
fn a_token_that_is_none_is_dead_once_the_message_is_known_to_be_good() {
    let mut world = world(|request, _| match request.device % 10 {
        3 => Reply::Fcm(400, "INVALID_ARGUMENT", None),
        7 => Reply::Page(
            400,
            r#"{"error":{"status":"INVALID_ARGUMENT","details":[{"@type":"x/google.rpc.BadRequest","fieldViolations":[{"field":"message.data"}]}]}}"#,
        ),
        9 => {
            Reply::Page(400, "<html>Your client has issued a malformed or illegal request.</html>")
        }
        _ => Reply::Accept,
    });
    // Slowly, so that there are answers before most are asked.
    world.tell(Command::Slice {
        lane: FCM,
        until: Time::NEVER,
        rate: Some(Rate { per_second: 100.0, burst: 5.0 }),
    });
    world.start_both(1, HOUR);
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.requests_by_device().len(), 600);
    let killed = counted(&world, Outcome::Dead);
    // Sixty have such tokens: those that were asked before the first success are asked again.
    assert_eq!((killed, dead(&world)), (60, 60));
    // Sixty are refused by a field that is not the token, after some tries; pages are nobody's
    // word.
    assert_eq!(counted(&world, Outcome::Refused), 60);
    assert_eq!((counted(&world, Outcome::Accepted), counted(&world, Outcome::Expired)), (420, 0));
    assert!(!world.said.health.contains(&LaneHealth::Campaign));
    let answered = world.requests_by_device();
    assert!(answered.iter().filter(|(device, _)| *device % 10 == 7).all(|(_, tries)| *tries == 4));
    assert!(answered.iter().filter(|(device, _)| *device % 10 == 9).all(|(_, tries)| *tries > 4));
}

#[test]
fn what_is_refused_without_a_word_on_the_token_kills_nobody() {
    let mut world = world(|request, _| match request.device % 10 {
        1 => Reply::Fcm(403, "SENDER_ID_MISMATCH", None),
        3 => Reply::Fcm(401, "THIRD_PARTY_AUTH_ERROR", None),
        5 => Reply::Fcm(404, "UNREGISTERED", None),
        _ => Reply::Accept,
    });
    world.start_both(1, HOUR);
    world.run_for(Duration::from_secs(60));
    assert_eq!(
        (counted(&world, Outcome::Refused), counted(&world, Outcome::Dead), dead(&world)),
        (120, 60, 60)
    );
    assert_eq!(counted(&world, Outcome::Accepted), 420);
    assert!(
        !world
            .said
            .health
            .iter()
            .any(|h| matches!(h, LaneHealth::Credential | LaneHealth::Campaign))
    );
}

/// Returns the longest time without a request to FCM after the first with this number of attempts,
/// and its start.
fn pause_after(world: &World, from: Time) -> Duration {
    let times: Vec<Time> =
        world.requests_of(Platform::Fcm).iter().map(|r| r.at).filter(|at| *at >= from).collect();
    times.windows(2).map(|w| w[1].since(w[0])).max().unwrap_or_default()
}

#[test]
fn a_gateway_that_says_how_long_is_left_alone_for_so_long() {
    for (status, code, retry_after, least) in [
        (503, "UNAVAILABLE", Some(30), 30),
        (429, "QUOTA_EXCEEDED", Some(45), 45),
        (429, "QUOTA_EXCEEDED", None, 60),
    ] {
        // Everybody is told so for a while.
        let until = Time(3 * SECOND);
        let mut world = world(move |request, _| match request.at {
            at if at > Time(2 * SECOND) && at < until => Reply::Fcm(status, code, retry_after),
            _ => Reply::Accept,
        });
        world.tell(Command::Slice {
            lane: FCM,
            until: Time::NEVER,
            rate: Some(Rate { per_second: 100.0, burst: 10.0 }),
        });
        world.run(Time(SECOND));
        world.start_both(1, HOUR);
        world.run_for(Duration::from_mins(5));
        assert_eq!(counted(&world, Outcome::Accepted), 600);
        let refused = world.last(1).retried_requests;
        assert!((32..=60).contains(&refused), "a full row and what was in flight: {refused}");
        let pause = pause_after(&world, Time(0));
        // To the second: then one request asks, and the rest follows.
        assert!(pause >= Duration::from_secs(least), "{code} {pause:?}");
        assert!(
            pause <= Duration::from_secs(least) + Duration::from_millis(100),
            "{code} {pause:?}"
        );
        assert_eq!(world.said.health.last(), Some(&LaneHealth::Ready));
        assert!(world.said.health.contains(&LaneHealth::Throttled));
        // The other lane did not wait.
        let apns = world.requests_of(Platform::Apns);
        assert!(apns.last().unwrap().at.since(apns[0].at) < Duration::from_secs(1));
    }
}

/// The answer delays its own device, for any requested pause, and no other device.
#[test]
fn one_answer_that_asks_for_a_pause_stops_only_its_device() {
    for (status, code) in [(503, "UNAVAILABLE"), (429, "QUOTA_EXCEEDED")] {
        let mut world = world(move |request, tries| match (request.device, tries) {
            (151, 1) => Reply::Fcm(status, code, Some(300)),
            _ => Reply::Accept,
        });
        world.start_both(1, HOUR);
        world.run_for(Duration::from_mins(10));
        assert_eq!(counted(&world, Outcome::Accepted), 600);
        let again = world.gateway.requests.iter().rfind(|r| r.device == 151).unwrap().at;
        assert!(again >= Time(300 * SECOND));
        assert!(
            world
                .gateway
                .requests
                .iter()
                .filter(|r| r.device != 151)
                .all(|r| r.at < Time(2 * SECOND))
        );
        assert!(!world.said.health.contains(&LaneHealth::Throttled));
    }
}

#[test]
fn trouble_without_a_time_waits_ten_seconds_and_one_answer_stops_only_its_device() {
    let mut world = world(|request, tries| match (request.device, tries) {
        (151, 1) => Reply::Fcm(500, "INTERNAL", None),
        (153, 1) => Reply::Fcm(503, "UNAVAILABLE", None),
        (155, 1) => Reply::Page(502, "<html>try again in 30 seconds</html>"),
        _ => Reply::Accept,
    });
    world.start_both(1, HOUR);
    world.run_for(Duration::from_mins(5));
    assert_eq!(counted(&world, Outcome::Accepted), 600);
    for device in [151, 153, 155] {
        let tries: Vec<_> =
            world.gateway.requests.iter().filter(|r| r.device == device).map(|r| r.at).collect();
        let pause = tries[1].since(tries[0]);
        assert!((Duration::from_secs(10)..=Duration::from_secs(21)).contains(&pause), "{pause:?}");
    }
    let others = world
        .gateway
        .requests
        .iter()
        .filter(|r| ![151, 153, 155].contains(&r.device))
        .map(|r| r.at);
    assert!(others.max().unwrap() < Time(2 * SECOND), "the lane goes on");
}

#[test]
fn the_quota_of_a_device_stops_only_that_device() {
    const BODY: &str = r#"{"error":{"status":"RESOURCE_EXHAUSTED","details":[
        {"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"subject":"device:1"}]}]}}"#;
    let mut world = world(|request, tries| match (request.device, tries) {
        (151, 1) => Reply::Page(429, BODY),
        _ => Reply::Accept,
    });
    world.start_both(1, HOUR);
    world.run_for(Duration::from_mins(5));
    assert_eq!(counted(&world, Outcome::Accepted), 600);
    let again = world.gateway.requests.iter().rfind(|r| r.device == 151).unwrap().at;
    assert!(again >= Time(61 * SECOND));
    assert!(
        world.gateway.requests.iter().filter(|r| r.device != 151).all(|r| r.at < Time(2 * SECOND))
    );
    assert!(!world.said.health.contains(&LaneHealth::Throttled));
}

#[test]
fn a_gateway_down_for_everybody_is_probed_after_pauses() {
    let until = Time(120 * SECOND);
    let mut world = world(move |request, _| match request.at {
        at if at < until => Reply::Fcm(503, "UNAVAILABLE", None),
        _ => Reply::Accept,
    });
    world.start_both(1, HOUR);
    world.run(until);
    let during = world.requests_of(Platform::Fcm).len();
    // Two connections full, then two at a time after pauses of ten seconds and more.
    assert!(during <= 200 + 2 * 12, "{during}");
    world.run_for(Duration::from_mins(10));
    assert_eq!(counted(&world, Outcome::Accepted), 600);
}

#[test]
fn an_expired_access_token_is_replaced_on_the_same_connections() {
    let mut world = world(|request, _| match request.authorization.as_str() {
        "Bearer one" if request.at > Time(2 * SECOND) => Reply::Fcm(401, "", None),
        _ => Reply::Accept,
    });
    world.tell(Command::Slice {
        lane: FCM,
        until: Time::NEVER,
        rate: Some(Rate { per_second: 100.0, burst: 10.0 }),
    });
    world.start_both(1, HOUR);
    world.run(Time(4 * SECOND));
    assert!(world.said.health.contains(&LaneHealth::Credential));
    let (before, attempts) = (world.gateway.requests.len(), world.attempts.len());
    world.run_for(Duration::from_secs(30));
    let probes = world.gateway.requests.len() - before;
    assert!((5..=60).contains(&probes), "single requests try a refused credential: {probes}");
    let before = world.gateway.requests.len();
    world.tell(fcm_token("Bearer two"));
    world.run_for(Duration::from_secs(30));
    assert_eq!(counted(&world, Outcome::Accepted), 600);
    assert_eq!(world.attempts.len(), attempts, "no connection was closed for it");
    assert!(world.gateway.requests[before..].iter().all(|r| r.authorization == "Bearer two"));
}

#[test]
fn a_project_that_is_not_there_pauses_with_probes_and_ends_nothing() {
    let until = Time(20 * SECOND);
    let mut world = world(move |request, _| match request.at {
        at if at < until => Reply::Fcm(404, "", None),
        _ => Reply::Accept,
    });
    world.start_both(1, HOUR);
    world.run(until);
    let asked = world.requests_of(Platform::Fcm).len();
    // What was in flight when the row was full, and probes of two connections.
    assert!(asked <= 200 + 2 * 80, "{asked}");
    assert!(world.said.health.contains(&LaneHealth::Project));
    assert_eq!((counted(&world, Outcome::Refused), dead(&world)), (0, 0));
    world.run_for(Duration::from_mins(2));
    assert_eq!(counted(&world, Outcome::Accepted), 600);
    let back =
        world.requests_of(Platform::Fcm).iter().map(|r| r.at).find(|at| *at >= until).unwrap();
    assert!(back.since(until) <= Duration::from_secs(3));
    assert_eq!(world.said.health.last(), Some(&LaneHealth::Ready));
}

#[test]
fn a_token_of_the_wrong_kind_is_refused_before_it_is_written() {
    let mut world = world(|_, _| Reply::Accept);
    // 32 bytes of an APNs device, registered under the app of the other platform.
    world.apply(
        (600..610).map(|n| super::world::arrival_of("android", n, super::world::home(n))).collect(),
    );
    world.start_both(1, HOUR);
    world.run_for(Duration::from_secs(5));
    assert_eq!(
        (counted(&world, Outcome::Accepted), counted(&world, Outcome::Refused), dead(&world)),
        (600, 10, 0)
    );
    assert_eq!(
        world.reasons(1),
        [(Consequence::Refused, 0, "token cannot be written".to_owned(), 10)]
    );
    assert_eq!(world.gateway.requests.len(), 600);
}
