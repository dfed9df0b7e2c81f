//! Gateways and credentials: the two halves of a lane.

use std::{fs, path::PathBuf, time::Duration};

use clarion_proto::{
    app::{Environment, LaneKind, Platform},
    ids::AppName,
};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{ConfigError, GatewayConfig, Place};
use crate::lane_owner::{Credential, Gateway, Quota};

/// `[[gateways]]` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GatewayTable {
    name: String,
    platform: String,
    endpoint: String,
    server_name: Option<String>,
    ca_file: Option<PathBuf>,
    environment: String,
    lane_kind: String,
    connections: Option<u32>,
    streams_per_connection: Option<u32>,
    request_deadline_ms: Option<u32>,
    connect_deadline_ms: Option<u32>,
    backoff_min_ms: Option<u32>,
    backoff_max_ms: Option<u32>,
    hpack_authorization: Option<String>,
    quota_per_minute: Option<u32>,
    burst: Option<u32>,
}

/// `[[credentials]]` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CredentialTable {
    name: String,
    kind: String,
    key_file: PathBuf,
    key_id: String,
    team_id: String,
}

/// Checks all gateways.
pub(super) fn gateways(tables: Vec<GatewayTable>, place: &Place<'_>) -> Result<Vec<GatewayConfig>, ConfigError> {
    let mut gateways: Vec<GatewayConfig> = Vec::with_capacity(tables.len());
    for (i, table) in tables.into_iter().enumerate() {
        let gateway =
            gateway(table, place).map_err(|(key, problem)| place.error(format!("gateways[{i}].{key}"), problem))?;
        if gateways.iter().any(|g| g.gateway.name == gateway.gateway.name) {
            let problem = format!("{} is the name of another gateway", gateway.gateway.name);
            return Err(place.error(format!("gateways[{i}].name"), problem));
        }
        gateways.push(gateway);
    }
    Ok(gateways)
}

/// Checks all credentials; their keys are read and tried.
pub(super) fn credentials(tables: Vec<CredentialTable>, place: &Place<'_>) -> Result<Vec<Credential>, ConfigError> {
    let mut credentials: Vec<Credential> = Vec::with_capacity(tables.len());
    for (i, table) in tables.into_iter().enumerate() {
        let credential = credential(table, place)
            .map_err(|(key, problem)| place.error(format!("credentials[{i}].{key}"), problem))?;
        if credentials.iter().any(|c| c.name == credential.name) {
            let problem = format!("{} is the name of another credential", credential.name);
            return Err(place.error(format!("credentials[{i}].name"), problem));
        }
        credentials.push(credential);
    }
    Ok(credentials)
}

/// Checks `host:port` and gives both.
pub(super) fn host_port(text: &str) -> Result<(&str, u16), String> {
    let wrong = || format!("must be host:port, is {text:?}");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || port == 0 || host.contains(char::is_whitespace) || (host.contains(':') && !bracketed) {
        return Err(wrong());
    }
    Ok((host, port))
}

