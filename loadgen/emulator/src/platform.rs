//! The platform that a gateway emulates.

use serde::{Deserialize, Serialize};

/// Provider that a gateway emulates; one emulator emulates one provider.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Platform {
    /// Apple Push Notification service.
    #[default]
    Apns = 1,
    /// Firebase Cloud Messaging, HTTP v1.
    Fcm = 2,
}

impl Platform {
    /// Both platforms, APNs first.
    pub const ALL: [Self; 2] = [Self::Apns, Self::Fcm];

    /// Returns the name of the platform in configuration, file names and process names.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apns => "apns",
            Self::Fcm => "fcm",
        }
    }

    /// Returns the platform that a record stores under this number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|p| *p as u64 == number)
    }
}
