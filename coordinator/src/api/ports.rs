//! The coordinator's two gRPC ports and what a peer may take of each: callers' and nodes'.
//!
//! Nodes have a port of their own for their feeds, so that no caller can take a node's place: a
//! node that cannot follow the logs tells nobody. What bounds what is said in
//! [`clarion_runtime::listener`]; here are the numbers and their reasons.

use std::{sync::Arc, time::Duration};

use clarion_runtime::listener::{self, Budget, Limits, WhenBusy};
use tokio::net::TcpListener;
use tonic::service::Routes;
use tower::Layer as _;

use super::{
    ApiConfig, Context, REQUEST_BYTES_MAX,
    door::{Door, DoorLayer, FOREIGN_STREAMS_MAX, REQUESTS_MAX, REQUESTS_PER_CONNECTION_MAX},
    feed,
    method::method,
    registry,
    trace::{TraceLayer, Traced},
};
use crate::members::NAMES_MAX;

/// Connections of nodes at a time. A node has one, and for a moment two.
pub const FEED_CONNECTIONS_MAX: usize = NAMES_MAX + 64;
/// Fewer would keep nodes out: of these nodes hold theirs, and somebody else may hold the others.
pub const FEED_CONNECTIONS_MIN: usize = 8;
/// Fewer would serve nobody while somebody holds the others.
pub const API_CONNECTIONS_MIN: usize = 8;

/// The bounds of the callers' port.
///
/// A connection may have 256 streams open, most of them watchers; how many requests may be under
/// way says [`super::door`]. Batches of `WriteDevices` are up to 4 MiB: 24 MiB hold the two largest
/// with their copies, or twenty of 400 kB, and one peer has half of that. A window of 128 KiB
/// carries 2.5 MB/s over 50 ms for each stream. One peer's address may have three quarters of the
/// connections: behind a proxy all callers have one address. A caller that is idle for 5 min is
/// told to connect again when it has something to ask.
#[must_use]
pub fn api(config: &ApiConfig) -> Limits {
    let unread = registry::STREAMS_MAX + FOREIGN_STREAMS_MAX + WAITING_MAX;
    Limits {
        name: "api",
        connections_max: config.connections_max,
        connections_per_peer_max: (config.connections_max * 3).div_ceil(4),
        when_busy: WhenBusy::Stays,
        streams_per_connection_max: 256,
        streams_max: config.alerts.watchers_max
            + REQUESTS_MAX
            + registry::STREAMS_MAX
            + FOREIGN_STREAMS_MAX,
        requests_per_connection_max: REQUESTS_PER_CONNECTION_MAX,
        header_list_bytes_max: 16 << 10,
        stream_window_bytes: 128 << 10,
        connection_window_bytes: 1 << 20,
        streams_unread_max: unread,
        send_buffer_bytes: 16 << 10,
        messages: Budget {
            bytes: 24 << 20,
            peer_bytes_max: 12 << 20,
            free_bytes: 8 << 10,
            streams_max: REQUESTS_MAX + registry::STREAMS_MAX + FOREIGN_STREAMS_MAX,
            waiting_max: WAITING_MAX,
            message_bytes_max: REQUEST_BYTES_MAX,
        },
        hello_deadline: Duration::from_secs(10),
        // The slowest honest one waits 10 s for a node's count.
        request_deadline: Duration::from_secs(30),
        idle_deadline: Duration::from_secs(300),
        keep_alive_every: Duration::from_secs(20),
        method,
    }
}

/// Messages that may wait for room in the budget: each has a stream's window filled.
const WAITING_MAX: usize = 64;

/// The bounds of the nodes' port. A feed has its log's window filled and a read-ahead; a question
/// names partitions and logs.
#[must_use]
pub fn feed() -> Limits {
    let streams_max = FEED_CONNECTIONS_MAX;
    Limits {
        name: "feed",
        connections_max: FEED_CONNECTIONS_MAX,
        // Nodes behind one address translator are no fewer nodes.
        connections_per_peer_max: FEED_CONNECTIONS_MAX,
        when_busy: WhenBusy::Stays,
        streams_per_connection_max: 4,
        streams_max,
        requests_per_connection_max: 4,
        header_list_bytes_max: 8 << 10,
        stream_window_bytes: 64 << 10,
        connection_window_bytes: 65_535,
        streams_unread_max: 64,
        send_buffer_bytes: 512 << 10,
        messages: Budget {
            bytes: 8 << 20,
            peer_bytes_max: 8 << 20,
            free_bytes: 4 << 10,
            streams_max,
            waiting_max: 64,
            message_bytes_max: feed::REQUEST_BYTES_MAX,
        },
        hello_deadline: Duration::from_secs(5),
        request_deadline: Duration::from_secs(5),
        idle_deadline: Duration::from_secs(30),
        // A node that is gone without a word must not keep its name's place longer than its
        // successor needs to start.
        keep_alive_every: Duration::from_secs(2),
        method,
    }
}

/// Serves callers until `stop` resolves and the last connection has ended.
pub async fn serve_api(
    listener: TcpListener,
    limits: Limits,
    routes: Routes,
    stop: impl Future<Output = ()>,
) {
    listener::serve(listener, limits, behind_the_door(routes), stop).await;
}

/// Serves nodes until `stop` resolves and the last connection has ended.
pub async fn serve_feed(
    listener: TcpListener,
    limits: Limits,
    context: &Arc<Context>,
    stop: impl Future<Output = ()>,
) {
    let routes = Routes::new(feed::server(Arc::clone(context)));
    listener::serve(listener, limits, behind_the_door(routes), stop).await;
}

/// Each port has a door of its own: requests under way on one are none on the other.
fn behind_the_door(routes: Routes) -> Traced<Door<Routes>> {
    TraceLayer::default().layer(DoorLayer::default().layer(routes.prepare()))
}
