//! Google's credentials files: JSON with a `type`. Files of other kinds that people take for one
//! are named.

use std::path::Path;

use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::endpoint;
use crate::{
    config::pem::{self, Algorithm, Source},
    lane_owner::{ExternalAccount, Headers, ServiceAccount, SubjectSource, TokenSource},
};

/// Longest identifier of a file, bytes: identifiers go into claims and a request line.
const ID_BYTES_MAX: usize = 512;
/// Requested lifetime of an impersonated account's token, seconds, and its range: Google allows
/// more than an hour only by a policy of the organization.
const LIFETIME_SECONDS: u64 = 3_600;
const LIFETIME_SECONDS_RANGE: std::ops::RangeInclusive<u64> = 600..=3_600;

/// A file's content, checked.
pub(super) struct Parsed {
    pub(super) source: TokenSource,
    /// Project of a service account; `None`: the file names none.
    pub(super) project_id: Option<String>,
}

/// Members of a service account's key file that Clarion uses.
#[derive(Deserialize)]
struct KeyFile {
    project_id: Option<String>,
    private_key_id: Option<String>,
    private_key: Option<SecretText>,
    client_email: Option<String>,
    token_uri: Option<String>,
}

/// Members of an `external_account` file.
#[derive(Deserialize)]
struct ExternalFile {
    audience: Option<String>,
    subject_token_type: Option<String>,
    token_url: Option<String>,
    credential_source: Option<SourceOfSubject>,
    service_account_impersonation_url: Option<String>,
    service_account_impersonation: Option<Impersonation>,
    workforce_pool_user_project: Option<String>,
    client_secret: Option<SecretText>,
}

#[derive(Deserialize)]
struct Impersonation {
    token_lifetime_seconds: Option<u64>,
}

#[derive(Deserialize)]
struct SourceOfSubject {
    file: Option<String>,
    url: Option<String>,
    headers: Option<std::collections::BTreeMap<String, String>>,
    format: Option<Format>,
    environment_id: Option<String>,
    executable: Option<serde::de::IgnoredAny>,
    certificate: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Format {
    r#type: Option<String>,
    subject_token_field_name: Option<String>,
}

/// Text that the parser puts straight into a secret.
struct SecretText(SecretString);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(SecretString::from(text)))
    }
}

/// Parses a file of the directory. The parser's words could show the file's content, so errors have
/// only the line and the column.
pub(super) fn parse(json: &SecretString, ca_pem: &str, directory: &Path) -> Result<Parsed, String> {
    let json = json.expose_secret();
    if json.trim_start().starts_with("-----BEGIN") {
        return Err("is PEM; must be the JSON file that Google issued".to_owned());
    }
    if json.trim_start().starts_with('<') {
        return Err(format!("is XML, such as GoogleService-Info.plist: {OF_AN_APP}"));
    }
    let value: Value = typed(json, "")?;
    match kind(&value)? {
        "service_account" => service_account(typed(json, "a service account's key file")?, ca_pem),
        "external_account" => {
            external_account(typed(json, "an external_account file")?, ca_pem, directory)
        }
        "authorized_user" => Err(refused(
            "authorized_user",
            "a person's login cannot send, because FCM demands a quota project beside it; use a \
             service account, or a workload identity",
        )),
        "impersonated_service_account" | "external_account_authorized_user" => Err(refused(
            value["type"].as_str().unwrap_or_default(),
            "a person's login is not supported; use a service account, or a workload identity",
        )),
        _ => Err("type: must be \"service_account\" or \"external_account\"".to_owned()),
    }
}

const OF_AN_APP: &str = "the configuration of an app, which has no key; create a key in the \
                         Firebase console: Project settings, Service accounts, Generate new \
                         private key";

/// Type of a credentials file, or what the file is instead.
fn kind(value: &Value) -> Result<&str, String> {
    let Some(members) = value.as_object() else {
        let found = if value.is_array() { "an array" } else { "a single value" };
        return Err(format!("must be a JSON object; got {found}"));
    };
    if members.contains_key("project_info") && members.contains_key("client") {
        return Err(format!("is google-services.json: {OF_AN_APP}"));
    }
    if members.contains_key("installed") || members.contains_key("web") {
        return Err("is an OAuth client for logins of people; must be a key file of a service \
                    account"
            .to_owned());
    }
    match value.get("type") {
        Some(Value::String(kind)) => Ok(kind),
        _ => Err("type: must be \"service_account\" or \"external_account\"".to_owned()),
    }
}

fn refused(kind: &str, why: &str) -> String {
    format!("type: must be \"service_account\" or \"external_account\"; got {kind:?}: {why}")
}

fn typed<T: DeserializeOwned>(json: &str, what: &str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|e| {
        let what = if e.is_data() { format!("must be {what}") } else { "must be JSON".to_owned() };
        format!("{what}; stopped at line {}, column {}", e.line(), e.column())
    })
}

