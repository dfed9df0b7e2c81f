//! The summary of a report for people: pushes, rates, cost, and every expectation beside its
//! measurement.

use std::fmt::{self, Write as _};

use clarion_emulator::Platform;

use super::{
    ByPlatform, Motion, Report,
    check::{Check, Kind},
};
use crate::numbers::{thousands, whole};

/// The whole summary as text.
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
    told(out, r)?;
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
        "bands are walked in turn by each node, written side by side: their seams blur".to_owned(),
    )?;
    writeln!(out)?;
    for check in &r.checks {
        line(out, check, strict)?;
    }
    for (kind, devices) in &r.examples {
        writeln!(out, "  {kind}: look at devices {devices:?} of seed {}", r.seed)?;
    }
    writeln!(out)?;
    machine(out, r)?;
    writeln!(out, "  {}", if r.passed { "PASSED" } else { "FAILED" })
}

/// Who was told, by the judgement and by the cluster's words.
fn told(out: &mut String, r: &Report) -> fmt::Result {
    row(
        out,
        "in the region",
        format!(
            "{} exactly, {} more in its cells",
            thousands(r.counts.region_devices),
            thousands(r.counts.edge_devices)
        ),
    )?;
    row(
        out,
        "accepted",
        format!(
            "{} ({} dead tokens, {} strangers)",
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
            "requests without answer",
            format!(
                "{} recorded, {} reported, {} put off by the gateway",
                r.counts.unanswered_requests,
                r.reported.unanswered_requests,
                r.reported.retried_requests
            ),
        )?;
    }
    Ok(())
}

/// What happened meanwhile: a cancellation, nodes that came and went, watchers.
fn events(out: &mut String, r: &Report) -> fmt::Result {
    if let Some(c) = r.cancel {
        row(
            out,
            "cancelled",
            format!(
                "acknowledged after {:.0} ms with {:.0} % reached; {} requests arrived afterwards, the last at {:+.0} ms",
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
                "{} ({} slow), {} messages, {} without the last state; the coordinator grew by {:.0} MB",
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

/// Times, rate and cost of the whole wave.
fn speed(out: &mut String, r: &Report) -> fmt::Result {
    let s = r.seconds;
    row(
        out,
        "seconds",
        format!(
            "load {:.1}, create {:.3} │ first {:.3}, p50 {:.2}, p99 {:.2}, last {:.2} │ all {:.1}",
            s.load, s.create, s.first_push, s.p50, s.p99, s.last_push, s.total
        ),
    )?;
    row(out, "rate", format!("{} a second", whole(r.rate_per_second)))?;
    match &r.cluster {
        Some(cluster) => {
            row(out, "cluster", format!("{cluster}; what its processes cost is not known here"))?;
        }
        None => cost(out, r)?,
    }
    row(out, "bytes per push", format!("{:.0}", r.bytes_per_push))
}

/// One platform by itself.
fn platform(out: &mut String, platform: Platform, p: &ByPlatform) -> fmt::Result {
    let name = platform.as_str().to_uppercase();
    row(
        out,
        &name,
        format!(
            "{} accepted from {:.3} s to {:.2} s, {} a second, {:.0} bytes a request",
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
            "  by arithmetic",
            format!(
                "{} a second: {:.1} connections (at most {}) × {:.0} at once ÷ {:.1} ms; {} measured, {:.0} % of it",
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
            "{}, of which {} in the fullest 60 s; {} put off (429), {} failed (5xx), {} repeated",
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
            "{:.3} % of pairs of bands in the wrong order, 99 % at most {:.1} km behind, rank correlation {:.4}",
            p.order.disorder * 1e2,
            p.order.behind_p99_meters / 1e3,
            p.order.rank_correlation
        ),
    )
}

/// Reasons why rates and times mean little on this machine.
fn machine(out: &mut String, r: &Report) -> fmt::Result {
    if !r.machine.optimised {
        writeln!(out, "  built without optimisation: rates and times say nothing")?;
    }
    if r.machine.load_average > r.machine.cores as f64 * 2.0 {
        writeln!(
            out,
            "  the machine is busy (load {:.1} on {} cores): rates and times say little",
            r.machine.load_average, r.machine.cores
        )?;
    }
    Ok(())
}

/// The wave in motion beside the one over still devices.
fn motion(out: &mut String, m: &Motion) -> fmt::Result {
    row(
        out,
        "in motion",
        format!(
            "{} changes a second, acknowledged in {:.0} ms (p99 {:.0}); {} devices changed, {} of them inside at the end",
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
            "{} commutes, {} rides, {} leaps, {} installs, {} tokens, {} removals, {} mutes; {} late, {} twice",
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
            "p50 {:.0}, p99 {:.0}, at most {:.0} ms after its place in the pace (still devices: {:.0}, {:.0}, {:.0})",
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
            "{} came in behind the frontier and stayed: told p50 {:.0}, p99 {:.0}, at most {:.0} ms after the acknowledgement",
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
            "{:.2} µs a push still, {:.2} in motion ({:.0} %), {:.2} µs a change, {:.1} ms a second idle",
            m.cpu.still_per_push,
            m.cpu.moving_per_push,
            m.cpu.moving_share * 1e2,
            m.cpu.per_change,
            m.cpu.idle_per_second / 1e3
        ),
    )
}

/// What the run's own processes cost.
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
            "shards {} MiB ({:.0} bytes a device), coordinator {} MiB",
            mebibytes(r.rss_bytes.shard),
            r.bytes_per_device,
            mebibytes(r.rss_bytes.coordinator)
        ),
    )
}

fn us(value: f64) -> String {
    if value.is_nan() { "not known".to_owned() } else { format!("{value:.2} µs") }
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
