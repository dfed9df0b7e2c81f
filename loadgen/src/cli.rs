//! The command line of loadgen, and the processes of a cluster that the same binary runs as.

use std::{ffi::OsString, io, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum as _};
use clarion_emulator::Platform;
use clarion_runtime::probe;

use crate::{
    cluster::{
        Elsewhere,
        network::{Credentials, NetworkPlan, ProxyUrl},
        orders::Orders,
        process::end_with_parent,
    },
    keys, names,
    report::summary::summary,
    run::{self, Options, RunError, previews},
    scenario::{Scenario, ScenarioError, StoreKind},
    show::Show,
};

/// Run complete alerts against a real cluster on this machine and check the result for every
/// device.
///
/// Without arguments: `run`. A run starts a coordinator, shard nodes and gateway emulators as
/// processes, registers a population drawn from a seed, submits the scenario's alert, and compares
/// the gateways' record with a brute-force computation of the devices to be reached. It prints a
/// summary, writes report.json and report.html, and ends every process that it started.
///
/// Exit code 0: every expectation held. 1: an expectation failed. 2: the run could not be carried
/// out.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, max_term_width = 120, after_help = probe::HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a scenario
    Run(RunArguments),
    /// List the built-in scenarios
    List,
    // As for `gateway`.
    Previews(PreviewArguments),
    // The help is in the documentation of the type.
    Gateway(clarion_emulator::Arguments),
    // As above.
    Keys(keys::command::Arguments),
    /// Print what a running gateway emulator has received, as one line of JSON
    Stats {
        /// Control port of the emulator (see `gateway --help`)
        #[arg(value_name = "HOST:PORT")]
        control: String,
    },
}

/// Run a scenario.
///
/// A failed exact expectation (no device missed, none reached twice, …) or memory limit fails the
/// run on any machine. Rates and times are printed beside their targets and fail the run only with
/// --strict, because a busy machine is not a defect.
#[derive(Debug, Parser)]
struct RunArguments {
    /// Name of a built-in scenario (see `list`), or path of a .toml file of the same form
    #[arg(default_value = "city")]
    scenario: String,
    /// Number of devices in the population; run time and memory grow with it [default: the
    /// scenario's]
    #[arg(long)]
    devices: Option<u64>,
    /// Number of shard nodes, 1 to 64 [default: the scenario's]
    #[arg(long)]
    nodes: Option<u32>,
    /// Seed from which everything random is drawn: places, tokens, motion [default: the scenario's]
    #[arg(long)]
    seed: Option<u64>,
    /// Number of threads of each node that walk partitions and send pushes [default: the number of
    /// available CPUs divided by the number of nodes, at least 1]
    #[arg(long)]
    cores: Option<usize>,
    /// Folder for report.json, report.html, the logs of all processes and the gateways' record
    #[arg(long, value_name = "DIR", default_value = "target/loadgen")]
    report: PathBuf,
    /// Fail the run also if a rate or time misses its target
    #[arg(long)]
    strict: bool,
    /// Run only this case of a series such as `faults`; repeat the option for several cases
    /// [default: all cases]
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<String>,
    /// Duration of the trouble in each case of a series, seconds, more than 0 and at most 3600
    /// [default: the scenario's]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Store of the coordinator: a file in the report's folder, removed after a run that passed, or
    /// the coordinator's memory [default: the scenario's]
    #[arg(long, value_name = "STORE", conflicts_with = "cluster")]
    store: Option<StoreKind>,
    /// HTTP proxy between the cluster and the gateways [default: direct connections]
    #[arg(
        long,
        value_name = "http://[USER:PASSWORD@]HOST:PORT",
        value_parser = ProxyUrl::parse,
        conflicts_with = "cluster"
    )]
    proxy: Option<ProxyUrl>,
    /// Source of Google's access tokens
    #[arg(long, value_name = "SOURCE", default_value = "key-file", conflicts_with = "cluster")]
    credentials: Credentials,
    /// Use the running cluster of this coordinator, http://HOST:PORT, instead of starting one;
    /// requires --gateway
    #[arg(long, value_name = "URL", requires = "gateways", conflicts_with_all = ["nodes", "cores"])]
    cluster: Option<String>,
    /// Control port of that cluster's gateway emulator for a platform (see `gateway --help`); repeat
    /// the option for each platform
    #[arg(
        long = "gateway",
        value_name = "PLATFORM=HOST:PORT",
        value_parser = gateway,
        requires = "cluster"
    )]
    gateways: Vec<(Platform, String)>,
}

