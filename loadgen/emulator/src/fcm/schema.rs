//! The schema of the body of `messages:send`, and the check that a body contains nothing outside
//! it.
//!
//! The schema follows the reference of `projects.messages`
//! (<https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages>). Google reads JSON
//! as protobuf does: names in snake or camel case, `null` as absent. An unknown name or another
//! type is refused with its path.

use super::{super::answer::Violation, json::Node};

/// A type of the schema.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A JSON string.
    Text,
    /// The literal `true` or `false`.
    Bool,
    /// A number, or a string that contains one, as protobuf allows.
    Number,
    /// A string of this list in any case, or a number.
    Word(&'static str, &'static [&'static str]),
    /// A string with a number of seconds, such as `"3.5s"`.
    Duration,
    /// An object whose values are strings.
    Map,
    /// An object with values of any kind.
    Struct,
    /// An array of values of this kind.
    List(&'static Kind),
    /// An object of these fields.
    Object(&'static [(&'static str, Kind)]),
}

use Kind::{Bool, Duration, List, Map, Number, Object, Struct, Text, Word};

const OPTIONS: Kind = Object(&[("analytics_label", Text)]);
const COLOR: Kind =
    Object(&[("red", Number), ("green", Number), ("blue", Number), ("alpha", Number)]);
const PRIORITY: Kind = Word("AndroidMessagePriority", &["NORMAL", "HIGH"]);
const NOTIFICATION_PRIORITY: Kind = Word(
    "NotificationPriority",
    &[
        "PRIORITY_UNSPECIFIED",
        "PRIORITY_MIN",
        "PRIORITY_LOW",
        "PRIORITY_DEFAULT",
        "PRIORITY_HIGH",
        "PRIORITY_MAX",
    ],
);
const VISIBILITY: Kind =
    Word("Visibility", &["VISIBILITY_UNSPECIFIED", "PRIVATE", "PUBLIC", "SECRET"]);
const PROXY: Kind = Word("Proxy", &["PROXY_UNSPECIFIED", "ALLOW", "DENY", "IF_PRIORITY_LOWERED"]);

const ANDROID_NOTIFICATION: Kind = Object(&[
    ("title", Text),
    ("body", Text),
    ("icon", Text),
    ("color", Text),
    ("sound", Text),
    ("tag", Text),
    ("click_action", Text),
    ("body_loc_key", Text),
    ("body_loc_args", List(&Text)),
    ("title_loc_key", Text),
    ("title_loc_args", List(&Text)),
    ("channel_id", Text),
    ("ticker", Text),
    ("sticky", Bool),
    ("event_time", Text),
    ("local_only", Bool),
    ("notification_priority", NOTIFICATION_PRIORITY),
    ("default_sound", Bool),
    ("default_vibrate_timings", Bool),
    ("default_light_settings", Bool),
    ("vibrate_timings", List(&Duration)),
    ("visibility", VISIBILITY),
    ("notification_count", Number),
    (
        "light_settings",
        Object(&[
            ("color", COLOR),
            ("light_on_duration", Duration),
            ("light_off_duration", Duration),
        ]),
    ),
    ("image", Text),
    ("bypass_proxy_notification", Bool),
    ("proxy", PROXY),
]);

const ANDROID: Kind = Object(&[
    ("collapse_key", Text),
    ("priority", PRIORITY),
    ("ttl", Duration),
    ("restricted_package_name", Text),
    ("data", Map),
    ("notification", ANDROID_NOTIFICATION),
    ("fcm_options", OPTIONS),
    ("direct_boot_ok", Bool),
    ("bandwidth_constrained_ok", Bool),
    ("restricted_satellite_ok", Bool),
]);

const APNS: Kind = Object(&[
    ("headers", Map),
    ("payload", Struct),
    ("fcm_options", Object(&[("analytics_label", Text), ("image", Text)])),
    ("live_activity_token", Text),
]);

