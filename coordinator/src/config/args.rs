//! Every option in one table: its key, type, environment variable, default and help text.
//!
//! The table makes one struct, [`Args`]. clap fills it from the command line and the environment (a
//! flag beats its variable), serde fills it from the file, and [`Options`] puts the two together.
//! The defaults are the constants here: the help text shows them, and the configuration uses them.

use std::{
    fmt::Display,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
};

use clap::{Parser, builder::BoolishValueParser};
use clarion_proto::ids::ClusterName;
use serde::Deserialize;

use super::{
    credentials::CredentialTable,
    given::{Given, Tables},
    lanes::GatewayTable,
};
use crate::bands::{EDGES_M, STEP_M};

pub(super) const LISTEN: SocketAddr = loopback(7400);
pub(super) const HEALTH_LISTEN: SocketAddr = loopback(7401);
pub(super) const FEED_LISTEN: SocketAddr = loopback(7402);
pub(super) const NODES: &str = "127.0.0.1:7500";
pub(super) const NODES_MIN: usize = 1;
pub(super) const PARTITIONS: u16 = 64;
/// Fewer in a cluster of fewer partitions.
pub(super) const LOGS: u16 = 64;
pub(super) const EXERCISE_PREFIX: &str = "EXERCISE: ";
pub(super) const CONNECTIONS_MAX: usize = 1_024;
pub(super) const WATCHERS_MAX: usize = 8_192;
pub(super) const WATCHERS_PER_ALERT_MAX: usize = 2_048;
pub(super) const ALERTS_ACTIVE_MAX: usize = 64;
pub(super) const ADMISSIONS_MAX: usize = 32;
pub(super) const STORE_BYTES_MAX: u64 = 4 << 30;
pub(super) const DRAIN_DEADLINE_MS: u64 = 10_000;

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

