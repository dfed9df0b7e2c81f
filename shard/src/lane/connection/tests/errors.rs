//! Protocol violations of a peer, and the connection's reaction.

use super::{
    super::{
        CloseReason, ConnectionEvent,
        frames::{flag, kind},
    },
    support::*,
};

const PROTOCOL: u32 = 1;
const FLOW: u32 = 3;
const SIZE: u32 = 6;
const COMPRESSION: u32 = 9;
const CALM: u32 = 11;

/// Checks that the bytes end a warm connection on which stream 3 is open, with this code.
fn ends(bytes: &[u8], code: u32) {
    let mut talk = Talk::warm(config(), &[]);
    talk.push(1).unwrap();
    talk.say();
    let error = talk.connection.receive(bytes, talk.now).unwrap_err();
    assert_eq!(error.code.0, code, "{error}");
    assert_eq!(
        talk.events(),
        [
            ConnectionEvent::Closing { reason: CloseReason::Error(error) },
            ConnectionEvent::Unanswered { ticket: 1, status: None },
            ConnectionEvent::Closed
        ]
    );
    assert!(talk.connection.is_closed());
    assert_eq!(talk.say().last(), Some(&Seen::GoAway(code)));
    assert_eq!(talk.connection.receive(bytes, talk.now), Ok(()), "the rest is ignored");
}

#[test]
fn frames_where_they_do_not_belong() {
    let priority = frame(kind::PRIORITY, 0, 0, &[0; 5]);
    let mut interrupted = frame(kind::HEADERS, 0, 3, &[0x88]);
    interrupted.extend(ping(b"12345678"));
    let mut elsewhere = frame(kind::HEADERS, 0, 3, &[0x88]);
    elsewhere.extend(frame(kind::CONTINUATION, flag::END_HEADERS, 5, &[]));
    for bytes in [
        headers(0, &[0x88], true),
        headers(2, &[0x88], true),
        headers(5, &[0x88], true),
        data(0, b"x", true),
        data(5, b"x", true),
        reset(0, 0),
        reset(5, 0),
        window_update(5, 1),
        window_update(0, 0),
        frame(kind::SETTINGS, 0, 3, &[]),
        frame(kind::PING, 0, 3, &[0; 8]),
        frame(kind::GOAWAY, 0, 3, &[0; 8]),
        frame(kind::CONTINUATION, flag::END_HEADERS, 3, &[0x88]),
        frame(kind::PUSH_PROMISE, flag::END_HEADERS, 3, &[0, 0, 0, 2, 0x82]),
        frame(kind::DATA, flag::PADDED, 3, &[2, 0]),
        settings(&[(2, 1)]),
        settings(&[(5, 16_383)]),
        settings(&[(5, 1 << 24)]),
        priority,
        interrupted,
        elsewhere,
    ] {
        ends(&bytes, PROTOCOL);
    }
}

#[test]
fn frames_of_impossible_lengths() {
    for bytes in [
        vec![0, 0x40, 1, 0, 0, 0, 0, 0, 3],
        frame(kind::RST_STREAM, 0, 3, &[0; 3]),
        frame(kind::WINDOW_UPDATE, 0, 0, &[0; 5]),
        frame(kind::PING, 0, 0, &[0; 7]),
        frame(kind::SETTINGS, 0, 0, &[0; 5]),
        frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]),
        frame(kind::GOAWAY, 0, 0, &[0; 7]),
        frame(kind::PRIORITY, 0, 3, &[0; 4]),
        frame(kind::DATA, flag::PADDED, 3, &[]),
        frame(kind::HEADERS, flag::PRIORITY | flag::END_HEADERS, 3, &[0; 4]),
    ] {
        ends(&bytes, SIZE);
    }
}

#[test]
fn windows_out_of_bounds() {
    ends(&window_update(0, 0x7fff_ffff), FLOW);
    ends(&settings(&[(WINDOW, 0x8000_0000)]), FLOW);
    // More than the window without credit from us, on a stream that has long ended: it counts all
    // the same.
    ends(&data(1, &[0; 16_384], false).repeat(65), FLOW);
}

#[test]
fn blocks_that_cannot_be_read() {
    for block in [
        &[0x3f][..],
        &[0x80],
        &[0xbe],
        &[0x88, 0x20],
        &[0x3f, 0x01],
        &[0x08, 0x83, 0xff],
        &[0x08, 0x05, b'2'],
    ] {
        // Not the ordinary answer, so it is decoded.
        ends(&headers(3, block, false), COMPRESSION);
    }
    // Also for a stream that is closed: the table is shared.
    ends(&headers(1, &[0xbe], true), COMPRESSION);
}

#[test]
fn too_much_of_something() {
    let mut endless = frame(kind::HEADERS, 0, 3, &[]);
    for _ in 0..20 {
        endless.extend(frame(kind::CONTINUATION, 0, 3, &[]));
    }
    ends(&endless, CALM);
    let mut large = frame(kind::HEADERS, 0, 3, &[0x88]);
    large.extend(frame(kind::CONTINUATION, 0, 3, &[0; 9_000]));
    ends(&large, CALM);
    ends(&headers(3, &[0x88; 300], false), CALM);
    ends(&ping(b"12345678").repeat(1_001), CALM);
    ends(&settings(&[]).repeat(1_001), CALM);
}

#[test]
fn a_peer_greets_with_settings() {
    for bytes in [ping(b"12345678"), settings_ack(), b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()] {
        let mut talk = Talk::new(config());
        assert!(talk.connection.receive(&bytes, talk.now).is_err());
        assert!(talk.connection.is_closed());
    }
}

#[test]
fn the_ordinary_answer_is_decoded_until_the_table_is_known_to_be_empty() {
    let mut talk = Talk::new(config());
    talk.hear(&settings(&[]));
    talk.push(1).unwrap();
    // Before it has our SETTINGS a peer may use its table, and what it enters must be there for the
    // next answer.
    talk.hear(&headers(1, &[0x88, 0x48, 3, b'4', b'1', b'0'], false));
    // Two statuses: malformed, but read.
    assert_eq!(talk.events(), [ConnectionEvent::Unanswered { ticket: 1, status: None }]);
    talk.say();
    talk.push(2).unwrap();
    talk.hear(&headers(3, &[0xbe], true));
    assert!(
        matches!(&talk.events()[..], [ConnectionEvent::Answer { ticket: 2, answer }] if answer.status == 410)
    );
    // With the acknowledgement the table is gone.
    talk.hear(&settings_ack());
    talk.push(3).unwrap();
    assert!(talk.connection.receive(&headers(5, &[0xbe], true), talk.now).is_err());
}