const WEBPUSH: Kind = Object(&[
    ("headers", Map),
    ("data", Map),
    ("notification", Struct),
    ("fcm_options", Object(&[("link", Text), ("analytics_label", Text)])),
]);

const MESSAGE: Kind = Object(&[
    ("name", Text),
    ("data", Map),
    ("notification", Object(&[("title", Text), ("body", Text), ("image", Text)])),
    ("android", ANDROID),
    ("webpush", WEBPUSH),
    ("apns", APNS),
    ("fcm_options", OPTIONS),
    ("token", Text),
    ("topic", Text),
    ("condition", Text),
    ("fid", Text),
]);

/// The body of a request.
pub const REQUEST: Kind = Object(&[("validate_only", Bool), ("message", MESSAGE)]);

/// Longest part of the sender's text that an error repeats, characters.
const QUOTE_CHARS_MAX: usize = 64;

/// Checks a value and all values in it against the schema.
///
/// # Errors
/// The first violation of the schema.
pub fn check(node: &Node, kind: Kind, at: &str) -> Result<(), Violation> {
    match (kind, node) {
        (_, Node::Null)
        | (Text, Node::Text(_))
        | (Bool, Node::Bool(_))
        | (Number, Node::Number(_)) => Ok(()),
        (Word(..), Node::Number(_)) | (Struct, Node::Object(_)) => Ok(()),
        (Number, Node::Text(text)) if text.parse::<f64>().is_ok() => Ok(()),
        (Word(_, words), Node::Text(text))
            if words.iter().any(|w| w.eq_ignore_ascii_case(text)) =>
        {
            Ok(())
        }
        (Duration, Node::Text(text)) => match duration(text) {
            Ok(_) => Ok(()),
            Err(why) => Err(invalid(at, "type.googleapis.com/google.protobuf.Duration", why)),
        },
        (Map, Node::Object(fields)) => {
            fields.iter().enumerate().try_for_each(|(i, (_, value))| match value {
                Node::Text(_) => Ok(()),
                other => Err(invalid(&format!("{at}[{i}].value"), "TYPE_STRING", &shown(other))),
            })
        }
        (List(kind), Node::List(nodes)) => nodes
            .iter()
            .enumerate()
            .try_for_each(|(i, node)| check(node, *kind, &format!("{at}[{i}]"))),
        (Object(known), Node::Object(fields)) => fields.iter().try_for_each(|(name, value)| {
            let snake = snake(name);
            let Some((name, kind)) = known.iter().find(|(known, _)| *known == snake) else {
                return Err(unknown(name, at));
            };
            check(
                value,
                *kind,
                &if at.is_empty() { (*name).to_owned() } else { format!("{at}.{name}") },
            )
        }),
        (kind, other) => Err(invalid(at, type_name(kind), &shown(other))),
    }
}

/// Returns the field of an object by its name in snake case. `null` counts as absent.
#[must_use]
pub fn field<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    let Node::Object(fields) = node else { return None };
    fields
        .iter()
        .find(|(n, _)| snake(n) == name)
        .map(|(_, value)| value)
        .filter(|v| **v != Node::Null)
}

/// Returns the text of a field that is a string.
#[must_use]
pub fn text<'a>(node: &'a Node, name: &str) -> Option<&'a str> {
    match field(node, name) {
        Some(Node::Text(text)) => Some(text),
        _ => None,
    }
}

/// Parses seconds and nanoseconds from `"3.5s"`, protobuf's JSON form of a Duration.
///
/// # Errors
/// The description of the fault in Google's text.
pub fn duration(text: &str) -> Result<(u64, u32), &'static str> {
    const FORMAT: &str = "Illegal duration format; duration must end with 's'";
    const DIGITS: &str = "Illegal duration format";
    let number = text.strip_suffix('s').ok_or(FORMAT)?;
    let (seconds, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(seconds) || !digits(fraction) || fraction.len() > 9 {
        return Err(if text.starts_with('-') { "Duration must not be negative" } else { DIGITS });
    }
    let nanos = format!("{fraction:0<9}").parse().map_err(|_| DIGITS)?;
    Ok((seconds.parse().map_err(|_| "Duration out of range")?, nanos))
}

