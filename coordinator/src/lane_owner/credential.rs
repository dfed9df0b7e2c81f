//! Configured credentials, which authorize a lane's requests: APNs signing keys and accounts of
//! Google.

use std::{fmt, path::PathBuf};

use clarion_proto::app::Platform;
use clarion_runtime::proxy::Route;
use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

/// A credential. It never leaves the coordinator; nodes get the tokens made with it. Equal
/// credentials make tokens in the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A key with which the coordinator signs provider tokens.
    Apns(ApnsKey),
    /// An account with which the coordinator requests access tokens from Google.
    Fcm(GoogleAccount),
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

/// An account that Google's endpoints issue access tokens to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoogleAccount {
    /// Unique name of the credential in the configuration.
    pub name: String,
    /// The project whose apps get messages.
    pub project_id: String,
    /// Where access tokens come from.
    pub source: TokenSource,
    /// Route to endpoints on the internet. The metadata server, and other endpoints in plaintext,
    /// are always reached directly.
    pub route: Route,
}

/// Source of an account's access tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// A service account with a private key in a file.
    ServiceAccount(ServiceAccount),
    /// The metadata server of the machine, which knows the machine's service account.
    Metadata(Endpoint),
    /// An identity of another provider, which Google exchanges (workload identity federation).
    ExternalAccount(Box<ExternalAccount>),
}

/// A Google service account, with the fields of its key file.
#[derive(Debug, Clone)]
pub struct ServiceAccount {
    /// Address of the account, sent as claim `iss`.
    pub client_email: String,
    /// Id of the private key, sent as header `kid`; empty: the key file has none.
    pub private_key_id: String,
    /// Private RSA key: PKCS#8 in PEM.
    pub private_key_pem: SecretString,
    /// Endpoint that issues the account's access tokens; its URI is also sent as claim `aud`.
    pub token_endpoint: Endpoint,
}

/// An identity of another provider, with the fields of its `external_account` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalAccount {
    /// Google's name of the workload identity provider.
    pub audience: String,
    /// Type of the subject token, a URN.
    pub subject_token_type: String,
    /// Source of the subject token, which proves the identity.
    pub subject: SubjectSource,
    /// Member of the subject's JSON with the token; `None`: the whole text is the token.
    pub subject_field: Option<String>,
    /// Google's Security Token Service, which exchanges the subject token.
    pub token_endpoint: Endpoint,
    /// Endpoint that issues tokens of a service account in exchange; `None`: the token of the
    /// exchange itself is used.
    pub impersonation: Option<Endpoint>,
    /// Requested lifetime of an impersonated account's token, seconds.
    pub lifetime_seconds: u64,
}

/// Source of a subject token. It is read for each exchange, because subject tokens expire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubjectSource {
    /// A file that something outside keeps fresh.
    File(PathBuf),
    /// An endpoint that is asked by GET with these headers.
    Url(Endpoint, Headers),
}

/// Headers of a request for a subject token; some platforms put a secret there.
#[derive(Clone, PartialEq, Eq)]
pub struct Headers(pub Vec<(HeaderName, HeaderValue)>);

/// An endpoint over HTTP: a URI, parsed and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// URI as configured.
    pub uri: String,
    /// Host to connect to, which the certificate must name; an IPv6 address without brackets.
    pub host: String,
    /// Port of the URI; default: 443, or 80 in plaintext.
    pub port: u16,
    /// Whether the endpoint speaks TLS; only endpoints inside the machine's network may not.
    pub is_tls: bool,
    /// CA certificates, PEM; empty: the public root CAs.
    pub ca_pem: String,
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl PartialEq for ApnsKey {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.key_id, &self.team_id) == (&other.name, &other.key_id, &other.team_id)
            && same(&self.key_pem, &other.key_pem)
    }
}

impl Eq for ApnsKey {}

impl PartialEq for ServiceAccount {
    fn eq(&self, other: &Self) -> bool {
        (&self.client_email, &self.private_key_id, &self.token_endpoint)
            == (&other.client_email, &other.private_key_id, &other.token_endpoint)
            && same(&self.private_key_pem, &other.private_key_pem)
    }
}

impl Eq for ServiceAccount {}

impl Credential {
    /// Unique name of the credential in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Apns(key) => &key.name,
            Self::Fcm(account) => &account.name,
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
