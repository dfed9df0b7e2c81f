//! Covers of polygons of every kind: nobody inside is missed, and the work is bounded everywhere.

use super::*;

type Outline = Vec<(f64, f64)>;

/// A region of polygons, each of them an outer ring and holes of (longitude, latitude).
fn region(parts: &[(Outline, Vec<Outline>)]) -> Result<Region, clarion_proto::error::InvalidField> {
    let ring = |points: &Outline| wire::Ring {
        points: points
            .iter()
            .map(|&(longitude, latitude)| wire::LatLng { latitude, longitude })
            .collect(),
    };
    let polygon = |(outer, holes): &(Outline, Vec<Outline>)| wire::Polygon {
        outer: Some(ring(outer)),
        holes: holes.iter().map(ring).collect(),
    };
    let polygons = parts.iter().map(polygon).collect();
    let shape = wire::region::Shape::MultiPolygon(wire::MultiPolygon { polygons });
    Region::from_wire(wire::Region { shape: Some(shape), exclusions: Vec::new(), datum: 0 })
}

fn one(outer: &[(f64, f64)]) -> Region {
    region(&[(outer.to_vec(), Vec::new())]).unwrap()
}

fn square(west: f64, south: f64, size: f64) -> Outline {
    vec![(west, south), (west + size, south), (west + size, south + size), (west, south + size)]
}

/// The cover, and the work that it took.
fn counted(region: &Region) -> (Result<Cover, CoverError>, u64) {
    let budget = CellBudget::default();
    let work = Work::of(budget.work_max);
    let cover = cover_within(region, budget, &work);
    (cover, work.done())
}

fn leaf(lng: f64, lat: f64) -> CellIndex {
    H3LatLng::new(lat, lng).unwrap().to_cell(Resolution::Nine)
}

#[test]
fn holes_leave_nobody_in_who_is_far_inside_them() {
    let holes = vec![
        square(114.2, 22.2, 0.3),
        square(114.4, 22.4, 0.3), // overlaps the first
        square(114.2, 22.2, 0.3), // the first again
        square(114.2, 22.5, 0.2), // shares an edge with the first
        square(114.9, 22.1, 0.3), // reaches out
    ];
    let region = region(&[(square(114.0, 22.0, 1.0), holes)]).unwrap();
    let cells = sorted(covered(&region));
    for (lng, lat, inside) in [
        (114.1, 22.1, true),
        (114.45, 22.45, false),
        (114.3, 22.3, false),
        (114.3, 22.5, false), // on the common edge of two holes
        (114.6, 22.6, false),
        (114.95, 22.2, false),
        (115.1, 22.2, false),
        (115.006, 22.2, false), // 600 m outside, beside the hole that reaches out
        (114.95, 22.8, true),
    ] {
        assert_eq!(holds(&cells, leaf(lng, lat)), inside, "{lng} {lat}");
    }
}

#[test]
fn regions_of_any_size_have_covers_of_bounded_overshoot() {
    let world = [(-180.0, -90.0), (180.0, -90.0), (180.0, 90.0), (-180.0, 90.0)];
    let (cover, work) = counted(&one(&world));
    assert_eq!((cover.unwrap().len(), work < 10_000_000), (122, true));
    let mut antarctica: Outline = (-180..=180_i32)
        .map(|i| (f64::from(i), -70.0 - f64::from(i.rem_euclid(7)) / 3.0))
        .collect();
    antarctica.extend([(180.0, -90.0), (-180.0, -90.0)]);
    let band = vec![(-180.0, 0.0), (180.0, 0.0), (180.0, 30.0), (-180.0, 30.0)];
    for (what, region, extent_m, inside, outside) in [
        ("5,000 km", circle(35.0, 105.0, 5_000_000.0), 1e7, (105.0, 35.0), (-75.0, -35.0)),
        ("10,000 km", circle(90.0, 0.0, 10_000_000.0), 1.2e7, (12.0, 1.0), (12.0, -1.0)),
        ("a continent at a pole", one(&antarctica), 4e6, (77.0, -89.0), (77.0, -69.0)),
        ("a band", one(&band), 1.2e7, (180.0, 15.0), (180.0, -1.0)),
        (
            "a pole's cap",
            one(&[(-180.0, 85.0), (180.0, 85.0), (180.0, 90.0), (-180.0, 90.0)]),
            1e6,
            (33.0, 89.999),
            (33.0, 84.9),
        ),
        (
            "a wedge",
            one(&[(0.0, 80.0), (90.0, 85.0), (0.0, 85.0)]),
            5e5,
            (10.0, 83.0),
            (60.0, 80.0),
        ),
    ] {
        let (cover, work) = counted(&region);
        let cover = cover.unwrap_or_else(|error| panic!("{what}: {error}"));
        println!("{what}: {} cells, {} m, {work} units", cover.len(), cover.overshoot_m());
        assert!(cover.overshoot_m() <= f64::max(500.0, OVERSHOOT_PART_MAX * extent_m), "{what}");
        assert!(work < 251_000_000, "{what}: {work}");
        let cells = sorted(cover.to_vec());
        assert!(holds(&cells, leaf(inside.0, inside.1)), "{what}");
        assert!(!holds(&cells, leaf(outside.0, outside.1)), "{what}");
    }
}

