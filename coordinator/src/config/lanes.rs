//! `[[gateways]]`: checks gateways, and fills in the defaults of their platform.

use std::{fs, path::PathBuf, time::Duration};

use clarion_proto::{
    app::{Environment, LaneKind, Platform},
    ids::AppName,
    limits::CA_PEM_BYTES_MAX,
};
use serde::Deserialize;

use super::{
    ConfigError,
    given::{Given, Place, Places, Tables},
    proxy::{self, ProxySetting},
};
use crate::lane::{ConnectionLimits, Gateway, Quota, catalog::GatewayEntry};

/// One table of `[[gateways]]` as written, before any check.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayTable {
    name: String,
    platform: String,
    endpoint: String,
    server_name: Option<String>,
    ca_file: Option<PathBuf>,
    proxy: Option<ProxySetting>,
    environment: String,
    lane_kind: String,
    connections_min: Option<u32>,
    connections_max: Option<u32>,
    streams_per_connection: Option<u32>,
    request_deadline_ms: Option<u32>,
    connect_deadline_ms: Option<u32>,
    backoff_min_ms: Option<u32>,
    backoff_max_ms: Option<u32>,
    hpack_authorization: Option<String>,
    evidence_answers: Option<u32>,
    quota_per_minute: Option<u32>,
    burst: Option<u32>,
    ramp_ms: Option<u32>,
}

/// Defaults of a platform's gateways.
struct Defaults {
    connections: ConnectionLimits,
    streams_per_connection: u32,
    request_deadline_ms: u32,
    backoff_min_ms: u32,
    backoff_max_ms: u32,
}

/// Defaults of APNs. It allows some 1,000 streams, and announces a lower limit itself. Answers take
/// some 50 ms: 32 connections make 640,000 pushes a second.
const APNS: Defaults = Defaults {
    connections: ConnectionLimits { floor: 2, ceiling: 32 },
    streams_per_connection: 1_000,
    request_deadline_ms: 10_000,
    backoff_min_ms: 100,
    backoff_max_ms: 30_000,
};
/// Defaults of FCM. It closes a connection with more than 100 streams, and asks for a first pause
/// of 10 s at least (Firebase, "Best practices when sending FCM messages at scale"). Answers take
/// some 100 ms: 64 connections make 64,000 pushes a second, six times the quota that a project has
/// by default.
const FCM: Defaults = Defaults {
    connections: ConnectionLimits { floor: 2, ceiling: 64 },
    streams_per_connection: 100,
    request_deadline_ms: 10_000,
    backoff_min_ms: 10_000,
    backoff_max_ms: 60_000,
};
/// Maximum number of connections of one lane in the cluster; a node accepts as many (1,024), which
/// is more than it can use.
const CONNECTIONS_MAX: u32 = 1_024;
/// Default number of equal answers in a row after which a node judges a message, credential or
/// lane.
///
/// A registry in which every second token is dead gets 32 such answers in a row once in four
/// thousand million alerts.
const EVIDENCE_ANSWERS: u32 = 32;
/// Range of `evidence_answers` that nodes accept. One answer must never decide; with more than a
/// thousand, as many devices would miss their alert.
const EVIDENCE_ANSWERS_RANGE: std::ops::RangeInclusive<u32> = 2..=1_024;
/// Longest ramp: Google's slowest advice for new traffic is an hour.
const RAMP_MS_MAX: u32 = 3_600_000;

/// Checks all gateways for a cluster of `partitions` partitions.
pub(super) fn gateways(
    given: Given<Tables<GatewayTable>>,
    partitions: u16,
    places: &Places<'_>,
) -> Result<(Vec<Gateway>, Vec<GatewayEntry>), ConfigError> {
    let (tables, place) = given.tables(places)?;
    let (mut gateways, mut entries) = (Vec::<Gateway>::new(), Vec::new());
    for (i, table) in tables.into_iter().enumerate() {
        let (gateway, entry) = gateway(table, partitions, &place)
            .map_err(|(key, what)| place.error(format!("gateways[{i}].{key}"), what))?;
        if gateways.iter().any(|other| other.name == gateway.name) {
            let problem = format!("must be unique; got {} twice", gateway.name);
            return Err(place.error(format!("gateways[{i}].name"), problem));
        }
        gateways.push(gateway);
        entries.push(entry);
    }
    Ok((gateways, entries))
}

