//! ring as the crypto provider of `jsonwebtoken`.
//!
//! The crate's own providers are aws-lc-rs, which would be a second TLS provider in the tree, and RustCrypto, whose RSA
//! has a known timing weakness (RUSTSEC-2023-0071). Its interface for a third is small; ES256 is what APNs asks for.

use std::sync::Once;

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey},
};
use signature::{Signer, Verifier};

/// Makes ring the provider of this process. Call before the first token; calling again does nothing.
pub fn install() {
    static INSTALLED: Once = Once::new();
    static PROVIDER: CryptoProvider =
        CryptoProvider { signer_factory, verifier_factory, key_utils: KeyUtils::new_unimplemented() };
    INSTALLED.call_once(|| {
        // Refused only if the process has chosen another provider, which then serves as well.
        let _ = PROVIDER.install_default();
    });
}

fn signer_factory(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    match (algorithm, key.family()) {
        (Algorithm::ES256, AlgorithmFamily::Ec) => {
            let random = SystemRandom::new();
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_bytes(), &random)
                .map_err(|_| ErrorKind::InvalidEcdsaKey)?;
            Ok(Box::new(Es256Signer { pair, random }))
        }
        (Algorithm::ES256, _) => Err(ErrorKind::InvalidKeyFormat.into()),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    }
}

fn verifier_factory(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    match (algorithm, key.family()) {
        (Algorithm::ES256, AlgorithmFamily::Ec) => Ok(Box::new(Es256Verifier(key.try_get_as_bytes()?.to_vec()))),
        (Algorithm::ES256, _) => Err(ErrorKind::InvalidKeyFormat.into()),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    }
}

struct Es256Signer {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl Signer<Vec<u8>> for Es256Signer {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        let signature = self.pair.sign(&self.random, message).map_err(|_| signature::Error::new())?;
        Ok(signature.as_ref().to_vec())
    }
}

impl JwtSigner for Es256Signer {
    fn algorithm(&self) -> Algorithm {
        Algorithm::ES256
    }
}

struct Es256Verifier(Vec<u8>);

impl Verifier<Vec<u8>> for Es256Verifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.0)
            .verify(message, signature)
            .map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Es256Verifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::ES256
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Header, Validation};
    use ring::signature::KeyPair;

    use super::*;

    #[test]
    fn a_token_signed_here_verifies_here_and_a_changed_one_does_not() {
        install();
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let public = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();

        let header = Header { kid: Some("KEY1234567".to_owned()), ..Header::new(Algorithm::ES256) };
        let claims = std::collections::BTreeMap::from([("iss", "TEAM123456")]);
        let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ec_der(pkcs8.as_ref())).unwrap();

        let mut validation = Validation::new(Algorithm::ES256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        let key = DecodingKey::from_ec_der(public.public_key().as_ref());
        type Claims = std::collections::BTreeMap<String, String>;
        assert_eq!(jsonwebtoken::decode::<Claims>(&token, &key, &validation).unwrap().claims["iss"], "TEAM123456");

        let mut changed = token.into_bytes();
        let last = changed.len() - 10;
        changed[last] = if changed[last] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(jsonwebtoken::decode::<Claims>(&changed, &key, &validation).is_err());
    }
}
