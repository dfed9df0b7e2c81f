//! `PreviewAlert`: the same way in, and then a question to the nodes instead of a record.

use std::time::Duration;

use clarion_proto::{alert::AlertSpec, error::required, wire::v1 as wire};
use tonic::Status;

use super::{Alerts, create::Prepared, status};
use crate::dispatch::CountPlan;

impl Alerts {
    /// Admits and plans as CreateAlert does, then counts.
    pub(super) async fn preview(
        &self,
        request: wire::PreviewAlertRequest,
    ) -> Result<wire::PreviewAlertResponse, Status> {
        let _turn = self.api.admission.enter().map_err(status::refusal)?;
        let alert = required(request.alert, "alert").map_err(status::invalid)?;
        let spec = AlertSpec::from_wire(alert).map_err(|e| status::invalid(e.within("alert")))?;
        let Prepared { cover, segments, .. } = self.prepare(&spec).await?;
        let distances: Vec<(f64, f64)> = cover.bands.iter().map(|band| (band.from_m, band.to_m)).collect();
        let plan = CountPlan { bands: cover.bands, apps: spec.audience.apps.clone(), segments: segments.to_wire() };
        let counts = self.api.dispatch.count(plan).await.map_err(|e| status::count(&e))?.devices;

        let apps = spec
            .audience
            .apps
            .iter()
            .zip(&counts)
            .map(|(app, bands)| wire::AppCount { app: app.name(), devices: bands.iter().sum() });
        let bands = distances.iter().enumerate().map(|(i, &(from_meters, to_meters))| wire::BandCount {
            from_meters,
            to_meters,
            devices: counts.iter().map(|bands| bands.get(i).copied().unwrap_or_default()).sum(),
        });
        let devices = counts.iter().flatten().sum();
        Ok(wire::PreviewAlertResponse {
            devices,
            apps: apps.collect(),
            bands: bands.collect(),
            cover_cells: cover.cells,
            estimated_duration: duration(devices, spec.max_rate_per_second),
        })
    }
}

/// At the rate asked for; `None` where there is none.
fn duration(devices: u64, rate_per_second: u32) -> Option<prost_types::Duration> {
    let rate = u64::from(rate_per_second);
    let millis = (devices * 1_000).checked_div(rate)?;
    Duration::from_millis(millis).try_into().ok()
}
