//! What a gateway's answer means for the device, the lane, the credential or the message. Pure.
//!
//! Every reason that APNs documents is named, without a wildcard, so that a new one is a decision and not an accident. A
//! reason counts only together with the status it belongs to: a proxy's page, or a word not known here, is judged by
//! its status alone, and more carefully (it never stops a whole alert where only a device may be at fault).

use std::fmt;

use clarion_proto::outcome::Outcome;

/// One answer, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// `:status`, 200 to 999.
    pub status: u16,
    /// Of an error.
    pub reason: Reason,
    /// With 410: since when the token is dead, Unix milliseconds by the gateway's clock.
    pub timestamp_ms: Option<u64>,
}

/// What to do about an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// This device is done.
    Final(Outcome),
    /// This device later; others are not concerned.
    DeviceLater,
    /// This device again, and less or nothing through this lane for a while.
    LaneLater,
    /// This device again, once the lane's credential is another (`renew`: a fresh provider token will do; otherwise
    /// somebody must look at it). The connection on which it was said has to go: it remembers.
    Credential {
        /// A fresh provider token will do.
        renew: bool,
    },
    /// The message or its configuration is wrong: no device can succeed with it.
    Campaign,
    /// This device again at once, on another connection.
    ConnectionOnly,
}

macro_rules! reasons {
    ($($status:literal: $($name:ident)+;)+) => {
        /// Why APNs refused, in its words (Apple, "Handling notification responses from APNs").
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Reason {
            /// No reason was given, or none that could be read.
            None,
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
                    _ => Self::unknown(word),
                }
            }

            /// The status that it is documented with.
            #[must_use]
            pub fn status(&self) -> Option<u16> {
                match self {
                    Self::None | Self::Unknown(_) => None,
                    $($(Self::$name)|+ => Some($status),)+
                }
            }

            /// The gateway's word; empty if there was none.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    Self::None => "",
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

impl Reason {
    /// Longest word that is kept of what is not known.
    pub const UNKNOWN_CHARS_MAX: usize = 64;

    /// The word goes to logs and to people: no more than that, and nothing that a terminal would obey.
    fn unknown(word: &str) -> Self {
        let printable = |c: char| if c.is_ascii_graphic() { c } else { '?' };
        Self::Unknown(word.chars().take(Self::UNKNOWN_CHARS_MAX).map(printable).collect())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Judges one answer.
#[must_use]
pub fn classify(answer: &Answer) -> Verdict {
    // Nearly all of them, and whatever else it says (Apple, "Handling notification responses from APNs").
    if answer.status == 200 {
        return Verdict::Final(Outcome::Accepted);
    }
    if answer.reason.status() != Some(answer.status) {
        return by_status(answer.status);
    }
    match answer.reason {
        Reason::None | Reason::Unknown(_) => by_status(answer.status),

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
        Reason::TooManyRequests => Verdict::DeviceLater,

        // The lane's provider token changed more often than every 20 minutes: keep it and wait.
        Reason::TooManyProviderTokenUpdates => Verdict::LaneLater,

        // The gateway's own trouble, for everybody.
        Reason::InternalServerError | Reason::ServiceUnavailable | Reason::Shutdown => Verdict::LaneLater,

        // Said of a connection that idled; the request was merely the next one on it.
        Reason::IdleTimeout => Verdict::ConnectionOnly,
    }
}

/// For answers without a reason that belongs to their status.
fn by_status(status: u16) -> Verdict {
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
        408 | 425 => Verdict::DeviceLater,
        // Of the device or of the lane? The careful reading is the lane.
        429 => Verdict::LaneLater,
        // Some new complaint about a token or a message: this device, and nobody else, because of an unknown word.
        400..=499 => Verdict::Final(Outcome::Refused),
        500..=599 => Verdict::LaneLater,
        // No such status exists; whoever says this is in no state to judge a push.
        _ => Verdict::LaneLater,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judge(status: u16, word: &str) -> Verdict {
        let reason = if word.is_empty() { Reason::None } else { Reason::parse(word) };
        classify(&Answer { status, reason, timestamp_ms: None })
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
            (200, "", Verdict::Final(Outcome::Accepted)),
            (400, "BadDeviceToken", Verdict::Final(Outcome::Dead)),
            (400, "DeviceTokenNotForTopic", Verdict::Final(Outcome::Refused)),
            (400, "IdleTimeout", Verdict::ConnectionOnly),
            (403, "ExpiredProviderToken", Verdict::Credential { renew: true }),
            (404, "BadPath", Verdict::Campaign),
            (405, "MethodNotAllowed", Verdict::Campaign),
            (410, "Unregistered", Verdict::Final(Outcome::Dead)),
            (410, "ExpiredToken", Verdict::Final(Outcome::Dead)),
            (413, "PayloadTooLarge", Verdict::Campaign),
            (429, "TooManyRequests", Verdict::DeviceLater),
            (429, "TooManyProviderTokenUpdates", Verdict::LaneLater),
            (500, "InternalServerError", Verdict::LaneLater),
            (503, "ServiceUnavailable", Verdict::LaneLater),
            (503, "Shutdown", Verdict::LaneLater),
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
            (429, Verdict::LaneLater),
            (502, Verdict::LaneLater),
        ] {
            assert_eq!(judge(status, "SomethingNew"), verdict);
            assert_eq!(judge(status, ""), verdict);
        }
    }

    #[test]
    fn a_word_with_a_status_that_is_not_its_own_does_not_count() {
        // A proxy that says 502 with a body found somewhere must not get a token pruned.
        assert_eq!(judge(502, "Unregistered"), Verdict::LaneLater);
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
                prop_assert!(kept.len() <= Reason::UNKNOWN_CHARS_MAX);
                prop_assert!(kept.bytes().all(|b| b.is_ascii_graphic()));
            }
        }
    }
}
