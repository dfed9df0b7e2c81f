//! Files for the processes of a run: keys, and the coordinator's configuration.

use std::path::{Path, PathBuf};

use clarion_emulator::Platform;
use serde::Serialize;

use super::{
    ClusterError, ClusterPlan, Started,
    emulator::Served,
    network::{self, Credentials},
    prepare,
};
use crate::{
    keys::{self, SigningKey},
    names,
};

/// Part of the coordinator's configuration that a run sets; everything else keeps its default.
#[derive(Debug, Serialize)]
struct CoordinatorFile<'a> {
    listen: String,
    health_listen: String,
    feed_listen: String,
    nodes: &'a [String],
    cluster: Option<&'a str>,
    partitions: Option<u16>,
    snapshot_every_seconds: Option<u64>,
    gateways: Vec<GatewayTable<'a>>,
    credentials: Vec<CredentialTable<'a>>,
}

/// Absent values are left out of the file.
#[derive(Debug, Serialize)]
struct GatewayTable<'a> {
    name: &'a str,
    platform: &'a str,
    endpoint: &'a str,
    server_name: &'a str,
    ca_file: &'a Path,
    proxy: ProxyTable<'a>,
    environment: &'a str,
    lane_kind: &'a str,
    quota_per_minute: Option<u32>,
    backoff_min_ms: Option<u32>,
    request_deadline_ms: Option<u32>,
    hpack_authorization: Option<&'a str>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum CredentialTable<'a> {
    Apns {
        name: &'a str,
        kind: &'a str,
        key_file: &'a Path,
        key_id: &'a str,
        team_id: &'a str,
    },
    Fcm {
        name: &'a str,
        kind: &'a str,
        service_account_file: Option<PathBuf>,
        credentials_file: Option<&'a str>,
        application_default: Option<bool>,
        project_id: Option<&'a str>,
        ca_file: &'a Path,
        proxy: ProxyTable<'a>,
    },
}

/// A proxy, or the word for none: the run's gateways are on this machine.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum ProxyTable<'a> {
    Word(&'a str),
    Proxy { url: &'a str, username: Option<&'a str>, password: Option<&'a str> },
}

fn proxy(plan: &ClusterPlan) -> ProxyTable<'_> {
    let Some(proxy) = &plan.network.proxy else { return ProxyTable::Word("none") };
    let (username, password) = proxy.credentials.as_ref().map(|(u, p)| (&**u, &**p)).unzip();
    ProxyTable::Proxy { url: &proxy.url, username, password }
}

/// Writes the coordinator's configuration, and the key file of the service account that it names.
///
/// # Errors
/// If the folder cannot be written.
pub fn coordinator_config(
    plan: &ClusterPlan,
    (name, listen, feed_listen): (&str, String, String),
    nodes: &[String],
    (emulators, key): (&[Served], &SigningKey),
    other: Started<'_>,
) -> Result<PathBuf, ClusterError> {
    let credentials = emulators.iter().map(|emulator| credential(plan, emulator, key));
    let file = CoordinatorFile {
        listen,
        health_listen: "127.0.0.1:0".to_owned(),
        feed_listen,
        nodes,
        cluster: other.cluster,
        partitions: other.partitions,
        snapshot_every_seconds: plan.snapshot_every_seconds,
        gateways: emulators.iter().map(|emulator| gateway(plan, emulator)).collect(),
        credentials: credentials.collect::<Result<_, _>>()?,
    };
    let path = plan.dir.join(format!("{name}.toml"));
    let text = toml::to_string(&file).map_err(|e| prepare("the coordinator's configuration", e))?;
    keys::write_private(&path, &text).map_err(|e| prepare(&path.display().to_string(), e))?;
    Ok(path)
}

fn gateway<'a>(plan: &'a ClusterPlan, emulator: &'a Served) -> GatewayTable<'a> {
    let fcm = Some(plan.fcm).filter(|_| emulator.platform == Platform::Fcm).unwrap_or_default();
    GatewayTable {
        name: names::gateway(emulator.platform),
        platform: emulator.platform.as_str(),
        endpoint: &emulator.endpoint,
        server_name: emulator.server_name,
        ca_file: &emulator.ca_file,
        proxy: proxy(plan),
        environment: "sandbox",
        lane_kind: "test",
        quota_per_minute: fcm.quota_per_minute,
        backoff_min_ms: fcm.backoff_min_ms,
        request_deadline_ms: plan.request_deadline_ms,
        hpack_authorization: plan.authorization_literal.then_some("literal"),
    }
}

fn credential<'a>(
    plan: &'a ClusterPlan,
    emulator: &'a Served,
    key: &'a SigningKey,
) -> Result<CredentialTable<'a>, ClusterError> {
    let (name, kind) = (names::credential(emulator.platform), emulator.platform.as_str());
    match emulator.platform {
        Platform::Apns => Ok(CredentialTable::Apns {
            name,
            kind,
            key_file: &key.private,
            key_id: key.key_id,
            team_id: key.team_id,
        }),
        Platform::Fcm => {
            let (mut service_account_file, mut credentials_file) = (None, None);
            let mut application_default = None;
            match plan.network.credentials {
                Credentials::KeyFile => {
                    let token_uri = emulator.token_uri.as_deref().unwrap_or_default();
                    service_account_file = Some(keys::service_account(&plan.dir, token_uri)?);
                }
                Credentials::Metadata => application_default = Some(true),
                Credentials::WorkloadIdentity => {
                    network::external_account(&plan.dir, emulator)?;
                    credentials_file = Some(network::EXTERNAL_ACCOUNT);
                }
            }
            Ok(CredentialTable::Fcm {
                name,
                kind,
                project_id: service_account_file.is_none().then_some(names::PROJECT),
                service_account_file,
                credentials_file,
                application_default,
                ca_file: &emulator.ca_file,
                proxy: proxy(plan),
            })
        }
    }
}
