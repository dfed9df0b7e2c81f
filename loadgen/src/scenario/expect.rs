//! The expectations of a scenario.
//!
//! There are two kinds. *Exact* expectations and memory limits hold on every machine: one that
//! fails makes the run fail. *Targets* are rates and times: they are printed beside the measurement
//! and fail a run only with `--strict`, because a busy machine is not a defect of the program.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::numbers::exact;

/// Expectations of one scenario; absent ones are not checked.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expectations {
    /// Devices exactly inside with a live token that were never accepted.
    pub missed: Option<Bound>,
    /// Devices accepted while more than 500 m outside the region.
    pub outside: Option<Bound>,
    /// Acceptances after the first that no unanswered or failed request explains.
    pub duplicates: Option<Bound>,
    /// Acceptances after the first that follow an unanswered or failed request.
    pub repeated: Option<Bound>,
    /// Devices accepted on a token that was not the current one.
    pub stale_tokens: Option<Bound>,
    /// Devices accepted while removed or muted.
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
    /// Difference between the cluster's report and the gateways' record, accepted and dead
    /// together.
    pub disagreement: Option<Bound>,
    /// Requests that the gateway left unanswered, in its own record.
    pub unanswered_requests: Option<Bound>,
    /// Unanswered requests that the cluster did not count. It may count more, because an answer can
    /// come too late for it.
    pub unanswered_uncounted: Option<Bound>,
    /// Requests that arrived after the grace period that follows the acknowledgement of the
    /// cancellation.
    pub late_after_cancel: Option<Bound>,
    /// Accepted devices as a share of those in the region: a cancelled alert must have been in its
    /// middle.
    pub reached_share: Option<Bound>,
    /// Most requests to FCM in any 60 s that begin with a request, in the gateway's record.
    pub quota_window_max: Option<Bound>,
    /// Nodes killed and started while the alert ran.
    pub node_changes: Option<Bound>,
    /// Requests that a gateway refused with 429.
    pub throttled: Option<Bound>,
    /// Requests that a gateway answered with 5xx.
    pub failed_requests: Option<Bound>,
    /// Share of pairs of FCM pushes of different bands in the wrong order. A lane that its quota
    /// paces has no excuse, even on a busy machine.
    pub fcm_disorder: Option<Bound>,
    /// Time of the last acceptance by APNs as a share of the time of the last one by FCM: one lane
    /// must not hold back the other.
    pub apns_share_of_fcm_time: Option<Bound>,
    /// Growth of the worst shard node's memory over its steady state during a fault, bytes.
    pub shard_growth_bytes: Option<Bound>,
    /// Watchers whose last message was not the final state.
    pub watchers_stale: Option<Bound>,
    /// Growth of the coordinator's memory from before the alert to its peak while watched, bytes.
    pub coordinator_growth_bytes: Option<Bound>,
    /// State in which the alert must end, without `STATE_`.
    pub state: Option<String>,
    /// Targets for rates and times.
    pub targets: Targets,
}

/// Rates and times, judged only with `--strict`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Targets {
    /// Pushes per second from the first to the last.
    pub rate_per_second: Option<Bound>,
    /// Requests per second to FCM as a share of what its connections, their streams and the latency
    /// allow.
    pub fcm_line_use: Option<Bound>,
    /// Time from the acknowledgement to the last push, seconds.
    pub wave_seconds: Option<Bound>,
    /// Time from the acknowledgement to the first push, seconds.
    pub first_push_seconds: Option<Bound>,
    /// User and system time of all shard nodes per push, microseconds.
    pub shard_cpu_us_per_push: Option<Bound>,
    /// Memory growth of all shard nodes together per device, bytes.
    pub bytes_per_device: Option<Bound>,
    /// Time from the start of the program to the end of the judgement, seconds.
    pub total_seconds: Option<Bound>,
    /// 99th percentile of the lateness of pushes against the alert's pace while devices moved,
    /// milliseconds.
    pub lateness_p99_ms: Option<Bound>,
    /// 99th percentile of the time from the acknowledgement of an entering change to its push,
    /// milliseconds.
    pub freshness_p99_ms: Option<Bound>,
    /// CPU time of shard nodes per push while devices move, less what the changes cost alone, as a
    /// share of that over still devices.
    pub moving_cpu_share: Option<Bound>,
    /// Share of pairs of pushes of different bands in the wrong order, for the worse platform.
    pub disorder: Option<Bound>,
}

/// A number or limits: `0`, `{ max = 5 }`, `{ min = 1, max = 2 }`.
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
    /// Reports whether a measured value is within the bound; false for NaN.
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
