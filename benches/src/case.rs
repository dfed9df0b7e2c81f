//! The kinds of pushes that a benchmark sends, and their target.

use clap::ValueEnum;
use clarion_shard::outcome::Platform;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// APNs, `authorization` in the header table.
    ApnsIndexed,
    /// APNs, `authorization` written out in each request.
    ApnsLiteral,
    /// FCM, with the token in the body.
    Fcm,
}

impl Case {
    /// For tables and command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ApnsIndexed => "apns-indexed",
            Self::ApnsLiteral => "apns-literal",
            Self::Fcm => "fcm",
        }
    }

    /// Platform whose protocol the case uses.
    #[must_use]
    pub fn platform(self) -> Platform {
        match self {
            Self::ApnsIndexed | Self::ApnsLiteral => Platform::Apns,
            Self::Fcm => Platform::Fcm,
        }
    }

    /// The gateway's name.
    #[must_use]
    pub fn host(self) -> &'static str {
        match self.platform() {
            Platform::Apns => "api.push.apple.com",
            Platform::Fcm => "fcm.googleapis.com",
        }
    }

    /// A credential of the usual length.
    #[must_use]
    pub fn authorization(self) -> String {
        match self.platform() {
            // As long as an ES256 provider token.
            Platform::Apns => format!("bearer {}", "aZ09-_.x".repeat(25)),
            // As long as an access token of a service account.
            Platform::Fcm => format!("Bearer ya29.{}", "aZ09-_.x".repeat(128)),
        }
    }

    /// Connections and streams of each, as the providers allow.
    #[must_use]
    pub fn lane(self) -> (usize, usize) {
        match self.platform() {
            Platform::Apns => (4, 1_000),
            Platform::Fcm => (32, 100),
        }
    }
}
