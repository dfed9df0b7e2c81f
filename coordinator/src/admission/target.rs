//! Region to bands, away from the threads that serve: a cover of 500 km takes tens of milliseconds
//! of a core.
//!
//! The same region, place last seen and edges give the same bands in every process: an alert that
//! another coordinator takes over goes on with the bands that nodes have.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use clarion_proto::{
    alert::AlertSpec,
    error::InvalidField,
    limits::COVER_CELLS_MAX,
    region::{LatLng, Region, Shape},
    wire::v1 as wire,
};
use clarion_runtime::{offload::offload, peers::PeerKey};
use h3o::Resolution;
use prost::Message as _;

use super::{Admission, Admitted, Refusal};
use crate::{
    bands::{self, Band, BandEdges, Bands, BandsError},
    cover::{self, CellBudget, CoverError, Work},
    privacy::sketch::Sketch,
};

/// Work of an ordinary cover with its bands, nanoseconds of a core: a circle of 200 km takes some 25
/// million. A larger cover is abandoned there, or as soon as its first cells show its size, and
/// waits for its turn among the large covers: ordinary ones never wait for large ones.
const ORDINARY_WORK: u64 = 30_000_000;
/// Maximum work to cut a cover into bands, in units of about one nanosecond.
const BANDS_WORK: u64 = 400_000_000;
/// Largest alert that is decoded at once, bytes: some 1,600 points, under 10 ms.
const ORDINARY_BYTES: usize = 32 << 10;

/// Where an alert goes, nearest first.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    /// Together the cover.
    pub(crate) bands: Bands,
    /// Distances at which the bands end: the configured ones, or wider ones for a large region.
    pub(crate) edges: BandEdges,
    /// Number of cells of the compacted cover, before it was cut into bands.
    pub(crate) cells: u32,
    /// Finest resolution of the cover: coarser than 9 for a region with a long rim.
    pub(crate) finest: Resolution,
    /// Largest distance outside the region at which the cover includes a device, metres.
    pub(crate) overshoot_m: f64,
    /// Area of the cover in km², as [`cover::area_km2`] computes it.
    pub(crate) area_km2: f64,
}

/// Where an alert goes, as a question for [`Admission::target`].
#[derive(Debug, Clone)]
pub(crate) struct TargetSpec {
    /// Region whose devices receive the alert.
    pub(crate) region: Region,
    /// Point from which distances are measured; `None`: the middle of the region.
    pub(crate) last_seen: Option<LatLng>,
    /// Distances at which bands end; wider bands are taken if these have too many cells.
    pub(crate) edges: BandEdges,
    /// Resolution of the cover that the alert's record holds; `None`: as fine as the limits allow.
    pub(crate) finest: Option<Resolution>,
}

impl Admission {
    /// Checks an alert of a message; a large region takes a place and a turn among the large ones
    /// for it. The check ends early if the returned future is dropped.
    ///
    /// # Errors
    /// The first invalid field, as a path inside the alert; or no place for a large region.
    pub(crate) async fn spec(
        &self,
        alert: wire::Alert,
        admitted: &mut Admitted,
    ) -> Result<AlertSpec, Refusal> {
        if alert.encoded_len() <= ORDINARY_BYTES {
            return Ok(AlertSpec::from_wire(alert)?);
        }
        self.enlarge(admitted)?;
        let _turn = self.large.enter(admitted.peer, 1).await;
        let stop = StopOnDrop::default();
        let stopped = Arc::clone(&stop.0);
        let checked = offload(move || AlertSpec::from_wire_until(alert, stopped)).await;
        Ok(checked.map_err(|e| Refusal::CoverFailed(e.to_string()))??)
    }

    /// Covers the region and cuts it into bands, within the peer's share of cores and cells; with
    /// what tells nearly equal regions apart if `sketched`. The computation ends early if the
    /// returned future is dropped.
    ///
    /// # Errors
    /// The region's fault, named `alert.region`; or no place for a large region, or no room for its
    /// cells.
    pub(crate) async fn target(
        &self,
        spec: TargetSpec,
        sketched: bool,
        admitted: &mut Admitted,
    ) -> Result<(Target, Option<Sketch>), Refusal> {
        let (spec, peer) = (Arc::new(spec), admitted.peer);
        let covered = match self.covered(&spec, sketched, peer, Size::Ordinary).await {
            Err(Undone::Abandoned) => {
                self.enlarge(admitted)?;
                self.covered(&spec, sketched, peer, Size::Large).await
            }
            covered => covered,
        };
        let Covered { sketch, bands, mut target } = covered.map_err(|undone| match undone {
            Undone::Refused(refusal) => refusal,
            Undone::Abandoned => Refusal::CoverFailed("the request was abandoned".to_owned()),
        })?;
        let room = self.cells(peer, bands.iter().map(|band| band.cells.len()).sum())?;
        target.bands = Bands::holding(bands, room);
        Ok((target, sketch))
    }

