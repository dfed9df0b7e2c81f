//! Provider tokens of APNs: JSON Web Tokens signed with ES256.
//!
//! Apple ("Establishing a token-based connection to APNs"): header `alg`, `kid`; claims `iss`
//! (team), `iat` (Unix seconds); refused with 403 `ExpiredProviderToken` when older than an hour;
//! not to be changed more than once in 20 minutes.
//!
//! **A key has one token for each [`SLOT`] of wall time**: `iat` is the slot's beginning, and the
//! signature is deterministic (`clarion_runtime::jwt`). So a restarted coordinator, or a second
//! coordinator, makes the token that is already in use. Otherwise two restarts would be two changes
//! within 20 minutes, which APNs answers with 429 `TooManyProviderTokenUpdates`. Slots of 24
//! minutes keep 4 minutes from Apple's limit. A token is 24 minutes old when it is replaced, which
//! leaves half an hour for clocks that differ, and lets nodes use the former token for ten minutes
//! until APNs has accepted the new token. [`super::mints`] keeps 20 minutes between any two tokens,
//! over restarts, too; a first token may be 48 minutes old when it is replaced.
//!
//! If APNs calls a token expired within its slot, the token is not replaced before the slot ends:
//! Apple's rule has no exception, and senders who broke it got 429 for hours
//! (developer.apple.com/forums/thread/702056). So a key makes at most `60 / 24` tokens in an hour,
//! whatever gateways answer. Meanwhile nodes retry with the same token, because the fault is often
//! the gateway's and passes (the shard's `lane/trust`).

use std::time::Duration;

use clarion_proto::ids::UnixMillis;
use data_encoding::HEXLOWER;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ring::{
    digest::{self, SHA256},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use secrecy::{ExposeSecret, SecretString};

use super::{ApnsKey, mints, token::Rules};
use crate::lane::ProviderToken;

/// Wall time for which a key has one token; slots begin at whole multiples since 1970.
pub(crate) const SLOT: Duration = Duration::from_mins(24);
/// Rules of APNs tokens: a slot has only one token, so no token is replaced within it.
pub(crate) const RULES: Rules = Rules { spacing: SLOT };
/// Delay of the next token after the beginning of its slot: timers and the wall clock differ by
/// less.
pub(super) const MARGIN: Duration = Duration::from_secs(1);
/// Pause after a failure to sign. No token was issued, so the spacing does not apply.
pub(crate) const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// Reason why a key signs no token; a retry does not help.
#[derive(Debug, thiserror::Error)]
#[error("the key of credential {credential} signs no ES256 token: {reason}")]
pub(crate) struct MintError {
    credential: String,
    reason: String,
}

#[allow(clippy::cast_possible_truncation)] // a slot has far fewer than 2^64 milliseconds
const SLOT_MILLIS: u64 = SLOT.as_millis() as u64;

/// Beginning of the slot of this time.
pub(crate) fn slot(now: UnixMillis) -> UnixMillis {
    UnixMillis(now.0 - now.0 % SLOT_MILLIS)
}

/// Time until the next slot begins.
pub(crate) fn rest_of_slot(now: UnixMillis) -> Duration {
    Duration::from_millis(SLOT_MILLIS - now.0 % SLOT_MILLIS)
}

/// Name of the record of a key: a hash of its public key and of Apple's names. Public keys of APNs
/// are not published, so the name cannot be guessed from Apple's names alone.
///
/// # Errors
/// The key signs no ES256 token.
pub(super) fn record(key: &ApnsKey) -> Result<String, MintError> {
    let encoding = encoding_key(key)?;
    let format = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let pair = EcdsaKeyPair::from_pkcs8(format, encoding.as_bytes(), &SystemRandom::new());
    let pair =
        pair.map_err(|e| MintError { credential: key.name.clone(), reason: e.to_string() })?;
    let mut hash = digest::Context::new(&SHA256);
    hash.update(pair.public_key().as_ref());
    hash.update(format!("{}/{}", key.team_id, key.key_id).as_bytes());
    Ok(format!("{}{}", mints::PREFIX, HEXLOWER.encode(hash.finish().as_ref())))
}

/// Makes the token of the slot that begins then, as `bearer …`: the same in any process. Takes
/// about 300 µs.
pub(super) fn token(key: &ApnsKey, slot: UnixMillis) -> Result<ProviderToken, MintError> {
    clarion_runtime::jwt::install();
    let encoding = encoding_key(key)?;
    // No `typ`: Apple specifies only `alg` and `kid`.
    let header = Header {
        typ: None,
        alg: Algorithm::ES256,
        kid: Some(key.key_id.clone()),
        ..Header::default()
    };
    let claims = Claims { iss: &key.team_id, iat: slot.0 / 1_000 };
    let token = jsonwebtoken::encode(&header, &claims, &encoding).map_err(error(key))?;
    Ok(ProviderToken {
        authorization: SecretString::from(format!("bearer {token}")),
        signer: signer(key),
    })
}

fn encoding_key(key: &ApnsKey) -> Result<EncodingKey, MintError> {
    EncodingKey::from_ec_pem(key.key_pem.expose_secret().as_bytes()).map_err(error(key))
}

/// The library's errors name the format at fault, never the key's bytes.
fn error(key: &ApnsKey) -> impl Fn(jsonwebtoken::errors::Error) -> MintError {
    |e| MintError { credential: key.name.clone(), reason: e.to_string() }
}

/// Hash of Apple's names of team and key: the same in every process, different for each key.
pub(super) fn signer(key: &ApnsKey) -> u64 {
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
        let error = token(&key, UnixMillis(0)).expect_err("no key").to_string();
        assert!(
            error.contains("main") && !error.contains("c2VjcmV0") && !error.contains("secret"),
            "{error}"
        );
    }
}
