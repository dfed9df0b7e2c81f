//! The metadata server of a machine on Google Cloud: a token of the machine's service account for
//! whoever reaches the server from inside the machine.
//!
//! The header `Metadata-Flavor: Google` shows that no browser was tricked into the request; a
//! request that was forwarded is refused. Every answer has the same header.

use clarion_proto::ids::UnixMillis;
use http::{HeaderMap, Method};
use serde_json::{Value, json};

use super::super::fcm::{Policy, access::Access};

/// Name and value of the header of every request and every answer.
pub const FLAVOR: (&str, &str) = ("metadata-flavor", "Google");
/// Path of the token of the default service account.
pub const TOKEN_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";

/// Returns status and body of the answer to a request.
#[must_use]
pub fn answered(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    policy: &Policy,
    wall: UnixMillis,
) -> (u16, Value) {
    let refused = |status: u16, words: &str| (status, json!({ "error": words }));
    if headers.get(FLAVOR.0).is_none_or(|value| value != FLAVOR.1) {
        return refused(403, "Missing required header: Metadata-Flavor");
    }
    if headers.contains_key("x-forwarded-for") {
        return refused(403, "Request was forwarded");
    }
    let Some(account) = policy.machine_account.filter(|_| path == TOKEN_PATH) else {
        return refused(404, "Not Found");
    };
    if method != Method::GET {
        return refused(405, "Method Not Allowed");
    }
    let seconds = policy.access_token.as_secs();
    let expires = UnixMillis(wall.0.saturating_add(seconds.saturating_mul(1_000)));
    match policy.issuer.issue(Access { account, expires }) {
        Ok(token) => {
            let token =
                json!({ "access_token": token, "expires_in": seconds, "token_type": "Bearer" });
            (200, token)
        }
        Err(error) => refused(500, &error.to_string()),
    }
}
