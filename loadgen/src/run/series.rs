//! A series of fault cases on one cluster, each judged alert by alert while it runs.
//!
//! Memory is bounded however long the series runs. The gateways' records are taken piece by piece.
//! An alert is judged when it has ended and all records until then were taken; then only its counts
//! are kept. Memory holds, for each alert in progress, 24 bytes per request, and in the emulators
//! records younger than [`SETTLED`], 32 bytes per request.

use std::{fs, ops::Range, path::Path, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep_until};
use tonic::transport::Channel;

mod alerts;
mod case;

use clarion_emulator::clock;

use super::{Options, RunError, Stage, io_error, scene::Scene, surroundings};
use crate::{
    cluster::{emulator::Emulator, process::Role},
    drive::alert::{create_apps, now_ns},
    names,
    report::{
        Machine,
        series::{CaseReport, SeriesReport, headings},
    },
    scenario::{CaseSpec, Scenario, SeriesSpec},
    show::Show,
    verdict::{geometry::Region, ledger::Fate, recorded, roll::Roll},
};
use alerts::Alerts;
use case::Case;

/// Interval between two exports of the records.
const TAKE_EVERY: Duration = Duration::from_secs(1);
/// Longest undisturbed interval at the beginning, which shows the steady state.
const STEADY_MAX: Duration = Duration::from_secs(30);
/// Age below which entries stay with the emulator, because their answers may still be on the way.
/// It exceeds the longest request deadline that a scenario may set, after which the sender has
/// abandoned the request.
const SETTLED: Duration = Duration::from_secs(12);

/// Runs a series and returns its report.
///
/// # Errors
/// If it could not be carried out. A series that failed its expectations has a report.
pub async fn run(
    scenario: &Scenario,
    series: &SeriesSpec,
    options: &Options,
    show: &Show,
) -> Result<SeriesReport, RunError> {
    let Stage { begun, mut signals, dir, population, plan } =
        Stage::prepare(scenario, options, show)?;
    let mut cluster = tokio::select! {
        cluster = surroundings(&plan, options.elsewhere.as_ref()) => cluster?,
        signal = signals.recv() => return Err(RunError::Interrupted(signal)),
    };
    let scene = Scene {
        scenario,
        population: &population,
        coordinator: cluster.coordinator.clone(),
        emulators: cluster.emulators.clone(),
        watched: cluster.watched(),
        node_orders: None,
        memory: cluster.memory.clone(),
        dir: &dir,
        show,
    };
    let played = tokio::select! {
        played = play(&scene, series, options.strict) => played,
        death = cluster.watch() => Err(death.into()),
        signal = signals.recv() => Err(RunError::Interrupted(signal)),
    };
    show.begin("stop", "all processes");
    let peaks = cluster.memory.peaks();
    let unruly = cluster.stop(Duration::from_secs(scenario.deadlines.stop_s)).await;
    let cases = played?;
    if !unruly.is_empty() {
        return Err(RunError::Stop(unruly.join(", ")));
    }
    let report = SeriesReport {
        scenario: scenario.name.clone(),
        seed: scenario.seed,
        devices: scenario.devices,
        nodes: scenario.nodes,
        command: options.command.clone(),
        passed: cases.iter().all(|case| case.passed),
        seconds: series.seconds,
        total_seconds: clock::monotonic().since(begun).as_secs_f64(),
        cases,
        peaks,
        machine: Machine::here(),
    };
    report.write(&dir).map_err(|e| io_error(names::REPORT, e))?;
    if report.passed {
        plan.remove_data().map_err(|e| io_error("the data folders", e))?;
    }
    Ok(report)
}

/// Parts that talk to the cluster.
async fn play(
    scene: &Scene<'_>,
    series: &SeriesSpec,
    strict: bool,
) -> Result<Vec<CaseReport>, RunError> {
    let channel = scene.connect().await?;
    create_apps(channel.clone(), scene.population).await?;
    scene.load(channel.clone()).await?;
    let roll = Roll::new(scene.population, &Region::new(&scene.scenario.alert.region));
    let alerts = Alerts::new(channel.clone(), scene, series);
    let mut player =
        Player { scene, series, channel, roll, alerts, steady_ns: 0..0, calm_ns: None };
    let (mut reports, count) = (Vec::new(), series.cases.len());
    for (n, spec) in series.cases.iter().enumerate() {
        scene.show.begin("case", &format!("{} of {count}, {}: {}", n + 1, spec.name, spec.label));
        let report = player.case(spec, strict).await?;
        if n == 0 {
            scene.show.begin("", &headings());
        }
        scene.show.begin("", &report.line());
        reports.push(report);
    }
    Ok(reports)
}

struct Player<'a> {
    scene: &'a Scene<'a>,
    series: &'a SeriesSpec,
    channel: Channel,
    roll: Roll,
    alerts: Alerts<'a>,
    /// Interval of the first case, which is undisturbed.
    steady_ns: Range<u64>,
    /// Interval of the undisturbed alert at the end of the last case: the state from which the next
    /// one starts.
    calm_ns: Option<Range<u64>>,
}

