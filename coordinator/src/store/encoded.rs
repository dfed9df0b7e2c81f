//! Records as bytes: `clarion.store.v1`, which database engines keep.
//!
//! A record that cannot be read is damage or the work of a later version. It is an error of its own
//! ([`Unreadable`]), so that the engine can name the record and go on with the others.

use std::sync::Arc;

use clarion_proto::{
    app::App,
    error::InvalidField,
    ids::{AlertName, AppName, CoordinatorId, Epoch, LogIdentity, Position, UnixMillis, WaveId},
    wire::store::v1 as wire,
};
use h3o::Resolution;
use prost::Message as _;
use uuid::Uuid;

use super::{AlertRecord, AppRecord, LaneDirector, RequestId, SendPlan};
use crate::{
    bands::BandEdges,
    lane::LaneKey,
    owners::{NodeName, Ownership},
    planned::{ApnsRequest, AppPlan, LocaleMessage, PushRequest},
    snapshot::State,
};

mod snapshot;
#[cfg(test)]
mod tests;

/// Why the bytes of a record cannot be read. A retry does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    /// The bytes are no message.
    #[error("it is damaged: {0}")]
    Damaged(#[from] prost::DecodeError),
    /// A field has a value that this version does not know.
    #[error("{0}")]
    Field(#[from] InvalidField),
}

/// Returns the bytes of an app's record.
pub(crate) fn app(record: &AppRecord) -> Vec<u8> {
    let AppRecord { app, created, revision } = record;
    let (app, created_ms) = (Some(app.to_wire()), created.0);
    wire::App { app, created_ms, revision: *revision }.encode_to_vec()
}

/// Reads the bytes that [`app`] returned.
pub(crate) fn read_app(bytes: &[u8]) -> Result<AppRecord, Unreadable> {
    let wire::App { app, created_ms, revision } = wire::App::decode(bytes)?;
    let app = App::from_wire(app.ok_or_else(|| missing("app"))?)?;
    Ok(AppRecord { app, created: UnixMillis(created_ms), revision })
}

/// Returns the bytes of an alert's record.
pub(crate) fn alert(record: &AlertRecord) -> Vec<u8> {
    wire::Alert {
        name: record.name.name(),
        request_id: record.request_id.0.as_bytes().to_vec(),
        submitted: Some(clarion_proto::wire::v1::Alert::clone(&record.submitted)),
        apps: record.apps.iter().map(AppName::name).collect(),
        plan: record.plan.as_deref().map(plan),
        overshoot_meters: record.overshoot_m,
        band_step_meters: record.band_step_m,
        wave: record.wave.0,
        epoch: record.epoch.0,
        log_identity: record.log.0.to_vec(),
        positions: record.positions.iter().map(|position| position.0).collect(),
        created_ms: record.created.0,
        place_seen_after_ms: record.place_seen_after.0,
        expires_ms: record.expires.0,
        revision: record.revision,
        state: state(record.state).into(),
        ended_ms: record.ended.map(|ended| ended.0),
        cancel_reason: record.cancel_reason.clone(),
        settled: record.settled.as_deref().map(snapshot::encoded),
    }
    .encode_to_vec()
}

/// Reads the bytes that [`alert`] returned.
pub(crate) fn read_alert(bytes: &[u8]) -> Result<AlertRecord, Unreadable> {
    let alert = wire::Alert::decode(bytes)?;
    let request_id = Uuid::from_slice(&alert.request_id)
        .map_err(|_| InvalidField::new("request_id", "must have 16 bytes"))?;
    let name = AlertName::from_name(&alert.name)?;
    let settled = alert.settled.map(|settled| snapshot::read(settled, &name)).transpose()?;
    Ok(AlertRecord {
        request_id: RequestId(request_id),
        submitted: Arc::new(alert.submitted.ok_or_else(|| missing("submitted"))?),
        apps: names(&alert.apps)?,
        plan: alert.plan.map(read_plan).transpose()?.map(Arc::new),
        overshoot_m: alert.overshoot_meters,
        band_step_m: alert.band_step_meters,
        wave: WaveId(alert.wave),
        epoch: Epoch(alert.epoch),
        log: LogIdentity::from_wire(&alert.log_identity)
            .map_err(|error| error.within("log_identity"))?,
        positions: alert.positions.into_iter().map(Position).collect(),
        created: UnixMillis(alert.created_ms),
        place_seen_after: UnixMillis(alert.place_seen_after_ms),
        expires: UnixMillis(alert.expires_ms),
        revision: alert.revision,
        state: read_state(alert.state)?,
        ended: alert.ended_ms.map(UnixMillis),
        cancel_reason: alert.cancel_reason,
        settled: settled.map(Arc::new),
        name,
    })
}

/// Returns the bytes of an ownership.
pub(super) fn ownership(ownership: &Ownership) -> Vec<u8> {
    let nodes = ownership.nodes().iter().map(|node| node.as_str().to_owned()).collect();
    wire::Ownership { number: ownership.number, nodes, owners: ownership.owners().to_vec() }
        .encode_to_vec()
}

/// Reads the bytes that [`ownership`] returned.
pub(super) fn read_ownership(bytes: &[u8]) -> Result<Ownership, Unreadable> {
    let wire::Ownership { number, nodes, owners } = wire::Ownership::decode(bytes)?;
    let nodes = nodes.iter().map(|node| NodeName::new(node)).collect::<Result<_, _>>()?;
    Ok(Ownership::from_parts(number, nodes, owners)?)
}

/// Returns the bytes of the record of who directs the lanes.
pub(super) fn lane_director(director: &LaneDirector) -> Vec<u8> {
    let coordinator = director.coordinator.0.to_vec();
    wire::LaneDirector { epoch: director.epoch.0, coordinator }.encode_to_vec()
}

/// Reads the bytes that [`lane_director`] returned.
pub(super) fn read_lane_director(bytes: &[u8]) -> Result<LaneDirector, Unreadable> {
    let wire::LaneDirector { epoch, coordinator } = wire::LaneDirector::decode(bytes)?;
    let coordinator =
        CoordinatorId::from_wire(&coordinator).map_err(|error| error.within("coordinator"))?;
    Ok(LaneDirector { epoch: Epoch(epoch), coordinator })
}

fn plan(plan: &SendPlan) -> wire::SendPlan {
    wire::SendPlan {
        band_edges_meters: plan.edges.first_m().to_vec(),
        band_step_meters: plan.edges.step_m(),
        finest_resolution: u8::from(plan.finest).into(),
        segments: plan.segments.clone(),
        apps: plan.apps.iter().map(app_plan).collect(),
    }
}

fn read_plan(plan: wire::SendPlan) -> Result<SendPlan, InvalidField> {
    let finest = u8::try_from(plan.finest_resolution).ok();
    let finest = finest.and_then(|finest| Resolution::try_from(finest).ok());
    Ok(SendPlan {
        edges: BandEdges::new(plan.band_edges_meters, plan.band_step_meters)?,
        finest: finest.ok_or_else(|| unknown("finest_resolution", plan.finest_resolution))?,
        segments: plan.segments,
        apps: plan.apps.into_iter().map(read_app_plan).collect::<Result<_, _>>()?,
    })
}

fn app_plan(plan: &AppPlan) -> wire::AppPlan {
    let request = match &plan.request {
        PushRequest::Apns(ApnsRequest { topic, push_type, priority, expiration, collapse_id }) => {
            wire::app_plan::Request::Apns(wire::ApnsRequest {
                topic: topic.clone(),
                push_type: push_type.clone(),
                priority: *priority,
                expiration: *expiration,
                collapse_id: collapse_id.clone(),
            })
        }
        PushRequest::Fcm { project } => wire::app_plan::Request::FcmProject(project.clone()),
    };
    let message = |message: &LocaleMessage| wire::LocaleMessage {
        locale: message.locale.clone(),
        body: message.body.clone(),
        body_after_token: message.body_after_token.clone(),
    };
    wire::AppPlan {
        app: plan.app.name(),
        lane: Some(lane(&plan.lane)),
        request: Some(request),
        messages: plan.messages.iter().map(message).collect(),
    }
}

fn read_app_plan(plan: wire::AppPlan) -> Result<AppPlan, InvalidField> {
    let request = match plan.request.ok_or_else(|| missing("request"))? {
        wire::app_plan::Request::Apns(apns) => PushRequest::Apns(ApnsRequest {
            topic: apns.topic,
            push_type: apns.push_type,
            priority: apns.priority,
            expiration: apns.expiration,
            collapse_id: apns.collapse_id,
        }),
        wire::app_plan::Request::FcmProject(project) => PushRequest::Fcm { project },
    };
    let message = |message: wire::LocaleMessage| LocaleMessage {
        locale: message.locale,
        body: message.body,
        body_after_token: message.body_after_token,
    };
    Ok(AppPlan {
        app: AppName::from_name(&plan.app)?,
        lane: read_lane(plan.lane)?,
        request,
        messages: plan.messages.into_iter().map(message).collect(),
    })
}

fn lane(lane: &LaneKey) -> wire::Lane {
    wire::Lane { gateway: lane.gateway.clone(), credential: lane.credential.clone() }
}

fn read_lane(lane: Option<wire::Lane>) -> Result<LaneKey, InvalidField> {
    let wire::Lane { gateway, credential } = lane.ok_or_else(|| missing("lane"))?;
    Ok(LaneKey { gateway, credential })
}

fn state(state: State) -> wire::State {
    match state {
        State::Active => wire::State::Active,
        State::Cancelling => wire::State::Cancelling,
        State::Cancelled => wire::State::Cancelled,
        State::Resolved => wire::State::Resolved,
        State::Expired => wire::State::Expired,
    }
}

fn read_state(state: i32) -> Result<State, InvalidField> {
    match wire::State::try_from(state) {
        Ok(wire::State::Active) => Ok(State::Active),
        Ok(wire::State::Cancelling) => Ok(State::Cancelling),
        Ok(wire::State::Cancelled) => Ok(State::Cancelled),
        Ok(wire::State::Resolved) => Ok(State::Resolved),
        Ok(wire::State::Expired) => Ok(State::Expired),
        Ok(wire::State::Unspecified) | Err(_) => Err(unknown("state", state)),
    }
}

fn names(names: &[String]) -> Result<Vec<AppName>, InvalidField> {
    names.iter().map(|name| AppName::from_name(name)).collect()
}

fn missing(field: &'static str) -> InvalidField {
    InvalidField::new(field, "is missing")
}

fn unknown(field: &'static str, value: impl std::fmt::Display) -> InvalidField {
    InvalidField::new(
        field,
        format_args!("has the value {value}, which this version does not know"),
    )
}
