//! Results of single requests other than a plain answer, by token and by chance.

use std::time::Duration;

use clarion_emulator::{
    answer::Reason,
    connection::End,
    frame::kind,
    record::{Entry, flag as record},
};

use super::{
    bench::{Bench, Frame},
    sender::{fcm_body, fcm_token},
};

fn open() -> Bench {
    Bench::open(|c| c.first_stream_alone = false)
}

fn briefs(bench: &mut Bench) -> Vec<(u8, u32)> {
    bench.frames().iter().map(Frame::brief).collect()
}

/// Returns the stream and code of each RST_STREAM.
fn resets(frames: &[Frame]) -> Vec<(u32, u8)> {
    frames.iter().filter(|f| f.kind == kind::RST_STREAM).map(|f| (f.stream, f.payload[3])).collect()
}

#[test]
fn a_reset_in_place_of_an_answer_says_nothing_of_delivery() {
    for delivered in [false, true] {
        let mut bench = open();
        bench.faults(&format!(
            r#"{{"errors": [{{"fate": "reset", "ppm": 1000000, "delivered": {delivered}}}]}}"#
        ));
        bench.send(&bench.push(1, "ab"));
        assert_eq!(resets(&bench.frames()), [(1, 2)], "INTERNAL_ERROR");
        let entry = bench.entries()[0];
        assert_eq!((entry.accepted(), entry.settled(), entry.status), (delivered, false, 0));
    }
}