type Problem = (&'static str, String);

fn gateway(table: GatewayTable, place: &Place<'_>) -> Result<GatewayConfig, Problem> {
    name(&table.name)?;
    let platform = one_of("platform", &table.platform, &[("apns", Platform::Apns)])?;
    let environments = [("sandbox", Environment::Sandbox), ("production", Environment::Production)];
    let environment = one_of("environment", &table.environment, &environments)?;
    let lane_kind = one_of("lane_kind", &table.lane_kind, &[("live", LaneKind::Live), ("test", LaneKind::Test)])?;
    let indexed = table.hpack_authorization.as_deref().unwrap_or("indexed");
    let indexed = one_of("hpack_authorization", indexed, &[("indexed", true), ("literal", false)])?;
    let (host, _) = host_port(&table.endpoint).map_err(|problem| ("endpoint", problem))?;
    let server_name = table.server_name.unwrap_or_else(|| host.trim_matches(['[', ']']).to_owned());
    rustls_pki_types::ServerName::try_from(server_name.as_str())
        .map_err(|_| ("server_name", format!("must be a DNS name or an address, is {server_name:?}")))?;
    let number = |key, value: Option<u32>, default, max| {
        let value = value.unwrap_or(default);
        let problem = || (key, format!("must be 1 to {max}, is {value}"));
        (1..=max).contains(&value).then_some(value).ok_or_else(problem)
    };
    let ms = |key, value, default| number(key, value, default, 600_000).map(|ms| Duration::from_millis(ms.into()));
    let backoff_min = ms("backoff_min_ms", table.backoff_min_ms, 100)?;
    let backoff_max = ms("backoff_max_ms", table.backoff_max_ms, 30_000)?;
    if backoff_max < backoff_min {
        return Err(("backoff_max_ms", "must not be less than backoff_min_ms".to_owned()));
    }
    let quota = quota(table.quota_per_minute, table.burst)?;
    let gateway = Gateway {
        name: table.name,
        endpoint: table.endpoint,
        server_name,
        ca_pem: table.ca_file.map(|path| ca(&place.resolve(&path))).transpose()?.unwrap_or_default(),
        live: lane_kind == LaneKind::Live,
        connections: number("connections", table.connections, 4, 1_024)?,
        streams_per_connection: number("streams_per_connection", table.streams_per_connection, 1_000, 65_535)?,
        request_deadline: ms("request_deadline_ms", table.request_deadline_ms, 10_000)?,
        connect_deadline: ms("connect_deadline_ms", table.connect_deadline_ms, 5_000)?,
        backoff_min,
        backoff_max,
        hpack_authorization_indexed: indexed,
        quota,
    };
    Ok(GatewayConfig { gateway, platform, environment, lane_kind })
}

fn quota(per_minute: Option<u32>, burst: Option<u32>) -> Result<Option<Quota>, Problem> {
    match (per_minute, burst) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(("burst", "means nothing without quota_per_minute".to_owned())),
        (Some(0), _) => Err(("quota_per_minute", "must be more than 0".to_owned())),
        // B + r·60 s ≤ quota: a burst as large as the quota would leave no rate at all.
        (Some(per_minute), Some(burst)) if burst == 0 || burst >= per_minute => {
            Err(("burst", format!("must be 1 to {}, is {burst}", per_minute - 1)))
        }
        (Some(per_minute), burst) => Ok(Some(Quota { per_minute, burst })),
    }
}

fn ca(path: &std::path::Path) -> Result<String, Problem> {
    let error = |problem: String| ("ca_file", format!("{}: {problem}", path.display()));
    let pem = fs::read_to_string(path).map_err(|e| error(format!("cannot be read: {e}")))?;
    if pem.trim().is_empty() {
        return Err(error("is empty".to_owned()));
    }
    clarion_runtime::roots::roots(&pem).map_err(|e| error(e.to_string()))?;
    Ok(pem)
}

fn credential(table: CredentialTable, place: &Place<'_>) -> Result<Credential, Problem> {
    name(&table.name)?;
    one_of("kind", &table.kind, &[("apns", ())])?;
    for (key, id) in [("key_id", &table.key_id), ("team_id", &table.team_id)] {
        // Apple's key and team ids; they go into a JSON header.
        if id.len() != 10 || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err((key, format!("must be 10 letters and digits, has {}", id.len())));
        }
    }
    let path = place.resolve(&table.key_file);
    let error = |problem: String| ("key_file", format!("{}: {problem}", path.display()));
    let key_pem = fs::read_to_string(&path).map_err(|e| error(format!("cannot be read: {e}")))?;
    let key_pem = SecretString::from(key_pem);
    check_key(&key_pem).map_err(|problem| error(problem.to_owned()))?;
    Ok(Credential { name: table.name, key_id: table.key_id, team_id: table.team_id, key_pem })
}

/// As Apple hands keys out: PKCS#8 in PEM, on the curve P-256. Says nothing of what it read.
fn check_key(pem: &SecretString) -> Result<(), &'static str> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.expose_secret().as_bytes())
        .map_err(|_| "holds no `PRIVATE KEY` in PEM (a .p8 file)")?;
    EcdsaKeyPair::from_pkcs8(
        &ECDSA_P256_SHA256_FIXED_SIGNING,
        der.secret_pkcs8_der(),
        &ring::rand::SystemRandom::new(),
    )
    .map_err(|_| "is not a PKCS#8 key on the curve P-256")?;
    Ok(())
}

/// Of the same form as an app's id, so that an app can name it.
fn name(name: &str) -> Result<(), Problem> {
    AppName::from_id(name).map(drop).map_err(|e| ("name", e.problem))
}

fn one_of<T: Copy>(key: &'static str, given: &str, known: &[(&str, T)]) -> Result<T, Problem> {
    match known.iter().find(|(word, _)| *word == given) {
        Some((_, value)) => Ok(*value),
        None => {
            let words: Vec<_> = known.iter().map(|(word, _)| format!("{word:?}")).collect();
            Err((key, format!("must be {}, is {given:?}", words.join(" or "))))
        }
    }
}
