use clarion_proto::{
    app::{App, Environment, Identity, Platform},
    error::InvalidField,
    ids::{AlertName, UnixMillis},
    wire::v1 as wire,
};

use super::*;
use crate::{
    lane::catalog::{CredentialEntry, GatewayEntry},
    planned::{LocaleMessage, PushRequest},
};

fn wire_alert(mode: wire::Mode) -> wire::Alert {
    let message = wire::Message {
        title: "Missing \"child\"".into(),
        body: "Zuletzt gesehen: Bahnhof ❤".into(),
    };
    let circle = wire::Circle { center: Some(wire::LatLng::default()), radius_meters: 5.0 };
    wire::Alert {
        case: Some(wire::Case {
            messages: [("en".to_owned(), message.clone()), ("de".to_owned(), message)].into(),
            fallback_locale: "en".into(),
            ..Default::default()
        }),
        severity: wire::Severity::Urgent.into(),
        region: Some(wire::Region {
            shape: Some(wire::region::Shape::Circle(circle)),
            exclusions: vec![],
            datum: 0,
        }),
        audience: Some(wire::Audience {
            apps: vec!["apps/demo".into()],
            segments: "a OR b".into(),
            ..Default::default()
        }),
        active_until: Some(prost_types::Timestamp { seconds: 2_000, nanos: 0 }),
        mode: mode.into(),
        ..Default::default()
    }
}

fn spec(alert: wire::Alert) -> AlertSpec {
    AlertSpec::from_wire(alert).expect("valid")
}

/// The one lane `apns/team`, on a gateway of that kind.
fn rules(lane_kind: LaneKind, allow_live_without_identity: bool) -> Rules {
    let gateway = GatewayEntry {
        name: "apns".to_owned(),
        platform: Platform::Apns,
        environment: Environment::Sandbox,
        lane_kind,
    };
    let credential =
        CredentialEntry { name: "team".to_owned(), platform: Platform::Apns, project: None };
    let lanes = Catalog { gateways: vec![gateway], credentials: vec![credential] };
    Rules { allow_live_without_identity, lanes: Arc::new(lanes) }
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
        identity: Identity::Device,
    };
    Some(Arc::new(AppRecord { app, created: UnixMillis(1), revision: 1 }))
}

fn admission(inside_max: usize) -> Admission {
    let rules = Rules::default();
    Admission::new(AdmissionConfig { inside_max, questions_max: 8, rules })
}

/// For the app of [`app`].
fn rendered(spec: &AlertSpec, prefix: &str) -> Result<Vec<LocaleMessage>, InvalidField> {
    let app = app(LaneKind::Test).expect("made");
    let name = AlertName::from_id("a1").expect("valid");
    render::render(spec, &name, &app.app, prefix, UnixMillis(0)).map(|rendered| rendered.messages)
}

fn fcm_app() -> App {
    let app = app(LaneKind::Test).expect("made");
    App { platform: Platform::Fcm, topic: String::new(), project: "p".into(), ..app.app.clone() }
}

/// At 1,000 s, that is 1,000 s before the end of [`wire_alert`]'s time.
fn rendered_fcm(alert: wire::Alert) -> Result<render::Rendered, InvalidField> {
    let name = AlertName::from_id("a1").expect("valid");
    render::render(&spec(alert), &name, &fcm_app(), "EXERCISE: ", UnixMillis(1_000_000))
}

/// The request that a token makes of a message.
fn request(message: &LocaleMessage, token: &str) -> serde_json::Value {
    let data = [&message.body, token.as_bytes(), &message.body_after_token].concat();
    serde_json::from_slice(&data).expect("JSON")
}

#[test]
fn a_test_never_opens_a_live_lane() {
    let (test, live) = (rules(LaneKind::Test, false), rules(LaneKind::Live, false));
    let spec = spec(wire_alert(wire::Mode::Test));
    assert_eq!(admit(&spec, &[app(LaneKind::Test)], &test), Ok(()));
    for (app, rules) in
        [(app(LaneKind::Live), &test), (app(LaneKind::Test), &live), (app(LaneKind::Live), &live)]
    {
        assert!(matches!(admit(&spec, &[app], rules), Err(Refusal::TestOnLiveLane { .. })));
    }
}

