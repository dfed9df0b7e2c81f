//! A scenario as data: the parts of a run and its expectations.
//!
//! The named scenarios are TOML files built into the program; any other file of the same form can
//! be run. Every value is checked when the file is read, so that a typing error does not end a run
//! in the middle.

mod check;
pub mod expect;
pub mod figures;
pub mod mixture;
mod named;
pub mod nodes;
pub mod restarts;
pub mod series;
mod store;

use std::{fmt, fs, io, path::Path};

use clarion_emulator::{Faults, Platform, faults::Latency};
use serde::Deserialize;

use crate::{place::Place, population::PopulationSpec};
pub(crate) use check::FCM_QUOTA_MAX;
pub use expect::{Bound, Expectations};
use named::NAMED;
pub use nodes::{NodeAction, NodeChange};
pub use restarts::RestartsSpec;
pub use series::{CaseSpec, SeriesSpec};
pub use store::StoreKind;

/// A scenario: population, cluster, alert, faults and expectations.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Name of the scenario in reports.
    pub name: String,
    /// Description in one line, for `loadgen list`.
    pub description: String,
    /// Seed from which everything random is drawn.
    pub seed: u64,
    /// Number of devices in the population.
    pub devices: u64,
    /// Number of shard nodes.
    pub nodes: u32,
    /// Store of the coordinator.
    #[serde(default)]
    pub store: StoreKind,
    /// Time limits of the parts of the run.
    #[serde(default)]
    pub deadlines: Deadlines,
    /// Population of devices.
    pub population: PopulationSpec,
    /// The submitted alert.
    pub alert: AlertSpec,
    /// Behaviour of the gateway emulators.
    #[serde(default)]
    pub gateway: GatewaySpec,
    /// Cancellation in the middle of the wave.
    #[serde(default)]
    pub cancel: Option<CancelSpec>,
    /// Motion of devices during the alert.
    #[serde(default)]
    pub motion: Option<MotionSpec>,
    /// Nodes that are killed and started during the alert, in order of time.
    #[serde(default)]
    pub node_changes: Vec<NodeChange>,
    /// Watchers of the alert.
    #[serde(default)]
    pub watchers: Option<WatchersSpec>,
    /// Series of many alerts and faults instead of one alert.
    #[serde(default)]
    pub series: Option<SeriesSpec>,
    /// Restarts of processes, with an alert after each.
    #[serde(default)]
    pub restarts: Option<RestartsSpec>,
    /// Expectations of the result.
    #[serde(default)]
    pub expect: Expectations,
}

/// Time limits for the parts of a run, after which it counts as failed, seconds.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deadlines {
    /// Time limit for the start of all processes, seconds.
    pub start_s: u64,
    /// Time limit for writing all devices until they are visible, seconds.
    pub load_s: u64,
    /// Time limit from the submission to the last outcome, seconds.
    pub wave_s: u64,
    /// Time limit for the end of every process after it was asked to end, seconds.
    pub stop_s: u64,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { start_s: 20, load_s: 300, wave_s: 300, stop_s: 15 }
    }
}

/// The alert that the run submits.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertSpec {
    /// The region in which devices are alerted.
    pub region: RegionSpec,
    /// Place from which distances are measured; absent: the centre of the circle. Required for
    /// other regions.
    #[serde(default)]
    pub last_seen: Option<Place>,
    /// Most pushes per second; 0: no limit.
    #[serde(default)]
    pub max_rate_per_second: u32,
    /// Active time of the alert, seconds.
    #[serde(default = "default_active_s")]
    pub active_s: u64,
}

fn default_active_s() -> u64 {
    3_600
}

/// A region whose inside the verdict can compute independently.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RegionSpec {
    /// All points within a geodesic distance.
    Circle {
        /// Centre of the circle.
        center: Place,
        /// Geodesic radius on WGS-84, metres.
        radius_meters: f64,
    },
    /// A polygon with edges that are straight in longitude and latitude. Rings may be closed or
    /// open; they are closed on submission.
    Polygon {
        /// Outer ring of the polygon.
        outer: Vec<Place>,
        /// Rings of the holes.
        #[serde(default)]
        holes: Vec<Vec<Place>>,
    },
}

impl RegionSpec {
    /// Returns the centre of the region, which is the place last seen unless the scenario sets it.
    #[must_use]
    pub fn center(&self) -> Option<Place> {
        match self {
            Self::Circle { center, .. } => Some(*center),
            Self::Polygon { .. } => None,
        }
    }
}

/// Behaviour of the emulated gateways.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewaySpec {
    /// Share of tokens that the gateway calls dead (410), 0 to 1.
    pub dead_share: f64,
    /// Latency of each answer without a fault, microseconds. A platform's distance replaces it.
    pub latency_us: u64,
    /// Whether lanes send `authorization` as a literal in each request, as Apple advises, instead
    /// of indexing it.
    pub authorization_literal: bool,
    /// Distance to each gateway. Absent: so near that only the gateway's own time counts.
    pub distance: DistanceSpec,
    /// Fault during the wave.
    pub fault: Option<FaultSpec>,
    /// Settings of FCM only.
    pub fcm: FcmSpec,
    /// Time after which a request counts as unanswered, milliseconds; absent: the coordinator's
    /// default.
    pub request_deadline_ms: Option<u32>,
}

