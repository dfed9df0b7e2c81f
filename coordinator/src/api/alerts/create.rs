//! The way in: decode → seen before? → admit → cover and bands → render → large enough? → record → start → answer.
//!
//! Everything up to "record" changes nothing, so a refusal leaves nothing behind. From there on the work belongs to a
//! task of its own: a caller who hangs up between the record and the start must not leave an alert that nobody carries
//! out. An alert that was recorded and cannot start (no node is there) is taken back, and its `request_id` with it, so
//! that the same request can be tried again. Tries of one request wait for each other ([`Requests`]): otherwise a second
//! try could be answered from a record that the first is about to take back.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clarion_proto::{
    alert::AlertSpec,
    audience::SegmentExpr,
    error::{InvalidField, required},
    ids::{AlertName, Epoch, WaveId},
    time::Time,
    wire::v1 as wire,
};
use clarion_runtime::peers::{PeerKey, shares::Place};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{OwnedMutexGuard, watch};
use tonic::Status;
use tracing::Instrument;
use uuid::Uuid;

use super::{Alerts, Context, status};
use crate::{
    admission::{
        self, Refusal,
        render::{self, Rendered},
    },
    alert::{AlertRecord, Event, RequestId, State, is_final, keeper},
    api::{
        REQUEST_BYTES_MAX,
        alerts::plan::{self, Cover},
    },
    dispatch::{AppPlan, CancelState, CountError, CountPlan, LaneKey, PlannedAlert},
    plan::Bands,
    privacy::{
        self, AUDIENCE_MIN, REGION_KM2_MIN,
        curiosity::{Asked, Curiosity, REGION_CELLS_MAX},
        sketch::Sketch,
    },
    progress::Snapshot,
    store::{AppRecord, Created},
};

/// Largest alert, bytes: its answer, which has names, times and progress as well, is smaller than the request may be.
const ALERT_BYTES_MAX: usize = REQUEST_BYTES_MAX - (64 << 10);

/// What CreateAlert answers.
pub(super) enum Answer {
    /// Recorded, now or by an earlier try.
    Recorded(Arc<AlertRecord>),
    /// It would be taken; nothing was recorded.
    Valid(Box<wire::Alert>),
}

