mod subjects;

use clarion_proto::{
    app::{Identity, Platform},
    ids::AppName,
};
use proptest::prelude::*;

use clarion_proto::ids::UnixMillis;

use super::{
    super::ages::{AHEAD_MS_MAX, OLDER_MS_MAX},
    *,
};

const NOW: UnixMillis = UnixMillis(1_763_769_600_000);
const RECENT: Ages = Ages { now: NOW, historic: false };

fn app(id: &str, platform: Platform, identity: Identity) -> KnownApp {
    KnownApp { name: AppName::from_id(id).expect("valid"), platform, identity }
}

fn demo() -> KnownApp {
    app("demo", Platform::Apns, Identity::Device)
}

fn registration() -> wire::Registration {
    wire::Registration {
        app: "apps/demo".into(),
        token: "00FFab".into(),
        locale: "zh-Hans-CN".into(),
        segments: vec!["b".into(), "a".into(), "b".into()],
        ..Default::default()
    }
}

fn at(ms: u64) -> Option<prost_types::Timestamp> {
    Some(clarion_proto::alert::timestamp(UnixMillis(ms)))
}

fn change(change: device_change::Change) -> wire::DeviceChange {
    wire::DeviceChange {
        device: "phone-1".into(),
        observe_time: at(NOW.0),
        change: Some(change),
        token_device: None,
    }
}

fn checked(change: wire::DeviceChange) -> Result<Record, InvalidField> {
    accepted(change).map(|accepted| accepted.record)
}

fn accepted(change: wire::DeviceChange) -> Result<Accepted, InvalidField> {
    accepted_in(change, RECENT)
}

fn accepted_in(change: wire::DeviceChange, ages: Ages) -> Result<Accepted, InvalidField> {
    record(change, Some(demo()), ages, &DeviceKey::random())
}

fn refused(change: wire::DeviceChange) -> String {
    checked(change).expect_err("must be refused").field
}

fn registered(edit: impl FnOnce(&mut wire::Registration)) -> wire::DeviceChange {
    let mut registration = registration();
    edit(&mut registration);
    change(device_change::Change::Registration(registration))
}

fn placed(place: place::Place) -> wire::DeviceChange {
    change(device_change::Change::Place(wire::Place { place: Some(place), datum: 0 }))
}

#[test]
fn a_registration_becomes_its_record() {
    let record = checked(registered(|_| ())).expect("valid");
    let Change::Registration(registration) = record.change else { panic!("{record:?}") };
    assert_eq!(registration.token.as_bytes(), [0x00, 0xff, 0xab]);
    assert_eq!(
        (registration.locale.as_str(), registration.segments),
        ("zh-hans-cn", vec!["a".to_owned(), "b".into()])
    );
    assert_eq!(record.observed, NOW);
}

#[test]
fn a_strange_locale_is_stored_as_far_as_it_has_a_meaning() {
    for (reported, stored, warned) in [
        ("zh_TW_#Hant", "zh-hant-tw", None),
        ("iw", "he", None),
        ("", "", None),
        ("en-GB-oed", "en-gb", Some("has parts without meaning; stored as en-gb")),
        ("s3cret!", "", Some("stored as unknown")),
    ] {
        let accepted = accepted(registered(|r| r.locale = reported.into())).expect("valid");
        let Change::Registration(registration) = accepted.record.change else { panic!("of one") };
        assert_eq!(registration.locale, stored, "{reported}");
        assert_eq!(accepted.warning.is_some(), warned.is_some(), "{reported}");
        if let (Some(warning), Some(text)) = (accepted.warning, warned) {
            assert_eq!(warning.field, "registration.locale");
            assert!(warning.problem.contains(text) && !warning.problem.contains("s3cret"));
        }
    }
}

#[test]
fn observations_have_a_window() {
    let observed = |ms| {
        let mut change = registered(|_| ());
        change.observe_time = at(ms);
        checked(change).map(|r| r.observed.0)
    };
    let (oldest, newest) = (NOW.0 - OLDER_MS_MAX, NOW.0 + AHEAD_MS_MAX);
    assert_eq!((observed(oldest), observed(newest)), (Ok(oldest), Ok(newest)));
    assert_eq!(
        observed(oldest - 1).expect_err("old").problem,
        "must be at most 24 h old; got 86400 s old; only a historic stream takes older ones"
    );
    assert_eq!(
        observed(newest + 1_000).expect_err("ahead").problem,
        "must be at most 60 s ahead; got 61 s ahead"
    );
}

