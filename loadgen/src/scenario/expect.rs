//! The expectations of a scenario.
//!
//! There are two kinds. *Exact* expectations and memory limits hold on every machine: one that
//! fails makes the run fail. *Targets* are rates and times: they are printed beside the measurement
//! and fail a run only with `--strict`, because a busy machine is not a defect of the program.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::numbers::exact;

/// Expectations of one scenario; what is absent is not judged.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expectations {
    /// Devices exactly inside, alive, never accepted.
    pub missed: Option<Bound>,
    /// Accepted more than 500 m outside.
    pub outside: Option<Bound>,
    /// Accepted again without a reason.
    pub duplicates: Option<Bound>,
    /// Accepted again after an unanswered or failed request.
    pub repeated: Option<Bound>,
    /// Accepted on a token that was not the current one.
    pub stale_tokens: Option<Bound>,
    /// Accepted while removed or muted.
    pub unwanted: Option<Bound>,
    /// Devices of the alert without motion that were missed, alerted outside, alerted again or
    /// never answered.
    pub still_faults: Option<Bound>,
    /// Devices that entered behind the frontier, stayed and were alerted.
    pub entered: Option<Bound>,
    /// Devices whose push was sent and never answered.
    pub unknown: Option<Bound>,
    /// `accepted` minus (`region_devices` + `edge_devices` - `dead_tokens`).
    pub accepted_excess: Option<Bound>,
    /// Devices counted by the preview minus (`region_devices` + `edge_devices`).
    pub preview_excess: Option<Bound>,
    /// Difference of what the cluster reports and the gateway recorded, accepted and dead together.
    pub disagreement: Option<Bound>,
    /// Requests that the gateway left unanswered, by its own record.
    pub unanswered_requests: Option<Bound>,
    /// Unanswered requests that the cluster did not count; it may count more, as an answer can come
    /// too late for it.
    pub unanswered_uncounted: Option<Bound>,
    /// Requests that arrived later than the grace after the acknowledgement of the cancellation.
    pub late_after_cancel: Option<Bound>,
    /// Devices in the region that were reached, as a share: a cancelled alert must have been in its
    /// middle.
    pub reached_share: Option<Bound>,
    /// Requests to FCM in the 60 s in which there were the most, by the gateway's record: every 60
    /// s that begin with a request.
    pub quota_window_max: Option<Bound>,
    /// Nodes killed and started while the alert ran.
    pub node_changes: Option<Bound>,
    /// Requests that a gateway put off with 429.
    pub throttled: Option<Bound>,
    /// Requests that a gateway answered with 5xx.
    pub failed_requests: Option<Bound>,
    /// Share of pairs of pushes of different bands that came in the wrong order by FCM: a lane that
    /// its quota paces has no excuse, however busy the machine is.
    pub fcm_disorder: Option<Bound>,
    /// The last acceptance by APNs as a share of the time until the last one by FCM: one lane must
    /// not hold back the other.
    pub apns_share_of_fcm_time: Option<Bound>,
    /// Growth of a shard's memory over its steady state during a fault, bytes, the worst node.
    pub shard_growth_bytes: Option<Bound>,
    /// Watchers whose last message was not the final state.
    pub watchers_stale: Option<Bound>,
    /// Growth of the coordinator's memory from before the alert to its most while it was watched,
    /// bytes.
    pub coordinator_growth_bytes: Option<Bound>,
    /// The state in which the alert must end, without `STATE_`.
    pub state: Option<String>,
    /// Targets for rates and times.
    pub targets: Targets,
}

/// Rates and times, judged only with `--strict`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Targets {
    /// Pushes per second, first to last.
    pub rate_per_second: Option<Bound>,
    /// Requests a second to FCM as a share of what its connections, their streams and the latency
    /// allow.
    pub fcm_line_use: Option<Bound>,
    /// Acknowledgement to the last push.
    pub wave_seconds: Option<Bound>,
    /// Acknowledgement to the first push.
    pub first_push_seconds: Option<Bound>,
    /// User and system time of all shard nodes per push.
    pub shard_cpu_us_per_push: Option<Bound>,
    /// Growth of all shard nodes together per device.
    pub bytes_per_device: Option<Bound>,
    /// Start of the program to the end of the judgement.
    pub total_seconds: Option<Bound>,
    /// 99 % of pushes came no later than this after their place in the alert's pace, milliseconds,
    /// while devices moved.
    pub lateness_p99_ms: Option<Bound>,
    /// 99th percentile of the time from the acknowledgement of an entering change to its push,
    /// milliseconds.
    pub freshness_p99_ms: Option<Bound>,
    /// CPU of shard nodes per push while devices move, what the changes cost by themselves taken
    /// off, as a share of that over still devices.
    pub moving_cpu_share: Option<Bound>,
    /// Share of pairs of pushes of different bands that came in the wrong order, of the worse
    /// platform.
    pub disorder: Option<Bound>,
}

/// A number, or limits: `0`, `{ max = 5 }`, `{ min = 1, max = 2 }`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Bound {
    /// The value must be exactly this one.
    Exactly(f64),
    /// The value must lie between the limits, both included.
    Limits {
        /// Lower limit, included; absent: none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min: Option<f64>,
        /// Upper limit, included; absent: none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<f64>,
    },
}

impl Bound {
    /// Whether a measured value keeps to it. NaN never does.
    #[must_use]
    #[allow(clippy::float_cmp)] // counts are whole numbers, exact in an f64
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::Exactly(wanted) => value == wanted,
            Self::Limits { min, max } => {
                !value.is_nan() && min.is_none_or(|m| value >= m) && max.is_none_or(|m| value <= m)
            }
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(wanted) => write!(f, "= {}", exact(*wanted)),
            Self::Limits { min: Some(min), max: Some(max) } => {
                write!(f, "{} to {}", exact(*min), exact(*max))
            }
            Self::Limits { min: Some(min), max: None } => write!(f, "≥ {}", exact(*min)),
            Self::Limits { min: None, max: Some(max) } => write!(f, "≤ {}", exact(*max)),
            Self::Limits { min: None, max: None } => f.write_str("any"),
        }
    }
}
