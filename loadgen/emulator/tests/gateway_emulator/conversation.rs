//! Frames in and frames out: the conversation of APNs with its clients.

use std::time::Duration;

use clarion_emulator::{
    frame::{self, flag, kind, setting},
    record::flag as record,
};

use super::{
    bench::{Bench, Frame, block, raw, request, settings, settings_ack, split},
    sender::{BODY, TOPIC},
};

const OK_THEN_LIMIT: [(u8, u32); 2] = [(kind::HEADERS, 1), (kind::SETTINGS, 0)];

fn limit(frame: &Frame) -> Option<u32> {
    let (settings, _) = frame.payload.as_chunks::<6>();
    let of = |s: &[u8; 6]| s[..2] == setting::MAX_CONCURRENT_STREAMS.to_be_bytes();
    settings.iter().find(|s| of(s)).map(|s| u32::from_be_bytes([s[2], s[3], s[4], s[5]]))
}

fn briefs(frames: &[Frame]) -> Vec<(u8, u32)> {
    frames.iter().map(Frame::brief).collect()
}

#[test]
fn the_first_settings_are_those_of_apple() {
    let mut bench = Bench::new(|_| {});
    let frames = bench.frames();
    let expected = settings(&[(1, 4_096), (3, 1), (4, 65_535), (5, 16_384), (6, 8_000)]);
    assert_eq!(frames, split(&expected));
}

#[test]
fn one_stream_until_the_first_success_then_many() {
    let mut bench = Bench::open(|c| c.streams_max = Some(500));
    bench.send(&bench.push(1, "ab"));
    let frames = bench.frames();
    assert_eq!(briefs(&frames), OK_THEN_LIMIT);
    assert_eq!(frames[0].flags, flag::END_HEADERS | flag::END_STREAM, "200 is HEADERS alone");
    assert_eq!(limit(&frames[1]), Some(500));
}

