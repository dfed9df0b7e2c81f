//! Expectations of a scenario, checked against a report.

use clarion_emulator::Platform;
use serde::Serialize;

use super::{ByPlatform, Report};
use crate::{
    numbers::number,
    scenario::{Bound, Expectations, expect::Targets},
};

/// Whether a failed check fails the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The check counts on every machine.
    Exact,
    /// The check counts only with `--strict`: rates and times.
    Target,
}

/// One expectation of a scenario, and whether it held.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Name of the expectation, as in the scenario.
    pub name: &'static str,
    /// Whether the check counts without `--strict`.
    pub kind: Kind,
    /// The limits, as text for people.
    pub expected: String,
    /// The measured value, as text for people.
    pub measured: String,
    /// Whether the measured value is within the limits.
    pub held: bool,
}

/// Compares all expectations of a scenario with the measurements.
#[must_use]
pub fn checks(expect: &Expectations, report: &Report) -> Vec<Check> {
    let mut out = Vec::new();
    for (name, bound, value) in exact(expect, report) {
        out.extend(bound.map(|bound| check(name, Kind::Exact, bound, value)));
    }
    if let Some(state) = &expect.state {
        out.push(Check {
            name: "state",
            kind: Kind::Exact,
            expected: state.clone(),
            measured: report.state.clone(),
            held: *state == report.state,
        });
    }
    for (name, bound, value) in targets(&expect.targets, report) {
        out.extend(bound.map(|bound| check(name, Kind::Target, bound, Some(value))));
    }
    out
}

/// Reports whether a run passes with these checks.
#[must_use]
pub fn passes(checks: &[Check], strict: bool) -> bool {
    checks.iter().all(|c| c.held || (c.kind == Kind::Target && !strict))
}

/// Compares one bound with one value; `None` means that the value could not be measured.
#[must_use]
pub fn check(name: &'static str, kind: Kind, bound: Bound, value: Option<f64>) -> Check {
    Check {
        name,
        kind,
        expected: bound.to_string(),
        measured: value.filter(|v| !v.is_nan()).map_or_else(|| "not measured".to_owned(), number),
        // An expectation whose value could not be measured did not hold.
        held: value.is_some_and(|v| bound.holds(v)),
    }
}

/// Name of an expectation, its bound in the scenario, and the measurement.
type Held<T> = (&'static str, Option<Bound>, T);

/// Returns the expectations that fail a run on every machine; `None` for a value that could not be
/// measured.
#[allow(clippy::cast_precision_loss)] // counts and bytes far below 2^53
fn exact(expect: &Expectations, report: &Report) -> Vec<Held<Option<f64>>> {
    let count = |n: u64| Some(n as f64);
    let addressed = report.counts.region_devices as f64 + report.counts.edge_devices as f64;
    let preview_excess = report.preview_devices as f64 - addressed;
    let uncounted =
        report.counts.unanswered_requests.saturating_sub(report.reported.unanswered_requests);
    let cancel = report.cancel;
    let motion = report.motion.as_ref();
    let (apns, fcm) = (report.platforms.get(&Platform::Apns), report.platforms.get(&Platform::Fcm));
    let of_all = |field: fn(&ByPlatform) -> u64| count(report.platforms.values().map(field).sum());
    let share_of_time =
        apns.zip(fcm).map(|(apns, fcm)| apns.last_push_seconds / fcm.last_push_seconds);
    vec![
        ("missed", expect.missed, count(report.counts.missed)),
        ("outside", expect.outside, count(report.counts.outside)),
        ("stale_tokens", expect.stale_tokens, count(report.counts.stale_tokens)),
        ("unwanted", expect.unwanted, count(report.counts.unwanted)),
        ("still_faults", expect.still_faults, motion.map(|m| m.still_faults as f64)),
        ("entered", expect.entered, motion.map(|m| m.entered as f64)),
        ("duplicates", expect.duplicates, count(report.counts.duplicates)),
        ("repeated", expect.repeated, count(report.counts.repeated)),
        ("unknown", expect.unknown, count(report.counts.unknown)),
        (
            "accepted_excess",
            expect.accepted_excess,
            Some(report.counts.accepted as f64 - (addressed - report.counts.dead_tokens as f64)),
        ),
        ("preview_excess", expect.preview_excess, Some(preview_excess)),
        ("disagreement", expect.disagreement, count(report.reported.disagreement)),
        (
            "unanswered_requests",
            expect.unanswered_requests,
            count(report.counts.unanswered_requests),
        ),
        ("unanswered_uncounted", expect.unanswered_uncounted, count(uncounted)),
        ("late_after_cancel", expect.late_after_cancel, cancel.map(|c| c.late_after_cancel as f64)),
        ("reached_share", expect.reached_share, cancel.map(|c| c.reached_share)),
        ("quota_window_max", expect.quota_window_max, fcm.map(|f| f.minute_max as f64)),
        ("node_changes", expect.node_changes, count(report.node_changes.len() as u64)),
        ("throttled", expect.throttled, of_all(|p| p.throttled)),
        ("failed_requests", expect.failed_requests, of_all(|p| p.failed_requests)),
        ("fcm_disorder", expect.fcm_disorder, fcm.map(|f| f.order.disorder)),
        ("apns_share_of_fcm_time", expect.apns_share_of_fcm_time, share_of_time),
        (
            "shard_growth_bytes",
            expect.shard_growth_bytes,
            report.shard_growth_bytes.map(|b| b as f64),
        ),
        ("watchers_stale", expect.watchers_stale, report.watchers.map(|w| w.stale as f64)),
        (
            "coordinator_growth_bytes",
            expect.coordinator_growth_bytes,
            report.watchers.map(|w| w.coordinator_growth_bytes as f64),
        ),
        // Independent of the scenario: a record with requests to unknown tokens is not a record of
        // this run.
        ("strangers", Some(Bound::Exactly(0.0)), count(report.counts.strangers)),
    ]
}

/// Returns the expectations that fail a run only with `--strict`: rates and times.
fn targets(targets: &Targets, report: &Report) -> Vec<Held<f64>> {
    let motion = report.motion.as_ref();
    let fcm = report.platforms.get(&Platform::Fcm);
    vec![
        ("rate_per_second", targets.rate_per_second, report.rate_per_second),
        (
            "fcm_line_use",
            targets.fcm_line_use,
            fcm.and_then(|f| f.arithmetic).map_or(f64::NAN, |a| a.used),
        ),
        ("wave_seconds", targets.wave_seconds, report.seconds.last_push),
        ("first_push_seconds", targets.first_push_seconds, report.seconds.first_push),
        ("shard_cpu_us_per_push", targets.shard_cpu_us_per_push, report.cpu_us_per_push.shard),
        ("bytes_per_device", targets.bytes_per_device, report.bytes_per_device),
        ("total_seconds", targets.total_seconds, report.seconds.total),
        (
            "lateness_p99_ms",
            targets.lateness_p99_ms,
            motion.map_or(f64::NAN, |m| m.lateness_ms.p99),
        ),
        (
            "freshness_p99_ms",
            targets.freshness_p99_ms,
            motion.map_or(f64::NAN, |m| m.freshness_ms.p99),
        ),
        (
            "moving_cpu_share",
            targets.moving_cpu_share,
            motion.map_or(f64::NAN, |m| m.cpu.moving_share),
        ),
        ("disorder", targets.disorder, report.worst_order().disorder),
    ]
}
