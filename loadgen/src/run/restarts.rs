//! Runs of restarts: a cluster for each case, its steps, probes, an alert and the verdict.
//!
//! The devices are registered once in each case: every process that starts again finds what the
//! coordinator's folder holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use clarion_emulator::clock;
use clarion_proto::wire::v1::{self as wire, Progress, alert_service_client::AlertServiceClient};
use clarion_runtime::{probe, world::World};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, transport::Channel};

use super::{Options, RunError, Stage, io_error};
use crate::{
    cluster::{
        Cluster, ClusterError, ClusterPlan, Started,
        process::{ProcessError, Role},
    },
    drive::{self, DriveError, alert},
    names,
    population::Population,
    report::{
        Machine,
        restarts::{PhaseReport, RestartsReport, Verdict},
    },
    scenario::{
        Scenario,
        restarts::{Outcome, Phase, RestartCase, RestartsSpec, Step},
    },
    show::Show,
    verdict::{geometry::Region, recorded, roll::Roll},
};

/// Interval between two queries of the probes.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Time limit for the answer of one probe.
const PROBE_WITHIN: Duration = Duration::from_secs(2);
/// Time for which an alert on a cluster that does not serve is watched, because it may wait for a
/// node that never comes.
const LOUD_ALERT: Duration = Duration::from_secs(3);

/// Runs all cases and returns the report.
///
/// # Errors
/// If a case could not be carried out. Cases that were carried out and failed are in the report.
pub async fn run(
    scenario: &Scenario,
    spec: &RestartsSpec,
    options: &Options,
    show: &Show,
) -> Result<RestartsReport, RunError> {
    let Stage { begun, mut signals, dir, plan, .. } = Stage::prepare(scenario, options, show)?;
    let mut phases = Vec::new();
    for (n, case) in spec.cases.iter().enumerate() {
        show.begin(
            "case",
            &format!("{} of {}, {}: {}", n + 1, spec.cases.len(), case.name, case.label),
        );
        let nodes = case.nodes.unwrap_or(scenario.nodes);
        // Each case has a folder of its own, so that no log overwrites another.
        let dir = dir.join(&case.name);
        std::fs::create_dir_all(&dir).map_err(|e| io_error(&dir.display().to_string(), e))?;
        let plan = ClusterPlan {
            nodes,
            nodes_later: case.later.clone(),
            nodes_told: case.nodes_told,
            snapshot_every_seconds: case.snapshot_every_seconds,
            dir,
            ..plan.clone()
        };
        let player = async {
            let mut player = Player::start(scenario, spec, &plan, show).await?;
            let played = player.case(case).await;
            player.cluster.stop(Duration::from_secs(scenario.deadlines.stop_s)).await;
            played
        };
        let played = tokio::select! {
            played = player => played?,
            signal = signals.recv() => return Err(RunError::Interrupted(signal)),
        };
        if played.iter().all(|phase| phase.passed) {
            plan.remove_data().map_err(|e| io_error("the data folders", e))?;
        }
        played.iter().for_each(|phase| show.begin("", phase.lines().trim_end()));
        phases.extend(played);
    }
    let report = RestartsReport {
        scenario: scenario.name.clone(),
        seed: scenario.seed,
        devices: scenario.devices,
        command: options.command.clone(),
        passed: phases.iter().all(|phase| phase.passed),
        total_seconds: clock::monotonic().since(begun).as_secs_f64(),
        phases,
        machine: Machine::here(),
    };
    report.write(&dir).map_err(|e| io_error(names::REPORT, e))?;
    Ok(report)
}

struct Player<'a> {
    scenario: &'a Scenario,
    spec: &'a RestartsSpec,
    show: &'a Show,
    cluster: Cluster,
    /// Processes that should run.
    expected: BTreeSet<String>,
    population: Arc<Population>,
    roll: Roll,
    /// Processes that did not shut down gracefully.
    unruly: Vec<String>,
}

impl<'a> Player<'a> {
    async fn start(
        scenario: &'a Scenario,
        spec: &'a RestartsSpec,
        plan: &ClusterPlan,
        show: &'a Show,
    ) -> Result<Self, RunError> {
        let cluster = Cluster::start(plan).await?;
        let expected = cluster
            .watched()
            .into_iter()
            .filter(|p| p.role != Role::Gateway)
            .map(|p| p.name)
            .collect();
        let (population, roll) = population(scenario)?;
        let player =
            Self { scenario, spec, show, cluster, expected, population, roll, unruly: Vec::new() };
        player.fill().await?;
        player.settle(spec.settle_s).await?;
        Ok(player)
    }

    async fn case(&mut self, case: &RestartCase) -> Result<Vec<PhaseReport>, RunError> {
        let mut reports = Vec::new();
        for (n, phase) in case.phases.iter().enumerate() {
            reports.push(self.phase(case, n + 1, phase).await?);
        }
        Ok(reports)
    }

