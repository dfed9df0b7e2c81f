//! Accounts of Google: key files, workload identities, and Application Default Credentials.
//!
//! | In `[[credentials]]` | Source of access tokens |
//! |---|---|
//! | `service_account_file` | the service account of this key file, for the file's project |
//! | `credentials_file`, `project_id` | this file: `service_account` or `external_account` |
//! | `application_default = true`, `project_id` | Application Default Credentials |
//!
//! Application Default Credentials are the first of: the file that `GOOGLE_APPLICATION_CREDENTIALS`
//! names, gcloud's own file, the metadata server. gcloud's file is
//! `application_default_credentials.json` in `CLOUDSDK_CONFIG` or `~/.config/gcloud`.
//! `GCE_METADATA_HOST` replaces the metadata server's name.
//!
//! **URIs of a file decide who gets the signed request or the subject token**, so a file from
//! someone else must not be used unseen. Endpoints that get a secret must be `https`; only a source
//! of subject tokens may be `http`, because metadata servers of other clouds are. Hosts are not
//! restricted: private endpoints of Google have names of their own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use self::file::Parsed;
use super::{
    given::Variables,
    lanes::Problem,
    pem::{self, Source},
};
use crate::lane_owner::TokenSource;

mod endpoint;
mod file;

/// Variable with the path of a credentials file.
const FILE_VARIABLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
/// Variable with another host, or host and port, of the metadata server.
const METADATA_VARIABLE: &str = "GCE_METADATA_HOST";
/// Default name of the metadata server.
const METADATA_HOST: &str = "metadata.google.internal";
/// Path of the token of the machine's default service account, with the scope for messages.
const METADATA_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token\
                             ?scopes=https://www.googleapis.com/auth/firebase.messaging";
/// Longest credentials file, bytes. Google's have some 3 KB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a table of `[[credentials]]` says of an account.
pub(super) struct Given {
    pub(super) service_account_file: Option<PathBuf>,
    pub(super) credentials_file: Option<PathBuf>,
    pub(super) application_default: bool,
    pub(super) project_id: Option<String>,
}

/// Finds the source of an account's tokens, and its project.
pub(super) fn source(
    given: Given,
    ca_pem: &str,
    variables: Variables,
) -> Result<(TokenSource, String), Problem> {
    let Given { service_account_file, credentials_file, application_default, project_id } = given;
    let project_id =
        project_id.map(|id| file::id("project_id", Some(id)).map_err(|e| split(&e))).transpose()?;
    let one = "must not be set with another source of credentials";
    match (service_account_file, credentials_file, application_default) {
        (Some(path), None, false) => {
            let key = "service_account_file";
            match read(key, &path, ca_pem)? {
                parsed @ Parsed { source: TokenSource::ServiceAccount(_), .. } => {
                    with_project(parsed, project_id)
                }
                _ => Err((
                    key,
                    format!(
                        "{}: type: must be \"service_account\"; got \"external_account\"; set \
                         credentials_file and project_id instead",
                        path.display()
                    ),
                )),
            }
        }
        (None, Some(path), false) => {
            with_project(read("credentials_file", &path, ca_pem)?, project_id)
        }
        (None, None, true) => {
            let key = "application_default";
            if let Some(path) = variables(FILE_VARIABLE).filter(|path| !path.is_empty()) {
                let parsed = read(key, Path::new(&path), ca_pem);
                let parsed = parsed.map_err(|(key, e)| (key, format!("{FILE_VARIABLE}: {e}")))?;
                return with_project(parsed, project_id);
            }
            if let Some(path) = gcloud_file(variables).filter(|path| path.is_file()) {
                return with_project(read(key, &path, ca_pem)?, project_id);
            }
            let parsed = Parsed { source: metadata(variables)?, project_id: None };
            with_project(parsed, project_id)
        }
        (Some(_), _, true) | (None, Some(_), true) => Err(("application_default", one.to_owned())),
        (Some(_), Some(_), false) => Err(("credentials_file", one.to_owned())),
        (None, None, false) => Err((
            "service_account_file",
            "is required with kind \"fcm\", or credentials_file, or application_default = true"
                .to_owned(),
        )),
    }
}

/// The project of the configuration, else the file's.
fn with_project(
    parsed: Parsed,
    project_id: Option<String>,
) -> Result<(TokenSource, String), Problem> {
    match (parsed.project_id, project_id) {
        (Some(of_file), Some(given)) if of_file != given => Err((
            "project_id",
            format!("must be the project of the service account, {of_file}; got {given}"),
        )),
        (_, Some(project)) | (Some(project), None) => Ok((parsed.source, project)),
        (None, None) => Err((
            "project_id",
            "is required: neither the metadata server nor an external_account names the project \
             of the apps"
                .to_owned(),
        )),
    }
}

/// Reads a credentials file.
fn read(key: &'static str, path: &Path, ca_pem: &str) -> Result<Parsed, Problem> {
    let shown = path.display().to_string();
    let error = |problem: String| (key, format!("{shown}: {problem}"));
    let length = fs::metadata(path).map_err(|e| error(format!("cannot be read: {e}")))?.len();
    if length > FILE_BYTES_MAX {
        return Err(error(format!("must be at most {FILE_BYTES_MAX} bytes; got {length} bytes")));
    }
    let bytes = fs::read(path).map_err(|e| error(format!("cannot be read: {e}")))?;
    let bytes = Zeroizing::new(bytes);
    let directory = path.parent().unwrap_or(Path::new(""));
    let text = pem::text(&bytes, Source::File(&shown)).map_err(error)?;
    file::parse(&text, ca_pem, directory).map_err(error)
}

fn gcloud_file(variables: Variables) -> Option<PathBuf> {
    let folder = match variables("CLOUDSDK_CONFIG").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(&variables("HOME")?).join(".config/gcloud"),
    };
    Some(folder.join("application_default_credentials.json"))
}

fn metadata(variables: Variables) -> Result<TokenSource, Problem> {
    let host = variables(METADATA_VARIABLE).filter(|host| !host.is_empty());
    let host = host.unwrap_or_else(|| METADATA_HOST.to_owned());
    let uri = format!("http://{host}{METADATA_PATH}");
    let endpoint = endpoint::plain_or_tls(METADATA_VARIABLE, &uri, "").map_err(|_| {
        ("application_default", format!("{METADATA_VARIABLE}: must be host or host:port"))
    })?;
    Ok(TokenSource::Metadata(endpoint))
}

/// Splits `key: problem`.
fn split(error: &str) -> Problem {
    ("project_id", error.strip_prefix("project_id: ").unwrap_or(error).to_owned())
}

#[cfg(test)]
mod tests;
