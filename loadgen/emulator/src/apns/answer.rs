//! Responses in the format of APNs.
//!
//! Facts are those of Apple's "Handling notification responses from APNs": 200 is HEADERS alone
//! with END_STREAM; an error is HEADERS and one DATA frame with a JSON object; 410 adds `timestamp`
//! in milliseconds; `apns-id` is in every answer.

use std::io::Write as _;

use super::super::{
    answer::{Answer, Reason, begin_headers, end_headers, put_status},
    hpack::{Encoder, put_literal},
};

/// A UUID as 16 bytes; its text is the canonical lower-case form.
pub type Uuid = [u8; 16];

/// Appends the HEADERS frame of an answer to `out`, and the payload of its DATA frame to `body`. An
/// answer with status 200 has no payload.
pub fn put(
    out: &mut Vec<u8>,
    encoder: &mut Encoder,
    stream: u32,
    answer: &Answer,
    apns_id: &Uuid,
    unique_id: Option<&Uuid>,
    body: &mut Vec<u8>,
) {
    if answer.status == 200
        && answer.reason == Reason::None
        && unique_id.is_none()
        && encoder.is_settled()
    {
        return put_accepted(out, stream, apns_id);
    }
    let start = begin_headers(out, stream, answer.reason == Reason::None);
    encoder.begin(out);
    put_status(out, answer.status);
    put_literal(out, b"apns-id", &uuid_text(apns_id));
    if let Some(unique_id) = unique_id {
        put_literal(out, b"apns-unique-id", &uuid_text(unique_id));
    }
    if answer.reason != Reason::None {
        // content-type is entry 31 of the static table: the prefix holds 15, the next octet 16. The
        // value has 16 bytes.
        out.extend_from_slice(b"\x0f\x10\x10application/json");
        put_reason(body, answer);
    }
    end_headers(out, start);
}

/// Appends the HEADERS frame of an accepted push in one piece: the same bytes as [`put`] writes in
/// pieces. Nearly every answer takes this path.
fn put_accepted(out: &mut Vec<u8>, stream: u32, apns_id: &Uuid) {
    const FRAME: [u8; 56] =
        *b"\0\0\x2f\x01\x05\0\0\0\0\x88\0\x07apns-id\x2400000000-0000-0000-0000-000000000000";
    let mut frame = FRAME;
    frame[5..9].copy_from_slice(&stream.to_be_bytes());
    frame[20..].copy_from_slice(&uuid_text(apns_id));
    out.extend_from_slice(&frame);
}

fn put_reason(body: &mut Vec<u8>, answer: &Answer) {
    let reason = answer.reason.as_str();
    let written = match answer.timestamp_ms {
        Some(t) => write!(body, r#"{{"reason":"{reason}","timestamp":{t}}}"#),
        None => write!(body, r#"{{"reason":"{reason}"}}"#),
    };
    written.expect("writing to memory");
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Returns the canonical text of a UUID: 8-4-4-4-12 digits, lower case.
#[must_use]
pub fn uuid_text(uuid: &Uuid) -> [u8; 36] {
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (i, byte) in uuid.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = DIGITS[usize::from(byte >> 4)];
        text[at + 1] = DIGITS[usize::from(byte & 15)];
        at += 2;
    }
    text
}

/// Parses the canonical lower-case text of a UUID; APNs accepts no other form.
#[must_use]
pub fn uuid_from_text(text: &[u8]) -> Option<Uuid> {
    if text.len() != 36 || text.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    // The result is written again and compared, which checks the lengths and the places of hyphens:
    // only the canonical form gives the same text.
    let digits = data_encoding::HEXLOWER;
    let mut bare = [0; 32];
    let mut kept = text.iter().filter(|&&b| b != b'-');
    for slot in &mut bare {
        *slot = *kept.next()?;
    }
    let mut uuid = [0; 16];
    digits.decode_mut(&bare, &mut uuid).ok()?;
    (uuid_text(&uuid) == text).then_some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(answer: &Answer) -> (Vec<u8>, Vec<u8>) {
        let mut out = Vec::new();
        let mut body = Vec::new();
        put(&mut out, &mut Encoder::new(), 5, answer, &[0xab; 16], None, &mut body);
        (out, body)
    }

    #[test]
    fn success_is_one_frame_that_ends_the_stream() {
        let (out, body) = written(&Answer::ACCEPTED);
        // An encoder with a pending size update writes the size update and then the same bytes in
        // pieces.
        let (mut encoder, mut pieces) = (Encoder::new(), Vec::new());
        encoder.set_table_size(0);
        put(&mut pieces, &mut encoder, 5, &Answer::ACCEPTED, &[0xab; 16], None, &mut Vec::new());
        assert_eq!(pieces[10..], out[9..]);
        assert!(body.is_empty());
        assert_eq!(out[..9], [0, 0, 47, 1, 5, 0, 0, 0, 5]);
        assert_eq!(out[9..], *b"\x88\x00\x07apns-id\x24abababab-abab-abab-abab-abababababab");
    }

    #[test]
    fn an_error_tells_its_reason_as_json() {
        let gone = Answer {
            timestamp_ms: Some(1_700_000_000_000),
            ..Answer::refused(Reason::Unregistered)
        };
        let (out, body) = written(&gone);
        assert_eq!(out[4], 4, "END_HEADERS, without END_STREAM");
        assert_eq!(out[9..14], *b"\x08\x03410");
        assert!(out.ends_with(b"\x0f\x10\x10application/json"));
        assert_eq!(body, br#"{"reason":"Unregistered","timestamp":1700000000000}"#);
        assert_eq!(written(&Answer::refused(Reason::BadTopic)).1, br#"{"reason":"BadTopic"}"#);
    }

    #[test]
    fn only_the_canonical_uuid_is_read() {
        let text = b"123e4567-e89b-12d3-a456-4266554400a0";
        assert_eq!(uuid_text(&uuid_from_text(text).expect("canonical")), *text);
        for bad in [
            "123E4567-e89b-12d3-a456-4266554400a0",
            "123e4567e89b-12d3-a456-4266554400a0-",
            "x",
            "",
        ] {
            assert_eq!(uuid_from_text(bad.as_bytes()), None, "{bad}");
        }
    }
}
