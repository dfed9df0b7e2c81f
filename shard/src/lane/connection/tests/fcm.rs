//! FCM: the token in the body, answers with a body, no PINGs.

use std::time::Duration;

use clarion_proto::{device::TOKEN_BYTES_MAX, time::Time};
use proptest::prelude::*;

use super::{
    super::{CloseReason, ConnectionConfig, ConnectionEvent, ErrorCode, PushError, TemplateSpec},
    support::*,
};
use crate::outcome::{Answer, Reason, fcm};

const BEFORE: &str = r#"{"message":{"notification":{"title":"Missing child"},"token":""#;
const AFTER: &str = r#""}}"#;

/// Returns a token of letters, digits, `-`, `_` and `:`, like FCM's.
fn fcm_token(ticket: u64, length: usize) -> Vec<u8> {
    format!("{ticket:022x}:")
        .bytes()
        .chain(b"APA91b-_Zz09".iter().copied().cycle())
        .take(length)
        .collect()
}

fn body(token: &[u8]) -> Vec<u8> {
    [BEFORE.as_bytes(), token, AFTER.as_bytes()].concat()
}

fn push(talk: &mut Talk, ticket: u64, token: &[u8]) -> Result<(), PushError> {
    talk.connection.push(ticket, 7, &fcm_spec(BEFORE, AFTER), token, talk.now)
}

/// Creates a connection after SETTINGS, with filled and settled tables.
fn warm(config: ConnectionConfig, more: &[(u16, u32)]) -> Talk {
    let mut talk = Talk::new(config);
    talk.hear(&[settings(&[&[(STREAMS, 100)], more].concat()), settings_ack()].concat());
    for id in [1, 3] {
        push(&mut talk, 0, b"warm").unwrap();
        talk.hear(&headers(id, &[0x20, 0x88], true));
        assert!(matches!(talk.connection.poll(), Some(ConnectionEvent::Answer { .. })));
    }
    talk.say();
    talk
}

fn answer(
    ticket: u64,
    status: u16,
    reason: impl Into<Reason>,
    retry_after_s: Option<u64>,
) -> ConnectionEvent {
    let retry_after = retry_after_s.map(Duration::from_secs);
    ConnectionEvent::Answer {
        ticket,
        answer: Answer { status, reason: reason.into(), timestamp_ms: None, retry_after },
    }
}

#[test]
fn the_block_is_constant_and_the_token_stands_in_the_body() {
    let mut talk = warm(fcm_config(), &[]);
    for (n, length) in [142, 152, 163, 163, 1, TOKEN_BYTES_MAX].into_iter().enumerate() {
        let token = fcm_token(n as u64, length);
        push(&mut talk, 1, &token).unwrap();
        let id = u32::try_from(2 * n + 5).unwrap();
        assert_eq!(
            talk.say(),
            [Seen::Headers(id, fcm_fields(BEARER)), Seen::End(id, body(&token))],
            "{length}"
        );
        // Method, scheme and four entries of the table: nothing else is sent, whatever the token.
        assert_eq!(talk.block_bytes, 6);
    }
}

#[test]
fn a_literal_credential_and_small_tables_say_the_same() {
    for (indexed, table) in [(false, 4_096), (true, 0), (true, 100), (false, 64)] {
        let mut talk =
            warm(ConnectionConfig { authorization_indexed: indexed, ..fcm_config() }, &[]);
        talk.hear(&settings(&[(TABLE, table)]));
        talk.allow_table(table as usize);
        for n in 0..3u64 {
            let token = fcm_token(n, 152);
            push(&mut talk, n, &token).unwrap();
            let id = u32::try_from(2 * n + 5).unwrap();
            let seen = talk.say();
            assert!(seen.contains(&Seen::Headers(id, fcm_fields(BEARER))), "{indexed} {table}");
            assert!(seen.contains(&Seen::End(id, body(&token))));
        }
    }
}

#[test]
fn a_new_access_token_is_used_from_now_on() {
    let mut talk = warm(fcm_config(), &[]);
    talk.connection.set_authorization(authorization("Bearer ya29.new"));
    for id in [5, 7, 9] {
        push(&mut talk, 1, b"abc").unwrap();
        assert_eq!(
            talk.say(),
            [Seen::Headers(id, fcm_fields("Bearer ya29.new")), Seen::End(id, body(b"abc"))]
        );
    }
    assert_eq!(talk.block_bytes, 6);
}