impl Player<'_> {
    async fn case(&mut self, spec: &CaseSpec, strict: bool) -> Result<CaseReport, RunError> {
        let scene = self.scene;
        for emulator in &scene.emulators {
            emulator.reset().await?;
        }
        let begun = Instant::now();
        let seconds = Duration::from_secs_f64(self.series.seconds);
        let until = begun + if spec.is_undisturbed() { seconds.min(STEADY_MAX) } else { seconds };
        let mut case = Case::new(now_ns(), until - begun);
        tokio::try_join!(
            self.flow(until, spec, &mut case),
            trouble(&scene.emulators, spec, until)
        )?;
        case.calm = until.elapsed();

        // Undisturbed, because all faults are removed.
        let (proving, proving_ns) = (Instant::now(), now_ns());
        case.proof = Some(self.alerts.begin().await?);
        self.flow(proving, spec, &mut case).await?;
        case.proving = proving.elapsed();

        for emulator in &scene.emulators {
            let counted = emulator.counted().await?;
            case.connections_opened += counted.connections_opened;
            case.connections_closed += counted.connections_closed;
            case.handshakes_failed += counted.handshakes_failed;
            case.protocol_errors += counted.protocol_errors;
            let path = self.scene.dir.join(names::record(emulator.platform, ""));
            emulator.export(&path).await?;
            self.read(&path, spec.applies_to(emulator.platform), &mut case)?;
        }
        self.judge(u64::MAX, &mut case);
        if self.steady_ns.is_empty() {
            self.steady_ns = case.begun_ns..now_ns();
        }
        let growth = |steady| self.scene.memory.growth(Role::Shard, steady, case.begun_ns);
        case.shard_growth_bytes = growth(self.calm_ns.as_ref().unwrap_or(&self.steady_ns));
        case.shard_grown_bytes = growth(&self.steady_ns);
        self.calm_ns = Some(proving_ns..now_ns());
        if case.lost > 0 {
            self.scene.load(self.channel.clone()).await?;
            self.roll.registered_anew();
        }
        Ok(case.report(spec, self.series, strict))
    }

    /// Submits one alert after the other until a time. Returns when the last one has ended.
    async fn flow(
        &mut self,
        until: Instant,
        spec: &CaseSpec,
        case: &mut Case,
    ) -> Result<(), RunError> {
        let mut ticks = interval(TAKE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let goes_on = Instant::now() < until;
            if goes_on && self.alerts.has_room() {
                self.alerts.begin().await?;
                continue;
            }
            if !goes_on && self.alerts.are_over() {
                return Ok(());
            }
            tokio::select! {
                () = self.alerts.changed() => {}
                _ = ticks.tick() => self.take(spec, case).await?,
                () = sleep_until(until), if goes_on => {}
            }
            self.alerts.collect()?;
        }
    }

    /// Takes the settled part of the records, and judges the alerts with complete records.
    async fn take(&mut self, spec: &CaseSpec, case: &mut Case) -> Result<(), RunError> {
        let before_us = (clock::monotonic().0)
            .saturating_sub(u64::try_from(SETTLED.as_micros()).unwrap_or(u64::MAX));
        let mut until_us = before_us;
        for emulator in &self.scene.emulators {
            let path =
                self.scene.dir.join(format!("{}-part.bin", names::emulator(emulator.platform)));
            until_us = until_us.min(emulator.take(&path, before_us).await?);
            self.read(&path, spec.applies_to(emulator.platform), case)?;
        }
        self.judge(until_us * 1_000, case);
        Ok(())
    }

    /// Assigns every request of a file to its alert, and removes the file.
    fn read(&mut self, path: &Path, disturbed: bool, case: &mut Case) -> Result<(), RunError> {
        let record = recorded::load(path)?;
        fs::remove_file(path).map_err(|e| io_error(&path.display().to_string(), e))?;
        for entry in &record.entries {
            let push = recorded::push(entry);
            if push.fate == Fate::Dead {
                self.roll.called_dead(push.token_hash);
            }
            case.count(&push, disturbed);
            match self.alerts.take(entry.collapse_hash, push) {
                true => {}
                false if self.alerts.is_late(entry.collapse_hash) => case.late += 1,
                false => case.judged.strangers += 1,
            }
        }
        Ok(())
    }

    /// Judges the alerts that ended before a time, and removes them.
    fn judge(&mut self, before_ns: u64, case: &mut Case) {
        let mut proof = Vec::new();
        for alert in self.alerts.ended_before(before_ns) {
            if case.proof == Some(alert.hash) {
                proof.clone_from(&alert.pushes);
            }
            let judged = self.roll.judge(alert.pushes);
            let unanswered = alert.ended.progress.progress.unwrap_or_default().unanswered_requests;
            self.alerts.judged(alert.hash, unanswered.saturating_sub(judged.unanswered));
            case.alert(alert.hash, &alert.ended, judged);
        }
        // The last alert of its case, after those during which tokens were called dead.
        self.roll.reached(&proof);
    }
}

/// Sets the fault of a case until a time, and then removes it.
async fn trouble(emulators: &[Emulator], spec: &CaseSpec, until: Instant) -> Result<(), RunError> {
    let disturbed: Vec<_> =
        emulators.iter().filter(|emulator| spec.applies_to(emulator.platform)).collect();
    if let Some(faults) = &spec.faults {
        for emulator in &disturbed {
            emulator.disturb(faults).await?;
        }
    }
    if let Some(mixture) = &spec.mixture {
        let mut steps = interval_at(Instant::now(), Duration::from_millis(mixture.every_ms));
        for step in 0.. {
            tokio::select! {
                _ = steps.tick() => {}
                () = sleep_until(until) => break,
            }
            for emulator in &disturbed {
                emulator.disturb(&mixture.faults(emulator.platform, step)).await?;
            }
        }
    }
    sleep_until(until).await;
    for emulator in &disturbed {
        emulator.calm().await?;
    }
    Ok(())
}
