//! Scripted answers to requests, selected by the token alone.
//!
//! A scenario needs dead, throttled and failing tokens, and its verdict must know them without
//! asking the emulator. So both call one pure function, [`answer_for`], with the same [`Scripts`].
//! Rules cut the range of a seeded hash into adjacent parts: a token matches at most one rule, and
//! shares do not depend on the population.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::{BuildHasherDefault, Hasher},
};

use clarion_proto::ids::UnixMillis;
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::answer::{Answer, Reason, RetryAfter};

const PPM: u64 = 1_000_000;
/// Most tokens whose attempts are counted: 16 bytes each, and twice that in the table, so 128 MiB.
/// Further tokens are treated as if their script had ended.
const ATTEMPTS_MAX: usize = 4 << 20;

/// Scripted answers: rules for shares of all tokens, and lists for single tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scripts {
    /// Seed of the hash that assigns tokens to rules.
    pub seed: u64,
    /// Shares of all tokens; at most 1,000,000 ppm together.
    pub rules: Vec<Rule>,
    /// Answers for single tokens, one for each attempt; later attempts, and `None`, get 200. These
    /// lists come before the rules.
    pub tokens: BTreeMap<TokenKey, Vec<Scripted>>,
}

/// An answer for a share of all tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Share of all tokens, parts per million.
    pub ppm: u32,
    /// Answer for the tokens of the share.
    pub answer: Scripted,
}

/// Way in which a valid request is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The request is answered.
    #[default]
    Answer,
    /// The request is not processed: RST_STREAM(REFUSED_STREAM).
    Refuse,
    /// RST_STREAM(INTERNAL_ERROR) instead of an answer: the client cannot know the result.
    Reset,
    /// The request is answered completely, and RST_STREAM(NO_ERROR) follows, as from a server that
    /// needs no more of the request.
    AnswerThenReset,
    /// The request is never answered.
    Stall,
    /// The answer is cut: its head is sent, and RST_STREAM(INTERNAL_ERROR) instead of the body.
    /// `status` sets the status; no reason is sent.
    HeadThenReset,
    /// The answer is cut: its head is sent, and the connection ends.
    HeadThenClose,
}

impl Fate {
    /// Reports whether the request gets an answer, complete or cut.
    #[must_use]
    pub fn is_answered(self) -> bool {
        matches!(self, Self::Answer | Self::AnswerThenReset)
    }

    /// Reports whether only the head of the answer is sent.
    #[must_use]
    pub fn is_cut(self) -> bool {
        matches!(self, Self::HeadThenReset | Self::HeadThenClose)
    }
}

/// One scripted answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scripted {
    /// Way in which the request is answered: an answer, a reset or no answer. Default: an answer.
    #[serde(default)]
    pub fate: Fate,
    /// Reason of the provider; `None` or absent: the push is accepted.
    #[serde(default = "acceptance")]
    pub reason: Reason,
    /// Status that replaces the documented one.
    #[serde(default)]
    pub status: Option<u16>,
    /// `timestamp` of a 410, as an offset to the present time, milliseconds.
    #[serde(default)]
    pub timestamp_offset_ms: i64,
    /// `timestamp` of a 410, milliseconds since 1970.
    #[serde(default)]
    pub timestamp_ms: Option<u64>,
    /// Value of the `Retry-After` header; FCM only.
    #[serde(default)]
    pub retry_after: Option<RetryAfter>,
    /// Number of attempts that get this answer before 200; allowed in rules only. Absent: every
    /// attempt.
    #[serde(default)]
    pub times: Option<u32>,
    /// Whether the push reaches the phone despite the answer.
    #[serde(default)]
    pub delivered: bool,
}

fn acceptance() -> Reason {
    Reason::None
}

