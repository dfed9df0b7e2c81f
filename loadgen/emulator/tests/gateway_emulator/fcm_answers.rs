//! Answers of FCM, byte for byte.

use clarion_emulator::{
    answer::Reason,
    frame::{kind, window_update},
    script::{Rule, Scripted, Scripts},
};

use super::{
    bench::{Bench, request},
    sender::{FCM_PATH, bearer, fcm_body, fcm_token},
};

/// Returns header block and body of the answer to one request.
fn answer(bench: &mut Bench, bytes: &[u8]) -> (Vec<u8>, String) {
    bench.send(bytes);
    let mut update = Vec::new();
    window_update(&mut update, 0, 10_000);
    bench.send(&update);
    let frames = bench.frames();
    let of = |k| frames.iter().find(|f| f.kind == k).expect("it is there").payload.clone();
    (of(kind::HEADERS), String::from_utf8(of(kind::DATA)).expect("UTF-8"))
}

fn scripted(scripted: Scripted) -> (Vec<u8>, String) {
    let rules = vec![Rule { ppm: 1_000_000, answer: scripted }];
    let mut bench = Bench::fcm(|c| c.scripts = Scripts { rules, ..Scripts::default() });
    let bytes = bench.message(1, &fcm_body(&fcm_token(1)));
    answer(&mut bench, &bytes)
}

fn to_body(body: &str) -> String {
    let mut bench = Bench::fcm(|_| {});
    let bytes = bench.message(1, body.as_bytes());
    answer(&mut bench, &bytes).1
}

/// Returns an error body with this head and these details.
fn error(code: u16, status: &str, message: &str, details: &str) -> String {
    format!(
        "{{\n  \"error\": {{\n    \"code\": {code},\n    \"message\": \"{message}\",\n    \"status\": \"{status}\"{details}\n  }}\n}}\n"
    )
}

fn fcm_error(code: &str) -> String {
    format!(
        r#",
    "details": [
      {{
        "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
        "errorCode": "{code}"
      }}
    ]"#
    )
}

