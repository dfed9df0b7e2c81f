//! The same pushes through the crates `h2` and `hyper`, with one task for each stream that creates
//! its own requests.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use clarion_benches::devices::mixed;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::{JoinSet, LocalSet},
};
use tokio_rustls::TlsConnector;

use crate::client::{Client, HOST, Kind, TOPIC, tls_config};

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A socket that denies support of vectored writes. `h2` then collects frames in a buffer;
/// otherwise it writes each body of 256 bytes and more with a call of its own.
struct NoVectors(Box<dyn Stream>);

impl AsyncRead for NoVectors {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for NoVectors {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Data that all requests share, and the number of the next one.
struct Work {
    headers: HeaderMap,
    body: Bytes,
    scheme: &'static str,
    next: Cell<u64>,
    requests: u64,
}

impl Work {
    fn new(client: &Client) -> io::Result<Self> {
        let mut headers = HeaderMap::new();
        let mut put = |name: &'static str, value: &str| {
            let value = HeaderValue::from_str(value).map_err(io::Error::other)?;
            headers.insert(HeaderName::from_static(name), value);
            Ok::<_, io::Error>(())
        };
        put("authorization", &client.authorization()?)?;
        put("apns-topic", TOPIC)?;
        put("apns-push-type", "alert")?;
        put("apns-priority", "10")?;
        put("apns-expiration", "1900000000")?;
        put("apns-collapse-id", "alert-0123456789")?;
        let scheme = if client.ca_file.is_some() { "https" } else { "http" };
        let body = Bytes::from(client.body());
        Ok(Self { headers, body, scheme, next: Cell::new(0), requests: client.requests })
    }

    /// Returns the next request, each for a device of its own.
    fn request<B>(&self, body: B) -> Option<Request<B>> {
        let n = self.next.get();
        if n == self.requests {
            return None;
        }
        self.next.set(n + 1);
        let [a, b, c, d] = [0, 1, 2, 3].map(|part| mixed(n, part));
        let uri = format!("{}://{HOST}/3/device/{a:016x}{b:016x}{c:016x}{d:016x}", self.scheme);
        let mut request =
            Request::builder().method(Method::POST).uri(uri).body(body).expect("well-formed");
        *request.headers_mut() = self.headers.clone();
        Some(request)
    }
}

/// Pushes until all requests are answered.
pub(crate) fn run(client: &Client, kind: Kind) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, push_all(client, kind))
}

async fn push_all(client: &Client, kind: Kind) -> io::Result<()> {
    let work = Rc::new(Work::new(client)?);
    let mut tasks = JoinSet::new();
    for _ in 0..client.connections {
        let io = connect(client).await?;
        if kind == Kind::Hyper {
            hyper_connection(io, client, &work, &mut tasks).await?;
        } else {
            let io = if kind == Kind::H2Tuned { Box::new(NoVectors(io)) } else { io };
            h2_connection(io, client, &work, &mut tasks).await?;
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(io::Error::other)??;
    }
    Ok(())
}

async fn connect(client: &Client) -> io::Result<Box<dyn Stream>> {
    let tcp = TcpStream::connect(client.address).await?;
    tcp.set_nodelay(true)?;
    Ok(match tls_config(client)? {
        Some(config) => {
            let name = ServerName::try_from(HOST).map_err(io::Error::other)?;
            Box::new(TlsConnector::from(config).connect(name, tcp).await?)
        }
        None => Box::new(tcp),
    })
}

type Tasks = JoinSet<io::Result<()>>;

async fn h2_connection(
    io: Box<dyn Stream>,
    client: &Client,
    work: &Rc<Work>,
    tasks: &mut Tasks,
) -> io::Result<()> {
    let (send, connection) = h2::client::handshake(io).await.map_err(io::Error::other)?;
    // The task ends with the last sender.
    tokio::task::spawn_local(connection);
    for _ in 0..client.streams {
        let (work, send) = (Rc::clone(work), send.clone());
        tasks.spawn_local(async move {
            let mut send = send;
            loop {
                send = send.ready().await.map_err(io::Error::other)?;
                let Some(request) = work.request(()) else { return Ok(()) };
                let (answer, mut body) =
                    send.send_request(request, false).map_err(io::Error::other)?;
                body.send_data(work.body.clone(), true).map_err(io::Error::other)?;
                answer.await.map_err(io::Error::other)?;
            }
        });
    }
    Ok(())
}

async fn hyper_connection(
    io: Box<dyn Stream>,
    client: &Client,
    work: &Rc<Work>,
    tasks: &mut Tasks,
) -> io::Result<()> {
    let (send, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .handshake::<_, Full<Bytes>>(TokioIo::new(io))
        .await
        .map_err(io::Error::other)?;
    // The task ends with the last sender.
    tokio::task::spawn_local(connection);
    for _ in 0..client.streams {
        let (work, mut send) = (Rc::clone(work), send.clone());
        tasks.spawn_local(async move {
            while let Some(request) = work.request(Full::new(work.body.clone())) {
                send.ready().await.map_err(io::Error::other)?;
                send.send_request(request).await.map_err(io::Error::other)?;
            }
            Ok(())
        });
    }
    Ok(())
}
