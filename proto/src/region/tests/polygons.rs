//! What published polygons become: normalized rings, holes, parts, and the map's edge.

use super::*;

/// A ring of points given as longitude and latitude, as in GeoJSON.
pub(super) fn ring(points: &[(f64, f64)]) -> wire::Ring {
    let point = |&(longitude, latitude): &(f64, f64)| wire::LatLng { latitude, longitude };
    wire::Ring { points: points.iter().map(point).collect() }
}

pub(super) fn part(outer: &[(f64, f64)], holes: &[&[(f64, f64)]]) -> wire::Polygon {
    wire::Polygon { outer: Some(ring(outer)), holes: holes.iter().map(|hole| ring(hole)).collect() }
}

pub(super) fn checked(shape: wire::region::Shape) -> Result<Arc<Area>, InvalidField> {
    let region =
        Region::from_wire(wire::Region { shape: Some(shape), exclusions: Vec::new(), datum: 0 })?;
    match region.shape {
        Shape::Area(area) => Ok(area),
        other => panic!("{other:?}"),
    }
}

pub(super) fn polygon(
    outer: &[(f64, f64)],
    holes: &[&[(f64, f64)]],
) -> Result<Arc<Area>, InvalidField> {
    checked(wire::region::Shape::Polygon(part(outer, holes)))
}

pub(super) fn parts(polygons: Vec<wire::Polygon>) -> Result<Arc<Area>, InvalidField> {
    checked(wire::region::Shape::MultiPolygon(wire::MultiPolygon { polygons }))
}

pub(super) fn holds(area: &Area, lng: f64, lat: f64) -> bool {
    area.holds(lat, lng, &mut 0)
}

fn square(west: f64, south: f64, size: f64) -> [(f64, f64); 4] {
    [(west, south), (west + size, south), (west + size, south + size), (west, south + size)]
}

#[test]
fn islands_and_lakes_that_became_a_line_do_not_matter() {
    let square = square(0.0, 0.0, 1.0);
    let plain = polygon(&square, &[]).unwrap();
    let line = [(0.2, 0.2), (0.4, 0.4), (0.3, 0.3), (0.2, 0.2)];
    let point = [(0.5, 0.5); 4];
    // An area of some square millimetres: nothing is left of it on the grid.
    let tiny = [(0.5, 0.5), (0.500_000_02, 0.5), (0.5, 0.500_000_02)];
    assert_eq!(polygon(&square, &[&line, &point, &tiny]).unwrap(), plain);
    let lines = || vec![part(&line, &[]), part(&point, &[&square]), part(&[(9.0, 9.0); 3], &[])];
    let mut with_area = lines();
    with_area.insert(1, part(&square, &[]));
    assert_eq!(parts(with_area).unwrap(), plain);
    let refused = parts(lines()).unwrap_err();
    assert_eq!(refused.field, "multi_polygon.polygons[0].outer.points");
    assert!(refused.problem.contains("at least 3 different points"), "{}", refused.problem);
    // What is outside stays a mistake, at its own index.
    let refused = polygon(&square, &[&line, &[(5.0, 5.0), (6.0, 5.0), (6.0, 6.0)]]).unwrap_err();
    assert!(refused.problem.contains("hole 1 lies outside"), "{}", refused.problem);
}

#[test]
fn repeated_points_open_rings_and_spikes_are_no_reason_to_refuse() {
    let triangle = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)];
    let plain = polygon(&triangle, &[]).unwrap();
    for outer in [
        vec![(0.0, 0.0), (1.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 0.0)],
        vec![(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 0.0), (0.0, 0.0)],
        // A spike out of a corner, through the opposite side, and out of the start.
        vec![(0.0, 0.0), (1.0, 0.0), (-0.5, 0.75), (1.0, 0.0), (1.0, 1.0)],
        vec![(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (2.0, 2.0), (1.0, 1.0), (0.0, 0.0)],
        vec![(-1.0, -1.0), (0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 0.0), (-1.0, -1.0)],
        // Less than a grid unit apart.
        vec![(0.0, 0.0), (1.0, 0.0), (1.000_000_01, 0.0), (1.0, 1.0), (0.0, 0.0)],
    ] {
        assert_eq!(polygon(&outer, &[]).unwrap().edges().len(), 3, "{outer:?}");
        assert_eq!(*polygon(&outer, &[]).unwrap(), *plain, "{outer:?}");
    }
}

