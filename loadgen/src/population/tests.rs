use std::collections::BTreeSet;

use super::*;

fn spec(areas: &str) -> PopulationSpec {
    toml::from_str(areas).expect("a population")
}

fn city() -> PopulationSpec {
    spec(
        r#"
        [[areas]]
        kind = "cities"
        share = 0.9
        near = { latitude = 22.54, longitude = 114.06 }
        within_meters = 250000
        [[areas]]
        kind = "disc"
        share = 0.1
        center = { latitude = 22.54, longitude = 114.06 }
        radius_meters = 300000
    "#,
    )
}

#[test]
fn a_device_is_the_same_whoever_asks_and_when() {
    let a = Population::new(&city(), 7, 1_000).unwrap();
    let b = Population::new(&city(), 7, 10).unwrap();
    let device = a.device(5);
    assert_eq!(device.id, b.device(5).id);
    assert!(device.place == b.device(5).place);
    assert_eq!(device.token.hash(), b.device(5).token.hash());
    assert_ne!(device.id, Population::new(&city(), 8, 10).unwrap().device(5).id);
    // Written down once: a change of these numbers makes every earlier report incomparable.
    assert_eq!(uuid::Uuid::from_bytes(device.id).get_version_num(), 4);
}

#[test]
fn ids_and_tokens_are_all_different() {
    let population = Population::new(&city(), 1, 20_000).unwrap();
    let ids: BTreeSet<_> = population.iter().map(|d| d.id).collect();
    let tokens: BTreeSet<_> = population.iter().map(|d| d.token.hash()).collect();
    assert_eq!((ids.len(), tokens.len()), (20_000, 20_000));
}

#[test]
fn devices_are_shared_among_apps_and_have_the_tokens_of_their_platform() {
    let apps = "apps = [{ name = 'a' }, { name = 'b', platform = 'fcm' }]\nareas = [{ kind = 'cities', share = 1 }]";
    let population = Population::new(&spec(apps), 1, 10_000).unwrap();
    assert_eq!(population.platforms(), [Platform::Apns, Platform::Fcm]);
    let fcm = population.iter().filter(|d| d.platform == Platform::Fcm).count();
    assert!((4_700..5_300).contains(&fcm), "{fcm}");
    for device in population.iter() {
        let long = device.token.as_slice().len() > 100;
        assert_eq!((device.platform == Platform::Fcm, device.app), (long, usize::from(long)));
    }
    let twice =
        spec("apps = [{ name = 'a' }, { name = 'a' }]\nareas = [{ kind = 'cities', share = 1 }]");
    assert!(Population::new(&twice, 1, 1).is_err_and(|e| e.to_string().contains("apps[1].name")));
}

#[test]
fn density_falls_off_from_the_centre() {
    let town = spec(
        r#"
        [[areas]]
        kind = "town"
        share = 1
        center = { latitude = 10, longitude = 20 }
        scale_meters = 10000
    "#,
    );
    let center = Place::new(10.0, 20.0);
    let population = Population::new(&town, 3, 20_000).unwrap();
    let within =
        |m: f64| population.iter().filter(|d| d.place.spherical_distance(center) <= m).count();
    // Gamma(2): 1 - (1 + x) e^-x of all are within x scales: 26.4 % within one, 59.4 % within two,
    // 95.96 % within five.
    let (one, two, five) = (within(10_000.0), within(20_000.0), within(50_000.0));
    assert!((5_000..5_600).contains(&one), "{one}");
    assert!((11_600..12_200).contains(&two), "{two}");
    assert!((19_000..19_400).contains(&five), "{five}");
}

#[test]
fn rings_and_discs_hold_what_they_say() {
    let areas = spec(
        r#"
        [[areas]]
        kind = "ring"
        share = 1
        center = { latitude = -17, longitude = 179.5 }
        radius_meters = 80000
        width_meters = 2000
        [[areas]]
        kind = "disc"
        share = 1
        center = { latitude = 90, longitude = 0 }
        radius_meters = 50000
    "#,
    );
    let population = Population::new(&areas, 3, 4_000).unwrap();
    let (fiji, pole) = (Place::new(-17.0, 179.5), Place::new(90.0, 0.0));
    let mut ring = (0, 0, 0);
    for device in population.iter() {
        assert!(device.place.is_valid());
        if device.place.latitude > 0.0 {
            assert!(device.place.spherical_distance(pole) <= 50_001.0);
        } else {
            assert!((device.place.spherical_distance(fiji) - 80_000.0).abs() <= 1_001.0);
            ring.0 += 1;
            ring.1 += u32::from(device.place.longitude > 0.0);
            ring.2 += u32::from(device.place.longitude < 0.0);
        }
    }
    assert!((1_800..2_200).contains(&ring.0), "half in each, {ring:?}");
    assert!(ring.1 > 400 && ring.2 > 400, "on both sides of the antimeridian, {ring:?}");
}

#[test]
fn bad_numbers_are_named() {
    let problem = |toml: &str| Population::new(&spec(toml), 1, 1).unwrap_err().to_string();
    assert_eq!(
        problem(
            "areas = [{ kind = 'disc', share = 0, center = { latitude = 0, longitude = 0 }, \
             radius_meters = 1 }]"
        ),
        "population.areas[0].share: must be greater than 0; got 0"
    );
    assert!(problem("areas = []").contains("must have at least one"));
    assert!(
        problem(
            "areas = [{ kind = 'cities', share = 1, near = { latitude = -80, longitude = 0 }, \
             within_meters = 5 }]"
        )
        .contains("a city in reach")
    );
}
