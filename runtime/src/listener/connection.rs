//! One accepted connection, from its first byte to its close.
//!
//! ```text
//! accepted ──33 bytes in time──▶ HTTP/2 ──no stream for idle_deadline, or stop──▶ GOAWAY ──streams done──▶ closed
//!     │                            │  answer not taken in time, ping not answered, peer at fault            ▲
//!     └──too late, or no HTTP/2────┴────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The preface is read before an HTTP/2 connection exists, whose buffers take some 25 kB: a client
//! that sends nothing costs only a task.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use clarion_proto::time::Time;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, transport::server::TcpConnectInfo};
use tower::Service as _;

use super::{
    ANSWER_TAKEN_WITHIN, GOODBYE_WITHIN, Limits, Meter, Method, PONG_WITHIN, RESETS_LOCAL_MAX,
    RESETS_PENDING_MAX, Service,
    activity::{Activity, Counted, Stage},
    inflate::{Encoding, Inflated, Inflation},
    meter::Metered,
};
use crate::{
    peers::PeerKey,
    world::{Clock, Stream},
};

/// Preface of an HTTP/2 client (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of the preface and of the SETTINGS frame header that follows it.
const HELLO_BYTES: usize = 24 + 9;

/// The connection of a request; an extension of each request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Address of the client.
    pub address: SocketAddr,
    /// Permits for requests in progress on this connection; a method takes one for each request.
    pub requests: Arc<Semaphore>,
}

/// Serves one connection until it closes.
pub(super) async fn serve(
    (stream, address): (Stream, SocketAddr),
    clock: Clock,
    activity: Arc<Activity>,
    limits: Arc<Limits>,
    (meter, inflation): (Meter, Option<Inflation>),
    service: Service,
    stop: CancellationToken,
) {
    let _end = End(Arc::clone(&activity));
    let info = TcpConnectInfo { local_addr: None, remote_addr: Some(address) };
    let greeted = timeout(limits.hello_deadline, Greeted::read(stream));
    let io = match stop.run_until_cancelled(greeted).await {
        Some(Ok(Ok(io))) => io,
        Some(Ok(Err(error))) => {
            return tracing::debug!(%address, %error, "connection closed: no HTTP/2 preface");
        }
        Some(Err(_)) => {
            return tracing::debug!(%address, "connection closed: HTTP/2 preface timed out");
        }
        None => return,
    };
    let peer =
        Peer { address, requests: Arc::new(Semaphore::new(limits.requests_per_connection_max)) };
    let requests = {
        let (activity, limits) = (Arc::clone(&activity), Arc::clone(&limits));
        service_fn(move |request| {
            let budgets = (&meter, inflation.as_ref());
            answer(request, &activity, &limits, budgets, service.clone(), &peer, &info)
        })
    };
    let connection = server(&limits).serve_connection(TokioIo::new(io), requests);
    let mut connection = pin!(connection);
    let mut leaving: Option<Time> = None;
    // Precise to a quarter.
    let look_every = limits.idle_deadline.min(ANSWER_TAKEN_WITHIN).min(GOODBYE_WITHIN) / 4;
    loop {
        // The connection comes first: the time that it takes to read must not count as idle. It is
        // one future that ends once, so it starves nobody.
        tokio::select! {
            biased;
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%address, %error, "connection to client failed");
                }
                return;
            }
            () = stop.cancelled(), if leaving.is_none() => {
                leaving = Some(clock.now());
                connection.as_mut().graceful_shutdown();
            }
            () = sleep(look_every) => {
                let now = clock.now();
                let waits = |since| now.since(since) >= ANSWER_TAKEN_WITHIN;
                if activity.oldest_answer().is_some_and(waits) {
                    return tracing::debug!(%address, "connection closed: client does not read its response");
                }
                let idle = activity.idle();
                match leaving {
                    Some(since) if idle.min(now.since(since)) >= GOODBYE_WITHIN => return,
                    None if idle >= limits.idle_deadline => {
                        leaving = Some(now);
                        connection.as_mut().graceful_shutdown();
                    }
                    _ => {}
                }
            }
        }
    }
}

fn server(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut server = http2::Builder::new(TokioExecutor::new());
    server
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_per_connection_max)
        .max_header_list_size(limits.header_list_bytes_max)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(RESETS_LOCAL_MAX)
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_send_buf_size(limits.send_buffer_bytes)
        .keep_alive_interval(limits.keep_alive_every)
        .keep_alive_timeout(PONG_WITHIN);
    server
}

/// One request, counted from its head to its answer's last byte.
fn answer(
    mut request: http::Request<Incoming>,
    activity: &Arc<Activity>,
    limits: &Limits,
    (meter, inflation): (&Meter, Option<&Inflation>),
    mut service: Service,
    peer: &Peer,
    info: &TcpConnectInfo,
) -> impl Future<Output = Result<http::Response<Counted<Body>>, Infallible>> + Send + use<> {
    let stream = activity.open();
    let method = (limits.method)(request.uri().path());
    let deadline = match method {
        Method::Upload => Duration::MAX,
        Method::Answer | Method::Events | Method::Exchange => limits.request_deadline,
    };
    let from = PeerKey::of(peer.address.ip());
    let compressed = inflation
        .and_then(|inflation| Some((Encoding::take(request.headers_mut())?, inflation.clone())));
    let metered = |body| {
        let stream = (Arc::clone(&stream), Stage::Received);
        Metered::new(body, method, meter.clone(), from, stream)
    };
    let mut request = request.map(|body| match compressed {
        None => Body::new(metered(body)),
        Some((encoding, inflation)) => {
            let meter = inflation.meter.clone();
            let body = Inflated::new(metered(body), encoding, inflation, from);
            let stream = (Arc::clone(&stream), Stage::Inflated);
            Body::new(Metered::new(body, method, meter, from, stream))
        }
    });
    request.extensions_mut().insert(peer.clone());
    request.extensions_mut().insert(info.clone());
    let answer = service.call(request);
    async move {
        let answer = match timeout(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(never)) => match never {},
            Err(_) => {
                let words = format!("no answer began within {} s", deadline.as_secs());
                Status::deadline_exceeded(words).into_http()
            }
        };
        if !matches!(method, Method::Exchange) {
            stream.release_all();
        }
        if matches!(method, Method::Answer) {
            stream.answered();
        }
        Ok(answer.map(|body| Counted::new(body, stream)))
    }
}

/// Marks the place as free when it is dropped, however the task ends.
struct End(Arc<Activity>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A socket whose first bytes were read and are returned again by the next read.
#[derive(Debug)]
struct Greeted {
    hello: [u8; HELLO_BYTES],
    read: usize,
    stream: Stream,
}

impl Greeted {
    async fn read(mut stream: Stream) -> io::Result<Self> {
        let mut hello = [0; HELLO_BYTES];
        let mut filled = 0;
        while filled < HELLO_BYTES {
            let n = stream.read(&mut hello[filled..]).await?;
            filled += n;
            // At the first wrong byte: a scanner is not to hold a place until the deadline.
            if n == 0 || !hello[..filled].iter().zip(PREFACE).all(|(is, due)| is == due) {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(Self { hello, read: 0, stream })
    }
}

impl AsyncRead for Greeted {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read < HELLO_BYTES {
            let rest = &this.hello[this.read..];
            let taken = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..taken]);
            this.read += taken;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
