//! Region to bands, away from the threads that serve: a cover of 500 km takes tens of milliseconds
//! of a core.
//!
//! The same region, place last seen and edges give the same bands in every process: an alert that
//! another coordinator takes over goes on with the bands that nodes have.

use clarion_proto::{
    error::InvalidField,
    limits::COVER_CELLS_MAX,
    region::{LatLng, Region, Shape},
};
use clarion_runtime::{offload::offload, peers::PeerKey};

use super::{Admission, Refusal};
use crate::{
    bands::{self, Band, BandEdges, Bands},
    cover::{self, CellBudget},
    privacy::sketch::Sketch,
};

/// Where an alert goes, nearest first.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    /// Together the cover.
    pub(crate) bands: Bands,
    /// Number of cells of the compacted cover, before it was cut into bands.
    pub(crate) cells: u32,
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
    /// Distances at which bands end.
    pub(crate) edges: BandEdges,
}

impl Admission {
    /// Covers the region and cuts it into bands, within the peer's share of cores and cells; with
    /// what tells nearly equal regions apart if `sketched`.
    ///
    /// # Errors
    /// The region's fault, named `alert.region`; or no room for its cells.
    pub(crate) async fn target(
        &self,
        spec: TargetSpec,
        sketched: bool,
        peer: PeerKey,
    ) -> Result<(Target, Option<Sketch>), Refusal> {
        let _core = self.core(peer).await;
        let span = tracing::info_span!("cover");
        let covered = offload(move || span.in_scope(|| cover_of(&spec, sketched))).await;
        let covered = covered.map_err(|e| Refusal::CoverFailed(e.to_string()))?;
        let Covered { cells, sketch, bands, area_km2 } = covered.map_err(Refusal::Invalid)?;
        let room = self.cells(peer, bands.iter().map(|band| band.cells.len()).sum())?;
        Ok((Target { bands: Bands::holding(bands, room), cells, area_km2 }, sketch))
    }
}

/// What covering one region gives.
struct Covered {
    cells: u32,
    sketch: Option<Sketch>,
    bands: Vec<Band>,
    area_km2: f64,
}

fn cover_of(spec: &TargetSpec, sketched: bool) -> Result<Covered, InvalidField> {
    let TargetSpec { region, last_seen, edges } = spec;
    let cells = cover::cover(region, CellBudget::default())
        .map_err(|e| InvalidField::new("alert.region", e))?;
    if cells.is_empty() {
        return Err(InvalidField::new("alert.region", "its exclusions leave nothing of it"));
    }
    let last_seen = last_seen.or_else(|| center(region)).unwrap_or_else(|| bands::middle(&cells));
    let area_km2 = cover::area_km2(region, &cells);
    let bands = bands::plan_bands(&cells, last_seen, edges, COVER_CELLS_MAX).map_err(|e| {
        InvalidField::new(
            "alert.region",
            format_args!("has {area_km2:.0} km²: {e}; take a smaller region"),
        )
    })?;
    let sketch = sketched.then(|| Sketch::of(&cells));
    let cells = u32::try_from(cells.len()).unwrap_or(u32::MAX);
    Ok(Covered { cells, sketch, bands, area_km2 })
}

/// The centre of a circle; other shapes have none of their own.
fn center(region: &Region) -> Option<LatLng> {
    match region.shape {
        Shape::Circle { center, .. } => Some(center),
        Shape::Polygon(_) | Shape::Cells(_) | Shape::Union(_) => None,
    }
}
