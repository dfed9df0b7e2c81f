//! A distant gateway: delayed answers and credits.

use std::time::Duration;

use clarion_emulator::{
    connection::End,
    frame::{flag, kind},
    record::flag as record,
};

use super::{
    bench::{Bench, Frame, block, raw},
    sender::TOPIC,
};

const MS: Duration = Duration::from_millis(1);

fn open() -> Bench {
    Bench::open(|c| c.first_stream_alone = false)
}

fn credits(frames: &[Frame]) -> Vec<(u32, u32)> {
    let updates = frames.iter().filter(|f| f.kind == kind::WINDOW_UPDATE);
    updates
        .map(|f| (f.stream, u32::from_be_bytes(f.payload[..4].try_into().expect("four"))))
        .collect()
}

/// Returns HEADERS of a push without its body.
fn begin(bench: &Bench, stream: u32) -> Vec<u8> {
    let fields = [("authorization", &*bench.bearer), ("apns-topic", TOPIC)];
    raw(
        kind::HEADERS,
        flag::END_HEADERS,
        stream,
        &block(&fields, &format!("/3/device/{stream:04x}")),
    )
}

#[test]
fn ten_thousand_answers_leave_each_in_its_tick() {
    let mut bench = Bench::open(|c| {
        c.first_stream_alone = false;
        c.streams_max = Some(10_000);
        c.connection_window = 1 << 20;
    });
    bench.faults(r#"{"latency": {"p50_us": 50000, "p99_us": 120000}}"#);
    for i in 0..10_000 {
        bench.send(&bench.push(2 * i + 1, "ab"));
    }
    assert!(bench.frames().iter().all(|f| f.kind == kind::WINDOW_UPDATE), "no answer is early");
    let (mut answered, mut median) = (0, None);
    for ms in 1..1_000 {
        bench.advance(MS);
        answered += bench.frames().len();
        if answered >= 5_000 {
            median.get_or_insert(ms);
        }
    }
    assert_eq!(answered, 10_000);
    // The quantile is known to a 256th, a tick is a millisecond.
    assert!((49..=52).contains(&median.expect("half of them")), "{median:?}");
    assert_eq!(bench.deadline(), None, "nothing to wake for");
}

#[test]
fn latencies_are_those_of_the_seed() {
    let times = |seed| {
        let mut bench = Bench::open(|c| {
            c.first_stream_alone = false;
            c.seed = seed;
        });
        bench.faults(r#"{"latency": {"p50_us": 50000, "p99_us": 120000}}"#);
        for i in 0..50 {
            bench.send(&bench.push(2 * i + 1, "ab"));
        }
        let mut order = Vec::new();
        for _ in 0..400 {
            bench.advance(MS);
            order.extend(bench.frames().iter().map(|f| f.stream));
        }
        order
    };
    assert_eq!(times(1).len(), 50);
    assert_eq!(times(1), times(1));
    assert_ne!(times(1), times(2));
}

#[test]
fn credit_for_the_connection_comes_late() {
    let mut bench = open();
    bench.faults(r#"{"credit": {"delay_us": 25000}}"#);
    let padding = vec![b' '; 4_000];
    for stream in [1, 3, 5] {
        bench.send(&begin(&bench, stream));
        bench.send(&raw(kind::DATA, 0, stream, &padding));
    }
    assert_eq!(credits(&bench.frames()), []);
    assert_eq!(bench.deadline().map(|d| d.since(bench.now.at)), Some(25 * MS));
    bench.advance(24 * MS);
    assert_eq!(credits(&bench.frames()), []);
    bench.advance(MS);
    assert_eq!(credits(&bench.frames()), [(0, 12_000)]);
}

#[test]
fn who_spends_credit_that_has_not_come_breaks_the_rules() {
    let mut bench = open();
    bench.faults(r#"{"credit": {"delay_us": 25000}}"#);
    let full = vec![b' '; 16_000];
    for i in 0..4 {
        bench.send(&begin(&bench, 2 * i + 1));
        bench.send(&raw(kind::DATA, 0, 2 * i + 1, &full));
    }
    assert_eq!(bench.connection.end(), None, "64,000 of 65,535");
    bench.send(&begin(&bench, 9));
    bench.send(&raw(kind::DATA, 0, 9, &full));
    assert_eq!(bench.connection.end(), Some(End::Protocol));
    assert_eq!(
        bench.frames().last().map(|f| f.payload[4..8].to_vec()),
        Some(vec![0, 0, 0, 3]),
        "FLOW_CONTROL_ERROR"
    );
}

#[test]
fn a_body_larger_than_its_window_goes_on_as_credit_comes() {
    let mut bench = Bench::open(|c| {
        c.first_stream_alone = false;
        c.stream_window = 20;
    });
    bench.faults(r#"{"credit": {"delay_us": 10000}}"#);
    bench.send(&begin(&bench, 1));
    bench.send(&raw(kind::DATA, 0, 1, br#"{"aps":{"alert":"foun"#[..20].as_ref()));
    assert_eq!(credits(&bench.frames()), []);
    bench.advance(10 * MS);
    assert_eq!(credits(&bench.frames()), [(1, 20)]);
    bench.send(&raw(kind::DATA, flag::END_STREAM, 1, br#"nd"}}"#));
    assert_eq!(bench.frames().iter().map(Frame::brief).collect::<Vec<_>>(), [(kind::HEADERS, 1)]);
    assert!(bench.entries()[0].flags & record::ACCEPTED != 0);
    bench.send(&begin(&bench, 3));
    bench.send(&raw(kind::DATA, 0, 3, &[b' '; 21]));
    assert_eq!(bench.connection.end(), Some(End::Protocol), "one byte more than its window");
}
