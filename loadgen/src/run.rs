//! One run of a scenario, from the first process to the report.
//!
//! [`run`] has the steps in order. Two watchers run beside them: one over the processes, because a
//! run whose coordinator ended must end with the coordinator's last log lines and not with a
//! deadline; and one for SIGTERM and Ctrl-C. The first of the three to end ends every process.

pub mod assess;
pub mod motion;
pub mod previews;
pub mod restarts;
pub mod scene;
pub mod series;
pub mod wave;

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use clarion_emulator::clock;
use clarion_proto::time::Time;
use clarion_runtime::drain::Signals;

use crate::{
    cluster::{
        Cluster, ClusterError, ClusterPlan, Elsewhere, emulator::GatewayPlan, network::NetworkPlan,
        orders::OrderError, process::ProcessError,
    },
    drive::{DriveError, alert::create_apps},
    names,
    picture::Picture,
    population::{Population, PopulationError},
    report::{Report, check},
    scenario::{FCM_QUOTA_MAX, Scenario},
    show::Show,
    verdict::recorded::RecordError,
};
use motion::Moving;
use scene::Scene;
use wave::Observed;

/// Options of the command line in addition to the scenario.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder for the report, its page, logs and records.
    pub dir: PathBuf,
    /// Path of this program, which also runs as the children.
    pub program: PathBuf,
    /// Number of threads of each node that walk partitions and send pushes.
    pub cores_per_node: usize,
    /// Whether missed targets fail the run.
    pub strict: bool,
    /// Proxy of the cluster, and the source of Google's access tokens.
    pub network: NetworkPlan,
    /// Running cluster to use instead of starting one.
    pub elsewhere: Option<Elsewhere>,
    /// Command line that repeats the run.
    pub command: String,
}

