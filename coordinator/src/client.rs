//! A client for one request over HTTP/1.1: in TLS, through a proxy if the route has one, or in
//! plaintext inside the machine's network. No pool, no redirects, no retries; the caller sets the
//! deadline.

use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_runtime::{
    proxy::{
        Proxy, Route,
        tunnel::{Tunnel, TunnelError},
    },
    world::{Stream, World},
};
use http::HeaderMap;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{body::Body, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

/// Deadline of TCP for one address: three addresses leave a second for the exchange.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// Maximum number of addresses tried: both families, and one more.
const ADDRESSES_MAX: usize = 3;
/// Deadline of a proxy's answer to CONNECT, for which the proxy connects to the endpoint.
const TUNNEL_DEADLINE: Duration = Duration::from_secs(5);

/// Largest head of an answer, bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// A server that is asked over HTTP.
#[derive(Debug, Clone, Copy)]
pub struct Server<'a> {
    /// Host to connect to, which the certificate must name; an IPv6 address without brackets.
    pub host: &'a str,
    /// Port to connect to.
    pub port: u16,
    /// Whether the server speaks TLS; only servers inside the machine's network may not.
    pub is_tls: bool,
    /// CA certificates, PEM; empty: the public root CAs.
    pub ca_pem: &'a str,
}

/// Answer of a server.
#[derive(Debug)]
pub struct Answered {
    /// Status of the answer.
    pub status: u16,
    /// Headers of the answer.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URI, the request or the CA certificates are unusable: the operator's fault.
    #[error("{0}")]
    Trust(String),
    /// The proxy opened no tunnel.
    #[error(transparent)]
    Proxy(#[from] TunnelError),
    /// No connection; a retry helps.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The connection broke during the exchange; a retry helps.
    #[error("the connection broke: {0}")]
    Http(#[from] hyper::Error),
    /// The answer is longer than the caller takes.
    #[error("the answer must be at most {limit} bytes; got more")]
    TooLong {
        /// Maximum number of bytes.
        limit: usize,
    },
}

/// Sends one request, whose target is a path, on a connection of its own. `answer_max`: largest
/// body of the answer, bytes.
///
/// # Errors
/// See [`ClientError`].
pub async fn send<B>(
    server: Server<'_>,
    route: &Route,
    world: &World,
    request: http::Result<http::Request<B>>,
    answer_max: usize,
) -> Result<Answered, ClientError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let trust = |e: &dyn std::fmt::Display| {
        let uri = if server.is_tls { "the URI or ca_file" } else { "the URI" };
        ClientError::Trust(format!("{uri}: {e}"))
    };
    let request = request.map_err(|e| trust(&e))?;
    let target = target(server);
    if !server.is_tls {
        let tcp = connect(&target, world).await.map_err(ClientError::Connect)?;
        return converse(tcp, request, answer_max).await;
    }
    let roots = clarion_runtime::roots::roots(server.ca_pem).map_err(|e| trust(&e))?;
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .map_err(|e| trust(&e))?
    .with_root_certificates(roots)
    .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(server.host.to_owned()).map_err(|e| trust(&e))?;
    let tcp = match route.proxy_for(&target, world.proxy_rules()) {
        Some(proxy) => tunnel(&proxy, &target, world).await?,
        None => connect(&target, world).await.map_err(ClientError::Connect)?,
    };
    let tls =
        TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.map_err(ClientError::Connect)?;
    converse(tls, request, answer_max).await
}

/// Sends a request on an established connection, and reads the answer.
async fn converse<B>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: http::Request<B>,
    answer_max: usize,
) -> Result<Answered, ClientError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        let (head, body) = answer.into_parts();
        match Limited::new(body, answer_max).collect().await {
            Ok(body) => Ok(Answered {
                status: head.status.as_u16(),
                headers: head.headers,
                body: body.to_bytes(),
            }),
            Err(e) if e.is::<LengthLimitError>() => Err(ClientError::TooLong { limit: answer_max }),
            Err(e) => Err(e
                .downcast::<hyper::Error>()
                .map_or(ClientError::TooLong { limit: answer_max }, |e| ClientError::Http(*e))),
        }
    };
    let (mut exchange, mut connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
    tokio::select! {
        biased;
        answered = &mut exchange => answered,
        // The server closed the connection: the exchange has the answer, or reports the failure.
        _ = &mut connection => exchange.await,
    }
}

/// Host and port to connect to; an IPv6 address gets brackets.
fn target(Server { host, port, .. }: Server<'_>) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Connects to a proxy, which opens a tunnel to the target.
async fn tunnel(proxy: &Proxy, target: &str, world: &World) -> Result<Stream, ClientError> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        let words = format!("proxy {} {what}: {error}", proxy.address());
        ClientError::Connect(io::Error::other(words))
    };
    let mut stream =
        connect(proxy.address(), world).await.map_err(|e| failed("cannot be reached", &e))?;
    let opened = async {
        let mut tunnel = Tunnel::new(proxy, target);
        let broke = |e: io::Error| failed("broke the connection", &e);
        stream.write_all(tunnel.to_send()).await.map_err(broke)?;
        let mut bytes = [0; 1_024];
        loop {
            match stream.read(&mut bytes).await.map_err(broke)? {
                0 => return Err(ClientError::from(tunnel.closed())),
                n if tunnel.receive(&bytes[..n])? => return Ok(()),
                _ => {}
            }
        }
    };
    match tokio::time::timeout(TUNNEL_DEADLINE, opened).await {
        Ok(opened) => opened.map(|()| stream),
        Err(_) => {
            let limit = format!("more than {} s", TUNNEL_DEADLINE.as_secs());
            Err(failed("takes too long to answer CONNECT", &limit))
        }
    }
}

/// Connects to the first address that accepts, with a deadline for each address: the network may
/// drop one family of addresses, and the system's own timeout is longer than an
/// exchange may take.
async fn connect(name: &str, world: &World) -> io::Result<Stream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    let addresses = world.resolve(name).await?;
    for address in in_turn(&addresses).take(ADDRESSES_MAX) {
        match tokio::time::timeout(CONNECT_DEADLINE, world.connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// Addresses of both families alternately, beginning with the resolver's first choice.
fn in_turn(addresses: &[SocketAddr]) -> impl Iterator<Item = SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut a, mut b): (Vec<_>, Vec<_>) =
        addresses.iter().partition(|address| address.is_ipv6() == first);
    a.reverse();
    b.reverse();
    std::iter::from_fn(move || {
        std::mem::swap(&mut a, &mut b);
        b.pop().or_else(|| a.pop())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_tried_by_turns_of_their_families() {
        let [a, b, c]: [SocketAddr; 3] =
            ["[::1]:1", "[::2]:1", "[::3]:1"].map(|a| a.parse().expect("an address"));
        let d: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        assert_eq!(in_turn(&[a, b, c, d]).collect::<Vec<_>>(), [a, d, b, c]);
        assert_eq!(in_turn(&[d, a]).collect::<Vec<_>>(), [d, a]);
        assert_eq!(in_turn(&[]).count(), 0);
    }
}
