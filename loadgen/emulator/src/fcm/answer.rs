//! Responses in the format of FCM: HEADERS, and one DATA frame with JSON in Google's indentation or
//! with an HTML page.
//!
//! Sources of the formats: the table of error codes
//! (<https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode>), bodies recorded by others
//! (<https://bloomberg.github.io/pushiko/fcm_responses>; the quota's in
//! firebase/firebase-admin-go#719, which has no `FcmError` at all: a client that looks only for
//! `FcmError` never learns that the quota is used up).

use std::io::Write as _;

use clarion_proto::ids::UnixMillis;
use serde_json::Value;

use super::{
    super::{
        answer::{Answer, Reason, RetryAfter, begin_headers, end_headers, put_status},
        hpack::{Encoder, put_literal},
    },
    Policy,
};

/// Message that an answer refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// Index of the project; `None` if the path names no known project.
    pub project: Option<usize>,
    /// Whether the request only validates the message.
    pub dry_run: bool,
    /// Random part of the message id.
    pub id: u64,
}

/// A decided answer with all data that its body contains.
#[derive(Debug)]
pub struct Reply<'a> {
    /// Status, reason and details of the answer.
    pub answer: &'a Answer,
    /// Message that the answer refers to.
    pub subject: Subject,
    /// Policy of the gateway that answers.
    pub policy: &'a Policy,
    /// Wall-clock time of the answer.
    pub wall: UnixMillis,
}

/// Appends the HEADERS frame of an answer to `out`, and the payload of its DATA frame to `body`.
pub fn put(
    out: &mut Vec<u8>,
    encoder: &mut Encoder,
    stream: u32,
    reply: &Reply<'_>,
    body: &mut Vec<u8>,
) {
    let &Reply { answer, subject, policy, wall } = reply;
    let start = begin_headers(out, stream, false);
    encoder.begin(out);
    put_status(out, answer.status);
    // content-type is entry 31 of the static table: the prefix holds 15, the next octet 16. The
    // length of the value follows.
    out.extend_from_slice(b"\x0f\x10");
    if is_page(answer.reason) {
        out.extend_from_slice(b"\x18text/html; charset=UTF-8");
    } else {
        out.extend_from_slice(b"\x1fapplication/json; charset=UTF-8");
    }
    if answer.reason == Reason::FcmUnauthenticated {
        put_literal(out, b"www-authenticate", b"Bearer realm=\"https://accounts.google.com/\"");
    }
    if let Some(retry_after) = answer.retry_after {
        put_literal(out, b"retry-after", retry_after_text(retry_after, wall).as_bytes());
    }
    end_headers(out, start);
    if answer.reason == Reason::None {
        put_name(body, subject, policy, wall);
    } else {
        put_error(body, answer, subject.project.map_or("", |p| &policy.projects[p].id));
    }
}

fn is_page(reason: Reason) -> bool {
    matches!(reason, Reason::FcmBadGateway | Reason::FcmUnauthorizedPage | Reason::FcmPathNotFound)
}

/// Appends the name of a message: `0:`, microseconds, `%`, sixteen digits, as observed of FCM.
fn put_name(body: &mut Vec<u8>, subject: Subject, policy: &Policy, wall: UnixMillis) {
    body.extend_from_slice(b"{\n  \"name\": \"projects/");
    body.extend_from_slice(subject.project.map_or("", |p| &policy.projects[p].id).as_bytes());
    if subject.dry_run {
        body.extend_from_slice(b"/messages/fake_message_id");
    } else {
        // Written without `write!`, which would cost as much as the rest of the answer.
        body.extend_from_slice(b"/messages/0:");
        put_decimal(body, wall.0 * 1_000 + subject.id % 1_000);
        body.push(b'%');
        let digits = |shift: u32| b"0123456789abcdef"[(subject.id >> shift & 15) as usize];
        body.extend((0..64).step_by(4).rev().map(digits));
    }
    body.extend_from_slice(b"\"\n}\n");
}

