//! The server of the token endpoint: TLS, HTTP/1.1 and HTTP/2 by hyper, on a thread with its own
//! runtime.
//!
//! Memory has a fixed bound: [`CONNECTIONS_MAX`] connections, each for [`CONNECTION`] at most and
//! with [`STREAMS_MAX`] requests at once, each with a body of [`BODY_BYTES_MAX`]: 64 × 16 × 16 KiB
//! = 16 MiB.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use clarion_proto::ids::UnixMillis;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::ServerConfig;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
    time,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{
    Endpoint,
    assertion::{GRANT_TYPE, Refusal, verify},
    federation, form, metadata,
};
use crate::{clock, fcm::access::Access};

/// Most connections at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// Most requests of one connection at once.
const STREAMS_MAX: u32 = 16;
/// Longest body, bytes. An assertion has some 700 bytes.
const BODY_BYTES_MAX: usize = 16 << 10;
/// Time limit of a TLS handshake, of the head of a request and of its body, each.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest duration of a connection. A client that sends one request per hour can connect each
/// time.
const CONNECTION: Duration = Duration::from_secs(300);
/// Pause after a failed accept, such as one without a free file descriptor.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);

/// Port on which a request arrived.
#[derive(Clone)]
enum Door {
    /// Google's endpoints on the internet.
    Internet(TlsAcceptor),
    /// The metadata server, inside the machine.
    Machine,
}

/// A running token endpoint, which stops when the handle is dropped.
pub struct Running {
    metadata: Option<SocketAddr>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts a thread that serves the token endpoint, and the metadata server if it has a
    /// listener.
    ///
    /// # Errors
    /// If the thread or its runtime cannot be created.
    pub fn start(
        listener: TcpListener,
        metadata: Option<TcpListener>,
        tls: &ServerConfig,
        endpoint: Arc<Endpoint>,
    ) -> io::Result<Self> {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        tls.send_half_rtt_data = false;
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let address = metadata.as_ref().map(TcpListener::local_addr).transpose()?;
        let doors = [(listener, Door::Internet(acceptor))]
            .into_iter()
            .chain(metadata.map(|listener| (listener, Door::Machine)))
            .collect::<Vec<_>>();
        for (listener, _) in &doors {
            listener.set_nonblocking(true)?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = Builder::new().name("gateway-oauth".to_owned()).spawn(move || {
            runtime.block_on(async {
                // All connections end when the sets that own them are dropped.
                let accepting = doors.into_iter().map(|(listener, door)| {
                    let endpoint = Arc::clone(&endpoint);
                    async move {
                        match tokio::net::TcpListener::from_std(listener) {
                            Ok(listener) => accept(listener, door, endpoint).await,
                            Err(error) => {
                                tracing::error!(
                                    %error, "token endpoint not started: socket cannot be used"
                                );
                            }
                        }
                    }
                });
                let mut all = JoinSet::new();
                accepting.for_each(|accepting| drop(all.spawn(accepting)));
                stopped
                    .run_until_cancelled(async { while all.join_next().await.is_some() {} })
                    .await;
            });
        })?;
        Ok(Self { metadata: address, stop, thread: Some(thread) })
    }

    /// Address of the metadata server, if there is one.
    #[must_use]
    pub fn metadata(&self) -> Option<SocketAddr> {
        self.metadata
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // The panic of the thread has been printed there.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: tokio::net::TcpListener, door: Door, endpoint: Arc<Endpoint>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let (door, endpoint) = (door.clone(), Arc::clone(&endpoint));
        connections.spawn(async move {
            // An error or timeout of one client ends only its own connection.
            let _ = time::timeout(CONNECTION, enter(stream, door, endpoint)).await;
            drop(place);
        });
    }
}

async fn enter(stream: TcpStream, door: Door, endpoint: Arc<Endpoint>) {
    match door {
        Door::Internet(acceptor) => {
            let accepted = time::timeout(PATIENCE, acceptor.accept(stream)).await;
            let Ok(Ok(stream)) = accepted else { return };
            serve(stream, false, endpoint).await;
        }
        Door::Machine => serve(stream, true, endpoint).await,
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    of_machine: bool,
    endpoint: Arc<Endpoint>,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(16 << 10);
    let service = service_fn(move |request| {
        let endpoint = Arc::clone(&endpoint);
        async move {
            Ok::<_, Infallible>(match of_machine {
                true => of_metadata(&request, &endpoint),
                false => answer(request, &endpoint).await,
            })
        }
    });
    // An error here means that the client ended the connection.
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, endpoint: &Endpoint) -> Response<Full<Bytes>> {
    let now = clock::now();
    let fault = endpoint.plan.lock().token_endpoint(now.at);
    if fault.delay_ms > 0 {
        time::sleep(Duration::from_millis(fault.delay_ms)).await;
    }
    if fault.down {
        let body = json!({ "error": "internal_failure", "error_description": "Backend Error" });
        return said(StatusCode::SERVICE_UNAVAILABLE, &body);
    }
    let path = request.uri().path().to_owned();
    let email = federation::impersonated(&path);
    if !["/token", federation::EXCHANGE_PATH].contains(&&*path) && email.is_none() {
        return said(StatusCode::NOT_FOUND, &json!({ "error": "Not Found" }));
    }
    if request.method() != Method::POST {
        return said(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "Method Not Allowed" }));
    }
    let authorization = request.headers().get(header::AUTHORIZATION).cloned();
    let body =
        time::timeout(PATIENCE, Limited::new(request.into_body(), BODY_BYTES_MAX).collect()).await;
    let Ok(Ok(body)) = body else {
        return refused(&Refusal::new("invalid_request", "The request cannot be read."));
    };
    let (body, policy, wall) = (body.to_bytes(), &endpoint.policy, clock::wall());
    if let Some(email) = email {
        let authorization = authorization.as_ref().map(HeaderValue::as_bytes);
        return match federation::generated(email, authorization, &body, policy, wall) {
            Ok(token) => said(StatusCode::OK, &token),
            Err((status, refusal)) => said(status_of(status), &refusal),
        };
    }
    let token = match &*path {
        federation::EXCHANGE_PATH => federation::exchanged(&body, policy, wall),
        _ => granted(&body, endpoint, wall, fault.lifetime_seconds),
    };
    match token {
        Ok(token) => said(StatusCode::OK, &token),
        Err(refusal) => refused(&refusal),
    }
}

