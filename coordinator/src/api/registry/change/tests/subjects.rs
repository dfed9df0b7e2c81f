//! Which device a change concerns, for apps of both identities.

use super::*;

const ID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

fn token_app() -> KnownApp {
    app("demo", Platform::Apns, Identity::Token)
}

fn with_key(
    change: wire::DeviceChange,
    app: KnownApp,
    key: &DeviceKey,
) -> Result<Accepted, InvalidField> {
    record(change, Some(app), RECENT, key)
}

/// A registration without a name of its device.
fn by_token(token: &str) -> wire::DeviceChange {
    wire::DeviceChange { device: String::new(), ..registered(|r| r.token = token.to_owned()) }
}

/// A change of a device that is named by app and token.
fn of_token(token: &str, of: device_change::Change) -> wire::DeviceChange {
    let named = wire::TokenDevice { app: "apps/demo".into(), token: token.into() };
    wire::DeviceChange { device: String::new(), token_device: Some(named), ..change(of) }
}

#[test]
fn uuids_are_taken_as_they_are_and_other_strings_are_hashed() {
    let (id, key) = (ID, DeviceKey::random());
    let device = |device: &str| {
        let change = wire::DeviceChange { device: device.into(), ..registered(|_| ()) };
        with_key(change, demo(), &key).map(|accepted| accepted.record.device)
    };
    let plain = device(id).expect("valid");
    assert_eq!(plain.0, *uuid::Uuid::parse_str(id).expect("valid").as_bytes());
    assert_eq!(device(&id.replace('-', "")), Ok(plain));
    assert_eq!(device(&id.to_uppercase()), Ok(plain));
    assert_eq!(device(&"x".repeat(36)), Ok(key.id(&"x".repeat(36))));
    for spelling in
        [format!("{{{id}}}"), format!("urn:uuid:{id}"), format!("{{{}}}", id.to_uppercase())]
    {
        assert_eq!(device(&spelling), Ok(plain), "{spelling}");
    }
    assert!(device("").is_err() && device(&"x".repeat(129)).is_err());
}

/// No UUID names a device of an app with IDENTITY_TOKEN, also not one that equals its id.
#[test]
fn a_uuid_of_the_form_of_a_token_is_hashed() {
    let key = DeviceKey::random();
    let of_token = with_key(by_token("00ffab"), token_app(), &key).expect("valid").record.device;
    assert!(of_token.is_of_token());
    let id = |device: String| {
        let change = wire::DeviceChange { device, ..registered(|_| ()) };
        with_key(change, demo(), &key).expect("valid").record.device
    };
    let uuid = uuid::Uuid::from_bytes(of_token.0);
    let hashed = id(uuid.hyphenated().to_string());
    assert_ne!(hashed, of_token);
    let spellings = [
        uuid.simple().to_string(),
        uuid.braced().to_string(),
        uuid.urn().to_string(),
        uuid.hyphenated().to_string().to_uppercase(),
    ];
    for spelling in spellings {
        assert_eq!(id(spelling.clone()), hashed, "{spelling}");
    }
    for uuid in [uuid::Uuid::max(), uuid::Uuid::nil(), uuid::Uuid::from_u128(0xe0 << 56)] {
        assert!(!id(uuid.to_string()).is_of_token(), "{uuid}");
    }
}

#[test]
fn a_token_in_any_spelling_is_one_device() {
    let key = DeviceKey::random();
    let device = |change, app| with_key(change, app, &key).expect("valid").record.device;
    let upper = device(by_token("00FFAB"), token_app());
    assert_eq!(device(by_token("00ffab"), token_app()), upper);
    let mute = device_change::Change::Mute(wire::Mute { muted: true });
    assert_eq!(device(of_token("00ffAB", mute), token_app()), upper);
    assert_ne!(device(by_token("00ffac"), token_app()), upper);
    let other = app("demo2", Platform::Apns, Identity::Token);
    assert_ne!(device(by_token("00ffab"), other), upper);
    let fcm = || app("demo", Platform::Fcm, Identity::Token);
    assert_ne!(device(by_token("00ffAB"), fcm()), device(by_token("00ffab"), fcm()));
    for token in [" 00ffab", "00ffab ", "<00ffab>", "00ff ab", "<00ff ab>"] {
        let refused = with_key(by_token(token), token_app(), &key).expect_err("no digits");
        assert_eq!(refused.field, "registration.token");
        let mute = device_change::Change::Mute(wire::Mute { muted: true });
        let refused = with_key(of_token(token, mute), token_app(), &key).expect_err("no digits");
        assert_eq!(refused.field, "token_device.token");
        assert!(refused.problem.contains("hexadecimal") && !refused.problem.contains("ff"));
    }
}

