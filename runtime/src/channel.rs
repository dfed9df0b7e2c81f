//! Settings of the gRPC connections between processes of the cluster.
//!
//! A client must notice a peer that has vanished even if it has nothing to send, so idle
//! connections are pinged as well. One stream carries nearly all data, so the window of the
//! connection equals the window of a stream.

use std::{net::SocketAddr, time::Duration};

use tonic::transport::{Endpoint, Error};

/// What a connection waits for and how much it lets come in.
#[derive(Debug, Clone, Copy)]
pub struct ChannelLimits {
    /// Time limit for connecting: TCP and HTTP/2 together.
    pub connect_within: Duration,
    /// What the other side may send before it hears from us.
    pub window_bytes: u32,
    /// The connection is asked this often whether it is still there.
    pub ping_every: Duration,
    /// It is given up so long after a question without an answer.
    pub pong_within: Duration,
}

/// An address with these settings, not yet connected.
///
/// # Errors
/// Not for an address; the library's constructor can fail for other strings.
pub fn endpoint(address: SocketAddr, limits: ChannelLimits) -> Result<Endpoint, Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(endpoint
        .connect_timeout(limits.connect_within)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(limits.ping_every)
        .keep_alive_timeout(limits.pong_within)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(limits.window_bytes)
        .initial_connection_window_size(limits.window_bytes))
}
