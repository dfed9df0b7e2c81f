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
    /// Name of the gateway in `[[gateways]]`.
    pub gateway: String,
    /// Name of the credential in `[[credentials]]`.
    pub credential: String,
}

/// A gateway as configured, checked.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Unique name of the gateway.
    pub name: String,
    /// Protocol that the gateway speaks.
    pub platform: Platform,
    /// Address as host:port.
    pub endpoint: String,
    /// Name for the certificate and for `:authority`.
    pub server_name: String,
    /// CA certificates, PEM; empty: the public root CAs.
    pub ca_pem: String,
    /// Whether real people are behind the gateway.
    pub live: bool,
    /// Connections of each lane of this gateway, in the whole cluster.
    pub connections: ConnectionLimits,
    /// Streams at once on a connection, whatever the gateway allows.
    pub streams_per_connection: u32,
    /// Time after which a request counts as unanswered.
    pub request_deadline: Duration,
    /// Time for TCP and TLS together.
    pub connect_deadline: Duration,
    /// First pause before another try (to connect: a second at most).
    pub backoff_min: Duration,
    /// Longest pause (to connect: while nobody waits).
    pub backoff_max: Duration,
    /// Whether `authorization` enters the HPACK table.
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
    /// Connections while there is nothing to send.
    pub floor: u32,
    /// Connections at most, whatever would be of use.
    pub ceiling: u32,
}

/// Requests that a provider allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Requests in any minute.
    pub per_minute: u32,
    /// Requests at once, of those in a minute; `None`: one second's worth.
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
    /// Name of the lane as `gateway/credential`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.key.gateway, self.key.credential)
    }
}

/// The value of `authorization`, which is secret.
#[derive(Debug)]
pub(crate) struct ProviderToken {
    pub(crate) authorization: SecretString,
    /// Tells the keys of APNs apart, which a connection is tied to; 0 with FCM, where each request
    /// stands for itself.
    pub(crate) signer: u64,
}

/// An app on the lane that its devices are reached through.
pub(crate) type AppLane = (AppName, LaneId);
