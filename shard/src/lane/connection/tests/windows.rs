//! Bodies under small windows.

use super::{super::PushError, support::*};

/// Pushes a body and returns the number of bytes that were sent of it.
fn push(talk: &mut Talk, ticket: u64, bytes: usize) -> Result<(), PushError> {
    talk.connection.push(
        ticket,
        u32::try_from(bytes).unwrap(),
        &spec(&"b".repeat(bytes)),
        &token(ticket),
        talk.now,
    )
}

/// Returns the DATA bytes of each stream, and whether the stream has ended.
fn sent(seen: &[Seen]) -> Vec<(u32, usize, bool)> {
    seen.iter()
        .filter_map(|s| match s {
            Seen::Data(id, bytes) => Some((*id, bytes.len(), false)),
            Seen::End(id, bytes) => Some((*id, bytes.len(), true)),
            _ => None,
        })
        .collect()
}

#[test]
fn the_connections_window_bounds_the_room() {
    let mut talk = Talk::warm(config(), &[]);
    push(&mut talk, 1, 4_000).unwrap();
    // 65,535 bytes, less the 2 of the first request and these 4,000: fifteen more, and one that is
    // cut.
    assert_eq!(talk.connection.room(), 16);
    for ticket in 2..=17 {
        push(&mut talk, ticket, 4_000).unwrap();
    }
    assert_eq!(talk.connection.room(), 0);
    assert_eq!(push(&mut talk, 18, 4_000), Err(PushError::Full));
    let seen = talk.say();
    assert_eq!(sent(&seen).last(), Some(&(35, 1_533, false)));
    // The rest goes first when credit comes.
    talk.hear(&window_update(0, 2_467));
    assert_eq!(sent(&talk.say()), [(35, 2_467, true)]);
    assert_eq!(talk.connection.room(), 0);
    talk.hear(&window_update(0, 8_000));
    assert_eq!(talk.connection.room(), 2);
}

#[test]
fn a_body_without_bytes_needs_no_window() {
    let mut talk = Talk::warm(config(), &[]);
    push(&mut talk, 1, 65_533).unwrap();
    talk.say();
    assert_eq!(talk.connection.room(), 0);
    talk.connection.forget_template(65_533);
    push(&mut talk, 2, 0).unwrap();
    assert_eq!(sent(&talk.say()), [(5, 0, true)]);
}

#[test]
fn streams_windows_are_obeyed_as_they_change() {
    let mut talk = Talk::warm(config(), &[(WINDOW, 10)]);
    push(&mut talk, 1, 25).unwrap();
    push(&mut talk, 2, 10).unwrap();
    assert_eq!(sent(&talk.say()), [(3, 10, false), (5, 10, true)]);
    // Less than nothing is left, then 3 bytes.
    talk.hear(&settings(&[(WINDOW, 2)]));
    assert_eq!(sent(&talk.say()), []);
    talk.hear(&window_update(3, 11));
    assert_eq!(sent(&talk.say()), [(3, 3, false)]);
    // For another stream, which needs none.
    talk.hear(&window_update(5, 100));
    talk.hear(&settings(&[(WINDOW, 1_000)]));
    assert_eq!(sent(&talk.say()), [(3, 12, true)]);
}

#[test]
fn several_cut_bodies_end_each_on_its_own() {
    let mut talk = Talk::warm(config(), &[(WINDOW, 0)]);
    for ticket in 1..=3 {
        push(&mut talk, ticket, 5).unwrap();
    }
    assert_eq!(sent(&talk.say()), []);
    talk.hear(&window_update(5, 5));
    assert_eq!(sent(&talk.say()), [(5, 5, true)]);
    talk.hear(&window_update(3, 4));
    talk.hear(&window_update(7, 5));
    assert_eq!(sent(&talk.say()), [(3, 4, false), (7, 5, true)]);
    talk.hear(&window_update(3, 4));
    assert_eq!(sent(&talk.say()), [(3, 1, true)]);
}

