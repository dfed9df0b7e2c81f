//! Admission of alerts: refuses early what the rules forbid, and limits alerts in admission.
//!
//! [`admit`] is pure and applies the rules; [`Admission`] counts the alerts and previews in
//! admission. Their number is limited, and a request beyond the limit is refused with the time of
//! the next try and is not queued: a queue would delay every caller, as on the day when many
//! authorities alert at once. Each peer has a share of the places, and the peers use the cores and
//! query the nodes in turn.
//!
//! An ordinary alert has under 32 KB and takes some milliseconds of a core. A large one holds a
//! decoded region (at most 100,000 points, under 20 MB) and takes up to half a second. So one place
//! in [`LARGE_IN`] is for large alerts. An alert that proves large leaves its place and its turn to
//! ordinary ones, and needs a place and a turn among the large ones: callers of large regions delay
//! and refuse only each other. A cover that was cut into bands counts against the limit on the
//! cells of all covers together.

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

/// Name of the segment that an EXERCISE alert reaches.
pub const EXERCISE_SEGMENT: &str = "exercise";

/// Limits and rules of admission, from the configuration.
#[derive(Debug, Clone)]
pub struct AdmissionConfig {
    /// Maximum number of alerts and previews in admission at once, one in [`LARGE_IN`] of them
    /// large; further requests are refused.
    pub inside_max: usize,
    /// Maximum number of counts that the nodes run at once: the limit of dispatch.
    pub questions_max: usize,
    /// Rules that every alert is checked by.
    pub rules: Rules,
}

/// Rules that every alert is checked by: the allowed modes and the configured lanes.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Whether LIVE alerts, and exercises on live lanes, are accepted without authentication.
    pub allow_live_without_identity: bool,
    /// Gateways and credentials of the configuration.
    pub lanes: Arc<Catalog>,
}

/// Reason why an alert is refused. Nothing was recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A field of the alert is invalid: the caller's fault.
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// The configuration no longer has the lane of an app: the operator's fault.
    #[error("{app} is on lane {lane}, which the configuration no longer has for its platform")]
    LaneNotConfigured {
        /// App of the alert that has the lane.
        app: AppName,
        /// Name of the lane as `gateway/credential`.
        lane: String,
    },
    /// A TEST alert must not reach real people: the caller's fault.
    #[error("a TEST alert must not use {lane}, the live lane of {app}")]
    TestOnLiveLane {
        /// App of the alert that has the lane.
        app: AppName,
        /// Name of the lane as `gateway/credential`.
        lane: String,
    },
    /// Callers are not authenticated, so the operator has to allow LIVE alerts.
    #[error(
        "LIVE alerts are refused while no identity is configured; to accept them, start the \
         coordinator with --allow-live-without-identity"
    )]
    LiveWithoutIdentity,
    /// Callers are not authenticated, so the operator has to allow exercises on live lanes: such an
    /// exercise wakes real people, and any caller may write its segment.
    #[error(
        "an EXERCISE on {lane}, the live lane of {app}, is refused while no identity is \
         configured; to accept it, start the coordinator with --allow-live-without-identity"
    )]
    ExerciseWithoutIdentity {
        /// App of the alert that has the lane.
        app: AppName,
        /// Name of the lane as `gateway/credential`.
        lane: String,
    },
    /// The cover could not be computed: the process is shutting down, or this is a defect.
    #[error("alert.region: its cover was not computed: {0}")]
    CoverFailed(String),
    /// As many large alerts are in admission as may be; a retry succeeds once one has ended.
    #[error(
        "alert.region: takes much work, and {} alerts and previews of such regions may be in \
         admission at once, of which this caller holds {}; retry later",
        .0.total, .0.held
    )]
    LargeFull(Full),
    /// The covers under way leave too few cells; a retry succeeds once some of them have ended.
    #[error(
        "alert.region: needs {wanted} cells, and {free} of {limit} cells for all alerts and \
         previews under way are free; this caller holds {held}, and may hold at most 15 in 16 of \
         the cells that no other caller holds; retry later"
    )]
    CoversFull {
        /// Maximum number of cells of all covers under way together.
        limit: u64,
        /// Number of cells of the limit that no cover holds.
        free: u64,
        /// Number of cells that covers of the same peer hold.
        held: u64,
        /// Number of cells that the refused cover needs.
        wanted: usize,
    },
}

/// Checks the mode of an alert and the lanes of its apps; `apps[i]` is the store's record of
/// `spec.audience.apps[i]`.
///
/// # Errors
/// The first rule that the alert breaks.
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
            // The caller's fault: the app has to be created first.
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
        // Both kinds count: the gateway's may have been changed to live since the app was made.
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

