//! Nothing that a client can send makes the FCM gateway panic, grow without bound, or write half a
//! frame.

use clarion_emulator::frame::{kind, window_update};
use proptest::prelude::*;

use super::{
    bench::{Bench, block, raw, request},
    sender::{FCM_PATH, fcm_body, fcm_token},
};

/// A body that is JSON more often than not.
fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("1e308".to_owned()),
        Just("-0".to_owned()),
        Just(format!("1{}", "0".repeat(5_000))),
        Just(format!("\"{}\"", fcm_token(1))),
        Just("\"\\ud800\"".to_owned()),
        Just("\"-1s\"".to_owned()),
        Just("{}".to_owned()),
        Just("[".repeat(3_000)),
        Just(format!("{}1{}", "{\"a\":".repeat(100), "}".repeat(100))),
        "[ -~]{0,40}".prop_map(|text| serde_json::Value::from(text).to_string()),
    ];
    let name = prop_oneof![
        Just("token".to_owned()),
        Just("topic".to_owned()),
        Just("data".to_owned()),
        Just("android".to_owned()),
        Just("notification".to_owned()),
        Just("ttl".to_owned()),
        Just("collapseKey".to_owned()),
        "[a-zA-Z_]{0,12}",
    ];
    let fields = prop::collection::vec((name, value), 0..6);
    let object = fields.prop_map(|fields| {
        let members: Vec<_> =
            fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    });
    prop_oneof![
        object.clone().prop_map(|o| format!("{{\"message\":{o}}}").into_bytes()),
        object
            .clone()
            .prop_map(|o| format!("{{\"message\":{{\"android\":{o},\"data\":{o}}}}}").into_bytes()),
        object.prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..200),
        Just(vec![b'['; 32_768]),
        Just(vec![b' '; 40_000]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn bodies(bodies in prop::collection::vec(any_body(), 1..12)) {
        let mut bench = Bench::fcm(|_| {});
        let mut answers = 0;
        for (i, body) in bodies.iter().enumerate() {
            let stream = 2 * u32::try_from(i).expect("few") + 1;
            let bearer = bench.bearer.clone();
            bench.send(&raw(kind::HEADERS, 4, stream, &block(&[("authorization", &bearer)], FCM_PATH)));
            for (i, piece) in body.chunks(16_000).enumerate() {
                bench.send(&raw(kind::DATA, u8::from((i + 1) * 16_000 >= body.len()), stream, piece));
            }
            if body.is_empty() {
                bench.send(&raw(kind::DATA, 1, stream, &[]));
            }
            let mut update = Vec::new();
            window_update(&mut update, 0, 10_000);
            bench.send(&update);
            answers += bench.frames().iter().filter(|f| f.kind == kind::HEADERS).count();
        }
        prop_assert_eq!(answers, bodies.len());
        // Then a valid request is still accepted.
        let stream = 2 * u32::try_from(bodies.len()).expect("few") + 1;
        bench.send(&bench.message(stream, &fcm_body(&fcm_token(9))));
        prop_assert_eq!(bench.entries().last().map(|e| e.status), Some(200));
    }

    #[test]
    fn frames(frames in prop::collection::vec((0_u8..11, any::<u8>(), 0_u32..9, prop::collection::vec(any::<u8>(), 0..80)), 0..60), cut in 1_usize..40) {
        let mut bench = Bench::fcm(|_| {});
        let bytes: Vec<u8> = frames.iter().flat_map(|(kind, flags, stream, payload)| raw(*kind, *flags, *stream, payload)).collect();
        for chunk in bytes.chunks(cut) {
            bench.send(chunk);
            bench.frames();
            prop_assert!(bench.connection.open_streams() <= 100);
        }
        bench.advance(std::time::Duration::from_secs(1_000));
        let goaways = bench.frames().iter().filter(|f| f.kind == kind::GOAWAY).count();
        prop_assert!(goaways <= 1);
    }

    #[test]
    fn what_stands_around_a_token_never_changes_whose_it_is(
        before in "[ -~]{0,30}", after in "[ -~]{0,30}", tokens in prop::collection::vec(0_u32..5, 1..8),
    ) {
        // However a body is cut and cached, the record names the token that a plain JSON parser
        // finds.
        let mut bench = Bench::fcm(|_| {});
        for (i, &n) in tokens.iter().enumerate() {
            let body = serde_json::json!({ "message": {
                "data": { "a": format!("{before}{}", fcm_token(n)), "z": after }, "token": fcm_token(n + 1) } });
            let stream = 2 * u32::try_from(i).expect("few") + 1;
            bench.send(&request(stream, &[("authorization", &bench.bearer.clone())], FCM_PATH, body.to_string().as_bytes()));
            let expected = clarion_proto::device::token_hash(fcm_token(n + 1).as_bytes());
            let last = bench.entries().last().copied().expect("an entry");
            prop_assert_eq!((last.status, last.token_hash), (200, expected));
        }
    }
}