    /// One try to cover the region, in a turn among the covers of a size.
    async fn covered(
        &self,
        spec: &Arc<TargetSpec>,
        sketched: bool,
        peer: PeerKey,
        size: Size,
    ) -> Result<Covered, Undone> {
        let (turns, patience) = match size {
            Size::Ordinary => (&self.cores, ORDINARY_WORK),
            Size::Large => (&self.large, u64::MAX),
        };
        let _turn = turns.enter(peer, 1).await;
        let span = tracing::info_span!("cover");
        let (spec, stop) = (Arc::clone(spec), StopOnDrop::default());
        let stopped = Arc::clone(&stop.0);
        let covered =
            offload(move || span.in_scope(|| cover_of(&spec, sketched, patience, &stopped)));
        covered.await.map_err(|e| Undone::Refused(Refusal::CoverFailed(e.to_string())))?
    }
}

/// Size of a cover by the work that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    /// At most [`ORDINARY_WORK`].
    Ordinary,
    /// More than that.
    Large,
}

/// Ends a computation when the future that waits for it is dropped.
#[derive(Debug, Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What covering one region gives; the bands of `target` are still empty.
struct Covered {
    sketch: Option<Sketch>,
    bands: Vec<Band>,
    target: Target,
}

/// Reason why a try gave no cover.
#[derive(Debug)]
enum Undone {
    /// The region is refused, or the process shuts down.
    Refused(Refusal),
    /// The try took more work than it may, or nobody waits for it.
    Abandoned,
}

impl From<InvalidField> for Undone {
    fn from(field: InvalidField) -> Self {
        Self::Refused(Refusal::Invalid(field))
    }
}

fn cover_of(
    spec: &TargetSpec,
    sketched: bool,
    patience: u64,
    stop: &Arc<AtomicBool>,
) -> Result<Covered, Undone> {
    let TargetSpec { region, last_seen, edges, finest } = spec;
    let refused = |problem: String| InvalidField::new("alert.region", problem);
    let mut budget = CellBudget::default();
    if let Some(finest) = finest {
        // The record's cover was found within the limits of the coordinator that recorded it.
        budget = CellBudget { finest: *finest, work_max: 4 * budget.work_max, ..budget };
    }
    let work = Work::patient(budget.work_max, patience, Arc::clone(stop));
    let cells = cover::cover_within(region, budget, &work).map_err(|error| match error {
        CoverError::Abandoned => Undone::Abandoned,
        error @ (CoverError::Overshoot { .. } | CoverError::LongEdges) => {
            refused(error.to_string()).into()
        }
    })?;
    if cells.is_empty() {
        return Err(refused("its exclusions leave nothing of it".to_owned()).into());
    }
    let last_seen = last_seen.or_else(|| center(region)).unwrap_or_else(|| bands::middle(&cells));
    let area_km2 = cover::area_km2(region, &cells);
    let patience = patience.saturating_sub(work.done());
    let work = Work::patient(BANDS_WORK, patience, Arc::clone(stop));
    let cut = match finest {
        Some(_) => bands::cut(&cells, last_seen, edges, COVER_CELLS_MAX, &work)
            .map(|bands| (bands, edges.clone())),
        None => bands::fit_bands(&cells, last_seen, edges.clone(), COVER_CELLS_MAX, &work),
    };
    let (bands, edges) = cut.map_err(|error| match error {
        BandsError::Abandoned => Undone::Abandoned,
        error @ (BandsError::TooManyCells { .. } | BandsError::Work) => {
            refused(format!("has {area_km2:.0} km²: {error}; take a smaller region")).into()
        }
    })?;
    let sketch = sketched.then(|| Sketch::of(&cells));
    let target = Target {
        bands: Bands::from(Vec::new()),
        edges,
        cells: u32::try_from(cells.len()).unwrap_or(u32::MAX),
        finest: cells.finest(),
        overshoot_m: cells.overshoot_m(),
        area_km2,
    };
    Ok(Covered { sketch, bands, target })
}

/// The centre of a circle; other shapes have none of their own.
fn center(region: &Region) -> Option<LatLng> {
    match region.shape {
        Shape::Circle { center, .. } => Some(center),
        Shape::Area(_) | Shape::Cells(_) | Shape::Union(_) => None,
    }
}
