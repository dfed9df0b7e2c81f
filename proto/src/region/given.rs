//! The forms in which a caller gives polygons, as rings on the grid: messages and GeoJSON text.

use geojson::{Feature, GeoJson, Geometry, GeometryValue, Position};

use super::{
    Budget, HOLES_MAX, PARTS_MAX, area::GivenPart, check_count, grid::GridPoint, ring::GivenRing,
};
use crate::{
    error::{InvalidField, required},
    wire::v1 as wire,
};

/// Minimum number of points of one ring.
const POINTS_MIN: usize = 3;

/// Types of geometry that a region can be made of.
const AREAS: &str = "must be a Polygon, a MultiPolygon or a GeometryCollection of them";

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

/// The polygons of a GeoJSON text; `field` is the text's path.
pub(super) fn geojson(
    text: &str,
    field: &str,
    budget: &mut Budget,
) -> Result<Vec<GivenPart>, InvalidField> {
    // Some programs write a mark of the byte order first.
    let text = text.trim_start_matches('\u{feff}');
    let parsed: GeoJson = text.parse().map_err(|error| {
        InvalidField::new(field, format_args!("must be a GeoJSON text (RFC 7946): {error}"))
    })?;
    let mut reader = Reader { parts: Vec::new(), budget };
    match parsed {
        GeoJson::Geometry(geometry) => reader.geometry(&geometry, field)?,
        GeoJson::Feature(feature) => reader.feature(&feature, field)?,
        GeoJson::FeatureCollection(collection) => {
            for (i, feature) in collection.features.iter().enumerate() {
                reader.feature(feature, &format!("{field}.features[{i}]"))?;
            }
        }
    }
    if reader.parts.is_empty() {
        return Err(InvalidField::new(field, "must hold at least one polygon; got none"));
    }
    Ok(reader.parts)
}

/// Collects the polygons of a GeoJSON object.
struct Reader<'a> {
    parts: Vec<GivenPart>,
    budget: &'a mut Budget,
}

impl Reader<'_> {
    fn feature(&mut self, feature: &Feature, field: &str) -> Result<(), InvalidField> {
        let field = format!("{field}.geometry");
        match &feature.geometry {
            Some(geometry) => self.geometry(geometry, &field),
            None => Err(InvalidField::new(field, format_args!("{AREAS}; got null"))),
        }
    }

    fn geometry(&mut self, geometry: &Geometry, field: &str) -> Result<(), InvalidField> {
        match &geometry.value {
            GeometryValue::Polygon { coordinates } => {
                self.polygon(coordinates, &format!("{field}.coordinates"))
            }
            GeometryValue::MultiPolygon { coordinates } => {
                for (i, polygon) in coordinates.iter().enumerate() {
                    self.polygon(polygon, &format!("{field}.coordinates[{i}]"))?;
                }
                Ok(())
            }
            GeometryValue::GeometryCollection { geometries } => {
                for (i, geometry) in geometries.iter().enumerate() {
                    self.geometry(geometry, &format!("{field}.geometries[{i}]"))?;
                }
                Ok(())
            }
            other @ (GeometryValue::Point { .. }
            | GeometryValue::MultiPoint { .. }
            | GeometryValue::LineString { .. }
            | GeometryValue::MultiLineString { .. }) => {
                Err(InvalidField::new(field, format_args!("{AREAS}; got {}", other.type_name())))
            }
        }
    }

    fn polygon(&mut self, rings: &[Vec<Position>], field: &str) -> Result<(), InvalidField> {
        let Some((outer, holes)) = rings.split_first() else {
            return Err(InvalidField::new(field, "must have an outer ring; got no ring"));
        };
        check_count(field, self.parts.len() + 1, 1..=PARTS_MAX, "polygons in all")?;
        check_count(field, holes.len(), 0..=HOLES_MAX, "holes")?;
        let mut ring = |ring: &[Position], i: usize| {
            let field = format!("{field}[{i}]");
            if let Some(short) = ring.iter().position(|p| p.len() < 2) {
                let problem = format!("must have at least 2 numbers; got {}", ring[short].len());
                return Err(InvalidField::new(format!("{field}[{short}]"), problem));
            }
            given_ring(ring.iter().map(|p| (p[1], p[0])), field, self.budget)
        };
        let outer = ring(outer, 0)?;
        let holes = holes.iter().enumerate().map(|(i, hole)| ring(hole, i + 1));
        let holes = holes.collect::<Result<_, _>>()?;
        self.parts.push(GivenPart { outer, holes });
        Ok(())
    }
}

/// Snaps the points of a ring, given as latitude and longitude; `field` is the path of their list.
fn given_ring(
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
