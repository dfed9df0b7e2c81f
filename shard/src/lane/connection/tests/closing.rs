//! GOAWAY, deadlines, and the ends of connections.

use std::time::Duration;

use super::{
    super::{CloseReason, ConnectionConfig, ConnectionEvent, ErrorCode, PushError},
    support::*,
};
use crate::outcome::{Reason, apns};

fn closing(code: ErrorCode, reason: Reason) -> ConnectionEvent {
    ConnectionEvent::Closing { reason: CloseReason::GoAway { code, reason } }
}

fn three_open() -> Talk {
    let mut talk = Talk::warm(config(), &[]);
    for ticket in 1..=3 {
        talk.push(ticket).unwrap();
    }
    talk.say();
    talk
}

#[test]
fn goaway_in_two_steps() {
    let mut talk = three_open();
    talk.hear(&goaway(0x7fff_ffff, 0, b""));
    assert_eq!(talk.events(), [closing(ErrorCode::NO_ERROR, Reason::None)]);
    assert_eq!((talk.connection.room(), talk.push(4)), (0, Err(PushError::Closing)));
    talk.hear(&goaway(5, 0, b""));
    assert_eq!(talk.events(), [ConnectionEvent::Unprocessed { ticket: 3 }]);
    talk.hear(&headers(3, &[0x88], true));
    assert!(!talk.connection.is_closed());
    talk.hear(&headers(5, &[0x88], true));
    let events = talk.events();
    assert!(matches!(
        events[..],
        [
            ConnectionEvent::Answer { ticket: 1, .. },
            ConnectionEvent::Answer { ticket: 2, .. },
            ConnectionEvent::Closed
        ]
    ));
    assert!(talk.connection.is_closed());
    assert_eq!(talk.say(), [Seen::GoAway(0)]);
    assert_eq!(talk.connection.deadline(), None);
}