/// Reason why a run has no report.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The population of the scenario cannot be generated.
    #[error(transparent)]
    Population(#[from] PopulationError),
    /// The cluster could not be started.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A process ended during the run.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A call of the cluster failed.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// An emulator did not carry out an order.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// The record of an emulator cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A file or `/proc` could not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// Name of the file, or of the part of the system.
        what: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The processes did not shut down gracefully.
    #[error("processes did not shut down gracefully: {0}")]
    Stop(String),
    /// A signal asked this program to end.
    #[error("ended by {0}")]
    Interrupted(&'static str),
}

/// Runs a scenario.
///
/// # Errors
/// If the run could not be carried out. A run that was carried out and failed its expectations has
/// a report.
pub async fn run(scenario: &Scenario, options: &Options, show: &Show) -> Result<Report, RunError> {
    let Stage { begun, mut signals, dir, population, plan } =
        Stage::prepare(scenario, options, show)?;
    let mut cluster = tokio::select! {
        cluster = surroundings(&plan, options.elsewhere.as_ref()) => cluster?,
        signal = signals.recv() => return Err(RunError::Interrupted(signal)),
    };
    let start = clock::monotonic().since(begun);

    let scene = Scene {
        scenario,
        population: &population,
        coordinator: cluster.coordinator.clone(),
        emulators: cluster.emulators.clone(),
        watched: cluster.watched(),
        node_orders: cluster.node_orders(),
        memory: cluster.memory.clone(),
        dir: &dir,
        show,
    };
    let observed = tokio::select! {
        observed = play(&scene) => observed,
        death = cluster.watch() => Err(death.into()),
        signal = signals.recv() => Err(RunError::Interrupted(signal)),
    };
    show.begin("stop", "all processes");
    let peaks = cluster.memory.peaks();
    let unruly = cluster.stop(Duration::from_secs(scenario.deadlines.stop_s)).await;
    let (observed, moving) = observed?;
    let observed = Observed { start, peaks, ..observed };
    if !unruly.is_empty() {
        return Err(RunError::Stop(unruly.join(", ")));
    }

    show.begin("judge", &format!("{} devices, each by itself", scenario.devices));
    let (mut report, figures) = assess::assess(scenario, &population, &observed, moving.as_ref())?;
    report.cluster = options.elsewhere.as_ref().map(|there| there.coordinator.clone());
    report.seconds.total = clock::monotonic().since(begun).as_secs_f64();
    report.checks = check::checks(&scenario.expect, &report);
    // Failures without a failed expectation are not shown: a cancelled alert leaves devices out.
    report.examples.retain(|kind, _| report.checks.iter().any(|c| c.name == *kind && !c.held));
    report.passed = check::passes(&report.checks, options.strict);
    if report.passed {
        plan.remove_data().map_err(|e| io_error("the data folders", e))?;
    }
    report.write(&dir).map_err(|e| io_error(names::REPORT, e))?;
    let (strict, command) = (options.strict, options.command.as_str());
    let picture = Picture { scenario, report: &report, figures: &figures, strict, command };
    picture.write(&dir).map_err(|e| io_error(names::PAGE, e))?;
    Ok(report)
}

/// Runs the scenario. For a run in motion it also returns the observations of the other parts.
async fn play(scene: &Scene<'_>) -> Result<(Observed, Option<Moving>), RunError> {
    let channel = scene.connect().await?;
    create_apps(channel.clone(), scene.population).await?;
    let loaded = scene.fill(channel.clone()).await?;
    match scene.scenario.motion {
        None => Ok((scene.alert(channel, loaded, "", || 0).await?, None)),
        Some(spec) => {
            let (observed, moving) = scene.play_moving(channel, spec, loaded).await?;
            Ok((observed, Some(moving)))
        }
    }
}

/// State of a run before its cluster is started.
struct Stage {
    begun: Time,
    signals: Signals,
    dir: PathBuf,
    population: Arc<Population>,
    plan: ClusterPlan,
}

impl Stage {
    fn prepare(scenario: &Scenario, options: &Options, show: &Show) -> Result<Self, RunError> {
        let begun = clock::monotonic();
        let signals = Signals::listen().map_err(|e| io_error("signals", e))?;
        // Absolute from here on, because relative names in the coordinator's file count from its
        // folder.
        let dir = fs::create_dir_all(&options.dir)
            .and_then(|()| fs::canonicalize(&options.dir))
            .map_err(|e| io_error(&options.dir.display().to_string(), e))?;
        let population =
            Arc::new(Population::new(&scenario.population, scenario.seed, scenario.devices)?);
        let platforms = population.platforms();
        let gateways: Vec<_> = platforms.iter().map(|p| p.as_str()).collect();
        match &options.elsewhere {
            None => show.begin(
                "start",
                &format!(
                    "{} shard nodes, coordinator, gateway {}",
                    scenario.nodes,
                    gateways.join(" and ")
                ),
            ),
            Some(there) => {
                platforms.iter().try_for_each(|platform| there.control(*platform).map(drop))?;
                show.begin(
                    "reach",
                    &format!("{}, gateway {}", there.coordinator, gateways.join(" and ")),
                );
            }
        }
        let plan = ClusterPlan {
            program: options.program.clone(),
            dir: dir.clone(),
            nodes: scenario.nodes,
            nodes_later: (0..scenario.nodes).filter(|node| scenario.comes_later(*node)).collect(),
            nodes_told: None,
            store: scenario.store,
            cores_per_node: options.cores_per_node,
            gateway: GatewayPlan {
                dead_share: scenario.gateway.dead_share,
                latency_us: scenario.gateway.latency_us,
                distance: scenario.gateway.distance,
                seed: scenario.seed,
                platforms,
                topics: population.apps().iter().map(|a| names::topic(&a.name)).collect(),
                fcm_quota_per_minute: scenario
                    .gateway
                    .fcm
                    .quota_per_minute
                    .unwrap_or(FCM_QUOTA_MAX),
            },
            fcm: scenario.gateway.fcm,
            request_deadline_ms: scenario.gateway.request_deadline_ms,
            authorization_literal: scenario.gateway.authorization_literal,
            snapshot_every_seconds: None,
            network: options.network.clone(),
            start_deadline: Duration::from_secs(scenario.deadlines.start_s),
        };
        Ok(Self { begun, signals, dir, population, plan })
    }
}

/// Starts the cluster, or connects to the configured one.
async fn surroundings(
    plan: &ClusterPlan,
    elsewhere: Option<&Elsewhere>,
) -> Result<Cluster, RunError> {
    match elsewhere {
        None => Ok(Cluster::start(plan).await?),
        Some(there) => Ok(Cluster::attach(there, &plan.gateway).await?),
    }
}

fn io_error(what: &str, source: io::Error) -> RunError {
    RunError::Io { what: what.to_owned(), source }
}
