//! Ordered faults of the gateway, with the time under control of the test.

use std::time::Duration;

use clarion_emulator::{connection::End, frame::kind, record::flag as record};

use super::bench::{Bench, Frame, raw};

const MS: Duration = Duration::from_millis(1);

fn kinds(frames: &[Frame]) -> Vec<(u8, u32)> {
    frames.iter().map(Frame::brief).collect()
}

fn open() -> Bench {
    Bench::open(|c| c.first_stream_alone = false)
}

#[test]
fn latency_delays_each_answer() {
    let mut bench = open();
    bench.faults(r#"{"latency": {"p50_us": 5000}}"#);
    bench.send(&bench.push(1, "ab"));
    assert_eq!(bench.deadline().map(|d| d.since(bench.now.at)), Some(5 * MS));
    bench.advance(4 * MS);
    assert_eq!(bench.frames(), []);
    bench.advance(MS);
    assert_eq!(kinds(&bench.frames()), [(kind::HEADERS, 1)]);
}

#[test]
fn slowness_paces_answers_and_its_end_hastens_them() {
    let mut bench = open();
    bench.faults(r#"{"slow": {"factor": 100, "normal_per_second": 10000, "duration_ms": 50}}"#);
    for i in 0..20 {
        bench.send(&bench.push(2 * i + 1, "ab"));
    }
    // 100 a second: the first at once, then one every 10 ms.
    assert_eq!(bench.frames().len(), 1);
    for _ in 0..4 {
        bench.advance(10 * MS);
        assert_eq!(bench.frames().len(), 1);
    }
    bench.advance(10 * MS);
    assert_eq!(bench.frames().len(), 15, "all the rest");
}

#[test]
fn dropped_answers_never_come() {
    let mut bench = open();
    bench.faults(r#"{"silent": {"mode": "drop_answers", "duration_ms": 1000}}"#);
    bench.send(&bench.push(1, "ab"));
    bench.advance(2_000 * MS);
    assert_eq!(bench.frames(), []);
    bench.send(&bench.push(3, "ac"));
    assert_eq!(kinds(&bench.frames()), [(kind::HEADERS, 3)]);
    let entries = bench.entries();
    assert!(entries[0].accepted() && entries[0].flags & record::ANSWERED == 0);
    assert!(entries[1].settled());
}

#[test]
fn held_answers_come_at_the_end_and_a_silence_is_not_broken_by_older_ones() {
    let mut bench = open();
    bench.faults(r#"{"latency": {"p50_us": 2000}}"#);
    bench.send(&bench.push(1, "ab"));
    bench.faults(
        r#"{"latency": {"p50_us": 2000}, "silent": {"mode": "hold_answers", "duration_ms": 100}}"#,
    );
    bench.send(&bench.push(3, "ac"));
    bench.advance(50 * MS);
    assert_eq!(bench.frames(), []);
    assert_eq!(bench.deadline(), None, "nothing to wake for but the silence's end");
    bench.advance(50 * MS);
    bench.advance(2 * MS);
    assert_eq!(kinds(&bench.frames()), [(kind::HEADERS, 1), (kind::HEADERS, 3)]);
}

#[test]
fn errors_strike_by_chance_and_may_deliver_nevertheless() {
    let mut bench = open();
    bench.faults(
        r#"{"errors": [{"reason": "ServiceUnavailable", "ppm": 500000, "delivered": true}]}"#,
    );
    for i in 0..1_000 {
        bench.send(&bench.push(2 * i + 1, "ab"));
        bench.frames();
    }
    let failed = bench.entries().iter().filter(|e| e.status == 503).count();
    // Six standard deviations of 15.8.
    assert!((405..595).contains(&failed), "{failed}");
    assert!(bench.entries().iter().all(clarion_emulator::record::Entry::accepted));
    assert!(bench.entries().iter().all(|e| e.settled() == (e.status == 200)));
}

#[test]
fn refused_streams_are_not_accepted() {
    let mut bench = open();
    bench.faults(r#"{"errors": [{"fate": "refuse", "ppm": 1000000}]}"#);
    bench.send(&bench.push(1, "ab"));
    let frames = bench.frames();
    assert_eq!(kinds(&frames), [(kind::RST_STREAM, 1)]);
    assert_eq!(frames[0].payload, [0, 0, 0, 7]);
    assert!(!bench.entries()[0].accepted());
}

#[test]
fn a_rule_throttles_a_token_for_its_first_attempts() {
    let mut bench = open();
    bench.faults(
        r#"{"rules": [{"ppm": 1000000, "answer": {"reason": "TooManyRequests", "times": 1}}]}"#,
    );
    bench.send(&bench.push(1, "ab"));
    bench.send(&bench.push(3, "ab"));
    bench.send(&bench.push(5, "ac"));
    let statuses: Vec<_> = bench.entries().iter().map(|e| e.status).collect();
    assert_eq!(statuses, [429, 200, 429]);
}

#[test]
fn a_goaway_lets_what_is_open_finish() {
    let mut bench = open();
    bench.faults(r#"{"latency": {"p50_us": 5000}}"#);
    bench.send(&bench.push(1, "ab"));
    bench.faults(
        r#"{"latency": {"p50_us": 5000}, "once": [{"do": "goaway", "reason": "Shutdown"}]}"#,
    );
    let frames = bench.frames();
    assert_eq!(frames[0].payload, b"\0\0\0\x01\0\0\0\0{\"reason\":\"Shutdown\"}");
    bench.send(&bench.push(3, "ac"));
    assert_eq!(bench.connection.end(), None);
    bench.advance(5 * MS);
    assert_eq!(kinds(&bench.frames()), [(kind::HEADERS, 1)]);
    assert_eq!(bench.connection.end(), Some(End::Drained));
    assert_eq!(bench.entries().len(), 1, "the stream above the last one was not looked at");
}

#[test]
fn a_goaway_in_two_steps() {
    let mut bench = open();
    bench.faults(r#"{"once": [{"do": "goaway", "two_step_ms": 10}]}"#);
    assert_eq!(bench.frames()[0].payload, [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    bench.send(&bench.push(1, "ab"));
    assert_eq!(kinds(&bench.frames()), [(kind::HEADERS, 1)], "between the steps all is as ever");
    bench.advance(10 * MS);
    assert_eq!(bench.frames()[0].payload, [0, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(bench.connection.end(), Some(End::Drained));
}

#[test]
fn a_goaway_below_what_is_open_takes_acceptances_back() {
    let mut bench = open();
    bench.send(&bench.push(1, "aa"));
    bench.faults(r#"{"latency": {"p50_us": 5000}}"#);
    bench.send(&bench.push(3, "ab"));
    bench.send(&bench.push(5, "ac"));
    bench.frames();
    bench.faults(r#"{"once": [{"do": "goaway", "refuse_open": true}]}"#);
    assert_eq!(bench.frames()[0].payload[..4], [0, 0, 0, 1]);
    bench.advance(5 * MS);
    assert_eq!(bench.frames(), []);
    assert_eq!(bench.connection.end(), Some(End::Drained));
    let accepted: Vec<_> = bench
        .entries()
        .iter()
        .map(|e| (e.accepted(), e.flags & record::UNPROCESSED != 0))
        .collect();
    assert_eq!(accepted, [(true, false), (false, true), (false, true)]);
}

#[test]
fn a_connection_that_is_lost_casts_doubt_on_its_last_answers() {
    let mut bench = open();
    bench.send(&bench.push(1, "aa"));
    bench.frames();
    bench.advance(2_000 * MS);
    bench.send(&bench.push(3, "ab"));
    bench.frames();
    bench.send(&bench.push(5, "ac"));
    let now = bench.now.at;
    bench.connection.lost(now, &mut bench.log);
    let all = record::ACCEPTED | record::ANSWERED;
    let flags: Vec<_> = bench.entries().iter().map(|e| e.flags).collect();
    assert_eq!(
        flags,
        [all, all | record::DOUBTFUL, record::ACCEPTED],
        "old, late, and never written"
    );
}

#[test]
fn a_settings_flood_of_the_client_changes_nothing_for_others() {
    let mut bench = open();
    bench.send(&raw(kind::SETTINGS, 0, 0, &[]).repeat(100));
    assert_eq!(bench.frames().len(), 100);
    bench.send(&bench.push(1, "ab"));
    assert_eq!(kinds(&bench.frames()), [(kind::HEADERS, 1)]);
}

#[test]
fn a_client_that_says_goodbye_leaves_no_doubt() {
    let mut bench = open();
    bench.send(&bench.push(1, "ab"));
    bench.frames();
    bench.send(&raw(kind::GOAWAY, 0, 0, &[0; 8]));
    let now = bench.now.at;
    bench.connection.lost(now, &mut bench.log);
    assert!(bench.entries()[0].settled());
}
