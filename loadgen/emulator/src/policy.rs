//! The policy of one gateway: its checked configuration, constant while it runs. The modules of a
//! provider have that provider's part.

use super::{apns, fcm, frame::Code, script::Scripts};

/// The demands of a gateway.
#[derive(Debug, Clone)]
pub struct Policy {
    /// MAX_CONCURRENT_STREAMS of a connection that has proven itself.
    pub streams_max: u32,
    /// Until a first authenticated success, one stream is allowed.
    pub first_stream_alone: bool,
    /// The connection's receive window, bytes.
    pub connection_window: u32,
    /// The receive window of each stream at first, bytes.
    pub stream_window: u32,
    /// Answers by token.
    pub scripts: Scripts,
    /// Of each connection's random numbers.
    pub seed: u64,
    /// Who it plays.
    pub provider: Provider,
}

/// The demands that are one provider's.
#[derive(Debug, Clone)]
pub enum Provider {
    /// Policy of APNs, Apple's gateway.
    Apns(apns::Policy),
    /// Policy of FCM, Google's gateway.
    Fcm(fcm::Policy),
}

impl Policy {
    /// With what words a client is sent away that opens too many streams.
    #[must_use]
    pub fn too_many_streams(&self) -> (Code, &'static [u8]) {
        match &self.provider {
            Provider::Apns(_) => (Code::RefusedStream, apns::TOO_MANY_STREAMS),
            Provider::Fcm(_) => (Code::ProtocolError, fcm::TOO_MANY_STREAMS),
        }
    }

    /// What only FCM has.
    #[must_use]
    pub fn fcm(&self) -> Option<&fcm::Policy> {
        match &self.provider {
            Provider::Fcm(policy) => Some(policy),
            Provider::Apns(_) => None,
        }
    }

    /// What only APNs has.
    #[must_use]
    pub fn apns(&self) -> Option<&apns::Policy> {
        match &self.provider {
            Provider::Apns(policy) => Some(policy),
            Provider::Fcm(_) => None,
        }
    }
}
