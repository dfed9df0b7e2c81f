use proptest::prelude::*;
use prost::Message as _;

use super::*;

fn demo() -> wire::Alert {
    let message =
        wire::Message { title: "Missing child".into(), body: "Last seen at the station.".into() };
    let circle = wire::Circle {
        center: Some(wire::LatLng { latitude: 22.54, longitude: 114.06 }),
        radius_meters: 120_000.0,
    };
    wire::Alert {
        case: Some(wire::Case {
            messages: [("en".to_owned(), message)].into(),
            fallback_locale: "en".into(),
            ..Default::default()
        }),
        severity: wire::Severity::Urgent.into(),
        region: Some(wire::Region {
            exclusions: vec![],
            datum: 0,
            shape: Some(wire::region::Shape::Circle(circle)),
        }),
        audience: Some(wire::Audience { apps: vec!["apps/demo".into()], ..Default::default() }),
        active_until: Some(prost_types::Timestamp { seconds: 2_000, nanos: 0 }),
        mode: wire::Mode::Test.into(),
        ..Default::default()
    }
}

fn refused(change: impl FnOnce(&mut wire::Alert)) -> String {
    let mut alert = demo();
    change(&mut alert);
    AlertSpec::from_wire(alert).expect_err("must be refused").field
}

#[test]
fn takes_the_manuals_example() {
    let spec = AlertSpec::from_wire(demo()).expect("valid");
    assert_eq!(spec.severity.apns_interruption_level().as_str(), "time-sensitive");
    assert_eq!(spec.mode, Mode::Test);
    let name = AlertName::from_id("a1").expect("valid");
    assert_eq!(spec.collapse_id(&name), "a1");
}

#[test]
fn names_the_field() {
    assert_eq!(refused(|a| a.case = None), "case");
    assert_eq!(
        refused(|a| a.case.as_mut().expect("set").fallback_locale = "fr".into()),
        "case.fallback_locale"
    );
    assert_eq!(refused(|a| a.severity = 0), "severity");
    assert_eq!(refused(|a| a.severity = -1), "severity");
    assert_eq!(refused(|a| a.mode = 7), "mode");
    assert_eq!(refused(|a| a.region = None), "region");
    assert_eq!(refused(|a| a.audience = None), "audience");
    assert_eq!(
        refused(|a| a.audience.as_mut().expect("set").segments = "a AND".into()),
        "audience.segments"
    );
    assert_eq!(refused(|a| a.active_until = None), "active_until");
    assert_eq!(refused(|a| a.active_until.as_mut().expect("set").nanos = -1), "active_until");
    assert_eq!(refused(|a| a.collapse_key = "x".repeat(65)), "collapse_key");
    assert_eq!(refused(|a| a.collapse_key = "a\nb".into()), "collapse_key");
    let nowhere = Some(wire::LatLng { latitude: 91.0, longitude: 0.0 });
    assert_eq!(refused(|a| a.last_seen = nowhere), "last_seen.latitude");
    assert_eq!(
        refused(|a| a.region.as_mut().expect("set").shape = None).split('.').next(),
        Some("region")
    );
}

#[test]
fn active_time_is_ahead_but_not_far() {
    let spec = AlertSpec::from_wire(demo()).expect("valid");
    assert_eq!(spec.check_time(UnixMillis(2_000_000)).expect_err("now").field, "active_until");
    assert!(spec.check_time(UnixMillis(1_999_999)).is_ok());
    let mut far = demo();
    far.active_until.as_mut().expect("set").seconds = 2_592_000 + 1;
    let far = AlertSpec::from_wire(far).expect("valid");
    assert!(far.check_time(UnixMillis(0)).is_err());
    assert!(far.check_time(UnixMillis(1_000)).is_ok());
}

#[test]
fn timestamps_round_trip() {
    let at = UnixMillis(1_763_769_600_123);
    assert_eq!(instant(timestamp(at), "t").expect("valid"), at);
}

fn point() -> impl Strategy<Value = Option<wire::LatLng>> {
    let degree = prop_oneof![
        -200.0..200.0_f64,
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(90.0),
        Just(-180.0)
    ];
    proptest::option::of(
        (degree.clone(), degree)
            .prop_map(|(latitude, longitude)| wire::LatLng { latitude, longitude }),
    )
}

