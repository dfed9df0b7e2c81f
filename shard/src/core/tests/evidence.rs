//! One odd answer among good ones, of every kind observed in use: the gateway's device is pushed to
//! again, and no other device waits or is refused. Then many such answers: a lane, a credential or
//! a message is in question, and this is reported.

mod property;

use std::time::Duration;

use clarion_proto::{outcome::Outcome, time::Time};

use super::{
    gateway::{Gateway, Reply, Request},
    world::{LANE, SECOND, World, arrival, home},
};
use crate::{
    command::Consequence,
    lane::{health::LaneHealth, rate::Rate},
    outcome::Platform,
};

const HOUR: Time = Time(3_600 * SECOND);
const DEVICES: u32 = 3_000;
const HTML: &str = "<html><head><title>404 Not Found</title></head><body>nginx</body></html>";
/// Rate of a wave in progress.
const RATE: Rate = Rate { per_second: 1_000.0, burst: 10.0 };

fn counted(world: &World, outcome: Outcome) -> u64 {
    world.totals(1).outcomes[outcome as usize]
}

/// Creates a world with half of the devices through APNs and half through FCM, each over two
/// connections, 20 ms from the gateway.
fn world(script: impl FnMut(&Request, u32) -> Reply + 'static) -> World {
    let mut world = World::new(Gateway::new(100, script));
    world.latency = Duration::from_millis(20);
    world.add_fcm(2);
    world.populate_both(0..DEVICES);
    world.start_both(1, HOUR);
    world.grant(1, Time::NEVER, Some(RATE));
    world
}

/// Runs a wave in whose middle one request of a lane gets an odd answer.
fn one_odd(platform: Platform, odd: Reply) -> World {
    let mut asked = 0;
    let mut world = world(move |request, _| {
        asked += u32::from(request.platform == platform);
        if request.platform == platform && asked == 700 { odd } else { Reply::Accept }
    });
    world.run_for(Duration::from_secs(40));
    world
}

