//! Requests to APNs and the parser for bodies of its answers (Apple, "Sending notification requests
//! to APNs" and "Handling notification responses from APNs"). No code here does I/O.
//!
//! A request is `:method POST`, `:scheme https`, `:authority`, `:path /3/device/<token in
//! hexadecimal>`, then the fields below in this order. APNs does not require `content-type` and
//! `content-length`. `apns-id` is not sent, because the answer comes on the stream of the request
//! and needs no id.

use std::borrow::Cow;

use serde::Deserialize;

use super::field::{Field, Indexing};
use crate::{
    lane::provider::request::ApnsHeaders,
    outcome::{Answer, Reason, apns},
};

/// `:path` up to the token (A-send).
pub const PATH: &str = "/3/device/";

/// Longest answer body that is read, bytes. The longest documented one has some 70.
pub const BODY_BYTES_MAX: usize = 1_024;

/// Returns the fields after the pseudo-header fields. Indexing follows Apple's advice (A-send,
/// A-arch), except that `authorization` may enter the table by configuration.
pub(crate) fn fields<'a>(
    headers: &'a ApnsHeaders,
    authorization: &'a str,
    indexed: bool,
) -> Vec<Field<'a>> {
    let field = |name, value: Cow<'a, str>, indexing| Field {
        name,
        value,
        indexing,
        secret: name == "authorization",
    };
    let mut fields = vec![
        // First, so that it finds room in a small table: it is by far the longest field.
        field(
            "authorization",
            authorization.into(),
            if indexed { Indexing::Value } else { Indexing::Never },
        ),
        field("apns-topic", headers.topic.as_str().into(), Indexing::Value),
        field("apns-push-type", headers.push_type.as_str().into(), Indexing::Value),
        field("apns-priority", headers.priority.to_string().into(), Indexing::Value),
        field("apns-expiration", headers.expiration.to_string().into(), Indexing::Name),
    ];
    if !headers.collapse_id.is_empty() {
        fields.push(field("apns-collapse-id", headers.collapse_id.as_str().into(), Indexing::Name));
    }
    fields
}

/// Parses an answer from its status and the stored part of its body.
pub(crate) fn answer(status: u16, body: &[u8]) -> Answer {
    // 200 has no body (Apple, "Handling notification responses from APNs"); a body that a proxy
    // adds has no meaning.
    let (reason, timestamp_ms) = if status == 200 { (Reason::None, None) } else { read_body(body) };
    Answer { status, reason, timestamp_ms, retry_after: None }
}

/// Parses `{"reason":"…","timestamp":…}` in any order and with other fields; anything else is no
/// reason. The debug data of GOAWAY may contain the same object.
pub(crate) fn read_body(body: &[u8]) -> (Reason, Option<u64>) {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow, default)]
        reason: Option<Cow<'a, str>>,
        // Only 410 has a timestamp, in milliseconds. One of another type must not hide the reason.
        #[serde(default)]
        timestamp: Option<serde_json::Value>,
    }
    // serde would also read a list into this struct, with the fields by position.
    if body.len() > BODY_BYTES_MAX || body.trim_ascii_start().first() != Some(&b'{') {
        return (Reason::None, None);
    }
    match serde_json::from_slice::<Body<'_>>(body) {
        Ok(body) => (
            body.reason.map_or(Reason::None, |r| apns::Reason::parse(&r).into()),
            body.timestamp.as_ref().and_then(serde_json::Value::as_u64),
        ),
        Err(_) => (Reason::None, None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unregistered(timestamp_ms: Option<u64>) -> Answer {
        Answer {
            status: 410,
            reason: apns::Reason::Unregistered.into(),
            timestamp_ms,
            retry_after: None,
        }
    }

    #[test]
    fn bodies_in_any_order_and_with_strangers_are_read() {
        for body in [
            r#"{"reason":"Unregistered","timestamp":1454948015990}"#,
            r#" { "timestamp" : 1454948015990, "more": [{}], "reason" : "Unregis\u0074ered" } "#,
        ] {
            assert_eq!(answer(410, body.as_bytes()), unregistered(Some(1_454_948_015_990)));
        }
    }

    #[test]
    fn what_is_not_a_reason_says_nothing() {
        for body in [
            "",
            "<html>502</html>",
            "{}",
            "[]",
            r#"{"reason":7}"#,
            r#"{"reason":null}"#,
            r#"{"reason":"Unreg"#,
            r#"["Unregistered"]"#,
        ] {
            let meant =
                Answer { status: 502, reason: Reason::None, timestamp_ms: None, retry_after: None };
            assert_eq!(answer(502, body.as_bytes()), meant);
        }
        let nested = "[".repeat(BODY_BYTES_MAX);
        assert_eq!(answer(400, nested.as_bytes()).reason, Reason::None);
    }

    #[test]
    fn a_timestamp_of_another_type_leaves_the_reason() {
        for body in [
            r#"{"reason":"Unregistered","timestamp":"now"}"#,
            r#"{"timestamp":-1,"reason":"Unregistered"}"#,
        ] {
            assert_eq!(answer(410, body.as_bytes()), unregistered(None));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_are_harmless(status in 100u16..1000, body in proptest::collection::vec(any::<u8>(), 0..1_100)) {
            let read = answer(status, &body);
            prop_assert_eq!(read.status, status);
        }
    }
}
