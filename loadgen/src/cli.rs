//! The command line of loadgen, and the processes that it is besides.

use std::{ffi::OsString, io, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    cluster::process::end_with_parent,
    report::summary::summary,
    run::{self, Options, RunError},
    scenario::{Scenario, ScenarioError},
    show::Show,
};

/// Runs whole alerts against a real cluster on this machine and judges them device by device.
///
/// Without arguments: `run city`. A run starts a coordinator, shard nodes and a gateway emulator as processes of their own,
/// registers a seeded population, submits the scenario's alert, and holds the gateway's record against a brute-force
/// computation of who should have been reached. It prints a summary, writes report.json and report.html, and ends everything it started.
///
/// Exit code 0: everything expected was found. 1: an expectation failed. 2: the run could not be carried out.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, max_term_width = 120)]
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
}

/// Run a scenario.
///
/// Exact expectations (nobody missed, nobody twice, …) and bounds on memory fail a run on any machine. Rates and times are
/// printed beside their targets and fail it only with --strict, because a busy machine is no defect.
#[derive(Debug, clap::Args)]
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
    /// Threads of each node that walk and send [default: the machine's processors shared among the nodes, at least 1]
    #[arg(long)]
    cores: Option<usize>,
    /// Folder for report.json, report.html, the logs of all processes, and the gateway's record
    #[arg(long, value_name = "DIR", default_value = "target/loadgen")]
    report: PathBuf,
    /// Rates and times fail the run, too
    #[arg(long)]
    strict: bool,
}

/// Runs the program; the first argument is its name.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args: Vec<OsString> = args.into_iter().collect();
    if let Some(parent) = args.get(1).and_then(|a| a.to_str()).and_then(|a| a.strip_prefix("--child-of=")) {
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
        Some(Command::Run(arguments)) => finish(run(&arguments)),
        None => finish(run(&RunArguments {
            scenario: "city".to_owned(),
            devices: None,
            nodes: None,
            seed: None,
            cores: None,
            report: PathBuf::from("target/loadgen"),
            strict: false,
        })),
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
        Some("gateway") => crate::gateway::main(args),
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

fn list() -> ExitCode {
    for (name, scenario) in Scenario::named() {
        println!("{name:<16} {:>9} devices, {} nodes  {}", scenario.devices, scenario.nodes, scenario.description);
    }
    ExitCode::SUCCESS
}

fn run(arguments: &RunArguments) -> Result<bool, Failure> {
    let mut scenario = Scenario::find(&arguments.scenario)?;
    scenario.devices = arguments.devices.unwrap_or(scenario.devices);
    scenario.nodes = arguments.nodes.unwrap_or(scenario.nodes);
    scenario.seed = arguments.seed.unwrap_or(scenario.seed);
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
        command: command(&arguments.scenario, &scenario, arguments),
    };
    // One thread: children are tied to the life of the thread that starts them, and driving costs little.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(run::run(&scenario, &options, &Show::new()))?;
    print!("{}", summary(&report, options.strict));
    println!("  {}", options.dir.join("report.json").display());
    // What a browser can be given as it is.
    let page = options.dir.join("report.html");
    println!("  to look at: file://{}", page.canonicalize().unwrap_or(page).display());
    Ok(report.passed)
}

/// The command line of a run with everything said that decides what is drawn.
fn command(name: &str, scenario: &Scenario, arguments: &RunArguments) -> String {
    let mut command = format!(
        "cargo run --release -- run {name} --devices {} --nodes {} --seed {}",
        scenario.devices, scenario.nodes, scenario.seed
    );
    if let Some(cores) = arguments.cores {
        command += &format!(" --cores {cores}");
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
