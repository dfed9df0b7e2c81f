use proptest::prelude::*;

use super::*;
use crate::{
    lane::provider::answer,
    outcome::{self, Platform, UNKNOWN_CHARS_MAX},
};

const LANE_LATER: Verdict = Verdict::LaneLater { wait: None };
const UNSIGNED: Verdict = Verdict::Unsigned { wait: None };
const SECONDS_7: Option<Duration> = Some(Duration::from_secs(7));

fn judge(status: u16, body: &str, retry_after: Option<Duration>) -> Verdict {
    outcome::classify(
        Platform::Fcm,
        &answer::read(Platform::Fcm, status, body.as_bytes(), retry_after),
    )
}

/// Returns an error with a canonical status and, unless empty, an FcmError.
fn error(status: &str, code: &str) -> String {
    let detail = match code {
        "" => String::new(),
        code => format!(
            r#"{{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"{code}"}}"#
        ),
    };
    format!(r#"{{"error":{{"code":400,"message":"m","status":"{status}","details":[{detail}]}}}}"#)
}

#[test]
fn the_table_of_the_reference() {
    for (http, status, code, verdict) in [
        (400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", Verdict::Message { token: true }),
        (400, "INVALID_ARGUMENT", "", Verdict::Message { token: true }),
        (401, "UNAUTHENTICATED", "", Verdict::Credential),
        (401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR", Verdict::Refused),
        (401, "UNAUTHENTICATED", "APNS_AUTH_ERROR", Verdict::Refused),
        (403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH", Verdict::Refused),
        (403, "PERMISSION_DENIED", "", Verdict::Credential),
        (404, "NOT_FOUND", "UNREGISTERED", Verdict::Dead { sure: true }),
        (404, "NOT_FOUND", "", Verdict::Project),
        (
            429,
            "RESOURCE_EXHAUSTED",
            "QUOTA_EXCEEDED",
            Verdict::LaneLater { wait: Some(QUOTA_PAUSE) },
        ),
        (429, "RESOURCE_EXHAUSTED", "", Verdict::LaneLater { wait: Some(QUOTA_PAUSE) }),
        (500, "INTERNAL", "INTERNAL", LANE_LATER),
        (500, "INTERNAL", "", LANE_LATER),
        (503, "UNAVAILABLE", "UNAVAILABLE", LANE_LATER),
        (503, "UNAVAILABLE", "", LANE_LATER),
    ] {
        assert_eq!(judge(http, &error(status, code), None), verdict, "{http} {status} {code}");
    }
}

#[test]
fn an_answer_without_a_word_of_its_status_says_nothing() {
    for http in [201, 302, 400, 401, 403, 404, 407, 408, 413, 418, 429, 500, 502, 503, 999] {
        for body in
            ["", "<html><title>Error</title> try again in 30 seconds", "{}", r#"{"error":"x"}"#]
        {
            assert_eq!(judge(http, body, None), UNSIGNED, "{http} {body}");
        }
    }
    assert_eq!(judge(200, r#"{"name":"projects/p/messages/1"}"#, None), Verdict::Accepted);
    assert_eq!(judge(200, &error("INTERNAL", "INTERNAL"), None), Verdict::Accepted);
}

#[test]
fn the_more_exact_place_counts_and_only_with_a_status_of_its_own() {
    // The code above the status.
    assert_eq!(
        judge(400, &error("INVALID_ARGUMENT", "UNREGISTERED"), None),
        Verdict::Dead { sure: true }
    );
    // But whoever fails is no witness: a page found somewhere must not get a token pruned.
    assert_eq!(judge(502, &error("NOT_FOUND", "UNREGISTERED"), None), UNSIGNED);
    assert_eq!(judge(500, &error("RESOURCE_EXHAUSTED", ""), None), UNSIGNED);
    assert_eq!(judge(404, &error("UNAUTHENTICATED", ""), None), UNSIGNED);
    // A code that is not known, or says nothing, leaves it to the status.
    assert_eq!(judge(404, &error("NOT_FOUND", "SOMETHING_NEW"), None), Verdict::Project);
    assert_eq!(judge(503, &error("NOT_FOUND", "SOMETHING_NEW"), None), UNSIGNED);
    assert_eq!(judge(503, &error("SOMETHING_NEW", "SOMETHING_NEW"), None), UNSIGNED);
    assert_eq!(judge(503, &error("UNAVAILABLE", "UNSPECIFIED_ERROR"), None), LANE_LATER);
    assert_eq!(
        judge(403, &error("PERMISSION_DENIED", "UNSPECIFIED_ERROR"), None),
        Verdict::Credential
    );
    // New words concern one device, and never a credential.
    assert_eq!(judge(400, &error("FAILED_PRECONDITION", ""), None), Verdict::Unfamiliar);
    assert_eq!(judge(403, &error("SOMETHING_NEW", "SOMETHING_NEW"), None), UNSIGNED);
}

#[test]
fn what_the_gateway_asks_for_in_time_goes_before_what_is_advised() {
    let quota = error("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED");
    assert_eq!(judge(429, &quota, SECONDS_7), Verdict::LaneLater { wait: SECONDS_7 });
    assert_eq!(
        judge(503, &error("UNAVAILABLE", ""), SECONDS_7),
        Verdict::LaneLater { wait: SECONDS_7 }
    );
    assert_eq!(judge(502, "<", SECONDS_7), Verdict::Unsigned { wait: SECONDS_7 });
    // Nothing at all is no answer to how long.
    assert_eq!(
        judge(429, &quota, Some(Duration::ZERO)),
        Verdict::LaneLater { wait: Some(QUOTA_PAUSE) }
    );
}

#[test]
fn the_quota_of_a_device_is_its_own() {
    let body = |message: &str, violation: &str| {
        format!(
            r#"{{"error":{{"code":429,"message":"{message}","status":"RESOURCE_EXHAUSTED","details":[
        {{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"QUOTA_EXCEEDED"}},
        {{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{violation}]}}]}}}}"#
        )
    };
    let of_device = Verdict::DeviceLater { wait: Some(QUOTA_PAUSE) };
    let of_lane = Verdict::LaneLater { wait: Some(QUOTA_PAUSE) };
    let (device, project) = (r#"{"subject":"device:x"}"#, r#"{"subject":"project:x"}"#);
    for (message, violation, verdict) in [
        ("m", device, of_device),
        ("Quota exceeded for the project", device, of_device),
        // The detail goes before the words, and those are asked where there is no detail.
        ("Device message rate exceeded", project, of_lane),
        ("Device message rate exceeded", "", of_device),
        ("DeviceMessageRateExceeded", "", of_device),
        (
            "Quota exceeded for quota metric 'Send requests' and limit 'Send requests per minute'",
            "",
            of_lane,
        ),
        ("m", "", of_lane),
    ] {
        assert_eq!(judge(429, &body(message, violation), None), verdict, "{message} {violation}");
    }
    assert_eq!(judge(429, &body("m", device), SECONDS_7), Verdict::DeviceLater { wait: SECONDS_7 });
    let word = error("RESOURCE_EXHAUSTED", "DEVICE_MESSAGE_RATE_EXCEEDED");
    assert_eq!(judge(429, &word, None), of_device);
}

#[test]
fn a_field_that_is_not_the_token_acquits_it() {
    for (field, token) in
        [("message.token", true), ("message.android.ttl", false), ("message.data", false)]
    {
        let body = format!(
            r#"{{"error":{{"status":"INVALID_ARGUMENT","details":[{{"@type":"type.googleapis.com/google.rpc.BadRequest",
                "fieldViolations":[{{"field":"{field}","description":"x"}}]}}]}}}}"#
        );
        assert_eq!(judge(400, &body, None), Verdict::Message { token }, "{field}");
    }
}