/// Measure previews of an ordinary region beside previews of the worst ones.
///
/// First checks and covers each of the worst regions in this process and prints its CPU time. Then
/// starts the cluster of scenario `city` and prints how long previews of its region take, while
/// callers from other loopback addresses preview the worst regions without a pause.
#[derive(Debug, Parser)]
struct PreviewArguments {
    /// Number of callers of the worst regions, 0 to 10,000; 0 starts no cluster
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    others: u32,
    /// Duration of the measurement, seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Number of devices in the population
    #[arg(long, default_value_t = 20_000)]
    devices: u64,
    /// Folder for the logs of all processes
    #[arg(long, value_name = "DIR", default_value = "target/previews")]
    report: PathBuf,
    /// Fail if a time misses its target: 300 ms for the 99th percentile of ordinary previews, 500 ms
    /// of CPU for a region
    #[arg(long)]
    strict: bool,
}

/// Parses the address of a gateway, for example `apns=gateway:7690`.
fn gateway(text: &str) -> Result<(Platform, String), String> {
    let (platform, address) = text.split_once('=').ok_or("must be PLATFORM=HOST:PORT")?;
    Ok((Platform::from_str(platform, false)?, address.to_owned()))
}

/// Runs the program; the first argument is its name.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args: Vec<OsString> = args.into_iter().collect();
    if let Some(answered) = probe::requested(&args) {
        return answered;
    }
    if let Some(parent) =
        args.get(1).and_then(|a| a.to_str()).and_then(|a| a.strip_prefix("--child-of="))
    {
        let parent = parent.parse().unwrap_or(0);
        args.remove(1);
        return child(parent, args);
    }
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        // Help and version go to standard output; clap prints all other errors with a hint.
        Err(e) => e.exit(),
    };
    match arguments.command {
        Some(Command::List) => list(),
        Some(Command::Gateway(arguments)) => ended(clarion_emulator::run(&arguments)),
        Some(Command::Keys(arguments)) => ended(keys::command::write(&arguments)),
        Some(Command::Stats { control }) => ended(stats(&control)),
        Some(Command::Previews(arguments)) => finish(previews(&arguments)),
        Some(Command::Run(arguments)) => finish(run(&arguments)),
        None => finish(run(&RunArguments::parse_from(["run"]))),
    }
}

/// Runs one process of a cluster: a hidden subcommand, started by `cluster`.
fn child(parent: u32, args: Vec<OsString>) -> ExitCode {
    if let Err(e) = end_with_parent(parent) {
        eprintln!("error: {e}");
        return ExitCode::FAILURE;
    }
    let mut args = args.into_iter().skip(1).peekable();
    match args.peek().and_then(|a| a.to_str()) {
        Some("coordinator") => clarion_coordinator::main(args),
        Some("shard") => clarion_shard::main(args),
        Some("gateway") => clarion_emulator::main(args),
        _ => {
            eprintln!("error: --child-of: must be followed by coordinator, shard or gateway");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
}

fn finish(passed: Result<bool, Failure>) -> ExitCode {
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(2)
        }
    }
}

fn ended(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(2)
        }
    }
}

