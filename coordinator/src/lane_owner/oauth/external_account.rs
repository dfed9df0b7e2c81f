//! Tokens for an identity of another provider: workload identity federation.
//!
//! ```text
//! subject token (file or URL) ──▶ Security Token Service ──▶ access token of the identity
//!                                                              │ with impersonation
//!                                                              ▼
//!                                        generateAccessToken ──▶ access token of a service account
//! ```
//!
//! Google ("Workload identity federation", AIP-4117; RFC 8693): the exchange is a form with
//! `audience`, `subject_token` and its type; the answer is that of a token endpoint.
//! `generateAccessToken` takes JSON (`scope`, `lifetime`) and answers `{accessToken, expireTime}`.

use std::{str::FromStr, time::Duration};

use bytes::Bytes;
use clarion_proto::ids::UnixMillis;
use clarion_runtime::{offload::offload, proxy::Route, world::World};
use http::{Method, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use prost_types::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::{
    AccessToken, ExchangeError, SCOPE, access_token, client,
    client::{Answered, request},
    granted, refusal,
};
use crate::lane_owner::{Endpoint, ExternalAccount, SubjectSource};

/// Longest subject token, bytes. Tokens of providers have 1 to 4 KB.
const SUBJECT_BYTES_MAX: usize = 16 * 1_024;
/// Scope of a token that may impersonate a service account.
const IMPERSONATION_SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Requests an access token in all steps.
pub(super) async fn exchange(
    account: &ExternalAccount,
    route: &Route,
    world: &World,
    now: UnixMillis,
) -> Result<AccessToken, ExchangeError> {
    let subject = subject_token(account, route, world).await?;
    let scope = if account.impersonation.is_some() { IMPERSONATION_SCOPE } else { SCOPE };
    let form = form(&[
        ("audience", &account.audience),
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("scope", scope),
        ("subject_token", subject.expose_secret()),
        ("subject_token_type", &account.subject_token_type),
    ]);
    let endpoint = &account.token_endpoint;
    let asked = request(Method::POST, endpoint)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(form.into());
    let answered = client::send(endpoint, route, world, asked).await;
    let token = answered.and_then(|answered| granted(&answered));
    let token = token.map_err(|error| step("token exchange", endpoint, error))?;
    let Some(endpoint) = &account.impersonation else { return Ok(token) };
    let asked = request(Method::POST, endpoint)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::AUTHORIZATION, token.token.authorization.expose_secret())
        .body(
            serde_json::json!({
                "delegates": [],
                "scope": [SCOPE],
                "lifetime": format!("{}s", account.lifetime_seconds),
            })
            .to_string()
            .into(),
        );
    let answered = client::send(endpoint, route, world, asked).await;
    let token = answered.and_then(|answered| impersonated(&answered, now));
    token.map_err(|error| step("impersonation", endpoint, error))
}

/// Reads the subject token, which the provider replaces before it expires.
async fn subject_token(
    account: &ExternalAccount,
    route: &Route,
    world: &World,
) -> Result<SecretString, ExchangeError> {
    let (text, place) = match &account.subject {
        SubjectSource::File(path) => {
            let (path, place) = (path.clone(), path.display().to_string());
            let read = offload(move || std::fs::read_to_string(path)).await;
            let text = read
                .map_err(|e| e.to_string())
                .and_then(|read| read.map_err(|e| format!("in {place} cannot be read: {e}")));
            (SecretString::from(text.map_err(ExchangeError::Subject)?), format!("in {place}"))
        }
        SubjectSource::Url(endpoint, headers) => {
            let mut asked = request(Method::GET, endpoint);
            for (name, value) in &headers.0 {
                asked = asked.header(name, value);
            }
            let answered = client::send(endpoint, route, world, asked.body(Bytes::new().into()));
            let failed = |error| step("subject token", endpoint, error);
            let answered = answered.await.map_err(failed)?;
            if answered.status != 200 {
                return Err(failed(refusal(&answered)));
            }
            let place = format!("of {}", endpoint.host);
            let text = String::from_utf8(answered.body.to_vec())
                .map_err(|_| ExchangeError::Subject(format!("{place} must be UTF-8")))?;
            (SecretString::from(text), place)
        }
    };
    let wrong = |problem: String| ExchangeError::Subject(format!("{place} {problem}"));
    let token = match &account.subject_field {
        None => text.expose_secret().trim().to_owned(),
        Some(field) => {
            // The parser's words may show the text that it read.
            let json: serde_json::Value =
                serde_json::from_str(text.expose_secret()).map_err(|_| {
                    wrong("must be in JSON, as credential_source.format says".to_owned())
                })?;
            let token = json.get(field).and_then(serde_json::Value::as_str);
            token.ok_or_else(|| wrong(format!("must be text in the member {field:?}")))?.to_owned()
        }
    };
    if token.is_empty() || token.len() > SUBJECT_BYTES_MAX {
        let bytes = token.len();
        return Err(wrong(format!("must be 1 to {SUBJECT_BYTES_MAX} bytes; got {bytes} bytes")));
    }
    Ok(SecretString::from(token))
}

/// Answer of `generateAccessToken`.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Generated {
    access_token: String,
    expire_time: String,
}

fn impersonated(answered: &Answered, now: UnixMillis) -> Result<AccessToken, ExchangeError> {
    if answered.status != 200 {
        return Err(refusal(answered));
    }
    let generated: Generated = serde_json::from_slice(&answered.body)
        .map_err(|_| ExchangeError::Unusable("the body is not JSON, or not of a token"))?;
    let expires = Timestamp::from_str(&generated.expire_time)
        .map_err(|_| ExchangeError::Unusable("expireTime is no time of RFC 3339"))?;
    let seconds = u64::try_from(expires.seconds).unwrap_or(0).saturating_sub(now.0 / 1_000);
    if seconds == 0 {
        return Err(ExchangeError::Unusable("expireTime is over; is this machine's clock wrong?"));
    }
    access_token(generated.access_token, Duration::from_secs(seconds))
}

fn step(step: &'static str, endpoint: &Endpoint, error: ExchangeError) -> ExchangeError {
    ExchangeError::Step { step, host: endpoint.host.clone(), error: Box::new(error) }
}

/// Encodes a form (`application/x-www-form-urlencoded`).
fn form(fields: &[(&str, &str)]) -> String {
    let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let pairs = fields.iter().map(|(name, value)| format!("{name}={}", encoded(value)));
    pairs.collect::<Vec<_>>().join("&")
}