impl Alerts {
    /// The whole way in.
    pub(super) async fn create(
        &self,
        request: wire::CreateAlertRequest,
        peer: PeerKey,
    ) -> Result<Answer, Status> {
        let turn = self.admitted(peer)?;
        let request_id = request_id(&request.request_id).map_err(status::invalid)?;
        let submitted = required(request.alert, "alert").map_err(status::invalid)?;
        let submitted = Arc::new(without_outputs(submitted));
        within_answers(&submitted).map_err(status::invalid)?;
        let spec = AlertSpec::from_wire(wire::Alert::clone(&submitted)).map_err(within_alert)?;
        let one_try = self.requests.enter(request_id).await;
        if let Some(existing) =
            self.api.store.alert_by_request(request_id).await.map_err(status::store)?
        {
            return match same(existing, &submitted)? {
                Answer::Recorded(_) if request.validate_only => Ok(valid(&submitted)),
                answer => Ok(answer),
            };
        }
        if self.api.admission.is_closed() {
            return Err(status::draining());
        }
        if request.validate_only {
            let prepared = self.prepare(&spec, peer).await?;
            prepared.render(&self.api, &spec, &longest_name())?;
            let validated = |question| {
                self.curious(|curiosity, now| match question {
                    Question::Region(asked) => curiosity.validate(peer, asked, now),
                    Question::TooLarge => curiosity.at_rate(peer, now),
                })
            };
            prepared
                .asked()
                .map_or(Ok(()), validated)
                .map_err(|wait| asked_too_often(peer, wait))?;
            self.large_enough(&spec, &prepared, peer).await?;
            return Ok(valid(&submitted));
        }
        let prepared = self.prepare(&spec, peer).await?;
        let id = Uuid::now_v7();
        let name = alert_name(id);
        let rendered = prepared.render(&self.api, &spec, &name)?;
        if let Some(sketch) = &prepared.sketch {
            self.curious(|curiosity, now| curiosity.may_create(peer, sketch, now)).map_err(|wait| {
                let words = format!("{peer} was refused for too small an audience in nearly this region too often");
                status::exhausted("REFUSALS_MAX", words, wait)
            })?;
        }
        self.large_enough(&spec, &prepared, peer).await?;
        let record = AlertRecord {
            name,
            request_id,
            submitted: Arc::clone(&submitted),
            apps: spec.audience.apps.clone(),
            wave: wave(id),
            epoch: Epoch(1),
            log: self.api.log.identity(),
            positions: Vec::new(),
            created: self.api.clock.wall(),
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
        let launch = async move {
            let answer = launch(api, record, spec, prepared, rendered, of_peer).await;
            // Held until here, whatever became of the caller.
            drop((one_try, turn));
            answer
        };
        // In the caller's trace still.
        let launch = self.api.drain.spawn(launch.in_current_span());
        match launch.await.map_err(|e| status::internal(&e))?? {
            Created::New(alert) => Ok(Answer::Recorded(alert)),
            Created::Existing(alert) => same(alert, &submitted),
        }
    }

    /// A place in admission.
    pub(super) fn admitted(&self, peer: PeerKey) -> Result<Place, Status> {
        let busy = |full| {
            status::share(
                "ADMISSIONS_BUSY",
                "alerts and previews in admission",
                peer,
                full,
                Duration::from_secs(1),
            )
        };
        self.api.admission.enter(peer).map_err(busy)
    }

    /// Admits and plans; changes nothing.
    pub(super) async fn prepare(
        &self,
        spec: &AlertSpec,
        peer: PeerKey,
    ) -> Result<Prepared, Status> {
        spec.check_time(self.api.clock.wall()).map_err(within_alert)?;
        let mut apps = Vec::with_capacity(spec.audience.apps.len());
        for name in &spec.audience.apps {
            apps.push(self.api.store.app(name).await.map_err(status::store)?);
        }
        admission::admit(spec, &apps, &self.api.config).map_err(|refusal| match refusal {
            Refusal::Invalid(field) => within_alert(field),
            other => status::refusal(other),
        })?;
        let apps = apps.into_iter().flatten().collect();
        let (cover, sketch) = plan::cover(&self.api, spec, peer).await?;
        if !self.api.config.allow_small_audiences && cover.area_km2 < REGION_KM2_MIN {
            return Err(status::too_small(
                "REGION_TOO_SMALL",
                "alert.region",
                &format!("{REGION_KM2_MIN} km²"),
            ));
        }
        Ok(Prepared { apps, cover: Arc::new(cover), sketch, segments: admission::segments(spec) })
    }

    /// Asks the nodes whether the audience is large enough, nearest first: a city is within its first kilometres, for
    /// the price of one round trip; only a sparse region, or a rare segment, is looked at whole. Nodes that are away or
    /// slow do not matter as long as the others have enough; if they have not, nobody knows, and the alert is
    /// refused for the time being rather than sent to a few.
    async fn large_enough(
        &self,
        spec: &AlertSpec,
        prepared: &Prepared,
        peer: PeerKey,
    ) -> Result<(), Status> {
        if self.api.config.allow_small_audiences {
            return Ok(());
        }
        let _question = self.api.admission.question(peer).await;
        let bands = &prepared.cover.bands;
        let near = privacy::nearest(bands);
        let parts =
            [(near.len() < bands.len()).then(|| Bands::from(near.to_vec())), Some(bands.clone())];
        for part in parts.into_iter().flatten() {
            let plan = CountPlan {
                bands: part.clone(),
                apps: spec.audience.apps.clone(),
                segments: prepared.segments.to_wire(),
            };
            match self.api.dispatch.reaches(plan, AUDIENCE_MIN).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // Of the nearest part that does not say anything of the whole.
                Err(CountError::Absent { .. } | CountError::Deadline { .. })
                    if part.len() < bands.len() => {}
                Err(error) => return Err(status::count(&error)),
            }
        }
        if let Some(Question::Region(asked)) = prepared.asked() {
            self.curious(|curiosity, now| curiosity.refused(peer, asked, now));
        }
        Err(audience_too_small())
    }

