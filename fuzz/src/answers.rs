//! Fuzz target: bodies of answers of both platforms, and their classification.

use std::time::Duration;

use clarion_shard::{
    lane::provider::answer,
    outcome::{
        Answer, Platform, RETRY_AFTER_MAX, Reason, UNKNOWN_CHARS_MAX, Verdict, apns, classify, fcm,
    },
};
use serde_json::Value;

use crate::input::Input;

/// Reads a platform, a status, a wait and a body from the input, and checks the parsed answer.
///
/// # Panics
/// If the answer contains more than its body, an unknown reason could do harm where it is printed,
/// or the status does not allow the verdict.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let choice = input.byte();
    let platform = if choice & 1 == 0 { Platform::Apns } else { Platform::Fcm };
    let status = match choice >> 1 {
        choice @ 0..=14 => {
            [200, 400, 401, 403, 404, 405, 408, 410, 413, 425, 429, 500, 502, 503, 302]
                [usize::from(choice)]
        }
        _ => 100 + input.short() % 900,
    };
    let wait = (choice & 0x20 != 0)
        .then(|| Duration::from_secs(u64::from(input.short())).min(RETRY_AFTER_MAX));
    let body = input.0;
    let answer = answer::read(platform, status, body, wait);
    assert_eq!((answer.status, answer.retry_after), (status, wait));

    compare(platform, status, body, &answer);
    let longest = match &answer.reason {
        Reason::Apns(apns::Reason::Unknown(word)) => word,
        Reason::Fcm(fcm::Reason { code: Some(fcm::ErrorCode::Unknown(word)), .. }) => word,
        Reason::Fcm(fcm::Reason { status: Some(fcm::Status::Unknown(word)), .. }) => word,
        _ => "",
    };
    assert!(is_printable(longest));

    let verdict = classify(platform, &answer);
    match status {
        200 => assert_eq!(verdict, Verdict::Accepted),
        // An error of the server never removes a device, whatever reason the answer contains.
        500..=599 => assert!(
            matches!(verdict, Verdict::LaneLater { .. } | Verdict::Unsigned { .. }),
            "{verdict:?}"
        ),
        // A redirect does not come from the gateway.
        300..=399 => assert!(matches!(verdict, Verdict::Unsigned { .. }), "{verdict:?}"),
        _ => {}
    }
    // An answer without the provider's reason has no other verdict.
    assert!(
        answer.reason != Reason::None
            || status == 200
            || matches!(verdict, Verdict::Unsigned { .. })
    );
    if let Verdict::DeviceLater { wait: Some(wait) }
    | Verdict::LaneLater { wait: Some(wait) }
    | Verdict::Unsigned { wait: Some(wait) } = verdict
    {
        assert!(wait <= RETRY_AFTER_MAX && !wait.is_zero());
    }
}

/// Compares the answer with another reading of the same body.
fn compare(platform: Platform, status: u16, body: &[u8], answer: &Answer) {
    // An unused field may contain invalid UTF-8, which only this other reading refuses.
    let whole = serde_json::from_str::<Value>(&String::from_utf8_lossy(body));
    // A number that no float holds cannot be compared.
    if whole.as_ref().is_err_and(|error| error.to_string().starts_with("number out of range")) {
        return;
    }
    let whole = whole.ok();
    match &answer.reason {
        Reason::None => {}
        Reason::Apns(reason) => {
            assert_eq!(platform, Platform::Apns);
            assert_ne!(status, 200);
            let word = whole
                .as_ref()
                .and_then(|body| body.get("reason"))
                .and_then(Value::as_str)
                .expect("a reason was read");
            assert_eq!(*reason, apns::Reason::parse(word));
        }
        Reason::Fcm(reason) => {
            assert_eq!(platform, Platform::Fcm);
            assert_ne!(status, 200);
            let body = whole.as_ref().expect("JSON was read");
            let error = body.get(0).unwrap_or(body).get("error").expect("an error was read");
            let word = error.get("status").and_then(Value::as_str);
            assert_eq!(reason.status, word.map(fcm::Status::parse));
            assert!(reason.code.is_none() || error.to_string().contains("errorCode"));
            assert!(reason.field.as_deref().is_none_or(is_printable));
        }
    }
    // Only APNs' documented form is read as a time, with exactly that number.
    if let Some(timestamp) = answer.timestamp_ms {
        let body = whole.as_ref().expect("JSON was read");
        assert_eq!(body.get("timestamp").and_then(Value::as_u64), Some(timestamp));
    }
}

fn is_printable(word: &str) -> bool {
    word.len() <= UNKNOWN_CHARS_MAX && word.bytes().all(|b| b.is_ascii_graphic())
}
