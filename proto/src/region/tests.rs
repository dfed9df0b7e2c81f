//! Tests of regions: limits and paths of errors.

use super::*;

fn circle(lat: f64, lng: f64, radius_meters: f64) -> wire::Region {
    let center = Some(wire::LatLng { latitude: lat, longitude: lng });
    let shape = wire::region::Shape::Circle(wire::Circle { center, radius_meters });
    wire::Region { shape: Some(shape), exclusions: Vec::new(), datum: 0 }
}

#[test]
fn the_field_at_fault_is_named() {
    for (region, field) in [
        (circle(91.0, 0.0, 1.0), "circle.center.latitude"),
        (circle(f64::NAN, 0.0, 1.0), "circle.center.latitude"),
        (circle(0.0, -360.5, 1.0), "circle.center.longitude"),
        (circle(0.0, 0.0, 0.0), "circle.radius_meters"),
        (circle(0.0, 0.0, f64::NAN), "circle.radius_meters"),
        (circle(0.0, 0.0, 2e7), "circle.radius_meters"),
        (wire::Region::default(), "shape"),
    ] {
        assert_eq!(Region::from_wire(region).unwrap_err().field, field);
    }
    let mut nested = circle(0.0, 0.0, 1.0);
    nested.exclusions = vec![circle(0.0, 0.0, 1.0), circle(0.0, 500.0, 1.0)];
    assert_eq!(
        Region::from_wire(nested).unwrap_err().field,
        "exclusions[1].circle.center.longitude"
    );
}

#[test]
fn nesting_and_counts_are_bounded() {
    let mut region = circle(0.0, 0.0, 1.0);
    for _ in 0..DEPTH_MAX {
        let shape = wire::region::Shape::Union(wire::RegionUnion { regions: vec![region] });
        region = wire::Region { shape: Some(shape), exclusions: Vec::new(), datum: 0 };
    }
    assert!(Region::from_wire(region).unwrap_err().problem.contains("deep"));

    let union = |regions| {
        let shape = wire::region::Shape::Union(wire::RegionUnion { regions });
        wire::Region { shape: Some(shape), exclusions: Vec::new(), datum: 0 }
    };
    let many = union(vec![union(vec![circle(0.0, 0.0, 1.0); 40]); 30]);
    assert!(Region::from_wire(many).unwrap_err().problem.contains("at most 1024 regions"));

    let cells = wire::region::Shape::Cells(wire::CellSet { cells: vec![1] });
    let region = wire::Region { shape: Some(cells), exclusions: Vec::new(), datum: 0 };
    assert_eq!(Region::from_wire(region).unwrap_err().field, "cells.cells[0]");
}

/// Nobody waits for the verdict any more: the check ends at its next count of work.
#[test]
fn a_check_that_nobody_waits_for_ends() {
    let round = (0..3_000).map(|i| {
        let (sin, cos) = (f64::from(i) / 3_000.0 * std::f64::consts::TAU).sin_cos();
        (cos, sin)
    });
    let outer: Vec<(f64, f64)> = round.collect();
    let hole = [(0.1, 0.1), (0.2, 0.1), (0.2, 0.2)];
    let polygon = polygons::part(&outer, &[&hole]);
    let of = |shape| wire::Region { shape: Some(shape), ..wire::Region::default() };
    for region in [
        of(wire::region::Shape::Polygon(polygon.clone())),
        of(wire::region::Shape::Union(wire::RegionUnion {
            regions: vec![of(wire::region::Shape::Polygon(polygon)); 3],
        })),
    ] {
        assert!(Region::from_wire_until(region.clone(), Arc::default()).is_ok());
        assert!(Region::from_wire_until(region, Arc::new(true.into())).is_err());
    }
}

mod polygons;
mod texts;
mod verdicts;
