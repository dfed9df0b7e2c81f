//! The meaning of a gateway's answer for the device, the lane, the credential or the message. No
//! code here does I/O.
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

/// One answer of a gateway, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Value of `:status`, 200 to 999.
    pub status: u16,
    /// Reason of the error, if there is one.
    pub reason: Reason,
    /// Time since which the token is dead, Unix milliseconds of the gateway's clock; only in a 410
    /// of APNs.
    pub timestamp_ms: Option<u64>,
    /// Value of `retry-after`, at most [`RETRY_AFTER_MAX`].
    pub retry_after: Option<Duration>,
}

impl Answer {
    /// Returns the answer of an accepted push, which is the same for both providers.
    #[must_use]
    pub fn accepted() -> Self {
        Self { status: 200, reason: Reason::None, timestamp_ms: None, retry_after: None }
    }
}

/// Longest pause that a gateway can request. An alert concerns the next hours. A gateway that asks
/// for a day has confused units, or its clock is wrong; it gets one request per hour.
pub const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// Reason of an error, in the provider's own vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The answer has no reason, or none that could be parsed.
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

/// Meaning of one answer. One answer never decides about more than its own device; the lane decides
/// how many answers do.
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
    /// The token is dead, or, unless `sure`, it may belong to another environment.
    Dead {
        /// Whether the answer has no other meaning.
        sure: bool,
    },
    /// The device is refused although its token is alive: the token belongs to another app or
    /// project.
    Refused,
    /// A refusal in the provider's form with an unknown reason. It concerns this device, which is
    /// tried again on another connection before it is refused.
    Unfamiliar,
    /// The message or the token is wrong; the answers for other devices decide which. Without
    /// `token` the token is not dead, whatever the answers for other devices.
    Message {
        /// Whether the token may be wrong.
        token: bool,
    },
    /// The project or the token does not exist: FCM uses the same word for both.
    Project,
    /// The device is tried again later, after `wait` if it is given. No other device is affected.
    DeviceLater {
        /// Pause that the gateway asks for or its provider advises.
        wait: Option<Duration>,
    },
    /// The device is tried again later, after `wait` if it is given. The limit or the failure may
    /// concern the whole lane.
    LaneLater {
        /// Pause that the gateway asks for or its provider advises.
        wait: Option<Duration>,
    },
    /// The gateway refuses the request's credential.
    Credential,
    /// The provider token has changed too often, and the gateway does not accept the new one yet.
    TokenChange,
    /// The device is tried again at once on another connection.
    ConnectionOnly,
}

/// Classifies one answer.
#[must_use]
pub fn classify(platform: Platform, answer: &Answer) -> Verdict {
    // Nearly all answers are 200. Both providers use it for success only, whatever else the answer
    // contains.
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

/// Returns the verdict for an unknown reason in the provider's own form. With these statuses it can
/// only concern the device or the message. With other statuses (credentials, limits, failures,
/// answers of a proxy) it has no meaning.
fn unfamiliar(status: u16, word: &str, wait: Option<Duration>) -> Verdict {
    match status {
        400 | 404 | 405 | 410 | 413 if !word.is_empty() => Verdict::Unfamiliar,
        _ => Verdict::Unsigned { wait },
    }
}

/// Longest text of an unknown reason that is kept, characters.
pub const UNKNOWN_CHARS_MAX: usize = 64;

/// Cuts an unknown word and replaces control characters, because logs and people read it.
fn unknown_word(word: &str) -> Box<str> {
    let printable = |c: char| if c.is_ascii_graphic() { c } else { '?' };
    word.chars().take(UNKNOWN_CHARS_MAX).map(printable).collect()
}
