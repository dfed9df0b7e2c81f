//! How a cluster reaches its gateways and gets Google's access tokens: directly or through an HTTP
//! proxy, by a key file or without one.

use std::path::Path;

use clap::ValueEnum;
use clarion_emulator::WorkloadIdentityConfig;
use serde_json::json;

use super::{ClusterError, emulator::Served, prepare};
use crate::keys::{self, CLIENT_EMAIL};

/// Name of the workload identity provider of a run.
const AUDIENCE: &str = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/\
                        loadgen/providers/loadgen";
/// Type of the subject token of a run.
const SUBJECT_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";
/// Subject token that the emulator accepts. It guards nothing.
const SUBJECT_TOKEN: &str = "loadgen-subject-token";

/// Network of a cluster. The default has neither a proxy nor an identity of the machine.
#[derive(Debug, Clone, Default)]
pub struct NetworkPlan {
    /// Proxy between the cluster and the gateways.
    pub proxy: Option<ProxyUrl>,
    /// Source of Google's access tokens.
    pub credentials: Credentials,
}

/// Source of Google's access tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Credentials {
    /// Key file of a service account
    #[default]
    KeyFile,
    /// Metadata server of the machine
    Metadata,
    /// Workload identity federation: subject token, exchange and impersonation
    WorkloadIdentity,
}

/// Address and credentials of a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    /// URL without credentials.
    pub url: String,
    /// User and password, if the proxy demands them.
    pub credentials: Option<(String, String)>,
}

impl ProxyUrl {
    /// Parses the URL of a proxy, `http://[USER:PASSWORD@]HOST:PORT`.
    ///
    /// # Errors
    /// A text of another form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix("http://")
            .ok_or("must be http://[USER:PASSWORD@]HOST:PORT".to_owned())?;
        let (credentials, address) = match rest.rsplit_once('@') {
            None => (None, rest),
            Some((credentials, address)) => {
                let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
                (Some((user.to_owned(), password.to_owned())), address)
            }
        };
        Ok(Self { url: format!("http://{address}"), credentials })
    }
}

/// Identity of another provider that the emulator accepts.
pub(super) fn workload_identity() -> WorkloadIdentityConfig {
    WorkloadIdentityConfig {
        audience: AUDIENCE.to_owned(),
        subject_token_type: SUBJECT_TOKEN_TYPE.to_owned(),
        subject_token: SUBJECT_TOKEN.to_owned(),
        expires_unix_seconds: None,
        service_account: CLIENT_EMAIL.to_owned(),
    }
}

/// Writes an `external_account` file, as gcloud does, and the subject token that it names.
pub(super) fn external_account(dir: &Path, emulator: &Served) -> Result<(), ClusterError> {
    let origin = emulator.token_uri.as_deref().and_then(|uri| uri.strip_suffix("/token"));
    let origin = origin.ok_or_else(|| prepare("the token exchange", "it was not announced"))?;
    let file = json!({
        "type": "external_account",
        "audience": AUDIENCE,
        "subject_token_type": SUBJECT_TOKEN_TYPE,
        "token_url": format!("{origin}/v1/token"),
        "service_account_impersonation_url":
            format!("{origin}/v1/projects/-/serviceAccounts/{CLIENT_EMAIL}:generateAccessToken"),
        "credential_source": { "file": "subject-token", "format": { "type": "text" } },
    });
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        keys::write_private(&path, text).map_err(|e| prepare(&path.display().to_string(), e))
    };
    write(EXTERNAL_ACCOUNT, &file.to_string())?;
    write("subject-token", SUBJECT_TOKEN)
}

/// Name of the `external_account` file in a run's folder.
pub(super) const EXTERNAL_ACCOUNT: &str = "external-account.json";

/// Environment of a coordinator: no credentials of this machine, and the emulated metadata server.
pub(super) fn environment(dir: &Path, emulators: &[Served]) -> Vec<(&'static str, String)> {
    // A folder that nobody makes: the credentials of whoever runs this must not be found.
    let nowhere = dir.join("gcloud");
    let host = emulators.iter().find_map(|emulator| emulator.metadata_host.clone());
    [
        ("GOOGLE_APPLICATION_CREDENTIALS", Some(String::new())),
        ("CLOUDSDK_CONFIG", Some(nowhere.display().to_string())),
        ("GCE_METADATA_HOST", host),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_may_have_credentials() {
        let parsed = |text: &str| ProxyUrl::parse(text).map(|p| (p.url, p.credentials));
        assert_eq!(parsed("http://p:3128"), Ok(("http://p:3128".to_owned(), None)));
        let me = Some(("me".to_owned(), "a:b".to_owned()));
        assert_eq!(parsed("http://me:a:b@p:3128"), Ok(("http://p:3128".to_owned(), me)));
        assert!(parsed("https://p:3128").is_err());
    }
}
