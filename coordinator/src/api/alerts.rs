//! `AlertService`: one alert from its request to its end. [`create`] handles requests, [`watch`]
//! streams progress.

use std::{sync::Arc, time::Duration};

use clarion_proto::{
    error::InvalidField,
    ids::AlertName,
    wire::v1::{self as wire, alert_service_server::AlertService},
};
use clarion_runtime::peers::{PeerKey, shares::Places};
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use self::answer::Regions;
use super::{Context, compression::sized, door, page, status};
use crate::{
    admission::target::Target,
    alert::{Event, REASON_BYTES_MAX},
    bands::BandEdges,
    dispatch::CancelState,
    privacy::curiosity::Curiosity,
    store::{AlertRecord, StoreError},
};

pub(super) mod answer;
mod create;
mod difference;
mod list;
mod prepare;
mod preview;
mod requests;
mod server;
mod watch;

use requests::Requests;

pub(super) use server::server;

/// Largest response that is sent without being asked for, bytes: gRPC clients accept 4 MiB by
/// default. A larger region is left out, and a page ends sooner.
const RESPONSE_BYTES_MAX: usize = 3 << 20;
/// Maximum number of larger responses at a time, until their callers have read them: 128 MiB.
pub(super) const LARGE_ANSWERS_MAX: usize = 16;

/// Configuration of alerts, previews and watchers.
#[derive(Debug, Clone)]
pub struct AlertsConfig {
    /// What an EXERCISE says in front of its title.
    pub exercise_prefix: String,
    /// Whether to accept regions and audiences so small that an alert could single out a person
    /// ([`crate::privacy`]).
    pub allow_small_audiences: bool,
    /// Distances at which one band ends and the next begins.
    pub bands: BandEdges,
    /// Largest age of a device's place, for alerts that set none.
    pub place_seen_within: Duration,
    /// Maximum number of active alerts; further alerts are refused.
    pub active_max: usize,
    /// Maximum number of WatchAlert streams; further streams are refused.
    pub watchers_max: usize,
    /// Maximum number of WatchAlert streams for one alert.
    pub watchers_per_alert_max: usize,
}

/// State of `AlertService` beside the context.
#[derive(Debug)]
pub(super) struct Alerts {
    api: Arc<Context>,
    requests: Requests,
    /// Active alerts by the peer that created them; the store checks the total.
    active: Places,
    /// Responses with a region of more than [`RESPONSE_BYTES_MAX`].
    large: Places,
    watchers: Arc<watch::Watchers>,
    curiosity: Mutex<Curiosity<Target>>,
}

impl Alerts {
    pub(super) fn new(api: Arc<Context>) -> Self {
        let config = &api.config.alerts;
        let (total_max, per_alert_max) = (config.watchers_max, config.watchers_per_alert_max);
        let watchers = watch::Watchers::new(total_max, per_alert_max, api.world.clock());
        let active = Places::new(config.active_max);
        Self {
            api,
            requests: Requests::default(),
            active,
            large: Places::new(LARGE_ANSWERS_MAX),
            watchers,
            curiosity: Mutex::default(),
        }
    }

    /// Opens a stream of progress; see [`watch`].
    async fn watch(
        &self,
        request: wire::WatchAlertRequest,
        peer: PeerKey,
    ) -> Result<BoxStream<'static, Result<bytes::Bytes, Status>>, Status> {
        let alert = self.existing(&request.name).await?;
        let seat = self.watchers.enter(&alert.name, peer)?;
        let newest = self.api.reconciler.watch(&alert.name);
        // Neither runs here nor has ended: progress would never come.
        if newest.is_none() && !alert.state.is_final() {
            return Err(status::elsewhere(&alert.name));
        }
        Ok(watch::stream(seat, &alert, newest, request.cells, self.api.drain.token()))
    }

    async fn existing(&self, name: &str) -> Result<Arc<AlertRecord>, Status> {
        let name = AlertName::from_name(name).map_err(|e| status::invalid(e.within("name")))?;
        let alert = self.api.store.alert(&name).await.map_err(status::store)?;
        alert.ok_or_else(|| status::not_found(&name.name()))
    }

    fn answer(&self, alert: &AlertRecord, regions: Regions) -> wire::Alert {
        let newest =
            self.api.reconciler.watch(&alert.name).map(|watch| Arc::clone(&watch.borrow()));
        answer::alert(alert, newest.as_deref(), regions)
    }
}

#[tonic::async_trait]
impl AlertService for Alerts {
    type WatchAlertStream = BoxStream<'static, Result<wire::AlertProgress, Status>>;

    async fn create_alert(
        &self,
        request: Request<wire::CreateAlertRequest>,
    ) -> Result<Response<wire::Alert>, Status> {
        let peer = door::peer(request.extensions());
        match self.create(request.into_inner(), peer).await? {
            create::Answer::Recorded(alert) => Ok(sized(self.answer(&alert, Regions::Small))),
            create::Answer::Valid(alert) => Ok(sized(*alert)),
        }
    }

    async fn preview_alert(
        &self,
        request: Request<wire::PreviewAlertRequest>,
    ) -> Result<Response<wire::PreviewAlertResponse>, Status> {
        let peer = door::peer(request.extensions());
        self.preview(request.into_inner(), peer).await.map(sized)
    }