/// Distance to each gateway.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DistanceSpec {
    /// Distance to the gateway of APNs.
    pub apns: LineSpec,
    /// Distance to the gateway of FCM.
    pub fcm: LineSpec,
}

impl DistanceSpec {
    /// Returns the distance to the gateway of a platform.
    #[must_use]
    pub fn of(&self, platform: Platform) -> LineSpec {
        match platform {
            Platform::Apns => self.apns,
            Platform::Fcm => self.fcm,
        }
    }
}

/// Network properties of one gateway from a client's view.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LineSpec {
    /// Time from a request's end to its answer: `{ p50_us = 50000, p99_us = 120000 }`, lognormal,
    /// drawn again for each request.
    pub latency: Option<Latency>,
    /// Time from the bytes of a body to the credit for them, microseconds: at a distance, one way
    /// there and one back.
    pub credit_delay_us: u64,
    /// Receive window of the connection, bytes; absent: so large that it does not limit a near
    /// lane.
    pub connection_window: Option<u32>,
    /// Receive window of each stream, bytes; absent: HTTP/2's default of 65,535.
    pub stream_window: Option<u32>,
    /// MAX_CONCURRENT_STREAMS of a connection; absent: 1,000 for APNs, 100 for FCM.
    pub streams_max: Option<u32>,
}

/// Settings of FCM's emulator, and of the coordinator for FCM.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FcmSpec {
    /// Messages that the quota allows in any 60 s. The emulator refuses more, and the coordinator
    /// knows the quota. Absent: the emulator grants more than can be used, and the coordinator
    /// knows no quota.
    pub quota_per_minute: Option<u32>,
    /// Shortest pause of the lane after a 503 without `Retry-After`, milliseconds; absent: the
    /// coordinator's default.
    pub backoff_min_ms: Option<u32>,
}

/// A fault with its start and duration.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultSpec {
    /// Answers take longer by a factor.
    Slow {
        /// Platform of the affected gateway; absent: all.
        #[serde(default)]
        platform: Option<Platform>,
        /// Factor by which answers slow down.
        factor: u32,
        /// Start of the fault after the first push, milliseconds.
        after_ms: u64,
        /// Duration of the fault, milliseconds.
        for_ms: u64,
    },
    /// No request is answered: requests are read and never answered.
    Silent {
        /// Platform of the affected gateway; absent: all.
        #[serde(default)]
        platform: Option<Platform>,
        /// Start of the fault after the first push, milliseconds.
        after_ms: u64,
        /// Duration of the fault, milliseconds.
        for_ms: u64,
    },
    /// A share of the requests is answered with 503.
    Failing {
        /// Platform of the affected gateway; absent: all.
        #[serde(default)]
        platform: Option<Platform>,
        /// Affected share of the requests, 0 to 1.
        share: f64,
        /// Whether the pushes reach the devices despite the answer.
        #[serde(default)]
        delivered: bool,
        /// Value of `Retry-After`, seconds; FCM only.
        #[serde(default)]
        retry_after_s: Option<u32>,
        /// Start of the fault after the first push, milliseconds.
        after_ms: u64,
        /// Duration of the fault, milliseconds.
        for_ms: u64,
    },
    /// Any faults of the emulator ([`Faults`]), alone or mixed.
    Scripted {
        /// Platform of the affected gateway; absent: all.
        #[serde(default)]
        platform: Option<Platform>,
        /// Short description of the fault.
        label: String,
        /// Faults as in an order to the emulator. The usual conditions (latency, delayed credit)
        /// hold too, unless the order changes them.
        faults: Box<Faults>,
        /// Start of the fault after the first push, milliseconds.
        after_ms: u64,
        /// Time until all faults of the order are removed, milliseconds.
        for_ms: u64,
    },
}

impl FaultSpec {
    /// Returns the start of the fault after the first push, milliseconds.
    #[must_use]
    pub fn after_ms(&self) -> u64 {
        match self {
            Self::Slow { after_ms, .. }
            | Self::Silent { after_ms, .. }
            | Self::Failing { after_ms, .. }
            | Self::Scripted { after_ms, .. } => *after_ms,
        }
    }

    /// Returns the duration of the fault, milliseconds.
    #[must_use]
    pub fn for_ms(&self) -> u64 {
        match self {
            Self::Slow { for_ms, .. }
            | Self::Silent { for_ms, .. }
            | Self::Failing { for_ms, .. }
            | Self::Scripted { for_ms, .. } => *for_ms,
        }
    }

    /// Returns the platform of the affected gateway; `None`: all.
    #[must_use]
    pub fn platform(&self) -> Option<Platform> {
        match self {
            Self::Slow { platform, .. }
            | Self::Silent { platform, .. }
            | Self::Failing { platform, .. }
            | Self::Scripted { platform, .. } => *platform,
        }
    }

    /// Reports whether the fault affects the gateway of a platform.
    #[must_use]
    pub fn applies_to(&self, gateway: Platform) -> bool {
        self.platform().is_none_or(|p| p == gateway)
    }
}

