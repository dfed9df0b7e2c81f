//! Configuration of a shard node: addresses to listen on, its name, and the coordinators.
//!
//! Every value can be set by flag, environment variable (`CLARION_SHARD_…`) or file (`--config`,
//! TOML). A flag overrides the environment, which overrides the file, which overrides the default.
//! Gateways, credentials, limits and ownership are not configured here: the coordinator sends them
//! in its session, so that a node has the same configuration everywhere.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use clap::Parser;
use clarion_proto::ids::ClusterName;
use serde::Deserialize;

use crate::{feed::coordinators::ASK_AGAIN, node::NodeConfig};

/// Highest number of cores: more than any machine has, so a larger number is a mistake.
const CORES_MAX: usize = 1_024;
/// Longest name of a node, bytes: the longest DNS label, because the name of a pod is a label.
const NAME_BYTES_MAX: usize = 63;

/// Default address for sessions of coordinators.
const LISTEN: SocketAddr = loopback(7500);
/// Default address of the health service.
const HEALTH_LISTEN: SocketAddr = loopback(7501);
/// Default feed address: a coordinator on the same machine.
const COORDINATOR: SocketAddr = loopback(7402);

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Configuration of the node itself.
    pub node: NodeConfig,
    /// Whether to print a JSON line with the bound addresses on standard output.
    pub announce: bool,
}

/// Why the program ends before the node starts.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `--help` or `--version`: not a failure.
    #[error("{0}")]
    Answered(String),
    /// A flag or an environment variable is invalid.
    #[error("{0}")]
    Arguments(String),
    /// The file cannot be read or understood.
    #[error("configuration {path}: {problem}")]
    File {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it, in one line.
        problem: String,
    },
    /// A value is outside its limits.
    #[error("{option}: {problem}")]
    Value {
        /// Name of the option.
        option: &'static str,
        /// The limit and the value.
        problem: String,
    },
}

/// Run a shard node of Clarion, which holds devices in memory and sends pushes to them, nearest
/// first.
///
/// The coordinator sends gateways and limits. A flag overrides the environment, which overrides the
/// file. CLARION_LOG filters log lines, which go to standard error; OTEL_EXPORTER_OTLP_ENDPOINT
/// enables traces. SIGTERM or Ctrl-C starts a graceful shutdown.
#[derive(Debug, Parser)]
#[command(name = "shard", version, max_term_width = 120, after_help = after_help())]
struct Arguments {
    /// TOML file with any of the options below, in names with underscores (`health_listen = "…"`)
    /// [default: no file]
    #[arg(long, value_name = "FILE", env = "CLARION_SHARD_CONFIG")]
    config: Option<PathBuf>,

    // A default that is a constant stands in the help as that constant.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "CLARION_SHARD_LISTEN",
        help = format!(
            "Address for sessions of coordinators; port 0: any free port [default: {LISTEN}]"
        )
    )]
    listen: Option<SocketAddr>,

    #[arg(
        long,
        value_name = "ADDRESS",
        env = "CLARION_SHARD_HEALTH_LISTEN",
        help = format!(
            "Address of grpc.health.v1, in plaintext; port 0: any free port \
             [default: {HEALTH_LISTEN}]"
        )
    )]
    health_listen: Option<SocketAddr>,

    #[arg(
        long,
        value_name = "NAME",
        env = "CLARION_SHARD_CLUSTER",
        help = format!(
            "Name of the cluster; coordinators of another cluster are refused [default: {}]",
            ClusterName::default()
        )
    )]
    cluster: Option<String>,

    /// Name of the node, unique in the cluster and stable across restarts, 1 to 63 visible ASCII
    /// characters [default: the host's name]
    #[arg(long, env = "CLARION_SHARD_NAME")]
    name: Option<String>,

    #[arg(
        long,
        value_name = "ADDRESS,…",
        env = "CLARION_SHARD_COORDINATORS",
        value_delimiter = ',',
        help = format!(
            "Feed addresses of coordinators (their --feed-listen), as host:port; a DNS name means \
             all of its addresses and is resolved again every {} s [default: {COORDINATOR}]",
            ASK_AGAIN.as_secs()
        )
    )]
    coordinators: Option<Vec<String>>,

    /// Number of threads that walk partitions and send pushes, 1 to 1024 [default: the number of
    /// available CPUs]
    #[arg(long, env = "CLARION_SHARD_CORES")]
    cores: Option<usize>,

    /// Print one JSON line with the bound addresses on standard output [default: false]
    #[arg(
        long,
        env = "CLARION_SHARD_ANNOUNCE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    announce: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Option<SocketAddr>,
    health_listen: Option<SocketAddr>,
    cluster: Option<String>,
    name: Option<String>,
    coordinators: Option<Vec<String>>,
    cores: Option<usize>,
    announce: Option<bool>,
}

