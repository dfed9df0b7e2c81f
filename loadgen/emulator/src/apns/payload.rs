//! Payload of a push to APNs: one JSON object, whose `aps` has the types and ranges of "Generating a
//! remote notification".
//!
//! Apple documents no reason for a wrong value, and a phone may ignore it. The emulator refuses it,
//! because a sender that writes it does not reach what it wants.

use serde::{
    Deserialize,
    de::{Error as _, IgnoredAny},
};

/// Members that are checked. Other members, also of the app, may be anything.
#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    aps: Option<Aps>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(dead_code, reason = "read only to check the types")]
struct Aps {
    interruption_level: Option<InterruptionLevel>,
    relevance_score: Option<f64>,
    thread_id: Option<String>,
    category: Option<String>,
    mutable_content: Option<Flag>,
    content_available: Option<Flag>,
    /// Only pushes to Live Activities have it; their relevance score may be any number.
    event: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum InterruptionLevel {
    Passive,
    Active,
    TimeSensitive,
    Critical,
}

/// The number 0 or 1.
struct Flag;

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match u8::deserialize(d)? {
            0 | 1 => Ok(Self),
            _ => Err(D::Error::custom("neither 0 nor 1")),
        }
    }
}

/// Reports whether a body is exactly one JSON object with a valid `aps`.
#[must_use]
pub fn is_valid(body: &[u8]) -> bool {
    let starts = body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
    if !starts || std::str::from_utf8(body).is_err() {
        return false;
    }
    let Ok(Payload { aps }) = serde_json::from_slice(body) else { return false };
    aps.is_none_or(|aps| {
        aps.event.is_some() || aps.relevance_score.is_none_or(|score| (0.0..=1.0).contains(&score))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        for (body, good) in [
            (&b"{}"[..], true),
            (b" {\"aps\":{}}\n", true),
            (b"[]", false),
            (b"{", false),
            (b"{}x", false),
            (b"{\"a\":\"\xff\"}", false),
            (br#"{"aps":{"alert":"x","badge":3,"mutable-content":1},"k":[1]}"#, true),
            (br#"{"aps":{"mutable-content":true}}"#, false),
            (br#"{"aps":{"interruption-level":"time-sensitive","relevance-score":1}}"#, true),
            (br#"{"aps":{"interruption-level":"urgent"}}"#, false),
            (br#"{"aps":{"relevance-score":1.5}}"#, false),
            (br#"{"aps":{"relevance-score":100,"event":"update"}}"#, true),
            (br#"{"aps":{"thread-id":7}}"#, false),
        ] {
            assert_eq!(is_valid(body), good, "{}", String::from_utf8_lossy(body));
        }
    }
}
