//! What a gateway's answer means for the device, the lane, the credential or the message. Pure.
//!
//! Two steps, so that each can be read against the provider's page: the lane reads an answer's bytes into words
//! (`lane/apns.rs`, `lane/fcm.rs`), the words are judged here, one file for each provider.

pub mod apns;
pub mod fcm;

use std::{fmt, time::Duration};

use clarion_proto::outcome::Outcome;

/// One answer, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// `:status`, 200 to 999.
    pub status: u16,
    /// Of an error.
    pub reason: Reason,
    /// APNs, with 410: since when the token is dead, Unix milliseconds by the gateway's clock.
    pub timestamp_ms: Option<u64>,
    /// `retry-after`, at most [`RETRY_AFTER_MAX`].
    pub retry_after: Option<Duration>,
}

impl Answer {
    /// Both providers' only word for success.
    #[must_use]
    pub fn accepted() -> Self {
        Self { status: 200, reason: Reason::None, timestamp_ms: None, retry_after: None }
    }
}

/// The longest pause that a gateway is believed. An alert is about the next hours: whoever asks for a day has made a mistake
/// of units, or has a clock that is wrong, and is asked again by one request in an hour.
pub const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// Why, in the provider's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No reason was given, or none that could be read.
    None,
    /// By APNs.
    Apns(apns::Reason),
    /// By FCM.
    Fcm(fcm::Reason),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Apns(reason) => reason.fmt(f),
            Self::Fcm(reason) => reason.fmt(f),
        }
    }
}

impl From<apns::Reason> for Reason {
    fn from(reason: apns::Reason) -> Self {
        Self::Apns(reason)
    }
}

impl From<fcm::Reason> for Reason {
    fn from(reason: fcm::Reason) -> Self {
        Self::Fcm(reason)
    }
}

/// Which provider's rules hold: reasons are only ever judged by those of whoever gave them.
pub use crate::command::Platform;

/// What to do about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// This device is done.
    Final(Outcome),
    /// The message or the token is wrong, which the other devices tell. `token`: the gateway has not said that it is
    /// something else than the token; otherwise the token is not dead whatever others get.
    Invalid {
        /// It may be the token.
        token: bool,
    },
    /// This device later, after `wait` if that is given; others are not concerned.
    DeviceLater {
        /// As the gateway asks or its provider advises.
        wait: Option<Duration>,
    },
    /// This device again, and less or nothing through this lane for a while: nothing at all for `wait`, if that is given.
    LaneLater {
        /// As the gateway asks or its provider advises.
        wait: Option<Duration>,
    },
    /// This device again, once the lane's credential is another (`renew`: a fresh provider token will do; otherwise
    /// somebody must look at it).
    Credential {
        /// A fresh provider token will do.
        renew: bool,
    },
    /// The message or its configuration is wrong: no device can succeed with it.
    Campaign,
    /// This device again at once, on another connection.
    ConnectionOnly,
}

/// Judges one answer.
#[must_use]
pub fn classify(platform: Platform, answer: &Answer) -> Verdict {
    // Nearly all of them, and whatever else it says: both providers' only word for success.
    if answer.status == 200 {
        return Verdict::Final(Outcome::Accepted);
    }
    let wait = answer.retry_after.filter(|wait| !wait.is_zero());
    match (platform, &answer.reason) {
        (Platform::Apns, Reason::Apns(reason)) => apns::classify(answer.status, Some(reason), wait),
        (Platform::Apns, Reason::None | Reason::Fcm(_)) => apns::classify(answer.status, None, wait),
        (Platform::Fcm, Reason::Fcm(reason)) => fcm::classify(answer.status, Some(reason), wait),
        (Platform::Fcm, Reason::None | Reason::Apns(_)) => fcm::classify(answer.status, None, wait),
    }
}

/// Longest word that is kept of what is not known.
pub const UNKNOWN_CHARS_MAX: usize = 64;

/// The word goes to logs and to people: no more than that, and nothing that a terminal would obey.
fn unknown_word(word: &str) -> Box<str> {
    let printable = |c: char| if c.is_ascii_graphic() { c } else { '?' };
    word.chars().take(UNKNOWN_CHARS_MAX).map(printable).collect()
}
