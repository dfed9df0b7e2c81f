//! Arbitrary splits, arbitrary bytes, arbitrary peers.

use std::{collections::BTreeMap, time::Duration};

use clarion_proto::time::Time;
use proptest::{collection::vec, prelude::*};

use super::{
    super::{
        ConnectionConfig, ConnectionEvent, PushError,
        frames::{HEADER_BYTES, PAYLOAD_BYTES_MAX, flag, kind},
    },
    support::*,
};

const STREAMS_MAX: usize = 8;

/// A frame that a peer might send, right or wrong, on one of the first streams.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let id = (0u32..20).prop_map(|n| 2 * n + 1);
    let block = prop_oneof![
        6 => Just(vec![0x88]),
        2 => Just(vec![0x20, 0x88]),
        2 => "(200|400|410|429|503)".prop_map(|s| [&[0x08, 3], s.as_bytes()].concat()),
        1 => vec(any::<u8>(), 0..20),
    ];
    let body =
        prop_oneof![Just(br#"{"reason":"BadDeviceToken"}"#.to_vec()), vec(any::<u8>(), 0..600)];
    prop_oneof![
        8 => (id.clone(), block, any::<bool>()).prop_map(|(id, block, end)| headers(id, &block, end)),
        4 => (id.clone(), body.clone(), any::<bool>()).prop_map(|(id, body, end)| data(id, &body, end)),
        2 => (id.clone(), 0u32..12).prop_map(|(id, code)| reset(id, code)),
        2 => (0u32..2, 0u32..100).prop_map(|(id, credit)| window_update(3 * id, credit)),
        2 => (1u16..8, 0u32..70_000).prop_map(|(id, value)| settings(&[(id, value)])),
        1 => Just(settings_ack()),
        1 => any::<[u8; 8]>().prop_map(|payload| ping(&payload)),
        1 => (id.clone(), body.clone()).prop_map(|(last, debug)| goaway(last, 0, &debug)),
        1 => (id.clone(), any::<u8>(), any::<u8>(), body).prop_map(|(id, kind, flags, payload)| frame(kind, flags, id, &payload)),
        1 => (id.clone(), any::<bool>()).prop_map(|(id, end)| {
            [frame(kind::HEADERS, u8::from(end), id, &[0x88]), frame(kind::CONTINUATION, flag::END_HEADERS, id, &[])].concat()
        }),
        1 => vec(any::<u8>(), 0..30),
    ]
}

/// The rest of a run: requests, and frames in between.
fn any_run() -> impl Strategy<Value = Vec<(usize, Vec<u8>)>> {
    vec((0usize..4, any_frame()), 0..40)
}

fn talk() -> Talk {
    Talk::warm(ConnectionConfig { streams_max: STREAMS_MAX, ..config() }, &[(STREAMS, 100)])
}

/// Checks that each ticket pushed gets one event, and none comes after `Closed`.
#[derive(Default)]
struct Fates {
    open: BTreeMap<u64, ()>,
    closing: usize,
    closed: usize,
}

impl Fates {
    fn see(&mut self, events: &[ConnectionEvent]) {
        for event in events {
            assert_eq!(self.closed, 0, "{event:?} after the end");
            match event {
                ConnectionEvent::Answer { ticket, .. }
                | ConnectionEvent::Unanswered { ticket, .. }
                | ConnectionEvent::Unprocessed { ticket } => {
                    assert!(self.open.remove(ticket).is_some(), "{ticket} had its event");
                }
                ConnectionEvent::Closing { .. } => self.closing += 1,
                ConnectionEvent::Closed => {
                    assert!(self.open.is_empty());
                    self.closed += 1;
                }
            }
        }
        assert!(self.closing <= 1 && self.closed <= self.closing);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// With any behaviour of the peer, each ticket has exactly one result, and memory stays small.
    #[test]
    fn each_ticket_has_one_fate(run in any_run(), end in 0usize..3) {
        let (mut talk, mut fates, mut ticket) = (talk(), Fates::default(), 100);
        for (pushes, bytes) in run {
            for _ in 0..pushes {
                let room = talk.connection.room();
                let pushed = talk.push(ticket);
                // A peer may allow so small a header list that no request fits, whatever room there
                // is.
                if pushed != Err(PushError::HeaderListTooLarge) {
                    prop_assert_eq!(pushed.is_ok(), room > 0);
                }
                if pushed.is_ok() {
                    fates.open.insert(ticket, ());
                }
                ticket += 1;
            }
            talk.now = talk.now + Duration::from_millis(700);
            talk.connection.expire(talk.now);
            let _ = talk.connection.receive(&bytes, talk.now);
            let mut out = Vec::new();
            talk.connection.transmit(&mut out, talk.now);
            prop_assert!(out.len() < 20_000);
            fates.see(&talk.events());
            prop_assert_eq!(talk.connection.open_streams(), fates.open.len());
            prop_assert!(fates.open.len() <= STREAMS_MAX);
            prop_assert!(talk.connection.held_bytes() < 2 * (HEADER_BYTES + PAYLOAD_BYTES_MAX) + 40_000);
        }
        match end {
            0 => talk.connection.drop_all(),
            1 => {
                talk.connection.close();
                while let Some(deadline) = talk.connection.deadline() {
                    talk.connection.expire(deadline);
                }
            }
            _ => talk.connection.expire(Time::NEVER),
        }
        fates.see(&talk.events());
        prop_assert_eq!(fates.open.len(), 0);
        prop_assert_eq!(talk.connection.open_streams(), 0);
    }

    /// However the bytes are cut, the same happens and the same is written.
    #[test]
    fn pieces_do_not_matter(frames in vec(any_frame(), 0..30), cuts in vec(1usize..40, 1..20)) {
        let stream = frames.concat();
        let run = |pieces: Vec<&[u8]>| {
            let mut talk = talk();
            for ticket in 1..=8 {
                talk.push(ticket).unwrap();
            }
            let result = pieces.into_iter().try_for_each(|piece| talk.connection.receive(piece, talk.now));
            let mut out = Vec::new();
            talk.connection.transmit(&mut out, talk.now);
            (result, talk.events(), out)
        };
        let (mut pieces, mut rest) = (Vec::new(), &stream[..]);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        prop_assert_eq!(run(vec![&stream]), run(pieces));
    }

    /// Bytes of no meaning at all.
    #[test]
    fn noise_is_harmless(greeted in any::<bool>(), noise in vec(vec(any::<u8>(), 0..500), 0..10)) {
        let mut talk = if greeted { talk() } else { Talk::new(config()) };
        let _ = talk.push(1);
        let _ = talk.connection.receive(&[0, 0, 0, kind::SETTINGS, 0, 0, 0, 0, 0], talk.now);
        for bytes in noise {
            let _ = talk.connection.receive(&bytes, talk.now);
        }
        talk.connection.drop_all();
        let events = talk.events();
        prop_assert_eq!(events.last(), Some(&ConnectionEvent::Closed));
        prop_assert_eq!(talk.connection.open_streams(), 0);
    }
}
