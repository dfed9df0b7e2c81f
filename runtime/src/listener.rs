//! The listener of every gRPC port: limits for each peer, and the arithmetic of the worst case.
//!
//! A peer chooses how many connections it opens, how many streams it opens on each, how large its
//! messages are, how slowly it writes and whether it reads. Each of these has a bound in
//! [`Limits`], and each port has limits of its own, so that load on one port takes nothing from
//! another port:
//!
//! | What a peer can do | What bounds it |
//! |---|---|
//! | connect and say nothing, or half a preface | `hello_deadline`; until then a connection costs a task and 33 bytes |
//! | connect again and again | `connections_max`; when all places are taken, [`places`] decides who leaves |
//! | hold all places from one address | `connections_per_peer_max` |
//! | send a request's head and not the rest | `request_deadline`; such a connection is the first to make room |
//! | hold a connection without a request | `idle_deadline`: GOAWAY, then the end; and it is the first to make room |
//! | go away without a word | pings every `keep_alive_every`, answered within [`PONG_WITHIN`] |
//! | open streams | `streams_per_connection_max` |
//! | open streams and reset them (CVE-2023-44487) | [`RESETS_PENDING_MAX`], [`RESETS_LOCAL_MAX`]: ENHANCE_YOUR_CALM |
//! | send endless heads (CONTINUATION), large heads | `header_list_bytes_max`; h2 counts CONTINUATION frames by it |
//! | flood PING or SETTINGS | h2 holds one answer of each and reads no further until that is written |
//! | begin many large messages | [`meter`]: one budget of bytes for the port, deadlines for a message |
//! | compress messages that become large | `inflate`: a budget of decompressed bytes; turns for the CPU |
//! | send what nobody reads yet | `stream_window_bytes`, `connection_window_bytes` |
//! | not read an answer (zero window, full socket) | `send_buffer_bytes` a stream; [`ANSWER_TAKEN_WITHIN`] |
//!
//! The HTTP/2 server is hyper's, driven here and not by tonic's `Server`, which can neither bound
//! the send buffer of a stream nor send GOAWAY to an idle connection. The service itself is an
//! ordinary tonic service.

