use clarion_proto::{
    app::{App, Environment, Platform},
    ids::{AlertName, UnixMillis},
    wire::v1 as wire,
};

use super::*;
use crate::config::{Args, tests::with_lane};

fn wire_alert(mode: wire::Mode) -> wire::Alert {
    let message = wire::Message { title: "Missing \"child\"".into(), body: "Zuletzt gesehen: Bahnhof ❤".into() };
    let circle = wire::Circle { center: Some(wire::LatLng::default()), radius_meters: 5.0 };
    wire::Alert {
        case: Some(wire::Case {
            messages: [("en".to_owned(), message.clone()), ("de".to_owned(), message)].into(),
            fallback_locale: "en".into(),
            ..Default::default()
        }),
        severity: wire::Severity::Urgent.into(),
        region: Some(wire::Region { shape: Some(wire::region::Shape::Circle(circle)), exclusions: vec![] }),
        audience: Some(wire::Audience { apps: vec!["apps/demo".into()], segments: "a OR b".into() }),
        active_until: Some(prost_types::Timestamp { seconds: 2_000, nanos: 0 }),
        mode: mode.into(),
        ..Default::default()
    }
}

fn spec(alert: wire::Alert) -> AlertSpec {
    AlertSpec::from_wire(alert).expect("valid")
}

fn app(lane_kind: LaneKind) -> Option<Arc<AppRecord>> {
    let app = App {
        name: AppName::from_id("demo").expect("valid"),
        display_name: String::new(),
        platform: Platform::Apns,
        gateway: "apns".into(),
        credential: "team".into(),
        topic: "org.example".into(),
        project: String::new(),
        environment: Environment::Sandbox,
        lane_kind,
    };
    Some(Arc::new(AppRecord { app, created: UnixMillis(1), revision: 1 }))
}

#[test]
fn a_test_never_opens_a_live_lane() {
    let (test, live) = (with_lane("test", Args::default()), with_lane("live", Args::default()));
    let spec = spec(wire_alert(wire::Mode::Test));
    assert_eq!(admit(&spec, &[app(LaneKind::Test)], &test), Ok(()));
    for (app, config) in [(app(LaneKind::Live), &test), (app(LaneKind::Test), &live), (app(LaneKind::Live), &live)] {
        assert!(matches!(admit(&spec, &[app], config), Err(Refusal::TestOnLiveLane { .. })));
    }
}

#[test]
fn live_needs_an_identity_or_a_flag() {
    let spec = spec(wire_alert(wire::Mode::Live));
    let config = with_lane("live", Args::default());
    assert_eq!(admit(&spec, &[app(LaneKind::Live)], &config), Err(Refusal::LiveWithoutIdentity));
    let allowed = with_lane("live", Args { allow_live_without_identity: Some(true), ..Args::default() });
    assert_eq!(admit(&spec, &[app(LaneKind::Live)], &allowed), Ok(()));
}

#[test]
fn apps_exist_and_their_lanes_are_configured() {
    let spec = spec(wire_alert(wire::Mode::Test));
    let config = with_lane("test", Args::default());
    assert!(matches!(admit(&spec, &[None], &config), Err(Refusal::UnknownApp { .. })));
    let mut moved = app(LaneKind::Test).expect("made");
    Arc::make_mut(&mut moved).app.gateway = "gone".into();
    assert!(matches!(admit(&spec, &[Some(moved)], &config), Err(Refusal::LaneNotConfigured { .. })));
}

#[test]
fn an_exercise_reaches_its_segment_and_says_so() {
    let exercise = spec(wire_alert(wire::Mode::Exercise));
    assert_eq!(segments(&exercise).to_string(), "exercise AND (a OR b)");
    assert_eq!(segments(&spec(wire_alert(wire::Mode::Test))).to_string(), "a OR b");
    let name = AlertName::from_id("a1").expect("valid");
    let demo = AppName::from_id("demo").expect("valid");
    let bodies = render::apns(&exercise, &name, &demo, "EXERCISE: ").expect("short");
    assert_eq!(bodies.iter().map(|(l, _)| l.as_str()).collect::<Vec<_>>(), ["en", "de"], "the fallback first");
    let json: serde_json::Value = serde_json::from_slice(&bodies[0].1).expect("JSON");
    assert_eq!(
        json,
        serde_json::json!({
            "aps": {
                "alert": {"title": "EXERCISE: Missing \"child\"", "body": "Zuletzt gesehen: Bahnhof ❤"},
                "sound": "default",
                "interruption-level": "time-sensitive",
            },
            "alert": "alerts/a1",
        })
    );
}

#[test]
fn severity_and_photograph_shape_the_body() {
    let mut alert = wire_alert(wire::Mode::Test);
    alert.severity = wire::Severity::Critical.into();
    let case = alert.case.as_mut().expect("set");
    case.image_url = "https://example.org/a.jpg".into();
    case.deep_link = "app://case/1".into();
    let name = AlertName::from_id("a1").expect("valid");
    let demo = AppName::from_id("demo").expect("valid");
    let json = |alert| {
        let bodies = render::apns(&spec(alert), &name, &demo, "X").expect("short");
        serde_json::from_slice::<serde_json::Value>(&bodies[0].1).expect("JSON")
    };
    let critical = json(alert.clone());
    assert_eq!(critical["aps"]["sound"], serde_json::json!({"critical": 1, "name": "default", "volume": 1.0}));
    assert_eq!(critical["aps"]["interruption-level"], "critical");
    assert_eq!(critical["aps"]["mutable-content"], 1);
    assert_eq!((&critical["image"], &critical["link"]), (&"https://example.org/a.jpg".into(), &"app://case/1".into()));
    alert.severity = wire::Severity::Information.into();
    let quiet = json(alert);
    assert_eq!((&quiet["aps"]["interruption-level"], quiet["aps"].get("sound")), (&"passive".into(), None));
}

#[test]
fn a_body_fits_to_the_byte_or_is_refused_with_the_excess() {
    let name = AlertName::from_id("a1").expect("valid");
    let demo = AppName::from_id("demo").expect("valid");
    let rendered = |quotes: usize, letters: usize| {
        let mut alert = wire_alert(wire::Mode::Test);
        let message = alert.case.as_mut().expect("set").messages.get_mut("de").expect("set");
        // A quotation mark takes two bytes in JSON: 3,000 bytes of body are enough to burst 4,096.
        message.body = format!("{}{}", "\"".repeat(quotes), "x".repeat(letters));
        render::apns(&spec(alert), &name, &demo, "X")
    };
    let one = rendered(1, 0).expect("short")[1].1.len();
    let quotes = (render::APNS_BODY_BYTES_MAX - one) / 2 + 1;
    let rest = render::APNS_BODY_BYTES_MAX - one - (quotes - 1) * 2;
    assert_eq!(rendered(quotes, rest).expect("fits")[1].1.len(), render::APNS_BODY_BYTES_MAX);
    let refused = rendered(quotes, rest + 1).expect_err("one too many");
    assert_eq!(refused.field, "case.messages[de]");
    assert!(refused.problem.contains("apps/demo") && refused.problem.contains("4097 bytes encoded, 1 more than"));
}

#[test]
fn the_door_has_a_limit_and_nobody_waits() {
    let admission = Admission::new(2);
    let turns = (admission.enter().expect("free"), admission.enter().expect("free"));
    assert_eq!(admission.enter().expect_err("full"), Refusal::Busy { limit: 2 });
    drop(turns);
    assert!(admission.enter().is_ok());
}