#[test]
fn a_reset_behind_a_whole_answer_takes_nothing_back() {
    let mut bench = open();
    bench.faults(r#"{"errors": [{"fate": "answer_then_reset", "ppm": 1000000}]}"#);
    bench.send(&bench.push(1, "ab"));
    assert_eq!(briefs(&mut bench), [(kind::HEADERS, 1), (kind::RST_STREAM, 1)]);
    assert!(bench.entries()[0].settled());
    let mut bench = Bench::fcm(|_| {});
    bench.faults(
        r#"{"errors": [{"fate": "answer_then_reset", "reason": "UNAVAILABLE", "ppm": 1000000}]}"#,
    );
    bench.send(&bench.message(1, &fcm_body(&fcm_token(1))));
    let frames = bench.frames();
    assert_eq!(
        frames.iter().map(|f| f.kind).collect::<Vec<_>>(),
        [kind::HEADERS, kind::DATA, kind::RST_STREAM]
    );
    assert_eq!(resets(&frames), [(1, 0)], "NO_ERROR");
    assert_eq!((bench.entries()[0].accepted(), bench.entries()[0].status), (false, 503));
}

#[test]
fn a_token_may_stall_while_others_are_answered() {
    let mut bench = open();
    bench.faults(r#"{"rules": [{"ppm": 500000, "answer": {"fate": "stall", "delivered": true}}], "seed": 5}"#);
    for i in 0..200_u32 {
        bench.send(&bench.push(2 * i + 1, &format!("{i:08x}")));
    }
    let answered = bench.frames().len();
    // Six standard deviations of 7.
    assert!((57..143).contains(&answered), "{answered}");
    bench.advance(Duration::from_secs(3_600));
    assert_eq!(briefs(&mut bench), []);
    assert!(bench.entries().iter().all(Entry::accepted));
    assert_eq!(bench.connection.open_streams(), 200 - answered);
}

#[test]
fn a_token_is_refused_at_first_and_taken_then() {
    let mut bench = open();
    bench.faults(r#"{"rules": [{"ppm": 1000000, "answer": {"fate": "refuse", "times": 2}}]}"#);
    for stream in [1, 3, 5] {
        bench.send(&bench.push(stream, "ab"));
    }
    assert_eq!(
        briefs(&mut bench),
        [(kind::RST_STREAM, 1), (kind::RST_STREAM, 3), (kind::HEADERS, 5)]
    );
    let flags: Vec<_> = bench.entries().iter().map(|e| e.flags).collect();
    assert_eq!(
        flags,
        [record::UNPROCESSED, record::UNPROCESSED, record::ACCEPTED | record::ANSWERED]
    );
}

#[test]
fn a_message_that_is_refused_does_not_count_on_the_quota() {
    let mut bench = Bench::fcm(|c| c.projects[0].quota_per_minute = 1);
    bench.faults(r#"{"rules": [{"ppm": 1000000, "answer": {"fate": "refuse", "times": 1}}]}"#);
    bench.send(&bench.message(1, &fcm_body(&fcm_token(1))));
    bench.send(&bench.message(3, &fcm_body(&fcm_token(1))));
    let statuses: Vec<_> = bench.entries().iter().map(|e| e.status).collect();
    assert_eq!(statuses, [0, 200]);
}

#[test]
fn errors_come_in_bursts() {
    let mut bench = open();
    bench.faults(
        r#"{"errors": [{"reason": "ServiceUnavailable", "ppm": 1000000, "duration_ms": 200, "every_ms": 1000}]}"#,
    );
    let mut stream = 1;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        for wait in [150, 850] {
            bench.send(&bench.push(stream, "ab"));
            stream += 2;
            bench.advance(Duration::from_millis(wait));
        }
    }
    statuses.extend(bench.entries().iter().map(|e| e.status));
    // At 0 and 150 ms of each second.
    assert_eq!(statuses, [503; 6]);
    bench.advance(Duration::from_millis(200));
    bench.send(&bench.push(stream, "ab"));
    assert_eq!(bench.entries().last().map(|e| e.status), Some(200));
}

#[test]
fn a_provider_token_ages_faster_for_a_while() {
    let mut bench = open();
    bench.faults(r#"{"provider_token": {"age_seconds_max": 5, "duration_ms": 20000}}"#);
    for (i, seconds) in [0, 6, 15].into_iter().enumerate() {
        bench.advance(Duration::from_secs(seconds));
        bench.send(&bench.push(2 * u32::try_from(i).expect("few") + 1, "ab"));
    }
    let reasons: Vec<_> =
        bench.entries().iter().map(|e| e.reason().expect("a reason").as_str()).collect();
    assert_eq!(reasons, ["", "ExpiredProviderToken", ""]);
}

#[test]
fn dead_tokens_tell_when_they_died_before_or_after_a_registration() {
    for offset in [-86_400_000_i64, 86_400_000] {
        let mut bench = open();
        bench.faults(&format!(
            r#"{{"rules": [{{"ppm": 1000000, "answer": {{"reason": "Unregistered", "timestamp_offset_ms": {offset}}}}}]}}"#
        ));
        bench.send(&bench.push(1, "ab"));
        let body = String::from_utf8(bench.frames()[1].payload.clone()).expect("UTF-8");
        let told = format!(r#""timestamp":{}}}"#, bench.now.wall.0.saturating_add_signed(offset));
        assert!(body.ends_with(&told), "{body}");
    }
}

#[test]
fn a_storm_of_wrong_environment_is_a_rule() {
    let mut bench = open();
    bench.faults(r#"{"rules": [{"ppm": 1000000, "answer": {"reason": "BadDeviceToken"}}]}"#);
    for i in 0..100_u32 {
        bench.send(&bench.push(2 * i + 1, &format!("{i:08x}")));
    }
    assert!(bench.entries().iter().all(|e| e.status == 400 && !e.accepted()));
}

#[test]
fn an_answer_is_cut_behind_its_head() {
    let mut bench = open();
    bench.faults(
        r#"{"errors": [{"fate": "head_then_reset", "status": 403, "ppm": 1000000, "times": 1}]}"#,
    );
    bench.send(&bench.push(1, "ab"));
    let frames = bench.frames();
    assert_eq!(
        frames.iter().map(Frame::brief).collect::<Vec<_>>(),
        [(kind::HEADERS, 1), (kind::RST_STREAM, 1)]
    );
    assert!(
        frames[0].payload.starts_with(b"\x08\x03403") && frames[0].flags & 1 == 0,
        "a body is to follow"
    );
    assert_eq!(resets(&frames), [(1, 2)], "INTERNAL_ERROR");
    let entry = bench.entries()[0];
    assert_eq!((entry.status, entry.reason, entry.flags), (403, 0, 0), "the client has no answer");
    bench.send(&bench.push(3, "ac"));
    assert_eq!(briefs(&mut bench), [(kind::HEADERS, 3)], "once was ordered");
}

#[test]
fn an_answer_is_cut_by_the_end_of_its_connection() {
    let mut bench = Bench::fcm(|_| {});
    bench.faults(r#"{"errors": [{"fate": "head_then_close", "status": 404, "ppm": 1000000}]}"#);
    bench.send(&bench.message(1, &fcm_body(&fcm_token(1))));
    let frames = bench.frames();
    assert_eq!(frames.iter().map(Frame::brief).collect::<Vec<_>>(), [(kind::HEADERS, 1)]);
    assert_eq!(frames[0].payload[0], 0x80 | 13, ":status 404 of the static table");
    assert_eq!(bench.connection.end(), Some(End::Cut));
    assert_eq!((bench.entries()[0].status, bench.entries()[0].flags & record::ANSWERED), (404, 0));
}

#[test]
fn a_proxy_answers_with_pages_of_its_own_before_either_provider() {
    for status in [302, 403, 404, 407, 413] {
        let faults =
            format!(r#"{{"errors": [{{"reason": "PAGE", "status": {status}, "ppm": 1000000}}]}}"#);
        let mut apns = open();
        apns.faults(&faults);
        apns.send(&apns.push(1, "ab"));
        let mut fcm = Bench::fcm(|_| {});
        fcm.faults(&faults);
        fcm.send(&fcm.message(1, &fcm_body(&fcm_token(1))));
        for bench in [&mut apns, &mut fcm] {
            let frames = bench.frames();
            assert_eq!(
                frames.iter().map(|f| f.kind).collect::<Vec<_>>(),
                [kind::HEADERS, kind::DATA]
            );
            let (head, page) =
                (&frames[0].payload, String::from_utf8_lossy(&frames[1].payload).into_owned());
            assert!(head.windows(9).any(|w| w == b"text/html"), "{status}");
            assert_eq!(head.windows(8).any(|w| w == b"location"), status == 302);
            assert!(
                page.starts_with("<html>") && page.contains(&format!("<h1>{status}</h1>")),
                "{page}"
            );
            let entry = bench.entries()[0];
            assert_eq!(
                (entry.status, entry.reason(), entry.accepted()),
                (status, Some(Reason::Page), false)
            );
        }
    }
}

#[test]
fn a_devices_rate_is_named_by_the_message_alone() {
    let mut bench = Bench::fcm(|_| {});
    let rule = r#"{"ppm": 1000000, "answer": {"reason": "DEVICE_RATE_EXCEEDED", "times": 1, "retry_after": {"seconds": 1}}}"#;
    bench.faults(&format!(r#"{{"rules": [{rule}]}}"#));
    bench.send(&bench.message(1, &fcm_body(&fcm_token(1))));
    let frames = bench.frames();
    assert!(frames[0].payload.windows(11).any(|w| w == b"retry-after"));
    let body = String::from_utf8(frames[1].payload.clone()).expect("UTF-8");
    assert!(
        body.contains("Device message rate exceeded") && body.contains("QUOTA_EXCEEDED"),
        "{body}"
    );
    assert!(!body.contains("QuotaFailure") && !body.contains("ErrorInfo"), "{body}");
}