#[test]
fn a_figure_of_eight_whose_loops_touch_is_accepted_everywhere() {
    for i in 0..200 {
        let (x, y) = (f64::from(i) * 1.7 - 170.3, f64::from(i % 17) * 7.3 - 58.9);
        let at = |dx: f64, dy: f64| (x + dx / 3.0, y + dy / 7.0);
        let loops =
            [at(0.0, 0.0), at(1.0, 1.0), at(2.0, 2.0), at(2.0, 0.0), at(1.0, 1.0), at(0.0, 2.0)];
        let area = polygon(&loops, &[]).unwrap();
        let inside = |(lng, lat): (f64, f64)| holds(&area, lng, lat);
        assert!(inside(at(0.2, 1.0)) && inside(at(1.8, 1.0)), "{i}");
        assert!(!inside(at(1.0, 0.5)) && !inside(at(1.0, 1.5)), "{i}");
        // The same with the common point on an edge of the other loop only.
        let on_edge = [at(0.0, 0.0), at(2.0, 2.0), at(2.0, 0.0), at(1.0, 1.0), at(0.0, 2.0)];
        assert!(polygon(&on_edge, &[]).is_ok(), "{i}");
    }
}

#[test]
fn a_crossing_is_refused_and_its_place_is_named() {
    let bow = [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)];
    let refused = polygon(&bow, &[]).unwrap_err();
    assert_eq!(refused.field, "polygon.outer.points");
    assert_eq!(
        refused.problem,
        "the ring crosses itself at (0.5, 0.5): the edge from (0, 0) to (1, 1) crosses the edge \
         from (0, 1) to (1, 0); places are (latitude, longitude)"
    );
}

#[test]
fn what_is_no_polygon_is_refused() {
    let problem = |points: &[(f64, f64)]| polygon(points, &[]).unwrap_err().problem;
    assert!(problem(&[(0.0, 0.0), (1.0, 0.0), (0.0, 0.0)]).contains("not on one line"));
    assert!(problem(&[(0.0, 0.0), (1.0, 0.0), (3.0, 0.0)]).contains("not on one line"));
    assert!(problem(&[(0.0, 0.0), (1.0, 0.0)]).contains("3 to 100000 points"));
    assert!(problem(&[(0.0, 80.0), (120.0, 80.0), (-120.0, 80.0)]).contains("around a pole"));
    // The antimeridian has two names; that leads nowhere.
    let cap = [(179.0, 80.0), (180.0, 80.0), (-180.0, 80.0), (-60.0, 80.0), (60.0, 80.0)];
    assert!(problem(&cap).contains("around a pole"));
    let half = polygon(&[(0.0, 0.0), (180.0, 1.0), (90.0, 2.0)], &[]).unwrap_err();
    assert_eq!(half.field, "polygon.outer.points[1]");
    assert!(half.problem.contains("exactly 180 degrees"));
    let spiral: Vec<(f64, f64)> =
        (0..20).map(|i| (f64::from(i % 12) * 30.0, f64::from(i))).collect();
    let back = spiral.iter().rev().map(|&(lng, lat)| (lng, lat + 0.5));
    let spiral: Vec<_> = spiral.iter().copied().chain(back).collect();
    assert!(problem(&spiral).contains("more than once"));
}

#[test]
fn holes_are_removed_as_a_union() {
    let outer = square(0.0, 0.0, 10.0);
    let (one, other) = (square(2.0, 2.0, 4.0), square(4.0, 4.0, 4.0));
    let across = square(8.0, 1.0, 4.0);
    let area = polygon(&outer, &[&one, &other, &one, &across]).unwrap();
    for (lng, lat, inside) in [
        (1.0, 1.0, true),
        (3.0, 3.0, false),
        (5.0, 5.0, false),
        (7.0, 7.0, false),
        (9.0, 2.0, false),
        (11.0, 2.0, false),
        (9.0, 6.0, true),
    ] {
        assert_eq!(holds(&area, lng, lat), inside, "{lng} {lat}");
    }
    let island = square(20.0, 0.0, 1.0);
    let refused = polygon(&outer, &[&one, &island]).unwrap_err();
    assert_eq!(refused.field, "polygon.holes[1].points");
    assert_eq!(refused.problem, "hole 1 lies outside the outer ring; is it a part?");
    let touching = square(10.0, 4.0, 1.0);
    assert!(polygon(&outer, &[&touching]).unwrap_err().problem.contains("is it a part?"));
    let all = polygon(&one, &[&outer]).unwrap_err();
    assert!(all.problem.contains("an area that its holes leave"), "{all}");
}

