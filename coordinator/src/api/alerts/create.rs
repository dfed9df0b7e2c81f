//! `CreateAlert`: decode → look up `request_id` → admit → cover and bands → render → check the
//! audience's size → check nodes and lanes → record → hand over → respond.
//!
//! No step before "record" changes state: a refusal leaves nothing behind, and the caller can retry
//! the same request. The record is complete; from then on [`crate::reconcile`] runs the alert, even
//! if the caller hangs up or this process dies. Retries of one request wait for each other
//! ([`super::requests`]), so that only one of them does the work.

use std::{sync::Arc, time::Duration};

use clarion_proto::{
    audience::place_seen_after,
    error::{InvalidField, required},
    ids::{AlertName, WaveId},
    wire::v1 as wire,
};
use clarion_runtime::peers::{PeerKey, shares::Place};
use prost::Message as _;
use tonic::Status;
use tracing::Instrument;
use uuid::Uuid;

use super::{
    super::REQUEST_BYTES_MAX,
    Alerts, Context,
    answer::{self, OUTPUT_BYTES_MAX, audience_in_effect},
    difference,
    prepare::Prepared,
    status,
};
use crate::{
    admission::render::Rendered,
    bands::Bands,
    lane::LaneKey,
    planned::{AppPlan, FIRST_EPOCH},
    snapshot::State,
    store::{AlertRecord, Created, RequestId, SendPlan, StoreError},
};

/// Largest alert, bytes: a response with the region adds names, times and progress, and must not be
/// larger than the largest request.
const ALERT_BYTES_MAX: usize = REQUEST_BYTES_MAX - OUTPUT_BYTES_MAX;

/// Result of CreateAlert.
pub(super) enum Answer {
    /// The alert is recorded, by this request or by an earlier try.
    Recorded(Arc<AlertRecord>),
    /// The alert passed validation; nothing was recorded.
    Valid(Box<wire::Alert>),
}

impl Alerts {
    /// Runs all steps of CreateAlert.
    pub(super) async fn create(
        &self,
        request: wire::CreateAlertRequest,
        peer: PeerKey,
    ) -> Result<Answer, Status> {
        let mut admitted = self.admitted(peer)?;
        let request_id = request_id(&request.request_id).map_err(status::invalid)?;
        let submitted = required(request.alert, "alert").map_err(status::invalid)?;
        let submitted = Arc::new(without_outputs(submitted));
        within_answers(&submitted).map_err(status::invalid)?;
        let spec = self.spec(wire::Alert::clone(&submitted), &mut admitted).await?;
        let one_try = self.requests.enter(request_id).await;
        if let Some(existing) =
            self.api.store.alert_by_request(request_id).await.map_err(status::store)?
        {
            return match same(existing, &submitted)? {
                Answer::Recorded(alert) if request.validate_only => Ok(valid(&alert)),
                Answer::Recorded(alert) => {
                    self.api.reconciler.adopt(&alert);
                    Ok(Answer::Recorded(alert))
                }
                answer => Ok(answer),
            };
        }
        if self.api.admission.is_closed() {
            return Err(status::draining());
        }
        let prepared = self.prepare(&spec, &mut admitted).await?;
        let id = self.api.world.uuid_v7();
        let name = alert_name(id);
        let rendered = prepared.render(&self.api, &spec, &name)?;
        if request.validate_only {
            self.may_validate(&prepared, peer)?;
        } else {
            self.may_create(&prepared, peer)?;
        }
        self.large_enough(&spec, &prepared, peer).await?;
        if request.validate_only {
            return Ok(planned(&submitted, &prepared));
        }
        let created = self.api.world.clock().wall();
        let record = AlertRecord {
            name,
            request_id,
            submitted: Arc::clone(&submitted),
            apps: spec.audience.apps.clone(),
            plan: Some(Arc::new(send_plan(&prepared, rendered))),
            overshoot_m: prepared.target.overshoot_m,
            band_step_m: prepared.target.edges.step_m(),
            wave: wave(id),
            epoch: FIRST_EPOCH,
            log: self.api.log.identity(),
            positions: Vec::new(),
            created,
            place_seen_after: place_seen_after(prepared.place_seen_within, created),
            expires: spec.active_until,
            revision: 1,
            state: State::Active,
            ended: None,
            cancel_reason: None,
            settled: None,
        };
        let of_peer = self.active.enter(peer).map_err(|full| {
            status::share("ALERTS_ACTIVE", "active alerts", peer, full, Duration::from_secs(5))
        })?;
        let api = Arc::clone(&self.api);
        let launching = async move {
            let bands = prepared.target.bands.clone();
            tracing::info!(
                alert = %record.name,
                mode = ?spec.mode,
                severity = ?spec.severity,
                bands = bands.len(),
                "alert admitted and planned"
            );
            let answer = launch(&api, record, bands, of_peer).await;
            // The place is held until here, even if the caller has hung up.
            drop((one_try, admitted));
            answer
        };
        // The task stays in the caller's trace.
        let launching = self.api.drain.spawn(launching.in_current_span());
        match launching.await.map_err(|e| status::internal(&e))?? {
            Created::New(alert) => Ok(Answer::Recorded(alert)),
            Created::Existing(alert) => {
                let answer = same(alert, &submitted)?;
                if let Answer::Recorded(alert) = &answer {
                    self.api.reconciler.adopt(alert);
                }
                Ok(answer)
            }
        }
    }
}

