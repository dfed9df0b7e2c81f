//! Area of a region on the sphere of H3 with H3's radius, to refuse regions that are too small.
//!
//! The area is the smaller of two areas. The area of the *shape* is exact for a circle, a polygon
//! and cells; for a union it is the sum, which is too large where members overlap. The area of the
//! *cover* is the area that an alert really addresses: some 200 m wider on every side, but correct
//! for overlaps and exclusions. Only the cover accounts for exclusions: an exclusion removes a cell
//! only if the cell lies wholly in it. A polygon in GCJ-02 is measured on its own map, whose areas
//! differ by less than 2 %.

use std::f64::consts::PI;

use clarion_proto::region::{Edge, Region, Shape};
use h3o::CellIndex;

/// Authalic radius of the earth that H3 uses, km.
const EARTH_KM: f64 = 6_371.007_180_918_475;

/// Area of a region, km²; `cover` is the region's cover.
#[must_use]
pub fn area_km2(region: &Region, cover: &[CellIndex]) -> f64 {
    shape_km2(&region.shape).min(cells_km2(cover))
}

fn cells_km2(cells: &[CellIndex]) -> f64 {
    cells.iter().map(|cell| cell.area_km2()).sum()
}

fn shape_km2(shape: &Shape) -> f64 {
    match shape {
        // A cap: 2πR²(1 − cos θ), written so that a small θ keeps its digits.
        Shape::Circle { radius_m, .. } => {
            let half = (radius_m / 1_000.0 / EARTH_KM).min(PI) / 2.0;
            4.0 * PI * (EARTH_KM * half.sin()).powi(2)
        }
        Shape::Area(area) => edges_km2(area.edges()),
        Shape::Cells(cells) => cells_km2(cells),
        Shape::Union(regions) => regions.iter().map(|region| shape_km2(&region.shape)).sum(),
    }
}

/// R² ∮ sin φ dλ over edges that are straight in longitude and latitude; holes run the other way
/// around and count as negative.
///
/// Along one edge the mean of sin φ is (cos φ₀ − cos φ₁) / (φ₁ − φ₀), that is the sine of the
/// middle latitude × sin h / h with h half the difference.
fn edges_km2(edges: &[Edge]) -> f64 {
    let strip = |(from, to): &Edge| {
        let (south, north) = (from.lat_deg().to_radians(), to.lat_deg().to_radians());
        let half = (north - south) / 2.0;
        let sinc = if half.abs() < 1e-9 { 1.0 } else { half.sin() / half };
        (to.lng_deg() - from.lng_deg()).to_radians() * f64::midpoint(south, north).sin() * sinc
    };
    edges.iter().map(strip).sum::<f64>().abs() * EARTH_KM * EARTH_KM
}

#[cfg(test)]
mod tests {
    use clarion_proto::wire::v1 as wire;

    use super::*;
    use crate::cover::{CellBudget, cover};

    fn region(shape: wire::region::Shape) -> Region {
        Region::from_wire(wire::Region { shape: Some(shape), exclusions: vec![], datum: 0 })
            .expect("valid")
    }

    fn circle(radius_meters: f64) -> wire::Region {
        let center = Some(wire::LatLng { latitude: 22.5, longitude: 114.0 });
        let shape = wire::region::Shape::Circle(wire::Circle { center, radius_meters });
        wire::Region { shape: Some(shape), exclusions: vec![], datum: 0 }
    }

    fn measured(region: &Region) -> f64 {
        area_km2(region, &cover(region, CellBudget::default()).expect("within budget"))
    }

    #[test]
    fn circles_and_polygons_have_the_area_of_geometry() {
        let of = |radius_m| measured(&Region::from_wire(circle(radius_m)).expect("valid"));
        assert!((of(500.0) - 0.785).abs() < 0.01, "{}", of(500.0));
        assert!((of(120_000.0) / 45_238.0 - 1.0).abs() < 1e-3, "{}", of(120_000.0));
        let point = |(latitude, longitude)| wire::LatLng { latitude, longitude };
        let ring = |points: &[(f64, f64)]| wire::Ring {
            points: points.iter().copied().map(point).collect(),
        };
        let square =
            |size: f64| ring(&[(0.0, 0.0), (0.0, size), (size, size), (size, 0.0), (0.0, 0.0)]);
        let polygon = |holes| {
            region(wire::region::Shape::Polygon(wire::Polygon { outer: Some(square(1.0)), holes }))
        };
        // One degree is 111.195 km on this sphere.
        assert!((measured(&polygon(vec![])) / 111.195_f64.powi(2) - 1.0).abs() < 1e-3);
        assert!((measured(&polygon(vec![square(0.5)])) / 111.195_f64.powi(2) - 0.75).abs() < 1e-3);
    }

    #[test]
    fn neither_overlap_nor_exclusion_makes_a_small_region_large() {
        let members = vec![circle(100.0); 64];
        let union = region(wire::region::Shape::Union(wire::RegionUnion { regions: members }));
        assert!(measured(&union) < 1.5, "64 times the same 0.03 km²: {}", measured(&union));
        let mut hollow = circle(10_000.0);
        hollow.exclusions = vec![circle(9_990.0)];
        let hollow = Region::from_wire(hollow).expect("valid");
        assert!(measured(&hollow) < 60.0, "what is left of 314 km²: {}", measured(&hollow));
    }
}
