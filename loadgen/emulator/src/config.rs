//! Configuration of an emulated gateway.

use std::{
    collections::BTreeSet,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clarion_proto::ids::UnixMillis;
use parking_lot::Mutex;

use serde::{Deserialize, Serialize};

use super::{
    apns::{self, auth::Key},
    faults::Faults,
    fcm::{self, access::Issuer, quota::Window},
    identity::TlsFiles,
    oauth::assertion,
    platform::Platform,
    policy::{Policy, Provider},
    script::Scripts,
};

/// Messages per minute that Google grants a project by default
/// (<https://firebase.google.com/docs/cloud-messaging/throttling-and-quotas>).
pub const QUOTA_PER_MINUTE: u32 = 600_000;
/// Private key (PKCS#8) of a service account for tests and scenarios. The key protects nothing; it
/// is fixed because ring cannot generate RSA keys.
pub const TEST_SERVICE_ACCOUNT_PRIVATE_KEY_PEM: &str = include_str!("test-service-account.pem");
/// Public key (SubjectPublicKeyInfo) of [`TEST_SERVICE_ACCOUNT_PRIVATE_KEY_PEM`].
pub const TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM: &str = include_str!("test-service-account.pub.pem");

/// Configuration of a gateway: addresses, credentials, limits and faults. As TOML, every field is
/// optional.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayConfig {
    /// Provider to emulate. Default: `apns`.
    pub platform: Platform,
    /// Address of the gateway. Default: a free port of the loopback interface.
    pub listen: SocketAddr,
    /// Number of threads that serve connections, 1 to 64. Default 1.
    pub threads: usize,
    /// Names and addresses in the server certificate. Default: `localhost`, `127.0.0.1`, `::1`,
    /// `api.push.apple.com`, `fcm.googleapis.com`, `oauth2.googleapis.com`.
    pub server_names: Vec<String>,
    /// Most connections at once; the gateway closes further ones. Each connection holds a file
    /// descriptor. Default 4,096.
    pub connections_max: usize,
    /// Public keys that verify provider tokens. Without a key, APNs refuses every request with 403.
    pub keys: Vec<KeyConfig>,
    /// Bundle ids of the apps that may receive pushes.
    pub topics: Vec<String>,
    /// FCM: address of the OAuth token endpoint. Default: a free port of the loopback interface.
    pub oauth_listen: SocketAddr,
    /// FCM: URI of the token endpoint that clients name as the audience of their assertions.
    /// Default: `https://ADDRESS/token` with the endpoint's address.
    pub token_uri: Option<String>,
    /// FCM: projects that exist for the gateway.
    pub projects: Vec<ProjectConfig>,
    /// FCM: service accounts that may request access tokens. Without one, FCM refuses every request
    /// with 401.
    pub service_accounts: Vec<ServiceAccountConfig>,
    /// FCM: identities of other providers that the token exchange accepts (workload identity
    /// federation). The exchange is at `/v1/token` of the OAuth endpoint.
    pub workload_identities: Vec<WorkloadIdentityConfig>,
    /// FCM: e-mail address of the machine's service account, for which the emulator runs a metadata
    /// server. Default: no metadata server.
    pub machine_account: Option<String>,
    /// FCM: address of the metadata server, in plaintext. Default: a free port of the loopback
    /// interface.
    pub metadata_listen: SocketAddr,
    /// FCM: lifetime of an access token, seconds. Default 3,600.
    pub access_token_seconds: u64,
    /// FCM: idle time after which the gateway closes a connection with `session_timed_out`,
    /// seconds; 0: never. Default 240.
    pub session_idle_seconds: u64,
    /// Accepted difference between clocks, seconds. Default 60.
    pub clock_skew_seconds: u64,
    /// Shortest time between two changes of the provider token on a connection, seconds; 0: no
    /// limit. Default 1,200.
    pub token_update_seconds_min: u64,
    /// Whether a connection that sent an expired provider token refuses newer tokens too. Default
    /// false.
    pub expired_sticks: bool,
    /// Whether answers carry `apns-unique-id`, as those of Apple's sandbox do. Default false.
    pub sandbox: bool,
    /// MAX_CONCURRENT_STREAMS of a connection; for APNs, the value after the first authenticated
    /// success. Default 1,000 for APNs, 100 for FCM.
    pub streams_max: Option<u32>,
    /// APNs: whether a connection is limited to one stream until the first authenticated success.
    /// Default true.
    pub first_stream_alone: bool,
    /// Whether a connection is limited to one stream after a rejection, until the next success.
    /// Default false.
    pub one_stream_after_reject: bool,
    /// Receive window of the connection, bytes; at least 65,535. Default 65,535.
    pub connection_window: u32,
    /// Initial receive window of each stream (INITIAL_WINDOW_SIZE), bytes. Default 65,535.
    pub stream_window: u32,
    /// Scripted answers for device tokens.
    pub scripts: Scripts,
    /// Faults that are in force from the start.
    pub faults: Faults,
    /// Seed of all random numbers of the gateway.
    pub seed: u64,
    /// Files with the certificates, which replace `server_names`. Default: certificates that are
    /// generated at each start.
    pub tls: Option<TlsFiles>,
}