/// Records the alert and hands it over, if nodes and lanes are there.
async fn launch(
    api: &Context,
    record: AlertRecord,
    bands: Bands,
    of_peer: Place,
) -> Result<Created<AlertRecord>, Status> {
    // The alert was admitted before shutdown began. Shutdown waits only for alerts that were handed
    // over, so an alert that is not yet recorded is refused here.
    if api.admission.is_closed() {
        return Err(status::draining());
    }
    let lanes: Vec<&LaneKey> =
        record.plan.iter().flat_map(|plan| &plan.apps).map(|app| &app.lane).collect();
    api.dispatch.check_start(&lanes).map_err(|e| status::start(&e))?;
    let created = api.store.create_alert(record, api.config.alerts.active_max).await;
    if created.as_ref().is_err_and(StoreError::may_pass) {
        api.reconciler.search();
    }
    let created = created.map_err(status::store)?;
    if let Created::New(alert) = &created {
        api.reconciler.hand_over(Arc::clone(alert), bands);
        if let Some(mut newest) = api.reconciler.watch(&alert.name) {
            let stop = api.drain.token();
            api.drain.spawn(async move {
                let _place = of_peer;
                let ended = newest.wait_for(|snapshot| snapshot.state.is_final());
                // The place becomes free when the alert has ended or the process shuts down.
                let _ = stop.run_until_cancelled(ended).await;
            });
        }
    }
    Ok(created)
}

fn send_plan(prepared: &Prepared, rendered: Vec<Rendered>) -> SendPlan {
    let apps =
        prepared.apps.iter().zip(rendered).map(|(app, Rendered { request, messages })| AppPlan {
            app: app.app.name.clone(),
            lane: LaneKey {
                gateway: app.app.gateway.clone(),
                credential: app.app.credential.clone(),
            },
            request,
            messages,
        });
    SendPlan {
        edges: prepared.target.edges.clone(),
        finest: prepared.target.finest,
        segments: prepared.segments.to_wire(),
        apps: apps.collect(),
    }
}

fn same(existing: Arc<AlertRecord>, submitted: &wire::Alert) -> Result<Answer, Status> {
    if *existing.submitted == *submitted {
        return Ok(Answer::Recorded(existing));
    }
    let field = difference::first(&existing.submitted, submitted);
    Err(status::used_for(&existing.name, &field))
}

/// The response to a validation: nothing was recorded, so the response has no name.
fn valid(record: &AlertRecord) -> Answer {
    let submitted = &record.submitted;
    let audience = audience_in_effect(submitted, answer::place_seen_within(record));
    Answer::Valid(Box::new(wire::Alert {
        audience,
        overshoot_meters: record.overshoot_m,
        band_step_meters: record.band_step_m,
        ..answer::submitted(submitted, answer::is_small(submitted))
    }))
}

/// The response to a validation that computed the cover.
fn planned(submitted: &wire::Alert, prepared: &Prepared) -> Answer {
    let audience = audience_in_effect(submitted, prepared.place_seen_within);
    Answer::Valid(Box::new(wire::Alert {
        audience,
        overshoot_meters: prepared.target.overshoot_m,
        band_step_meters: prepared.target.edges.step_m(),
        ..answer::submitted(submitted, answer::is_small(submitted))
    }))
}

/// The alert as the caller submitted it, with output fields cleared.
fn without_outputs(alert: wire::Alert) -> wire::Alert {
    let (name, state, isolation) = (String::new(), 0, None);
    wire::Alert {
        name,
        state,
        create_time: None,
        end_time: None,
        progress: None,
        isolation,
        overshoot_meters: 0.0,
        band_step_meters: 0.0,
        ..alert
    }
}

/// Checks an alert's size: a response repeats the alert with more fields.
fn within_answers(alert: &wire::Alert) -> Result<(), InvalidField> {
    match alert.encoded_len() {
        ..=ALERT_BYTES_MAX => Ok(()),
        bytes => Err(InvalidField::new(
            "alert",
            format_args!("must be at most {ALERT_BYTES_MAX} bytes encoded; got {bytes} bytes"),
        )),
    }
}

fn request_id(text: &str) -> Result<RequestId, InvalidField> {
    if text.is_empty() {
        return Err(InvalidField::new("request_id", "is required"));
    }
    // The value is truncated: the size of a response must not grow with an invalid request.
    let id = Uuid::try_parse(text).map_err(|_| {
        let shown: String = text.chars().take(36).collect();
        InvalidField::new(
            "request_id",
            format_args!("must be a UUID, is {shown:?} of {} bytes", text.len()),
        )
    })?;
    if id.is_nil() {
        return Err(InvalidField::new("request_id", "must not be the nil UUID"));
    }
    Ok(RequestId(id))
}

/// 33 characters, ordered by time; also a valid `apns-collapse-id`.
pub(super) fn alert_name(id: Uuid) -> AlertName {
    AlertName::from_id(&format!("a{}", id.simple())).expect("a letter and 32 hexadecimal digits")
}

/// The random half of the alert's UUID (62 bits): unique without coordination, also across
/// restarts.
fn wave(id: Uuid) -> WaveId {
    WaveId(id.as_u64_pair().1)
}
