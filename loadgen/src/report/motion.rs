//! The report of a wave in motion, compared with the same alert over devices that do not move.

use std::time::Duration;

use serde::Serialize;

use super::quantile;
use crate::verdict::{
    Judgement,
    history::{Batch, History},
    pace,
};

/// Result of a run in motion. `verdict::pace`, `verdict::entrants` and `run/motion.rs` define the
/// measurements.
#[derive(Debug, Clone, Serialize)]
pub struct Motion {
    /// Changes acknowledged per second, over the wave.
    pub changes_per_second: f64,
    /// Changes over the whole run, by kind.
    pub changes: Kinds,
    /// Time from the sending of a batch to its acknowledgement, milliseconds.
    pub acknowledged_ms: Spread,
    /// Longest delay of a delivery against the plan, milliseconds.
    pub behind_ms: f64,
    /// Devices that changed during the wave.
    pub devices: u64,
    /// Devices of these that were inside the region at the end.
    pub inside: u64,
    /// Devices that entered behind the frontier, stayed, and received the alert.
    pub entered: u64,
    /// Time from the acknowledgement of the entering change to the gateway's record of the push,
    /// milliseconds.
    pub freshness_ms: Spread,
    /// Gateway's time of a push minus its time in the alert's pace, milliseconds; negative means
    /// early.
    pub lateness_ms: Spread,
    /// The same lateness in the alert over devices that do not move.
    pub still_lateness_ms: Spread,
    /// Devices accepted by the alert over devices that do not move.
    pub still_accepted: u64,
    /// Faults of that alert: devices missed, alerted outside, on a wrong token, again, or
    /// unanswered.
    pub still_faults: u64,
    /// CPU time that shard nodes used.
    pub cpu: Cost,
}

/// Changes sent to the registry, counted by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Kinds {
    /// Moves of commuters to their next place.
    pub commutes: u64,
    /// Moves of riders to their next place.
    pub rides: u64,
    /// Moves to a place far from the last one.
    pub leaps: u64,
    /// Installations, and devices that came back.
    pub installs: u64,
    /// Registrations with a new token.
    pub tokens: u64,
    /// Removals of a device.
    pub removals: u64,
    /// Mutes, and mutes taken back.
    pub mutes: u64,
    /// Changes of all kinds that were delivered late.
    pub late: u64,
    /// Changes that were delivered twice.
    pub twice: u64,
}

/// Changes of a wave in motion, as they were carried out.
#[derive(Debug)]
pub struct Carried {
    /// Changes as the registry acknowledged them, with times.
    pub history: History,
    /// Number of changes of each kind.
    pub kinds: Kinds,
    /// Longest delay of a delivery against the plan.
    pub behind: Duration,
}

/// CPU time of the shard nodes over an interval.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// User and system time of all shard nodes, microseconds.
    pub cpu_us: u64,
    /// Length of the interval, seconds.
    pub seconds: f64,
    /// Changes acknowledged during the interval.
    pub changes: u64,
}

/// Quantiles of many values.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    /// Median of the values.
    pub p50: f64,
    /// 99th percentile of the values.
    pub p99: f64,
    /// Highest of the values.
    pub max: f64,
}

/// User and system time of all shard nodes, microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cost {
    /// CPU time of the idle cluster, per second.
    pub idle_per_second: f64,
    /// CPU time of one change without an alert, less what the idle cluster uses.
    pub per_change: f64,
    /// CPU time per push of the alert over still devices, less what the idle cluster uses.
    pub still_per_push: f64,
    /// CPU time per push of the alert in motion, less what the same changes cost without an alert.
    pub moving_per_push: f64,
    /// `moving_per_push` as a share of `still_per_push`.
    pub moving_share: f64,
}

