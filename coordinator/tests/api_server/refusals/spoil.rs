//! Parts of a valid request, to be spoiled, and parts to spoil it with.

use clarion_proto::wire::v1 as wire;

pub(super) fn at(latitude: f64, longitude: f64) -> Option<wire::LatLng> {
    Some(wire::LatLng { latitude, longitude })
}

pub(super) fn region(alert: &mut wire::Alert) -> &mut wire::Region {
    alert.region.as_mut().expect("set")
}

pub(super) fn circle(alert: &mut wire::Alert) -> &mut wire::Circle {
    circle_of(region(alert))
}

pub(super) fn circle_of(region: &mut wire::Region) -> &mut wire::Circle {
    match &mut region.shape {
        Some(wire::region::Shape::Circle(circle)) => circle,
        other => panic!("{other:?}"),
    }
}

pub(super) fn shape(alert: &mut wire::Alert, shape: wire::region::Shape) {
    region(alert).shape = Some(shape);
}

pub(super) fn polygon(outer: Option<wire::Ring>) -> wire::region::Shape {
    wire::region::Shape::Polygon(wire::Polygon { outer, holes: vec![] })
}

pub(super) fn rim(points: &[(f64, f64)]) -> wire::Ring {
    let points =
        points.iter().map(|&(latitude, longitude)| wire::LatLng { latitude, longitude }).collect();
    wire::Ring { points }
}

pub(super) fn ring(points: &[(f64, f64)]) -> wire::region::Shape {
    polygon(Some(rim(points)))
}

/// A square of a degree with holes.
pub(super) fn holed(holes: Vec<wire::Ring>) -> wire::region::Shape {
    let outer = Some(rim(&[(22.0, 114.0), (22.0, 115.0), (23.0, 115.0), (23.0, 114.0)]));
    wire::region::Shape::Polygon(wire::Polygon { outer, holes })
}

pub(super) fn multi(polygons: Vec<wire::Polygon>) -> wire::region::Shape {
    wire::region::Shape::MultiPolygon(wire::MultiPolygon { polygons })
}

/// Teeth two degrees long and a kilometre apart: a rim of some 90,000 km in two degrees.
pub(super) fn comb() -> wire::region::Shape {
    let tooth = |i: u32| {
        let west = 113.0 + f64::from(i) * 0.01;
        [(21.0, west), (23.0, west), (23.0, west + 0.005), (21.0, west + 0.005)]
    };
    let mut points: Vec<_> = (0..200).flat_map(tooth).collect();
    points.extend([(20.9, 115.0), (20.9, 113.0)]);
    ring(&points)
}

pub(super) fn cells(cells: Vec<u64>) -> wire::region::Shape {
    wire::region::Shape::Cells(wire::CellSet { cells })
}

pub(super) fn union(regions: Vec<wire::Region>) -> wire::region::Shape {
    wire::region::Shape::Union(wire::RegionUnion { regions })
}

pub(super) fn case(alert: &mut wire::Alert) -> &mut wire::Case {
    alert.case.as_mut().expect("set")
}

fn options(alert: &mut wire::Alert) -> &mut wire::PushOptions {
    alert.options.get_or_insert_default()
}

pub(super) fn apns(alert: &mut wire::Alert) -> &mut wire::ApnsOptions {
    options(alert).apns.get_or_insert_default()
}

pub(super) fn fcm(alert: &mut wire::Alert) -> &mut wire::FcmOptions {
    options(alert).fcm.get_or_insert_default()
}

pub(super) fn message(alert: &mut wire::Alert) -> &mut wire::Message {
    case(alert).messages.get_mut("en").expect("set")
}

pub(super) fn text() -> wire::Message {
    wire::Message { title: "t".into(), body: "b".into() }
}

pub(super) fn audience(alert: &mut wire::Alert) -> &mut wire::Audience {
    alert.audience.as_mut().expect("set")
}

pub(super) fn arrival_of(change: &mut wire::DeviceChange) -> &mut wire::Arrival {
    match &mut change.change {
        Some(wire::device_change::Change::Arrival(arrival)) => arrival,
        other => panic!("{other:?}"),
    }
}

pub(super) fn registration(change: &mut wire::DeviceChange) -> &mut wire::Registration {
    arrival_of(change).registration.as_mut().expect("set")
}

pub(super) fn place(change: &mut wire::DeviceChange, place: wire::place::Place) {
    arrival_of(change).place = Some(wire::Place { place: Some(place), datum: 0 });
}

/// A device that is named by its app and token.
pub(super) fn token_device(app: &str, token: &str) -> Option<wire::TokenDevice> {
    Some(wire::TokenDevice { app: app.into(), token: token.into() })
}

/// Makes a change the mute of a device that is named by its app and token.
pub(super) fn muted(change: &mut wire::DeviceChange, app: &str, token: &str) {
    change.device.clear();
    change.token_device = token_device(app, token);
    change.change = Some(wire::device_change::Change::Mute(wire::Mute { muted: true }));
}
