//! Every refusal that a caller deserves, as a list: what is spoiled, which field is named, and what
//! is said of it.
//!
//! Each goes through the real server; afterwards nothing is left behind and the next good call
//! works.

use clarion_proto::wire::v1 as wire;
use tonic::Code;
use tonic_types::StatusExt;

use spoil::{
    apns, arrival_of, at, audience, case, cells, circle, circle_of, comb, fcm, holed, message,
    multi, muted, place, polygon, region, registration, rim, ring, shape, text, token_device,
    union,
};

use crate::{
    registry::{arrival, device, write},
    support::{Server, create, demo_alert, fcm_app, from_now, soon, token_app, violation},
};

mod spoil;

/// Coordinates in metres, as web maps use them.
const MERCATOR: &str = r#"{"type":"Polygon","crs":{"type":"name","properties":{"name":"EPSG:3857"}},
    "coordinates":[[[0,0],[1,0],[1,1],[0,0]]]}"#;

/// What spoils a valid request, the field that the refusal names, and words of its description:
/// limit and value.
struct Refusal<T> {
    what: &'static str,
    spoil: fn(&mut T),
    field: &'static str,
    says: &'static [&'static str],
}

macro_rules! refusals {
    ($type:ty: $($what:literal, $spoil:expr => $field:literal, $says:expr;)+) => {
        &[$(Refusal::<$type> { what: $what, spoil: $spoil, field: $field, says: &$says }),+]
    };
}