use std::{convert::Infallible, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use clarion_proto::time::Time;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::util::BoxCloneService;

use self::{
    activity::Activity,
    inflate::Inflation,
    places::{Admission, Places},
};
pub use self::{
    connection::Peer,
    meter::{Budget, Meter, Method},
    places::WhenBusy,
};
use crate::{
    repeated::Repeated,
    world::{Clock, Listener, Stream, World},
};

mod activity;
mod connection;
mod inflate;
pub mod meter;
pub mod places;
pub mod retry;

/// Streams that a peer has reset before the service took them up; one more ends the connection.
pub const RESETS_PENDING_MAX: usize = 32;
/// Streams that the server had to reset for the peer's faults; one more ends the connection.
pub const RESETS_LOCAL_MAX: usize = 256;
/// Longest time from a ping to its answer.
pub const PONG_WITHIN: Duration = Duration::from_secs(10);
/// Longest time from the start of a response that is not a stream of events to its last byte in the
/// transport. A client that does not read for this long loses the connection.
pub const ANSWER_TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// Longest time from GOAWAY to the close of a connection that was idle.
const GOODBYE_WITHIN: Duration = Duration::from_secs(5);
/// Pause after an error of `accept`, such as no free descriptors: retrying at once would use a core
/// for nothing.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What one hyper connection takes: 16 KiB to write, 16 KiB to read (a frame), 4 KiB for each HPACK table, a task. Measured by
/// the attack test: 25 KB.
const CONNECTION_BYTES: usize = 40 << 10;
/// Memory of one open stream apart from its buffers: h2's entry, the task, the method's future.
/// 100,000 of them took 878 MB.
const STREAM_BYTES: usize = 9 << 10;

/// Number of connections that are closing, beside `connections` that stay: accepting pauses while
/// there are more.
pub(crate) fn leaving_max(connections: usize) -> usize {
    (connections / 4).clamp(1, 16)
}

/// The bounds of one listener. All of them are arithmetic over holders: [`Limits::bytes_max`] adds them up.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For log lines: `api`, `feed`, `health`, `session`.
    pub name: &'static str,
    /// Highest number of connections at a time.
    pub connections_max: usize,
    /// Highest number of connections at a time from one IPv4 address, or from one /64 of IPv6.
    pub connections_per_peer_max: usize,
    /// Whether a connection with open streams may have to leave for a new one.
    pub when_busy: WhenBusy,
    /// Streams open on one connection; h2 refuses one more (REFUSED_STREAM), which a client may try again.
    pub streams_per_connection_max: u32,
    /// Streams open on all connections together, by the services' own bounds; for the arithmetic only.
    pub streams_max: usize,
    /// Highest number of requests on one connection whose response has not begun; see
    /// [`Peer::requests`].
    pub requests_per_connection_max: usize,
    /// Longest decoded header list, bytes.
    pub header_list_bytes_max: u32,
    /// What may be under way on a stream and unread by its method.
    pub stream_window_bytes: u32,
    /// The same for a connection; at least 65,535.
    pub connection_window_bytes: u32,
    /// Streams whose method may stop reading while the peer writes on.
    pub streams_unread_max: usize,
    /// Highest number of bytes of one stream that are encoded and not yet taken by the peer's
    /// window or socket.
    pub send_buffer_bytes: usize,
    /// Messages that are being received or worked on, all streams together.
    pub messages: Budget,
    /// The same for messages that were compressed, once they are decompressed. `None`: the port
    /// takes no compressed messages.
    pub inflated: Option<Budget>,
    /// Time limit from accept to the preface and the head of a SETTINGS frame.
    pub hello_deadline: Duration,
    /// Time limit from a request's head to the beginning of its response, but not of
    /// [`Method::Upload`].
    pub request_deadline: Duration,
    /// Time without an open stream after which the connection is closed.
    pub idle_deadline: Duration,
    /// Interval between two pings.
    pub keep_alive_every: Duration,
    /// Use of the stream by a method, by its path; [`Method::Answer`] for an unknown method.
    pub method: fn(path: &str) -> Method,
}

impl Limits {
    /// The worst case, bytes: every bound reached at once.
    #[must_use]
    pub const fn bytes_max(&self) -> usize {
        let connections =
            self.connections_max * (CONNECTION_BYTES + self.header_list_bytes_max as usize);
        let streams = self.streams_max * (STREAM_BYTES + self.send_buffer_bytes);
        let unread = self.streams_unread_max * self.stream_window_bytes as usize;
        let inflated = match &self.inflated {
            Some(budget) => budget.bytes_max(),
            None => 0,
        };
        connections + streams + unread + self.messages.bytes_max() + inflated
    }

    /// Limits the number of connections to the available descriptors; the share of one peer shrinks
    /// with it.
    #[must_use]
    pub fn with_connections_max(mut self, connections_max: usize) -> Self {
        let share = self.connections_per_peer_max * connections_max / self.connections_max.max(1);
        self.connections_per_peer_max =
            self.connections_per_peer_max.min(share.max(1)).min(connections_max);
        self.connections_max = connections_max;
        self
    }
}

/// The service of a port: a tonic service, behind layers or not. Its type is erased, so that the
/// HTTP/2 server is compiled once and not again for each port of each program.
type Service = BoxCloneService<http::Request<Body>, http::Response<Body>, Infallible>;

/// A port that is being served; see [`Port::serve`].
pub type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A port that is bound and not served yet.
#[derive(Debug)]
pub struct Port {
    listener: Listener,
    limits: Limits,
    clock: Clock,
}

impl Port {
    /// Binds a port; port number 0: the network chooses one.
    ///
    /// # Errors
    /// See [`World::listen`]; the error names the address.
    pub async fn bind(world: &World, address: SocketAddr, limits: Limits) -> io::Result<Self> {
        Ok(Self { listener: world.listen(address).await?, limits, clock: world.clock() })
    }

    /// Sets the highest number of connections at a time.
    #[must_use]
    pub fn with_connections_max(mut self, connections_max: usize) -> Self {
        self.limits = self.limits.with_connections_max(connections_max);
        self
    }