#[test]
fn bodies_that_credit_frees_go_out_in_bursts() {
    let mut talk = Talk::warm(config(), &[(WINDOW, 0), (STREAMS, 500)]);
    talk.hear(&window_update(0, 1_000_000));
    for ticket in 1..=64 {
        push(&mut talk, ticket, 1_000).unwrap();
    }
    assert_eq!(sent(&talk.say()), []);
    assert_eq!(
        push(&mut talk, 65, 1_000),
        Err(PushError::Full),
        "so many are cut that more would only wait"
    );
    talk.hear(&settings(&[(WINDOW, 65_535)]));
    let (mut bursts, mut bytes) = (Vec::new(), Vec::new());
    while talk.connection.has_output() {
        bytes.clear();
        talk.connection.transmit(&mut bytes, talk.now);
        bursts.push(bytes.len());
    }
    // Each body goes with a header of nine bytes; the first burst also has an acknowledgement.
    assert_eq!(bursts.iter().sum::<usize>(), 9 + 64 * 1_009);
    assert!(bursts.iter().all(|burst| *burst < 32 * 1024 + 1_009), "{bursts:?}");
}

#[test]
fn credit_that_waits_for_the_socket_is_no_idle_word() {
    let mut talk = Talk::warm(config(), &[(WINDOW, 0), (STREAMS, 1_000)]);
    let mut id = 1;
    for ticket in 1..=20_000 {
        if ticket % 50 == 1 {
            talk.hear(&window_update(0, 50_000));
        }
        push(&mut talk, ticket, 1_000).unwrap();
        id += 2;
        if ticket % 50 == 0 {
            talk.say();
            // None of it is fetched meanwhile: all but a burst waits.
            (0..50).for_each(|n| talk.hear(&window_update(id - 2 * n, 1_000)));
            assert!(talk.connection.has_output());
            talk.say();
            (0..50).for_each(|n| talk.hear(&status(id - 2 * n, "200", true)));
            assert_eq!(talk.events().len(), 50);
        }
    }
    // But credit on top of credit is.
    let mut talk = Talk::warm(config(), &[(WINDOW, 0), (STREAMS, 1_000)]);
    (1..=64).for_each(|ticket| push(&mut talk, ticket, 1_000).unwrap());
    talk.hear(&settings(&[(WINDOW, 1_000)]));
    let cut_off =
        (0..20_000).any(|_| talk.connection.receive(&window_update(0, 1), talk.now).is_err());
    assert!(cut_off);
}

#[test]
fn an_answer_before_the_end_of_a_body_frees_the_peers_stream() {
    let mut talk = Talk::warm(config(), &[(WINDOW, 3)]);
    push(&mut talk, 1, 10).unwrap();
    talk.say();
    talk.hear(&status(3, "413", true));
    assert_eq!(talk.say(), [Seen::Reset(3, 8)]);
    assert_eq!(talk.events().len(), 1);
    talk.hear(&window_update(3, 100));
    assert_eq!(talk.say(), []);
}

#[test]
fn a_body_larger_than_a_frame_takes_several() {
    let mut talk = Talk::warm(config(), &[(FRAME, 1 << 20)]);
    push(&mut talk, 1, 40_000).unwrap();
    assert_eq!(sent(&talk.say()), [(3, 16_384, false), (3, 16_384, false), (3, 7_232, true)]);
}

#[test]
fn credit_is_given_back_in_large_pieces() {
    let mut talk = Talk::warm(config(), &[]);
    let mut credit = 0;
    for round in 0..100 {
        talk.push(1).unwrap();
        let id = 2 * round + 3;
        talk.hear(&[status(id, "500", false), data(id, &[b'x'; 16_000], true)].concat());
        for seen in talk.say() {
            if let Seen::Credit(bytes) = seen {
                assert!(bytes >= 1 << 19);
                credit += bytes;
            }
        }
    }
    // 1.6 MB came; what has not been given back yet is less than half of the window.
    assert!((1_600_000 - (1 << 19)..=1_600_000).contains(&credit), "{credit}");
}

#[test]
fn a_window_beyond_its_bounds_on_a_stream_ends_that_stream() {
    let mut talk = Talk::warm(config(), &[(WINDOW, 1)]);
    push(&mut talk, 1, 10).unwrap();
    push(&mut talk, 2, 10).unwrap();
    talk.say();
    talk.hear(&[window_update(3, 0), window_update(5, 5)].concat());
    assert_eq!(talk.say(), [Seen::Reset(3, 1), Seen::Data(5, b"bbbbb".to_vec())]);
}
