//! Keys shared by both sides of a run: the key for APNs' provider tokens, and FCM's service
//! account.

pub mod command;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use clarion_emulator::config::TEST_SERVICE_ACCOUNT_PRIVATE_KEY_PEM;
use serde::Serialize;

use crate::names::PROJECT;

/// Id of the key for provider tokens.
pub const KEY_ID: &str = "CLARION001";
/// Team to which the key for provider tokens belongs.
pub const TEAM_ID: &str = "LOADGEN001";
/// Service account that may send for [`PROJECT`].
pub const CLIENT_EMAIL: &str = "loadgen@clarion-load.iam.gserviceaccount.com";
/// `kid` of the service account's assertions.
pub const PRIVATE_KEY_ID: &str = "0123456789abcdef0123456789abcdef01234567";

/// Error for a key that could not be created or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot prepare {what}: {problem}")]
pub struct KeyError {
    what: String,
    problem: String,
}

impl KeyError {
    fn new(what: &str, problem: &dyn fmt::Display) -> Self {
        Self { what: what.to_owned(), problem: problem.to_string() }
    }
}

/// Key for provider tokens, created for one run.
#[derive(Debug, Clone)]
pub struct SigningKey {
    /// Private key file for the coordinator, in Apple's format: PKCS#8 in PEM.
    pub private: PathBuf,
    /// Public key file for the gateway: SubjectPublicKeyInfo in PEM.
    pub public: PathBuf,
    /// Id of the key, ten characters as in Apple's ids.
    pub key_id: &'static str,
    /// Id of the team, ten characters as in Apple's ids.
    pub team_id: &'static str,
}

/// Creates an ES256 key and writes its files.
///
/// # Errors
/// If the folder cannot be written.
pub fn signing_key(dir: &Path) -> Result<SigningKey, KeyError> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|e| KeyError::new("a signing key", &e))?;
    let (private, public) = (dir.join("provider-key.p8"), dir.join("provider-key.pub.pem"));
    write_private(&private, &key.serialize_pem())
        .map_err(|e| KeyError::new(&private.display().to_string(), &e))?;
    write_private(&public, &key.public_key_pem())
        .map_err(|e| KeyError::new(&public.display().to_string(), &e))?;
    Ok(SigningKey { private, public, key_id: KEY_ID, team_id: TEAM_ID })
}

/// Writes the key file of the service account; its key is the fixed one that the FCM emulator of a
/// run accepts.
///
/// # Errors
/// If the folder cannot be written.
pub fn service_account(dir: &Path, token_uri: &str) -> Result<PathBuf, KeyError> {
    let path = dir.join("service-account.json");
    let account = ServiceAccountFile {
        r#type: "service_account",
        project_id: PROJECT,
        private_key_id: PRIVATE_KEY_ID,
        private_key: TEST_SERVICE_ACCOUNT_PRIVATE_KEY_PEM,
        client_email: CLIENT_EMAIL,
        token_uri,
    };
    let text = serde_json::to_string_pretty(&account)
        .map_err(|e| KeyError::new("the service account", &e))?;
    write_private(&path, &text).map_err(|e| KeyError::new(&path.display().to_string(), &e))?;
    Ok(path)
}

/// Writes a file that only its owner can read.
///
/// # Errors
/// If the file cannot be written.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt};
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}

/// Fields of Google's key file that FCM clients read.
#[derive(Debug, Serialize)]
struct ServiceAccountFile<'a> {
    r#type: &'a str,
    project_id: &'a str,
    private_key_id: &'a str,
    private_key: &'a str,
    client_email: &'a str,
    token_uri: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_private(&path, "secret").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