#[test]
fn a_point_becomes_its_cell_and_a_cell_must_be_of_resolution_nine() {
    let point = wire::LatLng { latitude: 22.54, longitude: 114.06 };
    let expected = h3o::LatLng::new(22.54, 114.06).expect("valid").to_cell(Resolution::Nine);
    let record = checked(placed(place::Place::Point(point))).expect("valid");
    assert_eq!(record.change, Change::Place(Cell::from(expected)));
    assert_eq!(
        checked(placed(place::Place::Cell(expected.into()))).expect("valid").change,
        record.change
    );
    let coarse = expected.parent(Resolution::Eight).expect("coarser");
    assert_eq!(refused(placed(place::Place::Cell(coarse.into()))), "place.cell");
    assert_eq!(refused(placed(place::Place::Cell(7))), "place.cell");
    let off = wire::LatLng { latitude: 90.1, longitude: 0.0 };
    assert_eq!(refused(placed(place::Place::Point(off))), "place.point.latitude");
}

#[test]
fn a_point_of_a_chinese_map_becomes_the_cell_on_the_ground() {
    let of = |place, datum| {
        change(device_change::Change::Place(wire::Place { place: Some(place), datum }))
    };
    let (wgs84, gcj02) = (wire::Datum::Wgs84.into(), wire::Datum::Gcj02.into());
    // A published pair of the two datums.
    let ground = wire::LatLng { latitude: 22.543_847, longitude: 113.912_316 };
    let shown = wire::LatLng { latitude: 22.540_796_13, longitude: 113.917_176_48 };
    let cell = |point, datum| match checked(of(place::Place::Point(point), datum)) {
        Ok(Record { change: Change::Place(cell), .. }) => cell,
        other => panic!("{other:?}"),
    };
    assert_eq!(cell(shown, gcj02), cell(ground, wgs84));
    assert_eq!(cell(ground, 0), cell(ground, wgs84));
    assert_ne!(cell(shown, 0), cell(ground, 0));
    let hanover = wire::LatLng { latitude: 52.37, longitude: 9.73 };
    assert_eq!(cell(hanover, gcj02), cell(hanover, wgs84), "the offset is 0 there");
    let index = place::Place::Cell(cell(ground, 0).index());
    assert!(checked(of(index, wgs84)).is_ok());
    let with_cell = checked(of(index, gcj02)).expect_err("a cell of another datum");
    assert_eq!(
        with_cell.to_string(),
        "place.datum: must be DATUM_WGS84 or not set: cells are sets of points on WGS-84; got \
         DATUM_GCJ02"
    );
    assert_eq!(refused(of(place::Place::Point(ground), 3)), "place.datum");
}

#[test]
fn the_field_at_fault_is_named_and_no_token_is_shown() {
    assert_eq!(refused(registered(|r| r.token.clear())), "registration.token");
    assert_eq!(refused(registered(|r| r.token = "a".repeat(202))), "registration.token");
    let odd = checked(registered(|r| r.token = "abcdefg1".into())).expect_err("no digit");
    assert_eq!(odd.problem, "must be pairs of hexadecimal digits; got 8 characters");
    assert_eq!(refused(registered(|r| r.token = "abc".into())), "registration.token");
    assert_eq!(refused(registered(|r| r.segments[1] = "A".into())), "registration.segments[1]");
    assert_eq!(refused(registered(|r| r.segments = vec!["a".into(); 17])), "registration.segments");
    assert_eq!(refused(registered(|r| r.person = "x".repeat(129))), "registration.person");
    assert_eq!(refused(wire::DeviceChange { change: None, ..registered(|_| ()) }), "change");
    assert_eq!(
        refused(wire::DeviceChange { observe_time: None, ..registered(|_| ()) }),
        "observe_time"
    );
    let arrival = |registration, place| {
        change(device_change::Change::Arrival(wire::Arrival { registration, place }))
    };
    assert_eq!(refused(arrival(None, None)), "arrival.registration");
    assert_eq!(refused(arrival(Some(registration()), None)), "arrival.place");
    assert_eq!(
        refused(arrival(Some(registration()), Some(wire::Place { place: None, datum: 0 }))),
        "arrival.place.place"
    );
}