#[test]
fn a_rejection_does_not_raise_the_limit() {
    let mut bench = Bench::open(|_| {});
    bench.send(&bench.push(1, "not-hex"));
    let frames = bench.frames();
    assert_eq!(briefs(&frames), [(kind::HEADERS, 1), (kind::DATA, 1)]);
    assert_eq!(frames[1].flags, flag::END_STREAM);
    assert_eq!(frames[1].payload, br#"{"reason":"BadDeviceToken"}"#);
}

#[test]
fn too_many_streams_are_sent_away_in_apples_words() {
    let mut bench = Bench::open(|_| {});
    let fields = [("authorization", "x"), ("apns-topic", TOPIC)];
    bench.send(&raw(kind::HEADERS, flag::END_HEADERS, 1, &block(&fields, "/3/device/ab")));
    bench.send(&raw(kind::HEADERS, flag::END_HEADERS, 3, &block(&fields, "/3/device/ab")));
    let frames = bench.frames();
    assert_eq!(briefs(&frames), [(kind::GOAWAY, 0)]);
    assert_eq!(frames[0].payload[..8], [0, 0, 0, 3, 0, 0, 0, 7]);
    assert_eq!(frames[0].payload[8..], *b"Maximum active streams violated for this endpoint.");
    assert!(bench.connection.end().is_some());
}

#[test]
fn a_limit_lowered_in_flight_refuses_until_it_is_known() {
    let mut bench = Bench::open(|c| c.first_stream_alone = false);
    bench.send(&settings_ack());
    bench.faults(r#"{"latency": {"p50_us": 1000}, "once": [{"do": "streams_max", "streams": 1}]}"#);
    assert_eq!(limit(&bench.frames()[0]), Some(1));
    bench.send(&bench.push(1, "ab"));
    bench.send(&bench.push(3, "ac"));
    let frames = bench.frames();
    assert_eq!(briefs(&frames), [(kind::RST_STREAM, 3)]);
    assert_eq!(frames[0].payload, [0, 0, 0, 7]);
    let flags: Vec<_> = bench.entries().iter().map(|e| (e.status, e.flags)).collect();
    assert_eq!(flags, [(200, record::ACCEPTED), (0, record::UNPROCESSED)]);
    bench.send(&settings_ack());
    bench.send(&bench.push(5, "ad"));
    assert_eq!(briefs(&bench.frames()), [(kind::GOAWAY, 0)]);
}

#[test]
fn back_to_one_stream_after_a_rejection_if_so_told() {
    let mut bench = Bench::open(|c| c.one_stream_after_reject = true);
    bench.send(&bench.push(1, "ab"));
    bench.send(&bench.push(3, "zz"));
    bench.send(&bench.push(5, "ab"));
    let limits: Vec<_> =
        bench.frames().iter().filter(|f| f.kind == kind::SETTINGS).map(limit).collect();
    assert_eq!(limits, [Some(1_000), Some(1), Some(1_000)]);
}

#[test]
fn a_request_may_come_in_single_bytes_and_in_many_frames() {
    let mut bench = Bench::open(|_| {});
    let bearer = bench.bearer.clone();
    let block = block(&[("authorization", &bearer), ("apns-topic", TOPIC)], "/3/device/ab");
    let mut bytes = Vec::new();
    // Padded, with priority, cut into three.
    let mut first = vec![3, 0, 0, 0, 0, 9];
    first.extend_from_slice(&block[..10]);
    first.extend_from_slice(&[0; 3]);
    bytes.extend(raw(kind::HEADERS, flag::PADDED | flag::PRIORITY, 1, &first));
    bytes.extend(raw(kind::CONTINUATION, 0, 1, &block[10..20]));
    bytes.extend(raw(kind::CONTINUATION, flag::END_HEADERS, 1, &block[20..]));
    bytes.extend(raw(kind::DATA, 0, 1, &BODY[..5]));
    bytes.extend(raw(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 1]));
    bytes.extend(raw(kind::DATA, flag::PADDED, 1, &[&[2], &BODY[5..], &[0, 0]].concat()));
    bytes.extend(raw(0x42, 0, 1, b"unknown frames mean nothing"));
    // Trailers end the request.
    bytes.extend(raw(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &[]));
    for byte in bytes {
        bench.send(&[byte]);
    }
    assert_eq!(briefs(&bench.frames()), OK_THEN_LIMIT);
}

#[test]
fn credit_is_given_back_in_batches() {
    let mut bench = Bench::open(|c| c.first_stream_alone = false);
    let body = format!(r#"{{"x":"{}"}}"#, "y".repeat(4_000));
    let bearer = bench.bearer.clone();
    let mut updates = 0;
    for i in 0..100 {
        let fields = [("authorization", &*bearer), ("apns-topic", TOPIC)];
        bench.send(&request(2 * i + 1, &fields, "/3/device/ab", body.as_bytes()));
        let frames = bench.frames();
        assert!(frames.iter().all(|f| f.kind != kind::GOAWAY), "six windows were sent in all");
        updates += frames.iter().filter(|f| f.brief() == (kind::WINDOW_UPDATE, 0)).count();
    }
    assert_eq!(updates, 33, "every three requests: 8,192 bytes are owed then");
}

#[test]
fn a_body_beyond_the_window_is_an_error() {
    let mut bench = Bench::open(|c| c.first_stream_alone = false);
    let mut bytes = raw(kind::HEADERS, flag::END_HEADERS, 1, &block(&[], "/"));
    for _ in 0..5 {
        bytes.extend(raw(kind::DATA, 0, 1, &[0; 16_000]));
    }
    bench.send(&bytes);
    let last = bench.frames().pop().expect("a frame");
    assert_eq!((last.kind, last.payload[7]), (kind::GOAWAY, 3));
}

#[test]
fn an_oversized_body_is_refused_before_it_ends() {
    let mut bench = Bench::open(|c| c.first_stream_alone = false);
    let bearer = bench.bearer.clone();
    let fields = [("authorization", &*bearer), ("apns-topic", TOPIC)];
    bench.send(&raw(kind::HEADERS, flag::END_HEADERS, 1, &block(&fields, "/3/device/ab")));
    bench.send(&raw(kind::DATA, 0, 1, &[b'x'; 4_097]));
    bench.send(&raw(kind::DATA, flag::END_STREAM, 1, &[b'x'; 100]));
    let frames = bench.frames();
    assert_eq!(briefs(&frames), [(kind::HEADERS, 1), (kind::DATA, 1), (kind::RST_STREAM, 1)]);
    assert_eq!(frames[1].payload, br#"{"reason":"PayloadTooLarge"}"#);
}

#[test]
fn an_errors_body_waits_for_the_clients_window() {
    let mut bench = Bench::open(|c| c.first_stream_alone = false);
    bench.send(&settings(&[(setting::INITIAL_WINDOW_SIZE, 0)]));
    bench.send(&bench.push(1, "zz"));
    assert_eq!(briefs(&bench.frames()), [(kind::SETTINGS, 0), (kind::HEADERS, 1)]);
    let mut update = Vec::new();
    frame::window_update(&mut update, 1, 26);
    bench.send(&update);
    assert_eq!(bench.frames(), [], "the body has 27 bytes");
    assert_eq!(bench.entries()[0].flags & record::ANSWERED, 0);
    bench.send(&settings(&[(setting::INITIAL_WINDOW_SIZE, 1)]));
    assert_eq!(briefs(&bench.frames()), [(kind::SETTINGS, 0), (kind::DATA, 1)]);
    assert_ne!(bench.entries()[0].flags & record::ANSWERED, 0);
}

#[test]
fn ping_is_answered_and_settings_acknowledged() {
    let mut bench = Bench::open(|_| {});
    bench.send(&raw(kind::PING, 0, 0, b"12345678"));
    bench.send(&settings(&[(setting::HEADER_TABLE_SIZE, 0)]));
    let frames = bench.frames();
    assert_eq!(briefs(&frames), [(kind::PING, 0), (kind::SETTINGS, 0)]);
    assert_eq!((frames[0].flags, &*frames[0].payload), (flag::ACK, &b"12345678"[..]));
    bench.send(&bench.push(1, "ab"));
    assert_eq!(bench.frames()[0].payload[..2], [0x20, 0x88], "the size update comes first");
}

#[test]
fn malformed_requests_cost_their_stream_and_no_more() {
    let mut bench = Bench::open(|c| c.first_stream_alone = false);
    bench.send(&request(1, &[("Upper-Case", "x")], "/3/device/ab", BODY));
    bench.send(&request(3, &[("content-length", "7")], "/3/device/ab", BODY));
    bench.send(&bench.push(5, "ab"));
    let expected = [(kind::RST_STREAM, 1), (kind::RST_STREAM, 3), (kind::HEADERS, 5)];
    assert_eq!(briefs(&bench.frames()), expected);
}

#[test]
fn each_breach_of_the_protocol_ends_the_connection_with_its_code() {
    let headers =
        |stream| raw(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &block(&[], "/"));
    let cases: Vec<(&str, Vec<u8>, u8)> = vec![
        ("an even stream", headers(2), 1),
        ("a stream that went back", [headers(3), headers(1)].concat(), 5),
        ("data on an idle stream", raw(kind::DATA, 0, 1, b"x"), 1),
        ("data on the connection", raw(kind::DATA, 0, 0, b"x"), 1),
        ("a push promise", raw(kind::PUSH_PROMISE, 0, 1, &[0; 4]), 1),
        ("a stray continuation", raw(kind::CONTINUATION, 0, 1, &[]), 1),
        ("a reset of an idle stream", raw(kind::RST_STREAM, 0, 1, &[0; 4]), 1),
        ("a short ping", raw(kind::PING, 0, 0, &[0; 7]), 6),
        ("a window of nothing", raw(kind::WINDOW_UPDATE, 0, 0, &[0; 4]), 1),
        (
            "a window beyond all bounds",
            raw(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            3,
        ),
        ("settings on a stream", raw(kind::SETTINGS, 0, 1, &[]), 1),
        ("half a setting", raw(kind::SETTINGS, 0, 0, &[0; 5]), 6),
        ("a large frame", raw(kind::DATA, 0, 1, &[0; 16_385]), 6),
        ("too much padding", [headers(1), raw(kind::DATA, flag::PADDED, 1, &[9, 0])].concat(), 1),
        ("a broken header block", raw(kind::HEADERS, flag::END_HEADERS, 1, &[0xff]), 9),
        (
            "an endless header block",
            {
                let part = raw(kind::CONTINUATION, 0, 1, &[0x82; 9_000]);
                [raw(kind::HEADERS, 0, 1, &[]), part.clone(), part].concat()
            },
            11,
        ),
        ("nothing but pings", raw(kind::PING, 0, 0, &[0; 8]).repeat(10_001), 11),
    ];
    for (what, bytes, code) in cases {
        let mut bench = Bench::open(|c| c.first_stream_alone = false);
        bench.send(&bytes);
        let frames = bench.frames();
        let last = frames.last().unwrap_or_else(|| panic!("{what}: no answer"));
        assert_eq!((last.kind, last.payload[7]), (kind::GOAWAY, code), "{what}");
        assert!(bench.connection.end().is_some(), "{what}");
        bench.send(&bench.push(9, "ab"));
        assert_eq!(bench.frames(), [], "{what}: deaf from then on");
    }
}

#[test]
fn what_is_no_http2_is_told_so() {
    let mut bench = Bench::new(|_| {});
    bench.send(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(bench.frames().last().map(|f| f.kind), Some(kind::GOAWAY));
}

#[test]
fn a_client_that_gives_up_is_noted() {
    let mut bench = Bench::open(|c| c.first_stream_alone = false);
    bench.faults(r#"{"latency": {"p50_us": 1000}}"#);
    bench.send(&bench.push(1, "ab"));
    bench.send(&raw(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]));
    bench.advance(Duration::from_millis(5));
    assert_eq!(bench.frames(), []);
    bench.send(&bench.push(3, "ac"));
    bench.advance(Duration::from_millis(5));
    assert_eq!(bench.frames().len(), 1);
    bench.send(&raw(kind::RST_STREAM, 0, 3, &[0, 0, 0, 8]));
    let flags: Vec<_> = bench.entries().iter().map(|e| e.flags).collect();
    let accepted = record::ACCEPTED | record::CANCELLED;
    assert_eq!(flags, [accepted, accepted | record::ANSWERED], "the second crossed its answer");
    assert!(bench.entries().iter().all(|e| e.accepted() && !e.settled()));
}
