//! The command line of loadgen, and the processes that it is besides.

use std::{ffi::OsString, io, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum as _};
use clarion_emulator::Platform;
use clarion_runtime::probe;

use crate::{
    cluster::{Elsewhere, process::end_with_parent},
    keys, names,
    report::summary::summary,
    run::{self, Options, RunError},
    scenario::{Scenario, ScenarioError},
    show::Show,
};

/// Runs whole alerts against a real cluster on this machine and judges them device by device.
///
/// Without arguments: `run`. A run starts a coordinator, shard nodes and a gateway emulator as
/// processes of their own, registers a seeded population, submits the scenario's alert, and holds
/// the gateway's record against a brute-force computation of who should have been reached. It
/// prints a summary, writes report.json and report.html, and ends everything it started.
///
/// Exit code 0: everything expected was found. 1: an expectation failed. 2: the run could not be
/// carried out.
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
    /// List the scenarios that are built in
    List,
    // Its own documentation is its help.
    Gateway(clarion_emulator::Arguments),
    // As above.
    Keys(keys::command::Arguments),
}

/// Run a scenario.
///
/// Exact expectations (nobody missed, nobody twice, …) and bounds on memory fail a run on any
/// machine. Rates and times are printed beside their targets and fail it only with --strict,
/// because a busy machine is no defect.
#[derive(Debug, Parser)]
struct RunArguments {
    /// Name of a scenario (see `list`), or path of a .toml file of the same form
    #[arg(default_value = "city")]
    scenario: String,
    /// Devices of the population [default: the scenario's]
    #[arg(long)]
    devices: Option<u64>,
    /// Shard nodes [default: the scenario's]
    #[arg(long)]
    nodes: Option<u32>,
    /// Decides everything that is drawn: places, tokens, motion [default: the scenario's]
    #[arg(long)]
    seed: Option<u64>,
    /// Threads of each node that walk and send [default: the machine's processors shared among the
    /// nodes, at least 1]
    #[arg(long)]
    cores: Option<usize>,
    /// Folder for report.json, report.html, the logs of all processes, and the gateway's record
    #[arg(long, value_name = "DIR", default_value = "target/loadgen")]
    report: PathBuf,
    /// Rates and times fail the run, too
    #[arg(long)]
    strict: bool,
    /// Of a series such as `faults`: only this case; more than once for several
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<String>,
    /// Of a series: how long the trouble of each case acts [default: the scenario's]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Coordinator of a cluster that runs already, http://HOST:PORT, instead of starting one; needs
    /// --gateway
    #[arg(long, value_name = "URL", requires = "gateways", conflicts_with_all = ["nodes", "cores"])]
    cluster: Option<String>,
    /// Control port of that cluster's emulated gateway for a platform (see `gateway --help`); once
    /// for each
    #[arg(long = "gateway", value_name = "PLATFORM=HOST:PORT", value_parser = gateway, requires = "cluster")]
    gateways: Vec<(Platform, String)>,
}

/// `apns=gateway:7690`
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
        // Help and version are answers; everything else is said by clap with a hint.
        Err(e) => e.exit(),
    };
    match arguments.command {
        Some(Command::List) => list(),
        Some(Command::Gateway(arguments)) => ended(clarion_emulator::run(&arguments)),
        Some(Command::Keys(arguments)) => ended(keys::command::write(&arguments)),
        Some(Command::Run(arguments)) => finish(run(&arguments)),
        None => finish(run(&RunArguments::parse_from(["run"]))),
    }
}

/// One of the processes of a cluster: hidden, started by `cluster`.
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
            eprintln!("error: no such process");
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

fn run(arguments: &RunArguments) -> Result<bool, Failure> {
    let mut scenario = Scenario::find(&arguments.scenario)?;
    scenario.devices = arguments.devices.unwrap_or(scenario.devices);
    scenario.nodes = arguments.nodes.unwrap_or(scenario.nodes);
    scenario.seed = arguments.seed.unwrap_or(scenario.seed);
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
    // What a browser can be given as it is.
    let page = options.dir.join(names::PAGE);
    println!("  to look at: file://{}", page.canonicalize().unwrap_or(page).display());
    Ok(report.passed)
}

/// What was asked of a series.
fn choose(scenario: &mut Scenario, arguments: &RunArguments) -> Result<(), ScenarioError> {
    let name = scenario.name.clone();
    let invalid = |field: &str, problem: String| ScenarioError::Invalid {
        scenario: name.clone(),
        field: field.to_owned(),
        problem,
    };
    if let Some(spec) = &mut scenario.restarts {
        if arguments.cluster.is_some() || arguments.seconds.is_some() {
            let problem = "restarts have their own clusters and times".to_owned();
            return Err(invalid("--cluster, --seconds", problem));
        }
        return spec.choose(&arguments.cases).map_err(|problem| invalid("--case", problem));
    }
    match &mut scenario.series {
        Some(_) if arguments.cluster.is_some() => Err(invalid(
            "--cluster",
            "a series measures the memory of nodes that it has started itself".to_owned(),
        )),
        Some(series) => {
            series.seconds = arguments.seconds.unwrap_or(series.seconds);
            series.choose(&arguments.cases).map_err(|problem| invalid("--case", problem))
        }
        None if !arguments.cases.is_empty() || arguments.seconds.is_some() => Err(invalid(
            "--case, --seconds",
            "this scenario is one alert, not a series of cases".to_owned(),
        )),
        None => Ok(()),
    }
}

/// The command line of a run with everything said that decides what is drawn.
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
    for case in &arguments.cases {
        command += &format!(" --case {case}");
    }
    if let Some(seconds) = arguments.seconds {
        command += &format!(" --seconds {seconds}");
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
