//! The program: reads the configuration, binds ports, starts cores, announces the addresses, serves
//! until a signal, drains and exits.

use std::{ffi::OsString, io, process::ExitCode, sync::Arc, thread::JoinHandle, time::Duration};

use clarion_runtime::{
    drain, lines,
    offload::offload,
    probe,
    proxy::{
        Proxy,
        rules::{EnvironmentError, ProxyRules},
    },
    telemetry,
    world::World,
};
use tokio::time::timeout;
use tracing::info;

use crate::{
    config::{Config, ConfigError},
    driver,
    node::{Node, NodeError, cores::CorePort},
};

/// Threads of the control plane, which decodes, merges and waits; walking and sending have their
/// own threads.
const CONTROL_THREADS: usize = 2;
/// For cores to hear out what is in flight (5 s at most by themselves), close their connections and
/// report (2 s more), and for the coordinator to confirm the last reports.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// Time limit for threads to end after the drain.
const JOIN_WITHIN: Duration = Duration::from_secs(2);

/// What ends the program with a non-zero status, in one line.
#[derive(Debug, thiserror::Error)]
enum ProgramError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Telemetry(#[from] telemetry::TelemetryError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Proxy(#[from] EnvironmentError),
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    #[error("the thread of a core did not end before the drain deadline")]
    Join,
}

/// Runs the program with these arguments, the first of which is its name.
///
/// Exit code 0: a signal ended the program and it has drained, or `--help` was requested. 1: any
/// failure, with one line on standard error.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(answered) = probe::requested(&args) {
        return answered;
    }
    match Config::load(args).map_err(ProgramError::from).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(ProgramError::Config(ConfigError::Answered(text))) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            lines::last_words(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> Result<(), ProgramError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()?;
    // As a task of the runtime, beside those that read and write for it: on this thread, each
    // message would wake two.
    let served = runtime.spawn(serve(config));
    let result = runtime
        .block_on(served)
        .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()));
    runtime.shutdown_timeout(JOIN_WITHIN);
    result
}

async fn serve(config: Config) -> Result<(), ProgramError> {
    let _telemetry = telemetry::init("shard")?;
    // Before anything is bound: whoever reads our addresses may end us.
    let signal = drain::signalled()?;
    let Config { node: config, announce } = config;
    let world = World::system().with_proxy_rules(ProxyRules::of_environment()?);
    let node = Node::bind(config.clone(), &world).await?;
    let (listen, health) = (node.address(), node.health_address());
    let cores = driver::spawn(config.cores, &world)?;
    info!(
        node = config.name, %listen, %health, cores = config.cores,
        coordinators = ?config.coordinators,
        proxy = world.proxy_rules().proxy().map(Proxy::address), "shard node started"
    );
    if announce {
        println!("{{\"listen\":\"{listen}\",\"health\":\"{health}\"}}");
    }

    let mut threads = Vec::new();
    let mut ports = Vec::new();
    for core in cores {
        ports.push(CorePort { commands: Arc::new(core.commands), events: core.events });
        threads.push(core.join);
    }
    let stop = async move {
        let signal = signal.await;
        info!(signal, "signal received; draining the node");
    };
    node.run(ports, stop, DRAIN_WITHIN).await?;
    join(threads).await?;
    info!("shard node stopped");
    Ok(())
}

async fn join(threads: Vec<JoinHandle<()>>) -> Result<(), ProgramError> {
    let all = offload(move || threads.into_iter().all(|thread| thread.join().is_ok()));
    match timeout(JOIN_WITHIN, all).await {
        Ok(Ok(true)) => Ok(()),
        _ => Err(ProgramError::Join),
    }
}
