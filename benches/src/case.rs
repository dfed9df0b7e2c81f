//! The kinds of pushes that a benchmark sends, and their receiver.

use clap::ValueEnum;
use clarion_shard::outcome::Platform;

/// Kind of push that a benchmark sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// APNs, with `authorization` in the header table.
    ApnsIndexed,
    /// APNs, with `authorization` as a literal in each request.
    ApnsLiteral,
    /// FCM, with the token in the body.
    Fcm,
}

impl Case {
    /// Returns the name of the case for tables and command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ApnsIndexed => "apns-indexed",
            Self::ApnsLiteral => "apns-literal",
            Self::Fcm => "fcm",
        }
    }

    /// Returns the platform whose protocol the case uses.
    #[must_use]
    pub fn platform(self) -> Platform {
        match self {
            Self::ApnsIndexed | Self::ApnsLiteral => Platform::Apns,
            Self::Fcm => Platform::Fcm,
        }
    }

    /// Returns the host name of the gateway.
    #[must_use]
    pub fn host(self) -> &'static str {
        match self.platform() {
            Platform::Apns => "api.push.apple.com",
            Platform::Fcm => "fcm.googleapis.com",
        }
    }

    /// Returns a credential of the usual length.
    #[must_use]
    pub fn authorization(self) -> String {
        match self.platform() {
            // As long as an ES256 provider token.
            Platform::Apns => format!("bearer {}", "aZ09-_.x".repeat(25)),
            // As long as an access token of a service account.
            Platform::Fcm => format!("Bearer ya29.{}", "aZ09-_.x".repeat(128)),
        }
    }

    /// Returns the numbers of connections and of streams per connection that the providers allow.
    #[must_use]
    pub fn lane(self) -> (usize, usize) {
        match self.platform() {
            Platform::Apns => (4, 1_000),
            Platform::Fcm => (32, 100),
        }
    }
}
