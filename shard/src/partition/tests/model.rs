//! The model that the partition is compared with: a map of facets with versions, dropped in time.

use std::collections::BTreeMap;

use clarion_proto::{
    device::{Cell, Change, Record, Registration},
    ids::{AppName, DeviceId},
};

use super::{HOUR_MS, Known, device};

/// The rules of the partition, written as plainly as possible.
#[derive(Default)]
pub(super) struct Model {
    now: u64,
    limits: BTreeMap<AppName, u64>,
    devices: BTreeMap<u8, ModelDevice>,
}

#[derive(Default, Clone)]
struct ModelDevice {
    place: (u64, Option<Cell>),
    registration: (u64, Option<Registration>),
    mute: (u64, bool),
    due: u64,
}

impl Model {
    /// `swept`: the devices that the sweep looks at before the record.
    pub(super) fn apply(&mut self, appended: u64, swept: &[DeviceId], n: u8, record: &Record) {
        self.now = self.now.max(appended);
        let now = self.now;
        self.devices.retain(|_, d| d.registration.1.is_some() || d.due > now);
        let at = record.observed.0;
        let kept = now + 24 * HOUR_MS;
        for n in swept.iter().map(|device| device.0[0]) {
            if self.is_expired(n) {
                let d = self.devices.get_mut(&n).expect("it has expired");
                (d.registration, d.due) = ((d.registration.0 + 1, None), kept);
            }
        }
        if let Change::Expiry(app) = &record.change {
            let limit = self.limits.entry(app.clone()).or_default();
            *limit = at.max(*limit);
            return;
        }
        if let Change::Feedback { token_hash, gateway_time } = &record.change {
            let Some(d) = self.devices.get_mut(&n) else { return };
            let dead = d.registration.1.as_ref().is_some_and(|r| r.token.hash() == *token_hash);
            if dead && gateway_time.is_none_or(|t| t.0 >= d.registration.0) {
                d.registration = (d.registration.0 + 1, None);
                d.due = kept;
            }
            return;
        }
        let d = self
            .devices
            .entry(n)
            .or_insert_with(|| ModelDevice { due: kept, ..ModelDevice::default() });
        let empty = d.registration.1.is_none() && d.place.1.is_none() && !d.mute.1;
        let (new_registration, new_place) = match &record.change {
            Change::Registration(r) => (Some(Some(r.clone())), None),
            Change::Place(c) => (None, Some(Some(*c))),
            Change::Arrival(r, c) => (Some(Some(r.clone())), Some(Some(*c))),
            Change::Removal => (Some(None), Some(None)),
            Change::Mute(_) | Change::Feedback { .. } | Change::Expiry(_) => (None, None),
        };
        let new_mute = match record.change {
            Change::Mute(m) => Some(m),
            Change::Removal => Some(false),
            _ => None,
        };
        if let Some(r) = new_registration.filter(|_| at >= d.registration.0) {
            d.registration = (at, r);
        }
        if let Some(p) = new_place.filter(|_| at >= d.place.0) {
            d.place = (at, p);
        }
        if let Some(m) = new_mute.filter(|_| at >= d.mute.0) {
            d.mute = (at, m);
        }
        if record.change == Change::Removal {
            d.due = d.due.max(kept + at.saturating_sub(now).min(60_000));
        }
        if empty && (d.place.1.is_some() || d.mute.1) {
            d.due = d.due.max(kept);
        }
    }

    fn is_expired(&self, n: u8) -> bool {
        let Some(d) = self.devices.get(&n) else { return false };
        let app = d.registration.1.as_ref().map(|r| &r.app);
        let limit = app.and_then(|app| self.limits.get(app));
        limit.is_some_and(|limit| d.place.0.max(d.registration.0) < *limit)
    }

    /// Whether the device is pushed to.
    pub(super) fn is_pushable(&self, n: u8) -> bool {
        let d = self.devices.get(&n);
        d.is_some_and(|d| d.registration.1.is_some() && d.place.1.is_some() && !d.mute.1)
            && !self.is_expired(n)
    }

    pub(super) fn contents(&self) -> BTreeMap<DeviceId, Known> {
        let known = |d: &ModelDevice| Known {
            place: d.place.1.map(Cell::index),
            registration: d.registration.1.clone(),
            muted: d.mute.1,
        };
        self.devices
            .iter()
            .map(|(n, d)| (device(*n), known(d)))
            .filter(|(_, k)| *k != Known::default())
            .collect()
    }
}
