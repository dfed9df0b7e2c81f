//! The member `crs` of GeoJSON of 2008, which names a system of coordinates.
//!
//! RFC 7946 knows only WGS 84 in the order longitude, latitude. Older programs still write `crs`:
//! mostly for WGS 84, sometimes for another system, whose coordinates would be far away or, worse,
//! some hundred metres away.

use geojson::JsonObject;
use serde_json::Value;

use super::SHOWN_CHARS;
use crate::error::InvalidField;

/// Codes of WGS 84 in the register of EPSG, in two and in three dimensions.
const EPSG: [&str; 2] = ["4326", "4979"];
/// Names of WGS 84 elsewhere, without blanks.
const NAMES: [&str; 3] = ["CRS84", "CRS84H", "WGS84"];

/// Checks the system of coordinates of an object; `members` are those that RFC 7946 does not know.
pub(super) fn check(members: Option<&JsonObject>, field: &str) -> Result<(), InvalidField> {
    let Some(crs) = members.and_then(|members| members.get("crs")) else { return Ok(()) };
    if is_wgs84(crs) {
        return Ok(());
    }
    let shown: String = match name(crs) {
        Some(name) => name.chars().take(SHOWN_CHARS).collect(),
        None => crs.to_string().chars().take(SHOWN_CHARS).collect(),
    };
    Err(InvalidField::new(
        format!("{field}.crs"),
        format_args!(
            "must be WGS 84 (EPSG:4326 or OGC:CRS84) or left out; got {shown}; convert the \
             coordinates to longitude and latitude on WGS 84"
        ),
    ))
}

/// The name in a `crs` of the type `name`.
fn name(crs: &Value) -> Option<&str> {
    crs.get("properties")?.get("name")?.as_str()
}

fn is_wgs84(crs: &Value) -> bool {
    match crs {
        Value::Null => true,
        _ if crs.get("type").is_some_and(|kind| kind == "EPSG") => {
            let code = crs.get("properties").and_then(|properties| properties.get("code"));
            code.is_some_and(|code| EPSG.contains(&code.to_string().trim_matches('"')))
        }
        // `EPSG:4326`, `urn:ogc:def:crs:EPSG::4326`, `http://www.opengis.net/def/crs/EPSG/0/4326`
        _ => name(crs).is_some_and(|name| {
            let name = name.to_ascii_uppercase().replace(' ', "");
            let mut parts = name.split([':', '/', '#']).filter(|part| !part.is_empty());
            let code = parts.next_back().unwrap_or_default();
            let is_epsg = parts.any(|part| part.starts_with("EPSG"));
            if is_epsg { EPSG.contains(&code) } else { NAMES.contains(&code) }
        }),
    }
}
