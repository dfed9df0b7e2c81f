//! Computes an alert's plan from its record alone.

use std::sync::Arc;

use clarion_proto::{
    alert,
    error::{InvalidField, required},
    region::Region,
};

use crate::{
    admission::target::TargetSpec,
    bands::Bands,
    planned::PlannedAlert,
    store::{AlertRecord, SendPlan},
};

/// The target of an alert, decoded from its record.
///
/// # Errors
/// The submitted region cannot be decoded: another version of the program accepted it.
pub(super) fn target(record: &AlertRecord, plan: &SendPlan) -> Result<TargetSpec, InvalidField> {
    let submitted = &record.submitted;
    let region = required(submitted.region.clone(), "alert.region")?;
    let region = Region::from_wire(region).map_err(|e| e.within("alert.region"))?;
    let last_seen = alert::last_seen(submitted).map_err(|e| e.within("alert"))?;
    Ok(TargetSpec { region, last_seen, edges: plan.edges.clone(), finest: Some(plan.finest) })
}

/// The plan that dispatch runs. `bands`: the bands of the alert's [`target`].
pub(super) fn planned(alert: &AlertRecord, plan: &SendPlan, bands: Bands) -> Arc<PlannedAlert> {
    Arc::new(PlannedAlert {
        name: alert.name.clone(),
        wave: alert.wave,
        epoch: alert.epoch,
        bands,
        apps: plan.apps.clone(),
        segments: plan.segments.clone(),
        place_seen_after: alert.place_seen_after,
        log: alert.log,
        positions: alert.positions.clone(),
        created: alert.created,
        expires: alert.expires,
        max_rate_per_second: alert.submitted.max_rate_per_second,
    })
}
