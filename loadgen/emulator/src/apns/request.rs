//! Headers and path of a request to APNs, checked in the gateway's order: path, authorization,
//! headers, token, payload.
//!
//! Apple does not document the order of its checks; this order follows what is known first. Reasons
//! and limits are those of "Sending notification requests to APNs". Pure.

use std::{ops::RangeInclusive, sync::Arc};

use super::{
    super::{
        answer::Reason,
        fields::{Fields, first_counts, number},
    },
    answer::{Uuid, uuid_from_text},
    auth::Verified,
};

/// Largest payload of all push types but voip.
pub const PAYLOAD_BYTES_MAX: usize = 4_096;
/// Longest payload of voip pushes, bytes.
pub const PAYLOAD_BYTES_MAX_VOIP: usize = 5_120;
/// Longest collapse id, bytes.
pub const COLLAPSE_BYTES_MAX: usize = 64;
/// Longest token: WWDC 2015 announced 100 bytes.
pub const TOKEN_BYTES_MAX: usize = 100;
const TOKEN_BYTES: RangeInclusive<usize> = 1..=TOKEN_BYTES_MAX;

/// Push types and what each adds to the bundle id to make its topic.
const PUSH_TYPES: [(&[u8], &str); 11] = [
    (b"alert", ""),
    (b"background", ""),
    (b"location", ".location-query"),
    (b"voip", ".voip"),
    (b"complication", ".complication"),
    (b"fileprovider", ".pushkit.fileprovider"),
    (b"mdm", ""),
    (b"liveactivity", ".push-type.liveactivity"),
    (b"pushtotalk", ".voip-ptt"),
    (b"controls", ".push-type.controls"),
    (b"widgets", ".push-type.widgets"),
];

/// Content of a header block, apart from the path. `None` means absent or invalid, as the faults
/// tell.
#[derive(Debug)]
pub struct Rest {
    /// Fault found before the authorization is checked.
    pub method_fault: Option<Reason>,
    /// The verified provider token, or why it was refused.
    pub authorization: Result<Verified, Reason>,
    /// Fault found after the authorization is checked.
    pub header_fault: Option<Reason>,
    /// Id to be returned in the response.
    pub apns_id: Option<Uuid>,
    /// Hash of the collapse id, for the record.
    pub collapse_hash: u64,
}

/// Content of a request to APNs.
#[derive(Debug, Clone)]
pub struct Ask {
    /// All header fields but the path, shared between requests.
    pub rest: Arc<Rest>,
    /// The request's path, with the device token.
    pub path: Path,
}

/// The header fields that are Apple's, as they came.
#[derive(Debug, Default)]
pub struct AppleFields {
    topic: Option<Vec<u8>>,
    push_type: Option<Vec<u8>>,
    expiration: Option<Vec<u8>>,
    priority: Option<Vec<u8>>,
    collapse_id: Option<Vec<u8>>,
    apns_id: Option<Vec<u8>>,
    repeated: bool,
}

