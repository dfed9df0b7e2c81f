//! The regions that cost the most: shapes that a search over many found to be the slowest to check
//! or to cover, and those of published outlines at their limits.

use std::f64::consts::TAU;

use clarion_proto::wire::v1::{self as wire, region::Shape};

/// A point as longitude and latitude.
type Point = (f64, f64);

/// Each shape with its name.
#[must_use]
pub fn regions() -> Vec<(&'static str, wire::Region)> {
    vec![
        ("wedge at a pole", polygon(&[(0.0, 80.0), (90.0, 85.0), (0.0, 85.0)])),
        ("triangle around a pole", polygon(&[(0.0, 80.5), (170.0, 89.9), (0.0, 89.0)])),
        ("circle of 10,000 km", circle((12.0, 34.0), 10_000_000.0)),
        ("strips around the world", strips(40)),
        ("comb of 100,000 points", comb(24_999, 1e-4)),
        ("comb of long teeth", comb(2_000, 5.0)),
        ("slanted teeth", slanted(500)),
        ("spiral of 100,000 points", spiral(50_000)),
        ("round of 100,000 points", polygon(&round(100_000, 8.0))),
        ("992 circles in a union", circles(16, 62, 90_000.0)),
        ("992 large circles in a union", circles(16, 62, 1_500_000.0)),
        ("64 circles with 15 exclusions each", excluded(63, 15)),
        ("crossing bars", bars(150)),
        ("crossing bars, many times", union((0..40).map(|_| bars(150)).collect())),
        ("1,024 parts with holes", parts(1_024)),
        ("one part with 1,024 holes", holes(1_024)),
        ("long edges from pole to pole", poles(300)),
        ("long edges, many times", union((0..64).map(|_| poles(100)).collect())),
        ("long edges in GCJ-02", chinese(poles(60))),
        (
            "circle of edges in GCJ-02",
            chinese(polygon(&around((105.0, 35.0), &round(20_000, 9.0)))),
        ),
    ]
}

fn of(shape: Shape) -> wire::Region {
    wire::Region { shape: Some(shape), ..wire::Region::default() }
}

fn ring(points: &[Point]) -> wire::Ring {
    let point = |&(longitude, latitude): &Point| wire::LatLng { latitude, longitude };
    wire::Ring { points: points.iter().map(point).collect() }
}

fn part(points: &[Point]) -> wire::Polygon {
    wire::Polygon { outer: Some(ring(points)), holes: Vec::new() }
}

fn polygon(points: &[Point]) -> wire::Region {
    of(Shape::Polygon(part(points)))
}

fn multi(polygons: Vec<wire::Polygon>) -> wire::Region {
    of(Shape::MultiPolygon(wire::MultiPolygon { polygons }))
}

fn union(regions: Vec<wire::Region>) -> wire::Region {
    of(Shape::Union(wire::RegionUnion { regions }))
}

fn chinese(region: wire::Region) -> wire::Region {
    wire::Region { datum: wire::Datum::Gcj02.into(), ..region }
}

fn circle((longitude, latitude): Point, radius_meters: f64) -> wire::Region {
    let center = Some(wire::LatLng { latitude, longitude });
    of(Shape::Circle(wire::Circle { center, radius_meters }))
}

fn bar(west: f64, south: f64, east: f64, north: f64) -> wire::Polygon {
    part(&[(west, south), (east, south), (east, north), (west, north)])
}

fn square(west: f64, south: f64, size: f64) -> wire::Polygon {
    bar(west, south, west + size, south + size)
}

fn round(points: u32, radius: f64) -> Vec<Point> {
    let angle = |i: u32| f64::from(i) / f64::from(points) * TAU;
    (0..points).map(|i| (radius * angle(i).cos(), radius * angle(i).sin())).collect()
}

fn around((lng, lat): Point, points: &[Point]) -> Vec<Point> {
    points.iter().map(|&(x, y)| (lng + x, lat + y)).collect()
}

/// Bands around the whole earth, one above another.
fn strips(count: u32) -> wire::Region {
    let step = 160.0 / f64::from(count);
    let strip = |i: u32| {
        let south = -80.0 + f64::from(i) * step;
        bar(-180.0, south, 180.0, south + step / 2.0)
    };
    multi((0..count).map(strip).collect())
}

