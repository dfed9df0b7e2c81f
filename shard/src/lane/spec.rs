//! The specification of a lane for one core: address of the gateway, and the limits of the core's
//! end.

use std::{sync::Arc, time::Duration};

use clarion_proto::ids::LaneId;

use crate::outcome::Platform;

/// One lane, as a core's end of it needs it. The limits are already this core's part.
#[derive(Debug)]
pub struct LaneSpec {
    /// Number of the lane in the cluster.
    pub id: LaneId,
    /// Provider of the gateway; it never changes.
    pub platform: Platform,
    /// Name of the lane for log lines: `gateway/credential`.
    pub name: String,
    /// Address of the gateway, host:port.
    pub endpoint: String,
    /// Name that the certificate must have, also used as `:authority`.
    pub server_name: String,
    /// Trust anchors for the gateway's certificate.
    pub roots: Arc<rustls::RootCertStore>,
    /// Whether real people are behind it.
    pub live: bool,
    /// To begin with; the control plane sends other numbers later.
    pub connections: usize,
    /// Requests that may be out on one connection; at least 1.
    pub streams_per_connection: usize,
    /// Then a request counts as unanswered and is sent again.
    pub request_deadline: Duration,
    /// Time limit for connecting: TCP and TLS together.
    pub connect_deadline: Duration,
    /// First pause before another try, of a device or of a connection (there a second at most).
    pub backoff_min: Duration,
    /// Longest such pause; for connections, while no device waits to be pushed to (`lane/pool`).
    pub backoff_max: Duration,
    /// Whether `authorization` enters the HPACK table.
    pub authorization_indexed: bool,
    /// Answers of one kind in a row, without a success between, that decide about a message,
    /// credential or lane.
    pub evidence: u32,
}
