//! Covers of regions in GCJ-02: a device counts by the reading of its place.

use clarion_proto::datum::Degrees;

use super::*;

fn in_gcj02(region: wire::Region) -> Region {
    Region::from_wire(wire::Region { datum: wire::Datum::Gcj02.into(), ..region }).unwrap()
}

fn of(shape: wire::region::Shape) -> wire::Region {
    wire::Region { shape: Some(shape), ..wire::Region::default() }
}

fn outline(outer: &[(f64, f64)]) -> wire::Region {
    let polygon = wire::Polygon { outer: Some(ring(outer)), holes: Vec::new() };
    of(wire::region::Shape::Polygon(polygon))
}

fn readings(lat: f64, lng: f64) -> Vec<(f64, f64)> {
    Datum::Gcj02.readings(Degrees { lat, lng }, 0.0).map(|r| (r.lat, r.lng)).collect()
}

fn leaf((lat, lng): (f64, f64)) -> CellIndex {
    H3LatLng::new(lat, lng).unwrap().to_cell(Resolution::Nine)
}

#[test]
fn an_outline_of_a_chinese_map_holds_the_phones_that_the_map_shows_in_it() {
    // A narrow quarter of Shenzhen as a Chinese map shows it: some 300 m wide.
    let quarter = [(22.540, 114.060), (22.540, 114.063), (22.550, 114.063), (22.550, 114.060)];
    let shown = Degrees { lat: 22.545, lng: 114.0615 };
    let phone = Datum::Gcj02.to_wgs84(shown);
    let moved = sorted(covered(&in_gcj02(outline(&quarter))));
    assert!(holds(&moved, leaf((phone.lat, phone.lng))));
    assert!(!holds(&moved, leaf((shown.lat, shown.lng + 0.004))), "another place");
    let plain = sorted(covered(&polygon(&quarter, &[])));
    assert!(!holds(&plain, leaf((phone.lat, phone.lng))), "600 m away");
}

#[test]
fn the_overshoot_of_a_region_in_gcj02_is_told_and_stays_within_500_m() {
    let square = [(22.0, 113.0), (22.0, 114.0), (23.0, 114.0), (23.0, 113.0)];
    let moved = cover(&in_gcj02(outline(&square)), CellBudget::default()).unwrap();
    assert!((455.0..500.0).contains(&moved.overshoot_m()), "{}", moved.overshoot_m());
    let plain = cover(&polygon(&square, &[]), CellBudget::default()).unwrap();
    assert!((plain.overshoot_m() - 448.8).abs() < 0.1, "{}", plain.overshoot_m());
    // One member or exclusion in GCJ-02 is enough.
    let member = wire::Region { datum: wire::Datum::Gcj02.into(), ..outline(&square) };
    let union = wire::region::Shape::Union(wire::RegionUnion { regions: vec![member] });
    let union = cover(&Region::from_wire(of(union)).unwrap(), CellBudget::default()).unwrap();
    assert!((union.overshoot_m() - moved.overshoot_m()).abs() < 1e-9);
}

#[test]
fn a_circle_has_its_centre_converted_and_members_inherit_the_datum() {
    let shown = wire::LatLng { latitude: 22.543, longitude: 114.057 };
    let phone = Datum::Gcj02.to_wgs84(Degrees { lat: 22.543, lng: 114.057 });
    let circle_of = |center: wire::LatLng| {
        of(wire::region::Shape::Circle(wire::Circle { center: Some(center), radius_meters: 200.0 }))
    };
    let given = wire::LatLng { latitude: phone.lat, longitude: phone.lng };
    let plain = covered(&Region::from_wire(circle_of(given)).unwrap());
    assert_eq!(covered(&in_gcj02(circle_of(shown))), plain);
    let union = |member: wire::Region| {
        of(wire::region::Shape::Union(wire::RegionUnion { regions: vec![member] }))
    };
    assert_eq!(covered(&in_gcj02(union(circle_of(shown)))), plain, "inherited");
    let own = wire::Region { datum: wire::Datum::Wgs84.into(), ..circle_of(given) };
    assert_eq!(covered(&in_gcj02(union(own))), plain, "of its own");
    // An exclusion inherits, too; and cells inside a region in GCJ-02 stay cells.
    let wide = wire::Circle { center: Some(shown), radius_meters: 5_000.0 };
    let mut hollow = of(wire::region::Shape::Circle(wide));
    hollow.exclusions = vec![wire::Region {
        shape: Some(wire::region::Shape::Circle(wire::Circle {
            center: Some(shown),
            radius_meters: 2_000.0,
        })),
        ..wire::Region::default()
    }];
    assert!(!holds(&sorted(covered(&in_gcj02(hollow))), leaf((phone.lat, phone.lng))));
    let cell = leaf((22.543, 114.057));
    let cells = of(wire::region::Shape::Cells(wire::CellSet { cells: vec![cell.into()] }));
    assert_eq!(covered(&in_gcj02(union(cells.clone()))), [cell]);
    let refused = wire::Region { datum: wire::Datum::Gcj02.into(), ..cells };
    assert_eq!(Region::from_wire(refused).unwrap_err().field, "datum");
}

