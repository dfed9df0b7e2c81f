//! Access tokens of FCM: a signed request to Google's token endpoint, which answers with a token
//! for an hour.
//!
//! Google ("Using OAuth 2.0 for server to server applications", HTTP/REST; RFC 7523): a JSON Web
//! Token signed with RS256 (`iss` the account, `scope`, `aud` the endpoint, `iat`, `exp` at most an
//! hour later) is posted as a form and answered by `{access_token, expires_in, token_type}`, or by
//! 400 and `{error, error_description}`.
//!
//! The exchange is one request an hour, so it opens a connection and closes it afterwards. One
//! deadline covers the whole exchange, the answer's size is limited, and redirects are not
//! followed. Nothing else waits for the exchange: see `dispatch/lanes.rs`.
//!
//! The log gets the endpoint's words about a failure. They are untrusted: they are cut, and long
//! words are omitted, because an endpoint may repeat the secret that it was sent.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use clarion_proto::ids::UnixMillis;
use clarion_runtime::world::{Stream, World};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rand::{Rng, RngExt};
use rustls_pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};
use tokio_rustls::TlsConnector;

use super::{ServiceAccount, TokenEndpoint, token::Rules};
use crate::lane::ProviderToken;

/// OAuth scope of the token: sending messages only.
pub(crate) const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
/// Rules of FCM tokens: refusals replace a token at most once a minute.
pub(crate) const RULES: Rules = Rules { spacing: Duration::from_secs(60) };
/// Longest lifetime of a request and of a token, seconds; Google's limit for `exp`.
const LIFE_SECONDS_MAX: u64 = 3_600;
/// Deadline of an exchange: name resolution, TCP, TLS, request and answer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// Deadline of TCP for one address: three addresses leave a second for the exchange.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// Maximum number of addresses tried: both families, and one more.
const ADDRESSES_MAX: usize = 3;
/// Longest answer, bytes. Google's has some 1,100.
const ANSWER_BYTES_MAX: usize = 64 * 1_024;
/// Longest access token, bytes: it goes into a header of every request. Google announces up to
/// 2,048.
const TOKEN_BYTES_MAX: usize = 4_096;
/// Longest text kept of an endpoint's own words, characters; and longest word in it.
const WORDS_MAX: usize = 256;
const WORD_MAX: usize = 40;
/// Pauses after failures: doubled from the first to the second, half of each drawn.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// An access token and its lifetime.
#[derive(Debug)]
pub(crate) struct AccessToken {
    pub(crate) token: ProviderToken,
    /// Lifetime of the token, from the answer on.
    pub(crate) life: Duration,
}

/// Reason why an exchange yields no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// The key is unusable: the operator's fault.
    #[error("the account's private key cannot sign: {0}")]
    Sign(String),
    /// `token_uri` or `ca_file` is unusable: the operator's fault.
    #[error("{0}")]
    Trust(String),
    /// No connection; a retry helps.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// The connection broke during the exchange; a retry helps.
    #[error("the connection broke: {0}")]
    Http(#[from] hyper::Error),
    /// The endpoint did not answer within [`DEADLINE`]; a retry helps.
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Deadline,
    /// The endpoint refuses the account's signature: an operator has to act.
    #[error(
        "HTTP {status}, invalid_grant: the key was revoked or is not this account's, or this \
         machine's clock is wrong ({words})"
    )]
    InvalidGrant { status: u16, words: String },
    /// The endpoint refuses the request, mostly by the operator's fault; also a redirect.
    #[error("HTTP {status}: {words}")]
    Refused { status: u16, words: String },
    /// The endpoint is overloaded or failing; a retry helps.
    #[error("HTTP {status}: {words}")]
    Unavailable { status: u16, words: String },
    /// The endpoint's answer exceeds [`ANSWER_BYTES_MAX`].
    #[error("the answer must be at most {ANSWER_BYTES_MAX} bytes; got more")]
    TooLong,
    /// The endpoint's answer has no usable token.
    #[error("HTTP 200 without a usable token: {0}")]
    Unusable(&'static str),
}

