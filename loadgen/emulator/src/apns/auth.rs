//! Provider tokens: the JWT in `authorization`, checked as Apple documents it.
//!
//! Only ES256 is accepted. `kid` names a configured key and `iss` the team of that key; `iat` is at
//! most one hour old. APNs refuses a valid token that has grown old as expired, and a token that
//! was never valid as invalid. So the age is checked at each request ([`Verified::age`]), and the
//! signature once for each new value on a connection.

use clarion_proto::ids::UnixMillis;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use serde::Deserialize;

use super::super::answer::Reason;

/// Age at which Apple refuses a provider token, seconds.
const AGE_SECONDS_MAX: u64 = 3_600;
/// Longest `authorization` value that is checked, bytes. Ordinary values have some 200 bytes.
const VALUE_BYTES_MAX: usize = 2_048;
/// DER prefix of a SubjectPublicKeyInfo (RFC 5480) with an uncompressed P-256 point of 65 bytes.
/// The prefix is the same for every key.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A public key that signs provider tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Id of the key, claim `kid`; Apple's ids have ten characters.
    pub key_id: String,
    /// Id of the developer team, claim `iss`.
    pub team_id: String,
    /// The P-256 point in uncompressed form.
    point: Vec<u8>,
}

/// Error for a key that cannot verify provider tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key {key_id}: not a P-256 public key in PEM (BEGIN PUBLIC KEY)")]
pub struct KeyError {
    key_id: String,
}

impl Key {
    /// Parses a public key in PEM, as `openssl ec -pubout` writes it.
    ///
    /// # Errors
    /// If the PEM text is not a P-256 public key.
    pub fn from_pem(key_id: &str, team_id: &str, pem: &[u8]) -> Result<Self, KeyError> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok();
        let point = der
            .as_ref()
            .and_then(|d| d.strip_prefix(&SPKI_PREFIX))
            .filter(|p| p.len() == 65 && p[0] == 4);
        match point {
            Some(point) => Ok(Self {
                key_id: key_id.to_owned(),
                team_id: team_id.to_owned(),
                point: point.to_vec(),
            }),
            None => Err(KeyError { key_id: key_id.to_owned() }),
        }
    }
}

/// A provider token with a valid signature, a known key and the team of that key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Index of the key that signed the token.
    pub key: usize,
    /// Claim `iat`, seconds since 1970.
    pub issued_s: u64,
    /// Id of the token: xxh3-64 of the value of `authorization`.
    pub id: u64,
}

impl Verified {
    /// Checks the age of the token and returns the reason to refuse it, if any. A fault may lower
    /// the greatest age.
    #[must_use]
    pub fn age(
        &self,
        wall: UnixMillis,
        skew_seconds: u64,
        age_seconds_max: Option<u64>,
    ) -> Option<Reason> {
        let now = wall.0 / 1_000;
        let age_max = age_seconds_max.unwrap_or(AGE_SECONDS_MAX + skew_seconds);
        if self.issued_s > now + skew_seconds {
            Some(Reason::InvalidProviderToken)
        } else if now > self.issued_s.saturating_add(age_max) {
            Some(Reason::ExpiredProviderToken)
        } else {
            None
        }
    }
}

#[derive(Deserialize)]
struct JoseHeader<'a> {
    #[serde(borrow)]
    alg: &'a str,
    #[serde(borrow)]
    kid: &'a str,
}

#[derive(Deserialize)]
struct Claims<'a> {
    #[serde(borrow)]
    iss: &'a str,
    iat: u64,
}

