//! Classification of an answer: an ordinary one, an error with its body, and an unknown reason.

use std::hint::black_box;

use clarion_shard::{
    lane::provider::answer,
    outcome::{Platform, classify},
};
use criterion::{Criterion, criterion_group, criterion_main};

const UNREGISTERED: &[u8] = br#"{
  "error": {
    "code": 404,
    "message": "Requested entity was not found.",
    "status": "NOT_FOUND",
    "details": [
      {
        "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
        "errorCode": "UNREGISTERED"
      }
    ]
  }
}
"#;
const PROXY: &[u8] = b"<html><head><title>502 Bad Gateway</title></head></html>";

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("classify");
    for (name, platform, status, body) in [
        ("accepted", Platform::Apns, 200, &b""[..]),
        (
            "unregistered",
            Platform::Apns,
            410,
            br#"{"reason":"Unregistered","timestamp":1454948015990}"#,
        ),
        ("unknown", Platform::Apns, 400, br#"{"reason":"SomethingNew"}"#),
        ("proxy", Platform::Apns, 502, PROXY),
        ("fcm/accepted", Platform::Fcm, 200, b""),
        ("fcm/unregistered", Platform::Fcm, 404, UNREGISTERED),
        ("fcm/proxy", Platform::Fcm, 502, PROXY),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                classify(
                    platform,
                    &answer::read(platform, black_box(status), black_box(body), None),
                )
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
