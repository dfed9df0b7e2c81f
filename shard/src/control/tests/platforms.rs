//! Lanes and waves of two platforms: what fits is taken, what does not is refused by its field.

use bytes::Bytes;
use clarion_proto::{
    ids::{LaneId, WaveId},
    wire::shard_v1::{
        self as wire, app_messages::Request as WireRequest, session_request::Message as Say,
        session_response::Message as Wire,
    },
};

use super::{
    super::*,
    report, running,
    support::{Bench, lane_of, plan},
};
use crate::{lane::provider::request::Request, outcome::Platform};

const FCM_LANE: u32 = 2;

/// As [`running`], with an FCM lane beside.
fn both() -> Bench {
    let mut bench = running();
    bench.say(lane_of(wire::LanePlatform::Fcm, FCM_LANE));
    bench.outputs();
    bench
}

fn fcm_app(project: &str, body: &str, after: &str) -> wire::AppMessages {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let message = wire::LocaleMessage {
        locale: "en".to_owned(),
        body: bytes(body),
        body_after_token: bytes(after),
    };
    wire::AppMessages {
        app: "android".to_owned(),
        lane: FCM_LANE,
        request: Some(WireRequest::Fcm(wire::FcmRequest { project: project.to_owned() })),
        messages: vec![message],
    }
}

fn wave_with(app: wire::AppMessages) -> wire::Wave {
    let mut wave = plan(8, 1, 1, &[0, 1]);
    wave.apps.push(app);
    wave
}

const BEFORE: &str = r#"{"message":{"token":""#;
const AFTER: &str = r#""}}"#;

#[test]
fn a_wave_over_both_platforms_is_taken() {
    let mut bench = both();
    bench.say(Say::Wave(wave_with(fcm_app("demo-1", BEFORE, AFTER))));
    let commands = bench.commands();
    let [(0, Command::Wave(spec)), (1, Command::Wave(_))] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert_eq!(spec.apps[1].request, Request::Fcm { project: "demo-1".to_owned() });
    let message = &spec.apps[1].messages[0];
    assert_eq!(
        (&message.body[..], &message.body_after_token[..]),
        (BEFORE.as_bytes(), AFTER.as_bytes())
    );
}

#[test]
fn a_lane_is_told_to_the_cores_with_its_platform_and_keeps_it() {
    let mut bench = running();
    bench.say(lane_of(wire::LanePlatform::Fcm, FCM_LANE));
    let platforms = bench.commands().into_iter().filter_map(|(_, c)| match c {
        Command::Lane(spec) => Some(spec.platform),
        Command::Connections { .. } => None,
        other => panic!("{other:?}"),
    });
    assert_eq!(platforms.collect::<Vec<_>>(), [Platform::Fcm; 2]);
    bench.say(lane_of(wire::LanePlatform::Apns, FCM_LANE));
    assert!(bench.commands().is_empty());
    assert!(
        bench.refusals()[0]
            .reason
            .contains("lane.platform: must not change: lane 2 was created with Fcm")
    );
    bench.say(lane_of(wire::LanePlatform::Unspecified, 3));
    assert!(bench.refusals()[0].reason.contains("lane.platform: must be APNS or FCM"));
}