/// A public key that signs provider tokens.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// Id of the key, as in the token's claim `kid`.
    pub key_id: String,
    /// Id of the developer team, as in the token's claim `iss`.
    pub team_id: String,
    /// PEM file with the P-256 public key.
    #[serde(default)]
    pub public_key_file: Option<PathBuf>,
    /// The public key in PEM, instead of a file.
    #[serde(default)]
    pub public_key_pem: Option<String>,
}

/// A Firebase project and its quota.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectConfig {
    /// Id of the project, as in the request's path.
    pub project: String,
    /// Messages in any 60 seconds. Default [`QUOTA_PER_MINUTE`].
    #[serde(default = "quota_per_minute")]
    pub quota_per_minute: u32,
}

fn quota_per_minute() -> u32 {
    QUOTA_PER_MINUTE
}

/// A service account: its key for assertions, and the projects to which it may send.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccountConfig {
    /// Claim `iss` of its assertions.
    pub client_email: String,
    /// Header `kid` of its assertions; absent: `kid` is not checked.
    #[serde(default)]
    pub private_key_id: Option<String>,
    /// PEM file with the RSA public key (SubjectPublicKeyInfo).
    #[serde(default)]
    pub public_key_file: Option<PathBuf>,
    /// The public key in PEM, instead of a file.
    #[serde(default)]
    pub public_key_pem: Option<String>,
    /// Ids of the projects to which the account may send.
    pub projects: Vec<String>,
}

/// An identity of another provider, and the service account that it may impersonate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadIdentityConfig {
    /// Name of the workload identity provider, the audience of the exchange.
    pub audience: String,
    /// Type of the subject token, a URN.
    pub subject_token_type: String,
    /// Subject token that proves the identity.
    pub subject_token: String,
    /// Time from which the subject token is refused, seconds since 1970; absent: never.
    #[serde(default)]
    pub expires_unix_seconds: Option<u64>,
    /// E-mail address of the service account that the identity may impersonate.
    pub service_account: String,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        let names = [
            "localhost",
            "127.0.0.1",
            "::1",
            "api.push.apple.com",
            "fcm.googleapis.com",
            "oauth2.googleapis.com",
        ];
        Self {
            platform: Platform::Apns,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            threads: 1,
            server_names: names.map(str::to_owned).to_vec(),
            connections_max: 4_096,
            keys: Vec::new(),
            topics: Vec::new(),
            oauth_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            token_uri: None,
            projects: Vec::new(),
            service_accounts: Vec::new(),
            workload_identities: Vec::new(),
            machine_account: None,
            metadata_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            access_token_seconds: 3_600,
            session_idle_seconds: 240,
            clock_skew_seconds: 60,
            token_update_seconds_min: 1_200,
            expired_sticks: false,
            sandbox: false,
            streams_max: None,
            first_stream_alone: true,
            one_stream_after_reject: false,
            connection_window: 65_535,
            stream_window: 65_535,
            scripts: Scripts::default(),
            faults: Faults::default(),
            seed: 0,
            tls: None,
        }
    }
}

