//! The summary of a report for people: pushes, rates, cost, and every expectation beside its
//! measurement.

use std::fmt::{self, Write as _};

use clarion_emulator::Platform;

use super::{
    ByPlatform, Motion, Report,
    check::{Check, Kind},
};
use crate::numbers::{thousands, whole};

/// Returns the whole summary as text.
#[must_use]
pub fn summary(report: &Report, strict: bool) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, report, strict);
    out
}

fn write(out: &mut String, r: &Report, strict: bool) -> fmt::Result {
    writeln!(out)?;
    writeln!(
        out,
        "{} · {} · {} devices · {} nodes · seed {}",
        r.scenario,
        r.region,
        thousands(r.devices),
        r.nodes,
        r.seed
    )?;
    writeln!(out)?;
    reached(out, r)?;
    if let Some(m) = &r.motion {
        motion(out, m)?;
    }
    events(out, r)?;
    speed(out, r)?;
    for (name, p) in &r.platforms {
        platform(out, *name, p)?;
    }
    row(
        out,
        "",
        "each node walks bands in turn and sends neighbouring bands side by side, so their edges overlap".to_owned(),
    )?;
    writeln!(out)?;
    for check in &r.checks {
        line(out, check, strict)?;
    }
    for (kind, devices) in &r.examples {
        writeln!(out, "  {kind}: for example devices {devices:?} of seed {}", r.seed)?;
    }
    writeln!(out)?;
    machine(out, r)?;
    writeln!(out, "  {}", if r.passed { "PASSED" } else { "FAILED" })
}

/// Writes the devices reached, by the verdict and by the cluster's report.
fn reached(out: &mut String, r: &Report) -> fmt::Result {
    row(
        out,
        "in the region",
        format!(
            "{} by exact distance, {} more in its cells",
            thousands(r.counts.region_devices),
            thousands(r.counts.edge_devices)
        ),
    )?;
    row(
        out,
        "accepted",
        format!(
            "{} ({} dead tokens, {} requests for unknown tokens)",
            thousands(r.counts.accepted),
            r.counts.dead_tokens,
            r.counts.strangers
        ),
    )?;
    row(
        out,
        "the cluster reports",
        format!(
            "{}: {} accepted, {} dead, {} refused, {} unknown, {} expired",
            r.state,
            thousands(r.reported.accepted),
            r.reported.dead,
            r.reported.refused,
            r.reported.unknown,
            r.reported.expired
        ),
    )?;
    if r.counts.unanswered_requests > 0
        || r.reported.unanswered_requests > 0
        || r.reported.retried_requests > 0
    {
        row(
            out,
            "unanswered requests",
            format!(
                "{} recorded, {} reported; {} deferred by the gateway",
                r.counts.unanswered_requests,
                r.reported.unanswered_requests,
                r.reported.retried_requests
            ),
        )?;
    }
    Ok(())
}

/// Writes events during the wave: a cancellation, nodes killed and started, watchers.
fn events(out: &mut String, r: &Report) -> fmt::Result {
    if let Some(c) = r.cancel {
        row(
            out,
            "cancelled",
            format!(
                "acknowledged after {:.0} ms with {:.0} % reached; {} requests arrived \
                 afterwards, the last at {:+.0} ms",
                c.seconds * 1e3,
                c.reached_share * 1e2,
                c.requests_after,
                c.last_request_seconds * 1e3
            ),
        )?;
    }
    for change in &r.node_changes {
        row(out, "node", format!("{} after {:.1} s", change.what, change.seconds))?;
    }
    if let Some(w) = r.watchers {
        row(
            out,
            "watchers",
            format!(
                "{} ({} slow), {} messages, {} without the final state; coordinator memory grew \
                 by {:.0} MB",
                thousands(w.watchers),
                thousands(w.slow),
                thousands(w.messages),
                w.stale,
                w.coordinator_growth_bytes as f64 / 1e6
            ),
        )?;
    }
    Ok(())
}

/// Writes times, rate and cost of the whole wave.
fn speed(out: &mut String, r: &Report) -> fmt::Result {
    let s = r.seconds;
    row(
        out,
        "seconds",
        format!(
            "load {:.1}, create {:.3} │ first {:.3}, p50 {:.2}, p99 {:.2}, last {:.2} │ total \
             {:.1}",
            s.load, s.create, s.first_push, s.p50, s.p99, s.last_push, s.total
        ),
    )?;
    row(out, "rate", format!("{} pushes/s", whole(r.rate_per_second)))?;
    match &r.cluster {
        Some(cluster) => {
            row(
                out,
                "cluster",
                format!("{cluster}; CPU time and memory of its processes are not measured"),
            )?;
        }
        None => cost(out, r)?,
    }
    row(out, "bytes per push", format!("{:.0}", r.bytes_per_push))
}

