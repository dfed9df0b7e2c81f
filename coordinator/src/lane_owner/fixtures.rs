//! Credentials and lanes that tests of the lane owner and of its shell begin with.

use clarion_proto::app::Platform;
use clarion_runtime::proxy::Route;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use secrecy::{ExposeSecret, SecretString};

use super::{ApnsKey, Credential, Endpoint, GoogleAccount, LaneOwner, ServiceAccount, TokenSource};
use crate::{
    fixtures::gateway,
    lane::{Gateway, LaneKey, LaneSpec},
    standing::Standing,
};

pub(crate) fn credential(name: &str) -> Credential {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    Credential::Apns(ApnsKey {
        name: name.to_owned(),
        key_id: "ABCDE12345".to_owned(),
        team_id: "TEAM123456".to_owned(),
        key_pem: SecretString::from(key.serialize_pem()),
    })
}

/// The same key under another of Apple's ids.
pub(crate) fn with_key_id(credential: &Credential, key_id: &str) -> Credential {
    let Credential::Apns(key) = credential.clone() else { panic!("a key of APNs") };
    Credential::Apns(ApnsKey { key_id: key_id.to_owned(), ..key })
}

/// An account of FCM; `key` distinguishes its keys, which sign nothing.
pub(crate) fn account(name: &str, key: u32) -> Credential {
    Credential::Fcm(GoogleAccount {
        name: name.to_owned(),
        project_id: "p".to_owned(),
        source: TokenSource::ServiceAccount(ServiceAccount {
            client_email: "clarion@p.iam.gserviceaccount.com".to_owned(),
            private_key_id: key.to_string(),
            private_key_pem: SecretString::from(String::new()),
            token_endpoint: Endpoint {
                uri: "https://localhost/token".to_owned(),
                host: "localhost".to_owned(),
                port: 443,
                is_tls: true,
                ca_pem: String::new(),
            },
        }),
        route: Route::Direct,
    })
}

/// Gateways `g` and `h` of APNs, credentials `c` and `d`.
pub(crate) fn owner() -> LaneOwner {
    let other = Gateway { name: "h".to_owned(), ..gateway(None) };
    LaneOwner::new(vec![gateway(None), other], vec![credential("c"), credential("d")])
}

/// Gateway `g` of FCM, accounts `a` and `b` with their first keys.
pub(crate) fn owner_of_accounts() -> LaneOwner {
    let gateway = Gateway { platform: Platform::Fcm, ..gateway(None) };
    LaneOwner::new(vec![gateway], vec![account("a", 0), account("b", 0)])
}

pub(crate) fn key(gateway: &str, credential: &str) -> LaneKey {
    LaneKey { gateway: gateway.to_owned(), credential: credential.to_owned() }
}

/// The token that nodes have for a lane.
pub(crate) fn authorization(standing: &Standing, lane: &LaneSpec) -> String {
    standing.tokens[&lane.id].authorization.expose_secret().to_owned()
}
