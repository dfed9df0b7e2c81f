//! From what was seen and recorded to a report: the judgement of every device, and the figures.

use std::collections::BTreeMap;

use clarion_emulator::{Platform, clock};
use clarion_proto::wire::v1 as wire;

use super::{motion::Moving, wave::Observed};
use crate::{
    cluster::{accounting::cpu_used, process::Role},
    picture::{
        case::Case as Drawn,
        figures::{self, Figures, Mark},
        tiles,
    },
    population::Population,
    report::{
        Arithmetic, ByPlatform, ByRole, Cancel, Machine, Motion, NodeChanged, Report, Reported,
        Rss, Seconds, Watchers, quantile,
    },
    scenario::Scenario,
    verdict::{
        self, Case, Judgement,
        geometry::Region,
        history::History,
        ledger::Ledger,
        order,
        recorded::{RecordError, Recorded, Requests},
        sample::Sample,
    },
};

/// Judges a run.
///
/// # Errors
/// The gateway's record cannot be read, or is not whole.
#[allow(clippy::cast_precision_loss)] // counts, bytes and nanoseconds far below 2^53
pub fn assess(
    scenario: &Scenario,
    population: &Population,
    seen: Observed,
    moving: Option<Moving>,
) -> Result<(Report, Figures), RecordError> {
    let begun = clock::monotonic();
    let mut recorded = read(&seen)?;
    let still = moving.as_ref().map(|moving| read(&moving.still)).transpose()?;
    for (platform, requests) in still.iter().flat_map(|still| &still.gateways) {
        // Connections that stand through both alerts count their bytes from when they were opened.
        let all = recorded.gateways.entry(*platform).or_default();
        all.bytes_received = all.bytes_received.saturating_sub(requests.bytes_received);
    }
    let ledger = &recorded.ledger;
    let edges = band_edges(&seen.ended.progress);
    let nothing = History::default();
    let history = moving.as_ref().map_or(&nothing, |m| &m.carried.history);
    let mut judged = judge(scenario, population, &seen, ledger, history);
    let motion = moving.zip(still).map(|(moving, still)| {
        let still = judge(scenario, population, &moving.still, &still.ledger, &History::default());
        let spent = [moving.idle, moving.still.spent(), moving.feed, seen.spent()];
        let measured = !seen.cpu.1.is_empty();
        Motion::of(
            &moving.carried,
            (&still, &judged),
            spent,
            scenario.alert.max_rate_per_second,
            measured,
        )
    });
    let resolution = tiles::resolution(&scenario.alert.region);
    order::sort(&mut judged.samples);
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
            reached_share: judged.counts.accepted as f64
                / (judged.counts.region_devices.max(1)) as f64,
        }
    });
    let samples = &judged.samples;
    let case = Drawn {
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
    // Of another's cluster no process was watched.
    let own = !seen.cpu.1.is_empty();
    let measured = |value: f64| if own { value } else { f64::NAN };
    // What a process that was killed has used is not known.
    let known = |role| role != Role::Shard || seen.node_changes.is_empty();
    let per_push = |role| {
        let used =
            cpu_used(role, &seen.cpu.0, &seen.cpu.1) as f64 / judged.counts.accepted.max(1) as f64;
        if known(role) { measured(used) } else { f64::NAN }
    };
    let report = Report {
        scenario: scenario.name.clone(),
        seed: scenario.seed,
        devices: scenario.devices,
        cluster: None,
        nodes: if own {
            scenario.nodes
        } else {
            seen.ended.progress.progress.unwrap_or_default().nodes
        },
        region: scenario.alert.region.to_string(),
        passed: false,
        state: seen.ended.progress.state().as_str_name().trim_start_matches("STATE_").to_owned(),
        counts: judged.counts,
        preview_devices: seen.preview_devices,
        reported,
        motion,
        cancel,
        node_changes: seen
            .node_changes
            .iter()
            .map(|(at_ns, change)| NodeChanged {
                seconds: after_ack(*at_ns),
                what: change.to_string(),
            })
            .collect(),
        watchers: seen.watchers.map(|watched| Watchers {
            watchers: watched.watchers,
            slow: watched.slow,
            messages: watched.messages,
            stale: watched.stale,
            coordinator_growth_bytes: seen.coordinator_growth_bytes,
        }),
        rate_per_second: judged.counts.accepted as f64 / (last - first).max(1e-3),
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
        bytes_per_push: recorded.bytes_received() as f64 / ledger.pushes().len().max(1) as f64,
        rss_bytes: Rss {
            shard: own.then_some(seen.rss.0),
            coordinator: own.then_some(seen.rss.1),
            peaks: seen.peaks,
        },
        bytes_per_device: measured(seen.load_growth_bytes as f64 / scenario.devices as f64),
        shard_growth_bytes: seen.shard_growth_bytes,
        platforms: by_platform(scenario, &judged, &recorded, &edges, ack),
        checks: Vec::new(),
        examples: std::mem::take(&mut judged.examples),
        machine: Machine::here(),
    };
    Ok((report, figures))
}

