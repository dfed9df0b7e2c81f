//! The specification of a lane for one core: address of the gateway, and the limits of the core's
//! end.

use std::{sync::Arc, time::Duration};

use clarion_proto::ids::LaneId;
use clarion_runtime::proxy::Route;

use crate::outcome::Platform;

/// Specification of one lane for one core. The limits are already the core's part.
#[derive(Debug)]
pub struct LaneSpec {
    /// Number of the lane in the cluster.
    pub id: LaneId,
    /// Provider of the gateway, which never changes.
    pub platform: Platform,
    /// Name of the lane for log lines: `gateway/credential`.
    pub name: String,
    /// Address of the gateway, host:port.
    pub endpoint: String,
    /// Name that the certificate must have, also used as `:authority`.
    pub server_name: String,
    /// Trust anchors for the gateway's certificate.
    pub roots: Arc<rustls::RootCertStore>,
    /// Whether the lane's devices belong to real people.
    pub live: bool,
    /// Initial target number of connections; the control plane changes it later.
    pub connections: usize,
    /// Most requests in flight on one connection; at least 1.
    pub streams_per_connection: usize,
    /// Time after which a request counts as unanswered and is sent again.
    pub request_deadline: Duration,
    /// Route of connections to the gateway: direct, or through an HTTP proxy.
    pub route: Route,
    /// Time limit for connecting: TCP, a proxy's tunnel and TLS together.
    pub connect_deadline: Duration,
    /// First pause before another attempt, of a device or of a connection (there at most one
    /// second).
    pub backoff_min: Duration,
    /// Longest pause before another attempt; for connections, while no device waits to be pushed to
    /// (`lane/pool`).
    pub backoff_max: Duration,
    /// Whether `authorization` enters the HPACK table.
    pub authorization_indexed: bool,
    /// Number of consecutive answers of one kind, without a success between, that decide about a
    /// message, credential or lane.
    pub evidence: u32,
}