#[test]
fn success_names_the_message() {
    let mut bench = Bench::fcm(|_| {});
    let bytes = bench.message(1, &fcm_body(&fcm_token(1)));
    let (head, body) = answer(&mut bench, &bytes);
    assert_eq!(head, b"\x88\x0f\x10\x1fapplication/json; charset=UTF-8");
    let name =
        body.strip_prefix("{\n  \"name\": \"projects/missing-children/messages/").expect("a name");
    let name = name.strip_suffix("\"\n}\n").expect("its end");
    let (micros, digits) =
        name.strip_prefix("0:").and_then(|n| n.split_once('%')).expect("two parts");
    assert!(micros.starts_with("1800000000000") && micros.len() == 16, "{name}");
    assert!(digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
}

#[test]
fn every_error_code_as_google_writes_it() {
    let cases = [
        (
            Reason::FcmUnregistered,
            404,
            "NOT_FOUND",
            "Requested entity was not found.",
            "UNREGISTERED",
        ),
        (
            Reason::FcmSenderIdMismatch,
            403,
            "PERMISSION_DENIED",
            "SenderId mismatch",
            "SENDER_ID_MISMATCH",
        ),
        (
            Reason::FcmUnavailable,
            503,
            "UNAVAILABLE",
            "The service is currently unavailable.",
            "UNAVAILABLE",
        ),
        (Reason::FcmInternal, 500, "INTERNAL", "Internal error encountered.", "INTERNAL"),
        (
            Reason::FcmInvalidArgument,
            400,
            "INVALID_ARGUMENT",
            "Request contains an invalid argument.",
            "INVALID_ARGUMENT",
        ),
        (
            Reason::FcmInvalidToken,
            400,
            "INVALID_ARGUMENT",
            "The registration token is not a valid FCM registration token",
            "INVALID_ARGUMENT",
        ),
        (
            Reason::FcmThirdPartyAuthError,
            401,
            "UNAUTHENTICATED",
            "Auth error from APNS or Web Push Service",
            "THIRD_PARTY_AUTH_ERROR",
        ),
        (Reason::FcmUnspecified, 500, "UNKNOWN", "An unknown error occurred.", "UNSPECIFIED_ERROR"),
    ];
    for (reason, code, status, message, error_code) in cases {
        let (head, body) = scripted(Scripted::always(reason));
        assert_eq!(body, error(code, status, message, &fcm_error(error_code)), "{reason:?}");
        assert!(head.ends_with(b"\x0f\x10\x1fapplication/json; charset=UTF-8"), "{reason:?}");
    }
}

#[test]
fn a_devices_quota_says_which() {
    let body = scripted(Scripted::always(Reason::FcmQuotaExceeded)).1;
    let details = r#",
    "details": [
      {
        "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
        "errorCode": "QUOTA_EXCEEDED"
      },
      {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [
          {
            "subject": "device",
            "description": "Device message rate exceeded."
          }
        ]
      }
    ]"#;
    assert_eq!(
        body,
        error(429, "RESOURCE_EXHAUSTED", "Sending limit exceeded for the message target.", details)
    );
}

#[test]
fn pages_are_no_json() {
    for (reason, code) in [(Reason::FcmBadGateway, 502), (Reason::FcmUnauthorizedPage, 401)] {
        let (head, body) = scripted(Scripted::always(reason));
        assert!(head.ends_with(b"\x0f\x10\x18text/html; charset=UTF-8"), "{reason:?}");
        assert!(
            body.starts_with("<!DOCTYPE html>\n")
                && body.contains(&format!("<title>Error {code} (")),
            "{body}"
        );
    }
    assert!(
        scripted(Scripted::always(Reason::FcmBadGateway)).1.contains("try again in 30 seconds")
    );
}

#[test]
fn retry_after_is_a_number_or_a_date() {
    let with = |text: &str| {
        let scripted_answer: Scripted = serde_json::from_str(text).expect("a script");
        String::from_utf8_lossy(&scripted(scripted_answer).0).into_owned()
    };
    let seconds = with(r#"{"reason": "UNAVAILABLE", "retry_after": {"seconds": 17}}"#);
    assert!(seconds.ends_with("\0\u{b}retry-after\u{2}17"), "{seconds:?}");
    let date =
        with(r#"{"reason": "QUOTA_EXCEEDED", "retry_after": {"seconds": 60, "date": true}}"#);
    assert!(date.ends_with("retry-after\u{1d}Fri, 15 Jan 2027 08:01:00 GMT"), "{date:?}");
    assert!(!with(r#"{"reason": "UNAVAILABLE"}"#).contains("retry-after"));
}

#[test]
fn flaws_of_a_message_as_google_writes_them() {
    let missing = r#",
    "details": [
      {
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [
          {
            "field": "message",
            "description": "Recipient of the message is not set."
          }
        ]
      },
      {
        "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
        "errorCode": "INVALID_ARGUMENT"
      }
    ]"#;
    let expected = error(400, "INVALID_ARGUMENT", "Recipient of the message is not set.", missing);
    assert_eq!(to_body(r#"{"message":{"data":{"a":"b"}}}"#), expected);

    let wrong = "Invalid value at 'message.data[0].value' (TYPE_STRING), 12";
    let details = format!(
        r#",
    "details": [
      {{
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [
          {{
            "field": "message.data[0].value",
            "description": "{wrong}"
          }}
        ]
      }}
    ]"#
    );
    let body = format!(r#"{{"message":{{"token":"{}","data":{{"a":12}}}}}}"#, fcm_token(1));
    assert_eq!(to_body(&body), error(400, "INVALID_ARGUMENT", wrong, &details));

    let large = format!(
        r#"{{"message":{{"token":"{}","data":{{"k":"{}"}}}}}}"#,
        fcm_token(1),
        "v".repeat(4_096)
    );
    assert_eq!(
        to_body(&large),
        error(400, "INVALID_ARGUMENT", "Request contains an invalid argument.", "")
    );
    let token = error(
        400,
        "INVALID_ARGUMENT",
        "The registration token is not a valid FCM registration token",
        &fcm_error("INVALID_ARGUMENT"),
    );
    assert_eq!(to_body(r#"{"message":{"token":"not a token"}}"#), token);
    let topic: serde_json::Value =
        serde_json::from_str(&to_body(r#"{"message":{"topic":"news"}}"#)).expect("JSON");
    assert_eq!(topic["error"]["details"][0]["errorCode"], "INVALID_ARGUMENT");
    assert_eq!(topic["error"]["details"][1]["fieldViolations"][0]["field"], "message.topic");
    // The sender's own text is returned quoted and cut.
    let quoted: serde_json::Value = serde_json::from_str(&to_body(&format!(
        r#"{{"message":{{"\"\n{}":1}}}}"#,
        "x".repeat(500)
    )))
    .expect("JSON");
    assert!(
        quoted["error"]["message"]
            .as_str()
            .is_some_and(|m| m.contains("Unknown name \"\"\n") && m.len() < 200)
    );
}

#[test]
fn who_is_not_known_or_not_allowed() {
    let mut bench = Bench::fcm(|_| {});
    let good = bench.bearer.clone();
    let late = bearer(&bench.policy, 0, bench.now.wall.0);
    let stranger = bearer(&Bench::fcm(|_| {}).policy, 0, u64::MAX);
    let body = fcm_body(&fcm_token(1));
    let mut stream = 0;
    let mut ask = |authorization: Option<&str>, path: &str| {
        stream += 1;
        let fields: Vec<_> = authorization.into_iter().map(|a| ("authorization", a)).collect();
        let (head, body) = answer(&mut bench, &request(2 * stream - 1, &fields, path, &body));
        (head, serde_json::from_str::<serde_json::Value>(&body).expect("JSON"))
    };
    for (authorization, reason) in [
        (None, "CREDENTIALS_MISSING"),
        (Some("Basic abc"), "CREDENTIALS_MISSING"),
        (Some("Bearer ya29.abc"), "ACCESS_TOKEN_TYPE_UNSUPPORTED"),
        (Some(&*stranger), "ACCESS_TOKEN_TYPE_UNSUPPORTED"),
        (Some(&*late), "ACCESS_TOKEN_EXPIRED"),
    ] {
        let (head, body) = ask(authorization, FCM_PATH);
        let error = &body["error"];
        assert_eq!(
            (&error["code"], &error["status"]),
            (&401.into(), &"UNAUTHENTICATED".into()),
            "{reason}"
        );
        assert_eq!(error["details"][0]["reason"], reason);
        assert!(String::from_utf8_lossy(&head).contains("www-authenticate"));
    }
    let (_, body) = ask(Some(&good), "/v1/projects/another/messages:send");
    assert_eq!(
        (&body["error"]["code"], &body["error"]["status"]),
        (&403.into(), &"PERMISSION_DENIED".into())
    );
    assert_eq!(body["error"]["details"][0]["reason"], "IAM_PERMISSION_DENIED");
    let (_, body) = ask(Some(&good), "/v1/projects/nowhere/messages:send");
    assert!(!body.to_string().contains("FcmError"));
    assert_eq!(
        (&body["error"]["code"], &body["error"]["status"]),
        (&404.into(), &"NOT_FOUND".into())
    );
    assert!(bench.entries().iter().all(|e| !e.accepted()));
    assert!(
        bench.entries().iter().all(|e| e.flags == clarion_emulator::record::flag::ANSWERED),
        "none was counted"
    );
}