fn read(seen: &Observed) -> Result<Recorded, RecordError> {
    Recorded::read(seen.records.iter().map(|(platform, path)| (*platform, path.as_path())))
}

/// Judges every device of one alert.
fn judge(
    scenario: &Scenario,
    population: &Population,
    seen: &Observed,
    ledger: &Ledger,
    history: &History,
) -> Judgement {
    verdict::judge(&Case {
        population,
        region: &Region::new(&scenario.alert.region),
        last_seen: scenario.last_seen(),
        ledger,
        history,
        begun_ns: seen.called_ns,
        end_ns: seen.ended.seen_ns,
        settle_ns: scenario.motion.map_or(0, |m| m.settle_ms) * 1_000_000,
        edges: &band_edges(&seen.ended.progress),
        resolution: tiles::resolution(&scenario.alert.region),
    })
}

/// Each platform by itself; samples are in the order of time.
#[allow(clippy::cast_precision_loss)] // counts and bytes far below 2^53
fn by_platform(
    scenario: &Scenario,
    judged: &Judgement,
    recorded: &Recorded,
    edges: &[f64],
    acknowledged_ns: u64,
) -> BTreeMap<Platform, ByPlatform> {
    let one = |(platform, requests): (&Platform, &Requests)| {
        let count = judged.platforms.get(platform).copied().unwrap_or_default();
        let samples: Vec<Sample> =
            judged.samples.iter().filter(|s| s.spot.platform() == *platform).copied().collect();
        let after_ack =
            |s: Option<&Sample>| s.map_or(f64::NAN, |s| figures::seconds(acknowledged_ns, s.at_ns));
        let (first, last) = (after_ack(samples.first()), after_ack(samples.last()));
        let figures = ByPlatform {
            counts: count,
            requests: requests.count,
            throttled: requests.throttled,
            failed_requests: requests.failed,
            minute_max: requests.minute_max,
            bytes_per_push: requests.bytes_received as f64 / requests.count.max(1) as f64,
            rate_per_second: count.accepted as f64 / (last - first).max(1e-3),
            arithmetic: Arithmetic::of(
                *platform,
                scenario.gateway.distance.of(*platform),
                requests,
            ),
            first_push_seconds: first,
            last_push_seconds: last,
            order: order::measure(&samples, edges),
        };
        (*platform, figures)
    };
    recorded.gateways.iter().map(one).collect()
}

/// What happened during the wave, for its pictures.
fn marks(scenario: &Scenario, seen: &Observed) -> Vec<Mark> {
    let after_ack = |at_ns: u64| figures::seconds(seen.submitted.acknowledged_ns, at_ns);
    let fault = scenario.gateway.fault.as_ref().zip(seen.fault_ns).map(|(fault, at_ns)| Mark {
        from: after_ack(at_ns),
        until: after_ack(at_ns + fault.for_ms() * 1_000_000),
        label: fault.to_string(),
    });
    let cancel = seen.ended.cancelled.map(|cancelled| {
        let at = after_ack(cancelled.acknowledged_ns);
        Mark { from: at, until: at, label: "called off".to_owned() }
    });
    let changes = seen.node_changes.iter().map(|(at_ns, change)| {
        let at = after_ack(*at_ns);
        Mark { from: at, until: at, label: change.to_string() }
    });
    fault.into_iter().chain(cancel).chain(changes).collect()
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
        disagreement: outcomes.accepted.abs_diff(judged.counts.accepted)
            + outcomes.dead.abs_diff(judged.counts.dead_tokens),
    }
}

/// The bands that the cluster used, by their outer limits; its defaults if it tells of none. Neighbours with few devices are
/// told as one, and judged as one.
fn band_edges(progress: &wire::AlertProgress) -> Vec<f64> {
    let mut edges: Vec<f64> =
        progress.bands.iter().map(|b| b.to_meters).filter(|m| m.is_finite()).collect();
    edges.sort_by(f64::total_cmp);
    edges.dedup();
    if edges.is_empty() { order::default_edges(10_000_000.0) } else { edges }
}