#[test]
fn what_does_not_fit_is_refused_by_its_field() {
    let mut bench = both();
    let large = format!("{}\"", "x".repeat(25_600 - AFTER.len()));
    let on_apns = wire::AppMessages { lane: 1, ..fcm_app("demo-1", BEFORE, AFTER) };
    let mut apns_on_fcm = plan(8, 1, 1, &[0]);
    apns_on_fcm.apps[0].lane = FCM_LANE;
    let mut two_parts = plan(8, 1, 1, &[0]);
    two_parts.apps[0].messages[0].body_after_token = Bytes::from_static(b"}");
    let mut nothing = fcm_app("demo-1", BEFORE, AFTER);
    nothing.request = None;
    for (wave, part) in [
        (wave_with(on_apns), "wave.apps[1].request: is for Fcm, lane 1 is Apns"),
        (apns_on_fcm, "wave.apps[0].request: is for Apns, lane 2 is Fcm"),
        (two_parts, "wave.apps[0].messages[0].body_after_token: must be 0 to 0; got 1"),
        (wave_with(nothing), "wave.apps[1].request: is required"),
        (
            wave_with(fcm_app("", BEFORE, AFTER)),
            "wave.apps[1].fcm.project: must have 1 to 128 bytes",
        ),
        (
            wave_with(fcm_app("a/../b", BEFORE, AFTER)),
            "wave.apps[1].fcm.project: must contain letters",
        ),
        (wave_with(fcm_app("..", BEFORE, AFTER)), "wave.apps[1].fcm.project: must contain letters"),
        (
            wave_with(fcm_app("a?b", BEFORE, AFTER)),
            "wave.apps[1].fcm.project: must contain letters",
        ),
        (
            wave_with(fcm_app("a%2fb", BEFORE, AFTER)),
            "wave.apps[1].fcm.project: must contain letters",
        ),
        (
            wave_with(fcm_app("a b", BEFORE, AFTER)),
            "wave.apps[1].fcm.project: must contain printable ASCII",
        ),
        (
            wave_with(fcm_app("demo-1", "", AFTER)),
            "wave.apps[1].messages[0].body: must end with the quote",
        ),
        (
            wave_with(fcm_app("demo-1", "{", AFTER)),
            "wave.apps[1].messages[0].body: must end with the quote",
        ),
        (
            wave_with(fcm_app("demo-1", BEFORE, "")),
            "wave.apps[1].messages[0].body_after_token: must begin with",
        ),
        (
            wave_with(fcm_app("demo-1", BEFORE, "}")),
            "wave.apps[1].messages[0].body_after_token: must begin with",
        ),
        (
            wave_with(fcm_app("demo-1", &large, AFTER)),
            "must have at most 25600 bytes together; got 25601",
        ),
    ] {
        bench.say(Say::Wave(wave));
        let refusals = bench.refusals();
        assert_eq!(refusals.len(), 1, "{part}");
        assert!(refusals[0].reason.contains(part), "{}", refusals[0].reason);
        assert_eq!(refusals[0].wave, 8);
        assert!(bench.outputs().is_empty(), "a refused message changes nothing");
    }
    let largest = &large[1..];
    bench.say(Say::Wave(wave_with(fcm_app("example.com:demo-1", largest, AFTER))));
    assert!(matches!(bench.commands()[..], [(0, Command::Wave(_)), (1, Command::Wave(_))]));
}

#[test]
fn each_lane_has_its_own_gate() {
    let mut bench = both();
    bench.say(Say::Wave(wave_with(fcm_app("demo-1", BEFORE, AFTER))));
    bench.outputs();
    let walked = |apns: u32, fcm: u32| {
        let Event::Report(mut core) = report(8, 0) else { unreachable!() };
        core.bands_walked = vec![(LaneId(1), apns), (LaneId(FCM_LANE), fcm)];
        Event::Report(core)
    };
    let mut opened = |core: usize, apns: u32, fcm: u32| {
        bench.control.event(core, walked(apns, fcm));
        let opened = bench.commands().into_iter().map(|(core, c)| match c {
            Command::OpenBands { lane, bands, .. } => (core, lane.0, bands),
            other => panic!("{other:?}"),
        });
        opened.collect::<Vec<_>>()
    };
    assert_eq!(opened(0, 1, 0), []);
    assert_eq!(opened(1, 1, 0), [(0, 1, 2), (1, 1, 2)], "the slow lane holds back nobody");
    assert_eq!(opened(0, 2, 1), []);
    assert_eq!(opened(1, 2, 0), [(0, 1, 3), (1, 1, 3)]);
    assert_eq!(opened(1, 3, 1), [(0, 2, 2), (1, 2, 2)]);
    // To the coordinator only what is whole counts.
    bench.now = bench.now + std::time::Duration::from_secs(1);
    bench.control.event(
        0,
        Event::Report(Box::new(crate::command::CoreReport {
            wave: WaveId(8),
            all: true,
            bands_walked: vec![(LaneId(1), 3), (LaneId(FCM_LANE), 1)],
            ..Default::default()
        })),
    );
    let told = bench
        .messages()
        .into_iter()
        .find_map(|m| if let Wire::Report(r) = m { Some(r.bands_walked) } else { None });
    assert_eq!(told, Some(1));
}
