//! The results of a run: `report.json` for programs, a table for people, and whether the run
//! passed.

pub mod arithmetic;
pub mod check;
pub mod motion;
pub mod restarts;
pub mod series;
pub mod summary;

use std::{collections::BTreeMap, fs, io, path::Path};

use clarion_emulator::Platform;
use serde::Serialize;

use crate::{
    names,
    verdict::{
        counts::{Counts, PlatformCount},
        order::Order,
    },
};
pub use arithmetic::Arithmetic;
pub use check::{Check, Kind};
pub use motion::Motion;

/// `report.json`. Counts and times are defined where they are measured: `verdict`,
/// `cluster::accounting`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: String,
    /// Seed from which everything random is drawn.
    pub seed: u64,
    /// Number of devices in the population.
    pub devices: u64,
    /// Address of the coordinator of a cluster that another program started; `None` if the run
    /// started its own. CPU time and memory of a foreign cluster's processes are unknown.
    pub cluster: Option<String>,
    /// Number of shard nodes.
    pub nodes: u32,
    /// The region, as text for people.
    pub region: String,
    /// Whether every check that counts held.
    pub passed: bool,
    /// State in which the alert ended.
    pub state: String,

    /// The judgement of every device, as fields of the report itself.
    #[serde(flatten)]
    pub counts: Counts,
    /// Devices that the cluster's own preview counted before the alert.
    pub preview_devices: u64,
    /// What the cluster reports of the same wave.
    pub reported: Reported,
    /// Changes during the wave and their cost, for a run in motion.
    pub motion: Option<Motion>,
    /// Result of the cancellation, if there was one.
    pub cancel: Option<Cancel>,
    /// Nodes that were killed and started, in order of time.
    pub node_changes: Vec<NodeChanged>,
    /// Clients that watched the alert, apart from this program.
    pub watchers: Option<Watchers>,

    /// Acceptances per second, between the first and the last.
    pub rate_per_second: f64,
    /// Times of the run's steps, seconds.
    pub seconds: Seconds,
    /// User and system time of all processes of a role during the wave, per accepted push.
    pub cpu_us_per_push: ByRole,
    /// Bytes from client to gateway during the wave, including TLS and TCP, per request.
    pub bytes_per_push: f64,
    /// Resident memory at the end of the wave, bytes.
    pub rss_bytes: Rss,
    /// Memory growth of all shard nodes while the devices were loaded, per device.
    pub bytes_per_device: f64,
    /// Memory growth of the worst shard node over its steady state during a fault.
    pub shard_growth_bytes: Option<u64>,
    /// Results of each platform.
    pub platforms: BTreeMap<Platform, ByPlatform>,

    /// Every expectation with the measured value.
    pub checks: Vec<Check>,
    /// Numbers of some affected devices, by kind of failure; they are valid for this seed.
    pub examples: BTreeMap<&'static str, Vec<u64>>,
    /// The machine on which the run took place, for comparisons.
    pub machine: Machine,
}

/// Counts that the cluster reports of the wave.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Reported {
    /// Devices handed to a lane.
    pub handed: u64,
    /// Devices whose push the gateway accepted.
    pub accepted: u64,
    /// Devices whose token the gateway reported as dead.
    pub dead: u64,
    /// Devices whose push the gateway refused for good.
    pub refused: u64,
    /// Devices whose push was sent and never answered.
    pub unknown: u64,
    /// Devices without a request before the alert ended.
    pub expired: u64,
    /// Requests that the gateway never answered.
    pub unanswered_requests: u64,
    /// Requests that the gateway deferred and Clarion repeated.
    pub retried_requests: u64,
    /// Difference to the gateways' record: |accepted - recorded| + |dead - recorded|.
    pub disagreement: u64,
}

/// The result of a cancellation.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cancel {
    /// Time from the call to its acknowledgement, seconds.
    pub seconds: f64,
    /// Requests recorded after the acknowledgement.
    pub requests_after: u64,
    /// Requests recorded later than the grace period after the acknowledgement.
    pub late_after_cancel: u64,
    /// Time of the last request, seconds after the acknowledgement; negative: before it.
    pub last_request_seconds: f64,
    /// Accepted devices as a share of the devices in the region.
    pub reached_share: f64,
}

/// A node that was killed or started.
#[derive(Debug, Clone, Serialize)]
pub struct NodeChanged {
    /// Time of the change, seconds after the acknowledgement of the alert.
    pub seconds: f64,
    /// The change, as text for people.
    pub what: String,
}

/// Clients that watched the alert, apart from this program.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Watchers {
    /// Number of all watchers.
    pub watchers: u64,
    /// Number of watchers that read one message a second.
    pub slow: u64,
    /// Messages sent to all watchers.
    pub messages: u64,
    /// Watchers whose last message was not the alert's final state.
    pub stale: u64,
    /// Growth of the coordinator's memory from before the alert to its peak while watched, bytes.
    pub coordinator_growth_bytes: u64,
}