impl GatewayConfig {
    /// Resolves all relative file names against a folder.
    pub fn beside(&mut self, folder: &Path) {
        let tls = self
            .tls
            .iter_mut()
            .flat_map(|t| [&mut t.ca_file, &mut t.certificate_file, &mut t.key_file]);
        let keys = self.keys.iter_mut().filter_map(|k| k.public_key_file.as_mut());
        let accounts = self.service_accounts.iter_mut().filter_map(|a| a.public_key_file.as_mut());
        for file in tls.chain(keys).chain(accounts) {
            // `join` keeps an absolute name as it is.
            *file = folder.join(&*file);
        }
    }

    /// Reads the keys, checks every field and returns the policy of the gateway.
    ///
    /// # Errors
    /// `InvalidInput` that names the invalid field, or the error of reading a key file.
    pub fn policy(&self) -> io::Result<Policy> {
        let invalid = |what: String| Err(invalid_input(&what));
        if !(1..=64).contains(&self.threads) {
            return invalid(format!("threads: must be 1 to 64; got {}", self.threads));
        }
        for (field, window) in
            [("connection_window", self.connection_window), ("stream_window", self.stream_window)]
        {
            if window > (1 << 31) - 1 {
                return invalid(format!("{field}: must be at most 2147483647; got {window}"));
            }
        }
        let ppm = self.scripts.rules.iter().map(|r| u64::from(r.ppm)).sum::<u64>();
        if ppm > 1_000_000 {
            return invalid(format!(
                "scripts.rules: shares must be at most 1000000 ppm together; got {ppm}"
            ));
        }
        let scripted = self
            .scripts
            .rules
            .iter()
            .map(|r| &r.answer)
            .chain(self.scripts.tokens.values().flatten());
        let foreign =
            scripted.map(|s| s.reason).find(|r| r.platform().is_some_and(|p| p != self.platform));
        if let Some(reason) = foreign {
            return invalid(format!(
                "scripts: reason {}: belongs to another platform",
                reason.as_str()
            ));
        }
        self.faults
            .check(self.platform)
            .map_err(|what| invalid_input(&format!("faults: {what}")))?;
        let (provider, streams_max) = match self.platform {
            Platform::Apns => (Provider::Apns(self.apns()?), apns::STREAMS_MAX),
            Platform::Fcm => (Provider::Fcm(Box::new(self.fcm()?)), fcm::STREAMS_MAX),
        };
        Ok(Policy {
            streams_max: self.streams_max.unwrap_or(streams_max),
            first_stream_alone: self.first_stream_alone && self.platform == Platform::Apns,
            connection_window: self.connection_window,
            stream_window: self.stream_window,
            scripts: self.scripts.clone(),
            seed: self.seed,
            provider,
        })
    }

    fn apns(&self) -> io::Result<apns::Policy> {
        let keys = self.keys.iter().map(KeyConfig::load).collect::<io::Result<Vec<_>>>()?;
        let names: BTreeSet<_> = keys.iter().map(|k| (&k.key_id, &k.team_id)).collect();
        if names.len() != keys.len() {
            return Err(invalid_input("keys: must be unique by key_id and team_id"));
        }
        Ok(apns::Policy {
            keys,
            clock_skew_seconds: self.clock_skew_seconds,
            token_update_seconds_min: self.token_update_seconds_min,
            expired_sticks: self.expired_sticks,
            topics: self.topics.clone(),
            sandbox: self.sandbox,
            one_stream_after_reject: self.one_stream_after_reject,
        })
    }