/// Appends a number in decimal digits.
fn put_decimal(body: &mut Vec<u8>, mut number: u64) {
    // 20 digits are enough for every u64.
    let mut digits = [b'0'; 20];
    let mut start = digits.len() - 1;
    while number > 9 {
        digits[start] = b'0' + u8::try_from(number % 10).expect("a digit");
        number /= 10;
        start -= 1;
    }
    digits[start] = b'0' + u8::try_from(number).expect("a digit");
    body.extend_from_slice(&digits[start..]);
}

fn put_error(body: &mut Vec<u8>, answer: &Answer, project: &str) {
    let (status, message) = words(answer.reason);
    if is_page(answer.reason) {
        return put_page(body, answer.status, message);
    }
    let violation = answer.violation.as_deref();
    let message = match (answer.reason, violation) {
        (Reason::FcmPermissionDenied, _) => format!(
            "Permission 'cloudmessaging.messages.create' denied on resource \
             '//cloudresourcemanager.googleapis.com/projects/{project}' (or it may not exist)."
        ),
        (Reason::FcmRateLimitExceeded, _) => format!(
            "Quota exceeded for quota metric 'Send requests' and limit 'Send requests per minute' of service \
             'fcm.googleapis.com' for consumer '{}'.",
            consumer(project)
        ),
        (_, Some(violation)) if answer.reason != Reason::FcmInvalidArgument => {
            violation.description.clone()
        }
        _ => message.to_owned(),
    };
    let details = details(answer, project);
    let quoted = |text: &str| Value::from(text).to_string();
    let written = write!(
        body,
        "{{\n  \"error\": {{\n    \"code\": {},\n    \"message\": {},\n    \"status\": \
         \"{status}\"{}\n  }}\n}}\n",
        answer.status,
        quoted(&message),
        if details.is_empty() {
            String::new()
        } else {
            format!(",\n    \"details\": [\n{}\n    ]", details.join(",\n"))
        }
    );
    written.expect("writing to memory");
}

/// Returns `status` and `message` of an error.
fn words(reason: Reason) -> (&'static str, &'static str) {
    match reason {
        Reason::FcmUnregistered | Reason::FcmProjectNotFound => {
            ("NOT_FOUND", "Requested entity was not found.")
        }
        Reason::FcmInvalidToken => {
            ("INVALID_ARGUMENT", "The registration token is not a valid FCM registration token")
        }
        Reason::FcmMissingRecipient => ("INVALID_ARGUMENT", "Recipient of the message is not set."),
        Reason::FcmInvalidJson => ("INVALID_ARGUMENT", "Invalid JSON payload received."),
        Reason::FcmInvalidArgument | Reason::FcmPayloadTooLarge => {
            ("INVALID_ARGUMENT", "Request contains an invalid argument.")
        }
        Reason::FcmSenderIdMismatch => ("PERMISSION_DENIED", "SenderId mismatch"),
        Reason::FcmPermissionDenied => ("PERMISSION_DENIED", "The caller does not have permission"),
        Reason::FcmQuotaExceeded => {
            ("RESOURCE_EXHAUSTED", "Sending limit exceeded for the message target.")
        }
        Reason::FcmDeviceRateExceeded => {
            ("RESOURCE_EXHAUSTED", "Device message rate exceeded. Please retry later.")
        }
        Reason::FcmRateLimitExceeded => ("RESOURCE_EXHAUSTED", "Quota exceeded."),
        Reason::FcmUnavailable => ("UNAVAILABLE", "The service is currently unavailable."),
        Reason::FcmInternal => ("INTERNAL", "Internal error encountered."),
        Reason::FcmThirdPartyAuthError => {
            ("UNAUTHENTICATED", "Auth error from APNS or Web Push Service")
        }
        Reason::FcmUnauthenticated => {
            ("UNAUTHENTICATED", "Request had invalid authentication credentials.")
        }
        Reason::FcmUnspecified => ("UNKNOWN", "An unknown error occurred."),
        Reason::FcmBadGateway => (
            "",
            "The server encountered a temporary error and could not complete your \
             request.<p>Please try again in 30 seconds.",
        ),
        Reason::FcmUnauthorizedPage => {
            ("", "Your client does not have permission to the requested URL.")
        }
        Reason::FcmPathNotFound => ("", "The requested URL was not found on this server."),
        // APNs's reasons, which a checked configuration does not allow here.
        other => ("UNKNOWN", other.as_str()),
    }
}

