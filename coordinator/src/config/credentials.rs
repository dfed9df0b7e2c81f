//! `[[credentials]]`: reads keys and tries them, so that a coordinator that starts can sign. Errors
//! never show any content of a key file.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use clarion_proto::app::Platform;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RsaKeyPair};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{
    ConfigError,
    given::Place,
    lanes::{Problem, ca, name, one_of},
};
use crate::{
    lane::Gateway,
    lane_owner::{ApnsKey, Credential, ServiceAccount, TokenEndpoint},
};

/// Longest identifier of a key file, bytes: identifiers go into claims and a request line.
const ID_BYTES_MAX: usize = 512;

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
    ca_file: Option<PathBuf>,
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
            return Err(place.error(format!("credentials[{i}].service_account_file"), problem));
        }
    }
    Ok(())
}

fn credential(table: CredentialTable, place: &Place<'_>) -> Result<Credential, Problem> {
    name(&table.name)?;
    let kind = one_of("kind", &table.kind, &[("apns", Kind::Apns), ("fcm", Kind::Fcm)])?;
    let CredentialTable {
        name,
        kind: word,
        key_file,
        key_id,
        team_id,
        service_account_file,
        ca_file,
    } = table;
    let foreign = |key, given: bool| match given {
        true => Err((key, format!("must not be set with kind {word:?}"))),
        false => Ok(()),
    };
    let missing = |key| (key, format!("is required with kind {word:?}"));
    match kind {
        Kind::Apns => {
            foreign("service_account_file", service_account_file.is_some())?;
            foreign("ca_file", ca_file.is_some())?;
            let path = place.resolve(&key_file.ok_or_else(|| missing("key_file"))?);
            let key_id = apple_id("key_id", key_id.ok_or_else(|| missing("key_id"))?)?;
            let team_id = apple_id("team_id", team_id.ok_or_else(|| missing("team_id"))?)?;
            Ok(Credential::Apns(ApnsKey { name, key_id, team_id, key_pem: apns_key(&path)? }))
        }
        Kind::Fcm => {
            foreign("key_file", key_file.is_some())?;
            foreign("key_id", key_id.is_some())?;
            foreign("team_id", team_id.is_some())?;
            let path = place
                .resolve(&service_account_file.ok_or_else(|| missing("service_account_file"))?);
            let ca_pem =
                ca_file.map(|path| ca(&place.resolve(&path))).transpose()?.unwrap_or_default();
            let error = |problem: String| {
                ("service_account_file", format!("{}: {problem}", path.display()))
            };
            let json = read(&path).map_err(error)?;
            service_account(name, json.expose_secret(), ca_pem).map(Credential::Fcm).map_err(error)
        }
    }
}

fn read(path: &Path) -> Result<SecretString, String> {
    fs::read_to_string(path).map(SecretString::from).map_err(|e| format!("cannot be read: {e}"))
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
    let pem = read(path).map_err(error)?;
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.expose_secret().as_bytes())
        .map_err(|_| error("must have a `PRIVATE KEY` in PEM (a .p8 file)".to_owned()))?;
    EcdsaKeyPair::from_pkcs8(
        &ECDSA_P256_SHA256_FIXED_SIGNING,
        der.secret_pkcs8_der(),
        &ring::rand::SystemRandom::new(),
    )
    .map_err(|_| error("must be a PKCS#8 key on the curve P-256".to_owned()))?;
    Ok(pem)
}

/// Members of Google's key file that Clarion uses.
#[derive(Deserialize)]
struct KeyFile {
    r#type: Option<String>,
    project_id: Option<String>,
    private_key_id: Option<String>,
    private_key: Option<SecretText>,
    client_email: Option<String>,
    token_uri: Option<String>,
}

/// Text that the parser puts straight into a secret.
struct SecretText(SecretString);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(SecretString::from(text)))
    }
}

/// Checks a key file. The parser's words could show the file's content, so errors have only the
/// line and the column.
fn service_account(name: String, json: &str, ca_pem: String) -> Result<ServiceAccount, String> {
    let file: KeyFile = serde_json::from_str(json).map_err(|e| {
        let what =
            if e.is_data() { "must be a service account's key file" } else { "must be JSON" };
        format!("{what}; stopped at line {}, column {}", e.line(), e.column())
    })?;
    match file.r#type.as_deref() {
        Some("service_account") => {}
        _ => return Err("type: must be \"service_account\"".to_owned()),
    }
    let project_id = id("project_id", file.project_id)?;
    let client_email = id("client_email", file.client_email)?;
    if !client_email.contains('@') {
        return Err("client_email: must be an e-mail address".to_owned());
    }
    let private_key_id =
        file.private_key_id.map(|given| id("private_key_id", Some(given))).transpose()?;
    let private_key_pem = file.private_key.ok_or("private_key: is required")?.0;
    check_rsa(&private_key_pem)?;
    let token_endpoint = token_endpoint(&id("token_uri", file.token_uri)?, ca_pem)?;
    Ok(ServiceAccount {
        name,
        project_id,
        client_email,
        private_key_id: private_key_id.unwrap_or_default(),
        private_key_pem,
        token_endpoint,
    })
}

fn id(key: &str, given: Option<String>) -> Result<String, String> {
    let given =
        given.filter(|given| !given.is_empty()).ok_or_else(|| format!("{key}: is required"))?;
    if given.len() > ID_BYTES_MAX {
        return Err(format!(
            "{key}: must be at most {ID_BYTES_MAX} bytes; got {} bytes",
            given.len()
        ));
    }
    if !given.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!("{key}: must have only visible ASCII characters"));
    }
    Ok(given)
}

/// Checks an RSA key, PKCS#8 in PEM. ring signs only with 2,048 to 4,096 bits, so other keys would
/// fail later.
fn check_rsa(pem: &SecretString) -> Result<(), String> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.expose_secret().as_bytes())
        .map_err(|_| "private_key: must have a `PRIVATE KEY` in PEM")?;
    RsaKeyPair::from_pkcs8(der.secret_pkcs8_der())
        .map_err(|e| format!("private_key: must be an RSA key of 2,048 to 4,096 bits; got {e}"))?;
    Ok(())
}

/// Parses `https://host[:port][/path]`: signed requests must not be sent in plaintext, nor with a
/// password in the URI.
fn token_endpoint(uri: &str, ca_pem: String) -> Result<TokenEndpoint, String> {
    let wrong = || "token_uri: must be https://host/path".to_owned();
    let parsed: http::Uri = uri.parse().map_err(|_| wrong())?;
    let authority = parsed.authority().filter(|a| !a.as_str().contains('@')).ok_or_else(wrong)?;
    if parsed.scheme_str() != Some("https") || uri.contains('#') {
        return Err(wrong());
    }
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    rustls_pki_types::ServerName::try_from(host.as_str()).map_err(|_| wrong())?;
    let port = match authority
        .as_str()
        .strip_prefix(authority.host())
        .and_then(|rest| rest.strip_prefix(':'))
    {
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?,
        None => 443,
    };
    Ok(TokenEndpoint { uri: uri.to_owned(), host, port, ca_pem })
}

#[cfg(test)]
mod tests;