/// Times in seconds. Those of the wave count from the acknowledgement of `CreateAlert`.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Seconds {
    /// Time for the start of all processes.
    pub start: f64,
    /// Time from the first written device until all are visible.
    pub load: f64,
    /// Time from the call of `CreateAlert` to its acknowledgement.
    pub create: f64,
    /// Time of the first acceptance.
    pub first_push: f64,
    /// Time at which half of the acceptances had arrived.
    pub p50: f64,
    /// Time at which 99 % of the acceptances had arrived.
    pub p99: f64,
    /// Time of the last acceptance.
    pub last_push: f64,
    /// Time at which the cluster reported the alert as ended.
    pub ended: f64,
    /// Duration of the judgement after the wave.
    pub verdict: f64,
    /// Duration of the whole run, from the start of the program.
    pub total: f64,
}

/// The result for one platform; fields have the same meaning as in [`Report`].
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct ByPlatform {
    /// Result of the verdict for its devices, as fields of this object.
    #[serde(flatten)]
    pub counts: PlatformCount,
    /// Number of requests, whatever their result.
    pub requests: u64,
    /// Requests answered with 429.
    pub throttled: u64,
    /// Requests answered with 5xx.
    pub failed_requests: u64,
    /// Most requests in any 60 s, wherever these begin.
    pub minute_max: u64,
    /// Bytes from client to gateway, including TLS, per request.
    pub bytes_per_push: f64,
    /// Acceptances per second from the first to the last.
    pub rate_per_second: f64,
    /// Rate that streams and connections allow; `None` for a near gateway.
    pub arithmetic: Option<Arithmetic>,
    /// First acceptance, seconds from the acknowledgement.
    pub first_push_seconds: f64,
    /// Last acceptance, seconds from the acknowledgement.
    pub last_push_seconds: f64,
    /// Figures of the order from near to far.
    pub order: Order,
}

/// Value for each role of processes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct ByRole {
    /// Sum over all shard nodes.
    pub shard: f64,
    /// Value of the coordinator.
    pub coordinator: f64,
    /// Sum over all gateway emulators.
    pub emulator: f64,
}

/// Resident memory at the end of the wave, bytes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Rss {
    /// Sum over all shard nodes; `None` if the run did not start them.
    pub shard: Option<u64>,
    /// Memory of the coordinator; `None` if the run did not start it.
    pub coordinator: Option<u64>,
    /// Peak of each process, by name.
    pub peaks: BTreeMap<String, u64>,
}

/// The machine on which the run took place.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Model name of the processor, from `/proc/cpuinfo`.
    pub processor: String,
    /// Number of available processors.
    pub cores: usize,
    /// Total memory, bytes, from `/proc/meminfo`.
    pub memory_bytes: u64,
    /// Load average over one minute at the start, which shows the load of other programs.
    pub load_average: f64,
    /// Whether the program was built with optimisation.
    pub optimised: bool,
}

impl Machine {
    /// Reads the data of the machine that runs this program.
    #[must_use]
    pub fn here() -> Self {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let field = |path: &str, name: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
            line.trim_start_matches(|c: char| c.is_whitespace() || c == ':').to_owned()
        };
        let memory = field("/proc/meminfo", "MemTotal");
        let kibibytes: u64 =
            memory.split_ascii_whitespace().next().and_then(|m| m.parse().ok()).unwrap_or(0);
        Self {
            processor: field("/proc/cpuinfo", "model name"),
            memory_bytes: kibibytes * 1_024,
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            load_average: load
                .split_ascii_whitespace()
                .next()
                .and_then(|l| l.parse().ok())
                .unwrap_or(f64::NAN),
            optimised: !cfg!(debug_assertions),
        }
    }
}

impl Report {
    /// Returns the order of the platform that kept it worst. Lanes do not wait for each other, so
    /// there is no order between two platforms.
    #[must_use]
    pub fn worst_order(&self) -> Order {
        let orders = self.platforms.values().map(|p| p.order);
        orders.max_by(|a, b| a.disorder.total_cmp(&b.disorder)).unwrap_or_default()
    }

    /// Writes `report.json` into a folder.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        write(self, dir)
    }
}

/// Writes a report of any kind into a folder.
fn write(report: &impl Serialize, dir: &Path) -> io::Result<()> {
    let json = serde_json::to_string_pretty(report).map_err(io::Error::other)?;
    fs::write(dir.join(names::REPORT), json + "\n")
}

/// Returns the value below which a share of ascending values lies; `None` without values.
#[must_use]
// The index is below the length.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
pub fn quantile<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.clamp(1, sorted.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_of_the_list() {
        let values: Vec<u64> = (1..=100).collect();
        let at = |share| quantile(&values, share);
        assert_eq!((at(0.5), at(0.99), at(1.0)), (Some(50), Some(99), Some(100)));
        assert_eq!((quantile(&[7], 0.5), quantile::<u64>(&[], 0.5)), (Some(7), None));
    }
}
