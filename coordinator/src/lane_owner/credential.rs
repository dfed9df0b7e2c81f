//! What authorises a lane's requests, as configured: a signing key of APNs, or a service account of
//! Google.

use clarion_proto::app::Platform;
use secrecy::{ExposeSecret, SecretString};

/// A credential. Never leaves the coordinator; nodes get what is made of it.
#[derive(Debug, Clone)]
pub enum Credential {
    /// Signs provider tokens itself.
    Apns(ApnsKey),
    /// Signs a request for an access token, which Google's token endpoint then gives.
    Fcm(ServiceAccount),
}

/// An APNs signing key.
#[derive(Debug, Clone)]
pub struct ApnsKey {
    /// Unique.
    pub name: String,
    /// 10 characters.
    pub key_id: String,
    /// 10 characters.
    pub team_id: String,
    /// PKCS#8, PEM.
    pub key_pem: SecretString,
}

/// A Google service account, as its key file tells.
#[derive(Debug, Clone)]
pub struct ServiceAccount {
    /// Unique.
    pub name: String,
    /// The project that the account was made in.
    pub project_id: String,
    /// Who asks: `iss`.
    pub client_email: String,
    /// `kid`; empty: the file names none.
    pub private_key_id: String,
    /// RSA, PKCS#8, PEM.
    pub private_key_pem: SecretString,
    /// Whom it asks.
    pub token_endpoint: TokenEndpoint,
}

/// An OAuth token endpoint: an https URI, taken apart and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenEndpoint {
    /// As in the key file; also `aud`.
    pub uri: String,
    /// For the connection and the certificate; an IPv6 address without brackets.
    pub host: String,
    /// 443 unless the URI names another.
    pub port: u16,
    /// PEM; empty: the public roots.
    pub ca_pem: String,
}

impl Credential {
    /// Unique among all credentials.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Apns(key) => &key.name,
            Self::Fcm(account) => &account.name,
        }
    }

    /// Whether it makes tokens as the other does.
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

    /// Gateways of this platform take it.
    #[must_use]
    pub fn platform(&self) -> Platform {
        match self {
            Self::Apns(_) => Platform::Apns,
            Self::Fcm(_) => Platform::Fcm,
        }
    }

    /// FCM: whose messages it authorises here. Google would let an account send for other projects
    /// too; then a refusal of one project (no permission, quota) would stand for all apps of the
    /// lane, and two lanes could spend one quota.
    #[must_use]
    pub fn project(&self) -> Option<&str> {
        match self {
            Self::Apns(_) => None,
            Self::Fcm(account) => Some(&account.project_id),
        }
    }
}

/// Both are from files of this coordinator's own: how long the comparison takes tells nobody
/// anything.
fn same(a: &SecretString, b: &SecretString) -> bool {
    a.expose_secret() == b.expose_secret()
}