fn region() -> impl Strategy<Value = wire::Region> {
    use wire::region::Shape;
    let radius = prop_oneof![0.0..2e7_f64, Just(f64::NAN), Just(-1.0), Just(1e-9)];
    let circle = (point(), radius).prop_map(|(center, radius_meters)| {
        Some(Shape::Circle(wire::Circle { center, radius_meters }))
    });
    let ring = || {
        proptest::collection::vec(point(), 0..6)
            .prop_map(|points| wire::Ring { points: points.into_iter().flatten().collect() })
    };
    let polygon = (proptest::option::of(ring()), proptest::collection::vec(ring(), 0..2))
        .prop_map(|(outer, holes)| Some(Shape::Polygon(wire::Polygon { outer, holes })));
    let cells = proptest::collection::vec(any::<u64>(), 0..3)
        .prop_map(|cells| Some(Shape::Cells(wire::CellSet { cells })));
    let leaf = prop_oneof![Just(None), circle, polygon, cells].prop_map(|shape| wire::Region {
        shape,
        exclusions: vec![],
        datum: 0,
    });
    leaf.prop_recursive(5, 12, 3, |inner| {
        let many = proptest::collection::vec(inner.clone(), 0..3);
        (many, proptest::collection::vec(inner, 0..2)).prop_map(|(regions, exclusions)| {
            wire::Region {
                shape: Some(Shape::Union(wire::RegionUnion { regions })),
                exclusions,
                datum: 0,
            }
        })
    })
}

prop_compose! {
    fn alert()(
        texts in proptest::collection::hash_map("[a-zA-Z-]{0,6}", ("\\PC{0,8}", "\\PC{0,8}"), 0..3),
        fallback_locale in "[a-z-]{0,3}",
        image_url in "(https://)?[a-z ]{0,5}",
        deep_link in "\\PC{0,5}",
        severity in -1..5,
        mode in -1..5,
        region in proptest::option::of(region()),
        last_seen in point(),
        apps in proptest::collection::vec("(apps/)?[a-z]{0,4}", 0..3),
        segments in "[a-z() ANDORT]{0,12}",
        until in proptest::option::of((any::<i64>(), any::<i32>())),
        rate in any::<u32>(),
        key in "\\PC{0,70}",
    ) -> wire::Alert {
        let message = |(locale, (title, body))| (locale, wire::Message { title, body });
        let messages = texts.into_iter().map(message).collect();
        wire::Alert {
            case: Some(wire::Case { messages, fallback_locale, image_url, deep_link }),
            severity,
            region,
            last_seen,
            audience: Some(wire::Audience { apps, segments, ..Default::default() }),
            active_until: until.map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos }),
            mode,
            max_rate_per_second: rate,
            collapse_key: key,
            ..Default::default()
        }
    }
}

#[test]
fn the_place_last_seen_is_converted_from_its_datum() {
    // A published pair of WGS-84 and GCJ-02.
    let shown = wire::LatLng { latitude: 22.540_796_13, longitude: 113.917_176_48 };
    let seen = |last_seen_datum| {
        let alert = wire::Alert { last_seen: Some(shown), last_seen_datum, ..demo() };
        AlertSpec::from_wire(alert).expect("valid").last_seen.expect("given").to_wire()
    };
    let ground = seen(wire::Datum::Gcj02.into());
    assert!((ground.latitude - 22.543_847).abs() < 2e-7, "{}", ground.latitude);
    assert!((ground.longitude - 113.912_316).abs() < 2e-7, "{}", ground.longitude);
    assert_eq!(seen(0), shown);
    assert_eq!(seen(wire::Datum::Wgs84.into()), shown);
    let unknown = wire::Alert { last_seen_datum: 3, ..demo() };
    assert_eq!(AlertSpec::from_wire(unknown).unwrap_err().field, "last_seen_datum");
}

proptest! {
    /// Every well-formed message is accepted, or refused with a field.
    #[test]
    fn no_alert_panics(alert in alert()) {
        if let Err(e) = AlertSpec::from_wire(alert) {
            prop_assert!(!e.field.is_empty() && !e.problem.is_empty());
        }
    }

    /// No sequence of bytes causes a panic.
    #[test]
    fn no_bytes_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        at in 0_usize..200,
        flip in any::<u8>(),
    ) {
        if let Ok(alert) = wire::Alert::decode(bytes.as_slice()) {
            let _ = AlertSpec::from_wire(alert);
        }
        bytes = demo().encode_to_vec();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        if let Ok(alert) = wire::Alert::decode(bytes.as_slice()) {
            let _ = AlertSpec::from_wire(alert);
        }
    }
}
