//! Requests and answers.

use clarion_proto::device::TOKEN_BYTES_MAX;

use super::{
    super::{ConnectionEvent, PushError},
    support::*,
};
use crate::{
    lane::{
        connection::{
            ConnectionConfig,
            frames::{flag, kind},
        },
        provider::request::ApnsHeaders,
    },
    outcome::{Answer, Reason, apns},
};

fn answer(
    ticket: u64,
    status: u16,
    reason: impl Into<Reason>,
    timestamp_ms: Option<u64>,
) -> ConnectionEvent {
    let answer = Answer { status, reason: reason.into(), timestamp_ms, retry_after: None };
    ConnectionEvent::Answer { ticket, answer }
}

#[test]
fn the_first_words() {
    let mut talk = Talk::new(config());
    let seen = talk.say();
    assert_eq!(
        seen,
        [
            Seen::Settings(vec![(1, 0), (2, 0), (4, 16_384), (6, 8_192)]),
            Seen::Credit((1 << 20) - 65_535),
        ]
    );
    assert_eq!(talk.connection.deadline(), None);
}

#[test]
fn one_stream_until_the_first_answer_then_what_settings_allow() {
    let mut talk = Talk::new(ConnectionConfig { streams_max: 50, ..config() });
    talk.say();
    // Even before SETTINGS: it saves a round trip.
    assert_eq!(talk.connection.room(), 1);
    talk.hear(&settings(&[(STREAMS, 100)]));
    assert_eq!(talk.connection.room(), 1);
    talk.push(1).unwrap();
    assert_eq!(talk.push(2), Err(PushError::Full));
    assert_eq!(
        talk.say(),
        [
            Seen::SettingsAck,
            Seen::Headers(1, fields(&token(1), BEARER)),
            Seen::End(1, b"{}".to_vec())
        ]
    );
    talk.hear(&headers(1, &[0x88], true));
    assert_eq!(talk.events(), [answer(1, 200, Reason::None, None)]);
    assert_eq!(talk.connection.room(), 50);
    for ticket in 2..52 {
        talk.push(ticket).unwrap();
    }
    assert_eq!(talk.push(52), Err(PushError::Full));
    assert_eq!(talk.connection.open_streams(), 50);
}

