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

/// One parsed answer of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// `:status`, 200 to 999.
    pub status: u16,
    /// Reason of an error.
    pub reason: Reason,
    /// APNs, with 410: since when the token is dead, Unix milliseconds by the gateway's clock.
    pub timestamp_ms: Option<u64>,
    /// Value of `retry-after`, at most [`RETRY_AFTER_MAX`].
    pub retry_after: Option<Duration>,
}

impl Answer {
    /// The answer of an accepted push, the same for both providers.
    #[must_use]
    pub fn accepted() -> Self {
        Self { status: 200, reason: Reason::None, timestamp_ms: None, retry_after: None }
    }
}

/// Longest pause that a gateway can request. An alert is about the next hours: a gateway that asks
/// for a day has made a mistake of units, or its clock is wrong, and gets one request in an hour.
pub const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// Reason of an error, in the provider's own vocabulary.
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

/// Meaning of one answer, and its subject. One answer never decides about more than its own device:
/// the lane decides how many answers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The push was accepted.
    Accepted,
    /// The provider did not sign the answer: a status without a matching reason, a page, a
    /// redirect. The answer concerns this request only, which is sent again on another connection,
    /// after `wait` if given.
    Unsigned {
        /// Pause that the answer asks for.
        wait: Option<Duration>,
    },
    /// The token is dead. `sure`: the answer has no other meaning; otherwise the token may belong
    /// to another environment.
    Dead {
        /// Whether the answer has no other meaning.
        sure: bool,
    },
    /// This device is refused, alive as it is: its token belongs to another app or project.
    Refused,
    /// A refusal in the provider's form with an unknown reason. It concerns this device, which is
    /// tried again on another connection before it is refused.
    Unfamiliar,
    /// The message or the token is wrong; the answers for other devices decide. `token`: the answer
    /// allows that the token is wrong; otherwise the token is not dead, whatever other devices are
    /// answered.
    Message {
        /// Whether the token may be wrong.
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
    /// The gateway refuses the request's credential.
    Credential,
    /// The provider token has changed too often: the new one is not taken yet.
    TokenChange,
    /// This device again at once, on another connection.
    ConnectionOnly,
}

/// Classifies one answer.
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

/// An unknown reason in the provider's own form. With these statuses it can only concern the device
/// or the message; with other statuses (credentials, limits, failures, answers of a proxy) nothing
/// follows from it.
fn unfamiliar(status: u16, word: &str, wait: Option<Duration>) -> Verdict {
    match status {
        400 | 404 | 405 | 410 | 413 if !word.is_empty() => Verdict::Unfamiliar,
        _ => Verdict::Unsigned { wait },
    }
}

/// Longest text of an unknown reason that is kept, characters.
pub const UNKNOWN_CHARS_MAX: usize = 64;

/// The word goes to logs and to people: no more than that, and nothing that a terminal would obey.
fn unknown_word(word: &str) -> Box<str> {
    let printable = |c: char| if c.is_ascii_graphic() { c } else { '?' };
    word.chars().take(UNKNOWN_CHARS_MAX).map(printable).collect()
}
