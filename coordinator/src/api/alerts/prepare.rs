//! The common steps of CreateAlert and PreviewAlert: admit, cover and cut into bands, render, and
//! check whether the audience is large enough. No step here changes state.

use std::{sync::Arc, time::Duration};

use clarion_proto::{
    alert::AlertSpec,
    audience::{SegmentExpr, place_seen_after},
    error::InvalidField,
    ids::{AlertName, UnixMillis},
    time::Time,
    wire::v1 as wire,
};
use clarion_runtime::peers::PeerKey;
use tonic::Status;

use super::{Alerts, Context, status};
use crate::{
    admission::{
        self, Admitted, Refusal,
        render::{self, Rendered},
        target::{self, Target},
    },
    bands::Bands,
    dispatch::CountError,
    planned::CountPlan,
    privacy::{
        self, AUDIENCE_MIN, REGION_KM2_MIN,
        curiosity::{Asked, Curiosity},
        sketch::Sketch,
    },
    store::AppRecord,
};

impl Alerts {
    /// Takes a place in admission.
    pub(super) fn admitted(&self, peer: PeerKey) -> Result<Admitted, Status> {
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

    /// Checks a submitted alert.
    pub(super) async fn spec(
        &self,
        alert: wire::Alert,
        admitted: &mut Admitted,
    ) -> Result<AlertSpec, Status> {
        self.api.admission.spec(alert, admitted).await.map_err(|refusal| match refusal {
            Refusal::Invalid(field) => within_alert(field),
            other => status::refusal(other),
        })
    }

    /// Admits and plans an alert without changing state.
    pub(super) async fn prepare(
        &self,
        spec: &AlertSpec,
        admitted: &mut Admitted,
    ) -> Result<Prepared, Status> {
        spec.check_time(self.api.world.clock().wall()).map_err(within_alert)?;
        let mut apps = Vec::with_capacity(spec.audience.apps.len());
        for name in &spec.audience.apps {
            apps.push(self.api.store.app(name).await.map_err(status::store)?);
        }
        self.api.admission.admit(spec, &apps).map_err(|refusal| match refusal {
            Refusal::Invalid(field) => within_alert(field),
            other => status::refusal(other),
        })?;
        let apps = apps.into_iter().flatten().collect();
        let target = target::TargetSpec {
            region: spec.region.clone(),
            last_seen: spec.last_seen,
            edges: self.api.config.alerts.bands.clone(),
            finest: None,
        };
        let limited = !self.api.config.alerts.allow_small_audiences;
        let (target, sketch) =
            self.api.admission.target(target, limited, admitted).await.map_err(status::refusal)?;
        if limited && target.area_km2 < REGION_KM2_MIN {
            return Err(status::too_small(
                "REGION_TOO_SMALL",
                "alert.region",
                &format!("{REGION_KM2_MIN} km²"),
            ));
        }
        let segments = admission::segments(spec);
        let default = self.api.config.alerts.place_seen_within;
        let place_seen_within = spec.audience.place_seen_within.unwrap_or(default);
        Ok(Prepared { apps, target: Arc::new(target), sketch, segments, place_seen_within })
    }

    /// Returns the oldest observation of a place that counts now.
    pub(super) fn place_seen_after(&self, prepared: &Prepared) -> UnixMillis {
        place_seen_after(prepared.place_seen_within, self.api.world.clock().wall())
    }

    /// Asks the nodes whether the audience is large enough, nearest bands first: a city reaches the
    /// minimum within the first kilometres, for one round trip; only for a sparse region or a rare
    /// segment do nodes count the whole region. Disconnected or slow nodes do not matter if the
    /// remaining nodes count enough devices. Otherwise the size is unknown, and the alert is
    /// refused for now rather than sent to a few devices.
    pub(super) async fn large_enough(
        &self,
        spec: &AlertSpec,
        prepared: &Prepared,
        peer: PeerKey,
    ) -> Result<(), Status> {
        if self.api.config.alerts.allow_small_audiences {
            return Ok(());
        }
        let _question = self.api.admission.question(peer).await;
        let bands = &prepared.target.bands;
        let near = privacy::nearest(bands);
        let parts =
            [(near.len() < bands.len()).then(|| Bands::from(near.to_vec())), Some(bands.clone())];
        for part in parts.into_iter().flatten() {
            let plan = CountPlan {
                bands: part.clone(),
                apps: spec.audience.apps.clone(),
                segments: prepared.segments.to_wire(),
                place_seen_after: self.place_seen_after(prepared),
            };
            match self.api.dispatch.reaches(plan, AUDIENCE_MIN).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // Too few devices in the nearest bands say nothing about the whole region.
                Err(CountError::Absent { .. } | CountError::Deadline { .. })
                    if part.len() < bands.len() => {}
                Err(error) => return Err(status::count(&error)),
            }
        }
        if let Some(asked) = prepared.asked() {
            self.curious(|curiosity, now| curiosity.refused(peer, asked, now));
        }
        Err(audience_too_small())
    }