    async fn phase(
        &mut self,
        case: &RestartCase,
        number: usize,
        phase: &Phase,
    ) -> Result<PhaseReport, RunError> {
        let (begun, mut under) = (Instant::now(), Vec::new());
        match phase.under_alert {
            None => self.steps(&phase.steps).await?,
            Some(rate) => {
                for round in 0..phase.rounds {
                    self.show.begin("round", &format!("{} of {}", round + 1, phase.rounds));
                    under.push(self.alert(rate, self.deadline(), &phase.steps).await?);
                }
            }
        }
        let probes = self.settle(phase.settle_s.unwrap_or(self.spec.settle_s)).await?;
        let settled_seconds = begun.elapsed().as_secs_f64();
        let green = is_green(&probes);
        let after = self.alert(0, if green { self.deadline() } else { LOUD_ALERT }, &[]).await?;
        let good =
            under.iter().all(|verdict| verdict.is_exact(phase.repeats)) && after.is_harmless();
        let outcome = match (good, green, after.is_exact(false)) {
            (true, true, true) => Outcome::Exact,
            (true, false, _) => Outcome::Loud,
            _ => Outcome::Wrong,
        };
        let unruly = std::mem::take(&mut self.unruly);
        Ok(PhaseReport {
            case: case.name.clone(),
            label: case.label.clone(),
            phase: number,
            probes,
            under,
            after,
            outcome,
            expected: phase.expect,
            settled_seconds,
            passed: outcome == phase.expect && unruly.is_empty(),
            unruly,
        })
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(self.scenario.deadlines.wave_s)
    }

    async fn steps(&mut self, steps: &[Step]) -> Result<(), RunError> {
        for step in steps {
            match step {
                Step::Kill { what } => self.cluster.kill(what).await,
                Step::Terminate { what } => self.terminate(what).await,
                Step::Remove { what } => {
                    self.expected.remove(what);
                    self.terminate(what).await;
                }
                Step::Start { what, cluster, name, partitions, nodes } => {
                    let started = Started {
                        cluster: cluster.as_deref(),
                        name: name.as_deref(),
                        partitions: *partitions,
                        nodes: *nodes,
                    };
                    match self.cluster.start_again(what, started).await {
                        Ok(()) => {}
                        // The probes report it.
                        Err(ClusterError::Process(ended @ ProcessError::Ended { .. })) => {
                            self.show.begin("", &ended.to_string());
                        }
                        Err(other) => return Err(other.into()),
                    }
                    self.expected.insert(what.clone());
                }
                Step::Wait { ms } => sleep(Duration::from_millis(*ms)).await,
                Step::Ready {} => drop(self.settle(self.spec.settle_s).await?),
            }
        }
        Ok(())
    }

    async fn terminate(&mut self, what: &str) {
        if !self.cluster.terminate(what, Duration::from_secs(self.scenario.deadlines.stop_s)).await
        {
            self.unruly.push(what.to_owned());
        }
    }

    async fn connect(&self) -> Result<Channel, RunError> {
        Ok(drive::connect(&self.cluster.coordinator, PROBE_WITHIN).await?)
    }

    /// Creates apps and devices at a coordinator that has none, without waiting for nodes.
    async fn fill(&self) -> Result<(), RunError> {
        let (channel, within) =
            (self.connect().await?, Duration::from_secs(self.scenario.deadlines.load_s));
        alert::create_apps(channel.clone(), &self.population).await?;
        let load =
            drive::load::load(channel, Arc::clone(&self.population), clock::wall().0, |_| {});
        let late = |_| DriveError::Late {
            what: "writing all devices",
            seconds: within.as_secs(),
            state: String::new(),
        };
        Ok(timeout(within, load).await.map_err(late)??)
    }