#[test]
fn live_needs_an_identity_or_a_flag() {
    let spec = spec(wire_alert(wire::Mode::Live));
    let strict = rules(LaneKind::Live, false);
    assert_eq!(admit(&spec, &[app(LaneKind::Live)], &strict), Err(Refusal::LiveWithoutIdentity));
    let allowed = rules(LaneKind::Live, true);
    assert_eq!(admit(&spec, &[app(LaneKind::Live)], &allowed), Ok(()));
}

#[test]
fn an_exercise_on_a_live_lane_needs_what_live_needs() {
    let exercise = spec(wire_alert(wire::Mode::Exercise));
    assert_eq!(admit(&exercise, &[app(LaneKind::Test)], &rules(LaneKind::Test, false)), Ok(()));
    for (marked, configured) in [
        (LaneKind::Live, LaneKind::Test),
        (LaneKind::Test, LaneKind::Live),
        (LaneKind::Live, LaneKind::Live),
    ] {
        let refused = admit(&exercise, &[app(marked)], &rules(configured, false));
        assert!(
            matches!(refused, Err(Refusal::ExerciseWithoutIdentity { .. })),
            "{marked:?}, {configured:?}"
        );
        assert_eq!(admit(&exercise, &[app(marked)], &rules(configured, true)), Ok(()));
    }
}

#[test]
fn apps_exist_and_their_lanes_are_configured() {
    let spec = spec(wire_alert(wire::Mode::Test));
    let rules = rules(LaneKind::Test, false);
    let unknown = InvalidField::new("audience.apps[0]", "there is no apps/demo");
    assert_eq!(admit(&spec, &[None], &rules), Err(Refusal::Invalid(unknown)));
    let mut moved = app(LaneKind::Test).expect("made");
    Arc::make_mut(&mut moved).app.gateway = "gone".into();
    assert!(matches!(admit(&spec, &[Some(moved)], &rules), Err(Refusal::LaneNotConfigured { .. })));
}

#[test]
fn an_exercise_reaches_its_segment_and_says_so() {
    let exercise = spec(wire_alert(wire::Mode::Exercise));
    assert_eq!(segments(&exercise).to_string(), "exercise AND (a OR b)");
    assert_eq!(segments(&spec(wire_alert(wire::Mode::Test))).to_string(), "a OR b");
    let bodies = rendered(&exercise, "EXERCISE: ").expect("short");
    assert_eq!(
        bodies.iter().map(|m| m.locale.as_str()).collect::<Vec<_>>(),
        ["en", "de"],
        "the fallback first"
    );
    let json: serde_json::Value = serde_json::from_slice(&bodies[0].body).expect("JSON");
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
    let json = |alert| {
        let bodies = rendered(&spec(alert), "X").expect("short");
        serde_json::from_slice::<serde_json::Value>(&bodies[0].body).expect("JSON")
    };
    let critical = json(alert.clone());
    assert_eq!(
        critical["aps"]["sound"],
        serde_json::json!({"critical": 1, "name": "default", "volume": 1.0})
    );
    assert_eq!(critical["aps"]["interruption-level"], "critical");
    assert_eq!(critical["aps"]["mutable-content"], 1);
    assert_eq!(
        (&critical["image"], &critical["link"]),
        (&"https://example.org/a.jpg".into(), &"app://case/1".into())
    );
    alert.severity = wire::Severity::Information.into();
    let quiet = json(alert);
    assert_eq!(
        (&quiet["aps"]["interruption-level"], quiet["aps"].get("sound")),
        (&"passive".into(), None)
    );
}

#[test]
fn a_body_fits_to_the_byte_or_is_refused_with_the_excess() {
    let rendered = |quotes: usize, letters: usize| {
        let mut alert = wire_alert(wire::Mode::Test);
        let message = alert.case.as_mut().expect("set").messages.get_mut("de").expect("set");
        // A quotation mark takes two bytes in JSON: 3,000 bytes of body are enough to burst 4,096.
        message.body = format!("{}{}", "\"".repeat(quotes), "x".repeat(letters));
        self::rendered(&spec(alert), "X")
    };
    const MAX: usize = render::apns::BODY_BYTES_MAX;
    let one = rendered(1, 0).expect("short")[1].body.len();
    let quotes = (MAX - one) / 2 + 1;
    let rest = MAX - one - (quotes - 1) * 2;
    assert_eq!(rendered(quotes, rest).expect("fits")[1].body.len(), MAX);
    let refused = rendered(quotes, rest + 1).expect_err("one too many");
    assert_eq!(refused.field, "case.messages[de]");
    assert!(
        refused.problem.contains("apps/demo")
            && refused.problem.contains("4097 bytes encoded, 1 more than")
    );
}

