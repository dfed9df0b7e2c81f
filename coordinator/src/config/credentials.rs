//! `[[credentials]]`: reads keys and tries them, so that a coordinator that starts can sign. Errors
//! never show any content of a key file.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use clarion_proto::app::Platform;
use secrecy::SecretString;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    ConfigError,
    given::Place,
    google,
    lanes::{Problem, ca, name, one_of},
    pem::{self, Algorithm, Source},
    proxy::{self, ProxySetting},
};
use crate::{
    lane::Gateway,
    lane_owner::{ApnsKey, Credential, GoogleAccount, TokenSource},
};

/// One table of `[[credentials]]` as written, before any check.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialTable {
    name: String,
    kind: String,
    key_file: Option<PathBuf>,
    key_id: Option<String>,
    team_id: Option<String>,
    service_account_file: Option<PathBuf>,
    credentials_file: Option<PathBuf>,
    application_default: Option<bool>,
    project_id: Option<String>,
    ca_file: Option<PathBuf>,
    proxy: Option<ProxySetting>,
}

#[derive(Clone, Copy)]
enum Kind {
    Apns,
    Fcm,
}

/// Checks all credentials, and reads and tries their key files.
pub(super) fn credentials(
    tables: Vec<CredentialTable>,
    place: &Place<'_>,
) -> Result<Vec<Credential>, ConfigError> {
    let mut credentials: Vec<Credential> = Vec::with_capacity(tables.len());
    for (i, table) in tables.into_iter().enumerate() {
        let credential = credential(table, place)
            .map_err(|(key, problem)| place.error(format!("credentials[{i}].{key}"), problem))?;
        if credentials.iter().any(|c| c.name() == credential.name()) {
            let problem = format!("must be unique; got {} twice", credential.name());
            return Err(place.error(format!("credentials[{i}].name"), problem));
        }
        credentials.push(credential);
    }
    Ok(credentials)
}

/// Checks that no two lanes spend one quota. Google counts the requests of a project, and a lane
/// gets the whole quota of its gateway: two accounts of one project, or two gateways at one
/// endpoint, would get the quota twice.
pub(super) fn share_no_quota(
    credentials: &[Credential],
    gateways: &[Gateway],
    place: &Place<'_>,
) -> Result<(), ConfigError> {
    let limited = gateways.iter().any(|g| g.platform == Platform::Fcm && g.quota.is_some());
    for (i, gateway) in gateways.iter().enumerate().filter(|_| limited) {
        let same = |other: &&Gateway| {
            other.platform == Platform::Fcm && other.endpoint == gateway.endpoint
        };
        if let Some(other) =
            gateways[..i].iter().filter(|_| gateway.platform == Platform::Fcm).find(same)
        {
            let (endpoint, other) = (&gateway.endpoint, &other.name);
            let problem = format!(
                "must differ from gateway {other}, with which it would share a quota; \
                 got {endpoint}"
            );
            return Err(place.error(format!("gateways[{i}].endpoint"), problem));
        }
    }
    let mut projects = BTreeMap::new();
    for (i, credential) in credentials.iter().enumerate().filter(|_| limited) {
        let Credential::Fcm(account) = credential else { continue };
        if let Some(other) = projects.insert(&account.project_id, &account.name) {
            let problem = format!(
                "must have another project than credential {other}, with which it would share a \
                 quota; got {}",
                account.project_id
            );
            return Err(place.error(format!("credentials[{i}].{}", project_key(account)), problem));
        }
    }
    Ok(())
}

/// Key of the configuration that an account's project is from.
fn project_key(account: &GoogleAccount) -> &'static str {
    match account.source {
        TokenSource::ServiceAccount(_) => "service_account_file",
        TokenSource::Metadata(_) | TokenSource::ExternalAccount(_) => "project_id",
    }
}

fn credential(table: CredentialTable, place: &Place<'_>) -> Result<Credential, Problem> {
    name(&table.name)?;
    let kind = one_of("kind", &table.kind, &[("apns", Kind::Apns), ("fcm", Kind::Fcm)])?;
    let CredentialTable { name, kind: word, .. } = &table;
    let (name, word) = (name.clone(), word.clone());
    let foreign = |key, given: bool| match given {
        true => Err((key, format!("must not be set with kind {word:?}"))),
        false => Ok(()),
    };
    let missing = |key| (key, format!("is required with kind {word:?}"));
    match kind {
        Kind::Apns => {
            foreign("service_account_file", table.service_account_file.is_some())?;
            foreign("credentials_file", table.credentials_file.is_some())?;
            foreign("application_default", table.application_default.is_some())?;
            foreign("project_id", table.project_id.is_some())?;
            foreign("ca_file", table.ca_file.is_some())?;
            foreign("proxy", table.proxy.is_some())?;
            let path = place.resolve(&table.key_file.ok_or_else(|| missing("key_file"))?);
            let key_id = apple_id("key_id", table.key_id.ok_or_else(|| missing("key_id"))?)?;
            let team_id = apple_id("team_id", table.team_id.ok_or_else(|| missing("team_id"))?)?;
            Ok(Credential::Apns(ApnsKey { name, key_id, team_id, key_pem: apns_key(&path)? }))
        }
        Kind::Fcm => {
            foreign("key_file", table.key_file.is_some())?;
            foreign("key_id", table.key_id.is_some())?;
            foreign("team_id", table.team_id.is_some())?;
            let route = proxy::route(table.proxy, place)?;
            let ca_pem = table
                .ca_file
                .map(|path| ca(&place.resolve(&path)))
                .transpose()?
                .unwrap_or_default();
            let given = google::Given {
                service_account_file: table.service_account_file.map(|path| place.resolve(&path)),
                credentials_file: table.credentials_file.map(|path| place.resolve(&path)),
                application_default: table.application_default.unwrap_or(false),
                project_id: table.project_id,
            };
            let (source, project_id) = google::source(given, &ca_pem, place.variables)?;
            Ok(Credential::Fcm(GoogleAccount { name, project_id, source, route }))
        }
    }
}

/// Checks one of Apple's key and team ids, which go into a JSON header.
fn apple_id(key: &'static str, id: String) -> Result<String, Problem> {
    if id.len() != 10 || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err((key, format!("must be 10 letters and digits; got {} bytes", id.len())));
    }
    Ok(id)
}

/// Reads a key as Apple issues it: PKCS#8 in PEM, on the curve P-256.
fn apns_key(path: &Path) -> Result<SecretString, Problem> {
    let error = |problem: String| ("key_file", format!("{}: {problem}", path.display()));
    let bytes = fs::read(path).map_err(|e| error(format!("cannot be read: {e}")))?;
    let file = path.display().to_string();
    pem::private_key(&Zeroizing::new(bytes), Algorithm::P256, Source::File(&file)).map_err(error)
}

#[cfg(test)]
mod tests;
