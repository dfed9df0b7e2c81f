//! Regions as they are published, through the API: one example of each kind that was refused or
//! that lost people before.

use clarion_proto::{limits::COVER_CELLS_MAX, wire::v1 as wire};
use h3o::{LatLng, Resolution};
use tonic::Status;

use crate::support::{Server, create, demo_alert, soon};

type Outline<'a> = &'a [(f64, f64)];

/// A ring of points given as longitude and latitude, as in GeoJSON.
fn ring(points: Outline<'_>) -> wire::Ring {
    let point = |&(longitude, latitude): &(f64, f64)| wire::LatLng { latitude, longitude };
    wire::Ring { points: points.iter().map(point).collect() }
}

fn part(outer: Outline<'_>, holes: &[Outline<'_>]) -> wire::Polygon {
    wire::Polygon { outer: Some(ring(outer)), holes: holes.iter().map(|hole| ring(hole)).collect() }
}

fn polygon(outer: Outline<'_>, holes: &[Outline<'_>]) -> wire::region::Shape {
    wire::region::Shape::Polygon(part(outer, holes))
}

fn square(west: f64, south: f64, size: f64) -> [(f64, f64); 4] {
    [(west, south), (west + size, south), (west + size, south + size), (west, south + size)]
}

fn alert(shape: wire::region::Shape) -> wire::Alert {
    let region = wire::Region { shape: Some(shape), exclusions: Vec::new(), datum: 0 };
    wire::Alert { region: Some(region), ..demo_alert() }
}

/// Creates an alert; returns it and the cells of its plan.
async fn created(
    server: &Server,
    request: u128,
    shape: wire::region::Shape,
) -> Result<(wire::Alert, Vec<h3o::CellIndex>), Status> {
    let made = soon(server.alerts().create_alert(create(request, alert(shape)))).await?;
    let started = server.nodes.started.lock();
    let plan = started.last().expect("started");
    let cells = plan.bands.iter().flat_map(|band| band.cells.iter().copied());
    Ok((made.into_inner(), cells.collect()))
}

fn holds(cells: &[h3o::CellIndex], (lng, lat): (f64, f64)) -> bool {
    let leaf = LatLng::new(lat, lng).expect("a place").to_cell(Resolution::Nine);
    cells.iter().any(|cell| leaf.parent(cell.resolution()) == Some(*cell))
}

#[tokio::test]
async fn what_is_published_is_accepted_and_loses_nobody() {
    let server = Server::with_demo().await;
    let (small, other) = (square(0.2, 0.2, 0.4), square(0.4, 0.4, 0.4));
    let across = square(0.8, 0.1, 0.4);
    let across_degrees: Vec<_> =
        square(0.0, 0.0, 1.0).iter().map(|&(x, y)| (x + 358.5, y)).collect();
    let geojson = r#"{"type":"FeatureCollection","features":[{"type":"Feature","id":7,
        "properties":{"name":"x"},"geometry":{"type":"GeometryCollection","geometries":[
        {"type":"Polygon","coordinates":[[[0,0,9],[1,0,9],[1,1,9],[0,1,9]]]}]}}]}"#;
    let mut request = 0;
    for (what, shape, inside, outside) in [
        (
            "a repeated point",
            polygon(&[(0.0, 0.0), (1.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 0.0)], &[]),
            (0.9, 0.5),
            (0.1, 0.5),
        ),
        (
            "a ring that touches itself",
            polygon(&[(0.0, 0.0), (0.5, 0.5), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5), (1.0, 0.0)], &[]),
            (0.5, 0.9),
            (0.1, 0.5),
        ),
        (
            "holes that overlap, a hole twice, a hole that reaches out",
            polygon(&square(0.0, 0.0, 1.0), &[&small, &other, &small, &across]),
            (0.1, 0.1),
            (0.5, 0.5),
        ),
        (
            "several polygons",
            wire::region::Shape::MultiPolygon(wire::MultiPolygon {
                polygons: vec![
                    part(&square(0.0, 0.0, 1.0), &[&small]),
                    part(&square(0.35, 0.35, 0.1), &[]),
                ],
            }),
            (0.4, 0.4),
            (0.25, 0.25),
        ),
        ("GeoJSON", wire::region::Shape::Geojson(geojson.into()), (0.5, 0.5), (1.1, 0.5)),
        ("longitudes up to 360", polygon(&across_degrees, &[]), (-1.3, 0.5), (0.6, 0.5)),
    ] {
        request += 1;
        let (alert, cells) = created(&server, request, shape)
            .await
            .unwrap_or_else(|refused| panic!("{what}: {refused}"));
        assert!(holds(&cells, inside), "{what}: inside");
        assert!(!holds(&cells, outside), "{what}: outside");
        assert!((alert.overshoot_meters - 448.8).abs() < 0.1, "{what}: {}", alert.overshoot_meters);
        assert!((alert.band_step_meters - 10_000.0).abs() < 0.1, "{what}");
    }
}

