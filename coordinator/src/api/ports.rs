//! The coordinator's two gRPC ports, for callers and for nodes, and the limits of their peers.
//!
//! Nodes have a separate port for their feeds, so that no caller can take a node's place: a node
//! that cannot follow the logs sends no alerts. [`clarion_runtime::listener`] explains the limits;
//! this module has the numbers and their reasons.

use std::{sync::Arc, time::Duration};

use clarion_runtime::{
    listener::{Budget, Limits, Port, WhenBusy, meter::COPIES},
    world::Clock,
};
use tonic::service::Routes;
use tower::Layer as _;

use super::{
    ApiConfig, Context, REQUEST_BYTES_MAX, backup,
    door::{Door, DoorLayer, FOREIGN_STREAMS_MAX, REQUESTS_MAX, REQUESTS_PER_CONNECTION_MAX},
    feed,
    method::method,
    registry, snapshots,
    trace::{TraceLayer, Traced},
};
use crate::{archive::gather::PIECE_BYTES_MAX, members::NAMES_MAX};

/// Maximum number of connections of nodes. A node has one connection, and for a moment two.
pub const FEED_CONNECTIONS_MAX: usize = NAMES_MAX + 64;
/// Minimum of the limit on connections of nodes: with fewer, other peers could keep nodes out.
pub const FEED_CONNECTIONS_MIN: usize = 8;
/// Minimum of the limit on connections of callers: with fewer, one peer could keep others out.
pub const API_CONNECTIONS_MIN: usize = 8;

/// Limits of the callers' port.
///
/// A connection may have 256 streams open, most of them watchers; [`super::door`] limits the
/// requests under way. Alerts are up to 8 MiB and batches of `WriteDevices` up to 4 MiB: 48 MiB hold
/// the two largest alerts with their copies, or forty batches of 400 kB, and one peer has half of
/// that. Messages that were compressed have as much again, once they are decompressed. A window of 128 KiB
/// carries 2.5 MB/s over 50 ms for each stream. One peer's address may have three quarters of the
/// connections: behind a proxy all callers have one address. A connection that is idle for 5 min is
/// closed; the caller reconnects for its next request.
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
        header_list_bytes_max: METADATA_BYTES_TAKEN,
        stream_window_bytes: 128 << 10,
        connection_window_bytes: 1 << 20,
        streams_unread_max: unread,
        send_buffer_bytes: 16 << 10,
        messages: Budget {
            bytes: 48 << 20,
            peer_bytes_max: 24 << 20,
            free_bytes: 8 << 10,
            streams_max: REQUESTS_MAX + registry::STREAMS_MAX + FOREIGN_STREAMS_MAX,
            waiting_max: WAITING_MAX,
            message_bytes_max: REQUEST_BYTES_MAX,
        },
        inflated: Some(Budget {
            bytes: 48 << 20,
            peer_bytes_max: 24 << 20,
            free_bytes: 8 << 10,
            streams_max: REQUESTS_MAX + registry::STREAMS_MAX + FOREIGN_STREAMS_MAX,
            waiting_max: WAITING_MAX,
            message_bytes_max: REQUEST_BYTES_MAX,
        }),
        hello_deadline: Duration::from_secs(10),
        // The slowest valid request waits 10 s for a node's count.
        request_deadline: Duration::from_secs(30),
        idle_deadline: Duration::from_secs(300),
        keep_alive_every: Duration::from_secs(20),
        method,
    }
}

/// Longest header list that the transport takes, bytes: beyond it, HTTP/2 answers 431. The limit of
/// metadata is lower ([`super::door`]), so that a caller with up to 64 KiB gets a status that says
/// so; the rest is for names and for the 32 bytes that HTTP/2 counts for each field.
const METADATA_BYTES_TAKEN: u32 = 80 << 10;

/// Maximum number of messages that wait for the budget, each with a full window of its stream.
const WAITING_MAX: usize = 64;

/// Limits of the nodes' port. A feed fills its stream's window and a read-ahead; a request names
/// partitions and logs. A node that starts loads several snapshots beside its feed; each piece of a
/// snapshot that is saved weighs 3 MiB while it is received.
#[must_use]
pub fn feed() -> Limits {
    let streams_max = FEED_CONNECTIONS_MAX + snapshots::SAVES_MAX + snapshots::LOADS_MAX;
    let messages = (8 << 20) + snapshots::SAVES_MAX * COPIES * PIECE_BYTES_MAX;
    Limits {
        name: "feed",
        connections_max: FEED_CONNECTIONS_MAX,
        // All nodes may be behind one address translator.
        connections_per_peer_max: FEED_CONNECTIONS_MAX,
        when_busy: WhenBusy::Stays,
        streams_per_connection_max: 16,
        streams_max,
        requests_per_connection_max: 16,
        header_list_bytes_max: 8 << 10,
        stream_window_bytes: 64 << 10,
        connection_window_bytes: 256 << 10,
        streams_unread_max: 64,
        send_buffer_bytes: 512 << 10,
        messages: Budget {
            bytes: messages,
            peer_bytes_max: messages,
            free_bytes: 4 << 10,
            streams_max,
            waiting_max: 64,
            message_bytes_max: snapshots::REQUEST_BYTES_MAX,
        },
        inflated: None,
        hello_deadline: Duration::from_secs(5),
        request_deadline: Duration::from_secs(5),
        idle_deadline: Duration::from_secs(30),
        // A node that vanished without closing must not keep its name's place longer than its
        // successor needs to start.
        keep_alive_every: Duration::from_secs(2),
        method,
    }
}

/// Serves callers until `stop` resolves and the last connection has ended.
pub async fn serve_api(
    port: Port,
    context: &Context,
    routes: Routes,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    port.serve(behind_the_door(routes, context.world.clock()), stop).await;
}

/// Serves nodes until `stop` resolves and the last connection has ended.
pub async fn serve_feed(
    port: Port,
    context: &Arc<Context>,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let routes = Routes::new(feed::server(Arc::clone(context)))
        .add_service(snapshots::server(Arc::clone(context)))
        .add_service(backup::server(Arc::clone(context)));
    port.serve(behind_the_door(routes, context.world.clock()), stop).await;
}

/// Puts a door before the routes of one port: requests on one port do not count on the other.
fn behind_the_door(routes: Routes, clock: Clock) -> Traced<Door<Routes>> {
    TraceLayer::new(clock).layer(DoorLayer::default().layer(routes.prepare()))
}
