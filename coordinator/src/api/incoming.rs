//! Connections: how many there may be, and how long one may take to say that it speaks HTTP/2.
//!
//! A connection costs a socket, a task and some 20 kB before it has said anything. So their number is bounded (one more
//! is closed at once, which a client sees as UNAVAILABLE and tries again), and the first bytes (RFC 9113, section 3.4: 24
//! bytes of preface and a SETTINGS frame) must have come after [`HELLO_DEADLINE`]. From then on the server's pings
//! find out who is gone: who does not answer one within 10 s is cut off, also in the middle of a frame.
//!
//! An error of `accept` (no descriptors left) is waited out: asking again at once would take a core for nothing.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;

use super::door::Peer;

/// For the first [`HELLO_BYTES`].
pub const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// The preface and the head of a SETTINGS frame.
const HELLO_BYTES: usize = 24 + 9;
/// After an error of `accept`.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections of a listener, at most so many at a time.
#[derive(Debug)]
pub struct Incoming {
    listener: TcpListener,
    places: Arc<Semaphore>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    /// `connections_max` at a time.
    #[must_use]
    pub fn new(listener: TcpListener, connections_max: usize) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(connections_max)), pause: None }
    }
}

impl futures_util::Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                self.pause = None;
            }
            match self.listener.poll_accept(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    self.pause = Some(Box::pin(sleep(PAUSE)));
                }
                Poll::Ready(Ok((stream, address))) => match Arc::clone(&self.places).try_acquire_owned() {
                    Ok(place) => return Poll::Ready(Some(Ok(Connection::new(stream, address, place)))),
                    Err(_) => tracing::debug!("one connection too many is closed"),
                },
            }
        }
    }
}

/// One connection; its place is free again when it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    hello: Option<Hello>,
    peer: Peer,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Hello {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Connection {
    fn new(stream: TcpStream, address: SocketAddr, place: OwnedSemaphorePermit) -> Self {
        // A socket that is closed already says so when it is read.
        let _ = stream.set_nodelay(true);
        let hello = Hello { missing: HELLO_BYTES, deadline: Box::pin(sleep(HELLO_DEADLINE)) };
        Self { stream, hello: Some(hello), peer: Peer::at(address), _place: place }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let Some(hello) = &mut this.hello else { return read };
        hello.missing = hello.missing.saturating_sub(buffer.filled().len() - before);
        if hello.missing == 0 {
            this.hello = None;
        } else if hello.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
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
