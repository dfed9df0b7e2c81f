//! Requests to FCM and the parser for bodies of its answers (Firebase, "Send messages using the
//! HTTP v1 API"; "FCM error codes"). No code here does I/O.
//!
//! A request is `:method POST`, `:scheme https`, `:authority`, `:path
//! /v1/projects/<project>/messages:send`, then the fields below: the same for all devices, so the
//! whole block may be indexed. The token is in the body, inside a JSON string.

use serde_json::Value;

use super::field::{Field, Indexing};
use crate::outcome::{
    Answer, Reason,
    fcm::{self, ErrorCode, Status},
};

/// Longest error body that is read, bytes. One with an `FcmError` and a `BadRequest` has some 600;
/// several violations and their descriptions fit too. A longer body is the page of a front end.
pub const BODY_BYTES_MAX: usize = 4_096;

/// Returns the value of `:path` for a project.
pub(crate) fn path(project: &str) -> String {
    format!("/v1/projects/{project}/messages:send")
}

/// Returns the fields after the pseudo-header fields. `authorization` is the first, so that it
/// finds room in a small table.
pub(crate) fn fields(authorization: &str, indexed: bool) -> Vec<Field<'_>> {
    let indexing = if indexed { Indexing::Value } else { Indexing::Never };
    vec![
        Field { name: "authorization", value: authorization.into(), indexing, secret: true },
        Field {
            name: "content-type",
            value: "application/json".into(),
            indexing: Indexing::Value,
            secret: false,
        },
    ]
}

/// Reports whether a token can be part of a JSON string unchanged: printable ASCII without space,
/// quote and backslash. Tokens of FCM are letters, digits, `-`, `_` and `:`; other characters could
/// end the string and add a field. The loop has no branches, so that the compiler uses vector
/// instructions.
pub(crate) fn is_safe_token(token: &[u8]) -> bool {
    let unsafe_byte = |b: u8| !(0x21..=0x7e).contains(&b) | (b == b'"') | (b == b'\\');
    !token.iter().fold(false, |found, b| found | unsafe_byte(*b))
}

/// Parses an answer from its status and the stored part of its body.
pub(crate) fn answer(status: u16, body: &[u8]) -> Answer {
    // The body of 200 names the created message, which nothing here needs.
    let reason = if status == 200 { None } else { read_error(body) };
    Answer {
        status,
        reason: reason.map_or(Reason::None, Reason::Fcm),
        timestamp_ms: None,
        retry_after: None,
    }
}

