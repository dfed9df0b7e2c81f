//! Access tokens: issued by the OAuth endpoint, checked by the push service.
//!
//! Google's tokens are opaque: `ya29.c.`, some four hundred characters, and dots up to 1,024
//! characters, which clients must send with every request. The tokens here look the same. They
//! contain the account and the expiry time under a keyed hash, so both services recognize all
//! tokens without a table that could grow.

use clarion_proto::ids::UnixMillis;
use data_encoding::BASE64URL_NOPAD;
use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};

/// Number of characters of a token, as in tokens of Google's service accounts.
pub const TOKEN_BYTES: usize = 1_024;
const PREFIX: &str = "ya29.c.";
/// Bytes of a token's content: account (4), expiry (8) and nonce (240), which fill the token as
/// Google's are filled.
const CLAIM_BYTES: usize = 252;
const TAG_BYTES: usize = 32;

/// Account and expiry of an access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Index of the service account.
    pub account: usize,
    /// Expiry time, milliseconds since 1970.
    pub expires: UnixMillis,
}

/// Issuer that creates access tokens and checks them.
#[derive(Debug, Clone)]
pub struct Issuer {
    key: hmac::Key,
}

/// Error for a system that returns no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system returned no random bytes")]
pub struct NoRandomness;

impl Issuer {
    /// Creates an issuer with a new random key. Tokens of another issuer are invalid.
    ///
    /// # Errors
    /// If the system returns no random bytes.
    pub fn new() -> Result<Self, NoRandomness> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| NoRandomness)?;
        Ok(Self { key })
    }

    /// Creates a token; each call returns another one.
    ///
    /// # Errors
    /// If the system returns no random bytes.
    pub fn issue(&self, access: Access) -> Result<String, NoRandomness> {
        let mut bytes = [0; CLAIM_BYTES];
        bytes[..4]
            .copy_from_slice(&u32::try_from(access.account).unwrap_or(u32::MAX).to_be_bytes());
        bytes[4..12].copy_from_slice(&access.expires.0.to_be_bytes());
        SystemRandom::new().fill(&mut bytes[12..]).map_err(|_| NoRandomness)?;
        let tag = hmac::sign(&self.key, &bytes);
        let encoded = BASE64URL_NOPAD.encode(&[&bytes, tag.as_ref()].concat());
        Ok(format!("{:.<TOKEN_BYTES$}", format!("{PREFIX}{encoded}")))
    }

    /// Returns the content of a token that this issuer created, or `None`. The caller checks the
    /// expiry.
    #[must_use]
    pub fn read(&self, token: &[u8]) -> Option<Access> {
        let encoded =
            token.strip_prefix(PREFIX.as_bytes()).filter(|_| token.len() == TOKEN_BYTES)?;
        let end = encoded.iter().position(|&b| b == b'.').unwrap_or(encoded.len());
        let bytes = BASE64URL_NOPAD.decode(&encoded[..end]).ok()?;
        let (claim, tag) =
            bytes.split_at_checked(CLAIM_BYTES).filter(|(_, tag)| tag.len() == TAG_BYTES)?;
        hmac::verify(&self.key, claim, tag).ok()?;
        let (account, rest) = claim.split_first_chunk::<4>()?;
        let expires = UnixMillis(u64::from_be_bytes(*rest.first_chunk()?));
        Some(Access { account: usize::try_from(u32::from_be_bytes(*account)).ok()?, expires })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_again_and_no_other() {
        let issuer = Issuer::new().expect("randomness");
        let access = Access { account: 3, expires: UnixMillis(1_800_000_000_000) };
        let token = issuer.issue(access).expect("randomness");
        assert_eq!(token.len(), TOKEN_BYTES);
        assert!(token.starts_with("ya29.c.") && token.ends_with("...."));
        assert_eq!(issuer.read(token.as_bytes()), Some(access));
        assert_ne!(issuer.issue(access).expect("randomness"), token);
        assert_eq!(Issuer::new().expect("randomness").read(token.as_bytes()), None);
        for at in [0, 7, 20, 380] {
            let mut other = token.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(issuer.read(&other), None, "{at}");
        }
        assert_eq!(issuer.read(&token.as_bytes()[..TOKEN_BYTES - 1]), None);
        assert_eq!(issuer.read(b""), None);
    }
}