impl ExchangeError {
    /// Whether the failure may pass by itself; otherwise an operator has to act.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Http(_) | Self::Deadline | Self::Unavailable { .. } => true,
            Self::Sign(_)
            | Self::Trust(_)
            | Self::InvalidGrant { .. }
            | Self::Refused { .. }
            | Self::TooLong
            | Self::Unusable(_) => false,
        }
    }

    /// Pause before the next try, after `failures` earlier failures in a row.
    pub(crate) fn pause(&self, failures: u32, random: &mut impl Rng) -> Duration {
        let doubled = PAUSE_MIN.saturating_mul(1 << failures.min(16)).min(PAUSE_MAX);
        // A failure that does not pass by itself is retried once a minute: somebody may set the
        // clock or repair the file.
        let pause = if self.is_passing() { doubled } else { PAUSE_MAX };
        random.random_range(pause / 2..=pause)
    }
}

/// Age at which a token is replaced: five minutes before its end, or after three quarters of a
/// short lifetime.
pub(crate) fn replace_after(life: Duration) -> Duration {
    life - (life / 4).min(Duration::from_secs(300))
}

/// Requests an access token once, without a retry.
pub(crate) async fn exchange(
    account: &ServiceAccount,
    world: &World,
    now: UnixMillis,
) -> Result<AccessToken, ExchangeError> {
    let assertion = assertion(account, now)?;
    match tokio::time::timeout(DEADLINE, post(&account.token_endpoint, world, &assertion)).await {
        Ok(answered) => {
            let (status, body) = answered?;
            answer(status, &body)
        }
        Err(_) => Err(ExchangeError::Deadline),
    }
}

#[derive(serde::Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
}

/// Signs the request for a token; takes about 1 ms.
fn assertion(account: &ServiceAccount, now: UnixMillis) -> Result<SecretString, ExchangeError> {
    // The library's errors name the format at fault, never the key's bytes.
    let error = |e: jsonwebtoken::errors::Error| ExchangeError::Sign(e.to_string());
    clarion_runtime::jwt::install();
    let key = EncodingKey::from_rsa_pem(account.private_key_pem.expose_secret().as_bytes())
        .map_err(error)?;
    let kid = Some(account.private_key_id.clone()).filter(|kid| !kid.is_empty());
    let iat = now.0 / 1_000;
    let aud = &account.token_endpoint.uri;
    let claims =
        Claims { iss: &account.client_email, scope: SCOPE, aud, iat, exp: iat + LIFE_SECONDS_MAX };
    let token =
        jsonwebtoken::encode(&Header { kid, ..Header::new(Algorithm::RS256) }, &claims, &key)
            .map_err(error)?;
    Ok(SecretString::from(token))
}