#[test]
fn a_token_that_could_leave_its_string_is_refused_and_changes_nothing() {
    let mut talk = warm(fcm_config(), &[]);
    for bad in [
        &b"a\"b"[..],
        b"a\\b",
        b"a b",
        b"a\nb",
        b"a\0",
        b"\xc3\xa9",
        b"a\x7f",
        b"",
        &[b'a'; TOKEN_BYTES_MAX + 1],
    ] {
        assert_eq!(push(&mut talk, 1, bad), Err(PushError::Token));
    }
    assert_eq!((talk.connection.open_streams(), talk.say()), (0, vec![]));
    push(&mut talk, 2, b"good").unwrap();
    assert_eq!(talk.say(), [Seen::Headers(5, fcm_fields(BEARER)), Seen::End(5, body(b"good"))]);
    // With APNs any bytes are a token: they go out in hexadecimal.
    let mut apns = Talk::warm(config(), &[]);
    apns.connection.push(1, 7, &spec("{}"), b"a\"\0\\", apns.now).unwrap();
}

#[test]
fn streams_as_settings_say_and_one_before_they_came() {
    let mut talk = Talk::new(ConnectionConfig { streams_max: 100, ..fcm_config() });
    assert_eq!(talk.connection.room(), 1);
    talk.hear(&settings(&[(STREAMS, 100)]));
    // No answer has come yet: what FCM checks, it checks for each request.
    assert_eq!(talk.connection.room(), 100);
    for ticket in 0..100 {
        push(&mut talk, ticket, b"abc").unwrap();
    }
    assert_eq!(push(&mut talk, 100, b"abc"), Err(PushError::Full));
    // More than configured is never used.
    let mut talk = Talk::new(ConnectionConfig { streams_max: 100, ..fcm_config() });
    talk.hear(&settings(&[]));
    assert_eq!(talk.connection.room(), 100);
}

/// Returns the number of DATA bytes that were sent.
fn sent(seen: &[Seen]) -> usize {
    seen.iter()
        .map(|s| if let Seen::Data(_, bytes) | Seen::End(_, bytes) = s { bytes.len() } else { 0 })
        .sum()
}

#[test]
fn windows_are_reckoned_with_the_token() {
    for length in [142, 152, 163, TOKEN_BYTES_MAX] {
        let mut talk = warm(fcm_config(), &[]);
        let left = 65_535 - 2 * body(b"warm").len();
        let token = fcm_token(1, length);
        let whole = left / body(&token).len();
        let (mut pushed, mut bytes) = (0, 0);
        while talk.connection.room() > 0 {
            push(&mut talk, pushed, &token).unwrap();
            pushed += 1;
            bytes += sent(&talk.say());
            if pushed < 100 && pushed.is_multiple_of(50) {
                // Streams are not what this is about.
                (0..50).for_each(|n| {
                    talk.hear(&headers(
                        5 + 2 * u32::try_from(pushed - 50 + n).unwrap(),
                        &[0x88],
                        true,
                    ));
                });
            }
            assert!(bytes <= left);
        }
        if usize::try_from(pushed).unwrap() > whole {
            assert_eq!(
                (usize::try_from(pushed).unwrap(), bytes),
                (whole + 1, left),
                "the last was cut at the window's end"
            );
        } else {
            assert_eq!(bytes, usize::try_from(pushed).unwrap() * body(&token).len());
        }
    }
}

#[test]
fn a_body_in_pieces_is_the_same_body() {
    let token = fcm_token(3, 163);
    let meant = body(&token);
    let mut talk = warm(fcm_config(), &[]);
    // Windows so small that the token itself is cut.
    talk.hear(&settings(&[(WINDOW, 70)]));
    talk.say();
    push(&mut talk, 1, &token).unwrap();
    let mut got = Vec::new();
    let mut ended = false;
    for _ in 0..50 {
        for seen in talk.say() {
            match seen {
                Seen::Data(5, bytes) => got.extend(bytes),
                Seen::End(5, bytes) => {
                    got.extend(bytes);
                    ended = true;
                }
                Seen::Headers(5, fields) => assert_eq!(fields, fcm_fields(BEARER)),
                other => panic!("{other:?}"),
            }
        }
        if !ended {
            talk.hear(&window_update(5, 11));
        }
    }
    assert!(ended);
    assert_eq!(got, meant);
}

