//! Tokens of a service account with a private key: a signed request to the token endpoint.
//!
//! Google ("Using OAuth 2.0 for server to server applications", HTTP/REST; RFC 7523): a JSON Web
//! Token signed with RS256 (`iss` the account, `scope`, `aud` the endpoint, `iat`, `exp` at most an
//! hour later) is posted as a form and answered by `{access_token, expires_in, token_type}`, or by
//! 400 and `{error, error_description}`.

use clarion_proto::ids::UnixMillis;
use clarion_runtime::{proxy::Route, world::World};
use http::{Method, header};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use secrecy::{ExposeSecret, SecretString};

use super::{AccessToken, ExchangeError, LIFE_SECONDS_MAX, SCOPE, client, granted};
use crate::lane_owner::ServiceAccount;

/// Grant type of an assertion as a form has it: a URN with escaped colons.
const GRANT_TYPE: &str = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";

#[derive(serde::Serialize)]
struct Claims<'a> {
    iss: &'a str,
    scope: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
}

/// Requests an access token.
pub(super) async fn exchange(
    account: &ServiceAccount,
    route: &Route,
    world: &World,
    now: UnixMillis,
) -> Result<AccessToken, ExchangeError> {
    let assertion = assertion(account, now)?;
    // An assertion has only characters that a form needs not escape.
    let form = format!("grant_type={GRANT_TYPE}&assertion={}", assertion.expose_secret());
    let endpoint = &account.token_endpoint;
    let request = client::request(Method::POST, endpoint)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(form.into());
    granted(&client::send(endpoint, route, world, request).await?)
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
