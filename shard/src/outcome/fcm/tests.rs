use proptest::prelude::*;

use super::*;
use crate::{
    command::Platform,
    lane::answer,
    outcome::{self, UNKNOWN_CHARS_MAX},
};

const LANE_LATER: Verdict = Verdict::LaneLater { wait: None };
const REFUSED: Verdict = Verdict::Final(Outcome::Refused);
const SECONDS_7: Option<Duration> = Some(Duration::from_secs(7));

fn judge(status: u16, body: &str, retry_after: Option<Duration>) -> Verdict {
    outcome::classify(Platform::Fcm, &answer::read(Platform::Fcm, status, body.as_bytes(), retry_after))
}

/// An error with a canonical status and, unless empty, an FcmError.
fn error(status: &str, code: &str) -> String {
    let detail = match code {
        "" => String::new(),
        code => format!(r#"{{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"{code}"}}"#),
    };
    format!(r#"{{"error":{{"code":400,"message":"m","status":"{status}","details":[{detail}]}}}}"#)
}

#[test]
fn the_table_of_the_reference() {
    for (http, status, code, verdict) in [
        (400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", Verdict::Invalid { token: true }),
        (400, "INVALID_ARGUMENT", "", Verdict::Invalid { token: true }),
        (401, "UNAUTHENTICATED", "", Verdict::Credential { renew: true }),
        (401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR", REFUSED),
        (401, "UNAUTHENTICATED", "APNS_AUTH_ERROR", REFUSED),
        (403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH", REFUSED),
        (403, "PERMISSION_DENIED", "", Verdict::Credential { renew: false }),
        (404, "NOT_FOUND", "UNREGISTERED", Verdict::Final(Outcome::Dead)),
        (404, "NOT_FOUND", "", Verdict::Campaign),
        (429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", Verdict::LaneLater { wait: Some(QUOTA_PAUSE) }),
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
fn pages_of_front_ends_go_by_their_status() {
    for (http, verdict) in [
        (302, Verdict::Campaign),
        (400, Verdict::Invalid { token: false }),
        (401, Verdict::Credential { renew: true }),
        (403, Verdict::Credential { renew: false }),
        (404, Verdict::Campaign),
        (408, Verdict::DeviceLater { wait: None }),
        (413, Verdict::Campaign),
        (418, REFUSED),
        (429, Verdict::LaneLater { wait: Some(QUOTA_PAUSE) }),
        (500, LANE_LATER),
        (502, LANE_LATER),
        (503, LANE_LATER),
        (999, LANE_LATER),
    ] {
        for body in ["", "<html><title>Error</title> try again in 30 seconds", "{}", r#"{"error":"x"}"#] {
            assert_eq!(judge(http, body, None), verdict, "{http} {body}");
        }
    }
    assert_eq!(judge(200, r#"{"name":"projects/p/messages/1"}"#, None), Verdict::Final(Outcome::Accepted));
    assert_eq!(judge(200, &error("INTERNAL", "INTERNAL"), None), Verdict::Final(Outcome::Accepted));
}

#[test]
fn the_most_exact_place_that_is_understood_counts() {
    // The code above the status above HTTP.
    assert_eq!(judge(400, &error("INVALID_ARGUMENT", "UNREGISTERED"), None), Verdict::Final(Outcome::Dead));
    // But whoever fails is no witness: a page found somewhere must not get a token pruned.
    assert_eq!(judge(502, &error("NOT_FOUND", "UNREGISTERED"), None), Verdict::LaneLater { wait: None });
    assert_eq!(judge(500, &error("RESOURCE_EXHAUSTED", ""), None), Verdict::LaneLater { wait: Some(QUOTA_PAUSE) });
    // A code that is not known leaves it to the status, that to HTTP.
    assert_eq!(judge(503, &error("NOT_FOUND", "SOMETHING_NEW"), None), Verdict::Campaign);
    assert_eq!(judge(503, &error("SOMETHING_NEW", "SOMETHING_NEW"), None), LANE_LATER);
    // One that says nothing leaves it to HTTP at once.
    assert_eq!(judge(503, &error("NOT_FOUND", "UNSPECIFIED_ERROR"), None), LANE_LATER);
    assert_eq!(
        judge(403, &error("PERMISSION_DENIED", "UNSPECIFIED_ERROR"), None),
        Verdict::Credential { renew: false }
    );
}

#[test]
fn what_the_gateway_asks_for_in_time_goes_before_what_is_advised() {
    for (http, body) in [(429, error("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")), (503, String::new()), (502, "<".into())]
    {
        assert_eq!(judge(http, &body, SECONDS_7), Verdict::LaneLater { wait: SECONDS_7 });
    }
    // Nothing at all is no answer to how long.
    let quota = error("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED");
    assert_eq!(judge(429, &quota, Some(Duration::ZERO)), Verdict::LaneLater { wait: Some(QUOTA_PAUSE) });
}

#[test]
fn the_quota_of_a_device_is_its_own() {
    let body = r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[
        {"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"QUOTA_EXCEEDED"},
        {"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"subject":"device:x"}]}]}}"#;
    assert_eq!(judge(429, body, None), Verdict::DeviceLater { wait: Some(QUOTA_PAUSE) });
    assert_eq!(judge(429, body, SECONDS_7), Verdict::DeviceLater { wait: SECONDS_7 });
}

#[test]
fn a_field_that_is_not_the_token_acquits_it() {
    for (field, token) in [("message.token", true), ("message.android.ttl", false), ("message.data", false)] {
        let body = format!(
            r#"{{"error":{{"status":"INVALID_ARGUMENT","details":[{{"@type":"type.googleapis.com/google.rpc.BadRequest",
                "fieldViolations":[{{"field":"{field}","description":"x"}}]}}]}}}}"#
        );
        assert_eq!(judge(400, &body, None), Verdict::Invalid { token }, "{field}");
    }
}

#[test]
fn every_documented_word_reads_back() {
    assert_eq!((ErrorCode::DOCUMENTED.len(), Status::DOCUMENTED.len()), (8, 7));
    ErrorCode::DOCUMENTED.iter().for_each(|code| assert_eq!(ErrorCode::parse(code.as_str()), *code));
    Status::DOCUMENTED.iter().for_each(|status| assert_eq!(Status::parse(status.as_str()), *status));
}

#[test]
fn people_are_told_the_words_and_the_field() {
    let reason =
        Reason { code: Some(ErrorCode::InvalidArgument), field: Some("message.data".into()), ..Reason::default() };
    assert_eq!(reason.to_string(), "INVALID_ARGUMENT (message.data)");
    assert_eq!(Reason { status: Some(Status::NotFound), ..Reason::default() }.to_string(), "NOT_FOUND");
}

proptest! {
    #[test]
    fn unknown_words_are_bounded_and_printable(word in "\\PC{0,100}|[\\x00-\\x20]{1,80}") {
        if let ErrorCode::Unknown(kept) = ErrorCode::parse(&word) {
            prop_assert!(kept.len() <= UNKNOWN_CHARS_MAX);
            prop_assert!(kept.bytes().all(|b| b.is_ascii_graphic()));
        }
    }

    /// Nothing but 200 is success, nothing but UNREGISTERED is a death, whatever the combination; and not even that, of a
    /// front end that fails.
    #[test]
    fn only_unregistered_kills(
        http in 300u16..600,
        status in proptest::sample::select(Status::DOCUMENTED),
        code in proptest::option::of(proptest::sample::select(ErrorCode::DOCUMENTED)),
    ) {
        let verdict = judge(http, &error(status.as_str(), code.as_ref().map_or("", ErrorCode::as_str)), None);
        prop_assert_eq!(verdict == Verdict::Final(Outcome::Dead), code == Some(ErrorCode::Unregistered) && http < 500);
        prop_assert_ne!(verdict, Verdict::Final(Outcome::Accepted));
    }
}