#[test]
fn every_documented_word_reads_back() {
    assert_eq!((ErrorCode::DOCUMENTED.len(), Status::DOCUMENTED.len()), (8, 7));
    ErrorCode::DOCUMENTED
        .iter()
        .for_each(|code| assert_eq!(ErrorCode::parse(code.as_str()), *code));
    Status::DOCUMENTED
        .iter()
        .for_each(|status| assert_eq!(Status::parse(status.as_str()), *status));
}

#[test]
fn people_are_told_the_words_and_the_field() {
    let reason = Reason {
        code: Some(ErrorCode::InvalidArgument),
        field: Some("message.data".into()),
        ..Reason::default()
    };
    assert_eq!(reason.to_string(), "INVALID_ARGUMENT (message.data)");
    assert_eq!(
        Reason { status: Some(Status::NotFound), ..Reason::default() }.to_string(),
        "NOT_FOUND"
    );
}

proptest! {
    #[test]
    fn unknown_words_are_bounded_and_printable(word in "\\PC{0,100}|[\\x00-\\x20]{1,80}") {
        if let ErrorCode::Unknown(kept) = ErrorCode::parse(&word) {
            prop_assert!(kept.len() <= UNKNOWN_CHARS_MAX);
            prop_assert!(kept.bytes().all(|b| b.is_ascii_graphic()));
        }
    }

    /// Only 200 is a success, and only UNREGISTERED calls a token dead, in any combination; and not
    /// even that in the answer of a failing front end.
    #[test]
    fn only_unregistered_kills(
        http in 300u16..600,
        status in proptest::sample::select(Status::DOCUMENTED),
        code in proptest::option::of(proptest::sample::select(ErrorCode::DOCUMENTED)),
    ) {
        let verdict = judge(http, &error(status.as_str(), code.as_ref().map_or("", ErrorCode::as_str)), None);
        let kills = code == Some(ErrorCode::Unregistered) && matches!(http, 400 | 404 | 410);
        prop_assert_eq!(matches!(verdict, Verdict::Dead { .. }), kills);
        prop_assert_ne!(verdict, Verdict::Accepted);
        // Whatever an intermediary may redirect to or fail with, nothing follows from it.
        prop_assert!(http >= 400 || verdict == UNSIGNED);
    }
}
