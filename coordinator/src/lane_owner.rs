//! The lanes of the cluster and what only their owner may do: mint provider tokens, lease quota, stop the pruning.

use std::time::Duration;

use secrecy::SecretString;

/// A gateway as configured, checked.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Unique.
    pub name: String,
    /// host:port.
    pub endpoint: String,
    /// For the certificate and `:authority`.
    pub server_name: String,
    /// PEM; empty: the public roots.
    pub ca_pem: String,
    /// Real people are behind it.
    pub live: bool,
    /// Of each node.
    pub connections: u32,
    /// At once, whatever the gateway allows.
    pub streams_per_connection: u32,
    /// Then a request counts as unanswered.
    pub request_deadline: Duration,
    /// TCP and TLS together.
    pub connect_deadline: Duration,
    /// First pause before another try.
    pub backoff_min: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
    /// `authorization` enters the HPACK table.
    pub hpack_authorization_indexed: bool,
    /// Requests that the provider allows in any minute, over the whole cluster; `None`: unlimited.
    pub quota: Option<Quota>,
}

/// A provider's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// In any minute.
    pub per_minute: u32,
    /// Of those, at once; `None`: one second's worth.
    pub burst: Option<u32>,
}

/// An APNs signing key as configured. Never leaves the coordinator.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Unique.
    pub name: String,
    /// 10 characters.
    pub key_id: String,
    /// 10 characters.
    pub team_id: String,
    /// PKCS#8, PEM.
    pub key_pem: SecretString,
}
