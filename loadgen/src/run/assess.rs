//! From what was seen and recorded to a report: the judgement of every device, and the figures.

use clarion_proto::wire::v1 as wire;

use super::{RunError, wave::Observed};
use crate::{
    cluster::{
        accounting::cpu_used,
        emulator::{self, Recorded},
        process::Role,
    },
    gateway::clock,
    picture::{
        figures::{self, Figures, Mark},
        tiles,
    },
    population::Population,
    report::{ByRole, Cancel, Machine, Moved, Report, Reported, Rss, Seconds, quantile},
    scenario::{FaultSpec, Scenario},
    verdict::{self, Case, Judgement, geometry::Region, order},
};

/// Judges a run.
///
/// # Errors
/// The gateway's record cannot be read, or is not whole.
#[allow(clippy::cast_precision_loss)] // counts, bytes and nanoseconds far below 2^53
pub fn assess(scenario: &Scenario, population: &Population, seen: Observed) -> Result<(Report, Figures), RunError> {
    let begun = clock::monotonic();
    let Recorded { ledger, bytes_received } = emulator::read_record(&seen.record)?;
    let region = Region::new(&scenario.alert.region);
    let edges = band_edges(&seen.ended.progress);
    let settle_ns = scenario.motion.map_or(0, |m| m.settle_ms) * 1_000_000;
    let resolution = tiles::resolution(&scenario.alert.region);
    let mut judged = verdict::judge(&Case {
        population,
        region: &region,
        last_seen: scenario.last_seen(),
        ledger: &ledger,
        moves: &seen.moves,
        settled_ns: seen.ended.seen_ns.saturating_sub(settle_ns),
        end_ns: seen.ended.seen_ns,
        resolution,
    });
    let order = order::measure(&mut judged.samples, &edges);
    let reported = reported(&seen.ended.progress, &judged);
    let ack = seen.submitted.acknowledged_ns;
    let cancel = seen.ended.cancelled.map(|cancelled| {
        let grace_ns = scenario.cancel.map_or(0, |c| c.grace_ms) * 1_000_000;
        let after = |ns: u64| ledger.pushes().iter().filter(|p| p.at_ns > ns).count() as u64;
        let last = ledger.pushes().iter().map(|p| p.at_ns).max().unwrap_or(0);
        Cancel {
            seconds: cancelled.took.as_secs_f64(),
            requests_after: after(cancelled.acknowledged_ns),
            late_after_cancel: after(cancelled.acknowledged_ns + grace_ns),
            last_request_seconds: figures::seconds(cancelled.acknowledged_ns, last),
            reached_share: judged.accepted as f64 / (judged.region_devices.max(1)) as f64,
        }
    });
    // In the order of time since `order::measure`.
    let samples = &judged.samples;
    let case = figures::Case {
        region: &scenario.alert.region,
        resolution,
        spots: &judged.spots,
        edges: &edges,
        acknowledged_ns: ack,
    };
    let mut figures = Figures::gather(samples, &case);
    figures.marks = marks(scenario, &seen);
    let after_ack = |at_ns: u64| figures::seconds(ack, at_ns);
    let at = |share: f64| quantile(samples, share).map_or(f64::NAN, |s| after_ack(s.at_ns));
    let (first, last) = (samples.first().map_or(f64::NAN, |s| after_ack(s.at_ns)), at(1.0));
    let per_push = |role| cpu_used(role, &seen.cpu.0, &seen.cpu.1) as f64 / judged.accepted.max(1) as f64;
    let report = Report {
        scenario: scenario.name.clone(),
        seed: scenario.seed,
        devices: scenario.devices,
        nodes: scenario.nodes,
        region: scenario.alert.region.to_string(),
        passed: false,
        state: seen.ended.progress.state().as_str_name().trim_start_matches("STATE_").to_owned(),
        region_devices: judged.region_devices,
        edge_devices: judged.edge_devices,
        accepted: judged.accepted,
        missed: judged.missed,
        outside: judged.outside,
        duplicates: judged.duplicates,
        repeated: judged.repeated,
        unknown: judged.unknown,
        dead_tokens: judged.dead_tokens,
        strangers: judged.strangers,
        unanswered_requests: judged.unanswered_requests,
        preview_devices: seen.preview_devices,
        reported,
        moved: scenario.motion.map(|_| Moved {
            devices: judged.movers,
            inside: judged.movers_inside,
            moves: seen.moves.values().map(|steps| steps.len() as u64).sum(),
        }),
        cancel,
        rate_per_second: judged.accepted as f64 / (last - first).max(1e-3),
        seconds: Seconds {
            start: seen.start.as_secs_f64(),
            load: seen.load.as_secs_f64(),
            create: seen.create.as_secs_f64(),
            first_push: first,
            p50: at(0.5),
            p99: at(0.99),
            last_push: last,
            ended: after_ack(seen.ended.seen_ns),
            verdict: clock::monotonic().since(begun).as_secs_f64(),
            total: f64::NAN,
        },
        cpu_us_per_push: ByRole {
            shard: per_push(Role::Shard),
            coordinator: per_push(Role::Coordinator),
            emulator: per_push(Role::Gateway),
        },
        bytes_per_push: bytes_received as f64 / ledger.pushes().len().max(1) as f64,
        rss_bytes: Rss { shard: seen.rss.0, coordinator: seen.rss.1, peaks: seen.peaks },
        bytes_per_device: seen.load_growth_bytes as f64 / scenario.devices as f64,
        shard_growth_bytes: seen.shard_growth_bytes,
        order,
        checks: Vec::new(),
        examples: std::mem::take(&mut judged.examples),
        machine: Machine::here(),
    };
    Ok((report, figures))
}