fn service_account(file: KeyFile, ca_pem: &str) -> Result<Parsed, String> {
    let project_id = id("project_id", file.project_id)?;
    let client_email = id("client_email", file.client_email)?;
    if !client_email.contains('@') {
        return Err("client_email: must be an e-mail address".to_owned());
    }
    let private_key_id =
        file.private_key_id.map(|given| id("private_key_id", Some(given))).transpose()?;
    let key = file.private_key.ok_or("private_key: is required")?.0;
    let key = pem::private_key(key.expose_secret().as_bytes(), Algorithm::Rsa, Source::Json)
        .map_err(|problem| format!("private_key: {problem}"))?;
    let token_endpoint = endpoint::tls("token_uri", &id("token_uri", file.token_uri)?, ca_pem)?;
    let source = TokenSource::ServiceAccount(ServiceAccount {
        client_email,
        private_key_id: private_key_id.unwrap_or_default(),
        private_key_pem: key,
        token_endpoint,
    });
    Ok(Parsed { source, project_id: Some(project_id) })
}

fn external_account(file: ExternalFile, ca_pem: &str, directory: &Path) -> Result<Parsed, String> {
    if file.workforce_pool_user_project.is_some() || file.client_secret.is_some() {
        return Err("workforce_pool_user_project, client_secret: workforce pools are for people, \
                    and not supported; use a workload identity pool"
            .to_owned());
    }
    let audience = id("audience", file.audience)?;
    let subject_token_type = id("subject_token_type", file.subject_token_type)?;
    let token_endpoint = endpoint::tls("token_url", &id("token_url", file.token_url)?, ca_pem)?;
    let given = file.credential_source.ok_or("credential_source: is required")?;
    let (subject, subject_field) = subject(given, ca_pem, directory)
        .map_err(|problem| format!("credential_source.{problem}"))?;
    let key = "service_account_impersonation_url";
    let impersonation = file
        .service_account_impersonation_url
        .map(|url| endpoint::tls(key, &id(key, Some(url))?, ca_pem))
        .transpose()?;
    let lifetime_seconds = file
        .service_account_impersonation
        .and_then(|given| given.token_lifetime_seconds)
        .unwrap_or(LIFETIME_SECONDS);
    if !LIFETIME_SECONDS_RANGE.contains(&lifetime_seconds) {
        let (min, max) = (LIFETIME_SECONDS_RANGE.start(), LIFETIME_SECONDS_RANGE.end());
        return Err(format!(
            "service_account_impersonation.token_lifetime_seconds: must be {min} to {max}; got \
             {lifetime_seconds}"
        ));
    }
    let source = TokenSource::ExternalAccount(Box::new(ExternalAccount {
        audience,
        subject_token_type,
        subject,
        subject_field,
        token_endpoint,
        impersonation,
        lifetime_seconds,
    }));
    Ok(Parsed { source, project_id: None })
}

/// Source of the subject token, and the member of its JSON.
fn subject(
    given: SourceOfSubject,
    ca_pem: &str,
    directory: &Path,
) -> Result<(SubjectSource, Option<String>), String> {
    let unsupported = [
        ("environment_id", given.environment_id.is_some(), "AWS"),
        ("executable", given.executable.is_some(), "executable"),
        ("certificate", given.certificate.is_some(), "X.509"),
    ];
    if let Some((key, _, name)) = unsupported.into_iter().find(|(_, is_given, _)| *is_given) {
        return Err(format!("{key}: {name} sources are not supported; use file or url"));
    }
    let field = match given.format {
        None => None,
        Some(format) => match format.r#type.as_deref() {
            None | Some("text") => None,
            Some("json") => {
                Some(id("format.subject_token_field_name", format.subject_token_field_name)?)
            }
            Some(_) => return Err("format.type: must be \"text\" or \"json\"".to_owned()),
        },
    };
    let source = match (given.file, given.url) {
        (Some(path), None) if !path.is_empty() => SubjectSource::File(directory.join(path)),
        (None, Some(url)) => {
            let endpoint = endpoint::plain_or_tls("url", &url, ca_pem)?;
            let headers = given.headers.unwrap_or_default().into_iter().map(|(name, value)| {
                let name = HeaderName::try_from(name).ok()?;
                let mut value = HeaderValue::try_from(value).ok()?;
                value.set_sensitive(true);
                Some((name, value))
            });
            let headers: Option<Vec<_>> = headers.collect();
            SubjectSource::Url(endpoint, Headers(headers.ok_or("headers: must be HTTP headers")?))
        }
        _ => return Err("file: must be set, or url; not both".to_owned()),
    };
    Ok((source, field))
}

/// Checks an identifier of a file.
pub(super) fn id(key: &str, given: Option<String>) -> Result<String, String> {
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
