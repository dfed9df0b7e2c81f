//! The meaning of APNs' answers. No code here does I/O.
//!
//! Every reason that APNs documents is named, without a wildcard, so that a new one requires a
//! decision. A reason counts only together with its own status: the pair is the provider's
//! signature. An answer without this signature (a proxy's page, a redirect, a reason with another
//! status) means nothing for a device, message or credential, whatever its status.

use std::{fmt, time::Duration};

use super::{Verdict, unfamiliar, unknown_word};

macro_rules! reasons {
    ($($status:literal: $($name:ident)+;)+) => {
        /// Reasons of APNs (Apple, "Handling notification responses from APNs").
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Reason {
            /// A word that is not in the table: at most 64 printable characters, others replaced.
            Unknown(Box<str>),
            $($(
                #[doc = concat!("Comes with status ", stringify!($status), ".")]
                $name,
            )+)+
        }

        impl Reason {
            /// All reasons that APNs documents.
            pub const DOCUMENTED: &[Self] = &[$($(Self::$name,)+)+];

            /// Parses the reason in an answer.
            #[must_use]
            pub fn parse(word: &str) -> Self {
                match word {
                    $($(stringify!($name) => Self::$name,)+)+
                    // A spelling observed in use (kylebrowning/APNSwift#229).
                    "BadEnvironmentKeyInToken" => Self::BadEnvironmentKeyIdInToken,
                    _ => Self::Unknown(unknown_word(word)),
                }
            }

            /// Returns the status that APNs documents for the reason; `None` for an unknown one.
            #[must_use]
            pub fn status(&self) -> Option<u16> {
                match self {
                    Self::Unknown(_) => None,
                    $($(Self::$name)|+ => Some($status),)+
                }
            }

            /// Returns the text of the reason in answers.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    Self::Unknown(word) => word,
                    $($(Self::$name => stringify!($name),)+)+
                }
            }
        }
    };
}

