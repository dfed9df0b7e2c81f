//! Builds the report from observations and records: the verdict of every device, and the figures.

use std::collections::BTreeMap;

use clarion_emulator::{Platform, clock};
use clarion_proto::{time::Time, wire::v1 as wire};

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
/// If a gateway's record cannot be read or is incomplete.
pub fn assess(
    scenario: &Scenario,
    population: &Population,
    seen: &Observed,
    moving: Option<&Moving>,
) -> Result<(Report, Figures), RecordError> {
    let begun = clock::monotonic();
    let mut recorded = read(seen)?;
    let still = moving.map(|moving| read(&moving.still)).transpose()?;
    for (platform, requests) in still.iter().flat_map(|still| &still.gateways) {
        // Connections that last through both alerts count their bytes from the time they were
        // opened.
        let all = recorded.gateways.entry(*platform).or_default();
        all.bytes_received = all.bytes_received.saturating_sub(requests.bytes_received);
    }
    let nothing = History::default();
    let history = moving.map_or(&nothing, |m| &m.carried.history);
    let mut judged = judge(scenario, population, seen, &recorded.ledger, history);
    order::sort(&mut judged.samples);
    let motion = moving.zip(still).map(|(moving, still)| {
        let still = judge(scenario, population, &moving.still, &still.ledger, &nothing);
        let spent = [moving.idle, moving.still.spent(), moving.feed, seen.spent()];
        let rate = scenario.alert.max_rate_per_second;
        Motion::of(&moving.carried, (&still, &judged), spent, rate, is_own(seen))
    });
    let edges = band_edges(&seen.ended.progress);
    let wave = Wave { scenario, seen, recorded: &recorded, judged: &judged, edges: &edges };
    let figures = wave.figures();
    Ok((wave.report(motion, begun), figures))
}

/// A wave with its observations, record and judgement, and its samples in order of time.
struct Wave<'a> {
    scenario: &'a Scenario,
    seen: &'a Observed,
    recorded: &'a Recorded,
    judged: &'a Judgement,
    /// Outer limits of the bands, ascending, metres.
    edges: &'a [f64],
}

