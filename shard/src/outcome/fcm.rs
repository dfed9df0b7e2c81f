//! What FCM's answers mean. Pure.
//!
//! FCM says why in three places, from the most to the least exact (Firebase, "FCM error codes"): the `errorCode` of an
//! `FcmError` among the details, the canonical `status` of the error, and the HTTP status, which may also be all there is,
//! as the bodies of front ends are HTML. They are asked in that order. Codes are named without a wildcard: a new one is a
//! decision. A code that is not known here says nothing, and the next place is asked.

use std::{fmt, time::Duration};

use clarion_proto::outcome::Outcome;

use super::{Verdict, unknown_word};

/// After a quota was exceeded and no `retry-after` came (Firebase, "Best practices when sending FCM messages at scale").
pub const QUOTA_PAUSE: Duration = Duration::from_mins(1);

macro_rules! words {
    ($(#[$doc:meta])* $type:ident: $($(#[$case:meta])* $name:ident = $word:literal $(| $old:literal)?;)+) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $type {
            /// A word that is not in the table: at most 64 printable characters, others replaced.
            Unknown(Box<str>),
            $($(#[$case])* $name,)+
        }

        impl $type {
            /// All documented ones.
            pub const DOCUMENTED: &[Self] = &[$(Self::$name,)+];

            /// From the gateway's word.
            #[must_use]
            pub fn parse(word: &str) -> Self {
                match word {
                    $($word $(| $old)? => Self::$name,)+
                    _ => Self::Unknown(unknown_word(word)),
                }
            }

            /// The gateway's word.
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
    /// Says nothing.
    Unspecified = "UNSPECIFIED_ERROR";
    /// 400.
    InvalidArgument = "INVALID_ARGUMENT";
    /// 404.
    Unregistered = "UNREGISTERED";
    /// 403.
    SenderIdMismatch = "SENDER_ID_MISMATCH";
    /// 429.
    QuotaExceeded = "QUOTA_EXCEEDED";
    /// 503.
    Unavailable = "UNAVAILABLE";
    /// 500.
    Internal = "INTERNAL";
    /// 401; the second is its name of old.
    ThirdPartyAuthError = "THIRD_PARTY_AUTH_ERROR" | "APNS_AUTH_ERROR";
}

words! {
    /// `status` of an error: those of `google.rpc.Code` that FCM is documented to use.
    Status:
    /// 400.
    InvalidArgument = "INVALID_ARGUMENT";
    /// 401.
    Unauthenticated = "UNAUTHENTICATED";
    /// 403.
    PermissionDenied = "PERMISSION_DENIED";
    /// 404.
    NotFound = "NOT_FOUND";
    /// 429.
    ResourceExhausted = "RESOURCE_EXHAUSTED";
    /// 500.
    Internal = "INTERNAL";
    /// 503.
    Unavailable = "UNAVAILABLE";
}

/// Why FCM refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reason {
    /// Of an `FcmError` among the details.
    pub code: Option<ErrorCode>,
    /// Of the error.
    pub status: Option<Status>,
    /// A `google.rpc.BadRequest` names this field: at most 64 printable characters.
    pub field: Option<Box<str>>,
    /// A `google.rpc.QuotaFailure` says that the device's quota is meant, not the project's.
    pub device_quota: bool,
}

impl Reason {
    /// Keeps the name of a field.
    pub fn name_field(&mut self, field: &str) {
        self.field = Some(unknown_word(field));
    }

    /// Whether nothing says that anything but the token is invalid.
    fn may_be_token(&self) -> bool {
        self.field.as_deref().is_none_or(|field| field == "message.token")
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match (&self.code, &self.status) {
            (Some(code), _) => code.as_str(),
            (None, Some(status)) => status.as_str(),
            (None, None) => "",
        };
        f.write_str(word)?;
        match &self.field {
            Some(field) => write!(f, " ({field})"),
            None => Ok(()),
        }
    }
}

/// Judges an answer other than 200. `wait`: its `retry-after`.
pub(super) fn classify(status: u16, reason: Option<&Reason>, wait: Option<Duration>) -> Verdict {
    let Some(reason) = reason else { return by_http(status, wait) };
    match &reason.code {
        None | Some(ErrorCode::Unknown(_)) => by_status(status, reason, wait),

        Some(ErrorCode::Unspecified) => by_http(status, wait),

        // The app is gone from the device, or its token has expired.
        // A front end that fails is no witness of that, whatever it found to say.
        Some(ErrorCode::Unregistered) if status >= 500 => by_http(status, wait),
        Some(ErrorCode::Unregistered) => Verdict::Final(Outcome::Dead),

        // A token that is none, or a message that FCM does not take: the other devices tell.
        Some(ErrorCode::InvalidArgument) => Verdict::Invalid { token: reason.may_be_token() },

        // Alive, but of another project: a wrong credential must not cost the registry its devices.
        Some(ErrorCode::SenderIdMismatch) => Verdict::Final(Outcome::Refused),

        Some(ErrorCode::QuotaExceeded) => quota(reason, wait),

        // The gateway's own trouble, for everybody.
        Some(ErrorCode::Unavailable | ErrorCode::Internal) => Verdict::LaneLater { wait },

        // The project's key for APNs or web push is bad. That says nothing of the lane's credential, though it comes with
        // 401, nor of Android tokens, and nothing that is sent again mends it: these devices are refused, the token is not
        // dead, the lane goes on.
        Some(ErrorCode::ThirdPartyAuthError) => Verdict::Final(Outcome::Refused),
    }
}

/// For errors without a known `FcmError`.
fn by_status(http: u16, reason: &Reason, wait: Option<Duration>) -> Verdict {
    match &reason.status {
        None | Some(Status::Unknown(_)) => by_http(http, wait),
        // A message over 4,096 bytes is refused so.
        Some(Status::InvalidArgument) => Verdict::Invalid { token: reason.may_be_token() },
        // The access token is missing, wrong or has expired.
        Some(Status::Unauthenticated) => Verdict::Credential { renew: true },
        // The service account may not send, or the project's API is off: a fresh token would fare no better.
        Some(Status::PermissionDenied) => Verdict::Credential { renew: false },
        // Not the device, or it would say UNREGISTERED: there is no such project.
        Some(Status::NotFound) => Verdict::Campaign,
        Some(Status::ResourceExhausted) => quota(reason, wait),
        Some(Status::Internal | Status::Unavailable) => Verdict::LaneLater { wait },
    }
}

/// For answers that do not say why.
fn by_http(http: u16, wait: Option<Duration>) -> Verdict {
    match http {
        // Not documented, but no other reading of success is possible.
        200..=299 => Verdict::Final(Outcome::Accepted),
        // Whoever redirects is not the gateway: the endpoint is wrong.
        300..=399 => Verdict::Campaign,
        // A front end's page. It counts against the message if nobody succeeds, and never against a token.
        400 => Verdict::Invalid { token: false },
        401 => Verdict::Credential { renew: true },
        403 => Verdict::Credential { renew: false },
        // The path, which holds the project; the method; the size: the same for all.
        404 | 405 | 413 => Verdict::Campaign,
        408 | 425 => Verdict::DeviceLater { wait },
        429 => Verdict::LaneLater { wait: wait.or(Some(QUOTA_PAUSE)) },
        // Some new complaint: this device, and nobody else.
        402..=499 => Verdict::Final(Outcome::Refused),
        500..=599 => Verdict::LaneLater { wait },
        // No such status exists; whoever says this is in no state to judge a push.
        _ => Verdict::LaneLater { wait },
    }
}

/// Of the project (600,000 a minute unless raised), or of one device (240 a minute, 5,000 an hour).
fn quota(reason: &Reason, wait: Option<Duration>) -> Verdict {
    let wait = wait.or(Some(QUOTA_PAUSE));
    if reason.device_quota { Verdict::DeviceLater { wait } } else { Verdict::LaneLater { wait } }
}

#[cfg(test)]
mod tests;
