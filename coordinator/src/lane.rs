//! Lanes: a lane is one credential on one gateway, in the whole cluster.
//!
//! [`crate::lane_owner`] owns the lanes and mints their tokens. This module has the types that all
//! other modules share: names, gateways, quotas and tokens. [`ramp`] computes the share of a quota
//! that a lane uses after it was idle; [`lease`] divides rates and quotas between nodes;
//! [`catalog`] lists the gateways and credentials of the configuration.

use std::{sync::Arc, time::Duration};

use clarion_proto::{
    app::Platform,
    ids::{AppName, LaneId},
};
use clarion_runtime::proxy::Route;
use secrecy::SecretString;

pub mod catalog;
pub(crate) mod lease;
pub(crate) mod ramp;

/// Name of a lane: a gateway and a credential of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneKey {
    /// Name of the gateway in `[[gateways]]`.
    pub gateway: String,
    /// Name of the credential in `[[credentials]]`.
    pub credential: String,
}

/// A gateway of the configuration, checked.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Unique name of the gateway.
    pub name: String,
    /// Protocol that the gateway speaks.
    pub platform: Platform,
    /// Address as host:port.
    pub endpoint: String,
    /// Name that the certificate must have; also sent as `:authority`.
    pub server_name: String,
    /// CA certificates, PEM; empty: the public root CAs.
    pub ca_pem: String,
    /// Whether real people are behind the gateway.
    pub live: bool,
    /// Minimum and maximum number of connections of each lane, in the whole cluster.
    pub connections: ConnectionLimits,
    /// Maximum number of streams at once on a connection, even if the gateway allows more.
    pub streams_per_connection: u32,
    /// Time without an answer after which a request counts as unanswered.
    pub request_deadline: Duration,
    /// Route of the nodes' connections to the gateway.
    pub route: Route,
    /// Deadline for connecting: TCP, a proxy's tunnel and TLS together.
    pub connect_deadline: Duration,
    /// First pause before a retry (before a new connection: a second at most).
    pub backoff_min: Duration,
    /// Longest pause before a retry (before a new connection: only while no request waits).
    pub backoff_max: Duration,
    /// Whether the header `authorization` enters the HPACK table.
    pub hpack_authorization_indexed: bool,
    /// Number of equal answers in a row, without a success between them, after which a node judges
    /// a message, credential or lane: 2 to 1,024.
    pub evidence_answers: u32,
    /// Requests that the provider allows each lane of this gateway in any minute, over the whole
    /// cluster; `None`: unlimited.
    pub quota: Option<Quota>,
}

/// Range of a lane's budget of connections in the whole cluster.
///
/// Each node with partitions has at least one connection, so a cluster with more nodes than the
/// ceiling has more connections than the ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Number of connections of an idle lane.
    pub floor: u32,
    /// Maximum number of connections of a busy lane.
    pub ceiling: u32,
}

/// Quota of requests that a provider allows a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Maximum number of requests in any minute.
    pub per_minute: u32,
    /// Maximum number of requests at once, out of the minute's; `None`: one second's worth.
    pub burst: Option<u32>,
    /// Time that the rate takes to rise after the lane was idle; zero: no ramp.
    pub ramp: Duration,
}

/// One lane, as sessions send it to nodes.
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

/// Provider token of a lane: the secret value of the header `authorization`.
#[derive(Debug)]
pub(crate) struct ProviderToken {
    pub(crate) authorization: SecretString,
    /// Identifies the APNs key, which a connection is tied to; 0 with FCM, where each request is
    /// authorized separately.
    pub(crate) signer: u64,
}

/// An app and the lane that reaches its devices.
pub(crate) type AppLane = (AppName, LaneId);