#[test]
fn bodies_larger_than_a_frame_by_their_token_only() {
    // One byte below a frame without the token: one frame for a token of one byte, two for a longer
    // one.
    let before = format!("{}\"", "x".repeat(16_384 - 1 - 1 - AFTER.len()));
    let spec = fcm_spec(&before, AFTER);
    let mut talk = warm(fcm_config(), &[]);
    talk.hear(&window_update(0, 1 << 20));
    for (id, token, frames) in [(5, &b"a"[..], 1), (7, b"ab", 2), (9, b"abc", 2), (11, b"b", 1)] {
        talk.connection.push(1, 8, &spec, token, talk.now).unwrap();
        let seen = talk.say();
        let pieces: Vec<_> = seen
            .iter()
            .filter_map(|s| {
                if let Seen::Data(_, b) | Seen::End(_, b) = s { Some(&b[..]) } else { None }
            })
            .collect();
        assert_eq!(pieces.len(), frames, "{id}");
        assert_eq!(pieces.concat(), [before.as_bytes(), token, AFTER.as_bytes()].concat());
        assert!(matches!(seen.last(), Some(Seen::End(last, _)) if *last == id));
    }
}

#[test]
fn accepted_with_a_body_that_nobody_reads() {
    let mut talk = warm(fcm_config(), &[]);
    for ticket in 1..=4 {
        push(&mut talk, ticket, b"abc").unwrap();
    }
    let name = br#"{"name":"projects/demo-1/messages/0:1500415314455276%31bd1c9631bd1c96"}"#;
    // In any pieces; trailers behind it; and one that breaks off after its status.
    talk.hear(&[headers(5, &[0x88], false), data(5, name, true)].concat());
    talk.hear(
        &[headers(7, &[0x88], false), headers(9, &[0x88], false), data(9, &name[..10], false)]
            .concat(),
    );
    talk.hear(
        &[
            data(7, name, false),
            data(9, &name[10..], true),
            headers(7, &[0x00, 1, b'x', 1, b'y'], true),
        ]
        .concat(),
    );
    talk.hear(&[headers(11, &[0x88], false), reset(11, 2)].concat());
    let accepted = |ticket| answer(ticket, 200, Reason::None, None);
    assert_eq!(talk.events(), [accepted(1), accepted(3), accepted(2), accepted(4)]);
    assert_eq!(talk.connection.answers.held_bytes(), 0, "nothing is kept of them");
    // A second status is against the rules, and the first does not count then.
    push(&mut talk, 5, b"abc").unwrap();
    talk.hear(&[headers(13, &[0x88], false), headers(13, &[0x88], true)].concat());
    assert_eq!(talk.events(), [ConnectionEvent::Unanswered { ticket: 5, status: None }]);
}

