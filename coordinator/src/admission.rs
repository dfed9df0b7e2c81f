//! Refuse early: what an alert may do, on which lanes, and how many may be on their way in.
//!
//! [`admit`] is pure and decides on what is known; [`Admission`] counts who is inside. An alert
//! being admitted holds a decoded region and its cover (at most 100,000 cells, under 2 MB) and
//! takes some milliseconds of a core, so the number inside is bounded, and one more is refused at
//! the door with the time to come back instead of being queued: a queue would only make everybody
//! late, as on the day when many authorities alert at once. One peer has its share of places, and
//! those inside have the cores and the nodes in turns, peer by peer. A cover that was cut into
//! bands takes its part of the cells that all may have together.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clarion_proto::{
    alert::{AlertSpec, Mode},
    app::LaneKind,
    audience::{Segment, SegmentExpr},
    error::InvalidField,
    ids::AppName,
    limits::CLUSTER_CELLS_MAX,
};
use clarion_runtime::peers::{
    PeerKey,
    shares::{Full, Place, Places},
    turns::{Turn, Turns},
};

use crate::{lane::catalog::Catalog, store::AppRecord};

pub mod render;
pub(crate) mod target;

/// The segment that an exercise reaches.
pub const EXERCISE_SEGMENT: &str = "exercise";

/// What admission is configured by.
#[derive(Debug, Clone)]
pub struct AdmissionConfig {
    /// Alerts and previews that may be in admission at once (each holds a decoded region and its
    /// cover, a few MB); one more is refused.
    pub inside_max: usize,
    /// Questions that the nodes are asked at a time: as many as dispatch takes.
    pub questions_max: usize,
    /// What an alert may do.
    pub rules: Rules,
}

/// What an alert may do, and on which lanes.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// LIVE alerts, and exercises on live lanes, are taken although nobody has to say who they are.
    pub allow_live_without_identity: bool,
    /// Lanes that the configuration allows.
    pub lanes: Arc<Catalog>,
}

/// Why an alert is not taken. Nothing was recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The caller's fault: a field.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// The operator's fault: the configuration changed under the app.
    #[error("{app} is on lane {lane}, which is not configured for its platform any more")]
    LaneNotConfigured {
        /// Which.
        app: AppName,
        /// `gateway/credential`.
        lane: String,
    },
    /// The caller's fault: a test must not reach people.
    #[error("a TEST alert may not open {lane}, the live lane of {app}")]
    TestOnLiveLane {
        /// Which.
        app: AppName,
        /// `gateway/credential`.
        lane: String,
    },
    /// The operator's to decide: nobody is asked who they are.
    #[error(
        "LIVE alerts are refused while no identity is configured; \
         --allow-live-without-identity at the coordinator's start takes them"
    )]
    LiveWithoutIdentity,
    /// The operator's to decide, as LIVE is: an exercise on a live lane wakes real people, and
    /// anybody may write its segment.
    #[error(
        "an EXERCISE on {lane}, the live lane of {app}, is refused while no identity is configured; \
         --allow-live-without-identity at the coordinator's start takes it"
    )]
    ExerciseWithoutIdentity {
        /// Which.
        app: AppName,
        /// `gateway/credential`.
        lane: String,
    },
    /// The process is ending, or a defect.
    #[error("alert.region: its cover was not computed: {0}")]
    CoverFailed(String),
    /// Trying again helps once others have ended.
    #[error(
        "alert.region: needs {wanted} cells; of {limit} for all alerts and previews under way {free} are free, and \
         {held} are held for this caller, who leaves a sixteenth for others"
    )]
    CoversFull {
        /// For all.
        limit: u64,
        /// Of those.
        free: u64,
        /// Of those, for the same peer.
        held: u64,
        /// For this one.
        wanted: usize,
    },
}

