//! Nothing that a client can send makes the emulator panic, grow without bound, or write half a
//! frame.

use clarion_emulator::frame::{self, kind};
use proptest::prelude::*;

use super::{
    bench::{Bench, block, raw, settings},
    sender::BODY,
};

/// Plausible frames: right in form more often than not, and so reaching deeper than noise.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64),
        Just(block(&[], "/3/device/ab")),
        Just(block(&[("apns-topic", "x")], "/3/device/ab")[..30].to_vec()),
        Just(BODY.to_vec()),
        Just(vec![0; 4]),
        Just(vec![0, 0, 0xff, 0xff]),
        Just(vec![0; 8]),
        prop::collection::vec(any::<u8>(), 6..=6),
    ];
    let stream = prop_oneof![
        Just(0),
        Just(1),
        Just(3),
        Just(5),
        Just(7),
        any::<u32>().prop_map(|s| s & 0x7fff_ffff)
    ];
    (0_u8..11, any::<u8>(), stream, payload)
        .prop_map(|(kind, flags, stream, payload)| raw(kind, flags, stream, &payload))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn bytes(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8), greet: bool) {
        let mut bench = if greet { Bench::open(|c| c.first_stream_alone = false) } else { Bench::new(|_| {}) };
        for chunk in chunks {
            bench.send(&chunk);
            bench.frames();
        }
    }

    #[test]
    fn frames(frames in prop::collection::vec(any_frame(), 0..60), cut in 1_usize..40, delay: bool) {
        let mut bench = Bench::open(|c| c.first_stream_alone = false);
        if delay {
            bench.faults(r#"{"latency": {"p50_us": 1500, "p99_us": 9000}}"#);
        }
        for chunk in frames.concat().chunks(cut) {
            bench.send(chunk);
            // Reading them back checks that only whole frames are written.
            bench.frames();
            prop_assert!(bench.connection.open_streams() <= 1_000);
        }
        bench.advance(std::time::Duration::from_secs(1));
        let goaways = bench.frames().iter().filter(|f| f.kind == kind::GOAWAY).count();
        prop_assert!(goaways <= 1);
        let now = bench.now.at;
        bench.connection.lost(now, &mut bench.log);
    }

    #[test]
    fn a_good_push_is_answered_however_it_is_cut(cuts in prop::collection::vec(1_usize..200, 1..20)) {
        let mut bench = Bench::new(|_| {});
        let whole = [&frame::PREFACE[..], &settings(&[]), &bench.push(1, "ab"), &bench.push(3, "ac")].concat();
        let (mut rest, mut at) = (&whole[..], 0);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(cuts[at % cuts.len()]));
            bench.send(now);
            (rest, at) = (later, at + 1);
        }
        let answers = bench.frames().iter().filter(|f| f.kind == kind::HEADERS).count();
        prop_assert_eq!(answers, 2);
    }
}