impl Config {
    /// Reads flags (the first argument is the program's name), environment and file.
    ///
    /// # Errors
    /// One line that names the option; or the text that was asked for with `--help`.
    pub fn load(args: impl IntoIterator<Item = OsString>) -> Result<Self, ConfigError> {
        let arguments = Arguments::try_parse_from(args).map_err(|e| {
            if e.use_stderr() {
                ConfigError::Arguments(one_line(&e))
            } else {
                ConfigError::Answered(e.to_string())
            }
        })?;
        let file = arguments.config.as_deref().map(read).transpose()?.unwrap_or_default();
        Self::merge(arguments, file)
    }

    fn merge(arguments: Arguments, file: File) -> Result<Self, ConfigError> {
        let node = NodeConfig {
            listen: arguments.listen.or(file.listen).unwrap_or(LISTEN),
            health_listen: arguments.health_listen.or(file.health_listen).unwrap_or(HEALTH_LISTEN),
            cluster: cluster(arguments.cluster.or(file.cluster))?,
            name: arguments.name.or(file.name).unwrap_or_else(host_name),
            coordinators: arguments
                .coordinators
                .or(file.coordinators)
                .unwrap_or_else(|| vec![COORDINATOR.to_string()]),
            cores: arguments.cores.or(file.cores).unwrap_or_else(available_cores),
        };
        check(&node)?;
        Ok(Self { node, announce: arguments.announce.or(file.announce).unwrap_or(false) })
    }
}

fn check(node: &NodeConfig) -> Result<(), ConfigError> {
    let wrong = |option, problem| Err(ConfigError::Value { option, problem });
    if !(1..=CORES_MAX).contains(&node.cores) {
        return wrong("cores", format!("must be 1 to {CORES_MAX}; got {}", node.cores));
    }
    if !(1..=NAME_BYTES_MAX).contains(&node.name.len())
        || !node.name.bytes().all(|b| b.is_ascii_graphic())
    {
        return wrong(
            "name",
            format!("must be 1 to {NAME_BYTES_MAX} visible ASCII characters; got {:?}", node.name),
        );
    }
    if node.coordinators.is_empty() {
        return wrong("coordinators", "must name at least one".to_owned());
    }
    for address in &node.coordinators {
        let port = address
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty())
            .and_then(|(_, p)| p.parse().ok());
        if port.is_none_or(|p: u16| p == 0) {
            return wrong("coordinators", format!("must be host:port; got {address:?}"));
        }
    }
    Ok(())
}

fn cluster(name: Option<String>) -> Result<ClusterName, ConfigError> {
    let Some(name) = name else { return Ok(ClusterName::default()) };
    let wrong = |e: clarion_proto::error::InvalidField| ConfigError::Value {
        option: "cluster",
        problem: e.problem,
    };
    ClusterName::new(&name).map_err(wrong)
}

