//! What a gateway is told at its start.

use std::{collections::BTreeSet, fs, io, net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{auth::Key, faults::Faults, identity::TlsFiles, platform::Platform, policy::Policy, script::Scripts};

/// Messages a minute that Google grants a project unless asked for more
/// (<https://firebase.google.com/docs/cloud-messaging/throttling-and-quotas>).
pub const QUOTA_PER_MINUTE: u32 = 600_000;
/// The private key (PKCS#8) of a service account for tests and scenarios. It guards nothing: it is fixed because ring makes no
/// RSA keys.
pub const TEST_SERVICE_ACCOUNT_PRIVATE_KEY_PEM: &str = include_str!("test-service-account.pem");
/// The public key (SubjectPublicKeyInfo) that belongs to [`TEST_SERVICE_ACCOUNT_PRIVATE_KEY_PEM`].
pub const TEST_SERVICE_ACCOUNT_PUBLIC_KEY_PEM: &str = include_str!("test-service-account.pub.pem");

/// A gateway: where it listens, whom it believes, how it behaves. As TOML, every field may be left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayConfig {
    /// Which provider to play. Default: `apns`.
    pub platform: Platform,
    /// Where to listen. Default: a free port of the loopback interface.
    pub listen: SocketAddr,
    /// Threads that serve connections. Default 1.
    pub threads: usize,
    /// Names and addresses in the server's certificate. Default: `localhost`, `127.0.0.1`, `::1`, `api.push.apple.com`.
    pub server_names: Vec<String>,
    /// Connections at once; those beyond are closed. Each holds a descriptor. Default 4,096.
    pub connections_max: usize,
    /// Keys that sign provider tokens. Without one, every request is refused with 403.
    pub keys: Vec<KeyConfig>,
    /// Bundle ids that may be pushed to.
    pub topics: Vec<String>,
    /// FCM: where the OAuth token endpoint listens. Default: a free port of the loopback interface.
    pub oauth_listen: SocketAddr,
    /// FCM: the projects that exist.
    pub projects: Vec<ProjectConfig>,
    /// FCM: who may ask for access tokens. Without one, every request is refused with 401.
    pub service_accounts: Vec<ServiceAccountConfig>,
    /// FCM: how long an access token is good, seconds. Default 3,600.
    pub access_token_seconds: u64,
    /// FCM: a connection without a request for so long is told `session_timed_out`, seconds; 0: never. Default 240.
    pub session_idle_seconds: u64,
    /// By how much clocks may differ, seconds. Default 60.
    pub clock_skew_seconds: u64,
    /// Shortest time between two changes of the provider token on a connection, seconds; 0: none. Default 1,200.
    pub token_update_seconds_min: u64,
    /// A connection that met an expired token refuses newer ones too. Default false.
    pub expired_sticks: bool,
    /// Answers carry `apns-unique-id`, as those of Apple's sandbox do. Default false.
    pub sandbox: bool,
    /// MAX_CONCURRENT_STREAMS after the first authenticated success. Default 1,000.
    pub streams_max: u32,
    /// One stream until the first authenticated success. Default true.
    pub first_stream_alone: bool,
    /// One stream after a rejection, until the next success. Default false.
    pub one_stream_after_reject: bool,
    /// The connection's receive window, bytes. Default 65,535.
    pub connection_window: u32,
    /// Answers by token.
    pub scripts: Scripts,
    /// Faults from the start.
    pub faults: Faults,
    /// Of everything random.
    pub seed: u64,
    /// Certificates to be read; then `server_names` mean nothing. Default: made anew at each start.
    pub tls: Option<TlsFiles>,
}

/// A public key that signs provider tokens.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// `kid`.
    pub key_id: String,
    /// `iss`.
    pub team_id: String,
    /// PEM file with the P-256 public key.
    #[serde(default)]
    pub public_key_file: Option<PathBuf>,
    /// The PEM itself.
    #[serde(default)]
    pub public_key_pem: Option<String>,
}

