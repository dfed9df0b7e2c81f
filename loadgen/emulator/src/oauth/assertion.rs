//! Assertions: the JWT with which a service account proves its identity (RFC 7523, and Google's
//! page on service accounts).
//!
//! Only RS256 is accepted. `iss` names a configured account, whose key must have signed. `aud` is
//! the token endpoint or Google's (Google's Python library always writes the latter, whatever the
//! key file says). `scope` contains one scope that allows sending. `exp` is at most one hour after
//! `iat`, and the current time is between them.

use clarion_proto::ids::UnixMillis;
use data_encoding::BASE64URL_NOPAD;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use serde::Deserialize;

use super::super::fcm::Account;

/// The only supported grant type.
pub const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// Scopes that allow sending.
pub const SCOPES: [&str; 2] = [
    "https://www.googleapis.com/auth/firebase.messaging",
    "https://www.googleapis.com/auth/cloud-platform",
];
/// Audience that `google-auth` for Python always writes, whatever the address of the endpoint.
const GOOGLES_TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
/// Longest validity of an assertion, seconds.
const LIFE_SECONDS_MAX: u64 = 3_600;
/// Longest assertion that is checked, bytes. Ordinary ones have some 700 bytes.
const BYTES_MAX: usize = 8_192;
/// DER of the algorithm rsaEncryption in a SubjectPublicKeyInfo (RFC 3279, section 2.3.1).
const RSA_ENCRYPTION: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

/// Reason why no access token is issued, in Google's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Value of `error` in the response (RFC 6749, section 5.2).
    pub error: &'static str,
    /// Value of `error_description` in the response.
    pub description: String,
}

impl Refusal {
    pub(super) fn new(error: &'static str, description: impl Into<String>) -> Self {
        Self { error, description: description.into() }
    }
}

#[derive(Deserialize)]
struct JoseHeader {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    #[serde(default)]
    scope: String,
    aud: String,
    iat: u64,
    exp: u64,
}

/// Checks an assertion and returns the index of its service account.
///
/// # Errors
/// The refusal that Google returns.
pub fn verify(
    assertion: &str,
    accounts: &[Account],
    token_uri: &str,
    wall: UnixMillis,
    skew_seconds: u64,
) -> Result<usize, Refusal> {
    let grant = |what: &str| Refusal::new("invalid_grant", what);
    let malformed = || grant("Invalid JWT: Failed to parse the assertion.");
    if assertion.len() > BYTES_MAX {
        return Err(malformed());
    }
    let mut parts = assertion.split('.');
    let (Some(head), Some(claims), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed());
    };
    let decoded = |part: &str| BASE64URL_NOPAD.decode(part.as_bytes()).map_err(|_| malformed());
    let jose: JoseHeader = serde_json::from_slice(&decoded(head)?).map_err(|_| malformed())?;
    let read: Claims = serde_json::from_slice(&decoded(claims)?).map_err(|_| malformed())?;
    let account = accounts.iter().position(|a| a.client_email == read.iss);
    let Some(at) = account else { return Err(grant("Invalid grant: account not found")) };
    let named = accounts[at].private_key_id.is_none() || accounts[at].private_key_id == jose.kid;
    let signed = &assertion.as_bytes()[..head.len() + 1 + claims.len()];
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &accounts[at].public_key);
    if jose.alg != "RS256" || !named || key.verify(signed, &decoded(signature)?).is_err() {
        return Err(grant("Invalid JWT Signature."));
    }
    let now = wall.0 / 1_000;
    let short = read.exp.checked_sub(read.iat).is_some_and(|life| life <= LIFE_SECONDS_MAX);
    if !short
        || read.iat > now.saturating_add(skew_seconds)
        || read.exp.saturating_add(skew_seconds) < now
    {
        return Err(grant(
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat \
             and exp values in the JWT claim.",
        ));
    }
    if read.aud != token_uri && read.aud != GOOGLES_TOKEN_URI {
        return Err(grant(&format!(
            "Invalid JWT: Failed audience check. The right audience is {token_uri}"
        )));
    }
    if !read.scope.split(' ').any(|s| SCOPES.contains(&s)) {
        return Err(Refusal::new(
            "invalid_scope",
            "Invalid OAuth scope or ID token audience provided.",
        ));
    }
    Ok(at)
}

/// Returns the RSAPublicKey of a SubjectPublicKeyInfo in PEM, as `openssl rsa -pubout` writes it;
/// `None` if it is not an RSA key.
#[must_use]
pub fn public_key(pem: &[u8]) -> Option<Vec<u8>> {
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?;
    // SEQUENCE { algorithm, BIT STRING { no unused bits, RSAPublicKey } }
    let (inner, rest) = element(&der, 0x30)?;
    let bits = inner.strip_prefix(&RSA_ENCRYPTION)?;
    let (bits, behind) = element(bits, 0x03)?;
    let key = bits.strip_prefix(&[0])?;
    (rest.is_empty() && behind.is_empty()).then(|| key.to_vec())
}