/// Checks rights and lanes for the apps of an alert; `apps[i]` is what the store has of
/// `spec.audience.apps[i]`.
///
/// # Errors
/// The first reason not to send it.
pub fn admit(
    spec: &AlertSpec,
    apps: &[Option<Arc<AppRecord>>],
    rules: &Rules,
) -> Result<(), Refusal> {
    if spec.mode == Mode::Live && !rules.allow_live_without_identity {
        return Err(Refusal::LiveWithoutIdentity);
    }
    for (i, (name, app)) in spec.audience.apps.iter().zip(apps).enumerate() {
        let Some(AppRecord { app, .. }) = app.as_deref() else {
            // The caller's fault: create it first.
            let field = format!("audience.apps[{i}]");
            return Err(InvalidField::new(field, format_args!("there is no {name}")).into());
        };
        let lane = || format!("{}/{}", app.gateway, app.credential);
        let (gateway, credential) =
            (rules.lanes.gateway(&app.gateway), rules.lanes.credential(&app.credential));
        let gateway = gateway.filter(|gateway| gateway.platform == app.platform);
        let credential = credential.filter(|credential| {
            credential.platform == app.platform
                && credential.project.as_ref().is_none_or(|project| *project == app.project)
        });
        let (Some(gateway), Some(_)) = (gateway, credential) else {
            return Err(Refusal::LaneNotConfigured { app: name.clone(), lane: lane() });
        };
        // Both marks are asked: the gateway's may have been changed to live since the app was made.
        let live = app.lane_kind == LaneKind::Live || gateway.lane_kind == LaneKind::Live;
        if spec.mode == Mode::Test && live {
            return Err(Refusal::TestOnLiveLane { app: name.clone(), lane: lane() });
        }
        if spec.mode == Mode::Exercise && live && !rules.allow_live_without_identity {
            return Err(Refusal::ExerciseWithoutIdentity { app: name.clone(), lane: lane() });
        }
    }
    Ok(())
}

/// Who is addressed in the end: an exercise reaches nobody who did not take part in it.
#[must_use]
pub fn segments(spec: &AlertSpec) -> SegmentExpr {
    let segments = spec.audience.segments.clone();
    match spec.mode {
        Mode::Exercise => segments.and(Segment::new(EXERCISE_SEGMENT).expect("a name")),
        Mode::Live | Mode::Test => segments,
    }
}

/// How many are being admitted, and how many of those are computing or asking the nodes.
#[derive(Debug)]
pub struct Admission {
    inside: Places,
    cores: Turns,
    questions: Turns,
    cells: Places,
    closed: AtomicBool,
    rules: Rules,
}

/// Cells are counted by as many as this.
const CELLS_UNIT: usize = 1_000;
/// One part in so many of the cells is left by a peer: 250 cities beside two continents.
const LEFT_FOR_OTHERS: u64 = 16;

impl Admission {
    /// Of those inside one computes on each core.
    #[must_use]
    pub fn new(config: AdmissionConfig) -> Self {
        let AdmissionConfig { inside_max, questions_max, rules } = config;
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get) as u64;
        // A question may wait 10 s for a node: half of them are always other peers'.
        let questions = questions_max as u64;
        let (cores, questions) = (Turns::new(cores, cores), Turns::new(questions, questions / 2));
        let cells = Places::leaving_one_in(CLUSTER_CELLS_MAX / CELLS_UNIT, LEFT_FOR_OTHERS);
        Self {
            inside: Places::new(inside_max),
            cores,
            questions,
            cells,
            closed: AtomicBool::new(false),
            rules,
        }
    }

    /// Checks an alert by the configured rules: see [`admit`].
    ///
    /// # Errors
    /// The first reason not to send it.
    pub fn admit(&self, spec: &AlertSpec, apps: &[Option<Arc<AppRecord>>]) -> Result<(), Refusal> {
        admit(spec, apps, &self.rules)
    }

    /// A place inside.
    ///
    /// # Errors
    /// There is none, or the peer has its share: nobody waits.
    pub fn enter(&self, peer: PeerKey) -> Result<Place, Full> {
        self.inside.enter(peer)
    }

    /// Room for the cells of a cover, for as long as it is needed: every node holds them, too.
    ///
    /// # Errors
    /// [`Refusal::CoversFull`]: nobody waits.
    pub fn cells(&self, peer: PeerKey, cells: usize) -> Result<Place, Refusal> {
        let mut room = self.cells.empty(peer);
        match room.grow(cells.div_ceil(CELLS_UNIT) as u64) {
            Ok(()) => Ok(room),
            Err(Full { total, held }) => {
                let unit = CELLS_UNIT as u64;
                let free = (total - self.cells.taken()) * unit;
                Err(Refusal::CoversFull {
                    limit: total * unit,
                    free,
                    held: held * unit,
                    wanted: cells,
                })
            }
        }
    }

    /// No new alert is taken any more: the process is stopping.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether no new alert is taken.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Leave to compute. Those who wait are at most as many as are inside.
    pub async fn core(&self, peer: PeerKey) -> Turn {
        self.cores.enter(peer, 1).await
    }

    /// Leave to ask the nodes how many there are: as many at a time as dispatch takes. On a day
    /// when many authorities alert at once, each waits some milliseconds instead of being refused.
    pub async fn question(&self, peer: PeerKey) -> Turn {
        self.questions.enter(peer, 1).await
    }
}

#[cfg(test)]
mod tests;
