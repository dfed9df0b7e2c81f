//! Frames in and frames out: the conversation of FCM with its clients.

use std::time::Duration;

use clarion_emulator::{
    Platform,
    connection::End,
    frame::{self, flag, kind},
    record::flag as record,
};
use clarion_proto::device::token_hash;

use super::{
    bench::{Bench, Frame, block, raw, request, settings, split},
    sender::{FCM_PATH, fcm_body, fcm_token},
};

const SECOND: Duration = Duration::from_secs(1);

fn briefs(frames: &[Frame]) -> Vec<(u8, u32)> {
    frames.iter().map(Frame::brief).collect()
}

fn goaway(frames: &[Frame]) -> (u8, String) {
    let last = frames.last().expect("a frame");
    assert_eq!(last.kind, kind::GOAWAY);
    (last.payload[7], String::from_utf8_lossy(&last.payload[8..]).into_owned())
}

#[test]
fn a_hundred_streams_are_allowed_from_the_start() {
    let mut bench = Bench::fcm(|_| {});
    bench.faults(r#"{"latency": {"p50_us": 1000}}"#);
    for i in 0..100 {
        bench.send(&bench.message(2 * i + 1, &fcm_body(&fcm_token(i))));
    }
    assert!(bench.frames().iter().all(|f| f.kind == kind::WINDOW_UPDATE), "nothing but credit");
    bench.advance(Duration::from_millis(2));
    let answers = bench.frames();
    assert_eq!(answers.len(), 200);
    assert_eq!(briefs(&answers[..2]), [(kind::HEADERS, 1), (kind::DATA, 1)]);
    assert!(bench.entries().iter().all(|e| e.settled()));
}

#[test]
fn the_settings_say_so() {
    let mut bench = Bench::new(|c| *c = super::sender::fcm_config());
    let expected = settings(&[(1, 4_096), (3, 100), (4, 65_535), (5, 16_384), (6, 8_000)]);
    assert_eq!(bench.frames(), split(&expected));
}

#[test]
fn one_stream_more_ends_the_connection_in_googles_words() {
    let mut bench = Bench::fcm(|_| {});
    bench.faults(r#"{"latency": {"p50_us": 1000}}"#);
    for i in 0..101 {
        bench.send(&bench.message(2 * i + 1, &fcm_body(&fcm_token(i))));
    }
    assert_eq!(goaway(&bench.frames()), (1, "exceeded_max_concurrent_streams".to_owned()));
    assert_eq!(bench.connection.end(), Some(End::Protocol));
    assert_eq!(
        bench.entries().iter().filter(|e| e.accepted() && !e.settled()).count(),
        100,
        "delivered, never told"
    );
}

#[test]
fn keepalive_pings_are_punished() {
    let ping = raw(kind::PING, 0, 0, b"12345678");
    let mut bench = Bench::fcm(|_| {});
    for i in 0..10 {
        bench.send(&ping);
        bench.send(&ping);
        bench.send(&bench.message(2 * i + 1, &fcm_body(&fcm_token(i))));
        assert_eq!(bench.frames().len(), 4, "two pings between requests are answered");
    }
    bench.send(&ping.repeat(2));
    bench.frames();
    bench.send(&ping);
    assert_eq!(goaway(&bench.frames()), (11, "too_many_pings".to_owned()));
    assert!(bench.connection.end().is_some());
}

#[test]
fn an_acknowledgement_of_a_ping_is_no_ping() {
    let mut bench = Bench::fcm(|_| {});
    bench.send(&raw(kind::PING, flag::ACK, 0, b"12345678").repeat(10));
    assert_eq!(bench.frames(), []);
}

#[test]
fn an_idle_session_times_out_and_a_used_one_does_not() {
    let mut bench = Bench::fcm(|c| c.session_idle_seconds = 60);
    bench.send(&bench.message(1, &fcm_body(&fcm_token(1))));
    bench.advance(59 * SECOND);
    bench.send(&bench.message(3, &fcm_body(&fcm_token(2))));
    assert_eq!(bench.frames().len(), 4);
    assert_eq!(bench.deadline().map(|d| d.since(bench.now.at)), Some(60 * SECOND));
    bench.advance(60 * SECOND);
    assert_eq!(goaway(&bench.frames()), (0, "session_timed_out".to_owned()));
    assert_eq!(bench.connection.end(), Some(End::Drained));
}

#[test]
fn a_session_that_waits_for_an_answer_is_not_idle() {
    let mut bench = Bench::fcm(|c| c.session_idle_seconds = 60);
    bench.faults(r#"{"latency": {"p50_us": 120000000}}"#);
    bench.send(&bench.message(1, &fcm_body(&fcm_token(1))));
    bench.advance(119 * SECOND);
    assert_eq!(bench.frames(), []);
    bench.advance(SECOND);
    assert_eq!(briefs(&bench.frames()), [(kind::HEADERS, 1), (kind::DATA, 1)]);
    bench.advance(60 * SECOND);
    assert_eq!(bench.connection.end(), Some(End::Drained));
}

#[test]
fn host_serves_as_authority_and_the_scheme_in_any_case() {
    let mut bench = Bench::fcm(|_| {});
    let bearer = bench.bearer.replacen("Bearer", "bEARER", 1);
    let mut head = block(&[("host", "fcm.googleapis.com"), ("authorization", &bearer)], FCM_PATH);
    // Without `:authority`: its name, its length and its 18 characters.
    let at = head.windows(18).position(|w| w == b"api.push.apple.com").expect("it is there");
    head.drain(at - 2..at + 18);
    bench.send(&raw(kind::HEADERS, flag::END_HEADERS, 1, &head));
    bench.send(&raw(kind::DATA, flag::END_STREAM, 1, &fcm_body(&fcm_token(1))));
    assert_eq!(bench.entries().iter().map(|e| e.status).collect::<Vec<_>>(), [200]);
}

#[test]
fn a_body_may_come_in_pieces_and_is_recorded_by_its_token() {
    let mut bench = Bench::fcm(|_| {});
    for (i, cut) in [1, 40, 200].into_iter().enumerate() {
        let (i, token) = (u32::try_from(i).expect("few"), fcm_token(7));
        let whole = bench.message(2 * i + 1, &fcm_body(&token));
        for piece in whole.chunks(cut) {
            bench.send(piece);
        }
    }
    let entries = bench.entries();
    assert_eq!(entries.len(), 3);
    let hashes = (token_hash(fcm_token(7).as_bytes()), xxhash_rust::xxh3::xxh3_64(b"case-1"));
    assert!(entries.iter().all(|e| e.accepted() && (e.token_hash, e.collapse_hash) == hashes));
    assert!(entries.iter().all(|e| e.flags & record::COUNTED != 0));
}

#[test]
fn an_answer_waits_for_the_clients_window() {
    let mut bench = Bench::fcm(|_| {});
    bench.send(&settings(&[(4, 10)]));
    bench.frames();
    bench.send(&bench.message(1, &fcm_body(&fcm_token(1))));
    bench.send(&bench.message(3, &fcm_body(&fcm_token(2))));
    assert_eq!(briefs(&bench.frames()), [(kind::HEADERS, 1), (kind::HEADERS, 3)]);
    assert!(bench.entries().iter().all(|e| e.accepted() && e.flags & record::ANSWERED == 0));
    let mut update = Vec::new();
    frame::window_update(&mut update, 3, 1_000);
    bench.send(&update);
    assert_eq!(briefs(&bench.frames()), [(kind::DATA, 3)]);
    bench.send(&settings(&[(4, 65_535)]));
    assert_eq!(briefs(&bench.frames()), [(kind::SETTINGS, 0), (kind::DATA, 1)]);
    assert!(bench.entries().iter().all(|e| e.settled()));
}

#[test]
fn a_dry_run_reaches_nobody() {
    let mut bench = Bench::fcm(|_| {});
    let body = format!(r#"{{"validate_only":true,"message":{{"token":"{}"}}}}"#, fcm_token(1));
    bench.send(&bench.message(1, body.as_bytes()));
    let frames = bench.frames();
    let name = "{\n  \"name\": \"projects/missing-children/messages/fake_message_id\"\n}\n";
    assert_eq!(String::from_utf8_lossy(&frames[1].payload), name);
    assert_eq!((bench.entries()[0].status, bench.entries()[0].accepted()), (200, false));
}

#[test]
fn an_access_token_ends_with_its_hour() {
    let mut bench = Bench::fcm(|c| c.session_idle_seconds = 0);
    bench.advance(3_599 * SECOND);
    bench.send(&bench.message(1, &fcm_body(&fcm_token(1))));
    bench.advance(SECOND);
    bench.send(&bench.message(3, &fcm_body(&fcm_token(1))));
    assert_eq!(bench.entries().iter().map(|e| e.status).collect::<Vec<_>>(), [200, 401]);
}

#[test]
fn who_connects_and_never_asks_is_idle_too() {
    let mut bench = Bench::fcm(|c| c.session_idle_seconds = 60);
    bench.advance(Duration::ZERO);
    bench.advance(60 * SECOND);
    assert_eq!(goaway(&bench.frames()), (0, "session_timed_out".to_owned()));
}

#[test]
fn faults_play_on_fcm_too() {
    let mut bench = Bench::fcm(|_| {});
    bench.faults(r#"{"errors": [{"fate": "refuse", "ppm": 1000000}]}"#);
    bench.send(&bench.message(1, &fcm_body(&fcm_token(1))));
    assert_eq!(briefs(&bench.frames()), [(kind::RST_STREAM, 1)]);
    bench.faults(r#"{"silent": {"mode": "drop_answers", "duration_ms": 1000}}"#);
    bench.send(&bench.message(3, &fcm_body(&fcm_token(2))));
    bench.advance(2 * SECOND);
    assert_eq!(bench.frames(), []);
    bench.send(&raw(kind::RST_STREAM, 0, 3, &[0, 0, 0, 8]));
    bench.faults(r#"{"latency": {"p50_us": 5000}}"#);
    bench.send(&bench.message(5, &fcm_body(&fcm_token(3))));
    bench.faults(r#"{"once": [{"do": "goaway", "refuse_open": true}]}"#);
    assert_eq!(goaway(&bench.frames()), (0, "session_timed_out".to_owned()));
    let entries = bench.entries();
    let flags: Vec<_> = entries.iter().map(|e| e.flags).collect();
    let counted = record::COUNTED;
    assert_eq!(
        flags,
        [
            record::UNPROCESSED,
            record::ACCEPTED | record::CANCELLED | counted,
            record::UNPROCESSED | counted
        ]
    );
    let hashes: Vec<_> = (1..4).map(|i| token_hash(fcm_token(i).as_bytes())).collect();
    assert_eq!(entries.iter().map(|e| e.token_hash).collect::<Vec<_>>(), hashes);
}

#[test]
fn a_503_may_have_delivered() {
    let mut bench = Bench::fcm(|_| {});
    bench.faults(
        r#"{"errors": [{"reason": "UNAVAILABLE", "ppm": 500000, "delivered": true, "retry_after": {"seconds": 10}}]}"#,
    );
    for i in 0..400 {
        bench.send(&bench.message(2 * i + 1, &fcm_body(&fcm_token(i))));
        let mut update = Vec::new();
        frame::window_update(&mut update, 0, 1_000);
        bench.send(&update);
        bench.frames();
    }
    let failed = bench.entries().iter().filter(|e| e.status == 503).count();
    // Six standard deviations of 10.
    assert!((140..260).contains(&failed), "{failed}");
    assert!(bench.entries().iter().all(|e| e.accepted() && e.settled() == (e.status == 200)));
}

#[test]
fn reasons_of_the_other_platform_are_refused() {
    use clarion_emulator::{
        Faults,
        answer::Reason,
        faults::FaultsError,
        script::{Rule, Scripted, Scripts},
    };
    let rules = vec![Rule { ppm: 1, answer: Scripted::always(Reason::Unregistered) }];
    let mut config = super::sender::fcm_config();
    config.scripts = Scripts { rules: rules.clone(), ..Scripts::default() };
    assert!(config.policy().is_err());
    let faults = Faults { rules, ..Faults::default() };
    assert_eq!(faults.check(Platform::Fcm), Err(FaultsError::ForeignReason(Reason::Unregistered)));
    assert_eq!(faults.check(Platform::Apns), Ok(()));
}

#[test]
fn a_method_or_path_that_is_none_gets_a_page() {
    let mut bench = Bench::fcm(|_| {});
    let bearer = bench.bearer.clone();
    bench.send(&request(
        1,
        &[("authorization", &bearer)],
        "/v1/projects/missing-children/messages:batch",
        b"{}",
    ));
    let frames = bench.frames();
    assert!(String::from_utf8_lossy(&frames[1].payload).starts_with("<!DOCTYPE html>"));
    assert_eq!(bench.entries()[0].status, 404);
}
