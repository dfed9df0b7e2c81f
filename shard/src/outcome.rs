//! The meaning of a gateway's answer for the device, the lane, the credential or the message. Pure.
//!
//! There are two steps, so that each can be compared with the provider's documentation: the lane
//! parses the bytes of an answer (`lane/provider/apns.rs`, `lane/provider/fcm.rs`); this module
//! classifies the parsed answer, one file for each provider.

pub mod apns;
pub mod fcm;

mod answers;
mod platform;

use std::{fmt, time::Duration};

pub use self::{answers::Answers, platform::Platform};

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

/// The longest pause that a gateway is believed. An alert is about the next hours: whoever asks for
/// a day has made a mistake of units, or has a clock that is wrong, and is asked again by one
/// request in an hour.
pub const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// Why, in the provider's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No reason was given, or none that could be read.
    None,
    /// Reason named by APNs in the response body.
    Apns(apns::Reason),
    /// Reason named by FCM in the response body.
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

/// What one answer says, and about whom. One answer never decides about more than its own device:
/// how many of them do is decided by the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The push was accepted.
    Accepted,
    /// The provider did not sign the answer: a status without a reason that belongs to it, a page,
    /// a redirect. It says something about this request only, which is sent again, elsewhere, after
    /// `wait` if that is given.
    Unsigned {
        /// As whoever answered asks.
        wait: Option<Duration>,
    },
    /// The token is dead. `sure`: nothing else can be meant; otherwise it may be the token of
    /// another environment.
    Dead {
        /// Nothing else can be meant.
        sure: bool,
    },
    /// This device is refused, alive as it is: its token belongs to another app or project.
    Refused,
    /// The provider's form of a refusal, with a word that is not known here. It concerns this
    /// device, which is tried again elsewhere before it is refused.
    Unfamiliar,
    /// The message is wrong, or the token is, which the other devices tell. `token`: the gateway
    /// has not said that it is something else than the token; otherwise the token is not dead
    /// whatever others get.
    Message {
        /// It may be the token.
        token: bool,
    },
    /// The project is not there, or this token is not: FCM uses the same word for both.
    Project,
    /// This device later, after `wait` if that is given; others are not concerned.
    DeviceLater {
        /// As the gateway asks or its provider advises.
        wait: Option<Duration>,
    },
    /// This device later, after `wait` if that is given. The limit or the trouble may be the
    /// lane's.
    LaneLater {
        /// As the gateway asks or its provider advises.
        wait: Option<Duration>,
    },
    /// The request's credential is refused.
    Credential,
    /// The provider token has changed too often: the new one is not taken yet.
    TokenChange,
    /// This device again at once, on another connection.
    ConnectionOnly,
}

/// Judges one answer.
#[must_use]
pub fn classify(platform: Platform, answer: &Answer) -> Verdict {
    // Nearly all of them, and whatever else it says: both providers' only word for success.
    if answer.status == 200 {
        return Verdict::Accepted;
    }
    let wait = answer.retry_after.filter(|wait| !wait.is_zero());
    match (platform, &answer.reason) {
        (Platform::Apns, Reason::Apns(reason)) => apns::classify(answer.status, reason, wait),
        (Platform::Fcm, Reason::Fcm(reason)) => fcm::classify(answer.status, reason, wait),
        (Platform::Apns, Reason::None | Reason::Fcm(_))
        | (Platform::Fcm, Reason::None | Reason::Apns(_)) => Verdict::Unsigned { wait },
    }
}

/// A word that is not known here, in the provider's own form. With these statuses it can only
/// concern the device or the message; with others (credentials, limits, failures, whatever a proxy
/// may say) nothing follows from it.
fn unfamiliar(status: u16, word: &str, wait: Option<Duration>) -> Verdict {
    match status {
        400 | 404 | 405 | 410 | 413 if !word.is_empty() => Verdict::Unfamiliar,
        _ => Verdict::Unsigned { wait },
    }
}

/// Longest word that is kept of what is not known.
pub const UNKNOWN_CHARS_MAX: usize = 64;

/// The word goes to logs and to people: no more than that, and nothing that a terminal would obey.
fn unknown_word(word: &str) -> Box<str> {
    let printable = |c: char| if c.is_ascii_graphic() { c } else { '?' };
    word.chars().take(UNKNOWN_CHARS_MAX).map(printable).collect()
}