#[test]
fn a_message_of_fcm_shows_itself_replaces_its_like_and_knows_its_end() {
    let rendered = rendered_fcm(wire_alert(wire::Mode::Exercise)).expect("short");
    assert_eq!(rendered.request, PushRequest::Fcm { project: "p".into() });
    assert_eq!(
        rendered.messages.iter().map(|m| m.locale.as_str()).collect::<Vec<_>>(),
        ["en", "de"]
    );
    assert_eq!(
        request(&rendered.messages[0], "abc:APA91b"),
        serde_json::json!({"message": {
            "token": "abc:APA91b",
            "notification": {"title": "EXERCISE: Missing \"child\"", "body": "Zuletzt gesehen: Bahnhof ❤"},
            "data": {"alert": "alerts/a1", "expires": "2000"},
            "android": {
                "priority": "HIGH",
                "ttl": "500s",
                "collapse_key": "a1",
                "bandwidth_constrained_ok": true,
                "notification": {
                    "tag": "a1",
                    "channel_id": "alert-urgent",
                    "visibility": "PUBLIC",
                    "default_sound": true,
                    "notification_priority": "PRIORITY_HIGH",
                },
            },
            "apns": {
                "headers": {"apns-collapse-id": "a1", "apns-expiration": "2000", "apns-priority": "10"},
                "payload": {"aps": {"sound": "default", "interruption-level": "time-sensitive"}},
            },
        }})
    );
}

#[test]
fn severity_photograph_and_collapse_key_shape_a_message_of_fcm() {
    let mut alert = wire_alert(wire::Mode::Test);
    alert.severity = wire::Severity::Critical.into();
    alert.collapse_key = "case-7".into();
    let case = alert.case.as_mut().expect("set");
    case.image_url = "https://example.org/a.jpg".into();
    case.deep_link = "app://case/1".into();
    let message =
        |alert| request(&rendered_fcm(alert).expect("short").messages[0], "t")["message"].clone();
    let critical = message(alert.clone());
    assert_eq!(critical["notification"]["image"], "https://example.org/a.jpg");
    assert_eq!(critical["data"]["link"], "app://case/1");
    assert_eq!(
        (&critical["android"]["collapse_key"], &critical["android"]["notification"]["tag"]),
        (&"case-7".into(), &"case-7".into())
    );
    assert_eq!(critical["android"]["notification"]["channel_id"], "alert-critical");
    assert_eq!(critical["apns"]["payload"]["aps"]["interruption-level"], "critical");
    alert.severity = wire::Severity::Information.into();
    let quiet = message(alert);
    assert_eq!(quiet["android"]["priority"], "NORMAL");
    assert_eq!(quiet["android"].get("bandwidth_constrained_ok"), None);
    assert_eq!(quiet["android"]["notification"].get("default_sound"), None);
    assert_eq!(quiet["apns"]["headers"]["apns-priority"], "5");
}

#[test]
fn options_are_rendered_for_each_platform() {
    let mut alert = wire_alert(wire::Mode::Test);
    alert.options = Some(wire::PushOptions {
        apns: Some(wire::ApnsOptions {
            interruption_level: wire::apns_options::InterruptionLevel::Critical.into(),
            relevance_score: Some(0.5),
            thread_id: "case-7".into(),
            category: "MISSING".into(),
            mutable_content: true,
        }),
        fcm: Some(wire::FcmOptions {
            direct_boot_ok: Some(true),
            bandwidth_constrained_ok: Some(false),
            restricted_satellite_ok: Some(true),
            analytics_label: "amber-7".into(),
        }),
    });
    let aps = serde_json::json!({
        "sound": {"critical": 1, "name": "default", "volume": 1.0},
        "interruption-level": "critical",
        "relevance-score": 0.5,
        "thread-id": "case-7",
        "category": "MISSING",
        "mutable-content": 1,
    });
    let bodies = rendered(&spec(alert.clone()), "X").expect("short");
    let mut apns: serde_json::Value = serde_json::from_slice(&bodies[0].body).expect("JSON");
    apns["aps"].as_object_mut().expect("an object").remove("alert");
    assert_eq!(apns["aps"], aps);
    let fcm = rendered_fcm(alert).expect("short");
    let fcm = &request(&fcm.messages[0], "t")["message"];
    assert_eq!(fcm["apns"]["payload"]["aps"], aps);
    assert_eq!(fcm["fcm_options"], serde_json::json!({"analytics_label": "amber-7"}));
    for (option, value) in [
        ("direct_boot_ok", true),
        ("bandwidth_constrained_ok", false),
        ("restricted_satellite_ok", true),
    ] {
        assert_eq!(fcm["android"][option], value, "{option}");
    }
}