impl AppleFields {
    /// Processes the next field.
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        let slot = match name {
            b"apns-topic" => &mut self.topic,
            b"apns-push-type" => &mut self.push_type,
            b"apns-expiration" => &mut self.expiration,
            b"apns-priority" => &mut self.priority,
            b"apns-collapse-id" => &mut self.collapse_id,
            b"apns-id" => &mut self.apns_id,
            _ => return,
        };
        self.repeated |= first_counts(slot, value);
    }

    /// Checks all fields together.
    #[must_use]
    pub fn read(
        &self,
        common: &Fields,
        topics: &[String],
        authorization: Result<Verified, Reason>,
    ) -> Rest {
        Rest {
            // Looked at first.
            method_fault: (common.method.as_deref() != Some(b"POST"))
                .then_some(Reason::MethodNotAllowed),
            authorization,
            header_fault: if common.repeated {
                Some(Reason::DuplicateHeaders)
            } else {
                self.header_fault(topics)
            },
            apns_id: self.apns_id(),
            collapse_hash: self.collapse_id.as_deref().map_or(0, xxhash_rust::xxh3::xxh3_64),
        }
    }

    /// The largest payload of this push type.
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        if self.push_type.as_deref() == Some(b"voip") {
            PAYLOAD_BYTES_MAX_VOIP
        } else {
            PAYLOAD_BYTES_MAX
        }
    }

    fn apns_id(&self) -> Option<Uuid> {
        self.apns_id.as_deref().and_then(uuid_from_text)
    }

    /// What is wrong with the headers; looked at after path and authorization.
    fn header_fault(&self, topics: &[String]) -> Option<Reason> {
        if self.repeated {
            return Some(Reason::DuplicateHeaders);
        }
        if self.apns_id.is_some() && self.apns_id().is_none() {
            return Some(Reason::BadMessageId);
        }
        let push_type = self.push_type.as_deref().unwrap_or(b"alert");
        let Some((_, suffix)) = PUSH_TYPES.iter().find(|(name, _)| *name == push_type) else {
            return Some(Reason::InvalidPushType);
        };
        if let Some(reason) = self.topic_fault(suffix, topics) {
            return Some(reason);
        }
        // 0: one attempt. Seconds since 1970 otherwise; a number that no i64 holds is no date.
        if self
            .expiration
            .as_deref()
            .is_some_and(|v| number(v).is_none_or(|n| i64::try_from(n).is_err()))
        {
            return Some(Reason::BadExpirationDate);
        }
        match (self.priority.as_deref(), push_type) {
            // A background push with immediate priority is an error (Apple: "Pushing background
            // updates to your app").
            (None | Some(b"5" | b"1"), _) => {}
            (Some(b"10"), t) if t != b"background" => {}
            _ => return Some(Reason::BadPriority),
        }
        self.collapse_id
            .as_ref()
            .filter(|c| c.len() > COLLAPSE_BYTES_MAX)
            .map(|_| Reason::BadCollapseId)
    }

    fn topic_fault(&self, suffix: &str, topics: &[String]) -> Option<Reason> {
        let Some(topic) = self.topic.as_deref() else { return Some(Reason::MissingTopic) };
        let legal = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if topic.is_empty() || topic.len() > 255 || !topic.iter().all(legal) {
            return Some(Reason::BadTopic);
        }
        let bundle = topic.strip_suffix(suffix.as_bytes());
        let known = bundle.is_some_and(|b| topics.iter().any(|t| t.as_bytes() == b));
        (!known).then_some(Reason::TopicDisallowed)
    }
}

/// A token out of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token {
    length: u8,
    bytes: [u8; TOKEN_BYTES_MAX],
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({} bytes)", self.length)
    }
}

impl Token {
    /// Bytes of the token, as the path has them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Content of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// The path does not name a device.
    Bad,
    /// It names one, but wrongly; found out only after the headers.
    BadToken(Reason),
    /// The path names a device.
    Device(Token),
}

impl Path {
    /// Parses `/3/device/<hexadecimal token>`.
    #[must_use]
    pub fn read(path: &[u8]) -> Self {
        let digits = match path.strip_prefix(b"/3/device") {
            Some([] | [b'/']) => return Self::BadToken(Reason::MissingDeviceToken),
            Some([b'/', digits @ ..]) => digits,
            _ => return Self::Bad,
        };
        let (pairs, odd) = digits.as_chunks::<2>();
        let mut bytes = [0; TOKEN_BYTES_MAX];
        let mut wrong = u8::from(!odd.is_empty() || !TOKEN_BYTES.contains(&pairs.len()));
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            let (high, low) = (NIBBLES[usize::from(*high)], NIBBLES[usize::from(*low)]);
            // A digit's value is below 16; anything else has its high bit set.
            wrong |= (high | low) & 0x80;
            *byte = high << 4 | low & 15;
        }
        if wrong != 0 {
            return Self::BadToken(Reason::BadDeviceToken);
        }
        Self::Device(Token { length: u8::try_from(pairs.len()).expect("at most 100"), bytes })
    }
}

/// The value of each hexadecimal digit; 0x80 for what is none.
#[allow(clippy::cast_possible_truncation, reason = "counts to 255")]
const NIBBLES: [u8; 256] = {
    let mut values = [0x80; 256];
    let mut i = 0;
    while i < 256 {
        let c = i as u8;
        if c.is_ascii_hexdigit() {
            values[i] = match c {
                b'0'..=b'9' => c - b'0',
                _ => (c | 0x20) - b'a' + 10,
            };
        }
        i += 1;
    }
    values
};

