//! Catalogue of the configured gateways and credentials, which apps are checked against.
//!
//! Whether a credential can make a token is decided by the lane owner, not here.

use clarion_proto::app::{Environment, LaneKind, Platform};

/// All gateways and credentials of the configuration, without keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    /// Configured gateways, with unique names.
    pub gateways: Vec<GatewayEntry>,
    /// Configured credentials, with unique names.
    pub credentials: Vec<CredentialEntry>,
}

/// Properties of a gateway that its apps must have, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayEntry {
    /// Unique name of the gateway in the configuration.
    pub name: String,
    /// Protocol that the gateway speaks.
    pub platform: Platform,
    /// Environment of the device tokens that the gateway accepts.
    pub environment: Environment,
    /// Whether the gateway reaches real people (live) or not (test).
    pub lane_kind: LaneKind,
}

/// Properties of a credential that its apps must have, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialEntry {
    /// Unique name of the credential in the configuration.
    pub name: String,
    /// Platform that accepts the credential.
    pub platform: Platform,
    /// Project of the credential; `None`: the platform has no projects.
    pub project: Option<String>,
}

impl Catalog {
    /// Finds a gateway by its name.
    #[must_use]
    pub fn gateway(&self, name: &str) -> Option<&GatewayEntry> {
        self.gateways.iter().find(|gateway| gateway.name == name)
    }

    /// Finds a credential by its name.
    #[must_use]
    pub fn credential(&self, name: &str) -> Option<&CredentialEntry> {
        self.credentials.iter().find(|credential| credential.name == name)
    }
}