    /// Asks whether a question may be asked.
    pub(super) fn curious<T>(&self, ask: impl FnOnce(&mut Curiosity<Cover>, Duration) -> T) -> T {
        ask(&mut self.curiosity.lock(), self.api.clock.now().since(Time(0)))
    }
}

/// Previews and validations of a peer, or of one region, come faster than anybody reads them.
pub(super) fn asked_too_often(peer: PeerKey, wait: Duration) -> Status {
    let words =
        format!("{peer} has previewed or validated too often, or nearly the same region too often");
    status::exhausted("PREVIEWS_MAX", words, wait)
}

/// What an alert asks about its region.
pub(super) enum Question {
    /// Whatever is nearly the same is one.
    Region(Asked<Cover>),
    /// Nothing else is nearly the same.
    TooLarge,
}

/// Admitted and planned, not recorded.
pub(super) struct Prepared {
    /// In the order of the audience.
    pub(super) apps: Vec<Arc<AppRecord>>,
    pub(super) cover: Arc<Cover>,
    /// `None`: the operator allows small audiences, and nobody is held to limits of questions.
    pub(super) sketch: Option<Sketch>,
    pub(super) segments: SegmentExpr,
}

impl Prepared {
    /// As a question about a region; `None` if nobody is held to limits of questions.
    pub(super) fn asked(&self) -> Option<Question> {
        let sketch = self.sketch.clone()?;
        let cells = self.cover.bands.iter().map(|band| band.cells.len()).sum();
        if cells > REGION_CELLS_MAX {
            return Some(Question::TooLarge);
        }
        // A copy without room: what is remembered for an hour must not keep the room that alerts need.
        let bands = Bands::from(self.cover.bands.to_vec());
        let plan = Arc::new(Cover { bands, ..*self.cover });
        Some(Question::Region(Asked { sketch, plan, cells }))
    }

    /// For each app, what its devices are sent.
    fn render(
        &self,
        api: &Context,
        spec: &AlertSpec,
        name: &AlertName,
    ) -> Result<Vec<Rendered>, Status> {
        let (prefix, now) = (&api.config.exercise_prefix, api.clock.wall());
        let rendered =
            self.apps.iter().map(|app| render::render(spec, name, &app.app, prefix, now));
        rendered.collect::<Result<_, _>>().map_err(within_alert)
    }
}