/// The same outline of a Chinese map in each form, and the datum of the place last seen.
#[tokio::test]
async fn a_region_says_its_datum() {
    let server = Server::with_demo().await;
    let gcj02 = i32::from(wire::Datum::Gcj02);
    // Shown at (22.540796, 113.917176), on the ground at (22.543847, 113.912316).
    let (ground, shown) = ((113.912_316, 22.543_847), (113.917_176, 22.540_796));
    // A street 120 m wide and 14 km long across the way from one to the other: above 1 km².
    let corner = |across: f64, along: f64| {
        (
            shown.0 + 0.000_485 * across + 0.038_2 * along,
            shown.1 - 0.000_303 * across + 0.052_5 * along,
        )
    };
    let outer = [corner(-1.0, -1.0), corner(1.0, -1.0), corner(1.0, 1.0), corner(-1.0, 1.0)];
    let text = format!(
        r#"{{"type":"Polygon","coordinates":[[{}]]}}"#,
        outer.map(|(x, y)| format!("[{x},{y}]")).join(",")
    );
    let union = |region| wire::region::Shape::Union(wire::RegionUnion { regions: vec![region] });
    let of = |shape| wire::Region { shape: Some(shape), exclusions: Vec::new(), datum: 0 };
    let mut request = 0;
    for (datum, holds_ground, shape) in [
        (gcj02, true, polygon(&outer, &[])),
        (gcj02, true, wire::region::Shape::Geojson(text.clone())),
        (gcj02, true, union(of(polygon(&outer, &[])))),
        (0, true, union(wire::Region { datum: gcj02, ..of(polygon(&outer, &[])) })),
        (0, false, polygon(&outer, &[])),
        (wire::Datum::Wgs84.into(), false, wire::region::Shape::Geojson(text)),
    ] {
        request += 1;
        let region = Some(wire::Region { datum, ..of(shape) });
        let point = |(longitude, latitude)| wire::LatLng { latitude, longitude };
        let asked = wire::Alert {
            region,
            last_seen: Some(point(shown)),
            last_seen_datum: gcj02,
            ..demo_alert()
        };
        let made = soon(server.alerts().create_alert(create(request, asked))).await;
        let made = made.unwrap_or_else(|refused| panic!("{request}: {refused}")).into_inner();
        assert_eq!(made.last_seen_datum, gcj02, "as the caller submitted it");
        assert!(made.overshoot_meters < 500.0, "{}", made.overshoot_meters);
        let started = server.nodes.started.lock();
        let plan = started.last().expect("started");
        let cells: Vec<_> = plan.bands.iter().flat_map(|band| band.cells.clone()).collect();
        assert_eq!(holds(&cells, ground), holds_ground, "{request}");
        assert_eq!(holds(&cells, shown), !holds_ground, "{request}");
    }
    for (field, alert) in [
        (
            "alert.region.datum",
            wire::Alert {
                region: Some(wire::Region { datum: 7, ..of(polygon(&outer, &[])) }),
                ..demo_alert()
            },
        ),
        ("alert.last_seen_datum", wire::Alert { last_seen_datum: -1, ..demo_alert() }),
        (
            "alert.region.datum",
            wire::Alert {
                region: Some(wire::Region {
                    datum: gcj02,
                    ..of(wire::region::Shape::Cells(wire::CellSet {
                        cells: vec![0x8009fffffffffff],
                    }))
                }),
                ..demo_alert()
            },
        ),
    ] {
        request += 1;
        let refused = soon(server.alerts().create_alert(create(request, alert))).await;
        let refused = refused.expect_err(field);
        assert!(refused.message().starts_with(field), "{field}: {}", refused.message());
    }
}

#[tokio::test]
async fn a_region_of_any_size_has_a_plan_of_bounded_size() {
    let server = Server::with_demo().await;
    let center = Some(wire::LatLng { latitude: 35.0, longitude: 105.0 });
    let wide = wire::region::Shape::Circle(wire::Circle { center, radius_meters: 5_000_000.0 });
    let world = polygon(&[(-180.0, -90.0), (180.0, -90.0), (180.0, 90.0), (-180.0, 90.0)], &[]);
    let wedge = polygon(&[(0.0, 80.0), (90.0, 85.0), (0.0, 85.0)], &[]);
    for (request, shape, extent_m, inside) in [
        (1, wide, 10_000_000.0, (105.0, -9.0)),
        (2, world, 20_000_000.0, (-180.0, -90.0)),
        (3, wedge, 500_000.0, (5.0, 83.0)),
    ] {
        let asked = wire::PreviewAlertRequest { alert: Some(alert(shape.clone())) };
        *server.nodes.counted.lock() = None;
        let (alert, cells) = created(&server, request, shape).await.expect("any size");
        assert!(cells.len() <= COVER_CELLS_MAX, "{}", cells.len());
        assert!(holds(&cells, inside), "{request}");
        assert!(alert.overshoot_meters <= f64::max(500.0, 0.002 * extent_m), "{request}");
        assert!(alert.band_step_meters >= 10_000.0, "{request}");
        if let Ok(previewed) = soon(server.alerts().preview_alert(asked)).await {
            let previewed = previewed.into_inner();
            assert!((previewed.overshoot_meters - alert.overshoot_meters).abs() < 1e-6);
        }
        // The record alone gives the same answer.
        let request = wire::GetAlertRequest { name: alert.name.clone(), ..Default::default() };
        let read = soon(server.alerts().get_alert(request)).await.expect("recorded").into_inner();
        assert_eq!(
            (read.overshoot_meters, read.band_step_meters),
            (alert.overshoot_meters, alert.band_step_meters)
        );
    }
}
