//! From an admitted alert to a running one: record, start, and take back what cannot be started.

use std::{sync::Arc, time::Duration};

use clarion_proto::alert::AlertSpec;
use clarion_runtime::peers::shares::Place;
use tokio::sync::watch;
use tonic::Status;

use super::{Context, prepare::Prepared, status};
use crate::{
    admission::render::Rendered,
    alert::Event,
    dispatch::CancelState,
    lane::LaneKey,
    planned::{AppPlan, PlannedAlert},
    snapshot::{Snapshot, State},
    store::{AlertRecord, Created},
};

/// Records and starts; takes back what cannot be started.
pub(super) async fn launch(
    api: Arc<Context>,
    record: AlertRecord,
    spec: AlertSpec,
    prepared: Prepared,
    rendered: Vec<Rendered>,
    of_peer: Place,
) -> Result<Created<AlertRecord>, Status> {
    // Admitted before the stop began; the stop waits for alerts that have started, not for those
    // about to.
    if api.admission.is_closed() {
        return Err(status::draining());
    }
    let alert = match api.store.create_alert(record, api.config.alerts.active_max).await {
        Ok(Created::New(alert)) => alert,
        Ok(existing) => return Ok(existing),
        Err(error) => return Err(status::store(error)),
    };
    let planned = planned(&api, &alert, &spec, prepared, rendered);
    let bands = planned.bands.len();
    if let Err(error) = api.dispatch.start(Arc::new(planned)).await {
        api.store.discard_alert(&alert.name).await.map_err(status::store)?;
        return Err(status::start(error));
    }
    tracing::info!(
        alert = %alert.name,
        mode = ?spec.mode,
        severity = ?spec.severity,
        bands,
        "alert started"
    );
    if let Some(newest) = api.dispatch.watch(&alert.name) {
        let ended = ended(&api, newest.clone(), of_peer);
        let keeper = api.keeper.clone().keep(alert.name.clone(), newest);
        api.drain.spawn(async move { tokio::join!(keeper, ended) });
    }
    stopped_meanwhile(&api, &alert).await?;
    Ok(Created::New(alert))
}

/// Holds the place of a peer's active alert until it is none, or the process stops.
fn ended(
    api: &Context,
    mut newest: watch::Receiver<Arc<Snapshot>>,
    of_peer: Place,
) -> impl Future<Output = ()> + Send + 'static {
    let stop = api.drain.token();
    async move {
        let _place = of_peer;
        // An error means that nobody reports any more; then it has ended, too.
        let _ =
            stop.run_until_cancelled(newest.wait_for(|snapshot| snapshot.state.is_final())).await;
    }
}

/// Somebody may have found the alert in the list and cancelled it before it ran: dispatch did not
/// know it then.
async fn stopped_meanwhile(api: &Context, alert: &AlertRecord) -> Result<(), Status> {
    let now = api.store.alert(&alert.name).await.map_err(status::store)?;
    if now.is_some_and(|now| now.state == State::Cancelling)
        && let CancelState::At { state, .. } = api.dispatch.cancel(&alert.name).await
        && state.is_final()
    {
        api.keeper.record(&alert.name, Event::End(state)).await.map_err(status::store)?;
    }
    Ok(())
}

fn planned(
    api: &Context,
    alert: &AlertRecord,
    spec: &AlertSpec,
    prepared: Prepared,
    rendered: Vec<Rendered>,
) -> PlannedAlert {
    let created = api.clock.now();
    let active = Duration::from_millis(alert.expires.0.saturating_sub(api.clock.wall().0));
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
    PlannedAlert {
        name: alert.name.clone(),
        wave: alert.wave,
        epoch: alert.epoch,
        apps: apps.collect(),
        bands: Arc::unwrap_or_clone(prepared.target).bands,
        segments: prepared.segments.to_wire(),
        created,
        expires: created + active,
        max_rate_per_second: spec.max_rate_per_second,
    }
}