#[test]
fn a_ring_that_touches_itself_has_no_hole_filled_or_lost() {
    // A keyhole: a corridor without width leads to the inner ring.
    let mut keyhole = square(0.0, 0.0, 10.0).to_vec();
    keyhole.push((0.0, 0.0));
    keyhole.extend([(3.0, 3.0), (3.0, 6.0), (6.0, 6.0), (6.0, 3.0), (3.0, 3.0)]);
    let area = polygon(&keyhole, &[]).unwrap();
    assert!(holds(&area, 1.0, 2.0) && !holds(&area, 4.0, 5.0));
    // A ring that is walked twice.
    let twice: Vec<_> = square(0.0, 0.0, 1.0).repeat(2);
    assert!(holds(&polygon(&twice, &[]).unwrap(), 0.5, 0.5));
}

#[test]
fn parts_are_united() {
    let lake = square(2.0, 2.0, 6.0);
    let area = parts(vec![
        part(&square(0.0, 0.0, 10.0), &[&lake]),
        part(&square(4.0, 4.0, 2.0), &[]),  // an island in the lake
        part(&square(9.0, 9.0, 3.0), &[]),  // overlaps
        part(&square(-5.0, 0.0, 5.0), &[]), // touches
    ])
    .unwrap();
    for (lng, lat, inside) in [
        (1.0, 1.0, true),
        (3.0, 3.0, false),
        (5.0, 5.0, true),
        (9.5, 9.5, true),
        (11.0, 11.0, true),
        (-0.1, 1.0, true),
        (0.1, 1.0, true),
    ] {
        assert_eq!(holds(&area, lng, lat), inside, "{lng} {lat}");
    }
    // The common edge is no boundary: 4 + 4 corners of the large ring, 4 of the lake, 4 of the
    // island, and the corners in between.
    assert!(area.boundary().iter().all(|(a, b)| !(a.lng_deg() == 0.0
        && b.lng_deg() == 0.0
        && a.lat_deg().max(b.lat_deg()) <= 5.0)));
}

#[test]
fn every_place_of_the_map_has_the_same_area() {
    for shift in [-175.0, -180.0, 0.0, 175.0, 180.0, 300.0, -300.0] {
        let shifted: Vec<_> = square(0.0, 0.0, 10.0).iter().map(|&(x, y)| (x + shift, y)).collect();
        let area = polygon(&shifted, &[]).unwrap();
        let lng = |x: f64| (x + shift + 180.0).rem_euclid(360.0) - 180.0;
        assert!(holds(&area, lng(5.0), 5.0) && holds(&area, lng(9.9), 0.1), "{shift}");
        assert!(!holds(&area, lng(10.1), 5.0) && !holds(&area, lng(-0.1), 5.0), "{shift}");
        assert_eq!(area.boundary().len(), 4);
    }
    // Both names of the antimeridian in one ring.
    let names = [
        (179.0, 0.0),
        (180.0, 0.0),
        (-180.0, 0.0),
        (-179.0, 0.0),
        (-179.0, 1.0),
        (-180.0, 1.0),
        (180.0, 1.0),
        (179.0, 1.0),
    ];
    let area = polygon(&names, &[]).unwrap();
    assert!(holds(&area, 179.5, 0.5) && holds(&area, -179.5, 0.5) && !holds(&area, 0.0, 0.5));
    // -180 closes 180.
    let closed = [(-180.0, 0.0), (-170.0, 0.0), (-170.0, 10.0), (180.0, 10.0), (180.0, 0.0)];
    let area = polygon(&closed, &[]).unwrap();
    assert!(holds(&area, -175.0, 5.0) && !holds(&area, 175.0, 5.0));
}

