//! What the processes of a run are given: a signing key, and the coordinator's configuration.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{ClusterError, emulator::Emulator, prepare, write_private};
use crate::drive::alert::{CREDENTIAL, GATEWAY};

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
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|e| prepare("a signing key", e))?;
    let (private, public) = (dir.join("provider-key.p8"), dir.join("provider-key.pub.pem"));
    write_private(&private, &key.serialize_pem()).map_err(|e| prepare(&private.display().to_string(), e))?;
    write_private(&public, &key.public_key_pem()).map_err(|e| prepare(&public.display().to_string(), e))?;
    Ok(SigningKey { private, public, key_id: "CLARION001", team_id: "LOADGEN001" })
}

/// The part of the coordinator's configuration that a run sets; everything else keeps its default, as for anybody else.
#[derive(Debug, Serialize)]
struct CoordinatorFile<'a> {
    listen: String,
    health_listen: String,
    nodes: &'a [String],
    gateways: [GatewayTable<'a>; 1],
    credentials: [CredentialTable<'a>; 1],
}

#[derive(Debug, Serialize)]
struct GatewayTable<'a> {
    name: &'a str,
    platform: &'a str,
    endpoint: &'a str,
    server_name: &'a str,
    ca_file: &'a Path,
    environment: &'a str,
    lane_kind: &'a str,
}

#[derive(Debug, Serialize)]
struct CredentialTable<'a> {
    name: &'a str,
    kind: &'a str,
    key_file: &'a Path,
    key_id: &'a str,
    team_id: &'a str,
}

/// Writes the coordinator's configuration.
///
/// # Errors
/// The folder cannot be written to.
pub fn coordinator_config(
    dir: &Path,
    port: u16,
    nodes: &[String],
    emulator: &Emulator,
    key: &SigningKey,
) -> Result<PathBuf, ClusterError> {
    let file = CoordinatorFile {
        listen: format!("127.0.0.1:{port}"),
        health_listen: "127.0.0.1:0".to_owned(),
        nodes,
        gateways: [GatewayTable {
            name: GATEWAY,
            platform: "apns",
            endpoint: &emulator.endpoint,
            server_name: emulator.server_name,
            ca_file: &emulator.ca_file,
            environment: "sandbox",
            lane_kind: "test",
        }],
        credentials: [CredentialTable {
            name: CREDENTIAL,
            kind: "apns",
            key_file: &key.private,
            key_id: key.key_id,
            team_id: key.team_id,
        }],
    };
    let path = dir.join("coordinator.toml");
    let text = toml::to_string(&file).map_err(|e| prepare("the coordinator's configuration", e))?;
    write_private(&path, &text).map_err(|e| prepare(&path.display().to_string(), e))?;
    Ok(path)
}
