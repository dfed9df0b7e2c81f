//! What APNs answers: statuses and reasons, and how they are written.
//!
//! Facts are those of Apple's "Handling notification responses from APNs": 200 is HEADERS alone with END_STREAM; an error
//! is HEADERS and one DATA frame with a JSON object; 410 adds `timestamp` in milliseconds; `apns-id` is in every answer.

use std::io::Write as _;

use serde::{Deserialize, Serialize};

use super::{
    frame::{self, flag, kind},
    hpack::{Encoder, put_literal},
};

macro_rules! reasons {
    ($($name:ident = $status:literal,)*) => {
        /// Apple's reasons, each with its status. `None` is 200.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[allow(missing_docs, reason = "Apple's names; see its table of reasons")]
        #[repr(u8)]
        pub enum Reason { None, $($name,)* }

        impl Reason {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[Self::None, $(Self::$name,)*];

            /// The status that Apple documents for it.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { Self::None => 200, $(Self::$name => $status,)* }
            }

            /// As in the body of an answer.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { Self::None => "", $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

reasons! {
    BadCollapseId = 400,
    BadDeviceToken = 400,
    BadExpirationDate = 400,
    BadMessageId = 400,
    BadPriority = 400,
    BadTopic = 400,
    DeviceTokenNotForTopic = 400,
    DuplicateHeaders = 400,
    IdleTimeout = 400,
    InvalidPushType = 400,
    MissingDeviceToken = 400,
    MissingTopic = 400,
    PayloadEmpty = 400,
    TopicDisallowed = 400,
    BadCertificate = 403,
    BadCertificateEnvironment = 403,
    BadEnvironmentKeyIdInToken = 403,
    ExpiredProviderToken = 403,
    Forbidden = 403,
    InvalidProviderToken = 403,
    MissingProviderToken = 403,
    UnrelatedKeyIdInToken = 403,
    BadPath = 404,
    MethodNotAllowed = 405,
    ExpiredToken = 410,
    Unregistered = 410,
    PayloadTooLarge = 413,
    TooManyProviderTokenUpdates = 429,
    TooManyRequests = 429,
    InternalServerError = 500,
    ServiceUnavailable = 503,
    Shutdown = 503,
}

impl Reason {
    /// From its number in a record.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// An answer as decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Goes into the body; none for 200.
    pub reason: Reason,
    /// Goes into the body of a 410: milliseconds since 1970.
    pub timestamp_ms: Option<u64>,
}

impl Answer {
    /// 200.
    pub const ACCEPTED: Self = Self { status: 200, reason: Reason::None, timestamp_ms: None };

    /// A reason with its documented status.
    #[must_use]
    pub fn refused(reason: Reason) -> Self {
        Self { status: reason.status(), reason, timestamp_ms: None }
    }
}

/// A UUID as bytes; written in its canonical lower-case form.
pub type Uuid = [u8; 16];

/// Appends the HEADERS frame of an answer, and returns the body that is to follow as DATA, empty for 200.
pub fn put_headers(
    out: &mut Vec<u8>,
    encoder: &mut Encoder,
    stream: u32,
    answer: &Answer,
    apns_id: &Uuid,
    unique_id: Option<&Uuid>,
) -> Vec<u8> {
    let start = out.len();
    let end = if answer.reason == Reason::None { flag::END_STREAM } else { 0 };
    frame::head(out, 0, kind::HEADERS, flag::END_HEADERS | end, stream);
    encoder.begin(out);
    put_status(out, answer.status);
    put_literal(out, b"apns-id", &uuid_text(apns_id));
    if let Some(unique_id) = unique_id {
        put_literal(out, b"apns-unique-id", &uuid_text(unique_id));
    }
    let body = if answer.reason == Reason::None {
        Vec::new()
    } else {
        // content-type is entry 31 of the static table: 15 fills the prefix, 16 follow; its value has 16 bytes.
        out.extend_from_slice(b"\x0f\x10\x10application/json");
        body(answer)
    };
    let length = out.len() - start - frame::HEAD_BYTES;
    // A block has some hundred bytes: its length is one octet, the last of three.
    out[start + 2] = u8::try_from(length).expect("a short header block");
    body
}

/// Appends the body of an answer, ending the stream.
pub fn put_body(out: &mut Vec<u8>, stream: u32, body: &[u8]) {
    frame::head(out, body.len(), kind::DATA, flag::END_STREAM, stream);
    out.extend_from_slice(body);
}

fn body(answer: &Answer) -> Vec<u8> {
    let mut body = Vec::with_capacity(64);
    let reason = answer.reason.as_str();
    let written = match answer.timestamp_ms {
        Some(t) => write!(body, r#"{{"reason":"{reason}","timestamp":{t}}}"#),
        None => write!(body, r#"{{"reason":"{reason}"}}"#),
    };
    written.expect("writing to memory");
    body
}

fn put_status(out: &mut Vec<u8>, status: u16) {
    // The static table holds :status with these values from entry 8 on (RFC 7541, appendix A).
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match INDEXED.iter().position(|&s| s == status) {
        Some(i) => out.push(0x88 + u8::try_from(i).expect("one of seven")),
        None => {
            out.extend_from_slice(&[0x08, 3]);
            write!(out, "{status:03}").expect("writing to memory");
        }
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// 8-4-4-4-12, lower case.
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

/// Reads the canonical lower-case form, and no other (Apple: "canonical form").
#[must_use]
pub fn uuid_from_text(text: &[u8]) -> Option<Uuid> {
    if text.len() != 36 || text.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    // The lengths and places of hyphens are checked by writing it again: only the canonical form comes back the same.
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
        let body = put_headers(&mut out, &mut Encoder::new(), 5, answer, &[0xab; 16], None);
        (out, body)
    }

    #[test]
    fn success_is_one_frame_that_ends_the_stream() {
        let (out, body) = written(&Answer::ACCEPTED);
        assert!(body.is_empty());
        assert_eq!(out[..9], [0, 0, 47, 1, 5, 0, 0, 0, 5]);
        assert_eq!(out[9..], *b"\x88\x00\x07apns-id\x24abababab-abab-abab-abab-abababababab");
    }

    #[test]
    fn an_error_tells_its_reason_as_json() {
        let gone = Answer { timestamp_ms: Some(1_700_000_000_000), ..Answer::refused(Reason::Unregistered) };
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
        for bad in ["123E4567-e89b-12d3-a456-4266554400a0", "123e4567e89b-12d3-a456-4266554400a0-", "x", ""] {
            assert_eq!(uuid_from_text(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn numbers_of_reasons_come_back() {
        for &reason in Reason::ALL {
            assert_eq!(Reason::from_number(reason as u8), Some(reason));
        }
        assert_eq!(Reason::from_number(200), None);
    }
}
