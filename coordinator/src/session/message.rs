//! Messages of a session, translated into `clarion.shard.v1`. Pure.

use std::time::Duration;

use clarion_proto::{
    app::Platform,
    ids::{LaneId, LogIdentity, log_of},
    time::Time,
    wire::shard_v1::{self as wire, SessionRequest, session_request::Message},
};
use clarion_runtime::proxy::Route;
use secrecy::ExposeSecret;

use super::{
    Identity,
    memory::NodeMemory,
    parts::{cells, to_wire},
};
use crate::{
    bands::Band,
    lane::{LaneSpec, ProviderToken},
    owners::{NodeName, Owned},
    planned::{AppPlan, CountPlan, PushRequest},
    standing::StandingWave,
};

pub(super) fn request(message: Message) -> SessionRequest {
    SessionRequest { message: Some(message) }
}

/// The first message of a session.
pub(crate) fn open(identity: &Identity) -> SessionRequest {
    request(Message::Open(wire::Open {
        cluster: identity.cluster.to_string(),
        coordinator: identity.coordinator.to_wire(),
        log_identity: identity.log.to_wire(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        lanes_epoch: identity.lanes_epoch.get().map_or(0, |epoch| epoch.0),
    }))
}

pub(super) fn ownership(owned: &Owned, node: &NodeName, log: LogIdentity) -> SessionRequest {
    request(Message::Ownership(wire::Ownership {
        number: owned.ownership.number,
        partition_count: u32::from(owned.partition_count),
        log_count: u32::from(owned.log_count),
        partitions: owned
            .ownership
            .partitions_of(node)
            .into_iter()
            .map(|p| u32::from(p.0))
            .collect(),
        log_identity: log.to_wire(),
    }))
}

pub(super) fn lane(lane: &LaneSpec) -> SessionRequest {
    let gateway = &lane.gateway;
    let platform = match gateway.platform {
        Platform::Apns => wire::LanePlatform::Apns,
        Platform::Fcm => wire::LanePlatform::Fcm,
    };
    request(Message::Lane(wire::Lane {
        id: lane.id.0,
        name: lane.name(),
        platform: platform.into(),
        endpoint: gateway.endpoint.clone(),
        server_name: gateway.server_name.clone(),
        ca_pem: gateway.ca_pem.clone(),
        live: gateway.live,
        limits: Some(wire::LaneLimits {
            streams_per_connection: gateway.streams_per_connection,
            request_deadline_ms: millis(gateway.request_deadline),
            connect_deadline_ms: millis(gateway.connect_deadline),
            backoff_min_ms: millis(gateway.backoff_min),
            backoff_max_ms: millis(gateway.backoff_max),
            hpack_authorization_indexed: gateway.hpack_authorization_indexed,
            evidence_answers: gateway.evidence_answers,
        }),
        proxy: proxy(&gateway.route),
    }))
}

fn proxy(route: &Route) -> Option<wire::LaneProxy> {
    use wire::lane_proxy::Proxy;
    let proxy = match route {
        Route::Direct => return None,
        Route::Environment => Proxy::OfEnvironment(true),
        Route::Proxy(proxy) => Proxy::Address(wire::ProxyAddress {
            endpoint: proxy.address().to_owned(),
            authorization: proxy
                .authorization()
                .map(|value| value.expose_secret().to_owned())
                .unwrap_or_default(),
        }),
    };
    Some(wire::LaneProxy { proxy: Some(proxy) })
}

pub(super) fn provider_token(lane: LaneId, token: &ProviderToken) -> SessionRequest {
    let authorization = token.authorization.expose_secret().to_owned();
    request(Message::ProviderToken(wire::ProviderToken {
        lane: lane.0,
        authorization,
        signer: token.signer,
    }))
}

pub(super) fn connections(lane: LaneId, connections: u32) -> SessionRequest {
    request(Message::Connections(wire::Connections { lane: lane.0, connections }))
}

/// The message of a wave, with the ordinals that former processes of the node finished. `delivery`
/// 0: the whole message; otherwise the head, without the content that follows in parts.
pub(super) fn wave(
    wave: &StandingWave,
    owned: &Owned,
    node: &NodeName,
    memory: &NodeMemory,
    delivery: u32,
    now: Time,
) -> SessionRequest {
    let plan = &*wave.plan;
    let whole = delivery == 0;
    let handed = |partition| {
        let mut bytes = Vec::new();
        if let Some(set) = memory.done(plan.wave, partition).filter(|_| whole) {
            bytes.reserve_exact(set.serialized_size());
            set.serialize_into(&mut bytes).expect("writing to memory does not fail");
        }
        bytes
    };
    let shards = owned.ownership.partitions_of(node).into_iter().map(|partition| wire::ShardWork {
        partition: u32::from(partition.0),
        start_position: plan
            .positions
            .get(usize::from(log_of(partition, owned.log_count).0))
            .map_or(0, |p| p.0),
        handed: handed(partition),
    });
    request(Message::Wave(wire::Wave {
        id: plan.wave.0,
        alert: plan.name.name(),
        epoch: plan.epoch.0,
        ownership: owned.ownership.number,
        bands: bands(&plan.bands, whole),
        shards: shards.collect(),
        apps: plan
            .apps
            .iter()
            .zip(&wave.lanes)
            .map(|(app, lane)| app_messages(app, *lane, whole))
            .collect(),
        segments: plan.segments.clone(),
        place_seen_after_ms: plan.place_seen_after.0,
        expires_in_ms: u64::from(millis(wave.expires.since(now))),
        delivery,
        cover_cells: if whole { 0 } else { cells(&plan.bands) as u64 },
    }))
}

/// The message of a count; `delivery` as for [`wave`].
pub(super) fn count(id: u64, plan: &CountPlan, delivery: u32) -> SessionRequest {
    let whole = delivery == 0;
    request(Message::Count(wire::Count {
        id,
        bands: bands(&plan.bands, whole),
        apps: plan.apps.iter().map(|app| app.id().to_owned()).collect(),
        segments: plan.segments.clone(),
        place_seen_after_ms: plan.place_seen_after.0,
        delivery,
        cover_cells: if whole { 0 } else { cells(&plan.bands) as u64 },
    }))
}

fn bands(bands: &[Band], with_cells: bool) -> Vec<wire::Band> {
    let band = |b: &Band| wire::Band {
        from_meters: b.from_m,
        to_meters: b.to_m,
        cells: if with_cells {
            b.cells.iter().map(|cell| u64::from(*cell)).collect()
        } else {
            Vec::new()
        },
    };
    bands.iter().map(band).collect()
}

fn app_messages(app: &AppPlan, lane: LaneId, with_messages: bool) -> wire::AppMessages {
    use wire::app_messages::Request;
    let request = match &app.request {
        PushRequest::Apns(apns) => Request::Apns(wire::ApnsRequest {
            topic: apns.topic.clone(),
            push_type: apns.push_type.clone(),
            priority: apns.priority,
            expiration: apns.expiration,
            collapse_id: apns.collapse_id.clone(),
        }),
        PushRequest::Fcm { project } => Request::Fcm(wire::FcmRequest { project: project.clone() }),
    };
    wire::AppMessages {
        app: app.app.id().to_owned(),
        lane: lane.0,
        request: Some(request),
        messages: app.messages.iter().filter(|_| with_messages).map(to_wire).collect(),
    }
}

/// Whole milliseconds of a duration, as the wire has them.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
