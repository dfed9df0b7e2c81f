//! Any mixture of answers: a success in every row acquits, and a full row of refusals condemns.

use proptest::{prelude::*, sample::select};

use super::*;

/// Number of answers in a full row, as in the tests' lanes.
const K: usize = 32;

/// Any answer that an APNs lane may get and that is no success, by the subject that it concerns.
fn bad() -> impl Strategy<Value = Reply> {
    let signed = select(vec![
        (400, "BadTopic"),
        (400, "PayloadEmpty"),
        (404, "BadPath"),
        (405, "MethodNotAllowed"),
        (413, "PayloadTooLarge"),
        (403, "InvalidProviderToken"),
        (403, "ExpiredProviderToken"),
        (403, "Forbidden"),
        (429, "TooManyRequests"),
        (429, "TooManyProviderTokenUpdates"),
        (500, "InternalServerError"),
        (503, "ServiceUnavailable"),
        (400, "SomethingNew"),
        (403, "SomethingNew"),
    ]);
    let unsigned = select(vec![302, 307, 400, 401, 403, 404, 407, 410, 413, 429, 500, 502, 503]);
    prop_oneof![
        3 => signed.prop_map(|(status, reason)| Reply::Refuse(status, reason)),
        2 => unsigned.clone().prop_map(|status| Reply::Page(status, HTML)),
        1 => unsigned.prop_map(|status| Reply::Cut(status, true)),
    ]
}

fn run(
    connections: usize,
    latency_ms: u64,
    script: impl FnMut(&Request, u32) -> Reply + 'static,
) -> World {
    let mut world = World::with(Gateway::new(100, script), true, connections);
    world.latency = Duration::from_millis(latency_ms);
    // Of one language: each message has a row of its own.
    world.apply((0..600).filter(|n| n % 5 != 0).map(|n| arrival(n, home(n))).collect());
    world.start(1, HOUR);
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// With a success every n < k answers nothing is ever condemned.
    #[test]
    fn a_success_in_every_row_acquits(
        connections in 1usize..=3,
        latency_ms in 0u64..40,
        bads in prop::collection::vec(bad(), 1..20),
        gaps in prop::collection::vec(0..K - 1, 1..20),
    ) {
        let (mut gap, mut left, mut n) = (0, 0, 0);
        let mut world = run(connections, latency_ms, move |_, _| {
            if left == 0 {
                left = gaps[gap % gaps.len()];
                gap += 1;
                return Reply::Accept;
            }
            (left, n) = (left - 1, n + 1);
            bads[n % bads.len()]
        });
        for _ in 0..200 {
            world.run_for(Duration::from_millis(100));
            let trust = &world.core.lanes[0].end.trust;
            prop_assert!(!trust.is_condemned());
        }
        // Where connections are refused one after the other, it is told that nothing gets through
        // for a while.
        let fine = |health: &LaneHealth| matches!(health, LaneHealth::Ready | LaneHealth::Credential);
        prop_assert!(world.said.health.iter().all(fine), "{:?}", world.said.details);
        prop_assert!(world.last(1).refused_messages.is_empty());
    }

    /// From a time on all answers are refusals of one kind, and the verdict comes after a full row
    /// and the requests in flight by then.
    #[test]
    fn a_row_of_refusals_condemns(connections in 2usize..=3, latency_ms in 0u64..40, odd in bad()) {
        let from = Time(2 * SECOND);
        let mut world = run(connections, latency_ms, move |request, _| {
            if request.at < from { Reply::Accept } else { odd }
        });
        world.grant(1, Time::NEVER, Some(Rate { per_second: 100.0, burst: 10.0 }));
        world.run(Time(5 * SECOND));
        let condemned = match odd {
            Reply::Refuse(400 | 404 | 405 | 413, reason) if reason != "SomethingNew" => LaneHealth::Campaign,
            Reply::Refuse(403, reason) if reason != "SomethingNew" => LaneHealth::Credential,
            // One device's limits, and words that concern one device.
            Reply::Refuse(429, "TooManyRequests") | Reply::Refuse(400, _) => return Ok(()),
            Reply::Refuse(429 | 500..=599, reason) if reason != "SomethingNew" => LaneHealth::Throttled,
            _ => LaneHealth::Unsigned,
        };
        let told = world.said.states.iter().find(|(_, _, news)| news.health == condemned);
        prop_assert!(told.is_some(), "{:?} {:?}", odd, world.said.details);
        let at = told.map(|(_, at, _)| *at).unwrap();
        let asked = world.gateway.requests.iter().filter(|r| r.at >= from && r.at <= at).map(|r| r.device);
        let devices: std::collections::BTreeSet<_> = asked.collect();
        prop_assert!(devices.len() <= K + connections * 100, "{} devices", devices.len());
    }
}
