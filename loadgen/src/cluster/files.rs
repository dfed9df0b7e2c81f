//! What the processes of a run are given: keys, and the coordinator's configuration.

use std::path::{Path, PathBuf};

use clarion_emulator::{Platform, config::TEST_SERVICE_ACCOUNT_PRIVATE_KEY_PEM};
use serde::Serialize;

use super::{ClusterError, ClusterPlan, Started, emulator::Served, prepare, write_private};
use crate::drive::alert::{credential_name, gateway_name};

/// The one project of the FCM emulator.
pub const PROJECT: &str = "clarion-load";
/// Who may send for it.
pub const CLIENT_EMAIL: &str = "loadgen@clarion-load.iam.gserviceaccount.com";
/// `kid` of what it signs.
pub const PRIVATE_KEY_ID: &str = "0123456789abcdef0123456789abcdef01234567";

/// A key for provider tokens, made for this run.
#[derive(Debug, Clone)]
pub struct SigningKey {
    /// As Apple hands it out: PKCS#8 in PEM.
    pub private: PathBuf,
    /// For the gateway that checks it: SubjectPublicKeyInfo in PEM.
    pub public: PathBuf,
    /// Ten characters, as Apple's.
    pub key_id: &'static str,
    /// Ten characters, as Apple's.
    pub team_id: &'static str,
}

/// Makes an ES256 key.
///
/// # Errors
/// The folder cannot be written to.
pub fn signing_key(dir: &Path) -> Result<SigningKey, ClusterError> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|e| prepare("a signing key", e))?;
    let (private, public) = (dir.join("provider-key.p8"), dir.join("provider-key.pub.pem"));
    write_private(&private, &key.serialize_pem())
        .map_err(|e| prepare(&private.display().to_string(), e))?;
    write_private(&public, &key.public_key_pem())
        .map_err(|e| prepare(&public.display().to_string(), e))?;
    Ok(SigningKey { private, public, key_id: "CLARION001", team_id: "LOADGEN001" })
}

/// Writes the key file of the service account; its key is the fixed one that the FCM emulator of a run believes.
///
/// # Errors
/// The folder cannot be written to.
pub fn service_account(dir: &Path, token_uri: &str) -> Result<PathBuf, ClusterError> {
    let path = dir.join("service-account.json");
    let account = ServiceAccountFile {
        r#type: "service_account",
        project_id: PROJECT,
        private_key_id: PRIVATE_KEY_ID,
        private_key: TEST_SERVICE_ACCOUNT_PRIVATE_KEY_PEM,
        client_email: CLIENT_EMAIL,
        token_uri,
    };
    let text =
        serde_json::to_string_pretty(&account).map_err(|e| prepare("the service account", e))?;
    write_private(&path, &text).map_err(|e| prepare(&path.display().to_string(), e))?;
    Ok(path)
}

/// The part of the coordinator's configuration that a run sets; everything else keeps its default, as for anybody else.
#[derive(Debug, Serialize)]
struct CoordinatorFile<'a> {
    listen: String,
    health_listen: String,
    feed_listen: String,
    nodes: &'a [String],
    cluster: Option<&'a str>,
    partitions: Option<u16>,
    gateways: Vec<GatewayTable<'a>>,
    credentials: Vec<CredentialTable<'a>>,
}

/// `None` is left out of the file.
#[derive(Debug, Serialize)]
struct GatewayTable<'a> {
    name: &'a str,
    platform: &'a str,
    endpoint: &'a str,
    server_name: &'a str,
    ca_file: &'a Path,
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
    Apns { name: &'a str, kind: &'a str, key_file: &'a Path, key_id: &'a str, team_id: &'a str },
    Fcm { name: &'a str, kind: &'a str, service_account_file: PathBuf, ca_file: &'a Path },
}

/// As Google hands it out, but for what only its other services read.
#[derive(Debug, Serialize)]
struct ServiceAccountFile<'a> {
    r#type: &'a str,
    project_id: &'a str,
    private_key_id: &'a str,
    private_key: &'a str,
    client_email: &'a str,
    token_uri: &'a str,
}

/// Writes the coordinator's configuration, and the key file of the service account that it names.
///
/// # Errors
/// The folder cannot be written to.
pub fn coordinator_config(
    plan: &ClusterPlan,
    (name, listen, feed_listen): (&str, String, String),
    nodes: &[String],
    (emulators, key): (&[Served], &SigningKey),
    other: Started<'_>,
) -> Result<PathBuf, ClusterError> {
    let credentials = emulators.iter().map(|emulator| credential(&plan.dir, emulator, key));
    let file = CoordinatorFile {
        listen,
        health_listen: "127.0.0.1:0".to_owned(),
        feed_listen,
        nodes,
        cluster: other.cluster,
        partitions: other.partitions,
        gateways: emulators.iter().map(|emulator| gateway(plan, emulator)).collect(),
        credentials: credentials.collect::<Result<_, _>>()?,
    };
    let path = plan.dir.join(format!("{name}.toml"));
    let text = toml::to_string(&file).map_err(|e| prepare("the coordinator's configuration", e))?;
    write_private(&path, &text).map_err(|e| prepare(&path.display().to_string(), e))?;
    Ok(path)
}

fn gateway<'a>(plan: &ClusterPlan, emulator: &'a Served) -> GatewayTable<'a> {
    let fcm = Some(plan.fcm).filter(|_| emulator.platform == Platform::Fcm).unwrap_or_default();
    GatewayTable {
        name: gateway_name(emulator.platform),
        platform: emulator.platform.as_str(),
        endpoint: &emulator.endpoint,
        server_name: emulator.server_name,
        ca_file: &emulator.ca_file,
        environment: "sandbox",
        lane_kind: "test",
        quota_per_minute: fcm.quota_per_minute,
        backoff_min_ms: fcm.backoff_min_ms,
        request_deadline_ms: plan.request_deadline_ms,
        hpack_authorization: plan.authorization_literal.then_some("literal"),
    }
}

fn credential<'a>(
    dir: &Path,
    emulator: &'a Served,
    key: &'a SigningKey,
) -> Result<CredentialTable<'a>, ClusterError> {
    let (name, kind) = (credential_name(emulator.platform), emulator.platform.as_str());
    match emulator.platform {
        Platform::Apns => Ok(CredentialTable::Apns {
            name,
            kind,
            key_file: &key.private,
            key_id: key.key_id,
            team_id: key.team_id,
        }),
        Platform::Fcm => {
            let service_account_file =
                service_account(dir, emulator.token_uri.as_deref().unwrap_or_default())?;
            Ok(CredentialTable::Fcm {
                name,
                kind,
                service_account_file,
                ca_file: &emulator.ca_file,
            })
        }
    }
}