/// Parses `host:port` into host and port.
pub(super) fn host_port(text: &str) -> Result<(&str, u16), String> {
    let wrong = || format!("must be host:port; got {text:?}");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty()
        || port == 0
        || host.contains(char::is_whitespace)
        || (host.contains(':') && !bracketed)
    {
        return Err(wrong());
    }
    Ok((host, port))
}

/// Key at fault, and the description of the problem.
pub(super) type Problem = (&'static str, String);

fn gateway(
    table: GatewayTable,
    partitions: u16,
    place: &Place<'_>,
) -> Result<(Gateway, GatewayEntry), Problem> {
    name(&table.name)?;
    let platforms = [("apns", Platform::Apns), ("fcm", Platform::Fcm)];
    let platform = one_of("platform", &table.platform, &platforms)?;
    let defaults = match platform {
        Platform::Apns => APNS,
        Platform::Fcm => FCM,
    };
    let environments = [("sandbox", Environment::Sandbox), ("production", Environment::Production)];
    let environment = one_of("environment", &table.environment, &environments)?;
    let lane_kind = one_of(
        "lane_kind",
        &table.lane_kind,
        &[("live", LaneKind::Live), ("test", LaneKind::Test)],
    )?;
    let indexed = table.hpack_authorization.as_deref().unwrap_or("indexed");
    let indexed = one_of("hpack_authorization", indexed, &[("indexed", true), ("literal", false)])?;
    let (host, _) = host_port(&table.endpoint).map_err(|problem| ("endpoint", problem))?;
    let server_name = table.server_name.unwrap_or_else(|| host.trim_matches(['[', ']']).to_owned());
    rustls_pki_types::ServerName::try_from(server_name.as_str()).map_err(|_| {
        ("server_name", format!("must be a DNS name or an IP address; got {server_name:?}"))
    })?;
    let number = |key, value: Option<u32>, default, max| {
        let value = value.unwrap_or(default);
        let problem = || (key, format!("must be 1 to {max}; got {value}"));
        (1..=max).contains(&value).then_some(value).ok_or_else(problem)
    };
    let ms = |key, value, default| {
        number(key, value, default, 600_000).map(|ms| Duration::from_millis(ms.into()))
    };
    let backoff_min = ms("backoff_min_ms", table.backoff_min_ms, defaults.backoff_min_ms)?;
    let backoff_max = ms("backoff_max_ms", table.backoff_max_ms, defaults.backoff_max_ms)?;
    if backoff_max < backoff_min {
        let (min, max) = (backoff_min.as_millis(), backoff_max.as_millis());
        return Err((
            "backoff_max_ms",
            format!("must be at least backoff_min_ms, {min}; got {max}"),
        ));
    }
    let floor = number(
        "connections_min",
        table.connections_min,
        defaults.connections.floor,
        CONNECTIONS_MAX,
    )?;
    // With only `connections_min` given, the default of `connections_max` must not be below it.
    let ceiling = defaults.connections.ceiling.max(floor);
    let ceiling = number("connections_max", table.connections_max, ceiling, CONNECTIONS_MAX)?;
    if ceiling < floor {
        return Err((
            "connections_max",
            format!("must be at least connections_min, {floor}; got {ceiling}"),
        ));
    }
    let evidence_answers = table.evidence_answers.unwrap_or(EVIDENCE_ANSWERS);
    if !EVIDENCE_ANSWERS_RANGE.contains(&evidence_answers) {
        return Err(("evidence_answers", format!("must be 2 to 1024; got {evidence_answers}")));
    }
    let quota = quota(table.quota_per_minute, table.burst, table.ramp_ms, partitions)?;
    let gateway = Gateway {
        name: table.name,
        platform,
        endpoint: table.endpoint,
        server_name,
        ca_pem: table
            .ca_file
            .map(|path| ca(&place.resolve(&path)))
            .transpose()?
            .unwrap_or_default(),
        live: lane_kind == LaneKind::Live,
        route: proxy::route(table.proxy, place)?,
        connections: ConnectionLimits { floor, ceiling },
        streams_per_connection: number(
            "streams_per_connection",
            table.streams_per_connection,
            defaults.streams_per_connection,
            65_535,
        )?,
        request_deadline: ms(
            "request_deadline_ms",
            table.request_deadline_ms,
            defaults.request_deadline_ms,
        )?,
        connect_deadline: ms("connect_deadline_ms", table.connect_deadline_ms, 5_000)?,
        backoff_min,
        backoff_max,
        hpack_authorization_indexed: indexed,
        evidence_answers,
        quota,
    };
    let entry = GatewayEntry { name: gateway.name.clone(), platform, environment, lane_kind };
    Ok((gateway, entry))
}

/// Checks that nodes can divide the quota without exceeding it: see `lane/lease.rs`.
fn quota(
    per_minute: Option<u32>,
    burst: Option<u32>,
    ramp_ms: Option<u32>,
    partitions: u16,
) -> Result<Option<Quota>, Problem> {
    let Some(per_minute) = per_minute else {
        let nothing = |key| Err((key, "must not be set without quota_per_minute".to_owned()));
        return match (burst, ramp_ms) {
            (Some(_), _) => nothing("burst"),
            (None, Some(_)) => nothing("ramp_ms"),
            (None, None) => Ok(None),
        };
    };
    let least = 2 * u32::from(partitions);
    if per_minute < least {
        let problem = format!(
            "must be at least {least}, two for each of the {partitions} partitions; got {per_minute}"
        );
        return Err(("quota_per_minute", problem));
    }
    // The burst may use at most half of the quota; the rest is for the rate.
    let burst_max = per_minute / 2;
    if let Some(burst) = burst.filter(|burst| !(1..=burst_max).contains(burst)) {
        return Err((
            "burst",
            format!("must be 1 to {burst_max}, half of quota_per_minute; got {burst}"),
        ));
    }
    let ramp_ms = ramp_ms.unwrap_or(0);
    if ramp_ms > RAMP_MS_MAX {
        return Err(("ramp_ms", format!("must be 0 to {RAMP_MS_MAX}; got {ramp_ms}")));
    }
    Ok(Some(Quota { per_minute, burst, ramp: Duration::from_millis(ramp_ms.into()) }))
}

/// Reads the certificates of a private CA, in PEM.
pub(super) fn ca(path: &std::path::Path) -> Result<String, Problem> {
    let error = |problem: String| ("ca_file", format!("{}: {problem}", path.display()));
    let pem = fs::read_to_string(path).map_err(|e| error(format!("cannot be read: {e}")))?;
    if pem.trim().is_empty() {
        return Err(error("must not be empty".to_owned()));
    }
    if pem.len() > CA_PEM_BYTES_MAX {
        return Err(error(format!(
            "must be at most {CA_PEM_BYTES_MAX} bytes; got {} bytes",
            pem.len()
        )));
    }
    clarion_runtime::roots::roots(&pem).map_err(|e| error(e.to_string()))?;
    Ok(pem)
}

/// Checks a name, which has the form of an app's id, so that an app can refer to it.
pub(super) fn name(name: &str) -> Result<(), Problem> {
    AppName::from_id(name).map(drop).map_err(|e| ("name", e.problem))
}

/// Checks that a value is one of the known words.
pub(super) fn one_of<T: Copy>(
    key: &'static str,
    given: &str,
    known: &[(&str, T)],
) -> Result<T, Problem> {
    match known.iter().find(|(word, _)| *word == given) {
        Some((_, value)) => Ok(*value),
        None => {
            let words: Vec<_> = known.iter().map(|(word, _)| format!("{word:?}")).collect();
            Err((key, format!("must be {}; got {given:?}", words.join(" or "))))
        }
    }
}