impl Scripted {
    /// Returns the answer with this reason and its documented status for every attempt.
    #[must_use]
    pub fn always(reason: Reason) -> Self {
        Self {
            fate: Fate::Answer,
            reason,
            status: None,
            timestamp_offset_ms: 0,
            timestamp_ms: None,
            retry_after: None,
            times: None,
            delivered: false,
        }
    }

    /// Returns the answer at a time.
    #[must_use]
    pub fn answer(&self, wall: UnixMillis) -> Answer {
        let status = self.status.unwrap_or_else(|| self.reason.status());
        let timestamp = || {
            self.timestamp_ms
                .unwrap_or_else(|| wall.0.saturating_add_signed(self.timestamp_offset_ms))
        };
        let timestamp_ms = (status == 410).then(timestamp);
        Answer {
            status,
            reason: self.reason,
            timestamp_ms,
            retry_after: self.retry_after,
            violation: None,
        }
    }
}

/// Scripted answers to one token over its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script<'a> {
    /// Every attempt is answered with 200.
    Accept,
    /// The rule that matches the token decides.
    Rule(&'a Scripted),
    /// The token's own list decides.
    List(&'a [Scripted]),
}

impl<'a> Script<'a> {
    /// Returns the answer of an attempt, numbered from 0; `None` means 200.
    #[must_use]
    pub fn at(self, attempt: u32) -> Option<&'a Scripted> {
        let scripted = match self {
            Self::Accept => None,
            Self::Rule(scripted) => Some(scripted).filter(|s| s.times.is_none_or(|n| attempt < n)),
            Self::List(list) => list.get(attempt as usize),
        };
        scripted.filter(|s| s.reason != Reason::None || s.fate != Fate::Answer)
    }

    /// Reports whether the gateway calls the token dead from the first attempt on, so that no push
    /// can reach its device.
    #[must_use]
    pub fn is_dead(self) -> bool {
        matches!(self, Self::Rule(Scripted { fate: Fate::Answer, reason, times: None, delivered: false, .. })
            if reason.is_dead_token())
    }

    /// Reports whether the answer depends on the number of earlier attempts.
    #[must_use]
    pub fn counts_attempts(self) -> bool {
        matches!(self, Self::List(_) | Self::Rule(Scripted { times: Some(_), .. }))
    }
}

/// Returns the script for a token, given as its bytes and not as its digits. The verdict calls this
/// pure function too.
#[must_use]
pub fn answer_for<'a>(token: &[u8], scripts: &'a Scripts) -> Script<'a> {
    if !scripts.tokens.is_empty()
        && let Some(list) = scripts.tokens.get(token)
    {
        return Script::List(list);
    }
    if scripts.rules.is_empty() {
        return Script::Accept;
    }
    let place = xxh3_64_with_seed(token, scripts.seed) % PPM;
    let mut end = 0;
    for rule in &scripts.rules {
        end += u64::from(rule.ppm);
        if place < end {
            return Script::Rule(&rule.answer);
        }
    }
    Script::Accept
}

/// Number of attempts of each token with a counted script, shared by all connections.
#[derive(Debug, Default)]
pub struct Attempts(Mutex<HashMap<u64, u32, BuildHasherDefault<Identity>>>);

impl Attempts {
    /// Counts an attempt and returns its number, from 0. Each `series` (a set of scripts) has its
    /// own counts.
    pub fn next(&self, token: &[u8], series: u64) -> u32 {
        let key = xxh3_64_with_seed(token, series);
        let mut counts = self.0.lock();
        let full = counts.len() >= ATTEMPTS_MAX;
        match counts.get_mut(&key) {
            Some(count) => {
                *count = count.saturating_add(1);
                *count
            }
            None if full => u32::MAX,
            None => {
                counts.insert(key, 0);
                0
            }
        }
    }