fn list() -> ExitCode {
    for (name, scenario) in Scenario::named() {
        println!(
            "{name:<16} {:>9} devices, {} nodes  {}",
            scenario.devices, scenario.nodes, scenario.description
        );
        let troubles = scenario
            .series
            .iter()
            .flat_map(|series| &series.cases)
            .map(|case| (&case.name, &case.label));
        let restarts = scenario
            .restarts
            .iter()
            .flat_map(|spec| &spec.cases)
            .map(|case| (&case.name, &case.label));
        for (name, label) in troubles.chain(restarts) {
            println!("  --case {name:<26} {label}");
        }
    }
    ExitCode::SUCCESS
}

fn stats(control: &str) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stats = runtime.block_on(async { Orders::connect(control).await?.stats().await });
    println!("{}", stats.map_err(io::Error::other)?);
    Ok(())
}

fn run(arguments: &RunArguments) -> Result<bool, Failure> {
    let mut scenario = Scenario::find(&arguments.scenario)?;
    scenario.devices = arguments.devices.unwrap_or(scenario.devices);
    scenario.nodes = arguments.nodes.unwrap_or(scenario.nodes);
    scenario.seed = arguments.seed.unwrap_or(scenario.seed);
    scenario.store = arguments.store.unwrap_or(scenario.store);
    choose(&mut scenario, arguments)?;
    scenario.check().map_err(|(field, problem)| ScenarioError::Invalid {
        scenario: scenario.name.clone(),
        field: field.to_owned(),
        problem,
    })?;
    let options = Options {
        dir: arguments.report.clone(),
        program: std::env::current_exe()?,
        cores_per_node: arguments.cores.unwrap_or_else(|| cores_per_node(scenario.nodes)),
        strict: arguments.strict,
        network: NetworkPlan { proxy: arguments.proxy.clone(), credentials: arguments.credentials },
        elsewhere: arguments.cluster.clone().map(|coordinator| Elsewhere {
            coordinator,
            gateways: arguments.gateways.iter().cloned().collect(),
        }),
        command: command(&arguments.scenario, &scenario, arguments),
    };
    // One thread: children are tied to the life of the thread that starts them, and driving costs
    // little.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(series) = &scenario.series {
        let report =
            runtime.block_on(run::series::run(&scenario, series, &options, &Show::new()))?;
        print!("{}", report.summary());
        println!("  {}", options.dir.join(names::REPORT).display());
        return Ok(report.passed);
    }
    if let Some(spec) = &scenario.restarts {
        let report =
            runtime.block_on(run::restarts::run(&scenario, spec, &options, &Show::new()))?;
        print!("{}", report.summary());
        println!("  {}", options.dir.join(names::REPORT).display());
        return Ok(report.passed);
    }
    let report = runtime.block_on(run::run(&scenario, &options, &Show::new()))?;
    print!("{}", summary(&report, options.strict));
    println!("  {}", options.dir.join(names::REPORT).display());
    // A URL that a browser opens as it is.
    let page = options.dir.join(names::PAGE);
    println!("  open in a browser: file://{}", page.canonicalize().unwrap_or(page).display());
    Ok(report.passed)
}

