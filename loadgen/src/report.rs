//! What a run found out: `report.json` for programs, a table for people, and whether it passed.

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
    /// Which scenario.
    pub scenario: String,
    /// Everything drawn comes from it.
    pub seed: u64,
    /// Devices of the population.
    pub devices: u64,
    /// The coordinator of a cluster that ran already; none if the run started its own. Then nothing
    /// is known of what its processes cost.
    pub cluster: Option<String>,
    /// Shard nodes.
    pub nodes: u32,
    /// The region, in words.
    pub region: String,
    /// Whether every check that counts held.
    pub passed: bool,
    /// The state in which the alert ended.
    pub state: String,

    /// The judgement of every device, as fields of the report itself.
    #[serde(flatten)]
    pub counts: Counts,
    /// Devices that the cluster's own preview counted before the alert.
    pub preview_devices: u64,
    /// What the cluster reports of the same wave.
    pub reported: Reported,
    /// What changed during the wave and what that cost, if anything did.
    pub motion: Option<Motion>,
    /// The cancellation, if there was one.
    pub cancel: Option<Cancel>,
    /// Nodes that were killed and started, in the order of time.
    pub node_changes: Vec<NodeChanged>,
    /// Those who watched it, if there were any but this program.
    pub watchers: Option<Watchers>,

    /// Acceptances a second, from the first to the last.
    pub rate_per_second: f64,
    /// Times.
    pub seconds: Seconds,
    /// User and system time of all processes of a role over the wave, per accepted push.
    pub cpu_us_per_push: ByRole,
    /// Bytes from client to gateway over the wave, TLS and all, per request.
    pub bytes_per_push: f64,
    /// Memory.
    pub rss_bytes: Rss,
    /// Growth of all shard nodes while the devices were loaded, per device.
    pub bytes_per_device: f64,
    /// Growth of the worst shard node over its steady state during a fault.
    pub shard_growth_bytes: Option<u64>,
    /// Each platform by itself.
    pub platforms: BTreeMap<Platform, ByPlatform>,

    /// What was expected, and what was measured.
    pub checks: Vec<Check>,
    /// For each kind of failure some devices by number, of this seed.
    pub examples: BTreeMap<&'static str, Vec<u64>>,
    /// The machine, for comparisons.
    pub machine: Machine,
}

/// What the cluster reports of the wave.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Reported {
    /// Handed to a lane.
    pub handed: u64,
    /// Taken by the gateway.
    pub accepted: u64,
    /// Token dead.
    pub dead: u64,
    /// Refused for good.
    pub refused: u64,
    /// Sent, never answered.
    pub unknown: u64,
    /// Not sent before the end.
    pub expired: u64,
    /// Requests without an answer.
    pub unanswered_requests: u64,
    /// Requests put off by the gateway.
    pub retried_requests: u64,
    /// |accepted - recorded| + |dead - recorded|.
    pub disagreement: u64,
}

/// A cancellation.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cancel {
    /// Call to acknowledgement.
    pub seconds: f64,
    /// Requests recorded after the acknowledgement.
    pub requests_after: u64,
    /// Of those, later than the grace.
    pub late_after_cancel: u64,
    /// The last request, seconds after the acknowledgement; negative: before.
    pub last_request_seconds: f64,
    /// Accepted devices as a share of those in the region.
    pub reached_share: f64,
}

/// A node that was killed or started.
#[derive(Debug, Clone, Serialize)]
pub struct NodeChanged {
    /// When it had happened, seconds from the acknowledgement.
    pub seconds: f64,
    /// What, in words.
    pub what: String,
}

/// Those who watched.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Watchers {
    /// All.
    pub watchers: u64,
    /// Of those, how many read one message a second.
    pub slow: u64,
    /// Messages to all of them.
    pub messages: u64,
    /// Whose last message was not the last state.
    pub stale: u64,
    /// Of the coordinator, from before the alert to its most while it was watched.
    pub coordinator_growth_bytes: u64,
}

/// Times in seconds; those of the wave from the acknowledgement of `CreateAlert`.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Seconds {
    /// Start of all processes.
    pub start: f64,
    /// Writing all devices until all are visible.
    pub load: f64,
    /// Call to acknowledgement of `CreateAlert`.
    pub create: f64,
    /// First acceptance.
    pub first_push: f64,
    /// Half of them.
    pub p50: f64,
    /// 99 %.
    pub p99: f64,
    /// The last acceptance.
    pub last_push: f64,
    /// The alert reported as ended.
    pub ended: f64,
    /// Judging.
    pub verdict: f64,
    /// Everything, from the start of the program.
    pub total: f64,
}

/// One platform of a wave; the words are those of [`Report`].
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct ByPlatform {
    /// The judgement of its devices, as fields of its own.
    #[serde(flatten)]
    pub counts: PlatformCount,
    /// Requests, whatever became of them.
    pub requests: u64,
    /// Requests answered with 429.
    pub throttled: u64,
    /// Requests answered with 5xx.
    pub failed_requests: u64,
    /// Requests in the 60 s in which there were the most, wherever these begin.
    pub minute_max: u64,
    /// Bytes from client to gateway, TLS and all, per request.
    pub bytes_per_push: f64,
    /// Acceptances a second, from the first to the last.
    pub rate_per_second: f64,
    /// What streams and connections allow; none of a gateway that is near.
    pub arithmetic: Option<Arithmetic>,
    /// First acceptance, seconds from the acknowledgement.
    pub first_push_seconds: f64,
    /// Last acceptance, seconds from the acknowledgement.
    pub last_push_seconds: f64,
    /// Nearest first.
    pub order: Order,
}

/// One figure by role.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct ByRole {
    /// All shard nodes.
    pub shard: f64,
    /// The coordinator.
    pub coordinator: f64,
    /// All gateway emulators.
    pub emulator: f64,
}

/// Resident memory at the end of the wave, bytes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Rss {
    /// All shard nodes together; none if they are not this run's own.
    pub shard: Option<u64>,
    /// The coordinator; none if it is not this run's own.
    pub coordinator: Option<u64>,
    /// The highest of each process.
    pub peaks: BTreeMap<String, u64>,
}

/// Where it ran.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// What its processor calls itself.
    pub processor: String,
    /// Processors.
    pub cores: usize,
    /// All of its memory.
    pub memory_bytes: u64,
    /// Load average over a minute at the start: what else ran.
    pub load_average: f64,
    /// Built with optimisation or not.
    pub optimised: bool,
}

impl Machine {
    /// This one, now.
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
    /// The order of the platform that kept it worst. Lanes do not wait for each other, so that
    /// between two of them there is no order to be kept.
    #[must_use]
    pub fn worst_order(&self) -> Order {
        let orders = self.platforms.values().map(|p| p.order);
        orders.max_by(|a, b| a.disorder.total_cmp(&b.disorder)).unwrap_or_default()
    }

    /// Writes `report.json` into a folder.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        write(self, dir)
    }
}

/// Writes a report of any kind into a folder.
fn write(report: &impl Serialize, dir: &Path) -> io::Result<()> {
    let json = serde_json::to_string_pretty(report).map_err(io::Error::other)?;
    fs::write(dir.join(names::REPORT), json + "\n")
}

/// The value below which a share of values in ascending order lies; none if there are none.
#[must_use]
// An index below the length.
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
