//! The command line; `--help` is made from it. clap reads the environment too, so a flag beats it by itself.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, builder::BoolishValueParser};

/// Admits alerts, plans them, and directs shard nodes that send them.
#[derive(Debug, Clone, Default, Parser)]
#[command(name = "coordinator", version, disable_help_subcommand = true)]
#[command(
    after_help = format!("Every option can be given by flag, by environment or in the file; a flag beats the environment, \
the environment beats the file. Keys of the file are the flags' names with underscores.\n\n{}", clarion_runtime::probe::HELP)
)]
pub struct Args {
    /// Configuration file, TOML.
    #[arg(long, env = "CLARION_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON line with the bound addresses on standard output.
    #[arg(long)]
    pub announce: bool,
    /// Where the API is served [default: 127.0.0.1:7400]; port 0 lets the system choose.
    #[arg(long, env = "CLARION_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Where health is served in plaintext [default: 127.0.0.1:7401].
    #[arg(long, env = "CLARION_HEALTH_LISTEN", value_name = "ADDRESS")]
    pub health_listen: Option<SocketAddr>,
    /// Where shard nodes follow the logs [default: 127.0.0.1:7402]; port 0 lets the system choose. For nodes only: a node
    /// is told this address with --coordinators.
    #[arg(long, env = "CLARION_FEED_LISTEN", value_name = "ADDRESS")]
    pub feed_listen: Option<SocketAddr>,
    /// Name of the cluster: nodes of another cluster refuse this coordinator [default: clarion].
    #[arg(long, env = "CLARION_CLUSTER", value_name = "NAME")]
    pub cluster: Option<String>,
    /// Shard nodes as host:port, or one name that resolves to all [default: 127.0.0.1:7500].
    #[arg(long, env = "CLARION_NODES", value_name = "HOST:PORT", value_delimiter = ',')]
    pub nodes: Option<Vec<String>>,
    /// Shard nodes that must be there before partitions are shared out, once for the cluster's life [default: 1]. Where
    /// addresses come one by one (DNS, Kubernetes): as many as there are to be.
    #[arg(long, env = "CLARION_NODES_MIN", value_name = "N")]
    pub nodes_min: Option<usize>,
    /// Partitions of the cluster, fixed for its life [default: 64].
    #[arg(long, env = "CLARION_PARTITIONS", value_name = "N")]
    pub partitions: Option<u16>,
    /// Logs of the cluster, fixed for its life [default: 64].
    #[arg(long, env = "CLARION_LOGS", value_name = "N")]
    pub logs: Option<u16>,
    /// File of 32 to 4096 bytes: the key that makes ids of devices that are no UUIDs. Without it a random one, and such
    /// devices are strangers after a restart.
    #[arg(long, env = "CLARION_DEVICE_KEY_FILE", value_name = "FILE")]
    pub device_key_file: Option<PathBuf>,
    /// What an EXERCISE says in front of its title [default: "EXERCISE: "].
    #[arg(long, env = "CLARION_EXERCISE_PREFIX", value_name = "TEXT")]
    pub exercise_prefix: Option<String>,
    /// Take LIVE alerts, and EXERCISE alerts on live lanes, although no identity is configured: whoever reaches the port can
    /// alert real people.
    #[arg(long, env = "CLARION_ALLOW_LIVE_WITHOUT_IDENTITY", value_name = "BOOL", num_args = 0..=1,
        default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub allow_live_without_identity: Option<bool>,
    /// Take regions under 1 km² and audiences under 100 devices: whoever reaches the port can then address, and count, so
    /// few that they are known.
    #[arg(long, env = "CLARION_ALLOW_SMALL_AUDIENCES", value_name = "BOOL", num_args = 0..=1,
        default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub allow_small_audiences: Option<bool>,
    /// Connections to the API at a time [default: 1024]; fewer where the limit of file descriptors allows no more.
    #[arg(long, env = "CLARION_CONNECTIONS_MAX", value_name = "N")]
    pub connections_max: Option<usize>,
    /// Streams of WatchAlert at a time [default: 8192]; of one address at most half of them.
    #[arg(long, env = "CLARION_WATCHERS_MAX", value_name = "N")]
    pub watchers_max: Option<usize>,
    /// Streams of WatchAlert on one alert at a time [default: 2048]; of one address at most half of them.
    #[arg(long, env = "CLARION_WATCHERS_PER_ALERT_MAX", value_name = "N")]
    pub watchers_per_alert_max: Option<usize>,
    /// Outer edges of the first bands [default: 1000,2000,5000,10000,20000].
    #[arg(long, env = "CLARION_BAND_EDGES_METERS", value_name = "METERS", value_delimiter = ',')]
    pub band_edges_meters: Option<Vec<f64>>,
    /// Width of all further bands [default: 10000].
    #[arg(long, env = "CLARION_BAND_STEP_METERS", value_name = "METERS")]
    pub band_step_meters: Option<f64>,
    /// Alerts active at once [default: 64]; created by one address at most half of them.
    #[arg(long, env = "CLARION_ALERTS_ACTIVE_MAX", value_name = "N")]
    pub alerts_active_max: Option<usize>,
    /// Alerts and previews in admission at once [default: 32]; of one address at most half of them.
    #[arg(long, env = "CLARION_ADMISSIONS_MAX", value_name = "N")]
    pub admissions_max: Option<usize>,
    /// Bytes the logs in memory may hold [default: 4294967296]; the last 64 MiB of them (of a small limit an eighth) are kept
    /// for removals, mutes and what gateways say of dead tokens.
    #[arg(long, env = "CLARION_STORE_BYTES_MAX", value_name = "BYTES")]
    pub store_bytes_max: Option<u64>,
    /// How long a stop in order may take, in milliseconds [default: 10000].
    #[arg(long, env = "CLARION_DRAIN_DEADLINE_MS", value_name = "MS")]
    pub drain_deadline_ms: Option<u64>,
    /// Gateways as a TOML array of tables, such as [{name="apns",platform="apns",…}].
    #[arg(long, env = "CLARION_GATEWAYS", value_name = "TOML")]
    pub gateways: Option<String>,
    /// Credentials as a TOML array of tables.
    #[arg(long, env = "CLARION_CREDENTIALS", value_name = "TOML")]
    pub credentials: Option<String>,
}