/// Whether a body is one JSON object.
#[must_use]
pub fn is_json_object(body: &[u8]) -> bool {
    let starts = body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
    starts
        && std::str::from_utf8(body).is_ok()
        && serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header_fault(list: &[(&str, &str)]) -> Option<Reason> {
        let mut fields = AppleFields::default();
        for (name, value) in list {
            fields.add(name.as_bytes(), value.as_bytes());
        }
        fields.header_fault(&["com.example.app".to_owned()])
    }

    const TOPIC: (&str, &str) = ("apns-topic", "com.example.app");

    #[test]
    fn headers_by_the_book() {
        let long = "c".repeat(65);
        #[allow(clippy::type_complexity, reason = "a table")]
        let cases: [(&[(&str, &str)], Option<Reason>); 20] = [
            (&[TOPIC], None),
            (
                &[
                    TOPIC,
                    ("apns-priority", "10"),
                    ("apns-expiration", "0"),
                    ("apns-push-type", "alert"),
                ],
                None,
            ),
            (&[TOPIC, ("apns-collapse-id", &long[1..])], None),
            (&[TOPIC, ("apns-collapse-id", &long)], Some(Reason::BadCollapseId)),
            (&[], Some(Reason::MissingTopic)),
            (&[("apns-topic", "")], Some(Reason::BadTopic)),
            (&[("apns-topic", "com example")], Some(Reason::BadTopic)),
            (&[("apns-topic", "com.example.other")], Some(Reason::TopicDisallowed)),
            (&[("apns-topic", "com.example.app.voip")], Some(Reason::TopicDisallowed)),
            (&[("apns-topic", "com.example.app.voip"), ("apns-push-type", "voip")], None),
            (&[TOPIC, ("apns-push-type", "voip")], Some(Reason::TopicDisallowed)),
            (&[TOPIC, ("apns-push-type", "loud")], Some(Reason::InvalidPushType)),
            (&[TOPIC, ("apns-push-type", "background"), ("apns-priority", "5")], None),
            (
                &[TOPIC, ("apns-push-type", "background"), ("apns-priority", "10")],
                Some(Reason::BadPriority),
            ),
            (&[TOPIC, ("apns-priority", "7")], Some(Reason::BadPriority)),
            (&[TOPIC, ("apns-expiration", "-1")], Some(Reason::BadExpirationDate)),
            (
                &[TOPIC, ("apns-expiration", "99999999999999999999")],
                Some(Reason::BadExpirationDate),
            ),
            (&[TOPIC, TOPIC], Some(Reason::DuplicateHeaders)),
            (&[TOPIC, ("apns-id", "123e4567-e89b-12d3-a456-4266554400a0")], None),
            (
                &[TOPIC, ("apns-id", "123E4567-E89B-12D3-A456-4266554400A0")],
                Some(Reason::BadMessageId),
            ),
        ];
        for (list, reason) in cases {
            assert_eq!(header_fault(list), reason, "{list:?}");
        }
    }

    #[test]
    fn paths() {
        assert_eq!(Path::read(b"/3/device/"), Path::BadToken(Reason::MissingDeviceToken));
        assert_eq!(Path::read(b"/3/device/xy"), Path::BadToken(Reason::BadDeviceToken));
        assert_eq!(Path::read(b"/3/device/abc"), Path::BadToken(Reason::BadDeviceToken));
        assert_eq!(
            Path::read(format!("/3/device/{}", "0".repeat(202)).as_bytes()),
            Path::BadToken(Reason::BadDeviceToken)
        );
        assert_eq!(Path::read(b"/3/devices/ab"), Path::Bad);
        assert_eq!(Path::read(b"/"), Path::Bad);
        match Path::read(b"/3/device/00fFAb12") {
            Path::Device(token) => assert_eq!(token.as_bytes(), [0, 0xff, 0xab, 0x12]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bodies() {
        for (body, good) in [
            (&b"{}"[..], true),
            (b" {\"aps\":{}}\n", true),
            (b"[]", false),
            (b"{", false),
            (b"{}x", false),
            (b"{\"a\":\"\xff\"}", false),
        ] {
            assert_eq!(is_json_object(body), good);
        }
    }
}