/// What happened during the wave, for its pictures.
fn marks(scenario: &Scenario, seen: &Observed) -> Vec<Mark> {
    let after_ack = |at_ns: u64| figures::seconds(seen.submitted.acknowledged_ns, at_ns);
    let fault = scenario.gateway.fault.zip(seen.fault_ns).map(|(fault, at_ns)| {
        let (label, for_ms) = match fault {
            FaultSpec::Slow { factor, for_ms, .. } => (format!("gateway {factor} times slower"), for_ms),
            FaultSpec::Silent { for_ms, .. } => ("gateway silent".to_owned(), for_ms),
        };
        Mark { from: after_ack(at_ns), until: after_ack(at_ns + for_ms * 1_000_000), label }
    });
    let cancel = seen.ended.cancelled.map(|cancelled| {
        let at = after_ack(cancelled.acknowledged_ns);
        Mark { from: at, until: at, label: "called off".to_owned() }
    });
    fault.into_iter().chain(cancel).collect()
}

fn reported(progress: &wire::AlertProgress, judged: &Judgement) -> Reported {
    let totals = progress.progress.unwrap_or_default();
    let outcomes = totals.outcomes.unwrap_or_default();
    Reported {
        handed: totals.handed,
        accepted: outcomes.accepted,
        dead: outcomes.dead,
        refused: outcomes.refused,
        unknown: outcomes.unknown,
        expired: outcomes.expired,
        unanswered_requests: totals.unanswered_requests,
        retried_requests: totals.retried_requests,
        disagreement: outcomes.accepted.abs_diff(judged.accepted) + outcomes.dead.abs_diff(judged.dead_tokens),
    }
}

/// The bands that the cluster used, by their outer limits; its defaults if it tells of none.
fn band_edges(progress: &wire::AlertProgress) -> Vec<f64> {
    let mut edges: Vec<f64> = progress.bands.iter().map(|b| b.to_meters).filter(|m| m.is_finite()).collect();
    edges.sort_by(f64::total_cmp);
    edges.dedup();
    if edges.is_empty() { order::default_edges(10_000_000.0) } else { edges }
}