/// Records and starts; takes back what cannot be started.
async fn launch(
    api: Arc<Context>,
    record: AlertRecord,
    spec: AlertSpec,
    prepared: Prepared,
    rendered: Vec<Rendered>,
    of_peer: Place,
) -> Result<Created<AlertRecord>, Status> {
    // Admitted before the stop began; the stop waits for alerts that have started, not for those about to.
    if api.admission.is_closed() {
        return Err(status::draining());
    }
    let alert = match api.store.create_alert(record, api.config.alerts_active_max).await {
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
    tracing::info!(alert = %alert.name, mode = ?spec.mode, severity = ?spec.severity, bands, "alert started");
    if let Some(newest) = api.dispatch.watch(&alert.name) {
        let ended = ended(&api, newest.clone(), of_peer);
        let keeper = keeper::keep(Arc::clone(&api), alert.name.clone(), newest);
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
            stop.run_until_cancelled(newest.wait_for(|snapshot| is_final(snapshot.state))).await;
    }
}

/// Somebody may have found the alert in the list and cancelled it before it ran: dispatch did not know it then.
async fn stopped_meanwhile(api: &Context, alert: &AlertRecord) -> Result<(), Status> {
    let now = api.store.alert(&alert.name).await.map_err(status::store)?;
    if now.is_some_and(|now| now.state == State::Cancelling)
        && let CancelState::At { state, .. } = api.dispatch.cancel(&alert.name).await
        && is_final(state)
    {
        keeper::record(api, &alert.name, Event::End(state)).await.map_err(status::store)?;
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
        bands: Arc::unwrap_or_clone(prepared.cover).bands,
        segments: prepared.segments.to_wire(),
        created,
        expires: created + active,
        max_rate_per_second: spec.max_rate_per_second,
    }
}

/// Tries of the same request, one after another. Entries live as long as a try: at most as many as are in admission.
#[derive(Debug, Default, Clone)]
pub(super) struct Requests(Arc<Mutex<BTreeMap<RequestId, Arc<tokio::sync::Mutex<()>>>>>);

/// The only try of its request.
struct OneTry {
    requests: Requests,
    request: RequestId,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Requests {
    async fn enter(&self, request: RequestId) -> OneTry {
        let gate = Arc::clone(self.0.lock().entry(request).or_default());
        // Made before waiting, so that a caller who hangs up while waiting tidies up too.
        let mut one = OneTry { requests: self.clone(), request, guard: None };
        one.guard = Some(gate.lock_owned().await);
        one
    }
}

impl Drop for OneTry {
    fn drop(&mut self) {
        let mut gates = self.requests.0.lock();
        self.guard = None;
        // Nobody else can take a copy while the map is locked; the map's own is the last.
        if gates.get(&self.request).is_some_and(|gate| Arc::strong_count(gate) == 1) {
            gates.remove(&self.request);
        }
    }
}

fn same(existing: Arc<AlertRecord>, submitted: &wire::Alert) -> Result<Answer, Status> {
    if *existing.submitted == *submitted {
        return Ok(Answer::Recorded(existing));
    }
    let message = format!("request_id was used for another alert, {}", existing.name);
    Err(status::already_exists(message))
}

/// Nothing was recorded: the answer has no name.
fn valid(submitted: &wire::Alert) -> Answer {
    Answer::Valid(Box::new(submitted.clone()))
}

/// Refused without saying how small.
pub(super) fn audience_too_small() -> Status {
    status::too_small(
        "AUDIENCE_TOO_SMALL",
        "alert.audience",
        &format!("{AUDIENCE_MIN} devices in the region"),
    )
}

/// What the caller said, and nothing that only an answer can say.
fn without_outputs(alert: wire::Alert) -> wire::Alert {
    let (name, state, isolation) = (String::new(), 0, None);
    wire::Alert {
        name,
        state,
        create_time: None,
        end_time: None,
        progress: None,
        isolation,
        ..alert
    }
}

/// An answer repeats the alert and adds to it, and callers take 4 MiB unless they say otherwise.
fn within_answers(alert: &wire::Alert) -> Result<(), InvalidField> {
    match alert.encoded_len() {
        ..=ALERT_BYTES_MAX => Ok(()),
        bytes => Err(InvalidField::new(
            "alert",
            format_args!("at most {ALERT_BYTES_MAX} bytes, has {bytes}"),
        )),
    }
}

fn request_id(text: &str) -> Result<RequestId, InvalidField> {
    if text.is_empty() {
        return Err(InvalidField::new("request_id", "is required"));
    }
    // Shown cut: an answer should not grow with the nonsense it answers.
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
fn alert_name(id: Uuid) -> AlertName {
    AlertName::from_id(&format!("a{}", id.simple())).expect("a letter and 32 hexadecimal digits")
}

/// As long as any: what fits with it fits.
fn longest_name() -> AlertName {
    alert_name(Uuid::nil())
}

/// The random half of the alert's UUID (62 bits): no coordination, and another one after every restart.
fn wave(id: Uuid) -> WaveId {
    WaveId(id.as_u64_pair().1)
}

fn within_alert(field: InvalidField) -> Status {
    status::invalid(field.within("alert"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tries_of_one_request_wait_and_leave_nothing() {
        let requests = Requests::default();
        let (a, b) = (RequestId(Uuid::from_u128(1)), RequestId(Uuid::from_u128(2)));
        let first = requests.enter(a).await;
        let other = requests.enter(b).await;
        let mut second = Box::pin(requests.enter(a));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        let second = second.await;
        assert_eq!(requests.0.lock().len(), 2);
        let mut impatient = Box::pin(requests.enter(a));
        assert!(futures_util::poll!(&mut impatient).is_pending());
        drop((impatient, second, other));
        assert!(requests.0.lock().is_empty());
    }
}
