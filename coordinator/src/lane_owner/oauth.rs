//! Access tokens of FCM, which Google's endpoints issue for an hour.
//!
//! | Source | How a token is requested | Module |
//! |---|---|---|
//! | service account with a key file | signed request to the token endpoint | [`service_account`] |
//! | metadata server of the machine | GET in plaintext, inside the network | [`metadata`] |
//! | external account | exchange of a subject token, then impersonation | [`external_account`] |
//!
//! A token is requested once an hour, so each request opens a connection and closes it afterwards
//! ([`client`]). One deadline covers the whole exchange, the answers' sizes are limited, and
//! redirects are not followed. Nothing else waits for the exchange: see `dispatch/lanes.rs`.
//!
//! The log gets the endpoint's words about a failure. They are untrusted: they are cut, and long
//! words are omitted, because an endpoint may repeat the secret that it was sent.

use std::time::Duration;

use clarion_proto::ids::UnixMillis;
use clarion_runtime::{proxy::tunnel::TunnelError, world::World};
use rand::{Rng, RngExt};
use secrecy::{ExposeSecret, SecretString};

use self::client::Answered;
use super::{GoogleAccount, TokenSource, token::Rules};
use crate::lane::ProviderToken;

mod client;
mod external_account;
mod metadata;
mod service_account;

/// OAuth scope of the token: sending messages only.
pub(crate) const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
/// Rules of FCM tokens: refusals replace a token at most once a minute.
pub(crate) const RULES: Rules = Rules { spacing: Duration::from_secs(60) };
/// Longest lifetime of a request and of a token, seconds; Google's limit for `exp`.
const LIFE_SECONDS_MAX: u64 = 3_600;
/// Deadline of an exchange: name resolution, TCP, TLS, request and answer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
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
    /// A URI or `ca_file` is unusable: the operator's fault.
    #[error("{0}")]
    Trust(String),
    /// The subject token cannot be read: the fault of the operator, or of whatever keeps it fresh.
    #[error("the subject token {0}")]
    Subject(String),
    /// Something other than a metadata server answered; its token would be a stranger's.
    #[error(
        "HTTP {status} without `Metadata-Flavor: Google`: this is no metadata server; on machines \
         outside Google Cloud, set GOOGLE_APPLICATION_CREDENTIALS or credentials_file"
    )]
    NoMetadataServer { status: u16 },
    /// The proxy opened no tunnel.
    #[error(transparent)]
    Proxy(TunnelError),
    /// One of several steps failed.
    #[error("{step} at {host}: {error}")]
    Step { step: &'static str, host: String, error: Box<ExchangeError> },
    /// No connection; a retry helps.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// The connection broke during the exchange; a retry helps.
    #[error("the connection broke: {0}")]
    Http(hyper::Error),
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
            Self::Proxy(error) => error.is_passing(),
            Self::Step { error, .. } => error.is_passing(),
            Self::Sign(_)
            | Self::Subject(_)
            | Self::NoMetadataServer { .. }
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

/// Age at which a token is replaced: five minutes before its end, or at half of a short lifetime.
/// Nodes use the former token for a while longer.
pub(crate) fn replace_after(life: Duration) -> Duration {
    life - (life / 2).min(Duration::from_secs(300))
}

/// Requests an access token once, without a retry.
pub(crate) async fn exchange(
    account: &GoogleAccount,
    world: &World,
    now: UnixMillis,
) -> Result<AccessToken, ExchangeError> {
    let route = &account.route;
    let exchange = async {
        match &account.source {
            TokenSource::ServiceAccount(account) => {
                service_account::exchange(account, route, world, now).await
            }
            TokenSource::Metadata(server) => metadata::exchange(server, world).await,
            TokenSource::ExternalAccount(account) => {
                external_account::exchange(account, route, world, now).await
            }
        }
    };
    tokio::time::timeout(DEADLINE, exchange).await.map_err(|_| ExchangeError::Deadline)?
}

/// Answer of the endpoint; Google may add further members.
#[derive(serde::Deserialize)]
struct Answer {
    access_token: Option<String>,
    expires_in: Option<u64>,
    token_type: Option<String>,
}

/// Refusal of an endpoint: of OAuth (RFC 6749, section 5.2), or of Google's other APIs.
#[derive(Default, serde::Deserialize)]
struct Refused {
    error: Option<Reason>,
    error_description: Option<String>,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Reason {
    Code(String),
    Status { status: Option<String>, message: Option<String> },
}

/// Takes the token out of an endpoint's answer (RFC 6749, section 5).
fn granted(answered: &Answered) -> Result<AccessToken, ExchangeError> {
    if answered.status != 200 {
        return Err(refusal(answered));
    }
    // The parser's words may show the text that it read, so they are not passed on.
    let answer: Answer = serde_json::from_slice(&answered.body)
        .map_err(|_| ExchangeError::Unusable("the body is not JSON, or not of a token"))?;
    if !answer.token_type.is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
        return Err(ExchangeError::Unusable("token_type is not Bearer"));
    }
    let life = match answer.expires_in {
        None | Some(0) => return Err(ExchangeError::Unusable("expires_in is missing or 0")),
        Some(seconds) => Duration::from_secs(seconds),
    };
    access_token(answer.access_token.unwrap_or_default(), life)
}

/// Checks a token, which goes into a header of every request.
fn access_token(token: String, life: Duration) -> Result<AccessToken, ExchangeError> {
    let token = SecretString::from(token);
    let bytes = token.expose_secret().as_bytes();
    if bytes.is_empty() || bytes.len() > TOKEN_BYTES_MAX || !bytes.iter().all(u8::is_ascii_graphic)
    {
        return Err(ExchangeError::Unusable(
            "access_token is not 1 to 4,096 visible ASCII characters",
        ));
    }
    let authorization = SecretString::from(format!("Bearer {}", token.expose_secret()));
    let life = life.min(Duration::from_secs(LIFE_SECONDS_MAX));
    Ok(AccessToken { token: ProviderToken { authorization, signer: 0 }, life })
}

/// The error of an answer other than 200.
fn refusal(answered: &Answered) -> ExchangeError {
    let status = answered.status;
    let refused = serde_json::from_slice::<Refused>(&answered.body).unwrap_or_default();
    let error = match &refused.error {
        Some(Reason::Code(code)) => code.clone(),
        Some(Reason::Status { status, message }) => {
            [status.as_deref(), message.as_deref()].map(Option::unwrap_or_default).join(" ")
        }
        None => String::new(),
    };
    let said = [error.as_str(), refused.error_description.as_deref().unwrap_or_default()].join(" ");
    let words = match said.trim() {
        "" => "without a reason in JSON".to_owned(),
        said => words(said),
    };
    match status {
        400 | 401 if error == "invalid_grant" => ExchangeError::InvalidGrant { status, words },
        408 | 429 | 500.. => ExchangeError::Unavailable { status, words },
        _ => ExchangeError::Refused { status, words },
    }
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

#[cfg(test)]
mod tests;
