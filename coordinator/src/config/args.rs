//! Every option in one table: its key, type, environment variable, default and help text.
//!
//! The table makes one struct, [`Args`]. clap fills the struct from the command line and the
//! environment (a flag overrides its variable), serde fills another from the file, and [`Options`]
//! merges the two. The defaults are the constants here: the help text shows them, and the
//! configuration uses them.

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
    store::{DATA_DIR, StoreText},
};
use crate::bands::{EDGES_M, STEP_M};

pub(super) const LISTEN: SocketAddr = loopback(7400);
pub(super) const HEALTH_LISTEN: SocketAddr = loopback(7401);
pub(super) const FEED_LISTEN: SocketAddr = loopback(7402);
pub(super) const NODES: &str = "127.0.0.1:7500";
pub(super) const NODES_MIN: usize = 1;
pub(super) const PARTITIONS: u16 = 64;
/// Default number of logs; in a cluster of fewer partitions, the number of partitions.
pub(super) const LOGS: u16 = 64;
pub(super) const EXERCISE_PREFIX: &str = "EXERCISE: ";
pub(super) const CONNECTIONS_MAX: usize = 1_024;
pub(super) const WATCHERS_MAX: usize = 8_192;
pub(super) const WATCHERS_PER_ALERT_MAX: usize = 2_048;
pub(super) const ALERTS_ACTIVE_MAX: usize = 64;
pub(super) const ADMISSIONS_MAX: usize = 256;
pub(super) const PLACE_SEEN_WITHIN_DAYS: u32 = 30;
/// Default for APNs: off, because APNs reports dead tokens itself.
pub(super) const REGISTRATION_EXPIRY_DAYS_APNS: u32 = 0;
/// Default for FCM: Google deletes a token that was not connected for 270 days (Firebase, "Best
/// practices for FCM registration token management").
pub(super) const REGISTRATION_EXPIRY_DAYS_FCM: u32 = 270;
pub(super) const STORE_BYTES_MAX: u64 = 4 << 30;
/// Default time between two snapshots: a node that starts reads ten minutes of changes behind one.
pub(super) const SNAPSHOT_EVERY_SECONDS: u64 = 600;
pub(super) const SNAPSHOT_KEEP_SECONDS: u64 = 3_600;
pub(super) const KEY_ROTATION_MINUTES: u32 = 60;
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
        /// Admit and plan alerts, and direct the shard nodes that send them.
        #[derive(Debug, Clone, Default, Parser, Deserialize)]
        #[command(name = "coordinator", version, disable_help_subcommand = true)]
        #[command(after_help = after_help())]
        #[serde(default, deny_unknown_fields)]
        pub struct Args {
            /// Configuration file in TOML; default: no file
            #[arg(long, env = "CLARION_CONFIG", value_name = "FILE")]
            #[serde(skip)]
            pub config: Option<PathBuf>,
            /// Print one JSON line with the bound addresses on standard output
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

        /// Every option as it was given: by flag, by environment or in the file.
        pub(super) struct Options {
            $(pub(super) $key: Given<$type>,)*
        }

        impl Options {
            /// Merges both sources: the command line and the environment override the file.
            pub(super) fn merge(flags: Args, file: Args) -> Self {
                Self { $($key: Given::of(stringify!($key), flags.$key, file.$key),)* }
            }
        }
    };
}