    /// Runs `ask` on the limits of questions, with the present time.
    pub(super) fn curious<T>(&self, ask: impl FnOnce(&mut Curiosity<Target>, Duration) -> T) -> T {
        ask(&mut self.curiosity.lock(), self.api.world.clock().now().since(Time(0)))
    }

    /// Whether this peer may validate this region now: a validation counts like a preview.
    pub(super) fn may_validate(&self, prepared: &Prepared, peer: PeerKey) -> Result<(), Status> {
        let Some(asked) = prepared.asked() else { return Ok(()) };
        let validated = self.curious(|curiosity, now| curiosity.validate(peer, asked, now));
        validated.map_err(|wait| asked_too_often(peer, wait))
    }

    /// Whether this peer may alert this region now: not after too many refusals of nearly the same
    /// region for too small an audience.
    pub(super) fn may_create(&self, prepared: &Prepared, peer: PeerKey) -> Result<(), Status> {
        let Some(sketch) = &prepared.sketch else { return Ok(()) };
        let allowed = self.curious(|curiosity, now| curiosity.may_create(peer, sketch, now));
        allowed.map_err(|wait| {
            let words = format!(
                "{peer} was refused for too small an audience in nearly this region too often"
            );
            status::exhausted("REFUSALS_MAX", words, wait)
        })
    }
}

/// An alert that is admitted and planned but not recorded.
pub(super) struct Prepared {
    /// The apps, in the order of the audience.
    pub(super) apps: Vec<Arc<AppRecord>>,
    pub(super) target: Arc<Target>,
    /// `None`: the operator allows small audiences, so no limits of questions apply.
    pub(super) sketch: Option<Sketch>,
    pub(super) segments: SegmentExpr,
    /// Largest age of places: the caller's, or the configured default.
    pub(super) place_seen_within: Duration,
}

impl Prepared {
    /// The alert as a question about a region; `None` if no limits of questions apply.
    pub(super) fn asked(&self) -> Option<Asked<Target>> {
        let sketch = self.sketch.clone()?;
        let cells = self.target.bands.iter().map(|band| band.cells.len()).sum();
        // A copy that holds no room for cells: a question is remembered for an hour and must not
        // keep room that alerts need.
        let bands = Bands::from(self.target.bands.to_vec());
        let plan = Arc::new(Target { bands, ..Target::clone(&self.target) });
        Some(Asked { sketch, plan, cells })
    }

    /// Renders the messages of each app's devices.
    pub(super) fn render(
        &self,
        api: &Context,
        spec: &AlertSpec,
        name: &AlertName,
    ) -> Result<Vec<Rendered>, Status> {
        let (prefix, now) = (&api.config.alerts.exercise_prefix, api.world.clock().wall());
        let rendered =
            self.apps.iter().map(|app| render::render(spec, name, &app.app, prefix, now));
        rendered.collect::<Result<_, _>>().map_err(within_alert)
    }
}

/// The refusal of a peer that previews or validates too often, overall or in one region.
pub(super) fn asked_too_often(peer: PeerKey, wait: Duration) -> Status {
    let words =
        format!("{peer} has previewed or validated too often, or nearly the same region too often");
    status::exhausted("PREVIEWS_MAX", words, wait)
}

/// The refusal of a too small audience, which does not disclose the size.
pub(super) fn audience_too_small() -> Status {
    status::too_small(
        "AUDIENCE_TOO_SMALL",
        "alert.audience",
        &format!("{AUDIENCE_MIN} devices in the region, seen there within place_seen_within"),
    )
}

pub(super) fn within_alert(field: InvalidField) -> Status {
    status::invalid(field.within("alert"))
}