/// Returns the elements of `details`, each indented by six spaces.
fn details(answer: &Answer, project: &str) -> Vec<String> {
    let violation = answer.violation.as_deref();
    let bad_request = violation.map(|v| {
        let mut fields = Vec::new();
        if !v.field.is_empty() {
            fields.push(("field", &*v.field));
        }
        fields.push(("description", &*v.description));
        listed("google.rpc.BadRequest", "fieldViolations", &fields)
    });
    match answer.reason {
        Reason::FcmInvalidJson => bad_request.into_iter().collect(),
        Reason::FcmMissingRecipient => {
            bad_request.into_iter().chain([fcm_error("INVALID_ARGUMENT")]).collect()
        }
        Reason::FcmInvalidArgument => {
            [fcm_error("INVALID_ARGUMENT")].into_iter().chain(bad_request).collect()
        }
        Reason::FcmInvalidToken => vec![fcm_error("INVALID_ARGUMENT")],
        Reason::FcmQuotaExceeded => {
            let fields = [("subject", "device"), ("description", "Device message rate exceeded.")];
            vec![
                fcm_error("QUOTA_EXCEEDED"),
                listed("google.rpc.QuotaFailure", "violations", &fields),
            ]
        }
        Reason::FcmDeviceRateExceeded => vec![fcm_error("QUOTA_EXCEEDED")],
        Reason::FcmUnregistered
        | Reason::FcmSenderIdMismatch
        | Reason::FcmUnavailable
        | Reason::FcmInternal
        | Reason::FcmThirdPartyAuthError
        | Reason::FcmUnspecified => vec![fcm_error(answer.reason.as_str())],
        Reason::FcmUnauthenticated => {
            let reason = violation.map_or("ACCESS_TOKEN_TYPE_UNSUPPORTED", |v| &v.field);
            let metadata = [
                ("service", "fcm.googleapis.com"),
                ("method", "google.firebase.fcm.v1.FcmService.SendMessage"),
            ];
            vec![error_info(reason, "googleapis.com", &metadata)]
        }
        Reason::FcmPermissionDenied => {
            let resource = format!("projects/{project}");
            let metadata =
                [("permission", "cloudmessaging.messages.create"), ("resource", &resource)];
            vec![error_info(
                "IAM_PERMISSION_DENIED",
                "cloudresourcemanager.googleapis.com",
                &metadata,
            )]
        }
        Reason::FcmRateLimitExceeded => {
            let (limit, consumer) = (violation.map_or("", |v| &v.field), consumer(project));
            let metadata = [
                ("quota_limit_value", limit),
                ("consumer", &consumer),
                ("quota_metric", "fcm.googleapis.com/send_requests"),
                ("quota_unit", "1/min/{project}"),
                ("service", "fcm.googleapis.com"),
                ("quota_location", "global"),
                ("quota_limit", "SendsPerMinutePerProject"),
            ];
            let help = [
                ("description", "Request a higher quota limit."),
                ("url", "https://cloud.google.com/docs/quotas/help/request_increase"),
            ];
            vec![
                error_info("RATE_LIMIT_EXCEEDED", "googleapis.com", &metadata),
                listed("google.rpc.Help", "links", &help),
            ]
        }
        _ => Vec::new(),
    }
}

fn consumer(project: &str) -> String {
    format!("projects/{project}")
}

