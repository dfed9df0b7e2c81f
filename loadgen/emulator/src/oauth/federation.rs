//! Workload identity federation: the exchange of a subject token (RFC 8693, Google's Security Token
//! Service), and the impersonation of a service account (`generateAccessToken` of Google's IAM
//! Service Account Credentials API).
//!
//! The token of the exchange cannot send: it belongs to no service account.

use clarion_proto::ids::UnixMillis;
use prost_types::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::fcm::{Policy, access::Access},
    assertion::{Refusal, SCOPES},
    form,
};

/// Path of the exchange.
pub const EXCHANGE_PATH: &str = "/v1/token";
/// Beginning and end of the path of an impersonation, around the account's e-mail address.
const IMPERSONATION: (&str, &str) = ("/v1/projects/-/serviceAccounts/", ":generateAccessToken");
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";
/// First number of identities among accounts in tokens: service accounts have lower ones.
const FEDERATED: usize = 1 << 31;
/// Longest lifetime of an impersonated account's token, seconds.
const LIFETIME_SECONDS_MAX: u64 = 3_600;

/// Returns the response to the form of an exchange.
///
/// # Errors
/// The refusal that Google returns.
pub fn exchanged(form: &[u8], policy: &Policy, wall: UnixMillis) -> Result<Value, Refusal> {
    let field = |name: &'static str| {
        let missing = || Refusal::new("invalid_request", format!("Missing {name} parameter."));
        form::values(form, name).next().filter(|value| !value.is_empty()).ok_or_else(missing)
    };
    let invalid =
        |name: &str| Refusal::new("invalid_request", format!("Invalid value for \"{name}\"."));
    if field("grant_type")? != GRANT_TYPE {
        return Err(Refusal::new("unsupported_grant_type", "Invalid grant_type."));
    }
    if field("requested_token_type")? != ACCESS_TOKEN_TYPE {
        return Err(invalid("requested_token_type"));
    }
    let audience = field("audience")?;
    let number = policy.identities.iter().position(|identity| identity.audience == audience);
    let number = number.ok_or_else(|| invalid("audience"))?;
    let identity = &policy.identities[number];
    if field("subject_token_type")? != identity.subject_token_type {
        return Err(invalid("subject_token_type"));
    }
    if field("scope")?.split(' ').all(|scope| !SCOPES.contains(&scope)) {
        return Err(Refusal::new("invalid_scope", "Invalid OAuth scope."));
    }
    if field("subject_token")? != identity.subject_token {
        return Err(Refusal::new("invalid_grant", "The subject token is not valid."));
    }
    if identity.expires.is_some_and(|expires| expires <= wall) {
        return Err(Refusal::new("invalid_grant", "The subject token has expired."));
    }
    let seconds = policy.access_token.as_secs();
    let token = issued(policy, FEDERATED + number, seconds, wall)?;
    Ok(json!({
        "access_token": token,
        "issued_token_type": ACCESS_TOKEN_TYPE,
        "token_type": "Bearer",
        "expires_in": seconds,
    }))
}

/// E-mail address in the path of an impersonation; `None`: another path.
#[must_use]
pub fn impersonated(path: &str) -> Option<&str> {
    path.strip_prefix(IMPERSONATION.0)?.strip_suffix(IMPERSONATION.1)
}

/// Body of an impersonation.
#[derive(Deserialize)]
struct Asked {
    scope: Vec<String>,
    #[serde(default)]
    lifetime: Option<String>,
}

/// Returns the response to an impersonation of the account with this e-mail address.
///
/// # Errors
/// HTTP status and JSON body of the refusal that Google returns.
pub fn generated(
    email: &str,
    authorization: Option<&[u8]>,
    body: &[u8],
    policy: &Policy,
    wall: UnixMillis,
) -> Result<Value, (u16, Value)> {
    let token = authorization.and_then(|value| value.strip_prefix(b"Bearer "));
    let access = token.and_then(|token| policy.issuer.read(token));
    let identity = access
        .filter(|access| access.expires > wall)
        .and_then(|access| policy.identities.get(access.account.checked_sub(FEDERATED)?))
        .ok_or_else(|| {
            refused(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        })?;
    if policy.accounts.get(identity.account).is_none_or(|a| a.client_email != email) {
        return Err(refused(
            403,
            "PERMISSION_DENIED",
            "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not \
             exist).",
        ));
    }
    let invalid = |what: &str| refused(400, "INVALID_ARGUMENT", what);
    let asked: Asked =
        serde_json::from_slice(body).map_err(|_| invalid("Invalid JSON payload received."))?;
    if asked.scope.iter().all(|scope| !SCOPES.contains(&scope.as_str())) {
        return Err(invalid("Invalid scope."));
    }
    let seconds = match asked.lifetime {
        None => Some(LIFETIME_SECONDS_MAX),
        Some(text) => text.strip_suffix('s').and_then(|seconds| seconds.parse().ok()),
    };
    let seconds = seconds
        .filter(|seconds| (1..=LIFETIME_SECONDS_MAX).contains(seconds))
        .ok_or_else(|| invalid("The token lifetime is invalid or over the limit of 3600s."))?;
    let token = issued(policy, identity.account, seconds, wall)
        .map_err(|refusal| refused(500, "INTERNAL", &refusal.description))?;
    let expires = Timestamp {
        seconds: i64::try_from(wall.0 / 1_000 + seconds).unwrap_or(i64::MAX),
        nanos: 0,
    };
    Ok(json!({ "accessToken": token, "expireTime": expires.to_string() }))
}

fn issued(
    policy: &Policy,
    account: usize,
    seconds: u64,
    wall: UnixMillis,
) -> Result<String, Refusal> {
    let expires = UnixMillis(wall.0.saturating_add(seconds.saturating_mul(1_000)));
    let issued = policy.issuer.issue(Access { account, expires });
    issued.map_err(|e| Refusal::new("internal_failure", e.to_string()))
}

fn refused(code: u16, status: &str, message: &str) -> (u16, Value) {
    (code, json!({ "error": { "code": code, "message": message, "status": status } }))
}