/// A row is `key: type [= default], "environment variable", "value name", "help";`.
macro_rules! options {
    ($(
        $(#[$more:meta])*
        $key:ident: $type:ty $(= $default:expr)?, $env:literal, $value:literal, $help:literal;
    )*) => {
        /// Admits alerts, plans them, and directs shard nodes that send them.
        #[derive(Debug, Clone, Default, Parser, Deserialize)]
        #[command(name = "coordinator", version, disable_help_subcommand = true)]
        #[command(after_help = after_help())]
        #[serde(default, deny_unknown_fields)]
        pub struct Args {
            /// Configuration file, TOML.
            #[arg(long, env = "CLARION_CONFIG", value_name = "FILE")]
            #[serde(skip)]
            pub config: Option<PathBuf>,
            /// Print one JSON line with the bound addresses on standard output.
            #[arg(long)]
            #[serde(skip)]
            pub announce: bool,
            $(
                #[doc = $help]
                #[arg(long, env = $env, value_name = $value)]
                $(#[arg(help = format!("{} [default: {}]", $help, shown(&$default)))])?
                $(#[$more])*
                pub $key: Option<$type>,
            )*
        }

        /// Every option as it was given, by flag, by environment or in the file.
        pub(super) struct Options {
            $(pub(super) $key: Given<$type>,)*
        }

        impl Options {
            /// What the command line and the environment say beats what the file says.
            pub(super) fn merge(flags: Args, file: Args) -> Self {
                Self { $($key: Given::of(stringify!($key), flags.$key, file.$key),)* }
            }
        }
    };
}

options! {
    listen: SocketAddr = LISTEN, "CLARION_LISTEN", "ADDRESS",
        "Where the API is served; port 0 lets the system choose";
    health_listen: SocketAddr = HEALTH_LISTEN, "CLARION_HEALTH_LISTEN", "ADDRESS",
        "Where health is served in plaintext";
    feed_listen: SocketAddr = FEED_LISTEN, "CLARION_FEED_LISTEN", "ADDRESS",
        "Where shard nodes follow the logs; port 0 lets the system choose. For nodes only: a node \
         is told this address with --coordinators";
    cluster: String = ClusterName::default(), "CLARION_CLUSTER", "NAME",
        "Name of the cluster: nodes of another cluster refuse this coordinator";
    #[arg(value_delimiter = ',')]
    nodes: Vec<String> = NODES, "CLARION_NODES", "HOST:PORT",
        "Shard nodes as host:port, or one name that resolves to all";
    nodes_min: usize = NODES_MIN, "CLARION_NODES_MIN", "N",
        "Minimum number of connected nodes before partitions are assigned, once for the cluster's \
         life. Where addresses come one by one (DNS, Kubernetes): as many as there are to be";
    partitions: u16 = PARTITIONS, "CLARION_PARTITIONS", "N",
        "Partitions of the cluster, fixed for its life";
    logs: u16 = LOGS, "CLARION_LOGS", "N", "Logs of the cluster, fixed for its life";
    device_key_file: PathBuf, "CLARION_DEVICE_KEY_FILE", "FILE",
        "File of 32 to 4096 bytes: the key that makes ids of devices that are no UUIDs. Without it \
         the key is random, and such devices are unknown after a restart";
    exercise_prefix: String = quoted(EXERCISE_PREFIX), "CLARION_EXERCISE_PREFIX", "TEXT",
        "What an EXERCISE says in front of its title";
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    #[arg(value_parser = BoolishValueParser::new())]
    allow_live_without_identity: bool, "CLARION_ALLOW_LIVE_WITHOUT_IDENTITY", "BOOL",
        "Take LIVE alerts, and EXERCISE alerts on live lanes, although no identity is configured: \
         whoever reaches the port can alert real people";
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    #[arg(value_parser = BoolishValueParser::new())]
    allow_small_audiences: bool, "CLARION_ALLOW_SMALL_AUDIENCES", "BOOL",
        "Take regions under 1 km² and audiences under 100 devices: whoever reaches the port can \
         then address, and count, so few that they are known";
    connections_max: usize = CONNECTIONS_MAX, "CLARION_CONNECTIONS_MAX", "N",
        "Connections to the API at a time; fewer where the limit of file descriptors allows no \
         more";
    watchers_max: usize = WATCHERS_MAX, "CLARION_WATCHERS_MAX", "N",
        "Streams of WatchAlert at a time; of one address at most half of them";
    watchers_per_alert_max: usize = WATCHERS_PER_ALERT_MAX,
        "CLARION_WATCHERS_PER_ALERT_MAX", "N",
        "Streams of WatchAlert on one alert at a time; of one address at most half of them";
    #[arg(value_delimiter = ',')]
    band_edges_meters: Vec<f64> = listed(&EDGES_M), "CLARION_BAND_EDGES_METERS", "METERS",
        "Outer edges of the first bands";
    band_step_meters: f64 = STEP_M, "CLARION_BAND_STEP_METERS", "METERS",
        "Width of all further bands";
    alerts_active_max: usize = ALERTS_ACTIVE_MAX, "CLARION_ALERTS_ACTIVE_MAX", "N",
        "Alerts active at once; created by one address at most half of them";
    admissions_max: usize = ADMISSIONS_MAX, "CLARION_ADMISSIONS_MAX", "N",
        "Alerts and previews in admission at once; of one address at most half of them";
    store_bytes_max: u64 = STORE_BYTES_MAX, "CLARION_STORE_BYTES_MAX", "BYTES",
        "Bytes the logs in memory may hold; the last 64 MiB of them (of a small limit an eighth) \
         are kept for removals, mutes and what gateways say of dead tokens";
    drain_deadline_ms: u64 = DRAIN_DEADLINE_MS, "CLARION_DRAIN_DEADLINE_MS", "MS",
        "How long a graceful shutdown may take, in milliseconds";
    gateways: Tables<GatewayTable>, "CLARION_GATEWAYS", "TOML",
        "Gateways as a TOML array of tables, such as [{name=\"apns\",platform=\"apns\",…}]";
    credentials: Tables<CredentialTable>, "CLARION_CREDENTIALS", "TOML",
        "Credentials as a TOML array of tables";
}

fn after_help() -> String {
    format!(
        "Every option can be given by flag, by environment or in the file; a flag beats the \
         environment, the environment beats the file. Keys of the file are the flags' names with \
         underscores.\n\n{}",
        clarion_runtime::probe::HELP
    )
}

/// A default as the help text shows it.
fn shown(default: &dyn Display) -> String {
    default.to_string()
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn listed(numbers: &[f64]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