#[test]
fn a_refused_credential_leaves_the_limit_at_one() {
    let mut talk = Talk::new(config());
    talk.hear(&settings(&[(STREAMS, 100)]));
    talk.push(1).unwrap();
    talk.hear(
        &[status(1, "403", false), data(1, br#"{"reason":"ExpiredProviderToken"}"#, true)].concat(),
    );
    assert_eq!(talk.events(), [answer(1, 403, apns::Reason::ExpiredProviderToken, None)]);
    talk.say();
    assert_eq!(talk.connection.room(), 1);
}

#[test]
fn limits_change_at_any_time() {
    let mut talk = Talk::warm(config(), &[(STREAMS, 10)]);
    for ticket in 1..=10 {
        talk.push(ticket).unwrap();
    }
    talk.hear(&settings(&[(STREAMS, 1)]));
    talk.say();
    for id in 1..=9 {
        talk.hear(&headers(2 * id + 1, &[0x88], true));
        assert_eq!(talk.connection.room(), 0, "one is still open");
    }
    talk.hear(&headers(21, &[0x88], true));
    assert_eq!(talk.connection.room(), 1);
    talk.hear(&settings(&[(STREAMS, 0)]));
    assert_eq!(talk.connection.room(), 0);
}

#[test]
fn openings_are_paced() {
    let mut talk = Talk::warm(config(), &[(STREAMS, 10)]);
    for ticket in 1..=10 {
        talk.push(ticket).unwrap();
    }
    // Resets free the streams, but ten openings in one turn are enough.
    for id in 1..=10 {
        talk.hear(&reset(2 * id + 1, 7));
    }
    assert_eq!(talk.connection.open_streams(), 0);
    assert_eq!(talk.connection.room(), 0);
    talk.say();
    assert_eq!(talk.connection.room(), 10);
}

#[test]
fn constants_are_sent_once() {
    let mut talk = Talk::new(config());
    talk.hear(&settings(&[]));
    let mut bytes = Vec::new();
    for ticket in 0..4 {
        talk.push(ticket).unwrap();
        let id = u32::try_from(2 * ticket + 1).unwrap();
        let seen = talk.say();
        assert!(seen.contains(&Seen::Headers(id, fields(&token(ticket), BEARER))), "{seen:?}");
        bytes.push(talk.block_bytes);
        talk.hear(&headers(id, &[0x88], true));
    }
    // Then: 5 indexed fields of a byte each beside method and scheme, 76 bytes of path, and two
    // literals with indexed names.
    let literals = (2 + 1 + 7) + (2 + 1 + 4);
    assert_eq!(bytes[1..], [2 + 5 + 76 + literals; 3]);
    assert!(bytes[0] > bytes[1] + 60);
}

#[test]
fn a_literal_credential_never_enters_a_table() {
    let mut talk = Talk::warm(ConnectionConfig { authorization_indexed: false, ..config() }, &[]);
    let secret = BEARER.len();
    let mut sizes = Vec::new();
    for ticket in 1..4 {
        talk.push(ticket).unwrap();
        let seen = talk.say();
        assert_eq!(
            seen[0],
            Seen::Headers(u32::try_from(2 * ticket + 1).unwrap(), fields(&token(ticket), BEARER))
        );
        sizes.push(talk.block_bytes);
    }
    // Huffman coding makes it shorter, but it is there each time.
    assert!(sizes.iter().all(|&s| s > 100 + secret * 5 / 8), "{sizes:?}");
}

#[test]
fn a_new_credential_is_used_from_now_on() {
    for authorization_indexed in [true, false] {
        let mut talk = Talk::warm(ConnectionConfig { authorization_indexed, ..config() }, &[]);
        talk.push(1).unwrap();
        talk.connection.set_authorization(authorization("bearer new"));
        talk.push(2).unwrap();
        talk.push(3).unwrap();
        let seen: Vec<_> =
            talk.say().into_iter().filter(|s| matches!(s, Seen::Headers(..))).collect();
        assert_eq!(
            seen,
            [
                Seen::Headers(3, fields(&token(1), BEARER)),
                Seen::Headers(5, fields(&token(2), "bearer new")),
                Seen::Headers(7, fields(&token(3), "bearer new")),
            ]
        );
        let size = talk.block_bytes;
        // The same again changes nothing.
        talk.connection.set_authorization(authorization("bearer new"));
        talk.push(4).unwrap();
        talk.say();
        assert_eq!(talk.block_bytes, size);
    }
}

#[test]
fn the_peers_table_size_is_obeyed() {
    for bytes in [0, 64, 100, 300, 4_096, 1 << 20] {
        let mut talk = Talk::warm(config(), &[]);
        talk.hear(&settings(&[(TABLE, bytes)]));
        talk.allow_table(bytes as usize);
        for ticket in 1..5 {
            talk.push(ticket).unwrap();
            let id = u32::try_from(2 * ticket + 1).unwrap();
            assert!(
                talk.say().contains(&Seen::Headers(id, fields(&token(ticket), BEARER))),
                "{bytes}"
            );
        }
    }
}

#[test]
fn several_messages_share_a_table() {
    let mut talk = Talk::warm(config(), &[]);
    let second = ApnsHeaders {
        topic: "org.example.second".into(),
        collapse_id: String::new(),
        ..headers_of_spec()
    };
    let other = spec_of(second, "other");
    let other_fields = |token: &[u8]| {
        let mut fields = fields(token, BEARER);
        fields[5].1 = "org.example.second".into();
        fields.pop();
        fields
    };
    for round in 0..3u64 {
        let id = u32::try_from(4 * round + 3).unwrap();
        talk.connection.push(1, 1, &spec("one"), &[1; 8], talk.now).unwrap();
        talk.connection.push(2, 2, &other, &[2; 8], talk.now).unwrap();
        assert_eq!(
            talk.say(),
            [
                Seen::Headers(id, fields(&[1; 8], BEARER)),
                Seen::End(id, b"one".to_vec()),
                Seen::Headers(id + 2, other_fields(&[2; 8])),
                Seen::End(id + 2, b"other".to_vec()),
            ]
        );
    }
    // A number may be used for another message once it was forgotten.
    talk.connection.forget_template(1);
    talk.connection.push(3, 1, &other, &[3; 8], talk.now).unwrap();
    assert!(talk.say().contains(&Seen::Headers(15, other_fields(&[3; 8]))));
}

#[test]
fn tokens_of_every_length() {
    let mut talk = Talk::warm(config(), &[]);
    for (i, length) in
        [1, 32, 58, 59, 60, 100, 122, 123, 32, TOKEN_BYTES_MAX].into_iter().enumerate()
    {
        let token = vec![0x5a; length];
        talk.connection.push(1, 7, &spec("{}"), &token, talk.now).unwrap();
        let id = u32::try_from(2 * i + 3).unwrap();
        assert_eq!(
            talk.say(),
            [Seen::Headers(id, fields(&token, BEARER)), Seen::End(id, b"{}".to_vec())]
        );
    }
    for token in [&[][..], &[0; TOKEN_BYTES_MAX + 1]] {
        assert_eq!(talk.connection.push(1, 7, &spec("{}"), token, talk.now), Err(PushError::Token));
    }
}

#[test]
fn what_cannot_be_a_header_is_refused_and_changes_nothing() {
    let mut talk = Talk::warm(config(), &[(LIST, 800)]);
    let topic = |topic: String| spec_of(ApnsHeaders { topic, ..headers_of_spec() }, "{}");
    let bad = topic("a\r\nb".into());
    assert_eq!(
        talk.connection.push(1, 8, &bad, &[1; 8], talk.now),
        Err(PushError::Header("apns-topic"))
    );
    let bad = topic("t".repeat(400));
    assert_eq!(
        talk.connection.push(1, 8, &bad, &[1; 8], talk.now),
        Err(PushError::HeaderListTooLarge)
    );
    assert_eq!(
        talk.connection.push(1, 7, &spec("{}"), &[1; 400], talk.now),
        Err(PushError::HeaderListTooLarge)
    );
    assert_eq!(talk.connection.open_streams(), 0);
    talk.push(2).unwrap();
    // The ids of the refused ones are passed over.
    assert_eq!(
        talk.say(),
        [Seen::Headers(9, fields(&token(2), BEARER)), Seen::End(9, b"{}".to_vec())]
    );
}

#[test]
fn a_block_larger_than_a_frame_is_continued() {
    let mut talk = Talk::warm(config(), &[]);
    // No code makes tildes shorter than themselves.
    let topic = "~".repeat(40_000);
    let large = spec_of(ApnsHeaders { topic: topic.clone(), ..headers_of_spec() }, "{}");
    let mut meant = fields(&[1; 8], BEARER);
    meant[5].1 = topic;
    for id in [3, 5] {
        talk.connection.push(1, 8, &large, &[1; 8], talk.now).unwrap();
        assert_eq!(talk.say(), [Seen::Headers(id, meant.clone()), Seen::End(id, b"{}".to_vec())]);
        assert!(talk.block_bytes > 40_000);
    }
}

#[test]
fn errors_come_with_a_body_in_pieces_and_padded() {
    let mut talk = Talk::warm(config(), &[]);
    talk.push(1).unwrap();
    talk.push(2).unwrap();
    let padded =
        frame(kind::DATA, flag::PADDED | flag::END_STREAM, 5, b"\x03\"Unregistered\"}\0\0\0");
    talk.hear(
        &[
            status(3, "410", false),
            status(5, "410", false),
            data(5, br#"{"timestamp":17,"reason":"#, false),
            data(3, br#"{"reason":"ExpiredToken"}"#, false),
            data(3, b"", true),
            padded,
        ]
        .concat(),
    );
    assert_eq!(
        talk.events(),
        [
            answer(1, 410, apns::Reason::ExpiredToken, None),
            answer(2, 410, apns::Reason::Unregistered, Some(17))
        ]
    );
}

#[test]
fn blocks_in_pieces_interim_answers_and_trailers() {
    let mut talk = Talk::warm(config(), &[]);
    talk.push(1).unwrap();
    talk.push(2).unwrap();
    // Priority and padding in HEADERS, then the block goes on in CONTINUATION.
    let begin = [&[2, 0, 0, 0, 0, 0][..], &[0x08, 3, b'4'], &[0, 0]].concat();
    talk.hear(
        &[
            status(3, "103", false),
            frame(kind::HEADERS, flag::PADDED | flag::PRIORITY, 3, &begin),
            frame(kind::CONTINUATION, 0, 3, b"0"),
            frame(kind::CONTINUATION, flag::END_HEADERS, 3, b"0"),
            data(3, br#"{"reason":"BadTopic"}"#, false),
            headers(3, &[0x00, 1, b'x', 1, b'y'], true),
            // The same for a block whose HEADERS frame ends the stream.
            frame(kind::HEADERS, flag::END_STREAM, 5, &[]),
            frame(kind::CONTINUATION, flag::END_HEADERS, 5, &[0x88]),
        ]
        .concat(),
    );
    assert_eq!(
        talk.events(),
        [answer(2, 200, Reason::None, None), answer(1, 400, apns::Reason::BadTopic, None)]
    );
}

#[test]
fn a_long_body_is_cut_off() {
    let mut talk = Talk::warm(config(), &[]);
    talk.push(1).unwrap();
    talk.push(2).unwrap();
    talk.hear(
        &[status(3, "502", false), data(3, &[b'x'; 1_000], false), data(3, &[b'x'; 1_000], false)]
            .concat(),
    );
    talk.hear(&[status(5, "502", false), data(5, &[b'x'; 10_000], true)].concat());
    assert_eq!(
        talk.events(),
        [answer(1, 502, Reason::None, None), answer(2, 502, Reason::None, None)]
    );
    let resets: Vec<_> = talk.say().into_iter().filter(|s| matches!(s, Seen::Reset(..))).collect();
    assert_eq!(resets, [Seen::Reset(3, 8)]);
    // What was on its way is of no interest.
    talk.hear(&[data(3, b"x", true), reset(3, 0)].concat());
    assert_eq!(talk.events(), []);
}

#[test]
fn resets_by_their_code_and_late_ones_not_at_all() {
    let mut talk = Talk::warm(config(), &[]);
    for ticket in 1..=5 {
        talk.push(ticket).unwrap();
    }
    talk.hear(
        &[
            reset(3, 7),
            reset(5, 2),
            headers(7, &[0x88], true),
            reset(7, 0),
            // The head of an acceptance has come, and that is what counts; any other says nothing
            // without its reason.
            status(9, "200", false),
            reset(9, 0),
            status(11, "404", false),
            reset(11, 2),
        ]
        .concat(),
    );
    assert_eq!(
        talk.events(),
        [
            answer(3, 200, Reason::None, None),
            answer(4, 200, Reason::None, None),
            ConnectionEvent::Unprocessed { ticket: 1 },
            ConnectionEvent::Unanswered { ticket: 2, status: None },
            ConnectionEvent::Unanswered { ticket: 5, status: Some(404) },
        ]
    );
    assert_eq!(talk.connection.open_streams(), 0);
}

#[test]
fn an_answer_against_the_rules_ends_its_stream_only() {
    let mut talk = Talk::warm(config(), &[]);
    for ticket in 1..=7 {
        talk.push(ticket).unwrap();
    }
    talk.say();
    talk.hear(
        &[
            headers(3, &[], true),
            status(5, "20x", true),
            status(7, "099", true),
            data(9, b"before the status", true),
            [status(11, "200", false), status(11, "200", true)].concat(),
            status(13, "101", true),
            headers(15, &[0x88, 0x88], true),
        ]
        .concat(),
    );
    // Seventh: the second status stands in a block that is not read beyond its first byte.
    let mut meant = vec![answer(7, 200, Reason::None, None)];
    meant.extend((1..=6).map(|ticket| ConnectionEvent::Unanswered { ticket, status: None }));
    assert_eq!(talk.events(), meant);
    assert_eq!(talk.say(), [3, 5, 7, 9, 11, 13].map(|id| Seen::Reset(id, 1)));
    assert!(!talk.connection.is_closed());
}

#[test]
fn pings_are_answered_and_strangers_ignored() {
    let mut talk = Talk::warm(config(), &[]);
    talk.hear(
        &[
            ping(b"12345678"),
            frame(kind::PING, flag::ACK, 0, b"whatever"),
            frame(0x42, 0xff, 9, b"of the future"),
            frame(kind::PRIORITY, 0, 9, &[0; 5]),
        ]
        .concat(),
    );
    assert_eq!(talk.say(), [Seen::Pong(b"12345678".to_vec())]);
    assert_eq!(talk.events(), []);
}

#[test]
fn nothing_secret_is_printed() {
    let mut talk = Talk::warm(config(), &[]);
    talk.push(0x6161_6161_6161_6161).unwrap();
    let printed = format!("{:?}", talk.connection);
    assert!(!printed.contains("e30.e30") && !printed.contains("6161"), "{printed}");
}
