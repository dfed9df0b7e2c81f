//! What a lane is: one credential on one gateway, in the whole cluster.
//!
//! Who owns lanes, and what only their owner may do, is in [`crate::lane_owner`]. Here is what
//! everybody knows of them: names, gateways, quotas and tokens; [`ramp`] how much of a quota an
//! idle lane begins with; [`lease`] how leave to send is divided between nodes; [`catalog`] which
//! lanes the configuration allows.

use std::{sync::Arc, time::Duration};

use clarion_proto::{
    app::Platform,
    ids::{AppName, LaneId},
};
use secrecy::SecretString;

pub mod catalog;
pub(crate) mod lease;
pub(crate) mod ramp;

/// Names a lane: one credential on one gateway, both as configured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneKey {
    /// Of `[[gateways]]`.
    pub gateway: String,
    /// Of `[[credentials]]`.
    pub credential: String,
}

/// A gateway as configured, checked.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Unique.
    pub name: String,
    /// Which protocol it speaks.
    pub platform: Platform,
    /// host:port.
    pub endpoint: String,
    /// For the certificate and `:authority`.
    pub server_name: String,
    /// PEM; empty: the public roots.
    pub ca_pem: String,
    /// Real people are behind it.
    pub live: bool,
    /// Of each lane of this gateway, in the whole cluster.
    pub connections: ConnectionLimits,
    /// At once, whatever the gateway allows.
    pub streams_per_connection: u32,
    /// Then a request counts as unanswered.
    pub request_deadline: Duration,
    /// TCP and TLS together.
    pub connect_deadline: Duration,
    /// First pause before another try (to connect: a second at most).
    pub backoff_min: Duration,
    /// Longest pause (to connect: while nobody waits).
    pub backoff_max: Duration,
    /// `authorization` enters the HPACK table.
    pub hpack_authorization_indexed: bool,
    /// Answers of one kind in a row, without a success between, that a node needs before it judges
    /// a message, credential or lane: 2 to 1,024.
    pub evidence_answers: u32,
    /// Requests that the provider allows each lane of this gateway in any minute, over the whole
    /// cluster; `None`: unlimited.
    pub quota: Option<Quota>,
}

/// Within what a budget stays, connections in the cluster. A node with partitions has one in any
/// case, so more nodes than the ceiling are more connections than the ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// While there is nothing to send.
    pub floor: u32,
    /// Whatever would be of use.
    pub ceiling: u32,
}

/// A provider's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// In any minute.
    pub per_minute: u32,
    /// Of those, at once; `None`: one second's worth.
    pub burst: Option<u32>,
    /// How long the rate takes to rise after the lane was idle; zero: no time.
    pub ramp: Duration,
}

/// One lane, as sessions tell it to nodes.
#[derive(Debug)]
pub(crate) struct LaneSpec {
    pub(crate) id: LaneId,
    pub(crate) key: LaneKey,
    pub(crate) gateway: Arc<Gateway>,
}

impl LaneSpec {
    /// `gateway/credential`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.key.gateway, self.key.credential)
    }
}

/// The value of `authorization`. Secret.
#[derive(Debug)]
pub(crate) struct ProviderToken {
    pub(crate) authorization: SecretString,
    /// Tells the keys of APNs apart, which a connection is tied to; 0 with FCM, where each request
    /// stands for itself.
    pub(crate) signer: u64,
}

/// An app on the lane that its devices are reached through.
pub(crate) type AppLane = (AppName, LaneId);