/// CreateAlert with the alert's own fields; PreviewAlert refuses the same.
const ALERT: &[Refusal<wire::Alert>] = refusals! { wire::Alert:
    // Where.
    "no region", |a| a.region = None => "alert.region", ["is required"];
    "a region without a shape", |a| a.region = Some(wire::Region::default()) => "alert.region.shape", ["is required"];
    "latitude 91", |a| circle(a).center = at(91.0, 0.0) => "alert.region.circle.center.latitude", ["-90 and 90", "got 91"];
    "latitude NaN", |a| circle(a).center = at(f64::NAN, 0.0) => "alert.region.circle.center.latitude", ["-90 and 90", "got NaN"];
    "latitude infinite", |a| circle(a).center = at(f64::INFINITY, 0.0) => "alert.region.circle.center.latitude", ["-90 and 90", "got inf"];
    "longitude -360.5", |a| circle(a).center = at(0.0, -360.5) => "alert.region.circle.center.longitude", ["-360 and 360", "got -360.5"];
    "longitude NaN", |a| circle(a).center = at(0.0, f64::NAN) => "alert.region.circle.center.longitude", ["-360 and 360", "got NaN"];
    "no centre", |a| circle(a).center = None => "alert.region.circle.center", ["is required"];
    "place last seen out of range", |a| a.last_seen = at(0.0, 181.0) => "alert.last_seen.longitude", ["-180 and 180", "got 181"];
    "radius 0", |a| circle(a).radius_meters = 0.0 => "alert.region.circle.radius_meters", ["greater than 0", "10000000", "got 0"];
    "radius negative", |a| circle(a).radius_meters = -5.0 => "alert.region.circle.radius_meters", ["greater than 0", "got -5"];
    "radius NaN", |a| circle(a).radius_meters = f64::NAN => "alert.region.circle.radius_meters", ["10000000", "got NaN"];
    "radius infinite", |a| circle(a).radius_meters = f64::INFINITY => "alert.region.circle.radius_meters", ["10000000", "got inf"];
    "radius beyond half the globe", |a| circle(a).radius_meters = 10_000_001.0 => "alert.region.circle.radius_meters", ["at most 10000000", "got 10000001"];
    "polygon without a rim", |a| shape(a, polygon(None)) => "alert.region.polygon.outer", ["is required"];
    "polygon of two points", |a| shape(a, ring(&[(22.0, 114.0), (22.0, 114.1), (22.0, 114.0)])) => "alert.region.polygon.outer.points", ["at least 3 different points", "got 3"];
    "polygon crossing itself", |a| shape(a, ring(&[(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])) => "alert.region.polygon.outer.points", ["crosses itself at (0.5, 0.5)", "the edge from (0, 0) to (1, 1)"];
    "polygon around a pole", |a| shape(a, ring(&[(80.0, 0.0), (80.0, 120.0), (80.0, -120.0), (80.0, 0.0)])) => "alert.region.polygon.outer.points", ["pole"];
    "polygon of too many vertices", |a| shape(a, ring(&vec![(0.0, 0.0); 100_001])) => "alert.region.polygon.outer.points", ["3 to 100000", "got 100001"];
    "polygon with a wrong vertex", |a| shape(a, ring(&[(0.0, 0.0), (95.0, 1.0), (1.0, 1.0), (0.0, 0.0)])) => "alert.region.polygon.outer.points[1].latitude", ["-90 and 90", "got 95"];
    "polygon with too many holes", |a| shape(a, holed(vec![wire::Ring::default(); 1_025])) => "alert.region.polygon.holes", ["0 to 1024", "got 1025"];
    "polygon with a hole outside", |a| { let hole = rim(&[(50.0, 0.0), (50.0, 1.0), (51.0, 1.0)]); shape(a, holed(vec![hole])); } => "alert.region.polygon.holes[0].points", ["hole 0 lies outside the outer ring; is it a part?"];
    "multi-polygon of nothing", |a| shape(a, multi(vec![])) => "alert.region.multi_polygon.polygons", ["1 to 1024", "got 0"];
    "multi-polygon with a wrong vertex", |a| { let hole = rim(&[(22.0, 114.0), (22.0, 114.5), (95.0, 114.0)]); shape(a, multi(vec![wire::Polygon { outer: Some(hole), holes: vec![] }])); } => "alert.region.multi_polygon.polygons[0].outer.points[2].latitude", ["got 95"];
    "GeoJSON that is none", |a| shape(a, wire::region::Shape::Geojson("{".into())) => "alert.region.geojson", ["RFC 7946"];
    "GeoJSON of another type", |a| shape(a, wire::region::Shape::Geojson(r#"{"type":"Point","coordinates":[1,2]}"#.into())) => "alert.region.geojson", ["must be a Polygon", "got Point"];
    "no cells", |a| shape(a, cells(vec![])) => "alert.region.cells.cells", ["1 to 100000", "got 0"];
    "too many cells", |a| shape(a, cells(vec![0x89411ca0007ffff; 100_001])) => "alert.region.cells.cells", ["1 to 100000", "got 100001"];
    "a malformed cell", |a| shape(a, cells(vec![0x86411ca07ffffff, 1])) => "alert.region.cells.cells[1]", ["H3 cell index", "got 0x1"];
    "a cell of resolution 10", |a| shape(a, cells(vec![RESOLUTION_10])) => "alert.region.cells.cells[0]", ["0 to 9", "got 10"];
    "cells of another datum", |a| {
        shape(a, cells(vec![0x86411ca07ffffff]));
        region(a).datum = wire::Datum::Gcj02.into();
    } => "alert.region.datum", ["DATUM_WGS84", "got DATUM_GCJ02"];
    "a region of an unknown datum", |a| region(a).datum = 3 => "alert.region.datum", ["DATUM_GCJ02 (2)", "got 3"];
    "a place last seen of an unknown datum", |a| a.last_seen_datum = -1 => "alert.last_seen_datum", ["DATUM_WGS84 (1)", "got -1"];
    "GeoJSON in web Mercator", |a| shape(a, wire::region::Shape::Geojson(MERCATOR.into())) => "alert.region.geojson.crs", ["EPSG:4326", "got EPSG:3857"];
    "GeoJSON without an area", |a| shape(a, wire::region::Shape::Geojson(r#"{"type":"MultiPolygon","coordinates":[]}"#.into())) => "alert.region.geojson.coordinates", ["at least one polygon", "got none"];
    "GeoJSON with two outlines by one name", |a| shape(a, wire::region::Shape::Geojson(r#"{"type":"Polygon","coordinates":[],"coordinates":[]}"#.into())) => "alert.region.geojson", ["twice"];
    "a rim too long for its extent", |a| shape(a, comb()) => "alert.region", ["100000 cells", "m outside the region", "at most 500 m"];
    "a union of nothing", |a| shape(a, union(vec![])) => "alert.region.union.regions", ["1 to 64", "got 0"];
    "a union of too many", |a| { let one = region(a).clone(); shape(a, union(vec![one; 65])); } => "alert.region.union.regions", ["1 to 64", "got 65"];
    "a union too deep", |a| for _ in 0..4 { let inner = region(a).clone(); shape(a, union(vec![inner])); } => "alert.region.union.regions[0].union.regions[0].union.regions[0].union.regions[0]", ["4 deep"];
    "too many exclusions", |a| { let one = region(a).clone(); region(a).exclusions = vec![one; 17]; } => "alert.region.exclusions", ["0 to 16", "got 17"];
    "a wrong exclusion", |a| { let one = region(a).clone(); region(a).exclusions = vec![one.clone(), one]; circle_of(&mut region(a).exclusions[1]).radius_meters = 0.0; } => "alert.region.exclusions[1].circle.radius_meters", ["got 0"];
    "nothing left of it", |a| { let one = region(a).clone(); region(a).exclusions = vec![one]; circle_of(&mut region(a).exclusions[0]).radius_meters *= 2.0; } => "alert.region", ["leave nothing"];
    // What.
    "no case", |a| a.case = None => "alert.case", ["is required"];
    "no locale", |a| case(a).messages.clear() => "alert.case.messages", ["1 to 64", "got 0"];
    "a locale that is none", |a| { let text = text(); case(a).messages.insert("z".into(), text); } => "alert.case.messages[z]", ["BCP 47", "got \"z\""];
    "a locale without a meaning", |a| { let text = text(); case(a).messages.insert("en-".to_owned() + &"a".repeat(40), text); } => "alert.case.messages[en-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa]", ["only \"en\" has a meaning"];
    "a locale twice", |a| { let text = text(); case(a).messages.insert("EN".into(), text); } => "alert.case.messages", ["same readers: en and en"];
    "a language twice", |a| for tag in ["zh", "zh-Hans"] { let text = text(); case(a).messages.insert(tag.into(), text); } => "alert.case.messages", ["same readers: zh and zh-hans"];
    "too many locales", |a| for i in 0..64 { let text = text(); case(a).messages.insert(format!("de-DE-{i:05}"), text); } => "alert.case.messages", ["1 to 64", "got 65"];
    "fallback missing", |a| case(a).fallback_locale.clear() => "alert.case.fallback_locale", ["is required"];
    "fallback without a message", |a| case(a).fallback_locale = "fr".into() => "alert.case.fallback_locale", ["got fr"];
    "no title", |a| message(a).title.clear() => "alert.case.messages[en].title", ["is required"];
    "title too long", |a| message(a).title = "x".repeat(257) => "alert.case.messages[en].title", ["at most 256 bytes", "got 257"];
    "body too long", |a| message(a).body = "x".repeat(3_001) => "alert.case.messages[en].body", ["at most 3000 bytes", "got 3001"];
    // Within its own limit, but not as JSON within APNs'.
    "a push over 4,096 bytes", |a| message(a).body = "\"".repeat(3_000) => "alert.case.messages[en]", ["apps/demo", "4096", "more than"];
    "a push over 4,096 bytes for FCM", |a| { audience(a).apps = vec!["apps/droid".into()]; message(a).body = "\"".repeat(2_500); } => "alert.case.messages[en]", ["apps/droid", "4096 of FCM", "more than"];
    "title without ink", |a| message(a).title = "\u{200B} \u{FEFF}".into() => "alert.case.messages[en].title", ["visible character", "got 3"];
    "title of two lines", |a| message(a).title = "a\nb".into() => "alert.case.messages[en].title", ["control characters", "U+000A at byte 1"];
    "body with NUL", |a| message(a).body = "a\0".into() => "alert.case.messages[en].body", ["control characters", "U+0000 at byte 1"];
    "body that turns around", |a| message(a).body = "a\u{202E}b".into() => "alert.case.messages[en].body", ["U+202E at byte 1 is not closed"];
    "link with a hidden character", |a| case(a).deep_link = "app://\u{200B}".into() => "alert.case.deep_link", ["U+200B at byte 6"];
    "external id with a tab", |a| a.external_id = "a\tb".into() => "alert.external_id", ["visible characters", "U+0009 at byte 1"];
    "external id too long", |a| a.external_id = "x".repeat(257) => "alert.external_id", ["at most 256 bytes", "got 257"];
    "label without a key", |a| { a.labels.insert("Team".into(), "x".into()); } => "alert.labels", ["1 to 63", "got \"Team\""];
    "too many labels", |a| for i in 0..17 { a.labels.insert(format!("l{i}"), "x".into()); } => "alert.labels", ["at most 16", "got 17"];
    "label value too long", |a| { a.labels.insert("team".into(), "x".repeat(257)); } => "alert.labels[team]", ["at most 256 bytes", "got 257"];
    "relevance above 1", |a| apns(a).relevance_score = Some(1.5) => "alert.options.apns.relevance_score", ["0 to 1", "got 1.5"];
    "interruption level unknown", |a| apns(a).interruption_level = 5 => "alert.options.apns.interruption_level", ["got 5"];
    "thread id too long", |a| apns(a).thread_id = "x".repeat(129) => "alert.options.apns.thread_id", ["at most 128 bytes", "got 129"];
    "category with a control", |a| apns(a).category = "\u{7}".into() => "alert.options.apns.category", ["U+0007 at byte 0"];
    "analytics label with a space", |a| fcm(a).analytics_label = "a b".into() => "alert.options.fcm.analytics_label", ["1 to 50 characters", "got 3"];
    "image not https", |a| case(a).image_url = "http://example.org/a.jpg".into() => "alert.case.image_url", ["https://"];
    "image address too long", |a| case(a).image_url = format!("https://{}", "x".repeat(1_024)) => "alert.case.image_url", ["at most 1024 bytes", "got 1032"];
    "link too long", |a| case(a).deep_link = "x".repeat(1_025) => "alert.case.deep_link", ["at most 1024 bytes", "got 1025"];
    // To whom.
    "no audience", |a| a.audience = None => "alert.audience", ["is required"];
    "no app", |a| audience(a).apps.clear() => "alert.audience.apps", ["1 to 64", "got 0"];
    "an app that is unknown", |a| audience(a).apps.push("apps/nobody".into()) => "alert.audience.apps[1]", ["no apps/nobody"];
    "an app that is no name", |a| audience(a).apps.push("nobody".into()) => "alert.audience.apps[1]", ["apps/"];
    "an app twice", |a| audience(a).apps.push("apps/demo".into()) => "alert.audience.apps[1]", ["apps/demo more than once"];
    "too many apps", |a| audience(a).apps = (0..65).map(|i| format!("apps/a{i}")).collect() => "alert.audience.apps", ["1 to 64", "got 65"];
    "segments: an operand missing", |a| audience(a).segments = "volunteer OR".into() => "alert.audience.segments", ["expected a segment", "byte 12", "the end"];
    "segments: a parenthesis open", |a| audience(a).segments = "(a AND b".into() => "alert.audience.segments", ["')'", "byte 8"];
    "segments: no such character", |a| audience(a).segments = "a & b".into() => "alert.audience.segments", ["'&' at byte 2"];
    "segments: too long", |a| audience(a).segments = "a ".repeat(513) => "alert.audience.segments", ["at most 1024 bytes", "got 1026"];
    "segments: too many names", |a| audience(a).segments = vec!["a"; 65].join(" OR ") => "alert.audience.segments", ["at most 64 names"];
    "segments: too deep", |a| audience(a).segments = "NOT ".repeat(33) + "a" => "alert.audience.segments", ["at most 32"];
    "segments: a name too long", |a| audience(a).segments = "a".repeat(64) => "alert.audience.segments", ["1 to 63", "got 64"];
    // When.
    "no end", |a| a.active_until = None => "alert.active_until", ["is required"];
    "an end in the past", |a| a.active_until = Some(from_now(-1)) => "alert.active_until", ["in the future", "ms in the past"];
    "an end beyond 30 days", |a| a.active_until = Some(from_now(31 * 86_400)) => "alert.active_until", ["at most 30 days", "ms ahead"];
    "a malformed time", |a| a.active_until = Some(prost_types::Timestamp { seconds: 5, nanos: 1_000_000_000 }) => "alert.active_until", ["1970 and 9999", "1000000000 ns"];
    "a time before 1970", |a| a.active_until = Some(prost_types::Timestamp { seconds: -1, nanos: 0 }) => "alert.active_until", ["1970 and 9999", "got -1 s"];
    // How.
    "no mode", |a| a.mode = 0 => "alert.mode", ["is required"];
    "an unknown mode", |a| a.mode = 17 => "alert.mode", ["got 17"];
    "a mode below 0", |a| a.mode = -1 => "alert.mode", ["got -1"];
    "no severity", |a| a.severity = 0 => "alert.severity", ["is required"];
    "an unknown severity", |a| a.severity = 9 => "alert.severity", ["got 9"];
    "collapse key too long", |a| a.collapse_key = "k".repeat(65) => "alert.collapse_key", ["at most 64 bytes", "got 65"];
    "collapse key that is no header", |a| a.collapse_key = "a\r\nb".into() => "alert.collapse_key", ["visible ASCII"];
};

/// CreateAlert beside the alert.
const CREATE: &[Refusal<wire::CreateAlertRequest>] = refusals! { wire::CreateAlertRequest:
    "no alert", |r| r.alert = None => "alert", ["is required"];
    "no request id", |r| r.request_id.clear() => "request_id", ["is required"];
    "a request id that is no UUID", |r| r.request_id = "one".into() => "request_id", ["must be a UUID", "\"one\" of 3 bytes"];
    "a request id as long as a book", |r| r.request_id = "x".repeat(100_000) => "request_id", ["must be a UUID", "of 100000 bytes"];
    "the nil UUID", |r| r.request_id = uuid::Uuid::nil().to_string() => "request_id", ["nil"];
};

/// Items of WriteDevices: refused one by one, as values; the field is in the item.
const CHANGE: &[Refusal<wire::DeviceChange>] = refusals! { wire::DeviceChange:
    "no device", |c| c.device.clear() => "device", ["is required"];
    "device too long", |c| c.device = "d".repeat(129) => "device", ["at most 128 bytes", "got 129"];
    "no time", |c| c.observe_time = None => "observe_time", ["is required"];
    "seen more than 24 h ago", |c| c.observe_time = Some(from_now(-86_460)) => "observe_time", ["at most 24 h old", "864"];
    "seen more than a minute ahead", |c| c.observe_time = Some(from_now(90)) => "observe_time", ["at most 60 s ahead"];
    "a malformed time", |c| c.observe_time = Some(prost_types::Timestamp { seconds: 0, nanos: -1 }) => "observe_time", ["1970 and 9999", "-1 ns"];
    "no change", |c| c.change = None => "change", ["is required"];
    "no registration", |c| arrival_of(c).registration = None => "arrival.registration", ["is required"];
    "no place", |c| arrival_of(c).place = None => "arrival.place", ["is required"];
    "an empty place", |c| arrival_of(c).place = Some(wire::Place::default()) => "arrival.place.place", ["is required"];
    "latitude NaN", |c| place(c, wire::place::Place::Point(wire::LatLng { latitude: f64::NAN, longitude: 0.0 })) => "arrival.place.point.latitude", ["-90 and 90"];
    "a cell that is none", |c| place(c, wire::place::Place::Cell(7)) => "arrival.place.cell", ["H3"];
    "a cell of another datum", |c| {
        place(c, wire::place::Place::Cell(0x89411ca0007ffff));
        arrival_of(c).place.as_mut().expect("set").datum = wire::Datum::Gcj02.into();
    } => "arrival.place.datum", ["DATUM_WGS84", "got DATUM_GCJ02"];
    "a place of an unknown datum", |c| arrival_of(c).place.as_mut().expect("set").datum = 9 => "arrival.place.datum", ["DATUM_GCJ02 (2)", "got 9"];
    "a coarse cell", |c| place(c, wire::place::Place::Cell(0x86411ca07ffffff)) => "arrival.place.cell", ["9"];
    "app unknown", |c| registration(c).app = "apps/nobody".into() => "arrival.registration.app", ["existing app"];
    "app malformed", |c| registration(c).app = "nobody".into() => "arrival.registration.app", ["apps/"];
    "token empty", |c| registration(c).token.clear() => "arrival.registration.token", ["is required"];
    "token not hexadecimal", |c| registration(c).token = "zz".repeat(32) => "arrival.registration.token", ["hexadecimal", "64"];
    "token of an odd length", |c| registration(c).token = "abc".into() => "arrival.registration.token", ["hexadecimal", "3"];
    "token too long", |c| registration(c).token = "ab".repeat(101) => "arrival.registration.token", ["at most 200", "202"];
    "too many segments", |c| registration(c).segments = vec!["a".into(); 17] => "arrival.registration.segments", ["at most 16", "got 17"];
    "a segment that is no name", |c| registration(c).segments = vec!["ok".into(), "No".into()] => "arrival.registration.segments[1]", ["'N'"];
    "person too long", |c| registration(c).person = "p".repeat(129) => "arrival.registration.person", ["at most 128 bytes", "got 129"];
    "too many former devices", |c| registration(c).replaces = vec!["old".into(); 5] => "arrival.registration.replaces", ["at most 4", "got 5"];
    "a former device without a name", |c| registration(c).replaces = vec!["old".into(), String::new()] => "arrival.registration.replaces[1]", ["1 to 128 bytes", "got 0"];
    "a former device with a long name", |c| registration(c).replaces = vec!["d".repeat(129)] => "arrival.registration.replaces[0]", ["at most 128 bytes", "got 129"];
    "a device that replaces itself", |c| registration(c).replaces = vec![c.device.clone()] => "arrival.registration.replaces[0]", ["former device"];
    "a mute of no device", |c| { muted(c, "", ""); c.token_device = None; } => "device", ["is required, or token_device"];
    "named twice", |c| c.token_device = token_device("apps/tokens", "00ff") => "token_device", ["together with device"];
    "a registration named by its token", |c| { c.device.clear(); c.token_device = token_device("apps/tokens", "00ff"); } => "token_device", ["not be set in a registration"];
    "a token of a DEVICE app", |c| muted(c, "apps/demo", "00ff") => "token_device.app", ["IDENTITY_TOKEN", "apps/demo has IDENTITY_DEVICE"];
    "a token of no app", |c| muted(c, "apps/nobody", "00ff") => "token_device.app", ["existing app"];
    "a token of an app that is no name", |c| muted(c, "", "00ff") => "token_device.app", ["apps/"];
    "no token", |c| muted(c, "apps/tokens", "") => "token_device.token", ["is required"];
    "a token in brackets", |c| muted(c, "apps/tokens", "<zz>") => "token_device.token", ["hexadecimal", "got 4"];
    "a device of a TOKEN app", |c| registration(c).app = "apps/tokens".into() => "device", ["must be empty for apps/tokens", "got 7 bytes"];
    "a former token of a TOKEN app that is none", |c| { c.device.clear(); registration(c).app = "apps/tokens".into(); registration(c).replaces = vec!["old".into()]; } => "arrival.registration.replaces[0]", ["hexadecimal"];
    "a token with a blank", |c| { c.device.clear(); registration(c).app = "apps/tokens".into(); registration(c).token = " zz".into(); } => "arrival.registration.token", ["hexadecimal", "got 3"];
};

/// The same for an FCM app, whose tokens are of another kind.
const FCM_CHANGE: &[Refusal<wire::DeviceChange>] = refusals! { wire::DeviceChange:
    "token empty", |c| registration(c).token.clear() => "arrival.registration.token", ["is required"];
    "token too long", |c| registration(c).token = "t".repeat(513) => "arrival.registration.token", ["512", "513"];
    "token with a space", |c| registration(c).token = "zz zz".into() => "arrival.registration.token", ["printable ASCII"];
    "token with a quote", |c| registration(c).token = "zz\"".into() => "arrival.registration.token", ["printable ASCII"];
    "token beyond ASCII", |c| registration(c).token = "zz\u{e9}".into() => "arrival.registration.token", ["printable ASCII"];
};

#[tokio::test]
async fn an_alert_is_refused_by_its_field_and_leaves_nothing() {
    let server = Server::with_demo().await;
    soon(server.apps().create_app(fcm_app("droid"))).await.expect("created");
    let before = Left::of(&server).await;
    for (n, refusal) in (1..).zip(ALERT) {
        let mut alert = demo_alert();
        (refusal.spoil)(&mut alert);
        let created = soon(server.alerts().create_alert(create(n, alert.clone()))).await;
        refusal.holds("CreateAlert", created.map(drop));
        let validated =
            wire::CreateAlertRequest { validate_only: true, ..create(n, alert.clone()) };
        let validated = soon(server.alerts().create_alert(validated)).await;
        refusal.holds("CreateAlert to validate", validated.map(drop));
        if refusal.what.starts_with("a push over 4,096 bytes") {
            continue; // a preview renders nothing
        }
        let request = wire::PreviewAlertRequest { alert: Some(alert) };
        let previewed = soon(server.alerts().preview_alert(request)).await;
        refusal.holds("PreviewAlert", previewed.map(drop));
    }
    assert_eq!(Left::of(&server).await, before);
    // The request ids of what was refused are not used up.
    for n in [1, 2] {
        server.created(n).await;
    }
}

#[tokio::test]
async fn a_request_is_refused_by_its_field_and_leaves_nothing() {
    let server = Server::with_demo().await;
    let before = Left::of(&server).await;
    for refusal in CREATE {
        let mut request = create(1, demo_alert());
        (refusal.spoil)(&mut request);
        refusal.holds("CreateAlert", soon(server.alerts().create_alert(request)).await.map(drop));
    }
    assert_eq!(Left::of(&server).await, before);
    server.created(1).await;
}

#[tokio::test]
async fn an_item_is_refused_by_its_field_and_the_next_is_written() {
    let server = Server::with_demo().await;
    soon(server.apps().create_app(fcm_app("droid"))).await.expect("created");
    soon(server.apps().create_app(token_app("tokens"))).await.expect("created");
    let apns = CHANGE.iter().map(|refusal| (refusal, "apps/demo"));
    let fcm = FCM_CHANGE.iter().map(|refusal| (refusal, "apps/droid"));
    for (n, (refusal, app)) in (1..).zip(apns.chain(fcm)) {
        let mut bad = arrival("spoiled");
        registration(&mut bad).app = app.into();
        (refusal.spoil)(&mut bad);
        let batch = wire::WriteDevicesRequest {
            batch_id: 1,
            changes: vec![bad, device(n)],
            ..Default::default()
        };
        let answer = write(&server, vec![batch]).await.expect("answered").remove(0);
        assert_eq!(answer.written, 1, "{}", refusal.what);
        let [error] = &answer.errors[..] else { panic!("{}: {answer:?}", refusal.what) };
        assert_eq!((error.index, error.field.as_str()), (0, refusal.field), "{}", refusal.what);
        refusal.says(&error.description);
        assert!(!error.description.contains("zz"), "a token is not repeated");
    }
    let stats = soon(server.registry().get_registry_stats(wire::GetRegistryStatsRequest {}))
        .await
        .expect("up");
    assert_eq!(
        stats.into_inner().changes_written,
        (CHANGE.len() + FCM_CHANGE.len()) as u64,
        "the good ones alone"
    );
}

#[tokio::test]
async fn pages_names_and_reasons_are_refused_by_their_field() {
    let server = Server::with_demo().await;
    server.created(1).await;
    let mut alerts = server.alerts();
    let list = |page_size, page_token: &str| wire::ListAlertsRequest {
        page_size,
        page_token: page_token.into(),
        ..Default::default()
    };
    let apps = |page_size, page_token: &str| wire::ListAppsRequest {
        page_size,
        page_token: page_token.into(),
    };
    for (size, token, field, says) in [
        (-1, "", "page_size", ["0 to 1000", "got -1"]),
        (1_001, "", "page_size", ["0 to 1000", "got 1001"]),
        (i32::MAX, "", "page_size", ["0 to 1000", "got 2147483647"]),
        (1, "AAAA", "page_token", ["a token that this list returned", "got 4 bytes"]),
        (1, "\u{1F600}", "page_token", ["a token that this list returned", "got 4 bytes"]),
    ] {
        let refused = [
            soon(alerts.list_alerts(list(size, token))).await.expect_err(token),
            soon(server.apps().list_apps(apps(size, token))).await.expect_err(token),
        ];
        for refused in refused {
            let (named, description) = violation(&refused);
            assert_eq!(named, field);
            assert!(says.iter().all(|words| description.contains(words)), "{description}");
        }
    }
    for name in ["", "alerts/", "apps/demo", "alerts/A", "alerts/a/b"] {
        let get = soon(
            alerts.get_alert(wire::GetAlertRequest { name: name.into(), ..Default::default() }),
        )
        .await
        .expect_err(name);
        assert_eq!(violation(&get).0, "name");
        let watch = wire::WatchAlertRequest { name: name.into(), cells: true };
        assert_eq!(violation(&soon(alerts.watch_alert(watch)).await.expect_err(name)).0, "name");
        let cancel = wire::CancelAlertRequest { name: name.into(), reason: String::new() };
        assert_eq!(violation(&soon(alerts.cancel_alert(cancel)).await.expect_err(name)).0, "name");
    }
    let cancel = wire::CancelAlertRequest { name: "alerts/a".into(), reason: "r".repeat(513) };
    let (field, says) = violation(&soon(alerts.cancel_alert(cancel)).await.expect_err("long"));
    assert_eq!((field.as_str(), says.as_str()), ("reason", "at most 512 bytes, has 513"));
    soon(alerts.list_alerts(list(1_000, ""))).await.expect("the largest page");
}

#[tokio::test]
async fn one_request_id_is_one_alert_whoever_tries_it_and_when() {
    let server = Server::with_demo().await;
    let body = demo_alert();
    let other = wire::Alert { max_rate_per_second: 1, ..body.clone() };
    let validate = |alert: &wire::Alert| wire::CreateAlertRequest {
        validate_only: true,
        ..create(1, alert.clone())
    };
    // Validating uses nothing up.
    soon(server.alerts().create_alert(validate(&other))).await.expect("valid");
    let first = soon(server.alerts().create_alert(create(1, body.clone())))
        .await
        .expect("created")
        .into_inner();
    let again = soon(server.alerts().create_alert(create(1, body.clone())))
        .await
        .expect("the same")
        .into_inner();
    assert_eq!(again.name, first.name);
    let valid =
        soon(server.alerts().create_alert(validate(&body))).await.expect("the same").into_inner();
    assert_eq!(valid.name, "", "nothing is recorded by this call");
    for request in [create(1, other.clone()), validate(&other)] {
        let refused = soon(server.alerts().create_alert(request)).await.expect_err("another alert");
        assert_eq!(refused.code(), Code::AlreadyExists);
        assert!(refused.message().contains(&first.name), "{refused:?}");
        assert!(refused.get_details_error_info().is_some());
    }
    // Two bodies at the same moment: one wins, every try of it gets it, every try of the other is
    // refused.
    let tries = (0..8).map(|i| {
        let (mut client, alert) =
            (server.alerts(), if i % 2 == 0 { body.clone() } else { other.clone() });
        tokio::spawn(async move { client.create_alert(create(2, alert)).await })
    });
    let mut names = std::collections::BTreeSet::new();
    let mut refused = 0;
    for one in tries.collect::<Vec<_>>() {
        match soon(one).await.expect("no panic") {
            Ok(alert) => drop(names.insert(alert.into_inner().name)),
            Err(status) => {
                assert_eq!(status.code(), Code::AlreadyExists);
                refused += 1;
            }
        }
    }
    assert_eq!((names.len(), refused), (1, 4));
    assert_eq!(server.nodes.started.lock().len(), 2);
}

/// What a refused call must not change.
#[derive(Debug, PartialEq)]
pub(crate) struct Left {
    alerts: Vec<String>,
    apps: Vec<String>,
    changes: u64,
    started: usize,
}

impl Left {
    pub(crate) async fn of(server: &Server) -> Self {
        let alerts = soon(server.alerts().list_alerts(wire::ListAlertsRequest::default()))
            .await
            .expect("up")
            .into_inner();
        let apps = soon(server.apps().list_apps(wire::ListAppsRequest::default()))
            .await
            .expect("up")
            .into_inner();
        let stats = soon(server.registry().get_registry_stats(wire::GetRegistryStatsRequest {}))
            .await
            .expect("up");
        Self {
            alerts: alerts.alerts.into_iter().map(|alert| alert.name).collect(),
            apps: apps.apps.into_iter().map(|app| app.name).collect(),
            changes: stats.into_inner().changes_written,
            started: server.nodes.started.lock().len(),
        }
    }
}

impl<T> Refusal<T> {
    fn holds(&self, call: &str, answer: Result<(), tonic::Status>) {
        let Err(status) = answer else { panic!("{call}: {} was taken", self.what) };
        assert_eq!(status.code(), Code::InvalidArgument, "{call}: {}: {status:?}", self.what);
        let (field, description) = violation(&status);
        assert_eq!(field, self.field, "{call}: {}", self.what);
        self.says(&description);
    }

    fn says(&self, description: &str) {
        for words in self.says {
            assert!(description.contains(words), "{}: {description:?} lacks {words:?}", self.what);
        }
    }
}

const RESOLUTION_10: u64 = 0x8a411ca00007fff;
