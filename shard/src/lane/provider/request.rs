//! The part of a request that all pushes of one app and wave share, apart from the body.

use crate::outcome::Platform;

/// Part of a request that all pushes of an app and wave share, apart from the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A request to APNs: everything except the body is in headers.
    Apns(ApnsHeaders),
    /// A request to FCM: everything except the project is in the body.
    Fcm {
        /// Name of the project, which is part of the path.
        project: String,
    },
}

impl Request {
    /// Returns the platform of the lanes that accept the request.
    #[must_use]
    pub fn platform(&self) -> Platform {
        match self {
            Self::Apns(_) => Platform::Apns,
            Self::Fcm { .. } => Platform::Fcm,
        }
    }
}

/// APNs request headers that are the same for every device of an app and wave (A-send).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApnsHeaders {
    /// Value of `apns-topic`: the app's bundle id.
    pub topic: String,
    /// Value of `apns-push-type`, for example `alert`.
    pub push_type: String,
    /// Value of `apns-priority`: 10, 5 or 1.
    pub priority: u8,
    /// Value of `apns-expiration`, Unix seconds.
    pub expiration: u64,
    /// `apns-collapse-id`, at most 64 bytes.
    pub collapse_id: String,
}
