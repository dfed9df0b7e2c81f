//! The meaning of FCM's answers. No code here does I/O.
//!
//! FCM gives the reason in two places, the more exact one first (Firebase, "FCM error codes"): the
//! `errorCode` of an `FcmError` among the details, and the canonical `status` of the error. Either
//! counts only with an HTTP status that belongs to it: the pair is the provider's signature. The
//! HTTP status alone may come from any intermediary, because the bodies of front ends and proxies
//! are HTML, and means nothing for a device, message, credential or project. Codes are named
//! without a wildcard, so that a new one requires a decision. For an unknown code, the canonical
//! `status` decides.

use std::{fmt, time::Duration};

use super::{Verdict, unfamiliar, unknown_word};

/// Pause after an exceeded quota without `retry-after` (Firebase, "Best practices when sending FCM
/// messages at scale").
pub const QUOTA_PAUSE: Duration = Duration::from_mins(1);

macro_rules! words {
    ($(#[$doc:meta])* $type:ident: $(
        $(#[$case:meta])* $name:ident = $word:literal $(| $old:literal)?;
    )+) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $type {
            /// A word that is not in the table: at most 64 printable characters, others replaced.
            Unknown(Box<str>),
            $($(#[$case])* $name,)+
        }

        impl $type {
            /// All documented values of the enum.
            pub const DOCUMENTED: &[Self] = &[$(Self::$name,)+];

            /// Parses the value in an answer.
            #[must_use]
            pub fn parse(word: &str) -> Self {
                match word {
                    $($word $(| $old)? => Self::$name,)+
                    _ => Self::Unknown(unknown_word(word)),
                }
            }

            /// Returns the text of the value in answers.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    Self::Unknown(word) => word,
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

words! {
    /// `errorCode` of `google.firebase.fcm.v1.FcmError`.
    ErrorCode:
    /// No reason is given.
    Unspecified = "UNSPECIFIED_ERROR";
    /// The request is invalid; HTTP 400.
    InvalidArgument = "INVALID_ARGUMENT";
    /// The token is not registered any more; HTTP 404.
    Unregistered = "UNREGISTERED";
    /// The token belongs to another sender; HTTP 403.
    SenderIdMismatch = "SENDER_ID_MISMATCH";
    /// A quota is exceeded; HTTP 429.
    QuotaExceeded = "QUOTA_EXCEEDED";
    /// The service is overloaded or unavailable; HTTP 503.
    Unavailable = "UNAVAILABLE";
    /// An internal error of FCM; HTTP 500.
    Internal = "INTERNAL";
    /// The provider's credential for APNs or web push is refused; HTTP 401. The second name is an
    /// older one.
    ThirdPartyAuthError = "THIRD_PARTY_AUTH_ERROR" | "APNS_AUTH_ERROR";
}

words! {
    /// `status` of an error: those of `google.rpc.Code` that FCM is documented to use.
    Status:
    /// The request is invalid; HTTP 400.
    InvalidArgument = "INVALID_ARGUMENT";
    /// The access token is missing, wrong or expired; HTTP 401.
    Unauthenticated = "UNAUTHENTICATED";
    /// The service account may not send; HTTP 403.
    PermissionDenied = "PERMISSION_DENIED";
    /// The token or the project does not exist; HTTP 404.
    NotFound = "NOT_FOUND";
    /// A quota is exceeded; HTTP 429.
    ResourceExhausted = "RESOURCE_EXHAUSTED";
    /// An internal error of FCM; HTTP 500.
    Internal = "INTERNAL";
    /// The service is overloaded or unavailable; HTTP 503.
    Unavailable = "UNAVAILABLE";
}

/// Reason of an FCM error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reason {
    /// Code of an `FcmError` among the details.
    pub code: Option<ErrorCode>,
    /// Canonical status of the error.
    pub status: Option<Status>,
    /// Name of the field in a `google.rpc.BadRequest`, at most 64 printable characters.
    pub field: Option<Box<str>>,
    /// Whether the quota of the device is exceeded and not the project's: by a
    /// `google.rpc.QuotaFailure`, otherwise by the error's reason, otherwise by its message.
    pub device_quota: bool,
}

impl Reason {
    /// Stores the name of an invalid field.
    pub fn name_field(&mut self, field: &str) {
        self.field = Some(unknown_word(field));
    }

    /// Returns the most exact reason in the answer; empty without one.
    #[must_use]
    pub fn word(&self) -> &str {
        match (&self.code, &self.status) {
            (Some(code), _) => code.as_str(),
            (None, Some(status)) => status.as_str(),
            (None, None) => "",
        }
    }

    /// Reports whether the token alone may be invalid according to the answer.
    fn may_be_token(&self) -> bool {
        self.field.as_deref().is_none_or(|field| field == "message.token")
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        match &self.field {
            Some(field) => write!(f, " ({field})"),
            None => Ok(()),
        }
    }
}

/// Classifies an answer other than 200. `wait` is its `retry-after`.
pub(super) fn classify(http: u16, reason: &Reason, wait: Option<Duration>) -> Verdict {
    match (&reason.code, http) {
        (None | Some(ErrorCode::Unknown(_) | ErrorCode::Unspecified), _) => {
            by_status(http, reason, wait)
        }

        // The app was removed from the device, or its token has expired. The answer of a failing
        // front end is no evidence for that, whatever its body contains.
        (Some(ErrorCode::Unregistered), 400 | 404 | 410) => Verdict::Dead { sure: true },

        // The token is malformed, or FCM does not accept the message: the answers for other devices
        // decide.
        (Some(ErrorCode::InvalidArgument), 400) => {
            Verdict::Message { token: reason.may_be_token() }
        }

        // The token is alive but belongs to another project: a wrong credential must not remove
        // devices from the registry.
        (Some(ErrorCode::SenderIdMismatch), 400 | 403) => Verdict::Refused,

        // The project's key for APNs or web push is invalid. The answer says nothing about the
        // lane's credential, although it has status 401, or about Android tokens. Sending again
        // does not help: these devices are refused, the token is not dead, and the lane continues.
        (Some(ErrorCode::ThirdPartyAuthError), 400 | 401 | 403) => Verdict::Refused,

        (Some(ErrorCode::QuotaExceeded), 429) => quota(reason, wait),

        // A failure of the gateway itself, which concerns all devices.
        (Some(ErrorCode::Unavailable | ErrorCode::Internal), 500..=599) => {
            Verdict::LaneLater { wait }
        }

        (
            Some(
                ErrorCode::Unregistered
                | ErrorCode::InvalidArgument
                | ErrorCode::SenderIdMismatch
                | ErrorCode::ThirdPartyAuthError
                | ErrorCode::QuotaExceeded
                | ErrorCode::Unavailable
                | ErrorCode::Internal,
            ),
            _,
        ) => Verdict::Unsigned { wait },
    }
}

/// Returns the verdict by the canonical status, for errors without a known `FcmError`.
fn by_status(http: u16, reason: &Reason, wait: Option<Duration>) -> Verdict {
    match (&reason.status, http) {
        (None | Some(Status::Unknown(_)), _) => unfamiliar(http, reason.word(), wait),
        // FCM refuses a message over 4,096 bytes in this way.
        (Some(Status::InvalidArgument), 400) => Verdict::Message { token: reason.may_be_token() },
        // The access token is missing, wrong or expired; or the service account may not send, or
        // the project's API is disabled.
        (Some(Status::Unauthenticated), 401) | (Some(Status::PermissionDenied), 403) => {
            Verdict::Credential
        }
        // A single such answer is about a token that does not exist (firebase-admin reads it so);
        // if all answers are such, the project does not exist.
        (Some(Status::NotFound), 404) => Verdict::Project,
        (Some(Status::ResourceExhausted), 429) => quota(reason, wait),
        (Some(Status::Internal | Status::Unavailable), 500..=599) => Verdict::LaneLater { wait },
        (
            Some(
                Status::InvalidArgument
                | Status::Unauthenticated
                | Status::PermissionDenied
                | Status::NotFound
                | Status::ResourceExhausted
                | Status::Internal
                | Status::Unavailable,
            ),
            _,
        ) => Verdict::Unsigned { wait },
    }
}

/// Returns the verdict of an exceeded quota: of the project (600,000 per minute by default), or of
/// one device (240 per minute, 5,000 per hour). An answer that does not name the quota counts for
/// the device. It counts for the lane if it recurs: as with the project's quota, a lane waits when
/// enough answers agree.
fn quota(reason: &Reason, wait: Option<Duration>) -> Verdict {
    let wait = wait.or(Some(QUOTA_PAUSE));
    if reason.device_quota { Verdict::DeviceLater { wait } } else { Verdict::LaneLater { wait } }
}

#[cfg(test)]
mod tests;