/// A Firebase project.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectConfig {
    /// Its id, as in the path.
    pub project: String,
    /// Messages in any 60 seconds. Default [`QUOTA_PER_MINUTE`].
    #[serde(default = "quota_per_minute")]
    pub quota_per_minute: u32,
}

fn quota_per_minute() -> u32 {
    QUOTA_PER_MINUTE
}

/// A service account: who signs assertions, and for which projects it may send.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccountConfig {
    /// `iss` of its assertions.
    pub client_email: String,
    /// `kid` of its assertions; absent: any, or none.
    #[serde(default)]
    pub private_key_id: Option<String>,
    /// PEM file with the RSA public key (SubjectPublicKeyInfo).
    #[serde(default)]
    pub public_key_file: Option<PathBuf>,
    /// The PEM itself.
    #[serde(default)]
    pub public_key_pem: Option<String>,
    /// Ids of the projects it may send for.
    pub projects: Vec<String>,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        let names = ["localhost", "127.0.0.1", "::1", "api.push.apple.com"];
        Self {
            platform: Platform::Apns,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            threads: 1,
            server_names: names.map(str::to_owned).to_vec(),
            connections_max: 4_096,
            keys: Vec::new(),
            topics: Vec::new(),
            oauth_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            projects: Vec::new(),
            service_accounts: Vec::new(),
            access_token_seconds: 3_600,
            session_idle_seconds: 240,
            clock_skew_seconds: 60,
            token_update_seconds_min: 1_200,
            expired_sticks: false,
            sandbox: false,
            streams_max: 1_000,
            first_stream_alone: true,
            one_stream_after_reject: false,
            connection_window: 65_535,
            scripts: Scripts::default(),
            faults: Faults::default(),
            seed: 0,
            tls: None,
        }
    }
}

impl GatewayConfig {
    /// Reads the keys and checks what can be wrong.
    ///
    /// # Errors
    /// `InvalidInput` naming the field, or that of reading a key's file.
    pub fn policy(&self) -> io::Result<Policy> {
        let invalid = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if self.platform == Platform::Fcm {
            return invalid("platform: fcm is not served yet".to_owned());
        }
        if !(1..=64).contains(&self.threads) {
            return invalid(format!("threads: 1 to 64, is {}", self.threads));
        }
        if self.connection_window > (1 << 31) - 1 {
            return invalid(format!("connection_window: at most 2147483647, is {}", self.connection_window));
        }
        if self.scripts.rules.iter().map(|r| u64::from(r.ppm)).sum::<u64>() > 1_000_000 {
            return invalid("scripts.rules: together at most 1000000 ppm".to_owned());
        }
        let keys = self.keys.iter().map(KeyConfig::load).collect::<io::Result<Vec<_>>>()?;
        let names: BTreeSet<_> = keys.iter().map(|k| (&k.key_id, &k.team_id)).collect();
        if names.len() != keys.len() {
            return invalid("keys: two of the same key_id and team_id".to_owned());
        }
        Ok(Policy {
            keys,
            clock_skew_seconds: self.clock_skew_seconds,
            token_update_seconds_min: self.token_update_seconds_min,
            expired_sticks: self.expired_sticks,
            topics: self.topics.clone(),
            sandbox: self.sandbox,
            streams_max: self.streams_max,
            first_stream_alone: self.first_stream_alone,
            one_stream_after_reject: self.one_stream_after_reject,
            connection_window: self.connection_window,
            scripts: self.scripts.clone(),
            seed: self.seed,
        })
    }
}

impl KeyConfig {
    fn load(&self) -> io::Result<Key> {
        let pem = match (&self.public_key_pem, &self.public_key_file) {
            (Some(pem), None) => pem.clone().into_bytes(),
            (None, Some(path)) => fs::read(path)
                .map_err(|e| io::Error::new(e.kind(), format!("key {}: {}: {e}", self.key_id, path.display())))?,
            _ => {
                let what = format!("key {}: either public_key_file or public_key_pem", self.key_id);
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            }
        };
        Key::from_pem(&self.key_id, &self.team_id, &pem).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
    }
}