#[test]
fn goaway_keeps_its_reason_and_the_rest_may_answer_until_the_drain_deadline() {
    let mut talk = three_open();
    talk.hear(&goaway(5, 2, br#"{"reason":"BadCertificateEnvironment"}"#));
    assert_eq!(
        talk.events(),
        [
            closing(ErrorCode(2), apns::Reason::BadCertificateEnvironment.into()),
            ConnectionEvent::Unprocessed { ticket: 3 }
        ]
    );
    let drain = talk.now + config().drain_deadline;
    // The requests' own deadline is a millisecond sooner; here something has come since.
    assert!(talk.connection.deadline().is_some_and(|d| d <= drain));
    talk.connection.expire(drain);
    assert_eq!(
        talk.events(),
        [
            ConnectionEvent::Unanswered { ticket: 1, status: None },
            ConnectionEvent::Unanswered { ticket: 2, status: None },
            ConnectionEvent::Closed
        ]
    );
    assert_eq!(talk.say().last(), Some(&Seen::GoAway(0)));
}

#[test]
fn goaway_without_open_requests_closes_at_once() {
    let mut talk = Talk::warm(config(), &[]);
    talk.hear(&goaway(1, 7, b"Maximum active streams violated for this endpoint."));
    assert_eq!(
        talk.events(),
        [closing(ErrorCode::REFUSED_STREAM, Reason::None), ConnectionEvent::Closed]
    );
    // Whatever follows is of no interest.
    talk.hear(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff");
    assert_eq!(talk.events(), []);
}

#[test]
fn closing_drains() {
    let mut talk = three_open();
    talk.connection.close();
    assert_eq!(talk.say(), [Seen::GoAway(0)]);
    assert_eq!(talk.events(), [ConnectionEvent::Closing { reason: CloseReason::Asked }]);
    talk.connection.close();
    for id in [3, 5, 7] {
        talk.hear(&headers(id, &[0x88], true));
    }
    assert_eq!(talk.events().last(), Some(&ConnectionEvent::Closed));
    assert_eq!(talk.say(), [], "goodbye was said");
}

#[test]
fn a_lost_socket_leaves_nobody_waiting() {
    let mut talk = three_open();
    // One has the head of an acceptance already: nothing else could follow. Any other head says
    // nothing by itself.
    talk.hear(
        &[
            status(5, "200", false),
            status(7, "403", false),
            data(7, br#"{"reason":"Invalid"#, false),
        ]
        .concat(),
    );
    talk.connection.drop_all();
    talk.connection.drop_all();
    let events = talk.events();
    assert!(
        matches!(
            events[..],
            [
                ConnectionEvent::Answer { ticket: 2, .. },
                ConnectionEvent::Closing { reason: CloseReason::Lost },
                ConnectionEvent::Unanswered { ticket: 1, status: None },
                ConnectionEvent::Unanswered { ticket: 3, status: Some(403) },
                ConnectionEvent::Closed
            ]
        ),
        "{events:?}"
    );
    assert_eq!(talk.say(), []);
}

#[test]
fn one_that_is_not_answered_while_others_are_is_reset() {
    let mut talk = three_open();
    let deadline = talk.now + config().request_deadline;
    assert_eq!(talk.connection.deadline(), Some(deadline));
    talk.hear(&headers(5, &[0x88], true));
    talk.push(4).unwrap();
    talk.say();
    talk.connection.expire(talk.now);
    assert_eq!(talk.events().len(), 1, "nothing is due");
    talk.connection.expire(deadline);
    assert_eq!(
        talk.events(),
        [
            ConnectionEvent::Unanswered { ticket: 1, status: None },
            ConnectionEvent::Unanswered { ticket: 3, status: None }
        ]
    );
    assert_eq!(talk.say(), [Seen::Reset(3, 8), Seen::Reset(7, 8)]);
    assert_eq!(talk.connection.open_streams(), 1);
    // Late ones are ignored.
    talk.hear(&[headers(3, &[0x88], true), status(7, "500", false), data(7, b"{}", true)].concat());
    assert_eq!(talk.events(), []);
}

#[test]
fn a_peer_that_says_nothing_at_all_is_given_up() {
    let mut talk = three_open();
    let deadline = talk.connection.deadline().unwrap();
    talk.connection.expire(deadline);
    assert_eq!(
        talk.events(),
        [
            ConnectionEvent::Closing { reason: CloseReason::Silent },
            ConnectionEvent::Unanswered { ticket: 1, status: None },
            ConnectionEvent::Unanswered { ticket: 2, status: None },
            ConnectionEvent::Unanswered { ticket: 3, status: None },
            ConnectionEvent::Closed
        ]
    );
    assert_eq!(talk.say(), [Seen::GoAway(0)]);
}

#[test]
fn an_idle_connection_is_asked_whether_it_lives() {
    let config = ConnectionConfig { ping_after: Some(Duration::from_secs(60)), ..config() };
    let mut talk = Talk::warm(config.clone(), &[]);
    let due = talk.now + Duration::from_secs(60);
    assert_eq!(talk.connection.deadline(), Some(due));
    talk.connection.expire(due);
    assert_eq!(talk.say(), [Seen::Ping(b"clarion?".to_vec())]);
    assert_eq!(talk.connection.deadline(), Some(due + config.ping_deadline));
    // Anything from the peer will do.
    talk.now = due;
    talk.hear(&ping(b"anything"));
    assert_eq!(talk.connection.deadline(), Some(talk.now + Duration::from_secs(60)));
    let due = talk.now + Duration::from_secs(60);
    talk.connection.expire(due);
    talk.connection.expire(due + config.ping_deadline);
    assert_eq!(
        talk.events(),
        [ConnectionEvent::Closing { reason: CloseReason::Silent }, ConnectionEvent::Closed]
    );
}

#[test]
fn stream_ids_end() {
    let mut talk = Talk::warm(ConnectionConfig { stream_id_last: 6, ..config() }, &[]);
    talk.push(1).unwrap();
    assert_eq!(talk.events(), []);
    talk.push(2).unwrap();
    assert_eq!(talk.events(), [ConnectionEvent::Closing { reason: CloseReason::StreamIdsSpent }]);
    assert_eq!((talk.connection.room(), talk.push(3)), (0, Err(PushError::Closing)));
    talk.hear(&[headers(3, &[0x88], true), headers(5, &[0x88], true)].concat());
    assert_eq!(talk.events().last(), Some(&ConnectionEvent::Closed));
}

#[test]
fn the_drain_of_a_silent_peer_ends() {
    let mut talk = three_open();
    talk.connection.close();
    talk.events();
    while let Some(deadline) = talk.connection.deadline() {
        talk.connection.expire(deadline);
    }
    let events = talk.events();
    assert_eq!((events.len(), events.last()), (4, Some(&ConnectionEvent::Closed)));
}
