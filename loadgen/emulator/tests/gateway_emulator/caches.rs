//! The caches of the gateway change neither its answers nor its records.
//!
//! Two connections get the same input; one of them clears its caches before each request, so that
//! it parses everything completely.

use clarion_emulator::frame::{flag, kind};
use proptest::prelude::*;

use super::{
    bench::{Bench, raw},
    sender::{FCM_PATH, PROJECT, TOPIC},
};

/// One field of a header block.
#[derive(Debug, Clone)]
enum Field {
    /// Literal with this first octet (0x00 plain, 0x10 never indexed, 0x40 into the table), name
    /// and value.
    Literal(u8, &'static str, String),
    /// Field by its number in both tables.
    Indexed(u8),
    /// `:path` as a literal with this first octet.
    Path(u8, String),
    /// Size update of the table, which may only come first.
    Resize,
}

#[derive(Debug, Clone)]
struct Push {
    fields: Vec<Field>,
    body: Vec<u8>,
    /// Position at which the body is cut into two frames.
    cut: Option<usize>,
}

impl Push {
    fn bytes(&self, stream: u32, bearer: &str) -> Vec<u8> {
        let mut block = Vec::new();
        for field in &self.fields {
            match field {
                Field::Literal(first, name, value) => {
                    block.push(*first);
                    string(&mut block, name);
                    string(&mut block, if value == "BEARER" { bearer } else { value });
                }
                Field::Indexed(index) => block.push(0x80 | index),
                Field::Path(first, path) => {
                    block.push(first | 0x04);
                    string(&mut block, path);
                }
                Field::Resize => block.extend([0x20, 0x3f, 0xe1, 0x1f]),
            }
        }
        let mut out = raw(kind::HEADERS, flag::END_HEADERS, stream, &block);
        let (head, tail) = self.body.split_at(self.cut.unwrap_or(0).min(self.body.len()));
        if self.cut.is_some() {
            out.extend(raw(kind::DATA, 0, stream, head));
        }
        out.extend(raw(kind::DATA, flag::END_STREAM, stream, tail));
        out
    }
}

/// Appends a string of RFC 7541, section 5.2.
fn string(block: &mut Vec<u8>, text: &str) {
    match text.len().checked_sub(127) {
        None => block.push(u8::try_from(text.len()).expect("below 127")),
        Some(mut rest) => {
            block.push(127);
            while rest > 127 {
                block.push(u8::try_from(rest & 127).expect("seven bits") | 128);
                rest >>= 7;
            }
            block.push(u8::try_from(rest).expect("seven bits"));
        }
    }
    block.extend_from_slice(text.as_bytes());
}

fn first() -> impl Strategy<Value = u8> {
    prop_oneof![6 => Just(0x00_u8), 1 => Just(0x10), 1 => Just(0x40)]
}

fn cut() -> impl Strategy<Value = Option<usize>> {
    prop_oneof![4 => Just(None), 1 => (0..200_usize).prop_map(Some)]
}

/// Few values of everything, so that earlier values come again, in part.
fn of(name: &'static str, values: &'static [&'static str]) -> impl Strategy<Value = Field> {
    (first(), prop::sample::select(values))
        .prop_map(move |(f, v)| Field::Literal(f, name, v.to_owned()))
}

fn apns() -> impl Strategy<Value = Push> {
    let paths = [
        "/3/device/ab",
        "/3/device/abcdef01",
        "/3/device/abcdef02",
        "/3/device/xyz",
        "/3/device/",
        "/4/device/ab",
    ];
    let path = (first(), prop::sample::select(paths.to_vec()))
        .prop_map(|(f, p)| Field::Path(f, p.to_owned()));
    let rest = prop::collection::vec(
        prop_oneof![
            of("apns-topic", &[TOPIC, "com.example.other"]),
            of("apns-priority", &["10", "5", "7"]),
            of("apns-collapse-id", &["case-1", "case-2"]),
            of("apns-expiration", &["0", "x"]),
            (62..66_u8).prop_map(Field::Indexed),
        ],
        0..3,
    );
    let bodies = [r#"{"aps":{}}"#, r#"{"aps":{} }"#, r#"{"aps":{}"#, "[]", ""];
    let bearer = prop_oneof![9 => Just("BEARER"), 1 => Just("bearer a.b.c")];
    let resize = prop_oneof![12 => Just(None), 1 => Just(Some(Field::Resize))];
    (resize, path, first(), bearer, rest, prop::sample::select(bodies.to_vec()), cut()).prop_map(
        |(resize, path, f, bearer, rest, body, cut)| {
            let mut fields: Vec<_> =
                resize.into_iter().chain([Field::Indexed(3), Field::Indexed(7), path]).collect();
            fields.push(Field::Literal(0x00, "host", "h".to_owned()));
            fields.push(Field::Literal(0x00, "apns-topic", TOPIC.to_owned()));
            fields.push(Field::Literal(f, "authorization", bearer.to_owned()));
            fields.extend(rest);
            Push { fields, body: body.as_bytes().to_vec(), cut }
        },
    )
}

fn fcm() -> impl Strategy<Value = Push> {
    let token = "[a-c]{40}|[a-c:_-]{32}|[a-c]{31}|[a-c\"\\\\]{40}";
    let before = [
        r#"{"message":{"token":""#,
        r#"{"message":{"data":{"k":"aaaaaaaa"},"token":""#,
        r#"{"messages":{"token":""#,
    ];
    let after = [
        r#"","android":{"collapse_key":"c"}}}"#,
        r#""}}"#,
        r#""},"validate_only":true}"#,
        r#"","topic":"t"}}"#,
    ];
    let body = (prop::sample::select(before.to_vec()), token, prop::sample::select(after.to_vec()));
    let body =
        body.prop_map(|(before, token, after)| format!("{before}{token}{after}").into_bytes());
    let other = format!("/v1/projects/{PROJECT}x/messages:send");
    let path = prop_oneof![9 => Just(FCM_PATH.to_owned()), 1 => Just(other)];
    let kind = of("content-type", &["application/json", "application/json", "text/plain"]);
    let bearer = prop_oneof![9 => Just("BEARER"), 1 => Just("Bearer x")];
    (first(), path, first(), bearer, kind, body, cut()).prop_map(
        |(f, path, g, bearer, kind, body, cut)| {
            let host = Field::Literal(0x00, "host", "h".to_owned());
            let authorization = Field::Literal(g, "authorization", bearer.to_owned());
            let fields = vec![
                Field::Indexed(3),
                Field::Indexed(7),
                Field::Path(f, path),
                host,
                authorization,
                kind,
            ];
            Push { fields, body, cut }
        },
    )
}

/// Sends the same to both, and compares their answers and records.
fn compare(mut quick: Bench, mut thorough: Bench, pushes: &[Push]) -> Result<(), TestCaseError> {
    thorough.bearer.clone_from(&quick.bearer);
    for (i, push) in pushes.iter().enumerate() {
        let stream = 2 * u32::try_from(i).expect("few") + 1;
        let bytes = push.bytes(stream, &quick.bearer);
        thorough.connection.forget();
        quick.send(&bytes);
        thorough.send(&bytes);
        prop_assert_eq!(quick.frames(), thorough.frames());
        prop_assert_eq!(quick.connection.end(), thorough.connection.end());
    }
    prop_assert_eq!(quick.entries(), thorough.entries());
    prop_assert_eq!(quick.log.stats(), thorough.log.stats());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn apns_says_the_same(pushes in prop::collection::vec(apns(), 1..40)) {
        let (quick, thorough) = Bench::pair(|c| c.first_stream_alone = false);
        compare(quick, thorough, &pushes)?;
    }

    #[test]
    fn fcm_says_the_same(pushes in prop::collection::vec(fcm(), 1..40)) {
        let (quick, thorough) = Bench::fcm_pair();
        compare(quick, thorough, &pushes)?;
    }
}