#[test]
fn one_odd_answer_among_good_ones_delays_its_own_device_and_nobody_else() {
    let canonical = r#"{"error":{"code":404,"message":"Requested entity was not found.","status":"NOT_FOUND"}}"#;
    let forbidden = "<html><title>Error 403 (Forbidden)!!1</title></html>";
    for (platform, odd, told) in [
        (Platform::Apns, Reply::Page(404, HTML), (404, "")),
        (Platform::Fcm, Reply::Page(404, HTML), (404, "")),
        (Platform::Fcm, Reply::Page(404, canonical), (404, "NOT_FOUND")),
        (Platform::Apns, Reply::Cut(404, true), (404, "")),
        (Platform::Fcm, Reply::Cut(404, true), (404, "")),
        (Platform::Apns, Reply::Cut(403, true), (403, "")),
        (Platform::Apns, Reply::Page(302, ""), (302, "")),
        (Platform::Fcm, Reply::Page(302, ""), (302, "")),
        (Platform::Apns, Reply::Page(413, HTML), (413, "")),
        (Platform::Fcm, Reply::Page(403, forbidden), (403, "")),
        (Platform::Apns, Reply::Page(403, r#"{"reason":"InvalidProv"#), (403, "")),
        (Platform::Apns, Reply::Page(204, ""), (204, "")),
        (Platform::Apns, Reply::Refuse(400, "SomethingNew"), (400, "SomethingNew")),
        (Platform::Apns, Reply::Refuse(400, "BadTopic"), (400, "BadTopic")),
        (Platform::Apns, Reply::Refuse(413, "PayloadTooLarge"), (413, "PayloadTooLarge")),
        (Platform::Apns, Reply::Refuse(403, "InvalidProviderToken"), (403, "InvalidProviderToken")),
        (Platform::Apns, Reply::Refuse(403, "ExpiredProviderToken"), (403, "ExpiredProviderToken")),
        (Platform::Fcm, Reply::Fcm(401, "", None), (401, "UNAUTHENTICATED")),
        (Platform::Fcm, Reply::Fcm(403, "", None), (403, "PERMISSION_DENIED")),
    ] {
        let world = one_odd(platform, odd);
        assert_eq!(counted(&world, Outcome::Accepted), u64::from(DEVICES), "{odd:?}");
        assert!(world.last(1).complete, "{odd:?}");
        assert_eq!(
            world.last(1).unanswered_requests,
            u64::from(matches!(odd, Reply::Cut(..))),
            "{odd:?}"
        );
        // Answered oddly once, and nothing else was done twice.
        let tries = world.requests_by_device();
        assert_eq!(tries.values().filter(|tries| **tries == 2).count(), 1, "{odd:?}");
        assert!(tries.values().all(|tries| *tries <= 2), "{odd:?}");
        let (device, _) = tries.iter().find(|(_, tries)| **tries == 2).unwrap();
        let over: Vec<_> = world
            .gateway
            .requests
            .iter()
            .filter(|r| r.device == *device)
            .map(|r| r.connection)
            .collect();
        assert_ne!(over[0], over[1], "{odd:?} is asked again over another connection");
        // The lane goes on at its rate, and nobody is troubled.
        let last = world
            .gateway
            .requests
            .iter()
            .filter(|r| r.device != *device)
            .map(|r| r.at)
            .max()
            .unwrap();
        assert!(last < Time(5 * SECOND), "{odd:?}: {last:?}");
        assert!(
            world.said.health.iter().all(|h| *h == LaneHealth::Ready),
            "{odd:?}: {:?}",
            world.said.health
        );
        let (status, reason) = told;
        assert_eq!(
            world.reasons(1),
            [(Consequence::Retried, status, reason.to_owned(), 1)],
            "{odd:?}"
        );
    }
}

#[test]
fn a_head_whose_connection_is_lost_is_no_outcome() {
    for platform in [Platform::Apns, Platform::Fcm] {
        let world = one_odd(platform, Reply::Cut(404, false));
        assert_eq!(counted(&world, Outcome::Accepted), u64::from(DEVICES), "{platform:?}");
        let retried = (Consequence::Retried, 404, String::new(), 1);
        assert_eq!(world.reasons(1), [retried]);
        // Whatever else was out on that connection got no answer either.
        assert!((1..=100).contains(&world.last(1).unanswered_requests));
        let last = world.gateway.requests.iter().map(|r| r.at).max().unwrap();
        assert!(last < Time(40 * SECOND));
    }
}

/// The limit of a device concerns that device only, wherever the answer names it.
#[test]
fn one_429_that_speaks_of_a_device_stops_only_that_device() {
    let body = r#"{"error":{"code":429,"message":"Device message rate exceeded","status":"RESOURCE_EXHAUSTED","details":[
        {"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"QUOTA_EXCEEDED"}]}}"#;
    let mut world = one_odd(Platform::Fcm, Reply::Page(429, body));
    assert_eq!(counted(&world, Outcome::Accepted), u64::from(DEVICES) - 1, "it waits for a minute");
    world.run_for(Duration::from_mins(2));
    assert_eq!(counted(&world, Outcome::Accepted), u64::from(DEVICES));
    assert!(world.said.health.iter().all(|h| *h == LaneHealth::Ready));
    assert_eq!(world.reasons(1), [(Consequence::Retried, 429, "QUOTA_EXCEEDED".to_owned(), 1)]);
}

#[test]
fn every_refusal_is_counted_by_its_reason() {
    for (platform, odd, told) in [
        (
            Platform::Fcm,
            Reply::Fcm(401, "THIRD_PARTY_AUTH_ERROR", None),
            (401, "THIRD_PARTY_AUTH_ERROR"),
        ),
        (Platform::Fcm, Reply::Fcm(403, "SENDER_ID_MISMATCH", None), (403, "SENDER_ID_MISMATCH")),
        (
            Platform::Apns,
            Reply::Refuse(400, "DeviceTokenNotForTopic"),
            (400, "DeviceTokenNotForTopic"),
        ),
    ] {
        let mut world =
            world(move |request, _| if request.platform == platform { odd } else { Reply::Accept });
        world.run_for(Duration::from_secs(30));
        let half = u64::from(DEVICES / 2);
        assert_eq!(
            (counted(&world, Outcome::Accepted), counted(&world, Outcome::Refused)),
            (half, half)
        );
        assert_eq!(world.reasons(1), [(Consequence::Refused, told.0, told.1.to_owned(), half)]);
        let app = world
            .last(1)
            .answers
            .iter()
            .find(|(.., answers)| answers.of(Outcome::Refused) > 0)
            .unwrap();
        assert_eq!(app.0 == LANE, platform == Platform::Apns);
    }
}

#[test]
fn what_may_be_the_wrong_environment_is_told_from_what_is_dead() {
    let mut world = world(|request, _| match (request.platform, request.device % 10) {
        (Platform::Apns, 0) => Reply::Refuse(400, "BadDeviceToken"),
        (Platform::Apns, 2) => Reply::Refuse(410, "Unregistered"),
        (Platform::Fcm, 1) => Reply::Fcm(404, "UNREGISTERED", None),
        _ => Reply::Accept,
    });
    world.run_for(Duration::from_secs(10));
    let tenth = u64::from(DEVICES / 10);
    let dead: Vec<_> = world.said.reports.iter().flat_map(|report| &report.dead).collect();
    assert_eq!(dead.len() as u64, 3 * tenth);
    assert_eq!(dead.iter().filter(|dead| dead.needs_evidence).count() as u64, tenth);
    assert!(dead.iter().all(|dead| (dead.app.id() == "demo") == (dead.lane == LANE)));
    let (.., apns) = world.last(1).answers.iter().find(|(lane, ..)| *lane == LANE).unwrap();
    assert_eq!((apns.of(Outcome::Accepted), apns.of(Outcome::Dead)), (3 * tenth, 2 * tenth));
    assert_eq!(apns.bad_device_tokens, tenth);
}

/// A proxy answers in place of the gateway: the lane reports the trouble and probes, and reaches
/// every device when the proxy is removed.
#[test]
fn an_outage_of_pages_pauses_the_lane_with_probes_and_refuses_nobody() {
    let (from, to) = (Time(2 * SECOND), Time(22 * SECOND));
    for (platform, odd) in [
        (Platform::Apns, Reply::Page(404, HTML)),
        (Platform::Fcm, Reply::Page(403, HTML)),
        (Platform::Apns, Reply::Page(302, "")),
        (Platform::Apns, Reply::Cut(413, true)),
    ] {
        let mut world = world(move |request, _| match request.at {
            at if request.platform == platform && at >= from && at < to => odd,
            _ => Reply::Accept,
        });
        world.run(to);
        let of_lane =
            |world: &World| world.requests_of(platform).iter().map(|r| r.at).collect::<Vec<_>>();
        let during = of_lane(&world).iter().filter(|at| **at >= from).count();
        // A row, what was in flight by then, and probes of two connections.
        assert!(during <= 32 + 200 + 2 * 40, "{odd:?}: {during}");
        let (_, told_at, news) = world
            .said
            .states
            .iter()
            .find(|(_, _, news)| news.health == LaneHealth::Unsigned)
            .expect("a trouble");
        let first = of_lane(&world).into_iter().find(|at| *at >= from).unwrap();
        assert!(told_at.since(first) < Duration::from_millis(200), "{odd:?}");
        assert!(
            news.since.is_some()
                && news.next_probe.is_some_and(|at| at.since(*told_at) < Duration::from_secs(3))
        );
        assert!(news.detail.starts_with("status "), "{}", news.detail);
        world.run_for(Duration::from_mins(2));
        assert_eq!(counted(&world, Outcome::Accepted), u64::from(DEVICES), "{odd:?}");
        let back = of_lane(&world).into_iter().find(|at| *at >= to).unwrap();
        assert!(back.since(to) <= Duration::from_secs(3), "{odd:?}: {:?}", back.since(to));
        assert_eq!(world.said.health.last(), Some(&LaneHealth::Ready));
        // The other lane did not wait.
        let other = world
            .gateway
            .requests
            .iter()
            .filter(|r| r.platform != platform)
            .map(|r| r.at)
            .max()
            .unwrap();
        assert!(other < Time(6 * SECOND), "{odd:?}");
    }
}

/// One in a hundred answers is a proxy's.
#[test]
fn some_pages_among_good_answers_are_no_trouble() {
    let mut asked = 0;
    let mut world = world(move |_, _| {
        asked += 1;
        match asked % 400 {
            100 => Reply::Page(502, HTML),
            200 => Reply::Page(404, HTML),
            300 => Reply::Page(302, ""),
            0 => Reply::Cut(403, true),
            _ => Reply::Accept,
        }
    });
    world.run_for(Duration::from_mins(2));
    assert_eq!(counted(&world, Outcome::Accepted), u64::from(DEVICES));
    assert!(world.said.health.iter().all(|h| *h == LaneHealth::Ready), "{:?}", world.said.health);
    let reasons = world.reasons(1);
    // Of both apps.
    assert_eq!(reasons.len(), 2 * 4, "{reasons:?}");
    assert!(
        reasons
            .iter()
            .all(|(then, _, reason, _)| *then == Consequence::Retried && reason.is_empty())
    );
    assert!(reasons.iter().map(|(.., count)| count).sum::<u64>() >= 30, "{reasons:?}");
}

/// A key is revoked in the middle of a wave: the lane stops and reports it, and single requests
/// test whether the key is still refused.
#[test]
fn a_credential_that_all_refuse_stops_and_is_probed_by_single_requests() {
    let (from, to) = (Time(2 * SECOND), Time(22 * SECOND));
    let mut world = world(move |request, _| match request.at {
        at if request.platform == Platform::Apns && at >= from && at < to => {
            Reply::Refuse(403, "InvalidProviderToken")
        }
        _ => Reply::Accept,
    });
    world.run(to);
    let refused: Vec<Time> =
        world.requests_of(Platform::Apns).iter().map(|r| r.at).filter(|at| *at >= from).collect();
    let (_, told_at, news) = world
        .said
        .states
        .iter()
        .find(|(_, _, news)| news.health == LaneHealth::Credential)
        .expect("an alarm");
    assert_eq!(news.detail, "InvalidProviderToken");
    assert!(told_at.since(from) < Duration::from_secs(2), "{told_at:?}");
    let probes: Vec<_> =
        refused.iter().filter(|at| **at > *told_at + Duration::from_secs(3)).collect();
    assert!((3..=20).contains(&probes.len()), "{}", probes.len());
    assert!(refused.len() <= 32 + 200 + 20, "{}", refused.len());
    assert_eq!(counted(&world, Outcome::Refused), 0);
    world.run_for(Duration::from_secs(20));
    assert_eq!(counted(&world, Outcome::Accepted), u64::from(DEVICES));
    let back = world.requests_of(Platform::Apns).iter().map(|r| r.at).find(|at| *at >= to).unwrap();
    assert!(back.since(to) <= Duration::from_secs(6), "{:?}", back.since(to));
}

/// After restarts the gateway does not accept a token yet, and there is no other one: the lane
/// retries within seconds, and reports it.
#[test]
fn a_first_token_that_changed_too_often_is_tried_again_in_seconds_and_told() {
    let until = Time(12 * SECOND);
    let mut world = World::new(Gateway::new(100, move |request, _| match request.at {
        at if at < until => Reply::Refuse(429, "TooManyProviderTokenUpdates"),
        _ => Reply::Accept,
    }));
    world.latency = Duration::from_millis(20);
    world.populate(0..1_000);
    world.start(1, HOUR);
    world.run(until);
    let asked = world.gateway.requests.len();
    assert!((5..=30).contains(&asked), "{asked}");
    let told = world
        .said
        .states
        .iter()
        .find(|(_, _, news)| news.health == LaneHealth::Throttled)
        .expect("a trouble");
    assert_eq!(told.2.detail, "TooManyProviderTokenUpdates");
    assert!(told.1 < Time(2 * SECOND) && told.2.next_probe.is_some());
    world.run_for(Duration::from_secs(5));
    assert_eq!(counted(&world, Outcome::Accepted), 1_000);
    let back = world.gateway.requests.iter().map(|r| r.at).find(|at| *at >= until).unwrap();
    assert!(back.since(until) <= Duration::from_secs(3));
    assert_eq!(world.said.health.last(), Some(&LaneHealth::Ready));
}

/// A token that was accepted before gets the same answer: the lane pauses, reports it, and recovers
/// after the trouble.
#[test]
fn an_accepted_token_that_changed_too_often_pauses_the_lane_with_probes() {
    let (from, to) = (Time(2 * SECOND), Time(32 * SECOND));
    let mut world = world(move |request, _| match request.at {
        at if request.platform == Platform::Apns && at >= from && at < to => {
            Reply::Refuse(429, "TooManyProviderTokenUpdates")
        }
        _ => Reply::Accept,
    });
    world.run(to);
    let told = world
        .said
        .states
        .iter()
        .find(|(_, _, news)| news.health == LaneHealth::Throttled)
        .expect("a trouble");
    assert_eq!(told.2.detail, "TooManyProviderTokenUpdates");
    let during = world.requests_of(Platform::Apns).iter().filter(|r| r.at >= from).count();
    assert!(during <= 32 + 200 + 2 * 60, "{during}");
    world.run_for(Duration::from_mins(1));
    assert_eq!(counted(&world, Outcome::Accepted), u64::from(DEVICES));
    let back = world.requests_of(Platform::Apns).iter().map(|r| r.at).find(|at| *at >= to).unwrap();
    assert!(back.since(to) <= Duration::from_secs(3), "{:?}", back.since(to));
    assert_eq!(world.said.health.last(), Some(&LaneHealth::Ready));
}

/// Fewer devices than a row needs, and a single connection: each is refused by its own answers.
#[test]
fn a_message_wrong_for_a_few_ends_with_their_own_answers() {
    let mut world = World::with(Gateway::new(100, |_, _| Reply::Refuse(400, "BadTopic")), true, 1);
    world.latency = Duration::from_millis(20);
    world.populate(0..10);
    world.start(1, HOUR);
    world.run_for(Duration::from_secs(60));
    assert_eq!(counted(&world, Outcome::Refused), 10);
    assert!(world.last(1).complete);
    assert!(world.requests_by_device().values().all(|tries| *tries == 4));
    let reasons = world.reasons(1);
    assert!(
        reasons.contains(&(Consequence::Refused, 400, "BadTopic".to_owned(), 10)),
        "{reasons:?}"
    );
    assert!(
        reasons.contains(&(Consequence::Retried, 400, "BadTopic".to_owned(), 30)),
        "{reasons:?}"
    );
}

/// One connection whose answers are all bad, among others that are well, is replaced and decides
/// nothing.
#[test]
fn one_connection_does_not_decide() {
    for odd in [
        Reply::Refuse(400, "BadTopic"),
        Reply::Refuse(403, "InvalidProviderToken"),
        Reply::Refuse(503, "ServiceUnavailable"),
        Reply::Page(404, HTML),
    ] {
        let mut first = None;
        let mut world = World::with(
            Gateway::new(100, move |request, _| {
                if *first.get_or_insert(request.connection) == request.connection
                    && request.at > Time(SECOND)
                {
                    odd
                } else {
                    Reply::Accept
                }
            }),
            true,
            3,
        );
        world.latency = Duration::from_millis(20);
        world.populate(0..DEVICES);
        world.start(1, HOUR);
        world.grant(1, Time::NEVER, Some(RATE));
        world.run_for(Duration::from_mins(2));
        assert_eq!(counted(&world, Outcome::Accepted), u64::from(DEVICES), "{odd:?}");
        assert!(world.last(1).refused_messages.is_empty(), "{odd:?}");
        assert!(
            world.said.health.iter().all(|h| *h == LaneHealth::Ready),
            "{odd:?}: {:?}",
            world.said.health
        );
    }
}
