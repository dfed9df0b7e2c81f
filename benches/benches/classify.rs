//! What an answer means: the ordinary one, an error with its body, and a word that is not known.

use std::hint::black_box;

use clarion_shard::{lane::apns, outcome::classify};
use criterion::{Criterion, criterion_group, criterion_main};

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("classify");
    for (name, status, body) in [
        ("accepted", 200, &b""[..]),
        ("unregistered", 410, br#"{"reason":"Unregistered","timestamp":1454948015990}"#),
        ("unknown", 400, br#"{"reason":"SomethingNew"}"#),
        ("proxy", 502, b"<html><head><title>502 Bad Gateway</title></head></html>"),
    ] {
        group.bench_function(name, |b| b.iter(|| classify(&apns::answer(black_box(status), black_box(body)))));
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
