//! First difference of two alerts that were submitted under one `request_id`.

use std::collections::{BTreeSet, HashMap};

use clarion_proto::wire::v1 as wire;

/// Longest key of a map in a path, characters: the response must not grow with the request.
const KEY_CHARS_MAX: usize = 64;

/// Returns the path of the first field in which two alerts differ, such as
/// `alert.case.messages[en].title`, in the order of the contract.
pub(super) fn first(a: &wire::Alert, b: &wire::Alert) -> String {
    let path = case(a.case.as_ref(), b.case.as_ref())
        .or_else(|| (a.severity != b.severity).then(|| "severity".to_owned()))
        .or_else(|| region(a.region.as_ref(), b.region.as_ref()))
        .or_else(|| (a.last_seen != b.last_seen).then(|| "last_seen".to_owned()))
        .or_else(|| audience(a.audience.as_ref(), b.audience.as_ref()))
        .or_else(|| others(a, b));
    path.map_or_else(|| "alert".to_owned(), |path| format!("alert.{path}"))
}

fn case(a: Option<&wire::Case>, b: Option<&wire::Case>) -> Option<String> {
    within("case", a, b, |a, b| {
        let message = differing_key(&a.messages, &b.messages).map(|key| {
            let part = match (a.messages.get(key), b.messages.get(key)) {
                (Some(a), Some(b)) if a.title != b.title => ".title",
                (Some(_), Some(_)) => ".body",
                _ => "",
            };
            format!("messages[{}]{part}", shown(key))
        });
        message.or_else(|| {
            named(&[
                ("fallback_locale", a.fallback_locale != b.fallback_locale),
                ("image_url", a.image_url != b.image_url),
                ("deep_link", a.deep_link != b.deep_link),
            ])
        })
    })
}

fn region(a: Option<&wire::Region>, b: Option<&wire::Region>) -> Option<String> {
    use wire::region::Shape;
    within("region", a, b, |a, b| {
        if a.datum != b.datum {
            return Some("datum".to_owned());
        }
        let inner = match (a.shape.as_ref()?, b.shape.as_ref()?) {
            (shape, other) if shape == other => "exclusions",
            (Shape::Circle(a), Shape::Circle(b)) if a.center != b.center => "circle.center",
            (Shape::Circle(_), Shape::Circle(_)) => "circle.radius_meters",
            (Shape::Polygon(_), Shape::Polygon(_)) => "polygon",
            (Shape::Cells(_), Shape::Cells(_)) => "cells",
            (Shape::Union(_), Shape::Union(_)) => "union",
            (Shape::MultiPolygon(_), Shape::MultiPolygon(_)) => "multi_polygon",
            (Shape::Geojson(_), Shape::Geojson(_)) => "geojson",
            _ => return None,
        };
        Some(inner.to_owned())
    })
}

fn audience(a: Option<&wire::Audience>, b: Option<&wire::Audience>) -> Option<String> {
    within("audience", a, b, |a, b| {
        named(&[
            ("apps", a.apps != b.apps),
            ("segments", a.segments != b.segments),
            ("place_seen_within", a.place_seen_within != b.place_seen_within),
        ])
    })
}

fn others(a: &wire::Alert, b: &wire::Alert) -> Option<String> {
    let label = || differing_key(&a.labels, &b.labels).map(|key| format!("labels[{}]", shown(key)));
    let options = || {
        within("options", a.options.as_ref(), b.options.as_ref(), |a, b| {
            named(&[("apns", a.apns != b.apns), ("fcm", a.fcm != b.fcm)])
        })
    };
    named(&[
        ("active_until", a.active_until != b.active_until),
        ("mode", a.mode != b.mode),
        ("max_rate_per_second", a.max_rate_per_second != b.max_rate_per_second),
        ("collapse_key", a.collapse_key != b.collapse_key),
        ("last_seen_datum", a.last_seen_datum != b.last_seen_datum),
        ("external_id", a.external_id != b.external_id),
    ])
    .or_else(label)
    .or_else(options)
}

/// The path of the difference inside a message; the message's own name if only one alert has the
/// message, or if `inside` does not know the field. `None`: no difference.
fn within<T: PartialEq>(
    name: &str,
    a: Option<&T>,
    b: Option<&T>,
    inside: impl FnOnce(&T, &T) -> Option<String>,
) -> Option<String> {
    if a == b {
        return None;
    }
    let inner = a.zip(b).and_then(|(a, b)| inside(a, b));
    Some(inner.map_or_else(|| name.to_owned(), |inner| format!("{name}.{inner}")))
}

/// The first name whose flag is set.
fn named(fields: &[(&str, bool)]) -> Option<String> {
    fields.iter().find(|(_, differs)| *differs).map(|(name, _)| (*name).to_owned())
}

/// The first key, in order, that only one map has or that has two values.
fn differing_key<'a, V: PartialEq>(
    a: &'a HashMap<String, V>,
    b: &'a HashMap<String, V>,
) -> Option<&'a String> {
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    keys.into_iter().find(|key| a.get(*key) != b.get(*key))
}

fn shown(key: &str) -> String {
    key.chars().take(KEY_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let message = |title: &str| wire::Message { title: title.to_owned(), body: "b".into() };
        let case = |title: &str| wire::Case {
            messages: [("de".to_owned(), message("t")), ("en".to_owned(), message(title))].into(),
            ..Default::default()
        };
        let circle = |radius_meters| wire::Region {
            shape: Some(wire::region::Shape::Circle(wire::Circle { center: None, radius_meters })),
            ..Default::default()
        };
        let base = || wire::Alert {
            case: Some(case("t")),
            region: Some(circle(1.0)),
            labels: [("a".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        };
        let options = wire::PushOptions { fcm: Some(wire::FcmOptions::default()), apns: None };
        for (other, path) in [
            (base(), "alert"),
            (
                wire::Alert { case: Some(case("x")), mode: 1, ..base() },
                "alert.case.messages[en].title",
            ),
            (wire::Alert { case: None, ..base() }, "alert.case"),
            (wire::Alert { severity: 2, ..base() }, "alert.severity"),
            (
                wire::Alert { region: Some(circle(2.0)), ..base() },
                "alert.region.circle.radius_meters",
            ),
            (wire::Alert { mode: 2, ..base() }, "alert.mode"),
            (wire::Alert { external_id: "x".into(), ..base() }, "alert.external_id"),
            (wire::Alert { labels: HashMap::new(), ..base() }, "alert.labels[a]"),
            (wire::Alert { options: Some(options), ..base() }, "alert.options"),
        ] {
            assert_eq!(first(&base(), &other), path);
        }
    }
}
