//! Configured credentials, which authorize a lane's requests: APNs signing keys and Google service
//! accounts.

use clarion_proto::app::Platform;
use secrecy::{ExposeSecret, SecretString};

/// A credential. It never leaves the coordinator; nodes get the tokens made with it.
#[derive(Debug, Clone)]
pub enum Credential {
    /// A key with which the coordinator signs provider tokens.
    Apns(ApnsKey),
    /// An account with which the coordinator requests access tokens from Google's token endpoint.
    Fcm(ServiceAccount),
}

/// An APNs signing key.
#[derive(Debug, Clone)]
pub struct ApnsKey {
    /// Unique name of the credential in the configuration.
    pub name: String,
    /// Apple's id of the key, 10 letters and digits.
    pub key_id: String,
    /// Apple's id of the team that has the key, 10 letters and digits.
    pub team_id: String,
    /// Private key on the curve P-256: PKCS#8 in PEM.
    pub key_pem: SecretString,
}

/// A Google service account, with the fields of its key file.
#[derive(Debug, Clone)]
pub struct ServiceAccount {
    /// Unique name of the credential in the configuration.
    pub name: String,
    /// The project that the account was made in.
    pub project_id: String,
    /// Address of the account, sent as claim `iss`.
    pub client_email: String,
    /// Id of the private key, sent as header `kid`; empty: the key file has none.
    pub private_key_id: String,
    /// Private RSA key: PKCS#8 in PEM.
    pub private_key_pem: SecretString,
    /// Endpoint that issues the account's access tokens.
    pub token_endpoint: TokenEndpoint,
}

/// An OAuth token endpoint: an https URI, parsed and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenEndpoint {
    /// URI of the key file, also sent as claim `aud`.
    pub uri: String,
    /// Host to connect to, which the certificate must name; an IPv6 address without brackets.
    pub host: String,
    /// Port of the URI; default: 443.
    pub port: u16,
    /// CA certificates, PEM; empty: the public root CAs.
    pub ca_pem: String,
}

impl Credential {
    /// Unique name of the credential in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Apns(key) => &key.name,
            Self::Fcm(account) => &account.name,
        }
    }

    /// Whether both credentials make tokens in the same way.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Apns(a), Self::Apns(b)) => {
                (&a.name, &a.key_id, &a.team_id) == (&b.name, &b.key_id, &b.team_id)
                    && same(&a.key_pem, &b.key_pem)
            }
            (Self::Fcm(a), Self::Fcm(b)) => {
                (&a.name, &a.project_id, &a.client_email, &a.private_key_id, &a.token_endpoint)
                    == (
                        &b.name,
                        &b.project_id,
                        &b.client_email,
                        &b.private_key_id,
                        &b.token_endpoint,
                    )
                    && same(&a.private_key_pem, &b.private_key_pem)
            }
            (Self::Apns(_), Self::Fcm(_)) | (Self::Fcm(_), Self::Apns(_)) => false,
        }
    }

    /// Platform whose gateways accept the credential.
    #[must_use]
    pub fn platform(&self) -> Platform {
        match self {
            Self::Apns(_) => Platform::Apns,
            Self::Fcm(_) => Platform::Fcm,
        }
    }

    /// FCM: the project whose messages the credential authorizes.
    ///
    /// Google would let an account send for other projects, too. Then the refusal of one project
    /// (no permission, quota) would stop all apps of the lane, and two lanes could spend one quota.
    #[must_use]
    pub fn project(&self) -> Option<&str> {
        match self {
            Self::Apns(_) => None,
            Self::Fcm(account) => Some(&account.project_id),
        }
    }
}

/// Whether two secrets are equal. Both are from the coordinator's own files, so the time that the
/// comparison takes reveals nothing to others.
fn same(a: &SecretString, b: &SecretString) -> bool {
    a.expose_secret() == b.expose_secret()
}