    /// Clears the counts of all tokens.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

/// Hasher for keys that are hashes already.
#[derive(Debug, Default, Clone, Copy)]
pub struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// A device token. Configuration contains an APNs token as hexadecimal digits, and an FCM token as
/// it is, because it always has other characters too. It is never printed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenKey(pub Vec<u8>);

impl std::borrow::Borrow<[u8]> for TokenKey {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({} bytes)", self.0.len())
    }
}

impl Serialize for TokenKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) if is_written(text) => s.serialize_str(text),
            _ => s.serialize_str(&data_encoding::HEXLOWER.encode(&self.0)),
        }
    }
}

impl<'de> Deserialize<'de> for TokenKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        if is_written(&text) {
            return Ok(Self(text.into_bytes()));
        }
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes());
        bytes.map(Self).map_err(|_| {
            D::Error::custom("a token is an even number of hexadecimal digits, or printable text")
        })
    }
}

/// Reports whether a token is written as it is: it is printable and cannot be read as digits.
fn is_written(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic()) && text.bytes().any(|b| !b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scripts(rules: Vec<Rule>) -> Scripts {
        Scripts { seed: 7, rules, tokens: BTreeMap::new() }
    }

    #[test]
    fn shares_are_as_asked_and_do_not_overlap() {
        let gone = Rule { ppm: 100_000, answer: Scripted::always(Reason::Unregistered) };
        let busy = Rule {
            ppm: 50_000,
            answer: Scripted { times: Some(2), ..Scripted::always(Reason::TooManyRequests) },
        };
        let scripts = scripts(vec![gone, busy]);
        let (mut dead, mut counted) = (0, 0);
        for i in 0..100_000_u32 {
            let script = answer_for(&i.to_be_bytes(), &scripts);
            dead += u32::from(script.is_dead());
            counted += u32::from(script.counts_attempts());
        }
        // Standard deviations are 95 and 69; the tolerance is five of them either way.
        assert!((9_525..10_475).contains(&dead), "{dead}");
        assert!((4_655..5_345).contains(&counted), "{counted}");
    }

    #[test]
    fn first_so_many_times_then_accepted() {
        let busy = Rule {
            ppm: 1_000_000,
            answer: Scripted { times: Some(2), ..Scripted::always(Reason::TooManyRequests) },
        };
        let scripts = scripts(vec![busy]);
        let (script, attempts) = (answer_for(b"t", &scripts), Attempts::default());
        let statuses: Vec<_> = (0..3)
            .map(|_| script.at(attempts.next(b"t", 0)).map(|s| s.answer(UnixMillis(0)).status))
            .collect();
        assert_eq!(statuses, [Some(429), Some(429), None]);
        assert!(!script.is_dead());
    }

    #[test]
    fn a_list_comes_before_the_rules() {
        let text = r#"{"rules": [{"ppm": 1000000, "answer": {"reason": "Unregistered"}}],
            "tokens": {"ABcd": [{"reason": "None"}, {"reason": "Unregistered", "timestamp_offset_ms": -5}]}}"#;
        let scripts: Scripts = serde_json::from_str(text).expect("well formed");
        let script = answer_for(&[0xab, 0xcd], &scripts);
        assert_eq!(script.at(0), None);
        assert_eq!(script.at(1).map(|s| s.answer(UnixMillis(1_000)).timestamp_ms), Some(Some(995)));
        assert_eq!(script.at(2), None);
        assert!(answer_for(b"other", &scripts).is_dead());
        assert!(!format!("{scripts:?}").contains("abcd"));
    }

    #[test]
    fn tokens_are_written_as_digits_or_as_they_are() {
        for token in [&b"\x00\xff"[..], b"cafe", b"dXk:APA91b-_x"] {
            let written = serde_json::to_string(&TokenKey(token.to_vec())).expect("written");
            let read: TokenKey = serde_json::from_str(&written).expect("read");
            assert!(read.0 == token, "{written}");
        }
        assert_eq!(serde_json::to_string(&TokenKey(b"x:y".to_vec())).expect("written"), "\"x:y\"");
    }
}
