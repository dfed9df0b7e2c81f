//! Settings that change under a client: stream limits, windows that become negative, header tables
//! that shrink.

use std::time::Duration;

use clarion_emulator::{
    connection::End,
    frame::{flag, kind},
};

use super::{
    bench::{Bench, Frame, block, raw, settings_ack},
    sender::TOPIC,
};

const MS: Duration = Duration::from_millis(1);

fn open() -> Bench {
    let mut bench = Bench::open(|c| c.first_stream_alone = false);
    // Of the first SETTINGS.
    bench.send(&settings_ack());
    bench
}

fn begin(bench: &Bench, stream: u32) -> Vec<u8> {
    let fields = [("authorization", &*bench.bearer), ("apns-topic", TOPIC)];
    raw(kind::HEADERS, flag::END_HEADERS, stream, &block(&fields, "/3/device/ab"))
}

#[test]
fn a_stream_limit_swings_while_requests_are_under_way() {
    let mut bench = open();
    bench.faults(
        r#"{"latency": {"p50_us": 5000}, "once": [{"do": "streams_max", "streams": 1500}]}"#,
    );
    assert_eq!(bench.frames()[0].payload, [0, 3, 0, 0, 5, 220]);
    bench.send(&settings_ack());
    for i in 0..1_500 {
        bench.send(&bench.push(2 * i + 1, "ab"));
    }
    bench.frames();
    bench.faults(r#"{"latency": {"p50_us": 5000}, "once": [{"do": "streams_max", "streams": 1}]}"#);
    assert_eq!(bench.frames()[0].payload, [0, 3, 0, 0, 0, 1]);
    bench.send(&bench.push(3_001, "ab"));
    assert_eq!(bench.connection.end(), Some(End::Protocol), "1,501 were never allowed");
    let mut bench = open();
    bench.faults(r#"{"once": [{"do": "streams_max", "streams": 1}]}"#);
    bench.faults(r#"{"latency": {"p50_us": 5000}}"#);
    bench.send(&bench.push(1, "ab"));
    bench.send(&bench.push(3, "ab"));
    let frames = bench.frames();
    assert_eq!(
        frames.last().map(Frame::brief),
        Some((kind::RST_STREAM, 3)),
        "refused: it could not know"
    );
    bench.send(&settings_ack());
    bench.send(&bench.push(5, "ab"));
    assert_eq!(bench.connection.end(), Some(End::Protocol), "now it knows");
}

#[test]
fn a_window_becomes_negative_and_credit_makes_it_good() {
    let mut bench = open();
    bench.send(&begin(&bench, 1));
    bench.send(&raw(kind::DATA, 0, 1, br#"{"aps":{"alert":"#));
    bench.faults(
        r#"{"credit": {"delay_us": 5000}, "once": [{"do": "settings", "initial_window": 4}]}"#,
    );
    let frames = bench.frames();
    assert_eq!((frames.len(), &frames[0].payload[..]), (1, &[0, 4, 0, 0, 0, 4][..]));
    bench.send(&settings_ack());
    // The client's window is 4 - 16. Credit for what came makes it 4.
    bench.advance(5 * MS);
    assert_eq!(
        bench.frames().iter().map(|f| (f.stream, f.payload.clone())).collect::<Vec<_>>(),
        [(1, vec![0, 0, 0, 16])]
    );
    bench.send(&raw(kind::DATA, 0, 1, br#""fou"#));
    bench.advance(5 * MS);
    assert_eq!(bench.frames()[0].payload, [0, 0, 0, 4]);
    bench.send(&raw(kind::DATA, flag::END_STREAM, 1, br#"n"}}"#));
    assert!(bench.entries()[0].accepted());
    bench.send(&begin(&bench, 3));
    bench.send(&raw(kind::DATA, 0, 3, b"     "));
    assert_eq!(bench.connection.end(), Some(End::Protocol), "five bytes into a window of four");
}

#[test]
fn a_client_may_use_the_old_window_until_it_acknowledges_the_new_one() {
    let mut bench = open();
    bench.faults(r#"{"once": [{"do": "settings", "initial_window": 4}]}"#);
    bench.send(&bench.push(1, "ab"));
    assert!(bench.entries()[0].accepted());
    bench.send(&settings_ack());
    bench.send(&bench.push(3, "ab"));
    assert_eq!(bench.connection.end(), Some(End::Protocol));
}

#[test]
fn a_smaller_header_table_must_be_answered_by_a_size_update() {
    for obeys in [true, false] {
        let mut bench = open();
        bench.faults(r#"{"once": [{"do": "settings", "header_table": 0}]}"#);
        bench.send(&bench.push(1, "ab"));
        assert_eq!(bench.connection.end(), None, "before it knows");
        bench.send(&settings_ack());
        let fields = [("authorization", &*bench.bearer), ("apns-topic", TOPIC)];
        let mut head = if obeys { vec![0x20] } else { Vec::new() };
        head.extend(block(&fields, "/3/device/ab"));
        bench.send(&raw(kind::HEADERS, flag::END_HEADERS, 3, &head));
        bench.send(&raw(kind::DATA, flag::END_STREAM, 3, b"{}"));
        assert_eq!(bench.connection.end(), (!obeys).then_some(End::Protocol));
        assert_eq!(bench.entries().len(), if obeys { 2 } else { 1 });
    }
}

#[test]
fn a_larger_header_table_may_be_used_before_it_is_acknowledged() {
    let mut bench = open();
    let head = |update: &[u8]| {
        let fields = [("authorization", &*bench.bearer), ("apns-topic", TOPIC)];
        [update, &block(&fields, "/3/device/ab")].concat()
    };
    let (to_nothing, to_all) = (head(&[0x20]), head(&[0x3f, 0xe1, 0x1f]));
    bench.faults(r#"{"once": [{"do": "settings", "header_table": 0}]}"#);
    bench.send(&settings_ack());
    bench.send(&raw(kind::HEADERS, flag::END_HEADERS, 1, &to_nothing));
    bench.faults(r#"{"once": [{"do": "settings", "header_table": 4096}]}"#);
    bench.send(&raw(kind::HEADERS, flag::END_HEADERS, 3, &to_all));
    assert_eq!(bench.connection.end(), None);
    bench.send(&settings_ack());
    bench.send(&raw(kind::HEADERS, flag::END_HEADERS, 5, &to_all));
    assert_eq!(bench.connection.end(), None);
}

#[test]
fn an_unknown_setting_and_a_smaller_list_are_only_told() {
    let mut bench = open();
    bench.faults(r#"{"once": [{"do": "settings", "header_list": 1000, "unknown": true}]}"#);
    assert_eq!(bench.frames()[0].payload, [0, 6, 0, 0, 3, 232, 0x7a, 0x7a, 0x7a, 0x7a, 0x7a, 0x7a]);
    bench.send(&settings_ack());
    bench.send(&bench.push(1, "ab"));
    assert!(bench.entries()[0].accepted());
}

#[test]
fn what_http2_forbids_is_not_set() {
    use clarion_emulator::{Faults, Platform, faults::FaultsError};
    for (text, field) in [
        (r#"{"once": [{"do": "settings", "initial_window": 2147483648}]}"#, "initial_window"),
        (
            r#"{"repeat": [{"every_ms": 5, "turns": [{"do": "settings", "header_table": 4097}]}]}"#,
            "header_table",
        ),
    ] {
        let faults: Faults = serde_json::from_str(text).expect("well formed");
        assert!(
            matches!(faults.check(Platform::Apns), Err(FaultsError::Setting { field: f, .. }) if f == field)
        );
    }
}

#[test]
fn a_goaway_says_what_it_is_told_to_say() {
    let mut bench = Bench::fcm(|_| {});
    bench.faults(
        r#"{"once": [{"do": "goaway", "code": "ENHANCE_YOUR_CALM", "text": "too_many_pings", "refuse_open": true}]}"#,
    );
    let mut expected = vec![0, 0, 0, 0, 0, 0, 0, 11];
    expected.extend(b"too_many_pings");
    assert_eq!(bench.frames()[0].payload, expected);
    bench.advance(MS);
    assert_eq!(bench.connection.end(), Some(End::Drained));
}

#[test]
fn the_second_step_of_a_goaway_may_be_below_what_is_under_way() {
    let mut bench = open();
    bench.send(&bench.push(1, "ab"));
    bench.frames();
    let goaway = r#"{"do": "goaway", "two_step_ms": 10, "refuse_open": true}"#;
    bench.faults(&format!(r#"{{"latency": {{"p50_us": 50000}}, "once": [{goaway}]}}"#));
    bench.send(&bench.push(3, "ac"));
    bench.send(&bench.push(5, "ad"));
    assert_eq!(bench.frames()[0].payload[..4], [0x7f, 0xff, 0xff, 0xff]);
    bench.advance(10 * MS);
    assert_eq!(bench.frames()[0].payload[..4], [0, 0, 0, 1], "neither of the two was processed");
    assert_eq!(bench.connection.end(), Some(End::Drained));
    let accepted: Vec<_> =
        bench.entries().iter().map(clarion_emulator::record::Entry::accepted).collect();
    assert_eq!(accepted, [true, false, false]);
}