    /// Address on which connections arrive.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Serves under the limits until `stop` resolves. Then the port accepts no connection, tells
    /// open connections to end (GOAWAY), and the call returns when the last connection has ended.
    /// Dropping the future ends all connections at once.
    pub fn serve<S>(self, service: S, stop: impl Future<Output = ()> + Send + 'static) -> Serving
    where
        S: tower::Service<
                http::Request<Body>,
                Response = http::Response<Body>,
                Error = Infallible,
                Future: Send + 'static,
            > + Clone
            + Send
            + 'static,
    {
        boxed(self, BoxCloneService::new(service), Box::pin(stop))
    }
}

/// A plain function, so that the server is compiled in this crate.
fn boxed(port: Port, service: Service, stop: Serving) -> Serving {
    Box::pin(serve(port, service, stop))
}

async fn serve(port: Port, service: Service, mut stop: Serving) {
    let Port { mut listener, limits, clock } = port;
    let stopping = CancellationToken::new();
    let mut served = Server::new(limits, service, clock, stopping.clone());
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(_) = served.connections.join_next() => {}
            accepted = listener.accept(), if served.has_room() => match accepted {
                Ok((stream, peer)) => served.admit(stream, peer),
                Err(error) => {
                    let now = served.now();
                    served.trouble.not_accepted(served.limits.name, &error, now);
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    // New clients are to be refused by the system at once, not to wait for nobody.
    drop(listener);
    stopping.cancel();
    while served.connections.join_next().await.is_some() {}
}

struct Server {
    limits: Arc<Limits>,
    service: Service,
    meter: Meter,
    inflation: Option<Inflation>,
    stopping: CancellationToken,
    places: Places<AbortHandle>,
    connections: JoinSet<()>,
    clock: Clock,
    trouble: Trouble,
}

impl Server {
    fn new(limits: Limits, service: Service, clock: Clock, stopping: CancellationToken) -> Self {
        let places =
            Places::new(limits.connections_max, limits.connections_per_peer_max, limits.when_busy);
        let meter = Meter::new(limits.messages.clone());
        let inflation = limits.inflated.clone().map(Inflation::new);
        Self {
            limits: Arc::new(limits),
            service,
            meter,
            inflation,
            stopping,
            places,
            connections: JoinSet::new(),
            clock,
            trouble: Trouble::default(),
        }
    }

    fn has_room(&self) -> bool {
        self.connections.len()
            < self.limits.connections_max + leaving_max(self.limits.connections_max)
    }

    fn now(&self) -> Duration {
        self.clock.now().since(Time(0))
    }

    fn admit(&mut self, stream: Stream, peer: SocketAddr) {
        let now = self.now();
        match self.places.admit(peer.ip()) {
            Admission::Free => {}
            Admission::InsteadOf(leaving) => {
                leaving.abort();
                self.trouble.crowded(
                    self.limits.name,
                    "connection closed to make room for a new one",
                    peer,
                    now,
                );
            }
            Admission::Refused(reason) => {
                drop(stream);
                return self.trouble.crowded(self.limits.name, reason, peer, now);
            }
        }
        let activity = Arc::new(Activity::new(self.clock));
        let served = connection::serve(
            (stream, peer),
            self.clock,
            Arc::clone(&activity),
            Arc::clone(&self.limits),
            (self.meter.clone(), self.inflation.clone()),
            self.service.clone(),
            self.stopping.clone(),
        );
        let task = self.connections.spawn(served);
        self.places.insert(peer.ip(), activity, task);
    }
}

/// Limits for the listener's log lines: a flood of connections must not flood the log.
#[derive(Debug, Default)]
struct Trouble {
    crowded: Repeated,
    accept: Repeated,
}

impl Trouble {
    fn crowded(&mut self, listener: &str, reason: &'static str, peer: SocketAddr, now: Duration) {
        if let Some(times) = self.crowded.note(reason, now) {
            tracing::warn!(listener, reason, %peer, times, "listener is full; connection closed");
        }
    }

    fn not_accepted(&mut self, listener: &str, error: &io::Error, now: Duration) {
        if let Some(times) = self.accept.note(&error.to_string(), now) {
            tracing::warn!(listener, %error, times, "accepting a connection failed; retrying");
        }
    }
}
