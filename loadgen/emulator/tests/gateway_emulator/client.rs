//! A client over TLS with another HTTP/2 implementation than the emulator's.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_emulator::{Gateway, GatewayConfig, GatewayHandle};
use h2::client::SendRequest;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream, rustls};

/// Time limit of every wait, far longer than any wait takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn start(config: GatewayConfig) -> GatewayHandle {
    Gateway::start(config).expect("a gateway on a free port")
}

/// An answer as a client sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) apns_id: String,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn reason(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["reason"].as_str().unwrap_or_default().to_owned()
    }
}

/// Connects with TLS that trusts only the gateway's CA.
pub(crate) async fn secure(
    address: SocketAddr,
    ca_pem: &str,
    alpn: &[&[u8]],
) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).expect("PEM")).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let socket = TcpStream::connect(address).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(tls)).connect(name, socket).await.expect("a handshake")
}

/// Connects a client of the `h2` crate over TLS.
pub(crate) async fn connect(
    address: SocketAddr,
    ca_pem: &str,
) -> (SendRequest<Bytes>, tokio::task::JoinHandle<()>) {
    let socket = secure(address, ca_pem, &[b"h2"]).await;
    let mut builder = h2::client::Builder::new();
    // As a client of APNs must: no second stream before the SETTINGS arrive.
    builder.initial_max_send_streams(1);
    let (requests, connection) = builder.handshake(socket).await.expect("HTTP/2");
    let driver = tokio::spawn(async move {
        // Each test sees the end of a connection by its requests.
        let _ = connection.await;
    });
    (requests, driver)
}

pub(crate) fn post(token: &str, fields: &[(&str, &str)]) -> http::Request<()> {
    let uri = format!("https://localhost/3/device/{token}");
    let request = http::Request::post(uri).version(http::Version::HTTP_2);
    fields
        .iter()
        .fold(request, |r, (name, value)| r.header(*name, *value))
        .body(())
        .expect("a request")
}

/// Returns a message to a project of FCM.
pub(crate) fn send(path: &str, fields: &[(&str, &str)]) -> http::Request<()> {
    let request =
        http::Request::post(format!("https://localhost{path}")).version(http::Version::HTTP_2);
    fields
        .iter()
        .fold(request, |r, (name, value)| r.header(*name, *value))
        .body(())
        .expect("a request")
}

/// Sends a request and waits for its answer.
pub(crate) async fn ask(
    requests: &SendRequest<Bytes>,
    request: http::Request<()>,
    body: &[u8],
) -> Result<Seen, h2::Error> {
    let whole = async {
        let mut requests = requests.clone().ready().await?;
        let (response, mut stream) = requests.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            stream.send_data(Bytes::copy_from_slice(body), true)?;
        }
        read(response).await
    };
    tokio::time::timeout(PATIENCE, whole).await.expect("an answer in time")
}

/// Waits for an answer.
pub(crate) async fn read(response: h2::client::ResponseFuture) -> Result<Seen, h2::Error> {
    let response = response.await?;
    let status = response.status().as_u16();
    let apns_id = response
        .headers()
        .get("apns-id")
        .map_or(String::new(), |v| v.to_str().expect("text").to_owned());
    let headers = response.headers().clone();
    let mut stream = response.into_body();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        body.extend_from_slice(&data?);
    }
    Ok(Seen { status, headers, apns_id, body: String::from_utf8(body).expect("UTF-8") })
}