options! {
    listen: SocketAddr = LISTEN, "CLARION_LISTEN", "ADDRESS",
        "Address of the API; port 0 lets the system choose the port";
    health_listen: SocketAddr = HEALTH_LISTEN, "CLARION_HEALTH_LISTEN", "ADDRESS",
        "Address of grpc.health.v1, in plaintext";
    feed_listen: SocketAddr = FEED_LISTEN, "CLARION_FEED_LISTEN", "ADDRESS",
        "Address where shard nodes follow the logs; port 0 lets the system choose the port. For \
         nodes only: give it to each node with the node's option --coordinators";
    cluster: String = ClusterName::default(), "CLARION_CLUSTER", "NAME",
        "Name of the cluster; nodes of other clusters refuse this coordinator";
    #[arg(value_delimiter = ',')]
    nodes: Vec<String> = NODES, "CLARION_NODES", "HOST:PORT",
        "Addresses of shard nodes as host:port, separated by commas, or one DNS name for all nodes";
    nodes_min: usize = NODES_MIN, "CLARION_NODES_MIN", "N",
        "Minimum number of connected nodes before partitions are assigned, once for the cluster's \
         life; nodes that connect later get no partitions. Where addresses appear one by one (DNS, \
         Kubernetes), set the planned number of nodes";
    partitions: u16 = PARTITIONS, "CLARION_PARTITIONS", "N",
        "Number of partitions of the cluster, 1 to 4096, fixed for its life";
    logs: u16 = LOGS, "CLARION_LOGS", "N",
        "Number of logs of the cluster, 1 to the number of partitions, fixed for its life";
    device_key_file: PathBuf, "CLARION_DEVICE_KEY_FILE", "FILE",
        "File of 32 to 4096 bytes with the key that hashes device names other than UUIDs, and the \
         tokens of apps with IDENTITY_TOKEN; fixed for the cluster's life; default: a random key, \
         made once and kept in the data folder (--store memory: a key of this process)";
    #[arg(hide_env_values = true)]
    store: StoreText, "CLARION_STORE", "STORE",
        "Store of apps, alerts and devices: sqlite:PATH, postgres://USER@HOST:PORT/DATABASE, or \
         memory, which loses everything with the process; default: store.sqlite in the data folder";
    store_password_file: PathBuf, "CLARION_STORE_PASSWORD_FILE", "FILE",
        "File with the password of the PostgreSQL user, without the end of its line; default: the \
         server asks for no password";
    data_dir: PathBuf = DATA_DIR, "CLARION_DATA_DIR", "DIR",
        "Data folder, created with mode 0700 if it does not exist; one process uses it at a time. \
         Not used with --store memory, and not with another store, --device-key-file and --objects";
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    #[arg(value_parser = BoolishValueParser::new())]
    accept_lost_changes: bool, "CLARION_ACCEPT_LOST_CHANGES", "BOOL",
        "Start although the store has lost changes that were acknowledged; set it for one start, \
         after an error that says so; default: refuse to start";
    objects: String, "CLARION_OBJECTS", "PLACE",
        "Place of snapshots and of half of every data key: file:PATH, a folder that is created \
         with mode 0700 if it does not exist, or s3://BUCKET/PREFIX, with the variables \
         AWS_REGION, AWS_ENDPOINT, AWS_ACCESS_KEY_ID and others of Amazon's tools. The store cannot \
         be read without it. Default: the folder objects in the data folder; a store postgres:// \
         has no default (--store memory: memory)";
    key_rotation_minutes: u32 = KEY_ROTATION_MINUTES, "CLARION_KEY_ROTATION_MINUTES", "MINUTES",
        "Time between two data keys, in minutes, 1 to 1440. A key is erased when no batch and no \
         snapshot needs it, and with it what it sealed, in backups of the database, too; a longer \
         time delays that";
    exercise_prefix: String = quoted(EXERCISE_PREFIX), "CLARION_EXERCISE_PREFIX", "TEXT",
        "Prefix of the title of EXERCISE alerts, at most 64 bytes, not blank";
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    #[arg(value_parser = BoolishValueParser::new())]
    allow_live_without_identity: bool, "CLARION_ALLOW_LIVE_WITHOUT_IDENTITY", "BOOL",
        "Accept LIVE alerts, and EXERCISE alerts on live lanes, without authentication: every \
         caller who reaches the port can then alert real people; default: refuse them";
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    #[arg(value_parser = BoolishValueParser::new())]
    allow_small_audiences: bool, "CLARION_ALLOW_SMALL_AUDIENCES", "BOOL",
        "Accept regions under 1 km² and audiences under 100 devices: every caller who reaches the \
         port can then address, and count, single people; default: refuse them";
    connections_max: usize = CONNECTIONS_MAX, "CLARION_CONNECTIONS_MAX", "N",
        "Maximum number of connections to the API; lowered at startup if the limit of file \
         descriptors is too small";
    watchers_max: usize = WATCHERS_MAX, "CLARION_WATCHERS_MAX", "N",
        "Maximum number of WatchAlert streams; one client address may have half of them";
    watchers_per_alert_max: usize = WATCHERS_PER_ALERT_MAX,
        "CLARION_WATCHERS_PER_ALERT_MAX", "N",
        "Maximum number of WatchAlert streams on one alert; one client address may have half of \
         them";
    #[arg(value_delimiter = ',')]
    band_edges_meters: Vec<f64> = listed(&EDGES_M), "CLARION_BAND_EDGES_METERS", "METERS",
        "Outer edges of the first bands: distances from the place last seen, ascending, in meters; \
         narrower bands keep the order by distance more exactly and make larger plans";
    band_step_meters: f64 = STEP_M, "CLARION_BAND_STEP_METERS", "METERS",
        "Width of all further bands, in meters; at most 4,096 bands may cover half the globe";
    alerts_active_max: usize = ALERTS_ACTIVE_MAX, "CLARION_ALERTS_ACTIVE_MAX", "N",
        "Maximum number of active alerts; one client address may have created half of them";
    admissions_max: usize = ADMISSIONS_MAX, "CLARION_ADMISSIONS_MAX", "N",
        "Maximum number of alerts and previews in admission at once; one in 16 of them may have a \
         large region, a few MB each; one client address may have half of each";
    place_seen_within_days: u32 = PLACE_SEEN_WITHIN_DAYS, "CLARION_PLACE_SEEN_WITHIN_DAYS", "DAYS",
        "Largest age of a device's place for alerts that set none, in days, 1 to 400; 400 accepts \
         every place. Devices with an older place are left out until they report again";
    registration_expiry_days_apns: u32 = REGISTRATION_EXPIRY_DAYS_APNS,
        "CLARION_REGISTRATION_EXPIRY_DAYS_APNS", "DAYS",
        "Days after which an APNs registration expires if neither it nor its device's place was \
         observed, 30 to 3650; 0: never";
    registration_expiry_days_fcm: u32 = REGISTRATION_EXPIRY_DAYS_FCM,
        "CLARION_REGISTRATION_EXPIRY_DAYS_FCM", "DAYS",
        "Days after which an FCM registration expires if neither it nor its device's place was \
         observed, 30 to 3650; 0: never";
    store_bytes_max: u64 = STORE_BYTES_MAX, "CLARION_STORE_BYTES_MAX", "BYTES",
        "Limit of the logs, in bytes, in memory or on disk as the store is; the last 64 MiB (an \
         eighth of a small limit) are reserved for removals, mutes and dead tokens";
    snapshot_every_seconds: u64 = SNAPSHOT_EVERY_SECONDS, "CLARION_SNAPSHOT_EVERY_SECONDS",
        "SECONDS",
        "Time between two snapshots of a partition whose log grows, in seconds, 10 to 21600; 0: \
         nodes save none, and the logs are never trimmed. A node that starts loads the newest \
         snapshot and reads the log from there";
    snapshot_keep_seconds: u64 = SNAPSHOT_KEEP_SECONDS, "CLARION_SNAPSHOT_KEEP_SECONDS", "SECONDS",
        "Time for which a replaced snapshot and the log behind it are kept, in seconds, 60 to \
         604800; the log is kept for less time while the logs fill more than half of \
         --store-bytes-max. A node that needs longer to load a snapshot must start over";
    drain_deadline_ms: u64 = DRAIN_DEADLINE_MS, "CLARION_DRAIN_DEADLINE_MS", "MS",
        "Time limit of a graceful shutdown, in milliseconds, 1 to 600000";
    gateways: Tables<GatewayTable>, "CLARION_GATEWAYS", "TOML",
        "Gateways as a TOML array of tables, such as [{name=\"apns\",platform=\"apns\",…}]; \
         default: none";
    credentials: Tables<CredentialTable>, "CLARION_CREDENTIALS", "TOML",
        "Credentials as a TOML array of tables; default: none";
}

fn after_help() -> String {
    format!(
        "Every option can be given by flag, by environment or in the file. A flag overrides the \
         environment, and the environment overrides the file. The keys of the file are the names \
         of the flags with underscores.\n\n\
         The environment variables https_proxy and no_proxy name the HTTP proxy for Google's \
         endpoints, unless a credential sets proxy. A credential with application_default = true \
         follows GOOGLE_APPLICATION_CREDENTIALS, CLOUDSDK_CONFIG and GCE_METADATA_HOST.\n\n\
         `coordinator import --help` explains the import of devices from files.\n\n{}",
        clarion_runtime::probe::HELP
    )
}

/// Formats a default for the help text.
fn shown(default: &dyn Display) -> String {
    default.to_string()
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn listed(numbers: &[f64]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
