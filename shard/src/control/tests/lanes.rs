//! Lane ends: divided over the cores, and one again when they are told.

use clarion_proto::{
    ids::LaneId,
    wire::shard_v1::{
        self as wire, lane_proxy::Proxy, session_request::Message as Say,
        session_response::Message as Wire,
    },
};
use clarion_runtime::proxy::Route;

use super::{
    super::*,
    SECOND, running,
    support::{Bench, lane},
};
use crate::lane::{health::LaneHealth, rate::Rate};

#[test]
fn connections_are_divided_over_the_cores() {
    let mut bench = Bench::new(2);
    bench.open();
    bench.outputs();
    bench.say(lane(1));
    let commands = bench.commands();
    let [(0, Command::Lane(first)), (1, Command::Lane(second)), ..] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert_eq!((first.connections, second.connections), (0, 1));
    let host_is = |core| move |c: &(usize, Command)| matches!(c.1, Command::Connections { host, .. } if host == core);
    assert!(
        host_is(Some(1))(&commands[2]) && host_is(None)(&commands[3]),
        "one for both: {commands:?}"
    );
    for (connections, expected) in [(5, [2, 3]), (5, [0, 0]), (8, [4, 4]), (1, [0, 1])] {
        bench.say(wire::session_request::Message::Connections(wire::Connections {
            lane: 1,
            connections,
        }));
        let got: Vec<_> = bench
            .commands()
            .into_iter()
            .map(|(_, c)| match c {
                Command::Connections { lane: LaneId(1), connections, host } => {
                    assert_eq!(host.is_some(), connections == 0);
                    connections
                }
                other => panic!("{other:?}"),
            })
            .collect();
        let said_again = expected == [0, 0];
        assert_eq!(got, if said_again { vec![] } else { expected.to_vec() });
    }
    for connections in [0, 1_025] {
        bench.say(wire::session_request::Message::Connections(wire::Connections {
            lane: 1,
            connections,
        }));
    }
    bench.say(wire::session_request::Message::Connections(wire::Connections {
        lane: 9,
        connections: 1,
    }));
    assert!(bench.commands().is_empty());
    assert_eq!(bench.refusals().len(), 3);
}

#[test]
fn loads_of_all_cores_are_one_and_are_told_ten_times_a_second() {
    let mut bench = running();
    bench.messages();
    let load = |starved, connections: u64, us| {
        let mut latencies = clarion_proto::latency::Latencies::default();
        latencies.count(us);
        Box::new(crate::lane::load::LaneLoad {
            busy: true,
            starved,
            connections,
            streams: 100 * connections,
            window_bytes: 65_535 * connections,
            requests_out_max: 10,
            bodies: 10 * connections,
            body_bytes: 2_570 * connections,
            latencies,
        })
    };
    bench.control.event(0, Event::LaneLoad { lane: LaneId(1), load: load(0.25, 2, 1_000) });
    let loads = |bench: &mut Bench| -> Vec<_> {
        let load = |m| match m {
            Wire::LaneLoad(load) => Some(load),
            _ => None,
        };
        bench.messages().into_iter().filter_map(load).collect()
    };
    assert_eq!(loads(&mut bench).len(), 1);
    bench.control.event(1, Event::LaneLoad { lane: LaneId(1), load: load(0.75, 1, 1_000) });
    assert_eq!(loads(&mut bench), [], "not yet");
    bench.now = bench.now + crate::lane::load::TELL_EVERY;
    let [told] = &loads(&mut bench)[..] else { panic!("one load") };
    assert_eq!((told.starved_permille, told.connections, told.streams), (750, 3, 300));
    assert_eq!((told.window_bytes, told.body_bytes, told.requests_out_max), (3 * 65_535, 257, 20));
    assert_eq!(told.latencies.iter().sum::<u32>(), 2);
}

#[test]
fn slices_are_divided_over_all_cores() {
    let mut bench = running();
    bench.now = bench.now + SECOND;
    let Some(Wire::LeaseRequest(ask)) = bench.message() else { panic!() };
    let asked = bench.now;
    let slice = |lane, rate_millis_per_second, burst| {
        let slice =
            wire::Slice { nonce: ask.nonce, lease_ms: 1_000, lane, rate_millis_per_second, burst };
        wire::session_request::Message::Slice(slice)
    };
    bench.say(slice(1, 9_000, 30));
    bench.say(slice(1, 0, 0));
    let got = bench.commands().into_iter().map(|(core, c)| match c {
        Command::Slice { lane: LaneId(1), until, rate } if until == asked + SECOND => (core, rate),
        other => panic!("{other:?}"),
    });
    let got: Vec<_> = got.collect();
    let half = Some(Rate { per_second: 4.5, burst: 15.0 });
    assert_eq!(got, [(0, half), (1, half), (0, None), (1, None)]);
    bench.say(slice(2, 0, 0));
    assert!(
        bench.refusals()[0]
            .reason
            .contains("slice.lane: must be the number of a known lane; got 2")
    );
}

