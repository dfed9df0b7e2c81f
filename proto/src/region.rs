//! Region: a checked set of points on the earth.
//!
//! This module finds every problem of a region and names its field, so the cover works on valid
//! shapes. Polygons are judged on a grid of integers ([`grid`]), so that equal outlines have equal
//! verdicts everywhere, and are cut into rings that do not overlap ([`area`]).
//!
//! The order of the files: [`given`] reads polygons from a message, [`text`] from GeoJSON, [`ring`]
//! normalizes and judges one ring, [`seam`] puts all rings on one map, [`overlay`] cuts them, and
//! [`outline`] with [`hierarchy`] finds edges fast.

mod area;
mod budget;
mod given;
mod grid;
pub mod hierarchy;
mod outline;
mod overlay;
mod ring;
mod seam;
mod text;
#[cfg(test)]
mod tests;

use std::{
    ops::RangeInclusive,
    sync::{Arc, atomic::AtomicBool},
};

use h3o::{CellIndex, Resolution};

pub use self::{
    area::Area,
    grid::{Edge, GridPoint},
};
use self::{budget::Budget, grid::LNG_DEG_MAX};
use crate::{
    datum::{Datum, Degrees},
    error::{InvalidField, required},
    wire::v1 as wire,
};

/// Maximum radius of a circle, metres: a larger circle covers more than half the globe.
pub const RADIUS_METERS_MAX: f64 = 10_000_000.0;
/// Maximum number of cells in a cell set.
pub const CELLS_MAX: usize = 100_000;
/// Maximum number of members of a union.
pub const UNION_MAX: usize = 64;
/// Maximum number of exclusions of one region.
pub const EXCLUSIONS_MAX: usize = 16;
/// Maximum depth of nested unions and exclusions.
pub const DEPTH_MAX: usize = 4;
/// Maximum number of regions inside one region, at all depths. Without it, 64 members in 4 levels
/// would allow 16 million.
pub const REGIONS_MAX: usize = 1_024;
/// Maximum number of points in all rings of a region together.
pub const POINTS_MAX: usize = 100_000;
/// Maximum number of polygons of one multi-polygon.
pub const PARTS_MAX: usize = 1_024;
/// Maximum number of holes of one polygon.
pub const HOLES_MAX: usize = 1_024;

/// Point on WGS-84. `Debug` does not print it.
#[derive(Clone, Copy, PartialEq)]
pub struct LatLng {
    lat_deg: f64,
    lng_deg: f64,
}

impl LatLng {
    /// Creates a point from a latitude of -90 to 90 and a longitude of -180 to 180 degrees.
    ///
    /// # Errors
    /// One of the two is out of range. The error names the field, its limits and the value, which
    /// is no valid place.
    pub fn new(lat_deg: f64, lng_deg: f64) -> Result<Self, InvalidField> {
        in_range("latitude", lat_deg, 90.0)?;
        in_range("longitude", lng_deg, 180.0)?;
        Ok(Self { lat_deg, lng_deg })
    }

    /// Checks a point of a message, and converts it from its datum.
    ///
    /// # Errors
    /// As [`LatLng::new`].
    pub fn from_wire(point: wire::LatLng, datum: Datum) -> Result<Self, InvalidField> {
        let Self { lat_deg, lng_deg } = Self::new(point.latitude, point.longitude)?;
        let place = datum.to_wgs84(Degrees { lat: lat_deg, lng: lng_deg });
        Self::new(place.lat, place.lng)
    }

    /// Checks the centre of a region, whose longitude may be written a turn further.
    fn turned(point: wire::LatLng, datum: Datum) -> Result<Self, InvalidField> {
        in_range("latitude", point.latitude, 90.0)?;
        in_range("longitude", point.longitude, LNG_DEG_MAX)?;
        let lng_deg = match point.longitude {
            lng if lng.abs() <= 180.0 => lng,
            lng => lng - 360.0_f64.copysign(lng),
        };
        Self::from_wire(wire::LatLng { longitude: lng_deg, ..point }, datum)
    }

    /// Converts the point to its message.
    #[must_use]
    pub fn to_wire(self) -> wire::LatLng {
        wire::LatLng { latitude: self.lat_deg, longitude: self.lng_deg }
    }

    /// Latitude in degrees, -90 to 90.
    #[must_use]
    pub fn lat_deg(self) -> f64 {
        self.lat_deg
    }

    /// Longitude in degrees, -180 to 180.
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
    // NaN compares as false with every limit, so it needs a check of its own.
    if value.is_nan() || value.abs() > limit {
        Err(InvalidField::new(
            field,
            format_args!("must be between -{limit} and {limit}; got {value}"),
        ))
    } else {
        Ok(())
    }
}

/// Region: a shape without its exclusions.
#[derive(Debug, Clone, PartialEq)]
pub struct Region {
    /// Shape of the region.
    pub shape: Shape,
    /// Regions that are removed from the shape.
    pub exclusions: Vec<Region>,
}

/// Shape of a region before its exclusions are removed.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// All points within a geodesic distance of a centre.
    Circle {
        /// Centre of the circle.
        center: LatLng,
        /// Radius in metres: greater than 0 and at most [`RADIUS_METERS_MAX`].
        radius_m: f64,
    },
    /// Area between rings of straight edges in longitude and latitude of the area's datum.
    Area(Arc<Area>),
    /// Area of H3 cells of resolution 0 to 9, sorted, without repeats.
    Cells(Vec<CellIndex>),
    /// All points of any member region.
    Union(Vec<Region>),
}