impl Motion {
    /// Builds the report from observations and judgement. `spent` are the costs of the idle
    /// cluster, of the still alert, of the changes alone, and of the wave in motion.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // counts and times of a run
    pub fn of(
        carried: &Carried,
        (still, moving): (&Judgement, &Judgement),
        spent: [Spent; 4],
        max_rate_per_second: u32,
        measured: bool,
    ) -> Self {
        let rate = f64::from(max_rate_per_second);
        let lateness = |judged: &Judgement| {
            Spread::of(&pace::lateness(&judged.due, rate), |ns| ns as f64 / 1e6)
        };
        let took = |batch: &Batch| batch.acknowledged_ns.saturating_sub(batch.sent_ns);
        let mut acknowledged: Vec<u64> = carried.history.batches().iter().map(took).collect();
        acknowledged.sort_unstable();
        let to_ms = |ns: u64| ns as f64 / 1e6;
        let [idle, of_still, feed, of_moving] = spent;
        let cost = Cost::of(
            [idle, of_still, feed, of_moving],
            still.counts.accepted,
            moving.counts.accepted,
        );
        Self {
            changes_per_second: of_moving.changes as f64 / of_moving.seconds.max(1e-3),
            changes: carried.kinds,
            acknowledged_ms: Spread::of(&acknowledged, to_ms),
            behind_ms: carried.behind.as_secs_f64() * 1e3,
            devices: moving.movers,
            inside: moving.movers_inside,
            entered: moving.entered_ns.len() as u64,
            freshness_ms: Spread::of(&moving.entered_ns, to_ms),
            lateness_ms: lateness(moving),
            still_lateness_ms: lateness(still),
            still_accepted: still.counts.accepted,
            still_faults: still.counts.faults(),
            cpu: if measured { cost } else { Cost::UNKNOWN },
        }
    }
}

impl Spread {
    fn of<T: Copy>(ascending: &[T], number: impl Fn(T) -> f64) -> Self {
        let at = |share| quantile(ascending, share).map_or(f64::NAN, &number);
        Self { p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

impl Cost {
    /// Cost without accounted processes.
    const UNKNOWN: Self = Self {
        idle_per_second: f64::NAN,
        per_change: f64::NAN,
        still_per_push: f64::NAN,
        moving_per_push: f64::NAN,
        moving_share: f64::NAN,
    };

    #[allow(clippy::cast_precision_loss)] // counts and times of a run
    fn of([idle, still, feed, moving]: [Spent; 4], still_pushes: u64, moving_pushes: u64) -> Self {
        let idle_per_second = idle.cpu_us as f64 / idle.seconds.max(1e-3);
        // The idle cluster is in both, and is subtracted once from each.
        let busy = |spent: Spent| spent.cpu_us as f64 - idle_per_second * spent.seconds;
        let per_change = busy(feed) / feed.changes.max(1) as f64;
        let still_per_push = busy(still) / still_pushes.max(1) as f64;
        let moving_per_push =
            (busy(moving) - per_change * moving.changes as f64) / moving_pushes.max(1) as f64;
        Self {
            idle_per_second,
            per_change,
            still_per_push,
            moving_per_push,
            moving_share: moving_per_push / still_per_push,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cluster_and_the_changes_cost_by_themselves_is_taken_off() {
        let spent = |cpu_us, seconds, changes| Spent { cpu_us, seconds, changes };
        // 1 ms per second idle; 2 µs per change; 3 µs per push without motion, 3.3 in motion, where
        // fewer changes were sent.
        let idle = spent(5_000, 5.0, 0);
        let still = spent(10_000 + 300_000, 10.0, 0);
        let feed = spent(10_000 + 400_000, 10.0, 200_000);
        let moving = spent(12_000 + 360_000 + 330_000, 12.0, 180_000);
        let cost = Cost::of([idle, still, feed, moving], 100_000, 100_000);
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(cost.idle_per_second, 1_000.0) && near(cost.per_change, 2.0), "{cost:?}");
        assert!(near(cost.still_per_push, 3.0) && near(cost.moving_per_push, 3.3), "{cost:?}");
        assert!(near(cost.moving_share, 1.1), "{cost:?}");
    }

    #[test]
    fn a_spread_of_nothing_is_not_a_number() {
        assert!(Spread::of::<u64>(&[], |_| 0.0).p99.is_nan());
        let spread = Spread::of(&[1_u64, 2, 3, 4], |n| n as f64);
        assert_eq!((spread.p50, spread.max), (2.0, 4.0));
    }
}
