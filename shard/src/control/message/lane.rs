//! The message that describes a lane, checked.

use std::{sync::Arc, time::Duration};

use clarion_proto::{
    error::InvalidField, ids::LaneId, limits::ENDPOINT_BYTES_MAX, wire::shard_v1 as wire,
};
use clarion_runtime::proxy::{Proxy, Route};
use rustls::RootCertStore;

use super::out_of;
use crate::outcome::Platform;

/// Highest number of connections of one node to one gateway. At 20 k/s each that is far more than a
/// machine can write.
pub(super) const CONNECTIONS_MAX: u32 = 1_024;
/// Highest number of streams of one connection; APNs has announced up to 1,500 and no gateway more
/// than a few thousand.
const STREAMS_MAX: u32 = 100_000;
/// Longest deadline or pause, ms: more than ten minutes is a mistake of units.
const MS_MAX: u32 = 600_000;
/// Answers of one kind in a row that decide: one answer never does, and thousands would decide too
/// late.
const EVIDENCE_MIN: u32 = 2;
const EVIDENCE_MAX: u32 = 1_024;
/// Names and host names; DNS allows 253.
const NAME_BYTES_MAX: usize = 255;

/// One lane, as the coordinator describes this node's end of it.
#[derive(Debug, Clone)]
pub struct Lane {
    /// The lane's terms; compared, so that the same lane in a new session closes no connection.
    pub terms: Terms,
    /// Trust anchors from [`Terms::ca_pem`].
    pub roots: Arc<RootCertStore>,
}

/// Terms of a lane, as the coordinator sends them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Number of the lane, unique in the cluster.
    pub id: LaneId,
    /// The platform whose protocol the lane speaks.
    pub platform: Platform,
    /// Name of the lane for people: `gateway/credential`.
    pub name: String,
    /// Address of the gateway, as `host:port`.
    pub endpoint: String,
    /// Server name that the certificate must carry; also sent as `:authority`.
    pub server_name: String,
    /// Private CA in PEM; empty: the public root CAs.
    pub ca_pem: String,
    /// Whether real people receive the pushes.
    pub live: bool,
    /// Highest number of streams on each connection.
    pub streams_per_connection: usize,
    /// Time limit of one request.
    pub request_deadline: Duration,
    /// Route of connections to the gateway: direct, or through an HTTP proxy.
    pub route: Route,
    /// Time limit for connecting: TCP, a proxy's tunnel and TLS together.
    pub connect_deadline: Duration,
    /// First pause between failed connection attempts.
    pub backoff_min: Duration,
    /// Longest pause between failed connection attempts.
    pub backoff_max: Duration,
    /// Whether `authorization` enters the HPACK table.
    pub authorization_indexed: bool,
    /// Answers of one kind in a row that decide about a message, credential or lane.
    pub evidence: u32,
}