#[test]
fn a_token_of_fcm_is_taken_as_it_is_and_must_fit_into_a_string() {
    let checked = |token: &str| {
        let change = registered(|r| r.token = token.to_owned());
        let app = app("demo", Platform::Fcm, Identity::Device);
        let accepted = record(change, Some(app), RECENT, &DeviceKey::random());
        accepted.map(|accepted| accepted.record)
    };
    let token = |record: Record| match record.change {
        Change::Registration(registration) => registration.token.as_bytes().to_vec(),
        other => panic!("{other:?}"),
    };
    for good in ["dK3x_:APA91b-Zz09", "!#[]^~", "a", &"x".repeat(512)] {
        assert_eq!(token(checked(good).expect("valid")), good.as_bytes());
    }
    let secret = "s3cret";
    for bad in ["", " ", "\"", "\\", "\u{7f}", "\n", "é", &"x".repeat(513)] {
        let refused = checked(&format!("{}{bad}", if bad.is_empty() { "" } else { secret }))
            .expect_err("no token");
        assert_eq!(refused.field, "registration.token");
        assert!(!refused.problem.contains(secret), "{}", refused.problem);
    }
}

proptest! {
    #[test]
    fn no_change_panics(
        device in "\\PC{0,140}",
        seconds in any::<i64>(),
        nanos in any::<i32>(),
        token in "[0-9a-fA-Fg]{0,210}",
        locale in "\\PC{0,40}",
        segments in proptest::collection::vec("[a-zA-Z_]{0,70}", 0..20),
        index in any::<u64>(),
        latitude in any::<f64>(),
        longitude in any::<f64>(),
        which in 0..5,
        by_token in any::<bool>(),
        replaces in proptest::collection::vec("\\PC{0,140}", 0..6),
        identity in prop_oneof![Just(Identity::Device), Just(Identity::Token)],
    ) {
        use device_change::Change as Wire;
        let named = wire::TokenDevice { app: String::new(), token: token.clone() };
        let token_device = by_token.then_some(named);
        let registration =
            wire::Registration { token, locale, segments, replaces, ..registration() };
        let point = wire::LatLng { latitude, longitude };
        let place = wire::Place { place: Some(place::Place::Point(point)), datum: 0 };
        let change = match which {
            0 => Wire::Registration(registration),
            1 => Wire::Place(place),
            2 => Wire::Place(wire::Place { place: Some(place::Place::Cell(index)), datum: 0 }),
            3 => Wire::Arrival(wire::Arrival {
                registration: Some(registration),
                place: Some(place),
            }),
            _ => Wire::Removal(wire::Removal {}),
        };
        for observe_time in [Some(prost_types::Timestamp { seconds, nanos }), at(NOW.0)] {
            for app in [None, Some(app("demo", Platform::Apns, identity))] {
                let change = wire::DeviceChange {
                    device: device.clone(),
                    observe_time,
                    change: Some(change.clone()),
                    token_device: token_device.clone(),
                };
                let _ = record(change, app, RECENT, &DeviceKey::random());
            }
        }
    }
}

#[test]
fn a_historic_stream_takes_400_days_but_no_old_removal() {
    const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
    let historic = |change: device_change::Change, age_ms| {
        let change =
            wire::DeviceChange { observe_time: at(NOW.0 - age_ms), ..self::change(change) };
        let ages = Ages { historic: true, ..RECENT };
        accepted_in(change, ages)
            .map(|accepted| accepted.record.observed)
            .map_err(|e| e.to_string())
    };
    let arrival = || registered(|_| ()).change.expect("a change");
    let mute = || device_change::Change::Mute(wire::Mute { muted: true });
    let removal = || device_change::Change::Removal(wire::Removal {});
    for change in [arrival(), mute()] {
        assert_eq!(historic(change, 400 * DAY_MS), Ok(UnixMillis(NOW.0 - 400 * DAY_MS)));
    }
    assert_eq!(
        historic(arrival(), 400 * DAY_MS + 1_000),
        Err("observe_time: must be at most 400 days old; got 34560001 s old".to_owned())
    );
    assert_eq!(historic(removal(), DAY_MS), Ok(UnixMillis(NOW.0 - DAY_MS)));
    assert_eq!(
        historic(removal(), DAY_MS + 1_000),
        Err("removal: must be at most 24 h old, because older removals are not remembered; got \
             86401 s old; leave removed devices out of the import"
            .to_owned())
    );
}
