//! What APNs' answers mean. Pure.
//!
//! Every reason that APNs documents is named, without a wildcard, so that a new one is a decision and not an accident. A
//! reason counts only together with the status it belongs to: a proxy's page, or a word not known here, is judged by
//! its status alone, and more carefully (it never stops a whole alert where only a device may be at fault).

use std::{fmt, time::Duration};

use clarion_proto::outcome::Outcome;

use super::{Verdict, unknown_word};

macro_rules! reasons {
    ($($status:literal: $($name:ident)+;)+) => {
        /// Why APNs refused, in its words (Apple, "Handling notification responses from APNs").
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
            /// All documented ones.
            pub const DOCUMENTED: &[Self] = &[$($(Self::$name,)+)+];

            /// From the gateway's word.
            #[must_use]
            pub fn parse(word: &str) -> Self {
                match word {
                    $($(stringify!($name) => Self::$name,)+)+
                    // A spelling seen in the wild (kylebrowning/APNSwift#229).
                    "BadEnvironmentKeyInToken" => Self::BadEnvironmentKeyIdInToken,
                    _ => Self::Unknown(unknown_word(word)),
                }
            }

            /// The status that it is documented with.
            #[must_use]
            pub fn status(&self) -> Option<u16> {
                match self {
                    Self::Unknown(_) => None,
                    $($(Self::$name)|+ => Some($status),)+
                }
            }

            /// The gateway's word.
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
    400: BadCollapseId BadDeviceToken BadExpirationDate BadMessageId BadPriority BadTopic DeviceTokenNotForTopic
         DuplicateHeaders IdleTimeout InvalidPushType MissingDeviceToken MissingTopic PayloadEmpty TopicDisallowed;
    403: BadCertificate BadCertificateEnvironment BadEnvironmentKeyIdInToken ExpiredProviderToken Forbidden
         InvalidProviderToken MissingProviderToken UnrelatedKeyIdInToken;
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

/// Judges an answer other than 200. `wait`: its `retry-after`.
pub(super) fn classify(status: u16, reason: Option<&Reason>, wait: Option<Duration>) -> Verdict {
    let Some(reason) = reason.filter(|reason| reason.status() == Some(status)) else { return by_status(status, wait) };
    match reason {
        Reason::Unknown(_) => by_status(status, wait),

        // Said of the message's headers or body, which all devices share.
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
        | Reason::TopicDisallowed => Verdict::Campaign,

        // Our own making: the path is the same for all but the token's digits.
        Reason::BadPath | Reason::MethodNotAllowed | Reason::MissingDeviceToken => Verdict::Campaign,

        // The token is dead. 410 means it for sure; 400 may also mean the wrong environment, which the share of dead
        // tokens on a lane shows before anything is pruned.
        Reason::Unregistered | Reason::ExpiredToken | Reason::BadDeviceToken => Verdict::Final(Outcome::Dead),

        // Alive, but of another app: a wrong topic must not cost the registry its devices.
        Reason::DeviceTokenNotForTopic => Verdict::Final(Outcome::Refused),

        // The provider token's age, which the lane's owner mends by handing out the next.
        Reason::ExpiredProviderToken => Verdict::Credential { renew: true },

        // The key, team, environment or certificate: another token of the same key would fare no better.
        Reason::BadCertificate
        | Reason::BadCertificateEnvironment
        | Reason::BadEnvironmentKeyIdInToken
        | Reason::Forbidden
        | Reason::InvalidProviderToken
        | Reason::MissingProviderToken
        | Reason::UnrelatedKeyIdInToken => Verdict::Credential { renew: false },

        // "Too many requests were made consecutively to the same device token".
        Reason::TooManyRequests => Verdict::DeviceLater { wait },

        // The lane's provider token changed more often than every 20 minutes: keep it and wait.
        Reason::TooManyProviderTokenUpdates => Verdict::LaneLater { wait },

        // The gateway's own trouble, for everybody.
        Reason::InternalServerError | Reason::ServiceUnavailable | Reason::Shutdown => Verdict::LaneLater { wait },

        // Said of a connection that idled; the request was merely the next one on it.
        Reason::IdleTimeout => Verdict::ConnectionOnly,
    }
}

/// For answers without a reason that belongs to their status.
fn by_status(status: u16, wait: Option<Duration>) -> Verdict {
    match status {
        // Not documented, but no other reading of success is possible.
        200..=299 => Verdict::Final(Outcome::Accepted),
        // Whoever redirects is not the gateway: the endpoint is wrong.
        300..=399 => Verdict::Campaign,
        // Documented with a single meaning each: path, method, payload.
        404 | 405 | 413 => Verdict::Campaign,
        401 | 403 => Verdict::Credential { renew: false },
        // Gone, whatever word was used for it.
        410 => Verdict::Final(Outcome::Dead),
        408 | 425 => Verdict::DeviceLater { wait },
        // Of the device or of the lane? The careful reading is the lane.
        429 => Verdict::LaneLater { wait },
        // Some new complaint about a token or a message: this device, and nobody else, because of an unknown word.
        400..=499 => Verdict::Final(Outcome::Refused),
        500..=599 => Verdict::LaneLater { wait },
        // No such status exists; whoever says this is in no state to judge a push.
        _ => Verdict::LaneLater { wait },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::outcome::UNKNOWN_CHARS_MAX;

    const DEVICE_LATER: Verdict = Verdict::DeviceLater { wait: None };
    const LANE_LATER: Verdict = Verdict::LaneLater { wait: None };

    fn judge(status: u16, word: &str) -> Verdict {
        let reason = (!word.is_empty()).then(|| Reason::parse(word));
        classify(status, reason.as_ref(), None)
    }

    #[test]
    fn what_the_gateway_asks_for_in_time_is_passed_on() {
        let wait = Some(Duration::from_secs(7));
        for (status, word, verdict) in [
            (503, "ServiceUnavailable", Verdict::LaneLater { wait }),
            (502, "", Verdict::LaneLater { wait }),
            (429, "TooManyRequests", Verdict::DeviceLater { wait }),
        ] {
            assert_eq!(classify(status, Some(&Reason::parse(word)), wait), verdict);
        }
    }

    #[test]
    fn the_table_of_the_reference() {
        let campaign = [
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
        for word in campaign {
            assert_eq!(judge(400, word), Verdict::Campaign, "{word}");
        }
        let stopped = [
            "BadCertificate",
            "BadCertificateEnvironment",
            "Forbidden",
            "InvalidProviderToken",
            "MissingProviderToken",
            "UnrelatedKeyIdInToken",
            "BadEnvironmentKeyIdInToken",
            "BadEnvironmentKeyInToken",
        ];
        for word in stopped {
            assert_eq!(judge(403, word), Verdict::Credential { renew: false }, "{word}");
        }
        for (status, word, verdict) in [
            (400, "BadDeviceToken", Verdict::Final(Outcome::Dead)),
            (400, "DeviceTokenNotForTopic", Verdict::Final(Outcome::Refused)),
            (400, "IdleTimeout", Verdict::ConnectionOnly),
            (403, "ExpiredProviderToken", Verdict::Credential { renew: true }),
            (404, "BadPath", Verdict::Campaign),
            (405, "MethodNotAllowed", Verdict::Campaign),
            (410, "Unregistered", Verdict::Final(Outcome::Dead)),
            (410, "ExpiredToken", Verdict::Final(Outcome::Dead)),
            (413, "PayloadTooLarge", Verdict::Campaign),
            (429, "TooManyRequests", DEVICE_LATER),
            (429, "TooManyProviderTokenUpdates", LANE_LATER),
            (500, "InternalServerError", LANE_LATER),
            (503, "ServiceUnavailable", LANE_LATER),
            (503, "Shutdown", LANE_LATER),
        ] {
            assert_eq!(judge(status, word), verdict, "{status} {word}");
        }
    }

    #[test]
    fn unknown_words_go_by_the_status() {
        for (status, verdict) in [
            (400, Verdict::Final(Outcome::Refused)),
            (403, Verdict::Credential { renew: false }),
            (410, Verdict::Final(Outcome::Dead)),
            (429, LANE_LATER),
            (502, LANE_LATER),
        ] {
            assert_eq!(judge(status, "SomethingNew"), verdict);
            assert_eq!(judge(status, ""), verdict);
        }
    }

    #[test]
    fn a_word_with_a_status_that_is_not_its_own_does_not_count() {
        // A proxy that says 502 with a body found somewhere must not get a token pruned.
        assert_eq!(judge(502, "Unregistered"), LANE_LATER);
        assert_eq!(judge(400, "ExpiredProviderToken"), Verdict::Final(Outcome::Refused));
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
