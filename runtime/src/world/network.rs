//! A network: names to addresses, connections and listeners. [`Tcp`] is the system's.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs as _},
    pin::Pin,
    task::{Context, Poll},
};

use async_trait::async_trait;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tonic::transport::server::Connected;

/// A network that a [`World`](super::World) connects through.
#[async_trait]
pub trait Network: fmt::Debug + Send + Sync + 'static {
    /// All addresses of `host:port`, in any order. May block for as long as it takes.
    ///
    /// # Errors
    /// The name does not exist, or no name server answers.
    fn lookup(&self, name: &str) -> io::Result<Vec<SocketAddr>>;

    /// Connects to an address.
    ///
    /// # Errors
    /// The address cannot be reached, or nothing listens there.
    async fn connect(&self, address: SocketAddr) -> io::Result<Stream>;

    /// Listens on an address; port 0: the network chooses a port.
    ///
    /// # Errors
    /// The address is in use, not local, or not allowed.
    async fn listen(&self, address: SocketAddr) -> io::Result<Listener>;
}

/// The network of the operating system: its resolver, and TCP without Nagle's delay.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

#[async_trait]
#[allow(clippy::disallowed_methods, reason = "the only place that opens sockets of the system")]
impl Network for Tcp {
    fn lookup(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(name.to_socket_addrs()?.collect())
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Stream::new(stream))
    }

    async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Listener::new(address, listener))
    }
}

/// One end of a connection: bytes in order, both ways.
pub struct Stream(Pin<Box<dyn Bytes>>);

/// What a [`Stream`] can be made of.
trait Bytes: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Bytes for T {}

impl Stream {
    /// A stream over a transport.
    pub fn new(transport: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self(Box::pin(transport))
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(context)
    }
}

/// Lets tonic's server take a stream; a service learns nothing about the connection from it.
impl Connected for Stream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// A port on which connections arrive; dropping it refuses further connections.
pub struct Listener {
    address: SocketAddr,
    port: Box<dyn Accept>,
}

/// The arrival of connections at one port.
pub trait Accept: Send + 'static {
    /// The next connection, and the address of its other end.
    ///
    /// # Errors
    /// The system has no descriptor left, or the connection was gone already; the port stays open.
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<(Stream, SocketAddr)>>;
}

impl Accept for TcpListener {
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<(Stream, SocketAddr)>> {
        TcpListener::poll_accept(self, context).map_ok(|(stream, peer)| {
            // A socket that is closed already reports it when it is read.
            let _ = stream.set_nodelay(true);
            (Stream::new(stream), peer)
        })
    }
}

impl Listener {
    /// A listener whose port is bound to an address.
    pub fn new(address: SocketAddr, port: impl Accept) -> Self {
        Self { address, port: Box::new(port) }
    }

    /// Address on which connections arrive.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection, and the address of its other end. Loses no connection when it is
    /// dropped before it resolves.
    ///
    /// # Errors
    /// The system has no descriptor left, or the connection was gone already; the port stays open.
    pub async fn accept(&mut self) -> io::Result<(Stream, SocketAddr)> {
        std::future::poll_fn(|context| self.port.poll_accept(context)).await
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("address", &self.address).finish_non_exhaustive()
    }
}
