//! Settings of the gRPC connections between processes of the cluster.
//!
//! A client must notice a peer that has vanished even if it has nothing to send, so idle
//! connections are pinged as well. One stream carries nearly all data, so the window of the
//! connection equals the window of a stream.

use std::{net::SocketAddr, pin::Pin, time::Duration};

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Error};

use crate::world::World;

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

/// A connection that is being made; see [`connect`].
pub type Connecting = Pin<Box<dyn Future<Output = Result<Channel, Error>> + Send>>;

/// Connects to an address through the world's network, with these settings.
///
/// The future is boxed in a plain function, so that the HTTP/2 client is compiled here and not
/// again in each crate that awaits it.
///
/// # Errors
/// The address cannot be reached in time, or what listens there does not speak HTTP/2.
pub fn connect(world: &World, address: SocketAddr, limits: ChannelLimits) -> Connecting {
    let world = world.clone();
    let connector = tower::service_fn(move |_: http::Uri| {
        let world = world.clone();
        async move { world.connect(address).await.map(TokioIo::new) }
    });
    Box::pin(async move { endpoint(address, limits)?.connect_with_connector(connector).await })
}

fn endpoint(address: SocketAddr, limits: ChannelLimits) -> Result<Endpoint, Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(endpoint
        .connect_timeout(limits.connect_within)
        .http2_keep_alive_interval(limits.ping_every)
        .keep_alive_timeout(limits.pong_within)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(limits.window_bytes)
        .initial_connection_window_size(limits.window_bytes))
}