fn previews(arguments: &PreviewArguments) -> Result<bool, Failure> {
    println!("{:<36} {:>9} {:>9}", "CPU of one region, ms", "check", "cover");
    let mut dearest_ms = 0.0_f64;
    for cost in previews::costs() {
        println!(
            "{:<36} {:>9.1} {:>9.1}  {}",
            cost.name, cost.check_ms, cost.cover_ms, cost.result
        );
        dearest_ms = dearest_ms.max(cost.check_ms + cost.cover_ms);
    }
    let is_cheap = dearest_ms <= previews::REGION_CPU_MS;
    if arguments.others == 0 {
        return Ok(is_cheap || !arguments.strict);
    }
    let mut scenario = Scenario::find("city")?;
    scenario.devices = arguments.devices;
    // Only CPU is measured.
    scenario.store = StoreKind::Memory;
    let options = Options {
        dir: arguments.report.clone(),
        program: std::env::current_exe()?,
        cores_per_node: cores_per_node(scenario.nodes),
        strict: arguments.strict,
        network: NetworkPlan::default(),
        elsewhere: None,
        command: String::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let load = (arguments.others, arguments.seconds);
    let seen = runtime.block_on(previews::run(&scenario, &options, load, &Show::new()))?;
    let p99_ms = seen.ordinary_percentile_ms(0.99);
    println!(
        "{} ordinary previews, {} refusals: median {:.1} ms, p99 {p99_ms:.1} ms (target {} ms), max {:.1} ms",
        seen.ordinary_ms.len(),
        seen.ordinary_refused,
        seen.ordinary_percentile_ms(0.5),
        previews::ORDINARY_P99_MS,
        seen.ordinary_percentile_ms(1.0),
    );
    println!("answers to the worst previews: {:?}", seen.answers);
    Ok(!arguments.strict || (is_cheap && p99_ms <= previews::ORDINARY_P99_MS))
}

/// Applies the options that select cases of a series.
fn choose(scenario: &mut Scenario, arguments: &RunArguments) -> Result<(), ScenarioError> {
    let name = scenario.name.clone();
    let invalid = |field: &str, problem: String| ScenarioError::Invalid {
        scenario: name.clone(),
        field: field.to_owned(),
        problem,
    };
    if let Some(spec) = &mut scenario.restarts {
        if arguments.cluster.is_some() || arguments.seconds.is_some() {
            let problem =
                "must be absent: restarts start their own clusters and have fixed times".to_owned();
            return Err(invalid("--cluster, --seconds", problem));
        }
        return spec.choose(&arguments.cases).map_err(|problem| invalid("--case", problem));
    }
    match &mut scenario.series {
        Some(_) if arguments.cluster.is_some() => Err(invalid(
            "--cluster",
            "must be absent: a series measures the memory of nodes that it starts itself"
                .to_owned(),
        )),
        Some(series) => {
            series.seconds = arguments.seconds.unwrap_or(series.seconds);
            series.choose(&arguments.cases).map_err(|problem| invalid("--case", problem))
        }
        None if !arguments.cases.is_empty() || arguments.seconds.is_some() => Err(invalid(
            "--case, --seconds",
            "must be absent: this scenario is one alert, not a series of cases".to_owned(),
        )),
        None => Ok(()),
    }
}

/// Returns the command line that repeats a run, with every option that affects random draws.
fn command(name: &str, scenario: &Scenario, arguments: &RunArguments) -> String {
    let mut command = format!(
        "cargo run --release -- run {name} --devices {} --seed {}",
        scenario.devices, scenario.seed
    );
    match &arguments.cluster {
        Some(cluster) => {
            command += &format!(" --cluster {cluster}");
            for (platform, address) in &arguments.gateways {
                command += &format!(" --gateway {}={address}", platform.as_str());
            }
        }
        None => command += &format!(" --nodes {}", scenario.nodes),
    }
    if let Some(cores) = arguments.cores {
        command += &format!(" --cores {cores}");
    }
    if let Some(store) = arguments.store.and_then(|store| store.to_possible_value()) {
        command += &format!(" --store {}", store.get_name());
    }
    for case in &arguments.cases {
        command += &format!(" --case {case}");
    }
    if let Some(seconds) = arguments.seconds {
        command += &format!(" --seconds {seconds}");
    }
    if let Some(proxy) = &arguments.proxy {
        // Without the credentials, which the report must not show.
        command += &format!(" --proxy {}", proxy.url);
    }
    if let Some(source) = arguments.credentials.to_possible_value()
        && arguments.credentials != Credentials::default()
    {
        command += &format!(" --credentials {}", source.get_name());
    }
    if arguments.strict {
        command += " --strict";
    }
    command
}

fn cores_per_node(nodes: u32) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores / nodes.max(1) as usize).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn nodes_share_the_machine() {
        assert!(cores_per_node(1) >= 1);
        assert_eq!(cores_per_node(1_000), 1);
    }
}
