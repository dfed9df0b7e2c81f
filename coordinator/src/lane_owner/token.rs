//! Provider tokens of APNs: JSON Web Tokens signed with ES256, and when a new one is due.
//!
//! Apple ("Establishing a token-based connection to APNs"): header `alg`, `kid`; claims `iss` (team), `iat` (Unix
//! seconds); refused with 403 `ExpiredProviderToken` when older than an hour; not to be changed more than once in
//! 20 minutes. 45 minutes leave a quarter of an hour for failures to sign and for clocks that differ.

use std::time::Duration;

use clarion_proto::{ids::UnixMillis, time::Time};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use secrecy::{ExposeSecret, SecretString};

use super::{Credential, ProviderToken};

/// The usual age at which a token is replaced.
const REFRESH: Duration = Duration::from_secs(45 * 60);
/// Never two tokens of one credential within this.
const SPACING: Duration = Duration::from_secs(20 * 60);
/// Signing failed: tried again after this. Nothing was issued, so spacing does not apply.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// When one credential's token is to be replaced.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Refresh {
    minted: Option<Time>,
    /// A gateway refused the token.
    refused: bool,
    not_before: Time,
}

impl Refresh {
    /// A new token was issued.
    pub(crate) fn minted(&mut self, now: Time) {
        *self = Self { minted: Some(now), refused: false, not_before: now + SPACING };
    }

    /// No token could be made.
    pub(crate) fn failed(&mut self, now: Time) {
        self.not_before = self.not_before.max(now + AFTER_FAILURE);
    }

    /// A gateway refuses the token. A node may say so just after a new one was issued, of the old one: then one token
    /// more is made 20 minutes later, which does no harm.
    pub(crate) fn refused(&mut self, _now: Time) {
        self.refused = true;
    }

    /// The next time something is to be done.
    pub(crate) fn deadline(&self) -> Time {
        match self.minted {
            Some(minted) if !self.refused => (minted + REFRESH).max(self.not_before),
            _ => self.not_before,
        }
    }

    /// A new token is to be made now.
    pub(crate) fn due(&self, now: Time) -> bool {
        now >= self.deadline()
    }
}

/// A key makes no token. Trying again does not help.
#[derive(Debug, thiserror::Error)]
#[error("the key of credential {credential} signs no ES256 token: {reason}")]
pub(crate) struct MintError {
    credential: String,
    reason: String,
}

/// `bearer …`, signed now. About 100 µs.
pub(crate) fn mint(credential: &Credential, now: UnixMillis) -> Result<ProviderToken, MintError> {
    // The library's errors name the format at fault, never the key's bytes.
    let error =
        |e: jsonwebtoken::errors::Error| MintError { credential: credential.name.clone(), reason: e.to_string() };
    clarion_runtime::jwt::install();
    let key = EncodingKey::from_ec_pem(credential.key_pem.expose_secret().as_bytes()).map_err(error)?;
    // No `typ`: Apple names `alg` and `kid` only.
    let header = Header { typ: None, alg: Algorithm::ES256, kid: Some(credential.key_id.clone()), ..Header::default() };
    let claims = Claims { iss: &credential.team_id, iat: now.0 / 1_000 };
    let token = jsonwebtoken::encode(&header, &claims, &key).map_err(error)?;
    Ok(ProviderToken { authorization: SecretString::from(format!("bearer {token}")) })
}

#[derive(serde::Serialize)]
struct Claims<'a> {
    iss: &'a str,
    iat: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(n: u64) -> Time {
        Time(0) + Duration::from_secs(n * 60)
    }

    #[test]
    fn a_token_is_replaced_at_45_minutes() {
        let mut refresh = Refresh::default();
        assert!(refresh.due(minutes(0)), "there is none yet");
        refresh.minted(minutes(0));
        assert!(!refresh.due(minutes(44)));
        assert!(refresh.due(minutes(45)));
    }

    #[test]
    fn a_refused_token_is_replaced_early_but_not_within_20_minutes() {
        let mut refresh = Refresh::default();
        refresh.minted(minutes(0));
        refresh.refused(minutes(3));
        assert_eq!(refresh.deadline(), minutes(20));
        assert!(!refresh.due(minutes(19)));
        assert!(refresh.due(minutes(20)));
    }

    #[test]
    fn a_refusal_after_20_minutes_is_answered_at_once() {
        let mut refresh = Refresh::default();
        refresh.minted(minutes(0));
        refresh.refused(minutes(30));
        assert!(refresh.due(minutes(30)));
    }

    #[test]
    fn refusals_without_end_make_three_tokens_an_hour() {
        let mut refresh = Refresh::default();
        let mut made = 0;
        for second in 0..3_600 {
            let now = Time(0) + Duration::from_secs(second);
            if refresh.due(now) {
                refresh.minted(now);
                made += 1;
            }
            refresh.refused(now);
        }
        assert_eq!(made, 3);
    }

    #[test]
    fn a_failure_to_sign_is_tried_again_after_a_minute() {
        let mut refresh = Refresh::default();
        refresh.minted(minutes(0));
        refresh.failed(minutes(45));
        assert_eq!(refresh.deadline(), minutes(46));
    }

    #[test]
    fn a_key_that_is_none_is_an_error_that_does_not_tell_it() {
        let credential = Credential {
            name: "main".to_owned(),
            key_id: "ABCDE12345".to_owned(),
            team_id: "TEAM123456".to_owned(),
            key_pem: SecretString::from(
                "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n".to_owned(),
            ),
        };
        let error = mint(&credential, UnixMillis(0)).expect_err("no key").to_string();
        assert!(error.contains("main") && !error.contains("c2VjcmV0") && !error.contains("secret"), "{error}");
    }
}
