//! GeoJSON texts as programs write them: what is read, and what is refused by name.

use super::{
    polygons::{checked, holds},
    *,
};

const SQUARE: &str = "[[[0,0,7.5],[1,0],[1,1],[0,1],[0,0]]]";

fn geojson(text: &str) -> Result<Arc<Area>, InvalidField> {
    checked(wire::region::Shape::Geojson(text.to_owned()))
}

fn polygon(more: &str) -> String {
    format!(r#"{{"type":"Polygon","coordinates":{SQUARE}{more}}}"#)
}

fn feature(geometry: &str, more: &str) -> String {
    format!(r#"{{"type":"Feature","properties":{{"name":"x"}},"geometry":{geometry}{more}}}"#)
}

fn collection(features: &str, more: &str) -> String {
    format!(r#"{{"type":"FeatureCollection","features":[{features}]{more}}}"#)
}

fn refused(text: &str) -> (String, String) {
    let error = geojson(text).expect_err(text);
    (error.field, error.problem)
}

#[test]
fn geojson_is_read_whatever_stands_around_its_polygons() {
    let square = "[[[0,0,7.5],[1,0],[1,1],[0,1],[0,0]]]";
    let polygon = format!(r#"{{"type":"Polygon","bbox":[0,0,1,1],"coordinates":{square}}}"#);
    let multi =
        format!(r#"{{"type":"MultiPolygon","coordinates":[{square},[[[5,5],[6,5],[6,6]]]]}}"#);
    let feature = format!(
        r#"{{"type":"Feature","properties":{{"name":"x"}},"extra":1,"geometry":{polygon}}}"#
    );
    let collection = format!(r#"{{"type":"GeometryCollection","geometries":[{polygon},{multi}]}}"#);
    let features = format!(
        r#"{{"type":"FeatureCollection","features":[{feature},
           {{"type":"Feature","properties":null,"geometry":{collection}}}]}}"#
    );
    for text in [&polygon, &multi, &feature, &collection, &features] {
        let area = geojson(text).unwrap();
        assert!(holds(&area, 0.5, 0.5), "{text}");
        assert_eq!(holds(&area, 5.9, 5.5), text.contains("Multi"), "{text}");
    }
    let line = r#"{"type":"LineString","coordinates":[[0,0],[1,1]]}"#;
    let lines = format!(r#"{{"type":"GeometryCollection","geometries":[{polygon},{line}]}}"#);
    let lines = format!(
        r#"{{"type":"FeatureCollection","features":[{feature},
           {{"type":"Feature","properties":null,"geometry":{lines}}}]}}"#
    );
    let refused = geojson(&lines).unwrap_err();
    assert_eq!(refused.field, "geojson.features[1].geometry.geometries[1]");
    assert!(refused.problem.ends_with("got LineString"), "{refused}");
    let null = geojson(r#"{"type":"Feature","properties":null,"geometry":null}"#).unwrap_err();
    assert_eq!(null.field, "geojson.geometry");
    for text in ["", "{}", "[]", r#"{"type":"FeatureCollection","features":[]}"#, "\u{0}"] {
        assert_eq!(geojson(text).unwrap_err().field, "geojson", "{text}");
    }
    let short = geojson(r#"{"type":"Polygon","coordinates":[[[0],[1,0],[1,1]]]}"#);
    assert_eq!(short.unwrap_err().field, "geojson.coordinates[0][0]");
    let wrong = geojson(r#"{"type":"MultiPolygon","coordinates":[[[[0,0],[1,99],[1,1]]]]}"#);
    assert_eq!(wrong.unwrap_err().field, "geojson.coordinates[0][0][1].latitude");
}

#[test]
fn marks_blanks_and_line_ends_around_a_text_do_not_matter() {
    let lines = polygon("").replace(',', ",\r\n\t");
    for text in [
        format!("\u{feff}{}", polygon("")),
        format!("\r\n  \u{feff}\n{}\r\n", polygon("")),
        format!("\u{feff}\u{feff}{lines}"),
        format!("\u{a0}\u{2028} {lines} \n"),
    ] {
        assert!(holds(&geojson(&text).expect(&text), 0.5, 0.5), "{text}");
    }
    assert_eq!(refused(&format!("{} {{}}", polygon(""))).0, "geojson", "a second object");
}

#[test]
fn members_that_a_region_ignores_may_hold_anything() {
    for more in [
        r#","id":null"#,
        r#","bbox":null"#,
        r#","properties":"text""#,
        r#","properties":{"a":1,"a":2}"#,
        r#","@context":["https://geojson.org",{"@version":"1.1"}]"#,
    ] {
        assert!(geojson(&polygon(more)).is_ok(), "{more}");
        let more = more.replace("properties", "foreign").replace(r#","a":2"#, "");
        assert!(geojson(&feature(&polygon(""), &more)).is_ok(), "{more}");
    }
}

#[test]
fn a_system_of_coordinates_is_wgs84_or_refused_by_name() {
    let named =
        |name: &str| format!(r#","crs":{{"type":"name","properties":{{"name":"{name}"}}}}"#);
    for crs in [
        named("urn:ogc:def:crs:OGC:1.3:CRS84"),
        named("urn:ogc:def:crs:OGC::CRS84"),
        named("urn:ogc:def:crs:EPSG::4326"),
        named("urn:ogc:def:crs:EPSG:6.6:4326"),
        named("urn:x-ogc:def:crs:EPSG:4326"),
        named("EPSG:4326"),
        named("epsg:4979"),
        named("OGC:CRS84"),
        named("http://www.opengis.net/def/crs/EPSG/0/4326"),
        named("http://www.opengis.net/def/crs/OGC/1.3/CRS84"),
        named("http://www.opengis.net/gml/srs/epsg.xml#4326"),
        named("WGS 84"),
        r#","crs":null"#.to_owned(),
        r#","crs":{"type":"EPSG","properties":{"code":4326}}"#.to_owned(),
        r#","crs":{"type":"EPSG","properties":{"code":"4326"}}"#.to_owned(),
    ] {
        for text in [
            polygon(&crs),
            feature(&polygon(""), &crs),
            collection(&feature(&polygon(""), ""), &crs),
        ] {
            assert!(holds(&geojson(&text).expect(&text), 0.5, 0.5), "{text}");
        }
    }
    for (crs, shown) in [
        (named("urn:ogc:def:crs:EPSG::4269"), "urn:ogc:def:crs:EPSG::4269"),
        (named("EPSG:3857"), "EPSG:3857"),
        (named("EPSG:84"), "EPSG:84"),
        (named("urn:ogc:def:crs:EPSG::4490"), "EPSG::4490"),
        (named(""), "got ;"),
        (r#","crs":"EPSG:4326""#.to_owned(), r#""EPSG:4326""#),
        (r#","crs":{"type":"link","properties":{"href":"x"}}"#.to_owned(), "href"),
        (r#","crs":{"type":"EPSG","properties":{"code":2056}}"#.to_owned(), "2056"),
    ] {
        for (text, field) in [
            (polygon(&crs), "geojson.crs"),
            (feature(&polygon(""), &crs), "geojson.crs"),
            (collection(&feature(&polygon(""), ""), &crs), "geojson.crs"),
            (feature(&polygon(&crs), ""), "geojson.geometry.crs"),
            (collection(&feature(&polygon(&crs), ""), ""), "geojson.features[0].geometry.crs"),
        ] {
            let refused = refused(&text);
            assert_eq!(refused.0, field, "{text}");
            assert!(refused.1.contains(shown) && refused.1.contains("EPSG:4326"), "{refused:?}");
        }
    }
    let long = refused(&polygon(&named(&"x".repeat(10_000)))).1;
    assert!(long.len() < 500, "{} bytes", long.len());
}

#[test]
fn a_geometry_without_an_area_is_refused_by_name() {
    let of = |kind: &str, list: &str| format!(r#"{{"type":"{kind}","{list}":[]}}"#);
    for (geometry, list) in [
        (of("Polygon", "coordinates"), "coordinates"),
        (of("MultiPolygon", "coordinates"), "coordinates"),
        (of("GeometryCollection", "geometries"), "geometries"),
    ] {
        assert_eq!(refused(&geometry).0, format!("geojson.{list}"));
        // Beside a polygon, too: nobody knows whom it was meant to reach.
        let beside = collection(&[feature(&polygon(""), ""), feature(&geometry, "")].join(","), "");
        assert_eq!(refused(&beside).0, format!("geojson.features[1].geometry.{list}"));
    }
    for kind in ["Polygon", "MultiPolygon"] {
        let empty = format!(r#"{{"type":"{kind}","coordinates":[[]]}}"#);
        assert!(refused(&empty).0.starts_with("geojson"), "{kind}");
    }
    let unlocated = collection(&[feature(&polygon(""), ""), feature("null", "")].join(","), "");
    assert_eq!(refused(&unlocated).0, "geojson.features[1].geometry");
    assert_eq!(refused(r#"{"type":"FeatureCollection","features":[]}"#).0, "geojson");
}

#[test]
fn nested_collections_are_read_and_their_depth_is_bounded() {
    let nested = |depth: usize| {
        let open = r#"{"type":"GeometryCollection","geometries":["#.repeat(depth);
        format!("{open}{}{}", polygon(""), "]}".repeat(depth))
    };
    assert!(holds(&geojson(&nested(10)).unwrap(), 0.5, 0.5));
    assert!(refused(&nested(10_000)).1.contains("recursion limit"));
}

#[test]
fn a_name_that_an_object_has_twice_is_refused() {
    let other = "[[[5,5],[6,5],[6,6],[5,5]]]";
    for text in [
        polygon(&format!(r#","coordinates":{other}"#)),
        polygon(r#","type":"Polygon""#),
        feature(&polygon(""), &format!(r#","geometry":{}"#, polygon(""))),
        feature(&polygon(r#","foreign":1,"foreign":2"#), ""),
        collection(&feature(&polygon(""), ""), r#","features":[]"#),
    ] {
        assert!(refused(&text).1.contains("twice"), "{text}");
    }
}

#[test]
fn an_error_repeats_little_of_a_text() {
    for text in [
        format!(r#"{{"type":"{}"}}"#, "x".repeat(100_000)),
        format!(r#"{{"{0}":1,"{0}":2}}"#, "x".repeat(100_000)),
        format!(r#""{}""#, "x".repeat(100_000)),
        "[".repeat(100_000),
    ] {
        let problem = refused(&text).1;
        assert!(problem.len() < 400, "{} bytes", problem.len());
    }
}
