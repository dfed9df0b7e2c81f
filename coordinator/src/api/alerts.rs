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
use prost::Message as _;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use super::{Context, door, page, status};
use crate::{
    admission::target::Target,
    alert::{Event, REASON_BYTES_MAX},
    bands::BandEdges,
    dispatch::CancelState,
    privacy::curiosity::Curiosity,
    store::{AlertCursor, AlertRecord, StoreError},
};

pub(super) mod answer;
mod create;
mod prepare;
mod preview;
mod requests;
mod server;
mod watch;

use requests::Requests;

pub(super) use server::server;

/// Largest page of alerts, bytes: gRPC clients accept 4 MiB by default, and one alert may be nearly
/// as large.
const LIST_BYTES_MAX: usize = 3 << 20;
/// Bytes of the field header in front of each alert of a page.
const FRAME_BYTES: usize = 8;

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
    watchers: Arc<watch::Watchers>,
    curiosity: Mutex<Curiosity<Target>>,
}

impl Alerts {
    pub(super) fn new(api: Arc<Context>) -> Self {
        let config = &api.config.alerts;
        let (total_max, per_alert_max) = (config.watchers_max, config.watchers_per_alert_max);
        let watchers = watch::Watchers::new(total_max, per_alert_max, api.world.clock());
        let active = Places::new(config.active_max);
        Self { api, requests: Requests::default(), active, watchers, curiosity: Mutex::default() }
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

    fn answer(&self, alert: &AlertRecord) -> wire::Alert {
        let newest =
            self.api.reconciler.watch(&alert.name).map(|watch| Arc::clone(&watch.borrow()));
        answer::alert(alert, newest.as_deref())
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
            create::Answer::Recorded(alert) => Ok(Response::new(self.answer(&alert))),
            create::Answer::Valid(alert) => Ok(Response::new(*alert)),
        }
    }

    async fn preview_alert(
        &self,
        request: Request<wire::PreviewAlertRequest>,
    ) -> Result<Response<wire::PreviewAlertResponse>, Status> {
        let peer = door::peer(request.extensions());
        self.preview(request.into_inner(), peer).await.map(Response::new)
    }

    async fn get_alert(
        &self,
        request: Request<wire::GetAlertRequest>,
    ) -> Result<Response<wire::Alert>, Status> {
        let alert = self.existing(&request.into_inner().name).await?;
        Ok(Response::new(self.answer(&alert)))
    }

    async fn list_alerts(
        &self,
        request: Request<wire::ListAlertsRequest>,
    ) -> Result<Response<wire::ListAlertsResponse>, Status> {
        let request = request.into_inner();
        let size = page::size(request.page_size).map_err(status::invalid)?;
        let after = page::alert(&request.page_token).map_err(status::invalid)?;
        // One alert more than requested shows whether there is another page.
        let mut alerts =
            self.api.store.alerts(after.as_ref(), size + 1).await.map_err(status::store)?;
        let more = alerts.len() > size;
        alerts.truncate(size);
        let known = alerts.as_slice();
        let cursor = |last: &Arc<AlertRecord>| AlertCursor {
            created: last.created,
            name: last.name.clone(),
        };
        let (alerts, cut) = within(LIST_BYTES_MAX, known, |alert| self.answer(alert));
        let last = cut.or_else(|| known.last().filter(|_| more));
        let next = last.map(|last| page::after_alert(&cursor(last)));
        Ok(Response::new(wire::ListAlertsResponse {
            alerts,
            next_page_token: next.unwrap_or_default(),
        }))
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
        let alert = self.existing(&request.name).await?;
        let api = Arc::clone(&self.api);
        // The cancel runs in its own task: a caller that hangs up must not leave an alert half
        // cancelled.
        let cancel = self
            .api
            .drain
            .spawn(async move { cancel(&api, alert, request.reason).await }.in_current_span());
        let alert = cancel.await.map_err(|e| status::internal(&e))??;
        Ok(Response::new(self.answer(&alert)))
    }
}

/// The longest prefix of the answers that fits into a message, at least one answer; and the last
/// answer of the prefix, if answers were left out.
fn within(
    bytes_max: usize,
    alerts: &[Arc<AlertRecord>],
    answer: impl Fn(&AlertRecord) -> wire::Alert,
) -> (Vec<wire::Alert>, Option<&Arc<AlertRecord>>) {
    let mut answers: Vec<wire::Alert> = Vec::new();
    let mut bytes = 0;
    for alert in alerts {
        let next = answer(alert);
        bytes += next.encoded_len() + FRAME_BYTES;
        if bytes > bytes_max && !answers.is_empty() {
            let last = alerts.get(answers.len() - 1);
            return (answers, last);
        }
        answers.push(next);
    }
    (answers, None)
}

/// Records the cancel, stops the nodes, records the result. Changes nothing if the alert has ended.
async fn cancel(
    api: &Context,
    alert: Arc<AlertRecord>,
    reason: String,
) -> Result<Arc<AlertRecord>, Status> {
    if alert.state.is_final() {
        return Ok(alert);
    }
    let recorded = api.reconciler.record(&alert.name, Event::Cancel { reason }).await;
    let alert = recorded.map_err(status::store)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixtures::record;

    #[test]
    fn a_page_ends_before_it_is_too_large_for_its_caller() {
        let records: Vec<_> = (1..=5).map(|n| Arc::new(record(&format!("a{n}"), n))).collect();
        // Each says 1,000 bytes.
        let answer = |alert: &AlertRecord| wire::Alert {
            name: alert.name.name(),
            collapse_key: "k".repeat(1_000 - alert.name.name().len() - 5),
            ..wire::Alert::default()
        };
        let page = |bytes_max| {
            let (answers, cut) = within(bytes_max, &records, answer);
            (answers.len(), cut.map(|last| last.name.name()))
        };
        assert_eq!(page(5_040), (5, None));
        assert_eq!(page(5_039), (4, Some("alerts/a4".to_owned())));
        assert_eq!(page(1_008), (1, Some("alerts/a1".to_owned())));
        assert_eq!(page(10), (1, Some("alerts/a1".to_owned())), "one at least");
        assert_eq!(within(10, &[], answer).0.len(), 0);
    }
}
