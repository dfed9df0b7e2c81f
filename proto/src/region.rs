//! A region: a set of points on WGS-84, checked.
//!
//! What can be wrong with a region is found here, once, with the name of the field; the cover then works on shapes that
//! are right. Longitudes of a ring are *unwrapped*: each point stands within 180° of the one before it, so that a ring
//! across the antimeridian is an ordinary polygon from 170° to 190° and no later step has to think of it.

mod polygon;

use h3o::{CellIndex, Resolution};

pub use self::polygon::{HOLES_MAX, POINTS_MAX, Polygon, Ring, UnwrappedPoint};
use crate::{
    error::{InvalidField, required},
    wire::v1 as wire,
};

/// Largest radius of a circle, metres: beyond it a "region" is half the globe.
pub const RADIUS_METERS_MAX: f64 = 10_000_000.0;
/// Most cells in a cell set.
pub const CELLS_MAX: usize = 100_000;
/// Most members of a union.
pub const UNION_MAX: usize = 64;
/// Most exclusions of one region.
pub const EXCLUSIONS_MAX: usize = 16;
/// Deepest nesting of unions and exclusions.
pub const DEPTH_MAX: usize = 4;
/// Most regions within one, at all depths: 64 to the fourth power would be 16 million.
pub const REGIONS_MAX: usize = 1_024;
/// Most points of all rings of a region together.
pub const POINTS_TOTAL_MAX: usize = 50_000;
/// Most pairs of edges that are looked at for a crossing, over all rings of a region. An outline of 10,000 points that crosses
/// each meridian a hundred times has a million; only one made for the purpose has more than this, some 30 ms.
pub const PAIRS_MAX: u64 = 10_000_000;

/// What one region may still hold, all its parts together.
struct Room {
    regions: usize,
    points: usize,
    pairs: u64,
}

impl Room {
    fn new() -> Self {
        Self { regions: REGIONS_MAX, points: POINTS_TOTAL_MAX, pairs: PAIRS_MAX }
    }

    fn region(&mut self) -> Result<(), InvalidField> {
        let more = self.regions.checked_sub(1);
        self.regions = more.ok_or_else(|| {
            InvalidField::new(
                "",
                format_args!("at most {REGIONS_MAX} regions within one, has more"),
            )
        })?;
        Ok(())
    }

    fn points(&mut self, points: usize) -> Result<(), InvalidField> {
        let more = self.points.checked_sub(points);
        self.points = more.ok_or_else(|| {
            InvalidField::new(
                "points",
                format_args!("at most {POINTS_TOTAL_MAX} in all rings together, has more"),
            )
        })?;
        Ok(())
    }

    /// Takes one pair; false if there is no more.
    fn pair(&mut self) -> bool {
        self.pairs = self.pairs.saturating_sub(1);
        self.pairs > 0
    }
}

/// A point on WGS-84.
#[derive(Clone, Copy, PartialEq)]
pub struct LatLng {
    lat_deg: f64,
    lng_deg: f64,
}

impl LatLng {
    /// Checks latitude -90 to 90 and longitude -180 to 180.
    ///
    /// # Errors
    /// Names the field and its limits; the value is not repeated if it could be somebody's place.
    pub fn new(lat_deg: f64, lng_deg: f64) -> Result<Self, InvalidField> {
        in_range("latitude", lat_deg, 90.0)?;
        in_range("longitude", lng_deg, 180.0)?;
        Ok(Self { lat_deg, lng_deg })
    }

    /// Checks a point of the wire.
    ///
    /// # Errors
    /// As [`LatLng::new`].
    pub fn from_wire(point: wire::LatLng) -> Result<Self, InvalidField> {
        Self::new(point.latitude, point.longitude)
    }

    /// For the wire.
    #[must_use]
    pub fn to_wire(self) -> wire::LatLng {
        wire::LatLng { latitude: self.lat_deg, longitude: self.lng_deg }
    }

    /// Degrees, -90 to 90.
    #[must_use]
    pub fn lat_deg(self) -> f64 {
        self.lat_deg
    }

    /// Degrees, -180 to 180.
    #[must_use]
    pub fn lng_deg(self) -> f64 {
        self.lng_deg
    }
}

impl std::fmt::Debug for LatLng {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LatLng(..)")
    }
}

fn in_range(field: &str, value: f64, limit: f64) -> Result<(), InvalidField> {
    // A NaN is in no range.
    if value.is_nan() || value.abs() > limit {
        Err(InvalidField::new(
            field,
            format_args!("must be between -{limit} and {limit}, is {value}"),
        ))
    } else {
        Ok(())
    }
}

/// A shape, less its exclusions.
#[derive(Debug, Clone, PartialEq)]
pub struct Region {
    /// What is in.
    pub shape: Shape,
    /// What is taken out again.
    pub exclusions: Vec<Region>,
}

/// One shape.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// All points within a geodesic distance.
    Circle {
        /// Its centre.
        center: LatLng,
        /// More than 0, at most [`RADIUS_METERS_MAX`].
        radius_m: f64,
    },
    /// Straight edges in longitude and latitude.
    Polygon(Polygon),
    /// H3 cells of resolution 0 to 9, sorted, without repeats.
    Cells(Vec<CellIndex>),
    /// All points of any of these.
    Union(Vec<Region>),
}

