//! Requests to APNs and the parser for bodies of its answers (Apple, "Sending notification requests
//! to APNs" and "Handling notification responses from APNs"). Pure.
//!
//! A request is `:method POST`, `:scheme https`, `:authority`, `:path /3/device/<token in
//! hexadecimal>`, then the fields below in this order. `content-type` and `content-length` are not
//! asked for, and `apns-id` is not sent: the answer comes on the request's own stream, so nothing
//! needs to be recognised by it.

use std::borrow::Cow;

use serde::Deserialize;

use super::field::{Field, Indexing};
use crate::{
    lane::provider::request::ApnsHeaders,
    outcome::{Answer, Reason, apns},
};

/// `:path` up to the token (A-send).
pub const PATH: &str = "/3/device/";

/// Longest answer body that is read: the longest documented one has some 70 bytes.
pub const BODY_BYTES_MAX: usize = 1_024;

/// The fields after the pseudo-fields. Apple's advice on the table (A-send, A-arch), but that
/// `authorization` may enter it by setting.
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
        // First, so that it finds room in a small table: it is by far the longest.
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
    // 200 has no body (Apple, "Handling notification responses from APNs"); whatever a proxy may
    // add to one says nothing.
    let (reason, timestamp_ms) = if status == 200 { (Reason::None, None) } else { read_body(body) };
    Answer { status, reason, timestamp_ms, retry_after: None }
}

/// Parses `{"reason":"…","timestamp":…}` in any order, with other fields; anything else gives no
/// reason. The debug data of GOAWAY may contain the same object.
pub(crate) fn read_body(body: &[u8]) -> (Reason, Option<u64>) {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow, default)]
        reason: Option<Cow<'a, str>>,
        // Only 410 has it, in milliseconds; of another type it must not take the reason with it.
        #[serde(default)]
        timestamp: Option<serde_json::Value>,
    }
    // serde would also take a list for such a structure, its fields by their places.
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
