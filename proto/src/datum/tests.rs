//! Readings beside published pairs, and the bounds that covers rely on.

use proptest::prelude::*;

use super::*;

/// Pairs of WGS-84 and GCJ-02 from the tests of eviltransform, as latitude and longitude.
const PUBLISHED: [((f64, f64), (f64, f64)); 3] = [
    ((31.177_427_6, 121.527_210_6), (31.175_303_983_645_97, 121.531_541_859_215)),
    ((22.543_847, 113.912_316), (22.540_796_131_694_766, 113.917_176_480_836_3)),
    ((39.911_954, 116.377_817), (39.913_345_455_360_69, 116.384_047_224_556_57)),
];

fn degrees((lat, lng): (f64, f64)) -> Degrees {
    Degrees { lat, lng }
}

fn readings(place: (f64, f64), radius_m: f64) -> Vec<Degrees> {
    Datum::Gcj02.readings(degrees(place), radius_m).collect()
}

/// Distance on a sphere with the earth's largest radius of curvature.
fn apart_m(a: Degrees, b: Degrees) -> f64 {
    let (half_lat, half_lng) =
        ((a.lat - b.lat).to_radians() / 2.0, (a.lng - b.lng).to_radians() / 2.0);
    let cos = a.lat.to_radians().cos() * b.lat.to_radians().cos();
    2.0 * 6_399_600.0 * (half_lat.sin().powi(2) + cos * half_lng.sin().powi(2)).sqrt().asin()
}

#[test]
fn published_pairs_agree_in_both_directions() {
    for (wgs84, gcj02) in PUBLISHED {
        let reading = readings(wgs84, 0.0);
        assert_eq!(reading.len(), 1, "{wgs84:?}");
        assert!(apart_m(reading[0], degrees(gcj02)) < 0.02, "{wgs84:?}");
        let back = Datum::Gcj02.to_wgs84(degrees(gcj02));
        assert!(apart_m(back, degrees(wgs84)) < 0.02, "{wgs84:?}");
    }
}

#[test]
fn the_offset_ends_at_the_rim_of_the_rectangle() {
    for (place, count) in [
        ((22.3, 114.17), 1),  // Hong Kong
        ((21.03, 105.85), 1), // Hanoi
        ((35.0, 137.83), 2),  // at the eastern rim
        ((35.0, 137.844), 2), // beyond it
        ((0.8294, 100.0), 2), // at the southern rim
        ((55.82, 72.01), 2),  // at a corner
        ((55.9, 100.0), 1),   // north of it
        ((52.52, 13.4), 1),   // Berlin
        ((-35.0, 105.0), 1),  // the other hemisphere
        ((89.99, -120.0), 1), // a pole
    ] {
        let found = readings(place, 0.0);
        assert_eq!(found.len(), count, "{place:?}");
        let is_moved = found.iter().any(|&reading| apart_m(reading, degrees(place)) > 1.0);
        let inside = is_offset(degrees(place)) || count == 2;
        assert_eq!(is_moved, inside, "{place:?}");
    }
    assert_eq!(readings((35.0, 105.0), 60_000.0), [degrees((35.0, 105.0))], "not stretched");
    let elsewhere = degrees((52.52, 13.4));
    assert_eq!(Datum::Gcj02.to_wgs84(elsewhere), elsewhere);
    assert_eq!(Datum::Wgs84.to_wgs84(degrees((22.5, 114.0))), degrees((22.5, 114.0)));
}

#[test]
fn a_datum_of_a_message_is_known_or_refused() {
    assert_eq!(Datum::from_wire(0, "datum"), Ok(None));
    assert_eq!(Datum::from_wire(1, "datum"), Ok(Some(Datum::Wgs84)));
    assert_eq!(Datum::from_wire(2, "datum"), Ok(Some(Datum::Gcj02)));
    let refused = Datum::from_wire(3, "datum").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "datum: must be DATUM_WGS84 (1), DATUM_GCJ02 (2) or not set; got 3"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_converted_point_reads_as_it_was_given(lat in 0.83..55.82_f64, lng in 72.01..137.83_f64) {
        let back = Datum::Gcj02.to_wgs84(Degrees { lat, lng });
        let again = offset(back);
        prop_assert!((again.lat - lat).abs() < 1e-9 && (again.lng - lng).abs() < 1e-9);
        // Regions find the device again by one of the readings of its place.
        let found = readings((back.lat, back.lng), 0.0);
        prop_assert!(found.iter().any(|r| (r.lat - lat).abs() < 1e-9 && (r.lng - lng).abs() < 1e-9));
    }

    /// Everything that covers rely on: a disc's readings are within its spread, anywhere.
    #[test]
    fn readings_of_a_disc_are_within_its_spread(
        lat in prop_oneof![-3.0..59.0_f64, 0.8..0.86_f64, 55.8..55.85_f64],
        lng in prop_oneof![68.0..142.0_f64, 71.99..72.02_f64, 137.82..137.85_f64, 104.999..105.001_f64],
        radius_m in prop_oneof![1.0..300.0_f64, 300.0..50_000.0_f64, 50_000.0..1_500_000.0_f64],
        (share, azimuth) in (0.0..0.99_f64, 0.0..std::f64::consts::TAU),
    ) {
        let center = Degrees { lat, lng };
        let (north, east) = (radius_m * share * azimuth.cos(), radius_m * share * azimuth.sin());
        let place = Degrees {
            lat: (lat + (north / 6_399_600.0).to_degrees()).clamp(-80.0, 80.0),
            lng: lng + (east / 6_399_600.0 / lat.to_radians().cos()).to_degrees(),
        };
        // Only places that are surely in the disc count; far ones bend away from it.
        prop_assume!(apart_m(center, place) <= radius_m);
        let discs: Vec<_> = Datum::Gcj02.readings(center, radius_m).collect();
        for reading in Datum::Gcj02.readings(place, 0.0) {
            let nearest = discs.iter().map(|&disc| apart_m(disc, reading)).fold(f64::MAX, f64::min);
            let spread = Datum::Gcj02.spread_m(radius_m);
            prop_assert!(nearest <= spread * 1.004, "{nearest} in {spread}");
            prop_assert!(apart_m(place, reading) <= OFFSET_M_MAX);
        }
    }
}
