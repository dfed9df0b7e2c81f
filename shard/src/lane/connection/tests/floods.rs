//! Hostile peers against the state machine alone: the bytes that are read before the connection
//! ends, and the memory meanwhile.

use super::{
    super::{CloseReason, ConnectionConfig, ConnectionEvent, frames::PAYLOAD_BYTES_MAX},
    support::*,
};
use crate::floods::floods;

/// Most bytes that a connection may hold: a partial frame, a block, a thousand acknowledgements in
/// a buffer that doubles, some bodies of answers.
const HELD_BYTES_MAX: usize = 4 * PAYLOAD_BYTES_MAX + 40_000 + 8 * 1_024;
/// Most frames that are tolerated, with room for the few that count as more than one.
const FRAMES_MAX: usize = 25_000;

#[test]
fn every_flood_ends_its_connection_and_little_is_held() {
    for fetched in [true, false] {
        for flood in floods(3, 1) {
            let config = ConnectionConfig { streams_max: 8, ..config() };
            let mut talk = Talk::warm(config, &[(STREAMS, 100)]);
            talk.push(1).unwrap();
            let mut result = talk.connection.receive(&flood.first, talk.now);
            let (mut heard, mut written, mut out) = (0, 0, Vec::new());
            while result.is_ok() && !flood.again.is_empty() && !talk.connection.is_closed() {
                result = talk.connection.receive(&flood.again, talk.now);
                heard += 1;
                assert!(heard < FRAMES_MAX, "{}: never ends", flood.name);
                assert!(
                    talk.connection.held_bytes() < HELD_BYTES_MAX,
                    "{}: holds too much",
                    flood.name
                );
                if fetched {
                    out.clear();
                    talk.connection.transmit(&mut out, talk.now);
                    written += out.len();
                    assert!(
                        written < FRAMES_MAX * 20 + (1 << 16),
                        "{}: makes us write too much",
                        flood.name
                    );
                }
            }
            // Once all that it was for has ended, a connection that was told to go away just goes.
            let went = flood.name == "GOAWAY storm";
            match result {
                Err(error) => {
                    assert!(
                        flood.ends.iter().any(|end| error.what.contains(end)),
                        "{}: {error}",
                        flood.name
                    );
                }
                Ok(()) => panic!("{}: nothing was wrong with it", flood.name),
            }
            let events = talk.events();
            assert_eq!(events.last(), Some(&ConnectionEvent::Closed), "{}", flood.name);
            assert!(
                went || events.iter().any(|e| matches!(
                    e,
                    ConnectionEvent::Closing { reason: CloseReason::Error(_) }
                ))
            );
            assert_eq!(talk.connection.open_streams(), 0);
        }
    }
}

/// An answer 200 needs no body, and one that never ends must not keep its request open until the
/// deadline.
#[test]
fn an_accepted_answer_ends_with_more_body_than_anybody_reads() {
    let mut talk = Talk::warm(config(), &[(STREAMS, 100)]);
    talk.push(1).unwrap();
    talk.say();
    talk.hear(&headers(3, &[0x88], false));
    for _ in 0..4 {
        talk.hear(&data(3, &[b'x'; 256], false));
        assert_eq!(talk.events(), []);
    }
    talk.hear(&data(3, b"x", false));
    assert!(matches!(talk.events()[..], [ConnectionEvent::Answer { ticket: 1, .. }]));
    assert_eq!(talk.say(), [Seen::Reset(3, 8)]);
    // What was on its way already is of no consequence.
    talk.hear(&data(3, &[b'x'; 1_000], true));
    assert_eq!(talk.events(), []);
}
