//! The policy of one gateway: its checked configuration, constant while it runs. The module of each
//! provider has the provider's part.

use super::{apns, fcm, frame::Code, script::Scripts};

/// Policy of a gateway: limits, scripts and the provider's rules.
#[derive(Debug, Clone)]
pub struct Policy {
    /// MAX_CONCURRENT_STREAMS of a connection; for APNs, the value after the first authenticated
    /// success.
    pub streams_max: u32,
    /// Whether a connection is limited to one stream until its first authenticated success.
    pub first_stream_alone: bool,
    /// Receive window of the connection, bytes.
    pub connection_window: u32,
    /// Initial receive window of each stream, bytes.
    pub stream_window: u32,
    /// Scripted answers for device tokens.
    pub scripts: Scripts,
    /// Seed of the random numbers of each connection.
    pub seed: u64,
    /// Provider that the gateway emulates, with its own policy.
    pub provider: Provider,
}

/// Policy of one provider.
#[derive(Debug, Clone)]
pub enum Provider {
    /// Policy of APNs, Apple's gateway.
    Apns(apns::Policy),
    /// Policy of FCM, Google's gateway.
    Fcm(Box<fcm::Policy>),
}

impl Policy {
    /// Returns the error code and the text of the GOAWAY for a client that opens too many streams.
    #[must_use]
    pub fn too_many_streams(&self) -> (Code, &'static [u8]) {
        match &self.provider {
            Provider::Apns(_) => (Code::RefusedStream, apns::TOO_MANY_STREAMS),
            Provider::Fcm(_) => (Code::ProtocolError, fcm::TOO_MANY_STREAMS),
        }
    }

    /// Returns the policy of FCM, if the gateway emulates FCM.
    #[must_use]
    pub fn fcm(&self) -> Option<&fcm::Policy> {
        match &self.provider {
            Provider::Fcm(policy) => Some(policy),
            Provider::Apns(_) => None,
        }
    }

    /// Returns the policy of APNs, if the gateway emulates APNs.
    #[must_use]
    pub fn apns(&self) -> Option<&apns::Policy> {
        match &self.provider {
            Provider::Apns(policy) => Some(policy),
            Provider::Fcm(_) => None,
        }
    }
}
