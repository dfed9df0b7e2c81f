//! Senders: keys and accounts, and the tokens that they sign.

use clarion_emulator::{
    GatewayConfig, KeyConfig, Platform, ProjectConfig, ServiceAccountConfig,
    config::{TEST_SERVICE_ACCOUNT_PRIVATE_KEY_PEM, TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM},
    fcm::access::Access,
    policy::Policy,
};
use clarion_proto::ids::UnixMillis;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256},
};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};

pub(crate) const TOPIC: &str = "com.example.app";
pub(crate) const TEAM: &str = "TEAM000001";
pub(crate) const KEY: &str = "KEY0000001";
pub(crate) const BODY: &[u8] = br#"{"aps":{"alert":"found"}}"#;

pub(crate) const PROJECT: &str = "missing-children";
pub(crate) const FCM_PATH: &str = "/v1/projects/missing-children/messages:send";
pub(crate) const ACCOUNT: &str = "sender@missing-children.iam.gserviceaccount.com";

/// Returns a gateway of FCM with one project, one account for it, and a project that the account
/// may not use.
pub(crate) fn fcm_config() -> GatewayConfig {
    let project =
        |project: &str| ProjectConfig { project: project.to_owned(), quota_per_minute: 600_000 };
    GatewayConfig {
        platform: Platform::Fcm,
        projects: vec![project(PROJECT), project("another")],
        service_accounts: vec![ServiceAccountConfig {
            client_email: ACCOUNT.to_owned(),
            private_key_id: None,
            public_key_file: None,
            public_key_pem: Some(TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM.to_owned()),
            projects: vec![PROJECT.to_owned()],
        }],
        ..GatewayConfig::default()
    }
}

/// Returns the token that the token endpoint would issue.
pub(crate) fn bearer(policy: &Policy, account: usize, expires_ms: u64) -> String {
    let issuer = &policy.fcm().expect("a policy of FCM").issuer;
    let token =
        issuer.issue(Access { account, expires: UnixMillis(expires_ms) }).expect("randomness");
    format!("Bearer {token}")
}

/// Returns a token in the form of Google's.
pub(crate) fn fcm_token(i: u32) -> String {
    format!("{i:022}:APA91b{}", "kX-_9".repeat(23))
}

pub(crate) fn fcm_body(token: &str) -> Vec<u8> {
    let android = r#""android":{"collapse_key":"case-1","priority":"HIGH","ttl":"3600s"}"#;
    format!(r#"{{"message":{{"token":"{token}",{android},"notification":{{"title":"Missing","body":"found"}}}}}}"#)
        .into_bytes()
}

/// Returns an assertion of the test account: its own claims, and those of `over` in their place.
pub(crate) fn assertion(token_uri: &str, over: &[(&str, serde_json::Value)]) -> String {
    let mut claims = serde_json::json!({
        "iss": ACCOUNT,
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "aud": token_uri,
        "iat": wall_s(),
        "exp": wall_s() + 3_600,
    });
    for (name, value) in over {
        claims[*name] = value.clone();
    }
    let encode = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let signed = format!(
        "{}.{}",
        encode(br#"{"alg":"RS256","typ":"JWT"}"#),
        encode(claims.to_string().as_bytes())
    );
    let der = PrivatePkcs8KeyDer::from_pem_slice(TEST_SERVICE_ACCOUNT_PRIVATE_KEY_PEM.as_bytes())
        .expect("PKCS#8");
    let key = ring::rsa::KeyPair::from_pkcs8(der.secret_pkcs8_der()).expect("RSA");
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
        .expect("signed");
    format!("{signed}.{}", encode(&signature))
}

/// A key pair and the tokens that it signs.
pub(crate) struct Signer {
    pair: KeyPair,
}

impl Signer {
    pub(crate) fn new() -> Self {
        Self { pair: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key") }
    }

    pub(crate) fn config(&self, key_id: &str, team_id: &str) -> KeyConfig {
        let pem = Some(self.pair.public_key_pem());
        KeyConfig {
            key_id: key_id.to_owned(),
            team_id: team_id.to_owned(),
            public_key_file: None,
            public_key_pem: pem,
        }
    }

    pub(crate) fn bearer(&self, key_id: &str, team_id: &str, issued_s: u64) -> String {
        let encode = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
        let head = encode(format!(r#"{{"alg":"ES256","kid":"{key_id}"}}"#).as_bytes());
        let claims = encode(format!(r#"{{"iss":"{team_id}","iat":{issued_s}}}"#).as_bytes());
        let random = SystemRandom::new();
        let der = self.pair.serialize_der();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random)
            .expect("PKCS#8");
        let signature = key.sign(&random, format!("{head}.{claims}").as_bytes()).expect("signed");
        format!("bearer {head}.{claims}.{}", encode(signature.as_ref()))
    }
}

/// Returns a configuration with one signer and one topic.
pub(crate) fn config(signer: &Signer) -> GatewayConfig {
    GatewayConfig {
        keys: vec![signer.config(KEY, TEAM)],
        topics: vec![TOPIC.to_owned()],
        ..GatewayConfig::default()
    }
}

/// Returns the wall-clock time, seconds since 1970.
pub(crate) fn wall_s() -> u64 {
    clarion_emulator::clock::wall().0 / 1_000
}
