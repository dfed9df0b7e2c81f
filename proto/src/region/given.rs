//! Polygons of messages, as rings on the grid.

use super::{
    HOLES_MAX, PARTS_MAX, area::GivenPart, budget::Budget, check_count, grid::GridPoint,
    ring::GivenRing,
};
use crate::{
    error::{InvalidField, required},
    wire::v1 as wire,
};

/// Minimum number of points of one ring.
const POINTS_MIN: usize = 3;

/// The rings of a polygon; `field` is the polygon's path.
pub(super) fn polygon(
    polygon: wire::Polygon,
    field: &str,
    budget: &mut Budget,
) -> Result<GivenPart, InvalidField> {
    let mut ring = |ring: wire::Ring, name: String| {
        let points = ring.points.iter().map(|p| (p.latitude, p.longitude));
        given_ring(points, format!("{field}.{name}.points"), budget)
    };
    let outer = required(polygon.outer, "outer").map_err(|e| e.within(field))?;
    let outer = ring(outer, "outer".to_owned())?;
    check_count(&format!("{field}.holes"), polygon.holes.len(), 0..=HOLES_MAX, "rings")?;
    let holes = polygon.holes.into_iter().enumerate();
    let holes =
        holes.map(|(i, hole)| ring(hole, format!("holes[{i}]"))).collect::<Result<_, _>>()?;
    Ok(GivenPart { outer, holes })
}

/// The polygons of a message; `field` is the message's path.
pub(super) fn multi_polygon(
    multi: wire::MultiPolygon,
    field: &str,
    budget: &mut Budget,
) -> Result<Vec<GivenPart>, InvalidField> {
    let field = format!("{field}.polygons");
    check_count(&field, multi.polygons.len(), 1..=PARTS_MAX, "polygons")?;
    let parts = multi.polygons.into_iter().enumerate();
    parts.map(|(i, part)| polygon(part, &format!("{field}[{i}]"), budget)).collect()
}

/// Snaps the points of a ring, given as latitude and longitude; `field` is the path of their list.
pub(super) fn given_ring(
    points: impl ExactSizeIterator<Item = (f64, f64)>,
    field: String,
    budget: &mut Budget,
) -> Result<GivenRing, InvalidField> {
    check_count(&field, points.len(), POINTS_MIN..=super::POINTS_MAX, "points")?;
    budget.take_points(points.len()).map_err(|e| InvalidField { field: field.clone(), ..e })?;
    let snapped = |(i, (lat_deg, lng_deg))| {
        GridPoint::snapped(lat_deg, lng_deg).map_err(|e| e.within(&format!("{field}[{i}]")))
    };
    let points = points.enumerate().map(snapped).collect::<Result<_, _>>()?;
    Ok(GivenRing { field, points })
}