#[test]
fn a_large_region_in_gcj02_takes_about_the_work_of_another() {
    let wide = [(15.0, 75.0), (15.0, 135.0), (53.0, 135.0), (53.0, 75.0)];
    let counted = |region: &Region| {
        let work = Work::of(u64::MAX);
        let cover = cover_within(region, CellBudget::default(), &work).unwrap();
        (cover.len(), work.done())
    };
    let (plain, moved) = (counted(&polygon(&wide, &[])), counted(&in_gcj02(outline(&wide))));
    println!("{plain:?}, in GCJ-02 {moved:?}");
    assert!(moved.1 < 2 * plain.1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whoever_reads_inside_a_polygon_in_gcj02_is_covered_and_nobody_far_outside(
        (lat, lng) in prop_oneof![
            (18.0..52.0_f64, 76.0..134.0_f64),
            (20.0..50.0_f64, 137.83..137.84_f64),
            (20.0..50.0_f64, 72.0..72.01_f64),
            (0.82..0.84_f64, 80.0..130.0_f64),
            (55.82..55.83_f64, 80.0..130.0_f64),
        ],
        size_deg in prop_oneof![0.01..0.1_f64, 0.1..3.0_f64],
        corners in prop::collection::vec(0.4..1.0_f64, 3..20),
        points in prop::collection::vec((0.0..360.0_f64, 0.0..1.3_f64), 300),
    ) {
        let n = corners.len() as f64;
        let flat: Vec<(f64, f64)> = corners.iter().enumerate().map(|(i, r)| {
            let (sin, cos) = (i as f64 / n * std::f64::consts::TAU).sin_cos();
            (cos * r * size_deg, sin * r * size_deg)
        }).collect();
        let outer: Vec<(f64, f64)> = flat.iter().map(|(x, y)| (lat + y, lng + x)).collect();
        let cover = cover(&in_gcj02(outline(&outer)), CellBudget::default()).unwrap();
        let cells = sorted(cover.to_vec());
        for (azimuth, r) in points {
            let (sin, cos) = azimuth.to_radians().sin_cos();
            let place = (lat + sin * r * size_deg, lng + cos * r * size_deg);
            let found = readings(place.0, place.1);
            let at = |(y, x): &(f64, f64)| (x - lng, y - lat);
            let is_covered = holds(&cells, leaf(place));
            if found.iter().any(|reading| winding(&flat, at(reading))) {
                prop_assert!(is_covered);
            } else if is_covered {
                // The cell of a place near the rim has both readings where the place has one.
                let near = Degrees { lat: place.0, lng: place.1 };
                let near = Datum::Gcj02.readings(near, 500.0).map(|r| (r.lat, r.lng));
                let nearest = near.flat_map(|reading| {
                    let (per_lat, per_lng) = geodesic::metres_per_degree(reading.0);
                    let (x, y) = at(&reading);
                    let moved = move |p: (f64, f64)| ((p.0 - x) * per_lng, (p.1 - y) * per_lat);
                    let flat = &flat;
                    (0..flat.len()).map(move |i| {
                        segment_distance(moved(flat[i]), moved(flat[(i + 1) % flat.len()]))
                    })
                }).fold(f64::INFINITY, f64::min);
                prop_assert!(nearest <= cover.overshoot_m(), "outside by {nearest}");
            }
        }
    }
}