/// Writes the results of one platform.
fn platform(out: &mut String, platform: Platform, p: &ByPlatform) -> fmt::Result {
    let name = platform.as_str().to_uppercase();
    row(
        out,
        &name,
        format!(
            "{} accepted from {:.3} s to {:.2} s, {} pushes/s, {:.0} bytes per request",
            thousands(p.counts.accepted),
            p.first_push_seconds,
            p.last_push_seconds,
            whole(p.rate_per_second),
            p.bytes_per_push
        ),
    )?;
    if let Some(a) = p.arithmetic {
        row(
            out,
            "  possible rate",
            format!(
                "{} requests/s: {:.1} connections (at most {}) × {:.0} in flight ÷ {:.1} ms; \
                 measured {}, {:.0} % of it",
                whole(a.rate_per_second),
                a.connections,
                a.connections_max,
                a.at_once,
                a.latency_ms,
                whole(a.requests_per_second),
                a.used * 1e2
            ),
        )?;
    }
    row(
        out,
        "  requests",
        format!(
            "{}, at most {} in any 60 s; {} throttled (429), {} failed (5xx), {} repeated",
            thousands(p.requests),
            thousands(p.minute_max),
            thousands(p.throttled),
            thousands(p.failed_requests),
            thousands(p.counts.repeated)
        ),
    )?;
    row(
        out,
        "  nearest first",
        format!(
            "{:.3} % of pairs from different bands out of order, 99 % at most {:.1} km behind, \
             rank correlation {:.4}",
            p.order.disorder * 1e2,
            p.order.behind_p99_meters / 1e3,
            p.order.rank_correlation
        ),
    )
}

/// Writes warnings that rates and times are unreliable on this machine.
fn machine(out: &mut String, r: &Report) -> fmt::Result {
    if !r.machine.optimised {
        writeln!(out, "  warning: debug build; rates and times are meaningless")?;
    }
    if r.machine.load_average > r.machine.cores as f64 * 2.0 {
        writeln!(
            out,
            "  warning: the machine is busy (load {:.1} on {} cores); rates and times are \
             unreliable",
            r.machine.load_average, r.machine.cores
        )?;
    }
    Ok(())
}

/// Writes the wave in motion beside the wave over devices that do not move.
fn motion(out: &mut String, m: &Motion) -> fmt::Result {
    row(
        out,
        "in motion",
        format!(
            "{} changes/s, acknowledged in {:.0} ms (p99 {:.0}); {} devices changed, {} of them \
             inside at the end",
            whole(m.changes_per_second),
            m.acknowledged_ms.p50,
            m.acknowledged_ms.p99,
            thousands(m.devices),
            thousands(m.inside)
        ),
    )?;
    let c = m.changes;
    row(
        out,
        "  changes",
        format!(
            "{} commutes, {} rides, {} leaps, {} installs, {} tokens, {} removals, {} mutes; {} \
             late, {} twice",
            c.commutes,
            c.rides,
            c.leaps,
            c.installs,
            c.tokens,
            c.removals,
            c.mutes,
            c.late,
            c.twice
        ),
    )?;
    row(
        out,
        "  lateness",
        format!(
            "p50 {:.0}, p99 {:.0}, max {:.0} ms after the due time (without motion: {:.0}, {:.0}, \
             {:.0})",
            m.lateness_ms.p50,
            m.lateness_ms.p99,
            m.lateness_ms.max,
            m.still_lateness_ms.p50,
            m.still_lateness_ms.p99,
            m.still_lateness_ms.max
        ),
    )?;
    row(
        out,
        "  freshness",
        format!(
            "{} entered behind the frontier and stayed: alerted p50 {:.0}, p99 {:.0}, max {:.0} \
             ms after the acknowledgement",
            thousands(m.entered),
            m.freshness_ms.p50,
            m.freshness_ms.p99,
            m.freshness_ms.max
        ),
    )?;
    row(
        out,
        "  CPU of shard nodes",
        format!(
            "{:.2} µs per push without motion, {:.2} in motion ({:.0} %), {:.2} µs per change, \
             {:.1} ms/s idle",
            m.cpu.still_per_push,
            m.cpu.moving_per_push,
            m.cpu.moving_share * 1e2,
            m.cpu.per_change,
            m.cpu.idle_per_second / 1e3
        ),
    )
}

/// Writes CPU time and memory of the processes that the run started.
fn cost(out: &mut String, r: &Report) -> fmt::Result {
    let cpu = r.cpu_us_per_push;
    row(
        out,
        "CPU per push",
        format!(
            "shard {}, coordinator {}, emulator {}",
            us(cpu.shard),
            us(cpu.coordinator),
            us(cpu.emulator)
        ),
    )?;
    let mebibytes = |bytes: Option<u64>| bytes.unwrap_or_default() >> 20;
    row(
        out,
        "memory",
        format!(
            "shards {} MiB ({:.0} bytes per device), coordinator {} MiB",
            mebibytes(r.rss_bytes.shard),
            r.bytes_per_device,
            mebibytes(r.rss_bytes.coordinator)
        ),
    )
}

fn us(value: f64) -> String {
    if value.is_nan() { "not measured".to_owned() } else { format!("{value:.2} µs") }
}

fn row(out: &mut String, label: &str, text: impl fmt::Display) -> fmt::Result {
    writeln!(out, "  {label:<22} {text}")
}

fn line(out: &mut String, check: &Check, strict: bool) -> fmt::Result {
    let mark = match (check.held, check.kind) {
        (true, _) => "ok  ",
        (false, Kind::Target) if !strict => "miss",
        (false, _) => "FAIL",
    };
    let what = match check.kind {
        Kind::Exact => "",
        Kind::Target => " (target)",
    };
    writeln!(
        out,
        "  {mark} {:<24} {:>14}   expected {}{what}",
        check.name, check.measured, check.expected
    )
}