    async fn get_alert(
        &self,
        request: Request<wire::GetAlertRequest>,
    ) -> Result<Response<wire::Alert>, Status> {
        let peer = door::peer(request.extensions());
        let request = request.into_inner();
        let alert = self.existing(&request.name).await?;
        if !request.with_region || answer::is_small(&alert.submitted) {
            return Ok(sized(self.answer(&alert, Regions::Small)));
        }
        let place = self.large.enter(peer).map_err(|full| {
            let what = "responses with a region of more than 3 MiB";
            status::share("RESPONSES_BUSY", what, peer, full, Duration::from_secs(1))
        })?;
        let mut response = sized(self.answer(&alert, Regions::All));
        response.extensions_mut().insert(door::LargeAnswer::new(place));
        Ok(response)
    }

    async fn list_alerts(
        &self,
        request: Request<wire::ListAlertsRequest>,
    ) -> Result<Response<wire::ListAlertsResponse>, Status> {
        self.list(request.into_inner()).await.map(sized)
    }

    async fn watch_alert(
        &self,
        _: Request<wire::WatchAlertRequest>,
    ) -> Result<Response<Self::WatchAlertStream>, Status> {
        // The generated trait requires this method; `server` handles WatchAlert before this point.
        Err(status::internal(&"WatchAlert reached the generated server"))
    }

    async fn cancel_alert(
        &self,
        request: Request<wire::CancelAlertRequest>,
    ) -> Result<Response<wire::Alert>, Status> {
        let request = request.into_inner();
        if request.reason.len() > REASON_BYTES_MAX {
            let problem = format!("at most {REASON_BYTES_MAX} bytes, has {}", request.reason.len());
            return Err(status::invalid(InvalidField::new("reason", problem)));
        }
        let name =
            AlertName::from_name(&request.name).map_err(|e| status::invalid(e.within("name")))?;
        let api = Arc::clone(&self.api);
        // The cancel runs in its own task: a caller that hangs up must not leave an alert half
        // cancelled.
        let cancel = self
            .api
            .drain
            .spawn(async move { cancel(&api, &name, request.reason).await }.in_current_span());
        let alert = cancel.await.map_err(|e| status::internal(&e))??;
        Ok(sized(self.answer(&alert, Regions::Small)))
    }
}

/// Time to record a cancel, after which the nodes are stopped without a record.
const CANCEL_RECORDED_WITHIN: Duration = Duration::from_secs(2);

/// Records the cancel, stops the nodes, records the result. Changes nothing if the alert has ended.
async fn cancel(
    api: &Context,
    name: &AlertName,
    reason: String,
) -> Result<Arc<AlertRecord>, Status> {
    let recorded = api.reconciler.record(name, Event::Cancel { reason });
    let recorded = tokio::time::timeout(CANCEL_RECORDED_WITHIN, recorded).await;
    let recorded = recorded.unwrap_or_else(|_| {
        let seconds = CANCEL_RECORDED_WITHIN.as_secs();
        Err(StoreError::Away(format!("no answer for {seconds} s; the cancel may be stored")))
    });
    let alert = match recorded {
        Ok(alert) => alert,
        Err(
            error @ (StoreError::Away(_)
            | StoreError::Busy(_)
            | StoreError::Broken(_)
            | StoreError::Unreadable { .. }),
        ) => return Err(stop_unrecorded(api, name, error).await),
        Err(error) => return Err(status::store(error)),
    };
    if alert.state.is_final() {
        return Ok(alert);
    }
    match api.reconciler.cancel(&alert.name).await {
        CancelState::At { state, unconfirmed } => {
            tracing::info!(
                alert = %alert.name,
                ?state,
                unconfirmed = unconfirmed.len(),
                "alert cancel answered"
            );
            if !state.is_final() {
                return Ok(alert);
            }
            match api.reconciler.record(&alert.name, Event::End(state)).await {
                // Another process has taken the alert over, and its nodes may still send.
                Err(StoreError::Superseded { .. }) => Err(status::elsewhere(&alert.name)),
                recorded => recorded.map_err(status::store),
            }
        }
        // Another process runs the alert, whose nodes this one cannot stop, or it has just ended.
        CancelState::Unknown | CancelState::Superseded => {
            let newest = api.store.alert(&alert.name).await.map_err(status::store)?;
            match newest.filter(|newest| newest.state.is_final()) {
                Some(ended) => Ok(ended),
                None => Err(status::elsewhere(&alert.name)),
            }
        }
    }
}

/// Stops the nodes although the cancel cannot be recorded now: an alert that is wrong must not go on
/// because a database is down. The alert's task records the end when the store is back.
async fn stop_unrecorded(api: &Context, name: &AlertName, error: StoreError) -> Status {
    match api.reconciler.cancel(name).await {
        CancelState::At { state, unconfirmed } => {
            tracing::error!(
                alert = %name,
                ?state,
                unconfirmed = unconfirmed.len(),
                %error,
                "alert stopped without a record of its cancel"
            );
            status::unrecorded(name, &error)
        }
        CancelState::Unknown | CancelState::Superseded => status::store(error),
    }
}
