//! Which lanes the configuration allows: what an app says of its gateway and its credential is held
//! against it. Whether one of those can make a token is for their owner to say.

use clarion_proto::app::{Environment, LaneKind, Platform};

/// All gateways and credentials of the configuration, without keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    /// Gateways, each with a name of its own.
    pub gateways: Vec<GatewayEntry>,
    /// Credentials, each with a name of its own.
    pub credentials: Vec<CredentialEntry>,
}

/// A gateway, as far as apps must agree with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayEntry {
    /// Name in the configuration.
    pub name: String,
    /// Protocol that it speaks.
    pub platform: Platform,
    /// Which tokens it takes.
    pub environment: Environment,
    /// Whether real people are behind it.
    pub lane_kind: LaneKind,
}

/// A credential, as far as apps must agree with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialEntry {
    /// Name in the configuration.
    pub name: String,
    /// Platform that takes it.
    pub platform: Platform,
    /// Project that it is of, where the platform has projects.
    pub project: Option<String>,
}

impl Catalog {
    /// A gateway by its name.
    #[must_use]
    pub fn gateway(&self, name: &str) -> Option<&GatewayEntry> {
        self.gateways.iter().find(|gateway| gateway.name == name)
    }

    /// A credential by its name.
    #[must_use]
    pub fn credential(&self, name: &str) -> Option<&CredentialEntry> {
        self.credentials.iter().find(|credential| credential.name == name)
    }
}
