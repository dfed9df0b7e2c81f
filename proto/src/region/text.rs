//! Polygons of a GeoJSON text, as rings on the grid.
//!
//! A text is refused rather than read in one of two ways: a name that an object has twice, and a
//! system of coordinates other than WGS 84. A geometry without an area is refused, too, because
//! nobody can know which people it was meant to reach.

mod crs;
mod members;

use geojson::{Feature, GeoJson, Geometry, GeometryValue, Position};

use super::{
    HOLES_MAX, PARTS_MAX, area::GivenPart, budget::Budget, check_count, given::given_ring,
};
use crate::error::InvalidField;

/// Types of geometry that a region can be made of.
const AREAS: &str = "must be a Polygon, a MultiPolygon or a GeometryCollection of them";
/// Problem with a list of geometries that is empty.
const EMPTY: &str = "must hold at least one polygon; got none";
/// Largest part of a text that an error repeats, characters.
const SHOWN_CHARS: usize = 200;

/// The polygons of a GeoJSON text; `field` is the text's path.
pub(super) fn geojson(
    text: &str,
    field: &str,
    budget: &mut Budget,
) -> Result<Vec<GivenPart>, InvalidField> {
    // Some programs write a mark of the byte order first, some after a blank line.
    let text = text.trim_start_matches(|c: char| c == '\u{feff}' || c.is_whitespace());
    let parsed: GeoJson =
        members::read(text).and_then(serde_json::from_value).map_err(|error| {
            // An error may repeat a part of the text.
            let error: String = error.to_string().chars().take(SHOWN_CHARS).collect();
            InvalidField::new(field, format_args!("must be a GeoJSON text (RFC 7946): {error}"))
        })?;
    let mut reader = Reader { parts: Vec::new(), budget };
    match parsed {
        GeoJson::Geometry(geometry) => reader.geometry(&geometry, field)?,
        GeoJson::Feature(feature) => reader.feature(&feature, field)?,
        GeoJson::FeatureCollection(collection) => {
            crs::check(collection.foreign_members.as_ref(), field)?;
            for (i, feature) in collection.features.iter().enumerate() {
                reader.feature(feature, &format!("{field}.features[{i}]"))?;
            }
        }
    }
    if reader.parts.is_empty() {
        return Err(InvalidField::new(field, EMPTY));
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
        crs::check(feature.foreign_members.as_ref(), field)?;
        let field = format!("{field}.geometry");
        match &feature.geometry {
            Some(geometry) => self.geometry(geometry, &field),
            None => Err(InvalidField::new(field, format_args!("{AREAS}; got null"))),
        }
    }

    fn geometry(&mut self, geometry: &Geometry, field: &str) -> Result<(), InvalidField> {
        crs::check(geometry.foreign_members.as_ref(), field)?;
        match &geometry.value {
            GeometryValue::MultiPolygon { coordinates } if coordinates.is_empty() => {
                Err(InvalidField::new(format!("{field}.coordinates"), EMPTY))
            }
            GeometryValue::GeometryCollection { geometries } if geometries.is_empty() => {
                Err(InvalidField::new(format!("{field}.geometries"), EMPTY))
            }
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