/// The triangles that took half a minute of a core, and others near the poles.
#[test]
fn work_near_a_pole_is_the_work_elsewhere() {
    for (a, b, c) in [
        ((0.0, 80.0), (90.0, 85.0), (0.0, 85.0)),
        ((0.0, 80.5), (170.0, 89.9), (0.0, 89.0)),
        ((-60.0, 88.0), (60.0, 89.9), (59.0, 90.0)),
        ((0.0, -81.0), (179.0, -89.0), (90.0, -89.999)),
    ] {
        let (cover, work) = counted(&one(&[a, b, c]));
        println!("{} cells, {work} units", cover.as_ref().unwrap().len());
        assert!(work < 100_000_000, "{a:?}: {work}");
        assert_eq!(cover.unwrap().finest(), Resolution::Nine);
    }
    // The city of every day, and the widest stage of a search.
    for (radius_m, work_max) in [(120_000.0, 15_000_000), (500_000.0, 60_000_000)] {
        let (cover, work) = counted(&circle(22.5, 114.0, radius_m));
        println!("{radius_m} m: {} cells, {work} units", cover.unwrap().len());
        assert!(work < work_max, "{radius_m}: {work}");
    }
}

/// Edges of all polygons of a region together: a union of many would take gigabytes.
#[test]
fn long_edges_of_all_members_are_counted_together() {
    let wedges = |count: i32| {
        let wedge = |i: i32| {
            let west = f64::from(i);
            vec![(west, -80.0), (west + 0.4, -80.0), (west + 0.4, 80.0), (west, 80.0)]
        };
        let polygons: Vec<_> = (0..count).map(|i| (wedge(i), Vec::new())).collect();
        region(&polygons).unwrap()
    };
    let refused =
        |region: &Region| cover(region, CellBudget::default()) == Err(CoverError::LongEdges);
    let one = wedges(100);
    let union = Region { shape: Shape::Union(vec![one.clone(); 8]), exclusions: Vec::new() };
    assert!(!refused(&one) && refused(&union));
}

/// Whether a ring winds around a point, by plain arithmetic.
fn winds(ring: &[(f64, f64)], (x, y): (f64, f64)) -> bool {
    let turns: i32 = (0..ring.len())
        .map(|i| {
            let (a, b) = (ring[i], ring[(i + 1) % ring.len()]);
            let side = (b.0 - a.0) * (y - a.1) - (b.1 - a.1) * (x - a.0);
            i32::from(a.1 <= y && b.1 > y && side > 0.0)
                - i32::from(b.1 <= y && a.1 > y && side < 0.0)
        })
        .sum();
    turns != 0
}

fn coarse_ring() -> impl Strategy<Value = Vec<(u8, u8)>> {
    prop_oneof![
        prop::collection::vec((0..7_u8, 0..7_u8), 3..8),
        (0..5_u8, 0..5_u8, 1..4_u8, 1..4_u8).prop_map(|(x, y, w, h)| vec![
            (x, y),
            (x + w, y),
            (x + w, y + h),
            (x, y + h)
        ]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// On a coarse grid, every cell with a point inside by plain arithmetic is in the cover.
    #[test]
    fn whoever_is_inside_polygons_with_holes_is_covered(
        given in prop::collection::vec(
            (coarse_ring(), prop::collection::vec(coarse_ring(), 0..3)), 1..4),
        (lng, lat) in prop_oneof![
            (-180.0..180.0_f64, -84.0..80.0_f64),
            (178.5..180.0_f64, -2.0..2.0_f64),
            (-180.0..180.0_f64, 88.0..89.0_f64),
        ],
        unit in 0.005..0.1_f64,
    ) {
        let placed = |ring: &Vec<(u8, u8)>| -> Outline {
            ring.iter().map(|&(x, y)| (lng + f64::from(x) * unit, lat + f64::from(y) * unit)).collect()
        };
        let parts: Vec<(Outline, Vec<Outline>)> = given
            .iter()
            .map(|(outer, holes)| (placed(outer), holes.iter().map(placed).collect()))
            .collect();
        let Ok(region) = region(&parts) else { return Ok(()) };
        let cells = sorted(covered(&region));
        let inside = |x: f64, y: f64| {
            let at = (lng + x * unit, lat + y * unit);
            parts.iter().any(|(outer, holes)| {
                winds(outer, at) && !holes.iter().any(|hole| winds(hole, at))
            })
        };
        for i in 0..28 {
            for j in 0..28 {
                // On no line through two points of the grid: plain arithmetic cannot decide there.
                let (x, y) = (f64::from(i) / 4.0 + 0.11317, f64::from(j) / 4.0 + 0.13771);
                if inside(x, y) {
                    let place = leaf(lng + x * unit, lat + y * unit);
                    prop_assert!(holds(&cells, place), "{x} {y}");
                }
            }
        }
    }
}