/// Checks the value of `authorization` except the age of the token.
///
/// # Errors
/// The reason that APNs answers.
pub fn verify(value: &[u8], keys: &[Key]) -> Result<Verified, Reason> {
    let invalid = Reason::InvalidProviderToken;
    let jwt =
        value.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    let jwt = jwt.map(|(_, jwt)| jwt).filter(|jwt| jwt.len() <= VALUE_BYTES_MAX).ok_or(invalid)?;
    let mut parts = jwt.split(|&b| b == b'.');
    let (Some(head), Some(claims), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(invalid);
    };
    let decoded = |part| data_encoding::BASE64URL_NOPAD.decode(part).map_err(|_| invalid);
    let (head_json, claims_json, signature) =
        (decoded(head)?, decoded(claims)?, decoded(signature)?);
    let jose: JoseHeader<'_> = serde_json::from_slice(&head_json).map_err(|_| invalid)?;
    let claims_read: Claims<'_> = serde_json::from_slice(&claims_json).map_err(|_| invalid)?;
    let named = |k: &Key| k.key_id == jose.kid && k.team_id == claims_read.iss;
    let key = keys.iter().position(named).filter(|_| jose.alg == "ES256").ok_or(invalid)?;
    let signed = &jwt[..head.len() + 1 + claims.len()];
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &keys[key].point);
    public.verify(signed, &signature).map_err(|_| invalid)?;
    Ok(Verified { key, issued_s: claims_read.iat, id: xxhash_rust::xxh3::xxh3_64(value) })
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
    };

    use super::*;

    fn pair() -> (KeyPair, Key) {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let key = Key::from_pem("KEY0000001", "TEAM000001", pair.public_key_pem().as_bytes())
            .expect("P-256");
        assert_eq!(key.point, pair.der_bytes());
        (pair, key)
    }

    fn token(pair: &KeyPair, head: &str, claims: &str) -> Vec<u8> {
        let encode = |text: &str| data_encoding::BASE64URL_NOPAD.encode(text.as_bytes());
        let signed = format!("{}.{}", encode(head), encode(claims));
        let random = SystemRandom::new();
        let signer = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &pair.serialize_der(),
            &random,
        )
        .expect("PKCS#8");
        let signature = signer.sign(&random, signed.as_bytes()).expect("signed");
        format!("bearer {signed}.{}", data_encoding::BASE64URL_NOPAD.encode(signature.as_ref()))
            .into_bytes()
    }

    const HEAD: &str = r#"{"alg":"ES256","kid":"KEY0000001"}"#;
    const CLAIMS: &str = r#"{"iss":"TEAM000001","iat":1000000}"#;

    #[test]
    fn a_right_token_is_verified_whatever_the_case_of_its_scheme() {
        let (pair, key) = pair();
        let mut value = token(&pair, HEAD, CLAIMS);
        assert_eq!(
            verify(&value, std::slice::from_ref(&key)).map(|v| (v.key, v.issued_s)),
            Ok((0, 1_000_000))
        );
        value[0] = b'B';
        assert!(verify(&value, &[key]).is_ok());
    }

    #[test]
    fn each_flaw_makes_it_invalid() {
        let (pair, key) = pair();
        let (stranger, _) = self::pair();
        let keys = [key];
        let mut cut = token(&pair, HEAD, CLAIMS);
        cut.pop();
        let flawed = [
            token(&stranger, HEAD, CLAIMS),
            token(&pair, r#"{"alg":"HS256","kid":"KEY0000001"}"#, CLAIMS),
            token(&pair, r#"{"alg":"ES256","kid":"KEY0000002"}"#, CLAIMS),
            token(&pair, HEAD, r#"{"iss":"TEAM000002","iat":1000000}"#),
            token(&pair, HEAD, r#"{"iss":"TEAM000001"}"#),
            cut,
            b"bearer a.b.c".to_vec(),
            b"basic a".to_vec(),
            b"".to_vec(),
        ];
        for (i, value) in flawed.iter().enumerate() {
            assert_eq!(verify(value, &keys), Err(Reason::InvalidProviderToken), "{i}");
        }
    }

    #[test]
    fn age_is_an_hour_and_the_skew() {
        let token = Verified { key: 0, issued_s: 10_000, id: 0 };
        let age = |seconds: u64| token.age(UnixMillis(seconds * 1_000), 60, None);
        assert_eq!(age(10_000 + 3_660), None);
        assert_eq!(age(10_000 + 3_661), Some(Reason::ExpiredProviderToken));
        assert_eq!(age(10_000 - 60), None);
        assert_eq!(age(10_000 - 61), Some(Reason::InvalidProviderToken));
        assert_eq!(token.age(UnixMillis(10_005_000), 60, Some(5)), None);
        assert_eq!(
            token.age(UnixMillis(10_006_000), 60, Some(5)),
            Some(Reason::ExpiredProviderToken)
        );
    }

    #[test]
    fn only_p256_public_keys_are_taken() {
        let (pair, _) = pair();
        assert!(Key::from_pem("K", "T", pair.serialize_pem().as_bytes()).is_err(), "a private key");
        assert!(Key::from_pem("K", "T", b"nonsense").is_err());
    }
}
