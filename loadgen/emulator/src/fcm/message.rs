//! The message in the body of a request to FCM.
//!
//! The limits are those of the reference of `projects.messages` and of the page of error codes:
//! data maps strings to strings without reserved keys, a payload has at most 4,096 bytes,
//! `android.ttl` is at most four weeks, a message has one target.

use xxhash_rust::xxh3::xxh3_64;

use super::{
    super::answer::{Answer, Reason, Violation},
    json::Node,
    schema::{self, REQUEST, duration, field, text},
};

/// Longest payload, bytes: keys and values of data and notifications in UTF-8.
pub const PAYLOAD_BYTES_MAX: usize = 4_096;
/// Longest `android.ttl`, seconds: four weeks.
pub const TTL_SECONDS_MAX: u64 = 2_419_200;
/// Allowed lengths of a token, bytes. Observed lengths are 119 to 163; Google once advised to allow
/// 4,096.
pub const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 32..=4_096;

/// Meaning of a message apart from its token. It is the same for all bodies that differ only in the
/// token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meaning {
    /// xxh3-64 of `android.collapse_key`; 0 without one.
    pub collapse_hash: u64,
    /// Whether the request only validates the message.
    pub dry_run: bool,
}

/// Reads a complete body. Returns the token, if it can be read, also with the fault of a message.
pub fn read(body: &[u8]) -> (Option<String>, Result<Meaning, Answer>) {
    let tree = match Node::read(body) {
        Ok(tree @ Node::Object(_)) => tree,
        Ok(_) => {
            return (
                None,
                Err(malformed("Invalid JSON payload received. Root element must be a message.")),
            );
        }
        Err(why) => return (None, Err(malformed(&why))),
    };
    let message = field(&tree, "message");
    let token = message.and_then(|m| text(m, "token")).map(str::to_owned);
    (token, meaning(&tree, message))
}

/// Reports whether bytes have the form of a token: URL-safe base64 and colons.
#[must_use]
pub fn is_token(token: &[u8]) -> bool {
    // Without a branch per character, because every request checks some 160 characters.
    TOKEN_BYTES.contains(&token.len())
        && token.iter().fold(true, |all, &b| all & IS_TOKEN_BYTE[usize::from(b)])
}

#[allow(clippy::cast_possible_truncation, reason = "counts to 255")]
const IS_TOKEN_BYTE: [bool; 256] = {
    let mut is = [false; 256];
    let mut i = 0;
    while i < 256 {
        let b = i as u8;
        is[i] = b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b':');
        i += 1;
    }
    is
};

fn meaning(tree: &Node, message: Option<&Node>) -> Result<Meaning, Answer> {
    schema::check(tree, REQUEST, "").map_err(|v| refused(Reason::FcmInvalidJson, v))?;
    let dry_run = field(tree, "validate_only") == Some(&Node::Bool(true));
    let Some(message) = message else { return Err(no_recipient()) };
    let targets: Vec<_> = ["token", "topic", "condition", "fid"]
        .into_iter()
        .filter(|t| field(message, t).is_some())
        .collect();
    match targets[..] {
        ["token"] => {}
        [] => return Err(no_recipient()),
        [other] => {
            let description = format!("This gateway sends to tokens only, not to a {other}.");
            return Err(refused(
                Reason::FcmInvalidArgument,
                violation(&format!("message.{other}"), description),
            ));
        }
        [first, second, ..] => {
            let description = format!(
                "Invalid value at 'message' (oneof), oneof field 'target' is already set. Cannot \
                 set '{second}' beside '{first}'"
            );
            return Err(refused(Reason::FcmInvalidJson, violation("message", description)));
        }
    }
    let android = field(message, "android");
    for (at, data) in [
        ("message.data", field(message, "data")),
        ("message.android.data", android.and_then(|a| field(a, "data"))),
    ] {
        let Some(Node::Object(fields)) = data else { continue };
        if let Some((key, _)) = fields.iter().find(|(key, _)| is_reserved(key)) {
            let key: String = key.chars().take(64).collect();
            let description = format!("Invalid data payload key: {key}");
            return Err(refused(Reason::FcmInvalidArgument, violation(at, description)));
        }
    }
    if let Some(ttl) = android.and_then(|a| text(a, "ttl"))
        && let Ok((seconds, nanos)) = duration(ttl)
        && (seconds, nanos) > (TTL_SECONDS_MAX, 0)
    {
        let description = "TTL must be between 0 and 2419200 seconds.".to_owned();
        return Err(refused(
            Reason::FcmInvalidArgument,
            violation("message.android.ttl", description),
        ));
    }
    for platform in ["", "android", "apns", "webpush"] {
        let part = if platform.is_empty() { Some(message) } else { field(message, platform) };
        let options = part.and_then(|part| field(part, "fcm_options"));
        if let Some(label) = options.and_then(|options| text(options, "analytics_label"))
            && !is_analytics_label(label)
        {
            let at = [platform, "fcm_options.analytics_label"].join(".");
            let at = format!("message.{}", at.trim_start_matches('.'));
            let description = "Invalid analytics label.".to_owned();
            return Err(refused(Reason::FcmInvalidArgument, violation(&at, description)));
        }
    }
    if payload_bytes(message, android) > PAYLOAD_BYTES_MAX {
        return Err(Answer::refused(Reason::FcmPayloadTooLarge));
    }
    let collapse_hash =
        android.and_then(|a| text(a, "collapse_key")).map_or(0, |key| xxh3_64(key.as_bytes()));
    Ok(Meaning { collapse_hash, dry_run })
}

