//! Headers and path of a request to APNs. They are checked in this order: path, authorization,
//! headers, token, payload.
//!
//! Apple does not document the order of the checks. This order checks first what the gateway knows
//! first. Reasons and limits are those of "Sending notification requests to APNs". This module does
//! no I/O.

use std::{ops::RangeInclusive, sync::Arc};

use super::{
    super::{
        answer::Reason,
        fields::{Fields, first_counts, number},
    },
    answer::{Uuid, uuid_from_text},
    auth::Verified,
};

/// Longest payload of all push types except voip, bytes.
pub const PAYLOAD_BYTES_MAX: usize = 4_096;
/// Longest payload of voip pushes, bytes.
pub const PAYLOAD_BYTES_MAX_VOIP: usize = 5_120;
/// Longest collapse id, bytes.
pub const COLLAPSE_BYTES_MAX: usize = 64;
/// Longest device token, bytes. Apple announced 100 bytes at WWDC 2015.
pub const TOKEN_BYTES_MAX: usize = 100;
const TOKEN_BYTES: RangeInclusive<usize> = 1..=TOKEN_BYTES_MAX;

/// Push types, each with the suffix that turns a bundle id into the topic.
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

/// Content of a header block without its path. `None` means absent or invalid; the fault fields say
/// which.
#[derive(Debug)]
pub struct Rest {
    /// Fault of the method; it counts before the authorization.
    pub method_fault: Option<Reason>,
    /// The verified provider token, or the reason of its refusal.
    pub authorization: Result<Verified, Reason>,
    /// Fault of the other headers; it counts after the authorization.
    pub header_fault: Option<Reason>,
    /// UUID that the response returns as `apns-id`.
    pub apns_id: Option<Uuid>,
    /// xxh3-64 of the collapse id, for the record; 0 without one.
    pub collapse_hash: u64,
}

/// Head of a request to APNs.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Content of all header fields except the path. Requests with the same headers share it.
    pub rest: Arc<Rest>,
    /// Content of the path, with the device token.
    pub path: Path,
}

/// Header fields that only APNs knows, as received.
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
    /// Stores a header field that APNs knows, and ignores any other.
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

    /// Checks all header fields of the block together.
    #[must_use]
    pub fn read(
        &self,
        common: &Fields,
        topics: &[String],
        authorization: Result<Verified, Reason>,
    ) -> Rest {
        Rest {
            // APNs checks the method first.
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

    /// Returns the longest payload of the push type, bytes.
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

    /// Returns the first fault of the headers. Path and authorization are checked before.
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
        // 0 means one attempt; other values are seconds since 1970. A number that does not fit an
        // i64 is not a date.
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

/// Device token from a path.
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
    /// Returns the bytes that the hexadecimal digits of the path encode.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Content of a request's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// The path does not name a device.
    Bad,
    /// The path names a device, but its token is invalid. APNs reports this fault after those of
    /// the headers.
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
            // A digit's value is below 16; the value of any other character has its high bit set.
            wrong |= (high | low) & 0x80;
            *byte = high << 4 | low & 15;
        }
        if wrong != 0 {
            return Self::BadToken(Reason::BadDeviceToken);
        }
        Self::Device(Token { length: u8::try_from(pairs.len()).expect("at most 100"), bytes })
    }
}

/// Value of each hexadecimal digit; 0x80 for every other character.
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
}