#[test]
fn errors_say_why_and_for_how_long() {
    let mut talk = warm(fcm_config(), &[]);
    for ticket in 1..=4 {
        push(&mut talk, ticket, b"abc").unwrap();
    }
    let literal = |name: &str, value: &str| {
        let length = |text: &str| u8::try_from(text.len()).unwrap();
        [&[0x00, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
    };
    let date = literal("date", "Sun, 06 Nov 1994 08:49:37 GMT");
    let head = |status: &str, fields: &[Vec<u8>]| {
        [&[0x08, 3], status.as_bytes(), &fields.concat()].concat()
    };
    let quota = br#"{"error":{"status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"QUOTA_EXCEEDED"}]}}"#;
    talk.hear(&headers(
        5,
        &head("429", &[literal("content-type", "application/json"), literal("retry-after", "37")]),
        false,
    ));
    talk.hear(&data(5, quota, true));
    talk.hear(&headers(
        7,
        &head("503", &[literal("retry-after", "Sun, 06 Nov 1994 08:49:57 GMT"), date]),
        true,
    ));
    talk.hear(
        &[
            headers(9, &head("502", &[]), false),
            data(9, b"<html>try again in 30 seconds</html>", true),
        ]
        .concat(),
    );
    // Of 200 it is not even read.
    talk.hear(&headers(11, &[vec![0x88], literal("retry-after", "5")].concat(), true));
    let exceeded = fcm::Reason {
        code: Some(fcm::ErrorCode::QuotaExceeded),
        status: Some(fcm::Status::ResourceExhausted),
        ..fcm::Reason::default()
    };
    assert_eq!(
        talk.events(),
        [
            answer(4, 200, Reason::None, None),
            answer(1, 429, exceeded, Some(37)),
            answer(2, 503, Reason::None, Some(20)),
            answer(3, 502, Reason::None, None),
        ]
    );
}

#[test]
fn no_ping_however_long_it_idles_or_waits() {
    let mut talk = warm(fcm_config(), &[]);
    assert_eq!(talk.connection.deadline(), None, "an idle connection waits for nothing");
    for hours in 1..=48 {
        talk.now = talk.now + Duration::from_hours(1);
        talk.connection.expire(talk.now);
        assert_eq!(talk.say(), [], "{hours} h");
        push(&mut talk, hours, b"abc").unwrap();
        talk.say();
        // One request in two is never answered: it is reset, still without asking.
        if hours % 2 == 0 {
            talk.hear(&headers(u32::try_from(2 * hours + 3).unwrap(), &[0x88], true));
        } else {
            talk.hear(&window_update(0, 1));
            talk.now = talk.now + Duration::from_secs(10);
            talk.connection.expire(talk.now);
            assert_eq!(talk.say(), [Seen::Reset(u32::try_from(2 * hours + 3).unwrap(), 8)]);
        }
    }
    // Theirs are answered.
    talk.hear(&ping(b"87654321"));
    assert_eq!(talk.say(), [Seen::Pong(b"87654321".to_vec())]);
}

#[test]
fn goaways_as_fcm_says_them() {
    for (code, debug) in
        [(0, "session_timed_out"), (11, "too_many_pings"), (1, "exceeded_max_concurrent_streams")]
    {
        let mut talk = warm(fcm_config(), &[]);
        talk.hear(&goaway(3, code, debug.as_bytes()));
        let reason = CloseReason::GoAway { code: ErrorCode(code), reason: Reason::None };
        assert_eq!(talk.events(), [ConnectionEvent::Closing { reason }, ConnectionEvent::Closed]);
    }
}

#[test]
fn nothing_secret_is_printed() {
    let mut talk = warm(fcm_config(), &[]);
    push(&mut talk, 1, b"cXyzSECRET:APA91b").unwrap();
    let printed = format!("{:?}", talk.connection);
    assert!(!printed.contains("SECRET") && !printed.contains("e30.e30"), "{printed}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// With tokens of any length, several messages and windows of any size, the peer reads the
    /// intended requests, and no byte more than it allowed.
    #[test]
    fn the_peer_reads_what_was_meant(
        lengths in proptest::collection::vec(1usize..=TOKEN_BYTES_MAX, 1..60),
        bodies in proptest::collection::vec((0usize..20_000, 0usize..3_000), 1..4),
        window in 1u32..40_000,
        credits in proptest::collection::vec(1u32..30_000, 1..30),
    ) {
        let specs: Vec<TemplateSpec> = bodies
            .iter()
            .map(|(before, after)| fcm_spec(&format!("{}\"", "b".repeat(*before)), &format!("\"{}", "a".repeat(*after))))
            .collect();
        let mut talk = Talk::new(ConnectionConfig { streams_max: 100, ..fcm_config() });
        talk.hear(&[settings(&[(STREAMS, 100), (WINDOW, window)]), settings_ack()].concat());
        let mut meant = std::collections::BTreeMap::new();
        let mut got: std::collections::BTreeMap<u32, (Vec<u8>, i64, bool)> = std::collections::BTreeMap::new();
        let (mut left, mut next, mut credits) = (65_535i64, 0, credits.into_iter().cycle());
        let mut id = 1;
        for _ in 0..10_000 {
            while next < lengths.len() && talk.connection.room() > 0 {
                let (spec, token) = (&specs[next % specs.len()], fcm_token(next as u64, lengths[next]));
                talk.connection.push(next as u64, u32::try_from(next % specs.len()).unwrap(), spec, &token, Time(1)).unwrap();
                meant.insert(id, [&spec.body, &token[..], &spec.body_after_token].concat());
                (id, next) = (id + 2, next + 1);
            }
            for seen in talk.say() {
                let (id, bytes, end) = match seen {
                    Seen::Data(id, bytes) => (id, bytes, false),
                    Seen::End(id, bytes) => (id, bytes, true),
                    Seen::Headers(_, fields) => {
                        prop_assert_eq!(fields, fcm_fields(BEARER));
                        continue;
                    }
                    _ => continue,
                };
                let stream = got.entry(id).or_insert((Vec::new(), i64::from(window), false));
                left -= i64::try_from(bytes.len()).unwrap();
                stream.1 -= i64::try_from(bytes.len()).unwrap();
                prop_assert!(left >= 0 && stream.1 >= 0 && !stream.2, "more than the windows allow");
                stream.0.extend(bytes);
                stream.2 = end;
            }
            let open: Vec<u32> = got.iter().filter(|(_, s)| !s.2).map(|(id, _)| *id).collect();
            if next == lengths.len() && open.is_empty() && meant.len() == got.len() {
                break;
            }
            let credit = credits.next().unwrap();
            talk.hear(&window_update(0, credit));
            left += i64::from(credit);
            for id in open {
                talk.hear(&window_update(id, credit));
                got.get_mut(&id).unwrap().1 += i64::from(credit);
            }
        }
        let got: std::collections::BTreeMap<u32, Vec<u8>> = got.into_iter().map(|(id, (body, _, _))| (id, body)).collect();
        prop_assert_eq!(got, meant);
    }
}