/// Segments of an alert's audience: an EXERCISE reaches only devices of [`EXERCISE_SEGMENT`].
#[must_use]
pub fn segments(spec: &AlertSpec) -> SegmentExpr {
    let segments = spec.audience.segments.clone();
    match spec.mode {
        Mode::Exercise => segments.and(Segment::new(EXERCISE_SEGMENT).expect("a name")),
        Mode::Live | Mode::Test => segments,
    }
}

/// Alerts and previews in admission, and their turns to compute and to query the nodes.
#[derive(Debug)]
pub struct Admission {
    inside: Places,
    large_inside: Places,
    cores: Turns,
    /// Turns of covers that take much work: one CPU less than there are, so that a small cover
    /// always finds a CPU.
    large: Turns,
    questions: Turns,
    cells: Places,
    closed: AtomicBool,
    rules: Rules,
}

/// Of this many places in admission one is for a large alert: 16 of the default 256. The last of 16
/// regions that take half a second each has its turn within 8 s.
pub const LARGE_IN: usize = 16;
/// Unit in which cells of covers are counted.
const CELLS_UNIT: usize = 1_000;
/// Of the cells that no other peer holds, a peer leaves one part in this many free: 250 cities
/// beside two continents.
const LEFT_FOR_OTHERS: u64 = 16;

impl Admission {
    /// Makes an empty admission; as many requests compute at once as there are CPUs.
    #[must_use]
    pub fn new(config: AdmissionConfig) -> Self {
        let AdmissionConfig { inside_max, questions_max, rules } = config;
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get) as u64;
        // A count may wait 10 s for a node: one peer has at most half of the counts.
        let questions = questions_max as u64;
        let large = (cores - 1).max(1);
        let (cores, large) = (Turns::new(cores, cores), Turns::new(large, large));
        let questions = Turns::new(questions, questions / 2);
        let cells = Places::leaving_one_in(CLUSTER_CELLS_MAX / CELLS_UNIT, LEFT_FOR_OTHERS);
        Self {
            inside: Places::new(inside_max),
            large_inside: Places::new(inside_max.div_ceil(LARGE_IN)),
            cores,
            large,
            questions,
            cells,
            closed: AtomicBool::new(false),
            rules,
        }
    }

    /// Checks an alert by the configured rules: see [`admit`].
    ///
    /// # Errors
    /// The first rule that the alert breaks.
    pub fn admit(&self, spec: &AlertSpec, apps: &[Option<Arc<AppRecord>>]) -> Result<(), Refusal> {
        admit(spec, apps, &self.rules)
    }

    /// Takes a place in admission; never waits.
    ///
    /// # Errors
    /// No place is free, or the peer holds its share.
    pub fn enter(&self, peer: PeerKey) -> Result<Admitted, Full> {
        Ok(Admitted { peer, place: Held::Ordinary(self.inside.enter(peer)?) })
    }

    /// Exchanges the place of an alert for one among the large ones; never waits.
    ///
    /// # Errors
    /// [`Refusal::LargeFull`]: no such place is free, or the peer holds its share.
    fn enlarge(&self, admitted: &mut Admitted) -> Result<(), Refusal> {
        if let Held::Ordinary(_) = admitted.place {
            let place = self.large_inside.enter(admitted.peer).map_err(Refusal::LargeFull)?;
            admitted.place = Held::Large(place);
        }
        Ok(())
    }

    /// Reserves cells for a cover until the returned place is dropped; never waits. Every node
    /// holds the cells of the cover, too.
    ///
    /// # Errors
    /// [`Refusal::CoversFull`]: too few cells are free for this peer.
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

    /// Refuses new alerts from now on, for a graceful shutdown.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether new alerts are refused because the process shuts down.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Waits for a turn to count an audience on the nodes; the limit is that of dispatch. On a day
    /// when many authorities alert at once, each waits some milliseconds instead of being refused.
    pub async fn question(&self, peer: PeerKey) -> Turn {
        self.questions.enter(peer, 1).await
    }
}

/// An alert or preview in admission; its place is given back when this is dropped.
#[derive(Debug)]
pub struct Admitted {
    peer: PeerKey,
    place: Held,
}

/// Place of an alert in admission.
#[derive(Debug)]
#[expect(dead_code, reason = "holds the place until it is dropped")]
enum Held {
    Ordinary(Place),
    Large(Place),
    /// A recorded alert needs none: it was admitted before.
    Recorded,
}

impl Admitted {
    /// An alert of the store, which this process plans again.
    pub(crate) fn recorded() -> Self {
        Self { peer: PeerKey::NONE, place: Held::Recorded }
    }

    /// Peer whose shares of cores, counts and cells the alert uses.
    #[must_use]
    pub fn peer(&self) -> PeerKey {
        self.peer
    }
}

#[cfg(test)]
mod tests;