impl Lane {
    pub(super) fn from_wire(lane: wire::Lane) -> Result<Self, InvalidField> {
        let platform = match wire::LanePlatform::try_from(lane.platform) {
            Ok(wire::LanePlatform::Apns) => Platform::Apns,
            Ok(wire::LanePlatform::Fcm) => Platform::Fcm,
            Ok(wire::LanePlatform::Unspecified) | Err(_) => {
                return Err(InvalidField::new(
                    "platform",
                    format_args!("must be APNS or FCM; got {}", lane.platform),
                ));
            }
        };
        let name = text(lane.name, NAME_BYTES_MAX, "name")?;
        let endpoint = text(lane.endpoint, ENDPOINT_BYTES_MAX, "endpoint")?;
        let port = endpoint
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty())
            .and_then(|(_, p)| p.parse().ok());
        if port.is_none_or(|p: u16| p == 0) {
            return Err(InvalidField::new(
                "endpoint",
                format_args!("must be host:port; got {endpoint:?}"),
            ));
        }
        let server_name = text(lane.server_name, NAME_BYTES_MAX, "server_name")?;
        if rustls::pki_types::ServerName::try_from(server_name.as_str()).is_err() {
            return Err(InvalidField::new(
                "server_name",
                format_args!("must be a DNS name or an IP address; got {server_name:?}"),
            ));
        }
        let roots = clarion_runtime::roots::roots(&lane.ca_pem)
            .map_err(|e| InvalidField::new("ca_pem", e))?;
        let limits = clarion_proto::error::required(lane.limits, "limits")?;
        let within = |e: InvalidField| e.within("limits");
        let backoff_min = ms(limits.backoff_min_ms, "backoff_min_ms").map_err(within)?;
        let backoff_max = ms(limits.backoff_max_ms, "backoff_max_ms").map_err(within)?;
        if backoff_max < backoff_min {
            return Err(within(InvalidField::new(
                "backoff_max_ms",
                format_args!(
                    "must be at least backoff_min_ms ({}); got {}",
                    limits.backoff_min_ms, limits.backoff_max_ms
                ),
            )));
        }
        let terms = Terms {
            id: LaneId(lane.id),
            platform,
            name,
            endpoint,
            server_name,
            ca_pem: lane.ca_pem,
            live: lane.live,
            route: route(lane.proxy)?,
            streams_per_connection: number(
                limits.streams_per_connection,
                STREAMS_MAX,
                "streams_per_connection",
            )
            .map_err(within)?,
            request_deadline: ms(limits.request_deadline_ms, "request_deadline_ms")
                .map_err(within)?,
            connect_deadline: ms(limits.connect_deadline_ms, "connect_deadline_ms")
                .map_err(within)?,
            backoff_min,
            backoff_max,
            authorization_indexed: limits.hpack_authorization_indexed,
            evidence: evidence(limits.evidence_answers).map_err(within)?,
        };
        Ok(Self { terms, roots })
    }
}

fn route(proxy: Option<wire::LaneProxy>) -> Result<Route, InvalidField> {
    use wire::lane_proxy::Proxy as Given;
    let Some(proxy) = proxy else { return Ok(Route::Direct) };
    match proxy.proxy {
        Some(Given::OfEnvironment(true)) => Ok(Route::Environment),
        Some(Given::Address(given)) => {
            let within = |field, e| InvalidField::new(format!("proxy.address.{field}"), e);
            let proxy = Proxy::new(&given.endpoint).map_err(|e| within("endpoint", e))?;
            let proxy = match given.authorization {
                none if none.is_empty() => proxy,
                value => proxy.with_authorization(value).map_err(|e| within("authorization", e))?,
            };
            Ok(Route::Proxy(Arc::new(proxy)))
        }
        Some(Given::OfEnvironment(false)) | None => Err(InvalidField::new(
            "proxy.proxy",
            "must be of_environment, which must be true, or address",
        )),
    }
}

fn text(value: String, max: usize, field: &str) -> Result<String, InvalidField> {
    match value.len() {
        n if (1..=max).contains(&n) => Ok(value),
        n => Err(InvalidField::new(field, format_args!("must have 1 to {max} bytes; got {n}"))),
    }
}

fn number(value: u32, max: u32, field: &str) -> Result<usize, InvalidField> {
    if !(1..=max).contains(&value) {
        return Err(out_of(field, 1, u64::from(max), u64::from(value)));
    }
    Ok(value as usize)
}

fn evidence(answers: u32) -> Result<u32, InvalidField> {
    if !(EVIDENCE_MIN..=EVIDENCE_MAX).contains(&answers) {
        return Err(out_of(
            "evidence_answers",
            u64::from(EVIDENCE_MIN),
            u64::from(EVIDENCE_MAX),
            u64::from(answers),
        ));
    }
    Ok(answers)
}

fn ms(value: u32, field: &str) -> Result<Duration, InvalidField> {
    number(value, MS_MAX, field).map(|_| Duration::from_millis(u64::from(value)))
}