/// Returns the size of the payload as Google counts it: keys and values. The parts for other
/// platforms do not count.
fn payload_bytes(message: &Node, android: Option<&Node>) -> usize {
    let parts = ["data", "notification"]
        .into_iter()
        .flat_map(|name| [field(message, name), android.and_then(|a| field(a, name))]);
    parts.flatten().map(bytes).sum()
}

fn bytes(node: &Node) -> usize {
    match node {
        Node::Null => 0,
        Node::Bool(value) => value.to_string().len(),
        Node::Number(value) => value.to_string().len(),
        Node::Text(text) => text.len(),
        Node::List(nodes) => nodes.iter().map(bytes).sum(),
        Node::Object(fields) => fields.iter().map(|(name, value)| name.len() + bytes(value)).sum(),
    }
}

/// Whether a text is a label of Google's reports: `^[a-zA-Z0-9-_.~%]{1,50}$`.
fn is_analytics_label(text: &str) -> bool {
    (1..=50).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b'%'))
}

fn is_reserved(key: &str) -> bool {
    matches!(key, "from" | "message_type") || key.starts_with("google") || key.starts_with("gcm")
}

/// Returns the refusal of a body that is not valid JSON, in the text of protobuf's reader.
#[must_use]
pub fn malformed(description: &str) -> Answer {
    refused(Reason::FcmInvalidJson, violation("", description.to_owned()))
}

fn no_recipient() -> Answer {
    let description = "Recipient of the message is not set.".to_owned();
    refused(Reason::FcmMissingRecipient, violation("message", description))
}

fn violation(field: &str, description: String) -> Violation {
    Violation { field: field.to_owned(), description }
}

fn refused(reason: Reason, violation: Violation) -> Answer {
    Answer { violation: Some(Box::new(violation)), ..Answer::refused(reason) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(message: &str) -> Option<Reason> {
        read(format!(r#"{{"message":{message}}}"#).as_bytes()).1.err().map(|a| a.reason)
    }

    #[test]
    fn what_a_message_may_be() {
        let large = |n: usize| format!(r#"{{"token":"t","data":{{"k":"{}"}}}}"#, "v".repeat(n));
        let cases = [
            (r#"{"token":"t"}"#.to_owned(), None),
            (r#"{"token":"t","data":{"fromage":"x","a":""}}"#.to_owned(), None),
            (r#"{"token":"t","android":{"ttl":"2419200s"}}"#.to_owned(), None),
            (
                r#"{"token":"t","android":{"ttl":"2419200.1s"}}"#.to_owned(),
                Some(Reason::FcmInvalidArgument),
            ),
            (r#"{"token":"t","data":{"from":"x"}}"#.to_owned(), Some(Reason::FcmInvalidArgument)),
            (
                r#"{"token":"t","android":{"data":{"google.x":"x"}}}"#.to_owned(),
                Some(Reason::FcmInvalidArgument),
            ),
            (r#"{"token":"t","data":{"gcm":"x"}}"#.to_owned(), Some(Reason::FcmInvalidArgument)),
            (r#"{"data":{"a":"x"}}"#.to_owned(), Some(Reason::FcmMissingRecipient)),
            ("null".to_owned(), Some(Reason::FcmMissingRecipient)),
            (r#"{"topic":"t"}"#.to_owned(), Some(Reason::FcmInvalidArgument)),
            (r#"{"token":"t","topic":"t"}"#.to_owned(), Some(Reason::FcmInvalidJson)),
            ("[]".to_owned(), Some(Reason::FcmInvalidJson)),
            (
                r#"{"token":"t","fcm_options":{"analytics_label":"amber_1.2~%-B"},"android":{"direct_boot_ok":true,"bandwidth_constrained_ok":true,"restricted_satellite_ok":false}}"#.to_owned(),
                None,
            ),
            (
                r#"{"token":"t","fcm_options":{"analytics_label":"a b"}}"#.to_owned(),
                Some(Reason::FcmInvalidArgument),
            ),
            (
                r#"{"token":"t","android":{"fcmOptions":{"analyticsLabel":""}}}"#.to_owned(),
                Some(Reason::FcmInvalidArgument),
            ),
            (
                r#"{"token":"t","android":{"direct_boot_ok":"yes"}}"#.to_owned(),
                Some(Reason::FcmInvalidJson),
            ),
            (large(4_095), None),
            (large(4_096), Some(Reason::FcmPayloadTooLarge)),
        ];
        for (message, expected) in cases {
            assert_eq!(reason(&message), expected, "{message}");
        }
    }

    #[test]
    fn what_is_kept_of_it() {
        let (token, meaning) =
            read(br#"{"validate_only":true,"message":{"token":"tok","android":{"collapse_key":"case-1"}}}"#);
        assert_eq!(token.as_deref(), Some("tok"));
        assert_eq!(meaning, Ok(Meaning { collapse_hash: xxh3_64(b"case-1"), dry_run: true }));
    }

    #[test]
    fn tokens() {
        let good = format!("{}:APA91b{}", "c".repeat(22), "-_aZ09".repeat(20));
        assert!(is_token(good.as_bytes()));
        for bad in
            ["", "short", &good.replace(':', " "), &good.replace(':', "."), &"a".repeat(4_097)]
        {
            assert!(!is_token(bad.as_bytes()), "{bad}");
        }
    }
}
