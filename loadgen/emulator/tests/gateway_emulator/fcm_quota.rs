//! A project's quota, and its traces in the record.

use std::time::Duration;

use clarion_emulator::{
    answer::Reason,
    frame::{kind, window_update},
    record::{Entry, flag},
};

use super::{
    bench::Bench,
    sender::{fcm_body, fcm_token},
};

const SECOND: Duration = Duration::from_secs(1);

fn push(bench: &mut Bench, number: u32, body: &[u8]) -> Vec<u8> {
    bench.send(&bench.message(2 * number + 1, body));
    let mut update = Vec::new();
    window_update(&mut update, 0, 10_000);
    bench.send(&update);
    let frames = bench.frames();
    frames.iter().find(|f| f.kind == kind::DATA).expect("an answer").payload.clone()
}

/// Returns the most counted entries in any 60 s.
fn most(entries: &[Entry], counts: impl Fn(&Entry) -> bool) -> usize {
    let times: Vec<_> = entries.iter().filter(|e| counts(e)).map(|e| e.time_us).collect();
    (0..times.len())
        .map(|i| times[i..].iter().take_while(|&&t| t < times[i] + 60_000_000).count())
        .max()
        .unwrap_or(0)
}

#[test]
fn over_the_quota_is_429_until_a_minute_has_passed() {
    let mut bench = Bench::fcm(|c| c.projects[0].quota_per_minute = 3);
    for i in 0..4 {
        push(&mut bench, i, &fcm_body(&fcm_token(i)));
        bench.advance(SECOND);
    }
    let body = String::from_utf8(push(&mut bench, 4, &fcm_body(&fcm_token(4)))).expect("UTF-8");
    // As recorded by others, with the limit and the project of this test.
    let expected = r#"{
  "error": {
    "code": 429,
    "message": "Quota exceeded for quota metric 'Send requests' and limit 'Send requests per minute' of service 'fcm.googleapis.com' for consumer 'projects/missing-children'.",
    "status": "RESOURCE_EXHAUSTED",
    "details": [
      {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "RATE_LIMIT_EXCEEDED",
        "domain": "googleapis.com",
        "metadata": {
          "quota_limit_value": "3",
          "consumer": "projects/missing-children",
          "quota_metric": "fcm.googleapis.com/send_requests",
          "quota_unit": "1/min/{project}",
          "service": "fcm.googleapis.com",
          "quota_location": "global",
          "quota_limit": "SendsPerMinutePerProject"
        }
      },
      {
        "@type": "type.googleapis.com/google.rpc.Help",
        "links": [
          {
            "description": "Request a higher quota limit.",
            "url": "https://cloud.google.com/docs/quotas/help/request_increase"
          }
        ]
      }
    ]
  }
}
"#;
    assert_eq!(body, expected);
    bench.advance(57 * SECOND);
    push(&mut bench, 5, &fcm_body(&fcm_token(5)));
    let entries = bench.entries();
    assert_eq!(
        entries.iter().map(|e| e.status).collect::<Vec<_>>(),
        [200, 200, 200, 429, 429, 200]
    );
    assert!(entries.iter().all(|e| (e.flags & flag::OVER_QUOTA != 0) == (e.status == 429)));
    assert_eq!(entries[3].reason(), Some(Reason::FcmRateLimitExceeded));
    assert_eq!(most(&entries, |e| e.flags & flag::COUNTED != 0), 3);
    assert_eq!(most(&entries, |e| e.flags & (flag::COUNTED | flag::OVER_QUOTA) != 0), 5);
    let peak = bench.policy.fcm().expect("FCM").projects[0].quota.lock().peak();
    assert_eq!((peak.counted, peak.asked, peak.refused), (3, 5, 2));
}

#[test]
fn errors_of_the_client_count_and_a_devices_quota_does_not() {
    let mut bench = Bench::fcm(|c| c.projects[0].quota_per_minute = 2);
    bench.faults(
        r#"{"rules": [{"ppm": 1000000, "answer": {"reason": "QUOTA_EXCEEDED", "times": 1}}]}"#,
    );
    for i in 0..5 {
        push(&mut bench, 2 * i, &fcm_body(&fcm_token(1)));
        push(&mut bench, 2 * i + 1, b"{}");
    }
    let seen: Vec<_> =
        bench.entries().iter().map(|e| (e.status, e.flags & flag::OVER_QUOTA != 0)).collect();
    assert_eq!(seen[..5], [(429, false), (400, false), (200, false), (429, true), (429, true)]);
}

#[test]
fn retry_after_says_when_there_is_room() {
    let mut bench = Bench::fcm(|c| c.projects[0].quota_per_minute = 1);
    push(&mut bench, 0, &fcm_body(&fcm_token(1)));
    bench.advance(20 * SECOND);
    bench.send(&bench.message(3, &fcm_body(&fcm_token(2))));
    let frames = bench.frames();
    let head = String::from_utf8_lossy(&frames[0].payload).into_owned();
    assert!(
        head.ends_with("retry-after\u{2}41"),
        "forty seconds and the rest of a bucket, rounded up: {head:?}"
    );
}

#[test]
fn one_projects_quota_is_not_anothers() {
    let mut bench = Bench::fcm(|c| {
        c.projects[0].quota_per_minute = 1;
        c.service_accounts[0].projects.push("another".to_owned());
    });
    push(&mut bench, 0, &fcm_body(&fcm_token(1)));
    push(&mut bench, 1, &fcm_body(&fcm_token(1)));
    let bearer = bench.bearer.clone();
    let path = "/v1/projects/another/messages:send";
    bench.send(&super::bench::request(
        5,
        &[("authorization", &bearer)],
        path,
        &fcm_body(&fcm_token(1)),
    ));
    assert_eq!(bench.entries().iter().map(|e| e.status).collect::<Vec<_>>(), [200, 429, 200]);
}
