//! Provider tokens of APNs: JSON Web Tokens signed with ES256.
//!
//! Apple ("Establishing a token-based connection to APNs"): header `alg`, `kid`; claims `iss`
//! (team), `iat` (Unix seconds); refused with 403 `ExpiredProviderToken` when older than an hour;
//! not to be changed more than once in 20 minutes.
//!
//! **A key has one token for each [`SLOT`] of wall time**: `iat` is the slot's beginning, and the
//! signature is made without chance (`clarion_runtime::jwt`). So a coordinator that starts again,
//! or a second one beside it, makes the token that is in use already; without that, two restarts
//! were two changes within 20 minutes, which APNs answers with 429 `TooManyProviderTokenUpdates`.
//! Slots of 24 minutes keep 4 minutes from Apple's limit. A token is at most 24 minutes old when it
//! is replaced, which leaves half an hour for clocks that differ and lets nodes go on with the
//! former token for ten minutes until the new one has been accepted.
//!
//! A token that is called expired before its time is not replaced before its time either: Apple's
//! rule has no exception, and senders who broke it got 429 for hours
//! (developer.apple.com/forums/thread/702056). So at most `60 / 24` tokens of a key in an hour,
//! whatever gateways say; nodes meanwhile try the same one again, as the fault is often the
//! gateway's and passes (the shard's `lane/trust`).

use std::time::Duration;

use clarion_proto::ids::UnixMillis;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use secrecy::{ExposeSecret, SecretString};

use super::{ApnsKey, token::Rules};
use crate::lane::ProviderToken;

/// Wall time in which a key has one token; slots begin at whole multiples since 1970.
pub(crate) const SLOT: Duration = Duration::from_mins(24);
/// Within a slot there is no other token to be had.
pub(crate) const RULES: Rules = Rules { spacing: SLOT };
/// The next token is made so long after its slot has begun: timers and the wall clock differ by
/// less.
const MARGIN: Duration = Duration::from_secs(1);
/// Signing failed: tried again after this. Nothing was issued, so spacing does not apply.
pub(crate) const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// A key makes no token. Trying again does not help.
#[derive(Debug, thiserror::Error)]
#[error("the key of credential {credential} signs no ES256 token: {reason}")]
pub(crate) struct MintError {
    credential: String,
    reason: String,
}

/// How long until the next slot's token is to be made.
#[allow(clippy::cast_possible_truncation)] // a slot has far fewer than 2^64 milliseconds
pub(crate) fn replace_after(now: UnixMillis) -> Duration {
    let slot = SLOT.as_millis() as u64;
    Duration::from_millis(slot - now.0 % slot) + MARGIN
}

/// `bearer …`, the token of this slot: the same whenever in it, and by whichever process. About 300
/// µs.
pub(crate) fn mint(key: &ApnsKey, now: UnixMillis) -> Result<ProviderToken, MintError> {
    // The library's errors name the format at fault, never the key's bytes.
    let error = |e: jsonwebtoken::errors::Error| MintError {
        credential: key.name.clone(),
        reason: e.to_string(),
    };
    clarion_runtime::jwt::install();
    let key_of_ours =
        EncodingKey::from_ec_pem(key.key_pem.expose_secret().as_bytes()).map_err(error)?;
    // No `typ`: Apple names `alg` and `kid` only.
    let header = Header {
        typ: None,
        alg: Algorithm::ES256,
        kid: Some(key.key_id.clone()),
        ..Header::default()
    };
    let seconds = now.0 / 1_000;
    let claims = Claims { iss: &key.team_id, iat: seconds - seconds % SLOT.as_secs() };
    let token = jsonwebtoken::encode(&header, &claims, &key_of_ours).map_err(error)?;
    Ok(ProviderToken {
        authorization: SecretString::from(format!("bearer {token}")),
        signer: signer(key),
    })
}

/// Apple's names of team and key, hashed: the same in every process, and another with every new
/// key.
fn signer(key: &ApnsKey) -> u64 {
    xxhash_rust::xxh3::xxh3_64(format!("{}/{}", key.team_id, key.key_id).as_bytes())
}

#[derive(serde::Serialize)]
struct Claims<'a> {
    iss: &'a str,
    iat: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_none_is_an_error_that_does_not_tell_it() {
        let key = ApnsKey {
            name: "main".to_owned(),
            key_id: "ABCDE12345".to_owned(),
            team_id: "TEAM123456".to_owned(),
            key_pem: SecretString::from(
                "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n".to_owned(),
            ),
        };
        let error = mint(&key, UnixMillis(0)).expect_err("no key").to_string();
        assert!(
            error.contains("main") && !error.contains("c2VjcmV0") && !error.contains("secret"),
            "{error}"
        );
    }
}