#[test]
fn a_message_of_fcm_fits_to_the_byte_or_is_refused_with_the_excess() {
    let rendered = |quotes: usize, letters: usize| {
        let mut alert = wire_alert(wire::Mode::Test);
        let message = alert.case.as_mut().expect("set").messages.get_mut("de").expect("set");
        message.body = format!("{}{}", "\"".repeat(quotes), "x".repeat(letters));
        rendered_fcm(alert)
    };
    const MAX: usize = render::fcm::BODY_BYTES_MAX;
    let bytes = |rendered: &render::Rendered| {
        rendered.messages[1].body.len() + rendered.messages[1].body_after_token.len()
    };
    let one = bytes(&rendered(1, 0).expect("short"));
    let quotes = (MAX - one) / 2 + 1;
    let rest = MAX - one - (quotes - 1) * 2;
    assert_eq!(bytes(&rendered(quotes, rest).expect("fits")), MAX);
    let refused = rendered(quotes, rest + 1).expect_err("one too many");
    assert_eq!(refused.field, "case.messages[de]");
    assert!(
        refused.problem.contains("apps/demo")
            && refused.problem.contains("4097 bytes encoded, 1 more than the 4096 of FCM"),
        "{}",
        refused.problem
    );
}

#[test]
fn an_app_whose_lane_became_another_platforms_is_refused() {
    let spec = spec(wire_alert(wire::Mode::Test));
    let rules = rules(LaneKind::Test, false);
    let record = Arc::new(AppRecord { app: fcm_app(), created: UnixMillis(1), revision: 1 });
    assert!(matches!(
        admit(&spec, &[Some(record)], &rules),
        Err(Refusal::LaneNotConfigured { .. })
    ));
}

#[test]
fn the_door_has_a_limit_and_a_share_and_nobody_waits() {
    let peer = |n| PeerKey::of(std::net::Ipv4Addr::new(10, 0, 0, n).into());
    let admission = admission(4);
    let places = (admission.enter(peer(1)).expect("free"), admission.enter(peer(1)).expect("free"));
    assert_eq!(admission.enter(peer(1)).expect_err("half of them"), Full { total: 4, held: 2 });
    assert!(admission.enter(peer(2)).is_ok());
    drop(places);
    assert!(admission.enter(peer(1)).is_ok());
}

/// 8 questions may be under way, and each may wait for a node: four of them are always other
/// peers'.
#[tokio::test]
async fn one_peer_cannot_keep_all_nodes_busy() {
    use futures_util::FutureExt;
    let peer = |n| PeerKey::of(std::net::Ipv4Addr::new(10, 0, 0, n).into());
    let admission = admission(64);
    let mut asked = Vec::new();
    for _ in 0..4 {
        asked.push(admission.question(peer(1)).await);
    }
    assert!(admission.question(peer(1)).now_or_never().is_none());
    assert!(admission.question(peer(2)).now_or_never().is_some());
}

#[test]
fn covers_share_room_for_their_cells_and_give_it_back() {
    let peer = |n| PeerKey::of(std::net::Ipv4Addr::new(10, 0, 0, n).into());
    let admission = admission(1);
    let first = admission.cells(peer(1), 15_000_000).expect("nearly all");
    let refused = admission.cells(peer(1), 2_000).expect_err("the rest is for others");
    let (free, held) = (1_000_000, 15_000_000);
    assert_eq!(refused, Refusal::CoversFull { limit: 16_000_000, free, held, wanted: 2_000 });
    let small = admission.cells(peer(2), 3_900).expect("a city finds room beside a continent");
    drop(first);
    drop(admission.cells(peer(1), 8_000_000).expect("given back"));
    drop(small);
    assert!(admission.cells(peer(1), usize::MAX).is_err());
}