impl Region {
    /// Creates a circle without exclusions.
    ///
    /// # Errors
    /// The radius is 0 or less, over the limit, or not a number.
    pub fn circle(center: LatLng, radius_m: f64) -> Result<Self, InvalidField> {
        if !(radius_m > 0.0 && radius_m <= RADIUS_METERS_MAX) {
            let problem =
                format!("must be greater than 0 and at most {RADIUS_METERS_MAX}; got {radius_m}");
            return Err(InvalidField::new("circle.radius_meters", problem));
        }
        Ok(Self { shape: Shape::Circle { center, radius_m }, exclusions: Vec::new() })
    }

    /// Checks a region of a message.
    ///
    /// # Errors
    /// The first invalid field, as a path inside the region.
    pub fn from_wire(region: wire::Region) -> Result<Self, InvalidField> {
        Self::from_wire_until(region, Arc::default())
    }

    /// Checks a region of a message as [`Region::from_wire`] does, until `stop` is true: then it
    /// ends soon with an error that says nothing about the region.
    ///
    /// # Errors
    /// Those of [`Region::from_wire`].
    pub fn from_wire_until(
        region: wire::Region,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, InvalidField> {
        Self::nested(region, Datum::default(), DEPTH_MAX, &mut Budget::new(stop))
    }

    fn nested(
        region: wire::Region,
        around: Datum,
        depth: usize,
        budget: &mut Budget,
    ) -> Result<Self, InvalidField> {
        if depth == 0 {
            return Err(InvalidField::new(
                "",
                format_args!("must be nested at most {DEPTH_MAX} deep; got more"),
            ));
        }
        budget.take_region()?;
        let own = Datum::from_wire(region.datum, "datum")?;
        let datum = own.unwrap_or(around);
        let mut checked = match required(region.shape, "shape")? {
            wire::region::Shape::Circle(c) => {
                let center = required(c.center, "circle.center")?;
                let center =
                    LatLng::turned(center, datum).map_err(|e| e.within("circle.center"))?;
                Self::circle(center, c.radius_meters)?
            }
            wire::region::Shape::Polygon(polygon) => {
                Self::area(&[given::polygon(polygon, "polygon", budget)?], datum, budget)?
            }
            wire::region::Shape::MultiPolygon(multi) => {
                Self::area(&given::multi_polygon(multi, "multi_polygon", budget)?, datum, budget)?
            }
            wire::region::Shape::Geojson(text) => {
                Self::area(&text::geojson(&text, "geojson", budget)?, datum, budget)?
            }
            wire::region::Shape::Cells(_) if own == Some(Datum::Gcj02) => {
                return Err(InvalidField::new("datum", Datum::OF_CELLS));
            }
            wire::region::Shape::Cells(set) => Self::without_exclusions(Shape::Cells(cells(set)?)),
            wire::region::Shape::Union(union) => {
                check_count("union.regions", union.regions.len(), 1..=UNION_MAX, "regions")?;
                Self::without_exclusions(Shape::Union(nested_all(
                    union.regions,
                    "union.regions",
                    datum,
                    depth,
                    budget,
                )?))
            }
        };
        check_count("exclusions", region.exclusions.len(), 0..=EXCLUSIONS_MAX, "regions")?;
        checked.exclusions = nested_all(region.exclusions, "exclusions", datum, depth, budget)?;
        Ok(checked)
    }

    fn area(
        parts: &[area::GivenPart],
        datum: Datum,
        budget: &mut Budget,
    ) -> Result<Self, InvalidField> {
        let area = Area::checked(parts, datum, &budget.work)?;
        Ok(Self::without_exclusions(Shape::Area(Arc::new(area))))
    }

    fn without_exclusions(shape: Shape) -> Self {
        Self { shape, exclusions: Vec::new() }
    }
}

fn nested_all(
    regions: Vec<wire::Region>,
    field: &str,
    datum: Datum,
    depth: usize,
    budget: &mut Budget,
) -> Result<Vec<Region>, InvalidField> {
    let nested = |(i, region)| {
        Region::nested(region, datum, depth - 1, budget)
            .map_err(|e| e.within(&format!("{field}[{i}]")))
    };
    regions.into_iter().enumerate().map(nested).collect()
}

/// Checks the number of items of a list; `items` names them in the error.
fn check_count(
    field: &str,
    count: usize,
    allowed: RangeInclusive<usize>,
    items: &str,
) -> Result<(), InvalidField> {
    let (least, most) = allowed.into_inner();
    if (least..=most).contains(&count) {
        Ok(())
    } else {
        Err(InvalidField::new(
            field,
            format_args!("must have {least} to {most} {items}; got {count}"),
        ))
    }
}

fn cells(set: wire::CellSet) -> Result<Vec<CellIndex>, InvalidField> {
    check_count("cells.cells", set.cells.len(), 1..=CELLS_MAX, "cells")?;
    let check = |(i, index): (usize, u64)| {
        let field = || format!("cells.cells[{i}]");
        let cell = CellIndex::try_from(index).map_err(|_| {
            InvalidField::new(
                field(),
                format_args!("must be an H3 cell index of resolution 0 to 9; got {index:#x}"),
            )
        })?;
        if cell.resolution() > Resolution::Nine {
            let problem = format!("must have resolution 0 to 9; got {}", cell.resolution());
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
