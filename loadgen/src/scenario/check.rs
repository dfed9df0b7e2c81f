//! Checks of a scenario's values. The coordinator enforces the limits of the API; these checks
//! reject values that would make a run meaningless.

use super::{FaultSpec, RegionSpec, Scenario};
use crate::place::Place;

/// Most devices: a device index has 32 bits in the verdict's tables.
const DEVICES_MAX: u64 = 100_000_000;
/// Most nodes: more processes on one machine show nothing new.
const NODES_MAX: u32 = 64;

/// Highest quota, messages per minute: more than one machine sends, so it means no quota.
pub(crate) const FCM_QUOTA_MAX: u32 = 1_000_000_000;

pub(super) type Checked = Result<(), (&'static str, String)>;

impl Scenario {
    /// Checks all values. It is called again after the command line has changed some.
    ///
    /// # Errors
    /// The field and the problem.
    pub fn check(&self) -> Checked {
        within("devices", self.devices, 1, DEVICES_MAX)?;
        within("nodes", self.nodes, 1, NODES_MAX)?;
        let d = self.deadlines;
        for (field, seconds) in [
            ("deadlines.start_s", d.start_s),
            ("deadlines.load_s", d.load_s),
            ("deadlines.wave_s", d.wave_s),
            ("deadlines.stop_s", d.stop_s),
        ] {
            within(field, seconds, 1, 3_600)?;
        }
        self.check_region()?;
        within("alert.active_s", self.alert.active_s, 1, 30 * 86_400)?;
        self.check_gateway()?;
        self.check_nodes()?;
        if let Some(series) = &self.series {
            series.check(self)?;
        }
        if let Some(restarts) = &self.restarts {
            restarts.check(self)?;
        }
        if let Some(cancel) = self.cancel {
            share("cancel.at_share", cancel.at_share)?;
        }
        self.check_motion()?;
        if let Some(watchers) = self.watchers {
            // The coordinator's default limit for one alert, less the watcher of the run itself.
            within("watchers.count", watchers.count, 1, 2_047)?;
            share("watchers.slow_share", watchers.slow_share)?;
        }
        Ok(())
    }

    fn check_gateway(&self) -> Checked {
        share("gateway.dead_share", self.gateway.dead_share)?;
        within("gateway.latency_us", self.gateway.latency_us, 0, 10_000_000)?;
        for (field, line) in [
            ("gateway.distance.apns", self.gateway.distance.apns),
            ("gateway.distance.fcm", self.gateway.distance.fcm),
        ] {
            let latency = line.latency.unwrap_or_default();
            within(field, latency.p50_us.max(latency.p99_us), 0, 10_000_000)?;
            within(field, line.credit_delay_us, 0, 10_000_000)?;
            within(field, line.connection_window.unwrap_or(65_535), 65_535, (1 << 31) - 1)?;
            within(field, line.stream_window.unwrap_or(65_535), 1, (1 << 31) - 1)?;
            within(field, line.streams_max.unwrap_or(1), 1, 100_000)?;
        }
        self.check_fault()?;
        let fcm = self.gateway.fcm;
        within("gateway.fcm.quota_per_minute", fcm.quota_per_minute.unwrap_or(1), 1, FCM_QUOTA_MAX)
    }

    fn check_fault(&self) -> Checked {
        match &self.gateway.fault {
            Some(FaultSpec::Slow { factor, for_ms, .. }) => {
                within("gateway.fault.factor", *factor, 2, 100_000)?;
                within("gateway.fault.for_ms", *for_ms, 1, 600_000)?;
                if self.gateway.latency_us == 0 {
                    return Err((
                        "gateway.latency_us",
                        "must be greater than 0, because the fault multiplies it; got 0".to_owned(),
                    ));
                }
            }
            Some(FaultSpec::Silent { for_ms, .. }) => {
                within("gateway.fault.for_ms", *for_ms, 1, 600_000)?;
            }
            Some(FaultSpec::Failing { share: of_requests, retry_after_s, for_ms, .. }) => {
                share("gateway.fault.share", *of_requests)?;
                within("gateway.fault.retry_after_s", retry_after_s.unwrap_or(1), 1, 3_600)?;
                within("gateway.fault.for_ms", *for_ms, 1, 600_000)?;
            }
            Some(FaultSpec::Scripted { platform, faults, for_ms, .. }) => {
                within("gateway.fault.for_ms", *for_ms, 1, 600_000)?;
                let affected = self.population.apps.iter().map(|a| a.platform);
                for gateway in affected.filter(|gateway| platform.is_none_or(|p| p == *gateway)) {
                    faults.check(gateway).map_err(|e| ("gateway.fault.faults", e.to_string()))?;
                }
            }
            None => {}
        }
        Ok(())
    }

    fn check_motion(&self) -> Checked {
        let Some(motion) = self.motion else { return Ok(()) };
        within("motion.changes_per_second", motion.changes_per_second, 1, 100_000)?;
        within("motion.idle_ms", motion.idle_ms, 1, 60_000)?;
        within("motion.settle_ms", motion.settle_ms, 1, 60_000)?;
        if self.alert.max_rate_per_second == 0 {
            return Err((
                "alert.max_rate_per_second",
                "must be greater than 0, because lateness is measured against the pace; got 0"
                    .to_owned(),
            ));
        }
        if self.cancel.is_some() || self.gateway.fault.is_some() || self.watchers.is_some() {
            return Err((
                "motion",
                "must not be combined with cancel, a fault or watchers".to_owned(),
            ));
        }
        Ok(())
    }

    fn check_region(&self) -> Checked {
        match &self.alert.region {
            RegionSpec::Circle { center, radius_meters } => {
                place("alert.region.center", *center)?;
                if !(*radius_meters > 0.0 && *radius_meters <= 10_000_000.0) {
                    let problem = format!(
                        "must be greater than 0 and at most 10,000,000; got {radius_meters}"
                    );
                    return Err(("alert.region.radius_meters", problem));
                }
            }
            RegionSpec::Polygon { outer, holes } => {
                ring("alert.region.outer", outer)?;
                holes.iter().try_for_each(|hole| ring("alert.region.holes", hole))?;
                if self.alert.last_seen.is_none() {
                    return Err((
                        "alert.last_seen",
                        "is required with a polygon: distances are judged from it".to_owned(),
                    ));
                }
            }
        }
        self.alert.last_seen.map_or(Ok(()), |p| place("alert.last_seen", p))
    }
}

/// Checks names of cases on the command line against the cases of a scenario.
pub(super) fn case_names<'a>(
    names: &[String],
    cases: impl Iterator<Item = &'a str> + Clone,
) -> Result<(), String> {
    match names.iter().find(|name| cases.clone().all(|case| case != **name)) {
        None => Ok(()),
        Some(unknown) => {
            let cases = cases.map(|case| format!("`{case}`")).collect::<Vec<_>>().join(", ");
            Err(format!("must be one of {cases}; got `{unknown}`"))
        }
    }
}

fn within<T: PartialOrd + Copy + std::fmt::Display>(
    field: &'static str,
    value: T,
    min: T,
    max: T,
) -> Checked {
    if value >= min && value <= max {
        Ok(())
    } else {
        Err((field, format!("must be {min} to {max}; got {value}")))
    }
}

fn share(field: &'static str, value: f64) -> Checked {
    within(field, value, 0.0, 1.0)
}

fn place(field: &'static str, value: Place) -> Checked {
    if value.is_valid() {
        Ok(())
    } else {
        Err((field, "must be a latitude of -90 to 90 and a longitude of -180 to 180".to_owned()))
    }
}

fn ring(field: &'static str, points: &[Place]) -> Checked {
    if points.len() < 3 {
        return Err((field, format!("must have at least 3 points; got {}", points.len())));
    }
    points.iter().try_for_each(|p| place(field, *p))
}
