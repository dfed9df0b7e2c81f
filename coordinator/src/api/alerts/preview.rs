//! `PreviewAlert`: the steps of CreateAlert, then a count at the nodes instead of a record.

use std::{sync::Arc, time::Duration};

use clarion_proto::{error::required, ids::AlertName, wire::v1 as wire};
use clarion_runtime::peers::PeerKey;
use tonic::Status;
use uuid::Uuid;

use super::{
    Alerts,
    create::alert_name,
    prepare::{Prepared, asked_too_often, audience_too_small},
    status,
};
use crate::{
    admission::render::Rendered,
    planned::{CountPlan, CountedDevices},
    privacy::{AUDIENCE_MIN, TOLD_MIN, Told},
};

impl Alerts {
    /// Admits and plans as CreateAlert does, then counts the devices in this region, or in a nearly
    /// identical region of an earlier preview ([`crate::privacy::curiosity`]).
    pub(super) async fn preview(
        &self,
        request: wire::PreviewAlertRequest,
        peer: PeerKey,
    ) -> Result<wire::PreviewAlertResponse, Status> {
        let mut admitted = self.admitted(peer)?;
        let alert = required(request.alert, "alert").map_err(status::invalid)?;
        let spec = self.spec(alert, &mut admitted).await?;
        let prepared = self.prepare(&spec, &mut admitted).await?;
        let messages = sizes(&prepared, &prepared.render(&self.api, &spec, &sample_name())?);
        let own = || (Arc::clone(&prepared.target), false);
        let counted = |asked| self.curious(|curiosity, now| curiosity.preview(peer, asked, now));
        let (cover, of_earlier_region) = prepared
            .asked()
            .map_or_else(|| Ok(own()), counted)
            .map_err(|wait| asked_too_often(peer, wait))?;
        let distances: Vec<(f64, f64)> =
            cover.bands.iter().map(|band| (band.from_m, band.to_m)).collect();
        let plan = CountPlan {
            bands: cover.bands.clone(),
            apps: spec.audience.apps.clone(),
            segments: prepared.segments.to_wire(),
            place_seen_after: self.place_seen_after(&prepared),
        };
        let CountedDevices { devices: counts, left_out_for_age } = {
            let _question = self.api.admission.question(peer).await;
            self.api.dispatch.count(plan).await.map_err(|e| status::count(&e))?
        };
        let devices: u64 = counts.iter().flatten().sum();
        if !self.api.config.alerts.allow_small_audiences && devices < AUDIENCE_MIN {
            return Err(audience_too_small());
        }
        let of_app: Vec<u64> = counts.iter().map(|bands| bands.iter().sum()).collect();
        let of_band =
            |i: usize| counts.iter().map(|bands| bands.get(i).copied().unwrap_or_default()).sum();
        let of_band: Vec<u64> = (0..distances.len()).map(of_band).collect();

        let apps = spec.audience.apps.iter().zip(Told::parts(&of_app));
        let mut apps: Vec<_> = apps
            .map(|(app, told)| wire::AppCount { app: app.name(), devices: Some(count(told)) })
            .collect();
        apps.sort_by(|a, b| a.app.cmp(&b.app));
        let bands =
            distances.iter().zip(Told::parts(&of_band)).map(|(&(from_meters, to_meters), told)| {
                wire::BandCount { from_meters, to_meters, devices: Some(count(told)) }
            });
        let total = Told::total(devices);
        Ok(wire::PreviewAlertResponse {
            devices: Some(count(total)),
            apps,
            bands: bands.collect(),
            cover_cells: cover.cells,
            estimated_duration: duration(total, spec.max_rate_per_second),
            of_earlier_region,
            overshoot_meters: cover.overshoot_m,
            left_out_for_age: Some(count(Told::total(left_out_for_age))),
            messages,
        })
    }
}

/// Sizes of all rendered messages, by app and locale: at most 64 apps in 64 languages.
fn sizes(prepared: &Prepared, rendered: &[Rendered]) -> Vec<wire::RenderedMessage> {
    let of_apps = prepared.apps.iter().zip(rendered);
    let sizes = of_apps.flat_map(|(app, rendered)| {
        let app = app.app.name.name();
        rendered.messages.iter().map(move |message| {
            let bytes = message.body.len() + message.body_after_token.len();
            let count = |bytes: usize| u32::try_from(bytes).expect("at most 4,096");
            wire::RenderedMessage {
                app: app.clone(),
                locale: message.locale.clone(),
                body_bytes: count(bytes),
                bytes_left: count(rendered.body_bytes_max().saturating_sub(bytes)),
            }
        })
    });
    let mut sizes: Vec<_> = sizes.collect();
    sizes.sort_by(|a, b| (&a.app, &a.locale).cmp(&(&b.app, &b.locale)));
    sizes
}

/// A name of the length that every alert's name has: the pushes carry it.
fn sample_name() -> AlertName {
    alert_name(Uuid::max())
}

fn count(told: Told) -> wire::DeviceCount {
    use wire::device_count::{Count, Withheld};
    let count = match told {
        Told::Exact(devices) => Count::Exact(devices),
        Told::Few => Count::FewerThan(TOLD_MIN),
        Told::Withheld => Count::Withheld(Withheld {}),
    };
    wire::DeviceCount { count: Some(count) }
}

/// Duration at the requested rate; `None` without a rate, and where it would disclose the count.
fn duration(told: Told, rate_per_second: u32) -> Option<prost_types::Duration> {
    let Told::Exact(devices) = told else { return None };
    let millis = (devices * 1_000).checked_div(u64::from(rate_per_second))?;
    Duration::from_millis(millis).try_into().ok()
}
