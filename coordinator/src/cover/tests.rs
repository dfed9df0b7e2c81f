use std::collections::BTreeSet;

use clarion_proto::{
    region::{LatLng, Region},
    wire::v1 as wire,
};
use h3o::{CellIndex, LatLng as H3LatLng, Resolution};
use proptest::prelude::*;

use super::*;

mod datum;
mod shapes;

fn circle(lat: f64, lng: f64, radius_m: f64) -> Region {
    Region::circle(LatLng::new(lat, lng).unwrap(), radius_m).unwrap()
}

fn ring(points: &[(f64, f64)]) -> wire::Ring {
    let closed = points.iter().chain(points.first());
    wire::Ring {
        points: closed.map(|&(latitude, longitude)| wire::LatLng { latitude, longitude }).collect(),
    }
}

fn polygon(outer: &[(f64, f64)], holes: &[&[(f64, f64)]]) -> Region {
    let polygon =
        wire::Polygon { outer: Some(ring(outer)), holes: holes.iter().map(|h| ring(h)).collect() };
    let shape = wire::region::Shape::Polygon(polygon);
    Region::from_wire(wire::Region { shape: Some(shape), exclusions: Vec::new(), datum: 0 })
        .unwrap()
}

fn covered(region: &Region) -> Vec<CellIndex> {
    cover(region, CellBudget::default()).unwrap().to_vec()
}

fn flat(cells: &[CellIndex]) -> BTreeSet<CellIndex> {
    cells.iter().flat_map(|c| c.children(Resolution::Nine)).collect()
}

/// Every cell of resolution 9 within `reach_m` of a point, found through H3's neighbours.
fn leaves_around(lat: f64, lng: f64, reach_m: f64) -> impl Iterator<Item = CellIndex> {
    let origin = H3LatLng::new(lat, lng).unwrap().to_cell(Resolution::Nine);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let k = (reach_m / 200.0) as u32 + 3; // neighbours' centres are at least 232 m apart
    origin.grid_disk::<Vec<_>>(k).into_iter()
}

fn holds(cells: &[CellIndex], leaf: CellIndex) -> bool {
    (0..=9u8).any(|r| {
        cells.binary_search(&leaf.parent(Resolution::try_from(r).unwrap()).unwrap()).is_ok()
    })
}

/// Sorted by index, as `binary_search` requires, not by place.
fn sorted(mut cells: Vec<CellIndex>) -> Vec<CellIndex> {
    cells.sort_unstable();
    cells
}