async fn post(
    endpoint: &TokenEndpoint,
    world: &World,
    assertion: &SecretString,
) -> Result<(u16, Bytes), ExchangeError> {
    let trust =
        |e: &dyn std::fmt::Display| ExchangeError::Trust(format!("token_uri or ca_file: {e}"));
    let roots = clarion_runtime::roots::roots(&endpoint.ca_pem).map_err(|e| trust(&e))?;
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .map_err(|e| trust(&e))?
    .with_root_certificates(roots)
    .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(endpoint.host.clone()).map_err(|e| trust(&e))?;

    // The grant type is a URN with escaped colons; an assertion has only characters that a form
    // needs not escape.
    const GRANT_TYPE: &str = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
    let form = format!("grant_type={GRANT_TYPE}&assertion={}", assertion.expose_secret());
    let uri: http::Uri = endpoint.uri.parse().map_err(|e: http::uri::InvalidUri| trust(&e))?;
    let request = http::Request::post(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(http::header::HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(http::header::ACCEPT, "application/json")
        .body(Full::new(Bytes::from(form)))
        .map_err(|e| trust(&e))?;

    let tcp = connect(endpoint, world).await.map_err(ExchangeError::Connect)?;
    let tls = TlsConnector::from(Arc::new(tls))
        .connect(name, tcp)
        .await
        .map_err(ExchangeError::Connect)?;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(ANSWER_BYTES_MAX).handshake(TokioIo::new(tls)).await?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        match Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(e) if e.is::<LengthLimitError>() => Err(ExchangeError::TooLong),
            Err(e) => Err(e
                .downcast::<hyper::Error>()
                .map_or(ExchangeError::TooLong, |e| ExchangeError::Http(*e))),
        }
    };
    let (mut exchange, mut connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
    tokio::select! {
        biased;
        answered = &mut exchange => answered,
        // The endpoint closed the connection: the exchange has the answer, or reports the failure.
        _ = &mut connection => exchange.await,
    }
}

/// Answer of the endpoint; Google may add further members.
#[derive(serde::Deserialize)]
struct Answer {
    access_token: Option<String>,
    expires_in: Option<u64>,
    token_type: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

fn answer(status: u16, body: &[u8]) -> Result<AccessToken, ExchangeError> {
    // The parser's words may show the text that it read, so they are not passed on.
    let parsed = serde_json::from_slice::<Answer>(body);
    if status != 200 {
        let (error, description) =
            parsed.map(|a| (a.error, a.error_description)).unwrap_or_default();
        let error = error.unwrap_or_default();
        let said = [error.as_str(), description.as_deref().unwrap_or_default()].join(" ");
        let words = if said.trim().is_empty() {
            "without a reason in JSON".to_owned()
        } else {
            words(&said)
        };
        return Err(match status {
            400 | 401 if error == "invalid_grant" => ExchangeError::InvalidGrant { status, words },
            408 | 429 | 500.. => ExchangeError::Unavailable { status, words },
            _ => ExchangeError::Refused { status, words },
        });
    }
    let answer =
        parsed.map_err(|_| ExchangeError::Unusable("the body is not JSON, or not of a token"))?;
    if !answer.token_type.is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
        return Err(ExchangeError::Unusable("token_type is not Bearer"));
    }
    let life = match answer.expires_in {
        None | Some(0) => return Err(ExchangeError::Unusable("expires_in is missing or 0")),
        Some(seconds) => Duration::from_secs(seconds.min(LIFE_SECONDS_MAX)),
    };
    let token = SecretString::from(answer.access_token.unwrap_or_default());
    let bytes = token.expose_secret().as_bytes();
    if bytes.is_empty() || bytes.len() > TOKEN_BYTES_MAX || !bytes.iter().all(u8::is_ascii_graphic)
    {
        return Err(ExchangeError::Unusable(
            "access_token is not 1 to 4,096 visible ASCII characters",
        ));
    }
    let authorization = SecretString::from(format!("Bearer {}", token.expose_secret()));
    Ok(AccessToken { token: ProviderToken { authorization, signer: 0 }, life })
}

/// Cuts an endpoint's words to fit a log line.
fn words(said: &str) -> String {
    let mut words = String::new();
    for word in said.split_whitespace() {
        let shown = match word.chars().count() {
            n if n > WORD_MAX => "…".to_owned(),
            _ => word.chars().filter(|c| !c.is_control()).collect(),
        };
        if words.chars().count() + shown.chars().count() >= WORDS_MAX {
            break;
        }
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(&shown);
    }
    words
}

/// Connects to the first address that accepts, with a deadline for each address: the network may
/// drop one family of addresses, and the system's own timeout is longer than [`DEADLINE`].
async fn connect(endpoint: &TokenEndpoint, world: &World) -> io::Result<Stream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    let TokenEndpoint { host, port, .. } = endpoint;
    // A host with colons is an IPv6 address.
    let name =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let addresses = world.resolve(&name).await?;
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
mod tests;