    /// Waits until every process serves and the devices are loaded, or the time limit has passed.
    /// Returns the answers of the probes.
    async fn settle(&self, within_s: u64) -> Result<BTreeMap<String, String>, RunError> {
        let end = Instant::now() + Duration::from_secs(within_s);
        loop {
            let probes = self.probes().await;
            if is_green(&probes) {
                let left = end.saturating_duration_since(Instant::now()) + Duration::from_secs(1);
                // The alert detects devices that do not become visible although the probes are
                // green.
                drop(drive::visible(self.connect().await?, self.population.count(), left).await);
                return Ok(self.probes().await);
            }
            if Instant::now() >= end {
                return Ok(probes);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn probes(&self) -> BTreeMap<String, String> {
        let (world, mut said) = (World::system(), BTreeMap::new());
        for name in &self.expected {
            let service = if names::node_number(name).is_some() {
                "clarion.shard.v1.ShardService"
            } else {
                "clarion.v1.AlertService"
            };
            let answer = match self
                .cluster
                .health(name)
                .and_then(|health| health.parse::<SocketAddr>().ok())
            {
                None => "process not found".to_owned(),
                Some(address) => match probe::check(&world, address, service, PROBE_WITHIN).await {
                    Ok(()) => "SERVING".to_owned(),
                    Err(sick) => sick.to_string(),
                },
            };
            said.insert(name.clone(), answer);
        }
        said
    }

    /// Runs one alert; the steps follow its first push.
    async fn alert(
        &mut self,
        rate: u32,
        deadline: Duration,
        steps: &[Step],
    ) -> Result<Verdict, RunError> {
        for emulator in &self.cluster.emulators {
            emulator.reset().await?;
        }
        let begun = Instant::now();
        let mut submitted = alert::alert(self.scenario, &self.population);
        submitted.max_rate_per_second = rate;
        let request_id =
            uuid::Uuid::from_u64_pair(self.scenario.seed, clock::monotonic().0).to_string();
        // A coordinator that does not run takes no alert.
        let submitted = match self.connect().await {
            Err(unreached) => {
                self.steps(steps).await?;
                return Ok(Verdict { state: unreached.to_string(), ..Verdict::default() });
            }
            Ok(channel) => alert::submit(channel, submitted, request_id).await,
        };
        let submitted = match submitted {
            Ok(submitted) => submitted,
            // Nothing was sent, and the caller got an error.
            Err(DriveError::Status(status)) => {
                self.steps(steps).await?;
                return Ok(Verdict {
                    state: format!("refused: {}", status.message()),
                    ..Verdict::default()
                });
            }
            Err(other) => return Err(other.into()),
        };
        let pushed = Arc::new(tokio::sync::Notify::new());
        let (first_push, wait) = (Arc::clone(&pushed), pushed);
        let seen = move |progress: &Progress| {
            if progress.outcomes.unwrap_or_default().accepted > 0 {
                first_push.notify_one();
            }
        };
        let coordinator = self.cluster.coordinator.clone();
        let watching = watch(&coordinator, &submitted.name, deadline, seen);
        let stepping = async {
            if !steps.is_empty() {
                // The verdict shows an alert that pushes to no device.
                drop(timeout(deadline, wait.notified()).await);
                self.steps(steps).await?;
            }
            Ok::<_, RunError>(())
        };
        let (ended, stepped) = tokio::join!(watching, stepping);
        stepped?;
        let state = match ended {
            Ok(ended) => {
                ended.progress.state().as_str_name().trim_start_matches("STATE_").to_owned()
            }
            Err(DriveError::Late { state, .. }) => {
                // Otherwise a node that comes back would push the alert beside the next one. A
                // coordinator that has ended has no alert.
                let request = wire::CancelAlertRequest {
                    name: submitted.name.clone(),
                    reason: "unfinished".to_owned(),
                };
                if let Ok(channel) = self.connect().await {
                    drop(AlertServiceClient::new(channel).cancel_alert(request).await);
                }
                format!("unfinished: {state}")
            }
            Err(other) => format!("lost: {other}"),
        };
        self.judge(submitted.collapse_hash(), state, begun).await
    }

    async fn judge(&self, hash: u64, state: String, begun: Instant) -> Result<Verdict, RunError> {
        let (mut pushes, mut of_others) = (Vec::new(), 0);
        for emulator in &self.cluster.emulators {
            let path = self.cluster.dir().join(names::record(emulator.platform, ""));
            emulator.export(&path).await?;
            let record = recorded::load(&path)?;
            for entry in &record.entries {
                if entry.collapse_hash == hash {
                    pushes.push(recorded::push(entry));
                } else {
                    of_others += 1;
                }
            }
        }
        let judged = self.roll.judge(pushes);
        Ok(Verdict::new(state, &judged, of_others, begun.elapsed().as_secs_f64()))
    }
}

/// Watches an alert until it has ended, over restarts of its coordinator.
async fn watch(
    coordinator: &str,
    alert: &str,
    deadline: Duration,
    mut seen: impl FnMut(&Progress),
) -> Result<alert::Ended, DriveError> {
    let end = Instant::now() + deadline;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let watched = match drive::connect(coordinator, PROBE_WITHIN).await {
            Ok(channel) => alert::watch(channel, alert, None, left, &mut seen).await,
            Err(unreached) => Err(unreached),
        };
        match watched {
            Err(DriveError::Status(status)) if status.code() == Code::NotFound => {
                return Err(DriveError::Status(status));
            }
            Err(DriveError::Status(_) | DriveError::Ended(_) | DriveError::Transport(_))
                if Instant::now() < end =>
            {
                sleep(LOOK_EVERY).await;
            }
            other => return other,
        }
    }
}

fn is_green(probes: &BTreeMap<String, String>) -> bool {
    probes.values().all(|said| said == "SERVING")
}

fn population(scenario: &Scenario) -> Result<(Arc<Population>, Roll), RunError> {
    let population = Population::new(&scenario.population, scenario.seed, scenario.devices)?;
    let roll = Roll::new(&population, &Region::new(&scenario.alert.region));
    Ok((Arc::new(population), roll))
}