#[test]
fn a_lane_is_as_well_as_its_worst_core() {
    let mut bench = running();
    let said = |bench: &Bench, health, detail: &str| Event::LaneState {
        lane: LaneId(1),
        at: bench.now,
        health,
        detail: detail.to_owned(),
        since: (health != LaneHealth::Ready).then(|| bench.now - 3 * SECOND),
        next_probe: (health == LaneHealth::Credential).then(|| bench.now + 2 * SECOND),
    };
    let told = |bench: &mut Bench| {
        let told = bench.messages().into_iter().filter_map(|m| match m {
            Wire::LaneState(s) => Some((s.health(), s.detail)),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    let event = said(&bench, LaneHealth::Ready, "Ready");
    bench.control.event(0, event);
    assert_eq!(told(&mut bench), [(wire::LaneHealth::Ready, "Ready".to_owned())]);
    let event = said(&bench, LaneHealth::Credential, "Credential");
    bench.control.event(1, event);
    assert_eq!(told(&mut bench), [(wire::LaneHealth::Credential, "Credential".to_owned())]);
    let event = said(&bench, LaneHealth::Throttled, "Throttled");
    bench.control.event(0, event);
    assert_eq!(told(&mut bench), [], "no better, no worse");
    let other = said(&bench, LaneHealth::Credential, "why");
    bench.control.event(1, other);
    assert_eq!(
        told(&mut bench),
        [(wire::LaneHealth::Credential, "why".to_owned())],
        "another reason is news"
    );
    bench.open();
    assert_eq!(told(&mut bench).len(), 1, "a new session is told how it stands");
}

#[test]
fn a_proxy_is_checked_and_passed_on() {
    let mut bench = Bench::new(1);
    bench.open();
    bench.outputs();
    let address = |endpoint: &str, authorization: &str| {
        Some(Proxy::Address(wire::ProxyAddress {
            endpoint: endpoint.to_owned(),
            authorization: authorization.to_owned(),
        }))
    };
    let long = format!("Basic {}", "x".repeat(2_043));
    let cases = [
        (None, "lane.proxy.proxy: must be of_environment, which must be true, or address"),
        (Some(Proxy::OfEnvironment(false)), "lane.proxy.proxy: must be of_environment"),
        (Some(Proxy::OfEnvironment(true)), ""),
        (address("proxy:3128", ""), ""),
        (address("proxy:3128", "Basic secret"), ""),
        (address("proxy", ""), "lane.proxy.address.endpoint: must be host:port"),
        (address("proxy:0", ""), "lane.proxy.address.endpoint: must be host:port"),
        (address(":3128", ""), "lane.proxy.address.endpoint: must be host:port"),
        (
            address("proxy:3128", "secret\r\nX: y"),
            "lane.proxy.address.authorization: must be 1 to 2048 visible ASCII characters",
        ),
        (address("proxy:3128", &long), "visible ASCII characters; got 2049 bytes"),
    ];
    for (n, (proxy, words)) in (1..).zip(cases) {
        let Say::Lane(mut lane) = lane(n) else { unreachable!() };
        lane.proxy = Some(wire::LaneProxy { proxy });
        bench.say(Say::Lane(lane));
        let refusals = bench.refusals();
        let told = refusals.first().map(|refusal| refusal.reason.as_str()).unwrap_or_default();
        assert!(told.contains(words) && told.is_empty() == words.is_empty(), "{n}: {told}");
        assert!(!told.contains("secret"), "{told}");
        let made = bench.commands().into_iter().find_map(|(_, c)| match c {
            Command::Lane(spec) => Some(spec.route.clone()),
            _ => None,
        });
        assert_eq!(made.is_some(), words.is_empty(), "{n}");
        assert_ne!(made, Some(Route::Direct), "{n}");
    }
}

#[test]
fn how_many_answers_a_verdict_needs_is_checked_and_passed_on() {
    let mut bench = Bench::new(1);
    bench.open();
    bench.outputs();
    for (answers, fits) in [(0_u16, false), (1, false), (2, true), (1_024, true), (1_025, false)] {
        let Say::Lane(mut lane) = lane(u32::from(answers) + 1) else { unreachable!() };
        lane.limits.as_mut().unwrap().evidence_answers = answers.into();
        bench.say(Say::Lane(lane));
        let refusals = bench.refusals();
        let told = refusals.first().map(|refusal| refusal.reason.as_str()).unwrap_or_default();
        assert_eq!(fits, told.is_empty(), "{answers}: {told}");
        assert!(fits || told.contains("lane.limits.evidence_answers: must be 2 to 1024"), "{told}");
        let made = bench.commands().into_iter().find_map(|(_, c)| match c {
            Command::Lane(spec) => Some(spec.evidence),
            _ => None,
        });
        assert_eq!(made, fits.then_some(answers.into()));
    }
}

#[test]
fn a_trouble_is_told_with_its_age_and_its_next_probe() {
    let mut bench = running();
    bench.now = bench.now + 10 * SECOND;
    bench.control.event(
        0,
        Event::LaneState {
            lane: LaneId(1),
            at: bench.now,
            health: LaneHealth::Unsigned,
            detail: "status 404 without the provider's reason".to_owned(),
            since: Some(bench.now - 3 * SECOND),
            next_probe: Some(bench.now + 2 * SECOND),
        },
    );
    bench.now = bench.now + SECOND;
    let told = bench
        .messages()
        .into_iter()
        .find_map(|m| if let Wire::LaneState(s) = m { Some(s) } else { None });
    let told = told.expect("a state");
    assert_eq!((told.health(), told.troubled_for_ms), (wire::LaneHealth::Unsigned, 4_000));
    assert_eq!(told.next_probe_in_ms, Some(1_000));
}
