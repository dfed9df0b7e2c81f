//! A gateway that knows one sender, and the sender's `authorization`.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
};

use clarion_emulator::{
    GatewayConfig, GatewayHandle, KeyConfig, Platform, ProjectConfig, ServiceAccountConfig, clock,
    config::{TEST_SERVICE_ACCOUNT_PRIVATE_KEY_PEM, TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM},
};
use data_encoding::BASE64URL_NOPAD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256},
};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};

use super::client::tls_config;

pub(crate) const TOPIC: &str = "com.example.app";
pub(crate) const PROJECT: &str = "missing-children";
const ACCOUNT: &str = "sender@missing-children.iam.gserviceaccount.com";

pub(crate) enum Credential {
    Apns(Box<KeyPair>),
    Fcm,
}

pub(crate) fn configuration(platform: Platform) -> (GatewayConfig, Credential) {
    let common = GatewayConfig { platform, ..GatewayConfig::default() };
    match platform {
        Platform::Apns => {
            let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
            let key = KeyConfig {
                key_id: "BENCH00001".to_owned(),
                team_id: "BENCHTEAM1".to_owned(),
                public_key_file: None,
                public_key_pem: Some(pair.public_key_pem()),
            };
            (
                GatewayConfig { keys: vec![key], topics: vec![TOPIC.to_owned()], ..common },
                Credential::Apns(Box::new(pair)),
            )
        }
        Platform::Fcm => {
            let project = ProjectConfig { project: PROJECT.to_owned(), quota_per_minute: u32::MAX };
            let account = ServiceAccountConfig {
                client_email: ACCOUNT.to_owned(),
                private_key_id: None,
                public_key_file: None,
                public_key_pem: Some(TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM.to_owned()),
                projects: vec![PROJECT.to_owned()],
            };
            (
                GatewayConfig {
                    projects: vec![project],
                    service_accounts: vec![account],
                    ..common
                },
                Credential::Fcm,
            )
        }
    }
}

impl Credential {
    /// Returns the value of `authorization`.
    pub(crate) fn obtain(&self, gateway: &GatewayHandle) -> io::Result<String> {
        let now = clock::wall().0 / 1_000;
        match self {
            Self::Apns(pair) => {
                let signed = format!(
                    "{}.{}",
                    BASE64URL_NOPAD.encode(br#"{"alg":"ES256","kid":"BENCH00001"}"#),
                    BASE64URL_NOPAD
                        .encode(format!(r#"{{"iss":"BENCHTEAM1","iat":{now}}}"#).as_bytes())
                );
                let random = SystemRandom::new();
                let der = pair.serialize_der();
                let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random);
                let key = key.map_err(unusable)?;
                let signature = key.sign(&random, signed.as_bytes()).map_err(unusable)?;
                Ok(format!("bearer {signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref())))
            }
            Self::Fcm => access_token(gateway, now),
        }
    }
}

/// Requests an access token from the gateway's token endpoint, as clients of Google do.
fn access_token(gateway: &GatewayHandle, now: u64) -> io::Result<String> {
    let uri = gateway.token_uri().expect("FCM has one").to_owned();
    let claims = serde_json::json!({
        "iss": ACCOUNT, "scope": "https://www.googleapis.com/auth/firebase.messaging", "aud": uri, "iat": now,
        "exp": now + 3_600,
    });
    let head = BASE64URL_NOPAD.encode(br#"{"alg":"RS256","typ":"JWT"}"#);
    let signed = format!("{head}.{}", BASE64URL_NOPAD.encode(claims.to_string().as_bytes()));
    let der = PrivatePkcs8KeyDer::from_pem_slice(TEST_SERVICE_ACCOUNT_PRIVATE_KEY_PEM.as_bytes());
    let der = der.map_err(io::Error::other)?;
    let key = ring::rsa::KeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(unusable)?;
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
        .map_err(unusable)?;
    let grant = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
    let body =
        format!("grant_type={grant}&assertion={signed}.{}", BASE64URL_NOPAD.encode(&signature));
    let authority =
        uri.strip_prefix("https://").and_then(|u| u.strip_suffix("/token")).expect("a token URI");
    let mut config = tls_config(gateway.ca_pem())?;
    config.alpn_protocols.clear();
    let name = "localhost".try_into().map_err(io::Error::other)?;
    let session =
        rustls::ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut stream = rustls::StreamOwned::new(session, TcpStream::connect(authority)?);
    write!(
        stream,
        "POST /token HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\ncontent-type: \
         application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    // The server may close without a TLS alert; the received bytes count.
    let _ = stream.read_to_string(&mut answer);
    let json = answer.find("\r\n\r\n").map_or("", |at| &answer[at..]).trim();
    let json: serde_json::Value = serde_json::from_str(json).map_err(io::Error::other)?;
    json["access_token"]
        .as_str()
        .map(|token| format!("Bearer {token}"))
        .ok_or_else(|| io::Error::other("no access token"))
}

/// Converts ring's error, which without the feature `std` does not implement [`std::error::Error`].
fn unusable(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}