impl Region {
    /// A circle without exclusions.
    ///
    /// # Errors
    /// A radius of 0 or less, over the limit, or not a number.
    pub fn circle(center: LatLng, radius_m: f64) -> Result<Self, InvalidField> {
        if !(radius_m > 0.0 && radius_m <= RADIUS_METERS_MAX) {
            let problem =
                format!("must be more than 0 and at most {RADIUS_METERS_MAX}, is {radius_m}");
            return Err(InvalidField::new("circle.radius_meters", problem));
        }
        Ok(Self { shape: Shape::Circle { center, radius_m }, exclusions: Vec::new() })
    }

    /// Checks a region of the wire.
    ///
    /// # Errors
    /// The first field that cannot be taken, by its path.
    pub fn from_wire(region: wire::Region) -> Result<Self, InvalidField> {
        Self::nested(region, DEPTH_MAX, &mut Room::new())
    }

    fn nested(region: wire::Region, depth: usize, room: &mut Room) -> Result<Self, InvalidField> {
        if depth == 0 {
            return Err(InvalidField::new(
                "",
                format_args!("regions may be nested {DEPTH_MAX} deep, not deeper"),
            ));
        }
        room.region()?;
        let mut checked = match required(region.shape, "shape")? {
            wire::region::Shape::Circle(c) => {
                let center = required(c.center, "circle.center")?;
                Self::circle(
                    LatLng::from_wire(center).map_err(|e| e.within("circle.center"))?,
                    c.radius_meters,
                )?
            }
            wire::region::Shape::Polygon(p) => Self::bare(Shape::Polygon(
                Polygon::within(p, room).map_err(|e| e.within("polygon"))?,
            )),
            wire::region::Shape::Cells(set) => Self::bare(Shape::Cells(cells(set)?)),
            wire::region::Shape::Union(union) => {
                at_most("union.regions", union.regions.len(), UNION_MAX)?;
                if union.regions.is_empty() {
                    return Err(InvalidField::new(
                        "union.regions",
                        format_args!("1 to {UNION_MAX}, has 0"),
                    ));
                }
                Self::bare(Shape::Union(nested_all(union.regions, "union.regions", depth, room)?))
            }
        };
        at_most("exclusions", region.exclusions.len(), EXCLUSIONS_MAX)?;
        checked.exclusions = nested_all(region.exclusions, "exclusions", depth, room)?;
        Ok(checked)
    }

    fn bare(shape: Shape) -> Self {
        Self { shape, exclusions: Vec::new() }
    }
}

fn nested_all(
    regions: Vec<wire::Region>,
    field: &str,
    depth: usize,
    room: &mut Room,
) -> Result<Vec<Region>, InvalidField> {
    let nested = |(i, region)| {
        Region::nested(region, depth - 1, room).map_err(|e| e.within(&format!("{field}[{i}]")))
    };
    regions.into_iter().enumerate().map(nested).collect()
}

pub(crate) fn at_most(field: &str, count: usize, limit: usize) -> Result<(), InvalidField> {
    if count > limit {
        Err(InvalidField::new(field, format_args!("at most {limit}, has {count}")))
    } else {
        Ok(())
    }
}

fn cells(set: wire::CellSet) -> Result<Vec<CellIndex>, InvalidField> {
    at_most("cells.cells", set.cells.len(), CELLS_MAX)?;
    if set.cells.is_empty() {
        return Err(InvalidField::new("cells.cells", format_args!("1 to {CELLS_MAX}, has 0")));
    }
    let check = |(i, index): (usize, u64)| {
        let field = || format!("cells.cells[{i}]");
        let cell = CellIndex::try_from(index).map_err(|_| {
            InvalidField::new(
                field(),
                format_args!("must be an H3 cell index of resolution 0 to 9, is {index:#x}"),
            )
        })?;
        if cell.resolution() > Resolution::Nine {
            let problem = format!("must be of resolution 0 to 9, is of {}", cell.resolution());
            return Err(InvalidField::new(field(), problem));
        }
        Ok(cell)
    };
    let mut cells: Vec<_> =
        set.cells.into_iter().enumerate().map(check).collect::<Result<_, _>>()?;
    cells.sort_unstable();
    cells.dedup();
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circle(lat: f64, lng: f64, radius_meters: f64) -> wire::Region {
        let center = Some(wire::LatLng { latitude: lat, longitude: lng });
        let shape = wire::region::Shape::Circle(wire::Circle { center, radius_meters });
        wire::Region { shape: Some(shape), exclusions: Vec::new() }
    }

    #[test]
    fn the_field_at_fault_is_named() {
        for (region, field) in [
            (circle(91.0, 0.0, 1.0), "circle.center.latitude"),
            (circle(f64::NAN, 0.0, 1.0), "circle.center.latitude"),
            (circle(0.0, -180.5, 1.0), "circle.center.longitude"),
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
            region = wire::Region { shape: Some(shape), exclusions: Vec::new() };
        }
        assert!(Region::from_wire(region).unwrap_err().problem.contains("deep"));

        let union = |regions| {
            let shape = wire::region::Shape::Union(wire::RegionUnion { regions });
            wire::Region { shape: Some(shape), exclusions: Vec::new() }
        };
        let many = union(vec![union(vec![circle(0.0, 0.0, 1.0); 40]); 30]);
        assert!(Region::from_wire(many).unwrap_err().problem.contains("at most 1024 regions"));

        let cells = wire::region::Shape::Cells(wire::CellSet { cells: vec![1] });
        let region = wire::Region { shape: Some(cells), exclusions: Vec::new() };
        assert_eq!(Region::from_wire(region).unwrap_err().field, "cells.cells[0]");
    }
}
