//! Region to bands, away from the threads that serve: a cover of 500 km takes tens of milliseconds
//! of a core.

use clarion_proto::{
    alert::AlertSpec,
    error::InvalidField,
    limits::COVER_CELLS_MAX,
    region::{LatLng, Region, Shape},
};
use clarion_runtime::peers::PeerKey;
use tonic::Status;

use super::{Context, status};
use crate::{
    bands::{self, Bands},
    cover::{self, CellBudget},
    privacy::sketch::Sketch,
};

/// Where an alert goes, nearest first.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    /// Together the cover.
    pub(super) bands: Bands,
    /// Of the cover, compacted, before it was cut into bands.
    pub(super) cells: u32,
    /// See [`cover::area_km2`].
    pub(super) area_km2: f64,
}

/// Covers the region and cuts it into bands; where questions about small numbers are held to
/// limits, with what tells nearly equal regions.
pub(super) async fn plan_target(
    api: &Context,
    spec: &AlertSpec,
    peer: PeerKey,
) -> Result<(Target, Option<Sketch>), Status> {
    let limited = !api.config.alerts.allow_small_audiences;
    let _core = api.admission.core(peer).await;
    let (region, last_seen, edges) =
        (spec.region.clone(), spec.last_seen, api.config.alerts.bands.clone());
    let span = tracing::info_span!("cover");
    let planned = tokio::task::spawn_blocking(move || {
        span.in_scope(|| {
            let cells = cover::cover(&region, CellBudget::default())
                .map_err(|e| InvalidField::new("alert.region", e))?;
            if cells.is_empty() {
                return Err(InvalidField::new(
                    "alert.region",
                    "its exclusions leave nothing of it",
                ));
            }
            let last_seen =
                last_seen.or_else(|| center(&region)).unwrap_or_else(|| bands::middle(&cells));
            let area_km2 = cover::area_km2(&region, &cells);
            let sketch = limited.then(|| Sketch::of(&cells));
            let bands =
                bands::plan_bands(&cells, last_seen, &edges, COVER_CELLS_MAX).map_err(|e| {
                    InvalidField::new(
                        "alert.region",
                        format_args!("has {area_km2:.0} km²: {e}; take a smaller region"),
                    )
                })?;
            Ok((bands, u32::try_from(cells.len()).unwrap_or(u32::MAX), area_km2, sketch))
        })
    });
    let (bands, cells, area_km2, sketch) =
        planned.await.map_err(|e| status::internal(&e))?.map_err(status::invalid)?;
    let room = api
        .admission
        .cells(peer, bands.iter().map(|band| band.cells.len()).sum())
        .map_err(status::refusal)?;
    Ok((Target { bands: Bands::holding(bands, room), cells, area_km2 }, sketch))
}

/// The centre of a circle; other shapes have none of their own.
fn center(region: &Region) -> Option<LatLng> {
    match region.shape {
        Shape::Circle { center, .. } => Some(center),
        Shape::Polygon(_) | Shape::Cells(_) | Shape::Union(_) => None,
    }
}