fn fcm_error(code: &str) -> String {
    format!(
        "      {{\n        \"@type\": \"type.googleapis.com/google.firebase.fcm.v1.FcmError\",\n        \"errorCode\": \
         \"{code}\"\n      }}"
    )
}

/// Returns a detail whose value is a list of one object.
fn listed(kind: &str, list: &str, fields: &[(&str, &str)]) -> String {
    format!(
        "      {{\n        \"@type\": \"type.googleapis.com/{kind}\",\n        \"{list}\": [\n          \
         {{\n{}\n          }}\n        ]\n      }}",
        members(fields, 12)
    )
}

fn error_info(reason: &str, domain: &str, metadata: &[(&str, &str)]) -> String {
    format!(
        "      {{\n        \"@type\": \"type.googleapis.com/google.rpc.ErrorInfo\",\n        \"reason\": \
         \"{reason}\",\n        \"domain\": \"{domain}\",\n        \"metadata\": {{\n{}\n        }}\n      }}",
        members(metadata, 10)
    )
}

fn members(fields: &[(&str, &str)], indent: usize) -> String {
    let member =
        |(name, value): &(&str, &str)| format!("{:indent$}\"{name}\": {}", "", Value::from(*value));
    fields.iter().map(member).collect::<Vec<_>>().join(",\n")
}

/// Writes an error page like those of Google's front ends, as far as clients need it to recognize
/// the page.
fn put_page(body: &mut Vec<u8>, status: u16, message: &str) {
    let name = match status {
        401 => "Unauthorized",
        404 => "Not Found",
        _ => "Server Error",
    };
    let written = write!(
        body,
        "<!DOCTYPE html>\n<html lang=en>\n  <meta charset=utf-8>\n  <meta name=viewport \
         content=\"initial-scale=1, minimum-scale=1, width=device-width\">\n  <title>Error {status} \
         ({name})!!1</title>\n  <a href=//www.google.com/><span id=logo aria-label=Google></span></a>\n  \
         <p><b>{status}.</b> <ins>That\u{2019}s an error.</ins>\n  <p>{message}  <ins>That\u{2019}s all we know.</ins>\n"
    );
    written.expect("writing to memory");
}

/// Returns the value of `Retry-After`: seconds, or a date in the only form that RFC 9110, section
/// 5.6.7 allows senders.
fn retry_after_text(retry_after: RetryAfter, wall: UnixMillis) -> String {
    if !retry_after.date {
        return retry_after.seconds.to_string();
    }
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = wall.0.div_ceil(1_000) + u64::from(retry_after.seconds);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil date from days since 1970 (Hinnant, "chrono-compatible low-level date algorithms"), in
    // eras of 400 years that begin in March.
    let since_era = days + 719_468;
    let (era, day) = (since_era / 146_097, since_era % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, year) =
        if month < 10 { (month + 2, 400 * era + year) } else { (month - 10, 400 * era + year + 1) };
    let of = |list: &[&'static str], at: u64| {
        usize::try_from(at).ok().and_then(|at| list.get(at).copied()).unwrap_or("")
    };
    format!(
        "{}, {date:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        of(&DAYS, days % 7),
        of(&MONTHS, month),
        rest / 3_600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_library_writes_them() {
        for number in [0, 9, 10, 1_800_000_000_000_123, u64::MAX] {
            let mut body = Vec::new();
            put_decimal(&mut body, number);
            assert_eq!(body, number.to_string().into_bytes());
        }
    }

    #[test]
    fn dates_of_retry_after() {
        let at = |wall| retry_after_text(RetryAfter { seconds: 30, date: true }, UnixMillis(wall));
        assert_eq!(
            at(784_111_777_000 - 30_000),
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "the example of RFC 9110"
        );
        assert_eq!(at(951_782_400_000 - 30_000), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(at(1_798_761_599_500 - 30_000), "Fri, 01 Jan 2027 00:00:00 GMT", "rounded up");
        assert_eq!(retry_after_text(RetryAfter { seconds: 30, date: false }, UnixMillis(0)), "30");
    }
}