/// A continent waits for the turn of another; a city meanwhile does not.
#[tokio::test]
async fn a_small_cover_does_not_wait_for_large_ones() {
    use clarion_proto::region::{LatLng, Region};
    use target::TargetSpec;

    let peer = |n| PeerKey::of(std::net::Ipv4Addr::new(10, 0, 0, n).into());
    let admission = admission(64);
    let spec = |radius_m| TargetSpec {
        region: Region::circle(LatLng::new(22.5, 114.0).expect("a place"), radius_m)
            .expect("valid"),
        last_seen: None,
        edges: crate::bands::BandEdges::default(),
        finest: None,
    };
    let others = admission.large.enter(peer(3), u64::MAX).await;
    let entered = |n| admission.enter(peer(n)).expect("room");
    let (mut first, mut second) = (entered(1), entered(2));
    let mut large = std::pin::pin!(admission.target(spec(3_000_000.0), false, &mut first));
    let city = tokio::select! {
        biased;
        _ = &mut large => panic!("its turn is taken"),
        city = admission.target(spec(12_000.0), false, &mut second) => city.expect("small"),
    };
    assert_eq!(city.0.finest, h3o::Resolution::Nine);
    drop(others);
    let (continent, _) = large.await.expect("its turn came");
    assert_eq!(continent.finest, h3o::Resolution::Eight);
    let cells: usize = continent.bands.iter().map(|band| band.cells.len()).sum();
    assert!(cells <= clarion_proto::limits::COVER_CELLS_MAX, "{cells}");
    assert!(continent.edges.step_m() > 10_000.0);
    // The record's edges and resolution give the same plan.
    let recorded = TargetSpec {
        edges: continent.edges.clone(),
        finest: Some(continent.finest),
        ..spec(3_000_000.0)
    };
    let (again, _) =
        admission.target(recorded, false, &mut Admitted::recorded()).await.expect("room");
    assert_eq!(again, continent);
}

/// Callers of large regions fill the places of such regions and no others.
#[tokio::test]
async fn large_regions_are_refused_and_ordinary_ones_are_not() {
    use clarion_proto::region::{LatLng, Region};
    use target::TargetSpec;

    let peer = |n| PeerKey::of(std::net::Ipv4Addr::new(10, 0, 0, n).into());
    let admission = admission(2 * LARGE_IN);
    let spec = |radius_m| TargetSpec {
        region: Region::circle(LatLng::new(22.5, 114.0).expect("a place"), radius_m)
            .expect("valid"),
        last_seen: None,
        edges: crate::bands::BandEdges::default(),
        finest: None,
    };
    let mut held = Vec::new();
    for n in 1..=2 {
        let mut admitted = admission.enter(peer(n)).expect("room");
        admission.target(spec(3_000_000.0), false, &mut admitted).await.expect("a large place");
        held.push(admitted);
    }
    let mut third = admission.enter(peer(3)).expect("the ordinary places are free again");
    let refused = admission.target(spec(3_000_000.0), false, &mut third).await;
    assert_eq!(refused.err(), Some(Refusal::LargeFull(Full { total: 2, held: 0 })));
    admission.target(spec(120_000.0), false, &mut third).await.expect("ordinary");
    let points = vec![wire::LatLng::default(); ORDINARY_POINTS_TOO_MANY];
    let polygon = wire::Polygon { outer: Some(wire::Ring { points }), holes: Vec::new() };
    let mut alert = wire_alert(wire::Mode::Test);
    alert.region.as_mut().expect("set").shape = Some(wire::region::Shape::Polygon(polygon));
    let refused = admission.spec(alert.clone(), &mut third).await;
    assert!(matches!(refused, Err(Refusal::LargeFull(_))), "before it is decoded");
    held.clear();
    let refused = admission.spec(alert, &mut third).await;
    assert!(matches!(refused, Err(Refusal::Invalid(_))), "one point, many times");
    admission.target(spec(3_000_000.0), false, &mut third).await.expect("free again");
}

/// Points of a region that is large by its bytes: each takes at least 2.
const ORDINARY_POINTS_TOO_MANY: usize = 20_000;
