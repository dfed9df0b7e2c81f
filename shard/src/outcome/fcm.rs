//! The meaning of FCM's answers. Pure.
//!
//! FCM gives the reason in two places, the more exact one first (Firebase, "FCM error codes"): the
//! `errorCode` of an `FcmError` among the details, and the canonical `status` of the error. Either
//! counts only with an HTTP status that belongs to it: the pair is the provider's signature. The
//! HTTP status alone may come from any intermediary, as the bodies of front ends and proxies are
//! HTML, and says nothing about a device, message, credential or project. Codes are named without a
//! wildcard: a new one requires a decision. For an unknown code, the canonical `status` decides.

use std::{fmt, time::Duration};

use super::{Verdict, unfamiliar, unknown_word};

/// After a quota was exceeded and no `retry-after` came (Firebase, "Best practices when sending FCM
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
            /// All documented values.
            pub const DOCUMENTED: &[Self] = &[$(Self::$name,)+];

            /// Parses the value in an answer.
            #[must_use]
            pub fn parse(word: &str) -> Self {
                match word {
                    $($word $(| $old)? => Self::$name,)+
                    _ => Self::Unknown(unknown_word(word)),
                }
            }

            /// The value's text in answers.
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
    /// A `google.rpc.BadRequest` names this field: at most 64 printable characters.
    pub field: Option<Box<str>>,
    /// The device's quota is meant, not the project's: by a `google.rpc.QuotaFailure`, else by the
    /// error's words, else by its message.
    pub device_quota: bool,
}

impl Reason {
    /// Stores the name of an invalid field.
    pub fn name_field(&mut self, field: &str) {
        self.field = Some(unknown_word(field));
    }

    /// The most exact reason in the answer; empty: none.
    #[must_use]
    pub fn word(&self) -> &str {
        match (&self.code, &self.status) {
            (Some(code), _) => code.as_str(),
            (None, Some(status)) => status.as_str(),
            (None, None) => "",
        }
    }

    /// Whether the answer allows that only the token is invalid.
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

/// Judges an answer other than 200. `wait`: its `retry-after`.
pub(super) fn classify(http: u16, reason: &Reason, wait: Option<Duration>) -> Verdict {
    match (&reason.code, http) {
        (None | Some(ErrorCode::Unknown(_) | ErrorCode::Unspecified), _) => {
            by_status(http, reason, wait)
        }

        // The app is gone from the device, or its token has expired. A front end that fails is no
        // witness of that, whatever it found to say.
        (Some(ErrorCode::Unregistered), 400 | 404 | 410) => Verdict::Dead { sure: true },

        // A token that is none, or a message that FCM does not take: the other devices tell.
        (Some(ErrorCode::InvalidArgument), 400) => {
            Verdict::Message { token: reason.may_be_token() }
        }

        // Alive, but of another project: a wrong credential must not cost the registry its devices.
        (Some(ErrorCode::SenderIdMismatch), 400 | 403) => Verdict::Refused,

        // The project's key for APNs or web push is bad. That says nothing of the lane's
        // credential, though it comes with 401, nor of Android tokens, and nothing that is sent
        // again mends it: these devices are refused, the token is not dead, the lane goes on.
        (Some(ErrorCode::ThirdPartyAuthError), 400 | 401 | 403) => Verdict::Refused,

        (Some(ErrorCode::QuotaExceeded), 429) => quota(reason, wait),

        // The gateway's own trouble, for everybody.
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

/// Verdict by the canonical status, for errors without a known `FcmError`.
fn by_status(http: u16, reason: &Reason, wait: Option<Duration>) -> Verdict {
    match (&reason.status, http) {
        (None | Some(Status::Unknown(_)), _) => unfamiliar(http, reason.word(), wait),
        // A message over 4,096 bytes is refused so.
        (Some(Status::InvalidArgument), 400) => Verdict::Message { token: reason.may_be_token() },
        // The access token is missing, wrong or has expired; the service account may not send, or
        // the project's API is off.
        (Some(Status::Unauthenticated), 401) | (Some(Status::PermissionDenied), 403) => {
            Verdict::Credential
        }
        // One such answer is about a token that is not there (firebase-admin reads it so); all of
        // them, about the project.
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

/// Verdict of an exceeded quota: of the project (600,000 a minute unless raised), or of one device
/// (240 a minute, 5,000 an hour). An answer that does not say which counts for the device, and for
/// the lane when it recurs: as with the project's quota, a lane waits when enough answers say so.
fn quota(reason: &Reason, wait: Option<Duration>) -> Verdict {
    let wait = wait.or(Some(QUOTA_PAUSE));
    if reason.device_quota { Verdict::DeviceLater { wait } } else { Verdict::LaneLater { wait } }
}

#[cfg(test)]
mod tests;