/// Splits off a DER element with this tag. Returns its content and the bytes after it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let rest = der.strip_prefix(&[tag])?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (octets, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (octets.iter().fold(0, |n, &b| n << 8 | usize::from(b)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        rsa::KeyPair,
        signature::{RSA_PKCS1_SHA256, RsaEncoding},
    };

    use super::*;
    use crate::config::{
        TEST_SERVICE_ACCOUNT_PRIVATE_KEY_PEM, TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM,
    };

    const URI: &str = "https://127.0.0.1:1/token";
    const NOW_S: u64 = 1_800_000_000;

    fn accounts() -> Vec<Account> {
        vec![Account {
            client_email: "sender@p.example".to_owned(),
            private_key_id: Some("k1".to_owned()),
            public_key: public_key(TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM.as_bytes()).expect("RSA"),
            projects: vec![0],
        }]
    }

    fn assertion(head: &str, claims: &serde_json::Value) -> String {
        let pem = TEST_SERVICE_ACCOUNT_PRIVATE_KEY_PEM.as_bytes();
        let der = rustls_pki_types::PrivatePkcs8KeyDer::from_pem_slice(pem).expect("PKCS#8");
        let key = KeyPair::from_pkcs8(der.secret_pkcs8_der()).expect("RSA");
        let signed = format!(
            "{}.{}",
            BASE64URL_NOPAD.encode(head.as_bytes()),
            BASE64URL_NOPAD.encode(claims.to_string().as_bytes())
        );
        let mut signature = vec![0; key.public().modulus_len()];
        let padding: &'static dyn RsaEncoding = &RSA_PKCS1_SHA256;
        key.sign(padding, &SystemRandom::new(), signed.as_bytes(), &mut signature).expect("signed");
        format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
    }

    const HEAD: &str = r#"{"alg":"RS256","typ":"JWT","kid":"k1"}"#;

    fn claims() -> serde_json::Value {
        serde_json::json!({
            "iss": "sender@p.example", "scope": format!("openid {}", SCOPES[0]), "aud": URI, "iat": NOW_S, "exp": NOW_S + 3_600,
        })
    }

    fn verified(assertion: &str) -> Result<usize, Refusal> {
        verify(assertion, &accounts(), URI, UnixMillis(NOW_S * 1_000), 60)
    }

    #[test]
    fn a_right_assertion_names_its_account() {
        assert_eq!(verified(&assertion(HEAD, &claims())), Ok(0));
        let mut googles = claims();
        googles["aud"] = GOOGLES_TOKEN_URI.into();
        assert_eq!(verified(&assertion(HEAD, &googles)), Ok(0));
    }

    #[test]
    fn each_flaw_is_told_in_googles_words() {
        let with = |name: &str, value: serde_json::Value| {
            let mut claims = claims();
            claims[name] = value;
            assertion(HEAD, &claims)
        };
        let mut forged = assertion(HEAD, &claims());
        forged.truncate(forged.len() - 4);
        forged.push_str("AAAA");
        let cases = [
            (with("iss", "nobody@p.example".into()), "invalid_grant", "account not found"),
            (
                with("aud", "https://elsewhere/token".into()),
                "invalid_grant",
                "Failed audience check",
            ),
            (
                with("scope", "https://www.googleapis.com/auth/userinfo.email".into()),
                "invalid_scope",
                "Invalid OAuth scope",
            ),
            (with("exp", (NOW_S + 3_601).into()), "invalid_grant", "short-lived token"),
            (with("exp", (NOW_S - 1).into()), "invalid_grant", "short-lived token"),
            (with("iat", (NOW_S + 61).into()), "invalid_grant", "short-lived token"),
            (with("iat", (NOW_S - 3_600).into()), "invalid_grant", "short-lived token"),
            (
                assertion(&HEAD.replace("RS256", "HS256"), &claims()),
                "invalid_grant",
                "Invalid JWT Signature.",
            ),
            (
                assertion(&HEAD.replace("k1", "k2"), &claims()),
                "invalid_grant",
                "Invalid JWT Signature.",
            ),
            (forged, "invalid_grant", "Invalid JWT Signature."),
            ("a.b".to_owned(), "invalid_grant", "Failed to parse"),
            ("x".repeat(9_000), "invalid_grant", "Failed to parse"),
        ];
        for (i, (assertion, error, words)) in cases.iter().enumerate() {
            let refusal = verified(assertion).expect_err("refused");
            assert_eq!(refusal.error, *error, "{i}");
            assert!(refusal.description.contains(words), "{i}: {}", refusal.description);
        }
    }

    #[test]
    fn only_rsa_public_keys_are_taken() {
        assert_eq!(public_key(TEST_SERVICE_ACCOUNT_PRIVATE_KEY_PEM.as_bytes()), None);
        assert_eq!(public_key(b"nonsense"), None);
        let other = rcgen::KeyPair::generate().expect("a key").public_key_pem();
        assert_eq!(public_key(other.as_bytes()), None, "P-256");
    }
}