/// Parses `{"error":{"status":…,"details":[…]}}` with other fields; anything else is no reason.
fn read_error(body: &[u8]) -> Option<fcm::Reason> {
    if body.len() > BODY_BYTES_MAX || body.first().is_none_or(|b| *b == b'<') {
        return None;
    }
    let body: Value = serde_json::from_slice(body).ok()?;
    // Google's streaming front ends wrap the same object in a list.
    let error = body.get(0).unwrap_or(&body).get("error")?;
    let mut reason = fcm::Reason {
        status: error.get("status").and_then(Value::as_str).map(Status::parse),
        ..Default::default()
    };
    let mut quota_of_device = None;
    for detail in error.get("details").and_then(Value::as_array).into_iter().flatten() {
        let text =
            |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let list = |name: &str| detail.get(name).and_then(Value::as_array).into_iter().flatten();
        match detail.get("@type").and_then(Value::as_str).and_then(|t| t.rsplit('/').next()) {
            Some("google.firebase.fcm.v1.FcmError") => {
                reason.code =
                    text(detail, "errorCode").map(|code| ErrorCode::parse(&code)).or(reason.code);
            }
            // The first field that is not the token, if there is one: then the token is not the
            // cause.
            Some("google.rpc.BadRequest") => {
                let mut fields =
                    list("fieldViolations").filter_map(|violation| text(violation, "field"));
                if let Some(first) = fields.next() {
                    let other = std::iter::once(first.clone())
                        .chain(fields)
                        .find(|field| field != "message.token");
                    reason.name_field(&other.unwrap_or(first));
                }
            }
            // "An extension of type google.rpc.QuotaFailure is returned to specify which quota was
            // exceeded."
            Some("google.rpc.QuotaFailure") => {
                let mentions_device = |violation: &Value, name| {
                    text(violation, name)
                        .is_some_and(|text| text.to_ascii_lowercase().contains("device"))
                };
                let names_device = |v: &Value| {
                    ["subject", "description", "quotaMetric", "quotaId"]
                        .iter()
                        .any(|n| mentions_device(v, n))
                };
                if list("violations").next().is_some() {
                    quota_of_device =
                        Some(quota_of_device == Some(true) || list("violations").any(names_device));
                }
            }
            _ => {}
        }
    }
    // The exceeded quota is named by the detail for that purpose, otherwise by the error's reason,
    // otherwise by its message, a text for people ("Device message rate exceeded").
    reason.device_quota = quota_of_device.unwrap_or_else(|| {
        let says_device = |text: &str| text.to_ascii_lowercase().contains("device");
        let message = error.get("message").and_then(Value::as_str).unwrap_or_default();
        says_device(reason.word()) || says_device(message)
    });
    Some(reason)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(body: &str) -> fcm::Reason {
        read_error(body.as_bytes()).unwrap_or_default()
    }

    #[test]
    fn an_error_as_recorded() {
        let reason = read(
            r#"{"error":{"code":404,"message":"Requested entity was not found.","status":"NOT_FOUND","details":[
                {"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"UNREGISTERED"}]}}"#,
        );
        let meant = fcm::Reason {
            code: Some(ErrorCode::Unregistered),
            status: Some(Status::NotFound),
            ..Default::default()
        };
        assert_eq!(reason, meant);
    }

    #[test]
    fn details_in_any_order_with_strangers_and_inside_a_list() {
        let reason = read(
            r#"[{"error":{"details":[7,{"@type":9},{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[
                {"field":"message.token","description":"x"},{"field":"message.android.ttl"},{}]},{},
                {"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"INVALID_ARGUMENT"}],
                "status":"INVALID_ARGUMENT","more":[]}}]"#,
        );
        assert_eq!(
            (reason.code, reason.field.as_deref()),
            (Some(ErrorCode::InvalidArgument), Some("message.android.ttl"))
        );
        let named = |field: &str| {
            read(&format!(
                r#"{{"error":{{"details":[{{"@type":"x/google.rpc.BadRequest","fieldViolations":[{{"field":"{field}"}}]}}]}}}}"#
            ))
        };
        assert_eq!(named("message.token").field.as_deref(), Some("message.token"));
        assert!(
            named("\\u001b[2Jboo").field.is_some_and(|f| f.bytes().all(|b| b.is_ascii_graphic()))
        );
    }

    #[test]
    fn whose_quota_it_was() {
        let quota = |violation: &str| {
            read(&format!(
                r#"{{"error":{{"status":"RESOURCE_EXHAUSTED","details":[
                    {{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{violation}]}}]}}}}"#
            ))
            .device_quota
        };
        assert!(quota(r#"{"subject":"device:abc"}"#));
        assert!(quota(r#"{"subject":"x"},{"description":"Device message rate exceeded"}"#));
        assert!(!quota(r#"{"subject":"project:demo","description":"Message rate exceeded"}"#));
        assert!(!quota(""));
    }

    #[test]
    fn what_is_not_an_error_says_nothing() {
        for body in [
            "",
            "<html>502</html>",
            "{}",
            "[]",
            r#"{"error":"invalid_grant"}"#,
            r#"{"error":{"status":"NOT_F"#,
        ] {
            assert_eq!(read(body), fcm::Reason::default(), "{body}");
        }
        assert_eq!(answer(502, b"<html>").reason, Reason::None);
        assert_eq!(answer(200, br#"{"error":{"status":"INTERNAL"}}"#).reason, Reason::None);
        assert!(read_error("[".repeat(BODY_BYTES_MAX).as_bytes()).is_none());
    }

    #[test]
    fn tokens_that_could_leave_their_string_are_not_safe() {
        assert!(is_safe_token(b"cXyz-_09AZ:APA91bF"));
        for bad in ["\"", "\\", " ", "\n", "\u{7f}", "\u{e9}", "\0"] {
            assert!(!is_safe_token(format!("abc{bad}def").as_bytes()), "{bad:?}");
        }
    }

    proptest! {
        /// Checks that a safe token is the same inside a JSON string as outside.
        #[test]
        fn safe_tokens_are_their_own_json(token in proptest::collection::vec(any::<u8>(), 1..40)) {
            let own = std::str::from_utf8(&token).ok().and_then(|t| serde_json::to_string(t).ok());
            if is_safe_token(&token) {
                let text = String::from_utf8(token).unwrap();
                prop_assert_eq!(own, Some(format!("\"{text}\"")));
            } else {
                let plain = token.iter().all(|b| b.is_ascii_graphic() && !b"\"\\".contains(b));
                prop_assert!(!plain);
            }
        }

        #[test]
        fn arbitrary_bodies_are_harmless(status in 100u16..1000, body in proptest::collection::vec(any::<u8>(), 0..5_000)) {
            prop_assert_eq!(answer(status, &body).status, status);
        }
    }
}