/// Upright teeth beside each other, 4 points each.
fn comb(teeth: u32, height: f64) -> wire::Region {
    let step = 10.0 / f64::from(teeth);
    let tooth = |i: u32| {
        let west = f64::from(i) * step;
        let east = west + step / 2.0;
        [(west, 30.0), (west, 30.0 + height), (east, 30.0 + height), (east, 30.0)]
    };
    let mut points: Vec<Point> = (0..teeth).flat_map(tooth).collect();
    points.extend([(10.0, 29.0), (0.0, 29.0)]);
    polygon(&points)
}

/// Teeth whose boxes all lie across each other.
fn slanted(teeth: u32) -> wire::Region {
    let tooth = |i: u32| {
        let south = f64::from(i) * 2e-4;
        [(0.0, south), (10.0, south + 10.0), (10.0, south + 10.000_1), (0.0, south + 0.000_1)]
    };
    let mut points: Vec<Point> = (0..teeth).flat_map(tooth).collect();
    points.extend([(-1.0, 20.0), (-1.0, 0.0)]);
    polygon(&points)
}

/// A band that winds around a point, and back.
fn spiral(points: u32) -> wire::Region {
    let at = |i: u32, wide: f64| {
        let share = f64::from(i) / f64::from(points);
        let (sin, cos) = (share * 40.0 * TAU).sin_cos();
        let radius = 0.5 + 9.0 * share + wide;
        (105.0 + radius * cos, 30.0 + radius * sin)
    };
    let outwards = (0..points).map(|i| at(i, 0.0));
    let back = (0..points).rev().map(|i| at(i, 0.1));
    polygon(&outwards.chain(back).take(100_000).collect::<Vec<_>>())
}

/// Unions in a union, of circles all over the world.
fn circles(unions: u32, members: u32, radius_meters: f64) -> wire::Region {
    let members_of = |u: u32| {
        let center = |m: u32| {
            let i = f64::from(u * members + m);
            // Even on the globe, in the order of the golden angle.
            let height = 1.0 - 2.0 * (i + 0.5) / f64::from(unions * members);
            ((i * 137.507_764).rem_euclid(360.0) - 180.0, height.asin().to_degrees())
        };
        union((0..members).map(|m| circle(center(m), radius_meters)).collect())
    };
    union((0..unions).map(members_of).collect())
}

/// Circles beside each other, each with exclusions along its rim.
fn excluded(count: u32, exclusions: u32) -> wire::Region {
    let member = |i: u32| {
        let (longitude, latitude) = (f64::from(i % 8) * 1.5, 20.0 + f64::from(i / 8) * 1.5);
        let exclusion = |e: u32| {
            let (sin, cos) = (f64::from(e) / f64::from(exclusions) * TAU).sin_cos();
            circle((longitude + cos, latitude + sin), 30_000.0)
        };
        wire::Region {
            exclusions: (0..exclusions).map(exclusion).collect(),
            ..circle((longitude, latitude), 110_000.0)
        }
    };
    union((0..count).map(member).collect())
}

/// Bars across bars: almost as many crossings as are allowed.
fn bars(count: u32) -> wire::Region {
    let step = 10.0 / f64::from(count);
    let across = (0..count).map(|i| {
        let south = f64::from(i) * step;
        bar(0.0, south, 10.0, south + step / 3.0)
    });
    let upright = (0..count).map(|i| {
        let west = f64::from(i) * step;
        bar(west, 0.0, west + step / 3.0, 10.0)
    });
    multi(across.chain(upright).collect())
}

/// Squares with a hole each.
fn parts(count: u32) -> wire::Region {
    let one = |i: u32| {
        let (west, south) = (f64::from(i % 32) * 0.5, f64::from(i / 32) * 0.5);
        wire::Polygon {
            holes: square(west + 0.1, south + 0.1, 0.2).outer.into_iter().collect(),
            ..square(west, south, 0.4)
        }
    };
    multi((0..count).map(one).collect())
}

/// A square full of holes.
fn holes(count: u32) -> wire::Region {
    let hole = |i: u32| square(f64::from(i % 32) * 0.5, f64::from(i / 32) * 0.5, 0.4).outer;
    let holes = (0..count).filter_map(hole).collect();
    of(Shape::Polygon(wire::Polygon { holes, ..square(-1.0, -1.0, 18.0) }))
}

/// Wedges between the poles: each edge is cut into as many pieces as an edge can have.
fn poles(count: u32) -> wire::Region {
    let step = 60.0 / f64::from(count);
    let wedge = |i: u32| {
        let west = 75.0 + f64::from(i) * step;
        bar(west, -80.0, west + step / 2.0, 80.0)
    };
    multi((0..count).map(wedge).collect())
}