    fn fcm(&self) -> io::Result<fcm::Policy> {
        let ids: BTreeSet<_> = self.projects.iter().map(|p| &p.project).collect();
        let legal = |id: &str| {
            !id.is_empty()
                && id.len() <= 128
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
        };
        if ids.len() != self.projects.len() || !ids.iter().all(|id| legal(id)) {
            return Err(invalid_input(
                "projects: must be unique, with 1 to 128 letters, digits, '-', '_', '.', ':'",
            ));
        }
        let names: BTreeSet<_> = self.service_accounts.iter().map(|a| &a.client_email).collect();
        if names.len() != self.service_accounts.len() {
            return Err(invalid_input("service_accounts: must be unique by client_email"));
        }
        let projects = self.projects.iter().map(|p| fcm::Project {
            id: p.project.clone(),
            quota: Arc::new(Mutex::new(Window::new(p.quota_per_minute))),
        });
        let idle =
            (self.session_idle_seconds > 0).then(|| Duration::from_secs(self.session_idle_seconds));
        let account = |field: &str, email: &str| {
            let at = self.service_accounts.iter().position(|a| a.client_email == email);
            at.ok_or_else(|| {
                let what = format!("{field}: must be configured in service_accounts; got {email}");
                invalid_input(&what)
            })
        };
        let identity = |identity: &WorkloadIdentityConfig| {
            Ok(fcm::Identity {
                audience: identity.audience.clone(),
                subject_token_type: identity.subject_token_type.clone(),
                subject_token: identity.subject_token.clone(),
                expires: identity.expires_unix_seconds.map(|s| UnixMillis(s.saturating_mul(1_000))),
                account: account("workload_identities", &identity.service_account)?,
            })
        };
        let machine_account = self.machine_account.as_deref();
        Ok(fcm::Policy {
            identities: self.workload_identities.iter().map(identity).collect::<io::Result<_>>()?,
            machine_account: machine_account
                .map(|email| account("machine_account", email))
                .transpose()?,
            projects: projects.collect(),
            accounts: self
                .service_accounts
                .iter()
                .map(|a| a.load(&self.projects))
                .collect::<io::Result<_>>()?,
            issuer: Issuer::new().map_err(io::Error::other)?,
            clock_skew_seconds: self.clock_skew_seconds,
            access_token: Duration::from_secs(self.access_token_seconds),
            session_idle: idle,
        })
    }
}

impl ServiceAccountConfig {
    fn load(&self, projects: &[ProjectConfig]) -> io::Result<fcm::Account> {
        let name = format!("service account {}", self.client_email);
        let pem = pem(&name, self.public_key_pem.as_deref(), self.public_key_file.as_deref())?;
        let public_key = assertion::public_key(&pem).ok_or_else(|| {
            invalid_input(&format!("{name}: not an RSA public key in PEM (BEGIN PUBLIC KEY)"))
        })?;
        let number = |id: &String| {
            let at = projects.iter().position(|p| p.project == *id);
            at.ok_or_else(|| {
                invalid_input(&format!(
                    "{name}: projects: must be configured in projects; got {id}"
                ))
            })
        };
        Ok(fcm::Account {
            client_email: self.client_email.clone(),
            private_key_id: self.private_key_id.clone(),
            public_key,
            projects: self.projects.iter().map(number).collect::<io::Result<_>>()?,
        })
    }
}

impl KeyConfig {
    fn load(&self) -> io::Result<Key> {
        let name = format!("key {}", self.key_id);
        let pem = pem(&name, self.public_key_pem.as_deref(), self.public_key_file.as_deref())?;
        Key::from_pem(&self.key_id, &self.team_id, &pem)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
    }
}

/// Returns the PEM text from the configuration, or from the configured file.
fn pem(name: &str, pem: Option<&str>, path: Option<&Path>) -> io::Result<Vec<u8>> {
    match (pem, path) {
        (Some(pem), None) => Ok(pem.as_bytes().to_vec()),
        (None, Some(path)) => fs::read(path)
            .map_err(|e| io::Error::new(e.kind(), format!("{name}: {}: {e}", path.display()))),
        _ => Err(invalid_input(&format!(
            "{name}: must have either public_key_file or public_key_pem"
        ))),
    }
}

fn invalid_input(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