#[allow(clippy::cast_precision_loss)] // counts, bytes and nanoseconds far below 2^53
impl Wave<'_> {
    fn report(&self, motion: Option<Motion>, begun: Time) -> Report {
        let Self { scenario, seen, recorded, judged, .. } = *self;
        let own = is_own(seen);
        let seconds = self.seconds(begun);
        let nodes_reported = seen.ended.progress.progress.unwrap_or_default().nodes;
        let state = seen.ended.progress.state().as_str_name();
        let requests = recorded.ledger.pushes().len().max(1) as f64;
        let load_growth = seen.load_growth_bytes as f64;
        Report {
            scenario: scenario.name.clone(),
            seed: scenario.seed,
            devices: scenario.devices,
            cluster: None,
            nodes: if own { scenario.nodes } else { nodes_reported },
            region: scenario.alert.region.to_string(),
            passed: false,
            state: state.trim_start_matches("STATE_").to_owned(),
            counts: judged.counts,
            preview_devices: seen.preview_devices,
            reported: reported(&seen.ended.progress, judged),
            motion,
            cancel: self.cancel(),
            node_changes: self.node_changes(),
            watchers: seen.watchers.map(|watched| Watchers {
                watchers: watched.watchers,
                slow: watched.slow,
                messages: watched.messages,
                stale: watched.stale,
                coordinator_growth_bytes: seen.coordinator_growth_bytes,
            }),
            rate_per_second: rate(judged.counts.accepted, seconds.first_push, seconds.last_push),
            seconds,
            cpu_us_per_push: ByRole {
                shard: self.cpu_per_push(Role::Shard),
                coordinator: self.cpu_per_push(Role::Coordinator),
                emulator: self.cpu_per_push(Role::Gateway),
            },
            bytes_per_push: recorded.bytes_received() as f64 / requests,
            rss_bytes: Rss {
                shard: own.then_some(seen.rss.0),
                coordinator: own.then_some(seen.rss.1),
                peaks: seen.peaks.clone(),
            },
            bytes_per_device: if own { load_growth / scenario.devices as f64 } else { f64::NAN },
            shard_growth_bytes: seen.shard_growth_bytes,
            platforms: self.platforms(),
            checks: Vec::new(),
            examples: judged.examples.clone(),
            machine: Machine::here(),
        }
    }

    /// Returns the data of the drawings.
    fn figures(&self) -> Figures {
        let case = Drawn {
            region: &self.scenario.alert.region,
            resolution: tiles::resolution(&self.scenario.alert.region),
            spots: &self.judged.spots,
            edges: self.edges,
            acknowledged_ns: self.seen.submitted.acknowledged_ns,
        };
        let mut figures = Figures::gather(&self.judged.samples, &case);
        figures.marks = self.marks();
        figures
    }

    /// Returns seconds from the acknowledgement of the alert.
    fn after_ack(&self, at_ns: u64) -> f64 {
        figures::seconds(self.seen.submitted.acknowledged_ns, at_ns)
    }

    fn seconds(&self, begun: Time) -> Seconds {
        let (seen, samples) = (self.seen, &self.judged.samples);
        let after_ack = |s: Sample| self.after_ack(s.at_ns);
        let at = |share: f64| quantile(samples, share).map_or(f64::NAN, after_ack);
        Seconds {
            start: seen.start.as_secs_f64(),
            load: seen.load.as_secs_f64(),
            create: seen.create.as_secs_f64(),
            first_push: samples.first().copied().map_or(f64::NAN, after_ack),
            p50: at(0.5),
            p99: at(0.99),
            last_push: at(1.0),
            ended: self.after_ack(seen.ended.seen_ns),
            verdict: clock::monotonic().since(begun).as_secs_f64(),
            total: f64::NAN,
        }
    }

    fn cancel(&self) -> Option<Cancel> {
        let cancelled = self.seen.ended.cancelled?;
        let counts = self.judged.counts;
        let pushes = self.recorded.ledger.pushes();
        let grace_ns = self.scenario.cancel.map_or(0, |c| c.grace_ms) * 1_000_000;
        let after = |ns: u64| pushes.iter().filter(|p| p.at_ns > ns).count() as u64;
        let last = pushes.iter().map(|p| p.at_ns).max().unwrap_or(0);
        Some(Cancel {
            seconds: cancelled.took.as_secs_f64(),
            requests_after: after(cancelled.acknowledged_ns),
            late_after_cancel: after(cancelled.acknowledged_ns + grace_ns),
            last_request_seconds: figures::seconds(cancelled.acknowledged_ns, last),
            reached_share: counts.accepted as f64 / counts.region_devices.max(1) as f64,
        })
    }

    fn node_changes(&self) -> Vec<NodeChanged> {
        let changes = self.seen.node_changes.iter();
        let changed = changes.map(|(at_ns, change)| NodeChanged {
            seconds: self.after_ack(*at_ns),
            what: change.to_string(),
        });
        changed.collect()
    }

    /// Returns the CPU time of a role's processes per accepted push, microseconds; NaN if it is
    /// unknown.
    fn cpu_per_push(&self, role: Role) -> f64 {
        // The CPU time of a killed process is unknown.
        let known = role != Role::Shard || self.seen.node_changes.is_empty();
        if !known || !is_own(self.seen) {
            return f64::NAN;
        }
        let (before, after) = &self.seen.cpu;
        cpu_used(role, before, after) as f64 / self.judged.counts.accepted.max(1) as f64
    }

    /// Returns the results of each platform.
    fn platforms(&self) -> BTreeMap<Platform, ByPlatform> {
        let gateways = self.recorded.gateways.iter();
        gateways
            .map(|(platform, requests)| (*platform, self.platform(*platform, requests)))
            .collect()
    }

    fn platform(&self, platform: Platform, requests: &Requests) -> ByPlatform {
        let counts = self.judged.platforms.get(&platform).copied().unwrap_or_default();
        let of_platform = |s: &&Sample| s.spot.platform() == platform;
        let samples: Vec<Sample> =
            self.judged.samples.iter().filter(of_platform).copied().collect();
        let after_ack = |s: Option<&Sample>| s.map_or(f64::NAN, |s| self.after_ack(s.at_ns));
        let (first, last) = (after_ack(samples.first()), after_ack(samples.last()));
        let line = self.scenario.gateway.distance.of(platform);
        ByPlatform {
            counts,
            requests: requests.count,
            throttled: requests.throttled,
            failed_requests: requests.failed,
            minute_max: requests.minute_max,
            bytes_per_push: requests.bytes_received as f64 / requests.count.max(1) as f64,
            rate_per_second: rate(counts.accepted, first, last),
            arithmetic: Arithmetic::of(platform, line, requests),
            first_push_seconds: first,
            last_push_seconds: last,
            order: order::measure(&samples, self.edges),
        }
    }

    /// Returns the events during the wave, for the charts.
    fn marks(&self) -> Vec<Mark> {
        let seen = self.seen;
        let fault = self.scenario.gateway.fault.as_ref().zip(seen.fault_ns);
        let fault = fault.map(|(fault, at_ns)| Mark {
            from: self.after_ack(at_ns),
            until: self.after_ack(at_ns + fault.for_ms() * 1_000_000),
            label: fault.to_string(),
        });
        let moment = |at_ns: u64, label: String| {
            let at = self.after_ack(at_ns);
            Mark { from: at, until: at, label }
        };
        let cancel =
            seen.ended.cancelled.map(|c| moment(c.acknowledged_ns, "cancelled".to_owned()));
        let changes = seen.node_changes.iter().map(|(at_ns, c)| moment(*at_ns, c.to_string()));
        fault.into_iter().chain(cancel).chain(changes).collect()
    }
}

/// Reports whether the run started the cluster; the processes of a foreign cluster are not watched.
fn is_own(seen: &Observed) -> bool {
    !seen.cpu.1.is_empty()
}

/// Returns acceptances per second between the first and the last.
#[allow(clippy::cast_precision_loss)] // a count far below 2^53
fn rate(accepted: u64, first_seconds: f64, last_seconds: f64) -> f64 {
    accepted as f64 / (last_seconds - first_seconds).max(1e-3)
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
        overshoot_m: seen.submitted.overshoot_m,
        edges: &band_edges(&seen.ended.progress),
        resolution: tiles::resolution(&scenario.alert.region),
    })
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

/// Returns the outer limits of the bands that the cluster used, or the defaults if it reports none,
/// metres. Adjacent bands with few devices are reported and judged as one.
fn band_edges(progress: &wire::AlertProgress) -> Vec<f64> {
    let mut edges: Vec<f64> =
        progress.bands.iter().map(|b| b.to_meters).filter(|m| m.is_finite()).collect();
    edges.sort_by(f64::total_cmp);
    edges.dedup();
    if edges.is_empty() { order::default_edges(10_000_000.0) } else { edges }
}