#[test]
fn the_world_a_band_and_a_continent_around_a_pole_are_areas() {
    let world = [(-180.0, -90.0), (180.0, -90.0), (180.0, 90.0), (-180.0, 90.0)];
    for turn in [0.0, 180.0, -180.0] {
        let points: Vec<_> = world.iter().map(|&(x, y)| (x + turn, y)).collect();
        let area = polygon(&points, &[]).unwrap();
        assert!(area.boundary().is_empty(), "{turn}");
        for (lng, lat) in [(0.0, 0.0), (180.0, 10.0), (-180.0, -10.0), (33.3, 90.0), (0.0, -90.0)] {
            assert!(holds(&area, lng, lat), "{turn}: {lng} {lat}");
        }
    }
    let band = [(-180.0, 0.0), (180.0, 0.0), (180.0, 10.0), (-180.0, 10.0), (-180.0, 0.0)];
    let area = polygon(&band, &[]).unwrap();
    assert!(holds(&area, 77.0, 5.0) && holds(&area, 180.0, 5.0) && !holds(&area, 77.0, 11.0));
    assert!(area.boundary().iter().all(|(a, b)| a.lat_deg() == b.lat_deg()));
    let mut antarctica: Vec<(f64, f64)> =
        (-18..=18).map(|i| (f64::from(i) * 10.0, -70.0 - f64::from(i % 3))).collect();
    antarctica.extend([(180.0, -90.0), (-180.0, -90.0)]);
    let area = polygon(&antarctica, &[]).unwrap();
    assert!(holds(&area, 55.0, -80.0) && holds(&area, 180.0, -89.9) && holds(&area, 7.0, -90.0));
    assert!(!holds(&area, 55.0, -60.0));
    assert!(area.boundary().iter().all(|(a, _)| a.lat_deg() > -73.0));
    // Two halves that meet at the antimeridian and at Greenwich.
    let halves = parts(vec![
        part(
            &[(-180.0, 0.0), (-90.0, 0.0), (0.0, 0.0), (0.0, 9.0), (-90.0, 9.0), (-180.0, 9.0)],
            &[],
        ),
        part(&[(0.0, 0.0), (90.0, 0.0), (180.0, 0.0), (180.0, 9.0), (90.0, 9.0), (0.0, 9.0)], &[]),
    ])
    .unwrap();
    assert!(halves.boundary().iter().all(|(a, b)| a.lat_deg() == b.lat_deg()));
    assert!(holds(&halves, 180.0, 5.0) && holds(&halves, 0.0, 5.0));
}

#[test]
fn real_outlines_fit_and_the_work_is_bounded() {
    let round = |n: u32, radius: f64| -> Vec<(f64, f64)> {
        let angle = |i: u32| f64::from(i) / f64::from(n) * std::f64::consts::TAU;
        (0..n).map(|i| (radius * angle(i).cos(), radius * angle(i).sin())).collect()
    };
    // Points that lie exactly on the line between their neighbours are left out.
    assert!(polygon(&round(100_000, 10.0), &[]).unwrap().edges().len() > 70_000);
    let total = parts(vec![part(&round(50_000, 10.0), &[]), part(&round(50_001, 9.0), &[])]);
    let total = total.unwrap_err();
    assert_eq!(total.field, "multi_polygon.polygons[1].outer.points");
    assert!(total.problem.contains("at most 100000 points in all rings"), "{total}");
    // Slanted teeth: the box of each edge meets the boxes of all others.
    let tooth = |i: u32| {
        let south = f64::from(i) * 2e-4;
        [(0.0, south), (10.0, south + 10.0), (10.0, south + 10.000_1), (0.0, south + 0.000_1)]
    };
    let comb = |teeth: u32| -> Vec<(f64, f64)> {
        let mut points: Vec<_> = (0..teeth).flat_map(tooth).collect();
        points.extend([(-1.0, 20.0), (-1.0, 0.0)]);
        points
    };
    // Bars across bars, in many members: each is accepted, and all together take too long to cut.
    let bars: Vec<wire::Polygon> = (0..100)
        .flat_map(|i| {
            let from = f64::from(i) * 0.1;
            let bar = |w: f64, s: f64, e: f64, n: f64| [(w, s), (e, s), (e, n), (w, n)];
            let (to, across) = (from + 0.03, bar(0.0, from, 10.0, from + 0.03));
            [part(&across, &[]), part(&bar(from, 0.0, to, 10.0), &[])]
        })
        .collect();
    let member = wire::Region {
        shape: Some(wire::region::Shape::MultiPolygon(wire::MultiPolygon { polygons: bars })),
        ..wire::Region::default()
    };
    assert!(Region::from_wire(member.clone()).is_ok());
    let regions = vec![member; 40];
    let many = wire::region::Shape::Union(wire::RegionUnion { regions });
    let many = Region::from_wire(wire::Region { shape: Some(many), ..wire::Region::default() });
    assert!(many.unwrap_err().problem.contains("too intricate"));
    assert!(polygon(&comb(24_999), &[]).unwrap_err().problem.contains("too intricate"));
    assert!(polygon(&comb(500), &[]).is_ok());
}