/// Every kind of change × every way to name its device × both identities.
#[test]
fn the_identity_of_the_app_decides_how_a_change_names_its_device() {
    use device_change::Change as Wire;
    let place = || wire::Place { place: Some(place::Place::Cell(0x0894_11ca_0003_ffff)), datum: 0 };
    let arrival = wire::Arrival { registration: Some(registration()), place: Some(place()) };
    let changes = [
        Wire::Registration(registration()),
        Wire::Arrival(arrival),
        Wire::Place(place()),
        Wire::Removal(wire::Removal {}),
        Wire::Mute(wire::Mute { muted: false }),
    ];
    // (device, token_device), and the field that is refused: for registration and arrival, and for
    // place, removal and mute; empty: accepted. The check knows the app of a place, removal or mute
    // only from token_device.
    type Row = (bool, bool, &'static str, &'static str);
    const DEVICE: [Row; 4] = [
        (false, false, "device", "device"),
        (true, false, "", ""),
        (false, true, "token_device", "token_device.app"),
        (true, true, "token_device", "token_device"),
    ];
    const TOKEN: [Row; 4] = [
        (false, false, "", "device"),
        (true, false, "device", ""),
        (false, true, "token_device", ""),
        (true, true, "token_device", "token_device"),
    ];
    let key = DeviceKey::random();
    let expected = [(Identity::Device, DEVICE), (Identity::Token, TOKEN)];
    for (identity, rows) in expected {
        for (device, token_device, registering, other) in rows {
            for of in &changes {
                let registers = matches!(of, Wire::Registration(_) | Wire::Arrival(_));
                let named = wire::TokenDevice { app: "apps/demo".into(), token: "00ffab".into() };
                let change = wire::DeviceChange {
                    device: if device { "phone-1".into() } else { String::new() },
                    token_device: token_device.then_some(named),
                    ..change(of.clone())
                };
                let app = super::super::app(&change).map(|_| KnownApp { identity, ..demo() });
                let field = if registers { registering } else { other };
                let case = format!("{identity:?} {device} {token_device} {of:?}");
                match record(change, app, RECENT, &key) {
                    Ok(accepted) => {
                        assert_eq!(field, "", "{case}");
                        let by_token = accepted.record.device.is_of_token();
                        assert_eq!(by_token, !device, "{case}");
                    }
                    Err(refused) => assert_eq!(refused.field, field, "{case}: {refused}"),
                }
            }
        }
    }
}

#[test]
fn a_registration_replaces_up_to_four_former_devices() {
    let key = DeviceKey::random();
    let with = |replaces: &[&str]| {
        let change = registered(|r| r.replaces = replaces.iter().map(|&d| d.into()).collect());
        with_key(wire::DeviceChange { device: ID.into(), ..change }, demo(), &key)
    };
    let accepted = with(&["old-1", "old-2", "old-1", "old-2"]).expect("valid");
    assert_eq!(accepted.replaced, [key.id("old-1"), key.id("old-2")], "without repeats");
    let removals: Vec<_> = accepted.removals().collect();
    assert!(removals.iter().all(|r| r.observed == NOW && r.change == Change::Removal));
    assert_eq!(removals.iter().map(|r| r.device).collect::<Vec<_>>(), accepted.replaced);

    let refused = |replaces: &[&str]| {
        let refused = with(replaces).expect_err("must be refused");
        (refused.field, refused.problem)
    };
    let field = |replaces: &[&str]| refused(replaces).0;
    assert_eq!(
        refused(&["a", "b", "c", "d", "e"]),
        ("registration.replaces".to_owned(), "must have at most 4 devices; got 5".to_owned())
    );
    assert_eq!(field(&["a", ""]), "registration.replaces[1]");
    assert_eq!(field(&[&"x".repeat(129)]), "registration.replaces[0]");
    for own in [ID.to_owned(), ID.to_uppercase(), ID.replace('-', ""), format!("urn:uuid:{ID}")] {
        assert_eq!(field(&["a", &own]), "registration.replaces[1]", "{own}");
    }

    let mut of_token = by_token("00ffab");
    let Some(device_change::Change::Registration(r)) = &mut of_token.change else { panic!("one") };
    r.replaces = vec!["00FF".into()];
    let accepted = with_key(of_token.clone(), token_app(), &key).expect("a former token");
    let former = with_key(by_token("00ff"), token_app(), &key).expect("valid").record.device;
    assert_eq!(accepted.replaced, [former]);
    for wrong in ["old-1", "00FFAB"] {
        let Some(device_change::Change::Registration(r)) = &mut of_token.change else { panic!() };
        r.replaces = vec![wrong.into()];
        let refused = with_key(of_token.clone(), token_app(), &key).expect_err("must be refused");
        assert_eq!(refused.field, "registration.replaces[0]", "{wrong}");
    }
}