reasons! {
    400: BadCollapseId BadDeviceToken BadExpirationDate BadMessageId BadPriority BadTopic
         DeviceTokenNotForTopic DuplicateHeaders IdleTimeout InvalidPushType MissingDeviceToken
         MissingTopic PayloadEmpty TopicDisallowed;
    403: BadCertificate BadCertificateEnvironment BadEnvironmentKeyIdInToken ExpiredProviderToken
         Forbidden InvalidProviderToken MissingProviderToken UnrelatedKeyIdInToken;
    404: BadPath;
    405: MethodNotAllowed;
    410: ExpiredToken Unregistered;
    413: PayloadTooLarge;
    429: TooManyProviderTokenUpdates TooManyRequests;
    500: InternalServerError;
    503: ServiceUnavailable Shutdown;
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Classifies an answer other than 200. `wait` is its `retry-after`.
pub(super) fn classify(status: u16, reason: &Reason, wait: Option<Duration>) -> Verdict {
    match reason {
        Reason::Unknown(word) => unfamiliar(status, word, wait),
        reason if reason.status() != Some(status) => Verdict::Unsigned { wait },

        // The fault is in the message's headers or body, which all devices share.
        Reason::BadCollapseId
        | Reason::BadExpirationDate
        | Reason::BadMessageId
        | Reason::BadPriority
        | Reason::BadTopic
        | Reason::DuplicateHeaders
        | Reason::InvalidPushType
        | Reason::MissingTopic
        | Reason::PayloadEmpty
        | Reason::PayloadTooLarge
        | Reason::TopicDisallowed => Verdict::Message { token: false },

        // A defect of this program: the path is the same for all devices except for the digits of
        // the token.
        Reason::BadPath | Reason::MethodNotAllowed | Reason::MissingDeviceToken => {
            Verdict::Message { token: false }
        }

        // The token is dead. 410 means it for sure; 400 is also the answer to every token of the
        // other environment.
        Reason::Unregistered | Reason::ExpiredToken => Verdict::Dead { sure: true },
        Reason::BadDeviceToken => Verdict::Dead { sure: false },

        // The token is alive but belongs to another app: a wrong topic must not remove devices from
        // the registry.
        Reason::DeviceTokenNotForTopic => Verdict::Refused,

        // The age of the provider token, the key, the team, the environment or the certificate.
        Reason::ExpiredProviderToken
        | Reason::BadCertificate
        | Reason::BadCertificateEnvironment
        | Reason::BadEnvironmentKeyIdInToken
        | Reason::Forbidden
        | Reason::InvalidProviderToken
        | Reason::MissingProviderToken
        | Reason::UnrelatedKeyIdInToken => Verdict::Credential,

        // "Too many requests were made consecutively to the same device token".
        Reason::TooManyRequests => Verdict::DeviceLater { wait },

        // The lane's provider token changed more often than every 20 minutes: the lane keeps it and
        // waits.
        Reason::TooManyProviderTokenUpdates => Verdict::TokenChange,

        // A failure of the gateway itself, which concerns all devices.
        Reason::InternalServerError | Reason::ServiceUnavailable | Reason::Shutdown => {
            Verdict::LaneLater { wait }
        }

        // The connection was idle for too long; the request was only the next one on it.
        Reason::IdleTimeout => Verdict::ConnectionOnly,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        lane::provider::answer,
        outcome::{self, Platform, UNKNOWN_CHARS_MAX},
    };

    const UNSIGNED: Verdict = Verdict::Unsigned { wait: None };
    const MESSAGE: Verdict = Verdict::Message { token: false };
    const LANE_LATER: Verdict = Verdict::LaneLater { wait: None };

    fn judge(status: u16, word: &str) -> Verdict {
        judge_body(status, &format!(r#"{{"reason":"{word}"}}"#), None)
    }

    fn judge_body(status: u16, body: &str, wait: Option<Duration>) -> Verdict {
        outcome::classify(
            Platform::Apns,
            &answer::read(Platform::Apns, status, body.as_bytes(), wait),
        )
    }

    #[test]
    fn what_the_gateway_asks_for_in_time_is_passed_on() {
        let wait = Some(Duration::from_secs(7));
        for (status, word, verdict) in [
            (503, "ServiceUnavailable", Verdict::LaneLater { wait }),
            (502, "", Verdict::Unsigned { wait }),
            (429, "TooManyRequests", Verdict::DeviceLater { wait }),
        ] {
            assert_eq!(judge_body(status, &format!(r#"{{"reason":"{word}"}}"#), wait), verdict);
        }
    }

    #[test]
    fn the_table_of_the_reference() {
        let message = [
            "BadCollapseId",
            "BadExpirationDate",
            "BadMessageId",
            "BadPriority",
            "BadTopic",
            "DuplicateHeaders",
            "InvalidPushType",
            "MissingTopic",
            "MissingDeviceToken",
            "PayloadEmpty",
            "TopicDisallowed",
        ];
        for word in message {
            assert_eq!(judge(400, word), MESSAGE, "{word}");
        }
        let credential = [
            "BadCertificate",
            "BadCertificateEnvironment",
            "ExpiredProviderToken",
            "Forbidden",
            "InvalidProviderToken",
            "MissingProviderToken",
            "UnrelatedKeyIdInToken",
            "BadEnvironmentKeyIdInToken",
            "BadEnvironmentKeyInToken",
        ];
        for word in credential {
            assert_eq!(judge(403, word), Verdict::Credential, "{word}");
        }
        for (status, word, verdict) in [
            (400, "BadDeviceToken", Verdict::Dead { sure: false }),
            (400, "DeviceTokenNotForTopic", Verdict::Refused),
            (400, "IdleTimeout", Verdict::ConnectionOnly),
            (404, "BadPath", MESSAGE),
            (405, "MethodNotAllowed", MESSAGE),
            (410, "Unregistered", Verdict::Dead { sure: true }),
            (410, "ExpiredToken", Verdict::Dead { sure: true }),
            (413, "PayloadTooLarge", MESSAGE),
            (429, "TooManyRequests", Verdict::DeviceLater { wait: None }),
            (429, "TooManyProviderTokenUpdates", Verdict::TokenChange),
            (500, "InternalServerError", LANE_LATER),
            (503, "ServiceUnavailable", LANE_LATER),
            (503, "Shutdown", LANE_LATER),
        ] {
            assert_eq!(judge(status, word), verdict, "{status} {word}");
        }
    }

    #[test]
    fn an_answer_without_a_reason_of_its_status_says_nothing() {
        for status in
            [201, 204, 302, 400, 401, 403, 404, 407, 408, 410, 413, 429, 500, 502, 503, 999]
        {
            for body in [
                "",
                "<html>Not Found</html>",
                "{}",
                "[]",
                r#"{"reason":""}"#,
                r#"{"reason":"Unreg"#,
            ] {
                assert_eq!(judge_body(status, body, None), UNSIGNED, "{status} {body}");
            }
        }
        // A proxy's 502 with a reason in its body must not remove a token.
        assert_eq!(judge(502, "Unregistered"), UNSIGNED);
        assert_eq!(judge(400, "ExpiredProviderToken"), UNSIGNED);
        assert_eq!(judge(404, "InvalidProviderToken"), UNSIGNED);
    }

    #[test]
    fn a_new_word_concerns_one_device_and_never_a_credential_or_a_lane() {
        for (status, verdict) in [
            (400, Verdict::Unfamiliar),
            (404, Verdict::Unfamiliar),
            (410, Verdict::Unfamiliar),
            (413, Verdict::Unfamiliar),
            (401, UNSIGNED),
            (403, UNSIGNED),
            (429, UNSIGNED),
            (502, UNSIGNED),
        ] {
            assert_eq!(judge(status, "SomethingNew"), verdict, "{status}");
        }
    }

    #[test]
    fn every_documented_word_reads_back() {
        assert_eq!(Reason::DOCUMENTED.len(), 32);
        for reason in Reason::DOCUMENTED {
            assert_eq!(Reason::parse(reason.as_str()), *reason);
            assert!(reason.status().is_some());
        }
    }

    proptest! {
        #[test]
        fn unknown_words_are_bounded_and_printable(word in "\\PC{0,100}|[\\x00-\\x20]{1,80}") {
            if let Reason::Unknown(kept) = Reason::parse(&word) {
                prop_assert!(kept.len() <= UNKNOWN_CHARS_MAX);
                prop_assert!(kept.bytes().all(|b| b.is_ascii_graphic()));
            }
        }
    }
}