/// Answers a request to the metadata server.
fn of_metadata(request: &Request<Incoming>, endpoint: &Endpoint) -> Response<Full<Bytes>> {
    let (method, path, headers) = (request.method(), request.uri().path(), request.headers());
    let (status, body) = metadata::answered(method, path, headers, &endpoint.policy, clock::wall());
    let mut response = said(status_of(status), &body);
    let (name, value) = metadata::FLAVOR;
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}

fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Returns the response to a form: an access token.
///
/// # Errors
/// The refusal that Google returns.
pub fn granted(
    form: &[u8],
    endpoint: &Endpoint,
    wall: UnixMillis,
    lifetime_seconds: Option<u64>,
) -> Result<serde_json::Value, Refusal> {
    let missing =
        |name| Refusal::new("invalid_request", format!("Required parameter is missing: {name}"));
    let grant_type =
        form::values(form, "grant_type").next().ok_or_else(|| missing("grant_type"))?;
    if grant_type != GRANT_TYPE {
        return Err(Refusal::new("unsupported_grant_type", "Invalid grant_type."));
    }
    let assertion = form::values(form, "assertion").next().ok_or_else(|| missing("assertion"))?;
    let policy = &endpoint.policy;
    let account =
        verify(&assertion, &policy.accounts, &endpoint.token_uri, wall, policy.clock_skew_seconds)?;
    let seconds = lifetime_seconds.unwrap_or(policy.access_token.as_secs());
    let expires = UnixMillis(wall.0.saturating_add(seconds.saturating_mul(1_000)));
    let token = policy.issuer.issue(Access { account, expires });
    let token = token.map_err(|e| Refusal::new("internal_failure", e.to_string()))?;
    Ok(json!({ "access_token": token, "expires_in": seconds, "token_type": "Bearer" }))
}

fn refused(refusal: &Refusal) -> Response<Full<Bytes>> {
    said(
        StatusCode::BAD_REQUEST,
        &json!({ "error": refusal.error, "error_description": refusal.description }),
    )
}

fn said(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store"));
    response
}