fn unknown(name: &str, at: &str) -> Violation {
    let name: String = name.chars().take(QUOTE_CHARS_MAX).collect();
    let place = if at.is_empty() { String::new() } else { format!(" at '{at}'") };
    let description = format!(
        "Invalid JSON payload received. Unknown name \"{name}\"{place}: Cannot find field."
    );
    Violation { field: at.to_owned(), description }
}

fn invalid(at: &str, kind: &str, what: &str) -> Violation {
    Violation {
        field: at.to_owned(),
        description: format!("Invalid value at '{at}' ({kind}), {what}"),
    }
}

fn type_name(kind: Kind) -> &'static str {
    match kind {
        Text | Duration => "TYPE_STRING",
        Bool => "TYPE_BOOL",
        Number => "TYPE_INT32",
        Word(name, _) => name,
        Map | Struct | Object(_) => "TYPE_MESSAGE",
        List(_) => "TYPE_REPEATED",
    }
}

fn shown(node: &Node) -> String {
    match node {
        Node::Null => "null".to_owned(),
        Node::Bool(value) => value.to_string(),
        Node::Number(value) => value.to_string(),
        Node::Text(text) => {
            format!("\"{}\"", text.chars().take(QUOTE_CHARS_MAX).collect::<String>())
        }
        Node::List(_) => "Starting a list on a scalar field".to_owned(),
        Node::Object(_) => "Starting an object on a scalar field".to_owned(),
    }
}

/// Converts a name from camel case (`fooBar`) to snake case (`foo_bar`).
fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(body: &str) -> Result<(), String> {
        check(&Node::read(body.as_bytes()).expect("JSON"), REQUEST, "").map_err(|v| v.description)
    }

    #[test]
    fn both_spellings_and_nothing_unknown() {
        for good in [
            r#"{"message":{"token":"t","android":{"collapse_key":"k","directBootOk":true,"ttl":"3.5s","priority":"high"}}}"#,
            r#"{"validateOnly":true,"message":{"notification":{"title":"a","image":null}}}"#,
            r#"{"message":{"android":{"notification":{"notification_count":"3","body_loc_args":["a"],"light_settings":{"color":{"red":0.5}}}}}}"#,
            r#"{"message":{"apns":{"payload":{"aps":{"badge":1}},"headers":{"apns-priority":"10"}}}}"#,
        ] {
            assert_eq!(checked(good), Ok(()), "{good}");
        }
        for (bad, error) in [
            (
                r#"{"message":{"tokn":"t"}}"#,
                "Invalid JSON payload received. Unknown name \"tokn\" at 'message': Cannot find \
                 field.",
            ),
            (
                r#"{"to":"t"}"#,
                "Invalid JSON payload received. Unknown name \"to\": Cannot find field.",
            ),
            (
                r#"{"message":{"data":{"a":"b","c":12}}}"#,
                "Invalid value at 'message.data[1].value' (TYPE_STRING), 12",
            ),
            (
                r#"{"message":{"notification":{"title":true}}}"#,
                "Invalid value at 'message.notification.title' (TYPE_STRING), true",
            ),
            (
                r#"{"message":{"android":{"priority":"urgent"}}}"#,
                "Invalid value at 'message.android.priority' (AndroidMessagePriority), \"urgent\"",
            ),
            (
                r#"{"message":{"android":{"ttl":"60"}}}"#,
                "Invalid value at 'message.android.ttl' (type.googleapis.com/google.protobuf.Duration), Illegal duration \
                 format; duration must end with 's'",
            ),
        ] {
            assert_eq!(checked(bad), Err(error.to_owned()));
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("3.5s"), Ok((3, 500_000_000)));
        assert_eq!(duration("0s"), Ok((0, 0)));
        for bad in
            ["", "s", "1", "-1s", "1.s", ".5s", "1.0000000001s", "1e3s", "99999999999999999999s"]
        {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