#[test]
fn a_city_takes_thousands_of_cells_not_hundreds_of_thousands() {
    let cells = covered(&circle(22.543, 114.057, 120_000.0));
    assert!((3_000..6_000).contains(&cells.len()), "{}", cells.len());
    assert!(cells.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn cells_given_come_back_merged() {
    let parent = H3LatLng::new(22.5, 114.0).unwrap().to_cell(Resolution::Seven);
    let given: Vec<u64> = parent.children(Resolution::Eight).map(u64::from).collect();
    let shape = wire::region::Shape::Cells(wire::CellSet { cells: given });
    let region =
        Region::from_wire(wire::Region { shape: Some(shape), exclusions: Vec::new(), datum: 0 })
            .unwrap();
    assert_eq!(covered(&region), vec![parent]);
}

#[test]
fn a_long_rim_is_covered_coarsely_or_refused() {
    let budget = |cells_max| CellBudget { cells_max, ..CellBudget::default() };
    let wide = circle(0.0, 0.0, 500_000.0);
    let coarse = cover(&wide, budget(10_000)).unwrap();
    assert_eq!((coarse.finest(), coarse.overshoot_m().round()), (Resolution::Eight, 1_274.0));
    assert_eq!(cover(&wide, CellBudget::default()).unwrap().finest(), Resolution::Nine);
    // 0.2 % of 1,000 km are 2,000 m.
    let refused = cover(&wide, budget(1_000)).unwrap_err();
    assert!(
        matches!(refused, CoverError::Overshoot { cells_max: 1_000, needed_m, allowed_m }
            if needed_m > 3_000.0 && (1_900.0..2_100.0).contains(&allowed_m)),
        "{refused}"
    );
    // What a coordinator recorded is found again, also within larger limits.
    let recorded = CellBudget { finest: Resolution::Eight, ..CellBudget::default() };
    assert_eq!(cover(&wide, recorded).unwrap(), coarse);
}

#[test]
fn the_work_ends_at_its_limit() {
    let work = |work_max| CellBudget { work_max, ..CellBudget::default() };
    assert!(cover(&circle(0.0, 0.0, 120_000.0), work(20_000_000)).is_ok(), "some 9 ms");
    assert!(matches!(
        cover(&circle(0.0, 0.0, 120_000.0), work(2_000_000)),
        Err(CoverError::Overshoot { .. })
    ));
    let count = Work::of(u64::MAX);
    assert!(cover_within(&circle(0.0, 0.0, 120_000.0), CellBudget::default(), &count).is_ok());
    let stopped = Work::patient(u64::MAX, count.done() / 2, std::sync::Arc::default());
    let abandoned = cover_within(&circle(0.0, 0.0, 120_000.0), CellBudget::default(), &stopped);
    assert_eq!(abandoned, Err(CoverError::Abandoned));
    let nobody_waits = Work::patient(u64::MAX, u64::MAX, std::sync::Arc::new(true.into()));
    let abandoned =
        cover_within(&circle(0.0, 0.0, 120_000.0), CellBudget::default(), &nobody_waits);
    assert_eq!(abandoned, Err(CoverError::Abandoned));
}

#[test]
fn a_hole_and_an_exclusion_leave_people_out_only_when_whole() {
    let outer = [(22.0, 113.0), (22.0, 115.0), (23.0, 115.0), (23.0, 113.0)];
    let hole: &[(f64, f64)] = &[(22.4, 113.8), (22.4, 114.2), (22.6, 114.2), (22.6, 113.8)];
    let holed = sorted(covered(&polygon(&outer, &[hole])));
    let mut excluding = polygon(&outer, &[]);
    excluding.exclusions = vec![circle(22.5, 114.0, 5_000.0)];
    let excluding = sorted(covered(&excluding));
    let leaf = |lat, lng| H3LatLng::new(lat, lng).unwrap().to_cell(Resolution::Nine);
    for (lat, lng, in_holed, in_excluding) in [
        (22.5, 114.0, false, false),
        (22.45, 113.9, false, true),
        (22.401, 114.0, true, true),
        (22.2, 114.0, true, true),
        (23.1, 114.0, false, false),
    ] {
        assert_eq!(
            (holds(&holed, leaf(lat, lng)), holds(&excluding, leaf(lat, lng))),
            (in_holed, in_excluding),
            "{lat} {lng}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_circle_is_covered_exactly_as_the_flat_cover(
        lat in prop_oneof![-90.0..90.0f64, 88.0..90.0f64, -90.0..-89.0f64, Just(90.0)],
        lng in prop_oneof![-180.0..180.0f64, 179.5..180.0f64, Just(-180.0)],
        radius_m in prop_oneof![1.0..400.0f64, 400.0..9_000.0f64],
    ) {
        let cells = sorted(covered(&circle(lat, lng, radius_m)));
        let flat = flat(&cells);
        let mut expected = BTreeSet::new();
        for leaf in leaves_around(lat, lng, radius_m + 500.0) {
            let disc = Disc::around(leaf);
            if distance_m(lat, lng, disc.center.lat_deg, disc.center.lng_deg) <= radius_m + disc.radius_m() {
                expected.insert(leaf);
            }
        }
        prop_assert_eq!(flat.len(), expected.len());
        prop_assert!(flat == expected);
    }

    #[test]
    fn whoever_is_inside_a_circle_is_covered_and_nobody_far_outside(
        lat in prop_oneof![-89.0..89.0f64, 89.0..90.0f64], lng in -180.0..180.0f64,
        radius_m in prop_oneof![100.0..5_000.0f64, 5_000.0..200_000.0f64],
        points in prop::collection::vec((0.0..360.0f64, 0.0..1.02f64), 200),
    ) {
        let cells = sorted(covered(&circle(lat, lng, radius_m)));
        for (azimuth, share) in points {
            // a point near the rim, outside as often as inside
            let distance = radius_m * share.powf(0.1);
            let (to_lat, to_lng) = direct(lat, lng, azimuth, distance);
            let leaf = H3LatLng::new(to_lat, to_lng).unwrap().to_cell(Resolution::Nine);
            let exact = distance_m(lat, lng, to_lat, to_lng);
            if exact <= radius_m {
                prop_assert!(holds(&cells, leaf), "inside by {}", radius_m - exact);
            }
            if holds(&cells, leaf) {
                prop_assert!(exact <= radius_m + OVERSHOOT_M_MAX, "outside by {}", exact - radius_m);
            }
        }
    }

    #[test]
    fn whoever_is_inside_a_polygon_is_covered_and_nobody_far_outside(
        lat in -75.0..75.0f64, lng in -180.0..180.0f64, size_deg in 0.01..2.0f64,
        corners in prop::collection::vec(0.4..1.0f64, 5..30),
        points in prop::collection::vec((0.0..360.0f64, 0.0..1.3f64), 200),
    ) {
        // a star-shaped outline around a point: never crosses itself
        let n = corners.len() as f64;
        let outline: Vec<(f64, f64)> = corners.iter().enumerate().map(|(i, r)| {
            let (sin, cos) = (i as f64 / n * std::f64::consts::TAU).sin_cos();
            let lng = lng + cos * r * size_deg;
            (lat + sin * r * size_deg, (lng + 180.0).rem_euclid(360.0) - 180.0)
        }).collect();
        let cells = sorted(covered(&polygon(&outline, &[])));
        for (azimuth, r) in points {
            let (sin, cos) = azimuth.to_radians().sin_cos();
            let (y, x) = (sin * r * size_deg, cos * r * size_deg);
            let point = (lat + y, (lng + x + 180.0).rem_euclid(360.0) - 180.0);
            let leaf = H3LatLng::new(point.0, point.1).unwrap().to_cell(Resolution::Nine);
            let flat: Vec<(f64, f64)> = corners.iter().enumerate().map(|(i, r)| {
                let (sin, cos) = (i as f64 / n * std::f64::consts::TAU).sin_cos();
                (cos * r * size_deg, sin * r * size_deg)
            }).collect();
            let inside = winding(&flat, (x, y));
            if inside {
                prop_assert!(holds(&cells, leaf));
            } else if holds(&cells, leaf) {
                let (per_lat, per_lng) = geodesic::metres_per_degree(point.0);
                let nearest = (0..flat.len()).map(|i| {
                    let (a, b) = (flat[i], flat[(i + 1) % flat.len()]);
                    segment_distance(((a.0 - x) * per_lng, (a.1 - y) * per_lat), ((b.0 - x) * per_lng, (b.1 - y) * per_lat))
                }).fold(f64::INFINITY, f64::min);
                prop_assert!(nearest <= OVERSHOOT_M_MAX, "outside by {nearest}");
            }
        }
    }
}

/// A point in a direction, computed on the sphere; the caller then computes its exact distance.
fn direct(lat: f64, lng: f64, azimuth_deg: f64, distance_m: f64) -> (f64, f64) {
    let (d, a) = (distance_m / 6_371_008.8, azimuth_deg.to_radians());
    let (phi, lambda) = (lat.to_radians(), lng.to_radians());
    let sin_phi2 = (phi.sin() * d.cos() + phi.cos() * d.sin() * a.cos()).clamp(-1.0, 1.0);
    let lambda2 = lambda + (a.sin() * d.sin() * phi.cos()).atan2(d.cos() - phi.sin() * sin_phi2);
    (sin_phi2.asin().to_degrees(), (lambda2.to_degrees() + 180.0).rem_euclid(360.0) - 180.0)
}

/// Whether a point is inside, by the winding number of the outline: not the cover's method.
fn winding(outline: &[(f64, f64)], point: (f64, f64)) -> bool {
    let angle = |p: (f64, f64)| (p.1 - point.1).atan2(p.0 - point.0);
    let total: f64 = (0..outline.len())
        .map(|i| {
            let turn = angle(outline[(i + 1) % outline.len()]) - angle(outline[i]);
            (turn + std::f64::consts::PI).rem_euclid(std::f64::consts::TAU) - std::f64::consts::PI
        })
        .sum();
    total.abs() > std::f64::consts::PI
}

fn segment_distance(a: (f64, f64), b: (f64, f64)) -> f64 {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let share = (-(a.0 * dx + a.1 * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
    (a.0 + share * dx).hypot(a.1 + share * dy)
}