/// Cancellation of the alert in the middle of its wave.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelSpec {
    /// Share of the devices in the region whose acceptance starts the cancellation, 0 to 1.
    pub at_share: f64,
    /// Time after the acknowledgement from which requests count as late, milliseconds.
    pub grace_ms: u64,
}

/// Devices in motion. Such a run has four parts in one cluster: an idle interval, the alert over
/// still devices, changes alone for as long as that alert took, and the alert while changes
/// continue.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MotionSpec {
    /// Changes sent to the registry per second: places of commuters and trains, tokens,
    /// installations, removals, mutes.
    pub changes_per_second: u32,
    /// Time for which the cluster is idle at first, so that its own cost is known, milliseconds.
    pub idle_ms: u64,
    /// Time after its acknowledgement in which a change may be unknown to the wave, milliseconds.
    pub settle_ms: u64,
}

/// Clients that watch the alert.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchersSpec {
    /// Number of watchers.
    pub count: u32,
    /// Share of watchers that read one message a second, 0 to 1.
    pub slow_share: f64,
}

impl WatchersSpec {
    /// Returns the number of slow watchers.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of a u32
    pub fn slow(self) -> u32 {
        ((f64::from(self.count) * self.slow_share).round() as u32).min(self.count)
    }
}

/// Reason why a scenario cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The text is neither the name of a scenario nor a file.
    #[error("scenario: must be one of {1}, or the path of a .toml file; got `{0}`")]
    Unknown(String, String),
    /// The file cannot be read.
    #[error("cannot read scenario {0}: {1}")]
    Unreadable(String, io::Error),
    /// The text is not a scenario; the message names line and key.
    #[error("scenario {0}: {1}")]
    Malformed(String, String),
    /// A value is outside its limits.
    #[error("scenario {scenario}: {field}: {problem}")]
    Invalid {
        /// Name of the scenario.
        scenario: String,
        /// Path of the invalid field, with dots.
        field: String,
        /// Description of the limits and the value.
        problem: String,
    },
}

impl Scenario {
    /// Finds a scenario by name, or reads a file if the text ends in `.toml`.
    ///
    /// # Errors
    /// If there is no scenario of that name, or the file is not a valid scenario.
    pub fn find(name_or_path: &str) -> Result<Self, ScenarioError> {
        if let Some((name, text)) = NAMED.iter().find(|(name, _)| *name == name_or_path) {
            return Self::parse(name, text);
        }
        if !Path::new(name_or_path).extension().is_some_and(|e| e.eq_ignore_ascii_case("toml")) {
            let names = NAMED.iter().map(|(n, _)| format!("`{n}`")).collect::<Vec<_>>().join(", ");
            return Err(ScenarioError::Unknown(name_or_path.to_owned(), names));
        }
        let text = fs::read_to_string(name_or_path)
            .map_err(|e| ScenarioError::Unreadable(name_or_path.to_owned(), e))?;
        Self::parse(name_or_path, &text)
    }

    /// Parses a scenario; `source` names the text in errors.
    ///
    /// # Errors
    /// An error with line, key and problem.
    pub fn parse(source: &str, text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text).map_err(|e| {
            ScenarioError::Malformed(source.to_owned(), e.to_string().trim_end().to_owned())
        })?;
        scenario.check().map_err(|(field, problem)| ScenarioError::Invalid {
            scenario: source.to_owned(),
            field: field.to_owned(),
            problem,
        })?;
        Ok(scenario)
    }

    /// Returns the built-in scenarios with their names.
    pub fn named() -> impl Iterator<Item = (&'static str, Self)> {
        NAMED.iter().map(|(name, text)| {
            (*name, Self::parse(name, text).expect("tested: every named scenario is valid"))
        })
    }

    /// Returns the place last seen, from which distances are measured.
    #[must_use]
    pub fn last_seen(&self) -> Place {
        self.alert
            .last_seen
            .or_else(|| self.alert.region.center())
            .expect("checked: a polygon comes with a place last seen")
    }
}

impl fmt::Display for FaultSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.platform() {
            None => "gateway",
            Some(Platform::Apns) => "APNs",
            Some(Platform::Fcm) => "FCM",
        })?;
        match self {
            Self::Slow { factor, .. } => write!(f, " {factor} times slower"),
            Self::Silent { .. } => f.write_str(" silent"),
            Self::Scripted { label, .. } => write!(f, ": {label}"),
            Self::Failing { share, delivered, .. } => {
                write!(
                    f,
                    " answers {} % with 503{}",
                    share * 100.0,
                    if *delivered { ", though delivered" } else { "" }
                )
            }
        }
    }
}

impl fmt::Display for RegionSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Circle { center, radius_meters } => {
                write!(
                    f,
                    "circle of {} km around {:.3}, {:.3}",
                    radius_meters / 1_000.0,
                    center.latitude,
                    center.longitude
                )
            }
            Self::Polygon { outer, holes } => {
                write!(f, "polygon of {} points, {} holes", outer.len(), holes.len())
            }
        }
    }
}

#[cfg(test)]
mod tests;