fn read(path: &Path) -> Result<File, ConfigError> {
    let wrong = |problem: String| ConfigError::File { path: path.to_owned(), problem };
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        wrong(format!("line {line}: {}", e.message().replace('\n', " ")))
    })
}

fn after_help() -> String {
    format!(
        "The environment variables https_proxy and no_proxy name the HTTP proxy for gateways, \
         unless the coordinator's configuration sets proxy for a gateway.\n\n{}",
        clarion_runtime::probe::HELP
    )
}

/// What clap says over several lines, without the usage and the hints.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().take_while(|l| !l.is_empty()).map(str::trim);
    let line = lines.collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").map_or(line.clone(), str::to_owned)
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// In Kubernetes the pod's name, which a StatefulSet keeps over restarts.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().take(NAME_BYTES_MAX).collect();
    if name.is_empty() { "shard".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn load(args: &[&str]) -> Result<Config, ConfigError> {
        Config::load(std::iter::once("shard").chain(args.iter().copied()).map(OsString::from))
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn defaults_stay_on_loopback() {
        let config = load(&[]).unwrap();
        assert!(!config.announce);
        let config = config.node;
        assert_eq!(config.listen.to_string(), "127.0.0.1:7500");
        assert_eq!(config.health_listen.to_string(), "127.0.0.1:7501");
        assert_eq!(config.coordinators, ["127.0.0.1:7402"]);
        assert!(config.cores >= 1 && !config.name.is_empty());
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_the_default() {
        let file = file(
            "listen = \"127.0.0.1:1\"\nname = \"from-file\"\ncoordinators = [\"a:1\", \
             \"b:2\"]\ncores = 3\n",
        );
        let config =
            load(&["--config", file.path().to_str().unwrap(), "--name", "from-flag", "--announce"])
                .unwrap();
        assert!(config.announce);
        let config = config.node;
        assert_eq!(config.listen.to_string(), "127.0.0.1:1");
        assert_eq!((config.name.as_str(), config.cores), ("from-flag", 3));
        assert_eq!(config.coordinators, ["a:1", "b:2"]);
    }

    #[test]
    fn every_problem_is_one_line_that_names_its_place() {
        let unknown = file("gateway = 1\n");
        let broken = file("cores = 2\nlisten = nonsense\n");
        let of = |f: &tempfile::NamedTempFile| f.path().to_str().unwrap().to_owned();
        for (args, part) in [
            (vec!["--cores", "0"], "cores: must be 1 to 1024; got 0"),
            (vec!["--cores", "many"], "--cores"),
            (vec!["--nothing"], "--nothing"),
            (vec!["--name", ""], "name"),
            (vec!["--cluster", "Prod"], "cluster: must begin with a letter a-z"),
            (vec!["--coordinators", "host-without-port"], "coordinators: must be host:port"),
            (vec!["--config", "/nowhere/at/all"], "configuration /nowhere/at/all: "),
            (vec!["--config", &of(&unknown)], "line 1: unknown field `gateway`"),
            (vec!["--config", &of(&broken)], "line 2: "),
        ] {
            let problem = load(&args).unwrap_err();
            assert!(!matches!(problem, ConfigError::Answered(_)));
            let problem = problem.to_string();
            assert!(problem.contains(part), "{args:?}: {problem}");
            assert_eq!(problem.lines().count(), 1, "{problem}");
        }
    }

    #[test]
    fn help_names_every_option_and_its_variable() {
        let Err(ConfigError::Answered(help)) = load(&["--help"]) else { panic!("no help") };
        for option in [
            "CONFIG",
            "LISTEN",
            "HEALTH_LISTEN",
            "CLUSTER",
            "NAME",
            "COORDINATORS",
            "CORES",
            "ANNOUNCE",
        ] {
            let flag = format!("--{}", option.to_lowercase().replace('_', "-"));
            assert!(
                help.contains(&flag) && help.contains(&format!("CLARION_SHARD_{option}")),
                "{option}:\n{help}"
            );
        }
    }
}
