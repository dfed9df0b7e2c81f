//! The crypto provider for `jsonwebtoken`: ring, and p256 for ES256 signatures.
//!
//! The crate's own providers are aws-lc-rs, which would be a second TLS provider in the dependency
//! tree, and RustCrypto, whose RSA has a known timing weakness (RUSTSEC-2023-0071). The interface
//! for a third provider is small; APNs requires ES256, Google's token endpoint RS256.
//!
//! ES256 signatures follow RFC 6979: the same key and text give the same signature. So a restarted
//! process creates the same token as before, which matters to APNs: it answers 429
//! (`TooManyProviderTokenUpdates`) to a client that changes tokens too often. ring draws a random
//! number for each signature.

use std::sync::Once;

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
};
use p256::{
    ecdsa::{Signature as Es256Signature, SigningKey, signature::Signer as _},
    pkcs8::DecodePrivateKey as _,
};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair,
        UnparsedPublicKey, VerificationAlgorithm,
    },
};
use signature::{Signer, Verifier};

/// Makes ring the provider of this process. Call before the first token; calling again does nothing.
pub fn install() {
    static INSTALLED: Once = Once::new();
    static PROVIDER: CryptoProvider = CryptoProvider {
        signer_factory,
        verifier_factory,
        key_utils: KeyUtils::new_unimplemented(),
    };
    INSTALLED.call_once(|| {
        // Refused only if the process has chosen another provider, which then serves as well.
        let _ = PROVIDER.install_default();
    });
}

fn signer_factory(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    match (algorithm, key.family()) {
        (Algorithm::ES256, AlgorithmFamily::Ec) => {
            let key = SigningKey::from_pkcs8_der(key.as_bytes())
                .map_err(|_| ErrorKind::InvalidEcdsaKey)?;
            Ok(Box::new(Es256Signer(key)))
        }
        (Algorithm::RS256, AlgorithmFamily::Rsa) => {
            // The library takes the PKCS#1 key out of PKCS#8; ring refuses what is under 2,048 bits.
            let pair = RsaKeyPair::from_der(key.as_bytes())
                .map_err(|e| ErrorKind::InvalidRsaKey(e.to_string()))?;
            Ok(Box::new(Rs256Signer { pair, random: SystemRandom::new() }))
        }
        (Algorithm::ES256 | Algorithm::RS256, _) => Err(ErrorKind::InvalidKeyFormat.into()),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    }
}

fn verifier_factory(
    algorithm: &Algorithm,
    key: &DecodingKey,
) -> Result<Box<dyn JwtVerifier>, Error> {
    let ring: &'static dyn VerificationAlgorithm = match (algorithm, key.family()) {
        (Algorithm::ES256, AlgorithmFamily::Ec) => &ECDSA_P256_SHA256_FIXED,
        (Algorithm::RS256, AlgorithmFamily::Rsa) => &RSA_PKCS1_2048_8192_SHA256,
        (Algorithm::ES256 | Algorithm::RS256, _) => return Err(ErrorKind::InvalidKeyFormat.into()),
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    };
    let key = UnparsedPublicKey::new(ring, key.try_get_as_bytes()?.to_vec());
    Ok(Box::new(RingVerifier { algorithm: *algorithm, key }))
}

struct Es256Signer(SigningKey);

impl Signer<Vec<u8>> for Es256Signer {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        let signed: Result<Es256Signature, _> = self.0.try_sign(message);
        Ok(signed.map_err(|_| signature::Error::new())?.to_bytes().to_vec())
    }
}

impl JwtSigner for Es256Signer {
    fn algorithm(&self) -> Algorithm {
        Algorithm::ES256
    }
}

struct Rs256Signer {
    pair: RsaKeyPair,
    random: SystemRandom,
}

impl Signer<Vec<u8>> for Rs256Signer {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        let mut signature = vec![0; self.pair.public().modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &self.random, message, &mut signature)
            .map_err(|_| signature::Error::new())?;
        Ok(signature)
    }
}

impl JwtSigner for Rs256Signer {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RS256
    }
}

struct RingVerifier {
    algorithm: Algorithm,
    key: UnparsedPublicKey<Vec<u8>>,
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        self.key.verify(message, signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jsonwebtoken::{Header, Validation};
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

    use super::*;

    type Claims = BTreeMap<String, String>;

    /// Signs, verifies, changes one character and verifies again.
    fn round_trip(algorithm: Algorithm, private: &EncodingKey, public: &DecodingKey) {
        install();
        let header = Header { kid: Some("KEY1234567".to_owned()), ..Header::new(algorithm) };
        let claims = BTreeMap::from([("iss", "TEAM123456")]);
        let token = jsonwebtoken::encode(&header, &claims, private).unwrap();

        let mut validation = Validation::new(algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        assert_eq!(
            jsonwebtoken::decode::<Claims>(&token, public, &validation).unwrap().claims["iss"],
            "TEAM123456"
        );

        let mut changed = token.into_bytes();
        let last = changed.len() - 10;
        changed[last] = if changed[last] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(jsonwebtoken::decode::<Claims>(&changed, public, &validation).is_err());
    }

    #[test]
    fn es256_signs_and_verifies() {
        let random = SystemRandom::new();
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let public =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random)
                .unwrap();
        let public = DecodingKey::from_ec_der(public.public_key().as_ref());
        round_trip(Algorithm::ES256, &EncodingKey::from_ec_der(pkcs8.as_ref()), &public);
    }

    #[test]
    fn es256_signs_the_same_text_the_same_way() {
        install();
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .unwrap();
        let signed = |iat: u64| {
            let key = EncodingKey::from_ec_der(pkcs8.as_ref());
            jsonwebtoken::encode(
                &Header::new(Algorithm::ES256),
                &BTreeMap::from([("iat", iat)]),
                &key,
            )
            .unwrap()
        };
        assert_eq!(signed(1_800_000_000), signed(1_800_000_000));
        assert_ne!(signed(1_800_000_000), signed(1_800_000_001));
    }

    #[test]
    fn rs256_signs_and_verifies() {
        let private =
            EncodingKey::from_rsa_pem(include_bytes!("../tests/keys/rsa-2048.pem")).unwrap();
        let pair = RsaKeyPair::from_der(private.as_bytes()).unwrap();
        let public = DecodingKey::from_rsa_der(pair.public().as_ref());
        round_trip(Algorithm::RS256, &private, &public);
    }

    #[test]
    fn a_key_of_another_kind_signs_nothing() {
        install();
        let rsa = EncodingKey::from_rsa_pem(include_bytes!("../tests/keys/rsa-2048.pem")).unwrap();
        let claims = BTreeMap::from([("iss", "TEAM123456")]);
        assert!(jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &rsa).is_err());
        let nonsense = EncodingKey::from_rsa_der(b"no key");
        assert!(jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &nonsense).is_err());
    }
}
