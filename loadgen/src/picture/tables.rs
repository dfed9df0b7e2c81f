//! Tables of a run: outcomes, cost, expectations, and the command that repeats it.

use std::fmt::{self, Write};

use super::{charts::name, text::Escaped};
use crate::{
    numbers::{bytes, decimal, seconds, thousands},
    report::{
        ByPlatform, Motion, Report,
        check::{Check, Kind},
        motion::Spread,
    },
};

/// Writes the outcomes that the cluster reports beside the gateways' record.
pub(super) fn outcomes(out: &mut String, r: &Report) -> fmt::Result {
    writeln!(
        out,
        "<table><thead><tr><th>Devices</th><th>Cluster reports</th><th>Gateway \
         recorded</th></tr></thead><tbody>"
    )?;
    let both = [
        ("accepted", Some(r.reported.accepted), Some(r.counts.accepted)),
        ("token dead", Some(r.reported.dead), Some(r.counts.dead_tokens)),
        ("sent, never answered", Some(r.reported.unknown), Some(r.counts.unknown)),
        ("refused permanently", Some(r.reported.refused), None),
        ("not sent before the alert ended", Some(r.reported.expired), None),
        ("handed to a lane", Some(r.reported.handed), None),
        ("missed", None, Some(r.counts.missed)),
        ("alerted outside the region", None, Some(r.counts.outside)),
        ("alerted twice", None, Some(r.counts.duplicates)),
        ("alerted again after an error", None, Some(r.counts.repeated)),
        (
            "requests without an answer",
            Some(r.reported.unanswered_requests),
            Some(r.counts.unanswered_requests),
        ),
        ("requests deferred", Some(r.reported.retried_requests), None),
        ("requests for unknown tokens", None, Some(r.counts.strangers)),
    ];
    let cell = |value: Option<u64>| {
        value.map_or_else(|| r#"<span class="no">–</span>"#.to_owned(), thousands)
    };
    for (what, reported, recorded) in both {
        // Answers may arrive too late for the sender, so only outcomes of devices have to agree.
        let differ =
            reported.zip(recorded).is_some_and(|(a, b)| a != b) && !what.starts_with("requests");
        let class = if differ { r#" class="bad""# } else { "" };
        writeln!(
            out,
            "<tr{class}><th>{what}</th><td>{}</td><td>{}</td></tr>",
            cell(reported),
            cell(recorded)
        )?;
    }
    writeln!(out, "</tbody></table>")
}

/// Writes the record of each gateway.
pub(super) fn platforms(out: &mut String, r: &Report) -> fmt::Result {
    write!(out, "<h3>By gateway</h3><table><thead><tr><th>Recorded</th>")?;
    for platform in r.platforms.keys() {
        write!(out, "<th>{}</th>", name(*platform))?;
    }
    writeln!(out, "</tr></thead><tbody>")?;
    type Row = (&'static str, fn(&ByPlatform) -> String);
    let rows: [Row; 12] = [
        ("devices addressed", |p| thousands(p.counts.addressed)),
        ("accepted", |p| thousands(p.counts.accepted)),
        ("token dead", |p| thousands(p.counts.dead_tokens)),
        ("missed", |p| thousands(p.counts.missed)),
        ("alerted again after an error", |p| thousands(p.counts.repeated)),
        ("requests", |p| thousands(p.requests)),
        ("maximum requests in any 60 s", |p| thousands(p.minute_max)),
        ("throttled (429)", |p| thousands(p.throttled)),
        ("failed (5xx)", |p| thousands(p.failed_requests)),
        ("pushes per second", |p| decimal(p.rate_per_second, 0)),
        ("first to last", |p| {
            format!("{} to {}", seconds(p.first_push_seconds), seconds(p.last_push_seconds))
        }),
        ("bytes per request", |p| format!("{} B", decimal(p.bytes_per_push, 0))),
    ];
    for (what, value) in rows {
        write!(out, "<tr><th>{what}</th>")?;
        for platform in r.platforms.values() {
            write!(out, "<td>{}</td>", value(platform))?;
        }
        writeln!(out, "</tr>")?;
    }
    writeln!(out, "</tbody></table>")
}

/// Writes CPU time, bytes and memory.
pub(super) fn cost(out: &mut String, r: &Report) -> fmt::Result {
    writeln!(out, "<table><tbody>")?;
    let row = |out: &mut String, what: &str, value: &str| {
        writeln!(out, "<tr><th>{}</th><td>{value}</td></tr>", Escaped(what))
    };
    let cpu = r.cpu_us_per_push;
    for (role, value) in [
        ("shard nodes", cpu.shard),
        ("coordinator", cpu.coordinator),
        ("gateway emulators", cpu.emulator),
    ] {
        row(out, &format!("CPU per push, {role}"), &format!("{} µs", decimal(value, 2)))?;
    }
    row(out, "bytes per push on the wire", &format!("{} B", decimal(r.bytes_per_push, 0)))?;
    row(out, "memory per device, all nodes", &format!("{} B", decimal(r.bytes_per_device, 0)))?;
    row(
        out,
        "memory after the wave, shard nodes",
        &r.rss_bytes.shard.map_or_else(|| "–".to_owned(), bytes),
    )?;
    if let Some(growth) = r.shard_growth_bytes {
        row(out, "memory growth during the fault, worst node", &bytes(growth))?;
    }
    for (process, peak) in &r.rss_bytes.peaks {
        row(out, &format!("peak memory, {process}"), &bytes(*peak))?;
    }
    row(out, "loading all devices", &seconds(r.seconds.load))?;
    row(out, "whole run", &seconds(r.seconds.total))?;
    writeln!(out, "</tbody></table>")
}

/// Writes the wave in motion beside the wave over devices that do not move.
pub(super) fn motion(out: &mut String, m: &Motion) -> fmt::Result {
    writeln!(out, "<table><tbody>")?;
    let spread = |s: Spread| {
        format!("{} · {} · {} ms", decimal(s.p50, 0), decimal(s.p99, 0), decimal(s.max, 0))
    };
    for (what, value) in [
        ("changes per second", decimal(m.changes_per_second, 0)),
        ("devices that changed during the wave", thousands(m.devices)),
        ("of those, inside at the end", thousands(m.inside)),
        ("entered behind the frontier, stayed, alerted", thousands(m.entered)),
        ("batch sent to acknowledged: p50 · p99 · max", spread(m.acknowledged_ms)),
        ("acknowledged to alerted, of these: p50 · p99 · max", spread(m.freshness_ms)),
        ("push after its due time: p50 · p99 · max", spread(m.lateness_ms)),
        ("the same without motion", spread(m.still_lateness_ms)),
        (
            "CPU per push, shard nodes, without motion",
            format!("{} µs", decimal(m.cpu.still_per_push, 2)),
        ),
        (
            "CPU per push, in motion, without the changes",
            format!("{} µs", decimal(m.cpu.moving_per_push, 2)),
        ),
        ("CPU per change, shard nodes", format!("{} µs", decimal(m.cpu.per_change, 2))),
    ] {
        writeln!(out, "<tr><th>{}</th><td>{value}</td></tr>", Escaped(what))?;
    }
    writeln!(out, "</tbody></table>")
}

/// Writes every expectation with its measured value.
pub(super) fn checks(out: &mut String, checks: &[Check], strict: bool) -> fmt::Result {
    writeln!(
        out,
        "<table \
         class=\"checks\"><thead><tr><th>Expected</th><th>Bound</th><th>Measured</th><th></th></tr></thead><tbody>"
    )?;
    let (exact, targets): (Vec<_>, Vec<_>) = checks.iter().partition(|c| c.kind == Kind::Exact);
    exact.into_iter().try_for_each(|check| line(out, check, strict))?;
    if !targets.is_empty() {
        writeln!(out, r#"<tr class="group"><th colspan="4">Targets</th></tr>"#)?;
    }
    targets.into_iter().try_for_each(|check| line(out, check, strict))?;
    writeln!(out, "</tbody></table>")
}

fn line(out: &mut String, check: &Check, strict: bool) -> fmt::Result {
    let (class, mark) = match (check.held, check.kind) {
        (true, _) => ("good", "held"),
        (false, Kind::Target) if !strict => ("near", "missed"),
        (false, _) => ("bad", "failed"),
    };
    writeln!(
        out,
        r#"<tr class="{class}"><th>{} <small>{}</small></th><td>{}</td><td>{}</td><td><span class="mark">{mark}</span></td></tr>"#,
        Escaped(meaning(check.name)),
        Escaped(check.name),
        Escaped(&check.expected),
        Escaped(&check.measured),
    )
}

/// Returns the name of a check in plain words, or the name itself if there are none yet.
fn meaning(name: &str) -> &str {
    match name {
        "missed" => "inside, with a live token, never alerted",
        "outside" => "alerted more than 500 m outside",
        "stale_tokens" => "alerted on a replaced token",
        "unwanted" => "alerted while removed or muted",
        "still_faults" => "faults of the alert without motion",
        "entered" => "entered behind the frontier and alerted",
        "lateness_p99_ms" => "ms after the due time, 99th percentile",
        "freshness_p99_ms" => "ms from a change to its push, 99th percentile",
        "moving_cpu_share" => "CPU per push in motion, relative to without",
        "duplicates" => "alerted twice without a reason",
        "repeated" => "alerted again after an error",
        "unknown" => "sent, never answered",
        "accepted_excess" => "accepted beyond the addressed live devices",
        "preview_excess" => "counted by the preview beyond the addressed",
        "disagreement" => "difference between report and record",
        "unanswered_requests" => "requests without an answer",
        "unanswered_uncounted" => "unanswered, not counted by the cluster",
        "late_after_cancel" => "requests after the cancellation's grace period",
        "reached_share" => "share reached at the cancellation",
        "quota_window_max" => "maximum FCM requests in any 60 s",
        "throttled" => "requests answered with 429",
        "failed_requests" => "requests answered with 5xx",
        "apns_share_of_fcm_time" => "APNs duration as a share of FCM's",
        "shard_growth_bytes" => "memory growth of a node during the fault, bytes",
        "strangers" => "requests for unknown tokens",
        "state" => "final state of the alert",
        "rate_per_second" => "pushes per second, first to last",
        "first_push_seconds" => "seconds until the first push",
        "shard_cpu_us_per_push" => "µs of CPU per push, shard nodes",
        "bytes_per_device" => "bytes of memory per device",
        "total_seconds" => "seconds of the whole run",
        "disorder" => "share of pairs out of order, worst platform",
        "fcm_disorder" => "share of pairs out of order, FCM",
        other => other,
    }
}

/// Writes the command that repeats the run, and the machine of this run.
pub(super) fn repeat(out: &mut String, r: &Report, command: &str) -> fmt::Result {
    let m = &r.machine;
    let built = if m.optimised {
        "optimised build"
    } else {
        "debug build: rates and times are meaningless"
    };
    writeln!(
        out,
        r#"<p>Everything random is drawn from the seed: the same command addresses the same phones again.</p><pre><code>{}</code></pre><p class="machine">{} · {} cores · {} of memory · load {} at the end · {built}</p>"#,
        Escaped(command),
        Escaped(&m.processor),
        m.cores,
        bytes(m.memory_bytes),
        decimal(m.load_average, 1),
    )
}
