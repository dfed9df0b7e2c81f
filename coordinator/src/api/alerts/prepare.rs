//! What CreateAlert and PreviewAlert have in common: admit, cover and cut into bands, render, and
//! ask whether the audience is large enough. Nothing here changes anything.

use std::{sync::Arc, time::Duration};

use clarion_proto::{
    alert::AlertSpec, audience::SegmentExpr, error::InvalidField, ids::AlertName, time::Time,
};
use clarion_runtime::peers::{PeerKey, shares::Place};
use tonic::Status;

use super::{Alerts, Context, status};
use crate::{
    admission::{
        self, Refusal,
        render::{self, Rendered},
        target::{self, Target},
    },
    bands::Bands,
    dispatch::CountError,
    planned::CountPlan,
    privacy::{
        self, AUDIENCE_MIN, REGION_KM2_MIN,
        curiosity::{Asked, Curiosity, REGION_CELLS_MAX},
        sketch::Sketch,
    },
    store::AppRecord,
};

impl Alerts {
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
        self.api.admission.admit(spec, &apps).map_err(|refusal| match refusal {
            Refusal::Invalid(field) => within_alert(field),
            other => status::refusal(other),
        })?;
        let apps = apps.into_iter().flatten().collect();
        let target = target::TargetSpec {
            region: spec.region.clone(),
            last_seen: spec.last_seen,
            edges: self.api.config.alerts.bands.clone(),
        };
        let limited = !self.api.config.alerts.allow_small_audiences;
        let (target, sketch) =
            self.api.admission.target(target, limited, peer).await.map_err(status::refusal)?;
        if limited && target.area_km2 < REGION_KM2_MIN {
            return Err(status::too_small(
                "REGION_TOO_SMALL",
                "alert.region",
                &format!("{REGION_KM2_MIN} km²"),
            ));
        }
        Ok(Prepared { apps, target: Arc::new(target), sketch, segments: admission::segments(spec) })
    }

    /// Asks the nodes whether the audience is large enough, nearest first: a city is within its
    /// first kilometres, for the price of one round trip; only a sparse region, or a rare segment,
    /// is looked at whole. Nodes that are away or slow do not matter as long as the others have
    /// enough; if they have not, nobody knows, and the alert is refused for the time being rather
    /// than sent to a few.
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
    pub(super) fn curious<T>(&self, ask: impl FnOnce(&mut Curiosity<Target>, Duration) -> T) -> T {
        ask(&mut self.curiosity.lock(), self.api.clock.now().since(Time(0)))
    }

    /// Whether this peer may have this region validated now: that counts as a preview does.
    pub(super) fn may_validate(&self, prepared: &Prepared, peer: PeerKey) -> Result<(), Status> {
        let Some(question) = prepared.asked() else { return Ok(()) };
        let validated = self.curious(|curiosity, now| match question {
            Question::Region(asked) => curiosity.validate(peer, asked, now),
            Question::TooLarge => curiosity.at_rate(peer, now),
        });
        validated.map_err(|wait| asked_too_often(peer, wait))
    }

    /// Whether this peer may alert this region now: not if it was refused nearly the same one, as
    /// too small, too often.
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

/// What an alert asks about its region.
pub(super) enum Question {
    /// Whatever is nearly the same is one.
    Region(Asked<Target>),
    /// Nothing else is nearly the same.
    TooLarge,
}

/// Admitted and planned, not recorded.
pub(super) struct Prepared {
    /// In the order of the audience.
    pub(super) apps: Vec<Arc<AppRecord>>,
    pub(super) target: Arc<Target>,
    /// `None`: the operator allows small audiences, and nobody is held to limits of questions.
    pub(super) sketch: Option<Sketch>,
    pub(super) segments: SegmentExpr,
}

impl Prepared {
    /// As a question about a region; `None` if nobody is held to limits of questions.
    pub(super) fn asked(&self) -> Option<Question> {
        let sketch = self.sketch.clone()?;
        let cells = self.target.bands.iter().map(|band| band.cells.len()).sum();
        if cells > REGION_CELLS_MAX {
            return Some(Question::TooLarge);
        }
        // A copy without room: what is remembered for an hour must not keep the room that alerts
        // need.
        let bands = Bands::from(self.target.bands.to_vec());
        let plan = Arc::new(Target { bands, ..*self.target });
        Some(Question::Region(Asked { sketch, plan, cells }))
    }

    /// For each app, what its devices are sent.
    pub(super) fn render(
        &self,
        api: &Context,
        spec: &AlertSpec,
        name: &AlertName,
    ) -> Result<Vec<Rendered>, Status> {
        let (prefix, now) = (&api.config.alerts.exercise_prefix, api.clock.wall());
        let rendered =
            self.apps.iter().map(|app| render::render(spec, name, &app.app, prefix, now));
        rendered.collect::<Result<_, _>>().map_err(within_alert)
    }
}

/// Previews and validations of a peer, or of one region, come faster than anybody reads them.
pub(super) fn asked_too_often(peer: PeerKey, wait: Duration) -> Status {
    let words =
        format!("{peer} has previewed or validated too often, or nearly the same region too often");
    status::exhausted("PREVIEWS_MAX", words, wait)
}

/// Refused without saying how small.
pub(super) fn audience_too_small() -> Status {
    status::too_small(
        "AUDIENCE_TOO_SMALL",
        "alert.audience",
        &format!("{AUDIENCE_MIN} devices in the region"),
    )
}

pub(super) fn within_alert(field: InvalidField) -> Status {
    status::invalid(field.within("alert"))
}
